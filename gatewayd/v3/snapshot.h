/* Maintenance.Snapshot, for the method table of maintenance.c. */
#ifndef CONCLAVE_GATEWAYD_V3_SNAPSHOT_H
#define CONCLAVE_GATEWAYD_V3_SNAPSHOT_H

struct grpc_call;

void grpc_snapshot(struct grpc_call *call);

#endif
