/*
 * Leases in the keyspace (lease_table, kv_lease): what entries do, and that every way of opening a
 * store finds the same table. Then lease_keeper with a clock turned by hand: nothing ends early, a
 * renewal that was answered holds, and a new leader goes on where the table says.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/util/macros.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"
#include "stored/engine/engine_mem.h"
#include "stored/lease/lease_keeper.h"
#include "stored/lease/lease_table.h"
#include "tests/unit/kv_harness.h"

enum { KEEPER = 77, TTL_MIN = 2 };

static int grant(struct harness *h, int64_t id, int64_t ttl)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    proto_lease_grant_encode(
        &b, &(struct proto_lease_grant){.id = id, .ttl = ttl, .ttl_min = TTL_MIN});
    return harness_apply(h, PROTO_KIND_LEASE_GRANT, buf_bytes(&b));
}

static int revoke(struct harness *h, int64_t id)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    pb_put_i64(&b, 1, id);
    return harness_apply(h, PROTO_KIND_LEASE_REVOKE, buf_bytes(&b));
}

static int put(struct harness *h, const char *key, int64_t lease, bool ignore_lease)
{
    CLEANUP(buf_fini) struct buf b =
        put_body(&(struct kv_put_request){.key = KEY(key),
                                          .value = KEY("v"),
                                          .lease = lease,
                                          .ignore_lease = ignore_lease});

    return harness_apply(h, PROTO_KIND_PUT, buf_bytes(&b));
}

static int keeper(struct harness *h, uint64_t id)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    proto_u64_encode(&b, &(struct proto_u64){.value = id});
    return harness_apply(h, PROTO_KIND_LEASE_KEEPER, buf_bytes(&b));
}

static int expire_as_of(struct harness *h, uint64_t id, uint64_t granted, struct bytes ids)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    wire_put_u64(&b, id);
    wire_put_u64(&b, granted);
    buf_append_bytes(&b, ids);
    return harness_apply(h, PROTO_KIND_LEASE_EXPIRE, buf_bytes(&b));
}

static int expire(struct harness *h, uint64_t id, struct bytes ids)
{
    return expire_as_of(h, id, kv_leases(h->kv)->granted, ids);
}

static int tell_clock_as_of(struct harness *h, uint64_t id, uint64_t granted, uint64_t now_ms,
                            struct bytes deadlines)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    proto_lease_clock_encode(
        &b, &(struct proto_lease_clock){
                .keeper = id, .now_ms = now_ms, .granted = granted, .deadlines = deadlines});
    return harness_apply(h, PROTO_KIND_LEASE_CLOCK, buf_bytes(&b));
}

static int tell_clock(struct harness *h, uint64_t id, uint64_t now_ms, struct bytes deadlines)
{
    return tell_clock_as_of(h, id, kv_leases(h->kv)->granted, now_ms, deadlines);
}

static struct lease *find(struct harness *h, int64_t id)
{
    return lease_table_find(kv_leases(h->kv), id);
}

static int64_t revision(struct harness *h)
{
    struct kv_state state;

    kv_get_state(h->kv, &state);
    return state.revision;
}

static uint64_t live(struct harness *h)
{
    struct kv_stats stats;

    kv_get_stats(h->kv, &stats);
    return stats.key_count;
}

/* "a,b": what hangs on a lease; "-": there is no such lease. Static memory. */
static const char *keys_of(struct harness *h, int64_t id)
{
    static char text[256];
    struct lease *l = find(h, id);
    struct bytes *keys;
    size_t n = 0;

    if (l == NULL)
        return "-";
    keys = lease_keys_sorted(&l->keys);
    for (size_t i = 0; i < l->keys.count; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%.*s", i > 0 ? "," : "",
                              (int)keys[i].len, (const char *)keys[i].data);
    text[n] = '\0';
    free(keys);
    return text;
}

static void reopen(struct harness *h)
{
    harness_close(h);
    engine_mem_kill(h->engine);
    cr_assert_eq(harness_open(h), 0);
}

Test(lease, grants)
{
    static const struct {
        int64_t id, ttl;
        int outcome;
        int64_t granted;
    } rows[] = {
        {1, 10, OUT_OK, 10},
        {1, 10, OUT_LEASE_EXIST, 0},
        {1, 9000000001, OUT_LEASE_TTL_TOO_LARGE, 0}, /* looked at first, as etcd does */
        {2, 9000000000, OUT_OK, 9000000000},
        {3, 1, OUT_OK, 2},
        {4, 0, OUT_OK, 2},
        {5, -5, OUT_OK, 2},
        {-6, 3, OUT_OK, 3},
        {0, 10, OUT_LEASE_NOT_FOUND, 0},
        {7, INT64_MAX, OUT_LEASE_TTL_TOO_LARGE, 0},
        {8, INT64_MIN, OUT_OK, 2},
    };
    struct harness h;

    harness_init(&h, false);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        cr_expect_eq(grant(&h, rows[i].id, rows[i].ttl), rows[i].outcome, "row %zu", i);
        if (rows[i].outcome == OUT_OK)
            cr_expect_eq(find(&h, rows[i].id)->ttl, rows[i].granted, "row %zu", i);
    }
    cr_expect_eq(revision(&h), 1, "a grant makes no revision");
    harness_fini(&h);
}

Test(lease, malformed_entries_change_nothing)
{
    static const enum proto_kind kinds[] = {PROTO_KIND_LEASE_GRANT, PROTO_KIND_LEASE_KEEPER,
                                            PROTO_KIND_LEASE_CLOCK, PROTO_KIND_LEASE_EXPIRE,
                                            PROTO_KIND_LEASE_REVOKE};
    struct harness h;

    harness_init(&h, false);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        cr_expect_eq(harness_apply(&h, kinds[i], BYTES_LIT("\x08")), OUT_MALFORMED, "%zu", i);
        cr_expect_neq(harness_apply(&h, kinds[i], BYTES_LIT("\x12\x05x")), OUT_OK, "%zu", i);
    }
    cr_expect_eq(lease_table_count(kv_leases(h.kv)), 0);
    cr_expect_eq(kv_leases(h.kv)->keeper_id, 0);
    harness_fini(&h);
}

Test(lease, keys_attach_move_and_detach)
{
    struct harness h;

    harness_init(&h, false);
    cr_expect_eq(put(&h, "a", 1, false), OUT_LEASE_NOT_FOUND);
    grant(&h, 1, 10);
    grant(&h, 2, 10);
    cr_expect_eq(put(&h, "b", 1, false), OUT_OK);
    cr_expect_eq(put(&h, "a", 1, false), OUT_OK);
    cr_expect_eq(put(&h, "a", 1, false), OUT_OK);
    cr_expect_str_eq(keys_of(&h, 1), "a,b");
    cr_expect_eq(put(&h, "a", 2, false), OUT_OK);
    cr_expect_str_eq(keys_of(&h, 1), "b");
    cr_expect_str_eq(keys_of(&h, 2), "a");
    cr_expect_eq(put(&h, "a", 0, true), OUT_OK, "ignore_lease keeps it");
    cr_expect_str_eq(keys_of(&h, 2), "a");
    cr_expect_eq(put(&h, "a", 0, false), OUT_OK, "a put without a lease detaches");
    cr_expect_str_eq(keys_of(&h, 2), "");
    cr_expect_eq(harness_delete(&h, "b", ""), OUT_OK);
    cr_expect_str_eq(keys_of(&h, 1), "");
    for (int i = 0; i < 26; i++)
        put(&h, (char[]){(char)('a' + i), 0}, 1, false);
    for (int i = 0; i < 24; i++)
        harness_delete(&h, (char[]){(char)('a' + i), 0}, "");
    cr_expect_str_eq(keys_of(&h, 1), "y,z");
    harness_fini(&h);
}

Test(lease, revoking_deletes_in_one_revision)
{
    struct harness h;
    int64_t before;

    harness_init(&h, false);
    grant(&h, 1, 10);
    put(&h, "b", 1, false);
    put(&h, "a", 1, false);
    put(&h, "c", 0, false);
    before = revision(&h);
    cr_expect_eq(revoke(&h, 9), OUT_LEASE_NOT_FOUND);
    cr_expect_eq(revoke(&h, 0), OUT_LEASE_NOT_FOUND);
    cr_expect_eq(revoke(&h, 1), OUT_OK);
    cr_expect_eq(revision(&h), before + 1);
    cr_expect_eq(live(&h), 1);
    cr_expect_eq(revoke(&h, 1), OUT_LEASE_NOT_FOUND);
    grant(&h, 1, 10);
    cr_expect_str_eq(keys_of(&h, 1), "", "the id may be used again, and owns nothing");
    cr_expect_eq(revoke(&h, 1), OUT_OK);
    cr_expect_eq(revision(&h), before + 1, "without keys there is no revision");
    harness_fini(&h);
}

Test(lease, only_the_keeper_ends_leases)
{
    CLEANUP(buf_fini) struct buf ids = BUF_INIT;
    struct harness h;
    int64_t before;

    harness_init(&h, false);
    for (int64_t id = 1; id <= 3; id++) {
        grant(&h, id, 10);
        wire_put_i64(&ids, id);
    }
    wire_put_i64(&ids, 99);
    put(&h, "a", 1, false);
    put(&h, "b", 3, false);
    before = revision(&h);
    cr_expect_neq(expire(&h, KEEPER, buf_bytes(&ids)), OUT_OK, "nobody keeps yet");
    keeper(&h, KEEPER);
    cr_expect_neq(expire(&h, KEEPER + 1, buf_bytes(&ids)), OUT_OK, "somebody else");
    h.term++;
    cr_expect_neq(expire(&h, KEEPER, buf_bytes(&ids)), OUT_OK, "an entry of another term");
    cr_expect_neq(tell_clock(&h, KEEPER, 5, BYTES_EMPTY), OUT_OK);
    h.term--;
    keeper(&h, KEEPER + 2);
    cr_expect_neq(expire(&h, KEEPER, buf_bytes(&ids)), OUT_OK, "the one before");
    cr_expect_eq(lease_table_count(kv_leases(h.kv)), 3);
    cr_expect_eq(revision(&h), before);
    cr_expect_eq(expire(&h, KEEPER + 2, buf_bytes(&ids)), OUT_OK);
    cr_expect_eq(lease_table_count(kv_leases(h.kv)), 0);
    cr_expect_eq(revision(&h), before + 2, "a revision for each lease that had keys");
    cr_expect_eq(live(&h), 0);
    put(&h, "c", 0, false);
    cr_expect_eq(revision(&h), before + 3);
    reopen(&h);
    cr_expect_eq(revision(&h), before + 3, "and the store opens with them");
    harness_fini(&h);
}

/* Its id was freed and granted again while the entry was on its way. */
Test(lease, an_entry_means_the_lease_there_was_when_it_was_proposed)
{
    CLEANUP(buf_fini) struct buf ids = BUF_INIT;
    CLEANUP(buf_fini) struct buf deadlines = BUF_INIT;
    struct harness h;
    uint64_t then;

    harness_init(&h, false);
    keeper(&h, KEEPER);
    grant(&h, 1, 10);
    grant(&h, 2, 10);
    then = kv_leases(h.kv)->granted;
    for (int64_t id = 1; id <= 2; id++) {
        wire_put_i64(&ids, id);
        wire_put_i64(&deadlines, id);
        wire_put_u64(&deadlines, 5000);
    }
    revoke(&h, 1);
    grant(&h, 1, 100);
    put(&h, "a", 1, false);
    for (int i = 0; i < 3; i++) {
        cr_expect_eq(tell_clock_as_of(&h, KEEPER, then, 1000, buf_bytes(&deadlines)), OUT_OK);
        cr_expect_eq(find(&h, 1)->deadline_ms, 0, "%d", i);
        cr_expect_eq(find(&h, 2)->deadline_ms, 5000, "%d", i);
        if (i == 1)
            harness_checkpoint(&h);
        reopen(&h);
    }
    cr_expect_eq(expire_as_of(&h, KEEPER, then, buf_bytes(&ids)), OUT_OK);
    cr_expect_null(find(&h, 2));
    cr_expect_str_eq(keys_of(&h, 1), "a");
    cr_expect_eq(expire_as_of(&h, KEEPER, then + 1, buf_bytes(&ids)), OUT_OK);
    cr_expect_null(find(&h, 1));
    harness_fini(&h);
}

/* ---- opening ---- */

static void fill(struct harness *h)
{
    CLEANUP(buf_fini) struct buf deadlines = BUF_INIT;

    keeper(h, KEEPER);
    for (int64_t id = 1; id <= 5; id++)
        grant(h, id * 1000, id * 10);
    put(h, "a", 1000, false);
    put(h, "b", 1000, false);
    put(h, "c", 2000, false);
    put(h, "gone", 3000, false);
    put(h, "gone", 0, false);
    revoke(h, 4000);
    wire_put_i64(&deadlines, 1000);
    wire_put_u64(&deadlines, 123456);
    tell_clock(h, KEEPER, 5000, buf_bytes(&deadlines));
}

static void expect_filled(struct harness *h, const char *how)
{
    const struct lease_table *t = kv_leases(h->kv);

    cr_expect_eq(lease_table_count(t), 4, "%s", how);
    cr_expect_eq(t->clock_ms, 5000, "%s", how);
    cr_expect_eq(t->keeper_id, KEEPER, "%s", how);
    cr_expect_eq(t->keeper_term, 2, "%s", how);
    cr_assert_not_null(find(h, 1000), "%s", how);
    cr_expect_eq(find(h, 1000)->deadline_ms, 123456, "%s", how);
    cr_expect_eq(find(h, 2000)->deadline_ms, 0, "%s", how);
    cr_expect_eq(find(h, 5000)->ttl, 50, "%s", how);
    cr_expect_str_eq(keys_of(h, 1000), "a,b", "%s", how);
    cr_expect_str_eq(keys_of(h, 2000), "c", "%s", how);
    cr_expect_str_eq(keys_of(h, 3000), "", "%s", how);
}

Test(lease, every_way_of_opening_finds_them)
{
    struct harness h;
    uint64_t index;

    harness_init(&h, false);
    fill(&h);
    reopen(&h);
    expect_filled(&h, "from batch records");
    harness_checkpoint(&h);
    index = h.index;
    reopen(&h);
    expect_filled(&h, "from the checkpoint");
    harness_checkpoint(&h);
    cr_assert_eq(index, h.index);
    grant(&h, 6000, 60);
    put(&h, "late", 6000, false);
    while (kv_trim_batches(h.kv, index, 3) == 1)
        ;
    reopen(&h);
    cr_expect_str_eq(keys_of(&h, 6000), "late");
    revoke(&h, 6000);
    expect_filled(&h, "checkpoint and batch records");
    h.checkpoint.data[h.checkpoint.len / 2] ^= 1;
    reopen(&h);
    expect_filled(&h, "trimmed, without a checkpoint");
    buf_clear(&h.checkpoint);
    put(&h, "more", 1000, false);
    cr_expect_str_eq(keys_of(&h, 1000), "a,b,more");
    reopen(&h);
    cr_expect_str_eq(keys_of(&h, 1000), "a,b,more");
    harness_fini(&h);
}

Test(lease, a_snapshot_carries_them)
{
    CLEANUP(buf_fini) struct buf stream = BUF_INIT;
    struct harness from, to;
    struct kv_snapshot_meta meta;
    struct kv_snapshot *s;
    struct kv_restore *r;

    harness_init(&from, false);
    fill(&from);
    s = kv_snapshot_new(from.kv, &meta);
    grant(&from, 7000, 70); /* after it: not part of it */
    cr_assert(kv_snapshot_ready(s));
    while (kv_snapshot_step(s, 1000, &stream) == 1)
        ;
    kv_snapshot_free(s);
    harness_init(&to, false);
    harness_close(&to);
    engine_mem_free(to.engine);
    to.engine = engine_mem_new(false);
    r = kv_restore_new(engine_mem_kv(to.engine));
    cr_assert_eq(kv_restore_feed(r, buf_bytes(&stream)), 0);
    cr_assert_eq(kv_restore_finish(r, &meta), 0);
    kv_restore_free(r);
    engine_mem_kill(to.engine);
    cr_assert_eq(harness_open(&to), 0);
    expect_filled(&to, "from a snapshot");
    harness_checkpoint(&to);
    put(&to, "x", 2000, false);
    reopen(&to);
    cr_expect_str_eq(keys_of(&to, 2000), "c,x");
    harness_fini(&to);
    harness_fini(&from);
}

/* ---- the keeper ---- */

static uint64_t hand_ms; /* the monotonic clock */

static uint64_t hand_clock(void *user)
{
    return hand_ms;
}

struct kept {
    struct harness h;
    struct lease_keeper keeper;
    struct buf out; /* of the last take */
};

static void kept_start(struct kept *t, uint64_t clock_ms)
{
    cr_assert_eq(keeper(&t->h, KEEPER), OUT_OK);
    lease_keeper_start(&t->keeper, kv_leases(t->h.kv), clock_ms);
}

static void kept_init(struct kept *t)
{
    hand_ms = 50000;
    *t = (struct kept){0};
    harness_init(&t->h, false);
    lease_keeper_init(&t->keeper, hand_clock, NULL);
    kept_start(t, 0);
}

static void kept_fini(struct kept *t)
{
    lease_keeper_fini(&t->keeper);
    harness_fini(&t->h);
    buf_fini(&t->out);
}

/* Proposes and executes what is over; how many leases. */
static size_t end_due(struct kept *t)
{
    size_t n, all = 0;

    for (;;) {
        buf_clear(&t->out);
        n = lease_keeper_take_due(&t->keeper, &t->out);
        if (n == 0)
            return all;
        all += n;
        cr_assert_eq(expire(&t->h, KEEPER, buf_bytes(&t->out)), OUT_OK);
    }
}

/* Proposes and executes the clock and the deadlines that are due to be told. */
static bool tell(struct kept *t)
{
    buf_clear(&t->out);
    if (!lease_keeper_take_clock(&t->keeper, &t->out))
        return false;
    cr_assert_eq(tell_clock(&t->h, KEEPER, lease_keeper_now(&t->keeper), buf_bytes(&t->out)),
                 OUT_OK);
    return true;
}

static enum lease_renewal renew(struct kept *t, int64_t id)
{
    return lease_keeper_renew(&t->keeper, find(&t->h, id));
}

static void clear(struct kept *t, int64_t id)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    wire_put_i64(&b, id);
    wire_put_u64(&b, 0);
    cr_assert_eq(tell_clock(&t->h, KEEPER, lease_keeper_now(&t->keeper), buf_bytes(&b)), OUT_OK);
}

Test(keeper, leases_end_in_order_and_never_early)
{
    static const int64_t ttls[] = {7, 3, 5, 3, 9};
    struct kept t;
    uint64_t begun;

    kept_init(&t);
    begun = hand_ms;
    for (size_t i = 0; i < ARRAY_LEN(ttls); i++)
        grant(&t.h, (int64_t)i + 1, ttls[i]);
    for (; hand_ms < begun + 10000; hand_ms += 100) {
        tell(&t);
        end_due(&t);
        for (size_t i = 0; i < ARRAY_LEN(ttls); i++) {
            bool is_there = find(&t.h, (int64_t)i + 1) != NULL;
            uint64_t age = hand_ms - begun, ttl = (uint64_t)ttls[i] * 1000;

            cr_assert(is_there || age > ttl, "lease %zu after %lu ms", i + 1, (unsigned long)age);
            cr_assert(!is_there || age <= ttl + 100, "lease %zu", i + 1);
        }
    }
    kept_fini(&t);
}

Test(keeper, many_at_once_go_in_bounded_entries)
{
    enum { LEASES = 20000 };
    struct kept t;
    size_t entries = 0, n;

    kept_init(&t);
    for (int64_t id = 1; id <= LEASES; id++)
        grant(&t.h, id, 5);
    put(&t.h, "a", 17, false);
    hand_ms += 5002;
    buf_clear(&t.out);
    while ((n = lease_keeper_take_due(&t.keeper, &t.out)) > 0) {
        cr_assert_leq(n, LEASE_EXPIRE_MAX);
        entries++;
    }
    cr_expect_eq(entries, LEASE_ENDING_MAX / LEASE_EXPIRE_MAX, "and so many under way");
    cr_assert_eq(expire(&t.h, KEEPER, buf_bytes(&t.out)), OUT_OK);
    cr_expect_eq(end_due(&t), LEASES - LEASE_ENDING_MAX);
    cr_expect_eq(lease_table_count(kv_leases(t.h.kv)), 0);
    cr_expect_eq(live(&t.h), 0);
    kept_fini(&t);
}

Test(keeper, a_renewal_needs_no_entry_while_nothing_was_stated)
{
    struct kept t;

    kept_init(&t);
    grant(&t.h, 1, 5);
    for (int i = 0; i < 100; i++) {
        hand_ms += LEASE_SETTLE_MS - 1;
        cr_assert_eq(renew(&t, 1), LEASE_RENEWED);
        tell(&t);
        cr_assert_eq(find(&t.h, 1)->deadline_ms, 0);
        cr_assert_eq(end_due(&t), 0);
    }
    hand_ms += 4999;
    cr_expect_eq(end_due(&t), 0);
    hand_ms += 2;
    cr_expect_eq(end_due(&t), 1);
    cr_expect_eq(renew(&t, 1), LEASE_GONE);
    kept_fini(&t);
}

Test(keeper, a_stated_deadline_is_cleared_before_a_renewal)
{
    struct kept t;

    kept_init(&t);
    grant(&t.h, 1, 5);
    hand_ms += 2000;
    buf_clear(&t.out);
    cr_assert(lease_keeper_take_clock(&t.keeper, &t.out), "the statement is under way");
    cr_expect_eq(renew(&t, 1), LEASE_MUST_CLEAR);
    lease_keeper_clear(&t.keeper, find(&t.h, 1));
    cr_expect_eq(renew(&t, 1), LEASE_WAIT);
    tell_clock(&t.h, KEEPER, lease_keeper_now(&t.keeper), buf_bytes(&t.out));
    cr_expect_neq(find(&t.h, 1)->deadline_ms, 0);
    cr_expect_eq(renew(&t, 1), LEASE_WAIT, "the clearing entry comes after it");
    buf_clear(&t.out);
    hand_ms += LEASE_ASK_AGAIN_MS;
    lease_keeper_take_clock(&t.keeper, &t.out);
    cr_expect_eq(t.out.len, 0, "nothing more is stated while it is being cleared");
    cr_expect_eq(renew(&t, 1), LEASE_MUST_CLEAR, "it seems lost");
    kept_fini(&t);
}

Test(keeper, a_cleared_lease_is_renewed)
{
    struct kept t;

    kept_init(&t);
    grant(&t.h, 1, 5);
    hand_ms += 2000;
    cr_assert(tell(&t));
    cr_expect_eq(find(&t.h, 1)->deadline_ms, 5001);
    cr_expect_eq(renew(&t, 1), LEASE_MUST_CLEAR);
    lease_keeper_clear(&t.keeper, find(&t.h, 1));
    clear(&t, 1);
    cr_expect_eq(renew(&t, 1), LEASE_RENEWED);
    hand_ms += 4999;
    cr_expect_eq(end_due(&t), 0);
    kept_fini(&t);
}

Test(keeper, an_end_that_seems_lost_is_proposed_again_and_nothing_renews)
{
    CLEANUP(buf_fini) struct buf late = BUF_INIT;
    struct kept t;

    kept_init(&t);
    grant(&t.h, 1, 5);
    hand_ms += 5001;
    cr_assert_eq(lease_keeper_take_due(&t.keeper, &late), 1);
    cr_expect_eq(lease_keeper_take_due(&t.keeper, &t.out), 0);
    cr_expect_eq(renew(&t, 1), LEASE_WAIT);
    hand_ms += LEASE_ASK_AGAIN_MS;
    cr_expect_eq(renew(&t, 1), LEASE_WAIT, "the first entry may still come");
    cr_expect_eq(lease_keeper_take_due(&t.keeper, &t.out), 1);
    expire(&t.h, KEEPER, buf_bytes(&late));
    cr_expect_eq(renew(&t, 1), LEASE_GONE);
    grant(&t.h, 1, 5);
    cr_expect_eq(lease_keeper_take_due(&t.keeper, &t.out), 0);
    kept_fini(&t);
}

Test(keeper, a_new_leader_goes_on_where_the_table_says)
{
    struct kept t;

    kept_init(&t);
    grant(&t.h, 1, 10);
    hand_ms += 4000;
    tell(&t);
    grant(&t.h, 2, 10);
    hand_ms += 900;
    lease_keeper_stop(&t.keeper);
    /* a second passes without a leader */
    hand_ms += 1000;
    kept_start(&t, 5900);
    cr_expect_eq(lease_keeper_now(&t.keeper), 5900);
    cr_expect_eq(lease_keeper_remaining(&t.keeper, find(&t.h, 1)), 4);
    cr_expect_eq(lease_keeper_remaining(&t.keeper, find(&t.h, 2)), 10, "unknown: all");
    cr_expect_eq(renew(&t, 1), LEASE_MUST_CLEAR);
    cr_expect_eq(renew(&t, 2), LEASE_RENEWED);
    hand_ms += 4102;
    cr_expect_eq(end_due(&t), 1);
    cr_expect_null(find(&t.h, 1));
    hand_ms += 5897;
    cr_expect_eq(end_due(&t), 0);
    hand_ms += 2;
    cr_expect_eq(end_due(&t), 1);
    kept_fini(&t);
}

Test(keeper, lists_by_end)
{
    struct kept t;
    struct lease **list;

    kept_init(&t);
    grant(&t.h, 1, 30);
    grant(&t.h, 2, 10);
    grant(&t.h, 3, 20);
    list = lease_keeper_sorted(&t.keeper);
    cr_expect_eq(list[0]->id, 2);
    cr_expect_eq(list[1]->id, 3);
    cr_expect_eq(list[2]->id, 1);
    free(list);
    kept_fini(&t);
}
