/*
 * A line is built in one buffer and written with one write(2) per output, so lines of threads and
 * of processes that append to one file do not mix. What a message contains came from clients now
 * and then: control characters are escaped, so nobody forges a line. A log that cannot be written
 * is no reason to stop serving: failed writes are not reported anywhere.
 *
 * Before log_open everything goes to stderr as text.
 */
#include "lib/log/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>
#include <systemd/sd-journal.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"
#include "lib/util/xmalloc.h"

/* syslog.h owns the names LOG_*; ours are LOG_LEVEL_* */

enum { OUTPUTS_MAX = 8, FD_JOURNAL = -2 };

struct output {
    int fd;    /* FD_JOURNAL: sd_journal */
    bool owned; /* ours to close */
};

static struct {
    char *name;
    atomic_int level;
    enum log_format format;
    struct output outputs[OUTPUTS_MAX];
    size_t output_count;
} state = {.level = LOG_LEVEL_INFO};

static const struct {
    const char *name;
    char letter;
    int priority;
} levels[] = {
    [LOG_LEVEL_DEBUG] = {"debug", 'D', LOG_DEBUG}, [LOG_LEVEL_INFO] = {"info", 'I', LOG_INFO},
    [LOG_LEVEL_WARN] = {"warn", 'W', LOG_WARNING}, [LOG_LEVEL_ERROR] = {"error", 'E', LOG_ERR},
    [LOG_LEVEL_PANIC] = {"panic", 'C', LOG_CRIT},
};

bool log_level_parse(const char *text, enum log_level *ret)
{
    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        if (strcmp(text, levels[i].name) == 0) {
            *ret = (enum log_level)i;
            return true;
        }
    }
    if (strcmp(text, "fatal") == 0) {
        *ret = LOG_LEVEL_PANIC;
        return true;
    }
    return false;
}

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&state.level, (int)level, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&state.level, memory_order_relaxed);
}

/* JOURNAL_STREAM is "device:inode" of the stream the service manager connected (systemd.exec(5));
 * it is inherited, so it counts only when stderr still is that stream. */
static bool stderr_is_journal(void)
{
    const char *env = getenv("JOURNAL_STREAM");
    struct stat st;
    uint64_t dev, ino;

    if (env == NULL || sscanf(env, "%" SCNu64 ":%" SCNu64, &dev, &ino) != 2)
        return false;
    return fstat(STDERR_FILENO, &st) == 0 && (uint64_t)st.st_dev == dev &&
           (uint64_t)st.st_ino == ino;
}

static int open_output(const char *what, struct output *ret)
{
    int fd;

    if (strcmp(what, "default") == 0) {
        *ret = (struct output){stderr_is_journal() ? FD_JOURNAL : STDERR_FILENO, false};
    } else if (strcmp(what, "stderr") == 0) {
        *ret = (struct output){STDERR_FILENO, false};
    } else if (strcmp(what, "stdout") == 0) {
        *ret = (struct output){STDOUT_FILENO, false};
    } else if (strcmp(what, "systemd/journal") == 0) {
        *ret = (struct output){FD_JOURNAL, false};
    } else {
        fd = open(what, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0640);
        if (fd < 0)
            return -errno;
        *ret = (struct output){fd, true};
    }
    return 0;
}

int log_open(const char *name, enum log_level level, enum log_format format, const char *outputs)
{
    CLEANUP(freep) char *list = xstrdup(outputs);
    char *save = NULL;
    int r;

    log_close();
    state.name = xstrdup(name);
    state.format = format;
    log_set_level(level);
    for (char *what = strtok_r(list, ", ", &save); what != NULL;
         what = strtok_r(NULL, ", ", &save)) {
        if (state.output_count == OUTPUTS_MAX)
            return -E2BIG;
        r = open_output(what, &state.outputs[state.output_count]);
        if (r < 0)
            return r;
        state.output_count++;
    }
    return 0;
}

void log_close(void)
{
    for (size_t i = 0; i < state.output_count; i++) {
        if (state.outputs[i].owned)
            close(state.outputs[i].fd);
    }
    state.output_count = 0;
    free(state.name);
    state.name = NULL;
    state.format = LOG_FORMAT_TEXT;
    log_set_level(LOG_LEVEL_INFO);
}

static void put_escaped(struct buf *b, const char *text, bool json)
{
    for (const char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;

        if (json && (c == '"' || c == '\\')) {
            buf_append_u8(b, '\\');
            buf_append_u8(b, c);
        } else if (c == '\n') {
            buf_append(b, "\\n", 2);
        } else if (c == '\t') {
            buf_append(b, "\\t", 2);
        } else if (c < 0x20 || c == 0x7f) {
            buf_appendf(b, json ? "\\u%04x" : "\\x%02x", c);
        } else {
            buf_append_u8(b, c);
        }
    }
}

static void build_line(struct buf *b, enum log_level level, const char *message)
{
    const char *name = state.name != NULL ? state.name : "conclave";
    struct timespec now;
    struct tm tm;
    char date[32], clock[32];

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(date, sizeof(date), "%Y-%m-%d", &tm);
    strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
    if (state.format == LOG_FORMAT_JSON) {
        buf_appendf(b, "{\"level\":\"%s\",\"ts\":\"%sT%s.%06ldZ\",\"caller\":\"", levels[level].name,
                    date, clock, now.tv_nsec / 1000);
        put_escaped(b, name, true);
        buf_append_bytes(b, bytes_str("\",\"msg\":\""));
        put_escaped(b, message, true);
        buf_append_bytes(b, bytes_str("\"}\n"));
    } else {
        buf_appendf(b, "%s %s.%06ld %c | %s: ", date, clock, now.tv_nsec / 1000,
                    levels[level].letter, name);
        put_escaped(b, message, false);
        buf_append_u8(b, '\n');
    }
}

static void write_line(int fd, struct bytes line)
{
    ssize_t n;

    do {
        n = write(fd, line.data, line.len);
    } while (n < 0 && errno == EINTR);
}

void log_write(enum log_level level, const char *fmt, ...)
{
    CLEANUP(buf_fini) struct buf line = BUF_INIT;
    CLEANUP(freep) char *message = NULL;
    va_list ap;
    int n, saved = errno;

    if (!log_enabled(level))
        return;
    va_start(ap, fmt);
    n = vasprintf(&message, fmt, ap);
    va_end(ap);
    if (n < 0) {
        message = NULL;
        return;
    }
    for (size_t i = 0; i < MAX(state.output_count, (size_t)1); i++) {
        int fd = state.output_count != 0 ? state.outputs[i].fd : STDERR_FILENO;

        if (fd == FD_JOURNAL) {
            sd_journal_send("MESSAGE=%s", message, "PRIORITY=%i", levels[level].priority,
                            "SYSLOG_IDENTIFIER=%s", state.name != NULL ? state.name : "conclave",
                            NULL);
            continue;
        }
        if (line.len == 0)
            build_line(&line, level, message);
        write_line(fd, buf_bytes(&line));
    }
    errno = saved;
}
