/*
 * MoveLeader calls of clients (etcd Maintenance.MoveLeader): a transfer is started, and the caller
 * hears of its end: the target leads, or it was given up. Several calls may wait for one transfer.
 */
#include <inttypes.h>
#include <stdlib.h>
#include "lib/log/log.h"
#include "lib/util/xmalloc.h"
#include "raftd/raftd.h"

enum { MOVES_MAX = 256 };

struct move {
    struct list node;
    uint32_t gateway;
    uint64_t generation, request_id, target, deadline_ms;
};

static void answer(struct raftd *r, struct move *m, int outcome)
{
    struct raftd_gateway *g = &r->gateways[m->gateway];

    if (g->generation == m->generation)
        raftd_reply_outcome(g, PROTO_RAFT_CALLED, m->request_id, outcome);
    list_remove(&m->node);
    r->move_count--;
    free(m);
}

static int start_move(struct raftd *r, uint64_t target)
{
    const struct raftd_member *m = raftd_members_find(&r->members, target);

    if (!raftd_is_leader(r))
        return OUT_NOT_LEADER;
    if (m == NULL || m->removed || m->is_learner)
        return OUT_BAD_LEADER_TRANSFEREE;
    return raft_transfer_leader(r->raft, target);
}

void raftd_move_leader(struct raftd_gateway *g, uint64_t request_id, uint64_t target)
{
    struct raftd *r = g->r;
    int out = r->move_count < MOVES_MAX ? start_move(r, target) : OUT_TOO_MANY_REQUESTS;
    struct move *m;

    if (out != 0 || target == r->member_id) {
        raftd_reply_outcome(g, PROTO_RAFT_CALLED, request_id, out);
        return;
    }
    log_info("moving leadership to member %016" PRIx64, target);
    m = xcalloc(1, sizeof(*m));
    *m = (struct move){.gateway = g->index,
                       .generation = g->generation,
                       .request_id = request_id,
                       .target = target,
                       .deadline_ms = raftd_now_ms(r) + r->request_timeout_ms};
    list_push_back(&r->moves, &m->node);
    r->move_count++;
    raftd_arm(r);
}

void raftd_moves_settle(struct raftd *r)
{
    LIST_FOREACH_SAFE (it, tmp, &r->moves) {
        struct move *m = LIST_ENTRY(it, struct move, node);

        if (raft_leader(r->raft) == m->target)
            answer(r, m, OUT_OK);
        else if (raftd_now_ms(r) >= m->deadline_ms ||
                 (raftd_is_leader(r) && raft_transferee(r->raft) != m->target))
            answer(r, m, OUT_LEADER_TRANSFER_TIMEOUT); /* given up */
    }
}

void raftd_moves_fini(struct raftd *r)
{
    struct list *node;

    while (r->moves.next != NULL && (node = list_pop_front(&r->moves)) != NULL)
        free(LIST_ENTRY(node, struct move, node));
}
