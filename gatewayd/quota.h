/*
 * Writes against the member's quota. Most certainly fit, by what stored told last, and go straight
 * on; the others are asked about first (PROTO_READ_ADMIT), which also raises the alarm.
 */
#ifndef CONCLAVE_GATEWAYD_QUOTA_H
#define CONCLAVE_GATEWAYD_QUOTA_H

#include <stdint.h>
#include "lib/proto/messages.h"

struct grpc_call;

/* Proposes the call's message as this kind if `cost` bytes more are allowed; else the call ends with
 * OUT_NO_SPACE. Cost 0 always is. */
void quota_forward_proposal(struct grpc_call *call, enum proto_kind kind, uint64_t cost);

#endif
