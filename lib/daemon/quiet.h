/*
 * What a burst leaves behind in the allocator goes back to the kernel once the daemon is quiet.
 *
 * Free memory between blocks in use stays a process's for ever. Under load that is right, it is used
 * again at once. So this looks every now and then: when next to nothing happened since the last look,
 * and much memory was touched for the first time since some was last given back, it is given back.
 * Only in a small process: walking the free blocks of a large one stops the loop for too long, and
 * what can be gained is little beside the rest.
 */
#ifndef CONCLAVE_DAEMON_QUIET_H
#define CONCLAVE_DAEMON_QUIET_H

struct daemon_quiet;
struct loop;

struct daemon_quiet *daemon_quiet_new(struct loop *loop);
void daemon_quiet_free(struct daemon_quiet *q); /* NULL is fine */

#endif
