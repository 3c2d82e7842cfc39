#include "stored/kv_cache.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum {
    SEGMENT_BYTES_MIN = 16 << 10,
    SEGMENT_BYTES_MAX = 256 << 10,
    PREFETCH_BYTES = 512, /* of a record; the processor sees by itself that the rest follows */
    SEGMENTS = 64, /* a budget is at least about this many, so giving one up is a small step */
};

struct kv_cache_item {
    int64_t main;
    uint32_t sub;
    uint32_t len : 30;
    uint32_t used : 1;       /* asked for since it was put here */
    uint32_t superseded : 1; /* only reads of the past want it */
    uint32_t at;             /* offset in its segment's data */
    uint8_t data[];
};

struct kv_cache_segment {
    struct kv_cache_segment *newer;
    size_t size, fill;
    size_t superseded; /* bytes of such items */
    uint64_t sequence; /* the highest that pins it */
    uint64_t data[];   /* items, each on an 8-byte boundary */
};

static size_t item_bytes(size_t len)
{
    return (sizeof(struct kv_cache_item) + len + 7) & ~(size_t)7;
}

static size_t slot_of(const struct kv_cache *c, int64_t main, uint32_t sub)
{
    uint64_t h = ((uint64_t)main + (uint64_t)sub * 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu;

    return (size_t)(h ^ h >> 32) & c->mask;
}

static size_t find_slot(const struct kv_cache *c, int64_t main, uint32_t sub)
{
    size_t i = slot_of(c, main, sub);

    while (c->slots[i] != NULL && (c->slots[i]->main != main || c->slots[i]->sub != sub))
        i = (i + 1) & c->mask;
    return i;
}

static void grow_table(struct kv_cache *c)
{
    struct kv_cache_item **old = c->slots;
    size_t old_mask = c->mask;

    c->mask = old_mask * 2 + 1;
    c->slots = xcalloc(c->mask + 1, sizeof(c->slots[0]));
    for (size_t i = 0; i <= old_mask; i++)
        if (old[i] != NULL)
            c->slots[find_slot(c, old[i]->main, old[i]->sub)] = old[i];
    free(old);
}

static void remove_slot(struct kv_cache *c, size_t i)
{
    size_t hole = i;

    c->count--;
    for (size_t j = (i + 1) & c->mask; c->slots[j] != NULL; j = (j + 1) & c->mask) {
        size_t home = slot_of(c, c->slots[j]->main, c->slots[j]->sub);

        if (((j - home) & c->mask) >= ((j - hole) & c->mask)) {
            c->slots[hole] = c->slots[j];
            hole = j;
        }
    }
    c->slots[hole] = NULL;
}

void kv_cache_init(struct kv_cache *c, uint64_t budget_bytes)
{
    *c = (struct kv_cache){.budget_bytes = budget_bytes, .mask = 1023};
    c->segment_bytes = (size_t)MIN(MAX(budget_bytes / SEGMENTS, SEGMENT_BYTES_MIN),
                                   SEGMENT_BYTES_MAX);
    c->slots = xcalloc(c->mask + 1, sizeof(c->slots[0]));
}

void kv_cache_fini(struct kv_cache *c)
{
    while (c->oldest != NULL) {
        struct kv_cache_segment *s = c->oldest;

        c->oldest = s->newer;
        free(s);
    }
    free(c->slots);
    *c = (struct kv_cache){0};
}

static struct kv_cache_item *append(struct kv_cache *c, int64_t main, uint32_t sub, size_t len,
                                    uint64_t sequence)
{
    struct kv_cache_segment *s = c->newest;
    size_t need = item_bytes(len);
    struct kv_cache_item *item;

    if (s == NULL || s->size - s->fill < need) {
        size_t size = MAX(c->segment_bytes, need);

        s = xmalloc(sizeof(*s) + size);
        *s = (struct kv_cache_segment){.size = size};
        if (c->newest != NULL)
            c->newest->newer = s;
        else
            c->oldest = s;
        c->newest = s;
        c->bytes += size;
    }
    item = (struct kv_cache_item *)((uint8_t *)s->data + s->fill);
    s->fill += need;
    s->sequence = MAX(s->sequence, sequence);
    item->main = main;
    item->sub = sub;
    item->len = (uint32_t)len;
    item->used = 0;
    item->superseded = 0;
    item->at = (uint32_t)((uint8_t *)item - (uint8_t *)s->data);
    return item;
}

/* Gives up the oldest segment. What `keep_all` (then everything not superseded) or use since then
 * saves moves to the newest; at most half of a segment is saved, so this makes room. */
static void drop_oldest(struct kv_cache *c, bool keep_all)
{
    struct kv_cache_segment *s = c->oldest;
    size_t saved = 0;

    c->oldest = s->newer;
    for (size_t at = 0; at < s->fill;) {
        struct kv_cache_item *item = (struct kv_cache_item *)((uint8_t *)s->data + at);
        size_t need = item_bytes(item->len), i = find_slot(c, item->main, item->sub);

        at += need;
        if (c->slots[i] != item) /* a newer copy took its place */
            continue;
        if ((item->used || keep_all) && !item->superseded && saved + need <= s->fill / 2) {
            struct kv_cache_item *copy = append(c, item->main, item->sub, item->len, 0);

            memcpy(copy->data, item->data, item->len);
            c->slots[i] = copy;
            saved += need;
        } else {
            remove_slot(c, i);
        }
    }
    c->bytes -= s->size;
    free(s);
}

/* Mostly superseded: its memory holds little that a read of the present could want. */
static bool is_stale(const struct kv_cache_segment *s)
{
    return s->superseded >= s->fill / 4 * 3;
}

static void fit_budget(struct kv_cache *c)
{
    while (c->oldest != c->newest && c->oldest->sequence <= c->written) {
        bool over = c->bytes > c->budget_bytes;

        if (!over && !is_stale(c->oldest))
            return;
        drop_oldest(c, !over);
    }
}

uint8_t *kv_cache_add(struct kv_cache *c, int64_t main, uint32_t sub, size_t len,
                      uint64_t sequence)
{
    struct kv_cache_item *item;
    size_t i;

    fit_budget(c);
    if ((c->count + 1) * 4 > (c->mask + 1) * 3)
        grow_table(c);
    item = append(c, main, sub, len, sequence);
    i = find_slot(c, main, sub);
    c->count += c->slots[i] == NULL;
    c->slots[i] = item;
    return item->data;
}

bool kv_cache_get(struct kv_cache *c, int64_t main, uint32_t sub, struct bytes *ret)
{
    struct kv_cache_item *item = c->slots[find_slot(c, main, sub)];

    if (item == NULL) {
        c->misses++;
        return false;
    }
    c->hits++;
    item->used = 1;
    *ret = bytes_of(item->data, item->len);
    return true;
}

void kv_cache_superseded(struct kv_cache *c, int64_t main, uint32_t sub)
{
    struct kv_cache_item *item = c->slots[find_slot(c, main, sub)];
    struct kv_cache_segment *s;

    if (item == NULL || item->superseded)
        return;
    s = (struct kv_cache_segment *)((uint8_t *)item - item->at -
                                    offsetof(struct kv_cache_segment, data));
    item->superseded = 1;
    s->superseded += item_bytes(item->len);
    assert(s->superseded <= s->fill);
}

void kv_cache_prefetch_slot(const struct kv_cache *c, int64_t main, uint32_t sub)
{
    __builtin_prefetch(&c->slots[slot_of(c, main, sub)]);
}

/* The home slot is nearly always the right one; when it is not, only the time is lost. */
void kv_cache_prefetch_record(const struct kv_cache *c, int64_t main, uint32_t sub, size_t len)
{
    const char *item = (const char *)c->slots[slot_of(c, main, sub)];
    size_t end = MIN(sizeof(struct kv_cache_item) + len, (size_t)PREFETCH_BYTES);

    for (size_t at = 0; item != NULL && at < end; at += 64)
        __builtin_prefetch(item + at);
}

void kv_cache_written(struct kv_cache *c, uint64_t sequence)
{
    assert(sequence >= c->written);
    c->written = sequence;
    fit_budget(c);
}
