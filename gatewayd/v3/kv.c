/*
 * KV service (etcd rpc.proto KV). A request is checked here before it costs a proposal (etcd
 * api/v3rpc key.go, lib/proto/kv_check), then its bytes travel unchanged.
 */
#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc.h"
#include "gatewayd/quota.h"
#include "gatewayd/v3/range_stream.h"
#include "lib/proto/kv_check.h"
#include "lib/proto/outcome.h"
#include "lib/util/arena.h"

static void range(struct grpc_call *call)
{
    struct kv_range_request request;
    int outcome = kv_decode_range(call->message, &request);

    if (outcome == OUT_OK)
        outcome = kv_check_range(&request);
    if (outcome == OUT_OK && !request.serializable && backend_status(call->gw->backend)->is_learner)
        outcome = OUT_NOT_SUPPORTED_FOR_LEARNER;
    if (outcome != OUT_OK)
        grpc_fail_outcome(call, outcome);
    else
        grpc_forward_read(call, PROTO_READ_RANGE, !request.serializable);
}

static void put(struct grpc_call *call)
{
    struct kv_put_request request;
    int outcome = kv_decode_put(call->message, &request);

    if (outcome == OUT_OK)
        outcome = kv_check_put(&request);
    if (outcome != OUT_OK)
        grpc_fail_outcome(call, outcome);
    else
        quota_forward_proposal(call, PROTO_KIND_PUT, kv_put_cost(&request));
}

static void delete_range(struct grpc_call *call)
{
    struct kv_delete_request request;
    int outcome = kv_decode_delete(call->message, &request);

    if (outcome == OUT_OK)
        outcome = kv_check_delete(&request);
    if (outcome != OUT_OK)
        grpc_fail_outcome(call, outcome);
    else
        grpc_forward_proposal(call, PROTO_KIND_DELETE_RANGE);
}

static void txn(struct grpc_call *call)
{
    CLEANUP(arena_fini) struct arena arena = ARENA_INIT;
    struct kv_txn_request request;
    int outcome = kv_decode_txn(call->message, &arena, &request);

    if (outcome == OUT_OK)
        outcome = kv_check_txn(&request, call->gw->conf->max_txn_ops);
    if (outcome != OUT_OK)
        grpc_fail_outcome(call, outcome);
    else if (kv_txn_is_read_only(&request))
        grpc_forward_read(call, PROTO_READ_TXN, !kv_txn_is_serializable(&request));
    else
        quota_forward_proposal(call, PROTO_KIND_TXN, kv_txn_cost(&request));
}

static void compact(struct grpc_call *call)
{
    struct kv_compact_request request;
    int outcome = kv_decode_compact(call->message, &request);

    if (outcome != OUT_OK)
        grpc_fail_outcome(call, outcome);
    else
        grpc_forward_proposal(call, PROTO_KIND_COMPACT);
}

struct grpc_method grpc_kv_methods[] = {
    {.service = "etcdserverpb.KV", .name = "Range", .type = GRPC_UNARY, .learner = true,
     .handler = range},
    {.service = "etcdserverpb.KV", .name = "RangeStream", .type = GRPC_SERVER_STREAM,
     .learner = true, .handler = range_stream, .on_drained = range_stream_on_drained},
    {.service = "etcdserverpb.KV", .name = "Put", .type = GRPC_UNARY, .handler = put},
    {.service = "etcdserverpb.KV", .name = "DeleteRange", .type = GRPC_UNARY,
     .handler = delete_range},
    {.service = "etcdserverpb.KV", .name = "Txn", .type = GRPC_UNARY, .handler = txn},
    {.service = "etcdserverpb.KV", .name = "Compact", .type = GRPC_UNARY, .handler = compact},
    {.name = NULL},
};
