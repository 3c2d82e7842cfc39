#include "raftd/raftd_reconfig.h"

#include "lib/proto/outcome.h"
#include "raftd/raftd.h"
#include "raftd/raftd_members.h"

enum { HEALTH_INTERVAL_MS = 5000 }; /* etcd: HealthInterval */

static bool is_voter(const struct raftd_member *m)
{
    return !m->removed && !m->is_learner;
}

/* A member has started when it has published its name. */
static bool is_started(const struct raftd_member *m)
{
    return m->name[0] != '\0';
}

struct count {
    size_t voters, started;
};

static struct count count_voters(const struct raftd_members *m, uint64_t except)
{
    struct count n = {0};

    for (size_t i = 0; i < m->count; i++) {
        if (!is_voter(&m->list[i]) || m->list[i].id == except)
            continue;
        n.voters++;
        n.started += is_started(&m->list[i]);
    }
    return n;
}

static bool has_quorum(struct count n)
{
    return n.started >= n.voters / 2 + 1;
}

static size_t count_connected(const struct reconfig_view *v, size_t *ret_voters)
{
    size_t connected = 0, voters = 0;

    for (size_t i = 0; i < v->members->count; i++) {
        const struct raftd_member *m = &v->members->list[i];

        if (!is_voter(m))
            continue;
        voters++;
        connected += m->id == v->self || v->connected(v->user, m->id);
    }
    *ret_voters = voters;
    return connected;
}

/* The cluster with one voter more must have a quorum of members that have ever started. One that
 * grows from a single member has to go through two of which one has not. */
static int may_add(const struct reconfig_view *v, bool as_learner)
{
    struct count n = count_voters(v->members, 0);
    size_t voters;

    n.voters++;
    if (!as_learner && !(n.started == 1 && n.voters == 2) && !has_quorum(n))
        return OUT_MEMBER_NOT_ENOUGH_STARTED;
    return count_connected(v, &voters) == voters ? 0 : OUT_UNHEALTHY;
}

/* What is left must have a quorum that has started, and one that is connected. A member that is
 * down is no part of today's quorum: taking it out costs nothing. */
static int may_remove(const struct reconfig_view *v, uint64_t id)
{
    const struct raftd_member *m = raftd_members_find(v->members, id);
    size_t voters, connected;

    if (m != NULL && !m->removed && m->is_learner)
        return 0;
    if (!has_quorum(count_voters(v->members, id)))
        return OUT_MEMBER_NOT_ENOUGH_STARTED;
    if (id != v->self && !v->seen(v->user, id))
        return 0;
    connected = count_connected(v, &voters);
    return connected - 1 < 1 + (voters - 1) / 2 ? OUT_UNHEALTHY : 0;
}

static int may_promote(const struct reconfig_view *v, uint64_t id)
{
    struct count n = count_voters(v->members, 0);
    uint64_t match;

    /* nearly the whole log: etcd asks for nine tenths */
    if (v->match(v->user, id, &match) && (double)match < (double)v->leader_match * 0.9)
        return OUT_LEARNER_NOT_READY;
    n.voters++;
    n.started++;
    return v->strict && !has_quorum(n) ? OUT_MEMBER_NOT_ENOUGH_STARTED : 0;
}

static int check_strict(const struct reconfig_view *v, const struct proto_conf_change *c)
{
    switch (c->op) {
    case PROTO_CONF_ADD_VOTER:
    case PROTO_CONF_ADD_LEARNER:
        return v->strict ? may_add(v, c->op == PROTO_CONF_ADD_LEARNER) : 0;
    case PROTO_CONF_REMOVE:
        return v->strict ? may_remove(v, c->member.id) : 0;
    case PROTO_CONF_PROMOTE:
        return may_promote(v, c->member.id);
    case PROTO_CONF_UPDATE:
        break;
    }
    return 0;
}

static bool is_learner_too_many(const struct reconfig_view *v)
{
    size_t learners = 0;

    for (size_t i = 0; i < v->members->count; i++)
        learners += !v->members->list[i].removed && v->members->list[i].is_learner;
    return learners >= v->learners_max;
}

int reconfig_check(const struct reconfig_view *v, const struct proto_conf_change *c)
{
    int out = check_strict(v, c);

    if (out == 0)
        out = raftd_members_check(v->members, c);
    if (out == 0 && c->op == PROTO_CONF_ADD_LEARNER && is_learner_too_many(v))
        out = OUT_TOO_MANY_LEARNERS;
    return out;
}

/* ---- this leader's view ---- */

/* A connection stands, and something came over it lately: one that was only not closed yet does
 * not count. */
static bool is_alive(const struct raftd *r, uint64_t id, uint64_t since_ms)
{
    uint64_t now = raftd_now_ms(r);
    struct peer_stats stats;

    return peers_get_stats(r->peers, id, &stats) && stats.up && stats.up_since_ms != 0 &&
           stats.last_seen_ms != 0 && now - stats.up_since_ms >= since_ms &&
           now - stats.last_seen_ms < 2 * r->conf->election_ms;
}

static bool connected(void *user, uint64_t id)
{
    const struct raftd *r = user;

    return is_alive(r, id, HEALTH_INTERVAL_MS);
}

static bool seen(void *user, uint64_t id)
{
    return is_alive(user, id, 0);
}

static bool match(void *user, uint64_t id, uint64_t *ret_index)
{
    const struct raftd *r = user;
    struct raft_progress progress;

    if (!raft_get_progress(r->raft, id, &progress))
        return false;
    *ret_index = progress.match_index;
    return true;
}

int raftd_reconfig_check(struct raftd *r, const struct proto_conf_change *c)
{
    struct reconfig_view view = {.members = &r->members,
                                 .self = r->member_id,
                                 .strict = r->conf->strict_reconfig_check,
                                 .learners_max = r->conf->max_learners,
                                 .leader_match = r->status.stored_index,
                                 .connected = connected,
                                 .seen = seen,
                                 .match = match,
                                 .user = r};

    return reconfig_check(&view, c);
}
