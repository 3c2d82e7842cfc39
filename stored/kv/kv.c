/*
 * The keyspace's life, its turns, and the execution of single entries. Txns are in kv_txn.c,
 * ranges in kv_range.c, the rest in the file of its name.
 *
 * The chain hash of entry i is H(h(i-1), index, term, outcome, revision after it; entry bytes), so
 * two members with the same hash at the same index executed the same entries with the same
 * results. Outcomes are hashed too: a member that refused what another one executed shows.
 */
#include "stored/kv/kv_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <xxhash.h>

#include "lib/proto/downgrade.h"
#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/sim_bug.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"
#include "stored/kv/kv_engine.h"

/* ---- state ---- */

void kv_get_state(const struct kv *kv, struct kv_state *ret)
{
    *ret = (struct kv_state){
        .applied_index = kv->applied_index,
        .applied_term = kv->applied_term,
        .chain_hash = kv->chain_hash,
        .revision = kv->revision,
        .compact_revision = kv->compact_revision,
    };
}

void kv_get_stats(const struct kv *kv, struct kv_stats *ret)
{
    *ret = (struct kv_stats){
        .key_count = kv->index.live_count,
        .index_bytes = kv->index.memory_bytes,
        .cache_bytes = kv->cache.bytes,
        .record_bytes = kv->index.record_bytes,
        .put_total = kv->put_total,
        .delete_total = kv->delete_total,
        .txn_total = kv->txn_total,
        .range_total = kv->range_total,
        .cache_hits = kv->cache.hits,
        .cache_misses = kv->cache.misses,
        .lease_count = lease_table_count(&kv->leases),
        .lease_granted_total = kv->lease_granted_total,
        .lease_revoked_total = kv->lease_revoked_total,
        .lease_expired_total = kv->lease_expired_total,
        .kv_compacting = kv->compact.phase != KV_COMPACT_IDLE,
    };
}

const struct store_members *kv_members(const struct kv *kv)
{
    return &kv->members;
}

const struct store_alarms *kv_alarms(const struct kv *kv)
{
    return &kv->alarms;
}

/* The table holds "3.7.0", or "3.7.0/3.6.0" while a downgrade to the second is under way. */
static struct bytes version_part(const struct kv *kv, bool second)
{
    struct bytes all = buf_bytes(&kv->cluster_version);
    const uint8_t *slash = all.len != 0 ? memchr(all.data, '/', all.len) : NULL;
    size_t at = slash != NULL ? (size_t)(slash - all.data) : all.len;

    if (!second)
        return bytes_of(all.data, at);
    return slash != NULL ? bytes_of(slash + 1, all.len - at - 1) : BYTES_EMPTY;
}

struct bytes kv_cluster_version(const struct kv *kv)
{
    return version_part(kv, false);
}

struct bytes kv_downgrade(const struct kv *kv)
{
    return version_part(kv, true);
}

uint64_t kv_tables_generation(const struct kv *kv)
{
    return kv->tables_generation;
}

void kv_free(struct kv *kv)
{
    if (kv == NULL)
        return;
    assert(list_empty(&kv->pins));
    kv_index_fini(&kv->index);
    kv_cache_fini(&kv->cache);
    store_members_fini(&kv->members);
    store_alarms_fini(&kv->alarms);
    lease_table_fini(&kv->leases);
    buf_fini(&kv->checkpoint_leases);
    buf_fini(&kv->cluster_version);
    auth_store_fini(&kv->auth);
    auth_tokens_fini(&kv->auth_tokens);
    auth_stamps_fini(&kv->auth_stamps);
    buf_fini(&kv->batch);
    buf_fini(&kv->compact.cursor);
    buf_fini(&kv->compact.batch);
    buf_fini(&kv->trim.cursor);
    buf_fini(&kv->trim.list);
    buf_fini(&kv->scratch);
    buf_fini(&kv->scratch2);
    arena_fini(&kv->arena);
    free(kv->compact.deletions);
    free(kv->handed);
    free(kv);
}

/* ---- handing batches over ---- */

uint64_t kv_hand_over(struct kv *kv, struct buf *batch)
{
    uint64_t sequence = kv->sequence;

    assert(!kv->in_turn);
    if (kv->handed_count == kv->handed_cap) {
        kv->handed_count -= kv->handed_first;
        if (kv->handed_first > 0)
            memmove(kv->handed, kv->handed + kv->handed_first,
                    kv->handed_count * sizeof(kv->handed[0]));
        kv->handed_written -= kv->handed_first;
        kv->handed_first = 0;
        if (kv->handed_count * 2 >= kv->handed_cap) {
            kv->handed_cap = kv->handed_cap * 2 + 64;
            kv->handed = xreallocarray(kv->handed, kv->handed_cap, sizeof(kv->handed[0]));
        }
    }
    kv->handed[kv->handed_count++] = (struct kv_handed){sequence, kv->applied_index, kv->revision};
    kv->sequence++;
    kv->engine->ops->write(kv->engine, sequence, batch);
    kv_on_written(kv, kv->engine->ops->written(kv->engine)); /* an engine may write at once */
    return sequence;
}

void kv_on_written(struct kv *kv, uint64_t sequence)
{
    if (sequence <= kv->written_sequence)
        return;
    kv->written_sequence = sequence;
    for (; kv->handed_written < kv->handed_count &&
           kv->handed[kv->handed_written].sequence <= sequence;
         kv->handed_written++)
        kv->written_revision = kv->handed[kv->handed_written].revision;
    kv_cache_written(&kv->cache, sequence);
}

void kv_on_durable(struct kv *kv, uint64_t sequence)
{
    if (sequence <= kv->durable_sequence)
        return;
    kv_on_written(kv, sequence);
    kv->durable_sequence = sequence;
    while (kv->handed_first < kv->handed_count &&
           kv->handed[kv->handed_first].sequence <= sequence)
        kv->durable_index = kv->handed[kv->handed_first++].index;
}

uint64_t kv_durable_index(const struct kv *kv)
{
    return kv->durable_index;
}

void kv_engine_border(const struct kv *kv, size_t part, size_t parts, struct buf *ret)
{
    uint8_t key[KV_RECORD_KEY_BYTES];

    assert(parts > 0);
    kv_record_key(key, kv->revision / (int64_t)parts * (int64_t)part, 0);
    buf_append(ret, key, sizeof(key));
}

/* ---- values ---- */

int kv_get_record(struct kv *kv, int64_t main, uint32_t sub, bool keep, struct buf *ret)
{
    uint8_t key[KV_RECORD_KEY_BYTES];
    struct bytes record;
    size_t at = ret->len;
    int r;

    if (kv_cache_get(&kv->cache, main, sub, &record)) {
        buf_append_bytes(ret, record);
        return 0;
    }
    kv_record_key(key, main, sub);
    r = kv->engine->ops->get(kv->engine, bytes_of(key, sizeof(key)), ret);
    if (r == -ENOENT)
        r = -EIO; /* the index says it is there: the engine lost it */
    if (r == 0 && keep && ret->len - at <= kv->cache.segment_bytes)
        memcpy(kv_cache_add(&kv->cache, main, sub, ret->len - at, 0), ret->data + at,
               ret->len - at);
    return r;
}

struct kv_bounds kv_bounds(struct bytes key, struct bytes range_end)
{
    if (range_end.len == 0)
        return (struct kv_bounds){.from = key, .is_single = true};
    if (range_end.len == 1 && range_end.data[0] == 0)
        return (struct kv_bounds){.from = key};
    return (struct kv_bounds){.from = key, .to = range_end, .has_to = true};
}

uint64_t kv_count_live(const struct kv *kv, const struct kv_bounds *b)
{
    uint64_t from, to;

    if (b->is_single) {
        const struct kv_entry *e = kv_index_find(&kv->index, b->from);

        return e != NULL && kv_entry_is_live(e);
    }
    to = b->has_to ? kv_index_rank(&kv->index, b->to) : kv->index.live_count;
    from = kv_index_rank(&kv->index, b->from);
    return to > from ? to - from : 0;
}

/* ---- put and delete ---- */

/* etcd looks at the lease first in a put, and at the key first in a txn's put. */
int kv_check_put_state(const struct kv *kv, const struct kv_put_request *m, bool in_txn)
{
    bool lease_missing = m->lease != 0 && !kv_lease_exists(kv, m->lease);
    bool key_missing = false;

    if (m->ignore_value || m->ignore_lease) {
        const struct kv_entry *e = kv_index_find(&kv->index, m->key);

        key_missing = e == NULL || !kv_entry_is_live(e);
    }
    if (in_txn && key_missing)
        return OUT_KEY_NOT_FOUND;
    if (lease_missing)
        return OUT_LEASE_NOT_FOUND;
    return key_missing ? OUT_KEY_NOT_FOUND : OUT_OK;
}

static void batch_record(struct kv *kv, const struct kv_writer *w, struct bytes record)
{
    uint8_t key[KV_RECORD_KEY_BYTES];

    kv_record_key(key, w->main, w->sub);
    kv_batch_put(&kv->batch, bytes_of(key, sizeof(key)), record);
    if (kv->observer != NULL)
        kv_observe(kv, w->main, w->sub, record);
}

int kv_write_put(struct kv *kv, struct kv_writer *w, const struct kv_put_request *m,
                 const struct kv_header *header, struct buf *answer)
{
    const struct kv_entry *old = kv_index_find(&kv->index, m->key);
    bool was_live = old != NULL && kv_entry_is_live(old);
    int64_t old_lease = was_live ? old->lease : 0;
    struct kv_record record = {
        .key = m->key,
        .value = m->value,
        .create_revision = was_live ? old->create_revision : w->main,
        .mod_revision = w->main,
        .version = was_live ? old->version + 1 : 1,
        .lease = m->ignore_lease && was_live ? old->lease : m->lease,
    };
    struct kv_record old_record;
    size_t size;
    uint8_t *p;
    int r;

    if (was_live && (m->ignore_value || (m->prev_kv && answer != NULL))) {
        buf_clear(&kv->scratch);
        r = kv_get_record(kv, old->mod_revision, old->mod_sub, false, &kv->scratch);
        if (r == 0)
            r = kv_record_decode(buf_bytes(&kv->scratch), &old_record);
        if (r < 0)
            return r;
        if (m->ignore_value)
            record.value = old_record.value;
    }
    if (answer != NULL) {
        kv_put_header(answer, header, w->main);
        if (m->prev_kv && was_live)
            pb_put_message(answer, 2, buf_bytes(&kv->scratch));
    }
    size = kv_record_size(&record);
    assert(size <= KV_RECORD_BYTES_MAX);
    p = kv_cache_add(&kv->cache, w->main, w->sub, size, kv->sequence);
    kv_record_encode(&record, p);
    batch_record(kv, w, bytes_of(p, size));
    if (was_live)
        kv_cache_superseded(&kv->cache, old->mod_revision, old->mod_sub, old->size);
    kv_index_put(&kv->index, &(struct kv_put_args){
                                 .key = m->key,
                                 .main = w->main,
                                 .sub = w->sub,
                                 .create_revision = record.create_revision,
                                 .version = record.version,
                                 .lease = record.lease,
                                 .size = (uint32_t)size,
                             });
    kv->lease_seen = kv->lease_seen || record.lease != 0;
    if (old_lease != record.lease) {
        lease_table_detach(&kv->leases, old_lease, m->key);
        lease_table_attach(&kv->leases, record.lease, m->key);
    }
    w->sub++;
    return OUT_OK;
}

static int append_prev_kv(struct kv *kv, const struct kv_entry *e, struct buf *answer)
{
    size_t at = kv_pb_begin(answer, 3);
    int r = kv_get_record(kv, e->mod_revision, e->mod_sub, false, answer);

    kv_pb_end(answer, at);
    return r;
}

int kv_write_delete(struct kv *kv, struct kv_writer *w, const struct kv_delete_request *m,
                    const struct kv_header *header, struct buf *answer)
{
    struct kv_bounds bounds = kv_bounds(m->key, m->range_end);
    uint64_t count = kv_count_live(kv, &bounds), deleted = 0;
    struct kv_index_iter it;
    struct kv_entry *e;
    int r = 0;

    if (answer != NULL) {
        kv_put_header(answer, header, count > 0 || w->sub > 0 ? w->main : w->main - 1);
        pb_put_u64(answer, 2, count);
    }
    if (count == 0)
        return OUT_OK;
    kv_index_seek(&kv->index, bounds.from, &it);
    for (; deleted < count && (e = kv_index_iter_get(&it)) != NULL; kv_index_iter_next(&it)) {
        struct kv_record record = {.key = kv_entry_key(e), .is_delete = true};

        if (!kv_entry_is_live(e))
            continue;
        assert(!kv_bounds_past(&bounds, record.key));
        if (m->prev_kv && answer != NULL) {
            r = append_prev_kv(kv, e, answer);
            if (r < 0)
                return r;
        }
        buf_clear(&kv->scratch);
        kv_record_encode(&record, buf_reserve(&kv->scratch, kv_record_size(&record)));
        kv->scratch.len = kv_record_size(&record);
        batch_record(kv, w, buf_bytes(&kv->scratch));
        kv_cache_superseded(&kv->cache, e->mod_revision, e->mod_sub, e->size);
        if (e->lease != 0)
            lease_table_detach(&kv->leases, e->lease, record.key);
        kv_index_delete(&kv->index, e, w->main, w->sub);
        w->sub++;
        deleted++;
    }
    assert(deleted == count);
    return OUT_OK;
}

/* ---- entries ---- */

/* Everything an entry's execution needs besides the payload. */
struct apply {
    struct kv_writer writer;
    const struct kv_header *header;
    struct buf *message; /* NULL: nobody waits */
    struct kv_answer *answer;
};

int kv_check_alarms(const struct kv *kv, uint64_t cost)
{
    if (LIKELY(kv->alarms.count == 0))
        return OUT_OK;
    if (store_alarms_is_active(&kv->alarms, STORE_ALARM_CORRUPT))
        return OUT_CORRUPT;
    if (cost > 0 && store_alarms_is_active(&kv->alarms, STORE_ALARM_NOSPACE))
        return OUT_NO_SPACE;
    return OUT_OK;
}

static int apply_put(struct kv *kv, struct apply *a, struct bytes body)
{
    struct kv_put_request m;
    int outcome = kv_decode_put(body, &m);

    if (outcome == OUT_OK)
        outcome = kv_check_put(&m);
    if (outcome == OUT_OK)
        outcome = kv_check_alarms(kv, kv_put_cost(&m));
    if (outcome == OUT_OK)
        outcome = kv_check_put_state(kv, &m, false);
    if (outcome != OUT_OK)
        return outcome;
    kv->put_total++;
    return kv_write_put(kv, &a->writer, &m, a->header, a->message);
}

static int apply_delete(struct kv *kv, struct apply *a, struct bytes body)
{
    struct kv_delete_request m;
    int outcome = kv_decode_delete(body, &m);

    if (outcome == OUT_OK)
        outcome = kv_check_delete(&m);
    if (outcome == OUT_OK)
        outcome = kv_check_alarms(kv, 0);
    if (outcome != OUT_OK)
        return outcome;
    kv->delete_total++;
    return kv_write_delete(kv, &a->writer, &m, a->header, a->message);
}

static int apply_txn(struct kv *kv, struct apply *a, struct bytes body)
{
    struct kv_txn_request m;
    int outcome;

    arena_reset(&kv->arena);
    outcome = kv_decode_txn(body, &kv->arena, &m);
    if (outcome == OUT_OK)
        outcome = kv_check_txn(&m, SIZE_MAX);
    if (outcome == OUT_OK)
        outcome = kv_check_alarms(kv, kv_txn_cost(&m));
    if (outcome != OUT_OK)
        return outcome;
    kv->txn_total++;
    return kv_txn_execute(kv, &a->writer, &m, a->header, a->message);
}

static int apply_compact(struct kv *kv, struct apply *a, struct bytes body)
{
    struct kv_compact_request m;
    int outcome = kv_decode_compact(body, &m);

    if (outcome == OUT_OK)
        outcome = kv_check_alarms(kv, 0);
    if (outcome != OUT_OK)
        return outcome;
    if (m.revision <= kv->compact_revision)
        return OUT_COMPACTED;
    if (m.revision > kv->revision)
        return OUT_FUTURE_REVISION;
    kv->compact_revision = m.revision;
    kv_compact_wake(kv);
    if (a->message != NULL) {
        kv_put_header(a->message, a->header, kv->revision);
        a->answer->wait_compact_revision = m.physical ? m.revision : 0;
    }
    return OUT_OK;
}

struct alarm_request {
    int64_t action; /* GET, ACTIVATE, DEACTIVATE */
    struct store_alarm alarm;
};

static int decode_alarm(struct bytes body, struct alarm_request *ret)
{
    struct pb_reader r = pb_reader(body);
    struct pb_field f;

    *ret = (struct alarm_request){0};
    while (pb_next(&r, &f)) {
        if (f.number == 1)
            ret->action = (int64_t)f.value;
        else if (f.number == 2)
            ret->alarm.member_id = f.value;
        else if (f.number == 3)
            ret->alarm.type = (uint32_t)f.value;
    }
    return r.bad ? OUT_MALFORMED : OUT_OK;
}

static void put_alarm(struct buf *b, const struct store_alarm *alarm)
{
    struct store_alarms one = {.list = (struct store_alarm *)alarm, .count = 1};

    store_alarms_put_list(&one, STORE_ALARM_NONE, b);
}

static int apply_alarm(struct kv *kv, struct apply *a, struct bytes body)
{
    struct alarm_request m;
    int outcome = decode_alarm(body, &m);
    bool answers = true;

    if (outcome != OUT_OK)
        return outcome;
    if (m.action == 1 && m.alarm.type != STORE_ALARM_NONE)
        kv->alarms_changed |= store_alarms_add(&kv->alarms, m.alarm);
    else if (m.action == 2 && store_alarms_remove(&kv->alarms, m.alarm))
        kv->alarms_changed = true;
    else
        answers = false;
    if (a->message == NULL)
        return OUT_OK;
    kv_put_header(a->message, a->header, kv->revision);
    if (m.action == 0)
        store_alarms_put_list(&kv->alarms, m.alarm.type, a->message);
    else if (answers)
        put_alarm(a->message, &m.alarm);
    return OUT_OK;
}

static int apply_member_attr(struct kv *kv, struct bytes body)
{
    struct wire_reader r = wire_reader(body);
    const struct store_member *known;
    struct proto_member m;

    if (proto_member_read(&r, &m) != 0 || wire_reader_done(&r) != 0)
        return OUT_MALFORMED;
    known = store_members_find(&kv->members, m.id);
    if (known == NULL || known->removed)
        return OUT_MEMBER_NOT_FOUND;
    m.is_learner = known->is_learner; /* an attribute entry changes nothing but these two */
    m.removed = false;
    m.peer_urls = buf_bytes(&known->peer_urls);
    store_members_set(&kv->members, &m);
    kv->members_changed = true;
    return OUT_OK;
}

/* The answer of Cluster.MemberAdd, Remove, Update and Promote: no revision in the header. */
static void answer_conf_change(struct kv *kv, struct apply *a,
                               const struct proto_conf_change *change)
{
    bool is_add = change->op == PROTO_CONF_ADD_VOTER || change->op == PROTO_CONF_ADD_LEARNER;

    if (a->message == NULL)
        return;
    kv_put_header(a->message, a->header, 0);
    if (is_add)
        store_members_put_member(store_members_find(&kv->members, change->member.id), a->message,
                                 2);
    store_members_put_list(&kv->members, a->message, is_add ? 3 : 2);
}

static int apply_conf_change(struct kv *kv, struct apply *a, struct bytes body)
{
    struct proto_conf_change change;
    int outcome;

    if (proto_conf_change_decode(body, &change) != 0)
        return OUT_MALFORMED;
    outcome = store_members_check(&kv->members, &change);
    if (outcome != OUT_OK)
        return outcome;
    store_members_apply(&kv->members, &change);
    kv->members_changed = true;
    answer_conf_change(kv, a, &change);
    return OUT_OK;
}

static int apply_cluster_version(struct kv *kv, struct bytes body)
{
    enum { CLUSTER_VERSION_BYTES_MAX = 64 };

    if (body.len == 0 || body.len > CLUSTER_VERSION_BYTES_MAX ||
        memchr(body.data, '/', body.len) != NULL)
        return OUT_MALFORMED;
    buf_clear(&kv->cluster_version);
    buf_append_bytes(&kv->cluster_version, body);
    kv->version_changed = true;
    return OUT_OK;
}

static int apply_downgrade(struct kv *kv, struct apply *a, struct bytes target)
{
    struct bytes version = kv_cluster_version(kv);
    bool under_way = kv_downgrade(kv).len != 0;
    int outcome = OUT_OK;

    if (target.len != 0)
        outcome = downgrade_check(version, under_way, target);
    else if (!under_way)
        outcome = OUT_NO_INFLIGHT_DOWNGRADE;
    if (outcome != OUT_OK)
        return outcome;
    kv->cluster_version.len = version.len;
    if (target.len != 0) {
        buf_append_u8(&kv->cluster_version, '/');
        buf_append_bytes(&kv->cluster_version, target);
    }
    kv->version_changed = true;
    if (a->message == NULL)
        return OUT_OK;
    kv_put_header(a->message, a->header, kv->revision);
    pb_put_bytes(a->message, 2, downgrade_shown(kv_cluster_version(kv)));
    return OUT_OK;
}

static int apply_payload(struct kv *kv, struct apply *a, const struct proto_entry *entry)
{
    struct proto_payload payload;
    int outcome;

    if (entry->data.len == 0)
        return OUT_OK; /* a new leader's first entry */
    if (proto_payload_decode(entry->data, &payload) != 0)
        return OUT_MALFORMED;
    if ((entry->type == PROTO_ENTRY_CONF) != (payload.kind == PROTO_KIND_CONF_CHANGE))
        return OUT_MALFORMED;
    outcome = kv_auth_admit_entry(kv, &payload);
    if (outcome != OUT_OK)
        return outcome;
    switch (payload.kind) {
    case PROTO_KIND_PUT:
        return apply_put(kv, a, payload.body);
    case PROTO_KIND_DELETE_RANGE:
        return apply_delete(kv, a, payload.body);
    case PROTO_KIND_TXN:
        return apply_txn(kv, a, payload.body);
    case PROTO_KIND_COMPACT:
        return apply_compact(kv, a, payload.body);
    case PROTO_KIND_ALARM:
        return apply_alarm(kv, a, payload.body);
    case PROTO_KIND_MEMBER_ATTR:
        return apply_member_attr(kv, payload.body);
    case PROTO_KIND_CLUSTER_VERSION:
        return apply_cluster_version(kv, payload.body);
    case PROTO_KIND_DOWNGRADE:
        return apply_downgrade(kv, a, payload.body);
    case PROTO_KIND_CONF_CHANGE:
        return apply_conf_change(kv, a, payload.body);
    case PROTO_KIND_LEASE_GRANT:
        return kv_apply_lease_grant(kv, payload.body, a->header, a->message);
    case PROTO_KIND_LEASE_REVOKE:
        return kv_apply_lease_revoke(kv, &a->writer, payload.body, a->header, a->message);
    case PROTO_KIND_LEASE_KEEPER:
        return kv_apply_lease_keeper(kv, entry->term, payload.body);
    case PROTO_KIND_LEASE_CLOCK:
        return kv_apply_lease_clock(kv, entry->term, payload.body);
    case PROTO_KIND_LEASE_EXPIRE:
        return kv_apply_lease_expire(kv, &a->writer, entry->term, payload.body);
    case PROTO_KIND_AUTH_KEY:
    case PROTO_KIND_AUTH_ENABLE:
    case PROTO_KIND_AUTH_DISABLE:
    case PROTO_KIND_AUTH_TOKEN:
    case PROTO_KIND_USER_ADD:
    case PROTO_KIND_USER_DELETE:
    case PROTO_KIND_USER_CHANGE_PASSWORD:
    case PROTO_KIND_USER_GRANT_ROLE:
    case PROTO_KIND_USER_REVOKE_ROLE:
    case PROTO_KIND_ROLE_ADD:
    case PROTO_KIND_ROLE_DELETE:
    case PROTO_KIND_ROLE_GRANT_PERMISSION:
    case PROTO_KIND_ROLE_REVOKE_PERMISSION:
        return kv_auth_apply(kv, &payload, entry->index, a->header, a->message);
    default:
        break;
    }
    return OUT_UNIMPLEMENTED;
}

static uint64_t chain(uint64_t prev, const struct proto_entry *entry, int outcome, int64_t revision)
{
    const uint64_t head[] = {prev, entry->index, entry->term, (uint64_t)entry->type,
                             (uint64_t)outcome, (uint64_t)revision};

    return XXH3_64bits_withSeed(entry->data.data, entry->data.len,
                                XXH3_64bits(head, sizeof(head)));
}

void kv_begin_turn(struct kv *kv)
{
    assert(!kv->in_turn);
    assert(kv->batch.len == 0);
    kv->in_turn = true;
    kv->turn_prev_index = kv->applied_index;
    kv->turn_prev_hash = kv->chain_hash;
}

int kv_apply(struct kv *kv, const struct proto_entry *entry, struct kv_answer *answer)
{
    struct apply a = {
        .writer = {.main = kv->revision + 1},
        .header = answer != NULL ? answer->header : NULL,
        .message = answer != NULL ? answer->message : NULL,
        .answer = answer,
    };
    size_t at = answer != NULL ? answer->message->len : 0;
    int outcome;

    assert(kv->in_turn);
    if (answer != NULL)
        answer->wait_compact_revision = 0;
    if (entry->index <= kv->applied_index && !SIM_BUG(APPLY_TWICE))
        return OUT_OK;
    if (entry->index > kv->applied_index + 1)
        return -EPROTO;
    outcome = apply_payload(kv, &a, entry);
    if (outcome < 0)
        return outcome; /* the engine failed: the process ends, this turn is never handed over */
    if (outcome != OUT_OK && answer != NULL)
        answer->message->len = at;
    if (a.writer.sub > 0) {
        assert(outcome == OUT_OK);
        kv->revision = a.writer.main;
    }
    kv->chain_hash = chain(kv->chain_hash, entry, outcome, kv->revision);
    kv->applied_index = MAX(kv->applied_index, entry->index);
    kv->applied_term = entry->term;
    return outcome;
}

uint64_t kv_end_turn(struct kv *kv)
{
    CLEANUP(buf_fini) struct buf members = BUF_INIT;
    CLEANUP(buf_fini) struct buf alarms = BUF_INIT;
    CLEANUP(buf_fini) struct buf auth = BUF_INIT;
    struct kv_batch_record record = {
        .prev_index = kv->turn_prev_index,
        .prev_hash = kv->turn_prev_hash,
        .hash = kv->chain_hash,
        .term = kv->applied_term,
        .revision = kv->revision,
        .compact_revision = kv->compact_revision,
        .has_members = kv->members_changed,
        .has_alarms = kv->alarms_changed,
        .has_version = kv->version_changed,
        .has_auth = kv->auth_changed,
        .version = buf_bytes(&kv->cluster_version),
        .has_lease_ops = kv->leases.ops.len > 0,
        .lease_ops = buf_bytes(&kv->leases.ops),
    };
    uint8_t key[KV_BATCH_KEY_BYTES];

    assert(kv->in_turn);
    kv->in_turn = false;
    if (kv->applied_index == kv->turn_prev_index) {
        assert(kv->batch.len == 0 || SIM_BUG(APPLY_TWICE));
        buf_clear(&kv->batch);
        return 0;
    }
    if (record.has_members)
        store_members_encode(&kv->members, &members);
    if (record.has_alarms)
        store_alarms_encode(&kv->alarms, &alarms);
    if (record.has_auth)
        auth_store_encode(&kv->auth, &auth);
    record.auth = buf_bytes(&auth);
    record.members = buf_bytes(&members);
    record.alarms = buf_bytes(&alarms);
    if (record.has_members || record.has_alarms || record.has_version)
        kv->tables_generation++;
    kv->members_changed = kv->alarms_changed = kv->version_changed = kv->auth_changed = false;

    buf_clear(&kv->scratch);
    kv_batch_record_encode(&kv->scratch, &record);
    buf_clear(&kv->leases.ops);
    kv_batch_key(key, kv->revision, kv->applied_index);
    if (!kv_batch_record_has_tables(&record))
        kv_trim_note(kv, kv->applied_index, kv->revision);
    kv_batch_put(&kv->batch, bytes_of(key, sizeof(key)), buf_bytes(&kv->scratch));
    return kv_hand_over(kv, &kv->batch);
}

/* ---- small answers ---- */

void kv_member_list(struct kv *kv, const struct kv_header *header, struct buf *message)
{
    store_members_list_response(&kv->members, header, message);
}

void kv_alarm_list(struct kv *kv, struct bytes alarm_request, const struct kv_header *header,
                   struct buf *message)
{
    struct alarm_request m;

    if (decode_alarm(alarm_request, &m) != OUT_OK)
        m.alarm.type = STORE_ALARM_NONE;
    kv_put_header(message, header, kv->revision);
    store_alarms_put_list(&kv->alarms, m.alarm.type, message);
}
