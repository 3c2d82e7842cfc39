/*
 * Group commit. The loop encodes into `staging` without a lock and then moves it to `incoming`;
 * the thread takes all of `incoming` at once. Two queues change places, so buffers are reused and
 * nothing is allocated in the steady state.
 *
 * A second, mostly idle thread zeroes the next segment once the current one is half full, so a cut
 * costs a rename instead of 64 MiB of writing.
 */
#include "raftd/wal/wal_thread.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include "lib/loop/loop.h"
#include "lib/util/xmalloc.h"
#include "raftd/wal/wal_internal.h"

enum { LAZY_BYTES_MAX = 256 << 10 }; /* unsynced batches wait for company up to this much */

enum prepare_state {
    PREPARE_NONE,
    PREPARE_WANTED,
    PREPARE_RUNNING,
    PREPARE_READY,
};

struct wal_thread {
    struct wal_thread_args args;
    struct wal *wal;
    struct loop_wake *wake;
    pthread_t thread, preparer;

    /* loop thread only */
    struct wal_queue staging;
    uint64_t submitted;
    uint64_t prepared_for; /* newest segment asked for, 0: none */

    /* log thread only */
    struct wal_queue working;

    pthread_mutex_t lock; /* for all below */
    pthread_cond_t work;
    struct wal_queue incoming;
    uint64_t incoming_sequence;
    bool incoming_due; /* somebody waits for it */
    bool stop;
    uint64_t done_sequence, done_batch, done_end_sequence, done_end_offset;
    struct wal_thread_stats stats;

    pthread_mutex_t prepare_lock; /* for all below */
    pthread_cond_t prepare_changed;
    enum prepare_state prepare;
    bool prepare_stop;
    int prepared_file;
    char prepared_path[PATH_MAX];

    atomic_uint_fast64_t busy_since_ns;
};

/* ---- the preparer ---- */

static void *prepare_main(void *arg)
{
    struct wal_thread *t = arg;
    const struct wal *w = t->wal;
    uint64_t count = 0;

    pthread_mutex_lock(&t->prepare_lock);
    for (;;) {
        char name[WAL_NAME_MAX];
        int file;

        while (t->prepare != PREPARE_WANTED && !t->prepare_stop)
            pthread_cond_wait(&t->prepare_changed, &t->prepare_lock);
        if (t->prepare_stop)
            break;
        t->prepare = PREPARE_RUNNING;
        pthread_mutex_unlock(&t->prepare_lock);

        snprintf(name, sizeof(name), "prepared-%" PRIu64 ".tmp", count++ % 2);
        file = wal_path(t->prepared_path, w->options.wal_dir, name);
        if (file == 0)
            file = wal_writer_prepare(w->options.io, t->prepared_path, w->options.segment_bytes);

        pthread_mutex_lock(&t->prepare_lock);
        t->prepared_file = file;
        /* no space, say: the cut tries again, and reports it if it still fails */
        t->prepare = file >= 0 ? PREPARE_READY : PREPARE_NONE;
        pthread_cond_broadcast(&t->prepare_changed);
    }
    pthread_mutex_unlock(&t->prepare_lock);
    return NULL;
}

static int take_prepared(void *user, char *ret_path)
{
    struct wal_thread *t = user;
    int file = -EAGAIN;

    pthread_mutex_lock(&t->prepare_lock);
    while ((t->prepare == PREPARE_WANTED && !t->prepare_stop) || t->prepare == PREPARE_RUNNING)
        pthread_cond_wait(&t->prepare_changed, &t->prepare_lock);
    if (t->prepare == PREPARE_READY) {
        file = t->prepared_file;
        memcpy(ret_path, t->prepared_path, PATH_MAX);
        t->prepare = PREPARE_NONE;
    }
    pthread_mutex_unlock(&t->prepare_lock);
    return file;
}

static void want_prepared(struct wal_thread *t, uint64_t sequence)
{
    if (t->prepared_for == sequence)
        return;
    t->prepared_for = sequence;
    pthread_mutex_lock(&t->prepare_lock);
    if (t->prepare == PREPARE_NONE) {
        t->prepare = PREPARE_WANTED;
        pthread_cond_broadcast(&t->prepare_changed);
    }
    pthread_mutex_unlock(&t->prepare_lock);
}

/* ---- the log's thread ---- */

static void count_sync(struct wal_thread_stats *s, uint64_t ns)
{
    uint64_t bound = 1000000;
    int bucket = 0;

    while (bucket < WAL_SYNC_BUCKETS && ns > bound) {
        bound *= 2;
        bucket++;
    }
    s->sync_buckets[bucket]++;
    s->sync_count++;
    s->sync_ns_sum += ns;
    s->sync_ns_max = MAX(s->sync_ns_max, ns);
}

static void run_group(struct wal_thread *t)
{
    struct wal_writer *writer = &t->wal->writer;
    uint64_t begin = loop_clock_ns(), end;
    const char *what = "";
    bool writes = t->working.batch != 0;
    int r;

    atomic_store(&t->busy_since_ns, begin);
    r = wal_writer_run(writer, &t->working, true, &what);
    if (r < 0) {
        t->args.fatal(t->args.user, -r, what);
        PANIC("the log's fatal callback returned");
    }
    end = loop_clock_ns();
    atomic_store(&t->busy_since_ns, 0);

    pthread_mutex_lock(&t->lock);
    if (writes) {
        count_sync(&t->stats, end - begin);
        t->done_batch = t->working.batch;
        t->done_end_sequence = t->working.end_sequence;
        t->done_end_offset = t->working.end_offset;
    }
    t->stats.bytes_written = writer->bytes_written;
    t->stats.segments_cut = writer->segments_cut;
    pthread_mutex_unlock(&t->lock);
}

static void *log_main(void *arg)
{
    struct wal_thread *t = arg;

    pthread_mutex_lock(&t->lock);
    for (;;) {
        struct wal_queue swap;
        uint64_t sequence;

        while (!t->incoming_due && !t->stop)
            pthread_cond_wait(&t->work, &t->lock);
        if (t->incoming.count == 0 && !t->incoming_due)
            break;
        swap = t->working;
        t->working = t->incoming;
        t->incoming = swap;
        sequence = t->incoming_sequence;
        t->incoming_due = false;
        pthread_mutex_unlock(&t->lock);

        if (t->working.count != 0)
            run_group(t);

        pthread_mutex_lock(&t->lock);
        t->done_sequence = sequence;
        t->stats.durable = sequence;
        pthread_mutex_unlock(&t->lock);
        loop_wake_send(t->wake);
        wal_queue_clear(&t->working);
        pthread_mutex_lock(&t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

/* ---- the loop's side ---- */

static void on_wake(void *user)
{
    struct wal_thread *t = user;
    uint64_t sequence, batch, end_sequence, end_offset;

    pthread_mutex_lock(&t->lock);
    sequence = t->done_sequence;
    batch = t->done_batch;
    end_sequence = t->done_end_sequence;
    end_offset = t->done_end_offset;
    pthread_mutex_unlock(&t->lock);
    wal_completed(t->wal, batch, end_sequence, end_offset, true);
    t->args.done(t->args.user, sequence);
}

static void start_thread(pthread_t *ret, void *(*run)(void *), void *arg, const char *name)
{
    int r = pthread_create(ret, NULL, run, arg);

    if (r != 0)
        PANIC("cannot start a thread: %s", strerror(r));
    pthread_setname_np(*ret, name);
}

struct wal_thread *wal_thread_new(const struct wal_thread_args *args)
{
    struct wal_thread *t = xcalloc(1, sizeof(*t));

    assert(args->done != NULL);
    assert(args->fatal != NULL);
    assert(!args->wal->threaded);
    t->args = *args;
    t->wal = args->wal;
    t->wake = loop_wake_new(args->loop, "wal", on_wake, t);
    if (t->wake == NULL)
        PANIC("cannot make a loop wake");
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    pthread_mutex_init(&t->prepare_lock, NULL);
    pthread_cond_init(&t->prepare_changed, NULL);
    t->wal->threaded = true;
    t->wal->writer.take_prepared = take_prepared;
    t->wal->writer.prepared_user = t;
    start_thread(&t->preparer, prepare_main, t, "wal-prepare");
    start_thread(&t->thread, log_main, t, "wal");
    return t;
}

void wal_thread_free(struct wal_thread *t)
{
    if (t == NULL)
        return;
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_signal(&t->work);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);

    pthread_mutex_lock(&t->prepare_lock);
    t->prepare_stop = true;
    pthread_cond_broadcast(&t->prepare_changed);
    pthread_mutex_unlock(&t->prepare_lock);
    pthread_join(t->preparer, NULL);
    if (t->prepare == PREPARE_READY) {
        const struct wal_io *io = t->wal->options.io;

        io->ops->close(io->user, t->prepared_file);
        io->ops->unlink(io->user, t->prepared_path);
    }
    wal_completed(t->wal, t->done_batch, t->done_end_sequence, t->done_end_offset, true);
    t->wal->writer.take_prepared = NULL;
    t->wal->threaded = false;
    loop_wake_free(t->wake);
    wal_queue_fini(&t->staging);
    wal_queue_fini(&t->incoming);
    wal_queue_fini(&t->working);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->work);
    pthread_mutex_destroy(&t->prepare_lock);
    pthread_cond_destroy(&t->prepare_changed);
    free(t);
}

static void hand_over(struct wal_thread *t, bool due)
{
    bool signal;

    pthread_mutex_lock(&t->lock);
    wal_queue_move(&t->incoming, &t->staging);
    t->incoming_sequence = t->submitted;
    t->stats.submitted = t->submitted;
    due = due || t->incoming.bytes >= LAZY_BYTES_MAX;
    signal = due && !t->incoming_due;
    t->incoming_due = t->incoming_due || due;
    pthread_mutex_unlock(&t->lock);
    if (signal)
        pthread_cond_signal(&t->work);
}

uint64_t wal_thread_submit(struct wal_thread *t, const struct wal_batch *batch, bool must_sync)
{
    if (must_sync)
        t->submitted++;
    wal_encode(t->wal, batch, &t->staging);
    hand_over(t, must_sync);
    if (t->wal->offset > t->wal->capacity / 2)
        want_prepared(t, t->wal->segments[t->wal->segment_count - 1].sequence + 1);
    return t->submitted;
}

void wal_thread_trim(struct wal_thread *t, uint64_t index)
{
    wal_encode_trim(t->wal, index, &t->staging);
    if (t->staging.count != 0)
        hand_over(t, true);
}

void wal_thread_get_stats(const struct wal_thread *t, struct wal_thread_stats *ret)
{
    struct wal_thread *self = (struct wal_thread *)t; /* the lock is not part of the value */

    pthread_mutex_lock(&self->lock);
    *ret = t->stats;
    ret->queued_bytes = t->incoming.bytes;
    pthread_mutex_unlock(&self->lock);
    ret->busy_since_ns = atomic_load(&self->busy_since_ns);
}
