/*
 * The watchers of one gatewayd (lib/proto/watch.h): who is told of which event.
 *
 * A watcher is a cursor over the revision log: every event of its range from `next` on, in order.
 * Watchers of one stream with the same range and flags and the same place share a cursor object
 * (struct watch_cohort). Those *at the head* stand, by definition, right behind the last revision
 * that was dispatched, so a new event touches only the cohorts it is for. A cohort whose stream is
 * out of credit, or that starts in the past, is *behind*: it reads the log in slices
 * (watch_history.c) until it stands at the head. There are no other states and no queues of events.
 *
 * Dispatch: the events since the last time are matched by range (watch_ranges.h), each is encoded
 * once, and one WATCH_EVENTS says who gets which. When the link takes no more, dispatch waits and
 * the next one covers more revisions.
 *
 * Results of the log's engine: negative errno, then the process must end. Loop thread only.
 */
#ifndef CONCLAVE_STORED_WATCH_H
#define CONCLAVE_STORED_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"

struct proto_watch_create;
struct watch_hub;
struct watch_log;

/* Where messages go: the link to the gatewayd. */
struct watch_sink {
    /* The body of a message is appended to what begin returns; NULL: nobody is there any more. */
    struct buf *(*begin)(void *user, uint16_t type, uint64_t id);
    void (*end)(void *user);
    bool (*writable)(void *user); /* false: nothing that can wait should be sent */
};

struct watch_hub_args {
    struct watch_log *log; /* borrowed, outlives the hub */
    const struct watch_sink *sink;
    void *user;
    size_t watchers_max;
    uint64_t window_units; /* of a stream: sent and not acknowledged */
    uint64_t all_units;    /* of all streams; above it each has the small window */
    uint64_t small_window_units;
    uint64_t stall_ms; /* without an acknowledgement, then its watchers are canceled */
};

struct watch_hub *watch_hub_new(const struct watch_hub_args *args);
void watch_hub_free(struct watch_hub *hub); /* NULL is fine */

/* The messages of gatewayd. */
void watch_hub_create(struct watch_hub *hub, uint32_t id, const struct proto_watch_create *m);
void watch_hub_refuse(struct watch_hub *hub, uint32_t id, int outcome); /* instead of create */
void watch_hub_cancel(struct watch_hub *hub, uint32_t id);
void watch_hub_close(struct watch_hub *hub, uint32_t stream);
void watch_hub_ack(struct watch_hub *hub, uint32_t stream, uint64_t units, uint64_t now_ms);
void watch_hub_progress(struct watch_hub *hub, uint32_t id, bool whole_stream);

/* After every turn that executed something: events go to those at the head; watchers behind a
 * compaction are canceled. 1: the clock said deadline_ns, call again; 0: that was all, or the link
 * takes no more. */
int watch_hub_dispatch(struct watch_hub *hub, uint64_t deadline_ns, uint64_t now_ms);
/* Slices for those behind, until the clock says deadline_ns. 1: there is more to do now; 0: not
 * before something happens (credit, a writable link, the engine has written). */
int watch_hub_work(struct watch_hub *hub, uint64_t deadline_ns, uint64_t now_ms);
/* The keyspace was replaced by a newer state: everybody goes on from where he stood. */
void watch_hub_restart(struct watch_hub *hub, uint64_t now_ms);
/* Every so often: tells the head, cancels the watchers of stalled streams. */
void watch_hub_tick(struct watch_hub *hub, uint64_t now_ms);

/* Events above this revision have to stay in the log's memory; INT64_MAX: none. */
int64_t watch_hub_needs_above(const struct watch_hub *hub);

struct watch_hub_stats {
    size_t watcher_count, stream_count, behind_count, range_count;
    uint64_t unacked_units; /* of all streams */
};
void watch_hub_get_stats(const struct watch_hub *hub, struct watch_hub_stats *ret);

#endif
