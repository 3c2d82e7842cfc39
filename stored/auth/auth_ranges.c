#include "stored/auth/auth_ranges.h"

#include <assert.h>
#include <stdlib.h>
#include "lib/util/xmalloc.h"

void auth_ranges_fini(struct auth_ranges *set)
{
    for (size_t i = 0; i < set->count; i++) {
        buf_fini(&set->list[i].from);
        buf_fini(&set->list[i].to);
    }
    free(set->list);
    *set = (struct auth_ranges){0};
}

static bool is_open_ended(struct bytes range_end)
{
    return range_end.len == 1 && range_end.data[0] == 0;
}

static bool is_empty_interval(struct bytes key, struct bytes range_end)
{
    return range_end.len > 0 && !is_open_ended(range_end) && bytes_cmp(key, range_end) >= 0;
}

void auth_ranges_add(struct auth_ranges *set, struct bytes key, struct bytes range_end)
{
    struct auth_range range = {0};

    if (is_empty_interval(key, range_end))
        return;
    buf_append_bytes(&range.from, key);
    if (is_open_ended(range_end)) {
        range.open_ended = true;
    } else if (range_end.len > 0) {
        buf_append_bytes(&range.to, range_end);
    } else {
        buf_append_bytes(&range.to, key); /* the next key there can be */
        buf_append_u8(&range.to, 0);
    }
    set->list = xreallocarray(set->list, set->count + 1, sizeof(set->list[0]));
    set->list[set->count++] = range;
    set->merged = false;
}

static int by_from(const void *a, const void *b)
{
    const struct auth_range *x = a, *y = b;

    return bytes_cmp(buf_bytes(&x->from), buf_bytes(&y->from));
}

/* `into` begins at or before `next` and reaches it: it takes over what next has beyond. */
static bool absorb(struct auth_range *into, struct auth_range *next)
{
    struct buf to;

    if (!into->open_ended && bytes_cmp(buf_bytes(&into->to), buf_bytes(&next->from)) < 0)
        return false;
    if (!into->open_ended &&
        (next->open_ended || bytes_cmp(buf_bytes(&next->to), buf_bytes(&into->to)) > 0)) {
        to = into->to;
        into->to = next->to;
        next->to = to;
        into->open_ended = next->open_ended;
    }
    buf_fini(&next->from);
    buf_fini(&next->to);
    return true;
}

void auth_ranges_merge(struct auth_ranges *set)
{
    size_t kept = 0;

    set->merged = true;
    if (set->count == 0)
        return;
    qsort(set->list, set->count, sizeof(set->list[0]), by_from);
    for (size_t i = 1; i < set->count; i++) {
        if (!absorb(&set->list[kept], &set->list[i]))
            set->list[++kept] = set->list[i];
    }
    set->count = kept + 1;
}

bool auth_ranges_covers(const struct auth_ranges *set, struct bytes key, struct bytes range_end)
{
    const struct auth_range *range;
    size_t low = 0, high = set->count;

    assert(set->merged);
    if (is_empty_interval(key, range_end))
        return false;
    while (low < high) { /* the first one that begins above key */
        size_t middle = low + (high - low) / 2;

        if (bytes_cmp(buf_bytes(&set->list[middle].from), key) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return false;
    range = &set->list[low - 1];
    if (range->open_ended)
        return true;
    if (is_open_ended(range_end))
        return false;
    if (range_end.len == 0)
        return bytes_cmp(key, buf_bytes(&range->to)) < 0;
    return bytes_cmp(range_end, buf_bytes(&range->to)) <= 0;
}
