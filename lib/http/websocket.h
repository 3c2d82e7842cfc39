/*
 * WebSocket frames (RFC 6455), the server's side: what a client sends is taken apart, what is sent
 * to it gets its frame header, and the opening handshake is judged. Bytes in, bytes out: no socket,
 * no policy; see http_respond_upgrade for how a connection becomes one.
 *
 * Strict where the RFC lets us be: a client masks, lengths are as short as they can be, text and the
 * reason of a close are UTF-8, no extension is ever agreed on. What a message may weigh is bounded
 * by the caller's limit, before any of it is kept.
 */
#ifndef CONCLAVE_HTTP_WEBSOCKET_H
#define CONCLAVE_HTTP_WEBSOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

enum websocket_opcode {
    WEBSOCKET_CONTINUATION = 0,
    WEBSOCKET_TEXT = 1,
    WEBSOCKET_BINARY = 2,
    WEBSOCKET_CLOSE = 8,
    WEBSOCKET_PING = 9,
    WEBSOCKET_PONG = 10,
};

/* Codes of a close, RFC 6455 section 7.4.1. */
enum {
    WEBSOCKET_NORMAL = 1000,
    WEBSOCKET_PROTOCOL_ERROR = 1002,
    WEBSOCKET_NO_CODE = 1005, /* never sent: the close had none */
    WEBSOCKET_NOT_TEXT = 1007,
    WEBSOCKET_TOO_BIG = 1009,
};

enum {
    WEBSOCKET_ACCEPT_BYTES = 28,
    WEBSOCKET_HEADER_BYTES = 10,   /* of a frame to the client, at most */
    WEBSOCKET_CONTROL_BYTES = 125, /* payload of a control frame, at most */
    WEBSOCKET_CLIENT_HEADER_BYTES = 14,
};

/* ---- handshake ---- */

/* Sec-WebSocket-Key: base64 of 16 bytes. */
bool websocket_key_valid(struct bytes key);
/* Sec-WebSocket-Accept, not terminated. */
void websocket_accept(struct bytes key, char ret[WEBSOCKET_ACCEPT_BYTES]);

/* ---- what the client sends ---- */

struct websocket {
    size_t message_bytes_max;
    /* own */
    uint8_t header[WEBSOCKET_CLIENT_HEADER_BYTES];
    size_t header_len;
    uint64_t payload_left; /* of the frame whose header is complete */
    size_t mask_at;
    bool in_frame, in_message, fin;
    uint8_t opcode;         /* of the frame */
    uint8_t message_opcode; /* of the message: text or binary */
    uint8_t control[WEBSOCKET_CONTROL_BYTES];
    size_t control_len;
    struct buf message;
    bool message_given; /* the last event was the message: it goes with the next call */
};

struct websocket_event {
    enum websocket_opcode opcode; /* text, binary, close, ping or pong */
    struct bytes payload; /* the message; what a pong is to bring back; the reason of a close. Valid
                             until the next call */
    unsigned int code;    /* of a close */
};

void websocket_init(struct websocket *ws, size_t message_bytes_max);
void websocket_fini(struct websocket *ws);

/*
 * Takes bytes off the front of *data, up to the next event. 0: there is one. -EAGAIN: all is taken,
 * more is needed. Positive: the code to close with; nothing may be asked of it afterwards.
 */
int websocket_next(struct websocket *ws, struct bytes *data, struct websocket_event *ret);

/* ---- what is sent ---- */

/* The header of a whole message or control frame, not masked; returns its length. */
size_t websocket_put_header(uint8_t ret[WEBSOCKET_HEADER_BYTES], enum websocket_opcode opcode,
                            uint64_t payload_len);
/* A whole close frame. code WEBSOCKET_NO_CODE: an empty one. reason is cut to what fits. */
void websocket_put_close(struct buf *b, unsigned int code, struct bytes reason);

#endif
