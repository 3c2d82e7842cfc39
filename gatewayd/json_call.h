/*
 * For the two ways JSON reaches a client, json_gateway.c (HTTP) and json_websocket.c: a call's JSON
 * side, and what both do with it.
 */
#ifndef CONCLAVE_GATEWAYD_JSON_CALL_H
#define CONCLAVE_GATEWAYD_JSON_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include "gatewayd/grpc.h"
#include "lib/proto/etcd/rpc.pb-c.h"
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

struct json_websocket;

/* Its grpc_call's writer_state. */
struct json_call {
    const ProtobufCMethodDescriptor *types;
    struct buf request; /* unary: its wire form; bidirectional: the beginning of a JSON object */
    struct buf framed;  /* of the answer: what does not make a whole message yet */
    struct buf line;    /* scratch */
    struct json_websocket *ws; /* json_websocket.c's own; NULL: HTTP */
};

/* The method that the request's path names. NULL: none. */
struct grpc_method *json_find_method(struct gatewayd *gw, const struct http_req *req,
                                     const ProtobufCMethodDescriptor **ret_types);
struct grpc_call *json_call_begin(struct gatewayd *gw, struct http_req *req,
                                  struct grpc_method *method, const ProtobufCMethodDescriptor *types,
                                  const struct grpc_writer *writer);
/* The writer's `closed`, for both. */
void json_call_closed(struct grpc_call *call);

/* How much JSON one call may have waiting. */
size_t json_body_limit(const struct gatewayd *gw);

/* Takes whole objects off the front of j->request, for the method; `last`: nothing follows. */
void json_take_messages(struct grpc_call *call, bool last);
/* Adds pieces to j->framed, takes whole messages off its front and gives each to put. */
void json_take_frames(struct grpc_call *call, const struct bytes *pieces, size_t piece_count,
                      void (*put)(struct grpc_call *call, struct bytes message));

/* {"code":...,"message":...} */
void json_put_status(struct buf *b, enum grpc_code code, const char *text);
/* {"result":...} into j->line, without an end of line. Negative errno: the message is malformed. */
int json_make_result(struct grpc_call *call, struct bytes message);
/* j->line has left. */
void json_line_done(struct json_call *j);

#endif
