/*
 * What the write-ahead log needs from a file system: a small table of functions, so that tests and
 * the simulator put a faulty disk under the very same log code.
 *
 * Promises the log relies on, which a simulated disk must model and may break no further:
 *   - bytes written and not yet synced may survive a crash in any subset of 512-byte sectors; a
 *     sector that is half written holds new bytes up to some point and the former ones after it;
 *   - a sector that is rewritten with the bytes it already has durably keeps them;
 *   - a name (create, rename, unlink) is durable once sync_dir of its directory returned;
 *   - after a failed pwrite or fdatasync nothing is known about the bytes: the log never retries.
 *
 * Files are small numbers of the implementation's choosing. Each call returns 0 (or what it says)
 * or a negative errno. Calls come from one thread at a time per file; calls for different files
 * may come from the loop thread and the log's thread at once.
 */
#ifndef CONCLAVE_WAL_IO_H
#define CONCLAVE_WAL_IO_H

#include <stddef.h>
#include <stdint.h>

enum { WAL_IO_BLOCK_BYTES = 4096 };

struct wal_io {
    const struct wal_io_ops *ops;
    void *user; /* passed to each call */
};

struct wal_io_ops {
    /* An existing file for reading and writing: its number, or -ENOENT ... */
    int (*open)(void *user, const char *path);
    /* A new empty file, replacing what had the name: its number. */
    int (*create)(void *user, const char *path);
    void (*close)(void *user, int file);
    /* Extends the file to `bytes`, all new bytes zero and their blocks allocated *and written*, so
     * that later syncs of writes inside it touch no metadata; durable on return. */
    int (*preallocate)(void *user, int file, uint64_t bytes);
    int (*size)(void *user, int file, uint64_t *ret_bytes);
    /* All of it or an error. */
    int (*pwrite)(void *user, int file, const void *data, size_t len, uint64_t offset);
    /* Fewer bytes than asked for only at the end of the file. */
    int (*pread)(void *user, int file, void *data, size_t len, uint64_t offset, size_t *ret_len);
    int (*fdatasync)(void *user, int file);
    /* Optional (NULL): both at once, past the page cache. data, len and offset are multiples of
     * WAL_IO_BLOCK_BYTES. -EOPNOTSUPP: this file cannot; nothing was written. */
    int (*write_sync)(void *user, int file, const void *data, size_t len, uint64_t offset);
    int (*rename)(void *user, const char *from, const char *to);
    int (*unlink)(void *user, const char *path);
    int (*mkdir)(void *user, const char *path); /* 0 also when it is there */
    int (*sync_dir)(void *user, const char *path);
    /* Calls back with each name in a directory, in any order. */
    int (*list)(void *user, const char *path, void (*cb)(void *arg, const char *name), void *arg);
};

/* The real one. */
extern const struct wal_io wal_io_posix;

#endif
