/*
 * The listening sockets of clients. They belong to the supervisor for its whole life, so a restart of
 * gatewayd refuses no connection: those that arrive meanwhile wait in the backlog.
 */
#ifndef CONCLAVE_SUPERVISOR_LISTEN_H
#define CONCLAVE_SUPERVISOR_LISTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

struct settings;
struct url;

struct listener {
    int fd;
    char *url;
    char *path; /* of a socket in the file system, which is removed in the end; else NULL */
    ino_t inode;
};

struct listener_set {
    struct listener *items;
    size_t count;
};

/* One socket per distinct URL of listen-client-urls, listen-client-http-urls and listen-metrics-urls.
 * Marks say what one is for alone: "metrics+http://..."; "grpc+..." and "http+..." when clients' HTTP
 * has URLs of its own. Negative errno, and what
 * failed in *ret_why (free()); nothing stays open then. */
int listener_set_open(struct listener_set *set, const struct settings *s, char **ret_why);
/* False: not an address one can bind to, which is a literal IP or localhost (127.0.0.1, as in etcd). */
bool listener_address(const struct url *u, struct sockaddr_storage *ret, socklen_t *ret_len);
void listener_set_close(struct listener_set *set);

#endif
