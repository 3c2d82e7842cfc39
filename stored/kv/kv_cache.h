/*
 * Encoded key-values by revision, under a budget, as a log of segments: new ones are appended to
 * the newest segment, the oldest segment is given up when the budget is exceeded. What was asked
 * for since it was written moves to the front instead (second chance). One allocation per segment,
 * no fragmentation, and the order of age is the order of writing.
 *
 * A segment of which three quarters are superseded (their keys have newer versions) is given up
 * before the budget asks for it: a few hot keys take little memory, however often they change.
 *
 * A segment with a record that the engine has not written yet is never given up: until then this
 * is the only copy. Rejected: a list of single allocations (malloc and 40 bytes per value).
 */
#ifndef CONCLAVE_STORED_KV_CACHE_H
#define CONCLAVE_STORED_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"

struct kv_cache_segment;
struct kv_cache_slot;

struct kv_cache {
    struct kv_cache_slot *slots; /* open addressing */
    size_t mask, count;
    struct kv_cache_segment *oldest, *newest;
    struct kv_cache_segment **segments; /* by number */
    uint32_t *free_numbers;
    size_t segment_cap, free_count;
    size_t segment_bytes; /* of a usual segment */
    uint64_t budget_bytes, bytes;
    uint64_t written; /* sequences up to here need no pin */
    uint64_t hits, misses;
};

void kv_cache_init(struct kv_cache *c, uint64_t budget_bytes);
void kv_cache_fini(struct kv_cache *c);

/* Memory for a record that the caller fills at once. sequence: it stays at least until
 * kv_cache_written(sequence); 0: it may go any time. Ends every borrowed record. */
uint8_t *kv_cache_add(struct kv_cache *c, int64_t main, uint32_t sub, size_t len,
                      uint64_t sequence);
/* Borrowed until the next kv_cache_add or kv_cache_written. False: not here. */
bool kv_cache_get(struct kv_cache *c, int64_t main, uint32_t sub, struct bytes *ret);
/* Before many kv_cache_get: brings their memory near, first all slots, then all records. */
void kv_cache_prefetch_slot(const struct kv_cache *c, int64_t main, uint32_t sub);
void kv_cache_prefetch_record(const struct kv_cache *c, int64_t main, uint32_t sub, size_t len);
void kv_cache_written(struct kv_cache *c, uint64_t sequence);
/* A newer version of its key took its place (len: of the record): a segment that is mostly such records goes early. */
void kv_cache_superseded(struct kv_cache *c, int64_t main, uint32_t sub, size_t len);

#endif
