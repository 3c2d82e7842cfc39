#include <criterion/criterion.h>

#include "lib/proto/kv_check.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/prng.h"
#include "stored/auth/auth_check.h"
#include "stored/auth/auth_stamp.h"
#include "stored/auth/auth_store.h"
#include "stored/auth/auth_tokens.h"

static struct auth_store a;

static void setup(void)
{
    auth_store_init(&a);
}

static void teardown(void)
{
    auth_store_fini(&a);
}

static int add_user(const char *name)
{
    return auth_store_user_add(&a, &(struct auth_user_args){.name = bytes_str(name),
                                                            .password = BYTES_LIT("hash")});
}

static int grant_role(const char *user, const char *role)
{
    bool changed;

    return auth_store_user_grant(&a, bytes_str(user), bytes_str(role), &changed);
}

static int grant(const char *role, int type, struct bytes key, struct bytes range_end)
{
    return auth_store_role_grant(&a, &(struct auth_permission_args){.role = bytes_str(role),
                                                                    .given = true,
                                                                    .type = type,
                                                                    .key = key,
                                                                    .range_end = range_end});
}

static int revoke_permission(const char *role, struct bytes key, struct bytes range_end)
{
    return auth_store_role_revoke(&a, &(struct auth_permission_args){.role = bytes_str(role),
                                                                     .key = key,
                                                                     .range_end = range_end});
}

#define B(s) BYTES_LIT(s)

/* root; alice reads and writes [a, b), reads x; carl reads [a, b); dora writes [a, b); nob: nothing */
static void fill(void)
{
    bool changed;

    cr_assert_eq(add_user("root"), OUT_OK);
    cr_assert_eq(grant_role("root", "root"), OUT_OK);
    for (const char *const *name = (const char *const[]){"alice", "carl", "dora", "nob", NULL};
         *name != NULL; name++)
        cr_assert_eq(add_user(*name), OUT_OK);
    for (const char *const *name = (const char *const[]){"rw", "ro", "wo", NULL}; *name != NULL;
         name++)
        cr_assert_eq(auth_store_role_add(&a, bytes_str(*name)), OUT_OK);
    cr_assert_eq(grant("rw", AUTH_READWRITE, B("a"), B("b")), OUT_OK);
    cr_assert_eq(grant("rw", AUTH_READ, B("x"), BYTES_EMPTY), OUT_OK);
    cr_assert_eq(grant("ro", AUTH_READ, B("a"), B("b")), OUT_OK);
    cr_assert_eq(grant("wo", AUTH_WRITE, B("a"), B("b")), OUT_OK);
    cr_assert_eq(grant_role("alice", "rw"), OUT_OK);
    cr_assert_eq(grant_role("carl", "ro"), OUT_OK);
    cr_assert_eq(grant_role("dora", "wo"), OUT_OK);
    cr_assert_eq(auth_store_enable(&a, &changed), OUT_OK);
    cr_assert(changed);
}

static struct auth_identity who(const char *name)
{
    return (struct auth_identity){bytes_str(name), a.revision};
}

TestSuite(auth_store, .init = setup, .fini = teardown);

Test(auth_store, enabling_needs_root)
{
    bool changed;
    uint64_t revision;

    cr_expect_eq(auth_store_enable(&a, &changed), OUT_ROOT_USER_NOT_EXIST);
    add_user("root");
    cr_expect_eq(auth_store_enable(&a, &changed), OUT_ROOT_ROLE_NOT_EXIST);
    cr_expect_eq(grant_role("root", "root"), OUT_OK, "the role need not exist");
    revision = a.revision;
    cr_expect_eq(auth_store_enable(&a, &changed), OUT_OK);
    cr_expect(changed && a.enabled && a.revision == revision);
    cr_expect_eq(auth_store_enable(&a, &changed), OUT_OK);
    cr_expect(!changed);
    cr_expect_eq(auth_store_user_delete(&a, B("root")), OUT_INVALID_AUTH_MGMT);
    cr_expect_eq(auth_store_role_delete(&a, B("root")), OUT_INVALID_AUTH_MGMT);
    cr_expect_eq(auth_store_user_revoke(&a, B("root"), B("root")), OUT_INVALID_AUTH_MGMT);
    cr_expect_eq(a.revision, revision, "what is refused changes nothing");
    cr_expect_eq(auth_store_disable(&a, &changed), OUT_OK);
    cr_expect(changed && a.revision == revision + 1);
    cr_expect_eq(auth_store_user_revoke(&a, B("root"), B("root")), OUT_OK);
    cr_expect_eq(auth_store_user_delete(&a, B("root")), OUT_OK);
}

Test(auth_store, users_and_roles_refuse_as_etcd_does)
{
    bool changed;

    cr_expect_eq(add_user(""), OUT_USER_EMPTY);
    cr_expect_eq(add_user("u"), OUT_OK);
    cr_expect_eq(add_user("u"), OUT_USER_ALREADY_EXIST);
    cr_expect_eq(auth_store_user_delete(&a, B("v")), OUT_USER_NOT_FOUND);
    cr_expect_eq(auth_store_user_set_password(&a, &(struct auth_user_args){.name = B("v")}),
                 OUT_USER_NOT_FOUND);
    cr_expect_eq(auth_store_role_add(&a, BYTES_EMPTY), OUT_ROLE_EMPTY);
    cr_expect_eq(auth_store_role_add(&a, B("r")), OUT_OK);
    cr_expect_eq(auth_store_role_add(&a, B("r")), OUT_ROLE_ALREADY_EXIST);
    cr_expect_eq(auth_store_role_delete(&a, B("s")), OUT_ROLE_NOT_FOUND);
    cr_expect_eq(grant_role("v", "r"), OUT_USER_NOT_FOUND);
    cr_expect_eq(grant_role("u", "s"), OUT_ROLE_NOT_FOUND);
    cr_expect_eq(grant_role("u", "r"), OUT_OK);
    cr_expect_eq(auth_store_user_grant(&a, B("u"), B("r"), &changed), OUT_OK);
    cr_expect_not(changed);
    cr_expect_eq(auth_store_user_revoke(&a, B("v"), B("r")), OUT_USER_NOT_FOUND);
    cr_expect_eq(auth_store_user_revoke(&a, B("u"), B("s")), OUT_ROLE_NOT_GRANTED);
    cr_expect_eq(grant("s", AUTH_READ, B("k"), BYTES_EMPTY), OUT_ROLE_NOT_FOUND);
    cr_expect_eq(auth_store_role_grant(&a, &(struct auth_permission_args){.role = B("r")}),
                 OUT_PERMISSION_NOT_GIVEN);
    cr_expect_eq(grant("r", AUTH_READ, BYTES_EMPTY, BYTES_EMPTY), OUT_INVALID_AUTH_MGMT);
    cr_expect_eq(grant("r", AUTH_READ, B("k"), B("k")), OUT_INVALID_AUTH_MGMT);
    cr_expect_eq(grant("r", AUTH_READ, B("k"), B("a")), OUT_INVALID_AUTH_MGMT);
    cr_expect_eq(grant("r", AUTH_READ, B("k"), B("\0")), OUT_OK);
    cr_expect_eq(grant("r", AUTH_READ, B("k"), BYTES_EMPTY), OUT_OK);
    cr_expect_eq(grant("r", AUTH_WRITE, B("k"), BYTES_EMPTY), OUT_OK);
    cr_expect_eq(auth_store_role(&a, B("r"))->permission_count, 2, "the type was replaced");
    cr_expect_eq(revoke_permission("r", B("k"), B("l")), OUT_PERMISSION_NOT_GRANTED);
    cr_expect_eq(revoke_permission("s", B("k"), BYTES_EMPTY), OUT_ROLE_NOT_FOUND);
    cr_expect_eq(revoke_permission("r", B("k"), BYTES_EMPTY), OUT_OK);
    cr_expect_eq(auth_store_role_delete(&a, B("r")), OUT_OK);
    cr_expect_eq(auth_store_user(&a, B("u"))->role_count, 0, "a deleted role leaves its users");
}

Test(auth_store, survives_its_encoding)
{
    CLEANUP(buf_fini) struct buf once = BUF_INIT;
    CLEANUP(buf_fini) struct buf twice = BUF_INIT;
    struct auth_store read;

    fill();
    cr_assert_eq(auth_store_set_key(&a, bytes_of((uint8_t[AUTH_KEY_BYTES]){1}, AUTH_KEY_BYTES)),
                 OUT_OK);
    auth_store_encode(&a, &once);
    auth_store_init(&read);
    cr_assert_eq(auth_store_decode(&read, buf_bytes(&once)), 0);
    auth_store_encode(&read, &twice);
    cr_expect(bytes_eq(buf_bytes(&once), buf_bytes(&twice)));
    for (size_t len = 0; len < once.len; len++)
        cr_assert_neq(auth_store_decode(&read, bytes_of(once.data, len)), 0, "cut at %zu", len);
    buf_append_u8(&once, 0);
    cr_expect_neq(auth_store_decode(&read, buf_bytes(&once)), 0);
    buf_clear(&twice);
    auth_store_encode(&read, &twice);
    cr_expect_eq(twice.len, once.len - 1, "what does not decode changes nothing");
    auth_store_fini(&read);
}

Test(auth_store, the_decision)
{
    static const struct {
        const char *user;
        enum auth_op_type type;
        struct bytes key, range_end;
        int outcome;
    } rows[] = {
        {"", AUTH_OP_USER, {0}, {0}, OUT_USER_EMPTY},
        {"", AUTH_OP_READ, {0}, {0}, OUT_USER_EMPTY},
        {"", AUTH_OP_REFUSED, {0}, {0}, OUT_USER_EMPTY},
        {"ghost", AUTH_OP_USER, {0}, {0}, OUT_PERMISSION_DENIED},
        {"nob", AUTH_OP_USER, {0}, {0}, OUT_OK},
        {"nob", AUTH_OP_ROOT, {0}, {0}, OUT_PERMISSION_DENIED},
        {"root", AUTH_OP_ROOT, {0}, {0}, OUT_OK},
        {"root", AUTH_OP_REFUSED, {0}, {0}, OUT_PERMISSION_DENIED},
        {"root", AUTH_OP_WRITE, B("any"), B("\0"), OUT_OK},
        {"nob", AUTH_OP_READ, B("a"), {0}, OUT_PERMISSION_DENIED},
        {"carl", AUTH_OP_READ, B("a"), {0}, OUT_OK},
        {"carl", AUTH_OP_READ, B("a"), B("b"), OUT_OK},
        {"carl", AUTH_OP_READ, B("a"), B("c"), OUT_PERMISSION_DENIED},
        {"carl", AUTH_OP_READ, B("a"), B("\0"), OUT_PERMISSION_DENIED},
        {"carl", AUTH_OP_WRITE, B("a"), {0}, OUT_PERMISSION_DENIED},
        {"dora", AUTH_OP_WRITE, B("a"), {0}, OUT_OK},
        {"dora", AUTH_OP_READ, B("a"), {0}, OUT_PERMISSION_DENIED},
        {"alice", AUTH_OP_READ, B("x"), {0}, OUT_OK},
        {"alice", AUTH_OP_WRITE, B("x"), {0}, OUT_PERMISSION_DENIED},
    };

    fill();
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct auth_identity identity = who(rows[i].user);

        cr_expect_eq(auth_check(&a, &identity,
                                &(struct auth_op){rows[i].type, rows[i].key, rows[i].range_end}),
                     rows[i].outcome, "row %zu", i);
    }
}

Test(auth_store, an_identity_from_before_a_change_is_old)
{
    struct auth_identity alice, root;
    bool changed;

    fill();
    alice = who("alice");
    root = who("root");
    cr_assert_eq(auth_store_user_revoke(&a, B("alice"), B("rw")), OUT_OK);
    cr_expect_eq(auth_check(&a, &alice, &(struct auth_op){AUTH_OP_READ, B("a"), BYTES_EMPTY}),
                 OUT_AUTH_OLD_REVISION);
    cr_expect_eq(auth_check(&a, &root, &(struct auth_op){AUTH_OP_READ, B("a"), BYTES_EMPTY}),
                 OUT_AUTH_OLD_REVISION);
    cr_expect_eq(auth_check(&a, &root, &(struct auth_op){.type = AUTH_OP_ROOT}), OUT_OK,
                 "as etcd: only keys ask for the revision");
    alice = who("alice");
    cr_expect_eq(auth_check(&a, &alice, &(struct auth_op){AUTH_OP_READ, B("a"), BYTES_EMPTY}),
                 OUT_PERMISSION_DENIED);
    auth_store_disable(&a, &changed);
    cr_expect_eq(auth_check(&a, &(struct auth_identity){0},
                            &(struct auth_op){.type = AUTH_OP_REFUSED}),
                 OUT_OK, "off means open");
}

/* ---- requests ---- */

static struct bytes lease_key = BYTES_EMPTY; /* what hangs on lease 7 */

static void each_key(const void *user, int64_t lease, bool (*visit)(void *visitor, struct bytes key),
                     void *visitor)
{
    if (lease == 7)
        visit(visitor, lease_key);
}

static const struct auth_lease_keys leases = {.each = each_key};

Test(auth_store, a_put_needs_what_it_shows_and_what_hangs_on_its_lease)
{
    struct auth_identity alice, dora;
    struct kv_put_request m = {.key = B("a")};

    fill();
    alice = who("alice");
    dora = who("dora");
    cr_expect_eq(auth_check_put(&a, &dora, &m, &leases), OUT_OK);
    m.prev_kv = true;
    cr_expect_eq(auth_check_put(&a, &dora, &m, &leases), OUT_PERMISSION_DENIED);
    cr_expect_eq(auth_check_put(&a, &alice, &m, &leases), OUT_OK);
    m.lease = 7;
    lease_key = B("a2");
    cr_expect_eq(auth_check_put(&a, &alice, &m, &leases), OUT_OK);
    lease_key = B("x");
    cr_expect_eq(auth_check_put(&a, &alice, &m, &leases), OUT_PERMISSION_DENIED);
    cr_expect_eq(auth_check_lease(&a, &alice, 7, AUTH_OP_READ, &leases), OUT_OK);
    cr_expect_eq(auth_check_lease(&a, &alice, 7, AUTH_OP_WRITE, &leases), OUT_PERMISSION_DENIED);
    cr_expect_eq(auth_check_lease(&a, &(struct auth_identity){0}, 8, AUTH_OP_READ, &leases),
                 OUT_USER_EMPTY);
}

Test(auth_store, a_delete_that_shows_what_it_deletes_reads)
{
    struct auth_identity dora;

    fill();
    dora = who("dora");
    cr_expect_eq(auth_check_delete(&a, &dora,
                                   &(struct kv_delete_request){.key = B("a"), .range_end = B("b")}),
                 OUT_OK);
    cr_expect_eq(auth_check_delete(&a, &dora,
                                   &(struct kv_delete_request){
                                       .key = B("a"), .range_end = B("b"), .prev_kv = true}),
                 OUT_PERMISSION_DENIED);
    cr_expect_eq(auth_check_delete(&a, &dora,
                                   &(struct kv_delete_request){.key = B("a"), .range_end = B("c")}),
                 OUT_PERMISSION_DENIED);
}

Test(auth_store, a_txn_needs_every_part_of_both_branches)
{
    struct kv_compare compare = {.key = B("a")};
    struct kv_op put_a = {.type = KV_OP_PUT, .put = {.key = B("a")}};
    struct kv_op get_x = {.type = KV_OP_RANGE, .range = {.key = B("x")}};
    struct kv_op get_z = {.type = KV_OP_RANGE, .range = {.key = B("z")}};
    struct kv_txn_request inner = {.failure = &get_z, .failure_count = 1};
    struct kv_op nested = {.type = KV_OP_TXN, .txn = &inner};
    struct kv_op none = {.type = KV_OP_NONE};
    struct auth_identity alice, nobody = {0};
    struct kv_txn_request m = {.compares = &compare, .compare_count = 1};

    fill();
    alice = who("alice");
    cr_expect_eq(auth_check_txn(&a, &nobody, &(struct kv_txn_request){0}, &leases), OUT_USER_EMPTY,
                 "an empty one too");
    cr_expect_eq(auth_check_txn(&a, &alice, &m, &leases), OUT_OK);
    m.success = &put_a;
    m.failure = &get_x;
    m.success_count = m.failure_count = 1;
    cr_expect_eq(auth_check_txn(&a, &alice, &m, &leases), OUT_OK);
    m.failure = &get_z;
    cr_expect_eq(auth_check_txn(&a, &alice, &m, &leases), OUT_PERMISSION_DENIED);
    m.failure = &nested;
    cr_expect_eq(auth_check_txn(&a, &alice, &m, &leases), OUT_PERMISSION_DENIED);
    inner.failure = &get_x;
    cr_expect_eq(auth_check_txn(&a, &alice, &m, &leases), OUT_OK);
    m.failure = &none;
    cr_expect_eq(auth_check_txn(&a, &alice, &m, &leases), OUT_PERMISSION_DENIED);
    m.failure_count = 0;
    compare.key = B("z");
    cr_expect_eq(auth_check_txn(&a, &alice, &m, &leases), OUT_PERMISSION_DENIED);
    compare = (struct kv_compare){.key = B("a"), .range_end = B("c")};
    cr_expect_eq(auth_check_txn(&a, &alice, &m, &leases), OUT_PERMISSION_DENIED);
}

/* ---- stamps ---- */

Test(auth_store, a_stamp_cannot_be_made_or_changed_by_others)
{
    static struct auth_stamps known;
    CLEANUP(buf_fini) struct buf stamp = BUF_INIT;
    struct auth_identity identity = {B("alice"), 9}, read;

    cr_expect_not(auth_stamp_verify(&known, &a, B("anything at all, no key yet......"), &read));
    auth_store_set_key(&a, bytes_of((uint8_t[AUTH_KEY_BYTES]){3}, AUTH_KEY_BYTES));
    cr_expect_eq(auth_store_set_key(&a, bytes_of((uint8_t[AUTH_KEY_BYTES]){4}, AUTH_KEY_BYTES)),
                 OUT_INVALID_AUTH_MGMT, "a key is set once");
    auth_stamp_encode(&stamp, &a, &identity);
    for (int twice = 0; twice < 2; twice++) {
        cr_assert(auth_stamp_verify(&known, &a, buf_bytes(&stamp), &read));
        cr_expect(bytes_eq(read.name, identity.name) && read.revision == 9);
    }
    for (size_t i = 0; i < stamp.len; i++) {
        stamp.data[i] ^= 1;
        cr_expect_not(auth_stamp_verify(&known, &a, buf_bytes(&stamp), &read), "byte %zu", i);
        stamp.data[i] ^= 1;
        cr_expect_not(auth_stamp_verify(&known, &a, bytes_of(stamp.data, i), &read) && i > 0);
    }
    a.key[0] ^= 1; /* another cluster's */
    cr_expect_not(auth_stamp_verify(&known, &a, buf_bytes(&stamp), &read),
                  "what was known by the old key is forgotten");
    cr_expect(auth_stamp_verify(&known, &a, BYTES_EMPTY, &read));
    cr_expect_eq(read.name.len, 0);
    auth_stamps_fini(&known);
}

/* ---- simple tokens ---- */

/* SHA-256 of "abc" */
static const uint8_t abc[AUTH_TOKEN_DIGEST_BYTES] = {
    0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23,
    0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};

Test(auth_store, a_token_lives_while_it_is_used)
{
    struct auth_tokens t;
    struct bytes user;

    auth_tokens_init(&t, 1000);
    auth_tokens_set_clock(&t, 5000);
    auth_tokens_add(&t, abc, 42, B("alice"));
    cr_assert(auth_tokens_find(&t, B("abc.42"), &user));
    cr_expect(bytes_eq(user, B("alice")));
    for (const char *const *wrong =
             (const char *const[]){"abc.43", "abd.42", "abc", "abc.", ".42", "", "abc.42x",
                                   "abc.99999999999999999999999", "abc.-1", NULL};
         *wrong != NULL; wrong++)
        cr_expect_not(auth_tokens_find(&t, bytes_str(*wrong), &user), "%s", *wrong);
    auth_tokens_set_clock(&t, 5999);
    cr_expect(auth_tokens_find(&t, B("abc.42"), &user), "a use counts");
    auth_tokens_set_clock(&t, 6998);
    cr_expect(auth_tokens_find(&t, B("abc.42"), &user));
    auth_tokens_set_clock(&t, 7998);
    cr_expect_not(auth_tokens_find(&t, B("abc.42"), &user), "its time is over");
    auth_tokens_add(&t, abc, 43, B("alice"));
    auth_tokens_add(&t, abc, 44, B("bob"));
    cr_expect_not(auth_tokens_find(&t, B("abc.43"), &user), "replaced");
    auth_tokens_drop_user(&t, B("alice"));
    cr_expect(auth_tokens_find(&t, B("abc.44"), &user));
    auth_tokens_drop_user(&t, B("bob"));
    cr_expect_not(auth_tokens_find(&t, B("abc.44"), &user));
    auth_tokens_fini(&t);
}
