#include "lib/proto/messages.h"

#include "lib/wire/wire.h"

/* An enum read from the wire must be one of ours; anything else marks the reader bad. */
static unsigned int get_enum(struct wire_reader *r, unsigned int min, unsigned int max)
{
    unsigned int v = wire_get_u8(r);

    if (v < min || v > max)
        r->bad = true;
    return v;
}

static bool get_bool(struct wire_reader *r)
{
    return get_enum(r, 0, 1) != 0;
}

void proto_hello_encode(struct buf *b, const struct proto_hello *m)
{
    wire_put_u32(b, PROTO_VERSION);
    wire_put_u8(b, (uint8_t)m->daemon);
    wire_put_u64(b, m->generation);
    wire_put_u32(b, m->gateway_index);
    wire_put_u64(b, m->cluster_id);
    wire_put_u64(b, m->member_id);
    wire_put_u64(b, m->applied_index);
    wire_put_u64(b, m->applied_term);
    wire_put_u64(b, m->durable_index);
    wire_put_u64(b, m->chain_hash);
    wire_put_bytes(b, m->conf_state);
}

int proto_hello_decode(struct bytes body, struct proto_hello *ret)
{
    struct wire_reader r = wire_reader(body);
    uint32_t version = wire_get_u32(&r);

    if (!r.bad && version != PROTO_VERSION)
        return -EPROTO;
    ret->daemon = (enum proto_daemon)get_enum(&r, PROTO_DAEMON_RAFTD, PROTO_DAEMON_PROXYD);
    ret->generation = wire_get_u64(&r);
    ret->gateway_index = wire_get_u32(&r);
    ret->cluster_id = wire_get_u64(&r);
    ret->member_id = wire_get_u64(&r);
    ret->applied_index = wire_get_u64(&r);
    ret->applied_term = wire_get_u64(&r);
    ret->durable_index = wire_get_u64(&r);
    ret->chain_hash = wire_get_u64(&r);
    ret->conf_state = wire_get_bytes(&r);
    return wire_reader_done(&r);
}

void proto_payload_encode(struct buf *b, const struct proto_payload *m)
{
    wire_put_u8(b, (uint8_t)m->kind);
    wire_put_u64(b, m->origin_member);
    wire_put_u64(b, m->origin_generation);
    wire_put_u64(b, m->request_id);
    wire_put_bytes(b, m->identity);
    buf_append_bytes(b, m->body);
}

int proto_payload_decode(struct bytes body, struct proto_payload *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->kind = (enum proto_kind)get_enum(&r, PROTO_KIND_PUT, PROTO_KIND_MAX);
    ret->origin_member = wire_get_u64(&r);
    ret->origin_generation = wire_get_u64(&r);
    ret->request_id = wire_get_u64(&r);
    ret->identity = wire_get_bytes(&r);
    ret->body = wire_rest(&r);
    return wire_reader_done(&r);
}

void proto_lease_grant_encode(struct buf *b, const struct proto_lease_grant *m)
{
    wire_put_i64(b, m->id);
    wire_put_i64(b, m->ttl);
    wire_put_i64(b, m->ttl_min);
}

int proto_lease_grant_decode(struct bytes body, struct proto_lease_grant *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->id = wire_get_i64(&r);
    ret->ttl = wire_get_i64(&r);
    ret->ttl_min = wire_get_i64(&r);
    return wire_reader_done(&r);
}

void proto_lease_clock_encode(struct buf *b, const struct proto_lease_clock *m)
{
    wire_put_u64(b, m->keeper);
    wire_put_u64(b, m->now_ms);
    wire_put_u64(b, m->granted);
    buf_append_bytes(b, m->deadlines);
}

int proto_lease_clock_decode(struct bytes body, struct proto_lease_clock *ret)
{
    enum { DEADLINE_BYTES = 16 };
    struct wire_reader r = wire_reader(body);

    ret->keeper = wire_get_u64(&r);
    ret->now_ms = wire_get_u64(&r);
    ret->granted = wire_get_u64(&r);
    ret->deadlines = wire_rest(&r);
    if (ret->deadlines.len % DEADLINE_BYTES != 0)
        return -EBADMSG;
    return wire_reader_done(&r);
}

void proto_propose_own_encode(struct buf *b, const struct proto_propose_own *m)
{
    wire_put_u64(b, m->term);
    wire_put_u8(b, (uint8_t)m->kind);
    buf_append_bytes(b, m->body);
}

int proto_propose_own_decode(struct bytes body, struct proto_propose_own *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->term = wire_get_u64(&r);
    ret->kind = (enum proto_kind)get_enum(&r, PROTO_KIND_PUT, PROTO_KIND_MAX);
    ret->body = wire_rest(&r);
    return wire_reader_done(&r);
}

void proto_forwarded_encode(struct buf *b, const struct proto_forwarded *m)
{
    wire_put_u64(b, m->member_id);
    buf_append_bytes(b, m->body);
}

int proto_forwarded_decode(struct bytes body, struct proto_forwarded *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->member_id = wire_get_u64(&r);
    ret->body = wire_rest(&r);
    return wire_reader_done(&r);
}

void proto_forward_reply_encode(struct buf *b, const struct proto_forward_reply *m)
{
    wire_put_u64(b, m->member_id);
    wire_put_u16(b, m->outcome);
    buf_append_bytes(b, m->body);
}

int proto_forward_reply_decode(struct bytes body, struct proto_forward_reply *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->member_id = wire_get_u64(&r);
    ret->outcome = wire_get_u16(&r);
    ret->body = wire_rest(&r);
    return wire_reader_done(&r);
}

void proto_forward_result_encode(struct buf *b, const struct proto_forward_result *m)
{
    wire_put_u16(b, m->outcome);
    buf_append_bytes(b, m->body);
}

int proto_forward_result_decode(struct bytes body, struct proto_forward_result *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->outcome = wire_get_u16(&r);
    ret->body = wire_rest(&r);
    return wire_reader_done(&r);
}

void proto_member_encode(struct buf *b, const struct proto_member *m)
{
    wire_put_u64(b, m->id);
    wire_put_u8(b, m->is_learner);
    wire_put_u8(b, m->removed);
    wire_put_bytes(b, m->name);
    wire_put_bytes(b, m->peer_urls);
    wire_put_bytes(b, m->client_urls);
}

int proto_member_read(struct wire_reader *r, struct proto_member *ret)
{
    ret->id = wire_get_u64(r);
    ret->is_learner = get_bool(r);
    ret->removed = get_bool(r);
    ret->name = wire_get_bytes(r);
    ret->peer_urls = wire_get_bytes(r);
    ret->client_urls = wire_get_bytes(r);
    return r->bad ? -EBADMSG : 0;
}

void proto_conf_change_encode(struct buf *b, const struct proto_conf_change *m)
{
    wire_put_u8(b, (uint8_t)m->op);
    proto_member_encode(b, &m->member);
}

int proto_conf_change_decode(struct bytes body, struct proto_conf_change *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->op = (enum proto_conf_op)get_enum(&r, PROTO_CONF_ADD_VOTER, PROTO_CONF_UPDATE);
    proto_member_read(&r, &ret->member);
    return wire_reader_done(&r);
}

void proto_entry_encode(struct buf *b, const struct proto_entry *m)
{
    wire_put_u64(b, m->index);
    wire_put_u64(b, m->term);
    wire_put_u8(b, (uint8_t)m->type);
    wire_put_bytes(b, m->data);
}

int proto_entry_read(struct wire_reader *r, struct proto_entry *ret)
{
    ret->index = wire_get_u64(r);
    ret->term = wire_get_u64(r);
    ret->type = (enum proto_entry_type)get_enum(r, PROTO_ENTRY_NORMAL, PROTO_ENTRY_CONF);
    ret->data = wire_get_bytes(r);
    return r->bad ? -EBADMSG : 0;
}

void proto_raft_status_encode(struct buf *b, const struct proto_raft_status *m)
{
    wire_put_u64(b, m->cluster_id);
    wire_put_u64(b, m->member_id);
    wire_put_u64(b, m->leader_id);
    wire_put_u64(b, m->term);
    wire_put_u64(b, m->commit_index);
    wire_put_u64(b, m->applied_index);
    wire_put_u64(b, m->last_index);
    wire_put_u8(b, (uint8_t)m->state);
    wire_put_u8(b, m->is_learner);
    wire_put_u8(b, m->local_reads);
    wire_put_u64(b, m->leader_changes);
    wire_put_u64(b, m->proposals_pending);
    wire_put_u64(b, m->proposals_failed);
    wire_put_u64(b, m->read_indexes_failed);
    wire_put_u64(b, m->election_timeout_ms);
}

int proto_raft_status_decode(struct bytes body, struct proto_raft_status *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->cluster_id = wire_get_u64(&r);
    ret->member_id = wire_get_u64(&r);
    ret->leader_id = wire_get_u64(&r);
    ret->term = wire_get_u64(&r);
    ret->commit_index = wire_get_u64(&r);
    ret->applied_index = wire_get_u64(&r);
    ret->last_index = wire_get_u64(&r);
    ret->state = (enum proto_raft_state)get_enum(&r, PROTO_RAFT_FOLLOWER, PROTO_RAFT_LEADER);
    ret->is_learner = get_bool(&r);
    ret->local_reads = get_bool(&r);
    ret->leader_changes = wire_get_u64(&r);
    ret->proposals_pending = wire_get_u64(&r);
    ret->proposals_failed = wire_get_u64(&r);
    ret->read_indexes_failed = wire_get_u64(&r);
    ret->election_timeout_ms = wire_get_u64(&r);
    return wire_reader_done(&r);
}

void proto_read_encode(struct buf *b, const struct proto_read *m)
{
    wire_put_u8(b, (uint8_t)m->kind);
    wire_put_u8(b, m->linearizable);
    wire_put_bytes(b, m->identity);
    buf_append_bytes(b, m->body);
}

int proto_read_decode(struct bytes body, struct proto_read *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->kind = (enum proto_read_kind)get_enum(&r, PROTO_READ_RANGE, PROTO_READ_MAX);
    ret->linearizable = get_bool(&r);
    ret->identity = wire_get_bytes(&r);
    ret->body = wire_rest(&r);
    return wire_reader_done(&r);
}

void proto_result_encode(struct buf *b, const struct proto_result *m)
{
    wire_put_u16(b, m->outcome);
    wire_put_u64(b, m->total_bytes);
    buf_append_bytes(b, m->part);
}

int proto_result_decode(struct bytes body, struct proto_result *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->outcome = wire_get_u16(&r);
    ret->total_bytes = wire_get_u64(&r);
    ret->part = wire_rest(&r);
    return wire_reader_done(&r);
}

void proto_store_status_encode(struct buf *b, const struct proto_store_status *m)
{
    wire_put_i64(b, m->revision);
    wire_put_i64(b, m->compact_revision);
    wire_put_u64(b, m->applied_index);
    wire_put_u64(b, m->durable_index);
    wire_put_u64(b, m->db_bytes);
    wire_put_u64(b, m->db_bytes_in_use);
    wire_put_u64(b, m->quota_bytes);
    wire_put_u64(b, m->key_count);
    wire_put_u64(b, m->chain_hash);
    wire_put_u64(b, m->put_total);
    wire_put_u64(b, m->delete_total);
    wire_put_u64(b, m->txn_total);
    wire_put_u64(b, m->range_total);
    wire_put_u64(b, m->write_batch_count);
    wire_put_u64(b, m->write_batch_ns_sum);
    wire_put_u64(b, m->cache_bytes);
    wire_put_u64(b, m->index_bytes);
    wire_put_bytes(b, m->cluster_version);
    wire_put_bytes(b, m->downgrade);
    wire_put_bytes(b, m->alarms);
}

int proto_store_status_decode(struct bytes body, struct proto_store_status *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->revision = wire_get_i64(&r);
    ret->compact_revision = wire_get_i64(&r);
    ret->applied_index = wire_get_u64(&r);
    ret->durable_index = wire_get_u64(&r);
    ret->db_bytes = wire_get_u64(&r);
    ret->db_bytes_in_use = wire_get_u64(&r);
    ret->quota_bytes = wire_get_u64(&r);
    ret->key_count = wire_get_u64(&r);
    ret->chain_hash = wire_get_u64(&r);
    ret->put_total = wire_get_u64(&r);
    ret->delete_total = wire_get_u64(&r);
    ret->txn_total = wire_get_u64(&r);
    ret->range_total = wire_get_u64(&r);
    ret->write_batch_count = wire_get_u64(&r);
    ret->write_batch_ns_sum = wire_get_u64(&r);
    ret->cache_bytes = wire_get_u64(&r);
    ret->index_bytes = wire_get_u64(&r);
    ret->cluster_version = wire_get_bytes(&r);
    ret->downgrade = wire_get_bytes(&r);
    ret->alarms = wire_get_bytes(&r);
    return wire_reader_done(&r);
}

void proto_space_encode(struct buf *b, const struct proto_space *m)
{
    wire_put_u64(b, m->used_bytes);
    wire_put_u64(b, m->quota_bytes);
}

int proto_space_decode(struct bytes body, struct proto_space *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->used_bytes = wire_get_u64(&r);
    ret->quota_bytes = wire_get_u64(&r);
    return wire_reader_done(&r);
}

void proto_raft_call_encode(struct buf *b, const struct proto_raft_call *m)
{
    wire_put_u8(b, (uint8_t)m->op);
    wire_put_u64(b, m->member);
}

int proto_raft_call_decode(struct bytes body, struct proto_raft_call *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->op = (enum proto_raft_op)get_enum(&r, PROTO_RAFT_MOVE_LEADER, PROTO_RAFT_MOVE_LEADER);
    ret->member = wire_get_u64(&r);
    return wire_reader_done(&r);
}

void proto_outcome_encode(struct buf *b, const struct proto_outcome *m)
{
    wire_put_u16(b, m->outcome);
}

int proto_outcome_decode(struct bytes body, struct proto_outcome *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->outcome = wire_get_u16(&r);
    return wire_reader_done(&r);
}

void proto_barrier_index_encode(struct buf *b, const struct proto_barrier_index *m)
{
    wire_put_u16(b, m->outcome);
    wire_put_u64(b, m->index);
    wire_put_u64(b, m->term);
}

int proto_barrier_index_decode(struct bytes body, struct proto_barrier_index *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->outcome = wire_get_u16(&r);
    ret->index = wire_get_u64(&r);
    ret->term = wire_get_u64(&r);
    return wire_reader_done(&r);
}

void proto_applied_encode(struct buf *b, const struct proto_applied *m)
{
    wire_put_u64(b, m->applied_index);
    wire_put_u64(b, m->durable_index);
    wire_put_u64(b, m->chain_hash);
}

int proto_applied_decode(struct bytes body, struct proto_applied *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->applied_index = wire_get_u64(&r);
    ret->durable_index = wire_get_u64(&r);
    ret->chain_hash = wire_get_u64(&r);
    return wire_reader_done(&r);
}

void proto_u64_encode(struct buf *b, const struct proto_u64 *m)
{
    wire_put_u64(b, m->value);
}

int proto_u64_decode(struct bytes body, struct proto_u64 *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->value = wire_get_u64(&r);
    return wire_reader_done(&r);
}

void proto_snap_meta_encode(struct buf *b, const struct proto_snap_meta *m)
{
    wire_put_u64(b, m->index);
    wire_put_u64(b, m->term);
    wire_put_u64(b, m->chain_hash);
    wire_put_u64(b, m->cluster_id);
    wire_put_bytes(b, m->conf_state);
}

int proto_snap_meta_decode(struct bytes body, struct proto_snap_meta *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->index = wire_get_u64(&r);
    ret->term = wire_get_u64(&r);
    ret->chain_hash = wire_get_u64(&r);
    ret->cluster_id = wire_get_u64(&r);
    ret->conf_state = wire_get_bytes(&r);
    return wire_reader_done(&r);
}

void proto_snap_chunk_encode(struct buf *b, const struct proto_snap_chunk *m)
{
    wire_put_u64(b, m->offset);
    wire_put_u8(b, m->last);
    buf_append_bytes(b, m->data);
}

int proto_snap_chunk_decode(struct bytes body, struct proto_snap_chunk *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->offset = wire_get_u64(&r);
    ret->last = get_bool(&r);
    ret->data = wire_rest(&r);
    return wire_reader_done(&r);
}

void proto_auth_state_encode(struct buf *b, const struct proto_auth_state *m)
{
    wire_put_u8(b, m->enabled);
    wire_put_u64(b, m->revision);
}

int proto_auth_state_decode(struct bytes body, struct proto_auth_state *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->enabled = get_bool(&r);
    ret->revision = wire_get_u64(&r);
    return wire_reader_done(&r);
}

void proto_auth_claim_encode(struct buf *b, const struct proto_auth_claim *m)
{
    wire_put_u8(b, (uint8_t)m->type);
    buf_append_bytes(b, m->value);
}

int proto_auth_claim_decode(struct bytes body, struct proto_auth_claim *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->type = (enum proto_auth_claim_type)get_enum(&r, PROTO_AUTH_CLAIM_TOKEN,
                                                     PROTO_AUTH_CLAIM_COMMON_NAME);
    ret->value = wire_rest(&r);
    return wire_reader_done(&r);
}

void proto_auth_identity_encode(struct buf *b, const struct proto_auth_identity *m)
{
    wire_put_u32(b, m->valid_ms);
    buf_append_bytes(b, m->stamp);
}

int proto_auth_identity_decode(struct bytes body, struct proto_auth_identity *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->valid_ms = wire_get_u32(&r);
    ret->stamp = wire_rest(&r);
    return wire_reader_done(&r);
}

void proto_auth_login_encode(struct buf *b, const struct proto_auth_login *m)
{
    wire_put_bytes(b, m->stamp);
    wire_put_bytes(b, m->token);
    buf_append_bytes(b, m->response);
}

int proto_auth_login_decode(struct bytes body, struct proto_auth_login *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->stamp = wire_get_bytes(&r);
    ret->token = wire_get_bytes(&r);
    ret->response = wire_rest(&r);
    return wire_reader_done(&r);
}
