/*
 * Logging for every daemon: one line per event, to stderr (text or JSON), to files, or to the
 * journal with its priorities. Levels as etcd's --log-level. Safe from any thread; a line is one
 * write(2).
 *
 *   log_info("listening on %s", url)  ->  text: "2026-01-02 03:04:05.123456 I | raftd: listening on ..."
 *   JSON: {"level":"info","ts":"2026-01-02T03:04:05.123456Z","caller":"raftd","msg":"listening on ..."}
 */
#ifndef CONCLAVE_LOG_LOG_H
#define CONCLAVE_LOG_LOG_H

#include <stdbool.h>
#include "lib/util/macros.h"

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR, LOG_LEVEL_PANIC };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

/* `name`: the daemon's, on every line. outputs: comma list of "default" (the journal if stderr is
 * connected to it, else stderr), "stderr", "stdout", "systemd/journal", or file paths (appended).
 * 0 or negative errno with the outputs before it opened. */
int log_open(const char *name, enum log_level level, enum log_format format, const char *outputs);
void log_close(void);
void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);
/* "debug" "info" "warn" "error" "panic" "fatal"; false: not a level */
bool log_level_parse(const char *text, enum log_level *ret);

void log_write(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define log_debug(...)                                                                             \
    do {                                                                                           \
        if (log_enabled(LOG_LEVEL_DEBUG))                                                          \
            log_write(LOG_LEVEL_DEBUG, __VA_ARGS__);                                               \
    } while (0)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)

#endif
