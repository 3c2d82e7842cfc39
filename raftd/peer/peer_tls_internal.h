/*
 * For peer_tls.c (life, sockets that listen), peer_tls_link.c (one relayed connection) and
 * peer_tls_names.c (what needs a resolver). All of it is for the relay's thread, except where said.
 */
#ifndef CONCLAVE_RAFTD_PEER_TLS_INTERNAL_H
#define CONCLAVE_RAFTD_PEER_TLS_INTERNAL_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include "lib/loop/loop.h"
#include "lib/tls/tls.h"
#include "lib/util/buf.h"
#include "lib/util/list.h"
#include "lib/util/url.h"
#include "raftd/peer/peer_tls.h"

enum {
    PEER_TLS_CHUNK_BYTES = 64 * 1024,
    PEER_TLS_ROUNDS_MAX = 8,     /* chunks per turn and direction */
    PEER_TLS_TIMEOUT_MS = 5000,  /* resolve, connect, handshake, greeting: together */
    PEER_TLS_TURN_NS = 2000000,  /* of one turn for handshakes: strangers' must not hold up members */
    PEER_TLS_RETRY_MS = 400,     /* between handshakes that fail */
    PEER_TLS_LINGER_MS = 3000,   /* one side has ended, the other has not */
    PEER_TLS_STRANGERS_MAX = 128, /* accepted and not yet past the handshake; then the oldest goes */
    PEER_TLS_LINKS_MAX = 1024,
    PEER_TLS_ADDRESSES_MAX = 8,
    PEER_TLS_NAMES_MAX = 16,
};

/* A socket that listens: where members call (inbound), or where our own nng does. */
struct peer_tls_port {
    struct list link;
    struct peer_tls *t;
    bool inbound;
    int fd;
    struct loop_io *io;
    struct url url;   /* of this member, or of the one to reach */
    char *local_path; /* the private socket: nng's, or this one */
    uint64_t retry_ms; /* outbound: not before */
    bool failing;     /* outbound: the last try failed, and the log knows */
};

struct peer_tls {
    struct loop *loop;
    struct loop_wake *wake;
    struct loop_timer *timer;
    pthread_t thread;
    bool thread_runs;
    bool skip_san;
    char *run_dir;
    struct tls_context *server; /* NULL: no certificate, so nothing listens */
    struct tls_context *client;
    struct list ports; /* taken over by the relay's thread */
    struct list links;
    size_t link_count, stranger_count;
    uint64_t handshake_turn, handshake_ns; /* spent on handshakes in that turn */
    uint64_t rejected_log_ms, rejected_unlogged;
    uint8_t *chunk; /* PEER_TLS_CHUNK_BYTES */
    atomic_uint_fast64_t handshakes, failures, connections;

    /* the caller's thread */
    struct {
        char *url, *local_url;
    } *dialled;
    size_t dialled_count;
    unsigned int port_count;

    pthread_mutex_t lock; /* what follows */
    struct list fresh;    /* ports not taken over yet */
    bool accepting, stopping;
};

struct peer_tls_lookup;

/* Connections (peer_tls_link.c). Both take fd over. */
void peer_tls_link_accept(struct peer_tls_port *port, int fd, const struct sockaddr *from);
void peer_tls_links_tick(struct peer_tls *t);
void peer_tls_links_free(struct peer_tls *t);
struct peer_tls_link;
/* Answers of a lookup; never from within the call that started it. */
void peer_tls_link_on_addresses(struct peer_tls_link *l, const struct sockaddr_storage *addresses,
                                size_t count);
void peer_tls_link_on_names(struct peer_tls_link *l, bool matches);

/* peer_tls_names.c */
bool peer_tls_parse_address(const char *host, const char *port, struct sockaddr_storage *ret);
socklen_t peer_tls_address_len(const struct sockaddr_storage *a);
void peer_tls_format_address(const struct sockaddr_storage *a, char *to, size_t size); /* no port */
struct peer_tls_lookup *peer_tls_lookup_addresses(struct peer_tls *t, struct peer_tls_link *l,
                                                  const char *host, const char *port);
/* Does one of the names resolve to `from`? A name "*.example.com": does `from` resolve to it? */
struct peer_tls_lookup *peer_tls_lookup_names(struct peer_tls *t, struct peer_tls_link *l,
                                              char **names, size_t count,
                                              const struct sockaddr_storage *from);
void peer_tls_lookup_forget(struct peer_tls_lookup *lookup); /* its link is gone; NULL is fine */

#endif
