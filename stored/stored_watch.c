/*
 * Watches: the messages of each gatewayd to its hub of watchers, and the turns in which the hubs
 * get to work. One log of recent events serves all hubs.
 */
#include "stored/stored.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/ipc/ipc.h"
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/proto/watch.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "stored/kv/kv_auth.h"
#include "stored/watch/watch.h"
#include "stored/watch/watch_log.h"

enum {
    LOG_BYTES = 8 << 20,    /* of recent events, beyond what has to stay */
    WATCHERS_MAX = 1 << 20, /* per gatewayd */
    WINDOW_UNITS = 512 << 10,
    SMALL_WINDOW_UNITS = 64 << 10, /* when all streams together have not acknowledged: */
    ALL_UNITS = 64 << 20,
    TICK_MS = 500,               /* how old the head may be that a gatewayd knows */
    DISPATCH_SLICE_NS = 4000000, /* per turn that executed something */
    WORK_SLICE_NS = 1000000,     /* per turn for watchers that are behind */
};

static struct buf *link_begin(void *user, uint16_t type, uint64_t id)
{
    struct stored_gateway *gw = user;

    return ipc_link_begin(gw->link, type, id);
}

static void link_end(void *user)
{
    struct stored_gateway *gw = user;

    ipc_link_end(gw->link);
}

static bool link_writable(void *user)
{
    struct stored_gateway *gw = user;

    return ipc_link_writable(gw->link);
}

static const struct watch_sink link_sink = {link_begin, link_end, link_writable};

static struct watch_hub *hub_of(struct stored_gateway *gw)
{
    if (gw->watches == NULL)
        gw->watches = watch_hub_new(&(struct watch_hub_args){
            .log = gw->s->watch_log,
            .sink = &link_sink,
            .user = gw,
            .watchers_max = WATCHERS_MAX,
            .window_units = WINDOW_UNITS,
            .all_units = ALL_UNITS,
            .small_window_units = SMALL_WINDOW_UNITS,
            .stall_ms = gw->s->conf->watch_stall_ns != 0 ? gw->s->conf->watch_stall_ns / 1000000
                                                         : UINT64_MAX,
        });
    return gw->watches;
}

static int check_rights(struct stored *s, const struct proto_watch_create *m)
{
    const struct auth_op op = {AUTH_OP_READ, m->key, m->range_end};

    if (s->kv == NULL)
        return OUT_STOPPED;
    return (m->flags & PROTO_WATCH_AGAIN) != 0 ? kv_auth_check_again(s->kv, m->identity, &op)
                                               : kv_auth_check(s->kv, m->identity, &op);
}

static void create(struct stored_gateway *gw, uint32_t id, const struct proto_watch_create *m)
{
    int outcome = check_rights(gw->s, m);

    if (outcome != OUT_OK)
        watch_hub_refuse(hub_of(gw), id, outcome);
    else
        watch_hub_create(hub_of(gw), id, m);
    loop_hook_arm(gw->s->work_hook);
}

int stored_watch_frame(struct stored_gateway *gw, uint16_t type, uint64_t id, struct bytes body)
{
    struct watch_hub *hub = hub_of(gw);
    struct proto_watch_progress progress;
    struct proto_watch_create m;
    struct proto_u64 units;

    if (id > UINT32_MAX)
        return -EBADMSG;
    switch (type) {
    case PROTO_WATCH_CREATE:
        if (proto_watch_create_decode(body, &m) != 0)
            return -EBADMSG;
        create(gw, (uint32_t)id, &m);
        break;
    case PROTO_WATCH_CANCEL:
        watch_hub_cancel(hub, (uint32_t)id);
        break;
    case PROTO_WATCH_CLOSE:
        watch_hub_close(hub, (uint32_t)id);
        break;
    case PROTO_WATCH_ACK:
        if (proto_u64_decode(body, &units) != 0)
            return -EBADMSG;
        watch_hub_ack(hub, (uint32_t)id, units.value, loop_now_ms(gw->s->loop));
        loop_hook_arm(gw->s->work_hook);
        break;
    case PROTO_WATCH_PROGRESS:
        if (proto_watch_progress_decode(body, &progress) != 0)
            return -EBADMSG;
        watch_hub_progress(hub, (uint32_t)id, progress.whole_stream);
        break;
    default:
        return -EPROTO;
    }
    return 0;
}

void stored_watch_gateway_down(struct stored_gateway *gw)
{
    watch_hub_free(TAKE(gw->watches));
}

static void failed(struct stored *s, int r)
{
    CLEANUP(freep) char *text = xasprintf("watch: the log cannot be read: %s", strerror(-r));

    stored_fatal(s, text);
}

void stored_watch_applied(struct stored *s)
{
    uint64_t deadline = loop_clock_ns() + DISPATCH_SLICE_NS;
    int64_t needed = INT64_MAX;

    for (uint64_t i = 0; i < s->conf->gateway_count; i++) {
        struct watch_hub *hub = s->gateways[i].watches;
        int r = hub != NULL ? watch_hub_dispatch(hub, deadline, loop_now_ms(s->loop)) : 0;

        if (r < 0) {
            failed(s, r);
            return;
        }
        if (r > 0)
            loop_hook_arm(s->work_hook);
        if (hub != NULL)
            needed = MIN(needed, watch_hub_needs_above(hub));
    }
    watch_log_trim(s->watch_log, needed);
}

void stored_watch_work(struct stored *s)
{
    uint64_t deadline = loop_clock_ns() + WORK_SLICE_NS;

    for (uint64_t i = 0; i < s->conf->gateway_count; i++) {
        struct watch_hub *hub = s->gateways[i].watches;
        int r, more;

        if (hub == NULL)
            continue;
        /* the link may be writable again, or there was too much for the last turn */
        more = watch_hub_dispatch(hub, deadline, loop_now_ms(s->loop));
        r = more >= 0 ? watch_hub_work(hub, deadline, loop_now_ms(s->loop)) : more;
        if (r < 0) {
            failed(s, r);
            return;
        }
        if (r > 0 || more > 0)
            loop_hook_arm(s->work_hook);
    }
}

static void on_tick(void *user)
{
    struct stored *s = user;

    if (s->kv == NULL || s->failed)
        return;
    for (uint64_t i = 0; i < s->conf->gateway_count; i++) {
        if (s->gateways[i].watches != NULL)
            watch_hub_tick(s->gateways[i].watches, loop_now_ms(s->loop));
    }
}

void stored_watch_state_open(struct stored *s)
{
    watch_log_attach(s->watch_log, s->kv);
    for (uint64_t i = 0; i < s->conf->gateway_count; i++) {
        if (s->gateways[i].watches != NULL)
            watch_hub_restart(s->gateways[i].watches, loop_now_ms(s->loop));
    }
}

void stored_watch_state_close(struct stored *s)
{
    if (s->watch_log != NULL)
        watch_log_attach(s->watch_log, NULL);
}

void stored_watch_init(struct stored *s)
{
    s->watch_log = watch_log_new(LOG_BYTES);
    s->watch_timer = loop_timer_new(s->loop, "watch tick", on_tick, s);
    loop_timer_start(s->watch_timer, TICK_MS, TICK_MS);
}

void stored_watch_fini(struct stored *s)
{
    for (uint64_t i = 0; s->gateways != NULL && i < s->conf->gateway_count; i++)
        stored_watch_gateway_down(&s->gateways[i]);
    watch_log_free(TAKE(s->watch_log));
    loop_timer_free(s->watch_timer);
    s->watch_timer = NULL;
}
