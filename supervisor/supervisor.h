/*
 * The whole of one member's supervision: which children there are, in which order they stop, and what
 * the service manager and the operator are told.
 */
#ifndef CONCLAVE_SUPERVISOR_SUPERVISOR_H
#define CONCLAVE_SUPERVISOR_SUPERVISOR_H

#include "supervisor/datadir.h"
#include "supervisor/listen.h"
#include "supervisor/settings.h"

struct supervisor;

struct supervisor_args {
    struct settings *settings;        /* outlives the supervisor; reload changes it */
    struct datadir *datadir;          /* locked */
    const struct listener_set *listeners;
    const char *run_dir;
    const char *libexec_dir;
    int argc;                         /* to read the settings again on reload */
    char *const *argv;
    char *const *env;
};

struct supervisor_end {
    int exit_status;
    int signal; /* the signal that asked for the end, 0: none */
};

struct supervisor *supervisor_new(const struct supervisor_args *args); /* NULL: logged why */
/* Returns when every child is gone. */
struct supervisor_end supervisor_run(struct supervisor *sv);
void supervisor_free(struct supervisor *sv);

#endif
