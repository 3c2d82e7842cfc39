/*
 * gRPC status: codes (grpc statuscodes.md), and the one table that turns an outcome into a code
 * and etcd's exact text (etcd api/v3rpc/rpctypes). etcd's Go clients recognise an error by its
 * text, so a text here is protocol.
 */
#ifndef CONCLAVE_GATEWAYD_GRPC_STATUS_H
#define CONCLAVE_GATEWAYD_GRPC_STATUS_H

#include "lib/util/buf.h"
#include "lib/util/bytes.h"

enum grpc_code {
    GRPC_OK = 0,
    GRPC_CANCELED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_ALREADY_EXISTS = 6,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_FAILED_PRECONDITION = 9,
    GRPC_ABORTED = 10,
    GRPC_OUT_OF_RANGE = 11,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_DATA_LOSS = 15,
    GRPC_UNAUTHENTICATED = 16,
    GRPC_CODE_COUNT
};

struct grpc_status {
    enum grpc_code code;
    const char *text; /* UTF-8, static */
};

/* Any value: one that is not in the table is UNKNOWN. */
struct grpc_status grpc_status_of_outcome(int outcome);

/* "OK", "Canceled", ... as grpc-go and its metrics spell them. */
const char *grpc_code_name(enum grpc_code code);

/* Appends `text` percent-encoded as the grpc-message header wants it (gRPC over HTTP/2,
 * "Percent-Encoded"). */
void grpc_message_encode(struct buf *b, struct bytes text);

#endif
