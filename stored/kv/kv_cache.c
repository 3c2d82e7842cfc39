#include "stored/kv/kv_cache.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum {
    SEGMENT_BYTES_MIN = 16 << 10,
    SEGMENT_BYTES_MAX = 256 << 10,
    PREFETCH_BYTES = 512, /* of a record; the processor sees by itself that the rest follows */
    OFFSET_BITS = 15, /* in units of 8 bytes: SEGMENT_BYTES_MAX; a larger segment has one item */
    TAG_BITS = 30,
    SEGMENTS = 64, /* a budget is at least about this many, so giving one up is a small step */
};

static_assert((SEGMENT_BYTES_MAX >> 3) == 1 << OFFSET_BITS, "a place tells every offset");
/* With what is pinned above it, what the numbers of segments suffice for. */
static const uint64_t BUDGET_BYTES_MAX = 16ULL << 30;

struct item {
    int64_t main;
    uint32_t sub, len;
    uint8_t data[];
};

struct kv_cache_segment {
    struct kv_cache_segment *newer;
    uint32_t number;
    size_t size, fill;
    size_t superseded; /* about so many bytes of such items */
    uint64_t sequence; /* the highest that pins it */
    uint64_t data[];   /* items, each on an 8-byte boundary */
};

/* Everything a probe needs: items are looked at only when their tag is the one that is wanted. */
struct kv_cache_slot {
    uint32_t place;          /* number of the segment, then offset in units of 8 bytes; 0: empty */
    uint32_t tag : TAG_BITS; /* of the revision's hash; the low bits are the home slot */
    uint32_t used : 1;       /* asked for since it was put here */
    uint32_t superseded : 1; /* only reads of the past want it */
};

/* Mapped, not from the heap: there a segment would leave a hole that small blocks move into. */
static struct kv_cache_segment *segment_map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        PANIC("out of memory mapping %zu bytes", size);
    return p;
}

static void segment_unmap(struct kv_cache_segment *s)
{
    munmap(s, sizeof(*s) + s->size);
}

static size_t item_bytes(size_t len)
{
    return (sizeof(struct item) + len + 7) & ~(size_t)7;
}

static uint32_t tag_of(int64_t main, uint32_t sub)
{
    uint64_t h = ((uint64_t)main + (uint64_t)sub * 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu;

    return (uint32_t)(h ^ h >> 32) & (((uint32_t)1 << TAG_BITS) - 1);
}

static struct kv_cache_segment *segment_at(const struct kv_cache *c, uint32_t place)
{
    return c->segments[place >> OFFSET_BITS];
}

static struct item *item_at(const struct kv_cache *c, uint32_t place)
{
    return (struct item *)(segment_at(c, place)->data +
                           (place & (((uint32_t)1 << OFFSET_BITS) - 1)));
}

static uint32_t place_of(const struct kv_cache_segment *s, const struct item *item)
{
    return s->number << OFFSET_BITS | (uint32_t)((const uint64_t *)item - s->data);
}

/* Its slot, or the empty one where it would go. */
static size_t find_slot(const struct kv_cache *c, int64_t main, uint32_t sub)
{
    uint32_t tag = tag_of(main, sub);
    size_t i = tag & c->mask;

    for (; c->slots[i].place != 0; i = (i + 1) & c->mask)
        if (c->slots[i].tag == tag) {
            const struct item *item = item_at(c, c->slots[i].place);

            if (item->main == main && item->sub == sub)
                break;
        }
    return i;
}

static void grow_table(struct kv_cache *c)
{
    struct kv_cache_slot *old = c->slots;
    size_t old_mask = c->mask;

    c->mask = old_mask * 2 + 1;
    assert(c->mask >> TAG_BITS == 0);
    c->slots = xcalloc(c->mask + 1, sizeof(c->slots[0]));
    for (size_t k = 0; k <= old_mask; k++) {
        size_t i = old[k].tag & c->mask;

        if (old[k].place == 0)
            continue;
        while (c->slots[i].place != 0)
            i = (i + 1) & c->mask;
        c->slots[i] = old[k];
    }
    free(old);
}

static void remove_slot(struct kv_cache *c, size_t i)
{
    size_t hole = i;

    c->count--;
    for (size_t j = (i + 1) & c->mask; c->slots[j].place != 0; j = (j + 1) & c->mask) {
        size_t home = c->slots[j].tag & c->mask;

        if (((j - home) & c->mask) >= ((j - hole) & c->mask)) {
            c->slots[hole] = c->slots[j];
            hole = j;
        }
    }
    c->slots[hole] = (struct kv_cache_slot){0};
}

void kv_cache_init(struct kv_cache *c, uint64_t budget_bytes)
{
    *c = (struct kv_cache){.budget_bytes = MIN(budget_bytes, BUDGET_BYTES_MAX), .mask = 1023};
    c->segment_bytes =
        (size_t)MIN(MAX(budget_bytes / SEGMENTS, SEGMENT_BYTES_MIN), SEGMENT_BYTES_MAX);
    c->slots = xcalloc(c->mask + 1, sizeof(c->slots[0]));
}

void kv_cache_fini(struct kv_cache *c)
{
    while (c->oldest != NULL) {
        struct kv_cache_segment *s = c->oldest;

        c->oldest = s->newer;
        segment_unmap(s);
    }
    free(c->slots);
    free(c->segments);
    free(c->free_numbers);
    *c = (struct kv_cache){0};
}

/* A number that no segment has. */
static uint32_t take_number(struct kv_cache *c)
{
    if (c->free_count == 0) {
        size_t cap = c->segment_cap * 2 + 64;

        assert(cap >> (32 - OFFSET_BITS) == 0);
        c->segments = xreallocarray(c->segments, cap, sizeof(c->segments[0]));
        c->free_numbers = xreallocarray(c->free_numbers, cap, sizeof(c->free_numbers[0]));
        for (size_t n = cap; n-- > MAX(c->segment_cap, 1U);) /* not 0: place 0 is no place */
            c->free_numbers[c->free_count++] = (uint32_t)n;
        c->segment_cap = cap;
    }
    return c->free_numbers[--c->free_count];
}

static struct item *append(struct kv_cache *c, int64_t main, uint32_t sub, size_t len,
                           uint64_t sequence, uint32_t *ret_place)
{
    struct kv_cache_segment *s = c->newest;
    size_t need = item_bytes(len);
    struct item *item;

    if (s == NULL || s->size - s->fill < need) {
        size_t size = MAX(c->segment_bytes, need);

        s = segment_map(sizeof(*s) + size);
        *s = (struct kv_cache_segment){.size = size, .number = take_number(c)};
        c->segments[s->number] = s;
        if (c->newest != NULL)
            c->newest->newer = s;
        else
            c->oldest = s;
        c->newest = s;
        c->bytes += size;
    }
    item = (struct item *)((uint8_t *)s->data + s->fill);
    s->fill += need;
    s->sequence = MAX(s->sequence, sequence);
    item->main = main;
    item->sub = sub;
    item->len = (uint32_t)len;
    *ret_place = place_of(s, item);
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
        const struct item *item = (const struct item *)((uint8_t *)s->data + at);
        uint32_t place = place_of(s, item);
        size_t need = item_bytes(item->len), i = tag_of(item->main, item->sub) & c->mask;
        struct kv_cache_slot *slot;

        at += need;
        while (c->slots[i].place != 0 && c->slots[i].place != place)
            i = (i + 1) & c->mask;
        slot = &c->slots[i];
        if (slot->place == 0) /* a newer copy took its place */
            continue;
        if ((slot->used || keep_all) && !slot->superseded && saved + need <= s->fill / 2) {
            struct item *copy = append(c, item->main, item->sub, item->len, 0, &slot->place);

            memcpy(copy->data, item->data, item->len);
            slot->used = 0;
            saved += need;
        } else {
            remove_slot(c, i);
        }
    }
    c->bytes -= s->size;
    c->free_numbers[c->free_count++] = s->number;
    segment_unmap(s);
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

uint8_t *kv_cache_add(struct kv_cache *c, int64_t main, uint32_t sub, size_t len, uint64_t sequence)
{
    struct kv_cache_slot *slot;
    struct item *item;

    fit_budget(c);
    if ((c->count + 1) * 4 > (c->mask + 1) * 3)
        grow_table(c);
    slot = &c->slots[find_slot(c, main, sub)];
    c->count += slot->place == 0;
    *slot = (struct kv_cache_slot){.tag = tag_of(main, sub)};
    item = append(c, main, sub, len, sequence, &slot->place);
    return item->data;
}

bool kv_cache_get(struct kv_cache *c, int64_t main, uint32_t sub, struct bytes *ret)
{
    struct kv_cache_slot *slot = &c->slots[find_slot(c, main, sub)];
    const struct item *item;

    if (slot->place == 0) {
        c->misses++;
        return false;
    }
    c->hits++;
    slot->used = 1;
    item = item_at(c, slot->place);
    *ret = bytes_of(item->data, item->len);
    return true;
}

/* The first slot with the tag is taken for the right one: to look at the item would cost a wait for
 * memory with every put. When it is not (less than once in thousand), another record is forgotten
 * early. */
void kv_cache_superseded(struct kv_cache *c, int64_t main, uint32_t sub, size_t len)
{
    uint32_t tag = tag_of(main, sub);
    size_t i = tag & c->mask;
    struct kv_cache_segment *s;

    while (c->slots[i].place != 0 && c->slots[i].tag != tag)
        i = (i + 1) & c->mask;
    if (c->slots[i].place == 0 || c->slots[i].superseded)
        return;
    c->slots[i].superseded = 1;
    s = segment_at(c, c->slots[i].place);
    s->superseded = MIN(s->superseded + item_bytes(len), s->fill);
}

void kv_cache_prefetch_slot(const struct kv_cache *c, int64_t main, uint32_t sub)
{
    __builtin_prefetch(&c->slots[tag_of(main, sub) & c->mask]);
}

/* The home slot is nearly always the right one; when it is not, only the time is lost. */
void kv_cache_prefetch_record(const struct kv_cache *c, int64_t main, uint32_t sub, size_t len)
{
    const struct kv_cache_slot *slot = &c->slots[tag_of(main, sub) & c->mask];
    size_t end = MIN(sizeof(struct item) + len, (size_t)PREFETCH_BYTES);

    if (slot->place == 0)
        return;
    for (size_t at = 0; at < end; at += 64)
        __builtin_prefetch((const uint8_t *)item_at(c, slot->place) + at);
}

void kv_cache_written(struct kv_cache *c, uint64_t sequence)
{
    assert(sequence >= c->written);
    c->written = sequence;
    fit_budget(c);
}
