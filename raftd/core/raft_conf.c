/*
 * Configurations: who votes and who only learns. Two sorted id lists, small enough that linear
 * scans are the fastest thing there is.
 */
#include "raftd/core/raft_internal.h"

static bool list_has(const raft_id *ids, uint32_t count, raft_id id)
{
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] == id)
            return true;
    return false;
}

static void list_insert(raft_id *ids, uint32_t *count, raft_id id)
{
    uint32_t i = *count;

    assert(*count < RAFT_MEMBERS_MAX);
    while (i > 0 && ids[i - 1] > id) {
        ids[i] = ids[i - 1];
        i--;
    }
    ids[i] = id;
    (*count)++;
}

static void list_remove_id(raft_id *ids, uint32_t *count, raft_id id)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < *count; i++)
        if (ids[i] != id)
            ids[kept++] = ids[i];
    for (uint32_t i = kept; i < *count; i++)
        ids[i] = 0;
    *count = kept;
}

static bool list_valid(const raft_id *ids, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] == 0 || (i > 0 && ids[i] <= ids[i - 1]))
            return false;
    return true;
}

bool raft_conf_has_voter(const struct raft_conf *c, raft_id id)
{
    return list_has(c->voters, c->voter_count, id);
}

bool raft_conf_has_learner(const struct raft_conf *c, raft_id id)
{
    return list_has(c->learners, c->learner_count, id);
}

static bool conf_has(const struct raft_conf *c, raft_id id)
{
    return raft_conf_has_voter(c, id) || raft_conf_has_learner(c, id);
}

static int conf_may_add(const struct raft_conf *c, raft_id id)
{
    if (id == 0)
        return -EINVAL;
    if (conf_has(c, id))
        return -EEXIST;
    return c->voter_count + c->learner_count >= RAFT_MEMBERS_MAX ? -ENOSPC : 0;
}

int raft_conf_add_voter(struct raft_conf *c, raft_id id)
{
    int r = conf_may_add(c, id);

    if (r == 0)
        list_insert(c->voters, &c->voter_count, id);
    return r;
}

int raft_conf_add_learner(struct raft_conf *c, raft_id id)
{
    int r = conf_may_add(c, id);

    if (r == 0)
        list_insert(c->learners, &c->learner_count, id);
    return r;
}

bool raft_conf_valid(const struct raft_conf *c)
{
    if (c->voter_count > RAFT_MEMBERS_MAX || c->learner_count > RAFT_MEMBERS_MAX ||
        c->voter_count + c->learner_count > RAFT_MEMBERS_MAX)
        return false;
    if (!list_valid(c->voters, c->voter_count) || !list_valid(c->learners, c->learner_count))
        return false;
    for (uint32_t i = 0; i < c->voter_count; i++)
        if (raft_conf_has_learner(c, c->voters[i]))
            return false;
    return true;
}

static int conf_add_outcome(int r)
{
    switch (r) {
    case 0:
        return 0;
    case -EEXIST:
        return OUT_MEMBER_EXIST;
    case -ENOSPC:
        return OUT_TOO_MANY_LEARNERS;
    default:
        return OUT_MALFORMED;
    }
}

int raft_conf_apply(struct raft_conf *c, const struct raft_conf_change *change)
{
    assert(raft_conf_valid(c));
    switch (change->op) {
    case RAFT_CONF_NONE:
        return 0;
    case RAFT_CONF_ADD_VOTER:
        return conf_add_outcome(raft_conf_add_voter(c, change->id));
    case RAFT_CONF_ADD_LEARNER:
        return conf_add_outcome(raft_conf_add_learner(c, change->id));
    case RAFT_CONF_PROMOTE:
        if (!conf_has(c, change->id))
            return OUT_MEMBER_NOT_FOUND;
        if (!raft_conf_has_learner(c, change->id))
            return OUT_MEMBER_NOT_LEARNER;
        list_remove_id(c->learners, &c->learner_count, change->id);
        list_insert(c->voters, &c->voter_count, change->id);
        return 0;
    case RAFT_CONF_REMOVE:
        if (!conf_has(c, change->id))
            return OUT_MEMBER_NOT_FOUND;
        /* a cluster without voters could never decide anything again */
        if (c->voter_count == 1 && c->voters[0] == change->id)
            return OUT_MEMBER_NOT_ENOUGH_STARTED;
        list_remove_id(c->voters, &c->voter_count, change->id);
        list_remove_id(c->learners, &c->learner_count, change->id);
        return 0;
    }
    return OUT_MALFORMED;
}
