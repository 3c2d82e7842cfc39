/*
 * New events to those at the head. A message covers some revisions: its events are matched with the
 * ranges and noted in the groups they concern; then every group's cohorts get the group's list, as
 * far as their streams have credit. What does not fit a message of reasonable size (one revision
 * with very many events) is not sent here: whom it concerns falls behind and reads it in slices.
 */
#include "stored/watch/watch_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "lib/loop/loop.h"
#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum {
    MESSAGE_EVENTS_MAX = 4096,  /* in one message */
    MESSAGE_HITS_MAX = 1 << 17, /* of all groups together: a few milliseconds' work */
    MESSAGE_RECORD_BYTES = 1 << 20,
    TABLE_BYTES_MAX = 8 << 20,    /* previous values included */
    MESSAGE_BYTES_MAX = 16 << 20, /* with the lists */
    COHORT_BYTES_MAX = 4 << 20,   /* of one cohort's responses together */
    LAG_BYTES_MAX = 32 << 20,     /* of events waiting for the link; then everybody falls behind */
    KEEP_BYTES = 1 << 20,         /* of buffers, between messages */
    HITS_KEEP = 64,               /* places a group keeps memory for */
    NOT_IN_TABLE = UINT32_MAX,
};

/* One message's worth of events: places [from, to) of the log. */
struct chunk {
    struct watch_hub *hub;
    uint64_t from, to;
    int64_t last;   /* revision */
    bool only_fall; /* nothing is sent: whom it concerns falls behind */
    bool too_large; /* the table is */
    uint64_t hits;
    struct kv_event event;
    uint32_t plain, with_prev; /* its places in the table */
    struct {
        int64_t revision;
        uint32_t bytes;
    } * places; /* of the table */
    size_t place_cap;
    int result;
};

/* As many revisions as go into a message. */
static void measure(struct chunk *c)
{
    const struct watch_log *log = c->hub->args.log;
    uint64_t end = watch_log_end(log), place = c->from, complete = c->from;
    int64_t revision = watch_log_at(log, c->from).main;
    size_t bytes = 0;

    for (; place < end; place++) {
        struct kv_event e = watch_log_at(log, place);

        if (e.main != revision) {
            complete = place;
            c->last = revision;
            revision = e.main;
        }
        bytes += e.record.len + e.key.len;
        if (complete > c->from &&
            (place - c->from >= c->hub->message_events || bytes > MESSAGE_RECORD_BYTES)) {
            c->to = complete;
            return;
        }
    }
    c->to = end;
    c->last = revision;
}

/* Only its first revision. */
static void shrink(struct chunk *c)
{
    const struct watch_log *log = c->hub->args.log;

    c->last = watch_log_at(log, c->from).main;
    c->to = MIN(c->to, watch_log_find(log, c->last + 1));
}

static uint32_t add_to_table(struct chunk *c, struct bytes prev)
{
    struct watch_hub *hub = c->hub;
    size_t at, len;

    wire_put_i64(&hub->table, c->event.main);
    wire_put_u32(&hub->table, 0);
    at = hub->table.len;
    kv_event_encode(&c->event, prev, &hub->table);
    len = hub->table.len - at;
    memcpy(hub->table.data + at - sizeof(uint32_t), &(uint32_t){(uint32_t)len}, sizeof(uint32_t));
    if (hub->table_count == c->place_cap) {
        c->place_cap = c->place_cap * 2 + 64;
        c->places = xreallocarray(c->places, c->place_cap, sizeof(c->places[0]));
    }
    c->places[hub->table_count].revision = c->event.main;
    c->places[hub->table_count].bytes = (uint32_t)len;
    c->too_large = c->too_large || hub->table.len > TABLE_BYTES_MAX;
    return hub->table_count++;
}

/* Its place in the table, with the previous value or without. */
static uint32_t place_of(struct chunk *c, bool prev_kv)
{
    uint32_t *place = prev_kv ? &c->with_prev : &c->plain;
    struct watch_hub *hub = c->hub;

    if (*place != NOT_IN_TABLE)
        return *place;
    buf_clear(&hub->prev);
    if (prev_kv) {
        int r = kv_event_prev(watch_log_kv(hub->args.log), c->event.key, c->event.main, &hub->prev);

        if (r < 0)
            c->result = r;
    }
    *place = add_to_table(c, buf_bytes(&hub->prev));
    return *place;
}

static void hit(struct chunk *c, struct watch_group *g)
{
    uint32_t place;

    if (list_empty(&g->heads) || !watch_flags_want(g->flags, c->event.is_delete))
        return;
    if (c->only_fall) { /* the first one is all that matters, and its revision is c->last */
        if (g->hit_count++ == 0)
            list_push_back(&c->hub->touched, &g->touched_node);
        return;
    }
    place = place_of(c, (g->flags & PROTO_WATCH_PREV_KV) != 0);
    if (g->hit_count == g->hit_cap) {
        g->hit_cap = g->hit_cap * 2 + 4;
        g->hits = xreallocarray(g->hits, g->hit_cap, sizeof(g->hits[0]));
    }
    if (g->hit_count == 0)
        list_push_back(&c->hub->touched, &g->touched_node);
    c->hits++;
    g->hits[g->hit_count++] = place;
    g->hit_bytes += c->places[place].bytes;
}

static void on_match(void *user, struct watch_range *range)
{
    for (struct watch_group *g = range->groups; g != NULL; g = g->next)
        hit(user, g);
}

static void forget_hits(struct watch_hub *hub)
{
    struct list *node;

    while ((node = list_pop_front(&hub->touched)) != NULL) {
        struct watch_group *g = LIST_ENTRY(node, struct watch_group, touched_node);

        g->hit_count = g->hit_bytes = 0;
        if (g->hit_cap > HITS_KEEP) {
            free(g->hits);
            g->hits = NULL;
            g->hit_cap = 0;
        }
    }
    buf_clear(&hub->table);
    buf_trim(&hub->table, KEEP_BYTES);
    hub->table_count = 0;
}

/* False: it is too much for one message, and could be less. */
static bool match(struct chunk *c)
{
    bool is_one = watch_log_at(c->hub->args.log, c->from).main == c->last;

    for (uint64_t place = c->from; place < c->to && !c->too_large; place++) {
        if (!is_one && c->hits > MESSAGE_HITS_MAX)
            return false;
        c->event = watch_log_at(c->hub->args.log, place);
        c->plain = c->with_prev = NOT_IN_TABLE;
        watch_ranges_match(&c->hub->ranges, c->event.key, on_match, c);
    }
    return true;
}

/* ---- sending: groups of the message gather in hub->slice ---- */

static int64_t hit_revision(const struct chunk *c, const struct watch_group *g, size_t i)
{
    return c->only_fall ? c->last : c->places[g->hits[i]].revision;
}

static void put_group(struct watch_hub *hub, const struct watch_group *g, size_t skip)
{
    if (hub->ids.len == 0)
        return;
    proto_watch_ids_put(&hub->slice, g->hits + skip, g->hit_count - skip);
    proto_watch_ids_put(&hub->slice, (const uint32_t *)hub->ids.data,
                        hub->ids.len / sizeof(uint32_t));
    buf_clear(&hub->ids);
}

/* Gives the cohort the group's events but for the first `skip`, or lets it fall behind there. */
static void give(struct chunk *chunk, struct watch_cohort *c, size_t skip, size_t bytes)
{
    struct watch_hub *hub = chunk->hub;
    size_t list_bytes = c->count * sizeof(c->ids[0]);

    if (!chunk->only_fall && watch_stream_has_credit(hub, c->stream) &&
        (c->count == 1 || bytes * c->count <= COHORT_BYTES_MAX) &&
        hub->table.len + hub->slice.len + hub->ids.len + list_bytes <= MESSAGE_BYTES_MAX) {
        buf_append(&hub->ids, c->ids, list_bytes);
        watch_stream_charge(hub, c->stream, c->count * proto_watch_units(bytes));
        return;
    }
    c->next = hit_revision(chunk, c->group, skip);
    list_remove(&c->node);
    list_push_back(&hub->fell, &c->node);
}

static void give_group(struct chunk *chunk, struct watch_group *g)
{
    size_t last = chunk->only_fall ? 0 : g->hit_count - 1;
    bool some_late = false;

    LIST_FOREACH_SAFE(it, next, &g->heads)
    {
        struct watch_cohort *c = LIST_ENTRY(it, struct watch_cohort, node);

        if (UNLIKELY(!c->joined && c->next > hit_revision(chunk, g, 0)))
            some_late = true;
        else
            give(chunk, c, 0, g->hit_bytes);
    }
    put_group(chunk->hub, g, 0);
    if (LIKELY(!some_late))
        return;
    LIST_FOREACH_SAFE(it, next, &g->heads)
    { /* those that start later, in or after these events */
        struct watch_cohort *c = LIST_ENTRY(it, struct watch_cohort, node);
        size_t skip = 0, bytes = g->hit_bytes;

        if (c->joined || c->next <= hit_revision(chunk, g, 0) ||
            c->next > hit_revision(chunk, g, last))
            continue;
        while (hit_revision(chunk, g, skip) < c->next)
            bytes -= chunk->places[g->hits[skip++]].bytes;
        give(chunk, c, skip, bytes);
        put_group(chunk->hub, g, skip);
    }
}

static void send_events(struct watch_hub *hub)
{
    struct buf *out;

    if (hub->slice.len == 0)
        return;
    out = hub->args.sink->begin(hub->args.user, PROTO_WATCH_EVENTS, 0);
    if (out == NULL)
        return;
    wire_put_u32(out, hub->table_count);
    buf_append_bytes(out, buf_bytes(&hub->table));
    buf_append_bytes(out, buf_bytes(&hub->slice));
    hub->args.sink->end(hub->args.user);
}

static void give_all(struct chunk *chunk)
{
    struct watch_hub *hub = chunk->hub;
    struct list *node;

    buf_clear(&hub->slice);
    LIST_FOREACH(it, &hub->touched)
    give_group(chunk, LIST_ENTRY(it, struct watch_group, touched_node));
    send_events(hub);
    buf_clear(&hub->slice);
    buf_trim(&hub->slice, KEEP_BYTES);
    forget_hits(hub);
    while ((node = list_pop_front(&hub->fell)) != NULL) {
        struct watch_cohort *c = LIST_ENTRY(node, struct watch_cohort, node);

        watch_cohort_fall_behind(hub, c, c->next);
    }
    hub->head = chunk->last;
}

/* ---- one message after the other ---- */

static int dispatch_chunk(struct watch_hub *hub, uint64_t from, bool only_fall)
{
    struct chunk c = {.hub = hub, .from = from};

    hub->message_events = MIN(hub->message_events * 2 + 1, (uint64_t)MESSAGE_EVENTS_MAX);
    measure(&c);
    if (only_fall)
        shrink(&c);
    /* one revision that is more than a message */
    c.only_fall = only_fall || c.to - c.from > MESSAGE_EVENTS_MAX;
    while (!match(&c)) {
        forget_hits(hub);
        hub->message_events /= 4;
        c.hits = 0;
        measure(&c);
    }
    if (c.too_large) {
        forget_hits(hub);
        shrink(&c);
        c.too_large = false;
        c.only_fall = true;
        match(&c);
    }
    /* who falls, falls to the beginning of the one revision there is */
    assert(!c.only_fall || watch_log_at(hub->args.log, from).main == c.last);
    if (c.result == 0)
        give_all(&c);
    free(c.places);
    return c.result;
}

/* Those behind a compaction cannot go on. One that reads from memory can. */
static void cancel_compacted(struct watch_hub *hub, int64_t compact_revision)
{
    int64_t floor = watch_log_floor(hub->args.log);
    size_t pos = 0;
    uint64_t number;
    void *stream;

    hub->compacted = compact_revision;
    watch_hub_tell_head(
        hub); /* or, after a restart of ours, a quiet watcher would seem to be late */
    if (hub->behind_count == 0)
        return;
    while (hmap_next(&hub->streams, &pos, &number, &stream)) {
        struct watch_stream *s = stream;

        LIST_FOREACH_SAFE(it, next, &s->behind)
        {
            struct watch_cohort *c = LIST_ENTRY(it, struct watch_cohort, node);

            if (c->next < compact_revision && c->next < floor)
                watch_cohort_cancel(hub, c, OUT_COMPACTED);
        }
    }
}

int watch_hub_dispatch(struct watch_hub *hub, uint64_t deadline_ns, uint64_t now_ms)
{
    struct watch_log *log = hub->args.log;
    struct kv_state state;
    uint64_t place;
    int r = 0;

    hub->now_ms = now_ms;
    kv_get_state(watch_log_kv(log), &state);
    if (hub->watchers.count == 0) {
        hub->head = state.revision;
        return 0;
    }
    assert(watch_log_floor(log) <= hub->head + 1);
    place = hub->head < state.revision ? watch_log_find(log, hub->head + 1) : watch_log_end(log);
    while (r == 0 && place < watch_log_end(log)) {
        bool writable = hub->args.sink->writable(hub->args.user);

        if (!writable && watch_log_bytes(log) <= LAG_BYTES_MAX)
            break;
        r = dispatch_chunk(hub, place, !writable);
        place = watch_log_find(log, hub->head + 1);
        if (r == 0 && place < watch_log_end(log) && loop_clock_ns() >= deadline_ns)
            return 1;
    }
    if (r == 0 && state.compact_revision > hub->compacted)
        cancel_compacted(hub, state.compact_revision);
    return r;
}
