/*
 * Questions that only the keeper of leases can answer: renewals and remaining times. A call (one or
 * many leases) goes this way:
 *
 *     fresh --no leader yet--> fresh          --leader elsewhere--> forwarded --answer--> done
 *       '--keeper here--> asked --barrier of this term, applied--> answered --> done
 *                                                     '--must wait for an entry--> parked -> fresh
 *
 * The barrier proves that this member still led when it was asked, which was after the call had
 * arrived. A leader elected later takes every lease whose deadline nobody stated as renewed when it
 * takes over, so a renewal holds, counted from that asking, under any leader (ARCHITECTURE.md
 * "Lease"). An answer that comes an election timeout later would say too much: it is asked for
 * again. All calls of a turn share a barrier, or a message to the leader.
 */
#include "stored/stored_leases.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "lib/ipc/ipc.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"
#include "stored/lease/lease_table.h"

enum {
    CALLS_MAX = 65536,         /* waiting at once; above it OUT_TOO_MANY_REQUESTS */
    CALL_LEASES_MAX = 8192,    /* of one call */
    FORWARD_LEASES_MAX = 4096, /* in one message to the leader, unless one call has more */
    FORWARD_AGAIN_MS = 1000,
    HOLD_MS = 50,              /* after a refusal, before asking again */
    REQUEST_TIMEOUT_BASE_MS = 5000, /* etcd: 5 s + 2 x election timeout */
    TIMEOUT_LEAD_MS = 200,          /* before gatewayd's own, whose text is less exact */
};

enum op { OP_KEEP_ALIVE = 1, OP_TTL };

struct item {
    int64_t id;
    int64_t ttl, granted; /* the answer; ttl -1 (OP_TTL) or 0 (OP_KEEP_ALIVE): there is none */
    uint8_t op;
    bool answered;
};

struct lease_call {
    struct list node;
    /* a gatewayd of this member, or */
    struct stored_gateway *gw;
    uint64_t gateway_generation, read_id;
    /* another member */
    uint64_t member_id, forward_id;
    uint64_t expires_ms;
    int64_t revision; /* before it */
    uint64_t wait_index; /* answered by the leader: as of this applied index there */
    bool with_keys;
    size_t count;
    struct item items[];
};

/* Calls that travelled to the leader together. */
struct forward {
    struct list node;
    uint64_t id, sent_ms;
    struct list calls;
};

static uint64_t now_ms(const struct stored *s)
{
    return loop_now_ms(s->loop);
}

static uint64_t applied_index(const struct stored *s)
{
    struct kv_state state;

    kv_get_state(s->kv, &state);
    return state.applied_index;
}

/* ---- answers ---- */

static void call_free(struct stored_leases *ls, struct lease_call *call)
{
    list_remove(&call->node);
    ls->call_count--;
    free(call);
}

static void send_reply(struct stored *s, const struct lease_call *call, int outcome)
{
    struct stored_leases *ls = s->leases;
    struct buf *b;

    buf_clear(&ls->scratch);
    wire_put_u64(&ls->scratch, applied_index(s));
    for (size_t i = 0; i < call->count; i++) {
        wire_put_i64(&ls->scratch, call->items[i].ttl);
        wire_put_i64(&ls->scratch, call->items[i].granted);
    }
    b = ipc_link_begin(s->raftd, PROTO_FORWARD_REPLY, call->forward_id);
    if (b == NULL)
        return;
    proto_forward_reply_encode(
        b, &(struct proto_forward_reply){.member_id = call->member_id,
                                         .outcome = (uint16_t)outcome,
                                         .body = outcome == OUT_OK ? buf_bytes(&ls->scratch)
                                                                   : BYTES_EMPTY});
    ipc_link_end(s->raftd);
}

static void put_keep_alive(struct stored *s, struct buf *out, const struct lease_call *call,
                           const struct item *item)
{
    struct kv_header header = stored_header(s);
    size_t at = out->len;
    uint32_t len;

    wire_put_u32(out, 0);
    kv_put_header(out, &header, call->revision);
    pb_put_i64(out, 2, item->id);
    pb_put_i64(out, 3, item->ttl);
    len = (uint32_t)(out->len - at - sizeof(len));
    memcpy(out->data + at, &len, sizeof(len));
}

static void put_ttl(struct stored *s, struct buf *out, const struct lease_call *call,
                    const struct item *item)
{
    struct kv_header header = stored_header(s);
    struct lease *l = lease_table_find(kv_leases(s->kv), item->id);
    struct bytes *keys;
    struct kv_state state;

    kv_get_state(s->kv, &state);
    kv_put_header(out, &header, state.revision);
    pb_put_i64(out, 2, item->id);
    pb_put_i64(out, 3, item->ttl);
    pb_put_i64(out, 4, item->granted);
    if (!call->with_keys || l == NULL || item->ttl < 0)
        return;
    keys = lease_keys_sorted(&l->keys);
    for (size_t i = 0; i < l->keys.count; i++)
        pb_put_message(out, 5, keys[i]);
    free(keys);
}

static void send_result(struct stored *s, const struct lease_call *call, int outcome)
{
    struct stored_leases *ls = s->leases;

    if (call->gw->generation != call->gateway_generation)
        return; /* it died, and its successor uses the same ids */
    buf_clear(&ls->scratch);
    for (size_t i = 0; i < call->count && outcome == OUT_OK; i++) {
        if (call->items[i].op == OP_KEEP_ALIVE)
            put_keep_alive(s, &ls->scratch, call, &call->items[i]);
        else
            put_ttl(s, &ls->scratch, call, &call->items[i]);
    }
    stored_send_result(call->gw, call->read_id, outcome,
                       outcome == OUT_OK ? buf_bytes(&ls->scratch) : BYTES_EMPTY);
}

static void finish(struct stored *s, struct lease_call *call, int outcome)
{
    if (call->gw != NULL)
        send_result(s, call, outcome);
    else
        send_reply(s, call, outcome);
    call_free(s->leases, call);
}

/* ---- the keeper answers ---- */

/* False: it has to wait. */
static bool answer_renewal(struct stored *s, struct item *item)
{
    struct stored_leases *ls = s->leases;
    struct lease *l = lease_table_find(kv_leases(s->kv), item->id);

    switch (lease_keeper_renew(&ls->keeper, l)) {
    case LEASE_RENEWED:
        ls->stats.renewed_total++;
        item->ttl = item->granted = l->ttl;
        return true;
    case LEASE_GONE:
        item->ttl = item->granted = 0;
        return true;
    case LEASE_MUST_CLEAR:
        lease_keeper_clear(&ls->keeper, l);
        wire_put_i64(&ls->clears, l->id);
        wire_put_u64(&ls->clears, 0);
        return false;
    case LEASE_WAIT:
        break;
    }
    return false;
}

static void answer_ttl(struct stored *s, struct item *item)
{
    struct lease *l = lease_table_find(kv_leases(s->kv), item->id);

    item->ttl = l != NULL ? lease_keeper_remaining(&s->leases->keeper, l) : -1;
    item->granted = l != NULL ? l->ttl : 0;
}

static bool answer_call(struct stored *s, struct lease_call *call)
{
    bool complete = true;

    for (size_t i = 0; i < call->count; i++) {
        struct item *item = &call->items[i];

        if (item->answered)
            continue;
        if (item->op == OP_TTL) {
            answer_ttl(s, item);
            item->answered = true;
        } else {
            item->answered = answer_renewal(s, item);
        }
        complete = complete && item->answered;
    }
    return complete;
}

/* All of `calls`: this member leads, as sure as can be, and has executed what was committed. */
static void answer_all(struct stored *s, struct list *calls)
{
    struct stored_leases *ls = s->leases;
    struct list *node;

    buf_clear(&ls->clears);
    while ((node = list_pop_front(calls)) != NULL) {
        struct lease_call *call = LIST_ENTRY(node, struct lease_call, node);

        if (answer_call(s, call))
            finish(s, call, OUT_OK);
        else
            list_push_back(&ls->parked, &call->node);
    }
    ls->seen_changes = kv_leases(s->kv)->change_count;
    if (ls->clears.len > 0)
        stored_leases_propose_clock(s, buf_bytes(&ls->clears));
}

static void move_all(struct list *from, struct list *to)
{
    struct list *node;

    while ((node = list_pop_front(from)) != NULL)
        list_push_back(to, node);
}

static void ask_barrier(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    if (list_empty(&ls->fresh) || ls->barrier_id != 0 || now_ms(s) < ls->hold_until_ms)
        return;
    if (stored_needs_no_barrier(s)) {
        answer_all(s, &ls->fresh);
        return;
    }
    move_all(&ls->fresh, &ls->asked);
    ls->barrier_id = ++s->last_barrier_id;
    ls->barrier_term = ls->term;
    ls->barrier_asked_ms = now_ms(s);
    ls->barrier_known = false;
    ipc_link_send(s->raftd, PROTO_READ_BARRIER, ls->barrier_id, BYTES_EMPTY);
}

static void ask_again(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    ls->barrier_id = 0;
    move_all(&ls->asked, &ls->fresh);
}

bool stored_leases_barrier_index(struct stored *s, uint64_t id, const struct proto_barrier_index *m)
{
    struct stored_leases *ls = s->leases;

    if (id == 0 || id != ls->barrier_id)
        return false;
    if (m->outcome != OUT_OK || m->term == 0 || m->term != ls->barrier_term) {
        ls->hold_until_ms = now_ms(s) + HOLD_MS;
        ask_again(s);
    } else {
        ls->barrier_known = true;
        ls->barrier_index = m->index;
    }
    loop_hook_arm(s->work_hook);
    return true;
}

static void serve_barrier(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    if (ls->barrier_id == 0 || !ls->barrier_known || ls->barrier_index > applied_index(s))
        return;
    if (stored_leases_clock_ms(NULL) - ls->barrier_asked_ms >= stored_leases_election_ms(s)) {
        ask_again(s); /* too much of the TTL it would be answered with is gone */
        return;
    }
    ls->barrier_id = 0;
    answer_all(s, &ls->asked);
}

/* ---- to the leader and back ---- */

static void forward_free(struct forward *f)
{
    assert(list_empty(&f->calls));
    list_remove(&f->node);
    free(f);
}

static size_t put_calls(struct forward *f, struct stored_leases *ls, struct buf *out)
{
    size_t leases = 0;

    while (!list_empty(&ls->fresh)) {
        struct lease_call *call = LIST_ENTRY(ls->fresh.next, struct lease_call, node);

        if (leases > 0 && leases + call->count > FORWARD_LEASES_MAX)
            break;
        for (size_t i = 0; i < call->count; i++) {
            wire_put_u8(out, call->items[i].op);
            wire_put_i64(out, call->items[i].id);
        }
        leases += call->count;
        list_remove(&call->node);
        list_push_back(&f->calls, &call->node);
    }
    return leases;
}

static void forward_fresh(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    while (!list_empty(&ls->fresh) && now_ms(s) >= ls->hold_until_ms) {
        struct forward *f;
        struct buf *b;

        /* what another member sent here is not sent on: it knows better by now */
        LIST_FOREACH_SAFE (it, tmp, &ls->fresh) {
            struct lease_call *call = LIST_ENTRY(it, struct lease_call, node);

            if (call->gw == NULL)
                finish(s, call, OUT_NOT_LEADER);
        }
        if (list_empty(&ls->fresh))
            return;
        f = xcalloc(1, sizeof(*f));
        list_init(&f->calls);
        list_push_back(&ls->forwards, &f->node);
        f->id = ++ls->last_forward_id;
        f->sent_ms = now_ms(s);
        b = ipc_link_begin(s->raftd, PROTO_FORWARD, f->id);
        if (b == NULL) {
            forward_free(f);
            return;
        }
        put_calls(f, ls, b);
        ipc_link_end(s->raftd);
    }
}

static void forward_again(struct stored *s, struct forward *f)
{
    move_all(&f->calls, &s->leases->fresh);
    forward_free(f);
}

static int take_answers(struct stored *s, struct forward *f, struct bytes body)
{
    struct wire_reader r = wire_reader(body);
    uint64_t index = wire_get_u64(&r);
    size_t count = 0;

    LIST_FOREACH (it, &f->calls)
        count += LIST_ENTRY(it, struct lease_call, node)->count;
    if (r.bad || (size_t)(r.end - r.pos) != count * 2 * sizeof(int64_t))
        return -EBADMSG;
    LIST_FOREACH (it, &f->calls) {
        struct lease_call *call = LIST_ENTRY(it, struct lease_call, node);

        call->wait_index = index;
        for (size_t i = 0; i < call->count; i++) {
            call->items[i].ttl = wire_get_i64(&r);
            call->items[i].granted = wire_get_i64(&r);
        }
    }
    move_all(&f->calls, &s->leases->answered);
    forward_free(f);
    loop_hook_arm(s->work_hook);
    return 0;
}

int stored_leases_forward_result(struct stored *s, uint64_t id, struct bytes body)
{
    struct stored_leases *ls = s->leases;
    struct proto_forward_result m;

    if (proto_forward_result_decode(body, &m) != 0)
        return -EBADMSG;
    LIST_FOREACH (it, &ls->forwards) {
        struct forward *f = LIST_ENTRY(it, struct forward, node);

        if (f->id != id)
            continue;
        if (m.outcome == OUT_OK)
            return take_answers(s, f, m.body);
        ls->hold_until_ms = now_ms(s) + HOLD_MS;
        forward_again(s, f);
        return 0;
    }
    return 0; /* it was asked again meanwhile */
}

/* Only the leader's state tells how long is left, its own what hangs on it. */
static void serve_answered(struct stored *s)
{
    uint64_t applied;

    if (list_empty(&s->leases->answered))
        return;
    applied = applied_index(s);
    LIST_FOREACH_SAFE (it, tmp, &s->leases->answered) {
        struct lease_call *call = LIST_ENTRY(it, struct lease_call, node);

        if (call->wait_index <= applied || call->items[0].op == OP_KEEP_ALIVE)
            finish(s, call, OUT_OK);
    }
}

/* ---- calls ---- */

static struct lease_call *call_new(struct stored *s, size_t count)
{
    struct lease_call *call = xcalloc(1, sizeof(*call) + count * sizeof(call->items[0]));
    struct kv_state state;

    kv_get_state(s->kv, &state);
    call->revision = state.revision;
    call->count = count;
    call->expires_ms =
        now_ms(s) + REQUEST_TIMEOUT_BASE_MS + 2 * stored_leases_election_ms(s) - TIMEOUT_LEAD_MS;
    list_push_back(&s->leases->fresh, &call->node);
    s->leases->call_count++;
    loop_hook_arm(s->work_hook);
    stored_leases_start_ticks(s);
    return call;
}

int stored_leases_forwarded(struct stored *s, uint64_t id, struct bytes body)
{
    enum { ITEM_BYTES = 1 + 8 };
    struct proto_forwarded m;
    struct lease_call *call;
    struct wire_reader r;

    if (proto_forwarded_decode(body, &m) != 0 || m.body.len == 0 || m.body.len % ITEM_BYTES != 0 ||
        m.body.len / ITEM_BYTES > CALL_LEASES_MAX)
        return -EBADMSG;
    call = call_new(s, m.body.len / ITEM_BYTES);
    call->member_id = m.member_id;
    call->forward_id = id;
    r = wire_reader(m.body);
    for (size_t i = 0; i < call->count; i++) {
        call->items[i].op = wire_get_u8(&r);
        call->items[i].id = wire_get_i64(&r);
        if (call->items[i].op != OP_KEEP_ALIVE && call->items[i].op != OP_TTL) {
            call_free(s->leases, call);
            return -EBADMSG;
        }
    }
    return 0;
}

static int decode_ttl_request(struct bytes body, int64_t *ret_id, bool *ret_keys)
{
    struct pb_reader r = pb_reader(body);
    struct pb_field f;

    *ret_id = 0;
    *ret_keys = false;
    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.type == PB_VARINT)
            *ret_id = (int64_t)f.value;
        else if (f.number == 2 && f.type == PB_VARINT)
            *ret_keys = f.value != 0;
    }
    return r.bad ? OUT_MALFORMED : OUT_OK;
}

static struct lease_call *call_from_gateway(struct stored_gateway *gw, uint64_t id, size_t count)
{
    struct lease_call *call = call_new(gw->s, count);

    call->gw = gw;
    call->gateway_generation = gw->generation;
    call->read_id = id;
    return call;
}

int stored_leases_read(struct stored_gateway *gw, uint64_t id, enum proto_read_kind kind,
                       struct bytes body)
{
    struct wire_reader r = wire_reader(body);
    struct lease_call *call;
    bool with_keys = false;
    int64_t lease = 0;

    if (gw->s->leases->call_count >= CALLS_MAX)
        return OUT_TOO_MANY_REQUESTS;
    if (kind == PROTO_READ_LEASE_TTL) {
        if (decode_ttl_request(body, &lease, &with_keys) != OUT_OK)
            return OUT_MALFORMED;
        call = call_from_gateway(gw, id, 1);
        call->items[0] = (struct item){.op = OP_TTL, .id = lease};
        call->with_keys = with_keys;
        return OUT_OK;
    }
    if (body.len == 0 || body.len % sizeof(int64_t) != 0 ||
        body.len / sizeof(int64_t) > CALL_LEASES_MAX)
        return OUT_MALFORMED;
    call = call_from_gateway(gw, id, body.len / sizeof(int64_t));
    for (size_t i = 0; i < call->count; i++)
        call->items[i] = (struct item){.op = OP_KEEP_ALIVE, .id = wire_get_i64(&r)};
    return OUT_OK;
}

static void expire_list(struct stored *s, struct list *calls)
{
    uint64_t now = now_ms(s);

    LIST_FOREACH_SAFE (it, tmp, calls) {
        struct lease_call *call = LIST_ENTRY(it, struct lease_call, node);

        if (call->expires_ms <= now)
            finish(s, call, stored_leases_has_leader(s) ? OUT_TIMEOUT : OUT_NO_LEADER);
    }
}

static void expire_calls(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    expire_list(s, &ls->fresh);
    expire_list(s, &ls->asked);
    expire_list(s, &ls->parked);
    expire_list(s, &ls->answered);
    LIST_FOREACH_SAFE (it, tmp, &ls->forwards) {
        struct forward *f = LIST_ENTRY(it, struct forward, node);

        expire_list(s, &f->calls);
        if (list_empty(&f->calls))
            forward_free(f);
        else if (f->sent_ms + FORWARD_AGAIN_MS <= now_ms(s))
            forward_again(s, f);
    }
}

/* ---- what stored_leases.c asks for ---- */

static void unanswer(struct list *calls)
{
    LIST_FOREACH (it, calls) {
        struct lease_call *call = LIST_ENTRY(it, struct lease_call, node);

        for (size_t i = 0; i < call->count; i++)
            call->items[i].answered = false;
    }
}

void lease_calls_step_down(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    ls->barrier_id = 0;
    move_all(&ls->asked, &ls->fresh);
    move_all(&ls->parked, &ls->fresh);
    unanswer(&ls->fresh); /* what was answered and not sent may not hold under the next one */
    while (!list_empty(&ls->forwards))
        forward_again(s, LIST_ENTRY(ls->forwards.next, struct forward, node));
    ls->hold_until_ms = 0;
}

void lease_calls_state_gone(struct stored *s)
{
    move_all(&s->leases->answered, &s->leases->fresh);
}

void lease_calls_keep(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    if (!list_empty(&ls->parked) && ls->seen_changes != kv_leases(s->kv)->change_count)
        move_all(&ls->parked, &ls->fresh);
    serve_barrier(s);
    ask_barrier(s);
}

void lease_calls_forward(struct stored *s)
{
    forward_fresh(s);
}

void lease_calls_answered(struct stored *s)
{
    serve_answered(s);
}

void lease_calls_tick(struct stored *s)
{
    expire_calls(s);
    move_all(&s->leases->parked, &s->leases->fresh);
}

void lease_calls_init(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    list_init(&ls->fresh);
    list_init(&ls->asked);
    list_init(&ls->parked);
    list_init(&ls->forwards);
    list_init(&ls->answered);
}

static void free_calls(struct stored_leases *ls, struct list *calls)
{
    while (!list_empty(calls))
        call_free(ls, LIST_ENTRY(calls->next, struct lease_call, node));
}

void lease_calls_fini(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    while (!list_empty(&ls->forwards))
        forward_again(s, LIST_ENTRY(ls->forwards.next, struct forward, node));
    free_calls(ls, &ls->fresh);
    free_calls(ls, &ls->asked);
    free_calls(ls, &ls->parked);
    free_calls(ls, &ls->answered);
    buf_fini(&ls->clears);
}
