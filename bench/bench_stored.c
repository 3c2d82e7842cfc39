/*
 * What stored costs by itself: one process is stored, this one is raftd and gatewayd of a sole
 * voter. Prints, for puts over distinct keys, puts to one key, gets and ranges, the rate and the
 * CPU time of stored per operation (all its threads, LevelDB's included), and its memory.
 *
 *   bench_stored <empty directory> [operations [value bytes [in flight [keys]]]]
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/ipc/ipc.h"
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "stored/stored.h"

enum {
    MEMBER = 1,
    CLUSTER = 2,
    GENERATION = 7,
    WINDOW_MAX = 65536,
    STATUS_ID = 1000000000,
    VALUES_BYTES = 4 << 20,
};

static struct loop *loop;
static struct ipc_link *raftd, *gateway;
static uint64_t next_index = 1, applied, answered_count, in_flight_max = 256;
static unsigned int up_count;
static bool role_acked;
static pid_t child;
static size_t value_len = 256;
static uint64_t key_count = 100000;
static uint8_t *values;               /* random, so that nothing compresses */
static uint64_t received[WINDOW_MAX]; /* of the answer with this id */

/* ---- the stored side ---- */

static void child_ready(void *user)
{
}

static void child_stopped(void *user)
{
    loop_stop(user);
}

static void child_fatal(void *user, const char *text)
{
    fprintf(stderr, "stored: %s\n", text);
    _exit(EXIT_FAILURE);
}

static void on_term(void *user)
{
    stored_stop(user);
}

static int run_stored(const char *dir)
{
    CLEANUP(freep) char *data_dir = xasprintf("%s/data", dir);
    struct stored_conf conf = {
        .data_dir = data_dir,
        .value_cache_bytes = 32 << 20,
        .gateway_count = 1,
        .checkpoint_entries = 500000,
    };
    struct stored s = {0};
    struct loop *l = loop_new();
    struct loop_signal *term;

    xmalloc_tune();
    stored_tune_malloc();
    log_open("stored", LOG_LEVEL_WARN, LOG_FORMAT_TEXT, "stderr");
    if (stored_open(&s, &(struct stored_args){.loop = l,
                                              .conf = &conf,
                                              .run_dir = dir,
                                              .generation = 1,
                                              .ready = child_ready,
                                              .stopped = child_stopped,
                                              .fatal = child_fatal,
                                              .user = l}) < 0 ||
        stored_start(&s) < 0)
        return EXIT_FAILURE;
    term = loop_signal_new(l, SIGTERM, on_term, &s);
    loop_run(l);
    loop_signal_free(term);
    stored_close(&s);
    loop_free(l);
    return EXIT_SUCCESS;
}

/* ---- raftd and gatewayd ---- */

static void raftd_hello(void *user, struct buf *body)
{
    proto_hello_encode(body, &(struct proto_hello){.daemon = PROTO_DAEMON_RAFTD,
                                                   .generation = 1,
                                                   .cluster_id = CLUSTER,
                                                   .member_id = MEMBER});
}

static void gateway_hello(void *user, struct buf *body)
{
    proto_hello_encode(
        body, &(struct proto_hello){.daemon = PROTO_DAEMON_GATEWAYD, .generation = GENERATION});
}

static int any_hello(void *user, struct bytes body)
{
    return 0;
}

static void on_up(void *user)
{
    up_count++;
}

static void on_down(void *user)
{
    fprintf(stderr, "link lost\n");
    exit(EXIT_FAILURE);
}

static void raftd_frame(void *user, const struct ipc_frame *f)
{
    struct proto_applied m;

    if (f->type == PROTO_APPLIED && proto_applied_decode(f->body, &m) == 0)
        applied = m.applied_index;
    if (f->type == PROTO_ROLE_ACK)
        role_acked = true;
}

static void print_status(struct bytes body)
{
    struct proto_store_status m;

    if (proto_store_status_decode(body, &m) != 0)
        return;
    printf("    %" PRIu64 " keys, cache %" PRIu64 " kB, index %" PRIu64 " kB, db %" PRIu64
           " kB, %" PRIu64 " writes of %" PRIu64 " us\n",
           m.key_count, m.cache_bytes / 1024, m.index_bytes / 1024, m.db_bytes / 1024,
           m.write_batch_count, m.write_batch_ns_sum / 1000 / MAX(m.write_batch_count, 1U));
}

static void gateway_frame(void *user, const struct ipc_frame *f)
{
    struct proto_result m;

    if (f->type != PROTO_RESULT)
        return; /* news about alarms, users and the like */
    if (proto_result_decode(f->body, &m) != 0 || m.outcome != OUT_OK) {
        fprintf(stderr, "unexpected answer\n");
        exit(EXIT_FAILURE);
    }
    if (f->id == STATUS_ID)
        print_status(m.part);
    received[f->id % WINDOW_MAX] += m.part.len;
    if (received[f->id % WINDOW_MAX] < m.total_bytes)
        return;
    received[f->id % WINDOW_MAX] = 0;
    answered_count++;
}

static const struct ipc_link_ops raftd_ops = {raftd_hello, any_hello,   on_up,
                                              on_down,     raftd_frame, NULL};
static const struct ipc_link_ops gateway_ops = {gateway_hello, any_hello,     on_up,
                                                on_down,       gateway_frame, NULL};

static struct ipc_link *start_link(const char *dir, const char *name, bool listen,
                                   const struct ipc_link_ops *ops)
{
    CLEANUP(freep) char *url = xasprintf("ipc://%s/%s", dir, name);
    struct ipc_link *link;
    int r = ipc_link_start(
        &(struct ipc_link_args){
            .loop = loop, .name = name, .url = url, .listen = listen, .ops = ops},
        &link);

    if (r < 0) {
        fprintf(stderr, "%s: %s\n", url, strerror(-r));
        exit(EXIT_FAILURE);
    }
    return link;
}

static void send_put(uint64_t key_number, uint64_t id)
{
    static struct buf put, payload;
    struct buf *b;
    char key[48];

    buf_clear(&put);
    buf_clear(&payload);
    snprintf(key, sizeof(key), "bench/some/longer/prefix/%015" PRIu64, key_number);
    pb_put_bytes(&put, 1, bytes_str(key));
    pb_put_bytes(&put, 2, bytes_of(values + id * 257 % VALUES_BYTES, value_len));
    proto_payload_encode(&payload, &(struct proto_payload){.kind = PROTO_KIND_PUT,
                                                           .origin_member = MEMBER,
                                                           .origin_generation = GENERATION,
                                                           .request_id = id,
                                                           .body = buf_bytes(&put)});
    b = ipc_link_begin(raftd, PROTO_COMMITTED, 0);
    proto_entry_encode(
        b, &(struct proto_entry){.index = next_index++, .term = 1, .data = buf_bytes(&payload)});
    ipc_link_end(raftd);
}

static void send_put_distinct(uint64_t i)
{
    send_put(i % key_count, i);
}

static void send_put_same(uint64_t i)
{
    send_put(0, i);
}

static void send_get(uint64_t i)
{
    static struct buf range;
    struct buf *b;
    char key[48];

    buf_clear(&range);
    snprintf(key, sizeof(key), "bench/some/longer/prefix/%015" PRIu64, i * 7919 % key_count);
    pb_put_bytes(&range, 1, bytes_str(key));
    b = ipc_link_begin(gateway, PROTO_READ, i);
    proto_read_encode(b, &(struct proto_read){.kind = PROTO_READ_RANGE,
                                              .linearizable = true,
                                              .body = buf_bytes(&range)});
    ipc_link_end(gateway);
}

static void send_range(uint64_t i)
{
    static struct buf range;
    struct buf *b;
    char key[48];

    buf_clear(&range);
    snprintf(key, sizeof(key), "bench/some/longer/prefix/%015" PRIu64, i * 7919 % key_count);
    pb_put_bytes(&range, 1, bytes_str(key));
    pb_put_bytes(&range, 2, BYTES_LIT("c"));
    pb_put_u64(&range, 3, 1000);
    b = ipc_link_begin(gateway, PROTO_READ, i);
    proto_read_encode(b, &(struct proto_read){.kind = PROTO_READ_RANGE, .body = buf_bytes(&range)});
    ipc_link_end(gateway);
}

static void ask_status(void)
{
    struct buf *b = ipc_link_begin(gateway, PROTO_READ, STATUS_ID);
    uint64_t before = answered_count;

    proto_read_encode(b, &(struct proto_read){.kind = PROTO_READ_STATUS});
    ipc_link_end(gateway);
    while (answered_count == before)
        loop_run_once(loop, 1000);
}

static double child_cpu(void)
{
    struct timespec ts;
    clockid_t clock;

    clock_getcpuclockid(child, &clock);
    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double now(void)
{
    return (double)loop_clock_ns() / 1e9;
}

static unsigned long child_kb(const char *field)
{
    CLEANUP(freep) char *path = xasprintf("/proc/%d/status", (int)child);
    FILE *f = fopen(path, "r");
    char line[256];
    unsigned long kb = 0;

    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        if (strncmp(line, field, strlen(field)) == 0)
            kb = strtoul(line + strlen(field) + 1, NULL, 10);
    }
    if (f != NULL)
        fclose(f);
    return kb;
}

static void run(const char *name, void (*send_one)(uint64_t), uint64_t count, uint64_t window)
{
    double cpu = child_cpu(), start = now(), took;
    uint64_t sent = 0;

    answered_count = 0;
    while (answered_count < count) {
        while (sent < count && sent - answered_count < window)
            send_one(sent++);
        loop_run_once(loop, 1000);
    }
    took = now() - start;
    printf("%-24s window %4" PRIu64 "  %8.0f/s  %6.2f us CPU each   RSS %lu kB (anon %lu)\n", name,
           window, (double)count / took, (child_cpu() - cpu) / (double)count * 1e6,
           child_kb("VmRSS"), child_kb("RssAnon"));
    ask_status();
    fflush(stdout);
}

int main(int argc, char **argv)
{
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 200000;
    struct buf *b;
    int status;

    if (argc < 2) {
        fprintf(stderr, "usage: bench_stored <empty directory> [operations [value bytes [in flight "
                        "[keys]]]]\n");
        return 2;
    }
    if (argc > 3)
        value_len = strtoull(argv[3], NULL, 10);
    if (argc > 4)
        in_flight_max = MIN(strtoull(argv[4], NULL, 10), (unsigned long long)WINDOW_MAX);
    if (argc > 5)
        key_count = MAX(strtoull(argv[5], NULL, 10), 1ULL);
    values = xmalloc(VALUES_BYTES + value_len);
    for (size_t i = 0; i < VALUES_BYTES + value_len; i++)
        values[i] = (uint8_t)rand();
    child = fork(); /* before nng starts its threads */
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* the load may be interrupted */
        return run_stored(argv[1]);
    }
    loop = loop_new();
    raftd = start_link(argv[1], "raftd.stored", true, &raftd_ops);
    gateway = start_link(argv[1], "stored.gw0", false, &gateway_ops);
    while (up_count < 2)
        loop_run_once(loop, 100);
    b = ipc_link_begin(raftd, PROTO_ROLE, 1);
    proto_raft_status_encode(
        b, &(struct proto_raft_status){
               .cluster_id = CLUSTER, .member_id = MEMBER, .term = 1, .local_reads = true});
    ipc_link_end(raftd);
    while (!role_acked)
        loop_run_once(loop, 100);

    run("put, distinct keys", send_put_distinct, count, in_flight_max);
    run("put, one key", send_put_same, count, in_flight_max);
    run("put, one key", send_put_same, count / 10, 1);
    run("get", send_get, count, in_flight_max);
    run("get", send_get, count / 10, 1);
    run("range of 1000", send_range, count / 200, 4);
    kill(child, SIGTERM);
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}
