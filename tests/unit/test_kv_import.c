/* From a snapshot file to a keyspace: the same content, and what is refused. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/bbolt/bbolt_writer.h"
#include "lib/bbolt/snapshot_file.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "stored/engine/engine_mem.h"
#include "stored/kv/etcd_buckets.h"
#include "stored/kv/kv_export.h"
#include "stored/kv/kv_import.h"
#include "stored/kv/kv_internal.h"
#include "tests/unit/kv_harness.h"

static struct buf export(struct harness *h)
{
    struct kv_export *e = kv_export_new(h->kv);
    struct buf file = BUF_INIT;

    cr_assert(kv_export_ready(e));
    cr_assert_eq(kv_export_measure(e, SIZE_MAX), 0);
    cr_assert_eq(kv_export_step(e, SIZE_MAX, &file), 0);
    kv_export_free(e);
    return file;
}

/* Into a fresh engine, which is then opened as `to`. 0, or what it was refused with. */
static int import_with(struct bytes file, uint64_t bump, struct harness *to, char **ret_error)
{
    CLEANUP(buf_fini) struct buf members = BUF_INIT;
    struct snapshot_file f;
    struct kv_import *m;
    int r;

    *ret_error = NULL;
    cr_assert_eq(snapshot_file_of(file, &f, ret_error), 0, "%s", *ret_error);
    cr_assert_eq(bbolt_check(&f.db, ret_error), 0, "%s", *ret_error);
    *to = (struct harness){.term = 2, .engine = engine_mem_new(false)};
    proto_member_encode(&members, &(struct proto_member){.id = 9, .peer_urls = KEY("http://n:1")});
    r = kv_import_new(&(struct kv_import_args){.file = &f,
                                               .engine = engine_mem_kv(to->engine),
                                               .index = 1,
                                               .term = 1,
                                               .members = buf_bytes(&members),
                                               .bump_revision = bump},
                      &m, ret_error);
    if (r != 0)
        return r;
    while ((r = kv_import_step(m, 100, ret_error)) == 1)
        ;
    if (r == 0)
        r = kv_import_finish(m, ret_error);
    kv_import_free(m);
    engine_mem_kill(to->engine); /* all is written: as an engine that is opened anew */
    if (r == 0)
        cr_assert_eq(harness_open(to), 0);
    return r;
}

static void history(struct harness *h)
{
    char key[16];

    harness_init(h, false);
    for (int i = 0; i < 300; i++) {
        snprintf(key, sizeof(key), "k%d", i * 7 % 50);
        if (i % 11 == 0)
            harness_delete(h, key, i % 3 == 0 ? "k3" : "");
        else
            harness_put(h, key, key);
    }
}

static struct kv_state state_of(struct harness *h)
{
    struct kv_state s;

    kv_get_state(h->kv, &s);
    return s;
}

Test(kv_import, gives_the_same_history)
{
    for (int compacted = 0; compacted < 3; compacted++) {
        CLEANUP(freep) char *error = NULL;
        struct harness from, to, twin;

        history(&from);
        if (compacted > 0)
            harness_compact(&from, compacted == 1 ? 120 : state_of(&from).revision);
        if (compacted > 0)
            harness_finish_compaction(&from);
        CLEANUP(buf_fini) struct buf file = export(&from);
        cr_assert_eq(import_with(buf_bytes(&file), 0, &to, &error), 0, "%s", error);
        cr_assert_eq(import_with(buf_bytes(&file), 0, &twin, &error), 0, "%s", error);
        cr_assert_eq(state_of(&to).revision, state_of(&from).revision);
        cr_assert_eq(state_of(&to).compact_revision, state_of(&from).compact_revision);
        cr_assert_eq(state_of(&to).applied_index, 1);
        cr_assert_eq(state_of(&to).chain_hash, state_of(&twin).chain_hash);
        cr_assert_eq(harness_hash(&to, 0), harness_hash(&from, 0));
        cr_assert_eq(to.kv->members.count, 1);
        harness_put(&to, "goes", "on");
        harness_put(&from, "goes", "on");
        cr_assert_eq(harness_hash(&to, 0), harness_hash(&from, 0));
        harness_close(&to);
        engine_mem_kill(to.engine);
        cr_assert_eq(harness_open(&to), 0, "a second start");
        cr_assert_eq(state_of(&to).revision, state_of(&from).revision);
        harness_fini(&from);
        harness_fini(&to);
        harness_fini(&twin);
    }
}

Test(kv_import, a_fresh_store)
{
    CLEANUP(freep) char *error = NULL;
    struct harness from, to;

    harness_init(&from, false);
    CLEANUP(buf_fini) struct buf file = export(&from);
    cr_assert_eq(import_with(buf_bytes(&file), 0, &to, &error), 0, "%s", error);
    cr_assert_eq(state_of(&to).revision, 1);
    cr_assert_eq(state_of(&to).compact_revision, -1);
    harness_fini(&from);
    harness_fini(&to);
}

Test(kv_import, raised_revision)
{
    CLEANUP(freep) char *error = NULL;
    struct harness from, to, again;

    history(&from);
    CLEANUP(buf_fini) struct buf file = export(&from);
    cr_assert_eq(import_with(buf_bytes(&file), 1000, &to, &error), 0, "%s", error);
    cr_assert_eq(state_of(&to).revision, state_of(&from).revision + 1000);
    cr_assert_eq(state_of(&to).compact_revision, state_of(&to).revision);
    cr_assert_eq(to.kv->index.live_count, from.kv->index.live_count);
    harness_put(&to, "new", "1");
    cr_assert_eq(state_of(&to).revision, state_of(&from).revision + 1001);
    CLEANUP(buf_fini) struct buf second = export(&to);
    cr_assert_eq(import_with(buf_bytes(&second), 0, &again, &error), 0, "%s", error);
    cr_assert_eq(state_of(&again).revision, state_of(&to).revision);
    harness_fini(&again);
    cr_assert_eq(import_with(buf_bytes(&second), UINT64_MAX, &again, &error), -EBADMSG);
    harness_fini(&again);
    harness_fini(&from);
    harness_fini(&to);
}

Test(kv_import, what_is_left_of_leases)
{
    static const struct {
        uint64_t deadline_ms; /* the clock is at 100 s */
        int64_t want_s;       /* 0: not known */
    } rows[] = {{0, 0},           {1, 1},           {99000, 1},      {100000, 1},   {100001, 1},
                {101000, 1},      {101001, 2},      {130000, 30},    {160000, 60},  {160001, 60},
                {UINT64_MAX, 60}};
    CLEANUP(freep) char *error = NULL;
    struct harness from, to;
    struct lease *lease;

    history(&from);
    lease_table_set_clock(&from.kv->leases, 100000);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        cr_assert_eq(lease_table_grant(&from.kv->leases, (int64_t)i + 1, 60, 1, &lease), OUT_OK);
        lease_table_set_deadline(&from.kv->leases, lease, rows[i].deadline_ms);
    }
    CLEANUP(buf_fini) struct buf file = export(&from);
    cr_assert_eq(import_with(buf_bytes(&file), 0, &to, &error), 0, "%s", error);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        lease = lease_table_find(&to.kv->leases, (int64_t)i + 1);
        cr_assert_not_null(lease);
        cr_assert_eq(lease->ttl, 60);
        cr_assert_eq(lease->deadline_ms,
                     rows[i].want_s == 0
                         ? 0
                         : to.kv->leases.clock_ms + (uint64_t)rows[i].want_s * 1000,
                     "row %zu: %d", i, (int)lease->deadline_ms);
    }
    harness_fini(&from);
    harness_fini(&to);
}

Test(kv_import, alarms_stay)
{
    CLEANUP(freep) char *error = NULL;
    struct harness from, to;

    history(&from);
    store_alarms_add(&from.kv->alarms, (struct store_alarm){7, STORE_ALARM_CORRUPT});
    store_alarms_add(&from.kv->alarms, (struct store_alarm){UINT64_MAX, STORE_ALARM_NOSPACE});
    CLEANUP(buf_fini) struct buf file = export(&from);
    cr_assert_eq(import_with(buf_bytes(&file), 0, &to, &error), 0, "%s", error);
    cr_assert_eq(to.kv->alarms.count, 2);
    cr_assert_eq(to.kv->alarms.list[0].member_id, 7);
    cr_assert_eq(to.kv->alarms.list[0].type, STORE_ALARM_CORRUPT);
    cr_assert_eq(to.kv->alarms.list[1].member_id, UINT64_MAX);
    cr_assert_eq(to.kv->alarms.list[1].type, STORE_ALARM_NOSPACE);
    harness_fini(&from);
    harness_fini(&to);
}

Test(kv_import, leases_and_auth)
{
    CLEANUP(freep) char *error = NULL;
    CLEANUP(buf_fini) struct buf was = BUF_INIT;
    CLEANUP(buf_fini) struct buf is = BUF_INIT;
    struct harness from, to;
    struct lease *lease;
    bool changed;

    history(&from);
    lease_table_grant(&from.kv->leases, 300, 3600, 1, &lease);
    auth_store_role_add(&from.kv->auth, KEY("r1"));
    auth_store_role_grant(&from.kv->auth, &(struct auth_permission_args){.role = KEY("r1"),
                                                                         .given = true,
                                                                         .type = AUTH_WRITE,
                                                                         .key = KEY("k"),
                                                                         .range_end = KEY("l")});
    auth_store_user_add(&from.kv->auth,
                        &(struct auth_user_args){.name = KEY("u1"), .password = KEY("$2a$")});
    auth_store_user_add(&from.kv->auth,
                        &(struct auth_user_args){.name = KEY("u2"), .no_password = true});
    auth_store_user_grant(&from.kv->auth, KEY("u1"), KEY("root"), &changed);
    auth_store_user_grant(&from.kv->auth, KEY("u1"), KEY("r1"), &changed);
    from.kv->auth.enabled = true;
    CLEANUP(buf_fini) struct buf file = export(&from);
    cr_assert_eq(import_with(buf_bytes(&file), 0, &to, &error), 0, "%s", error);
    cr_assert_not_null(lease_table_find(&to.kv->leases, 300));
    cr_assert_eq(lease_table_find(&to.kv->leases, 300)->ttl, 3600);
    auth_store_encode(&from.kv->auth, &was);
    auth_store_encode(&to.kv->auth, &is);
    cr_assert(bytes_eq(buf_bytes(&was), buf_bytes(&is)));
    harness_fini(&from);
    harness_fini(&to);
}

/* ---- refused ---- */

struct item {
    enum etcd_bucket bucket;
    struct bytes key, value;
};

/* A file of these items and the two buckets that must be there. */
static struct buf make_file(const struct item *items, size_t count)
{
    struct bbolt_writer *w = bbolt_writer_new(NULL, NULL);
    struct bbolt_layout layout;
    struct buf file = BUF_INIT;

    for (int pass = 0; pass < 2; pass++) {
        for (unsigned int b = 0; b < ETCD_BUCKET_COUNT; b++) {
            bbolt_writer_begin(w, bytes_str(etcd_bucket_names[b]));
            for (size_t i = 0; i < count; i++)
                if (items[i].bucket == b)
                    bbolt_writer_add(w, items[i].key, items[i].value);
            bbolt_writer_end(w);
        }
        bbolt_writer_finish(w, &layout);
        bbolt_writer_free(w);
        w = pass == 0 ? bbolt_writer_new(&layout, &file) : NULL;
    }
    return file;
}

#define REV(n) BYTES_LIT("\0\0\0\0\0\0\0" n "_\0\0\0\0\0\0\0\0")

Test(kv_import, refused)
{
    static const struct bytes good = BYTES_LIT("\x0a\x01" "a\x10\x02\x18\x02\x20\x01");
    const struct {
        const char *what;
        struct item item;
        int want;
    } rows[] = {
        {"good", {ETCD_KEY, REV("\2"), good}, 0},
        {"a hole before it", {ETCD_KEY, REV("\3"), good}, -EBADMSG},
        {"revision 0", {ETCD_KEY, REV("\0"), good}, -EBADMSG},
        {"negative", {ETCD_KEY, BYTES_LIT("\xff\0\0\0\0\0\0\2_\0\0\0\0\0\0\0\0"), good}, -EBADMSG},
        {"large sub", {ETCD_KEY, BYTES_LIT("\0\0\0\0\0\0\0\2_\1\0\0\0\0\0\0\0"), good}, -EBADMSG},
        {"short key", {ETCD_KEY, BYTES_LIT("\0\0\0\0\0\0\0\2_"), good}, -EBADMSG},
        {"other mark", {ETCD_KEY, BYTES_LIT("\0\0\0\0\0\0\0\2_\0\0\0\0\0\0\0\0x"), good}, -EBADMSG},
        {"not a message", {ETCD_KEY, REV("\2"), BYTES_LIT("\x0a\x7f")}, -EBADMSG},
        {"a zero byte", {ETCD_KEY, REV("\2"), BYTES_LIT("\0\x0a\x01" "a")}, -EBADMSG},
        {"of another revision",
         {ETCD_KEY, REV("\2"), BYTES_LIT("\x0a\x01" "a\x10\x02\x18\x03\x20\x01")}, -EBADMSG},
        {"lease 0", {ETCD_LEASE, BYTES_LIT("\0\0\0\0\0\0\0\0"), BYTES_EMPTY}, -EBADMSG},
        {"lease that is no message", {ETCD_LEASE, BYTES_LIT("x"), BYTES_LIT("\xff")}, -EBADMSG},
        {"lease with more left than it has",
         {ETCD_LEASE, BYTES_LIT("x"), BYTES_LIT("\x08\x01\x10\x05\x18\x7f")}, 0},
        {"lease with a negative rest",
         {ETCD_LEASE, BYTES_LIT("x"),
          BYTES_LIT("\x08\x01\x10\x05\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")}, 0},
        {"alarm that is no message", {ETCD_ALARM, BYTES_LIT("\xff"), BYTES_EMPTY}, -EBADMSG},
        {"unknown alarm", {ETCD_ALARM, BYTES_LIT("\x08\x01\x10\x09"), BYTES_EMPTY}, 0},
        {"user that is no message", {ETCD_AUTH_USERS, BYTES_LIT("u"), BYTES_LIT("\xff")}, -EBADMSG},
        {"role that is no message", {ETCD_AUTH_ROLES, BYTES_LIT("r"), BYTES_LIT("\xff")}, -EBADMSG},
        {"short mark", {ETCD_META, BYTES_LIT("scheduledCompactRev"), BYTES_LIT("12")}, -EBADMSG},
        {"negative mark",
         {ETCD_META, BYTES_LIT("finishedCompactRev"), BYTES_LIT("\xff\0\0\0\0\0\0\2")}, -EBADMSG},
        {"unknown meta", {ETCD_META, BYTES_LIT("something"), BYTES_LIT("12")}, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(freep) char *error = NULL;
        struct harness to;

        CLEANUP(buf_fini) struct buf file = make_file(&rows[i].item, 1);
        cr_assert_eq(import_with(buf_bytes(&file), 0, &to, &error), rows[i].want, "%s: %s",
                     rows[i].what, error);
        cr_assert_eq(error != NULL, rows[i].want != 0, "%s", rows[i].what);
        harness_fini(&to);
    }
}

Test(kv_import, not_etcds)
{
    struct bbolt_writer *w = bbolt_writer_new(NULL, NULL);
    CLEANUP(freep) char *error = NULL;
    CLEANUP(buf_fini) struct buf file = BUF_INIT;
    struct bbolt_layout layout;
    struct harness to;

    bbolt_writer_finish(w, &layout);
    bbolt_writer_free(w);
    w = bbolt_writer_new(&layout, &file);
    bbolt_writer_finish(w, &layout);
    bbolt_writer_free(w);
    cr_assert_eq(import_with(buf_bytes(&file), 0, &to, &error), -EBADMSG);
    harness_fini(&to);
}
