/*
 * Replication: what the leader knows of each follower, and the follower's side of it.
 *
 *             accepted                                     log too short for it
 *   +-------+ --------> +-----------+    probe, replicate ---------------------> +----------+
 *   | probe |           | replicate |                                            | snapshot |
 *   +-------+ <-------- +-----------+    probe <-------------------------------- +----------+
 *      refused, unreachable                      transfer ended, or it caught up
 *
 * probe: one append, then wait for the answer or the next heartbeat. replicate: appends follow each
 * other, next_index runs ahead, bounded by count and bytes in flight. snapshot: nothing but
 * heartbeats until the transfer has ended. Appends are not sent where their cause arises but once
 * per ready (raft_flush_appends), so all proposals of a turn travel in one message.
 */
#include "raftd/core/raft_internal.h"

/* ---- the table of peers ---- */
struct progress *raft_peer(const struct raft *r, raft_id id)
{
    for (size_t i = 0; i < r->peer_count; i++)
        if (r->peers[i].id == id)
            return &r->peers[i];
    return NULL;
}

static void inflights_clear(struct progress *p)
{
    p->inflight_head = p->inflight_count = 0;
    p->inflight_bytes = 0;
}

void raft_peers_fini(struct raft *r)
{
    for (size_t i = 0; i < r->peer_count; i++)
        free(r->peers[i].inflights);
    free(r->peers);
    r->peers = NULL;
    r->peer_count = 0;
}

static void peer_add(struct progress *peers, size_t *count, struct raft *r, raft_id id,
                     bool is_learner)
{
    struct progress *old = raft_peer(r, id);
    struct progress *p = &peers[(*count)++];

    if (old != NULL) {
        *p = *old;
        old->inflights = NULL; /* moved */
    } else {
        /* it gets a whole election timeout before a quorum check can miss it */
        *p = (struct progress){.id = id, .next = r->log.last + 1, .recently_active = true};
    }
    p->is_learner = is_learner;
}

void raft_peers_sync(struct raft *r)
{
    size_t total = (size_t)r->conf.voter_count + r->conf.learner_count, count = 0;
    struct progress *peers = xcalloc(total + 1, sizeof(*peers));

    for (uint32_t i = 0; i < r->conf.voter_count; i++)
        if (r->conf.voters[i] != r->id)
            peer_add(peers, &count, r, r->conf.voters[i], false);
    for (uint32_t i = 0; i < r->conf.learner_count; i++)
        if (r->conf.learners[i] != r->id)
            peer_add(peers, &count, r, r->conf.learners[i], true);
    raft_peers_fini(r);
    r->peers = peers;
    r->peer_count = count;
}

void raft_peers_reset(struct raft *r)
{
    for (size_t i = 0; i < r->peer_count; i++) {
        struct progress *p = &r->peers[i];
        struct progress fresh = {.id = p->id,
                                 .is_learner = p->is_learner,
                                 .recently_active = true,
                                 .snapshot_asked = p->snapshot_asked,
                                 .inflights = p->inflights,
                                 .next = r->log.last + 1};

        *p = fresh;
    }
}

static void become_probe(struct progress *p, raft_index next)
{
    p->state = RAFT_PROBE;
    p->next = next;
    p->probe_sent = false;
    p->nudge = false;
    p->fetching = false;
    inflights_clear(p);
}

static void become_replicate(struct progress *p)
{
    p->state = RAFT_REPLICATE;
    p->next = p->match + 1;
    p->probe_sent = false;
    p->match_at_heartbeat = p->match;
    inflights_clear(p);
}

/* ---- majorities ---- */
uint64_t raft_quorum_value(const struct raft *r, uint64_t own,
                           uint64_t (*of)(const struct progress *p))
{
    uint64_t v[RAFT_MEMBERS_MAX];
    uint32_t n = 0;

    assert(r->conf.voter_count >= 1);
    if (raft_conf_has_voter(&r->conf, r->id))
        v[n++] = own;
    for (size_t i = 0; i < r->peer_count; i++) {
        uint64_t x;
        uint32_t j = n;

        if (r->peers[i].is_learner)
            continue;
        x = of(&r->peers[i]);
        while (j > 0 && v[j - 1] < x) {
            v[j] = v[j - 1];
            j--;
        }
        v[j] = x;
        n++;
    }
    assert(n == r->conf.voter_count);
    return v[conf_quorum(&r->conf) - 1];
}

static uint64_t match_of(const struct progress *p)
{
    return p->match;
}

/* Only an entry of the leader's own term is committed by counting copies; those before it then are
 * too (Raft thesis 3.6.2, figure 3.7). */
bool raft_maybe_commit(struct raft *r)
{
    raft_index own = SIM_BUG(ACK_BEFORE_SYNC) ? r->log.taken : r->log.stored;
    raft_index index = raft_quorum_value(r, own, match_of);
    raft_term term = 0;

    assert(r->state == RAFT_LEADER);
    if (index <= r->log.commit)
        return false;
    if (log_term(&r->log, index, &term) != 0)
        return false;
    if (term != r->term && !SIM_BUG(COMMIT_OLD_TERM))
        return false;
    raft_commit_to(r, index);
    r->send_due = true; /* followers apply without waiting for the next entry */
    return true;
}

/* ---- sending ---- */
static bool inflights_full(const struct raft *r, const struct progress *p)
{
    return p->inflight_count >= r->config.inflight_max ||
           p->inflight_bytes >= r->config.inflight_bytes_max;
}

static void inflights_add(struct raft *r, struct progress *p, raft_index last, size_t bytes)
{
    uint32_t cap = r->config.inflight_max;

    assert(p->inflight_count < cap);
    if (p->inflights == NULL)
        p->inflights = xcalloc(cap, sizeof(*p->inflights));
    p->inflights[(p->inflight_head + p->inflight_count) % cap] = (struct inflight){last, bytes};
    p->inflight_count++;
    p->inflight_bytes += bytes;
}

static void inflights_free_to(struct raft *r, struct progress *p, raft_index index)
{
    uint32_t cap = r->config.inflight_max;

    while (p->inflight_count > 0 && p->inflights[p->inflight_head].last <= index) {
        p->inflight_bytes -= p->inflights[p->inflight_head].bytes;
        p->inflight_head = (p->inflight_head + 1) % cap;
        p->inflight_count--;
    }
}

static void ask_snapshot(struct raft *r, struct progress *p)
{
    if (!p->heard && !p->recently_active)
        return; /* it would not receive it; asked again when it is heard from */
    p->state = RAFT_SNAPSHOT;
    p->nudge = false;
    inflights_clear(p);
    if (!p->snapshot_asked) {
        p->snapshot_asked = true;
        VEC_PUSH(r->snapshot_peers, r->snapshot_peer_count, r->snapshot_peer_cap) = p->id;
    }
}

/* One append from p->next; with_entries false: only the question and the commit index. False when
 * nothing was sent. */
static bool send_append(struct raft *r, struct progress *p, bool with_entries)
{
    struct raft_log *l = &r->log;
    struct raft_entry **entries = NULL;
    size_t count = 0, cap = 0, bytes = 0;
    raft_term prev_term = 0;
    struct raft_msg *m;

    if (p->next < l->first || log_term(l, p->next - 1, &prev_term) != 0) {
        ask_snapshot(r, p);
        return false;
    }
    if (with_entries && p->next <= l->last) {
        int err = log_slice(l, p->id, p->next, l->last, r->config.append_bytes_max, &entries,
                            &count, &cap);

        if (err != 0) {
            free(entries);
            if (err == -ENODATA)
                ask_snapshot(r, p);
            else
                p->fetching = true;
            return false;
        }
    }
    m = raft_send_now(r, RAFT_MSG_APPEND, p->id);
    m->log_index = p->next - 1;
    m->log_term = prev_term;
    m->commit = l->commit;
    m->entries = entries;
    m->entry_count = count;
    for (size_t i = 0; i < count; i++)
        bytes += entries[i]->len;
    p->sent_commit = MAX(p->sent_commit, MIN(l->commit, m->log_index + count));
    p->nudge = false;
    if (p->state == RAFT_PROBE) {
        p->probe_sent = true;
    } else if (count > 0) {
        p->next += count;
        inflights_add(r, p, p->next - 1, bytes);
    }
    return true;
}

/* A follower needs no question to learn that what it has acknowledged is committed, and has nothing
 * to say to it. When the message is lost, the next append or heartbeat tells the same. */
static void send_commit(struct raft *r, struct progress *p, raft_index commit)
{
    raft_send_now(r, RAFT_MSG_COMMIT, p->id)->commit = commit;
    p->sent_commit = commit;
}

static void flush_peer(struct raft *r, struct progress *p)
{
    struct raft_log *l = &r->log;

    switch (p->state) {
    case RAFT_PROBE:
        if (!p->probe_sent && !p->fetching)
            send_append(r, p, true);
        return;
    case RAFT_REPLICATE:
        while (p->state == RAFT_REPLICATE && p->next <= l->last && !p->fetching &&
               !inflights_full(r, p))
            if (!send_append(r, p, true))
                break;
        if (p->state != RAFT_REPLICATE)
            return;
        if (p->nudge)
            send_append(r, p, false);
        else if (p->sent_commit < MIN(l->commit, p->match))
            send_commit(r, p, MIN(l->commit, p->match));
        return;
    case RAFT_SNAPSHOT:
        return;
    }
}

void raft_flush_appends(struct raft *r)
{
    assert(r->state == RAFT_LEADER);
    r->send_due = false;
    for (size_t i = 0; i < r->peer_count; i++)
        flush_peer(r, &r->peers[i]);
}

/* On the clock this is also when a silent pipeline is questioned, and a probe repeated. */
static void peer_on_clock(struct raft *r, struct progress *p)
{
    if (p->state == RAFT_PROBE && p->probe_sent && p->heard) {
        p->probe_sent = false;
        r->send_due = true;
    }
    if (p->state == RAFT_REPLICATE && p->inflight_count > 0) {
        if (p->heard && p->match == p->match_at_heartbeat) {
            p->nudge = true;
            r->send_due = true;
        }
        p->match_at_heartbeat = p->match;
    }
    p->heard = false;
}

void raft_send_heartbeats(struct raft *r, bool from_clock)
{
    for (size_t i = 0; i < r->peer_count; i++) {
        struct progress *p = &r->peers[i];
        struct raft_msg *m = raft_send_now(r, RAFT_MSG_HEARTBEAT, p->id);

        /* never more than it is known to have: its log may differ behind that */
        m->commit = MIN(p->match, r->log.commit);
        m->context = r->read_round;
        if (from_clock)
            peer_on_clock(r, p);
    }
}

void raft_send_timeout_now(struct raft *r, raft_id to)
{
    raft_send_now(r, RAFT_MSG_TIMEOUT_NOW, to);
}

/* ---- answers, on the leader ---- */
static void heard_from(struct progress *p)
{
    p->recently_active = true;
    p->heard = true;
}

static void on_append_refused(struct raft *r, struct progress *p, const struct raft_msg *m)
{
    raft_term hint_term = 0;
    raft_index next;

    /* an answer to an append that has been overtaken by events */
    if (p->state == RAFT_SNAPSHOT || m->log_index <= p->match ||
        (p->state == RAFT_PROBE && m->log_index != p->next - 1)) {
        r->counters.stale_messages++;
        return;
    }
    /* Go back to where the logs can be equal: not above its hint, and not where our term is newer
     * than its (all of its terms there are at most hint_term). */
    next = MIN(m->hint_index, m->log_index - 1);
    if (m->hint_term != 0)
        next = log_find_by_term(&r->log, next, m->hint_term, &hint_term);
    become_probe(p, MAX(next, p->match) + 1);
    r->send_due = true;
}

static void on_append_accepted(struct raft *r, struct progress *p, const struct raft_msg *m)
{
    bool moved = m->log_index > p->match;

    if (moved) {
        p->match = m->log_index;
        p->next = MAX(p->next, p->match + 1);
    }
    switch (p->state) {
    case RAFT_PROBE:
        if (moved || m->log_index == p->match)
            become_replicate(p);
        break;
    case RAFT_REPLICATE:
        inflights_free_to(r, p, m->log_index);
        break;
    case RAFT_SNAPSHOT:
        if (moved && p->match + 1 >= r->log.first)
            become_replicate(p);
        break;
    }
    r->send_due = true;
    if (moved)
        raft_maybe_commit(r);
    if (r->transferee == p->id && p->match == r->log.last)
        raft_send_timeout_now(r, p->id);
}

/*
 * It does not have what it once reported durable: its data directory was lost and it started anew
 * under the same id. Raft promises nothing for a voter that forgets, and an operator who starts one
 * accepts that; but as long as a majority does remember, it is brought up to date like any other.
 */
static void on_log_lost(struct raft *r, struct progress *p, raft_index last)
{
    if (last >= p->match) {
        r->counters.stale_messages++;
        return;
    }
    p->match = 0;
    become_probe(p, last + 1);
    r->send_due = true;
}

void raft_on_append_resp(struct raft *r, const struct raft_msg *m)
{
    struct progress *p = raft_peer(r, m->from);

    assert(r->state == RAFT_LEADER);
    heard_from(p);
    if (m->log_index > r->log.last) {
        r->counters.malformed++;
        return;
    }
    if (m->reject)
        on_append_refused(r, p, m);
    else
        on_append_accepted(r, p, m);
}

void raft_on_heartbeat_resp(struct raft *r, const struct raft_msg *m)
{
    struct progress *p = raft_peer(r, m->from);

    assert(r->state == RAFT_LEADER);
    heard_from(p);
    if (m->context > r->read_round) {
        r->counters.malformed++;
        return;
    }
    if (m->context > p->read_ack) {
        p->read_ack = m->context;
        raft_reads_confirm(r);
    }
    if (m->reject)
        on_log_lost(r, p, m->hint_index);
    if (p->state == RAFT_PROBE && !p->probe_sent)
        r->send_due = true;
}

void raft_entries_fetched(struct raft *r, raft_id peer)
{
    struct progress *p;

    if (peer == 0) {
        r->deliver_fetching = false;
        return;
    }
    p = raft_peer(r, peer);
    if (p == NULL)
        return;
    p->fetching = false;
    r->send_due = r->state == RAFT_LEADER;
}

void raft_report_unreachable(struct raft *r, raft_id peer)
{
    struct progress *p = raft_peer(r, peer);

    if (r->state != RAFT_LEADER || p == NULL)
        return;
    if (p->state == RAFT_REPLICATE)
        become_probe(p, p->match + 1);
    if (p->state == RAFT_PROBE)
        p->probe_sent = true; /* until it is heard from again */
}

void raft_report_snapshot(struct raft *r, raft_id peer, raft_index index)
{
    struct progress *p = raft_peer(r, peer);

    if (p == NULL)
        return;
    p->snapshot_asked = false;
    if (r->state != RAFT_LEADER || p->state != RAFT_SNAPSHOT)
        return;
    become_probe(p, MAX(p->match, MIN(index, r->log.last)) + 1);
    p->probe_sent = true; /* its answer may be on the way; a failure is repeated no faster */
}

bool raft_get_progress(const struct raft *r, raft_id id, struct raft_progress *ret)
{
    const struct progress *p = raft_peer(r, id);

    if (r->state != RAFT_LEADER || p == NULL)
        return false;
    *ret = (struct raft_progress){.id = id,
                                  .is_learner = p->is_learner,
                                  .recently_active = p->recently_active,
                                  .fetching = p->fetching,
                                  .state = p->state,
                                  .match_index = p->match,
                                  .next_index = p->next,
                                  .inflight_count = p->inflight_count,
                                  .inflight_bytes = p->inflight_bytes};
    return true;
}

/* ---- the follower's side ---- */
/* Acceptance waits until the entries are durable; of several in one turn the last says it all. */
static void accept_to(struct raft *r, raft_id leader, raft_index index)
{
    struct raft_msg *m = r->after_count > 0 ? &r->after[r->after_count - 1] : NULL;

    if (m == NULL || m->type != RAFT_MSG_APPEND_RESP || m->to != leader || m->term != r->term)
        m = raft_send_after(r, RAFT_MSG_APPEND_RESP, leader);
    m->log_index = MAX(m->log_index, index);
}

static void refuse_append(struct raft *r, const struct raft_msg *m)
{
    struct raft_msg *answer = raft_send_now(r, RAFT_MSG_APPEND_RESP, m->from);

    answer->reject = true;
    answer->log_index = m->log_index;
    answer->hint_index = log_find_by_term(&r->log, m->log_index, m->log_term, &answer->hint_term);
}

/* Appends what is new. False when the message contradicts what is committed here. */
static bool append_entries(struct raft *r, const struct raft_msg *m)
{
    struct raft_log *l = &r->log;

    for (size_t i = 0; i < m->entry_count; i++) {
        struct raft_entry *e = m->entries[i];
        raft_term term = 0;

        if (e->index <= l->last) {
            if (log_term(l, e->index, &term) == 0 && term == e->term)
                continue;
            if (e->index <= l->commit)
                return false;
            if (SIM_BUG(KEEP_CONFLICT))
                continue;
            raft_drop_tail(r, e->index);
        }
        log_append(l, raft_entry_ref(e));
    }
    return true;
}

void raft_on_append(struct raft *r, const struct raft_msg *m)
{
    struct raft_log *l = &r->log;
    raft_index last = m->log_index + m->entry_count;
    raft_term term = 0;

    if (m->log_index < l->commit) {
        accept_to(r, m->from, l->commit);
        return;
    }
    if (m->log_index > l->last || log_term(l, m->log_index, &term) != 0 || term != m->log_term) {
        refuse_append(r, m);
        return;
    }
    if (!append_entries(r, m)) {
        r->counters.malformed++;
        return;
    }
    assert(l->last >= last);
    raft_commit_to(r, MIN(m->commit, last));
    accept_to(r, m->from, last);
}

void raft_on_commit(struct raft *r, const struct raft_msg *m)
{
    if (m->commit <= r->log.last) /* else it lost its log: the answer to a heartbeat says so */
        raft_commit_to(r, m->commit);
}

void raft_on_heartbeat(struct raft *r, const struct raft_msg *m)
{
    struct raft_msg *answer;

    if (m->commit <= r->log.last)
        raft_commit_to(r, m->commit);
    answer = raft_send_now(r, RAFT_MSG_HEARTBEAT_RESP, m->from);
    answer->context = m->context;
    answer->reject = m->commit > r->log.last; /* it says we have what we do not have */
    answer->hint_index = r->log.last;
}

void raft_on_snapshot(struct raft *r, const struct raft_msg *m)
{
    struct raft_log *l = &r->log;
    const struct raft_snapshot *s = m->snapshot;
    raft_term term = 0;

    if (s->index <= l->commit) {
        accept_to(r, m->from, l->commit);
        return;
    }
    if (log_term(l, s->index, &term) == 0 && term == s->term) {
        raft_commit_to(r, s->index); /* we have it all: no need to throw away the log behind it */
        accept_to(r, m->from, s->index);
        return;
    }
    raft_install(r, s->index, s->term, &s->conf);
    accept_to(r, m->from, s->index);
}
