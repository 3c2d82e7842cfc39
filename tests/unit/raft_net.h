/*
 * A few raft cores and a wire between them, for scenario tests. Everything is delivered in order by
 * net_run until nobody has anything to say; links can be cut in one direction, and a member's
 * disk can be held, which leaves its readies unwritten. Crashing drops what was not written.
 */
#ifndef CONCLAVE_TEST_RAFT_NET_H
#define CONCLAVE_TEST_RAFT_NET_H

#include "raftd/core/raft.h"

enum { NET_NODES = 8, NET_ENTRIES = 4096, NET_HELD = 64, NET_READS = 64 };

struct node {
    raft_id id;
    struct raft *raft;
    struct raft_config config;
    /* on disk */
    struct raft_entry *log[NET_ENTRIES]; /* log[i] is index i; NULL below first */
    raft_index first, last;
    raft_term before_term;
    struct raft_hard_state hs;
    struct raft_conf conf; /* of the state machine, as of applied */
    raft_index applied;
    /* state machine: what was executed, as (term << 32 | index) sums to compare */
    uint64_t state_hash;
    struct raft_ready held[NET_HELD];
    size_t held_count;
    bool hold_disk, hold_apply, down, fetch_again;
    struct raft_read_state reads[NET_READS];
    size_t read_count, aborted_count, snapshot_count, snapshots_wanted;
    raft_id snapshot_peer;
    size_t sent[RAFT_MSG_TYPE_MAX + 1];
};

struct net {
    struct node nodes[NET_NODES + 1]; /* by id, from 1 */
    size_t count;
    struct raft_conf initial_conf;
    bool cut[NET_NODES + 1][NET_NODES + 1]; /* from, to */
    struct raft_msg *queue;
    size_t queue_count, queue_cap;
    bool (*drop)(const struct raft_msg *m); /* NULL: nothing is dropped */
    bool auto_snapshot;                     /* transfers succeed at once */
};

struct net *net_new(size_t voters);
/* count members, of which the first `voters` vote; all know the configuration */
struct net *net_new_conf(size_t count, size_t voters, const struct raft_config *config);
void net_free(struct net *n);
struct raft *net_raft(struct net *n, raft_id id);
void net_run(struct net *n);
void net_tick(struct net *n, size_t ticks); /* all members, running after each */
void net_tick_one(struct net *n, raft_id id, size_t ticks);
void net_elect(struct net *n, raft_id id); /* campaigns and must win */
raft_id net_leader(struct net *n);         /* of the highest term, 0: none */
int net_propose(struct net *n, raft_id id, const char *text);
int net_propose_conf(struct net *n, raft_id id, enum raft_conf_op op, raft_id member);
void net_isolate(struct net *n, raft_id id, bool cut);
void net_heal(struct net *n);
void net_write_held(struct net *n, raft_id id,
                    size_t count); /* the oldest readies reach the disk */
void net_crash(struct net *n, raft_id id);
void net_restart(struct net *n, raft_id id);
void net_add_blank(struct net *n, raft_id id); /* a member without log or configuration */
void net_compact(struct net *n, raft_id id, raft_index keep_from);
/* A message as if it had come from a peer. */
int net_inject(struct net *n, struct raft_msg m);
raft_index net_commit(struct net *n, raft_id id);
void net_check_logs(struct net *n); /* committed prefixes are equal */

#endif
