/* Watch service (etcd rpc.proto Watch): declared, not offered yet. */
#include "gatewayd/grpc.h"

struct grpc_method grpc_watch_methods[] = {
    {.service = "etcdserverpb.Watch", .name = "Watch", .type = GRPC_BIDI_STREAM},
    {.name = NULL},
};
