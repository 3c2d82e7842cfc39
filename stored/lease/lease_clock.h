/*
 * What a member that does not keep leases knows of the lease clock (lease_table.h): what the table
 * says, and when this process first saw that. Since then at least the time on its own monotonic
 * clock has gone by; so whoever takes over goes on from there, and time without a leader counts.
 * All zero: nothing noted.
 */
#ifndef CONCLAVE_STORED_LEASE_CLOCK_H
#define CONCLAVE_STORED_LEASE_CLOCK_H

#include <stdint.h>
#include "lib/util/sim_bug.h"
#include "stored/lease/lease_table.h"

struct lease_clock {
    uint64_t seen_ms;
    uint64_t at_ms; /* monotonic; 0: nothing seen */
};

/* monotonic_ms: read after the table may have changed. An earlier reading could be from before the
 * entry was proposed, and the clock would run ahead. */
static inline void lease_clock_note(struct lease_clock *c, const struct lease_table *t,
                                    uint64_t monotonic_ms)
{
    if (c->at_ms != 0 && c->seen_ms == t->clock_ms)
        return;
    c->seen_ms = t->clock_ms;
    if (c->at_ms == 0 || !SIM_BUG(LEASE_CLOCK_AHEAD))
        c->at_ms = monotonic_ms + 1; /* it is rounded down */
}

/* Of the clock noted last: what it is now, at least. */
static inline uint64_t lease_clock_at_least(const struct lease_clock *c, uint64_t monotonic_ms)
{
    return c->seen_ms + (monotonic_ms > c->at_ms ? monotonic_ms - c->at_ms : 0);
}

#endif
