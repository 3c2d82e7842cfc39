/*
 * Where the live entries are, in memory: a point about every 64 KiB of log, and one run per term.
 * 100,000 entries of 300 bytes take some 600 points.
 */
#include "raftd/wal/wal_internal.h"

#include <stdlib.h>
#include "lib/util/xmalloc.h"

void wal_index_fini(struct wal_index *x)
{
    free(x->points);
    free(x->runs);
    memset(x, 0, sizeof(*x));
}

void wal_index_reset(struct wal_index *x, uint64_t last)
{
    x->first = last + 1;
    x->last = last;
    x->point_count = 0;
    x->run_count = 0;
}

static void truncate_from(struct wal_index *x, uint64_t index)
{
    while (x->point_count > 0 && x->points[x->point_count - 1].index >= index)
        x->point_count--;
    while (x->run_count > 0 && x->runs[x->run_count - 1].first_index >= index)
        x->run_count--;
}

void wal_index_add(struct wal_index *x, uint64_t index, uint64_t term, uint64_t sequence,
                   uint64_t offset)
{
    bool overwrites = index <= x->last;
    const struct wal_point *p;

    assert(index >= 1);
    assert(index <= x->last + 1);
    if (overwrites)
        truncate_from(x, index);
    if (index < x->first || x->last < x->first)
        x->first = index;
    x->last = index;

    p = x->point_count != 0 ? &x->points[x->point_count - 1] : NULL;
    if (p == NULL || overwrites || p->sequence != sequence ||
        offset - p->offset >= WAL_POINT_BYTES) {
        if (x->point_count == x->point_cap) {
            x->point_cap = MAX(2 * x->point_cap, (size_t)64);
            x->points = xreallocarray(x->points, x->point_cap, sizeof(*x->points));
        }
        x->points[x->point_count++] = (struct wal_point){index, sequence, offset};
    }
    if (x->run_count == 0 || x->runs[x->run_count - 1].term != term) {
        if (x->run_count == x->run_cap) {
            x->run_cap = MAX(2 * x->run_cap, (size_t)16);
            x->runs = xreallocarray(x->runs, x->run_cap, sizeof(*x->runs));
        }
        x->runs[x->run_count++] = (struct wal_term_run){index, term};
    }
}

bool wal_index_term(const struct wal_index *x, uint64_t index, uint64_t *ret_term)
{
    size_t lo = 0, hi = x->run_count;

    if (index < x->first || index > x->last)
        return false;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;

        if (x->runs[mid].first_index <= index)
            lo = mid;
        else
            hi = mid;
    }
    assert(x->run_count != 0);
    *ret_term = x->runs[lo].term;
    return true;
}

size_t wal_index_find(const struct wal_index *x, uint64_t index)
{
    size_t lo = 0, hi = x->point_count;

    assert(index >= x->first);
    assert(index <= x->last);
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;

        if (x->points[mid].index <= index)
            lo = mid;
        else
            hi = mid;
    }
    assert(x->points[lo].index <= index);
    return lo;
}

void wal_index_drop_before(struct wal_index *x, uint64_t sequence)
{
    size_t gone = 0, runs = 0;

    while (gone < x->point_count && x->points[gone].sequence < sequence)
        gone++;
    if (gone == 0)
        return;
    x->point_count -= gone;
    memmove(x->points, x->points + gone, x->point_count * sizeof(*x->points));
    if (x->point_count == 0) {
        wal_index_reset(x, x->last);
        return;
    }
    x->first = x->points[0].index; /* each segment's first live entry has a point */
    while (runs + 1 < x->run_count && x->runs[runs + 1].first_index <= x->first)
        runs++;
    x->run_count -= runs;
    memmove(x->runs, x->runs + runs, x->run_count * sizeof(*x->runs));
}
