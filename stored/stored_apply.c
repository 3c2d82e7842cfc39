/*
 * Committed entries: collected while the input of a turn is handled, then executed as one batch of
 * the engine. Answers leave with the turn; the engine writes behind (ARCHITECTURE.md decision 4).
 *
 * When the engine is full nothing is executed until it has written: the applied index stands
 * still and the link's credit stays used, which raftd sees and throttles by.
 */
#include "stored/stored.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/ipc/ipc.h"
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"
#include "stored/stored_auth.h"

enum {
    CLOCK_CHECK_ENTRIES = 64,       /* executed between two looks at the clock */
    COMMITTED_KEEP_BYTES = 1 << 20, /* of buffer kept between turns */
};

/* The answer of a compaction that waits for the physical removal. */
struct stored_held {
    struct list node;
    uint64_t gateway_generation, request_id;
    int64_t revision;
    size_t len;
    uint8_t message[];
};

static struct stored_gateway *find_gateway(struct stored *s, uint64_t generation)
{
    for (uint64_t i = 0; i < s->conf->gateway_count; i++) {
        if (s->gateways[i].generation == generation)
            return &s->gateways[i];
    }
    return NULL;
}

/* The gatewayd that waits for the answer of this entry, if it is one of ours and still there. */
static struct stored_gateway *who_waits(struct stored *s, const struct proto_entry *entry,
                                        uint64_t *ret_request_id)
{
    struct proto_payload payload;

    if (entry->data.len == 0 || proto_payload_decode(entry->data, &payload) != 0)
        return NULL;
    if (payload.origin_member != s->member_id || payload.origin_generation == 0)
        return NULL;
    *ret_request_id = payload.request_id;
    return find_gateway(s, payload.origin_generation);
}

static void hold_answer(struct stored *s, const struct stored_gateway *gw, uint64_t id,
                        int64_t revision)
{
    struct stored_held *held = xmalloc(sizeof(*held) + s->scratch.len);

    held->gateway_generation = gw->generation;
    held->request_id = id;
    held->revision = revision;
    held->len = s->scratch.len;
    memcpy(held->message, s->scratch.data, s->scratch.len);
    list_push_back(&s->held, &held->node);
}

void stored_apply_release_held(struct stored *s)
{
    int64_t finished;

    if (list_empty(&s->held))
        return;
    finished = kv_compact_finished_revision(s->kv);
    LIST_FOREACH_SAFE(it, tmp, &s->held)
    {
        struct stored_held *held = LIST_ENTRY(it, struct stored_held, node);
        struct stored_gateway *gw;

        if (held->revision > finished && kv_compact_unfinished(s->kv))
            continue;
        gw = find_gateway(s, held->gateway_generation);
        if (gw != NULL)
            stored_send_result(gw, held->request_id, OUT_OK, bytes_of(held->message, held->len));
        list_remove(it);
        free(held);
    }
}

void stored_apply_drop_held(struct stored *s)
{
    struct list *node;

    while ((node = list_pop_front(&s->held)) != NULL)
        free(LIST_ENTRY(node, struct stored_held, node));
}

static int apply_one(struct stored *s, const struct proto_entry *entry)
{
    struct kv_header header = {s->cluster_id, s->member_id, entry->term};
    struct kv_answer answer = {.header = &header, .message = &s->scratch};
    uint64_t request_id = 0;
    struct stored_gateway *gw = who_waits(s, entry, &request_id);
    int r;

    buf_clear(&s->scratch);
    r = kv_apply(s->kv, entry, gw != NULL ? &answer : NULL);
    if (r >= 0)
        stored_auth_tell(s); /* before the answer: who hears it may count on it */
    if (r < 0 || gw == NULL)
        return r < 0 ? r : 0;
    if (r == OUT_OK && answer.wait_compact_revision > kv_compact_finished_revision(s->kv))
        hold_answer(s, gw, request_id, answer.wait_compact_revision);
    else
        stored_send_result(gw, request_id, r, r == OUT_OK ? buf_bytes(&s->scratch) : BYTES_EMPTY);
    return 0;
}

static void drop_executed(struct stored *s)
{
    buf_clear(&s->committed);
    if (s->committed.cap > COMMITTED_KEEP_BYTES)
        buf_trim(&s->committed, COMMITTED_KEEP_BYTES);
    s->committed_pos = 0;
}

void stored_apply_reset(struct stored *s)
{
    drop_executed(s);
    s->out_of_order = false;
}

/* raftd sent what cannot be executed. Its next connection starts from our applied index. */
static void refuse(struct stored *s, const char *why, uint64_t index)
{
    log_error("refused entry %" PRIu64 " from raftd: %s; executing nothing more from this link",
              index, why);
    stored_apply_reset(s);
    s->out_of_order = true;
}

void stored_apply_committed(struct stored *s, struct bytes body)
{
    if (s->out_of_order || s->failed)
        return;
    buf_append_bytes(&s->committed, body);
    ipc_link_set_held(s->raftd, s->committed.len - s->committed_pos);
    loop_hook_arm(s->work_hook);
}

void stored_apply_work(struct stored *s)
{
    uint64_t applied, deadline, looked = 0;
    struct wire_reader r;
    struct kv_state state;
    int result = 0;

    if (s->committed_pos == s->committed.len || s->failed)
        return;
    if (engine_leveldb_is_full(s->engine))
        return; /* `written` arms the hook again */
    kv_get_state(s->kv, &state);
    applied = state.applied_index;
    deadline = loop_clock_ns() + STORED_APPLY_SLICE_NS;
    r = wire_reader(
        bytes_of(s->committed.data + s->committed_pos, s->committed.len - s->committed_pos));
    stored_auth_before_apply(s);
    kv_begin_turn(s->kv);
    while (r.pos < r.end) {
        struct proto_entry entry;

        if (proto_entry_read(&r, &entry) != 0) {
            refuse(s, "it does not decode", applied + 1);
            break;
        }
        s->committed_pos = (size_t)(r.pos - s->committed.data);
        if (entry.index <= applied)
            continue; /* raftd did not know yet that we have it */
        if (entry.index != applied + 1) {
            refuse(s, "an entry before it is missing", entry.index);
            break;
        }
        result = apply_one(s, &entry);
        if (result < 0)
            break;
        applied = entry.index;
        s->report_now = s->report_now || entry.type == PROTO_ENTRY_CONF || entry.data.len == 0;
        if (++looked % CLOCK_CHECK_ENTRIES == 0 && loop_clock_ns() >= deadline)
            break;
    }
    if (result < 0) {
        CLEANUP(freep)
        char *text =
            xasprintf("cannot execute entry %" PRIu64 ": %s", applied + 1, strerror(-result));

        stored_fatal(s, text);
        return;
    }
    kv_end_turn(s->kv);
    ipc_link_set_held(s->raftd, s->committed.len - s->committed_pos);
    if (s->committed_pos == s->committed.len)
        drop_executed(s);
    else
        loop_hook_arm(s->work_hook);
    stored_after_apply(s);
}

/*
 * raftd trims its log by this and throttles by thousands of entries; only a configuration change
 * and a leader's first entry are waited for. A message per turn would cost both daemons as much as
 * the turn itself when turns are small.
 */
void stored_apply_report_soon(struct stored *s)
{
    struct kv_state state;

    if (!s->raftd_up)
        return;
    kv_get_state(s->kv, &state);
    if (s->report_now || kv_tables_generation(s->kv) != s->tables_generation ||
        state.applied_index >= s->reported_index + STORED_REPORT_ENTRIES)
        stored_apply_report(s);
    else if (state.applied_index != s->reported_index && !loop_timer_active(s->report_timer))
        loop_timer_start(s->report_timer, STORED_REPORT_MS, 0);
}

void stored_apply_report(struct stored *s)
{
    struct kv_state state;
    uint64_t durable;
    struct buf *b;

    s->report_now = false;
    loop_timer_stop(s->report_timer);
    if (!s->raftd_up || s->kv == NULL)
        return;
    kv_get_state(s->kv, &state);
    durable = kv_durable_index(s->kv);
    if (state.applied_index == s->reported_index && durable == s->reported_durable)
        return;
    b = ipc_link_begin(s->raftd, PROTO_APPLIED, 0);
    if (b == NULL)
        return;
    proto_applied_encode(b, &(struct proto_applied){.applied_index = state.applied_index,
                                                    .durable_index = durable,
                                                    .chain_hash = state.chain_hash});
    ipc_link_end(s->raftd);
    s->reported_index = state.applied_index;
    s->reported_durable = durable;
}
