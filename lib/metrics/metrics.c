#include "lib/metrics/metrics.h"

#include <assert.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

void metrics_family(struct buf *b, const char *name, const char *type, const char *help)
{
    buf_appendf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void metrics_sample(struct buf *b, const char *name, const char *labels, uint64_t v)
{
    if (labels[0] == '\0')
        buf_appendf(b, "%s %" PRIu64 "\n", name, v);
    else
        buf_appendf(b, "%s{%s} %" PRIu64 "\n", name, labels, v);
}

void metrics_u64(struct buf *b, const char *name, const char *type, const char *help, uint64_t v)
{
    metrics_family(b, name, type, help);
    metrics_sample(b, name, "", v);
}

void metrics_seconds(struct buf *b, const char *name, const char *type, const char *help,
                     double seconds)
{
    metrics_family(b, name, type, help);
    buf_appendf(b, "%s %.3f\n", name, seconds);
}

static uint64_t upper_bound(const struct metrics_histogram *h, size_t bucket)
{
    return h->bounds_ns != NULL ? h->bounds_ns[bucket] : h->first_ns << bucket;
}

void metrics_histogram_add(struct metrics_histogram *h, uint64_t ns)
{
    size_t i = 0;

    assert(h->buckets <= METRICS_BUCKETS_MAX);
    while (i < h->buckets && ns > upper_bound(h, i))
        i++;
    h->bucket[i]++;
    h->count++;
    h->sum_ns += ns;
}

void metrics_histogram_samples(struct buf *b, const char *name, const char *labels,
                               const struct metrics_histogram *h)
{
    const char *comma = labels[0] != '\0' ? "," : "";
    uint64_t cumulative = 0;

    for (size_t i = 0; i < h->buckets; i++) {
        cumulative += h->bucket[i];
        buf_appendf(b, "%s_bucket{%s%sle=\"%.10g\"} %" PRIu64 "\n", name, labels, comma,
                    (double)upper_bound(h, i) / 1e9, cumulative);
    }
    buf_appendf(b, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, labels, comma, h->count);
    if (labels[0] == '\0')
        buf_appendf(b, "%s_sum %.9f\n%s_count %" PRIu64 "\n", name, (double)h->sum_ns / 1e9, name,
                    h->count);
    else
        buf_appendf(b, "%s_sum{%s} %.9f\n%s_count{%s} %" PRIu64 "\n", name, labels,
                    (double)h->sum_ns / 1e9, name, labels, h->count);
}

/* ---- the process ---- */

static uint64_t open_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    uint64_t count = 0;

    if (dir == NULL)
        return 0;
    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count > 3 ? count - 3 : 0; /* ".", "..", and the directory itself */
}

/* Of the process, in seconds since 1970; 0: unknown. */
static double start_time(void)
{
    unsigned long long ticks = 0;
    double up = 0, now;
    struct timespec t;
    FILE *f = fopen("/proc/self/stat", "re");

    if (f == NULL)
        return 0;
    /* the 22nd field; the second is in parentheses and may hold anything but ")" here */
    if (fscanf(f,
               "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
               "%*d %*d %llu",
               &ticks) != 1)
        ticks = 0;
    fclose(f);
    clock_gettime(CLOCK_BOOTTIME, &t);
    up = (double)t.tv_sec + (double)t.tv_nsec / 1e9;
    clock_gettime(CLOCK_REALTIME, &t);
    now = (double)t.tv_sec + (double)t.tv_nsec / 1e9;
    return ticks == 0 ? 0 : now - up + (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

static void resident(uint64_t *ret_virtual, uint64_t *ret_resident)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    unsigned long total = 0, now = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (f != NULL) {
        if (fscanf(f, "%lu %lu", &total, &now) != 2)
            total = now = 0;
        fclose(f);
    }
    *ret_virtual = total * page;
    *ret_resident = now * page;
}

void metrics_process(struct buf *b, const char *daemon)
{
    struct rlimit limit = {0};
    struct rusage usage = {0};
    uint64_t virtual_bytes, resident_bytes;
    char prefix[64] = "", name[128];

    if (daemon[0] != '\0')
        snprintf(prefix, sizeof(prefix), "conclave_%s_", daemon);
    getrlimit(RLIMIT_NOFILE, &limit);
    getrusage(RUSAGE_SELF, &usage);
    resident(&virtual_bytes, &resident_bytes);
    snprintf(name, sizeof(name), "%sprocess_cpu_seconds_total", prefix);
    metrics_seconds(b, name, "counter", "Total user and system CPU time spent in seconds.",
                    (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                        (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    snprintf(name, sizeof(name), "%sprocess_max_fds", prefix);
    metrics_u64(b, name, "gauge", "Maximum number of open file descriptors.", limit.rlim_cur);
    snprintf(name, sizeof(name), "%sprocess_open_fds", prefix);
    metrics_u64(b, name, "gauge", "Number of open file descriptors.", open_descriptors());
    snprintf(name, sizeof(name), "%sprocess_resident_memory_bytes", prefix);
    metrics_u64(b, name, "gauge", "Resident memory size in bytes.", resident_bytes);
    snprintf(name, sizeof(name), "%sprocess_start_time_seconds", prefix);
    metrics_seconds(b, name, "gauge",
                    "Start time of the process since unix epoch in seconds.", start_time());
    snprintf(name, sizeof(name), "%sprocess_virtual_memory_bytes", prefix);
    metrics_u64(b, name, "gauge", "Virtual memory size in bytes.", virtual_bytes);
}
