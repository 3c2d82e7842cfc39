/*
 * The life of one child. Two things are easy to get wrong here and are done in one place each: the
 * order fork - wait - fork (child_handle moves to BACKOFF only after waitpid), and the last words of a
 * process (the channel is drained after it ended, before its exit is judged).
 *
 * Back-off: a process that had been up is started again at once, because most deaths are single
 * events; one that fails again soon, or never came up, waits 100 ms and twice as long each time, up to
 * 5 s, give or take a fifth. Ten seconds of being up forgive everything.
 */
#include "supervisor/child.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/prng.h"
#include "lib/util/xmalloc.h"
#include "supervisor/listen.h"

enum {
    BACKOFF_MS_MIN = 100,
    BACKOFF_MS_MAX = 5000,
    FORGIVE_MS = 10000,
    LOST_CONTROL_MS = 1000, /* a process that closed its channel is on its way out, or useless */
    MESSAGE_BYTES_MAX = 4096,
    MESSAGES_PER_TURN_MAX = 64,
    NONSENSE_LOGGED_MAX = 10, /* per life of the process */
    USAGE_STATUS = 2,
    EXEC_FAILED_STATUS = 127,
};

enum child_event { EVENT_START, EVENT_UP, EVENT_EXIT, EVENT_STOP };

struct child {
    struct child_args args;
    char *name;
    char *path;
    enum child_state state;
    pid_t pid; /* 0: none */
    uint64_t generation;
    int control_fd; /* -1: none */
    struct loop_io *control_io;
    struct loop_timer *timer; /* BACKOFF: retry; else: SIGKILL */

    bool was_ready;  /* in this life */
    bool ever_ready; /* in any */
    uint64_t ready_at_ms;
    unsigned int failures;
    int wait_status;

    uint64_t ping;          /* number of the last PING */
    uint64_t ping_seconds;  /* turns of the watch since it was sent; 0: answered */
    unsigned int nonsense;
    char *status;
    char *fatal;
};

static const char *const state_names[] = {"down", "starting", "ready", "stopping", "backing off"};

static const bool allowed_moves[5][5] = {
    [CHILD_DOWN] = {[CHILD_STARTING] = true, [CHILD_BACKOFF] = true},
    [CHILD_STARTING] = {[CHILD_READY] = true, [CHILD_STOPPING] = true, [CHILD_BACKOFF] = true},
    [CHILD_READY] = {[CHILD_STOPPING] = true, [CHILD_BACKOFF] = true},
    [CHILD_STOPPING] = {[CHILD_DOWN] = true},
    [CHILD_BACKOFF] = {[CHILD_STARTING] = true, [CHILD_DOWN] = true, [CHILD_BACKOFF] = true},
};

static void child_move(struct child *c, enum child_state to)
{
    assert(allowed_moves[c->state][to]);
    c->state = to;
}

static void set_text(char **slot, const char *text)
{
    free(*slot);
    *slot = text != NULL ? xstrdup(text) : NULL;
}

/* ---- the control channel ---- */

static void close_control(struct child *c)
{
    loop_io_free(c->control_io);
    c->control_io = NULL;
    if (c->control_fd >= 0)
        close(c->control_fd);
    c->control_fd = -1;
}

/* False: the child does not read its channel. Nobody waits for room. */
static bool send_text(struct child *c, const char *text, int fd)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (c->control_fd < 0)
        return false;
    if (fd >= 0) {
        struct cmsghdr *h;

        msg.msg_control = control.space;
        msg.msg_controllen = sizeof(control.space);
        h = CMSG_FIRSTHDR(&msg);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(h), &fd, sizeof(int));
    }
    return sendmsg(c->control_fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

static void nonsense(struct child *c, const char *text)
{
    if (c->nonsense++ < NONSENSE_LOGGED_MAX)
        log_warn("%s (pid %ld) says \"%.64s\", which means nothing", c->name, (long)c->pid, text);
}

static void child_handle(struct child *c, enum child_event event);

static void on_message(struct child *c, char *text, size_t len)
{
    uint64_t n;
    char *end;

    text[len] = '\0';
    for (size_t i = 0; i < len; i++) { /* it may end up in a log line */
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            text[i] = ' ';
    }
    if (strcmp(text, "READY") == 0) {
        if (c->state == CHILD_STARTING)
            child_handle(c, EVENT_UP);
        else if (c->state != CHILD_STOPPING)
            nonsense(c, text);
    } else if (strncmp(text, "STATUS ", 7) == 0) {
        set_text(&c->status, text + 7);
        c->args.ops->on_change(c->args.user, c);
    } else if (strncmp(text, "PONG ", 5) == 0) {
        n = strtoull(text + 5, &end, 10);
        if (*end != '\0' || end == text + 5 || n > c->ping)
            nonsense(c, text);
        else if (n == c->ping)
            c->ping_seconds = 0;
    } else if (strcmp(text, "HANDED-OVER") == 0) {
        c->args.ops->on_handed_over(c->args.user, c);
    } else if (strncmp(text, "FATAL ", 6) == 0) {
        set_text(&c->fatal, text + 6);
    } else {
        nonsense(c, text);
    }
}

/* Reads what is there, bounded. False at the end of the channel. */
static bool read_control(struct child *c, size_t limit)
{
    char text[MESSAGE_BYTES_MAX + 1];

    for (size_t i = 0; i < limit && c->control_fd >= 0; i++) {
        struct iovec iov = {.iov_base = text, .iov_len = MESSAGE_BYTES_MAX};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1}; /* descriptors sent are dropped */
        ssize_t n = recvmsg(c->control_fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return true;
        if (n <= 0)
            return false;
        if ((msg.msg_flags & MSG_TRUNC) != 0 && strncmp(text, "STATUS ", 7) != 0 &&
            strncmp(text, "FATAL ", 6) != 0) {
            text[n] = '\0';
            nonsense(c, text);
            continue;
        }
        on_message(c, text, (size_t)n);
    }
    return true;
}

static void on_control(void *user, unsigned int events)
{
    struct child *c = user;

    if (read_control(c, MESSAGES_PER_TURN_MAX))
        return;
    /* Its exit normally follows at once; if not, a process nobody can talk to is of no use. */
    if (c->state != CHILD_STOPPING)
        log_warn("%s (pid %ld) closed its control channel", c->name, (long)c->pid);
    close_control(c);
    if (c->state != CHILD_STOPPING)
        loop_timer_start(c->timer, LOST_CONTROL_MS, 0);
}

/* ---- starting a process ---- */

static int make_conf_fd(struct bytes conf)
{
    int fd = memfd_create("conclave-conf", MFD_CLOEXEC);

    if (fd < 0)
        return -errno;
    for (size_t done = 0; done < conf.len;) {
        ssize_t n = write(fd, conf.data + done, conf.len - done);

        if (n < 0 && errno != EINTR) {
            int r = -errno;

            close(fd);
            return r;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    lseek(fd, 0, SEEK_SET);
    return fd;
}

struct launch {
    char **argv;
    size_t argc;
    int *fds; /* to keep open */
    size_t fd_count;
};

static void launch_add(struct launch *l, char *arg, int fd)
{
    if (arg != NULL) {
        l->argv = xreallocarray(l->argv, l->argc + 2, sizeof(*l->argv));
        l->argv[l->argc++] = arg;
        l->argv[l->argc] = NULL;
    }
    if (fd >= 0) {
        l->fds = xreallocarray(l->fds, l->fd_count + 1, sizeof(*l->fds));
        l->fds[l->fd_count++] = fd;
    }
}

static void launch_fini(struct launch *l)
{
    for (size_t i = 0; i < l->argc; i++)
        free(l->argv[i]);
    free(l->argv);
    free(l->fds);
}

/* In the forked process, of which this is the only thread. No way back. */
NORETURN static void become(const char *path, const struct launch *l)
{
    static const int to_default[] = {SIGPIPE, SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
    static const char *const manager_variables[] = {"NOTIFY_SOCKET", "WATCHDOG_USEC",
                                                    "WATCHDOG_PID",  "LISTEN_FDS",
                                                    "LISTEN_PID",    "LISTEN_FDNAMES"};
    sigset_t none;
    int null;

    /* Ctrl-C in a terminal reaches the whole process group; stopping has an order, so only the
     * supervisor may hear it. */
    setpgid(0, 0);
    /* what the service manager told this process is not for its children */
    for (size_t i = 0; i < ARRAY_LEN(manager_variables); i++)
        unsetenv(manager_variables[i]);
    sigemptyset(&none);
    for (size_t i = 0; i < ARRAY_LEN(to_default); i++)
        signal(to_default[i], SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    null = open("/dev/null", O_RDONLY);
    if (null > 0) {
        dup2(null, STDIN_FILENO);
        close(null);
    }
    for (size_t i = 0; i < l->fd_count; i++)
        fcntl(l->fds[i], F_SETFD, 0);
    execv(path, l->argv);
    _exit(EXEC_FAILED_STATUS);
}

static int spawn(struct child *c)
{
    CLEANUP(launch_fini) struct launch l = {0};
    CLEANUP(buf_fini) struct buf conf = BUF_INIT;
    CLEANUP(closep) int conf_fd = -1;
    CLEANUP(closep) int far_fd = -1;
    int pair[2];
    pid_t pid;

    assert(c->pid == 0);
    c->generation = c->args.ops->fill_conf(c->args.user, c, &conf);
    conf_fd = make_conf_fd(buf_bytes(&conf));
    if (conf_fd < 0)
        return conf_fd;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    c->control_fd = pair[0];
    far_fd = pair[1];
    fcntl(c->control_fd, F_SETFL, O_NONBLOCK);

    launch_add(&l, xstrdup(c->path), -1);
    launch_add(&l, xasprintf("--conf-fd=%d", conf_fd), conf_fd);
    launch_add(&l, xasprintf("--control-fd=%d", far_fd), far_fd);
    for (size_t i = 0; c->args.listeners != NULL && i < c->args.listeners->count; i++) {
        const struct listener *s = &c->args.listeners->items[i];

        launch_add(&l, xasprintf("--listen-fd=%d:%s", s->fd, s->url), s->fd);
    }
    launch_add(&l, NULL, c->args.inherited_fd);

    pid = fork();
    if (pid < 0) {
        int r = -errno;

        close_control(c);
        return r;
    }
    if (pid == 0)
        become(c->path, &l);
    c->pid = pid;
    c->control_io = loop_io_new(c->args.loop, "child control", c->control_fd, on_control, c);
    loop_io_set(c->control_io, LOOP_READ);
    c->was_ready = false;
    c->ping_seconds = 0;
    c->nonsense = 0;
    set_text(&c->status, NULL);
    set_text(&c->fatal, NULL);
    log_debug("%s: started, pid %ld, generation %" PRIu64, c->name, (long)pid, c->generation);
    return 0;
}

/* ---- the state machine ---- */

static uint64_t next_delay_ms(struct child *c)
{
    uint64_t delay;

    if (c->was_ready && loop_clock_ns() / 1000000 - c->ready_at_ms >= FORGIVE_MS)
        c->failures = 0;
    if (c->was_ready && c->failures == 0) {
        c->failures = 1;
        return 0;
    }
    c->failures = MAX(c->failures, 1U);
    delay = (uint64_t)BACKOFF_MS_MIN << MIN(c->failures - 1, 10U);
    delay = MIN(delay, BACKOFF_MS_MAX);
    c->failures++;
    return delay - delay / 5 + prng_below(c->args.prng, delay / 5 * 2 + 1);
}

static void enter_backoff(struct child *c)
{
    uint64_t delay = next_delay_ms(c);

    child_move(c, CHILD_BACKOFF);
    loop_timer_start(c->timer, delay, 0);
    log_info("%s: starting again in %" PRIu64 " ms", c->name, delay);
}

static void enter_starting(struct child *c)
{
    int r = spawn(c);

    if (r < 0) {
        log_error("%s: cannot start %s: %s", c->name, c->path, strerror(-r));
        c->was_ready = false;
        enter_backoff(c);
        return;
    }
    child_move(c, CHILD_STARTING);
}

static void describe_exit(const struct child *c)
{
    int st = c->wait_status;
    bool wanted = c->state == CHILD_STOPPING;

    if (WIFSIGNALED(st))
        log_warn("%s (pid %ld) was ended by signal %d (%s)%s", c->name, (long)c->pid, WTERMSIG(st),
                 strsignal(WTERMSIG(st)), WCOREDUMP(st) ? ", core dumped" : "");
    else if (WEXITSTATUS(st) == EXEC_FAILED_STATUS)
        log_error("%s: cannot execute %s", c->name, c->path);
    else if (wanted && WEXITSTATUS(st) == 0)
        log_info("%s stopped", c->name);
    else
        log_warn("%s (pid %ld) ended with status %d", c->name, (long)c->pid, WEXITSTATUS(st));
}

/* True: the supervisor was told to give up, so no restart. */
static bool last_words(struct child *c)
{
    CLEANUP(freep) char *fatal = TAKE(c->fatal);

    bool refused_to_start = !c->ever_ready && WIFEXITED(c->wait_status);

    if (refused_to_start && WEXITSTATUS(c->wait_status) == USAGE_STATUS) {
        c->args.ops->on_fatal(c->args.user, c, "it does not understand how it was started");
        return true;
    }
    if (fatal == NULL)
        return false;
    if (strstr(fatal, "removed from the cluster") != NULL) {
        c->args.ops->on_removed(c->args.user, c, fatal);
        return true;
    }
    if (refused_to_start && WEXITSTATUS(c->wait_status) == 1) {
        c->args.ops->on_fatal(c->args.user, c, fatal);
        return true;
    }
    log_error("%s: %s", c->name, fatal);
    return false;
}

static void child_handle(struct child *c, enum child_event event)
{
    enum child_state before = c->state;

    switch (event) {
    case EVENT_START:
        if (c->state == CHILD_DOWN || c->state == CHILD_BACKOFF)
            enter_starting(c);
        break;
    case EVENT_UP:
        assert(c->state == CHILD_STARTING);
        c->was_ready = c->ever_ready = true;
        c->ready_at_ms = loop_clock_ns() / 1000000;
        child_move(c, CHILD_READY);
        log_info("%s is ready (pid %ld)", c->name, (long)c->pid);
        break;
    case EVENT_EXIT:
        describe_exit(c);
        loop_timer_stop(c->timer);
        close_control(c);
        c->pid = 0;
        if (c->state == CHILD_STOPPING) {
            child_move(c, CHILD_DOWN);
            break;
        }
        enter_backoff(c);
        if (last_words(c) && c->state == CHILD_BACKOFF) {
            loop_timer_stop(c->timer);
            child_move(c, CHILD_DOWN);
        }
        break;
    case EVENT_STOP:
        if (c->state == CHILD_BACKOFF) {
            loop_timer_stop(c->timer);
            child_move(c, CHILD_DOWN);
        } else if (c->state == CHILD_STARTING || c->state == CHILD_READY) {
            if (!send_text(c, "STOP", -1))
                close_control(c); /* end of file says the same, more urgently */
            loop_timer_start(c->timer, c->args.stop_ms, 0);
            child_move(c, CHILD_STOPPING);
        }
        break;
    }
    if (c->state != before)
        c->args.ops->on_change(c->args.user, c);
}

static void on_timer(void *user)
{
    struct child *c = user;

    if (c->state == CHILD_BACKOFF) {
        child_handle(c, EVENT_START);
    } else if (c->pid != 0) {
        log_warn("%s (pid %ld) does not end; killing it", c->name, (long)c->pid);
        child_kill(c);
    }
}

/* ---- for the supervisor ---- */

struct child *child_new(const struct child_args *args)
{
    struct child *c = xcalloc(1, sizeof(*c));

    c->args = *args;
    c->path = xstrdup(args->path);
    c->name = args->index == 0 ? xstrdup(args->name)
                               : xasprintf("%s %zu", args->name, args->index);
    c->control_fd = -1;
    c->timer = loop_timer_new(args->loop, "child", on_timer, c);
    return c;
}

void child_free(struct child *c)
{
    if (c == NULL)
        return;
    assert(c->pid == 0);
    close_control(c);
    loop_timer_free(c->timer);
    free(c->name);
    free(c->path);
    free(c->status);
    free(c->fatal);
    free(c);
}

void child_start(struct child *c)
{
    child_handle(c, EVENT_START);
}

void child_stop(struct child *c)
{
    child_handle(c, EVENT_STOP);
}

void child_kill(struct child *c)
{
    if (c->pid != 0)
        kill(c->pid, SIGKILL); /* reaches a stopped process too */
}

void child_hand_over(struct child *c)
{
    if (!send_text(c, "HANDOVER", -1))
        c->args.ops->on_handed_over(c->args.user, c);
}

void child_reload(struct child *c, struct bytes conf)
{
    CLEANUP(closep) int fd = -1;

    if (c->state != CHILD_READY && c->state != CHILD_STARTING)
        return; /* its next start takes the new values anyway */
    fd = make_conf_fd(conf);
    if (fd < 0 || !send_text(c, "RELOAD", fd))
        log_warn("%s: could not be told the new settings", c->name);
}

void child_reap(struct child *c)
{
    pid_t r;

    if (c->pid == 0)
        return;
    r = waitpid(c->pid, &c->wait_status, WNOHANG);
    if (r != c->pid)
        return;
    /* a sender can be ahead by what the socket buffer holds; the bound is against one that passed
     * its end to somebody who still writes */
    (void)read_control(c, 4096);
    child_handle(c, EVENT_EXIT);
}

void child_watch(struct child *c)
{
    char text[32];

    if (c->state != CHILD_READY)
        return;
    if (c->ping_seconds > 0) {
        /* counted in turns, not in time: a supervisor that was itself stopped blames nobody */
        if (c->ping_seconds++ * 1000 >= c->args.watchdog_ms) {
            log_error("%s (pid %ld) has not answered for %" PRIu64 " s; killing it", c->name,
                      (long)c->pid, c->ping_seconds - 1);
            c->ping_seconds = 1;
            child_kill(c);
        }
        return;
    }
    snprintf(text, sizeof(text), "PING %" PRIu64, ++c->ping);
    (void)send_text(c, text, -1);
    c->ping_seconds = 1;
}

enum child_state child_state(const struct child *c)
{
    return c->state;
}

const char *child_state_name(const struct child *c)
{
    return state_names[c->state];
}

const char *child_name(const struct child *c)
{
    return c->name;
}

const char *child_kind(const struct child *c)
{
    return c->args.name;
}

size_t child_index(const struct child *c)
{
    return c->args.index;
}

uint64_t child_generation(const struct child *c)
{
    return c->generation;
}

const char *child_status(const struct child *c)
{
    return c->status != NULL ? c->status : "";
}
