/*
 * What the commands of conclavectl share: the run (struct ctl), how it ends, its client.
 *
 * The program does one command and exits, so a command that fails ends the process with
 * ctl_die; exit codes are etcdctl's.
 */
#ifndef CONCLAVE_CTL_CTL_H
#define CONCLAVE_CTL_CTL_H

#include <stdbool.h>
#include <stdint.h>
#include "ctl/ctl_client.h"
#include "ctl/ctl_flags.h"
#include "lib/util/macros.h"

enum ctl_exit {
    CTL_EXIT_SUCCESS = 0,
    CTL_EXIT_ERROR = 1,
    CTL_EXIT_BAD_CONNECTION = 2,
    CTL_EXIT_INVALID_INPUT = 3,
    CTL_EXIT_BAD_FEATURE = 4,
    CTL_EXIT_INTERRUPTED = 5,
    CTL_EXIT_BAD_ARGS = 128,
};

enum ctl_format {
    CTL_FORMAT_SIMPLE,
    CTL_FORMAT_JSON,
    CTL_FORMAT_FIELDS,
    CTL_FORMAT_TABLE,
    CTL_FORMAT_PROTOBUF,
};

struct loop;
struct tls_context;
struct ctl_secure; /* TLS files and choices, see ctl_secure.h */

struct ctl {
    struct loop *loop;
    struct ctl_args *args;
    const struct ctl_help_conf *help;
    int argc; /* the whole command line, for messages */
    char **argv;
    /* from the global flags, once ctl_globals or ctl_connect was called */
    bool globals_read;
    enum ctl_format format;
    bool hex;
    char **endpoints;
    size_t endpoint_count;
    uint64_t dial_ms;
    uint64_t command_ms;
    uint64_t keepalive_ms, keepalive_timeout_ms;
    uint64_t request_bytes_max, answer_bytes_max; /* 0: not given */
    char *user, *password;
    struct tls_context *tls;
    const char *tls_name;
    struct ctl_client *client;
};

/* "Error: text" on standard error, and the end. */
NORETURN void ctl_die(enum ctl_exit code, const char *fmt, ...) PRINTF_LIKE(2, 3);
NORETURN void ctl_exit(int code);

extern const struct ctl_flag ctl_global_flags[];
extern const struct ctl_command ctl_root;
extern const struct ctl_help_conf ctl_help;

/* ctl_globals.c: environment, formats, endpoints, TLS files, user. Dies when they are wrong. */
void ctl_globals(struct ctl *c);
/* The client of all endpoints, authenticated where a user is given. */
struct ctl_client *ctl_connect(struct ctl *c);
/* Another client, of one endpoint; NULL and *ret_error instead of dying. */
struct ctl_client *ctl_connect_one(struct ctl *c, char *endpoint, struct ctl_error *ret_error);

/* A command's answer (protobuf_c_message_free_unpacked), within --command-timeout; dies with the
 * server's words and CTL_EXIT_ERROR. */
void *ctl_ask(struct ctl *c, const struct ctl_method *method, const void *request);
/* The same, but returns the code instead of dying; *ret is set on 0. */
int ctl_try(struct ctl *c, const struct ctl_method *method, const void *request,
            ProtobufCMessage **ret, struct ctl_error *ret_error);
void ctl_answer_free(void *answer);

/* The only positional argument; dies with `error` when there is none, or another one. */
const char *ctl_only_arg(const struct ctl_args *a, const char *error);
/* For a message to be sent, whose strings are not const; still the caller's. */
char *ctl_string(const char *text);
/* The same as bytes. */
ProtobufCBinaryData ctl_data(const char *text);
/* The end of the range of all keys with this prefix: free(data) when not the one byte zero. */
ProtobufCBinaryData ctl_prefix_end(ProtobufCBinaryData prefix);
/* "from key" and "everything" are the one byte zero. */
ProtobufCBinaryData ctl_zero_byte(void);
/* Reads all of standard input. */
char *ctl_read_stdin(size_t *ret_len);
/* Words of a line: blanks separate, "..." with escapes, '...' as it is. *ret: free items and list.
 * 0 or -EINVAL. */
int ctl_split_words(const char *line, char ***ret, size_t *ret_count);
void ctl_words_free(char **words, size_t count);
/* Runs a command with these extra "NAME=value" and waits, turning the loop meanwhile (NULL: not):
 * its exit code, or 128 + signal. -1 and *ret_error when it could not be started. */
int ctl_run(struct loop *loop, const char *const *argv, const char *const *env, size_t env_count,
            char **ret_error);
char *ctl_signal_text(int signum); /* "signal: killed"; free() */
/* Asks on the terminal without echo (or reads a line of standard input when it is none). free() */
char *ctl_read_password(const char *prompt);

#endif
