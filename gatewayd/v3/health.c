#include "gatewayd/v3/health.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc.h"
#include "lib/conf/conf.h"
#include "lib/proto/outcome.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"

enum {
    CHECK_SERVICE = 1,  /* HealthCheckRequest.service */
    CHECK_STATUS = 1,   /* HealthCheckResponse.status */
    LIST_STATUSES = 1,  /* HealthListResponse.statuses, a map: entries {1: key, 2: value} */
    MAP_VALUE = 2,
    STATUS_SERVING = 1,
    STATUS_NOT_SERVING = 2,
    STATUS_SERVICE_UNKNOWN = 3,
};

/* A client that is told of every change. */
struct health_watch {
    struct list node; /* in gw->health_watches */
    struct grpc_call *call;
    unsigned int told;
};

static unsigned int status_now(const struct gatewayd *gw)
{
    return gw->defragments != 0 ? STATUS_NOT_SERVING : STATUS_SERVING;
}

/* 0, or OUT_MALFORMED. */
static int decode_service(struct bytes message, struct bytes *ret)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field field;

    *ret = BYTES_EMPTY;
    while (pb_next(&r, &field))
        if (field.number == CHECK_SERVICE && field.type == PB_LENGTH)
            *ret = field.bytes;
    return r.bad ? OUT_MALFORMED : OUT_OK;
}

static void check(struct grpc_call *call)
{
    CLEANUP(buf_fini) struct buf reply = BUF_INIT;
    struct bytes service;

    if (decode_service(call->message, &service) != OUT_OK) {
        grpc_fail_outcome(call, OUT_MALFORMED);
    } else if (service.len != 0) {
        grpc_fail(call, GRPC_NOT_FOUND, "unknown service");
    } else {
        pb_put_u64(&reply, CHECK_STATUS, status_now(call->gw));
        grpc_reply(call, buf_bytes(&reply));
    }
}

static void list(struct grpc_call *call)
{
    CLEANUP(buf_fini) struct buf reply = BUF_INIT;
    CLEANUP(buf_fini) struct buf entry = BUF_INIT;
    CLEANUP(buf_fini) struct buf status = BUF_INIT;

    pb_put_u64(&status, CHECK_STATUS, status_now(call->gw));
    pb_put_message(&entry, MAP_VALUE, buf_bytes(&status));
    pb_put_message(&reply, LIST_STATUSES, buf_bytes(&entry));
    grpc_reply(call, buf_bytes(&reply));
}

/* ---- Watch ---- */

static void tell(struct health_watch *w, unsigned int status)
{
    CLEANUP(buf_fini) struct buf message = BUF_INIT;

    w->told = status;
    pb_put_u64(&message, CHECK_STATUS, status);
    grpc_stream_send(w->call, buf_bytes(&message));
}

static void free_watch(struct grpc_call *call)
{
    struct health_watch *w = call->state;

    list_remove(&w->node);
    free(w);
}

/* A service that is not there may come one day, so its watch stays open; here none comes. */
static void watch(struct grpc_call *call)
{
    struct health_watch *w;
    struct bytes service;

    if (decode_service(call->message, &service) != OUT_OK) {
        grpc_fail_outcome(call, OUT_MALFORMED);
        return;
    }
    w = xcalloc(1, sizeof(*w));
    w->call = call;
    list_init(&w->node);
    call->state = w;
    call->free_state = free_watch;
    grpc_call_waits(call);
    if (service.len == 0)
        list_push_back(&call->gw->health_watches, &w->node);
    tell(w, service.len == 0 ? status_now(call->gw) : STATUS_SERVICE_UNKNOWN);
}

/* A client that does not read misses what is over by now, not what is. */
static void tell_change(struct health_watch *w)
{
    unsigned int status = status_now(w->call->gw);

    if (!w->call->ended && w->told != status && w->told != STATUS_SERVICE_UNKNOWN &&
        grpc_stream_queued(w->call) == 0)
        tell(w, status);
}

static void watch_drained(struct grpc_call *call)
{
    tell_change(call->state);
}

static void tell_all(struct gatewayd *gw)
{
    LIST_FOREACH(it, &gw->health_watches)
        tell_change(LIST_ENTRY(it, struct health_watch, node));
}

void grpc_health_defragment_begins(struct gatewayd *gw)
{
    if (gw->defragments++ == 0)
        tell_all(gw);
}

void grpc_health_defragment_ends(struct gatewayd *gw)
{
    assert(gw->defragments > 0);
    if (--gw->defragments == 0)
        tell_all(gw);
}

bool grpc_health_gate(const char *feature_gates)
{
    CLEANUP(freep) char *copy = xstrdup(feature_gates);
    char *rest = copy, *item;
    bool all = false, own = false, named = false;

    while ((item = strsep(&rest, ",")) != NULL) {
        char *name = strsep(&item, "=");

        if (item == NULL)
            continue; /* the supervisor has checked them */
        if (strcmp(name, "AllAlpha") == 0)
            conf_parse_bool(item, &all);
        else if (strcmp(name, "StopGRPCServiceOnDefrag") == 0)
            named = conf_parse_bool(item, &own) == 0;
    }
    return named ? own : all;
}

struct grpc_method grpc_health_methods[] = {
    {.service = "grpc.health.v1.Health", .name = "Check", .type = GRPC_UNARY, .handler = check},
    {.service = "grpc.health.v1.Health", .name = "List", .type = GRPC_UNARY, .handler = list},
    {.service = "grpc.health.v1.Health", .name = "Watch", .type = GRPC_SERVER_STREAM,
     .handler = watch, .on_drained = watch_drained},
    {.name = NULL},
};
