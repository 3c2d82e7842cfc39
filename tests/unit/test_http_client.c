/* The client against our own server, both versions, in one hand-turned loop. */
#include "tests/unit/http_fixture.h"

#include <stddef.h>
#include <sys/un.h>

#include "lib/http/http_client.h"

struct answer {
    struct buf body;
    char status[8];  /* grpc-status of the trailers */
    char header[64]; /* content-type */
    int code;
    int error;
    size_t headers;
    size_t closed;
};

struct net {
    struct fixture f;
    struct http_client *client;
    uint16_t port;
    size_t connected;
    size_t disconnected;
    int error;
    bool free_when_down;
};

static void copy_text(char *to, size_t size, struct bytes v)
{
    snprintf(to, size, "%.*s", (int)v.len, v.len != 0 ? (const char *)v.data : "");
}

static void on_headers(void *user, struct http_call *call, int status)
{
    struct answer *a = user;

    a->headers++;
    a->code = status;
    copy_text(a->header, sizeof(a->header), http_call_header(call, "content-type"));
}

static void on_data(void *user, struct http_call *call, struct bytes data)
{
    buf_append_bytes(&((struct answer *)user)->body, data);
}

static void on_trailers(void *user, struct http_call *call)
{
    struct answer *a = user;

    copy_text(a->status, sizeof(a->status), http_call_trailer(call, "grpc-status"));
}

static void on_closed(void *user, struct http_call *call, int error)
{
    struct answer *a = user;

    a->closed++;
    a->error = error;
}

static const struct http_call_handler call_handler = {on_headers, on_data, on_trailers, on_closed};

static void on_connected(void *user, struct http_client *client)
{
    ((struct net *)user)->connected++;
}

static void on_disconnected(void *user, struct http_client *client, int error)
{
    struct net *n = user;

    n->disconnected++;
    n->error = error;
    if (n->free_when_down) {
        http_client_free(client);
        n->client = NULL;
    }
}

static const struct http_client_handler client_handler = {on_connected, on_disconnected};

static void net_init(struct net *n, enum http_version version, const struct http_limits *limits)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct http_client_options options = {.version = version};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(n, 0, sizeof(*n));
    fx_init_with(&n->f, limits);
    cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(listen(fd, 10), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    cr_assert_eq(http_server_listen(n->f.server, fd), 0);
    n->port = ntohs(addr.sin_port);
    n->client = http_client_connect(n->f.loop, "127.0.0.1", n->port, &options, &client_handler, n);
    cr_assert_not_null(n->client);
}

static void net_fini(struct net *n)
{
    http_client_free(n->client);
    fx_fini(&n->f);
}

static struct http_call *start(struct net *n, const char *method, const char *path,
                               struct bytes body, uint64_t deadline_ms, struct answer *a)
{
    const struct http_header headers[] = {HTTP_HEADER("te", "trailers"),
                                          HTTP_HEADER("content-type", "application/grpc")};

    memset(a, 0, sizeof(*a));
    return http_call_start(n->client, &(struct http_call_args){
                                          .method = bytes_str(method),
                                          .path = bytes_str(path),
                                          .headers = headers,
                                          .header_count = ARRAY_LEN(headers),
                                          .body = &body,
                                          .body_count = 1,
                                          .deadline_ms = deadline_ms,
                                          .handler = &call_handler,
                                          .user = a,
                                      });
}

static void wait_closed(struct net *n, const struct answer *a)
{
    while (a->closed == 0)
        loop_run_once(n->f.loop, 100);
}

static const enum http_version versions[] = {HTTP_VERSION_2, HTTP_VERSION_1_1};

Test(http_client, calls_before_the_connection_is_up)
{
    for (size_t v = 0; v < ARRAY_LEN(versions); v++) {
        struct net n;
        struct answer a[20];

        net_init(&n, versions[v], NULL);
        for (size_t i = 0; i < ARRAY_LEN(a); i++)
            cr_assert_not_null(start(&n, "POST", "/echo", BYTES_LIT("hello"), 0, &a[i]));
        cr_expect_eq(http_client_call_count(n.client), ARRAY_LEN(a));
        for (size_t i = 0; i < ARRAY_LEN(a); i++) {
            wait_closed(&n, &a[i]);
            cr_expect_eq(a[i].error, 0);
            cr_expect_eq(a[i].code, 200);
            cr_expect_eq(a[i].headers, 1);
            cr_expect(bytes_eq(buf_bytes(&a[i].body), BYTES_LIT("hello")));
            buf_fini(&a[i].body);
        }
        cr_expect_eq(n.connected, 1);
        cr_expect_eq(http_client_call_count(n.client), 0);
        net_fini(&n);
    }
}

Test(http_client, grpc_unary)
{
    struct net n;
    struct answer a;

    net_init(&n, HTTP_VERSION_2, NULL);
    start(&n, "POST", "/grpc", BYTES_LIT("\0\0\0\0\0"), 0, &a);
    wait_closed(&n, &a);
    cr_expect_eq(a.error, 0);
    cr_expect_str_eq(a.header, "application/grpc");
    cr_expect_str_eq(a.status, "0");
    cr_expect_eq(a.body.len, 8);
    buf_fini(&a.body);
    net_fini(&n);
}

Test(http_client, methods_and_lengths)
{
    static const struct {
        const char *method, *path;
        int code;
        size_t len;
    } rows[] = {
        {"GET", "/ok", 200, 3},        {"HEAD", "/ok", 200, 0},     {"PUT", "/echo", 200, 0},
        {"DELETE", "/early", 404, 19}, {"GET", "/pieces", 200, 18}, {"OPTIONS", "/ok?a=b", 200, 3},
    };

    for (size_t v = 0; v < ARRAY_LEN(versions); v++) {
        struct net n;

        net_init(&n, versions[v], NULL);
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            struct answer a;

            cr_assert_not_null(start(&n, rows[i].method, rows[i].path, BYTES_EMPTY, 0, &a));
            wait_closed(&n, &a);
            cr_expect_eq(a.error, 0, "%s %s", rows[i].method, rows[i].path);
            cr_expect_eq(a.code, rows[i].code, "%s %s", rows[i].method, rows[i].path);
            cr_expect_eq(a.body.len, rows[i].len, "%s %s: %zu", rows[i].method, rows[i].path,
                         a.body.len);
            buf_fini(&a.body);
        }
        net_fini(&n);
    }
}

Test(http_client, large_both_ways)
{
    struct http_limits limits = http_limits_default;
    size_t len = 5 * 1000 * 1000;
    uint8_t *body = xmalloc(len);

    for (size_t i = 0; i < len; i++)
        body[i] = (uint8_t)(i * 7 + i / 251);
    limits.body_bytes_max = len;
    for (size_t v = 0; v < ARRAY_LEN(versions); v++) {
        struct net n;
        struct answer a[3];

        net_init(&n, versions[v], &limits);
        for (size_t i = 0; i < ARRAY_LEN(a); i++)
            start(&n, "POST", "/echo", bytes_of(body, len), 0, &a[i]);
        for (size_t i = 0; i < ARRAY_LEN(a); i++) {
            wait_closed(&n, &a[i]);
            cr_expect_eq(a[i].error, 0);
            cr_expect(bytes_eq(buf_bytes(&a[i].body), bytes_of(body, len)));
            buf_fini(&a[i].body);
        }
        net_fini(&n);
    }
    free(body);
}

Test(http_client, many_streams)
{
    struct http_limits limits = http_limits_default;
    struct net n;
    static struct answer a[3000];

    limits.streams_max = 100; /* the client holds the rest back; 100 is what it assumes at first */
    net_init(&n, HTTP_VERSION_2, &limits);
    for (size_t i = 0; i < ARRAY_LEN(a); i++)
        start(&n, "POST", "/grpc", BYTES_LIT("\0\0\0\0\0"), 0, &a[i]);
    for (size_t i = 0; i < ARRAY_LEN(a); i++) {
        wait_closed(&n, &a[i]);
        cr_expect_eq(a[i].error, 0);
        buf_fini(&a[i].body);
    }
    cr_expect_eq(http_client_streams_max(n.client), 100);
    net_fini(&n);
}

Test(http_client, deadline)
{
    for (size_t v = 0; v < ARRAY_LEN(versions); v++) {
        struct net n;
        struct answer a;

        net_init(&n, versions[v], NULL);
        start(&n, "GET", "/hold", BYTES_EMPTY, 20, &a);
        wait_closed(&n, &a);
        cr_expect_eq(a.error, -ETIMEDOUT, "%d", a.error);
        while (n.f.open_count != 0)
            loop_run_once(n.f.loop, 100);
        net_fini(&n);
    }
}

Test(http_client, cancel)
{
    struct http_limits limits = http_limits_default;
    struct net n;
    struct answer early, sent, queued, after;
    struct http_call *call;

    limits.streams_max = 1;
    net_init(&n, HTTP_VERSION_2, &limits);
    call = start(&n, "GET", "/hold", BYTES_LIT("body"), 0, &early); /* not connected yet */
    http_call_cancel(call);
    http_call_cancel(call);
    cr_expect_eq(early.closed, 0, "not from within");
    wait_closed(&n, &early);
    cr_expect_eq(early.error, -ECANCELED);

    call = start(&n, "GET", "/hold", BYTES_LIT("body"), 0, &sent);
    while (n.f.held_count == 0)
        loop_run_once(n.f.loop, 100);
    http_call_cancel(start(&n, "GET", "/ok", BYTES_LIT("body"), 0, &queued));
    wait_closed(&n, &queued);
    cr_expect_eq(queued.error, -ECANCELED);
    http_call_cancel(call);
    wait_closed(&n, &sent);
    cr_expect_eq(sent.error, -ECANCELED);
    start(&n, "GET", "/ok", BYTES_EMPTY, 0, &after);
    wait_closed(&n, &after);
    cr_expect_eq(after.error, 0);
    buf_fini(&after.body);
    net_fini(&n);
}

Test(http_client, reset_by_the_server)
{
    struct net n;
    struct answer a;

    net_init(&n, HTTP_VERSION_2, NULL);
    start(&n, "GET", "/hold", BYTES_EMPTY, 0, &a);
    while (n.f.held_count == 0)
        loop_run_once(n.f.loop, 100);
    http_req_reset(n.f.held[0], HTTP_RESET_ENHANCE_YOUR_CALM);
    wait_closed(&n, &a);
    cr_expect_eq(a.error, -ECONNRESET);
    net_fini(&n);
}

Test(http_client, nobody_listens)
{
    struct net n;
    struct answer a;
    struct http_client *other;

    net_init(&n, HTTP_VERSION_2, NULL);
    other = n.client;
    n.client = http_client_connect(n.f.loop, "127.0.0.1", 1, NULL, &client_handler, &n);
    cr_assert_not_null(n.client);
    a.closed = 0;
    start(&n, "GET", "/ok", BYTES_EMPTY, 0, &a);
    while (n.disconnected == 0)
        loop_run_once(n.f.loop, 100);
    cr_expect_eq(n.error, -ECONNREFUSED);
    cr_expect_eq(http_client_call_count(n.client), 0);
    cr_expect_null(start(&n, "GET", "/ok", BYTES_EMPTY, 0, &a));
    http_client_free(other);
    net_fini(&n);
}

Test(http_client, bad_addresses)
{
    static char long_path[200] = "unix:";
    static const char *const hosts[] = {"",    "localhost", "1.2.3", "1.2.3.4.5",
                                        "::g", "[::1]",     "unix:", long_path};
    struct loop *loop = loop_new();

    memset(long_path + 5, 'x', sizeof(long_path) - 6);
    for (size_t i = 0; i < ARRAY_LEN(hosts); i++)
        cr_expect_null(http_client_connect(loop, hosts[i], 1, NULL, NULL, NULL), "%s", hosts[i]);
    loop_free(loop);
}

Test(http_client, server_goes_away)
{
    for (size_t v = 0; v < ARRAY_LEN(versions); v++) {
        struct net n;
        struct answer a[3];

        net_init(&n, versions[v], NULL);
        n.free_when_down = true;
        for (size_t i = 0; i < ARRAY_LEN(a); i++)
            start(&n, "GET", "/hold", BYTES_EMPTY, 0, &a[i]);
        while (n.f.held_count == 0)
            loop_run_once(n.f.loop, 100);
        http_server_free(n.f.server);
        n.f.server = http_server_new(n.f.loop, &fx_handler, &n.f, NULL);
        while (n.disconnected == 0)
            loop_run_once(n.f.loop, 100);
        for (size_t i = 0; i < ARRAY_LEN(a); i++) {
            cr_expect_eq(a[i].closed, 1);
            cr_expect_eq(a[i].error, -ECONNRESET);
        }
        net_fini(&n);
    }
}

Test(http_client, server_drains)
{
    struct net n;
    struct answer a, held;

    net_init(&n, HTTP_VERSION_2, NULL);
    start(&n, "GET", "/hold", BYTES_EMPTY, 0, &held);
    while (n.f.held_count == 0)
        loop_run_once(n.f.loop, 100);
    http_server_drain(n.f.server, 60000, NULL, NULL);
    while (start(&n, "GET", "/ok", BYTES_EMPTY, 0, &a) != NULL) {
        wait_closed(&n, &a);
        buf_fini(&a.body);
    }
    grpc_answer(n.f.held[0], BYTES_LIT("12345"));
    while (n.disconnected == 0)
        loop_run_once(n.f.loop, 100);
    cr_expect_eq(held.closed, 1);
    cr_expect_eq(held.error, 0);
    buf_fini(&held.body);
    net_fini(&n);
}

Test(http_client, streamed_request)
{
    struct net n;
    struct answer a;
    struct http_call *call;

    net_init(&n, HTTP_VERSION_2, NULL);
    memset(&a, 0, sizeof(a));
    call = http_call_start(n.client, &(struct http_call_args){.method = BYTES_LIT("POST"),
                                                              .path = BYTES_LIT("/stream"),
                                                              .body_open = true,
                                                              .handler = &call_handler,
                                                              .user = &a});
    cr_assert_not_null(call);
    for (int i = 0; i < 5; i++) {
        size_t before = a.body.len;

        http_call_data(call, BYTES_LIT("ping"));
        while (a.body.len == before)
            loop_run_once(n.f.loop, 100);
    }
    http_call_end(call);
    wait_closed(&n, &a);
    cr_expect_eq(a.error, 0);
    cr_expect_eq(a.body.len, 20);
    buf_fini(&a.body);
    net_fini(&n);
}

/* ---- sockets in the file system ---- */

Test(http_client, unix_sockets)
{
    for (size_t v = 0; v < ARRAY_LEN(versions); v++) {
        char dir[] = "/tmp/http-client-XXXXXX", host[64];
        struct http_client_options options = {.version = versions[v]};
        struct sockaddr_un addr = {.sun_family = AF_UNIX};
        struct answer a;
        struct net n;
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);

        cr_assert_not_null(mkdtemp(dir));
        snprintf(host, sizeof(host), "unix:%s/s", dir);
        snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/s", dir);
        net_init(&n, versions[v], NULL);
        http_client_free(n.client);
        cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
        cr_assert_eq(listen(fd, 10), 0);
        cr_assert_eq(http_server_listen(n.f.server, fd), 0);
        n.client = http_client_connect(n.f.loop, host, 0, &options, &client_handler, &n);
        cr_assert_not_null(n.client);
        start(&n, "POST", "/echo", BYTES_LIT("hello"), 0, &a);
        wait_closed(&n, &a);
        cr_expect_eq(a.error, 0);
        cr_expect(bytes_eq(buf_bytes(&a.body), BYTES_LIT("hello")));
        buf_fini(&a.body);
        http_client_free(n.client);
        unlink(addr.sun_path);
        n.client = http_client_connect(n.f.loop, host, 0, &options, &client_handler, &n);
        cr_assert_not_null(n.client); /* it is told as any refused one */
        while (n.disconnected == 0)
            loop_run_once(n.f.loop, 100);
        cr_expect_eq(n.error, -ENOENT);
        rmdir(dir);
        net_fini(&n);
    }
}

/* ---- is the server still there? ---- */

enum { PREFACE_BYTES = 24, FRAME_BYTES = 9, FRAME_PING = 6, PING_BYTES = 8 };

/* The PINGs among what was received so far, from *at on; at stops before an incomplete frame. */
static size_t count_pings(const struct buf *got, size_t *at)
{
    size_t count = 0;

    while (got->len >= *at + FRAME_BYTES) {
        const uint8_t *p = got->data + *at;
        size_t len = FRAME_BYTES + ((size_t)p[0] << 16 | (size_t)p[1] << 8 | p[2]);

        if (got->len < *at + len)
            break;
        count += p[3] == FRAME_PING && p[4] == 0;
        *at += len;
    }
    return count;
}

/* A server that answers the first so many PINGs, and nothing else. */
static void silent_server(size_t answered, struct net *n, struct answer *a, size_t *ret_pings)
{
    static const uint8_t settings[FRAME_BYTES] = {0, 0, 0, 4};
    static const uint8_t ack[FRAME_BYTES + PING_BYTES] = {0, 0, PING_BYTES, FRAME_PING, 1};
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct http_client_options options = {
        .version = HTTP_VERSION_2, .keepalive_ms = 5, .keepalive_timeout_ms = 50};
    CLEANUP(buf_fini) struct buf got = BUF_INIT;
    socklen_t len = sizeof(addr);
    int listen_fd = socket(AF_INET, SOCK_STREAM, 0), fd;
    size_t at = PREFACE_BYTES;

    *ret_pings = 0;
    if (answered > 0)
        options.keepalive_timeout_ms = 60000; /* not in a hurry while they are answered */
    net_init(n, HTTP_VERSION_2, NULL);
    http_client_free(n->client);
    cr_assert_eq(bind(listen_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(listen(listen_fd, 10), 0);
    cr_assert_eq(getsockname(listen_fd, (struct sockaddr *)&addr, &len), 0);
    n->client = http_client_connect(n->f.loop, "127.0.0.1", ntohs(addr.sin_port), &options,
                                    &client_handler, n);
    start(n, "GET", "/ok", BYTES_EMPTY, 0, a);
    fd = accept(listen_fd, NULL, NULL);
    cr_assert(fd >= 0);
    cr_assert_eq(send(fd, settings, sizeof(settings), 0), (ssize_t)sizeof(settings));
    while (n->disconnected == 0 && (answered == 0 || *ret_pings < answered)) {
        uint8_t part[4096];
        ssize_t r;
        size_t pings;

        loop_run_once(n->f.loop, 10);
        r = recv(fd, part, sizeof(part), MSG_DONTWAIT);
        if (r > 0)
            buf_append(&got, part, (size_t)r);
        pings = got.len > at ? count_pings(&got, &at) : 0;
        *ret_pings += pings;
        for (; pings > 0 && answered > 0; pings--)
            cr_assert_eq(send(fd, ack, sizeof(ack), 0), (ssize_t)sizeof(ack));
    }
    close(fd);
    close(listen_fd);
}

Test(http_client, silence_ends_the_connection)
{
    struct net n;
    struct answer a;
    size_t pings;

    silent_server(0, &n, &a, &pings);
    cr_expect_eq(n.disconnected, 1);
    cr_expect_eq(n.error, -ETIMEDOUT);
    cr_expect_leq(pings, 1);
    net_fini(&n);
}

Test(http_client, answered_pings_keep_it)
{
    struct net n;
    struct answer a;
    size_t pings;

    silent_server(3, &n, &a, &pings);
    cr_expect_geq(pings, 3);
    cr_expect_eq(n.disconnected, 0);
    net_fini(&n);
}

/* Answers that are none. */
Test(http_client, malformed_answers)
{
    static const char *const answers[] = {
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 101 Switching\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "\0\0\0\0",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
    };

    for (size_t v = 0; v < ARRAY_LEN(versions); v++) {
        for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
            struct net n;
            struct answer a;
            struct sockaddr_in addr = {.sin_family = AF_INET,
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
            struct http_client_options options = {.version = versions[v]};
            socklen_t len = sizeof(addr);
            int listen_fd = socket(AF_INET, SOCK_STREAM, 0), fd;

            net_init(&n, versions[v], NULL);
            http_client_free(n.client);
            cr_assert_eq(bind(listen_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
            cr_assert_eq(listen(listen_fd, 10), 0);
            cr_assert_eq(getsockname(listen_fd, (struct sockaddr *)&addr, &len), 0);
            n.client = http_client_connect(n.f.loop, "127.0.0.1", ntohs(addr.sin_port), &options,
                                           &client_handler, &n);
            start(&n, "GET", "/ok", BYTES_EMPTY, 0, &a);
            fd = accept(listen_fd, NULL, NULL);
            cr_assert(fd >= 0);
            cr_assert(
                send(fd, answers[i], strlen(answers[i]) + (answers[i][0] == '\0' ? 4 : 0), 0) >= 0);
            shutdown(fd, SHUT_WR);
            wait_closed(&n, &a);
            cr_expect(a.error == -EPROTO || a.error == -ECONNRESET, "%zu: %d", i, a.error);
            buf_fini(&a.body);
            close(fd);
            close(listen_fd);
            net_fini(&n);
        }
    }
}
