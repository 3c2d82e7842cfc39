/*
 * The whole state as a stream.
 *
 * Sending: a kv_snapshot pinned when raftd asks, produced in slices as far as the link is writable
 * and SNAP_ACK keeps the window open. Applying goes on meanwhile.
 *
 * Receiving: into a second engine in db.recv, beside the state that goes on serving:
 *
 *     RECEIVING --last chunk, SHA-256 right--> SYNCING --durable--> SYNCED --renamed--> STAGED
 *         |                                                                               |
 *         +--bad chunk, CANCEL, link down--> dropped            SNAP_ACTIVATE: swap, open, DONE
 *
 * Only a staged state can be activated; stored_dir.h says what a crash leaves at each point.
 */
#include "stored/stored.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/ipc/ipc.h"
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "stored/kv/store_members.h"

enum {
    CHUNK_BYTES = 128 << 10,
    SLICE_NS = 1000000,
};

struct stored_snap_out {
    uint64_t id;
    struct kv_snapshot *snapshot;
    struct kv_snapshot_meta meta;
    struct buf members; /* as of meta.index */
    bool meta_sent;
    uint64_t sent_bytes, acked_bytes;
};

enum snap_in_state { RECEIVING, SYNCING, SYNCED, STAGED };

struct stored_snap_in {
    struct stored *s;
    uint64_t id;
    enum snap_in_state state;
    struct proto_snap_meta meta; /* conf_state not kept */
    struct engine_leveldb *engine;
    struct kv_restore *restore;
    uint64_t received_bytes, acked_bytes;
    uint64_t sequence; /* durable at this: complete */
    atomic_bool failed; /* the engine did, on some thread */
    struct loop_wake *failed_wake;
};

/* ---- sending ---- */

static void out_end(struct stored *s)
{
    struct stored_snap_out *out = TAKE(s->snap_out);

    if (out == NULL)
        return;
    kv_snapshot_free(out->snapshot);
    buf_fini(&out->members);
    free(out);
}

static void out_begin(struct stored *s, uint64_t id)
{
    struct stored_snap_out *out;

    out_end(s);
    out = xcalloc(1, sizeof(*out));
    out->id = id;
    out->snapshot = kv_snapshot_new(s->kv, &out->meta);
    store_members_encode(kv_members(s->kv), &out->members);
    s->snap_out = out;
    log_info("sending the state at index %" PRIu64 ", revision %" PRId64, out->meta.index,
             out->meta.revision);
    loop_hook_arm(s->work_hook);
}

static bool out_chunk(struct stored *s, struct stored_snap_out *out)
{
    struct buf *b = &s->scratch, *body;
    int r;

    buf_clear(b);
    r = kv_snapshot_step(out->snapshot, CHUNK_BYTES, b);
    if (r < 0) {
        CLEANUP(freep) char *text = xasprintf("snapshot: %s", strerror(-r));

        stored_fatal(s, text);
        return false;
    }
    if (b->len == 0 && r != 0)
        return true;
    body = ipc_link_begin(s->raftd, PROTO_SNAP_CHUNK, out->id);
    if (body == NULL)
        return false;
    proto_snap_chunk_encode(body, &(struct proto_snap_chunk){.offset = out->sent_bytes,
                                                             .last = r == 0,
                                                             .data = buf_bytes(b)});
    ipc_link_end(s->raftd);
    out->sent_bytes += b->len;
    if (r == 0) {
        log_info("sent the state at index %" PRIu64 ": %" PRIu64 " bytes", out->meta.index,
                 out->sent_bytes);
        out_end(s);
        return false;
    }
    return true;
}

static void out_work(struct stored *s)
{
    struct stored_snap_out *out = s->snap_out;
    uint64_t deadline;

    if (out == NULL || !s->raftd_up || !kv_snapshot_ready(out->snapshot))
        return; /* `written` arms the hook again */
    if (!out->meta_sent) {
        struct buf *b = ipc_link_begin(s->raftd, PROTO_SNAP_META, out->id);

        if (b == NULL)
            return;
        proto_snap_meta_encode(b,
                               &(struct proto_snap_meta){.index = out->meta.index,
                                                         .term = out->meta.term,
                                                         .chain_hash = out->meta.chain_hash,
                                                         .cluster_id = s->cluster_id,
                                                         .conf_state = buf_bytes(&out->members)});
        ipc_link_end(s->raftd);
        out->meta_sent = true;
    }
    deadline = loop_clock_ns() + SLICE_NS;
    do {
        if (!ipc_link_writable(s->raftd) ||
            out->sent_bytes - out->acked_bytes + CHUNK_BYTES > STORED_SNAP_WINDOW_BYTES)
            return; /* on_writable or SNAP_ACK arms the hook again */
        if (!out_chunk(s, out))
            return;
    } while (loop_clock_ns() < deadline);
    loop_hook_arm(s->work_hook);
}

/* ---- receiving ---- */

static void in_end(struct stored *s)
{
    struct stored_snap_in *in = TAKE(s->snap_in);

    if (in == NULL)
        return;
    kv_restore_free(in->restore);
    engine_leveldb_close(in->engine);
    loop_wake_free(in->failed_wake);
    free(in);
    stored_dir_recv_drop(&s->dir);
}

static void answer(struct stored *s, enum proto_type type, uint64_t id, int outcome)
{
    struct buf *b = ipc_link_begin(s->raftd, (uint16_t)type, id);

    if (b == NULL)
        return;
    proto_outcome_encode(b, &(struct proto_outcome){.outcome = (uint16_t)outcome});
    ipc_link_end(s->raftd);
}

static void in_refuse(struct stored *s, const char *why)
{
    struct stored_snap_in *in = s->snap_in;

    log_error("dropped the received state at index %" PRIu64 ": %s", in->meta.index, why);
    answer(s, PROTO_SNAP_STAGED, in->id, OUT_CORRUPT);
    in_end(s);
}

static void in_ack(struct stored_snap_in *in)
{
    struct buf *b;

    if (in->acked_bytes == in->received_bytes || engine_leveldb_is_full(in->engine))
        return;
    b = ipc_link_begin(in->s->raftd, PROTO_SNAP_ACK, in->id);
    if (b == NULL)
        return;
    proto_u64_encode(b, &(struct proto_u64){in->received_bytes});
    ipc_link_end(in->s->raftd);
    in->acked_bytes = in->received_bytes;
}

static void in_written(void *user, uint64_t sequence)
{
    struct stored_snap_in *in = user;

    if (in->state == RECEIVING)
        in_ack(in);
    else if (in->state == SYNCING && sequence >= in->sequence)
        engine_leveldb_sync(in->engine);
}

static void in_durable(void *user, uint64_t sequence)
{
    struct stored_snap_in *in = user;

    if (in->state == SYNCING && sequence >= in->sequence) {
        in->state = SYNCED;
        loop_hook_arm(in->s->work_hook); /* not closed from its own callback */
    }
}

/* Nothing of ours is lost: only this transfer ends. Any thread. */
static void in_fatal(void *user, const char *text)
{
    struct stored_snap_in *in = user;

    log_error("receiving a state: %s", text);
    atomic_store(&in->failed, true);
    loop_wake_send(in->failed_wake);
}

static void in_on_failed(void *user)
{
    struct stored *s = user;

    if (s->snap_in != NULL && atomic_load(&s->snap_in->failed))
        in_refuse(s, "it could not be written");
}

static int in_begin(struct stored *s, uint64_t id, struct bytes body)
{
    CLEANUP(freep) char *error = NULL;
    struct stored_snap_in *in;
    struct proto_snap_meta meta;
    int r = proto_snap_meta_decode(body, &meta);

    if (r != 0)
        return r;
    if (meta.cluster_id != s->cluster_id) {
        log_error("refused a state of cluster %" PRIx64, meta.cluster_id);
        answer(s, PROTO_SNAP_STAGED, id, OUT_CLUSTER_ID_MISMATCH);
        return 0;
    }
    in_end(s);
    in = xcalloc(1, sizeof(*in));
    in->s = s;
    in->id = id;
    in->meta = meta;
    in->meta.conf_state = BYTES_EMPTY;
    in->failed_wake = loop_wake_new(s->loop, "state refused", in_on_failed, s);
    r = stored_dir_recv_begin(&s->dir);
    if (r == 0)
        r = engine_leveldb_open(&(struct engine_leveldb_args){.loop = s->loop,
                                                              .path = s->dir.recv,
                                                              .no_fsync = s->conf->unsafe_no_fsync,
                                                              .written = in_written,
                                                              .durable = in_durable,
                                                              .fatal = in_fatal,
                                                              .user = in},
                                &in->engine, &error);
    if (r < 0) {
        log_error("cannot receive a state into %s: %s", s->dir.recv,
                  error != NULL ? error : strerror(-r));
        answer(s, PROTO_SNAP_STAGED, id, OUT_INTERNAL);
        loop_wake_free(in->failed_wake);
        free(in);
        return 0;
    }
    in->restore = kv_restore_new(engine_leveldb_kv(in->engine));
    s->snap_in = in;
    log_info("receiving the state at index %" PRIu64, meta.index);
    return 0;
}

static int in_chunk(struct stored *s, uint64_t id, struct bytes body)
{
    struct stored_snap_in *in = s->snap_in;
    struct engine_leveldb_stats stats;
    struct kv_snapshot_meta got;
    struct proto_snap_chunk chunk;
    int r = proto_snap_chunk_decode(body, &chunk);

    if (r != 0)
        return r;
    if (in == NULL || in->id != id || in->state != RECEIVING)
        return 0; /* of a transfer that ended */
    if (chunk.offset != in->received_bytes) {
        in_refuse(s, "a chunk is missing");
        return 0;
    }
    r = kv_restore_feed(in->restore, chunk.data);
    in->received_bytes += chunk.data.len;
    if (r == 0 && !chunk.last) {
        in_ack(in);
        return 0;
    }
    if (r == 0)
        r = kv_restore_finish(in->restore, &got);
    if (r < 0) {
        in_refuse(s, strerror(-r));
        return 0;
    }
    if (got.index != in->meta.index || got.term != in->meta.term ||
        got.chain_hash != in->meta.chain_hash) {
        in_refuse(s, "it is not the state that was announced");
        return 0;
    }
    in->state = SYNCING;
    in->sequence = kv_restore_sequence(in->restore);
    kv_restore_free(TAKE(in->restore));
    engine_leveldb_get_stats(in->engine, &stats);
    if (stats.written_sequence >= in->sequence)
        engine_leveldb_sync(in->engine); /* else `written` does */
    return 0;
}

static void in_stage(struct stored *s)
{
    struct stored_snap_in *in = s->snap_in;
    int r;

    if (in == NULL || in->state != SYNCED)
        return;
    engine_leveldb_close(TAKE(in->engine));
    loop_wake_free(TAKE(in->failed_wake));
    r = s->failed || atomic_load(&in->failed) ? -EIO : stored_dir_recv_stage(&s->dir);
    if (r < 0) {
        in_refuse(s, strerror(-r));
        return;
    }
    in->state = STAGED;
    log_info("received the state at index %" PRIu64 ": %" PRIu64 " bytes", in->meta.index,
             in->received_bytes);
    answer(s, PROTO_SNAP_STAGED, in->id, OUT_OK);
}

static void in_activate(struct stored *s, uint64_t id)
{
    struct stored_snap_in *in = s->snap_in;
    CLEANUP(freep) char *text = NULL;
    struct kv_state state;
    int r;

    if (in == NULL || in->id != id || in->state != STAGED) {
        answer(s, PROTO_SNAP_DONE, id, OUT_INTERNAL);
        return;
    }
    free(TAKE(s->snap_in)); /* engine and restore are gone already; the directory stays */
    stored_state_close(s);
    r = stored_dir_activate(&s->dir);
    if (r < 0) {
        text = xasprintf("cannot activate the received state in %s: %s", s->dir.path, strerror(-r));
        stored_fatal(s, text);
        return;
    }
    r = stored_state_open(s);
    if (r < 0) {
        stored_fatal(s, "cannot open the received state");
        return;
    }
    kv_get_state(s->kv, &state);
    log_info("activated the received state: index %" PRIu64 ", revision %" PRId64,
             state.applied_index, state.revision);
    answer(s, PROTO_SNAP_DONE, id, OUT_OK);
    stored_after_apply(s);
    loop_hook_arm(s->work_hook);
}

/* ---- both ---- */

int stored_snapshot_frame(struct stored *s, uint16_t type, uint64_t id, struct bytes body)
{
    struct proto_u64 bytes;
    int r = 0;

    if (s->failed)
        return 0;
    switch (type) {
    case PROTO_SNAP_SEND:
        out_begin(s, id);
        break;
    case PROTO_SNAP_ACK:
        r = proto_u64_decode(body, &bytes);
        if (r == 0 && s->snap_out != NULL && s->snap_out->id == id &&
            bytes.value <= s->snap_out->sent_bytes && bytes.value >= s->snap_out->acked_bytes) {
            s->snap_out->acked_bytes = bytes.value;
            loop_hook_arm(s->work_hook);
        }
        break;
    case PROTO_SNAP_RECEIVE:
        r = in_begin(s, id, body);
        break;
    case PROTO_SNAP_CHUNK:
        r = in_chunk(s, id, body);
        break;
    case PROTO_SNAP_ACTIVATE:
        in_activate(s, id);
        break;
    case PROTO_SNAP_CANCEL:
        if (s->snap_out != NULL && s->snap_out->id == id)
            out_end(s);
        if (s->snap_in != NULL && s->snap_in->id == id)
            in_end(s);
        break;
    default:
        r = -EPROTO;
    }
    return r;
}

void stored_snapshot_work(struct stored *s)
{
    if (s->failed)
        return;
    in_stage(s);
    out_work(s);
}

void stored_snapshot_end_out(struct stored *s)
{
    out_end(s);
}

void stored_snapshot_down(struct stored *s)
{
    out_end(s);
    in_end(s);
}
