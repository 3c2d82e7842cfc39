/*
 * grpc.health.v1.Health. Only the service name "" is known, and it is SERVING for the whole life of
 * the server, as in etcd. Watch is declared, not offered yet.
 */
#include "gatewayd/grpc.h"
#include "lib/proto/outcome.h"
#include "lib/wire/pb.h"

enum {
    CHECK_SERVICE = 1,  /* HealthCheckRequest.service */
    CHECK_STATUS = 1,   /* HealthCheckResponse.status */
    LIST_STATUSES = 1,  /* HealthListResponse.statuses, a map: entries {1: key, 2: value} */
    MAP_VALUE = 2,
    STATUS_SERVING = 1,
};

static void check(struct grpc_call *call)
{
    struct pb_reader r = pb_reader(call->message);
    struct pb_field field;
    CLEANUP(buf_fini) struct buf reply = BUF_INIT;
    bool known = true;

    while (pb_next(&r, &field))
        if (field.number == CHECK_SERVICE && field.type == PB_LENGTH)
            known = field.bytes.len == 0;
    if (r.bad) {
        grpc_fail_outcome(call, OUT_MALFORMED);
    } else if (!known) {
        grpc_fail(call, GRPC_NOT_FOUND, "unknown service");
    } else {
        pb_put_u64(&reply, CHECK_STATUS, STATUS_SERVING);
        grpc_reply(call, buf_bytes(&reply));
    }
}

static void list(struct grpc_call *call)
{
    CLEANUP(buf_fini) struct buf reply = BUF_INIT;
    CLEANUP(buf_fini) struct buf entry = BUF_INIT;
    CLEANUP(buf_fini) struct buf status = BUF_INIT;

    pb_put_u64(&status, CHECK_STATUS, STATUS_SERVING);
    pb_put_message(&entry, MAP_VALUE, buf_bytes(&status));
    pb_put_message(&reply, LIST_STATUSES, buf_bytes(&entry));
    grpc_reply(call, buf_bytes(&reply));
}

struct grpc_method grpc_health_methods[] = {
    {.service = "grpc.health.v1.Health", .name = "Check", .type = GRPC_UNARY, .handler = check},
    {.service = "grpc.health.v1.Health", .name = "List", .type = GRPC_UNARY, .handler = list},
    {.service = "grpc.health.v1.Health", .name = "Watch", .type = GRPC_SERVER_STREAM},
    {.name = NULL},
};
