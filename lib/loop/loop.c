/*
 * The loop over libuv. A turn is one uv_run(UV_RUN_ONCE), in which libuv waits and calls the input
 * callbacks, and then our hooks. Driving single turns, rather than UV_RUN_DEFAULT with a prepare
 * handle for the hooks, keeps one place that decides whether the next turn may wait and lets
 * loop_stop finish a turn.
 *
 * - Handles are heap objects with the libuv handle inside. x_free closes it and the close callback,
 *   later in that or the next turn, releases the memory; libuv calls nothing else of a handle that
 *   is closing, which is the promise of x_free.
 * - Slow callbacks: one clock read after each callback. Callbacks follow each other, so the end of
 *   one is the start of the next; only what comes first after the wait needs a second read. A
 *   prepare handle, the last thing before libuv waits, marks that.
 */
#include "lib/loop/loop.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>
#include "lib/util/list.h"
#include "lib/util/xmalloc.h"

struct loop {
    uv_loop_t uv;
    uv_prepare_t before_wait;
    uv_idle_t no_wait; /* active: libuv polls without waiting */
    uv_timer_t limit; /* bounds the wait of loop_run_once */
    uv_async_t keepalive; /* libuv does not wait on a loop without handles */
    uint64_t now_ns;  /* start of the turn's callbacks */
    uint64_t mark_ns; /* end of the last callback; 0: libuv waited since */
    uint64_t turn;
    bool stopping;
    bool running;

    struct list armed[LOOP_PHASE_COUNT]; /* hooks due in the hooks part of this turn */
    struct list late[LOOP_PHASE_COUNT];  /* hooks armed too late for it */
    int phase; /* the running one; -1: no hook is running */

    uint64_t slow_ns; /* 0: not watched */
    void (*slow_cb)(void *user, const char *name, uint64_t took_ns);
    void *slow_user;
};

struct loop_timer {
    uv_timer_t uv;
    struct loop *loop;
    const char *name;
    loop_cb cb;
    void *user;
};

struct loop_io {
    uv_poll_t uv;
    struct loop *loop;
    const char *name;
    loop_io_cb cb;
    void *user;
    unsigned int events;
};

struct loop_wake {
    uv_poll_t uv;
    int fd; /* eventfd */
    atomic_bool sent;
    struct loop *loop;
    const char *name;
    loop_cb cb;
    void *user;
};

struct loop_signal {
    uv_signal_t uv;
    struct loop *loop;
    loop_cb cb;
    void *user;
};

struct loop_hook {
    struct list node;
    struct loop *loop;
    const char *name;
    enum loop_phase phase;
    loop_cb cb;
    void *user;
    uint64_t ran_turn; /* turn number + 1 of its last run */
};

struct loop_work {
    uv_work_t uv;
    struct loop *loop;
    struct loop_job job;
};

uint64_t loop_clock_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000U + (uint64_t)ts.tv_nsec;
}

/* Around every callback. */
static inline void callback_enter(struct loop *loop)
{
    if (loop->mark_ns == 0) {
        loop->mark_ns = loop_clock_ns();
        loop->now_ns = loop->mark_ns;
    }
}

static inline void callback_leave(struct loop *loop, const char *name)
{
    uint64_t end = loop_clock_ns(), took = end - loop->mark_ns;

    loop->mark_ns = end;
    if (UNLIKELY(loop->slow_ns != 0 && took > loop->slow_ns))
        loop->slow_cb(loop->slow_user, name, took);
}

static bool hooks_armed(const struct loop *loop)
{
    for (int i = 0; i < LOOP_PHASE_COUNT; i++) {
        if (!list_empty(&loop->armed[i]))
            return true;
    }
    return false;
}

static void on_idle(uv_idle_t *uv)
{
}

/* Timers have run by now; what they asked for must not wait for input. */
static void on_before_wait(uv_prepare_t *uv)
{
    struct loop *loop = uv->data;

    loop->mark_ns = 0;
    if (loop->stopping || hooks_armed(loop))
        uv_idle_start(&loop->no_wait, on_idle);
}

static void on_nothing(uv_async_t *uv)
{
}

static void on_limit(uv_timer_t *uv)
{
}

struct loop *loop_new(void)
{
    struct loop *loop = xcalloc(1, sizeof(*loop));

    if (uv_loop_init(&loop->uv) != 0)
        goto fail_loop;
    if (uv_async_init(&loop->uv, &loop->keepalive, on_nothing) != 0)
        goto fail_async;
    loop->keepalive.data = loop;
    uv_prepare_init(&loop->uv, &loop->before_wait);
    loop->before_wait.data = loop;
    uv_prepare_start(&loop->before_wait, on_before_wait);
    uv_idle_init(&loop->uv, &loop->no_wait);
    uv_timer_init(&loop->uv, &loop->limit);
    loop->limit.data = loop;
    for (int i = 0; i < LOOP_PHASE_COUNT; i++) {
        list_init(&loop->armed[i]);
        list_init(&loop->late[i]);
    }
    loop->phase = -1;
    loop->now_ns = loop_clock_ns();
    return loop;

fail_async:
    uv_run(&loop->uv, UV_RUN_NOWAIT);
    uv_loop_close(&loop->uv);
fail_loop:
    free(loop);
    return NULL;
}

void loop_free(struct loop *loop)
{
    int r;

    if (loop == NULL)
        return;
    assert(!loop->running);
    uv_close((uv_handle_t *)&loop->keepalive, NULL);
    uv_close((uv_handle_t *)&loop->before_wait, NULL);
    uv_close((uv_handle_t *)&loop->no_wait, NULL);
    uv_close((uv_handle_t *)&loop->limit, NULL);
    uv_run(&loop->uv, UV_RUN_DEFAULT); /* closes what was freed, waits for jobs */
    for (int i = 0; i < LOOP_PHASE_COUNT; i++)
        assert(list_empty(&loop->armed[i]) && list_empty(&loop->late[i]));
    r = uv_loop_close(&loop->uv);
    assert(r == 0); /* else a handle was not freed */
    (void)r;
    free(loop);
}

static void run_hooks(struct loop *loop)
{
    struct list *node;

    for (int phase = 0; phase < LOOP_PHASE_COUNT; phase++) {
        loop->phase = phase;
        while ((node = list_pop_front(&loop->armed[phase])) != NULL) {
            struct loop_hook *hook = LIST_ENTRY(node, struct loop_hook, node);
            const char *name = hook->name;

            hook->ran_turn = loop->turn + 1;
            callback_enter(loop);
            hook->cb(hook->user); /* may free the hook */
            callback_leave(loop, name);
        }
    }
    loop->phase = -1;
    for (int phase = 0; phase < LOOP_PHASE_COUNT; phase++) {
        while ((node = list_pop_front(&loop->late[phase])) != NULL)
            list_push_back(&loop->armed[phase], node);
    }
}

static void run_turn(struct loop *loop, bool wait)
{
    assert(!loop->running); /* a callback that runs the loop would reorder everything */
    loop->running = true;
    uv_run(&loop->uv, wait && !hooks_armed(loop) ? UV_RUN_ONCE : UV_RUN_NOWAIT);
    uv_idle_stop(&loop->no_wait);
    run_hooks(loop);
    loop->turn++;
    loop->running = false;
}

void loop_run(struct loop *loop)
{
    loop->stopping = false;
    while (!loop->stopping)
        run_turn(loop, true);
}

void loop_run_once(struct loop *loop, uint64_t timeout_ms)
{
    if (timeout_ms == 0) {
        run_turn(loop, false);
        return;
    }
    uv_update_time(&loop->uv);
    uv_timer_start(&loop->limit, on_limit, timeout_ms, 0);
    run_turn(loop, true);
    uv_timer_stop(&loop->limit);
}

void loop_stop(struct loop *loop)
{
    loop->stopping = true;
}

uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->now_ns;
}

uint64_t loop_now_ms(const struct loop *loop)
{
    return loop->now_ns / 1000000;
}

void loop_set_slow_handler(struct loop *loop, uint64_t slow_ns,
                           void (*cb)(void *user, const char *name, uint64_t took_ns), void *user)
{
    assert(slow_ns == 0 || cb != NULL);
    loop->slow_ns = slow_ns;
    loop->slow_cb = cb;
    loop->slow_user = user;
}

uint64_t loop_turn_count(const struct loop *loop)
{
    return loop->turn;
}

/* ---- timers ---- */

static void timer_closed(uv_handle_t *uv)
{
    free(CONTAINER_OF(uv, struct loop_timer, uv));
}

static void on_timer(uv_timer_t *uv)
{
    struct loop_timer *timer = CONTAINER_OF(uv, struct loop_timer, uv);
    struct loop *loop = timer->loop;

    callback_enter(loop);
    timer->cb(timer->user); /* may free the timer, but its memory stays until it is closed */
    callback_leave(loop, timer->name);
}

struct loop_timer *loop_timer_new(struct loop *loop, const char *name, loop_cb cb, void *user)
{
    struct loop_timer *timer = xcalloc(1, sizeof(*timer));

    timer->loop = loop;
    timer->name = name;
    timer->cb = cb;
    timer->user = user;
    uv_timer_init(&loop->uv, &timer->uv);
    return timer;
}

void loop_timer_free(struct loop_timer *timer)
{
    if (timer != NULL)
        uv_close((uv_handle_t *)&timer->uv, timer_closed);
}

void loop_timer_start(struct loop_timer *timer, uint64_t after_ms, uint64_t repeat_ms)
{
    uv_update_time(&timer->loop->uv); /* else a long callback before us shortens the wait */
    uv_timer_start(&timer->uv, on_timer, after_ms, repeat_ms);
}

void loop_timer_stop(struct loop_timer *timer)
{
    uv_timer_stop(&timer->uv);
}

bool loop_timer_active(const struct loop_timer *timer)
{
    return uv_is_active((const uv_handle_t *)&timer->uv) != 0;
}

/* ---- descriptors ---- */

static void io_closed(uv_handle_t *uv)
{
    free(CONTAINER_OF(uv, struct loop_io, uv));
}

static void on_io(uv_poll_t *uv, int status, int uv_events)
{
    struct loop_io *io = CONTAINER_OF(uv, struct loop_io, uv);
    struct loop *loop = io->loop;
    unsigned int events = 0;

    if (status < 0) {
        /* The descriptor is in error and libuv stopped watching it. Whatever the owner waited for
         * would return that error now; but an owner that reads less than there is comes to the error
         * only next time, so there must be a next time. */
        unsigned int watched = io->events;

        events = watched | LOOP_HANGUP;
        io->events = 0;
        loop_io_set(io, watched);
    } else {
        if ((uv_events & UV_READABLE) != 0)
            events |= LOOP_READ;
        if ((uv_events & UV_WRITABLE) != 0)
            events |= LOOP_WRITE;
        if ((uv_events & UV_DISCONNECT) != 0)
            events |= LOOP_HANGUP;
    }
    callback_enter(loop);
    io->cb(io->user, events);
    callback_leave(loop, io->name);
}

struct loop_io *loop_io_new(struct loop *loop, const char *name, int fd, loop_io_cb cb, void *user)
{
    struct loop_io *io = xcalloc(1, sizeof(*io));
    int r;

    io->loop = loop;
    io->name = name;
    io->cb = cb;
    io->user = user;
    r = uv_poll_init(&loop->uv, &io->uv, fd);
    if (r != 0)
        PANIC("watching descriptor %d for %s: %s", fd, name, strerror(-r));
    return io;
}

void loop_io_free(struct loop_io *io)
{
    if (io == NULL)
        return;
    uv_poll_stop(&io->uv);
    uv_close((uv_handle_t *)&io->uv, io_closed);
}

void loop_io_set(struct loop_io *io, unsigned int events)
{
    int uv_events = UV_DISCONNECT;

    assert((events & ~(unsigned int)(LOOP_READ | LOOP_WRITE)) == 0);
    if (events == io->events)
        return;
    io->events = events;
    if (events == 0) {
        uv_poll_stop(&io->uv);
        return;
    }
    if ((events & LOOP_READ) != 0)
        uv_events |= UV_READABLE;
    if ((events & LOOP_WRITE) != 0)
        uv_events |= UV_WRITABLE;
    uv_poll_start(&io->uv, uv_events, on_io);
}

/* ---- wakes ----
 *
 * An eventfd of our own. libuv 1.44's wakes make the loop spin until the sender's write has returned,
 * and waking somebody is just when the kernel likes to take the processor from the sender: a tenth of
 * raftd's time where threads outnumber processors. */

static void wake_closed(uv_handle_t *uv)
{
    struct loop_wake *wake = CONTAINER_OF(uv, struct loop_wake, uv);

    close(wake->fd);
    free(wake);
}

/* `sent` falls before the callback looks for what there is: whoever still sees it set has put his
 * work where the callback finds it. */
static void on_wake(uv_poll_t *uv, int status, int uv_events)
{
    struct loop_wake *wake = CONTAINER_OF(uv, struct loop_wake, uv);
    struct loop *loop = wake->loop;
    const char *name = wake->name;
    eventfd_t count;

    (void)eventfd_read(wake->fd, &count);
    atomic_exchange(&wake->sent, false);
    callback_enter(loop);
    wake->cb(wake->user);
    callback_leave(loop, name);
}

struct loop_wake *loop_wake_new(struct loop *loop, const char *name, loop_cb cb, void *user)
{
    struct loop_wake *wake = xcalloc(1, sizeof(*wake));

    wake->loop = loop;
    wake->name = name;
    wake->cb = cb;
    wake->user = user;
    wake->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake->fd < 0 || uv_poll_init(&loop->uv, &wake->uv, wake->fd) != 0)
        PANIC("no descriptors left for %s", name);
    uv_poll_start(&wake->uv, UV_READABLE, on_wake);
    return wake;
}

void loop_wake_free(struct loop_wake *wake)
{
    if (wake == NULL)
        return;
    uv_poll_stop(&wake->uv);
    uv_close((uv_handle_t *)&wake->uv, wake_closed);
}

void loop_wake_send(struct loop_wake *wake)
{
    if (!atomic_exchange(&wake->sent, true))
        (void)eventfd_write(wake->fd, 1);
}

/* ---- hooks ---- */

struct loop_hook *loop_hook_new(struct loop *loop, const char *name, enum loop_phase phase,
                                loop_cb cb, void *user)
{
    struct loop_hook *hook = xcalloc(1, sizeof(*hook));

    assert(phase < LOOP_PHASE_COUNT);
    list_init(&hook->node);
    hook->loop = loop;
    hook->name = name;
    hook->phase = phase;
    hook->cb = cb;
    hook->user = user;
    return hook;
}

void loop_hook_free(struct loop_hook *hook)
{
    if (hook == NULL)
        return;
    list_remove(&hook->node);
    free(hook);
}

void loop_hook_arm(struct loop_hook *hook)
{
    struct loop *loop = hook->loop;
    bool late;

    if (!list_empty(&hook->node))
        return;
    /* A hook runs once a turn, also when it arms itself or two hooks arm each other: a turn ends. */
    late = loop->phase >= 0 &&
           ((int)hook->phase < loop->phase || hook->ran_turn == loop->turn + 1);
    list_push_back(late ? &loop->late[hook->phase] : &loop->armed[hook->phase], &hook->node);
}

/* ---- jobs ---- */

static void on_work(uv_work_t *uv)
{
    struct loop_work *work = CONTAINER_OF(uv, struct loop_work, uv);

    work->job.run(work->job.arg);
}

static void on_work_done(uv_work_t *uv, int status)
{
    struct loop_work *work = CONTAINER_OF(uv, struct loop_work, uv);
    struct loop *loop = work->loop;
    struct loop_job job = work->job;

    free(work);
    callback_enter(loop);
    if (job.done != NULL)
        job.done(job.arg);
    callback_leave(loop, "job done");
}

void loop_submit(struct loop *loop, const struct loop_job *job)
{
    struct loop_work *work = xcalloc(1, sizeof(*work));

    assert(job->run != NULL);
    work->loop = loop;
    work->job = *job;
    uv_queue_work(&loop->uv, &work->uv, on_work, on_work_done);
}

/* ---- signals ---- */

static void signal_closed(uv_handle_t *uv)
{
    free(CONTAINER_OF(uv, struct loop_signal, uv));
}

static void on_signal(uv_signal_t *uv, int signum)
{
    struct loop_signal *sig = CONTAINER_OF(uv, struct loop_signal, uv);
    struct loop *loop = sig->loop;

    callback_enter(loop);
    sig->cb(sig->user);
    callback_leave(loop, "signal");
}

struct loop_signal *loop_signal_new(struct loop *loop, int signum, loop_cb cb, void *user)
{
    struct loop_signal *sig = xcalloc(1, sizeof(*sig));
    int r;

    sig->loop = loop;
    sig->cb = cb;
    sig->user = user;
    uv_signal_init(&loop->uv, &sig->uv);
    r = uv_signal_start(&sig->uv, on_signal, signum);
    if (r != 0)
        PANIC("watching signal %d: %s", signum, strerror(-r));
    return sig;
}

void loop_signal_free(struct loop_signal *sig)
{
    if (sig != NULL)
        uv_close((uv_handle_t *)&sig->uv, signal_closed);
}
