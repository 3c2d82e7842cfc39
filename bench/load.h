/*
 * One process's share of the load: connections, streams, when to send, and what came back.
 *
 * Closed loop: every stream has one request under way. Open loop (rate > 0): requests are due at
 * fixed times whatever the server does, and a latency counts from when the request was due, so a
 * server that stalls does not get its stall for free (no coordinated omission).
 */
#ifndef CONCLAVE_BENCH_LOAD_H
#define CONCLAVE_BENCH_LOAD_H

#include "bench/grpc_call.h"
#include "bench/histogram.h"
#include "bench/workload.h"

enum {
    LOAD_ENDPOINTS_MAX = 16,
    LOAD_STUCK_MS = 15 * 1000, /* after the end: what has no answer by then counts as broken */
};

struct tls_context;

struct load_endpoint {
    char host[64];
    uint16_t port;
};

struct load_options {
    struct load_endpoint endpoints[LOAD_ENDPOINTS_MAX];
    size_t endpoint_count;
    size_t connections;
    size_t streams;    /* per connection */
    uint64_t watchers; /* of all streams together */
    uint64_t total;    /* requests; 0: duration_ns */
    uint64_t duration_ns;
    double rate; /* per second; 0: closed loop */
    bool tls;
    const char *ca_file;              /* with tls: NULL: the system's authorities */
    const char *cert_file, *key_file; /* of a client certificate; or NULL */
    struct workload_options workload;
};

struct load_result {
    uint64_t outcomes[GRPC_OUTCOMES]; /* [0] is OK */
    uint64_t events;                  /* delivered to watchers */
    uint64_t bytes_in;                /* of messages */
    uint64_t elapsed_ns;              /* first request to last answer */
    uint64_t cpu_ns;                  /* of this process meanwhile */
    uint64_t late;                    /* open loop: requests that never got their turn */
    struct histogram latency;         /* of OK answers */
};

/* Connects, then calls go (which may wait for other processes), then runs to the end. 0, or a
 * negative errno when it could not connect (go is not called). */
int load_run(const struct load_options *options, void (*go)(void *user), void *user,
             struct load_result *ret);
/* For what connects: NULL in *ret without options->tls. 0, or a negative errno after saying why. */
int load_tls_new(const struct load_options *options, struct tls_context **ret);
uint64_t load_cpu_ns(void); /* of this process so far */

#endif
