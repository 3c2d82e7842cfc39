/*
 * The ordered store under the keyspace: LevelDB, behind a wall (leveldb_* appears in
 * engine_leveldb.c only). It executes the engine's side of three promises:
 *
 * - Writes never wait. A batch is handed over and taken up by the writer thread, which writes what
 *   has gathered in order as one LevelDB batch (a batch is never split, so it is never half
 *   there). `written` tells on the loop thread up to which sequence reads see everything; what is
 *   above it the caller keeps in memory.
 * - Nothing is synced by LevelDB's own log. engine_leveldb_sync notes the written sequence, syncs
 *   every *.log and then the directory on a worker, and reports `durable`. A log that LevelDB
 *   removed meanwhile had its content synced in a table before (ARCHITECTURE.md decision 5). It
 *   runs by itself every sync_bytes or sync_interval_ms of writes.
 * - A failed write, sync or read check is final: `fatal` is called and no further write happens.
 *
 * Threads: every function is for the loop thread; `fatal` may come from any thread, the other two
 * callbacks come on the loop thread, never from inside a call.
 */
#ifndef CONCLAVE_STORED_ENGINE_LEVELDB_H
#define CONCLAVE_STORED_ENGINE_LEVELDB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/metrics/metrics.h"
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

struct engine_leveldb;
struct kv_engine;
struct loop;

enum {
    ENGINE_WRITE_BUFFER_BYTES = 2 << 20, /* LevelDB keeps two of them; 4 MiB is not faster here */
    ENGINE_BLOCK_CACHE_BYTES = 1 << 20,  /* values are cached above */
    ENGINE_OPEN_FILES_MAX = 40,          /* tables are mapped: what is open counts as memory */
    ENGINE_MERGE_BYTES_MAX = 512 << 10,  /* of queued batches into one LevelDB write */
    ENGINE_GATHER_US = 2000,             /* how long a small batch may wait for company */
    ENGINE_SYNC_BYTES = 64 << 20,
    ENGINE_SYNC_INTERVAL_MS = 10000,
    ENGINE_QUEUED_BYTES_MAX = 4 << 20, /* above it the caller should stop applying */
    ENGINE_LEVEL0_MAX = 7,             /* LevelDB delays writes at 8 and stops them at 12 */
};

struct engine_leveldb_args {
    struct loop *loop;
    const char *path;          /* directory; created when absent; copied */
    bool no_fsync;             /* `durable` follows `written` without any sync */
    uint64_t sync_bytes;       /* 0: ENGINE_SYNC_BYTES */
    uint64_t sync_interval_ms; /* 0: ENGINE_SYNC_INTERVAL_MS */
    uint64_t gather_us;        /* UINT64_MAX: do not wait; 0: ENGINE_GATHER_US */
    void (*written)(void *user, uint64_t sequence);
    void (*durable)(void *user, uint64_t sequence);
    void (*fatal)(void *user, const char *text);
    void *user;
};

/* 0 or negative errno; *ret_error is then a text to log (free()). */
int engine_leveldb_open(const struct engine_leveldb_args *args, struct engine_leveldb **ret_engine,
                        char **ret_error);
/* Writes what is queued, syncs it, closes. NULL is fine. No callback but `fatal` comes from it;
 * after it returns everything handed over before is durable (unless no_fsync). */
void engine_leveldb_close(struct engine_leveldb *e);
/* Starts a sync now (one at a time; asked for during one, another follows). */
void engine_leveldb_sync(struct engine_leveldb *e);

/* LevelDB merges all its tables on a worker, range by range, so that nothing deleted takes room any
 * more; writes and reads go on. `done` comes on the loop thread, not when the engine is closed
 * before. False: one is under way already. `keys`: borders of the ranges, ascending; taken over. */
bool engine_leveldb_merge(struct engine_leveldb *e, struct buf *keys, size_t key_count,
                          void (*done)(void *user));

struct engine_leveldb_stats {
    uint64_t queued_bytes; /* handed over, not yet written */
    unsigned int level0_files;
    uint64_t disk_bytes; /* of all files: measured with each sync, plus what was written since */
    uint64_t used_bytes; /* LevelDB's estimate of live data */
    uint64_t memory_bytes;
    uint64_t written_sequence, durable_sequence;
    uint64_t write_count, write_ns_sum; /* LevelDB writes */
    struct metrics_histogram syncs;
};
void engine_leveldb_get_stats(const struct engine_leveldb *e, struct engine_leveldb_stats *ret);
/* The caller should hand over no more for now; `written` comes when it is better. */
bool engine_leveldb_is_full(const struct engine_leveldb *e);

/* The engine as the keyspace sees it (kv_engine.h); lives as long as the engine. */
struct kv_engine *engine_leveldb_kv(struct engine_leveldb *e);

#endif
