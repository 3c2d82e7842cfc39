#include "lib/util/base64.h"

#include <errno.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_encode(struct buf *b, struct bytes data)
{
    uint8_t *out = buf_reserve(b, (data.len + 2) / 3 * 4), *start = out;

    for (size_t i = 0; i < data.len; i += 3) {
        size_t left = data.len - i;
        uint32_t v = (uint32_t)data.data[i] << 16;

        if (left > 1)
            v |= (uint32_t)data.data[i + 1] << 8;
        if (left > 2)
            v |= data.data[i + 2];
        *out++ = (uint8_t)alphabet[v >> 18];
        *out++ = (uint8_t)alphabet[(v >> 12) & 63];
        *out++ = left > 1 ? (uint8_t)alphabet[(v >> 6) & 63] : '=';
        *out++ = left > 2 ? (uint8_t)alphabet[v & 63] : '=';
    }
    b->len += (size_t)(out - start);
}

static int value_of(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+' || c == '-')
        return 62;
    if (c == '/' || c == '_')
        return 63;
    return -1;
}

/* The length without padding; SIZE_MAX: the padding is wrong. */
static size_t unpadded(struct bytes text)
{
    size_t len = text.len;

    while (len > 0 && text.data[len - 1] == '=')
        len--;
    if (len == text.len)
        return len % 4 != 1 ? len : SIZE_MAX;
    return text.len % 4 == 0 && text.len - len <= 2 && len % 4 != 1 ? len : SIZE_MAX;
}

int base64_decode(struct buf *b, struct bytes text)
{
    size_t before = b->len, len = unpadded(text), bits = 0;
    uint32_t v = 0;
    uint8_t *out;

    if (len == SIZE_MAX)
        return -EINVAL;
    out = buf_reserve(b, len / 4 * 3 + 3);
    for (size_t i = 0; i < len; i++) {
        int digit = value_of(text.data[i]);

        if (digit < 0) {
            b->len = before;
            return -EINVAL;
        }
        v = v << 6 | (uint32_t)digit;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            *out++ = (uint8_t)(v >> bits);
            b->len++;
        }
    }
    return 0;
}
