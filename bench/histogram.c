#include "bench/histogram.h"

#include <stddef.h>
#include "lib/util/macros.h"

static size_t slot_of(uint64_t ns)
{
    unsigned int shift;
    size_t slot;

    if (ns < HISTOGRAM_STEPS)
        return (size_t)ns;
    shift = (unsigned int)(63 - __builtin_clzll(ns)) - HISTOGRAM_STEP_BITS;
    slot = ((size_t)shift + 1) * HISTOGRAM_STEPS + (size_t)((ns >> shift) - HISTOGRAM_STEPS);
    return MIN(slot, (size_t)HISTOGRAM_SLOTS - 1);
}

/* The upper end of a slot. */
static uint64_t slot_ns(size_t slot)
{
    size_t shift;

    if (slot < HISTOGRAM_STEPS)
        return slot;
    shift = slot / HISTOGRAM_STEPS - 1;
    return ((uint64_t)(slot % HISTOGRAM_STEPS + HISTOGRAM_STEPS + 1) << shift) - 1;
}

void histogram_add(struct histogram *h, uint64_t ns)
{
    h->count++;
    h->sum_ns += ns;
    h->max_ns = MAX(h->max_ns, ns);
    h->slots[slot_of(ns)]++;
}

void histogram_merge(struct histogram *h, const struct histogram *from)
{
    h->count += from->count;
    h->sum_ns += from->sum_ns;
    h->max_ns = MAX(h->max_ns, from->max_ns);
    for (size_t i = 0; i < HISTOGRAM_SLOTS; i++)
        h->slots[i] += from->slots[i];
}

uint64_t histogram_quantile(const struct histogram *h, double share)
{
    uint64_t want = (uint64_t)(share * (double)h->count + 0.5), seen = 0;

    if (h->count == 0)
        return 0;
    want = MAX(want, (uint64_t)1);
    for (size_t i = 0; i < HISTOGRAM_SLOTS; i++) {
        seen += h->slots[i];
        if (seen >= want)
            return MIN(slot_ns(i), h->max_ns);
    }
    return h->max_ns;
}
