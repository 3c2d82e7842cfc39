/*
 * A growable byte buffer that owns its memory. Growth doubles; memory is kept by buf_clear so a
 * buffer that lives in a loop stops allocating. Aborts when memory runs out: callers bound what
 * they append.
 */
#ifndef CONCLAVE_UTIL_BUF_H
#define CONCLAVE_UTIL_BUF_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "lib/util/bytes.h"
#include "lib/util/macros.h"

struct buf {
    uint8_t *data;
    size_t len;
    size_t cap;
};

#define BUF_INIT ((struct buf){NULL, 0, 0})

void buf_fini(struct buf *b); /* also for CLEANUP(buf_fini) */
void buf_grow(struct buf *b, size_t extra);
/* Releases memory above `keep` bytes of capacity; the content must be empty. */
void buf_trim(struct buf *b, size_t keep);
void buf_appendf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Secrets: empties and overwrites all that the buffer held; appends without leaving a copy behind
 * where it grew. */
void buf_wipe(struct buf *b);
void buf_append_secret(struct buf *b, const void *data, size_t len);
/* Drops the first n bytes by moving the rest down. */
void buf_consume(struct buf *b, size_t n);

static inline void buf_clear(struct buf *b)
{
    b->len = 0;
}

/* Makes room for `extra` bytes and returns where they go; the caller then adds to b->len. */
static inline uint8_t *buf_reserve(struct buf *b, size_t extra)
{
    if (UNLIKELY(b->cap - b->len < extra))
        buf_grow(b, extra);
    return b->data + b->len;
}

static inline void buf_append(struct buf *b, const void *data, size_t len)
{
    if (len == 0)
        return;
    memcpy(buf_reserve(b, len), data, len);
    b->len += len;
}

static inline void buf_append_bytes(struct buf *b, struct bytes v)
{
    buf_append(b, v.data, v.len);
}

static inline void buf_append_u8(struct buf *b, uint8_t v)
{
    *buf_reserve(b, 1) = v;
    b->len++;
}

static inline struct bytes buf_bytes(const struct buf *b)
{
    return (struct bytes){b->data, b->len};
}

#endif
