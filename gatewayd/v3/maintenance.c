/*
 * Maintenance service (etcd rpc.proto Maintenance). Status is put together from what raftd and
 * stored say of themselves; both are asked at once.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "config.h"
#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc.h"
#include "gatewayd/v3/downgrade.h"
#include "gatewayd/v3/health.h"
#include "gatewayd/v3/snapshot.h"
#include "lib/proto/etcd/rpc.pb-c.h"
#include "lib/proto/outcome.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"

/* Field numbers of StatusResponse and ResponseHeader. */
enum {
    STATUS_HEADER = 1,
    STATUS_VERSION = 2,
    STATUS_DB_SIZE = 3,
    STATUS_LEADER = 4,
    STATUS_RAFT_INDEX = 5,
    STATUS_RAFT_TERM = 6,
    STATUS_RAFT_APPLIED_INDEX = 7,
    STATUS_ERRORS = 8,
    STATUS_DB_SIZE_IN_USE = 9,
    STATUS_IS_LEARNER = 10,
    STATUS_STORAGE_VERSION = 11,
    STATUS_DB_SIZE_QUOTA = 12,
    STATUS_DOWNGRADE_INFO = 13,
    HEADER_CLUSTER_ID = 1,
    HEADER_MEMBER_ID = 2,
    HEADER_REVISION = 3,
    HEADER_RAFT_TERM = 4,
    DOWNGRADE_ENABLED = 1,
    DOWNGRADE_TARGET = 2,
    HASH_HEADER = 1, /* HashResponse and HashKVResponse alike */
    HASH_HASH = 2,
};


/* call->backend asks stored, this asks raftd; the reply waits for both. */
struct status_state {
    struct backend_call raft_call;
    struct grpc_call *call;
    struct proto_raft_status raft;
    struct buf store_bytes; /* what a proto_store_status points into */
    unsigned int waiting;
    int outcome;
};

static const char *alarm_name(uint32_t type)
{
    switch (type) {
    case ETCDSERVERPB__ALARM_TYPE__NOSPACE:
        return "NOSPACE";
    case ETCDSERVERPB__ALARM_TYPE__CORRUPT:
        return "CORRUPT";
    }
    return "UNKNOWN";
}

static void put_errors(struct buf *b, const struct proto_raft_status *raft, struct bytes alarms)
{
    struct wire_reader r = wire_reader(alarms);

    if (raft->leader_id == 0)
        pb_put_bytes(b, STATUS_ERRORS, BYTES_LIT("etcdserver: no leader"));
    while (r.pos < r.end && !r.bad) {
        uint64_t member = wire_get_u64(&r);
        uint32_t type = wire_get_u32(&r);
        CLEANUP(freep) char *text =
            xasprintf("memberID:%" PRIu64 " alarm:%s ", member, alarm_name(type));

        pb_put_bytes(b, STATUS_ERRORS, bytes_str(text));
    }
}

static void status_reply(struct status_state *state, const struct proto_store_status *store)
{
    const struct proto_raft_status *raft = &state->raft;
    CLEANUP(buf_fini) struct buf header = BUF_INIT;
    CLEANUP(buf_fini) struct buf downgrade = BUF_INIT;
    CLEANUP(buf_fini) struct buf reply = BUF_INIT;

    pb_put_u64(&header, HEADER_CLUSTER_ID, raft->cluster_id);
    pb_put_u64(&header, HEADER_MEMBER_ID, raft->member_id);
    pb_put_i64(&header, HEADER_REVISION, store->revision);
    pb_put_u64(&header, HEADER_RAFT_TERM, raft->term);
    pb_put_message(&reply, STATUS_HEADER, buf_bytes(&header));
    pb_put_bytes(&reply, STATUS_VERSION, BYTES_LIT(ETCD_API_VERSION));
    pb_put_u64(&reply, STATUS_DB_SIZE, store->db_bytes);
    pb_put_u64(&reply, STATUS_LEADER, raft->leader_id);
    pb_put_u64(&reply, STATUS_RAFT_INDEX, raft->commit_index);
    pb_put_u64(&reply, STATUS_RAFT_TERM, raft->term);
    pb_put_u64(&reply, STATUS_RAFT_APPLIED_INDEX, store->applied_index);
    put_errors(&reply, raft, store->alarms);
    pb_put_u64(&reply, STATUS_DB_SIZE_IN_USE, store->db_bytes_in_use);
    pb_put_bool(&reply, STATUS_IS_LEARNER, raft->is_learner);
    pb_put_bytes(&reply, STATUS_STORAGE_VERSION, store->cluster_version);
    pb_put_u64(&reply, STATUS_DB_SIZE_QUOTA, store->quota_bytes);
    if (store->downgrade.len != 0) {
        pb_put_bool(&downgrade, DOWNGRADE_ENABLED, true);
        pb_put_bytes(&downgrade, DOWNGRADE_TARGET, store->downgrade);
    }
    pb_put_message(&reply, STATUS_DOWNGRADE_INFO, buf_bytes(&downgrade));
    grpc_reply(state->call, buf_bytes(&reply));
}

static void status_part_done(struct status_state *state, int outcome)
{
    struct proto_store_status store;

    if (outcome != OUT_OK)
        state->outcome = outcome;
    if (--state->waiting > 0)
        return;
    if (state->outcome == OUT_OK &&
        proto_store_status_decode(buf_bytes(&state->store_bytes), &store) != 0)
        state->outcome = OUT_INTERNAL;
    if (state->outcome != OUT_OK)
        grpc_fail_outcome(state->call, state->outcome);
    else
        status_reply(state, &store);
}

static void on_raft_part(struct backend_call *backend, int outcome, struct bytes part,
                         uint64_t total_bytes)
{
    struct status_state *state = CONTAINER_OF(backend, struct status_state, raft_call);

    if (outcome == OUT_OK && proto_raft_status_decode(part, &state->raft) != 0)
        outcome = OUT_INTERNAL;
    status_part_done(state, outcome);
}

static void on_store_part(struct backend_call *backend, int outcome, struct bytes part,
                          uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);
    struct status_state *state = call->state;

    buf_append_bytes(&state->store_bytes, part);
    if (outcome != OUT_OK || state->store_bytes.len == total_bytes)
        status_part_done(state, outcome);
}

static void free_status_state(struct grpc_call *call)
{
    struct status_state *state = call->state;

    backend_cancel(call->gw->backend, &state->raft_call);
    buf_fini(&state->store_bytes);
    free(state);
}

static void status(struct grpc_call *call)
{
    struct status_state *state = xcalloc(1, sizeof(*state));

    call->state = state;
    call->free_state = free_status_state;
    state->call = call;
    state->waiting = 2;
    state->raft_call.done = on_raft_part;
    state->raft_call.deadline_ns = call->deadline_ns;
    call->backend.done = on_store_part;
    call->backend.deadline_ns = call->deadline_ns;
    backend_raft_status(call->gw->backend, &state->raft_call);
    backend_read(call->gw->backend, &call->backend, PROTO_READ_STATUS, false);
}

static void alarm_request(struct grpc_call *call)
{
    Etcdserverpb__AlarmRequest *request =
        etcdserverpb__alarm_request__unpack(NULL, call->message.len, call->message.data);
    bool get;

    if (request == NULL) {
        grpc_fail_outcome(call, OUT_MALFORMED);
        return;
    }
    get = request->action == ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__GET;
    etcdserverpb__alarm_request__free_unpacked(request, NULL);
    if (get)
        grpc_forward_read(call, PROTO_READ_ALARMS, true);
    else
        grpc_forward_proposal(call, PROTO_KIND_ALARM);
}

/* The hash of this member itself: local, so that members can be compared. */
static void hash_kv(struct grpc_call *call)
{
    grpc_forward_read(call, PROTO_READ_HASH_KV, false);
}

/* What HashKV says of the current revision, without what only HashKV tells. */
static void on_hash(struct backend_call *backend, int outcome, struct bytes part,
                    uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);
    CLEANUP(buf_fini) struct buf reply = BUF_INIT;
    struct pb_reader r = pb_reader(part);
    struct pb_field f;

    while (outcome == OUT_OK && pb_next(&r, &f)) {
        if (f.number == HASH_HEADER && f.type == PB_LENGTH)
            pb_put_message(&reply, HASH_HEADER, f.bytes);
        else if (f.number == HASH_HASH && f.type == PB_VARINT)
            pb_put_u64(&reply, HASH_HASH, f.value);
    }
    if (outcome == OUT_OK && r.bad)
        outcome = OUT_INTERNAL;
    if (outcome != OUT_OK)
        grpc_fail_outcome(call, outcome);
    else
        grpc_reply(call, buf_bytes(&reply));
}

static void hash(struct grpc_call *call)
{
    call->backend.done = on_hash;
    call->backend.deadline_ns = call->deadline_ns;
    backend_read(call->gw->backend, &call->backend, PROTO_READ_HASH_KV, false);
}

static void defragment_over(struct grpc_call *call)
{
    grpc_health_defragment_ends(call->gw);
}

static void defragment(struct grpc_call *call)
{
    /* once, though the request may be run again after a change of auth */
    if (call->gw->stop_on_defragment && call->free_state == NULL) {
        call->free_state = defragment_over;
        grpc_health_defragment_begins(call->gw);
    }
    call->backend.patient = true; /* as long as LevelDB needs */
    grpc_forward_read(call, PROTO_READ_DEFRAGMENT, false);
}

static void on_moved(struct backend_call *backend, int outcome, struct bytes part,
                     uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);

    if (outcome != OUT_OK)
        grpc_fail_outcome(call, outcome);
    else
        grpc_reply(call, BYTES_EMPTY);
}

static void move_leader(struct grpc_call *call)
{
    Etcdserverpb__MoveLeaderRequest *request =
        etcdserverpb__move_leader_request__unpack(NULL, call->message.len, call->message.data);
    uint64_t target;

    if (request == NULL) {
        grpc_fail_outcome(call, OUT_MALFORMED);
        return;
    }
    target = request->targetid;
    etcdserverpb__move_leader_request__free_unpacked(request, NULL);
    call->backend.done = on_moved;
    call->backend.deadline_ns = call->deadline_ns;
    backend_raft_call(call->gw->backend, &call->backend, PROTO_RAFT_MOVE_LEADER, target);
}

struct grpc_method grpc_maintenance_methods[] = {
    {.service = "etcdserverpb.Maintenance", .name = "Alarm", .type = GRPC_UNARY,
     .handler = alarm_request},
    {.service = "etcdserverpb.Maintenance", .name = "Status", .type = GRPC_UNARY, .learner = true,
     .handler = status},
    {.service = "etcdserverpb.Maintenance", .name = "Defragment", .type = GRPC_UNARY,
     .handler = defragment},
    {.service = "etcdserverpb.Maintenance", .name = "Hash", .type = GRPC_UNARY,
     .handler = hash},
    {.service = "etcdserverpb.Maintenance", .name = "HashKV", .type = GRPC_UNARY,
     .handler = hash_kv},
    {.service = "etcdserverpb.Maintenance", .name = "Snapshot", .type = GRPC_SERVER_STREAM,
     .learner = true, .handler = grpc_snapshot},
    {.service = "etcdserverpb.Maintenance", .name = "MoveLeader", .type = GRPC_UNARY,
     .handler = move_leader},
    {.service = "etcdserverpb.Maintenance", .name = "Downgrade", .type = GRPC_UNARY,
     .handler = downgrade_request},
    {.name = NULL},
};
