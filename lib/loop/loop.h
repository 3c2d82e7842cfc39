/*
 * The event loop of a daemon: one thread, and everything a daemon's state needs runs on it.
 *
 * A turn: wait, then input callbacks (descriptors, wakes, timers), then the armed hooks in phase
 * order. Hooks are how work is batched: input handlers only collect, LOOP_PHASE_WORK acts once for
 * all of it (one raft ready, one LevelDB batch), LOOP_PHASE_FLUSH writes what came out (one nng
 * message per link, one writev per connection). A hook armed while hooks run runs in the same turn
 * if its phase is not past yet, else in the next turn, which then does not wait.
 *
 * Every handle is created with x_new and released with x_free on the loop thread; after x_free its
 * callback is never called again, also when it was already due. Handles are freed before the loop.
 *
 * Threads: all functions are for the loop thread, except loop_wake_send. libuv types stay in this
 * folder.
 */
#ifndef CONCLAVE_LOOP_LOOP_H
#define CONCLAVE_LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct loop;
struct loop_timer;
struct loop_io;
struct loop_wake;
struct loop_hook;
struct loop_signal;

typedef void (*loop_cb)(void *user);

struct loop *loop_new(void); /* NULL: no descriptors left */
void loop_free(struct loop *loop);

/* Runs turns until loop_stop; then finishes the current turn, hooks included, and returns. */
void loop_run(struct loop *loop);
/* Runs one turn, waiting at most timeout_ms (0: do not wait). For tests. */
void loop_run_once(struct loop *loop, uint64_t timeout_ms);
void loop_stop(struct loop *loop);

/* Monotonic clock: as of the start of this turn, and freshly read. */
uint64_t loop_now_ns(const struct loop *loop);
uint64_t loop_now_ms(const struct loop *loop);
uint64_t loop_clock_ns(void);

/* Called when one callback ran longer than slow_ns, with its name; for the daemon's log. */
void loop_set_slow_handler(struct loop *loop, uint64_t slow_ns,
                           void (*cb)(void *user, const char *name, uint64_t took_ns), void *user);
/* Turns completed: the watchdog's proof of life. */
uint64_t loop_turn_count(const struct loop *loop);

/* Timers. `name` is borrowed for the handle's life (a literal). repeat_ms 0: once. */
struct loop_timer *loop_timer_new(struct loop *loop, const char *name, loop_cb cb, void *user);
void loop_timer_free(struct loop_timer *timer);
void loop_timer_start(struct loop_timer *timer, uint64_t after_ms, uint64_t repeat_ms);
void loop_timer_stop(struct loop_timer *timer);
bool loop_timer_active(const struct loop_timer *timer);

/* Descriptors, level-triggered. The caller keeps owning fd and frees the handle before closing it. */
enum {
    LOOP_READ = 1,
    LOOP_WRITE = 2,
    LOOP_HANGUP = 4, /* reported, never asked for: the peer closed */
};
typedef void (*loop_io_cb)(void *user, unsigned int events);
struct loop_io *loop_io_new(struct loop *loop, const char *name, int fd, loop_io_cb cb, void *user);
void loop_io_free(struct loop_io *io);
void loop_io_set(struct loop_io *io, unsigned int events); /* 0: watch nothing */

/* Wake the loop from any thread; sends before the callback runs are one callback. */
struct loop_wake *loop_wake_new(struct loop *loop, const char *name, loop_cb cb, void *user);
void loop_wake_free(struct loop_wake *wake); /* no thread may send any more */
void loop_wake_send(struct loop_wake *wake);

enum loop_phase {
    LOOP_PHASE_WORK,
    LOOP_PHASE_FLUSH,
    LOOP_PHASE_COUNT,
};
struct loop_hook *loop_hook_new(struct loop *loop, const char *name, enum loop_phase phase,
                                loop_cb cb, void *user);
void loop_hook_free(struct loop_hook *hook);
void loop_hook_arm(struct loop_hook *hook); /* idempotent until it has run */

/*
 * Work that blocks: `run` on a worker thread, then `done` on the loop thread. The job owns its
 * inputs; `run` touches no daemon state. A job cannot be cancelled; loop_free waits for jobs.
 */
struct loop_job {
    void (*run)(void *arg);
    void (*done)(void *arg);
    void *arg;
};
void loop_submit(struct loop *loop, const struct loop_job *job);

/* Signals, delivered on the loop. */
struct loop_signal *loop_signal_new(struct loop *loop, int signum, loop_cb cb, void *user);
void loop_signal_free(struct loop_signal *sig);

#endif
