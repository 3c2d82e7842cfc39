/*
 * HTTP/1.1 for one server connection, on http_parser. One exchange at a time: when a request is
 * complete the parser is paused and further input (pipelined requests) waits in conn->in until its
 * answer is made; reading goes on meanwhile, up to a limit, because it is how a client that went
 * away is noticed.
 *
 *   idle -> reading headers -> reading body -> waiting for the answer -> idle
 *
 * Answers are written straight into the connection's output buffer. When an answer is complete
 * before the request is, the rest of a short body is read and dropped, else the connection closes.
 */
#include "lib/http/http_internal.h"

#include <assert.h>
#include <errno.h>
#include <http_parser.h>
#include <limits.h>
#include <stdlib.h>
#include "lib/util/xmalloc.h"

enum {
    H1_BEHIND_BYTES_MAX = 64 * 1024, /* input held while an answer is awaited */
    H1_SKIP_BYTES_MAX = 256 * 1024,  /* of an unwanted body, rather than closing */
    H1_HALF_CLOSED_MS = 5000, /* a client that closed its side may still wait for an answer */
    H1_EXCHANGES_PER_TURN = 32,
};

struct h1 {
    struct http_conn *conn;
    http_parser parser;
    struct http_req *cur;
    bool in_value; /* the last field's value has begun */
    bool headers_done;
    bool keep_alive; /* of the current exchange */
    bool skip_rest;  /* what remains of the body is short enough to read */
    bool has_body;
    bool feeding;
    bool upgraded; /* the connection speaks something else now, until it ends */
    size_t url_len;
    int refuse; /* status for what is wrong with the request; 0: nothing */
};

/* Input */

static int on_message_begin(http_parser *p)
{
    struct h1 *h1 = p->data;

    h1->cur = http_req_new(h1->conn, HTTP_VERSION_1_1);
    h1->in_value = h1->headers_done = false;
    h1->url_len = 0;
    h1->refuse = 0;
    return 0;
}

/* Counts before keeping: the limit bounds memory. */
static bool header_fits(struct h1 *h1, size_t len)
{
    struct http_req *req = h1->cur;

    req->header_bytes += len;
    if (req->header_bytes <= h1->conn->server->limits.header_bytes_max)
        return true;
    req->headers_too_large = true;
    return false;
}

static int on_url(http_parser *p, const char *data, size_t len)
{
    struct h1 *h1 = p->data;

    if (!header_fits(h1, len))
        return -1;
    buf_append(&h1->cur->text, data, len);
    h1->url_len += len;
    return 0;
}

/* Until the headers are complete, .data of a field is an offset into req->text, which moves. */
static const uint8_t *as_offset(size_t offset)
{
    return (const uint8_t *)(uintptr_t)offset;
}

static int on_header_field(http_parser *p, const char *data, size_t len)
{
    struct h1 *h1 = p->data;
    struct http_req *req = h1->cur;
    struct http_field *f;
    uint8_t *to;

    if (!header_fits(h1, len))
        return -1;
    if (h1->headers_done)
        return 0; /* trailers */
    if (req->field_count == 0 || h1->in_value) {
        if (!header_fits(h1, HTTP_HEADER_OVERHEAD))
            return -1;
        f = http_req_add_field(req);
        f->name.data = as_offset(req->text.len);
        h1->in_value = false;
    }
    f = &req->fields[req->field_count - 1];
    to = buf_reserve(&req->text, len);
    for (size_t i = 0; i < len; i++)
        to[i] = (uint8_t)(data[i] >= 'A' && data[i] <= 'Z' ? data[i] | 0x20 : data[i]);
    req->text.len += len;
    f->name.len += len;
    return 0;
}

static int on_header_value(http_parser *p, const char *data, size_t len)
{
    struct h1 *h1 = p->data;
    struct http_req *req = h1->cur;
    struct http_field *f;

    if (!header_fits(h1, len))
        return -1;
    if (h1->headers_done || req->field_count == 0)
        return 0;
    f = &req->fields[req->field_count - 1];
    if (!h1->in_value)
        f->value.data = as_offset(req->text.len);
    h1->in_value = true;
    buf_append(&req->text, data, len);
    f->value.len += len;
    return 0;
}

/* "http://host/path" (RFC 9112 section 3.2.2) or "/path". */
static void set_target(struct http_req *req, size_t url_len)
{
    struct bytes url = bytes_of(req->text.data, url_len);
    const uint8_t *mark, *slash;
    size_t rest;

    req->path = url;
    if (url_len == 0 || url.data[0] == '/' || url.data[0] == '*')
        return;
    mark = memmem(url.data, url.len, "://", 3);
    if (mark == NULL)
        return;
    mark += 3;
    rest = (size_t)(url.data + url.len - mark);
    slash = rest != 0 ? memchr(mark, '/', rest) : NULL;
    if (slash == NULL) {
        req->authority = bytes_of(mark, rest);
        req->path = BYTES_LIT("/");
    } else {
        req->authority = bytes_of(mark, (size_t)(slash - mark));
        req->path = bytes_of(slash, (size_t)(url.data + url.len - slash));
    }
}

static size_t count_hosts(const struct http_req *req)
{
    size_t n = 0;

    for (size_t i = 0; i < req->field_count; i++)
        n += bytes_eq(req->fields[i].name, BYTES_LIT("host"));
    return n;
}

static int check_request(const struct http_parser *p, const struct http_req *req)
{
    size_t hosts = count_hosts(req);

    if (p->http_major != 1)
        return 505;
    for (size_t i = 0; i < req->field_count; i++)
        if (!http_header_name_valid(req->fields[i].name))
            return 400; /* http_parser lets blanks through */
    if (hosts > 1 || (hosts == 0 && p->http_minor >= 1))
        return 400; /* RFC 9112 section 3.2 */
    return 0;
}

static int on_headers_complete(http_parser *p)
{
    struct h1 *h1 = p->data;
    struct http_conn *conn = h1->conn;
    struct http_req *req = h1->cur;
    bool chunked = (p->flags & F_CHUNKED) != 0;
    uint64_t length = p->content_length;

    h1->headers_done = true;
    p->upgrade = 0; /* unless on_headers switches, the request is answered as it is */
    conn->deadline_ms = 0;
    for (size_t i = 0; i < req->field_count; i++) {
        struct http_field *f = &req->fields[i];

        f->name.data = req->text.data + (uintptr_t)f->name.data;
        f->value.data = req->text.data + (uintptr_t)f->value.data;
    }
    req->method = bytes_str(http_method_str(p->method));
    req->version = p->http_minor == 0 ? HTTP_VERSION_1_0 : HTTP_VERSION_1_1;
    set_target(req, h1->url_len);
    h1->refuse = check_request(p, req);
    if (h1->refuse != 0)
        return -1;
    h1->has_body = chunked || (length != 0 && length != ULLONG_MAX);
    h1->keep_alive = http_should_keep_alive(p) && !conn->draining;
    h1->skip_rest = !h1->has_body || (!chunked && length <= H1_SKIP_BYTES_MAX);
    req->start_ms = conn->read_ms;
    http_req_on_headers(req, h1->has_body, chunked || !h1->has_body ? UINT64_MAX : length);
    return h1->upgraded ? 2 : 0; /* 2: what follows is no HTTP */
}

static int on_body(http_parser *p, const char *data, size_t len)
{
    struct h1 *h1 = p->data;

    http_req_on_data(h1->cur, (const uint8_t *)data, len);
    return 0;
}

static int on_message_complete(http_parser *p)
{
    struct h1 *h1 = p->data;

    h1->conn->deadline_ms = 0;
    http_parser_pause(p, 1);
    if (!h1->upgraded)
        http_req_on_end(h1->cur);
    return 0;
}

static const http_parser_settings settings = {
    .on_message_begin = on_message_begin,
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

/* Something that is not a request: say so, and close. */
static int h1_bad(struct h1 *h1)
{
    struct http_req *req = h1->cur;
    int status = 400;

    if (req != NULL && req->headers_too_large)
        status = 431;
    else if (h1->refuse != 0)
        status = h1->refuse;
    h1->keep_alive = false;
    h1->skip_rest = false;
    if (req == NULL) {
        req = http_req_new(h1->conn, HTTP_VERSION_1_1);
        h1->cur = req;
    }
    http_req_refuse(req, status);
    return -EPROTO;
}

/* The current request is read; what follows waits. */
static bool h1_waiting(const struct h1 *h1)
{
    return h1->cur != NULL && h1->cur->body_complete;
}

static int h1_keep(struct h1 *h1, const uint8_t *data, size_t len)
{
    struct http_conn *conn = h1->conn;

    buf_append(&conn->in, data, len);
    conn->read_paused = conn->in.len >= H1_BEHIND_BYTES_MAX;
    return 0;
}

/* Parses up to the end of one request. *used: how far. */
static int h1_parse(struct h1 *h1, const uint8_t *data, size_t len, size_t *used)
{
    struct http_conn *conn = h1->conn;
    const struct http_limits *limits = &conn->server->limits;
    enum http_errno e;

    if (h1->cur == NULL && limits->header_ms_max != 0)
        conn->deadline_ms = conn->read_ms + limits->header_ms_max;
    *used = http_parser_execute(&h1->parser, &settings, (const char *)data, len);
    e = HTTP_PARSER_ERRNO(&h1->parser);
    if (e == HPE_PAUSED) {
        http_parser_pause(&h1->parser, 0);
        return 0;
    }
    if (e != HPE_OK || *used != len)
        return h1_bad(h1);
    return 0;
}

/* Bytes of what was switched to. */
static int h1_raw(struct h1 *h1, const uint8_t *data, size_t len)
{
    if (h1->cur != NULL)
        http_req_on_data(h1->cur, data, len);
    return 0;
}

static int h1_input(struct http_conn *conn, const uint8_t *data, size_t len)
{
    struct h1 *h1 = conn->proto_state;
    size_t used = 0;
    int r;

    if (h1->upgraded)
        return h1_raw(h1, data, len);
    if (h1_waiting(h1) || conn->in.len != 0)
        return h1_keep(h1, data, len);
    r = h1_parse(h1, data, len, &used);
    if (r == 0 && h1->upgraded)
        r = h1_raw(h1, data + used, len - used);
    else if (r == 0 && used < len)
        r = h1_keep(h1, data + used, len - used);
    return r;
}

/* Output */

static void put(struct buf *out, const char *text)
{
    buf_append(out, text, strlen(text));
}

/* Canonical-Case, as Go writes names. */
static void put_name(struct buf *out, struct bytes name)
{
    uint8_t *to = buf_reserve(out, name.len);
    bool up = true;

    for (size_t i = 0; i < name.len; i++) {
        uint8_t c = name.data[i];

        to[i] = up && c >= 'a' && c <= 'z' ? (uint8_t)(c - 0x20) : c;
        up = c == '-';
    }
    out->len += name.len;
}

static void put_value(struct buf *out, struct bytes value)
{
    uint8_t *to = buf_reserve(out, value.len);

    for (size_t i = 0; i < value.len; i++) {
        uint8_t c = value.data[i];

        to[i] = c == '\r' || c == '\n' || c == '\0' ? ' ' : c;
    }
    out->len += value.len;
}

static void put_headers(struct buf *out, const struct http_header *headers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (headers[i].name.len == 0 || http_header_is_ours(headers[i].name))
            continue;
        put_name(out, headers[i].name);
        put(out, ": ");
        put_value(out, headers[i].value);
        put(out, "\r\n");
    }
}

/* Status line and headers. length: UINT64_MAX for none. */
static void put_head(struct http_req *req, int status, const struct http_header *headers,
                     size_t count, uint64_t length)
{
    struct http_conn *conn = req->conn;
    struct h1 *h1 = conn->proto_state;
    struct buf *out = &conn->out.buf;
    bool old = req->version == HTTP_VERSION_1_0;

    if (!req->body_complete && !h1->skip_rest)
        h1->keep_alive = false;
    if (conn->draining)
        h1->keep_alive = false;
    buf_appendf(out, "HTTP/1.%d %d %s\r\n", old ? 0 : 1, status, http_status_text(status));
    put_headers(out, headers, count);
    put(out, "Date: ");
    put(out, http_server_date(conn->server));
    put(out, "\r\n");
    if (req->chunked)
        put(out, "Transfer-Encoding: chunked\r\n");
    else if (length != UINT64_MAX)
        buf_appendf(out, "Content-Length: %llu\r\n", (unsigned long long)length);
    if (!h1->keep_alive && !old)
        put(out, "Connection: close\r\n");
    if (h1->keep_alive && old)
        put(out, "Connection: keep-alive\r\n");
    put(out, "\r\n");
}

static bool status_has_no_body(int status)
{
    return status == 204 || status == 304;
}

static void put_chunk(struct http_req *req, const struct bytes *pieces, size_t count, size_t len)
{
    struct buf *out = &req->conn->out.buf;

    if (len == 0)
        return;
    if (req->chunked)
        buf_appendf(out, "%zx\r\n", len);
    http_pieces_copy(buf_reserve(out, len), pieces, count);
    out->len += len;
    if (req->chunked)
        put(out, "\r\n");
}

static void put_last_chunk(struct http_req *req, const struct http_header *trailers, size_t count)
{
    struct buf *out = &req->conn->out.buf;

    if (!req->chunked || req->head)
        return;
    put(out, "0\r\n");
    put_headers(out, trailers, count);
    put(out, "\r\n");
}

static void h1_respond(struct http_req *req, const struct http_response *r)
{
    size_t len = http_pieces_len(r->body, r->body_count);
    bool no_body = status_has_no_body(r->status);

    req->chunked = r->trailer_count != 0 && !no_body && req->version != HTTP_VERSION_1_0;
    put_head(req, r->status, r->headers, r->header_count, no_body ? UINT64_MAX : len);
    if (no_body || req->head)
        return;
    put_chunk(req, r->body, r->body_count, len);
    put_last_chunk(req, r->trailers, r->trailer_count);
}

static void h1_begin(struct http_req *req, int status, const struct http_header *headers,
                     size_t count)
{
    struct h1 *h1 = req->conn->proto_state;

    if (req->version != HTTP_VERSION_1_0)
        req->chunked = !status_has_no_body(status);
    else
        h1->keep_alive = false; /* the end of the connection is the end of the body */
    put_head(req, status, headers, count, UINT64_MAX);
}

static void h1_upgrade(struct http_req *req, struct bytes protocol,
                       const struct http_header *headers, size_t count)
{
    struct h1 *h1 = req->conn->proto_state;
    struct buf *out = &req->conn->out.buf;

    assert(!h1->upgraded);
    assert(!req->body_complete);
    h1->upgraded = true;
    h1->keep_alive = false;
    put(out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: ");
    buf_append_bytes(out, protocol);
    put(out, "\r\nConnection: Upgrade\r\n");
    put_headers(out, headers, count);
    put(out, "\r\n");
}

static void h1_data(struct http_req *req, const struct bytes *pieces, size_t count, size_t len)
{
    put_chunk(req, pieces, count, len);
}

static void h1_end(struct http_req *req, const struct http_header *trailers, size_t count)
{
    put_last_chunk(req, trailers, count);
}

static void h1_reset(struct http_req *req, enum http_reset code)
{
    http_conn_doom(req->conn);
}

static void h1_proceed(struct http_req *req)
{
    if (req->version == HTTP_VERSION_1_0)
        return;
    put(&req->conn->out.buf, "HTTP/1.1 100 Continue\r\n\r\n");
    http_conn_dirty(req->conn);
}

static void h1_release(struct http_req *req)
{
    struct h1 *h1 = req->conn->proto_state;

    if (h1->cur == req)
        h1->cur = NULL;
}

/* The exchange is over: the connection is idle again, or ends. */
static void h1_exchange_over(struct h1 *h1)
{
    struct http_conn *conn = h1->conn;
    uint64_t idle_ms_max = conn->server->limits.idle_ms_max;
    bool go_on = h1->keep_alive && !conn->read_closed && !conn->draining;

    http_req_close(h1->cur);
    if (!go_on && conn->in.len == 0) {
        http_conn_finish(conn);
    } else if (!h1->keep_alive || conn->draining) {
        http_conn_finish(conn);
    } else {
        conn->deadline_ms = idle_ms_max != 0 ? loop_now_ms(conn->server->loop) + idle_ms_max : 0;
    }
}

/* Parses one more request from what waited. */
static int h1_next(struct h1 *h1)
{
    struct http_conn *conn = h1->conn;
    struct buf in = conn->in;
    size_t used = 0;
    int r;

    conn->in = BUF_INIT;
    conn->read_paused = false;
    conn->server->read_secret = false;
    r = h1_parse(h1, in.data, in.len, &used);
    assert(conn->in.len == 0);
    if (r == 0 && h1->upgraded)
        r = h1_raw(h1, in.data + used, in.len - used);
    if (r == 0 && !h1->upgraded && used < in.len) {
        buf_consume(&in, used);
        if (conn->server->read_secret)
            explicit_bzero(in.data + in.len, used);
        conn->in = in;
        conn->read_paused = in.len >= H1_BEHIND_BYTES_MAX;
    } else {
        if (conn->server->read_secret)
            buf_wipe(&in);
        buf_fini(&in);
    }
    return r;
}

static int h1_flushed(struct http_conn *conn)
{
    struct h1 *h1 = conn->proto_state;
    int r = 0;

    for (int i = 0; i < H1_EXCHANGES_PER_TURN && !conn->finish && !conn->doomed && r == 0; i++) {
        struct http_req *req = h1->cur;

        if (req != NULL && req->ended &&
            (req->body_complete || !h1->keep_alive || !h1->skip_rest)) {
            h1_exchange_over(h1);
            continue;
        }
        if (req != NULL && req->drain_due && !req->ended && http_out_pending(&conn->out) == 0) {
            http_req_on_drained(req);
            break;
        }
        if (h1_waiting(h1) || conn->in.len == 0 ||
            http_out_pending(&conn->out) > conn->server->limits.output_bytes_max)
            break;
        r = h1_next(h1);
        if (r < 0)
            http_conn_finish(conn);
    }
    /* answered within the loop: another round, which does not wait */
    if (h1->cur != NULL && h1->cur->ended)
        http_conn_dirty(conn);
    if (r < 0)
        conn->server->counters.protocol_errors++;
    return 0;
}

static void h1_eof(struct http_conn *conn)
{
    struct h1 *h1 = conn->proto_state;

    if (h1->cur == NULL && conn->in.len == 0) {
        if (http_out_pending(&conn->out) != 0)
            http_conn_finish(conn);
        else
            http_conn_doom(conn);
    } else if (h1_waiting(h1) || conn->in.len != 0) {
        conn->deadline_ms = loop_now_ms(conn->server->loop) + H1_HALF_CLOSED_MS;
    } else {
        http_conn_doom(conn); /* in the middle of a request */
    }
}

static void h1_tick(struct http_conn *conn, uint64_t now_ms)
{
}

static void h1_drain(struct http_conn *conn)
{
    struct h1 *h1 = conn->proto_state;

    if (h1->cur == NULL)
        http_conn_finish(conn);
}

static int h1_start(struct http_conn *conn)
{
    struct h1 *h1 = xcalloc(1, sizeof(*h1));

    http_parser_init(&h1->parser, HTTP_REQUEST);
    /* a process-wide setting; our own limit is the one that counts */
    http_parser_set_max_header_size(UINT32_MAX / 2);
    h1->parser.data = h1;
    h1->conn = conn;
    conn->proto_state = h1;
    return 0;
}

static void h1_fini(struct http_conn *conn)
{
    free(conn->proto_state);
    conn->proto_state = NULL;
}

const struct http_proto h1_proto = {
    .start = h1_start,
    .input = h1_input,
    .flushed = h1_flushed,
    .eof = h1_eof,
    .tick = h1_tick,
    .drain = h1_drain,
    .fini = h1_fini,
    .respond = h1_respond,
    .begin = h1_begin,
    .upgrade = h1_upgrade,
    .data = h1_data,
    .end = h1_end,
    .reset = h1_reset,
    .proceed = h1_proceed,
    .release = h1_release,
};
