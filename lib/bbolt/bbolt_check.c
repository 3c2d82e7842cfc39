/*
 * The structure as a whole: a bit per page, set when something reaches it. Pages that nothing
 * reaches are no error: etcd keeps no list of free pages in its files.
 */
#include "lib/bbolt/bbolt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "lib/bbolt/bbolt_format.h"
#include "lib/bbolt/bbolt_internal.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum { NESTING_MAX = 8 }; /* etcd nests buckets once */

struct check {
    const struct bbolt *db;
    uint8_t *reached;
    uint64_t bad_page;
    const char *what;
};

static int wrong(struct check *k, uint64_t page, const char *what)
{
    k->bad_page = page;
    k->what = what;
    return -EBADMSG;
}

static int reach(struct check *k, uint64_t id, uint64_t units)
{
    for (uint64_t i = id; i < id + units; i++) {
        uint8_t bit = (uint8_t)(1U << (i & 7));

        if ((k->reached[i >> 3] & bit) != 0)
            return wrong(k, i, "multiple references");
        k->reached[i >> 3] |= bit;
    }
    return 0;
}

/* Marks pages as a cursor enters them: those of levels that were not there before. */
static int reach_levels(struct check *k, const struct bbolt_cursor *c, const uint8_t **seen)
{
    for (unsigned int i = 0; i < c->depth; i++) {
        struct bytes page = c->levels[i].page;
        uint64_t id;
        int r;

        if (seen[i] == page.data)
            continue;
        seen[i] = page.data;
        memcpy(&id, page.data, sizeof(id));
        r = reach(k, id, page.len / k->db->page_bytes);
        if (r != 0)
            return r;
    }
    return 0;
}

static int check_bucket(struct check *k, const struct bbolt_bucket *bucket, unsigned int nesting)
{
    const uint8_t *seen[BBOLT_CURSOR_DEPTH] = {NULL};
    struct bbolt_cursor c;
    struct bbolt_item item;
    int r;

    if (nesting > NESTING_MAX)
        return wrong(k, bucket->root, "buckets nest too deeply");
    bbolt_cursor_init(&c, bucket);
    while ((r = bbolt_cursor_next(&c, &item)) == 1) {
        struct bbolt_bucket inner;

        r = bucket->root != 0 ? reach_levels(k, &c, seen) : 0;
        if (r != 0)
            return r;
        if (!item.is_bucket)
            continue;
        if (bbolt_bucket_decode(k->db, item.value, &inner) != 0)
            return wrong(k, c.bad_page, "invalid bucket");
        r = check_bucket(k, &inner, nesting + 1);
        if (r != 0)
            return r;
    }
    if (r < 0)
        return wrong(k, c.bad_page, "invalid page, or keys out of order");
    if (!c.has_last && bucket->root != 0) { /* empty: no item showed the page */
        struct bytes page;

        if (bbolt_page_get(k->db, bucket->root, &page) == 0)
            r = reach(k, bucket->root, page.len / k->db->page_bytes);
    }
    return r;
}

static int check_freelist(struct check *k)
{
    uint64_t id = k->db->freelist_page, count, at = BBOLT_HEADER_BYTES;
    struct bytes page;
    int r;

    if (id == BBOLT_NO_FREELIST)
        return 0;
    if (bbolt_page_get(k->db, id, &page) != 0 || bbolt_page_flags(page) != BBOLT_PAGE_FREELIST)
        return wrong(k, id, "invalid freelist");
    r = reach(k, id, page.len / k->db->page_bytes);
    if (r != 0)
        return r;
    count = bbolt_page_count(page);
    if (count == UINT16_MAX) {
        memcpy(&count, page.data + at, sizeof(count));
        at += sizeof(count);
    }
    if (count > (page.len - at) / sizeof(uint64_t))
        return wrong(k, id, "invalid freelist");
    for (uint64_t i = 0; i < count; i++, at += sizeof(uint64_t)) {
        uint64_t unused;

        memcpy(&unused, page.data + at, sizeof(unused));
        if (unused < 2 || unused >= k->db->page_count)
            return wrong(k, unused, "free page out of range");
        r = reach(k, unused, 1);
        if (r != 0)
            return r;
    }
    return 0;
}

int bbolt_check(const struct bbolt *db, char **ret_error)
{
    CLEANUP(freep) uint8_t *reached = calloc(db->page_count / 8 + 1, 1);
    struct check k = {.db = db, .reached = reached};
    struct bbolt_bucket root = bbolt_root(db);
    int r;

    if (reached == NULL)
        return -ENOMEM;
    r = check_bucket(&k, &root, 0);
    if (r == 0)
        r = check_freelist(&k);
    if (r == -EBADMSG)
        *ret_error = xasprintf("page %" PRIu64 ": %s", k.bad_page, k.what);
    return r;
}
