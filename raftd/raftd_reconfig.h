/*
 * Which membership change may be tried now: what etcd refuses with strict-reconfig-check, so that
 * no change costs the cluster its quorum, and the promotion of a learner that is far behind. Asked
 * on the leader before an entry is made; what an entry may do when it is executed is
 * raftd_members_check.
 */
#ifndef CONCLAVE_RAFTD_RECONFIG_H
#define CONCLAVE_RAFTD_RECONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/proto/messages.h"

struct raftd;
struct raftd_members;

/* What the leader knows of its cluster. */
struct reconfig_view {
    const struct raftd_members *members;
    uint64_t self;
    bool strict;          /* --strict-reconfig-check */
    uint64_t learners_max;
    uint64_t leader_match;
    /* connected: for long enough to count on (etcd: 5 s); seen: at all. Never asked about self */
    bool (*connected)(void *user, uint64_t id);
    bool (*seen)(void *user, uint64_t id);
    bool (*match)(void *user, uint64_t id, uint64_t *ret_index); /* false: not in the configuration */
    void *user;
};

/* 0; OUT_MEMBER_NOT_ENOUGH_STARTED, OUT_UNHEALTHY, OUT_LEARNER_NOT_READY; then those of
 * raftd_members_check; then OUT_TOO_MANY_LEARNERS. The order is etcd's. */
int reconfig_check(const struct reconfig_view *v, const struct proto_conf_change *c);

/* The same, of this leader. */
int raftd_reconfig_check(struct raftd *r, const struct proto_conf_change *c);

#endif
