/* KV.RangeStream: its handler and what goes with it in the method table of kv.c. */
#ifndef CONCLAVE_GATEWAYD_V3_RANGE_STREAM_H
#define CONCLAVE_GATEWAYD_V3_RANGE_STREAM_H

#include "gatewayd/grpc.h"

void range_stream(struct grpc_call *call);
void range_stream_on_drained(struct grpc_call *call);

#endif
