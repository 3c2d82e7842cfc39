/*
 * Messages of watches between gatewayd and stored (types PROTO_WATCH_*, lib/proto/messages.h).
 *
 * stored owns the watchers, gatewayd the clients' streams. Both name a watcher and a stream by a
 * small number that gatewayd chooses; it uses one again only after stored has said WATCH_CANCELED
 * (a watcher), WATCH_CLOSED (a stream and all its watchers), or after the link broke, which ends
 * every watcher in stored. So nothing on its way can be taken for a successor.
 *
 * A watcher is *at the head*, or *behind*. Those at the head get new events by WATCH_EVENTS: each
 * event once, with lists of who gets which. One behind (it started in the past, or its stream is
 * out of credit) gets WATCH_HISTORY until it has caught up. gatewayd is told of every change from
 * one to the other, so it can say at any time from which revision a watcher has to go on: when the
 * link to stored breaks it creates every watcher again from there.
 *
 * Credit: every delivery costs its stream proto_watch_units. gatewayd tells with WATCH_ACK what of
 * them the client has taken. stored stops sending when too much is not acknowledged; the stream's
 * watchers are behind then.
 *
 * Event bytes are WatchResponse fields `events` (etcd rpc.proto: field 11 with its tag and
 * length), ready to be put into a response.
 */
#ifndef CONCLAVE_PROTO_WATCH_H
#define CONCLAVE_PROTO_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"
#include "lib/wire/wire.h"

enum {
    PROTO_WATCH_NO_PUT = 1, /* filters */
    PROTO_WATCH_NO_DELETE = 2,
    PROTO_WATCH_PREV_KV = 4,
    PROTO_WATCH_REFUSE = 8, /* the request is refused for a reason of gatewayd's: stored checks the
                               rights and tells the revision (outcome OUT_CANCELED), no more */
    PROTO_WATCH_AGAIN = 16, /* stored accepted it before: the identity may be older than the last
                               change of auth, the user's rights of now count */
    PROTO_WATCH_FLAGS = 31,
};
enum {
    PROTO_WATCH_DELIVERY_UNITS = 64,    /* a response around the events */
    PROTO_WATCH_ACK_STEP_UNITS = 16384, /* gatewayd acknowledges at least this often */
};

/* What a delivery of so many event bytes costs its stream. */
static inline uint64_t proto_watch_units(size_t event_bytes)
{
    return PROTO_WATCH_DELIVERY_UNITS + (uint64_t)event_bytes;
}

struct proto_watch_create {
    uint32_t stream;
    int64_t start_revision; /* 0: after the current one; may lie in the future */
    uint8_t flags;
    struct bytes identity;  /* as in proto_read */
    struct bytes key;       /* never empty */
    struct bytes range_end; /* empty: one key; "\0": everything from key; else above key */
};
void proto_watch_create_encode(struct buf *b, const struct proto_watch_create *m);
int proto_watch_create_decode(struct bytes body, struct proto_watch_create *ret);

struct proto_watch_created {
    uint16_t outcome; /* other than OUT_OK: there is no watcher */
    bool at_head;
    int64_t revision; /* the store's, whatever the outcome */
    int64_t next;     /* the first revision whose events may come */
};
void proto_watch_created_encode(struct buf *b, const struct proto_watch_created *m);
int proto_watch_created_decode(struct bytes body, struct proto_watch_created *ret);

struct proto_watch_canceled {
    bool reply;               /* to a WATCH_CANCEL; else stored's own decision */
    uint16_t outcome;         /* OUT_OK, OUT_COMPACTED, OUT_WATCH_TOO_SLOW */
    int64_t revision;         /* the store's */
    int64_t compact_revision; /* OUT_COMPACTED */
    int64_t next;             /* where the watcher stood: everything below was sent */
};
void proto_watch_canceled_encode(struct buf *b, const struct proto_watch_canceled *m);
int proto_watch_canceled_decode(struct bytes body, struct proto_watch_canceled *ret);

struct proto_watch_progress {
    bool whole_stream; /* the id is a stream: all its watchers */
    int64_t revision;  /* in the answer: no event up to here is still to come */
};
void proto_watch_progress_encode(struct buf *b, const struct proto_watch_progress *m);
int proto_watch_progress_decode(struct bytes body, struct proto_watch_progress *ret);

/* A list of watchers on the wire: count, then numbers. */
struct proto_watch_ids {
    const uint8_t *data; /* unaligned */
    uint32_t count;
};
static inline uint32_t proto_watch_id(const struct proto_watch_ids *ids, uint32_t i)
{
    uint32_t v;

    memcpy(&v, ids->data + (size_t)i * sizeof(v), sizeof(v));
    return v;
}
void proto_watch_ids_put(struct buf *b, const uint32_t *ids, size_t count);

struct proto_watch_behind {
    int64_t next;
    struct proto_watch_ids ids;
};
int proto_watch_behind_decode(struct bytes body, struct proto_watch_behind *ret);
void proto_watch_behind_begin(struct buf *b, int64_t next); /* then proto_watch_ids_put */

/* Events of revisions below `next`, all at least the one the watchers stood at. more: the last
 * revision goes on in the next WATCH_HISTORY of the same watchers, and `next` is that revision. */
struct proto_watch_history {
    int64_t next;
    int64_t revision; /* for the response's header */
    bool at_head;     /* from now on */
    bool more;
    struct proto_watch_ids ids;
    struct bytes events;
};
int proto_watch_history_decode(struct bytes body, struct proto_watch_history *ret);
/* then proto_watch_ids_put, then the events */
void proto_watch_history_begin(struct buf *b, const struct proto_watch_history *m);

/*
 * WATCH_EVENTS: a table of events, then groups until the end: places in the table, ascending, and
 * the watchers that get those.
 */
struct proto_watch_event {
    int64_t revision;
    struct bytes bytes;
};
void proto_watch_event_put(struct buf *b, int64_t revision, struct bytes bytes);
int proto_watch_event_read(struct wire_reader *r, struct proto_watch_event *ret);

struct proto_watch_group {
    struct proto_watch_ids hits; /* the same form: places */
    struct proto_watch_ids ids;
};
/* hits were checked to be below event_count and ascending, none of the lists is empty */
int proto_watch_group_read(struct wire_reader *r, uint32_t event_count,
                           struct proto_watch_group *ret);

#endif
