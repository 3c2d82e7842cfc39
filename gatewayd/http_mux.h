/*
 * What the client port answers besides gRPC (etcd api/etcdhttp): /version, /health, /livez,
 * /readyz, /metrics, with CORS and the host check in front. One handler table serves the client
 * listeners, another the metrics listeners.
 */
#ifndef CONCLAVE_GATEWAYD_HTTP_MUX_H
#define CONCLAVE_GATEWAYD_HTTP_MUX_H

#include "lib/http/http_server.h"

extern const struct http_handler http_mux_client;  /* user: struct gatewayd */
extern const struct http_handler http_mux_metrics; /* user: struct gatewayd */

struct gatewayd;

/* What a client listener serves (http_req_tag): with listen-client-http-urls, etcd keeps the two
 * apart, so that long streams and short requests do not share a port. */
enum http_mux_tag { HTTP_MUX_ALL, HTTP_MUX_GRPC_ONLY, HTTP_MUX_HTTP_ONLY };

/* Answers with what every HTTP answer carries: CORS headers, and nosniff on errors. */
void http_mux_respond(struct http_req *req, const struct gatewayd *gw, int status,
                      const char *type, struct bytes body);

/* The same with further headers; and the beginning of an answer in pieces. */
void http_mux_respond_with(struct http_req *req, const struct gatewayd *gw, int status,
                           const char *type, const struct http_header *extra, size_t extra_count,
                           struct bytes body);
void http_mux_begin(struct http_req *req, const struct gatewayd *gw, int status, const char *type,
                    const struct http_header *extra, size_t extra_count);

/* Whether the query has the parameter, with this value unless want is NULL. */
bool http_query_has(struct bytes path, const char *name, const char *want);
/* The path without its query. */
struct bytes http_path_only(struct bytes path);

#endif
