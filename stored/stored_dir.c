#include "stored/stored_dir.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

/* What is synced below a name is only as durable as the name. */
static int make_dir(const char *path)
{
    CLEANUP(freep) char *parent = NULL;
    CLEANUP(closep) int fd = -1;

    if (mkdir(path, 0700) != 0)
        return errno != EEXIST ? -errno : 0;
    parent = xasprintf("%s/..", path);
    fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 && fsync(fd) == 0 ? 0 : -errno;
}

int stored_dir_open(struct stored_dir *d, const char *data_dir)
{
    int r;

    *d = STORED_DIR_NONE;
    d->path = xasprintf("%s/member", data_dir);
    d->db = xasprintf("%s/db", d->path);
    d->recv = xasprintf("%s/db.recv", d->path);
    d->staged = xasprintf("%s/db.staged", d->path);
    d->old = xasprintf("%s/db.old", d->path);
    r = make_dir(data_dir);
    if (r == 0)
        r = make_dir(d->path);
    if (r == 0) {
        d->fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        r = d->fd < 0 ? -errno : 0;
    }
    if (r < 0)
        stored_dir_close(d);
    return r;
}

void stored_dir_close(struct stored_dir *d)
{
    closep(&d->lock_fd);
    closep(&d->fd);
    free(d->path);
    free(d->db);
    free(d->recv);
    free(d->staged);
    free(d->old);
    *d = STORED_DIR_NONE;
}

int stored_dir_lock(struct stored_dir *d)
{
    assert(d->fd >= 0);
    if (d->lock_fd < 0)
        d->lock_fd = openat(d->fd, "db.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (d->lock_fd < 0)
        return -errno;
    return flock(d->lock_fd, LOCK_EX | LOCK_NB) != 0 ? -errno : 0;
}

static int sync_member(struct stored_dir *d)
{
    return fsync(d->fd) != 0 ? -errno : 0;
}

static bool exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

/* Removes a flat directory. 0 also when there is none. */
static int remove_dir(const char *path)
{
    const struct dirent *entry;
    DIR *dir = opendir(path);
    int r = 0;

    if (dir == NULL)
        return errno == ENOENT ? 0 : -errno;
    while ((entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(dir), entry->d_name, 0) != 0 && errno != ENOENT)
            r = -errno;
    }
    closedir(dir);
    if (r == 0 && rmdir(path) != 0)
        r = -errno;
    return r;
}

static int rename_synced(struct stored_dir *d, const char *from, const char *to)
{
    if (rename(from, to) != 0)
        return -errno;
    return sync_member(d);
}

int stored_dir_recover(struct stored_dir *d)
{
    int r = 0;

    assert(d->lock_fd >= 0);
    if (!exists(d->db)) {
        if (exists(d->staged))
            r = rename_synced(d, d->staged, d->db);
        else if (exists(d->old))
            r = rename_synced(d, d->old, d->db);
    }
    if (r == 0)
        r = stored_dir_recv_drop(d);
    if (r == 0)
        r = remove_dir(d->old);
    if (r == 0)
        r = make_dir(d->db);
    if (r == 0)
        r = sync_member(d);
    return r;
}

int stored_dir_recv_begin(struct stored_dir *d)
{
    int r = stored_dir_recv_drop(d);

    return r < 0 ? r : make_dir(d->recv);
}

int stored_dir_recv_stage(struct stored_dir *d)
{
    return rename_synced(d, d->recv, d->staged);
}

int stored_dir_recv_drop(struct stored_dir *d)
{
    int r = remove_dir(d->recv);

    return r < 0 ? r : remove_dir(d->staged);
}

int stored_dir_activate_steps(struct stored_dir *d, int steps)
{
    int r = 0;

    assert(exists(d->staged));
    if (steps >= 1) {
        r = remove_dir(d->old);
        if (r == 0 && exists(d->db))
            r = rename_synced(d, d->db, d->old);
    }
    if (r == 0 && steps >= 2)
        r = rename_synced(d, d->staged, d->db);
    if (r == 0 && steps >= 3)
        r = remove_dir(d->old);
    return r;
}

int stored_dir_activate(struct stored_dir *d)
{
    return stored_dir_activate_steps(d, 3);
}
