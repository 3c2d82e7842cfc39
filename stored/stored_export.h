/*
 * An answer to PROTO_READ_SNAPSHOT: the export of the keyspace, produced by a worker ahead of what
 * the link takes, at most two pieces of it.
 */
#ifndef CONCLAVE_STORED_STORED_EXPORT_H
#define CONCLAVE_STORED_STORED_EXPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"

struct stored;
struct stored_export;

/* The keyspace of now. NULL: too many are under way. */
struct stored_export *stored_export_new(struct stored *s);
/* Waits for what the worker has in hand, some milliseconds at most. NULL is fine. */
void stored_export_free(struct stored_export *x);

/* 1: *ret_part (borrowed until the next call; at most max_bytes) is the next piece; 0: none yet, the work
 * hook is armed when there is; negative errno: failed. */
int stored_export_next(struct stored_export *x, size_t max_bytes, struct bytes *ret_part);
uint64_t stored_export_total(const struct stored_export *x); /* once a piece was there */

#endif
