/*
 * Typed settings of one daemon. The supervisor parses files, flags and variables once and hands
 * each daemon its effective part as lines "key=value" (values have no newline); a daemon describes
 * what it takes as a table of conf_field and gets a filled struct.
 */
#ifndef CONCLAVE_CONF_CONF_H
#define CONCLAVE_CONF_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"

enum conf_type {
    CONF_STRING, /* char *, heap, never NULL */
    CONF_BOOL,   /* bool: true/false/1/0/t/f/T/F/TRUE/FALSE/True/False */
    CONF_U64,    /* uint64_t, within min..max (max 0: no upper bound); text as in Go (0x10, 1_000) */
    CONF_I64,    /* int64_t; min and max do not apply */
    CONF_DURATION, /* uint64_t nanoseconds within min..max; text is Go's ("1h2m3s", "500ms", "0") */
};

struct conf_field {
    const char *name; /* etcd's key name, or our own */
    enum conf_type type;
    size_t offset; /* into the daemon's conf struct */
    const char *def; /* default as text */
    uint64_t min, max;
    bool reloadable;
    const char *help; /* unit and meaning, one line */
};
#define CONF_END {.name = NULL}

/* Fills `conf` (zeroed by the caller) with the defaults, then with the lines of `text`; a later line
 * for the same key wins, empty lines and those starting with '#' are skipped, and so are keys that
 * `fields` does not list: one text feeds several tables. On a bad line returns -EINVAL with a
 * message in *ret_error (free()) that names key and value, and `conf` holds nothing to release. */
int conf_load(const struct conf_field *fields, void *conf, struct bytes text, char **ret_error);
/* Releases the strings; also fine for a zeroed `conf`, and twice. */
void conf_fini(const struct conf_field *fields, void *conf);

/* Single values, shared with the supervisor's parser. On failure -EINVAL, *ret untouched. */
int conf_parse_bool(const char *text, bool *ret);
int conf_parse_u64(const char *text, uint64_t *ret);
int conf_parse_i64(const char *text, int64_t *ret);
int conf_parse_duration(const char *text, uint64_t *ret_ns);

#endif
