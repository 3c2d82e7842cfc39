/* Auth service (etcd rpc.proto Auth): declared, not offered yet. */
#include "gatewayd/grpc.h"

struct grpc_method grpc_auth_methods[] = {
    {.service = "etcdserverpb.Auth", .name = "AuthEnable", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "AuthDisable", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "AuthStatus", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "Authenticate", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "UserAdd", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "UserGet", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "UserList", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "UserDelete", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "UserChangePassword", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "UserGrantRole", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "UserRevokeRole", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "RoleAdd", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "RoleGet", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "RoleList", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "RoleDelete", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "RoleGrantPermission", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Auth", .name = "RoleRevokePermission", .type = GRPC_UNARY},
    {.name = NULL},
};
