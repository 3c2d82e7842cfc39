/*
 * Checkpoints: the index as a file, so that a start loads it instead of reading all history.
 *
 *     IDLE --timer or entries--> PRODUCING (slices on the loop, file writes on a worker)
 *          --> SYNCING (worker) --> WAITING for the durable index --> RENAMING (worker)
 *          --> TRIMMING (batch records the checkpoint stands for) --> IDLE
 *
 * A checkpoint may be in place only when the log it continues is durable up to its index: after a
 * host crash it would otherwise be ahead of the engine. It lives inside the engine's directory, so
 * that activating a received state cannot combine one state's checkpoint with another's log.
 *
 * At a clean stop one is written without slices, after the last entry.
 */
#include "stored/stored.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/ipc/ipc.h"
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum {
    STEP_BYTES = 64 << 10,
    BLOCK_BYTES = 1 << 20, /* handed to the worker at once */
    SLICE_NS = 500000,
    TRIM_RECORDS = 1000,
    POLL_MS = 1000, /* looks whether one is due */
};

enum checkpoint_state { PRODUCING, SYNCING, WAITING, RENAMING, TRIMMING };

/* One in the making; the worker uses fd, block, paths and result while job_running. */
struct stored_checkpoint {
    struct stored *s; /* NULL: abandoned; the running job's end frees it */
    enum checkpoint_state state;
    struct kv_checkpoint *source;
    uint64_t index;
    int fd;
    char *tmp_path, *path, *dir_path;
    struct buf block;
    uint64_t bytes;
    bool last_block, no_fsync, job_running;
    int result;
};

static void checkpoint_free(struct stored_checkpoint *c)
{
    closep(&c->fd);
    buf_fini(&c->block);
    free(c->tmp_path);
    free(c->path);
    free(c->dir_path);
    free(c);
}

static void paths_init(struct stored_checkpoint *c, const struct stored *s)
{
    c->dir_path = xstrdup(s->dir.db);
    c->path = xasprintf("%s/checkpoint", s->dir.db);
    c->tmp_path = xasprintf("%s/checkpoint.tmp", s->dir.db);
    c->no_fsync = s->conf->unsafe_no_fsync;
    c->fd = -1;
}

/* ---- file work; on a worker, or on the loop at stop ---- */

static int write_block(struct stored_checkpoint *c)
{
    size_t done = 0;

    if (c->fd < 0)
        c->fd = open(c->tmp_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (c->fd < 0)
        return -errno;
    while (done < c->block.len) {
        ssize_t n = write(c->fd, c->block.data + done, c->block.len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    return 0;
}

static int sync_file(struct stored_checkpoint *c)
{
    int r = c->no_fsync || fdatasync(c->fd) == 0 ? 0 : -errno;

    close(c->fd);
    c->fd = -1;
    return r;
}

static int put_in_place(struct stored_checkpoint *c)
{
    CLEANUP(closep) int dir = open(c->dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir < 0 || rename(c->tmp_path, c->path) != 0)
        return -errno;
    return c->no_fsync || fsync(dir) == 0 ? 0 : -errno;
}

static void job_run(void *arg)
{
    struct stored_checkpoint *c = arg;

    if (c->state == RENAMING)
        c->result = put_in_place(c);
    else if (c->state == SYNCING)
        c->result = sync_file(c);
    else
        c->result = write_block(c);
}

/* ---- the loop's side ---- */

static void drop(struct stored *s)
{
    struct stored_checkpoint *c = TAKE(s->checkpoint);

    if (c == NULL)
        return;
    kv_checkpoint_free(TAKE(c->source));
    if (c->job_running)
        c->s = NULL;
    else
        checkpoint_free(c);
}

static void advance(struct stored *s);

static void job_done(void *arg)
{
    struct stored_checkpoint *c = arg;
    struct stored *s = c->s;

    c->job_running = false;
    if (s == NULL) {
        checkpoint_free(c);
        return;
    }
    if (c->result < 0) {
        /* nothing is lost: the logs are whole. A full disk will show in the engine soon enough */
        log_error("cannot write %s: %s", c->tmp_path, strerror(-c->result));
        drop(s);
        return;
    }
    switch (c->state) {
    case PRODUCING:
        buf_clear(&c->block);
        if (c->last_block)
            c->state = SYNCING;
        break;
    case SYNCING:
        c->state = WAITING;
        engine_leveldb_sync(s->engine);
        break;
    case RENAMING:
        s->checkpoint_index = c->index;
        log_debug("checkpoint at index %" PRIu64 ": %" PRIu64 " bytes", c->index, c->bytes);
        c->state = TRIMMING;
        break;
    case WAITING:
    case TRIMMING:
        PANIC("checkpoint job ended in state %d", (int)c->state);
    }
    advance(s);
}

static void submit(struct stored *s)
{
    s->checkpoint->job_running = true;
    loop_submit(s->loop,
                &(struct loop_job){.run = job_run, .done = job_done, .arg = s->checkpoint});
}

static void produce(struct stored *s, struct stored_checkpoint *c)
{
    uint64_t deadline = loop_clock_ns() + SLICE_NS;
    int r = 1;

    while (r == 1 && c->block.len < BLOCK_BYTES && loop_clock_ns() < deadline) {
        size_t before = c->block.len;

        r = kv_checkpoint_step(c->source, STEP_BYTES, &c->block);
        c->bytes += c->block.len - before;
    }
    if (r < 0) {
        log_error("checkpoint: %s", strerror(-r));
        drop(s);
        return;
    }
    if (r == 0) {
        c->last_block = true;
        kv_checkpoint_free(TAKE(c->source));
    }
    if (r == 0 || c->block.len >= BLOCK_BYTES)
        submit(s);
    else
        loop_hook_arm(s->work_hook);
}

static void advance(struct stored *s)
{
    struct stored_checkpoint *c = s->checkpoint;

    if (c == NULL || c->job_running || s->failed)
        return;
    switch (c->state) {
    case PRODUCING:
        produce(s, c);
        break;
    case SYNCING:
        submit(s);
        break;
    case WAITING: /* a durable report comes back here through the hook */
        if (kv_durable_index(s->kv) < c->index)
            break;
        c->state = RENAMING;
        submit(s);
        break;
    case RENAMING:
        break;
    case TRIMMING:
        if (engine_leveldb_is_full(s->engine))
            break; /* `written` arms the hook */
        if (kv_trim_batches(s->kv, c->index, TRIM_RECORDS) == 1)
            loop_hook_arm(s->work_hook);
        else
            drop(s);
        break;
    }
}

void stored_checkpoint_work(struct stored *s)
{
    advance(s);
}

static void begin(struct stored *s)
{
    struct stored_checkpoint *c = xcalloc(1, sizeof(*c));

    c->s = s;
    paths_init(c, s);
    c->source = kv_checkpoint_new(s->kv);
    c->index = kv_checkpoint_index(c->source);
    s->checkpoint = c;
    s->checkpoint_begun_ns = loop_now_ns(s->loop);
    advance(s);
}

static void on_timer(void *user)
{
    struct stored *s = user;
    struct kv_state state;
    bool due;

    if (s->kv == NULL || s->checkpoint != NULL || s->failed || s->stopping)
        return;
    kv_get_state(s->kv, &state);
    if (state.applied_index == s->checkpoint_index)
        return;
    due = state.applied_index - s->checkpoint_index >= s->conf->checkpoint_entries;
    if (s->conf->checkpoint_interval_ns != 0)
        due =
            due || loop_now_ns(s->loop) - s->checkpoint_begun_ns >= s->conf->checkpoint_interval_ns;
    if (due)
        begin(s);
}

void stored_checkpoint_start(struct stored *s)
{
    s->checkpoint_begun_ns = loop_now_ns(s->loop);
    s->checkpoint_timer = loop_timer_new(s->loop, "checkpoint", on_timer, s);
    loop_timer_start(s->checkpoint_timer, POLL_MS, POLL_MS);
}

void stored_checkpoint_stop(struct stored *s)
{
    loop_timer_free(s->checkpoint_timer);
    s->checkpoint_timer = NULL;
    drop(s);
}

void stored_checkpoint_abandon(struct stored *s)
{
    drop(s);
}

/*
 * At a clean stop, in two halves: the file while the keyspace is there, its name once the engine
 * has synced everything and is closed.
 */
int stored_checkpoint_final_write(struct stored *s, struct stored_checkpoint **ret)
{
    struct stored_checkpoint *c = xcalloc(1, sizeof(*c));
    int step, r = 0;

    paths_init(c, s);
    c->source = kv_checkpoint_new(s->kv);
    c->index = kv_checkpoint_index(c->source);
    if (c->index == s->checkpoint_index) {
        kv_checkpoint_free(TAKE(c->source));
        checkpoint_free(c);
        return -EALREADY;
    }
    do {
        step = kv_checkpoint_step(c->source, BLOCK_BYTES, &c->block);
        if (step >= 0)
            r = write_block(c);
        buf_clear(&c->block);
    } while (step == 1 && r == 0);
    kv_checkpoint_free(TAKE(c->source));
    if (step < 0)
        r = step;
    if (r == 0)
        r = sync_file(c);
    if (r < 0) {
        checkpoint_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

int stored_checkpoint_final_place(struct stored_checkpoint *c)
{
    int r = put_in_place(c);

    checkpoint_free(c);
    return r;
}

/* Maps the checkpoint file; empty when there is none. */
int stored_checkpoint_map(const struct stored *s, struct bytes *ret)
{
    CLEANUP(freep) char *path = xasprintf("%s/checkpoint", s->dir.db);
    CLEANUP(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    void *p;

    *ret = BYTES_EMPTY;
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    if (fstat(fd, &st) != 0)
        return -errno;
    if (st.st_size == 0)
        return 0;
    p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    *ret = bytes_of(p, (size_t)st.st_size);
    return 0;
}

void stored_checkpoint_unmap(struct bytes map)
{
    if (map.len > 0)
        munmap((void *)(uintptr_t)map.data, map.len);
}
