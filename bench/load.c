#include "bench/load.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "lib/http/http_client.h"
#include "lib/loop/loop.h"
#include "lib/tls/tls.h"
#include "lib/util/list.h"
#include "lib/util/xmalloc.h"

enum {
    RECONNECT_MS = 50,
    OPEN_TICK_NS = 100 * 1000, /* open loop: how fine due times are */
};

struct conn;

/* One stream: one request under way at most. */
struct slot {
    struct list link; /* in load->idle while it has none */
    struct conn *conn;
    uint64_t start_ns;
};

struct conn {
    struct load *load;
    struct http_client *client;
    const struct load_endpoint *endpoint;
    struct loop_timer *retry;
    struct slot *slots;
};

struct load {
    const struct load_options *options;
    struct load_result *result;
    struct loop *loop;
    struct tls_context *tls;
    struct workload workload;
    struct conn *conns;
    struct list idle; /* slots of live connections */
    size_t connected;
    size_t failed;
    uint64_t issued;
    uint64_t under_way;
    uint64_t begin_ns;
    uint64_t end_ns;  /* of issuing; 0: by count */
    uint64_t last_ns; /* latest answer */
    int tick_fd;
    struct loop_io *tick;
    struct loop_timer *stop;
    bool running;
    bool ended;
};

static void on_data(void *user, struct http_call *call, struct bytes data);
static void on_closed(void *user, struct http_call *call, int error);
static const struct http_call_handler call_handler = {.on_data = on_data, .on_closed = on_closed};

static bool may_issue(const struct load *l, uint64_t now_ns)
{
    if (!l->running || l->ended)
        return false;
    if (l->options->total != 0)
        return l->issued < l->options->total;
    return now_ns < l->end_ns;
}

/* Open loop: when the next request is due. */
static uint64_t due_ns(const struct load *l)
{
    return l->begin_ns + (uint64_t)((double)l->issued * 1e9 / l->options->rate);
}

static bool slot_send(struct slot *slot, uint64_t start_ns)
{
    struct load *l = slot->conn->load;
    const char *path;
    struct bytes body;
    struct http_call *call;

    body = workload_next(&l->workload, &path);
    call = grpc_call_start(slot->conn->client, path, body, false, &call_handler, slot);
    if (call == NULL)
        return false; /* the connection is ending; on_disconnected follows */
    slot->start_ns = start_ns;
    l->issued++;
    l->under_way++;
    return true;
}

static void check_end(struct load *l, uint64_t now_ns)
{
    if (!l->running || l->ended || may_issue(l, now_ns))
        return;
    if (l->under_way == 0) {
        l->ended = true;
        loop_stop(l->loop);
    }
}

/* Sends on idle streams what may be sent now. */
static void issue(struct load *l, uint64_t now_ns)
{
    bool open = l->options->rate > 0;

    while (!list_empty(&l->idle) && may_issue(l, now_ns)) {
        uint64_t start_ns = now_ns;
        struct slot *slot;

        if (open) {
            start_ns = due_ns(l);
            if (start_ns > now_ns || (l->end_ns != 0 && start_ns >= l->end_ns))
                break;
        }
        slot = LIST_ENTRY(list_pop_front(&l->idle), struct slot, link);
        slot_send(slot, start_ns);
    }
    check_end(l, now_ns);
}

static void on_data(void *user, struct http_call *call, struct bytes data)
{
    const struct slot *slot = user;

    slot->conn->load->result->bytes_in += data.len;
}

static void on_closed(void *user, struct http_call *call, int error)
{
    struct slot *slot = user;
    struct conn *c = slot->conn;
    struct load *l = c->load;
    size_t outcome = grpc_call_outcome(call, error);
    uint64_t now_ns = loop_clock_ns();

    l->result->outcomes[outcome]++;
    if (outcome == 0)
        histogram_add(&l->result->latency, now_ns - slot->start_ns);
    l->under_way--;
    l->last_ns = now_ns;
    if (c->client == NULL || !http_client_connected(c->client))
        return; /* on_connected brings the stream back */
    if (l->options->rate > 0 || !may_issue(l, now_ns)) {
        list_push_back(&l->idle, &slot->link);
        if (l->running)
            issue(l, now_ns);
    } else {
        slot_send(slot, now_ns);
    }
    check_end(l, now_ns);
}

static void conn_open(void *user);

static void on_connected(void *user, struct http_client *client)
{
    struct conn *c = user;
    struct load *l = c->load;

    l->connected++;
    for (size_t i = 0; i < l->options->streams; i++) {
        list_remove(&c->slots[i].link);
        list_push_back(&l->idle, &c->slots[i].link);
    }
    if (!l->running && l->connected == l->options->connections)
        loop_stop(l->loop);
    if (l->running)
        issue(l, loop_clock_ns());
}

static void on_disconnected(void *user, struct http_client *client, int error)
{
    struct conn *c = user;
    struct load *l = c->load;

    c->client = NULL;
    if (!l->running && *http_client_tls_error(client) != '\0')
        fprintf(stderr, "conclave-bench: %s\n", http_client_tls_error(client));
    http_client_free(client);
    for (size_t i = 0; i < l->options->streams; i++)
        list_remove(&c->slots[i].link);
    if (!l->running) {
        l->failed++;
        loop_stop(l->loop);
        return;
    }
    check_end(l, loop_clock_ns());
    if (!l->ended)
        loop_timer_start(c->retry, RECONNECT_MS, 0);
}

static void conn_open(void *user)
{
    static const struct http_client_handler handler = {on_connected, on_disconnected};
    struct conn *c = user;
    const struct http_client_options options = {.version = HTTP_VERSION_2, .tls = c->load->tls};

    c->client = http_client_connect(c->load->loop, c->endpoint->host, c->endpoint->port, &options,
                                    &handler, c);
    if (c->client == NULL)
        loop_timer_start(c->retry, RECONNECT_MS, 0);
}

static void conns_open(struct load *l)
{
    const struct load_options *o = l->options;

    l->conns = xcalloc(o->connections, sizeof(*l->conns));
    for (size_t i = 0; i < o->connections; i++) {
        struct conn *c = &l->conns[i];

        c->load = l;
        c->endpoint = &o->endpoints[i % o->endpoint_count];
        c->retry = loop_timer_new(l->loop, "reconnect", conn_open, c);
        c->slots = xcalloc(o->streams, sizeof(*c->slots));
        for (size_t k = 0; k < o->streams; k++) {
            list_init(&c->slots[k].link);
            c->slots[k].conn = c;
        }
        conn_open(c);
    }
}

static void conns_close(struct load *l)
{
    l->ended = true;
    for (size_t i = 0; i < l->options->connections; i++) {
        http_client_free(l->conns[i].client);
        loop_timer_free(l->conns[i].retry);
    }
    for (size_t i = 0; i < l->options->connections; i++)
        free(l->conns[i].slots);
    free(l->conns);
}

static void on_tick(void *user, unsigned int events)
{
    struct load *l = user;
    uint64_t count;

    if (read(l->tick_fd, &count, sizeof(count)) < 0)
        return;
    issue(l, loop_clock_ns());
}

static void tick_start(struct load *l)
{
    double period_ns = 1e9 / l->options->rate;
    long tick_ns = period_ns > OPEN_TICK_NS ? (long)MIN(period_ns, 5e7) : OPEN_TICK_NS;
    const struct itimerspec spec = {.it_interval = {.tv_nsec = tick_ns},
                                    .it_value = {.tv_nsec = tick_ns}};

    l->tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (l->tick_fd < 0 || timerfd_settime(l->tick_fd, 0, &spec, NULL) != 0)
        PANIC("timerfd: %m");
    l->tick = loop_io_new(l->loop, "due requests", l->tick_fd, on_tick, l);
    loop_io_set(l->tick, LOOP_READ);
}

/* The time is over; then, after a while, patience too. */
static void on_stop(void *user)
{
    struct load *l = user;
    uint64_t now_ns = loop_clock_ns();

    check_end(l, now_ns);
    if (!l->ended && !may_issue(l, now_ns) && l->options->total == 0 &&
        now_ns > l->end_ns + (uint64_t)LOAD_STUCK_MS * 1000000)
        loop_stop(l->loop); /* closing the connections counts them as broken */
}

int load_tls_new(const struct load_options *options, struct tls_context **ret)
{
    char *error = NULL;
    int r;

    *ret = NULL;
    if (!options->tls)
        return 0;
    r = tls_context_new(&(struct tls_args){.role = TLS_CLIENT,
                                           .ca_file = options->ca_file,
                                           .cert_file = options->cert_file,
                                           .key_file = options->key_file},
                        ret, &error);
    if (r != 0)
        fprintf(stderr, "conclave-bench: %s\n", error != NULL ? error : strerror(-r));
    free(error);
    return r;
}

uint64_t load_cpu_ns(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000U +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000U;
}

static void run(struct load *l)
{
    const struct load_options *o = l->options;
    uint64_t cpu_before_ns = load_cpu_ns(), due;

    l->begin_ns = l->last_ns = loop_clock_ns();
    l->end_ns = o->total != 0 ? 0 : l->begin_ns + o->duration_ns;
    l->running = true;
    if (o->rate > 0)
        tick_start(l);
    loop_timer_start(l->stop, 100, 100);
    issue(l, l->begin_ns);
    if (!l->ended)
        loop_run(l->loop);
    l->result->elapsed_ns = l->last_ns - l->begin_ns;
    l->result->cpu_ns = load_cpu_ns() - cpu_before_ns;
    if (o->rate > 0 && o->total == 0) {
        due = (uint64_t)((double)o->duration_ns / 1e9 * o->rate);
        l->result->late = due > l->issued ? due - l->issued : 0;
    }
}

int load_run(const struct load_options *options, void (*go)(void *user), void *user,
             struct load_result *ret)
{
    struct load l = {.options = options, .result = ret, .tick_fd = -1};
    int r = 0;

    memset(ret, 0, sizeof(*ret));
    assert(options->connections > 0);
    assert(options->streams > 0);
    r = load_tls_new(options, &l.tls);
    if (r != 0)
        return r;
    l.loop = loop_new();
    list_init(&l.idle);
    workload_init(&l.workload, &options->workload);
    l.stop = loop_timer_new(l.loop, "end of the run", on_stop, &l);
    conns_open(&l);
    while (l.connected < options->connections && l.failed == 0)
        loop_run(l.loop);
    if (l.failed != 0)
        r = -ECONNREFUSED;
    if (r == 0 && go != NULL)
        go(user);
    if (r == 0)
        run(&l);
    conns_close(&l);
    loop_io_free(l.tick);
    if (l.tick_fd >= 0)
        close(l.tick_fd);
    loop_timer_free(l.stop);
    loop_free(l.loop);
    tls_context_free(l.tls);
    workload_fini(&l.workload);
    return r;
}
