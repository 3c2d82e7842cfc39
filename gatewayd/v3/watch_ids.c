/* See watch_ids.h. */
#include "gatewayd/v3/watch_ids.h"

#include <assert.h>
#include <stdlib.h>

#include "gatewayd/watches.h"
#include "lib/util/xmalloc.h"

enum { HEADS_MIN = 4 };

static struct watcher **head_of(const struct watch_ids *ids, int64_t watch_id)
{
    /* most clients leave the choice to us: ids follow each other; those who choose may not */
    uint64_t x = (uint64_t)watch_id;

    if (ids->heads == NULL)
        return (struct watcher **)&ids->one;
    return &ids->heads[(x ^ x >> 17 ^ x >> 34) & ids->mask];
}

void watch_ids_fini(struct watch_ids *ids)
{
    free(ids->heads);
    *ids = (struct watch_ids){0};
}

struct watcher *watch_ids_get(const struct watch_ids *ids, int64_t watch_id)
{
    struct watcher *w = *head_of(ids, watch_id);

    while (w != NULL && w->watch_id != watch_id)
        w = w->same_head;
    return w;
}

static void put(struct watch_ids *ids, struct watcher *w)
{
    struct watcher **head = head_of(ids, w->watch_id);

    w->same_head = *head;
    *head = w;
}

static void grow(struct watch_ids *ids)
{
    struct watch_ids old = *ids;
    size_t heads = old.heads == NULL ? HEADS_MIN : (old.mask + 1) * 2;

    ids->heads = xcalloc(heads, sizeof(struct watcher *));
    ids->mask = heads - 1;
    ids->one = NULL;
    for (size_t i = 0; i <= old.mask; i++) {
        struct watcher *next;

        for (struct watcher *w = old.heads != NULL ? old.heads[i] : old.one; w != NULL; w = next) {
            next = w->same_head;
            put(ids, w);
        }
    }
    free(old.heads);
}

void watch_ids_add(struct watch_ids *ids, struct watcher *w)
{
    assert(watch_ids_get(ids, w->watch_id) == NULL);
    if (ids->count == ids->mask + 1)
        grow(ids);
    put(ids, w);
    ids->count++;
}

void watch_ids_remove(struct watch_ids *ids, struct watcher *w)
{
    struct watcher **link = head_of(ids, w->watch_id);

    while (*link != w) {
        assert(*link != NULL);
        link = &(*link)->same_head;
    }
    *link = w->same_head;
    w->same_head = NULL;
    ids->count--;
}
