#include "lib/http/websocket.h"

#include <assert.h>
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "lib/util/base64.h"
#include "lib/util/macros.h"
#include "lib/util/utf8.h"
#include "lib/wire/wire.h"

enum {
    KEY_BYTES = 16,
    SHA1_BYTES = 20,
    MASK_BYTES = 4,
    FIN = 0x80,
    RESERVED_BITS = 0x70,
    OPCODE_BITS = 0x0f,
    CONTROL_BIT = 0x08,
    MASKED = 0x80,
    LENGTH_BITS = 0x7f,
    LENGTH_16 = 126,
    LENGTH_64 = 127,
    CODE_BYTES = 2,
    MESSAGE_KEEP_BYTES = 64 << 10, /* of buffer, between messages */
};

static uint16_t load_be16(const uint8_t in[2])
{
    return (uint16_t)(in[0] << 8 | in[1]);
}

static void store_be16(uint8_t out[2], uint16_t v)
{
    out[0] = (uint8_t)(v >> 8);
    out[1] = (uint8_t)v;
}

/* ---- handshake ---- */

bool websocket_key_valid(struct bytes key)
{
    CLEANUP(buf_fini) struct buf decoded = BUF_INIT;

    return key.len == (KEY_BYTES + 2) / 3 * 4 && base64_decode(&decoded, key) == 0 &&
           decoded.len == KEY_BYTES;
}

void websocket_accept(struct bytes key, char ret[WEBSOCKET_ACCEPT_BYTES])
{
    static const struct bytes guid = BYTES_LIT("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    CLEANUP(buf_fini) struct buf text = BUF_INIT;
    CLEANUP(buf_fini) struct buf encoded = BUF_INIT;
    uint8_t digest[SHA1_BYTES];
    unsigned int len = sizeof(digest);
    int ok;

    buf_append_bytes(&text, key);
    buf_append_bytes(&text, guid);
    ok = EVP_Digest(text.data, text.len, digest, &len, EVP_sha1(), NULL);
    assert(ok == 1);
    base64_encode(&encoded, bytes_of(digest, sizeof(digest)));
    assert(encoded.len == WEBSOCKET_ACCEPT_BYTES);
    memcpy(ret, encoded.data, WEBSOCKET_ACCEPT_BYTES);
}

/* ---- what the client sends ---- */

void websocket_init(struct websocket *ws, size_t message_bytes_max)
{
    *ws = (struct websocket){.message_bytes_max = message_bytes_max, .message = BUF_INIT};
}

void websocket_fini(struct websocket *ws)
{
    buf_fini(&ws->message);
}

/* How long the header is, by as much of it as is there; at least 2. */
static size_t header_len(const struct websocket *ws)
{
    uint8_t length;

    if (ws->header_len < 2)
        return 2;
    length = ws->header[1] & LENGTH_BITS;
    return 2 + (length == LENGTH_16 ? 2 : length == LENGTH_64 ? 8 : 0) + MASK_BYTES;
}

/* The first two bytes say most of what can be wrong. 0 or a code. */
static int check_start(const struct websocket *ws)
{
    uint8_t opcode = ws->header[0] & OPCODE_BITS, length = ws->header[1] & LENGTH_BITS;
    bool fin = (ws->header[0] & FIN) != 0;

    if ((ws->header[0] & RESERVED_BITS) != 0 || (ws->header[1] & MASKED) == 0)
        return WEBSOCKET_PROTOCOL_ERROR;
    switch (opcode) {
    case WEBSOCKET_CONTINUATION:
        return ws->in_message ? 0 : WEBSOCKET_PROTOCOL_ERROR;
    case WEBSOCKET_TEXT:
    case WEBSOCKET_BINARY:
        return ws->in_message ? WEBSOCKET_PROTOCOL_ERROR : 0;
    case WEBSOCKET_CLOSE:
    case WEBSOCKET_PING:
    case WEBSOCKET_PONG:
        return fin && length <= WEBSOCKET_CONTROL_BYTES ? 0 : WEBSOCKET_PROTOCOL_ERROR;
    default:
        return WEBSOCKET_PROTOCOL_ERROR;
    }
}

/* The header is complete. 0 or a code. */
static int begin_frame(struct websocket *ws)
{
    uint64_t length = ws->header[1] & LENGTH_BITS;

    if (length == LENGTH_16) {
        length = load_be16(ws->header + 2);
        if (length < LENGTH_16)
            return WEBSOCKET_PROTOCOL_ERROR; /* RFC 6455 section 5.2: the shortest form */
    } else if (length == LENGTH_64) {
        length = wire_load_be64(ws->header + 2);
        if (length <= UINT16_MAX || length > INT64_MAX)
            return WEBSOCKET_PROTOCOL_ERROR;
    }
    ws->opcode = ws->header[0] & OPCODE_BITS;
    ws->fin = (ws->header[0] & FIN) != 0;
    if ((ws->opcode & CONTROL_BIT) == 0) {
        if (length > ws->message_bytes_max - MIN(ws->message.len, ws->message_bytes_max))
            return WEBSOCKET_TOO_BIG;
        if (ws->opcode != WEBSOCKET_CONTINUATION)
            ws->message_opcode = ws->opcode;
        ws->in_message = true;
    }
    ws->payload_left = length;
    ws->mask_at = 0;
    ws->control_len = 0;
    ws->in_frame = true;
    return 0;
}

static int take_header(struct websocket *ws, struct bytes *data)
{
    int code;

    while (ws->header_len < header_len(ws)) {
        size_t n = MIN(header_len(ws) - ws->header_len, data->len);

        if (n == 0)
            return -EAGAIN;
        memcpy(ws->header + ws->header_len, data->data, n);
        ws->header_len += n;
        data->data += n;
        data->len -= n;
        code = ws->header_len >= 2 ? check_start(ws) : 0;
        if (code != 0)
            return code;
    }
    return begin_frame(ws);
}

static void take_payload(struct websocket *ws, struct bytes *data)
{
    size_t n = (size_t)MIN(ws->payload_left, data->len);
    const uint8_t *mask = ws->header + ws->header_len - MASK_BYTES;
    uint8_t *to;

    if ((ws->opcode & CONTROL_BIT) != 0) {
        to = ws->control + ws->control_len;
        ws->control_len += n;
    } else {
        to = n != 0 ? buf_reserve(&ws->message, n) : NULL;
        ws->message.len += n;
    }
    for (size_t i = 0; i < n; i++)
        to[i] = data->data[i] ^ mask[(ws->mask_at + i) % MASK_BYTES];
    ws->mask_at = (ws->mask_at + n) % MASK_BYTES;
    ws->payload_left -= n;
    data->data += n;
    data->len -= n;
}

/* RFC 6455 section 7.4: those defined for the wire, and what is free for others. */
static bool code_valid(unsigned int code)
{
    return (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) ||
           (code >= 3000 && code <= 4999);
}

static int end_close(struct websocket *ws, struct websocket_event *ret)
{
    ret->code = WEBSOCKET_NO_CODE;
    if (ws->control_len == 0)
        return 0;
    if (ws->control_len < CODE_BYTES)
        return WEBSOCKET_PROTOCOL_ERROR;
    ret->code = load_be16(ws->control);
    ret->payload = bytes_of(ws->control + CODE_BYTES, ws->control_len - CODE_BYTES);
    if (!code_valid(ret->code))
        return WEBSOCKET_PROTOCOL_ERROR;
    return utf8_valid(ret->payload) ? 0 : WEBSOCKET_NOT_TEXT;
}

/* The frame is complete. 0: and an event; -EAGAIN: it is not the last of its message; or a code. */
static int end_frame(struct websocket *ws, struct websocket_event *ret)
{
    ws->in_frame = false;
    ws->header_len = 0;
    *ret = (struct websocket_event){.opcode = ws->opcode, .payload = BYTES_EMPTY};
    if ((ws->opcode & CONTROL_BIT) != 0) {
        if (ws->opcode == WEBSOCKET_CLOSE)
            return end_close(ws, ret);
        ret->payload = bytes_of(ws->control, ws->control_len);
        return 0;
    }
    if (!ws->fin)
        return -EAGAIN;
    ws->in_message = false;
    ws->message_given = true;
    ret->opcode = ws->message_opcode;
    ret->payload = buf_bytes(&ws->message);
    return ret->opcode == WEBSOCKET_BINARY || utf8_valid(ret->payload) ? 0 : WEBSOCKET_NOT_TEXT;
}

int websocket_next(struct websocket *ws, struct bytes *data, struct websocket_event *ret)
{
    if (ws->message_given) {
        buf_clear(&ws->message);
        buf_trim(&ws->message, MESSAGE_KEEP_BYTES);
        ws->message_given = false;
    }
    for (;;) {
        int r;

        if (!ws->in_frame && (r = take_header(ws, data)) != 0)
            return r;
        take_payload(ws, data);
        if (ws->payload_left != 0)
            return -EAGAIN;
        r = end_frame(ws, ret);
        if (r != -EAGAIN)
            return r;
    }
}

/* ---- what is sent ---- */

size_t websocket_put_header(uint8_t ret[WEBSOCKET_HEADER_BYTES], enum websocket_opcode opcode,
                            uint64_t payload_len)
{
    ret[0] = (uint8_t)(FIN | opcode);
    if (payload_len < LENGTH_16) {
        ret[1] = (uint8_t)payload_len;
        return 2;
    }
    if (payload_len <= UINT16_MAX) {
        ret[1] = LENGTH_16;
        store_be16(ret + 2, (uint16_t)payload_len);
        return 4;
    }
    ret[1] = LENGTH_64;
    wire_store_be64(ret + 2, payload_len);
    return 10;
}

/* As much as fits, and no half of a character at the end. */
static size_t cut_text(struct bytes text, size_t max)
{
    size_t len = MIN(text.len, max);

    while (len > 0 && len < text.len && (text.data[len] & 0xc0) == 0x80)
        len--;
    return len;
}

void websocket_put_close(struct buf *b, unsigned int code, struct bytes reason)
{
    uint8_t header[WEBSOCKET_HEADER_BYTES], number[CODE_BYTES];
    size_t len = cut_text(reason, WEBSOCKET_CONTROL_BYTES - CODE_BYTES);

    if (code == WEBSOCKET_NO_CODE) {
        buf_append(b, header, websocket_put_header(header, WEBSOCKET_CLOSE, 0));
        return;
    }
    buf_append(b, header, websocket_put_header(header, WEBSOCKET_CLOSE, CODE_BYTES + len));
    store_be16(number, (uint16_t)code);
    buf_append(b, number, sizeof(number));
    buf_append(b, reason.data, len);
}
