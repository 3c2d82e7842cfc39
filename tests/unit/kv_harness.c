#include "tests/unit/kv_harness.h"

#include <assert.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/util/macros.h"
#include "lib/wire/pb.h"
#include "stored/engine/engine_mem.h"

const struct kv_header harness_header = {
    .cluster_id = 0xcdf818194e3a8c32,
    .member_id = 0x8e9e05c52164694d,
    .raft_term = 2,
};

void harness_init(struct harness *h, bool manual)
{
    *h = (struct harness){.term = 2, .engine = engine_mem_new(manual)};
    cr_assert_eq(harness_open(h), 0);
}

void harness_close(struct harness *h)
{
    kv_free(h->kv);
    h->kv = NULL;
}

void harness_fini(struct harness *h)
{
    harness_close(h);
    engine_mem_free(h->engine);
    buf_fini(&h->answer);
    buf_fini(&h->checkpoint);
}

int harness_open(struct harness *h)
{
    struct kv_args args = {
        .engine = engine_mem_kv(h->engine),
        .cache_bytes = h->cache_bytes,
        .checkpoint = buf_bytes(&h->checkpoint),
    };
    char *error, *warning;
    struct kv_state state;
    int r;

    engine_mem_sync(h->engine); /* as an engine does when it is opened */
    r = kv_open(&args, &h->kv, &error, &warning);
    if (r < 0)
        fprintf(stderr, "%s\n", error);
    free(error);
    free(warning);
    if (r == 0) {
        kv_get_state(h->kv, &state);
        h->index = state.applied_index;
    }
    return r;
}

int harness_apply_at(struct harness *h, uint64_t index, enum proto_kind kind, struct bytes body)
{
    CLEANUP(buf_fini) struct buf payload = BUF_INIT;
    struct proto_entry entry = {.index = index, .term = h->term};
    struct kv_answer answer = {.header = &harness_header, .message = &h->answer};
    int outcome;

    if (kind == PROTO_KIND_CONF_CHANGE)
        entry.type = PROTO_ENTRY_CONF;
    proto_payload_encode(&payload, &(struct proto_payload){.kind = kind,
                                                        .origin_generation = h->origin_generation,
                                                        .identity = h->identity,
                                                        .body = body});
    entry.data = buf_bytes(&payload);
    buf_clear(&h->answer);
    if (!h->in_turn)
        kv_begin_turn(h->kv);
    outcome = kv_apply(h->kv, &entry, &answer);
    if (!h->in_turn)
        kv_end_turn(h->kv);
    return outcome;
}

int harness_apply(struct harness *h, enum proto_kind kind, struct bytes body)
{
    return harness_apply_at(h, ++h->index, kind, body);
}

/* ---- requests ---- */

struct buf put_body(const struct kv_put_request *m)
{
    struct buf b = BUF_INIT;

    pb_put_bytes(&b, 1, m->key);
    pb_put_bytes(&b, 2, m->value);
    pb_put_i64(&b, 3, m->lease);
    pb_put_bool(&b, 4, m->prev_kv);
    pb_put_bool(&b, 5, m->ignore_value);
    pb_put_bool(&b, 6, m->ignore_lease);
    return b;
}

struct buf range_body(const struct kv_range_request *m)
{
    struct buf b = BUF_INIT;

    pb_put_bytes(&b, 1, m->key);
    pb_put_bytes(&b, 2, m->range_end);
    pb_put_i64(&b, 3, m->limit);
    pb_put_i64(&b, 4, m->revision);
    pb_put_i64(&b, 5, m->sort_order);
    pb_put_i64(&b, 6, m->sort_target);
    pb_put_bool(&b, 7, m->serializable);
    pb_put_bool(&b, 8, m->keys_only);
    pb_put_bool(&b, 9, m->count_only);
    pb_put_i64(&b, 10, m->min_mod_revision);
    pb_put_i64(&b, 11, m->max_mod_revision);
    pb_put_i64(&b, 12, m->min_create_revision);
    pb_put_i64(&b, 13, m->max_create_revision);
    return b;
}

struct buf delete_body(const struct kv_delete_request *m)
{
    struct buf b = BUF_INIT;

    pb_put_bytes(&b, 1, m->key);
    pb_put_bytes(&b, 2, m->range_end);
    pb_put_bool(&b, 3, m->prev_kv);
    return b;
}

struct buf compact_body(int64_t revision, bool physical)
{
    struct buf b = BUF_INIT;

    pb_put_i64(&b, 1, revision);
    pb_put_bool(&b, 2, physical);
    return b;
}

static void put_ops(struct buf *b, uint32_t field, const struct kv_op *ops, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        CLEANUP(buf_fini) struct buf op = BUF_INIT;
        CLEANUP(buf_fini) struct buf body = BUF_INIT;

        switch (ops[i].type) {
        case KV_OP_RANGE:
            body = range_body(&ops[i].range);
            break;
        case KV_OP_PUT:
            body = put_body(&ops[i].put);
            break;
        case KV_OP_DELETE:
            body = delete_body(&ops[i].delete_range);
            break;
        case KV_OP_TXN:
            body = txn_body(ops[i].txn);
            break;
        case KV_OP_NONE:
            break;
        }
        if (ops[i].type != KV_OP_NONE)
            pb_put_message(&op, (uint32_t)ops[i].type, buf_bytes(&body));
        pb_put_message(b, field, buf_bytes(&op));
    }
}

struct buf txn_body(const struct kv_txn_request *m)
{
    struct buf b = BUF_INIT;

    for (size_t i = 0; i < m->compare_count; i++) {
        const struct kv_compare *c = &m->compares[i];
        CLEANUP(buf_fini) struct buf body = BUF_INIT;
        static const uint32_t fields[] = {4, 5, 6, 7, 8};

        pb_put_i64(&body, 1, c->result);
        pb_put_i64(&body, 2, c->target);
        pb_put_bytes(&body, 3, c->key);
        if (c->union_target == KV_TARGET_VALUE) {
            pb_put_message(&body, 7, c->value);
        } else if (c->union_target >= 0) {
            pb_put_tag(&body, fields[c->union_target], PB_VARINT);
            pb_put_varint(&body, (uint64_t)c->number);
        }
        pb_put_bytes(&body, 64, c->range_end);
        pb_put_message(&b, 1, buf_bytes(&body));
    }
    put_ops(&b, 2, m->success, m->success_count);
    put_ops(&b, 3, m->failure, m->failure_count);
    return b;
}

int harness_put(struct harness *h, const char *key, const char *value)
{
    CLEANUP(buf_fini) struct buf b =
        put_body(&(struct kv_put_request){.key = KEY(key), .value = KEY(value)});

    return harness_apply(h, PROTO_KIND_PUT, buf_bytes(&b));
}

int harness_delete(struct harness *h, const char *key, const char *end)
{
    CLEANUP(buf_fini) struct buf b = delete_body(
        &(struct kv_delete_request){.key = KEY(key), .range_end = KEY(end), .prev_kv = true});

    return harness_apply(h, PROTO_KIND_DELETE_RANGE, buf_bytes(&b));
}

int harness_compact(struct harness *h, int64_t revision)
{
    CLEANUP(buf_fini) struct buf b = compact_body(revision, false);

    return harness_apply(h, PROTO_KIND_COMPACT, buf_bytes(&b));
}

int harness_txn(struct harness *h, const struct kv_txn_request *m)
{
    CLEANUP(buf_fini) struct buf b = txn_body(m);

    return harness_apply(h, PROTO_KIND_TXN, buf_bytes(&b));
}

static int range_in_slices(struct harness *h, const struct kv_range_request *m, size_t slice,
                           struct buf *out)
{
    struct kv_range *range;
    int r = kv_range_new(h->kv, m, &harness_header, &range);
    bool started = false;

    if (r != 0)
        return r;
    do {
        r = kv_range_step(range, slice, out);
        if (out->len > 0 && !started)
            started = true;
    } while (r == 1);
    if (r == 0)
        cr_assert_eq(kv_range_total(range), out->len, "the size told before is the size");
    kv_range_free(range);
    return r;
}

int harness_range(struct harness *h, const struct kv_range_request *m, size_t slice)
{
    CLEANUP(buf_fini) struct buf sliced = BUF_INIT;
    int r, r2;

    buf_clear(&h->answer);
    if (slice > 0)
        return range_in_slices(h, m, slice, &h->answer);
    r = kv_range_now(h->kv, m, &harness_header, SIZE_MAX, &h->answer);
    if (r == -E2BIG)
        return range_in_slices(h, m, 4096, &h->answer);
    r2 = range_in_slices(h, m, 64, &sliced);
    cr_assert_eq(r, r2);
    cr_assert(bytes_eq(buf_bytes(&h->answer), buf_bytes(&sliced)));
    return r;
}

/* ---- answers ---- */

Etcdserverpb__RangeResponse *harness_range_answer(struct harness *h)
{
    Etcdserverpb__RangeResponse *m =
        etcdserverpb__range_response__unpack(NULL, h->answer.len, h->answer.data);

    cr_assert(m != NULL && m->header != NULL);
    return m;
}

Etcdserverpb__PutResponse *harness_put_answer(struct harness *h)
{
    Etcdserverpb__PutResponse *m =
        etcdserverpb__put_response__unpack(NULL, h->answer.len, h->answer.data);

    cr_assert(m != NULL && m->header != NULL);
    return m;
}

Etcdserverpb__DeleteRangeResponse *harness_delete_answer(struct harness *h)
{
    Etcdserverpb__DeleteRangeResponse *m =
        etcdserverpb__delete_range_response__unpack(NULL, h->answer.len, h->answer.data);

    cr_assert(m != NULL && m->header != NULL);
    return m;
}

Etcdserverpb__TxnResponse *harness_txn_answer(struct harness *h)
{
    Etcdserverpb__TxnResponse *m =
        etcdserverpb__txn_response__unpack(NULL, h->answer.len, h->answer.data);

    cr_assert(m != NULL && m->header != NULL);
    return m;
}

/* ---- background work ---- */

void harness_finish_compaction(struct harness *h)
{
    for (;;) {
        while (kv_compact_pending(h->kv))
            cr_assert_eq(kv_compact_step(h->kv, 7), 0);
        kv_on_written(h->kv, engine_mem_write(h->engine, SIZE_MAX));
        kv_on_durable(h->kv, engine_mem_sync(h->engine));
        if (!kv_compact_pending(h->kv))
            return;
    }
}

uint32_t harness_hash(struct harness *h, int64_t revision)
{
    CLEANUP(buf_fini) struct buf message = BUF_INIT;
    Etcdserverpb__HashKVResponse *m;
    struct kv_hash *hash;
    uint32_t value;
    int r;

    cr_assert_eq(kv_hash_new(h->kv, revision, &harness_header, &hash), 0);
    while ((r = kv_hash_step(hash, 5, &message)) == 1)
        kv_on_written(h->kv, engine_mem_write(h->engine, SIZE_MAX));
    cr_assert_eq(r, 0);
    kv_hash_free(hash);
    m = etcdserverpb__hash_kvresponse__unpack(NULL, message.len, message.data);
    cr_assert(m != NULL);
    value = m->hash;
    etcdserverpb__hash_kvresponse__free_unpacked(m, NULL);
    return value;
}

void harness_checkpoint(struct harness *h)
{
    struct kv_checkpoint *c = kv_checkpoint_new(h->kv);
    int r;

    buf_clear(&h->checkpoint);
    while ((r = kv_checkpoint_step(c, 100, &h->checkpoint)) == 1) {
    }
    cr_assert_eq(r, 0);
    kv_checkpoint_free(c);
}
