/*
 * Relaying a keyspace to a follower that the log no longer reaches.
 *
 *   leader's stored -> leader's raftd -> follower's raftd -> follower's stored
 *
 * Chunks pass through as they are, on the peers' bulk connection; the acknowledgements come back
 * the same way, so the window that the leader's stored keeps spans all hops and nothing queues up
 * in between. One outgoing transfer at a time; the others wait. One incoming.
 *
 * Incoming:  NONE -SNAP_META-> RECEIVING -STAGED-> STAGED -core accepts-> ACTIVATING -DONE-> NONE
 * At STAGED the core is told of the snapshot as if the leader's message came now. It may ignore it
 * (it has caught up by log meanwhile): then the staged state is dropped. When it accepts, stored
 * activates first, then the log's marker is written (raftd_ready.c): a crash in between leaves
 * stored ahead, which the next start mends; the other order would leave a log nobody can execute.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "lib/log/log.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"
#include "raftd/raftd.h"

enum { STALL_MS = 60000 }; /* without a chunk or an acknowledgement: given up */

/* ---- outgoing ---- */

static struct raftd_snap_out *out_first(struct raftd *r)
{
    if (list_empty(&r->snap_out))
        return NULL;
    return LIST_ENTRY(r->snap_out.next, struct raftd_snap_out, node);
}

static struct raftd_snap_out *out_by_id(struct raftd *r, uint64_t transfer_id)
{
    struct raftd_snap_out *out = out_first(r);

    return out != NULL && out->started && out->transfer_id == transfer_id ? out : NULL;
}

static void out_start(struct raftd *r)
{
    struct raftd_snap_out *out = out_first(r);

    if (out == NULL || out->started || !r->stored_up)
        return;
    out->transfer_id = ++r->last_transfer_id;
    if (!ipc_link_send(r->stored, PROTO_SNAP_SEND, out->transfer_id, BYTES_EMPTY))
        return;
    out->started = true;
    out->term = raft_get_term(r->raft);
    out->acked_ms = raftd_now_ms(r);
    log_info("sending the keyspace to member %016" PRIx64, out->peer_id);
}

static void out_end(struct raftd *r, struct raftd_snap_out *out, uint64_t index, const char *why)
{
    uint64_t peer_id = out->peer_id;

    if (index != 0) {
        r->counters.snapshots_sent++;
        log_info("member %016" PRIx64 " has the keyspace at index %" PRIu64, peer_id, index);
    } else {
        log_warn("sending the keyspace to member %016" PRIx64 " failed: %s", peer_id, why);
    }
    list_remove(&out->node);
    free(out);
    raft_report_snapshot(r->raft, peer_id, index);
    out_start(r);
    raftd_arm(r);
}

static void send_peer_id(struct raftd *r, uint64_t to, enum peer_type type, uint64_t transfer_id)
{
    struct buf *b = peers_begin(r->peers, to, PEER_LANE_BULK, type);

    if (b == NULL)
        return;
    wire_put_u64(b, transfer_id);
    peers_end(r->peers);
}

static void out_abort(struct raftd *r, struct raftd_snap_out *out, const char *why)
{
    if (out->started) {
        ipc_link_send(r->stored, PROTO_SNAP_CANCEL, out->transfer_id, BYTES_EMPTY);
        send_peer_id(r, out->peer_id, PEER_SNAP_CANCEL, out->transfer_id);
    }
    out_end(r, out, 0, why);
}

void raftd_snap_send(struct raftd *r, uint64_t peer_id)
{
    struct raftd_snap_out *out = xcalloc(1, sizeof(*out));

    out->peer_id = peer_id;
    out->acked_ms = raftd_now_ms(r);
    list_push_back(&r->snap_out, &out->node);
    out_start(r);
}

static void out_on_meta(struct raftd *r, const struct ipc_frame *f)
{
    struct raftd_snap_out *out = out_by_id(r, f->id);
    struct proto_snap_meta meta;
    struct peer_snap_meta m;
    struct buf *b;

    if (out == NULL)
        return;
    if (proto_snap_meta_decode(f->body, &meta) != 0) {
        r->counters.nonsense++;
        out_abort(r, out, "malformed meta data");
        return;
    }
    out->index = meta.index;
    b = peers_begin(r->peers, out->peer_id, PEER_LANE_BULK, PEER_SNAP_META);
    if (b == NULL) {
        out_abort(r, out, "not connected");
        return;
    }
    m = (struct peer_snap_meta){
        .transfer_id = out->transfer_id, .term = out->term, .meta = f->body};
    peer_snap_meta_encode(b, &m);
    peers_end(r->peers);
}

static void out_on_chunk(struct raftd *r, const struct ipc_frame *f)
{
    struct raftd_snap_out *out = out_by_id(r, f->id);
    struct buf *b;

    if (out == NULL)
        return;
    b = peers_begin(r->peers, out->peer_id, PEER_LANE_BULK, PEER_SNAP_CHUNK);
    if (b == NULL) {
        out_abort(r, out, "the connection broke");
        return;
    }
    wire_put_u64(b, out->transfer_id);
    buf_append_bytes(b, f->body);
    peers_end(r->peers);
}

static void out_on_ack(struct raftd *r, uint64_t from, struct bytes body)
{
    struct peer_snap_ack m;
    struct raftd_snap_out *out;
    struct buf *b;

    if (peer_snap_ack_decode(body, &m) != 0) {
        r->counters.nonsense++;
        return;
    }
    out = out_by_id(r, m.transfer_id);
    if (out == NULL || out->peer_id != from)
        return;
    out->acked_ms = raftd_now_ms(r);
    b = ipc_link_begin(r->stored, PROTO_SNAP_ACK, out->transfer_id);
    if (b == NULL)
        return;
    proto_u64_encode(b, &(struct proto_u64){.value = m.consumed});
    ipc_link_end(r->stored);
}

static void out_on_end(struct raftd *r, uint64_t from, struct bytes body)
{
    struct peer_snap_end m;
    struct raftd_snap_out *out;

    if (peer_snap_end_decode(body, &m) != 0) {
        r->counters.nonsense++;
        return;
    }
    out = out_by_id(r, m.transfer_id);
    if (out == NULL || out->peer_id != from)
        return;
    if (m.index == 0 || m.index != out->index)
        out_abort(r, out, outcome_name(m.outcome));
    else
        out_end(r, out, m.index, NULL);
}

/* ---- incoming ---- */

static void in_clear(struct raftd *r)
{
    r->snap_in.state = SNAP_IN_NONE;
    buf_clear(&r->snap_in.meta);
}

static void tell_end(struct raftd *r, uint64_t to, uint64_t remote_id, uint64_t index, int outcome)
{
    struct peer_snap_end m = {
        .transfer_id = remote_id, .index = index, .outcome = (uint16_t)outcome};
    struct buf *b = peers_begin(r->peers, to, PEER_LANE_MAIN, PEER_SNAP_END);

    if (b == NULL)
        return; /* the leader's clock ends it */
    peer_snap_end_encode(b, &m);
    peers_end(r->peers);
}

static void in_fail(struct raftd *r, int outcome, const char *why)
{
    struct raftd_snap_in *in = &r->snap_in;

    log_warn("receiving the keyspace of member %016" PRIx64 " ended: %s", in->from, why);
    ipc_link_send(r->stored, PROTO_SNAP_CANCEL, in->local_id, BYTES_EMPTY);
    tell_end(r, in->from, in->remote_id, 0, outcome);
    in_clear(r);
}

static bool meta_valid(const struct raftd *r, struct bytes body, struct proto_snap_meta *ret)
{
    struct raftd_members members = {0};
    bool valid;

    if (proto_snap_meta_decode(body, ret) != 0 || ret->cluster_id != r->cluster_id ||
        ret->index == 0 || ret->term == 0 || raftd_members_load(&members, ret->conf_state) != 0)
        return false;
    valid = members.count != 0;
    raftd_members_fini(&members);
    return valid;
}

static void in_on_meta(struct raftd *r, uint64_t from, struct bytes body)
{
    struct raftd_snap_in *in = &r->snap_in;
    struct proto_snap_meta meta;
    struct peer_snap_meta m;
    struct buf *b;

    if (peer_snap_meta_decode(body, &m) != 0 || !meta_valid(r, m.meta, &meta)) {
        r->counters.nonsense++;
        return;
    }
    if (in->state == SNAP_IN_STAGED || in->state == SNAP_IN_ACTIVATING || !r->stored_up ||
        meta.index <= r->status.commit_index) {
        tell_end(r, from, m.transfer_id, 0, OUT_TOO_MANY_REQUESTS);
        return;
    }
    if (in->state == SNAP_IN_RECEIVING)
        in_fail(r, OUT_CANCELED, "another one begins");
    in->state = SNAP_IN_RECEIVING;
    in->from = from;
    in->remote_id = m.transfer_id;
    in->local_id = ++r->last_transfer_id;
    in->term = m.term;
    in->progress_ms = raftd_now_ms(r);
    buf_clear(&in->meta);
    buf_append_bytes(&in->meta, m.meta);
    log_info("receiving the keyspace at index %" PRIu64 " from member %016" PRIx64, meta.index,
             from);
    b = ipc_link_begin(r->stored, PROTO_SNAP_RECEIVE, in->local_id);
    if (b == NULL)
        return; /* the link's end follows */
    buf_append_bytes(b, m.meta);
    ipc_link_end(r->stored);
}

static bool in_matches(const struct raftd *r, uint64_t from, struct wire_reader *reader)
{
    uint64_t transfer_id = wire_get_u64(reader);

    return !reader->bad && r->snap_in.state == SNAP_IN_RECEIVING && r->snap_in.from == from &&
           r->snap_in.remote_id == transfer_id;
}

static void in_on_chunk(struct raftd *r, uint64_t from, struct bytes body)
{
    struct wire_reader reader = wire_reader(body);

    if (!in_matches(r, from, &reader))
        return;
    r->snap_in.progress_ms = raftd_now_ms(r);
    ipc_link_send(r->stored, PROTO_SNAP_CHUNK, r->snap_in.local_id, wire_rest(&reader));
}

static void in_on_cancel(struct raftd *r, uint64_t from, struct bytes body)
{
    struct wire_reader reader = wire_reader(body);

    if (in_matches(r, from, &reader))
        in_fail(r, OUT_CANCELED, "cancelled by the sender");
}

static void in_on_ack(struct raftd *r, const struct ipc_frame *f)
{
    struct peer_snap_ack m = {.transfer_id = r->snap_in.remote_id};
    struct proto_u64 consumed;
    struct buf *b;

    if (r->snap_in.state != SNAP_IN_RECEIVING || f->id != r->snap_in.local_id)
        return;
    if (proto_u64_decode(f->body, &consumed) != 0) {
        r->counters.nonsense++;
        return;
    }
    m.consumed = consumed.value;
    b = peers_begin(r->peers, r->snap_in.from, PEER_LANE_MAIN, PEER_SNAP_ACK);
    if (b == NULL)
        return;
    peer_snap_ack_encode(b, &m);
    peers_end(r->peers);
}

/* The data is here, verified and synced: now the core hears of it. */
static void in_on_staged(struct raftd *r, const struct ipc_frame *f)
{
    struct raftd_snap_in *in = &r->snap_in;
    struct raftd_members members = {0};
    struct raft_snapshot snapshot;
    struct proto_snap_meta meta;
    struct proto_outcome outcome;
    struct raft_msg msg = {.type = RAFT_MSG_SNAPSHOT,
                           .from = in->from,
                           .to = r->member_id,
                           .term = in->term,
                           .snapshot = &snapshot};

    if (in->state != SNAP_IN_RECEIVING || f->id != in->local_id)
        return;
    if (proto_outcome_decode(f->body, &outcome) != 0 || outcome.outcome != OUT_OK) {
        in_fail(r, OUT_CORRUPT, "it did not arrive whole");
        return;
    }
    if (proto_snap_meta_decode(buf_bytes(&in->meta), &meta) != 0 ||
        raftd_members_load(&members, meta.conf_state) != 0) {
        in_fail(r, OUT_MALFORMED, "malformed meta data");
        return;
    }
    in->state = SNAP_IN_STAGED;
    snapshot = (struct raft_snapshot){.index = meta.index, .term = meta.term};
    raftd_members_conf(&members, &snapshot.conf);
    raftd_members_fini(&members);
    if (raft_step(r->raft, &msg) != 0)
        r->counters.nonsense++;
    raftd_arm(r);
}

/* After a turn that carried out all readies: a staged snapshot nobody took is of no use. */
void raftd_snap_settle(struct raftd *r)
{
    if (r->snap_in.state == SNAP_IN_STAGED)
        in_fail(r, OUT_CANCELED, "the log has caught up, or the leader changed");
}

void raftd_snap_activate(struct raftd *r, const struct raft_snapshot *s)
{
    struct raftd_snap_in *in = &r->snap_in;
    struct proto_snap_meta meta;

    if (!r->stored_up || in->state == SNAP_IN_ACTIVATING)
        return;
    if (in->state != SNAP_IN_STAGED || proto_snap_meta_decode(buf_bytes(&in->meta), &meta) != 0 ||
        meta.index != s->index)
        /* nothing of this snapshot is on disk here: starting again forgets it */
        daemon_fatal(r->d, "the received keyspace at index %" PRIu64 " is gone", s->index);
    in->state = SNAP_IN_ACTIVATING;
    ipc_link_send(r->stored, PROTO_SNAP_ACTIVATE, in->local_id, BYTES_EMPTY);
}

static void in_on_done(struct raftd *r, const struct ipc_frame *f)
{
    struct raftd_snap_in *in = &r->snap_in;
    struct proto_outcome outcome;
    struct proto_snap_meta meta;

    if (in->state != SNAP_IN_ACTIVATING || f->id != in->local_id)
        return;
    if (proto_outcome_decode(f->body, &outcome) != 0 || outcome.outcome != OUT_OK ||
        proto_snap_meta_decode(buf_bytes(&in->meta), &meta) != 0)
        daemon_fatal(r->d, "the received keyspace could not be activated");
    log_info("the keyspace is now at index %" PRIu64 ", received from member %016" PRIx64,
             meta.index, in->from);
    r->counters.snapshots_received++;
    raftd_apply_forget(r);
    r->applied_index = r->sent_index = meta.index;
    r->durable_index = meta.index;
    r->chain_hash = meta.chain_hash;
    raftd_members_load(&r->members, meta.conf_state);
    r->members_index = meta.index;
    tell_end(r, in->from, in->remote_id, meta.index, OUT_OK);
    in_clear(r);
    raftd_peers_sync(r);
    raftd_hash_note(r);
    raftd_snapshot_activated(r, meta.index);
}

/* ---- dispatch ---- */

void raftd_snap_on_stored(struct raftd *r, const struct ipc_frame *f)
{
    struct raftd_snap_out *out;

    switch (f->type) {
    case PROTO_SNAP_META:
        out_on_meta(r, f);
        break;
    case PROTO_SNAP_CHUNK:
        out_on_chunk(r, f);
        break;
    case PROTO_SNAP_ACK:
        in_on_ack(r, f);
        break;
    case PROTO_SNAP_STAGED:
        in_on_staged(r, f);
        break;
    case PROTO_SNAP_DONE:
        in_on_done(r, f);
        break;
    case PROTO_SNAP_CANCEL:
        out = out_by_id(r, f->id);
        if (out != NULL)
            out_abort(r, out, "stored gave up");
        else if (r->snap_in.state == SNAP_IN_RECEIVING && f->id == r->snap_in.local_id)
            in_fail(r, OUT_INTERNAL, "stored gave up");
        break;
    default:
        break;
    }
}

void raftd_snap_on_peer(struct raftd *r, const struct peer_header *h, const struct peer_frame *f)
{
    switch (f->type) {
    case PEER_SNAP_META:
        in_on_meta(r, h->from, f->body);
        break;
    case PEER_SNAP_CHUNK:
        in_on_chunk(r, h->from, f->body);
        break;
    case PEER_SNAP_CANCEL:
        in_on_cancel(r, h->from, f->body);
        break;
    case PEER_SNAP_ACK:
        out_on_ack(r, h->from, f->body);
        break;
    case PEER_SNAP_END:
        out_on_end(r, h->from, f->body);
        break;
    default:
        break;
    }
}

void raftd_snap_on_peer_down(struct raftd *r, uint64_t peer_id)
{
    LIST_FOREACH_SAFE (it, tmp, &r->snap_out) {
        struct raftd_snap_out *out = LIST_ENTRY(it, struct raftd_snap_out, node);

        if (out->peer_id == peer_id) {
            out_abort(r, out, "the connection broke");
            return;
        }
    }
}

void raftd_snap_on_stored_down(struct raftd *r)
{
    struct raftd_snap_out *out = out_first(r);

    if (out != NULL && out->started)
        out_abort(r, out, "stored went away");
    if (r->snap_in.state == SNAP_IN_RECEIVING)
        in_fail(r, OUT_INTERNAL, "stored went away");
    else
        in_clear(r); /* activated or not: its next HELLO tells */
}

void raftd_snap_leader_changed(struct raftd *r)
{
    while (!raftd_is_leader(r) && !list_empty(&r->snap_out))
        out_abort(r, out_first(r), "no longer leader");
}

void raftd_snap_tick(struct raftd *r)
{
    struct raftd_snap_out *out = out_first(r);
    uint64_t now = raftd_now_ms(r);

    if (out != NULL && out->started && now - out->acked_ms > STALL_MS)
        out_abort(r, out, "no progress");
    out_start(r);
    if (r->snap_in.state == SNAP_IN_RECEIVING && now - r->snap_in.progress_ms > STALL_MS)
        in_fail(r, OUT_TIMEOUT, "no progress");
}

void raftd_snap_fini(struct raftd *r)
{
    while (!list_empty(&r->snap_out)) {
        struct raftd_snap_out *out = out_first(r);

        list_remove(&out->node);
        free(out);
    }
    buf_fini(&r->snap_in.meta);
}
