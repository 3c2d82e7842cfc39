#include "lib/util/buf.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "lib/util/xmalloc.h"

void buf_fini(struct buf *b)
{
    free(b->data);
    *b = BUF_INIT;
}

void buf_grow(struct buf *b, size_t extra)
{
    size_t need, cap = b->cap != 0 ? b->cap : 64;

    if (__builtin_add_overflow(b->len, extra, &need))
        PANIC("buffer of %zu bytes cannot grow by %zu", b->len, extra);
    while (cap < need)
        cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    b->data = xrealloc(b->data, cap);
    b->cap = cap;
}

void buf_wipe(struct buf *b)
{
    if (b->cap > 0)
        explicit_bzero(b->data, b->cap);
    b->len = 0;
}

void buf_append_secret(struct buf *b, const void *data, size_t len)
{
    struct buf grown = BUF_INIT;

    if (b->cap - b->len < len) {
        buf_grow(&grown, b->len + len);
        buf_append(&grown, b->data, b->len);
        buf_wipe(b);
        buf_fini(b);
        *b = grown;
    }
    buf_append(b, data, len);
}

void buf_trim(struct buf *b, size_t keep)
{
    assert(b->len == 0);
    if (b->cap <= keep)
        return;
    free(b->data);
    *b = BUF_INIT;
}

void buf_appendf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    assert(n >= 0);
    buf_reserve(b, (size_t)n + 1);
    va_start(ap, fmt);
    vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

void buf_consume(struct buf *b, size_t n)
{
    assert(n <= b->len);
    if (n == 0)
        return;
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
}
