/*
 * gRPC on lib/http's client, as far as a load generator needs it: calls whose messages are made
 * beforehand, what a call's end means, and messages put together again from data.
 */
#ifndef CONCLAVE_BENCH_GRPC_CALL_H
#define CONCLAVE_BENCH_GRPC_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include "lib/util/buf.h"

struct http_call;
struct http_call_handler;
struct http_client;

/* How a call ended: a gRPC code (0 is OK), or one of these. */
enum {
    GRPC_NOT_FOUND = 5,
    GRPC_CODES = 17,
    GRPC_NO_STATUS = GRPC_CODES, /* an answer without one */
    GRPC_BROKEN,                 /* reset, or the connection was lost */
    GRPC_OUTCOMES,
};

/* path is a literal; messages are finished ones, one after the other, or none. open: more follow
 * with http_call_data. NULL: the connection is over. */
struct http_call *grpc_call_start(struct http_client *client, const char *path,
                                  struct bytes messages, bool open,
                                  const struct http_call_handler *handler, void *user);
/* In on_closed. */
size_t grpc_call_outcome(const struct http_call *call, int error);

/* A finished message: the bytes appended to b between these two, with gRPC's prefix. */
size_t grpc_message_begin(struct buf *b);
void grpc_message_end(struct buf *b, size_t begin);

/* Calls on_message for each message that is complete with this data. `rest` is what is left over
 * from one call to the next; empty before the first. */
void grpc_messages(struct buf *rest, struct bytes data,
                   void (*on_message)(void *user, struct bytes message), void *user);

#endif
