/*
 * Decoding walks the wire bytes once (a txn twice per level: count, then fill).
 *
 * The overlap rule of a txn (no key put twice, no put inside a deleted range) is etcd's
 * checkIntervals with a better bound. Puts: sorted by key, then by position; two puts of a key are
 * allowed only in different branches of the same nested txn, and it suffices to look at neighbours
 * (of three positions a < b < c the common ancestor of a and c is that of a neighbouring pair).
 * Deletes: put keys are ranked, a delete covers a run of ranks, and a Fenwick tree counts how many
 * deletes in force cover a rank while the ops are walked.
 */
#include "lib/proto/kv_check.h"

#include <assert.h>
#include <stdlib.h>

#include "lib/proto/outcome.h"
#include "lib/util/arena.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"

/* ---- decoding ---- */

/* Each takes a field of one type or marks the reader bad (etcd refuses a wrong wire type). */
static int64_t take_int(struct pb_reader *r, const struct pb_field *f)
{
    if (f->type != PB_VARINT)
        r->bad = true;
    return (int64_t)f->value;
}

static bool take_bool(struct pb_reader *r, const struct pb_field *f)
{
    return take_int(r, f) != 0;
}

static struct bytes take_bytes(struct pb_reader *r, const struct pb_field *f)
{
    if (f->type != PB_LENGTH)
        r->bad = true;
    return f->bytes;
}

static int result_of(const struct pb_reader *r)
{
    return r->bad ? OUT_MALFORMED : OUT_OK;
}

int kv_decode_range(struct bytes message, struct kv_range_request *ret)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;

    *ret = (struct kv_range_request){0};
    while (!r.bad && pb_next(&r, &f)) {
        switch (f.number) {
        case 1:
            ret->key = take_bytes(&r, &f);
            break;
        case 2:
            ret->range_end = take_bytes(&r, &f);
            break;
        case 3:
            ret->limit = take_int(&r, &f);
            break;
        case 4:
            ret->revision = take_int(&r, &f);
            break;
        case 5:
            ret->sort_order = (int32_t)take_int(&r, &f);
            break;
        case 6:
            ret->sort_target = (int32_t)take_int(&r, &f);
            break;
        case 7:
            ret->serializable = take_bool(&r, &f);
            break;
        case 8:
            ret->keys_only = take_bool(&r, &f);
            break;
        case 9:
            ret->count_only = take_bool(&r, &f);
            break;
        case 10:
            ret->min_mod_revision = take_int(&r, &f);
            break;
        case 11:
            ret->max_mod_revision = take_int(&r, &f);
            break;
        case 12:
            ret->min_create_revision = take_int(&r, &f);
            break;
        case 13:
            ret->max_create_revision = take_int(&r, &f);
            break;
        default:
            break;
        }
    }
    return result_of(&r);
}

int kv_decode_put(struct bytes message, struct kv_put_request *ret)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;

    *ret = (struct kv_put_request){0};
    while (!r.bad && pb_next(&r, &f)) {
        switch (f.number) {
        case 1:
            ret->key = take_bytes(&r, &f);
            break;
        case 2:
            ret->value = take_bytes(&r, &f);
            break;
        case 3:
            ret->lease = take_int(&r, &f);
            break;
        case 4:
            ret->prev_kv = take_bool(&r, &f);
            break;
        case 5:
            ret->ignore_value = take_bool(&r, &f);
            break;
        case 6:
            ret->ignore_lease = take_bool(&r, &f);
            break;
        default:
            break;
        }
    }
    return result_of(&r);
}

int kv_decode_delete(struct bytes message, struct kv_delete_request *ret)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;

    *ret = (struct kv_delete_request){0};
    while (!r.bad && pb_next(&r, &f)) {
        switch (f.number) {
        case 1:
            ret->key = take_bytes(&r, &f);
            break;
        case 2:
            ret->range_end = take_bytes(&r, &f);
            break;
        case 3:
            ret->prev_kv = take_bool(&r, &f);
            break;
        default:
            break;
        }
    }
    return result_of(&r);
}

int kv_decode_compact(struct bytes message, struct kv_compact_request *ret)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;

    *ret = (struct kv_compact_request){0};
    while (!r.bad && pb_next(&r, &f)) {
        if (f.number == 1)
            ret->revision = take_int(&r, &f);
        else if (f.number == 2)
            ret->physical = take_bool(&r, &f);
    }
    return result_of(&r);
}

static int decode_compare(struct bytes message, struct kv_compare *ret)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;

    *ret = (struct kv_compare){.union_target = -1};
    while (!r.bad && pb_next(&r, &f)) {
        switch (f.number) {
        case 1:
            ret->result = (int32_t)take_int(&r, &f);
            break;
        case 2:
            ret->target = (int32_t)take_int(&r, &f);
            break;
        case 3:
            ret->key = take_bytes(&r, &f);
            break;
        case 4:
        case 5:
        case 6:
            ret->union_target = (int32_t)f.number - 4; /* VERSION, CREATE, MOD */
            ret->number = take_int(&r, &f);
            break;
        case 7:
            ret->union_target = KV_TARGET_VALUE;
            ret->value = take_bytes(&r, &f);
            break;
        case 8:
            ret->union_target = KV_TARGET_LEASE;
            ret->number = take_int(&r, &f);
            break;
        case 64:
            ret->range_end = take_bytes(&r, &f);
            break;
        default:
            break;
        }
    }
    return result_of(&r);
}

static int decode_txn(struct bytes message, struct arena *arena, unsigned int depth,
                      struct kv_txn_request *ret);

static int decode_op(struct bytes message, struct arena *arena, unsigned int depth,
                     struct kv_op *ret)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;
    int outcome = OUT_OK;

    ret->type = KV_OP_NONE;
    while (outcome == OUT_OK && pb_next(&r, &f)) {
        if (f.number < 1 || f.number > 4)
            continue;
        if (f.type != PB_LENGTH)
            return OUT_MALFORMED;
        ret->type = (enum kv_op_type)f.number; /* the field numbers of RequestOp are our enum */
        switch (ret->type) {
        case KV_OP_RANGE:
            outcome = kv_decode_range(f.bytes, &ret->range);
            break;
        case KV_OP_PUT:
            outcome = kv_decode_put(f.bytes, &ret->put);
            break;
        case KV_OP_DELETE:
            outcome = kv_decode_delete(f.bytes, &ret->delete_range);
            break;
        case KV_OP_TXN:
            ret->txn = arena_alloc(arena, sizeof(*ret->txn));
            outcome = decode_txn(f.bytes, arena, depth + 1, ret->txn);
            break;
        case KV_OP_NONE:
            break;
        }
    }
    return outcome != OUT_OK ? outcome : result_of(&r);
}

static int decode_txn(struct bytes message, struct arena *arena, unsigned int depth,
                      struct kv_txn_request *ret)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;
    size_t counts[4] = {0};
    int outcome = OUT_OK;

    if (depth > KV_TXN_DEPTH_MAX)
        return OUT_TOO_MANY_OPS;
    while (pb_next(&r, &f)) {
        if (f.number >= 1 && f.number <= 3) {
            if (f.type != PB_LENGTH)
                return OUT_MALFORMED;
            counts[f.number]++;
        }
    }
    if (r.bad)
        return OUT_MALFORMED;
    *ret = (struct kv_txn_request){
        .compares = arena_alloc(arena, counts[1] * sizeof(struct kv_compare)),
        .success = arena_alloc(arena, counts[2] * sizeof(struct kv_op)),
        .failure = arena_alloc(arena, counts[3] * sizeof(struct kv_op)),
    };
    r = pb_reader(message);
    while (outcome == OUT_OK && pb_next(&r, &f)) {
        if (f.number == 1)
            outcome = decode_compare(f.bytes, &ret->compares[ret->compare_count++]);
        else if (f.number == 2)
            outcome = decode_op(f.bytes, arena, depth, &ret->success[ret->success_count++]);
        else if (f.number == 3)
            outcome = decode_op(f.bytes, arena, depth, &ret->failure[ret->failure_count++]);
    }
    return outcome;
}

int kv_decode_txn(struct bytes message, struct arena *arena, struct kv_txn_request *ret)
{
    return decode_txn(message, arena, 1, ret);
}

/* ---- single requests ---- */

int kv_check_range(const struct kv_range_request *m)
{
    if (m->key.len == 0)
        return OUT_EMPTY_KEY;
    if (m->sort_order < KV_SORT_NONE || m->sort_order > KV_SORT_DESCEND ||
        m->sort_target < KV_BY_KEY || m->sort_target > KV_BY_VALUE)
        return OUT_INVALID_SORT_OPTION;
    return OUT_OK;
}

int kv_check_put(const struct kv_put_request *m)
{
    if (m->key.len == 0)
        return OUT_EMPTY_KEY;
    if (m->ignore_value && m->value.len != 0)
        return OUT_VALUE_PROVIDED;
    if (m->ignore_lease && m->lease != 0)
        return OUT_LEASE_PROVIDED;
    return OUT_OK;
}

int kv_check_delete(const struct kv_delete_request *m)
{
    return m->key.len == 0 ? OUT_EMPTY_KEY : OUT_OK;
}

/* ---- txn: count and form of the ops ---- */

static int check_txn_ops(const struct kv_txn_request *m, size_t ops_max);

static int check_op(const struct kv_op *op, size_t ops_max)
{
    switch (op->type) {
    case KV_OP_RANGE:
        return kv_check_range(&op->range);
    case KV_OP_PUT:
        return kv_check_put(&op->put);
    case KV_OP_DELETE:
        return kv_check_delete(&op->delete_range);
    case KV_OP_TXN:
        return check_txn_ops(op->txn, ops_max);
    case KV_OP_NONE:
        break;
    }
    return OUT_KEY_NOT_FOUND; /* etcd's answer to an op without content */
}

static int check_ops(const struct kv_op *ops, size_t count, size_t ops_max)
{
    int outcome = OUT_OK;

    for (size_t i = 0; i < count && outcome == OUT_OK; i++)
        outcome = check_op(&ops[i], ops_max);
    return outcome;
}

static int check_txn_ops(const struct kv_txn_request *m, size_t ops_max)
{
    size_t most = MAX(m->compare_count, MAX(m->success_count, m->failure_count));
    int outcome;

    if (most > ops_max)
        return OUT_TOO_MANY_OPS;
    for (size_t i = 0; i < m->compare_count; i++)
        if (m->compares[i].key.len == 0)
            return OUT_EMPTY_KEY;
    if (ops_max != SIZE_MAX)
        ops_max -= most; /* what nested ones may use */
    outcome = check_ops(m->success, m->success_count, ops_max);
    if (outcome == OUT_OK)
        outcome = check_ops(m->failure, m->failure_count, ops_max);
    return outcome;
}

/* ---- txn: overlap ---- */

/* A list of ops: the root list, or one branch of a nested txn. */
struct overlap_list {
    const struct overlap_list *parent;
    const struct kv_txn_request *txn; /* whose branch it is; NULL: root */
    size_t depth;
};

struct overlap_put {
    struct bytes key;
    const struct overlap_list *list;
    size_t position; /* among puts, in the order of the walk */
};

struct overlap {
    struct arena arena;
    struct overlap_put *puts; /* by position, later sorted by key */
    size_t put_count, put_index;
    size_t *ranks;            /* of a put's key by position */
    int64_t *fenwick;         /* [1..put_count]: deletes in force, as differences */
};

static void count_ops(const struct kv_op *ops, size_t count, size_t *puts, size_t *deletes)
{
    for (size_t i = 0; i < count; i++) {
        if (ops[i].type == KV_OP_PUT)
            (*puts)++;
        else if (ops[i].type == KV_OP_DELETE)
            (*deletes)++;
        else if (ops[i].type == KV_OP_TXN) {
            count_ops(ops[i].txn->success, ops[i].txn->success_count, puts, deletes);
            count_ops(ops[i].txn->failure, ops[i].txn->failure_count, puts, deletes);
        }
    }
}

static struct overlap_list *new_list(struct overlap *o, const struct overlap_list *parent,
                                     const struct kv_txn_request *txn)
{
    struct overlap_list *list = arena_alloc(&o->arena, sizeof(*list));

    *list = (struct overlap_list){parent, txn, parent != NULL ? parent->depth + 1 : 0};
    return list;
}

static void collect_puts(struct overlap *o, const struct kv_op *ops, size_t count,
                         const struct overlap_list *list)
{
    for (size_t i = 0; i < count; i++) {
        if (ops[i].type == KV_OP_PUT) {
            o->puts[o->put_index] =
                (struct overlap_put){ops[i].put.key, list, o->put_index};
            o->put_index++;
        } else if (ops[i].type == KV_OP_TXN) {
            const struct kv_txn_request *txn = ops[i].txn;

            collect_puts(o, txn->success, txn->success_count, new_list(o, list, txn));
            collect_puts(o, txn->failure, txn->failure_count, new_list(o, list, txn));
        }
    }
}

/* True when no path through the txn executes both: they sit in the two branches of one txn. */
static bool are_exclusive(const struct overlap_list *a, const struct overlap_list *b)
{
    while (a->depth > b->depth)
        a = a->parent;
    while (b->depth > a->depth)
        b = b->parent;
    while (a != b && a->txn != b->txn) {
        a = a->parent;
        b = b->parent;
    }
    return a != b;
}

static int put_cmp(const void *pa, const void *pb)
{
    const struct overlap_put *a = pa, *b = pb;
    int r = bytes_cmp(a->key, b->key);

    if (r != 0)
        return r;
    return a->position < b->position ? -1 : a->position > b->position;
}

/* The first rank whose key is >= key, or > key. */
static size_t bound(const struct overlap *o, struct bytes key, bool after)
{
    size_t from = 0, to = o->put_count;

    while (from < to) {
        size_t mid = from + (to - from) / 2;

        if (bytes_cmp(o->puts[mid].key, key) < (after ? 1 : 0))
            from = mid + 1;
        else
            to = mid;
    }
    return from;
}

static void fenwick_add(struct overlap *o, size_t rank, int64_t delta)
{
    for (size_t i = rank + 1; i <= o->put_count; i += i & (~i + 1))
        o->fenwick[i] += delta;
}

static bool is_deleted(const struct overlap *o, size_t rank)
{
    int64_t sum = 0;

    for (size_t i = rank + 1; i > 0; i -= i & (~i + 1))
        sum += o->fenwick[i];
    return sum != 0;
}

/*
 * The ranks [*from, *to) of put keys inside a delete's range, as etcd's check sees it: it takes the
 * end "\0" for a key like any other, so a delete "from key on" lies before its beginning and meets
 * no put, also none that it deletes. Such a txn is accepted, and its ops take effect in their order.
 */
static void covered_ranks(const struct overlap *o, const struct kv_delete_request *m, size_t *from,
                          size_t *to)
{
    *from = bound(o, m->key, false);
    if (m->range_end.len == 0)
        *to = bound(o, m->key, true);
    else
        *to = MAX(*from, bound(o, m->range_end, false));
}

static void add_delete(struct overlap *o, const struct kv_delete_request *m, int64_t delta)
{
    size_t from, to;

    covered_ranks(o, m, &from, &to);
    if (from == to)
        return;
    fenwick_add(o, from, delta);
    fenwick_add(o, to, -delta);
}

static void add_deletes_below(struct overlap *o, const struct kv_op *ops, size_t count,
                              int64_t delta)
{
    for (size_t i = 0; i < count; i++) {
        if (ops[i].type == KV_OP_DELETE) {
            add_delete(o, &ops[i].delete_range, delta);
        } else if (ops[i].type == KV_OP_TXN) {
            add_deletes_below(o, ops[i].txn->success, ops[i].txn->success_count, delta);
            add_deletes_below(o, ops[i].txn->failure, ops[i].txn->failure_count, delta);
        }
    }
}

/*
 * Leaves the deletes of everything below `ops` in force. As in etcd: a nested txn's puts meet the
 * deletes of all lists around it and of nested txns before it; a list's own puts meet everything
 * below the list.
 */
static bool put_meets_delete(struct overlap *o, const struct kv_op *ops, size_t count)
{
    size_t first_put = o->put_index;

    for (size_t i = 0; i < count; i++)
        if (ops[i].type == KV_OP_DELETE)
            add_delete(o, &ops[i].delete_range, 1);
    for (size_t i = 0; i < count; i++) {
        const struct kv_txn_request *txn = ops[i].txn;

        if (ops[i].type == KV_OP_PUT)
            o->put_index++;
        if (ops[i].type != KV_OP_TXN)
            continue;
        if (put_meets_delete(o, txn->success, txn->success_count))
            return true;
        add_deletes_below(o, txn->success, txn->success_count, -1); /* the branches exclude */
        if (put_meets_delete(o, txn->failure, txn->failure_count))
            return true;
        add_deletes_below(o, txn->success, txn->success_count, 1);
    }
    o->put_index = first_put;
    for (size_t i = 0; i < count; i++) {
        size_t puts = 0, deletes = 0;

        if (ops[i].type == KV_OP_PUT && is_deleted(o, o->ranks[o->put_index]))
            return true;
        count_ops(&ops[i], 1, &puts, &deletes);
        o->put_index += puts;
    }
    return false;
}

static int check_overlap(const struct kv_op *ops, size_t count)
{
    struct overlap o = {.arena = ARENA_INIT};
    size_t deletes = 0;
    bool duplicate = false;

    count_ops(ops, count, &o.put_count, &deletes);
    if (o.put_count == 0 || o.put_count + deletes < 2)
        return OUT_OK;
    o.puts = xreallocarray(NULL, o.put_count, sizeof(*o.puts));
    collect_puts(&o, ops, count, new_list(&o, NULL, NULL));
    assert(o.put_index == o.put_count);
    qsort(o.puts, o.put_count, sizeof(*o.puts), put_cmp);
    for (size_t i = 1; i < o.put_count && !duplicate; i++)
        duplicate = bytes_eq(o.puts[i - 1].key, o.puts[i].key) &&
                    !are_exclusive(o.puts[i - 1].list, o.puts[i].list);
    if (!duplicate && deletes > 0) {
        o.ranks = xreallocarray(NULL, o.put_count, sizeof(*o.ranks));
        o.fenwick = xcalloc(o.put_count + 1, sizeof(*o.fenwick));
        for (size_t i = 0; i < o.put_count; i++)
            o.ranks[o.puts[i].position] = i;
        o.put_index = 0;
        duplicate = put_meets_delete(&o, ops, count);
    }
    free(o.puts);
    free(o.ranks);
    free(o.fenwick);
    arena_fini(&o.arena);
    return duplicate ? OUT_DUPLICATE_KEY : OUT_OK;
}

int kv_check_txn(const struct kv_txn_request *m, size_t ops_max)
{
    int outcome = check_txn_ops(m, ops_max);

    if (outcome == OUT_OK)
        outcome = check_overlap(m->success, m->success_count);
    if (outcome == OUT_OK)
        outcome = check_overlap(m->failure, m->failure_count);
    return outcome;
}

/* ---- what kind of txn ---- */

static bool all_ranges(const struct kv_op *ops, size_t count, bool serializable)
{
    for (size_t i = 0; i < count; i++)
        if (ops[i].type != KV_OP_RANGE || (serializable && !ops[i].range.serializable))
            return false;
    return true;
}

bool kv_txn_is_read_only(const struct kv_txn_request *m)
{
    return all_ranges(m->success, m->success_count, false) &&
           all_ranges(m->failure, m->failure_count, false);
}

bool kv_txn_is_serializable(const struct kv_txn_request *m)
{
    return all_ranges(m->success, m->success_count, true) &&
           all_ranges(m->failure, m->failure_count, true);
}

uint64_t kv_put_cost(const struct kv_put_request *m)
{
    return 256 + m->key.len + m->value.len; /* etcd's kvOverhead */
}

static uint64_t ops_cost(const struct kv_op *ops, size_t count)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++) {
        if (ops[i].type == KV_OP_PUT)
            sum += kv_put_cost(&ops[i].put);
        else if (ops[i].type == KV_OP_TXN)
            sum += kv_txn_cost(ops[i].txn);
    }
    return sum;
}

uint64_t kv_txn_cost(const struct kv_txn_request *m)
{
    uint64_t success = ops_cost(m->success, m->success_count);
    uint64_t failure = ops_cost(m->failure, m->failure_count);

    return MAX(success, failure);
}
