/* See watch.h. */
#include "stored/watch/watch_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "lib/loop/loop.h"
#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

/* ---- messages ---- */

static struct buf *begin(struct watch_hub *hub, uint16_t type, uint64_t id)
{
    return hub->args.sink->begin(hub->args.user, type, id);
}

static void end(struct watch_hub *hub)
{
    hub->args.sink->end(hub->args.user);
}

static void send_created(struct watch_hub *hub, uint32_t id, const struct proto_watch_created *m)
{
    struct buf *b = begin(hub, PROTO_WATCH_CREATED, id);

    if (b == NULL)
        return;
    proto_watch_created_encode(b, m);
    end(hub);
}

static void send_canceled(struct watch_hub *hub, uint32_t id, const struct proto_watch_canceled *m)
{
    struct buf *b = begin(hub, PROTO_WATCH_CANCELED, id);

    if (b == NULL)
        return;
    proto_watch_canceled_encode(b, m);
    end(hub);
}

static void send_behind(struct watch_hub *hub, const struct watch_cohort *c)
{
    struct buf *b = begin(hub, PROTO_WATCH_BEHIND, 0);

    if (b == NULL)
        return;
    proto_watch_behind_begin(b, c->next);
    proto_watch_ids_put(b, c->ids, c->count);
    end(hub);
}

void watch_hub_tell_head(struct watch_hub *hub)
{
    struct buf *b;

    if (hub->told == hub->head || hub->watchers.count == 0)
        return;
    b = begin(hub, PROTO_WATCH_HEAD, 0);
    if (b == NULL)
        return;
    proto_u64_encode(b, &(struct proto_u64){.value = (uint64_t)hub->head});
    end(hub);
    hub->told = hub->head;
}

/* ---- groups ---- */

static struct watch_group *group_get(struct watch_hub *hub, const struct proto_watch_create *m)
{
    struct watch_range *range = watch_ranges_get(&hub->ranges, m->key, m->range_end);
    uint8_t flags = m->flags & WATCH_GROUP_FLAGS;
    struct watch_group *g = range->groups;

    while (g != NULL && g->flags != flags)
        g = g->next;
    if (g != NULL)
        return g;
    g = xcalloc(1, sizeof(*g));
    g->range = range;
    g->flags = flags;
    g->number = ++hub->last_group;
    list_init(&g->heads);
    list_init(&g->touched_node);
    g->next = range->groups;
    range->groups = g;
    return g;
}

static void group_put(struct watch_hub *hub, struct watch_group *g)
{
    struct watch_group **link = &g->range->groups;

    if (g->cohort_count > 0)
        return;
    while (*link != g)
        link = &(*link)->next;
    *link = g->next;
    if (g->range->groups == NULL)
        watch_ranges_remove(&hub->ranges, g->range);
    list_remove(&g->touched_node);
    free(g->hits);
    free(g);
}

/* ---- streams ---- */

static struct watch_stream *stream_get(struct watch_hub *hub, uint32_t number)
{
    struct watch_stream *s = hmap_get(&hub->streams, number);

    if (s != NULL)
        return s;
    s = xcalloc(1, sizeof(*s));
    s->number = number;
    list_init(&s->cohorts);
    list_init(&s->behind);
    list_init(&s->node);
    hmap_put(&hub->streams, number, s);
    return s;
}

void watch_stream_schedule(struct watch_hub *hub, struct watch_stream *s)
{
    bool wants = !list_empty(&s->behind) && watch_stream_has_credit(hub, s);

    if (!wants)
        list_remove(&s->node);
    else if (list_empty(&s->node))
        list_push_back(&hub->runnable, &s->node);
}

void watch_stream_charge(struct watch_hub *hub, struct watch_stream *s, uint64_t units)
{
    if (s->sent_units == s->acked_units)
        s->progress_ms = hub->now_ms;
    s->sent_units += units;
    hub->unacked_units += units;
}

/* ---- cohorts ---- */

static uint64_t head_key(const struct watch_cohort *c)
{
    return (uint64_t)c->group->number << 32 | c->stream->number;
}

static struct watch_cohort *cohort_new(struct watch_group *g, struct watch_stream *s)
{
    struct watch_cohort *c = xcalloc(1, sizeof(*c));

    c->group = g;
    c->stream = s;
    c->ids = &c->one;
    c->cap = 1;
    list_init(&c->node);
    list_push_back(&s->cohorts, &c->stream_node);
    g->cohort_count++;
    return c;
}

static void cohort_add(struct watch_hub *hub, struct watch_cohort *c, uint32_t id)
{
    if (c->count == c->cap) {
        uint32_t cap = c->cap * 2 + 2;
        uint32_t *ids = c->cap == 1 ? NULL : c->ids;

        ids = xreallocarray(ids, cap, sizeof(*ids));
        if (c->cap == 1)
            ids[0] = c->one;
        c->ids = ids;
        c->cap = cap;
    }
    c->ids[c->count++] = id;
    hmap_put(&hub->watchers, id, c);
    if (!c->at_head)
        hub->behind_count++;
}

static void leave_head(struct watch_hub *hub, struct watch_cohort *c)
{
    if (c->joined) {
        hmap_remove(&hub->heads, head_key(c));
        c->next = hub->head + 1;
        c->joined = false;
    }
}

/* Its watchers were taken out of it or are forgotten by the caller. */
static void cohort_free(struct watch_hub *hub, struct watch_cohort *c)
{
    struct watch_stream *s = c->stream;
    struct watch_group *g = c->group;

    leave_head(hub, c);
    list_remove(&c->node);
    list_remove(&c->stream_node);
    if (c->ids != &c->one)
        free(c->ids);
    free(c);
    g->cohort_count--;
    group_put(hub, g);
    watch_stream_schedule(hub, s);
}

static void forget_watcher(struct watch_hub *hub, struct watch_cohort *c, uint32_t id)
{
    hmap_remove(&hub->watchers, id);
    if (!c->at_head)
        hub->behind_count--;
    if (hub->watchers.count == 0)
        watch_log_release(hub->args.log);
}

void watch_cohort_fall_behind(struct watch_hub *hub, struct watch_cohort *c, int64_t next)
{
    assert(c->at_head);
    leave_head(hub, c);
    c->at_head = false;
    c->next = next;
    c->next_sub = 0;
    hub->behind_count += c->count;
    list_remove(&c->node);
    list_push_back(&c->stream->behind, &c->node);
    watch_stream_schedule(hub, c->stream);
    send_behind(hub, c);
}

/* At the head and wanting everything from there on: one cohort per group and stream. */
static void place_at_head(struct watch_hub *hub, struct watch_cohort *c)
{
    struct watch_cohort *there;

    c->at_head = true;
    list_remove(&c->node);
    if (c->next > hub->head + 1) { /* one that starts in the future stays alone */
        list_push_back(&c->group->heads, &c->node);
        return;
    }
    there = hmap_get(&hub->heads, head_key(c));
    if (there == NULL) {
        c->joined = true;
        hmap_put(&hub->heads, head_key(c), c);
        list_push_back(&c->group->heads, &c->node);
        return;
    }
    for (uint32_t i = 0; i < c->count; i++)
        cohort_add(hub, there, c->ids[i]);
    cohort_free(hub, c);
}

void watch_cohort_join_head(struct watch_hub *hub, struct watch_cohort *c)
{
    struct watch_stream *s = c->stream;

    assert(!c->at_head);
    hub->behind_count -= c->count;
    place_at_head(hub, c);
    watch_stream_schedule(hub, s);
}

void watch_cohort_split(struct watch_hub *hub, struct watch_cohort *c, uint32_t keep)
{
    struct watch_cohort *rest = cohort_new(c->group, c->stream);

    assert(!c->at_head);
    assert(keep > 0);
    rest->next = c->next;
    rest->next_sub = c->next_sub;
    rest->part_open = c->part_open;
    hub->behind_count -= c->count - keep;
    for (uint32_t i = keep; i < c->count; i++)
        cohort_add(hub, rest, c->ids[i]);
    c->count = keep;
    list_push_back(&c->stream->behind, &rest->node);
}

void watch_cohort_cancel(struct watch_hub *hub, struct watch_cohort *c, int outcome)
{
    struct proto_watch_canceled m = {.outcome = (uint16_t)outcome, .next = c->next};
    struct kv_state state;

    kv_get_state(watch_log_kv(hub->args.log), &state);
    m.revision = state.revision;
    if (outcome == OUT_COMPACTED)
        m.compact_revision = state.compact_revision;
    for (uint32_t i = 0; i < c->count; i++) {
        send_canceled(hub, c->ids[i], &m);
        forget_watcher(hub, c, c->ids[i]);
    }
    cohort_free(hub, c);
}

/* ---- life ---- */

struct watch_hub *watch_hub_new(const struct watch_hub_args *args)
{
    struct watch_hub *hub = xcalloc(1, sizeof(*hub));

    hub->args = *args;
    hub->message_events = 1;
    hub->watchers = hub->streams = hub->heads = HMAP_INIT;
    watch_ranges_init(&hub->ranges);
    list_init(&hub->runnable);
    list_init(&hub->waiting);
    list_init(&hub->touched);
    list_init(&hub->fell);
    return hub;
}

static void drop_stream(struct watch_hub *hub, struct watch_stream *s)
{
    while (!list_empty(&s->cohorts)) {
        struct watch_cohort *c = LIST_ENTRY(s->cohorts.next, struct watch_cohort, stream_node);

        for (uint32_t i = 0; i < c->count; i++)
            forget_watcher(hub, c, c->ids[i]);
        cohort_free(hub, c);
    }
    hub->unacked_units -= s->sent_units - s->acked_units;
    list_remove(&s->node);
    hmap_remove(&hub->streams, s->number);
    free(s);
}

void watch_hub_free(struct watch_hub *hub)
{
    size_t pos = 0;
    uint64_t number;
    void *stream;

    if (hub == NULL)
        return;
    while (hmap_next(&hub->streams, &pos, &number, &stream)) {
        drop_stream(hub, stream);
        pos = 0;
    }
    assert(hub->watchers.count == 0);
    assert(hub->behind_count == 0);
    watch_ranges_fini(&hub->ranges);
    hmap_fini(&hub->watchers);
    hmap_fini(&hub->streams);
    hmap_fini(&hub->heads);
    buf_fini(&hub->table);
    buf_fini(&hub->ids);
    buf_fini(&hub->prev);
    buf_fini(&hub->slice);
    free(hub);
}

/* ---- what gatewayd asks ---- */

static int check_create(const struct watch_hub *hub, uint32_t id,
                        const struct proto_watch_create *m)
{
    bool is_range = m->range_end.len > 0 && !(m->range_end.len == 1 && m->range_end.data[0] == 0);

    if (watch_log_kv(hub->args.log) == NULL)
        return OUT_STOPPED;
    if ((m->flags & PROTO_WATCH_REFUSE) != 0)
        return OUT_CANCELED;
    if (hmap_get(&hub->watchers, id) != NULL || (is_range && bytes_cmp(m->range_end, m->key) <= 0))
        return OUT_MALFORMED;
    return hub->watchers.count < hub->args.watchers_max ? OUT_OK : OUT_TOO_MANY_REQUESTS;
}

/* The cohort for a new watcher: a joined one when there is one, else a fresh one in its place. */
static struct watch_cohort *cohort_for(struct watch_hub *hub, struct watch_group *g,
                                       struct watch_stream *s, int64_t next)
{
    struct watch_cohort *c;

    if (next == hub->head + 1) {
        c = hmap_get(&hub->heads, (uint64_t)g->number << 32 | s->number);
        if (c != NULL)
            return c;
    }
    c = cohort_new(g, s);
    c->next = next;
    if (next > hub->head)
        place_at_head(hub, c);
    else
        list_push_back(&s->behind, &c->node);
    return c;
}

static int64_t store_revision(const struct watch_hub *hub)
{
    return watch_log_kv(hub->args.log) != NULL ? watch_log_revision(hub->args.log) : hub->head;
}

void watch_hub_refuse(struct watch_hub *hub, uint32_t id, int outcome)
{
    send_created(hub, id,
                 &(struct proto_watch_created){.outcome = (uint16_t)outcome,
                                               .revision = store_revision(hub)});
}

void watch_hub_create(struct watch_hub *hub, uint32_t id, const struct proto_watch_create *m)
{
    struct proto_watch_created created = {.outcome = (uint16_t)check_create(hub, id, m)};
    struct watch_cohort *c;
    struct watch_stream *s;
    struct kv_state state;

    if (created.outcome != OUT_OK) {
        watch_hub_refuse(hub, id, created.outcome);
        return;
    }
    kv_get_state(watch_log_kv(hub->args.log), &state);
    created.revision = state.revision;
    created.next = m->start_revision == 0 ? state.revision + 1 : m->start_revision;
    if (created.next < state.compact_revision) {
        send_created(hub, id, &created);
        send_canceled(hub, id,
                      &(struct proto_watch_canceled){.outcome = OUT_COMPACTED,
                                                     .revision = state.revision,
                                                     .compact_revision = state.compact_revision,
                                                     .next = created.next});
        return;
    }
    if (hub->watchers.count == 0) {
        hub->head = state.revision;
        watch_log_retain(hub->args.log);
    }
    created.at_head = created.next > hub->head;
    s = stream_get(hub, m->stream);
    c = cohort_for(hub, group_get(hub, m), s, created.next);
    cohort_add(hub, c, id);
    send_created(hub, id, &created);
    watch_stream_schedule(hub, s);
}

void watch_hub_cancel(struct watch_hub *hub, uint32_t id)
{
    struct watch_cohort *c = hmap_get(&hub->watchers, id);
    uint32_t i = 0;

    if (c != NULL) {
        while (c->ids[i] != id)
            i++;
        forget_watcher(hub, c, id);
        c->ids[i] = c->ids[--c->count];
        if (c->count == 0)
            cohort_free(hub, c);
    }
    send_canceled(hub, id,
                  &(struct proto_watch_canceled){.reply = true, .revision = store_revision(hub)});
}

void watch_hub_close(struct watch_hub *hub, uint32_t number)
{
    struct watch_stream *s = hmap_get(&hub->streams, number);

    if (s != NULL)
        drop_stream(hub, s);
    if (begin(hub, PROTO_WATCH_CLOSED, number) != NULL)
        end(hub);
}

void watch_hub_ack(struct watch_hub *hub, uint32_t number, uint64_t units, uint64_t now_ms)
{
    struct watch_stream *s = hmap_get(&hub->streams, number);

    if (s == NULL || units > s->sent_units || units <= s->acked_units)
        return;
    hub->unacked_units -= units - s->acked_units;
    s->acked_units = units;
    s->progress_ms = now_ms;
    watch_stream_schedule(hub, s);
}

static bool is_synced(const struct watch_hub *hub, const struct watch_cohort *c)
{
    return c->joined || (c->at_head && c->next <= hub->head + 1);
}

static bool stream_is_synced(const struct watch_hub *hub, const struct watch_stream *s)
{
    LIST_FOREACH(it, &s->cohorts)
    {
        if (!is_synced(hub, LIST_ENTRY(it, struct watch_cohort, stream_node)))
            return false;
    }
    return !list_empty(&s->cohorts);
}

void watch_hub_progress(struct watch_hub *hub, uint32_t id, bool whole_stream)
{
    const struct watch_stream *s = whole_stream ? hmap_get(&hub->streams, id) : NULL;
    const struct watch_cohort *c = whole_stream ? NULL : hmap_get(&hub->watchers, id);
    struct buf *b;

    if (whole_stream ? s == NULL || !stream_is_synced(hub, s) : c == NULL || !is_synced(hub, c))
        return;
    b = begin(hub, PROTO_WATCH_PROGRESSED, id);
    if (b == NULL)
        return;
    proto_watch_progress_encode(
        b, &(struct proto_watch_progress){.whole_stream = whole_stream, .revision = hub->head});
    end(hub);
}

/* ---- time ---- */

int watch_hub_work(struct watch_hub *hub, uint64_t deadline_ns, uint64_t now_ms)
{
    struct list *node;

    hub->now_ms = now_ms;
    while ((node = list_pop_front(&hub->waiting)) != NULL)
        list_push_back(&hub->runnable, node);
    while (!list_empty(&hub->runnable)) {
        struct watch_stream *s = LIST_ENTRY(hub->runnable.next, struct watch_stream, node);
        struct watch_cohort *c;
        int r;

        if (!hub->args.sink->writable(hub->args.user))
            return 0;
        list_remove(&s->node);
        watch_stream_schedule(hub, s); /* to the end of the row, or out of it */
        if (list_empty(&s->node))
            continue;
        c = LIST_ENTRY(s->behind.next, struct watch_cohort, node);
        list_remove(&c->node);
        list_push_back(&s->behind, &c->node);
        r = watch_history_step(hub, c);
        if (r < 0)
            return r;
        if (r == 0 && !list_empty(&s->node)) {
            list_remove(&s->node);
            list_push_back(&hub->waiting, &s->node);
        }
        if (loop_clock_ns() >= deadline_ns)
            return !list_empty(&hub->runnable);
    }
    return 0;
}

/* From the old head to the new one. */
static void restart_stream(struct watch_hub *hub, struct watch_stream *s, int64_t revision)
{
    LIST_FOREACH_SAFE(it, next, &s->cohorts)
    {
        struct watch_cohort *c = LIST_ENTRY(it, struct watch_cohort, stream_node);

        if (!c->at_head)
            continue;
        leave_head(hub, c);
        c->next = MAX(c->next, hub->head + 1); /* one that started late has moved on since */
        if (c->next <= revision)
            watch_cohort_fall_behind(hub, c, c->next);
    }
}

static void rejoin_stream(struct watch_hub *hub, struct watch_stream *s)
{
    LIST_FOREACH_SAFE(it, next, &s->cohorts)
    {
        struct watch_cohort *c = LIST_ENTRY(it, struct watch_cohort, stream_node);

        if (c->at_head)
            place_at_head(hub, c);
    }
}

void watch_hub_restart(struct watch_hub *hub, uint64_t now_ms)
{
    int64_t revision = watch_log_revision(hub->args.log);
    size_t pos = 0;
    uint64_t number;
    void *stream;

    hub->now_ms = now_ms;
    hub->compacted = 0;
    while (hmap_next(&hub->streams, &pos, &number, &stream))
        restart_stream(hub, stream, revision);
    hub->head = revision;
    pos = 0;
    while (hmap_next(&hub->streams, &pos, &number, &stream))
        rejoin_stream(hub, stream);
}

void watch_hub_tick(struct watch_hub *hub, uint64_t now_ms)
{
    size_t pos = 0;
    uint64_t number;
    void *value;

    hub->now_ms = now_ms;
    watch_hub_tell_head(hub);
    if (hub->behind_count == 0)
        return;
    while (hmap_next(&hub->streams, &pos, &number, &value)) {
        struct watch_stream *s = value;

        if (watch_stream_has_credit(hub, s) || now_ms - s->progress_ms < hub->args.stall_ms)
            continue;
        while (!list_empty(&s->behind))
            watch_cohort_cancel(hub, LIST_ENTRY(s->behind.next, struct watch_cohort, node),
                                OUT_WATCH_TOO_SLOW);
    }
}

int64_t watch_hub_needs_above(const struct watch_hub *hub)
{
    return hub->watchers.count > 0 ? hub->head : INT64_MAX;
}

void watch_hub_get_stats(const struct watch_hub *hub, struct watch_hub_stats *ret)
{
    *ret = (struct watch_hub_stats){.watcher_count = hub->watchers.count,
                                    .stream_count = hub->streams.count,
                                    .behind_count = hub->behind_count,
                                    .range_count = hub->ranges.count,
                                    .unacked_units = hub->unacked_units};
}
