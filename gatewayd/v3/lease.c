/* Lease service (etcd rpc.proto Lease): declared, not offered yet. */
#include "gatewayd/grpc.h"

struct grpc_method grpc_lease_methods[] = {
    {.service = "etcdserverpb.Lease", .name = "LeaseGrant", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Lease", .name = "LeaseRevoke", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Lease", .name = "LeaseKeepAlive", .type = GRPC_BIDI_STREAM},
    {.service = "etcdserverpb.Lease", .name = "LeaseTimeToLive", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Lease", .name = "LeaseLeases", .type = GRPC_UNARY},
    {.name = NULL},
};
