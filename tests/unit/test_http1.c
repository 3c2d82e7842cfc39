/* HTTP/1.1 server: what comes back for raw bytes, whole and byte by byte, and what happens when
 * things go wrong. */
#include "tests/unit/http_fixture.h"

struct row {
    const char *name;
    const char *input;
    const char *want[4]; /* in this order */
    const char *events;
    bool closes;
};

#define HOST "Host: a\r\n"
static const struct row rows[] = {
    {"get",
     "GET /ok HTTP/1.1\r\n" HOST "\r\n",
     {"HTTP/1.1 200 OK\r\n", "X-Etcd-Index: 5\r\n", "Content-Length: 3\r\n", "\r\n\r\nok\n"},
     "H/ok R/ok C/ok ",
     false},
    {"query stays in the path",
     "GET /v2/keys/a?wait=true&x=%20 HTTP/1.1\r\n" HOST "\r\n",
     {"200 OK"},
     "H/v2/keys/a?wait=true&x=%20 R/v2/keys/a?wait=true&x=%20 C/v2/keys/a?wait=true&x=%20 ",
     false},
    {"head has no body",
     "HEAD /ok HTTP/1.1\r\n" HOST "\r\nGET /early HTTP/1.1\r\n" HOST "\r\n",
     {"Content-Length: 3\r\n", "\r\n\r\nHTTP/1.1 404"},
     NULL,
     false},
    {"post with a length",
     "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello",
     {"Content-Length: 5\r\n", "\r\n\r\nhello"},
     "H/echo R/echo C/echo ",
     false},
    {"post chunked, with trailers",
     "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
     "3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n",
     {"\r\n\r\nabcde"},
     "H/echo R/echo C/echo ",
     false},
    {"pipelined, in order",
     "GET /pieces HTTP/1.1\r\n" HOST "\r\nPOST /echo HTTP/1.1\r\n" HOST
     "Content-Length: 2\r\n\r\nhiGET /ok HTTP/1.1\r\n" HOST "\r\n",
     {"6\r\npiece \r\n", "\r\n\r\nhi", "\r\n\r\nok\n"},
     NULL,
     false},
    {"answer in pieces",
     "GET /pieces HTTP/1.1\r\n" HOST "\r\n",
     {"Transfer-Encoding: chunked\r\n", "6\r\npiece \r\n6\r\npiece \r\n6\r\npiece \r\n0\r\n",
      "X-End: yes\r\n\r\n"},
     NULL,
     false},
    {"1.0 closes", "GET /ok HTTP/1.0\r\n\r\n", {"HTTP/1.0 200 OK", "ok\n"}, NULL, true},
    {"1.0 in pieces is not chunked",
     "GET /pieces HTTP/1.0\r\n\r\n",
     {"HTTP/1.0 200", "\r\n\r\npiece piece piece "},
     NULL,
     true},
    {"1.0 keep-alive",
     "GET /ok HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
     {"Connection: keep-alive\r\n"},
     NULL,
     false},
    {"close asked for",
     "GET /ok HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n",
     {"Connection: close\r\n", "ok\n"},
     NULL,
     true},
    {"absolute target",
     "GET http://b:1/ok?x HTTP/1.1\r\n" HOST "\r\n",
     {"200 OK"},
     "H/ok?x R/ok?x C/ok?x ",
     false},
    {"upgrade is not taken up",
     "GET /ok HTTP/1.1\r\n" HOST "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
     {"200 OK", "ok\n"},
     NULL,
     false},
    {"continue is sent when the body is wanted",
     "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
     {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", "\r\n\r\nhi"},
     NULL,
     false},
    {"continue is not sent when it is answered already",
     "POST /early HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n",
     {"HTTP/1.1 404 Not Found"},
     "H/early ",
     false},
    {"short unwanted body is skipped",
     "POST /early HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nhiGET /ok HTTP/1.1\r\n" HOST "\r\n",
     {"404 Not Found", "200 OK"},
     "H/early C/early H/ok R/ok C/ok ",
     false},
    {"long unwanted body closes",
     "POST /early HTTP/1.1\r\n" HOST "Content-Length: 1000000\r\n\r\nhi",
     {"404 Not Found", "Connection: close\r\n"},
     "H/early C/early ",
     true},
    {"streamed body",
     "POST /stream HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nhi",
     {"Transfer-Encoding: chunked", "0\r\n\r\n"},
     NULL,
     false},
    {"empty lines before a request",
     "\r\n\r\nGET /ok HTTP/1.1\r\n" HOST "\r\n",
     {"200 OK"},
     NULL,
     false},

    {"no host", "GET /ok HTTP/1.1\r\n\r\n", {"400 Bad Request", "Connection: close\r\n"}, "", true},
    {"two hosts", "GET /ok HTTP/1.1\r\n" HOST HOST "\r\n", {"400 Bad Request"}, "", true},
    {"not HTTP", "hello\r\n\r\n", {"400 Bad Request"}, "", true},
    {"TLS hello", "\x16\x03\x01\x02\x01\x01\xfc\x03\x03", {"400 Bad Request"}, "", true},
    {"preface cut short", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", {"400 Bad Request"}, "", true},
    {"version 2.5", "GET /ok HTTP/2.5\r\n" HOST "\r\n", {"505"}, "", true},
    {"version none", "GET /ok\r\n\r\n", {"505"}, "", true},
    {"length negative",
     "POST /echo HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\n",
     {"400"},
     "",
     true},
    {"length beyond 64 bits",
     "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999\r\n\r\n",
     {"400"},
     "",
     true},
    {"two lengths",
     "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
     {"400"},
     "",
     true},
    {"length and chunked",
     "POST /echo HTTP/1.1\r\n" HOST
     "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     {"400"},
     "",
     true},
    {"bad chunk size",
     "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
     {"400"},
     "H/echo C/echo ",
     true},
    {"chunk size beyond 64 bits",
     "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
     {"400"},
     "H/echo C/echo ",
     true},
    {"blank in a name", "GET /ok HTTP/1.1\r\n" HOST "a b: c\r\n\r\n", {"400"}, "", true},
    {"length too large at once",
     "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3000000\r\n\r\n",
     {"413 Request Entity Too Large"},
     "H/echo L/echo C/echo ",
     true},
};

static void check_row(const struct row *row, size_t step)
{
    struct fixture f;
    size_t len = strlen(row->input);
    const char *at;

    if (strncmp(row->input, "\x16\x03", 2) == 0)
        len = 9;
    fx_init(&f);
    for (size_t i = 0; i < len; i += step) {
        fx_send(&f, row->input + i, MIN(step, len - i));
        fx_settle(&f);
    }
    at = fx_text(&f);
    for (size_t i = 0; i < ARRAY_LEN(row->want) && row->want[i] != NULL; i++) {
        const char *found = strstr(at, row->want[i]);

        cr_expect(found != NULL, "%s (step %zu): no \"%s\" in\n%s", row->name, step, row->want[i],
                  at);
        if (found != NULL)
            at = found;
    }
    cr_expect_eq(f.closed, row->closes, "%s (step %zu): closed %d", row->name, step, f.closed);
    if (row->closes) { /* we close too, then it is over there as well */
        shutdown(f.fd, SHUT_WR);
        fx_settle(&f);
        cr_expect_eq(http_server_counters(f.server)->connections, 0, "%s", row->name);
    }
    if (row->events != NULL)
        cr_expect_str_eq(fx_events(&f), row->events, "%s (step %zu): %s", row->name, step,
                         fx_events(&f));
    fx_fini(&f);
}

Test(http1, rows_whole)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        check_row(&rows[i], 4096);
}

Test(http1, rows_byte_by_byte)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        check_row(&rows[i], 1);
}

Test(http1, rows_in_threes)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        check_row(&rows[i], 3);
}

/* Every prefix of a good request, then the client is gone: no crash, no request that was not there.
 */
Test(http1, cut_anywhere)
{
    const char *input = "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 5\r\nX: y\r\n\r\nhello";

    for (size_t n = 0; n < strlen(input); n++) {
        struct fixture f;

        fx_init(&f);
        fx_send(&f, input, n);
        shutdown(f.fd, SHUT_WR);
        fx_settle(&f);
        cr_expect(strchr(fx_events(&f), 'R') == NULL, "at %zu", n);
        cr_expect_eq(http_server_counters(f.server)->connections, 0, "at %zu", n);
        fx_fini(&f);
    }
}

Test(http1, body_limit_is_exact)
{
    struct http_limits limits = http_limits_default;

    limits.body_bytes_max = 10;
    for (size_t n = 9; n <= 11; n++) {
        for (int chunked = 0; chunked < 2; chunked++) {
            struct fixture f;
            char input[256];

            fx_init_with(&f, &limits);
            if (chunked)
                snprintf(input, sizeof(input),
                         "POST /echo HTTP/1.1\r\n" HOST
                         "Transfer-Encoding: chunked\r\n\r\n%zx\r\n%.*s\r\n0\r\n\r\n",
                         n, (int)n, "abcdefghijkl");
            else
                snprintf(input, sizeof(input),
                         "POST /echo HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n%.*s", n,
                         (int)n, "abcdefghijkl");
            fx_send(&f, input, strlen(input));
            fx_settle(&f);
            cr_expect(strstr(fx_text(&f), n <= 10 ? "200 OK" : "413") != NULL, "%zu: %s", n,
                      fx_text(&f));
            fx_fini(&f);
        }
    }
}

Test(http1, headers_too_large)
{
    struct http_limits limits = http_limits_default;

    limits.header_bytes_max = 1000;
    for (int many = 0; many < 2; many++) {
        struct fixture f;

        fx_init_with(&f, &limits);
        fx_send(&f, "GET /ok HTTP/1.1\r\nHost: a\r\nX: ", 30);
        for (int i = 0; i < 60; i++) {
            const char *part = many ? "1\r\nX: " : "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

            fx_send(&f, part, strlen(part));
        }
        fx_settle(&f);
        cr_expect(strstr(fx_text(&f), "431") != NULL, "%s", fx_text(&f));
        cr_expect_str_empty(fx_events(&f));
        fx_fini(&f);
    }
}

Test(http1, answered_later_and_pipelined_waits)
{
    struct fixture f;
    const char *input = "GET /hold HTTP/1.1\r\n" HOST "\r\nGET /ok HTTP/1.1\r\n" HOST "\r\n";

    fx_init(&f);
    fx_send(&f, input, strlen(input));
    fx_settle(&f);
    cr_expect_str_eq(fx_events(&f), "H/hold R/hold ");
    cr_expect_eq(f.got.len, 0);
    http_respond_text(f.held[0], 200, NULL, BYTES_LIT("late\n"));
    cr_expect_str_eq(fx_events(&f), "H/hold R/hold ", "nothing is called from within http_respond");
    fx_settle(&f);
    cr_expect_str_eq(fx_events(&f), "H/hold R/hold C/hold H/ok R/ok C/ok ");
    cr_expect(strstr(strstr(fx_text(&f), "late\n"), "ok\n") != NULL);
    fx_fini(&f);
}

Test(http1, peer_dies_before_the_answer)
{
    struct fixture f;
    const char *input = "GET /hold HTTP/1.1\r\n" HOST "\r\n";

    fx_init(&f);
    fx_send(&f, input, strlen(input));
    fx_settle(&f);
    cr_assert_eq(f.held_count, 1);
    close(f.fd);
    f.fd = -1;
    while (http_server_counters(f.server)->connections != 0)
        loop_run_once(f.loop, 100);
    cr_expect_str_eq(fx_events(&f), "H/hold R/hold C/hold ");
    cr_expect_eq(f.held[0], NULL);
    fx_fini(&f);
}

Test(http1, half_closed_client_gets_its_answer)
{
    struct fixture f;
    const char *input = "GET /hold HTTP/1.1\r\n" HOST "\r\n";

    fx_init(&f);
    fx_send(&f, input, strlen(input));
    shutdown(f.fd, SHUT_WR);
    fx_settle(&f);
    http_respond_text(f.held[0], 200, NULL, BYTES_LIT("late\n"));
    fx_settle(&f);
    cr_expect(strstr(fx_text(&f), "late\n") != NULL);
    cr_expect(f.closed);
    fx_fini(&f);
}

Test(http1, reset_closes)
{
    struct fixture f;
    const char *input = "GET /hold HTTP/1.1\r\n" HOST "\r\n";

    fx_init(&f);
    fx_send(&f, input, strlen(input));
    fx_settle(&f);
    http_req_reset(f.held[0], HTTP_RESET_INTERNAL_ERROR);
    cr_expect_not_null(f.held[0], "not from within");
    fx_settle(&f);
    cr_expect_str_eq(fx_events(&f), "H/hold R/hold C/hold ");
    cr_expect(f.closed);
    fx_fini(&f);
}

/* The other end does not read: what is held is bounded, and all of it arrives in the end. */
Test(http1, client_that_does_not_read)
{
    struct http_limits limits = http_limits_default;
    const char *input = "GET /big HTTP/1.1\r\n" HOST "\r\n";
    const struct http_counters *c;
    struct fixture f;
    size_t requests = 200;
    uint64_t before;

    limits.output_bytes_max = 64 * 1024;
    fx_init_with(&f, &limits);
    f.big_bytes = 32 * 1024;
    c = http_server_counters(f.server);
    for (size_t i = 0; i < requests; i++)
        cr_assert(send(f.fd, input, strlen(input), MSG_NOSIGNAL) > 0);
    do {
        before = c->bytes_out + c->requests_total;
        loop_run_once(f.loop, 0);
        loop_run_once(f.loop, 0);
    } while (c->bytes_out + c->requests_total != before);
    cr_expect(c->requests_total < 60, "%zu answers made for nobody", (size_t)c->requests_total);
    fx_settle(&f);
    cr_expect_eq(c->requests_total, requests);
    cr_expect_eq(fx_count(fx_text(&f), "HTTP/1.1 200 OK"), requests);
    fx_fini(&f);
}

Test(http1, refills_when_drained)
{
    struct fixture f;
    const char *input = "GET /source HTTP/1.1\r\n" HOST "\r\n";

    fx_init(&f);
    f.big_bytes = 1000 * 1000;
    fx_send(&f, input, strlen(input));
    fx_settle(&f);
    cr_expect(f.got.len > f.big_bytes);
    cr_expect_str_eq(fx_events(&f), "H/source R/source C/source ");
    fx_fini(&f);
}

/* Deadlines: the test only waits for the server to act. */
static void check_deadline(struct http_limits limits, const char *input, const char *events)
{
    struct fixture f;

    fx_init_with(&f, &limits);
    fx_send(&f, input, strlen(input));
    fx_until_closed(&f);
    cr_expect_str_eq(fx_events(&f), events, "%s: %s", input, fx_events(&f));
    cr_expect_eq(http_server_counters(f.server)->timeouts, 1);
    fx_fini(&f);
}

Test(http1, deadlines)
{
    struct http_limits limits = http_limits_default;

    limits.header_ms_max = 20;
    check_deadline(limits, "", "");
    check_deadline(limits, "P", "");
    check_deadline(limits, "GET /ok HTTP/1.1\r\nHost:", "");
    limits = http_limits_default;
    limits.idle_ms_max = 20;
    check_deadline(limits, "GET /ok HTTP/1.1\r\n" HOST "\r\n", "H/ok R/ok C/ok ");
    limits = http_limits_default;
    limits.body_ms_max = 20;
    check_deadline(limits, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhel",
                   "H/echo C/echo ");
}

static void on_drain_done(void *user)
{
    ((struct fixture *)user)->drained = true;
}

Test(http1, drain_finishes_what_is_open)
{
    struct fixture f;
    const char *input = "GET /hold HTTP/1.1\r\n" HOST "\r\n";
    int idle;

    fx_init(&f);
    idle = fx_connect(&f);
    fx_send(&f, input, strlen(input));
    fx_settle(&f);
    http_server_drain(f.server, 60000, on_drain_done, &f);
    fx_settle(&f);
    cr_expect_eq(http_server_counters(f.server)->connections, 1, "the idle one is gone");
    http_respond_text(f.held[0], 200, NULL, BYTES_LIT("late\n"));
    fx_settle(&f);
    cr_expect(strstr(fx_text(&f), "Connection: close") != NULL);
    cr_expect(strstr(fx_text(&f), "late") != NULL);
    close(f.fd);
    f.fd = -1;
    while (!f.drained)
        loop_run_once(f.loop, 100);
    close(idle);
    fx_fini(&f);
}

Test(http1, drain_deadline_cuts_off)
{
    struct fixture f;
    const char *input = "GET /hold HTTP/1.1\r\n" HOST "\r\n";

    fx_init(&f);
    fx_send(&f, input, strlen(input));
    fx_settle(&f);
    http_server_drain(f.server, 20, on_drain_done, &f);
    while (!f.drained)
        loop_run_once(f.loop, 100);
    cr_expect_str_eq(fx_events(&f), "H/hold R/hold C/hold ");
    fx_fini(&f);
}

Test(http1, too_many_connections)
{
    struct http_limits limits = http_limits_default;
    struct fixture f;
    int fds[2];

    limits.connections_max = 1;
    fx_init_with(&f, &limits);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    cr_expect(http_server_adopt(f.server, fds[0]) < 0);
    cr_expect_eq(http_server_counters(f.server)->connections_refused, 1);
    close(fds[0]);
    close(fds[1]);
    fx_fini(&f);
}

Test(http1, listener_accepts_and_knows_the_peer)
{
    struct fixture f;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int listen_fd = socket(AF_INET, SOCK_STREAM, 0);
    const char *input = "GET /hold HTTP/1.1\r\n" HOST "\r\n";

    fx_init(&f);
    cr_assert_eq(bind(listen_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(listen(listen_fd, 10), 0);
    cr_assert_eq(getsockname(listen_fd, (struct sockaddr *)&addr, &len), 0);
    cr_assert_eq(http_server_listen(f.server, listen_fd), 0);
    close(f.fd);
    f.fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(connect(f.fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    fcntl(f.fd, F_SETFL, O_NONBLOCK);
    fx_send(&f, input, strlen(input));
    while (f.held_count == 0)
        loop_run_once(f.loop, 100);
    cr_expect_eq(strncmp(http_req_peer(f.held[0]), "127.0.0.1:", 10), 0);
    cr_expect_eq(http_req_version(f.held[0]), HTTP_VERSION_1_1);
    cr_expect(bytes_eq(http_req_authority(f.held[0]), BYTES_LIT("a")));
    cr_expect(bytes_eq(http_req_method(f.held[0]), BYTES_LIT("GET")));
    cr_expect(bytes_eq(http_req_header(f.held[0], "host"), BYTES_LIT("a")));
    cr_expect_null(http_req_header(f.held[0], "hos").data);
    cr_expect_eq(http_req_header_count(f.held[0]), 1);
    fx_fini(&f);
}
