/*
 * HTTP/2 for one server connection: an nghttp2 session fed from memory and drained to memory.
 *
 * What makes it cheap: header fields are references into nghttp2's own buffers, nothing is copied;
 * a usual answer is one submit with names and values in the request's arena (NO_COPY), its body is
 * copied once into the frame, and its trailers are submitted from the data callback, so all three
 * frames are in the same output round. RFC 7540 priorities are switched off (RFC 9218 section 2.1):
 * no dependency tree. Answers that take more than one DATA frame are marked incremental, which is
 * what makes nghttp2 take turns between them.
 *
 * Keepalive enforcement follows what grpc servers do, so that the settings mean what etcd's mean:
 * a ping sooner than ping_ms_min after the last one (two hours while no stream is open) is a
 * strike, sending headers or data forgives, too many strikes are GOAWAY ENHANCE_YOUR_CALM
 * "too_many_pings".
 */
#include "lib/http/http_internal.h"

#include <assert.h>
#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include "lib/util/xmalloc.h"

enum {
    H2_STREAM_WINDOW_BYTES = 1024 * 1024,
    H2_CONN_WINDOW_BYTES = 16 * 1024 * 1024,
    H2_FRAME_BYTES = 16384,
    H2_PING_IDLE_MS = 2 * 3600 * 1000, /* wanted between pings without an open stream */
    H2_DRAIN_NOTICE_MS = 1000,
    H2_NV_INLINE = 48,
};

struct h2 {
    struct http_conn *conn;
    nghttp2_session *session;
    struct http_req *cur; /* whose header block is arriving */
    struct list drained;  /* requests whose on_drained is due */
    uint64_t ping_ms;     /* when the client last pinged; 0: never */
    unsigned int ping_strikes;
    uint64_t keepalive_ms; /* when we pinged; 0: no answer is awaited */
    uint64_t drain_ms;     /* when the shutdown notice was sent; 0: not, or the final one is out */
};

static struct http_req *stream_req(nghttp2_session *session, int32_t stream_id)
{
    return nghttp2_session_get_stream_user_data(session, stream_id);
}

/* Input */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct h2 *h2 = user;
    struct http_conn *conn = h2->conn;
    const struct http_limits *limits = &conn->server->limits;
    struct http_req *req;

    h2->cur = NULL;
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    if (conn->server->counters.requests >= limits->requests_max ||
        conn->queued > limits->queued_bytes_max) {
        conn->server->counters.resets_sent++;
        return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                         NGHTTP2_REFUSED_STREAM);
    }
    req = http_req_new(conn, HTTP_VERSION_2);
    req->stream_id = frame->hd.stream_id;
    nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, req);
    h2->cur = req;
    if (limits->header_ms_max != 0)
        conn->deadline_ms = conn->read_ms + limits->header_ms_max;
    return 0;
}

/* No more of this header block is of interest. */
static void header_block_over(struct h2 *h2)
{
    h2->cur = NULL;
    h2->conn->deadline_ms = 0;
}

static bool is_text(const nghttp2_vec *v, const char *text)
{
    return v->len == strlen(text) && memcmp(v->base, text, v->len) == 0;
}

static bool take_pseudo(struct http_req *req, int slot, struct bytes *to, nghttp2_rcbuf *value)
{
    nghttp2_vec v = nghttp2_rcbuf_get_buf(value);

    if (req->pseudo_refs[slot] != NULL)
        return false;
    nghttp2_rcbuf_incref(value);
    req->pseudo_refs[slot] = value;
    *to = bytes_of(v.base, v.len);
    return true;
}

/*
 * RFC 9113 section 8.3.1, except that :authority may be any field value: etcdctl 3.4 names a whole
 * URL there ("http://127.0.0.1:2379"), which nghttp2 refuses and etcd does not mind. That is why
 * nghttp2's own checks are switched off and the rules of section 8.2 are here.
 */
static bool take_pseudo_field(struct http_req *req, const nghttp2_vec *n, nghttp2_rcbuf *value)
{
    nghttp2_vec v = nghttp2_rcbuf_get_buf(value);

    if (req->field_count != 0 || !nghttp2_check_header_value_rfc9113(v.base, v.len))
        return false;
    if (is_text(n, ":path"))
        return nghttp2_check_path(v.base, v.len) && take_pseudo(req, 1, &req->path, value);
    if (is_text(n, ":method"))
        return nghttp2_check_method(v.base, v.len) && take_pseudo(req, 0, &req->method, value);
    if (is_text(n, ":authority"))
        return take_pseudo(req, 2, &req->authority, value);
    if (is_text(n, ":scheme") && !req->scheme_seen) {
        req->scheme_seen = true;
        return true;
    }
    return false;
}

/* Section 8.2: names in lower case, no control characters, nothing about the connection. */
static bool is_valid_field(const nghttp2_vec *n, const nghttp2_vec *v)
{
    static const char *const of_connections[] = {"connection", "keep-alive", "proxy-connection",
                                                 "transfer-encoding", "upgrade"};

    if (!nghttp2_check_header_name(n->base, n->len) ||
        !nghttp2_check_header_value_rfc9113(v->base, v->len))
        return false;
    if (n->len == 2 && is_text(n, "te"))
        return is_text(v, "trailers");
    for (size_t i = 0; i < ARRAY_LEN(of_connections); i++)
        if (is_text(n, of_connections[i]))
            return false;
    return true;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name,
                     nghttp2_rcbuf *value, uint8_t flags, void *user)
{
    struct h2 *h2 = user;
    struct http_req *req = h2->cur;
    nghttp2_vec n, v;
    struct http_field *f;

    if (req == NULL)
        return 0;
    n = nghttp2_rcbuf_get_buf(name);
    v = nghttp2_rcbuf_get_buf(value);
    req->header_bytes += n.len + v.len + HTTP_HEADER_OVERHEAD;
    if (req->header_bytes > h2->conn->server->limits.header_bytes_max) {
        req->headers_too_large = true;
        return 0;
    }
    if (n.len != 0 && n.base[0] == ':') {
        if (!take_pseudo_field(req, &n, value))
            req->malformed = true;
        return 0;
    }
    if (!is_valid_field(&n, &v)) {
        req->malformed = true;
        return 0;
    }
    f = http_req_add_field(req);
    nghttp2_rcbuf_incref(name);
    nghttp2_rcbuf_incref(value);
    f->name = bytes_of(n.base, n.len);
    f->value = bytes_of(v.base, v.len);
    f->name_ref = name;
    f->value_ref = value;
    return 0;
}

/* UINT64_MAX when there is none; one that is no number makes the request malformed. */
static uint64_t content_length(struct http_req *req)
{
    struct bytes v = http_req_header(req, "content-length");
    uint64_t n = 0;

    if (v.data == NULL)
        return UINT64_MAX;
    req->malformed = req->malformed || v.len == 0 || v.len > 18;
    for (size_t i = 0; i < v.len && !req->malformed; i++) {
        req->malformed = v.data[i] < '0' || v.data[i] > '9';
        n = n * 10 + (v.data[i] - '0');
    }
    return n;
}

/* The request is not HTTP: its stream ends, the connection goes on. */
static void reset_malformed(struct h2 *h2, struct http_req *req)
{
    h2->conn->server->counters.protocol_errors++;
    nghttp2_submit_rst_stream(h2->session, NGHTTP2_FLAG_NONE, req->stream_id,
                              NGHTTP2_PROTOCOL_ERROR);
    req->discard = true; /* and on_stream_close closes it */
}

static void headers_complete(struct h2 *h2, bool end)
{
    struct http_req *req = h2->cur;

    header_block_over(h2);
    if (req == NULL)
        return;
    if (req->headers_too_large) {
        req->body_complete = end;
        http_req_refuse(req, 431);
        return;
    }
    req->body_left = content_length(req);
    if (req->malformed || req->method.len == 0 || req->path.len == 0 || !req->scheme_seen ||
        (end && req->body_left != UINT64_MAX && req->body_left != 0)) {
        reset_malformed(h2, req);
        return;
    }
    http_req_on_headers(req, !end, end ? UINT64_MAX : req->body_left);
    if (end)
        http_req_on_end(req);
}

/* The body is over, with trailers or without. */
static void body_over(struct h2 *h2, struct http_req *req)
{
    if (req->body_left != UINT64_MAX && req->body_left != 0)
        reset_malformed(h2, req);
    else
        http_req_on_end(req);
}

static void too_many_pings(struct h2 *h2)
{
    static const char text[] = "too_many_pings";

    h2->conn->server->counters.protocol_errors++;
    nghttp2_submit_goaway(h2->session, NGHTTP2_FLAG_NONE,
                          nghttp2_session_get_last_proc_stream_id(h2->session),
                          NGHTTP2_ENHANCE_YOUR_CALM, (const uint8_t *)text, sizeof(text) - 1);
    http_conn_finish(h2->conn);
}

static void on_ping(struct h2 *h2)
{
    const struct http_conn *conn = h2->conn;
    const struct http_limits *limits = &conn->server->limits;
    uint64_t wanted_ms = conn->req_count != 0 ? limits->ping_ms_min : H2_PING_IDLE_MS;
    uint64_t last_ms = h2->ping_ms;

    h2->ping_ms = conn->read_ms;
    if (limits->ping_ms_min == 0 || last_ms == 0 || conn->read_ms >= last_ms + wanted_ms)
        return;
    if (++h2->ping_strikes > limits->ping_strikes_max)
        too_many_pings(h2);
}

static void drain_finally(struct h2 *h2)
{
    if (h2->drain_ms == 0)
        return;
    h2->drain_ms = 0;
    nghttp2_submit_goaway(h2->session, NGHTTP2_FLAG_NONE,
                          nghttp2_session_get_last_proc_stream_id(h2->session), NGHTTP2_NO_ERROR,
                          NULL, 0);
    http_conn_dirty(h2->conn);
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct h2 *h2 = user;
    bool end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    struct http_req *req;

    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
            headers_complete(h2, end);
            break;
        }
        /* trailers */
        __attribute__((fallthrough));
    case NGHTTP2_DATA:
        req = stream_req(session, frame->hd.stream_id);
        if (req != NULL && end)
            body_over(h2, req);
        else if (req != NULL && frame->hd.type == NGHTTP2_HEADERS)
            reset_malformed(h2, req); /* trailers that are not the end */
        break;
    case NGHTTP2_RST_STREAM:
        h2->conn->server->counters.resets_received++;
        break;
    case NGHTTP2_PING:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0)
            on_ping(h2);
        else
            drain_finally(h2);
        break;
    default:
        break;
    }
    return 0;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                         const uint8_t *data, size_t len, void *user)
{
    struct http_req *req = stream_req(session, stream_id);

    if (req == NULL)
        return 0;
    if (req->body_left != UINT64_MAX) {
        if (len > req->body_left) {
            reset_malformed(user, req);
            return 0;
        }
        req->body_left -= len;
    }
    http_req_on_data(req, data, len);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t code, void *user)
{
    struct h2 *h2 = user;
    struct http_req *req = stream_req(session, stream_id);

    if (req == NULL)
        return 0;
    if (h2->cur == req)
        header_block_over(h2);
    nghttp2_session_set_stream_user_data(session, stream_id, NULL);
    http_req_close(req);
    return 0;
}

static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error,
                            void *user)
{
    struct h2 *h2 = user;

    h2->conn->server->counters.protocol_errors++;
    if (frame->hd.type == NGHTTP2_HEADERS)
        header_block_over(h2);
    return 0;
}

/* Output */

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct h2 *h2 = user;
    const struct http_req *req;

    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
        return 0;
    h2->ping_strikes = 0;
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0)
        return 0;
    req = stream_req(session, frame->hd.stream_id);
    /* Answered before the request was complete: ask the client to stop sending (RFC 9113
     * section 8.1). */
    if (req != NULL && !req->body_complete)
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                  NGHTTP2_NO_ERROR);
    return 0;
}

static size_t fill_nv(nghttp2_nv *nv, const struct http_header *headers, size_t count)
{
    /* names and values are in the request's arena until the frame is made */
    for (size_t i = 0; i < count; i++)
        nv[i] = (nghttp2_nv){
            .name = (uint8_t *)headers[i].name.data,
            .value = (uint8_t *)headers[i].value.data,
            .namelen = headers[i].name.len,
            .valuelen = headers[i].value.len,
            .flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE,
        };
    return count;
}

static void submit_trailers(struct h2 *h2, const struct http_req *req)
{
    nghttp2_nv inline_nv[H2_NV_INLINE];
    nghttp2_nv *nv = inline_nv;

    assert(req->trailer_count != 0);
    inline_nv[0] = (nghttp2_nv){0};
    if (req->trailer_count > H2_NV_INLINE)
        nv = xreallocarray(NULL, req->trailer_count, sizeof(*nv));
    fill_nv(nv, req->trailers, req->trailer_count);
    nghttp2_submit_trailer(h2->session, req->stream_id, nv, req->trailer_count);
    if (nv != inline_nv)
        free(nv);
}

/* How long the next DATA frame is to be; send_data then writes it. */
static ssize_t read_data(nghttp2_session *session, int32_t stream_id, uint8_t *to, size_t len,
                         uint32_t *flags, nghttp2_data_source *source, void *user)
{
    struct http_req *req = source->ptr;
    size_t n = MIN(req->queued, len);

    if (n == 0 && !req->ended) {
        req->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (n == req->queued && req->ended) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (req->trailer_count != 0) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            submit_trailers(user, req);
        }
    }
    return (ssize_t)n;
}

static int send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head,
                     size_t len, nghttp2_data_source *source, void *user)
{
    struct h2 *h2 = user;
    struct http_req *req = source->ptr;
    struct http_conn *conn = h2->conn;
    struct http_scratch *s = &conn->server->scratch;

    if (http_scratch_full(s))
        return NGHTTP2_ERR_WOULDBLOCK;
    assert(frame->data.padlen == 0);
    http_scratch_copy(s, head, 9);
    assert(len <= req->queued);
    req->queued -= len;
    conn->queued -= len;
    while (len != 0) {
        struct http_chunk *c = req->chunks.head;
        size_t n = MIN(c->len - c->off, len);

        if (c->heap && n >= HTTP_COPY_BYTES_MAX)
            http_scratch_ref(s, c->data + c->off, n);
        else
            http_scratch_copy(s, c->data + c->off, n);
        c->off += n;
        len -= n;
        if (c->off == c->len) {
            http_chunk_pop(&req->chunks);
            if (c->heap)
                http_chunk_push(&conn->spent, c);
        }
    }
    if (req->queued == 0 && req->drain_due && !req->ended)
        list_push_back(&h2->drained, &req->drain_link);
    return 0;
}

static int h2_produce(struct http_conn *conn, struct http_scratch *s, bool *more)
{
    struct h2 *h2 = conn->proto_state;

    while (!http_scratch_full(s)) {
        const uint8_t *data;
        ssize_t n = nghttp2_session_mem_send(h2->session, &data);

        if (n < 0)
            return -EPROTO;
        if (n == 0)
            break;
        http_scratch_copy(s, data, (size_t)n);
    }
    *more = http_scratch_full(s);
    return 0;
}

static int h2_flushed(struct http_conn *conn)
{
    struct h2 *h2 = conn->proto_state;
    struct list due;

    if (!list_empty(&h2->drained)) {
        due = h2->drained;
        due.next->prev = &due;
        due.prev->next = &due;
        list_init(&h2->drained);
        for (struct list *it; (it = list_pop_front(&due)) != NULL;) {
            struct http_req *req = LIST_ENTRY(it, struct http_req, drain_link);

            if (req->queued == 0)
                http_req_on_drained(req);
        }
    }
    if (!nghttp2_session_want_read(h2->session) && !nghttp2_session_want_write(h2->session))
        http_conn_finish(conn);
    return 0;
}

static const struct http_header *status_header(struct http_req *req, int status)
{
    struct http_header *h = http_req_alloc(req, sizeof(*h) + 4);
    char *text = (char *)(h + 1);

    text[0] = (char)('0' + status / 100 % 10);
    text[1] = (char)('0' + status / 10 % 10);
    text[2] = (char)('0' + status % 10);
    *h = (struct http_header){BYTES_LIT(":status"), bytes_of(text, 3)};
    return h;
}

static void submit_response(struct h2 *h2, struct http_req *req, int status,
                            const struct http_header *headers, size_t count, uint64_t length,
                            bool body)
{
    nghttp2_data_provider provider = {.source.ptr = req, .read_callback = read_data};
    nghttp2_nv inline_nv[H2_NV_INLINE];
    nghttp2_nv *nv = inline_nv;
    size_t n = 0;

    if (count + 2 > H2_NV_INLINE)
        nv = xreallocarray(NULL, count + 2, sizeof(*nv));
    n += fill_nv(nv, status_header(req, status), 1);
    n += fill_nv(nv + n, http_req_copy_headers(req, headers, count), count);
    if (length != UINT64_MAX) {
        char *text = http_req_alloc(req, 21);
        const struct http_header h = {
            BYTES_LIT("content-length"),
            bytes_of(text, (size_t)snprintf(text, 21, "%llu", (unsigned long long)length)),
        };

        n += fill_nv(nv + n, &h, 1);
    }
    /* Fails only when the stream is gone, and then on_stream_close is on its way. */
    nghttp2_submit_response(h2->session, req->stream_id, nv, n, body ? &provider : NULL);
    if (nv != inline_nv)
        free(nv);
}

/* From now on this stream takes turns with others, one DATA frame each. */
static void take_turns(struct h2 *h2, const struct http_req *req)
{
    nghttp2_extpri pri = {.urgency = NGHTTP2_EXTPRI_DEFAULT_URGENCY, .inc = 1};

    nghttp2_session_change_extpri_stream_priority(h2->session, req->stream_id, &pri, 1);
}

static void push_pieces(struct http_req *req, const struct bytes *pieces, size_t count, size_t len)
{
    struct http_chunk *c;

    if (len <= HTTP_REQ_ARENA_BYTES / 2 && req->ended) {
        c = http_req_alloc(req, sizeof(*c) + len);
        *c = (struct http_chunk){.data = (uint8_t *)(c + 1), .len = len, .heap = false};
        http_pieces_copy(c->data, pieces, count);
    } else {
        c = http_chunk_new(pieces, count, len);
    }
    http_chunk_push(&req->chunks, c);
    req->queued += len;
    req->conn->queued += len;
}

static void h2_respond(struct http_req *req, const struct http_response *r)
{
    struct h2 *h2 = req->conn->proto_state;
    size_t len = http_pieces_len(r->body, r->body_count);
    bool no_body = req->head || r->status == 204 || r->status == 304;
    bool has_body = !no_body && (len != 0 || r->trailer_count != 0);
    uint64_t length = r->trailer_count != 0 || (no_body && !req->head) ||
                              (len == 0 && !req->head && r->status == 200)
                          ? UINT64_MAX
                          : len;

    submit_response(h2, req, r->status, r->headers, r->header_count, length, has_body);
    if (!has_body)
        return;
    if (len != 0)
        push_pieces(req, r->body, r->body_count, len);
    if (len > H2_FRAME_BYTES)
        take_turns(h2, req);
    if (r->trailer_count != 0) {
        req->trailers = http_req_copy_headers(req, r->trailers, r->trailer_count);
        req->trailer_count = r->trailer_count;
    }
}

static void h2_begin(struct http_req *req, int status, const struct http_header *headers,
                     size_t count)
{
    struct h2 *h2 = req->conn->proto_state;

    submit_response(h2, req, status, headers, count, UINT64_MAX, !req->head);
    take_turns(h2, req);
}

static void h2_resume(struct http_req *req)
{
    struct h2 *h2 = req->conn->proto_state;

    if (!req->deferred)
        return;
    req->deferred = false;
    nghttp2_session_resume_data(h2->session, req->stream_id);
}

static void h2_data(struct http_req *req, const struct bytes *pieces, size_t count, size_t len)
{
    push_pieces(req, pieces, count, len);
    h2_resume(req);
}

static void h2_data_shared(struct http_req *req, struct shared_bytes *shared, size_t off,
                           size_t len)
{
    http_chunk_push(&req->chunks, http_chunk_new_shared(shared, off, len));
    req->queued += len;
    req->conn->queued += len;
    h2_resume(req);
}

static void h2_end(struct http_req *req, const struct http_header *trailers, size_t count)
{
    if (count != 0) {
        req->trailers = http_req_copy_headers(req, trailers, count);
        req->trailer_count = count;
    }
    h2_resume(req);
}

static void h2_reset(struct http_req *req, enum http_reset code)
{
    struct h2 *h2 = req->conn->proto_state;

    nghttp2_submit_rst_stream(h2->session, NGHTTP2_FLAG_NONE, req->stream_id, (uint32_t)code);
}

static void h2_proceed(struct http_req *req)
{
    struct h2 *h2 = req->conn->proto_state;
    const struct http_header status = HTTP_HEADER(":status", "100");
    nghttp2_nv nv;

    fill_nv(&nv, &status, 1);
    nghttp2_submit_headers(h2->session, NGHTTP2_FLAG_NONE, req->stream_id, NULL, &nv, 1, NULL);
    http_conn_dirty(req->conn);
}

static void h2_release(struct http_req *req)
{
    for (size_t i = 0; i < ARRAY_LEN(req->pseudo_refs); i++)
        if (req->pseudo_refs[i] != NULL)
            nghttp2_rcbuf_decref(req->pseudo_refs[i]);
    for (size_t i = 0; i < req->field_count; i++) {
        nghttp2_rcbuf_decref(req->fields[i].name_ref);
        nghttp2_rcbuf_decref(req->fields[i].value_ref);
    }
}

/* The connection */

static int h2_input(struct http_conn *conn, const uint8_t *data, size_t len)
{
    struct h2 *h2 = conn->proto_state;
    ssize_t n = nghttp2_session_mem_recv(h2->session, data, len);

    /* also for window updates and acknowledgements that nobody else asks to send */
    if (nghttp2_session_want_write(h2->session) || !nghttp2_session_want_read(h2->session))
        http_conn_dirty(conn);
    return n < 0 ? -EPROTO : 0;
}

static void h2_eof(struct http_conn *conn)
{
    http_conn_doom(conn);
}

static void h2_tick(struct http_conn *conn, uint64_t now_ms)
{
    struct h2 *h2 = conn->proto_state;
    const struct http_limits *limits = &conn->server->limits;

    if (h2->drain_ms != 0 && now_ms >= h2->drain_ms + H2_DRAIN_NOTICE_MS)
        drain_finally(h2);
    if (h2->keepalive_ms != 0 && conn->read_ms >= h2->keepalive_ms)
        h2->keepalive_ms = 0;
    if (h2->keepalive_ms != 0) {
        if (now_ms >= h2->keepalive_ms + limits->keepalive_timeout_ms) {
            conn->server->counters.timeouts++;
            http_conn_doom(conn);
        }
    } else if (limits->keepalive_ms != 0 && now_ms >= conn->read_ms + limits->keepalive_ms) {
        h2->keepalive_ms = now_ms;
        nghttp2_submit_ping(h2->session, NGHTTP2_FLAG_NONE, NULL);
        http_conn_dirty(conn);
    }
}

static void h2_drain(struct http_conn *conn)
{
    struct h2 *h2 = conn->proto_state;

    /* RFC 9113 section 6.8: first a notice, then, when the client must have seen it, the real last
     * stream. */
    h2->drain_ms = loop_now_ms(conn->server->loop) + 1;
    nghttp2_submit_shutdown_notice(h2->session);
    nghttp2_submit_ping(h2->session, NGHTTP2_FLAG_NONE, NULL);
    http_conn_dirty(conn);
}

static nghttp2_session_callbacks *make_callbacks(void)
{
    nghttp2_session_callbacks *cb;

    if (nghttp2_session_callbacks_new(&cb) != 0)
        PANIC("out of memory");
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback2(cb, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data_chunk);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_send);
    nghttp2_session_callbacks_set_send_data_callback(cb, send_data);
    return cb;
}

static nghttp2_option *make_options(const struct http_limits *limits)
{
    nghttp2_option *o;

    if (nghttp2_option_new(&o) != 0)
        PANIC("out of memory");
    nghttp2_option_set_no_closed_streams(o, 1);
    nghttp2_option_set_no_http_messaging(o, 1); /* see take_pseudo_field */
    if (limits->resets_per_s_max != 0)
        nghttp2_option_set_stream_reset_rate_limit(o, (uint64_t)limits->resets_per_s_max * 10,
                                                   limits->resets_per_s_max);
    return o;
}

static void submit_settings(struct h2 *h2)
{
    const struct http_limits *limits = &h2->conn->server->limits;
    nghttp2_settings_entry iv[4];
    size_t n = 0;

    iv[n++] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1};
    iv[n++] =
        (nghttp2_settings_entry){NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, H2_STREAM_WINDOW_BYTES};
    iv[n++] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE,
                                       (uint32_t)MIN(limits->header_bytes_max, (size_t)UINT32_MAX)};
    if (limits->streams_max != UINT32_MAX)
        iv[n++] =
            (nghttp2_settings_entry){NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits->streams_max};
    nghttp2_submit_settings(h2->session, NGHTTP2_FLAG_NONE, iv, n);
    nghttp2_session_set_local_window_size(h2->session, NGHTTP2_FLAG_NONE, 0, H2_CONN_WINDOW_BYTES);
}

static int h2_start(struct http_conn *conn)
{
    struct h2 *h2 = xcalloc(1, sizeof(*h2));
    nghttp2_session_callbacks *callbacks = make_callbacks();
    nghttp2_option *options = make_options(&conn->server->limits);
    int r = nghttp2_session_server_new2(&h2->session, callbacks, h2, options);

    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(options);
    if (r != 0)
        PANIC("nghttp2_session_server_new2: %s", nghttp2_strerror(r));
    h2->conn = conn;
    list_init(&h2->drained);
    conn->proto_state = h2;
    conn->deadline_ms = 0;
    submit_settings(h2);
    http_conn_dirty(conn);
    return 0;
}

static void h2_fini(struct http_conn *conn)
{
    struct h2 *h2 = conn->proto_state;

    nghttp2_session_del(h2->session); /* calls nothing back */
    free(h2);
    conn->proto_state = NULL;
}

const struct http_proto h2_proto = {
    .start = h2_start,
    .input = h2_input,
    .produce = h2_produce,
    .flushed = h2_flushed,
    .eof = h2_eof,
    .tick = h2_tick,
    .drain = h2_drain,
    .fini = h2_fini,
    .respond = h2_respond,
    .begin = h2_begin,
    .data = h2_data,
    .data_shared = h2_data_shared,
    .end = h2_end,
    .reset = h2_reset,
    .proceed = h2_proceed,
    .release = h2_release,
};
