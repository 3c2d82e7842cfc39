/*
 * Keys are "bench/" and twelve digits; the range of all of them is ["bench/", "bench0").
 * Field numbers: etcd rpc.proto.
 */
#include "bench/workload.h"

#include <assert.h>
#include <string.h>
#include "bench/grpc_call.h"
#include "lib/wire/pb.h"

#define KEY_PREFIX "bench/"
#define KEY_END    "bench0"
#define PATH_PUT   "/etcdserverpb.KV/Put"
#define PATH_RANGE "/etcdserverpb.KV/Range"
#define PATH_TXN   "/etcdserverpb.KV/Txn"
#define PATH_GRANT "/etcdserverpb.Lease/LeaseGrant"

enum {
    KEY_DIGITS = 12,
    FILL_PUTS = 100,
};

static const char *const names[WORKLOAD_KINDS] = {
    "put",          "put-one",    "get",   "get-serializable", "range",
    "count",        "txn",        "mixed", "lease-grant",      "lease-keepalive",
    "watch-fanout", "watch-idle", "fill",
};

const char *workload_name(enum workload_kind kind)
{
    return names[kind];
}

bool workload_parse(const char *name, enum workload_kind *ret)
{
    for (int i = 0; i < WORKLOAD_KINDS; i++) {
        if (strcmp(names[i], name) == 0) {
            *ret = (enum workload_kind)i;
            return true;
        }
    }
    return false;
}

static struct bytes zero_key(void)
{
    return BYTES_LIT(KEY_PREFIX "000000000000");
}

static void put_put(struct buf *b, size_t value_bytes)
{
    CLEANUP(buf_fini) struct buf value = BUF_INIT;

    for (size_t i = 0; i < value_bytes; i++)
        buf_append_u8(&value, (uint8_t)('a' + i % 26));
    pb_put_bytes(b, 1, zero_key());
    pb_put_bytes(b, 2, buf_bytes(&value));
}

/* RequestOp with request_put, as field `field` of a TxnRequest. */
static void put_put_op(struct buf *b, uint32_t field, size_t value_bytes)
{
    CLEANUP(buf_fini) struct buf put = BUF_INIT;
    CLEANUP(buf_fini) struct buf op = BUF_INIT;

    put_put(&put, value_bytes);
    pb_put_message(&op, 2, buf_bytes(&put));
    pb_put_message(b, field, buf_bytes(&op));
}

static void put_txn(struct buf *b, size_t value_bytes)
{
    CLEANUP(buf_fini) struct buf compare = BUF_INIT;

    pb_put_u64(&compare, 1, 1); /* GREATER, target VERSION */
    pb_put_bytes(&compare, 3, zero_key());
    pb_put_tag(&compare, 4, PB_VARINT); /* than 0: present although it is the default */
    pb_put_varint(&compare, 0);
    pb_put_message(b, 1, buf_bytes(&compare));
    put_put_op(b, 2, value_bytes);
    put_put_op(b, 3, value_bytes);
}

static void put_range(struct buf *b, const struct workload_options *o, enum workload_kind kind)
{
    if (kind == WORKLOAD_COUNT)
        pb_put_bytes(b, 1, BYTES_LIT(KEY_PREFIX));
    else
        pb_put_bytes(b, 1, zero_key());
    if (kind == WORKLOAD_COUNT || kind == WORKLOAD_RANGE)
        pb_put_bytes(b, 2, BYTES_LIT(KEY_END));
    if (kind == WORKLOAD_RANGE)
        pb_put_u64(b, 3, o->range_limit);
    pb_put_bool(b, 7, kind == WORKLOAD_GET_SERIALIZABLE);
    pb_put_bool(b, 9, kind == WORKLOAD_COUNT);
}

static void find_keys(struct workload_message *m)
{
    static const char key[] = KEY_PREFIX "000000000000";
    const uint8_t *at = m->bytes.data, *end = at + m->bytes.len;

    m->key_count = 0;
    while ((at = memmem(at, (size_t)(end - at), key, sizeof(key) - 1)) != NULL) {
        assert(m->key_count < WORKLOAD_KEY_OFFSETS_MAX);
        m->key_at[m->key_count++] = (size_t)(at - m->bytes.data) + sizeof(KEY_PREFIX) - 1;
        at += sizeof(key) - 1;
    }
}

static void message_init(struct workload_message *m, const struct workload_options *o,
                         enum workload_kind kind)
{
    struct buf *b = &m->bytes;
    size_t begin;

    *b = BUF_INIT;
    begin = grpc_message_begin(b);
    switch (kind) {
    case WORKLOAD_PUT:
    case WORKLOAD_PUT_ONE:
        m->path = PATH_PUT;
        put_put(b, o->value_bytes);
        break;
    case WORKLOAD_TXN:
        m->path = PATH_TXN;
        put_txn(b, o->value_bytes);
        break;
    case WORKLOAD_FILL:
        m->path = PATH_TXN;
        for (int i = 0; i < FILL_PUTS; i++)
            put_put_op(b, 2, o->value_bytes);
        break;
    case WORKLOAD_LEASE_GRANT:
        m->path = PATH_GRANT;
        pb_put_u64(b, 1, o->lease_ttl_s);
        break;
    default:
        m->path = PATH_RANGE;
        put_range(b, o, kind);
        break;
    }
    grpc_message_end(b, begin);
    find_keys(m);
}

static void set_digits(uint8_t *to, uint64_t n)
{
    for (int i = KEY_DIGITS - 1; i >= 0; i--) {
        to[i] = (uint8_t)('0' + n % 10);
        n /= 10;
    }
}

void workload_init(struct workload *w, const struct workload_options *options)
{
    enum workload_kind kind = options->kind;

    memset(w, 0, sizeof(*w));
    assert(options->key_space > 0);
    w->options = *options;
    w->next = options->key_offset;
    prng_init(&w->prng, options->seed);
    message_init(&w->messages[0], options, kind == WORKLOAD_MIXED ? WORKLOAD_GET : kind);
    if (kind == WORKLOAD_MIXED)
        message_init(&w->messages[1], options, WORKLOAD_PUT);
}

void workload_fini(struct workload *w)
{
    buf_fini(&w->messages[0].bytes);
    buf_fini(&w->messages[1].bytes);
}

struct bytes workload_next(struct workload *w, const char **ret_path)
{
    const struct workload_options *o = &w->options;
    struct workload_message *m = &w->messages[0];
    uint64_t key;

    if (o->kind == WORKLOAD_FILL) {
        for (size_t i = 0; i < m->key_count; i++)
            set_digits(m->bytes.data + m->key_at[i], w->next++ % o->key_space);
    } else if (m->key_count != 0 && o->kind != WORKLOAD_PUT_ONE) {
        if (o->kind == WORKLOAD_MIXED && prng_below(&w->prng, 100) >= o->read_percent)
            m = &w->messages[1];
        key = o->key_space;
        if (o->kind == WORKLOAD_RANGE)
            key = key > o->range_limit ? key - o->range_limit + 1 : 1;
        key = prng_below(&w->prng, key);
        for (size_t i = 0; i < m->key_count; i++)
            set_digits(m->bytes.data + m->key_at[i], key);
    }
    *ret_path = m->path;
    return buf_bytes(&m->bytes);
}

uint64_t workload_fill_requests(const struct workload_options *options)
{
    return (options->key_space + FILL_PUTS - 1) / FILL_PUTS;
}
