#include "stored/kv/kv_entry.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "lib/util/xmalloc.h"

struct kv_entry *kv_entry_new(struct bytes key)
{
    struct kv_entry *e = xmalloc(sizeof(*e) + key.len);

    *e = (struct kv_entry){.key_len = (uint32_t)key.len};
    if (key.len != 0)
        memcpy(e->key, key.data, key.len);
    return e;
}

void kv_entry_free(struct kv_entry *e)
{
    if (e != NULL)
        free(e->history);
    free(e);
}

/* ---- history ---- */

static void history_push(struct kv_entry *e, struct kv_cell cell)
{
    struct kv_history *h = e->history;

    if (h == NULL || h->count == h->cap) {
        uint32_t cap = h == NULL ? 2 : h->cap + h->cap / 2 + 1;

        if (h == NULL) {
            h = xmalloc(sizeof(*h) + cap * sizeof(h->cells[0]));
            h->count = h->generations_end = 0;
        } else {
            h = xrealloc(h, sizeof(*h) + cap * sizeof(h->cells[0]));
        }
        h->cap = cap;
        e->history = h;
    }
    h->cells[h->count++] = cell;
}

void kv_entry_push_newest(struct kv_entry *e)
{
    if (!kv_entry_is_live(e)) {
        history_push(e, (struct kv_cell){.main = e->create_revision,
                                         .sub = (uint32_t)e->version,
                                         .size = KV_CELL_GENERATION |
                                                 (uint32_t)((uint64_t)e->version >> 32)});
    }
    history_push(e, (struct kv_cell){.main = e->mod_revision, .sub = e->mod_sub, .size = e->size});
    if (!kv_entry_is_live(e))
        e->history->generations_end = e->history->count;
}

void kv_entry_set_history(struct kv_entry *e, const void *cells, uint32_t count)
{
    struct kv_history *h;

    free(e->history);
    e->history = NULL;
    if (count == 0)
        return;
    h = e->history = xmalloc(sizeof(*h) + count * sizeof(h->cells[0]));
    h->count = h->cap = count;
    h->generations_end = 0;
    memcpy(h->cells, cells, count * sizeof(h->cells[0]));
    for (uint32_t i = 0; i < count; i++)
        if (h->cells[i].size == KV_CELL_DELETED)
            h->generations_end = i + 1;
}

static bool is_generation(const struct kv_cell *c)
{
    return (c->size & KV_CELL_GENERATION) == KV_CELL_GENERATION;
}

static int64_t generation_version(const struct kv_cell *c)
{
    return (int64_t)((uint64_t)(c->size & ~KV_CELL_GENERATION) << 32 | c->sub);
}

/* Cells with main <= revision: how many of the array's front they are (a generation cell belongs
 * to the deletion after it). */
static uint32_t cells_up_to(const struct kv_history *h, int64_t revision)
{
    uint32_t from = 0, to = h->count;

    while (from < to) {
        uint32_t mid = from + (to - from) / 2;
        uint32_t probe = is_generation(&h->cells[mid]) ? mid + 1 : mid;

        if (h->cells[probe].main <= revision)
            from = probe + 1;
        else
            to = mid;
    }
    return from;
}

/* create_revision and version of the put in cell i. */
static void describe_cell(const struct kv_entry *e, uint32_t i, struct kv_version *ret)
{
    const struct kv_history *h = e->history;
    const struct kv_cell *c = &h->cells[i];

    ret->main = c->main;
    ret->sub = c->sub;
    ret->size = c->size;
    if (i >= h->generations_end) {
        ret->create_revision = e->create_revision;
        /* the puts after it: the rest of the cells, and the newest version if it is one */
        ret->version = e->version - (int64_t)(h->count - i - 1) - kv_entry_is_live(e);
        return;
    }
    for (uint32_t j = i + 1;; j++) {
        assert(j < h->count);
        if (is_generation(&h->cells[j])) {
            ret->create_revision = h->cells[j].main;
            ret->version = generation_version(&h->cells[j]) - (int64_t)(j - i - 1);
            return;
        }
    }
}

bool kv_entry_at(const struct kv_entry *e, int64_t revision, struct kv_version *ret)
{
    uint32_t n;

    if (e->mod_revision <= revision) {
        if (!kv_entry_is_live(e))
            return false;
        *ret = (struct kv_version){.main = e->mod_revision,
                                   .sub = e->mod_sub,
                                   .create_revision = e->create_revision,
                                   .version = e->version,
                                   .size = e->size};
        return true;
    }
    if (e->history == NULL)
        return false;
    n = cells_up_to(e->history, revision);
    if (n == 0 || e->history->cells[n - 1].size == KV_CELL_DELETED)
        return false;
    describe_cell(e, n - 1, ret);
    return true;
}

bool kv_entry_before(const struct kv_entry *e, int64_t revision, struct kv_entry *ret,
                     uint32_t *ret_cells)
{
    const struct kv_history *h = e->history;
    uint32_t n = h != NULL ? cells_up_to(h, revision) : 0;
    struct kv_version v;

    if (n == 0)
        return false;
    *ret = *e;
    ret->lease = 0;
    if (h->cells[n - 1].size == KV_CELL_DELETED) {
        assert(n >= 2 && is_generation(&h->cells[n - 2]));
        ret->create_revision = h->cells[n - 2].main;
        ret->version = generation_version(&h->cells[n - 2]);
        ret->mod_revision = h->cells[n - 1].main;
        ret->mod_sub = h->cells[n - 1].sub;
        ret->size = KV_CELL_DELETED;
        *ret_cells = n - 2;
        return true;
    }
    describe_cell(e, n - 1, &v);
    ret->create_revision = v.create_revision;
    ret->version = v.version;
    ret->mod_revision = v.main;
    ret->mod_sub = v.sub;
    ret->size = v.size;
    *ret_cells = n - 1;
    return true;
}

size_t kv_entry_versions(const struct kv_entry *e, int64_t from, int64_t to, struct kv_cell *ret,
                         size_t max)
{
    const struct kv_history *h = e->history;
    size_t count = 0;

    if (e->mod_revision < from)
        return 0;
    for (uint32_t i = h != NULL ? cells_up_to(h, from - 1) : 0;
         h != NULL && i < h->count && count < max; i++) {
        if (is_generation(&h->cells[i]))
            continue;
        if (h->cells[i].main > to)
            return count;
        ret[count++] = h->cells[i];
    }
    if (count < max && e->mod_revision <= to)
        ret[count++] = (struct kv_cell){e->mod_revision, e->mod_sub, e->size};
    return count;
}

bool kv_entry_has(const struct kv_entry *e, int64_t main, uint32_t sub)
{
    const struct kv_history *h = e->history;

    if (e->mod_revision == main && e->mod_sub == sub)
        return true;
    for (uint32_t n = h != NULL ? cells_up_to(h, main) : 0; n > 0; n--) {
        const struct kv_cell *c = &h->cells[n - 1];

        if (is_generation(c))
            continue;
        if (c->main != main)
            return false;
        if (c->sub == sub)
            return true;
    }
    return false;
}

bool kv_entry_keeps(const struct kv_entry *e, int64_t main, uint32_t sub, int64_t compact)
{
    struct kv_version v;

    return main > compact || (kv_entry_at(e, compact, &v) && v.main == main && v.sub == sub);
}

bool kv_entry_compact(struct kv_entry *e, int64_t revision, kv_entry_dropped dropped, void *user,
                      uint64_t *ret_record_bytes)
{
    struct kv_history *h = e->history;
    bool newest_counts = e->mod_revision <= revision;
    bool remove = newest_counts && !kv_entry_is_live(e) && e->mod_revision < revision;
    uint64_t record_bytes = 0;
    uint32_t drop;

    if (h != NULL) {
        /* the newest version <= revision stays, unless it is an older deletion */
        drop = newest_counts ? h->count : cells_up_to(h, revision);
        if (!newest_counts && drop > 0 &&
            !(h->cells[drop - 1].size == KV_CELL_DELETED && h->cells[drop - 1].main < revision))
            drop--;
        if (drop > 0 && drop < h->count && h->cells[drop].size == KV_CELL_DELETED)
            drop--; /* its generation cell stays with it; what it tells nobody asks */
        for (uint32_t i = 0; i < drop; i++) {
            const struct kv_cell *c = &h->cells[i];

            if (is_generation(c))
                continue;
            if (c->size != KV_CELL_DELETED)
                record_bytes += c->size;
            dropped(user, c->main, c->sub, c->size == KV_CELL_DELETED);
        }
        if (drop > 0) {
            h->count -= drop;
            h->generations_end = h->generations_end > drop ? h->generations_end - drop : 0;
            memmove(h->cells, &h->cells[drop], h->count * sizeof(h->cells[0]));
            if (h->count == 0) {
                free(h);
                h = NULL;
            } else if (h->cap > 2 * h->count) {
                h = xrealloc(h, sizeof(*h) + h->count * sizeof(h->cells[0]));
                h->cap = h->count;
            }
            e->history = h;
        }
    }
    if (remove)
        dropped(user, e->mod_revision, e->mod_sub, true);
    *ret_record_bytes = record_bytes;
    return remove;
}
