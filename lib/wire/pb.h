/*
 * Protocol buffers wire format (protobuf encoding guide) for the hot paths: writers that append
 * fields to a buf, and a reader that walks the fields of a message. Everything that is not hot
 * uses the protobuf-c types generated from lib/proto/rpc.proto.
 *
 * proto3 rule: a field that holds its default value is not written; pb_put_* follow it, except
 * pb_put_message, whose presence matters.
 */
#ifndef CONCLAVE_WIRE_PB_H
#define CONCLAVE_WIRE_PB_H

#include <stdbool.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

enum pb_wire_type {
    PB_VARINT = 0,
    PB_FIXED64 = 1,
    PB_LENGTH = 2,
    PB_FIXED32 = 5,
};

static inline size_t pb_varint_size(uint64_t v)
{
    return v == 0 ? 1 : ((size_t)(63 - __builtin_clzll(v)) / 7) + 1;
}

static inline void pb_put_varint(struct buf *b, uint64_t v)
{
    uint8_t *p = buf_reserve(b, 10), *start = p;

    while (v >= 0x80) {
        *p++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *p++ = (uint8_t)v;
    b->len += (size_t)(p - start);
}

static inline void pb_put_tag(struct buf *b, uint32_t field, enum pb_wire_type type)
{
    pb_put_varint(b, ((uint64_t)field << 3) | (uint64_t)type);
}

static inline void pb_put_u64(struct buf *b, uint32_t field, uint64_t v)
{
    if (v == 0)
        return;
    pb_put_tag(b, field, PB_VARINT);
    pb_put_varint(b, v);
}

static inline void pb_put_i64(struct buf *b, uint32_t field, int64_t v)
{
    pb_put_u64(b, field, (uint64_t)v); /* negative int64: ten bytes, as protobuf wants */
}

static inline void pb_put_bool(struct buf *b, uint32_t field, bool v)
{
    pb_put_u64(b, field, v);
}

static inline void pb_put_message(struct buf *b, uint32_t field, struct bytes v)
{
    pb_put_tag(b, field, PB_LENGTH);
    pb_put_varint(b, v.len);
    buf_append_bytes(b, v);
}

static inline void pb_put_bytes(struct buf *b, uint32_t field, struct bytes v)
{
    if (v.len != 0)
        pb_put_message(b, field, v);
}

static inline size_t pb_size_u64(uint32_t field, uint64_t v)
{
    return v == 0 ? 0 : pb_varint_size((uint64_t)field << 3) + pb_varint_size(v);
}

static inline size_t pb_size_bytes(uint32_t field, size_t len)
{
    return len == 0 ? 0 : pb_varint_size((uint64_t)field << 3) + pb_varint_size(len) + len;
}

/* Size of a length-delimited field that is written even when empty. */
static inline size_t pb_size_message(uint32_t field, size_t len)
{
    return pb_varint_size((uint64_t)field << 3) + pb_varint_size(len) + len;
}

/* One field as found on the wire. */
struct pb_field {
    uint32_t number;
    enum pb_wire_type type;
    uint64_t value;     /* PB_VARINT, PB_FIXED64, PB_FIXED32 */
    struct bytes bytes; /* PB_LENGTH; borrowed from the input */
};

struct pb_reader {
    const uint8_t *pos;
    const uint8_t *end;
    bool bad;
};

static inline struct pb_reader pb_reader(struct bytes v)
{
    return (struct pb_reader){v.data, v.len > 0 ? v.data + v.len : v.data, false};
}

/* Next field; false at the end or on malformed input, then r->bad tells which. */
bool pb_next(struct pb_reader *r, struct pb_field *ret);

#endif
