/*
 * See backend.h. Calls are found by id in a hash map and kept in one list in starting order. Ids
 * grow and are never used again by this process, so an answer that comes late finds nothing and is
 * dropped; with the process generation in the payload that holds across restarts too.
 *
 * A call that cannot be sent (link down, or out of credit) stays unsent; on_up and on_writable walk
 * the list and send what can be sent. The walk is linear, and happens only after such an event.
 */
#include "gatewayd/backend.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "lib/ipc/ipc.h"
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/util/hmap.h"
#include "lib/util/xmalloc.h"

enum {
    EXPIRE_TICK_MS = 50,
    REQUEST_TIMEOUT_BASE_MS = 5000,    /* etcd: 5 s + 2 x election timeout */
    PROPOSE_GRACE_MS = 1000, /* raftd keeps the time of proposals: it knows what became of them */
    ELECTION_TIMEOUT_MS_DEFAULT = 1000, /* until raftd has told */
    ACK_STEP_BYTES = PROTO_RESULT_WINDOW_BYTES / 4,
    /* An answer that has begun has no time limit but the client's. One that nobody takes holds a
     * window here and old revisions in stored: this long between two parts. */
    ANSWER_STALL_MS = 300000,
};

struct backend {
    struct backend_args args;
    struct ipc_link *raftd, *stored;
    struct loop_timer *expire_timer;
    struct hmap calls_by_id;
    struct list calls; /* starting order */
    uint64_t next_id;
    size_t inflight_bytes;
    bool unsent;       /* some call may be waiting for a link */
    struct proto_raft_status status;
    struct proto_auth_state auth;
    bool auth_known; /* since the link to stored is up */
    struct proto_space space;
};

/* ---- the life of a call ---- */

static void forget(struct backend *b, struct backend_call *call)
{
    hmap_remove(&b->calls_by_id, call->id);
    list_remove(&call->node);
    b->inflight_bytes -= call->body.len;
}

static void finish(struct backend *b, struct backend_call *call, int outcome)
{
    assert(outcome != OUT_OK);
    forget(b, call);
    call->done(call, outcome, BYTES_EMPTY, 0);
}

static struct ipc_link *link_of(const struct backend *b, const struct backend_call *call)
{
    return call->type == BACKEND_READ ? b->stored : b->raftd;
}

static void send_propose(struct backend *b, struct backend_call *call)
{
    struct buf *body = ipc_link_begin(b->raftd, PROTO_PROPOSE, call->id);

    proto_payload_encode(body, &(struct proto_payload){
                                   .kind = (enum proto_kind)call->kind,
                                   .origin_member = b->status.member_id,
                                   .origin_generation = b->args.generation,
                                   .request_id = call->id,
                                   .identity = call->identity,
                                   .body = call->body,
                               });
    ipc_link_end(b->raftd);
}

static void send_read(struct backend *b, struct backend_call *call)
{
    struct buf *body = ipc_link_begin(b->stored, PROTO_READ, call->id);

    if (call->kind == PROTO_READ_AUTH_LOGIN || call->kind == PROTO_READ_AUTH_HASH)
        ipc_link_set_secret(b->stored);
    proto_read_encode(body, &(struct proto_read){
                                .kind = (enum proto_read_kind)call->kind,
                                .linearizable = call->linearizable,
                                .identity = call->identity,
                                .body = call->body,
                            });
    ipc_link_end(b->stored);
}

static void send_raft_call(struct backend *b, struct backend_call *call)
{
    struct buf *body = ipc_link_begin(b->raftd, PROTO_RAFT_CALL, call->id);

    proto_raft_call_encode(body, &(struct proto_raft_call){.op = (enum proto_raft_op)call->kind,
                                                           .member = call->member});
    ipc_link_end(b->raftd);
}

/* Sends the call if its link takes it now. A proposal also needs stored: the answer comes from
 * there, and a proposal whose answer cannot arrive is better made later. */
static bool try_send(struct backend *b, struct backend_call *call)
{
    if (!ipc_link_writable(link_of(b, call)))
        return false;
    switch (call->type) {
    case BACKEND_PROPOSE:
        if (!ipc_link_is_up(b->stored) || b->status.member_id == 0)
            return false;
        send_propose(b, call);
        break;
    case BACKEND_READ:
        send_read(b, call);
        break;
    case BACKEND_RAFT_STATUS:
        ipc_link_send(b->raftd, PROTO_STATUS_GET, call->id, BYTES_EMPTY);
        break;
    case BACKEND_RAFT_METRICS:
        ipc_link_send(b->raftd, PROTO_METRICS_GET, call->id, BYTES_EMPTY);
        break;
    case BACKEND_RAFT_CALL:
        send_raft_call(b, call);
        break;
    }
    call->sent = true;
    return true;
}

static void send_waiting(struct backend *b)
{
    if (!b->unsent)
        return;
    b->unsent = false;
    LIST_FOREACH(it, &b->calls) {
        struct backend_call *call = LIST_ENTRY(it, struct backend_call, node);

        if (!call->sent && !try_send(b, call))
            b->unsent = true;
    }
}

static uint64_t request_timeout_ns(const struct backend *b, enum backend_call_type type)
{
    uint64_t election_ms = b->status.election_timeout_ms != 0 ? b->status.election_timeout_ms
                                                              : ELECTION_TIMEOUT_MS_DEFAULT;

    if (b->args.request_timeout_ms != 0)
        return b->args.request_timeout_ms * 1000000;
    return (REQUEST_TIMEOUT_BASE_MS + 2 * election_ms +
            (type == BACKEND_PROPOSE ? PROPOSE_GRACE_MS : 0)) * 1000000;
}

static void expires_in(struct backend *b, struct backend_call *call, uint64_t ns)
{
    call->expires_ns = call->patient ? UINT64_MAX : loop_now_ns(b->args.loop) + ns;
    if (call->deadline_ns != 0 && call->deadline_ns < call->expires_ns)
        call->expires_ns = call->deadline_ns;
}

static void begin(struct backend *b, struct backend_call *call, enum backend_call_type type,
                  uint8_t kind)
{
    assert(call->done != NULL);
    call->type = type;
    call->kind = kind;
    call->sent = false;
    call->received_bytes = 0;
    call->acked_bytes = 0;
    call->id = ++b->next_id;
    list_init(&call->node);
    if (b->inflight_bytes + call->body.len > b->args.inflight_bytes_max) {
        call->done(call, OUT_TOO_MANY_REQUESTS, BYTES_EMPTY, 0);
        return;
    }
    expires_in(b, call, request_timeout_ns(b, call->type));
    b->inflight_bytes += call->body.len;
    hmap_put(&b->calls_by_id, call->id, call);
    list_push_back(&b->calls, &call->node);
    if (!try_send(b, call))
        b->unsent = true;
}

void backend_propose(struct backend *b, struct backend_call *call, enum proto_kind kind)
{
    begin(b, call, BACKEND_PROPOSE, (uint8_t)kind);
}

void backend_read(struct backend *b, struct backend_call *call, enum proto_read_kind kind,
                  bool linearizable)
{
    call->linearizable = linearizable;
    begin(b, call, BACKEND_READ, (uint8_t)kind);
}

void backend_raft_status(struct backend *b, struct backend_call *call)
{
    begin(b, call, BACKEND_RAFT_STATUS, 0);
}

void backend_raft_metrics(struct backend *b, struct backend_call *call)
{
    begin(b, call, BACKEND_RAFT_METRICS, 0);
}

void backend_raft_call(struct backend *b, struct backend_call *call, enum proto_raft_op op,
                       uint64_t member)
{
    call->member = member;
    begin(b, call, BACKEND_RAFT_CALL, (uint8_t)op);
}

struct buf *backend_stored_begin(struct backend *b, uint16_t type, uint64_t id)
{
    return ipc_link_begin(b->stored, type, id);
}

void backend_stored_end(struct backend *b)
{
    ipc_link_end(b->stored);
}

bool backend_call_active(const struct backend_call *call)
{
    return call->node.next != NULL && !list_empty(&call->node);
}

void backend_cancel(struct backend *b, struct backend_call *call)
{
    if (!backend_call_active(call))
        return;
    forget(b, call);
    if (call->type == BACKEND_READ && call->sent)
        ipc_link_send(b->stored, PROTO_CANCEL, call->id, BYTES_EMPTY);
}

void backend_consumed(struct backend *b, struct backend_call *call)
{
    struct buf *body;

    if (!backend_call_active(call) || call->received_bytes - call->acked_bytes < ACK_STEP_BYTES)
        return;
    body = ipc_link_begin(b->stored, PROTO_READ_ACK, call->id);
    if (body == NULL)
        return;
    proto_u64_encode(body, &(struct proto_u64){.value = call->received_bytes});
    ipc_link_end(b->stored);
    call->acked_bytes = call->received_bytes;
}

static void on_expire_tick(void *user)
{
    struct backend *b = user;
    uint64_t now = loop_now_ns(b->args.loop);

    for (;;) {
        struct backend_call *late = NULL;

        LIST_FOREACH(it, &b->calls) {
            struct backend_call *call = LIST_ENTRY(it, struct backend_call, node);

            if (call->expires_ns <= now) {
                late = call;
                break;
            }
        }
        if (late == NULL)
            return;
        if (late->type == BACKEND_READ && late->sent)
            ipc_link_send(b->stored, PROTO_CANCEL, late->id, BYTES_EMPTY);
        finish(b, late, OUT_TIMEOUT);
    }
}

/* ---- what the links bring ---- */

static void on_result(struct backend *b, const struct ipc_frame *frame)
{
    struct backend_call *call = hmap_get(&b->calls_by_id, frame->id);
    struct proto_result result;
    bool over;

    if (call == NULL || (call->type != BACKEND_READ && call->type != BACKEND_PROPOSE))
        return; /* too late: canceled or timed out */
    if (proto_result_decode(frame->body, &result) != 0 ||
        result.part.len > result.total_bytes - MIN(call->received_bytes, result.total_bytes)) {
        finish(b, call, OUT_INTERNAL);
        return;
    }
    if (result.outcome != OUT_OK) {
        finish(b, call, result.outcome);
        return;
    }
    call->received_bytes += result.part.len;
    over = call->received_bytes == result.total_bytes;
    if (over)
        forget(b, call);
    else
        expires_in(b, call, (uint64_t)ANSWER_STALL_MS * 1000000);
    call->done(call, OUT_OK, result.part, result.total_bytes);
}

static void on_propose_failed(struct backend *b, const struct ipc_frame *frame)
{
    struct backend_call *call = hmap_get(&b->calls_by_id, frame->id);
    struct proto_outcome failed;

    if (call == NULL || call->type != BACKEND_PROPOSE)
        return;
    if (proto_outcome_decode(frame->body, &failed) != 0 || failed.outcome == OUT_OK)
        failed.outcome = OUT_INTERNAL;
    finish(b, call, failed.outcome);
}

static void on_raft_status(struct backend *b, const struct ipc_frame *frame)
{
    struct backend_call *call = hmap_get(&b->calls_by_id, frame->id);
    struct proto_raft_status status;

    if (proto_raft_status_decode(frame->body, &status) != 0)
        return;
    b->status = status;
    send_waiting(b);
    if (b->args.on_change != NULL)
        b->args.on_change(b->args.user);
    if (call == NULL || call->type != BACKEND_RAFT_STATUS)
        return;
    forget(b, call);
    call->done(call, OUT_OK, frame->body, frame->body.len);
}

static void on_raft_metrics(struct backend *b, const struct ipc_frame *frame)
{
    struct backend_call *call = hmap_get(&b->calls_by_id, frame->id);

    if (call == NULL || call->type != BACKEND_RAFT_METRICS)
        return;
    forget(b, call);
    call->done(call, OUT_OK, frame->body, frame->body.len);
}

static void on_raft_called(struct backend *b, const struct ipc_frame *frame)
{
    struct backend_call *call = hmap_get(&b->calls_by_id, frame->id);
    struct proto_outcome m;

    if (call == NULL || call->type != BACKEND_RAFT_CALL)
        return;
    if (proto_outcome_decode(frame->body, &m) != 0)
        m.outcome = OUT_INTERNAL;
    if (m.outcome != OUT_OK) {
        finish(b, call, m.outcome);
        return;
    }
    forget(b, call);
    call->done(call, OUT_OK, BYTES_EMPTY, 0);
}

static void on_space(struct backend *b, const struct ipc_frame *frame)
{
    struct proto_space space;

    if (proto_space_decode(frame->body, &space) != 0)
        return;
    b->space = space;
    if (b->args.on_change != NULL)
        b->args.on_change(b->args.user);
}

static void on_auth_changed(struct backend *b, const struct ipc_frame *frame)
{
    if (proto_auth_state_decode(frame->body, &b->auth) != 0)
        return;
    b->auth_known = true;
    if (b->args.on_auth_changed != NULL)
        b->args.on_auth_changed(b->args.user);
}

bool backend_auth_is_off(const struct backend *b)
{
    return b->auth_known && !b->auth.enabled;
}

static void on_frame(void *user, const struct ipc_frame *frame)
{
    struct backend *b = user;

    switch (frame->type) {
    case PROTO_RESULT:
        on_result(b, frame);
        break;
    case PROTO_PROPOSE_FAILED:
        on_propose_failed(b, frame);
        break;
    case PROTO_RAFT_STATUS:
        on_raft_status(b, frame);
        break;
    case PROTO_METRICS:
        on_raft_metrics(b, frame);
        break;
    case PROTO_RAFT_CALLED:
        on_raft_called(b, frame);
        break;
    case PROTO_SPACE:
        on_space(b, frame);
        break;
    case PROTO_AUTH_CHANGED:
        on_auth_changed(b, frame);
        break;
    default:
        if (b->args.watch_ops != NULL && frame->type >= PROTO_WATCH_CREATED &&
            frame->type <= PROTO_WATCH_PROGRESSED)
            b->args.watch_ops->message(b->args.user, frame->type, frame->id, frame->body);
        else
            log_warn("unexpected frame of type %u", frame->type);
    }
}

static void fill_hello(void *user, struct buf *body)
{
    struct backend *b = user;

    proto_hello_encode(body, &(struct proto_hello){
                                 .daemon = PROTO_DAEMON_GATEWAYD,
                                 .generation = b->args.generation,
                                 .gateway_index = b->args.gateway_index,
                                 .cluster_id = b->status.cluster_id,
                                 .member_id = b->status.member_id,
                             });
}

static int check_hello(struct bytes body, enum proto_daemon want)
{
    struct proto_hello hello;
    int r = proto_hello_decode(body, &hello);

    if (r == 0 && hello.daemon != want)
        r = -EPROTO;
    if (r != 0)
        log_error("refused a link: not the expected daemon, or another version");
    return r;
}

static int on_raftd_hello(void *user, struct bytes body)
{
    struct backend *b = user;
    struct proto_hello hello;
    int r = check_hello(body, PROTO_DAEMON_RAFTD);

    if (r != 0)
        return r;
    proto_hello_decode(body, &hello);
    if (b->status.member_id != 0 && hello.member_id != b->status.member_id) {
        log_error("refused raftd of member %016" PRIx64 ", this gateway serves %016" PRIx64,
                  hello.member_id, b->status.member_id);
        return -EPROTO;
    }
    b->status.member_id = hello.member_id;
    b->status.cluster_id = hello.cluster_id;
    return 0;
}

static int on_stored_hello(void *user, struct bytes body)
{
    return check_hello(body, PROTO_DAEMON_STORED);
}

static void on_up(void *user)
{
    struct backend *b = user;

    b->unsent = true;
    send_waiting(b);
    if (b->args.on_change != NULL)
        b->args.on_change(b->args.user);
}

/* Proposals under way have an unknown outcome, whichever of the two daemons they were with. */
static void fail_sent(struct backend *b, enum backend_call_type type)
{
    LIST_FOREACH_SAFE(it, next, &b->calls) {
        struct backend_call *call = LIST_ENTRY(it, struct backend_call, node);

        if (call->type != type || !call->sent)
            continue;
        if (type == BACKEND_READ && call->received_bytes == 0) {
            call->sent = false;
            b->unsent = true;
            continue;
        }
        finish(b, call, OUT_TIMEOUT_CONN_LOST);
    }
}

static void on_raftd_down(void *user)
{
    struct backend *b = user;

    b->status.leader_id = 0;
    fail_sent(b, BACKEND_PROPOSE);
    fail_sent(b, BACKEND_RAFT_STATUS);
    fail_sent(b, BACKEND_RAFT_METRICS);
    fail_sent(b, BACKEND_RAFT_CALL);
    if (b->args.on_change != NULL)
        b->args.on_change(b->args.user);
}

static void on_stored_up(void *user)
{
    struct backend *b = user;

    if (b->args.watch_ops != NULL)
        b->args.watch_ops->up(b->args.user);
    on_up(user);
}

static void on_stored_down(void *user)
{
    struct backend *b = user;

    b->auth_known = false;

    if (b->args.watch_ops != NULL)
        b->args.watch_ops->down(b->args.user);
    fail_sent(b, BACKEND_PROPOSE);
    fail_sent(b, BACKEND_READ);
    if (b->args.on_change != NULL)
        b->args.on_change(b->args.user);
}

static void on_writable(void *user)
{
    send_waiting(user);
}

static const struct ipc_link_ops raftd_ops = {
    .fill_hello = fill_hello,
    .on_hello = on_raftd_hello,
    .on_up = on_up,
    .on_down = on_raftd_down,
    .on_frame = on_frame,
    .on_writable = on_writable,
};

static const struct ipc_link_ops stored_ops = {
    .fill_hello = fill_hello,
    .on_hello = on_stored_hello,
    .on_up = on_stored_up,
    .on_down = on_stored_down,
    .on_frame = on_frame,
    .on_writable = on_writable,
};

static int start_link(struct backend *b, const char *daemon, const struct ipc_link_ops *ops,
                      struct ipc_link **ret_link)
{
    CLEANUP(freep) char *url =
        xasprintf("ipc://%s/%s.gw%u", b->args.run_dir, daemon, b->args.gateway_index);
    CLEANUP(freep) char *name = xasprintf("%s.gw%u", daemon, b->args.gateway_index);
    struct ipc_link_args args = {
        .loop = b->args.loop, .name = name, .url = url, .listen = false, .ops = ops, .user = b};
    int r = ipc_link_start(&args, ret_link);

    if (r != 0)
        log_error("cannot open link %s: %s", url, strerror(-r));
    return r;
}

int backend_new(const struct backend_args *args, struct backend **ret)
{
    struct backend *b = xcalloc(1, sizeof(*b));
    int r;

    b->args = *args;
    b->calls_by_id = HMAP_INIT;
    list_init(&b->calls);
    b->expire_timer = loop_timer_new(args->loop, "backend-expire", on_expire_tick, b);
    loop_timer_start(b->expire_timer, EXPIRE_TICK_MS, EXPIRE_TICK_MS);
    r = start_link(b, "raftd", &raftd_ops, &b->raftd);
    if (r == 0)
        r = start_link(b, "stored", &stored_ops, &b->stored);
    if (r != 0) {
        backend_free(b);
        return r;
    }
    *ret = b;
    return 0;
}

void backend_free(struct backend *b)
{
    if (b == NULL)
        return;
    assert(list_empty(&b->calls));
    ipc_link_stop(b->raftd, 0);
    ipc_link_stop(b->stored, 0);
    loop_timer_free(b->expire_timer);
    hmap_fini(&b->calls_by_id);
    free(b);
}

bool backend_ready(const struct backend *b)
{
    return ipc_link_is_up(b->raftd) && ipc_link_is_up(b->stored) && b->status.member_id != 0;
}

size_t backend_call_count(const struct backend *b)
{
    return b->calls_by_id.count;
}

const struct proto_raft_status *backend_status(const struct backend *b)
{
    return &b->status;
}

const struct proto_space *backend_space(const struct backend *b)
{
    return &b->space;
}
