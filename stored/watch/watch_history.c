/*
 * Catching up: a cohort that is behind reads its range's events from where it stands to the head
 * of dispatch, a slice at a time. Where from is chosen anew for every slice:
 *
 *   the log's memory     when it reaches back far enough
 *   the index            one key, or few keys over many revisions: places, then their records
 *   the engine's log     else; every record is looked at
 *
 * A slice ends between two revisions. A revision that is larger than PART_BYTES is sent in parts
 * (`more`), and the cohort's place is then (next, next_sub).
 */
#include "stored/watch/watch_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum {
    SLICE_BYTES = 64 << 10, /* of one cohort's responses together */
    PART_BYTES = 1 << 20,
    COHORT_BYTES_MAX = 4 << 20, /* above it, fewer watchers at a time */
    SLICE_RECORDS = 2000,       /* looked at in one slice */
    KEY_PLACES = 256,
    RANGE_KEYS_MAX = 512, /* looked up in the index instead of reading the log, */
    RANGE_PLACES_MAX = 4096,
    RANGE_REVISIONS_MIN = 512, /* when the log is longer than this */
};

enum more {
    MORE, /* go on with the next event */
    STOP, /* the slice is full; the place is set */
};

struct slice {
    struct watch_hub *hub;
    struct watch_cohort *c;
    size_t limit;    /* of buf */
    size_t records;  /* looked at */
    int64_t main;    /* revision of the events at hand; 0: none yet */
    size_t boundary; /* where its events begin in hub->slice */
    bool earlier;    /* whole revisions before it were passed in this slice */
    int64_t next;    /* where it ended */
    uint32_t next_sub;
};

/* Ends the slice before this event. What there is of its revision goes with this slice only when
 * it cannot go as a whole with the next one. */
static enum more stop_before(struct slice *s, const struct kv_event *e)
{
    s->next = e->main;
    s->next_sub = 0;
    if (e->main != s->main)
        return STOP;
    if (s->earlier) {
        s->hub->slice.len = s->boundary;
        return STOP;
    }
    s->next_sub = e->sub;
    return STOP;
}

static enum more take(struct slice *s, const struct kv_event *e, int *ret_result)
{
    struct watch_hub *hub = s->hub;

    if (e->main != s->main) {
        /* what is left of a revision that was sent in parts goes alone: all who get it get the
         * same bytes, and gatewayd keeps them once */
        if (s->main != 0 && s->c->next_sub > 0 && s->main == s->c->next)
            return stop_before(s, e);
        s->earlier = s->main != 0;
        if (s->earlier && (hub->slice.len >= s->limit || s->records >= SLICE_RECORDS))
            return stop_before(s, e);
        s->main = e->main;
        s->boundary = hub->slice.len;
    } else if (hub->slice.len - s->boundary >= PART_BYTES || s->records >= 2 * SLICE_RECORDS) {
        return stop_before(s, e);
    }
    s->records++;
    if (!watch_flags_want(s->c->group->flags, e->is_delete) ||
        !watch_range_contains(s->c->group->range, e->key))
        return MORE;
    buf_clear(&hub->prev);
    if ((s->c->group->flags & PROTO_WATCH_PREV_KV) != 0) {
        *ret_result = kv_event_prev(watch_log_kv(hub->args.log), e->key, e->main, &hub->prev);
        if (*ret_result < 0)
            return STOP;
    }
    kv_event_encode(e, buf_bytes(&hub->prev), &hub->slice);
    return MORE;
}

static int read_memory(struct slice *s)
{
    const struct watch_log *log = s->hub->args.log;
    uint64_t end = watch_log_end(log);
    uint64_t place = watch_log_find(log, s->c->next) + s->c->next_sub; /* all its subs are there */
    int r = 0;

    for (; place < end; place++) {
        struct kv_event e = watch_log_at(log, place);

        if (e.main > s->hub->head)
            break;
        if (take(s, &e, &r) == STOP)
            return r;
    }
    s->next = s->hub->head + 1;
    return 0;
}

static int read_log(struct slice *s)
{
    struct kv *kv = watch_log_kv(s->hub->args.log);
    int64_t last = MIN(s->hub->head, kv_written_revision(kv));
    struct kv_log_iter *it;
    struct kv_event e;
    int r = 0;

    if (last < s->c->next) {
        s->next = s->c->next;
        s->next_sub = s->c->next_sub;
        return 0;
    }
    it = kv_log_iter_new(kv, s->c->next, s->c->next_sub);
    while (kv_log_iter_next(it, &e) && e.main <= last) {
        if (take(s, &e, &r) == STOP) {
            kv_log_iter_free(it);
            return r;
        }
    }
    r = kv_log_iter_result(it);
    kv_log_iter_free(it);
    s->next = last + 1;
    return r;
}

/* Before the place where the cohort stands? Then it was sent with an earlier part. */
static bool is_sent(const struct slice *s, int64_t main, uint32_t sub)
{
    return main == s->c->next && sub < s->c->next_sub;
}

/* From places of the index. */
static enum more take_place(struct slice *s, struct bytes key, const struct kv_event_place *at,
                            struct buf *record, int *ret_result)
{
    struct kv_event e = {.main = at->main, .sub = at->sub, .is_delete = at->is_delete, .key = key};

    if (is_sent(s, at->main, at->sub))
        return MORE;
    if (!at->is_delete && watch_flags_want(s->c->group->flags, false)) {
        buf_clear(record);
        *ret_result = kv_event_record(watch_log_kv(s->hub->args.log), at->main, at->sub, record);
        if (*ret_result < 0)
            return STOP;
        e.record = buf_bytes(record);
    }
    return take(s, &e, ret_result);
}

static int read_key(struct slice *s)
{
    CLEANUP(buf_fini) struct buf record = BUF_INIT;
    struct kv_event_place places[KEY_PLACES];
    struct bytes key = s->c->group->range->key;
    size_t count = kv_key_events(watch_log_kv(s->hub->args.log), key, s->c->next, s->hub->head,
                                 places, KEY_PLACES);
    int r = 0;

    for (size_t i = 0; i < count; i++) {
        if (take_place(s, key, &places[i], &record, &r) == STOP)
            return r;
    }
    s->next = count < KEY_PLACES ? s->hub->head + 1 : places[count - 1].main + 1;
    return 0;
}

static int cmp_places(const void *a, const void *b)
{
    const struct kv_key_place *x = a, *y = b;

    if (x->at.main != y->at.main)
        return x->at.main < y->at.main ? -1 : 1;
    return x->at.sub < y->at.sub ? -1 : x->at.sub > y->at.sub;
}

/* False: too many keys or versions, read the log instead. */
static bool read_range(struct slice *s, int *ret_result)
{
    CLEANUP(buf_fini) struct buf record = BUF_INIT;
    CLEANUP(freep) struct kv_key_place *places = NULL;
    const struct watch_range *range = s->c->group->range;
    size_t count;

    *ret_result = 0;
    if (s->hub->head - s->c->next < RANGE_REVISIONS_MIN)
        return false;
    places = xreallocarray(NULL, RANGE_PLACES_MAX, sizeof(*places));
    count = kv_range_events(watch_log_kv(s->hub->args.log), range->key, range->range_end,
                            s->c->next, s->hub->head, RANGE_KEYS_MAX, places, RANGE_PLACES_MAX);
    if (count == SIZE_MAX)
        return false;
    qsort(places, count, sizeof(places[0]), cmp_places);
    s->next = s->hub->head + 1;
    for (size_t i = 0; i < count; i++) {
        if (take_place(s, places[i].key, &places[i].at, &record, ret_result) == STOP)
            return true;
    }
    return true;
}

/* ---- a slice ---- */

static void send_slice(struct slice *s, bool more)
{
    struct watch_hub *hub = s->hub;
    struct watch_cohort *c = s->c;
    struct buf *out = hub->args.sink->begin(hub->args.user, PROTO_WATCH_HISTORY, 0);

    watch_stream_charge(hub, c->stream, c->count * proto_watch_units(hub->slice.len));
    if (out == NULL)
        return;
    proto_watch_history_begin(out, &(struct proto_watch_history){.next = s->next,
                                                                 .revision = hub->head,
                                                                 .at_head = s->next > hub->head,
                                                                 .more = more});
    proto_watch_ids_put(out, c->ids, c->count);
    buf_append_bytes(out, buf_bytes(&hub->slice));
    hub->args.sink->end(hub->args.user);
}

static int read_slice(struct slice *s)
{
    int r;

    if (s->c->next >= watch_log_floor(s->hub->args.log))
        return read_memory(s);
    if (s->c->group->range->is_single)
        return read_key(s);
    if (read_range(s, &r))
        return r;
    return read_log(s);
}

int watch_history_step(struct watch_hub *hub, struct watch_cohort *c)
{
    struct slice s = {.hub = hub, .c = c, .limit = SLICE_BYTES / c->count};
    struct kv_state state;
    bool more;
    int r;

    assert(!c->at_head);
    kv_get_state(watch_log_kv(hub->args.log), &state);
    if (c->next < state.compact_revision && c->next < watch_log_floor(hub->args.log)) {
        watch_cohort_cancel(hub, c, OUT_COMPACTED);
        return 1;
    }
    buf_clear(&hub->slice);
    r = read_slice(&s);
    if (r < 0)
        return r;
    if (s.next == c->next && s.next_sub == c->next_sub && hub->slice.len == 0)
        return 0; /* what comes next is not written yet */
    more = s.next_sub > 0;
    if (c->count > 1 && hub->slice.len * c->count > COHORT_BYTES_MAX)
        watch_cohort_split(hub, c, (uint32_t)MAX(COHORT_BYTES_MAX / hub->slice.len, (size_t)1));
    if (hub->slice.len > 0 || (c->part_open && !more) || s.next > hub->head)
        send_slice(&s, more);
    c->part_open = more && (c->part_open || hub->slice.len > 0);
    c->next = s.next;
    c->next_sub = s.next_sub;
    if (c->next > hub->head)
        watch_cohort_join_head(hub, c);
    else
        watch_stream_schedule(hub, c->stream);
    return 1;
}
