#include "gatewayd/quota.h"

#include <stdlib.h>

#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc.h"
#include "lib/proto/outcome.h"
#include "lib/util/xmalloc.h"

/* What was told may be older by an eighth of what was left then (proto_space): a write of less than
 * half of what is left fits. */
enum { SAFE_SHARE = 2 };

struct admission {
    enum proto_kind kind;
    struct buf body; /* proto_u64 */
};

static void free_admission(struct grpc_call *call)
{
    struct admission *a = call->state;

    buf_fini(&a->body);
    free(a);
}

static void on_admitted(struct backend_call *backend, int outcome, struct bytes part,
                        uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);
    struct admission *a = call->state;

    if (outcome != OUT_OK)
        grpc_fail_outcome(call, outcome);
    else
        grpc_forward_proposal(call, a->kind);
}

static void ask(struct grpc_call *call, enum proto_kind kind, uint64_t cost)
{
    struct admission *a = xcalloc(1, sizeof(*a));

    a->kind = kind;
    proto_u64_encode(&a->body, &(struct proto_u64){.value = cost});
    call->state = a;
    call->free_state = free_admission;
    call->backend.done = on_admitted;
    call->backend.body = buf_bytes(&a->body);
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
