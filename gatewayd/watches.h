/*
 * Every watcher of this gatewayd's clients, and what stored has been told of it
 * (lib/proto/watch.h).
 *
 * A watcher belongs to a stream, and a stream to whoever serves a client with it (v3/watch.c). The
 * owner is told what becomes of its watchers and sees nothing of stored's coming and going: when
 * stored was restarted, every watcher is created again from the revision after the last event it
 * got, or from the head it is known to have reached, so that nothing is missing or doubled.
 *
 * Events a client has not taken count as its stream's (watches_stream_consumed); stored stops
 * sending to a stream that has too many.
 *
 * No function here calls back before it returns, except watches_link_*. Loop thread only.
 */
#ifndef CONCLAVE_GATEWAYD_WATCHES_H
#define CONCLAVE_GATEWAYD_WATCHES_H

#include <stdbool.h>
#include <stdint.h>
#include "gatewayd/backend.h"
#include "lib/util/buf.h"
#include "lib/util/bytes.h"
#include "lib/util/list.h"

struct large_place;
struct loop;
struct shared_bytes;
struct watches;
struct watches_stream;

enum watcher_state {
    WATCHER_NEW, /* not known to stored, or CREATED is awaited */
    WATCHER_OPEN,
    WATCHER_CANCELING, /* its number is stored's until that says so */
    WATCHER_OVER,      /* the same, and the owner knows the end */
};

/* There may be a million: what is rare is behind a pointer. */
struct watcher {
    /* the owner's: set between watches_create and the end */
    int64_t watch_id;
    struct watcher *same_head; /* watch_ids.c */
    uint16_t refused;          /* an outcome */
    uint8_t refusal;
    bool asked : 1; /* `created` was not yet */
    bool listed : 1;
    bool progress_notify : 1, fragment : 1;
    bool canceled : 1;
    bool quiet : 1; /* no events since the owner set it */
    /* own */
    bool announced : 1; /* the owner was told `created` */
    bool cancel_wanted : 1;
    bool behind : 1;
    uint8_t state; /* enum watcher_state */
    uint8_t flags; /* PROTO_WATCH_*; read only */
    uint32_t number;
    uint32_t key_len, range_end_len, identity_len;
    int64_t start_revision; /* asked for; read only */
    int64_t next;           /* nothing below it is wanted again */
    struct watches_stream *stream;
    struct list node;    /* in stream.watchers */
    struct large_place *partial; /* the beginning of a large revision; mostly NULL */
    uint8_t bytes[];     /* key, range_end, identity */
};

struct watches_ops {
    /* Outcome of a watches_create, in the order of those calls. Not OUT_OK: the watcher goes when
     * this returns. */
    void (*created)(void *user, struct watcher *w, int outcome, int64_t revision);
    /* Events (WatchResponse fields) up to `revision`. */
    void (*events)(void *user, struct watcher *w, int64_t revision, struct bytes events);
    /* The same when it is much: what follows each other are blocks of whole events, which others may
     * be given too. NULL: `events` gets all of it. */
    void (*large)(void *user, struct watcher *w, int64_t revision,
                  struct shared_bytes *const *blocks, size_t count);
    /* The watcher ends; it goes when this returns. OUT_OK: as asked. next: everything before it
     * was sent. */
    void (*canceled)(void *user, struct watcher *w, int outcome, int64_t revision,
                     int64_t compact_revision, int64_t next);
    /* Answers of watches_progress: nothing up to `revision` is still to come. w NULL: of the whole
     * stream. May never come. */
    void (*progress)(void *user, struct watcher *w, int64_t revision);
    /* Once at the end of a turn in which any of these was called. */
    void (*flush)(void *user);
};

struct watches *watches_new(struct loop *loop, struct backend **backend);
void watches_free(struct watches *ws); /* every stream was closed; NULL is fine */
extern const struct backend_watch_ops watches_backend_ops; /* user: struct gatewayd */

struct watches_stream *watches_stream_new(struct watches *ws, const struct watches_ops *ops,
                                          void *user);
/* Its watchers end silently. */
void watches_stream_close(struct watches_stream *s);
/* Of what was delivered, so many bytes are still waiting here for the client. */
void watches_stream_consumed(struct watches_stream *s, uint64_t waiting_bytes);

struct watches_create_args {
    struct bytes key, range_end, identity;
    int64_t start_revision;
    uint8_t flags;
};
/* NULL: there are too many. */
struct watcher *watches_create(struct watches_stream *s, const struct watches_create_args *args);
/* The watchers of a stream one after the other, also those that are on their way in or out. after
 * NULL: the first; NULL: no more. */
struct watcher *watches_stream_next(const struct watches_stream *s, const struct watcher *after);
void watches_cancel(struct watcher *w);
void watches_progress(struct watches_stream *s, const struct watcher *w); /* w NULL: all of it */

struct watches_stats {
    uint64_t watcher_count, stream_count, behind_count, events_total;
};
void watches_get_stats(const struct watches *ws, struct watches_stats *ret);

#endif
