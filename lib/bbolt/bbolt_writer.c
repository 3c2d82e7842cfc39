/*
 * Two trees grow at the same time: that of the bucket at hand, and the directory of buckets. Each
 * is filled from the left, a page per level; a full page leaves and becomes an element of the
 * level above. Page numbers are given in the order of leaving, so both passes agree on them.
 *
 * Pages are filled to the brim: the bucket that is large (etcd's revisions) is only appended to.
 */
#include "lib/bbolt/bbolt_writer.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>

#include "lib/bbolt/bbolt_format.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

enum {
    LEVELS_MAX = 32,
    CHILDREN_MIN = 2, /* of a branch, however long their keys: else the tree would have no top */
    FREELIST_PAGE = 2,
    FIRST_PAGE = 3,
    POS_AT = 4, /* of a leaf element; a branch element begins with it */
};

struct level {
    uint32_t count;
    size_t bytes; /* of elements, keys and values */
    uint64_t pages; /* that have left */
    struct buf first_key;
    struct buf elements, data; /* writing only */
};

struct tree {
    struct level levels[LEVELS_MAX];
    struct buf last_key;
};

struct bbolt_writer {
    struct bbolt_layout planned;
    struct buf *out; /* NULL: measuring */
    uint64_t next_page;
    bool in_bucket;
    struct buf name;
    struct tree bucket, directory;
};

uint64_t bbolt_layout_bytes(const struct bbolt_layout *layout)
{
    return layout->page_count * BBOLT_PAGE_BYTES;
}

/* ---- pages ---- */

static void put_page_header(struct buf *b, uint64_t id, uint16_t flags, uint32_t count,
                            uint64_t units)
{
    wire_put_u64(b, id);
    wire_put_u16(b, flags);
    wire_put_u16(b, (uint16_t)count);
    wire_put_u32(b, (uint32_t)(units - 1));
}

static void pad_page(struct buf *b, size_t used, uint64_t units)
{
    size_t rest = units * BBOLT_PAGE_BYTES - used;

    memset(buf_reserve(b, rest), 0, rest);
    b->len += rest;
}

static void put_meta(struct bbolt_writer *w, uint64_t page, uint64_t transaction)
{
    size_t at;

    put_page_header(w->out, page, BBOLT_PAGE_META, 0, 1);
    at = w->out->len;
    wire_put_u32(w->out, BBOLT_MAGIC);
    wire_put_u32(w->out, BBOLT_VERSION);
    wire_put_u32(w->out, BBOLT_PAGE_BYTES);
    wire_put_u32(w->out, 0);
    wire_put_u64(w->out, w->planned.root_page);
    wire_put_u64(w->out, 0);
    wire_put_u64(w->out, FREELIST_PAGE);
    wire_put_u64(w->out, w->planned.page_count);
    wire_put_u64(w->out, transaction);
    assert(w->out->len - at == BBOLT_META_CHECKED_BYTES);
    wire_put_u64(w->out, bbolt_fnv64a(w->out->data + at, BBOLT_META_CHECKED_BYTES));
    pad_page(w->out, BBOLT_HEADER_BYTES + BBOLT_META_BYTES, 1);
}

/* Positions count from their own element: known once the number of elements is. */
static void place(struct level *level, size_t pos_at)
{
    uint32_t to_data = level->count * BBOLT_ELEMENT_BYTES;

    for (uint32_t i = 0; i < level->count; i++, to_data -= BBOLT_ELEMENT_BYTES) {
        uint8_t *p = level->elements.data + i * BBOLT_ELEMENT_BYTES + pos_at;
        uint32_t pos;

        memcpy(&pos, p, sizeof(pos));
        pos += to_data;
        memcpy(p, &pos, sizeof(pos));
    }
}

/* Writes the level's page, empties the level. The page's number. */
static uint64_t emit(struct bbolt_writer *w, struct level *level, bool is_leaf)
{
    size_t used = BBOLT_HEADER_BYTES + level->bytes;
    uint64_t id = w->next_page, units = (used + BBOLT_PAGE_BYTES - 1) / BBOLT_PAGE_BYTES;

    if (w->out != NULL) {
        place(level, is_leaf ? POS_AT : 0);
        put_page_header(w->out, id, is_leaf ? BBOLT_PAGE_LEAF : BBOLT_PAGE_BRANCH, level->count,
                        units);
        buf_append_bytes(w->out, buf_bytes(&level->elements));
        buf_append_bytes(w->out, buf_bytes(&level->data));
        pad_page(w->out, used, units);
        buf_clear(&level->elements);
        buf_clear(&level->data);
        buf_trim(&level->data, 2 * (size_t)BBOLT_PAGE_BYTES);
    }
    w->next_page += units;
    level->count = 0;
    level->bytes = 0;
    level->pages++;
    return id;
}

/* ---- trees ---- */

static void tree_fini(struct tree *t)
{
    for (size_t i = 0; i < LEVELS_MAX; i++) {
        buf_fini(&t->levels[i].first_key);
        buf_fini(&t->levels[i].elements);
        buf_fini(&t->levels[i].data);
    }
    buf_fini(&t->last_key);
}

static void make_room(struct bbolt_writer *w, struct tree *t, unsigned int depth, size_t need);

static void add_child(struct bbolt_writer *w, struct tree *t, unsigned int depth, struct bytes key,
                      uint64_t page)
{
    struct level *level = &t->levels[depth];

    make_room(w, t, depth, BBOLT_ELEMENT_BYTES + key.len);
    if (level->count++ == 0) {
        buf_clear(&level->first_key);
        buf_append_bytes(&level->first_key, key);
    }
    level->bytes += BBOLT_ELEMENT_BYTES + key.len;
    if (w->out == NULL)
        return;
    wire_put_u32(&level->elements, (uint32_t)level->data.len);
    wire_put_u32(&level->elements, (uint32_t)key.len);
    wire_put_u64(&level->elements, page);
    buf_append_bytes(&level->data, key);
}

static void add_item(struct bbolt_writer *w, struct tree *t, uint32_t flags, struct bytes key,
                     struct bytes value)
{
    struct level *level = &t->levels[0];

    assert(key.len > 0 && key.len <= BBOLT_WRITER_KEY_BYTES_MAX);
    assert(value.len <= BBOLT_VALUE_BYTES_MAX);
    assert(t->last_key.len == 0 || bytes_cmp(buf_bytes(&t->last_key), key) < 0);
    buf_clear(&t->last_key);
    buf_append_bytes(&t->last_key, key);
    make_room(w, t, 0, BBOLT_ELEMENT_BYTES + key.len + value.len);
    if (level->count++ == 0) {
        buf_clear(&level->first_key);
        buf_append_bytes(&level->first_key, key);
    }
    level->bytes += BBOLT_ELEMENT_BYTES + key.len + value.len;
    if (w->out == NULL)
        return;
    wire_put_u32(&level->elements, flags);
    wire_put_u32(&level->elements, (uint32_t)level->data.len);
    wire_put_u32(&level->elements, (uint32_t)key.len);
    wire_put_u32(&level->elements, (uint32_t)value.len);
    buf_append_bytes(&level->data, key);
    buf_append_bytes(&level->data, value);
}

/* A full page becomes an element of the level above. */
static void push_up(struct bbolt_writer *w, struct tree *t, unsigned int depth)
{
    struct level *level = &t->levels[depth];
    uint64_t page = emit(w, level, depth == 0);

    assert(depth + 1 < LEVELS_MAX);
    add_child(w, t, depth + 1, buf_bytes(&level->first_key), page);
}

static void make_room(struct bbolt_writer *w, struct tree *t, unsigned int depth, size_t need)
{
    const struct level *level = &t->levels[depth];

    if (level->count >= (depth == 0 ? 1 : CHILDREN_MIN) &&
        BBOLT_HEADER_BYTES + level->bytes + need > BBOLT_PAGE_BYTES)
        push_up(w, t, depth);
}

/* What is left leaves; the only page of its level is the root. */
static uint64_t tree_end(struct bbolt_writer *w, struct tree *t)
{
    unsigned int depth = 0;
    uint64_t root;

    while (t->levels[depth].pages > 0)
        push_up(w, t, depth++);
    root = emit(w, &t->levels[depth], depth == 0);
    for (unsigned int i = 0; i <= depth; i++)
        t->levels[i].pages = 0;
    buf_clear(&t->last_key);
    return root;
}

/* ---- the file ---- */

struct bbolt_writer *bbolt_writer_new(const struct bbolt_layout *layout, struct buf *out)
{
    struct bbolt_writer *w = xcalloc(1, sizeof(*w));

    w->next_page = FIRST_PAGE;
    if (layout == NULL)
        return w;
    w->planned = *layout;
    w->out = out;
    put_meta(w, 0, 2); /* transaction n is written to page n mod 2; the newer one counts */
    put_meta(w, 1, 1);
    put_page_header(w->out, FREELIST_PAGE, BBOLT_PAGE_FREELIST, 0, 1);
    pad_page(w->out, BBOLT_HEADER_BYTES, 1);
    return w;
}

void bbolt_writer_free(struct bbolt_writer *w)
{
    if (w == NULL)
        return;
    tree_fini(&w->bucket);
    tree_fini(&w->directory);
    buf_fini(&w->name);
    free(w);
}

void bbolt_writer_redirect(struct bbolt_writer *w, struct buf *out)
{
    assert(w->out != NULL);
    w->out = out;
}

void bbolt_writer_begin(struct bbolt_writer *w, struct bytes name)
{
    assert(!w->in_bucket);
    w->in_bucket = true;
    buf_clear(&w->name);
    buf_append_bytes(&w->name, name);
}

void bbolt_writer_add(struct bbolt_writer *w, struct bytes key, struct bytes value)
{
    assert(w->in_bucket);
    add_item(w, &w->bucket, 0, key, value);
}

void bbolt_writer_end(struct bbolt_writer *w)
{
    uint64_t bucket[2] = {0, 0}; /* root page, sequence */

    assert(w->in_bucket);
    w->in_bucket = false;
    bucket[0] = tree_end(w, &w->bucket);
    add_item(w, &w->directory, BBOLT_LEAF_BUCKET, buf_bytes(&w->name),
             bytes_of(bucket, sizeof(bucket)));
}

void bbolt_writer_finish(struct bbolt_writer *w, struct bbolt_layout *ret)
{
    struct bbolt_layout layout;

    assert(!w->in_bucket);
    layout.root_page = tree_end(w, &w->directory);
    layout.page_count = w->next_page;
    if (w->out != NULL) {
        assert(layout.root_page == w->planned.root_page);
        assert(layout.page_count == w->planned.page_count);
    }
    *ret = layout;
}
