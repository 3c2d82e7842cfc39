/*
 * Hash map from uint64_t to a non-NULL pointer: open addressing, linear probing, backward-shift
 * deletion (no tombstones). Key order is never exposed to anything that must be deterministic.
 * Owns its table, not the values.
 */
#ifndef CONCLAVE_UTIL_HMAP_H
#define CONCLAVE_UTIL_HMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hmap_slot {
    uint64_t key;
    void *value; /* NULL: empty */
};

struct hmap {
    struct hmap_slot *slots;
    size_t mask;  /* capacity - 1; slots == NULL while empty */
    size_t count;
};

#define HMAP_INIT ((struct hmap){NULL, 0, 0})

void hmap_fini(struct hmap *m);
void *hmap_get(const struct hmap *m, uint64_t key); /* NULL when absent */
/* Inserts or replaces; returns the value replaced, NULL when the key is new. */
void *hmap_put(struct hmap *m, uint64_t key, void *value);
void *hmap_remove(struct hmap *m, uint64_t key); /* the value removed, or NULL */

/* Iteration in no useful order; do not modify the map meanwhile. Start with *pos = 0. */
bool hmap_next(const struct hmap *m, size_t *pos, uint64_t *ret_key, void **ret_value);

#endif
