/*
 * Reading. Pages are looked at through page_get, elements through leaf_item and branch_child;
 * these three check bounds, nobody else touches offsets.
 *
 * A cursor ends on any input: a page other than a root must not be empty, keys must ascend over
 * the whole walk, and the depth is limited. So each leaf is visited once, whatever branches say.
 */
#include "lib/bbolt/bbolt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "lib/bbolt/bbolt_format.h"
#include "lib/bbolt/bbolt_internal.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

/* ---- meta pages ---- */

static bool read_meta(struct bytes image, uint64_t offset, uint32_t page_bytes, struct bbolt *ret)
{
    struct wire_reader r;
    const uint8_t *p;
    uint32_t magic, version;
    uint16_t flags;
    uint64_t checksum;

    if (offset > image.len || image.len - offset < BBOLT_HEADER_BYTES + BBOLT_META_BYTES)
        return false;
    p = image.data + offset;
    memcpy(&flags, p + 8, sizeof(flags));
    p += BBOLT_HEADER_BYTES;
    r = wire_reader(bytes_of(p, BBOLT_META_BYTES));
    *ret = (struct bbolt){.image = image};
    magic = wire_get_u32(&r);
    version = wire_get_u32(&r);
    ret->page_bytes = wire_get_u32(&r);
    (void)wire_get_u32(&r); /* flags: unused */
    ret->root_page = wire_get_u64(&r);
    (void)wire_get_u64(&r); /* sequence of the root bucket: unused */
    ret->freelist_page = wire_get_u64(&r);
    ret->page_count = wire_get_u64(&r);
    ret->transaction = wire_get_u64(&r);
    checksum = wire_get_u64(&r);
    return (flags & BBOLT_PAGE_META) != 0 && magic == BBOLT_MAGIC && version == BBOLT_VERSION &&
           checksum == bbolt_fnv64a(p, BBOLT_META_CHECKED_BYTES) &&
           ret->page_bytes >= BBOLT_PAGE_BYTES_MIN && ret->page_bytes <= BBOLT_PAGE_BYTES_MAX &&
           (ret->page_bytes & (ret->page_bytes - 1)) == 0 &&
           (page_bytes == 0 || ret->page_bytes == page_bytes);
}

int bbolt_open(struct bytes image, struct bbolt *ret, char **ret_error)
{
    struct bbolt first, second, db;
    bool has_first = read_meta(image, 0, 0, &first), has_second = false;

    if (has_first) {
        has_second = read_meta(image, first.page_bytes, first.page_bytes, &second);
    } else {
        for (uint32_t size = BBOLT_PAGE_BYTES_MIN; size <= BBOLT_PAGE_BYTES_MAX && !has_second;
             size *= 2)
            has_second = read_meta(image, size, size, &second);
    }
    if (!has_first && !has_second) {
        *ret_error = xstrdup("invalid database");
        return -EBADMSG;
    }
    db = !has_first || (has_second && second.transaction > first.transaction) ? second : first;
    if (db.page_count > image.len / db.page_bytes) {
        *ret_error = xasprintf("file of %zu bytes is too short for %" PRIu64 " pages of %" PRIu32,
                               image.len, db.page_count, db.page_bytes);
        return -EBADMSG;
    }
    if (db.root_page < 2 || db.root_page >= db.page_count) {
        *ret_error = xasprintf("root page %" PRIu64 " is none of %" PRIu64 " pages", db.root_page,
                               db.page_count);
        return -EBADMSG;
    }
    *ret = db;
    return 0;
}

uint64_t bbolt_size(const struct bbolt *db)
{
    return db->page_count * db->page_bytes;
}

/* ---- pages and elements ---- */

uint16_t bbolt_page_flags(struct bytes page)
{
    uint16_t flags;

    memcpy(&flags, page.data + 8, sizeof(flags));
    return flags;
}

uint16_t bbolt_page_count(struct bytes page)
{
    uint16_t count;

    memcpy(&count, page.data + 10, sizeof(count));
    return count;
}

int bbolt_page_get(const struct bbolt *db, uint64_t id, struct bytes *ret)
{
    const uint8_t *p;
    uint64_t own;
    uint32_t overflow;

    if (id < 2 || id >= db->page_count)
        return -EBADMSG;
    p = db->image.data + id * db->page_bytes;
    memcpy(&own, p, sizeof(own));
    memcpy(&overflow, p + 12, sizeof(overflow));
    if (own != id || overflow >= db->page_count - id)
        return -EBADMSG;
    *ret = bytes_of(p, ((size_t)overflow + 1) * db->page_bytes);
    return 0;
}

/* A node page: of one of the two kinds, with room for its elements. */
static bool node_fits(struct bytes page)
{
    uint16_t flags = bbolt_page_flags(page);

    return (flags == BBOLT_PAGE_BRANCH || flags == BBOLT_PAGE_LEAF) &&
           BBOLT_HEADER_BYTES + (size_t)bbolt_page_count(page) * BBOLT_ELEMENT_BYTES <= page.len;
}

static bool take_run(struct bytes page, size_t at, uint64_t pos, uint64_t len, struct bytes *ret)
{
    if (pos > page.len - at || len > page.len - at - pos)
        return false;
    *ret = bytes_of(page.data + at + pos, len);
    return true;
}

int bbolt_leaf_item(struct bytes page, uint32_t i, struct bbolt_item *ret)
{
    size_t at = BBOLT_HEADER_BYTES + (size_t)i * BBOLT_ELEMENT_BYTES;
    struct wire_reader r = wire_reader(bytes_of(page.data + at, BBOLT_ELEMENT_BYTES));
    uint32_t flags = wire_get_u32(&r), pos = wire_get_u32(&r);
    uint32_t key_len = wire_get_u32(&r), value_len = wire_get_u32(&r);

    if (key_len > BBOLT_KEY_BYTES_MAX || !take_run(page, at, pos, key_len, &ret->key) ||
        !take_run(page, at, (uint64_t)pos + key_len, value_len, &ret->value))
        return -EBADMSG;
    ret->is_bucket = (flags & BBOLT_LEAF_BUCKET) != 0;
    return 0;
}

int bbolt_branch_child(struct bytes page, uint32_t i, struct bytes *ret_key, uint64_t *ret_page)
{
    size_t at = BBOLT_HEADER_BYTES + (size_t)i * BBOLT_ELEMENT_BYTES;
    struct wire_reader r = wire_reader(bytes_of(page.data + at, BBOLT_ELEMENT_BYTES));
    uint32_t pos = wire_get_u32(&r), key_len = wire_get_u32(&r);

    *ret_page = wire_get_u64(&r);
    if (key_len > BBOLT_KEY_BYTES_MAX || !take_run(page, at, pos, key_len, ret_key))
        return -EBADMSG;
    return 0;
}

/* ---- buckets ---- */

struct bbolt_bucket bbolt_root(const struct bbolt *db)
{
    return (struct bbolt_bucket){.db = db, .root = db->root_page};
}

int bbolt_bucket_decode(const struct bbolt *db, struct bytes value, struct bbolt_bucket *ret)
{
    struct wire_reader r = wire_reader(value);
    struct bbolt_bucket b = {.db = db, .root = wire_get_u64(&r), .sequence = wire_get_u64(&r)};

    if (r.bad)
        return -EBADMSG;
    if (b.root == 0) {
        b.inline_page = wire_rest(&r);
        if (b.inline_page.len < BBOLT_HEADER_BYTES ||
            bbolt_page_flags(b.inline_page) != BBOLT_PAGE_LEAF)
            return -EBADMSG;
    }
    *ret = b;
    return 0;
}

/* The item with this key. */
static int find(const struct bbolt_bucket *in, struct bytes key, struct bbolt_item *ret)
{
    struct bbolt_cursor c;
    int r;

    bbolt_cursor_init(&c, in);
    while ((r = bbolt_cursor_next(&c, ret)) == 1) {
        int order = bytes_cmp(ret->key, key);

        if (order == 0)
            return 0;
        if (order > 0)
            return -ENOENT;
    }
    return r == 0 ? -ENOENT : r;
}

int bbolt_bucket_find(const struct bbolt_bucket *in, struct bytes name, struct bbolt_bucket *ret)
{
    struct bbolt_item item;
    int r = find(in, name, &item);

    if (r != 0)
        return r;
    return item.is_bucket ? bbolt_bucket_decode(in->db, item.value, ret) : -ENOENT;
}

int bbolt_get(const struct bbolt_bucket *in, struct bytes key, struct bytes *ret)
{
    struct bbolt_item item;
    int r = find(in, key, &item);

    if (r != 0)
        return r;
    if (item.is_bucket)
        return -ENOENT;
    *ret = item.value;
    return 0;
}

/* ---- walking ---- */

void bbolt_cursor_init(struct bbolt_cursor *c, const struct bbolt_bucket *bucket)
{
    c->bucket = *bucket;
    c->depth = 0;
    c->ended = c->has_last = false;
    c->bad_page = 0;
}

static int push(struct bbolt_cursor *c, struct bytes page)
{
    uint16_t count;

    if (c->depth == BBOLT_CURSOR_DEPTH || !node_fits(page))
        return -EBADMSG;
    count = bbolt_page_count(page);
    if (count == 0 && (c->depth > 0 || bbolt_page_flags(page) != BBOLT_PAGE_LEAF))
        return -EBADMSG; /* only an empty bucket's root */
    c->levels[c->depth++] = (struct bbolt_level){.page = page, .count = count};
    return 0;
}

static int push_page(struct bbolt_cursor *c, uint64_t id)
{
    struct bytes page;
    int r = bbolt_page_get(c->bucket.db, id, &page);

    if (r == 0)
        r = push(c, page);
    if (r != 0)
        c->bad_page = id;
    return r;
}

static int take_item(struct bbolt_cursor *c, struct bbolt_level *level, struct bbolt_item *ret)
{
    int r = bbolt_leaf_item(level->page, level->at++, ret);

    if (r == 0 && c->has_last && bytes_cmp(c->last, ret->key) >= 0)
        r = -EBADMSG;
    if (r != 0) {
        memcpy(&c->bad_page, level->page.data, sizeof(c->bad_page));
        return r;
    }
    c->last = ret->key;
    c->has_last = true;
    return 1;
}

static int step(struct bbolt_cursor *c, struct bbolt_item *ret)
{
    int r = 0;

    if (c->depth == 0)
        r = c->bucket.root == 0 ? push(c, c->bucket.inline_page) : push_page(c, c->bucket.root);
    while (r == 0) {
        struct bbolt_level *level = &c->levels[c->depth - 1];
        struct bytes key;
        uint64_t child;

        if (level->at == level->count) {
            if (--c->depth == 0)
                return 0;
            continue;
        }
        if (bbolt_page_flags(level->page) == BBOLT_PAGE_LEAF)
            return take_item(c, level, ret);
        r = bbolt_branch_child(level->page, level->at++, &key, &child);
        if (r == 0)
            r = push_page(c, child);
    }
    return r;
}

int bbolt_cursor_next(struct bbolt_cursor *c, struct bbolt_item *ret)
{
    int r;

    if (c->ended)
        return 0;
    r = step(c, ret);
    c->ended = r != 1;
    return r;
}
