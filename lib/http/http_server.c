/*
 * The server: listeners with an accept budget, the list of connections, one hook that writes for
 * all of them at the end of a turn, one timer that looks at their deadlines (a scan: with a field
 * per connection it costs less than a timer each, and deadlines here need no precision), and drain.
 */
#include "lib/http/http_server.h"
#include "lib/http/http_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include "lib/util/xmalloc.h"

const struct http_limits http_limits_default = {
    .connections_max = 20000,
    .streams_max = UINT32_MAX,
    .requests_max = 200000,
    .header_bytes_max = 65536,
    .body_bytes_max = 2 * 1024 * 1024,
    .buffered_bytes_max = 256 * 1024 * 1024,
    .output_bytes_max = 256 * 1024,
    .queued_bytes_max = 64 * 1024 * 1024,
    .header_ms_max = 10 * 1000,
    .body_ms_max = 60 * 1000,
    .idle_ms_max = 120 * 1000,
    .resets_per_s_max = 100,
    .ping_ms_min = 5 * 1000,
    .ping_strikes_max = 2,
    .keepalive_ms = 2 * 3600 * 1000,
    .keepalive_timeout_ms = 20 * 1000,
};

enum {
    TICK_MS_MAX = 1000,
    TICK_MS_MIN = 5,
};

static uint64_t min_time(uint64_t a, uint64_t b)
{
    return b != 0 && b < a ? b : a;
}

/* Fine enough for the shortest deadline. */
static uint64_t tick_ms(const struct http_limits *l)
{
    uint64_t ms = 8 * TICK_MS_MAX;

    ms = min_time(ms, l->header_ms_max);
    ms = min_time(ms, l->body_ms_max);
    ms = min_time(ms, l->idle_ms_max);
    ms = min_time(ms, l->keepalive_ms);
    ms = min_time(ms, l->keepalive_timeout_ms) / 8;
    return MAX(MIN(ms, (uint64_t)TICK_MS_MAX), (uint64_t)TICK_MS_MIN);
}

static void listener_free(struct http_listener *l)
{
    loop_io_free(l->io);
    close(l->fd);
    list_remove(&l->link);
    free(l);
}

static void drain_check(struct http_server *server)
{
    void (*done)(void *user) = server->drain_done;

    if (!server->draining || done == NULL || !list_empty(&server->conns))
        return;
    server->drain_done = NULL;
    done(server->drain_user);
}

static void server_on_tick(void *user)
{
    struct http_server *server = user;
    uint64_t now_ms = loop_now_ms(server->loop);
    bool cut = server->draining && now_ms >= server->drain_deadline_ms;
    bool paused = false;

    LIST_FOREACH_SAFE(it, next, &server->conns)
    {
        struct http_conn *conn = LIST_ENTRY(it, struct http_conn, link);

        if (cut)
            http_conn_destroy(conn);
        else
            http_conn_tick(conn, now_ms);
    }
    LIST_FOREACH(it, &server->listeners)
    {
        struct http_listener *l = LIST_ENTRY(it, struct http_listener, link);

        paused = paused || l->paused;
        if (l->paused)
            loop_io_set(l->io, LOOP_READ);
        l->paused = false;
    }
    if (list_empty(&server->conns) && !paused)
        loop_timer_stop(server->tick);
    drain_check(server);
}

static void server_on_flush(void *user)
{
    struct http_server *server = user;
    struct list now;

    /* What becomes dirty meanwhile is for the next turn. */
    if (list_empty(&server->dirty))
        return;
    now = server->dirty;
    now.next->prev = &now;
    now.prev->next = &now;
    list_init(&server->dirty);
    for (struct list *it; (it = list_pop_front(&now)) != NULL;)
        http_conn_flush(LIST_ENTRY(it, struct http_conn, dirty_link));
}

void http_server_tick_start(struct http_server *server)
{
    uint64_t ms = tick_ms(&server->limits);

    if (!loop_timer_active(server->tick))
        loop_timer_start(server->tick, ms, ms);
}

void http_server_conn_gone(struct http_server *server)
{
    /* drain_check runs from the tick, which is the loop's own context */
    if (server->draining && list_empty(&server->conns))
        loop_timer_start(server->tick, 0, TICK_MS_MIN);
}

const char *http_server_date(struct http_server *server)
{
    struct timespec ts;
    struct tm tm;

    clock_gettime(CLOCK_REALTIME_COARSE, &ts);
    if (ts.tv_sec != server->date_s) {
        server->date_s = ts.tv_sec;
        gmtime_r(&ts.tv_sec, &tm);
        strftime(server->date, sizeof(server->date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
    }
    return server->date;
}

struct http_server *http_server_new(struct loop *loop, const struct http_handler *handler,
                                    void *user, const struct http_limits *limits)
{
    struct http_server *server = xcalloc(1, sizeof(*server));

    assert(handler->on_headers != NULL);
    assert(handler->on_closed != NULL);
    server->loop = loop;
    server->handler = handler;
    server->user = user;
    server->limits = limits != NULL ? *limits : http_limits_default;
    list_init(&server->listeners);
    list_init(&server->conns);
    list_init(&server->dirty);
    list_init(&server->req_pool);
    server->flush = loop_hook_new(loop, "http flush", LOOP_PHASE_FLUSH, server_on_flush, server);
    server->tick = loop_timer_new(loop, "http tick", server_on_tick, server);
    server->read_buf = xmalloc(HTTP_READ_BYTES);
    return server;
}

void http_server_free(struct http_server *server)
{
    if (server == NULL)
        return;
    server->drain_done = NULL;
    while (!list_empty(&server->conns))
        http_conn_destroy(LIST_ENTRY(server->conns.next, struct http_conn, link));
    while (!list_empty(&server->listeners))
        listener_free(LIST_ENTRY(server->listeners.next, struct http_listener, link));
    loop_hook_free(server->flush);
    loop_timer_free(server->tick);
    http_req_pool_free(server);
    buf_fini(&server->scratch.buf);
    free(server->read_buf);
    free(server);
}

static void listener_pause(struct http_listener *l)
{
    l->paused = true;
    loop_io_set(l->io, 0);
    http_server_tick_start(l->server);
}

static void listener_on_io(void *user, unsigned int events)
{
    struct http_listener *l = user;
    struct http_server *server = l->server;

    for (int i = 0; i < HTTP_ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage addr = {0};
        socklen_t len = sizeof(addr);
        int fd = accept4(l->fd, (struct sockaddr *)&addr, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                listener_pause(l);
            if (errno == ECONNABORTED || errno == EINTR)
                continue;
            return;
        }
        if (server->counters.connections >= server->limits.connections_max ||
            http_conn_new(server, fd, (const struct sockaddr *)&addr, l->tls, l->tag) != 0) {
            server->counters.connections_refused++;
            close(fd);
        }
    }
}

static int make_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || ((flags & O_NONBLOCK) == 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0))
        return -errno;
    return 0;
}

int http_server_listen(struct http_server *server, int fd)
{
    return http_server_listen_tls(server, fd, NULL);
}

int http_server_listen_tls(struct http_server *server, int fd, struct tls_context *tls)
{
    return http_server_listen_tagged(server, fd, tls, 0);
}

int http_server_listen_tagged(struct http_server *server, int fd, struct tls_context *tls,
                              unsigned int tag)
{
    struct http_listener *l;
    int r = make_nonblocking(fd);

    if (r < 0)
        return r;
    l = xcalloc(1, sizeof(*l));
    l->server = server;
    l->fd = fd;
    l->tls = tls;
    l->tag = tag;
    l->io = loop_io_new(server->loop, "http listener", fd, listener_on_io, l);
    if (l->io == NULL) {
        free(l);
        return -ENOMEM;
    }
    list_push_back(&server->listeners, &l->link);
    loop_io_set(l->io, LOOP_READ);
    return 0;
}

int http_server_adopt(struct http_server *server, int fd)
{
    return http_server_adopt_tls(server, fd, NULL);
}

int http_server_adopt_tls(struct http_server *server, int fd, struct tls_context *tls)
{
    struct sockaddr_storage addr = {0};
    socklen_t len = sizeof(addr);
    int r = make_nonblocking(fd);

    if (r < 0)
        return r;
    if (getpeername(fd, (struct sockaddr *)&addr, &len) != 0)
        return -errno;
    if (server->draining || server->counters.connections >= server->limits.connections_max) {
        server->counters.connections_refused++;
        return -EMFILE;
    }
    return http_conn_new(server, fd, (const struct sockaddr *)&addr, tls, 0);
}

void http_server_drain(struct http_server *server, uint64_t deadline_ms, void (*done)(void *user),
                       void *user)
{
    assert(!server->draining);
    server->draining = true;
    server->drain_deadline_ms = loop_now_ms(server->loop) + deadline_ms;
    server->drain_done = done;
    server->drain_user = user;
    while (!list_empty(&server->listeners))
        listener_free(LIST_ENTRY(server->listeners.next, struct http_listener, link));
    LIST_FOREACH(it, &server->conns)
    http_conn_drain(LIST_ENTRY(it, struct http_conn, link));
    loop_timer_start(server->tick, list_empty(&server->conns) ? 0 : TICK_MS_MIN,
                     MIN(tick_ms(&server->limits), (uint64_t)50));
}

const struct http_counters *http_server_counters(const struct http_server *server)
{
    return &server->counters;
}

void http_server_set_limits(struct http_server *server, const struct http_limits *limits)
{
    server->limits = *limits;
}
