#include "lib/util/url.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

static struct bytes trim(struct bytes v)
{
    while (v.len != 0 && (v.data[0] == ' ' || v.data[0] == '\t')) {
        v.data++;
        v.len--;
    }
    while (v.len != 0 && (v.data[v.len - 1] == ' ' || v.data[v.len - 1] == '\t'))
        v.len--;
    return v;
}

static int refuse(char **ret_error, const char *what, const char *text)
{
    *ret_error = xasprintf("%s: %s", what, text);
    return -EINVAL;
}

/* What is not even a URL to Go is told in the words of its parser. */
static int refuse_parse(char **ret_error, const char *text, const char *why)
{
    *ret_error = xasprintf("parse \"%s\": %s", text, why);
    return -EINVAL;
}

static bool port_valid(const char *port)
{
    unsigned int v = 0;

    if (*port == '\0' || strlen(port) > 5)
        return false;
    for (const char *p = port; *p != '\0'; p++) {
        if (*p < '0' || *p > '9')
            return false;
        v = v * 10 + (unsigned int)(*p - '0');
    }
    return v <= 65535;
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

/* Host and port of "[::1]:2379" or "host:2379". False: not of that form. */
static bool split_host_port(const char *address, char **ret_host, char **ret_port)
{
    const char *colon = strrchr(address, ':');
    const char *start = address, *end = colon;

    if (colon == NULL || colon[1] == '\0')
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

/* The checks come in etcd's order: a wrong URL is often wrong in several ways, and people search for
 * the text they know. */
static int parse_authority(const char *text, const char *rest, struct url *u, char **ret_error)
{
    static const char form[] = "URL address does not have the form \"host:port\"";
    size_t address_len = strcspn(rest, "/?#");
    CLEANUP(freep) char *address = xstrndup(rest, address_len);

    if (address[0] == '[' && strchr(address, ']') == NULL)
        return refuse_parse(ret_error, text, "missing ']' in host");
    if (strchr(address, '@') != NULL || !split_host_port(address, &u->host, &u->port))
        return refuse(ret_error, form, text);
    if (strspn(u->port, "0123456789") != strlen(u->port)) {
        CLEANUP(freep) char *why = xasprintf("invalid port \":%s\" after host", u->port);

        return refuse_parse(ret_error, text, why);
    }
    if (!port_valid(u->port))
        return refuse(ret_error, form, text);
    if (rest[address_len] != '\0')
        return refuse(ret_error, "URL must not contain a path", text);
    u->text = xasprintf("%s://%s", u->scheme, address);
    return 0;
}

int url_parse(struct bytes raw, struct url *ret, char **ret_error)
{
    struct bytes v = trim(raw);
    CLEANUP(freep) char *text = xstrndup((const char *)v.data, MIN(v.len, (size_t)URL_BYTES_MAX));
    CLEANUP(url_fini) struct url u = {0};
    size_t len;
    const char *rest;
    int r;

    if (v.len > URL_BYTES_MAX || strlen(text) != v.len)
        return refuse(ret_error, "URL is too long or not text", text);
    for (const char *p = text; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return refuse_parse(ret_error, text, "invalid control character in URL");
    }
    len = scheme_len(text);
    if (text[0] == ':')
        return refuse_parse(ret_error, text, "missing protocol scheme");
    if (len == 0 && text[0] != '/' && memchr(text, ':', strcspn(text, "/")) != NULL)
        return refuse_parse(ret_error, text, "first path segment in URL cannot contain colon");
    u.scheme = xstrndup(text, len);
    for (char *p = u.scheme; *p != '\0'; p++)
        *p = (char)tolower((unsigned char)*p);
    rest = text + (len > 0 ? len + 1 : 0);
    if (strcmp(u.scheme, "unix") == 0 || strcmp(u.scheme, "unixs") == 0) {
        u.host = xstrdup(strncmp(rest, "//", 2) == 0 ? rest + 2 : rest);
        u.port = xstrdup("");
        u.text = xasprintf("%s:%s", u.scheme, rest);
    } else if (strcmp(u.scheme, "http") != 0 && strcmp(u.scheme, "https") != 0) {
        return refuse(ret_error, "URL scheme must be http, https, unix, or unixs", text);
    } else {
        r = parse_authority(text, strncmp(rest, "//", 2) == 0 ? rest + 2 : "", &u, ret_error);
        if (r < 0)
            return r;
    }
    *ret = u;
    u = (struct url){0};
    return 0;
}

void url_fini(struct url *u)
{
    free(u->text);
    free(u->scheme);
    free(u->host);
    free(u->port);
    *u = (struct url){0};
}

const char *url_dial_host(const struct url *u)
{
    return strcmp(u->host, "localhost") == 0 ? "127.0.0.1" : u->host;
}

void url_list_add(struct url_list *l, struct bytes text)
{
    char *item = xstrndup((const char *)text.data, text.len);
    size_t at = 0;

    while (at < l->count && strcmp(l->items[at], item) < 0)
        at++;
    if (at < l->count && strcmp(l->items[at], item) == 0) {
        free(item);
        return;
    }
    l->items = xreallocarray(l->items, l->count + 1, sizeof(*l->items));
    memmove(l->items + at + 1, l->items + at, (l->count - at) * sizeof(*l->items));
    l->items[at] = item;
    l->count++;
}

void url_list_fini(struct url_list *l)
{
    for (size_t i = 0; i < l->count; i++)
        free(l->items[i]);
    free(l->items);
    *l = (struct url_list){0};
}

/* Next comma-separated item; false at the end. */
static bool next_item(struct bytes *text, struct bytes *ret)
{
    const uint8_t *comma;

    if (text->len == 0)
        return false;
    comma = memchr(text->data, ',', text->len);
    if (comma == NULL) {
        *ret = trim(*text);
        text->len = 0;
        return true;
    }
    *ret = trim(bytes_of(text->data, (size_t)(comma - text->data)));
    text->len -= (size_t)(comma - text->data) + 1;
    text->data = comma + 1;
    return true;
}

void url_list_split(struct bytes text, struct url_list *ret)
{
    struct bytes item;

    *ret = (struct url_list){0};
    while (ret->count < URL_LIST_MAX && next_item(&text, &item)) {
        if (item.len != 0)
            url_list_add(ret, item);
    }
}

int url_list_parse(struct bytes text, struct url_list *ret, char **ret_error)
{
    struct url_list list = {0};
    struct bytes item;

    while (next_item(&text, &item)) {
        struct url u;
        int r = url_parse(item, &u, ret_error);

        if (r == 0 && list.count >= URL_LIST_MAX) {
            url_fini(&u);
            *ret_error = xstrdup("too many URLs");
            r = -EINVAL;
        }
        if (r != 0) {
            url_list_fini(&list);
            return r;
        }
        url_list_add(&list, bytes_str(u.text));
        url_fini(&u);
    }
    if (list.count == 0) {
        *ret_error = xstrdup("no valid URLs given");
        return -EINVAL;
    }
    *ret = list;
    return 0;
}

bool url_list_eq(const struct url_list *a, const struct url_list *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        if (strcmp(a->items[i], b->items[i]) != 0)
            return false;
    }
    return true;
}

char *url_list_join(const struct url_list *l)
{
    size_t len = 1;
    char *out, *p;

    for (size_t i = 0; i < l->count; i++)
        len += strlen(l->items[i]) + 1;
    out = p = xmalloc(len);
    for (size_t i = 0; i < l->count; i++) {
        if (i != 0)
            *p++ = ',';
        p = stpcpy(p, l->items[i]);
    }
    *p = '\0';
    return out;
}
