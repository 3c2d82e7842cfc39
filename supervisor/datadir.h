/*
 * The data directory as a whole: that it is ours, private, and used by one member at a time.
 *
 * The lock is an flock on <data-dir>/lock. Every child inherits the locked descriptor, so the lock is
 * free only when the supervisor and all its children are gone: a new supervisor can never start a twin
 * of a daemon that was stopped, orphaned or is slow to exit. The file also remembers the generations
 * handed out and the run directory, for the next one to clean up.
 */
#ifndef CONCLAVE_SUPERVISOR_DATADIR_H
#define CONCLAVE_SUPERVISOR_DATADIR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct datadir {
    char *path;
    int lock_fd;      /* read-only, inherited by children; -1: not locked */
    int file_fd;      /* same file, for writing; -1 likewise */
    uint64_t generation; /* last one handed out */
    bool is_born;     /* there is a log already */
};

/* Creates what is missing and checks what is there. Negative errno with *ret_why (free()); warnings
 * are logged. wal_dir "": inside. */
int datadir_open(struct datadir *d, const char *path, const char *wal_dir, char **ret_why);
/* 0; -EWOULDBLOCK with *ret_holder the pid that wrote the file (0: unknown); other negative errno. */
int datadir_try_lock(struct datadir *d, pid_t *ret_holder);
/* Run directory left behind by a predecessor that was killed, NULL if none (free()). */
char *datadir_stale_run_dir(const struct datadir *d);
/* Notes who we are, and reserves generations durably. */
int datadir_note(struct datadir *d, const char *run_dir);
uint64_t datadir_next_generation(struct datadir *d);
void datadir_close(struct datadir *d);

#endif
