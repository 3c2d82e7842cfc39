#include "bench/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include "lib/http/http_client.h"
#include "lib/loop/loop.h"
#include "lib/tls/tls.h"
#include "lib/util/xmalloc.h"

enum {
    TICK_MS = 100,
    NS_PER_MS = 1000000,
};

struct session_client {
    struct http_client *client;
};

static void on_disconnected(void *user, struct http_client *client, int error)
{
    struct session_client *c = user;

    c->client = NULL;
    if (*http_client_tls_error(client) != '\0')
        fprintf(stderr, "conclave-bench: %s\n", http_client_tls_error(client));
    http_client_free(client);
}

int session_open(struct session *s, const struct load_options *options, size_t connections)
{
    static const struct http_client_handler handler = {.on_disconnected = on_disconnected};
    struct http_client_options how = {.version = HTTP_VERSION_2};
    int r;

    *s = (struct session){.options = options};
    s->loop = loop_new();
    s->clients = xcalloc(connections, sizeof(*s->clients));
    s->client_count = connections;
    r = load_tls_new(options, &s->tls);
    if (r != 0)
        return r;
    how.tls = s->tls;
    for (size_t i = 0; i < connections; i++) {
        const struct load_endpoint *e = &options->endpoints[i % options->endpoint_count];
        struct session_client *c = &s->clients[i];

        c->client = http_client_connect(s->loop, e->host, e->port, &how, &handler, c);
        if (c->client == NULL)
            return -errno;
    }
    return 0;
}

void session_close(struct session *s)
{
    for (size_t i = 0; i < s->client_count; i++)
        http_client_free(s->clients[i].client);
    free(s->clients);
    loop_timer_free(s->stop);
    loop_free(s->loop);
    tls_context_free(s->tls);
}

struct http_client *session_client(const struct session *s, size_t i)
{
    return s->clients[i].client;
}

void session_begin(struct session *s, void (*on_tick)(void *user), void *user)
{
    s->cpu_before_ns = load_cpu_ns();
    s->begin_ns = loop_clock_ns();
    s->end_ns = s->options->total != 0 ? 0 : s->begin_ns + s->options->duration_ns;
    s->stop = loop_timer_new(s->loop, "end of the run", on_tick, user);
    loop_timer_start(s->stop, TICK_MS, TICK_MS);
}

bool session_stuck(const struct session *s, uint64_t now_ns)
{
    return s->end_ns != 0 && now_ns > s->end_ns + (uint64_t)LOAD_STUCK_MS * NS_PER_MS;
}

void session_end(struct session *s, uint64_t last_ns, struct load_result *ret)
{
    ret->elapsed_ns = last_ns > s->begin_ns ? last_ns - s->begin_ns : 0;
    ret->cpu_ns = load_cpu_ns() - s->cpu_before_ns;
}
