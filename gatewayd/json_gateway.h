/*
 * The JSON gateway (etcd's grpc-gateway): POST /v3/... with a JSON body, over HTTP/1.1 or HTTP/2,
 * for every method that has a path there. It stands in front of the same handlers as gRPC, as a
 * grpc_writer. Answers are those of grpc-gateway v2, as etcd 3.6 and later have it.
 *
 * A request of a stream in both directions is a sequence of JSON objects; the answer of a stream is
 * one line {"result":...} per message, and {"error":...} at a bad end.
 */
#ifndef CONCLAVE_GATEWAYD_JSON_GATEWAY_H
#define CONCLAVE_GATEWAYD_JSON_GATEWAY_H

#include <stdbool.h>
#include "lib/http/http_server.h"

struct gatewayd;

/* Whether the gateway is on and the path is below /v3/ or /v3beta/. Then what follows is called, and
 * grpc_on_drained and grpc_on_closed. */
bool json_gateway_is_request(const struct gatewayd *gw, const struct http_req *req);

enum http_body_mode json_gateway_on_headers(struct gatewayd *gw, struct http_req *req,
                                            size_t *body_bytes_max);
void json_gateway_on_request(struct gatewayd *gw, struct http_req *req);
void json_gateway_on_too_large(struct gatewayd *gw, struct http_req *req);
void json_gateway_on_data(struct gatewayd *gw, struct http_req *req, struct bytes data);
void json_gateway_on_end(struct gatewayd *gw, struct http_req *req);

#endif
