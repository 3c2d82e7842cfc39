/*
 * Events: the change a revision made to a key, as watchers are told of it. They are not stored:
 * the log of revisions has the records, and the index knows which revisions a key has.
 */
#include "stored/kv/kv_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "stored/kv/kv_engine.h"

/* Field numbers: WatchResponse.events, Event, KeyValue. */
enum {
    RESPONSE_EVENTS = 11,
    EVENT_TYPE = 1,
    EVENT_KV = 2,
    EVENT_PREV_KV = 3,
    EVENT_TYPE_DELETE = 1,
    KEY_VALUE_KEY = 1,
    KEY_VALUE_MOD_REVISION = 3,
};

enum { RANGE_CELLS = 64 };

void kv_set_observer(struct kv *kv, kv_observer fn, void *user)
{
    kv->observer = fn;
    kv->observer_user = user;
}

/* The key is the first field of every record. */
static struct bytes record_key(struct bytes record)
{
    struct pb_reader r = pb_reader(record);
    struct pb_field f;

    return pb_next(&r, &f) && f.number == KEY_VALUE_KEY ? f.bytes : BYTES_EMPTY;
}

static struct kv_event event_of(int64_t main, uint32_t sub, struct bytes record)
{
    struct kv_event e = {.main = main, .sub = sub, .record = record};

    if (record.len > 0 && record.data[0] == 0) {
        e.is_delete = true;
        e.key = record_key(bytes_of(record.data + 1, record.len - 1));
        e.record = BYTES_EMPTY;
    } else {
        e.key = record_key(record);
    }
    return e;
}

void kv_observe(struct kv *kv, int64_t main, uint32_t sub, struct bytes record)
{
    struct kv_event e = event_of(main, sub, record);

    kv->observer(kv->observer_user, &e);
}

static size_t entry_events(const struct kv_entry *e, int64_t from, int64_t to,
                           struct kv_event_place *ret, size_t max)
{
    struct kv_cell cells[RANGE_CELLS];
    size_t count = 0;

    while (count < max) {
        size_t want = MIN(max - count, (size_t)RANGE_CELLS);
        size_t got = kv_entry_versions(e, from, to, cells, want);

        for (size_t i = 0; i < got; i++)
            ret[count++] = (struct kv_event_place){cells[i].main, cells[i].sub,
                                                   cells[i].size == KV_CELL_DELETED};
        if (got < want)
            break;
        from = cells[got - 1].main + 1; /* a key changes once in a revision */
    }
    return count;
}

size_t kv_key_events(const struct kv *kv, struct bytes key, int64_t from, int64_t to,
                     struct kv_event_place *ret, size_t max)
{
    const struct kv_entry *e = kv_index_find(&kv->index, key);

    return e != NULL ? entry_events(e, from, to, ret, max) : 0;
}

size_t kv_range_events(const struct kv *kv, struct bytes key, struct bytes range_end, int64_t from,
                       int64_t to, size_t max_keys, struct kv_key_place *ret, size_t max)
{
    struct kv_bounds bounds = kv_bounds(key, range_end);
    struct kv_event_place places[RANGE_CELLS];
    struct kv_index_iter it;
    const struct kv_entry *e;
    size_t count = 0;

    kv_index_seek(&kv->index, bounds.from, &it);
    for (; (e = kv_index_iter_get(&it)) != NULL; kv_index_iter_next(&it)) {
        int64_t after = from;
        size_t got;

        if (kv_bounds_past(&bounds, kv_entry_key(e)))
            break;
        if (max_keys-- == 0)
            return SIZE_MAX;
        do {
            got = entry_events(e, after, to, places, RANGE_CELLS);
            if (got > max - count)
                return SIZE_MAX;
            for (size_t i = 0; i < got; i++)
                ret[count++] = (struct kv_key_place){places[i], kv_entry_key(e)};
            if (got > 0)
                after = places[got - 1].main + 1;
        } while (got == RANGE_CELLS);
    }
    return count;
}

int kv_event_record(struct kv *kv, int64_t main, uint32_t sub, struct buf *ret)
{
    return kv_get_record(kv, main, sub, false, ret);
}

int kv_event_prev(struct kv *kv, struct bytes key, int64_t main, struct buf *ret)
{
    const struct kv_entry *e;
    struct kv_version v;

    if (main - 1 < kv->compact_revision)
        return 0;
    e = kv_index_find(&kv->index, key);
    if (e == NULL || !kv_entry_at(e, main - 1, &v))
        return 0;
    return kv_get_record(kv, v.main, v.sub, false, ret);
}

void kv_event_encode(const struct kv_event *event, struct bytes prev, struct buf *ret)
{
    size_t kv_len = event->is_delete
                        ? pb_size_bytes(KEY_VALUE_KEY, event->key.len) +
                              pb_size_u64(KEY_VALUE_MOD_REVISION, (uint64_t)event->main)
                        : event->record.len;
    size_t len = pb_size_message(EVENT_KV, kv_len) + pb_size_bytes(EVENT_PREV_KV, prev.len);

    if (event->is_delete)
        len += pb_size_u64(EVENT_TYPE, EVENT_TYPE_DELETE);
    buf_reserve(ret, len + 16);
    pb_put_tag(ret, RESPONSE_EVENTS, PB_LENGTH);
    pb_put_varint(ret, len);
    if (event->is_delete) {
        pb_put_u64(ret, EVENT_TYPE, EVENT_TYPE_DELETE);
        pb_put_tag(ret, EVENT_KV, PB_LENGTH);
        pb_put_varint(ret, kv_len);
        pb_put_bytes(ret, KEY_VALUE_KEY, event->key);
        pb_put_i64(ret, KEY_VALUE_MOD_REVISION, event->main);
    } else {
        pb_put_message(ret, EVENT_KV, event->record);
    }
    pb_put_bytes(ret, EVENT_PREV_KV, prev);
}

/* ---- the log ---- */

struct kv_log_iter {
    const struct kv_engine_ops *ops;
    struct kv_engine_iter *it;
    bool started;
    int result;
};

int64_t kv_written_revision(const struct kv *kv)
{
    return kv->written_revision;
}

struct kv_log_iter *kv_log_iter_new(struct kv *kv, int64_t main, uint32_t sub)
{
    struct kv_log_iter *it = xcalloc(1, sizeof(*it));
    uint8_t key[KV_RECORD_KEY_BYTES];

    it->ops = kv->engine->ops;
    it->it = it->ops->iter_new(kv->engine, false);
    kv_record_key(key, main, sub);
    it->ops->iter_seek(it->it, bytes_of(key, sizeof(key)));
    return it;
}

void kv_log_iter_free(struct kv_log_iter *it)
{
    if (it == NULL)
        return;
    it->ops->iter_free(it->it);
    free(it);
}

bool kv_log_iter_next(struct kv_log_iter *it, struct kv_event *ret)
{
    int64_t main;
    uint32_t sub;

    if (it->started)
        it->ops->iter_next(it->it);
    it->started = true;
    for (; it->ops->iter_valid(it->it); it->ops->iter_next(it->it)) {
        if (!kv_record_key_parse(it->ops->iter_key(it->it), &main, &sub))
            continue;
        *ret = event_of(main, sub, it->ops->iter_value(it->it));
        if (ret->key.len == 0)
            it->result = -EBADMSG;
        return it->result == 0;
    }
    it->result = it->ops->iter_result(it->it);
    return false;
}

int kv_log_iter_result(const struct kv_log_iter *it)
{
    return it->result;
}
