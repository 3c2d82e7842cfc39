/*
 * Shared by stored_leases.c, which keeps leases while this member leads, and stored_lease_calls.c,
 * which answers what only the keeper can tell.
 */
#ifndef CONCLAVE_STORED_STORED_LEASES_H
#define CONCLAVE_STORED_STORED_LEASES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/list.h"
#include "stored/lease/lease_clock.h"
#include "stored/lease/lease_keeper.h"
#include "stored/stored.h"

struct stored_leases {
    struct lease_keeper keeper;
    struct loop_timer *timer;
    struct list fresh, asked, parked, forwards;
    struct list answered; /* by the leader, which is ahead of this member */
    size_t call_count;
    uint64_t barrier_id, barrier_term, barrier_asked_ms; /* id 0: none asked */
    uint64_t barrier_index;
    bool barrier_known;
    uint64_t last_forward_id;
    uint64_t hold_until_ms;    /* nothing is asked before */
    uint64_t keeper_id; /* of this reign: entries of one before do not count any more */
    uint64_t keeper_asked_ms;
    uint64_t term;             /* of the ROLE acted upon; 0: none */
    struct lease_clock clock;
    bool leads;
    uint64_t seen_changes;     /* of the table, when calls were parked */
    struct buf scratch, clears;
    struct stored_lease_stats stats;
};

uint64_t stored_leases_clock_ms(void *user); /* monotonic, read now */
uint64_t stored_leases_election_ms(const struct stored *s);
bool stored_leases_has_leader(const struct stored *s);
void stored_leases_propose_clock(struct stored *s, struct bytes deadlines);
void stored_leases_start_ticks(struct stored *s);

/* ---- stored_lease_calls.c ---- */
void lease_calls_init(struct stored *s);
void lease_calls_fini(struct stored *s);
void lease_calls_keep(struct stored *s);    /* this member keeps: asks for barriers, answers */
void lease_calls_forward(struct stored *s); /* another one leads: asks it */
void lease_calls_answered(struct stored *s); /* what it answered, as far as it is executed here */
void lease_calls_tick(struct stored *s);    /* deadlines; entries that calls wait for may be lost */
/* Another leader, or none: everything is asked anew. */
void lease_calls_step_down(struct stored *s);
void lease_calls_state_gone(struct stored *s);
static inline bool lease_calls_are_waiting(const struct stored *s)
{
    return !list_empty(&s->leases->fresh);
}

#endif
