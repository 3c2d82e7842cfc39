/*
 * Group commit on real files. The gate below holds a sync back for as long as a test wants, so what
 * is queued meanwhile is known and not a matter of timing.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "lib/loop/loop.h"
#include "lib/util/xmalloc.h"
#include "raftd/wal/wal_thread.h"

static const struct wal_metadata ids = {1, 2};

struct gate {
    struct wal_io io;
    struct wal_io_ops ops;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closed;
    bool waiting; /* a sync is held */
    unsigned int sync_count;
    int fail;
};

static int gate_fdatasync(void *user, int file)
{
    struct gate *g = user;
    int fail;

    pthread_mutex_lock(&g->lock);
    g->sync_count++;
    while (g->closed) {
        g->waiting = true;
        pthread_cond_broadcast(&g->changed);
        pthread_cond_wait(&g->changed, &g->lock);
    }
    g->waiting = false;
    fail = g->fail;
    pthread_mutex_unlock(&g->lock);
    return fail != 0 ? fail : wal_io_posix.ops->fdatasync(NULL, file);
}

static void gate_init(struct gate *g)
{
    *g = (struct gate){.ops = *wal_io_posix.ops};
    g->ops.fdatasync = gate_fdatasync;
    g->ops.write_sync = NULL; /* every sync passes the gate */
    g->io = (struct wal_io){&g->ops, g};
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->changed, NULL);
}

static void gate_set(struct gate *g, bool closed)
{
    pthread_mutex_lock(&g->lock);
    g->closed = closed;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

static void gate_wait_held(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    while (!g->waiting)
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

struct fixture {
    char dir[32], wal_dir[48], snap_dir[48];
    struct gate gate;
    struct wal_options options;
    struct wal *wal;
    struct loop *loop;
    struct wal_thread *thread;
    uint64_t done;
    unsigned int done_count;
};

static void on_done(void *user, uint64_t sequence)
{
    struct fixture *f = user;

    cr_assert_geq(sequence, f->done);
    f->done = sequence;
    f->done_count++;
}

static void on_fatal(void *user, int err, const char *what)
{
    _exit(err == EIO ? 42 : 43);
}

static void start(struct fixture *f)
{
    struct wal_thread_args args = {.done = on_done, .fatal = on_fatal, .user = f};

    args.loop = f->loop;
    args.wal = f->wal;
    f->thread = wal_thread_new(&args);
}

static void setup_on(struct fixture *f, uint64_t segment_bytes, const struct wal_io *io)
{
    struct wal_error err;

    memset(f, 0, sizeof(*f));
    snprintf(f->dir, sizeof(f->dir), "test_wal_thread.XXXXXX");
    cr_assert_not_null(mkdtemp(f->dir));
    snprintf(f->wal_dir, sizeof(f->wal_dir), "%s/wal", f->dir);
    snprintf(f->snap_dir, sizeof(f->snap_dir), "%s/snap", f->dir);
    gate_init(&f->gate);
    f->options = (struct wal_options){.io = io != NULL ? io : &f->gate.io,
                                      .wal_dir = f->wal_dir,
                                      .snap_dir = f->snap_dir,
                                      .segment_bytes = segment_bytes};
    cr_assert_eq(wal_create(&f->options, &ids, NULL, &f->wal, &err), 0, "%s", err.text);
    f->loop = loop_new();
    start(f);
}

static void setup(struct fixture *f, uint64_t segment_bytes)
{
    setup_on(f, segment_bytes, NULL);
}

static void reopen(struct fixture *f)
{
    struct wal_error err;

    wal_thread_free(f->thread);
    f->done = 0;
    wal_close(f->wal);
    cr_assert_eq(wal_open(&f->options, &ids, &f->wal, &err), 0, "%s", err.text);
    start(f);
}

static void teardown(struct fixture *f)
{
    char cmd[64];

    wal_thread_free(f->thread);
    wal_close(f->wal);
    loop_free(f->loop);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", f->dir);
    cr_assert_eq(system(cmd), 0);
}

static uint64_t submit(struct fixture *f, uint64_t index, bool sync)
{
    char text[32];
    struct wal_entry e = {index, 1, 0, BYTES_EMPTY};
    struct wal_batch b = {.entries = &e, .entry_count = 1};

    snprintf(text, sizeof(text), "entry %" PRIu64, index);
    e.data = bytes_str(text);
    return wal_thread_submit(f->thread, &b, sync);
}

static void wait_done(struct fixture *f, uint64_t sequence)
{
    while (f->done < sequence)
        loop_run_once(f->loop, 10000);
}

static void expect(struct fixture *f, uint64_t lo, uint64_t hi)
{
    struct wal_entries e = WAL_ENTRIES_INIT;
    char text[32];

    for (uint64_t next = lo; next <= hi;) {
        cr_assert_eq(wal_read_entries(f->wal, next, hi, 4096, &e), 0);
        for (size_t i = 0; i < e.count; i++, next++) {
            snprintf(text, sizeof(text), "entry %" PRIu64, next);
            cr_assert_eq(e.entries[i].index, next);
            cr_assert(bytes_eq(e.entries[i].data, bytes_str(text)));
        }
    }
    wal_entries_fini(&e);
}

Test(wal_thread, what_is_reported_is_there)
{
    struct fixture f;

    setup(&f, 0);
    for (uint64_t i = 1; i <= 200; i++) {
        cr_assert_eq(submit(&f, i, true), i);
        if (i % 7 == 0) {
            wait_done(&f, i);
            expect(&f, i - 6, i);
        }
    }
    wait_done(&f, 200);
    reopen(&f);
    cr_assert_eq(wal_info(f.wal)->last_index, 200);
    expect(&f, 1, 200);
    teardown(&f);
}

Test(wal_thread, one_sync_for_all_that_waits)
{
    struct fixture f;
    struct wal_thread_stats stats;
    struct wal_entries e = WAL_ENTRIES_INIT;
    unsigned int before;

    setup(&f, 0);
    before = f.gate.sync_count;
    gate_set(&f.gate, true);
    submit(&f, 1, true);
    gate_wait_held(&f.gate);
    for (uint64_t i = 2; i <= 60; i++)
        submit(&f, i, true);
    wal_thread_get_stats(f.thread, &stats);
    cr_assert_neq(stats.busy_since_ns, 0);
    cr_assert_eq(stats.submitted, 60);
    cr_assert_eq(stats.durable, 0);
    cr_assert_gt(stats.queued_bytes, 59 * 30);
    loop_run_once(f.loop, 0);
    cr_assert_eq(f.done, 0);
    cr_assert_eq(wal_read_entries(f.wal, 1, 1, 100, &e), -ERANGE); /* nobody may see it yet */
    gate_set(&f.gate, false);
    wait_done(&f, 60);
    cr_assert_eq(f.gate.sync_count, before + 2);
    wal_thread_get_stats(f.thread, &stats);
    cr_assert_eq(stats.busy_since_ns, 0);
    cr_assert_eq(stats.durable, 60);
    cr_assert_eq(stats.sync_count, 2);
    expect(&f, 1, 60);
    teardown(&f);
}

Test(wal_thread, no_sync_of_its_own)
{
    struct fixture f;
    struct wal_hard_state hs = {1, 0, 1};
    struct wal_batch commit = {.hard_state = &hs};
    unsigned int before;

    setup(&f, 0);
    wait_done(&f, submit(&f, 1, true));
    before = f.gate.sync_count;
    cr_assert_eq(wal_thread_submit(f.thread, &commit, false), 1); /* done already */
    wait_done(&f, submit(&f, 2, true));
    cr_assert_eq(f.done, 2);
    cr_assert_eq(f.gate.sync_count, before + 1);
    hs.commit = 2;
    wal_thread_submit(f.thread, &commit, false); /* written when the thread ends */
    reopen(&f);
    cr_assert_eq(wal_info(f.wal)->hard_state.commit, 2);
    teardown(&f);
}

Test(wal_thread, cuts_and_trims)
{
    struct fixture f;
    struct wal_thread_stats stats;
    struct wal_snapshot snap = {2500, 1, BYTES_LIT("conf")};
    struct wal_batch mark = {.snapshot = &snap};
    uint64_t sequence = 0;

    setup(&f, 16384);
    for (uint64_t i = 1; i <= 3000; i++) {
        sequence = submit(&f, i, true);
        if (i % 50 == 0)
            wait_done(&f, sequence);
    }
    wait_done(&f, sequence);
    wal_thread_get_stats(f.thread, &stats);
    cr_assert_gt(stats.segments_cut, 5);
    expect(&f, 1, 3000);
    wal_thread_submit(f.thread, &mark, true);
    wal_thread_trim(f.thread, 2400);
    wait_done(&f, submit(&f, 3001, true));
    cr_assert_gt(wal_info(f.wal)->first_index, 1500);
    reopen(&f);
    cr_assert_gt(wal_info(f.wal)->first_index, 1500);
    cr_assert_leq(wal_info(f.wal)->first_index, 2400);
    cr_assert_eq(wal_info(f.wal)->snapshot.index, 2500);
    expect(&f, 2400, 3001);
    teardown(&f);
}

/* As the daemon runs it: writes past the page cache, of sizes around a block, read back both ways.
 */
Test(wal_thread, whole_blocks)
{
    struct fixture f;
    uint8_t *data = xcalloc(1, 70000);
    struct wal_entries e = WAL_ENTRIES_INIT;
    uint64_t index = 0;

    memset(data, 7, 70000);
    setup_on(&f, 1 << 20, &wal_io_posix);
    for (size_t len = 0; len < 70000; len = len * 5 / 4 + 61) {
        for (int i = 0; i < 3; i++) {
            struct wal_entry entry = {++index, 1, 0, bytes_of(data, len)};
            struct wal_batch b = {.entries = &entry, .entry_count = 1};
            uint64_t sequence = wal_thread_submit(f.thread, &b, true);

            if (i != 1)
                wait_done(&f, sequence);
        }
        if (len % 3 == 0)
            reopen(&f);
    }
    for (int again = 0; again < 2; again++) {
        cr_assert_eq(wal_info(f.wal)->last_index, index);
        for (uint64_t i = 1; i <= index; i += e.count) {
            cr_assert_eq(wal_read_entries(f.wal, i, index, 1 << 20, &e), 0);
            for (size_t k = 0; k < e.count; k++)
                cr_assert(e.entries[k].data.len == 0 ||
                          memcmp(e.entries[k].data.data, data, e.entries[k].data.len) == 0);
        }
        reopen(&f);
    }
    wal_entries_fini(&e);
    teardown(&f);
    free(data);
}

Test(wal_thread, a_failed_sync_is_fatal, .exit_code = 42)
{
    struct fixture f;

    setup(&f, 0);
    wait_done(&f, submit(&f, 1, true));
    f.gate.fail = -EIO;
    submit(&f, 2, true);
    wait_done(&f, 2); /* never */
}

Test(wal_thread, without_fsync)
{
    struct fixture f;

    setup(&f, 0);
    wal_thread_free(f.thread);
    wal_close(f.wal);
    f.options.unsafe_no_fsync = true;
    cr_assert_eq(wal_open(&f.options, &ids, &f.wal, NULL), 0);
    start(&f);
    f.gate.sync_count = 0;
    for (uint64_t i = 1; i <= 20; i++)
        wait_done(&f, submit(&f, i, true));
    cr_assert_eq(f.gate.sync_count, 0);
    reopen(&f);
    expect(&f, 1, 20);
    teardown(&f);
}
