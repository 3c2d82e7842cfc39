/*
 * The log as the core sees it: a ring of recent entries, and indexes that say how far each thing
 * has come. Older entries are in the caller's storage.
 *
 *   first                mem_first                                     last
 *     |  in storage only    |            in memory                       |
 *     +---------------------+--------------------------------------------+
 *            applied <= delivered <= commit        stored <= taken <= last
 *
 * An entry leaves memory only when it is durable *and* committed: such an entry never changes, so
 * what storage says about it cannot be out of date, whatever is being written meanwhile.
 */
#include "raftd/core/raft_internal.h"

struct raft_entry *raft_entry_new(raft_index index, raft_term term, enum raft_entry_type type,
                                  struct bytes data)
{
    struct raft_entry *e;

    assert(data.len <= RAFT_ENTRY_BYTES_MAX);
    e = xmalloc(sizeof(*e) + data.len);
    *e = (struct raft_entry){
        .index = index, .term = term, .refs = 1, .len = (uint32_t)data.len, .type = (uint8_t)type};
    if (data.len != 0)
        memcpy(e->data, data.data, data.len);
    return e;
}

struct raft_entry *raft_entry_ref(struct raft_entry *e)
{
    assert(e->refs > 0);
    assert(e->refs < UINT32_MAX);
    e->refs++;
    return e;
}

void raft_entry_unref(struct raft_entry *e)
{
    if (e == NULL)
        return;
    assert(e->refs > 0);
    if (--e->refs == 0)
        free(e);
}

void log_init(struct raft_log *l, const struct raft_storage *storage)
{
    *l = (struct raft_log){.mem_first = 1, .first = 1, .storage = storage};
}

static size_t log_mem_count(const struct raft_log *l)
{
    return (size_t)(l->last + 1 - l->mem_first);
}

static struct raft_entry **log_slot(const struct raft_log *l, raft_index index)
{
    assert(index >= l->mem_first);
    assert(index <= l->last);
    return &l->ents[(l->head + (size_t)(index - l->mem_first)) & (l->cap - 1)];
}

static void log_drop_memory(struct raft_log *l)
{
    for (raft_index i = l->mem_first; i <= l->last; i++)
        raft_entry_unref(*log_slot(l, i));
    l->bytes = 0;
    l->head = 0;
}

void log_fini(struct raft_log *l)
{
    log_drop_memory(l);
    free(l->ents);
    free(l->confs);
    *l = (struct raft_log){0};
}

struct raft_entry *log_entry(const struct raft_log *l, raft_index index)
{
    return *log_slot(l, index);
}

int log_term(const struct raft_log *l, raft_index index, raft_term *ret)
{
    if (index + 1 < l->first || index > l->last)
        return -ENOENT;
    if (index + 1 == l->first) {
        *ret = l->before_term;
        return 0;
    }
    if (index >= l->mem_first) {
        *ret = log_entry(l, index)->term;
        return 0;
    }
    if (index + 1 == l->mem_first) {
        *ret = l->mem_before_term;
        return 0;
    }
    if (l->storage->term == NULL)
        return -ENOENT;
    return l->storage->term(l->storage->user, index, ret) == 0 ? 0 : -ENOENT;
}

raft_term log_last_term(const struct raft_log *l)
{
    raft_term term = 0;
    int r = log_term(l, l->last, &term);

    assert(r == 0);
    return term;
}

static void log_grow(struct raft_log *l)
{
    size_t cap = l->cap != 0 ? l->cap * 2 : 64;
    size_t count = log_mem_count(l);
    struct raft_entry **ents = xcalloc(cap, sizeof(struct raft_entry *));

    for (size_t i = 0; i < count; i++)
        ents[i] = l->ents[(l->head + i) & (l->cap - 1)];
    free(l->ents);
    l->ents = ents;
    l->cap = cap;
    l->head = 0;
}

void log_append(struct raft_log *l, struct raft_entry *e)
{
    assert(e->index == l->last + 1);
    assert(e->term >= 1);
    assert(l->last + 1 == l->first || e->term >= log_last_term(l));
    if (log_mem_count(l) == l->cap)
        log_grow(l);
    l->last++;
    *log_slot(l, e->index) = e;
    l->bytes += entry_bytes(e);
    if (e->type == RAFT_ENTRY_CONF && e->index > l->applied) {
        raft_index *slot = &VEC_PUSH(l->confs, l->conf_count, l->conf_cap);

        assert(l->conf_count == 1 || slot[-1] < e->index);
        *slot = e->index;
    }
}

void log_reset(struct raft_log *l, raft_index index, raft_term term)
{
    log_drop_memory(l);
    l->first = l->mem_first = index + 1;
    l->before_term = l->mem_before_term = term;
    l->last = l->taken = index;
    l->stored = 0;
    l->commit = l->delivered = l->applied = index;
    l->conf_count = 0;
}

static void log_pop_front(struct raft_log *l)
{
    struct raft_entry *e = log_entry(l, l->mem_first);

    l->mem_before_term = e->term;
    l->bytes -= entry_bytes(e);
    l->head = (l->head + 1) & (l->cap - 1);
    l->mem_first++;
    raft_entry_unref(e);
}

void log_compact(struct raft_log *l, raft_index index)
{
    raft_term term = 0;
    int r;

    assert(index <= l->applied + 1);
    if (index <= l->first)
        return;
    r = log_term(l, index - 1, &term);
    assert(r == 0);
    assert(l->stored + 1 >= index); /* only durable entries are delivered, so applied */
    while (l->mem_first < index)
        log_pop_front(l);
    l->first = index;
    l->before_term = term;
}

void log_trim(struct raft_log *l, size_t window_bytes)
{
    while (l->bytes > window_bytes && l->mem_first <= l->last &&
           l->mem_first <= MIN(l->stored, l->commit))
        log_pop_front(l);
}

static void slice_reserve(struct raft_entry ***vec, size_t *cap, size_t count)
{
    if (*cap >= count)
        return;
    *cap = MAX(count, *cap * 2);
    *vec = xreallocarray(*vec, *cap, sizeof(**vec));
}

int log_slice(const struct raft_log *l, raft_id peer, raft_index lo, raft_index hi,
              size_t max_bytes, struct raft_entry ***ret, size_t *ret_count, size_t *ret_cap)
{
    size_t bytes = 0, count = 0;
    int r;

    assert(lo <= hi);
    assert(hi <= l->last);
    assert(*ret_count == 0);
    if (lo < l->first)
        return -ENODATA;
    if (lo < l->mem_first) {
        enum { STORAGE_ENTRIES_MAX = 4096 };
        size_t max_count = (size_t)MIN(MIN(hi, l->mem_first - 1) - lo + 1, STORAGE_ENTRIES_MAX);

        if (l->storage->entries == NULL)
            return -ENODATA;
        slice_reserve(ret, ret_cap, max_count);
        r = l->storage->entries(l->storage->user, peer, lo, lo + max_count - 1, max_bytes,
                                max_count, *ret, &count);
        if (r != 0)
            return r == -ENODATA ? r : -EAGAIN;
        assert(count >= 1);
        assert(count <= max_count);
        for (size_t i = 0; i < count; i++)
            assert((*ret)[i]->index == lo + i);
        *ret_count = count;
        return 0;
    }
    for (raft_index i = lo; i <= hi; i++) {
        bytes += log_entry(l, i)->len;
        if (count != 0 && bytes > max_bytes)
            break;
        count++;
    }
    slice_reserve(ret, ret_cap, count);
    for (size_t i = 0; i < count; i++)
        (*ret)[i] = raft_entry_ref(log_entry(l, lo + i));
    *ret_count = count;
    return 0;
}

/* Terms never decrease along the log: halve the distance. */
raft_index log_find_by_term(const struct raft_log *l, raft_index index, raft_term term,
                            raft_term *ret_term)
{
    raft_index lo = l->first - 1, hi = MIN(index, l->last);
    raft_term t = 0;

    if (hi < lo) {
        *ret_term = 0;
        return index;
    }
    while (lo < hi) {
        raft_index mid = lo + (hi - lo + 1) / 2;

        if (log_term(l, mid, &t) == 0 && t <= term)
            lo = mid;
        else
            hi = mid - 1;
    }
    if (log_term(l, lo, &t) != 0)
        t = 0;
    *ret_term = t;
    return lo;
}

void log_conf_applied(struct raft_log *l, raft_index index)
{
    size_t n = 0;

    while (n < l->conf_count && l->confs[n] <= index)
        n++;
    if (n == 0)
        return;
    l->conf_count -= n;
    memmove(l->confs, l->confs + n, l->conf_count * sizeof(*l->confs));
}
