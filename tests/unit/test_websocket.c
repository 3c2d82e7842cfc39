/* The frame codec: every kind of frame in every cut, and what is refused with which code. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/http/websocket.h"
#include "lib/util/macros.h"

enum { LIMIT = 1 << 20 };

/* RFC 6455 section 1.3 */
Test(websocket, handshake)
{
    static const struct {
        const char *key;
        bool valid;
    } keys[] = {
        {"dGhlIHNhbXBsZSBub25jZQ==", true}, {"AAAAAAAAAAAAAAAAAAAAAA==", true},
        {"", false},                        {"dGhlIHNhbXBsZSBub25jZQ", false},
        {"dGhlIHNhbXBsZSBub25j", false},    {"dGhlIHNhbXBsZSBub25jZQAA", false},
        {"!GhlIHNhbXBsZSBub25jZQ==", false}, {"dGhlIHNhbXBsZSBub25jZQ=== ", false},
    };
    char accept[WEBSOCKET_ACCEPT_BYTES];

    websocket_accept(bytes_str(keys[0].key), accept);
    cr_assert_eq(memcmp(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", sizeof(accept)), 0);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        cr_expect_eq(websocket_key_valid(bytes_str(keys[i].key)), keys[i].valid, "%s",
                     keys[i].key);
}

/* Appends a frame as a client sends it. */
static void put(struct buf *b, uint8_t first, struct bytes payload)
{
    static const uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};

    buf_append_u8(b, first);
    if (payload.len < 126) {
        buf_append_u8(b, (uint8_t)(0x80 | payload.len));
    } else if (payload.len <= UINT16_MAX) {
        buf_append_u8(b, 0x80 | 126);
        buf_append_u8(b, (uint8_t)(payload.len >> 8));
        buf_append_u8(b, (uint8_t)payload.len);
    } else {
        buf_append_u8(b, 0x80 | 127);
        for (int shift = 56; shift >= 0; shift -= 8)
            buf_append_u8(b, (uint8_t)((uint64_t)payload.len >> shift));
    }
    buf_append(b, mask, sizeof(mask));
    for (size_t i = 0; i < payload.len; i++)
        buf_append_u8(b, payload.data[i] ^ mask[i % 4]);
}

/* What came out, as text: opcode, code and payload of each event, then the end. */
static void take(struct websocket *ws, struct bytes data, size_t step, struct buf *out)
{
    int r = -EAGAIN;

    for (size_t at = 0; at < data.len && r != 1; at += step) {
        struct bytes piece = bytes_of(data.data + at, MIN(step, data.len - at));
        struct websocket_event event;

        while ((r = websocket_next(ws, &piece, &event)) == 0) {
            buf_appendf(out, "%d", (int)event.opcode);
            if (event.opcode == WEBSOCKET_CLOSE)
                buf_appendf(out, "(%u)", event.code);
            if (event.payload.len > 200)
                buf_appendf(out, "[%zu]", event.payload.len);
            else
                buf_appendf(out, "'%.*s'", (int)event.payload.len, (const char *)event.payload.data);
        }
        if (r != -EAGAIN) {
            buf_appendf(out, "!%d", r);
            return;
        }
        cr_assert_eq(piece.len, 0);
    }
}

static void expect(const struct buf *in, size_t limit, const char *want)
{
    static const size_t steps[] = {1, 2, 3, 7, 4096, SIZE_MAX / 2};

    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        CLEANUP(buf_fini) struct buf out = BUF_INIT;
        struct websocket ws;

        if (in->len > 10000 && steps[i] < 7)
            continue;
        websocket_init(&ws, limit);
        take(&ws, buf_bytes(in), steps[i], &out);
        cr_expect(bytes_eq(buf_bytes(&out), bytes_str(want)), "in steps of %zu: %.*s, expected %s",
                  steps[i], (int)out.len, (const char *)out.data, want);
        websocket_fini(&ws);
    }
}

struct frame {
    uint8_t first;
    struct bytes payload; /* data NULL: there is none any more */
};

enum { FRAMES_MAX = 6 };

struct row {
    const char *name;
    struct frame frames[FRAMES_MAX];
    const char *want;
};

static const struct row messages[] = {
    {"a text", {{0x81, BYTES_LIT("Hello")}}, "1'Hello'"},
    {"binary", {{0x82, BYTES_LIT("\xff\xfe")}}, "2'\xff\xfe'"},
    {"empty", {{0x81, BYTES_LIT("")}}, "1''"},
    {"fragments", {{0x01, BYTES_LIT("Hel")}, {0x00, BYTES_LIT("l")}, {0x80, BYTES_LIT("o")}}, "1'Hello'"},
    {"empty fragments", {{0x01, BYTES_LIT("")}, {0x00, BYTES_LIT("")}, {0x80, BYTES_LIT("")}}, "1''"},
    {"binary fragments", {{0x02, BYTES_LIT("\xff")}, {0x80, BYTES_LIT("\xfe")}}, "2'\xff\xfe'"},
    {"a character in two fragments", {{0x01, BYTES_LIT("\xc3")}, {0x80, BYTES_LIT("\xa9")}}, "1'\xc3\xa9'"},
    {"control between fragments", {{0x01, BYTES_LIT("a")}, {0x89, BYTES_LIT("p")}, {0x00, BYTES_LIT("b")}, {0x8a, BYTES_LIT("")}, {0x80, BYTES_LIT("c")}},
     "9'p'10''1'abc'"},
    {"one after the other", {{0x81, BYTES_LIT("a")}, {0x82, BYTES_LIT("b")}, {0x81, BYTES_LIT("c")}}, "1'a'2'b'1'c'"},
    {"ping", {{0x89, BYTES_LIT("are you there")}}, "9'are you there'"},
    {"close", {{0x88, BYTES_LIT("")}}, "8(1005)''"},
    {"close with a code", {{0x88, BYTES_LIT("\x03\xe8")}}, "8(1000)''"},
    {"and a reason", {{0x88, BYTES_LIT("\x03\xe9going")}}, "8(1001)'going'"},
    {"codes of others", {{0x88, BYTES_LIT("\x0b\xb8")}}, "8(3000)''"},
    {"and private ones", {{0x88, BYTES_LIT("\x13\x87")}}, "8(4999)''"},
};

static const struct row refused[] = {
    {"first reserved bit", {{0xc1, BYTES_LIT("a")}}, "!1002"},
    {"second", {{0xa1, BYTES_LIT("a")}}, "!1002"},
    {"third", {{0x91, BYTES_LIT("a")}}, "!1002"},
    {"data opcode 3", {{0x83, BYTES_LIT("a")}}, "!1002"},
    {"data opcode 7", {{0x87, BYTES_LIT("a")}}, "!1002"},
    {"control opcode 11", {{0x8b, BYTES_LIT("")}}, "!1002"},
    {"control opcode 15", {{0x8f, BYTES_LIT("")}}, "!1002"},
    {"continuation of nothing", {{0x80, BYTES_LIT("a")}}, "!1002"},
    {"first fragment of nothing", {{0x00, BYTES_LIT("a")}}, "!1002"},
    {"continuation after the end", {{0x81, BYTES_LIT("a")}, {0x80, BYTES_LIT("b")}}, "1'a'!1002"},
    {"a message within a message", {{0x01, BYTES_LIT("a")}, {0x81, BYTES_LIT("b")}}, "!1002"},
    {"binary within text", {{0x01, BYTES_LIT("a")}, {0x02, BYTES_LIT("b")}}, "!1002"},
    {"a ping in pieces", {{0x09, BYTES_LIT("a")}}, "!1002"},
    {"a close in pieces", {{0x08, BYTES_LIT("")}}, "!1002"},
    {"close with half a code", {{0x88, BYTES_LIT("\x03")}}, "!1002"},
    {"close 0", {{0x88, BYTES_LIT("\0\0")}}, "!1002"},
    {"close 999", {{0x88, BYTES_LIT("\x03\xe7")}}, "!1002"},
    {"close 1004", {{0x88, BYTES_LIT("\x03\xec")}}, "!1002"},
    {"close 1005, which is no code", {{0x88, BYTES_LIT("\x03\xed")}}, "!1002"},
    {"close 1006, likewise", {{0x88, BYTES_LIT("\x03\xee")}}, "!1002"},
    {"close 1015, likewise", {{0x88, BYTES_LIT("\x03\xf7")}}, "!1002"},
    {"close 2999", {{0x88, BYTES_LIT("\x0b\xb7")}}, "!1002"},
    {"close 5000", {{0x88, BYTES_LIT("\x13\x88")}}, "!1002"},
    {"a reason that is no text", {{0x88, BYTES_LIT("\x03\xe8\xff")}}, "!1007"},
    {"text that is none", {{0x81, BYTES_LIT("a\xff")}}, "!1007"},
    {"overlong", {{0x81, BYTES_LIT("\xc0\x80")}}, "!1007"},
    {"a surrogate", {{0x81, BYTES_LIT("\xed\xa0\x80")}}, "!1007"},
    {"half a character", {{0x81, BYTES_LIT("\xc3")}}, "!1007"},
    {"half a character in fragments", {{0x01, BYTES_LIT("a")}, {0x80, BYTES_LIT("\xc3")}}, "!1007"},
};

static void run(const struct row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        CLEANUP(buf_fini) struct buf in = BUF_INIT;

        for (size_t k = 0; k < FRAMES_MAX && rows[i].frames[k].payload.data != NULL; k++)
            put(&in, rows[i].frames[k].first, rows[i].frames[k].payload);
        expect(&in, LIMIT, rows[i].want);
    }
}

Test(websocket, messages)
{
    run(messages, ARRAY_LEN(messages));
}

Test(websocket, malformed)
{
    run(refused, ARRAY_LEN(refused));
}

/* Frames that no honest encoder makes, byte by byte. */
Test(websocket, malformed_headers)
{
    static const struct {
        const char *name;
        struct bytes bytes;
        const char *want;
    } rows[] = {
        {"not masked", BYTES_LIT("\x81\x01" "a"), "!1002"},
        {"a close that is not masked", BYTES_LIT("\x88\x00"), "!1002"},
        {"a ping longer than 125", BYTES_LIT("\x89\xfe\x00\x7e"), "!1002"},
        {"a long ping", BYTES_LIT("\x89\xff"), "!1002"},
        {"16 bits for 125", BYTES_LIT("\x81\xfe\x00\x7d\0\0\0\0"), "!1002"},
        {"64 bits for 65535", BYTES_LIT("\x81\xff\0\0\0\0\0\0\xff\xff\0\0\0\0"), "!1002"},
        {"the sign bit of a length", BYTES_LIT("\x81\xff\x80\0\0\0\0\0\0\0\0\0\0\0"), "!1002"},
        {"a length beyond the limit", BYTES_LIT("\x81\xff\0\0\0\0\x7f\xff\xff\xff\0\0\0\0"),
         "!1009"},
        {"the longest there is", BYTES_LIT("\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0"),
         "!1009"},
        {"HTTP", BYTES_LIT("GET / HTTP/1.1\r\n\r\n"), "!1002"},
        {"half a header", BYTES_LIT("\x81"), ""},
        {"a header without its mask", BYTES_LIT("\x81\x85\x01\x02"), ""},
        {"half a payload", BYTES_LIT("\x81\x85\x01\x02\x03\x04" "ab"), ""},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(buf_fini) struct buf in = BUF_INIT;

        buf_append_bytes(&in, rows[i].bytes);
        expect(&in, LIMIT, rows[i].want);
    }
}

Test(websocket, lengths_and_the_limit)
{
    static const struct {
        size_t len;
        const char *want;
    } rows[] = {
        {65535, "1[65535]"}, {65536, "1[65536]"}, {100000, "1[100000]"}, {100001, "!1009"},
    };
    static uint8_t text[100001];

    memset(text, 'x', sizeof(text));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(buf_fini) struct buf in = BUF_INIT;
        CLEANUP(buf_fini) struct buf parts = BUF_INIT;

        put(&in, 0x81, bytes_of(text, rows[i].len));
        expect(&in, 100000, rows[i].want);
        put(&parts, 0x01, bytes_of(text, rows[i].len / 2));
        put(&parts, 0x80, bytes_of(text, rows[i].len - rows[i].len / 2));
        expect(&parts, 100000, rows[i].want);
    }
}

Test(websocket, what_is_sent)
{
    static const struct {
        uint64_t len;
        struct bytes want;
    } rows[] = {
        {0, BYTES_LIT("\x81\x00")},
        {125, BYTES_LIT("\x81\x7d")},
        {126, BYTES_LIT("\x81\x7e\x00\x7e")},
        {65535, BYTES_LIT("\x81\x7e\xff\xff")},
        {65536, BYTES_LIT("\x81\x7f\0\0\0\0\0\x01\0\0")},
    };
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    char reason[200];

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint8_t header[WEBSOCKET_HEADER_BYTES];
        size_t n = websocket_put_header(header, WEBSOCKET_TEXT, rows[i].len);

        cr_expect(bytes_eq(bytes_of(header, n), rows[i].want), "%llu",
                  (unsigned long long)rows[i].len);
    }
    websocket_put_close(&b, 1002, BYTES_LIT("no"));
    cr_expect(bytes_eq(buf_bytes(&b), BYTES_LIT("\x88\x04\x03\xeano")));
    buf_clear(&b);
    websocket_put_close(&b, WEBSOCKET_NO_CODE, BYTES_LIT("no"));
    cr_expect(bytes_eq(buf_bytes(&b), BYTES_LIT("\x88\x00")));
    /* cut where a character begins */
    memset(reason, 'x', sizeof(reason));
    memcpy(reason + 122, "\xc3\xa9", 2);
    buf_clear(&b);
    websocket_put_close(&b, 1000, bytes_of(reason, sizeof(reason)));
    cr_expect_eq(b.len, 4 + 122);
}
