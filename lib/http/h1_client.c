/*
 * HTTP/1.1 for a client connection: one call at a time in order of start, no pipelining; the others
 * wait. The connection ends after an answer that says so; calls that were not written then end with
 * -ECONNRESET like the rest, and the caller opens another connection.
 */
#include "lib/http/http_client_internal.h"

#include <assert.h>
#include <errno.h>
#include <http_parser.h>
#include <stdlib.h>
#include "lib/util/xmalloc.h"

struct h1c {
    struct http_client *client;
    http_parser parser;
    struct http_call *cur; /* written, its answer is awaited */
    bool in_value;
    bool headers_done;
    bool message_over;
    bool keep_alive;
};

static const uint8_t *as_offset(size_t offset)
{
    return (const uint8_t *)(uintptr_t)offset;
}

static bool header_fits(struct h1c *h1, size_t len)
{
    h1->cur->header_bytes += len;
    return h1->cur->header_bytes <= h1->client->header_bytes_max;
}

static int on_message_begin(http_parser *p)
{
    struct h1c *h1 = p->data;

    h1->in_value = h1->headers_done = false;
    return h1->cur != NULL ? 0 : -1; /* an answer nobody asked for */
}

static int on_header_field(http_parser *p, const char *data, size_t len)
{
    struct h1c *h1 = p->data;
    struct http_call *call = h1->cur;
    struct http_field *f;
    uint8_t *to;

    if (!header_fits(h1, len))
        return -1;
    if (h1->headers_done)
        return 0; /* trailers of chunked answers: no endpoint of ours sends any */
    if (call->field_count == 0 || h1->in_value) {
        if (!header_fits(h1, HTTP_HEADER_OVERHEAD))
            return -1;
        http_call_add_field(call)->name.data = as_offset(call->text.len);
        h1->in_value = false;
    }
    f = &call->fields[call->field_count - 1];
    to = buf_reserve(&call->text, len);
    for (size_t i = 0; i < len; i++)
        to[i] = (uint8_t)(data[i] >= 'A' && data[i] <= 'Z' ? data[i] | 0x20 : data[i]);
    call->text.len += len;
    f->name.len += len;
    return 0;
}

static int on_header_value(http_parser *p, const char *data, size_t len)
{
    struct h1c *h1 = p->data;
    struct http_call *call = h1->cur;
    struct http_field *f;

    if (!header_fits(h1, len))
        return -1;
    if (h1->headers_done || call->field_count == 0)
        return 0;
    f = &call->fields[call->field_count - 1];
    if (!h1->in_value)
        f->value.data = as_offset(call->text.len);
    h1->in_value = true;
    buf_append(&call->text, data, len);
    f->value.len += len;
    return 0;
}

static int on_headers_complete(http_parser *p)
{
    struct h1c *h1 = p->data;
    struct http_call *call = h1->cur;
    bool skip_body = call->head;

    h1->headers_done = true;
    for (size_t i = 0; i < call->field_count; i++) {
        struct http_field *f = &call->fields[i];

        f->name.data = call->text.data + (uintptr_t)f->name.data;
        f->value.data = call->text.data + (uintptr_t)f->value.data;
    }
    if (p->status_code >= 100 && p->status_code < 200) {
        call->field_count = 0;
        buf_clear(&call->text);
        return p->status_code == 101 ? -1 : 1; /* no body follows; the answer is yet to come */
    }
    h1->keep_alive = http_should_keep_alive(p);
    call->trailer_start = call->field_count;
    if (call->error == 0)
        http_call_on_headers(call, (int)p->status_code);
    return skip_body ? 1 : 0;
}

static int on_body(http_parser *p, const char *data, size_t len)
{
    struct h1c *h1 = p->data;

    if (h1->cur->error == 0)
        http_call_on_data(h1->cur, (const uint8_t *)data, len);
    return 0;
}

static int on_message_complete(http_parser *p)
{
    struct h1c *h1 = p->data;

    if (p->status_code >= 100 && p->status_code < 200)
        return 0;
    h1->message_over = true;
    http_parser_pause(p, 1);
    return 0;
}

static const http_parser_settings settings = {
    .on_message_begin = on_message_begin,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

static void answer_over(struct h1c *h1)
{
    struct http_client *client = h1->client;
    struct http_call *call = h1->cur;

    h1->message_over = false;
    h1->cur = NULL;
    if (!h1->keep_alive) {
        client->ending = true;
        http_client_down(client, 0);
    }
    http_call_over(call, call->error);
    http_client_dirty(client);
}

static int h1c_input(struct http_client *client, const uint8_t *data, size_t len)
{
    struct h1c *h1 = client->proto_state;

    while (len != 0) {
        size_t n = http_parser_execute(&h1->parser, &settings, (const char *)data, len);
        enum http_errno e = HTTP_PARSER_ERRNO(&h1->parser);

        if (e == HPE_PAUSED)
            http_parser_pause(&h1->parser, 0);
        else if (e != HPE_OK || n != len) {
            if (h1->cur != NULL && h1->cur->error == 0)
                h1->cur->error = -EPROTO;
            return -EPROTO;
        }
        data += n;
        len -= n;
        if (h1->message_over)
            answer_over(h1);
        if (client->down)
            return 0;
    }
    return 0;
}

static void h1c_eof(struct http_client *client)
{
    struct h1c *h1 = client->proto_state;

    /* an answer without a length ends with the connection */
    http_parser_execute(&h1->parser, &settings, NULL, 0);
    if (h1->message_over) {
        h1->keep_alive = false;
        answer_over(h1);
    }
}

static void put(struct buf *out, struct bytes v)
{
    for (size_t i = 0; i < v.len; i++)
        if (v.data[i] == '\r' || v.data[i] == '\n' || v.data[i] == '\0')
            return; /* never let a value end its line */
    buf_append_bytes(out, v);
}

static void h1c_call(struct http_call *call, const struct http_call_args *args)
{
    struct buf *out = &call->text;
    bool body_due = call->queued != 0 || bytes_eq(args->method, BYTES_LIT("POST")) ||
                    bytes_eq(args->method, BYTES_LIT("PUT"));

    if (call->open) {
        call->error = -EINVAL;
        return;
    }
    put(out, args->method);
    buf_append(out, " ", 1);
    put(out, args->path);
    buf_append_bytes(out, BYTES_LIT(" HTTP/1.1\r\nHost: "));
    put(out, bytes_str(call->client->authority));
    buf_append(out, "\r\n", 2);
    for (size_t i = 0; i < args->header_count; i++) {
        if (http_header_is_ours(args->headers[i].name))
            continue;
        put(out, args->headers[i].name);
        buf_append(out, ": ", 2);
        put(out, args->headers[i].value);
        buf_append(out, "\r\n", 2);
    }
    if (body_due)
        buf_appendf(out, "Content-Length: %zu\r\n", call->queued);
    buf_append(out, "\r\n", 2);
}

static void h1c_data(struct http_call *call)
{
}

static void h1c_cancel(struct http_call *call)
{
    if (!call->started) {
        http_call_over_later(call, call->error);
        return;
    }
    http_client_down(call->client, 0); /* there is no other way to stop an answer */
}

static int h1c_produce(struct http_client *client)
{
    struct h1c *h1 = client->proto_state;
    struct http_call *call;
    struct http_chunk *c;

    if (h1->cur != NULL || list_empty(&client->calls) || client->ending)
        return 0;
    call = LIST_ENTRY(client->calls.next, struct http_call, link);
    call->started = true;
    h1->cur = call;
    http_scratch_copy(&client->scratch, call->text.data, call->text.len);
    buf_clear(&call->text);
    while ((c = http_chunk_pop(&call->chunks)) != NULL) {
        http_scratch_copy(&client->scratch, c->data, c->len);
        if (c->heap)
            http_chunk_push(&client->spent, c);
    }
    call->queued = 0;
    return 0;
}

static uint32_t h1c_streams_max(const struct http_client *client)
{
    return 1;
}

static void h1c_release(struct http_call *call)
{
    struct h1c *h1 = call->client->proto_state;

    if (h1->cur == call)
        h1->cur = NULL;
}

static void h1c_start(struct http_client *client)
{
    struct h1c *h1 = xcalloc(1, sizeof(*h1));

    http_parser_init(&h1->parser, HTTP_RESPONSE);
    http_parser_set_max_header_size(UINT32_MAX / 2); /* process-wide; our own limit counts */
    h1->parser.data = h1;
    h1->client = client;
    client->proto_state = h1;
}

static void h1c_fini(struct http_client *client)
{
    free(client->proto_state);
}

const struct http_client_proto h1_client_proto = {
    .start = h1c_start,
    .call = h1c_call,
    .data = h1c_data,
    .cancel = h1c_cancel,
    .input = h1c_input,
    .eof = h1c_eof,
    .produce = h1c_produce,
    .streams_max = h1c_streams_max,
    .release = h1c_release,
    .fini = h1c_fini,
};
