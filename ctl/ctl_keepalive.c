/* See ctl_keepalive.h. */
#include "ctl/ctl_keepalive.h"

#include <stdlib.h>
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum { AGAIN_MS = 500 };

struct ctl_keepalive {
    struct loop *loop;
    struct ctl_client *client;
    const struct ctl_keepalive_handler *handler;
    void *user;
    struct ctl_call *call;
    struct loop_timer *timer;  /* the next request, or the next stream */
    struct loop_timer *expiry; /* no answer for too long */
    int64_t lease, ttl;
    bool lost;
};

static void keepalive_lost(void *user)
{
    struct ctl_keepalive *k = user;

    if (k->lost)
        return;
    k->lost = true;
    loop_timer_stop(k->timer);
    loop_timer_stop(k->expiry);
    k->handler->on_lost(k->user);
}

static void on_message(void *user, struct bytes message)
{
    struct ctl_keepalive *k = user;
    Etcdserverpb__LeaseKeepAliveResponse *r =
        etcdserverpb__lease_keep_alive_response__unpack(NULL, message.len, message.data);

    if (r == NULL || k->lost) {
        etcdserverpb__lease_keep_alive_response__free_unpacked(r, NULL);
        return;
    }
    if (r->ttl <= 0) {
        keepalive_lost(k);
    } else {
        k->ttl = r->ttl;
        loop_timer_start(k->timer, (uint64_t)r->ttl * 1000 / 3, 0);
        loop_timer_start(k->expiry, (uint64_t)r->ttl * 1000, 0);
        if (k->handler->on_alive != NULL)
            k->handler->on_alive(k->user, r);
    }
    etcdserverpb__lease_keep_alive_response__free_unpacked(r, NULL);
}

static void on_done(void *user, int code, const char *message)
{
    struct ctl_keepalive *k = user;

    k->call = NULL;
    if (!k->lost)
        loop_timer_start(k->timer, AGAIN_MS, 0);
}

static void keepalive_send(void *user)
{
    static const struct ctl_call_handler handler = {.on_message = on_message, .on_done = on_done};
    struct ctl_keepalive *k = user;
    Etcdserverpb__LeaseKeepAliveRequest request = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;

    request.id = k->lease;
    if (k->call != NULL) {
        ctl_call_send(k->call, &request.base);
        return;
    }
    k->call =
        ctl_call_start(k->client, &(struct ctl_call_args){.method = &ctl_method_lease_keep_alive,
                                                          .request = &request.base,
                                                          .stream = true,
                                                          .require_leader = true,
                                                          .handler = &handler,
                                                          .user = k});
}

struct ctl_keepalive *ctl_keepalive_new(struct loop *loop, struct ctl_client *client, int64_t lease,
                                        int64_t ttl, const struct ctl_keepalive_handler *handler,
                                        void *user)
{
    struct ctl_keepalive *k = xcalloc(1, sizeof(*k));

    k->loop = loop;
    k->client = client;
    k->handler = handler;
    k->user = user;
    k->lease = lease;
    k->ttl = ttl;
    k->timer = loop_timer_new(loop, "keepalive", keepalive_send, k);
    k->expiry = loop_timer_new(loop, "lease", keepalive_lost, k);
    if (ttl > 0)
        loop_timer_start(k->expiry, (uint64_t)ttl * 1000, 0);
    keepalive_send(k);
    return k;
}

void ctl_keepalive_free(struct ctl_keepalive *k)
{
    if (k == NULL)
        return;
    ctl_call_free(k->call);
    loop_timer_free(k->timer);
    loop_timer_free(k->expiry);
    free(k);
}
