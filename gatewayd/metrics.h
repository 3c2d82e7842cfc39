/*
 * GET /metrics: Prometheus text format 0.0.4. Names are etcd's wherever etcd has the figure, so its
 * dashboards and alerts work; conclave_* are ours. What raftd and stored know is asked for on each
 * scrape; while one of them is away its families are left out rather than shown stale.
 */
#ifndef CONCLAVE_GATEWAYD_METRICS_H
#define CONCLAVE_GATEWAYD_METRICS_H

struct gatewayd;
struct http_req;

void metrics_serve(struct gatewayd *gw, struct http_req *req);

#endif
