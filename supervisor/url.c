/*
 * The subset of URL syntax that listeners and members use. The checks come in the order in which
 * etcd makes them, because a wrong URL is often wrong in several ways and people search for the
 * text they know.
 */
#include "supervisor/url.h"

#include <arpa/inet.h>
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/buf.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

void url_fini(struct url *u)
{
    free(u->text);
    free(u->scheme);
    free(u->host);
    free(u->port);
    *u = (struct url){0};
}

bool url_is_unix(const struct url *u)
{
    return strcmp(u->scheme, "unix") == 0 || strcmp(u->scheme, "unixs") == 0;
}

/* Length of the scheme, 0 when there is none (RFC 3986 section 3.1). */
static size_t scheme_len(const char *s)
{
    for (size_t i = 0; s[i] != '\0'; i++) {
        unsigned char c = (unsigned char)s[i];

        if (isalpha(c) || (i > 0 && (isdigit(c) || c == '+' || c == '-' || c == '.')))
            continue;
        return c == ':' ? i : 0;
    }
    return 0;
}

static int why(char **ret_why, char *text)
{
    *ret_why = text;
    return -EINVAL;
}

/* Host and port of "[::1]:2379" or "host:2379". False: not of that form. */
static bool split_host_port(const char *address, char **ret_host, char **ret_port)
{
    const char *colon = strrchr(address, ':');
    const char *start = address, *end = colon;

    if (colon == NULL)
        return false;
    if (*address == '[') {
        start = address + 1;
        end = strchr(address, ']');
        if (end == NULL || end + 1 != colon)
            return false;
    } else if (memchr(address, ':', (size_t)(colon - address)) != NULL ||
               memchr(address, ']', (size_t)(colon - address)) != NULL) {
        return false;
    }
    *ret_host = xstrndup(start, (size_t)(end - start));
    *ret_port = xstrdup(colon + 1);
    return true;
}

static bool port_is_valid(const char *port)
{
    size_t len = strlen(port);

    return len > 0 && len <= 5 && strspn(port, "0123456789") == len && strtoul(port, NULL, 10) <= 65535;
}

static int parse_authority(const char *text, const char *rest, struct url *u, char **ret_why)
{
    size_t address_len = strcspn(rest, "/?#");
    CLEANUP(freep) char *address = xstrndup(rest, address_len);
    const char *bracket_end = strchr(address, ']');

    if (address[0] == '[' && bracket_end == NULL)
        return why(ret_why, xasprintf("parse \"%s\": missing ']' in host", text));
    if (strchr(address, '@') != NULL || !split_host_port(address, &u->host, &u->port) ||
        u->port[0] == '\0')
        return why(ret_why,
                   xasprintf("URL address does not have the form \"host:port\": %s", text));
    if (!port_is_valid(u->port))
        return why(ret_why,
                   xasprintf("parse \"%s\": invalid port \":%s\" after host", text, u->port));
    if (rest[address_len] != '\0')
        return why(ret_why, xasprintf("URL must not contain a path: %s", text));
    u->text = xasprintf("%s://%s", u->scheme, address);
    return 0;
}

int url_parse(const char *text, struct url *ret, char **ret_why)
{
    CLEANUP(url_fini) struct url u = {0};
    size_t len;
    const char *rest;
    int r;

    assert(text != NULL);
    for (const char *p = text; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return why(ret_why, xstrdup("net/url: invalid control character in URL"));
    }
    if (text[0] == ':')
        return why(ret_why, xasprintf("parse \"%s\": missing protocol scheme", text));
    len = scheme_len(text);
    if (len == 0 && text[0] != '/' && memchr(text, ':', strcspn(text, "/")) != NULL)
        return why(ret_why,
                   xasprintf("parse \"%s\": first path segment in URL cannot contain colon", text));
    u.scheme = xstrndup(text, len);
    for (char *p = u.scheme; *p != '\0'; p++)
        *p = (char)tolower((unsigned char)*p);
    rest = text + (len > 0 ? len + 1 : 0);
    if (url_is_unix(&u)) {
        u.host = xstrdup(strncmp(rest, "//", 2) == 0 ? rest + 2 : rest);
        u.port = xstrdup("");
        u.text = xasprintf("%s:%s", u.scheme, rest);
    } else {
        if (strcmp(u.scheme, "http") != 0 && strcmp(u.scheme, "https") != 0)
            return why(ret_why,
                       xasprintf("URL scheme must be http, https, unix, or unixs: %s", text));
        if (strncmp(rest, "//", 2) != 0)
            return why(ret_why,
                       xasprintf("URL address does not have the form \"host:port\": %s", text));
        r = parse_authority(text, rest + 2, &u, ret_why);
        if (r < 0)
            return r;
    }
    *ret = u;
    u = (struct url){0};
    return 0;
}

static int compare_urls(const void *a, const void *b)
{
    return strcmp(((const struct url *)a)->text, ((const struct url *)b)->text);
}

int url_list_parse(const char *text, struct url_list *ret, char **ret_why)
{
    struct url_list l = {0};
    const char *p = text;

    for (;;) {
        size_t len = strcspn(p, ",");
        const char *start = p, *end = p + len;
        CLEANUP(freep) char *item = NULL;
        int r;

        while (start < end && isspace((unsigned char)*start))
            start++;
        while (end > start && isspace((unsigned char)end[-1]))
            end--;
        item = xstrndup(start, (size_t)(end - start));
        l.items = xreallocarray(l.items, l.count + 1, sizeof(*l.items));
        r = url_parse(item, &l.items[l.count], ret_why);
        if (r < 0) {
            url_list_fini(&l);
            return r;
        }
        l.count++;
        if (p[len] == '\0')
            break;
        p += len + 1;
    }
    qsort(l.items, l.count, sizeof(*l.items), compare_urls);
    *ret = l;
    return 0;
}

void url_list_fini(struct url_list *l)
{
    for (size_t i = 0; i < l->count; i++)
        url_fini(&l->items[i]);
    free(l->items);
    *l = (struct url_list){0};
}

char *url_list_join(const struct url_list *l)
{
    struct buf b = BUF_INIT;

    for (size_t i = 0; i < l->count; i++)
        buf_appendf(&b, "%s%s", i > 0 ? "," : "", l->items[i].text);
    buf_append_u8(&b, '\0');
    return (char *)b.data;
}

bool url_bind_address(const struct url *u, struct sockaddr_storage *ret, socklen_t *ret_len)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    uint16_t port = htons((uint16_t)strtoul(u->port, NULL, 10));
    const char *host = strcmp(u->host, "localhost") == 0 ? "127.0.0.1" : u->host;

    *ret = (struct sockaddr_storage){0};
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        v4.sin_port = port;
        memcpy(ret, &v4, sizeof(v4));
        *ret_len = sizeof(v4);
        return true;
    }
    if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1) {
        v6.sin6_port = port;
        memcpy(ret, &v6, sizeof(v6));
        *ret_len = sizeof(v6);
        return true;
    }
    return false;
}
