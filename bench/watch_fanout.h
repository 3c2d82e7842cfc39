/*
 * Many watchers of one key, and one writer of it on a connection of its own. With --rate puts are
 * due at fixed times; without, each is sent when the last one has reached every watcher. A latency
 * is that from when a put was due to its last delivery.
 */
#ifndef CONCLAVE_BENCH_WATCH_FANOUT_H
#define CONCLAVE_BENCH_WATCH_FANOUT_H

#include "bench/load.h"

/* As load_run; options->watchers are spread over all streams. A put is counted when the last
 * watcher has it; a watch that the server ends is broken and ends the run. WORKLOAD_WATCH_IDLE
 * returns when `go` does: it puts nothing. */
int watch_fanout_run(const struct load_options *options, void (*go)(void *user), void *user,
                     struct load_result *ret);

#endif
