/* gatewayd's watchers against a stored of this file: what is told to it, and above all from where
 * everybody goes on when it was restarted. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "gatewayd/gatewayd.h"
#include "gatewayd/v3/watch_ids.h"
#include "gatewayd/watches.h"
#include "lib/loop/loop.h"
#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/proto/watch.h"
#include "lib/util/macros.h"
#include "lib/util/prng.h"
#include "lib/util/xmalloc.h"

/* ---- the link ---- */

struct sent {
    uint16_t type;
    uint64_t id;
    struct buf body;
};
static struct sent sent[64];
static size_t sent_count;
static bool link_up;

struct buf *backend_stored_begin(struct backend *b, uint16_t type, uint64_t id)
{
    if (!link_up)
        return NULL;
    cr_assert(sent_count < ARRAY_LEN(sent));
    sent[sent_count] = (struct sent){type, id, BUF_INIT};
    return &sent[sent_count].body;
}

void backend_stored_end(struct backend *b)
{
    sent_count++;
}

static void forget_sent(void)
{
    while (sent_count > 0)
        buf_fini(&sent[--sent_count].body);
}

static void expect_sent(size_t i, uint16_t type, uint64_t id)
{
    cr_assert(i < sent_count, "only %zu messages", sent_count);
    cr_assert_eq(sent[i].type, type, "message %zu is of type %u", i, sent[i].type);
    cr_assert_eq(sent[i].id, id);
}

static struct proto_watch_create sent_create(size_t i)
{
    struct proto_watch_create m;

    cr_assert(i < sent_count);
    cr_assert_eq(sent[i].type, PROTO_WATCH_CREATE);
    cr_assert_eq(proto_watch_create_decode(buf_bytes(&sent[i].body), &m), 0);
    return m;
}

/* ---- the owner ---- */

static struct gatewayd gw;
static struct {
    size_t created, canceled, events, progress, flushed;
    int outcome;
    int64_t revision, compact_revision, next;
    size_t event_bytes;
} told;

static void on_created(void *user, struct watcher *w, int outcome, int64_t revision)
{
    told.created++;
    told.outcome = outcome;
    told.revision = revision;
}

static void on_events(void *user, struct watcher *w, int64_t revision, struct bytes events)
{
    told.events++;
    told.revision = revision;
    told.event_bytes += events.len;
}

static void on_canceled(void *user, struct watcher *w, int outcome, int64_t revision,
                        int64_t compact_revision, int64_t next)
{
    told.canceled++;
    told.outcome = outcome;
    told.compact_revision = compact_revision;
    told.next = next;
}

static void on_progress(void *user, struct watcher *w, int64_t revision)
{
    told.progress++;
    told.revision = revision;
}

static void on_flush(void *user)
{
    told.flushed++;
}

static const struct watches_ops ops = {
    .created = on_created,
    .events = on_events,
    .canceled = on_canceled,
    .progress = on_progress,
    .flush = on_flush,
};

/* ---- stored ---- */

static void say(uint16_t type, uint64_t id, struct buf *body)
{
    watches_backend_ops.message(&gw, type, id, buf_bytes(body));
    buf_fini(body);
}

static void say_created(uint64_t id, int outcome, bool at_head, int64_t revision, int64_t next)
{
    struct buf b = BUF_INIT;

    proto_watch_created_encode(
        &b, &(struct proto_watch_created){(uint16_t)outcome, at_head, revision, next});
    say(PROTO_WATCH_CREATED, id, &b);
}

static void say_canceled(uint64_t id, bool reply, int outcome, int64_t next)
{
    struct buf b = BUF_INIT;

    proto_watch_canceled_encode(&b, &(struct proto_watch_canceled){.reply = reply,
                                                                   .outcome = (uint16_t)outcome,
                                                                   .compact_revision = 77,
                                                                   .next = next});
    say(PROTO_WATCH_CANCELED, id, &b);
}

static void say_event(uint32_t id, int64_t revision)
{
    struct buf b = BUF_INIT;
    uint32_t hit = 0;

    wire_put_u32(&b, 1);
    proto_watch_event_put(&b, revision, BYTES_LIT("\x5a\x02\x12\0"));
    proto_watch_ids_put(&b, &hit, 1);
    proto_watch_ids_put(&b, &id, 1);
    say(PROTO_WATCH_EVENTS, 0, &b);
}

static void say_history(uint32_t id, int64_t next, bool at_head, bool more, const char *events)
{
    struct buf b = BUF_INIT;

    proto_watch_history_begin(&b,
                              &(struct proto_watch_history){
                                  .next = next, .revision = 50, .at_head = at_head, .more = more});
    proto_watch_ids_put(&b, &id, 1);
    buf_append_bytes(&b, bytes_str(events));
    say(PROTO_WATCH_HISTORY, 0, &b);
}

static void say_behind(uint32_t id, int64_t next)
{
    struct buf b = BUF_INIT;

    proto_watch_behind_begin(&b, next);
    proto_watch_ids_put(&b, &id, 1);
    say(PROTO_WATCH_BEHIND, 0, &b);
}

static void say_head(int64_t revision)
{
    struct buf b = BUF_INIT;

    proto_u64_encode(&b, &(struct proto_u64){(uint64_t)revision});
    say(PROTO_WATCH_HEAD, 0, &b);
}

static void restart_stored(void)
{
    link_up = false;
    watches_backend_ops.down(&gw);
    forget_sent();
    link_up = true;
    watches_backend_ops.up(&gw);
}

static struct backend *backend;
static struct watches_stream *stream;

static void begin(void)
{
    gw.loop = loop_new();
    gw.watches = watches_new(gw.loop, &backend);
    link_up = true;
    watches_backend_ops.up(&gw);
    stream = watches_stream_new(gw.watches, &ops, NULL);
}

static void end(void)
{
    if (stream != NULL)
        watches_stream_close(stream);
    watches_free(gw.watches);
    forget_sent();
    loop_free(gw.loop);
}

static struct watcher *create(int64_t start)
{
    return watches_create(
        stream, &(struct watches_create_args){.key = BYTES_LIT("k"), .start_revision = start});
}

TestSuite(watches, .init = begin, .fini = end);

/* ---- from where a watcher goes on ---- */

Test(watches, goes_on_after_a_restart)
{
    enum act { NOTHING, CREATED, CREATED_BEHIND, EVENT, HEAD, BEHIND, HISTORY, CAUGHT_UP, PART };
    static const struct {
        const char *name;
        int64_t start;
        struct {
            enum act act;
            int64_t revision;
        } acts[4];
        int64_t want;
    } rows[] = {
        {"not yet created: as asked for", 0, {{NOTHING, 0}}, 0},
        {"not yet created, with a start", 7, {{NOTHING, 0}}, 7},
        {"created at revision 10", 0, {{CREATED, 10}}, 11},
        {"behind the head that was told", 0, {{CREATED, 10}, {HEAD, 30}}, 31},
        {"after its last event", 0, {{CREATED, 10}, {EVENT, 20}}, 21},
        {"the head is older than the event", 0, {{CREATED, 10}, {HEAD, 12}, {EVENT, 20}}, 21},
        {"the head is newer", 0, {{CREATED, 10}, {EVENT, 20}, {HEAD, 25}}, 26},
        {"one behind does not go by the head", 5, {{CREATED_BEHIND, 10}, {HEAD, 30}}, 5},
        {"fallen behind", 0, {{CREATED, 10}, {HEAD, 15}, {BEHIND, 18}, {HEAD, 30}}, 18},
        {"with some history", 5, {{CREATED_BEHIND, 10}, {HISTORY, 8}, {HEAD, 30}}, 8},
        {"caught up", 5, {{CREATED_BEHIND, 10}, {CAUGHT_UP, 11}, {HEAD, 30}}, 31},
        {"a part is not all", 5, {{CREATED_BEHIND, 10}, {HISTORY, 7}, {PART, 7}}, 7},
        {"in the future", 40, {{CREATED, 10}, {HEAD, 30}}, 40},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct watcher *w = create(rows[i].start);
        uint32_t id = w->number;
        struct proto_watch_create m;

        for (size_t j = 0; j < ARRAY_LEN(rows[i].acts); j++) {
            int64_t revision = rows[i].acts[j].revision;

            switch (rows[i].acts[j].act) {
            case NOTHING:
                break;
            case CREATED:
            case CREATED_BEHIND:
                say_created(id, OUT_OK, rows[i].acts[j].act == CREATED, revision,
                            rows[i].start != 0 ? rows[i].start : revision + 1);
                break;
            case EVENT:
                say_event(id, revision);
                break;
            case HEAD:
                say_head(revision);
                break;
            case BEHIND:
                say_behind(id, revision);
                break;
            case HISTORY:
            case CAUGHT_UP:
            case PART:
                say_history(id, revision, rows[i].acts[j].act == CAUGHT_UP,
                            rows[i].acts[j].act == PART, "\x5a\x02\x12");
                break;
            }
        }
        restart_stored();
        m = sent_create(0);
        cr_assert_eq(m.start_revision, rows[i].want, "%s: %ld", rows[i].name, m.start_revision);
        cr_assert_eq((m.flags & PROTO_WATCH_AGAIN) != 0, rows[i].acts[0].act != NOTHING);
        restart_stored(); /* before it was answered: the same again */
        cr_assert_eq(sent_create(0).start_revision, rows[i].want, "%s", rows[i].name);
        watches_cancel(w);
        say_created(id, OUT_OK, true, 60, m.start_revision);
        say_canceled(id, true, OUT_OK, 0);
        forget_sent();
    }
}

Test(watches, a_restart_is_not_told)
{
    struct watcher *w = create(0);
    uint32_t id = w->number;

    say_created(id, OUT_OK, true, 10, 11);
    restart_stored();
    say_created(id, OUT_OK, false, 12, 11);
    cr_assert_eq(told.created, 1);
    say_history(id, 13, true, false, "\x5a\x02\x12");
    cr_assert_eq(told.events, 1);
    restart_stored();
    say_created(id, OUT_PERMISSION_DENIED, false, 12, 0);
    cr_assert(told.created == 1 && told.canceled == 1 && told.outcome == OUT_PERMISSION_DENIED);
}

/* Half a revision of the old stored is not mixed with the new one's. */
Test(watches, parts_of_a_dead_stored_are_dropped)
{
    uint32_t id = create(5)->number;

    say_created(id, OUT_OK, false, 10, 5);
    say_history(id, 5, false, true, "\x5a\x02\x12\x01");
    cr_assert_eq(told.events, 0);
    restart_stored();
    say_created(id, OUT_OK, false, 10, 5);
    say_history(id, 5, false, true, "\x5a\x02\x12\x01");
    say_history(id, 6, false, false, "\x5a\x02\x12\x01");
    cr_assert_eq(told.events, 1);
    cr_assert_eq(told.event_bytes, 8);
}

/* ---- ends ---- */

Test(watches, cancel_in_every_state)
{
    struct watcher *w = create(0);
    uint32_t id = w->number;

    watches_cancel(w); /* before CREATED */
    watches_cancel(w);
    expect_sent(0, PROTO_WATCH_CREATE, id);
    expect_sent(1, PROTO_WATCH_CANCEL, id);
    say_created(id, OUT_OK, true, 10, 11);
    cr_assert(told.created == 1 && told.canceled == 0);
    say_event(id, 11);
    cr_assert_eq(told.events, 0);
    say_canceled(id, true, OUT_OK, 0);
    cr_assert_eq(told.canceled, 1);

    w = create(0); /* stored's own decision crosses ours: it is told once */
    cr_assert_eq(w->number, id, "a number that is free again");
    say_created(id, OUT_OK, true, 10, 11);
    watches_cancel(w);
    say_canceled(id, false, OUT_COMPACTED, 11);
    cr_assert(told.canceled == 2 && told.outcome == OUT_COMPACTED && told.compact_revision == 77);
    cr_assert_neq(create(0)->number, id, "stored has not answered our cancel yet");
    say_canceled(id, true, OUT_OK, 0);
    cr_assert_eq(told.canceled, 2);

    w = create(0); /* refused, and canceled meanwhile */
    id = w->number;
    watches_cancel(w);
    say_created(id, OUT_PERMISSION_DENIED, false, 10, 0);
    cr_assert_eq(told.outcome, OUT_PERMISSION_DENIED);
    say_canceled(id, true, OUT_OK, 0);
    cr_assert_eq(told.canceled, 2);

    w = create(0); /* while stored is away */
    id = w->number;
    say_created(id, OUT_OK, true, 10, 11);
    watches_cancel(w);
    link_up = false;
    watches_backend_ops.down(&gw);
    cr_assert_eq(told.canceled, 3);
    w = create(0);
    watches_cancel(w);
    forget_sent();
    link_up = true;
    watches_backend_ops.up(&gw);
    expect_sent(sent_count - 1, PROTO_WATCH_CANCEL, w->number);
}

Test(watches, a_closed_stream_keeps_its_numbers_until_stored_knows)
{
    struct watcher *w = create(0);
    struct watches_stats stats;
    uint32_t id = w->number;

    say_created(id, OUT_OK, true, 10, 11);
    watches_stream_close(stream);
    expect_sent(1, PROTO_WATCH_CLOSE, 0);
    say_event(id, 12);
    cr_assert_eq(told.events, 0);
    stream = watches_stream_new(gw.watches, &ops, NULL);
    cr_assert_neq(create(0)->number, id);
    {
        struct buf b = BUF_INIT;

        say(PROTO_WATCH_CLOSED, 0, &b);
    }
    watches_get_stats(gw.watches, &stats);
    cr_assert(stats.watcher_count == 1 && stats.stream_count == 1);
}

Test(watches, stored_restarts_while_a_stream_closes)
{
    struct watches_stats stats;

    create(0);
    watches_stream_close(stream);
    stream = NULL;
    restart_stored();
    cr_assert_eq(sent_count, 0);
    watches_get_stats(gw.watches, &stats);
    cr_assert(stats.watcher_count == 0 && stats.stream_count == 0);
}

Test(watches, what_is_consumed_is_acknowledged_in_steps)
{
    uint32_t id = create(0)->number;
    struct proto_u64 units;
    size_t events = 0;

    say_created(id, OUT_OK, true, 10, 11);
    forget_sent();
    while (sent_count == 0) {
        say_event(id, 11 + (int64_t)events++);
        watches_stream_consumed(stream, 0);
    }
    expect_sent(0, PROTO_WATCH_ACK, 0);
    cr_assert_eq(proto_u64_decode(buf_bytes(&sent[0].body), &units), 0);
    cr_assert_eq(units.value, events * proto_watch_units(4));
    cr_assert_geq(units.value, PROTO_WATCH_ACK_STEP_UNITS);
    forget_sent();
    for (int i = 0; i < 1000; i++)
        say_event(id, 1000 + i);
    watches_stream_consumed(stream, 1 << 20); /* the client takes nothing */
    cr_assert_eq(sent_count, 0);
    loop_run_once(gw.loop, 0);
    cr_assert_eq(told.flushed, 1, "once a turn");
}

/* Nothing of this is an event, and none of it does harm. */
Test(watches, malformed_messages)
{
    static const uint16_t types[] = {
        PROTO_WATCH_CREATED, PROTO_WATCH_CANCELED, PROTO_WATCH_EVENTS,     PROTO_WATCH_HISTORY,
        PROTO_WATCH_BEHIND,  PROTO_WATCH_HEAD,     PROTO_WATCH_PROGRESSED, PROTO_WATCH_CLOSED};
    uint32_t id = create(0)->number;

    say_created(id, OUT_OK, true, 10, 11);
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        for (size_t len = 0; len < 40; len += 13) {
            struct buf b = BUF_INIT;

            for (size_t j = 0; j < len; j++)
                buf_append_u8(&b, 0xfe);
            say(types[i], 4000000000u, &b);
        }
    }
    cr_assert(told.created == 1 && told.events == 0 && told.canceled == 0 && told.progress == 0);
    say_event(999, 11); /* of nobody */
    cr_assert_eq(told.events, 0);
}

/* ---- watch ids ---- */

/* Ids that fall onto few heads, beside those that are given one after the other. */
static int64_t some_id(size_t i)
{
    static const int64_t bases[] = {0, 1, -1, 1 << 17, INT64_MAX - 100, INT64_MIN};

    return (int64_t)((uint64_t)bases[i % 6] + i / 6 * (i % 5 == 0 ? 1u << 20 : 1)); /* wraps */
}

Test(watch_ids, finds_what_was_added_and_nothing_else)
{
    enum { COUNT = 400, STEPS = 20000 };
    struct watch_ids ids = {0};
    struct watcher *watchers[COUNT] = {0};
    bool there[COUNT] = {false};
    struct prng prng;
    size_t count = 0;

    prng_init(&prng, 7);
    for (size_t i = 0; i < COUNT; i++) {
        watchers[i] = xcalloc(1, sizeof(*watchers[i]));
        watchers[i]->watch_id = some_id(i);
        for (size_t k = 0; k < i; k++)
            if (watchers[k]->watch_id == watchers[i]->watch_id)
                watchers[i]->watch_id = 1000000 + (int64_t)i;
    }
    cr_assert_null(watch_ids_get(&ids, 0), "an empty one");
    for (size_t step = 0; step < STEPS; step++) {
        size_t i = prng_below(&prng, step < STEPS / 2 ? COUNT : 3); /* few at last */

        if (there[i])
            watch_ids_remove(&ids, watchers[i]);
        else
            watch_ids_add(&ids, watchers[i]);
        there[i] = !there[i];
        count = there[i] ? count + 1 : count - 1;
        cr_assert_eq(ids.count, count);
        i = prng_below(&prng, COUNT);
        cr_assert_eq(watch_ids_get(&ids, watchers[i]->watch_id), there[i] ? watchers[i] : NULL);
    }
    watch_ids_fini(&ids);
    for (size_t i = 0; i < COUNT; i++)
        free(watchers[i]);
}
