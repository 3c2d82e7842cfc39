/*
 * Which watched ranges contain a key: single keys in a hash table, true ranges in a treap ordered
 * by (from, to) that knows the highest end below every node. A match costs the log of the number
 * of ranges plus what it finds, however many watchers there are.
 */
#ifndef CONCLAVE_STORED_WATCH_RANGES_H
#define CONCLAVE_STORED_WATCH_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"
#include "lib/util/hmap.h"

struct watch_group;

struct watch_range {
    struct watch_group *groups; /* the user's */
    /* own */
    struct watch_range *left, *right; /* single keys: left is the next of the same hash */
    struct bytes max_to;              /* below and here; data NULL: no end */
    uint32_t priority;
    bool is_single;
    struct bytes key, range_end; /* as in etcd's requests; they lie behind this struct */
    uint8_t bytes[];
};

struct watch_ranges {
    struct hmap singles;
    struct watch_range *root;
    uint32_t seed;
    size_t count;
};

void watch_ranges_init(struct watch_ranges *r);
void watch_ranges_fini(struct watch_ranges *r); /* every range was removed */

/* Finds or adds. range_end: empty: one key; "\0": everything from key; else above key. */
struct watch_range *watch_ranges_get(struct watch_ranges *r, struct bytes key,
                                     struct bytes range_end);
void watch_ranges_remove(struct watch_ranges *r, struct watch_range *range); /* frees it */

typedef void (*watch_ranges_found)(void *user, struct watch_range *range);
void watch_ranges_match(const struct watch_ranges *r, struct bytes key, watch_ranges_found found,
                        void *user);

/* Does the range contain the key? */
bool watch_range_contains(const struct watch_range *range, struct bytes key);

#endif
