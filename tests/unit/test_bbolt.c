/* The bbolt file format: what is written is read; what is damaged is refused and ends. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "lib/bbolt/bbolt.h"
#include "lib/bbolt/bbolt_format.h"
#include "lib/bbolt/bbolt_writer.h"
#include "lib/bbolt/snapshot_file.h"
#include "lib/util/macros.h"
#include "lib/util/prng.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

enum { BIG_BYTES = 300000 };

/* A bucket of `count` items; every `big_every`-th value is large. */
struct spec {
    const char *name;
    uint32_t count, big_every;
    size_t value_bytes;
};

static uint8_t filler[BIG_BYTES];

static struct bytes item_key(uint8_t key[8], uint32_t i)
{
    wire_store_be64(key, i + UINT64_C(1));
    return bytes_of(key, 8);
}

static struct bytes item_value(const struct spec *s, uint32_t i)
{
    if (s->big_every != 0 && i % s->big_every == 0)
        return bytes_of(filler, BIG_BYTES);
    return bytes_of(filler + i % 100, s->value_bytes == 0 ? i % 50 : s->value_bytes);
}

static void give(struct bbolt_writer *w, const struct spec *specs, size_t count)
{
    uint8_t key[8];

    for (size_t i = 0; i < count; i++) {
        bbolt_writer_begin(w, bytes_str(specs[i].name));
        for (uint32_t k = 0; k < specs[i].count; k++)
            bbolt_writer_add(w, item_key(key, k), item_value(&specs[i], k));
        bbolt_writer_end(w);
    }
}

static struct buf write_file(const struct spec *specs, size_t count)
{
    struct bbolt_writer *w = bbolt_writer_new(NULL, NULL);
    struct bbolt_layout layout, again;
    struct buf out = BUF_INIT;

    for (size_t i = 0; i < sizeof(filler); i++)
        filler[i] = (uint8_t)(i * 7 + i / 256);
    give(w, specs, count);
    bbolt_writer_finish(w, &layout);
    bbolt_writer_free(w);
    w = bbolt_writer_new(&layout, &out);
    give(w, specs, count);
    bbolt_writer_finish(w, &again);
    bbolt_writer_free(w);
    cr_assert_eq(out.len, bbolt_layout_bytes(&layout));
    return out;
}

static void must_open(struct bytes image, struct bbolt *db)
{
    CLEANUP(freep) char *error = NULL;

    cr_assert_eq(bbolt_open(image, db, &error), 0, "%s", error);
    cr_assert_eq(bbolt_check(db, &error), 0, "%s", error);
}

static void compare_bucket(const struct bbolt *db, const struct spec *s)
{
    struct bbolt_bucket root = bbolt_root(db), bucket;
    struct bbolt_cursor c;
    struct bbolt_item item;
    uint8_t key[8];
    uint32_t i = 0;
    int r;

    cr_assert_eq(bbolt_bucket_find(&root, bytes_str(s->name), &bucket), 0, "%s", s->name);
    bbolt_cursor_init(&c, &bucket);
    while ((r = bbolt_cursor_next(&c, &item)) == 1) {
        cr_assert(bytes_eq(item.key, item_key(key, i)), "%s %u", s->name, i);
        cr_assert(bytes_eq(item.value, item_value(s, i)), "%s %u", s->name, i);
        cr_assert_not(item.is_bucket);
        i++;
    }
    cr_assert_eq(r, 0);
    cr_assert_eq(i, s->count, "%s: %u", s->name, i);
    cr_assert_eq(bbolt_cursor_next(&c, &item), 0, "the end stays the end");
}

Test(bbolt, what_is_written_is_read)
{
    static const struct spec specs[] = {
        {"a", 0, 0, 0},     {"b", 1, 0, 0},        {"c", 100, 0, 0},       {"d", 60000, 0, 0},
        {"e", 50, 7, 0},    {"f", 1, 1, 0},        {"g", 300, 0, 4096},    {"h", 3, 0, 4096 - 16},
        {"i", 2, 0, 16000}, {"j", 100, 0, 2020},   {"k", 254, 0, 1},       {"l", 5000, 0, 1000},
    };
    struct buf file = write_file(specs, ARRAY_LEN(specs));
    struct bbolt db;

    must_open(buf_bytes(&file), &db);
    cr_assert_eq(bbolt_size(&db), file.len);
    for (size_t i = 0; i < ARRAY_LEN(specs); i++)
        compare_bucket(&db, &specs[i]);
    buf_fini(&file);
}

Test(bbolt, every_small_number_of_items)
{
    for (uint32_t count = 0; count < 700; count += count < 300 ? 1 : 37) {
        struct spec s = {"x", count, 0, 40};
        struct buf file = write_file(&s, 1);
        struct bbolt db;

        must_open(buf_bytes(&file), &db);
        compare_bucket(&db, &s);
        buf_fini(&file);
    }
}

/* Two such keys do not fit a page: a branch has two children all the same. */
Test(bbolt, long_keys)
{
    struct bbolt_writer *w = bbolt_writer_new(NULL, NULL);
    struct bbolt_layout layout = {0}, again;
    struct buf out = BUF_INIT;
    struct bbolt_bucket root, bucket;
    struct bbolt_cursor c;
    struct bbolt_item item;
    struct bbolt db;
    int count = 0;

    for (int pass = 0; pass < 2; pass++) {
        CLEANUP(freep) uint8_t *key = xcalloc(1, BBOLT_KEY_BYTES_MAX);

        bbolt_writer_begin(w, BYTES_LIT("b"));
        for (int i = 0; i < 100; i++) {
            key[0] = (uint8_t)i;
            bbolt_writer_add(w, bytes_of(key, i % 2 == 0 ? BBOLT_KEY_BYTES_MAX : 3000), BYTES_EMPTY);
        }
        bbolt_writer_end(w);
        bbolt_writer_finish(w, pass == 0 ? &layout : &again);
        bbolt_writer_free(w);
        w = pass == 0 ? bbolt_writer_new(&layout, &out) : NULL;
    }
    must_open(buf_bytes(&out), &db);
    root = bbolt_root(&db);
    cr_assert_eq(bbolt_bucket_find(&root, BYTES_LIT("b"), &bucket), 0);
    bbolt_cursor_init(&c, &bucket);
    while (bbolt_cursor_next(&c, &item) == 1)
        cr_assert_eq(item.key.data[0], count++);
    cr_assert_eq(count, 100);
    buf_fini(&out);
}

Test(bbolt, finding)
{
    static const struct spec specs[] = {{"a", 3, 0, 5}, {"c", 0, 0, 0}};
    struct buf file = write_file(specs, ARRAY_LEN(specs));
    struct bbolt_bucket root, a, none;
    struct bytes value;
    struct bbolt db;
    uint8_t key[8];

    must_open(buf_bytes(&file), &db);
    root = bbolt_root(&db);
    cr_assert_eq(bbolt_bucket_find(&root, BYTES_LIT("b"), &none), -ENOENT);
    cr_assert_eq(bbolt_bucket_find(&root, BYTES_LIT("d"), &none), -ENOENT);
    cr_assert_eq(bbolt_get(&root, BYTES_LIT("a"), &value), -ENOENT, "a bucket is no value");
    cr_assert_eq(bbolt_bucket_find(&root, BYTES_LIT("a"), &a), 0);
    cr_assert_eq(bbolt_get(&a, item_key(key, 2), &value), 0);
    cr_assert_eq(value.len, 5);
    cr_assert_eq(bbolt_get(&a, item_key(key, 3), &value), -ENOENT);
    cr_assert_eq(bbolt_bucket_find(&a, item_key(key, 2), &none), -ENOENT, "a value is no bucket");
    buf_fini(&file);
}

/* ---- what etcd's own files have and the writer does not make ---- */

/* An item of a leaf page that is put together by hand. */
static void put_leaf_item(struct buf *elements, struct buf *data, size_t count, uint32_t flags,
                          struct bytes key, struct bytes value)
{
    size_t index = elements->len / BBOLT_ELEMENT_BYTES;

    wire_put_u32(elements, flags);
    wire_put_u32(elements, (uint32_t)((count - index) * BBOLT_ELEMENT_BYTES + data->len));
    wire_put_u32(elements, (uint32_t)key.len);
    wire_put_u32(elements, (uint32_t)value.len);
    buf_append_bytes(data, key);
    buf_append_bytes(data, value);
}

Test(bbolt, inline_bucket_and_no_freelist)
{
    static const struct spec spec = {"a", 1, 0, 1};
    struct buf file = write_file(&spec, 1), elements = BUF_INIT, data = BUF_INIT, value = BUF_INIT;
    struct bbolt_bucket root, bucket;
    struct bytes got;
    struct bbolt db;
    uint8_t *meta = file.data + BBOLT_HEADER_BYTES, *page;
    uint64_t none = BBOLT_NO_FREELIST, sum;

    memcpy(meta + 32, &none, 8);
    sum = bbolt_fnv64a(meta, BBOLT_META_CHECKED_BYTES);
    memcpy(meta + BBOLT_META_CHECKED_BYTES, &sum, 8);
    /* bucket header, then a leaf page with two items */
    wire_put_u64(&value, 0);
    wire_put_u64(&value, 9);
    wire_put_u64(&value, 0);
    wire_put_u16(&value, BBOLT_PAGE_LEAF);
    wire_put_u16(&value, 2);
    wire_put_u32(&value, 0);
    put_leaf_item(&elements, &data, 2, 0, BYTES_LIT("k1"), BYTES_LIT("one"));
    put_leaf_item(&elements, &data, 2, 0, BYTES_LIT("k2"), BYTES_LIT("two"));
    buf_append_bytes(&value, buf_bytes(&elements));
    buf_append_bytes(&value, buf_bytes(&data));
    buf_clear(&elements);
    buf_clear(&data);
    put_leaf_item(&elements, &data, 1, BBOLT_LEAF_BUCKET, BYTES_LIT("in"), buf_bytes(&value));
    page = file.data + file.len - BBOLT_PAGE_BYTES; /* the directory comes last */
    memcpy(page + BBOLT_HEADER_BYTES, elements.data, elements.len);
    memcpy(page + BBOLT_HEADER_BYTES + elements.len, data.data, data.len);

    must_open(buf_bytes(&file), &db);
    root = bbolt_root(&db);
    cr_assert_eq(bbolt_bucket_find(&root, BYTES_LIT("in"), &bucket), 0);
    cr_assert_eq(bucket.sequence, 9);
    cr_assert_eq(bbolt_get(&bucket, BYTES_LIT("k2"), &got), 0);
    cr_assert(bytes_eq(got, BYTES_LIT("two")));
    buf_fini(&file);
    buf_fini(&elements);
    buf_fini(&data);
    buf_fini(&value);
}

Test(bbolt, the_newer_good_meta_page_counts)
{
    static const struct spec spec = {"a", 1, 0, 1};
    struct buf file = write_file(&spec, 1);
    struct bbolt db;

    must_open(buf_bytes(&file), &db);
    cr_assert_eq(db.transaction, 2);
    file.data[BBOLT_HEADER_BYTES + 40] ^= 1;
    must_open(buf_bytes(&file), &db);
    cr_assert_eq(db.transaction, 1);
    buf_fini(&file);
}

/* ---- damage ---- */

/* Opens, checks, walks; whatever comes of it, it ends. 0 when nothing was found wrong. */
static int use(struct bytes image)
{
    CLEANUP(freep) char *error = NULL, *more = NULL;
    struct snapshot_file f;
    struct snapshot_status status;
    struct bbolt_bucket root, bucket;
    struct bbolt_cursor buckets, items;
    struct bbolt_item name, item;
    uint64_t sum = 0;
    int r, q = snapshot_file_of(image, &f, &error);

    if (q != 0) {
        cr_assert_not_null(error);
        return q;
    }
    root = bbolt_root(&f.db);
    bbolt_cursor_init(&buckets, &root);
    while ((r = bbolt_cursor_next(&buckets, &name)) == 1) {
        if (!name.is_bucket || bbolt_bucket_decode(&f.db, name.value, &bucket) != 0)
            continue;
        bbolt_cursor_init(&items, &bucket);
        while ((q = bbolt_cursor_next(&items, &item)) == 1) {
            for (size_t i = 0; i < item.value.len; i += 64)
                sum += item.value.data[i];
            if (item.value.len > 0)
                sum += item.value.data[item.value.len - 1];
        }
    }
    (void)sum;
    r = snapshot_file_status(&f, &status, &more);
    cr_assert_eq(r != 0, more != NULL);
    return r;
}

Test(bbolt, truncated_anywhere)
{
    static const struct spec specs[] = {{"a", 400, 0, 30}, {"key", 20, 10, 0}};
    struct buf file = write_file(specs, ARRAY_LEN(specs));

    cr_assert_eq(use(buf_bytes(&file)), 0);
    for (size_t len = 0; len < file.len; len += len < 20000 ? 13 : 4093) {
        CLEANUP(freep) uint8_t *copy = xmemdup(file.data, len); /* so that a sanitizer sees its end */

        cr_assert_neq(use(bytes_of(copy, len)), 0, "%zu", len);
    }
    buf_fini(&file);
}

Test(bbolt, each_bit_of_the_structure_flipped, .timeout = 120)
{
    static const struct spec specs[] = {{"a", 150, 0, 60}, {"key", 3, 2, 10}, {"z", 0, 0, 0}};
    struct buf file = write_file(specs, ARRAY_LEN(specs));
    struct bbolt db;

    must_open(buf_bytes(&file), &db);
    for (uint64_t page = 0; page < db.page_count; page++) {
        size_t at = page * BBOLT_PAGE_BYTES;
        size_t end = at + (page > 8 && page + 3 < db.page_count ? 1 : 400);

        for (; at < end; at++) {
            for (unsigned int bit = 0; bit < 8; bit++) {
                file.data[at] ^= (uint8_t)(1U << bit);
                use(buf_bytes(&file));
                file.data[at] ^= (uint8_t)(1U << bit);
            }
        }
    }
    buf_fini(&file);
}

Test(bbolt, random_damage, .timeout = 120)
{
    static const struct spec specs[] = {{"a", 3000, 0, 20}, {"key", 10, 0, 500}};
    struct buf file = write_file(specs, ARRAY_LEN(specs));
    CLEANUP(freep) uint8_t *copy = xmalloc(file.len);
    struct prng prng;

    prng_init(&prng, 20);
    for (int round = 0; round < 3000; round++) {
        memcpy(copy, file.data, file.len);
        for (uint64_t n = prng_below(&prng, 8) + 1; n > 0; n--) {
            size_t page = (size_t)prng_below(&prng, file.len / BBOLT_PAGE_BYTES) * BBOLT_PAGE_BYTES;

            if (page >= 2 * BBOLT_PAGE_BYTES) /* else the checksum refuses it at once */
                copy[page + prng_below(&prng, 200)] = (uint8_t)prng_below(&prng, 256);
        }
        use(bytes_of(copy, file.len));
    }
    buf_fini(&file);
}

/* Branches that point back, or at the same page again. */
Test(bbolt, cycles_and_shared_pages)
{
    static const struct spec spec = {"a", 3000, 0, 20};
    struct buf file = write_file(&spec, 1);
    struct bbolt_bucket root, bucket;
    struct bbolt db;
    uint8_t *page;

    must_open(buf_bytes(&file), &db);
    root = bbolt_root(&db);
    cr_assert_eq(bbolt_bucket_find(&root, BYTES_LIT("a"), &bucket), 0);
    page = file.data + bucket.root * BBOLT_PAGE_BYTES;
    cr_assert_eq(page[8], BBOLT_PAGE_BRANCH);
    for (int i = 0; i < 2; i++) {
        uint64_t child, to = i == 0 ? bucket.root : 3;
        uint8_t *element = page + BBOLT_HEADER_BYTES + BBOLT_ELEMENT_BYTES;

        memcpy(&child, element + 8, 8);
        memcpy(element + 8, &to, 8);
        cr_assert_eq(use(buf_bytes(&file)), -EBADMSG);
        memcpy(element + 8, &child, 8);
    }
    cr_assert_eq(use(buf_bytes(&file)), 0);
    buf_fini(&file);
}

Test(bbolt, status_and_hash)
{
    static const struct spec specs[] = {{"key", 10, 0, 3}, {"meta", 2, 0, 1}};
    struct buf file = write_file(specs, ARRAY_LEN(specs));
    uint8_t hash[SNAPSHOT_HASH_BYTES] = {1, 2};
    CLEANUP(freep) char *error = NULL, *missing = NULL;
    struct snapshot_status status;
    struct snapshot_file f;

    cr_assert_eq(snapshot_file_of(buf_bytes(&file), &f, &error), 0);
    cr_assert_eq(snapshot_file_verify_hash(&f, &missing), -EBADMSG);
    cr_assert_str_eq(missing, "snapshot missing hash but --skip-hash-check=false");
    cr_assert_eq(snapshot_file_status(&f, &status, &error), 0);
    cr_assert_eq(status.revision, 10);
    cr_assert_eq(status.revision_count, 10);
    cr_assert_eq(status.total_keys, 12);
    cr_assert_eq(status.total_size, file.len);
    buf_append(&file, hash, sizeof(hash));
    cr_assert_eq(snapshot_file_of(buf_bytes(&file), &f, &error), 0);
    cr_assert(f.has_hash);
    cr_assert_eq(snapshot_file_verify_hash(&f, &error), -EBADMSG);
    cr_assert_eq(strncmp(error, "expected sha256 [1 2 0 0 ", 25), 0, "%s", error);
    buf_fini(&file);
}
