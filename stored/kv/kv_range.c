/*
 * Ranges. One struct kv_range walks through phases, each in bounded slices:
 *
 *     PREPARE  finds count, the items to answer and the size of the message. At the newest
 *              revision without options it is arithmetic on the index; otherwise a walk.
 *     VALUES   sort by value only: fetches every value to compare.
 *     SORT     bottom-up merge sort of the items, some comparisons per slice.
 *     MEASURE  sums the items up when their order decided which ones are answered.
 *     EMIT     writes the message: header, key-values, more, count.
 *
 * Without sort and filter nothing is collected: EMIT walks the index again from where the last
 * slice ended. With them the items are kept (32 bytes each); entries cannot go away meanwhile,
 * because the pin keeps compaction from every version the range sees.
 *
 * A slice of EMIT copies cached records and leaves holes for the others, which are then fetched
 * from the engine in revision order: the order they are stored in.
 */
#include "stored/kv/kv_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "stored/kv/kv_engine.h"

enum {
    WALK_SLICE = 4096,       /* keys looked at per slice: well under a millisecond */
    COLD_SLICE = 256,        /* records read from the engine per slice */
    AHEAD = 16,              /* records whose memory is fetched while those before are copied */
    NOW_WALK_MAX = 1024,     /* keys kv_range_now looks at */
    NOW_ITEMS_MAX = 128,     /* it collects for sorting and filtering */
};

enum phase { PREPARE, VALUES, SORT, MEASURE, EMIT, DONE };

struct item {
    const struct kv_entry *entry;
    struct kv_version v;
    struct bytes value; /* VALUES only; in the arena */
};

struct cold {
    int64_t main;
    uint32_t sub, size;
    size_t offset;
};

struct kv_range {
    struct kv *kv;
    struct kv_range_request m; /* key and range_end point to `keys` when it is on the heap */
    struct buf keys;
    struct kv_bounds bounds;
    const struct kv_header *header;
    struct kv_header header_copy;
    struct kv_pin pin;

    int64_t revision; /* what it sees */
    int64_t current;  /* what the header says */
    bool at_head;     /* nothing was applied since: the index's newest versions are it */
    bool collects;    /* items are kept: sorting or filters */
    bool sorts, descends;
    uint64_t take_max; /* in key order; UINT64_MAX: all */

    enum phase phase;
    struct buf cursor; /* the key a walk goes on with; empty: bounds.from */
    uint64_t count;    /* live keys in the range */
    bool counted;      /* count and answered were calculated: a walk only sums sizes up */
    uint64_t measured; /* then: keys of them it has seen */
    uint64_t matched;  /* that pass the filters, up to take_max */
    uint64_t answered; /* key-values of the answer */
    uint64_t kvs_bytes;
    bool more;
    uint64_t total;
    uint64_t emitted;
    bool header_done;

    struct item *items, *merged;
    size_t item_count, item_cap;
    size_t sort_width, sort_left, sort_a, sort_b, sort_out; /* state of the merge */
    size_t position; /* of VALUES, MEASURE */
    struct arena values;

    struct cold *cold;
    size_t cold_count, cold_cap;
};

/* ---- sizes ---- */

/* keys_only leaves out value and lease, unless VALUE was the sort target (etcd 3.7). */
static bool keeps_lease(const struct kv_range *g)
{
    return g->m.sort_target == KV_BY_VALUE;
}

static struct kv_record keys_only_record(const struct kv_entry *e, const struct kv_version *v)
{
    return (struct kv_record){
        .key = kv_entry_key(e),
        .create_revision = v->create_revision,
        .mod_revision = v->main,
        .version = v->version,
    };
}

static bool emits_records(const struct kv_range *g)
{
    return !g->m.keys_only;
}

static uint64_t framed_size(const struct kv_range *g, const struct kv_entry *e,
                            const struct kv_version *v)
{
    struct kv_record record;

    if (emits_records(g))
        return kv_framed_size(v->size);
    record = keys_only_record(e, v);
    return kv_framed_size((uint32_t)kv_record_size(&record));
}

static size_t header_size(const struct kv_range *g)
{
    const struct kv_header *h = g->header;
    size_t n = pb_size_u64(3, (uint64_t)g->current);

    if (h != NULL)
        n += pb_size_u64(1, h->cluster_id) + pb_size_u64(2, h->member_id) +
             pb_size_u64(4, h->raft_term);
    return pb_size_message(1, n);
}

static void set_total(struct kv_range *g)
{
    g->total = header_size(g) + g->kvs_bytes + pb_size_u64(3, g->more) + pb_size_u64(4, g->count);
}

/* ---- filters ---- */

static bool has_filter(const struct kv_range_request *m)
{
    return m->min_mod_revision != 0 || m->max_mod_revision != 0 || m->min_create_revision != 0 ||
           m->max_create_revision != 0;
}

static bool passes(const struct kv_range_request *m, const struct kv_version *v)
{
    return (m->min_mod_revision == 0 || v->main >= m->min_mod_revision) &&
           (m->max_mod_revision == 0 || v->main <= m->max_mod_revision) &&
           (m->min_create_revision == 0 || v->create_revision >= m->min_create_revision) &&
           (m->max_create_revision == 0 || v->create_revision <= m->max_create_revision);
}

/* ---- walking ---- */

static void seek(struct kv_range *g, struct kv_index_iter *it)
{
    kv_index_seek(&g->kv->index, g->cursor.len > 0 ? buf_bytes(&g->cursor) : g->bounds.from, it);
}

static void keep_cursor(struct kv_range *g, struct bytes key)
{
    buf_clear(&g->cursor);
    buf_append_bytes(&g->cursor, key);
}

static void collect(struct kv_range *g, const struct kv_entry *e, const struct kv_version *v)
{
    if (g->item_count == g->item_cap) {
        g->item_cap = g->item_cap * 2 + 64;
        g->items = xreallocarray(g->items, g->item_cap, sizeof(g->items[0]));
    }
    g->items[g->item_count++] = (struct item){.entry = e, .v = *v};
}

static bool wants_kvs(const struct kv_range *g)
{
    return !g->m.count_only;
}

/* One live key of the range. */
static void visit(struct kv_range *g, const struct kv_entry *e, const struct kv_version *v)
{
    if (g->counted) {
        g->measured++;
        g->kvs_bytes += framed_size(g, e, v);
        return;
    }
    g->count++;
    if (!wants_kvs(g) || !passes(&g->m, v))
        return;
    if (g->matched >= g->take_max) {
        g->more = true;
        return;
    }
    g->matched++;
    if (g->collects) {
        collect(g, e, v);
    } else {
        g->answered++;
        g->kvs_bytes += framed_size(g, e, v);
    }
}

/* Looks at up to max keys. True: the walk is complete. */
static bool walk(struct kv_range *g, size_t max)
{
    struct kv_index_iter it;
    const struct kv_entry *e;
    struct kv_version v;

    for (seek(g, &it); (e = kv_index_iter_get(&it)) != NULL; kv_index_iter_next(&it)) {
        if (kv_bounds_past(&g->bounds, kv_entry_key(e)) ||
            (g->counted && g->measured == g->answered))
            return true;
        if (max-- == 0) {
            keep_cursor(g, kv_entry_key(e));
            return false;
        }
        if (kv_entry_at(e, g->revision, &v))
            visit(g, e, &v);
    }
    return true;
}

/* Newest revision, key order, no filter: the index knows the count and, of whole records, the
 * size. Only while nothing has been applied since. */
static bool is_countable(const struct kv_range *g)
{
    return g->at_head && !g->collects && !g->counted && g->cursor.len == 0;
}

/* True: that was all of PREPARE; false: sizes are to be summed up by a walk. */
static bool calculate(struct kv_range *g)
{
    uint64_t from;

    g->count = kv_count_live(g->kv, &g->bounds);
    if (!wants_kvs(g) || g->count == 0)
        return true;
    g->answered = MIN(g->count, g->take_max);
    g->more = g->count > g->take_max;
    if (!emits_records(g)) {
        g->counted = true;
        return false;
    }
    from = kv_index_rank(&g->kv->index, g->bounds.from);
    g->kvs_bytes = kv_index_bytes_at(&g->kv->index, from + g->answered) -
                   kv_index_bytes_at(&g->kv->index, from);
    return true;
}

/* ---- sorting ---- */

static int item_cmp(const struct kv_range *g, const struct item *a, const struct item *b)
{
    int64_t x = 0, y = 0;

    switch (g->m.sort_target) {
    case KV_BY_VERSION:
        x = a->v.version, y = b->v.version;
        break;
    case KV_BY_CREATE:
        x = a->v.create_revision, y = b->v.create_revision;
        break;
    case KV_BY_MOD:
        x = a->v.main, y = b->v.main;
        break;
    case KV_BY_VALUE:
        return bytes_cmp(a->value, b->value);
    default:
        return bytes_cmp(kv_entry_key(a->entry), kv_entry_key(b->entry));
    }
    return x < y ? -1 : x > y;
}

static void sort_begin(struct kv_range *g)
{
    g->merged = xreallocarray(NULL, g->item_count + 1, sizeof(g->merged[0]));
    g->sort_width = 1;
    g->sort_left = g->sort_a = g->sort_out = 0;
    g->sort_b = MIN((size_t)1, g->item_count);
}

/* Bottom-up merge sort, stable, resumable after any step. True: sorted. */
static bool sort_some(struct kv_range *g, size_t steps)
{
    while (g->sort_width < g->item_count) {
        size_t mid = MIN(g->sort_left + g->sort_width, g->item_count);
        size_t end = MIN(mid + g->sort_width, g->item_count);

        while (g->sort_out < end) {
            bool left;

            if (steps-- == 0)
                return false;
            if (g->sort_a == mid)
                left = false;
            else if (g->sort_b == end)
                left = true;
            else {
                int r = item_cmp(g, &g->items[g->sort_a], &g->items[g->sort_b]);

                left = g->descends ? r >= 0 : r <= 0;
            }
            g->merged[g->sort_out++] = g->items[left ? g->sort_a++ : g->sort_b++];
        }
        g->sort_left = end;
        if (end == g->item_count) {
            struct item *swap = g->items;

            g->items = g->merged;
            g->merged = swap;
            g->sort_width *= 2;
            g->sort_left = g->sort_out = 0;
        }
        g->sort_a = g->sort_left;
        g->sort_b = MIN(g->sort_left + g->sort_width, g->item_count);
    }
    return true;
}

/* ---- phases ---- */

static int fetch_values(struct kv_range *g, size_t max)
{
    struct kv *kv = g->kv;

    for (; g->position < g->item_count && max > 0; max--, g->position++) {
        struct item *item = &g->items[g->position];
        struct kv_record record;
        uint8_t *copy;
        int r;

        buf_clear(&kv->scratch);
        r = kv_get_record(kv, item->v.main, item->v.sub, false, &kv->scratch);
        if (r == 0)
            r = kv_record_decode(buf_bytes(&kv->scratch), &record);
        if (r < 0)
            return r;
        copy = arena_alloc(&g->values, record.value.len);
        if (record.value.len > 0)
            memcpy(copy, record.value.data, record.value.len);
        item->value = bytes_of(copy, record.value.len);
    }
    return 0;
}

/* keys_only with its lease: the size needs the record. */
static int lease_of(struct kv_range *g, const struct item *item, int64_t *ret)
{
    struct kv *kv = g->kv;
    struct kv_record record;
    int r;

    *ret = 0;
    if (!kv->lease_seen)
        return 0;
    buf_clear(&kv->scratch);
    r = kv_get_record(kv, item->v.main, item->v.sub, false, &kv->scratch);
    if (r == 0)
        r = kv_record_decode(buf_bytes(&kv->scratch), &record);
    if (r == 0)
        *ret = record.lease;
    return r;
}

static int item_size(struct kv_range *g, const struct item *item, uint64_t *ret)
{
    struct kv_record record;
    int r = 0;

    if (emits_records(g) || !keeps_lease(g)) {
        *ret = framed_size(g, item->entry, &item->v);
        return 0;
    }
    record = keys_only_record(item->entry, &item->v);
    r = lease_of(g, item, &record.lease);
    *ret = kv_framed_size((uint32_t)kv_record_size(&record));
    return r;
}

static void limit_items(struct kv_range *g)
{
    if (g->m.limit > 0 && g->item_count > (uint64_t)g->m.limit) {
        g->item_count = (size_t)g->m.limit;
        g->more = true;
    }
    g->answered = g->item_count;
    g->position = 0;
}

static int measure(struct kv_range *g, size_t max)
{
    for (; g->position < g->item_count && max > 0; max--, g->position++) {
        uint64_t size;
        int r = item_size(g, &g->items[g->position], &size);

        if (r < 0)
            return r;
        g->kvs_bytes += size;
    }
    return 0;
}

/* ---- emitting ---- */

static void remember_cold(struct kv_range *g, const struct kv_version *v, size_t offset)
{
    if (g->cold_count == g->cold_cap) {
        g->cold_cap = g->cold_cap * 2 + 32;
        g->cold = xreallocarray(g->cold, g->cold_cap, sizeof(g->cold[0]));
    }
    g->cold[g->cold_count++] = (struct cold){v->main, v->sub, v->size, offset};
}

static int cold_cmp(const void *pa, const void *pb)
{
    const struct cold *a = pa, *b = pb;

    if (a->main != b->main)
        return a->main < b->main ? -1 : 1;
    return a->sub < b->sub ? -1 : a->sub > b->sub;
}

static int fill_cold(struct kv_range *g, struct buf *out)
{
    struct kv *kv = g->kv;
    int r = 0;

    if (g->cold_count > 1)
        qsort(g->cold, g->cold_count, sizeof(g->cold[0]), cold_cmp);
    for (size_t i = 0; i < g->cold_count && r == 0; i++) {
        const struct cold *c = &g->cold[i];
        /* what a long range reads is not what the next request wants */
        bool keep = g->answered * (c->size + 16u) <= kv->cache.budget_bytes / 4;
        uint8_t key[KV_RECORD_KEY_BYTES];

        buf_clear(&kv->scratch);
        kv_record_key(key, c->main, c->sub);
        r = kv->engine->ops->get(kv->engine, bytes_of(key, sizeof(key)), &kv->scratch);
        if (r < 0 || kv->scratch.len != c->size) {
            r = r < 0 && r != -ENOENT ? r : -EIO; /* index and log disagree */
            break;
        }
        memcpy(out->data + c->offset, kv->scratch.data, c->size);
        if (keep && c->size <= kv->cache.segment_bytes)
            memcpy(kv_cache_add(&kv->cache, c->main, c->sub, c->size, 0), kv->scratch.data,
                   c->size);
    }
    g->cold_count = 0;
    return r;
}

static void emit_record(struct kv_range *g, const struct kv_version *v, struct buf *out)
{
    struct bytes record;

    pb_put_tag(out, 2, PB_LENGTH);
    pb_put_varint(out, v->size);
    if (kv_cache_get(&g->kv->cache, v->main, v->sub, &record)) {
        assert(record.len == v->size);
        buf_append_bytes(out, record);
        return;
    }
    buf_reserve(out, v->size);
    remember_cold(g, v, out->len);
    out->len += v->size;
}

static int emit_item(struct kv_range *g, const struct item *item, struct buf *out)
{
    struct kv_record record;
    size_t size;
    int r = 0;

    if (emits_records(g)) {
        emit_record(g, &item->v, out);
        return 0;
    }
    record = keys_only_record(item->entry, &item->v);
    if (keeps_lease(g))
        r = lease_of(g, item, &record.lease);
    size = kv_record_size(&record);
    pb_put_tag(out, 2, PB_LENGTH);
    pb_put_varint(out, size);
    kv_record_encode(&record, buf_reserve(out, size));
    out->len += size;
    return r;
}

/* Records lie all over the cache, and their slots all over its table: fetched one after the other
 * each would cost two or three waits for memory. */
static void prefetch(const struct kv_range *g, const struct item *items, size_t count)
{
    const struct kv_cache *c = &g->kv->cache;

    if (!emits_records(g) || count < 2)
        return;
    for (size_t i = 0; i < count; i++)
        kv_cache_prefetch_slot(c, items[i].v.main, items[i].v.sub);
    for (size_t i = 0; i < count; i++)
        kv_cache_prefetch_record(c, items[i].v.main, items[i].v.sub, items[i].v.size);
}

static int emit_collected(struct kv_range *g, size_t max_bytes, struct buf *out)
{
    size_t at = out->len;
    int r = 0;

    while (r == 0 && g->emitted < g->answered && out->len - at < max_bytes &&
           g->cold_count < COLD_SLICE) {
        const struct item *items = &g->items[g->emitted];
        size_t n = (size_t)MIN(g->answered - g->emitted, (uint64_t)AHEAD);

        prefetch(g, items, n);
        for (size_t i = 0; i < n && r == 0 && out->len - at < max_bytes; i++, g->emitted++)
            r = emit_item(g, &items[i], out);
    }
    return r;
}

static int emit_walking(struct kv_range *g, size_t max_bytes, struct buf *out)
{
    struct item items[AHEAD];
    struct kv_index_iter it;
    const struct kv_entry *e;
    size_t at = out->len, looked = 0;
    int r = 0;

    seek(g, &it);
    for (;;) {
        size_t n = 0, bytes = out->len - at;

        for (; n < AHEAD && g->emitted + n < g->answered && bytes < max_bytes &&
               looked < WALK_SLICE && (e = kv_index_iter_get(&it)) != NULL;
             kv_index_iter_next(&it), looked++) {
            if (!kv_entry_at(e, g->revision, &items[n].v))
                continue;
            bytes += items[n].v.size;
            items[n++].entry = e;
        }
        prefetch(g, items, n);
        for (size_t i = 0; i < n && r == 0; i++)
            r = emit_item(g, &items[i], out);
        g->emitted += n;
        e = kv_index_iter_get(&it);
        if (r < 0 || e == NULL || g->emitted == g->answered)
            return r;
        if (out->len - at >= max_bytes || g->cold_count >= COLD_SLICE || looked >= WALK_SLICE) {
            keep_cursor(g, kv_entry_key(e));
            return 0;
        }
    }
}

static int emit(struct kv_range *g, size_t max_bytes, struct buf *out)
{
    int r = 0;

    if (!g->header_done) {
        kv_put_header(out, g->header, g->current);
        g->header_done = true;
    }
    if (g->emitted < g->answered) {
        r = g->collects ? emit_collected(g, max_bytes, out) : emit_walking(g, max_bytes, out);
        if (r == 0)
            r = fill_cold(g, out);
        if (r < 0 || g->emitted < g->answered)
            return r;
    }
    pb_put_bool(out, 3, g->more);
    pb_put_u64(out, 4, g->count);
    g->phase = DONE;
    return 0;
}

static void begin_emit(struct kv_range *g)
{
    set_total(g);
    buf_clear(&g->cursor);
    g->phase = EMIT;
}

/* One slice of one phase. */
static int step(struct kv_range *g, size_t walk_max, size_t max_bytes, struct buf *out)
{
    int r = 0;

    switch (g->phase) {
    case PREPARE:
        if (!(is_countable(g) && calculate(g)) && !walk(g, walk_max))
            break;
        if (!g->collects) {
            begin_emit(g);
            break;
        }
        g->phase = g->sorts && g->m.sort_target == KV_BY_VALUE ? VALUES : SORT;
        break;
    case VALUES:
        r = fetch_values(g, COLD_SLICE);
        if (g->position == g->item_count)
            g->phase = SORT;
        break;
    case SORT:
        if (g->sorts && g->merged == NULL)
            sort_begin(g);
        if (g->sorts && !sort_some(g, walk_max))
            break;
        limit_items(g);
        g->phase = MEASURE;
        break;
    case MEASURE:
        r = measure(g, walk_max);
        if (g->position == g->item_count)
            begin_emit(g);
        break;
    case EMIT:
        r = emit(g, max_bytes, out);
        break;
    case DONE:
        break;
    }
    return r;
}

/* ---- entry points ---- */

int kv_check_range_revision(const struct kv *kv, const struct kv_range_request *m)
{
    if (m->revision <= 0)
        return OUT_OK;
    if (m->revision > kv->revision)
        return OUT_FUTURE_REVISION;
    return m->revision < kv->compact_revision ? OUT_COMPACTED : OUT_OK;
}

/* Facts 5.1: which options push the limit down into the walk. */
static void plan(struct kv_range *g)
{
    const struct kv_range_request *m = &g->m;
    bool by_key = m->sort_target == KV_BY_KEY;
    uint64_t limit = m->limit > 0 ? (uint64_t)m->limit : UINT64_MAX;

    g->bounds = kv_bounds(m->key, m->range_end);
    g->take_max = UINT64_MAX;
    if (m->count_only)
        return;
    g->sorts = !by_key || m->sort_order == KV_SORT_DESCEND;
    g->descends = m->sort_order == KV_SORT_DESCEND;
    g->collects = g->sorts || has_filter(m);
    if (!g->collects)
        g->take_max = limit;
    else if (m->sort_order == KV_SORT_NONE && !has_filter(m) && limit < UINT64_MAX)
        g->take_max = limit + 1; /* the first in key order, then sorted, then one too many */
}

static void begin(struct kv_range *g, struct kv *kv, const struct kv_range_request *m,
                  int64_t current, const struct kv_header *header)
{
    *g = (struct kv_range){
        .kv = kv,
        .m = *m,
        .header = header,
        .current = current,
        .revision = m->revision > 0 ? m->revision : current,
        .values = ARENA_INIT,
    };
    list_init(&g->pin.node);
    g->at_head = g->revision == current;
    plan(g);
}

static void end(struct kv_range *g)
{
    buf_fini(&g->cursor);
    buf_fini(&g->keys);
    free(g->items);
    free(g->merged);
    free(g->cold);
    arena_fini(&g->values);
}

int kv_range_whole(struct kv *kv, const struct kv_range_request *m, int64_t current,
                   const struct kv_header *header, struct buf *answer)
{
    struct kv_range g;
    int r = 0;

    begin(&g, kv, m, current, header);
    while (r == 0 && g.phase != DONE)
        r = step(&g, SIZE_MAX - 1, SIZE_MAX, answer);
    end(&g);
    return r;
}

/* The most frequent request of all: one key, newest revision, everything of it. */
static int get_now(struct kv *kv, const struct kv_range_request *m, const struct kv_header *header,
                   size_t max_bytes, struct buf *message)
{
    const struct kv_entry *e = kv_index_find(&kv->index, m->key);
    size_t at = message->len;
    int r;

    if (e != NULL && !kv_entry_is_live(e))
        e = NULL;
    if (e != NULL && e->size > max_bytes)
        return -E2BIG;
    kv->range_total++;
    kv_put_header(message, header, kv->revision);
    if (e == NULL)
        return OUT_OK;
    pb_put_tag(message, 2, PB_LENGTH);
    pb_put_varint(message, e->size);
    r = kv_get_record(kv, e->mod_revision, e->mod_sub, true, message);
    if (r < 0) {
        message->len = at;
        return r;
    }
    pb_put_u64(message, 4, 1);
    return OUT_OK;
}

int kv_range_now(struct kv *kv, const struct kv_range_request *m, const struct kv_header *header,
                 size_t max_bytes, struct buf *message)
{
    struct kv_range g;
    size_t at = message->len;
    int r = kv_check_range_revision(kv, m);

    assert(!kv->in_turn);
    if (r != OUT_OK)
        return r;
    if (m->range_end.len == 0 && m->revision <= 0 && !m->keys_only && !m->count_only &&
        !has_filter(m))
        return get_now(kv, m, header, max_bytes, message);

    begin(&g, kv, m, kv->revision, header);
    if (is_countable(&g) && calculate(&g)) {
        begin_emit(&g);
    } else if (!walk(&g, NOW_WALK_MAX) || g.item_count > NOW_ITEMS_MAX) {
        r = -E2BIG;
    } else if (!g.collects) {
        begin_emit(&g);
    } else {
        g.phase = g.sorts && m->sort_target == KV_BY_VALUE ? VALUES : SORT;
    }
    while (r == 0 && g.phase != EMIT)
        r = step(&g, NOW_WALK_MAX * 16, max_bytes, message);
    if (r == 0 && g.total > max_bytes)
        r = -E2BIG;
    while (r == 0 && g.phase != DONE)
        r = step(&g, NOW_WALK_MAX, max_bytes, message);
    end(&g);
    if (r == 0)
        kv->range_total++;
    else
        message->len = at;
    return r;
}

int kv_range_new(struct kv *kv, const struct kv_range_request *m, const struct kv_header *header,
                 struct kv_range **ret_range)
{
    struct kv_range *g;
    int r = kv_check_range_revision(kv, m);

    assert(!kv->in_turn);
    if (r != OUT_OK)
        return r;
    g = xmalloc(sizeof(*g));
    begin(g, kv, m, kv->revision, &g->header_copy);
    g->header_copy = *header;
    buf_append_bytes(&g->keys, m->key);
    buf_append_bytes(&g->keys, m->range_end);
    g->m.key = bytes_of(g->keys.data, m->key.len);
    g->m.range_end = bytes_of(g->keys.data + m->key.len, m->range_end.len);
    plan(g);
    g->pin.revision = g->revision;
    list_push_back(&kv->pins, &g->pin.node);
    kv->range_total++;
    *ret_range = g;
    return OUT_OK;
}

void kv_range_free(struct kv_range *g)
{
    if (g == NULL)
        return;
    list_remove(&g->pin.node);
    kv_compact_wake(g->kv);
    end(g);
    free(g);
}

int kv_range_step(struct kv_range *g, size_t max_bytes, struct buf *message)
{
    int r;

    assert(!g->kv->in_turn);
    if (g->kv->revision != g->current)
        g->at_head = false;
    r = step(g, WALK_SLICE, max_bytes, message);
    if (r < 0)
        return r;
    return g->phase != DONE;
}

uint64_t kv_range_total(const struct kv_range *g)
{
    return g->total;
}
