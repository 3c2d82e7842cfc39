/*
 * The shape all daemons share (style: know one, know all). main.c is a daemon_info table and a
 * call of daemon_main, which does in one order: options, configuration, log, limits, signals,
 * init, start, READY, loop, stop, fini, exit code.
 *
 * Control channel to the supervisor: a SOCK_SEQPACKET socketpair inherited as a descriptor, text
 * messages, one per packet.
 *   child -> supervisor: "READY", "STATUS <text>", "PONG <n>", "HANDED-OVER", "FATAL <text>"
 *   supervisor -> child: "PING <n>", "HANDOVER", "STOP", "RELOAD <fd passed: new conf>"
 * Its end of file means the supervisor died: the daemon calls stop and exits within a second.
 *
 * Command line, given by the supervisor: --conf-fd=N --control-fd=N [--listen-fd=N:url ...].
 * Exit status: 0 after STOP or loss of the supervisor; 1 for a failure an operator must see
 * (already logged); 2 for a wrong command line.
 */
#ifndef CONCLAVE_DAEMON_DAEMON_H
#define CONCLAVE_DAEMON_DAEMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/conf/conf.h"
#include "lib/util/macros.h"

struct loop;
struct daemon;

/* What every daemon is told, beside its own fields. */
struct daemon_common {
    char *run_dir;       /* directory of the link sockets */
    uint64_t generation; /* grows with every start of any child of this supervisor */
    char *log_level;
    char *log_format;
    char *log_outputs;
    char *member_name;   /* --name, for log context */
};

struct daemon_info {
    const char *name;
    const char *summary;
    const struct conf_field *conf; /* offsets into the conf struct below */
    size_t conf_size;
    size_t state_size;
    /* state is zeroed, state_size bytes. Hooks return 0 or negative errno, having logged why. */
    int (*init)(void *state, struct daemon *d);  /* allocate, open files, recover; may block */
    int (*start)(void *state, struct daemon *d); /* register with the loop; from here none blocks */
    /* The reloadable fields of daemon_conf, which stays where it is, have their new values; negative
     * puts the old ones back. May be NULL. */
    int (*reload)(void *state, struct daemon *d);
    void (*handover)(void *state);               /* give leadership away; then daemon_handed_over; may be NULL */
    void (*stop)(void *state);                   /* stop intake, drain; then daemon_stopped */
    void (*fini)(void *state);                   /* accepts a half-initialised object */
};

int daemon_main(const struct daemon_info *info, int argc, char **argv);

/* For hooks and what they call. */
struct loop *daemon_loop(struct daemon *d);
const void *daemon_conf(const struct daemon *d); /* the struct described by info->conf */
const struct daemon_common *daemon_common(const struct daemon *d);
size_t daemon_listen_count(const struct daemon *d);
int daemon_listen_fd(const struct daemon *d, size_t i, const char **ret_url); /* daemon keeps it */

void daemon_ready(struct daemon *d); /* once; the supervisor counts us as up */
void daemon_status(struct daemon *d, const char *fmt, ...) PRINTF_LIKE(2, 3);
void daemon_handed_over(struct daemon *d);
void daemon_stopped(struct daemon *d); /* drained: the loop may end */
/* Log, tell the supervisor, end the process with status 1 without running fini. For disk errors
 * after which no further write may happen. Any thread. */
NORETURN void daemon_fatal(struct daemon *d, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
