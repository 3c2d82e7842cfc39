/* Granting leases, for the services that do so on a client's behalf (Lock, Election). */
#ifndef CONCLAVE_GATEWAYD_V3_LEASE_H
#define CONCLAVE_GATEWAYD_V3_LEASE_H

#include <stdint.h>
#include "lib/util/buf.h"

struct gatewayd;

/* An id that is most likely not in use in the cluster (etcd pkg/idutil). */
int64_t lease_id_choose(struct gatewayd *gw);
/* The body of a LEASE_GRANT; id 0: one is chosen. */
void lease_grant_encode(struct gatewayd *gw, struct buf *b, int64_t id, int64_t ttl);

#endif
