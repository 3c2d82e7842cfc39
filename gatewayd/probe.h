/*
 * What health checks and metrics share: an object that belongs to one HTTP request, is kept in its
 * user slot, asks the backend, and dies with the request.
 */
#ifndef CONCLAVE_GATEWAYD_PROBE_H
#define CONCLAVE_GATEWAYD_PROBE_H

#include "gatewayd/backend.h"

struct gatewayd;
struct http_req;

struct probe {
    struct backend_call backend;
    struct gatewayd *gw;
    struct http_req *req;
    void (*free_probe)(struct probe *p);
};

/* Takes over `p`, which its maker embedded and zeroed. */
void probe_begin(struct probe *p, struct gatewayd *gw, struct http_req *req,
                 void (*free_probe)(struct probe *p));
/* From on_closed of every request that is not gRPC. */
void probe_on_closed(struct http_req *req);

#endif
