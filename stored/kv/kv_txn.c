/*
 * Transactions (etcd server/etcdserver/txn). Three passes, so that a refused txn changes nothing:
 * every compare on the way is evaluated against the state before the txn and decides the path;
 * every op of the path is checked against that state; then the path is executed in order, each op
 * seeing what the earlier ones wrote.
 */
#include "stored/kv/kv_internal.h"

#include <assert.h>

#include "lib/proto/outcome.h"
#include "lib/wire/pb.h"

/* ---- compares ---- */

static bool holds(int64_t order, int32_t result)
{
    switch (result) {
    case KV_EQUAL:
        return order == 0;
    case KV_GREATER:
        return order > 0;
    case KV_LESS:
        return order < 0;
    case KV_NOT_EQUAL:
        return order != 0;
    default:
        return true; /* as etcd: an unknown relation always holds */
    }
}

static int64_t order_of(int64_t a, int64_t b)
{
    return a < b ? -1 : a > b;
}

static int64_t field_of(const struct kv_entry *e, int32_t target)
{
    if (e == NULL)
        return 0;
    switch (target) {
    case KV_TARGET_VERSION:
        return e->version;
    case KV_TARGET_CREATE:
        return e->create_revision;
    case KV_TARGET_MOD:
        return e->mod_revision;
    case KV_TARGET_LEASE:
        return e->lease;
    default:
        return 0;
    }
}

/* One key; e NULL: it does not exist. *ret_holds is written on success. */
static int compare_entry(struct kv *kv, const struct kv_compare *c, const struct kv_entry *e,
                         bool *ret_holds)
{
    bool is_set = c->union_target == c->target; /* another member of the oneof: zero is meant */
    struct kv_record record;
    int r;

    if (c->target == KV_TARGET_VALUE) {
        if (e == NULL) {
            *ret_holds = false; /* a missing value is neither equal nor unequal */
            return 0;
        }
        buf_clear(&kv->scratch2);
        r = kv_get_record(kv, e->mod_revision, e->mod_sub, true, &kv->scratch2);
        if (r == 0)
            r = kv_record_decode(buf_bytes(&kv->scratch2), &record);
        if (r < 0)
            return r;
        *ret_holds = holds(bytes_cmp(record.value, is_set ? c->value : BYTES_EMPTY), c->result);
        return 0;
    }
    if (c->target < KV_TARGET_VERSION || c->target > KV_TARGET_LEASE) {
        *ret_holds = holds(0, c->result); /* etcd compares nothing then, and finds it equal */
        return 0;
    }
    *ret_holds = holds(order_of(field_of(e, c->target), is_set ? c->number : 0), c->result);
    return 0;
}

static int compare(struct kv *kv, const struct kv_compare *c, bool *ret_holds)
{
    struct kv_bounds bounds = kv_bounds(c->key, c->range_end);
    struct kv_index_iter it;
    const struct kv_entry *e;
    bool found = false;
    int r;

    if (bounds.is_single) {
        e = kv_index_find(&kv->index, c->key);
        return compare_entry(kv, c, e != NULL && kv_entry_is_live(e) ? e : NULL, ret_holds);
    }
    kv_index_seek(&kv->index, bounds.from, &it);
    for (; (e = kv_index_iter_get(&it)) != NULL; kv_index_iter_next(&it)) {
        if (kv_bounds_past(&bounds, kv_entry_key(e)))
            break;
        if (!kv_entry_is_live(e))
            continue;
        found = true;
        r = compare_entry(kv, c, e, ret_holds);
        if (r < 0 || !*ret_holds)
            return r;
    }
    return found ? 0 : compare_entry(kv, c, NULL, ret_holds);
}

static const struct kv_op *path_of(const struct kv_txn_request *m, size_t *ret_count)
{
    *ret_count = m->succeeded ? m->success_count : m->failure_count;
    return m->succeeded ? m->success : m->failure;
}

static int choose_path(struct kv *kv, struct kv_txn_request *m)
{
    const struct kv_op *ops;
    size_t count;
    int r = 0;

    m->succeeded = true;
    for (size_t i = 0; i < m->compare_count && m->succeeded; i++) {
        r = compare(kv, &m->compares[i], &m->succeeded);
        if (r < 0)
            return r;
    }
    ops = path_of(m, &count);
    for (size_t i = 0; i < count && r == 0; i++)
        if (ops[i].type == KV_OP_TXN)
            r = choose_path(kv, ops[i].txn);
    return r;
}

/* ---- checks ---- */

static int check_range(const struct kv *kv, const struct kv_range_request *m)
{
    if (m->revision == 0)
        return OUT_OK;
    if (m->revision > kv->revision)
        return OUT_FUTURE_REVISION;
    return m->revision < kv->compact_revision ? OUT_COMPACTED : OUT_OK;
}

static int check_path(const struct kv *kv, const struct kv_txn_request *m)
{
    const struct kv_op *ops;
    size_t count;
    int outcome = OUT_OK;

    ops = path_of(m, &count);
    for (size_t i = 0; i < count && outcome == OUT_OK; i++) {
        switch (ops[i].type) {
        case KV_OP_RANGE:
            outcome = check_range(kv, &ops[i].range);
            break;
        case KV_OP_PUT:
            outcome = kv_check_put_state(kv, &ops[i].put, true);
            break;
        case KV_OP_TXN:
            outcome = check_path(kv, ops[i].txn);
            break;
        case KV_OP_DELETE:
        case KV_OP_NONE:
            break;
        }
    }
    return outcome;
}

/* ---- execution ---- */

static int execute_path(struct kv *kv, struct kv_writer *w, const struct kv_txn_request *m,
                        struct buf *answer);

static int execute_op(struct kv *kv, struct kv_writer *w, const struct kv_op *op,
                      struct buf *answer)
{
    switch (op->type) {
    case KV_OP_RANGE:
        if (answer == NULL)
            return OUT_OK;
        return kv_range_whole(kv, &op->range, w->sub > 0 ? w->main : w->main - 1, NULL, answer);
    case KV_OP_PUT:
        return kv_write_put(kv, w, &op->put, NULL, answer);
    case KV_OP_DELETE:
        return kv_write_delete(kv, w, &op->delete_range, NULL, answer);
    case KV_OP_TXN:
        if (answer != NULL)
            pb_put_message(answer, 1, BYTES_EMPTY); /* etcd's nested answers: an empty header */
        return execute_path(kv, w, op->txn, answer);
    case KV_OP_NONE:
        break;
    }
    return OUT_OK; /* refused by kv_check_txn */
}

/* Appends what follows the header of a TxnResponse. The numbers of ResponseOp's oneof are those of
 * RequestOp. */
static int execute_path(struct kv *kv, struct kv_writer *w, const struct kv_txn_request *m,
                        struct buf *answer)
{
    const struct kv_op *ops;
    size_t count, response = 0, body = 0;
    int r = OUT_OK;

    if (answer != NULL)
        pb_put_bool(answer, 2, m->succeeded);
    ops = path_of(m, &count);
    for (size_t i = 0; i < count && r == OUT_OK; i++) {
        if (answer != NULL) {
            response = kv_pb_begin(answer, 3);
            body = kv_pb_begin(answer, (uint32_t)ops[i].type);
        }
        r = execute_op(kv, w, &ops[i], answer);
        if (answer != NULL) {
            kv_pb_end(answer, body);
            kv_pb_end(answer, response);
        }
    }
    return r;
}

int kv_txn_execute(struct kv *kv, struct kv_writer *w, struct kv_txn_request *m,
                   const struct kv_header *header, struct buf *answer)
{
    size_t at = answer != NULL ? answer->len : 0, body_at;
    int r = choose_path(kv, m);

    if (r == OUT_OK)
        r = check_path(kv, m);
    if (r != OUT_OK)
        return r;
    if (answer == NULL)
        return execute_path(kv, w, m, NULL);

    /* the header tells the revision after the txn, known only when it is done; a guess has the
     * right length nearly always, and the rare difference moves the body */
    kv_put_header(answer, header, w->main);
    body_at = answer->len;
    r = execute_path(kv, w, m, answer);
    if (r == OUT_OK && w->sub == 0) {
        size_t body_len = answer->len - body_at, header_len;

        buf_clear(&kv->scratch);
        kv_put_header(&kv->scratch, header, w->main - 1);
        header_len = kv->scratch.len;
        assert(at + header_len <= body_at);
        memcpy(answer->data + at, kv->scratch.data, header_len);
        memmove(answer->data + at + header_len, answer->data + body_at, body_len);
        answer->len = at + header_len + body_len;
    }
    return r;
}

int kv_txn_read(struct kv *kv, struct bytes txn_request, const struct kv_header *header,
                struct buf *message)
{
    struct kv_writer w = {.main = kv->revision + 1};
    struct kv_txn_request m;
    size_t at = message->len;
    int outcome;

    arena_reset(&kv->arena);
    outcome = kv_decode_txn(txn_request, &kv->arena, &m);
    if (outcome == OUT_OK)
        outcome = kv_check_txn(&m, SIZE_MAX);
    if (outcome == OUT_OK && !kv_txn_is_read_only(&m))
        outcome = OUT_MALFORMED;
    if (outcome == OUT_OK) {
        kv->txn_total++;
        outcome = kv_txn_execute(kv, &w, &m, header, message);
    }
    if (outcome != OUT_OK)
        message->len = at;
    return outcome;
}
