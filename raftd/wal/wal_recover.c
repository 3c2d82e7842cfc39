/*
 * Opening a log: read every segment, check every record and the chain between them, rebuild the
 * index, and decide what damage means.
 *
 * In a segment that is not the last one, anything but whole batches up to its end is damage: it
 * was synced to its end before the next one got its name. In the last one, let b be the number of
 * the first batch that is not whole, and p where its first unreadable record is.
 *   - A readable record behind p whose encoder knew b to be durable proves that b was complete:
 *     damage.
 *   - A record at p that looks complete, in that no 512-byte sector of it ends in zeros, was not
 *     torn, because what never arrived is zero: damage. (This cannot catch all damage in the very
 *     last batch; a sector that was all zeros anyway looks missing.)
 *   - Otherwise b was never durable, so nobody was told of it: it is cut, the bytes from its start
 *     are zeroed and synced, and the next batch goes there.
 * With unsafe-no-fsync a crash of the machine may leave what this calls damage; that is its price.
 */
#include "raftd/wal/wal_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include "lib/util/xmalloc.h"

struct replay {
    struct wal *w;
    const struct wal_metadata *expect;
    struct wal_error *err;
    struct wal_cursor cursor;
    char name[WAL_NAME_MAX];
    bool oldest; /* the segment that is read is the first one there is */

    /* the batch that is being read, applied when its last record is */
    struct wal_record *records; /* payloads unset, but for their length */
    size_t record_count, record_cap;
    uint64_t batch_offset;
    uint32_t batch_prev; /* chain before it */
};

static int damaged(struct replay *rp, uint64_t offset, const char *what)
{
    wal_error_set(rp->err, "%s/%s: offset %" PRIu64 ": %s", rp->w->options.wal_dir, rp->name,
                  offset, what);
    return -EBADMSG;
}

static int failed(struct replay *rp, int r)
{
    wal_error_set(rp->err, "%s/%s: %s", rp->w->options.wal_dir, rp->name, strerror(-r));
    return r;
}

/* ---- one record, after its batch proved whole ---- */

static int apply_head(struct replay *rp, const struct wal_record *rec)
{
    struct wal *w = rp->w;
    const struct wal_segment *s = &w->segments[w->segment_count - 1];
    struct wal_head_payload head;

    memcpy(&head, rec->payload.data, sizeof(head));
    if (head.next_index != s->first_index)
        return damaged(rp, rec->offset, "segment head does not match the file's name");
    if (rp->oldest) {
        w->info.metadata = (struct wal_metadata){head.cluster_id, head.member_id};
        wal_index_reset(&w->index, head.next_index - 1);
    } else if (head.cluster_id != w->info.metadata.cluster_id ||
               head.member_id != w->info.metadata.member_id) {
        return damaged(rp, rec->offset, "segment of another member between this member's");
    } else if (head.next_index != w->index.last + 1) {
        return damaged(rp, rec->offset, "segment head does not continue the one before");
    }
    return 0;
}

static int apply_entry(struct replay *rp, const struct wal_record *rec)
{
    struct wal *w = rp->w;
    uint64_t index, term, last_term;

    memcpy(&index, rec->payload.data, sizeof(index));
    memcpy(&term, rec->payload.data + 8, sizeof(term));
    if (index == 0 || term == 0 || index > w->index.last + 1)
        return damaged(rp, rec->offset, "entry does not follow the one before");
    if (index <= w->info.hard_state.commit)
        return damaged(rp, rec->offset, "entry replaces a committed one");
    if (wal_index_term(&w->index, index - 1, &last_term) && term < last_term)
        return damaged(rp, rec->offset, "entry of a lower term than the one before");
    wal_index_add(&w->index, index, term, w->segments[w->segment_count - 1].sequence, rec->offset);
    return 0;
}

static int apply_hard_state(struct replay *rp, const struct wal_record *rec)
{
    struct wal_hard_state *hs = &rp->w->info.hard_state;
    uint64_t fixed[3];

    memcpy(fixed, rec->payload.data, sizeof(fixed));
    if (fixed[0] < hs->term || fixed[2] < hs->commit)
        return damaged(rp, rec->offset, "hard state goes backwards");
    if (fixed[2] > rp->w->index.last)
        return damaged(rp, rec->offset, "hard state commits an entry that is missing");
    *hs = (struct wal_hard_state){fixed[0], fixed[1], fixed[2]};
    return 0;
}

static int apply_snapshot(struct replay *rp, const struct wal_record *rec)
{
    struct wal *w = rp->w;
    struct wal_snapshot s = {.conf = bytes_of(rec->payload.data + 16, rec->payload.len - 16)};
    uint64_t term;

    memcpy(&s.index, rec->payload.data, sizeof(s.index));
    memcpy(&s.term, rec->payload.data + 8, sizeof(s.term));
    if (s.index < w->info.snapshot.index)
        return damaged(rp, rec->offset, "snapshot marker goes backwards");
    switch (rec->header.sub) {
    case WAL_SNAPSHOT_REPEAT:
        if (!rp->oldest && (s.index != w->info.snapshot.index || s.term != w->info.snapshot.term))
            return damaged(rp, rec->offset, "repeated snapshot marker differs");
        break;
    case WAL_SNAPSHOT_LOCAL:
        if (s.index > w->index.last ||
            (wal_index_term(&w->index, s.index, &term) && term != s.term))
            return damaged(rp, rec->offset, "snapshot marker without its entry");
        break;
    case WAL_SNAPSHOT_RESET:
        wal_index_reset(&w->index, s.index);
        break;
    default:
        return damaged(rp, rec->offset, "snapshot marker of an unknown kind");
    }
    wal_set_snapshot(w, &s);
    return 0;
}

static int apply_batch(struct replay *rp)
{
    for (size_t i = 0; i < rp->record_count; i++) {
        struct wal_record *rec = &rp->records[i];
        struct bytes v;
        int r =
            wal_cursor_bytes(&rp->cursor, rec->offset + WAL_HEADER_BYTES, rec->header.length, &v);

        if (r < 0)
            return failed(rp, r);
        rec->payload = v;
        switch ((enum wal_record_type)rec->header.type) {
        case WAL_HEAD:
            r = apply_head(rp, rec);
            break;
        case WAL_ENTRY:
            r = apply_entry(rp, rec);
            break;
        case WAL_HARD_STATE:
            r = apply_hard_state(rp, rec);
            break;
        case WAL_SNAPSHOT:
            r = apply_snapshot(rp, rec);
            break;
        case WAL_TYPE_END:
            PANIC("record type passed the check");
        }
        if (r < 0)
            return r;
    }
    rp->record_count = 0;
    return 0;
}

/* ---- records one after the other ---- */

static size_t payload_min(unsigned int type)
{
    static const size_t min[WAL_TYPE_END] = {
        [WAL_HEAD] = WAL_HEAD_BYTES,
        [WAL_ENTRY] = 16,
        [WAL_HARD_STATE] = 24,
        [WAL_SNAPSHOT] = 16,
    };

    return min[type];
}

/* A verified record: does it belong here? It says so itself or somebody wrote nonsense. */
static int check_place(struct replay *rp, const struct wal_record *rec)
{
    const struct wal *w = rp->w;
    const struct wal_header *h = &rec->header;

    if (h->length < payload_min(h->type))
        return damaged(rp, rec->offset, "record too short for its type");
    if ((h->type == WAL_HEAD) != (rec->offset == 0))
        return damaged(rp, rec->offset, "segment head out of place");
    if (h->prev != w->chain)
        return damaged(rp, rec->offset, "record does not continue the chain");
    if (h->batch != (uint32_t)w->batch)
        return damaged(rp, rec->offset, "record out of sequence");
    return 0;
}

static void batch_begin(struct replay *rp, uint64_t offset)
{
    rp->record_count = 0;
    rp->batch_offset = offset;
    rp->batch_prev = rp->w->chain;
    rp->w->batch++;
}

static int take_record(struct replay *rp, struct wal_record *rec)
{
    struct wal *w = rp->w;
    int r;

    if (rp->record_count == 0)
        batch_begin(rp, rec->offset);
    r = check_place(rp, rec);
    if (r < 0)
        return r;
    if (rp->record_count == rp->record_cap) {
        rp->record_cap = MAX(2 * rp->record_cap, (size_t)64);
        rp->records = xreallocarray(rp->records, rp->record_cap, sizeof(*rp->records));
    }
    rec->payload = BYTES_EMPTY;
    rp->records[rp->record_count++] = *rec;
    w->chain = rec->header.crc;
    w->offset = rec->end;
    return (rec->header.flags & WAL_LAST) != 0 ? apply_batch(rp) : 0;
}

/* The head tells the salt and the format, and goes first. */
static int read_head(struct replay *rp, struct wal_record *rec)
{
    struct wal *w = rp->w;
    const struct wal_segment *s = &w->segments[w->segment_count - 1];
    struct wal_head_payload head;
    int r = wal_cursor_record(&rp->cursor, wal_crc_seed(0, s->sequence), 0, rec);

    if (r < 0)
        return failed(rp, r);
    if (r != WAL_FOUND_RECORD || rec->header.type != WAL_HEAD ||
        rec->header.length < WAL_HEAD_BYTES)
        return damaged(rp, 0, "no readable segment head");
    memcpy(&head, rec->payload.data, sizeof(head));
    if (memcmp(head.magic, WAL_MAGIC, sizeof(head.magic)) != 0)
        return damaged(rp, 0, "not a log segment");
    if (head.version != WAL_FORMAT_VERSION) {
        wal_error_set(rp->err, "%s/%s: format version %" PRIu32 ", this program reads %d",
                      w->options.wal_dir, rp->name, head.version, WAL_FORMAT_VERSION);
        return -EPROTO;
    }
    if (head.sequence != s->sequence)
        return damaged(rp, 0, "segment head does not match the file's name");
    if (rp->oldest) {
        w->salt = head.salt;
        w->chain = rec->header.prev;
        w->batch = head.batch - 1;
    } else if (head.salt != w->salt || head.batch != w->batch + 1) {
        return damaged(rp, 0, "segment head does not continue the one before");
    } else if (rec->header.prev != w->chain) {
        return damaged(rp, 0, "records are missing between this segment and the one before");
    }
    if (rp->oldest && rp->expect != NULL &&
        (head.cluster_id != rp->expect->cluster_id || head.member_id != rp->expect->member_id)) {
        wal_error_set(rp->err,
                      "%s/%s: the log is of member %" PRIx64 " of cluster %" PRIx64
                      ", not of member %" PRIx64 " of cluster %" PRIx64,
                      w->options.wal_dir, rp->name, head.member_id, head.cluster_id,
                      rp->expect->member_id, rp->expect->cluster_id);
        return -EXDEV;
    }
    w->seed = wal_segment_seed(w, s->sequence);
    return 0;
}

/* ---- damage ---- */

/* Did a sector of [from, to) never arrive? What is missing reads as zero up to the sector's end. */
static int sector_missing(struct replay *rp, uint64_t from, uint64_t to, bool *ret)
{
    *ret = true;
    while (from < to) {
        uint64_t end = MIN(to, (from / WAL_SECTOR_BYTES + 1) * WAL_SECTOR_BYTES);
        struct bytes v;
        int r = wal_cursor_bytes(&rp->cursor, end - 1, 1, &v);

        if (r < 0)
            return failed(rp, r);
        if (v.len == 0 || v.data[0] == 0)
            return 0;
        from = end;
    }
    *ret = false;
    return 0;
}

/* Where the file's last byte that is not zero ends. */
static int find_content_end(struct replay *rp, uint64_t from, uint64_t *ret)
{
    enum { STEP = 64 << 10 };

    *ret = from;
    for (uint64_t at = from; at < rp->cursor.file_bytes; at += STEP) {
        struct bytes v;
        int r = wal_cursor_bytes(&rp->cursor, at, STEP, &v);

        if (r < 0)
            return failed(rp, r);
        /* a run of zeros equals itself one byte on */
        if (v.len == 0 || (v.data[0] == 0 && memcmp(v.data, v.data + 1, v.len - 1) == 0))
            continue;
        for (size_t i = v.len; i > 0; i--)
            if (v.data[i - 1] != 0) {
                *ret = at + i;
                break;
            }
    }
    return 0;
}

/* A readable record behind `bad` that was encoded when `batch` was known durable. */
static int find_proof(struct replay *rp, uint64_t bad, uint64_t end, uint64_t batch)
{
    for (uint64_t at = bad + 8; at + WAL_HEADER_BYTES <= end; at += 8) {
        struct wal_record rec;
        uint32_t durable;
        int r;
        struct bytes v;

        r = wal_cursor_bytes(&rp->cursor, at, WAL_HEADER_BYTES, &v);
        if (r < 0)
            return failed(rp, r);
        if (v.len < WAL_HEADER_BYTES)
            break;
        memcpy(&rec.header, v.data, sizeof(rec.header));
        durable = rec.header.batch - rec.header.undurable;
        if (rec.header.undurable == 0 || (int32_t)(durable - (uint32_t)batch) < 0 ||
            rec.header.type == WAL_HEAD)
            continue; /* proves nothing, or is no record */
        r = wal_cursor_record(&rp->cursor, rp->w->seed, at, &rec);
        if (r < 0)
            return failed(rp, r);
        if (r == WAL_FOUND_RECORD) {
            char text[128];

            snprintf(text, sizeof(text),
                     "damaged record, and the record at offset %" PRIu64
                     " shows that it was durable",
                     at);
            return damaged(rp, bad, text);
        }
    }
    return 0;
}

static int zero_range(struct replay *rp, uint64_t from, uint64_t to)
{
    const struct wal_io *io = rp->w->options.io;
    size_t chunk = (size_t)MIN(to - from, (uint64_t)(1 << 20));
    CLEANUP(freep) uint8_t *zeros = xcalloc(1, chunk);
    int r = 0;

    while (r == 0 && from < to) {
        size_t n = (size_t)MIN(to - from, (uint64_t)chunk);

        r = io->ops->pwrite(io->user, rp->cursor.file, zeros, n, from);
        from += n;
    }
    return r;
}

/* Everything from the first unreadable record of the last segment on: torn, or damage? */
static int repair_tail(struct replay *rp, const struct wal_record *bad, enum wal_found found)
{
    struct wal *w = rp->w;
    bool open = rp->record_count != 0; /* a batch has begun and not ended */
    uint64_t batch = open ? w->batch : w->batch + 1;
    uint64_t cut = open ? rp->batch_offset : bad->offset;
    uint64_t end;
    int r = find_content_end(rp, cut, &end);

    if (r < 0)
        return r;
    r = find_proof(rp, bad->offset, end, batch);
    if (r < 0)
        return r;
    if (found == WAL_FOUND_DAMAGE) {
        uint64_t header_end = bad->offset + WAL_HEADER_BYTES;
        const struct wal_header *h = &bad->header;
        bool missing;

        r = sector_missing(rp, bad->offset, header_end, &missing);
        if (r == 0 && !missing && h->type != 0 && h->type < WAL_TYPE_END &&
            header_end + h->length > end)
            missing = true;
        else if (r == 0 && !missing && h->type != 0 && h->type < WAL_TYPE_END)
            r = sector_missing(rp, header_end, header_end + h->length, &missing);
        if (r < 0)
            return r;
        if (!missing)
            return damaged(rp, bad->offset, "damaged record that was written to its end");
    }
    if (cut == 0)
        return damaged(rp, bad->offset, "segment without one whole batch");
    if (open) {
        w->batch--;
        w->chain = rp->batch_prev;
        rp->record_count = 0;
    }
    w->offset = cut;
    if (end == cut)
        return 0;
    w->info.repaired_bytes = end - cut;
    w->info.repaired_offset = cut;
    snprintf(w->info.repaired_file, sizeof(w->info.repaired_file), "%s", rp->name);
    r = zero_range(rp, cut, MIN(end, rp->cursor.file_bytes));
    return r < 0 ? failed(rp, r) : 0;
}

/* ---- segments ---- */

static int read_segment(struct replay *rp, const struct wal_segment *s, bool newest)
{
    struct wal *w = rp->w;
    const struct wal_io *io = w->options.io;
    struct wal_record rec;
    char path[PATH_MAX];
    int r;

    wal_segment_name(rp->name, s->sequence, s->first_index);
    wal_segment_add(w, s->sequence, s->first_index);
    r = wal_path(path, w->options.wal_dir, rp->name);
    if (r == 0)
        r = wal_cursor_open(&rp->cursor, io, path);
    if (r < 0)
        return failed(rp, r);
    w->offset = 0;
    r = read_head(rp, &rec);
    if (r == 0)
        r = take_record(rp, &rec);
    while (r == 0) {
        r = wal_cursor_record(&rp->cursor, w->seed, w->offset, &rec);
        if (r < 0)
            return failed(rp, r);
        if (r != WAL_FOUND_RECORD)
            break;
        r = take_record(rp, &rec);
    }
    if (r < 0)
        return r;
    if (newest) {
        r = repair_tail(rp, &rec, (enum wal_found)r);
        if (r < 0)
            return r;
        w->capacity = rp->cursor.file_bytes;
        w->writer.file = rp->cursor.file; /* moves to the writer */
        rp->cursor.file = -1;
        /* what was read may never have been synced, and is built upon from now on */
        r = w->options.unsafe_no_fsync ? 0 : io->ops->fdatasync(io->user, w->writer.file);
        if (r == 0 && !w->options.unsafe_no_fsync)
            r = io->ops->sync_dir(io->user, w->options.wal_dir);
        if (r < 0)
            return failed(rp, r);
    } else if (r == WAL_FOUND_DAMAGE || rp->record_count != 0) {
        return damaged(rp, w->offset, "damaged record in a segment that was synced to its end");
    }
    wal_cursor_close(&rp->cursor);
    rp->oldest = false;
    return 0;
}

struct listing {
    struct wal_segment *items;
    size_t count, cap;
    struct wal *w; /* remove leftovers of cuts and preparations; NULL: do not */
};

static void collect(void *arg, const char *name)
{
    struct listing *l = arg;
    size_t len = strlen(name);
    uint64_t sequence, first_index;
    char path[PATH_MAX];

    if (len > 4 && strcmp(name + len - 4, ".tmp") == 0 && l->w != NULL) {
        if (wal_path(path, l->w->options.wal_dir, name) == 0)
            l->w->options.io->ops->unlink(l->w->options.io->user, path);
        return;
    }
    if (!wal_name_parse(name, ".wal", &sequence, &first_index))
        return;
    if (l->count == l->cap) {
        l->cap = MAX(2 * l->cap, (size_t)8);
        l->items = xreallocarray(l->items, l->cap, sizeof(*l->items));
    }
    l->items[l->count++] = (struct wal_segment){sequence, first_index};
}

static int by_sequence(const void *a, const void *b)
{
    const struct wal_segment *x = a, *y = b;

    return x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

static int check_whole(struct replay *rp)
{
    const struct wal *w = rp->w;

    if (w->info.snapshot.index + 1 < w->index.first) {
        wal_error_set(rp->err,
                      "%s: entries %" PRIu64 " to %" PRIu64
                      " are missing: older segments were removed",
                      w->options.wal_dir, w->info.snapshot.index + 1, w->index.first - 1);
        return -EBADMSG;
    }
    return 0;
}

/* A marker file that is not there is made again: the marker in the log is what counts. */
static int restore_snap_file(struct wal *w)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;
    char path[PATH_MAX], name[WAL_NAME_MAX];
    const struct wal_io *io = w->options.io;
    int file, r;

    if (w->options.snap_dir == NULL)
        return 0;
    r = io->ops->mkdir(io->user, w->options.snap_dir);
    if (r < 0 || w->info.snapshot.index == 0)
        return r;
    wal_snap_name(name, w->info.snapshot.term, w->info.snapshot.index);
    r = wal_path(path, w->options.snap_dir, name);
    if (r < 0)
        return r;
    file = io->ops->open(io->user, path);
    if (file >= 0) {
        io->ops->close(io->user, file);
        return 0;
    }
    if (file != -ENOENT)
        return file;
    wal_snap_encode(&body, &w->info.metadata, &w->info.snapshot);
    return wal_snap_write(&w->writer, w->info.snapshot.term, w->info.snapshot.index,
                          buf_bytes(&body));
}

static int replay_all(struct replay *rp, struct listing *l)
{
    struct wal *w = rp->w;
    int r = w->options.io->ops->list(w->options.io->user, w->options.wal_dir, collect, l);

    if (r == 0 && l->count == 0)
        r = -ENOENT;
    if (r < 0) {
        wal_error_set(rp->err, "%s: %s", w->options.wal_dir, strerror(-r));
        return r;
    }
    qsort(l->items, l->count, sizeof(*l->items), by_sequence);
    for (size_t i = 0; i < l->count; i++) {
        if (i > 0 && l->items[i].sequence != l->items[i - 1].sequence + 1) {
            wal_segment_name(rp->name, l->items[i].sequence, l->items[i].first_index);
            return damaged(rp, 0, "the segment before this one is missing");
        }
        r = read_segment(rp, &l->items[i], i + 1 == l->count);
        if (r < 0)
            return r;
    }
    r = check_whole(rp);
    if (r < 0)
        return r;
    r = restore_snap_file(w);
    if (r < 0)
        wal_error_set(rp->err, "%s: %s", w->options.snap_dir, strerror(-r));
    return r;
}

int wal_recover(struct wal *w, const struct wal_metadata *expect, struct wal_error *err)
{
    struct replay rp = {.w = w, .expect = expect, .err = err, .oldest = true};
    struct listing l = {.w = w};
    int r;

    rp.cursor.file = -1;
    r = replay_all(&rp, &l);
    wal_cursor_close(&rp.cursor);
    free(rp.records);
    free(l.items);
    if (r < 0)
        return r;
    w->durable = w->batch;
    w->written_sequence = w->segments[w->segment_count - 1].sequence;
    w->written_offset = w->offset;
    w->info.first_index = w->index.first;
    w->info.last_index = w->index.last;
    return 0;
}

int wal_open(const struct wal_options *o, const struct wal_metadata *expect, struct wal **ret,
             struct wal_error *err)
{
    struct wal *w = wal_new(o);
    int r = wal_recover(w, expect, err);

    if (r < 0) {
        wal_close(w);
        return r;
    }
    *ret = w;
    return 0;
}

int wal_exists(const struct wal_options *o)
{
    const struct wal_io *io = o->io != NULL ? o->io : &wal_io_posix;
    struct listing l = {NULL, 0, 0, NULL};
    int r = io->ops->list(io->user, o->wal_dir, collect, &l);

    free(l.items);
    if (r == -ENOENT)
        return 0;
    return r < 0 ? r : l.count > 0;
}
