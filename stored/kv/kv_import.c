#include "stored/kv/kv_import.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "lib/bbolt/snapshot_file.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/sha256.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "stored/kv/etcd_buckets.h"
#include "stored/kv/kv_engine.h"
#include "stored/kv/kv_internal.h"

enum { LEASES_MAX = 16 << 20, NAMES_MAX = 1 << 20, ALARMS_MAX = 1000 };

struct kv_import {
    struct kv_import_args args;
    struct bbolt_bucket buckets[ETCD_BUCKET_COUNT];
    bool has_bucket[ETCD_BUCKET_COUNT];
    struct bbolt_cursor versions;
    bool versions_over;
    struct store_alarms alarms;
    struct lease_table leases;
    struct auth_store auth;
    int64_t compacted, last_main;
    uint32_t last_sub;
    struct buf batch, value;
    uint64_t sequence;
    struct kv_import_result result;
};

static int refuse(char **ret_error, const char *what, struct bytes name)
{
    *ret_error = xasprintf("snapshot: %s \"%.*s\"", what, (int)MIN(name.len, (size_t)80),
                           (const char *)name.data);
    return -EBADMSG;
}

/* ---- small buckets ---- */

static int find_buckets(struct kv_import *m, char **ret_error)
{
    struct bbolt_bucket root = bbolt_root(&m->args.file->db);

    for (unsigned int i = 0; i < ETCD_BUCKET_COUNT; i++) {
        struct bytes name = bytes_str(etcd_bucket_names[i]);
        int r = bbolt_bucket_find(&root, name, &m->buckets[i]);

        if (r == -EBADMSG)
            return refuse(ret_error, "cannot read bucket", name);
        m->has_bucket[i] = r == 0;
    }
    if (!m->has_bucket[ETCD_KEY] || !m->has_bucket[ETCD_META]) {
        *ret_error = xstrdup("snapshot: not a database of etcd: no bucket \"key\" or \"meta\"");
        return -EBADMSG;
    }
    return 0;
}

/* Calls take for each item of a bucket that is there. */
static int each(struct kv_import *m, enum etcd_bucket which,
                int (*take)(struct kv_import *m, const struct bbolt_item *item, char **ret_error),
                char **ret_error)
{
    struct bbolt_cursor c;
    struct bbolt_item item;
    int r;

    if (!m->has_bucket[which])
        return 0;
    bbolt_cursor_init(&c, &m->buckets[which]);
    while ((r = bbolt_cursor_next(&c, &item)) == 1) {
        r = item.is_bucket ? -EBADMSG : take(m, &item, ret_error);
        if (r != 0)
            break;
    }
    if (r != 0 && *ret_error == NULL)
        refuse(ret_error, "cannot read bucket", bytes_str(etcd_bucket_names[which]));
    return r;
}

/* The main revision of a compaction mark; 0 when there is none. */
static int read_mark(struct kv_import *m, const char *name, int64_t *ret, char **ret_error)
{
    struct bytes value;
    int r = bbolt_get(&m->buckets[ETCD_META], bytes_str(name), &value);

    *ret = 0;
    if (r == -ENOENT)
        return 0;
    if (r != 0 || value.len < sizeof(uint64_t))
        return refuse(ret_error, "cannot read", bytes_str(name));
    *ret = (int64_t)wire_load_be64(value.data);
    return *ret < 0 ? refuse(ret_error, "impossible revision in", bytes_str(name)) : 0;
}

/* Alarms stay, under the ids of the old members, until they are disarmed: as with etcd. */
static int take_alarm(struct kv_import *m, const struct bbolt_item *item, char **ret_error)
{
    struct pb_reader r = pb_reader(item->key);
    struct store_alarm alarm = {0};
    struct pb_field f;

    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.type == PB_VARINT)
            alarm.member_id = f.value;
        else if (f.number == 2 && f.type == PB_VARINT)
            alarm.type = (uint32_t)MIN(f.value, (uint64_t)UINT32_MAX);
    }
    if (r.bad || m->alarms.count >= ALARMS_MAX)
        return -EBADMSG;
    if (alarm.type == STORE_ALARM_NOSPACE || alarm.type == STORE_ALARM_CORRUPT)
        store_alarms_add(&m->alarms, alarm);
    return 0;
}

/* What is left of a lease runs on from the first start. */
static int take_lease(struct kv_import *m, const struct bbolt_item *item, char **ret_error)
{
    struct pb_reader r = pb_reader(item->value);
    struct lease *lease;
    struct pb_field f;
    int64_t id = 0, ttl = 0, remaining = 0;

    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.type == PB_VARINT)
            id = (int64_t)f.value;
        else if (f.number == 2 && f.type == PB_VARINT)
            ttl = (int64_t)f.value;
        else if (f.number == 3 && f.type == PB_VARINT)
            remaining = (int64_t)f.value;
    }
    if (r.bad || lease_table_count(&m->leases) >= LEASES_MAX ||
        lease_table_grant(&m->leases, id, ttl, 1, &lease) != OUT_OK)
        return -EBADMSG;
    if (remaining > 0)
        lease_table_set_deadline(&m->leases, lease,
                                 m->leases.clock_ms + (uint64_t)MIN(remaining, lease->ttl) * 1000);
    return 0;
}

static int take_permission(struct kv_import *m, struct bytes role, struct bytes message)
{
    struct auth_permission_args args = {.role = role, .given = true};
    struct pb_reader r = pb_reader(message);
    struct pb_field f;

    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.type == PB_VARINT)
            args.type = (int32_t)f.value;
        else if (f.number == 2 && f.type == PB_LENGTH)
            args.key = f.bytes;
        else if (f.number == 3 && f.type == PB_LENGTH)
            args.range_end = f.bytes;
    }
    return r.bad || auth_store_role_grant(&m->auth, &args) != OUT_OK ? -EBADMSG : 0;
}

static int take_role(struct kv_import *m, const struct bbolt_item *item, char **ret_error)
{
    struct pb_reader r = pb_reader(item->value);
    struct pb_field f;

    if (m->auth.role_count >= NAMES_MAX || auth_store_role_add(&m->auth, item->key) != OUT_OK)
        return refuse(ret_error, "impossible role", item->key);
    while (pb_next(&r, &f)) {
        if (f.number == 2 && f.type == PB_LENGTH && take_permission(m, item->key, f.bytes) != 0)
            return refuse(ret_error, "impossible permission of role", item->key);
    }
    return r.bad ? refuse(ret_error, "cannot read role", item->key) : 0;
}

static int read_user(struct bytes message, struct auth_user_args *ret)
{
    struct pb_reader r = pb_reader(message), options = {0};
    struct pb_field f;

    while (pb_next(&r, &f)) {
        if (f.number == 2 && f.type == PB_LENGTH)
            ret->password = f.bytes;
        else if (f.number == 4 && f.type == PB_LENGTH)
            options = pb_reader(f.bytes);
    }
    while (pb_next(&options, &f))
        ret->no_password = ret->no_password || (f.number == 1 && f.value != 0);
    return r.bad || options.bad ? -EBADMSG : 0;
}

/* After the roles. A role that is not there any more allows nothing and is dropped. */
static int take_user(struct kv_import *m, const struct bbolt_item *item, char **ret_error)
{
    struct auth_user_args args = {.name = item->key};
    struct pb_reader r = pb_reader(item->value);
    struct pb_field f;
    bool changed;

    if (m->auth.user_count >= NAMES_MAX || read_user(item->value, &args) != 0 ||
        auth_store_user_add(&m->auth, &args) != OUT_OK)
        return refuse(ret_error, "impossible user", item->key);
    while (pb_next(&r, &f)) {
        if (f.number == 3 && f.type == PB_LENGTH)
            auth_store_user_grant(&m->auth, item->key, f.bytes, &changed);
    }
    return 0;
}

static int take_auth(struct kv_import *m, const struct bbolt_item *item, char **ret_error)
{
    if (bytes_eq(item->key, BYTES_LIT("authEnabled")))
        m->auth.enabled = bytes_eq(item->value, BYTES_LIT("\x01"));
    else if (bytes_eq(item->key, BYTES_LIT("authRevision")) && item->value.len == sizeof(uint64_t))
        m->auth.revision = wire_load_be64(item->value.data);
    return 0;
}

static int read_tables(struct kv_import *m, char **ret_error)
{
    int64_t scheduled, finished;
    int r = read_mark(m, "scheduledCompactRev", &scheduled, ret_error);

    if (r == 0)
        r = read_mark(m, "finishedCompactRev", &finished, ret_error);
    if (r != 0)
        return r;
    m->compacted = MAX(scheduled, finished);
    r = each(m, ETCD_ALARM, take_alarm, ret_error);
    if (r == 0)
        r = each(m, ETCD_LEASE, take_lease, ret_error);
    if (r == 0)
        r = each(m, ETCD_AUTH_ROLES, take_role, ret_error);
    if (r == 0)
        r = each(m, ETCD_AUTH_USERS, take_user, ret_error);
    if (r == 0)
        r = each(m, ETCD_AUTH, take_auth, ret_error); /* last: it has the revision */
    m->auth.revision = MAX(m->auth.revision, UINT64_C(1));
    return r;
}

/* ---- life ---- */

int kv_import_new(const struct kv_import_args *args, struct kv_import **ret, char **ret_error)
{
    struct kv_import *m = xcalloc(1, sizeof(*m));
    int r;

    m->args = *args;
    m->last_main = 1; /* an empty store is at revision 1 */
    m->last_sub = UINT32_MAX;
    lease_table_init(&m->leases);
    auth_store_init(&m->auth);
    r = find_buckets(m, ret_error);
    if (r == 0)
        r = read_tables(m, ret_error);
    if (r != 0) {
        kv_import_free(m);
        return r;
    }
    bbolt_cursor_init(&m->versions, &m->buckets[ETCD_KEY]);
    *ret = m;
    return 0;
}

void kv_import_free(struct kv_import *m)
{
    if (m == NULL)
        return;
    store_alarms_fini(&m->alarms);
    lease_table_fini(&m->leases);
    auth_store_fini(&m->auth);
    buf_fini(&m->batch);
    buf_fini(&m->value);
    free(m);
}

/* ---- versions ---- */

static int refuse_version(char **ret_error, const char *what, int64_t main)
{
    *ret_error = xasprintf("snapshot: %s revision %" PRId64, what, main);
    return -EBADMSG;
}

/* In order, and none missing above what was compacted: without it a start would find a hole. */
static int check_order(struct kv_import *m, int64_t main, uint64_t sub, char **ret_error)
{
    if (main < 1 || main == INT64_MAX || sub >= UINT32_MAX || main < m->last_main ||
        (main == m->last_main && m->last_sub != UINT32_MAX && sub <= m->last_sub))
        return refuse_version(ret_error, "out of order:", main);
    if (main > m->last_main + 1 && main > m->compacted + 1)
        return refuse_version(ret_error, "nothing before", main);
    return 0;
}

static int take_version(struct kv_import *m, const struct bbolt_item *item, char **ret_error)
{
    bool is_delete = item->key.len == ETCD_TOMBSTONE_BYTES;
    uint8_t key[KV_RECORD_KEY_BYTES];
    struct kv_record record;
    int64_t main;
    uint64_t sub;
    int r;

    if (item->is_bucket || (item->key.len != ETCD_REVISION_BYTES && !is_delete) ||
        (is_delete && item->key.data[ETCD_REVISION_BYTES] != ETCD_TOMBSTONE_MARK))
        return refuse(ret_error, "not a revision:", item->key);
    main = (int64_t)wire_load_be64(item->key.data);
    sub = wire_load_be64(item->key.data + 9);
    r = check_order(m, main, sub, ret_error);
    if (r != 0)
        return r;
    m->last_main = main;
    m->last_sub = (uint32_t)sub;
    if (item->value.len == 0)
        return 0; /* etcd marks a raised revision so */
    buf_clear(&m->value);
    if (is_delete)
        buf_append_u8(&m->value, 0);
    buf_append_bytes(&m->value, item->value);
    if (m->value.len > KV_RECORD_BYTES_MAX || item->value.data[0] == 0 ||
        kv_record_decode(buf_bytes(&m->value), &record) != 0 ||
        (!is_delete && record.mod_revision != main))
        return refuse_version(ret_error, "damaged:", main);
    kv_record_key(key, main, (uint32_t)sub);
    kv_batch_put(&m->batch, bytes_of(key, sizeof(key)), buf_bytes(&m->value));
    m->result.version_count++;
    return 0;
}

static void hand_over(struct kv_import *m)
{
    if (m->batch.len > 0)
        m->args.engine->ops->write(m->args.engine, ++m->sequence, &m->batch);
}

int kv_import_step(struct kv_import *m, size_t max_bytes, char **ret_error)
{
    struct bbolt_item item;

    while (!m->versions_over && m->batch.len < max_bytes) {
        int r = bbolt_cursor_next(&m->versions, &item);

        if (r == 1)
            r = take_version(m, &item, ret_error);
        else if (r == 0)
            m->versions_over = true;
        else
            refuse(ret_error, "cannot read bucket", BYTES_LIT("key"));
        if (r < 0)
            return r;
    }
    hand_over(m);
    return m->versions_over ? 0 : 1;
}

/* ---- the end ---- */

/* What the state is, in eight bytes: the same for everybody with the same file and arguments. */
static uint64_t state_hash(const struct kv_import *m)
{
    uint8_t digest[SHA256_BYTES];
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    uint64_t hash;

    if (m->args.file->has_hash) {
        buf_append(&b, m->args.file->hash, SNAPSHOT_HASH_BYTES);
    } else {
        sha256_of(m->args.file->image, digest);
        buf_append(&b, digest, sizeof(digest));
    }
    wire_put_u64(&b, m->args.bump_revision);
    wire_put_u64(&b, m->args.index);
    buf_append_bytes(&b, m->args.members);
    sha256_of(buf_bytes(&b), digest);
    memcpy(&hash, digest, sizeof(hash));
    return hash;
}

int kv_import_finish(struct kv_import *m, char **ret_error)
{
    CLEANUP(buf_fini) struct buf alarms = BUF_INIT;
    CLEANUP(buf_fini) struct buf leases = BUF_INIT;
    CLEANUP(buf_fini) struct buf auth = BUF_INIT;
    CLEANUP(buf_fini) struct buf base = BUF_INIT;
    uint8_t key[KV_BATCH_KEY_BYTES];
    int64_t revision = MAX(m->last_main, m->compacted);
    int64_t compact_revision = m->compacted > 0 ? m->compacted : -1;

    assert(m->versions_over);
    if (m->args.bump_revision > 0) {
        if (m->args.bump_revision >= (uint64_t)(INT64_MAX - revision)) {
            *ret_error = xstrdup("the revision would be raised beyond what there is");
            return -EBADMSG;
        }
        revision += (int64_t)m->args.bump_revision;
        compact_revision = revision;
    }
    store_alarms_encode(&m->alarms, &alarms);
    lease_table_encode(&m->leases, &leases);
    auth_store_encode(&m->auth, &auth);
    kv_batch_record_encode(&base, &(struct kv_batch_record){.is_base = true,
                                                            .hash = state_hash(m),
                                                            .term = m->args.term,
                                                            .revision = revision,
                                                            .compact_revision = compact_revision,
                                                            .has_members = true,
                                                            .members = m->args.members,
                                                            .has_alarms = true,
                                                            .alarms = buf_bytes(&alarms),
                                                            .has_version = true,
                                                            .has_leases = true,
                                                            .leases = buf_bytes(&leases),
                                                            .has_auth = true,
                                                            .auth = buf_bytes(&auth)});
    kv_batch_key(key, revision, m->args.index);
    kv_batch_put(&m->batch, bytes_of(key, sizeof(key)), buf_bytes(&base));
    hand_over(m);
    m->result.revision = revision;
    m->result.compact_revision = compact_revision;
    m->result.lease_count = lease_table_count(&m->leases);
    m->result.alarm_count = m->alarms.count;
    m->result.user_count = m->auth.user_count;
    m->result.role_count = m->auth.role_count;
    return 0;
}

void kv_import_get_result(const struct kv_import *m, struct kv_import_result *ret)
{
    *ret = m->result;
}
