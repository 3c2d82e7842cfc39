#include "bench/grpc_call.h"

#include <assert.h>
#include "lib/http/http_client.h"
#include "lib/util/macros.h"

enum { PREFIX_BYTES = 5 }; /* compressed or not, and a length of 32 bits */

static const struct http_header request_headers[] = {
    {{(const uint8_t *)"content-type", 12}, {(const uint8_t *)"application/grpc", 16}},
    {{(const uint8_t *)"te", 2}, {(const uint8_t *)"trailers", 8}},
    {{(const uint8_t *)"user-agent", 10}, {(const uint8_t *)"conclave-bench", 14}},
};

struct http_call *grpc_call_start(struct http_client *client, const char *path,
                                  struct bytes messages, bool open,
                                  const struct http_call_handler *handler, void *user)
{
    return http_call_start(client, &(struct http_call_args){
                                       .method = BYTES_LIT("POST"),
                                       .path = bytes_str(path),
                                       .headers = request_headers,
                                       .header_count = ARRAY_LEN(request_headers),
                                       .headers_static = true,
                                       .body = &messages,
                                       .body_count = messages.len != 0,
                                       .body_open = open,
                                       .handler = handler,
                                       .user = user,
                                   });
}

size_t grpc_call_outcome(const struct http_call *call, int error)
{
    struct bytes status = http_call_trailer(call, "grpc-status");
    size_t code = 0;

    if (error != 0)
        return GRPC_BROKEN;
    if (status.data == NULL)
        status = http_call_header(call, "grpc-status"); /* Trailers-Only */
    if (status.len == 0 || status.len > 2)
        return GRPC_NO_STATUS;
    for (size_t i = 0; i < status.len; i++)
        code = code * 10 + (size_t)(status.data[i] - '0');
    return code < GRPC_CODES ? code : GRPC_NO_STATUS;
}

size_t grpc_message_begin(struct buf *b)
{
    size_t begin = b->len;

    buf_append(b, "\0\0\0\0\0", PREFIX_BYTES);
    return begin;
}

void grpc_message_end(struct buf *b, size_t begin)
{
    size_t len = b->len - begin - PREFIX_BYTES;

    assert(b->len >= begin + PREFIX_BYTES);
    assert(len <= UINT32_MAX);
    for (size_t i = 0; i < 4; i++)
        b->data[begin + 1 + i] = (uint8_t)(len >> (24 - 8 * i));
}

/* The messages that are complete; returns how many bytes they took. */
static size_t take_messages(struct bytes data, void (*on_message)(void *user, struct bytes message),
                            void *user)
{
    size_t at = 0;

    while (data.len - at >= PREFIX_BYTES) {
        const uint8_t *p = data.data + at;
        size_t len = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];

        if (data.len - at - PREFIX_BYTES < len)
            break;
        on_message(user, bytes_of(p + PREFIX_BYTES, len));
        at += PREFIX_BYTES + len;
    }
    return at;
}

void grpc_messages(struct buf *rest, struct bytes data,
                   void (*on_message)(void *user, struct bytes message), void *user)
{
    size_t taken;

    if (rest->len == 0) { /* the usual case: nothing is copied */
        taken = take_messages(data, on_message, user);
        buf_append(rest, data.data + taken, data.len - taken);
        return;
    }
    buf_append_bytes(rest, data);
    taken = take_messages(buf_bytes(rest), on_message, user);
    buf_consume(rest, taken);
}
