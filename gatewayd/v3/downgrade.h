/* Maintenance.Downgrade: whether the cluster may go back a minor release, and that it shall. */
#ifndef CONCLAVE_GATEWAYD_V3_DOWNGRADE_H
#define CONCLAVE_GATEWAYD_V3_DOWNGRADE_H

struct grpc_call;

void downgrade_request(struct grpc_call *call);

#endif
