#include "stored/kv/store_alarms.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"
#include "stored/kv/kv_internal.h"

void store_alarms_fini(struct store_alarms *a)
{
    free(a->list);
    *a = (struct store_alarms){0};
}

bool store_alarms_is_active(const struct store_alarms *a, uint32_t type)
{
    for (size_t i = 0; i < a->count; i++)
        if (a->list[i].type == type)
            return true;
    return false;
}

static bool is_below(struct store_alarm a, struct store_alarm b)
{
    return a.member_id != b.member_id ? a.member_id < b.member_id : a.type < b.type;
}

static size_t position(const struct store_alarms *a, struct store_alarm alarm)
{
    size_t i = 0;

    while (i < a->count && is_below(a->list[i], alarm))
        i++;
    return i;
}

static bool is_at(const struct store_alarms *a, size_t i, struct store_alarm alarm)
{
    return i < a->count && a->list[i].member_id == alarm.member_id &&
           a->list[i].type == alarm.type;
}

bool store_alarms_add(struct store_alarms *a, struct store_alarm alarm)
{
    size_t i = position(a, alarm);

    if (is_at(a, i, alarm))
        return false;
    a->list = xreallocarray(a->list, a->count + 1, sizeof(a->list[0]));
    memmove(&a->list[i + 1], &a->list[i], (a->count - i) * sizeof(a->list[0]));
    a->list[i] = alarm;
    a->count++;
    return true;
}

bool store_alarms_remove(struct store_alarms *a, struct store_alarm alarm)
{
    size_t i = position(a, alarm);

    if (!is_at(a, i, alarm))
        return false;
    a->count--;
    memmove(&a->list[i], &a->list[i + 1], (a->count - i) * sizeof(a->list[0]));
    return true;
}

void store_alarms_encode(const struct store_alarms *a, struct buf *b)
{
    for (size_t i = 0; i < a->count; i++) {
        wire_put_u64(b, a->list[i].member_id);
        wire_put_u32(b, a->list[i].type);
    }
}

int store_alarms_decode(struct store_alarms *a, struct bytes list)
{
    struct wire_reader r = wire_reader(list);
    struct store_alarms read = {0};

    while (r.pos < r.end && !r.bad) {
        uint64_t id = wire_get_u64(&r);
        uint32_t type = wire_get_u32(&r);

        if (!r.bad)
            store_alarms_add(&read, (struct store_alarm){id, type});
    }
    if (r.bad) {
        store_alarms_fini(&read);
        return -EBADMSG;
    }
    store_alarms_fini(a);
    *a = read;
    return 0;
}

void store_alarms_put_list(const struct store_alarms *a, uint32_t type, struct buf *b)
{
    for (size_t i = 0; i < a->count; i++) {
        if (type != STORE_ALARM_NONE && a->list[i].type != type)
            continue;

        size_t at = kv_pb_begin(b, 2);

        pb_put_u64(b, 1, a->list[i].member_id);
        pb_put_u64(b, 2, a->list[i].type);
        kv_pb_end(b, at);
    }
}
