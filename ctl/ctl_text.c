/* See ctl_text.h. */
#include "ctl/ctl_text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/xmalloc.h"

/* The rune at p and its length; 0 length: not UTF-8. */
static size_t rune_at(const uint8_t *p, size_t len, uint32_t *ret)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = p[0] < 0x80 ? 1 : p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : p[0] >= 0xc2 ? 2 : 0;
    uint32_t rune;

    if (n == 0 || n > len || p[0] > 0xf4)
        return 0;
    rune = n == 1 ? p[0] : p[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        rune = rune << 6 | (p[i] & 0x3f);
    }
    if (rune < least[n] || rune > 0x10ffff || (rune >= 0xd800 && rune < 0xe000))
        return 0;
    *ret = rune;
    return n;
}

/* Close to unicode.IsPrint: separators, controls, format and private characters are not. */
static bool rune_prints(uint32_t r)
{
    if (r < 0x20 || (r >= 0x7f && r <= 0xa0) || r == 0xad)
        return false;
    if (r == 0x1680 || r == 0x180e || (r >= 0x2000 && r <= 0x200f) ||
        (r >= 0x2028 && r <= 0x202f) || (r >= 0x205f && r <= 0x206f) || r == 0x3000 ||
        r == 0xfeff || (r >= 0xe000 && r <= 0xf8ff) || (r >= 0xfff0 && r <= 0xfffb))
        return false;
    return (r & 0xfffe) != 0xfffe && r < 0xe0000;
}

void ctl_text_quote(struct buf *out, const void *data, size_t len)
{
    static const char plain[] = "abtnvfr", codes[] = "\a\b\t\n\v\f\r";
    const uint8_t *p = data;

    buf_append_u8(out, '"');
    while (len > 0) {
        uint32_t rune = 0;
        size_t n = rune_at(p, len, &rune);
        const char *escape = n == 1 && *p != 0 ? strchr(codes, *p) : NULL;

        if (n == 0) {
            buf_appendf(out, "\\x%02x", *p);
            n = 1;
        } else if (rune == '"' || rune == '\\') {
            buf_appendf(out, "\\%c", *p);
        } else if (escape != NULL) {
            buf_appendf(out, "\\%c", plain[escape - codes]);
        } else if (rune_prints(rune)) {
            buf_append(out, p, n);
        } else if (rune < 0x20 || rune == 0x7f) {
            buf_appendf(out, "\\x%02x", rune);
        } else {
            buf_appendf(out, rune < 0x10000 ? "\\u%04x" : "\\U%08x", rune);
        }
        p += n;
        len -= n;
    }
    buf_append_u8(out, '"');
}

static void utf8_append(struct buf *out, uint32_t rune)
{
    if (rune < 0x80) {
        buf_append_u8(out, (uint8_t)rune);
    } else if (rune < 0x800) {
        buf_append_u8(out, (uint8_t)(0xc0 | rune >> 6));
        buf_append_u8(out, (uint8_t)(0x80 | (rune & 0x3f)));
    } else if (rune < 0x10000) {
        buf_append_u8(out, (uint8_t)(0xe0 | rune >> 12));
        buf_append_u8(out, (uint8_t)(0x80 | (rune >> 6 & 0x3f)));
        buf_append_u8(out, (uint8_t)(0x80 | (rune & 0x3f)));
    } else {
        buf_append_u8(out, (uint8_t)(0xf0 | rune >> 18));
        buf_append_u8(out, (uint8_t)(0x80 | (rune >> 12 & 0x3f)));
        buf_append_u8(out, (uint8_t)(0x80 | (rune >> 6 & 0x3f)));
        buf_append_u8(out, (uint8_t)(0x80 | (rune & 0x3f)));
    }
}

/* `count` digits of `base`; -1: not that many. */
static int64_t digits_at(const char *p, size_t count, int base)
{
    int64_t value = 0;

    for (size_t i = 0; i < count; i++) {
        int d;

        if (p[i] >= '0' && p[i] <= '9')
            d = p[i] - '0';
        else if ((p[i] | 0x20) >= 'a' && (p[i] | 0x20) <= 'f')
            d = (p[i] | 0x20) - 'a' + 10;
        else
            return -1;
        if (d >= base)
            return -1;
        value = value * base + d;
    }
    return value;
}

int ctl_text_unquote(const char **at, struct buf *ret)
{
    static const char plain[] = "abtnvfr\\\"", codes[] = "\a\b\t\n\v\f\r\\\"";
    const char *p = *at;

    if (*p == '`') {
        const char *end = strchr(p + 1, '`');

        if (end == NULL)
            return -EINVAL;
        buf_append(ret, p + 1, (size_t)(end - p) - 1);
        *at = end + 1;
        return 0;
    }
    if (*p++ != '"')
        return -EINVAL;
    for (; *p != '"'; p++) {
        const char *escape;
        int64_t value;

        if (*p == '\0')
            return -EINVAL;
        if (*p != '\\') {
            buf_append_u8(ret, (uint8_t)*p);
            continue;
        }
        p++;
        escape = *p != '\0' ? strchr(plain, *p) : NULL;
        if (escape != NULL) {
            buf_append_u8(ret, (uint8_t)codes[escape - plain]);
        } else if (*p == 'x' && (value = digits_at(p + 1, 2, 16)) >= 0) {
            buf_append_u8(ret, (uint8_t)value);
            p += 2;
        } else if (*p == 'u' && (value = digits_at(p + 1, 4, 16)) >= 0) {
            utf8_append(ret, (uint32_t)value);
            p += 4;
        } else if (*p == 'U' && (value = digits_at(p + 1, 8, 16)) >= 0 && value <= 0x10ffff) {
            utf8_append(ret, (uint32_t)value);
            p += 8;
        } else if ((value = digits_at(p, 3, 8)) >= 0 && value <= 255) {
            buf_append_u8(ret, (uint8_t)value);
            p += 2;
        } else {
            return -EINVAL;
        }
    }
    *at = p + 1;
    return 0;
}

void ctl_text_json_string(FILE *out, const char *text)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t len = strlen(text);

    putc('"', out);
    while (len > 0) {
        uint32_t rune = 0;
        size_t n = rune_at(p, len, &rune);

        if (n == 0) {
            fputs("\\ufffd", out);
            n = 1;
        } else if (rune == '"' || rune == '\\') {
            fprintf(out, "\\%c", *p);
        } else if (rune == '\n' || rune == '\r' || rune == '\t' || rune == '\b' || rune == '\f') {
            fprintf(out, "\\%c", "btn?fr"[rune - '\b']);
        } else if (rune < 0x20 || rune == '<' || rune == '>' || rune == '&' || rune == 0x2028 ||
                   rune == 0x2029) {
            fprintf(out, "\\u%04x", rune);
        } else {
            fwrite(p, 1, n, out);
        }
        p += n;
        len -= n;
    }
    putc('"', out);
}

void ctl_text_base64(FILE *out, const void *data, size_t len)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *p = data;

    for (; len > 0; p += 3) {
        size_t n = MIN(len, (size_t)3);
        uint32_t v = (uint32_t)p[0] << 16 | (n > 1 ? (uint32_t)p[1] << 8 : 0) | (n > 2 ? p[2] : 0);

        putc(letters[v >> 18], out);
        putc(letters[v >> 12 & 63], out);
        putc(n > 1 ? letters[v >> 6 & 63] : '=', out);
        putc(n > 2 ? letters[v & 63] : '=', out);
        len -= n;
    }
}

void ctl_text_hex(FILE *out, const void *data, size_t len)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < len; i++)
        fprintf(out, "\\x%02x", p[i]);
}

char *ctl_text_size(uint64_t bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double)bytes;
    size_t unit = 0;

    if (bytes < 10)
        return xasprintf("%" PRIu64 " B", bytes);
    while (value >= 1000 && unit + 1 < ARRAY_LEN(units)) {
        value /= 1000;
        unit++;
    }
    value = (double)(uint64_t)(value * 10 + 0.5) / 10;
    return value < 10 ? xasprintf("%.1f %s", value, units[unit])
                      : xasprintf("%.0f %s", value, units[unit]);
}

/* A decimal without trailing zeros. */
static char *trimmed(double value, int digits, const char *unit)
{
    char text[64];
    size_t len;

    snprintf(text, sizeof(text), "%.*f", digits, value);
    len = strlen(text);
    while (digits > 0 && text[len - 1] == '0')
        text[--len] = '\0';
    if (text[len - 1] == '.')
        text[--len] = '\0';
    return xasprintf("%s%s", text, unit);
}

char *ctl_text_duration(int64_t ns)
{
    uint64_t seconds;
    CLEANUP(freep) char *rest = NULL;

    if (ns < 0) {
        CLEANUP(freep) char *positive = ctl_text_duration(-ns);

        return xasprintf("-%s", positive);
    }
    if (ns == 0)
        return xstrdup("0s");
    if (ns < 1000)
        return xasprintf("%" PRId64 "ns", ns);
    if (ns < 1000000)
        return trimmed((double)ns / 1e3, 3, "\xc2\xb5s");
    if (ns < 1000000000)
        return trimmed((double)ns / 1e6, 6, "ms");
    seconds = (uint64_t)ns / 1000000000;
    rest = trimmed((double)(seconds % 60) + (double)(ns % 1000000000) / 1e9, 9, "s");
    if (seconds < 60)
        return xstrdup(rest);
    if (seconds < 3600)
        return xasprintf("%" PRIu64 "m%s", seconds / 60, rest);
    return xasprintf("%" PRIu64 "h%" PRIu64 "m%s", seconds / 3600, seconds / 60 % 60, rest);
}
