/*
 * LevelDB behind a wall: the only file that sees leveldb_*.
 *
 * Three threads meet here. The loop thread hands batches over and reads; the writer thread turns
 * what has gathered into one leveldb_write; a worker (loop_submit) syncs files and measures sizes.
 * They share struct engine_leveldb's `lock` part and nothing else; LevelDB itself may be used from
 * all of them.
 *
 * The writer waits ENGINE_GATHER_US for company once it has something, so a stream of small turns
 * costs a few hundred wake-ups a second instead of one per turn. Nobody waits for it: answers left
 * before, the log of raftd holds the entries, and the caller keeps unwritten values in memory.
 *
 * Rejected: writing on the loop thread (a level-0 stall would stop every read) and LevelDB's own
 * sync (it syncs the log only, per write, and says nothing about the directory).
 */
#include "stored/engine/engine_leveldb.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <leveldb/c.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/loop/loop.h"
#include "lib/util/buf.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"
#include "stored/kv/kv_engine.h"

enum {
    SYNC_FIRST_NS = 1000000, /* etcd's buckets: 0.001 s, 14 of them */
    SYNC_BUCKETS = 14,
    LEVEL0_POLL_BYTES = 1 << 20, /* written between two looks at the number of level-0 files */
    GATHER_ENOUGH_BYTES = 256 << 10,
};

struct engine_batch {
    struct engine_batch *next;
    uint64_t sequence;
    struct buf ops; /* kv_engine.h "The bytes of a batch" */
};

struct engine_sync {
    struct engine_leveldb *e;
    uint64_t sequence, written_bytes; /* when it began */
    uint64_t took_ns;
    uint64_t disk_bytes, used_bytes, memory_bytes;
    int result;
    char what[PATH_MAX + 32];
};

struct engine_merge {
    struct engine_leveldb *e; /* NULL: closed meanwhile */
    struct buf *keys;         /* borders */
    size_t key_count;
    uint64_t disk_bytes;
    int result;
    char what[PATH_MAX + 32];
    void (*done)(void *user);
};

struct engine_leveldb {
    struct kv_engine kv; /* first: kv_engine.h */
    struct engine_leveldb_args args;
    char *path;
    leveldb_t *db;
    leveldb_cache_t *cache;
    leveldb_options_t *options;
    leveldb_readoptions_t *read_options;
    leveldb_writeoptions_t *write_options;

    /* loop thread */
    struct loop_wake *written_wake;
    struct loop_timer *sync_timer;
    uint64_t handed_sequence, reported_sequence, durable_sequence;
    uint64_t synced_bytes; /* written_bytes when the last sync began */
    uint64_t measured_bytes; /* written_bytes when disk_bytes was looked at */
    bool sync_again;
    uint64_t disk_bytes, used_bytes, memory_bytes;
    struct metrics_histogram syncs;
    struct engine_sync *sync; /* the one on a worker */
    struct engine_merge *merge;

    /* writer thread */
    pthread_t writer;
    bool writer_started;
    leveldb_writebatch_t *write_batch;
    uint64_t level0_polled_at;

    /* shared, under lock */
    pthread_mutex_t lock;
    pthread_cond_t queue_grew; /* the writer waits here */
    pthread_cond_t sync_ended; /* close waits here */
    struct engine_batch *queue_head, **queue_tail;
    uint64_t queued_bytes;
    bool writer_idle; /* it waits without a deadline: a signal is needed */
    bool stopping;
    bool failed; /* nothing is written any more */
    bool sync_in_worker, merge_in_worker;
    uint64_t written_sequence, written_bytes, write_count, write_ns_sum;
    unsigned int level0_files;
};

static void fail(struct engine_leveldb *e, const char *text)
{
    bool first;

    pthread_mutex_lock(&e->lock);
    first = !e->failed;
    e->failed = true;
    pthread_mutex_unlock(&e->lock);
    if (first)
        e->args.fatal(e->args.user, text);
}

static bool has_failed(struct engine_leveldb *e)
{
    bool failed;

    pthread_mutex_lock(&e->lock);
    failed = e->failed;
    pthread_mutex_unlock(&e->lock);
    return failed;
}

/* A LevelDB error text becomes the fatal callback's; frees it. */
static void fail_with(struct engine_leveldb *e, const char *doing, char *leveldb_text)
{
    CLEANUP(freep) char *text = xasprintf("%s in %s: %s", doing, e->path, leveldb_text);

    leveldb_free(leveldb_text);
    fail(e, text);
}

/* ---- the writer thread ---- */

/* Waits for work, then for company. Returns what is to be written now; NULL: stop. */
static struct engine_batch *take_batches(struct engine_leveldb *e)
{
    struct engine_batch *head, *last;
    uint64_t bytes;

    pthread_mutex_lock(&e->lock);
    while (e->queue_head == NULL && !e->stopping) {
        e->writer_idle = true;
        pthread_cond_wait(&e->queue_grew, &e->lock);
        e->writer_idle = false;
    }
    if (e->queue_head != NULL && !e->stopping && e->queued_bytes < GATHER_ENOUGH_BYTES &&
        e->args.gather_us != UINT64_MAX) {
        struct timespec until;
        uint64_t ns;

        clock_gettime(CLOCK_MONOTONIC, &until);
        ns = (uint64_t)until.tv_nsec + e->args.gather_us * 1000;
        until.tv_sec += (time_t)(ns / 1000000000);
        until.tv_nsec = (long)(ns % 1000000000);
        while (!e->stopping && e->queued_bytes < GATHER_ENOUGH_BYTES &&
               pthread_cond_timedwait(&e->queue_grew, &e->lock, &until) == 0) {
        }
    }
    head = e->queue_head;
    if (head != NULL) {
        bytes = head->ops.len;
        for (last = head; last->next != NULL; last = last->next) {
            if (bytes + last->next->ops.len > ENGINE_MERGE_BYTES_MAX)
                break;
            bytes += last->next->ops.len;
        }
        e->queue_head = last->next;
        if (e->queue_head == NULL)
            e->queue_tail = &e->queue_head;
        last->next = NULL;
    }
    pthread_mutex_unlock(&e->lock);
    return head;
}

static void add_ops(leveldb_writebatch_t *to, struct bytes ops)
{
    struct wire_reader r = wire_reader(ops);

    while (r.pos < r.end) {
        bool is_delete = wire_get_u8(&r) != 0;
        struct bytes key = wire_get_bytes(&r);
        struct bytes value = is_delete ? BYTES_EMPTY : wire_get_bytes(&r);

        assert(!r.bad);
        if (is_delete)
            leveldb_writebatch_delete(to, (const char *)key.data, key.len);
        else
            leveldb_writebatch_put(to, (const char *)key.data, key.len, (const char *)value.data,
                                   value.len);
    }
}

static unsigned int level0_files(leveldb_t *db)
{
    char *text = leveldb_property_value(db, "leveldb.num-files-at-level0");
    unsigned int n = text != NULL ? (unsigned int)strtoul(text, NULL, 10) : 0;

    leveldb_free(text);
    return n;
}

static void write_batches(struct engine_leveldb *e, struct engine_batch *head)
{
    uint64_t bytes = 0, sequence = 0, started = loop_clock_ns(), took;
    unsigned int level0 = UINT_MAX;
    char *error = NULL;

    leveldb_writebatch_clear(e->write_batch);
    for (struct engine_batch *b = head; b != NULL; b = b->next) {
        add_ops(e->write_batch, buf_bytes(&b->ops));
        bytes += b->ops.len;
        assert(b->sequence > sequence);
        sequence = b->sequence;
    }
    leveldb_write(e->db, e->write_options, e->write_batch, &error);
    took = loop_clock_ns() - started;
    while (head != NULL) {
        struct engine_batch *next = head->next;

        buf_fini(&head->ops);
        free(head);
        head = next;
    }
    if (error != NULL) {
        fail_with(e, "write", error);
        return;
    }
    if (e->written_bytes + bytes - e->level0_polled_at >= LEVEL0_POLL_BYTES ||
        e->level0_files > 0) {
        e->level0_polled_at = e->written_bytes + bytes;
        level0 = level0_files(e->db);
    }
    pthread_mutex_lock(&e->lock);
    e->written_sequence = sequence;
    e->written_bytes += bytes;
    e->queued_bytes -= bytes;
    e->write_count++;
    e->write_ns_sum += took;
    if (level0 != UINT_MAX)
        e->level0_files = level0;
    pthread_mutex_unlock(&e->lock);
    loop_wake_send(e->written_wake);
}

static void *writer_main(void *arg)
{
    struct engine_leveldb *e = arg;
    struct engine_batch *head;

    while ((head = take_batches(e)) != NULL) {
        write_batches(e, head);
        if (has_failed(e))
            break; /* what is queued stays unwritten; close frees it */
    }
    return NULL;
}

/* ---- syncing ---- */

static bool has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);

    return n >= m && strcmp(name + n - m, suffix) == 0;
}

/* Syncs every log in the directory, then the directory; adds up the sizes of all files. Runs on a
 * worker, or on the loop thread in close. A file that goes away meanwhile was synced in a table. */
static int sync_files(const char *path, bool no_fsync, uint64_t *ret_bytes, char *what,
                      size_t what_size)
{
    DIR *dir = opendir(path);
    const struct dirent *entry;
    uint64_t bytes = 0;
    int r = 0;

    snprintf(what, what_size, "%s", path);
    if (dir == NULL)
        return -errno;
    while (r == 0 && (errno = 0, entry = readdir(dir)) != NULL) {
        struct stat st;

        if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(st.st_mode))
            bytes += (uint64_t)st.st_blocks * 512;
        if (no_fsync || !has_suffix(entry->d_name, ".log"))
            continue;
        int fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

        if (fd < 0 && errno == ENOENT)
            continue;
        if (fd < 0 || fdatasync(fd) != 0) {
            r = -errno;
            snprintf(what, what_size, "%s/%s", path, entry->d_name);
        }
        if (fd >= 0)
            close(fd);
    }
    if (r == 0 && errno != 0)
        r = -errno; /* readdir itself: a log may have been missed */
    if (r == 0 && !no_fsync && fsync(dirfd(dir)) != 0)
        r = -errno;
    closedir(dir);
    if (r == 0)
        *ret_bytes = bytes;
    return r;
}

static uint64_t used_bytes(leveldb_t *db)
{
    static const char first[1] = {0};
    static const char last[16] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    const char *from = first, *to = last;
    const size_t from_len = 0, to_len = sizeof(last);
    uint64_t size = 0;

    leveldb_approximate_sizes(db, 1, &from, &from_len, &to, &to_len, &size);
    return size;
}

static uint64_t memory_bytes(leveldb_t *db)
{
    char *text = leveldb_property_value(db, "leveldb.approximate-memory-usage");
    uint64_t n = text != NULL ? strtoull(text, NULL, 10) : 0;

    leveldb_free(text);
    return n;
}

static void sync_run(void *arg)
{
    struct engine_sync *s = arg;
    struct engine_leveldb *e = s->e;
    uint64_t started = loop_clock_ns();

    s->result = sync_files(e->path, e->args.no_fsync, &s->disk_bytes, s->what, sizeof(s->what));
    s->used_bytes = used_bytes(e->db);
    s->memory_bytes = memory_bytes(e->db);
    s->took_ns = loop_clock_ns() - started;
    if (s->result != 0) {
        CLEANUP(freep) char *text = xasprintf("sync of %s: %s", s->what, strerror(-s->result));

        fail(e, text);
    }
    pthread_mutex_lock(&e->lock);
    e->sync_in_worker = false;
    pthread_cond_broadcast(&e->sync_ended);
    pthread_mutex_unlock(&e->lock);
}

static void sync_start(struct engine_leveldb *e);

static void sync_done(void *arg)
{
    struct engine_sync *s = arg;
    struct engine_leveldb *e = s->e;

    if (e != NULL)
        e->sync = NULL;
    if (e == NULL || s->result != 0) { /* closed meanwhile, or failed for good */
        free(s);
        return;
    }
    e->disk_bytes = s->disk_bytes;
    e->measured_bytes = s->written_bytes;
    e->used_bytes = s->used_bytes;
    e->memory_bytes = s->memory_bytes;
    metrics_histogram_add(&e->syncs, s->took_ns);
    if (s->sequence > e->durable_sequence) {
        e->durable_sequence = s->sequence;
        e->args.durable(e->args.user, s->sequence);
    }
    free(s);
    if (e->sync_again) {
        e->sync_again = false;
        sync_start(e);
    }
}

static void sync_start(struct engine_leveldb *e)
{
    struct engine_sync *s;

    assert(e->sync == NULL);
    loop_timer_stop(e->sync_timer);
    s = xcalloc(1, sizeof(*s));
    s->e = e;
    pthread_mutex_lock(&e->lock);
    s->sequence = e->written_sequence;
    s->written_bytes = e->synced_bytes = e->written_bytes;
    e->sync_in_worker = true;
    pthread_mutex_unlock(&e->lock);
    e->sync = s;
    loop_submit(e->args.loop, &(struct loop_job){.run = sync_run, .done = sync_done, .arg = s});
}

void engine_leveldb_sync(struct engine_leveldb *e)
{
    if (e->sync != NULL)
        e->sync_again = true;
    else if (!has_failed(e))
        sync_start(e);
}

/* ---- merging ---- */

static bool is_stopping(struct engine_leveldb *e)
{
    bool stopping;

    pthread_mutex_lock(&e->lock);
    stopping = e->stopping || e->failed;
    pthread_mutex_unlock(&e->lock);
    return stopping;
}

static void merge_run(void *arg)
{
    struct engine_merge *m = arg;
    struct engine_leveldb *e = m->e;

    for (size_t i = 0; i <= m->key_count && !is_stopping(e); i++) {
        const struct buf *from = i > 0 ? &m->keys[i - 1] : NULL;
        const struct buf *to = i < m->key_count ? &m->keys[i] : NULL;

        leveldb_compact_range(e->db, from != NULL ? (const char *)from->data : NULL,
                              from != NULL ? from->len : 0,
                              to != NULL ? (const char *)to->data : NULL,
                              to != NULL ? to->len : 0);
    }
    m->result = sync_files(e->path, true, &m->disk_bytes, m->what, sizeof(m->what));
    pthread_mutex_lock(&e->lock);
    e->merge_in_worker = false;
    pthread_cond_broadcast(&e->sync_ended);
    pthread_mutex_unlock(&e->lock);
}

static void merge_done(void *arg)
{
    struct engine_merge *m = arg;
    struct engine_leveldb *e = m->e;

    for (size_t i = 0; i < m->key_count; i++)
        buf_fini(&m->keys[i]);
    free(m->keys);
    if (e != NULL) {
        e->merge = NULL;
        if (m->result == 0) {
            e->disk_bytes = m->disk_bytes;
            pthread_mutex_lock(&e->lock);
            e->measured_bytes = e->written_bytes;
            pthread_mutex_unlock(&e->lock);
        }
        m->done(e->args.user);
    }
    free(m);
}

bool engine_leveldb_merge(struct engine_leveldb *e, struct buf *keys, size_t key_count,
                          void (*done)(void *user))
{
    if (e->merge != NULL || has_failed(e)) {
        for (size_t i = 0; i < key_count; i++)
            buf_fini(&keys[i]);
        free(keys);
        return false;
    }
    e->merge = xcalloc(1, sizeof(*e->merge));
    *e->merge = (struct engine_merge){
        .e = e, .keys = keys, .key_count = key_count, .done = done};
    pthread_mutex_lock(&e->lock);
    e->merge_in_worker = true;
    pthread_mutex_unlock(&e->lock);
    loop_submit(e->args.loop,
                &(struct loop_job){.run = merge_run, .done = merge_done, .arg = e->merge});
    return true;
}

static void on_sync_timer(void *user)
{
    engine_leveldb_sync(user);
}

/* The writer wrote: report it, and see whether a sync is due. */
static void on_written(void *user)
{
    struct engine_leveldb *e = user;
    uint64_t sequence, bytes;

    pthread_mutex_lock(&e->lock);
    sequence = e->written_sequence;
    bytes = e->written_bytes;
    pthread_mutex_unlock(&e->lock);
    if (sequence == e->reported_sequence)
        return;
    e->reported_sequence = sequence;
    if (e->sync == NULL) {
        if (bytes - e->synced_bytes >= e->args.sync_bytes)
            sync_start(e);
        else if (!loop_timer_active(e->sync_timer))
            loop_timer_start(e->sync_timer, e->args.sync_interval_ms, 0);
    } else {
        /* what this sync does not cover is due later */
        e->sync_again = e->sync_again || bytes - e->synced_bytes >= e->args.sync_bytes;
    }
    e->args.written(e->args.user, sequence);
}

/* ---- the kv_engine table ---- */

static struct engine_leveldb *engine_of(const struct kv_engine *kv)
{
    return (struct engine_leveldb *)CONTAINER_OF(kv, struct engine_leveldb, kv);
}

static void ops_write(struct kv_engine *kv, uint64_t sequence, struct buf *batch)
{
    struct engine_leveldb *e = engine_of(kv);
    struct engine_batch *b = xmalloc(sizeof(*b));
    bool wake;

    assert(sequence > e->handed_sequence);
    assert(batch->len > 0);
    e->handed_sequence = sequence;
    *b = (struct engine_batch){.sequence = sequence, .ops = *batch};
    *batch = BUF_INIT;
    pthread_mutex_lock(&e->lock);
    *e->queue_tail = b;
    e->queue_tail = &b->next;
    wake = e->writer_idle || (e->queued_bytes < GATHER_ENOUGH_BYTES &&
                              e->queued_bytes + b->ops.len >= GATHER_ENOUGH_BYTES);
    e->writer_idle = false;
    e->queued_bytes += b->ops.len;
    pthread_mutex_unlock(&e->lock);
    if (wake)
        pthread_cond_signal(&e->queue_grew);
}

static uint64_t ops_written(const struct kv_engine *kv)
{
    struct engine_leveldb *e = engine_of(kv);
    uint64_t sequence;

    pthread_mutex_lock(&e->lock);
    sequence = e->written_sequence;
    pthread_mutex_unlock(&e->lock);
    return sequence;
}

static int ops_get(struct kv_engine *kv, struct bytes key, struct buf *ret)
{
    struct engine_leveldb *e = engine_of(kv);
    char *error = NULL, *value;
    size_t len = 0;

    value = leveldb_get(e->db, e->read_options, (const char *)key.data, key.len, &len, &error);
    if (error != NULL) {
        fail_with(e, "read", error);
        return -EIO;
    }
    if (value == NULL)
        return -ENOENT;
    buf_append(ret, value, len);
    leveldb_free(value);
    return 0;
}

struct kv_engine_iter {
    struct engine_leveldb *e;
    leveldb_iterator_t *it;
    leveldb_readoptions_t *options;
};

static struct kv_engine_iter *ops_iter_new(struct kv_engine *kv, bool fill_cache)
{
    struct kv_engine_iter *it = xmalloc(sizeof(*it));

    it->e = engine_of(kv);
    it->options = leveldb_readoptions_create();
    leveldb_readoptions_set_verify_checksums(it->options, 1);
    leveldb_readoptions_set_fill_cache(it->options, fill_cache);
    /* an iterator is a snapshot by itself: it pins the state of its creation */
    it->it = leveldb_create_iterator(it->e->db, it->options);
    return it;
}

static void ops_iter_free(struct kv_engine_iter *it)
{
    if (it == NULL)
        return;
    leveldb_iter_destroy(it->it);
    leveldb_readoptions_destroy(it->options);
    free(it);
}

static void ops_iter_seek(struct kv_engine_iter *it, struct bytes key)
{
    leveldb_iter_seek(it->it, key.len != 0 ? (const char *)key.data : "", key.len);
}

static void ops_iter_seek_last(struct kv_engine_iter *it)
{
    leveldb_iter_seek_to_last(it->it);
}

static bool ops_iter_valid(const struct kv_engine_iter *it)
{
    return leveldb_iter_valid(it->it);
}

static void ops_iter_next(struct kv_engine_iter *it)
{
    leveldb_iter_next(it->it);
}

static void ops_iter_prev(struct kv_engine_iter *it)
{
    leveldb_iter_prev(it->it);
}

static struct bytes ops_iter_key(const struct kv_engine_iter *it)
{
    size_t len;
    const char *p = leveldb_iter_key(it->it, &len);

    return bytes_of(p, len);
}

static struct bytes ops_iter_value(const struct kv_engine_iter *it)
{
    size_t len;
    const char *p = leveldb_iter_value(it->it, &len);

    return bytes_of(p, len);
}

static int ops_iter_result(const struct kv_engine_iter *it)
{
    char *error = NULL;

    leveldb_iter_get_error(it->it, &error);
    if (error == NULL)
        return 0;
    fail_with(it->e, "read", error);
    return -EIO;
}

static const struct kv_engine_ops engine_ops = {
    .write = ops_write,
    .written = ops_written,
    .get = ops_get,
    .iter_new = ops_iter_new,
    .iter_free = ops_iter_free,
    .iter_seek = ops_iter_seek,
    .iter_seek_last = ops_iter_seek_last,
    .iter_valid = ops_iter_valid,
    .iter_next = ops_iter_next,
    .iter_prev = ops_iter_prev,
    .iter_key = ops_iter_key,
    .iter_value = ops_iter_value,
    .iter_result = ops_iter_result,
};

struct kv_engine *engine_leveldb_kv(struct engine_leveldb *e)
{
    return &e->kv;
}

/* ---- life ---- */

static leveldb_t *open_db(struct engine_leveldb *e, bool paranoid, char **ret_error)
{
    char *error = NULL;
    leveldb_t *db;

    leveldb_options_set_paranoid_checks(e->options, paranoid);
    db = leveldb_open(e->options, e->path, &error);
    if (error != NULL) {
        free(*ret_error);
        *ret_error = xasprintf("cannot open %s: %s", e->path, error);
        leveldb_free(error);
        return NULL;
    }
    return db;
}

/*
 * A host crash can leave garbage at the end of the last log; paranoid checks then refuse to open.
 * Opening once without them drops what does not verify (everything after it in that log too, or
 * not: the keyspace checks its own chain and cuts at the first gap), turns the rest into a table
 * and starts a new log; then it opens with the checks again.
 */
static int open_or_recover(struct engine_leveldb *e, char **ret_error)
{
    leveldb_t *db;

    e->db = open_db(e, true, ret_error);
    if (e->db != NULL)
        return 0;
    if (strstr(*ret_error, "Corruption") == NULL)
        return -EIO;
    db = open_db(e, false, ret_error);
    if (db == NULL)
        return -EIO;
    leveldb_close(db);
    e->db = open_db(e, true, ret_error);
    return e->db != NULL ? 0 : -EIO;
}

int engine_leveldb_open(const struct engine_leveldb_args *args, struct engine_leveldb **ret_engine,
                        char **ret_error)
{
    struct engine_leveldb *e = xcalloc(1, sizeof(*e));
    char *error = NULL, what[PATH_MAX + 32];
    pthread_condattr_t attr;
    int r;

    e->kv.ops = &engine_ops;
    e->args = *args;
    e->syncs.first_ns = SYNC_FIRST_NS;
    e->syncs.buckets = SYNC_BUCKETS;
    e->path = xstrdup(args->path);
    if (e->args.sync_bytes == 0)
        e->args.sync_bytes = ENGINE_SYNC_BYTES;
    if (e->args.sync_interval_ms == 0)
        e->args.sync_interval_ms = ENGINE_SYNC_INTERVAL_MS;
    if (e->args.gather_us == 0)
        e->args.gather_us = ENGINE_GATHER_US;
    e->queue_tail = &e->queue_head;
    pthread_mutex_init(&e->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&e->queue_grew, &attr);
    pthread_cond_init(&e->sync_ended, &attr);
    pthread_condattr_destroy(&attr);

    e->cache = leveldb_cache_create_lru(ENGINE_BLOCK_CACHE_BYTES);
    e->options = leveldb_options_create();
    leveldb_options_set_create_if_missing(e->options, 1);
    leveldb_options_set_write_buffer_size(e->options, ENGINE_WRITE_BUFFER_BYTES);
    leveldb_options_set_max_open_files(e->options, ENGINE_OPEN_FILES_MAX);
    leveldb_options_set_cache(e->options, e->cache);
    leveldb_options_set_compression(e->options, leveldb_snappy_compression);
    e->read_options = leveldb_readoptions_create();
    leveldb_readoptions_set_verify_checksums(e->read_options, 1);
    e->write_options = leveldb_writeoptions_create();
    e->write_batch = leveldb_writebatch_create();

    r = open_or_recover(e, &error);
    /* CURRENT and the first log are names in a directory: make them last before anything relies
     * on them */
    if (r == 0) {
        r = sync_files(e->path, args->no_fsync, &e->disk_bytes, what, sizeof(what));
        if (r < 0)
            error = xasprintf("sync of %s: %s", what, strerror(-r));
    }
    if (r == 0) {
        e->used_bytes = used_bytes(e->db);
        e->level0_files = level0_files(e->db);
        e->written_wake = loop_wake_new(args->loop, "engine written", on_written, e);
        e->sync_timer = loop_timer_new(args->loop, "engine sync", on_sync_timer, e);
        r = -pthread_create(&e->writer, NULL, writer_main, e);
        e->writer_started = r == 0;
        if (r < 0)
            error = xasprintf("cannot start the writer thread: %s", strerror(-r));
    }
    if (r < 0) {
        engine_leveldb_close(e);
        *ret_error = error;
        return r;
    }
    free(error);
    *ret_engine = e;
    return 0;
}

static void free_queue(struct engine_batch *b)
{
    while (b != NULL) {
        struct engine_batch *next = b->next;

        buf_fini(&b->ops);
        free(b);
        b = next;
    }
}

void engine_leveldb_close(struct engine_leveldb *e)
{
    uint64_t bytes;
    char what[PATH_MAX + 32];
    int r;

    if (e == NULL)
        return;
    pthread_mutex_lock(&e->lock);
    e->stopping = true;
    pthread_cond_signal(&e->queue_grew);
    while (e->sync_in_worker || e->merge_in_worker)
        pthread_cond_wait(&e->sync_ended, &e->lock);
    pthread_mutex_unlock(&e->lock);
    if (e->sync != NULL)
        e->sync->e = NULL;
    if (e->merge != NULL)
        e->merge->e = NULL;
    if (e->writer_started)
        pthread_join(e->writer, NULL);
    if (e->db != NULL && e->writer_started && !has_failed(e)) {
        r = sync_files(e->path, e->args.no_fsync, &bytes, what, sizeof(what));
        if (r < 0) {
            CLEANUP(freep) char *text = xasprintf("sync of %s: %s", what, strerror(-r));

            fail(e, text);
        }
    }
    free_queue(e->queue_head);
    if (e->db != NULL)
        leveldb_close(e->db);
    loop_timer_free(e->sync_timer);
    loop_wake_free(e->written_wake);
    leveldb_writebatch_destroy(e->write_batch);
    leveldb_writeoptions_destroy(e->write_options);
    leveldb_readoptions_destroy(e->read_options);
    leveldb_options_destroy(e->options);
    leveldb_cache_destroy(e->cache);
    pthread_cond_destroy(&e->queue_grew);
    pthread_cond_destroy(&e->sync_ended);
    pthread_mutex_destroy(&e->lock);
    free(e->path);
    free(e);
}

void engine_leveldb_get_stats(const struct engine_leveldb *e, struct engine_leveldb_stats *ret)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&e->lock;

    pthread_mutex_lock(lock);
    *ret = (struct engine_leveldb_stats){
        .queued_bytes = e->queued_bytes,
        .level0_files = e->level0_files,
        .written_sequence = e->written_sequence,
        .write_count = e->write_count,
        .write_ns_sum = e->write_ns_sum,
        .disk_bytes = e->disk_bytes + (e->written_bytes - e->measured_bytes),
    };
    pthread_mutex_unlock(lock);
    ret->used_bytes = e->used_bytes;
    ret->memory_bytes = e->memory_bytes;
    ret->durable_sequence = e->durable_sequence;
    ret->syncs = e->syncs;
}

bool engine_leveldb_is_full(const struct engine_leveldb *e)
{
    struct engine_leveldb_stats stats;

    engine_leveldb_get_stats(e, &stats);
    return stats.queued_bytes > ENGINE_QUEUED_BYTES_MAX ||
           (stats.level0_files >= ENGINE_LEVEL0_MAX && stats.queued_bytes > 0);
}
