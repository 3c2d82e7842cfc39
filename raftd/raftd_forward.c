/*
 * What stored asks of raftd beside barriers: entries of its own, and requests for the leader's
 * stored. A request travels stored -> raftd -> the leader's raftd -> its stored, and the answer
 * back the same way; raftd reads neither and keeps nothing. What gets lost on the way (a broken
 * connection, a new leader) is asked again by the stored that wants to know.
 */
#include "lib/util/macros.h"
#include "raftd/raftd.h"

/* ---- own entries ---- */

void raftd_on_propose_own(struct raftd *r, struct bytes body)
{
    struct proto_propose_own m;

    if (proto_propose_own_decode(body, &m) != 0 || m.kind == PROTO_KIND_CONF_CHANGE ||
        m.body.len > r->conf->max_request_bytes + RAFTD_REQUEST_OVERHEAD) {
        r->counters.nonsense++;
        return;
    }
    if (m.term != 0 && (!raftd_is_leader(r) || raft_get_term(r->raft) != m.term))
        return; /* it speaks for a term that is over */
    if (r->status.commit_index > r->applied_index + RAFTD_APPLY_GAP_MAX)
        return;
    raftd_propose_own(r, m.kind, m.body);
}

/* ---- requests for the leader's stored ---- */

static void send_result(struct raftd *r, uint64_t call_id, int outcome, struct bytes body)
{
    struct buf *b = ipc_link_begin(r->stored, PROTO_FORWARD_RESULT, call_id);

    if (b == NULL)
        return;
    proto_forward_result_encode(
        b, &(struct proto_forward_result){.outcome = (uint16_t)outcome, .body = body});
    ipc_link_end(r->stored);
}

void raftd_forward(struct raftd *r, uint64_t call_id, struct bytes body)
{
    uint64_t leader = raft_leader(r->raft);
    struct buf *b = NULL;

    if (leader != 0 && leader != r->member_id)
        b = peers_begin(r->peers, leader, PEER_LANE_MAIN, PEER_FORWARD);
    if (b == NULL) {
        /* also when it is us: ROLE, which says so, is on its way */
        send_result(r, call_id, leader == 0 ? OUT_NO_LEADER : OUT_NOT_LEADER, BYTES_EMPTY);
        return;
    }
    peer_forward_encode(b, &(struct peer_forward){.call_id = call_id, .body = body});
    peers_end(r->peers);
}

static void send_reply(struct raftd *r, uint64_t to, uint64_t call_id, int outcome,
                       struct bytes body)
{
    struct buf *b = peers_begin(r->peers, to, PEER_LANE_MAIN, PEER_FORWARD_REPLY);

    if (b == NULL)
        return;
    peer_forward_reply_encode(b, &(struct peer_forward_reply){.call_id = call_id,
                                                              .outcome = (uint16_t)outcome,
                                                              .body = body});
    peers_end(r->peers);
}

void raftd_forward_on_reply(struct raftd *r, uint64_t call_id, struct bytes body)
{
    struct proto_forward_reply m;

    if (proto_forward_reply_decode(body, &m) != 0)
        r->counters.nonsense++;
    else
        send_reply(r, m.member_id, call_id, m.outcome, m.body);
}

/* From another member. */
void raftd_forward_on_peer(struct raftd *r, uint64_t from, struct bytes body)
{
    struct peer_forward m;
    struct buf *b;

    if (peer_forward_decode(body, &m) != 0) {
        r->counters.nonsense++;
        return;
    }
    b = raftd_is_leader(r) && r->stored_up ? ipc_link_begin(r->stored, PROTO_FORWARDED, m.call_id)
                                           : NULL;
    if (b == NULL) {
        send_reply(r, from, m.call_id, OUT_NOT_LEADER, BYTES_EMPTY);
        return;
    }
    proto_forwarded_encode(b, &(struct proto_forwarded){.member_id = from, .body = m.body});
    ipc_link_end(r->stored);
}

void raftd_forward_on_peer_reply(struct raftd *r, struct bytes body)
{
    struct peer_forward_reply m;

    if (peer_forward_reply_decode(body, &m) != 0)
        r->counters.nonsense++;
    else if (r->stored_up)
        send_result(r, m.call_id, m.outcome, m.body);
}
