#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "lib/daemon/daemon.h"
#include "lib/loop/loop.h"
#include "lib/util/xmalloc.h"

/* A tiny daemon: reports its settings as status, and misbehaves as its "mode" says. */
struct tiny_conf {
    char *mode;
    uint64_t size;
};
struct tiny {
    struct daemon *d;
    struct loop_timer *timer;
    const struct tiny_conf *conf; /* kept over reloads, as daemons do */
    const char *mode;
};

static const struct conf_field tiny_fields[] = {
    {.name = "mode", .type = CONF_STRING, .offset = offsetof(struct tiny_conf, mode), .def = ""},
    {.name = "size", .type = CONF_U64, .offset = offsetof(struct tiny_conf, size), .def = "7",
     .reloadable = true},
    CONF_END,
};

static const char *mode_of(struct daemon *d)
{
    return ((const struct tiny_conf *)daemon_conf(d))->mode;
}

static int tiny_init(void *state, struct daemon *d)
{
    struct tiny *t = state;

    t->d = d;
    t->conf = daemon_conf(d);
    t->mode = t->conf->mode;
    if (strcmp(mode_of(d), "hang") == 0) {
        daemon_status(d, "hanging");
        for (;;)
            pause();
    }
    return strcmp(mode_of(d), "init-fails") == 0 ? -EIO : 0;
}

static void report(struct daemon *d)
{
    const struct tiny_conf *conf = daemon_conf(d);

    daemon_status(d, "mode=%s size=%lu generation=%lu listen=%zu", conf->mode,
                  (unsigned long)conf->size, (unsigned long)daemon_common(d)->generation,
                  daemon_listen_count(d));
}

static int tiny_start(void *state, struct daemon *d)
{
    if (strcmp(mode_of(d), "start-fails") == 0)
        return -EIO;
    if (strcmp(mode_of(d), "fatal") == 0)
        daemon_fatal(d, "disk says %s", "no");
    report(d);
    daemon_ready(d);
    daemon_ready(d); /* said once */
    return 0;
}

static int tiny_reload(void *state, struct daemon *d)
{
    const struct tiny *t = state;

    /* what was taken at the start is still good */
    if (t->conf != daemon_conf(d) || t->mode != t->conf->mode)
        daemon_fatal(d, "the configuration moved");
    if (t->conf->size == 13)
        return -EINVAL;
    report(d);
    return 0;
}

static void on_drained(void *user)
{
    struct tiny *t = user;

    daemon_stopped(t->d);
}

static void tiny_stop(void *state)
{
    struct tiny *t = state;

    if (strcmp(mode_of(t->d), "never-stops") == 0)
        return;
    t->timer = loop_timer_new(daemon_loop(t->d), "drain", on_drained, t);
    loop_timer_start(t->timer, 1, 0);
}

static void tiny_fini(void *state)
{
    struct tiny *t = state;

    loop_timer_free(t->timer);
}

static const struct daemon_info tiny_info = {
    .name = "tinyd",
    .summary = "a test",
    .conf = tiny_fields,
    .conf_size = sizeof(struct tiny_conf),
    .state_size = sizeof(struct tiny),
    .init = tiny_init,
    .start = tiny_start,
    .reload = tiny_reload,
    .stop = tiny_stop,
    .fini = tiny_fini,
};

struct child {
    pid_t pid;
    int fd;
};

static int conf_file(const char *text)
{
    int fd = memfd_create("conf", MFD_CLOEXEC);

    cr_assert(fd >= 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    return fd;
}

static struct child spawn(const char *conf)
{
    struct child c;
    int fds[2], conf_fd = conf_file(conf);

    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    c.pid = fork();
    cr_assert(c.pid >= 0);
    if (c.pid == 0) {
        char *argv[] = {xstrdup("tinyd"), xasprintf("--conf-fd=%d", conf_fd),
                        xasprintf("--control-fd=%d", fds[1]), xstrdup("--listen-fd=0:http://x:1"),
                        NULL};

        close(fds[0]);
        _exit(daemon_main(&tiny_info, 4, argv));
    }
    close(fds[1]);
    close(conf_fd);
    c.fd = fds[0];
    return c;
}

static void say(const struct child *c, const char *text)
{
    cr_assert_eq(send(c->fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static void expect(const struct child *c, const char *text)
{
    char got[4096];
    ssize_t n = recv(c->fd, got, sizeof(got) - 1, 0);

    cr_assert(n > 0, "end of file instead of %s", text);
    got[n] = '\0';
    cr_assert_str_eq(got, text);
}

static int wait_exit(const struct child *c)
{
    int status;

    cr_assert_eq(waitpid(c->pid, &status, 0), c->pid);
    cr_assert(WIFEXITED(status), "status %x", (unsigned int)status);
    return WEXITSTATUS(status);
}

TestSuite(daemon, .timeout = 30);

Test(daemon, ready_ping_stop)
{
    struct child c = spawn("mode=x\nsize=9\ngeneration=5\nunknown=1\nlog-level=panic\n");

    expect(&c, "STATUS mode=x size=9 generation=5 listen=1");
    expect(&c, "READY");
    say(&c, "PING 17");
    expect(&c, "PONG 17");
    kill(c.pid, SIGTERM); /* the supervisor stops children, not a signal */
    kill(c.pid, SIGINT);
    say(&c, "what is this");
    say(&c, "PING 18");
    expect(&c, "PONG 18");
    say(&c, "HANDOVER"); /* no hook: nothing to hand over */
    expect(&c, "HANDED-OVER");
    say(&c, "STOP");
    say(&c, "STOP");
    cr_assert_eq(wait_exit(&c), 0);
}

static const struct {
    const char *mode;
    int status;
} failure_rows[] = {
    {"mode=init-fails\nlog-level=fatal\nlog-outputs=/dev/null\n", 1},
    {"mode=start-fails\nlog-outputs=/dev/null\n", 1},
    {"size=many\nlog-outputs=/dev/null\n", 1},
    {"log-level=loud\n", 1},
    {"log-format=xml\n", 1},
};

Test(daemon, failures_end_with_status_1)
{
    for (size_t i = 0; i < ARRAY_LEN(failure_rows); i++) {
        struct child c = spawn(failure_rows[i].mode);
        char got[64];

        cr_assert_eq(wait_exit(&c), failure_rows[i].status, "row %zu", i);
        cr_assert_eq(recv(c.fd, got, sizeof(got), 0), 0, "row %zu said something", i);
        close(c.fd);
    }
}

Test(daemon, fatal_tells_the_supervisor)
{
    struct child c = spawn("mode=fatal\nlog-outputs=/dev/null\n");

    expect(&c, "FATAL disk says no");
    cr_assert_eq(wait_exit(&c), 1);
}

/* The supervisor dies: while running, with a daemon that does not stop, and during recovery. */
Test(daemon, end_of_file_ends_the_daemon)
{
    struct child c = spawn("log-outputs=/dev/null\n");

    expect(&c, "STATUS mode= size=7 generation=1 listen=1");
    expect(&c, "READY");
    close(c.fd);
    cr_assert_eq(wait_exit(&c), 0);

    c = spawn("mode=never-stops\nlog-outputs=/dev/null\n");
    expect(&c, "STATUS mode=never-stops size=7 generation=1 listen=1");
    expect(&c, "READY");
    close(c.fd);
    cr_assert_eq(wait_exit(&c), 0);

    c = spawn("mode=hang\nlog-outputs=/dev/null\n");
    expect(&c, "STATUS hanging");
    close(c.fd);
    cr_assert_eq(wait_exit(&c), 0);
}

static void say_with_fd(const struct child *c, const char *text, int fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } a = {.bytes = {0}};
    struct iovec iov = {(char *)(uintptr_t)text, strlen(text)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = a.bytes,
                         .msg_controllen = sizeof(a.bytes)};
    struct cmsghdr *h = CMSG_FIRSTHDR(&msg);

    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &fd, sizeof(int));
    cr_assert(sendmsg(c->fd, &msg, MSG_NOSIGNAL) > 0);
    close(fd);
}

Test(daemon, reload_applies_what_may_change)
{
    struct child c = spawn("mode=x\nlog-outputs=/dev/null\n");

    expect(&c, "STATUS mode=x size=7 generation=1 listen=1");
    expect(&c, "READY");
    say_with_fd(&c, "RELOAD", conf_file("mode=y\nsize=8\n")); /* mode needs a restart */
    expect(&c, "STATUS mode=x size=8 generation=1 listen=1");
    say(&c, "RELOAD");                                        /* nothing passed */
    say_with_fd(&c, "RELOAD", conf_file("size=many\n"));      /* refused by the table */
    say_with_fd(&c, "RELOAD", conf_file("size=13\n"));        /* refused by the daemon */
    say_with_fd(&c, "RELOAD", conf_file("mode=x\nsize=9\n"));
    expect(&c, "STATUS mode=x size=9 generation=1 listen=1");
    say(&c, "STOP");
    cr_assert_eq(wait_exit(&c), 0);
}

Test(daemon, by_hand_with_a_file_and_sigterm)
{
    char path[] = "/tmp/conclave-test-daemon-XXXXXX", got[4096];
    int fd = mkstemp(path), out[2];
    struct child c;
    size_t len = 0;

    cr_assert(fd >= 0);
    cr_assert_eq(write(fd, "log-level=debug\nlog-outputs=stdout\n", 35), 35);
    close(fd);
    cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
    c.pid = fork();
    cr_assert(c.pid >= 0);
    if (c.pid == 0) {
        char *argv[] = {xstrdup("tinyd"), xasprintf("--conf=%s", path), NULL};

        dup2(out[1], STDOUT_FILENO);
        close(out[1]);
        _exit(daemon_main(&tiny_info, 2, argv));
    }
    close(out[1]);
    do {
        ssize_t n = read(out[0], got + len, sizeof(got) - 1 - len);

        cr_assert(n > 0);
        len += (size_t)n;
        got[len] = '\0';
    } while (strstr(got, "D | tinyd: ready\n") == NULL);
    kill(c.pid, SIGTERM);
    cr_assert_eq(wait_exit(&c), 0);
    unlink(path);
}

static const struct {
    const char *arg[3];
    int status;
} usage_rows[] = {
    {{NULL}, 2},
    {{"--conf=/nonexistent"}, 1},
    {{"--conf-fd=99"}, 2},
    {{"--conf-fd=0x"}, 2},
    {{"--conf-fd="}, 2},
    {{"--conf-fd=0", "--conf=/dev/null"}, 2},
    {{"--conf=/dev/null", "--listen-fd=0"}, 2},
    {{"--conf=/dev/null", "--nonsense"}, 2},
    {{"--conf=/dev/null", "nonsense"}, 2},
    {{"--help"}, 0},
    {{"--version"}, 0},
};

Test(daemon, command_line)
{
    for (size_t i = 0; i < ARRAY_LEN(usage_rows); i++) {
        struct child c = {.pid = fork()};

        cr_assert(c.pid >= 0);
        if (c.pid == 0) {
            char *argv[5] = {xstrdup("tinyd")};
            int argc = 1, null = open("/dev/null", O_RDWR | O_CLOEXEC);

            dup2(null, STDOUT_FILENO);
            dup2(null, STDERR_FILENO);
            for (size_t k = 0; k < 3 && usage_rows[i].arg[k] != NULL; k++)
                argv[argc++] = xstrdup(usage_rows[i].arg[k]);
            _exit(daemon_main(&tiny_info, argc, argv));
        }
        cr_assert_eq(wait_exit(&c), usage_rows[i].status, "row %zu", i);
    }
}
