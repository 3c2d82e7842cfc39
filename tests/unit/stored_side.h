/*
 * stored as a whole, with its real links: the test is raftd and gatewayd. Everything runs on one
 * loop, so `until` turns it until something is true. Each test has `one`, which is up; those that
 * need `two` init it.
 */
#ifndef CONCLAVE_TESTS_STORED_SIDE_H
#define CONCLAVE_TESTS_STORED_SIDE_H

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdint.h>
#include "lib/ipc/ipc.h"
#include "lib/loop/loop.h"
#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/util/buf.h"
#include "stored/stored.h"

enum { MEMBER = 0x8e9e05c5, CLUSTER = 0xcdf81819, GENERATION = 7, TERM = 2, ANSWERS_MAX = 64 };

struct answer {
    uint64_t id;
    int outcome;
    uint64_t total_bytes;
    struct buf message;
    unsigned int parts;
};

/* One stored with the raftd and the gatewayd that talk to it. */
struct side {
    char dir[80];
    struct stored_conf conf;
    struct stored s;
    bool running, ready, stopped;
    char *fatal;
    /* as raftd */
    struct ipc_link *raftd;
    uint64_t cluster_id, member_id;
    bool raftd_up;
    unsigned int hello_count;
    struct proto_hello hello;
    struct proto_applied applied;
    uint64_t next_index;
    unsigned int barrier_count, role_ack_count, members_count;
    uint64_t barrier_id;
    struct buf members;
    struct buf own; /* the newest PROPOSE_OWN */
    unsigned int forward_count;
    uint64_t forward_id;
    struct buf snap_meta;
    struct buf *snap_chunks; /* bodies */
    size_t snap_chunk_count;
    bool snap_last;
    bool snap_hold; /* do not ack */
    uint64_t snap_acked;
    int staged, done; /* outcome, -1 before */
    /* as gatewayd */
    struct ipc_link *gateway;
    bool gateway_up;
    struct answer answers[ANSWERS_MAX];
    size_t answer_count;
    uint64_t next_id;
    struct proto_space space; /* as told last */
};

extern struct loop *loop;
extern struct side one, two;

/* Of a TestSuite. */
void side_setup(void);
void side_teardown(void);

#define until(cond)                                                                                \
    do {                                                                                           \
        while (!(cond))                                                                            \
            loop_run_once(loop, 1000);                                                             \
    } while (0)

extern const struct ipc_link_ops side_gateway_ops;
/* Turns the loop a few times: long enough for what must not happen to happen. */
void side_settle(void);
/* NULL: nothing of it came. */
struct answer *side_answer(struct side *d, uint64_t id);
/* All parts are there. */
bool side_answered(struct side *d, uint64_t id);
struct ipc_link *side_link_start(struct side *d, const char *name, bool listen,
                                 const struct ipc_link_ops *ops);
void side_raftd_start(struct side *d);
void side_raftd_stop(struct side *d);
/* The daemon alone, without its links. */
void side_stored_up(struct side *d);
void side_stored_down(struct side *d);
void side_forget_answers(struct side *d);
void side_init(struct side *d);
/* stored, and the links of raftd and gatewayd to it. */
void side_up(struct side *d);
void side_fini(struct side *d);
void side_remove_tree(const char *path);
/* COMMITTED of one entry; returns its request id. */
uint64_t side_commit(struct side *d, enum proto_kind kind, uint64_t origin, uint64_t generation,
                     struct bytes body);
void side_put_request(struct buf *b, const char *key, struct bytes value);
uint64_t side_put(struct side *d, const char *key, const char *value);
/* Until stored has told that it executed everything committed so far. */
void side_apply_all(struct side *d);
void side_put_many(struct side *d, unsigned int count, size_t value_len);
/* READ, whose answer side_answer has later. side_get and side_get_all choose the id. */
void side_read(struct side *d, uint64_t id, enum proto_read_kind kind, bool linearizable,
               struct bytes body);
uint64_t side_get(struct side *d, const char *key, bool linearizable);
uint64_t side_get_all(struct side *d);
/* Of a RangeResponse, and its count. */
struct bytes side_first_value(struct side *d, uint64_t id, uint64_t *ret_count);
void side_expect_value(struct side *d, uint64_t id, const char *value);
void side_expect_outcome(struct side *d, uint64_t id, int outcome);
void side_send_role(struct side *d, uint64_t commit_index, bool local_reads);
void side_answer_barrier(struct side *d, uint64_t id, int outcome, uint64_t index);
/* HashKV of all, by the daemon. */
void side_hash_kv(struct side *d, struct buf *ret);
uint64_t side_compact(struct side *d, int64_t revision, bool physical);

#endif
