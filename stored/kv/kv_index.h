/*
 * The ordered index of all keys, in memory: a B+ tree with entries in the leaves, and in every
 * inner node, per child, how many live keys lie below and how many bytes their records take in an
 * answer. So existence, `count`, `more` and the size of an answer of a million keys cost O(log n).
 *
 * Comparing keys is mostly comparing integers: a node keeps the length of the prefix its keys
 * share and, for each, the eight bytes after it.
 */
#ifndef CONCLAVE_STORED_KV_INDEX_H
#define CONCLAVE_STORED_KV_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"
#include "stored/kv/kv_entry.h"

struct kv_index_leaf;
struct kv_index_node;

struct kv_index {
    struct kv_index_node *root; /* NULL: empty */
    unsigned int height;        /* inner levels above the leaves */
    struct kv_index_leaf *first, *last;
    uint64_t entry_count;       /* deleted ones with history included */
    uint64_t live_count;
    uint64_t live_bytes;        /* framed, see kv_framed_size */
    uint64_t record_bytes;      /* of every version not compacted away */
    uint64_t memory_bytes;
};

/* A record as a field of an answer: tag, length, bytes. */
static inline uint64_t kv_framed_size(uint32_t size)
{
    uint32_t v = size;
    uint64_t n = 2;

    while (v >= 0x80) {
        v >>= 7;
        n++;
    }
    return n + size;
}

void kv_index_init(struct kv_index *ix);
void kv_index_fini(struct kv_index *ix);

/* NULL when the key was never put or everything of it is compacted away. */
struct kv_entry *kv_index_find(const struct kv_index *ix, struct bytes key);

/* A new version. revision: above every one of this key. Returns the entry. */
struct kv_put_args {
    struct bytes key;
    int64_t main, create_revision, version, lease;
    uint32_t sub, size;
};
struct kv_entry *kv_index_put(struct kv_index *ix, const struct kv_put_args *args);
/* The key is live. Its entry stays, with the deletion as its newest version. */
void kv_index_delete(struct kv_index *ix, struct kv_entry *e, int64_t main, uint32_t sub);

/* A deletion as found in the log: the key may be unknown or deleted before, because compaction has
 * removed what was in between. */
void kv_index_replay_delete(struct kv_index *ix, struct bytes key, int64_t main, uint32_t sub);

/* Loading: takes the entry (kv_entry_new); its key is above every other one. */
int kv_index_append(struct kv_index *ix, struct kv_entry *e); /* -EBADMSG: not above; freed */

/* kv_entry_compact of one that is in the index. */
bool kv_index_compact_entry(struct kv_index *ix, struct kv_entry *e, int64_t revision,
                            kv_entry_dropped dropped, void *user);
/* The entry is not live. Frees it. */
void kv_index_remove(struct kv_index *ix, struct kv_entry *e);

/* Iteration in key order over all entries, deleted ones included. Any change of the index other
 * than kv_index_delete ends an iterator's validity. */
struct kv_index_iter {
    struct kv_index_leaf *leaf; /* NULL: at the end */
    unsigned int pos;
};
void kv_index_seek(const struct kv_index *ix, struct bytes key, struct kv_index_iter *ret);
void kv_index_first(const struct kv_index *ix, struct kv_index_iter *ret);
struct kv_entry *kv_index_iter_get(const struct kv_index_iter *it); /* NULL: at the end */
void kv_index_iter_next(struct kv_index_iter *it);

/* Live keys below `key`. */
uint64_t kv_index_rank(const struct kv_index *ix, struct bytes key);
/* Framed bytes of the first `rank` live keys; rank <= live_count. */
uint64_t kv_index_bytes_at(const struct kv_index *ix, uint64_t rank);

/* Walks everything and asserts what must hold; for tests. */
void kv_index_check(const struct kv_index *ix);

#endif
