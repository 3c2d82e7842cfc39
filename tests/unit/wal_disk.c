#include "tests/unit/wal_disk.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum { FILES_MAX = 4096, SECTOR = 512 };

struct mem_file {
    char *name;         /* what a program sees; NULL: none */
    char *durable_name; /* what a crash leaves */
    uint8_t *data, *durable;
    uint64_t len, durable_len;
    bool used;
};

struct wal_disk {
    struct wal_io io;
    struct mem_file files[FILES_MAX];
    int file_count;
    struct mem_dir {
        char *path;
        bool durable; /* its own name is */
    } dirs[8];
    int dir_count;
    uint64_t calls, fail_at;
    int fail_err;
};

static bool change(struct wal_disk *d)
{
    d->calls++;
    return d->fail_at != 0 && d->calls >= d->fail_at;
}

static struct mem_file *find(struct wal_disk *d, const char *path)
{
    for (int i = 0; i < d->file_count; i++)
        if (d->files[i].name != NULL && strcmp(d->files[i].name, path) == 0)
            return &d->files[i];
    return NULL;
}

static void unname(struct mem_file *f)
{
    free(f->name);
    f->name = NULL;
}

static int mem_open(void *user, const char *path)
{
    struct wal_disk *d = user;
    struct mem_file *f = find(d, path);

    return f != NULL ? (int)(f - d->files) : -ENOENT;
}

static int mem_create(void *user, const char *path)
{
    struct wal_disk *d = user;
    struct mem_file *f = find(d, path);

    if (change(d))
        return -d->fail_err;
    if (f != NULL)
        unname(f);
    assert(d->file_count < FILES_MAX);
    f = &d->files[d->file_count++];
    *f = (struct mem_file){.name = xstrdup(path), .used = true};
    return (int)(f - d->files);
}

static void mem_close(void *user, int file)
{
    assert(((struct wal_disk *)user)->files[file].used);
}

static void resize(struct mem_file *f, uint64_t len)
{
    if (len > f->len) {
        f->data = xrealloc(f->data, len);
        memset(f->data + f->len, 0, len - f->len);
    }
    f->len = len;
}

static void settle(struct mem_file *f)
{
    f->durable = xrealloc(f->durable, f->len + 1);
    if (f->len != 0)
        memcpy(f->durable, f->data, f->len);
    f->durable_len = f->len;
}

static int mem_preallocate(void *user, int file, uint64_t bytes)
{
    struct wal_disk *d = user;
    struct mem_file *f = &d->files[file];

    if (change(d))
        return -d->fail_err;
    resize(f, MAX(f->len, bytes));
    settle(f);
    return 0;
}

static int mem_size(void *user, int file, uint64_t *ret_bytes)
{
    *ret_bytes = ((struct wal_disk *)user)->files[file].len;
    return 0;
}

static int mem_pwrite(void *user, int file, const void *data, size_t len, uint64_t offset)
{
    struct wal_disk *d = user;
    struct mem_file *f = &d->files[file];
    bool fails = change(d);

    if (fails)
        len /= 2;
    resize(f, MAX(f->len, offset + len));
    memcpy(f->data + offset, data, len);
    return fails ? -d->fail_err : 0;
}

static int mem_pread(void *user, int file, void *data, size_t len, uint64_t offset, size_t *ret_len)
{
    const struct mem_file *f = &((struct wal_disk *)user)->files[file];

    *ret_len = offset < f->len ? (size_t)MIN((uint64_t)len, f->len - offset) : 0;
    if (*ret_len != 0)
        memcpy(data, f->data + offset, *ret_len);
    return 0;
}

static int mem_fdatasync(void *user, int file)
{
    struct wal_disk *d = user;

    if (change(d))
        return -d->fail_err;
    settle(&d->files[file]);
    return 0;
}

static int mem_rename(void *user, const char *from, const char *to)
{
    struct wal_disk *d = user;
    struct mem_file *f = find(d, from), *old = find(d, to);

    if (change(d))
        return -d->fail_err;
    if (f == NULL)
        return -ENOENT;
    if (old != NULL)
        unname(old);
    unname(f);
    f->name = xstrdup(to);
    return 0;
}

static int mem_unlink(void *user, const char *path)
{
    struct wal_disk *d = user;
    struct mem_file *f = find(d, path);

    if (change(d))
        return -d->fail_err;
    if (f == NULL)
        return -ENOENT;
    unname(f);
    return 0;
}

static int mem_mkdir(void *user, const char *path)
{
    struct wal_disk *d = user;

    for (int i = 0; i < d->dir_count; i++)
        if (strcmp(d->dirs[i].path, path) == 0)
            return 0;
    assert(d->dir_count < (int)ARRAY_LEN(d->dirs));
    d->dirs[d->dir_count++] = (struct mem_dir){xstrdup(path), false};
    return 0;
}

static bool in_dir(const char *name, const char *dir)
{
    size_t len = strlen(dir);

    return name != NULL && strncmp(name, dir, len) == 0 && name[len] == '/';
}

static void set_durable_name(struct mem_file *f)
{
    free(f->durable_name);
    f->durable_name = f->name != NULL ? xstrdup(f->name) : NULL;
}

static int mem_sync_dir(void *user, const char *path)
{
    struct wal_disk *d = user;

    if (change(d))
        return -d->fail_err;
    for (int i = 0; i < d->dir_count; i++)
        if (strcmp(path, ".") == 0 ? strchr(d->dirs[i].path, '/') == NULL
                                   : in_dir(d->dirs[i].path, path))
            d->dirs[i].durable = true;
    for (int i = 0; i < d->file_count; i++)
        if (in_dir(d->files[i].name, path) || in_dir(d->files[i].durable_name, path))
            set_durable_name(&d->files[i]);
    return 0;
}

static int mem_list(void *user, const char *path, void (*cb)(void *arg, const char *name),
                    void *arg)
{
    struct wal_disk *d = user;

    for (int i = 0; i < d->file_count; i++)
        if (in_dir(d->files[i].name, path))
            cb(arg, d->files[i].name + strlen(path) + 1);
    return 0;
}

static const struct wal_io_ops mem_ops = {
    .open = mem_open,
    .create = mem_create,
    .close = mem_close,
    .preallocate = mem_preallocate,
    .size = mem_size,
    .pwrite = mem_pwrite,
    .pread = mem_pread,
    .fdatasync = mem_fdatasync,
    .rename = mem_rename,
    .unlink = mem_unlink,
    .mkdir = mem_mkdir,
    .sync_dir = mem_sync_dir,
    .list = mem_list,
};

struct wal_disk *wal_disk_new(void)
{
    struct wal_disk *d = xcalloc(1, sizeof(*d));

    d->io = (struct wal_io){&mem_ops, d};
    return d;
}

void wal_disk_free(struct wal_disk *d)
{
    for (int i = 0; i < d->file_count; i++) {
        free(d->files[i].name);
        free(d->files[i].durable_name);
        free(d->files[i].data);
        free(d->files[i].durable);
    }
    for (int i = 0; i < d->dir_count; i++)
        free(d->dirs[i].path);
    free(d);
}

const struct wal_io *wal_disk_io(struct wal_disk *d)
{
    return &d->io;
}

void wal_disk_fail_at(struct wal_disk *d, uint64_t n, int err)
{
    d->fail_at = n != 0 ? d->calls + n : 0;
    d->fail_err = err;
}

uint64_t wal_disk_calls(const struct wal_disk *d)
{
    return d->calls;
}

/* One sector after the crash: the durable one, the newest, or a beginning of the newest. */
static void crash_sector(struct mem_file *f, uint8_t *after, uint64_t start, uint64_t len,
                         struct prng *prng)
{
    uint64_t keep = 0;

    for (uint64_t i = start; i < start + len; i++)
        after[i] = i < f->durable_len ? f->durable[i] : 0;
    if (prng == NULL || start >= f->len)
        return;
    if (prng_below(prng, 2) == 0)
        keep = len;
    else if (prng_below(prng, 4) == 0)
        keep = prng_below(prng, len + 1);
    keep = MIN(keep, f->len - start);
    memcpy(after + start, f->data + start, keep);
}

/* A directory without a name takes its files along. */
static void crash_dirs(struct wal_disk *d)
{
    for (int i = 0; i < d->dir_count; i++) {
        for (int k = 0; k < d->file_count && !d->dirs[i].durable; k++) {
            struct mem_file *f = &d->files[k];

            if (in_dir(f->durable_name, d->dirs[i].path)) {
                free(f->durable_name);
                f->durable_name = NULL;
            }
        }
    }
}

void wal_disk_crash(struct wal_disk *d, struct prng *prng)
{
    crash_dirs(d);
    for (int i = 0; i < d->file_count; i++) {
        struct mem_file *f = &d->files[i];
        uint64_t len = prng != NULL ? MAX(f->len, f->durable_len) : f->durable_len;
        uint8_t *after = xcalloc(1, len + 1);

        for (uint64_t at = 0; at < len; at += SECTOR)
            crash_sector(f, after, at, MIN(len - at, (uint64_t)SECTOR), prng);
        free(f->data);
        f->data = after;
        f->len = len;
        settle(f);
        unname(f);
        f->name = f->durable_name != NULL ? xstrdup(f->durable_name) : NULL;
    }
    d->fail_at = 0;
}

uint8_t *wal_disk_data(struct wal_disk *d, const char *path, uint64_t *ret_len)
{
    struct mem_file *f = find(d, path);

    if (f == NULL)
        return NULL;
    if (ret_len != NULL)
        *ret_len = f->len;
    return f->data;
}

void wal_disk_truncate(struct wal_disk *d, const char *path, uint64_t len)
{
    struct mem_file *f = find(d, path);

    assert(f != NULL);
    assert(len <= f->len);
    f->len = len;
    settle(f);
}

bool wal_disk_rename(struct wal_disk *d, const char *from, const char *to)
{
    return mem_rename(d, from, to) == 0;
}

bool wal_disk_remove(struct wal_disk *d, const char *path)
{
    return mem_unlink(d, path) == 0;
}

unsigned int wal_disk_count(struct wal_disk *d, const char *suffix)
{
    unsigned int count = 0;

    for (int i = 0; i < d->file_count; i++) {
        const char *name = d->files[i].name;

        if (name != NULL && strlen(name) >= strlen(suffix) &&
            strcmp(name + strlen(name) - strlen(suffix), suffix) == 0)
            count++;
    }
    return count;
}

struct wal_disk *wal_disk_clone(const struct wal_disk *d)
{
    struct wal_disk *copy = wal_disk_new();

    for (int i = 0; i < d->file_count; i++) {
        const struct mem_file *from = &d->files[i];
        struct mem_file *to;

        if (from->name == NULL)
            continue;
        to = &copy->files[copy->file_count++];
        to->used = true;
        to->name = xstrdup(from->name);
        to->durable_name = xstrdup(from->name);
        resize(to, from->len);
        memcpy(to->data, from->data, from->len);
        settle(to);
    }
    return copy;
}
