/* Election service (etcd v3election.proto): declared, not offered yet. */
#include "gatewayd/grpc.h"

struct grpc_method grpc_election_methods[] = {
    {.service = "v3electionpb.Election", .name = "Campaign", .type = GRPC_UNARY},
    {.service = "v3electionpb.Election", .name = "Proclaim", .type = GRPC_UNARY},
    {.service = "v3electionpb.Election", .name = "Leader", .type = GRPC_UNARY},
    {.service = "v3electionpb.Election", .name = "Observe", .type = GRPC_SERVER_STREAM},
    {.service = "v3electionpb.Election", .name = "Resign", .type = GRPC_UNARY},
    {.name = NULL},
};
