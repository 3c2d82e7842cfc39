/*
 * Reads a bbolt file: the B+tree file that etcd keeps its data and writes its snapshots in. The
 * file comes from anywhere, so nothing in it is believed: every offset is checked against the
 * image, a walk ends after at most each page once, and what does not fit is -EBADMSG.
 *
 * Everything handed out is borrowed from the image. One thread.
 */
#ifndef CONCLAVE_BBOLT_BBOLT_H
#define CONCLAVE_BBOLT_BBOLT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"

struct bbolt {
    struct bytes image;
    uint32_t page_bytes;
    uint64_t page_count; /* in use or free; what the file must hold */
    uint64_t root_page, freelist_page, transaction;
};

/* Finds the newest good meta page. The image (which may go on behind the last page) stays the
 * caller's and outlives the bbolt. 0, or -EBADMSG with *ret_error (free()). */
int bbolt_open(struct bytes image, struct bbolt *ret, char **ret_error);
/* Bytes of the pages: as bbolt and etcd count the size of a database. */
uint64_t bbolt_size(const struct bbolt *db);
/* Every page is reached at most once, from one bucket; free pages from none; keys ascend. 0, or
 * -EBADMSG with *ret_error (free()), which names the first page that is wrong. */
int bbolt_check(const struct bbolt *db, char **ret_error);

/* A bucket: a map from bytes to bytes or to buckets. */
struct bbolt_bucket {
    const struct bbolt *db;
    uint64_t root;          /* 0: the page is inline */
    uint64_t sequence;
    struct bytes inline_page;
};
struct bbolt_bucket bbolt_root(const struct bbolt *db); /* holds buckets only */
/* A bucket inside `in`: 0, -ENOENT, -EBADMSG. */
int bbolt_bucket_find(const struct bbolt_bucket *in, struct bytes name, struct bbolt_bucket *ret);
/* Decodes the value of an item that is a bucket. 0 or -EBADMSG. */
int bbolt_bucket_decode(const struct bbolt *db, struct bytes value, struct bbolt_bucket *ret);
/* A value in `in`: 0, -ENOENT (also for a bucket), -EBADMSG. Walks: for small buckets. */
int bbolt_get(const struct bbolt_bucket *in, struct bytes key, struct bytes *ret);

struct bbolt_item {
    struct bytes key, value; /* value of a bucket: its header, and the page if inline */
    bool is_bucket;
};

/* All items of a bucket in ascending order of keys. */
enum { BBOLT_CURSOR_DEPTH = 32 };
struct bbolt_cursor {
    struct bbolt_bucket bucket;
    struct bbolt_level {
        struct bytes page; /* the whole of it */
        uint32_t at, count;
    } levels[BBOLT_CURSOR_DEPTH];
    unsigned int depth; /* levels in use; 0: not begun */
    bool ended;
    bool has_last;
    struct bytes last; /* key before the next */
    uint64_t bad_page; /* where -EBADMSG was seen */
};
void bbolt_cursor_init(struct bbolt_cursor *c, const struct bbolt_bucket *bucket);
/* 1: *ret is the next item; 0: there is none; -EBADMSG. */
int bbolt_cursor_next(struct bbolt_cursor *c, struct bbolt_item *ret);

#endif
