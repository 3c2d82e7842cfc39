/*
 * What one durable batch costs: bench_wal [directory]. Batches of 1, 16 and 256 entries of 300
 * bytes, encoded, written and synced inline, and through the thread one after the other.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include "lib/loop/loop.h"
#include "lib/util/xmalloc.h"
#include "raftd/wal/wal_thread.h"

enum { ENTRY_BYTES = 300, BATCH_MAX = 256, ROUNDS = 3000 };

static uint8_t value[ENTRY_BYTES];
static uint64_t next_index = 1, done_sequence;

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static double cpu_us(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static struct wal_batch make_batch(struct wal_entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++)
        entries[i] = (struct wal_entry){next_index++, 1, 0, bytes_of(value, sizeof(value))};
    return (struct wal_batch){.entries = entries, .entry_count = count};
}

static void report(const char *how, size_t count, uint64_t *ns, double cpu)
{
    uint64_t sum = 0;

    for (int i = 0; i < ROUNDS; i++)
        sum += ns[i];
    qsort(ns, ROUNDS, sizeof(*ns), by_value);
    printf("%-7s batch %3zu: mean %7.1f us  p50 %7.1f  p99 %7.1f  max %8.1f  cpu %5.1f us  "
           "%5.2f us/entry\n",
           how, count, (double)sum / ROUNDS / 1e3, (double)ns[ROUNDS / 2] / 1e3,
           (double)ns[ROUNDS * 99 / 100] / 1e3, (double)ns[ROUNDS - 1] / 1e3, cpu / ROUNDS,
           (double)sum / ROUNDS / 1e3 / (double)count);
}

static void on_done(void *user, uint64_t sequence)
{
    done_sequence = sequence;
}

static void on_fatal(void *user, int err, const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(err));
    exit(1);
}

int main(int argc, char **argv)
{
    static struct wal_entry entries[BATCH_MAX];
    static uint64_t ns[ROUNDS];
    static const size_t counts[] = {1, 16, 256};
    char dir[512], cmd[600];
    struct wal_options o = {.wal_dir = dir};
    struct wal_error err;
    struct wal *w;
    struct loop *loop = loop_new();
    struct wal_thread_args args = {.loop = loop, .done = on_done, .fatal = on_fatal};
    struct wal_thread *t;

    snprintf(dir, sizeof(dir), "%s/bench_wal.XXXXXX", argc > 1 ? argv[1] : ".");
    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return 1;
    }
    memset(value, 'v', sizeof(value));
    if (wal_create(&o, &(struct wal_metadata){1, 1}, NULL, &w, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    for (size_t c = 0; c < ARRAY_LEN(counts); c++) {
        double cpu = cpu_us();

        for (int i = 0; i < ROUNDS; i++) {
            struct wal_batch b = make_batch(entries, counts[c]);
            uint64_t begin = loop_clock_ns();

            if (wal_append(w, &b, true) < 0)
                return 1;
            ns[i] = loop_clock_ns() - begin;
        }
        report("inline", counts[c], ns, cpu_us() - cpu);
    }
    args.wal = w;
    t = wal_thread_new(&args);
    for (size_t c = 0; c < ARRAY_LEN(counts); c++) {
        double cpu = cpu_us();

        for (int i = 0; i < ROUNDS; i++) {
            struct wal_batch b = make_batch(entries, counts[c]);
            uint64_t begin = loop_clock_ns(), sequence = wal_thread_submit(t, &b, true);

            while (done_sequence < sequence)
                loop_run_once(loop, 1000);
            ns[i] = loop_clock_ns() - begin;
        }
        report("thread", counts[c], ns, cpu_us() - cpu);
    }
    wal_thread_free(t);
    wal_close(w);
    loop_free(loop);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    return system(cmd);
}
