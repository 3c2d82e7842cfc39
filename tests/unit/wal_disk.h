/*
 * A disk in memory behind wal_io, which fails and crashes on demand. It keeps what is durable apart
 * from what is merely written: contents until fdatasync, names until sync_dir.
 */
#ifndef CONCLAVE_TESTS_WAL_DISK_H
#define CONCLAVE_TESTS_WAL_DISK_H

#include <stdbool.h>
#include "lib/util/prng.h"
#include "raftd/wal/wal_io.h"

struct wal_disk;

struct wal_disk *wal_disk_new(void);
void wal_disk_free(struct wal_disk *d);
const struct wal_io *wal_disk_io(struct wal_disk *d);

/* The n-th call from now that may change something fails with `err`, and all later ones too; a
 * pwrite that fails leaves a part of its bytes. 0: none fails. */
void wal_disk_fail_at(struct wal_disk *d, uint64_t n, int err);
uint64_t wal_disk_calls(const struct wal_disk *d); /* such calls so far */

/* Power loss: unsynced names are lost; of unsynced bytes each 512-byte sector survives or not, and
 * one may survive in part. prng NULL: all that is unsynced is lost. Closes all files. */
void wal_disk_crash(struct wal_disk *d, struct prng *prng);

/* The bytes of a file as a program would read them; NULL: no such file. Also durable at once. */
uint8_t *wal_disk_data(struct wal_disk *d, const char *path, uint64_t *ret_len);
void wal_disk_truncate(struct wal_disk *d, const char *path, uint64_t len);
bool wal_disk_rename(struct wal_disk *d, const char *from, const char *to);
bool wal_disk_remove(struct wal_disk *d, const char *path);
unsigned int wal_disk_count(struct wal_disk *d, const char *suffix);
struct wal_disk *wal_disk_clone(const struct wal_disk *d); /* as it is, nothing open */

#endif
