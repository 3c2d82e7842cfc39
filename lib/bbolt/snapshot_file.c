#include "lib/bbolt/snapshot_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/util/buf.h"
#include "lib/util/crc32c.h"
#include "lib/util/macros.h"
#include "lib/util/sha256.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

static struct snapshot_file split(struct bytes content)
{
    struct snapshot_file f = {.image = content};

    if (content.len % SNAPSHOT_BLOCK_BYTES == SNAPSHOT_HASH_BYTES) {
        f.image.len -= SNAPSHOT_HASH_BYTES;
        f.has_hash = true;
        memcpy(f.hash, content.data + f.image.len, SNAPSHOT_HASH_BYTES);
    }
    return f;
}

int snapshot_file_find_db(struct snapshot_file *f, char **ret_error)
{
    return bbolt_open(f->image, &f->db, ret_error);
}

int snapshot_file_of(struct bytes content, struct snapshot_file *ret, char **ret_error)
{
    struct snapshot_file f = split(content);
    int r = snapshot_file_find_db(&f, ret_error);

    if (r == 0)
        *ret = f;
    return r;
}

int snapshot_file_map(const char *path, struct snapshot_file *ret, char **ret_error)
{
    CLEANUP(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    void *map;
    int r;

    if (fd < 0 || fstat(fd, &st) != 0) {
        r = -errno;
        *ret_error = xstrdup(strerror(-r));
        return r;
    }
    if (!S_ISREG(st.st_mode) || st.st_size == 0) {
        *ret_error = xstrdup(S_ISREG(st.st_mode) ? "the file is empty" : "not a regular file");
        return -EBADMSG;
    }
    map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        r = -errno;
        *ret_error = xstrdup(strerror(-r));
        return r;
    }
    madvise(map, (size_t)st.st_size, MADV_SEQUENTIAL);
    *ret = split(bytes_of(map, (size_t)st.st_size));
    ret->map = bytes_of(map, (size_t)st.st_size);
    return 0;
}

int snapshot_file_open(const char *path, struct snapshot_file *ret, char **ret_error)
{
    struct snapshot_file f;
    int r = snapshot_file_map(path, &f, ret_error);

    if (r != 0)
        return r;
    r = snapshot_file_find_db(&f, ret_error);
    if (r == 0)
        *ret = f;
    else
        snapshot_file_close(&f);
    return r;
}

void snapshot_file_close(struct snapshot_file *f)
{
    if (f->map.len > 0)
        munmap((void *)(uintptr_t)f->map.data, f->map.len);
    *f = (struct snapshot_file){0};
}

/* "[1 2 3]", as etcd prints bytes. */
static char *describe_hash(const uint8_t hash[SNAPSHOT_HASH_BYTES])
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    for (size_t i = 0; i < SNAPSHOT_HASH_BYTES; i++)
        buf_appendf(&b, "%s%u", i == 0 ? "[" : " ", hash[i]);
    buf_append_u8(&b, ']');
    return xstrndup((const char *)b.data, b.len);
}

int snapshot_file_verify_hash(const struct snapshot_file *f, char **ret_error)
{
    uint8_t digest[SHA256_BYTES];

    if (!f->has_hash) {
        *ret_error = xstrdup("snapshot missing hash but --skip-hash-check=false");
        return -EBADMSG;
    }
    sha256_of(f->image, digest);
    if (memcmp(digest, f->hash, SNAPSHOT_HASH_BYTES) != 0) {
        CLEANUP(freep) char *expected = describe_hash(f->hash);
        CLEANUP(freep) char *got = describe_hash(digest);

        *ret_error = xasprintf("expected sha256 %s, got %s", expected, got);
        return -EBADMSG;
    }
    return 0;
}

/* ---- status ---- */

static void see_item(struct snapshot_status *s, struct bytes bucket, const struct bbolt_item *item)
{
    struct bytes value = item->is_bucket ? BYTES_EMPTY : item->value;

    s->hash = crc32c(s->hash, item->key.data, item->key.len);
    s->hash = crc32c(s->hash, value.data, value.len);
    s->total_keys++;
    if (bytes_eq(bucket, BYTES_LIT("key")) && item->key.len >= sizeof(uint64_t)) {
        s->revision = (int64_t)wire_load_be64(item->key.data);
        s->revision_count++;
    }
    if (bytes_eq(bucket, BYTES_LIT("meta")) && bytes_eq(item->key, BYTES_LIT("storageVersion")))
        snprintf(s->version, sizeof(s->version), "%.*s",
                 (int)MIN(value.len, sizeof(s->version) - 1), (const char *)value.data);
}

int snapshot_file_status(const struct snapshot_file *f, struct snapshot_status *ret,
                         char **ret_error)
{
    struct snapshot_status s = {.total_size = bbolt_size(&f->db)};
    struct bbolt_bucket root = bbolt_root(&f->db), bucket;
    struct bbolt_cursor buckets, items;
    struct bbolt_item name, item;
    CLEANUP(freep) char *why = NULL;
    int r = bbolt_check(&f->db, &why);

    if (r != 0) {
        *ret_error = xasprintf("snapshot file integrity check failed. 1 errors found.\n%s",
                               why != NULL ? why : strerror(-r));
        return r;
    }
    bbolt_cursor_init(&buckets, &root);
    while ((r = bbolt_cursor_next(&buckets, &name)) == 1) {
        if (!name.is_bucket || bbolt_bucket_decode(&f->db, name.value, &bucket) != 0) {
            *ret_error = xasprintf("cannot get hash of bucket %.*s",
                                   (int)MIN(name.key.len, (size_t)64), (const char *)name.key.data);
            return -EBADMSG;
        }
        s.hash = crc32c(s.hash, name.key.data, name.key.len);
        bbolt_cursor_init(&items, &bucket);
        while ((r = bbolt_cursor_next(&items, &item)) == 1)
            see_item(&s, name.key, &item);
        if (r < 0)
            break;
    }
    if (r < 0) {
        *ret_error = xstrdup("invalid page");
        return r;
    }
    *ret = s;
    return 0;
}
