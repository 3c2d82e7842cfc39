/*
 * See gatewayd.h. Order of a process's life: links and servers are made in init, the sockets are
 * served from start. Requests that arrive before raftd and stored are there wait in the backend.
 */
#include "gatewayd/gatewayd.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "gatewayd/auth_cache.h"
#include "gatewayd/backend.h"
#include "gatewayd/client_tls.h"
#include "gatewayd/grpc.h"
#include "gatewayd/http_mux.h"
#include "gatewayd/json_codec.h"
#include "gatewayd/v3/contest.h"
#include "gatewayd/v3/health.h"
#include "gatewayd/watches.h"
#include "lib/daemon/daemon.h"
#include "lib/http/http_server.h"
#include "lib/log/log.h"
#include "lib/util/macros.h"

enum {
    INFLIGHT_BYTES_MAX = 256 << 20, /* request bodies waiting for raftd or stored */
    DRAIN_MS = 2000,                /* for the answers under way when asked to stop */
};

/* READY when clients can be served: both links up, and a leader known. */
static void on_backend_change(void *user)
{
    struct gatewayd *gw = user;
    const struct proto_raft_status *raft = backend_status(gw->backend);

    grpc_on_leader_change(gw->grpc);
    if (gw->ready || gw->stopping || !backend_ready(gw->backend) || raft->leader_id == 0)
        return;
    gw->ready = true;
    daemon_ready(gw->daemon);
    log_info("ready to serve client requests");
}

static void on_auth_changed(void *user)
{
    struct gatewayd *gw = user;

    if (gw->auth_cache != NULL)
        auth_cache_clear(gw->auth_cache);
}

static struct http_limits limits_of(const struct gatewayd_conf *conf)
{
    struct http_limits limits = http_limits_default;

    limits.streams_max = (uint32_t)conf->max_concurrent_streams;
    limits.ping_ms_min = conf->keepalive_min_time_ns / 1000000;
    limits.keepalive_ms = conf->keepalive_interval_ns / 1000000;
    limits.keepalive_timeout_ms = conf->keepalive_timeout_ns / 1000000;
    return limits;
}

int gatewayd_init(void *state, struct daemon *d)
{
    struct gatewayd *gw = state;
    struct http_limits limits;
    struct backend_args args;
    int r;

    gw->daemon = d;
    gw->loop = daemon_loop(d);
    gw->conf = daemon_conf(d);
    limits = limits_of(gw->conf);
    json_codec_init();
    list_init(&gw->withdrawals);
    list_init(&gw->health_watches);
    gw->stop_on_defragment =
        gw->conf->stop_grpc_on_defrag || grpc_health_gate(gw->conf->feature_gates);
    gw->watches = watches_new(gw->loop, &gw->backend);
    gw->grpc = grpc_service_new(gw);
    gw->server = http_server_new(gw->loop, &http_mux_client, gw, &limits);
    args = (struct backend_args){
        .loop = gw->loop,
        .run_dir = daemon_common(d)->run_dir,
        .gateway_index = (uint32_t)gw->conf->gateway_index,
        .generation = daemon_common(d)->generation,
        .inflight_bytes_max = INFLIGHT_BYTES_MAX,
        .on_change = on_backend_change,
        .watch_ops = &watches_backend_ops,
        .on_auth_changed = on_auth_changed,
        .user = gw,
    };
    r = backend_new(&args, &gw->backend);
    if (r == 0)
        gw->auth_cache = auth_cache_new(gw->loop, gw->backend);
    return r;
}

/* The supervisor marks what a listener is for with a prefix of its URL. */
static const char metrics_prefix[] = "metrics+", grpc_prefix[] = "grpc+", http_prefix[] = "http+";

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

static int listen_on(struct gatewayd *gw, int fd, const char *url)
{
    struct http_server **server = &gw->server;
    enum http_mux_tag tag = HTTP_MUX_ALL;
    bool tls;
    int own, r;

    if (starts_with(url, grpc_prefix)) {
        tag = HTTP_MUX_GRPC_ONLY;
        url += strlen(grpc_prefix);
    } else if (starts_with(url, http_prefix)) {
        tag = HTTP_MUX_HTTP_ONLY;
        url += strlen(http_prefix);
    } else if (starts_with(url, metrics_prefix)) {
        url += strlen(metrics_prefix);
        server = &gw->metrics_only;
        if (*server == NULL)
            *server = http_server_new(gw->loop, &http_mux_metrics, gw, &http_limits_default);
    }
    tls = starts_with(url, "https://") || starts_with(url, "unixs://");
    if (tls && (r = client_tls_open(gw)) < 0)
        return r;
    own = dup(fd); /* the server closes what it adopts; the daemon keeps its own */
    if (own < 0)
        return -errno;
    r = http_server_listen_tagged(*server, own, tls ? gw->tls : NULL, tag);
    if (r != 0)
        close(own);
    return r;
}

int gatewayd_start(void *state, struct daemon *d)
{
    struct gatewayd *gw = state;

    for (size_t i = 0; i < daemon_listen_count(d); i++) {
        const char *url;
        int fd = daemon_listen_fd(d, i, &url);
        int r = listen_on(gw, fd, url);

        if (r != 0) {
            log_error("cannot serve %s: %s", url, strerror(-r));
            return r;
        }
        log_info("serving %s", url);
    }
    return 0;
}

static void on_drained(void *user)
{
    struct gatewayd *gw = user;

    if (--gw->draining == 0)
        daemon_stopped(gw->daemon);
}

void gatewayd_stop(void *state)
{
    struct gatewayd *gw = state;

    gw->stopping = true;
    grpc_end_streams(gw->grpc);
    gw->draining = gw->metrics_only != NULL ? 2 : 1;
    http_server_drain(gw->server, DRAIN_MS, on_drained, gw);
    if (gw->metrics_only != NULL)
        http_server_drain(gw->metrics_only, DRAIN_MS, on_drained, gw);
}

void gatewayd_fini(void *state)
{
    struct gatewayd *gw = state;

    if (gw->server != NULL)
        http_server_free(gw->server);
    if (gw->metrics_only != NULL)
        http_server_free(gw->metrics_only);
    client_tls_close(gw);
    contests_abandon(gw);
    auth_cache_free(gw->auth_cache);
    backend_free(gw->backend);
    watches_free(gw->watches);
    grpc_service_free(gw->grpc);
}
