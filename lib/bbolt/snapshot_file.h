/*
 * A snapshot file as etcd and Conclave write it: a bbolt database, then the 32 bytes of its
 * SHA-256. A database copied out of a data directory has no hash behind it; sizes tell the two
 * apart, because pages are multiples of 512.
 */
#ifndef CONCLAVE_BBOLT_SNAPSHOT_FILE_H
#define CONCLAVE_BBOLT_SNAPSHOT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/bbolt/bbolt.h"
#include "lib/util/bytes.h"
#include "lib/util/sha256.h"

enum { SNAPSHOT_HASH_BYTES = SHA256_BYTES, SNAPSHOT_BLOCK_BYTES = 512 };

struct snapshot_file {
    struct bytes map; /* the whole file */
    struct bytes image; /* without the hash */
    bool has_hash;
    uint8_t hash[SNAPSHOT_HASH_BYTES];
    struct bbolt db;
};

/* Maps a file read-only and finds its database; nothing is verified yet but that. 0, or negative
 * errno with *ret_error (free()), which does not name the file. */
int snapshot_file_open(const char *path, struct snapshot_file *ret, char **ret_error);
/* The two halves of it, for who verifies the hash before anything else. */
int snapshot_file_map(const char *path, struct snapshot_file *ret, char **ret_error);
int snapshot_file_find_db(struct snapshot_file *f, char **ret_error); /* -EBADMSG */
/* The same over bytes in memory (tests). */
int snapshot_file_of(struct bytes content, struct snapshot_file *ret, char **ret_error);
void snapshot_file_close(struct snapshot_file *f); /* accepts a zeroed one */

/* What `snapshot restore` asks for unless told to skip it. 0, or -EBADMSG with *ret_error in
 * etcd's words: the hash is missing, or not that of the database. Reads all of the file. */
int snapshot_file_verify_hash(const struct snapshot_file *f, char **ret_error);

/* What `snapshot status` says. */
struct snapshot_status {
    uint32_t hash;         /* CRC-32C over bucket names, keys and values, as etcd computes it */
    int64_t revision;      /* the newest in it */
    uint64_t total_keys;   /* etcd 3.4, 3.5: items of all buckets */
    uint64_t total_size;   /* of the database: pages, used or not */
    uint64_t revision_count; /* records of versions and deletions */
    char version[24];      /* storage version of etcd 3.6 and later, "" when not said */
};
/* Checks the structure first, as etcd does. 0, or -EBADMSG with *ret_error (free()). */
int snapshot_file_status(const struct snapshot_file *f, struct snapshot_status *ret,
                         char **ret_error);

#endif
