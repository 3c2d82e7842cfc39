/* Field numbers: etcd rpc.proto. */
#include "bench/keepalive.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "bench/grpc_call.h"
#include "bench/session.h"
#include "lib/http/http_client.h"
#include "lib/loop/loop.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"

#define PATH_GRANT     "/etcdserverpb.Lease/LeaseGrant"
#define PATH_KEEPALIVE "/etcdserverpb.Lease/LeaseKeepAlive"

struct keepalive;

struct lease_stream {
    struct keepalive *owner;
    struct http_client *client; /* only while it is being set up */
    struct http_call *call;     /* NULL: not open, or over */
    struct buf rest;            /* of a message that has not all come */
    struct buf request;         /* the same each time */
    uint64_t lease;
    uint64_t start_ns; /* of the request under way; 0: none */
};

struct keepalive {
    struct session session;
    struct load_result *result;
    struct lease_stream *streams;
    size_t stream_count;
    size_t open;
    uint64_t issued;
    uint64_t under_way;
    uint64_t last_ns;
    bool running;
    bool failed; /* before the run */
};

static bool may_send(const struct keepalive *k, uint64_t now_ns)
{
    const struct load_options *o = k->session.options;

    return o->total != 0 ? k->issued < o->total : now_ns < k->session.end_ns;
}

static void stream_send(struct lease_stream *s, uint64_t now_ns)
{
    struct keepalive *k = s->owner;

    if (s->call == NULL || !may_send(k, now_ns))
        return;
    s->start_ns = now_ns;
    k->issued++;
    k->under_way++;
    http_call_data(s->call, buf_bytes(&s->request));
}

static void stream_answered(struct lease_stream *s, size_t outcome, uint64_t now_ns)
{
    struct keepalive *k = s->owner;

    if (s->start_ns == 0)
        return;
    k->result->outcomes[outcome]++;
    if (outcome == 0)
        histogram_add(&k->result->latency, now_ns - s->start_ns);
    s->start_ns = 0;
    k->under_way--;
    k->last_ns = now_ns;
}

static void check_end(void *user)
{
    struct keepalive *k = user;
    uint64_t now_ns = loop_clock_ns();

    if ((k->under_way == 0 && (k->open == 0 || !may_send(k, now_ns))) ||
        session_stuck(&k->session, now_ns))
        loop_stop(k->session.loop);
}

static uint64_t field_u64(struct bytes message, uint32_t number)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;
    uint64_t v = 0;

    while (pb_next(&r, &f)) {
        if (f.number == number && f.type == PB_VARINT)
            v = f.value;
    }
    return v;
}

static void on_alive(void *user, struct bytes message)
{
    struct lease_stream *s = user;
    uint64_t now_ns = loop_clock_ns();

    stream_answered(s, field_u64(message, 3) > 0 ? 0 : GRPC_NOT_FOUND, now_ns);
    stream_send(s, now_ns);
    if (s->start_ns == 0)
        check_end(s->owner);
}

static void on_alive_data(void *user, struct http_call *call, struct bytes data)
{
    struct lease_stream *s = user;

    s->owner->result->bytes_in += data.len;
    grpc_messages(&s->rest, data, on_alive, s);
}

static void on_alive_closed(void *user, struct http_call *call, int error)
{
    struct lease_stream *s = user;
    size_t outcome = grpc_call_outcome(call, error);

    s->call = NULL;
    s->owner->open--;
    if (!s->owner->running) {
        s->owner->failed = true;
        loop_stop(s->owner->session.loop);
        return;
    }
    stream_answered(s, outcome == 0 ? GRPC_BROKEN : outcome, loop_clock_ns());
    check_end(s->owner);
}

static void on_granted(void *user, struct bytes message)
{
    struct lease_stream *s = user;

    s->lease = field_u64(message, 2);
}

static void on_grant_data(void *user, struct http_call *call, struct bytes data)
{
    struct lease_stream *s = user;

    grpc_messages(&s->rest, data, on_granted, s);
}

static void stream_open(struct lease_stream *s)
{
    static const struct http_call_handler handler = {.on_data = on_alive_data,
                                                     .on_closed = on_alive_closed};
    size_t begin = grpc_message_begin(&s->request);

    pb_put_u64(&s->request, 1, s->lease);
    grpc_message_end(&s->request, begin);
    buf_clear(&s->rest);
    s->call = grpc_call_start(s->client, PATH_KEEPALIVE, bytes_of(NULL, 0), true, &handler, s);
    s->owner->open += s->call != NULL;
}

static void on_grant_closed(void *user, struct http_call *call, int error)
{
    struct lease_stream *s = user;
    struct keepalive *k = s->owner;

    if (grpc_call_outcome(call, error) == 0 && s->lease != 0)
        stream_open(s);
    k->failed = k->failed || s->call == NULL;
    if (k->failed || k->open == k->stream_count)
        loop_stop(k->session.loop);
}

static void grant_all(struct keepalive *k)
{
    static const struct http_call_handler handler = {.on_data = on_grant_data,
                                                     .on_closed = on_grant_closed};
    const struct load_options *o = k->session.options;
    CLEANUP(buf_fini) struct buf request = BUF_INIT;
    size_t begin = grpc_message_begin(&request);

    pb_put_u64(&request, 1, o->workload.lease_ttl_s);
    grpc_message_end(&request, begin);
    for (size_t i = 0; i < k->stream_count; i++) {
        struct lease_stream *s = &k->streams[i];

        s->owner = k;
        s->client = session_client(&k->session, i / o->streams);
        if (grpc_call_start(s->client, PATH_GRANT, buf_bytes(&request), false, &handler, s) == NULL)
            k->failed = true;
    }
}

static void run(struct keepalive *k)
{
    session_begin(&k->session, check_end, k);
    k->running = true;
    k->last_ns = k->session.begin_ns;
    for (size_t i = 0; i < k->stream_count; i++)
        stream_send(&k->streams[i], k->session.begin_ns);
    loop_run(k->session.loop);
    session_end(&k->session, k->last_ns, k->result);
}

int keepalive_run(const struct load_options *options, void (*go)(void *user), void *user,
                  struct load_result *ret)
{
    struct keepalive k = {.result = ret};
    int r;

    memset(ret, 0, sizeof(*ret));
    k.stream_count = options->connections * options->streams;
    k.streams = xcalloc(k.stream_count, sizeof(*k.streams));
    r = session_open(&k.session, options, options->connections);
    if (r == 0) {
        grant_all(&k);
        while (!k.failed && k.open < k.stream_count)
            loop_run(k.session.loop);
        if (k.failed)
            r = -ECONNREFUSED;
    }
    if (r == 0 && go != NULL)
        go(user);
    if (r == 0)
        run(&k);
    session_close(&k.session);
    for (size_t i = 0; i < k.stream_count; i++) {
        buf_fini(&k.streams[i].rest);
        buf_fini(&k.streams[i].request);
    }
    free(k.streams);
    return r;
}
