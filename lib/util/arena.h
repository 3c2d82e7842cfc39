/*
 * Memory for one request: bump allocation, everything is released at once. The first block stays
 * for the next request, so a loop that resets an arena per request allocates nothing.
 * Aborts when memory runs out; callers bound what they decode into it by the request's size.
 */
#ifndef CONCLAVE_UTIL_ARENA_H
#define CONCLAVE_UTIL_ARENA_H

#include <stddef.h>

struct arena_block;

struct arena {
    struct arena_block *block; /* newest; links to older ones */
    size_t used;               /* of the newest */
};

#define ARENA_INIT ((struct arena){NULL, 0})

void arena_fini(struct arena *a);  /* also for CLEANUP(arena_fini) */
void arena_reset(struct arena *a); /* everything allocated becomes invalid */
void *arena_alloc(struct arena *a, size_t size) __attribute__((returns_nonnull)); /* 16-aligned */
void *arena_zalloc(struct arena *a, size_t size) __attribute__((returns_nonnull));

#endif
