/*
 * Roles and elections.
 *
 *                 timeout                  majority would vote          majority voted, and our
 *   +----------+ ---------> +---------------+ ---------> +-----------+  own vote is durable
 * +--------+ | follower |            | pre-candidate |            | candidate |
 * --------------------> | leader |
 *   +----------+ <--------- +---------------+            +-----------+ +--------+ ^    a leader, a
 * newer term, or a majority says no    |                                 |
 *        +-----------------------------------------------------+---------------------------------+
 *                                       newer term, no majority heard from for an election timeout
 *
 * A pre-candidate changes nothing that is kept (Raft thesis 9.6): a member that was cut off comes
 * back without having raised its term. A leader that hears from no majority for an election
 * timeout steps down (6.2), so its clients learn it, and followers refuse to vote while they hear a
 * leader (4.2.3).
 *
 * Configurations count from the moment they are *applied* here, not from the moment they are in the
 * log as the thesis has it. It keeps the configuration equal to what the state machine and
 * its snapshots say, and needs no way back when an entry is dropped. It is safe if nobody campaigns
 * with a configuration two changes old. So the leader begins a change only when the former is
 * applied; an append carries a commit index that covers it; and a member with a committed change
 * it has not applied does not campaign (raft_promotable). Then two candidates of one term differ
 * by one change at most, and their majorities meet.
 */
#include "raftd/core/raft_internal.h"

void raft_randomize_timeout(struct raft *r)
{
    uint32_t n = r->config.election_ticks;

    r->election_timeout = n + (uint32_t)prng_below(&r->prng, n);
}

bool raft_promotable(const struct raft *r)
{
    const struct raft_log *l = &r->log;

    if (!raft_conf_has_voter(&r->conf, r->id) || r->snapshot_pending != 0)
        return false;
    if (l->applied < r->campaign_block)
        return false;
    return l->conf_count == 0 || l->confs[0] > l->commit;
}

void raft_set_leader(struct raft *r, raft_id leader)
{
    if (r->leader == leader)
        return;
    if (leader != 0)
        r->counters.leader_changes++;
    raft_reads_drop(r, OUT_LEADER_CHANGED);
    r->leader = leader;
}

static void reset(struct raft *r, raft_term term, raft_id leader)
{
    assert(term >= r->term);
    if (term > r->term) {
        r->term = term;
        r->vote = 0;
    }
    raft_reads_drop(r, OUT_LEADER_CHANGED);
    raft_set_leader(r, leader);
    r->election_elapsed = 0;
    r->heartbeat_elapsed = 0;
    r->transfer_campaign = false;
    raft_randomize_timeout(r);
    r->vote_count = 0;
    r->transferee = 0;
    r->uncommitted_bytes = 0;
    r->send_due = false;
}

/* A follower that merely learns of a newer term goes on waiting where it was: only a leader or a vote
 * it gives make it wait anew (Raft thesis 3.4). Else members whose logs are too short to win, but
 * whose clocks are fast, keep those from campaigning that could. */
void raft_become_follower(struct raft *r, raft_term term, raft_id leader)
{
    bool goes_on_waiting = r->state == RAFT_FOLLOWER && leader == 0;
    uint32_t elapsed = r->election_elapsed, timeout = r->election_timeout;

    assert(leader != r->id);
    reset(r, term, leader);
    r->state = RAFT_FOLLOWER;
    if (goes_on_waiting) {
        r->election_elapsed = elapsed;
        r->election_timeout = timeout;
    }
}

static void become_leader(struct raft *r)
{
    struct raft_log *l = &r->log;

    assert(r->state == RAFT_CANDIDATE);
    assert(r->durable_term == r->term);
    assert(r->durable_vote == r->id || SIM_BUG(FORGET_VOTE));
    reset(r, r->term, r->id);
    r->state = RAFT_LEADER;
    r->read_round = 0;
    raft_peers_reset(r);
    for (raft_index i = l->commit + 1; i <= l->last; i++)
        r->uncommitted_bytes += log_entry(l, i)->len;
    /* Entries of older terms become committed through one of this term (Raft thesis 3.6.2). */
    r->term_start = l->last + 1;
    raft_append_own(r, RAFT_ENTRY_NORMAL, BYTES_EMPTY);
}

/* ---- candidates ---- */
static void record_vote(struct raft *r, raft_id id, bool granted)
{
    for (size_t i = 0; i < r->vote_count; i++)
        if (r->votes[i].id == id)
            return;
    if (!raft_conf_has_voter(&r->conf, id) || r->vote_count == RAFT_MEMBERS_MAX)
        return;
    r->votes[r->vote_count++] = (struct vote){.id = id, .granted = granted};
}

static void request_votes(struct raft *r, enum raft_msg_type type)
{
    for (uint32_t i = 0; i < r->conf.voter_count; i++) {
        raft_id id = r->conf.voters[i];
        struct raft_msg *m;

        if (id == r->id)
            continue;
        /* a vote is asked for only when our own is durable; a pre-vote binds nobody */
        m = type == RAFT_MSG_VOTE ? raft_send_after(r, type, id) : raft_send_now(r, type, id);
        m->log_index = r->log.last;
        m->log_term = log_last_term(&r->log);
        m->transfer = r->transfer_campaign;
        if (type == RAFT_MSG_PRE_VOTE)
            m->term = r->term + 1;
    }
}

static void become_candidate(struct raft *r, bool transfer)
{
    r->counters.campaigns++;
    reset(r, r->term + 1, 0);
    r->state = RAFT_CANDIDATE;
    r->transfer_campaign = transfer;
    r->vote = r->id;
    /* our own vote counts in raft_own_vote_durable */
    request_votes(r, RAFT_MSG_VOTE);
}

static void tally(struct raft *r)
{
    uint32_t granted = 0, rejected = 0, quorum = conf_quorum(&r->conf);

    for (size_t i = 0; i < r->vote_count; i++) {
        if (!raft_conf_has_voter(&r->conf, r->votes[i].id))
            continue;
        if (r->votes[i].granted)
            granted++;
        else
            rejected++;
    }
    if (granted >= quorum) {
        if (r->state == RAFT_PRE_CANDIDATE)
            become_candidate(r, false);
        else if (r->durable_term == r->term)
            become_leader(r); /* else: raft_own_vote_durable comes */
        return;
    }
    if (rejected > r->conf.voter_count - quorum)
        raft_become_follower(r, r->term, 0); /* wait for the next timeout; the term stays */
}

static void become_pre_candidate(struct raft *r)
{
    raft_term term = r->term;

    reset(r, term, 0);
    r->state = RAFT_PRE_CANDIDATE;
    request_votes(r, RAFT_MSG_PRE_VOTE);
    record_vote(r, r->id, true);
    tally(r);
}

void raft_hup(struct raft *r, bool transfer)
{
    if (r->state == RAFT_LEADER || !raft_promotable(r))
        return;
    if (transfer || r->config.no_pre_vote)
        become_candidate(r, transfer);
    else
        become_pre_candidate(r);
}

void raft_campaign(struct raft *r)
{
    raft_hup(r, false);
}

void raft_own_vote_durable(struct raft *r)
{
    if (r->state != RAFT_CANDIDATE || r->durable_term != r->term)
        return;
    if (r->durable_vote != r->id && !SIM_BUG(FORGET_VOTE))
        return;
    record_vote(r, r->id, true);
    tally(r);
}

/* ---- voters ---- */
static bool is_up_to_date(const struct raft *r, const struct raft_msg *m)
{
    raft_term term = log_last_term(&r->log);

    return m->log_term > term || (m->log_term == term && m->log_index >= r->log.last);
}

void raft_on_vote_request(struct raft *r, const struct raft_msg *m)
{
    bool pre = m->type == RAFT_MSG_PRE_VOTE;
    enum raft_msg_type type = pre ? RAFT_MSG_PRE_VOTE_RESP : RAFT_MSG_VOTE_RESP;
    struct raft_msg *answer;
    bool free_to_vote =
        r->vote == m->from || (r->vote == 0 && r->leader == 0) || (pre && m->term > r->term);

    /* A member that learns, or that is not in the configuration it knows, votes too: it may be one
     * of the majority in a newer configuration it has not heard of. */
    if (!free_to_vote || !is_up_to_date(r, m)) {
        raft_send_now(r, type, m->from)->reject = true;
        return;
    }
    if (pre) {
        raft_send_now(r, type, m->from)->term = m->term;
        return;
    }
    assert(m->term == r->term);
    r->vote = m->from;
    r->election_elapsed = 0;
    answer = raft_send_after(r, type, m->from); /* a vote is a promise: durable first */
    assert(!answer->reject);
}

void raft_on_vote_response(struct raft *r, const struct raft_msg *m)
{
    bool pre = m->type == RAFT_MSG_PRE_VOTE_RESP;

    if (pre ? r->state != RAFT_PRE_CANDIDATE || (!m->reject && m->term != r->term + 1)
            : r->state != RAFT_CANDIDATE) {
        r->counters.stale_messages++;
        return;
    }
    if (!raft_conf_has_voter(&r->conf, m->from)) {
        r->counters.unknown_sender++;
        return;
    }
    record_vote(r, m->from, !m->reject);
    tally(r);
}

/* ---- the clock ---- */
static void check_quorum(struct raft *r)
{
    uint32_t active = 1;

    assert(raft_conf_has_voter(&r->conf, r->id));
    for (size_t i = 0; i < r->peer_count; i++) {
        if (!r->peers[i].is_learner && r->peers[i].recently_active)
            active++;
        r->peers[i].recently_active = false;
    }
    if (active < conf_quorum(&r->conf))
        raft_become_follower(r, r->term, 0);
}

static void tick_leader(struct raft *r)
{
    r->election_elapsed++;
    if (r->election_elapsed >= r->config.election_ticks) {
        r->election_elapsed = 0;
        r->transferee = 0; /* it did not take over in time: go on as before (thesis 3.10) */
        check_quorum(r);
        if (r->state != RAFT_LEADER)
            return;
    }
    r->heartbeat_elapsed++;
    if (r->heartbeat_elapsed >= r->config.heartbeat_ticks) {
        r->heartbeat_elapsed = 0;
        raft_send_heartbeats(r, true);
    }
}

void raft_tick(struct raft *r)
{
    if (r->state == RAFT_LEADER) {
        tick_leader(r);
        return;
    }
    raft_reads_tick(r);
    r->election_elapsed++;
    if (raft_promotable(r)) {
        if (r->election_elapsed >= r->election_timeout) {
            r->election_elapsed = 0;
            raft_hup(r, false);
        }
    } else if (r->election_elapsed >= r->config.election_ticks && r->leader != 0) {
        /* cannot campaign, but must not believe in a silent leader for ever */
        raft_set_leader(r, 0);
    }
}

void raft_step_down(struct raft *r)
{
    const struct progress *best = NULL;

    if (r->state != RAFT_LEADER)
        return;
    for (size_t i = 0; i < r->peer_count; i++) {
        const struct progress *p = &r->peers[i];

        if (!p->is_learner && p->recently_active && (best == NULL || p->match > best->match))
            best = p;
    }
    if (best != NULL)
        raft_send_timeout_now(r, best->id);
    raft_become_follower(r, r->term, 0);
}

int raft_transfer_leader(struct raft *r, raft_id to)
{
    const struct progress *p;

    if (r->state != RAFT_LEADER)
        return OUT_NOT_LEADER;
    if (to == r->id) {
        r->transferee = 0;
        return 0;
    }
    p = raft_peer(r, to);
    if (p == NULL || p->is_learner)
        return OUT_BAD_LEADER_TRANSFEREE;
    r->election_elapsed = 0; /* it has one election timeout to take over */
    r->transferee = to;
    if (p->match == r->log.last)
        raft_send_timeout_now(r, to);
    else
        r->send_due = true; /* raft_on_append_resp sends it when the log is equal */
    return 0;
}
