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

struct loop;
struct watches;
struct watches_stream;

enum watcher_state {
    WATCHER_NEW, /* not known to stored, or CREATED is awaited */
    WATCHER_OPEN,
    WATCHER_CANCELING, /* its number is stored's until that says so */
    WATCHER_OVER,      /* the same, and the owner knows the end */
};

struct watcher {
    /* the owner's, set in `created` or later */
    int64_t watch_id;
    bool progress_notify, fragment;
    bool quiet; /* no events since the owner set it */
    /* what was asked for; read only */
    int64_t start_revision;
    uint8_t flags; /* PROTO_WATCH_* */
    /* own */
    struct watches_stream *stream;
    struct list node; /* in stream.watchers */
    uint32_t number;
    enum watcher_state state;
    bool announced; /* the owner was told `created` */
    bool cancel_wanted;
    bool behind;
    int64_t next;       /* nothing below it is wanted again */
    struct buf partial; /* the beginning of a large revision */
    uint32_t key_len, range_end_len, identity_len;
    uint8_t bytes[]; /* key, range_end, identity */
};

struct watches_ops {
    /* Outcome of a watches_create, in the order of those calls. Not OUT_OK: the watcher goes when
     * this returns. */
    void (*created)(void *user, struct watcher *w, int outcome, int64_t revision);
    /* Events (WatchResponse fields) up to `revision`. */
    void (*events)(void *user, struct watcher *w, int64_t revision, struct bytes events);
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
void watches_cancel(struct watcher *w);
void watches_progress(struct watches_stream *s, const struct watcher *w); /* w NULL: all of it */

struct watches_stats {
    uint64_t watcher_count, stream_count, behind_count, events_total;
};
void watches_get_stats(const struct watches *ws, struct watches_stats *ret);

#endif
