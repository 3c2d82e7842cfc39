/* The keyspace's rules, edge by edge (facts v3-grpc.md 4.3 to 5.6). */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/util/macros.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"
#include "stored/engine/engine_mem.h"
#include "stored/kv/kv_internal.h"
#include "stored/kv/kv_engine.h"
#include "stored/kv/store_alarms.h"
#include "stored/kv/store_members.h"
#include "tests/unit/kv_harness.h"

static struct harness h;

static void setup(void)
{
    harness_init(&h, false);
}

static void teardown(void)
{
    harness_fini(&h);
}

TestSuite(kv, .init = setup, .fini = teardown);

static int64_t revision(void)
{
    struct kv_state state;

    kv_get_state(h.kv, &state);
    return state.revision;
}

/* The answer in letters: "key=value@create/mod#version ..." then " +" when there is more, and the
 * count. */
static const char *show(void)
{
    static char text[4096];
    Etcdserverpb__RangeResponse *m = harness_range_answer(&h);
    size_t n = 0;

    for (size_t i = 0; i < m->n_kvs; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%.*s=%.*s@%ld/%ld#%ld ",
                              (int)m->kvs[i]->key.len, m->kvs[i]->key.data,
                              (int)m->kvs[i]->value.len, m->kvs[i]->value.data,
                              (long)m->kvs[i]->create_revision, (long)m->kvs[i]->mod_revision,
                              (long)m->kvs[i]->version);
    snprintf(text + n, sizeof(text) - n, "%s%ld", m->more ? "+" : "", (long)m->count);
    etcdserverpb__range_response__free_unpacked(m, NULL);
    return text;
}

#define EXPECT_RANGE(text, ...)                                                                    \
    do {                                                                                           \
        struct kv_range_request request_ = {__VA_ARGS__};                                          \
        cr_expect_eq(harness_range(&h, &request_, 0), OUT_OK);                                     \
        cr_expect_str_eq(show(), text);                                                            \
    } while (0)
#define EXPECT_RANGE_OUTCOME(outcome, ...)                                                         \
    do {                                                                                           \
        struct kv_range_request request_ = {__VA_ARGS__};                                          \
        cr_expect_eq(harness_range(&h, &request_, 0), outcome);                                    \
    } while (0)

Test(kv, fresh_store)
{
    struct kv_state state;

    kv_get_state(h.kv, &state);
    cr_expect_eq(state.revision, 1);
    cr_expect_eq(state.compact_revision, -1);
    cr_expect_eq(state.applied_index, 0);
    EXPECT_RANGE("0", .key = KEY("a"));
    EXPECT_RANGE("0", .key = KEY("a"), .range_end = BYTES_LIT("\0"));
    EXPECT_RANGE("0", .key = KEY("a"), .revision = 1);
    EXPECT_RANGE_OUTCOME(OUT_FUTURE_REVISION, .key = KEY("a"), .revision = 2);
}

Test(kv, put_and_get)
{
    Etcdserverpb__PutResponse *p;

    cr_assert_eq(harness_put(&h, "a", "1"), OUT_OK);
    p = harness_put_answer(&h);
    cr_expect_eq(p->header->cluster_id, harness_header.cluster_id);
    cr_expect_eq(p->header->member_id, harness_header.member_id);
    cr_expect_eq(p->header->revision, 2);
    cr_expect_eq(p->header->raft_term, 2);
    cr_expect(p->prev_kv == NULL);
    etcdserverpb__put_response__free_unpacked(p, NULL);

    harness_put(&h, "a", "2");
    harness_put(&h, "b", "");
    EXPECT_RANGE("a=2@2/3#2 1", .key = KEY("a"));
    EXPECT_RANGE("b=@4/4#1 1", .key = KEY("b"));
    EXPECT_RANGE("a=1@2/2#1 1", .key = KEY("a"), .revision = 2);
    EXPECT_RANGE("0", .key = KEY("b"), .revision = 3);
    EXPECT_RANGE("0", .key = KEY("c"));
    EXPECT_RANGE("a=2@2/3#2 1", .key = KEY("a"), .revision = -5);
}

Test(kv, prev_kv_and_ignore)
{
    static const struct {
        struct kv_put_request m;
        int outcome;
        const char *after;
    } rows[] = {
        {{.key = {(const uint8_t *)"n", 1}, .ignore_value = true}, OUT_KEY_NOT_FOUND, "0"},
        {{.key = {(const uint8_t *)"n", 1}, .ignore_lease = true}, OUT_KEY_NOT_FOUND, "0"},
        {{.key = {(const uint8_t *)"n", 1}, .lease = 7}, OUT_LEASE_NOT_FOUND, "0"},
        {{.key = {(const uint8_t *)"n", 1}, .lease = -7}, OUT_LEASE_NOT_FOUND, "0"},
        {{.key = {(const uint8_t *)"n", 1}, .lease = 7, .ignore_value = true}, OUT_LEASE_NOT_FOUND, "0"},
        {{.key = {(const uint8_t *)"", 0}}, OUT_EMPTY_KEY, NULL},
        {{.key = {(const uint8_t *)"a", 1}, .value = {(const uint8_t *)"x", 1}, .ignore_value = true},
         OUT_VALUE_PROVIDED, "a=1@2/2#1 1"},
        {{.key = {(const uint8_t *)"a", 1}, .lease = 3, .ignore_lease = true}, OUT_LEASE_PROVIDED,
         "a=1@2/2#1 1"},
        {{.key = {(const uint8_t *)"a", 1}, .ignore_value = true}, OUT_OK, "a=1@2/3#2 1"},
        {{.key = {(const uint8_t *)"a", 1}, .value = {(const uint8_t *)"z", 1}, .ignore_lease = true},
         OUT_OK, "a=z@2/4#3 1"},
    };
    Etcdserverpb__PutResponse *p;
    CLEANUP(buf_fini) struct buf prev = put_body(
        &(struct kv_put_request){.key = KEY("a"), .value = KEY("new"), .prev_kv = true});
    CLEANUP(buf_fini) struct buf none = put_body(
        &(struct kv_put_request){.key = KEY("fresh"), .prev_kv = true});

    harness_put(&h, "a", "1");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(buf_fini) struct buf b = put_body(&rows[i].m);

        cr_expect_eq(harness_apply(&h, PROTO_KIND_PUT, buf_bytes(&b)), rows[i].outcome, "row %zu", i);
        cr_expect_eq(h.answer.len == 0, rows[i].outcome != OUT_OK);
        if (rows[i].after != NULL) {
            struct kv_range_request get = {.key = rows[i].m.key};

            harness_range(&h, &get, 0);
            cr_expect_str_eq(show(), rows[i].after);
        }
    }
    cr_expect_eq(harness_apply(&h, PROTO_KIND_PUT, buf_bytes(&prev)), OUT_OK);
    p = harness_put_answer(&h);
    cr_assert(p->prev_kv != NULL);
    cr_expect_eq(p->prev_kv->version, 3);
    cr_expect(p->prev_kv->value.len == 1 && p->prev_kv->value.data[0] == 'z');
    etcdserverpb__put_response__free_unpacked(p, NULL);
    cr_expect_eq(harness_apply(&h, PROTO_KIND_PUT, buf_bytes(&none)), OUT_OK);
    p = harness_put_answer(&h);
    cr_expect(p->prev_kv == NULL);
    etcdserverpb__put_response__free_unpacked(p, NULL);
}

Test(kv, delete_and_recreate)
{
    Etcdserverpb__DeleteRangeResponse *d;

    harness_put(&h, "a", "1");
    harness_put(&h, "a", "2");
    harness_put(&h, "b", "3");
    cr_expect_eq(harness_delete(&h, "x", ""), OUT_OK);
    d = harness_delete_answer(&h);
    cr_expect_eq(d->deleted, 0);
    cr_expect_eq(d->header->revision, 4, "nothing deleted, nothing counted");
    etcdserverpb__delete_range_response__free_unpacked(d, NULL);

    cr_expect_eq(harness_delete(&h, "a", "c"), OUT_OK);
    d = harness_delete_answer(&h);
    cr_expect_eq(d->deleted, 2);
    cr_expect_eq(d->header->revision, 5);
    cr_assert_eq(d->n_prev_kvs, 2);
    cr_expect_eq(d->prev_kvs[0]->mod_revision, 3);
    cr_expect_eq(d->prev_kvs[1]->mod_revision, 4);
    etcdserverpb__delete_range_response__free_unpacked(d, NULL);

    EXPECT_RANGE("0", .key = KEY("a"), .range_end = KEY("z"));
    EXPECT_RANGE("a=2@2/3#2 b=3@4/4#1 2", .key = KEY("a"), .range_end = KEY("z"), .revision = 4);
    harness_put(&h, "a", "new");
    EXPECT_RANGE("a=new@6/6#1 1", .key = KEY("a"));
    EXPECT_RANGE("a=2@2/3#2 1", .key = KEY("a"), .revision = 4);
    EXPECT_RANGE("0", .key = KEY("a"), .revision = 5);
}

Test(kv, range_ends)
{
    static const char *const keys[] = {"a", "aa", "b", "ba", "c"};

    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        harness_put(&h, keys[i], "v");
    EXPECT_RANGE("5", .key = KEY("a"), .range_end = BYTES_LIT("\0"), .count_only = true);
    EXPECT_RANGE("5", .key = BYTES_LIT("\0"), .range_end = BYTES_LIT("\0"), .count_only = true);
    EXPECT_RANGE("2", .key = KEY("a"), .range_end = KEY("b"), .count_only = true);
    EXPECT_RANGE("0", .key = KEY("b"), .range_end = KEY("a"), .count_only = true);
    EXPECT_RANGE("0", .key = KEY("b"), .range_end = KEY("b"), .count_only = true);
    EXPECT_RANGE("1", .key = KEY("b"), .count_only = true);
    EXPECT_RANGE("3", .key = KEY("b"), .range_end = BYTES_LIT("\0"), .count_only = true, .limit = 1);
    EXPECT_RANGE("c=v@6/6#1 1", .key = KEY("c"), .range_end = BYTES_LIT("\0"));
}

Test(kv, range_options)
{
    /* mod:     2      3      4      5      6         versions a:1 b:2 c:1 d:1 */
    harness_put(&h, "b", "4");
    harness_put(&h, "a", "3");
    harness_put(&h, "d", "1");
    harness_put(&h, "b", "2");
    harness_put(&h, "c", "5");
#define ALL .key = KEY("a"), .range_end = KEY("z")
    EXPECT_RANGE("a=3@3/3#1 b=2@2/5#2 +4", ALL, .limit = 2);
    EXPECT_RANGE("a=3@3/3#1 b=2@2/5#2 c=5@6/6#1 d=1@4/4#1 4", ALL, .limit = 4);
    EXPECT_RANGE("a=3@3/3#1 b=2@2/5#2 c=5@6/6#1 d=1@4/4#1 4", ALL, .limit = -1);
    EXPECT_RANGE("d=1@4/4#1 c=5@6/6#1 +4", ALL, .limit = 2, .sort_order = KV_SORT_DESCEND);
    EXPECT_RANGE("a=3@3/3#1 b=2@2/5#2 +4", ALL, .limit = 2, .sort_order = KV_SORT_ASCEND);
    EXPECT_RANGE("d=1@4/4#1 b=2@2/5#2 a=3@3/3#1 c=5@6/6#1 4", ALL, .sort_order = KV_SORT_ASCEND,
                 .sort_target = KV_BY_VALUE);
    EXPECT_RANGE("c=5@6/6#1 +4", ALL, .limit = 1, .sort_order = KV_SORT_DESCEND,
                 .sort_target = KV_BY_MOD);
    EXPECT_RANGE("b=2@2/5#2 a=3@3/3#1 d=1@4/4#1 c=5@6/6#1 4", ALL, .sort_order = KV_SORT_ASCEND,
                 .sort_target = KV_BY_CREATE);
    EXPECT_RANGE("b=2@2/5#2 +4", ALL, .limit = 1, .sort_order = KV_SORT_DESCEND,
                 .sort_target = KV_BY_VERSION);
    /* no order but a target: the limit counts in key order, one more is fetched, then sorted */
    EXPECT_RANGE("b=2@2/5#2 +4", ALL, .limit = 1, .sort_target = KV_BY_CREATE);
    EXPECT_RANGE("b=2@2/5#2 a=3@3/3#1 +4", ALL, .limit = 2, .sort_target = KV_BY_VALUE);
    /* filters: count ignores them, more does not */
    EXPECT_RANGE("b=2@2/5#2 c=5@6/6#1 4", ALL, .min_mod_revision = 5);
    EXPECT_RANGE("b=2@2/5#2 +4", ALL, .min_mod_revision = 5, .limit = 1);
    EXPECT_RANGE("a=3@3/3#1 d=1@4/4#1 4", ALL, .max_mod_revision = 4);
    EXPECT_RANGE("a=3@3/3#1 d=1@4/4#1 4", ALL, .min_create_revision = 3, .max_create_revision = 4);
    EXPECT_RANGE("4", ALL, .min_mod_revision = 100);
    EXPECT_RANGE("4", ALL, .min_mod_revision = 5, .count_only = true);
    EXPECT_RANGE("0", .key = KEY("a"), .range_end = KEY("a"), .min_mod_revision = 5);
    EXPECT_RANGE("a=@3/3#1 b=@2/5#2 +4", ALL, .limit = 2, .keys_only = true);
    EXPECT_RANGE("d=@4/4#1 b=@2/5#2 a=@3/3#1 c=@6/6#1 4", ALL, .keys_only = true,
                 .sort_target = KV_BY_VALUE);
    EXPECT_RANGE("a=3@3/3#1 b=4@2/2#1 2", ALL, .revision = 3);
    EXPECT_RANGE("b=4@2/2#1 a=3@3/3#1 2", ALL, .revision = 3, .sort_order = KV_SORT_DESCEND);
    EXPECT_RANGE("a=3@3/3#1 +2", ALL, .revision = 3, .limit = 1);
    EXPECT_RANGE("2", ALL, .revision = 3, .count_only = true);
    EXPECT_RANGE("b=4@2/2#1 1", .key = KEY("b"), .revision = 4);
    EXPECT_RANGE("1", .key = KEY("b"), .min_mod_revision = 9);
}

Test(kv, compaction_edges)
{
    cr_expect_eq(harness_compact(&h, 2), OUT_FUTURE_REVISION);
    cr_expect_eq(harness_compact(&h, -1), OUT_COMPACTED);
    cr_expect_eq(harness_compact(&h, 0), OUT_OK, "a fresh store was compacted at -1");
    cr_expect_eq(harness_compact(&h, 0), OUT_COMPACTED);
    for (int i = 0; i < 5; i++)
        harness_put(&h, "a", "v"); /* 2..6 */
    cr_expect_eq(harness_compact(&h, 4), OUT_OK);
    cr_expect_eq(harness_compact(&h, 4), OUT_COMPACTED);
    cr_expect_eq(harness_compact(&h, 3), OUT_COMPACTED);
    cr_expect_eq(harness_compact(&h, 7), OUT_FUTURE_REVISION);
    EXPECT_RANGE_OUTCOME(OUT_COMPACTED, .key = KEY("a"), .revision = 3);
    EXPECT_RANGE("a=v@2/4#3 1", .key = KEY("a"), .revision = 4);
    harness_finish_compaction(&h);
    EXPECT_RANGE("a=v@2/4#3 1", .key = KEY("a"), .revision = 4);
    EXPECT_RANGE("a=v@2/5#4 1", .key = KEY("a"), .revision = 5);
    EXPECT_RANGE_OUTCOME(OUT_COMPACTED, .key = KEY("a"), .revision = 1);
    cr_expect_eq(harness_compact(&h, 6), OUT_OK, "at the current revision");
    harness_finish_compaction(&h);
    EXPECT_RANGE("a=v@2/6#5 1", .key = KEY("a"));
    cr_expect_eq(engine_mem_record_count(h.engine, KV_RECORD_KEY_BYTES), 1);
    cr_expect_eq(revision(), 6);
}

Test(kv, another_format_is_refused)
{
    static const char *const keys[] = {"r\0\0\0\0\0\0\0\2\0\0\0\0", "i\0\0\0\0\0\0\0\1", "mtrimmed", "\3"};

    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        struct engine_mem *engine = engine_mem_new(false);
        struct kv_engine *e = engine_mem_kv(engine);
        struct buf batch = BUF_INIT;
        char *error = NULL, *warning = NULL;
        struct kv *kv = NULL;

        kv_batch_put(&batch, bytes_of(keys[i], 1 + strlen(keys[i] + 1)), BYTES_LIT("x"));
        e->ops->write(e, 1, &batch);
        cr_expect_eq(kv_open(&(struct kv_args){.engine = e}, &kv, &error, &warning), -EBADMSG);
        cr_expect(error != NULL && strstr(error, "another format") != NULL);
        cr_expect_null(kv);
        free(error);
        engine_mem_free(engine);
    }
}

/* All keys of the engine rise in the order they are written in. */
Test(kv, what_is_written_is_above_everything_before)
{
    struct kv_engine *e = engine_mem_kv(h.engine);
    CLEANUP(buf_fini) struct buf last = BUF_INIT;

    for (int i = 0; i < 20; i++) {
        struct kv_engine_iter *it;
        struct bytes key;

        if (i % 3 == 0)
            harness_delete(&h, "nothing", ""); /* a batch of the same revision */
        else
            harness_put(&h, i % 2 == 0 ? "b" : "a", "v");
        it = e->ops->iter_new(e, false);
        e->ops->iter_seek_last(it);
        key = e->ops->iter_key(it);
        cr_expect(bytes_cmp(key, buf_bytes(&last)) > 0);
        cr_expect_eq(key.len, KV_BATCH_KEY_BYTES);
        buf_clear(&last);
        e->ops->iter_seek_last(it);
        buf_append_bytes(&last, e->ops->iter_key(it));
        e->ops->iter_free(it);
    }
    cr_expect_eq(engine_mem_record_count(h.engine, KV_BATCH_KEY_BYTES), 20);
}

static size_t batch_records(void)
{
    return engine_mem_record_count(h.engine, KV_BATCH_KEY_BYTES);
}

static void trim_slices(uint64_t index, size_t max)
{
    kv_on_durable(h.kv, engine_mem_sync(h.engine));
    while (kv_trim_batches(h.kv, index, max) == 1) {
    }
}

Test(kv, trimming_keeps_the_checkpoints_batch_and_later_ones)
{
    for (int i = 0; i < 30; i++)
        i % 4 == 0 ? harness_delete(&h, "nothing", "") : harness_put(&h, "a", "v");
    harness_checkpoint(&h);
    harness_put(&h, "b", "v");
    trim_slices(30, 3);
    cr_expect_eq(batch_records(), 2);

    /* before the next trimming the process ends */
    for (int i = 0; i < 10; i++)
        harness_put(&h, "a", "w");
    harness_checkpoint(&h);
    harness_close(&h);
    engine_mem_kill(h.engine);
    cr_assert_eq(harness_open(&h), 0);
    cr_expect_eq(h.index, 41);
    cr_expect_eq(batch_records(), 12, "left by the former process");
    harness_put(&h, "a", "x");
    harness_checkpoint(&h);
    harness_put(&h, "a", "y");
    kv_on_durable(h.kv, engine_mem_sync(h.engine));
    cr_expect_eq(kv_trim_batches(h.kv, 42, 1), 1, "in slices");
    trim_slices(42, 1);
    cr_expect_eq(batch_records(), 2);
    harness_close(&h);
    engine_mem_kill(h.engine);
    buf_clear(&h.checkpoint);
    cr_assert_eq(harness_open(&h), 0, "from the log alone");
    cr_expect_eq(h.index, 43);
    harness_put(&h, "a", "z");
    harness_checkpoint(&h);
    trim_slices(44, 1);
    cr_expect_eq(batch_records(), 1);
    EXPECT_RANGE("a=z@2/37#35 1", .key = KEY("a"));
}

Test(kv, entries_in_order_once)
{
    CLEANUP(buf_fini) struct buf b = put_body(&(struct kv_put_request){.key = KEY("a")});
    struct kv_state before, after;

    cr_assert_eq(harness_put(&h, "a", "1"), OUT_OK);
    kv_get_state(h.kv, &before);
    cr_expect_eq(harness_apply_at(&h, 1, PROTO_KIND_PUT, buf_bytes(&b)), OUT_OK);
    cr_expect_eq(h.answer.len, 0, "an old entry is not executed and not answered");
    cr_expect_eq(harness_apply_at(&h, 3, PROTO_KIND_PUT, buf_bytes(&b)), -EPROTO, "a gap");
    kv_get_state(h.kv, &after);
    cr_expect(memcmp(&before, &after, sizeof(before)) == 0);
    cr_expect_eq(harness_apply_at(&h, 2, PROTO_KIND_PUT, buf_bytes(&b)), OUT_OK);
}

Test(kv, malformed_entries_count_but_change_nothing)
{
    struct proto_entry entry = {.index = 1, .term = 2, .data = BYTES_LIT("\xff\xff")};
    struct kv_state a, b;

    kv_begin_turn(h.kv);
    cr_expect_eq(kv_apply(h.kv, &entry, NULL), OUT_MALFORMED);
    entry = (struct proto_entry){.index = 2, .term = 2};
    kv_get_state(h.kv, &a);
    cr_expect_eq(kv_apply(h.kv, &entry, NULL), OUT_OK, "a new leader's empty entry");
    kv_end_turn(h.kv);
    kv_get_state(h.kv, &b);
    cr_expect_neq(a.chain_hash, b.chain_hash);
    cr_expect_eq(b.applied_index, 2);
    cr_expect_eq(b.revision, 1);
    h.index = 2;
    cr_expect_eq(harness_apply(&h, PROTO_KIND_PUT, BYTES_LIT("\x0a\x05x")), OUT_MALFORMED);
    cr_expect_eq(harness_apply(&h, PROTO_KIND_TXN, BYTES_LIT("\x12\x05x")), OUT_MALFORMED);
    cr_expect_eq(harness_apply(&h, PROTO_KIND_LEASE_GRANT, BYTES_EMPTY), OUT_MALFORMED);
    cr_expect_eq(harness_apply(&h, PROTO_KIND_CONF_CHANGE, BYTES_LIT("x")), OUT_MALFORMED);
    cr_expect_eq(harness_apply(&h, PROTO_KIND_CLUSTER_VERSION, BYTES_EMPTY), OUT_MALFORMED);
}

static int alarm_entry(int action, uint64_t member, int type)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    pb_put_u64(&b, 1, (uint64_t)action);
    pb_put_u64(&b, 2, member);
    pb_put_u64(&b, 3, (uint64_t)type);
    return harness_apply(&h, PROTO_KIND_ALARM, buf_bytes(&b));
}

static size_t alarms_answered(void)
{
    Etcdserverpb__AlarmResponse *m =
        etcdserverpb__alarm_response__unpack(NULL, h.answer.len, h.answer.data);
    size_t n = m->n_alarms;

    cr_assert(m->header != NULL);
    etcdserverpb__alarm_response__free_unpacked(m, NULL);
    return n;
}

Test(kv, alarms)
{
    harness_put(&h, "a", "1");
    cr_expect_eq(alarm_entry(1, 5, 0), OUT_OK);
    cr_expect_eq(alarms_answered(), 0, "NONE is no alarm");
    cr_expect_eq(alarm_entry(1, 5, STORE_ALARM_NOSPACE), OUT_OK);
    cr_expect_eq(alarms_answered(), 1);
    cr_expect_eq(harness_put(&h, "a", "2"), OUT_NO_SPACE);
    cr_expect_eq(harness_delete(&h, "a", ""), OUT_OK);
    cr_expect_eq(harness_compact(&h, 2), OUT_OK);
    cr_expect_eq(alarm_entry(1, 4, STORE_ALARM_CORRUPT), OUT_OK);
    cr_expect_eq(harness_put(&h, "a", "2"), OUT_CORRUPT);
    cr_expect_eq(harness_delete(&h, "a", ""), OUT_CORRUPT);
    cr_expect_eq(harness_compact(&h, 3), OUT_CORRUPT);
    EXPECT_RANGE("0", .key = KEY("a"));
    cr_expect_eq(alarm_entry(0, 0, 0), OUT_OK);
    cr_expect_eq(alarms_answered(), 2);
    cr_expect_eq(alarm_entry(2, 4, STORE_ALARM_NOSPACE), OUT_OK);
    cr_expect_eq(alarms_answered(), 0, "no such pair");
    cr_expect_eq(alarm_entry(2, 4, STORE_ALARM_CORRUPT), OUT_OK);
    cr_expect_eq(alarms_answered(), 1);
    cr_expect_eq(kv_alarms(h.kv)->count, 1);
    cr_expect_eq(alarm_entry(2, 5, STORE_ALARM_NOSPACE), OUT_OK);
    cr_expect_eq(harness_put(&h, "a", "2"), OUT_OK);
}

static int conf_entry(enum proto_conf_op op, uint64_t id, const char *peer_urls)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    proto_conf_change_encode(
        &b, &(struct proto_conf_change){.op = op, .member = {.id = id, .peer_urls = KEY(peer_urls)}});
    return harness_apply(&h, PROTO_KIND_CONF_CHANGE, buf_bytes(&b));
}

Test(kv, members)
{
    CLEANUP(buf_fini) struct buf attr = BUF_INIT;
    CLEANUP(buf_fini) struct buf list = BUF_INIT;
    Etcdserverpb__MemberListResponse *m;
    uint64_t generation = kv_tables_generation(h.kv);

    cr_expect_eq(conf_entry(PROTO_CONF_ADD_VOTER, 7, "http://c:1"), OUT_OK);
    cr_expect_eq(conf_entry(PROTO_CONF_ADD_VOTER, 3, "http://a:1,http://a:2"), OUT_OK);
    cr_expect_neq(kv_tables_generation(h.kv), generation);
    cr_expect_eq(conf_entry(PROTO_CONF_ADD_VOTER, 3, "http://x:1"), OUT_MEMBER_EXIST);
    cr_expect_eq(conf_entry(PROTO_CONF_ADD_LEARNER, 5, "http://a:2"), OUT_PEER_URL_EXIST);
    cr_expect_eq(conf_entry(PROTO_CONF_ADD_LEARNER, 5, "http://b:1"), OUT_OK);
    cr_expect_eq(conf_entry(PROTO_CONF_PROMOTE, 3, ""), OUT_MEMBER_NOT_LEARNER);
    cr_expect_eq(conf_entry(PROTO_CONF_PROMOTE, 99, ""), OUT_MEMBER_NOT_FOUND);
    cr_expect_eq(conf_entry(PROTO_CONF_UPDATE, 7, "http://b:1"), OUT_PEER_URL_EXIST);
    cr_expect_eq(conf_entry(PROTO_CONF_UPDATE, 7, "http://c:2"), OUT_OK);
    cr_expect_eq(conf_entry(PROTO_CONF_REMOVE, 7, ""), OUT_OK);
    cr_expect_eq(conf_entry(PROTO_CONF_REMOVE, 7, ""), OUT_MEMBER_NOT_FOUND);
    cr_expect_eq(conf_entry(PROTO_CONF_ADD_VOTER, 7, "http://n:1"), OUT_MEMBER_NOT_FOUND, "used up");
    proto_member_encode(&attr, &(struct proto_member){.id = 3, .name = KEY("one"),
                                                      .client_urls = KEY("http://a:3")});
    cr_expect_eq(harness_apply(&h, PROTO_KIND_MEMBER_ATTR, buf_bytes(&attr)), OUT_OK);
    cr_expect_eq(harness_apply(&h, PROTO_KIND_CLUSTER_VERSION, BYTES_LIT("3.7.0")), OUT_OK);

    for (int round = 0; round < 2; round++) { /* the second time after a restart */
        buf_clear(&list);
        kv_member_list(h.kv, &harness_header, &list);
        m = etcdserverpb__member_list_response__unpack(NULL, list.len, list.data);
        cr_assert(m != NULL);
        cr_expect_eq(m->header->revision, 0);
        cr_expect_eq(m->header->raft_term, 2);
        cr_assert_eq(m->n_members, 2);
        cr_expect_eq(m->members[0]->id, 3);
        cr_expect_str_eq(m->members[0]->name, "one");
        cr_assert_eq(m->members[0]->n_peerurls, 2);
        cr_expect_str_eq(m->members[0]->peerurls[1], "http://a:2");
        cr_expect_str_eq(m->members[0]->clienturls[0], "http://a:3");
        cr_expect_eq(m->members[1]->id, 5);
        cr_expect(m->members[1]->islearner);
        etcdserverpb__member_list_response__free_unpacked(m, NULL);
        cr_expect(bytes_eq(kv_cluster_version(h.kv), BYTES_LIT("3.7.0")));
        cr_expect(store_members_find(kv_members(h.kv), 7)->removed);
        harness_close(&h);
        engine_mem_kill(h.engine);
        cr_assert_eq(harness_open(&h), 0);
    }
}

Test(kv, downgrade)
{
    Etcdserverpb__DowngradeResponse *answer;

    cr_expect_eq(harness_apply(&h, PROTO_KIND_DOWNGRADE, BYTES_LIT("3.6.0")),
                 OUT_CLUSTER_VERSION_UNAVAILABLE);
    cr_expect_eq(harness_apply(&h, PROTO_KIND_CLUSTER_VERSION, BYTES_LIT("3.7.0/3.6.0")),
                 OUT_MALFORMED);
    cr_expect_eq(harness_apply(&h, PROTO_KIND_CLUSTER_VERSION, BYTES_LIT("3.7.0")), OUT_OK);
    cr_expect_eq(kv_downgrade(h.kv).len, 0);
    cr_expect_eq(harness_apply(&h, PROTO_KIND_DOWNGRADE, BYTES_EMPTY), OUT_NO_INFLIGHT_DOWNGRADE);
    cr_expect_eq(harness_apply(&h, PROTO_KIND_DOWNGRADE, BYTES_LIT("3.5.0")),
                 OUT_INVALID_DOWNGRADE_TARGET);
    cr_expect_eq(harness_apply(&h, PROTO_KIND_DOWNGRADE, BYTES_LIT("3.6.0")), OUT_OK);
    answer = etcdserverpb__downgrade_response__unpack(NULL, h.answer.len, h.answer.data);
    cr_assert_not_null(answer);
    cr_expect_str_eq(answer->version, "3.7");
    cr_expect_eq(answer->header->revision, 1);
    etcdserverpb__downgrade_response__free_unpacked(answer, NULL);
    cr_expect_eq(harness_apply(&h, PROTO_KIND_DOWNGRADE, BYTES_LIT("3.6.0")),
                 OUT_DOWNGRADE_IN_PROGRESS);

    harness_close(&h);
    engine_mem_kill(h.engine);
    cr_assert_eq(harness_open(&h), 0);
    cr_expect(bytes_eq(kv_cluster_version(h.kv), BYTES_LIT("3.7.0")));
    cr_expect(bytes_eq(kv_downgrade(h.kv), BYTES_LIT("3.6.0")));
    cr_expect_eq(harness_apply(&h, PROTO_KIND_DOWNGRADE, BYTES_EMPTY), OUT_OK);
    cr_expect(bytes_eq(kv_cluster_version(h.kv), BYTES_LIT("3.7.0")));
    cr_expect_eq(kv_downgrade(h.kv).len, 0);
}

/* ---- transactions ---- */

#define OPS(...)                                                                                   \
    (struct kv_op[]){__VA_ARGS__}, ARRAY_LEN(((struct kv_op[]){__VA_ARGS__}))
#define PUT_OP(k, v) {.type = KV_OP_PUT, .put = {.key = KEY(k), .value = KEY(v)}}
#define GET_OP(k) {.type = KV_OP_RANGE, .range = {.key = KEY(k)}}
#define DEL_OP(k, e) {.type = KV_OP_DELETE, .delete_range = {.key = KEY(k), .range_end = KEY(e)}}

static int txn(struct kv_compare *compares, size_t compare_count, struct kv_op *success,
               size_t success_count, struct kv_op *failure, size_t failure_count)
{
    return harness_txn(&h, &(struct kv_txn_request){
                               .compares = compares,
                               .compare_count = compare_count,
                               .success = success,
                               .success_count = success_count,
                               .failure = failure,
                               .failure_count = failure_count,
                           });
}

Test(kv, compares)
{
#define CMP(k, t, r, n) {.key = {(const uint8_t *)k, 1}, .target = KV_TARGET_##t, .union_target = KV_TARGET_##t, .result = KV_##r, .number = n}
#define VAL(k, r, v) {.key = {(const uint8_t *)k, 1}, .target = KV_TARGET_VALUE, .union_target = KV_TARGET_VALUE, .result = KV_##r, .value = {(const uint8_t *)v, sizeof(v) - 1}}
    static const struct {
        struct kv_compare c;
        bool holds;
    } rows[] = {
        /* a: version 2, create 2, mod 3, value "m"; b: version 1, create 4, mod 4, value "n" */
        {CMP("a", VERSION, EQUAL, 2), true},
        {CMP("a", VERSION, EQUAL, 1), false},
        {CMP("a", VERSION, GREATER, 1), true},
        {CMP("a", VERSION, GREATER, 2), false},
        {CMP("a", VERSION, LESS, 3), true},
        {CMP("a", VERSION, NOT_EQUAL, 2), false},
        {CMP("a", CREATE, EQUAL, 2), true},
        {CMP("a", MOD, EQUAL, 3), true},
        {CMP("a", LEASE, EQUAL, 0), true},
        {CMP("x", VERSION, EQUAL, 0), true},
        {CMP("x", CREATE, EQUAL, 0), true},
        {CMP("x", MOD, LESS, 1), true},
        {CMP("x", LEASE, NOT_EQUAL, 0), false},
        {VAL("a", EQUAL, "m"), true},
        {VAL("a", GREATER, "l"), true},
        {VAL("a", LESS, "mm"), true},
        {VAL("a", NOT_EQUAL, "m"), false},
        {VAL("x", EQUAL, ""), false},
        {VAL("x", NOT_EQUAL, "q"), false}, /* a missing key never holds for VALUE */
        {{.key = {(const uint8_t *)"a", 1}, .result = 77, .union_target = -1}, true},
        {{.key = {(const uint8_t *)"a", 1}, .target = 77, .union_target = -1}, true},
        {{.key = {(const uint8_t *)"a", 1}, .target = 77, .result = KV_NOT_EQUAL, .union_target = -1}, false},
        /* the wrong member of the oneof: zero is compared */
        {{.key = {(const uint8_t *)"a", 1}, .target = KV_TARGET_MOD, .union_target = KV_TARGET_VERSION,
          .number = 3}, false},
        {{.key = {(const uint8_t *)"x", 1}, .target = KV_TARGET_MOD, .union_target = KV_TARGET_VERSION,
          .number = 3}, true},
        /* ranges: every key must hold; an empty one is a missing key */
        {{.key = {(const uint8_t *)"a", 1}, .range_end = {(const uint8_t *)"c", 1},
          .target = KV_TARGET_CREATE, .union_target = KV_TARGET_CREATE, .result = KV_GREATER, .number = 1}, true},
        {{.key = {(const uint8_t *)"a", 1}, .range_end = {(const uint8_t *)"c", 1},
          .target = KV_TARGET_CREATE, .union_target = KV_TARGET_CREATE, .result = KV_GREATER, .number = 2}, false},
        {{.key = {(const uint8_t *)"a", 1}, .range_end = {(const uint8_t *)"\0", 1},
          .target = KV_TARGET_VALUE, .union_target = KV_TARGET_VALUE, .result = KV_LESS, .value = {(const uint8_t *)"o", 1}}, true},
        {{.key = {(const uint8_t *)"p", 1}, .range_end = {(const uint8_t *)"z", 1},
          .target = KV_TARGET_VERSION, .union_target = KV_TARGET_VERSION, .result = KV_EQUAL}, true},
        {{.key = {(const uint8_t *)"p", 1}, .range_end = {(const uint8_t *)"z", 1},
          .target = KV_TARGET_VALUE, .union_target = KV_TARGET_VALUE, .result = KV_NOT_EQUAL}, false},
    };
    CLEANUP(buf_fini) struct buf read = BUF_INIT;

    harness_put(&h, "a", "x");
    harness_put(&h, "a", "m");
    harness_put(&h, "b", "n");
    harness_put(&h, "p", "");
    harness_delete(&h, "p", "");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct kv_compare c = rows[i].c;
        Etcdserverpb__TxnResponse *m;
        CLEANUP(buf_fini) struct buf body = txn_body(
            &(struct kv_txn_request){.compares = &c, .compare_count = 1});

        cr_assert_eq(txn(&c, 1, NULL, 0, NULL, 0), OUT_OK);
        m = harness_txn_answer(&h);
        cr_expect_eq(m->succeeded, rows[i].holds, "row %zu", i);
        cr_expect_eq(m->header->revision, 6);
        etcdserverpb__txn_response__free_unpacked(m, NULL);
        buf_clear(&read);
        cr_expect_eq(kv_txn_read(h.kv, buf_bytes(&body), &harness_header, &read), OUT_OK);
        cr_expect(bytes_eq(buf_bytes(&read), buf_bytes(&h.answer)), "a read txn answers the same");
    }
    cr_expect_eq(revision(), 6);
}

Test(kv, txn_sees_its_own_writes)
{
    Etcdserverpb__TxnResponse *m;

    harness_put(&h, "a", "old"); /* 2 */
    cr_assert_eq(txn(NULL, 0, OPS(GET_OP("b"), PUT_OP("b", "new"), GET_OP("b"), DEL_OP("a", ""),
                                  GET_OP("a"), DEL_OP("zz", "")), NULL, 0),
                 OUT_OK);
    m = harness_txn_answer(&h);
    cr_expect(m->succeeded);
    cr_assert_eq(m->n_responses, 6);
    cr_expect_eq(m->header->revision, 3);
    cr_expect_eq(m->header->raft_term, 2);
    cr_expect_eq(m->responses[0]->response_range->count, 0);
    cr_expect_eq(m->responses[0]->response_range->header->revision, 2, "before the first write");
    cr_expect_eq(m->responses[0]->response_range->header->cluster_id, 0);
    cr_expect_eq(m->responses[1]->response_put->header->revision, 3);
    cr_assert_eq(m->responses[2]->response_range->n_kvs, 1);
    cr_expect_eq(m->responses[2]->response_range->kvs[0]->mod_revision, 3);
    cr_expect_eq(m->responses[2]->response_range->header->revision, 3);
    cr_expect_eq(m->responses[3]->response_delete_range->deleted, 1);
    cr_expect_eq(m->responses[3]->response_delete_range->header->revision, 3);
    cr_expect_eq(m->responses[4]->response_range->n_kvs, 0);
    cr_expect_eq(m->responses[5]->response_delete_range->deleted, 0);
    cr_expect_eq(m->responses[5]->response_delete_range->header->revision, 3);
    etcdserverpb__txn_response__free_unpacked(m, NULL);
    EXPECT_RANGE("b=new@3/3#1 1", .key = KEY("a"), .range_end = KEY("z"));
}

Test(kv, nested_txn)
{
    /* compares of nested txns see the state before the whole txn */
    struct kv_compare missing = {.key = KEY("n"), .target = KV_TARGET_CREATE,
                                 .union_target = KV_TARGET_CREATE};
    struct kv_op then[] = {PUT_OP("in", "then")}, other[] = {PUT_OP("in", "else")};
    struct kv_txn_request nested = {.compares = &missing, .compare_count = 1, .success = then,
                                    .success_count = 1, .failure = other, .failure_count = 1};
    Etcdserverpb__TxnResponse *m;

    cr_assert_eq(txn(NULL, 0, OPS(PUT_OP("n", "1"), {.type = KV_OP_TXN, .txn = &nested}), NULL, 0),
                 OUT_OK);
    m = harness_txn_answer(&h);
    cr_assert_eq(m->n_responses, 2);
    cr_assert(m->responses[1]->response_txn->header != NULL);
    cr_expect_eq(m->responses[1]->response_txn->header->revision, 0);
    cr_expect(m->responses[1]->response_txn->succeeded);
    cr_expect_eq(m->responses[1]->response_txn->responses[0]->response_put->header->revision, 2);
    etcdserverpb__txn_response__free_unpacked(m, NULL);
    EXPECT_RANGE("in=then@2/2#1 n=1@2/2#1 2", .key = KEY("a"), .range_end = KEY("z"));
}

Test(kv, refused_txn_changes_nothing)
{
    struct kv_op deep[] = {{.type = KV_OP_PUT, .put = {.key = KEY("q"), .ignore_value = true}}};
    struct kv_txn_request nested = {.success = deep, .success_count = 1};
    struct kv_state before, after;

    harness_put(&h, "a", "1");
    harness_put(&h, "a", "2");
    harness_compact(&h, 3);
    kv_get_state(h.kv, &before);
#define REFUSED(outcome, ...) cr_expect_eq(txn(NULL, 0, OPS(PUT_OP("w", "x"), __VA_ARGS__), NULL, 0), outcome)
    REFUSED(OUT_FUTURE_REVISION, {.type = KV_OP_RANGE, .range = {.key = KEY("a"), .revision = 4}});
    REFUSED(OUT_COMPACTED, {.type = KV_OP_RANGE, .range = {.key = KEY("a"), .revision = 2}});
    REFUSED(OUT_COMPACTED, {.type = KV_OP_RANGE, .range = {.key = KEY("a"), .revision = -1}});
    REFUSED(OUT_LEASE_NOT_FOUND, {.type = KV_OP_PUT, .put = {.key = KEY("b"), .lease = 1}});
    REFUSED(OUT_KEY_NOT_FOUND, {.type = KV_OP_PUT, .put = {.key = KEY("b"), .ignore_value = true}});
    REFUSED(OUT_KEY_NOT_FOUND, {.type = KV_OP_PUT, .put = {.key = KEY("b"), .ignore_value = true, .lease = 1}});
    REFUSED(OUT_KEY_NOT_FOUND, {.type = KV_OP_TXN, .txn = &nested});
    REFUSED(OUT_DUPLICATE_KEY, PUT_OP("w", "y"));
    REFUSED(OUT_EMPTY_KEY, PUT_OP("", "y"));
    REFUSED(OUT_KEY_NOT_FOUND, {.type = KV_OP_NONE});
    kv_get_state(h.kv, &after);
    cr_expect_eq(before.revision, after.revision);
    EXPECT_RANGE("a=2@2/3#2 1", .key = KEY("a"), .range_end = KEY("z"));
    /* what is not on the path is not checked against the state */
    cr_expect_eq(txn(NULL, 0, NULL, 0, OPS({.type = KV_OP_RANGE, .range = {.key = KEY("a"), .revision = 99}})),
                 OUT_OK);
    cr_expect_eq(txn(NULL, 0, OPS({.type = KV_OP_RANGE, .range = {.key = KEY("a"), .revision = 3}}), NULL, 0),
                 OUT_OK);
}

Test(kv, txn_alarm_and_cost)
{
    alarm_entry(1, 5, STORE_ALARM_NOSPACE);
    cr_expect_eq(txn(NULL, 0, OPS(GET_OP("a")), NULL, 0), OUT_OK);
    cr_expect_eq(txn(NULL, 0, OPS(DEL_OP("a", "")), NULL, 0), OUT_OK);
    cr_expect_eq(txn(NULL, 0, OPS(GET_OP("a")), OPS(PUT_OP("a", ""))), OUT_NO_SPACE);
}

/* Large answers: more than a slice, values only in the engine. */
Test(kv, cold_values_and_slices)
{
    char key[16], value[1000];
    struct kv_range_request all = {.key = KEY("k"), .range_end = BYTES_LIT("\0")};
    CLEANUP(buf_fini) struct buf whole = BUF_INIT;
    struct kv_range *range;
    struct kv_stats stats;

    harness_close(&h);
    engine_mem_kill(h.engine);
    h.cache_bytes = 1;
    cr_assert_eq(harness_open(&h), 0);
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = 0;
    for (int i = 0; i < 3000; i++) {
        snprintf(key, sizeof(key), "k%05d", i * 7 % 3000);
        harness_put(&h, key, value);
    }
    kv_get_stats(h.kv, &stats);
    cr_expect(stats.cache_bytes < 100000);
    cr_expect_eq(harness_range(&h, &all, 1 << 30), OUT_OK);
    buf_append_bytes(&whole, buf_bytes(&h.answer));
    cr_expect_eq(harness_range(&h, &all, 5000), OUT_OK);
    cr_expect(bytes_eq(buf_bytes(&whole), buf_bytes(&h.answer)));

    /* a range under way keeps its revision while writes and compaction go on */
    cr_assert_eq(kv_range_new(h.kv, &all, &harness_header, &range), OUT_OK);
    buf_clear(&h.answer);
    for (int i = 0, r = 1; r == 1; i++) {
        CLEANUP(buf_fini) struct buf keep = h.answer;

        h.answer = BUF_INIT;
        snprintf(key, sizeof(key), "k%05d", (i * 13 + 500) % 3000);
        if (i % 3 == 0)
            harness_delete(&h, key, "");
        else
            harness_put(&h, key, "changed");
        if (i == 5)
            cr_expect_eq(harness_compact(&h, revision()), OUT_OK);
        harness_finish_compaction(&h);
        buf_fini(&h.answer);
        h.answer = keep;
        keep = BUF_INIT;
        r = kv_range_step(range, 3000, &h.answer);
        cr_assert(r >= 0);
    }
    kv_range_free(range);
    cr_expect(bytes_eq(buf_bytes(&whole), buf_bytes(&h.answer)));
}

/* After a crash of the host the batch that deletes a version may be there, and the one that made it
 * obsolete not: so nothing is deleted before what is applied is durable. */
Test(kv, compaction_waits_until_its_state_is_durable)
{
    harness_fini(&h);
    harness_init(&h, true);
    cr_assert_eq(harness_put(&h, "k", "old"), OUT_OK);
    kv_on_written(h.kv, engine_mem_write(h.engine, SIZE_MAX));
    kv_on_durable(h.kv, engine_mem_sync(h.engine));
    cr_assert_eq(harness_put(&h, "k", "new"), OUT_OK);
    cr_assert_eq(harness_compact(&h, 3), OUT_OK);
    kv_on_written(h.kv, engine_mem_write(h.engine, SIZE_MAX));
    cr_assert(kv_compact_unfinished(h.kv));
    cr_assert_not(kv_compact_pending(h.kv));
    kv_on_durable(h.kv, engine_mem_sync(h.engine));
    cr_assert(kv_compact_pending(h.kv));
    harness_finish_compaction(&h);
    cr_assert_not(kv_compact_unfinished(h.kv));
    EXPECT_RANGE("k=new@2/3#2 1", .key = KEY("k"));
}

/* The values are those of an etcd 3.4.23 given the same requests. */
Test(kv, hash_equals_etcds)
{
    struct kv_hash *hash;

    harness_put(&h, "a", "1");
    harness_put(&h, "b", "2");
    harness_put(&h, "a", "3");
    harness_delete(&h, "b", "");
    harness_put(&h, "c", "x");
    cr_expect_eq(harness_hash(&h, 0), 2949188763u);
    cr_expect_eq(harness_hash(&h, 4), 2069675932u);
    harness_compact(&h, 4);
    cr_expect_eq(harness_hash(&h, 0), 2654171661u, "what waits to be removed does not count");
    harness_finish_compaction(&h);
    cr_expect_eq(harness_hash(&h, 0), 2654171661u);
    harness_compact(&h, 5);
    cr_expect_eq(harness_hash(&h, 0), 103875579u);
    harness_finish_compaction(&h);
    cr_expect_eq(harness_hash(&h, 0), 103875579u);
    cr_expect_eq(kv_hash_new(h.kv, 4, &harness_header, &hash), OUT_COMPACTED);
    cr_expect_eq(kv_hash_new(h.kv, 7, &harness_header, &hash), OUT_FUTURE_REVISION);
}
