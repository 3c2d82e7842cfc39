#include "stored/auth/auth_check.h"

#include <stddef.h>
#include "lib/proto/kv_check.h"
#include "lib/proto/outcome.h"
#include "lib/util/sim_bug.h"
#include "stored/auth/auth_store.h"

static int check_keys(const struct auth_store *a, struct auth_user *user, const struct auth_op *op)
{
    const struct auth_ranges *ranges = auth_store_ranges(a, user, op->type == AUTH_OP_WRITE);

    return auth_ranges_covers(ranges, op->key, op->range_end) ? OUT_OK : OUT_PERMISSION_DENIED;
}

int auth_check(const struct auth_store *a, const struct auth_identity *who,
               const struct auth_op *op)
{
    bool wants_keys = op->type == AUTH_OP_READ || op->type == AUTH_OP_WRITE;
    struct auth_user *user;

    if (!a->enabled)
        return OUT_OK;
    if (who->name.len == 0)
        return OUT_USER_EMPTY;
    if (wants_keys && who->revision < a->revision && !SIM_BUG(AUTH_OLD_RIGHTS))
        return OUT_AUTH_OLD_REVISION;
    user = auth_store_user(a, who->name);
    if (user == NULL || op->type == AUTH_OP_REFUSED)
        return OUT_PERMISSION_DENIED;
    if (op->type == AUTH_OP_USER || auth_user_is_root(user))
        return OUT_OK;
    if (wants_keys)
        return check_keys(a, user, op);
    return OUT_PERMISSION_DENIED;
}

static int check_read(const struct auth_store *a, const struct auth_identity *who, struct bytes key,
                      struct bytes range_end)
{
    return auth_check(a, who, &(struct auth_op){AUTH_OP_READ, key, range_end});
}

static int check_write(const struct auth_store *a, const struct auth_identity *who,
                       struct bytes key, struct bytes range_end)
{
    return auth_check(a, who, &(struct auth_op){AUTH_OP_WRITE, key, range_end});
}

/* ---- leases ---- */

struct lease_visit {
    const struct auth_store *a;
    const struct auth_identity *who;
    enum auth_op_type type;
    int outcome;
};

static bool visit_lease_key(void *visitor, struct bytes key)
{
    struct lease_visit *v = visitor;

    v->outcome = auth_check(v->a, v->who, &(struct auth_op){v->type, key, BYTES_EMPTY});
    return v->outcome == OUT_OK;
}

int auth_check_lease(const struct auth_store *a, const struct auth_identity *who, int64_t lease,
                     enum auth_op_type type, const struct auth_lease_keys *leases)
{
    struct lease_visit v = {.a = a, .who = who, .type = type};

    /* also a lease without keys, or one that does not exist, is nothing for strangers */
    v.outcome = auth_check(a, who, &(struct auth_op){.type = AUTH_OP_USER});
    if (v.outcome == OUT_OK && a->enabled)
        leases->each(leases->user, lease, visit_lease_key, &v);
    return v.outcome;
}

/* ---- requests ---- */

int auth_check_range(const struct auth_store *a, const struct auth_identity *who,
                     const struct kv_range_request *m)
{
    return check_read(a, who, m->key, m->range_end);
}

int auth_check_put(const struct auth_store *a, const struct auth_identity *who,
                   const struct kv_put_request *m, const struct auth_lease_keys *leases)
{
    int outcome = check_write(a, who, m->key, BYTES_EMPTY);

    if (outcome == OUT_OK && m->lease != 0)
        outcome = auth_check_lease(a, who, m->lease, AUTH_OP_WRITE, leases);
    if (outcome == OUT_OK && m->prev_kv)
        outcome = check_read(a, who, m->key, BYTES_EMPTY);
    return outcome;
}

int auth_check_delete(const struct auth_store *a, const struct auth_identity *who,
                      const struct kv_delete_request *m)
{
    int outcome = check_write(a, who, m->key, m->range_end);

    if (outcome == OUT_OK && m->prev_kv)
        outcome = check_read(a, who, m->key, m->range_end);
    return outcome;
}

static int check_ops(const struct auth_store *a, const struct auth_identity *who,
                     const struct kv_op *ops, size_t count, const struct auth_lease_keys *leases)
{
    int outcome = OUT_OK;

    for (size_t i = 0; i < count && outcome == OUT_OK; i++) {
        switch (ops[i].type) {
        case KV_OP_RANGE:
            outcome = auth_check_range(a, who, &ops[i].range);
            break;
        case KV_OP_PUT:
            outcome = auth_check_put(a, who, &ops[i].put, leases);
            break;
        case KV_OP_DELETE:
            outcome = auth_check_delete(a, who, &ops[i].delete_range);
            break;
        case KV_OP_TXN:
            outcome = auth_check_txn(a, who, ops[i].txn, leases);
            break;
        case KV_OP_NONE:
            outcome = OUT_PERMISSION_DENIED;
            break;
        }
    }
    return outcome;
}

int auth_check_txn(const struct auth_store *a, const struct auth_identity *who,
                   const struct kv_txn_request *m, const struct auth_lease_keys *leases)
{
    /* one without any operation still tells the revision */
    int outcome = auth_check(a, who, &(struct auth_op){.type = AUTH_OP_USER});

    if (!a->enabled)
        return outcome;
    for (size_t i = 0; i < m->compare_count && outcome == OUT_OK; i++)
        outcome = check_read(a, who, m->compares[i].key, m->compares[i].range_end);
    if (outcome == OUT_OK)
        outcome = check_ops(a, who, m->success, m->success_count, leases);
    if (outcome == OUT_OK)
        outcome = check_ops(a, who, m->failure, m->failure_count, leases);
    return outcome;
}
