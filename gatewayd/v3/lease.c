/*
 * Lease service (etcd rpc.proto Lease). Grants and revocations are proposals; what only the leader
 * knows (renewals, remaining times) is asked of the own stored, which asks the leader's.
 *
 * A keep-alive stream has one question under way; what the client sends meanwhile goes with the
 * next one, so a client that renews thousands of leases on a stream costs few messages and is
 * answered in its order.
 */
#include <stdlib.h>
#include <time.h>

#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc.h"
#include "gatewayd/grpc_auth.h"
#include "gatewayd/quota.h"
#include "gatewayd/v3/lease.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"

enum {
    GRANT_COST_BYTES = 64, /* what the quota counts: etcd server/storage/quota.go */
    ELECTION_TIMEOUT_MS_DEFAULT = 1000,
    RENEWALS_PER_QUESTION = 1024,
    RENEWALS_WAITING_MAX = 1 << 20, /* sent by one client and not asked yet */
    QUEUED_BYTES_MAX = 256 << 10,   /* answers the client has not taken: then nothing is asked */
};

/* A request's integers by field number, 1 and 2; -1: malformed. */
static int decode_numbers(struct bytes message, int64_t ret[3])
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;

    ret[1] = ret[2] = 0;
    while (pb_next(&r, &f))
        if ((f.number == 1 || f.number == 2) && f.type == PB_VARINT)
            ret[f.number] = (int64_t)f.value;
    return r.bad ? -1 : 0;
}

/* ---- grant ---- */

int64_t lease_id_choose(struct gatewayd *gw)
{
    enum { PREFIX_SHIFT = 48, COUNTER_BITS = 8 };

    if (gw->lease_id_last == 0) {
        const struct proto_raft_status *raft = backend_status(gw->backend);
        struct timespec now;
        uint64_t prefix = (raft->member_id ^ gw->conf->gateway_index << 8) & 0xffff, ms;

        clock_gettime(CLOCK_REALTIME, &now);
        ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
        gw->lease_id_last =
            prefix << PREFIX_SHIFT | (ms << COUNTER_BITS & (((uint64_t)1 << PREFIX_SHIFT) - 1));
    }
    gw->lease_id_last++;
    return (int64_t)(gw->lease_id_last & INT64_MAX);
}

void lease_grant_encode(struct gatewayd *gw, struct buf *b, int64_t id, int64_t ttl)
{
    uint64_t election_ms = backend_status(gw->backend)->election_timeout_ms;

    if (election_ms == 0)
        election_ms = ELECTION_TIMEOUT_MS_DEFAULT;
    while (id == 0)
        id = lease_id_choose(gw);
    /* etcd lessor: one and a half election timeouts, whole seconds */
    proto_lease_grant_encode(
        b, &(struct proto_lease_grant){
               .id = id, .ttl = ttl, .ttl_min = (int64_t)((election_ms * 3 / 2 + 999) / 1000)});
}

static void free_buf_state(struct grpc_call *call)
{
    buf_fini(call->state);
    free(call->state);
}

static void grant(struct grpc_call *call)
{
    struct buf *body;
    int64_t number[3]; /* TTL, ID */

    if (decode_numbers(call->message, number) != 0) {
        grpc_fail_outcome(call, OUT_MALFORMED);
        return;
    }
    body = xcalloc(1, sizeof(*body));
    call->state = body;
    call->free_state = free_buf_state;
    lease_grant_encode(call->gw, body, number[2], number[1]);
    call->message = buf_bytes(body);
    quota_forward_proposal(call, PROTO_KIND_LEASE_GRANT, GRANT_COST_BYTES);
}

static void revoke(struct grpc_call *call)
{
    grpc_forward_proposal(call, PROTO_KIND_LEASE_REVOKE);
}

/* ---- questions ---- */

/* raftd told how far it is: whether the leader, if that is us, executes what it committed. */
static void on_raft_status(struct backend_call *backend, int outcome, struct bytes part,
                           uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);
    const struct proto_raft_status *raft = backend_status(call->gw->backend);

    if (call->ended)
        return;
    if (outcome == OUT_OK && raft->leader_id == raft->member_id &&
        raft->applied_index < raft->commit_index)
        grpc_fail_outcome(call, OUT_TIMEOUT_WAIT_APPLIED);
    else
        grpc_fail_outcome(call, OUT_TIMEOUT);
}

static void answer_late(struct grpc_call *call)
{
    if (call->deadline_ns != 0 && loop_now_ns(call->gw->loop) >= call->deadline_ns) {
        grpc_fail_outcome(call, OUT_TIMEOUT);
        return;
    }
    call->backend.done = on_raft_status;
    backend_raft_status(call->gw->backend, &call->backend);
}

static void time_to_live(struct grpc_call *call)
{
    grpc_forward_read(call, PROTO_READ_LEASE_TTL, false); /* the leader makes sure of itself */
}

static void leases(struct grpc_call *call)
{
    grpc_forward_read(call, PROTO_READ_LEASES, false);
}

/* ---- keep-alive ---- */

struct keep_alive {
    struct buf waiting, asked; /* i64 ids */
    struct buf answer;
    bool resolving; /* who the client is */
    bool half_closed;
};

static void free_keep_alive(struct grpc_call *call)
{
    struct keep_alive *state = call->state;

    buf_fini(&state->waiting);
    buf_fini(&state->asked);
    buf_fini(&state->answer);
    free(state);
}

static void on_resolved(struct grpc_call *call, int outcome)
{
    struct keep_alive *state = call->state;
    size_t len = MIN(state->waiting.len, RENEWALS_PER_QUESTION * sizeof(int64_t));

    state->resolving = false;
    if (call->ended)
        return;
    if (outcome != OUT_OK) {
        grpc_fail_outcome(call, outcome);
        return;
    }
    buf_clear(&state->asked);
    buf_append(&state->asked, state->waiting.data, len);
    buf_consume(&state->waiting, len);
    buf_clear(&state->answer);
    call->backend.body = buf_bytes(&state->asked);
    backend_read(call->gw->backend, &call->backend, PROTO_READ_LEASE_KEEP_ALIVE, false);
}

static void ask(struct grpc_call *call)
{
    struct keep_alive *state = call->state;

    if (call->ended || state->resolving || backend_call_active(&call->backend) ||
        grpc_stream_queued(call) > QUEUED_BYTES_MAX)
        return;
    if (state->waiting.len == 0) {
        if (state->half_closed)
            grpc_stream_end(call, GRPC_OK, "");
        return;
    }
    state->resolving = true;
    grpc_auth_resolve(call, on_resolved);
}

static void send_answers(struct grpc_call *call, struct bytes answer)
{
    struct wire_reader r = wire_reader(answer);

    while (r.pos < r.end && !r.bad) {
        struct bytes message = wire_get_bytes(&r);

        if (!r.bad)
            grpc_stream_send(call, message);
    }
}

static void on_answer(struct backend_call *backend, int outcome, struct bytes part,
                      uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);
    struct keep_alive *state = call->state;

    if (call->ended)
        return;
    if (outcome == OUT_TIMEOUT) {
        answer_late(call);
        return;
    }
    if (outcome != OUT_OK) {
        grpc_fail_outcome(call, outcome);
        return;
    }
    buf_append_bytes(&state->answer, part);
    if (state->answer.len < total_bytes) {
        backend_consumed(call->gw->backend, backend);
        return;
    }
    send_answers(call, buf_bytes(&state->answer));
    ask(call);
}

static void keep_alive_begin(struct grpc_call *call)
{
    struct keep_alive *state = xcalloc(1, sizeof(*state));

    call->state = state;
    call->free_state = free_keep_alive;
    call->backend.done = on_answer;
}

static void keep_alive_message(struct grpc_call *call, struct bytes message)
{
    struct keep_alive *state = call->state;
    int64_t number[3];

    if (call->auth_outcome != OUT_OK) {
        grpc_fail_outcome(call, call->auth_outcome);
        return;
    }
    if (decode_numbers(message, number) != 0) {
        grpc_fail_outcome(call, OUT_MALFORMED);
        return;
    }
    if (state->waiting.len >= RENEWALS_WAITING_MAX * sizeof(int64_t)) {
        grpc_fail_outcome(call, OUT_TOO_MANY_REQUESTS);
        return;
    }
    wire_put_i64(&state->waiting, number[1]);
    ask(call);
}

static void keep_alive_half_closed(struct grpc_call *call)
{
    struct keep_alive *state = call->state;

    state->half_closed = true;
    ask(call);
}

struct grpc_method grpc_lease_methods[] = {
    {.service = "etcdserverpb.Lease", .name = "LeaseGrant", .type = GRPC_UNARY, .handler = grant},
    {.service = "etcdserverpb.Lease", .name = "LeaseRevoke", .type = GRPC_UNARY,
     .handler = revoke},
    {.service = "etcdserverpb.Lease", .name = "LeaseKeepAlive", .type = GRPC_BIDI_STREAM,
     .handler = keep_alive_begin, .on_message = keep_alive_message,
     .on_half_closed = keep_alive_half_closed, .on_drained = ask},
    {.service = "etcdserverpb.Lease", .name = "LeaseTimeToLive", .type = GRPC_UNARY,
     .handler = time_to_live, .on_late = answer_late},
    {.service = "etcdserverpb.Lease", .name = "LeaseLeases", .type = GRPC_UNARY,
     .handler = leases},
    {.name = NULL},
};
