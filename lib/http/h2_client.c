/*
 * HTTP/2 for a client connection, on an nghttp2 session that exists before the connection is up:
 * calls are submitted at once and leave when it is. nghttp2 holds back what the server's
 * MAX_CONCURRENT_STREAMS does not allow yet.
 */
#include "lib/http/http_client_internal.h"

#include <assert.h>
#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <stdlib.h>
#include "lib/util/xmalloc.h"

enum {
    STREAM_WINDOW_BYTES = 1024 * 1024,
    CONN_WINDOW_BYTES = 16 * 1024 * 1024,
    NV_INLINE = 48,
};

struct h2c {
    struct http_client *client;
    nghttp2_session *session;
};

static struct http_call *stream_call(nghttp2_session *session, int32_t stream_id)
{
    return nghttp2_session_get_stream_user_data(session, stream_id);
}

/* Input */

static bool is_answer(const nghttp2_frame *frame)
{
    return frame->hd.type == NGHTTP2_HEADERS && (frame->headers.cat == NGHTTP2_HCAT_RESPONSE ||
                                                 frame->headers.cat == NGHTTP2_HCAT_HEADERS);
}

static int parse_status(nghttp2_vec v)
{
    return v.len == 3 ? (v.base[0] - '0') * 100 + (v.base[1] - '0') * 10 + (v.base[2] - '0') : 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name,
                     nghttp2_rcbuf *value, uint8_t flags, void *user)
{
    struct http_call *call;
    struct http_field *f;
    nghttp2_vec n, v;

    if (!is_answer(frame))
        return 0;
    call = stream_call(session, frame->hd.stream_id);
    if (call == NULL)
        return 0;
    n = nghttp2_rcbuf_get_buf(name);
    v = nghttp2_rcbuf_get_buf(value);
    call->header_bytes += n.len + v.len + HTTP_HEADER_OVERHEAD;
    if (call->header_bytes > call->client->header_bytes_max) {
        call->headers_too_large = true;
        return 0;
    }
    if (n.len != 0 && n.base[0] == ':') {
        call->status = parse_status(v);
        return 0;
    }
    f = http_call_add_field(call);
    nghttp2_rcbuf_incref(name);
    nghttp2_rcbuf_incref(value);
    f->name = bytes_of(n.base, n.len);
    f->value = bytes_of(v.base, v.len);
    f->name_ref = name;
    f->value_ref = value;
    return 0;
}

static void drop_fields(struct http_call *call)
{
    for (size_t i = 0; i < call->field_count; i++) {
        nghttp2_rcbuf_decref(call->fields[i].name_ref);
        nghttp2_rcbuf_decref(call->fields[i].value_ref);
    }
    call->field_count = 0;
}

static void headers_complete(struct h2c *h2, struct http_call *call)
{
    if (call->headers_too_large) {
        if (call->error == 0) {
            call->error = -EPROTO;
            nghttp2_submit_rst_stream(h2->session, NGHTTP2_FLAG_NONE, call->stream_id,
                                      NGHTTP2_ENHANCE_YOUR_CALM);
        }
        return;
    }
    if (call->headers_told) {
        http_call_on_trailers(call);
    } else if (call->status >= 100 && call->status < 200) {
        drop_fields(call); /* 1xx: the answer is yet to come */
    } else {
        call->trailer_start = call->field_count;
        http_call_on_headers(call, call->status);
    }
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct h2c *h2 = user;
    struct http_call *call;

    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
    case NGHTTP2_DATA:
        call = stream_call(session, frame->hd.stream_id);
        if (call == NULL)
            break;
        if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0)
            call->answer_over = true;
        if (is_answer(frame))
            headers_complete(h2, call);
        break;
    case NGHTTP2_RST_STREAM:
        call = stream_call(session, frame->hd.stream_id);
        if (call != NULL)
            call->reset_code = frame->rst_stream.error_code;
        break;
    case NGHTTP2_GOAWAY:
        h2->client->ending = true;
        break;
    default:
        break;
    }
    return 0;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                         const uint8_t *data, size_t len, void *user)
{
    struct http_call *call = stream_call(session, stream_id);

    if (call != NULL && call->error == 0)
        http_call_on_data(call, data, len);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t code, void *user)
{
    struct http_call *call = stream_call(session, stream_id);
    int error;

    if (call == NULL)
        return 0;
    nghttp2_session_set_stream_user_data(session, stream_id, NULL);
    if (call->error != 0) {
        error = call->error;
    } else if (call->answer_over) {
        error = 0;
    } else {
        error = -ECONNRESET;
        call->reset_code = code;
    }
    http_call_over(call, error);
    return 0;
}

static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error,
                            void *user)
{
    struct http_call *call =
        frame->hd.stream_id != 0 ? stream_call(session, frame->hd.stream_id) : NULL;

    if (call != NULL && call->error == 0)
        call->error = -EPROTO;
    return 0;
}

/* A request that never left: GOAWAY came first, or the ids are used up. It has no stream to close.
 */
static int on_frame_not_send(nghttp2_session *session, const nghttp2_frame *frame, int error,
                             void *user)
{
    struct h2c *h2 = user;

    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST ||
        stream_call(session, frame->hd.stream_id) != NULL)
        return 0;
    LIST_FOREACH(it, &h2->client->calls)
    {
        struct http_call *call = LIST_ENTRY(it, struct http_call, link);

        if (call->stream_id != frame->hd.stream_id)
            continue;
        call->reset_code = HTTP_RESET_REFUSED_STREAM;
        http_call_over_later(call, call->error != 0 ? call->error : -ECONNRESET);
        break;
    }
    return 0;
}

static int h2c_input(struct http_client *client, const uint8_t *data, size_t len)
{
    struct h2c *h2 = client->proto_state;
    ssize_t n = nghttp2_session_mem_recv(h2->session, data, len);

    if (n < 0)
        return -EPROTO;
    if (nghttp2_session_want_write(h2->session) || !nghttp2_session_want_read(h2->session))
        http_client_dirty(client);
    return 0;
}

/* Output */

static ssize_t read_data(nghttp2_session *session, int32_t stream_id, uint8_t *to, size_t len,
                         uint32_t *flags, nghttp2_data_source *source, void *user)
{
    struct http_call *call = source->ptr;
    size_t n = MIN(call->queued, len);

    if (n == 0 && call->open) {
        call->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (n == call->queued && !call->open)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

static int send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head,
                     size_t len, nghttp2_data_source *source, void *user)
{
    struct h2c *h2 = user;
    struct http_call *call = source->ptr;
    struct http_scratch *s = &h2->client->scratch;

    if (http_scratch_full(s))
        return NGHTTP2_ERR_WOULDBLOCK;
    http_scratch_copy(s, head, 9);
    assert(len <= call->queued);
    call->queued -= len;
    while (len != 0) {
        struct http_chunk *c = call->chunks.head;
        size_t n = MIN(c->len - c->off, len);

        if (c->heap && n >= HTTP_COPY_BYTES_MAX)
            http_scratch_ref(s, c->data + c->off, n);
        else
            http_scratch_copy(s, c->data + c->off, n);
        c->off += n;
        len -= n;
        if (c->off == c->len) {
            http_chunk_pop(&call->chunks);
            if (c->heap)
                http_chunk_push(&h2->client->spent, c);
        }
    }
    return 0;
}

static int h2c_produce(struct http_client *client)
{
    struct h2c *h2 = client->proto_state;
    struct http_scratch *s = &client->scratch;

    while (!http_scratch_full(s)) {
        const uint8_t *data;
        ssize_t n = nghttp2_session_mem_send(h2->session, &data);

        if (n < 0)
            return -EPROTO;
        if (n == 0)
            break;
        http_scratch_copy(s, data, (size_t)n);
    }
    if (!nghttp2_session_want_read(h2->session) && !nghttp2_session_want_write(h2->session) &&
        s->len == 0 && http_out_pending(&client->out) == 0)
        http_client_down(client, 0);
    return 0;
}

static void h2c_ping(struct http_client *client)
{
    struct h2c *h2 = client->proto_state;

    nghttp2_submit_ping(h2->session, NGHTTP2_FLAG_NONE, NULL);
}

static size_t fill_nv(nghttp2_nv *nv, const struct http_header *headers, size_t count)
{
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

static struct bytes keep(struct http_call *call, struct bytes v)
{
    uint8_t *copy = http_call_alloc(call, v.len);

    if (v.len != 0)
        memcpy(copy, v.data, v.len);
    return bytes_of(copy, v.len);
}

static void h2c_call(struct http_call *call, const struct http_call_args *args)
{
    struct http_client *client = call->client;
    struct h2c *h2 = client->proto_state;
    bool copy = !args->headers_static;
    struct http_header pseudo[4] = {
        {BYTES_LIT(":method"), copy ? keep(call, args->method) : args->method},
        {BYTES_LIT(":scheme"), bytes_str(client->transport.ops->scheme)},
        {BYTES_LIT(":authority"), bytes_str(client->authority)},
        {BYTES_LIT(":path"), copy ? keep(call, args->path) : args->path},
    };
    nghttp2_data_provider provider = {.source.ptr = call, .read_callback = read_data};
    bool has_body = call->queued != 0 || call->open;
    nghttp2_nv inline_nv[NV_INLINE], *nv = inline_nv;
    size_t n;
    int32_t id;

    if (args->header_count + ARRAY_LEN(pseudo) > NV_INLINE)
        nv = xreallocarray(NULL, args->header_count + ARRAY_LEN(pseudo), sizeof(*nv));
    n = fill_nv(nv, pseudo, ARRAY_LEN(pseudo));
    n += fill_nv(nv + n, args->headers, args->header_count);
    for (size_t i = ARRAY_LEN(pseudo); copy && i < n; i++) {
        nv[i].name = (uint8_t *)keep(call, bytes_of(nv[i].name, nv[i].namelen)).data;
        nv[i].value = (uint8_t *)keep(call, bytes_of(nv[i].value, nv[i].valuelen)).data;
    }
    id = nghttp2_submit_request(h2->session, NULL, nv, n, has_body ? &provider : NULL, call);
    if (nv != inline_nv)
        free(nv);
    if (id < 0)
        call->error = id == NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE ? -ENOBUFS : -EINVAL;
    else
        call->stream_id = id;
}

static void h2c_data(struct http_call *call)
{
    struct h2c *h2 = call->client->proto_state;

    if (!call->deferred)
        return;
    call->deferred = false;
    nghttp2_session_resume_data(h2->session, call->stream_id);
}

static void h2c_cancel(struct http_call *call)
{
    struct h2c *h2 = call->client->proto_state;

    if (nghttp2_session_find_stream(h2->session, call->stream_id) == NULL) {
        /* Still queued in nghttp2: the reset marks it as not to be sent, and it forgets the call.
         */
        nghttp2_session_set_stream_user_data(h2->session, call->stream_id, NULL);
        http_call_over_later(call, call->error);
    }
    nghttp2_submit_rst_stream(h2->session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_CANCEL);
}

static void h2c_eof(struct http_client *client)
{
}

static uint32_t h2c_streams_max(const struct http_client *client)
{
    const struct h2c *h2 = client->proto_state;

    return nghttp2_session_get_remote_settings(h2->session,
                                               NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
}

static void h2c_release(struct http_call *call)
{
    drop_fields(call);
}

static void h2c_start(struct http_client *client)
{
    struct h2c *h2 = xcalloc(1, sizeof(*h2));
    uint32_t window = client->window_bytes;
    const nghttp2_settings_entry iv[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window != 0 ? window : STREAM_WINDOW_BYTES},
    };
    nghttp2_session_callbacks *cb;
    nghttp2_option *option;

    if (nghttp2_session_callbacks_new(&cb) != 0 || nghttp2_option_new(&option) != 0)
        PANIC("out of memory");
    nghttp2_session_callbacks_set_on_header_callback2(cb, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data_chunk);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(cb, on_frame_not_send);
    nghttp2_session_callbacks_set_send_data_callback(cb, send_data);
    nghttp2_option_set_no_closed_streams(option, 1);
    if (nghttp2_session_client_new2(&h2->session, cb, h2, option) != 0)
        PANIC("out of memory");
    nghttp2_session_callbacks_del(cb);
    nghttp2_option_del(option);
    h2->client = client;
    client->proto_state = h2;
    nghttp2_submit_settings(h2->session, NGHTTP2_FLAG_NONE, iv, ARRAY_LEN(iv));
    nghttp2_session_set_local_window_size(h2->session, NGHTTP2_FLAG_NONE, 0,
                                          window != 0 ? (int32_t)window : CONN_WINDOW_BYTES);
}

static void h2c_fini(struct http_client *client)
{
    struct h2c *h2 = client->proto_state;

    nghttp2_session_del(h2->session);
    free(h2);
}

const struct http_client_proto h2_client_proto = {
    .start = h2c_start,
    .call = h2c_call,
    .data = h2c_data,
    .cancel = h2c_cancel,
    .input = h2c_input,
    .eof = h2c_eof,
    .produce = h2c_produce,
    .ping = h2c_ping,
    .streams_max = h2c_streams_max,
    .release = h2c_release,
    .fini = h2c_fini,
};
