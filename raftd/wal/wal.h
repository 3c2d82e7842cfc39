/*
 * The write-ahead log of one member: everything its raft state is, in order, before anyone is told.
 *
 * Files: <wal_dir>/%016x-%016x.wal (sequence, index of the next entry when it was begun), each
 * preallocated; <snap_dir>/%016x-%016x.snap (term, index) with the configuration of a marker.
 * README.md has the format. What is appended together is a *batch*: one write, and after a crash
 * all of it is there or none of it.
 *
 * Recovery decides what a damaged record means. Every batch carries its number and the number of
 * the last batch known durable when it was encoded. Damage in batch b is a torn tail, and is cut,
 * only if nothing readable after it says that b was durable, and the damaged place shows a sector
 * that never arrived. Anything else is -EBADMSG with file and offset: never taken for "no entry".
 *
 * Two ways to use it: wal_append (encode, write, sync; for bootstrap, tests and the simulator) or
 * a wal_thread (wal_thread.h), which the daemon uses; then wal_append and wal_trim are not called.
 * All functions are for one thread, the loop's.
 */
#ifndef CONCLAVE_WAL_H
#define CONCLAVE_WAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"
#include "raftd/wal/wal_io.h"

struct wal;

struct wal_entry {
    uint64_t
        index; /* from 1, without gaps; one at or below the last replaces it and all after it */
    uint64_t term;
    uint16_t type; /* raft's entry type; opaque here */
    struct bytes data;
};

struct wal_hard_state {
    uint64_t term, vote, commit;
};

/* A snapshot marker: entries up to `index` are no longer needed for a restart of this member. If
 * the log does not hold an entry of that index and term, the marker replaces the whole log (a
 * snapshot came from the leader) and the next entry is index + 1. */
struct wal_snapshot {
    uint64_t index, term; /* 0, 0: none */
    struct bytes conf;    /* the configuration as of index; opaque here */
};

struct wal_metadata {
    uint64_t cluster_id, member_id;
};

/* In the order in which they take effect. */
struct wal_batch {
    const struct wal_snapshot *snapshot; /* NULL: none */
    const struct wal_entry *entries;
    size_t entry_count;
    const struct wal_hard_state *hard_state; /* NULL: unchanged; commit may name these entries */
};

enum {
    WAL_SEGMENT_BYTES_DEFAULT = 64 << 20,
    WAL_SEGMENT_BYTES_MIN = 4096,
    WAL_SNAP_KEEP_DEFAULT = 5,
    WAL_ENTRY_BYTES_MAX = 64 << 20, /* of one entry's data; larger ones are a bug of the caller */
    WAL_CONF_BYTES_MAX = 1 << 20,
};

struct wal_options {
    const struct wal_io *io; /* NULL: wal_io_posix. Borrowed, must outlive the log */
    const char *wal_dir;     /* copied; parents must exist, the directory itself is created */
    const char *snap_dir;    /* copied; NULL: no .snap files */
    uint64_t segment_bytes;  /* 0: default. A batch that is larger gets a larger segment */
    unsigned int snap_keep;  /* 0: default. How many .snap files stay */
    bool unsafe_no_fsync;
    uint64_t salt; /* of a new log's checksums; 0: random. For runs that must repeat exactly */
};

/* Why opening failed, for the log: file, offset, expected, found. */
struct wal_error {
    char text[512];
};

/* 1: there is a log, 0: there is none (also: a creation that never finished), or negative errno. */
int wal_exists(const struct wal_options *o);

/* A new log that begins with `first` (may be NULL): a crash leaves all of it or no log at all. */
int wal_create(const struct wal_options *o, const struct wal_metadata *m,
               const struct wal_batch *first, struct wal **ret, struct wal_error *err);

/* Reads and repairs. -EBADMSG: damaged; -EPROTO: other format version; -EXDEV: of another member
 * or cluster than `expect` (NULL: any). Entries are then fetched with wal_read_entries. */
int wal_open(const struct wal_options *o, const struct wal_metadata *expect, struct wal **ret,
             struct wal_error *err);
void wal_close(struct wal *w); /* NULL is fine; no wal_thread may use it any more */

/* What the log says, including all that was appended or submitted since it was opened. */
struct wal_info {
    struct wal_metadata metadata;
    struct wal_hard_state hard_state;
    struct wal_snapshot snapshot; /* newest marker; conf borrowed until the next append */
    uint64_t first_index;         /* oldest entry that can be read; last_index + 1 when none */
    uint64_t last_index;
    uint64_t repaired_bytes; /* length of the torn tail that wal_open cut, 0 when none */
    uint64_t repaired_offset;
    char repaired_file[64];
    unsigned int segment_count;
};
const struct wal_info *wal_info(const struct wal *w);

/* Encodes, writes, and when `sync` makes durable. 0 or negative errno; after an error the log
 * refuses everything (-EIO): the process must end. */
int wal_append(struct wal *w, const struct wal_batch *batch, bool sync);

/* Entries lo..hi (both included), as many as fit max_bytes of data but at least one. `ret` is
 * overwritten; what its entries' data point to is borrowed from it. 0; -ENOENT: lo is trimmed
 * away; -ERANGE: lo is not written yet; -EBADMSG: damaged (wal_read_error says where); other errno.
 */
struct wal_entries {
    struct wal_entry *entries;
    size_t count;
    size_t cap;
    struct buf data;
};
#define WAL_ENTRIES_INIT ((struct wal_entries){NULL, 0, 0, BUF_INIT})
void wal_entries_fini(struct wal_entries *e);
int wal_read_entries(struct wal *w, uint64_t lo, uint64_t hi, size_t max_bytes,
                     struct wal_entries *ret);
const char *wal_read_error(const struct wal *w);

/* The term of an entry, or of the marker's index. 0, or -ENOENT when unknown here. In memory. */
int wal_entry_term(const struct wal *w, uint64_t index, uint64_t *ret_term);

/* Removes the segments that hold only entries below `index`. Never removes what a restart needs:
 * an index above the newest marker's + 1 counts as that. */
int wal_trim(struct wal *w, uint64_t index);

#endif
