/*
 * /health, /livez and /readyz (etcd api/etcdhttp/health.go). A probe runs its checks one after the
 * other against stored and raftd, then answers with what failed.
 */
#ifndef CONCLAVE_GATEWAYD_HEALTH_H
#define CONCLAVE_GATEWAYD_HEALTH_H

struct gatewayd;
struct http_req;

void health_serve(struct gatewayd *gw, struct http_req *req);
void health_serve_livez(struct gatewayd *gw, struct http_req *req);
void health_serve_readyz(struct gatewayd *gw, struct http_req *req);

#endif
