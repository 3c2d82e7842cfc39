#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "lib/log/log.h"

static char path[] = "/tmp/conclave-test-log-XXXXXX";
static char text[16384];

static void make_file(void)
{
    int fd = mkstemp(path);

    cr_assert(fd >= 0);
    close(fd);
}

static const char *read_file(void)
{
    FILE *f = fopen(path, "r");
    size_t n;

    cr_assert_not_null(f);
    n = fread(text, 1, sizeof(text) - 1, f);
    text[n] = '\0';
    fclose(f);
    unlink(path);
    return text;
}

static void remove_file(void)
{
    unlink(path);
}

TestSuite(log, .init = make_file, .fini = remove_file);

static const struct {
    const char *name;
    enum log_level level;
    bool ok;
} level_rows[] = {
    {"debug", LOG_LEVEL_DEBUG, true}, {"info", LOG_LEVEL_INFO, true},
    {"warn", LOG_LEVEL_WARN, true},   {"error", LOG_LEVEL_ERROR, true},
    {"panic", LOG_LEVEL_PANIC, true}, {"fatal", LOG_LEVEL_PANIC, true},
    {"", LOG_LEVEL_DEBUG, false},     {"INFO", LOG_LEVEL_DEBUG, false},
    {"warning", LOG_LEVEL_DEBUG, false}, {"info ", LOG_LEVEL_DEBUG, false},
};

Test(log, level_parse)
{
    for (size_t i = 0; i < ARRAY_LEN(level_rows); i++) {
        enum log_level level = LOG_LEVEL_DEBUG;

        cr_assert_eq(log_level_parse(level_rows[i].name, &level), level_rows[i].ok, "row %zu", i);
        cr_assert_eq(level, level_rows[i].level, "row %zu", i);
    }
}

Test(log, text_line)
{
    int year, month, day, hour, minute, second, micro, used = 0;

    cr_assert_eq(log_open("raftd", LOG_LEVEL_INFO, LOG_FORMAT_TEXT, path), 0);
    log_debug("not seen");
    errno = ENOSPC;
    log_warn("odd \"%s\"", "a\nb\x01\x7f\tc");
    cr_assert_eq(errno, ENOSPC);
    log_close();
    read_file();
    cr_assert_eq(sscanf(text, "%4d-%2d-%2d %2d:%2d:%2d.%6d%n", &year, &month, &day, &hour, &minute,
                        &second, &micro, &used),
                 7);
    cr_assert_str_eq(text + used, " W | raftd: odd \"a\\nb\\x01\\x7f\\tc\"\n");
}

Test(log, json_line)
{
    cr_assert_eq(log_open("raftd", LOG_LEVEL_DEBUG, LOG_FORMAT_JSON, path), 0);
    log_debug("odd \"%s\"", "a\\\nb\x01");
    log_close();
    read_file();
    cr_assert_eq(strncmp(text, "{\"level\":\"debug\",\"ts\":\"2", 24), 0);
    cr_assert_not_null(strstr(text, "Z\",\"caller\":\"raftd\",\"msg\":\"odd \\\"a\\\\\\nb\\u0001\\\"\"}\n"));
}

Test(log, level_filters_and_changes)
{
    cr_assert_eq(log_open("x", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, path), 0);
    log_info("one");
    log_set_level(LOG_LEVEL_INFO);
    cr_assert(log_enabled(LOG_LEVEL_INFO));
    cr_assert_not(log_enabled(LOG_LEVEL_DEBUG));
    log_info("two");
    log_close();
    read_file();
    cr_assert_null(strstr(text, "one"));
    cr_assert_not_null(strstr(text, "x: two\n"));
}

Test(log, long_line_and_two_outputs)
{
    char long_text[6001], *both = NULL;

    memset(long_text, 'z', 6000);
    long_text[6000] = '\0';
    cr_assert(asprintf(&both, "%s,%s", path, path) > 0);
    cr_assert_eq(log_open("x", LOG_LEVEL_INFO, LOG_FORMAT_TEXT, both), 0);
    free(both);
    log_error("%s", long_text);
    log_close();
    read_file();
    cr_assert_geq(strlen(text), 12000);
    cr_assert_str_eq(text + strlen(text) - 7, "zzzzzz\n");
}

Test(log, unusable_output)
{
    cr_assert_eq(log_open("x", LOG_LEVEL_INFO, LOG_FORMAT_TEXT, "/nonexistent/dir/file"), -ENOENT);
    cr_assert_eq(log_open("x", LOG_LEVEL_INFO, LOG_FORMAT_TEXT, "/"), -EISDIR);
    log_close();
}

/* "default" is the journal only when stderr really is its stream. */
Test(log, default_output_follows_journal_stream)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);

    cr_assert(fd >= 0);
    dup2(fd, STDERR_FILENO);
    close(fd);
    setenv("JOURNAL_STREAM", "1:2", 1);
    cr_assert_eq(log_open("x", LOG_LEVEL_INFO, LOG_FORMAT_TEXT, "default"), 0);
    log_info("to stderr");
    log_close();
    read_file();
    cr_assert_not_null(strstr(text, "x: to stderr\n"));
}
