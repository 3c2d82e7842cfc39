/*
 * Planted mistakes, to show that the simulator finds them. A hook is `if (SIM_BUG(NAME))` at the
 * place where the rule it breaks is kept. Only the simulator's own build of a file defines
 * CONCLAVE_SIM_BUGS; everywhere else SIM_BUG is a constant false and the branch does not exist.
 */
#ifndef CONCLAVE_UTIL_SIM_BUG_H
#define CONCLAVE_UTIL_SIM_BUG_H

enum sim_bug {
    SIM_BUG_NONE = 0,
    SIM_BUG_ACK_BEFORE_SYNC,  /* append and vote answers leave before the write is durable */
    SIM_BUG_FORGET_VOTE,      /* a vote is not part of the state that is kept */
    SIM_BUG_COMMIT_OLD_TERM,  /* commit an entry of an older term by counting copies */
    SIM_BUG_APPLY_TWICE,      /* the keyspace executes an entry it has executed */
    SIM_BUG_SKIP_ENTRY,       /* delivery jumps over an entry */
    SIM_BUG_STALE_READ_INDEX, /* a leader answers a read without asking a quorum */
    SIM_BUG_TWO_CONF_CHANGES, /* a membership change is begun while one is pending */
    SIM_BUG_KEEP_CONFLICT,    /* a conflicting tail is not dropped */
    SIM_BUG_SNAPSHOT_NO_CONF, /* a received snapshot does not bring its configuration */
    SIM_BUG_TORN_TAIL,        /* the log's recovery takes a damaged last record as whole */
    SIM_BUG_LEASE_REGRANTED,  /* an entry about a lease counts for the next one of that id */
    SIM_BUG_LEASE_NO_BARRIER, /* a renewal is answered without asking a quorum */
    SIM_BUG_LEASE_NO_CLEAR,   /* a renewal is answered though the table states a deadline */
    SIM_BUG_LEASE_CLOCK_AHEAD, /* a new keeper's clock runs ahead of what has gone by */
    SIM_BUG_LEASE_FULL_TTL,   /* a new keeper forgets how much of a TTL is over */
    SIM_BUG_LEASE_KEY_LEFT,   /* a lease that ends leaves a key behind */
    SIM_BUG_AUTH_OLD_RIGHTS,  /* an identity from before a change of rights is taken */
    SIM_BUG_AUTH_KEPT_RANGES, /* what follows from a user's roles is not worked out anew */
    SIM_BUG_COUNT
};

#ifdef CONCLAVE_SIM_BUGS
extern enum sim_bug sim_bug_active;
#define SIM_BUG(name) (sim_bug_active == SIM_BUG_##name)
#else
#define SIM_BUG(name) 0
#endif

#endif
