/* HashKV: etcd's own hash over stored versions, so that members of either kind can be compared. */
#include "stored/kv/kv_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "lib/proto/outcome.h"
#include "lib/util/crc32c.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"
#include "stored/kv/kv_engine.h"

struct kv_hash {
    struct kv *kv;
    struct kv_pin pin;
    struct kv_header header;
    int64_t revision, current, compact_revision;
    uint64_t needs_sequence;
    struct kv_engine_iter *it; /* NULL: the engine has not written enough yet */
    uint32_t crc;
    bool has_live_keys; /* at the hashed revision */
    bool done;
};

/* Some key is live at the revision. */
static bool has_live_keys(const struct kv *kv, int64_t revision)
{
    struct kv_index_iter it;
    struct kv_version v;

    if (revision == kv->revision)
        return kv->index.live_count > 0;
    kv_index_first(&kv->index, &it);
    for (; kv_index_iter_get(&it) != NULL; kv_index_iter_next(&it))
        if (kv_entry_at(kv_index_iter_get(&it), revision, &v))
            return true;
    return false;
}

int kv_hash_new(struct kv *kv, int64_t revision, const struct kv_header *header,
                struct kv_hash **ret_hash)
{
    struct kv_hash *h;

    assert(!kv->in_turn);
    if (revision > 0 && revision < kv->compact_revision)
        return OUT_COMPACTED;
    if (revision > kv->revision)
        return OUT_FUTURE_REVISION;
    h = xcalloc(1, sizeof(*h));
    h->kv = kv;
    h->header = *header;
    h->revision = revision > 0 ? revision : kv->revision;
    h->current = kv->revision;
    h->compact_revision = kv->compact_revision;
    h->needs_sequence = kv->sequence - 1;
    h->crc = crc32c(0, "key", 3); /* the name of etcd's bucket */
    h->has_live_keys = has_live_keys(kv, h->revision);
    h->pin.revision = kv->compact_revision;
    list_push_back(&kv->pins, &h->pin.node);
    *ret_hash = h;
    return OUT_OK;
}

void kv_hash_free(struct kv_hash *h)
{
    if (h == NULL)
        return;
    list_remove(&h->pin.node);
    kv_compact_wake(h->kv);
    h->kv->engine->ops->iter_free(h->it);
    free(h);
}

static void add_version(struct kv_hash *h, int64_t main, uint32_t sub, struct bytes value)
{
    bool is_delete = value.len > 0 && value.data[0] == 0;
    uint8_t key[18] = {[8] = '_'};

    wire_store_be64(key, (uint64_t)main);
    wire_store_be64(key + 9, sub);
    key[17] = 't';
    h->crc = crc32c(h->crc, key, is_delete ? 18 : 17);
    h->crc = crc32c(h->crc, value.data + is_delete, value.len - is_delete);
}

/*
 * etcd's HashByRev counts a version at or below the compact revision when a read at the hashed
 * revision sees it. Only when such a read sees no key at all it skips none: then everything that a
 * compacted store still has counts.
 */
static bool is_kept(const struct kv_hash *h, int64_t main, uint32_t sub, struct bytes value)
{
    struct kv_record record;
    const struct kv_entry *e;

    if (main > h->compact_revision)
        return true;
    if (kv_record_decode(value, &record) != 0)
        return false;
    e = kv_index_find(&h->kv->index, record.key);
    return e != NULL &&
           kv_entry_keeps(e, main, sub, h->has_live_keys ? h->revision : h->compact_revision);
}

int kv_hash_step(struct kv_hash *h, size_t max_records, struct buf *message)
{
    const struct kv_engine_ops *ops = h->kv->engine->ops;
    uint8_t first[KV_RECORD_KEY_BYTES];
    int r;

    if (h->done)
        return 0;
    if (h->it == NULL) {
        if (ops->written(h->kv->engine) < h->needs_sequence)
            return 1;
        h->it = ops->iter_new(h->kv->engine, false);
        kv_record_key(first, 1, 0);
        ops->iter_seek(h->it, bytes_of(first, sizeof(first)));
    }
    for (; ops->iter_valid(h->it); ops->iter_next(h->it)) {
        struct bytes key = ops->iter_key(h->it);
        int64_t main;
        uint32_t sub;

        if (!kv_record_key_parse(key, &main, &sub))
            continue;
        if (main > h->revision)
            break;
        if (max_records-- == 0)
            return 1;
        if (is_kept(h, main, sub, ops->iter_value(h->it)))
            add_version(h, main, sub, ops->iter_value(h->it));
    }
    r = ops->iter_result(h->it);
    if (r < 0)
        return r;
    kv_put_header(message, &h->header, h->current);
    pb_put_u64(message, 2, h->crc);
    pb_put_i64(message, 3, h->compact_revision);
    pb_put_i64(message, 4, h->revision);
    h->done = true;
    return 0;
}
