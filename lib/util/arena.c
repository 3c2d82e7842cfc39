#include "lib/util/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum { FIRST_BLOCK_BYTES = 8 << 10, BLOCK_BYTES_MAX = 1 << 20 };

struct arena_block {
    struct arena_block *older;
    size_t size;
    alignas(16) uint8_t data[];
};

static void add_block(struct arena *a, size_t min)
{
    size_t size = a->block == NULL ? FIRST_BLOCK_BYTES : MIN(a->block->size * 2, BLOCK_BYTES_MAX);
    struct arena_block *b;

    size = MAX(size, min);
    b = xmalloc(sizeof(*b) + size);
    b->older = a->block;
    b->size = size;
    a->block = b;
    a->used = 0;
}

void arena_fini(struct arena *a)
{
    while (a->block != NULL) {
        struct arena_block *b = a->block;

        a->block = b->older;
        free(b);
    }
    a->used = 0;
}

/* Keeps the oldest block: the one every request starts with. */
void arena_reset(struct arena *a)
{
    while (a->block != NULL && a->block->older != NULL) {
        struct arena_block *b = a->block;

        a->block = b->older;
        free(b);
    }
    if (a->block != NULL && a->block->size > BLOCK_BYTES_MAX)
        arena_fini(a);
    a->used = 0;
}

void *arena_alloc(struct arena *a, size_t size)
{
    void *p;

    if (UNLIKELY(size > SIZE_MAX - 64))
        PANIC("arena: %zu bytes", size);
    size = (size + 15) & ~(size_t)15;
    if (a->block == NULL || a->block->size - a->used < size)
        add_block(a, size);
    p = a->block->data + a->used;
    a->used += size;
    return p;
}

void *arena_zalloc(struct arena *a, size_t size)
{
    return memset(arena_alloc(a, size), 0, size);
}
