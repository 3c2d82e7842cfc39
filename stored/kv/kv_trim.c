/*
 * Trimming: batch records below a checkpoint that is in place go.
 *
 * Which ones there are is known from memory, two or three bytes each, because they lie between the
 * versions: looking for them in the engine would read all of those. What an earlier process left
 * is looked for once, after a start. Records that carry tables stay: they are few, and a start
 * without a checkpoint needs them.
 *
 * The mark "trimmed" travels with the deletes: the index of the checkpoint (records below it that
 * survive are no part of the chain), and a revision below which everything was trimmed. So do the
 * leases as of it, whose changes were in those records. Both are in every batch of deletes: a crash
 * of the host may lose one and keep a later one.
 */
#include "stored/kv/kv_internal.h"

#include <assert.h>

#include "lib/util/macros.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"
#include "stored/kv/kv_engine.h"

enum { LOOK_PER_RECORD = 4 }; /* keys looked at in the engine cost as much as one delete */

void kv_trim_note(struct kv *kv, uint64_t index, int64_t revision)
{
    struct kv_trim *t = &kv->trim;

    assert(index > t->listed_index && revision >= t->listed_revision);
    pb_put_varint(&t->list, index - t->listed_index);
    pb_put_varint(&t->list, (uint64_t)(revision - t->listed_revision));
    t->listed_index = index;
    t->listed_revision = revision;
}

void kv_trim_look_from(struct kv *kv, int64_t revision)
{
    uint8_t key[KV_RECORD_KEY_BYTES];

    kv_record_key(key, MAX(revision, 1), 0);
    buf_clear(&kv->trim.cursor);
    buf_append(&kv->trim.cursor, key, sizeof(key));
    kv->trim.cursor_end = kv->applied_index;
}

static void delete_batch(struct buf *batch, int64_t revision, uint64_t index)
{
    uint8_t key[KV_BATCH_KEY_BYTES];

    kv_batch_key(key, revision, index);
    kv_batch_delete(batch, bytes_of(key, sizeof(key)));
}

/* ---- from the list ---- */

static uint64_t list_get(const struct buf *list, size_t *pos)
{
    uint64_t v = 0;

    for (unsigned int shift = 0;; shift += 7) {
        uint8_t c = list->data[(*pos)++];

        v |= (uint64_t)(c & 0x7f) << shift;
        if (c < 0x80)
            return v;
    }
}

/* 1: more. */
static int take_listed(struct kv_trim *t, uint64_t below, size_t max, struct buf *batch)
{
    while (t->list_pos < t->list.len) {
        size_t pos = t->list_pos;
        uint64_t index = t->taken_index + list_get(&t->list, &pos);
        int64_t revision = t->taken_revision + (int64_t)list_get(&t->list, &pos);

        if (index >= below)
            break;
        if (max-- == 0)
            return 1;
        delete_batch(batch, revision, index);
        t->taken_index = index;
        t->taken_revision = revision;
        t->list_pos = pos;
    }
    buf_consume(&t->list, t->list_pos);
    t->list_pos = 0;
    return 0;
}

/* ---- from the engine ---- */

/* 1: more. Deletes what is below; *ret_revision: how far it came. */
static int look(struct kv *kv, uint64_t below, size_t max, struct buf *batch, int64_t *ret_revision)
{
    const struct kv_engine_ops *ops = kv->engine->ops;
    struct kv_trim *t = &kv->trim;
    struct kv_engine_iter *it = ops->iter_new(kv->engine, false);
    bool more = false, done = false;
    int r;

    max *= LOOK_PER_RECORD;
    for (ops->iter_seek(it, buf_bytes(&t->cursor)); ops->iter_valid(it); ops->iter_next(it)) {
        struct bytes key = ops->iter_key(it);
        struct kv_batch_record record;
        uint64_t index = 0;
        bool is_batch;

        *ret_revision = (int64_t)wire_load_be64(key.data + 1);
        is_batch = kv_batch_key_parse(key, ret_revision, &index);
        done = is_batch && index > t->cursor_end;
        more = max-- == 0;
        if (done || more || (is_batch && index >= below))
            break;
        if (is_batch && kv_batch_record_decode(ops->iter_value(it), &record) == 0 &&
            !kv_batch_record_has_tables(&record))
            kv_batch_delete(batch, key);
    }
    done = done || !ops->iter_valid(it);
    buf_clear(&t->cursor);
    if (!done)
        buf_append_bytes(&t->cursor, ops->iter_key(it));
    r = ops->iter_result(it);
    ops->iter_free(it);
    return r < 0 ? r : more;
}

int kv_trim_batches(struct kv *kv, uint64_t index, size_t max_records)
{
    CLEANUP(buf_fini) struct buf batch = BUF_INIT;
    CLEANUP(buf_fini) struct buf mark = BUF_INIT;
    int64_t revision = 0;
    int r = 0;

    assert(!kv->in_turn);
    assert(index <= kv->durable_index);
    if (index != kv->checkpoint_index)
        return 0; /* a newer one is begun, and trims for both: the leases kept are of that one */
    kv->placed_revision = kv->checkpoint_revision;
    if (kv->trim.cursor.len > 0)
        r = look(kv, index, max_records, &batch, &revision);
    if (r == 0 && kv->trim.cursor.len == 0) {
        r = take_listed(&kv->trim, index, max_records, &batch);
        revision = MAX(revision, kv->trim.taken_revision);
    }
    if (r >= 0 && batch.len > 0) {
        wire_put_u64(&mark, index);
        wire_put_i64(&mark, revision);
        kv_batch_put(&batch, KV_META_TRIMMED, buf_bytes(&mark));
        if (kv->checkpoint_leases.len > 0)
            kv_batch_put(&batch, KV_META_LEASES, buf_bytes(&kv->checkpoint_leases));
        kv_hand_over(kv, &batch);
    }
    if (r == 0)
        buf_clear(&kv->checkpoint_leases);
    return r;
}
