/*
 * A small cluster of real raftd processes whose stored and gatewayd are played by the test: a
 * fake keyspace that executes by remembering, checks that entries come in order and without gaps,
 * and that all members execute the same.
 */
#ifndef CONCLAVE_TESTS_RAFTD_CLUSTER_H
#define CONCLAVE_TESTS_RAFTD_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "lib/ipc/ipc.h"
#include "lib/loop/loop.h"
#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "raftd/raftd_members.h"

enum { NODES_MAX = 4, LOG_MAX = 200000, REQUESTS_MAX = 100000 };

struct cluster;

/* What a keyspace is here. */
struct fake_state {
    uint64_t applied, term, hash;
    struct raftd_members members;
};

struct node {
    struct cluster *c;
    int i;
    char dir[128];
    char peer_url[64];
    char extra_conf[512];
    pid_t pid;
    int control_fd;
    int exit_status;

    struct ipc_link *stored;
    bool stored_up, hold_applied;
    struct fake_state state;
    uint64_t cluster_id, member_id;
    struct proto_raft_status role;
    uint64_t role_id;
    bool hold_role_ack;
    uint64_t delivered;        /* frames' entries seen on this link */
    uint64_t barrier_sent, barrier_done;
    struct proto_barrier_index barrier;
    uint64_t applied_told;

    /* snapshots */
    uint64_t out_id, out_offset, out_acked;
    bool out_active;
    struct fake_state out_state;
    uint64_t in_id, in_bytes;
    bool in_active;
    struct fake_state in_state;
    unsigned int snapshots_sent, snapshots_activated;
    bool break_at_activate; /* activate, then lose the link before DONE */

    struct ipc_link *gateway;
    bool gateway_up;
    uint64_t generation, stored_generation;
    struct proto_raft_status status;
};

struct cluster {
    struct loop *loop;
    char dir[64];
    int count;
    struct node nodes[NODES_MAX];
    const char *conf; /* extra lines for all */
    uint64_t log_hash[LOG_MAX]; /* of the entry executed at this index by whoever was first */
    uint64_t log_last;
    /* by request id; ids are unique over all nodes */
    uint8_t done[REQUESTS_MAX];  /* times executed, per log position (not per member) */
    uint64_t done_index[REQUESTS_MAX];
    uint8_t failed[REQUESTS_MAX]; /* outcome */
    uint64_t last_request;
    unsigned int alarm_count; /* ALARM entries; the body of the newest */
    uint8_t alarm_body[64];
    size_t alarm_len;
    int called[REQUESTS_MAX]; /* by request id: outcome of a RAFT_CALL, -1 before */
};

struct cluster *cluster_new(int count, const char *conf);
void cluster_free(struct cluster *c);

void node_start(struct node *n); /* raftd, and links to it */
void node_start_existing(struct node *n, const char *initial_cluster);
void node_spawn(struct node *n, const char *initial_cluster, const char *state);
void node_kill(struct node *n, int sig); /* SIGKILL, SIGTERM (asked to stop): and reap. SIGSTOP, SIGCONT */
void node_stored_start(struct node *n);
void node_stored_stop(struct node *n);
void node_gateway_start(struct node *n);
void node_gateway_stop(struct node *n);
bool node_exited(struct node *n);

/* Runs the loop until the condition holds; fails the test after 20 s. */
#define WAIT(c_, cond)                                                                             \
    do {                                                                                           \
        uint64_t until_ = loop_clock_ns() + 60000000000u;                                          \
                                                                                                   \
        while (!(cond)) {                                                                          \
            loop_run_once((c_)->loop, 20);                                                         \
            cr_assert(loop_clock_ns() < until_, "not within 60 s: %s", #cond);                     \
        }                                                                                          \
    } while (0)

struct node *cluster_leader(struct cluster *c); /* whom a majority of running ones names; or NULL */
/* Proposes a put with this body; returns its request id. */
uint64_t node_propose(struct node *n, enum proto_kind kind, struct bytes body);
/* A MoveLeader call; its outcome. */
int node_move_leader(struct node *n, uint64_t member);
bool request_settled(struct cluster *c, uint64_t id);
void node_barrier(struct node *n);
bool cluster_converged(struct cluster *c); /* all running ones executed the same index */

#endif
