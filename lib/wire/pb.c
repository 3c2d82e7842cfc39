#include "lib/wire/pb.h"

#include <string.h>

static bool take_varint(struct pb_reader *r, uint64_t *ret)
{
    uint64_t v = 0;

    for (unsigned int shift = 0; shift < 70 && r->pos < r->end; shift += 7) {
        uint8_t c = *r->pos++;

        if (shift == 63 && c > 1) /* more than 64 bits */
            return false;
        v |= (uint64_t)(c & 0x7f) << shift;
        if ((c & 0x80) == 0) {
            *ret = v;
            return true;
        }
    }
    return false;
}

static bool take_fixed(struct pb_reader *r, size_t len, uint64_t *ret)
{
    uint64_t v = 0;

    if ((size_t)(r->end - r->pos) < len)
        return false;
    memcpy(&v, r->pos, len); /* little-endian, asserted in wire.h */
    r->pos += len;
    *ret = v;
    return true;
}

static bool take_field(struct pb_reader *r, struct pb_field *f)
{
    uint64_t tag;

    if (!take_varint(r, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
        return false;
    f->number = (uint32_t)(tag >> 3);
    f->type = (enum pb_wire_type)(tag & 7);
    f->value = 0;
    f->bytes = BYTES_EMPTY;
    switch (f->type) {
    case PB_VARINT:
        return take_varint(r, &f->value);
    case PB_FIXED64:
        return take_fixed(r, 8, &f->value);
    case PB_FIXED32:
        return take_fixed(r, 4, &f->value);
    case PB_LENGTH:
        if (!take_varint(r, &f->value) || f->value > (uint64_t)(r->end - r->pos))
            return false;
        f->bytes = bytes_of(r->pos, (size_t)f->value);
        r->pos += f->value;
        return true;
    }
    return false; /* groups (3, 4) do not exist in proto3 */
}

bool pb_next(struct pb_reader *r, struct pb_field *ret)
{
    if (r->bad || r->pos == r->end)
        return false;
    if (take_field(r, ret))
        return true;
    r->bad = true;
    return false;
}
