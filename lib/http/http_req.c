/*
 * The exchange: a request on its way in, its handler's answer on the way out, and the promise that
 * on_closed comes exactly once. Both protocols feed it from below (http_req_on_*) and take answers
 * through their struct http_proto.
 *
 * Request objects are pooled by the server: with their field table, a small arena for copies of
 * answer headers and short bodies, and a body buffer that is kept while it is small, a usual gRPC
 * call allocates nothing here.
 */
#include "lib/http/http_internal.h"

#include <assert.h>
#include <stdlib.h>
#include "lib/util/shared_bytes.h"
#include "lib/util/xmalloc.h"

struct http_req *http_req_new(struct http_conn *conn, enum http_version version)
{
    struct http_server *server = conn->server;
    struct list *node = list_pop_front(&server->req_pool);
    struct http_req *req;

    if (node != NULL) {
        server->req_pool_count--;
        req = LIST_ENTRY(node, struct http_req, link);
    } else {
        req = xmalloc(sizeof(*req));
        req->text = BUF_INIT;
        req->body = BUF_INIT;
        list_init(&req->link);
        list_init(&req->drain_link);
    }
    req->conn = conn;
    req->user = NULL;
    req->method = req->path = req->authority = BYTES_EMPTY;
    req->fields = req->inline_fields;
    req->field_count = 0;
    req->field_cap = HTTP_REQ_FIELDS;
    req->header_bytes = 0;
    req->body_bytes_max = 0;
    req->body_left = UINT64_MAX;
    req->malformed = false;
    req->scheme_seen = false;
    req->pseudo_refs[0] = req->pseudo_refs[1] = req->pseudo_refs[2] = NULL;
    req->start_ms = conn->read_ms;
    req->stream_id = 0;
    req->mode = HTTP_BODY_BUFFER;
    req->version = version;
    req->seen = req->headers_too_large = req->body_complete = req->discard = false;
    req->secret = false;
    req->answered = req->answered_here = req->ended = req->head = false;
    req->drain_due = req->deferred = req->chunked = req->rst_sent = false;
    req->chunks = (struct http_chunk_queue){NULL, NULL};
    req->queued = 0;
    req->trailers = NULL;
    req->trailer_count = 0;
    req->overflow = NULL;
    req->arena_used = 0;
    list_push_back(&conn->reqs, &req->link);
    conn->req_count++;
    server->counters.requests++;
    server->counters.requests_total++;
    return req;
}

void *http_req_alloc(struct http_req *req, size_t len)
{
    size_t at = (req->arena_used + 7) & ~(size_t)7;
    void **block;

    if (at <= sizeof(req->arena) && len <= sizeof(req->arena) - at) {
        req->arena_used = at + len;
        return req->arena + at;
    }
    block = xmalloc(16 + len);
    *block = req->overflow;
    req->overflow = block;
    return (uint8_t *)block + 16;
}

struct http_field *http_req_add_field(struct http_req *req)
{
    struct http_field *f;

    if (req->field_count == req->field_cap) {
        size_t cap = req->field_cap * 2;
        struct http_field *grown = xreallocarray(NULL, cap, sizeof(*grown));

        memcpy(grown, req->fields, req->field_count * sizeof(*grown));
        if (req->fields != req->inline_fields)
            free(req->fields);
        req->fields = grown;
        req->field_cap = cap;
    }
    f = &req->fields[req->field_count++];
    *f = (struct http_field){0};
    return f;
}

static void req_free(struct http_req *req)
{
    buf_fini(&req->text);
    buf_fini(&req->body);
    free(req);
}

static void body_drop(struct http_req *req)
{
    req->conn->server->counters.buffered_bytes -= req->body.len;
    if (req->secret)
        buf_wipe(&req->body);
    buf_clear(&req->body);
    buf_trim(&req->body, HTTP_REQ_BODY_KEEP_BYTES);
}

static void req_release(struct http_req *req)
{
    struct http_conn *conn = req->conn;
    struct http_server *server = conn->server;
    struct http_chunk *c;
    void *block = req->overflow;

    conn->proto->release(req);
    body_drop(req);
    buf_clear(&req->text);
    buf_trim(&req->text, HTTP_REQ_BODY_KEEP_BYTES);
    conn->queued -= req->queued;
    while ((c = http_chunk_pop(&req->chunks)) != NULL)
        if (c->heap)
            http_chunk_push(&conn->spent, c); /* output of this round may point at it */
    while (block != NULL) {
        void *next = *(void **)block;

        free(block);
        block = next;
    }
    if (req->fields != req->inline_fields)
        free(req->fields);
    list_remove(&req->drain_link);
    list_remove(&req->link);
    conn->req_count--;
    server->counters.requests--;
    if (server->req_pool_count >= HTTP_REQ_POOL_MAX) {
        req_free(req);
        return;
    }
    list_push_front(&server->req_pool, &req->link);
    server->req_pool_count++;
}

void http_req_pool_free(struct http_server *server)
{
    struct list *node;

    while ((node = list_pop_front(&server->req_pool)) != NULL)
        req_free(LIST_ENTRY(node, struct http_req, link));
    server->req_pool_count = 0;
}

void http_req_close(struct http_req *req)
{
    const struct http_server *server = req->conn->server;

    if (req->seen)
        server->handler->on_closed(server->user, req);
    req_release(req);
}

/* Input */

static void req_too_large(struct http_req *req)
{
    const struct http_server *server = req->conn->server;

    req->discard = true;
    if (server->handler->on_too_large != NULL)
        server->handler->on_too_large(server->user, req);
    else
        http_req_refuse(req, 413);
}

void http_req_on_headers(struct http_req *req, bool has_body, uint64_t content_length_or_max)
{
    struct http_server *server = req->conn->server;

    if (req->authority.data == NULL)
        req->authority = http_req_header(req, "host");
    req->head = req->method.len == 4 && memcmp(req->method.data, "HEAD", 4) == 0;
    req->body_bytes_max = server->limits.body_bytes_max;
    req->seen = true;
    req->mode = server->handler->on_headers(server->user, req, &req->body_bytes_max);
    if (req->ended) {
        req->discard = true;
        return;
    }
    if (!has_body)
        return;
    if (req->mode == HTTP_BODY_BUFFER && content_length_or_max != UINT64_MAX) {
        if (content_length_or_max > req->body_bytes_max)
            req_too_large(req);
    }
    if (!req->discard && !req->answered) {
        struct bytes expect = http_req_header(req, "expect");

        if (UNLIKELY(expect.len == 12 &&
                     strncasecmp((const char *)expect.data, "100-continue", 12) == 0))
            req->conn->proto->proceed(req);
    }
}

void http_req_on_data(struct http_req *req, const uint8_t *data, size_t len)
{
    struct http_server *server = req->conn->server;
    uint64_t *buffered = &server->counters.buffered_bytes;

    if (req->secret)
        server->read_secret = true;
    if (req->discard || req->ended || !req->seen || len == 0)
        return;
    if (req->mode == HTTP_BODY_STREAM) {
        server->handler->on_data(server->user, req, bytes_of(data, len));
        return;
    }
    if (len > req->body_bytes_max - MIN(req->body.len, req->body_bytes_max)) {
        /* the start of the body says how long a gRPC message claims to be */
        if (req->body.len < 16) {
            size_t n = MIN(len, (size_t)16);

            buf_append(&req->body, data, n);
            *buffered += n;
        }
        req_too_large(req);
        return;
    }
    if (len >
        server->limits.buffered_bytes_max - MIN(*buffered, server->limits.buffered_bytes_max)) {
        body_drop(req);
        req->discard = true;
        if (req->version == HTTP_VERSION_2)
            http_req_reset(req, HTTP_RESET_REFUSED_STREAM);
        else
            http_req_refuse(req, 503);
        return;
    }
    if (req->secret)
        buf_append_secret(&req->body, data, len);
    else
        buf_append(&req->body, data, len);
    *buffered += len;
}

void http_req_on_end(struct http_req *req)
{
    const struct http_server *server = req->conn->server;

    req->body_complete = true;
    if (req->discard || req->ended || !req->seen)
        return;
    if (req->mode == HTTP_BODY_STREAM)
        server->handler->on_end(server->user, req);
    else
        server->handler->on_request(server->user, req);
}

void http_req_on_drained(struct http_req *req)
{
    const struct http_server *server = req->conn->server;

    req->drain_due = false;
    if (!req->ended && server->handler->on_drained != NULL)
        server->handler->on_drained(server->user, req);
}

/* Accessors */

void http_req_set_user(struct http_req *req, void *user)
{
    req->user = user;
}

void *http_req_user(const struct http_req *req)
{
    return req->user;
}

enum http_version http_req_version(const struct http_req *req)
{
    return req->version;
}

struct bytes http_req_method(const struct http_req *req)
{
    return req->method;
}

struct bytes http_req_path(const struct http_req *req)
{
    return req->path;
}

struct bytes http_req_authority(const struct http_req *req)
{
    return req->authority;
}

struct bytes http_req_scheme(const struct http_req *req)
{
    return bytes_str(req->conn->transport.ops->scheme);
}

struct bytes http_req_header(const struct http_req *req, const char *name)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < req->field_count; i++) {
        const struct http_field *f = &req->fields[i];

        if (f->name.len == len && memcmp(f->name.data, name, len) == 0)
            return f->value.data != NULL ? f->value : BYTES_LIT("");
    }
    return BYTES_EMPTY;
}

size_t http_req_header_count(const struct http_req *req)
{
    return req->field_count;
}

struct http_header http_req_header_at(const struct http_req *req, size_t i)
{
    assert(i < req->field_count);
    return (struct http_header){req->fields[i].name, req->fields[i].value};
}

void http_req_set_secret(struct http_req *req)
{
    req->secret = true;
}

struct bytes http_req_body(const struct http_req *req)
{
    return buf_bytes(&req->body);
}

const char *http_req_peer(const struct http_req *req)
{
    return req->conn->peer;
}

uint64_t http_req_conn_id(const struct http_req *req)
{
    return req->conn->id;
}

const char *http_req_peer_cn(const struct http_req *req)
{
    return req->conn->transport.ops->peer_cn(&req->conn->transport);
}

unsigned int http_req_tag(const struct http_req *req)
{
    return req->conn->tag;
}

struct http_server *http_req_server(const struct http_req *req)
{
    return req->conn->server;
}

bool http_req_answered(const struct http_req *req)
{
    return req->answered;
}

size_t http_req_queued(const struct http_req *req)
{
    if (req->version != HTTP_VERSION_2)
        return http_out_pending(&req->conn->out);
    return req->queued;
}

/* Answers */

struct http_header *http_req_copy_headers(struct http_req *req, const struct http_header *headers,
                                          size_t count)
{
    size_t len = count * sizeof(*headers);
    struct http_header *copy;
    uint8_t *at;

    for (size_t i = 0; i < count; i++)
        len += headers[i].name.len + headers[i].value.len;
    copy = http_req_alloc(req, len);
    at = (uint8_t *)(copy + count);
    for (size_t i = 0; i < count; i++) {
        copy[i].name = bytes_of(at, headers[i].name.len);
        memcpy(at, headers[i].name.data, headers[i].name.len);
        at += headers[i].name.len;
        copy[i].value = bytes_of(at, headers[i].value.len);
        if (headers[i].value.len != 0)
            memcpy(at, headers[i].value.data, headers[i].value.len);
        at += headers[i].value.len;
    }
    return copy;
}

/* False: nobody is there to get it, or the library has answered instead. */
static bool answer_begins(struct http_req *req)
{
    assert(req->seen || req->answered_here);
    if (req->answered_here)
        return false;
    assert(!req->answered);
    req->answered = true;
    return !req->conn->doomed;
}

static bool answer_goes_on(const struct http_req *req)
{
    if (req->answered_here || req->conn->doomed)
        return false;
    assert(req->answered);
    assert(!req->ended || req->rst_sent);
    return !req->ended;
}

void http_respond(struct http_req *req, const struct http_response *response)
{
    assert(response->status >= 200 && response->status <= 599);
    if (!answer_begins(req))
        return;
    req->ended = true;
    req->conn->proto->respond(req, response);
    http_conn_dirty(req->conn);
}

void http_respond_text(struct http_req *req, int status, const char *content_type,
                       struct bytes body)
{
    const struct http_header type = {
        BYTES_LIT("content-type"),
        bytes_str(content_type != NULL ? content_type : "text/plain; charset=utf-8"),
    };
    const struct http_response response = {
        .status = status,
        .headers = &type,
        .header_count = 1,
        .body = &body,
        .body_count = 1,
    };

    http_respond(req, &response);
}

void http_req_refuse(struct http_req *req, int status)
{
    const char *text = http_status_text(status);
    const struct bytes body[] = {bytes_str(text), BYTES_LIT("\n")};
    const struct http_header type = HTTP_HEADER("content-type", "text/plain; charset=utf-8");
    const struct http_response response = {
        .status = status,
        .headers = &type,
        .header_count = 1,
        .body = body,
        .body_count = ARRAY_LEN(body),
    };

    req->discard = true;
    if (req->answered)
        return;
    req->answered = req->answered_here = req->ended = true;
    if (req->conn->doomed)
        return;
    req->conn->proto->respond(req, &response);
    http_conn_dirty(req->conn);
}

void http_respond_upgrade(struct http_req *req, struct bytes protocol,
                          const struct http_header *headers, size_t header_count)
{
    assert(req->conn->proto->upgrade != NULL);
    if (!answer_begins(req))
        return;
    req->conn->proto->upgrade(req, protocol, headers, header_count);
    http_conn_dirty(req->conn);
}

void http_respond_begin(struct http_req *req, int status, const struct http_header *headers,
                        size_t header_count)
{
    assert(status >= 200 && status <= 599);
    if (!answer_begins(req))
        return;
    req->conn->proto->begin(req, status, headers, header_count);
    http_conn_dirty(req->conn);
}

void http_respond_data(struct http_req *req, const struct bytes *pieces, size_t piece_count)
{
    size_t len = http_pieces_len(pieces, piece_count);

    if (!answer_goes_on(req) || len == 0)
        return;
    req->drain_due = true;
    if (!req->head)
        req->conn->proto->data(req, pieces, piece_count, len);
    http_conn_dirty(req->conn);
}

void http_respond_shared(struct http_req *req, struct shared_bytes *shared, size_t off, size_t len)
{
    const struct bytes piece = bytes_of(shared->data + off, len);

    if (req->conn->proto->data_shared == NULL || req->head) {
        http_respond_data(req, &piece, 1);
        return;
    }
    if (!answer_goes_on(req) || len == 0)
        return;
    req->drain_due = true;
    req->conn->proto->data_shared(req, shared, off, len);
    http_conn_dirty(req->conn);
}

void http_respond_end(struct http_req *req, const struct http_header *trailers,
                      size_t trailer_count)
{
    if (!answer_goes_on(req))
        return;
    req->ended = true;
    req->conn->proto->end(req, trailers, trailer_count);
    http_conn_dirty(req->conn);
}

void http_req_reset(struct http_req *req, enum http_reset code)
{
    if (req->rst_sent || req->conn->doomed)
        return;
    req->answered = req->ended = req->rst_sent = req->discard = true;
    req->conn->server->counters.resets_sent++;
    req->conn->proto->reset(req, code);
    http_conn_dirty(req->conn);
}
