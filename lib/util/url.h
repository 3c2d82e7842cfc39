/*
 * The URLs of members: "scheme://host:port" and comma lists of them, as etcd takes them. No path,
 * a port is required, IPv6 hosts are in brackets. unix:// and unixs:// have no further rules.
 */
#ifndef CONCLAVE_UTIL_URL_H
#define CONCLAVE_UTIL_URL_H

#include <stdbool.h>
#include <stddef.h>
#include "lib/util/bytes.h"

enum { URL_LIST_MAX = 64, URL_BYTES_MAX = 1024 };

struct url {
    char *text;   /* without surrounding blanks, the scheme in lower case */
    char *scheme; /* http, https, unix, unixs */
    char *host;   /* without brackets; for unix: the path */
    char *port;   /* "" for unix */
};
/* 0, or -EINVAL with *ret_error (free()) in etcd's words, which name the text. */
int url_parse(struct bytes text, struct url *ret, char **ret_error);
void url_fini(struct url *u);
/* The host to resolve: u->host, but 127.0.0.1 for localhost, which a bare machine cannot resolve and
 * another resolves to ::1 first. */
const char *url_dial_host(const struct url *u);

/* A list keeps its texts sorted, as etcd does, and without duplicates. */
struct url_list {
    char **items;
    size_t count;
};
/* "a,b": 0, or -EINVAL as above ("no valid URLs given" when empty). */
int url_list_parse(struct bytes text, struct url_list *ret, char **ret_error);
/* Takes texts as they are, unchecked: for what another member or this one has validated before. */
void url_list_split(struct bytes text, struct url_list *ret);
void url_list_add(struct url_list *l, struct bytes text);
void url_list_fini(struct url_list *l);
bool url_list_eq(const struct url_list *a, const struct url_list *b);
char *url_list_join(const struct url_list *l); /* comma-separated; free() */

#endif
