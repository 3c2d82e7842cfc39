/*
 * The private directory of the links' sockets. Its path is short, because the path of a unix socket
 * holds 107 bytes.
 */
#ifndef CONCLAVE_SUPERVISOR_RUNDIR_H
#define CONCLAVE_SUPERVISOR_RUNDIR_H

/* `base` "": $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR or /tmp. *ret_path is freed with free(). Negative
 * errno with *ret_why (free()). */
int rundir_create(const char *base, char **ret_path, char **ret_why);
/* Removes the sockets and the directory; only one that rundir_create could have made, and that is
 * ours. Silent: there may be nothing left. */
void rundir_remove(const char *path);

#endif
