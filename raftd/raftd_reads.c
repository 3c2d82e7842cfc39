/*
 * Read barriers for stored. All that arrive in one turn become one round, which asks the core once
 * (the leader confirms itself, a follower asks the leader). An answer may get lost on the way to
 * another member, or there may be no leader just now: a round is asked again, under a new id,
 * every half second and when a leader appears, until the request timeout. Asking late is safe: a
 * later index is a stricter barrier.
 */
#include <stdlib.h>
#include "lib/util/list.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "raftd/raftd.h"

struct round {
    struct list node;
    uint64_t core_id; /* of the newest question; 0: to be asked */
    uint64_t deadline_ms, retry_ms;
    int last_outcome;
    size_t count;
    uint64_t *barriers;
};

struct raftd_reads {
    struct list rounds; /* oldest first */
    uint64_t last_core_id;
    uint64_t *gathering; /* of this turn */
    size_t gathered, cap;
};

struct raftd_reads *raftd_reads_new(struct raftd *r)
{
    struct raftd_reads *q = xcalloc(1, sizeof(*q));

    list_init(&q->rounds);
    return q;
}

static void round_free(struct round *round)
{
    list_remove(&round->node);
    free(round->barriers);
    free(round);
}

void raftd_reads_free(struct raftd_reads *q)
{
    if (q == NULL)
        return;
    while (!list_empty(&q->rounds))
        round_free(LIST_ENTRY(q->rounds.next, struct round, node));
    free(q->gathering);
    free(q);
}

void raftd_reads_clear(struct raftd *r)
{
    struct raftd_reads *q = r->reads;

    while (!list_empty(&q->rounds))
        round_free(LIST_ENTRY(q->rounds.next, struct round, node));
    q->gathered = 0;
}

void raftd_reads_add(struct raftd *r, uint64_t barrier_id)
{
    struct raftd_reads *q = r->reads;

    if (q->gathered == q->cap) {
        q->cap = q->cap == 0 ? 16 : 2 * q->cap;
        q->gathering = xreallocarray(q->gathering, q->cap, sizeof(*q->gathering));
    }
    q->gathering[q->gathered++] = barrier_id;
    raftd_arm(r);
}

static void answer(struct raftd *r, struct round *round, int outcome, uint64_t index)
{
    struct proto_barrier_index m = {.outcome = (uint16_t)outcome,
                                    .index = index,
                                    .term = raftd_is_leader(r) ? raft_get_term(r->raft) : 0};

    if (outcome != OUT_OK)
        r->counters.reads_failed += round->count;
    for (size_t i = 0; i < round->count; i++) {
        struct buf *b = ipc_link_begin(r->stored, PROTO_BARRIER_INDEX, round->barriers[i]);

        if (b == NULL)
            break;
        proto_barrier_index_encode(b, &m);
        ipc_link_end(r->stored);
    }
    round_free(round);
}

static void ask(struct raftd *r, struct round *round)
{
    round->core_id = ++r->reads->last_core_id;
    round->retry_ms = raftd_now_ms(r) + RAFTD_READ_RETRY_MS;
    raft_read_index(r->raft, round->core_id);
    raftd_arm(r);
}

void raftd_reads_flush(struct raftd *r)
{
    struct raftd_reads *q = r->reads;
    struct round *round;

    if (q->gathered == 0)
        return;
    round = xcalloc(1, sizeof(*round));
    round->deadline_ms = raftd_now_ms(r) + r->request_timeout_ms;
    round->count = q->gathered;
    round->barriers = xmemdup(q->gathering, q->gathered * sizeof(*q->gathering));
    q->gathered = 0;
    list_push_back(&q->rounds, &round->node);
    if (r->diverged) {
        answer(r, round, OUT_CORRUPT, 0);
        return;
    }
    ask(r, round);
}

void raftd_reads_on_state(struct raftd *r, const struct raft_read_state *s)
{
    LIST_FOREACH (it, &r->reads->rounds) {
        struct round *round = LIST_ENTRY(it, struct round, node);

        if (round->core_id != s->id)
            continue;
        if (s->outcome == OUT_OK) {
            answer(r, round, OUT_OK, s->index);
        } else {
            round->core_id = 0;
            round->last_outcome = s->outcome;
        }
        return;
    }
}

void raftd_reads_retry(struct raftd *r, bool now)
{
    uint64_t now_ms = raftd_now_ms(r);

    if (r->raft == NULL)
        return;
    LIST_FOREACH_SAFE (it, tmp, &r->reads->rounds) {
        struct round *round = LIST_ENTRY(it, struct round, node);

        if (now_ms >= round->deadline_ms)
            answer(r, round, OUT_TIMEOUT, 0);
        else if (now_ms >= round->retry_ms || (now && round->core_id == 0))
            ask(r, round);
    }
}
