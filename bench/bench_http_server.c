/*
 * The cost of the HTTP stage alone: a server on lib/http that answers every gRPC request with one
 * canned PutResponse (or with as many bytes as asked for) and everything else with "ok".
 *
 *   bench_http_server PORT [BODY_BYTES]
 *
 * Prints its CPU time per request whenever SIGUSR1 arrives, and at SIGINT or SIGTERM, then it ends.
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include "lib/http/http_server.h"
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

struct bench {
    struct loop *loop;
    struct http_server *server;
    struct bytes message;
    uint64_t cpu_us; /* at the last report */
    uint64_t requests;
};

static const uint8_t put_response[] = {
    0,    0,    0,    0,    0x1c, 0x0a, 0x1a, 0x08, 0xb2, 0xf8, 0xc6,
    0x8f, 0xb8, 0xa7, 0xfc, 0xe7, 0xcd, 0x01, 0x10, 0xcd, 0x92, 0xe5,
    0x8b, 0xab, 0xb8, 0xde, 0xa7, 0x8e, 0x18, 0xb4, 0x01, 0x20, 0x02,
};

static enum http_body_mode on_headers(void *user, struct http_req *req, size_t *body_bytes_max)
{
    return HTTP_BODY_BUFFER;
}

static void on_request(void *user, struct http_req *req)
{
    static const struct http_header type = HTTP_HEADER("content-type", "application/grpc");
    static const struct http_header ok = HTTP_HEADER("grpc-status", "0");
    const struct bench *bench = user;

    if (http_req_version(req) != HTTP_VERSION_2) {
        http_respond_text(req, 200, NULL, BYTES_LIT("ok\n"));
        return;
    }
    http_respond(req, &(struct http_response){.status = 200,
                                              .headers = &type,
                                              .header_count = 1,
                                              .body = &bench->message,
                                              .body_count = 1,
                                              .trailers = &ok,
                                              .trailer_count = 1});
}

static void on_closed(void *user, struct http_req *req)
{
}

static void report(void *user)
{
    struct bench *bench = user;
    struct rusage u;
    uint64_t cpu_us, requests = http_server_counters(bench->server)->requests_total;

    getrusage(RUSAGE_SELF, &u);
    cpu_us = (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000U +
             (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
    printf("%" PRIu64 " requests, %.2f us CPU each\n", requests - bench->requests,
           requests == bench->requests
               ? 0.0
               : (double)(cpu_us - bench->cpu_us) / (double)(requests - bench->requests));
    fflush(stdout);
    bench->cpu_us = cpu_us;
    bench->requests = requests;
}

static void on_stop(void *user)
{
    struct bench *bench = user;

    report(bench);
    loop_stop(bench->loop);
}

int main(int argc, char **argv)
{
    static const struct http_handler handler = {
        .on_headers = on_headers,
        .on_request = on_request,
        .on_closed = on_closed,
    };
    struct bench bench = {.message = bytes_of(put_response, sizeof(put_response))};
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    size_t body = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    struct loop_signal *signals[3];
    int fd;

    if (argc < 2) {
        fprintf(stderr, "usage: %s PORT [BODY_BYTES]\n", argv[0]);
        return 1;
    }
    if (body >= 5) {
        uint8_t *m = xcalloc(1, body);
        uint32_t len = htonl((uint32_t)(body - 5));

        memcpy(m + 1, &len, 4);
        bench.message = bytes_of(m, body);
    }
    addr.sin_port = htons((uint16_t)strtoul(argv[1], NULL, 10));
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 || listen(fd, 1024) != 0) {
        perror("listen");
        return 1;
    }
    bench.loop = loop_new();
    bench.server = http_server_new(bench.loop, &handler, &bench, NULL);
    if (http_server_listen(bench.server, fd) != 0)
        return 1;
    signals[0] = loop_signal_new(bench.loop, SIGUSR1, report, &bench);
    signals[1] = loop_signal_new(bench.loop, SIGINT, on_stop, &bench);
    signals[2] = loop_signal_new(bench.loop, SIGTERM, on_stop, &bench);
    loop_run(bench.loop);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        loop_signal_free(signals[i]);
    http_server_free(bench.server);
    loop_free(bench.loop);
    if (body >= 5)
        free((void *)bench.message.data);
    return 0;
}
