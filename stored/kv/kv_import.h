/*
 * A keyspace made from a snapshot file of etcd or Conclave: history, leases with what is left
 * of them, alarms, users and roles. What belongs to the old cluster (members, indexes) is left
 * behind, and its version decided anew, as with etcd's `snapshot restore`; the new members are given.
 *
 * Fills a fresh engine. Nothing may use its content unless kv_import_finish returned 0: then
 * kv_open on it gives the state. Equal arguments give equal states with equal chain hashes, so the
 * members of a new cluster that were made from copies of one file agree.
 */
#ifndef CONCLAVE_STORED_KV_IMPORT_H
#define CONCLAVE_STORED_KV_IMPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"

struct kv_engine;
struct kv_import;
struct snapshot_file;

struct kv_import_args {
    const struct snapshot_file *file; /* checked: bbolt_check */
    struct kv_engine *engine;
    uint64_t index, term;  /* the state is as of this entry */
    struct bytes members;  /* proto_member list */
    /* The new revision is so much above the snapshot's, and everything up to it is compacted, so
     * that clients that cache by revision notice. 0: as it is. */
    uint64_t bump_revision;
};

/* 0, or -EBADMSG with *ret_error (free()). Everything borrowed until kv_import_free. */
int kv_import_new(const struct kv_import_args *args, struct kv_import **ret, char **ret_error);
void kv_import_free(struct kv_import *m); /* NULL is fine */
/* Hands a batch of about max_bytes to the engine. 1: call again, when the engine has room; 0: all
 * versions are over; -EBADMSG with *ret_error. */
int kv_import_step(struct kv_import *m, size_t max_bytes, char **ret_error);
/* The record that makes it a state; after step returned 0. 0 or -EBADMSG with *ret_error. */
int kv_import_finish(struct kv_import *m, char **ret_error);

struct kv_import_result {
    int64_t revision, compact_revision;
    uint64_t version_count, lease_count, alarm_count, user_count, role_count;
};
void kv_import_get_result(const struct kv_import *m, struct kv_import_result *ret);

#endif
