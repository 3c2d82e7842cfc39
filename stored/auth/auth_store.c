#include "stored/auth/auth_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "lib/proto/outcome.h"
#include "lib/util/sim_bug.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

enum { AUTH_TABLE_VERSION = 1, FLAG_ENABLED = 1, FLAG_KEY = 2, FLAG_NO_PASSWORD = 1 };

static const struct bytes root = BYTES_LIT("root"); /* the user's name and the role's */

/* ---- life ---- */

static void permission_fini(struct auth_permission *p)
{
    buf_fini(&p->key);
    buf_fini(&p->range_end);
}

static void role_fini(struct auth_role *role)
{
    buf_fini(&role->name);
    for (size_t i = 0; i < role->permission_count; i++)
        permission_fini(&role->permissions[i]);
    free(role->permissions);
}

static void user_forget_ranges(struct auth_user *user)
{
    auth_ranges_fini(&user->readable);
    auth_ranges_fini(&user->writable);
    user->ranges_known = false;
}

static void hash_fini(struct buf *password)
{
    if (password->len > 0)
        explicit_bzero(password->data, password->len);
    buf_fini(password);
}

static void user_fini(struct auth_user *user)
{
    buf_fini(&user->name);
    hash_fini(&user->password);
    for (size_t i = 0; i < user->role_count; i++)
        buf_fini(&user->roles[i]);
    free(user->roles);
    user_forget_ranges(user);
}

void auth_store_init(struct auth_store *a)
{
    *a = (struct auth_store){.revision = 1};
}

void auth_store_fini(struct auth_store *a)
{
    for (size_t i = 0; i < a->user_count; i++)
        user_fini(&a->users[i]);
    for (size_t i = 0; i < a->role_count; i++)
        role_fini(&a->roles[i]);
    free(a->users);
    free(a->roles);
    explicit_bzero(a->key, sizeof(a->key));
    auth_store_init(a);
}

/* ---- sorted arrays of things that begin with their name ---- */

static struct bytes name_at(const void *list, size_t size, size_t i)
{
    return buf_bytes((const struct buf *)(const void *)((const char *)list + i * size));
}

/* Where it is or would be. */
static size_t position(const void *list, size_t count, size_t size, struct bytes name)
{
    size_t low = 0, high = count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (bytes_cmp(name_at(list, size, middle), name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_at(const void *list, size_t count, size_t size, size_t i, struct bytes name)
{
    return i < count && bytes_eq(name_at(list, size, i), name);
}

/* Zeroed room for one at position i. */
static void *insert(void *list, size_t *count, size_t size, size_t i)
{
    char *grown = xreallocarray(list, *count + 1, size);

    memmove(grown + (i + 1) * size, grown + i * size, (*count - i) * size);
    memset(grown + i * size, 0, size);
    (*count)++;
    return grown;
}

/* Its content was released. */
static void take_out(void *list, size_t *count, size_t size, size_t i)
{
    char *at = (char *)list + i * size;

    (*count)--;
    memmove(at, at + size, (*count - i) * size);
}

struct auth_user *auth_store_user(const struct auth_store *a, struct bytes name)
{
    size_t i = position(a->users, a->user_count, sizeof(a->users[0]), name);

    return is_at(a->users, a->user_count, sizeof(a->users[0]), i, name) ? &a->users[i] : NULL;
}

struct auth_role *auth_store_role(const struct auth_store *a, struct bytes name)
{
    size_t i = position(a->roles, a->role_count, sizeof(a->roles[0]), name);

    return is_at(a->roles, a->role_count, sizeof(a->roles[0]), i, name) ? &a->roles[i] : NULL;
}

static bool has_role_at(const struct auth_user *user, struct bytes role, size_t *ret_at)
{
    *ret_at = position(user->roles, user->role_count, sizeof(user->roles[0]), role);
    return is_at(user->roles, user->role_count, sizeof(user->roles[0]), *ret_at, role);
}

bool auth_user_has_role(const struct auth_user *user, struct bytes role)
{
    size_t at;

    return has_role_at(user, role, &at);
}

bool auth_user_is_root(const struct auth_user *user)
{
    return auth_user_has_role(user, root);
}

/* ---- the table as bytes ---- */

void auth_store_encode(const struct auth_store *a, struct buf *b)
{
    wire_put_u8(b, AUTH_TABLE_VERSION);
    wire_put_u8(b, (uint8_t)((a->enabled ? FLAG_ENABLED : 0) | (a->has_key ? FLAG_KEY : 0)));
    wire_put_u64(b, a->revision);
    if (a->has_key)
        buf_append(b, a->key, sizeof(a->key));
    wire_put_u32(b, (uint32_t)a->role_count);
    for (size_t i = 0; i < a->role_count; i++) {
        const struct auth_role *role = &a->roles[i];

        wire_put_bytes(b, buf_bytes(&role->name));
        wire_put_u32(b, (uint32_t)role->permission_count);
        for (size_t k = 0; k < role->permission_count; k++) {
            wire_put_u32(b, (uint32_t)role->permissions[k].type);
            wire_put_bytes(b, buf_bytes(&role->permissions[k].key));
            wire_put_bytes(b, buf_bytes(&role->permissions[k].range_end));
        }
    }
    wire_put_u32(b, (uint32_t)a->user_count);
    for (size_t i = 0; i < a->user_count; i++) {
        const struct auth_user *user = &a->users[i];

        wire_put_bytes(b, buf_bytes(&user->name));
        wire_put_u8(b, user->no_password ? FLAG_NO_PASSWORD : 0);
        wire_put_bytes(b, buf_bytes(&user->password));
        wire_put_u32(b, (uint32_t)user->role_count);
        for (size_t k = 0; k < user->role_count; k++)
            wire_put_bytes(b, buf_bytes(&user->roles[k]));
    }
}

static struct auth_permission *permission_append(struct auth_role *role)
{
    role->permissions = insert(role->permissions, &role->permission_count,
                               sizeof(role->permissions[0]), role->permission_count);
    return &role->permissions[role->permission_count - 1];
}

static void decode_role(struct auth_store *a, struct wire_reader *r)
{
    struct bytes name = wire_get_bytes(r);
    uint32_t count = wire_get_u32(r);
    size_t at = a->role_count;
    struct auth_role *role;

    if (r->bad || position(a->roles, a->role_count, sizeof(a->roles[0]), name) != at) {
        r->bad = true;
        return;
    }
    a->roles = insert(a->roles, &a->role_count, sizeof(a->roles[0]), at);
    role = &a->roles[at];
    buf_append_bytes(&role->name, name);
    for (uint32_t i = 0; i < count && !r->bad; i++) {
        struct auth_permission *p = permission_append(role);

        p->type = (int32_t)wire_get_u32(r);
        buf_append_bytes(&p->key, wire_get_bytes(r));
        buf_append_bytes(&p->range_end, wire_get_bytes(r));
    }
}

static void user_add_role(struct auth_user *user, struct bytes role, size_t at)
{
    user->roles = insert(user->roles, &user->role_count, sizeof(user->roles[0]), at);
    buf_append_bytes(&user->roles[at], role);
}

static void decode_user(struct auth_store *a, struct wire_reader *r)
{
    struct bytes name = wire_get_bytes(r);
    uint8_t flags = wire_get_u8(r);
    struct bytes password = wire_get_bytes(r);
    uint32_t count = wire_get_u32(r);
    size_t at = a->user_count;
    struct auth_user *user;

    if (r->bad || position(a->users, a->user_count, sizeof(a->users[0]), name) != at) {
        r->bad = true;
        return;
    }
    a->users = insert(a->users, &a->user_count, sizeof(a->users[0]), at);
    user = &a->users[at];
    buf_append_bytes(&user->name, name);
    user->no_password = (flags & FLAG_NO_PASSWORD) != 0;
    buf_append_bytes(&user->password, password);
    for (uint32_t i = 0; i < count && !r->bad; i++) {
        struct bytes role = wire_get_bytes(r);
        size_t role_at;

        if (has_role_at(user, role, &role_at) || role_at != user->role_count)
            r->bad = true;
        else if (!r->bad)
            user_add_role(user, role, role_at);
    }
}

int auth_store_decode(struct auth_store *a, struct bytes table)
{
    struct wire_reader r = wire_reader(table);
    struct auth_store read;
    uint32_t count;
    uint8_t flags;

    auth_store_init(&read);
    if (wire_get_u8(&r) != AUTH_TABLE_VERSION)
        r.bad = true;
    flags = wire_get_u8(&r);
    read.enabled = (flags & FLAG_ENABLED) != 0;
    read.has_key = (flags & FLAG_KEY) != 0;
    read.revision = wire_get_u64(&r);
    if (read.has_key)
        wire_take(&r, read.key, sizeof(read.key));
    count = wire_get_u32(&r);
    for (uint32_t i = 0; i < count && !r.bad; i++)
        decode_role(&read, &r);
    count = wire_get_u32(&r);
    for (uint32_t i = 0; i < count && !r.bad; i++)
        decode_user(&read, &r);
    if (wire_reader_done(&r) != 0) {
        auth_store_fini(&read);
        return -EBADMSG;
    }
    auth_store_fini(a);
    *a = read;
    return 0;
}

/* ---- what follows from the roles ---- */

const struct auth_ranges *auth_store_ranges(const struct auth_store *a, struct auth_user *user,
                                            bool writable)
{
    if (user->ranges_known)
        return writable ? &user->writable : &user->readable;
    for (size_t i = 0; i < user->role_count; i++) {
        const struct auth_role *role = auth_store_role(a, buf_bytes(&user->roles[i]));

        for (size_t k = 0; role != NULL && k < role->permission_count; k++) {
            const struct auth_permission *p = &role->permissions[k];

            if (p->type == AUTH_READ || p->type == AUTH_READWRITE)
                auth_ranges_add(&user->readable, buf_bytes(&p->key), buf_bytes(&p->range_end));
            if (p->type == AUTH_WRITE || p->type == AUTH_READWRITE)
                auth_ranges_add(&user->writable, buf_bytes(&p->key), buf_bytes(&p->range_end));
        }
    }
    auth_ranges_merge(&user->readable);
    auth_ranges_merge(&user->writable);
    user->ranges_known = true;
    return writable ? &user->writable : &user->readable;
}

static void changed(struct auth_store *a)
{
    a->revision++;
    for (size_t i = 0; i < a->user_count && !SIM_BUG(AUTH_KEPT_RANGES); i++)
        user_forget_ranges(&a->users[i]);
}

/* ---- on and off ---- */

int auth_store_enable(struct auth_store *a, bool *ret_changed)
{
    const struct auth_user *user = auth_store_user(a, root);

    *ret_changed = false;
    if (a->enabled)
        return OUT_OK;
    if (user == NULL)
        return OUT_ROOT_USER_NOT_EXIST;
    if (!auth_user_is_root(user))
        return OUT_ROOT_ROLE_NOT_EXIST;
    a->enabled = true; /* etcd keeps the revision here */
    *ret_changed = true;
    return OUT_OK;
}

int auth_store_disable(struct auth_store *a, bool *ret_changed)
{
    *ret_changed = a->enabled;
    if (a->enabled) {
        a->enabled = false;
        changed(a);
    }
    return OUT_OK;
}

int auth_store_set_key(struct auth_store *a, struct bytes key)
{
    if (key.len != sizeof(a->key))
        return OUT_MALFORMED;
    if (a->has_key)
        return OUT_INVALID_AUTH_MGMT;
    memcpy(a->key, key.data, sizeof(a->key));
    a->has_key = true;
    return OUT_OK;
}

/* ---- users ---- */

int auth_store_user_add(struct auth_store *a, const struct auth_user_args *args)
{
    size_t at = position(a->users, a->user_count, sizeof(a->users[0]), args->name);
    struct auth_user *user;

    if (args->name.len == 0)
        return OUT_USER_EMPTY;
    if (is_at(a->users, a->user_count, sizeof(a->users[0]), at, args->name))
        return OUT_USER_ALREADY_EXIST;
    a->users = insert(a->users, &a->user_count, sizeof(a->users[0]), at);
    user = &a->users[at];
    buf_append_bytes(&user->name, args->name);
    user->no_password = args->no_password;
    if (!args->no_password)
        buf_append_bytes(&user->password, args->password);
    changed(a);
    return OUT_OK;
}

int auth_store_user_delete(struct auth_store *a, struct bytes name)
{
    size_t at = position(a->users, a->user_count, sizeof(a->users[0]), name);

    if (a->enabled && bytes_eq(name, root))
        return OUT_INVALID_AUTH_MGMT;
    if (!is_at(a->users, a->user_count, sizeof(a->users[0]), at, name))
        return OUT_USER_NOT_FOUND;
    user_fini(&a->users[at]);
    take_out(a->users, &a->user_count, sizeof(a->users[0]), at);
    changed(a);
    return OUT_OK;
}

int auth_store_user_set_password(struct auth_store *a, const struct auth_user_args *args)
{
    struct auth_user *user = auth_store_user(a, args->name);

    if (user == NULL)
        return OUT_USER_NOT_FOUND;
    hash_fini(&user->password);
    if (!user->no_password)
        buf_append_bytes(&user->password, args->password);
    changed(a);
    return OUT_OK;
}

int auth_store_user_grant(struct auth_store *a, struct bytes name, struct bytes role,
                          bool *ret_changed)
{
    struct auth_user *user = auth_store_user(a, name);
    size_t at;

    *ret_changed = false;
    if (user == NULL)
        return OUT_USER_NOT_FOUND;
    if (!bytes_eq(role, root) && auth_store_role(a, role) == NULL)
        return OUT_ROLE_NOT_FOUND;
    if (has_role_at(user, role, &at))
        return OUT_OK;
    user_add_role(user, role, at);
    changed(a);
    *ret_changed = true;
    return OUT_OK;
}

static bool user_drop_role(struct auth_user *user, struct bytes role)
{
    size_t at;

    if (!has_role_at(user, role, &at))
        return false;
    buf_fini(&user->roles[at]);
    take_out(user->roles, &user->role_count, sizeof(user->roles[0]), at);
    return true;
}

int auth_store_user_revoke(struct auth_store *a, struct bytes name, struct bytes role)
{
    struct auth_user *user;

    if (a->enabled && bytes_eq(name, root) && bytes_eq(role, root))
        return OUT_INVALID_AUTH_MGMT;
    user = auth_store_user(a, name);
    if (user == NULL)
        return OUT_USER_NOT_FOUND;
    if (!user_drop_role(user, role))
        return OUT_ROLE_NOT_GRANTED;
    changed(a);
    return OUT_OK;
}

/* ---- roles ---- */

int auth_store_role_add(struct auth_store *a, struct bytes name)
{
    size_t at = position(a->roles, a->role_count, sizeof(a->roles[0]), name);

    if (name.len == 0)
        return OUT_ROLE_EMPTY;
    if (is_at(a->roles, a->role_count, sizeof(a->roles[0]), at, name))
        return OUT_ROLE_ALREADY_EXIST;
    a->roles = insert(a->roles, &a->role_count, sizeof(a->roles[0]), at);
    buf_append_bytes(&a->roles[at].name, name);
    changed(a);
    return OUT_OK;
}

int auth_store_role_delete(struct auth_store *a, struct bytes name)
{
    size_t at = position(a->roles, a->role_count, sizeof(a->roles[0]), name);

    if (a->enabled && bytes_eq(name, root))
        return OUT_INVALID_AUTH_MGMT;
    if (!is_at(a->roles, a->role_count, sizeof(a->roles[0]), at, name))
        return OUT_ROLE_NOT_FOUND;
    role_fini(&a->roles[at]);
    take_out(a->roles, &a->role_count, sizeof(a->roles[0]), at);
    for (size_t i = 0; i < a->user_count; i++)
        user_drop_role(&a->users[i], name);
    changed(a);
    return OUT_OK;
}

static bool is_valid_range(struct bytes key, struct bytes range_end)
{
    if (key.len == 0)
        return false;
    return range_end.len == 0 || (range_end.len == 1 && range_end.data[0] == 0) ||
           bytes_cmp(key, range_end) < 0;
}

static bool find_permission(const struct auth_role *role, const struct auth_permission_args *args,
                            size_t *ret_at)
{
    for (size_t i = 0; i < role->permission_count; i++) {
        if (bytes_eq(buf_bytes(&role->permissions[i].key), args->key) &&
            bytes_eq(buf_bytes(&role->permissions[i].range_end), args->range_end)) {
            *ret_at = i;
            return true;
        }
    }
    return false;
}

int auth_store_role_grant(struct auth_store *a, const struct auth_permission_args *args)
{
    struct auth_permission *p;
    struct auth_role *role;
    size_t at = 0;

    if (!args->given)
        return OUT_PERMISSION_NOT_GIVEN;
    if (!is_valid_range(args->key, args->range_end))
        return OUT_INVALID_AUTH_MGMT;
    role = auth_store_role(a, args->role);
    if (role == NULL)
        return OUT_ROLE_NOT_FOUND;
    if (!find_permission(role, args, &at)) {
        at = 0; /* behind those of the same key */
        while (at < role->permission_count &&
               bytes_cmp(buf_bytes(&role->permissions[at].key), args->key) <= 0)
            at++;
        role->permissions =
            insert(role->permissions, &role->permission_count, sizeof(role->permissions[0]), at);
        p = &role->permissions[at];
        buf_append_bytes(&p->key, args->key);
        buf_append_bytes(&p->range_end, args->range_end);
    }
    role->permissions[at].type = args->type;
    changed(a);
    return OUT_OK;
}

int auth_store_role_revoke(struct auth_store *a, const struct auth_permission_args *args)
{
    struct auth_role *role = auth_store_role(a, args->role);
    size_t at = 0;

    if (role == NULL)
        return OUT_ROLE_NOT_FOUND;
    if (!find_permission(role, args, &at))
        return OUT_PERMISSION_NOT_GRANTED;
    permission_fini(&role->permissions[at]);
    take_out(role->permissions, &role->permission_count, sizeof(role->permissions[0]), at);
    changed(a);
    return OUT_OK;
}
