/*
 * Names and checksums: the small pure parts of the format in wal_internal.h.
 */
#include "raftd/wal/wal_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include "lib/util/crc32c.h"

uint32_t wal_crc_seed(uint64_t salt, uint64_t sequence)
{
    return crc32c(crc32c(0, &salt, sizeof(salt)), &sequence, sizeof(sequence));
}

uint32_t wal_crc(uint32_t seed, uint64_t offset, const struct wal_header *h, struct bytes a,
                 struct bytes b)
{
    uint32_t crc = crc32c(seed, &offset, sizeof(offset));

    assert(h->length == a.len + b.len);
    crc = crc32c(crc, h, offsetof(struct wal_header, crc));
    if (a.len != 0)
        crc = crc32c(crc, a.data, a.len);
    if (b.len != 0)
        crc = crc32c(crc, b.data, b.len);
    return crc;
}

void wal_segment_name(char name[WAL_NAME_MAX], uint64_t sequence, uint64_t first_index)
{
    snprintf(name, WAL_NAME_MAX, "%016" PRIx64 "-%016" PRIx64 ".wal", sequence, first_index);
}

void wal_snap_name(char name[WAL_NAME_MAX], uint64_t term, uint64_t index)
{
    snprintf(name, WAL_NAME_MAX, "%016" PRIx64 "-%016" PRIx64 ".snap", term, index);
}

static bool parse_hex16(const char *s, uint64_t *ret)
{
    uint64_t v = 0;

    for (int i = 0; i < 16; i++) {
        char c = s[i];

        if (c >= '0' && c <= '9')
            v = v << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            v = v << 4 | (uint64_t)(c - 'a' + 10);
        else
            return false; /* also the end of a short name */
    }
    *ret = v;
    return true;
}

bool wal_name_parse(const char *name, const char *suffix, uint64_t *ret_a, uint64_t *ret_b)
{
    uint64_t a, b;

    if (!parse_hex16(name, &a) || name[16] != '-' || !parse_hex16(name + 17, &b) ||
        strcmp(name + 33, suffix) != 0)
        return false;
    *ret_a = a;
    *ret_b = b;
    return true;
}

void wal_error_set(struct wal_error *err, const char *fmt, ...)
{
    va_list args;

    if (err == NULL)
        return;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, args);
    va_end(args);
}
