/*
 * What raftd tells about itself, and the grant of local reads that travels with it.
 *
 * ROLE is numbered per link. A grant stands from the ROLE that gave it to the one that took it
 * back; a membership change may be appended only when stored has acknowledged the latter
 * (ARCHITECTURE.md decision 2). The grant of a broken link is void on both sides.
 */
#include "lib/util/macros.h"
#include "raftd/raftd.h"

static_assert((int)PROTO_RAFT_FOLLOWER == (int)RAFT_FOLLOWER &&
                  (int)PROTO_RAFT_LEADER == (int)RAFT_LEADER,
              "states are told as they are");

/* Only a sole voter that leads, has committed something of its term, and is not about to change
 * the membership. */
static bool may_read_locally(const struct raftd *r)
{
    raft_term term;

    return r->raft != NULL && raft_get_state(r->raft) == RAFT_LEADER && r->status.sole_voter &&
           r->status.pending_conf_index <= r->status.conf_index &&
           raft_log_term(r->raft, r->status.commit_index, &term) == 0 &&
           term == raft_get_term(r->raft) && !raftd_proposals_conf_waiting(r) && !r->diverged;
}

void raftd_status_fill(struct raftd *r, struct proto_raft_status *ret)
{
    *ret = (struct proto_raft_status){
        .cluster_id = r->cluster_id,
        .member_id = r->member_id,
        .applied_index = r->applied_index,
        .leader_changes = r->leader_changes,
        .proposals_pending = raftd_proposals_pending(r),
        .proposals_failed = r->counters.proposals_failed,
        .read_indexes_failed = r->counters.reads_failed,
        .election_timeout_ms = r->conf->election_ms,
    };
    if (r->raft == NULL)
        return;
    ret->leader_id = raft_leader(r->raft);
    ret->term = raft_get_term(r->raft);
    ret->state = (enum proto_raft_state)raft_get_state(r->raft);
    ret->commit_index = r->status.commit_index;
    ret->last_index = r->status.last_index;
    ret->is_learner = r->status.is_learner;
    ret->local_reads = r->role_granted;
}

static void send_role(struct raftd *r, struct proto_raft_status *status)
{
    struct buf *b = ipc_link_begin(r->stored, PROTO_ROLE, r->role_seq + 1);

    if (b == NULL)
        return;
    r->role_seq++;
    if (r->role_granted && !status->local_reads)
        r->role_revoked = r->role_seq;
    r->role_granted = status->local_reads;
    proto_raft_status_encode(b, status);
    ipc_link_end(r->stored);
}

/* Only what somebody acts upon makes a push; counters are asked for. */
void raftd_status_push(struct raftd *r)
{
    bool grant = r->stored_up && may_read_locally(r);
    struct proto_raft_status *told = &r->told, now;

    if (r->told_valid && told->leader_id == raft_leader(r->raft) &&
        told->term == raft_get_term(r->raft) &&
        told->state == (enum proto_raft_state)raft_get_state(r->raft) &&
        told->is_learner == r->status.is_learner && grant == r->role_granted)
        return;
    raftd_status_fill(r, &now);
    now.local_reads = grant;
    if (r->stored_up)
        send_role(r, &now);
    for (uint32_t i = 0; i < r->conf->gateway_count; i++) {
        struct buf *b = ipc_link_begin(r->gateways[i].link, PROTO_RAFT_STATUS, 0);

        if (b == NULL)
            continue;
        proto_raft_status_encode(b, &now);
        ipc_link_end(r->gateways[i].link);
    }
    r->told = now;
    r->told_valid = true;
    raftd_moves_settle(r);
    raftd_check_ready(r);
}

void raftd_role_reset(struct raftd *r)
{
    r->role_seq = r->role_acked = r->role_revoked = 0;
    r->role_granted = false;
    r->told_valid = false;
}

void raftd_on_role_ack(struct raftd *r, uint64_t seq)
{
    if (seq > r->role_seq || seq < r->role_acked) {
        r->counters.nonsense++;
        return;
    }
    r->role_acked = seq;
    raftd_proposals_flush(r);
    raftd_arm(r);
}

bool raftd_local_reads_withdrawn(struct raftd *r)
{
    if (!r->stored_up)
        return false;
    if (r->role_granted) {
        struct proto_raft_status now;

        raftd_status_fill(r, &now);
        now.local_reads = false;
        send_role(r, &now);
        return false;
    }
    return r->role_acked >= r->role_revoked;
}
