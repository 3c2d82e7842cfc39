/*
 * HTTP/2 server against raw frames, as a client that is broken, greedy or hostile would send them.
 * Header blocks are written as literals without indexing (RFC 7541 section 6.2.2); of the answers,
 * frames are looked at.
 */
#include "tests/unit/http_fixture.h"

enum {
    F_DATA = 0,
    F_HEADERS = 1,
    F_RST = 3,
    F_SETTINGS = 4,
    F_PING = 6,
    F_GOAWAY = 7,
    F_WINDOW = 8,
    F_CONT = 9,
    END_STREAM = 1,
    ACK = 1,
    END_HEADERS = 4,
};

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

static void put_frame(struct buf *b, unsigned int type, unsigned int flags, uint32_t stream,
                      const void *payload, size_t len)
{
    const uint8_t head[9] = {
        (uint8_t)(len >> 16),    (uint8_t)(len >> 8),    (uint8_t)len,
        (uint8_t)type,           (uint8_t)flags,         (uint8_t)(stream >> 24),
        (uint8_t)(stream >> 16), (uint8_t)(stream >> 8), (uint8_t)stream};

    buf_append(b, head, sizeof(head));
    buf_append(b, payload, len);
}

static void put_u32(struct buf *b, uint32_t v)
{
    const uint8_t bytes[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8),
                              (uint8_t)v};

    buf_append(b, bytes, 4);
}

/* first: 0x00 literal without indexing, 0x40 with */
static void put_literal(struct buf *b, uint8_t first, const char *name, const char *value)
{
    buf_append_u8(b, first);
    cr_assert(strlen(name) < 127);
    buf_append_u8(b, (uint8_t)strlen(name));
    buf_append(b, name, strlen(name));
    if (strlen(value) < 127) {
        buf_append_u8(b, (uint8_t)strlen(value));
    } else {
        size_t rest = strlen(value) - 127;

        buf_append_u8(b, 127);
        for (; rest >= 128; rest >>= 7)
            buf_append_u8(b, (uint8_t)(rest | 128));
        buf_append_u8(b, (uint8_t)rest);
    }
    buf_append(b, value, strlen(value));
}

static void put_block(struct buf *block, const char *path)
{
    put_literal(block, 0, ":method", "POST");
    put_literal(block, 0, ":scheme", "http");
    put_literal(block, 0, ":authority", "a");
    put_literal(block, 0, ":path", path);
    put_literal(block, 0, "content-type", "application/grpc");
}

static void put_request(struct buf *b, uint32_t stream, const char *path, unsigned int flags)
{
    CLEANUP(buf_fini) struct buf block = BUF_INIT;

    put_block(&block, path);
    put_frame(b, F_HEADERS, flags | END_HEADERS, stream, block.data, block.len);
}

static void put_start(struct buf *b)
{
    buf_append(b, PREFACE, sizeof(PREFACE) - 1);
    put_frame(b, F_SETTINGS, 0, 0, NULL, 0);
}

static void put_word_frame(struct buf *b, unsigned int type, uint32_t stream, uint32_t word)
{
    CLEANUP(buf_fini) struct buf payload = BUF_INIT;

    put_u32(&payload, word);
    put_frame(b, type, 0, stream, payload.data, 4);
}

static void put_setting(struct buf *b, uint16_t id, uint32_t value)
{
    CLEANUP(buf_fini) struct buf payload = BUF_INIT;

    buf_append_u8(&payload, (uint8_t)(id >> 8));
    buf_append_u8(&payload, (uint8_t)id);
    put_u32(&payload, value);
    put_frame(b, F_SETTINGS, 0, 0, payload.data, 6);
}

static void send_buf(struct fixture *f, struct buf *b)
{
    fx_send(f, b->data, b->len);
    buf_clear(b);
    fx_settle(f);
}

struct frame {
    unsigned int type;
    unsigned int flags;
    uint32_t stream;
    struct bytes payload;
};

/* The frame at *pos of what came back. */
static bool next_frame(const struct fixture *f, size_t *pos, struct frame *ret)
{
    const uint8_t *p = f->got.data + *pos;
    size_t len;

    if (f->got.len - *pos < 9)
        return false;
    len = (size_t)p[0] << 16 | (size_t)p[1] << 8 | p[2];
    cr_assert(f->got.len - *pos >= 9 + len, "a whole frame");
    ret->type = p[3];
    ret->flags = p[4];
    ret->stream = (uint32_t)p[5] << 24 | (uint32_t)p[6] << 16 | (uint32_t)p[7] << 8 | p[8];
    ret->payload = bytes_of(p + 9, len);
    *pos += 9 + len;
    return true;
}

static bool find_frame(const struct fixture *f, unsigned int type, uint32_t stream,
                       struct frame *ret)
{
    size_t pos = 0;

    while (next_frame(f, &pos, ret))
        if (ret->type == type && ret->stream == stream)
            return true;
    return false;
}

static size_t data_len(const struct fixture *f, uint32_t stream)
{
    size_t pos = 0, n = 0;
    struct frame fr;

    while (next_frame(f, &pos, &fr))
        if (fr.type == F_DATA && fr.stream == stream)
            n += fr.payload.len;
    return n;
}

static uint32_t u32_at(struct bytes b, size_t off)
{
    cr_assert(b.len >= off + 4);
    return (uint32_t)b.data[off] << 24 | (uint32_t)b.data[off + 1] << 16 |
           (uint32_t)b.data[off + 2] << 8 | b.data[off + 3];
}

/* Headers, data, trailers: type and flags of the frames of one stream, as "1.4 0.0 1.5 ". */
static void shape(const struct fixture *f, uint32_t stream, char *to, size_t size)
{
    size_t pos = 0, n = 0;
    struct frame fr;

    to[0] = '\0';
    while (next_frame(f, &pos, &fr))
        if (fr.stream == stream && n < size)
            n += (size_t)snprintf(to + n, size - n, "%u.%u ", fr.type, fr.flags);
}

static void check_unary(size_t step)
{
    struct fixture f;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    char text[128];

    fx_init(&f);
    put_start(&b);
    put_request(&b, 1, "/grpc", 0);
    put_frame(&b, F_DATA, END_STREAM, 1, "\0\0\0\0\0", 5);
    put_request(&b, 3, "/ok", END_STREAM);
    for (size_t i = 0; i < b.len; i += step) {
        fx_send(&f, b.data + i, MIN(step, b.len - i));
        fx_settle(&f);
    }
    shape(&f, 1, text, sizeof(text));
    cr_expect_str_eq(text, "1.4 0.0 1.5 ", "step %zu: %s", step, text);
    shape(&f, 3, text, sizeof(text));
    cr_expect_str_eq(text, "1.4 0.1 ", "step %zu: %s", step, text);
    cr_expect_eq(f.open_count, 0);
    cr_expect_not(f.closed);
    fx_fini(&f);
}

Test(http2, unary)
{
    check_unary(1 << 20);
    check_unary(1);
    check_unary(7);
}

Test(http2, one_write_per_turn)
{
    struct fixture f;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    fx_init(&f);
    put_start(&b);
    for (uint32_t i = 0; i < 20; i++)
        put_request(&b, 1 + 2 * i, "/grpc", END_STREAM);
    fx_send(&f, b.data, b.len);
    loop_run_once(f.loop, 0);
    fx_read(&f); /* all of it came of one turn */
    for (uint32_t i = 0; i < 20; i++) {
        char text[128];

        shape(&f, 1 + 2 * i, text, sizeof(text));
        cr_expect_str_eq(text, "1.4 0.0 1.5 ");
    }
    fx_fini(&f);
}

/* What ends the connection, and with which code. */
struct bad_row {
    const char *name;
    unsigned int type, flags;
    uint32_t stream;
    const char *payload;
    size_t len;
    uint32_t code;
};

static const struct bad_row bad_rows[] = {
    {"data on stream 0", F_DATA, 0, 0, "x", 1, 1},
    {"data on an idle stream", F_DATA, 0, 5, "x", 1, 1},
    {"headers on stream 0", F_HEADERS, END_HEADERS, 0, "\x82", 1, 1},
    {"headers on an even stream", F_HEADERS, END_HEADERS, 2, "\x82", 1, 1},
    {"headers that are no HPACK", F_HEADERS, END_HEADERS, 1, "\xff\xff\xff\xff\xff\xff\xff\xff", 8,
     9},
    {"an index nobody has", F_HEADERS, END_HEADERS, 1, "\xfe", 1, 9},
    {"ping of 7 bytes", F_PING, 0, 0, "1234567", 7, 6},
    {"settings of 5 bytes", F_SETTINGS, 0, 0, "12345", 5, 6},
    {"settings on a stream", F_SETTINGS, 0, 1, "", 0, 1},
    {"settings ack with content", F_SETTINGS, ACK, 0, "123456", 6, 6},
    {"initial window beyond 2^31", F_SETTINGS, 0, 0, "\0\x04\xff\xff\xff\xff", 6, 3},
    {"window update of 0", F_WINDOW, 0, 0, "\0\0\0\0", 4, 1},
    {"window update of 3 bytes", F_WINDOW, 0, 0, "\0\0\0", 3, 6},
    {"window overflow", F_WINDOW, 0, 0, "\x7f\xff\xff\xff", 4, 3},
    {"continuation of nothing", F_CONT, END_HEADERS, 1, "\x82", 1, 1},
    {"reset of an idle stream", F_RST, 0, 7, "\0\0\0\x08", 4, 1},
    {"reset of 3 bytes", F_RST, 0, 1, "\0\0\x08", 3, 6},
    {"padding longer than the frame", F_HEADERS, END_HEADERS | 8, 1, "\xff\x82", 2, 1},
    {"push from a client", 5, END_HEADERS, 1, "\0\0\0\2\x82", 5, 1},
};

Test(http2, connection_errors)
{
    for (size_t i = 0; i < ARRAY_LEN(bad_rows); i++) {
        const struct bad_row *row = &bad_rows[i];
        struct fixture f;
        struct frame fr;
        CLEANUP(buf_fini) struct buf b = BUF_INIT;

        fx_init(&f);
        put_start(&b);
        put_frame(&b, row->type, row->flags, row->stream, row->payload, row->len);
        send_buf(&f, &b);
        if (find_frame(&f, F_GOAWAY, 0, &fr))
            cr_expect_eq(u32_at(fr.payload, 4), row->code, "%s: code %u", row->name,
                         u32_at(fr.payload, 4));
        else
            cr_expect(f.closed, "%s: nothing happened", row->name);
        cr_expect(f.closed, "%s: still open", row->name);
        cr_expect_eq(strchr(fx_events(&f), 'R'), NULL, "%s", row->name);
        fx_fini(&f);
    }
}

Test(http2, frame_too_large)
{
    struct fixture f;
    struct frame fr;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    const uint8_t head[9] = {0xff, 0xff, 0xff, F_DATA, 0, 0, 0, 0, 1};

    fx_init(&f);
    put_start(&b);
    buf_append(&b, head, sizeof(head));
    send_buf(&f, &b);
    cr_assert(find_frame(&f, F_GOAWAY, 0, &fr));
    cr_expect_eq(u32_at(fr.payload, 4), 6);
    fx_fini(&f);
}

/* Requests that are not HTTP end their stream, not the connection. */
Test(http2, malformed_requests)
{
    static const char *const fields[][2] = {
        {"Upper", "x"},
        {"connection", "close"},
        {"te", "gzip"},
        {":status", "200"},
        {"", "x"},
        {"a", "b\nc"},
        {"transfer-encoding", "chunked"},
        {"content-length", "x"},
        {":path", "/again"},
    };

    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        struct fixture f;
        struct frame fr;
        CLEANUP(buf_fini) struct buf b = BUF_INIT;
        CLEANUP(buf_fini) struct buf block = BUF_INIT;

        fx_init(&f);
        put_start(&b);
        put_block(&block, "/ok");
        put_literal(&block, 0, fields[i][0], fields[i][1]);
        put_frame(&b, F_HEADERS, END_HEADERS | END_STREAM, 1, block.data, block.len);
        put_request(&b, 3, "/ok", END_STREAM);
        send_buf(&f, &b);
        cr_expect(find_frame(&f, F_RST, 1, &fr), "field %zu", i);
        cr_expect(find_frame(&f, F_HEADERS, 3, &fr), "field %zu: the next one works", i);
        cr_expect_eq(f.open_count, 0);
        fx_fini(&f);
    }
}

/* etcdctl 3.4 puts a URL into :authority. */
Test(http2, any_authority)
{
    struct fixture f;
    struct frame fr;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    CLEANUP(buf_fini) struct buf block = BUF_INIT;

    fx_init(&f);
    put_start(&b);
    put_literal(&block, 0, ":method", "GET");
    put_literal(&block, 0, ":scheme", "http");
    put_literal(&block, 0, ":path", "/ok");
    put_literal(&block, 0, ":authority", "http://127.0.0.1:2379");
    put_frame(&b, F_HEADERS, END_HEADERS | END_STREAM, 1, block.data, block.len);
    send_buf(&f, &b);
    cr_expect(find_frame(&f, F_HEADERS, 1, &fr));
    fx_fini(&f);
}

/* Any byte of a good exchange may be any other. */
Test(http2, flipped_bytes)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    put_start(&b);
    put_request(&b, 1, "/grpc", 0);
    put_frame(&b, F_DATA, END_STREAM, 1, "\0\0\0\0\0", 5);
    put_request(&b, 3, "/hold", END_STREAM);
    put_word_frame(&b, F_RST, 3, 8);
    put_frame(&b, F_PING, 0, 0, "12345678", 8);
    for (size_t i = 0; i < b.len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            struct fixture f;

            fx_init(&f);
            b.data[i] ^= (uint8_t)(1 << bit);
            fx_send(&f, b.data, b.len);
            fx_settle(&f);
            b.data[i] ^= (uint8_t)(1 << bit);
            fx_fini(&f);
        }
    }
}

Test(http2, reset_before_the_answer)
{
    struct fixture f;
    struct http_req *held;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    fx_init(&f);
    put_start(&b);
    put_request(&b, 1, "/hold", END_STREAM);
    put_request(&b, 3, "/hold", END_STREAM);
    send_buf(&f, &b);
    cr_assert_eq(f.held_count, 2);
    held = f.held[1];
    put_word_frame(&b, F_RST, 1, 8);
    send_buf(&f, &b);
    cr_expect_null(f.held[0], "the handler heard of it");
    cr_expect_eq(f.held[1], held);
    cr_expect_eq(http_server_counters(f.server)->resets_received, 1);
    grpc_answer(held, BYTES_LIT("12345"));
    fx_settle(&f);
    cr_expect_eq(data_len(&f, 3), 5);
    cr_expect_eq(data_len(&f, 1), 0);
    fx_fini(&f);
}

Test(http2, reset_mid_body)
{
    struct fixture f;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    fx_init(&f);
    put_start(&b);
    put_request(&b, 1, "/echo", 0);
    put_frame(&b, F_DATA, 0, 1, "half", 4);
    send_buf(&f, &b);
    cr_expect_eq(http_server_counters(f.server)->buffered_bytes, 4);
    put_word_frame(&b, F_RST, 1, 8);
    send_buf(&f, &b);
    cr_expect_str_eq(fx_events(&f), "H/echo C/echo ");
    cr_expect_eq(http_server_counters(f.server)->buffered_bytes, 0);
    fx_fini(&f);
}

/* Answered and reset in the same turn, in both orders. */
Test(http2, reset_crosses_the_answer)
{
    struct fixture f;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    fx_init(&f);
    put_start(&b);
    put_request(&b, 1, "/grpc", END_STREAM);
    put_word_frame(&b, F_RST, 1, 8);
    put_request(&b, 3, "/hold", END_STREAM);
    send_buf(&f, &b);
    grpc_answer(f.held[0], BYTES_LIT("12345"));
    put_word_frame(&b, F_RST, 3, 8);
    fx_send(&f, b.data, b.len);
    fx_settle(&f);
    cr_expect_eq(f.open_count, 0);
    cr_expect_not(f.closed);
    fx_fini(&f);
}

Test(http2, connection_dies_with_open_requests)
{
    struct fixture f;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    fx_init(&f);
    put_start(&b);
    for (uint32_t i = 0; i < 100; i++)
        put_request(&b, 1 + 2 * i, "/hold", END_STREAM);
    send_buf(&f, &b);
    cr_assert_eq(f.open_count, 100);
    close(f.fd);
    f.fd = -1;
    while (http_server_counters(f.server)->connections != 0)
        loop_run_once(f.loop, 100);
    cr_expect_eq(f.open_count, 0);
    cr_expect_eq(http_server_counters(f.server)->requests, 0);
    fx_fini(&f);
}

Test(http2, window_exhaustion)
{
    struct fixture f;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    char text[4096];

    fx_init(&f);
    f.big_bytes = 100;
    buf_append(&b, PREFACE, sizeof(PREFACE) - 1);
    put_setting(&b, 4, 10); /* INITIAL_WINDOW_SIZE */
    put_request(&b, 1, "/big", END_STREAM);
    put_request(&b, 3, "/big", END_STREAM);
    put_request(&b, 5, "/big", END_STREAM);
    send_buf(&f, &b);
    cr_expect_eq(data_len(&f, 1), 10);
    cr_expect_eq(data_len(&f, 3), 10);
    put_word_frame(&b, F_WINDOW, 1, 80);
    send_buf(&f, &b);
    cr_expect_eq(data_len(&f, 1), 90);
    put_word_frame(&b, F_WINDOW, 1, 100);
    put_word_frame(&b, F_RST, 3, 8); /* blocked, and given up */
    send_buf(&f, &b);
    cr_expect_eq(data_len(&f, 1), 100);
    shape(&f, 1, text, sizeof(text));
    cr_expect_str_eq(text, "1.4 0.0 0.0 0.1 ");
    cr_expect_str_eq(fx_events(&f), "H/big R/big H/big R/big H/big R/big C/big C/big ", "%s",
                     fx_events(&f));
    fx_fini(&f); /* the third is still blocked */
}

/* The connection's window is shared, in turns of one frame. */
Test(http2, big_answers_take_turns)
{
    struct fixture f;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    struct frame fr;
    size_t pos = 0, changes = 0;
    uint32_t last = 0;

    fx_init(&f);
    f.big_bytes = 300 * 1024;
    buf_append(&b, PREFACE, sizeof(PREFACE) - 1);
    put_setting(&b, 4, 1 << 20);
    put_word_frame(&b, F_WINDOW, 0, 1 << 24);
    put_request(&b, 1, "/big", END_STREAM);
    put_request(&b, 3, "/big", END_STREAM);
    put_request(&b, 5, "/ok", END_STREAM);
    send_buf(&f, &b);
    cr_expect_eq(data_len(&f, 1), f.big_bytes);
    cr_expect_eq(data_len(&f, 3), f.big_bytes);
    while (next_frame(&f, &pos, &fr)) {
        if (fr.type != F_DATA)
            continue;
        cr_expect(fr.payload.len <= 16384);
        if (fr.stream == 5) {
            cr_expect(changes < 4, "a short answer does not wait for long ones");
            continue;
        }
        changes += fr.stream != last;
        last = fr.stream;
    }
    cr_expect(changes > 30, "%zu", changes);
    fx_fini(&f);
}

Test(http2, refills_when_drained)
{
    struct fixture f;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    fx_init(&f);
    f.big_bytes = 60000;
    put_start(&b);
    put_request(&b, 1, "/source", END_STREAM);
    send_buf(&f, &b);
    cr_expect_eq(data_len(&f, 1), 60000);
    cr_expect_eq(f.open_count, 0);
    fx_fini(&f);
}

Test(http2, streamed_both_ways)
{
    struct fixture f;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    fx_init(&f);
    put_start(&b);
    put_request(&b, 1, "/stream", 0);
    send_buf(&f, &b);
    cr_expect_eq(data_len(&f, 1), 0);
    put_frame(&b, F_DATA, 0, 1, "one", 3);
    send_buf(&f, &b);
    cr_expect_eq(data_len(&f, 1), 3, "an answer before the request ends");
    put_frame(&b, F_DATA, END_STREAM, 1, "two", 3);
    send_buf(&f, &b);
    cr_expect_eq(data_len(&f, 1), 6);
    cr_expect_str_eq(fx_events(&f), "H/stream D/stream D/stream E/stream C/stream ");
    fx_fini(&f);
}

Test(http2, answered_before_the_body_came)
{
    struct fixture f;
    struct frame fr;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    fx_init(&f);
    put_start(&b);
    put_request(&b, 1, "/early", 0);
    send_buf(&f, &b);
    cr_assert(find_frame(&f, F_RST, 1, &fr));
    cr_expect_eq(u32_at(fr.payload, 0), 0, "NO_ERROR: stop sending");
    cr_expect_eq(f.open_count, 0);
    put_frame(&b, F_DATA, END_STREAM, 1, "late", 4); /* was on its way */
    put_request(&b, 3, "/ok", END_STREAM);
    send_buf(&f, &b);
    cr_expect_eq(data_len(&f, 3), 3);
    fx_fini(&f);
}

Test(http2, body_limits)
{
    struct http_limits limits = http_limits_default;
    struct fixture f;
    struct frame fr;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    limits.body_bytes_max = 10;
    limits.buffered_bytes_max = 15;
    fx_init_with(&f, &limits);
    put_start(&b);
    put_request(&b, 1, "/echo", 0);
    put_frame(&b, F_DATA, END_STREAM, 1, "0123456789", 10);
    put_request(&b, 3, "/echo", 0);
    send_buf(&f, &b);
    cr_expect_eq(data_len(&f, 1), 10);
    put_frame(&b, F_DATA, 0, 3, "01234567", 8);
    put_frame(&b, F_DATA, END_STREAM, 3, "890", 3);
    send_buf(&f, &b);
    cr_expect_str_eq(fx_events(&f), "H/echo R/echo H/echo C/echo L/echo C/echo ", "%s",
                     fx_events(&f));
    put_request(&b, 5, "/echo", 0);
    put_frame(&b, F_DATA, 0, 5, "0123456789", 10);
    put_request(&b, 7, "/echo", 0);
    put_frame(&b, F_DATA, 0, 7, "0123456789", 10); /* too much of all together */
    send_buf(&f, &b);
    cr_assert(find_frame(&f, F_RST, 7, &fr));
    cr_expect_eq(u32_at(fr.payload, 0), HTTP_RESET_REFUSED_STREAM);
    fx_fini(&f);
}

Test(http2, streams_max)
{
    struct http_limits limits = http_limits_default;
    struct fixture f;
    struct frame fr;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    limits.streams_max = 2;
    fx_init_with(&f, &limits);
    put_start(&b);
    put_frame(&b, F_SETTINGS, ACK, 0, NULL, 0);
    for (uint32_t i = 0; i < 3; i++)
        put_request(&b, 1 + 2 * i, "/hold", END_STREAM);
    send_buf(&f, &b);
    cr_expect(f.held_count <= 2);
    cr_expect(find_frame(&f, F_RST, 5, &fr) || f.closed);
    fx_fini(&f);
}

Test(http2, requests_max)
{
    struct http_limits limits = http_limits_default;
    struct fixture f;
    struct frame fr;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    limits.requests_max = 2;
    fx_init_with(&f, &limits);
    put_start(&b);
    for (uint32_t i = 0; i < 3; i++)
        put_request(&b, 1 + 2 * i, "/hold", END_STREAM);
    send_buf(&f, &b);
    cr_expect_eq(f.held_count, 2);
    cr_assert(find_frame(&f, F_RST, 5, &fr));
    cr_expect_eq(u32_at(fr.payload, 0), HTTP_RESET_REFUSED_STREAM);
    fx_fini(&f);
}

Test(http2, rapid_reset)
{
    struct http_limits limits = http_limits_default;
    struct fixture f;
    struct frame fr;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    limits.resets_per_s_max = 5;
    fx_init_with(&f, &limits);
    put_start(&b);
    for (uint32_t i = 0; i < 200; i++) {
        put_request(&b, 1 + 2 * i, "/hold", END_STREAM);
        put_word_frame(&b, F_RST, 1 + 2 * i, 8);
    }
    send_buf(&f, &b);
    cr_expect(find_frame(&f, F_GOAWAY, 0, &fr));
    cr_expect(f.closed);
    cr_expect_eq(f.open_count, 0);
    fx_fini(&f);
}

/* One large field into the dynamic table, then referred to again and again. */
Test(http2, hpack_bomb)
{
    struct fixture f;
    struct frame fr;
    char value[4001];
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    CLEANUP(buf_fini) struct buf block = BUF_INIT;

    memset(value, 'x', 4000);
    value[4000] = '\0';
    fx_init(&f);
    put_start(&b);
    put_block(&block, "/ok");
    put_literal(&block, 0x40, "bomb", value);
    for (int i = 0; i < 10000; i++)
        buf_append_u8(&block, 0x80 | 62);
    put_frame(&b, F_HEADERS, END_HEADERS | END_STREAM, 1, block.data, block.len);
    put_request(&b, 3, "/ok", END_STREAM);
    send_buf(&f, &b);
    cr_expect(find_frame(&f, F_HEADERS, 1, &fr), "431");
    cr_expect_str_eq(fx_events(&f), "H/ok R/ok C/ok ", "only the second reached the handler");
    cr_expect_eq(data_len(&f, 3), 3);
    fx_fini(&f);
}

Test(http2, continuation_flood)
{
    struct fixture f;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    CLEANUP(buf_fini) struct buf block = BUF_INIT;

    fx_init(&f);
    put_start(&b);
    put_block(&block, "/ok");
    put_frame(&b, F_HEADERS, END_STREAM, 1, block.data, block.len);
    for (int i = 0; i < 1000; i++)
        put_frame(&b, F_CONT, 0, 1, NULL, 0);
    send_buf(&f, &b);
    cr_expect(f.closed);
    cr_expect_eq(f.open_count, 0);
    fx_fini(&f);
}

Test(http2, ping_is_answered)
{
    struct fixture f;
    struct frame fr;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    fx_init(&f);
    put_start(&b);
    put_frame(&b, F_PING, 0, 0, "12345678", 8);
    send_buf(&f, &b);
    cr_assert(find_frame(&f, F_PING, 0, &fr));
    cr_expect_eq(fr.flags, ACK);
    cr_expect_arr_eq(fr.payload.data, "12345678", 8);
    fx_fini(&f);
}

/* The first ping is free, two strikes are tolerated, the third ends it; sending an answer forgives.
 */
Test(http2, too_many_pings)
{
    struct fixture f;
    struct frame fr;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    fx_init(&f);
    put_start(&b);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < (round == 0 ? 3 : 2); i++)
            put_frame(&b, F_PING, 0, 0, "12345678", 8);
        send_buf(&f, &b);
        cr_expect_not(f.closed, "round %d", round);
        put_request(&b, 1 + 2 * (uint32_t)round, "/ok", END_STREAM);
        send_buf(&f, &b);
    }
    for (int i = 0; i < 3; i++)
        put_frame(&b, F_PING, 0, 0, "12345678", 8);
    send_buf(&f, &b);
    cr_assert(find_frame(&f, F_GOAWAY, 0, &fr));
    cr_expect_eq(u32_at(fr.payload, 4), HTTP_RESET_ENHANCE_YOUR_CALM);
    cr_expect_eq(fr.payload.len, 8 + 14);
    cr_expect_arr_eq(fr.payload.data + 8, "too_many_pings", 14);
    cr_expect(f.closed);
    fx_fini(&f);
}

Test(http2, deadlines)
{
    struct http_limits limits = http_limits_default;
    struct fixture f;
    struct frame fr;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    CLEANUP(buf_fini) struct buf block = BUF_INIT;

    /* half a preface */
    limits.header_ms_max = 20;
    fx_init_with(&f, &limits);
    fx_send(&f, PREFACE, 10);
    fx_until_closed(&f);
    fx_fini(&f);

    /* headers that never end */
    fx_init_with(&f, &limits);
    put_start(&b);
    put_block(&block, "/ok");
    put_frame(&b, F_HEADERS, END_STREAM, 1, block.data, block.len);
    send_buf(&f, &b);
    fx_until_closed(&f);
    cr_expect_eq(http_server_counters(f.server)->timeouts, 1);
    fx_fini(&f);

    /* a body that never ends costs its stream only */
    limits = http_limits_default;
    limits.body_ms_max = 20;
    fx_init_with(&f, &limits);
    put_start(&b);
    put_request(&b, 1, "/echo", 0);
    send_buf(&f, &b);
    while (!find_frame(&f, F_RST, 1, &fr)) {
        loop_run_once(f.loop, 5);
        fx_read(&f);
    }
    cr_expect_not(f.closed);
    cr_expect_eq(f.open_count, 0);
    fx_fini(&f);

    /* a client that is silent, pinged, and stays silent */
    limits = http_limits_default;
    limits.keepalive_ms = 20;
    limits.keepalive_timeout_ms = 20;
    fx_init_with(&f, &limits);
    put_start(&b);
    put_request(&b, 1, "/hold", END_STREAM);
    send_buf(&f, &b);
    fx_until_closed(&f);
    cr_expect(find_frame(&f, F_PING, 0, &fr));
    cr_expect_eq(f.open_count, 0);
    fx_fini(&f);
}

static void on_drain_done(void *user)
{
    ((struct fixture *)user)->drained = true;
}

Test(http2, drain)
{
    struct fixture f;
    struct frame fr;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    fx_init(&f);
    put_start(&b);
    put_request(&b, 1, "/hold", END_STREAM);
    send_buf(&f, &b);
    http_server_drain(f.server, 60000, on_drain_done, &f);
    fx_settle(&f);
    cr_assert(find_frame(&f, F_GOAWAY, 0, &fr));
    cr_expect_eq(u32_at(fr.payload, 0), INT32_MAX, "first a notice");
    cr_assert(find_frame(&f, F_PING, 0, &fr));
    put_request(&b, 3, "/ok", END_STREAM); /* crossed the notice */
    put_frame(&b, F_PING, ACK, 0, fr.payload.data, 8);
    send_buf(&f, &b);
    cr_expect_eq(data_len(&f, 3), 3);
    put_request(&b, 5, "/ok", END_STREAM); /* too late */
    send_buf(&f, &b);
    cr_expect_eq(data_len(&f, 5), 0);
    cr_expect_not(f.closed);
    grpc_answer(f.held[0], BYTES_LIT("12345"));
    fx_settle(&f);
    cr_expect_eq(data_len(&f, 1), 5);
    cr_expect(f.closed);
    close(f.fd);
    f.fd = -1;
    while (!f.drained)
        loop_run_once(f.loop, 100);
    fx_fini(&f);
}

/* The other end neither reads nor says so. */
Test(http2, client_that_does_not_read)
{
    struct http_limits limits = http_limits_default;
    struct fixture f;
    const struct http_counters *c;
    uint64_t before;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    uint32_t requests = 400;

    limits.output_bytes_max = 64 * 1024;
    fx_init_with(&f, &limits);
    c = http_server_counters(f.server);
    f.big_bytes = 16 * 1024;
    buf_append(&b, PREFACE, sizeof(PREFACE) - 1);
    put_setting(&b, 4, 1 << 20);
    put_word_frame(&b, F_WINDOW, 0, 1 << 24);
    for (uint32_t i = 0; i < requests; i++)
        put_request(&b, 1 + 2 * i, "/big", END_STREAM);
    cr_assert_eq(send(f.fd, b.data, b.len, MSG_NOSIGNAL), (ssize_t)b.len);
    do {
        before = c->bytes_out + c->requests_total;
        loop_run_once(f.loop, 0);
        loop_run_once(f.loop, 0);
    } while (c->bytes_out + c->requests_total != before);
    cr_expect(c->bytes_out < 2 * 1024 * 1024);
    fx_settle(&f);
    cr_expect_eq(c->requests_total, requests);
    for (uint32_t i = 0; i < requests; i++)
        cr_expect_eq(data_len(&f, 1 + 2 * i), f.big_bytes);
    fx_fini(&f);
}
