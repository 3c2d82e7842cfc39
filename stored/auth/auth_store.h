/*
 * Users, roles, what roles allow, whether auth is on: replicated state, changed by entries only,
 * deterministic, kept whole in every batch record that changed it (they are few).
 *
 * Users and roles are sorted by name, permissions by key. The rules and their order are etcd's
 * (server/auth/store.go); every change that can take a right away raises the revision, so that an
 * identity made out before it is not good any more.
 */
#ifndef CONCLAVE_STORED_AUTH_STORE_H
#define CONCLAVE_STORED_AUTH_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"
#include "stored/auth/auth_ranges.h"

enum { AUTH_KEY_BYTES = 32 };

enum auth_permission_type { AUTH_READ, AUTH_WRITE, AUTH_READWRITE };

struct auth_permission {
    int32_t type; /* enum auth_permission_type, or what a client made up: grants nothing */
    struct buf key, range_end;
};

struct auth_role {
    struct buf name;
    struct auth_permission *permissions;
    size_t permission_count;
};

struct auth_user {
    struct buf name;
    struct buf password; /* bcrypt hash; empty with no_password */
    bool no_password;
    struct buf *roles; /* sorted names; "root" need not exist as a role */
    size_t role_count;
    /* what follows from the roles; made when first asked for after a change */
    bool ranges_known;
    struct auth_ranges readable, writable;
};

struct auth_store {
    bool enabled;
    bool has_key;
    uint64_t revision;           /* from 1 */
    uint8_t key[AUTH_KEY_BYTES]; /* identities are signed by it */
    struct auth_user *users;
    size_t user_count;
    struct auth_role *roles;
    size_t role_count;
};

void auth_store_init(struct auth_store *a);
void auth_store_fini(struct auth_store *a);

void auth_store_encode(const struct auth_store *a, struct buf *b);
int auth_store_decode(struct auth_store *a, struct bytes table); /* replaces; -EBADMSG: as it was */

/* NULL: there is none. Until the next change. */
struct auth_user *auth_store_user(const struct auth_store *a, struct bytes name);
struct auth_role *auth_store_role(const struct auth_store *a, struct bytes name);
bool auth_user_has_role(const struct auth_user *user, struct bytes role);
bool auth_user_is_root(const struct auth_user *user); /* has the role root */
/* The union of what the user's roles allow. */
const struct auth_ranges *auth_store_ranges(const struct auth_store *a, struct auth_user *user,
                                            bool writable);

/* Changes: OUT_OK, changed or not (*ret_changed), or etcd's refusal. */
int auth_store_enable(struct auth_store *a, bool *ret_changed);
int auth_store_disable(struct auth_store *a, bool *ret_changed);
/* Once: a second key is refused. */
int auth_store_set_key(struct auth_store *a, struct bytes key);

struct auth_user_args {
    struct bytes name;
    struct bytes password; /* hash */
    bool no_password;
};
int auth_store_user_add(struct auth_store *a, const struct auth_user_args *args);
int auth_store_user_delete(struct auth_store *a, struct bytes name);
int auth_store_user_set_password(struct auth_store *a, const struct auth_user_args *args);
int auth_store_user_grant(struct auth_store *a, struct bytes user, struct bytes role,
                          bool *ret_changed);
int auth_store_user_revoke(struct auth_store *a, struct bytes user, struct bytes role);
int auth_store_role_add(struct auth_store *a, struct bytes name);
int auth_store_role_delete(struct auth_store *a, struct bytes name);

struct auth_permission_args {
    struct bytes role;
    bool given; /* a permission was sent at all */
    int32_t type;
    struct bytes key, range_end;
};
int auth_store_role_grant(struct auth_store *a, const struct auth_permission_args *args);
int auth_store_role_revoke(struct auth_store *a, const struct auth_permission_args *args);

#endif
