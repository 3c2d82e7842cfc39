/*
 * Cluster service (etcd rpc.proto Cluster). The member list is replicated state, so stored answers
 * it; changes of membership are declared, not offered yet.
 */
#include "gatewayd/grpc.h"
#include "lib/proto/outcome.h"
#include "lib/wire/pb.h"

enum { MEMBER_LIST_LINEARIZABLE = 1 }; /* field number; 3.4 clients do not have it */

static void member_list(struct grpc_call *call)
{
    struct pb_reader r = pb_reader(call->message);
    struct pb_field field;
    bool linearizable = false;

    while (pb_next(&r, &field))
        if (field.number == MEMBER_LIST_LINEARIZABLE && field.type == PB_VARINT)
            linearizable = field.value != 0;
    if (r.bad)
        grpc_fail_outcome(call, OUT_MALFORMED);
    else
        grpc_forward_read(call, PROTO_READ_MEMBERS, linearizable);
}

struct grpc_method grpc_cluster_methods[] = {
    {.service = "etcdserverpb.Cluster", .name = "MemberAdd", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Cluster", .name = "MemberRemove", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Cluster", .name = "MemberUpdate", .type = GRPC_UNARY},
    {.service = "etcdserverpb.Cluster", .name = "MemberList", .type = GRPC_UNARY,
     .handler = member_list},
    {.service = "etcdserverpb.Cluster", .name = "MemberPromote", .type = GRPC_UNARY},
    {.name = NULL},
};
