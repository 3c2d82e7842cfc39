/*
 * One supervised process. It starts, runs, stops and starts again through five states, in one
 * function:
 *
 *            start              READY              stop
 *     DOWN --------> STARTING --------> READY ------------> STOPPING --exit--> DOWN
 *      ^               |   ^              |                    ^
 *      |  stop         |exit\ retry       | exit               | stop
 *      +----------- BACKOFF <-------------+        STARTING ---+
 *
 * It is up when it says so. Its pid is waited for before a successor is forked, so there is never a
 * twin; a process that was stopped and comes back finds itself killed. What it says on the control
 * channel is gossip: bounded, checked, never a reason for the supervisor to fail.
 */
#ifndef CONCLAVE_SUPERVISOR_CHILD_H
#define CONCLAVE_SUPERVISOR_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "lib/util/buf.h"

struct child;
struct loop;
struct listener_set;
struct prng;

enum child_state { CHILD_DOWN, CHILD_STARTING, CHILD_READY, CHILD_STOPPING, CHILD_BACKOFF };

struct child_ops {
    /* Appends the configuration of the process about to start, and returns its generation. */
    uint64_t (*fill_conf)(void *user, struct child *c, struct buf *out);
    void (*on_change)(void *user, struct child *c); /* state or status text */
    void (*on_handed_over)(void *user, struct child *c);
    /* It ended with a message for the operator before it was ever up: no use to try again. */
    void (*on_fatal)(void *user, struct child *c, const char *text);
    /* This member was removed from the cluster: no use either, and no failure. */
    void (*on_removed)(void *user, struct child *c, const char *text);
};

struct child_args {
    struct loop *loop;
    const char *name;   /* "gatewayd", in logs and as argv[0]'s base; borrowed */
    size_t index;       /* among processes of that name */
    const char *path;   /* of the program; copied */
    int inherited_fd;   /* kept open in the child without being told about; -1: none */
    const struct listener_set *listeners; /* NULL: none; borrowed */
    uint64_t watchdog_ms;
    uint64_t stop_ms;   /* from STOP to SIGKILL */
    struct prng *prng;  /* jitter */
    const struct child_ops *ops;
    void *user;
};

struct child *child_new(const struct child_args *args);
void child_free(struct child *c); /* the process must be gone */

void child_start(struct child *c);
void child_stop(struct child *c);     /* ends in DOWN */
void child_kill(struct child *c);     /* SIGKILL now */
void child_hand_over(struct child *c);
void child_reload(struct child *c, struct bytes conf);
void child_reap(struct child *c);     /* after SIGCHLD */
void child_watch(struct child *c);    /* once a second */

enum child_state child_state(const struct child *c);
const char *child_state_name(const struct child *c);
const char *child_name(const struct child *c); /* with the index when it is not 0 */
const char *child_kind(const struct child *c);
uint64_t child_generation(const struct child *c); /* of the last start */
size_t child_index(const struct child *c);
const char *child_status(const struct child *c); /* its last STATUS, "" */

#endif
