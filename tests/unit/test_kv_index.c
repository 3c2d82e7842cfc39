/* The index against a model that keeps every version of every key in plain arrays. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/util/macros.h"
#include "lib/util/prng.h"
#include "lib/util/xmalloc.h"
#include "stored/kv/kv_index.h"

enum { KEYS = 600, VERSIONS = 400 };

struct model_version {
    int64_t main, create_revision, version;
    uint32_t sub, size;
    bool is_delete, gone; /* gone: compacted away */
};

struct model_key {
    char name[64];
    size_t len;
    struct model_version versions[VERSIONS];
    size_t count;
};

struct world {
    struct kv_index ix;
    struct model_key keys[KEYS]; /* sorted by name */
    struct prng prng;
    int64_t revision, compact;
    uint64_t dropped;
};

static struct bytes name_of(const struct model_key *k)
{
    return bytes_of(k->name, k->len);
}

static int key_cmp(const void *a, const void *b)
{
    return bytes_cmp(name_of(a), name_of(b));
}

static struct world *world_new(uint64_t seed)
{
    struct world *w = xcalloc(1, sizeof(*w));

    prng_init(&w->prng, seed);
    kv_index_init(&w->ix);
    w->compact = -1;
    for (size_t i = 0; i < KEYS; i++) {
        struct model_key *k = &w->keys[i];

        switch (i % 4) { /* shared prefixes, short keys, keys that are prefixes, zero bytes */
        case 0:
            k->len = (size_t)snprintf(k->name, sizeof(k->name), "/registry/pods/default/pod-%04zu", i);
            break;
        case 1:
            k->len = (size_t)snprintf(k->name, sizeof(k->name), "%zx", i);
            break;
        case 2:
            memset(k->name, 'a', sizeof(k->name));
            k->len = 1 + i / 12;
            k->name[k->len - 1] = (char)(i % 12);
            break;
        default:
            k->len = 9;
            memcpy(k->name, "\xff\0\0\0\0\0\0", 7);
            k->name[7] = (char)(i >> 8);
            k->name[8] = (char)i;
        }
    }
    qsort(w->keys, KEYS, sizeof(w->keys[0]), key_cmp);
    for (size_t i = 1; i < KEYS; i++)
        cr_assert(key_cmp(&w->keys[i - 1], &w->keys[i]) < 0, "test keys are distinct");
    return w;
}

static void world_free(struct world *w)
{
    kv_index_fini(&w->ix);
    free(w);
}

static struct model_version *model_last(struct model_key *k)
{
    return k->count == 0 ? NULL : &k->versions[k->count - 1];
}

static const struct model_version *model_at(const struct model_key *k, int64_t revision)
{
    for (size_t i = k->count; i > 0; i--)
        if (k->versions[i - 1].main <= revision)
            return k->versions[i - 1].is_delete ? NULL : &k->versions[i - 1];
    return NULL;
}

static void put(struct world *w, struct model_key *k, uint32_t sub)
{
    struct model_version *last = model_last(k), v;

    if (k->count == VERSIONS)
        return;
    v = (struct model_version){.main = w->revision, .sub = sub,
                               .size = (uint32_t)(10 + prng_below(&w->prng, 300))};
    v.create_revision = last == NULL || last->is_delete ? w->revision : last->create_revision;
    v.version = last == NULL || last->is_delete ? 1 : last->version + 1;
    k->versions[k->count++] = v;
    kv_index_put(&w->ix, &(struct kv_put_args){.key = name_of(k),
                                               .main = v.main,
                                               .sub = v.sub,
                                               .create_revision = v.create_revision,
                                               .version = v.version,
                                               .size = v.size});
}

static void delete(struct world *w, struct model_key *k, uint32_t sub)
{
    struct model_version *last = model_last(k);

    if (k->count == VERSIONS || last == NULL || last->is_delete)
        return;
    k->versions[k->count++] =
        (struct model_version){.main = w->revision, .sub = sub, .is_delete = true};
    kv_index_delete(&w->ix, kv_index_find(&w->ix, name_of(k)), w->revision, sub);
}

static void on_dropped(void *user, int64_t main, uint32_t sub, bool is_delete)
{
    ((struct world *)user)->dropped++;
}

static void compact(struct world *w, int64_t to)
{
    struct kv_entry *gone[KEYS];
    size_t gone_count = 0;
    struct kv_index_iter it;
    struct kv_entry *e;
    uint64_t expected = 0;

    w->compact = to;
    w->dropped = 0;
    for (size_t i = 0; i < KEYS; i++) {
        struct model_key *k = &w->keys[i];
        size_t keep = k->count;

        for (size_t j = 0; j < k->count; j++)
            if (k->versions[j].main <= to)
                keep = j;
        for (size_t j = 0; j < k->count; j++) {
            struct model_version *v = &k->versions[j];
            bool stays = v->main > to || (j == keep && (!v->is_delete || v->main == to));

            expected += !stays && !v->gone;
            v->gone = v->gone || !stays;
        }
    }
    kv_index_first(&w->ix, &it);
    for (; (e = kv_index_iter_get(&it)) != NULL; kv_index_iter_next(&it))
        if (kv_index_compact_entry(&w->ix, e, to, on_dropped, w))
            gone[gone_count++] = e;
    for (size_t i = 0; i < gone_count; i++)
        kv_index_remove(&w->ix, gone[i]);
    cr_assert_eq(w->dropped, expected);
}

static void check_at(struct world *w, int64_t revision)
{
    uint64_t rank = 0, bytes = 0;

    for (size_t i = 0; i < KEYS; i++) {
        const struct model_key *k = &w->keys[i];
        const struct model_version *m = model_at(k, revision);
        const struct kv_entry *e = kv_index_find(&w->ix, name_of(k));
        struct kv_version v;

        if (revision == w->revision) {
            cr_assert_eq(kv_index_rank(&w->ix, name_of(k)), rank);
            cr_assert_eq(kv_index_bytes_at(&w->ix, rank), bytes);
        }
        cr_assert_eq(e != NULL && kv_entry_at(e, revision, &v), m != NULL, "%zu at %ld", i,
                     (long)revision);
        if (m == NULL)
            continue;
        rank++;
        bytes += kv_framed_size(m->size);
        cr_assert_eq(v.main, m->main);
        cr_assert_eq(v.sub, m->sub);
        cr_assert_eq(v.size, m->size);
        cr_assert_eq(v.create_revision, m->create_revision);
        cr_assert_eq(v.version, m->version);
    }
    if (revision == w->revision) {
        cr_assert_eq(w->ix.live_count, rank);
        cr_assert_eq(w->ix.live_bytes, bytes);
    }
}

static void check_versions(struct world *w)
{
    uint64_t record_bytes = 0, entries = 0;

    for (size_t i = 0; i < KEYS; i++) {
        const struct model_key *k = &w->keys[i];
        const struct kv_entry *e = kv_index_find(&w->ix, name_of(k));
        bool any = false;

        for (size_t j = 0; j < k->count; j++) {
            const struct model_version *v = &k->versions[j];

            cr_assert_eq(e != NULL && kv_entry_has(e, v->main, v->sub), !v->gone);
            any = any || !v->gone;
            if (!v->gone)
                record_bytes += v->size;
        }
        cr_assert_eq(e != NULL, any);
        entries += any;
    }
    cr_assert_eq(w->ix.record_bytes, record_bytes);
    cr_assert_eq(w->ix.entry_count, entries);
}

static void check_iteration(struct world *w)
{
    size_t from = prng_below(&w->prng, KEYS);
    struct kv_index_iter it;

    kv_index_seek(&w->ix, name_of(&w->keys[from]), &it);
    for (size_t i = from; i < KEYS; i++) {
        if (kv_index_find(&w->ix, name_of(&w->keys[i])) == NULL)
            continue;
        cr_assert(kv_index_iter_get(&it) != NULL);
        cr_assert(bytes_eq(kv_entry_key(kv_index_iter_get(&it)), name_of(&w->keys[i])));
        kv_index_iter_next(&it);
    }
    cr_assert(kv_index_iter_get(&it) == NULL);
}

static void run(uint64_t seed, unsigned int steps, unsigned int delete_percent)
{
    struct world *w = world_new(seed);

    for (unsigned int step = 0; step < steps; step++) {
        unsigned int ops = 1 + (unsigned int)prng_below(&w->prng, 5);
        size_t last = KEYS;

        w->revision++;
        for (unsigned int sub = 0; sub < ops; sub++) {
            size_t i = prng_below(&w->prng, KEYS);

            if (i == last)
                continue;
            last = i;
            if (prng_below(&w->prng, 100) < delete_percent)
                delete(w, &w->keys[i], sub);
            else
                put(w, &w->keys[i], sub);
        }
        if (prng_below(&w->prng, 40) == 0 && w->revision > w->compact + 1) {
            compact(w, w->compact + 1 + (int64_t)prng_below(&w->prng, (uint64_t)(w->revision - w->compact)));
            kv_index_check(&w->ix);
            check_versions(w);
        }
        if (step % 16 == 0) {
            check_at(w, w->revision);
            check_at(w, MAX(w->compact, 0) +
                            (int64_t)prng_below(&w->prng, (uint64_t)(w->revision - MAX(w->compact, 0) + 1)));
            check_iteration(w);
        }
    }
    check_versions(w);
    kv_index_check(&w->ix);
    /* everything goes */
    w->revision++;
    for (size_t i = 0; i < KEYS; i++)
        delete(w, &w->keys[i], (uint32_t)i);
    check_at(w, w->revision);
    compact(w, w->revision++);
    compact(w, w->revision);
    kv_index_check(&w->ix);
    cr_expect_eq(w->ix.entry_count, 0);
    cr_expect_eq(w->ix.memory_bytes, 0);
    world_free(w);
}

Test(kv_index, equals_model_mostly_puts)
{
    for (uint64_t seed = 1; seed <= 4; seed++)
        run(seed, 4000, 20);
}

Test(kv_index, equals_model_mostly_deletes)
{
    for (uint64_t seed = 11; seed <= 14; seed++)
        run(seed, 4000, 70);
}

Test(kv_index, empty)
{
    struct kv_index ix;
    struct kv_index_iter it;

    kv_index_init(&ix);
    cr_expect(kv_index_find(&ix, BYTES_LIT("a")) == NULL);
    kv_index_seek(&ix, BYTES_LIT("a"), &it);
    cr_expect(kv_index_iter_get(&it) == NULL);
    cr_expect_eq(kv_index_rank(&ix, BYTES_LIT("a")), 0);
    cr_expect_eq(kv_index_bytes_at(&ix, 0), 0);
    kv_index_check(&ix);
    kv_index_fini(&ix);
}

/* Memory per key is part of the contract: at most about 100 bytes and the key; 16 to 24 bytes per
 * old version. */
Test(kv_index, memory)
{
    struct kv_index ix;
    char key[32];
    uint64_t before;

    kv_index_init(&ix);
    for (unsigned int i = 0; i < 100000; i++) {
        int len = snprintf(key, sizeof(key), "key-%08u", (unsigned int)(i * 2654435761u % 100000000u));

        kv_index_put(&ix, &(struct kv_put_args){.key = bytes_of(key, (size_t)len), .main = i + 2,
                                                .create_revision = i + 2, .version = 1, .size = 100});
    }
    cr_expect(ix.memory_bytes / ix.entry_count <= 100 + 12, "%lu",
              (unsigned long)(ix.memory_bytes / ix.entry_count));
    before = ix.memory_bytes;
    for (unsigned int i = 0; i < 200000; i++)
        kv_index_put(&ix, &(struct kv_put_args){.key = BYTES_LIT("hot"), .main = 200000 + i,
                                                .create_revision = 200000, .version = i + 1, .size = 300});
    cr_expect((ix.memory_bytes - before) / 200000 <= 24);
    kv_index_check(&ix);
    kv_index_fini(&ix);
}

Test(kv_index, loading_refuses_disorder)
{
    struct kv_index ix;
    struct kv_entry *e;

    kv_index_init(&ix);
    for (unsigned int i = 0; i < 1000; i++) {
        char key[8];

        snprintf(key, sizeof(key), "%04u", i);
        e = kv_entry_new(bytes_of(key, 4));
        e->size = i % 3 == 0 ? KV_CELL_DELETED : 5;
        cr_assert_eq(kv_index_append(&ix, e), 0);
    }
    kv_index_check(&ix);
    cr_expect_eq(ix.live_count, 666);
    cr_expect_neq(kv_index_append(&ix, kv_entry_new(BYTES_LIT("0999"))), 0);
    cr_expect_neq(kv_index_append(&ix, kv_entry_new(BYTES_LIT("0"))), 0);
    kv_index_fini(&ix);
}
