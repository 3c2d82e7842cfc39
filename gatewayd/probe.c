#include "gatewayd/probe.h"

#include "gatewayd/gatewayd.h"
#include "lib/http/http_server.h"

void probe_begin(struct probe *p, struct gatewayd *gw, struct http_req *req,
                 void (*free_probe)(struct probe *p))
{
    p->gw = gw;
    p->req = req;
    p->free_probe = free_probe;
    http_req_set_user(req, p);
}

void probe_on_closed(struct http_req *req)
{
    struct probe *p = http_req_user(req);

    if (p == NULL)
        return;
    backend_cancel(p->gw->backend, &p->backend);
    p->free_probe(p);
}
