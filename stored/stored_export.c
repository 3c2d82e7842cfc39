/*
 * The worker's job is a slice: so many versions measured, or a piece produced. Between two slices
 * the loop thread owns the export, during one the worker does; the mutex is held for the length of
 * the slice, so freeing waits for it. A job that comes too late finds `cancelled`.
 *
 * A backup may take longer, a put may not: while entries are being executed at a rate that counts,
 * the export goes at a fixed pace, else as fast as it is taken.
 */
#include "stored/stored_export.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/buf.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "stored/kv/kv_export.h"
#include "stored/stored.h"

enum {
    EXPORTS_MAX = 16,          /* each pins what LevelDB would otherwise remove */
    MEASURE_RECORDS = 16384,   /* per slice: some milliseconds */
    PIECE_BYTES = 256 << 10,
    PIECE_BYTES_KEPT = 1 << 20, /* a large value makes a larger piece */
    PACE_MS = 50,
    BUSY_ENTRIES = 50,         /* per PACE_MS: 1000 entries per second */
    BUSY_BYTES = 5 << 19,      /* per PACE_MS: 50 MiB/s */
    MEASURE_COSTS_BYTES = 1 << 20, /* a slice of measuring takes about as long as producing this */
};

struct stored_export {
    struct stored *s; /* loop thread only */
    struct kv_export *export;
    bool running; /* a job is under way */
    bool ended;   /* the last piece was produced */
    bool measured;
    int result;   /* of the worker, once it failed */
    uint64_t total, begun_ns;
    struct buf taken; /* being sent, from taken_at on */
    size_t taken_at;
    struct loop_timer *pace_timer;
    uint64_t pace_ns, pace_index; /* when the interval began, and what was executed then */
    uint64_t pace_bytes;          /* in it so far */
    bool busy;                    /* the one before it was */

    pthread_mutex_t mutex; /* what follows, and the export while running */
    bool cancelled;
    struct buf made; /* the next one */
};

static void shell_free(struct stored_export *x)
{
    pthread_mutex_destroy(&x->mutex);
    buf_fini(&x->taken);
    buf_fini(&x->made);
    free(x);
}

/* Worker thread. */
static void run(void *arg)
{
    struct stored_export *x = arg;
    int r;

    pthread_mutex_lock(&x->mutex);
    if (!x->cancelled) {
        if (!x->measured) {
            r = kv_export_measure(x->export, MEASURE_RECORDS);
            x->measured = r == 0;
        } else {
            r = kv_export_step(x->export, PIECE_BYTES, &x->made);
            x->ended = r == 0;
        }
        x->result = r < 0 ? r : 0;
    }
    pthread_mutex_unlock(&x->mutex);
}

/* ---- pace ---- */

static uint64_t applied_index(const struct stored_export *x)
{
    struct kv_state state;

    kv_get_state(x->s->kv, &state);
    return state.applied_index;
}

/* Whether this interval has room; if not, the work hook is armed when the next one begins. */
static bool has_room(struct stored_export *x)
{
    uint64_t now = loop_clock_ns(), passed_ms = (now - x->pace_ns) / 1000000;

    if (passed_ms >= PACE_MS) {
        x->busy = (applied_index(x) - x->pace_index) * PACE_MS >= BUSY_ENTRIES * passed_ms;
        x->pace_ns = now;
        x->pace_index = applied_index(x);
        x->pace_bytes = passed_ms = 0;
    }
    if (!x->busy || x->pace_bytes < BUSY_BYTES)
        return true;
    if (!loop_timer_active(x->pace_timer))
        loop_timer_start(x->pace_timer, PACE_MS - passed_ms, 0);
    return false;
}

static void on_pace(void *user)
{
    struct stored_export *x = user;

    loop_hook_arm(x->s->work_hook);
}

/* ---- the worker's results ---- */

static void start(struct stored_export *x);

static void done(void *arg)
{
    struct stored_export *x = arg;

    x->running = false;
    if (x->cancelled) {
        shell_free(x);
        return;
    }
    if (x->measured && x->total == 0) {
        x->total = kv_export_total(x->export);
        log_info("sending a snapshot of revision %" PRId64 ": %" PRIu64 " bytes, measured in %" PRIu64
                 " ms",
                 kv_export_revision(x->export), x->total,
                 (loop_clock_ns() - x->begun_ns) / 1000000);
    }
    if (x->made.len == 0)
        x->pace_bytes += MEASURE_COSTS_BYTES;
    if (x->result == 0 && x->made.len == 0 && has_room(x))
        start(x);
    else
        loop_hook_arm(x->s->work_hook);
}

static void start(struct stored_export *x)
{
    if (x->running || x->ended || x->result < 0 || x->made.len > 0)
        return;
    x->running = true;
    loop_submit(x->s->loop, &(struct loop_job){.run = run, .done = done, .arg = x});
}

struct stored_export *stored_export_new(struct stored *s)
{
    struct stored_export *x;

    if (s->export_count >= EXPORTS_MAX)
        return NULL;
    s->export_count++;
    x = xcalloc(1, sizeof(*x));
    x->s = s;
    x->begun_ns = loop_clock_ns();
    x->export = kv_export_new(s->kv);
    x->pace_timer = loop_timer_new(s->loop, "snapshot pace", on_pace, x);
    x->pace_ns = x->begun_ns;
    x->pace_index = applied_index(x);
    pthread_mutex_init(&x->mutex, NULL);
    return x;
}

void stored_export_free(struct stored_export *x)
{
    if (x == NULL)
        return;
    x->s->export_count--;
    loop_timer_free(TAKE(x->pace_timer));
    pthread_mutex_lock(&x->mutex);
    x->cancelled = true;
    kv_export_free(TAKE(x->export));
    pthread_mutex_unlock(&x->mutex);
    if (!x->running)
        shell_free(x); /* else `done` does */
}

int stored_export_next(struct stored_export *x, size_t max_bytes, struct bytes *ret_part)
{
    struct buf spare;

    if (x->taken_at == x->taken.len) {
        if (x->running)
            return 0;
        if (x->result < 0)
            return x->result;
        if (x->made.len == 0) {
            if (kv_export_ready(x->export) && has_room(x))
                start(x);
            return 0; /* `written` arms the hook too */
        }
        if (!has_room(x))
            return 0;
        x->pace_bytes += x->made.len;
        buf_clear(&x->taken);
        buf_trim(&x->taken, PIECE_BYTES_KEPT);
        spare = x->taken;
        x->taken = x->made;
        x->made = spare;
        x->taken_at = 0;
        start(x);
    }
    *ret_part = bytes_of(x->taken.data + x->taken_at, MIN(max_bytes, x->taken.len - x->taken_at));
    x->taken_at += ret_part->len;
    return 1;
}

uint64_t stored_export_total(const struct stored_export *x)
{
    assert(x->total > 0);
    return x->total;
}
