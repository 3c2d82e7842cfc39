/* Every message between the daemons survives encode and decode, and no truncated or extended body
 * decodes. */
#include <criterion/criterion.h>

#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
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
           .is_learner = true, .local_reads = true, .leader_changes = 8, .wal_bytes = 9,
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
ROUND_TRIP(lease_clock, true, .generation = 3, .now_ms = 4, .deadlines = BYTES_LIT("0123456789abcdef"))
ROUND_TRIP(propose_own, true, .term = 3, .kind = PROTO_KIND_LEASE_EXPIRE, .body = BYTES_LIT("b"))
ROUND_TRIP(forwarded, true, .member_id = 3, .body = BYTES_LIT("b"))
ROUND_TRIP(forward_reply, true, .member_id = 3, .outcome = OUT_NOT_LEADER, .body = BYTES_LIT("b"))
ROUND_TRIP(forward_result, true, .outcome = OUT_NO_LEADER, .body = BYTES_LIT("b"))
ROUND_TRIP(applied, false, .applied_index = 1, .durable_index = 2, .chain_hash = 3)
ROUND_TRIP(u64, false, .value = 1)
ROUND_TRIP(snap_meta, false, .index = 1, .term = 2, .chain_hash = 3, .cluster_id = 4,
           .conf_state = BYTES_LIT("c"))
ROUND_TRIP(snap_chunk, true, .offset = 1, .last = true, .data = BYTES_LIT("d"))

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
