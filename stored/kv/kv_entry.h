/*
 * A key with its versions, as the index keeps it.
 *
 * An entry knows its newest version in full (or that it is deleted) and every older version not
 * yet compacted away as one 16-byte cell: revision and record size. create_revision and version of
 * an older one follow from its place: within a generation (creation to deletion) versions rise
 * by one, so counting back from the generation's last version gives them. The cell of a deletion
 * is preceded by a cell that keeps create_revision and last version of the generation it ended.
 *
 * Revisions are (main, sub). Cells ascend. A read at revision R sees the newest version with
 * main <= R.
 */
#ifndef CONCLAVE_STORED_KV_ENTRY_H
#define CONCLAVE_STORED_KV_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"

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
    uint32_t size;              /* of the encoded record; KV_CELL_DELETED: not live */
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

/* Of the entry and its history. */
static inline size_t kv_entry_memory_bytes(const struct kv_entry *e)
{
    enum { ALLOCATOR_BYTES = 8 };
    size_t bytes = sizeof(*e) + e->key_len + ALLOCATOR_BYTES;

    if (e->history != NULL)
        bytes +=
            sizeof(*e->history) + e->history->cap * sizeof(e->history->cells[0]) + ALLOCATOR_BYTES;
    return bytes;
}

struct kv_entry *kv_entry_new(struct bytes key);
void kv_entry_free(struct kv_entry *e);
/* Loading. cells: struct kv_cell, aligned or not. */
void kv_entry_set_history(struct kv_entry *e, const void *cells, uint32_t count);
/* The newest version becomes history; what is newer is the caller's to set. */
void kv_entry_push_newest(struct kv_entry *e);

/* The version a read at `revision` sees; false: not live then. */
bool kv_entry_at(const struct kv_entry *e, int64_t revision, struct kv_version *ret);
/* An entry whose newest version is above `revision`, as it was at `revision`: all of *ret but key
 * and history (the lease is not known: 0), and how many cells were its history then. False: no
 * version existed. */
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
 * deletions included; their records took *ret_record_bytes. True: nothing is left, remove the
 * entry. */
typedef void (*kv_entry_dropped)(void *user, int64_t main, uint32_t sub, bool is_delete);
bool kv_entry_compact(struct kv_entry *e, int64_t revision, kv_entry_dropped dropped, void *user,
                      uint64_t *ret_record_bytes);

#endif
