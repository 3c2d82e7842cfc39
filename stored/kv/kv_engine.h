/*
 * What the keyspace asks of a storage engine: an ordered map from bytes to bytes that takes whole
 * batches and writes them behind the caller's back, in order. Engines: engine_leveldb (disk),
 * engine_mem (tests, simulator).
 *
 * - A batch is atomic: after a crash all of it is there or nothing. Batches are numbered by the
 *   caller with a rising sequence. After a crash of the host a batch may be missing although a
 *   later one is there (a hole): the keyspace finds that out by its own chain.
 * - Reads see every batch up to written() and perhaps later ones.
 * - The bytes of a batch: per operation u8 0 (put) or 1 (delete), key, and for a put the value
 *   (wire_put_bytes). Use the two helpers.
 * - A failed write or read check is the engine's to report; the process then ends. The keyspace
 *   passes a negative errno of a read on.
 *
 * Threads: all functions on the loop thread, except that one iterator may be used by one other
 * thread at a time.
 */
#ifndef CONCLAVE_STORED_KV_ENGINE_H
#define CONCLAVE_STORED_KV_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"
#include "lib/wire/wire.h"

struct kv_engine;
struct kv_engine_iter;

struct kv_engine_ops {
    /* Takes the batch (leaves BUF_INIT behind); not empty; sequence above every earlier one. */
    void (*write)(struct kv_engine *e, uint64_t sequence, struct buf *batch);
    /* Every batch up to here is visible to get and to new iterators. */
    uint64_t (*written)(const struct kv_engine *e);
    /* Appends the value. 0, -ENOENT, or another negative errno. */
    int (*get)(struct kv_engine *e, struct bytes key, struct buf *ret);

    /* An iterator sees the state of its creation, whatever is written later. fill_cache: the
     * pages read are likely to be wanted again. */
    struct kv_engine_iter *(*iter_new)(struct kv_engine *e, bool fill_cache);
    void (*iter_free)(struct kv_engine_iter *it);
    void (*iter_seek)(struct kv_engine_iter *it, struct bytes key); /* first key >= key */
    void (*iter_seek_last)(struct kv_engine_iter *it);
    bool (*iter_valid)(const struct kv_engine_iter *it); /* false: at the end, or failed */
    void (*iter_next)(struct kv_engine_iter *it);
    void (*iter_prev)(struct kv_engine_iter *it);
    struct bytes (*iter_key)(const struct kv_engine_iter *it); /* borrowed until it moves */
    struct bytes (*iter_value)(const struct kv_engine_iter *it);
    int (*iter_result)(const struct kv_engine_iter *it); /* 0 or negative errno */
};

/* Embedded as the first member of an engine's own struct. */
struct kv_engine {
    const struct kv_engine_ops *ops;
};

static inline void kv_batch_put(struct buf *batch, struct bytes key, struct bytes value)
{
    wire_put_u8(batch, 0);
    wire_put_bytes(batch, key);
    wire_put_bytes(batch, value);
}

static inline void kv_batch_delete(struct buf *batch, struct bytes key)
{
    wire_put_u8(batch, 1);
    wire_put_bytes(batch, key);
}

#endif
