/*
 * URLs of listeners and members, by the rules etcd applies to them: scheme, host and port only.
 */
#ifndef CONCLAVE_SUPERVISOR_URL_H
#define CONCLAVE_SUPERVISOR_URL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

struct url {
    char *text;   /* normal form: scheme in lower case */
    char *scheme; /* http, https, unix, unixs */
    char *host;   /* without brackets; path for unix */
    char *port;   /* "" for unix */
};

struct url_list {
    struct url *items;
    size_t count;
};

/* 0, or -EINVAL with etcd's words in *ret_why (free()). */
int url_parse(const char *text, struct url *ret, char **ret_why);
void url_fini(struct url *u);

/* Comma list; blanks around each are dropped, the result is sorted by text. */
int url_list_parse(const char *text, struct url_list *ret, char **ret_why);
void url_list_fini(struct url_list *l);
char *url_list_join(const struct url_list *l); /* free() */

bool url_is_unix(const struct url *u);
/* An address one can bind to: a literal IP or localhost, which means 127.0.0.1 as in etcd. */
bool url_bind_address(const struct url *u, struct sockaddr_storage *ret, socklen_t *ret_len);

#endif
