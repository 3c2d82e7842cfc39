/*
 * Generations must never repeat, not even over a crash of the host: the results of a gatewayd's
 * requests are told apart by its generation, and entries of the previous life may still be in the log.
 * So a block of them is reserved in the lock file, synced, before the first is used; the clock only
 * helps when the file was lost.
 */
#include "supervisor/datadir.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "lib/log/log.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum { LOCK_TEXT_MAX = 4096 };
/* more starts of children than any supervisor lives to see */
static const uint64_t generation_block = UINT64_C(1) << 20;

static int explain(char **ret_why, int r, const char *what, const char *path)
{
    CLEANUP(freep) char *text = xstrdup(strerror(-r));

    if (text[0] >= 'A' && text[0] <= 'Z')
        text[0] = (char)(text[0] - 'A' + 'a');
    *ret_why = xasprintf("%s: %s: %s", what, path, text);
    return r;
}

/* mkdir -p, each new directory 0700. */
static int make_dirs(const char *path)
{
    CLEANUP(freep) char *copy = xstrdup(path);

    for (char *p = copy + 1; *copy != '\0'; p++) {
        char c = *p;

        if (c != '/' && c != '\0')
            continue;
        *p = '\0';
        if (mkdir(copy, 0700) < 0 && errno != EEXIST)
            return -errno;
        if (c == '\0')
            break;
        *p = c;
    }
    return 0;
}

static void mode_text(mode_t mode, char text[11])
{
    static const char letters[] = "rwxrwxrwx";

    text[0] = 'd';
    for (int i = 0; i < 9; i++)
        text[1 + i] = mode & (1U << (8 - i)) ? letters[i] : '-';
    text[10] = '\0';
}

static int check_private(const char *path, char **ret_why)
{
    struct stat st;
    char mode[11];

    if (stat(path, &st) < 0)
        return explain(ret_why, -errno, "cannot access data directory", path);
    if (!S_ISDIR(st.st_mode))
        return explain(ret_why, -ENOTDIR, "cannot access data directory", path);
    if ((st.st_mode & 0777) != 0700) {
        mode_text(st.st_mode, mode);
        log_warn("check file permission: directory \"%s\" exist, but the permission is \"%s\". The "
                 "recommended permission is \"-rwx------\" to prevent possible unprivileged access "
                 "to the data.",
                 path, mode);
    }
    return 0;
}

/* Warns about what is not ours and finds out which kind of directory it is. */
static int scan(const char *path, bool *ret_member, bool *ret_proxy, char **ret_why)
{
    static const char *const known[] = {".", "..", "lock", "fixtures", "lost+found"};
    DIR *dir = opendir(path);
    const struct dirent *e;

    *ret_member = *ret_proxy = false;
    if (dir == NULL)
        return explain(ret_why, -errno, "cannot access data directory", path);
    while ((e = readdir(dir)) != NULL) {
        bool is_known = false;

        for (size_t i = 0; i < ARRAY_LEN(known); i++)
            is_known = is_known || strcmp(e->d_name, known[i]) == 0;
        if (strcmp(e->d_name, "member") == 0)
            *ret_member = true;
        else if (strcmp(e->d_name, "proxy") == 0)
            *ret_proxy = true;
        else if (!is_known)
            log_warn("found invalid file/dir %s under data dir %s (Ignore this if you are "
                     "upgrading etcd)",
                     e->d_name, path);
    }
    closedir(dir);
    return 0;
}

static bool has_files(const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *e;
    bool found = false;

    while (dir != NULL && !found && (e = readdir(dir)) != NULL)
        found = e->d_name[0] != '.';
    if (dir != NULL)
        closedir(dir);
    return found;
}

static int check_writable(const char *path, const char *what, char **ret_why)
{
    CLEANUP(freep) char *probe = xasprintf("%s/.touch", path);
    int fd = open(probe, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0)
        return explain(ret_why, -errno, what, path);
    close(fd);
    unlink(probe);
    return 0;
}

int datadir_open(struct datadir *d, const char *path, const char *wal_dir, char **ret_why)
{
    CLEANUP(freep) char *member = xasprintf("%s/member", path);
    CLEANUP(freep) char *wal = *wal_dir != '\0' ? xstrdup(wal_dir) : xasprintf("%s/wal", member);
    CLEANUP(freep) char *bolt = xasprintf("%s/snap/db", member);
    CLEANUP(freep) char *lock = xasprintf("%s/lock", path);
    bool is_member, is_proxy;
    struct stat st;
    int r;

    *d = (struct datadir){.path = xstrdup(path), .lock_fd = -1, .file_fd = -1};
    r = make_dirs(path);
    if (r < 0)
        return explain(ret_why, r, "cannot access data directory", path);
    if ((r = check_private(path, ret_why)) < 0 ||
        (r = scan(path, &is_member, &is_proxy, ret_why)) < 0)
        return r;
    if (is_member && is_proxy) {
        *ret_why = xstrdup("invalid datadir. Both member and proxy directories exist.");
        return -EINVAL;
    }
    if (is_proxy) {
        *ret_why = xasprintf("%s is the data directory of a proxy; there is none in this version",
                             path);
        return -EINVAL;
    }
    if (stat(bolt, &st) == 0 && S_ISREG(st.st_mode)) {
        *ret_why = xasprintf("%s holds data of etcd (%s), which is another format", path, bolt);
        return -EINVAL;
    }
    if (mkdir(member, 0700) < 0 && errno != EEXIST)
        return explain(ret_why, -errno, "cannot access member directory", member);
    r = check_writable(member, "cannot write to member directory", ret_why);
    if (r == 0 && *wal_dir != '\0') {
        r = make_dirs(wal);
        if (r == 0)
            r = check_writable(wal, "cannot write to WAL directory", ret_why);
        else
            explain(ret_why, r, "cannot write to WAL directory", wal);
    }
    if (r < 0)
        return r;
    d->is_born = has_files(wal);
    d->file_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (d->file_fd < 0)
        return explain(ret_why, -errno, "cannot write to data directory", lock);
    d->lock_fd = open(lock, O_RDONLY | O_CLOEXEC);
    if (d->lock_fd < 0)
        return explain(ret_why, -errno, "cannot access data directory", lock);
    return 0;
}

static char *read_note(const struct datadir *d)
{
    char *text = xcalloc(1, LOCK_TEXT_MAX);

    if (pread(d->file_fd, text, LOCK_TEXT_MAX - 1, 0) < 0)
        text[0] = '\0';
    return text;
}

/* Value of "key=" in the note; free(). NULL: not there. */
static char *note_value(const struct datadir *d, const char *key)
{
    CLEANUP(freep) char *text = read_note(d);
    char *rest = text, *line;

    while ((line = strsep(&rest, "\n")) != NULL) {
        size_t len = strlen(key);

        if (strncmp(line, key, len) == 0 && line[len] == '=')
            return xstrdup(line + len + 1);
    }
    return NULL;
}

int datadir_try_lock(struct datadir *d, pid_t *ret_holder)
{
    CLEANUP(freep) char *pid = NULL;
    int r;

    if (flock(d->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    r = -errno;
    pid = note_value(d, "pid");
    *ret_holder = pid != NULL ? (pid_t)strtol(pid, NULL, 10) : 0;
    return r;
}

char *datadir_stale_run_dir(const struct datadir *d)
{
    return note_value(d, "run-dir");
}

int datadir_note(struct datadir *d, const char *run_dir)
{
    CLEANUP(freep) char *before = note_value(d, "generation");
    CLEANUP(freep) char *text = NULL;
    uint64_t reserved = before != NULL ? strtoull(before, NULL, 10) : 0;
    struct timespec now;
    size_t len;

    clock_gettime(CLOCK_REALTIME, &now);
    /* seconds leave room for 2^20 generations each and stay below 2^63 for ever */
    d->generation = MAX(reserved, (uint64_t)now.tv_sec << 20);
    text = xasprintf("pid=%ld\ngeneration=%" PRIu64 "\nrun-dir=%s\n", (long)getpid(),
                     d->generation + generation_block, run_dir);
    len = strlen(text);
    if (ftruncate(d->file_fd, 0) < 0)
        return -errno;
    if (pwrite(d->file_fd, text, len, 0) != (ssize_t)len)
        return errno != 0 ? -errno : -EIO;
    if (fsync(d->file_fd) < 0)
        return -errno;
    return 0;
}

uint64_t datadir_next_generation(struct datadir *d)
{
    return ++d->generation;
}

void datadir_close(struct datadir *d)
{
    if (d->lock_fd >= 0)
        close(d->lock_fd);
    if (d->file_fd >= 0)
        close(d->file_fd);
    free(d->path);
    *d = (struct datadir){.lock_fd = -1, .file_fd = -1};
}
