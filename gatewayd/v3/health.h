/*
 * grpc.health.v1.Health. The service "" is the only one there is. It is serving, except, where the
 * settings say so (etcd: StopGRPCServiceOnDefrag), while a client of this gatewayd has the member
 * defragment. Losing the leader changes nothing, as in etcd: /health and /readyz tell that.
 */
#ifndef CONCLAVE_GATEWAYD_V3_HEALTH_H
#define CONCLAVE_GATEWAYD_V3_HEALTH_H

#include <stdbool.h>

struct gatewayd;

/* Who watches is told when the first one begins and when the last one has ended. */
void grpc_health_defragment_begins(struct gatewayd *gw);
void grpc_health_defragment_ends(struct gatewayd *gw);

/* Does a list A=true,B=false turn StopGRPCServiceOnDefrag on? AllAlpha does when it is not named. */
bool grpc_health_gate(const char *feature_gates);

#endif
