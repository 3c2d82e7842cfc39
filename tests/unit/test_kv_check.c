/* The stateless checks of KV requests: etcd's refusals, in etcd's order, and hostile bytes. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "lib/proto/kv_check.h"
#include "lib/proto/outcome.h"
#include "lib/util/arena.h"
#include "lib/util/buf.h"
#include "lib/util/macros.h"
#include "lib/util/prng.h"
#include "lib/wire/pb.h"

/* A txn in letters, so that tables stay readable: "Pa" put a, "Dab" delete [a,b), "D=a" delete a,
 * "D*a" delete from a on, "Ra" range, "N" empty op, "(success|failure)" nested txn, "Ca" compare. */
static const char *write_ops(struct buf *txn, uint32_t field, const char *s);

static const char *write_txn(struct buf *out, const char *s)
{
    s = write_ops(out, 2, s);
    if (*s == '|')
        s = write_ops(out, 3, s + 1);
    return s;
}

static void put_op(struct buf *txn, uint32_t list, uint32_t field, const struct buf *body)
{
    CLEANUP(buf_fini) struct buf op = BUF_INIT;

    pb_put_message(&op, field, buf_bytes(body));
    pb_put_message(txn, list, buf_bytes(&op));
}

static const char *write_ops(struct buf *txn, uint32_t field, const char *s)
{
    while (*s != 0 && *s != '|' && *s != ')') {
        CLEANUP(buf_fini) struct buf body = BUF_INIT;

        switch (*s) {
        case 'P':
            pb_put_bytes(&body, 1, bytes_of(s + 1, s[1] != '_'));
            put_op(txn, field, 2, &body);
            s += 2;
            break;
        case 'R':
            pb_put_bytes(&body, 1, bytes_of(s + 1, s[1] != '_'));
            put_op(txn, field, 1, &body);
            s += 2;
            break;
        case 'D':
            if (s[1] == '=') {
                pb_put_bytes(&body, 1, bytes_of(s + 2, 1));
            } else if (s[1] == '*') {
                pb_put_bytes(&body, 1, bytes_of(s + 2, 1));
                pb_put_bytes(&body, 2, BYTES_LIT("\0"));
            } else {
                pb_put_bytes(&body, 1, bytes_of(s + 1, 1));
                pb_put_bytes(&body, 2, bytes_of(s + 2, 1));
            }
            put_op(txn, field, 3, &body);
            s += 3;
            break;
        case 'N':
            pb_put_message(txn, field, BYTES_EMPTY);
            s++;
            break;
        case 'C':
            pb_put_bytes(&body, 3, bytes_of(s + 1, s[1] != '_'));
            pb_put_message(txn, 1, buf_bytes(&body));
            s += 2;
            break;
        case '(':
            s = write_txn(&body, s + 1) + 1;
            put_op(txn, field, 4, &body);
            break;
        default:
            cr_assert_fail("bad letter %c", *s);
        }
    }
    return s;
}

static int check_bytes(struct bytes message, size_t ops_max)
{
    CLEANUP(arena_fini) struct arena arena = ARENA_INIT;
    struct kv_txn_request txn;
    int outcome = kv_decode_txn(message, &arena, &txn);

    return outcome != OUT_OK ? outcome : kv_check_txn(&txn, ops_max);
}

static int check_text(const char *s, size_t ops_max)
{
    CLEANUP(buf_fini) struct buf message = BUF_INIT;

    write_txn(&message, s);
    return check_bytes(buf_bytes(&message), ops_max);
}

Test(kv_check, txn_rules)
{
    static const struct {
        const char *txn;
        int outcome;
    } rows[] = {
        {"", OUT_OK},
        {"Pa", OUT_OK},
        {"PaPb|PaPb", OUT_OK},
        {"PaPa", OUT_DUPLICATE_KEY},
        {"|PaPa", OUT_DUPLICATE_KEY},
        {"PaPbPa", OUT_DUPLICATE_KEY},
        {"PaD=a", OUT_DUPLICATE_KEY},
        {"D=aPa", OUT_DUPLICATE_KEY},
        {"PaD=b", OUT_OK},
        {"PbDab", OUT_OK}, /* the end is excluded */
        {"PaDab", OUT_DUPLICATE_KEY},
        {"PcD*b", OUT_OK}, /* not noticed by etcd, so accepted */
        {"PaD*b", OUT_OK},
        {"PaDba", OUT_OK}, /* an empty range */
        {"DazDbz", OUT_OK},
        {"PaRaRa", OUT_OK},
        {"Pa(Pa)", OUT_DUPLICATE_KEY},
        {"(Pa)Pa", OUT_DUPLICATE_KEY},
        {"(Pa|Pa)", OUT_OK},
        {"(PaPa|)", OUT_DUPLICATE_KEY},
        {"(Pa|Pa)Pa", OUT_DUPLICATE_KEY},
        {"(Pa)(Pa)", OUT_DUPLICATE_KEY},
        {"(Pa|)(|Pa)", OUT_DUPLICATE_KEY},
        {"((Pa|Pa)|(Pa|Pa))", OUT_OK},
        {"((Pa)Pa|Pa)", OUT_DUPLICATE_KEY},
        {"(Pa|D=a)", OUT_OK},
        {"(D=a|Pa)", OUT_OK},
        {"(PaD=a|)", OUT_DUPLICATE_KEY},
        {"(|PbPaD=a)", OUT_DUPLICATE_KEY},
        {"(Pa)D=a", OUT_DUPLICATE_KEY},
        {"D=a(|Pa)", OUT_DUPLICATE_KEY},
        {"Pa(D=a)", OUT_DUPLICATE_KEY},
        {"(D=a)Pa", OUT_DUPLICATE_KEY},
        {"(D=a)(Pa)", OUT_DUPLICATE_KEY},
        {"(Pa)(D=a)", OUT_OK}, /* etcd looks at nested txns in order */
        {"((D=a))(|(Pa))", OUT_DUPLICATE_KEY},
        {"PbPc((D=a|Pa)Pz|Dbd)", OUT_DUPLICATE_KEY},
        {"PbPc((D=a|Pa)Pz|Dde)", OUT_OK},
        {"P_", OUT_EMPTY_KEY},
        {"R_", OUT_EMPTY_KEY},
        {"C_", OUT_EMPTY_KEY},
        {"CaCa", OUT_OK},
        {"N", OUT_KEY_NOT_FOUND},
        {"|(N)", OUT_KEY_NOT_FOUND},
        {"PaPaP_", OUT_EMPTY_KEY}, /* form comes before overlap */
        {"NC_", OUT_EMPTY_KEY},    /* compares come before ops */
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        cr_expect_eq(check_text(rows[i].txn, KV_TXN_OPS_MAX), rows[i].outcome, "%s gave %s",
                     rows[i].txn, outcome_name(check_text(rows[i].txn, KV_TXN_OPS_MAX)));
}

Test(kv_check, txn_ops_budget)
{
    static const struct {
        const char *txn;
        size_t ops_max;
        int outcome;
    } rows[] = {
        {"PaPb", 2, OUT_OK},
        {"PaPbPc", 2, OUT_TOO_MANY_OPS},
        {"|PaPbPc", 2, OUT_TOO_MANY_OPS},
        {"CaCbCc", 2, OUT_TOO_MANY_OPS},
        {"(Pa)", 2, OUT_OK},
        {"(Pa)", 1, OUT_TOO_MANY_OPS},
        {"(PaPb)Pc", 3, OUT_TOO_MANY_OPS},
        {"(PaPb)Pc", 4, OUT_OK},
        {"(((Pa)))", 3, OUT_TOO_MANY_OPS},
        {"C_(((Pa)))", 3, OUT_EMPTY_KEY},
        {"(((Pa)))", SIZE_MAX, OUT_OK},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        cr_expect_eq(check_text(rows[i].txn, rows[i].ops_max), rows[i].outcome, "%s",
                     rows[i].txn);
}

Test(kv_check, single_requests)
{
    struct bytes k = BYTES_LIT("k");

    cr_expect_eq(kv_check_range(&(struct kv_range_request){.key = k}), OUT_OK);
    cr_expect_eq(kv_check_range(&(struct kv_range_request){0}), OUT_EMPTY_KEY);
    cr_expect_eq(kv_check_range(&(struct kv_range_request){.key = k, .sort_order = 3}),
                 OUT_INVALID_SORT_OPTION);
    cr_expect_eq(kv_check_range(&(struct kv_range_request){.key = k, .sort_target = -1}),
                 OUT_INVALID_SORT_OPTION);
    cr_expect_eq(kv_check_range(&(struct kv_range_request){.sort_target = 9}), OUT_EMPTY_KEY);
    cr_expect_eq(kv_check_put(&(struct kv_put_request){.key = k}), OUT_OK);
    cr_expect_eq(kv_check_put(&(struct kv_put_request){.value = k, .ignore_value = true}),
                 OUT_EMPTY_KEY);
    cr_expect_eq(kv_check_put(&(struct kv_put_request){.key = k, .value = k, .ignore_value = true,
                                                       .ignore_lease = true, .lease = 1}),
                 OUT_VALUE_PROVIDED);
    cr_expect_eq(kv_check_put(&(struct kv_put_request){.key = k, .ignore_lease = true, .lease = 1}),
                 OUT_LEASE_PROVIDED);
    cr_expect_eq(kv_check_put(&(struct kv_put_request){.key = k, .value = k, .ignore_lease = true}),
                 OUT_OK);
    cr_expect_eq(kv_check_delete(&(struct kv_delete_request){0}), OUT_EMPTY_KEY);
    cr_expect_eq(kv_put_cost(&(struct kv_put_request){.key = k, .value = k}), 258);
}

Test(kv_check, decoding)
{
    struct kv_range_request range;
    struct kv_put_request put;

    cr_expect_eq(kv_decode_range(BYTES_LIT("\x0a\x01k\x12\x01l\x18\x05\x20\x07\x28\x02\x30\x04\x38"
                                           "\x01\x40\x01\x48\x01\x50\x01\x58\x02\x60\x03\x68\x04"),
                                 &range),
                 OUT_OK);
    cr_expect(bytes_eq(range.key, BYTES_LIT("k")) && bytes_eq(range.range_end, BYTES_LIT("l")));
    cr_expect(range.limit == 5 && range.revision == 7 && range.sort_order == 2 &&
              range.sort_target == 4 && range.serializable && range.keys_only && range.count_only);
    cr_expect(range.min_mod_revision == 1 && range.max_mod_revision == 2 &&
              range.min_create_revision == 3 && range.max_create_revision == 4);
    cr_expect_eq(kv_decode_put(BYTES_LIT("\x0a\x01k\x0a\x01z\x7a\x01?"), &put), OUT_OK);
    cr_expect(bytes_eq(put.key, BYTES_LIT("z")), "the last one wins, unknown ones are skipped");
    cr_expect_eq(kv_decode_put(BYTES_LIT("\x0a\x05k"), &put), OUT_MALFORMED);
    cr_expect_eq(kv_decode_put(BYTES_LIT("\x08\x05"), &put), OUT_MALFORMED, "wrong wire type");
    cr_expect_eq(kv_decode_put(BYTES_LIT("\x1a\x01k"), &put), OUT_MALFORMED);
}

/* Nesting by the hundred thousand must not reach the stack's end. */
Test(kv_check, deep_nesting_is_refused)
{
    CLEANUP(buf_fini) struct buf a = BUF_INIT;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    for (size_t i = 0; i < 20000; i++) {
        buf_clear(&b);
        pb_put_message(&b, 4, buf_bytes(&a));
        buf_clear(&a);
        pb_put_message(&a, 2, buf_bytes(&b));
        if (i == 126)
            cr_expect_eq(check_bytes(buf_bytes(&a), 128), OUT_OK);
        if (i == 128)
            cr_expect_eq(check_bytes(buf_bytes(&a), 128), OUT_TOO_MANY_OPS);
    }
    cr_expect_eq(check_bytes(buf_bytes(&a), SIZE_MAX), OUT_TOO_MANY_OPS);
}

/* Every truncation and many random changes of a message: never a crash, never a read outside. */
Test(kv_check, hostile_bytes)
{
    CLEANUP(buf_fini) struct buf good = BUF_INIT;
    struct prng prng;

    prng_init(&prng, 7);
    write_txn(&good, "CaPaDbc(PdRe|D*f(Pg|N))|RaPz");
    for (size_t len = 0; len <= good.len; len++) {
        uint8_t *copy = malloc(len + 1); /* exact size: the sanitizer sees an overrun */

        memcpy(copy, good.data, len);
        check_bytes(bytes_of(copy, len), 128);
        free(copy);
    }
    for (unsigned int i = 0; i < 20000; i++) {
        CLEANUP(buf_fini) struct buf bad = BUF_INIT;

        buf_append(&bad, good.data, good.len);
        for (uint64_t n = 1 + prng_below(&prng, 3); n > 0; n--)
            bad.data[prng_below(&prng, bad.len)] = (uint8_t)prng_next(&prng);
        check_bytes(buf_bytes(&bad), 128);
    }
}

/* ---- the overlap rule against etcd's own, quadratic form of it ---- */

struct model_set {
    char puts[64];
    struct {
        char from, to;
    } deletes[64];
    size_t put_count, delete_count;
};

static bool model_meets(const struct model_set *s, char key)
{
    for (size_t i = 0; i < s->delete_count; i++)
        if (key >= s->deletes[i].from && key < s->deletes[i].to)
            return true;
    return false;
}

static bool model_has(const struct model_set *s, char key)
{
    return memchr(s->puts, key, s->put_count) != NULL;
}

static void model_join(struct model_set *to, const struct model_set *from)
{
    for (size_t i = 0; i < from->delete_count; i++)
        to->deletes[to->delete_count++] = from->deletes[i];
}

/* false: duplicate */
static bool model_check(const struct kv_op *ops, size_t count, struct model_set *ret)
{
    *ret = (struct model_set){0};
    for (size_t i = 0; i < count; i++)
        if (ops[i].type == KV_OP_DELETE) {
            const struct kv_delete_request *d = &ops[i].delete_range;
            char to = (char)(d->range_end.len == 0 ? d->key.data[0] + 1
                             : d->range_end.data[0]); /* "\0" is before every key: etcd's way */

            ret->deletes[ret->delete_count].from = (char)d->key.data[0];
            ret->deletes[ret->delete_count++].to = to;
        }
    for (size_t i = 0; i < count; i++) {
        struct model_set then, other;

        if (ops[i].type != KV_OP_TXN)
            continue;
        if (!model_check(ops[i].txn->success, ops[i].txn->success_count, &then) ||
            !model_check(ops[i].txn->failure, ops[i].txn->failure_count, &other))
            return false;
        for (size_t j = 0; j < then.put_count; j++) {
            if (model_has(ret, then.puts[j]) || model_meets(ret, then.puts[j]))
                return false;
            ret->puts[ret->put_count++] = then.puts[j];
        }
        for (size_t j = 0; j < other.put_count; j++) {
            if (model_has(ret, other.puts[j]) && !model_has(&then, other.puts[j]))
                return false;
            if (model_meets(ret, other.puts[j]))
                return false;
            if (!model_has(ret, other.puts[j]))
                ret->puts[ret->put_count++] = other.puts[j];
        }
        model_join(ret, &then);
        model_join(ret, &other);
    }
    for (size_t i = 0; i < count; i++) {
        char key;

        if (ops[i].type != KV_OP_PUT)
            continue;
        key = (char)ops[i].put.key.data[0];
        if (model_has(ret, key) || model_meets(ret, key))
            return false;
        ret->puts[ret->put_count++] = key;
    }
    return true;
}

static size_t random_txn(struct prng *prng, char *s, unsigned int depth)
{
    size_t n = 0;

    for (unsigned int branch = 0; branch < 2; branch++) {
        for (uint64_t ops = prng_below(prng, 3); ops > 0; ops--) {
            char a = (char)('a' + prng_below(prng, 12)), b = (char)('a' + prng_below(prng, 12));

            switch (prng_below(prng, depth > 2 ? 3 : 5)) {
            case 0:
            case 1:
                s[n++] = 'P';
                s[n++] = a;
                break;
            case 2:
                s[n++] = 'D';
                s[n++] = prng_below(prng, 3) == 0 ? '=' : a;
                s[n++] = b;
                break;
            default:
                s[n++] = '(';
                n += random_txn(prng, s + n, depth + 1);
                s[n++] = ')';
            }
        }
        if (branch == 0)
            s[n++] = '|';
    }
    s[n] = 0;
    return n;
}

Test(kv_check, overlap_equals_model)
{
    struct prng prng;
    unsigned int duplicates = 0;

    prng_init(&prng, 42);
    for (unsigned int i = 0; i < 20000; i++) {
        CLEANUP(arena_fini) struct arena arena = ARENA_INIT;
        CLEANUP(buf_fini) struct buf message = BUF_INIT;
        struct kv_txn_request txn;
        struct model_set a, b;
        char text[1024];
        bool ok;

        random_txn(&prng, text, 0);
        write_txn(&message, text);
        cr_assert_eq(kv_decode_txn(buf_bytes(&message), &arena, &txn), OUT_OK);
        ok = model_check(txn.success, txn.success_count, &a) &&
             model_check(txn.failure, txn.failure_count, &b);
        duplicates += !ok;
        cr_assert_eq(kv_check_txn(&txn, SIZE_MAX), ok ? OUT_OK : OUT_DUPLICATE_KEY, "%s", text);
    }
    cr_expect(duplicates > 1000 && duplicates < 19000);
}

Test(kv_check, kinds_and_cost)
{
    static const struct {
        const char *txn;
        bool read_only;
        uint64_t cost;
    } rows[] = {
        {"", true, 0},         {"RaRb|Rc", true, 0},    {"Ra|Pb", false, 257},
        {"(Ra)", false, 0},    {"D=a", false, 0},       {"PaPb|Pc", false, 514},
        {"Pa(Pb|PcPd)", false, 771},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(arena_fini) struct arena arena = ARENA_INIT;
        CLEANUP(buf_fini) struct buf message = BUF_INIT;
        struct kv_txn_request txn;

        write_txn(&message, rows[i].txn);
        cr_assert_eq(kv_decode_txn(buf_bytes(&message), &arena, &txn), OUT_OK);
        cr_expect_eq(kv_txn_is_read_only(&txn), rows[i].read_only, "%s", rows[i].txn);
        cr_expect_eq(kv_txn_cost(&txn), rows[i].cost, "%s", rows[i].txn);
        cr_expect_eq(kv_txn_is_serializable(&txn), i == 0, "%s", rows[i].txn);
    }
}
