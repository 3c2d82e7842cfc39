/*
 * See grpc.h. The method is found by hashing the path into a small open table filled at start.
 *
 * An answer of one part leaves as one http_respond (headers, message and trailers coalesced). A
 * larger one is passed on part by part: the 5-byte message prefix needs the total, which stored
 * tells with every part, and stored is told how much the client has taken (backend_consumed), so
 * a client that does not read holds at most one window here.
 */
#include "gatewayd/grpc.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "gatewayd/gatewayd.h"
#include "lib/http/http_server.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/util/utf8.h"
#include "lib/util/shared_bytes.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

enum {
    METHOD_SLOTS = 256,            /* power of two, several times the number of methods */
    MESSAGE_PREFIX_BYTES = GRPC_PREFIX_BYTES, /* compressed flag, length BE32 */
    RECEIVE_OVERHEAD_BYTES = 512 << 10, /* etcd: grpcOverheadBytes */
    /* What etcd adds around the client's bytes before it compares with max-request-bytes: the
     * field's tag and length, and a header with a 64-bit id (etcd raft_internal.proto). */
    RAFT_REQUEST_OVERHEAD_BYTES = 18,
    ELECTION_TIMEOUT_MS_DEFAULT = 1000, /* until raftd has told */
    LEADERLESS_TIMEOUTS = 3, /* election timeouts, then streams that require a leader end (etcd:
                                maxNoLeaderCnt) */
    PARTIAL_KEEP_BYTES = 4096, /* of buffer, between messages of a stream */
};

#define MS UINT64_C(1000000) /* in ns */
/* prometheus.DefBuckets, which grpc-prometheus takes. */
static const uint64_t handling_bounds_ns[] = {
    5 * MS,   10 * MS,   25 * MS,   50 * MS,   100 * MS,  250 * MS,
    500 * MS, 1000 * MS, 2500 * MS, 5000 * MS, 10000 * MS,
};

struct method_slot {
    char *path;
    size_t path_len;
    struct grpc_method *method;
};

struct grpc_service {
    struct gatewayd *gw;
    struct method_slot slots[METHOD_SLOTS];
    uint64_t bytes_received, bytes_sent;
    struct list streams; /* struct grpc_call.stream_node */
    struct loop_timer *leaderless_timer; /* active: there is no leader, for a short time so far */
    bool leaderless;                     /* it fired */
};

static struct grpc_method *const services[] = {
    grpc_kv_methods,    grpc_watch_methods, grpc_lease_methods,
    grpc_cluster_methods, grpc_maintenance_methods, grpc_auth_methods,
    grpc_lock_methods,  grpc_election_methods, grpc_health_methods,
};

/* ---- the method table ---- */

static size_t hash_path(struct bytes path)
{
    uint32_t h = 2166136261U; /* FNV-1a */

    for (size_t i = 0; i < path.len; i++)
        h = (h ^ path.data[i]) * 16777619U;
    return (h ^ (h >> 16)) & (METHOD_SLOTS - 1);
}

static struct method_slot *find_slot(struct grpc_service *s, struct bytes path)
{
    size_t i = hash_path(path);

    while (s->slots[i].path != NULL &&
           !bytes_eq(bytes_of(s->slots[i].path, s->slots[i].path_len), path))
        i = (i + 1) & (METHOD_SLOTS - 1);
    return &s->slots[i];
}

static void on_leaderless(void *user);

struct grpc_service *grpc_service_new(struct gatewayd *gw)
{
    struct grpc_service *s = xcalloc(1, sizeof(*s));

    s->gw = gw;
    list_init(&s->streams);
    s->leaderless_timer = loop_timer_new(gw->loop, "no leader", on_leaderless, s);
    loop_timer_start(s->leaderless_timer, LEADERLESS_TIMEOUTS * ELECTION_TIMEOUT_MS_DEFAULT, 0);
    for (size_t i = 0; i < ARRAY_LEN(services); i++) {
        for (struct grpc_method *m = services[i]; m->name != NULL; m++) {
            char *path = xasprintf("/%s/%s", m->service, m->name);
            struct method_slot *slot = find_slot(s, bytes_str(path));

            assert(slot->path == NULL);
            m->auth = grpc_auth_of(m);
            m->stats.handling.bounds_ns = handling_bounds_ns;
            m->stats.handling.buckets = ARRAY_LEN(handling_bounds_ns);
            *slot = (struct method_slot){path, strlen(path), m};
        }
    }
    return s;
}

void grpc_service_free(struct grpc_service *s)
{
    if (s == NULL)
        return;
    for (size_t i = 0; i < METHOD_SLOTS; i++)
        free(s->slots[i].path);
    assert(list_empty(&s->streams));
    loop_timer_free(s->leaderless_timer);
    free(s);
}

void grpc_each_method(const struct grpc_service *s,
                      void (*visit)(void *user, const struct grpc_method *m), void *user)
{
    for (size_t i = 0; i < ARRAY_LEN(services); i++)
        for (const struct grpc_method *m = services[i]; m->name != NULL; m++)
            visit(user, m);
}

uint64_t grpc_bytes_received(const struct grpc_service *s)
{
    return s->bytes_received;
}

uint64_t grpc_bytes_sent(const struct grpc_service *s)
{
    return s->bytes_sent;
}

size_t grpc_body_limit(const struct gatewayd *gw)
{
    return gw->conf->max_request_bytes + RECEIVE_OVERHEAD_BYTES + MESSAGE_PREFIX_BYTES;
}

/* ---- answers ---- */

static const struct http_header content_type = HTTP_HEADER("content-type", "application/grpc");

static void count_end(struct grpc_call *call, enum grpc_code code)
{
    struct grpc_method_stats *stats = &call->method->stats;

    assert(!call->ended);
    call->ended = true;
    stats->handled[code]++;
    metrics_histogram_add(&stats->handling, loop_now_ns(call->gw->loop) - call->started_ns);
}

/* Status without a message: the "Trailers-Only" form. */
static void respond_status(struct http_req *req, enum grpc_code code, struct bytes text)
{
    CLEANUP(buf_fini) struct buf message = BUF_INIT;
    char number[12];
    struct http_header headers[3] = {content_type};

    grpc_message_encode(&message, text);
    snprintf(number, sizeof(number), "%d", (int)code);
    headers[1] = (struct http_header){BYTES_LIT("grpc-status"), bytes_str(number)};
    headers[2] = (struct http_header){BYTES_LIT("grpc-message"), buf_bytes(&message)};
    http_respond(req, &(struct http_response){.status = 200, .headers = headers, .header_count = 3});
}

void grpc_put_prefix(uint8_t prefix[GRPC_PREFIX_BYTES], size_t len)
{
    prefix[0] = 0; /* not compressed */
    wire_store_be32(prefix + 1, (uint32_t)len);
}

static const struct http_header trailer_ok = HTTP_HEADER("grpc-status", "0");

static void wire_reply(struct grpc_call *call, struct bytes message)
{
    uint8_t prefix[MESSAGE_PREFIX_BYTES];
    struct bytes body[2] = {bytes_of(prefix, sizeof(prefix)), message};

    grpc_put_prefix(prefix, message.len);
    http_respond(call->req, &(struct http_response){
                                .status = 200,
                                .headers = &content_type,
                                .header_count = 1,
                                .body = body,
                                .body_count = 2,
                                .trailers = &trailer_ok,
                                .trailer_count = 1,
                            });
}

static void wire_begin(struct grpc_call *call)
{
    http_respond_begin(call->req, 200, &content_type, 1);
}

static void wire_data(struct grpc_call *call, const struct bytes *pieces, size_t piece_count)
{
    http_respond_data(call->req, pieces, piece_count);
}

static void wire_data_shared(struct grpc_call *call, struct shared_bytes *shared, size_t off,
                             size_t len)
{
    http_respond_shared(call->req, shared, off, len);
}

static void wire_end(struct grpc_call *call, enum grpc_code code, const char *text)
{
    CLEANUP(buf_fini) struct buf message = BUF_INIT;
    struct http_header trailers[2];
    char number[12];

    if (!call->streaming) {
        respond_status(call->req, code, bytes_str(text));
        return;
    }
    if (code != GRPC_OK && call->method->type == GRPC_UNARY) {
        http_req_reset(call->req, HTTP_RESET_INTERNAL_ERROR); /* a cut message has no status */
        return;
    }
    grpc_message_encode(&message, bytes_str(text));
    snprintf(number, sizeof(number), "%d", (int)code);
    trailers[0] = (struct http_header){BYTES_LIT("grpc-status"), bytes_str(number)};
    trailers[1] = (struct http_header){BYTES_LIT("grpc-message"), buf_bytes(&message)};
    http_respond_end(call->req, trailers, message.len != 0 ? 2 : 1);
}

static const struct grpc_writer wire_writer = {
    .reply = wire_reply,
    .begin = wire_begin,
    .data = wire_data,
    .data_shared = wire_data_shared,
    .end = wire_end,
};

void grpc_reply(struct grpc_call *call, struct bytes message)
{
    count_end(call, GRPC_OK);
    call->method->stats.messages_sent++;
    call->gw->grpc->bytes_sent += message.len;
    call->writer->reply(call, message);
}

void grpc_fail(struct grpc_call *call, enum grpc_code code, const char *text)
{
    assert(code != GRPC_OK);
    grpc_stream_end(call, code, text);
}

void grpc_fail_outcome(struct grpc_call *call, int outcome)
{
    struct grpc_status status = grpc_status_of_outcome(outcome);

    if (outcome == OUT_TIMEOUT && call->deadline_ns != 0 &&
        loop_now_ns(call->gw->loop) >= call->deadline_ns)
        status = (struct grpc_status){GRPC_DEADLINE_EXCEEDED, "context deadline exceeded"};
    grpc_fail(call, status.code, status.text);
}

/* ---- streams ---- */

static void stream_begin(struct grpc_call *call)
{
    if (call->streaming)
        return;
    call->streaming = true;
    call->writer->begin(call);
}

void grpc_stream_write(struct grpc_call *call, struct bytes framed, size_t message_count)
{
    assert(!call->ended);
    stream_begin(call);
    call->method->stats.messages_sent += message_count;
    call->gw->grpc->bytes_sent += framed.len - message_count * MESSAGE_PREFIX_BYTES;
    call->writer->data(call, &framed, 1);
}

void grpc_stream_write_shared(struct grpc_call *call, struct shared_bytes *shared, size_t off,
                              size_t len)
{
    const struct bytes piece = bytes_of(shared->data + off, len);

    assert(!call->ended && call->streaming);
    call->gw->grpc->bytes_sent += len;
    if (call->writer->data_shared != NULL)
        call->writer->data_shared(call, shared, off, len);
    else
        call->writer->data(call, &piece, 1);
}

void grpc_stream_send(struct grpc_call *call, struct bytes message)
{
    uint8_t prefix[MESSAGE_PREFIX_BYTES];
    struct bytes pieces[2] = {bytes_of(prefix, sizeof(prefix)), message};

    assert(!call->ended);
    stream_begin(call);
    grpc_put_prefix(prefix, message.len);
    call->method->stats.messages_sent++;
    call->gw->grpc->bytes_sent += message.len;
    call->writer->data(call, pieces, 2);
}

size_t grpc_stream_queued(const struct grpc_call *call)
{
    return http_req_queued(call->req);
}

void grpc_stream_end(struct grpc_call *call, enum grpc_code code, const char *text)
{
    count_end(call, code);
    list_remove(&call->stream_node);
    call->writer->end(call, code, text);
}

static void on_deadline(void *user)
{
    struct grpc_call *call = user;

    if (!call->ended)
        grpc_fail(call, GRPC_DEADLINE_EXCEEDED, "context deadline exceeded");
}

void grpc_call_waits(struct grpc_call *call)
{
    if (call->method->type != GRPC_UNARY) {
        list_remove(&call->stream_node);
        list_push_back(&call->gw->grpc->streams, &call->stream_node);
    }
    if (call->deadline_ns == 0 || call->deadline_timer != NULL)
        return;
    call->deadline_timer = loop_timer_new(call->gw->loop, "call deadline", on_deadline, call);
    loop_timer_start(call->deadline_timer, (call->deadline_ns - call->started_ns) / 1000000 + 1, 0);
}

static void end_streams(struct grpc_service *s, int outcome, bool only_requiring_leader)
{
    LIST_FOREACH_SAFE (it, next, &s->streams) {
        struct grpc_call *call = LIST_ENTRY(it, struct grpc_call, stream_node);

        if (!only_requiring_leader || call->requires_leader)
            grpc_fail_outcome(call, outcome);
    }
}

void grpc_end_streams(struct grpc_service *s)
{
    end_streams(s, OUT_STOPPED, false);
}

static void on_leaderless(void *user)
{
    struct grpc_service *s = user;

    s->leaderless = true;
    end_streams(s, OUT_NO_LEADER, true);
}

void grpc_on_leader_change(struct grpc_service *s)
{
    const struct proto_raft_status *raft = backend_status(s->gw->backend);
    uint64_t election_ms =
        raft->election_timeout_ms != 0 ? raft->election_timeout_ms : ELECTION_TIMEOUT_MS_DEFAULT;

    if (raft->leader_id != 0) {
        loop_timer_stop(s->leaderless_timer);
        s->leaderless = false;
    } else if (!s->leaderless && !loop_timer_active(s->leaderless_timer))
        loop_timer_start(s->leaderless_timer, LEADERLESS_TIMEOUTS * election_ms, 0);
}

/* ---- passing an answer of stored on ---- */

static void relay_part(struct grpc_call *call, struct bytes part, uint64_t total_bytes)
{
    uint8_t prefix[MESSAGE_PREFIX_BYTES];
    struct bytes pieces[2] = {bytes_of(prefix, sizeof(prefix)), part};

    if (call->streaming) {
        call->writer->data(call, &part, 1);
    } else {
        stream_begin(call);
        grpc_put_prefix(prefix, total_bytes);
        call->writer->data(call, pieces, 2);
    }
    if (call->backend.received_bytes != total_bytes) {
        if (http_req_queued(call->req) == 0)
            backend_consumed(call->gw->backend, &call->backend);
        return;
    }
    count_end(call, GRPC_OK);
    call->method->stats.messages_sent++;
    call->gw->grpc->bytes_sent += total_bytes;
    call->writer->end(call, GRPC_OK, "");
}

/* More parts may be on their way: they must find no call. */
static void relay_refuse(struct grpc_call *call)
{
    backend_cancel(call->gw->backend, &call->backend);
    grpc_fail(call, GRPC_RESOURCE_EXHAUSTED, "grpc: trying to send message larger than max");
}

static void relay_done(struct backend_call *backend, int outcome, struct bytes part,
                       uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);

    if (outcome != OUT_OK && grpc_auth_again(call, outcome))
        return;
    if (outcome == OUT_TIMEOUT && call->method->on_late != NULL)
        call->method->on_late(call);
    else if (outcome != OUT_OK)
        grpc_fail_outcome(call, outcome);
    else if (!call->streaming && part.len == total_bytes)
        grpc_reply(call, part);
    else if (total_bytes > UINT32_MAX)
        relay_refuse(call);
    else
        relay_part(call, part, total_bytes);
}

void grpc_forward_proposal(struct grpc_call *call, enum proto_kind kind)
{
    if (call->message.len + RAFT_REQUEST_OVERHEAD_BYTES > call->gw->conf->max_request_bytes) {
        grpc_fail_outcome(call, OUT_REQUEST_TOO_LARGE);
        return;
    }
    grpc_forward_proposal_of(call, kind, call->message);
}

void grpc_forward_proposal_of(struct grpc_call *call, enum proto_kind kind, struct bytes body)
{
    call->backend.done = relay_done;
    call->backend.body = body;
    call->backend.deadline_ns = call->deadline_ns;
    backend_propose(call->gw->backend, &call->backend, kind);
}

void grpc_forward_read(struct grpc_call *call, enum proto_read_kind kind, bool linearizable)
{
    call->backend.done = relay_done;
    call->backend.body = call->message;
    call->backend.deadline_ns = call->deadline_ns;
    backend_read(call->gw->backend, &call->backend, kind, linearizable);
}

/* ---- requests ---- */

bool grpc_is_request(const struct http_req *req)
{
    static const struct bytes want = BYTES_LIT("application/grpc");
    struct bytes type = http_req_header(req, "content-type");

    return http_req_version(req) == HTTP_VERSION_2 && type.len >= want.len &&
           memcmp(type.data, want.data, want.len) == 0 &&
           (type.len == want.len || type.data[want.len] == '+' || type.data[want.len] == ';');
}

/* grpc-timeout: at most 8 digits and a unit. 0: absent or not understood. */
static uint64_t timeout_ns(struct bytes text)
{
    uint64_t value = 0;

    if (text.len < 2 || text.len > 9)
        return 0;
    for (size_t i = 0; i < text.len - 1; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return 0;
        value = value * 10 + (uint64_t)(text.data[i] - '0');
    }
    switch (text.data[text.len - 1]) {
    case 'H':
        return value * 3600 * 1000000000;
    case 'M':
        return value * 60 * 1000000000;
    case 'S':
        return value * 1000000000;
    case 'm':
        return value * 1000000;
    case 'u':
        return value * 1000;
    case 'n':
        return value;
    }
    return 0;
}

static void respond_unknown_path(struct grpc_service *s, struct http_req *req)
{
    CLEANUP(freep) char *text = NULL;
    struct bytes path = http_req_path(req);
    const char *p = (const char *)path.data, *slash;
    int service_len, method_len;

    if (path.len < 2 || p[0] != '/' || (slash = memrchr(p + 1, '/', path.len - 1)) == NULL) {
        text = xasprintf("malformed method name: \"%.*s\"", (int)path.len, p);
        respond_status(req, GRPC_UNIMPLEMENTED, bytes_str(text));
        return;
    }
    service_len = (int)(slash - p - 1);
    method_len = (int)(path.len - (size_t)service_len - 2);
    for (size_t i = 0; i < ARRAY_LEN(services) && text == NULL; i++)
        if (bytes_eq(bytes_str(services[i]->service), bytes_of(p + 1, (size_t)service_len)))
            text = xasprintf("unknown method %.*s for service %.*s", method_len, slash + 1,
                             service_len, p + 1);
    if (text == NULL)
        text = xasprintf("unknown service %.*s", service_len, p + 1);
    respond_status(req, GRPC_UNIMPLEMENTED, bytes_str(text));
}

/* Takes the single message out of the body of a unary call. NULL: fine, else the error's text. */
static const char *unwrap(struct grpc_call *call, enum grpc_code *ret_code)
{
    struct bytes body = http_req_body(call->req);

    *ret_code = GRPC_INTERNAL;
    if (body.len < MESSAGE_PREFIX_BYTES)
        return body.len == 0 ? "cardinality violation: received no request message from non-client-streaming RPC"
                             : "unexpected EOF";
    if (body.data[0] != 0) {
        *ret_code = GRPC_UNIMPLEMENTED;
        return "grpc: Decompressor is not installed for the request's grpc-encoding";
    }
    if (wire_load_be32(body.data + 1) > body.len - MESSAGE_PREFIX_BYTES)
        return "unexpected EOF";
    if (wire_load_be32(body.data + 1) < body.len - MESSAGE_PREFIX_BYTES)
        return "cardinality violation: received multiple request messages for non-client-streaming RPC";
    call->message = bytes_of(body.data + MESSAGE_PREFIX_BYTES, body.len - MESSAGE_PREFIX_BYTES);
    return NULL;
}

static struct grpc_call *call_new(struct grpc_service *s, struct http_req *req,
                                  struct grpc_method *method)
{
    struct grpc_call *call = xcalloc(1, sizeof(*call));
    uint64_t timeout = timeout_ns(http_req_header(req, "grpc-timeout"));

    call->gw = s->gw;
    call->method = method;
    call->req = req;
    call->writer = &wire_writer;
    call->started_ns = loop_now_ns(s->gw->loop);
    if (timeout != 0)
        call->deadline_ns = call->started_ns + timeout;
    method->stats.started++;
    list_init(&call->stream_node);
    http_req_set_user(req, call);
    return call;
}

struct bytes grpc_call_metadata(const struct grpc_call *call, const char *name)
{
    CLEANUP(freep) char *header = NULL;

    if (call->writer->metadata_prefix == NULL)
        return http_req_header(call->req, name);
    header = xasprintf("%s%s", call->writer->metadata_prefix, name);
    return http_req_header(call->req, header);
}

/* etcd metadata "hasleader: true": fail at once rather than wait for a leader. */
static bool leader_required(const struct grpc_call *call)
{
    return bytes_eq(grpc_call_metadata(call, "hasleader"), BYTES_LIT("true"));
}

/* A stream may begin while one of our daemons restarts or an election is on, and ends as all others do
 * when no leader comes: clients (etcdctl) give up for good when they are told. */
static bool misses_leader(const struct grpc_call *call)
{
    const struct backend *backend = call->gw->backend;

    if (call->method->type == GRPC_BIDI_STREAM)
        return call->gw->grpc->leaderless;
    return backend_ready(backend) && backend_status(backend)->leader_id == 0;
}

/* Whether a call may begin: else it was failed. */
static bool admit(struct grpc_call *call)
{
    const struct proto_raft_status *raft = backend_status(call->gw->backend);

    if (call->method->handler == NULL) {
        CLEANUP(freep)
        char *text =
            xasprintf("%s.%s is not implemented", call->method->service, call->method->name);

        grpc_fail(call, GRPC_UNIMPLEMENTED, text);
        return false;
    }
    call->requires_leader = leader_required(call);
    if (raft->is_learner && !call->method->learner)
        grpc_fail_outcome(call, OUT_NOT_SUPPORTED_FOR_LEARNER);
    else if (!utf8_valid(grpc_call_metadata(call, "client-api-version")))
        grpc_fail_outcome(call, OUT_INVALID_CLIENT_API_VERSION);
    else if (call->requires_leader && misses_leader(call))
        grpc_fail_outcome(call, OUT_NO_LEADER);
    return !call->ended;
}

static void run_stream(struct grpc_call *call)
{
    grpc_call_waits(call);
    grpc_auth_run(call);
}

enum http_body_mode grpc_on_headers(struct grpc_service *s, struct http_req *req)
{
    struct grpc_method *method = find_slot(s, http_req_path(req))->method;
    struct grpc_call *call;

    if (method != NULL && method->secret)
        http_req_set_secret(req);
    if (method == NULL || method->type != GRPC_BIDI_STREAM ||
        !bytes_eq(http_req_method(req), BYTES_LIT("POST")))
        return HTTP_BODY_BUFFER;
    call = call_new(s, req, method);
    if (admit(call))
        run_stream(call);
    return HTTP_BODY_STREAM;
}

/* Takes one whole message off the front of *data. False: there is none, or the call has failed. */
static bool next_message(struct grpc_call *call, struct bytes *data, struct bytes *ret)
{
    size_t max = call->gw->conf->max_request_bytes + RECEIVE_OVERHEAD_BYTES, len;

    if (call->ended || data->len < MESSAGE_PREFIX_BYTES)
        return false;
    len = wire_load_be32(data->data + 1);
    if (data->data[0] != 0) {
        grpc_fail(call, GRPC_UNIMPLEMENTED,
                  "grpc: Decompressor is not installed for the request's grpc-encoding");
        return false;
    }
    if (len > max) {
        CLEANUP(freep)
        char *text =
            xasprintf("grpc: received message larger than max (%zu vs. %zu)", len, max);

        grpc_fail(call, GRPC_RESOURCE_EXHAUSTED, text);
        return false;
    }
    if (data->len - MESSAGE_PREFIX_BYTES < len)
        return false;
    *ret = bytes_of(data->data + MESSAGE_PREFIX_BYTES, len);
    data->data += MESSAGE_PREFIX_BYTES + len;
    data->len -= MESSAGE_PREFIX_BYTES + len;
    return true;
}

void grpc_call_message(struct grpc_call *call, struct bytes message)
{
    call->method->stats.messages_received++;
    call->gw->grpc->bytes_received += message.len;
    if (call->method->auth == GRPC_AUTH_STREAM)
        grpc_auth_message(call, message);
    else
        call->method->on_message(call, message);
}

void grpc_call_half_close(struct grpc_call *call)
{
    if (call->method->auth == GRPC_AUTH_STREAM)
        grpc_auth_half_close(call);
    else if (call->method->on_half_closed != NULL)
        call->method->on_half_closed(call);
}

void grpc_on_data(struct grpc_service *s, struct http_req *req, struct bytes data)
{
    struct grpc_call *call = http_req_user(req);
    bool was_partial = call->partial.len != 0;
    struct bytes message;

    if (was_partial) {
        buf_append_bytes(&call->partial, data);
        data = buf_bytes(&call->partial);
    }
    while (next_message(call, &data, &message))
        grpc_call_message(call, message);
    if (was_partial)
        buf_consume(&call->partial, call->partial.len - data.len);
    else
        buf_append_bytes(&call->partial, data);
    if (call->partial.len == 0)
        buf_trim(&call->partial, PARTIAL_KEEP_BYTES);
}

void grpc_on_end(struct grpc_service *s, struct http_req *req)
{
    struct grpc_call *call = http_req_user(req);

    if (call->ended)
        return;
    if (call->partial.len != 0)
        grpc_fail(call, GRPC_INTERNAL, "unexpected EOF");
    else
        grpc_call_half_close(call);
}

static void run_request(struct grpc_call *call)
{
    call->method->stats.messages_received++;
    call->gw->grpc->bytes_received += call->message.len;
    grpc_auth_run(call);
}

void grpc_on_request(struct grpc_service *s, struct http_req *req)
{
    struct grpc_method *method = find_slot(s, http_req_path(req))->method;
    struct grpc_call *call;
    enum grpc_code code;
    const char *error;

    if (!bytes_eq(http_req_method(req), BYTES_LIT("POST"))) {
        http_respond_text(req, 405, NULL, BYTES_LIT("Method Not Allowed\n"));
        return;
    }
    if (method == NULL) {
        respond_unknown_path(s, req);
        return;
    }
    call = call_new(s, req, method);
    if (!admit(call))
        return;
    error = unwrap(call, &code);
    if (error != NULL) {
        grpc_fail(call, code, error);
        return;
    }
    run_request(call);
}

/* ---- behind another protocol ---- */

struct grpc_method *grpc_find_method(struct grpc_service *s, struct bytes path)
{
    return find_slot(s, path)->method;
}

struct grpc_call *grpc_call_begin(struct grpc_service *s, struct http_req *req,
                                  struct grpc_method *method, const struct grpc_writer *writer,
                                  void *writer_state)
{
    struct grpc_call *call = call_new(s, req, method);

    call->writer = writer;
    call->writer_state = writer_state;
    call->behind_gateway = true;
    return call;
}

void grpc_call_run(struct grpc_call *call, struct bytes message)
{
    if (!admit(call))
        return;
    if (call->method->type == GRPC_BIDI_STREAM) {
        run_stream(call);
    } else {
        call->message = message;
        run_request(call);
    }
}

void grpc_on_too_large(struct grpc_service *s, struct http_req *req)
{
    struct grpc_method *method = find_slot(s, http_req_path(req))->method;
    struct bytes body = http_req_body(req);
    size_t max = s->gw->conf->max_request_bytes + RECEIVE_OVERHEAD_BYTES;
    CLEANUP(freep) char *text = NULL;
    struct grpc_call *call;

    if (method == NULL) {
        respond_unknown_path(s, req);
        return;
    }
    call = call_new(s, req, method);
    if (body.len >= MESSAGE_PREFIX_BYTES)
        text = xasprintf("grpc: received message larger than max (%u vs. %zu)",
                         wire_load_be32(body.data + 1), max);
    else
        text = xasprintf("grpc: received message larger than max (%zu)", max);
    grpc_fail(call, GRPC_RESOURCE_EXHAUSTED, text);
}

/* The client took all we had: stored may send the next window. */
void grpc_on_drained(struct grpc_service *s, struct http_req *req)
{
    struct grpc_call *call = http_req_user(req);

    if (call == NULL || !call->streaming || call->ended)
        return;
    if (call->method->on_drained != NULL)
        call->method->on_drained(call);
    else if (call->method->type != GRPC_BIDI_STREAM)
        backend_consumed(s->gw->backend, &call->backend);
}

void grpc_on_closed(struct grpc_service *s, struct http_req *req)
{
    struct grpc_call *call = http_req_user(req);

    if (call == NULL)
        return;
    backend_cancel(s->gw->backend, &call->backend);
    grpc_auth_end(call);
    if (call->free_state != NULL)
        call->free_state(call);
    if (!call->ended)
        count_end(call, GRPC_CANCELED);
    if (call->writer->closed != NULL)
        call->writer->closed(call);
    list_remove(&call->stream_node);
    loop_timer_free(call->deadline_timer);
    buf_fini(&call->partial);
    free(call);
}
