/*
 * Reading records: a window over one segment that is moved in large steps, and the check of one
 * record. It verifies a record on its own; the chain is its users' business.
 */
#include "raftd/wal/wal_internal.h"

#include <errno.h>
#include <stdlib.h>
#include "lib/util/sim_bug.h"

enum { CURSOR_WINDOW_BYTES = 256 << 10 };

int wal_cursor_open(struct wal_cursor *c, const struct wal_io *io, const char *path)
{
    uint64_t bytes;
    int file = io->ops->open(io->user, path);
    int r;

    if (file < 0)
        return file;
    r = io->ops->size(io->user, file, &bytes);
    if (r < 0) {
        io->ops->close(io->user, file);
        return r;
    }
    c->io = io;
    c->file = file;
    c->file_bytes = bytes;
    c->start = 0;
    buf_clear(&c->window);
    return 0;
}

void wal_cursor_close(struct wal_cursor *c)
{
    if (c->file >= 0)
        c->io->ops->close(c->io->user, c->file);
    c->file = -1;
    buf_fini(&c->window);
}

int wal_cursor_bytes(struct wal_cursor *c, uint64_t offset, size_t len, struct bytes *ret)
{
    uint64_t have = offset < c->file_bytes ? c->file_bytes - offset : 0;
    size_t want;
    int r;

    if (have < len)
        len = (size_t)have;
    if (offset >= c->start && offset + len <= c->start + c->window.len) {
        *ret = bytes_of(len != 0 ? c->window.data + (offset - c->start) : NULL, len);
        return 0;
    }
    want = (size_t)MIN(have, (uint64_t)MAX(len, (size_t)CURSOR_WINDOW_BYTES));
    buf_clear(&c->window);
    buf_reserve(&c->window, want);
    r = c->io->ops->pread(c->io->user, c->file, c->window.data, want, offset, &c->window.len);
    if (r < 0) {
        c->window.len = 0;
        return r;
    }
    assert(c->window.len <= want);
    c->start = offset;
    *ret = bytes_of(c->window.data, MIN(len, c->window.len));
    return 0;
}

static bool all_zero(struct bytes v)
{
    for (size_t i = 0; i < v.len; i++)
        if (v.data[i] != 0)
            return false;
    return true;
}

int wal_cursor_record(struct wal_cursor *c, uint32_t seed, uint64_t offset, struct wal_record *ret)
{
    struct wal_header *h = &ret->header;
    struct bytes v;
    int r;

    assert(offset % 8 == 0);
    memset(ret, 0, sizeof(*ret));
    ret->offset = offset;
    r = wal_cursor_bytes(c, offset, WAL_HEADER_BYTES, &v);
    if (r < 0)
        return r;
    if (all_zero(v))
        return WAL_FOUND_NOTHING;
    memcpy(h, v.data, v.len); /* missing bytes at the end of the file read as zero */
    if (v.len < WAL_HEADER_BYTES)
        return WAL_FOUND_DAMAGE;
    if (h->type == 0 || h->type >= WAL_TYPE_END || (h->flags & ~WAL_LAST) != 0 ||
        h->undurable == 0 || h->length > c->file_bytes - offset - WAL_HEADER_BYTES)
        return WAL_FOUND_DAMAGE;
    r = wal_cursor_bytes(c, offset, wal_record_bytes(h->length), &v);
    if (r < 0)
        return r;
    if (v.len < WAL_HEADER_BYTES + (size_t)h->length)
        return WAL_FOUND_DAMAGE;
    ret->payload = bytes_of(v.data + WAL_HEADER_BYTES, h->length);
    ret->end = offset + wal_record_bytes(h->length);
    if (!all_zero(
            bytes_of(v.data + WAL_HEADER_BYTES + h->length, v.len - WAL_HEADER_BYTES - h->length)))
        return WAL_FOUND_DAMAGE; /* padding is the only part the checksum leaves out */
    if (wal_crc(seed, offset, h, ret->payload, BYTES_EMPTY) != h->crc && !SIM_BUG(TORN_TAIL))
        return WAL_FOUND_DAMAGE;
    return WAL_FOUND_RECORD;
}
