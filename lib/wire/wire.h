/*
 * Primitive encoding for our own records and messages: little-endian fixed-width integers, and
 * byte strings with a 32-bit length. The writer appends to a buf; the reader walks a borrowed run
 * with a sticky error, so a decoder reads every field and checks once with wire_reader_done.
 * A reader never returns bytes outside its run and never allocates.
 */
#ifndef CONCLAVE_WIRE_WIRE_H
#define CONCLAVE_WIRE_WIRE_H

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "wire.h copies integers as they are");

static inline void wire_put_u8(struct buf *b, uint8_t v)
{
    buf_append_u8(b, v);
}
static inline void wire_put_u16(struct buf *b, uint16_t v)
{
    buf_append(b, &v, sizeof(v));
}
static inline void wire_put_u32(struct buf *b, uint32_t v)
{
    buf_append(b, &v, sizeof(v));
}
static inline void wire_put_u64(struct buf *b, uint64_t v)
{
    buf_append(b, &v, sizeof(v));
}
static inline void wire_put_i64(struct buf *b, int64_t v)
{
    buf_append(b, &v, sizeof(v));
}
/* len must fit 32 bits: callers bound it by a message limit */
static inline void wire_put_bytes(struct buf *b, struct bytes v)
{
    wire_put_u32(b, (uint32_t)v.len);
    buf_append_bytes(b, v);
}
static inline void wire_put_str(struct buf *b, const char *s)
{
    wire_put_bytes(b, bytes_str(s));
}

struct wire_reader {
    const uint8_t *pos;
    const uint8_t *end;
    bool bad; /* once set, every further read yields zero or empty */
};

static inline struct wire_reader wire_reader(struct bytes v)
{
    return (struct wire_reader){v.data, v.len > 0 ? v.data + v.len : v.data, false};
}

static inline bool wire_take(struct wire_reader *r, void *out, size_t len)
{
    if ((size_t)(r->end - r->pos) < len || r->bad) {
        r->bad = true;
        memset(out, 0, len);
        return false;
    }
    memcpy(out, r->pos, len);
    r->pos += len;
    return true;
}
static inline uint8_t wire_get_u8(struct wire_reader *r)
{
    uint8_t v;

    wire_take(r, &v, sizeof(v));
    return v;
}
static inline uint16_t wire_get_u16(struct wire_reader *r)
{
    uint16_t v;

    wire_take(r, &v, sizeof(v));
    return v;
}
static inline uint32_t wire_get_u32(struct wire_reader *r)
{
    uint32_t v;

    wire_take(r, &v, sizeof(v));
    return v;
}
static inline uint64_t wire_get_u64(struct wire_reader *r)
{
    uint64_t v;

    wire_take(r, &v, sizeof(v));
    return v;
}
static inline int64_t wire_get_i64(struct wire_reader *r)
{
    int64_t v;

    wire_take(r, &v, sizeof(v));
    return v;
}
static inline struct bytes wire_get_bytes(struct wire_reader *r)
{
    uint32_t len = wire_get_u32(r);
    struct bytes v = {r->pos, len};

    if (r->bad || (size_t)(r->end - r->pos) < len) {
        r->bad = true;
        return BYTES_EMPTY;
    }
    r->pos += len;
    return v;
}
static inline struct bytes wire_rest(struct wire_reader *r)
{
    struct bytes v = {r->pos, (size_t)(r->end - r->pos)};

    if (r->bad)
        return BYTES_EMPTY;
    r->pos = r->end;
    return v;
}
/* 0 when every read succeeded and nothing is left over, else -EBADMSG. */
static inline int wire_reader_done(const struct wire_reader *r)
{
    return r->bad || r->pos != r->end ? -EBADMSG : 0;
}

/* Big-endian keys: byte order equals number order (LevelDB keys). */
static inline void wire_store_be64(uint8_t out[8], uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(out, &v, 8);
}
static inline uint64_t wire_load_be64(const uint8_t in[8])
{
    uint64_t v;

    memcpy(&v, in, 8);
    return __builtin_bswap64(v);
}
static inline void wire_store_be32(uint8_t out[4], uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(out, &v, 4);
}
static inline uint32_t wire_load_be32(const uint8_t in[4])
{
    uint32_t v;

    memcpy(&v, in, 4);
    return __builtin_bswap32(v);
}

#endif
