/*
 * What must hold when a member is born, that is when it has no log yet: the initial cluster names it,
 * with the URLs it advertises, and no two members share a URL. Later starts take the membership from
 * the data directory and do not look at these settings.
 */
#include "supervisor/settings.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "lib/util/xmalloc.h"

struct cluster_url {
    char *name;
    struct url url;
};

struct cluster {
    struct cluster_url *items;
    size_t count;
};

static void cluster_fini(struct cluster *c)
{
    for (size_t i = 0; i < c->count; i++) {
        free(c->items[i].name);
        url_fini(&c->items[i].url);
    }
    free(c->items);
    *c = (struct cluster){0};
}

static int compare_items(const void *a, const void *b)
{
    const struct cluster_url *x = a, *y = b;
    int r = strcmp(x->name, y->name);

    return r != 0 ? r : strcmp(x->url.text, y->url.text);
}

static int cluster_parse(const char *text, struct cluster *c, char **ret_why)
{
    CLEANUP(freep) char *copy = xstrdup(text);
    char *rest = copy, *item;

    while ((item = strsep(&rest, ",")) != NULL) {
        char *eq = strchr(item, '=');

        if (*item == '\0')
            continue;
        if (eq != NULL)
            *eq = '\0';
        c->items = xreallocarray(c->items, c->count + 1, sizeof(*c->items));
        c->items[c->count] = (struct cluster_url){.name = xstrdup(item)};
        if (url_parse(bytes_str(eq != NULL ? eq + 1 : ""), &c->items[c->count++].url, ret_why) < 0)
            return -EINVAL;
    }
    if (c->count > 1)
        qsort(c->items, c->count, sizeof(*c->items), compare_items);
    return 0;
}

/* "a=http://x:1,b=http://y:1", only those of `name` unless that is NULL. */
static char *cluster_join(const struct cluster *c, const char *name)
{
    struct buf b = BUF_INIT;

    for (size_t i = 0; i < c->count; i++) {
        if (name == NULL || strcmp(c->items[i].name, name) == 0)
            buf_appendf(&b, "%s%s=%s", b.len > 0 ? "," : "", c->items[i].name,
                        c->items[i].url.text);
    }
    buf_append_u8(&b, '\0');
    return (char *)b.data;
}

static bool has_duplicate_url(const struct cluster *c)
{
    for (size_t i = 0; i < c->count; i++) {
        for (size_t k = 0; k < i; k++) {
            if (strcmp(c->items[i].url.text, c->items[k].url.text) == 0)
                return true;
        }
    }
    return false;
}

/* Both name the same place: same text, or same port and one address in common. */
static bool same_place(const struct url *a, const struct url *b)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *x = NULL, *y = NULL;
    bool same = false;

    if (strcmp(a->text, b->text) == 0)
        return true;
    if (strcmp(a->scheme, b->scheme) != 0 || strcmp(a->port, b->port) != 0)
        return false;
    if (getaddrinfo(url_dial_host(a), NULL, &hints, &x) == 0 &&
        getaddrinfo(url_dial_host(b), NULL, &hints, &y) == 0) {
        for (const struct addrinfo *i = x; i != NULL && !same; i = i->ai_next) {
            for (const struct addrinfo *k = y; k != NULL && !same; k = k->ai_next)
                same = i->ai_addrlen == k->ai_addrlen &&
                       memcmp(i->ai_addr, k->ai_addr, i->ai_addrlen) == 0;
        }
    }
    if (x != NULL)
        freeaddrinfo(x);
    if (y != NULL)
        freeaddrinfo(y);
    return same;
}

static int check_advertised(const struct settings *s, const struct cluster *c, const char *name,
                            struct settings_error *e)
{
    CLEANUP(setting_urls_fini) struct setting_urls own =
        settings_urls(s, "initial-advertise-peer-urls");
    const char *advertised = settings_text(s, "initial-advertise-peer-urls");
    CLEANUP(freep) char *initial = cluster_join(c, name);

    for (size_t i = 0; i < c->count; i++) {
        bool found = strcmp(c->items[i].name, name) != 0;

        for (size_t k = 0; k < own.count && !found; k++)
            found = same_place(&c->items[i].url, &own.items[k]);
        if (!found)
            return settings_error_set(
                e, 1,
                "--initial-cluster has %s=%s but missing from --initial-advertise-peer-urls=%s "
                "(that URL is not advertised)\n"
                "forgot to set --initial-cluster flag?\n"
                "forgot to set --initial-advertise-peer-urls flag?",
                name, c->items[i].url.text, advertised);
    }
    for (size_t k = 0; k < own.count; k++) {
        bool found = false;

        for (size_t i = 0; i < c->count && !found; i++)
            found = strcmp(c->items[i].name, name) == 0 &&
                    same_place(&c->items[i].url, &own.items[k]);
        if (!found)
            return settings_error_set(e, 1,
                                      "--initial-advertise-peer-urls has %s but missing from "
                                      "--initial-cluster=%s",
                                      own.items[k].text, initial);
    }
    return 0;
}

int settings_check_birth(const struct settings *s, struct settings_error *e)
{
    const char *name = settings_text(s, "name");
    bool joins = strcmp(settings_text(s, "initial-cluster-state"), "existing") == 0;
    CLEANUP(cluster_fini) struct cluster c = {0};
    CLEANUP(freep) char *why = NULL;
    bool found = false;

    if (cluster_parse(settings_text(s, "initial-cluster"), &c, &why) < 0)
        return settings_error_at(s, "initial-cluster", e, "error setting up initial cluster: %s",
                                 why);
    if (c.count == 0)
        return settings_error_at(s, "initial-cluster", e,
                                 "initial cluster unset and no discovery endpoints found");
    for (size_t i = 0; i < c.count; i++)
        found = found || strcmp(c.items[i].name, name) == 0;
    if (!found)
        return settings_error_at(s, "initial-cluster", e,
                                 "couldn't find local name \"%s\" in the initial cluster "
                                 "configuration",
                                 name);
    if (!joins && check_advertised(s, &c, name, e) < 0)
        return -EINVAL;
    if (has_duplicate_url(&c)) {
        CLEANUP(freep) char *all = cluster_join(&c, NULL);

        return settings_error_at(s, "initial-cluster", e, "initial cluster %s has duplicate url",
                                 all);
    }
    return 0;
}
