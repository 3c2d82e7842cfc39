/* Lock service (etcd v3lock.proto): declared, not offered yet. */
#include "gatewayd/grpc.h"

struct grpc_method grpc_lock_methods[] = {
    {.service = "v3lockpb.Lock", .name = "Lock", .type = GRPC_UNARY},
    {.service = "v3lockpb.Lock", .name = "Unlock", .type = GRPC_UNARY},
    {.name = NULL},
};
