/*
 * A member's state machine as the simulator's node sees it. The store is what survives the process;
 * the sm is the process. Implemented over the real keyspace (sim_sm_kv.c).
 */
#ifndef CONCLAVE_SIM_SM_H
#define CONCLAVE_SIM_SM_H

#include "tests/sim/sim.h"

struct sm_state {
    raft_index applied, durable;
    raft_term term;
    uint64_t chain_hash;
};

struct sm_store *sm_store_new(void);
void sm_store_free(struct sm_store *st);
/* The process died; with the host, what was not synced may be lost. */
void sm_store_crash(struct sm_store *st, bool host, struct prng *prng);

struct sm *sm_open(struct sim *s, struct sm_store *st, raft_id member);
void sm_close(struct sm *sm);
void sm_get_state(struct sm *sm, struct sm_state *ret);
void sm_get_conf(struct sm *sm, struct raft_conf *ret);
void sm_begin(struct sm *sm);
/* The outcome of the entry; result->outcome is the same. Executed already: sets *ret_ignored. */
int sm_apply(struct sm *sm, const struct raft_entry *e, const struct sim_op *op,
             struct op_result *result, bool *ret_ignored);
void sm_end(struct sm *sm);
struct lease_table *sm_leases(struct sm *sm);
/* As whom this member vouches for the user; 0: it cannot. */
size_t sm_stamp(struct sm *sm, struct bytes user, uint8_t *out, size_t max, uint64_t *ret_revision);
int64_t sm_revision(struct sm *sm);
void sm_read(struct sm *sm, uint32_t key, struct op_result *result);
/* A little of what happens behind: writing, syncing, compaction, checkpoints. */
void sm_background(struct sm *sm, struct prng *prng, bool all);
/* The whole state as bytes, and back. */
void sm_snapshot(struct sm *sm, struct buf *out, struct sm_state *ret);
struct sm_store *sm_store_restore(struct sim *s, struct bytes data); /* NULL: refused */

#endif
