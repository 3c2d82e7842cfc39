/*
 * Random histories. A naive model (every version of every key in one array) says what reads must
 * answer; a second keyspace lives through kills, crashes with lost tails and holes, checkpoints,
 * compaction in slices and restored snapshots, is given the log again from where it stands, and
 * must be in the same state as the first, byte for byte.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/util/macros.h"
#include "lib/util/prng.h"
#include "lib/util/xmalloc.h"
#include "stored/engine/engine_mem.h"
#include "stored/kv/kv_internal.h"
#include "tests/unit/kv_harness.h"

enum { KEYS = 24 };

struct version {
    unsigned int key;
    int64_t main, create_revision, version;
    char value[24];
    bool is_delete;
};

struct log_entry {
    enum proto_kind kind;
    struct buf body;
};

struct world {
    uint64_t seed;
    struct prng prng;
    struct harness a, b;
    struct log_entry *log;
    size_t log_count;
    struct version *versions; /* in order */
    size_t version_count;
    int64_t revision, compact;
};

static void key_name(unsigned int key, char out[8])
{
    snprintf(out, 8, "k%02u", key);
}

/* ---- the model ---- */

static const struct version *model_at(const struct world *w, unsigned int key, int64_t revision)
{
    const struct version *found = NULL;

    for (size_t i = 0; i < w->version_count; i++)
        if (w->versions[i].key == key && w->versions[i].main <= revision)
            found = &w->versions[i];
    return found == NULL || found->is_delete ? NULL : found;
}

static void model_add(struct world *w, struct version v)
{
    w->versions = xreallocarray(w->versions, w->version_count + 1, sizeof(v));
    w->versions[w->version_count++] = v;
}

static void model_put(struct world *w, unsigned int key, const char *value, int64_t main)
{
    const struct version *old = model_at(w, key, main);
    struct version v = {.key = key, .main = main};

    v.create_revision = old == NULL ? main : old->create_revision;
    v.version = old == NULL ? 1 : old->version + 1;
    snprintf(v.value, sizeof(v.value), "%s", value);
    model_add(w, v);
}

static bool model_delete(struct world *w, unsigned int from, unsigned int to, int64_t main)
{
    bool any = false;

    for (unsigned int key = from; key < to; key++)
        if (model_at(w, key, main) != NULL) {
            model_add(w, (struct version){.key = key, .main = main, .is_delete = true});
            any = true;
        }
    return any;
}

static int sort_target;
static bool descends;

static int model_cmp(const void *pa, const void *pb)
{
    const struct version *a = *(const struct version *const *)pa;
    const struct version *b = *(const struct version *const *)pb;
    int64_t x = a->key, y = b->key;

    if (sort_target == KV_BY_VERSION)
        x = a->version, y = b->version;
    else if (sort_target == KV_BY_CREATE)
        x = a->create_revision, y = b->create_revision;
    else if (sort_target == KV_BY_MOD)
        x = a->main, y = b->main;
    else if (sort_target == KV_BY_VALUE)
        x = strcmp(a->value, b->value), y = 0;
    if (x != y)
        return (x < y) == descends ? 1 : -1;
    return a->key < b->key ? -1 : a->key > b->key; /* ours is stable; etcd's may differ */
}

static bool model_passes(const struct kv_range_request *m, const struct version *v)
{
    return (m->min_mod_revision == 0 || v->main >= m->min_mod_revision) &&
           (m->max_mod_revision == 0 || v->main <= m->max_mod_revision) &&
           (m->min_create_revision == 0 || v->create_revision >= m->min_create_revision) &&
           (m->max_create_revision == 0 || v->create_revision <= m->max_create_revision);
}

static void check_range(struct world *w, struct harness *h, const struct kv_range_request *m,
                        unsigned int from, unsigned int to)
{
    const struct version *list[KEYS];
    size_t count = 0, n = 0, limit = m->limit > 0 ? (size_t)m->limit : KEYS;
    bool filters = m->min_mod_revision != 0 || m->max_mod_revision != 0 ||
                   m->min_create_revision != 0 || m->max_create_revision != 0;
    Etcdserverpb__RangeResponse *r;

    for (unsigned int key = from; key < to; key++) {
        const struct version *v = model_at(w, key, m->revision > 0 ? m->revision : w->revision);

        if (v == NULL)
            continue;
        count++;
        /* facts 5.1: without order and filters the limit counts keys first */
        if (!filters && m->sort_order == KV_SORT_NONE && n == limit + 1)
            continue;
        if (model_passes(m, v))
            list[n++] = v;
    }
    sort_target = m->sort_target;
    descends = m->sort_order == KV_SORT_DESCEND;
    qsort(list, n, sizeof(list[0]), model_cmp);
    cr_assert_eq(harness_range(h, m, 0), OUT_OK);
    r = harness_range_answer(h);
    cr_assert_eq(r->count, (int64_t)count, "seed %lu: [%u,%u) at %ld of %ld, compacted %ld: %ld instead of %zu",
                 (unsigned long)w->seed, from, to, (long)m->revision, (long)w->revision,
                 (long)w->compact, (long)r->count, count);
    cr_assert_eq(r->header->revision, w->revision);
    if (m->count_only) {
        cr_assert(r->n_kvs == 0 && !r->more);
    } else {
        cr_assert_eq(r->more, n > limit);
        cr_assert_eq(r->n_kvs, MIN(n, limit));
        for (size_t i = 0; i < r->n_kvs; i++) {
            const Mvccpb__KeyValue *kv = r->kvs[i];
            char name[8];

            key_name(list[i]->key, name);
            cr_assert(bytes_eq(bytes_of(kv->key.data, kv->key.len), KEY(name)));
            cr_assert(bytes_eq(bytes_of(kv->value.data, kv->value.len),
                               m->keys_only ? BYTES_EMPTY : KEY(list[i]->value)));
            cr_assert_eq(kv->create_revision, list[i]->create_revision);
            cr_assert_eq(kv->mod_revision, list[i]->main);
            cr_assert_eq(kv->version, list[i]->version);
        }
    }
    etcdserverpb__range_response__free_unpacked(r, NULL);
}

static int64_t random_revision(struct world *w)
{
    int64_t oldest = MAX(w->compact, 1);

    return oldest + (int64_t)prng_below(&w->prng, (uint64_t)(w->revision - oldest + 1));
}

static void random_range(struct world *w, struct harness *h)
{
    unsigned int from = (unsigned int)prng_below(&w->prng, KEYS);
    unsigned int to = from + (unsigned int)prng_below(&w->prng, KEYS - from + 1);
    struct kv_range_request m = {0};
    char key[8], end[8];

    key_name(from, key);
    key_name(to, end);
    m.key = KEY(key);
    if (to == from + 1)
        m.range_end = BYTES_EMPTY;
    else if (to == KEYS)
        m.range_end = BYTES_LIT("\0");
    else
        m.range_end = KEY(end);
    if (prng_below(&w->prng, 2) == 0)
        m.revision = random_revision(w);
    if (prng_below(&w->prng, 2) == 0)
        m.limit = (int64_t)prng_below(&w->prng, 6);
    if (prng_below(&w->prng, 3) == 0) {
        m.sort_order = (int32_t)prng_below(&w->prng, 3);
        m.sort_target = (int32_t)prng_below(&w->prng, 5);
    }
    m.keys_only = prng_below(&w->prng, 4) == 0;
    m.count_only = prng_below(&w->prng, 6) == 0;
    if (prng_below(&w->prng, 5) == 0)
        m.min_mod_revision = random_revision(w);
    if (prng_below(&w->prng, 5) == 0)
        m.max_create_revision = random_revision(w);
    check_range(w, h, &m, from, to);
}

/* ---- making history ---- */

static void add_entry(struct world *w, enum proto_kind kind, struct buf body)
{
    w->log = xreallocarray(w->log, w->log_count + 1, sizeof(w->log[0]));
    w->log[w->log_count++] = (struct log_entry){kind, body};
}

static void random_entry(struct world *w)
{
    unsigned int from = (unsigned int)prng_below(&w->prng, KEYS);
    unsigned int to = from + 1 + (unsigned int)prng_below(&w->prng, MIN(4u, KEYS - from));
    struct log_entry entry = {.kind = PROTO_KIND_PUT};
    char key[8], end[8], value[24];

    key_name(from, key);
    key_name(to, end);
    snprintf(value, sizeof(value), "%lu", (unsigned long)prng_below(&w->prng, 100000));
    switch (prng_below(&w->prng, 12)) {
    case 0:
    case 1:
        entry.kind = PROTO_KIND_DELETE_RANGE;
        entry.body = delete_body(&(struct kv_delete_request){
            .key = KEY(key), .range_end = KEY(end), .prev_kv = true});
        w->revision += model_delete(w, from, to, w->revision + 1);
        break;
    case 2: /* succeeds when the first key exists */
    case 3: {
        struct kv_compare exists = {.key = KEY(key), .target = KV_TARGET_VERSION,
                                    .union_target = KV_TARGET_VERSION, .result = KV_GREATER};
        struct kv_op then[] = {
            {.type = KV_OP_PUT, .put = {.key = KEY(key), .ignore_value = true}},
            {.type = KV_OP_RANGE, .range = {.key = KEY(key)}},
            {.type = KV_OP_DELETE, .delete_range = {.key = KEY(end)}},
        };
        struct kv_op other[] = {
            {.type = KV_OP_DELETE, .delete_range = {.key = KEY(key), .range_end = KEY(end)}},
            {.type = KV_OP_PUT, .put = {.key = KEY(end), .value = KEY(value)}},
        };
        const struct version *old = model_at(w, from, w->revision);

        if (to == KEYS)
            to = from; /* its name is no key of the model: leave it alone */
        entry.kind = PROTO_KIND_TXN;
        entry.body = txn_body(&(struct kv_txn_request){.compares = &exists, .compare_count = 1,
                                                       .success = then, .success_count = to == from ? 2 : 3,
                                                       .failure = other, .failure_count = to == from ? 0 : 2});
        if (old != NULL) {
            char kept[24];

            memcpy(kept, old->value, sizeof(kept));
            model_put(w, from, kept, w->revision + 1);
            if (to != from)
                model_delete(w, to, to + 1, w->revision + 1);
            w->revision++;
        } else if (to != from) {
            model_delete(w, from, to, w->revision + 1);
            model_put(w, to, value, w->revision + 1);
            w->revision++;
        }
        break;
    }
    case 4: {
        int64_t at = w->compact + 1 + (int64_t)prng_below(&w->prng, 12);

        entry.kind = PROTO_KIND_COMPACT;
        entry.body = compact_body(at, false);
        if (at <= w->revision)
            w->compact = at;
        break;
    }
    default:
        entry.body = put_body(&(struct kv_put_request){
            .key = KEY(key), .value = KEY(value), .prev_kv = prng_below(&w->prng, 2) == 0});
        model_put(w, from, value, ++w->revision);
    }
    add_entry(w, entry.kind, entry.body);
}

static void feed(struct world *w, struct harness *h)
{
    while (h->index < w->log_count) {
        uint64_t turn = 1 + prng_below(&w->prng, 4);

        kv_begin_turn(h->kv);
        h->in_turn = true;
        for (; turn > 0 && h->index < w->log_count; turn--)
            cr_assert(harness_apply(h, w->log[h->index].kind, buf_bytes(&w->log[h->index].body)) >= 0);
        kv_end_turn(h->kv);
        h->in_turn = false;
    }
}

/* ---- misfortunes ---- */

static void write_some(struct world *w, struct harness *h)
{
    kv_on_written(h->kv, engine_mem_write(h->engine, prng_below(&w->prng, 6)));
    if (prng_below(&w->prng, 3) == 0)
        kv_on_durable(h->kv, engine_mem_sync(h->engine));
}

static void crash(struct world *w, struct harness *h)
{
    size_t n = engine_mem_unsynced(h->engine);
    CLEANUP(freep) bool *survives = xcalloc(n + 1, sizeof(bool));
    uint64_t durable = kv_durable_index(h->kv);
    size_t lost = (size_t)prng_below(&w->prng, n + 1);
    bool hole = prng_below(&w->prng, 2) == 0;

    for (size_t i = 0; i < n; i++)
        survives[i] = i < lost || (hole && prng_below(&w->prng, 2) == 0);
    harness_close(h);
    engine_mem_crash(h->engine, survives);
    cr_assert_eq(harness_open(h), 0, "seed %lu", (unsigned long)w->seed);
    cr_assert(h->index >= durable, "what was told durable is there");
}

static void move_by_snapshot(struct world *w, struct harness *h)
{
    CLEANUP(buf_fini) struct buf stream = BUF_INIT;
    struct engine_mem *fresh = engine_mem_new(true);
    struct kv_restore *restore = kv_restore_new(engine_mem_kv(fresh));
    struct kv_snapshot_meta sent, received;
    struct kv_snapshot *s = kv_snapshot_new(h->kv, &sent);
    int r;

    while (!kv_snapshot_ready(s))
        kv_on_written(h->kv, engine_mem_write(h->engine, 1));
    while ((r = kv_snapshot_step(s, 50, &stream)) == 1) {
        /* the sender goes on meanwhile */
        if (prng_below(&w->prng, 4) == 0 && kv_compact_pending(h->kv))
            kv_compact_step(h->kv, 3);
    }
    cr_assert_eq(r, 0);
    kv_snapshot_free(s);
    for (size_t at = 0; at < stream.len;) {
        size_t n = 1 + prng_below(&w->prng, 200); /* not inside MIN: it evaluates twice */

        n = MIN(n, stream.len - at);
        cr_assert_eq(kv_restore_feed(restore, bytes_of(stream.data + at, n)), 0);
        at += n;
    }
    cr_assert_eq(kv_restore_finish(restore, &received), 0);
    cr_assert_eq(memcmp(&sent, &received, sizeof(sent)), 0);
    kv_restore_free(restore);
    engine_mem_write(fresh, SIZE_MAX);
    engine_mem_sync(fresh);
    engine_mem_kill(fresh);
    harness_close(h);
    engine_mem_free(h->engine);
    h->engine = fresh;
    buf_clear(&h->checkpoint);
    cr_assert_eq(harness_open(h), 0);
    cr_assert_eq(h->index, received.index);
}

static void take_checkpoint(struct world *w, struct harness *h)
{
    CLEANUP(buf_fini) struct buf file = BUF_INIT;
    struct kv_checkpoint *c = kv_checkpoint_new(h->kv);
    uint64_t index = kv_checkpoint_index(c);
    int r;

    while ((r = kv_checkpoint_step(c, 30, &file)) == 1) {
        random_entry(w); /* applied while it is written */
        feed(w, h);
        if (kv_compact_pending(h->kv))
            kv_compact_step(h->kv, 3);
        write_some(w, h);
    }
    cr_assert_eq(r, 0);
    kv_checkpoint_free(c);
    kv_on_written(h->kv, engine_mem_write(h->engine, SIZE_MAX));
    kv_on_durable(h->kv, engine_mem_sync(h->engine));
    cr_assert(kv_durable_index(h->kv) >= index);
    buf_fini(&h->checkpoint);
    h->checkpoint = file;
    file = BUF_INIT;
    if (prng_below(&w->prng, 4) > 0)
        while (kv_trim_batches(h->kv, index, 5) == 1) {
        }
}

static void misfortune(struct world *w, struct harness *h)
{
    switch (prng_below(&w->prng, 12)) {
    case 0:
        harness_close(h);
        engine_mem_kill(h->engine);
        cr_assert_eq(harness_open(h), 0);
        break;
    case 1:
    case 2:
        crash(w, h);
        break;
    case 3:
        take_checkpoint(w, h);
        break;
    case 4:
        move_by_snapshot(w, h);
        break;
    case 5:
    case 6:
        if (kv_compact_pending(h->kv))
            cr_assert_eq(kv_compact_step(h->kv, 1 + prng_below(&w->prng, 9)), 0);
        break;
    case 7: /* the checkpoint is damaged: the logs must do */
        if (h->checkpoint.len > 0) {
            h->checkpoint.data[prng_below(&w->prng, h->checkpoint.len)] ^= 1;
            crash(w, h);
            buf_clear(&h->checkpoint);
        }
        break;
    default:
        write_some(w, h);
    }
}

/* Compacts everything away and lets a checkpoint take its place, so that only what is needed is
 * left. */
static void settle(struct world *w, struct harness *h)
{
    harness_finish_compaction(h);
    harness_checkpoint(h);
    while (kv_trim_batches(h->kv, h->index, 5) == 1) {
    }
    harness_finish_compaction(h);
}

static void same_state(struct world *w)
{
    struct kv_state a, b;

    kv_get_state(w->a.kv, &a);
    kv_get_state(w->b.kv, &b);
    cr_assert_eq(a.applied_index, b.applied_index);
    cr_assert_eq(a.chain_hash, b.chain_hash);
    cr_assert_eq(a.revision, b.revision);
    cr_assert_eq(a.compact_revision, b.compact_revision);
    cr_assert_eq(a.revision, w->revision);
    cr_assert_eq(a.compact_revision, w->compact);
}

static void run(uint64_t seed, unsigned int steps)
{
    struct world w = {.revision = 1, .compact = -1, .seed = seed};

    prng_init(&w.prng, seed);
    harness_init(&w.a, false);
    harness_init(&w.b, true);
    w.b.cache_bytes = 1;
    for (unsigned int step = 0; step < steps; step++) {
        random_entry(&w);
        misfortune(&w, &w.b);
        if (prng_below(&w.prng, 3) == 0) {
            feed(&w, &w.a);
            feed(&w, &w.b);
            same_state(&w);
            random_range(&w, &w.a);
            random_range(&w, &w.b);
        }
        if (prng_below(&w.prng, 40) == 0) {
            int64_t at;

            feed(&w, &w.a);
            feed(&w, &w.b);
            at = prng_below(&w.prng, 2) == 0 ? 0 : random_revision(&w);
            cr_assert_eq(harness_hash(&w.a, at), harness_hash(&w.b, at), "seed %lu",
                         (unsigned long)seed);
        }
    }
    model_put(&w, 0, "last", ++w.revision);
    add_entry(&w, PROTO_KIND_PUT, put_body(&(struct kv_put_request){.key = KEY("k00"), .value = KEY("last")}));
    add_entry(&w, PROTO_KIND_COMPACT, compact_body(w.revision, false));
    w.compact = w.revision;
    feed(&w, &w.a);
    feed(&w, &w.b);
    same_state(&w);
    settle(&w, &w.a);
    settle(&w, &w.b);
    cr_assert_eq(harness_hash(&w.a, 0), harness_hash(&w.b, 0));
    for (size_t i = 0; i < 2; i++) {
        struct kv_stats stats;

        kv_get_stats(i == 0 ? w.a.kv : w.b.kv, &stats);
        cr_assert_eq(engine_mem_record_count(i == 0 ? w.a.engine : w.b.engine,
                                             KV_RECORD_KEY_BYTES),
                     stats.key_count, "nothing leaks and nothing is missing");
    }
    for (unsigned int i = 0; i < 200; i++) {
        random_range(&w, &w.a);
        random_range(&w, &w.b);
    }
    harness_fini(&w.a);
    harness_fini(&w.b);
    for (size_t i = 0; i < w.log_count; i++)
        buf_fini(&w.log[i].body);
    free(w.log);
    free(w.versions);
}

Test(kv_model, random_histories)
{
    const char *seeds = getenv("KV_MODEL_SEEDS");
    uint64_t count = seeds != NULL ? strtoull(seeds, NULL, 10) : 60;
    const char *first = getenv("KV_MODEL_FIRST_SEED");
    uint64_t from = first != NULL ? strtoull(first, NULL, 10) : 1;

    for (uint64_t seed = from; seed < from + count; seed++)
        run(seed, 300);
}

Test(kv_model, long_history)
{
    run(4711, 3000);
}
