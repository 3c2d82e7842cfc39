/*
 * What the files of the core share. raft.c: the object and its public inputs; raft_log.c: the
 * entries; raft_conf.c: configurations; raft_election.c: roles, votes, ticks; raft_replicate.c: the
 * leader's view of its followers and the follower's answers; raft_read.c: read barriers;
 * raft_ready.c: the way out.
 */
#ifndef CONCLAVE_RAFT_INTERNAL_H
#define CONCLAVE_RAFT_INTERNAL_H

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/prng.h"
#include "lib/util/sim_bug.h"
#include "lib/util/xmalloc.h"
#include "raftd/core/raft.h"

/* Far above anything real and far below overflow: a larger number is nonsense from outside. */
#define RAFT_NUMBER_MAX (UINT64_C(1) << 62)

/* ---- raft_log.c ---- */
struct raft_log {
    /* entries [mem_first, last] in a ring; ents[(head + i) & (cap - 1)] is mem_first + i */
    struct raft_entry **ents;
    size_t cap, head;
    raft_index mem_first;
    raft_term mem_before_term; /* of mem_first - 1 */
    size_t bytes;              /* of the entries in memory */

    raft_index first; /* oldest one there is, here or in storage */
    raft_term before_term;
    raft_index last;

    raft_index taken; /* handed out for writing up to here */
    raft_index
        stored; /* durable up to here; below first - 1 only while a snapshot is being written */
    raft_index commit, delivered, applied;

    /* indexes of configuration entries above `applied`, ascending */
    raft_index *confs;
    size_t conf_count, conf_cap;

    const struct raft_storage *storage;
};

void log_init(struct raft_log *l, const struct raft_storage *storage);
void log_fini(struct raft_log *l);
int log_term(const struct raft_log *l, raft_index index, raft_term *ret);
raft_term log_last_term(const struct raft_log *l);
/* Only for an index in memory. */
struct raft_entry *log_entry(const struct raft_log *l, raft_index index);
void log_append(struct raft_log *l, struct raft_entry *e); /* takes the reference */
/* Forgets everything; the log then ends at (index, term), and begins behind it. */
void log_reset(struct raft_log *l, raft_index index, raft_term term);
void log_compact(struct raft_log *l, raft_index index);
void log_trim(struct raft_log *l, size_t window_bytes);
/* References to entries lo..hi (both included), as raft_storage.entries does. */
int log_slice(const struct raft_log *l, raft_id peer, raft_index lo, raft_index hi,
              size_t max_bytes, struct raft_entry ***ret, size_t *ret_count, size_t *ret_cap);
/* The newest index <= index whose term is <= term; where unknown, the oldest that is known. */
raft_index log_find_by_term(const struct raft_log *l, raft_index index, raft_term term,
                            raft_term *ret_term);
void log_conf_applied(struct raft_log *l, raft_index index);

static inline size_t entry_bytes(const struct raft_entry *e)
{
    return sizeof(*e) + e->len;
}

/* ---- progress (raft_replicate.c) ---- */
struct inflight {
    raft_index last;
    size_t bytes;
};

struct progress {
    raft_id id;
    bool is_learner;
    bool recently_active; /* heard from since the last quorum check */
    bool heard;           /* heard from since the last heartbeat of the clock */
    bool probe_sent;      /* probe: wait for an answer or the next heartbeat */
    bool nudge;           /* send an empty append: is the pipeline broken? */
    bool fetching;        /* storage said -EAGAIN */
    bool snapshot_asked;  /* raft_report_snapshot is due */
    enum raft_progress_state state;
    raft_index match, next;
    raft_index match_at_heartbeat;
    raft_index sent_commit;     /* the newest commit index it was told, if nothing was lost */
    uint64_t read_ack;          /* newest read round it answered */
    struct inflight *inflights; /* ring of inflight_max */
    uint32_t inflight_head, inflight_count;
    size_t inflight_bytes;
};

struct vote {
    raft_id id;
    bool granted;
};

/* One read barrier. On a leader: round 0 is not begun. On a follower: forwarded as `context`. */
struct read_req {
    raft_id from; /* 0: our own */
    uint64_t id;  /* the caller's, or the asker's context */
    uint64_t round;
    raft_index index;
};

/* What a ready that is being written will make durable. */
struct pending_write {
    uint64_t seq;
    raft_index first, last; /* entries; last < first: none (any more) */
    raft_index snapshot;    /* 0: none */
    bool has_hard_state;
    raft_term term;
    raft_id vote;
};

struct raft {
    raft_id id;
    struct raft_config config;
    struct prng prng;

    raft_term term;
    raft_id vote;
    raft_term durable_term;
    raft_id durable_vote;
    struct raft_hard_state emitted; /* last one handed out */

    enum raft_state state;
    raft_id leader;
    struct raft_log log;
    struct raft_conf conf;
    raft_index conf_index;       /* last configuration entry (or snapshot) in conf */
    raft_index campaign_block;   /* no campaign before this is applied (raft_restore) */
    raft_index snapshot_pending; /* received, not yet durable */

    uint32_t election_elapsed, heartbeat_elapsed, election_timeout;
    bool transfer_campaign; /* this candidacy was asked for by the leader */
    struct vote votes[RAFT_MEMBERS_MAX];
    size_t vote_count;

    /* leader */
    struct progress *peers; /* everybody else in conf, ascending ids */
    size_t peer_count;
    raft_index term_start; /* the empty entry this leader began with */
    size_t uncommitted_bytes;
    raft_id transferee;
    bool send_due; /* look at every peer when the ready is taken */

    /* reads */
    struct read_req *reads;
    size_t read_count, read_cap;
    uint64_t read_round;   /* leader: newest begun */
    uint64_t read_context; /* follower: newest used; begins at a random place */
    bool read_due;         /* some are not begun or forwarded */
    uint32_t read_retry_elapsed;

    /* out */
    uint64_t seq;
    struct pending_write *writes;
    size_t write_count, write_cap;
    struct raft_msg *now, *after;
    size_t now_count, now_cap, after_count, after_cap;
    struct raft_read_state *read_states;
    size_t read_state_count, read_state_cap;
    struct raft_entry **aborted;
    size_t aborted_count, aborted_cap;
    raft_id *snapshot_peers;
    size_t snapshot_peer_count, snapshot_peer_cap;
    struct raft_snapshot *snapshot_out;
    bool deliver_paused, deliver_fetching;
    /* soft state as of the last ready */
    raft_id seen_leader;
    enum raft_state seen_state;
    raft_term seen_term;
    bool seen_voter, seen_learner;

    struct raft_status counters; /* only its counters */
};

/* Grows a vector by one element and returns where it goes. */
#define VEC_PUSH(vec, count, cap)                                                                  \
    (*__extension__({                                                                              \
        if ((count) == (cap)) {                                                                    \
            (cap) = (cap) != 0 ? (cap)*2 : 8;                                                      \
            (vec) = xreallocarray((vec), (cap), sizeof(*(vec)));                                   \
        }                                                                                          \
        &(vec)[(count)++];                                                                         \
    }))

/* ---- raft_conf.c ---- */
bool raft_conf_valid(const struct raft_conf *c);
static inline uint32_t conf_quorum(const struct raft_conf *c)
{
    return c->voter_count / 2 + 1;
}
static inline bool raft_is_sole_voter(const struct raft *r)
{
    return r->conf.voter_count == 1 && r->conf.voters[0] == r->id;
}

/* ---- raft.c ---- */
struct raft_msg *raft_send_now(struct raft *r, enum raft_msg_type type, raft_id to);
struct raft_msg *raft_send_after(struct raft *r, enum raft_msg_type type, raft_id to);
void raft_commit_to(struct raft *r, raft_index index);
void raft_drop_tail(struct raft *r, raft_index from); /* entries >= from leave the log */
void raft_install(struct raft *r, raft_index index, raft_term term, const struct raft_conf *conf);
void raft_append_own(struct raft *r, enum raft_entry_type type, struct bytes data);

/* ---- raft_election.c ---- */
void raft_become_follower(struct raft *r, raft_term term, raft_id leader);
void raft_set_leader(struct raft *r, raft_id leader);
bool raft_promotable(const struct raft *r);
void raft_hup(struct raft *r, bool transfer);
void raft_on_vote_request(struct raft *r, const struct raft_msg *m);
void raft_on_vote_response(struct raft *r, const struct raft_msg *m);
void raft_own_vote_durable(struct raft *r);
void raft_randomize_timeout(struct raft *r);

/* ---- raft_replicate.c ---- */
struct progress *raft_peer(const struct raft *r, raft_id id);
void raft_peers_sync(struct raft *r);  /* after a change of conf */
void raft_peers_reset(struct raft *r); /* a new leader knows nothing yet */
void raft_peers_fini(struct raft *r);
void raft_flush_appends(struct raft *r);
void raft_send_heartbeats(struct raft *r, bool from_clock);
bool raft_maybe_commit(struct raft *r);
void raft_on_append(struct raft *r, const struct raft_msg *m);
void raft_on_append_resp(struct raft *r, const struct raft_msg *m);
void raft_on_commit(struct raft *r, const struct raft_msg *m);
void raft_on_heartbeat(struct raft *r, const struct raft_msg *m);
void raft_on_heartbeat_resp(struct raft *r, const struct raft_msg *m);
void raft_on_snapshot(struct raft *r, const struct raft_msg *m);
void raft_send_timeout_now(struct raft *r, raft_id to);
/* Quorum-th largest of one number per voter: what a majority has reached. */
uint64_t raft_quorum_value(const struct raft *r, uint64_t own,
                           uint64_t (*of)(const struct progress *p));

/* ---- raft_read.c ---- */
void raft_reads_drop(struct raft *r, int outcome);
void raft_reads_flush(struct raft *r); /* begin a round, or forward */
void raft_reads_confirm(struct raft *r);
void raft_reads_tick(struct raft *r);
void raft_on_read_index(struct raft *r, const struct raft_msg *m);
void raft_on_read_index_resp(struct raft *r, const struct raft_msg *m);

#endif
