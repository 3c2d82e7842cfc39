/*
 * Bytes that several owners keep: made once, never changed, freed with the last reference. One thread.
 */
#ifndef CONCLAVE_UTIL_SHARED_BYTES_H
#define CONCLAVE_UTIL_SHARED_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/bytes.h"
#include "lib/util/xmalloc.h"

struct shared_bytes {
    size_t refs;
    size_t len;
    uint8_t data[];
};

/* A copy, with one reference: the caller's. */
static inline struct shared_bytes *shared_bytes_new(struct bytes v)
{
    struct shared_bytes *s = xmalloc(sizeof(*s) + v.len);

    s->refs = 1;
    s->len = v.len;
    if (v.len != 0)
        memcpy(s->data, v.data, v.len);
    return s;
}

static inline struct shared_bytes *shared_bytes_ref(struct shared_bytes *s)
{
    s->refs++;
    return s;
}

static inline void shared_bytes_unref(struct shared_bytes *s) /* NULL is fine */
{
    if (s != NULL && --s->refs == 0)
        free(s);
}

static inline struct bytes shared_bytes_get(const struct shared_bytes *s)
{
    return bytes_of(s->data, s->len);
}

#endif
