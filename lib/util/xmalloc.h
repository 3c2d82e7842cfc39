/*
 * Allocation that aborts on failure, for small bounded sizes (style: an untested out-of-memory
 * branch is worse than a restart). A size that a peer, client or file chose is checked against a
 * named limit first. Everything here is freed with free().
 */
#ifndef CONCLAVE_UTIL_XMALLOC_H
#define CONCLAVE_UTIL_XMALLOC_H

#include <stddef.h>
#include "lib/util/macros.h"

void *xmalloc(size_t size) __attribute__((malloc, returns_nonnull));
void *xcalloc(size_t count, size_t size) __attribute__((malloc, returns_nonnull));
void *xrealloc(void *ptr, size_t size) __attribute__((returns_nonnull));
void *xreallocarray(void *ptr, size_t count, size_t size) __attribute__((returns_nonnull));
void *xmemdup(const void *data, size_t len) __attribute__((malloc, returns_nonnull));
char *xstrdup(const char *s) __attribute__((malloc, returns_nonnull));
char *xstrndup(const char *s, size_t len) __attribute__((malloc, returns_nonnull));
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((malloc, returns_nonnull));

/* Process-wide, before threads: large buffers (messages, batches, cache segments) go back to the
 * kernel when freed instead of leaving holes in the heap, and all threads share one. */
void xmalloc_tune(void);
/* A block this much larger than what it is for is, after xmalloc_tune, memory of its own that goes
 * back to the kernel when freed, wiped or not: larger than all that is free in the heap, from which
 * even a large block is served when it fits. Slow: looks at the whole heap. */
size_t xmalloc_apart_bytes(void);

/* for CLEANUP(freep) */
void freep(void *ptr_to_ptr);
/* for CLEANUP(closep) on an int descriptor; ignores negative values */
void closep(const int *fd);

#endif
