/*
 * The connections of a workload of long-lived streams: made once, not made again. A lost one ends
 * its streams, which the workload counts.
 */
#ifndef CONCLAVE_BENCH_SESSION_H
#define CONCLAVE_BENCH_SESSION_H

#include "bench/load.h"

struct http_client;
struct loop;
struct loop_timer;
struct session_client;

struct session {
    const struct load_options *options;
    struct loop *loop;
    struct tls_context *tls;
    struct session_client *clients;
    size_t client_count;
    struct loop_timer *stop;
    uint64_t begin_ns;
    uint64_t end_ns; /* of sending; 0: by count */
    uint64_t cpu_before_ns;
};

/* Begins to connect; calls may be made at once, they wait. 0 or a negative errno; closed either
 * way by session_close, which ends every call that is open (on_closed). */
int session_open(struct session *s, const struct load_options *options, size_t connections);
void session_close(struct session *s);
struct http_client *session_client(const struct session *s, size_t i); /* NULL: lost */

/* Starts the clock; on_tick is called every 100 ms, to see whether the run is over. */
void session_begin(struct session *s, void (*on_tick)(void *user), void *user);
/* The time to send is over, and so is patience with what has not been answered. */
bool session_stuck(const struct session *s, uint64_t now_ns);
/* Stops the clock: elapsed time up to last_ns, and CPU. */
void session_end(struct session *s, uint64_t last_ns, struct load_result *ret);

#endif
