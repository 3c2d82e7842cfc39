/*
 * Clients: each has one operation at a time, at a member of its choice, and goes on when it is
 * answered, refused or has waited too long.
 */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "lib/proto/etcd/rpc.pb-c.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"

const char *op_name(enum op_kind kind)
{
    static const char *const names[] = {"put",        "get",     "txn", "delete",
                                        "delete_all", "compact", "conf", "grant",
                                        "revoke", "renew",   "auth"};

    return names[kind];
}

struct sim_op *op_new(struct sim *s, enum op_kind kind)
{
    struct sim_op *op;

    if (s->op_count == s->op_cap) {
        s->op_cap = s->op_cap * 2 + 1024;
        s->ops = xreallocarray(s->ops, s->op_cap, sizeof(*s->ops));
    }
    op = &s->ops[s->op_count++];
    *op = (struct sim_op){.id = s->op_count,
                          .kind = kind,
                          .client = -1,
                          .invoked = s->now,
                          .min_revision = s->max_revision};
    return op;
}

struct sim_op *op_get(struct sim *s, uint64_t id)
{
    return id >= 1 && id <= s->op_count ? &s->ops[id - 1] : NULL;
}

static ProtobufCBinaryData key_data(uint32_t key, char buf[16])
{
    snprintf(buf, 16, "key%02u", key);
    return (ProtobufCBinaryData){.len = 5, .data = (uint8_t *)buf};
}

/* The value is the operation's id, then filling. */
static ProtobufCBinaryData value_data(const struct sim_op *op, uint8_t *buf)
{
    memset(buf, (int)(op->id & 0xff), op->value_bytes);
    memcpy(buf, &op->id, sizeof(op->id));
    return (ProtobufCBinaryData){.len = op->value_bytes, .data = buf};
}

static void pack(struct buf *b, const ProtobufCMessage *m)
{
    size_t len = protobuf_c_message_get_packed_size(m);

    protobuf_c_message_pack(m, buf_reserve(b, len));
    b->len += len;
}

static void pack_txn(const struct sim_op *op, struct buf *b, uint8_t *value_buf)
{
    char k[16];
    Etcdserverpb__TxnRequest txn = ETCDSERVERPB__TXN_REQUEST__INIT;
    Etcdserverpb__Compare cmp = ETCDSERVERPB__COMPARE__INIT, *cmps[1] = {&cmp};
    Etcdserverpb__RequestOp yes = ETCDSERVERPB__REQUEST_OP__INIT, *yess[1] = {&yes};
    Etcdserverpb__RequestOp no = ETCDSERVERPB__REQUEST_OP__INIT, *nos[1] = {&no};
    Etcdserverpb__PutRequest put = ETCDSERVERPB__PUT_REQUEST__INIT;
    Etcdserverpb__RangeRequest range = ETCDSERVERPB__RANGE_REQUEST__INIT;

    cmp.result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__EQUAL;
    cmp.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
    cmp.key = key_data(op->key, k);
    cmp.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
    cmp.mod_revision = op->expect_mod;
    put.key = range.key = cmp.key;
    put.value = value_data(op, value_buf);
    yes.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
    yes.request_put = &put;
    no.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
    no.request_range = &range;
    txn.n_compare = txn.n_success = txn.n_failure = 1;
    txn.compare = cmps;
    txn.success = yess;
    txn.failure = nos;
    pack(b, &txn.base);
}

static void op_body(const struct sim_op *op, struct buf *b)
{
    uint8_t value_buf[1024];
    char k[16];
    Etcdserverpb__PutRequest put = ETCDSERVERPB__PUT_REQUEST__INIT;
    Etcdserverpb__DeleteRangeRequest del = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
    Etcdserverpb__CompactionRequest compact = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
    struct proto_conf_change change = {.op = op->conf_op};
    struct proto_lease_grant grant = {.id = op->lease, .ttl = op->ttl, .ttl_min = 2};
    char url[32];

    switch (op->kind) {
    case OP_PUT:
        put.key = key_data(op->key, k);
        put.value = value_data(op, value_buf);
        put.lease = op->lease;
        pack(b, &put.base);
        return;
    case OP_TXN:
        pack_txn(op, b, value_buf);
        return;
    case OP_DELETE:
        del.key = key_data(op->key, k);
        pack(b, &del.base);
        return;
    case OP_DELETE_ALL:
        del.key = (ProtobufCBinaryData){.len = 3, .data = (uint8_t *)"key"};
        del.range_end = (ProtobufCBinaryData){.len = 3, .data = (uint8_t *)"kez"};
        pack(b, &del.base);
        return;
    case OP_COMPACT:
        compact.revision = op->compact_revision;
        pack(b, &compact.base);
        return;
    case OP_CONF:
        snprintf(url, sizeof(url), "http://n%" PRIu64 ":2380", op->conf_member);
        change.member = (struct proto_member){.id = op->conf_member,
                                              .is_learner = op->conf_op == PROTO_CONF_ADD_LEARNER,
                                              .peer_urls = bytes_str(url)};
        proto_conf_change_encode(b, &change);
        return;
    case OP_GRANT:
        proto_lease_grant_encode(b, &grant);
        return;
    case OP_REVOKE:
        pb_put_i64(b, 1, op->lease);
        return;
    case OP_AUTH:
        auth_body(op, b);
        return;
    case OP_GET:
    case OP_RENEW:
        return;
    }
}

void op_payload(const struct sim_op *op, struct buf *b)
{
    static const enum proto_kind kinds[] = {
        [OP_PUT] = PROTO_KIND_PUT,
        [OP_TXN] = PROTO_KIND_TXN,
        [OP_DELETE] = PROTO_KIND_DELETE_RANGE,
        [OP_DELETE_ALL] = PROTO_KIND_DELETE_RANGE,
        [OP_COMPACT] = PROTO_KIND_COMPACT,
        [OP_CONF] = PROTO_KIND_CONF_CHANGE,
        [OP_GRANT] = PROTO_KIND_LEASE_GRANT,
        [OP_REVOKE] = PROTO_KIND_LEASE_REVOKE,
    };
    CLEANUP(buf_fini) struct buf body = BUF_INIT;
    struct proto_payload p = {.kind = op->kind == OP_AUTH ? op->auth_kind : kinds[op->kind],
                              .identity = bytes_of(op->stamp, op->stamp_len),
                              .origin_member = op->origin,
                              .origin_generation = op->origin_life,
                              .request_id = op->id};

    op_body(op, &body);
    p.body = buf_bytes(&body);
    proto_payload_encode(b, &p);
}

static void next_soon(struct sim *s, const struct sim_op *op)
{
    struct event *e;

    if (op->client < 0)
        return;
    if (op->client >= SIM_CLIENTS) {
        /* often before the keeper states the deadline */
        e = sim_post(s, sim_between(s, 5 * MS, sim_chance(s, 500) ? 80 * MS : 700 * MS), EV_CLIENT,
                     0);
        e->a = (uint64_t)op->client;
        return;
    }
    e = sim_post(s, sim_between(s, 0, (uint64_t)s->think_ms * 2 * MS), EV_CLIENT, 0);
    e->a = (uint64_t)op->client;
}

void op_answer(struct sim *s, struct sim_op *op, const struct op_result *result)
{
    if (op->state == OP_REFUSED)
        sim_fail(s, "operation %" PRIu64 " was refused and is answered", op->id);
    check_answer(s, op, result);
    if (result->revision > s->max_revision && result->outcome == 0)
        s->max_revision = result->revision;
    if (op->state != OP_PENDING)
        return; /* its client did not wait */
    TRACE(s, "client %d: %s op %" PRIu64 " key %u answered at revision %" PRId64, op->client,
          op_name(op->kind), op->id, op->key, result->revision);
    op->state = OP_DONE;
    s->done_count++;
    s->read_count += op->kind == OP_GET;
    if (op->kind == OP_AUTH)
        admin_answered(s, op);
    else if (op->client >= SIM_CLIENTS)
        tenant_answered(s, op, result);
    next_soon(s, op);
}

void op_refuse(struct sim *s, struct sim_op *op, const char *why)
{
    if (op->state != OP_PENDING)
        return;
    TRACE(s, "client %d: %s op %" PRIu64 " refused: %s", op->client, op_name(op->kind), op->id,
          why);
    /* somebody may refuse what somebody else has taken only if it was sent twice: checked there */
    op->state = OP_REFUSED;
    s->refused_count++;
    next_soon(s, op);
}

void op_timeout(struct sim *s, uint64_t id)
{
    struct sim_op *op = op_get(s, id);

    if (op->state != OP_PENDING)
        return;
    op->state = OP_UNKNOWN;
    s->unknown_count++;
    next_soon(s, op);
}

static raft_id pick_node(struct sim *s)
{
    raft_id up[SIM_NODES];
    size_t n = 0;

    for (raft_id id = 1; id <= SIM_NODES; id++)
        if (s->nodes[id].state == NODE_UP)
            up[n++] = id;
    if (n == 0)
        return 0;
    if (sim_leader(s) != 0 && sim_chance(s, 300))
        return sim_leader(s);
    return up[prng_below(&s->prng, n)];
}

void client_next(struct sim *s, int client)
{
    static const uint32_t weights[] = {[OP_PUT] = 400,   [OP_GET] = 380,       [OP_TXN] = 150,
                                       [OP_DELETE] = 40, [OP_DELETE_ALL] = 15, [OP_COMPACT] = 15};
    uint32_t draw = (uint32_t)prng_below(&s->prng, 1000), kind = 0;
    raft_id id = pick_node(s);
    struct sim_op *op;

    if (id == 0) {
        sim_post(s, 50 * MS, EV_CLIENT, 0)->a = (uint64_t)client;
        return;
    }
    while (draw >= weights[kind])
        draw -= weights[kind++];
    op = op_new(s, (enum op_kind)kind);
    op->client = client;
    op->key = (uint32_t)prng_below(&s->prng, SIM_KEYS);
    op->value_bytes =
        (uint32_t)(8 + (sim_chance(s, 50) ? prng_below(&s->prng, 1000) : prng_below(&s->prng, 40)));
    op->compact_revision = s->max_revision - (int64_t)prng_below(&s->prng, 30) + 2;
    op->expect_mod =
        sim_chance(s, 300) ? 0 : model_get(&s->model, op->key, s->max_revision).mod_revision;
    op->origin = id;
    op->origin_life = s->nodes[id].life;
    if (s->auth)
        op->user = (uint32_t)prng_below(&s->prng, SIM_USERS);
    sim_post(s, OP_TIMEOUT, EV_OP_TIMEOUT, 0)->a = op->id;
    TRACE(s, "client %d: %s op %" PRIu64 " key %u at node %" PRIu64, client, op_name(op->kind),
          op->id, op->key, id);
    node_submit(s, &s->nodes[id], op);
}

void clients_start(struct sim *s)
{
    for (int i = 0; i < SIM_CLIENTS; i++)
        sim_post(s, sim_between(s, 500 * MS, 3 * SECOND), EV_CLIENT, 0)->a = (uint64_t)i;
}
