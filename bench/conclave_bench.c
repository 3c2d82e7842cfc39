/*
 * conclave-bench: a load generator for etcd's v3 services, light enough not to be what is
 * measured.
 *
 * The load is made by --processes forked processes with a share each of connections, requests and
 * rate. They connect, wait for each other, run, and send their results through a pipe; this process
 * adds them up and prints one line, or JSON.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "bench/keepalive.h"
#include "bench/load.h"
#include "bench/watch_fanout.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum { PROCESSES_MAX = 64, FILL_CONNECTIONS = 4, FILL_STREAMS = 16 };

struct bench_options {
    struct load_options load;
    size_t processes;
    uint64_t warmup; /* requests before the measured ones */
    bool fill;
    bool json;
};

struct worker {
    pid_t pid;
    int results; /* we read: one byte when connected, then a struct load_result */
    int go;      /* we close it to start */
};

static const char usage_text[] =
    "usage: conclave-bench [options]\n"
    "  --endpoints LIST      host:port,... (default 127.0.0.1:2379); connections go round robin\n"
    "  --cacert FILE         TLS, trusting the authorities in FILE; https:// in LIST alone trusts "
    "the\n"
    "                        system's\n"
    "  --cert FILE, --key FILE   a client certificate\n"
    "  --workload NAME       put, put-one, get, get-serializable, range, count, txn, mixed,\n"
    "                        lease-grant, lease-keepalive, watch-fanout, watch-idle (default "
    "put)\n"
    "  --connections N       of all processes together (default 1)\n"
    "  --streams N           concurrent requests, or streams, per connection (default 1)\n"
    "  --total N             requests (default 10000), or\n"
    "  --duration SECONDS\n"
    "  --rate N              requests per second, open loop; latency counts from when a request "
    "was due\n"
    "  --key-space N         distinct keys (default 100000)\n"
    "  --value-size BYTES    (default 256)\n"
    "  --range-limit N       keys per range (default 1000)\n"
    "  --read-percent N      of mixed (default 80)\n"
    "  --lease-ttl SECONDS   of granted leases (default 3600)\n"
    "  --watchers N          of one key, spread over all streams (default 1000). watch-fanout: "
    "puts\n"
    "                        of it, by --rate or each when the last one has reached everybody;\n"
    "                        watch-idle: says \"ready\" and holds them until its input ends\n"
    "  --fill                first puts every key of the key space once\n"
    "  --warmup N            requests before the measured ones (default 0)\n"
    "  --processes N         that share the load (default 1)\n"
    "  --seed N              of the choice of keys (default 1)\n"
    "  --json                one JSON object instead of text\n";

static void fail_usage(const char *what, const char *value)
{
    fprintf(stderr, "conclave-bench: %s: %s\n", what, value);
    exit(1);
}

static double parse_number(const char *name, const char *text, double min, double max)
{
    char *end;
    double v;

    errno = 0;
    v = strtod(text, &end);
    if (errno != 0 || end == text || *end != '\0' || !(v >= min) || !(v <= max)) {
        fprintf(stderr, "conclave-bench: --%s: \"%s\" is not a number from %.15g to %.15g\n", name,
                text, min, max);
        exit(1);
    }
    return v;
}

static void parse_endpoints(struct load_options *o, const char *text)
{
    char *copy = xstrdup(text), *save = NULL;

    o->endpoint_count = 0;
    for (char *one = strtok_r(copy, ",", &save); one != NULL; one = strtok_r(NULL, ",", &save)) {
        struct load_endpoint *e = &o->endpoints[o->endpoint_count];
        char *colon;

        if (strncmp(one, "http://", 7) == 0) {
            one += 7;
        } else if (strncmp(one, "https://", 8) == 0) {
            one += 8;
            o->tls = true;
        }
        colon = strrchr(one, ':');
        if (colon == NULL || (size_t)(colon - one) >= sizeof(e->host))
            fail_usage("--endpoints: not host:port", one);
        if (o->endpoint_count == LOAD_ENDPOINTS_MAX)
            fail_usage("--endpoints: too many", text);
        *colon = '\0';
        snprintf(e->host, sizeof(e->host), "%s", strcmp(one, "localhost") == 0 ? "127.0.0.1" : one);
        e->port = (uint16_t)parse_number("endpoints", colon + 1, 1, 65535);
        o->endpoint_count++;
    }
    free(copy);
    if (o->endpoint_count == 0)
        fail_usage("--endpoints: none", text);
}

static void parse_options(struct bench_options *b, int argc, char **argv)
{
    static const struct option options[] = {
        {"endpoints", required_argument, NULL, 'e'},
        {"cacert", required_argument, NULL, 'A'},
        {"cert", required_argument, NULL, 'C'},
        {"key", required_argument, NULL, 'K'},
        {"workload", required_argument, NULL, 'w'},
        {"connections", required_argument, NULL, 'c'},
        {"streams", required_argument, NULL, 'm'},
        {"total", required_argument, NULL, 'n'},
        {"duration", required_argument, NULL, 'd'},
        {"rate", required_argument, NULL, 'r'},
        {"key-space", required_argument, NULL, 'k'},
        {"value-size", required_argument, NULL, 'v'},
        {"range-limit", required_argument, NULL, 'l'},
        {"read-percent", required_argument, NULL, 'p'},
        {"lease-ttl", required_argument, NULL, 't'},
        {"watchers", required_argument, NULL, 'W'},
        {"fill", no_argument, NULL, 'f'},
        {"warmup", required_argument, NULL, 'u'},
        {"processes", required_argument, NULL, 'P'},
        {"seed", required_argument, NULL, 's'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct load_options *o = &b->load;
    int c, index = 0;

    *b = (struct bench_options){.processes = 1};
    o->connections = o->streams = 1;
    o->total = 10000;
    o->watchers = 1000;
    o->workload = (struct workload_options){.kind = WORKLOAD_PUT,
                                            .key_space = 100000,
                                            .range_limit = 1000,
                                            .value_bytes = 256,
                                            .read_percent = 80,
                                            .lease_ttl_s = 3600,
                                            .seed = 1};
    parse_endpoints(o, "127.0.0.1:2379");
    while ((c = getopt_long(argc, argv, "", options, &index)) != -1) {
        const char *name = options[index].name;

        switch (c) {
        case 'e':
            parse_endpoints(o, optarg);
            break;
        case 'A':
            o->tls = true;
            o->ca_file = optarg;
            break;
        case 'C':
            o->cert_file = optarg;
            break;
        case 'K':
            o->key_file = optarg;
            break;
        case 'w':
            if (!workload_parse(optarg, &o->workload.kind))
                fail_usage("--workload: unknown", optarg);
            break;
        case 'c':
            o->connections = (size_t)parse_number(name, optarg, 1, 100000);
            break;
        case 'm':
            o->streams = (size_t)parse_number(name, optarg, 1, 10000);
            break;
        case 'n':
            o->total = (uint64_t)parse_number(name, optarg, 1, 1e12);
            break;
        case 'd':
            o->total = 0;
            o->duration_ns = (uint64_t)(parse_number(name, optarg, 0.01, 1e6) * 1e9);
            break;
        case 'r':
            o->rate = parse_number(name, optarg, 0.01, 1e8);
            break;
        case 'k':
            o->workload.key_space = (uint64_t)parse_number(name, optarg, 1, 1e11);
            break;
        case 'v':
            o->workload.value_bytes = (size_t)parse_number(name, optarg, 0, 16 * 1024 * 1024);
            break;
        case 'l':
            o->workload.range_limit = (uint64_t)parse_number(name, optarg, 1, 1e9);
            break;
        case 'p':
            o->workload.read_percent = (unsigned int)parse_number(name, optarg, 0, 100);
            break;
        case 't':
            o->workload.lease_ttl_s = (uint64_t)parse_number(name, optarg, 1, 9e9);
            break;
        case 'W':
            o->watchers = (uint64_t)parse_number(name, optarg, 1, 1e7);
            break;
        case 'f':
            b->fill = true;
            break;
        case 'u':
            b->warmup = (uint64_t)parse_number(name, optarg, 0, 1e12);
            break;
        case 'P':
            b->processes = (size_t)parse_number(name, optarg, 1, PROCESSES_MAX);
            break;
        case 's':
            o->workload.seed = (uint64_t)parse_number(name, optarg, 0, 1e15);
            break;
        case 'j':
            b->json = true;
            break;
        case 'h':
            fputs(usage_text, stdout);
            exit(0);
        default:
            fputs(usage_text, stderr);
            exit(1);
        }
    }
    if (optind != argc)
        fail_usage("not an option", argv[optind]);
    b->processes = MIN(b->processes, o->connections);
    if (o->workload.kind == WORKLOAD_WATCH_FANOUT && b->processes != 1)
        fail_usage("--processes", "watch-fanout has one, which must see every delivery");
}

/* The i-th of n shares of total. */
static uint64_t share(uint64_t total, size_t i, size_t n)
{
    return total / n + (i < total % n);
}

static struct load_options share_of(const struct load_options *o, size_t i, size_t n)
{
    struct load_options part = *o;
    uint64_t span = o->workload.key_space / n;

    part.connections = (size_t)share(o->connections, i, n);
    part.total = o->total != 0 ? MAX(share(o->total, i, n), (uint64_t)1) : 0;
    part.watchers = share(o->watchers, i, n);
    part.rate = o->rate * (double)part.connections / (double)o->connections;
    part.workload.seed = o->workload.seed * 1000003 + i;
    part.workload.key_offset = i * span;
    return part;
}

/* In a forked process. */

struct child {
    int results;
    int go;
};

static void child_go(void *user)
{
    const struct child *c = user;
    char byte = 1;

    if (write(c->results, &byte, 1) != 1)
        _exit(1);
    if (read(c->go, &byte, 1) != 0) /* end of file is the signal */
        _exit(1);
}

static void write_all(int fd, const void *data, size_t len)
{
    const char *at = data;

    while (len != 0) {
        ssize_t n = write(fd, at, len);

        if (n <= 0)
            _exit(1);
        at += n;
        len -= (size_t)n;
    }
}

static int run_workload(const struct load_options *options, struct child *c,
                        struct load_result *ret)
{
    switch (options->workload.kind) {
    case WORKLOAD_LEASE_KEEPALIVE:
        return keepalive_run(options, child_go, c, ret);
    case WORKLOAD_WATCH_FANOUT:
    case WORKLOAD_WATCH_IDLE:
        return watch_fanout_run(options, child_go, c, ret);
    default:
        return load_run(options, child_go, c, ret);
    }
}

NORETURN static void child_main(const struct load_options *options, int results, int go)
{
    struct child c = {results, go};
    struct load_result *r = xmalloc(sizeof(*r));
    int error = run_workload(options, &c, r);

    if (error != 0) {
        fprintf(stderr, "conclave-bench: cannot connect to %s:%u, or not open streams there\n",
                options->endpoints[0].host, options->endpoints[0].port);
        _exit(1);
    }
    write_all(results, r, sizeof(*r));
    _exit(0);
}

static bool worker_start(struct worker *w, const struct load_options *options,
                         struct worker *others, size_t other_count)
{
    int results[2], go[2];

    if (pipe(results) != 0 || pipe(go) != 0)
        return false;
    w->pid = fork();
    if (w->pid < 0)
        return false;
    if (w->pid == 0) {
        close(results[0]);
        close(go[1]);
        for (size_t i = 0; i < other_count; i++) {
            close(others[i].results);
            close(others[i].go);
        }
        child_main(options, results[1], go[0]);
    }
    close(results[1]);
    close(go[0]);
    w->results = results[0];
    w->go = go[1];
    return true;
}

static bool read_all(int fd, void *data, size_t len)
{
    char *at = data;

    while (len != 0) {
        ssize_t n = read(fd, at, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        len -= (size_t)n;
    }
    return true;
}

static void add_result(struct load_result *sum, const struct load_result *r)
{
    for (size_t i = 0; i < GRPC_OUTCOMES; i++)
        sum->outcomes[i] += r->outcomes[i];
    sum->events += r->events;
    sum->bytes_in += r->bytes_in;
    sum->cpu_ns += r->cpu_ns;
    sum->late += r->late;
    sum->elapsed_ns = MAX(sum->elapsed_ns, r->elapsed_ns);
    histogram_merge(&sum->latency, &r->latency);
}

/* Everything is connected: lets who started us look, until our input ends. */
static void hold(void)
{
    char bytes[64];

    printf("ready\n");
    fflush(stdout);
    while (read(STDIN_FILENO, bytes, sizeof(bytes)) > 0)
        ;
}

/* Runs the load in n processes; false when one of them failed. */
static bool run_load(const struct load_options *options, size_t n, struct load_result *sum)
{
    struct worker workers[PROCESSES_MAX];
    struct load_result *r = xmalloc(sizeof(*r));
    bool ok = true;
    char byte;

    memset(sum, 0, sizeof(*sum));
    for (size_t i = 0; i < n; i++) {
        struct load_options part = share_of(options, i, n);

        if (!worker_start(&workers[i], &part, workers, i))
            fail_usage("cannot start a process", strerror(errno));
    }
    for (size_t i = 0; i < n; i++)
        ok = read_all(workers[i].results, &byte, 1) && ok;
    if (ok && options->workload.kind == WORKLOAD_WATCH_IDLE)
        hold();
    for (size_t i = 0; i < n; i++)
        close(workers[i].go);
    for (size_t i = 0; i < n; i++) {
        if (ok && read_all(workers[i].results, r, sizeof(*r)))
            add_result(sum, r);
        else
            ok = false;
        close(workers[i].results);
        waitpid(workers[i].pid, NULL, 0);
    }
    free(r);
    return ok;
}

static uint64_t done_count(const struct load_result *r)
{
    uint64_t n = 0;

    for (size_t i = 0; i < GRPC_OUTCOMES; i++)
        n += r->outcomes[i];
    return n;
}

static double per_s(uint64_t n, const struct load_result *r)
{
    return r->elapsed_ns != 0 ? (double)n * 1e9 / (double)r->elapsed_ns : 0;
}

static double us(uint64_t ns)
{
    return (double)ns / 1000;
}

static void outcome_name(size_t outcome, char *to, size_t size)
{
    if (outcome == GRPC_BROKEN)
        snprintf(to, size, "broken");
    else if (outcome == GRPC_NO_STATUS)
        snprintf(to, size, "no status");
    else
        snprintf(to, size, "%zu", outcome);
}

/* quote: "\"" for JSON, "" for people */
static void print_errors(const struct load_result *r, const char *quote)
{
    char name[16];
    bool first = true;

    for (size_t i = 1; i < GRPC_OUTCOMES; i++) {
        if (r->outcomes[i] == 0)
            continue;
        outcome_name(i, name, sizeof(name));
        printf("%s%s%s%s: %" PRIu64, first ? "" : ", ", quote, name, quote, r->outcomes[i]);
        first = false;
    }
}

static void print_json(const struct bench_options *b, const struct load_result *r)
{
    const struct load_options *o = &b->load;
    const struct histogram *h = &r->latency;
    uint64_t n = done_count(r);

    printf("{\"workload\": \"%s\", \"connections\": %zu, \"streams\": %zu, \"processes\": %zu, ",
           workload_name(o->workload.kind), o->connections, o->streams, b->processes);
    printf("\"value_bytes\": %zu, \"key_space\": %" PRIu64 ", \"rate_wanted\": %.15g, ",
           o->workload.value_bytes, o->workload.key_space, o->rate);
    printf("\"requests\": %" PRIu64 ", \"ok\": %" PRIu64 ", \"late\": %" PRIu64 ", \"errors\": {",
           n, r->outcomes[0], r->late);
    print_errors(r, "\"");
    printf("}, \"elapsed_s\": %.6f, \"rate\": %.1f, ", (double)r->elapsed_ns / 1e9,
           per_s(r->outcomes[0], r));
    if (r->events != 0)
        printf("\"watchers\": %" PRIu64 ", \"events\": %" PRIu64 ", \"event_rate\": %.1f, ",
               o->watchers, r->events, per_s(r->events, r));
    printf("\"mean_us\": %.1f, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, "
           "\"p999_us\": %.1f, \"max_us\": %.1f, ",
           h->count != 0 ? us(h->sum_ns) / (double)h->count : 0.0, us(histogram_quantile(h, 0.5)),
           us(histogram_quantile(h, 0.9)), us(histogram_quantile(h, 0.99)),
           us(histogram_quantile(h, 0.999)), us(h->max_ns));
    printf("\"bytes_in\": %" PRIu64 ", \"client_cpu_us\": %.2f}\n", r->bytes_in,
           us(r->cpu_ns) / (double)MAX(n, (uint64_t)1));
}

static void print_text(const struct bench_options *b, const struct load_result *r)
{
    const struct load_options *o = &b->load;
    const struct histogram *h = &r->latency;
    uint64_t n = done_count(r);

    printf("%s, %zu connections x %zu streams: %" PRIu64 " requests in %.3f s, %.0f/s ok\n",
           workload_name(o->workload.kind), o->connections, o->streams, n,
           (double)r->elapsed_ns / 1e9, per_s(r->outcomes[0], r));
    printf("latency us: mean %.1f  p50 %.1f  p90 %.1f  p99 %.1f  p99.9 %.1f  max %.1f\n",
           h->count != 0 ? us(h->sum_ns) / (double)h->count : 0.0, us(histogram_quantile(h, 0.5)),
           us(histogram_quantile(h, 0.9)), us(histogram_quantile(h, 0.99)),
           us(histogram_quantile(h, 0.999)), us(h->max_ns));
    if (r->events != 0)
        printf("%" PRIu64 " watchers: %" PRIu64
               " events, %.0f/s; latency is to the last delivery\n",
               o->watchers, r->events, per_s(r->events, r));
    if (r->late != 0)
        printf("late: %" PRIu64 " requests were due and not sent\n", r->late);
    if (n != r->outcomes[0]) {
        printf("errors by gRPC status: ");
        print_errors(r, "");
        printf("\n");
    }
    printf("this program: %.2f us CPU per request, %.1f MB of messages received\n",
           us(r->cpu_ns) / (double)MAX(n, (uint64_t)1), (double)r->bytes_in / 1e6);
}

static bool fill(const struct bench_options *b, struct load_result *r)
{
    struct load_options o = b->load;

    o.workload.kind = WORKLOAD_FILL;
    o.connections = FILL_CONNECTIONS;
    o.streams = FILL_STREAMS;
    o.total = workload_fill_requests(&o.workload);
    o.duration_ns = 0;
    o.rate = 0;
    return run_load(&o, 1, r) && r->outcomes[0] == o.total;
}

static bool warm_up(const struct bench_options *b, struct load_result *r)
{
    struct load_options o = b->load;

    o.total = b->warmup;
    o.duration_ns = 0;
    o.rate = 0;
    o.workload.seed += 77;
    return run_load(&o, b->processes, r);
}

int main(int argc, char **argv)
{
    struct bench_options b;
    struct load_result *r = xmalloc(sizeof(*r));
    bool ok = true;

    signal(SIGPIPE, SIG_IGN);
    parse_options(&b, argc, argv);
    if (b.fill && !fill(&b, r)) {
        fprintf(stderr, "conclave-bench: filling failed after %" PRIu64 " transactions\n",
                r->outcomes[0]);
        free(r);
        return 1;
    }
    if (b.warmup != 0)
        ok = warm_up(&b, r);
    ok = ok && run_load(&b.load, b.processes, r);
    if (ok && b.json)
        print_json(&b, r);
    else if (ok)
        print_text(&b, r);
    ok = ok && r->outcomes[0] != 0;
    free(r);
    return ok ? 0 : 1;
}
