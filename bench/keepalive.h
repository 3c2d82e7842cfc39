/*
 * Keep-alive streams: each has a lease of its own, granted before the run, and one request under
 * way. A latency is that of one request and its answer on an open stream.
 */
#ifndef CONCLAVE_BENCH_KEEPALIVE_H
#define CONCLAVE_BENCH_KEEPALIVE_H

#include "bench/load.h"

/* As load_run. An answer that says the lease is gone counts as NOT_FOUND. */
int keepalive_run(const struct load_options *options, void (*go)(void *user), void *user,
                  struct load_result *ret);

#endif
