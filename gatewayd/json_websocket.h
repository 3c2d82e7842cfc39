/*
 * The JSON gateway over WebSockets, for callers whose HTTP cannot stream both ways (browsers). A
 * request to upgrade at a path of the gateway becomes one call: each message, text or binary, is a
 * piece of the stream of JSON objects that a POST would have carried, each object of the answer is
 * one text message. When the call ends, so does the connection: an error is its last message.
 *
 * A browser cannot set headers here, so the token comes as subprotocol, "Bearer, <token>", or as the
 * cookie "token".
 *
 * etcd puts a proxy in front of its gateway (grpc-websocket-proxy); two things differ. It ends
 * connections without the closing handshake, which is made here, code 1000. And methods that are not
 * called by a stream wait there for an end that never comes; here they run on their first object,
 * except those whose request has a password: it would be left in buffers that nobody wipes.
 */
#ifndef CONCLAVE_GATEWAYD_JSON_WEBSOCKET_H
#define CONCLAVE_GATEWAYD_JSON_WEBSOCKET_H

#include <stdbool.h>
#include "lib/http/http_server.h"
#include "lib/util/bytes.h"

struct gatewayd;
struct grpc_call;

/* Does the client want another protocol, this one? */
bool json_websocket_wanted(const struct http_req *req);
/* From on_headers. HTTP_BODY_BUFFER: the handshake is refused, by on_request. */
enum http_body_mode json_websocket_on_headers(struct gatewayd *gw, struct http_req *req);
void json_websocket_on_request(struct gatewayd *gw, struct http_req *req);
/* Of a call whose json_call has a `ws`. */
void json_websocket_on_data(struct grpc_call *call, struct bytes data);

#endif
