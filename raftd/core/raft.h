/*
 * Raft as a pure function of its inputs: no socket, file, clock, thread, log line or global state.
 * Messages, ticks, proposals and reports go in; what has to be done comes out as a *ready*.
 *
 * The order is the contract. For every ready, in this order:
 *   1. send messages_now, start the transfers of snapshot_peers;
 *   2. write snapshot marker, entries, hard state - in the order of the readies, one after the
 *      other. must_sync false: a plain write will do. A ready with raft_ready_has_write() false
 *      counts as written as soon as all earlier readies are;
 *   3. when it is durable: activate ready.snapshot if there is one, then raft_persisted(r, seq),
 *      then send messages_after, then raft_ready_clear.
 *   committed, read_states, aborted and the soft state may be acted upon at once.
 * Further readies may be taken while earlier ones are being written, so a slow disk delays neither
 * heartbeats nor the followers' copies of what it is writing (Raft thesis 10.2.1). The simple use
 * is the same without waiting:
 *     raft_take_ready(r, &rd); send(now); write(rd); raft_persisted(r, rd.seq); send(after);
 *     apply(rd.committed); raft_ready_clear(&rd);
 *
 * Why this is safe: what a message in messages_now promises is durable already or binds nobody.
 *   - a leader's appends: it became leader only when its own vote was durable, and it counts
 *     its own copy of an entry only once raft_persisted said so;
 *   - heartbeats and their answers, pre-votes, refusals: no promise about stored state;
 *   - granted votes, requests for votes, accepted appends and snapshots: always messages_after.
 *
 * Ownership: a ready owns all it points to until raft_ready_clear; entries are shared by
 * reference counts that only the loop's thread may touch. Functions are for one thread.
 *
 * What comes from outside (raft_step) is never trusted and never an assert: what cannot be is
 * ignored and counted. What the caller itself says (reports, restore) is asserted.
 */
#ifndef CONCLAVE_RAFT_H
#define CONCLAVE_RAFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"

typedef uint64_t raft_index; /* from 1; 0: none */
typedef uint64_t raft_term;  /* from 1; 0: none */
typedef uint64_t raft_id;    /* member id; 0: none */

struct raft;

/* ---- entries ---- */
enum raft_entry_type { RAFT_ENTRY_NORMAL = 0, RAFT_ENTRY_CONF = 1 }; /* as proto_entry_type */

/* One allocation with its data behind it. Immutable once made; whoever keeps a pointer holds a
 * reference. */
struct raft_entry {
    raft_index index;
    raft_term term;
    uint32_t refs;
    uint32_t len;
    uint8_t type; /* enum raft_entry_type */
    uint8_t data[];
};

enum { RAFT_ENTRY_BYTES_MAX = 64 << 20 }; /* data of one entry; the WAL has the same limit */

struct raft_entry *raft_entry_new(raft_index index, raft_term term, enum raft_entry_type type,
                                  struct bytes data); /* copies data; len <= RAFT_ENTRY_BYTES_MAX */
struct raft_entry *raft_entry_ref(struct raft_entry *e);
void raft_entry_unref(struct raft_entry *e); /* NULL is fine */

static inline struct bytes raft_entry_bytes(const struct raft_entry *e)
{
    return (struct bytes){e->data, e->len};
}

/* ---- configuration ---- */
enum { RAFT_MEMBERS_MAX = 64 }; /* voters and learners together */

struct raft_conf {
    uint32_t voter_count, learner_count;
    raft_id voters[RAFT_MEMBERS_MAX];   /* ascending */
    raft_id learners[RAFT_MEMBERS_MAX]; /* ascending; nobody is in both */
};

bool raft_conf_has_voter(const struct raft_conf *c, raft_id id);
bool raft_conf_has_learner(const struct raft_conf *c, raft_id id);
/* For building one: 0, or -EEXIST, -ENOSPC, -EINVAL (id 0). Keeps the order. */
int raft_conf_add_voter(struct raft_conf *c, raft_id id);
int raft_conf_add_learner(struct raft_conf *c, raft_id id);

enum raft_conf_op {
    RAFT_CONF_NONE =
        0, /* the entry turned out to change nothing (refused at apply, or URLs only) */
    RAFT_CONF_ADD_VOTER,
    RAFT_CONF_ADD_LEARNER,
    RAFT_CONF_PROMOTE,
    RAFT_CONF_REMOVE,
};
struct raft_conf_change {
    enum raft_conf_op op;
    raft_id id;
};
/* What the change would make of c: 0, or why it must not be (OUT_MEMBER_EXIST,
 * OUT_MEMBER_NOT_FOUND, OUT_MEMBER_NOT_LEARNER, OUT_TOO_MANY_LEARNERS for a full table,
 * OUT_MEMBER_NOT_ENOUGH_STARTED for the last voter). */
int raft_conf_apply(struct raft_conf *c, const struct raft_conf_change *change);

/* ---- state that is kept ---- */
struct raft_hard_state {
    raft_term term;
    raft_id vote;
    raft_index commit; /* never above the entries handed out so far */
};
struct raft_snapshot {
    raft_index index;
    raft_term term;
    struct raft_conf conf; /* as of index */
};

/* ---- messages between members ---- */
enum raft_msg_type {
    RAFT_MSG_APPEND = 1,     /* log_index/log_term: the entry before entries[0]; commit; entries */
    RAFT_MSG_APPEND_RESP,    /* log_index: durable and equal to the leader's up to here; reject:
                                log_index is the refused previous entry, hint_* where to go on */
    RAFT_MSG_HEARTBEAT,      /* commit; context: read round */
    RAFT_MSG_HEARTBEAT_RESP, /* context as in the heartbeat; hint_index: last entry; reject: the
                                commit index of the heartbeat is above it */
    RAFT_MSG_VOTE,           /* log_index/log_term: the candidate's last entry; transfer */
    RAFT_MSG_VOTE_RESP,      /* reject */
    RAFT_MSG_PRE_VOTE,       /* term is the one the sender would campaign with */
    RAFT_MSG_PRE_VOTE_RESP,
    RAFT_MSG_SNAPSHOT,    /* snapshot. Stepped by the receiver's caller once the data is staged */
    RAFT_MSG_TIMEOUT_NOW, /* campaign at once: leadership is handed to you */
    RAFT_MSG_READ_INDEX,  /* context: the asker's id of the read */
    RAFT_MSG_READ_INDEX_RESP, /* context; log_index: the read's index */
    RAFT_MSG_COMMIT, /* commit, of what the receiver has acknowledged; nobody answers it */
    RAFT_MSG_TYPE_MAX = RAFT_MSG_COMMIT,
};

struct raft_msg {
    enum raft_msg_type type;
    raft_id from, to;
    raft_term term;
    raft_index log_index;
    raft_term log_term;
    raft_index commit;
    raft_index hint_index;
    raft_term hint_term;
    uint64_t context;
    bool reject;
    bool
        transfer; /* vote: the leader asked for this election, so its being alive is no objection */
    struct raft_entry **entries; /* indexes log_index + 1 ... */
    size_t entry_count;
    struct raft_snapshot *snapshot;
};
/* Releases entries and snapshot of a message that owns them (also for decoders of messages). */
void raft_msg_fini(struct raft_msg *m);
const char *raft_msg_type_name(enum raft_msg_type type);

enum raft_state { /* as proto_raft_state */
                  RAFT_FOLLOWER,
                  RAFT_PRE_CANDIDATE,
                  RAFT_CANDIDATE,
                  RAFT_LEADER,
};
const char *raft_state_name(enum raft_state state);

/* ---- the older part of the log ---- */
/* The core keeps recent entries in memory: everything not yet durable or not yet committed, and
 * more up to window_bytes. Below that it asks here, only for entries that are durable and
 * committed. */
struct raft_storage {
    void *user;
    /* 0, or -ENOENT when unknown. Must know everything from first_index - 1 (raft_restore,
     * raft_compact) to the last durable entry. Answers from memory. */
    int (*term)(void *user, raft_index index, raft_term *ret_term);
    /* Entries lo..hi, both included; as many as fit max_bytes of data but at least one. On 0,
     * ret_entries is filled with *ret_count (<= max_count) references that the core now owns. Else:
     * -EAGAIN: being fetched; raft_entries_fetched(r, peer) when asking again makes sense;
     * -ENODATA: trimmed away (a follower then needs a snapshot). Anything else counts as
     * -EAGAIN. peer: for whom; 0: for this member's own state machine. */
    int (*entries)(void *user, raft_id peer, raft_index lo, raft_index hi, size_t max_bytes,
                   size_t max_count, struct raft_entry **ret_entries, size_t *ret_count);
};

/* ---- creation ---- */
struct raft_config {
    raft_id id;
    uint64_t seed;           /* must differ between two starts of one member (timeouts, read ids) */
    uint32_t election_ticks; /* > heartbeat_ticks; timeouts are in [n, 2n). Default 10 */
    uint32_t heartbeat_ticks; /* default 1 */
    bool no_pre_vote;
    size_t append_bytes_max;      /* entry data per append message; default 1 MiB */
    uint32_t inflight_max;        /* unanswered appends per follower; default 256 */
    size_t inflight_bytes_max;    /* and their data; default 16 MiB */
    size_t uncommitted_bytes_max; /* proposals are refused above; default 64 MiB */
    size_t committed_bytes_max;   /* entry data per ready; default 8 MiB */
    size_t window_bytes;          /* entries kept above what is needed; default 16 MiB */
    struct raft_storage storage;
};

struct raft_restore {
    struct raft_hard_state hard_state;
    struct raft_conf conf;    /* as of applied_index */
    raft_index applied_index; /* of the state machine; at most the last index (else: raft_jump) */
    raft_index first_index;   /* of the log; entries below are gone */
    raft_term before_term;    /* of first_index - 1; 0 when first_index is 1 */
    /* The end of the log, borrowed: every entry above hard_state.commit, and as many before that
     * as the caller likes. Empty: the last entry of the log is last_index (first_index - 1 when
     * the log is empty), and commit >= last_index. */
    struct raft_entry *const *tail;
    size_t tail_count;
    raft_index last_index;
};

/* A member without a log or configuration, as one that is going to be added to a cluster. */
struct raft *raft_new(const struct raft_config *config);
void raft_free(struct raft *r); /* NULL is fine */
/* At most once, straight after raft_new. 0, or -EBADMSG when the parts contradict each other.
 * A commit index above last_index is cut back to it: it was only a hint. */
int raft_restore(struct raft *r, const struct raft_restore *args);
/* The state machine is at (index, term) with conf, which the log does not reach or contradicts: its
 * snapshot was activated, the marker was not written. Comes out as ready.snapshot (which needs no
 * activation then). When the log does hold that entry, only commit and configuration move. */
void raft_jump(struct raft *r, raft_index index, raft_term term, const struct raft_conf *conf);

/* ---- inputs ---- */
void raft_tick(struct raft *r);
/* A message from a peer; borrowed (entries that are kept are referenced). 0; or OUT_MALFORMED:
 * ignored and counted. */
int raft_step(struct raft *r, const struct raft_msg *m);

/* Appends a proposal; data is copied. 0 and its place in the log (its fate is known when an entry
 * of that index is committed: of the same term, done; of another, lost); or
 *   OUT_NOT_LEADER: *ret_leader is the leader to forward to;   OUT_NO_LEADER: none known;
 *   OUT_LEADER_CHANGED: leadership is being handed over;       OUT_REQUEST_TOO_LARGE;
 *   OUT_TOO_MANY_REQUESTS: uncommitted_bytes_max;
 *   OUT_UNHEALTHY (configuration entries only): one is pending, or no entry of this term is
 *   committed yet, or this one is not applied up to there. */
struct raft_proposed {
    raft_index index;
    raft_term term;
    raft_id leader; /* set in every case; 0: none known */
};
int raft_propose(struct raft *r, enum raft_entry_type type, struct bytes data,
                 struct raft_proposed *ret);
/* Whether a configuration entry could be proposed now: the same outcomes, without doing it. */
int raft_conf_change_allowed(const struct raft *r);

/* A read barrier; answered in ready.read_states under the same id, always: OUT_OK with the index,
 * OUT_NO_LEADER or OUT_LEADER_CHANGED. Ids need be unique among those unanswered. */
void raft_read_index(struct raft *r, uint64_t id);

/* Hands leadership to a voter. 0 (started; given up after an election timeout), OUT_NOT_LEADER,
 * OUT_BAD_LEADER_TRANSFEREE (unknown, learner). To itself: 0, ends a transfer under way. */
int raft_transfer_leader(struct raft *r, raft_id to);
/* A leader gives up (stuck disk): tells the most advanced voter to take over. No effect on others.
 */
void raft_step_down(struct raft *r);
/* Campaign now (tests, first start of a single member). No effect on a leader or a non-voter. */
void raft_campaign(struct raft *r);

/* ---- reports ---- */
/* The ready with this number, and all before it, are durable. */
void raft_persisted(struct raft *r, uint64_t seq);
/* The state machine has executed everything up to index. For a configuration entry,
 * raft_apply_conf_change comes first (asserted). */
void raft_applied(struct raft *r, raft_index index);
/* The configuration entry at index was executed. Repeated ones (redelivery) are ignored. Returns
 * 0, or the outcome of raft_conf_apply, then nothing changed. */
int raft_apply_conf_change(struct raft *r, raft_index index, const struct raft_conf_change *change);
/* Delivery of committed entries: stop; go on after `applied` (which may be lower than before: a
 * restarted state machine). raft_deliver_resume(r, RAFT_GO_ON) goes on where it stopped. A new core
 * is not paused. 0; -ENODATA: applied + 1 is not in the log any more; -ERANGE: applied is above
 * the commit index (see raft_jump); in both cases delivery stays paused. */
#define RAFT_GO_ON UINT64_MAX
void raft_deliver_pause(struct raft *r);
int raft_deliver_resume(struct raft *r, raft_index applied);
/* Entries below index may go from storage; at most applied + 1. */
void raft_compact(struct raft *r, raft_index index);
/* Asking storage again for this peer (0: own state machine) makes sense. */
void raft_entries_fetched(struct raft *r, raft_id peer);
/* A message to the peer was not sent, or the connection broke. */
void raft_report_unreachable(struct raft *r, raft_id peer);
/* The transfer that ready.snapshot_peers asked for has ended: index is what was sent, or 0 when it
 * failed. Must come once for each, sooner or later. */
void raft_report_snapshot(struct raft *r, raft_id peer, raft_index index);

/* ---- output ---- */
struct raft_read_state {
    uint64_t id;
    int outcome; /* OUT_OK, OUT_NO_LEADER, OUT_LEADER_CHANGED */
    raft_index index;
};

struct raft_ready {
    uint64_t seq; /* 1, 2, ... */
    /* to persist */
    bool has_snapshot, has_hard_state, must_sync;
    struct raft_snapshot *snapshot; /* replaces log and state machine; before the entries */
    struct raft_hard_state hard_state;
    struct raft_entry **entries; /* drop stored indexes >= entries[0]->index first */
    size_t entry_count;
    /* to send */
    struct raft_msg *messages_now;
    size_t message_now_count;
    struct raft_msg *messages_after; /* when this ready is durable */
    size_t message_after_count;
    raft_id *snapshot_peers; /* send these a snapshot; then raft_report_snapshot */
    size_t snapshot_peer_count;
    /* to act upon */
    struct raft_entry **committed; /* durable here and committed, in index order */
    size_t committed_count;
    struct raft_read_state *read_states;
    size_t read_state_count;
    struct raft_entry **aborted; /* left the log here; what becomes of them is unknown, most likely
                                    nothing: "leader changed" for those who wait */
    size_t aborted_count;
    bool soft_changed; /* leader, state, term or this member's role changed */
    /* capacities, private */
    size_t caps[8];
};
static inline bool raft_ready_has_write(const struct raft_ready *rd)
{
    return rd->has_snapshot || rd->has_hard_state || rd->entry_count != 0;
}

bool raft_has_ready(const struct raft *r);
/* Fills *ret, which is all zero or was cleared (its arrays are used again). */
void raft_take_ready(struct raft *r, struct raft_ready *ret);
void raft_ready_clear(struct raft_ready *rd); /* releases content, keeps the arrays */
void raft_ready_fini(struct raft_ready *rd);  /* releases the arrays too */

/* ---- status ---- */
struct raft_status {
    raft_id id, leader, vote, transferee;
    raft_term term;
    enum raft_state state;
    bool is_learner, is_voter, sole_voter;
    raft_index first_index, last_index, stored_index, commit_index, delivered_index, applied_index;
    raft_index conf_index;         /* last configuration entry reported applied */
    raft_index pending_conf_index; /* leader: no change before this is applied */
    size_t uncommitted_bytes, window_bytes;
    uint32_t entries_in_memory;
    /* counters since raft_new */
    uint64_t malformed, unknown_sender, stale_messages, campaigns, leader_changes, conflicts,
        proposals_dropped, reads_failed;
};
void raft_get_status(const struct raft *r, struct raft_status *ret);
const struct raft_conf *raft_get_conf(const struct raft *r); /* borrowed until the next input */
raft_id raft_leader(const struct raft *r);
enum raft_state raft_get_state(const struct raft *r);
raft_term raft_get_term(const struct raft *r);
raft_id raft_transferee(const struct raft *r); /* 0: no transfer under way */
/* 0 or -ENOENT (compacted, or beyond the end). */
int raft_log_term(const struct raft *r, raft_index index, raft_term *ret_term);

enum raft_progress_state { RAFT_PROBE, RAFT_REPLICATE, RAFT_SNAPSHOT };
const char *raft_progress_state_name(enum raft_progress_state state);
struct raft_progress {
    raft_id id;
    bool is_learner, recently_active, fetching;
    enum raft_progress_state state;
    raft_index match_index, next_index;
    uint32_t inflight_count;
    size_t inflight_bytes;
};
/* What the leader knows of a member; false when not leader or the member is unknown. */
bool raft_get_progress(const struct raft *r, raft_id id, struct raft_progress *ret);

#endif
