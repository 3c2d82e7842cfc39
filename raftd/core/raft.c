/*
 * The object, its inputs, and what every message goes through first: is it possible at all, and
 * what does its term mean (Raft thesis figure 3.1). The rest is in raft_internal.h's list.
 */
#include "raftd/core/raft_internal.h"

/* ---- creation ---- */
static void config_defaults(struct raft_config *c)
{
    if (c->election_ticks == 0)
        c->election_ticks = 10;
    if (c->heartbeat_ticks == 0)
        c->heartbeat_ticks = 1;
    if (c->append_bytes_max == 0)
        c->append_bytes_max = 1 << 20;
    if (c->inflight_max == 0)
        c->inflight_max = 256;
    if (c->inflight_bytes_max == 0)
        c->inflight_bytes_max = 16 << 20;
    if (c->uncommitted_bytes_max == 0)
        c->uncommitted_bytes_max = 64 << 20;
    if (c->committed_bytes_max == 0)
        c->committed_bytes_max = 8 << 20;
    if (c->window_bytes == 0)
        c->window_bytes = 16 << 20;
    assert(c->election_ticks > c->heartbeat_ticks);
}

struct raft *raft_new(const struct raft_config *config)
{
    struct raft *r;

    assert(config->id != 0);
    r = xcalloc(1, sizeof(*r));
    r->id = config->id;
    r->config = *config;
    config_defaults(&r->config);
    prng_init(&r->prng, config->seed);
    /* An answer to a read of this member's former life must not answer one of this life: it could
     * be too old. So the ids begin at a random place. */
    r->read_context = prng_next(&r->prng);
    log_init(&r->log, &r->config.storage);
    r->seen_state = r->state = RAFT_FOLLOWER;
    raft_randomize_timeout(r);
    return r;
}

void raft_msg_fini(struct raft_msg *m)
{
    for (size_t i = 0; i < m->entry_count; i++)
        raft_entry_unref(m->entries[i]);
    free(m->entries);
    free(m->snapshot);
    m->entries = NULL;
    m->entry_count = 0;
    m->snapshot = NULL;
}

void raft_free(struct raft *r)
{
    if (r == NULL)
        return;
    for (size_t i = 0; i < r->now_count; i++)
        raft_msg_fini(&r->now[i]);
    for (size_t i = 0; i < r->after_count; i++)
        raft_msg_fini(&r->after[i]);
    for (size_t i = 0; i < r->aborted_count; i++)
        raft_entry_unref(r->aborted[i]);
    raft_peers_fini(r);
    log_fini(&r->log);
    free(r->reads);
    free(r->writes);
    free(r->now);
    free(r->after);
    free(r->read_states);
    free(r->aborted);
    free(r->snapshot_peers);
    free(r->snapshot_out);
    free(r);
}

static bool restore_consistent(const struct raft_restore *a)
{
    const struct raft_hard_state *hs = &a->hard_state;
    raft_term term = a->before_term;

    if (a->first_index == 0 || a->last_index + 1 < a->first_index)
        return false;
    if ((a->first_index == 1) != (a->before_term == 0))
        return false;
    if (a->applied_index > a->last_index || a->applied_index + 1 < a->first_index)
        return false;
    if (!raft_conf_valid(&a->conf))
        return false;
    if (a->tail_count > 0) {
        raft_index index = a->tail[0]->index;

        if (index < a->first_index || a->tail[a->tail_count - 1]->index != a->last_index)
            return false;
        if (index > MIN(hs->commit, a->last_index) + 1)
            return false;
        for (size_t i = 0; i < a->tail_count; i++) {
            const struct raft_entry *e = a->tail[i];

            if (e->index != index + i || e->term < term || e->term == 0)
                return false;
            term = e->term;
        }
    } else if (hs->commit < a->last_index) {
        return false;
    }
    return hs->term >= term;
}

/* The configuration entries in (applied, last]: those before the tail cannot be seen, so until
 * they are applied this member does not campaign; and every configuration entry that has another
 * one behind it is committed, because a leader begins the next change only when the former one is
 * applied. The second fact matters when the commit index on disk lags: without it, this member
 * could campaign with a configuration two changes old, whose majorities need not meet ours. */
static void restore_confs(struct raft *r, raft_index tail_first)
{
    struct raft_log *l = &r->log;

    if (tail_first > l->applied + 1)
        r->campaign_block = MIN(tail_first - 1, l->commit);
    if (l->conf_count >= 2)
        l->commit = MAX(l->commit, l->confs[l->conf_count - 2]);
}

int raft_restore(struct raft *r, const struct raft_restore *a)
{
    struct raft_log *l = &r->log;
    raft_index tail_first;
    raft_term term;

    assert(r->term == 0);
    assert(l->last == 0);
    assert(r->seq == 0);
    if (!restore_consistent(a))
        return -EBADMSG;

    tail_first = a->tail_count > 0 ? a->tail[0]->index : a->last_index + 1;
    log_reset(l, tail_first - 1, a->before_term);
    l->first = a->first_index;
    l->before_term = a->before_term;
    if (tail_first > a->first_index) {
        if (r->config.storage.term == NULL ||
            r->config.storage.term(r->config.storage.user, tail_first - 1, &term) != 0)
            return -EBADMSG;
        l->mem_before_term = term;
    }
    l->applied = l->delivered = a->applied_index;
    for (size_t i = 0; i < a->tail_count; i++) {
        if (a->tail[i]->term < log_last_term(l))
            return -EBADMSG;
        log_append(l, raft_entry_ref(a->tail[i]));
    }
    if (log_last_term(l) > a->hard_state.term)
        return -EBADMSG;
    l->stored = l->taken = l->last;
    l->commit = MAX(MIN(a->hard_state.commit, l->last), l->applied);
    restore_confs(r, tail_first);

    r->term = r->durable_term = r->seen_term = a->hard_state.term;
    r->vote = r->durable_vote = a->hard_state.vote;
    r->emitted = a->hard_state;
    r->conf = a->conf;
    r->conf_index = a->applied_index;
    raft_peers_sync(r);
    log_trim(l, r->config.window_bytes);
    return 0;
}

/* ---- out-boxes ---- */
static struct raft_msg *msg_begin(struct raft *r, struct raft_msg *m, enum raft_msg_type type,
                                  raft_id to)
{
    assert(to != 0);
    assert(to != r->id);
    *m = (struct raft_msg){.type = type, .from = r->id, .to = to, .term = r->term};
    return m;
}

struct raft_msg *raft_send_now(struct raft *r, enum raft_msg_type type, raft_id to)
{
    return msg_begin(r, &VEC_PUSH(r->now, r->now_count, r->now_cap), type, to);
}

struct raft_msg *raft_send_after(struct raft *r, enum raft_msg_type type, raft_id to)
{
    if (SIM_BUG(ACK_BEFORE_SYNC))
        return raft_send_now(r, type, to);
    return msg_begin(r, &VEC_PUSH(r->after, r->after_count, r->after_cap), type, to);
}

/* ---- the log's moves ---- */
void raft_commit_to(struct raft *r, raft_index index)
{
    struct raft_log *l = &r->log;

    assert(index <= l->last);
    if (index <= l->commit)
        return;
    if (r->state == RAFT_LEADER && r->uncommitted_bytes > 0) {
        size_t done = 0;

        /* uncommitted entries never leave memory */
        for (raft_index i = l->commit + 1; i <= index; i++)
            done += log_entry(l, i)->len;
        r->uncommitted_bytes -= MIN(done, r->uncommitted_bytes);
    }
    l->commit = index;
}

void raft_drop_tail(struct raft *r, raft_index from)
{
    struct raft_log *l = &r->log;

    assert(from > l->commit);
    assert(from >= l->mem_first);
    assert(from <= l->last);
    r->counters.conflicts++;
    for (raft_index i = from; i <= l->last; i++) {
        struct raft_entry *e = log_entry(l, i);

        l->bytes -= entry_bytes(e);
        VEC_PUSH(r->aborted, r->aborted_count, r->aborted_cap) = e; /* the reference moves */
    }
    l->last = from - 1;
    l->taken = MIN(l->taken, l->last);
    l->stored = MIN(l->stored, l->last);
    while (l->conf_count > 0 && l->confs[l->conf_count - 1] >= from)
        l->conf_count--;
    /* what is being written and no longer true must not count when it becomes durable */
    for (size_t i = 0; i < r->write_count; i++)
        r->writes[i].last = MIN(r->writes[i].last, l->last);
}

void raft_install(struct raft *r, raft_index index, raft_term term, const struct raft_conf *conf)
{
    struct raft_log *l = &r->log;

    assert(index > l->commit || index >= l->first);
    for (raft_index i = MAX(l->mem_first, l->commit + 1); i <= l->last; i++)
        VEC_PUSH(r->aborted, r->aborted_count, r->aborted_cap) = raft_entry_ref(log_entry(l, i));
    for (size_t i = 0; i < r->write_count; i++)
        r->writes[i].last = 0;
    log_reset(l, index, term);
    r->snapshot_pending = index;
    if (!SIM_BUG(SNAPSHOT_NO_CONF))
        r->conf = *conf;
    r->conf_index = index;
    r->campaign_block = 0;
    r->deliver_fetching = false;
    free(r->snapshot_out);
    r->snapshot_out = xmalloc(sizeof(*r->snapshot_out));
    *r->snapshot_out = (struct raft_snapshot){.index = index, .term = term, .conf = r->conf};
    raft_peers_sync(r);
}

void raft_jump(struct raft *r, raft_index index, raft_term term, const struct raft_conf *conf)
{
    struct raft_log *l = &r->log;
    raft_term have = 0;

    assert(index >= 1);
    assert(term >= 1);
    assert(raft_conf_valid(conf));
    assert(index > l->commit || (log_term(l, index, &have) == 0 && have == term));
    if (r->state != RAFT_FOLLOWER)
        raft_become_follower(r, r->term, 0);
    if (r->term < term)
        raft_become_follower(r, term, 0);
    if (log_term(l, index, &have) == 0 && have == term && index <= l->stored) {
        raft_commit_to(r, index);
        l->delivered = MAX(l->delivered, index);
        l->applied = MAX(l->applied, index);
        log_conf_applied(l, index);
        if (index >= r->conf_index) {
            r->conf = *conf;
            r->conf_index = index;
            raft_peers_sync(r);
        }
        return;
    }
    raft_install(r, index, term, conf);
}

/* ---- proposals ---- */
void raft_append_own(struct raft *r, enum raft_entry_type type, struct bytes data)
{
    log_append(&r->log, raft_entry_new(r->log.last + 1, r->term, type, data));
    r->uncommitted_bytes += data.len;
    r->send_due = true;
}

int raft_conf_change_allowed(const struct raft *r)
{
    const struct raft_log *l = &r->log;

    if (r->state != RAFT_LEADER)
        return r->leader != 0 ? OUT_NOT_LEADER : OUT_NO_LEADER;
    if (r->transferee != 0)
        return OUT_LEADER_CHANGED;
    if (SIM_BUG(TWO_CONF_CHANGES))
        return 0;
    /* Changes one at a time keep majorities of neighbouring configurations overlapping only if
     * the former change is done with, and if this leader has committed something of its own: else
     * a leader of an older term may be about to commit a change that this one never saw (Raft
     * thesis 4.1, and its author's correction of 2015). "Done with" means applied here, because
     * a configuration counts from the moment it is applied. */
    if (l->commit < r->term_start)
        return OUT_UNHEALTHY;
    if (l->conf_count != 0 || l->applied < r->campaign_block)
        return OUT_UNHEALTHY;
    return 0;
}

int raft_propose(struct raft *r, enum raft_entry_type type, struct bytes data,
                 struct raft_proposed *ret)
{
    int refused = 0;

    *ret = (struct raft_proposed){.leader = r->leader};
    if (r->state != RAFT_LEADER)
        refused = r->leader != 0 ? OUT_NOT_LEADER : OUT_NO_LEADER;
    else if (r->transferee != 0)
        refused = OUT_LEADER_CHANGED;
    else if (data.len > RAFT_ENTRY_BYTES_MAX)
        refused = OUT_REQUEST_TOO_LARGE;
    else if (r->uncommitted_bytes > 0 &&
             r->uncommitted_bytes + data.len > r->config.uncommitted_bytes_max)
        refused = OUT_TOO_MANY_REQUESTS;
    else if (type == RAFT_ENTRY_CONF)
        refused = raft_conf_change_allowed(r);
    if (refused != 0) {
        r->counters.proposals_dropped++;
        return refused;
    }
    raft_append_own(r, type, data);
    ret->index = r->log.last;
    ret->term = r->term;
    return 0;
}

/* ---- reports ---- */
void raft_persisted(struct raft *r, uint64_t seq)
{
    struct raft_log *l = &r->log;
    size_t n = 0;

    assert(seq <= r->seq);
    while (n < r->write_count && r->writes[n].seq <= seq) {
        const struct pending_write *w = &r->writes[n++];

        if (w->snapshot != 0 && w->snapshot == r->snapshot_pending) {
            r->snapshot_pending = 0;
            l->stored = MAX(l->stored, w->snapshot);
        }
        if (w->last >= w->first && w->first != 0) {
            assert(w->last <= l->taken);
            l->stored = MAX(l->stored, w->last);
        }
        if (w->has_hard_state) {
            r->durable_term = w->term;
            r->durable_vote = w->vote;
        }
    }
    if (n == 0)
        return;
    r->write_count -= n;
    memmove(r->writes, r->writes + n, r->write_count * sizeof(*r->writes));
    assert(l->stored <= l->taken);

    raft_own_vote_durable(r);
    if (r->state == RAFT_LEADER)
        raft_maybe_commit(r);
    log_trim(l, r->config.window_bytes);
}

void raft_applied(struct raft *r, raft_index index)
{
    struct raft_log *l = &r->log;

    if (index <= l->applied)
        return;
    assert(index <= l->commit);
    assert(index <= l->stored);
    for (size_t i = 0; i < l->conf_count && l->confs[i] <= index; i++)
        assert(r->conf_index >= l->confs[i]); /* raft_apply_conf_change comes first */
    l->applied = index;
    log_conf_applied(l, index);
    assert(l->delivered >= index || r->deliver_paused);
}

int raft_apply_conf_change(struct raft *r, raft_index index, const struct raft_conf_change *change)
{
    struct raft_conf conf = r->conf;
    int out;

    assert(index <= r->log.commit);
    if (index <= r->conf_index)
        return 0;
    r->conf_index = index;
    if (change->op == RAFT_CONF_NONE)
        return 0;
    out = raft_conf_apply(&conf, change);
    if (out != 0)
        return out;
    /* Whoever leaves should hear that the change is committed. */
    if (r->state == RAFT_LEADER && change->op == RAFT_CONF_REMOVE)
        raft_flush_appends(r);
    r->conf = conf;
    raft_peers_sync(r);
    if (r->state != RAFT_LEADER)
        return 0;
    if (!raft_conf_has_voter(&r->conf, r->id)) {
        /* Raft thesis 4.2.2; the others have the commit index, one of them campaigns */
        raft_become_follower(r, r->term, 0);
        return 0;
    }
    if (r->transferee != 0 && !raft_conf_has_voter(&r->conf, r->transferee))
        r->transferee = 0;
    raft_maybe_commit(r); /* fewer voters: the same copies may now be a majority */
    raft_reads_confirm(r);
    r->send_due = true;
    return 0;
}

void raft_deliver_pause(struct raft *r)
{
    r->deliver_paused = true;
}

int raft_deliver_resume(struct raft *r, raft_index applied)
{
    struct raft_log *l = &r->log;

    if (applied != RAFT_GO_ON) {
        if (applied > l->commit)
            return -ERANGE;
        if (applied + 1 < l->first)
            return -ENODATA;
        l->delivered = applied;
        r->deliver_fetching = false;
    }
    r->deliver_paused = false;
    return 0;
}

void raft_compact(struct raft *r, raft_index index)
{
    log_compact(&r->log, index);
}

/* ---- messages ---- */
static bool entries_valid(const struct raft_msg *m)
{
    raft_term term = m->log_term;

    for (size_t i = 0; i < m->entry_count; i++) {
        const struct raft_entry *e = m->entries[i];

        if (e->index != m->log_index + 1 + i || e->term < term || e->term == 0 ||
            e->term > m->term || e->type > RAFT_ENTRY_CONF)
            return false;
        term = e->term;
    }
    return true;
}

static bool snapshot_valid(const struct raft_msg *m)
{
    const struct raft_snapshot *s = m->snapshot;

    return s != NULL && s->index >= 1 && s->index < RAFT_NUMBER_MAX && s->term >= 1 &&
           s->term <= m->term && s->conf.voter_count >= 1 && raft_conf_valid(&s->conf);
}

static bool msg_valid(const struct raft *r, const struct raft_msg *m)
{
    if (m->from == 0 || m->from == r->id || m->to != r->id)
        return false;
    if (m->term == 0 || m->term >= RAFT_NUMBER_MAX || m->log_index >= RAFT_NUMBER_MAX ||
        m->log_term >= RAFT_NUMBER_MAX || m->commit >= RAFT_NUMBER_MAX ||
        m->hint_index >= RAFT_NUMBER_MAX || m->hint_term >= RAFT_NUMBER_MAX)
        return false;
    if (m->entry_count != 0 && m->type != RAFT_MSG_APPEND)
        return false;
    if (m->snapshot != NULL && m->type != RAFT_MSG_SNAPSHOT)
        return false;
    switch (m->type) {
    case RAFT_MSG_APPEND:
        return (m->log_index == 0) == (m->log_term == 0) && m->log_term <= m->term &&
               entries_valid(m);
    case RAFT_MSG_SNAPSHOT:
        return snapshot_valid(m);
    case RAFT_MSG_VOTE:
    case RAFT_MSG_PRE_VOTE:
        /* a candidate's term is newer than anything in its log */
        return (m->log_index == 0) == (m->log_term == 0) && m->log_term < m->term;
    case RAFT_MSG_APPEND_RESP:
    case RAFT_MSG_HEARTBEAT:
    case RAFT_MSG_HEARTBEAT_RESP:
    case RAFT_MSG_VOTE_RESP:
    case RAFT_MSG_PRE_VOTE_RESP:
    case RAFT_MSG_TIMEOUT_NOW:
    case RAFT_MSG_READ_INDEX:
    case RAFT_MSG_READ_INDEX_RESP:
    case RAFT_MSG_COMMIT:
        return true;
    }
    return false;
}

/* A leader that was heard from lately is not deposed because somebody else did not hear it
 * (leader stickiness, Raft thesis 4.2.3 and 6.4.1), unless it asked for the election itself. */
static bool vote_is_premature(const struct raft *r, const struct raft_msg *m)
{
    return (m->type == RAFT_MSG_VOTE || m->type == RAFT_MSG_PRE_VOTE) && !m->transfer &&
           r->leader != 0 && r->election_elapsed < r->config.election_ticks;
}

/* What a message of a newer term does before it is looked at. False: drop it. */
static bool step_newer_term(struct raft *r, const struct raft_msg *m)
{
    if (vote_is_premature(r, m)) {
        r->counters.stale_messages++;
        return false;
    }
    if (m->type == RAFT_MSG_PRE_VOTE || (m->type == RAFT_MSG_PRE_VOTE_RESP && !m->reject))
        return true; /* the term is the one the asker would use: nobody has it yet */
    switch (m->type) {
    case RAFT_MSG_APPEND:
    case RAFT_MSG_HEARTBEAT:
    case RAFT_MSG_SNAPSHOT:
    case RAFT_MSG_COMMIT:
        raft_become_follower(r, m->term, m->from);
        break;
    default:
        raft_become_follower(r, m->term, 0);
        break;
    }
    return true;
}

/* Whoever sends in an old term learns the new one where that helps it to come back. */
static void step_older_term(struct raft *r, const struct raft_msg *m)
{
    r->counters.stale_messages++;
    switch (m->type) {
    case RAFT_MSG_APPEND:
    case RAFT_MSG_HEARTBEAT:
    case RAFT_MSG_SNAPSHOT:
    case RAFT_MSG_COMMIT: {
        struct raft_msg *answer = raft_send_now(r, RAFT_MSG_APPEND_RESP, m->from);

        answer->reject = true;
        answer->log_index = m->log_index;
        break;
    }
    case RAFT_MSG_PRE_VOTE:
        raft_send_now(r, RAFT_MSG_PRE_VOTE_RESP, m->from)->reject = true;
        break;
    case RAFT_MSG_VOTE:
        raft_send_now(r, RAFT_MSG_VOTE_RESP, m->from)->reject = true;
        break;
    default:
        break;
    }
}

/* True when the message is from the one leader of this term; makes a candidate follow it. */
static bool from_leader(struct raft *r, const struct raft_msg *m)
{
    if (r->state == RAFT_LEADER || (r->leader != 0 && r->leader != m->from)) {
        r->counters.malformed++; /* two leaders in one term: somebody lies */
        return false;
    }
    if (r->state != RAFT_FOLLOWER)
        raft_become_follower(r, m->term, m->from);
    raft_set_leader(r, m->from);
    r->election_elapsed = 0;
    return true;
}

static void step_to_follower(struct raft *r, const struct raft_msg *m)
{
    if (!from_leader(r, m))
        return;
    switch (m->type) {
    case RAFT_MSG_APPEND:
        raft_on_append(r, m);
        break;
    case RAFT_MSG_HEARTBEAT:
        raft_on_heartbeat(r, m);
        break;
    case RAFT_MSG_COMMIT:
        raft_on_commit(r, m);
        break;
    default:
        raft_on_snapshot(r, m);
        break;
    }
}

static void step_to_leader(struct raft *r, const struct raft_msg *m)
{
    if (r->state != RAFT_LEADER) {
        r->counters.stale_messages++;
        return;
    }
    if (raft_peer(r, m->from) == NULL) {
        r->counters.unknown_sender++;
        return;
    }
    switch (m->type) {
    case RAFT_MSG_APPEND_RESP:
        raft_on_append_resp(r, m);
        break;
    case RAFT_MSG_HEARTBEAT_RESP:
        raft_on_heartbeat_resp(r, m);
        break;
    default:
        raft_on_read_index(r, m);
        break;
    }
}

int raft_step(struct raft *r, const struct raft_msg *m)
{
    uint64_t malformed = r->counters.malformed;

    if (!msg_valid(r, m)) {
        r->counters.malformed++;
        return OUT_MALFORMED;
    }
    if (m->term > r->term && !step_newer_term(r, m))
        return 0;
    if (m->term < r->term) {
        step_older_term(r, m);
        return 0;
    }
    switch (m->type) {
    case RAFT_MSG_APPEND:
    case RAFT_MSG_HEARTBEAT:
    case RAFT_MSG_SNAPSHOT:
    case RAFT_MSG_COMMIT:
        step_to_follower(r, m);
        break;
    case RAFT_MSG_APPEND_RESP:
    case RAFT_MSG_HEARTBEAT_RESP:
    case RAFT_MSG_READ_INDEX:
        step_to_leader(r, m);
        break;
    case RAFT_MSG_VOTE:
    case RAFT_MSG_PRE_VOTE:
        raft_on_vote_request(r, m);
        break;
    case RAFT_MSG_VOTE_RESP:
    case RAFT_MSG_PRE_VOTE_RESP:
        raft_on_vote_response(r, m);
        break;
    case RAFT_MSG_TIMEOUT_NOW:
        if (r->state == RAFT_FOLLOWER && r->leader == m->from)
            raft_hup(r, true);
        else
            r->counters.stale_messages++;
        break;
    case RAFT_MSG_READ_INDEX_RESP:
        raft_on_read_index_resp(r, m);
        break;
    }
    return r->counters.malformed != malformed ? OUT_MALFORMED : 0;
}

/* ---- status ---- */
void raft_get_status(const struct raft *r, struct raft_status *ret)
{
    const struct raft_log *l = &r->log;

    *ret = r->counters;
    ret->id = r->id;
    ret->leader = r->leader;
    ret->vote = r->vote;
    ret->transferee = r->transferee;
    ret->term = r->term;
    ret->state = r->state;
    ret->is_voter = raft_conf_has_voter(&r->conf, r->id);
    ret->is_learner = raft_conf_has_learner(&r->conf, r->id);
    ret->sole_voter = raft_is_sole_voter(r);
    ret->first_index = l->first;
    ret->last_index = l->last;
    ret->stored_index = l->stored;
    ret->commit_index = l->commit;
    ret->delivered_index = l->delivered;
    ret->applied_index = l->applied;
    ret->conf_index = r->conf_index;
    ret->pending_conf_index = l->conf_count != 0 ? l->confs[l->conf_count - 1] : 0;
    ret->uncommitted_bytes = r->uncommitted_bytes;
    ret->window_bytes = l->bytes;
    ret->entries_in_memory = (uint32_t)(l->last + 1 - l->mem_first);
}

const struct raft_conf *raft_get_conf(const struct raft *r)
{
    return &r->conf;
}

raft_id raft_leader(const struct raft *r)
{
    return r->leader;
}

enum raft_state raft_get_state(const struct raft *r)
{
    return r->state;
}

raft_term raft_get_term(const struct raft *r)
{
    return r->term;
}

raft_id raft_transferee(const struct raft *r)
{
    return r->transferee;
}

int raft_log_term(const struct raft *r, raft_index index, raft_term *ret_term)
{
    return log_term(&r->log, index, ret_term);
}

const char *raft_msg_type_name(enum raft_msg_type type)
{
    static const char *const names[] = {
        [RAFT_MSG_APPEND] = "append",
        [RAFT_MSG_APPEND_RESP] = "append_resp",
        [RAFT_MSG_HEARTBEAT] = "heartbeat",
        [RAFT_MSG_HEARTBEAT_RESP] = "heartbeat_resp",
        [RAFT_MSG_VOTE] = "vote",
        [RAFT_MSG_VOTE_RESP] = "vote_resp",
        [RAFT_MSG_PRE_VOTE] = "pre_vote",
        [RAFT_MSG_PRE_VOTE_RESP] = "pre_vote_resp",
        [RAFT_MSG_SNAPSHOT] = "snapshot",
        [RAFT_MSG_TIMEOUT_NOW] = "timeout_now",
        [RAFT_MSG_READ_INDEX] = "read_index",
        [RAFT_MSG_READ_INDEX_RESP] = "read_index_resp",
        [RAFT_MSG_COMMIT] = "commit",
    };

    return type >= RAFT_MSG_APPEND && type <= RAFT_MSG_TYPE_MAX ? names[type] : "?";
}

const char *raft_state_name(enum raft_state state)
{
    static const char *const names[] = {"follower", "pre-candidate", "candidate", "leader"};

    return (size_t)state < ARRAY_LEN(names) ? names[state] : "?";
}

const char *raft_progress_state_name(enum raft_progress_state state)
{
    static const char *const names[] = {"probe", "replicate", "snapshot"};

    return (size_t)state < ARRAY_LEN(names) ? names[state] : "?";
}
