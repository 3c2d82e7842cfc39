/*
 * Active alarms: pairs of member id and type, kept sorted. Replicated state, changed by ALARM
 * entries only (etcd rpc.proto Maintenance.Alarm).
 */
#ifndef CONCLAVE_STORED_STORE_ALARMS_H
#define CONCLAVE_STORED_STORE_ALARMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

enum store_alarm_type { STORE_ALARM_NONE, STORE_ALARM_NOSPACE, STORE_ALARM_CORRUPT };

struct store_alarm {
    uint64_t member_id;
    uint32_t type;
};

struct store_alarms {
    struct store_alarm *list;
    size_t count;
};

void store_alarms_fini(struct store_alarms *a);
bool store_alarms_is_active(const struct store_alarms *a, uint32_t type);
bool store_alarms_add(struct store_alarms *a, struct store_alarm alarm); /* false: was there */
bool store_alarms_remove(struct store_alarms *a, struct store_alarm alarm); /* false: was not */

/* Repeated {u64 member id, u32 type}: batch records and proto_store_status.alarms. */
void store_alarms_encode(const struct store_alarms *a, struct buf *b);
int store_alarms_decode(struct store_alarms *a, struct bytes list); /* replaces; -EBADMSG */

/* AlarmResponse.alarms of one type (NONE: all), without the header. */
void store_alarms_put_list(const struct store_alarms *a, uint32_t type, struct buf *b);

#endif
