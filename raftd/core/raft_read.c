/*
 * Read barriers (Raft thesis 6.4). A leader's commit index is the answer once a majority has said,
 * after the question was asked, that it still follows this leader, and once an entry of its own
 * term is committed (before that its commit index may lag behind what a former leader
 * acknowledged).
 *
 * All questions of one turn share one round of heartbeats; rounds have growing numbers, and an
 * answer to round n also answers all rounds before. A follower forwards its questions under a
 * number of its own, all of a turn together, and asks again on the clock: a lost message then costs
 * a heartbeat interval. Whoever stops following a leader answers all its questions at once.
 */
#include "raftd/core/raft_internal.h"

enum { READS_MAX = 65536 }; /* barriers kept for others; ours are bounded by the caller */

static void answer(struct raft *r, uint64_t id, int outcome, raft_index index)
{
    if (outcome != OUT_OK)
        r->counters.reads_failed++;
    VEC_PUSH(r->read_states, r->read_state_count, r->read_state_cap) =
        (struct raft_read_state){.id = id, .outcome = outcome, .index = index};
}

void raft_reads_drop(struct raft *r, int outcome)
{
    for (size_t i = 0; i < r->read_count; i++)
        if (r->reads[i].from == 0)
            answer(r, r->reads[i].id, outcome, 0);
    r->read_count = 0; /* other members notice the change themselves */
    r->read_due = false;
}

void raft_read_index(struct raft *r, uint64_t id)
{
    if (r->leader == 0) {
        answer(r, id, OUT_NO_LEADER, 0);
        return;
    }
    if (SIM_BUG(STALE_READ_INDEX) && r->state == RAFT_LEADER) {
        answer(r, id, OUT_OK, r->log.commit);
        return;
    }
    VEC_PUSH(r->reads, r->read_count, r->read_cap) = (struct read_req){.id = id};
    r->read_due = true;
}

void raft_on_read_index(struct raft *r, const struct raft_msg *m)
{
    assert(r->state == RAFT_LEADER);
    for (size_t i = 0; i < r->read_count; i++)
        if (r->reads[i].from == m->from && r->reads[i].id == m->context)
            return; /* asked again */
    if (r->read_count >= READS_MAX)
        return;
    VEC_PUSH(r->reads, r->read_count, r->read_cap) =
        (struct read_req){.from = m->from, .id = m->context};
    r->read_due = true;
}

static uint64_t read_ack_of(const struct progress *p)
{
    return p->read_ack;
}

void raft_reads_confirm(struct raft *r)
{
    uint64_t round;
    size_t n = 0;

    assert(r->state == RAFT_LEADER);
    if (r->read_count == 0)
        return;
    round = raft_quorum_value(r, UINT64_MAX, read_ack_of);
    for (; n < r->read_count; n++) {
        const struct read_req *q = &r->reads[n];

        if (q->round == 0 || q->round > round)
            break;
        if (q->from == 0) {
            answer(r, q->id, OUT_OK, q->index);
        } else {
            struct raft_msg *m = raft_send_now(r, RAFT_MSG_READ_INDEX_RESP, q->from);

            m->context = q->id;
            m->log_index = q->index;
        }
    }
    r->read_count -= n;
    memmove(r->reads, r->reads + n, r->read_count * sizeof(*r->reads));
}

static void begin_round(struct raft *r)
{
    struct raft_log *l = &r->log;

    if (l->commit < r->term_start)
        return; /* stays due; looked at again with the next ready */
    r->read_due = false;
    r->read_round++;
    for (size_t i = 0; i < r->read_count; i++) {
        if (r->reads[i].round != 0)
            continue;
        r->reads[i].round = r->read_round;
        r->reads[i].index = l->commit;
    }
    raft_send_heartbeats(r, false);
    raft_reads_confirm(r); /* the only voter needs nobody */
}

static void forward(struct raft *r, uint64_t context)
{
    raft_send_now(r, RAFT_MSG_READ_INDEX, r->leader)->context = context;
}

void raft_reads_flush(struct raft *r)
{
    if (!r->read_due)
        return;
    if (r->state == RAFT_LEADER) {
        begin_round(r);
        return;
    }
    assert(r->leader != 0);
    r->read_due = false;
    r->read_context++;
    for (size_t i = 0; i < r->read_count; i++)
        if (r->reads[i].round == 0)
            r->reads[i].round = r->read_context;
    forward(r, r->read_context);
}

void raft_reads_tick(struct raft *r)
{
    uint64_t last = 0;

    if (r->read_count == 0 || r->leader == 0)
        return;
    if (++r->read_retry_elapsed < r->config.heartbeat_ticks)
        return;
    r->read_retry_elapsed = 0;
    for (size_t i = 0; i < r->read_count; i++) {
        if (r->reads[i].round == 0 || r->reads[i].round == last)
            continue;
        last = r->reads[i].round;
        forward(r, last);
    }
}

void raft_on_read_index_resp(struct raft *r, const struct raft_msg *m)
{
    size_t kept = 0;

    if (r->state == RAFT_LEADER || r->leader != m->from) {
        r->counters.stale_messages++;
        return;
    }
    for (size_t i = 0; i < r->read_count; i++) {
        if (r->reads[i].round != 0 && r->reads[i].round == m->context)
            answer(r, r->reads[i].id, OUT_OK, m->log_index);
        else
            r->reads[kept++] = r->reads[i];
    }
    r->read_count = kept;
}
