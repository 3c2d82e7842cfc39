/*
 * The shape all daemons share. The order of a life is daemon_main, top to bottom.
 *
 * The supervisor's death is noticed in two places. The loop reads end of file on the control
 * channel and stops the daemon properly. A thread that does nothing else waits for the same hangup
 * and ends the process a little later, whatever the loop is doing: recovery in init, or stuck. So
 * a data directory's lock is free again within a second and the next supervisor never meets a twin.
 * (PR_SET_PDEATHSIG is no use: it fires when the thread that forked us ends.)
 */
#include "config.h"
#include "lib/daemon/daemon.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "lib/daemon/quiet.h"
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/buf.h"
#include "lib/util/list.h"
#include "lib/util/xmalloc.h"

enum {
    EXIT_USAGE = 2,
    LISTEN_MAX = 64,
    CONF_BYTES_MAX = 1 << 20,
    CONTROL_BYTES_MAX = 4096, /* one control message */
    CONTROL_QUEUE_MAX = 64,   /* messages waiting for a supervisor that does not read */
    ORPHAN_EXIT_MS = 900,     /* the contract says within a second */
    SLOW_CALLBACK_MS = 100,   /* an election timeout is ten times that */
};

struct control_packet {
    struct list node;
    size_t len;
    char text[];
};

struct daemon {
    const struct daemon_info *info;
    struct loop *loop;
    void *state;
    void *conf;
    struct daemon_common common;

    const char *conf_path;
    int conf_fd;
    int listen_fds[LISTEN_MAX];
    const char *listen_urls[LISTEN_MAX];
    size_t listen_count;

    int control_fd; /* -1: run by hand */
    struct loop_io *control_io;
    struct list control_queue;
    size_t control_queued;

    struct daemon_quiet *quiet;
    struct loop_signal *sigterm;
    struct loop_signal *sigint;
    bool ready;
    bool stopping;
};

#define COMMON(member_) offsetof(struct daemon_common, member_)
static const struct conf_field common_fields[] = {
    {.name = "run-dir", .type = CONF_STRING, .offset = COMMON(run_dir), .def = ".",
     .help = "directory of the link sockets"},
    {.name = "generation", .type = CONF_U64, .offset = COMMON(generation), .def = "1",
     .help = "grows with every start of any child"},
    {.name = "log-level", .type = CONF_STRING, .offset = COMMON(log_level), .def = "info",
     .reloadable = true, .help = "debug, info, warn, error, panic or fatal"},
    {.name = "log-format", .type = CONF_STRING, .offset = COMMON(log_format), .def = "text",
     .help = "text (or console) or json"},
    {.name = "log-outputs", .type = CONF_STRING, .offset = COMMON(log_outputs), .def = "default",
     .help = "comma list of default, stderr, stdout, systemd/journal, file paths"},
    {.name = "name", .type = CONF_STRING, .offset = COMMON(member_name), .def = "default",
     .help = "this member's name"},
    CONF_END,
};

/* ---- options ---- */

static void usage(const struct daemon_info *info, FILE *out)
{
    fprintf(out,
            "usage: %s --conf-fd=N|--conf=FILE [--control-fd=N] [--listen-fd=N:URL ...]\n"
            "%s\n\n"
            "Started by the supervisor (conclave); by hand, FILE has lines key=value:\n",
            info->name, info->summary);
    for (const struct conf_field *f = common_fields; f->name != NULL; f++)
        fprintf(out, "  %-28s %s\n", f->name, f->help);
    for (const struct conf_field *f = info->conf; f != NULL && f->name != NULL; f++)
        fprintf(out, "  %-28s %s\n", f->name, f->help != NULL ? f->help : "");
}

/* A descriptor number that is open in this process; the rest of the text in *ret_rest. */
static bool parse_fd(const char *text, int *ret, const char **ret_rest)
{
    char *end;
    long v;

    errno = 0;
    v = strtol(text, &end, 10);
    if (end == text || errno != 0 || v < 0 || v > INT32_MAX || fcntl((int)v, F_GETFD) < 0)
        return false;
    fcntl((int)v, F_SETFD, FD_CLOEXEC);
    *ret = (int)v;
    *ret_rest = end;
    return true;
}

static const char *option_value(const char *arg, const char *name)
{
    size_t n = strlen(name);

    return strncmp(arg, name, n) == 0 && arg[n] == '=' ? arg + n + 1 : NULL;
}

static bool parse_option(struct daemon *d, const char *arg)
{
    const char *v, *rest;

    if ((v = option_value(arg, "--conf")) != NULL) {
        d->conf_path = v;
        return true;
    }
    if ((v = option_value(arg, "--conf-fd")) != NULL)
        return parse_fd(v, &d->conf_fd, &rest) && *rest == '\0';
    if ((v = option_value(arg, "--control-fd")) != NULL)
        return parse_fd(v, &d->control_fd, &rest) && *rest == '\0';
    if ((v = option_value(arg, "--listen-fd")) != NULL) {
        if (d->listen_count == LISTEN_MAX ||
            !parse_fd(v, &d->listen_fds[d->listen_count], &rest) || *rest != ':')
            return false;
        d->listen_urls[d->listen_count++] = rest + 1;
        return true;
    }
    return false;
}

/* -1: go on; else the exit status. */
static int parse_options(struct daemon *d, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            usage(d->info, stdout);
            return EXIT_SUCCESS;
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("%s %s\n", d->info->name, PACKAGE_VERSION);
            return EXIT_SUCCESS;
        }
        if (!parse_option(d, argv[i])) {
            fprintf(stderr, "%s: bad argument: %s\n", d->info->name, argv[i]);
            usage(d->info, stderr);
            return EXIT_USAGE;
        }
    }
    if ((d->conf_fd >= 0) == (d->conf_path != NULL)) {
        fprintf(stderr, "%s: needs --conf-fd or --conf, one of them\n", d->info->name);
        return EXIT_USAGE;
    }
    return -1;
}

/* ---- configuration ---- */

static int read_conf_text(int fd, struct buf *text)
{
    lseek(fd, 0, SEEK_SET); /* a memory file's writer left its position at the end; a pipe has none */
    while (text->len <= CONF_BYTES_MAX) {
        ssize_t n = read(fd, buf_reserve(text, 4096), 4096);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return 0;
        text->len += (size_t)n;
    }
    return -EFBIG;
}

static int load_conf(const struct daemon_info *info, struct bytes text,
                     struct daemon_common *common, void *conf, char **ret_error)
{
    enum log_level ignored;
    int r;

    r = conf_load(common_fields, common, text, ret_error);
    if (r < 0)
        return r;
    if (!log_level_parse(common->log_level, &ignored)) {
        *ret_error = xasprintf("log-level: \"%s\" is not a level", common->log_level);
        r = -EINVAL;
    } else if (strcmp(common->log_format, "text") != 0 &&
               strcmp(common->log_format, "console") != 0 &&
               strcmp(common->log_format, "json") != 0) {
        *ret_error = xasprintf("log-format: \"%s\" is not a format", common->log_format);
        r = -EINVAL;
    } else if (info->conf != NULL) {
        r = conf_load(info->conf, conf, text, ret_error);
    }
    if (r < 0)
        conf_fini(common_fields, common);
    return r;
}

static void set_up_log(const struct daemon *d)
{
    enum log_level level = LOG_LEVEL_INFO;
    enum log_format format =
        strcmp(d->common.log_format, "json") == 0 ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT;
    int r;

    log_level_parse(d->common.log_level, &level);
    r = log_open(d->info->name, level, format, d->common.log_outputs);
    if (r < 0)
        log_error("log output \"%s\" cannot be used in full: %s", d->common.log_outputs,
                  strerror(-r));
}

static int first_conf(struct daemon *d)
{
    CLEANUP(buf_fini) struct buf text = BUF_INIT;
    CLEANUP(freep) char *error = NULL;
    int fd = d->conf_fd, r;

    if (d->conf_path != NULL) {
        fd = open(d->conf_path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
            r = -errno;
            fprintf(stderr, "%s: %s: %s\n", d->info->name, d->conf_path, strerror(-r));
            return r;
        }
    }
    r = read_conf_text(fd, &text);
    close(fd);
    if (r < 0) {
        fprintf(stderr, "%s: reading the configuration: %s\n", d->info->name, strerror(-r));
        return r;
    }
    r = load_conf(d->info, buf_bytes(&text), &d->common, d->conf, &error);
    if (r < 0)
        fprintf(stderr, "%s: %s\n", d->info->name, error);
    return r;
}

/* ---- process ---- */

static void raise_limit(int resource)
{
    struct rlimit limit;

    if (getrlimit(resource, &limit) == 0 && limit.rlim_cur != limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(resource, &limit);
    }
}

static void set_up_process(const struct daemon *d)
{
    sigset_t none;
    int fd;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    if (d->control_fd >= 0) {
        /* A terminal sends Ctrl-C to the whole group, a service manager SIGTERM: the order of
         * stopping is the supervisor's business. */
        signal(SIGINT, SIG_IGN);
        signal(SIGTERM, SIG_IGN);
    }
    raise_limit(RLIMIT_CORE);
    raise_limit(RLIMIT_NOFILE);
    /* Only with privilege may this go below what we inherited; without it nothing changes. */
    fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t n = write(fd, "-500", 4);

        (void)n;
        close(fd);
    }
}

static void on_slow(void *user, const char *name, uint64_t took_ns)
{
    log_warn("%s took %" PRIu64 " ms on the loop", name, took_ns / 1000000);
}

/* ---- control channel ---- */

static void begin_stop(struct daemon *d)
{
    if (d->stopping)
        return;
    d->stopping = true;
    if (d->info->stop != NULL)
        d->info->stop(d->state);
    else
        daemon_stopped(d);
}

static void control_lost(struct daemon *d)
{
    loop_io_free(d->control_io);
    d->control_io = NULL;
    log_warn("the supervisor is gone, stopping");
    begin_stop(d);
}

static int control_try_send(const struct daemon *d, const char *text, size_t len)
{
    ssize_t n;

    do {
        n = send(d->control_fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

static void control_send_queued(struct daemon *d)
{
    while (!list_empty(&d->control_queue)) {
        struct control_packet *packet =
            LIST_ENTRY(d->control_queue.next, struct control_packet, node);

        if (control_try_send(d, packet->text, packet->len) == -EAGAIN)
            break;
        list_remove(&packet->node);
        free(packet);
        d->control_queued--;
    }
    if (d->control_io != NULL)
        loop_io_set(d->control_io, list_empty(&d->control_queue) ? LOOP_READ
                                                                 : LOOP_READ | LOOP_WRITE);
}

/* Messages that do not fit in the socket wait in order; a supervisor that does not read for long
 * loses the ones past the limit, and it will have restarted us before it misses them. */
static void control_send(struct daemon *d, const char *text)
{
    size_t len = MIN(strlen(text), (size_t)CONTROL_BYTES_MAX);
    struct control_packet *packet;

    if (d->control_fd < 0)
        return;
    if (list_empty(&d->control_queue) && control_try_send(d, text, len) != -EAGAIN)
        return; /* sent, or the channel is broken, which its end of file will tell */
    if (d->control_queued == CONTROL_QUEUE_MAX)
        return;
    packet = xmalloc(sizeof(*packet) + len);
    list_init(&packet->node);
    packet->len = len;
    memcpy(packet->text, text, len);
    list_push_back(&d->control_queue, &packet->node);
    d->control_queued++;
    if (d->control_io != NULL)
        loop_io_set(d->control_io, LOOP_READ | LOOP_WRITE);
}

static bool field_differs(const struct conf_field *f, const void *a, const void *b)
{
    const char *x = (const char *)a + f->offset, *y = (const char *)b + f->offset;

    switch (f->type) {
    case CONF_STRING:
        return strcmp(*(char *const *)(const void *)x, *(char *const *)(const void *)y) != 0;
    case CONF_BOOL:
        return memcmp(x, y, sizeof(bool)) != 0;
    case CONF_U64:
    case CONF_I64:
    case CONF_DURATION:
        return memcmp(x, y, sizeof(uint64_t)) != 0;
    }
    return false;
}

/* Two names of one setting share an offset. */
static bool is_second_name(const struct conf_field *fields, const struct conf_field *f)
{
    while (fields < f && fields->offset != f->offset)
        fields++;
    return fields < f;
}

static void swap_bytes(char *a, char *b, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = a[i];

        a[i] = b[i];
        b[i] = c;
    }
}

/* Exchanges what a reload may change. The rest keeps value and address, as does the struct itself:
 * a daemon holds pointers to both. */
static void swap_reloadable(const struct conf_field *fields, void *a, void *b)
{
    for (const struct conf_field *f = fields; f != NULL && f->name != NULL; f++) {
        if (f->reloadable && !is_second_name(fields, f))
            swap_bytes((char *)a + f->offset, (char *)b + f->offset,
                       f->type == CONF_BOOL ? sizeof(bool) : sizeof(uint64_t));
    }
}

static void warn_about_fixed(const struct conf_field *fields, const void *old, const void *fresh)
{
    for (const struct conf_field *f = fields; f != NULL && f->name != NULL; f++) {
        if (!f->reloadable && field_differs(f, old, fresh))
            log_warn("%s changed; it takes effect after a restart", f->name);
    }
}

static void reload(struct daemon *d, int fd)
{
    CLEANUP(buf_fini) struct buf text = BUF_INIT;
    CLEANUP(freep) char *error = NULL;
    CLEANUP(freep) void *conf = xcalloc(1, d->info->conf_size);
    struct daemon_common common = {0};
    enum log_level level;
    int r;

    static_assert(sizeof(char *) == sizeof(uint64_t), "one size for all fields but bool");
    if (fd < 0) {
        log_error("reload without a configuration");
        return;
    }
    r = read_conf_text(fd, &text);
    if (r < 0) {
        log_error("reading the new configuration: %s", strerror(-r));
        return;
    }
    r = load_conf(d->info, buf_bytes(&text), &common, conf, &error);
    if (r < 0) {
        log_error("new configuration refused: %s", error);
        return;
    }
    warn_about_fixed(common_fields, &d->common, &common);
    warn_about_fixed(d->info->conf, d->conf, conf);
    swap_reloadable(d->info->conf, d->conf, conf);
    if (d->info->reload != NULL)
        r = d->info->reload(d->state, d);
    if (r < 0) {
        swap_reloadable(d->info->conf, d->conf, conf);
    } else {
        swap_reloadable(common_fields, &d->common, &common);
        if (log_level_parse(d->common.log_level, &level))
            log_set_level(level);
    }
    if (d->info->conf != NULL)
        conf_fini(d->info->conf, conf);
    conf_fini(common_fields, &common);
}

static void control_message(struct daemon *d, const char *text, int fd)
{
    if (strncmp(text, "PING ", 5) == 0) {
        CLEANUP(freep) char *pong = xasprintf("PONG %s", text + 5);

        control_send(d, pong);
    } else if (strcmp(text, "STOP") == 0) {
        begin_stop(d);
    } else if (strcmp(text, "HANDOVER") == 0) {
        if (d->info->handover != NULL && !d->stopping)
            d->info->handover(d->state);
        else
            daemon_handed_over(d);
    } else if (strcmp(text, "RELOAD") == 0) {
        reload(d, fd);
    } else {
        log_warn("control message not understood: %.40s", text);
    }
}

/* One packet. 0: handled; 1: nothing there; negative: the channel is gone. */
static int control_receive(struct daemon *d)
{
    char text[CONTROL_BYTES_MAX + 1];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } ancillary;
    struct iovec iov = {text, CONTROL_BYTES_MAX};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = ancillary.bytes,
                         .msg_controllen = sizeof(ancillary.bytes)};
    struct cmsghdr *c;
    ssize_t n;
    int fd = -1;

    do {
        n = recvmsg(d->control_fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? 1 : -errno;
    c = CMSG_FIRSTHDR(&msg);
    if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
        c->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&fd, CMSG_DATA(c), sizeof(int));
    if (n == 0) {
        closep(&fd);
        return -ECONNRESET;
    }
    text[n] = '\0';
    control_message(d, text, fd);
    closep(&fd);
    return 0;
}

static void on_control(void *user, unsigned int events)
{
    struct daemon *d = user;
    int r = 0;

    if ((events & LOOP_WRITE) != 0)
        control_send_queued(d);
    while (r == 0)
        r = control_receive(d);
    if (r < 0)
        control_lost(d);
}

static void *watch_for_orphaning(void *arg)
{
    const struct daemon *d = arg;
    struct pollfd p = {.fd = d->control_fd, .events = POLLRDHUP};
    struct timespec rest = {.tv_nsec = ORPHAN_EXIT_MS * 1000000L};

    while (poll(&p, 1, -1) < 0 && errno == EINTR)
        ;
    while (nanosleep(&rest, &rest) < 0 && errno == EINTR)
        ;
    _exit(EXIT_SUCCESS);
}

static void set_up_control(struct daemon *d)
{
    sigset_t all, old;
    pthread_t thread;
    pthread_attr_t attr;
    int r;

    d->control_io = loop_io_new(d->loop, "control channel", d->control_fd, on_control, d);
    loop_io_set(d->control_io, LOOP_READ);

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 64 << 10);
    r = pthread_create(&thread, &attr, watch_for_orphaning, d);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r != 0)
        log_warn("no thread to watch the supervisor: %s", strerror(r));
}

static void on_stop_signal(void *user)
{
    struct daemon *d = user;

    log_info("signal received, stopping");
    begin_stop(d);
}

/* ---- a life ---- */

static int run(struct daemon *d)
{
    int r;

    d->loop = loop_new();
    if (d->loop == NULL) {
        log_error("no descriptors left for the event loop");
        return -EMFILE;
    }
    loop_set_slow_handler(d->loop, SLOW_CALLBACK_MS * UINT64_C(1000000), on_slow, d);
    d->quiet = daemon_quiet_new(d->loop);
    if (d->control_fd >= 0) {
        set_up_control(d);
    } else {
        d->sigterm = loop_signal_new(d->loop, SIGTERM, on_stop_signal, d);
        d->sigint = loop_signal_new(d->loop, SIGINT, on_stop_signal, d);
    }
    r = d->info->init != NULL ? d->info->init(d->state, d) : 0;
    if (r == 0 && d->info->start != NULL)
        r = d->info->start(d->state, d);
    if (r == 0)
        loop_run(d->loop);
    if (d->info->fini != NULL)
        d->info->fini(d->state);
    if (r != 0)
        return r; /* half of the handles may still exist: the process ends, so the loop stays */
    daemon_quiet_free(d->quiet);
    loop_io_free(d->control_io);
    loop_signal_free(d->sigterm);
    loop_signal_free(d->sigint);
    loop_free(d->loop);
    return 0;
}

int daemon_main(const struct daemon_info *info, int argc, char **argv)
{
    struct daemon *d;
    int r;

    xmalloc_tune();
    d = xcalloc(1, sizeof(*d));
    d->info = info;
    d->conf_fd = -1;
    d->control_fd = -1;
    list_init(&d->control_queue);
    r = parse_options(d, argc, argv);
    if (r >= 0) {
        free(d);
        return r;
    }
    d->conf = xcalloc(1, info->conf_size);
    d->state = xcalloc(1, info->state_size);
    if (first_conf(d) < 0)
        return EXIT_FAILURE;
    set_up_log(d);
    set_up_process(d);
    r = run(d);
    if (r != 0) {
        log_error("cannot go on: %s", r < 0 ? strerror(-r) : "see above");
        return EXIT_FAILURE;
    }
    log_close();
    if (info->conf != NULL)
        conf_fini(info->conf, d->conf);
    conf_fini(common_fields, &d->common);
    while (!list_empty(&d->control_queue))
        free(LIST_ENTRY(list_pop_front(&d->control_queue), struct control_packet, node));
    free(d->conf);
    free(d->state);
    if (d->control_fd < 0)
        free(d); /* else the watching thread has it until the process ends */
    return EXIT_SUCCESS;
}

struct loop *daemon_loop(struct daemon *d)
{
    return d->loop;
}

const void *daemon_conf(const struct daemon *d)
{
    return d->conf;
}

const struct daemon_common *daemon_common(const struct daemon *d)
{
    return &d->common;
}

size_t daemon_listen_count(const struct daemon *d)
{
    return d->listen_count;
}

int daemon_listen_fd(const struct daemon *d, size_t i, const char **ret_url)
{
    assert(i < d->listen_count);
    if (ret_url != NULL)
        *ret_url = d->listen_urls[i];
    return d->listen_fds[i];
}

void daemon_ready(struct daemon *d)
{
    if (d->ready)
        return;
    d->ready = true;
    log_debug("ready");
    control_send(d, "READY");
}

void daemon_status(struct daemon *d, const char *fmt, ...)
{
    CLEANUP(buf_fini) struct buf text = BUF_INIT;
    char status[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(status, sizeof(status), fmt, ap);
    va_end(ap);
    buf_appendf(&text, "STATUS %s", status);
    buf_append_u8(&text, '\0');
    control_send(d, (const char *)text.data);
}

void daemon_handed_over(struct daemon *d)
{
    control_send(d, "HANDED-OVER");
}

void daemon_stopped(struct daemon *d)
{
    loop_stop(d->loop);
}

void daemon_fatal(struct daemon *d, const char *fmt, ...)
{
    char text[512] = "FATAL ", *reason = text + 6;
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(reason, sizeof(text) - 6, fmt, ap);
    va_end(ap);
    log_write(LOG_LEVEL_PANIC, "%s", reason);
    if (d->control_fd >= 0)
        control_try_send(d, text, strlen(text)); /* past the queue, which is the loop thread's */
    _exit(EXIT_FAILURE);
}
