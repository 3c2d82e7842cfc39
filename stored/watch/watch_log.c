#include "stored/watch/watch_log.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum { BLOCK_BYTES = 64 << 10, ENTRIES_MIN = 256 };

/* Key and record of an event; the record of a put holds the key too. */
struct entry {
    int64_t main;
    uint32_t sub;
    uint32_t key_len;
    uint32_t record_len; /* 0: a deletion, data is the key */
    uint32_t key_at;
    const uint8_t *data;
};

struct block {
    struct block *newer;
    uint64_t end; /* place behind its last event */
    size_t size, fill;
    uint8_t data[];
};

struct watch_log {
    struct kv *kv;
    size_t budget_bytes, bytes;
    size_t retained; /* watch_log_retain calls */
    int64_t floor;
    struct entry *entries; /* ring: place & mask */
    uint64_t mask, first, end;
    struct block *oldest, *newest;
};

struct watch_log *watch_log_new(size_t budget_bytes)
{
    struct watch_log *log = xcalloc(1, sizeof(*log));

    log->budget_bytes = budget_bytes;
    log->floor = INT64_MAX;
    return log;
}

static void drop_oldest(struct watch_log *log)
{
    struct block *b = log->oldest;

    log->oldest = b->newer;
    if (log->oldest == NULL)
        log->newest = NULL;
    log->bytes -= sizeof(*b) + b->size;
    log->first = MAX(log->first, b->end);
    free(b);
}

static void drop_all(struct watch_log *log)
{
    while (log->oldest != NULL)
        drop_oldest(log);
    log->first = log->end;
    log->floor = INT64_MAX;
    free(log->entries);
    log->entries = NULL;
    log->mask = 0;
}

void watch_log_free(struct watch_log *log)
{
    if (log == NULL)
        return;
    watch_log_attach(log, NULL);
    free(log);
}

static struct entry *entry_at(const struct watch_log *log, uint64_t place)
{
    return &log->entries[place & log->mask];
}

/* cap: a power of two, enough for what is there. */
static void resize(struct watch_log *log, uint64_t cap)
{
    struct entry *entries = xreallocarray(NULL, cap, sizeof(*entries));

    for (uint64_t place = log->first; place != log->end; place++)
        entries[place & (cap - 1)] = *entry_at(log, place);
    free(log->entries);
    log->entries = entries;
    log->mask = cap - 1;
}

static uint8_t *reserve(struct watch_log *log, size_t len)
{
    struct block *b = log->newest;
    uint8_t *p;

    if (b == NULL || b->size - b->fill < len) {
        size_t size = MAX(len, (size_t)BLOCK_BYTES - sizeof(*b));

        b = xmalloc(sizeof(*b) + size);
        *b = (struct block){.size = size, .end = log->end};
        log->bytes += sizeof(*b) + size;
        if (log->newest != NULL)
            log->newest->newer = b;
        else
            log->oldest = b;
        log->newest = b;
    }
    p = b->data + b->fill;
    b->fill += len;
    b->end = log->end + 1;
    return p;
}

static void on_event(void *user, const struct kv_event *event)
{
    struct watch_log *log = user;
    struct bytes data = event->is_delete ? event->key : event->record;
    struct entry *e;
    uint8_t *copy;

    if (log->entries == NULL)
        resize(log, ENTRIES_MIN);
    else if (log->end - log->first > log->mask)
        resize(log, (log->mask + 1) * 2);
    copy = reserve(log, data.len);
    memcpy(copy, data.data, data.len);
    e = entry_at(log, log->end);
    *e = (struct entry){.main = event->main,
                        .sub = event->sub,
                        .key_len = (uint32_t)event->key.len,
                        .record_len = (uint32_t)event->record.len,
                        .key_at = (uint32_t)(event->key.data - data.data),
                        .data = copy};
    log->end++;
}

static void keep_events(struct watch_log *log)
{
    kv_set_observer(log->kv, on_event, log);
    log->floor = watch_log_revision(log) + 1;
}

void watch_log_attach(struct watch_log *log, struct kv *kv)
{
    if (log->kv != NULL)
        kv_set_observer(log->kv, NULL, NULL);
    drop_all(log);
    log->kv = kv;
    if (kv == NULL)
        return;
    if (log->retained > 0)
        keep_events(log);
}

struct kv *watch_log_kv(const struct watch_log *log)
{
    return log->kv;
}

int64_t watch_log_revision(const struct watch_log *log)
{
    struct kv_state state;

    kv_get_state(log->kv, &state);
    return state.revision;
}

void watch_log_retain(struct watch_log *log)
{
    if (log->retained++ == 0 && log->kv != NULL)
        keep_events(log);
}

void watch_log_release(struct watch_log *log)
{
    assert(log->retained > 0);
    if (--log->retained > 0)
        return;
    drop_all(log);
    if (log->kv != NULL) /* nobody watches: writes cost nothing more */
        kv_set_observer(log->kv, NULL, NULL);
}

void watch_log_trim(struct watch_log *log, int64_t dispatched)
{
    while (log->bytes > log->budget_bytes && log->oldest != log->newest &&
           entry_at(log, log->oldest->end - 1)->main <= dispatched) {
        /* the rest of a revision whose beginning goes is of no use alone */
        log->floor = entry_at(log, log->oldest->end - 1)->main + 1;
        drop_oldest(log);
    }
    if (log->entries != NULL && log->mask + 1 > ENTRIES_MIN &&
        log->end - log->first < (log->mask + 1) / 8)
        resize(log, (log->mask + 1) / 4);
}

uint64_t watch_log_first(const struct watch_log *log)
{
    return log->first;
}

uint64_t watch_log_end(const struct watch_log *log)
{
    return log->end;
}

struct kv_event watch_log_at(const struct watch_log *log, uint64_t place)
{
    const struct entry *e = entry_at(log, place);

    assert(place >= log->first);
    assert(place < log->end);
    return (struct kv_event){.main = e->main,
                             .sub = e->sub,
                             .is_delete = e->record_len == 0,
                             .key = bytes_of(e->data + e->key_at, e->key_len),
                             .record = bytes_of(e->data, e->record_len)};
}

uint64_t watch_log_find(const struct watch_log *log, int64_t main)
{
    uint64_t from = log->first, to = log->end;

    while (from < to) {
        uint64_t mid = from + (to - from) / 2;

        if (entry_at(log, mid)->main < main)
            from = mid + 1;
        else
            to = mid;
    }
    return from;
}

int64_t watch_log_floor(const struct watch_log *log)
{
    return log->floor;
}

size_t watch_log_bytes(const struct watch_log *log)
{
    return log->bytes + (log->entries != NULL ? (log->mask + 1) * sizeof(log->entries[0]) : 0);
}
