/*
 * The keyspace as etcd's database file: what Maintenance.Snapshot sends and etcd's `snapshot
 * restore` takes. One revision's view, while entries go on being applied; first measured, then
 * produced (lib/bbolt/bbolt_writer.h says why twice), with the SHA-256 of the file behind it.
 *
 *     e = kv_export_new(kv);                          loop thread
 *     kv_export_ready(e) until true                   loop thread: the engine has written it all
 *     kv_export_measure(e, n) until 0                 any one thread at a time
 *     kv_export_total(e);
 *     kv_export_step(e, n, out) until 0               any one thread at a time
 *     kv_export_free(e);                              loop thread, before the kv goes
 */
#ifndef CONCLAVE_STORED_KV_EXPORT_H
#define CONCLAVE_STORED_KV_EXPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"

struct kv;
struct kv_export;

/* Outside of a turn. */
struct kv_export *kv_export_new(struct kv *kv);
void kv_export_free(struct kv_export *e); /* NULL is fine */

bool kv_export_ready(struct kv_export *e);
/* 1: call again; 0: done; negative errno. Looks at about max_records versions. */
int kv_export_measure(struct kv_export *e, size_t max_records);
/* Bytes of the file and the hash behind it; once measured. */
uint64_t kv_export_total(const struct kv_export *e);
/* Appends about max_bytes. 1: more to come; 0: that was all; negative errno. */
int kv_export_step(struct kv_export *e, size_t max_bytes, struct buf *out);

int64_t kv_export_revision(const struct kv_export *e);

#endif
