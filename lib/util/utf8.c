#include "lib/util/utf8.h"

#include <stdint.h>

size_t utf8_len(struct bytes text)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t c = text.data[0];
    size_t len = c < 0x80 ? 1 : c >= 0xf0 && c < 0xf8 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 0;
    uint32_t v;

    if (len == 0 || len > text.len || c >= 0xf8)
        return 0;
    if (len == 1)
        return 1;
    v = c & (0x7fU >> len);
    for (size_t i = 1; i < len; i++) {
        if ((text.data[i] & 0xc0) != 0x80)
            return 0;
        v = v << 6 | (text.data[i] & 0x3f);
    }
    return v >= least[len] && v <= 0x10ffff && (v < 0xd800 || v > 0xdfff) ? len : 0;
}

bool utf8_valid(struct bytes text)
{
    while (text.len > 0) {
        size_t len = utf8_len(text);

        if (len == 0)
            return false;
        text.data += len;
        text.len -= len;
    }
    return true;
}
