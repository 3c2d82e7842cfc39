/*
 * Every setting Conclave takes, in one table, and the values given for them.
 *
 * A setting has one name, the one of etcd's flag. It may be given as a flag, as the variable
 * ETCD_NAME or CONCLAVE_NAME, and as a key of the configuration file (its own name, or its path in
 * one of etcd's blocks). Values are kept as text in one normal form, checked by type when given;
 * what several settings mean together is checked afterwards, in settings_check.
 *
 * Precedence: flag, CONCLAVE_ variable, file, ETCD_ variable, default. Beside a file, etcd ignores
 * its variables (a distribution's unit file sets ETCD_NAME and ETCD_DATA_DIR), and so do we. A flag
 * and a variable for the same setting contradict. Every deviation from what was written is told in
 * a notice.
 */
#ifndef CONCLAVE_SUPERVISOR_SETTINGS_H
#define CONCLAVE_SUPERVISOR_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "lib/util/buf.h"
#include "lib/util/macros.h"
#include "lib/util/url.h"

enum setting_type {
    SETTING_STRING,
    SETTING_BOOL,
    SETTING_UINT,
    SETTING_UINT32,
    SETTING_INT,
    SETTING_DURATION, /* kept as nanoseconds with the unit: "5000000000ns" */
    SETTING_URLS,     /* comma list, sorted */
    SETTING_ENUM,     /* one of .values */
    SETTING_LIST,     /* comma list of texts */
    SETTING_ORIGINS,  /* comma list of URLs, or "*" */
    SETTING_LEVELS,   /* level, or level,daemon=level,...; checked with the others */
    SETTING_GATES,    /* A=true,B=false */
    SETTING_ANY,      /* an old flag whose value nobody reads */
};

enum setting_effect {
    SETTING_ACTIVE,
    SETTING_MEANINGLESS, /* etcd knows it; there is nothing here it could change */
    SETTING_LATER,       /* accepted with a warning: this version does not do it yet */
    SETTING_REFUSED,     /* not done yet, and starting without it would be wrong */
};

enum setting_daemon {
    FOR_RAFTD = 1,
    FOR_STORED = 2,
    FOR_GATEWAYD = 4,
    FOR_ALL = 7,
};

enum setting_source { SOURCE_DEFAULT, SOURCE_ETCD_ENV, SOURCE_FILE, SOURCE_CONCLAVE_ENV, SOURCE_FLAG };

struct setting_def {
    const char *name;
    enum setting_type type;
    const char *def;  /* NULL: "" */
    enum setting_effect effect;
    unsigned int daemons;
    bool reloadable;
    bool secret;      /* never printed */
    bool no_yaml;     /* flag and variable only */
    const char *yaml; /* path in the file's blocks besides the own name; NULL: none */
    const char *values;
    const char *alias_of; /* another spelling of that setting */
    const char *series;   /* etcd releases that have it; "": only Conclave */
    const char *group;
    const char *help;
};

extern const struct setting_def setting_defs[];
extern const size_t setting_count;

struct setting_value {
    char *text; /* NULL: not given */
    enum setting_source source;
    unsigned int line, column; /* in the file, from 1 */
};

/* Why the settings cannot be used. `text` is one line (two where etcd adds a hint). */
struct settings_error {
    char *text;
    int exit_status;
    bool usage; /* the short usage follows, as after Go's flag errors */
    bool located; /* names a place in a file: printed as it is */
};

/* Something to log once the log is open. */
struct settings_notice {
    bool warning;
    char *text;
};

struct settings {
    struct setting_value *values; /* setting_count, aliases resolved */
    char *file;                   /* NULL: no configuration file */
    struct settings_notice *notices;
    size_t notice_count;
};

enum settings_action { SETTINGS_START, SETTINGS_HELP, SETTINGS_VERSION };

/* The whole way: flags, variables, file, precedence, checks. 0 or -EINVAL with *ret_error filled.
 * `s` is filled either way and released with settings_fini. */
int settings_load(struct settings *s, int argc, char *const *argv, char *const *env,
                  enum settings_action *ret_action, struct settings_error *ret_error);
void settings_fini(struct settings *s);
void settings_error_fini(struct settings_error *error);
int settings_error_set(struct settings_error *error, int exit_status, const char *fmt, ...)
    PRINTF_LIKE(3, 4); /* returns -EINVAL */
/* For a value that is wrong: names the place where it was given. */
int settings_error_at(const struct settings *s, const char *name, struct settings_error *error,
                      const char *fmt, ...) PRINTF_LIKE(4, 5);
void settings_notice(struct settings *s, bool warning, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Effective values; the name must exist. */
const char *settings_text(const struct settings *s, const char *name);
bool settings_bool(const struct settings *s, const char *name);
uint64_t settings_u64(const struct settings *s, const char *name);
uint64_t settings_duration_ms(const struct settings *s, const char *name);
/* The URLs of a setting of that type, whose syntax was checked when it was given. */
struct setting_urls {
    struct url *items;
    size_t count;
};
struct setting_urls settings_urls(const struct settings *s, const char *name);
void setting_urls_fini(struct setting_urls *urls);
bool settings_is_given(const struct settings *s, const char *name);
/* Level for one process out of "info,raftd=debug". Released with free(). */
char *settings_log_level(const struct settings *s, const char *process);
/* 0, or -EINVAL with *ret_why. */
int settings_check_levels(const char *text, char **ret_why);
const char *settings_log_format(const struct settings *s); /* "json" or "text" */

/* The part of one daemon as lines "name=value". */
void settings_write(const struct settings *s, unsigned int daemon, struct buf *out);
/* Takes the reloadable values of `newer`; names the others that differ in *ret_ignored (comma
 * list, NULL when none; free()). */
void settings_reload(struct settings *s, const struct settings *newer, char **ret_ignored);

/* ---- pieces, for the sources and the tests ---- */
struct setting_layer {
    struct setting_value *values; /* setting_count; per spelling, aliases not resolved */
};
void setting_layer_init(struct setting_layer *layer);
void setting_layer_fini(struct setting_layer *layer);

/* Index of a setting by name, or -1. */
int settings_find(const char *name);
/* By name or block path, letters' case ignored, as keys of a file. */
int settings_find_yaml(const char *path);
/* Checks `text` by type and stores its normal form. On -EINVAL *ret_why says what is wrong with it,
 * without naming the setting (free()). A later value for the same setting wins. */
int setting_put(struct setting_layer *layer, size_t id, const char *text, enum setting_source source,
                char **ret_why);

int settings_read_flags(struct setting_layer *layer, int argc, char *const *argv,
                        enum settings_action *ret_action, struct settings_error *ret_error);
/* `etcd` and `own` take the two prefixes apart; unknown names become notices of `s`. */
int settings_read_env(struct setting_layer *etcd, struct setting_layer *own, struct settings *s,
                      char *const *env, struct settings_error *ret_error);
int settings_read_file(struct setting_layer *layer, const char *path,
                       struct settings_error *ret_error);
/* Same, from memory; `path` is for messages. */
int settings_read_yaml(struct setting_layer *layer, const char *path, const void *data, size_t len,
                       struct settings_error *ret_error);
/* Cross-setting rules in etcd's order, and the defaults that depend on other settings. */
int settings_check(struct settings *s, struct settings_error *ret_error);
/* settings_tls.c: rules, called by settings_check; the files of auto-tls, likewise; and, once the data
 * directory is ours, those files made and everything loaded as the daemons will: -EINVAL as above. */
int settings_check_tls(struct settings *s, struct settings_error *ret_error);
void settings_derive_tls(struct settings *s);
int settings_prepare_tls(struct settings *s, struct settings_error *ret_error);
/* Replaces a value; it keeps counting as not given. Takes `text`. */
void settings_set(struct settings *s, const char *name, char *text);
/* Rules that hold only for a member that has no data yet. */
int settings_check_birth(const struct settings *s, struct settings_error *ret_error);

/* "ETCD_INITIAL_CLUSTER" for "initial-cluster"; free(). */
char *setting_variable(const char *prefix, const char *name);

void settings_print_usage(FILE *out);
void settings_print_help(FILE *out);
void settings_print_version(FILE *out);
void settings_print_reference(FILE *out); /* docs/configuration.md's table */

#endif
