/*
 * raftd: consensus and the write-ahead log. struct raftd is the one object of the process; its
 * files are named after what they hold and share it through this header.
 *
 * A life: bootstrap decides who this member is (raftd_bootstrap.c), the link to stored brings what
 * is executed already, then the core starts (raftd_core_start) and every turn of the loop ends in
 * raftd_ready.c. A core without stored does not exist: a member that cannot execute takes no part.
 */
#ifndef CONCLAVE_RAFTD_H
#define CONCLAVE_RAFTD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/daemon/daemon.h"
#include "lib/ipc/ipc.h"
#include "lib/loop/loop.h"
#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/util/buf.h"
#include "lib/util/list.h"
#include "lib/util/url.h"
#include "raftd/core/raft.h"
#include "raftd/peer/peer_tls.h"
#include "raftd/peer/peers.h"
#include "raftd/raftd_bootstrap.h"
#include "raftd/raftd_members.h"
#include "raftd/wal/wal.h"
#include "raftd/wal/wal_thread.h"

extern const struct daemon_info raftd_info;
extern const struct conf_field raftd_conf_fields[];

struct raftd_conf {
    char *data_dir, *wal_dir;
    char *initial_cluster, *initial_cluster_state, *initial_cluster_token;
    char *initial_advertise_peer_urls, *advertise_client_urls, *listen_peer_urls;
    uint64_t heartbeat_ms, election_ms;
    uint64_t snapshot_count, snapshot_catchup_entries;
    bool pre_vote, initial_election_tick_advance, force_new_cluster, unsafe_no_fsync;
    uint64_t max_request_bytes, gateway_count;
    struct peer_tls_conf tls;
    bool strict_reconfig_check;
    uint64_t max_learners;
    bool initial_corrupt_check;
    uint64_t corrupt_check_ns; /* 0: never */
};
/* What involves two fields; 0, or -EINVAL having logged why. */
int raftd_conf_check(const struct raftd_conf *c);

enum {
    RAFTD_GATEWAYS_MAX = 64,
    RAFTD_READIES_MAX = 64,       /* readies whose write is under way */
    RAFTD_APPLY_GAP_MAX = 5000,   /* committed and not executed: then proposals are refused */
    RAFTD_QUEUED_MAX = 5000,      /* proposals that wait for a leader */
    RAFTD_WINDOW_BYTES = 4 << 20, /* of entries, in memory for followers that are a little behind */
    RAFTD_QUEUED_BYTES_MAX = 32 << 20,
    RAFTD_PENDING_MAX = 200000,   /* proposals handed over whose fate is open */
    RAFTD_FRAME_BYTES = 256 << 10,/* of a COMMITTED frame, unless one entry is larger */
    RAFTD_READ_RETRY_MS = 500,
    RAFTD_REQUEST_OVERHEAD = 512 << 10, /* keys of a payload beside the request itself */
    RAFTD_PEER_LINGER_MS = 3000,  /* a removed member may hear that it is */
    RAFTD_HASH_RING = 4096,
};

enum raftd_phase {
    RAFTD_ASKING,  /* fresh: asking the other members about this one */
    RAFTD_WAITING, /* identity known, log open; for stored's first HELLO */
    RAFTD_RUNNING,
    RAFTD_STOPPING,
};

struct raftd_gateway {
    struct raftd *r;
    uint32_t index;
    struct ipc_link *link;
    uint64_t generation; /* of its HELLO */
};

/* One taken ready; a ring in order. */
struct raftd_slot {
    struct raft_ready rd;
    uint64_t wal_seq; /* durable when the log's thread has come this far */
    bool submitted;
};

struct raftd_conf_pending { /* a configuration entry delivered to stored, not yet executed */
    struct list node;
    uint64_t index;
    struct bytes data; /* proto_conf_change; owned */
};

struct raftd_snap_out {
    struct list node;
    uint64_t peer_id, transfer_id, term, index, acked_ms;
    bool started;
};

struct raftd_snap_in {
    enum { SNAP_IN_NONE, SNAP_IN_RECEIVING, SNAP_IN_STAGED, SNAP_IN_ACTIVATING } state;
    uint64_t from, remote_id, local_id, term, progress_ms;
    struct buf meta; /* proto_snap_meta */
};

struct raftd_counters {
    uint64_t proposals_failed, reads_failed, hash_mismatches, nonsense, snapshots_sent,
        snapshots_received, disk_resignations;
};

struct raftd {
    struct daemon *d;
    struct loop *loop;
    const struct raftd_conf *conf;
    const char *name;
    uint64_t generation;
    enum raftd_phase phase;
    uint64_t request_timeout_ms;
    bool ready_told, stopping;

    /* files */
    char *member_dir, *wal_dir, *snap_dir;
    int lock_fd;
    struct wal_options wal_options;
    struct wal *wal;
    struct wal_thread *wal_thread;
    uint64_t wal_submitted, wal_durable;
    struct wal_entry *wal_batch; /* scratch */
    size_t wal_batch_cap;

    /* identity */
    struct url_list listen_urls, advertise_urls;
    uint64_t cluster_id, member_id;
    bool fresh; /* no log yet: boot applies */
    struct boot_cluster boot;
    uint64_t boot_deadline_ms;
    struct loop_timer *boot_timer;
    struct raftd_members members; /* as of members_index */
    uint64_t members_index;

    /* core */
    struct raft *raft;
    struct loop_hook *work;
    struct loop_timer *tick;
    struct raftd_slot slots[RAFTD_READIES_MAX];
    size_t slot_head, slot_count;
    struct raft_status status; /* as of the last ready */
    uint64_t leader_changes;
    bool fetch_retry; /* older entries could not be read just now */

    /* stored */
    struct ipc_link *stored;
    struct proto_hello hello; /* the newest accepted; conf_state is not kept here */
    struct buf hello_conf;
    bool stored_up;
    uint64_t applied_index, durable_index, chain_hash; /* as last reported */
    uint64_t sent_index; /* last index sent over this link */
    size_t frame_bytes;  /* in the COMMITTED frame that is open */
    uint64_t marker_index; /* newest snapshot marker */
    struct list conf_pending;
    uint64_t delivered_term; /* of the newest entry delivered */
    bool cluster_version_seen, cluster_version_proposed;
    uint64_t role_seq, role_acked, role_revoked; /* sequence numbers of ROLE on this link */
    bool role_granted;
    struct proto_raft_status told; /* what was pushed last */
    bool told_valid;

    /* clients of this daemon */
    struct raftd_gateway *gateways;
    struct raftd_proposals *proposals;
    struct raftd_reads *reads;

    struct list moves; /* MoveLeader calls that wait */
    size_t move_count;

    /* peers */
    struct peers *peers;
    struct {
        uint64_t id, at_ms;
    } leaving[PEERS_MAX];
    size_t leaving_count;

    /* snapshots */
    uint64_t last_transfer_id;
    struct list snap_out; /* the first one may be started */
    struct raftd_snap_in snap_in;

    /* divergence */
    struct {
        uint64_t index, hash;
    } hashes[RAFTD_HASH_RING];
    uint64_t hash_count; /* ever written; ring position is the rest */
    struct {
        uint64_t id, index, hash;
        bool pending, differs;
    } peer_hashes[RAFT_MEMBERS_MAX];
    size_t peer_hash_count;
    bool diverged;
    bool hash_agreed; /* with some member, since the start */
    uint64_t corrupt_checked_ms;
    uint64_t hash_tick;

    /* duties */
    uint64_t publish_at_ms; /* 0: now; UINT64_MAX: done */
    bool handing_over;
    uint64_t handover_until_ms;
    uint64_t disk_resigned_ms;
    uint64_t removed_at_ms;
    uint64_t known_leader; /* as last told to the log */
    struct raftd_counters counters;
};

static inline uint64_t raftd_now_ms(const struct raftd *r)
{
    return loop_now_ms(r->loop);
}
static inline bool raftd_is_leader(const struct raftd *r)
{
    return r->raft != NULL && raft_get_state(r->raft) == RAFT_LEADER;
}

/* ---- raftd.c ---- */
int raftd_core_start(struct raftd *r); /* stored's first HELLO is in r->hello */
void raftd_links_start(struct raftd *r);
void raftd_peers_sync(struct raftd *r); /* dial whom the member table names */
void raftd_check_ready(struct raftd *r);
bool raftd_is_removed(const struct raftd *r); /* by the member table as it is now */
NORETURN void raftd_removed(struct raftd *r);  /* ends this member for good */

/* ---- raftd_bootstrap.c: the part with state; raftd_bootstrap.h has the pure part ---- */
int raftd_boot_open(struct raftd *r);   /* directories, lock, log; may block. Negative errno, logged */
void raftd_boot_start(struct raftd *r); /* peers are open: ask them, or go on */
void raftd_boot_on_members(struct raftd *r, const struct peer_header *h, struct bytes body);
void raftd_boot_on_query(struct raftd *r, const struct peer_header *h, struct bytes body);
void raftd_boot_tell_members(struct raftd *r, uint64_t id);
int raftd_force_new_cluster(struct raftd *r);

/* ---- raftd_metrics.c ---- */
void raftd_metrics(struct raftd *r, struct buf *b); /* appends the families of raftd */

/* ---- raftd_ipc.c ---- */
extern const struct ipc_link_ops raftd_stored_ops, raftd_gateway_ops;
void raftd_reply_outcome(struct raftd_gateway *g, uint16_t type, uint64_t id, int outcome);

/* ---- raftd_peer.c ---- */
extern const struct peers_ops raftd_peers_ops;
void raftd_send_raft_msg(struct raftd *r, const struct raft_msg *m);

/* ---- raftd_ready.c ---- */
void raftd_work(void *user);
void raftd_arm(struct raftd *r);
void raftd_on_wal_done(void *user, uint64_t sequence);
bool raftd_write_waits(struct raftd *r); /* some ready was not handed to the log's thread yet */
/* stored has activated the snapshot of the first unsubmitted slot (or none is awaited). */
void raftd_snapshot_activated(struct raftd *r, uint64_t index);
extern const struct raft_storage raftd_storage_ops; /* user is set by the caller */

/* ---- raftd_apply.c ---- */
void raftd_apply_feed(struct raftd *r, struct raft_entry *const *entries, size_t count);
int raftd_apply_resume(struct raftd *r); /* a new link to stored, r->hello is its HELLO */
void raftd_apply_on_applied(struct raftd *r, const struct proto_applied *a);
void raftd_apply_on_members(struct raftd *r, struct bytes body);
void raftd_apply_forget(struct raftd *r); /* configuration entries on their way */

/* ---- raftd_proposals.c ---- */
struct raftd_proposals *raftd_proposals_new(struct raftd *r);
void raftd_proposals_free(struct raftd_proposals *p);
void raftd_propose(struct raftd_gateway *g, uint64_t request_id, struct bytes payload);
/* Own ones, nobody waits for: 0, or an outcome. */
int raftd_propose_own(struct raftd *r, enum proto_kind kind, struct bytes body);
void raftd_proposals_on_forwarded(struct raftd *r, uint64_t from, struct bytes payload);
void raftd_proposals_on_refused(struct raftd *r, const struct peer_propose_failed *m);
void raftd_proposals_on_committed(struct raftd *r, const struct proto_payload *payload);
void raftd_proposals_on_aborted(struct raftd *r, const struct raft_entry *e);
/* Everything handed over in an older term will not become known any more. */
void raftd_proposals_term_committed(struct raftd *r, uint64_t term);
void raftd_proposals_flush(struct raftd *r); /* a leader may be known now, a role acknowledged */
void raftd_proposals_expire(struct raftd *r);
void raftd_proposals_gateway_down(struct raftd *r, const struct raftd_gateway *g);
size_t raftd_proposals_pending(const struct raftd *r);
bool raftd_proposals_conf_waiting(const struct raftd *r);

/* ---- raftd_move.c ---- */
void raftd_move_leader(struct raftd_gateway *g, uint64_t request_id, uint64_t target);
void raftd_moves_settle(struct raftd *r); /* the leader may have changed, or time passed */
void raftd_moves_fini(struct raftd *r);

/* ---- raftd_reads.c ---- */
struct raftd_reads *raftd_reads_new(struct raftd *r);
void raftd_reads_free(struct raftd_reads *q);
void raftd_reads_add(struct raftd *r, uint64_t barrier_id);
void raftd_reads_flush(struct raftd *r); /* asks for all that came in this turn, once */
void raftd_reads_on_state(struct raftd *r, const struct raft_read_state *s);
void raftd_reads_retry(struct raftd *r, bool now); /* now: a leader has just become known */
void raftd_reads_clear(struct raftd *r);

/* ---- raftd_forward.c: what stored asks for ---- */
void raftd_on_propose_own(struct raftd *r, struct bytes body);
void raftd_forward(struct raftd *r, uint64_t call_id, struct bytes body);
void raftd_forward_on_reply(struct raftd *r, uint64_t call_id, struct bytes body);
void raftd_forward_on_peer(struct raftd *r, uint64_t from, struct bytes body);
void raftd_forward_on_peer_reply(struct raftd *r, struct bytes body);

/* ---- raftd_snapshot.c ---- */
void raftd_snap_send(struct raftd *r, uint64_t peer_id);
void raftd_snap_on_stored(struct raftd *r, const struct ipc_frame *f);
void raftd_snap_on_peer(struct raftd *r, const struct peer_header *h, const struct peer_frame *f);
void raftd_snap_on_peer_down(struct raftd *r, uint64_t peer_id);
void raftd_snap_on_stored_down(struct raftd *r);
void raftd_snap_tick(struct raftd *r);
void raftd_snap_settle(struct raftd *r);
void raftd_snap_activate(struct raftd *r, const struct raft_snapshot *s);
void raftd_snap_leader_changed(struct raftd *r);
void raftd_snap_fini(struct raftd *r);

/* ---- raftd_status.c ---- */
void raftd_status_fill(struct raftd *r, struct proto_raft_status *ret);
void raftd_status_push(struct raftd *r); /* to all, when something a reader acts upon changed */
void raftd_role_reset(struct raftd *r);  /* a new link to stored: no grant, nothing acknowledged */
void raftd_on_role_ack(struct raftd *r, uint64_t seq);
/* Before a membership change: true when reads need barriers again and stored knows. */
bool raftd_local_reads_withdrawn(struct raftd *r);

/* ---- raftd_duties.c: what happens from time to time ---- */
void raftd_tick(void *user);
void raftd_publish(struct raftd *r);
void raftd_compact(struct raftd *r);
void raftd_handover(struct raftd *r);
void raftd_hash_note(struct raftd *r);
void raftd_hash_on_peer(struct raftd *r, uint64_t from, const struct peer_hash *m);

#endif
