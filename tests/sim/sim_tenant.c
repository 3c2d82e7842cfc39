/*
 * Tenants: clients that hold a lease each, renew it for a while, hang keys on it, give it up, or
 * let it end. Now and then one frees its id and takes it again just when the lease is due, so that
 * entries about the one before are under way.
 */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include "lib/proto/outcome.h"

enum { TTL_MIN = 2, TTL_MAX = 9 };

static void again(struct sim *s, size_t tenant, uint64_t after_us)
{
    sim_post(s, after_us, EV_CLIENT, 0)->a = SIM_CLIENTS + tenant;
}

/* For a renewal: one that believes to lead, rightly or not. */
static struct sim_node *pick(struct sim *s, bool renewal)
{
    struct sim_node *some[SIM_NODES], *n;
    size_t count = 0;

    for (raft_id id = 1; id <= SIM_NODES; id++) {
        n = &s->nodes[id];
        if (n->state == NODE_UP && (!renewal || n->leases.leads))
            some[count++] = n;
    }
    return count > 0 ? some[prng_below(&s->prng, count)] : NULL;
}

static struct sim_op *new_op(struct sim *s, enum op_kind kind, size_t tenant, struct sim_node *n)
{
    struct sim_op *op = op_new(s, kind);

    op->lease = (int64_t)tenant + 1;
    op->ttl = (int64_t)sim_between(s, TTL_MIN, TTL_MAX);
    op->key = (uint32_t)prng_below(&s->prng, SIM_KEYS);
    op->value_bytes = 8;
    op->origin = n->id;
    op->origin_life = n->life;
    TRACE(s, "tenant %zu: %s op %" PRIu64 " at node %" PRIu64, tenant, op_name(kind), op->id,
          n->id);
    return op;
}

static enum op_kind draw_kind(struct sim *s)
{
    uint64_t draw = prng_below(&s->prng, 100);

    return draw < 65 ? OP_RENEW : draw < 95 ? OP_PUT : OP_REVOKE;
}

/* Until the lease has ended, and what is to happen then. */
static void be_quiet(struct sim *s, size_t tenant)
{
    uint64_t due = s->model.leases[tenant + 1].due;

    if (due > s->now && sim_chance(s, 500)) {
        uint64_t at = due + sim_between(s, 0, 200 * MS);

        sim_post(s, at - MIN(at, s->now + 50 * MS), EV_SWAP, 0)->a = tenant;
    }
    again(s, tenant,
          (uint64_t)s->tenants[tenant].ttl * SECOND + sim_between(s, 100 * MS, 4 * SECOND));
}

void tenant_next(struct sim *s, size_t tenant)
{
    enum op_kind kind = !s->tenants[tenant].held ? OP_GRANT : draw_kind(s);
    struct sim_node *n;
    struct sim_op *op;

    if (s->tenants[tenant].held && sim_chance(s, 120)) {
        be_quiet(s, tenant);
        return;
    }
    n = pick(s, kind == OP_RENEW);
    if (n == NULL) {
        again(s, tenant, 50 * MS);
        return;
    }
    op = new_op(s, kind, tenant, n);
    op->client = SIM_CLIENTS + (int)tenant;
    sim_post(s, OP_TIMEOUT, EV_OP_TIMEOUT, 0)->a = op->id;
    node_submit(s, n, op);
}

void tenant_answered(struct sim *s, const struct sim_op *op, const struct op_result *result)
{
    size_t tenant = (size_t)op->client - SIM_CLIENTS;

    switch (op->kind) {
    case OP_GRANT:
        s->tenants[tenant].held = true;
        s->tenants[tenant].ttl = op->ttl;
        break;
    case OP_REVOKE:
        s->tenants[tenant].held = false;
        break;
    case OP_RENEW:
        s->tenants[tenant].held = result->ttl > 0;
        break;
    default:
        s->tenants[tenant].held = result->outcome != OUT_LEASE_NOT_FOUND;
        break;
    }
}

void tenant_swap(struct sim *s, size_t tenant)
{
    static const enum op_kind kinds[] = {OP_REVOKE, OP_GRANT};
    raft_id leader = sim_leader(s);

    for (size_t i = 0; i < ARRAY_LEN(kinds) && leader != 0; i++)
        if (s->nodes[leader].state == NODE_UP)
            node_submit(s, &s->nodes[leader], new_op(s, kinds[i], tenant, &s->nodes[leader]));
}

void tenants_start(struct sim *s)
{
    for (size_t i = 0; i < SIM_TENANTS; i++)
        again(s, i, sim_between(s, 500 * MS, 3 * SECOND));
}
