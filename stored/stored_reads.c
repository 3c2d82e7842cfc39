/*
 * Reads. One that needs no barrier and has room on its link is answered in the handler, without an
 * allocation. The others wait as a struct stored_read:
 *
 *     arrived --> barrier (one READ_BARRIER per turn for all) --> applied >= index --+
 *        |                                                                          |
 *        +--> blocked (link full, or our identity not known yet) <------------------+
 *                      |
 *                      +--> answered; a large answer goes on as `active`, in parts
 *
 * Active answers take turns, one part each, for STORED_READ_SLICE_NS per loop turn, as far as
 * their link is writable and their window open. So a large range delays neither applying nor
 * other reads, and a slow client holds one window.
 *
 * A barrier's answer stays good when the link to raftd breaks (the read arrived before it was
 * given). An unanswered one is asked for again.
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
#include "lib/proto/kv_check.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "stored/kv/kv.h"
#include "stored/kv/kv_auth.h"
#include "stored/kv/store_alarms.h"
#include "stored/stored_auth.h"
#include "stored/stored_export.h"

enum {
    BARRIER_RETRY_MS = 100, /* while there is no leader */
    HASH_RECORDS_PER_STEP = 500,
    SLICE_CHECK_PARTS = 4, /* parts between two looks at the clock */
};

struct stored_read {
    struct list node; /* in a barrier, gw->blocked or s->active */
    struct stored_gateway *gw;
    uint64_t id;
    /* active */
    struct kv_range *range;
    struct kv_hash *hash;
    struct buf hash_message;
    struct stored_export *export;
    uint64_t sent_bytes, acked_bytes;
    /* waiting */
    enum proto_read_kind kind;
    size_t stamp_len, body_len;
    uint8_t bytes[]; /* stamp, body */
};

static uint64_t applied_index(const struct stored *s)
{
    struct kv_state state;

    kv_get_state(s->kv, &state);
    return state.applied_index;
}

struct kv_header stored_header(const struct stored *s)
{
    return (struct kv_header){s->cluster_id, s->member_id, s->role.term};
}

/* ---- answering ---- */

void stored_send_result(struct stored_gateway *gw, uint64_t id, int outcome, struct bytes message)
{
    uint64_t total = message.len;

    assert(outcome >= 0 && outcome < OUT_COUNT);
    assert(outcome == OUT_OK || message.len == 0);
    do {
        size_t len = MIN(message.len, (size_t)STORED_RESULT_PART_BYTES);
        struct buf *b = ipc_link_begin(gw->link, PROTO_RESULT, id);

        if (b == NULL)
            return; /* the gatewayd that asked is gone */
        proto_result_encode(b, &(struct proto_result){.outcome = (uint16_t)outcome,
                                                      .total_bytes = total,
                                                      .part = bytes_of(message.data, len)});
        ipc_link_end(gw->link);
        if (len == message.len)
            return;
        message.data += len;
        message.len -= len;
    } while (message.len > 0);
}

static void put_status(struct stored *s, struct buf *out)
{
    CLEANUP(buf_fini) struct buf alarms = BUF_INIT;
    struct engine_leveldb_stats engine;
    struct kv_state state;
    struct kv_stats stats;

    engine_leveldb_get_stats(s->engine, &engine);
    kv_get_state(s->kv, &state);
    kv_get_stats(s->kv, &stats);
    store_alarms_encode(kv_alarms(s->kv), &alarms);
    proto_store_status_encode(out,
                              &(struct proto_store_status){
                                  .revision = state.revision,
                                  .compact_revision = state.compact_revision,
                                  .applied_index = state.applied_index,
                                  .durable_index = kv_durable_index(s->kv),
                                  .db_bytes = engine.disk_bytes,
                                  .db_bytes_in_use = MIN(stored_used_bytes(s), engine.disk_bytes),
                                  .quota_bytes = s->quota_bytes,
                                  .key_count = stats.key_count,
                                  .chain_hash = state.chain_hash,
                                  .put_total = stats.put_total,
                                  .delete_total = stats.delete_total,
                                  .txn_total = stats.txn_total,
                                  .range_total = stats.range_total,
                                  .write_batch_count = engine.write_count,
                                  .write_batch_ns_sum = engine.write_ns_sum,
                                  .cache_bytes = stats.cache_bytes + stats.unwritten_bytes,
                                  .index_bytes = stats.index_bytes,
                                  .cluster_version = kv_cluster_version(s->kv),
                                  .downgrade = kv_downgrade(s->kv),
                                  .alarms = buf_bytes(&alarms),
                              });
}

static int decode_hash_kv(struct bytes message, int64_t *ret_revision)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;
    int64_t revision = 0;

    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.type == PB_VARINT)
            revision = (int64_t)f.value;
    }
    if (r.bad)
        return OUT_MALFORMED;
    *ret_revision = revision;
    return OUT_OK;
}

static void start_parts(struct stored_gateway *gw, uint64_t id, struct kv_range *range,
                        struct kv_hash *hash, struct stored_export *export)
{
    struct stored_read *read = xcalloc(1, sizeof(*read));

    read->gw = gw;
    read->id = id;
    read->range = range;
    read->hash = hash;
    read->export = export;
    assert(hmap_get(&gw->reads, id) == NULL);
    hmap_put(&gw->reads, id, read);
    list_push_back(&gw->s->active, &read->node);
    loop_hook_arm(gw->s->work_hook);
}

/* 0 or an outcome: s->scratch is the answer. -EINPROGRESS: it follows in parts. */
static int execute(struct stored_gateway *gw, uint64_t id, const struct proto_read *m)
{
    struct stored *s = gw->s;
    struct bytes body = m->body;
    struct kv_header header = stored_header(s);
    struct buf *out = &s->scratch;
    struct kv_range_request range_request;
    struct kv_range *range = NULL;
    struct kv_hash *hash = NULL;
    struct stored_export *export;
    int64_t revision;
    int r;

    buf_clear(out);
    r = kv_auth_admit_read(s->kv, m->kind, m->identity, body);
    if (r != OUT_OK)
        return r;
    switch (m->kind) {
    case PROTO_READ_RANGE:
        r = kv_decode_range(body, &range_request);
        if (r == OUT_OK)
            r = kv_check_range(&range_request);
        if (r != OUT_OK)
            return r;
        r = kv_range_now(s->kv, &range_request, &header, STORED_PART_BYTES, out);
        if (r != -E2BIG)
            return r;
        buf_clear(out);
        r = kv_range_new(s->kv, &range_request, &header, &range);
        if (r != 0)
            return r;
        start_parts(gw, id, range, NULL, NULL);
        return -EINPROGRESS;
    case PROTO_READ_TXN:
        return kv_txn_read(s->kv, body, &header, out);
    case PROTO_READ_MEMBERS:
        kv_member_list(s->kv, &header, out);
        return 0;
    case PROTO_READ_ALARMS:
        kv_alarm_list(s->kv, body, &header, out);
        return 0;
    case PROTO_READ_HASH_KV:
        r = decode_hash_kv(body, &revision);
        if (r == 0)
            r = kv_hash_new(s->kv, revision, &header, &hash);
        if (r != 0)
            return r;
        start_parts(gw, id, NULL, hash, NULL);
        return -EINPROGRESS;
    case PROTO_READ_SNAPSHOT:
        export = stored_export_new(s);
        if (export == NULL)
            return OUT_TOO_MANY_REQUESTS;
        start_parts(gw, id, NULL, NULL, export);
        return -EINPROGRESS;
    case PROTO_READ_STATUS:
        put_status(s, out);
        return 0;
    case PROTO_READ_METRICS:
        stored_metrics(s, out);
        return 0;
    case PROTO_READ_DEFRAGMENT:
        return stored_defragment(gw, id);
    case PROTO_READ_ADMIT:
        return stored_space_admit(gw, id, body);
    case PROTO_READ_AUTH_IDENTITY:
    case PROTO_READ_AUTH_LOGIN:
    case PROTO_READ_AUTH_HASH:
        return stored_auth_read(gw, id, m->kind, body);
    case PROTO_READ_AUTH_NEED:
        return 0; /* admitted */
    case PROTO_READ_AUTH_STATUS:
    case PROTO_READ_USER_GET:
    case PROTO_READ_USER_LIST:
    case PROTO_READ_ROLE_GET:
    case PROTO_READ_ROLE_LIST:
        return kv_auth_read(s->kv, m->kind, m->identity, body, &header, out);
    case PROTO_READ_LEASES:
        stored_leases_list(s, out);
        return 0;
    default:
        break;
    }
    return OUT_UNIMPLEMENTED;
}

/* A password is not left in memory that is used for something else next. */
static bool is_secret(enum proto_read_kind kind)
{
    return kind == PROTO_READ_AUTH_LOGIN || kind == PROTO_READ_AUTH_HASH;
}

static void forget_secret(const struct proto_read *m)
{
    if (is_secret(m->kind))
        explicit_bzero((void *)(uintptr_t)m->body.data, m->body.len);
}

static void serve(struct stored_gateway *gw, uint64_t id, const struct proto_read *m)
{
    struct stored *s = gw->s;
    int r = execute(gw, id, m);

    forget_secret(m);
    if (r == -EINPROGRESS)
        return;
    if (r < 0) {
        log_error("read of kind %d: %s", (int)m->kind, strerror(-r));
        stored_send_result(gw, id, OUT_INTERNAL, BYTES_EMPTY);
        stored_fatal(s, "the engine cannot be read");
        return;
    }
    stored_send_result(gw, id, r, r == OUT_OK ? buf_bytes(&s->scratch) : BYTES_EMPTY);
    if (s->scratch.cap > STORED_RESULT_PART_BYTES) {
        buf_clear(&s->scratch);
        buf_trim(&s->scratch, STORED_RESULT_PART_BYTES);
    }
}

/* ---- waiting ---- */

static void read_free(struct stored_read *read)
{
    struct stored_gateway *gw = read->gw;

    list_remove(&read->node);
    if (hmap_get(&gw->reads, read->id) == read)
        hmap_remove(&gw->reads, read->id);
    gw->waiting_bytes -= read->stamp_len + read->body_len;
    kv_range_free(read->range);
    kv_hash_free(read->hash);
    stored_export_free(read->export);
    buf_fini(&read->hash_message);
    if (is_secret(read->kind))
        explicit_bzero(read->bytes, read->stamp_len + read->body_len);
    free(read);
}

static void serve_waiting(struct stored_read *read)
{
    struct stored_gateway *gw = read->gw;

    list_remove(&read->node);
    hmap_remove(&gw->reads, read->id); /* an answer in parts takes the id over */
    serve(gw, read->id,
          &(struct proto_read){.kind = read->kind,
                               .identity = bytes_of(read->bytes, read->stamp_len),
                               .body = bytes_of(read->bytes + read->stamp_len, read->body_len)});
    read_free(read);
}

/* The barrier for reads of this turn. */
static struct stored_barrier *barrier_to_ask(struct stored *s)
{
    struct stored_barrier *b;

    if (!list_empty(&s->barriers)) {
        b = LIST_ENTRY(s->barriers.prev, struct stored_barrier, node);
        if (b->id == 0)
            return b;
    }
    b = xcalloc(1, sizeof(*b));
    list_init(&b->reads);
    list_push_back(&s->barriers, &b->node);
    return b;
}

static void barrier_free(struct stored_barrier *b)
{
    assert(list_empty(&b->reads));
    list_remove(&b->node);
    free(b);
}

/* Its reads need another barrier: the one asked for it is lost. */
static void barrier_ask_again(struct stored *s, struct stored_barrier *b)
{
    struct stored_barrier *to;
    struct list *node;

    if (list_empty(&b->reads)) {
        barrier_free(b);
        return;
    }
    to = barrier_to_ask(s);
    assert(to != b);
    while ((node = list_pop_front(&b->reads)) != NULL)
        list_push_back(&to->reads, node);
    barrier_free(b);
}

/* Only while raftd grants it, over this link, and all that was committed before is applied. */
bool stored_needs_no_barrier(const struct stored *s)
{
    return s->raftd_up && s->have_role && s->role.local_reads &&
           applied_index(s) >= s->role.commit_index;
}

static bool can_serve(const struct stored_gateway *gw)
{
    return gw->s->cluster_id != 0 && ipc_link_writable(gw->link);
}

void stored_read(struct stored_gateway *gw, uint64_t id, struct bytes body)
{
    struct stored *s = gw->s;
    struct stored_read *read;
    struct proto_read m;
    bool served_now;

    if (proto_read_decode(body, &m) != 0 || hmap_get(&gw->reads, id) != NULL) {
        stored_send_result(gw, id, OUT_MALFORMED, BYTES_EMPTY);
        return;
    }
    if (m.kind == PROTO_READ_LEASE_KEEP_ALIVE || m.kind == PROTO_READ_LEASE_TTL) {
        int refused = kv_auth_admit_read(s->kv, m.kind, m.identity, m.body);

        if (refused == OUT_OK)
            refused = stored_leases_read(gw, id, m.kind, m.body);
        if (refused != OUT_OK)
            stored_send_result(gw, id, refused, BYTES_EMPTY);
        return;
    }
    m.linearizable = m.linearizable || stored_auth_needs_barrier(s, &m);
    served_now = !m.linearizable || stored_needs_no_barrier(s);
    if (served_now && can_serve(gw) && list_empty(&gw->blocked)) {
        serve(gw, id, &m);
        return;
    }
    if (gw->reads.count >= STORED_WAITING_READS_MAX ||
        gw->waiting_bytes + m.identity.len + m.body.len > STORED_WAITING_BYTES_MAX) {
        stored_send_result(gw, id, OUT_TOO_MANY_REQUESTS, BYTES_EMPTY);
        return;
    }
    read = xmalloc(sizeof(*read) + m.identity.len + m.body.len);
    memset(read, 0, sizeof(*read));
    read->gw = gw;
    read->id = id;
    read->kind = m.kind;
    read->stamp_len = m.identity.len;
    read->body_len = m.body.len;
    if (m.identity.len > 0)
        memcpy(read->bytes, m.identity.data, m.identity.len);
    if (m.body.len > 0)
        memcpy(read->bytes + m.identity.len, m.body.data, m.body.len);
    forget_secret(&m);
    gw->waiting_bytes += m.identity.len + m.body.len;
    hmap_put(&gw->reads, id, read);
    if (served_now) {
        list_push_back(&gw->blocked, &read->node);
    } else {
        list_push_back(&barrier_to_ask(s)->reads, &read->node);
        loop_hook_arm(s->work_hook);
    }
}

void stored_read_cancel(struct stored_gateway *gw, uint64_t id)
{
    struct stored_read *read = hmap_get(&gw->reads, id);

    if (read != NULL)
        read_free(read);
}

void stored_read_ack(struct stored_gateway *gw, uint64_t id, uint64_t bytes)
{
    struct stored_read *read = hmap_get(&gw->reads, id);

    if (read == NULL || bytes > read->sent_bytes || bytes < read->acked_bytes)
        return; /* over already, or nonsense */
    read->acked_bytes = bytes;
    loop_hook_arm(gw->s->work_hook);
}

void stored_reads_gateway_down(struct stored_gateway *gw)
{
    struct hmap *reads = &gw->reads;
    uint64_t id;
    void *value;
    size_t pos;

    while (reads->count > 0) {
        pos = 0;
        if (!hmap_next(reads, &pos, &id, &value))
            break;
        read_free(value);
    }
    assert(list_empty(&gw->blocked));
    assert(gw->waiting_bytes == 0);
}

/* ---- barriers ---- */

static void on_barrier_retry(void *user)
{
    struct stored *s = user;

    loop_hook_arm(s->work_hook);
}

void stored_reads_barrier_index(struct stored *s, uint64_t id, const struct proto_barrier_index *m)
{
    LIST_FOREACH_SAFE(it, tmp, &s->barriers)
    {
        struct stored_barrier *b = LIST_ENTRY(it, struct stored_barrier, node);

        if (b->id != id || b->known || id == 0)
            continue;
        if (m->outcome == OUT_OK) {
            b->known = true;
            b->index = m->index;
            loop_hook_arm(s->work_hook);
        } else if (m->outcome == OUT_NO_LEADER) {
            /* etcd lets a read wait for a leader until its own deadline */
            barrier_ask_again(s, b);
            loop_timer_start(s->barrier_timer, BARRIER_RETRY_MS, 0);
        } else {
            while (!list_empty(&b->reads)) {
                struct stored_read *read = LIST_ENTRY(b->reads.next, struct stored_read, node);

                stored_send_result(read->gw, read->id,
                                   m->outcome < OUT_COUNT ? m->outcome : OUT_INTERNAL, BYTES_EMPTY);
                read_free(read);
            }
            barrier_free(b);
        }
        return;
    }
}

void stored_reads_raftd_down(struct stored *s)
{
    struct list lost;

    loop_timer_stop(s->barrier_timer);
    list_init(&lost);
    LIST_FOREACH_SAFE(it, tmp, &s->barriers)
    {
        struct stored_barrier *b = LIST_ENTRY(it, struct stored_barrier, node);

        if (b->id != 0 && !b->known) {
            list_remove(it);
            list_push_back(&lost, it);
        }
    }
    while (!list_empty(&lost))
        barrier_ask_again(s, LIST_ENTRY(lost.next, struct stored_barrier, node));
}

static void ask_barrier(struct stored *s)
{
    struct stored_barrier *b;

    if (list_empty(&s->barriers) || !s->raftd_up || loop_timer_active(s->barrier_timer))
        return;
    b = LIST_ENTRY(s->barriers.prev, struct stored_barrier, node);
    if (b->id != 0)
        return;
    if (list_empty(&b->reads)) { /* all cancelled */
        barrier_free(b);
        return;
    }
    b->id = ++s->last_barrier_id;
    ipc_link_send(s->raftd, PROTO_READ_BARRIER, b->id, BYTES_EMPTY);
}

/* Reads whose barrier is reached; returns having emptied each such barrier. */
static void serve_barriers(struct stored *s)
{
    uint64_t applied;

    if (list_empty(&s->barriers))
        return;
    applied = applied_index(s);
    LIST_FOREACH_SAFE(it, tmp, &s->barriers)
    {
        struct stored_barrier *b = LIST_ENTRY(it, struct stored_barrier, node);

        if (!b->known || b->index > applied)
            continue;
        while (!list_empty(&b->reads)) {
            struct stored_read *read = LIST_ENTRY(b->reads.next, struct stored_read, node);

            if (can_serve(read->gw)) {
                serve_waiting(read);
            } else {
                list_remove(&read->node);
                list_push_back(&read->gw->blocked, &read->node);
            }
        }
        barrier_free(b);
    }
}

static void serve_blocked(struct stored_gateway *gw)
{
    while (!list_empty(&gw->blocked) && can_serve(gw))
        serve_waiting(LIST_ENTRY(gw->blocked.next, struct stored_read, node));
}

/* ---- answers in parts ---- */

static bool part_allowed(const struct stored_read *read)
{
    return ipc_link_writable(read->gw->link) &&
           read->sent_bytes - read->acked_bytes + STORED_PART_BYTES <= PROTO_RESULT_WINDOW_BYTES;
}

static void end_active(struct stored_read *read, int outcome)
{
    if (outcome != OUT_OK)
        stored_send_result(read->gw, read->id, outcome, BYTES_EMPTY);
    read_free(read);
}

/* A part is written where it leaves from. Until the total is known nothing is written. */
static void step_range(struct stored *s, struct stored_read *read)
{
    uint64_t total = kv_range_total(read->range);
    int r;

    if (total == 0) {
        buf_clear(&s->scratch);
        r = kv_range_step(read->range, STORED_PART_BYTES, &s->scratch);
        assert(r < 0 || (r == 1 && s->scratch.len == 0));
    } else {
        struct buf *out = ipc_link_begin(read->gw->link, PROTO_RESULT, read->id);
        size_t at;

        proto_result_encode(out, &(struct proto_result){.total_bytes = total});
        at = out->len;
        r = kv_range_step(read->range, STORED_PART_BYTES, out);
        read->sent_bytes += out->len - at;
        ipc_link_end(read->gw->link);
    }
    if (r < 0) {
        log_error("range: %s", strerror(-r));
        end_active(read, OUT_INTERNAL);
        stored_fatal(s, "the engine cannot be read");
        return;
    }
    if (r == 0)
        end_active(read, OUT_OK);
}

static void step_hash(struct stored *s, struct stored_read *read)
{
    int r = kv_hash_step(read->hash, HASH_RECORDS_PER_STEP, &read->hash_message);

    if (r == 1)
        return;
    if (r < 0) {
        log_error("hash: %s", strerror(-r));
        end_active(read, OUT_INTERNAL);
        stored_fatal(s, "the engine cannot be read");
        return;
    }
    stored_send_result(read->gw, read->id, OUT_OK, buf_bytes(&read->hash_message));
    end_active(read, OUT_OK);
}

/* Whether it got on. */
static bool step_export(struct stored *s, struct stored_read *read)
{
    struct bytes part;
    struct buf *out;
    int r = stored_export_next(read->export, STORED_PART_BYTES, &part);

    if (r == 0)
        return false;
    if (r < 0) {
        log_error("snapshot: %s", strerror(-r));
        end_active(read, OUT_INTERNAL);
        stored_fatal(s, "the engine cannot be read");
        return false;
    }
    out = ipc_link_begin(read->gw->link, PROTO_RESULT, read->id);
    if (out == NULL)
        return false; /* its gatewayd is gone: the read ends with the link */
    proto_result_encode(out, &(struct proto_result){
                                 .total_bytes = stored_export_total(read->export), .part = part});
    ipc_link_end(read->gw->link);
    read->sent_bytes += part.len;
    if (read->sent_bytes == stored_export_total(read->export))
        end_active(read, OUT_OK);
    return true;
}

/* One part per answer in turn, until the slice is used up. */
static void serve_active(struct stored *s)
{
    uint64_t deadline;
    bool progress = true;
    unsigned int parts = 0;

    if (list_empty(&s->active))
        return;
    deadline = loop_clock_ns() + STORED_READ_SLICE_NS;
    while (progress) {
        struct list round;

        progress = false;
        list_init(&round);
        while (!list_empty(&s->active)) {
            struct stored_read *read = LIST_ENTRY(s->active.next, struct stored_read, node);

            /* to the next round first: a step may end and free it */
            list_remove(&read->node);
            list_push_back(&round, &read->node);
            if (!part_allowed(read))
                continue;
            if (read->export != NULL) {
                progress = step_export(s, read) || progress;
            } else {
                progress = true;
                if (read->range != NULL)
                    step_range(s, read);
                else
                    step_hash(s, read);
            }
            if (++parts % SLICE_CHECK_PARTS == 0 && loop_clock_ns() >= deadline)
                break;
        }
        while (!list_empty(&round)) /* those served go behind those not reached */
            list_push_back(&s->active, list_pop_front(&round));
        if (progress && loop_clock_ns() >= deadline) {
            loop_hook_arm(s->work_hook);
            return;
        }
    }
    /* nothing can go on: a window or a link opens it again */
}

void stored_reads_work(struct stored *s)
{
    serve_barriers(s);
    ask_barrier(s);
    for (uint64_t i = 0; i < s->conf->gateway_count; i++)
        serve_blocked(&s->gateways[i]);
    serve_active(s);
}

/* The state goes away: answers in parts end, whatever waits goes on waiting. */
void stored_reads_end_active(struct stored *s)
{
    while (!list_empty(&s->active))
        end_active(LIST_ENTRY(s->active.next, struct stored_read, node), OUT_TIMEOUT_CONN_LOST);
}

void stored_reads_init(struct stored *s)
{
    list_init(&s->barriers);
    list_init(&s->active);
    s->barrier_timer = loop_timer_new(s->loop, "barrier retry", on_barrier_retry, s);
}

void stored_reads_fini(struct stored *s)
{
    for (uint64_t i = 0; s->gateways != NULL && i < s->conf->gateway_count; i++) {
        stored_reads_gateway_down(&s->gateways[i]);
        hmap_fini(&s->gateways[i].reads);
    }
    while (s->barriers.next != NULL && !list_empty(&s->barriers))
        barrier_free(LIST_ENTRY(s->barriers.next, struct stored_barrier, node));
    loop_timer_free(s->barrier_timer);
    s->barrier_timer = NULL;
}
