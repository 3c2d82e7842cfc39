/*
 * The stored process: one keyspace, one engine, a link to raftd and one to each gatewayd.
 *
 * stored_open/start/stop/close are the daemon's life without the daemon skeleton, so that a test
 * can run several of them in one process; main.c ties them to lib/daemon.
 */
#ifndef CONCLAVE_STORED_STORED_H
#define CONCLAVE_STORED_STORED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/conf/conf.h"
#include "lib/proto/messages.h"
#include "lib/util/buf.h"
#include "lib/util/hmap.h"
#include "lib/util/list.h"
#include "stored/compactor.h"
#include "stored/engine/engine_leveldb.h"
#include "stored/kv/kv.h"
#include "stored/stored_dir.h"

struct ipc_link;
struct loop;
struct loop_hook;
struct loop_timer;
struct stored;
struct watch_hub;
struct watch_log;

enum {
    STORED_GATEWAYS_MAX = 64,
    STORED_PART_BYTES = 64 << 10,        /* of an answer produced in slices */
    STORED_RESULT_PART_BYTES = 1 << 20,  /* of an answer that is there as a whole */
    STORED_READ_SLICE_NS = 1000000,      /* per turn for answers in parts */
    STORED_APPLY_SLICE_NS = 5000000,     /* per turn while catching up */
    STORED_REPORT_MS = 5,                /* raftd hears at the latest then what was executed, */
    STORED_REPORT_ENTRIES = 256,         /* or once so many entries were */
    STORED_WAITING_READS_MAX = 65536,    /* per gatewayd; above it OUT_TOO_MANY_REQUESTS */
    STORED_WAITING_BYTES_MAX = 64 << 20, /* per gatewayd, of their requests */
    STORED_SNAP_WINDOW_BYTES = 4 << 20,  /* sent beyond what SNAP_ACK acknowledged */
};

struct stored_conf {
    char *data_dir;
    int64_t quota_backend_bytes;
    int64_t compaction_batch_limit;
    uint64_t compaction_sleep_ns;
    uint64_t value_cache_bytes;
    uint64_t gateway_count;
    bool unsafe_no_fsync;
    uint64_t checkpoint_interval_ns;
    uint64_t checkpoint_entries;
    uint64_t watch_stall_ns; /* 0: never */
    char *auto_compaction_mode, *auto_compaction_retention;
    char *auth_token; /* "simple" or "jwt,..." */
    uint64_t auth_token_ttl_s;
    uint64_t bcrypt_cost;
};
extern const struct conf_field stored_conf_fields[];

struct stored_args {
    struct loop *loop;
    const struct stored_conf *conf; /* borrowed for the life of stored */
    const char *run_dir;            /* copied */
    uint64_t generation;
    void (*ready)(void *user); /* open, linked to raftd, caught up with its first ROLE */
    void (*stopped)(void *user);
    void (*fatal)(void *user, const char *text); /* any thread; does not return, except in tests */
    void *user;
};

/* One gatewayd. */
struct stored_gateway {
    struct stored *s;
    uint32_t index;
    struct ipc_link *link;
    uint64_t generation; /* of the process on the other side; 0: link down */
    uint64_t hello_generation;
    struct hmap reads;   /* request id -> struct stored_read: all that wait or are being answered */
    struct list blocked; /* may be answered, as soon as the link takes more */
    uint64_t waiting_bytes;
    struct watch_hub *watches; /* NULL: none yet */
};

/* Reads that share a barrier. */
struct stored_barrier {
    struct list node; /* in stored.barriers, by age */
    uint64_t id;      /* 0: not asked yet */
    bool known;       /* BARRIER_INDEX came */
    uint64_t index;
    struct list reads; /* struct stored_read.node */
};

struct stored_auth;
struct stored_checkpoint;
/* A snapshot transfer in either direction; one of each at a time. */
struct stored_snap_out;
struct stored_snap_in;

struct stored {
    struct stored_args args;
    struct loop *loop;
    const struct stored_conf *conf;
    char *run_dir;
    struct stored_dir dir;
    struct engine_leveldb *engine;
    struct kv *kv;
    bool failed; /* fatal was called: nothing may be applied any more */
    bool stopping;

    /* identity: from raftd, once known */
    uint64_t cluster_id, member_id;
    uint64_t quota_bytes; /* 0: no limit */

    /* raftd */
    struct ipc_link *raftd;
    bool raftd_up;
    bool have_role;
    struct proto_raft_status role; /* of the link that is up */
    uint64_t first_commit_index;   /* of the first ROLE of this link */
    bool ready;
    uint64_t refused_cluster, refused_member; /* logged once per offender */
    uint64_t malformed_count;

    /* apply (stored_apply.c) */
    struct loop_hook *work_hook;
    struct buf committed; /* COMMITTED bodies of the turn, not executed yet */
    size_t committed_pos;
    struct buf scratch;
    bool out_of_order;       /* raftd sent a gap: nothing is executed until it connects anew */
    uint64_t reported_index; /* in the last APPLIED */
    struct loop_timer *report_timer;
    bool report_now; /* an entry was executed that raftd waits for */
    uint64_t reported_durable;
    struct list held;           /* answers of physical compactions under way */
    uint64_t tables_generation; /* of the members list raftd knows */

    /* reads (stored_reads.c) */
    struct stored_gateway *gateways;
    struct list barriers;
    uint64_t last_barrier_id;
    struct loop_timer *barrier_timer; /* active: no leader, ask again when it fires */
    struct list active;               /* answers in parts, round robin */
    unsigned int export_count;        /* of them snapshots */

    /* watches (stored_watch.c) */
    struct watch_log *watch_log;
    struct loop_timer *watch_timer;
    struct stored_auth *auth; /* stored_auth.h */
    struct stored_leases *leases; /* stored_leases.c */

    /* the quota (stored_space.c) */
    uint64_t space_told; /* bytes used, as gatewayd was told */
    struct list refused; /* writes that wait for the alarm */
    size_t refused_count;
    struct loop_timer *space_timer; /* active: the alarm was proposed */

    /* background */
    struct list defragments; /* callers that wait */
    size_t defragment_count;
    bool merging; /* the engine is */
    struct loop_timer *defragment_timer;
    struct compactor compactor;
    struct loop_timer *compactor_timer; /* NULL: off */
    struct loop_timer *compact_timer;
    struct loop_timer *checkpoint_timer;
    struct stored_checkpoint *checkpoint; /* in the making */
    uint64_t checkpoint_index;            /* of the one in place */
    uint64_t checkpoint_begun_ns;
    struct stored_snap_out *snap_out;
    struct stored_snap_in *snap_in;
};

/* Over xmalloc_tune: a mapped block costs a fault for each page every time, which would be a third of
 * what an answer of a few 100 kB takes. */
void stored_tune_malloc(void);

int stored_open(struct stored *s, const struct stored_args *args); /* logs why not */
int stored_start(struct stored *s);
void stored_stop(struct stored *s);  /* then args.stopped, not from inside */
void stored_close(struct stored *s); /* accepts a half-opened one */
void stored_reload(struct stored *s, const struct stored_conf *conf);
void stored_fatal(struct stored *s, const char *text);

/* The state (engine and keyspace) of dir.db. */
int stored_state_open(struct stored *s);
void stored_state_close(struct stored *s);

/* Which member of which cluster the directory belongs to: member/db.id. */
int stored_identity_save(struct stored *s, uint64_t cluster_id, uint64_t member_id);
void stored_check_ready(struct stored *s);

/* stored_ipc.c */
void stored_members_changed(struct stored *s); /* MEMBERS, when raftd does not know them */
int stored_ipc_start(struct stored *s);
void stored_ipc_stop(struct stored *s);

/* stored_apply.c */
void stored_apply_committed(struct stored *s, struct bytes body);
void stored_apply_work(struct stored *s);         /* LOOP_PHASE_WORK */
void stored_apply_reset(struct stored *s);        /* link down: what was not executed comes again */
void stored_apply_report(struct stored *s);       /* APPLIED, when it says something new */
void stored_apply_report_soon(struct stored *s); /* together with what follows */
void stored_apply_release_held(struct stored *s); /* answers of finished compactions */
void stored_apply_drop_held(struct stored *s);
/* After every turn that executed something: ready, members, background work. */
void stored_after_apply(struct stored *s);

/* stored_reads.c */
void stored_reads_init(struct stored *s);
void stored_reads_fini(struct stored *s);
void stored_read(struct stored_gateway *gw, uint64_t id, struct bytes body);
void stored_read_cancel(struct stored_gateway *gw, uint64_t id);
void stored_read_ack(struct stored_gateway *gw, uint64_t id, uint64_t bytes);
void stored_reads_gateway_down(struct stored_gateway *gw);
void stored_reads_barrier_index(struct stored *s, uint64_t id, const struct proto_barrier_index *m);
void stored_reads_raftd_down(struct stored *s);
void stored_reads_work(struct stored *s);       /* LOOP_PHASE_WORK, after applying */
void stored_reads_end_active(struct stored *s); /* before the state goes away */
/* A whole answer; message empty unless OUT_OK. */
void stored_send_result(struct stored_gateway *gw, uint64_t id, int outcome, struct bytes message);
struct kv_header stored_header(const struct stored *s);

/* stored_watch.c */
void stored_watch_init(struct stored *s);
void stored_watch_fini(struct stored *s);
int stored_watch_frame(struct stored_gateway *gw, uint16_t type, uint64_t id, struct bytes body);
void stored_watch_gateway_down(struct stored_gateway *gw);
void stored_watch_applied(struct stored *s);     /* after every turn that executed something */
void stored_watch_work(struct stored *s);        /* LOOP_PHASE_WORK */
void stored_watch_state_open(struct stored *s);  /* a keyspace is there, the first or a newer one */
void stored_watch_state_close(struct stored *s); /* before it goes */

/* Reads need no barrier just now: the grant of raftd (ARCHITECTURE.md decision 2). */
bool stored_needs_no_barrier(const struct stored *s);

/* stored_leases.c */
struct stored_lease_stats {
    uint64_t renewed_total;
};
void stored_leases_init(struct stored *s);
void stored_leases_fini(struct stored *s);
void stored_leases_role(struct stored *s);       /* ROLE came, or the link to raftd broke */
void stored_leases_work(struct stored *s);       /* LOOP_PHASE_WORK, after applying */
void stored_leases_state_gone(struct stored *s); /* before the state goes away */
/* LEASE_KEEP_ALIVE and LEASE_TTL. An outcome: refused; OUT_OK: answered later. */
int stored_leases_read(struct stored_gateway *gw, uint64_t id, enum proto_read_kind kind,
                       struct bytes body);
void stored_leases_list(struct stored *s, struct buf *message);
/* False: the barrier is not one of leases. */
bool stored_leases_barrier_index(struct stored *s, uint64_t id, const struct proto_barrier_index *m);
int stored_leases_forwarded(struct stored *s, uint64_t id, struct bytes body);
int stored_leases_forward_result(struct stored *s, uint64_t id, struct bytes body);
void stored_leases_get_stats(const struct stored *s, struct stored_lease_stats *ret);

/* stored_snapshot.c */
/* 0, or -EBADMSG: malformed */
int stored_snapshot_frame(struct stored *s, uint16_t type, uint64_t id, struct bytes body);
void stored_snapshot_down(struct stored *s); /* the link to raftd broke: transfers end */
void stored_snapshot_end_out(struct stored *s);
void stored_snapshot_work(struct stored *s);

/* stored_compact.c */
int stored_compact_init(struct stored *s);
void stored_compact_fini(struct stored *s);
void stored_compact_kick(struct stored *s); /* there may be something to do */

/* stored_space.c */
void stored_space_init(struct stored *s);
void stored_space_fini(struct stored *s);
uint64_t stored_used_bytes(const struct stored *s); /* what counts for the quota */
void stored_space_gateway_up(struct stored_gateway *gw);
void stored_space_changed(struct stored *s); /* something was executed */
/* PROTO_READ_ADMIT: 0 or an outcome; -EINPROGRESS: answered later. */
int stored_space_admit(struct stored_gateway *gw, uint64_t id, struct bytes body);
/* An entry of our own, nobody waits for it. term: see proto_propose_own. */
void stored_propose_own(struct stored *s, uint64_t term, enum proto_kind kind, struct bytes body);

/* stored_defragment.c */
void stored_defragment_init(struct stored *s);
void stored_defragment_fini(struct stored *s);
int stored_defragment(struct stored_gateway *gw, uint64_t id); /* -EINPROGRESS, or an outcome */
void stored_defragment_kick(struct stored *s);
void stored_defragment_merged(void *user);
void stored_defragment_state_closed(struct stored *s);

/* stored_auto_compact.c */
int stored_auto_compact_start(struct stored *s);
void stored_auto_compact_fini(struct stored *s);

/* stored_checkpoint.c */
void stored_checkpoint_start(struct stored *s);
void stored_checkpoint_stop(struct stored *s);
void stored_checkpoint_abandon(struct stored *s); /* the one in the making */
void stored_checkpoint_work(struct stored *s);
int stored_checkpoint_final_write(struct stored *s, struct stored_checkpoint **ret);
int stored_checkpoint_final_place(struct stored_checkpoint *c);
int stored_checkpoint_map(const struct stored *s, struct bytes *ret);
void stored_checkpoint_unmap(struct bytes map);

/* ---- stored_metrics.c ---- */
void stored_metrics(struct stored *s, struct buf *b); /* appends the families of stored */

#endif
