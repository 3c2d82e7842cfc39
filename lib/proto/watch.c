#include "lib/proto/watch.h"

#include <errno.h>

void proto_watch_create_encode(struct buf *b, const struct proto_watch_create *m)
{
    wire_put_u32(b, m->stream);
    wire_put_i64(b, m->start_revision);
    wire_put_u8(b, m->flags);
    wire_put_bytes(b, m->identity);
    wire_put_bytes(b, m->key);
    wire_put_bytes(b, m->range_end);
}

static bool get_bool(struct wire_reader *r)
{
    uint8_t v = wire_get_u8(r);

    r->bad = r->bad || v > 1;
    return v != 0;
}

int proto_watch_create_decode(struct bytes body, struct proto_watch_create *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->stream = wire_get_u32(&r);
    ret->start_revision = wire_get_i64(&r);
    ret->flags = wire_get_u8(&r);
    ret->identity = wire_get_bytes(&r);
    ret->key = wire_get_bytes(&r);
    ret->range_end = wire_get_bytes(&r);
    if (ret->key.len == 0 || (ret->flags & ~PROTO_WATCH_FLAGS) != 0)
        return -EBADMSG;
    return wire_reader_done(&r);
}

void proto_watch_created_encode(struct buf *b, const struct proto_watch_created *m)
{
    wire_put_u16(b, m->outcome);
    wire_put_u8(b, m->at_head);
    wire_put_i64(b, m->revision);
    wire_put_i64(b, m->next);
}

int proto_watch_created_decode(struct bytes body, struct proto_watch_created *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->outcome = wire_get_u16(&r);
    ret->at_head = get_bool(&r);
    ret->revision = wire_get_i64(&r);
    ret->next = wire_get_i64(&r);
    return wire_reader_done(&r);
}

void proto_watch_canceled_encode(struct buf *b, const struct proto_watch_canceled *m)
{
    wire_put_u8(b, m->reply);
    wire_put_u16(b, m->outcome);
    wire_put_i64(b, m->revision);
    wire_put_i64(b, m->compact_revision);
    wire_put_i64(b, m->next);
}

int proto_watch_canceled_decode(struct bytes body, struct proto_watch_canceled *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->reply = get_bool(&r);
    ret->outcome = wire_get_u16(&r);
    ret->revision = wire_get_i64(&r);
    ret->compact_revision = wire_get_i64(&r);
    ret->next = wire_get_i64(&r);
    return wire_reader_done(&r);
}

void proto_watch_progress_encode(struct buf *b, const struct proto_watch_progress *m)
{
    wire_put_u8(b, m->whole_stream);
    wire_put_i64(b, m->revision);
}

int proto_watch_progress_decode(struct bytes body, struct proto_watch_progress *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->whole_stream = get_bool(&r);
    ret->revision = wire_get_i64(&r);
    return wire_reader_done(&r);
}

void proto_watch_ids_put(struct buf *b, const uint32_t *ids, size_t count)
{
    wire_put_u32(b, (uint32_t)count);
    buf_append(b, ids, count * sizeof(ids[0]));
}

static void get_ids(struct wire_reader *r, struct proto_watch_ids *ret)
{
    uint32_t count = wire_get_u32(r);

    *ret = (struct proto_watch_ids){r->pos, 0};
    if (r->bad || count == 0 || (size_t)(r->end - r->pos) / sizeof(uint32_t) < count) {
        r->bad = true;
        return;
    }
    ret->count = count;
    r->pos += (size_t)count * sizeof(uint32_t);
}

void proto_watch_behind_begin(struct buf *b, int64_t next)
{
    wire_put_i64(b, next);
}

int proto_watch_behind_decode(struct bytes body, struct proto_watch_behind *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->next = wire_get_i64(&r);
    get_ids(&r, &ret->ids);
    return wire_reader_done(&r);
}

void proto_watch_history_begin(struct buf *b, const struct proto_watch_history *m)
{
    wire_put_i64(b, m->next);
    wire_put_i64(b, m->revision);
    wire_put_u8(b, m->at_head);
    wire_put_u8(b, m->more);
}

int proto_watch_history_decode(struct bytes body, struct proto_watch_history *ret)
{
    struct wire_reader r = wire_reader(body);

    ret->next = wire_get_i64(&r);
    ret->revision = wire_get_i64(&r);
    ret->at_head = get_bool(&r);
    ret->more = get_bool(&r);
    get_ids(&r, &ret->ids);
    ret->events = wire_rest(&r);
    return wire_reader_done(&r);
}

void proto_watch_event_put(struct buf *b, int64_t revision, struct bytes bytes)
{
    wire_put_i64(b, revision);
    wire_put_bytes(b, bytes);
}

int proto_watch_event_read(struct wire_reader *r, struct proto_watch_event *ret)
{
    ret->revision = wire_get_i64(r);
    ret->bytes = wire_get_bytes(r);
    return r->bad ? -EBADMSG : 0;
}

int proto_watch_group_read(struct wire_reader *r, uint32_t event_count,
                           struct proto_watch_group *ret)
{
    get_ids(r, &ret->hits);
    for (uint32_t i = 0; i < ret->hits.count; i++) {
        uint32_t hit = proto_watch_id(&ret->hits, i);

        r->bad =
            r->bad || hit >= event_count || (i > 0 && hit <= proto_watch_id(&ret->hits, i - 1));
    }
    get_ids(r, &ret->ids);
    return r->bad ? -EBADMSG : 0;
}
