/*
 * Shared by the files of this folder: the record format, the encoder's and the writer's state.
 *
 * A record is a 24-byte header and its payload, padded with zeros to 8 bytes. Integers are
 * little-endian. Everything after the last record of a segment is zero.
 *
 *   0  u32 length     payload bytes
 *   4  u8  type       enum wal_record_type; never 0
 *   5  u8  flags      WAL_LAST: the batch ends here
 *   6  u16 sub        entry: raft's entry type; snapshot: enum wal_snapshot_sub; else see there
 *   8  u32 batch      number of the batch, low 32 bits
 *  12  u32 undurable  batch - (newest batch known durable when this was encoded), at least 1
 *  16  u32 prev       crc of the record before, also across segments: the chain
 *  20  u32 crc        CRC-32C of salt, segment sequence, file offset, these 20 bytes, payload
 *
 * The crc covers the place, so old bytes at a new place, or a copy of a record inside a value,
 * are never taken for a record. The salt (random, in each segment head) keeps clients from
 * predicting it. A segment head's own crc uses salt 0, or nobody could read the salt.
 */
#ifndef CONCLAVE_WAL_INTERNAL_H
#define CONCLAVE_WAL_INTERNAL_H

#include <assert.h>
#include "lib/util/macros.h"
#include "raftd/wal/wal.h"

enum {
    WAL_FORMAT_VERSION = 1,
    WAL_HEADER_BYTES = 24,
    WAL_SECTOR_BYTES = 512,     /* what a device writes wholly or not at all */
    WAL_POINT_BYTES = 64 << 10, /* distance of index points: bounds the scan for one entry */
    WAL_NAME_MAX = 48,
    WAL_HEAD_BYTES = 64,
    WAL_LAST = 1, /* flags */
};
#define WAL_MAGIC "CNCLVWAL"

enum wal_record_type {
    WAL_HEAD = 1,   /* first record of every segment; sub 0; payload: wal_head_payload */
    WAL_ENTRY,      /* u64 index, u64 term, data */
    WAL_HARD_STATE, /* u64 term, vote, commit; sub 1: repeated at the start of a segment */
    WAL_SNAPSHOT,   /* u64 index, term, configuration */
    WAL_TYPE_END,
};

enum wal_snapshot_sub {
    WAL_SNAPSHOT_LOCAL = 0, /* the log holds the entry */
    WAL_SNAPSHOT_REPEAT,    /* repeated at the start of a segment */
    WAL_SNAPSHOT_RESET,     /* replaces the log */
};

struct wal_header {
    uint32_t length;
    uint8_t type, flags;
    uint16_t sub;
    uint32_t batch, undurable, prev, crc;
};
static_assert(sizeof(struct wal_header) == WAL_HEADER_BYTES, "written to disk as it is");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "headers are copied as they are");

struct wal_head_payload {
    uint8_t magic[8];
    uint32_t version, reserved;
    uint64_t sequence;
    uint64_t next_index; /* last index + 1 when the segment was begun */
    uint64_t cluster_id, member_id;
    uint64_t batch; /* all 64 bits */
    uint64_t salt;
};
static_assert(sizeof(struct wal_head_payload) == WAL_HEAD_BYTES, "written to disk as it is");

static inline size_t wal_record_bytes(size_t payload)
{
    return (WAL_HEADER_BYTES + payload + 7) & ~(size_t)7;
}

/* ---- wal_format.c ---- */
/* The crc's beginning for a segment; salt 0 for its head. */
uint32_t wal_crc_seed(uint64_t salt, uint64_t sequence);
/* Payload in two parts. `h->crc` is ignored. */
uint32_t wal_crc(uint32_t seed, uint64_t offset, const struct wal_header *h, struct bytes a,
                 struct bytes b);
void wal_segment_name(char name[WAL_NAME_MAX], uint64_t sequence, uint64_t first_index);
void wal_snap_name(char name[WAL_NAME_MAX], uint64_t term, uint64_t index);
/* Exactly what the above print, with `suffix` (".wal"); false: something else. */
bool wal_name_parse(const char *name, const char *suffix, uint64_t *ret_a, uint64_t *ret_b);
void wal_error_set(struct wal_error *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---- wal_cursor.c: a window over one segment, for reading records ---- */
struct wal_cursor {
    const struct wal_io *io;
    int file;
    uint64_t file_bytes;
    uint64_t start; /* file offset of window.data[0] */
    struct buf window;
};
enum wal_found {
    WAL_FOUND_RECORD,  /* verified */
    WAL_FOUND_NOTHING, /* a header of zeros, or the end of the file */
    WAL_FOUND_DAMAGE,
};
struct wal_record {
    struct wal_header header;
    struct bytes payload; /* borrowed until the cursor is used again */
    uint64_t offset, end; /* end: where the next one starts */
};
int wal_cursor_open(struct wal_cursor *c, const struct wal_io *io, const char *path);
void wal_cursor_close(struct wal_cursor *c);
/* Bytes at offset, `len` of them or what the file has; borrowed until the next call. */
int wal_cursor_bytes(struct wal_cursor *c, uint64_t offset, size_t len, struct bytes *ret);
/* An enum wal_found, or negative errno. For RECORD and DAMAGE, `ret->header` is what was read. */
int wal_cursor_record(struct wal_cursor *c, uint32_t seed, uint64_t offset, struct wal_record *ret);

/* ---- wal_index.c: where entries are ---- */
struct wal_point {
    uint64_t index;
    uint64_t sequence, offset;
};
struct wal_term_run {
    uint64_t first_index, term;
};
/*
 * Live entries lie in the file in index order (writing i drops all above it), so a point per
 * 64 KiB, per segment and per overwritten tail finds any of them. Reading from a point meets only
 * live entries until it reaches the next point's index, and then goes on at that point.
 */
struct wal_index {
    uint64_t first, last; /* live entries; none when last < first, then last + 1 comes next */
    struct wal_point *points;
    size_t point_count, point_cap;
    struct wal_term_run *runs;
    size_t run_count, run_cap;
};
void wal_index_fini(struct wal_index *x);
/* Starts over: no entries, `last` is the newest index that exists elsewhere. */
void wal_index_reset(struct wal_index *x, uint64_t last);
/* An entry is at this place; replaces those at and above its index. */
void wal_index_add(struct wal_index *x, uint64_t index, uint64_t term, uint64_t sequence,
                   uint64_t offset);
bool wal_index_term(const struct wal_index *x, uint64_t index, uint64_t *ret_term);
/* The last point at or below index (which is live); its number in points. */
size_t wal_index_find(const struct wal_index *x, uint64_t index);
/* Forgets what lies in segments before `sequence`. */
void wal_index_drop_before(struct wal_index *x, uint64_t sequence);

/* ---- wal_writer.c: carries out what the encoder decided; on the log's thread, or inline ---- */
enum wal_op_kind {
    WAL_OP_WRITE,  /* data at offset of segment `sequence`; offset 0: a new segment */
    WAL_OP_SNAP,   /* a .snap file: data, names term and index; then only snap_keep stay */
    WAL_OP_UNLINK, /* a segment */
};
struct wal_op {
    enum wal_op_kind kind;
    uint64_t sequence, first_index; /* or term, index */
    uint64_t offset, segment_bytes;
    struct buf data;
};
struct wal_queue { /* ops beyond count keep their buffers for reuse */
    struct wal_op *ops;
    size_t count, cap;
    uint64_t batch; /* newest batch in it, 0: none */
    uint64_t end_sequence, end_offset;
    size_t bytes;
};
void wal_queue_fini(struct wal_queue *q);
void wal_queue_clear(struct wal_queue *q); /* keeps small buffers */
struct wal_op *wal_queue_add(struct wal_queue *q, enum wal_op_kind kind);
/* Moves everything of `from` behind `to`, joining writes that follow each other. */
void wal_queue_move(struct wal_queue *to, struct wal_queue *from);

struct wal_writer {
    const struct wal_io *io;
    char *wal_dir, *snap_dir;
    uint64_t segment_bytes;
    unsigned int snap_keep;
    bool no_fsync;
    int file; /* the segment written to, -1: none */
    bool dirty;
    bool no_write_sync; /* not to be had here */
    /* for write_sync: the block that the next write begins in, as far as it is written */
    uint8_t *block; /* aligned; the blocks of one write are put together here */
    size_t block_cap;
    uint64_t block_end; /* file offset up to which block[0] holds the file's bytes; 0: unknown */
    uint64_t segments_cut, bytes_written;
    /* Gives a prepared empty file of segment_bytes, its path in `ret_path` (PATH_MAX), or -EAGAIN:
     * make one yourself. NULL: always make one. */
    int (*take_prepared)(void *user, char *ret_path);
    void *prepared_user;
};
void wal_writer_init(struct wal_writer *w, const struct wal_options *o);
void wal_writer_fini(struct wal_writer *w);
/* All ops of the queue in order; then a sync when `sync` and something is unsynced. */
int wal_writer_run(struct wal_writer *w, const struct wal_queue *q, bool sync,
                   const char **ret_what);
/* Creates and zeroes a file for a later segment: its number. */
int wal_writer_prepare(const struct wal_io *io, const char *path, uint64_t bytes);
/* <wal_dir>/<name>; the result fits PATH_MAX or it is -ENAMETOOLONG. */
int wal_path(char *ret_path, const char *dir, const char *name);

/* ---- wal.c ---- */
struct wal_segment {
    uint64_t sequence, first_index;
};
struct wal {
    struct wal_options options; /* strings owned */
    struct wal_info info;
    struct buf conf; /* of info.snapshot */
    struct wal_index index;
    struct wal_segment *segments; /* oldest first; the last one is written to */
    size_t segment_count, segment_cap;

    /* encoder: where the next record goes */
    uint64_t salt;
    uint32_t seed; /* of the last segment */
    uint32_t chain;
    uint64_t offset, capacity;
    uint64_t batch;   /* newest encoded */
    uint64_t durable; /* newest known durable */

    /* records before this place have been written */
    uint64_t written_sequence, written_offset;

    struct wal_queue queue; /* of wal_append and wal_trim */
    struct wal_writer writer;
    bool broken, threaded;

    struct wal_cursor reader; /* segment reader_sequence, when reader.file >= 0 */
    uint64_t reader_sequence;
    struct wal_error read_error;
};

struct wal *wal_new(const struct wal_options *o);
void wal_segment_add(struct wal *w, uint64_t sequence, uint64_t first_index);
uint32_t wal_segment_seed(const struct wal *w, uint64_t sequence);
/* Takes a marker into w->info. */
void wal_set_snapshot(struct wal *w, const struct wal_snapshot *s);
/* Encodes a batch behind what is encoded, adding ops to the queue. */
void wal_encode(struct wal *w, const struct wal_batch *batch, struct wal_queue *q);
/* What wal_trim decides: adds unlink ops. */
void wal_encode_trim(struct wal *w, uint64_t index, struct wal_queue *q);
/* The queue's writes were carried out, and are durable. */
void wal_completed(struct wal *w, uint64_t batch, uint64_t end_sequence, uint64_t end_offset,
                   bool durable);

/* ---- wal_recover.c ---- */
int wal_recover(struct wal *w, const struct wal_metadata *expect, struct wal_error *err);
/* ---- wal_snap.c ---- */
int wal_snap_write(struct wal_writer *w, uint64_t term, uint64_t index, struct bytes body);
void wal_snap_encode(struct buf *b, const struct wal_metadata *m, const struct wal_snapshot *s);
int wal_snap_purge(struct wal_writer *w);

#endif
