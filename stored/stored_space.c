/*
 * The quota (etcd --quota-backend-bytes): gatewayd is told how full the keyspace is, and
 * asks here (ADMIT) before it proposes a write that may not fit. A write that does not fit
 * raises the NOSPACE alarm of this member, an entry like any other, and is refused when the alarm
 * is active: from then on every member refuses what grows, until somebody disarms it.
 *
 * What counts is what the keyspace needs, not what LevelDB happens to take on disk: deleting and
 * compacting then makes room at once. Nothing of this decides what an entry does when it is
 * executed; that is the alarm's alone, which is the same on every member.
 */
#include "stored/stored.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "lib/ipc/ipc.h"
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "stored/kv/store_alarms.h"

enum {
    TOLD_AGAIN_SHARE = 8,       /* of what was left */
    RAISE_AGAIN_MS = 500,       /* the entry may have been lost */
    WAITING_MAX = 65536,
};

/* A refused write that waits for the alarm. */
struct refused {
    struct list node;
    uint64_t gateway_generation, id;
};

uint64_t stored_used_bytes(const struct stored *s)
{
    struct kv_stats stats;

    kv_get_stats(s->kv, &stats);
    return stats.record_bytes;
}

static uint64_t left_bytes(const struct stored *s, uint64_t used)
{
    return used < s->quota_bytes ? s->quota_bytes - used : 0;
}

static bool is_active(const struct stored *s)
{
    const struct store_alarms *alarms = kv_alarms(s->kv);

    for (size_t i = 0; i < alarms->count; i++)
        if (alarms->list[i].member_id == s->member_id &&
            alarms->list[i].type == STORE_ALARM_NOSPACE)
            return true;
    return false;
}

/* ---- telling ---- */

static void tell(struct stored *s, struct stored_gateway *gw)
{
    struct buf *b = ipc_link_begin(gw->link, PROTO_SPACE, 0);

    if (b == NULL)
        return;
    proto_space_encode(b, &(struct proto_space){.used_bytes = s->space_told,
                                                .quota_bytes = s->quota_bytes});
    ipc_link_end(gw->link);
}

void stored_space_gateway_up(struct stored_gateway *gw)
{
    struct stored *s = gw->s;

    if (s->kv == NULL)
        return;
    s->space_told = stored_used_bytes(s);
    for (uint64_t i = 0; i < s->conf->gateway_count; i++)
        if (s->gateways[i].generation != 0)
            tell(s, &s->gateways[i]);
}

/* ---- the alarm ---- */

void stored_propose_own(struct stored *s, uint64_t term, enum proto_kind kind, struct bytes body)
{
    struct buf *b = ipc_link_begin(s->raftd, PROTO_PROPOSE_OWN, 0);

    if (b == NULL)
        return;
    proto_propose_own_encode(
        b, &(struct proto_propose_own){.term = term, .kind = kind, .body = body});
    ipc_link_end(s->raftd);
}

static void raise_alarm(struct stored *s)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT; /* an AlarmRequest */

    if (loop_timer_active(s->space_timer))
        return;
    loop_timer_start(s->space_timer, RAISE_AGAIN_MS, 0);
    log_warn("the keyspace needs %" PRIu64 " of %" PRIu64 " bytes: raising the NOSPACE alarm",
             stored_used_bytes(s), s->quota_bytes);
    pb_put_u64(&body, 1, 1); /* ACTIVATE */
    pb_put_u64(&body, 2, s->member_id);
    pb_put_u64(&body, 3, STORE_ALARM_NOSPACE);
    stored_propose_own(s, 0, PROTO_KIND_ALARM, buf_bytes(&body));
}

static void on_space_timer(void *user)
{
    struct stored *s = user;

    if (s->kv != NULL && !list_empty(&s->refused))
        raise_alarm(s);
}

static void answer_refused(struct stored *s)
{
    struct list *node;

    while ((node = list_pop_front(&s->refused)) != NULL) {
        struct refused *w = LIST_ENTRY(node, struct refused, node);

        for (uint64_t i = 0; i < s->conf->gateway_count; i++)
            if (s->gateways[i].generation == w->gateway_generation)
                stored_send_result(&s->gateways[i], w->id, OUT_NO_SPACE, BYTES_EMPTY);
        s->refused_count--;
        free(w);
    }
}

/* Something was executed: the figures moved, perhaps the alarm is active. */
void stored_space_changed(struct stored *s)
{
    uint64_t used, moved;

    if (s->quota_bytes == 0 || s->kv == NULL)
        return;
    used = stored_used_bytes(s);
    moved = used > s->space_told ? used - s->space_told : s->space_told - used;
    if (moved > 0 && moved >= left_bytes(s, s->space_told) / TOLD_AGAIN_SHARE) {
        s->space_told = used;
        for (uint64_t i = 0; i < s->conf->gateway_count; i++)
            if (s->gateways[i].generation != 0)
                tell(s, &s->gateways[i]);
    }
    if (list_empty(&s->refused) && used < s->quota_bytes)
        return;
    if (is_active(s))
        answer_refused(s);
    else
        raise_alarm(s);
}

int stored_space_admit(struct stored_gateway *gw, uint64_t id, struct bytes body)
{
    struct stored *s = gw->s;
    struct proto_u64 cost;
    struct refused *w;

    if (proto_u64_decode(body, &cost) != 0)
        return OUT_MALFORMED;
    if (s->quota_bytes == 0 || cost.value < left_bytes(s, stored_used_bytes(s)))
        return OUT_OK;
    if (is_active(s))
        return OUT_NO_SPACE;
    if (s->refused_count >= WAITING_MAX)
        return OUT_TOO_MANY_REQUESTS;
    w = xcalloc(1, sizeof(*w));
    w->gateway_generation = gw->generation;
    w->id = id;
    list_push_back(&s->refused, &w->node);
    s->refused_count++;
    raise_alarm(s);
    return -EINPROGRESS;
}

/* ---- life ---- */

void stored_space_init(struct stored *s)
{
    list_init(&s->refused);
    s->space_timer = loop_timer_new(s->loop, "space", on_space_timer, s);
}

void stored_space_fini(struct stored *s)
{
    struct list *node;

    while (s->refused.next != NULL && (node = list_pop_front(&s->refused)) != NULL)
        free(LIST_ENTRY(node, struct refused, node));
    loop_timer_free(s->space_timer);
    s->space_timer = NULL;
}
