#include "gatewayd/v3/contest.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "gatewayd/gatewayd.h"
#include "gatewayd/v3/lease.h"
#include "gatewayd/watches.h"
#include "lib/proto/outcome.h"
#include "lib/proto/watch.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"

enum {
    SESSION_TTL_S = 60, /* etcd concurrency/session.go */
    SORT_ASCEND = 1,
    SORT_DESCEND = 2,
    SORT_BY_CREATE = 2,
    TARGET_CREATE = 1,
    TXN_COMPARE = 1,
    TXN_SUCCESS = 2,
    OP_DELETE = 3,
};

/* A key on its way out, after its call has ended. */
struct withdrawal {
    struct list node; /* in gw->withdrawals */
    struct backend_call backend;
    struct buf body, identity;
};

/* ---- taking a key back ---- */

static void withdrawal_free(struct withdrawal *w)
{
    list_remove(&w->node);
    buf_fini(&w->body);
    buf_fini(&w->identity);
    free(w);
}

static void on_withdrawn(struct backend_call *backend, int outcome, struct bytes part,
                         uint64_t total_bytes)
{
    struct withdrawal *w = CONTAINER_OF(backend, struct withdrawal, backend);

    if (outcome != OUT_OK || !backend_call_active(backend))
        withdrawal_free(w); /* whatever came of it: the lease is the last resort */
}

static void withdraw(struct contest *c)
{
    struct withdrawal *w = xcalloc(1, sizeof(*w));
    struct gatewayd *gw = c->call->gw;
    CLEANUP(buf_fini) struct buf delete = BUF_INIT;

    pb_put_bytes(&delete, 1, buf_bytes(&c->key));
    contest_put_compare(&w->body, buf_bytes(&c->key), c->rev);
    contest_put_op(&w->body, &(struct contest_op){TXN_SUCCESS, OP_DELETE, buf_bytes(&delete)});
    buf_append_bytes(&w->identity, c->call->backend.identity);
    list_push_back(&gw->withdrawals, &w->node);
    w->backend.done = on_withdrawn;
    w->backend.body = buf_bytes(&w->body);
    w->backend.identity = buf_bytes(&w->identity);
    backend_propose(gw->backend, &w->backend, PROTO_KIND_TXN);
}

void contests_abandon(struct gatewayd *gw)
{
    while (gw->withdrawals.next != NULL && !list_empty(&gw->withdrawals)) {
        struct withdrawal *w = LIST_ENTRY(gw->withdrawals.next, struct withdrawal, node);

        backend_cancel(gw->backend, &w->backend);
        withdrawal_free(w);
    }
}

/* ---- life ---- */

static void free_contest(struct grpc_call *call)
{
    struct contest *c = call->state;

    if (c->rev != 0)
        withdraw(c);
    watches_stream_close(c->stream);
    buf_fini(&c->prefix);
    buf_fini(&c->key);
    buf_fini(&c->value);
    buf_fini(&c->header);
    buf_fini(&c->body);
    buf_fini(&c->answer);
    free(c->user);
    free(c);
}

static void on_created(void *user, struct watcher *w, int outcome, int64_t revision)
{
    struct contest *c = user;

    if (w != c->watcher || outcome == OUT_OK)
        return;
    c->watcher = NULL;
    c->on_watch_lost(c, outcome);
}

static void on_events(void *user, struct watcher *w, int64_t revision, struct bytes events)
{
    struct contest *c = user;

    if (w == c->watcher && !c->call->ended)
        c->on_events(c, revision, events);
}

static void on_canceled(void *user, struct watcher *w, int outcome, int64_t revision,
                        int64_t compact_revision, int64_t next)
{
    struct contest *c = user;

    if (w != c->watcher)
        return;
    c->watcher = NULL;
    if (!c->call->ended)
        c->on_watch_lost(c, outcome);
}

static void on_progress(void *user, struct watcher *w, int64_t revision)
{
}

static void on_flush(void *user)
{
    struct contest *c = user;

    watches_stream_consumed(c->stream, 0);
}

static const struct watches_ops watch_ops = {
    .created = on_created,
    .events = on_events,
    .canceled = on_canceled,
    .progress = on_progress,
    .flush = on_flush,
};

static void watch_lost(struct contest *c, int outcome)
{
    contest_fail(c, outcome);
}

struct contest *contest_new(struct grpc_call *call, struct bytes name)
{
    struct contest *c = xcalloc(1, sizeof(*c));

    c->call = call;
    c->on_watch_lost = watch_lost;
    buf_append_bytes(&c->prefix, name);
    buf_append_u8(&c->prefix, '/');
    c->stream = watches_stream_new(call->gw->watches, &watch_ops, c);
    call->state = c;
    call->free_state = free_contest;
    grpc_call_waits(call);
    return c;
}

void contest_fail_text(struct contest *c, const char *text)
{
    if (!c->call->ended)
        grpc_fail(c->call, GRPC_UNKNOWN, text);
}

void contest_fail(struct contest *c, int outcome)
{
    if (outcome == OUT_NOT_PROPOSED && !c->call->ended)
        grpc_fail_outcome(c->call, outcome);
    contest_fail_text(c, grpc_status_of_outcome(outcome).text);
}

/* ---- steps ---- */

static void on_step(struct backend_call *backend, int outcome, struct bytes part,
                    uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);
    struct contest *c = call->state;

    if (call->ended)
        return; /* the deadline came first */
    if (outcome != OUT_OK) {
        contest_fail(c, outcome);
        return;
    }
    buf_append_bytes(&c->answer, part);
    if (c->answer.len < total_bytes)
        backend_consumed(call->gw->backend, backend);
    else
        c->next(c);
}

static void begin_step(struct contest *c, void (*next)(struct contest *c))
{
    buf_clear(&c->answer);
    c->next = next;
    c->call->backend.done = on_step;
    c->call->backend.body = buf_bytes(&c->body);
    c->call->backend.deadline_ns = c->call->deadline_ns;
}

void contest_propose(struct contest *c, enum proto_kind kind, void (*next)(struct contest *c))
{
    begin_step(c, next);
    backend_propose(c->call->gw->backend, &c->call->backend, kind);
}

void contest_read(struct contest *c, void (*next)(struct contest *c))
{
    begin_step(c, next);
    backend_read(c->call->gw->backend, &c->call->backend, PROTO_READ_RANGE, true);
}

void contest_watch(struct contest *c, struct bytes key, struct bytes range_end,
                   int64_t start_revision, uint8_t flags,
                   void (*events)(struct contest *c, int64_t revision, struct bytes events))
{
    contest_watch_end(c);
    c->on_events = events;
    c->watcher = watches_create(
        c->stream, &(struct watches_create_args){.key = key,
                                                 .range_end = range_end,
                                                 .identity = c->call->backend.identity,
                                                 .start_revision = start_revision,
                                                 .flags = flags});
    if (c->watcher == NULL)
        contest_fail(c, OUT_TOO_MANY_REQUESTS);
}

void contest_watch_end(struct contest *c)
{
    if (c->watcher != NULL)
        watches_cancel(c->watcher);
    c->watcher = NULL;
}

/* ---- the lease ---- */

static void with_lease(struct contest *c)
{
    char hex[24];
    uint64_t magnitude = c->lease < 0 ? -(uint64_t)c->lease : (uint64_t)c->lease;

    snprintf(hex, sizeof(hex), "%s%" PRIx64, c->lease < 0 ? "-" : "", magnitude);
    buf_clear(&c->key);
    buf_append_bytes(&c->key, buf_bytes(&c->prefix));
    buf_append_bytes(&c->key, bytes_str(hex));
    c->then(c);
}

static void on_lease(struct contest *c)
{
    struct pb_reader r = pb_reader(buf_bytes(&c->answer));
    struct pb_field f;

    while (pb_next(&r, &f))
        if (f.number == 2 && f.type == PB_VARINT)
            c->lease = (int64_t)f.value;
    if (c->lease == 0)
        contest_fail(c, OUT_INTERNAL);
    else
        with_lease(c);
}

void contest_lease(struct contest *c, void (*then)(struct contest *c))
{
    c->then = then;
    if (c->lease != 0) {
        with_lease(c);
        return;
    }
    buf_clear(&c->body);
    lease_grant_encode(c->call->gw, &c->body, 0, SESSION_TTL_S);
    contest_propose(c, PROTO_KIND_LEASE_GRANT, on_lease);
}

/* ---- waiting for those before ---- */

static void look_who_is_before(struct contest *c);

static void on_gone(struct contest *c, int64_t revision, struct bytes events)
{
    contest_watch_end(c);
    look_who_is_before(c);
}

/* Compacted in between: what is there now tells as much. */
static void on_wait_lost(struct contest *c, int outcome)
{
    if (outcome == OUT_COMPACTED)
        look_who_is_before(c);
    else
        contest_fail(c, outcome);
}

static void on_before(struct contest *c)
{
    struct bytes header, kv;
    struct contest_kv before;

    if (contest_decode_range(buf_bytes(&c->answer), &header, &kv) != 0) {
        contest_fail(c, OUT_INTERNAL);
        return;
    }
    if (kv.data == NULL) {
        c->then(c);
        return;
    }
    if (contest_decode_kv(kv, &before) != 0) {
        contest_fail(c, OUT_INTERNAL);
        return;
    }
    c->on_watch_lost = on_wait_lost;
    contest_watch(c, before.key, BYTES_EMPTY, contest_header_revision(header) + 1,
                  PROTO_WATCH_NO_PUT, on_gone);
}

/* The youngest of the older ones: when that is gone, most likely all are. */
static void look_who_is_before(struct contest *c)
{
    buf_clear(&c->body);
    contest_put_top(&c->body, buf_bytes(&c->prefix), true, c->rev - 1);
    contest_read(c, on_before);
}

void contest_wait_turn(struct contest *c, void (*then)(struct contest *c))
{
    c->then = then;
    look_who_is_before(c);
}

/* ---- requests ---- */

void contest_put_compare(struct buf *b, struct bytes key, int64_t create_revision)
{
    CLEANUP(buf_fini) struct buf compare = BUF_INIT;

    pb_put_u64(&compare, 2, TARGET_CREATE);
    pb_put_bytes(&compare, 3, key);
    pb_put_i64(&compare, 5, create_revision);
    pb_put_message(b, TXN_COMPARE, buf_bytes(&compare));
}

void contest_put_op(struct buf *b, const struct contest_op *op)
{
    CLEANUP(buf_fini) struct buf request = BUF_INIT;

    pb_put_message(&request, op->type, op->request);
    pb_put_message(b, op->field, buf_bytes(&request));
}

void contest_put_put(struct buf *b, struct bytes key, struct bytes value, int64_t lease)
{
    pb_put_bytes(b, 1, key);
    pb_put_bytes(b, 2, value);
    pb_put_i64(b, 3, lease);
}

void contest_put_range(struct buf *b, struct bytes key)
{
    pb_put_bytes(b, 1, key);
}

void contest_put_top(struct buf *b, struct bytes prefix, bool last, int64_t max_create_revision)
{
    CLEANUP(buf_fini) struct buf end = BUF_INIT;

    /* the prefix ends with '/', which has a successor */
    assert(prefix.len > 0 && prefix.data[prefix.len - 1] == '/');
    buf_append_bytes(&end, prefix);
    end.data[end.len - 1]++;
    pb_put_bytes(b, 1, prefix);
    pb_put_bytes(b, 2, buf_bytes(&end));
    pb_put_u64(b, 3, 1); /* limit */
    pb_put_u64(b, 5, last ? SORT_DESCEND : SORT_ASCEND);
    pb_put_u64(b, 6, SORT_BY_CREATE);
    pb_put_i64(b, 13, max_create_revision);
}

/* ---- answers ---- */

int contest_decode_range(struct bytes answer, struct bytes *ret_header, struct bytes *ret_kv)
{
    struct pb_reader r = pb_reader(answer);
    struct pb_field f;

    *ret_header = *ret_kv = (struct bytes){0};
    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.type == PB_LENGTH)
            *ret_header = f.bytes;
        else if (f.number == 2 && f.type == PB_LENGTH && ret_kv->data == NULL)
            *ret_kv = f.bytes;
    }
    return r.bad ? -EBADMSG : 0;
}

static int decode_response(struct bytes response, struct contest_txn_answer *ret)
{
    struct pb_reader r = pb_reader(response);
    struct pb_field f;

    while (pb_next(&r, &f))
        if (f.number == 1 && f.type == PB_LENGTH && ret->range_count < ARRAY_LEN(ret->ranges))
            ret->ranges[ret->range_count++] = f.bytes;
    return r.bad ? -EBADMSG : 0;
}

int contest_decode_txn(struct bytes answer, struct contest_txn_answer *ret)
{
    struct pb_reader r = pb_reader(answer);
    struct pb_field f;
    int result = 0;

    *ret = (struct contest_txn_answer){0};
    while (pb_next(&r, &f) && result == 0) {
        if (f.number == 1 && f.type == PB_LENGTH)
            ret->header = f.bytes;
        else if (f.number == 2 && f.type == PB_VARINT)
            ret->succeeded = f.value != 0;
        else if (f.number == 3 && f.type == PB_LENGTH)
            result = decode_response(f.bytes, ret);
    }
    return r.bad ? -EBADMSG : result;
}

int contest_decode_kv(struct bytes kv, struct contest_kv *ret)
{
    struct pb_reader r = pb_reader(kv);
    struct pb_field f;

    *ret = (struct contest_kv){0};
    while (pb_next(&r, &f)) {
        if (f.number == 1)
            ret->key = f.bytes;
        else if (f.number == 2)
            ret->create_revision = (int64_t)f.value;
        else if (f.number == 3)
            ret->mod_revision = (int64_t)f.value;
        else if (f.number == 5)
            ret->value = f.bytes;
    }
    return r.bad || ret->key.len == 0 ? -EBADMSG : 0;
}

int64_t contest_header_revision(struct bytes header)
{
    struct pb_reader r = pb_reader(header);
    struct pb_field f;
    int64_t revision = 0;

    while (pb_next(&r, &f))
        if (f.number == 3 && f.type == PB_VARINT)
            revision = (int64_t)f.value;
    return revision;
}
