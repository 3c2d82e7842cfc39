/*
 * The simulator: the real consensus core, log and keyspace of several members in one process, on a
 * simulated clock, network and disk, all driven by one seed. The same seed gives the same run, to
 * the last message.
 *
 *   sim_world.c   the clock's queue of events, the network, the nemesis, the run
 *   sim_node.c    one member: what raftd and stored do around the cores, with crashes between any
 *                 two steps
 *   sim_client.c  clients and their operations
 *   sim_lease.c   what stored does about leases around its keeper; sim_tenant.c: clients that hold
 *                 leases; sim_lease_check.c: when leases may end, and must
 *   sim_auth.c    users, their administrator, and the rules about them
 *   sim_model.c   what the keyspace must do, written down a second time, as simply as possible
 *   sim_check.c   what must always hold, looked at after every step
 *   sim_sm.h      a member's state machine: sim_sm_*.c
 */
#ifndef CONCLAVE_SIM_H
#define CONCLAVE_SIM_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include "lib/proto/messages.h"
#include "lib/util/buf.h"
#include "lib/util/hmap.h"
#include "lib/util/macros.h"
#include "lib/util/prng.h"
#include "raftd/core/raft.h"
#include "stored/lease/lease_clock.h"
#include "stored/lease/lease_keeper.h"

struct wal;
struct wal_disk;
struct sm;
struct sm_store;

enum {
    SIM_NODES = 24, /* ids are never used twice */
    SIM_CLIENTS = 6,
    SIM_KEYS = 6,
    SIM_USERS = 3,
    SIM_TENANTS = 4, /* each holds the lease whose id is its number, from 1 */
    SIM_CLUSTER = 0x51,
    MS = 1000, /* time is in microseconds */
    SECOND = 1000 * 1000,
    OP_TIMEOUT = 4 * SECOND,
};

/* ---- operations ---- */
enum op_kind {
    OP_PUT,
    OP_GET,
    OP_TXN,
    OP_DELETE,
    OP_DELETE_ALL,
    OP_COMPACT,
    OP_CONF,
    OP_GRANT,
    OP_REVOKE,
    OP_RENEW,
    OP_AUTH
};
enum op_state {
    OP_PENDING,
    OP_DONE,    /* answered */
    OP_REFUSED, /* surely never executed */
    OP_UNKNOWN, /* nobody knows */
};

struct kv_view { /* one key as a read shows it */
    bool found;
    uint64_t value; /* id of the operation that wrote it */
    int64_t create_revision, mod_revision, version, lease;
};

struct op_result {
    int outcome;
    int64_t revision; /* of the header; 0 where the answer has none */
    bool succeeded;   /* txn */
    int64_t deleted;
    int64_t ttl; /* grant; renewal: 0: there is no such lease */
    struct kv_view view; /* get, failed txn */
};

struct sim_op {
    uint64_t id;
    enum op_kind kind;
    uint32_t key;
    uint32_t value_bytes;
    int64_t expect_mod; /* txn: put if mod_revision is this, else get */
    int64_t compact_revision;
    int64_t lease, ttl; /* put: 0: none */
    enum proto_kind auth_kind;
    uint32_t auth_user, auth_range; /* whose role is changed, too: each user has one */
    int auth_type;
    uint32_t user; /* who asks, while there is auth */
    uint8_t stamp[96];
    size_t stamp_len; /* 0: nobody vouches */
    uint64_t stamp_revision;
    enum proto_conf_op conf_op;
    raft_id conf_member;
    enum op_state state;
    int client; /* -1: the nemesis */
    raft_id origin;
    uint64_t origin_life;
    uint64_t invoked;
    int64_t min_revision;      /* what had been seen by anyone when it was invoked */
    raft_index committed;      /* 0: not yet */
    struct op_result expected; /* of the model, once committed */
};

/* ---- the model ---- */
struct model_version {
    struct kv_view view; /* found false: deleted at mod_revision */
};
struct model_key {
    struct model_version *versions;
    size_t count, cap;
};
struct model_lease {
    bool exists;
    int64_t ttl;
    uint64_t number;
    uint64_t from;     /* granted, or renewed last: microseconds, as all times here */
    uint64_t promised; /* may not end before */
    uint64_t due;      /* what is after that is late */
};
struct model_auth {
    bool enabled, has_key;
    uint64_t revision;
    bool has_user[SIM_USERS], is_role[SIM_USERS], has_role[SIM_USERS];
    int8_t given[SIM_USERS][SIM_KEYS + 1]; /* to the role, by key, and all keys; -1: nothing */
};
struct model {
    struct model_auth auth;
    struct model_key keys[SIM_KEYS];
    struct model_lease leases[SIM_TENANTS + 1];
    uint64_t granted, keeper_id;
    raft_term keeper_term;
    uint64_t now;
    int64_t revision, compact_revision;
    struct raft_conf conf;
    bool removed[SIM_NODES + 1];
};
void model_init(struct model *m);
void model_fini(struct model *m);
void model_apply(struct model *m, const struct sim_op *op, struct op_result *ret);
struct kv_view model_get(const struct model *m, uint32_t key, int64_t revision);
int64_t model_delete_leased(struct model *m, int64_t lease);
/* 0 when the change takes place, else why not */
int model_conf(struct model *m, enum proto_conf_op op, raft_id id);

/* ---- members ---- */
enum node_state { NODE_ABSENT, NODE_DOWN, NODE_UP, NODE_GONE };

enum write_kind { WRITE_READY, WRITE_MARKER };
struct write_item {
    enum write_kind kind;
    struct raft_ready ready;
    struct sm_store *staged; /* with ready.has_snapshot; NULL then: the state is there (a jump) */
    bool activated;
    struct raft_snapshot marker;
    raft_index trim;
};

struct waiting_read {
    uint64_t op;
    uint64_t read_id;
    raft_index index; /* 0: barrier not answered yet */
};

/* What stored has about leases, beside the table. */
struct node_leases {
    struct sim *sim;
    struct sim_node *node;
    bool open; /* with the state machine */
    struct lease_keeper keeper;
    struct lease_clock clock;
    uint64_t keeper_id, keeper_asked;
    bool leads; /* as of the last ROLE */
    raft_term term;
    raft_term news_term;  /* of the ROLE that is on its way, */
    uint64_t deaf_until;  /* and when it arrives at the earliest */
    uint64_t calls[SIM_TENANTS * 2]; /* renewals that wait: operations */
    size_t call_count, asked_count;  /* the first of them wait for the barrier */
    uint64_t barrier_id, barrier_asked;
    raft_term barrier_term;
    raft_index barrier_index;
    bool barrier_known;
    uint64_t own_at; /* when raftd has what was sent to it last */
    uint64_t seen_changes; /* of the table, when calls were last looked at */
    bool parked;           /* what waits, waits for a change of the table, or the tick */
    bool due;              /* there is something to look at */
};

struct transfer {
    uint64_t id;
    raft_id peer;
};

struct sim_node {
    raft_id id;
    enum node_state state;
    uint64_t life; /* incarnation: events of a former one are dropped */
    uint64_t paused_until;
    uint64_t tick_us;
    struct wal_disk *disk;
    struct wal *wal;
    struct raft *raft;

    struct write_item *writes;
    size_t write_count, write_cap, writing; /* the first `writing` are at the disk */
    bool disk_busy;
    uint64_t slow_until;

    struct sm_store *store;
    struct sm *sm;
    uint64_t sm_life;
    struct raft_entry **apply;
    size_t apply_count, apply_cap;
    bool apply_due;
    bool activating; /* a received snapshot is on its way to the disk */

    struct sm_store *staged;
    raft_index staged_index;
    struct transfer transfers[SIM_NODES];
    size_t transfer_count;

    struct waiting_read *reads;
    size_t read_count, read_cap;

    struct node_leases leases;
    int64_t clock_ppm; /* how much too fast */

    /* checker's memory */
    raft_term led_term;
    raft_index led_last;
    raft_index seen_commit;
    uint64_t seen_conflicts;
};

/* ---- events ---- */
enum event_type {
    EV_TICK,
    EV_MESSAGE,
    EV_DISK,
    EV_APPLY,
    EV_BACKGROUND,
    EV_CLIENT,
    EV_OP_TIMEOUT,
    EV_NEMESIS,
    EV_RESTART,
    EV_SM_RESTART,
    EV_SNAP_DATA,
    EV_SNAP_END,
    EV_SNAP_TIMEOUT,
    EV_SUBMIT,
    EV_SPLIT,
    EV_OWN,  /* an entry that stored proposes arrives at raftd */
    EV_SWAP, /* a tenant revokes and grants at the moment its lease is due */
};

struct event {
    uint64_t at, seq;
    enum event_type type;
    raft_id node; /* 0: the world */
    uint64_t life;
    uint64_t a, b;
    raft_id from;
    uint8_t *data; /* owned */
    size_t len;
};

struct committed {
    raft_term term;
    raft_term commit_term; /* of whoever knew first */
    uint64_t hash;
    int64_t revision;    /* of the model after it */
    uint64_t chain_hash; /* of the state after it; 0: nobody said */
    bool has_chain;
};

enum sim_kind { SIM_ANY, SIM_MIXED, SIM_CHURN, SIM_MEMBERS, SIM_LEASES, SIM_AUTH, SIM_KIND_COUNT };

struct sim_options {
    enum sim_kind kind; /* SIM_ANY: the seed draws it */
    bool trace;
    bool quiet;
    uint64_t stop_at; /* 0: the run's own length */
};

struct sim {
    uint64_t seed, now, seq;
    struct prng prng;
    struct sim_options options;
    jmp_buf failed;
    char why[512];

    struct event **heap;
    size_t heap_count, heap_cap;
    uint64_t steps;

    struct sim_node nodes[SIM_NODES + 1];
    raft_id next_node;
    bool cut[SIM_NODES + 1][SIM_NODES + 1];
    /* how this run goes, drawn from the seed */
    uint32_t loss_pm, dup_pm, delay_max_us, slow_pm; /* per mille */
    uint32_t nemesis_ms, weights[16];
    uint32_t log_keep, think_ms, append_bytes, inflight, split_pm;
    uint64_t chaos_end, end;
    bool calm, no_pre_vote;
    bool churn;   /* mostly leaders are hit, again and again */
    bool members; /* mostly membership changes */
    bool leases;  /* there are tenants */
    bool auth;    /* there are users, and an administrator */
    size_t admin_step;
    struct {
        bool held;
        int64_t ttl;
    } tenants[SIM_TENANTS];
    uint64_t keeper_ids, barrier_ids;
    uint64_t *own; /* when stored's own entries were proposed; their request ids count from 1 */
    size_t own_count, own_cap;
    struct { /* without a keeper that could have entries committed */
        uint64_t from, to;
    } *gaps;
    size_t gap_count, gap_cap;
    uint64_t keeper_said; /* when its newest agreed entry was proposed */
    bool keeper_changed;  /* since then */
    uint64_t *lease_ends; /* when a lease expired, by its number; 0: it did not */
    size_t lease_end_count;
    uint64_t renewed_count, expired_count;

    struct sim_op *ops;
    size_t op_count, op_cap;
    int64_t max_revision; /* in any answer so far */
    uint64_t done_count, unknown_count, refused_count, conf_count, read_count;

    /* what the members have agreed on */
    struct committed *log; /* log[i] is index i */
    raft_index log_last;
    size_t log_cap;
    struct model model;
    struct hmap entries; /* (term, index) -> struct known_entry */
    struct hmap leaders; /* term -> id */
    struct hmap votes;   /* (term, voter) -> candidate */
    uint64_t snapshots_installed, crashes, elections;
};

_Noreturn void sim_fail(struct sim *s, const char *fmt, ...) PRINTF_LIKE(2, 3);
void sim_trace(struct sim *s, const char *fmt, ...) PRINTF_LIKE(2, 3);
#define TRACE(s, ...)                                                                              \
    do {                                                                                           \
        if (UNLIKELY((s)->options.trace))                                                          \
            sim_trace((s), __VA_ARGS__);                                                           \
    } while (0)
#define CHECK(s, cond, ...)                                                                        \
    do {                                                                                           \
        if (UNLIKELY(!(cond)))                                                                     \
            sim_fail((s), __VA_ARGS__);                                                            \
    } while (0)

/* sim_world.c */
struct event *sim_post(struct sim *s, uint64_t after_us, enum event_type type, raft_id node);
bool sim_chance(struct sim *s, uint32_t per_mille);
uint64_t sim_between(struct sim *s, uint64_t lo, uint64_t hi); /* both included */
/* data is copied; once: not duplicated by the network */
void sim_send(struct sim *s, raft_id from, raft_id to, struct bytes data, bool once);
bool sim_connected(const struct sim *s, raft_id from, raft_id to);
/* 0 when the run was clean, else 1 with s->why */
int sim_run(uint64_t seed, const struct sim_options *options, struct sim **ret);
void sim_free(struct sim *s);
raft_id sim_leader(const struct sim *s); /* newest term, up */

/* sim_node.c */
void node_create(struct sim *s, raft_id id, size_t bootstrap_count); /* 0: joins */
void node_start(struct sim *s, struct sim_node *n);
/* host: what was not synced may be lost; else only the process dies */
void node_crash(struct sim *s, struct sim_node *n, bool host);
void node_sm_crash(struct sim *s, struct sim_node *n);
void node_event(struct sim *s, struct sim_node *n, const struct event *e);
void node_pump(struct sim *s, struct sim_node *n); /* after every input */
/* Takes a client's operation. Answers come through op_answer. */
void node_submit(struct sim *s, struct sim_node *n, struct sim_op *op);
void node_free(struct sim_node *n);

/* sim_client.c */
struct sim_op *op_new(struct sim *s, enum op_kind kind);
struct sim_op *op_get(struct sim *s, uint64_t id);
void op_payload(const struct sim_op *op, struct buf *b); /* the entry's data */
void op_answer(struct sim *s, struct sim_op *op, const struct op_result *result);
void op_refuse(struct sim *s, struct sim_op *op, const char *why);
void clients_start(struct sim *s);
void client_next(struct sim *s, int client);
void op_timeout(struct sim *s, uint64_t id);
const char *op_name(enum op_kind kind);

/* sim_lease.c */
void lease_opened(struct sim *s, struct sim_node *n); /* the state machine was */
void lease_gone(struct sim_node *n);                  /* before it is closed */
void lease_turn(struct sim *s, struct sim_node *n);
void lease_tick(struct sim *s, struct sim_node *n);
void lease_submit(struct sim *s, struct sim_node *n, struct sim_op *op);
/* False: not a barrier of leases. */
bool lease_barrier(struct sim_node *n, const struct raft_read_state *rs);
void lease_propose_own(struct sim *s, struct sim_node *n, const struct event *e);

/* Entries that stored proposes, not a client. */
static inline bool lease_is_own(enum proto_kind kind)
{
    return kind >= PROTO_KIND_LEASE_KEEPER && kind <= PROTO_KIND_LEASE_EXPIRE;
}

/* sim_auth.c */
struct bytes auth_user_name(uint32_t user);
void auth_body(const struct sim_op *op, struct buf *b);
void auth_vouch(struct sim *s, struct sim_node *n, struct sim_op *op);
void model_auth_init(struct model_auth *a);
int model_admit(const struct model *m, const struct sim_op *op);
int model_auth(struct model *m, const struct sim_op *op);
void admin_start(struct sim *s);
void admin_next(struct sim *s);
void admin_answered(struct sim *s, const struct sim_op *op);

/* sim_tenant.c */
void tenants_start(struct sim *s);
void tenant_next(struct sim *s, size_t tenant);
void tenant_answered(struct sim *s, const struct sim_op *op, const struct op_result *result);
void tenant_swap(struct sim *s, size_t tenant);

/* sim_lease_check.c */
/* An entry of stored's own is agreed on. */
void check_lease_entry(struct sim *s, raft_term term, const struct proto_payload *p);
/* A keeper has renewed; asked: when it began to make sure that it leads. */
void check_lease_renewed(struct sim *s, const struct lease *l, uint64_t asked);
/* A keeper counts the TTL from now, though nobody was promised anything. */
void check_lease_counted(struct sim *s, const struct lease *l);
void check_leases_end(struct sim *s);
void check_lease_gap(struct sim *s, uint64_t from, uint64_t to);
void check_lease_fini(struct sim *s);

/* sim_check.c */
void check_entries(struct sim *s, struct sim_node *n, struct raft_entry **entries, size_t count,
                   raft_term prev);
void check_message(struct sim *s, const struct raft_msg *m);
void check_applied(struct sim *s, struct sim_node *n, const struct raft_entry *e, int outcome,
                   const struct op_result *result);
void check_chain(struct sim *s, struct sim_node *n, raft_index index, uint64_t chain_hash);
void check_node(struct sim *s, struct sim_node *n);
void check_started(struct sim *s, struct sim_node *n);
void check_answer(struct sim *s, const struct sim_op *op, const struct op_result *result);
void check_end(struct sim *s);
void check_fini(struct sim *s);

#endif
