/*
 * What a hop between two daemons costs: two processes, one link, requests answered at once.
 * Prints, for 1, 32 and 256 requests in flight, the round-trip time and the CPU time of both
 * processes per request and its reply.
 *
 *   bench_ipc_hop [request bytes [reply bytes [seconds per run]]]
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "lib/ipc/ipc.h"
#include "lib/loop/loop.h"
#include "lib/util/xmalloc.h"

enum { REQUEST = 16, REPLY, USAGE_GET, USAGE, TYPE_STOP };

struct end {
    struct loop *loop;
    struct ipc_link *link;
    struct bytes body; /* what this end sends */
    bool up;
    uint64_t done, in_flight, in_flight_max, end_ns;
    uint64_t peer_cpu_ns;
    bool measuring, got_usage;
};

static uint64_t cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000U + (uint64_t)ts.tv_nsec;
}

static void fill_hello(void *user, struct buf *body)
{
}

static int on_hello(void *user, struct bytes body)
{
    return 0;
}

static void on_up(void *user)
{
    struct end *e = user;

    e->up = true;
}

static void on_down(void *user)
{
    struct end *e = user;

    e->up = false;
    loop_stop(e->loop);
}

static void server_frame(void *user, const struct ipc_frame *frame)
{
    struct end *e = user;
    uint64_t cpu;

    switch (frame->type) {
    case REQUEST:
        ipc_link_send(e->link, REPLY, frame->id, e->body);
        break;
    case USAGE_GET:
        cpu = cpu_ns();
        ipc_link_send(e->link, USAGE, 0, bytes_of(&cpu, sizeof(cpu)));
        break;
    default:
        loop_stop(e->loop);
    }
}

static void fill_window(struct end *e)
{
    for (; e->in_flight < e->in_flight_max; e->in_flight++)
        ipc_link_send(e->link, REQUEST, e->in_flight, e->body);
}

static void client_frame(void *user, const struct ipc_frame *frame)
{
    struct end *e = user;

    if (frame->type == USAGE) {
        memcpy(&e->peer_cpu_ns, frame->body.data, sizeof(e->peer_cpu_ns));
        e->got_usage = true;
        return;
    }
    e->done++;
    e->in_flight--;
    if (e->measuring)
        fill_window(e);
}

static const struct ipc_link_ops server_ops = {fill_hello, on_hello, on_up, on_down, server_frame,
                                               NULL};
static const struct ipc_link_ops client_ops = {fill_hello, on_hello, on_up, on_down, client_frame,
                                               NULL};

static void open_end(struct end *e, const char *url, bool listen, const struct ipc_link_ops *ops,
                     size_t body_bytes)
{
    struct ipc_link_args args = {.name = "bench", .url = url, .listen = listen, .ops = ops,
                                 .user = e};
    int r;

    e->body = bytes_of(xcalloc(1, body_bytes), body_bytes);
    e->loop = args.loop = loop_new();
    r = ipc_link_start(&args, &e->link);
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", url, strerror(-r));
        exit(EXIT_FAILURE);
    }
}

static void close_end(struct end *e)
{
    ipc_link_stop(e->link, 100);
    loop_free(e->loop);
    free((void *)(uintptr_t)e->body.data);
}

static uint64_t peer_cpu(struct end *e)
{
    e->got_usage = false;
    ipc_link_send(e->link, USAGE_GET, 0, BYTES_EMPTY);
    while (!e->got_usage)
        loop_run_once(e->loop, 1000);
    return e->peer_cpu_ns;
}

static void measure(struct end *e, uint64_t in_flight, double seconds)
{
    uint64_t start, took, peer, own;
    struct ipc_link_stats before, after;

    peer = peer_cpu(e);
    own = cpu_ns();
    ipc_link_get_stats(e->link, &before);
    start = loop_clock_ns();
    e->done = 0;
    e->in_flight_max = in_flight;
    e->measuring = true;
    fill_window(e);
    while (loop_clock_ns() - start < (uint64_t)(seconds * 1e9))
        loop_run_once(e->loop, 1000);
    e->measuring = false;
    while (e->in_flight > 0)
        loop_run_once(e->loop, 1000);
    took = loop_clock_ns() - start;
    own = cpu_ns() - own;
    ipc_link_get_stats(e->link, &after);
    peer = peer_cpu(e) - peer;
    printf("%9llu %12.0f %14.2f %12.3f %12.3f %10.1f\n", (unsigned long long)in_flight,
           (double)e->done / ((double)took / 1e9),
           (double)took / (double)e->done * (double)in_flight / 1e3,
           (double)own / (double)e->done / 1e3, (double)peer / (double)e->done / 1e3,
           (double)(after.frames_sent - before.frames_sent) /
               (double)(after.batches_sent - before.batches_sent));
}

int main(int argc, char **argv)
{
    size_t request = argc > 1 ? strtoul(argv[1], NULL, 10) : 300;
    size_t reply = argc > 2 ? strtoul(argv[2], NULL, 10) : 60;
    double seconds = argc > 3 ? strtod(argv[3], NULL) : 2;
    char dir[] = "/tmp/conclave-bench-XXXXXX", *url;
    struct end e = {0};
    pid_t pid;

    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return EXIT_FAILURE;
    }
    url = xasprintf("ipc://%s/link", dir);
    pid = fork(); /* before nng has threads */
    if (pid == 0) {
        open_end(&e, url, true, &server_ops, reply);
        loop_run(e.loop);
        close_end(&e);
        _exit(EXIT_SUCCESS);
    }
    open_end(&e, url, false, &client_ops, request);
    while (!e.up)
        loop_run_once(e.loop, 1000);
    printf("request %zu bytes, reply %zu bytes\n", request, reply);
    printf("in flight  requests/s  round trip us  CPU us here  CPU us peer  per batch\n");
    for (uint64_t in_flight = 1; in_flight <= 256; in_flight = in_flight == 1 ? 32 : in_flight * 8)
        measure(&e, in_flight, seconds);
    ipc_link_send(e.link, TYPE_STOP, 0, BYTES_EMPTY);
    close_end(&e);
    waitpid(pid, NULL, 0);
    rmdir(dir);
    free(url);
    return EXIT_SUCCESS;
}
