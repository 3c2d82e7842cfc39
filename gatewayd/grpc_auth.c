#include "gatewayd/grpc_auth.h"

#include <assert.h>
#include <string.h>
#include "gatewayd/auth_cache.h"
#include "gatewayd/backend.h"
#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc.h"
#include "lib/http/http_server.h"
#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/wire/wire.h"

enum { QUEUE_BYTES_MAX = 4 << 20 }; /* messages of one stream that wait for an identity */

/* ---- the table ---- */

static const struct {
    const char *service, *method; /* method NULL: all others of the service */
    enum grpc_auth auth;
} table[] = {
    {"etcdserverpb.KV", "Range", GRPC_AUTH_STORED},
    {"etcdserverpb.KV", "RangeStream", GRPC_AUTH_STORED},
    {"etcdserverpb.KV", "Put", GRPC_AUTH_STORED},
    {"etcdserverpb.KV", "DeleteRange", GRPC_AUTH_STORED},
    {"etcdserverpb.KV", "Txn", GRPC_AUTH_STORED},
    {"etcdserverpb.KV", "Compact", GRPC_AUTH_STORED},
    {"etcdserverpb.Watch", "Watch", GRPC_AUTH_STREAM},
    {"etcdserverpb.Lease", "LeaseGrant", GRPC_AUTH_STORED},
    {"etcdserverpb.Lease", "LeaseRevoke", GRPC_AUTH_STORED},
    {"etcdserverpb.Lease", "LeaseKeepAlive", GRPC_AUTH_STREAM},
    {"etcdserverpb.Lease", "LeaseTimeToLive", GRPC_AUTH_STORED},
    {"etcdserverpb.Lease", "LeaseLeases", GRPC_AUTH_STORED},
    {"etcdserverpb.Cluster", "MemberAdd", GRPC_AUTH_ROOT},
    {"etcdserverpb.Cluster", "MemberRemove", GRPC_AUTH_ROOT},
    {"etcdserverpb.Cluster", "MemberUpdate", GRPC_AUTH_ROOT},
    {"etcdserverpb.Cluster", "MemberPromote", GRPC_AUTH_ROOT},
    {"etcdserverpb.Cluster", "MemberList", GRPC_AUTH_USER},
    {"etcdserverpb.Maintenance", "Alarm", GRPC_AUTH_USER}, /* changes: root, by stored */
    {"etcdserverpb.Maintenance", "Status", GRPC_AUTH_USER},
    {"etcdserverpb.Maintenance", "Defragment", GRPC_AUTH_ROOT},
    {"etcdserverpb.Maintenance", "Hash", GRPC_AUTH_ROOT},
    {"etcdserverpb.Maintenance", "HashKV", GRPC_AUTH_ROOT},
    {"etcdserverpb.Maintenance", "Snapshot", GRPC_AUTH_ROOT},
    {"etcdserverpb.Maintenance", "MoveLeader", GRPC_AUTH_ROOT},
    {"etcdserverpb.Maintenance", "Downgrade", GRPC_AUTH_ROOT},
    {"etcdserverpb.Auth", "Authenticate", GRPC_AUTH_OPEN},
    {"etcdserverpb.Auth", "AuthEnable", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "AuthDisable", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "AuthStatus", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "UserAdd", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "UserGet", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "UserList", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "UserDelete", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "UserChangePassword", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "UserGrantRole", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "UserRevokeRole", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "RoleAdd", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "RoleGet", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "RoleList", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "RoleDelete", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "RoleGrantPermission", GRPC_AUTH_STORED},
    {"etcdserverpb.Auth", "RoleRevokePermission", GRPC_AUTH_STORED},
    {"v3lockpb.Lock", "Lock", GRPC_AUTH_STORED},
    {"v3lockpb.Lock", "Unlock", GRPC_AUTH_STORED},
    {"v3electionpb.Election", "Campaign", GRPC_AUTH_STORED},
    {"v3electionpb.Election", "Proclaim", GRPC_AUTH_STORED},
    {"v3electionpb.Election", "Leader", GRPC_AUTH_STORED},
    {"v3electionpb.Election", "Observe", GRPC_AUTH_STORED},
    {"v3electionpb.Election", "Resign", GRPC_AUTH_STORED},
    {"grpc.health.v1.Health", "Check", GRPC_AUTH_OPEN},
    {"grpc.health.v1.Health", "List", GRPC_AUTH_OPEN},
    {"grpc.health.v1.Health", "Watch", GRPC_AUTH_OPEN},
};

enum grpc_auth grpc_auth_of(const struct grpc_method *method)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (strcmp(table[i].service, method->service) == 0 &&
            strcmp(table[i].method, method->name) == 0)
            return table[i].auth;
    return GRPC_AUTH_UNKNOWN;
}

/* ---- who ---- */

/* etcd's clients send "token"; its gateway passes HTTP's Authorization on. */
static struct bytes token_of(const struct grpc_call *call)
{
    static const struct bytes bearer = BYTES_LIT("Bearer ");
    struct bytes token = grpc_call_metadata(call, "token");

    if (token.data == NULL)
        token = call->authorization != NULL ? *call->authorization
                                            : http_req_header(call->req, "authorization");
    if (token.len >= bearer.len && memcmp(token.data, bearer.data, bearer.len) == 0)
        token = bytes_of(token.data + bearer.len, token.len - bearer.len);
    return token;
}

/* The certificate of a connection on which a gateway speaks for others names nobody (etcd store.go
 * AuthInfoFromTLS). */
static const char *common_name_of(const struct grpc_call *call)
{
    if (!call->gw->conf->client_cert_auth || call->behind_gateway ||
        http_req_header(call->req, "grpcgateway-accept").data != NULL)
        return NULL;
    return http_req_peer_cn(call->req);
}

/* False: the caller shows nothing. A token goes before a certificate. */
static bool claim_of(const struct grpc_call *call, struct proto_auth_claim *ret)
{
    struct bytes token = token_of(call);
    const char *name;

    if (token.data != NULL) {
        *ret = (struct proto_auth_claim){.type = PROTO_AUTH_CLAIM_TOKEN, .value = token};
        return true;
    }
    name = common_name_of(call);
    if (name == NULL || name[0] == '\0')
        return false;
    *ret =
        (struct proto_auth_claim){.type = PROTO_AUTH_CLAIM_COMMON_NAME, .value = bytes_str(name)};
    return true;
}

bool grpc_auth_name_is_ignored(const struct gatewayd *gw, const struct http_req *req)
{
    const char *name = http_req_peer_cn(req);

    return gw->conf->client_cert_auth && name != NULL && name[0] != '\0' &&
           !backend_auth_is_off(gw->backend);
}

static bool is_same(const struct auth_stamp *a, const struct auth_stamp *b)
{
    return a != NULL && b != NULL && a->len == b->len && memcmp(a->data, b->data, a->len) == 0;
}

static void free_retired(struct grpc_call *call)
{
    struct auth_stamp *stamp;

    for (size_t at = 0; at < call->retired_stamps.len; at += sizeof(stamp)) {
        memcpy(&stamp, call->retired_stamps.data + at, sizeof(stamp));
        auth_stamp_unref(stamp);
    }
    buf_clear(&call->retired_stamps);
}

static void set_stamp(struct grpc_call *call, struct auth_stamp *stamp)
{
    if (is_same(call->stamp, stamp)) {
        auth_stamp_unref(stamp);
        return;
    }
    if (backend_call_active(&call->backend) && call->stamp != NULL) {
        buf_append(&call->retired_stamps, &call->stamp, sizeof(call->stamp));
    } else {
        free_retired(call);
        auth_stamp_unref(call->stamp);
    }
    call->stamp = stamp;
    call->backend.identity = stamp != NULL ? bytes_of(stamp->data, stamp->len) : BYTES_EMPTY;
}

static void on_stamp(struct auth_waiter *w, int outcome, struct auth_stamp *stamp)
{
    struct grpc_call *call = CONTAINER_OF(w, struct grpc_call, auth_waiter);

    set_stamp(call, stamp);
    if (!call->ended)
        call->auth_resolved(call, outcome);
}

void grpc_auth_resolve(struct grpc_call *call, void (*done)(struct grpc_call *call, int outcome))
{
    struct gatewayd *gw = call->gw;
    struct proto_auth_claim claim;
    struct auth_stamp *stamp;

    if (LIKELY(backend_auth_is_off(gw->backend)) || !claim_of(call, &claim)) {
        set_stamp(call, NULL);
        done(call, OUT_OK);
        return;
    }
    call->auth_resolved = done;
    call->auth_waiter.done = on_stamp;
    stamp = auth_cache_find(gw->auth_cache, &claim, &call->auth_waiter);
    if (stamp != NULL) {
        set_stamp(call, stamp);
        done(call, OUT_OK);
    }
}

/* ---- the messages of a stream ---- */

static void deliver(struct grpc_call *call, struct bytes message)
{
    if (!call->ended)
        call->method->on_message(call, message);
}

static void deliver_end(struct grpc_call *call)
{
    if (!call->ended && call->method->on_half_closed != NULL)
        call->method->on_half_closed(call);
}

static void deliver_queue(struct grpc_call *call)
{
    struct buf queue = call->auth_queue;
    struct wire_reader r = wire_reader(buf_bytes(&queue));

    call->auth_queue = BUF_INIT;
    while (r.pos < r.end)
        deliver(call, wire_get_bytes(&r));
    buf_fini(&queue);
    if (call->auth_half_closed)
        deliver_end(call);
}

static void on_message_resolved(struct grpc_call *call, int outcome)
{
    call->auth_outcome = outcome;
    call->auth_waiting = false;
    deliver_queue(call); /* empty when this is still the call of grpc_auth_message */
}

void grpc_auth_message(struct grpc_call *call, struct bytes message)
{
    if (!call->auth_waiting) {
        call->auth_waiting = true;
        grpc_auth_resolve(call, on_message_resolved);
        if (!call->auth_waiting) {
            deliver(call, message);
            return;
        }
    }
    if (call->auth_queue.len + message.len > QUEUE_BYTES_MAX) {
        if (!call->ended)
            grpc_fail_outcome(call, OUT_TOO_MANY_REQUESTS);
        return;
    }
    wire_put_bytes(&call->auth_queue, message);
}

void grpc_auth_half_close(struct grpc_call *call)
{
    if (call->auth_waiting)
        call->auth_half_closed = true;
    else
        deliver_end(call);
}

/* ---- before the handler ---- */

static void on_need(struct backend_call *backend, int outcome, struct bytes part,
                    uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);

    if (outcome != OUT_OK) {
        grpc_fail_outcome(call, outcome);
        return;
    }
    call->backend.body = BYTES_EMPTY;
    call->method->handler(call);
}

static void ask_need(struct grpc_call *call)
{
    static const uint8_t needs[] = {
        [GRPC_AUTH_UNKNOWN] = PROTO_AUTH_NEED_NOTHING_KNOWN,
        [GRPC_AUTH_USER] = PROTO_AUTH_NEED_USER,
        [GRPC_AUTH_ROOT] = PROTO_AUTH_NEED_ROOT,
    };

    call->backend.done = on_need;
    call->backend.body = bytes_of(&needs[call->method->auth], 1);
    call->backend.deadline_ns = call->deadline_ns;
    backend_read(call->gw->backend, &call->backend, PROTO_READ_AUTH_NEED, false);
}

static void on_resolved(struct grpc_call *call, int outcome)
{
    if (outcome != OUT_OK)
        grpc_fail_outcome(call, outcome);
    else if (call->method->auth == GRPC_AUTH_STORED || backend_auth_is_off(call->gw->backend))
        call->method->handler(call);
    else
        ask_need(call);
}

void grpc_auth_run(struct grpc_call *call)
{
    bool is_stream = call->method->type == GRPC_BIDI_STREAM;

    if (call->method->auth == GRPC_AUTH_OPEN ||
        (is_stream && call->method->auth == GRPC_AUTH_STREAM))
        call->method->handler(call);
    else if (!is_stream)
        grpc_auth_resolve(call, on_resolved);
    else if (backend_auth_is_off(call->gw->backend))
        call->method->handler(call);
    else
        grpc_fail_outcome(call, OUT_PERMISSION_DENIED); /* nobody said how it is protected */
}

bool grpc_auth_again(struct grpc_call *call, int outcome)
{
    struct proto_auth_claim claim;
    bool stale = outcome == OUT_AUTH_OLD_REVISION ||
                 (outcome == OUT_USER_EMPTY && call->backend.identity.len == 0);

    if (!stale || call->auth_again || call->streaming || call->state != NULL ||
        (call->method->auth != GRPC_AUTH_STORED && call->method->auth != GRPC_AUTH_USER &&
         call->method->auth != GRPC_AUTH_ROOT) ||
        !claim_of(call, &claim))
        return false;
    call->auth_again = true;
    grpc_auth_run(call);
    return true;
}

void grpc_auth_end(struct grpc_call *call)
{
    auth_cache_cancel(&call->auth_waiter);
    set_stamp(call, NULL);
    free_retired(call);
    buf_fini(&call->retired_stamps);
    buf_fini(&call->auth_queue);
}
