/*
 * Marker files: <snap_dir>/%016x-%016x.snap (term, index) with the configuration as of index, for
 * people and tools. The marker in the log is what counts; a file is written, synced and named
 * before that marker is written, so it exists for every marker that counts.
 *
 *   0  u8[8] "CNCLSNAP"   8 u32 version   12 u32 crc (CRC-32C of all that follows)
 *  16  u64 cluster, member, term, index   48 u32 length, configuration
 */
#include "raftd/wal/wal_internal.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include "lib/util/crc32c.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

enum { SNAP_VERSION = 1, SNAP_CRC_OFFSET = 12, SNAP_BODY_OFFSET = 16 };

void wal_snap_encode(struct buf *b, const struct wal_metadata *m, const struct wal_snapshot *s)
{
    size_t start = b->len;
    uint32_t crc;

    assert(s->conf.len <= WAL_CONF_BYTES_MAX);
    buf_append(b, "CNCLSNAP", 8);
    wire_put_u32(b, SNAP_VERSION);
    wire_put_u32(b, 0);
    wire_put_u64(b, m->cluster_id);
    wire_put_u64(b, m->member_id);
    wire_put_u64(b, s->term);
    wire_put_u64(b, s->index);
    wire_put_bytes(b, s->conf);
    crc = crc32c(0, b->data + start + SNAP_BODY_OFFSET, b->len - start - SNAP_BODY_OFFSET);
    memcpy(b->data + start + SNAP_CRC_OFFSET, &crc, sizeof(crc));
}

struct snap_list {
    struct wal_segment *items; /* sequence: index of the marker, first_index: term */
    size_t count, cap;
};

static int newest_first(const void *a, const void *b)
{
    const struct wal_segment *x = a, *y = b;

    if (x->sequence != y->sequence)
        return x->sequence < y->sequence ? 1 : -1;
    return x->first_index < y->first_index ? 1 : x->first_index > y->first_index ? -1 : 0;
}

static void collect(void *arg, const char *name)
{
    struct snap_list *l = arg;
    uint64_t term, index;

    if (!wal_name_parse(name, ".snap", &term, &index))
        return;
    if (l->count == l->cap) {
        l->cap = MAX(2 * l->cap, (size_t)8);
        l->items = xreallocarray(l->items, l->cap, sizeof(*l->items));
    }
    l->items[l->count++] = (struct wal_segment){index, term};
}

int wal_snap_purge(struct wal_writer *w)
{
    struct snap_list l = {NULL, 0, 0};
    int r = w->io->ops->list(w->io->user, w->snap_dir, collect, &l);

    if (l.count > 1)
        qsort(l.items, l.count, sizeof(*l.items), newest_first);
    for (size_t i = w->snap_keep; r == 0 && i < l.count; i++) {
        char path[PATH_MAX], name[WAL_NAME_MAX];

        wal_snap_name(name, l.items[i].first_index, l.items[i].sequence);
        r = wal_path(path, w->snap_dir, name);
        if (r == 0)
            r = w->io->ops->unlink(w->io->user, path);
    }
    free(l.items);
    return r;
}

int wal_snap_write(struct wal_writer *w, uint64_t term, uint64_t index, struct bytes body)
{
    const struct wal_io_ops *ops = w->io->ops;
    void *user = w->io->user;
    char tmp[PATH_MAX], final[PATH_MAX], name[WAL_NAME_MAX];
    int file, r;

    wal_snap_name(name, term, index);
    r = wal_path(final, w->snap_dir, name);
    if (r == 0)
        r = wal_path(tmp, w->snap_dir, "marker.tmp");
    if (r < 0)
        return r;
    file = ops->create(user, tmp);
    if (file < 0)
        return file;
    r = ops->pwrite(user, file, body.data, body.len, 0);
    if (r == 0 && !w->no_fsync)
        r = ops->fdatasync(user, file);
    ops->close(user, file);
    if (r == 0)
        r = ops->rename(user, tmp, final);
    if (r == 0 && !w->no_fsync)
        r = ops->sync_dir(user, w->snap_dir);
    if (r == 0)
        r = wal_snap_purge(w);
    return r;
}
