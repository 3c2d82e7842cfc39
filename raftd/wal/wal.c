/*
 * The log as its owner sees it: what it holds (wal_info), the encoder that decides where each
 * record goes, and reading entries back. Carrying out the writes is wal_writer.c's, opening is
 * wal_recover.c's.
 *
 * The encoder runs ahead of the disk: w->info and w->index describe everything encoded, while
 * `written` and `durable` follow behind. Reading stops at `written`.
 */
#include "raftd/wal/wal_internal.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/random.h>
#include "lib/util/xmalloc.h"

/* A new member is up sooner, and needs less disk while it holds little. */
enum { FIRST_SEGMENT_BYTES = 8 << 20 };

struct wal *wal_new(const struct wal_options *o)
{
    struct wal *w = xcalloc(1, sizeof(*w));

    assert(o->wal_dir != NULL);
    w->options = *o;
    if (w->options.io == NULL)
        w->options.io = &wal_io_posix;
    if (w->options.segment_bytes == 0)
        w->options.segment_bytes = WAL_SEGMENT_BYTES_DEFAULT;
    assert(w->options.segment_bytes >= WAL_SEGMENT_BYTES_MIN);
    if (w->options.snap_keep == 0)
        w->options.snap_keep = WAL_SNAP_KEEP_DEFAULT;
    wal_writer_init(&w->writer, &w->options);
    w->options.wal_dir = w->writer.wal_dir;
    w->options.snap_dir = w->writer.snap_dir;
    wal_index_reset(&w->index, 0);
    w->info.first_index = 1;
    w->reader.file = -1;
    return w;
}

void wal_close(struct wal *w)
{
    if (w == NULL)
        return;
    assert(!w->threaded);
    wal_queue_fini(&w->queue);
    wal_writer_fini(&w->writer);
    wal_index_fini(&w->index);
    wal_cursor_close(&w->reader);
    buf_fini(&w->conf);
    free(w->segments);
    free(w);
}

const struct wal_info *wal_info(const struct wal *w)
{
    return &w->info;
}

void wal_segment_add(struct wal *w, uint64_t sequence, uint64_t first_index)
{
    assert(w->segment_count == 0 || w->segments[w->segment_count - 1].sequence + 1 == sequence);
    if (w->segment_count == w->segment_cap) {
        w->segment_cap = MAX(2 * w->segment_cap, (size_t)8);
        w->segments = xreallocarray(w->segments, w->segment_cap, sizeof(*w->segments));
    }
    w->segments[w->segment_count++] = (struct wal_segment){sequence, first_index};
    w->info.segment_count = (unsigned int)w->segment_count;
}

uint32_t wal_segment_seed(const struct wal *w, uint64_t sequence)
{
    return wal_crc_seed(w->salt, sequence);
}

void wal_set_snapshot(struct wal *w, const struct wal_snapshot *s)
{
    if (s->conf.data != w->conf.data || s->conf.len != w->conf.len) {
        buf_clear(&w->conf);
        buf_append_bytes(&w->conf, s->conf);
    }
    w->info.snapshot = (struct wal_snapshot){s->index, s->term, buf_bytes(&w->conf)};
}

/* ---- the encoder ---- */

struct encoder {
    struct wal *w;
    struct wal_op *op;
    size_t left; /* records of the batch still to come; the last one ends it */
};

static void put_record(struct encoder *e, enum wal_record_type type, unsigned int sub,
                       struct bytes a, struct bytes b)
{
    struct wal *w = e->w;
    size_t payload = a.len + b.len, total = wal_record_bytes(payload);
    struct wal_header h = {
        .length = (uint32_t)payload,
        .type = (uint8_t)type,
        .sub = (uint16_t)sub,
        .batch = (uint32_t)w->batch,
        .undurable = (uint32_t)MIN(w->batch - w->durable, (uint64_t)UINT32_MAX),
        .prev = w->chain,
    };
    uint8_t *p = buf_reserve(&e->op->data, total);

    assert(e->left > 0);
    assert(w->batch > w->durable);
    assert(payload <= UINT32_MAX - WAL_HEADER_BYTES);
    if (--e->left == 0)
        h.flags = WAL_LAST;
    h.crc =
        wal_crc(type == WAL_HEAD ? wal_crc_seed(0, e->op->sequence) : w->seed, w->offset, &h, a, b);
    memcpy(p, &h, sizeof(h));
    if (a.len != 0)
        memcpy(p + sizeof(h), a.data, a.len);
    if (b.len != 0)
        memcpy(p + sizeof(h) + a.len, b.data, b.len);
    memset(p + sizeof(h) + payload, 0, total - sizeof(h) - payload);
    e->op->data.len += total;
    w->chain = h.crc;
    w->offset += total;
}

static void put_snapshot(struct encoder *e, const struct wal_snapshot *s, unsigned int sub)
{
    uint64_t fixed[2] = {s->index, s->term};

    put_record(e, WAL_SNAPSHOT, sub, bytes_of(fixed, sizeof(fixed)), s->conf);
}

static void put_hard_state(struct encoder *e, const struct wal_hard_state *hs, unsigned int sub)
{
    uint64_t fixed[3] = {hs->term, hs->vote, hs->commit};

    put_record(e, WAL_HARD_STATE, sub, bytes_of(fixed, sizeof(fixed)), BYTES_EMPTY);
}

static bool has_hard_state(const struct wal *w)
{
    return w->info.hard_state.term != 0 || w->info.hard_state.vote != 0 ||
           w->info.hard_state.commit != 0;
}

/* The state that lets every segment be the oldest one. */
static void put_head(struct encoder *e)
{
    struct wal *w = e->w;
    struct wal_head_payload head = {
        .version = WAL_FORMAT_VERSION,
        .sequence = e->op->sequence,
        .next_index = e->op->first_index,
        .cluster_id = w->info.metadata.cluster_id,
        .member_id = w->info.metadata.member_id,
        .batch = w->batch,
        .salt = w->salt,
    };

    memcpy(head.magic, WAL_MAGIC, sizeof(head.magic));
    put_record(e, WAL_HEAD, 0, bytes_of(&head, sizeof(head)), BYTES_EMPTY);
    if (w->info.snapshot.index != 0)
        put_snapshot(e, &w->info.snapshot, WAL_SNAPSHOT_REPEAT);
    if (has_hard_state(w))
        put_hard_state(e, &w->info.hard_state, 1);
}

static size_t head_bytes(const struct wal *w)
{
    return wal_record_bytes(WAL_HEAD_BYTES) + wal_record_bytes(16 + w->info.snapshot.conf.len) +
           wal_record_bytes(24);
}

static size_t batch_bytes(const struct wal_batch *batch)
{
    size_t bytes = 0;

    if (batch->snapshot != NULL)
        bytes += wal_record_bytes(16 + batch->snapshot->conf.len);
    for (size_t i = 0; i < batch->entry_count; i++)
        bytes += wal_record_bytes(16 + batch->entries[i].data.len);
    if (batch->hard_state != NULL)
        bytes += wal_record_bytes(24);
    return bytes;
}

/* What the consensus core must never ask for; the same truths are checked when reading. */
static void assert_batch(const struct wal *w, const struct wal_batch *batch)
{
    const struct wal_hard_state *hs = batch->hard_state, *old = &w->info.hard_state;

    if (batch->snapshot != NULL) {
        assert(batch->snapshot->index >= w->info.snapshot.index);
        assert(batch->snapshot->index > 0);
        assert(batch->snapshot->conf.len <= WAL_CONF_BYTES_MAX);
    }
    for (size_t i = 0; i < batch->entry_count; i++) {
        assert(batch->entries[i].data.len <= WAL_ENTRY_BYTES_MAX);
        assert(batch->entries[i].term > 0);
        assert(i == 0 || batch->entries[i].index == batch->entries[i - 1].index + 1);
        assert(i == 0 || batch->entries[i].term >= batch->entries[i - 1].term);
    }
    if (hs != NULL) {
        assert(hs->term >= old->term);
        assert(hs->commit >= old->commit);
    }
}

static void encode_snapshot(struct encoder *e, struct wal_queue *q, const struct wal_snapshot *s)
{
    struct wal *w = e->w;
    uint64_t term;
    bool local = wal_index_term(&w->index, s->index, &term) && term == s->term;

    put_snapshot(e, s, local ? WAL_SNAPSHOT_LOCAL : WAL_SNAPSHOT_RESET);
    if (!local)
        wal_index_reset(&w->index, s->index);
    wal_set_snapshot(w, s);
}

void wal_encode(struct wal *w, const struct wal_batch *batch, struct wal_queue *q)
{
    struct encoder e = {.w = w};
    size_t bytes = batch_bytes(batch), before;
    bool cut = w->segment_count == 0 || w->offset + bytes > w->capacity;

    if (bytes == 0 && w->segment_count != 0)
        return;
    assert(!w->broken);
    assert_batch(w, batch);
    w->batch++;
    e.left = (batch->snapshot != NULL) + batch->entry_count + (batch->hard_state != NULL);

    if (batch->snapshot != NULL && w->options.snap_dir != NULL) {
        struct wal_op *op = wal_queue_add(q, WAL_OP_SNAP);

        op->sequence = batch->snapshot->term;
        op->first_index = batch->snapshot->index;
        wal_snap_encode(&op->data, &w->info.metadata, batch->snapshot);
    }
    if (cut) {
        uint64_t sequence =
            w->segment_count != 0 ? w->segments[w->segment_count - 1].sequence + 1 : 0;

        wal_segment_add(w, sequence, w->index.last + 1);
        w->offset = 0;
        w->seed = wal_segment_seed(w, sequence);
        w->capacity = w->options.segment_bytes;
        if (sequence == 0)
            w->capacity = MIN(w->capacity, (uint64_t)FIRST_SEGMENT_BYTES);
        w->capacity = MAX(w->capacity, (uint64_t)(head_bytes(w) + bytes));
        e.left += 1 + (w->info.snapshot.index != 0) + has_hard_state(w);
    }
    e.op = q->count != 0 ? &q->ops[q->count - 1] : NULL;
    if (cut || e.op == NULL || e.op->kind != WAL_OP_WRITE) {
        const struct wal_segment *s = &w->segments[w->segment_count - 1];

        e.op = wal_queue_add(q, WAL_OP_WRITE);
        e.op->sequence = s->sequence;
        e.op->first_index = s->first_index;
        e.op->offset = w->offset;
        e.op->segment_bytes = w->capacity;
    }
    before = e.op->data.len;
    if (cut)
        put_head(&e);
    if (batch->snapshot != NULL)
        encode_snapshot(&e, q, batch->snapshot);
    assert(batch->entry_count == 0 || batch->entries[0].index <= w->index.last + 1);
    assert(batch->entry_count == 0 || batch->entries[0].index > w->info.hard_state.commit);
    for (size_t i = 0; i < batch->entry_count; i++) {
        const struct wal_entry *entry = &batch->entries[i];
        uint64_t fixed[2] = {entry->index, entry->term};

        wal_index_add(&w->index, entry->index, entry->term, e.op->sequence, w->offset);
        put_record(&e, WAL_ENTRY, entry->type, bytes_of(fixed, sizeof(fixed)), entry->data);
    }
    if (batch->hard_state != NULL) {
        assert(batch->hard_state->commit <= w->index.last);
        put_hard_state(&e, batch->hard_state, 0);
        w->info.hard_state = *batch->hard_state;
    }
    assert(e.left == 0);
    w->info.first_index = w->index.first;
    w->info.last_index = w->index.last;
    q->bytes += e.op->data.len - before;
    q->batch = w->batch;
    q->end_sequence = e.op->sequence;
    q->end_offset = w->offset;
}

void wal_encode_trim(struct wal *w, uint64_t index, struct wal_queue *q)
{
    uint64_t keep = w->segments[w->segment_count - 1].sequence;
    size_t gone = 0;

    index = MIN(index, w->info.snapshot.index + 1);
    if (index <= w->index.first && w->index.first <= w->index.last)
        index = w->index.first;
    if (index >= w->index.first && index <= w->index.last)
        keep = w->index.points[wal_index_find(&w->index, index)].sequence;
    while (w->segments[gone].sequence < keep) {
        struct wal_op *op = wal_queue_add(q, WAL_OP_UNLINK);

        op->sequence = w->segments[gone].sequence;
        op->first_index = w->segments[gone].first_index;
        gone++;
    }
    if (gone == 0)
        return;
    w->segment_count -= gone;
    memmove(w->segments, w->segments + gone, w->segment_count * sizeof(*w->segments));
    w->info.segment_count = (unsigned int)w->segment_count;
    wal_index_drop_before(&w->index, keep);
    w->info.first_index = w->index.first;
}

void wal_completed(struct wal *w, uint64_t batch, uint64_t end_sequence, uint64_t end_offset,
                   bool durable)
{
    assert(batch <= w->batch);
    if (batch == 0)
        return; /* only removals */
    w->written_sequence = end_sequence;
    w->written_offset = end_offset;
    if (durable) {
        assert(batch >= w->durable);
        w->durable = batch;
    }
}

/* ---- use without a thread ---- */

static int run_queue(struct wal *w, bool sync)
{
    const char *what;
    int r = wal_writer_run(&w->writer, &w->queue, sync, &what);

    if (r < 0) {
        w->broken = true;
        wal_error_set(&w->read_error, "%s in %s: %s", what, w->options.wal_dir, strerror(-r));
        return r;
    }
    if (w->queue.batch != 0)
        wal_completed(w, w->queue.batch, w->queue.end_sequence, w->queue.end_offset,
                      !w->writer.dirty);
    wal_queue_clear(&w->queue);
    return 0;
}

int wal_append(struct wal *w, const struct wal_batch *batch, bool sync)
{
    assert(!w->threaded);
    if (w->broken)
        return -EIO;
    wal_encode(w, batch, &w->queue);
    return run_queue(w, sync);
}

int wal_trim(struct wal *w, uint64_t index)
{
    assert(!w->threaded);
    if (w->broken)
        return -EIO;
    wal_encode_trim(w, index, &w->queue);
    return w->queue.count != 0 ? run_queue(w, false) : 0;
}

/* A name that is lost with the host takes all with it that is synced below. */
static int make_synced_dir(struct wal *w, const char *path)
{
    const struct wal_io *io = w->options.io;
    const char *slash = strrchr(path, '/');
    CLEANUP(freep) char *parent = NULL;
    int r = io->ops->mkdir(io->user, path);

    if (r < 0 || w->options.unsafe_no_fsync)
        return r;
    if (slash == NULL)
        parent = xstrdup(".");
    else
        parent = xstrndup(path, MAX((size_t)(slash - path), (size_t)1));
    return io->ops->sync_dir(io->user, parent);
}

int wal_create(const struct wal_options *o, const struct wal_metadata *m,
               const struct wal_batch *first, struct wal **ret, struct wal_error *err)
{
    static const struct wal_batch nothing;
    struct wal *w = wal_new(o);
    int r = wal_exists(o);

    if (r > 0)
        r = -EEXIST;
    if (r == 0)
        r = make_synced_dir(w, w->options.wal_dir);
    if (r == 0 && w->options.snap_dir != NULL)
        r = make_synced_dir(w, w->options.snap_dir);
    w->salt = w->options.salt;
    while (r == 0 && w->salt == 0)
        if (getrandom(&w->salt, sizeof(w->salt), 0) < 0)
            r = -errno;
    if (r == 0) {
        w->info.metadata = *m;
        r = wal_append(w, first != NULL ? first : &nothing, true);
    }
    if (r < 0) {
        wal_error_set(err, "cannot create a log in %s: %s", w->options.wal_dir, strerror(-r));
        wal_close(w);
        return r;
    }
    *ret = w;
    return 0;
}

/* ---- reading ---- */

void wal_entries_fini(struct wal_entries *e)
{
    free(e->entries);
    buf_fini(&e->data);
    *e = WAL_ENTRIES_INIT;
}

const char *wal_read_error(const struct wal *w)
{
    return w->read_error.text;
}

int wal_entry_term(const struct wal *w, uint64_t index, uint64_t *ret_term)
{
    if (wal_index_term(&w->index, index, ret_term))
        return 0;
    if (index != w->info.snapshot.index)
        return -ENOENT;
    *ret_term = w->info.snapshot.term; /* 0 at index 0 */
    return 0;
}

static int open_reader(struct wal *w, uint64_t sequence, char name[WAL_NAME_MAX])
{
    const struct wal_segment *s;
    char path[PATH_MAX];
    int r;

    assert(sequence >= w->segments[0].sequence);
    s = &w->segments[sequence - w->segments[0].sequence];
    assert(s->sequence == sequence);
    wal_segment_name(name, s->sequence, s->first_index);
    if (w->reader.file >= 0 && w->reader_sequence == sequence)
        return 0;
    wal_cursor_close(&w->reader);
    r = wal_path(path, w->options.wal_dir, name);
    if (r == 0)
        r = wal_cursor_open(&w->reader, w->options.io, path);
    w->reader_sequence = sequence;
    if (r < 0)
        wal_error_set(&w->read_error, "%s: %s", name, strerror(-r));
    return r;
}

static bool is_written(const struct wal *w, uint64_t sequence, uint64_t offset)
{
    return sequence < w->written_sequence ||
           (sequence == w->written_sequence && offset < w->written_offset);
}

static void add_entry(struct wal_entries *e, const struct wal_record *rec, uint64_t index)
{
    uint64_t term;

    memcpy(&term, rec->payload.data + 8, sizeof(term));
    if (e->count == e->cap) {
        e->cap = MAX(2 * e->cap, (size_t)64);
        e->entries = xreallocarray(e->entries, e->cap, sizeof(*e->entries));
    }
    /* e->data may move: pointers are set at the end */
    e->entries[e->count++] =
        (struct wal_entry){index, term, rec->header.sub, {NULL, rec->payload.len - 16}};
    buf_append(&e->data, rec->payload.data + 16, rec->payload.len - 16);
}

/* Reads from a point up to the next one, or until `ret` is full (then 1). */
static int read_run(struct wal *w, size_t point, uint64_t *next, uint64_t hi, size_t max_bytes,
                    struct wal_entries *ret)
{
    const struct wal_point *p = &w->index.points[point];
    uint64_t stop = point + 1 < w->index.point_count ? p[1].index : UINT64_MAX;
    uint64_t offset = p->offset, expect = p->index;
    uint32_t seed = wal_segment_seed(w, p->sequence);
    char name[WAL_NAME_MAX];
    int r = 0;

    while (*next < stop && *next <= hi) {
        struct wal_record rec;
        uint64_t index;

        if (!is_written(w, p->sequence, offset))
            return 1;
        r = open_reader(w, p->sequence, name);
        if (r < 0)
            return r;
        r = wal_cursor_record(&w->reader, seed, offset, &rec);
        if (r >= 0 && r != WAL_FOUND_RECORD) {
            /* the window may hold what was there before the newest writes */
            buf_clear(&w->reader.window);
            r = w->options.io->ops->size(w->options.io->user, w->reader.file,
                                         &w->reader.file_bytes);
            if (r == 0)
                r = wal_cursor_record(&w->reader, seed, offset, &rec);
        }
        if (r < 0) {
            wal_error_set(&w->read_error, "%s: %s", name, strerror(-r));
            return r;
        }
        if (r != WAL_FOUND_RECORD) {
            wal_error_set(&w->read_error, "%s: offset %llu: damaged record where entry %llu was",
                          name, (unsigned long long)offset, (unsigned long long)expect);
            return -EBADMSG;
        }
        offset = rec.end;
        if (rec.header.type != WAL_ENTRY)
            continue;
        assert(rec.payload.len >= 16);
        memcpy(&index, rec.payload.data, sizeof(index));
        if (index != expect) {
            wal_error_set(&w->read_error, "%s: offset %llu: entry %llu where %llu was", name,
                          (unsigned long long)rec.offset, (unsigned long long)index,
                          (unsigned long long)expect);
            return -EBADMSG;
        }
        expect++;
        if (index != *next)
            continue;
        if (ret->count > 0 && ret->data.len + rec.payload.len - 16 > max_bytes)
            return 1;
        add_entry(ret, &rec, index);
        (*next)++;
    }
    return 0;
}

int wal_read_entries(struct wal *w, uint64_t lo, uint64_t hi, size_t max_bytes,
                     struct wal_entries *ret)
{
    uint64_t next = lo;
    size_t offset = 0, point;
    int r = 0;

    assert(lo >= 1);
    assert(lo <= hi);
    ret->count = 0;
    buf_clear(&ret->data);
    if (lo > w->index.last)
        return -ERANGE;
    if (lo < w->index.first)
        return -ENOENT;
    hi = MIN(hi, w->index.last);
    for (point = wal_index_find(&w->index, lo); r == 0 && next <= hi; point++)
        r = read_run(w, point, &next, hi, max_bytes, ret);
    if (r < 0)
        return r;
    if (ret->count == 0)
        return -ERANGE;
    for (size_t i = 0; i < ret->count; i++) {
        ret->entries[i].data.data = ret->data.data + offset;
        offset += ret->entries[i].data.len;
    }
    return 0;
}
