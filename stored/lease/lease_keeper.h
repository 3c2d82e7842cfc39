/*
 * Who decides that a lease is over: the stored of the leader. It alone has deadlines, on the lease
 * clock (lease_table.h), which it runs from where the newest LEASE_CLOCK entry left it, by its own
 * monotonic clock.
 *
 *     granted,            a moment without
 *     renewed --> UNSETTLED --a renewal--> STATED --applied--> SETTLED
 *                     ^                      |                    |
 *                     '--applied-- CLEARING <+----- a renewal ----'
 *     any of them --due--> ENDING --applied--> gone
 *
 * Unsettled: the table says nothing of its deadline, so a new leader grants the full TTL anew, and
 * a renewal needs no entry. Stated: an entry with the deadline is under way. Settled: the table
 * knows the deadline, a new leader keeps to it. Clearing: a renewal waits until an entry has made
 * the table forget the deadline. Ending: an entry that ends it is under way, a renewal waits.
 *
 * Nobody leaves STATED, CLEARING or ENDING but by an applied entry: one that seems lost is
 * proposed again, and may still arrive. Its effect on a lease whose renewal was answered in
 * between would be to end it early. What is taken from here has to enter the log in the order it was
 * taken in: else a deadline that was forgotten for a renewal could come after it.
 *
 * Nothing here reads a clock or sends anything; `clock_ms` is the caller's monotonic one.
 */
#ifndef CONCLAVE_STORED_LEASE_KEEPER_H
#define CONCLAVE_STORED_LEASE_KEEPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/list.h"
#include "stored/lease/lease_table.h"

enum {
    /* Without a renewal for so long, the deadline goes into the table. It is what a lease may live
     * longer because its leader died and nobody else knew of its last renewal, on top of the time
     * without a leader. Shorter than what clients renew in (a third of the TTL), so that it costs
     * nothing that is not paid anyway; longer than what a client needs that renews at once again. */
    LEASE_SETTLE_MS = 250,
    LEASE_CLOCK_MS = 1000, /* the lease clock is told so often, even when there are no deadlines */
    LEASE_ASK_AGAIN_MS = 1000, /* after an entry that seems lost */
    LEASE_EXPIRE_MAX = 1000,   /* leases per entry */
    LEASE_EXPIRE_KEYS_MAX = 2000, /* their keys, unless one lease alone has more */
    LEASE_ENDING_MAX = 4000,      /* under way at once */
    LEASE_STATE_MAX = 4000,       /* deadlines per entry */
};

struct lease_keeper {
    struct lease_table *table; /* NULL: does not keep */
    uint64_t (*clock_ms)(void *user);
    void *user;
    uint64_t base_clock_ms, base_ms; /* lease clock at which monotonic time */
    uint64_t told_ms;                /* when the clock was last proposed, monotonic */
    struct lease **heap; /* from 1; by due_ms, then id */
    size_t heap_count, heap_cap;
    struct list unsettled, stated, ending; /* oldest first */
    size_t ending_count;
};

void lease_keeper_init(struct lease_keeper *k, uint64_t (*clock_ms)(void *user), void *user);
void lease_keeper_fini(struct lease_keeper *k);

/* Takes over at clock_ms of the lease clock. A lease whose deadline the table does not know counts
 * as renewed now: nobody else can renew any more, for what was renewed before this member was
 * elected counts from before that (stored_lease_calls.c). */
void lease_keeper_start(struct lease_keeper *k, struct lease_table *table, uint64_t clock_ms);
void lease_keeper_stop(struct lease_keeper *k); /* the table still exists */
static inline bool lease_keeper_is_active(const struct lease_keeper *k)
{
    return k->table != NULL;
}

uint64_t lease_keeper_now(const struct lease_keeper *k); /* the lease clock */

enum lease_renewal {
    LEASE_RENEWED,
    LEASE_GONE,
    LEASE_WAIT,     /* until it is gone, or cleared */
    LEASE_MUST_CLEAR, /* its deadline has to be cleared first: see lease_keeper_clear */
};
enum lease_renewal lease_keeper_renew(struct lease_keeper *k, struct lease *l);
/* After LEASE_MUST_CLEAR: the caller now proposes {id, 0} in a LEASE_CLOCK. */
void lease_keeper_clear(struct lease_keeper *k, struct lease *l);
/* Whole seconds left, at least 0. */
int64_t lease_keeper_remaining(const struct lease_keeper *k, const struct lease *l);

/* Appends ids of leases that are over, for one LEASE_EXPIRE; how many. Call again until 0. */
size_t lease_keeper_take_due(struct lease_keeper *k, struct buf *ids);
/* Appends {id, deadline} for one LEASE_CLOCK. True: propose it, even without deadlines. */
bool lease_keeper_take_clock(struct lease_keeper *k, struct buf *deadlines);

/* In order of their ends; free(). */
struct lease **lease_keeper_sorted(const struct lease_keeper *k);

#endif
