/*
 * Flags and commands as scripts written for etcdctl know them: GNU-like long options with single-
 * letter forms, anywhere on the line up to "--"; sub-commands found by name or unambiguous prefix;
 * values checked by type with the same error texts; help pages of the same shape.
 *
 * A command is a static table entry. Flags of a command are its own and the global ones
 * (ctl_global_flags). What was given is a struct ctl_args, which borrows the argument strings.
 */
#ifndef CONCLAVE_CTL_CTL_FLAGS_H
#define CONCLAVE_CTL_CTL_FLAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum ctl_flag_type {
    CTL_FLAG_STRING,
    CTL_FLAG_BOOL,
    CTL_FLAG_INT,      /* 64 bits; decimal, 0x, 0o, 0b and 0 prefixes */
    CTL_FLAG_UINT,     /* the same without a sign */
    CTL_FLAG_DURATION, /* "1h2m3.5s" */
    CTL_FLAG_LIST,     /* comma-separated; repeating adds */
};

struct ctl_flag {
    const char *name;
    enum ctl_flag_type type;
    const char *initial; /* as text; a list's without brackets */
    const char *usage;
    char shorthand;
    bool hidden;
    bool inherited; /* a parent command has it too: shown among the global ones */
};

enum { CTL_FLAGS_MAX = 48, CTL_DEPTH_MAX = 4 };

struct ctl;
struct ctl_args;
struct ctl_command {
    const char *use; /* "get [options] <key> [range_end]"; the first word is the name */
    const char *summary;
    const char *description;                       /* NULL: none beyond the summary */
    const struct ctl_flag *flags;                  /* ended by name == NULL; may be NULL */
    const struct ctl_command *const *children;     /* ended by NULL; may be NULL */
    int (*run)(struct ctl *c, struct ctl_args *a); /* NULL: shows its help. Returns the exit code */
    bool hidden;
};

struct ctl_flag_value {
    const struct ctl_flag *flag;
    const char *text; /* as given, or the initial value; for lists see ctl_args_list */
    char *owned;      /* a list's joined values */
    bool given;
    bool b;
    int64_t i; /* durations in nanoseconds */
};

struct ctl_args {
    const struct ctl_command *command;
    const struct ctl_command *path[CTL_DEPTH_MAX]; /* from below the root to `command` */
    size_t depth;
    struct ctl_flag_value values[CTL_FLAGS_MAX];
    size_t value_count;
    size_t local_count; /* the first so many are the command's own, with help */
    const char **argv;  /* positional, "--" removed */
    size_t argc;
    size_t dash; /* positional arguments before "--"; SIZE_MAX: there was none */
};

enum ctl_parse {
    CTL_PARSE_OK,
    CTL_PARSE_UNKNOWN_COMMAND, /* *ret_error says which */
    CTL_PARSE_BAD_FLAG,        /* *ret_error says why */
};

/* Splits a command line (without the program's name). `root` is the table's top; `globals` may be
 * NULL. On CTL_PARSE_BAD_FLAG ret->command is set, for its usage. *ret_error: free(). */
enum ctl_parse ctl_args_parse(const struct ctl_command *root, const struct ctl_flag *globals,
                              const char *const *argv, size_t argc, struct ctl_args *ret,
                              char **ret_error);
/* Flags of one command only, for lines read from standard input (txn, interactive watch). */
enum ctl_parse ctl_args_parse_flags(const struct ctl_command *command, const char *const *argv,
                                    size_t argc, struct ctl_args *ret, char **ret_error);
void ctl_args_fini(struct ctl_args *a);

/* These panic on a name the command does not have. */
const struct ctl_flag_value *ctl_args_flag(const struct ctl_args *a, const char *name);
bool ctl_args_bool(const struct ctl_args *a, const char *name);
int64_t ctl_args_int(const struct ctl_args *a, const char *name);
const char *ctl_args_string(const struct ctl_args *a, const char *name);
bool ctl_args_given(const struct ctl_args *a, const char *name);
/* NULL when the command has no such flag. */
const struct ctl_flag_value *ctl_args_find(const struct ctl_args *a, const char *name);
/* As if the flag had been given with this text: 0, or -EINVAL and *ret_error. */
int ctl_args_set(struct ctl_args *a, const char *name, const char *text, char **ret_error);

/* The word a flag or argument is parsed as; 0 or -EINVAL with *ret_error in Go's words. */
int ctl_parse_int(const char *text, int base, int64_t *ret, char **ret_error);
int ctl_parse_uint(const char *text, int base, uint64_t *ret, char **ret_error);
int ctl_parse_bool(const char *text, bool *ret, char **ret_error);
int ctl_parse_duration(const char *text, int64_t *ret_ns, char **ret_error);

const struct ctl_command *ctl_command_find(const struct ctl_command *parent, const char *name);
size_t ctl_command_name(const struct ctl_command *command, const char **ret); /* its length */

/* ctl_help.c */
struct ctl_help_conf {
    const char *program;
    const char *version;
    const char *api_version;
    const struct ctl_command *root;
    const struct ctl_flag *globals;
};
/* path is empty for the program itself. */
void ctl_help_print(FILE *out, const struct ctl_help_conf *conf,
                    const struct ctl_command *const *path, size_t depth);
void ctl_help_completion_bash(FILE *out, const struct ctl_help_conf *conf, bool descriptions);
void ctl_help_completion_zsh(FILE *out, const struct ctl_help_conf *conf, bool descriptions);
void ctl_help_completion_fish(FILE *out, const struct ctl_help_conf *conf, bool descriptions);
/* The hidden command behind the scripts: one candidate per line, with a tab and its summary if
 * wanted. */
void ctl_help_complete(FILE *out, const struct ctl_help_conf *conf, bool descriptions,
                       const char *const *argv, size_t argc);

#endif
