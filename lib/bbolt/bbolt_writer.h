/*
 * Writes a bbolt file as a stream: buckets and keys come in ascending order, pages go out in the
 * order of the file, and memory is one page per level of a tree (and the largest value).
 *
 * The meta pages come first in the file but say where the root is and how many pages there are.
 * So the items are given twice: a measuring writer looks at lengths alone and yields the layout,
 * the second one produces the bytes.
 *
 *     w = bbolt_writer_new(NULL, NULL);         w = bbolt_writer_new(&layout, &out);
 *     for each bucket:                          the same again; out may be emptied between calls
 *         bbolt_writer_begin(w, name);
 *         bbolt_writer_add(w, key, value); ...
 *         bbolt_writer_end(w);
 *     bbolt_writer_finish(w, &layout);          bbolt_writer_finish(w, &same);
 *
 * Why not the other ways to a meta page that is right: a spool file costs the disk the size of the
 * store just when somebody makes a backup; padding to an estimated size shows in every copy.
 */
#ifndef CONCLAVE_BBOLT_WRITER_H
#define CONCLAVE_BBOLT_WRITER_H

#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

struct bbolt_writer;

enum { BBOLT_WRITER_KEY_BYTES_MAX = 32768 };

struct bbolt_layout {
    uint64_t page_count, root_page;
};
uint64_t bbolt_layout_bytes(const struct bbolt_layout *layout);

/* layout NULL: a measuring writer; then out is not used. Else the file is appended to out
 * (borrowed). */
struct bbolt_writer *bbolt_writer_new(const struct bbolt_layout *layout, struct buf *out);
void bbolt_writer_free(struct bbolt_writer *w); /* NULL is fine */
/* Bytes go to another buffer from now on. */
void bbolt_writer_redirect(struct bbolt_writer *w, struct buf *out);

/* Names ascend, and keys within a bucket. A key is not empty. A
 * measuring writer does not look at the value's bytes. */
void bbolt_writer_begin(struct bbolt_writer *w, struct bytes name);
void bbolt_writer_add(struct bbolt_writer *w, struct bytes key, struct bytes value);
void bbolt_writer_end(struct bbolt_writer *w);
/* The last pages. A writing writer must arrive at the layout it was given. */
void bbolt_writer_finish(struct bbolt_writer *w, struct bbolt_layout *ret);

#endif
