/*
 * The watchers of stored against a model: random changes, compactions, watchers and streams that
 * take nothing, a link that is full, an engine that writes late, a replaced keyspace. The model
 * knows every event that ever happened. After every message a watcher's events must be exactly
 * those of its range from its start to where it is said to stand: that is what gatewayd goes on
 * from when stored dies.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/proto/watch.h"
#include "lib/util/list.h"
#include "lib/util/macros.h"
#include "lib/util/prng.h"
#include "lib/util/xmalloc.h"
#include "stored/engine/engine_mem.h"
#include "stored/watch/watch.h"
#include "stored/watch/watch_log.h"
#include "stored/watch/watch_ranges.h"
#include "tests/unit/kv_harness.h"

enum { KEYS = 12, WATCHERS = 64, STREAMS = 8, EVENTS_MAX = 40000 };

/* ---- the model ---- */

struct happened {
    int64_t main;
    unsigned int key;
    bool is_delete;
    unsigned int value; /* of a put */
    bool has_prev;
    unsigned int prev_value; /* what was there before */
};

struct seen {
    int64_t main;
    size_t count; /* position in history + 1 of the last one */
};

struct client {
    bool used, created, over;
    uint32_t stream;
    int64_t start;
    uint8_t flags;
    char key[8], range_end[8];
    /* as gatewayd keeps it */
    int64_t next;
    bool behind;
    struct buf partial;
    /* what was got */
    size_t got;           /* events of its own so far */
    int64_t got_revision; /* of the last one */
    size_t history_pos;   /* where to look for the next one expected */
    int outcome;
    int64_t compact_revision;
};

struct world {
    struct prng prng;
    struct harness h;
    struct watch_log *log;
    struct watch_hub *hub;
    struct buf frame;
    uint16_t frame_type;
    uint64_t frame_id;
    bool writable;
    int64_t head;
    struct happened *history;
    size_t history_count;
    int64_t revision;
    unsigned int values;
    bool live[KEYS];
    unsigned int value_of[KEYS];
    struct client clients[WATCHERS];
    uint64_t received[STREAMS], acked[STREAMS];
    bool stalled[STREAMS];
    uint64_t now_ms;
    bool counting; /* events are not of the model: they are counted, their order checked */
    size_t parts;
    size_t progressed, closed;
    int64_t progress_revision;
};

static void key_name(unsigned int key, char out[8])
{
    snprintf(out, 8, "k%02u", key % 100);
}

static bool wants(const struct client *c, const struct happened *e)
{
    char key[8];
    bool inside;

    key_name(e->key, key);
    if (c->range_end[0] == '\0')
        inside = strcmp(key, c->key) == 0;
    else if (c->range_end[0] == '\1') /* stands for "\0": everything from key */
        inside = strcmp(key, c->key) >= 0;
    else
        inside = strcmp(key, c->key) >= 0 && strcmp(key, c->range_end) < 0;
    return inside && e->main >= c->start &&
           (c->flags & (e->is_delete ? PROTO_WATCH_NO_DELETE : PROTO_WATCH_NO_PUT)) == 0;
}

static void happen(struct world *w, struct happened e)
{
    cr_assert(w->history_count < EVENTS_MAX);
    e.has_prev = w->live[e.key];
    e.prev_value = w->value_of[e.key];
    w->live[e.key] = !e.is_delete;
    if (!e.is_delete)
        w->value_of[e.key] = e.value;
    w->history[w->history_count++] = e;
}

/* ---- what arrives ---- */

static int64_t resumes_at(const struct world *w, const struct client *c)
{
    return c->behind ? c->next : MAX(c->next, w->head + 1);
}

static void check_event(struct world *w, struct client *c, const Mvccpb__Event *e)
{
    const struct happened *want;
    struct kv_state state;
    char text[32];

    if (w->counting) {
        cr_assert(e->kv->mod_revision >= c->got_revision);
        cr_assert_eq(e->prev_kv != NULL, (c->flags & PROTO_WATCH_PREV_KV) != 0);
        c->got++;
        c->got_revision = e->kv->mod_revision;
        return;
    }
    while (c->history_pos < w->history_count && !wants(c, &w->history[c->history_pos]))
        c->history_pos++;
    cr_assert(c->history_pos < w->history_count, "an event that never happened");
    want = &w->history[c->history_pos++];
    key_name(want->key, text);
    cr_assert_eq(e->kv->mod_revision, want->main, "expected revision %ld, got %ld", want->main,
                 e->kv->mod_revision);
    cr_assert(e->kv->key.len == 3 && memcmp(e->kv->key.data, text, 3) == 0);
    cr_assert_eq(e->type == MVCCPB__EVENT__EVENT_TYPE__DELETE, want->is_delete);
    if (!want->is_delete) {
        snprintf(text, sizeof(text), "%u", want->value);
        cr_assert_eq(e->kv->value.len, strlen(text));
        cr_assert(memcmp(e->kv->value.data, text, strlen(text)) == 0);
        cr_assert(e->kv->version > 0);
    } else {
        cr_assert(e->kv->value.len == 0 && e->kv->version == 0 && e->kv->create_revision == 0);
    }
    if (e->prev_kv != NULL) {
        cr_assert((c->flags & PROTO_WATCH_PREV_KV) != 0 && want->has_prev);
        snprintf(text, sizeof(text), "%u", want->prev_value);
        cr_assert(e->prev_kv->value.len == strlen(text) &&
                  memcmp(e->prev_kv->value.data, text, strlen(text)) == 0);
    } else if ((c->flags & PROTO_WATCH_PREV_KV) != 0 && want->has_prev) {
        kv_get_state(w->h.kv, &state);
        cr_assert(want->main - 1 < state.compact_revision, "a previous value is missing");
    }
    c->got++;
    c->got_revision = want->main;
}

/* Everything below `next` that it wants was got, and nothing else. */
static void check_place(struct world *w, struct client *c)
{
    int64_t place = resumes_at(w, c);

    if (c->over)
        return;
    cr_assert(c->got_revision < place, "got revision %ld, goes on at %ld", c->got_revision, place);
    for (size_t i = c->history_pos; i < w->history_count && w->history[i].main < place; i++)
        cr_assert(!wants(c, &w->history[i]), "revision %ld is missing, goes on at %ld",
                  w->history[i].main, place);
}

static void deliver(struct world *w, uint32_t id, struct bytes events)
{
    struct client *c = &w->clients[id];
    Etcdserverpb__WatchResponse *r =
        etcdserverpb__watch_response__unpack(NULL, events.len, events.data);

    cr_assert(c->used && c->created && !c->over);
    cr_assert_not_null(r);
    for (size_t i = 0; i < r->n_events; i++)
        check_event(w, c, r->events[i]);
    etcdserverpb__watch_response__free_unpacked(r, NULL);
}

static void take_events(struct world *w, struct bytes body)
{
    struct wire_reader r = wire_reader(body);
    uint32_t count = wire_get_u32(&r);
    struct proto_watch_event *table = xreallocarray(NULL, count, sizeof(*table));
    struct proto_watch_group g;

    for (uint32_t i = 0; i < count; i++)
        cr_assert_eq(proto_watch_event_read(&r, &table[i]), 0);
    while (r.pos < r.end) {
        struct buf events = BUF_INIT;

        cr_assert_eq(proto_watch_group_read(&r, count, &g), 0);
        for (uint32_t i = 0; i < g.hits.count; i++)
            buf_append_bytes(&events, table[proto_watch_id(&g.hits, i)].bytes);
        for (uint32_t i = 0; i < g.ids.count; i++) {
            struct client *c = &w->clients[proto_watch_id(&g.ids, i)];

            cr_assert(!c->behind);
            w->received[c->stream] += proto_watch_units(events.len);
            deliver(w, proto_watch_id(&g.ids, i), buf_bytes(&events));
            c->next = table[proto_watch_id(&g.hits, g.hits.count - 1)].revision + 1;
        }
        buf_fini(&events);
    }
    free(table);
}

static void take_history(struct world *w, struct bytes body)
{
    struct proto_watch_history h;

    cr_assert_eq(proto_watch_history_decode(body, &h), 0);
    for (uint32_t i = 0; i < h.ids.count; i++) {
        struct client *c = &w->clients[proto_watch_id(&h.ids, i)];

        cr_assert(c->behind);
        w->received[c->stream] += proto_watch_units(h.events.len);
        buf_append_bytes(&c->partial, h.events);
        w->parts += h.more;
        if (h.more)
            continue;
        deliver(w, proto_watch_id(&h.ids, i), buf_bytes(&c->partial));
        buf_clear(&c->partial);
        cr_assert(h.next >= c->next);
        c->next = h.next;
        c->behind = !h.at_head;
    }
}

static void take_created(struct world *w, struct bytes body)
{
    struct client *c = &w->clients[w->frame_id];
    struct proto_watch_created m;

    cr_assert_eq(proto_watch_created_decode(body, &m), 0);
    cr_assert(c->used && !c->created);
    c->created = true;
    c->outcome = m.outcome;
    c->over = m.outcome != OUT_OK;
    if (c->over)
        return;
    cr_assert_eq(m.revision, w->revision);
    if (c->start == 0)
        c->start = m.revision + 1;
    cr_assert_eq(m.next, c->start);
    c->next = m.next;
    c->behind = !m.at_head;
}

static void take_canceled(struct world *w, struct bytes body)
{
    struct client *c = &w->clients[w->frame_id];
    struct proto_watch_canceled m;

    cr_assert_eq(proto_watch_canceled_decode(body, &m), 0);
    if (m.reply) {
        c->used = false;
        return;
    }
    cr_assert(c->used && !c->over);
    c->behind = true;
    c->next = m.next;
    check_place(w, c);
    c->over = true;
    c->outcome = m.outcome;
    c->compact_revision = m.compact_revision;
    if (m.outcome == OUT_COMPACTED)
        cr_assert(m.next < m.compact_revision);
}

static void take_behind(struct world *w, struct bytes body)
{
    struct proto_watch_behind m;

    cr_assert_eq(proto_watch_behind_decode(body, &m), 0);
    for (uint32_t i = 0; i < m.ids.count; i++) {
        struct client *c = &w->clients[proto_watch_id(&m.ids, i)];

        cr_assert(!c->behind);
        c->next = MAX(c->next, m.next);
        c->behind = true;
    }
}

static struct buf *sink_begin(void *user, uint16_t type, uint64_t id)
{
    struct world *w = user;

    buf_clear(&w->frame);
    w->frame_type = type;
    w->frame_id = id;
    return &w->frame;
}

static void sink_end(void *user)
{
    struct world *w = user;
    struct bytes body = buf_bytes(&w->frame);
    struct proto_watch_progress progress;
    struct proto_u64 head;

    switch (w->frame_type) {
    case PROTO_WATCH_CREATED:
        take_created(w, body);
        break;
    case PROTO_WATCH_CANCELED:
        take_canceled(w, body);
        break;
    case PROTO_WATCH_CLOSED:
        w->closed++;
        break;
    case PROTO_WATCH_EVENTS:
        take_events(w, body);
        break;
    case PROTO_WATCH_HISTORY:
        take_history(w, body);
        break;
    case PROTO_WATCH_BEHIND:
        take_behind(w, body);
        break;
    case PROTO_WATCH_HEAD:
        cr_assert_eq(proto_u64_decode(body, &head), 0);
        cr_assert((int64_t)head.value > w->head);
        w->head = (int64_t)head.value;
        break;
    case PROTO_WATCH_PROGRESSED:
        cr_assert_eq(proto_watch_progress_decode(body, &progress), 0);
        w->progressed++;
        w->progress_revision = progress.revision;
        break;
    default:
        cr_assert_fail("type %u", w->frame_type);
    }
    for (size_t i = 0; i < WATCHERS; i++) {
        if (w->clients[i].used && w->clients[i].created)
            check_place(w, &w->clients[i]);
    }
}

static bool sink_writable(void *user)
{
    return ((struct world *)user)->writable;
}

static const struct watch_sink sink = {sink_begin, sink_end, sink_writable};

/* ---- what is done ---- */

static void world_init(struct world *w, uint64_t seed, uint64_t window)
{
    *w = (struct world){.writable = true, .revision = 1};
    prng_init(&w->prng, seed);
    w->history = xcalloc(EVENTS_MAX, sizeof(*w->history));
    harness_init(&w->h, true);
    w->log = watch_log_new(4096);
    watch_log_attach(w->log, w->h.kv);
    w->hub = watch_hub_new(&(struct watch_hub_args){.log = w->log,
                                                    .sink = &sink,
                                                    .user = w,
                                                    .watchers_max = WATCHERS,
                                                    .window_units = window,
                                                    .all_units = 8 * window,
                                                    .small_window_units = window / 2,
                                                    .stall_ms = 1000});
}

static void world_fini(struct world *w)
{
    watch_hub_free(w->hub);
    watch_log_free(w->log);
    harness_fini(&w->h);
    for (size_t i = 0; i < WATCHERS; i++)
        buf_fini(&w->clients[i].partial);
    buf_fini(&w->frame);
    free(w->history);
}

static uint64_t below(struct world *w, uint64_t bound)
{
    return prng_below(&w->prng, bound);
}

static void put(struct world *w, unsigned int key)
{
    char name[8], value[16];

    key_name(key, name);
    snprintf(value, sizeof(value), "%u", ++w->values);
    cr_assert_eq(harness_put(&w->h, name, value), OUT_OK);
    happen(w, (struct happened){.main = ++w->revision, .key = key, .value = w->values});
}

static void delete_range(struct world *w, unsigned int from, unsigned int to)
{
    char name[8], end[8];
    bool any = false;

    key_name(from, name);
    key_name(to, end);
    cr_assert_eq(harness_delete(&w->h, name, end), OUT_OK);
    for (unsigned int key = from; key < to; key++)
        any = any || w->live[key];
    w->revision += any;
    for (unsigned int key = from; key < to; key++) {
        if (w->live[key])
            happen(w, (struct happened){.main = w->revision, .key = key, .is_delete = true});
    }
}

/* Several puts, and deletions of other keys, in one revision. */
static void txn(struct world *w)
{
    struct kv_op ops[KEYS];
    char names[KEYS][8], values[KEYS][16];
    size_t count = 0;
    bool any = false;

    for (unsigned int key = 0; key < KEYS; key++) {
        key_name(key, names[key]);
        if (below(w, 3) == 0) {
            snprintf(values[key], sizeof(values[key]), "%u", w->values + key + 1);
            ops[count++] = (struct kv_op){
                .type = KV_OP_PUT, .put = {.key = KEY(names[key]), .value = KEY(values[key])}};
            any = true;
        } else if (below(w, 5) == 0) {
            ops[count++] =
                (struct kv_op){.type = KV_OP_DELETE, .delete_range = {.key = KEY(names[key])}};
            any = any || w->live[key];
        }
    }
    cr_assert_eq(
        harness_txn(&w->h, &(struct kv_txn_request){.success = ops, .success_count = count}),
        OUT_OK);
    w->revision += any;
    for (size_t i = 0; i < count; i++) {
        bool is_put = ops[i].type == KV_OP_PUT;
        unsigned int key = (unsigned int)atoi(
            (const char *)(is_put ? ops[i].put.key : ops[i].delete_range.key).data + 1);

        if (is_put)
            happen(w, (struct happened){
                          .main = w->revision, .key = key, .value = w->values + key + 1});
        else if (w->live[key])
            happen(w, (struct happened){.main = w->revision, .key = key, .is_delete = true});
    }
    w->values += KEYS;
}

static void turn(struct world *w)
{
    unsigned int key = (unsigned int)below(w, KEYS);

    kv_begin_turn(w->h.kv);
    w->h.in_turn = true;
    for (uint64_t n = 1 + below(w, 4); n > 0; n--) {
        switch (below(w, 8)) {
        case 0:
            txn(w);
            break;
        case 1:
            delete_range(w, key, key + 1 + (unsigned int)below(w, KEYS - key));
            break;
        default:
            put(w, (unsigned int)below(w, KEYS));
        }
    }
    kv_end_turn(w->h.kv);
    w->h.in_turn = false;
    cr_assert(watch_hub_dispatch(w->hub, below(w, 2) == 0 ? 0 : UINT64_MAX, w->now_ms) >= 0);
    watch_log_trim(w->log, watch_hub_needs_above(w->hub));
}

static void create(struct world *w, uint32_t id)
{
    struct client *c = &w->clients[id];
    unsigned int from = (unsigned int)below(w, KEYS);
    struct buf partial = c->partial;

    *c = (struct client){.used = true, .stream = (uint32_t)below(w, STREAMS), .partial = partial};
    buf_clear(&c->partial);
    key_name(from, c->key);
    switch (below(w, 4)) {
    case 0:
        key_name(from + 1 + (unsigned int)below(w, KEYS - from), c->range_end);
        break;
    case 1:
        c->range_end[0] = '\1';
        break;
    default:
        break;
    }
    c->flags = below(w, 2) == 0 ? 0 : (uint8_t)below(w, 8);
    switch (below(w, 4)) {
    case 0:
        c->start = 1 + (int64_t)below(w, (uint64_t)w->revision);
        break;
    case 1:
        c->start = w->revision + (int64_t)below(w, 30);
        break;
    case 2:
        c->start = w->revision - (int64_t)below(w, 40);
        c->start = MAX(c->start, 1);
        break;
    default:
        break;
    }
    watch_hub_create(w->hub, id,
                     &(struct proto_watch_create){
                         .stream = c->stream,
                         .start_revision = c->start,
                         .flags = c->flags,
                         .key = KEY(c->key),
                         .range_end = c->range_end[0] == '\1' ? BYTES_LIT("\0") : KEY(c->range_end),
                     });
    cr_assert(c->created);
}

static void ack(struct world *w, uint32_t stream)
{
    uint64_t open = w->received[stream] - w->acked[stream];

    if (open == 0)
        return;
    w->acked[stream] += 1 + below(w, open);
    watch_hub_ack(w->hub, stream, w->acked[stream], w->now_ms);
}

static void compact(struct world *w)
{
    struct kv_state state;
    int64_t to;

    kv_get_state(w->h.kv, &state);
    to = MAX(state.compact_revision, 0) + 1 +
         (int64_t)below(w, 1 + (uint64_t)(w->revision - MAX(state.compact_revision, 0)));
    if (to > w->revision)
        return;
    cr_assert_eq(harness_compact(&w->h, to), OUT_OK);
    cr_assert_eq(watch_hub_dispatch(w->hub, UINT64_MAX, w->now_ms), 0);
}

static void write_some(struct world *w, size_t count)
{
    kv_on_written(w->h.kv, engine_mem_write(w->h.engine, count));
    if (below(w, 3) == 0)
        kv_on_durable(w->h.kv, engine_mem_sync(w->h.engine));
    while (kv_compact_pending(w->h.kv) && below(w, 3) != 0)
        cr_assert_eq(kv_compact_step(w->h.kv, 3), 0);
}

/* As when a received snapshot takes the keyspace's place: `ahead` revisions nobody heard of. */
static void replace_keyspace(struct world *w)
{
    write_some(w, 1000000);
    kv_on_durable(w->h.kv, engine_mem_sync(w->h.engine));
    watch_log_attach(w->log, NULL);
    for (uint64_t n = below(w, 20); n > 0; n--)
        put(w, (unsigned int)below(w, KEYS));
    write_some(w, 1000000);
    kv_on_durable(w->h.kv, engine_mem_sync(w->h.engine));
    harness_close(&w->h);
    engine_mem_kill(w->h.engine); /* everything is written: nothing is lost */
    cr_assert_eq(harness_open(&w->h), 0);
    watch_log_attach(w->log, w->h.kv);
    watch_hub_restart(w->hub, w->now_ms);
}

static void step(struct world *w)
{
    uint32_t id = (uint32_t)below(w, WATCHERS), stream = (uint32_t)below(w, STREAMS);

    w->now_ms += below(w, 5);
    switch (below(w, 24)) {
    case 0:
        if (!w->clients[id].used)
            create(w, id);
        else if (w->clients[id].over || below(w, 3) == 0)
            watch_hub_cancel(w->hub, id);
        break;
    case 1:
        w->stalled[stream] = below(w, 2) == 0;
        break;
    case 2:
        w->writable = below(w, 4) != 0;
        break;
    case 3:
        if (below(w, 12) == 0)
            compact(w);
        break;
    case 4:
        watch_hub_tick(w->hub, w->now_ms);
        break;
    case 5:
        if (below(w, 40) == 0)
            replace_keyspace(w);
        break;
    case 6:
    case 7:
    case 8:
        write_some(w, below(w, 8));
        break;
    case 9:
    case 10:
    case 11:
    case 12:
    case 13:
        if (!w->stalled[stream])
            ack(w, stream);
        break;
    case 14:
    case 15:
    case 16:
    case 17:
        cr_assert(watch_hub_work(w->hub, 0, w->now_ms) >= 0);
        break;
    default:
        turn(w);
    }
}

/* Everybody takes everything: then all have got all. */
static void settle(struct world *w)
{
    struct watch_hub_stats stats;

    w->writable = true;
    for (int i = 0; i < 20000; i++) {
        write_some(w, 1000);
        for (uint32_t s = 0; s < STREAMS; s++) {
            w->acked[s] = w->received[s];
            watch_hub_ack(w->hub, s, w->acked[s], w->now_ms);
        }
        cr_assert_eq(watch_hub_dispatch(w->hub, UINT64_MAX, w->now_ms), 0);
        cr_assert(watch_hub_work(w->hub, UINT64_MAX, w->now_ms) >= 0);
        watch_hub_get_stats(w->hub, &stats);
        if (stats.behind_count == 0)
            break;
    }
    cr_assert_eq(stats.behind_count, 0);
    watch_hub_tick(w->hub, w->now_ms);
    for (size_t i = 0; i < WATCHERS; i++) {
        if (!w->clients[i].used || w->clients[i].over)
            continue;
        cr_assert(!w->clients[i].behind);
        cr_assert(resumes_at(w, &w->clients[i]) > w->revision);
        check_place(w, &w->clients[i]);
    }
}

static void run(uint64_t seed, uint64_t window, size_t steps)
{
    struct world *w = xcalloc(1, sizeof(*w));

    world_init(w, seed, window);
    for (size_t i = 0; i < steps; i++)
        step(w);
    settle(w);
    world_fini(w);
    free(w);
}

Test(watch, model_with_room)
{
    for (uint64_t seed = 1; seed <= 4; seed++)
        run(seed, 1 << 20, 2000);
}

Test(watch, model_with_little_credit)
{
    for (uint64_t seed = 100; seed <= 112; seed++)
        run(seed, 2000, 2000);
}

/* ---- single rules ---- */

static struct world *small_world(void)
{
    struct world *w = xcalloc(1, sizeof(*w));

    world_init(w, 1, 1 << 20);
    return w;
}

static void end_world(struct world *w)
{
    world_fini(w);
    free(w);
}

static void create_as(struct world *w, uint32_t id, const struct client *as)
{
    struct buf partial = w->clients[id].partial;

    w->clients[id] = *as;
    w->clients[id].used = true;
    w->clients[id].partial = partial;
    watch_hub_create(w->hub, id,
                     &(struct proto_watch_create){.stream = as->stream,
                                                  .start_revision = as->start,
                                                  .flags = as->flags,
                                                  .key = KEY(as->key),
                                                  .range_end = as->range_end[0] == '\1'
                                                                   ? BYTES_LIT("\0")
                                                                   : KEY(as->range_end)});
}

static void put_and_dispatch(struct world *w, unsigned int key)
{
    put(w, key);
    cr_assert_eq(watch_hub_dispatch(w->hub, UINT64_MAX, w->now_ms), 0);
}

Test(watch, creation)
{
    static const struct {
        struct client as;
        int outcome;
        bool canceled;
    } rows[] = {
        {{.key = "k01"}, OUT_OK, false},
        {{.key = "k01", .start = 100}, OUT_OK, false},
        {{.key = "k01", .range_end = "k02"}, OUT_OK, false},
        {{.key = "k01", .range_end = "\1"}, OUT_OK, false},
        {{.key = "k01", .range_end = "k01"}, OUT_MALFORMED, false},
        {{.key = "k01", .range_end = "k00"}, OUT_MALFORMED, false},
        {{.key = "k01", .start = 3}, OUT_OK, false}, /* the compact revision itself */
        {{.key = "k01", .start = 2}, OUT_COMPACTED, true},
        {{.key = "k01", .start = 1}, OUT_COMPACTED, true},
        {{.key = "k01", .flags = PROTO_WATCH_REFUSE}, OUT_CANCELED, false},
    };
    struct world *w = small_world();
    struct watch_hub_stats stats;

    for (unsigned int i = 0; i < 4; i++)
        put_and_dispatch(w, 1);
    cr_assert_eq(harness_compact(&w->h, 3), OUT_OK);
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        create_as(w, 0, &rows[i].as);
        cr_assert_eq(w->clients[0].outcome, rows[i].outcome, "row %u: %d", i,
                     w->clients[0].outcome);
        if (rows[i].canceled)
            cr_assert_eq(w->clients[0].compact_revision, 3);
        watch_hub_get_stats(w->hub, &stats);
        cr_assert_eq(stats.watcher_count, rows[i].outcome == OUT_OK, "row %u", i);
        watch_hub_cancel(w->hub, 0);
        cr_assert(!w->clients[0].used);
    }
    watch_hub_get_stats(w->hub, &stats);
    cr_assert(stats.watcher_count == 0 && stats.range_count == 0);
    create_as(w, 5, &rows[0].as);
    w->clients[5].created = false; /* the same number again */
    create_as(w, 5, &rows[0].as);
    cr_assert_eq(w->clients[5].outcome, OUT_MALFORMED);
    end_world(w);
}

Test(watch, progress_only_when_nothing_is_to_come)
{
    struct world *w = small_world();

    put_and_dispatch(w, 1);
    watch_hub_progress(w->hub, 0, true);
    cr_assert_eq(w->progressed, 0, "a stream without watchers");
    create_as(w, 1, &(struct client){.key = "k01"});
    watch_hub_progress(w->hub, 0, true);
    watch_hub_progress(w->hub, 1, false);
    cr_assert_eq(w->progressed, 2);
    cr_assert_eq(w->progress_revision, 2);
    create_as(w, 2, &(struct client){.key = "k01", .start = 2});
    watch_hub_progress(w->hub, 0, true);
    watch_hub_progress(w->hub, 2, false);
    cr_assert_eq(w->progressed, 2, "one of them is behind");
    cr_assert_eq(watch_hub_work(w->hub, UINT64_MAX, 0), 0);
    watch_hub_progress(w->hub, 0, true);
    cr_assert_eq(w->progressed, 3);
    create_as(w, 3, &(struct client){.key = "k01", .start = 9});
    watch_hub_progress(w->hub, 0, true);
    watch_hub_progress(w->hub, 3, false);
    watch_hub_progress(w->hub, 4, false);
    cr_assert_eq(w->progressed, 3, "in the future, or unknown");
    end_world(w);
}

Test(watch, one_that_takes_nothing_is_bounded_and_ends)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct watch_hub_stats stats;

    world_init(w, 1, 1000);
    create_as(w, 0, &(struct client){.key = "k01", .stream = 0});
    create_as(w, 1, &(struct client){.key = "k01", .stream = 1});
    for (unsigned int i = 0; i < 200; i++) {
        put_and_dispatch(w, 1);
        w->acked[1] = w->received[1];
        watch_hub_ack(w->hub, 1, w->acked[1], w->now_ms);
        cr_assert(watch_hub_work(w->hub, UINT64_MAX, w->now_ms) >= 0);
    }
    cr_assert(w->received[0] < 1500, "%lu", w->received[0]);
    cr_assert_eq(w->clients[1].got, 200, "another stream is not delayed");
    watch_hub_tick(w->hub, 999);
    cr_assert(!w->clients[0].over);
    watch_hub_tick(w->hub, 1000);
    cr_assert_eq(w->clients[0].outcome, OUT_WATCH_TOO_SLOW);
    cr_assert_eq(w->clients[0].next, 2 + (int64_t)w->clients[0].got, "where it can go on");
    watch_hub_get_stats(w->hub, &stats);
    cr_assert(stats.watcher_count == 1 && stats.behind_count == 0);
    watch_hub_close(w->hub, 0);
    watch_hub_close(w->hub, 1);
    watch_hub_close(w->hub, 7);
    cr_assert_eq(w->closed, 3);
    watch_hub_get_stats(w->hub, &stats);
    cr_assert(stats.watcher_count == 0 && stats.stream_count == 0 && stats.unacked_units == 0);
    end_world(w);
}

/* A link that was full for a while: many revisions for many ranges, in more than one message. */
Test(watch, many_revisions_at_once)
{
    enum { FEW = 20, MANY = 5000 };
    struct world *w = xcalloc(1, sizeof(*w));

    world_init(w, 1, 1 << 30);
    w->counting = true;
    for (uint32_t i = 0; i < WATCHERS; i++) {
        struct client c = {.key = "k", .stream = i % STREAMS};

        snprintf(c.range_end, sizeof(c.range_end), "l%02u", i);
        create_as(w, i, &c);
    }
    for (unsigned int i = 0; i < FEW + MANY; i++) {
        w->writable = i < FEW;
        cr_assert_eq(harness_put(&w->h, "k01", "v"), OUT_OK);
        w->revision++;
        cr_assert_eq(watch_hub_dispatch(w->hub, UINT64_MAX, 0), 0);
    }
    cr_assert_eq(w->clients[0].got, FEW);
    w->writable = true;
    cr_assert_eq(watch_hub_dispatch(w->hub, 0, 0), 1, "not all in one turn");
    cr_assert_eq(watch_hub_dispatch(w->hub, UINT64_MAX, 0), 0);
    for (uint32_t i = 0; i < WATCHERS; i++) {
        cr_assert_eq(w->clients[i].got, FEW + MANY, "%zu", w->clients[i].got);
        cr_assert(!w->clients[i].behind);
    }
    end_world(w);
}

/* One revision that no message can hold goes in parts, and arrives whole. */
Test(watch, one_very_large_revision)
{
    enum { MANY = 9000 };
    static const struct {
        struct client as;
        size_t want;
    } rows[] = {
        {{.key = "n", .range_end = "o", .flags = PROTO_WATCH_PREV_KV}, MANY},
        {{.key = "n", .range_end = "o", .stream = 1}, MANY},
        {{.key = "a", .range_end = "\1", .stream = 1}, MANY},
        {{.key = "n04000", .stream = 2}, 1},
        {{.key = "n04000", .range_end = "n04100", .stream = 2}, 100},
        {{.key = "n", .range_end = "o", .flags = PROTO_WATCH_NO_DELETE}, 0},
    };
    enum { ROWS = ARRAY_LEN(rows) };
    struct world *w = xcalloc(1, sizeof(*w));
    char value[300];

    world_init(w, 1, 1 << 20);
    w->counting = true;
    memset(value, 'v', sizeof(value));
    value[sizeof(value) - 1] = '\0';
    for (unsigned int i = 0; i < MANY; i++) {
        char key[16];

        snprintf(key, sizeof(key), "n%05u", i);
        cr_assert_eq(harness_put(&w->h, key, value), OUT_OK);
    }
    w->revision = MANY + 1;
    for (uint32_t i = 0; i < ROWS; i++)
        create_as(w, i, &rows[i].as);
    for (uint32_t i = 0; i < WATCHERS - 2 * ROWS; i++) /* many on one stream */
        create_as(w, 2 * ROWS + i, &(struct client){.key = "n", .range_end = "o", .stream = 3});
    cr_assert_eq(harness_delete(&w->h, "n", "o"), OUT_OK);
    w->revision++;
    cr_assert_eq(watch_hub_dispatch(w->hub, UINT64_MAX, 0), 0);
    for (uint32_t i = 0; i < ROWS; i++) { /* and those that ask for it later */
        struct client late = rows[i].as;

        late.start = w->revision;
        create_as(w, ROWS + i, &late);
    }
    settle(w);
    for (uint32_t i = 0; i < 2 * ROWS; i++)
        cr_assert_eq(w->clients[i].got, rows[i % ROWS].want, "%u: %zu", i, w->clients[i].got);
    for (uint32_t i = 2 * ROWS; i < WATCHERS; i++)
        cr_assert_eq(w->clients[i].got, MANY, "%u: %zu", i, w->clients[i].got);
    cr_assert_gt(w->parts, 0);
    watch_log_attach(w->log, w->h.kv); /* memory is empty: all of it from the log and the index */
    watch_hub_restart(w->hub, 0);
    for (uint32_t i = 0; i < ROWS; i++) {
        struct client late = rows[i].as;

        watch_hub_cancel(w->hub, i);
        late.start = w->revision;
        create_as(w, i, &late);
    }
    settle(w);
    for (uint32_t i = 0; i < ROWS; i++)
        cr_assert_eq(w->clients[i].got, rows[i].want, "%u: %zu", i, w->clients[i].got);
    end_world(w);
}

/* Acknowledgements that make no sense change nothing. */
Test(watch, acknowledgements_of_nonsense)
{
    struct world *w = small_world();
    struct watch_hub_stats stats;

    create_as(w, 0, &(struct client){.key = "k01"});
    put_and_dispatch(w, 1);
    watch_hub_ack(w->hub, 0, w->received[0] + 1, 0);
    watch_hub_ack(w->hub, 9, 1, 0);
    watch_hub_get_stats(w->hub, &stats);
    cr_assert_eq(stats.unacked_units, w->received[0]);
    watch_hub_ack(w->hub, 0, w->received[0], 0);
    watch_hub_ack(w->hub, 0, 1, 0);
    watch_hub_get_stats(w->hub, &stats);
    cr_assert_eq(stats.unacked_units, 0);
    end_world(w);
}

/* ---- ranges ---- */

struct found {
    size_t count;
    struct bytes key;
};

static void on_found(void *user, struct watch_range *range)
{
    struct found *f = user;

    cr_assert(watch_range_contains(range, f->key));
    f->count++;
}

Test(watch_ranges, match_what_contains_the_key)
{
    enum { RANGES = 200 };
    struct watch_range *ranges[RANGES] = {NULL};
    char keys[RANGES][8], ends[RANGES][8];
    struct watch_ranges r;
    struct prng prng;

    prng_init(&prng, 7);
    watch_ranges_init(&r);
    for (int round = 0; round < 4000; round++) {
        size_t i = prng_below(&prng, RANGES), want = 0;
        unsigned int from = (unsigned int)prng_below(&prng, 50);
        struct found f = {0};
        char probe[8];

        if (ranges[i] == NULL) {
            struct bytes end;

            snprintf(keys[i], sizeof(keys[i]), "k%02u", from);
            snprintf(ends[i], sizeof(ends[i]), "k%02u",
                     from + 1 + (unsigned int)prng_below(&prng, 20));
            end = prng_below(&prng, 5) == 0   ? BYTES_LIT("\0")
                  : prng_below(&prng, 3) == 0 ? BYTES_EMPTY
                                              : bytes_str(ends[i]);
            ranges[i] = watch_ranges_get(&r, bytes_str(keys[i]), end);
            cr_assert_eq(watch_ranges_get(&r, bytes_str(keys[i]), end), ranges[i]);
            for (size_t j = 0; j < RANGES; j++) {
                if (j != i && ranges[j] == ranges[i]) {
                    ranges[i] = NULL; /* it was there before */
                    break;
                }
            }
        } else {
            watch_ranges_remove(&r, ranges[i]);
            ranges[i] = NULL;
        }
        snprintf(probe, sizeof(probe), "k%02u", (unsigned int)prng_below(&prng, 75));
        f.key = bytes_str(probe);
        for (size_t j = 0; j < RANGES; j++)
            want += ranges[j] != NULL && watch_range_contains(ranges[j], f.key);
        watch_ranges_match(&r, f.key, on_found, &f);
        cr_assert_eq(f.count, want);
    }
    for (size_t i = 0; i < RANGES; i++) {
        if (ranges[i] != NULL)
            watch_ranges_remove(&r, ranges[i]);
    }
    watch_ranges_fini(&r);
}
