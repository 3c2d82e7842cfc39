/*
 * The whole state as a stream, and back.
 *
 * Frames of {u32 length, payload}: first the head (revision, tables: what a base batch record
 * says), then versions in revision order as {bytes key, bytes value}, at the end a frame of length
 * 0 and the SHA-256 of everything before it. Versions that compaction has not removed yet are sent
 * as well: the receiver compacts for itself.
 *
 * The receiver writes the base record last and only when the hash is right. Without it an opened
 * store is empty, so half a transfer can never pass for a state.
 */
#include "stored/kv/kv_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "lib/util/macros.h"
#include "lib/util/sha256.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"
#include "stored/kv/kv_engine.h"

enum {
    SNAPSHOT_MAGIC = 0x53535643, /* "CVSS" */
    SNAPSHOT_VERSION = 2, /* 1: keys of another KV_FORMAT */
    FRAME_BYTES = 64 << 10,
    FRAME_BYTES_MAX = 64 << 20, /* one version and the tables are far below */
};

/* ---- sending ---- */

struct kv_snapshot {
    struct kv *kv;
    struct kv_pin pin; /* until the iterator exists */
    struct kv_snapshot_meta meta;
    uint64_t needs_sequence;

    /* used by kv_snapshot_step, on whatever thread */
    const struct kv_engine_ops *ops;
    struct kv_engine_iter *it;
    struct sha256 *sha;
    struct buf frame;
    bool head_done, done;
};

struct kv_snapshot *kv_snapshot_new(struct kv *kv, struct kv_snapshot_meta *ret_meta)
{
    struct kv_snapshot *s = xcalloc(1, sizeof(*s));
    CLEANUP(buf_fini) struct buf members = BUF_INIT;
    CLEANUP(buf_fini) struct buf alarms = BUF_INIT;
    CLEANUP(buf_fini) struct buf leases = BUF_INIT;
    CLEANUP(buf_fini) struct buf auth = BUF_INIT;

    assert(!kv->in_turn);
    s->kv = kv;
    s->meta = (struct kv_snapshot_meta){
        .index = kv->applied_index,
        .term = kv->applied_term,
        .chain_hash = kv->chain_hash,
        .revision = kv->revision,
        .compact_revision = kv->compact_revision,
    };
    s->pin.revision = kv->compact_revision; /* nothing more may go */
    list_push_back(&kv->pins, &s->pin.node);
    s->needs_sequence = kv->sequence - 1;
    s->ops = kv->engine->ops;
    s->sha = sha256_new();

    store_members_encode(&kv->members, &members);
    store_alarms_encode(&kv->alarms, &alarms);
    lease_table_encode(&kv->leases, &leases);
    auth_store_encode(&kv->auth, &auth);
    wire_put_u32(&s->frame, SNAPSHOT_MAGIC);
    wire_put_u32(&s->frame, SNAPSHOT_VERSION);
    wire_put_u64(&s->frame, kv->applied_index);
    kv_batch_record_encode(&s->frame, &(struct kv_batch_record){
                                          .is_base = true,
                                          .hash = kv->chain_hash,
                                          .term = kv->applied_term,
                                          .revision = kv->revision,
                                          .compact_revision = kv->compact_revision,
                                          .has_members = true,
                                          .members = buf_bytes(&members),
                                          .has_alarms = true,
                                          .alarms = buf_bytes(&alarms),
                                          .has_version = true,
                                          .version = buf_bytes(&kv->cluster_version),
                                          .has_leases = true,
                                          .leases = buf_bytes(&leases),
                                          .has_auth = true,
                                          .auth = buf_bytes(&auth),
                                      });
    *ret_meta = s->meta;
    return s;
}

void kv_snapshot_free(struct kv_snapshot *s)
{
    if (s == NULL)
        return;
    list_remove(&s->pin.node);
    kv_compact_wake(s->kv);
    s->ops->iter_free(s->it);
    sha256_free(s->sha);
    buf_fini(&s->frame);
    free(s);
}

bool kv_snapshot_ready(struct kv_snapshot *s)
{
    uint8_t first[KV_RECORD_KEY_BYTES];

    if (s->it != NULL)
        return true;
    if (s->ops->written(s->kv->engine) < s->needs_sequence)
        return false;
    s->it = s->ops->iter_new(s->kv->engine, false);
    kv_record_key(first, 1, 0);
    s->ops->iter_seek(s->it, bytes_of(first, sizeof(first)));
    list_remove(&s->pin.node); /* the iterator keeps what it sees */
    kv_compact_wake(s->kv);
    return true;
}

static void put_frame(struct kv_snapshot *s, struct buf *out)
{
    uint32_t len = (uint32_t)s->frame.len;

    sha256_add(s->sha, bytes_of(&len, sizeof(len)));
    sha256_add(s->sha, buf_bytes(&s->frame));
    wire_put_u32(out, len);
    buf_append_bytes(out, buf_bytes(&s->frame));
    buf_clear(&s->frame);
}

/* Fills a frame. False: there are no more versions. */
static bool fill_frame(struct kv_snapshot *s)
{
    for (; s->frame.len < FRAME_BYTES; s->ops->iter_next(s->it)) {
        struct bytes key;
        int64_t main;
        uint32_t sub;

        if (!s->ops->iter_valid(s->it))
            return false;
        key = s->ops->iter_key(s->it);
        if (!kv_record_key_parse(key, &main, &sub))
            continue;
        if (main > s->meta.revision)
            return false;
        wire_put_bytes(&s->frame, key);
        wire_put_bytes(&s->frame, s->ops->iter_value(s->it));
    }
    return true;
}

int kv_snapshot_step(struct kv_snapshot *s, size_t max_bytes, struct buf *out)
{
    size_t at = out->len;
    uint8_t digest[SHA256_BYTES];
    bool more = true;
    int r;

    assert(s->it != NULL);
    if (s->done)
        return 0;
    if (!s->head_done) {
        put_frame(s, out);
        s->head_done = true;
    }
    while (more && out->len - at < max_bytes) {
        more = fill_frame(s);
        if (s->frame.len > 0)
            put_frame(s, out);
    }
    if (more)
        return 1;
    r = s->ops->iter_result(s->it);
    if (r < 0)
        return r;
    put_frame(s, out); /* the empty one */
    sha256_end(s->sha, digest);
    buf_append(out, digest, sizeof(digest));
    s->done = true;
    return 0;
}

/* ---- receiving ---- */

struct kv_restore {
    struct kv_engine *engine;
    struct sha256 *sha;
    struct buf input; /* an incomplete frame */
    struct buf batch;
    struct buf base; /* the base record's value */
    struct kv_snapshot_meta meta;
    uint64_t sequence;
    int64_t last_main;
    uint32_t last_sub;
    bool head_done, ended, complete;
    int result;
};

struct kv_restore *kv_restore_new(struct kv_engine *engine)
{
    struct kv_restore *r = xcalloc(1, sizeof(*r));

    r->engine = engine;
    r->sha = sha256_new();
    return r;
}

void kv_restore_free(struct kv_restore *r)
{
    if (r == NULL)
        return;
    sha256_free(r->sha);
    buf_fini(&r->input);
    buf_fini(&r->batch);
    buf_fini(&r->base);
    free(r);
}

uint64_t kv_restore_sequence(const struct kv_restore *r)
{
    return r->sequence;
}

static void hand_over(struct kv_restore *r)
{
    if (r->batch.len > 0)
        r->engine->ops->write(r->engine, ++r->sequence, &r->batch);
}

static int take_head(struct kv_restore *r, struct bytes payload)
{
    struct wire_reader in = wire_reader(payload);
    uint32_t magic = wire_get_u32(&in), version = wire_get_u32(&in);
    struct kv_batch_record base;
    struct bytes rest;

    r->meta.index = wire_get_u64(&in);
    rest = wire_rest(&in);
    if (magic != SNAPSHOT_MAGIC || version != SNAPSHOT_VERSION ||
        kv_batch_record_decode(rest, &base) != 0 || !base.is_base)
        return -EBADMSG;
    r->meta.term = base.term;
    r->meta.chain_hash = base.hash;
    r->meta.revision = base.revision;
    r->meta.compact_revision = base.compact_revision;
    buf_append_bytes(&r->base, rest);
    return 0;
}

static int take_versions(struct kv_restore *r, struct bytes payload)
{
    struct wire_reader in = wire_reader(payload);
    struct kv_record record;

    while (in.pos < in.end) {
        struct bytes key = wire_get_bytes(&in), value = wire_get_bytes(&in);
        int64_t main;
        uint32_t sub;

        if (in.bad || !kv_record_key_parse(key, &main, &sub) ||
            kv_record_decode(value, &record) != 0)
            return -EBADMSG;
        if (main < r->last_main || (main == r->last_main && sub <= r->last_sub) ||
            main > r->meta.revision)
            return -EBADMSG;
        r->last_main = main;
        r->last_sub = sub;
        kv_batch_put(&r->batch, key, value);
    }
    hand_over(r);
    return 0;
}

/* The frame at the front of the input. 1: it is not complete yet. */
static int take_frame(struct kv_restore *r, size_t *consumed)
{
    struct bytes rest = {r->input.data + *consumed, r->input.len - *consumed};
    uint8_t digest[SHA256_BYTES];
    uint32_t len;

    if (r->ended) {
        if (rest.len > SHA256_BYTES || r->complete)
            return rest.len > 0 ? -EBADMSG : 1;
        if (rest.len < SHA256_BYTES)
            return 1;
        sha256_end(r->sha, digest);
        if (memcmp(digest, rest.data, SHA256_BYTES) != 0)
            return -EBADMSG;
        r->complete = true;
        *consumed += SHA256_BYTES;
        return 0;
    }
    if (rest.len < sizeof(len))
        return 1;
    memcpy(&len, rest.data, sizeof(len));
    if (len > FRAME_BYTES_MAX)
        return -EBADMSG;
    if (rest.len < sizeof(len) + len)
        return 1;
    sha256_add(r->sha, bytes_of(rest.data, sizeof(len) + len));
    *consumed += sizeof(len) + len;
    if (!r->head_done) {
        r->head_done = true;
        return take_head(r, bytes_of(rest.data + sizeof(len), len));
    }
    if (len == 0) {
        r->ended = true;
        return 0;
    }
    return take_versions(r, bytes_of(rest.data + sizeof(len), len));
}

int kv_restore_feed(struct kv_restore *r, struct bytes data)
{
    size_t consumed = 0;
    int result = r->result;

    if (result != 0)
        return result;
    buf_append_bytes(&r->input, data);
    while (result == 0)
        result = take_frame(r, &consumed);
    buf_consume(&r->input, consumed);
    r->result = result < 0 ? result : 0;
    return r->result;
}

int kv_restore_finish(struct kv_restore *r, struct kv_snapshot_meta *ret_meta)
{
    uint8_t key[KV_BATCH_KEY_BYTES];

    if (r->result != 0 || !r->complete)
        return -EBADMSG;
    kv_batch_key(key, r->meta.revision, r->meta.index);
    kv_batch_put(&r->batch, bytes_of(key, sizeof(key)), buf_bytes(&r->base));
    hand_over(r);
    r->result = -EBADMSG; /* once */
    *ret_meta = r->meta;
    return 0;
}
