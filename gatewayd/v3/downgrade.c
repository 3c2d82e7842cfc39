/*
 * VALIDATE compares with what stored says now; ENABLE and CANCEL are entries, and stored decides
 * when it executes them. Nothing else follows from a downgrade here: the members' own version is
 * what their packages are.
 */
#include "gatewayd/v3/downgrade.h"

#include <stdlib.h>
#include <string.h>

#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc.h"
#include "lib/proto/downgrade.h"
#include "lib/proto/outcome.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"

enum { ACTION_VALIDATE, ACTION_ENABLE, ACTION_CANCEL };

/* Field numbers of DowngradeRequest, DowngradeResponse and ResponseHeader. */
enum {
    REQUEST_ACTION = 1,
    REQUEST_VERSION = 2,
    RESPONSE_HEADER = 1,
    RESPONSE_VERSION = 2,
    HEADER_CLUSTER_ID = 1,
    HEADER_MEMBER_ID = 2,
    HEADER_REVISION = 3,
    HEADER_RAFT_TERM = 4,
};

struct downgrade {
    char target[DOWNGRADE_TEXT_BYTES];
};

static void free_state(struct grpc_call *call)
{
    free(call->state);
}

static void reply(struct grpc_call *call, const struct proto_store_status *store)
{
    const struct proto_raft_status *raft = backend_status(call->gw->backend);
    CLEANUP(buf_fini) struct buf header = BUF_INIT;
    CLEANUP(buf_fini) struct buf message = BUF_INIT;

    pb_put_u64(&header, HEADER_CLUSTER_ID, raft->cluster_id);
    pb_put_u64(&header, HEADER_MEMBER_ID, raft->member_id);
    pb_put_i64(&header, HEADER_REVISION, store->revision);
    pb_put_u64(&header, HEADER_RAFT_TERM, raft->term);
    pb_put_message(&message, RESPONSE_HEADER, buf_bytes(&header));
    pb_put_bytes(&message, RESPONSE_VERSION, downgrade_shown(store->cluster_version));
    grpc_reply(call, buf_bytes(&message));
}

/* The status is one small part. */
static void on_status(struct backend_call *backend, int outcome, struct bytes part,
                      uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);
    const struct downgrade *d = call->state;
    struct proto_store_status store;

    if (outcome == OUT_OK && proto_store_status_decode(part, &store) != 0)
        outcome = OUT_INTERNAL;
    if (outcome == OUT_OK)
        outcome = downgrade_check(store.cluster_version, store.downgrade.len != 0,
                                  bytes_str(d->target));
    if (outcome != OUT_OK)
        grpc_fail_outcome(call, outcome);
    else
        reply(call, &store);
}

static void validate(struct grpc_call *call)
{
    call->backend.done = on_status;
    call->backend.deadline_ns = call->deadline_ns;
    backend_read(call->gw->backend, &call->backend, PROTO_READ_STATUS, true);
}

static int decode(struct bytes message, uint64_t *ret_action, struct bytes *ret_version)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;

    *ret_action = ACTION_VALIDATE;
    *ret_version = BYTES_EMPTY;
    while (pb_next(&r, &f)) {
        if (f.number == REQUEST_ACTION && f.type == PB_VARINT)
            *ret_action = f.value;
        else if (f.number == REQUEST_VERSION && f.type == PB_LENGTH)
            *ret_version = f.bytes;
    }
    return r.bad ? OUT_MALFORMED : OUT_OK;
}

void downgrade_request(struct grpc_call *call)
{
    struct downgrade *d = xcalloc(1, sizeof(*d));
    struct bytes version;
    uint64_t action;
    int outcome = decode(call->message, &action, &version);

    call->state = d;
    call->free_state = free_state;
    if (outcome == OUT_OK && action > ACTION_CANCEL) {
        grpc_fail(call, GRPC_UNKNOWN, "etcdserver: unknown method");
        return;
    }
    if (outcome == OUT_OK && action != ACTION_CANCEL)
        outcome = downgrade_target(version, d->target);
    if (outcome != OUT_OK)
        grpc_fail_outcome(call, outcome);
    else if (action == ACTION_VALIDATE)
        validate(call);
    else
        grpc_forward_proposal_of(call, PROTO_KIND_DOWNGRADE,
                                 action == ACTION_ENABLE ? bytes_str(d->target) : BYTES_EMPTY);
}
