#include "lib/util/url.h"

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

int url_parse(struct bytes raw, struct url *ret, char **ret_error)
{
    static const char form[] = "URL address does not have the form \"host:port\"";
    struct bytes v = trim(raw);
    CLEANUP(freep) char *text = xstrndup((const char *)v.data, MIN(v.len, (size_t)URL_BYTES_MAX));
    const char *sep = strstr(text, "://"), *rest, *end, *colon;
    bool is_unix;

    if (v.len > URL_BYTES_MAX || strlen(text) != v.len)
        return refuse(ret_error, "URL is too long or not text", text);
    if (sep == NULL)
        return refuse(ret_error, "URL scheme must be http, https, unix, or unixs", text);
    CLEANUP(freep) char *scheme = xstrndup(text, (size_t)(sep - text));
    is_unix = strcmp(scheme, "unix") == 0 || strcmp(scheme, "unixs") == 0;
    if (!is_unix && strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)
        return refuse(ret_error, "URL scheme must be http, https, unix, or unixs", text);
    rest = sep + 3;
    if (is_unix) {
        *ret = (struct url){
            .text = xstrdup(text), .scheme = TAKE(scheme), .host = xstrdup(rest), .port = xstrdup("")};
        return 0;
    }
    end = rest + strcspn(rest, "/?#");
    if (*rest == '[') {
        colon = strchr(rest, ']');
        colon = colon != NULL && colon < end && colon[1] == ':' ? colon + 1 : NULL;
    } else {
        colon = memchr(rest, ':', (size_t)(end - rest));
        if (colon != NULL && memchr(colon + 1, ':', (size_t)(end - colon - 1)) != NULL)
            colon = NULL;
    }
    if (colon == NULL)
        return refuse(ret_error, form, text);
    CLEANUP(freep) char *port = xstrndup(colon + 1, (size_t)(end - colon - 1));
    if (!port_valid(port))
        return refuse(ret_error, form, text);
    if (*end != '\0')
        return refuse(ret_error, "URL must not contain a path", text);
    *ret = (struct url){
        .text = xstrdup(text),
        .scheme = TAKE(scheme),
        .host = *rest == '[' ? xstrndup(rest + 1, (size_t)(colon - rest - 2))
                             : xstrndup(rest, (size_t)(colon - rest)),
        .port = TAKE(port),
    };
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
