#include <criterion/criterion.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "lib/loop/loop.h"

/* Everything that happens in a test, as letters in order. */
struct trace {
    struct loop *loop;
    char text[64];
    size_t len;
    struct loop_hook *work, *work2, *flush;
    struct loop_timer *timer;
    struct loop_io *io;
    struct loop_wake *wake;
    struct loop_signal *sig;
    int fd[2];
    int again;
    unsigned int events;
};

static void note(struct trace *t, char c)
{
    cr_assert(t->len + 1 < sizeof(t->text));
    t->text[t->len++] = c;
    t->text[t->len] = '\0';
}

static void work_cb(void *user)
{
    struct trace *t = user;

    note(t, 'w');
    loop_hook_arm(t->flush);
    if (t->again > 0 && t->again-- > 0)
        loop_hook_arm(t->work);
}

static void work2_cb(void *user)
{
    note(user, '2');
}

static void flush_cb(void *user)
{
    note(user, 'f');
}

static void late_flush_cb(void *user)
{
    struct trace *t = user;

    note(t, 'F');
    loop_hook_arm(t->work2); /* its phase is past */
}

static void timer_cb(void *user)
{
    struct trace *t = user;

    note(t, 't');
    if (t->work != NULL)
        loop_hook_arm(t->work);
}

static void stop_cb(void *user)
{
    struct trace *t = user;

    note(t, 's');
    loop_hook_arm(t->flush);
    loop_stop(t->loop);
}

Test(loop, hooks_run_after_input_in_phase_order)
{
    struct trace t = {.loop = loop_new()};

    t.flush = loop_hook_new(t.loop, "flush", LOOP_PHASE_FLUSH, flush_cb, &t);
    t.work = loop_hook_new(t.loop, "work", LOOP_PHASE_WORK, work_cb, &t);
    t.timer = loop_timer_new(t.loop, "timer", timer_cb, &t);
    loop_hook_arm(t.flush);
    loop_hook_arm(t.flush); /* idempotent */
    loop_hook_arm(t.work);
    loop_run_once(t.loop, 10000); /* armed hooks: does not wait */
    cr_assert_str_eq(t.text, "wf");
    loop_timer_start(t.timer, 1, 0);
    cr_assert(loop_timer_active(t.timer));
    while (t.len < 5)
        loop_run_once(t.loop, 10000);
    cr_assert_str_eq(t.text, "wftwf");
    cr_assert_not(loop_timer_active(t.timer));
    loop_hook_free(t.flush);
    loop_hook_free(t.work);
    loop_timer_free(t.timer);
    loop_free(t.loop);
}

Test(loop, hook_arming_itself_runs_once_a_turn)
{
    struct trace t = {.loop = loop_new(), .again = 2};
    uint64_t turn;

    t.flush = loop_hook_new(t.loop, "flush", LOOP_PHASE_FLUSH, flush_cb, &t);
    t.work = loop_hook_new(t.loop, "work", LOOP_PHASE_WORK, work_cb, &t);
    turn = loop_turn_count(t.loop);
    loop_hook_arm(t.work);
    loop_run_once(t.loop, 10000);
    cr_assert_str_eq(t.text, "wf");
    loop_run_once(t.loop, 10000);
    loop_run_once(t.loop, 10000);
    cr_assert_str_eq(t.text, "wfwfwf");
    cr_assert_eq(loop_turn_count(t.loop), turn + 3);
    loop_run_once(t.loop, 0);
    cr_assert_str_eq(t.text, "wfwfwf");
    loop_hook_free(t.flush);
    loop_hook_free(t.work);
    loop_free(t.loop);
}

Test(loop, late_hook_makes_the_next_turn_not_wait, .timeout = 30)
{
    struct trace t = {.loop = loop_new()};

    t.work2 = loop_hook_new(t.loop, "work2", LOOP_PHASE_WORK, work2_cb, &t);
    t.flush = loop_hook_new(t.loop, "flush", LOOP_PHASE_FLUSH, late_flush_cb, &t);
    loop_hook_arm(t.flush);
    loop_run_once(t.loop, 10000);
    cr_assert_str_eq(t.text, "F");
    loop_run_once(t.loop, 1000000);
    cr_assert_str_eq(t.text, "F2");
    loop_hook_arm(t.flush);
    loop_hook_free(t.flush); /* armed and freed: never called */
    loop_run_once(t.loop, 0);
    cr_assert_str_eq(t.text, "F2");
    loop_hook_free(t.work2);
    loop_free(t.loop);
}

Test(loop, stop_finishes_the_turn)
{
    struct trace t = {.loop = loop_new()};

    t.flush = loop_hook_new(t.loop, "flush", LOOP_PHASE_FLUSH, flush_cb, &t);
    t.timer = loop_timer_new(t.loop, "timer", stop_cb, &t);
    loop_timer_start(t.timer, 0, 0);
    loop_run(t.loop);
    cr_assert_str_eq(t.text, "sf");
    loop_timer_free(t.timer);
    loop_hook_free(t.flush);
    loop_free(t.loop);
}

static void free_both_timers_cb(void *user)
{
    struct trace *t = user;

    note(t, 'x');
    loop_timer_free(t->timer);
    loop_wake_free(t->wake);
}

/* Both due in the same turn; the first frees the second. */
Test(loop, freed_handle_is_never_called)
{
    struct trace t = {.loop = loop_new()};
    struct loop_timer *first = loop_timer_new(t.loop, "first", free_both_timers_cb, &t);

    t.timer = loop_timer_new(t.loop, "second", timer_cb, &t);
    t.wake = loop_wake_new(t.loop, "wake", work2_cb, &t);
    loop_timer_start(first, 0, 0);
    loop_timer_start(t.timer, 0, 0);
    loop_wake_send(t.wake);
    loop_run_once(t.loop, 0);
    loop_run_once(t.loop, 0);
    cr_assert_str_eq(t.text, "x");
    loop_timer_free(first);
    loop_free(t.loop);
}

static void io_cb(void *user, unsigned int events)
{
    struct trace *t = user;
    char c;

    t->events = events;
    if ((events & LOOP_READ) != 0 && read(t->fd[0], &c, 1) == 1)
        note(t, c);
    if ((events & LOOP_WRITE) != 0)
        note(t, 'W');
    if ((events & LOOP_HANGUP) != 0) {
        note(t, 'H');
        loop_io_free(t->io);
        t->io = NULL;
    }
}

Test(loop, io_is_level_triggered_and_reports_hangup)
{
    struct trace t = {.loop = loop_new()};

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, t.fd), 0);
    t.io = loop_io_new(t.loop, "io", t.fd[0], io_cb, &t);
    cr_assert_eq(write(t.fd[1], "ab", 2), 2);
    loop_run_once(t.loop, 0);
    cr_assert_eq(t.len, 0); /* nothing asked for yet */
    loop_io_set(t.io, LOOP_READ);
    loop_run_once(t.loop, 10000);
    loop_run_once(t.loop, 10000);
    cr_assert_str_eq(t.text, "ab");
    loop_io_set(t.io, LOOP_WRITE);
    loop_run_once(t.loop, 10000);
    cr_assert_str_eq(t.text, "abW");
    loop_io_set(t.io, 0);
    loop_run_once(t.loop, 0);
    cr_assert_str_eq(t.text, "abW");
    loop_io_set(t.io, LOOP_READ);
    close(t.fd[1]);
    while (t.io != NULL)
        loop_run_once(t.loop, 10000);
    cr_assert_str_eq(t.text, "abWH");
    close(t.fd[0]);
    loop_free(t.loop);
}

static void *send_wakes(void *arg)
{
    for (int i = 0; i < 1000; i++)
        loop_wake_send(arg);
    return NULL;
}

static void wake_cb(void *user)
{
    struct trace *t = user;

    t->again++;
}

Test(loop, wakes_from_a_thread_are_merged_and_none_is_lost)
{
    struct trace t = {.loop = loop_new()};
    struct loop_wake *wake = loop_wake_new(t.loop, "wake", wake_cb, &t);
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, send_wakes, wake), 0);
    loop_run_once(t.loop, 10000);
    pthread_join(thread, NULL);
    loop_run_once(t.loop, 0);
    cr_assert(t.again >= 1 && t.again <= 1000);
    t.again = 0;
    loop_wake_send(wake);
    loop_wake_send(wake);
    loop_run_once(t.loop, 10000);
    cr_assert_eq(t.again, 1);
    loop_wake_free(wake);
    loop_free(t.loop);
}

static void job_run(void *arg)
{
    struct trace *t = arg;

    note(t, 'r');
}

static void job_done(void *arg)
{
    struct trace *t = arg;

    note(t, 'd');
}

Test(loop, free_waits_for_jobs)
{
    struct trace t = {.loop = loop_new()};

    loop_submit(t.loop, &(struct loop_job){.run = job_run, .done = job_done, .arg = &t});
    loop_free(t.loop);
    cr_assert_str_eq(t.text, "rd");
}

Test(loop, signal_is_delivered_on_the_loop)
{
    struct trace t = {.loop = loop_new()};

    t.flush = loop_hook_new(t.loop, "flush", LOOP_PHASE_FLUSH, flush_cb, &t);
    t.sig = loop_signal_new(t.loop, SIGUSR1, stop_cb, &t);
    raise(SIGUSR1);
    loop_run(t.loop);
    cr_assert_str_eq(t.text, "sf");
    loop_signal_free(t.sig);
    loop_hook_free(t.flush);
    loop_free(t.loop);
}

static void spin_cb(void *user)
{
    uint64_t end = loop_clock_ns() + 2000000;

    while (loop_clock_ns() < end)
        ;
}

static void slow_cb(void *user, const char *name, uint64_t took_ns)
{
    struct trace *t = user;

    cr_assert_str_eq(name, "spin");
    cr_assert_geq(took_ns, 2000000);
    note(t, 'S');
}

Test(loop, slow_callback_is_reported_by_name)
{
    struct trace t = {.loop = loop_new()};
    struct loop_timer *spin = loop_timer_new(t.loop, "spin", spin_cb, &t);
    uint64_t before = loop_now_ns(t.loop);

    loop_set_slow_handler(t.loop, 1000000, slow_cb, &t);
    loop_timer_start(spin, 1, 0);
    while (t.len == 0)
        loop_run_once(t.loop, 10000);
    cr_assert_str_eq(t.text, "S");
    cr_assert_gt(loop_now_ns(t.loop), before);
    cr_assert_eq(loop_now_ms(t.loop), loop_now_ns(t.loop) / 1000000);
    loop_timer_free(spin);
    loop_free(t.loop);
}

struct sip {
    int fd;
    size_t bytes;
    bool over;
};

/* A byte at a time: the error of the descriptor comes last. */
static void on_sip(void *user, unsigned int events)
{
    struct sip *s = user;
    char byte;
    ssize_t n = recv(s->fd, &byte, 1, MSG_DONTWAIT);

    if (n == 1)
        s->bytes++;
    else
        s->over = true;
}

Test(loop, an_error_is_told_until_it_was_read)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct linger now = {.l_onoff = 1};
    socklen_t len = sizeof(addr);
    struct loop *loop = loop_new();
    int listener = socket(AF_INET, SOCK_STREAM, 0), caller = socket(AF_INET, SOCK_STREAM, 0);
    struct sip s = {0};
    struct loop_io *io;

    cr_assert_eq(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(listen(listener, 1), 0);
    cr_assert_eq(getsockname(listener, (struct sockaddr *)&addr, &len), 0);
    cr_assert_eq(connect(caller, (struct sockaddr *)&addr, sizeof(addr)), 0);
    s.fd = accept(listener, NULL, NULL);
    cr_assert_eq(send(caller, "hello", 5, 0), 5);
    setsockopt(caller, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(caller);
    io = loop_io_new(loop, "sip", s.fd, on_sip, &s);
    loop_io_set(io, LOOP_READ);
    while (!s.over)
        loop_run_once(loop, 100);
    loop_io_free(io);
    close(s.fd);
    close(listener);
    loop_free(loop);
}
