/*
 * When and at which revision history is compacted automatically (etcd --auto-compaction-mode):
 *
 *   periodic  keep what changed within the last period: the current revision is noted ten times
 *             per period (or hour, if that is less), and what it was one period ago is compacted,
 *             for the first time after a period, then every period (or hour)
 *   revision  keep so many revisions, looked at every five minutes
 *
 * Every member notes revisions; only the leader compacts. No clock and no keyspace in here.
 */
#ifndef CONCLAVE_STORED_COMPACTOR_H
#define CONCLAVE_STORED_COMPACTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum compactor_mode { COMPACTOR_OFF, COMPACTOR_PERIODIC, COMPACTOR_REVISION };

struct compactor {
    enum compactor_mode mode;
    uint64_t period_ns;     /* periodic */
    int64_t keep_revisions; /* revision */
    int64_t *noted;         /* periodic: revisions, oldest first */
    size_t noted_count, noted_max;
    uint64_t wait_ns;       /* since the last success, until the next attempt */
    uint64_t last_ns;       /* of the last success, or the start */
    int64_t last_revision;  /* compacted at */
    int64_t asked_revision; /* an attempt whose result is not known yet; 0: none */
    uint64_t asked_ns;
};

/* Retention as etcd reads it: a whole number is hours, or revisions; anything else a duration, which
 * in mode revision counts its nanoseconds. 0: off. -EINVAL. */
int compactor_init(struct compactor *c, const char *mode, const char *retention, uint64_t now_ns);
void compactor_fini(struct compactor *c);
/* How often to call compactor_tick; 0: never. */
uint64_t compactor_interval_ns(const struct compactor *c);
/* What to compact at, or 0. In mode periodic the first one comes at once. revision, compact_revision: of the
 * keyspace as it is now, by which an attempt shows that it succeeded. */
int64_t compactor_tick(struct compactor *c, uint64_t now_ns, int64_t revision,
                       int64_t compact_revision, bool is_leader);

#endif
