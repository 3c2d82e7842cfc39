/*
 * The one decision about rights: identity + operation -> yes or no. A pure function of the auth
 * table: no clock, no side effect; the same on every member. Deny by default.
 *
 * Order of etcd (server/auth/store.go): auth off: yes. No identity: OUT_USER_EMPTY. For keys: an
 * identity older than the last change of auth: OUT_AUTH_OLD_REVISION. Unknown user:
 * OUT_PERMISSION_DENIED. Role root: yes. A key or range: it must lie within the union of what the
 * user's roles grant.
 */
#ifndef CONCLAVE_STORED_AUTH_CHECK_H
#define CONCLAVE_STORED_AUTH_CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include "lib/util/bytes.h"

struct auth_store;
struct kv_delete_request;
struct kv_put_request;
struct kv_range_request;
struct kv_txn_request;

/* As stored vouched for it (auth_stamp.h). name empty: nobody. */
struct auth_identity {
    struct bytes name;
    uint64_t revision; /* of the auth table when it was made out */
};

enum auth_op_type {
    AUTH_OP_REFUSED, /* what nobody has thought about */
    AUTH_OP_USER,    /* any user that exists */
    AUTH_OP_ROOT,
    AUTH_OP_READ, /* key, range_end as in a RangeRequest */
    AUTH_OP_WRITE,
};

struct auth_op {
    enum auth_op_type type;
    struct bytes key, range_end;
};

/* OUT_OK or why not. */
int auth_check(const struct auth_store *a, const struct auth_identity *who,
               const struct auth_op *op);

/* The keys attached to a lease: visit each until it returns false. */
struct auth_lease_keys {
    void (*each)(const void *user, int64_t lease, bool (*visit)(void *visitor, struct bytes key),
                 void *visitor);
    const void *user;
};

/* Requests, nested txns, both branches, compares and prev_kv included; a lease given needs the
 * right to write what is attached to it (etcd apply/auth.go, later versions for txns). */
int auth_check_range(const struct auth_store *a, const struct auth_identity *who,
                     const struct kv_range_request *m);
int auth_check_put(const struct auth_store *a, const struct auth_identity *who,
                   const struct kv_put_request *m, const struct auth_lease_keys *leases);
int auth_check_delete(const struct auth_store *a, const struct auth_identity *who,
                      const struct kv_delete_request *m);
int auth_check_txn(const struct auth_store *a, const struct auth_identity *who,
                   const struct kv_txn_request *m, const struct auth_lease_keys *leases);
/* Every key attached to the lease may be read / written. */
int auth_check_lease(const struct auth_store *a, const struct auth_identity *who, int64_t lease,
                     enum auth_op_type type, const struct auth_lease_keys *leases);

#endif
