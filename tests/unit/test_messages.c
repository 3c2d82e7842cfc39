/* Every message between the daemons survives encode and decode, and no truncated or extended body
 * decodes. */
#include <criterion/criterion.h>
#include <errno.h>

#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/proto/watch.h"
#include "lib/wire/wire.h"

#define ROUND_TRIP(name, open_ended, ...)                                                          \
    Test(messages, name)                                                                           \
    {                                                                                              \
        struct proto_##name in = {__VA_ARGS__}, out;                                               \
        struct buf a = BUF_INIT, b = BUF_INIT;                                                     \
                                                                                                   \
        proto_##name##_encode(&a, &in);                                                            \
        cr_assert_eq(proto_##name##_decode(buf_bytes(&a), &out), 0);                               \
        proto_##name##_encode(&b, &out);                                                           \
        cr_assert(bytes_eq(buf_bytes(&a), buf_bytes(&b)));                                         \
        if (!(open_ended)) {                                                                       \
            for (size_t cut = 0; cut < a.len; cut++)                                               \
                cr_assert_neq(proto_##name##_decode(bytes_of(a.data, cut), &out), 0);              \
            buf_append_u8(&a, 0);                                                                  \
            cr_assert_neq(proto_##name##_decode(buf_bytes(&a), &out), 0);                          \
        }                                                                                          \
        buf_fini(&a);                                                                              \
        buf_fini(&b);                                                                              \
    }

ROUND_TRIP(hello, false, .daemon = PROTO_DAEMON_STORED, .generation = 3, .gateway_index = 1,
           .cluster_id = 4, .member_id = 5, .applied_index = 6, .applied_term = 7,
           .durable_index = 8, .chain_hash = 9, .conf_state = BYTES_LIT("conf"))
ROUND_TRIP(payload, true, .kind = PROTO_KIND_TXN, .origin_member = 1, .origin_generation = 2,
           .request_id = 3, .identity = BYTES_LIT("root"), .body = BYTES_LIT("body"))
ROUND_TRIP(conf_change, false, .op = PROTO_CONF_PROMOTE,
           .member = {.id = 7, .is_learner = true, .name = BYTES_LIT("n"),
                      .peer_urls = BYTES_LIT("http://a:1"), .client_urls = BYTES_LIT("http://a:2")})
ROUND_TRIP(raft_status, false, .cluster_id = 1, .member_id = 2, .leader_id = 3, .term = 4,
           .commit_index = 5, .applied_index = 6, .last_index = 7, .state = PROTO_RAFT_LEADER,
           .is_learner = true, .local_reads = true, .leader_changes = 8, .proposals_pending = 9,
           .election_timeout_ms = 1000)
ROUND_TRIP(read, true, .kind = PROTO_READ_TXN, .linearizable = true, .identity = BYTES_LIT("u"),
           .body = BYTES_LIT("range"))
ROUND_TRIP(result, true, .outcome = OUT_COMPACTED, .total_bytes = 12, .part = BYTES_LIT("part"))
ROUND_TRIP(store_status, false, .revision = -1, .db_bytes = 5, .cluster_version = BYTES_LIT("3.7.0"),
           .downgrade = BYTES_LIT("3.6.0"), .alarms = BYTES_LIT("x"))
ROUND_TRIP(space, false, .used_bytes = 1, .quota_bytes = 2)
ROUND_TRIP(raft_call, false, .op = PROTO_RAFT_MOVE_LEADER, .member = 3)
ROUND_TRIP(outcome, false, .outcome = OUT_NO_LEADER)
ROUND_TRIP(barrier_index, false, .outcome = OUT_OK, .index = 9, .term = 3)
ROUND_TRIP(lease_grant, false, .id = 7, .ttl = -1, .ttl_min = 2)
ROUND_TRIP(lease_clock, true, .keeper = 3, .now_ms = 4, .granted = 5,
           .deadlines = BYTES_LIT("0123456789abcdef"))
ROUND_TRIP(propose_own, true, .term = 3, .kind = PROTO_KIND_LEASE_EXPIRE, .body = BYTES_LIT("b"))
ROUND_TRIP(forwarded, true, .member_id = 3, .body = BYTES_LIT("b"))
ROUND_TRIP(forward_reply, true, .member_id = 3, .outcome = OUT_NOT_LEADER, .body = BYTES_LIT("b"))
ROUND_TRIP(forward_result, true, .outcome = OUT_NO_LEADER, .body = BYTES_LIT("b"))
ROUND_TRIP(applied, false, .applied_index = 1, .durable_index = 2, .chain_hash = 3)
ROUND_TRIP(u64, false, .value = 1)
ROUND_TRIP(snap_meta, false, .index = 1, .term = 2, .chain_hash = 3, .cluster_id = 4,
           .conf_state = BYTES_LIT("c"))
ROUND_TRIP(snap_chunk, true, .offset = 1, .last = true, .data = BYTES_LIT("d"))

ROUND_TRIP(watch_create, false, .stream = 7, .start_revision = -1, .flags = PROTO_WATCH_PREV_KV,
           .identity = BYTES_LIT("u"), .key = BYTES_LIT("k"), .range_end = BYTES_LIT("l"))
ROUND_TRIP(watch_created, false, .outcome = OUT_OK, .at_head = true, .revision = 4, .next = 5)
ROUND_TRIP(watch_canceled, false, .reply = true, .outcome = OUT_COMPACTED, .revision = 6,
           .compact_revision = 4, .next = 5)
ROUND_TRIP(watch_progress, false, .whole_stream = true, .revision = 4)

Test(messages, watch_create_of_nonsense)
{
    static const struct proto_watch_create rows[] = {
        {.key = BYTES_LIT("")},
        {.key = BYTES_LIT("k"), .flags = PROTO_WATCH_FLAGS + 1},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct proto_watch_create out;
        struct buf b = BUF_INIT;

        proto_watch_create_encode(&b, &rows[i]);
        cr_assert_neq(proto_watch_create_decode(buf_bytes(&b), &out), 0, "row %zu", i);
        buf_fini(&b);
    }
}

Test(messages, watch_history_and_behind)
{
    static const uint32_t numbers[] = {7, 9};
    struct proto_watch_history in = {.next = 9, .revision = 12, .more = true}, out;
    struct proto_watch_behind behind;
    struct buf b = BUF_INIT;

    proto_watch_history_begin(&b, &in);
    proto_watch_ids_put(&b, numbers, 2);
    for (size_t cut = 0; cut < b.len; cut++)
        cr_assert_neq(proto_watch_history_decode(bytes_of(b.data, cut), &out), 0);
    buf_append_bytes(&b, BYTES_LIT("events"));
    cr_assert_eq(proto_watch_history_decode(buf_bytes(&b), &out), 0);
    cr_assert(out.next == 9 && out.revision == 12 && out.more && !out.at_head);
    cr_assert(out.ids.count == 2 && proto_watch_id(&out.ids, 1) == 9);
    cr_assert(bytes_eq(out.events, BYTES_LIT("events")));
    buf_clear(&b);

    proto_watch_behind_begin(&b, 5);
    proto_watch_ids_put(&b, numbers, 2);
    for (size_t cut = 0; cut < b.len; cut++)
        cr_assert_neq(proto_watch_behind_decode(bytes_of(b.data, cut), &behind), 0);
    cr_assert_eq(proto_watch_behind_decode(buf_bytes(&b), &behind), 0);
    cr_assert(behind.next == 5 && proto_watch_id(&behind.ids, 0) == 7);
    buf_fini(&b);
}

Test(messages, watch_groups)
{
    static const uint32_t numbers[] = {1, 2, 2, 3};
    static const struct {
        size_t hits_at, hit_count, id_count;
        uint32_t event_count;
        int want;
    } rows[] = {
        {0, 2, 4, 3, 0},
        {0, 2, 4, 2, -EBADMSG}, /* a place beyond the table */
        {1, 2, 1, 9, -EBADMSG}, /* twice the same place */
        {0, 0, 1, 9, -EBADMSG},
        {0, 1, 0, 9, -EBADMSG},
    };
    struct proto_watch_event event;
    struct proto_watch_group group;
    struct wire_reader r;
    struct buf b = BUF_INIT;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        buf_clear(&b);
        proto_watch_ids_put(&b, numbers + rows[i].hits_at, rows[i].hit_count);
        proto_watch_ids_put(&b, numbers, rows[i].id_count);
        r = wire_reader(buf_bytes(&b));
        cr_assert_eq(proto_watch_group_read(&r, rows[i].event_count, &group), rows[i].want,
                     "row %zu", i);
        for (size_t cut = 0; cut < b.len; cut++) {
            r = wire_reader(bytes_of(b.data, cut));
            cr_assert_neq(proto_watch_group_read(&r, rows[i].event_count, &group), 0);
        }
    }
    buf_clear(&b);
    proto_watch_event_put(&b, 8, BYTES_LIT("event"));
    for (size_t cut = 0; cut < b.len; cut++) {
        r = wire_reader(bytes_of(b.data, cut));
        cr_assert_neq(proto_watch_event_read(&r, &event), 0);
    }
    r = wire_reader(buf_bytes(&b));
    cr_assert_eq(proto_watch_event_read(&r, &event), 0);
    cr_assert(event.revision == 8 && bytes_eq(event.bytes, BYTES_LIT("event")));
    buf_fini(&b);
}

Test(messages, entries_in_a_row)
{
    struct buf b = BUF_INIT;
    struct wire_reader r;
    struct proto_entry e;

    for (uint64_t i = 1; i <= 3; i++)
        proto_entry_encode(&b, &(struct proto_entry){.index = i, .term = 2, .data = BYTES_LIT("x")});
    r = wire_reader(buf_bytes(&b));
    for (uint64_t i = 1; i <= 3; i++) {
        cr_assert_eq(proto_entry_read(&r, &e), 0);
        cr_assert_eq(e.index, i);
    }
    cr_assert_eq(wire_reader_done(&r), 0);
    buf_fini(&b);
}

Test(messages, hello_of_another_version)
{
    struct buf b = BUF_INIT;
    struct proto_hello out;

    proto_hello_encode(&b, &(struct proto_hello){.daemon = PROTO_DAEMON_RAFTD});
    b.data[0]++;
    cr_assert_eq(proto_hello_decode(buf_bytes(&b), &out), -EPROTO);
    buf_fini(&b);
}

Test(outcome, every_one_has_a_name)
{
    for (int i = 0; i < OUT_COUNT; i++)
        cr_assert_str_neq(outcome_name(i), "?");
    cr_assert_str_eq(outcome_name(OUT_COUNT), "?");
}
