/*
 * Group commit: one thread that writes and syncs what the loop hands over. It takes all that is
 * queued, writes it at once, syncs once, and reports the newest batch that is durable; what arrives
 * meanwhile is the next group. No timer: the disk's own pace makes the groups.
 *
 * A failed write or sync calls `fatal` on the log's thread, which must not return: the kernel may
 * have dropped the pages, so a retry that succeeds proves nothing.
 *
 * Also on this thread: preparing the next segment ahead of time, removing trimmed segments,
 * writing .snap files. The loop never waits for the disk.
 *
 * Functions are for the loop thread unless they say otherwise.
 */
#ifndef CONCLAVE_WAL_THREAD_H
#define CONCLAVE_WAL_THREAD_H

#include <stdbool.h>
#include <stdint.h>
#include "lib/util/macros.h"
#include "raftd/wal/wal.h"

struct loop;
struct wal_thread;

struct wal_thread_args {
    struct loop *loop;
    struct wal *wal; /* borrowed; wal_append and wal_trim are off limits until wal_thread_free */
    /* On the loop thread: all submissions up to `sequence` are durable. Called with growing
     * sequences, at most once per turn. */
    void (*done)(void *user, uint64_t sequence);
    /* On the log's thread; must not return. */
    void (*fatal)(void *user, int err, const char *what);
    void *user;
};

struct wal_thread *wal_thread_new(const struct wal_thread_args *args);
/* Finishes what was submitted, then ends the thread; `done` is not called any more. NULL is fine.
 */
void wal_thread_free(struct wal_thread *t);

/* Hands over one batch, which is copied. Returns the sequence number to wait for, growing from 1
 * with each batch that must sync. With must_sync false (nothing but a new commit index, say) the
 * batch is kept until the next one that syncs, and the number is that of the one before: nothing
 * needs to wait for it. */
uint64_t wal_thread_submit(struct wal_thread *t, const struct wal_batch *batch, bool must_sync);

/* As wal_trim, later on the log's thread. */
void wal_thread_trim(struct wal_thread *t, uint64_t index);

enum { WAL_SYNC_BUCKETS = 14 }; /* upper bounds 0.001 * 2^n seconds; the last one is +Inf */
struct wal_thread_stats {
    uint64_t submitted, durable; /* sequences */
    uint64_t sync_count, sync_ns_sum, sync_ns_max;
    uint64_t sync_buckets[WAL_SYNC_BUCKETS + 1]; /* not cumulative */
    uint64_t bytes_written, segments_cut;
    uint64_t queued_bytes;
    /* Since when (loop_clock_ns) the thread is in a write or sync it has not come back from; 0:
     * idle. The stuck-disk rule: a leader for whom this is older than an election timeout resigns.
     */
    uint64_t busy_since_ns;
};
void wal_thread_get_stats(const struct wal_thread *t,
                          struct wal_thread_stats *ret); /* any thread */

#endif
