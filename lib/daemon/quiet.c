/* See quiet.h. Page faults tell how much memory was touched anew, processor time whether it is
 * quiet: one system call a look. */
#include "lib/daemon/quiet.h"

#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/loop/loop.h"
#include "lib/util/xmalloc.h"

enum {
    LOOK_MS = 1000,
    QUIET_CPU_US = 30000,          /* between two looks */
    FAULTS_MIN = 64,               /* since memory was last given back: 256 KiB */
    RESIDENT_BYTES_MAX = 48 << 20, /* a few milliseconds' walk at worst */
};

struct daemon_quiet {
    struct loop_timer *timer;
    uint64_t cpu_us;
    long faults; /* when memory was last given back */
};

static uint64_t cpu_us(const struct rusage *u)
{
    return (uint64_t)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) * 1000000 +
           (uint64_t)(u->ru_utime.tv_usec + u->ru_stime.tv_usec);
}

/* Of this process; 0: unknown. */
static uint64_t resident_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long long pages = 0;

    if (f == NULL)
        return 0;
    if (fscanf(f, "%*u %llu", &pages) != 1)
        pages = 0;
    fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void on_look(void *user)
{
    struct daemon_quiet *q = user;
    struct rusage usage;
    bool quiet;

    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return;
    quiet = cpu_us(&usage) - q->cpu_us < QUIET_CPU_US;
    q->cpu_us = cpu_us(&usage);
    if (!quiet || usage.ru_minflt - q->faults < FAULTS_MIN)
        return;
    if (resident_bytes() <= RESIDENT_BYTES_MAX)
        malloc_trim(0);
    getrusage(RUSAGE_SELF, &usage);
    q->faults = usage.ru_minflt;
}

struct daemon_quiet *daemon_quiet_new(struct loop *loop)
{
    struct daemon_quiet *q = xcalloc(1, sizeof(*q));

    q->timer = loop_timer_new(loop, "quiet", on_look, q);
    loop_timer_start(q->timer, LOOK_MS, LOOK_MS);
    return q;
}

void daemon_quiet_free(struct daemon_quiet *q)
{
    if (q == NULL)
        return;
    loop_timer_free(q->timer);
    free(q);
}
