/*
 * A put's value begins with its number, so a delivery is assigned to its put by what it brings,
 * whatever else is written and in whatever order puts are executed. Field numbers: etcd rpc.proto,
 * kv.proto.
 */
#include "bench/watch_fanout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "bench/session.h"
#include "lib/http/http_client.h"
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"

#define PATH_WATCH "/etcdserverpb.Watch/Watch"
#define PATH_PUT   "/etcdserverpb.KV/Put"
#define KEY        "bench-watched"

enum {
    NUMBER_DIGITS = 12,
    PUTS_MAX = 1024, /* under way; a power of two */
};

struct watch_fanout;

struct watch_stream {
    struct watch_fanout *owner;
    struct http_call *call; /* NULL: over */
    struct buf rest;        /* of a message that has not all come */
};

struct fanout_put {
    uint64_t number;
    uint64_t due_ns;
    uint64_t left; /* deliveries; 0: none under way */
};

struct watch_fanout {
    struct session session;
    struct load_result *result;
    struct watch_stream *streams;
    size_t stream_count;
    uint64_t created;
    uint64_t issued;
    uint64_t under_way;
    uint64_t last_ns;
    struct fanout_put puts[PUTS_MAX]; /* by number */
    struct buf request;
    size_t number_at; /* in request */
    int tick_fd;      /* the next put is due */
    struct loop_io *tick;
    bool running;
    bool failed;
    size_t failed_as; /* gRPC's outcome */
};

/* A put or a watch failed: such a run is not one to measure, it ends here. */
static void fail(struct watch_fanout *w, size_t outcome)
{
    if (!w->failed)
        w->failed_as = outcome != 0 ? outcome : GRPC_BROKEN;
    w->failed = true;
    loop_stop(w->session.loop);
}

static bool may_issue(const struct watch_fanout *w, uint64_t now_ns)
{
    const struct load_options *o = w->session.options;

    if (w->failed)
        return false;
    return o->total != 0 ? w->issued < o->total : now_ns < w->session.end_ns;
}

static void check_end(struct watch_fanout *w, uint64_t now_ns)
{
    if ((w->under_way == 0 && !may_issue(w, now_ns)) || session_stuck(&w->session, now_ns))
        loop_stop(w->session.loop);
}

static void put_delivered(struct watch_fanout *w, struct fanout_put *p, uint64_t now_ns)
{
    w->result->outcomes[0]++;
    histogram_add(&w->result->latency, now_ns - p->due_ns);
    w->under_way--;
    w->last_ns = now_ns;
}

/* Only what went wrong: a put that succeeded ends with its last delivery. */
static void on_put_closed(void *user, struct http_call *call, int error);

static void put_send(struct watch_fanout *w, uint64_t due_ns)
{
    static const struct http_call_handler handler = {.on_closed = on_put_closed};
    struct http_client *client = session_client(&w->session, w->session.client_count - 1);
    struct fanout_put *p = &w->puts[w->issued % PUTS_MAX];
    uint64_t n = w->issued;

    for (size_t i = NUMBER_DIGITS; i-- > 0; n /= 10)
        w->request.data[w->number_at + i] = (uint8_t)('0' + n % 10);
    *p = (struct fanout_put){w->issued, due_ns, w->session.options->watchers};
    w->issued++;
    w->under_way++;
    if (client == NULL ||
        grpc_call_start(client, PATH_PUT, buf_bytes(&w->request), false, &handler, w) == NULL)
        fail(w, GRPC_BROKEN);
}

static uint64_t period_ns(const struct watch_fanout *w)
{
    return (uint64_t)(1e9 / w->session.options->rate);
}

/* Sends what is due. */
static void issue(struct watch_fanout *w, uint64_t now_ns)
{
    bool open = w->session.options->rate > 0;

    while (may_issue(w, now_ns) && (open ? w->under_way < PUTS_MAX : w->under_way == 0)) {
        uint64_t due_ns = open ? w->session.begin_ns + w->issued * period_ns(w) : now_ns;

        if (due_ns > now_ns || w->puts[w->issued % PUTS_MAX].left != 0)
            break;
        put_send(w, due_ns);
    }
    check_end(w, now_ns);
}

static void on_put_closed(void *user, struct http_call *call, int error)
{
    struct watch_fanout *w = user;
    size_t outcome = grpc_call_outcome(call, error);

    if (outcome != 0 && w->running)
        fail(w, outcome);
}

static void on_tick(void *user, unsigned int events)
{
    struct watch_fanout *w = user;
    uint64_t count;

    if (read(w->tick_fd, &count, sizeof(count)) > 0)
        issue(w, loop_clock_ns());
}

static void tick_start(struct watch_fanout *w)
{
    uint64_t ns = period_ns(w);
    const struct timespec period = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    const struct itimerspec spec = {period, period};

    w->tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (w->tick_fd < 0 || timerfd_settime(w->tick_fd, 0, &spec, NULL) != 0)
        PANIC("timerfd: %m");
    w->tick = loop_io_new(w->session.loop, "due puts", w->tick_fd, on_tick, w);
    loop_io_set(w->tick, LOOP_READ);
}

/* The message in field `number`; empty: none. */
static struct bytes field_bytes(struct bytes message, uint32_t number)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;

    while (pb_next(&r, &f)) {
        if (f.number == number && f.type == PB_LENGTH)
            return f.bytes;
    }
    return bytes_of(NULL, 0);
}

static void on_event(struct watch_fanout *w, struct bytes event)
{
    struct bytes value = field_bytes(field_bytes(event, 2), 5); /* Event.kv, KeyValue.value */
    struct fanout_put *p;
    uint64_t number = 0, now_ns;

    if (value.len < NUMBER_DIGITS)
        return; /* someone else's */
    for (size_t i = 0; i < NUMBER_DIGITS; i++)
        number = number * 10 + (uint64_t)(value.data[i] - '0');
    p = &w->puts[number % PUTS_MAX];
    if (p->number != number || p->left == 0)
        return;
    w->result->events++;
    if (--p->left != 0)
        return;
    now_ns = loop_clock_ns();
    put_delivered(w, p, now_ns);
    issue(w, now_ns);
}

static void on_response(void *user, struct bytes message)
{
    struct watch_fanout *w = ((struct watch_stream *)user)->owner;
    struct pb_reader r = pb_reader(message);
    struct pb_field f;

    while (pb_next(&r, &f)) {
        if (f.number == 11 && f.type == PB_LENGTH) { /* events */
            on_event(w, f.bytes);
        } else if (f.number == 3 && f.value != 0) { /* created */
            if (++w->created == w->session.options->watchers && !w->running)
                loop_stop(w->session.loop);
        } else if (f.number == 4 && f.value != 0) { /* canceled */
            fail(w, GRPC_BROKEN);
        }
    }
}

static void on_data(void *user, struct http_call *call, struct bytes data)
{
    struct watch_stream *s = user;

    s->owner->result->bytes_in += data.len;
    grpc_messages(&s->rest, data, on_response, s);
}

static void on_closed(void *user, struct http_call *call, int error)
{
    struct watch_stream *s = user;

    s->call = NULL;
    fail(s->owner, grpc_call_outcome(call, error));
}

static void watch_all(struct watch_fanout *w)
{
    static const struct http_call_handler handler = {.on_data = on_data, .on_closed = on_closed};
    const struct load_options *o = w->session.options;
    CLEANUP(buf_fini) struct buf key = BUF_INIT;
    CLEANUP(buf_fini) struct buf requests = BUF_INIT;

    pb_put_bytes(&key, 1, BYTES_LIT(KEY));
    for (size_t i = 0; i < w->stream_count; i++) {
        struct watch_stream *s = &w->streams[i];
        uint64_t watches = o->watchers / w->stream_count + (i < o->watchers % w->stream_count);

        buf_clear(&requests);
        for (uint64_t n = 0; n < watches; n++) {
            size_t begin = grpc_message_begin(&requests);

            pb_put_message(&requests, 1, buf_bytes(&key)); /* WatchRequest.create_request */
            grpc_message_end(&requests, begin);
        }
        s->owner = w;
        s->call = grpc_call_start(session_client(&w->session, i / o->streams), PATH_WATCH,
                                  buf_bytes(&requests), true, &handler, s);
        w->failed = w->failed || s->call == NULL;
    }
}

static void make_put(struct watch_fanout *w)
{
    CLEANUP(buf_fini) struct buf value = BUF_INIT;
    size_t size = MAX(w->session.options->workload.value_bytes, (size_t)NUMBER_DIGITS);
    size_t begin = grpc_message_begin(&w->request);

    for (size_t i = 0; i < size; i++)
        buf_append_u8(&value, (uint8_t)('a' + i % 26));
    pb_put_bytes(&w->request, 1, BYTES_LIT(KEY));
    pb_put_bytes(&w->request, 2, buf_bytes(&value));
    w->number_at = w->request.len - size;
    grpc_message_end(&w->request, begin);
}

static void on_stop_tick(void *user)
{
    check_end(user, loop_clock_ns());
}

static void run(struct watch_fanout *w)
{
    make_put(w);
    session_begin(&w->session, on_stop_tick, w);
    w->running = true;
    w->last_ns = w->session.begin_ns;
    if (w->session.options->rate > 0)
        tick_start(w);
    issue(w, w->session.begin_ns);
    if (!w->failed)
        loop_run(w->session.loop);
    w->running = false;
    session_end(&w->session, w->last_ns, w->result);
    if (w->failed)
        w->result->outcomes[w->failed_as] += MAX(w->under_way, (uint64_t)1);
    else
        w->result->outcomes[GRPC_BROKEN] += w->under_way;
}

static void fanout_close(struct watch_fanout *w)
{
    loop_io_free(w->tick);
    if (w->tick_fd >= 0)
        close(w->tick_fd);
    session_close(&w->session);
    for (size_t i = 0; i < w->stream_count; i++)
        buf_fini(&w->streams[i].rest);
    buf_fini(&w->request);
    free(w->streams);
    free(w);
}

int watch_fanout_run(const struct load_options *options, void (*go)(void *user), void *user,
                     struct load_result *ret)
{
    struct watch_fanout *w = xcalloc(1, sizeof(*w));
    int r;

    memset(ret, 0, sizeof(*ret));
    w->result = ret;
    w->tick_fd = -1;
    w->stream_count = options->connections * options->streams;
    w->streams = xcalloc(w->stream_count, sizeof(*w->streams));
    r = session_open(&w->session, options, options->connections + 1); /* the last one writes */
    if (r == 0) {
        watch_all(w);
        while (!w->failed && w->created < options->watchers)
            loop_run(w->session.loop);
        if (w->failed)
            r = -ECONNREFUSED;
    }
    if (r == 0 && go != NULL)
        go(user);
    if (r == 0 && options->workload.kind == WORKLOAD_WATCH_IDLE)
        ret->outcomes[0] = w->created;
    else if (r == 0)
        run(w);
    fanout_close(w);
    return r;
}
