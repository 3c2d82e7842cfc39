/* Auth as state, and that nothing passes by it: every kind of entry and read, for everybody. */
#include <criterion/criterion.h>

#include "lib/util/macros.h"
#include "lib/util/sha256.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "stored/engine/engine_mem.h"
#include "stored/kv/kv_auth.h"
#include "tests/unit/kv_harness.h"

#define B(s) BYTES_LIT(s)

static struct harness h;

static int apply(enum proto_kind kind, struct bytes first, struct bytes second, struct bytes fourth)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;

    pb_put_bytes(&body, 1, first);
    pb_put_bytes(&body, 2, second);
    pb_put_bytes(&body, 4, fourth);
    return harness_apply(&h, kind, buf_bytes(&body));
}

static int allow(struct bytes role, uint64_t type, struct bytes key, struct bytes range_end)
{
    CLEANUP(buf_fini) struct buf permission = BUF_INIT;
    CLEANUP(buf_fini) struct buf body = BUF_INIT;

    pb_put_u64(&permission, 1, type);
    pb_put_bytes(&permission, 2, key);
    pb_put_bytes(&permission, 3, range_end);
    pb_put_bytes(&body, 1, role);
    pb_put_message(&body, 2, buf_bytes(&permission));
    return harness_apply(&h, PROTO_KIND_ROLE_GRANT_PERMISSION, buf_bytes(&body));
}

/* root, and alice who reads and writes [a, b); auth is on. */
static void setup(void)
{
    static const uint8_t key[AUTH_KEY_BYTES] = {1, 2, 3};

    harness_init(&h, false);
    cr_assert_not(kv_auth_needs_key(h.kv));
    cr_assert_eq(apply(PROTO_KIND_USER_ADD, B("root"), BYTES_EMPTY, B("hash")), OUT_OK);
    cr_assert(kv_auth_needs_key(h.kv));
    cr_assert_eq(harness_apply(&h, PROTO_KIND_AUTH_KEY, bytes_of(key, sizeof(key))), OUT_OK);
    cr_assert_eq(harness_apply(&h, PROTO_KIND_AUTH_KEY, bytes_of(key, sizeof(key))),
                 OUT_INVALID_AUTH_MGMT);
    cr_assert_not(kv_auth_needs_key(h.kv));
    cr_assert_eq(apply(PROTO_KIND_USER_GRANT_ROLE, B("root"), B("root"), BYTES_EMPTY), OUT_OK);
    cr_assert_eq(apply(PROTO_KIND_USER_ADD, B("alice"), BYTES_EMPTY, B("hash")), OUT_OK);
    cr_assert_eq(apply(PROTO_KIND_ROLE_ADD, B("r"), BYTES_EMPTY, BYTES_EMPTY), OUT_OK);
    cr_assert_eq(allow(B("r"), AUTH_READWRITE, B("a"), B("b")), OUT_OK);
    cr_assert_eq(apply(PROTO_KIND_USER_GRANT_ROLE, B("alice"), B("r"), BYTES_EMPTY), OUT_OK);
    cr_assert_eq(harness_put(&h, "a1", "v"), OUT_OK);
    cr_assert_eq(harness_put(&h, "z", "v"), OUT_OK);
    cr_assert_eq(harness_apply(&h, PROTO_KIND_AUTH_ENABLE, BYTES_EMPTY), OUT_OK);
    h.origin_generation = 7; /* from now on a gatewayd asks */
}

static void teardown(void)
{
    harness_fini(&h);
}

static struct buf stamp_of(struct bytes name)
{
    struct buf stamp = BUF_INIT;

    cr_assert_eq(kv_auth_make_stamp(h.kv,
                                    &(struct auth_identity){name, kv_auth_store(h.kv)->revision},
                                    &stamp),
                 OUT_OK);
    return stamp;
}

TestSuite(kv_auth, .init = setup, .fini = teardown);

Test(kv_auth, without_an_identity_nothing_is_executed)
{
    CLEANUP(buf_fini) struct buf before = BUF_INIT;
    CLEANUP(buf_fini) struct buf after = BUF_INIT;
    struct kv_state state, then;

    auth_store_encode(kv_auth_store(h.kv), &before);
    kv_get_state(h.kv, &state);
    for (int kind = PROTO_KIND_PUT; kind <= PROTO_KIND_MAX; kind++) {
        if (kind == PROTO_KIND_CONF_CHANGE)
            continue; /* raft has carried it out already: asked before it is proposed */
        cr_expect_eq(harness_apply(&h, (enum proto_kind)kind, BYTES_EMPTY), OUT_USER_EMPTY,
                     "kind %d", kind);
    }
    auth_store_encode(kv_auth_store(h.kv), &after);
    kv_get_state(h.kv, &then);
    cr_expect(bytes_eq(buf_bytes(&before), buf_bytes(&after)));
    cr_expect_eq(state.revision, then.revision);
}

Test(kv_auth, a_kind_nobody_thought_of_is_refused_to_root_too)
{
    static const enum proto_kind internal[] = {
        PROTO_KIND_MEMBER_ATTR, PROTO_KIND_CLUSTER_VERSION, PROTO_KIND_LEASE_KEEPER,
        PROTO_KIND_LEASE_CLOCK, PROTO_KIND_LEASE_EXPIRE,    PROTO_KIND_AUTH_KEY,
        (enum proto_kind)60,    (enum proto_kind)61,        (enum proto_kind)62};
    CLEANUP(buf_fini) struct buf root = stamp_of(B("root"));

    h.identity = buf_bytes(&root);
    for (size_t i = 0; i < ARRAY_LEN(internal); i++)
        cr_expect_eq(harness_apply(&h, internal[i], BYTES_EMPTY), OUT_PERMISSION_DENIED, "kind %d",
                     (int)internal[i]);
    for (int kind = 61; kind <= PROTO_READ_MAX; kind++)
        cr_expect_eq(kv_auth_admit_read(h.kv, (enum proto_read_kind)kind, h.identity, BYTES_EMPTY),
                     OUT_PERMISSION_DENIED, "read %d", kind);
}

Test(kv_auth, reads_need_an_identity_but_for_those_that_tell_nothing)
{
    static const enum proto_read_kind open[] = {
        PROTO_READ_MEMBERS,       PROTO_READ_ALARMS,     PROTO_READ_STATUS,
        PROTO_READ_AUTH_IDENTITY, PROTO_READ_AUTH_LOGIN, PROTO_READ_METRICS, PROTO_READ_ADMIT,
    };
    struct kv_header header = harness_header;

    for (int kind = PROTO_READ_RANGE; kind <= PROTO_READ_MAX; kind++) {
        int outcome =
            kv_auth_admit_read(h.kv, (enum proto_read_kind)kind, BYTES_EMPTY, BYTES_EMPTY);
        bool is_open = false;

        for (size_t i = 0; i < ARRAY_LEN(open); i++)
            is_open = is_open || (int)open[i] == kind;
        if (kind == PROTO_READ_USER_GET || kind == PROTO_READ_ROLE_GET) {
            buf_clear(&h.answer); /* decided with the answer: one may ask about oneself */
            outcome = kv_auth_read(h.kv, (enum proto_read_kind)kind, BYTES_EMPTY, BYTES_EMPTY,
                                   &header, &h.answer);
        }
        cr_expect_eq(outcome, is_open ? OUT_OK : OUT_USER_EMPTY, "read %d", kind);
    }
}

Test(kv_auth, a_stamp_that_is_not_ours_is_none)
{
    CLEANUP(buf_fini) struct buf root = stamp_of(B("root"));

    h.identity = buf_bytes(&root);
    cr_expect_eq(harness_put(&h, "k", "v"), OUT_OK);
    root.data[root.len - 1] ^= 1;
    cr_expect_eq(harness_put(&h, "k", "v"), OUT_INVALID_AUTH_TOKEN);
    h.identity = B("root");
    cr_expect_eq(harness_put(&h, "k", "v"), OUT_INVALID_AUTH_TOKEN);
}

Test(kv_auth, entries_are_executed_within_the_rights_of_the_moment)
{
    CLEANUP(buf_fini) struct buf alice = stamp_of(B("alice"));
    CLEANUP(buf_fini) struct buf root = stamp_of(B("root"));

    h.identity = buf_bytes(&alice);
    cr_expect_eq(harness_put(&h, "a2", "v"), OUT_OK);
    cr_expect_eq(harness_put(&h, "z", "v"), OUT_PERMISSION_DENIED);
    cr_expect_eq(harness_delete(&h, "a", "b"), OUT_OK);
    cr_expect_eq(harness_delete(&h, "a", "c"), OUT_PERMISSION_DENIED);
    cr_expect_eq(harness_compact(&h, 2), OUT_PERMISSION_DENIED);
    cr_expect_eq(apply(PROTO_KIND_USER_DELETE, B("alice"), BYTES_EMPTY, BYTES_EMPTY),
                 OUT_PERMISSION_DENIED);
    h.identity = buf_bytes(&root);
    cr_expect_eq(apply(PROTO_KIND_ROLE_DELETE, B("r"), BYTES_EMPTY, BYTES_EMPTY), OUT_OK);
    h.identity = buf_bytes(&alice); /* was on its way when that happened */
    cr_expect_eq(harness_put(&h, "a2", "v"), OUT_AUTH_OLD_REVISION);
    buf_fini(&alice);
    alice = stamp_of(B("alice"));
    h.identity = buf_bytes(&alice);
    cr_expect_eq(harness_put(&h, "a2", "v"), OUT_PERMISSION_DENIED);
}

Test(kv_auth, a_token_is_for_who_logged_in_and_ends_with_the_password)
{
    static const uint8_t letters[] = "abcdefghijklmnop";
    CLEANUP(buf_fini) struct buf alice = stamp_of(B("alice"));
    CLEANUP(buf_fini) struct buf root = stamp_of(B("root"));
    CLEANUP(freep) char *token = NULL; /* once its index is known */
    uint8_t digest[SHA256_BYTES];
    struct bytes user;

    sha256_of(bytes_of(letters, 16), digest);
    h.identity = buf_bytes(&alice);
    cr_expect_eq(harness_apply(&h, PROTO_KIND_AUTH_TOKEN, B("too short")), OUT_MALFORMED);
    cr_assert_eq(harness_apply(&h, PROTO_KIND_AUTH_TOKEN, bytes_of(digest, sizeof(digest))),
                 OUT_OK);
    token = xasprintf("%s.%d", letters, (int)h.index);
    kv_auth_tokens(h.kv)->ttl_ms = 1000;
    cr_assert(auth_tokens_find(kv_auth_tokens(h.kv), bytes_str(token), &user));
    cr_expect(bytes_eq(user, B("alice")));
    h.identity = buf_bytes(&root);
    cr_assert_eq(apply(PROTO_KIND_USER_CHANGE_PASSWORD, B("alice"), BYTES_EMPTY, BYTES_EMPTY),
                 OUT_OK);
    cr_expect_not(auth_tokens_find(kv_auth_tokens(h.kv), bytes_str(token), &user));
    h.identity = buf_bytes(&alice); /* its password was right at an older revision */
    cr_expect_eq(harness_apply(&h, PROTO_KIND_AUTH_TOKEN, bytes_of(digest, sizeof(digest))),
                 OUT_AUTH_OLD_REVISION);
    h.identity = buf_bytes(&root);
    cr_assert_eq(harness_apply(&h, PROTO_KIND_AUTH_DISABLE, BYTES_EMPTY), OUT_OK);
    cr_expect_eq(harness_apply(&h, PROTO_KIND_AUTH_TOKEN, bytes_of(digest, sizeof(digest))),
                 OUT_AUTH_NOT_ENABLED);
    h.identity = BYTES_EMPTY;
    cr_expect_eq(harness_put(&h, "z", "v"), OUT_OK, "off means open");
}

/* ---- state ---- */

static void expect_table(const struct kv *kv, struct bytes want, const char *after)
{
    CLEANUP(buf_fini) struct buf table = BUF_INIT;

    auth_store_encode(kv_auth_store(kv), &table);
    cr_expect(bytes_eq(buf_bytes(&table), want), "%s", after);
}

Test(kv_auth, survives_restarts_with_and_without_a_checkpoint)
{
    CLEANUP(buf_fini) struct buf table = BUF_INIT;
    CLEANUP(buf_fini) struct buf root = stamp_of(B("root"));

    auth_store_encode(kv_auth_store(h.kv), &table);
    harness_close(&h);
    engine_mem_kill(h.engine);
    cr_assert_eq(harness_open(&h), 0);
    expect_table(h.kv, buf_bytes(&table), "without");
    harness_checkpoint(&h);
    harness_close(&h);
    engine_mem_kill(h.engine);
    cr_assert_eq(harness_open(&h), 0);
    expect_table(h.kv, buf_bytes(&table), "with");
    h.identity = buf_bytes(&root);
    cr_assert_eq(apply(PROTO_KIND_USER_DELETE, B("alice"), BYTES_EMPTY, BYTES_EMPTY), OUT_OK);
    buf_clear(&table);
    auth_store_encode(kv_auth_store(h.kv), &table);
    harness_close(&h);
    engine_mem_kill(h.engine);
    cr_assert_eq(harness_open(&h), 0);
    expect_table(h.kv, buf_bytes(&table), "changed after the checkpoint");
}

Test(kv_auth, travels_with_a_snapshot)
{
    CLEANUP(buf_fini) struct buf table = BUF_INIT;
    CLEANUP(buf_fini) struct buf stream = BUF_INIT;
    struct engine_mem *engine = engine_mem_new(false);
    struct kv_restore *restore = kv_restore_new(engine_mem_kv(engine));
    struct kv_args args = {.engine = engine_mem_kv(engine)};
    CLEANUP(freep) char *error = NULL;
    CLEANUP(freep) char *warning = NULL;
    struct kv_snapshot_meta meta;
    struct kv_snapshot *s = kv_snapshot_new(h.kv, &meta);
    struct kv *kv;

    auth_store_encode(kv_auth_store(h.kv), &table);
    cr_assert(kv_snapshot_ready(s));
    while (kv_snapshot_step(s, 1000, &stream) == 1)
        ;
    kv_snapshot_free(s);
    cr_assert_eq(kv_restore_feed(restore, buf_bytes(&stream)), 0);
    cr_assert_eq(kv_restore_finish(restore, &meta), 0);
    kv_restore_free(restore);
    cr_assert_eq(kv_open(&args, &kv, &error, &warning), 0);
    expect_table(kv, buf_bytes(&table), "snapshot");
    kv_free(kv);
    engine_mem_free(engine);
}
