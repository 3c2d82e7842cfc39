/*
 * 256 sorted arrays, one per first byte of the key, of counted records. The arrays are counted as
 * well and copied when somebody else holds them: an iterator or the synced state is a reference.
 */
#include "stored/engine/engine_mem.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "stored/kv/kv_engine.h"

struct record {
    unsigned int refs;
    uint32_t key_len, value_len;
    uint8_t data[];
};

struct table {
    unsigned int refs;
    size_t count, cap;
    struct record **records;
};

struct tables {
    struct table *by_byte[256]; /* NULL: empty */
};

struct batch {
    uint64_t sequence;
    struct buf ops;
};

struct batches {
    struct batch *list;
    size_t count, cap;
};

struct engine_mem {
    struct kv_engine kv;
    bool manual;
    struct tables now, synced;
    struct batches queued;   /* not written */
    struct batches unsynced; /* written since the last sync */
    uint64_t handed, written;
};

struct kv_engine_iter {
    struct tables tables;
    int byte;   /* 256: at the end */
    size_t pos;
};

/* ---- tables ---- */

static struct bytes record_key(const struct record *r)
{
    return bytes_of(r->data, r->key_len);
}

static struct bytes record_value(const struct record *r)
{
    return bytes_of(r->data + r->key_len, r->value_len);
}

static void record_unref(struct record *r)
{
    if (--r->refs == 0)
        free(r);
}

static void table_unref(struct table *t)
{
    if (t == NULL || --t->refs > 0)
        return;
    for (size_t i = 0; i < t->count; i++)
        record_unref(t->records[i]);
    free(t->records);
    free(t);
}

static void tables_copy(struct tables *to, const struct tables *from)
{
    for (size_t i = 0; i < 256; i++) {
        to->by_byte[i] = from->by_byte[i];
        if (to->by_byte[i] != NULL)
            to->by_byte[i]->refs++;
    }
}

static void tables_fini(struct tables *t)
{
    for (size_t i = 0; i < 256; i++) {
        table_unref(t->by_byte[i]);
        t->by_byte[i] = NULL;
    }
}

static struct table *own_table(struct tables *tables, uint8_t byte)
{
    struct table *old = tables->by_byte[byte], *t;

    if (old != NULL && old->refs == 1)
        return old;
    t = xcalloc(1, sizeof(*t));
    t->refs = 1;
    if (old != NULL) {
        t->count = t->cap = old->count;
        t->records = xreallocarray(NULL, t->cap + 1, sizeof(t->records[0]));
        for (size_t i = 0; i < t->count; i++) {
            t->records[i] = old->records[i];
            t->records[i]->refs++;
        }
        old->refs--;
    }
    tables->by_byte[byte] = t;
    return t;
}

static size_t lower_bound(const struct table *t, struct bytes key)
{
    size_t from = 0, to = t == NULL ? 0 : t->count;

    if (to > 0 && bytes_cmp(record_key(t->records[to - 1]), key) < 0)
        return to; /* most keys arrive in order */
    while (from < to) {
        size_t mid = from + (to - from) / 2;

        if (bytes_cmp(record_key(t->records[mid]), key) < 0)
            from = mid + 1;
        else
            to = mid;
    }
    return from;
}

static void put_record(struct tables *tables, struct bytes key, struct bytes value)
{
    struct table *t = own_table(tables, key.data[0]);
    size_t i = lower_bound(t, key);
    struct record *r = xmalloc(sizeof(*r) + key.len + value.len);

    *r = (struct record){1, (uint32_t)key.len, (uint32_t)value.len};
    memcpy(r->data, key.data, key.len);
    if (value.len > 0)
        memcpy(r->data + key.len, value.data, value.len);
    if (i < t->count && bytes_eq(record_key(t->records[i]), key)) {
        record_unref(t->records[i]);
        t->records[i] = r;
        return;
    }
    if (t->count == t->cap) {
        t->cap = t->cap * 2 + 16;
        t->records = xreallocarray(t->records, t->cap, sizeof(t->records[0]));
    }
    memmove(&t->records[i + 1], &t->records[i], (t->count - i) * sizeof(t->records[0]));
    t->records[i] = r;
    t->count++;
}

static void delete_record(struct tables *tables, struct bytes key)
{
    struct table *t = own_table(tables, key.data[0]);
    size_t i = lower_bound(t, key);

    if (i == t->count || !bytes_eq(record_key(t->records[i]), key))
        return;
    record_unref(t->records[i]);
    t->count--;
    memmove(&t->records[i], &t->records[i + 1], (t->count - i) * sizeof(t->records[0]));
}

static void execute(struct tables *tables, struct bytes ops)
{
    struct wire_reader r = wire_reader(ops);

    while (r.pos < r.end) {
        bool is_delete = wire_get_u8(&r) != 0;
        struct bytes key = wire_get_bytes(&r);

        assert(!r.bad && key.len > 0);
        if (is_delete)
            delete_record(tables, key);
        else
            put_record(tables, key, wire_get_bytes(&r));
        assert(!r.bad);
    }
}

/* ---- batches ---- */

static void batches_push(struct batches *b, struct batch batch)
{
    if (b->count == b->cap) {
        b->cap = b->cap * 2 + 8;
        b->list = xreallocarray(b->list, b->cap, sizeof(b->list[0]));
    }
    b->list[b->count++] = batch;
}

static void batches_clear(struct batches *b)
{
    for (size_t i = 0; i < b->count; i++)
        buf_fini(&b->list[i].ops);
    free(b->list);
    *b = (struct batches){0};
}

static void write_batch(struct engine_mem *e, struct batch *b)
{
    execute(&e->now, buf_bytes(&b->ops));
    e->written = b->sequence;
    if (e->manual)
        batches_push(&e->unsynced, *b);
    else
        buf_fini(&b->ops); /* nobody syncs or crashes it */
}

uint64_t engine_mem_write(struct engine_mem *e, size_t count)
{
    count = MIN(count, e->queued.count);
    for (size_t i = 0; i < count; i++)
        write_batch(e, &e->queued.list[i]);
    e->queued.count -= count;
    if (count > 0)
        memmove(e->queued.list, e->queued.list + count,
                e->queued.count * sizeof(e->queued.list[0]));
    return e->written;
}

uint64_t engine_mem_sync(struct engine_mem *e)
{
    tables_fini(&e->synced);
    tables_copy(&e->synced, &e->now);
    batches_clear(&e->unsynced);
    return e->written;
}

size_t engine_mem_queued(const struct engine_mem *e)
{
    return e->queued.count;
}

size_t engine_mem_unsynced(const struct engine_mem *e)
{
    return e->unsynced.count;
}

void engine_mem_kill(struct engine_mem *e)
{
    batches_clear(&e->queued);
    e->handed = e->written = 0;
}

void engine_mem_crash(struct engine_mem *e, const bool *survives)
{
    assert(e->manual);
    tables_fini(&e->now);
    tables_copy(&e->now, &e->synced);
    for (size_t i = 0; i < e->unsynced.count; i++)
        if (survives[i])
            execute(&e->now, buf_bytes(&e->unsynced.list[i].ops));
    engine_mem_kill(e);
    engine_mem_sync(e); /* what is there after a restart is on disk */
}

size_t engine_mem_record_count(const struct engine_mem *e, size_t key_len)
{
    size_t count = 0;

    for (size_t byte = 0; byte < 256; byte++) {
        const struct table *t = e->now.by_byte[byte];

        for (size_t i = 0; t != NULL && i < t->count; i++)
            count += t->records[i]->key_len == key_len;
    }
    return count;
}

uint64_t engine_mem_bytes(const struct engine_mem *e)
{
    uint64_t bytes = 0;

    for (size_t byte = 0; byte < 256; byte++) {
        const struct table *t = e->now.by_byte[byte];

        for (size_t i = 0; t != NULL && i < t->count; i++)
            bytes += t->records[i]->key_len + t->records[i]->value_len;
    }
    return bytes;
}

/* ---- the engine's operations ---- */

static void mem_write(struct kv_engine *kv, uint64_t sequence, struct buf *ops)
{
    struct engine_mem *e = CONTAINER_OF(kv, struct engine_mem, kv);
    struct batch b = {.sequence = sequence, .ops = *ops};

    assert(sequence > e->handed);
    assert(ops->len > 0);
    *ops = BUF_INIT;
    e->handed = sequence;
    if (e->manual)
        batches_push(&e->queued, b);
    else
        write_batch(e, &b);
}

static uint64_t mem_written(const struct kv_engine *kv)
{
    return CONTAINER_OF(kv, struct engine_mem, kv)->written;
}

static int mem_get(struct kv_engine *kv, struct bytes key, struct buf *ret)
{
    const struct engine_mem *e = CONTAINER_OF(kv, struct engine_mem, kv);
    const struct table *t = e->now.by_byte[key.data[0]];
    size_t i = lower_bound(t, key);

    if (t == NULL || i == t->count || !bytes_eq(record_key(t->records[i]), key))
        return -ENOENT;
    buf_append_bytes(ret, record_value(t->records[i]));
    return 0;
}

static struct kv_engine_iter *mem_iter_new(struct kv_engine *kv, bool fill_cache)
{
    struct kv_engine_iter *it = xcalloc(1, sizeof(*it));

    tables_copy(&it->tables, &CONTAINER_OF(kv, struct engine_mem, kv)->now);
    it->byte = 256;
    return it;
}

static void mem_iter_free(struct kv_engine_iter *it)
{
    if (it != NULL)
        tables_fini(&it->tables);
    free(it);
}

static void skip_empty(struct kv_engine_iter *it)
{
    while (it->byte < 256 &&
           (it->tables.by_byte[it->byte] == NULL || it->pos >= it->tables.by_byte[it->byte]->count)) {
        it->byte++;
        it->pos = 0;
    }
}

static void mem_iter_seek(struct kv_engine_iter *it, struct bytes key)
{
    it->byte = key.data[0];
    it->pos = lower_bound(it->tables.by_byte[it->byte], key);
    skip_empty(it);
}

static void step_back(struct kv_engine_iter *it)
{
    while (it->byte >= 0 && it->pos == 0) {
        it->byte--;
        if (it->byte >= 0 && it->tables.by_byte[it->byte] != NULL)
            it->pos = it->tables.by_byte[it->byte]->count;
    }
    if (it->byte < 0)
        it->byte = 256;
    else
        it->pos--;
}

static void mem_iter_seek_last(struct kv_engine_iter *it)
{
    it->byte = 256;
    it->pos = 0;
    step_back(it);
}

static bool mem_iter_valid(const struct kv_engine_iter *it)
{
    return it->byte < 256;
}

static void mem_iter_next(struct kv_engine_iter *it)
{
    it->pos++;
    skip_empty(it);
}

static struct bytes mem_iter_key(const struct kv_engine_iter *it)
{
    return record_key(it->tables.by_byte[it->byte]->records[it->pos]);
}

static struct bytes mem_iter_value(const struct kv_engine_iter *it)
{
    return record_value(it->tables.by_byte[it->byte]->records[it->pos]);
}

static int mem_iter_result(const struct kv_engine_iter *it)
{
    return 0;
}

static const struct kv_engine_ops mem_ops = {
    .write = mem_write,
    .written = mem_written,
    .get = mem_get,
    .iter_new = mem_iter_new,
    .iter_free = mem_iter_free,
    .iter_seek = mem_iter_seek,
    .iter_seek_last = mem_iter_seek_last,
    .iter_valid = mem_iter_valid,
    .iter_next = mem_iter_next,
    .iter_prev = step_back,
    .iter_key = mem_iter_key,
    .iter_value = mem_iter_value,
    .iter_result = mem_iter_result,
};

struct engine_mem *engine_mem_new(bool manual)
{
    struct engine_mem *e = xcalloc(1, sizeof(*e));

    e->kv.ops = &mem_ops;
    e->manual = manual;
    return e;
}

void engine_mem_free(struct engine_mem *e)
{
    if (e == NULL)
        return;
    tables_fini(&e->now);
    tables_fini(&e->synced);
    batches_clear(&e->queued);
    batches_clear(&e->unsynced);
    free(e);
}

struct kv_engine *engine_mem_kv(struct engine_mem *e)
{
    return &e->kv;
}
