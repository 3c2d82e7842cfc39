/*
 * Links to stored and to the gatewayds: one table each from message type to handler. A handler
 * decodes and calls, no more.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "lib/log/log.h"
#include "lib/util/macros.h"
#include "lib/wire/wire.h"
#include "raftd/raftd.h"

static void fill_hello(struct raftd *r, struct buf *body)
{
    struct proto_hello h = {.daemon = PROTO_DAEMON_RAFTD,
                            .generation = r->generation,
                            .cluster_id = r->cluster_id,
                            .member_id = r->member_id};

    proto_hello_encode(body, &h);
}

/* ---- stored ---- */

static void on_applied(struct raftd *r, const struct ipc_frame *f)
{
    struct proto_applied a;

    if (proto_applied_decode(f->body, &a) != 0)
        r->counters.nonsense++;
    else
        raftd_apply_on_applied(r, &a);
}

static void on_read_barrier(struct raftd *r, const struct ipc_frame *f)
{
    raftd_reads_add(r, f->id);
}

static void on_role_ack(struct raftd *r, const struct ipc_frame *f)
{
    raftd_on_role_ack(r, f->id);
}

static void on_members(struct raftd *r, const struct ipc_frame *f)
{
    raftd_apply_on_members(r, f->body);
}

static void on_snap(struct raftd *r, const struct ipc_frame *f)
{
    raftd_snap_on_stored(r, f);
}

static void on_propose_own(struct raftd *r, const struct ipc_frame *f)
{
    raftd_on_propose_own(r, f->body);
}

static void on_forward(struct raftd *r, const struct ipc_frame *f)
{
    raftd_forward(r, f->id, f->body);
}

static void on_forward_reply(struct raftd *r, const struct ipc_frame *f)
{
    raftd_forward_on_reply(r, f->id, f->body);
}

static const struct {
    uint16_t type;
    void (*handle)(struct raftd *r, const struct ipc_frame *f);
} stored_handlers[] = {
    {PROTO_APPLIED, on_applied},       {PROTO_READ_BARRIER, on_read_barrier},
    {PROTO_ROLE_ACK, on_role_ack},     {PROTO_MEMBERS, on_members},
    {PROTO_SNAP_META, on_snap},        {PROTO_SNAP_CHUNK, on_snap},
    {PROTO_SNAP_ACK, on_snap},         {PROTO_SNAP_STAGED, on_snap},
    {PROTO_SNAP_DONE, on_snap},        {PROTO_SNAP_CANCEL, on_snap},
    {PROTO_PROPOSE_OWN, on_propose_own}, {PROTO_FORWARD, on_forward},
    {PROTO_FORWARD_REPLY, on_forward_reply},
};

static void stored_fill_hello(void *user, struct buf *body)
{
    fill_hello(user, body);
}

static int stored_on_hello(void *user, struct bytes body)
{
    struct raftd *r = user;
    struct proto_hello h;
    int e = proto_hello_decode(body, &h);

    if (e != 0)
        return e;
    if (h.daemon != PROTO_DAEMON_STORED)
        return -EPERM;
    if ((h.cluster_id != 0 && h.cluster_id != r->cluster_id) ||
        (h.member_id != 0 && h.member_id != r->member_id)) {
        log_error("the keyspace belongs to member %016" PRIx64 " of cluster %016" PRIx64
                  ", the log to member %016" PRIx64 " of cluster %016" PRIx64,
                  h.member_id, h.cluster_id, r->member_id, r->cluster_id);
        return -EPERM;
    }
    buf_clear(&r->hello_conf);
    buf_append_bytes(&r->hello_conf, h.conf_state);
    r->hello = h;
    r->hello.conf_state = BYTES_EMPTY;
    return 0;
}

static void stored_on_up(void *user)
{
    struct raftd *r = user;
    int e;

    if (r->stopping)
        return;
    log_info("stored is up, generation %" PRIu64 ", executed %" PRIu64, r->hello.generation,
             r->hello.applied_index);
    if (r->raft == NULL && raftd_core_start(r) != 0)
        return;
    e = raftd_apply_resume(r);
    if (e == -ENODATA)
        daemon_fatal(r->d, "the keyspace has executed only %" PRIu64
                           " entries, and the log begins later",
                     r->hello.applied_index);
    if (e != 0)
        daemon_fatal(r->d, "the keyspace does not match the log: %s", strerror(-e));
    r->stored_up = true;
    raftd_role_reset(r);
    raftd_peers_sync(r);
    /* a snapshot may have been activated before the link broke */
    raftd_snapshot_activated(r, r->applied_index);
    raftd_arm(r);
}

static void stored_on_down(void *user)
{
    struct raftd *r = user;

    if (!r->stored_up)
        return;
    log_info("stored is down");
    r->stored_up = false;
    raft_deliver_pause(r->raft);
    raftd_reads_clear(r);
    raftd_snap_on_stored_down(r);
    raftd_role_reset(r);
    raftd_arm(r);
}

static void stored_on_frame(void *user, const struct ipc_frame *f)
{
    struct raftd *r = user;

    if (!r->stored_up)
        return;
    for (size_t i = 0; i < ARRAY_LEN(stored_handlers); i++) {
        if (stored_handlers[i].type == f->type) {
            stored_handlers[i].handle(r, f);
            return;
        }
    }
    r->counters.nonsense++;
}

static void stored_on_writable(void *user)
{
    struct raftd *r = user;

    if (r->stored_up) {
        raft_deliver_resume(r->raft, RAFT_GO_ON);
        raftd_arm(r);
    }
}

const struct ipc_link_ops raftd_stored_ops = {
    .fill_hello = stored_fill_hello,
    .on_hello = stored_on_hello,
    .on_up = stored_on_up,
    .on_down = stored_on_down,
    .on_frame = stored_on_frame,
    .on_writable = stored_on_writable,
};

/* ---- gatewayd ---- */

void raftd_reply_outcome(struct raftd_gateway *g, uint16_t type, uint64_t id, int outcome)
{
    struct buf *b = ipc_link_begin(g->link, type, id);
    struct proto_outcome m = {.outcome = (uint16_t)outcome};

    if (b == NULL)
        return;
    proto_outcome_encode(b, &m);
    ipc_link_end(g->link);
}

static void send_status(struct raftd_gateway *g, uint64_t id)
{
    struct proto_raft_status status;
    struct buf *b = ipc_link_begin(g->link, PROTO_RAFT_STATUS, id);

    if (b == NULL)
        return;
    raftd_status_fill(g->r, &status);
    proto_raft_status_encode(b, &status);
    ipc_link_end(g->link);
}

static void send_metrics(struct raftd_gateway *g, uint64_t id)
{
    struct buf *b = ipc_link_begin(g->link, PROTO_METRICS, id);

    if (b == NULL)
        return;
    raftd_metrics(g->r, b);
    ipc_link_end(g->link);
}

static void gateway_fill_hello(void *user, struct buf *body)
{
    struct raftd_gateway *g = user;

    fill_hello(g->r, body);
}

static int gateway_on_hello(void *user, struct bytes body)
{
    struct raftd_gateway *g = user;
    struct proto_hello h;
    int e = proto_hello_decode(body, &h);

    if (e != 0)
        return e;
    if (h.daemon != PROTO_DAEMON_GATEWAYD || h.gateway_index != g->index)
        return -EPERM;
    g->generation = h.generation;
    return 0;
}

static void gateway_on_up(void *user)
{
    send_status(user, 0);
}

static void gateway_on_down(void *user)
{
    struct raftd_gateway *g = user;

    if (!g->r->stopping)
        raftd_proposals_gateway_down(g->r, g);
}

static void on_call(struct raftd_gateway *g, const struct ipc_frame *f)
{
    struct proto_raft_call call;

    if (proto_raft_call_decode(f->body, &call) != 0) {
        g->r->counters.nonsense++;
        return;
    }
    switch (call.op) {
    case PROTO_RAFT_MOVE_LEADER:
        raftd_move_leader(g, f->id, call.member);
        break;
    }
}

static void gateway_on_frame(void *user, const struct ipc_frame *f)
{
    struct raftd_gateway *g = user;

    switch (f->type) {
    case PROTO_PROPOSE:
        raftd_propose(g, f->id, f->body);
        break;
    case PROTO_STATUS_GET:
        send_status(g, f->id);
        break;
    case PROTO_METRICS_GET:
        send_metrics(g, f->id);
        break;
    case PROTO_RAFT_CALL:
        on_call(g, f);
        break;
    default:
        g->r->counters.nonsense++;
        break;
    }
}

const struct ipc_link_ops raftd_gateway_ops = {
    .fill_hello = gateway_fill_hello,
    .on_hello = gateway_on_hello,
    .on_up = gateway_on_up,
    .on_down = gateway_on_down,
    .on_frame = gateway_on_frame,
};
