/* stored: compaction, quota, defragmenting, checkpoints. */
#include "tests/unit/stored_side.h"


#include "lib/util/macros.h"
#include "lib/wire/pb.h"
#include "stored/kv/store_alarms.h"

TestSuite(stored_upkeep, .init = side_setup, .fini = side_teardown, .timeout = 60);

/* ---- background work ---- */

Test(stored_upkeep, a_physical_compaction_is_answered_when_it_is_done)
{
    uint64_t id;

    one.conf.compaction_batch_limit = 10;
    side_put_many(&one, 200, 10);
    side_put_many(&one, 200, 10);
    id = side_compact(&one, 400, true);
    side_apply_all(&one);
    cr_assert_null(side_answer(&one, id));
    side_expect_outcome(&one, id, OUT_OK);
    cr_assert(!kv_compact_unfinished(one.s.kv));
    side_expect_outcome(&one, side_compact(&one, 400, false), OUT_COMPACTED);
    side_expect_outcome(&one, side_compact(&one, 4000, true), OUT_FUTURE_REVISION);
}

static uint64_t admit(struct side *d, uint64_t cost)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    uint64_t id = d->next_id++;

    proto_u64_encode(&b, &(struct proto_u64){.value = cost});
    side_read(d, id, PROTO_READ_ADMIT, false, buf_bytes(&b));
    return id;
}

static uint64_t set_alarm(struct side *d, uint64_t action, uint64_t type)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    pb_put_u64(&b, 1, action);
    pb_put_u64(&b, 2, MEMBER);
    pb_put_u64(&b, 3, type);
    return side_commit(d, PROTO_KIND_ALARM, MEMBER, GENERATION, buf_bytes(&b));
}

Test(stored_upkeep, the_quota_raises_the_alarm_and_refuses_what_grows)
{
    CLEANUP(buf_fini) struct buf gone = BUF_INIT;
    struct proto_propose_own own;
    uint64_t refused;

    side_stored_down(&one);
    one.conf.quota_backend_bytes = 100000;
    one.raftd_up = one.gateway_up = false;
    side_stored_up(&one);
    until(one.raftd_up && one.gateway_up);
    until(one.space.quota_bytes == 100000);
    side_put_many(&one, 9, 10000);
    until(one.space.used_bytes > 90000);
    side_expect_outcome(&one, admit(&one, 100), OUT_OK);

    buf_clear(&one.own);
    refused = admit(&one, 20000);
    until(one.own.len != 0);
    cr_assert_null(side_answer(&one, refused)); /* not before the alarm is active */
    cr_assert_eq(proto_propose_own_decode(buf_bytes(&one.own), &own), 0);
    cr_assert_eq(own.kind, PROTO_KIND_ALARM);
    side_commit(&one, own.kind, MEMBER, 0, own.body);
    side_expect_outcome(&one, refused, OUT_NO_SPACE);
    side_expect_outcome(&one, admit(&one, 20000), OUT_NO_SPACE); /* at once */
    side_expect_outcome(&one, side_put(&one, "a", "b"), OUT_NO_SPACE);
    pb_put_bytes(&gone, 1, BYTES_LIT("many/00000000"));
    side_expect_outcome(&one, side_commit(&one, PROTO_KIND_DELETE_RANGE, MEMBER, GENERATION, buf_bytes(&gone)),
                   OUT_OK);
    /* its history still counts; without it there is room */
    side_expect_outcome(&one, side_compact(&one, 11, true), OUT_OK);
    until(one.space.used_bytes < 90000);
    side_expect_outcome(&one, set_alarm(&one, 2, STORE_ALARM_NOSPACE), OUT_OK);
    side_expect_outcome(&one, side_put(&one, "a", "b"), OUT_OK);
    side_expect_outcome(&one, admit(&one, 100), OUT_OK);
}

Test(stored_upkeep, what_overran_the_quota_raises_the_alarm_too)
{
    side_stored_down(&one);
    one.conf.quota_backend_bytes = 50000;
    one.raftd_up = one.gateway_up = false;
    side_stored_up(&one);
    until(one.raftd_up && one.gateway_up);
    side_put_many(&one, 6, 10000); /* by way of another member */
    until(one.own.len != 0);
}

Test(stored_upkeep, no_quota_admits_everything)
{
    side_stored_down(&one);
    one.conf.quota_backend_bytes = -1;
    one.raftd_up = one.gateway_up = false;
    side_stored_up(&one);
    until(one.raftd_up && one.gateway_up);
    side_expect_outcome(&one, admit(&one, UINT64_MAX), OUT_OK);
}

Test(stored_upkeep, a_defragmentation_waits_for_the_removal_of_history)
{
    uint64_t id, first;

    one.conf.compaction_batch_limit = 10;
    side_put_many(&one, 200, 1000);
    side_put_many(&one, 200, 1000);
    first = side_compact(&one, 400, false);
    side_apply_all(&one);
    id = one.next_id++;
    side_read(&one, id, PROTO_READ_DEFRAGMENT, false, BYTES_EMPTY);
    side_expect_outcome(&one, side_put(&one, "meanwhile", "1"), OUT_OK);
    side_expect_outcome(&one, first, OUT_OK);
    side_expect_outcome(&one, id, OUT_OK);
    cr_assert(!kv_compact_unfinished(one.s.kv));
}

Test(stored_upkeep, a_stop_during_a_defragmentation)
{
    side_put_many(&one, 200, 1000);
    side_read(&one, one.next_id++, PROTO_READ_DEFRAGMENT, false, BYTES_EMPTY);
    until(one.s.merging || one.answer_count != 0);
    side_stored_down(&one);
}

Test(stored_upkeep, a_checkpoint_is_made_while_it_runs)
{
    one.conf.checkpoint_entries = 100;
    side_put_many(&one, 1000, 100);
    until(one.s.checkpoint_index == 1000);
    until(one.s.checkpoint == NULL);
    side_put_many(&one, 10, 100);
    side_stored_down(&one);
    side_stored_up(&one);
    until(one.raftd_up && one.hello_count == 2);
    cr_assert_eq(one.hello.applied_index, 1010);
}

Test(stored_upkeep, durable_follows)
{
    side_put_many(&one, 100, 100);
    cr_assert_leq(one.applied.durable_index, 100);
    engine_leveldb_sync(one.s.engine);
    while (one.applied.durable_index < 100) {
        loop_run_once(loop, 100);
        engine_leveldb_sync(one.s.engine);
    }
    cr_assert_eq(one.applied.durable_index, 100);
}
