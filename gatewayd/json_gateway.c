#include "gatewayd/json_gateway.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc.h"
#include "gatewayd/http_mux.h"
#include "gatewayd/json_call.h"
#include "gatewayd/json_codec.h"
#include "gatewayd/json_websocket.h"
#include "lib/proto/etcd/rpc.pb-c.h"
#include "lib/proto/etcd/v3election.pb-c.h"
#include "lib/proto/etcd/v3lock.pb-c.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

enum {
    /* Base64 is 4/3; and some room for names and numbers. */
    BODY_BYTES_PER_REQUEST_BYTE = 2,
    LINE_KEEP_BYTES = 64 << 10,
};

static const struct {
    const char *path; /* behind /v3 */
    const char *service, *method;
} paths[] = {
    {"/kv/range", "etcdserverpb.KV", "Range"},
    {"/kv/put", "etcdserverpb.KV", "Put"},
    {"/kv/deleterange", "etcdserverpb.KV", "DeleteRange"},
    {"/kv/txn", "etcdserverpb.KV", "Txn"},
    {"/kv/compaction", "etcdserverpb.KV", "Compact"},
    {"/watch", "etcdserverpb.Watch", "Watch"},
    {"/lease/grant", "etcdserverpb.Lease", "LeaseGrant"},
    {"/lease/revoke", "etcdserverpb.Lease", "LeaseRevoke"},
    {"/kv/lease/revoke", "etcdserverpb.Lease", "LeaseRevoke"},
    {"/lease/keepalive", "etcdserverpb.Lease", "LeaseKeepAlive"},
    {"/lease/timetolive", "etcdserverpb.Lease", "LeaseTimeToLive"},
    {"/kv/lease/timetolive", "etcdserverpb.Lease", "LeaseTimeToLive"},
    {"/lease/leases", "etcdserverpb.Lease", "LeaseLeases"},
    {"/kv/lease/leases", "etcdserverpb.Lease", "LeaseLeases"},
    {"/cluster/member/add", "etcdserverpb.Cluster", "MemberAdd"},
    {"/cluster/member/remove", "etcdserverpb.Cluster", "MemberRemove"},
    {"/cluster/member/update", "etcdserverpb.Cluster", "MemberUpdate"},
    {"/cluster/member/list", "etcdserverpb.Cluster", "MemberList"},
    {"/cluster/member/promote", "etcdserverpb.Cluster", "MemberPromote"},
    {"/maintenance/alarm", "etcdserverpb.Maintenance", "Alarm"},
    {"/maintenance/status", "etcdserverpb.Maintenance", "Status"},
    {"/maintenance/defragment", "etcdserverpb.Maintenance", "Defragment"},
    {"/maintenance/hash", "etcdserverpb.Maintenance", "Hash"},
    {"/maintenance/hashkv", "etcdserverpb.Maintenance", "HashKV"},
    {"/maintenance/snapshot", "etcdserverpb.Maintenance", "Snapshot"},
    {"/maintenance/transfer-leadership", "etcdserverpb.Maintenance", "MoveLeader"},
    {"/maintenance/downgrade", "etcdserverpb.Maintenance", "Downgrade"},
    {"/auth/enable", "etcdserverpb.Auth", "AuthEnable"},
    {"/auth/disable", "etcdserverpb.Auth", "AuthDisable"},
    {"/auth/status", "etcdserverpb.Auth", "AuthStatus"},
    {"/auth/authenticate", "etcdserverpb.Auth", "Authenticate"},
    {"/auth/user/add", "etcdserverpb.Auth", "UserAdd"},
    {"/auth/user/get", "etcdserverpb.Auth", "UserGet"},
    {"/auth/user/list", "etcdserverpb.Auth", "UserList"},
    {"/auth/user/delete", "etcdserverpb.Auth", "UserDelete"},
    {"/auth/user/changepw", "etcdserverpb.Auth", "UserChangePassword"},
    {"/auth/user/grant", "etcdserverpb.Auth", "UserGrantRole"},
    {"/auth/user/revoke", "etcdserverpb.Auth", "UserRevokeRole"},
    {"/auth/role/add", "etcdserverpb.Auth", "RoleAdd"},
    {"/auth/role/get", "etcdserverpb.Auth", "RoleGet"},
    {"/auth/role/list", "etcdserverpb.Auth", "RoleList"},
    {"/auth/role/delete", "etcdserverpb.Auth", "RoleDelete"},
    {"/auth/role/grant", "etcdserverpb.Auth", "RoleGrantPermission"},
    {"/auth/role/revoke", "etcdserverpb.Auth", "RoleRevokePermission"},
    {"/lock/lock", "v3lockpb.Lock", "Lock"},
    {"/lock/unlock", "v3lockpb.Lock", "Unlock"},
    {"/election/campaign", "v3electionpb.Election", "Campaign"},
    {"/election/proclaim", "v3electionpb.Election", "Proclaim"},
    {"/election/leader", "v3electionpb.Election", "Leader"},
    {"/election/observe", "v3electionpb.Election", "Observe"},
    {"/election/resign", "v3electionpb.Election", "Resign"},
};

static const ProtobufCServiceDescriptor *const services[] = {
    &etcdserverpb__kv__descriptor,          &etcdserverpb__watch__descriptor,
    &etcdserverpb__lease__descriptor,       &etcdserverpb__cluster__descriptor,
    &etcdserverpb__maintenance__descriptor, &etcdserverpb__auth__descriptor,
    &v3lockpb__lock__descriptor,            &v3electionpb__election__descriptor,
};

/* grpc-gateway v2, runtime.HTTPStatusFromCode */
static int http_status(enum grpc_code code)
{
    static const int table[GRPC_CODE_COUNT] = {
        [GRPC_OK] = 200,
        [GRPC_CANCELED] = 499,
        [GRPC_UNKNOWN] = 500,
        [GRPC_INVALID_ARGUMENT] = 400,
        [GRPC_DEADLINE_EXCEEDED] = 504,
        [GRPC_NOT_FOUND] = 404,
        [GRPC_ALREADY_EXISTS] = 409,
        [GRPC_PERMISSION_DENIED] = 403,
        [GRPC_RESOURCE_EXHAUSTED] = 429,
        [GRPC_FAILED_PRECONDITION] = 400,
        [GRPC_ABORTED] = 409,
        [GRPC_OUT_OF_RANGE] = 400,
        [GRPC_UNIMPLEMENTED] = 501,
        [GRPC_INTERNAL] = 500,
        [GRPC_UNAVAILABLE] = 503,
        [GRPC_DATA_LOSS] = 500,
        [GRPC_UNAUTHENTICATED] = 401,
    };

    return table[code];
}

void json_put_status(struct buf *b, enum grpc_code code, const char *text)
{
    buf_appendf(b, "{\"code\":%d,\"message\":", (int)code);
    json_put_string(b, bytes_str(text));
    buf_append_u8(b, '}');
}

static void respond_status(struct gatewayd *gw, struct http_req *req, enum grpc_code code,
                           const char *text)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;
    struct http_header challenge = {BYTES_LIT("www-authenticate"), bytes_str(text)};

    json_put_status(&body, code, text);
    http_mux_respond_with(req, gw, http_status(code), "application/json", &challenge,
                          code == GRPC_UNAUTHENTICATED, buf_bytes(&body));
}

static const struct http_header grpc_type =
    HTTP_HEADER("grpc-metadata-content-type", "application/grpc");

/* ---- answers ---- */

static void json_reply(struct grpc_call *call, struct bytes message)
{
    struct json_call *j = call->writer_state;

    buf_clear(&j->line);
    if (json_from_pb(message, j->types->output, &j->line) != 0)
        respond_status(call->gw, call->req, GRPC_INTERNAL, "malformed answer");
    else
        http_mux_respond_with(call->req, call->gw, 200, "application/json", &grpc_type, 1,
                              buf_bytes(&j->line));
}

static void json_begin(struct grpc_call *call)
{
    if (call->method->type != GRPC_UNARY)
        http_mux_begin(call->req, call->gw, 200, "application/json", &grpc_type, 1);
}

int json_make_result(struct grpc_call *call, struct bytes message)
{
    struct json_call *j = call->writer_state;

    buf_clear(&j->line);
    buf_appendf(&j->line, "{\"result\":");
    if (json_from_pb(message, j->types->output, &j->line) != 0)
        return -EBADMSG; /* none of ours is */
    buf_append_u8(&j->line, '}');
    return 0;
}

void json_line_done(struct json_call *j)
{
    buf_clear(&j->line);
    buf_trim(&j->line, LINE_KEEP_BYTES);
}

static void put_line(struct grpc_call *call, struct bytes message)
{
    struct json_call *j = call->writer_state;
    struct bytes line;

    if (json_make_result(call, message) != 0)
        return;
    buf_append_u8(&j->line, '\n');
    line = buf_bytes(&j->line);
    http_respond_data(call->req, &line, 1);
    json_line_done(j);
}

void json_take_frames(struct grpc_call *call, const struct bytes *pieces, size_t piece_count,
                      void (*put)(struct grpc_call *call, struct bytes message))
{
    struct json_call *j = call->writer_state;
    size_t taken = 0;

    for (size_t i = 0; i < piece_count; i++)
        buf_append_bytes(&j->framed, pieces[i]);
    for (;;) {
        size_t left = j->framed.len - taken, len;

        if (left < GRPC_PREFIX_BYTES)
            break;
        len = wire_load_be32(j->framed.data + taken + 1);
        if (left - GRPC_PREFIX_BYTES < len)
            break;
        put(call, bytes_of(j->framed.data + taken + GRPC_PREFIX_BYTES, len));
        taken += GRPC_PREFIX_BYTES + len;
    }
    buf_consume(&j->framed, taken);
    if (j->framed.len == 0)
        buf_trim(&j->framed, LINE_KEEP_BYTES);
}

static void json_data(struct grpc_call *call, const struct bytes *pieces, size_t piece_count)
{
    struct json_call *j = call->writer_state;

    if (call->method->type != GRPC_UNARY) {
        json_take_frames(call, pieces, piece_count, put_line);
        return;
    }
    for (size_t i = 0; i < piece_count; i++) /* in parts: at the end */
        buf_append_bytes(&j->framed, pieces[i]);
}

static void json_end(struct grpc_call *call, enum grpc_code code, const char *text)
{
    struct json_call *j = call->writer_state;

    if (code != GRPC_OK && (!call->streaming || call->method->type == GRPC_UNARY)) {
        respond_status(call->gw, call->req, code, text);
    } else if (call->method->type == GRPC_UNARY) {
        json_reply(call, bytes_of(j->framed.data + GRPC_PREFIX_BYTES,
                                  j->framed.len - GRPC_PREFIX_BYTES));
    } else {
        if (!call->streaming)
            json_begin(call);
        if (code != GRPC_OK) {
            struct bytes line;

            buf_clear(&j->line);
            buf_appendf(&j->line, "{\"error\":");
            json_put_status(&j->line, code, text);
            buf_appendf(&j->line, "}\n");
            line = buf_bytes(&j->line);
            http_respond_data(call->req, &line, 1);
        }
        http_respond_end(call->req, NULL, 0);
    }
}

void json_call_closed(struct grpc_call *call)
{
    struct json_call *j = call->writer_state;

    if (call->method->secret)
        buf_wipe(&j->request);
    buf_fini(&j->request);
    buf_fini(&j->framed);
    buf_fini(&j->line);
    free(j);
}

static const struct grpc_writer json_writer = {
    .reply = json_reply,
    .begin = json_begin,
    .data = json_data,
    .end = json_end,
    .closed = json_call_closed,
    .metadata_prefix = "grpc-metadata-",
};

/* ---- requests ---- */

/* The path behind /v3, without query; data NULL: it is not below it. */
static struct bytes path_below(const struct http_req *req)
{
    static const struct bytes prefixes[] = {BYTES_LIT("/v3/"), BYTES_LIT("/v3beta/")};
    struct bytes path = http_path_only(http_req_path(req));

    for (size_t i = 0; i < ARRAY_LEN(prefixes); i++) {
        size_t len = prefixes[i].len;

        if (path.len >= len && memcmp(path.data, prefixes[i].data, len) == 0)
            return bytes_of(path.data + len - 1, path.len - len + 1);
    }
    return (struct bytes){0};
}

bool json_gateway_is_request(const struct gatewayd *gw, const struct http_req *req)
{
    return gw->conf->enable_grpc_gateway && path_below(req).data != NULL;
}

static const ProtobufCMethodDescriptor *find_types(const char *service, const char *method)
{
    for (size_t i = 0; i < ARRAY_LEN(services); i++) {
        if (strcmp(services[i]->name, service) == 0)
            return protobuf_c_service_descriptor_get_method_by_name(services[i], method);
    }
    return NULL;
}

struct grpc_method *json_find_method(struct gatewayd *gw, const struct http_req *req,
                                     const ProtobufCMethodDescriptor **ret_types)
{
    struct bytes below = path_below(req);

    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        if (bytes_eq(bytes_str(paths[i].path), below)) {
            CLEANUP(freep) char *path = xasprintf("/%s/%s", paths[i].service, paths[i].method);

            *ret_types = find_types(paths[i].service, paths[i].method);
            assert(*ret_types != NULL);
            return grpc_find_method(gw->grpc, bytes_str(path));
        }
    }
    return NULL;
}

struct grpc_call *json_call_begin(struct gatewayd *gw, struct http_req *req,
                                  struct grpc_method *method, const ProtobufCMethodDescriptor *types,
                                  const struct grpc_writer *writer)
{
    struct json_call *j = xcalloc(1, sizeof(*j));

    j->types = types;
    return grpc_call_begin(gw->grpc, req, method, writer, j);
}

size_t json_body_limit(const struct gatewayd *gw)
{
    return BODY_BYTES_PER_REQUEST_BYTE * grpc_body_limit(gw);
}

enum http_body_mode json_gateway_on_headers(struct gatewayd *gw, struct http_req *req,
                                            size_t *body_bytes_max)
{
    const ProtobufCMethodDescriptor *types;
    struct grpc_method *method = json_find_method(gw, req, &types);

    *body_bytes_max = json_body_limit(gw);
    if (json_websocket_wanted(req) && !grpc_auth_name_is_ignored(gw, req))
        return json_websocket_on_headers(gw, req);
    if (method != NULL && method->secret)
        http_req_set_secret(req);
    if (method == NULL || method->type != GRPC_BIDI_STREAM ||
        !bytes_eq(http_req_method(req), BYTES_LIT("POST")) || grpc_auth_name_is_ignored(gw, req))
        return HTTP_BODY_BUFFER;
    grpc_call_run(json_call_begin(gw, req, method, types, &json_writer), BYTES_EMPTY);
    return HTTP_BODY_STREAM;
}

void json_gateway_on_request(struct gatewayd *gw, struct http_req *req)
{
    const ProtobufCMethodDescriptor *types;
    struct grpc_method *method = json_find_method(gw, req, &types);
    CLEANUP(freep) char *error = NULL;
    struct grpc_call *call;
    struct json_call *j;
    size_t used;
    int e;

    if (grpc_auth_name_is_ignored(gw, req)) {
        http_respond_text(req, 400, NULL,
                          BYTES_LIT("CommonName of client sending a request against gateway will be "
                                    "ignored and not used as expected\n"));
        return;
    }
    if (json_websocket_wanted(req)) {
        json_websocket_on_request(gw, req);
        return;
    }
    if (method == NULL) {
        respond_status(gw, req, GRPC_NOT_FOUND, "Not Found");
        return;
    }
    if (!bytes_eq(http_req_method(req), BYTES_LIT("POST"))) {
        respond_status(gw, req, GRPC_UNIMPLEMENTED, "Method Not Allowed");
        return;
    }
    call = json_call_begin(gw, req, method, types, &json_writer);
    j = call->writer_state;
    buf_reserve(&j->request, http_req_body(req).len); /* strings are no longer in wire form */
    e = json_to_pb(http_req_body(req), types->input, &j->request, &used, &error);
    if (e == -EAGAIN)
        grpc_fail(call, GRPC_INVALID_ARGUMENT, "unexpected EOF");
    else if (e == -EINVAL)
        grpc_fail(call, GRPC_INVALID_ARGUMENT, error);
    else
        grpc_call_run(call, buf_bytes(&j->request));
}

void json_gateway_on_too_large(struct gatewayd *gw, struct http_req *req)
{
    respond_status(gw, req, GRPC_RESOURCE_EXHAUSTED, "http: request body too large");
}

void json_take_messages(struct grpc_call *call, bool last)
{
    struct json_call *j = call->writer_state;
    size_t at = 0;

    while (!call->ended) {
        CLEANUP(buf_fini) struct buf message = BUF_INIT;
        CLEANUP(freep) char *error = NULL;
        size_t used;
        int e = json_to_pb(bytes_of(j->request.data + at, j->request.len - at), j->types->input,
                           &message, &used, &error);

        if (e == -EINVAL) {
            grpc_fail(call, GRPC_INVALID_ARGUMENT, error);
            return;
        }
        if (e != 0) {
            if (e == -EAGAIN && last)
                grpc_fail(call, GRPC_INVALID_ARGUMENT, "unexpected EOF");
            else if (e == -ENODATA)
                at += used;
            break;
        }
        at += used;
        grpc_call_message(call, buf_bytes(&message));
    }
    buf_consume(&j->request, at);
    if (!call->ended && j->request.len > json_body_limit(call->gw))
        grpc_fail(call, GRPC_RESOURCE_EXHAUSTED, "http: request body too large");
}

void json_gateway_on_data(struct gatewayd *gw, struct http_req *req, struct bytes data)
{
    struct grpc_call *call = http_req_user(req);
    struct json_call *j;

    if (call->ended)
        return;
    j = call->writer_state;
    if (j->ws != NULL) {
        json_websocket_on_data(call, data);
        return;
    }
    buf_append_bytes(&j->request, data);
    json_take_messages(call, false);
}

void json_gateway_on_end(struct gatewayd *gw, struct http_req *req)
{
    struct grpc_call *call = http_req_user(req);

    if (!call->ended)
        json_take_messages(call, true);
    if (!call->ended)
        grpc_call_half_close(call);
}
