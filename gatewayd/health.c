#include "gatewayd/health.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "gatewayd/backend.h"
#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc_status.h"
#include "gatewayd/http_mux.h"
#include "gatewayd/probe.h"
#include "lib/http/http_server.h"
#include "lib/proto/etcd/rpc.pb-c.h"
#include "lib/proto/outcome.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

enum check {
    CHECK_ALARMS,            /* /health: any alarm that is not excluded */
    CHECK_LEADER,            /* /health */
    CHECK_DATA_CORRUPTION,
    CHECK_SERIALIZABLE_READ,
    CHECK_LINEARIZABLE_READ,
    CHECK_NON_LEARNER,
    CHECK_COUNT
};

static const char *const check_names[CHECK_COUNT] = {
    [CHECK_DATA_CORRUPTION] = "data_corruption",
    [CHECK_SERIALIZABLE_READ] = "serializable_read",
    [CHECK_LINEARIZABLE_READ] = "linearizable_read",
    [CHECK_NON_LEARNER] = "non_learner",
};

struct health_probe {
    struct probe base;
    enum check checks[CHECK_COUNT];
    size_t check_count;
    size_t next;
    bool health;              /* JSON of /health rather than text of livez and readyz */
    char *errors[CHECK_COUNT]; /* by position in checks; NULL: passed */
    bool failed;
};

/* RangeRequest{key: "\0"}: the cheapest read there is. */
static const struct bytes probe_range = BYTES_LIT("\x0a\x01\x00");

static void run_next(struct health_probe *p);

static void probe_free(struct probe *base)
{
    struct health_probe *p = CONTAINER_OF(base, struct health_probe, base);

    for (size_t i = 0; i < CHECK_COUNT; i++)
        free(p->errors[i]);
    free(p);
}

static void respond_health(struct health_probe *p)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;

    if (p->failed)
        p->base.gw->health_failures++;
    else
        p->base.gw->health_success++;
    buf_appendf(&body, "{\"health\":\"%s\",\"reason\":\"", p->failed ? "false" : "true");
    for (size_t i = 0; i < p->check_count; i++)
        if (p->errors[i] != NULL)
            buf_appendf(&body, "%s", p->errors[i]);
    buf_appendf(&body, p->failed ? "\"}\n" : "\"}");
    http_mux_respond(p->base.req, p->base.gw, p->failed ? 503 : 200, "text/plain; charset=utf-8",
                     buf_bytes(&body));
}

static void respond_checks(struct health_probe *p)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;
    bool verbose = p->failed || http_query_has(http_req_path(p->base.req), "verbose", NULL);

    for (size_t i = 0; verbose && i < p->check_count; i++) {
        if (p->errors[i] == NULL)
            buf_appendf(&body, "[+]%s ok\n", check_names[p->checks[i]]);
        else
            buf_appendf(&body, "[-]%s failed: %s\n", check_names[p->checks[i]], p->errors[i]);
    }
    buf_appendf(&body, p->failed ? "\n" : "ok\n");
    http_mux_respond(p->base.req, p->base.gw, p->failed ? 503 : 200, "text/plain; charset=utf-8",
                     buf_bytes(&body));
}

/* Takes the error text; NULL: passed. /health stops at the first failure, as etcd does. */
static void check_done(struct health_probe *p, char *error)
{
    p->errors[p->next++] = error;
    p->failed = p->failed || error != NULL;
    if (p->next < p->check_count && !(p->health && p->failed))
        run_next(p);
    else if (p->health)
        respond_health(p);
    else
        respond_checks(p);
}

static char *alarm_error(const struct health_probe *p, struct bytes alarms, enum check check)
{
    struct wire_reader r = wire_reader(alarms);

    while (r.pos < r.end && !r.bad) {
        const char *name = "UNKNOWN";
        uint32_t type;

        wire_get_u64(&r);
        type = wire_get_u32(&r);
        if (type == ETCDSERVERPB__ALARM_TYPE__NOSPACE)
            name = "NOSPACE";
        else if (type == ETCDSERVERPB__ALARM_TYPE__CORRUPT)
            name = "CORRUPT";
        if (check == CHECK_DATA_CORRUPTION) {
            if (type == ETCDSERVERPB__ALARM_TYPE__CORRUPT)
                return xstrdup("alarm activated: CORRUPT");
        } else if (!http_query_has(http_req_path(p->base.req), "exclude", name)) {
            return xasprintf("ALARM %s", name);
        }
    }
    return NULL;
}

static void on_status(struct backend_call *backend, int outcome, struct bytes part,
                      uint64_t total_bytes)
{
    struct health_probe *p = CONTAINER_OF(backend, struct health_probe, base.backend);
    struct proto_store_status store;

    if (outcome == OUT_OK && proto_store_status_decode(part, &store) != 0)
        outcome = OUT_INTERNAL;
    if (outcome != OUT_OK)
        check_done(p, xstrdup(grpc_status_of_outcome(outcome).text));
    else
        check_done(p, alarm_error(p, store.alarms, p->checks[p->next]));
}

static void on_range(struct backend_call *backend, int outcome, struct bytes part,
                     uint64_t total_bytes)
{
    struct health_probe *p = CONTAINER_OF(backend, struct health_probe, base.backend);
    const char *text = grpc_status_of_outcome(outcome).text;

    /* a probe is nobody: that it is told so shows that reads work (etcd api/etcdhttp health.go) */
    if (outcome == OUT_OK || outcome == OUT_USER_EMPTY)
        check_done(p, NULL);
    else
        check_done(p, p->health ? xasprintf("RANGE ERROR:%s", text) : xstrdup(text));
}

static void run_next(struct health_probe *p)
{
    const struct proto_raft_status *raft = backend_status(p->base.gw->backend);

    switch (p->checks[p->next]) {
    case CHECK_ALARMS:
    case CHECK_DATA_CORRUPTION:
        p->base.backend.done = on_status;
        p->base.backend.body = BYTES_EMPTY;
        backend_read(p->base.gw->backend, &p->base.backend, PROTO_READ_STATUS, false);
        return;
    case CHECK_LEADER:
        check_done(p, raft->leader_id == 0 ? xstrdup("RAFT NO LEADER") : NULL);
        return;
    case CHECK_SERIALIZABLE_READ:
    case CHECK_LINEARIZABLE_READ:
        p->base.backend.done = on_range;
        p->base.backend.body = probe_range;
        backend_read(p->base.gw->backend, &p->base.backend, PROTO_READ_RANGE,
                     p->checks[p->next] == CHECK_LINEARIZABLE_READ);
        return;
    case CHECK_NON_LEARNER:
        check_done(p, raft->is_learner ? xstrdup("not supported for learner") : NULL);
        return;
    case CHECK_COUNT:
        break;
    }
    PANIC("no such check");
}

static struct health_probe *probe_new(struct gatewayd *gw, struct http_req *req)
{
    struct health_probe *p = xcalloc(1, sizeof(*p));

    probe_begin(&p->base, gw, req, probe_free);
    return p;
}

void health_serve(struct gatewayd *gw, struct http_req *req)
{
    struct health_probe *p = probe_new(gw, req);
    bool serializable = http_query_has(http_req_path(req), "serializable", "true");

    p->health = true;
    p->checks[p->check_count++] = CHECK_ALARMS;
    if (!serializable)
        p->checks[p->check_count++] = CHECK_LEADER;
    p->checks[p->check_count++] = serializable ? CHECK_SERIALIZABLE_READ : CHECK_LINEARIZABLE_READ;
    run_next(p);
}

/* The checks of `all`, or the one named below the root path, without those excluded. */
static void serve_checks(struct gatewayd *gw, struct http_req *req, const char *root,
                         const enum check *all, size_t all_count)
{
    struct bytes path = http_path_only(http_req_path(req));
    struct bytes only = bytes_of(path.data + strlen(root), path.len - strlen(root));
    struct health_probe *p = probe_new(gw, req);

    for (size_t i = 0; i < all_count; i++) {
        const char *name = check_names[all[i]];

        if (only.len != 0 && !bytes_eq(bytes_of(only.data + 1, only.len - 1), bytes_str(name)))
            continue;
        if (only.len == 0 && http_query_has(http_req_path(req), "exclude", name))
            continue;
        p->checks[p->check_count++] = all[i];
    }
    if (p->check_count != 0)
        run_next(p);
    else if (only.len == 0)
        respond_checks(p); /* everything excluded */
    else
        http_mux_respond(req, gw, 404, "text/plain; charset=utf-8",
                         BYTES_LIT("404 page not found\n"));
}

void health_serve_livez(struct gatewayd *gw, struct http_req *req)
{
    static const enum check all[] = {CHECK_SERIALIZABLE_READ};

    serve_checks(gw, req, "/livez", all, ARRAY_LEN(all));
}

void health_serve_readyz(struct gatewayd *gw, struct http_req *req)
{
    static const enum check all[] = {CHECK_DATA_CORRUPTION, CHECK_SERIALIZABLE_READ,
                                     CHECK_LINEARIZABLE_READ, CHECK_NON_LEARNER};

    serve_checks(gw, req, "/readyz", all, ARRAY_LEN(all));
}
