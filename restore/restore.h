/* A member's data directory from a snapshot file: see README.md. */
#ifndef CONCLAVE_RESTORE_RESTORE_H
#define CONCLAVE_RESTORE_RESTORE_H

#include <stdbool.h>
#include <stdint.h>

struct restore_args {
    const char *snapshot; /* the file */
    const char *name, *data_dir;
    const char *wal_dir; /* NULL or "": in the data directory */
    const char *initial_cluster, *initial_cluster_token, *advertise_peer_urls;
    bool skip_hash_check;
    uint64_t bump_revision;
    bool mark_compacted; /* with bump_revision, and only then */
};

/* 0 with a line for people in *ret_summary, or negative with *ret_error; free() either. Refusals
 * have etcd's words. */
int restore_member(const struct restore_args *args, char **ret_summary, char **ret_error);

#endif
