#include "lib/util/xmalloc.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MMAP_BYTES = 128 << 10, /* set, it does not follow the largest block freed, as it does by itself */
    TRIM_BYTES = 1 << 20,
    /* A daemon has one thread that allocates all the time; the others (nng's, LevelDB's, the log's)
     * do so a few times per batch, too seldom to stand in its way. Arenas of their own would keep
     * what the largest batch ever took: malloc hardly ever gives back the top of one. */
    ARENAS_MAX = 1,
    MEANWHILE_BYTES = 1 << 20, /* what other threads may free before the block is taken */
};

void panic_at(const char *file, int line, const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "panic at %s:%d: ", file, line);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    fflush(stderr);
    abort();
}

static void *check(void *ptr, size_t size)
{
    if (ptr == NULL)
        PANIC("out of memory allocating %zu bytes", size);
    return ptr;
}

void xmalloc_tune(void)
{
    mallopt(M_MMAP_THRESHOLD, MMAP_BYTES);
    mallopt(M_TRIM_THRESHOLD, TRIM_BYTES);
    mallopt(M_ARENA_MAX, ARENAS_MAX);
}

size_t xmalloc_apart_bytes(void)
{
    return mallinfo2().fordblks + MEANWHILE_BYTES;
}

void *xmalloc(size_t size)
{
    return check(malloc(size != 0 ? size : 1), size);
}

void *xcalloc(size_t count, size_t size)
{
    return check(calloc(count != 0 ? count : 1, size != 0 ? size : 1), size);
}

void *xrealloc(void *ptr, size_t size)
{
    return check(realloc(ptr, size != 0 ? size : 1), size);
}

void *xreallocarray(void *ptr, size_t count, size_t size)
{
    size_t total;

    if (__builtin_mul_overflow(count, size, &total))
        PANIC("allocation of %zu * %zu bytes overflows", count, size);
    return xrealloc(ptr, total);
}

void *xmemdup(const void *data, size_t len)
{
    void *copy = xmalloc(len);

    if (len != 0)
        memcpy(copy, data, len);
    return copy;
}

char *xstrdup(const char *s)
{
    return xmemdup(s, strlen(s) + 1);
}

char *xstrndup(const char *s, size_t len)
{
    size_t n = len != 0 ? strnlen(s, len) : 0; /* s may be an empty run's NULL */
    char *copy = xmalloc(n + 1);

    if (n != 0)
        memcpy(copy, s, n);
    copy[n] = '\0';
    return copy;
}

char *xasprintf(const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (n < 0)
        PANIC("out of memory formatting text");
    return text;
}

void freep(void *ptr_to_ptr)
{
    free(*(void **)ptr_to_ptr);
}

void closep(const int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
