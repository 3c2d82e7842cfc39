/* The keyspace as etcd's database: what is in the file, and that it is of one moment. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/bbolt/bbolt.h"
#include "lib/bbolt/snapshot_file.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "stored/kv/etcd_buckets.h"
#include "stored/kv/kv_export.h"
#include "stored/kv/kv_internal.h"
#include "tests/unit/kv_harness.h"

/* Both walks in small steps; between them `disturb` may change the keyspace. */
static struct buf export_with(struct harness *h, void (*disturb)(struct harness *h))
{
    struct kv_export *e = kv_export_new(h->kv);
    CLEANUP(buf_fini) struct buf piece = BUF_INIT;
    struct buf file = BUF_INIT;
    int r;

    if (disturb != NULL)
        disturb(h);
    cr_assert(kv_export_ready(e));
    while ((r = kv_export_measure(e, 3)) == 1)
        ;
    cr_assert_eq(r, 0);
    if (disturb != NULL)
        disturb(h);
    do {
        r = kv_export_step(e, 5000, &piece);
        cr_assert_geq(r, 0);
        buf_append_bytes(&file, buf_bytes(&piece));
        buf_clear(&piece);
    } while (r == 1);
    cr_assert_eq(file.len, kv_export_total(e));
    kv_export_free(e);
    return file;
}

static void must_be_whole(struct bytes file, struct snapshot_file *f)
{
    CLEANUP(freep) char *error = NULL;

    cr_assert_eq(snapshot_file_of(file, f, &error), 0, "%s", error);
    cr_assert_eq(snapshot_file_verify_hash(f, &error), 0, "%s", error);
    cr_assert_eq(bbolt_check(&f->db, &error), 0, "%s", error);
}

static struct bbolt_bucket bucket(const struct snapshot_file *f, enum etcd_bucket which)
{
    struct bbolt_bucket root = bbolt_root(&f->db), b;

    cr_assert_eq(bbolt_bucket_find(&root, bytes_str(etcd_bucket_names[which]), &b), 0, "%s",
                 etcd_bucket_names[which]);
    return b;
}

/* "3.0 a=1" per version, "4.0t a" per deletion. */
static char *list_versions(const struct snapshot_file *f)
{
    struct bbolt_bucket b = bucket(f, ETCD_KEY);
    struct buf out = BUF_INIT;
    struct bbolt_cursor c;
    struct bbolt_item item;
    struct kv_record record;

    bbolt_cursor_init(&c, &b);
    while (bbolt_cursor_next(&c, &item) == 1) {
        bool is_delete = item.key.len == ETCD_TOMBSTONE_BYTES;

        cr_assert(is_delete || item.key.len == ETCD_REVISION_BYTES);
        cr_assert_eq(kv_record_decode(item.value, &record), 0);
        cr_assert_eq(item.key.data[8], '_');
        buf_appendf(&out, "%s%d.%d%s %.*s", out.len > 0 ? ", " : "",
                    (int)wire_load_be64(item.key.data), (int)wire_load_be64(item.key.data + 9),
                    is_delete ? "t" : "", (int)record.key.len, (const char *)record.key.data);
        if (!is_delete)
            buf_appendf(&out, "=%.*s", (int)record.value.len, (const char *)record.value.data);
    }
    buf_append_u8(&out, 0);
    return (char *)out.data;
}

static char *text_value(const struct snapshot_file *f, enum etcd_bucket which, const char *key)
{
    struct bbolt_bucket b = bucket(f, which);
    struct bytes value;

    if (bbolt_get(&b, bytes_str(key), &value) != 0)
        return xstrdup("none");
    return xstrndup((const char *)value.data, value.len);
}

static uint64_t number_value(const struct snapshot_file *f, const char *key)
{
    struct bbolt_bucket b = bucket(f, ETCD_META);
    struct bytes value;

    cr_assert_eq(bbolt_get(&b, bytes_str(key), &value), 0, "%s", key);
    return wire_load_be64(value.data);
}

static void some_history(struct harness *h)
{
    harness_put(h, "a", "1");
    harness_put(h, "b", "2");
    harness_delete(h, "a", "");
    harness_put(h, "a", "3");
    harness_delete(h, "a", "c");
}

Test(kv_export, versions_and_deletions)
{
    struct harness h;
    struct snapshot_file f;

    harness_init(&h, false);
    some_history(&h);
    CLEANUP(buf_fini) struct buf file = export_with(&h, NULL);
    must_be_whole(buf_bytes(&file), &f);
    CLEANUP(freep) char *versions = list_versions(&f);
    cr_assert_str_eq(versions, "2.0 a=1, 3.0 b=2, 4.0t a, 5.0 a=3, 6.0t a, 6.1t b");
    cr_assert_eq(number_value(&f, "consistent_index"), h.index);
    cr_assert_eq(number_value(&f, "term"), h.term);
    CLEANUP(freep) char *compacted = text_value(&f, ETCD_META, "scheduledCompactRev");
    cr_assert_str_eq(compacted, "none");
    for (int i = 0; i < ETCD_BUCKET_COUNT; i++)
        bucket(&f, (enum etcd_bucket)i); /* they are all there */
    harness_fini(&h);
}

Test(kv_export, a_fresh_store)
{
    struct snapshot_status status;
    CLEANUP(freep) char *error = NULL;
    struct snapshot_file f;
    struct harness h;

    harness_init(&h, false);
    CLEANUP(buf_fini) struct buf file = export_with(&h, NULL);
    must_be_whole(buf_bytes(&file), &f);
    cr_assert_eq(snapshot_file_status(&f, &status, &error), 0);
    cr_assert_eq(status.revision, 0);
    harness_fini(&h);
}

static void put_and_compact(struct harness *h)
{
    CLEANUP(buf_fini) struct buf big = BUF_INIT;
    struct kv_state state;

    memset(buf_reserve(&big, 20000), 'x', 20000);
    big.len = 20000;
    CLEANUP(buf_fini)
    struct buf body = put_body(&(struct kv_put_request){.key = KEY("a"), .value = buf_bytes(&big)});
    harness_apply(h, PROTO_KIND_PUT, buf_bytes(&body));
    kv_get_state(h->kv, &state);
    harness_compact(h, state.revision);
    while (kv_compact_pending(h->kv))
        kv_compact_step(h->kv, 100);
}

Test(kv_export, is_of_one_moment)
{
    struct harness h;
    struct snapshot_file f;

    harness_init(&h, false);
    some_history(&h);
    CLEANUP(buf_fini) struct buf file = export_with(&h, put_and_compact);
    must_be_whole(buf_bytes(&file), &f);
    CLEANUP(freep) char *versions = list_versions(&f);
    cr_assert_str_eq(versions, "2.0 a=1, 3.0 b=2, 4.0t a, 5.0 a=3, 6.0t a, 6.1t b");
    harness_fini(&h);
}

Test(kv_export, compacted_history)
{
    struct harness h;
    struct snapshot_file f;

    harness_init(&h, false);
    harness_put(&h, "a", "1");
    harness_put(&h, "a", "2");
    harness_put(&h, "a", "3");
    harness_compact(&h, 3);
    harness_finish_compaction(&h);
    CLEANUP(buf_fini) struct buf file = export_with(&h, NULL);
    must_be_whole(buf_bytes(&file), &f);
    CLEANUP(freep) char *versions = list_versions(&f);
    cr_assert_str_eq(versions, "3.0 a=2, 4.0 a=3");
    cr_assert_eq(number_value(&f, "scheduledCompactRev"), 3);
    cr_assert_eq(number_value(&f, "finishedCompactRev"), 3);
    harness_fini(&h);
}

static void change_member(struct harness *h, enum proto_conf_op op, const struct proto_member *m)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;

    proto_conf_change_encode(&body, &(struct proto_conf_change){.op = op, .member = *m});
    cr_assert_eq(harness_apply(h, PROTO_KIND_CONF_CHANGE, buf_bytes(&body)), OUT_OK);
}

Test(kv_export, members)
{
    struct harness h;
    struct snapshot_file f;

    harness_init(&h, false);
    change_member(&h, PROTO_CONF_ADD_VOTER,
                  &(struct proto_member){.id = 0xab, .peer_urls = KEY("http://x:1,http://y:2")});
    change_member(&h, PROTO_CONF_ADD_VOTER,
                  &(struct proto_member){.id = 0xac, .peer_urls = KEY("http://z:1")});
    change_member(&h, PROTO_CONF_REMOVE, &(struct proto_member){.id = 0xac});
    change_member(&h, PROTO_CONF_ADD_LEARNER,
                  &(struct proto_member){.id = 7, .peer_urls = KEY("http://l:1")});
    CLEANUP(buf_fini) struct buf attr = BUF_INIT;
    proto_member_encode(&attr, &(struct proto_member){.id = 0xab,
                                                      .name = KEY("m\"1"),
                                                      .client_urls = KEY("http://c:3")});
    harness_apply(&h, PROTO_KIND_MEMBER_ATTR, buf_bytes(&attr));
    CLEANUP(buf_fini) struct buf file = export_with(&h, NULL);
    must_be_whole(buf_bytes(&file), &f);
    CLEANUP(freep) char *voter = text_value(&f, ETCD_MEMBERS, "ab");
    CLEANUP(freep) char *learner = text_value(&f, ETCD_MEMBERS, "7");
    CLEANUP(freep) char *removed = text_value(&f, ETCD_MEMBERS_REMOVED, "ac");
    CLEANUP(freep) char *gone = text_value(&f, ETCD_MEMBERS, "ac");
    CLEANUP(freep) char *conf = text_value(&f, ETCD_META, "confState");
    cr_assert_str_eq(voter, "{\"id\":171,\"peerURLs\":[\"http://x:1\",\"http://y:2\"],"
                            "\"name\":\"m\\\"1\",\"clientURLs\":[\"http://c:3\"]}");
    cr_assert_str_eq(learner, "{\"id\":7,\"peerURLs\":[\"http://l:1\"],\"isLearner\":true}");
    cr_assert_str_eq(removed, "removed");
    cr_assert_str_eq(gone, "none");
    cr_assert_str_eq(conf, "{\"voters\":[171],\"learners\":[7],\"auto_leave\":false}");
    harness_fini(&h);
}

/* The file has the format of 3.5, whatever the cluster's version is. */
Test(kv_export, cluster_version)
{
    struct harness h;
    struct snapshot_file f;

    harness_init(&h, false);
    CLEANUP(buf_fini) struct buf undecided = export_with(&h, NULL);
    must_be_whole(buf_bytes(&undecided), &f);
    CLEANUP(freep) char *none = text_value(&f, ETCD_CLUSTER, "clusterVersion");
    cr_assert_str_eq(none, "none");
    cr_assert_eq(harness_apply(&h, PROTO_KIND_CLUSTER_VERSION, BYTES_LIT("3.7.0")), OUT_OK);
    CLEANUP(buf_fini) struct buf decided = export_with(&h, NULL);
    must_be_whole(buf_bytes(&decided), &f);
    CLEANUP(freep) char *version = text_value(&f, ETCD_CLUSTER, "clusterVersion");
    cr_assert_str_eq(version, "3.5.0");
    harness_fini(&h);
}

static char *hex_items(const struct snapshot_file *f, enum etcd_bucket which)
{
    struct bbolt_bucket b = bucket(f, which);
    struct bbolt_cursor c;
    struct bbolt_item item;
    struct buf out = BUF_INIT;

    bbolt_cursor_init(&c, &b);
    while (bbolt_cursor_next(&c, &item) == 1) {
        for (size_t i = 0; i < item.key.len; i++)
            buf_appendf(&out, "%02x", item.key.data[i]);
        buf_append_u8(&out, '=');
        for (size_t i = 0; i < item.value.len; i++)
            buf_appendf(&out, "%02x", item.value.data[i]);
        buf_append_u8(&out, ' ');
    }
    buf_append_u8(&out, 0);
    return (char *)out.data;
}

/* Compared with the bytes that etcd 3.4.23 and 3.5.16 wrote for the same. */
Test(kv_export, leases_and_auth)
{
    struct harness h;
    struct snapshot_file f;
    struct lease *lease;
    bool changed;

    harness_init(&h, false);
    cr_assert_eq(lease_table_grant(&h.kv->leases, 300, 3600, 1, &lease), OUT_OK);
    cr_assert_eq(lease_table_grant(&h.kv->leases, 7, 60, 1, &lease), OUT_OK);
    cr_assert_eq(auth_store_role_add(&h.kv->auth, KEY("r1")), OUT_OK);
    cr_assert_eq(auth_store_role_grant(&h.kv->auth,
                                       &(struct auth_permission_args){.role = KEY("r1"),
                                                                      .given = true,
                                                                      .type = AUTH_READWRITE,
                                                                      .key = KEY("k"),
                                                                      .range_end = KEY("l")}),
                 OUT_OK);
    cr_assert_eq(auth_store_user_add(&h.kv->auth, &(struct auth_user_args){.name = KEY("u1"),
                                                                           .password = KEY("$2")}),
                 OUT_OK);
    cr_assert_eq(auth_store_user_grant(&h.kv->auth, KEY("u1"), KEY("r1"), &changed), OUT_OK);
    lease_table_set_clock(&h.kv->leases, 5000);
    cr_assert_eq(lease_table_grant(&h.kv->leases, 8, 60, 1, &lease), OUT_OK);
    lease_table_set_deadline(&h.kv->leases, lease, 5000 + 30000);
    store_alarms_add(&h.kv->alarms, (struct store_alarm){0xa0bd4a7dac3eb173, STORE_ALARM_NOSPACE});
    CLEANUP(buf_fini) struct buf file = export_with(&h, NULL);
    must_be_whole(buf_bytes(&file), &f);
    CLEANUP(freep) char *leases = hex_items(&f, ETCD_LEASE);
    CLEANUP(freep) char *alarms = hex_items(&f, ETCD_ALARM);
    CLEANUP(freep) char *users = hex_items(&f, ETCD_AUTH_USERS);
    CLEANUP(freep) char *roles = hex_items(&f, ETCD_AUTH_ROLES);
    cr_assert_str_eq(leases, "0000000000000007=0807103c 0000000000000008=0808103c181e "
                             "000000000000012c=08ac0210901c ");
    cr_assert_str_eq(alarms, "08f3e2fae1dacfd2dea0011001= ");
    cr_assert_str_eq(users, "7531=0a02753112022432" "1a0272312200 ");
    cr_assert_str_eq(roles, "7231=0a027231120808021201" "6b1a016c ");
    harness_fini(&h);
}
