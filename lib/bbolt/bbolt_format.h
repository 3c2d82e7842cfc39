/*
 * The bbolt file format, version 2, as far as two files of this folder share it.
 *
 *   page     {u64 id, u16 flags, u16 count, u32 overflow}, then elements, then keys and values.
 *            It takes overflow + 1 units of the page size; its id counts units.
 *   meta     pages 0 and 1: {u32 magic, u32 version, u32 page size, u32 flags, root bucket,
 *            u64 freelist page, u64 page count, u64 transaction, u64 FNV-64a of all before}
 *   bucket   {u64 root page, u64 sequence}; root page 0: an inline page follows
 *   branch   element {u32 pos, u32 key size, u64 page}
 *   leaf     element {u32 flags, u32 pos, u32 key size, u32 value size}; flag 1: value is a bucket
 *   freelist ids of unused pages; count 65535: the first word is the count
 *
 * Integers are little-endian; pos counts from its own element.
 */
#ifndef CONCLAVE_BBOLT_FORMAT_H
#define CONCLAVE_BBOLT_FORMAT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    BBOLT_PAGE_BYTES = 4096, /* what the writer uses */
    BBOLT_PAGE_BYTES_MIN = 1024,
    BBOLT_PAGE_BYTES_MAX = 65536,
    BBOLT_HEADER_BYTES = 16,
    BBOLT_ELEMENT_BYTES = 16, /* of either kind */
    BBOLT_BUCKET_BYTES = 16,
    BBOLT_META_BYTES = 64,
    BBOLT_META_CHECKED_BYTES = 56,
    BBOLT_PAGE_BRANCH = 0x01,
    BBOLT_PAGE_LEAF = 0x02,
    BBOLT_PAGE_META = 0x04,
    BBOLT_PAGE_FREELIST = 0x10,
    BBOLT_LEAF_BUCKET = 0x01,
    BBOLT_VERSION = 2,
    BBOLT_KEY_BYTES_MAX = 32768,
};
#define BBOLT_MAGIC UINT32_C(0xED0CDAED)
#define BBOLT_NO_FREELIST UINT64_MAX
/* Larger values do not fit a page's 32-bit positions. */
#define BBOLT_VALUE_BYTES_MAX ((UINT32_C(1) << 31) - 2)

/* FNV-64a (Fowler, Noll, Vo). */
static inline uint64_t bbolt_fnv64a(const uint8_t *data, size_t len)
{
    uint64_t h = UINT64_C(14695981039346656037);

    for (size_t i = 0; i < len; i++)
        h = (h ^ data[i]) * UINT64_C(1099511628211);
    return h;
}

#endif
