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
#include "gatewayd/v3/watch_ids.h"
#include "gatewayd/watches.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/proto/watch.h"
#include "lib/util/shared_bytes.h"
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
    OUT_FIRST_BYTES = 4096,     /* of a turn's buffer: most turns need no more */
    RESPONSE_BYTES_MAX = 128,   /* without the events and the reason */
    JITTER_PART = 10, /* progress: up to a tenth of the interval more, as in etcd */
};

/* Why a request is refused that stored need not see; etcd's texts (mvcc errors.go, watcher.go). */
enum refusal { NOT_REFUSED, RANGE_IS_EMPTY, IS_DUPLICATE, IS_COMPACTED };
static const char *const refusal_texts[] = {
    [RANGE_IS_EMPTY] = "mvcc: watcher range is empty",
    [IS_DUPLICATE] = "mvcc: duplicate watch ID provided on the WatchStream",
    [IS_COMPACTED] = "etcdserver: mvcc: required revision has been compacted",
};

/*
 * While stored has not accepted a watcher (`asked`), watch_id is what the client asked for, 0: any;
 * `refused` (an outcome: the caller is not who it says) and `refusal` are what it is to be told in
 * any case; `canceled` that a request of the client's came meanwhile. `listed`: the client knows
 * the id.
 */
struct watch_call {
    struct grpc_call *call;
    struct watches_stream *stream;
    struct watch_ids by_id;
    int64_t next_id;
    size_t asked_count; /* watchers stored has not accepted yet */
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

/* All of a response but its events, so many bytes of which follow. */
static void put_response(struct watch_call *wc, const struct response *r, size_t events_len)
{
    struct buf *out = &wc->out;
    size_t need = RESPONSE_BYTES_MAX, at;

    buf_reserve(out, out->data == NULL ? (size_t)OUT_FIRST_BYTES : need);
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
    grpc_put_prefix(out->data + at - GRPC_PREFIX_BYTES, out->len - at + events_len);
    wc->out_count++;
}

static void respond(struct watch_call *wc, const struct response *r)
{
    if (wc->call->ended)
        return;
    put_response(wc, r, r->events.len);
    buf_append_bytes(&wc->out, r->events);
}

static void write_out(struct watch_call *wc)
{
    if (wc->out_count > 0 && !wc->call->ended)
        grpc_stream_write(wc->call, buf_bytes(&wc->out), wc->out_count);
    buf_clear(&wc->out);
    wc->out_count = 0;
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

/* Between two events of blocks that follow each other. */
struct place {
    size_t block, off; /* behind `off` bytes of it */
    size_t at;         /* in all of them */
};

static void respond_shared(struct watch_call *wc, const struct response *r,
                           struct shared_bytes *const *blocks, struct place from, struct place to)
{
    if (wc->call->ended)
        return;
    put_response(wc, r, to.at - from.at);
    write_out(wc);
    for (size_t i = from.block; i <= to.block; i++) {
        size_t off = i == from.block ? from.off : 0;
        size_t end = i == to.block ? to.off : blocks[i]->len;

        if (!wc->call->ended)
            grpc_stream_write_shared(wc->call, blocks[i], off, end - off);
    }
}

/* As respond_in_fragments does. */
static void respond_shared_in_fragments(struct watch_call *wc, struct response r,
                                        struct shared_bytes *const *blocks, size_t count,
                                        size_t max_bytes)
{
    struct place start = {0}, last = {0};
    size_t before = 0; /* bytes of earlier blocks */
    struct pb_field f;

    for (size_t i = 0; i < count; before += blocks[i++]->len) {
        struct pb_reader reader = pb_reader(shared_bytes_get(blocks[i]));

        while (pb_next(&reader, &f)) {
            size_t off = (size_t)(reader.pos - blocks[i]->data);

            if (last.at != start.at && before + off - start.at >= max_bytes) {
                r.fragment = true;
                respond_shared(wc, &r, blocks, start, last);
                start = last;
            }
            last = (struct place){i, off, before + off};
        }
    }
    r.fragment = false;
    respond_shared(wc, &r, blocks, start, last);
}

static void flush(void *user)
{
    struct watch_call *wc = user;

    write_out(wc);
    buf_trim(&wc->out, 0); /* most streams are quiet most of the time */
    if (!wc->call->ended)
        watches_stream_consumed(wc->stream, grpc_stream_queued(wc->call));
}

/* ---- what becomes of watchers ---- */

static int64_t give_id(struct watch_call *wc, int64_t wanted)
{
    if (wanted != 0)
        return wanted;
    while (watch_ids_get(&wc->by_id, wc->next_id) != NULL)
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

static void accept(struct watch_call *wc, struct watcher *w, int64_t revision)
{
    if (w->watch_id != 0 && watch_ids_get(&wc->by_id, w->watch_id) != NULL) {
        watches_cancel(w);
        respond_refused(wc, revision, refusal_texts[IS_DUPLICATE]);
        return;
    }
    w->watch_id = give_id(wc, w->watch_id);
    w->listed = true;
    w->quiet = true;
    watch_ids_add(&wc->by_id, w);
    if (w->progress_notify && wc->progress_count++ == 0)
        start_progress(wc);
    respond(wc, &(struct response){.revision = revision, .watch_id = w->watch_id, .created = true});
    if (w->canceled)
        watches_cancel(w);
}

static void on_created(void *user, struct watcher *w, int outcome, int64_t revision)
{
    struct watch_call *wc = user;

    assert(w->asked);
    w->asked = false;
    wc->asked_count--;
    if (outcome == OUT_OK)
        accept(wc, w, revision);
    else if (w->refused != OUT_OK)
        respond_outcome(wc, revision, w->refused);
    else if (outcome == OUT_CANCELED && w->refusal != NOT_REFUSED)
        respond_refused(wc, revision, refusal_texts[w->refusal]);
    else
        respond_outcome(wc, revision, outcome);
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

static void on_large(void *user, struct watcher *w, int64_t revision,
                     struct shared_bytes *const *blocks, size_t count)
{
    struct watch_call *wc = user;
    const struct response r = {.revision = revision, .watch_id = w->watch_id};
    size_t max = wc->call->gw->conf->max_request_bytes + FRAGMENT_OVERHEAD_BYTES, all = 0;

    if (wc->call->ended)
        return;
    for (size_t i = 0; i < count; i++)
        all += blocks[i]->len;
    if (w->fragment && all >= max)
        respond_shared_in_fragments(wc, r, blocks, count, max);
    else
        respond_shared(wc, &r, blocks, (struct place){0},
                       (struct place){count - 1, blocks[count - 1]->len, all});
}

static void on_canceled(void *user, struct watcher *w, int outcome, int64_t revision,
                        int64_t compact_revision, int64_t next)
{
    struct watch_call *wc = user;
    struct response r = {.revision = revision, .watch_id = w->watch_id, .canceled = true};
    CLEANUP(freep) char *reason = NULL;
    struct grpc_status status;

    if (!w->listed)
        return; /* refused before */
    w->listed = false;
    watch_ids_remove(&wc->by_id, w);
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
    const struct watcher *w = NULL;

    while ((w = watches_stream_next(wc->stream, w)) != NULL) {
        if (w->listed && w->start_revision > revision)
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

static const struct watches_ops ops = {
    .created = on_created,
    .events = on_events,
    .large = on_large,
    .canceled = on_canceled,
    .progress = on_progress,
    .flush = flush,
};

/* ---- progress, every so often ---- */

static void on_progress_timer(void *user)
{
    struct watch_call *wc = user;
    struct watcher *w = NULL;

    while ((w = watches_stream_next(wc->stream, w)) != NULL) {
        if (w->listed && w->progress_notify && w->quiet)
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

/* What of a create request is ours. */
struct create_options {
    int64_t watch_id;
    bool progress_notify, fragment;
};

static bool read_create(struct bytes message, struct watches_create_args *args,
                        struct create_options *p)
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

static enum refusal refusal_of(const struct watches_create_args *args)
{
    bool is_open = args->range_end.len == 1 && args->range_end.data[0] == 0;

    if (args->range_end.len > 0 && !is_open && bytes_cmp(args->range_end, args->key) <= 0)
        return RANGE_IS_EMPTY;
    if (args->start_revision < 0)
        return IS_COMPACTED;
    return NOT_REFUSED;
}

static void take_create(struct watch_call *wc, struct bytes message)
{
    struct watches_create_args args = {0};
    struct create_options options = {0};
    enum refusal refusal;
    struct watcher *w;

    if (!read_create(message, &args, &options)) {
        grpc_fail_outcome(wc->call, OUT_MALFORMED);
        return;
    }
    if (args.key.len == 0)
        args.key = BYTES_LIT("\0");
    args.identity = wc->call->backend.identity;
    refusal = refusal_of(&args);
    if (refusal != NOT_REFUSED || wc->call->auth_outcome != OUT_OK)
        args.flags |= PROTO_WATCH_REFUSE;
    w = watches_create(wc->stream, &args);
    if (w == NULL) {
        grpc_fail_outcome(wc->call, OUT_TOO_MANY_REQUESTS);
        return;
    }
    w->asked = true;
    wc->asked_count++;
    w->watch_id = options.watch_id;
    w->progress_notify = options.progress_notify;
    w->fragment = options.fragment;
    w->refusal = (uint8_t)refusal;
    w->refused = (uint16_t)wc->call->auth_outcome;
}

/* A client may name an id that it asked for just before. */
static void cancel_asked(struct watch_call *wc, int64_t id)
{
    struct watcher *w = NULL;

    while (wc->asked_count > 0 && id != 0 && (w = watches_stream_next(wc->stream, w)) != NULL) {
        if (w->asked && w->watch_id == id)
            w->canceled = true;
    }
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
    w = watch_ids_get(&wc->by_id, id);
    if (w != NULL)
        watches_cancel(w);
    else
        cancel_asked(wc, id);
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

    watches_stream_close(wc->stream);
    watch_ids_fini(&wc->by_id);
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
