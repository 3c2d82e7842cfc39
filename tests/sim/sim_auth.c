/*
 * Auth: an administrator who sets up three users and then changes what they may, and a second
 * writing of the rules: who may do what at the moment an entry is executed. Every other client acts
 * as one of the users, vouched for by the member it asks, as of what that member has executed.
 */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "lib/proto/outcome.h"
#include "lib/wire/pb.h"
#include "stored/auth/auth_store.h"
#include "tests/sim/sim_sm.h"

#define ADMIN (SIM_CLIENTS + SIM_TENANTS)

static const char *const users[SIM_USERS] = {"root", "u1", "u2"}; /* each may have its role */
static const char *const roles[SIM_USERS] = {"root", "r1", "r2"};

/* ---- what is asked ---- */
struct bytes auth_user_name(uint32_t user)
{
    return bytes_str(users[user]);
}

/* The last range is all keys. */
static void put_range(struct buf *b, uint32_t range, uint32_t key_field)
{
    char key[16];

    snprintf(key, sizeof(key), "key%02u", range);
    pb_put_bytes(b, key_field, range < SIM_KEYS ? bytes_str(key) : BYTES_LIT("key"));
    if (range == SIM_KEYS)
        pb_put_bytes(b, key_field + 1, BYTES_LIT("kez"));
}

void auth_body(const struct sim_op *op, struct buf *b)
{
    static const uint8_t key[AUTH_KEY_BYTES] = {7};
    CLEANUP(buf_fini) struct buf permission = BUF_INIT;

    switch (op->auth_kind) {
    case PROTO_KIND_AUTH_KEY:
        buf_append_bytes(b, bytes_of(key, sizeof(key)));
        return;
    case PROTO_KIND_USER_ADD:
        pb_put_bytes(b, 1, auth_user_name(op->auth_user));
        pb_put_bytes(b, 4, BYTES_LIT("hash"));
        return;
    case PROTO_KIND_ROLE_ADD:
        pb_put_bytes(b, 1, bytes_str(roles[op->auth_user]));
        return;
    case PROTO_KIND_USER_GRANT_ROLE:
    case PROTO_KIND_USER_REVOKE_ROLE:
        pb_put_bytes(b, 1, auth_user_name(op->auth_user));
        pb_put_bytes(b, 2, bytes_str(roles[op->auth_user]));
        return;
    case PROTO_KIND_ROLE_GRANT_PERMISSION:
        pb_put_u64(&permission, 1, (uint64_t)op->auth_type);
        put_range(&permission, op->auth_range, 2);
        pb_put_bytes(b, 1, bytes_str(roles[op->auth_user]));
        pb_put_message(b, 2, buf_bytes(&permission));
        return;
    case PROTO_KIND_ROLE_REVOKE_PERMISSION:
        pb_put_bytes(b, 1, bytes_str(roles[op->auth_user]));
        put_range(b, op->auth_range, 2);
        return;
    default:
        return;
    }
}

/* Who the client says to be, as the member it asks knows it. */
void auth_vouch(struct sim *s, struct sim_node *n, struct sim_op *op)
{
    if (!s->auth || n->sm == NULL || op->stamp_len != 0)
        return;
    op->stamp_len = sm_stamp(n->sm, auth_user_name(op->user), op->stamp, sizeof(op->stamp),
                             &op->stamp_revision);
}

/* ---- the rules ---- */
static bool covers(const struct model_auth *a, uint32_t user, uint32_t range, bool write)
{
    const int8_t *given = a->given[user];
    int8_t other = write ? AUTH_WRITE : AUTH_READ;

    if (!a->has_role[user])
        return false;
    return given[range] == other || given[range] == AUTH_READWRITE || given[SIM_KEYS] == other ||
           given[SIM_KEYS] == AUTH_READWRITE;
}

static int may(const struct model_auth *a, const struct sim_op *op, uint32_t range, bool write)
{
    if (op->stamp_revision < a->revision)
        return OUT_AUTH_OLD_REVISION;
    if (op->user == 0 || covers(a, op->user, range, write))
        return OUT_OK;
    return OUT_PERMISSION_DENIED;
}

int model_admit(const struct model *m, const struct sim_op *op)
{
    const struct model_auth *a = &m->auth;
    int outcome;

    if (!a->enabled || op->kind == OP_CONF)
        return OUT_OK;
    if (op->stamp_len == 0)
        return OUT_USER_EMPTY;
    switch (op->kind) {
    case OP_PUT:
    case OP_DELETE:
        return may(a, op, op->key, true);
    case OP_DELETE_ALL:
        return may(a, op, SIM_KEYS, true);
    case OP_TXN:
        outcome = may(a, op, op->key, false);
        return outcome != OUT_OK ? outcome : may(a, op, op->key, true);
    case OP_AUTH:
        return op->auth_kind == PROTO_KIND_AUTH_KEY || op->user != 0 ? OUT_PERMISSION_DENIED
                                                                     : OUT_OK;
    case OP_COMPACT:
        return op->user == 0 ? OUT_OK : OUT_PERMISSION_DENIED;
    default:
        return OUT_OK;
    }
}

static int change_user(struct model_auth *a, const struct sim_op *op)
{
    uint32_t u = op->auth_user;

    switch (op->auth_kind) {
    case PROTO_KIND_USER_ADD:
        if (a->has_user[u])
            return OUT_USER_ALREADY_EXIST;
        a->has_user[u] = true;
        break;
    case PROTO_KIND_USER_GRANT_ROLE:
        if (!a->has_user[u])
            return OUT_USER_NOT_FOUND;
        if (u != 0 && !a->is_role[u])
            return OUT_ROLE_NOT_FOUND;
        if (a->has_role[u])
            return OUT_OK;
        a->has_role[u] = true;
        break;
    default:
        if (!a->has_role[u])
            return OUT_ROLE_NOT_GRANTED;
        a->has_role[u] = false;
        break;
    }
    a->revision++;
    return OUT_OK;
}

static int change_role(struct model_auth *a, const struct sim_op *op)
{
    uint32_t r = op->auth_user;

    switch (op->auth_kind) {
    case PROTO_KIND_ROLE_ADD:
        if (a->is_role[r])
            return OUT_ROLE_ALREADY_EXIST;
        a->is_role[r] = true;
        break;
    case PROTO_KIND_ROLE_GRANT_PERMISSION:
        if (!a->is_role[r])
            return OUT_ROLE_NOT_FOUND;
        a->given[r][op->auth_range] = (int8_t)op->auth_type;
        break;
    default:
        if (!a->is_role[r])
            return OUT_ROLE_NOT_FOUND;
        if (a->given[r][op->auth_range] < 0)
            return OUT_PERMISSION_NOT_GRANTED;
        a->given[r][op->auth_range] = -1;
        break;
    }
    a->revision++;
    return OUT_OK;
}

int model_auth(struct model *m, const struct sim_op *op)
{
    struct model_auth *a = &m->auth;

    switch (op->auth_kind) {
    case PROTO_KIND_AUTH_KEY:
        if (a->has_key)
            return OUT_INVALID_AUTH_MGMT;
        a->has_key = true;
        return OUT_OK;
    case PROTO_KIND_AUTH_ENABLE:
        if (!a->enabled && !a->has_user[0])
            return OUT_ROOT_USER_NOT_EXIST;
        if (!a->enabled && !a->has_role[0])
            return OUT_ROOT_ROLE_NOT_EXIST;
        a->enabled = true;
        return OUT_OK;
    case PROTO_KIND_AUTH_DISABLE:
        a->revision += a->enabled;
        a->enabled = false;
        return OUT_OK;
    case PROTO_KIND_USER_ADD:
    case PROTO_KIND_USER_GRANT_ROLE:
    case PROTO_KIND_USER_REVOKE_ROLE:
        return change_user(a, op);
    default:
        return change_role(a, op);
    }
}

void model_auth_init(struct model_auth *a)
{
    *a = (struct model_auth){.revision = 1};
    memset(a->given, -1, sizeof(a->given));
}

/* ---- the administrator ---- */
static const struct {
    enum proto_kind kind;
    uint32_t user;
} steps[] = {
    {PROTO_KIND_USER_ADD, 0},        {PROTO_KIND_AUTH_KEY, 0},
    {PROTO_KIND_USER_ADD, 1},        {PROTO_KIND_USER_ADD, 2},
    {PROTO_KIND_ROLE_ADD, 1},        {PROTO_KIND_ROLE_ADD, 2},
    {PROTO_KIND_USER_GRANT_ROLE, 0}, {PROTO_KIND_USER_GRANT_ROLE, 1},
    {PROTO_KIND_USER_GRANT_ROLE, 2}, {PROTO_KIND_AUTH_ENABLE, 0},
};

static enum proto_kind draw_kind(struct sim *s)
{
    uint64_t draw = prng_below(&s->prng, 100);

    return draw < 50   ? PROTO_KIND_ROLE_GRANT_PERMISSION
           : draw < 75 ? PROTO_KIND_ROLE_REVOKE_PERMISSION
           : draw < 82 ? PROTO_KIND_USER_REVOKE_ROLE
           : draw < 92 ? PROTO_KIND_USER_GRANT_ROLE
           : draw < 95 ? PROTO_KIND_AUTH_DISABLE
                       : PROTO_KIND_AUTH_ENABLE;
}

void admin_next(struct sim *s)
{
    raft_id id = sim_leader(s);
    struct sim_op *op;

    if (id == 0) {
        sim_post(s, 50 * MS, EV_CLIENT, 0)->a = ADMIN;
        return;
    }
    op = op_new(s, OP_AUTH);
    if (s->admin_step < ARRAY_LEN(steps)) {
        op->auth_kind = steps[s->admin_step].kind;
        op->auth_user = steps[s->admin_step].user;
    } else {
        op->auth_kind = draw_kind(s);
        op->auth_user = 1 + (uint32_t)prng_below(&s->prng, SIM_USERS - 1);
        op->auth_range = (uint32_t)prng_below(&s->prng, SIM_KEYS + 1);
        op->auth_type = (int)prng_below(&s->prng, AUTH_READWRITE + 1);
        if (sim_chance(s, 500))
            op->auth_type = AUTH_READWRITE;
    }
    op->client = ADMIN;
    op->origin = id;
    op->origin_life = s->nodes[id].life;
    sim_post(s, OP_TIMEOUT, EV_OP_TIMEOUT, 0)->a = op->id;
    TRACE(s, "admin: op %" PRIu64 " kind %d user %u range %u at node %" PRIu64, op->id,
          op->auth_kind, op->auth_user, op->auth_range, id);
    node_submit(s, &s->nodes[id], op);
}

/* Answered, or unknown: a step that was done already is none the worse for being asked again. */
void admin_answered(struct sim *s, const struct sim_op *op)
{
    if (s->admin_step < ARRAY_LEN(steps) && op->auth_kind == steps[s->admin_step].kind &&
        op->auth_user == steps[s->admin_step].user)
        s->admin_step++;
}

void admin_start(struct sim *s)
{
    sim_post(s, 2 * SECOND, EV_CLIENT, 0)->a = ADMIN;
}
