/*
 * See watches.h. A watcher's number is its slot in one array, so an event finds its watcher with
 * one lookup; numbers are used again when stored has confirmed the end (lib/proto/watch.h).
 *
 * A large revision is kept once, however many watchers it goes to: what stored sends for each of
 * them is compared with what is there already (gatewayd/large_events.h).
 */
#include "gatewayd/watches.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "gatewayd/gatewayd.h"
#include "gatewayd/large_events.h"
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/proto/watch.h"
#include "lib/util/macros.h"
#include "lib/util/shared_bytes.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"

enum {
    WATCHERS_MAX = 1 << 20,
    NUMBERS_MIN = 64,
    KEEP_BYTES = 1 << 20, /* of buffers, between messages */
    SHARE_BYTES = 64 << 10, /* events of one response that are not copied for each watcher */
};

/* Numbers in use and free ones. */
struct numbers {
    void **slots;
    uint32_t cap, used; /* slots below `used` were given out at least once */
    uint32_t *free;
    uint32_t free_count, free_cap;
};

struct watches_stream {
    struct watches *ws;
    const struct watches_ops *ops; /* NULL: closed, stored has not confirmed it yet */
    void *user;
    uint32_t number;
    bool known; /* to the stored of this link */
    struct list watchers;
    struct list touched_node; /* in ws.touched */
    uint64_t received_units, acked_units;
};

struct watches {
    struct backend **backend;
    struct loop_hook *flush_hook;
    struct list touched;
    struct numbers watchers, streams;
    bool linked;
    int64_t head; /* of this link: watchers that are not behind have got everything up to here */
    int64_t revision; /* the newest one heard of */
    uint64_t watcher_count, stream_count, behind_count, events_total;
    /* decoding WATCH_EVENTS */
    struct table_entry {
        int64_t revision;
        struct bytes bytes;
    } * table;
    size_t table_cap;
    struct buf joined;
    struct large_events *large;
};

/* ---- numbers ---- */

static uint32_t number_take(struct numbers *n, void *value)
{
    uint32_t number;

    if (n->free_count > 0) {
        number = n->free[--n->free_count];
    } else {
        if (n->used == n->cap) {
            n->cap = n->cap != 0 ? n->cap * 2 : NUMBERS_MIN;
            n->slots = xreallocarray(n->slots, n->cap, sizeof(n->slots[0]));
        }
        number = n->used++;
    }
    n->slots[number] = value;
    return number;
}

static void number_give(struct numbers *n, uint32_t number)
{
    n->slots[number] = NULL;
    if (n->free_count == n->free_cap) {
        n->free_cap = n->free_cap != 0 ? n->free_cap * 2 : NUMBERS_MIN;
        n->free = xreallocarray(n->free, n->free_cap, sizeof(n->free[0]));
    }
    n->free[n->free_count++] = number;
}

static void *number_find(const struct numbers *n, uint64_t number)
{
    return number < n->used ? n->slots[number] : NULL;
}

static void numbers_fini(struct numbers *n)
{
    free(n->slots);
    free(n->free);
}

/* ---- watchers ---- */

static struct bytes key_of(const struct watcher *w)
{
    return bytes_of(w->bytes, w->key_len);
}

static void set_behind(struct watcher *w, bool behind)
{
    w->stream->ws->behind_count += behind;
    w->stream->ws->behind_count -= w->behind;
    w->behind = behind;
}

static void drop_partial(struct watcher *w)
{
    large_place_free(w->partial);
    w->partial = NULL;
}

static void watcher_free(struct watcher *w)
{
    struct watches *ws = w->stream->ws;

    set_behind(w, false);
    list_remove(&w->node);
    number_give(&ws->watchers, w->number);
    ws->watcher_count--;
    drop_partial(w);
    free(w);
}

static void send_create(struct watcher *w)
{
    struct watches *ws = w->stream->ws;
    struct buf *b = backend_stored_begin(*ws->backend, PROTO_WATCH_CREATE, w->number);
    const uint8_t *range_end = w->bytes + w->key_len;

    if (b == NULL)
        return;
    w->stream->known = true;
    proto_watch_create_encode(
        b, &(struct proto_watch_create){
               .stream = w->stream->number,
               .start_revision = w->announced ? w->next : w->start_revision,
               .flags = (uint8_t)(w->flags | (w->announced ? PROTO_WATCH_AGAIN : 0)),
               .identity = bytes_of(range_end + w->range_end_len, w->identity_len),
               .key = key_of(w),
               .range_end = bytes_of(range_end, w->range_end_len),
           });
    backend_stored_end(*ws->backend);
}

static void send_empty(struct watches *ws, uint16_t type, uint32_t number)
{
    if (backend_stored_begin(*ws->backend, type, number) != NULL)
        backend_stored_end(*ws->backend);
}

struct watcher *watches_create(struct watches_stream *s, const struct watches_create_args *args)
{
    struct watches *ws = s->ws;
    struct watcher *w;
    uint8_t *p;

    if (ws->watcher_count >= WATCHERS_MAX)
        return NULL;
    w = xmalloc(offsetof(struct watcher, bytes) + args->key.len + args->range_end.len +
                args->identity.len);
    memset(w, 0, offsetof(struct watcher, bytes));
    w->stream = s;
    w->start_revision = args->start_revision;
    w->flags = args->flags;
    w->key_len = (uint32_t)args->key.len;
    w->range_end_len = (uint32_t)args->range_end.len;
    w->identity_len = (uint32_t)args->identity.len;
    p = w->bytes;
    memcpy(p, args->key.data, args->key.len);
    p += args->key.len;
    if (args->range_end.len > 0)
        memcpy(p, args->range_end.data, args->range_end.len);
    p += args->range_end.len;
    if (args->identity.len > 0)
        memcpy(p, args->identity.data, args->identity.len);
    w->number = number_take(&ws->watchers, w);
    ws->watcher_count++;
    list_push_back(&s->watchers, &w->node);
    if (ws->linked)
        send_create(w);
    return w;
}

struct watcher *watches_stream_next(const struct watches_stream *s, const struct watcher *after)
{
    const struct list *node = after != NULL ? after->node.next : s->watchers.next;

    return node != &s->watchers ? LIST_ENTRY(node, struct watcher, node) : NULL;
}

/* The owner hears of the end; the number may still be stored's. */
static void report_canceled(struct watcher *w, int outcome, int64_t compact_revision)
{
    struct watches_stream *s = w->stream;

    if (w->state != WATCHER_OVER && s->ops != NULL)
        s->ops->canceled(s->user, w, outcome, s->ws->revision, compact_revision, w->next);
    w->state = WATCHER_OVER;
}

static void touch(struct watches_stream *s)
{
    if (s->ops == NULL)
        return;
    if (list_empty(&s->touched_node))
        list_push_back(&s->ws->touched, &s->touched_node);
    loop_hook_arm(s->ws->flush_hook);
}

void watches_cancel(struct watcher *w)
{
    struct watches *ws = w->stream->ws;

    if (w->state == WATCHER_CANCELING || w->state == WATCHER_OVER)
        return;
    w->cancel_wanted = true;
    if (!ws->linked) {
        /* on_up goes through with it: then the answer comes from there in any case */
        return;
    }
    if (w->state == WATCHER_OPEN)
        w->state = WATCHER_CANCELING;
    send_empty(ws, PROTO_WATCH_CANCEL, w->number);
}

void watches_progress(struct watches_stream *s, const struct watcher *w)
{
    uint32_t number = w != NULL ? w->number : s->number;
    struct buf *b = backend_stored_begin(*s->ws->backend, PROTO_WATCH_PROGRESS, number);

    if (b == NULL)
        return;
    proto_watch_progress_encode(b, &(struct proto_watch_progress){.whole_stream = w == NULL});
    backend_stored_end(*s->ws->backend);
}

/* ---- streams ---- */

struct watches_stream *watches_stream_new(struct watches *ws, const struct watches_ops *ops,
                                          void *user)
{
    struct watches_stream *s = xcalloc(1, sizeof(*s));

    s->ws = ws;
    s->ops = ops;
    s->user = user;
    list_init(&s->watchers);
    list_init(&s->touched_node);
    s->number = number_take(&ws->streams, s);
    ws->stream_count++;
    return s;
}

static void stream_free(struct watches_stream *s)
{
    while (!list_empty(&s->watchers))
        watcher_free(LIST_ENTRY(s->watchers.next, struct watcher, node));
    list_remove(&s->touched_node);
    number_give(&s->ws->streams, s->number);
    free(s);
}

void watches_stream_close(struct watches_stream *s)
{
    s->ops = NULL;
    s->ws->stream_count--;
    list_remove(&s->touched_node);
    if (!s->known)
        stream_free(s);
    else
        send_empty(s->ws, PROTO_WATCH_CLOSE, s->number);
}

void watches_stream_consumed(struct watches_stream *s, uint64_t waiting_bytes)
{
    uint64_t consumed = s->received_units - MIN(waiting_bytes, s->received_units);
    struct buf *b;

    if (consumed < s->acked_units + PROTO_WATCH_ACK_STEP_UNITS)
        return;
    b = backend_stored_begin(*s->ws->backend, PROTO_WATCH_ACK, s->number);
    if (b == NULL)
        return;
    proto_u64_encode(b, &(struct proto_u64){.value = consumed});
    backend_stored_end(*s->ws->backend);
    s->acked_units = consumed;
}

static void on_flush(void *user)
{
    struct watches *ws = user;
    struct list *node;

    while ((node = list_pop_front(&ws->touched)) != NULL) {
        struct watches_stream *s = LIST_ENTRY(node, struct watches_stream, touched_node);

        if (s->ops != NULL)
            s->ops->flush(s->user);
    }
}

/* ---- what stored says ---- */

static void on_created(struct watches *ws, uint64_t number, struct bytes body)
{
    struct watcher *w = number_find(&ws->watchers, number);
    struct proto_watch_created m;
    struct watches_stream *s;

    if (w == NULL || w->state != WATCHER_NEW || proto_watch_created_decode(body, &m) != 0)
        return;
    s = w->stream;
    ws->revision = MAX(ws->revision, m.revision);
    if (s->ops == NULL)
        return; /* the stream closes */
    touch(s);
    if (m.outcome != OUT_OK) {
        if (w->announced)
            report_canceled(w, m.outcome, 0);
        else
            s->ops->created(s->user, w, m.outcome, m.revision);
        w->state = WATCHER_OVER;
        if (!w->cancel_wanted) /* else stored answers that, too */
            watcher_free(w);
        return;
    }
    w->state = w->cancel_wanted ? WATCHER_CANCELING : WATCHER_OPEN;
    set_behind(w, !m.at_head);
    if (w->announced)
        return;
    w->announced = true;
    w->next = m.next;
    s->ops->created(s->user, w, OUT_OK, m.revision);
}

static void on_canceled(struct watches *ws, uint64_t number, struct bytes body)
{
    struct watcher *w = number_find(&ws->watchers, number);
    struct proto_watch_canceled m;

    if (w == NULL || proto_watch_canceled_decode(body, &m) != 0)
        return;
    ws->revision = MAX(ws->revision, m.revision);
    if (m.next > w->next)
        w->next = m.next;
    touch(w->stream);
    report_canceled(w, m.outcome, m.compact_revision);
    if (m.reply || !w->cancel_wanted)
        watcher_free(w);
}

static void deliver(struct watcher *w, int64_t revision, struct bytes events)
{
    struct watches_stream *s = w->stream;

    if (w->state != WATCHER_OPEN || s->ops == NULL || events.len == 0)
        return;
    w->quiet = false;
    s->ops->events(s->user, w, revision, events);
}

static void deliver_blocks(struct watcher *w, int64_t revision, struct shared_bytes *const *blocks,
                           size_t count)
{
    struct watches_stream *s = w->stream;
    struct buf *joined = &s->ws->joined;

    if (w->state != WATCHER_OPEN || s->ops == NULL || count == 0)
        return;
    w->quiet = false;
    if (s->ops->large != NULL) {
        s->ops->large(s->user, w, revision, blocks, count);
        return;
    }
    buf_clear(joined);
    for (size_t i = 0; i < count; i++)
        buf_append_bytes(joined, shared_bytes_get(blocks[i]));
    s->ops->events(s->user, w, revision, buf_bytes(joined));
    buf_clear(joined);
    buf_trim(joined, KEEP_BYTES);
}

/* The events of a group, one behind the other. */
static struct bytes join_hits(struct watches *ws, const struct proto_watch_ids *hits)
{
    if (hits->count == 1)
        return ws->table[proto_watch_id(hits, 0)].bytes;
    buf_clear(&ws->joined);
    for (uint32_t i = 0; i < hits->count; i++)
        buf_append_bytes(&ws->joined, ws->table[proto_watch_id(hits, i)].bytes);
    return buf_bytes(&ws->joined);
}

static void deliver_group(struct watches *ws, const struct proto_watch_group *group)
{
    struct bytes events = join_hits(ws, &group->hits);
    int64_t revision = ws->table[proto_watch_id(&group->hits, group->hits.count - 1)].revision;
    struct shared_bytes *shared = NULL;

    ws->revision = MAX(ws->revision, revision);
    if (events.len >= SHARE_BYTES && group->ids.count > 1)
        shared = shared_bytes_new(events);
    for (uint32_t i = 0; i < group->ids.count; i++) {
        struct watcher *w = number_find(&ws->watchers, proto_watch_id(&group->ids, i));

        if (w == NULL)
            continue;
        w->stream->received_units += proto_watch_units(events.len);
        w->next = revision + 1;
        touch(w->stream);
        ws->events_total += group->hits.count;
        if (shared != NULL)
            deliver_blocks(w, revision, &shared, 1);
        else
            deliver(w, revision, events);
    }
    shared_bytes_unref(shared);
}

static int on_events(struct watches *ws, struct bytes body)
{
    struct wire_reader r = wire_reader(body);
    uint32_t count = wire_get_u32(&r);
    struct proto_watch_group group;

    if (count > body.len)
        return -1;
    if (count > ws->table_cap) {
        ws->table_cap = count;
        ws->table = xreallocarray(ws->table, count, sizeof(ws->table[0]));
    }
    for (uint32_t i = 0; i < count; i++) {
        struct proto_watch_event event;

        if (proto_watch_event_read(&r, &event) != 0)
            return -1;
        ws->table[i] = (struct table_entry){event.revision, event.bytes};
    }
    while (r.pos < r.end) {
        if (proto_watch_group_read(&r, count, &group) != 0)
            return -1;
        deliver_group(ws, &group);
    }
    buf_clear(&ws->joined);
    buf_trim(&ws->joined, KEEP_BYTES);
    return 0;
}

static void take_history(struct watcher *w, const struct proto_watch_history *h)
{
    struct watches *ws = w->stream->ws;
    struct pb_reader r = pb_reader(h->events);
    struct shared_bytes *const *blocks;
    struct pb_field f;
    size_t count;

    w->stream->received_units += proto_watch_units(h->events.len);
    touch(w->stream);
    if (w->state == WATCHER_OPEN) {
        while (pb_next(&r, &f))
            ws->events_total++;
    }
    if (h->more) {
        if (w->state != WATCHER_OPEN)
            return; /* it gets no events any more */
        if (w->partial == NULL)
            w->partial = large_place_new(ws->large, h->next);
        large_place_add(w->partial, h->events);
        return;
    }
    w->next = MAX(w->next, h->next);
    set_behind(w, !h->at_head);
    if (w->partial == NULL) {
        deliver(w, h->revision, h->events);
        return;
    }
    large_place_add(w->partial, h->events);
    blocks = large_place_blocks(w->partial, &count);
    deliver_blocks(w, h->revision, blocks, count);
    drop_partial(w);
}

static int on_history(struct watches *ws, struct bytes body)
{
    struct proto_watch_history h;

    if (proto_watch_history_decode(body, &h) != 0)
        return -1;
    ws->revision = MAX(ws->revision, h.revision);
    for (uint32_t i = 0; i < h.ids.count; i++) {
        struct watcher *w = number_find(&ws->watchers, proto_watch_id(&h.ids, i));

        if (w != NULL)
            take_history(w, &h);
    }
    return 0;
}

static int on_behind(struct watches *ws, struct bytes body)
{
    struct proto_watch_behind m;

    if (proto_watch_behind_decode(body, &m) != 0)
        return -1;
    for (uint32_t i = 0; i < m.ids.count; i++) {
        struct watcher *w = number_find(&ws->watchers, proto_watch_id(&m.ids, i));

        if (w == NULL)
            continue;
        w->next = MAX(w->next, m.next);
        set_behind(w, true);
    }
    return 0;
}

static void on_closed(struct watches *ws, uint64_t number)
{
    struct watches_stream *s = number_find(&ws->streams, number);

    if (s != NULL && s->ops == NULL)
        stream_free(s);
}

static int on_progressed(struct watches *ws, uint64_t number, struct bytes body)
{
    struct proto_watch_progress m;
    struct watcher *w = NULL;
    struct watches_stream *s;

    if (proto_watch_progress_decode(body, &m) != 0)
        return -1;
    if (m.whole_stream) {
        s = number_find(&ws->streams, number);
    } else {
        w = number_find(&ws->watchers, number);
        s = w != NULL && w->state == WATCHER_OPEN ? w->stream : NULL;
    }
    ws->revision = MAX(ws->revision, m.revision);
    if (s == NULL || s->ops == NULL)
        return 0;
    s->ops->progress(s->user, w, m.revision);
    touch(s);
    return 0;
}

static void on_message(void *user, uint16_t type, uint64_t id, struct bytes body)
{
    struct watches *ws = ((struct gatewayd *)user)->watches;
    struct proto_u64 head;
    int r = 0;

    switch (type) {
    case PROTO_WATCH_CREATED:
        on_created(ws, id, body);
        break;
    case PROTO_WATCH_CANCELED:
        on_canceled(ws, id, body);
        break;
    case PROTO_WATCH_CLOSED:
        on_closed(ws, id);
        break;
    case PROTO_WATCH_EVENTS:
        r = on_events(ws, body);
        break;
    case PROTO_WATCH_HISTORY:
        r = on_history(ws, body);
        break;
    case PROTO_WATCH_BEHIND:
        r = on_behind(ws, body);
        break;
    case PROTO_WATCH_HEAD:
        r = proto_u64_decode(body, &head);
        if (r == 0) {
            ws->head = (int64_t)head.value;
            ws->revision = MAX(ws->revision, ws->head);
        }
        break;
    case PROTO_WATCH_PROGRESSED:
        r = on_progressed(ws, id, body);
        break;
    default:
        r = -1;
    }
    if (r != 0)
        log_error("stored sent a malformed message of type %u about watches", (unsigned int)type);
}

/* ---- the link ---- */

static void on_up(void *user)
{
    struct watches *ws = ((struct gatewayd *)user)->watches;

    ws->linked = true;
    for (uint32_t i = 0; i < ws->streams.used; i++) {
        struct watches_stream *s = ws->streams.slots[i];

        if (s == NULL)
            continue;
        LIST_FOREACH(it, &s->watchers)
        {
            struct watcher *w = LIST_ENTRY(it, struct watcher, node);

            send_create(w);
            if (w->cancel_wanted)
                send_empty(ws, PROTO_WATCH_CANCEL, w->number);
        }
    }
}

/* Stored knows nobody any more: all start anew where they stood. */
static void forget_link(struct watches *ws, struct watches_stream *s)
{
    s->known = false;
    s->received_units = s->acked_units = 0;
    if (s->ops == NULL) {
        stream_free(s);
        return;
    }
    LIST_FOREACH_SAFE(it, next, &s->watchers)
    {
        struct watcher *w = LIST_ENTRY(it, struct watcher, node);

        drop_partial(w);
        if (w->announced && w->state == WATCHER_OPEN && !w->behind)
            w->next = MAX(w->next, ws->head + 1);
        if (w->state == WATCHER_CANCELING || w->state == WATCHER_OVER) {
            report_canceled(w, OUT_OK, 0);
            touch(s);
            watcher_free(w);
            continue;
        }
        set_behind(w, true);
        w->state = WATCHER_NEW;
    }
}

static void on_down(void *user)
{
    struct watches *ws = ((struct gatewayd *)user)->watches;

    ws->linked = false;
    for (uint32_t i = 0; i < ws->streams.used; i++) {
        struct watches_stream *s = ws->streams.slots[i];

        if (s != NULL)
            forget_link(ws, s);
    }
    ws->head = 0;
}

const struct backend_watch_ops watches_backend_ops = {on_up, on_down, on_message};

/* ---- life ---- */

struct watches *watches_new(struct loop *loop, struct backend **backend)
{
    struct watches *ws = xcalloc(1, sizeof(*ws));

    ws->backend = backend;
    list_init(&ws->touched);
    ws->large = large_events_new(loop);
    ws->flush_hook = loop_hook_new(loop, "watches", LOOP_PHASE_WORK, on_flush, ws);
    return ws;
}

void watches_free(struct watches *ws)
{
    if (ws == NULL)
        return;
    for (uint32_t i = 0; i < ws->streams.used; i++) {
        struct watches_stream *s = ws->streams.slots[i];

        assert(s == NULL || s->ops == NULL);
        if (s != NULL)
            stream_free(s);
    }
    large_events_free(ws->large);
    loop_hook_free(ws->flush_hook);
    numbers_fini(&ws->watchers);
    numbers_fini(&ws->streams);
    free(ws->table);
    buf_fini(&ws->joined);
    free(ws);
}

void watches_get_stats(const struct watches *ws, struct watches_stats *ret)
{
    *ret = (struct watches_stats){ws->watcher_count, ws->stream_count, ws->behind_count,
                                  ws->events_total};
}
