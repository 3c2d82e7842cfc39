/*
 * What the HTTP tests share: a server whose handler does what the path says, a hand-turned loop,
 * and the other end of a connection as a plain descriptor.
 *
 *   /ok      "ok\n"                     /echo    the body back
 *   /grpc    message and trailers       /early   404 from within on_headers
 *   /hold    answered by the test       /pieces  three pieces, then trailers
 *   /stream  body streamed, echoed      /big     big_bytes of 'b'
 *   /source  streamed answer that refills on on_drained until big_bytes went out
 *
 * `events` tells what was called: H headers, R request, D data, E end, L too large, C closed.
 */
#ifndef CONCLAVE_TESTS_HTTP_FIXTURE_H
#define CONCLAVE_TESTS_HTTP_FIXTURE_H

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "lib/http/http_server.h"
#include "lib/loop/loop.h"
#include "lib/util/buf.h"
#include "lib/util/xmalloc.h"

enum { HELD_MAX = 4096 };

struct fixture {
    struct loop *loop;
    struct http_server *server;
    struct http_limits limits;
    int fd; /* our end of the first connection */
    bool closed;
    struct buf got;
    struct buf events;
    struct http_req *held[HELD_MAX];
    size_t held_count;
    size_t open_count; /* on_headers without on_closed */
    size_t big_bytes;
    size_t source_left;
    bool too_large_unhandled;
    bool drained;
};

static inline bool path_is(const struct http_req *req, const char *path)
{
    return bytes_eq(http_req_path(req), bytes_str(path));
}

static inline void note(struct fixture *f, char what, const struct http_req *req)
{
    struct bytes path = http_req_path(req);

    buf_appendf(&f->events, "%c%.*s ", what, (int)path.len, (const char *)path.data);
}

static inline void grpc_answer(struct http_req *req, struct bytes message)
{
    const struct http_header type = HTTP_HEADER("content-type", "application/grpc");
    const struct http_header ok = HTTP_HEADER("grpc-status", "0");

    http_respond(req, &(struct http_response){.status = 200,
                                              .headers = &type,
                                              .header_count = 1,
                                              .body = &message,
                                              .body_count = 1,
                                              .trailers = &ok,
                                              .trailer_count = 1});
}

static inline enum http_body_mode fx_on_headers(void *user, struct http_req *req, size_t *max)
{
    struct fixture *f = user;

    note(f, 'H', req);
    f->open_count++;
    http_req_set_user(req, f);
    if (path_is(req, "/early"))
        http_respond_text(req, 404, NULL, BYTES_LIT("404 page not found\n"));
    if (path_is(req, "/stream")) {
        http_respond_begin(req, 200, NULL, 0);
        return HTTP_BODY_STREAM;
    }
    return HTTP_BODY_BUFFER;
}

static inline void source_fill(struct fixture *f, struct http_req *req)
{
    static uint8_t block[8192];

    while (f->source_left != 0 && http_req_queued(req) < sizeof(block)) {
        size_t n = MIN(f->source_left, sizeof(block));
        struct bytes piece = bytes_of(block, n);

        f->source_left -= n;
        http_respond_data(req, &piece, 1);
    }
    if (f->source_left == 0)
        http_respond_end(req, NULL, 0);
}

static inline void fx_on_request(void *user, struct http_req *req)
{
    struct fixture *f = user;
    struct bytes body = http_req_body(req);

    note(f, 'R', req);
    cr_assert_eq(http_req_user(req), f);
    if (path_is(req, "/hold")) {
        cr_assert(f->held_count < HELD_MAX);
        f->held[f->held_count++] = req;
    } else if (path_is(req, "/echo")) {
        http_respond(req, &(struct http_response){.status = 200, .body = &body, .body_count = 1});
    } else if (path_is(req, "/grpc")) {
        grpc_answer(req, BYTES_LIT("\0\0\0\0\x03"
                                   "abc"));
    } else if (path_is(req, "/pieces")) {
        const struct http_header trailer = HTTP_HEADER("x-end", "yes");

        http_respond_begin(req, 200, NULL, 0);
        for (int i = 0; i < 3; i++)
            http_respond_data(req, (struct bytes[]){BYTES_LIT("pie"), BYTES_LIT("ce ")}, 2);
        http_respond_end(req, &trailer, 1);
    } else if (path_is(req, "/big")) {
        uint8_t *big = xmalloc(f->big_bytes);
        struct bytes piece = bytes_of(big, f->big_bytes);

        memset(big, 'b', f->big_bytes);
        http_respond(req, &(struct http_response){.status = 200, .body = &piece, .body_count = 1});
        free(big);
    } else if (path_is(req, "/source")) {
        f->source_left = f->big_bytes;
        http_respond_begin(req, 200, NULL, 0);
        source_fill(f, req);
    } else {
        const struct http_header type = HTTP_HEADER("x-etcd-index", "5");
        struct bytes ok = BYTES_LIT("ok\n");

        http_respond(
            req,
            &(struct http_response){
                .status = 200, .headers = &type, .header_count = 1, .body = &ok, .body_count = 1});
    }
}

static inline void fx_on_too_large(void *user, struct http_req *req)
{
    note(user, 'L', req);
    http_respond_text(req, 413, NULL, BYTES_LIT("too large\n"));
}

static inline void fx_on_data(void *user, struct http_req *req, struct bytes data)
{
    note(user, 'D', req);
    http_respond_data(req, &data, 1);
}

static inline void fx_on_end(void *user, struct http_req *req)
{
    note(user, 'E', req);
    http_respond_end(req, NULL, 0);
}

static inline void fx_on_drained(void *user, struct http_req *req)
{
    if (path_is(req, "/source"))
        source_fill(user, req);
}

static inline void fx_on_closed(void *user, struct http_req *req)
{
    struct fixture *f = user;

    note(f, 'C', req);
    cr_assert(f->open_count > 0);
    f->open_count--;
    for (size_t i = 0; i < f->held_count; i++)
        if (f->held[i] == req)
            f->held[i] = NULL;
}

static const struct http_handler fx_handler = {
    .on_headers = fx_on_headers,
    .on_request = fx_on_request,
    .on_too_large = fx_on_too_large,
    .on_data = fx_on_data,
    .on_end = fx_on_end,
    .on_drained = fx_on_drained,
    .on_closed = fx_on_closed,
};

/* A connection to the server; returns our end. */
static inline int fx_connect(struct fixture *f)
{
    int fds[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    cr_assert_eq(http_server_adopt(f->server, fds[0]), 0);
    return fds[1];
}

static inline void fx_init_with(struct fixture *f, const struct http_limits *limits)
{
    memset(f, 0, sizeof(*f));
    f->loop = loop_new();
    f->limits = limits != NULL ? *limits : http_limits_default;
    f->server = http_server_new(f->loop, &fx_handler, f, &f->limits);
    f->fd = fx_connect(f);
}

static inline void fx_init(struct fixture *f)
{
    fx_init_with(f, NULL);
}

static inline void fx_fini(struct fixture *f)
{
    http_server_free(f->server);
    cr_expect_eq(f->open_count, 0, "on_closed is missing");
    loop_free(f->loop);
    if (f->fd >= 0)
        close(f->fd);
    buf_fini(&f->got);
    buf_fini(&f->events);
}

static inline void fx_read(struct fixture *f)
{
    for (;;) {
        ssize_t n = recv(f->fd, buf_reserve(&f->got, 65536), 65536, 0);

        if (n == 0 || (n < 0 && errno != EAGAIN))
            f->closed = true;
        if (n <= 0)
            return;
        f->got.len += (size_t)n;
    }
}

/* Turns until nothing moves any more. */
static inline void fx_settle(struct fixture *f)
{
    for (int quiet = 0; quiet < 4; quiet++) {
        const struct http_counters *c = http_server_counters(f->server);
        uint64_t before = c->bytes_in + c->bytes_out + f->got.len;

        loop_run_once(f->loop, 0);
        fx_read(f);
        if (c->bytes_in + c->bytes_out + f->got.len != before)
            quiet = 0;
    }
}

/* Turns, with time passing, until the server closed the connection. */
static inline void fx_until_closed(struct fixture *f)
{
    while (!f->closed) {
        loop_run_once(f->loop, 5);
        fx_read(f);
    }
}

static inline void fx_send(struct fixture *f, const void *data, size_t len)
{
    const uint8_t *at = data;

    while (len != 0) {
        ssize_t n = send(f->fd, at, len, MSG_NOSIGNAL);

        if (n < 0 && errno == EPIPE)
            return;
        if (n < 0) {
            cr_assert_eq(errno, EAGAIN);
            loop_run_once(f->loop, 0);
            fx_read(f);
            continue;
        }
        at += n;
        len -= (size_t)n;
    }
}

static inline const char *fx_text(struct fixture *f)
{
    *buf_reserve(&f->got, 1) = '\0';
    return (const char *)f->got.data;
}

static inline const char *fx_events(struct fixture *f)
{
    *buf_reserve(&f->events, 1) = '\0';
    return (const char *)f->events.data;
}

static inline size_t fx_count(const char *text, const char *what)
{
    size_t n = 0;

    for (const char *at = text; (at = strstr(at, what)) != NULL; at += strlen(what))
        n++;
    return n;
}

#endif
