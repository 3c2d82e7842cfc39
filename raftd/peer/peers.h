/*
 * The connections to the other members (ARCHITECTURE.md "Peers"). nng_* types stay in peers*.c.
 *
 * One pull socket listens on the own peer URLs. Per other member one push socket dials it for
 * messages and a second one for snapshot chunks, so that a snapshot never delays a heartbeat.
 * Frames queued in a loop turn leave as one nng message per connection in LOOP_PHASE_FLUSH, as
 * soon as the previous one was taken; while one waits, frames gather for the next. What would
 * exceed the queue's bound, or has no connection, is dropped: peers_begin says so, and raft sends
 * it again. A batch for another cluster, receiver or protocol version closes its connection, is
 * counted, and is logged once per sender.
 *
 * Loop thread only. nng's own threads do one thing: queue what came and wake the loop.
 */
#ifndef CONCLAVE_RAFTD_PEERS_H
#define CONCLAVE_RAFTD_PEERS_H

#include <stdbool.h>
#include <stdint.h>
#include "lib/metrics/metrics.h"
#include "lib/util/buf.h"
#include "lib/util/url.h"
#include "raftd/peer/peer_msg.h"
#include "raftd/peer/peer_tls.h"

struct loop;
struct peers;

enum peer_lane { PEER_LANE_MAIN, PEER_LANE_BULK, PEER_LANE_COUNT };

enum {
    PEERS_MAX = 80,                   /* members, and guests that ask who the members are */
    PEERS_QUEUE_BYTES_MAX = 64 << 20, /* per connection */
};

struct peers_ops {
    /* One frame, its header checked: this cluster (or a members query or answer), this receiver. */
    void (*on_frame)(void *user, const struct peer_header *h, const struct peer_frame *f);
    void (*on_up)(void *user, uint64_t id); /* the main connection stands */
    void (*on_down)(void *user, uint64_t id);
};

struct peers_args {
    struct loop *loop;
    const struct url_list *listen_urls;
    const char *self_urls; /* advertised, told in HELLO; copied */
    uint64_t cluster_id, member_id; /* 0: not known yet; peers_set_identity */
    uint64_t generation;
    const struct peer_tls_conf *tls; /* for https:// URLs; borrowed. NULL: those are refused */
    const char *run_dir;             /* with tls; borrowed */
    uint64_t stuck_ms; /* a connection that takes nothing for so long, to a member that is heard, is
                          made anew; 0: 30 s */
    const struct peers_ops *ops; /* borrowed */
    void *user;
};

/* 0, or negative errno with *ret_error (free()): cannot listen. */
int peers_start(const struct peers_args *args, struct peers **ret, char **ret_error);
void peers_stop(struct peers *p); /* NULL is fine. Not from a callback */
void peers_set_identity(struct peers *p, uint64_t cluster_id, uint64_t member_id);

/* Dial member id at these URLs; the same URLs again change nothing. -EPROTONOSUPPORT, -ENOSPC. */
int peers_set(struct peers *p, uint64_t id, const struct url_list *urls);
void peers_remove(struct peers *p, uint64_t id);
bool peers_has(const struct peers *p, uint64_t id);
bool peers_is_up(const struct peers *p, uint64_t id);

/* Queue a frame: append its body to the returned buf, then peers_end; nothing else in between.
 * NULL: not connected, or the queue is full. */
struct buf *peers_begin(struct peers *p, uint64_t id, enum peer_lane lane, enum peer_type type);
void peers_end(struct peers *p);

struct peer_stats {
    bool up;
    uint64_t bytes_sent, bytes_received, frames_dropped, disconnects;
    struct metrics_histogram round_trips; /* of pings, every other second */
    uint64_t last_seen_ms;  /* loop clock; 0: never */
    uint64_t up_since_ms;   /* 0: down */
};
bool peers_get_stats(const struct peers *p, uint64_t id, struct peer_stats *ret);
struct peers_totals {
    uint64_t refused_version, refused_cluster, refused_receiver, malformed, unknown_sender_frames;
    struct peer_tls_stats tls; /* 0 without https:// URLs */
};
void peers_get_totals(const struct peers *p, struct peers_totals *ret);

#endif
