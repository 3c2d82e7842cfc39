#include "stored/kv/kv_auth.h"

#include <assert.h>
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"
#include "stored/kv/kv_internal.h"

/* What an entry or read needs. */
enum need {
    NEED_REFUSED,  /* not in the table: nobody may, while auth is enabled */
    NEED_CONTENT,  /* keys in the request decide */
    NEED_USER,
    NEED_ROOT,
    NEED_ANYONE,   /* tells nothing of what is stored, or is how one becomes somebody */
    NEED_OWN,      /* kv_auth_read decides: one may ask about oneself */
    NEED_INTERNAL, /* what daemons say of themselves; raftd takes it from no gatewayd */
};

static const uint8_t entry_needs[PROTO_KIND_MAX + 1] = {
    [PROTO_KIND_PUT] = NEED_CONTENT,
    [PROTO_KIND_DELETE_RANGE] = NEED_CONTENT,
    [PROTO_KIND_TXN] = NEED_CONTENT,
    [PROTO_KIND_COMPACT] = NEED_ROOT,
    [PROTO_KIND_ALARM] = NEED_ROOT,
    [PROTO_KIND_LEASE_GRANT] = NEED_USER,
    [PROTO_KIND_LEASE_REVOKE] = NEED_CONTENT,
    [PROTO_KIND_MEMBER_ATTR] = NEED_INTERNAL,
    [PROTO_KIND_CLUSTER_VERSION] = NEED_INTERNAL,
    /* raft has carried it out already: asked of stored (AUTH_NEED) before it is proposed */
    [PROTO_KIND_CONF_CHANGE] = NEED_ANYONE,
    [PROTO_KIND_LEASE_KEEPER] = NEED_INTERNAL,
    [PROTO_KIND_LEASE_CLOCK] = NEED_INTERNAL,
    [PROTO_KIND_LEASE_EXPIRE] = NEED_INTERNAL,
    [PROTO_KIND_AUTH_KEY] = NEED_INTERNAL,
    [PROTO_KIND_AUTH_ENABLE] = NEED_ROOT,
    [PROTO_KIND_AUTH_DISABLE] = NEED_ROOT,
    [PROTO_KIND_AUTH_TOKEN] = NEED_USER,
    [PROTO_KIND_USER_ADD] = NEED_ROOT,
    [PROTO_KIND_USER_DELETE] = NEED_ROOT,
    [PROTO_KIND_USER_CHANGE_PASSWORD] = NEED_ROOT,
    [PROTO_KIND_USER_GRANT_ROLE] = NEED_ROOT,
    [PROTO_KIND_USER_REVOKE_ROLE] = NEED_ROOT,
    [PROTO_KIND_ROLE_ADD] = NEED_ROOT,
    [PROTO_KIND_ROLE_DELETE] = NEED_ROOT,
    [PROTO_KIND_ROLE_GRANT_PERMISSION] = NEED_ROOT,
    [PROTO_KIND_ROLE_REVOKE_PERMISSION] = NEED_ROOT,
    [PROTO_KIND_DOWNGRADE] = NEED_ROOT,
};

static const uint8_t read_needs[PROTO_READ_MAX + 1] = {
    [PROTO_READ_RANGE] = NEED_CONTENT,
    [PROTO_READ_TXN] = NEED_CONTENT,
    /* gatewayd asks these for itself too (health, metrics); it asks for a user's rights before */
    [PROTO_READ_MEMBERS] = NEED_ANYONE,
    [PROTO_READ_ALARMS] = NEED_ANYONE,
    [PROTO_READ_STATUS] = NEED_ANYONE,
    [PROTO_READ_METRICS] = NEED_ANYONE,
    [PROTO_READ_HASH_KV] = NEED_ROOT,
    [PROTO_READ_SNAPSHOT] = NEED_ROOT,
    [PROTO_READ_LEASE_KEEP_ALIVE] = NEED_CONTENT,
    [PROTO_READ_LEASE_TTL] = NEED_CONTENT,
    [PROTO_READ_LEASES] = NEED_CONTENT,
    [PROTO_READ_AUTH_IDENTITY] = NEED_ANYONE,
    [PROTO_READ_AUTH_LOGIN] = NEED_ANYONE,
    [PROTO_READ_AUTH_HASH] = NEED_ROOT,
    [PROTO_READ_AUTH_NEED] = NEED_CONTENT,
    [PROTO_READ_AUTH_STATUS] = NEED_ROOT,
    [PROTO_READ_USER_GET] = NEED_OWN,
    [PROTO_READ_USER_LIST] = NEED_ROOT,
    [PROTO_READ_ROLE_GET] = NEED_OWN,
    [PROTO_READ_ROLE_LIST] = NEED_ROOT,
    [PROTO_READ_DEFRAGMENT] = NEED_ROOT,
    [PROTO_READ_ADMIT] = NEED_ANYONE, /* gatewayd asks it before it proposes a write */
};

/* ---- the check ---- */

struct auth_tokens *kv_auth_tokens(struct kv *kv)
{
    return &kv->auth_tokens;
}

const struct auth_store *kv_auth_store(const struct kv *kv)
{
    return &kv->auth;
}

uint64_t kv_auth_generation(const struct kv *kv)
{
    return kv->auth_generation;
}

static void each_lease_key(const void *user, int64_t lease,
                           bool (*visit)(void *visitor, struct bytes key), void *visitor)
{
    const struct kv *kv = user;
    const struct lease *l = lease_table_find(&kv->leases, lease);

    if (l != NULL)
        lease_keys_each(&l->keys, visit, visitor);
}

static struct auth_lease_keys lease_keys(const struct kv *kv)
{
    return (struct auth_lease_keys){.each = each_lease_key, .user = kv};
}

static int who_is(struct kv *kv, struct bytes stamp, struct auth_identity *ret_who)
{
    return auth_stamp_verify(&kv->auth_stamps, &kv->auth, stamp, ret_who) ? OUT_OK
                                                                          : OUT_INVALID_AUTH_TOKEN;
}

int kv_auth_check(struct kv *kv, struct bytes stamp, const struct auth_op *op)
{
    struct auth_identity who;
    int outcome;

    if (LIKELY(!kv->auth.enabled))
        return OUT_OK;
    outcome = who_is(kv, stamp, &who);
    return outcome != OUT_OK ? outcome : auth_check(&kv->auth, &who, op);
}

int kv_auth_check_again(struct kv *kv, struct bytes stamp, const struct auth_op *op)
{
    struct auth_identity who;
    int outcome;

    if (LIKELY(!kv->auth.enabled))
        return OUT_OK;
    outcome = who_is(kv, stamp, &who);
    who.revision = kv->auth.revision;
    return outcome != OUT_OK ? outcome : auth_check(&kv->auth, &who, op);
}

int kv_auth_check_lease(struct kv *kv, struct bytes stamp, int64_t lease, enum auth_op_type type)
{
    struct auth_lease_keys keys = lease_keys(kv);
    struct auth_identity who;
    int outcome;

    if (LIKELY(!kv->auth.enabled))
        return OUT_OK;
    outcome = who_is(kv, stamp, &who);
    return outcome != OUT_OK ? outcome : auth_check_lease(&kv->auth, &who, lease, type, &keys);
}

static int check_txn(struct kv *kv, const struct auth_identity *who, struct bytes body)
{
    struct auth_lease_keys keys = lease_keys(kv);
    struct kv_txn_request m;
    int outcome;

    arena_reset(&kv->arena);
    outcome = kv_decode_txn(body, &kv->arena, &m);
    return outcome != OUT_OK ? outcome : auth_check_txn(&kv->auth, who, &m, &keys);
}

static int check_put(struct kv *kv, const struct auth_identity *who, struct bytes body)
{
    struct auth_lease_keys keys = lease_keys(kv);
    struct kv_put_request m;
    int outcome = kv_decode_put(body, &m);

    return outcome != OUT_OK ? outcome : auth_check_put(&kv->auth, who, &m, &keys);
}

static int check_delete(struct kv *kv, const struct auth_identity *who, struct bytes body)
{
    struct kv_delete_request m;
    int outcome = kv_decode_delete(body, &m);

    return outcome != OUT_OK ? outcome : auth_check_delete(&kv->auth, who, &m);
}

static int check_range(struct kv *kv, const struct auth_identity *who, struct bytes body)
{
    struct kv_range_request m;
    int outcome = kv_decode_range(body, &m);

    return outcome != OUT_OK ? outcome : auth_check_range(&kv->auth, who, &m);
}

/* LeaseRevokeRequest, LeaseTimeToLiveRequest: 1 is the id. */
static int check_lease(struct kv *kv, const struct auth_identity *who, struct bytes body,
                       enum auth_op_type type)
{
    struct auth_lease_keys keys = lease_keys(kv);
    struct pb_reader r = pb_reader(body);
    struct pb_field f;
    int64_t lease = 0;

    while (pb_next(&r, &f))
        if (f.number == 1 && f.type == PB_VARINT)
            lease = (int64_t)f.value;
    return r.bad ? OUT_MALFORMED : auth_check_lease(&kv->auth, who, lease, type, &keys);
}

static int check_renewals(struct kv *kv, const struct auth_identity *who, struct bytes ids)
{
    struct auth_lease_keys keys = lease_keys(kv);
    struct wire_reader r = wire_reader(ids);
    int outcome = auth_check(&kv->auth, who, &(struct auth_op){.type = AUTH_OP_USER});

    while (outcome == OUT_OK && r.pos < r.end && !r.bad)
        outcome = auth_check_lease(&kv->auth, who, wire_get_i64(&r), AUTH_OP_WRITE, &keys);
    return r.bad ? OUT_MALFORMED : outcome;
}

/* LeaseTimeToLiveRequest: the keys are told only when field 2 asks for them. */
static int check_time_to_live(struct kv *kv, const struct auth_identity *who, struct bytes body)
{
    struct pb_reader r = pb_reader(body);
    struct pb_field f;
    bool keys = false;

    while (pb_next(&r, &f))
        if (f.number == 2 && f.type == PB_VARINT)
            keys = f.value != 0;
    if (!keys && !r.bad)
        return auth_check(&kv->auth, who, &(struct auth_op){.type = AUTH_OP_USER});
    return check_lease(kv, who, body, AUTH_OP_READ);
}

/* The list of all leases tells that they exist: whatever hangs on them must be readable. */
static int check_all_leases(struct kv *kv, const struct auth_identity *who)
{
    struct auth_lease_keys keys = lease_keys(kv);
    int outcome = auth_check(&kv->auth, who, &(struct auth_op){.type = AUTH_OP_USER});
    uint64_t id;
    size_t pos = 0;
    void *value;

    if (auth_check(&kv->auth, who, &(struct auth_op){.type = AUTH_OP_ROOT}) == OUT_OK)
        return OUT_OK;
    while (outcome == OUT_OK && hmap_next(&kv->leases.by_id, &pos, &id, &value))
        outcome = auth_check_lease(&kv->auth, who, (int64_t)id, AUTH_OP_READ, &keys);
    return outcome;
}

static int check_entry_content(struct kv *kv, const struct auth_identity *who,
                               const struct proto_payload *payload)
{
    switch (payload->kind) {
    case PROTO_KIND_PUT:
        return check_put(kv, who, payload->body);
    case PROTO_KIND_DELETE_RANGE:
        return check_delete(kv, who, payload->body);
    case PROTO_KIND_TXN:
        return check_txn(kv, who, payload->body);
    case PROTO_KIND_LEASE_REVOKE:
        return check_lease(kv, who, payload->body, AUTH_OP_WRITE);
    default:
        return OUT_PERMISSION_DENIED;
    }
}

static int check_need(struct kv *kv, const struct auth_identity *who, struct bytes body)
{
    enum auth_op_type type = AUTH_OP_REFUSED;

    if (body.len == 1 && body.data[0] == PROTO_AUTH_NEED_USER)
        type = AUTH_OP_USER;
    else if (body.len == 1 && body.data[0] == PROTO_AUTH_NEED_ROOT)
        type = AUTH_OP_ROOT;
    return auth_check(&kv->auth, who, &(struct auth_op){.type = type});
}

static int check_read_content(struct kv *kv, const struct auth_identity *who,
                              enum proto_read_kind kind, struct bytes body)
{
    switch (kind) {
    case PROTO_READ_RANGE:
        return check_range(kv, who, body);
    case PROTO_READ_TXN:
        return check_txn(kv, who, body);
    case PROTO_READ_LEASE_KEEP_ALIVE:
        return check_renewals(kv, who, body);
    case PROTO_READ_LEASE_TTL:
        return check_time_to_live(kv, who, body);
    case PROTO_READ_LEASES:
        return check_all_leases(kv, who);
    case PROTO_READ_AUTH_NEED:
        return check_need(kv, who, body);
    default:
        return OUT_PERMISSION_DENIED;
    }
}

/* Whatever the keys do not decide; OUT_OK with NEED_CONTENT means: look at them. */
static int check_kind(struct kv *kv, const struct auth_identity *who, enum need need)
{
    switch (need) {
    case NEED_ANYONE:
    case NEED_OWN:
    case NEED_CONTENT:
        return OUT_OK;
    case NEED_USER:
        return auth_check(&kv->auth, who, &(struct auth_op){.type = AUTH_OP_USER});
    case NEED_ROOT:
        return auth_check(&kv->auth, who, &(struct auth_op){.type = AUTH_OP_ROOT});
    case NEED_INTERNAL:
    case NEED_REFUSED:
        break;
    }
    return auth_check(&kv->auth, who, &(struct auth_op){.type = AUTH_OP_REFUSED});
}

int kv_auth_admit_entry(struct kv *kv, const struct proto_payload *payload)
{
    struct auth_identity who;
    enum need need;
    int outcome;

    if (LIKELY(!kv->auth.enabled))
        return OUT_OK;
    if (payload->origin_generation == 0)
        return OUT_OK; /* a daemon's own: raftd lets no gatewayd leave this out */
    assert(payload->kind <= PROTO_KIND_MAX);
    need = (enum need)entry_needs[payload->kind];
    if (need == NEED_ANYONE)
        return OUT_OK;
    outcome = who_is(kv, payload->identity, &who);
    if (outcome == OUT_OK)
        outcome = check_kind(kv, &who, need);
    if (outcome == OUT_OK && need == NEED_CONTENT)
        outcome = check_entry_content(kv, &who, payload);
    return outcome;
}

int kv_auth_admit_read(struct kv *kv, enum proto_read_kind kind, struct bytes stamp,
                       struct bytes body)
{
    struct auth_identity who;
    enum need need;
    int outcome;

    if (LIKELY(!kv->auth.enabled))
        return OUT_OK;
    assert(kind <= PROTO_READ_MAX);
    need = (enum need)read_needs[kind];
    if (need == NEED_ANYONE)
        return OUT_OK;
    outcome = who_is(kv, stamp, &who);
    if (outcome == OUT_OK)
        outcome = check_kind(kv, &who, need);
    if (outcome == OUT_OK && need == NEED_CONTENT)
        outcome = check_read_content(kv, &who, kind, body);
    return outcome;
}

/* ---- vouching ---- */

int kv_auth_make_stamp(struct kv *kv, const struct auth_identity *who, struct buf *stamp)
{
    if (!kv->auth.has_key)
        return OUT_TIMEOUT_WAIT_APPLIED;
    auth_stamp_encode(stamp, &kv->auth, who);
    return OUT_OK;
}

void kv_auth_put_header(const struct kv *kv, const struct kv_header *header, struct buf *message)
{
    kv_put_header(message, header, kv->revision);
}

bool kv_auth_needs_key(const struct kv *kv)
{
    return !kv->auth.has_key && kv->auth.user_count > 0;
}

/* ---- requests ---- */

/* The fields any of the service's requests has; what is not there is empty. */
struct request {
    struct bytes first, second, third, fourth; /* length-delimited fields by number */
    bool has_second;
};

static int decode(struct bytes body, struct request *ret)
{
    struct pb_reader r = pb_reader(body);
    struct pb_field f;

    *ret = (struct request){0};
    while (pb_next(&r, &f)) {
        if (f.type != PB_LENGTH)
            continue;
        switch (f.number) {
        case 1:
            ret->first = f.bytes;
            break;
        case 2:
            ret->second = f.bytes;
            ret->has_second = true;
            break;
        case 3:
            ret->third = f.bytes;
            break;
        case 4:
            ret->fourth = f.bytes;
            break;
        default:
            break;
        }
    }
    return r.bad ? OUT_MALFORMED : OUT_OK;
}

/* UserAddOptions{1: no_password} */
static int decode_no_password(struct bytes options, bool *ret)
{
    struct pb_reader r = pb_reader(options);
    struct pb_field f;

    *ret = false;
    while (pb_next(&r, &f))
        if (f.number == 1 && f.type == PB_VARINT)
            *ret = f.value != 0;
    return r.bad ? OUT_MALFORMED : OUT_OK;
}

/* authpb.Permission{1: permType, 2: key, 3: range_end} */
static int decode_permission(struct bytes message, struct auth_permission_args *args)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;

    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.type == PB_VARINT)
            args->type = (int32_t)f.value;
        else if (f.number == 2 && f.type == PB_LENGTH)
            args->key = f.bytes;
        else if (f.number == 3 && f.type == PB_LENGTH)
            args->range_end = f.bytes;
    }
    return r.bad ? OUT_MALFORMED : OUT_OK;
}

/* ---- entries ---- */

/* The identity logged in with a password that was right at its revision; since then nothing may
 * have changed. */
static int apply_token(struct kv *kv, const struct proto_payload *payload, uint64_t index)
{
    struct auth_identity who;
    int outcome;

    if (!kv->auth.enabled)
        return OUT_AUTH_NOT_ENABLED;
    if (payload->body.len != AUTH_TOKEN_DIGEST_BYTES)
        return OUT_MALFORMED;
    outcome = who_is(kv, payload->identity, &who);
    if (outcome != OUT_OK)
        return outcome;
    if (who.revision != kv->auth.revision)
        return OUT_AUTH_OLD_REVISION;
    auth_tokens_add(&kv->auth_tokens, payload->body.data, index, who.name);
    return OUT_OK;
}

static int apply_user(struct kv *kv, enum proto_kind kind, const struct request *m,
                      bool *ret_changed)
{
    struct auth_user_args args = {.name = m->first};
    int outcome;

    *ret_changed = true;
    switch (kind) {
    case PROTO_KIND_USER_ADD:
        outcome = decode_no_password(m->third, &args.no_password);
        args.password = m->fourth;
        return outcome != OUT_OK ? outcome : auth_store_user_add(&kv->auth, &args);
    case PROTO_KIND_USER_DELETE:
        outcome = auth_store_user_delete(&kv->auth, m->first);
        break;
    case PROTO_KIND_USER_CHANGE_PASSWORD:
        args.password = m->third;
        outcome = auth_store_user_set_password(&kv->auth, &args);
        break;
    case PROTO_KIND_USER_GRANT_ROLE:
        return auth_store_user_grant(&kv->auth, m->first, m->second, ret_changed);
    case PROTO_KIND_USER_REVOKE_ROLE:
        return auth_store_user_revoke(&kv->auth, m->first, m->second);
    default:
        PANIC("kind %d is not about users", (int)kind);
    }
    if (outcome == OUT_OK)
        auth_tokens_drop_user(&kv->auth_tokens, m->first);
    return outcome;
}

static int apply_role(struct kv *kv, enum proto_kind kind, const struct request *m)
{
    struct auth_permission_args args = {.role = m->first, .given = m->has_second};
    int outcome;

    switch (kind) {
    case PROTO_KIND_ROLE_ADD:
        return auth_store_role_add(&kv->auth, m->first);
    case PROTO_KIND_ROLE_DELETE:
        return auth_store_role_delete(&kv->auth, m->first);
    case PROTO_KIND_ROLE_GRANT_PERMISSION:
        outcome = decode_permission(m->second, &args);
        return outcome != OUT_OK ? outcome : auth_store_role_grant(&kv->auth, &args);
    case PROTO_KIND_ROLE_REVOKE_PERMISSION:
        args.key = m->second;
        args.range_end = m->third;
        return auth_store_role_revoke(&kv->auth, &args);
    default:
        PANIC("kind %d is not about roles", (int)kind);
    }
}

static int apply_change(struct kv *kv, const struct proto_payload *payload, bool *ret_changed)
{
    struct request m;
    int outcome;

    *ret_changed = true;
    switch (payload->kind) {
    case PROTO_KIND_AUTH_KEY:
        return auth_store_set_key(&kv->auth, payload->body);
    case PROTO_KIND_AUTH_ENABLE:
        return auth_store_enable(&kv->auth, ret_changed);
    case PROTO_KIND_AUTH_DISABLE:
        auth_tokens_clear(&kv->auth_tokens);
        return auth_store_disable(&kv->auth, ret_changed);
    default:
        break;
    }
    outcome = decode(payload->body, &m);
    if (outcome != OUT_OK)
        return outcome;
    if (payload->kind >= PROTO_KIND_ROLE_ADD)
        return apply_role(kv, payload->kind, &m);
    return apply_user(kv, payload->kind, &m, ret_changed);
}

int kv_auth_apply(struct kv *kv, const struct proto_payload *payload, uint64_t index,
                  const struct kv_header *header, struct buf *message)
{
    bool is_token = payload->kind == PROTO_KIND_AUTH_TOKEN, changed = false;
    int outcome = is_token ? apply_token(kv, payload, index)
                           : apply_change(kv, payload, &changed);

    if (outcome != OUT_OK)
        return outcome;
    if (changed) {
        kv->auth_changed = true;
        kv->auth_generation++;
    }
    if (message != NULL) {
        if (is_token)
            wire_put_u64(message, index);
        kv_put_header(message, header, kv->revision);
    }
    return OUT_OK;
}

/* ---- questions ---- */

static void put_permission(struct buf *b, const struct auth_permission *p)
{
    size_t at = kv_pb_begin(b, 2);

    pb_put_u64(b, 1, (uint64_t)(int64_t)p->type);
    pb_put_bytes(b, 2, buf_bytes(&p->key));
    pb_put_bytes(b, 3, buf_bytes(&p->range_end));
    kv_pb_end(b, at);
}

/* A user may ask about itself, and about roles it has. */
static int check_own(struct kv *kv, enum proto_read_kind kind, struct bytes stamp,
                     struct bytes name)
{
    struct auth_identity who;
    const struct auth_user *user;
    int outcome = OUT_OK;

    if (!kv->auth.enabled)
        return OUT_OK;
    outcome = who_is(kv, stamp, &who);
    if (outcome == OUT_OK)
        outcome = auth_check(&kv->auth, &who, &(struct auth_op){.type = AUTH_OP_ROOT});
    if (outcome != OUT_PERMISSION_DENIED)
        return outcome;
    user = auth_store_user(&kv->auth, who.name);
    if (user == NULL)
        return outcome;
    if (kind == PROTO_READ_USER_GET ? bytes_eq(name, who.name) : auth_user_has_role(user, name))
        return OUT_OK;
    return outcome;
}

static int read_user(struct kv *kv, struct bytes name, struct buf *message)
{
    const struct auth_user *user = auth_store_user(&kv->auth, name);

    if (user == NULL)
        return OUT_USER_NOT_FOUND;
    for (size_t i = 0; i < user->role_count; i++)
        pb_put_message(message, 2, buf_bytes(&user->roles[i]));
    return OUT_OK;
}

static int read_role(struct kv *kv, struct bytes name, struct buf *message)
{
    const struct auth_role *role = auth_store_role(&kv->auth, name);

    if (role == NULL)
        return OUT_ROLE_NOT_FOUND;
    for (size_t i = 0; i < role->permission_count; i++)
        put_permission(message, &role->permissions[i]);
    return OUT_OK;
}

int kv_auth_read(struct kv *kv, enum proto_read_kind kind, struct bytes stamp, struct bytes body,
                 const struct kv_header *header, struct buf *message)
{
    struct request m;
    int outcome = decode(body, &m);

    if (outcome != OUT_OK)
        return outcome;
    if (kind == PROTO_READ_USER_GET || kind == PROTO_READ_ROLE_GET) {
        outcome = check_own(kv, kind, stamp, m.first);
        if (outcome != OUT_OK)
            return outcome;
    }
    kv_put_header(message, header, kv->revision);
    switch (kind) {
    case PROTO_READ_AUTH_STATUS:
        pb_put_bool(message, 2, kv->auth.enabled);
        pb_put_u64(message, 3, kv->auth.revision);
        return OUT_OK;
    case PROTO_READ_USER_GET:
        return read_user(kv, m.first, message);
    case PROTO_READ_ROLE_GET:
        return read_role(kv, m.first, message);
    case PROTO_READ_USER_LIST:
        for (size_t i = 0; i < kv->auth.user_count; i++)
            pb_put_message(message, 2, buf_bytes(&kv->auth.users[i].name));
        return OUT_OK;
    case PROTO_READ_ROLE_LIST:
        for (size_t i = 0; i < kv->auth.role_count; i++)
            pb_put_message(message, 2, buf_bytes(&kv->auth.roles[i].name));
        return OUT_OK;
    default:
        return OUT_UNIMPLEMENTED;
    }
}
