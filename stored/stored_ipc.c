/*
 * The links: HELLOs, and one table per link from message type to handler. A handler decodes,
 * calls, and does no more. What does not decode is counted and dropped; it never ends the process.
 */
#include "stored/stored.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/ipc/ipc.h"
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "stored/kv/store_members.h"
#include "stored/stored_auth.h"

enum { LINK_DRAIN_MS = 200 };

static void malformed(struct stored *s, const char *from, uint16_t type)
{
    if (s->malformed_count++ % 1000 == 0)
        log_warn("dropped a malformed or unknown message of type %u from %s (%" PRIu64 " so far)",
                 (unsigned int)type, from, s->malformed_count);
}

static void fill_hello(struct stored *s, struct buf *body)
{
    CLEANUP(buf_fini) struct buf members = BUF_INIT;
    struct kv_state state;

    kv_get_state(s->kv, &state);
    store_members_encode(kv_members(s->kv), &members);
    proto_hello_encode(body, &(struct proto_hello){.daemon = PROTO_DAEMON_STORED,
                                                   .generation = s->args.generation,
                                                   .cluster_id = s->cluster_id,
                                                   .member_id = s->member_id,
                                                   .applied_index = state.applied_index,
                                                   .applied_term = state.applied_term,
                                                   .durable_index = kv_durable_index(s->kv),
                                                   .chain_hash = state.chain_hash,
                                                   .conf_state = buf_bytes(&members)});
}

/* ---- raftd ---- */

static void raftd_fill_hello(void *user, struct buf *body)
{
    struct stored *s = user;

    /* what raftd sends from now on starts behind this applied index */
    stored_apply_reset(s);
    fill_hello(s, body);
}

static int raftd_on_hello(void *user, struct bytes body)
{
    struct stored *s = user;
    struct proto_hello m;
    int r = proto_hello_decode(body, &m);

    if (r == 0 && (m.daemon != PROTO_DAEMON_RAFTD || m.cluster_id == 0 || m.member_id == 0))
        r = -EPROTO;
    if (r == 0 && s->cluster_id != 0 &&
        (m.cluster_id != s->cluster_id || m.member_id != s->member_id)) {
        if (s->refused_cluster != m.cluster_id || s->refused_member != m.member_id)
            log_error("refused raftd of member %" PRIx64 " of cluster %" PRIx64
                      ": %s belongs to member %" PRIx64 " of cluster %" PRIx64,
                      m.member_id, m.cluster_id, s->dir.path, s->member_id, s->cluster_id);
        s->refused_cluster = m.cluster_id;
        s->refused_member = m.member_id;
        return -EPERM;
    }
    if (r < 0) {
        malformed(s, "raftd (hello)", 0);
        return r;
    }
    if (s->cluster_id == 0) {
        r = stored_identity_save(s, m.cluster_id, m.member_id);
        if (r < 0) {
            CLEANUP(freep)
            char *text =
                xasprintf("cannot write the identity to %s: %s", s->dir.path, strerror(-r));

            stored_fatal(s, text);
            return r;
        }
    }
    return 0;
}

static void send_members(struct stored *s)
{
    struct buf *b = ipc_link_begin(s->raftd, PROTO_MEMBERS, 0);

    if (b == NULL)
        return;
    store_members_encode(kv_members(s->kv), b);
    ipc_link_end(s->raftd);
    s->tables_generation = kv_tables_generation(s->kv);
}

void stored_members_changed(struct stored *s)
{
    if (s->raftd_up && kv_tables_generation(s->kv) != s->tables_generation)
        send_members(s);
}

static void raftd_on_up(void *user)
{
    struct stored *s = user;
    struct kv_state state;

    kv_get_state(s->kv, &state);
    s->raftd_up = true;
    s->have_role = false;
    s->reported_index = state.applied_index; /* the HELLO said so */
    s->reported_durable = 0;
    log_info("linked to raftd at index %" PRIu64 ", revision %" PRId64, state.applied_index,
             state.revision);
    send_members(s);
    stored_apply_report(s);
    loop_hook_arm(s->work_hook);
}

static void raftd_on_down(void *user)
{
    struct stored *s = user;

    log_info("link to raftd lost");
    s->raftd_up = false;
    s->have_role = false; /* local reads end with the link they were granted over */
    stored_apply_reset(s);
    stored_reads_raftd_down(s);
    stored_leases_role(s);
    stored_snapshot_down(s);
}

static int on_committed(struct stored *s, const struct ipc_frame *f)
{
    stored_apply_committed(s, f->body);
    return 0;
}

static int on_role(struct stored *s, const struct ipc_frame *f)
{
    struct proto_raft_status role;
    int r = proto_raft_status_decode(f->body, &role);

    if (r != 0)
        return r;
    s->role = role;
    if (!s->have_role)
        s->first_commit_index = role.commit_index;
    s->have_role = true;
    /* in force for every read looked at from here on; those answered before came before */
    ipc_link_send(s->raftd, PROTO_ROLE_ACK, f->id, BYTES_EMPTY);
    stored_auth_role(s);
    stored_check_ready(s);
    stored_leases_role(s);
    loop_hook_arm(s->work_hook);
    return 0;
}

static int on_barrier_index(struct stored *s, const struct ipc_frame *f)
{
    struct proto_barrier_index m;
    int r = proto_barrier_index_decode(f->body, &m);

    if (r == 0 && !stored_leases_barrier_index(s, f->id, &m))
        stored_reads_barrier_index(s, f->id, &m);
    return r;
}

static int on_forwarded(struct stored *s, const struct ipc_frame *f)
{
    return stored_leases_forwarded(s, f->id, f->body);
}

static int on_forward_result(struct stored *s, const struct ipc_frame *f)
{
    return stored_leases_forward_result(s, f->id, f->body);
}

static int on_snapshot(struct stored *s, const struct ipc_frame *f)
{
    return stored_snapshot_frame(s, f->type, f->id, f->body);
}

static const struct {
    uint16_t type;
    int (*handle)(struct stored *s, const struct ipc_frame *f);
} raftd_table[] = {
    {PROTO_COMMITTED, on_committed},         {PROTO_ROLE, on_role},
    {PROTO_BARRIER_INDEX, on_barrier_index}, {PROTO_SNAP_SEND, on_snapshot},
    {PROTO_SNAP_RECEIVE, on_snapshot},       {PROTO_SNAP_CHUNK, on_snapshot},
    {PROTO_SNAP_ACTIVATE, on_snapshot},      {PROTO_SNAP_CANCEL, on_snapshot},
    {PROTO_SNAP_ACK, on_snapshot},           {PROTO_FORWARDED, on_forwarded},
    {PROTO_FORWARD_RESULT, on_forward_result},
};

static void raftd_on_frame(void *user, const struct ipc_frame *f)
{
    struct stored *s = user;

    for (size_t i = 0; i < ARRAY_LEN(raftd_table); i++) {
        if (raftd_table[i].type != f->type)
            continue;
        if (raftd_table[i].handle(s, f) != 0)
            malformed(s, "raftd", f->type);
        return;
    }
    malformed(s, "raftd", f->type);
}

static void raftd_on_writable(void *user)
{
    struct stored *s = user;

    loop_hook_arm(s->work_hook);
}

static const struct ipc_link_ops raftd_ops = {
    .fill_hello = raftd_fill_hello,
    .on_hello = raftd_on_hello,
    .on_up = raftd_on_up,
    .on_down = raftd_on_down,
    .on_frame = raftd_on_frame,
    .on_writable = raftd_on_writable,
};

/* ---- gatewayd ---- */

static void gateway_fill_hello(void *user, struct buf *body)
{
    struct stored_gateway *gw = user;

    fill_hello(gw->s, body);
}

static int gateway_on_hello(void *user, struct bytes body)
{
    struct stored_gateway *gw = user;
    struct proto_hello m;
    int r = proto_hello_decode(body, &m);

    if (r == 0 &&
        (m.daemon != PROTO_DAEMON_GATEWAYD || m.gateway_index != gw->index || m.generation == 0))
        r = -EPROTO;
    if (r < 0) {
        malformed(gw->s, "gatewayd (hello)", 0);
        return r;
    }
    gw->hello_generation = m.generation;
    return 0;
}

static void gateway_on_up(void *user)
{
    struct stored_gateway *gw = user;

    gw->generation = gw->hello_generation;
    stored_space_gateway_up(gw);
    stored_auth_gateway_up(gw);
}

static void gateway_on_down(void *user)
{
    struct stored_gateway *gw = user;

    gw->generation = 0;
    stored_reads_gateway_down(gw);
    stored_watch_gateway_down(gw);
}

static void gateway_on_frame(void *user, const struct ipc_frame *f)
{
    struct stored_gateway *gw = user;
    struct proto_u64 bytes;

    switch (f->type) {
    case PROTO_READ:
        stored_read(gw, f->id, f->body);
        return;
    case PROTO_CANCEL:
        stored_read_cancel(gw, f->id);
        return;
    case PROTO_READ_ACK:
        if (proto_u64_decode(f->body, &bytes) != 0)
            break;
        stored_read_ack(gw, f->id, bytes.value);
        return;
    case PROTO_WATCH_CREATE:
    case PROTO_WATCH_CANCEL:
    case PROTO_WATCH_CLOSE:
    case PROTO_WATCH_ACK:
    case PROTO_WATCH_PROGRESS:
        if (stored_watch_frame(gw, f->type, f->id, f->body) != 0)
            break;
        return;
    default:
        break;
    }
    malformed(gw->s, "gatewayd", f->type);
}

static void gateway_on_writable(void *user)
{
    struct stored_gateway *gw = user;

    loop_hook_arm(gw->s->work_hook);
}

static const struct ipc_link_ops gateway_ops = {
    .fill_hello = gateway_fill_hello,
    .on_hello = gateway_on_hello,
    .on_up = gateway_on_up,
    .on_down = gateway_on_down,
    .on_frame = gateway_on_frame,
    .on_writable = gateway_on_writable,
};

/* ---- life ---- */

int stored_ipc_start(struct stored *s)
{
    int r;

    for (uint64_t i = 0; i < s->conf->gateway_count; i++) {
        struct stored_gateway *gw = &s->gateways[i];
        CLEANUP(freep) char *name = xasprintf("gatewayd %" PRIu64, i);
        CLEANUP(freep) char *url = xasprintf("ipc://%s/stored.gw%" PRIu64, s->run_dir, i);

        r = ipc_link_start(&(struct ipc_link_args){.loop = s->loop,
                                                   .name = name,
                                                   .url = url,
                                                   .listen = true,
                                                   .ops = &gateway_ops,
                                                   .user = gw},
                           &gw->link);
        if (r < 0) {
            log_error("cannot listen on %s: %s", url, strerror(-r));
            return r;
        }
    }
    {
        CLEANUP(freep) char *url = xasprintf("ipc://%s/raftd.stored", s->run_dir);

        r = ipc_link_start(&(struct ipc_link_args){.loop = s->loop,
                                                   .name = "raftd",
                                                   .url = url,
                                                   .listen = false,
                                                   .ops = &raftd_ops,
                                                   .user = s},
                           &s->raftd);
        if (r < 0)
            log_error("cannot dial %s: %s", url, strerror(-r));
    }
    return r;
}

void stored_ipc_stop(struct stored *s)
{
    ipc_link_stop(s->raftd, LINK_DRAIN_MS);
    s->raftd = NULL;
    s->raftd_up = false;
    s->have_role = false;
    for (uint64_t i = 0; s->gateways != NULL && i < s->conf->gateway_count; i++) {
        ipc_link_stop(s->gateways[i].link, LINK_DRAIN_MS);
        s->gateways[i].link = NULL;
        s->gateways[i].generation = 0;
    }
}
