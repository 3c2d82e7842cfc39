/*
 * Watch service (etcd rpc.proto Watch): one stream of a client, with any number of watchers on it.
 * Requests are taken one by one, in order; ids are given when stored has accepted a watcher, as in
 * etcd, where a refused one uses up no id. What becomes of watchers is in gatewayd/watches.h.
 *
 * Responses of a turn gather in one buffer and leave together.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc.h"
#include "gatewayd/watches.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/proto/watch.h"
#include "lib/util/hmap.h"
#include "lib/util/prng.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"

/* Field numbers. */
enum {
    REQUEST_CREATE = 1,
    REQUEST_CANCEL = 2,
    REQUEST_PROGRESS = 3,
    CREATE_KEY = 1,
    CREATE_RANGE_END = 2,
    CREATE_START_REVISION = 3,
    CREATE_PROGRESS_NOTIFY = 4,
    CREATE_FILTERS = 5,
    CREATE_PREV_KV = 6,
    CREATE_WATCH_ID = 7,
    CREATE_FRAGMENT = 8,
    CANCEL_WATCH_ID = 1,
    RESPONSE_HEADER = 1,
    RESPONSE_WATCH_ID = 2,
    RESPONSE_CREATED = 3,
    RESPONSE_CANCELED = 4,
    RESPONSE_COMPACT_REVISION = 5,
    RESPONSE_CANCEL_REASON = 6,
    RESPONSE_FRAGMENT = 7,
    HEADER_CLUSTER_ID = 1,
    HEADER_MEMBER_ID = 2,
    HEADER_REVISION = 3,
    HEADER_RAFT_TERM = 4,
};
enum {
    NO_WATCH_ID = -1,
    FRAGMENT_OVERHEAD_BYTES = 512 << 10, /* etcd: MaxRequestBytesWithOverhead */
    OUT_KEEP_BYTES = 4096,
    JITTER_PART = 10, /* progress: up to a tenth of the interval more, as in etcd */
};

/* Why a request is refused that stored need not see; etcd's texts (mvcc errors.go, watcher.go). */
static const char range_is_empty[] = "mvcc: watcher range is empty";
static const char is_duplicate[] = "mvcc: duplicate watch ID provided on the WatchStream";
static const char is_compacted[] = "etcdserver: mvcc: required revision has been compacted";

/* A create request whose watcher stored has not accepted yet; in the order of the requests. */
struct pending {
    struct list node;
    struct watcher *watcher;
    int64_t watch_id; /* asked for; 0: any */
    bool progress_notify, fragment;
    bool canceled; /* by a request that came meanwhile */
    const char *refusal;
    int refused; /* not OUT_OK: the caller is not who it says */
};

struct watch_call {
    struct grpc_call *call;
    struct watches_stream *stream;
    struct hmap by_id; /* watch id -> watcher */
    int64_t next_id;
    struct list pending;
    struct buf out; /* framed responses of this turn */
    size_t out_count;
    size_t progress_count; /* watchers with progress_notify */
    struct loop_timer *progress_timer;
};

/* ---- responses ---- */

struct response {
    int64_t revision, watch_id, compact_revision;
    bool created, canceled, fragment;
    const char *cancel_reason;
    struct bytes events;
};

static size_t put_header(const struct watch_call *wc, int64_t revision, struct buf *out)
{
    const struct proto_raft_status *raft = backend_status(wc->call->gw->backend);
    size_t at;

    pb_put_tag(out, RESPONSE_HEADER, PB_LENGTH);
    buf_append_u8(out, 0);
    at = out->len;
    pb_put_u64(out, HEADER_CLUSTER_ID, raft->cluster_id);
    pb_put_u64(out, HEADER_MEMBER_ID, raft->member_id);
    pb_put_i64(out, HEADER_REVISION, revision);
    pb_put_u64(out, HEADER_RAFT_TERM, raft->term);
    assert(out->len - at < 0x80); /* four numbers */
    out->data[at - 1] = (uint8_t)(out->len - at);
    return out->len;
}

static void respond(struct watch_call *wc, const struct response *r)
{
    struct buf *out = &wc->out;
    size_t at;

    if (wc->call->ended)
        return;
    buf_reserve(out, 128 + r->events.len);
    out->len += GRPC_PREFIX_BYTES;
    at = out->len;
    put_header(wc, r->revision, out);
    pb_put_i64(out, RESPONSE_WATCH_ID, r->watch_id);
    pb_put_bool(out, RESPONSE_CREATED, r->created);
    pb_put_bool(out, RESPONSE_CANCELED, r->canceled);
    pb_put_i64(out, RESPONSE_COMPACT_REVISION, r->compact_revision);
    if (r->cancel_reason != NULL)
        pb_put_bytes(out, RESPONSE_CANCEL_REASON, bytes_str(r->cancel_reason));
    pb_put_bool(out, RESPONSE_FRAGMENT, r->fragment);
    buf_append_bytes(out, r->events);
    grpc_put_prefix(out->data + at - GRPC_PREFIX_BYTES, out->len - at);
    wc->out_count++;
}

/* As many events as fit each, at least one (etcd v3rpc/watch.go sendFragments). */
static void respond_in_fragments(struct watch_call *wc, struct response r, size_t max_bytes)
{
    struct pb_reader reader = pb_reader(r.events);
    const uint8_t *start = reader.pos, *last = start;
    struct pb_field f;

    while (pb_next(&reader, &f)) {
        if (last != start && (size_t)(reader.pos - start) >= max_bytes) {
            r.fragment = true;
            r.events = bytes_of(start, (size_t)(last - start));
            respond(wc, &r);
            start = last;
        }
        last = reader.pos;
    }
    r.fragment = false;
    r.events = bytes_of(start, (size_t)(last - start));
    respond(wc, &r);
}

static void flush(void *user)
{
    struct watch_call *wc = user;

    if (wc->out_count > 0 && !wc->call->ended)
        grpc_stream_write(wc->call, buf_bytes(&wc->out), wc->out_count);
    buf_clear(&wc->out);
    buf_trim(&wc->out, OUT_KEEP_BYTES);
    wc->out_count = 0;
    if (!wc->call->ended)
        watches_stream_consumed(wc->stream, grpc_stream_queued(wc->call));
}

/* ---- what becomes of watchers ---- */

static struct pending *pending_of(struct watch_call *wc, const struct watcher *w)
{
    LIST_FOREACH(it, &wc->pending)
    {
        struct pending *p = LIST_ENTRY(it, struct pending, node);

        if (p->watcher == w)
            return p;
    }
    return NULL;
}

static int64_t give_id(struct watch_call *wc, int64_t wanted)
{
    if (wanted != 0)
        return wanted;
    while (hmap_get(&wc->by_id, (uint64_t)wc->next_id) != NULL)
        wc->next_id++;
    return wc->next_id++;
}

static void respond_refused(struct watch_call *wc, int64_t revision, const char *reason)
{
    respond(wc, &(struct response){.revision = revision,
                                   .watch_id = NO_WATCH_ID,
                                   .created = true,
                                   .canceled = true,
                                   .cancel_reason = reason});
}

/* As Go prints a gRPC error (etcd puts that into the reason). */
static void respond_outcome(struct watch_call *wc, int64_t revision, int outcome)
{
    struct grpc_status status = grpc_status_of_outcome(outcome);
    CLEANUP(freep)
    char *reason =
        xasprintf("rpc error: code = %s desc = %s", grpc_code_name(status.code), status.text);

    respond_refused(wc, revision, reason);
}

static void start_progress(struct watch_call *wc);

static void accept(struct watch_call *wc, struct pending *p, struct watcher *w, int64_t revision)
{
    if (p->watch_id != 0 && hmap_get(&wc->by_id, (uint64_t)p->watch_id) != NULL) {
        watches_cancel(w);
        respond_refused(wc, revision, is_duplicate);
        return;
    }
    w->watch_id = give_id(wc, p->watch_id);
    w->progress_notify = p->progress_notify;
    w->fragment = p->fragment;
    w->quiet = true;
    hmap_put(&wc->by_id, (uint64_t)w->watch_id, w);
    if (w->progress_notify && wc->progress_count++ == 0)
        start_progress(wc);
    respond(wc, &(struct response){.revision = revision, .watch_id = w->watch_id, .created = true});
}

static void on_created(void *user, struct watcher *w, int outcome, int64_t revision)
{
    struct watch_call *wc = user;
    struct pending *p = pending_of(wc, w);

    assert(p != NULL);
    w->watch_id = NO_WATCH_ID;
    if (outcome == OUT_OK)
        accept(wc, p, w, revision);
    else if (p->refused != OUT_OK)
        respond_outcome(wc, revision, p->refused);
    else if (outcome == OUT_CANCELED && p->refusal != NULL)
        respond_refused(wc, revision, p->refusal);
    else
        respond_outcome(wc, revision, outcome);
    if (outcome == OUT_OK && p->canceled)
        watches_cancel(w);
    list_remove(&p->node);
    free(p);
}

static void on_events(void *user, struct watcher *w, int64_t revision, struct bytes events)
{
    struct watch_call *wc = user;
    const struct response r = {.revision = revision, .watch_id = w->watch_id, .events = events};
    size_t max = wc->call->gw->conf->max_request_bytes + FRAGMENT_OVERHEAD_BYTES;

    if (w->fragment && events.len >= max)
        respond_in_fragments(wc, r, max);
    else
        respond(wc, &r);
}

static void on_canceled(void *user, struct watcher *w, int outcome, int64_t revision,
                        int64_t compact_revision, int64_t next)
{
    struct watch_call *wc = user;
    struct response r = {.revision = revision, .watch_id = w->watch_id, .canceled = true};
    CLEANUP(freep) char *reason = NULL;
    struct grpc_status status;

    if (hmap_get(&wc->by_id, (uint64_t)w->watch_id) != w)
        return; /* refused before */
    hmap_remove(&wc->by_id, (uint64_t)w->watch_id);
    if (w->progress_notify && --wc->progress_count == 0)
        loop_timer_stop(wc->progress_timer);
    if (outcome == OUT_COMPACTED) {
        r.revision = 0; /* as etcd */
        r.compact_revision = compact_revision;
    } else if (outcome == OUT_WATCH_TOO_SLOW) {
        r.revision = next - 1;
        status = grpc_status_of_outcome(outcome);
        reason = xasprintf("%s; it can go on at revision %" PRId64, status.text, next);
    } else if (outcome != OUT_OK) {
        status = grpc_status_of_outcome(outcome);
        reason =
            xasprintf("rpc error: code = %s desc = %s", grpc_code_name(status.code), status.text);
    }
    r.cancel_reason = reason;
    respond(wc, &r);
}

static bool all_started(const struct watch_call *wc, int64_t revision)
{
    size_t pos = 0;
    uint64_t id;
    void *w;

    while (hmap_next(&wc->by_id, &pos, &id, &w)) {
        if (((const struct watcher *)w)->start_revision > revision)
            return false;
    }
    return wc->by_id.count > 0;
}

static void on_progress(void *user, struct watcher *w, int64_t revision)
{
    struct watch_call *wc = user;

    if (w != NULL ? w->start_revision > revision : !all_started(wc, revision))
        return;
    respond(wc, &(struct response){.revision = revision,
                                   .watch_id = w != NULL ? w->watch_id : NO_WATCH_ID});
}

static const struct watches_ops ops = {on_created, on_events, on_canceled, on_progress, flush};

/* ---- progress, every so often ---- */

static void on_progress_timer(void *user)
{
    struct watch_call *wc = user;
    size_t pos = 0;
    uint64_t id;
    void *value;

    while (hmap_next(&wc->by_id, &pos, &id, &value)) {
        struct watcher *w = value;

        if (w->progress_notify && w->quiet)
            watches_progress(wc->stream, w);
        w->quiet = true;
    }
}

static void start_progress(struct watch_call *wc)
{
    uint64_t ms = wc->call->gw->conf->watch_progress_interval_ns / 1000000;

    if (wc->progress_timer == NULL)
        wc->progress_timer =
            loop_timer_new(wc->call->gw->loop, "watch progress", on_progress_timer, wc);
    ms += loop_clock_ns() % (ms / JITTER_PART + 1);
    loop_timer_start(wc->progress_timer, ms, ms);
}

/* ---- requests ---- */

static uint8_t filter_flag(uint64_t filter)
{
    return filter == 0 ? PROTO_WATCH_NO_PUT : filter == 1 ? PROTO_WATCH_NO_DELETE : 0;
}

static bool read_filters(struct bytes packed, uint8_t *flags)
{
    /* a run of varints: read as fields by putting a tag in front would copy; they are tiny */
    for (size_t i = 0; i < packed.len; i++) {
        uint64_t v = 0;
        unsigned int shift = 0;

        for (; i < packed.len && (packed.data[i] & 0x80) != 0; i++, shift += 7)
            v |= shift < 64 ? (uint64_t)(packed.data[i] & 0x7f) << shift : 0;
        if (i == packed.len)
            return false;
        v |= shift < 64 ? (uint64_t)packed.data[i] << shift : 0;
        *flags |= filter_flag(v);
    }
    return true;
}

static bool read_create(struct bytes message, struct watches_create_args *args, struct pending *p)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;
    bool good = true;

    while (pb_next(&r, &f)) {
        bool is_bytes = f.number == CREATE_KEY || f.number == CREATE_RANGE_END;

        if (f.number <= CREATE_FRAGMENT && f.number != CREATE_FILTERS &&
            f.type != (is_bytes ? PB_LENGTH : PB_VARINT))
            return false;
        switch (f.number) {
        case CREATE_KEY:
            args->key = f.bytes;
            break;
        case CREATE_RANGE_END:
            args->range_end = f.bytes;
            break;
        case CREATE_START_REVISION:
            args->start_revision = (int64_t)f.value;
            break;
        case CREATE_PROGRESS_NOTIFY:
            p->progress_notify = f.value != 0;
            break;
        case CREATE_FILTERS:
            if (f.type == PB_LENGTH)
                good = good && read_filters(f.bytes, &args->flags);
            else if (f.type == PB_VARINT)
                args->flags |= filter_flag(f.value);
            else
                good = false;
            break;
        case CREATE_PREV_KV:
            if (f.value != 0)
                args->flags |= PROTO_WATCH_PREV_KV;
            else
                args->flags &= (uint8_t)~PROTO_WATCH_PREV_KV;
            break;
        case CREATE_WATCH_ID:
            p->watch_id = (int64_t)f.value;
            break;
        case CREATE_FRAGMENT:
            p->fragment = f.value != 0;
            break;
        default:
            break;
        }
    }
    return good && !r.bad;
}

static const char *refusal_of(const struct watches_create_args *args)
{
    bool is_open = args->range_end.len == 1 && args->range_end.data[0] == 0;

    if (args->range_end.len > 0 && !is_open && bytes_cmp(args->range_end, args->key) <= 0)
        return range_is_empty;
    if (args->start_revision < 0)
        return is_compacted;
    return NULL;
}

static void take_create(struct watch_call *wc, struct bytes message)
{
    struct watches_create_args args = {0};
    struct pending *p = xcalloc(1, sizeof(*p));

    if (!read_create(message, &args, p)) {
        free(p);
        grpc_fail_outcome(wc->call, OUT_MALFORMED);
        return;
    }
    if (args.key.len == 0)
        args.key = BYTES_LIT("\0");
    args.identity = wc->call->backend.identity;
    p->refusal = refusal_of(&args);
    p->refused = wc->call->auth_outcome;
    if (p->refusal != NULL || p->refused != OUT_OK)
        args.flags |= PROTO_WATCH_REFUSE;
    p->watcher = watches_create(wc->stream, &args);
    if (p->watcher == NULL) {
        free(p);
        grpc_fail_outcome(wc->call, OUT_TOO_MANY_REQUESTS);
        return;
    }
    list_push_back(&wc->pending, &p->node);
}

static void take_cancel(struct watch_call *wc, struct bytes message)
{
    struct pb_reader r = pb_reader(message);
    struct watcher *w;
    struct pb_field f;
    int64_t id = 0;

    while (pb_next(&r, &f)) {
        if (f.number == CANCEL_WATCH_ID && f.type == PB_VARINT)
            id = (int64_t)f.value;
        else if (f.number == CANCEL_WATCH_ID)
            r.bad = true;
    }
    if (r.bad) {
        grpc_fail_outcome(wc->call, OUT_MALFORMED);
        return;
    }
    w = hmap_get(&wc->by_id, (uint64_t)id);
    if (w != NULL) {
        watches_cancel(w);
        return;
    }
    LIST_FOREACH(it, &wc->pending)
    { /* it may name an id that was asked for just before */
        struct pending *p = LIST_ENTRY(it, struct pending, node);

        if (id != 0 && p->watch_id == id)
            p->canceled = true;
    }
}

static void on_message(struct grpc_call *call, struct bytes message)
{
    struct watch_call *wc = call->state;
    struct pb_reader r = pb_reader(message);
    struct pb_field f, last = {0};

    while (pb_next(&r, &f)) {
        if (f.number > REQUEST_PROGRESS)
            continue;
        if (f.type != PB_LENGTH)
            r.bad = true;
        last = f; /* of a oneof the last one counts */
    }
    if (r.bad) {
        grpc_fail_outcome(call, OUT_MALFORMED);
        return;
    }
    if (last.number == REQUEST_CREATE)
        take_create(wc, last.bytes);
    else if (last.number == REQUEST_CANCEL)
        take_cancel(wc, last.bytes);
    else if (last.number == REQUEST_PROGRESS)
        watches_progress(wc->stream, NULL);
}

/* ---- life ---- */

static void on_drained(struct grpc_call *call)
{
    struct watch_call *wc = call->state;

    watches_stream_consumed(wc->stream, wc->out.len);
}

static void free_state(struct grpc_call *call)
{
    struct watch_call *wc = call->state;
    struct list *node;

    watches_stream_close(wc->stream);
    while ((node = list_pop_front(&wc->pending)) != NULL)
        free(LIST_ENTRY(node, struct pending, node));
    hmap_fini(&wc->by_id);
    buf_fini(&wc->out);
    loop_timer_free(wc->progress_timer);
    free(wc);
}

static void watch(struct grpc_call *call)
{
    struct watch_call *wc = xcalloc(1, sizeof(*wc));

    call->state = wc;
    call->free_state = free_state;
    wc->call = call;
    wc->by_id = HMAP_INIT;
    list_init(&wc->pending);
    wc->stream = watches_stream_new(call->gw->watches, &ops, wc);
}

struct grpc_method grpc_watch_methods[] = {
    {.service = "etcdserverpb.Watch",
     .name = "Watch",
     .type = GRPC_BIDI_STREAM,
     .handler = watch,
     .on_message = on_message,
     .on_drained = on_drained},
    {.name = NULL},
};
