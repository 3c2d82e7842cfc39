/*
 * Removing history. The compact revision moves when the entry is applied; this file lets memory
 * and disk follow. See enum kv_compact_phase for the phases:
 *
 *     IDLE -> WALK -> (SWEEP, once after a restart) -> WAIT_DURABLE -> IDLE, marker "compacted"
 *              ^-------- a further compaction does not wait -----'
 *
 * It goes no further than the oldest pin, and begins when the state it compacts is durable. The
 * marker is written only when the deletes are durable, so after any crash either the marker says
 * done and it is done, or it is done again.
 *
 * The record of a deletion goes later than the versions it deleted: only when those are durably
 * gone, and when the checkpoint that a start would use is of that revision or newer. Otherwise a
 * start could find the key (in the log, or in the checkpoint) and not its deletion, and it would
 * live again. Until then the record is out of the index and on the list `deletions`.
 */
#include "stored/kv/kv_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"
#include "stored/kv/kv_engine.h"

int64_t kv_compact_limit(const struct kv *kv)
{
    int64_t limit = kv->compact_revision;

    LIST_FOREACH (node, &kv->pins)
        limit = MIN(limit, LIST_ENTRY(node, struct kv_pin, node)->revision);
    return limit;
}

void kv_compact_wake(struct kv *kv)
{
    struct kv_compact *c = &kv->compact;
    int64_t limit = kv_compact_limit(kv);

    if ((c->phase != KV_COMPACT_IDLE && c->phase != KV_COMPACT_WAIT_DURABLE) || limit <= c->removed)
        return;
    c->phase = KV_COMPACT_WALK;
    c->target = limit;
    /* A crash of the host may lose the batches that made a version obsolete and yet keep the later
     * one that deletes it: then the state that is left would miss it. */
    c->wait_index = kv->applied_index + (kv->in_turn ? 1 : 0);
    buf_clear(&c->cursor);
}

bool kv_compact_pending(const struct kv *kv)
{
    const struct kv_compact *c = &kv->compact;

    switch (c->phase) {
    case KV_COMPACT_IDLE:
        return c->deletion_count > 0 && c->oldest_deletion <= kv->placed_revision &&
               kv->durable_sequence >= c->last_sequence;
    case KV_COMPACT_WAIT_DURABLE:
        return kv->durable_sequence >= c->last_sequence;
    case KV_COMPACT_WALK:
        return kv->durable_index >= c->wait_index;
    case KV_COMPACT_SWEEP:
        break;
    }
    return true;
}

bool kv_compact_unfinished(const struct kv *kv)
{
    return kv->compact.phase == KV_COMPACT_WALK || kv->compact.phase == KV_COMPACT_SWEEP;
}

/* Physically gone here means: the deletes were handed over. */
int64_t kv_compact_finished_revision(const struct kv *kv)
{
    return kv->compact.removed;
}

static void keep_deletion(struct kv_compact *c, int64_t main, uint32_t sub)
{
    if (c->deletion_count == c->deletion_cap) {
        c->deletion_cap = c->deletion_cap * 2 + 64;
        c->deletions = xreallocarray(c->deletions, c->deletion_cap, sizeof(c->deletions[0]));
    }
    if (c->deletion_count == 0 || main < c->oldest_deletion)
        c->oldest_deletion = main;
    c->deletions[c->deletion_count++] = (struct kv_revision){main, sub};
}

static void drop_record(void *user, int64_t main, uint32_t sub, bool is_delete)
{
    struct kv_compact *c = user;
    uint8_t key[KV_RECORD_KEY_BYTES];

    if (is_delete) {
        keep_deletion(c, main, sub);
        return;
    }
    kv_record_key(key, main, sub);
    kv_batch_delete(&c->batch, bytes_of(key, sizeof(key)));
}

/* Some of the records of deletions that nothing needs any more. */
static void release_deletions(struct kv *kv, size_t max)
{
    struct kv_compact *c = &kv->compact;
    CLEANUP(buf_fini) struct buf batch = BUF_INIT;
    int64_t oldest = INT64_MAX;
    size_t kept = 0;

    for (size_t i = 0; i < c->deletion_count; i++) {
        const struct kv_revision *d = &c->deletions[i];
        uint8_t key[KV_RECORD_KEY_BYTES];

        if (d->main > kv->placed_revision || max == 0) {
            oldest = MIN(oldest, d->main);
            c->deletions[kept++] = *d;
            continue;
        }
        max--;
        kv_record_key(key, d->main, d->sub);
        kv_batch_delete(&batch, bytes_of(key, sizeof(key)));
    }
    c->deletion_count = kept;
    c->oldest_deletion = oldest;
    if (batch.len > 0)
        kv_hand_over(kv, &batch);
    if (kept == 0) {
        free(c->deletions);
        c->deletions = NULL;
        c->deletion_cap = 0;
    }
}

static void hand_over_deletes(struct kv *kv)
{
    if (kv->compact.batch.len > 0)
        kv->compact.last_sequence = kv_hand_over(kv, &kv->compact.batch);
}

static void finish_walks(struct kv *kv)
{
    buf_fini(&kv->compact.cursor);
    kv->compact.cursor = BUF_INIT;
    kv->compact.phase = KV_COMPACT_WAIT_DURABLE;
    kv->compact.removed = kv->compact.target;
}

static void walk(struct kv *kv, size_t max_keys)
{
    struct kv_compact *c = &kv->compact;
    CLEANUP(freep) struct kv_entry **gone = xreallocarray(NULL, max_keys + 1, sizeof(*gone));
    size_t gone_count = 0, looked = 0;
    struct kv_index_iter it;
    struct kv_entry *e;

    if (c->cursor.len > 0)
        kv_index_seek(&kv->index, buf_bytes(&c->cursor), &it);
    else
        kv_index_first(&kv->index, &it);
    for (; (e = kv_index_iter_get(&it)) != NULL && looked < max_keys; kv_index_iter_next(&it)) {
        /* a key with a long history counts for what it drops */
        looked += 1 + (e->history != NULL ? e->history->count / 16 : 0);
        if (kv_index_compact_entry(&kv->index, e, c->target, drop_record, c))
            gone[gone_count++] = e;
    }
    if (e != NULL) {
        buf_clear(&c->cursor);
        buf_append_bytes(&c->cursor, kv_entry_key(e));
    } else if (c->needs_sweep) {
        buf_clear(&c->cursor);
        c->phase = KV_COMPACT_SWEEP;
    } else {
        finish_walks(kv);
    }
    for (size_t i = 0; i < gone_count; i++)
        kv_index_remove(&kv->index, gone[i]);
    hand_over_deletes(kv);
    if (kv->compact.phase == KV_COMPACT_WAIT_DURABLE)
        kv_compact_wake(kv); /* a later one may have been asked for meanwhile */
}

static int sweep(struct kv *kv, size_t max_records)
{
    const struct kv_engine_ops *ops = kv->engine->ops;
    struct kv_compact *c = &kv->compact;
    struct kv_engine_iter *it = ops->iter_new(kv->engine, false);
    uint8_t first[KV_RECORD_KEY_BYTES];
    bool at_end = true;
    size_t looked = 0;
    int r;

    kv_record_key(first, 1, 0);
    ops->iter_seek(it, c->cursor.len > 0 ? buf_bytes(&c->cursor) : bytes_of(first, sizeof(first)));
    for (; ops->iter_valid(it); ops->iter_next(it)) {
        struct bytes key = ops->iter_key(it);
        const struct kv_entry *e = NULL;
        struct kv_record record;
        int64_t main;
        uint32_t sub;

        if (!kv_record_key_parse(key, &main, &sub))
            continue;
        if (main > c->target || main > c->sweep_max)
            break;
        if (looked++ == max_records) {
            buf_clear(&c->cursor);
            buf_append_bytes(&c->cursor, key);
            at_end = false;
            break;
        }
        if (kv_record_decode(ops->iter_value(it), &record) == 0)
            e = kv_index_find(&kv->index, record.key);
        if (e == NULL || !kv_entry_has(e, main, sub))
            drop_record(c, main, sub, record.is_delete);
    }
    r = ops->iter_result(it);
    ops->iter_free(it);
    if (r < 0)
        return r;
    if (at_end) {
        c->needs_sweep = false;
        finish_walks(kv);
    }
    hand_over_deletes(kv);
    if (c->phase == KV_COMPACT_WAIT_DURABLE)
        kv_compact_wake(kv);
    return 0;
}

static void write_marker(struct kv *kv)
{
    struct kv_compact *c = &kv->compact;
    CLEANUP(buf_fini) struct buf batch = BUF_INIT;
    CLEANUP(buf_fini) struct buf value = BUF_INIT;

    wire_put_u64(&value, (uint64_t)c->target);
    kv_batch_put(&batch, KV_META_COMPACTED, buf_bytes(&value));
    kv_hand_over(kv, &batch);
    c->done = c->target;
    c->phase = KV_COMPACT_IDLE;
    kv_compact_wake(kv);
}

int kv_compact_step(struct kv *kv, size_t max_keys)
{
    assert(!kv->in_turn);
    if (!kv_compact_pending(kv))
        return 0;
    switch (kv->compact.phase) {
    case KV_COMPACT_WALK:
        walk(kv, max_keys);
        break;
    case KV_COMPACT_SWEEP:
        return sweep(kv, max_keys);
    case KV_COMPACT_WAIT_DURABLE:
        write_marker(kv);
        break;
    case KV_COMPACT_IDLE:
        release_deletions(kv, MAX(max_keys, 1000u));
        break;
    }
    return 0;
}
