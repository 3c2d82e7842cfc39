/*
 * Carries out what the encoder decided: writes, new segments, .snap files, removals. It keeps no
 * opinion of its own about what belongs where, so it runs on any thread.
 *
 * A new segment's first batch is written into a file that has no segment name yet; the name comes
 * after its sync. So whatever is named *.wal begins with a whole batch, and the segment before it
 * was durable to its end before it appeared.
 */
#include "raftd/wal/wal_internal.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include "lib/util/xmalloc.h"

enum { QUEUE_KEEP_BYTES = 1 << 20 }; /* buffers larger than this are not kept for reuse */

/* ---- the queue ---- */

void wal_queue_fini(struct wal_queue *q)
{
    for (size_t i = 0; i < q->cap; i++)
        buf_fini(&q->ops[i].data);
    free(q->ops);
    memset(q, 0, sizeof(*q));
}

void wal_queue_clear(struct wal_queue *q)
{
    for (size_t i = 0; i < q->count; i++) {
        buf_clear(&q->ops[i].data);
        buf_trim(&q->ops[i].data, QUEUE_KEEP_BYTES);
    }
    q->count = 0;
    q->batch = 0;
    q->bytes = 0;
}

struct wal_op *wal_queue_add(struct wal_queue *q, enum wal_op_kind kind)
{
    struct wal_op *op;
    struct buf data;

    if (q->count == q->cap) {
        size_t cap = MAX(2 * q->cap, (size_t)4);

        q->ops = xreallocarray(q->ops, cap, sizeof(*q->ops));
        memset(q->ops + q->cap, 0, (cap - q->cap) * sizeof(*q->ops));
        q->cap = cap;
    }
    op = &q->ops[q->count++];
    data = op->data;
    assert(data.len == 0);
    *op = (struct wal_op){.kind = kind, .data = data};
    return op;
}

static bool follows(const struct wal_op *a, const struct wal_op *b)
{
    return a->kind == WAL_OP_WRITE && b->kind == WAL_OP_WRITE && a->sequence == b->sequence &&
           a->offset + a->data.len == b->offset;
}

void wal_queue_move(struct wal_queue *to, struct wal_queue *from)
{
    if (to->count == 0) {
        struct wal_queue empty = *to;

        *to = *from;
        *from = empty;
        return;
    }
    for (size_t i = 0; i < from->count; i++) {
        struct wal_op *op = &from->ops[i];
        struct wal_op *last = &to->ops[to->count - 1];

        if (follows(last, op)) {
            buf_append(&last->data, op->data.data, op->data.len);
        } else {
            struct wal_op *added = wal_queue_add(to, op->kind);
            struct buf spare = added->data;

            *added = *op;
            op->data = spare;
        }
    }
    if (from->batch != 0) {
        to->batch = from->batch;
        to->end_sequence = from->end_sequence;
        to->end_offset = from->end_offset;
    }
    to->bytes += from->bytes;
    wal_queue_clear(from);
}

/* ---- the writer ---- */

void wal_writer_init(struct wal_writer *w, const struct wal_options *o)
{
    *w = (struct wal_writer){
        .io = o->io,
        .wal_dir = xstrdup(o->wal_dir),
        .snap_dir = o->snap_dir != NULL ? xstrdup(o->snap_dir) : NULL,
        .segment_bytes = o->segment_bytes,
        .snap_keep = o->snap_keep,
        .no_fsync = o->unsafe_no_fsync,
        .file = -1,
    };
}

void wal_writer_fini(struct wal_writer *w)
{
    if (w->file >= 0)
        w->io->ops->close(w->io->user, w->file);
    w->file = -1;
    free(w->block);
    free(w->wal_dir);
    free(w->snap_dir);
}

int wal_path(char *ret_path, const char *dir, const char *name)
{
    int n = snprintf(ret_path, PATH_MAX, "%s/%s", dir, name);

    return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

static int sync_file(struct wal_writer *w)
{
    int r;

    if (!w->dirty)
        return 0;
    r = w->no_fsync ? 0 : w->io->ops->fdatasync(w->io->user, w->file);
    if (r == 0)
        w->dirty = false;
    return r;
}

static int sync_dir(struct wal_writer *w, const char *dir)
{
    return w->no_fsync ? 0 : w->io->ops->sync_dir(w->io->user, dir);
}

int wal_writer_prepare(const struct wal_io *io, const char *path, uint64_t bytes)
{
    int file = io->ops->create(io->user, path);
    int r;

    if (file < 0)
        return file;
    r = io->ops->preallocate(io->user, file, bytes);
    if (r < 0) {
        io->ops->close(io->user, file);
        io->ops->unlink(io->user, path);
        return r;
    }
    return file;
}

static int write_new_segment(struct wal_writer *w, const struct wal_op *op, const char **ret_what)
{
    const struct wal_io_ops *ops = w->io->ops;
    char path[PATH_MAX], final[PATH_MAX], name[WAL_NAME_MAX];
    int r;

    *ret_what = "sync of the full segment";
    r = sync_file(w);
    if (r < 0)
        return r;
    if (w->file >= 0)
        ops->close(w->io->user, w->file);
    w->file = -1;

    *ret_what = "new segment";
    r = -EAGAIN;
    if (w->take_prepared != NULL && op->segment_bytes == w->segment_bytes)
        r = w->take_prepared(w->prepared_user, path);
    if (r == -EAGAIN) {
        r = wal_path(path, w->wal_dir, "next.tmp");
        if (r < 0)
            return r;
        r = wal_writer_prepare(w->io, path, op->segment_bytes);
    }
    if (r < 0)
        return r;
    w->file = r;
    wal_segment_name(name, op->sequence, op->first_index);
    r = wal_path(final, w->wal_dir, name);
    if (r < 0)
        return r;
    r = ops->pwrite(w->io->user, w->file, op->data.data, op->data.len, 0);
    if (r < 0)
        return r;
    w->dirty = true;
    r = sync_file(w);
    if (r < 0)
        return r;
    r = ops->rename(w->io->user, path, final);
    if (r < 0)
        return r;
    r = sync_dir(w, w->wal_dir);
    if (r < 0)
        return r;
    w->segments_cut++;
    return 0;
}

/*
 * Whole blocks at once, durable: the bytes of the first block before the batch, the batch, zeros to
 * the end of the last block, which are there already. -EOPNOTSUPP: write and sync instead.
 */
static int write_blocks(struct wal_writer *w, const struct wal_op *op)
{
    enum { BLOCK = WAL_IO_BLOCK_BYTES };
    uint64_t base = op->offset - op->offset % BLOCK;
    size_t before = (size_t)(op->offset % BLOCK), used = before + op->data.len;
    size_t len = (used + BLOCK - 1) / BLOCK * BLOCK;
    int r;

    if (len > w->block_cap) {
        size_t cap = MAX(len, (size_t)(256 << 10));
        uint8_t *block = aligned_alloc(BLOCK, (cap + BLOCK - 1) / BLOCK * BLOCK);

        if (block == NULL)
            return -ENOMEM;
        if (w->block != NULL)
            memcpy(block, w->block, BLOCK);
        free(w->block);
        w->block = block;
        w->block_cap = cap;
    }
    if (before != 0 && w->block_end != op->offset) {
        size_t got;

        r = w->io->ops->pread(w->io->user, w->file, w->block, BLOCK, base, &got);
        if (r < 0 || got < before)
            return r < 0 ? r : -EIO;
    }
    memcpy(w->block + before, op->data.data, op->data.len);
    memset(w->block + used, 0, len - used);
    w->block_end = 0;
    r = w->io->ops->write_sync(w->io->user, w->file, w->block, len, base);
    if (r < 0)
        return r;
    /* the last block begins the next write */
    if (len > BLOCK)
        memcpy(w->block, w->block + len - BLOCK, BLOCK);
    w->block_end = op->offset + op->data.len;
    return 0;
}

static bool can_write_blocks(const struct wal_writer *w, const struct wal_queue *q, bool sync)
{
    return sync && !w->dirty && !w->no_fsync && !w->no_write_sync &&
           w->io->ops->write_sync != NULL && q->count == 1 && q->ops[0].kind == WAL_OP_WRITE &&
           q->ops[0].offset != 0;
}

static int run_op(struct wal_writer *w, const struct wal_op *op, const char **ret_what)
{
    char path[PATH_MAX], name[WAL_NAME_MAX];
    int r;

    switch (op->kind) {
    case WAL_OP_WRITE:
        w->bytes_written += op->data.len;
        w->block_end = 0;
        if (op->offset == 0)
            return write_new_segment(w, op, ret_what);
        assert(w->file >= 0);
        *ret_what = "write";
        w->dirty = true;
        return w->io->ops->pwrite(w->io->user, w->file, op->data.data, op->data.len, op->offset);
    case WAL_OP_SNAP:
        *ret_what = "snapshot marker file";
        return wal_snap_write(w, op->sequence, op->first_index, buf_bytes(&op->data));
    case WAL_OP_UNLINK:
        /* what makes the segment unnecessary must be durable first; and one by one, so that a
         * crash leaves a run without holes */
        *ret_what = "sync";
        r = sync_file(w);
        if (r < 0)
            return r;
        *ret_what = "removal of a segment";
        wal_segment_name(name, op->sequence, op->first_index);
        r = wal_path(path, w->wal_dir, name);
        if (r < 0)
            return r;
        r = w->io->ops->unlink(w->io->user, path);
        if (r < 0 && r != -ENOENT)
            return r;
        return sync_dir(w, w->wal_dir);
    }
    PANIC("wal op %d", (int)op->kind);
}

int wal_writer_run(struct wal_writer *w, const struct wal_queue *q, bool sync,
                   const char **ret_what)
{
    if (can_write_blocks(w, q, sync)) {
        int r = write_blocks(w, &q->ops[0]);

        *ret_what = "write";
        if (r == 0)
            w->bytes_written += q->ops[0].data.len;
        if (r != -EOPNOTSUPP)
            return r;
        w->no_write_sync = true;
    }
    for (size_t i = 0; i < q->count; i++) {
        int r = run_op(w, &q->ops[i], ret_what);

        if (r < 0)
            return r;
    }
    *ret_what = "sync";
    return sync ? sync_file(w) : 0;
}
