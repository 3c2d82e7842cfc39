/* Shared by watch.c (watchers, streams, cohorts), watch_dispatch.c (new events) and
 * watch_history.c (old ones). */
#ifndef CONCLAVE_STORED_WATCH_INTERNAL_H
#define CONCLAVE_STORED_WATCH_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include "lib/proto/watch.h"
#include "lib/util/buf.h"
#include "lib/util/hmap.h"
#include "lib/util/list.h"
#include "stored/kv/kv.h"
#include "stored/watch/watch.h"
#include "stored/watch/watch_log.h"
#include "stored/watch/watch_ranges.h"

enum { WATCH_GROUP_FLAGS = PROTO_WATCH_NO_PUT | PROTO_WATCH_NO_DELETE | PROTO_WATCH_PREV_KV };

/* Everybody who watches a range with the same flags. */
struct watch_group {
    struct watch_group *next; /* of the same range */
    struct watch_range *range;
    uint8_t flags;
    uint32_t number;
    size_t cohort_count; /* at the head and behind */
    struct list heads;   /* struct watch_cohort.node of those at the head */
    /* dispatch: places in the table of events */
    struct list touched_node;
    uint32_t *hits;
    size_t hit_count, hit_cap;
    size_t hit_bytes;
};

struct watch_stream {
    uint32_t number;
    struct list cohorts; /* all: struct watch_cohort.stream_node */
    struct list behind;  /* struct watch_cohort.node; the front is served next */
    struct list node;    /* in hub.runnable or hub.waiting, when there is one behind and credit */
    uint64_t sent_units, acked_units;
    uint64_t progress_ms; /* of the last acknowledgement, or when something was sent first */
};

/* Watchers of one group and stream with the same place. */
struct watch_cohort {
    struct list node; /* in group.heads or stream.behind */
    struct list stream_node;
    struct watch_group *group;
    struct watch_stream *stream;
    bool at_head;
    bool joined;    /* at the head and in hub.heads: its `next` is hub.head + 1 */
    bool part_open; /* a revision was sent in part */
    int64_t next;   /* at the head and not joined: nothing below it is wanted */
    uint32_t next_sub;
    uint32_t count, cap;
    uint32_t *ids; /* == &one when cap is 1 */
    uint32_t one;
};

struct watch_hub {
    struct watch_hub_args args;
    int64_t head;         /* the last revision that was dispatched */
    int64_t told;         /* head as gatewayd knows it */
    int64_t compacted;    /* behind ones were checked against this compact revision */
    struct hmap watchers; /* id -> cohort */
    struct hmap streams;
    struct hmap heads; /* group and stream number -> joined cohort */
    struct watch_ranges ranges;
    uint32_t last_group;
    struct list runnable, waiting; /* struct watch_stream.node; waiting: for the engine to write */
    size_t behind_count;           /* watchers */
    uint64_t unacked_units;
    uint64_t now_ms;

    /* dispatch */
    struct list touched, fell;
    uint64_t message_events; /* so many revisions' events are looked at for one message */
    struct buf table;        /* events of the message being made */
    uint32_t table_count;
    struct buf ids, prev, slice;
};

/* Has the stream room for more? */
static inline bool watch_stream_has_credit(const struct watch_hub *hub,
                                           const struct watch_stream *stream)
{
    uint64_t window = hub->unacked_units < hub->args.all_units ? hub->args.window_units
                                                               : hub->args.small_window_units;

    return stream->sent_units - stream->acked_units < window;
}
void watch_stream_charge(struct watch_hub *hub, struct watch_stream *stream, uint64_t units);
/* Puts the stream where its state belongs: runnable or nowhere. */
void watch_stream_schedule(struct watch_hub *hub, struct watch_stream *stream);

/* gatewayd learns where those at the head stand. */
void watch_hub_tell_head(struct watch_hub *hub);

/* The cohort leaves the head: it goes on at `next`. gatewayd is told. */
void watch_cohort_fall_behind(struct watch_hub *hub, struct watch_cohort *c, int64_t next);
/* It has caught up; it may be merged into another one and freed. */
void watch_cohort_join_head(struct watch_hub *hub, struct watch_cohort *c);
/* Its watchers beyond the first `keep` become a cohort of their own, at the same place. */
void watch_cohort_split(struct watch_hub *hub, struct watch_cohort *c, uint32_t keep);
/* All its watchers end. */
void watch_cohort_cancel(struct watch_hub *hub, struct watch_cohort *c, int outcome);

static inline bool watch_flags_want(uint8_t flags, bool is_delete)
{
    return (flags & (is_delete ? PROTO_WATCH_NO_DELETE : PROTO_WATCH_NO_PUT)) == 0;
}

/* One slice for a cohort that is behind, which may free it. 1: made progress; 0: it waits for the
 * engine to write; negative errno. */
int watch_history_step(struct watch_hub *hub, struct watch_cohort *c);

#endif
