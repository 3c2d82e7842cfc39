#include "gatewayd/json_websocket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "gatewayd/gatewayd.h"
#include "gatewayd/json_call.h"
#include "gatewayd/json_codec.h"
#include "lib/http/websocket.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

struct json_websocket {
    struct websocket frames;
    struct buf authorization; /* what the token came as, with "Bearer " before it */
    struct bytes authorization_value;
    struct buf message;       /* not a stream from the client: its request */
    bool running;             /* and it has been called with that */
    unsigned int close_code;  /* that the client is answered with; 0: it goes on */
};

static const struct bytes bearer = BYTES_LIT("Bearer");

/* ---- handshake ---- */

static struct bytes trim(struct bytes text)
{
    while (text.len > 0 && (text.data[0] == ' ' || text.data[0] == '\t')) {
        text.data++;
        text.len--;
    }
    while (text.len > 0 && (text.data[text.len - 1] == ' ' || text.data[text.len - 1] == '\t'))
        text.len--;
    return text;
}

/* The next element of a list, blanks around it removed. False: there is none. */
static bool next_item(struct bytes *list, char separator, struct bytes *ret)
{
    const uint8_t *end;

    if (list->len == 0)
        return false;
    end = memchr(list->data, separator, list->len);
    if (end == NULL) {
        *ret = trim(*list);
        list->len = 0;
        return true;
    }
    *ret = trim(bytes_of(list->data, (size_t)(end - list->data)));
    list->len -= (size_t)(end + 1 - list->data);
    list->data = end + 1;
    return true;
}

static bool equal_but_case(struct bytes text, const char *word)
{
    return text.len == strlen(word) && strncasecmp((const char *)text.data, word, text.len) == 0;
}

/* In any of the headers of that name. */
static bool header_has(const struct http_req *req, const char *name, const char *word)
{
    for (size_t i = 0; i < http_req_header_count(req); i++) {
        struct http_header h = http_req_header_at(req, i);
        struct bytes list = h.value, item;

        if (!bytes_eq(h.name, bytes_str(name)))
            continue;
        while (next_item(&list, ',', &item))
            if (equal_but_case(item, word))
                return true;
    }
    return false;
}

bool json_websocket_wanted(const struct http_req *req)
{
    return http_req_version(req) == HTTP_VERSION_1_1 && header_has(req, "connection", "upgrade") &&
           header_has(req, "upgrade", "websocket");
}

/* 0, or the status that says what is wrong with the handshake (RFC 6455 section 4.2.1; as etcd's
 * proxy says it). */
static int check_handshake(const struct http_req *req)
{
    if (!bytes_eq(http_req_method(req), BYTES_LIT("GET")))
        return 405;
    if (!bytes_eq(http_req_header(req, "sec-websocket-version"), BYTES_LIT("13")))
        return 400;
    return websocket_key_valid(http_req_header(req, "sec-websocket-key")) ? 0 : 400;
}

void json_websocket_on_request(struct gatewayd *gw, struct http_req *req)
{
    static const struct http_header version = HTTP_HEADER("sec-websocket-version", "13");
    bool method = check_handshake(req) == 405;
    struct bytes text =
        method ? BYTES_LIT("Method Not Allowed\n") : BYTES_LIT("Bad Request\n");
    struct http_header headers[2] = {version, HTTP_HEADER("content-type",
                                                          "text/plain; charset=utf-8")};

    http_respond(req, &(struct http_response){.status = method ? 405 : 400,
                                              .headers = headers,
                                              .header_count = ARRAY_LEN(headers),
                                              .body = &text,
                                              .body_count = 1});
}

static void respond_upgrade(struct http_req *req)
{
    struct bytes protocols = http_req_header(req, "sec-websocket-protocol");
    char accept[WEBSOCKET_ACCEPT_BYTES];
    struct http_header headers[2] = {
        {BYTES_LIT("sec-websocket-accept"), bytes_of(accept, sizeof(accept))},
        {BYTES_LIT("sec-websocket-protocol"), bearer},
    };
    bool agreed = protocols.len >= bearer.len &&
                  memcmp(protocols.data, bearer.data, bearer.len) == 0;

    websocket_accept(http_req_header(req, "sec-websocket-key"), accept);
    http_respond_upgrade(req, BYTES_LIT("websocket"), headers, agreed ? 2 : 1);
}

/* ---- who asks ---- */

static struct bytes cookie_token(const struct http_req *req)
{
    static const struct bytes name = BYTES_LIT("token=");
    struct bytes list = http_req_header(req, "cookie"), item;

    while (next_item(&list, ';', &item))
        if (item.len > name.len && memcmp(item.data, name.data, name.len) == 0)
            return bytes_of(item.data + name.len, item.len - name.len);
    return BYTES_EMPTY;
}

static struct bytes protocol_token(const struct http_req *req)
{
    struct bytes list = http_req_header(req, "sec-websocket-protocol"), item;

    if (next_item(&list, ',', &item) && bytes_eq(item, bearer))
        return trim(list);
    return BYTES_EMPTY;
}

static void set_authorization(struct grpc_call *call, struct json_websocket *ws)
{
    struct bytes token = cookie_token(call->req);

    if (token.len == 0)
        token = protocol_token(call->req);
    if (token.len == 0)
        return;
    buf_append_bytes(&ws->authorization, bearer);
    buf_append_u8(&ws->authorization, ' ');
    buf_append_bytes(&ws->authorization, token);
    ws->authorization_value = buf_bytes(&ws->authorization);
    call->authorization = &ws->authorization_value;
}

/* ---- answers ---- */

static void send_frame(struct http_req *req, enum websocket_opcode opcode, struct bytes payload)
{
    uint8_t header[WEBSOCKET_HEADER_BYTES];
    struct bytes pieces[2] = {bytes_of(header, 0), payload};

    pieces[0].len = websocket_put_header(header, opcode, payload.len);
    http_respond_data(req, pieces, ARRAY_LEN(pieces));
}

static void send_close(struct http_req *req, unsigned int code)
{
    CLEANUP(buf_fini) struct buf frame = BUF_INIT;
    struct bytes piece;

    websocket_put_close(&frame, code, BYTES_EMPTY);
    piece = buf_bytes(&frame);
    http_respond_data(req, &piece, 1);
    http_respond_end(req, NULL, 0);
}

static void send_line(struct grpc_call *call)
{
    struct json_call *j = call->writer_state;

    send_frame(call->req, WEBSOCKET_TEXT, buf_bytes(&j->line));
    json_line_done(j);
}

static void put_result(struct grpc_call *call, struct bytes message)
{
    if (json_make_result(call, message) == 0)
        send_line(call);
}

static void ws_reply(struct grpc_call *call, struct bytes message)
{
    struct json_call *j = call->writer_state;

    buf_clear(&j->line);
    if (json_from_pb(message, j->types->output, &j->line) != 0) {
        buf_clear(&j->line);
        json_put_status(&j->line, GRPC_INTERNAL, "malformed answer");
    }
    send_line(call);
    send_close(call->req, WEBSOCKET_NORMAL);
}

static void ws_begin(struct grpc_call *call)
{
}

static void ws_data(struct grpc_call *call, const struct bytes *pieces, size_t piece_count)
{
    struct json_call *j = call->writer_state;

    if (call->method->type != GRPC_UNARY) {
        json_take_frames(call, pieces, piece_count, put_result);
        return;
    }
    for (size_t i = 0; i < piece_count; i++) /* in parts: at the end */
        buf_append_bytes(&j->framed, pieces[i]);
}

static void ws_end(struct grpc_call *call, enum grpc_code code, const char *text)
{
    struct json_call *j = call->writer_state;
    bool bare = !call->streaming || call->method->type == GRPC_UNARY;

    if (j->ws->close_code != 0) {
        send_close(call->req, j->ws->close_code);
        return;
    }
    if (code == GRPC_OK && call->method->type == GRPC_UNARY) {
        ws_reply(call, bytes_of(j->framed.data + GRPC_PREFIX_BYTES,
                                j->framed.len - GRPC_PREFIX_BYTES));
        return;
    }
    if (code != GRPC_OK) {
        buf_clear(&j->line);
        if (!bare)
            buf_appendf(&j->line, "{\"error\":");
        json_put_status(&j->line, code, text);
        if (!bare)
            buf_append_u8(&j->line, '}');
        send_line(call);
    }
    send_close(call->req, WEBSOCKET_NORMAL);
}

static void ws_closed(struct grpc_call *call)
{
    struct json_call *j = call->writer_state;

    websocket_fini(&j->ws->frames);
    buf_fini(&j->ws->authorization);
    buf_fini(&j->ws->message);
    free(j->ws);
    json_call_closed(call);
}

static const struct grpc_writer ws_writer = {
    .reply = ws_reply,
    .begin = ws_begin,
    .data = ws_data,
    .end = ws_end,
    .closed = ws_closed,
    .metadata_prefix = "grpc-metadata-",
};

/* ---- requests ---- */

enum http_body_mode json_websocket_on_headers(struct gatewayd *gw, struct http_req *req)
{
    const ProtobufCMethodDescriptor *types;
    struct grpc_method *method = json_find_method(gw, req, &types);
    struct grpc_call *call;
    struct json_call *j;

    if (check_handshake(req) != 0)
        return HTTP_BODY_BUFFER;
    respond_upgrade(req);
    if (method == NULL || method->secret) {
        CLEANUP(buf_fini) struct buf text = BUF_INIT;

        if (method == NULL)
            json_put_status(&text, GRPC_NOT_FOUND, "Not Found");
        else
            json_put_status(&text, GRPC_UNIMPLEMENTED, "not over a WebSocket");
        send_frame(req, WEBSOCKET_TEXT, buf_bytes(&text));
        send_close(req, WEBSOCKET_NORMAL);
        return HTTP_BODY_STREAM;
    }
    call = json_call_begin(gw, req, method, types, &ws_writer);
    j = call->writer_state;
    j->ws = xcalloc(1, sizeof(*j->ws));
    websocket_init(&j->ws->frames, json_body_limit(gw));
    set_authorization(call, j->ws);
    if (method->type == GRPC_BIDI_STREAM)
        grpc_call_run(call, BYTES_EMPTY);
    return HTTP_BODY_STREAM;
}

/* The first object is the request; what follows it is nobody's. */
static void try_run(struct grpc_call *call)
{
    struct json_call *j = call->writer_state;
    CLEANUP(freep) char *error = NULL;
    size_t used;
    int e;

    if (j->ws->running)
        return;
    e = json_to_pb(buf_bytes(&j->request), j->types->input, &j->ws->message, &used, &error);
    if (e == -EINVAL) {
        grpc_fail(call, GRPC_INVALID_ARGUMENT, error);
    } else if (e == 0) {
        j->ws->running = true;
        grpc_call_run(call, buf_bytes(&j->ws->message));
    }
}

static void take_message(struct grpc_call *call, struct bytes message)
{
    struct json_call *j = call->writer_state;

    if (j->ws->running)
        return;
    buf_append_bytes(&j->request, message);
    buf_append_u8(&j->request, '\n');
    if (call->method->type == GRPC_BIDI_STREAM)
        json_take_messages(call, false);
    else if (j->request.len > json_body_limit(call->gw))
        grpc_fail(call, GRPC_RESOURCE_EXHAUSTED, "http: request body too large");
    else
        try_run(call);
}

/* The client leaves, or has to. What it asked for ends with its connection. */
static void leave(struct grpc_call *call, unsigned int code)
{
    struct json_call *j = call->writer_state;

    j->ws->close_code = code;
    backend_cancel(call->gw->backend, &call->backend);
    grpc_fail(call, GRPC_CANCELED, "context canceled");
}

void json_websocket_on_data(struct grpc_call *call, struct bytes data)
{
    struct json_call *j = call->writer_state;

    while (!call->ended) {
        struct websocket_event event;
        int r = websocket_next(&j->ws->frames, &data, &event);

        if (r == -EAGAIN)
            return;
        if (r != 0)
            leave(call, (unsigned int)r);
        else if (event.opcode == WEBSOCKET_CLOSE)
            leave(call, event.code);
        else if (event.opcode == WEBSOCKET_PING)
            send_frame(call->req, WEBSOCKET_PONG, event.payload);
        else if (event.opcode != WEBSOCKET_PONG)
            take_message(call, event.payload);
    }
}
