/*
 * The small buckets are copied when the export begins; the large one, of revisions, comes from an
 * iterator of the engine, which sees the state of that moment as long as it lives.
 *
 * The cluster version is that of the release whose format the file has, as an etcd of that release
 * would have written: members of 3.6 and later refuse to start below what they find there.
 */
#include "stored/kv/kv_export.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/bbolt/bbolt_writer.h"
#include "lib/util/arena.h"
#include "lib/util/macros.h"
#include "lib/util/sha256.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "stored/kv/etcd_buckets.h"
#include "stored/kv/kv_engine.h"
#include "stored/kv/kv_internal.h"

#define FORMAT_VERSION "3.5.0" /* meta as 3.5 keeps it: no storageVersion */

struct small_item {
    enum etcd_bucket bucket;
    struct bytes key, value;
};

struct kv_export {
    struct kv *kv;
    struct kv_pin pin; /* until the iterator exists */
    int64_t revision;
    uint64_t needs_sequence;

    struct arena arena; /* keys and values of the items */
    struct small_item *items; /* by bucket and key */
    size_t item_count, item_cap;

    /* the walk, once or twice; on whatever thread */
    const struct kv_engine_ops *ops;
    struct kv_engine_iter *it;
    struct bbolt_writer *writer; /* NULL: between walks */
    unsigned int bucket;
    bool in_bucket;
    size_t next_item;
    bool measured, done;
    struct bbolt_layout layout;
    struct sha256 *sha;
};

/* ---- the small buckets ---- */

static struct bytes keep(struct kv_export *e, struct bytes v)
{
    uint8_t *p;

    if (v.len == 0)
        return BYTES_EMPTY;
    p = arena_alloc(&e->arena, v.len);
    memcpy(p, v.data, v.len);
    return bytes_of(p, v.len);
}

static void add(struct kv_export *e, enum etcd_bucket bucket, struct bytes key, struct bytes value)
{
    if (key.len == 0 || key.len > BBOLT_WRITER_KEY_BYTES_MAX)
        return; /* a name that etcd could not have stored either */
    if (e->item_count == e->item_cap) {
        e->item_cap = e->item_cap == 0 ? 64 : 2 * e->item_cap;
        e->items = xreallocarray(e->items, e->item_cap, sizeof(e->items[0]));
    }
    e->items[e->item_count++] = (struct small_item){bucket, keep(e, key), keep(e, value)};
}

static void add_number(struct kv_export *e, enum etcd_bucket bucket, const char *key, uint64_t v)
{
    uint8_t value[8];

    wire_store_be64(value, v);
    add(e, bucket, bytes_str(key), bytes_of(value, sizeof(value)));
}

static void add_revision(struct kv_export *e, const char *key, int64_t revision)
{
    uint8_t value[ETCD_TOMBSTONE_BYTES];

    etcd_revision_key(value, revision, 0);
    add(e, ETCD_META, bytes_str(key), bytes_of(value, ETCD_REVISION_BYTES));
}

static void put_json_text(struct buf *b, struct bytes text)
{
    buf_append_u8(b, '"');
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.data[i];

        if (c == '"' || c == '\\')
            buf_appendf(b, "\\%c", c);
        else if (c < 0x20)
            buf_appendf(b, "\\u%04x", c);
        else
            buf_append_u8(b, c);
    }
    buf_append_u8(b, '"');
}

/* "a,b" as ["a","b"]. */
static void put_json_urls(struct buf *b, struct bytes list)
{
    const uint8_t *p = list.data, *end = list.data + list.len;

    buf_append_u8(b, '[');
    while (p < end) {
        const uint8_t *comma = memchr(p, ',', (size_t)(end - p));
        const uint8_t *stop = comma != NULL ? comma : end;

        put_json_text(b, bytes_of(p, (size_t)(stop - p)));
        if (comma != NULL)
            buf_append_u8(b, ',');
        p = comma != NULL ? comma + 1 : end;
    }
    buf_append_u8(b, ']');
}

static void add_member(struct kv_export *e, const struct store_member *m)
{
    CLEANUP(buf_fini) struct buf json = BUF_INIT;
    char key[17];

    snprintf(key, sizeof(key), "%" PRIx64, m->id);
    if (m->removed) {
        add(e, ETCD_MEMBERS_REMOVED, bytes_str(key), BYTES_LIT("removed"));
        return;
    }
    buf_appendf(&json, "{\"id\":%" PRIu64 ",\"peerURLs\":", m->id);
    put_json_urls(&json, buf_bytes(&m->peer_urls));
    if (m->is_learner)
        buf_appendf(&json, ",\"isLearner\":true");
    if (m->name.len > 0) {
        buf_appendf(&json, ",\"name\":");
        put_json_text(&json, buf_bytes(&m->name));
    }
    if (m->client_urls.len > 0) {
        buf_appendf(&json, ",\"clientURLs\":");
        put_json_urls(&json, buf_bytes(&m->client_urls));
    }
    buf_append_u8(&json, '}');
    add(e, ETCD_MEMBERS, bytes_str(key), buf_bytes(&json));
}

static void put_json_ids(struct buf *b, const struct store_members *m, bool learners)
{
    const char *sep = "";

    for (size_t i = 0; i < m->count; i++) {
        if (m->list[i].removed || m->list[i].is_learner != learners)
            continue;
        buf_appendf(b, "%s%" PRIu64, sep, m->list[i].id);
        sep = ",";
    }
}

static bool has_learners(const struct store_members *m)
{
    for (size_t i = 0; i < m->count; i++)
        if (!m->list[i].removed && m->list[i].is_learner)
            return true;
    return false;
}

static void add_conf_state(struct kv_export *e, const struct store_members *m)
{
    CLEANUP(buf_fini) struct buf json = BUF_INIT;

    buf_appendf(&json, "{\"voters\":[");
    put_json_ids(&json, m, false);
    if (has_learners(m)) {
        buf_appendf(&json, "],\"learners\":[");
        put_json_ids(&json, m, true);
    }
    buf_appendf(&json, "],\"auto_leave\":false}");
    add(e, ETCD_META, BYTES_LIT("confState"), buf_bytes(&json));
}

static void add_alarms(struct kv_export *e, const struct store_alarms *a)
{
    for (size_t i = 0; i < a->count; i++) {
        CLEANUP(buf_fini) struct buf message = BUF_INIT;

        pb_put_u64(&message, 1, a->list[i].member_id);
        pb_put_u64(&message, 2, a->list[i].type);
        add(e, ETCD_ALARM, buf_bytes(&message), BYTES_EMPTY);
    }
}

/* 0: not known, or all of it, as etcd has it for a lease that was renewed since the last look. */
static int64_t remaining_ttl(const struct lease_table *leases, const struct lease *l)
{
    uint64_t left_ms;

    if (l->deadline_ms == 0)
        return 0;
    left_ms = l->deadline_ms > leases->clock_ms ? l->deadline_ms - leases->clock_ms : 0;
    return MIN(MAX((int64_t)((left_ms + 999) / 1000), INT64_C(1)), l->ttl);
}

static void add_leases(struct kv_export *e, const struct lease_table *leases)
{
    CLEANUP(freep) struct lease **sorted = lease_table_sorted(leases);

    for (size_t i = 0; i < lease_table_count(leases); i++) {
        CLEANUP(buf_fini) struct buf message = BUF_INIT;
        uint8_t key[8];

        wire_store_be64(key, (uint64_t)sorted[i]->id);
        pb_put_i64(&message, 1, sorted[i]->id);
        pb_put_i64(&message, 2, sorted[i]->ttl);
        pb_put_i64(&message, 3, remaining_ttl(leases, sorted[i]));
        add(e, ETCD_LEASE, bytes_of(key, sizeof(key)), buf_bytes(&message));
    }
}

static void add_user(struct kv_export *e, const struct auth_user *user)
{
    CLEANUP(buf_fini) struct buf message = BUF_INIT;
    CLEANUP(buf_fini) struct buf options = BUF_INIT;

    pb_put_bytes(&message, 1, buf_bytes(&user->name));
    pb_put_bytes(&message, 2, buf_bytes(&user->password));
    for (size_t i = 0; i < user->role_count; i++)
        pb_put_bytes(&message, 3, buf_bytes(&user->roles[i]));
    pb_put_bool(&options, 1, user->no_password);
    pb_put_message(&message, 4, buf_bytes(&options));
    add(e, ETCD_AUTH_USERS, buf_bytes(&user->name), buf_bytes(&message));
}

static void add_role(struct kv_export *e, const struct auth_role *role)
{
    CLEANUP(buf_fini) struct buf message = BUF_INIT;

    pb_put_bytes(&message, 1, buf_bytes(&role->name));
    for (size_t i = 0; i < role->permission_count; i++) {
        const struct auth_permission *p = &role->permissions[i];
        CLEANUP(buf_fini) struct buf permission = BUF_INIT;

        pb_put_i64(&permission, 1, p->type);
        pb_put_bytes(&permission, 2, buf_bytes(&p->key));
        pb_put_bytes(&permission, 3, buf_bytes(&p->range_end));
        pb_put_message(&message, 2, buf_bytes(&permission));
    }
    add(e, ETCD_AUTH_ROLES, buf_bytes(&role->name), buf_bytes(&message));
}

static void add_auth(struct kv_export *e, const struct auth_store *auth)
{
    uint8_t enabled = auth->enabled;

    add(e, ETCD_AUTH, BYTES_LIT("authEnabled"), bytes_of(&enabled, 1));
    add_number(e, ETCD_AUTH, "authRevision", auth->revision);
    for (size_t i = 0; i < auth->user_count; i++)
        add_user(e, &auth->users[i]);
    for (size_t i = 0; i < auth->role_count; i++)
        add_role(e, &auth->roles[i]);
}

static void add_meta(struct kv_export *e, const struct kv *kv)
{
    add_number(e, ETCD_META, "consistent_index", kv->applied_index);
    add_number(e, ETCD_META, "term", kv->applied_term);
    add_conf_state(e, &kv->members);
    if (kv->compact_revision <= 0)
        return;
    add_revision(e, "scheduledCompactRev", kv->compact_revision);
    /* Finished, even if records below are still there: they are no harm, etcd drops them with the
     * next compaction, and it takes the revision from this when all above was deleted. */
    add_revision(e, "finishedCompactRev", kv->compact_revision);
}

static int item_cmp(const void *x, const void *y)
{
    const struct small_item *a = x, *b = y;

    if (a->bucket != b->bucket)
        return a->bucket < b->bucket ? -1 : 1;
    return bytes_cmp(a->key, b->key);
}

/* ---- life ---- */

struct kv_export *kv_export_new(struct kv *kv)
{
    struct kv_export *e = xcalloc(1, sizeof(*e));

    assert(!kv->in_turn);
    e->kv = kv;
    e->revision = kv->revision;
    e->needs_sequence = kv->sequence - 1;
    e->pin.revision = kv->compact_revision; /* nothing more may go */
    list_push_back(&kv->pins, &e->pin.node);
    e->ops = kv->engine->ops;
    add_alarms(e, &kv->alarms);
    for (size_t i = 0; i < kv->members.count; i++)
        add_member(e, &kv->members.list[i]);
    add_leases(e, &kv->leases);
    if (kv_cluster_version(kv).len > 0) /* once it is decided */
        add(e, ETCD_CLUSTER, BYTES_LIT("clusterVersion"), BYTES_LIT(FORMAT_VERSION));
    add_auth(e, &kv->auth);
    add_meta(e, kv);
    qsort(e->items, e->item_count, sizeof(e->items[0]), item_cmp);
    return e;
}

void kv_export_free(struct kv_export *e)
{
    if (e == NULL)
        return;
    list_remove(&e->pin.node);
    kv_compact_wake(e->kv);
    e->ops->iter_free(e->it);
    bbolt_writer_free(e->writer);
    sha256_free(e->sha);
    arena_fini(&e->arena);
    free(e->items);
    free(e);
}

bool kv_export_ready(struct kv_export *e)
{
    if (e->it != NULL)
        return true;
    if (e->ops->written(e->kv->engine) < e->needs_sequence)
        return false;
    e->it = e->ops->iter_new(e->kv->engine, false);
    list_remove(&e->pin.node); /* the iterator keeps what it sees */
    kv_compact_wake(e->kv);
    return true;
}

/* ---- the walk ---- */

static void walk_begin(struct kv_export *e, struct bbolt_writer *writer)
{
    e->writer = writer;
    e->bucket = 0;
    e->in_bucket = false;
    e->next_item = 0;
}

/* Gives what is at the iterator, if it is a version. False: there are no more. */
static bool give_version(struct kv_export *e)
{
    uint8_t out[ETCD_TOMBSTONE_BYTES];
    struct bytes value;
    int64_t main;
    uint32_t sub;
    bool is_delete;

    if (!e->ops->iter_valid(e->it))
        return false;
    if (kv_record_key_parse(e->ops->iter_key(e->it), &main, &sub)) {
        if (main > e->revision)
            return false;
        value = e->ops->iter_value(e->it);
        is_delete = value.len > 0 && value.data[0] == 0;
        etcd_revision_key(out, main, sub);
        bbolt_writer_add(e->writer,
                         bytes_of(out, is_delete ? ETCD_TOMBSTONE_BYTES : ETCD_REVISION_BYTES),
                         bytes_of(value.data + is_delete, value.len - is_delete));
    }
    e->ops->iter_next(e->it);
    return true;
}

static bool give_item(struct kv_export *e)
{
    const struct small_item *item = &e->items[e->next_item];

    if (e->next_item == e->item_count || item->bucket != e->bucket)
        return false;
    bbolt_writer_add(e->writer, item->key, item->value);
    e->next_item++;
    return true;
}

static void seek_versions(struct kv_export *e)
{
    uint8_t first[KV_RECORD_KEY_BYTES];

    kv_record_key(first, 1, 0);
    e->ops->iter_seek(e->it, bytes_of(first, sizeof(first)));
}

/* One item, or the beginning or end of a bucket. 1: go on; 0: that was all; negative errno. */
static int walk_on(struct kv_export *e)
{
    if (e->bucket == ETCD_BUCKET_COUNT)
        return 0;
    if (!e->in_bucket) {
        bbolt_writer_begin(e->writer, bytes_str(etcd_bucket_names[e->bucket]));
        if (e->bucket == ETCD_KEY)
            seek_versions(e);
        e->in_bucket = true;
        return 1;
    }
    if (e->bucket == ETCD_KEY ? give_version(e) : give_item(e))
        return 1;
    if (e->bucket == ETCD_KEY && e->ops->iter_result(e->it) < 0)
        return e->ops->iter_result(e->it);
    bbolt_writer_end(e->writer);
    e->in_bucket = false;
    e->bucket++;
    return 1;
}

int kv_export_measure(struct kv_export *e, size_t max_records)
{
    int r = 1;

    assert(e->it != NULL);
    if (e->measured)
        return 0;
    if (e->writer == NULL)
        walk_begin(e, bbolt_writer_new(NULL, NULL));
    while (r == 1 && max_records-- > 0)
        r = walk_on(e);
    if (r != 0)
        return r;
    bbolt_writer_finish(e->writer, &e->layout);
    bbolt_writer_free(TAKE(e->writer));
    e->measured = true;
    return 0;
}

uint64_t kv_export_total(const struct kv_export *e)
{
    assert(e->measured);
    return bbolt_layout_bytes(&e->layout) + SHA256_BYTES;
}

int64_t kv_export_revision(const struct kv_export *e)
{
    return e->revision;
}

static void hash_add(struct kv_export *e, struct bytes data)
{
    if (e->sha == NULL)
        e->sha = sha256_new();
    sha256_add(e->sha, data);
}

int kv_export_step(struct kv_export *e, size_t max_bytes, struct buf *out)
{
    size_t at = out->len;
    uint8_t digest[SHA256_BYTES];
    struct bbolt_layout layout;
    int r = 1;

    assert(e->measured);
    if (e->done)
        return 0;
    if (e->writer == NULL)
        walk_begin(e, bbolt_writer_new(&e->layout, out));
    else
        bbolt_writer_redirect(e->writer, out);
    while (r == 1 && out->len - at < max_bytes)
        r = walk_on(e);
    if (r < 0)
        return r;
    if (r == 0)
        bbolt_writer_finish(e->writer, &layout);
    hash_add(e, bytes_of(out->data + at, out->len - at));
    if (r == 1)
        return 1;
    sha256_end(e->sha, digest);
    buf_append(out, digest, sizeof(digest));
    e->done = true;
    return 0;
}
