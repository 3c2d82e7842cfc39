#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>
#include "lib/proto/outcome.h"
#include "lib/util/xmalloc.h"

void model_init(struct model *m)
{
    *m = (struct model){.revision = 1, .compact_revision = -1};
    model_auth_init(&m->auth);
}

void model_fini(struct model *m)
{
    for (int i = 0; i < SIM_KEYS; i++)
        free(m->keys[i].versions);
}

static void add_version(struct model_key *k, struct kv_view view)
{
    if (k->count == k->cap) {
        k->cap = k->cap * 2 + 16;
        k->versions = xreallocarray(k->versions, k->cap, sizeof(*k->versions));
    }
    k->versions[k->count++].view = view;
}

struct kv_view model_get(const struct model *m, uint32_t key, int64_t revision)
{
    const struct model_key *k = &m->keys[key];

    for (size_t i = k->count; i > 0; i--)
        if (k->versions[i - 1].view.mod_revision <= revision) {
            if (!k->versions[i - 1].view.found)
                break;
            return k->versions[i - 1].view;
        }
    return (struct kv_view){.found = false};
}

static void put(struct model *m, const struct sim_op *op)
{
    struct kv_view v = model_get(m, op->key, m->revision);

    m->revision++;
    add_version(&m->keys[op->key],
                (struct kv_view){.found = true,
                                 .value = op->id,
                                 .create_revision = v.found ? v.create_revision : m->revision,
                                 .mod_revision = m->revision,
                                 .version = v.version + 1,
                                 .lease = op->lease});
}

static int64_t delete_keys(struct model *m, uint32_t from, uint32_t to)
{
    int64_t deleted = 0;

    for (uint32_t k = from; k < to; k++)
        deleted += model_get(m, k, m->revision).found;
    if (deleted == 0)
        return 0;
    for (uint32_t k = from; k < to; k++)
        if (model_get(m, k, m->revision).found)
            add_version(&m->keys[k], (struct kv_view){.mod_revision = m->revision + 1});
    m->revision++;
    return deleted;
}

/* All keys that hang on a lease, in one revision. */
int64_t model_delete_leased(struct model *m, int64_t lease)
{
    int64_t deleted = 0;

    for (uint32_t k = 0; k < SIM_KEYS; k++) {
        struct kv_view v = model_get(m, k, m->revision);

        if (!v.found || v.lease != lease)
            continue;
        add_version(&m->keys[k], (struct kv_view){.mod_revision = m->revision + 1});
        deleted++;
    }
    m->revision += deleted > 0;
    return deleted;
}

static int grant(struct model *m, const struct sim_op *op, struct op_result *ret)
{
    struct model_lease *l = &m->leases[op->lease];

    if (l->exists)
        return OUT_LEASE_EXIST;
    *l = (struct model_lease){.exists = true,
                              .ttl = op->ttl,
                              .number = ++m->granted,
                              .from = m->now,
                              .promised = m->now + (uint64_t)op->ttl * SECOND,
                              .due = m->now + (uint64_t)op->ttl * SECOND};
    ret->ttl = op->ttl;
    return OUT_OK;
}

static int revoke(struct model *m, const struct sim_op *op)
{
    if (!m->leases[op->lease].exists)
        return OUT_LEASE_NOT_FOUND;
    m->leases[op->lease].exists = false;
    model_delete_leased(m, op->lease);
    return OUT_OK;
}

int model_conf(struct model *m, enum proto_conf_op op, raft_id id)
{
    struct raft_conf_change change = {.op = RAFT_CONF_NONE, .id = id};
    int out;

    switch (op) {
    case PROTO_CONF_ADD_VOTER:
        change.op = RAFT_CONF_ADD_VOTER;
        break;
    case PROTO_CONF_ADD_LEARNER:
        change.op = RAFT_CONF_ADD_LEARNER;
        break;
    case PROTO_CONF_PROMOTE:
        change.op = RAFT_CONF_PROMOTE;
        break;
    case PROTO_CONF_REMOVE:
        change.op = RAFT_CONF_REMOVE;
        break;
    case PROTO_CONF_UPDATE:
        break;
    }
    if (m->removed[id])
        return change.op == RAFT_CONF_ADD_VOTER || change.op == RAFT_CONF_ADD_LEARNER
                   ? OUT_MEMBER_EXIST
                   : OUT_MEMBER_NOT_FOUND;
    out = raft_conf_apply(&m->conf, &change);
    if (out == 0 && op == PROTO_CONF_REMOVE)
        m->removed[id] = true;
    return out;
}

void model_apply(struct model *m, const struct sim_op *op, struct op_result *ret)
{
    struct kv_view v;

    *ret = (struct op_result){.outcome = model_admit(m, op)};
    if (ret->outcome != OUT_OK)
        return;
    switch (op->kind) {
    case OP_PUT:
        if (op->lease != 0 && !m->leases[op->lease].exists)
            ret->outcome = OUT_LEASE_NOT_FOUND;
        else
            put(m, op);
        break;
    case OP_GRANT:
        ret->outcome = grant(m, op, ret);
        break;
    case OP_REVOKE:
        ret->outcome = revoke(m, op);
        break;
    case OP_TXN:
        v = model_get(m, op->key, m->revision);
        ret->succeeded = (v.found ? v.mod_revision : 0) == op->expect_mod;
        if (ret->succeeded)
            put(m, op);
        else
            ret->view = v;
        break;
    case OP_DELETE:
        ret->deleted = delete_keys(m, op->key, op->key + 1);
        break;
    case OP_DELETE_ALL:
        ret->deleted = delete_keys(m, 0, SIM_KEYS);
        break;
    case OP_COMPACT:
        if (op->compact_revision <= m->compact_revision)
            ret->outcome = OUT_COMPACTED;
        else if (op->compact_revision > m->revision)
            ret->outcome = OUT_FUTURE_REVISION;
        else
            m->compact_revision = op->compact_revision;
        break;
    case OP_CONF:
        ret->outcome = model_conf(m, op->conf_op, op->conf_member);
        break;
    case OP_AUTH:
        ret->outcome = model_auth(m, op);
        break;
    case OP_GET:
    case OP_RENEW:
        break;
    }
    ret->revision = m->revision;
}
