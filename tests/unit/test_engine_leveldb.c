/* The LevelDB wall: order, what `written` and `durable` mean, snapshots, reopening after a kill and
 * after damage to the log, and that an error is final. */
#include <criterion/criterion.h>

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/loop/loop.h"
#include "lib/util/buf.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"
#include "stored/engine/engine_leveldb.h"
#include "stored/kv/kv_engine.h"

static char dir[64];
static struct loop *loop;
static struct engine_leveldb *engine;
static uint64_t written, durable;
static int fatal_count;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static void on_written(void *user, uint64_t sequence)
{
    cr_assert_gt(sequence, written);
    written = sequence;
}

static void on_durable(void *user, uint64_t sequence)
{
    cr_assert_gt(sequence, durable);
    cr_assert_leq(sequence, written);
    durable = sequence;
}

static void on_fatal(void *user, const char *text)
{
    fatal_count++;
}

static struct engine_leveldb_args args_for(const char *path)
{
    return (struct engine_leveldb_args){
        .loop = loop,
        .path = path,
        .sync_interval_ms = 3600000,
        .written = on_written,
        .durable = on_durable,
        .fatal = on_fatal,
    };
}

static void open_engine(void)
{
    struct engine_leveldb_args args = args_for(dir);
    char *error = NULL;

    written = 0;
    durable = 0;
    cr_assert_eq(engine_leveldb_open(&args, &engine, &error), 0, "%s", error);
}

static struct kv_engine *kve(void)
{
    return engine_leveldb_kv(engine);
}

static void setup(void)
{
    snprintf(dir, sizeof(dir), "/tmp/test_engine.XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    loop = loop_new();
    fatal_count = 0;
    open_engine();
}

static void teardown(void)
{
    engine_leveldb_close(engine);
    loop_free(loop);
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

TestSuite(engine, .init = setup, .fini = teardown);

static struct bytes key_of(uint8_t out[8], uint64_t n)
{
    wire_store_be64(out, n);
    return bytes_of(out, 8);
}

/* One batch `sequence` with keys sequence*10 .. sequence*10+count-1. */
static void write_one(uint64_t sequence, unsigned int count, size_t value_len)
{
    struct buf batch = BUF_INIT;
    CLEANUP(freep) uint8_t *value = xmalloc(value_len + 1);
    uint8_t key[8];

    memset(value, (int)sequence, value_len);
    for (unsigned int i = 0; i < count; i++)
        kv_batch_put(&batch, key_of(key, sequence * 10 + i), bytes_of(value, value_len));
    kve()->ops->write(kve(), sequence, &batch);
    cr_assert_eq(batch.len, 0);
}

static void wait_written(uint64_t sequence)
{
    while (written < sequence && fatal_count == 0)
        loop_run_once(loop, 1000);
}

static int get_len(uint64_t n, size_t *ret_len)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    uint8_t key[8];
    int r = kve()->ops->get(kve(), key_of(key, n), &b);

    *ret_len = b.len;
    return r;
}

static uint64_t count_keys(struct kv_engine_iter *it)
{
    uint64_t n = 0, before = 0;

    for (kve()->ops->iter_seek(it, BYTES_EMPTY); kve()->ops->iter_valid(it);
         kve()->ops->iter_next(it)) {
        uint64_t key = wire_load_be64(kve()->ops->iter_key(it).data);

        cr_assert_gt(key, before);
        before = key;
        n++;
    }
    cr_assert_eq(kve()->ops->iter_result(it), 0);
    return n;
}

static uint64_t count_all(void)
{
    struct kv_engine_iter *it = kve()->ops->iter_new(kve(), true);
    uint64_t n = count_keys(it);

    kve()->ops->iter_free(it);
    return n;
}

Test(engine, written_is_reported_in_order_and_readable)
{
    size_t len;

    for (uint64_t s = 1; s <= 200; s++)
        write_one(s, 3, (size_t)s);
    wait_written(200);
    cr_assert_eq(written, 200);
    for (uint64_t s = 1; s <= 200; s++) {
        cr_assert_eq(get_len(s * 10 + 2, &len), 0);
        cr_assert_eq(len, s);
        cr_assert_eq(get_len(s * 10 + 3, &len), -ENOENT);
    }
    cr_assert_eq(count_all(), 600);
}

Test(engine, later_batches_win_also_when_merged)
{
    CLEANUP(buf_fini) struct buf got = BUF_INIT;
    uint8_t key[8];

    for (uint64_t s = 1; s <= 50; s++) {
        struct buf batch = BUF_INIT;

        kv_batch_put(&batch, key_of(key, 1), bytes_of(&s, sizeof(s)));
        kv_batch_put(&batch, key_of(key, 2), BYTES_EMPTY);
        if (s % 2 == 0)
            kv_batch_delete(&batch, key_of(key, 2));
        kve()->ops->write(kve(), s, &batch);
    }
    wait_written(50);
    cr_assert_eq(kve()->ops->get(kve(), key_of(key, 1), &got), 0);
    cr_assert_eq(got.data[0], 50);
    cr_assert_eq(kve()->ops->get(kve(), key_of(key, 2), &got), -ENOENT);
}

Test(engine, an_iterator_does_not_see_later_writes)
{
    struct kv_engine_iter *it;

    write_one(1, 5, 8);
    wait_written(1);
    it = kve()->ops->iter_new(kve(), false);
    write_one(2, 5, 8);
    wait_written(2);
    cr_assert_eq(count_keys(it), 5);
    cr_assert_eq(count_all(), 10);
    kve()->ops->iter_seek_last(it);
    cr_assert_eq(wire_load_be64(kve()->ops->iter_key(it).data), 14);
    kve()->ops->iter_prev(it);
    cr_assert_eq(wire_load_be64(kve()->ops->iter_key(it).data), 13);
    cr_assert_eq(kve()->ops->iter_value(it).len, 8);
    kve()->ops->iter_free(it);
}

Test(engine, durable_follows_a_sync_and_never_passes_written)
{
    write_one(1, 1, 8);
    wait_written(1);
    cr_assert_eq(durable, 0);
    engine_leveldb_sync(engine);
    write_one(2, 1, 8); /* not covered by the sync that already runs, but by the next one */
    engine_leveldb_sync(engine);
    wait_written(2);
    while (durable < 2) {
        loop_run_once(loop, 1000);
        if (durable == 1)
            engine_leveldb_sync(engine);
    }
    cr_assert_eq(durable, 2);
}

Test(engine, close_writes_what_is_queued)
{
    for (uint64_t s = 1; s <= 20; s++)
        write_one(s, 10, 100);
    engine_leveldb_close(engine);
    open_engine();
    cr_assert_eq(count_all(), 200);
}

Test(engine, closing_during_a_sync_is_safe)
{
    write_one(1, 1, 8);
    wait_written(1);
    engine_leveldb_sync(engine);
    engine_leveldb_close(engine);
    loop_run_once(loop, 0);
    open_engine();
    cr_assert_eq(count_all(), 1);
}

Test(engine, many_tables_and_bounded_queue)
{
    struct engine_leveldb_stats stats;

    for (uint64_t s = 1; s <= 4000; s++) {
        write_one(s, 10, 512);
        while (engine_leveldb_is_full(engine))
            loop_run_once(loop, 1000);
    }
    wait_written(4000);
    cr_assert_eq(count_all(), 40000);
    engine_leveldb_get_stats(engine, &stats);
    cr_assert_eq(stats.queued_bytes, 0);
    cr_assert_lt(stats.write_count, 4000);
    engine_leveldb_close(engine);
    open_engine();
    cr_assert_eq(count_all(), 40000);
    engine_leveldb_get_stats(engine, &stats);
    cr_assert_gt(stats.disk_bytes, 0);
    cr_assert_gt(stats.used_bytes, 0);
}

/* The name of the one *.log file in the directory. */
static void log_path(char *out, size_t size)
{
    DIR *d = opendir(dir);
    const struct dirent *entry;

    out[0] = '\0';
    while ((entry = readdir(d)) != NULL) {
        size_t n = strlen(entry->d_name);

        if (n > 4 && strcmp(entry->d_name + n - 4, ".log") == 0)
            snprintf(out, size, "%s/%s", dir, entry->d_name);
    }
    closedir(d);
    cr_assert_neq(out[0], '\0');
}

/* Writes batches 1..count of one 1000-byte value in a child that is then killed. */
static void write_and_die(uint64_t count)
{
    pid_t pid;
    int status;

    engine_leveldb_close(engine);
    engine = NULL;
    pid = fork();
    if (pid == 0) {
        loop = loop_new();
        open_engine();
        for (uint64_t s = 1; s <= count; s++) {
            write_one(s, 1, 1000);
            wait_written(s);
        }
        kill(getpid(), SIGKILL);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFSIGNALED(status));
}

Test(engine, a_kill_loses_nothing_written)
{
    write_and_die(100);
    open_engine();
    cr_assert_eq(count_all(), 100);
}

Test(engine, a_torn_log_end_opens)
{
    char path[400];
    struct stat st;

    write_and_die(100);
    log_path(path, sizeof(path));
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(truncate(path, st.st_size - 500), 0);
    open_engine();
    cr_assert_eq(count_all(), 99);
}

/* What a host crash leaves when an early page of the log never reached the disk: LevelDB opens and
 * silently goes on behind the hole. The keyspace finds it by its chain; here it is only shown. */
Test(engine, a_zeroed_hole_opens_with_a_gap)
{
    char path[400], zero[32768] = {0};
    uint64_t n;
    int fd;

    write_and_die(100);
    log_path(path, sizeof(path));
    fd = open(path, O_WRONLY);
    cr_assert_eq(pwrite(fd, zero, sizeof(zero), 32768), (ssize_t)sizeof(zero));
    close(fd);
    open_engine();
    n = count_all();
    cr_assert_lt(n, 100);
    cr_assert_gt(n, 60); /* the batches after the hole are there */
    cr_assert_eq(fatal_count, 0);
}

Test(engine, garbage_in_the_log_opens_with_a_gap)
{
    char path[400], garbage[100];
    int fd;

    memset(garbage, 0xa5, sizeof(garbage));
    write_and_die(100);
    log_path(path, sizeof(path));
    fd = open(path, O_WRONLY);
    cr_assert_eq(pwrite(fd, garbage, sizeof(garbage), 70000), (ssize_t)sizeof(garbage));
    close(fd);
    open_engine();
    cr_assert_lt(count_all(), 100);
    /* and it goes on from there */
    write_one(1000, 1, 8);
    wait_written(1000);
    cr_assert_eq(fatal_count, 0);
}

Test(engine, a_directory_that_cannot_be_made_is_an_error)
{
    struct engine_leveldb_args args = args_for("/proc/nowhere/db");
    struct engine_leveldb *other = NULL;
    char *error = NULL;

    cr_assert_lt(engine_leveldb_open(&args, &other, &error), 0);
    cr_assert_not_null(error);
    cr_assert_not_null(strstr(error, "/proc/nowhere/db"));
    free(error);
}

Test(engine, the_directory_opens_once)
{
    struct engine_leveldb_args args = args_for(dir);
    struct engine_leveldb *other = NULL;
    char *error = NULL;

    cr_assert_lt(engine_leveldb_open(&args, &other, &error), 0);
    free(error);
}

/* A log that cannot be synced: the durable index must never pass it. Simulated with a *.log that
 * cannot be opened. */
Test(engine, a_failed_sync_is_final)
{
    char path[400];

    write_one(1, 1, 8);
    wait_written(1);
    snprintf(path, sizeof(path), "%s/999999.log", dir);
    cr_assert_eq(symlink("/dev/null", path), 0); /* O_NOFOLLOW refuses it: -ELOOP */
    engine_leveldb_sync(engine);
    while (fatal_count == 0)
        loop_run_once(loop, 1000);
    loop_run_once(loop, 100);
    cr_assert_eq(durable, 0);
    cr_assert_eq(fatal_count, 1);
    cr_assert_eq(unlink(path), 0);
}
