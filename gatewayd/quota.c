#include "gatewayd/quota.h"

#include <string.h>

#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"

/* What was told may be older by an eighth of what was left then (proto_space): a write of less than
 * half of what is left fits. */
enum { SAFE_SHARE = 2 };

static void on_admitted(struct backend_call *backend, int outcome, struct bytes part,
                        uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);

    if (outcome != OUT_OK)
        grpc_fail_outcome(call, outcome);
    else
        grpc_forward_proposal(call, call->quota.kind);
}

/* The body is a proto_u64, kept in the call. */
static void ask(struct grpc_call *call, enum proto_kind kind, uint64_t cost)
{
    memcpy(call->quota.cost, &cost, sizeof(cost)); /* lib/wire: in our byte order */
    call->quota.kind = kind;
    call->backend.done = on_admitted;
    call->backend.body = bytes_of(call->quota.cost, sizeof(call->quota.cost));
    call->backend.deadline_ns = call->deadline_ns;
    backend_read(call->gw->backend, &call->backend, PROTO_READ_ADMIT, false);
}

void quota_forward_proposal(struct grpc_call *call, enum proto_kind kind, uint64_t cost)
{
    const struct proto_space *space = backend_space(call->gw->backend);
    uint64_t left = space->used_bytes < space->quota_bytes ? space->quota_bytes - space->used_bytes
                                                           : 0;

    if (cost == 0 || space->quota_bytes == 0 || cost < left / SAFE_SHARE)
        grpc_forward_proposal(call, kind);
    else
        ask(call, kind, cost);
}
