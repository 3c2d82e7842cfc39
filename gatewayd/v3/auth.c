/*
 * Auth service (etcd rpc.proto Auth). Users and roles are replicated state: changes are proposals,
 * questions are linearizable reads, and stored decides who may.
 *
 * A password goes to stored and nowhere else: stored makes the hash that is then proposed, or says
 * that it was right. What of it was in the request is wiped when the call ends (.secret).
 *
 * Logging in: stored checks the password and vouches for the user. With JWT it adds the token; with
 * simple tokens 16 letters are chosen here and proposed, as their hash, under that identity, so
 * that every member knows the token. When auth changed in between, it starts again, as in etcd.
 */
#include "gatewayd/grpc.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "gatewayd/backend.h"
#include "gatewayd/gatewayd.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/sha256.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"

enum {
    TOKEN_LETTERS = 16,
    LOGIN_RETRY_MS = 5000, /* while auth keeps changing */
    LOGIN_TOKEN_FIELD = 2, /* AuthenticateResponse.token */
    /* AuthUserAddRequest, AuthUserChangePasswordRequest */
    USER_NAME = 1,
    USER_PASSWORD = 2,
    ADD_OPTIONS = 3,
    ADD_HASH = 4,
    CHANGE_HASH = 3,
    OPTIONS_NO_PASSWORD = 1,
};

static void wipe(struct bytes secret)
{
    if (secret.len > 0)
        explicit_bzero((void *)(uintptr_t)secret.data, secret.len);
}

/* ---- passwords that become hashes ---- */

struct password_state {
    enum proto_kind kind;
    struct bytes name, password, options;
    struct buf proposal;
};

static void free_password_state(struct grpc_call *call)
{
    struct password_state *p = call->state;

    wipe(call->message);
    buf_fini(&p->proposal);
    free(p);
}

static void propose_hash(struct grpc_call *call, struct bytes hash)
{
    struct password_state *p = call->state;

    buf_clear(&p->proposal);
    pb_put_bytes(&p->proposal, USER_NAME, p->name);
    if (p->kind == PROTO_KIND_USER_ADD) {
        pb_put_bytes(&p->proposal, ADD_OPTIONS, p->options);
        pb_put_bytes(&p->proposal, ADD_HASH, hash);
    } else {
        pb_put_bytes(&p->proposal, CHANGE_HASH, hash);
    }
    grpc_forward_proposal_of(call, p->kind, buf_bytes(&p->proposal));
}

static void on_hash(struct backend_call *backend, int outcome, struct bytes part,
                    uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);

    if (outcome != OUT_OK)
        grpc_fail_outcome(call, outcome);
    else if (part.len != total_bytes)
        grpc_fail_outcome(call, OUT_INTERNAL); /* a hash is never sent in parts */
    else
        propose_hash(call, part);
}

static bool decode_no_password(struct bytes options, bool *ret)
{
    struct pb_reader r = pb_reader(options);
    struct pb_field f;

    *ret = false;
    while (pb_next(&r, &f))
        if (f.number == OPTIONS_NO_PASSWORD && f.type == PB_VARINT)
            *ret = f.value != 0;
    return !r.bad;
}

static bool decode_password_request(struct bytes message, struct password_state *p)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;

    while (pb_next(&r, &f)) {
        if (f.type != PB_LENGTH)
            continue;
        if (f.number == USER_NAME)
            p->name = f.bytes;
        else if (f.number == USER_PASSWORD)
            p->password = f.bytes;
        else if (f.number == ADD_OPTIONS && p->kind == PROTO_KIND_USER_ADD)
            p->options = f.bytes;
    }
    return !r.bad;
}

static void with_password(struct grpc_call *call, enum proto_kind kind)
{
    struct password_state *p = xcalloc(1, sizeof(*p));
    bool no_password = false;

    p->kind = kind;
    call->state = p;
    call->free_state = free_password_state;
    if (!decode_password_request(call->message, p) ||
        !decode_no_password(p->options, &no_password)) {
        grpc_fail_outcome(call, OUT_MALFORMED);
        return;
    }
    if (no_password) {
        propose_hash(call, BYTES_EMPTY);
        return;
    }
    call->backend.done = on_hash;
    call->backend.body = p->password;
    call->backend.deadline_ns = call->deadline_ns;
    backend_read(call->gw->backend, &call->backend, PROTO_READ_AUTH_HASH, false);
}

static void user_add(struct grpc_call *call)
{
    with_password(call, PROTO_KIND_USER_ADD);
}

static void user_change_password(struct grpc_call *call)
{
    with_password(call, PROTO_KIND_USER_CHANGE_PASSWORD);
}

/* ---- logging in ---- */

struct login_state {
    char letters[TOKEN_LETTERS];
    uint8_t digest[SHA256_BYTES];
    struct buf stamp;
};

static void start_login(struct grpc_call *call);

static void free_login_state(struct grpc_call *call)
{
    struct login_state *l = call->state;

    wipe(call->message);
    buf_fini(&l->stamp);
    explicit_bzero(l, sizeof(*l));
    free(l);
}

static void reply_token(struct grpc_call *call, struct bytes response, struct bytes token)
{
    CLEANUP(buf_fini) struct buf reply = BUF_INIT;

    buf_append_bytes(&reply, response);
    pb_put_bytes(&reply, LOGIN_TOKEN_FIELD, token);
    grpc_reply(call, buf_bytes(&reply));
}

/* Auth changed between the check of the password and the token. */
static bool try_again(struct grpc_call *call, int outcome)
{
    uint64_t took_ns = loop_now_ns(call->gw->loop) - call->started_ns;

    if (outcome != OUT_AUTH_OLD_REVISION || took_ns > (uint64_t)LOGIN_RETRY_MS * 1000000)
        return false;
    start_login(call);
    return true;
}

static void on_token(struct backend_call *backend, int outcome, struct bytes part,
                     uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);
    struct login_state *l = call->state;
    struct wire_reader r = wire_reader(part);
    char token[TOKEN_LETTERS + 24];
    uint64_t index;

    if (outcome != OUT_OK) {
        if (!try_again(call, outcome))
            grpc_fail_outcome(call, outcome);
        return;
    }
    index = wire_get_u64(&r);
    if (r.bad || part.len != total_bytes) {
        grpc_fail_outcome(call, OUT_INTERNAL);
        return;
    }
    snprintf(token, sizeof(token), "%.*s.%" PRIu64, TOKEN_LETTERS, l->letters, index);
    reply_token(call, wire_rest(&r), bytes_str(token));
    explicit_bzero(token, sizeof(token));
}

/* Each letter equally likely: a byte beyond a multiple of 52 is not used. */
static bool choose_letters(char letters[TOKEN_LETTERS])
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    enum { LETTERS = sizeof(alphabet) - 1, USABLE = 256 / LETTERS * LETTERS };
    size_t have = 0;

    while (have < TOKEN_LETTERS) {
        uint8_t random[TOKEN_LETTERS * 2];

        if (RAND_bytes(random, (int)sizeof(random)) != 1)
            return false;
        for (size_t i = 0; i < sizeof(random) && have < TOKEN_LETTERS; i++)
            if (random[i] < USABLE)
                letters[have++] = alphabet[random[i] % LETTERS];
    }
    return true;
}

static void propose_token(struct grpc_call *call, struct bytes stamp)
{
    struct login_state *l = call->state;

    if (!choose_letters(l->letters)) {
        grpc_fail_outcome(call, OUT_INTERNAL);
        return;
    }
    sha256_of(bytes_of(l->letters, TOKEN_LETTERS), l->digest);
    buf_clear(&l->stamp);
    buf_append_bytes(&l->stamp, stamp);
    call->backend.done = on_token;
    call->backend.body = bytes_of(l->digest, sizeof(l->digest));
    call->backend.identity = buf_bytes(&l->stamp);
    backend_propose(call->gw->backend, &call->backend, PROTO_KIND_AUTH_TOKEN);
}

static void on_login(struct backend_call *backend, int outcome, struct bytes part,
                     uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);
    struct proto_auth_login login;

    if (outcome == OUT_OK &&
        (part.len != total_bytes || proto_auth_login_decode(part, &login) != 0))
        outcome = OUT_INTERNAL;
    if (outcome != OUT_OK) {
        if (!try_again(call, outcome))
            grpc_fail_outcome(call, outcome);
        return;
    }
    if (login.token.len > 0)
        reply_token(call, login.response, login.token);
    else
        propose_token(call, login.stamp);
}

static void start_login(struct grpc_call *call)
{
    call->backend.done = on_login;
    call->backend.body = call->message;
    call->backend.identity = BYTES_EMPTY;
    call->backend.deadline_ns = call->deadline_ns;
    backend_read(call->gw->backend, &call->backend, PROTO_READ_AUTH_LOGIN, true);
}

static void authenticate(struct grpc_call *call)
{
    struct login_state *l = xcalloc(1, sizeof(*l));

    call->state = l;
    call->free_state = free_login_state;
    start_login(call);
}

/* ---- the rest is passed on ---- */

#define PROPOSAL(name, kind)                                                                       \
    static void name(struct grpc_call *call)                                                       \
    {                                                                                              \
        grpc_forward_proposal(call, kind);                                                         \
    }
#define QUESTION(name, kind)                                                                       \
    static void name(struct grpc_call *call)                                                       \
    {                                                                                              \
        grpc_forward_read(call, kind, true);                                                       \
    }

PROPOSAL(auth_enable, PROTO_KIND_AUTH_ENABLE)
PROPOSAL(auth_disable, PROTO_KIND_AUTH_DISABLE)
PROPOSAL(user_delete, PROTO_KIND_USER_DELETE)
PROPOSAL(user_grant_role, PROTO_KIND_USER_GRANT_ROLE)
PROPOSAL(user_revoke_role, PROTO_KIND_USER_REVOKE_ROLE)
PROPOSAL(role_add, PROTO_KIND_ROLE_ADD)
PROPOSAL(role_delete, PROTO_KIND_ROLE_DELETE)
PROPOSAL(role_grant_permission, PROTO_KIND_ROLE_GRANT_PERMISSION)
PROPOSAL(role_revoke_permission, PROTO_KIND_ROLE_REVOKE_PERMISSION)
QUESTION(auth_status, PROTO_READ_AUTH_STATUS)
QUESTION(user_get, PROTO_READ_USER_GET)
QUESTION(user_list, PROTO_READ_USER_LIST)
QUESTION(role_get, PROTO_READ_ROLE_GET)
QUESTION(role_list, PROTO_READ_ROLE_LIST)

#define WITH_PASSWORD(method, function)                                                            \
    {                                                                                              \
        .service = "etcdserverpb.Auth", .name = method, .type = GRPC_UNARY, .handler = function,   \
        .secret = true                                                                             \
    }
#define METHOD(method, function)                                                                   \
    {                                                                                              \
        .service = "etcdserverpb.Auth", .name = method, .type = GRPC_UNARY, .handler = function    \
    }

struct grpc_method grpc_auth_methods[] = {
    METHOD("AuthEnable", auth_enable),
    METHOD("AuthDisable", auth_disable),
    METHOD("AuthStatus", auth_status),
    WITH_PASSWORD("Authenticate", authenticate),
    WITH_PASSWORD("UserAdd", user_add),
    METHOD("UserGet", user_get),
    METHOD("UserList", user_list),
    METHOD("UserDelete", user_delete),
    WITH_PASSWORD("UserChangePassword", user_change_password),
    METHOD("UserGrantRole", user_grant_role),
    METHOD("UserRevokeRole", user_revoke_role),
    METHOD("RoleAdd", role_add),
    METHOD("RoleGet", role_get),
    METHOD("RoleList", role_list),
    METHOD("RoleDelete", role_delete),
    METHOD("RoleGrantPermission", role_grant_permission),
    METHOD("RoleRevokePermission", role_revoke_permission),
    {.name = NULL},
};
