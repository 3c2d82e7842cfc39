/*
 * The ordered index of all keys, in memory: a B+ tree with entries in the leaves, and in every
 * inner node, per child, how many live keys lie below and how many bytes their records take in an
 * answer. So existence, `count`, `more` and the size of an answer of a million keys cost O(log n).
 *
 * An entry knows its newest version in full (or that it is deleted) and every older version not
 * yet compacted away as one 16-byte cell: revision and record size. create_revision and version of
 * an older one follow from its place: within a generation (creation to deletion) versions rise
 * by one, so counting back from the generation's last version gives them. The cell of a deletion
 * is preceded by a cell that keeps create_revision and last version of the generation it ended.
 *
 * Comparing keys is mostly comparing integers: a node keeps the length of the prefix its keys
 * share and, for each, the eight bytes after it.
 *
 * Revisions are (main, sub). Cells ascend. A read at revision R sees the newest version with
 * main <= R.
 */
#ifndef CONCLAVE_STORED_KV_INDEX_H
#define CONCLAVE_STORED_KV_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"

struct kv_index_leaf;
struct kv_index_node;

struct kv_cell {
    int64_t main;
    uint32_t sub;
    uint32_t size; /* of the encoded record; or KV_CELL_* */
};
enum {
    KV_CELL_DELETED = 0x80000000u,    /* this revision deleted the key */
    KV_CELL_GENERATION = 0xc0000000u, /* main: create_revision; sub and the rest: last version */
    KV_RECORD_BYTES_MAX = 0x3fffffff,
};

struct kv_history {
    uint32_t count, cap;
    uint32_t generations_end; /* cells before it belong to ended generations */
    struct kv_cell cells[];
};

struct kv_entry {
    int64_t create_revision, version; /* of the generation; kept after its deletion */
    int64_t mod_revision, lease;
    uint32_t mod_sub;
    uint32_t size; /* of the encoded record; KV_CELL_DELETED: not live */
    struct kv_history *history; /* NULL: none */
    uint32_t key_len;
    uint8_t key[];
};

static inline struct bytes kv_entry_key(const struct kv_entry *e)
{
    return (struct bytes){e->key, e->key_len};
}
static inline bool kv_entry_is_live(const struct kv_entry *e)
{
    return e->size != KV_CELL_DELETED;
}

/* One version of a key. */
struct kv_version {
    int64_t main, create_revision, version;
    uint32_t sub, size;
};

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
struct kv_entry *kv_entry_new(struct bytes key);
/* cells: struct kv_cell, aligned or not. */
void kv_entry_set_history(struct kv_entry *e, const void *cells, uint32_t count);
int kv_index_append(struct kv_index *ix, struct kv_entry *e); /* -EBADMSG: not above; freed */
void kv_entry_free(struct kv_entry *e);

/* The version a read at `revision` sees; false: not live then. */
bool kv_entry_at(const struct kv_entry *e, int64_t revision, struct kv_version *ret);
/* An entry whose newest version is above `revision`, as it was at `revision`: all of *ret but key and
 * history (the lease is not known: 0), and how many cells were its history then. False: no version
 * existed. */
bool kv_entry_before(const struct kv_entry *e, int64_t revision, struct kv_entry *ret,
                     uint32_t *ret_cells);
/* Versions with from <= main <= to, deletions (size KV_CELL_DELETED) included, ascending; at most
 * max. How many. */
size_t kv_entry_versions(const struct kv_entry *e, int64_t from, int64_t to, struct kv_cell *ret,
                         size_t max);
/* Is (main, sub) a version of this key, a deletion included, that is not compacted away? */
bool kv_entry_has(const struct kv_entry *e, int64_t main, uint32_t sub);
/* Is (main, sub) a put of this key that a store compacted at `compact` keeps? */
bool kv_entry_keeps(const struct kv_entry *e, int64_t main, uint32_t sub, int64_t compact);

/* Drops what compaction at `revision` removes and calls `dropped` for each version of it, the
 * deletions included. True: nothing is left, remove the entry. */
typedef void (*kv_dropped)(void *user, int64_t main, uint32_t sub, bool is_delete);
bool kv_entry_compact(struct kv_index *ix, struct kv_entry *e, int64_t revision, kv_dropped dropped,
                      void *user);
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
