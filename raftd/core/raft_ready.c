/*
 * The way out. Taking a ready is where batching happens: appends, read rounds and deliveries of
 * everything that was put in since the last one are made here, once.
 */
#include "raftd/core/raft_internal.h"

enum { CAP_ENTRIES, CAP_NOW, CAP_AFTER, CAP_PEERS, CAP_COMMITTED, CAP_READS, CAP_ABORTED };
static_assert(CAP_ABORTED < ARRAY_LEN(((struct raft_ready *)0)->caps), "a capacity for each array");

static raft_index deliverable(const struct raft *r)
{
    const struct raft_log *l = &r->log;

    if (r->deliver_paused || r->deliver_fetching || r->snapshot_pending != 0)
        return 0;
    return MIN(l->commit, l->stored);
}

static struct raft_hard_state hard_state(const struct raft *r)
{
    return (struct raft_hard_state){.term = r->term, .vote = r->vote, .commit = r->log.commit};
}

static bool hard_state_changed(const struct raft *r)
{
    return r->term != r->emitted.term || r->vote != r->emitted.vote ||
           r->log.commit != r->emitted.commit;
}

static bool soft_changed(const struct raft *r)
{
    return r->leader != r->seen_leader || r->state != r->seen_state || r->term != r->seen_term ||
           raft_conf_has_voter(&r->conf, r->id) != r->seen_voter ||
           raft_conf_has_learner(&r->conf, r->id) != r->seen_learner;
}

static bool reads_ready(const struct raft *r)
{
    if (!r->read_due)
        return false;
    return r->state != RAFT_LEADER || r->log.commit >= r->term_start;
}

bool raft_has_ready(const struct raft *r)
{
    const struct raft_log *l = &r->log;

    return l->taken < l->last || r->now_count != 0 || r->after_count != 0 ||
           r->read_state_count != 0 || r->aborted_count != 0 || r->snapshot_peer_count != 0 ||
           r->snapshot_out != NULL || r->send_due || l->delivered < deliverable(r) ||
           reads_ready(r) || hard_state_changed(r) || soft_changed(r);
}

#define MOVE_VEC(to, to_count, to_cap, from, from_count, from_cap)                                 \
    do {                                                                                           \
        __typeof__(from) spare_ = (to);                                                            \
        size_t spare_cap_ = (to_cap);                                                              \
                                                                                                   \
        assert((to_count) == 0);                                                                   \
        (to) = (from);                                                                             \
        (to_count) = (from_count);                                                                 \
        (to_cap) = (from_cap);                                                                     \
        (from) = spare_;                                                                           \
        (from_count) = 0;                                                                          \
        (from_cap) = spare_cap_;                                                                   \
    } while (0)

static void take_entries(struct raft *r, struct raft_ready *rd)
{
    struct raft_log *l = &r->log;
    int err;

    if (l->taken >= l->last)
        return;
    /* what was not handed out is in memory: this cannot fail or be short */
    err = log_slice(l, 0, l->taken + 1, l->last, SIZE_MAX, &rd->entries, &rd->entry_count,
                    &rd->caps[CAP_ENTRIES]);
    assert(err == 0);
    assert(rd->entry_count == l->last - l->taken);
    l->taken = l->last;
    rd->must_sync = true;
}

static void take_hard_state(struct raft *r, struct raft_ready *rd)
{
    if (!hard_state_changed(r))
        return;
    rd->has_hard_state = true;
    rd->hard_state = hard_state(r);
    /* The commit index is a hint: losing it costs nothing. */
    if (rd->hard_state.term != r->emitted.term || rd->hard_state.vote != r->emitted.vote)
        rd->must_sync = true;
    r->emitted = rd->hard_state;
    if (SIM_BUG(FORGET_VOTE))
        rd->hard_state.vote = 0;
}

static void take_committed(struct raft *r, struct raft_ready *rd)
{
    struct raft_log *l = &r->log;
    raft_index to = deliverable(r);
    int err;

    if (l->delivered >= to)
        return;
    if (SIM_BUG(SKIP_ENTRY) && to % 97 == 0 && l->delivered + 1 < to)
        l->delivered++;
    err = log_slice(l, 0, l->delivered + 1, to, r->config.committed_bytes_max, &rd->committed,
                    &rd->committed_count, &rd->caps[CAP_COMMITTED]);
    if (err != 0) {
        /* -ENODATA cannot be: applied entries only are compacted. Asking again finds out. */
        r->deliver_fetching = true;
        return;
    }
    l->delivered += rd->committed_count;
}

static void note_write(struct raft *r, const struct raft_ready *rd)
{
    struct pending_write *w;

    if (!raft_ready_has_write(rd))
        return;
    w = &VEC_PUSH(r->writes, r->write_count, r->write_cap);
    *w = (struct pending_write){.seq = rd->seq,
                                .snapshot = rd->has_snapshot ? rd->snapshot->index : 0,
                                .has_hard_state = rd->has_hard_state,
                                .term = rd->hard_state.term,
                                .vote = rd->hard_state.vote};
    if (rd->entry_count > 0) {
        w->first = rd->entries[0]->index;
        w->last = rd->entries[rd->entry_count - 1]->index;
    }
}

void raft_take_ready(struct raft *r, struct raft_ready *rd)
{
    assert(rd->seq == 0);
    assert(rd->entry_count == 0);
    rd->seq = ++r->seq;
    raft_reads_flush(r);
    if (r->state == RAFT_LEADER && r->send_due)
        raft_flush_appends(r);

    if (r->snapshot_out != NULL) {
        rd->has_snapshot = true;
        rd->must_sync = true;
        rd->snapshot = TAKE(r->snapshot_out);
    }
    take_entries(r, rd);
    take_hard_state(r, rd);
    take_committed(r, rd);
    MOVE_VEC(rd->messages_now, rd->message_now_count, rd->caps[CAP_NOW], r->now, r->now_count,
             r->now_cap);
    MOVE_VEC(rd->messages_after, rd->message_after_count, rd->caps[CAP_AFTER], r->after,
             r->after_count, r->after_cap);
    MOVE_VEC(rd->snapshot_peers, rd->snapshot_peer_count, rd->caps[CAP_PEERS], r->snapshot_peers,
             r->snapshot_peer_count, r->snapshot_peer_cap);
    MOVE_VEC(rd->read_states, rd->read_state_count, rd->caps[CAP_READS], r->read_states,
             r->read_state_count, r->read_state_cap);
    MOVE_VEC(rd->aborted, rd->aborted_count, rd->caps[CAP_ABORTED], r->aborted, r->aborted_count,
             r->aborted_cap);
    note_write(r, rd);

    rd->soft_changed = soft_changed(r);
    r->seen_leader = r->leader;
    r->seen_state = r->state;
    r->seen_term = r->term;
    r->seen_voter = raft_conf_has_voter(&r->conf, r->id);
    r->seen_learner = raft_conf_has_learner(&r->conf, r->id);
}

static void unref_all(struct raft_entry **entries, size_t count)
{
    for (size_t i = 0; i < count; i++)
        raft_entry_unref(entries[i]);
}

void raft_ready_clear(struct raft_ready *rd)
{
    struct raft_ready kept = {.entries = rd->entries,
                              .messages_now = rd->messages_now,
                              .messages_after = rd->messages_after,
                              .snapshot_peers = rd->snapshot_peers,
                              .committed = rd->committed,
                              .read_states = rd->read_states,
                              .aborted = rd->aborted};

    unref_all(rd->entries, rd->entry_count);
    unref_all(rd->committed, rd->committed_count);
    unref_all(rd->aborted, rd->aborted_count);
    for (size_t i = 0; i < rd->message_now_count; i++)
        raft_msg_fini(&rd->messages_now[i]);
    for (size_t i = 0; i < rd->message_after_count; i++)
        raft_msg_fini(&rd->messages_after[i]);
    free(rd->snapshot);
    memcpy(kept.caps, rd->caps, sizeof(kept.caps));
    *rd = kept;
}

void raft_ready_fini(struct raft_ready *rd)
{
    raft_ready_clear(rd);
    free(rd->entries);
    free(rd->messages_now);
    free(rd->messages_after);
    free(rd->snapshot_peers);
    free(rd->committed);
    free(rd->read_states);
    free(rd->aborted);
    *rd = (struct raft_ready){0};
}
