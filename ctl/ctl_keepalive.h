/*
 * A lease kept alive: one request every third of its time, on a stream that is made again when it
 * breaks. It is lost when the server says so, or when no answer came for the lease's whole time.
 */
#ifndef CONCLAVE_CTL_CTL_KEEPALIVE_H
#define CONCLAVE_CTL_CTL_KEEPALIVE_H

#include "ctl/ctl_client.h"
#include "lib/proto/etcd/rpc.pb-c.h"

struct loop;
struct ctl_keepalive;

struct ctl_keepalive_handler {
    void (*on_alive)(void *user, const Etcdserverpb__LeaseKeepAliveResponse *r); /* may be NULL */
    void (*on_lost)(void *user); /* the last call; must still be freed */
};
struct ctl_keepalive *ctl_keepalive_new(struct loop *loop, struct ctl_client *client, int64_t lease,
                                        int64_t ttl, const struct ctl_keepalive_handler *handler,
                                        void *user);
void ctl_keepalive_free(struct ctl_keepalive *k); /* not from a callback */

#endif
