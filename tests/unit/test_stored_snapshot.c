/* stored: state between members, and etcd's database file for clients. */
#include "tests/unit/stored_side.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/bbolt/snapshot_file.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

TestSuite(stored_snapshot, .init = side_setup, .fini = side_teardown, .timeout = 60);

/* ---- snapshots ---- */

static void snapshot_of_one(void)
{
    ipc_link_send(one.raftd, PROTO_SNAP_SEND, 77, BYTES_EMPTY);
    until(one.snap_last);
    cr_assert_gt(one.snap_meta.len, 0);
}

static void send_snapshot_to(struct side *d)
{
    ipc_link_send(d->raftd, PROTO_SNAP_RECEIVE, 78, buf_bytes(&one.snap_meta));
    for (size_t i = 0; i < one.snap_chunk_count; i++)
        ipc_link_send(d->raftd, PROTO_SNAP_CHUNK, 78, buf_bytes(&one.snap_chunks[i]));
}

static void fill_one(void)
{
    side_put_many(&one, 1500, 1000);
    side_put_many(&one, 500, 10);
    side_expect_outcome(&one, side_compact(&one, 100, false), OUT_OK);
    until(!kv_compact_unfinished(one.s.kv));
    side_apply_all(&one);
}

/* `one` with what it is to send, `two` with something else. */
static void snapshot_of_one_beside_two(void)
{
    side_init(&two);
    side_up(&two);
    side_put(&two, "other", "history");
    side_apply_all(&two);
    fill_one();
    snapshot_of_one();
}

Test(stored_snapshot, a_snapshot_makes_an_equal_member)
{
    CLEANUP(buf_fini) struct buf a = BUF_INIT;
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    struct proto_snap_meta meta;

    snapshot_of_one_beside_two();
    cr_assert_eq(proto_snap_meta_decode(buf_bytes(&one.snap_meta), &meta), 0);
    cr_assert_eq(meta.index, one.applied.applied_index);
    cr_assert_eq(meta.chain_hash, one.applied.chain_hash);
    send_snapshot_to(&two);
    until(two.staged != -1);
    cr_assert_eq(two.staged, OUT_OK);
    side_expect_value(&two, side_get(&two, "other", false), "history"); /* not active yet */
    ipc_link_send(two.raftd, PROTO_SNAP_ACTIVATE, 78, BYTES_EMPTY);
    until(two.done != -1);
    cr_assert_eq(two.done, OUT_OK);
    until(two.applied.applied_index == meta.index);
    cr_assert_eq(two.applied.chain_hash, meta.chain_hash);
    side_hash_kv(&one, &a);
    side_hash_kv(&two, &b);
    cr_assert(bytes_eq(buf_bytes(&a), buf_bytes(&b)));
    side_expect_value(&two, side_get(&two, "other", false), NULL);
    /* and both go on the same way */
    two.next_index = one.next_index;
    two.next_id = one.next_id; /* the request id is part of the entry */
    side_put(&one, "k", "v");
    side_put(&two, "k", "v");
    side_apply_all(&one);
    side_apply_all(&two);
    cr_assert_eq(one.applied.chain_hash, two.applied.chain_hash);
    /* also after a restart */
    side_stored_down(&two);
    side_stored_up(&two);
    until(two.hello_count == 2);
    cr_assert_eq(two.hello.applied_index, one.applied.applied_index);
    cr_assert_eq(two.hello.chain_hash, one.applied.chain_hash);
}

Test(stored_snapshot, sending_goes_on_only_as_it_is_acknowledged)
{
    uint64_t sent = 0;

    side_put_many(&one, 6000, 1000);
    one.snap_hold = true;
    ipc_link_send(one.raftd, PROTO_SNAP_SEND, 77, BYTES_EMPTY);
    until(one.snap_chunk_count > 0);
    side_settle();
    side_settle();
    cr_assert(!one.snap_last);
    for (size_t i = 0; i < one.snap_chunk_count; i++)
        sent += one.snap_chunks[i].len;
    cr_assert_leq(sent, STORED_SNAP_WINDOW_BYTES + (64 << 10));
    /* applying goes on meanwhile, and a cancel ends it */
    side_put(&one, "k", "v");
    side_apply_all(&one);
    ipc_link_send(one.raftd, PROTO_SNAP_CANCEL, 77, BYTES_EMPTY);
    side_settle();
    cr_assert_null(one.s.snap_out);
}

Test(stored_snapshot, a_damaged_snapshot_changes_nothing)
{
    snapshot_of_one_beside_two();
    cr_assert_gt(one.snap_chunk_count, 3);
    one.snap_chunks[2].data[one.snap_chunks[2].len / 2] ^= 1;
    send_snapshot_to(&two);
    until(two.staged != -1);
    cr_assert_neq(two.staged, OUT_OK);
    two.done = -1;
    ipc_link_send(two.raftd, PROTO_SNAP_ACTIVATE, 78, BYTES_EMPTY);
    until(two.done != -1);
    cr_assert_neq(two.done, OUT_OK);
    side_expect_value(&two, side_get(&two, "other", false), "history");
    cr_assert_neq(access(two.s.dir.recv, F_OK), 0);
    cr_assert_null(two.fatal);
}

Test(stored_snapshot, a_snapshot_that_cannot_be_written_ends_only_itself)
{
    snapshot_of_one_beside_two();
    send_snapshot_to(&two);
    until(two.s.snap_in != NULL);
    side_remove_tree(two.s.dir.recv); /* its sync fails */
    until(two.staged != -1);
    cr_assert_neq(two.staged, OUT_OK);
    side_expect_value(&two, side_get(&two, "other", false), "history");
    side_put(&two, "other", "goes on");
    side_apply_all(&two);
    cr_assert_null(two.fatal);
}

Test(stored_snapshot, a_missing_chunk_is_refused)
{
    side_init(&two);
    side_up(&two);
    fill_one();
    snapshot_of_one();
    ipc_link_send(two.raftd, PROTO_SNAP_RECEIVE, 78, buf_bytes(&one.snap_meta));
    ipc_link_send(two.raftd, PROTO_SNAP_CHUNK, 78, buf_bytes(&one.snap_chunks[1]));
    until(two.staged != -1);
    cr_assert_neq(two.staged, OUT_OK);
}

Test(stored_snapshot, a_crash_in_the_middle_of_an_activation_leaves_a_whole_state)
{
    uint64_t index;

    side_init(&two);
    side_up(&two);
    fill_one();
    index = one.applied.applied_index;
    snapshot_of_one();
    for (int steps = 0; steps <= 3; steps++) {
        struct stored_dir dir;

        two.staged = -1;
        if (steps > 0) { /* a state of its own again */
            CLEANUP(freep) char *member = xasprintf("%s/member", two.conf.data_dir);

            side_stored_down(&two);
            side_remove_tree(member);
            two.raftd_up = false;
            side_stored_up(&two);
            until(two.raftd_up && two.gateway_up);
        }
        side_put(&two, "other", "history");
        side_apply_all(&two);
        send_snapshot_to(&two);
        until(two.staged != -1);
        cr_assert_eq(two.staged, OUT_OK);
        /* the process ends without taking the staged state away; then some of the renames happen */
        free(TAKE(two.s.snap_in));
        side_stored_down(&two);
        cr_assert_eq(stored_dir_open(&dir, two.conf.data_dir), 0);
        cr_assert_eq(stored_dir_lock(&dir), 0);
        cr_assert_eq(stored_dir_activate_steps(&dir, steps), 0);
        stored_dir_close(&dir);
        two.raftd_up = false;
        side_stored_up(&two);
        until(two.raftd_up && two.gateway_up);
        cr_assert_eq(two.hello.applied_index, steps == 0 ? 1 : index);
        side_expect_value(&two, side_get(&two, "other", false), steps == 0 ? "history" : NULL);
        side_forget_answers(&two);
        two.applied.applied_index = 0;
    }
}

/* ---- etcd's database file ---- */

static uint64_t ask_snapshot(void)
{
    uint64_t id = one.next_id++;

    side_read(&one, id, PROTO_READ_SNAPSHOT, false, BYTES_EMPTY);
    return id;
}

static void ack(uint64_t id)
{
    struct buf *b = ipc_link_begin(one.gateway, PROTO_READ_ACK, id);

    proto_u64_encode(b, &(struct proto_u64){side_answer(&one, id)->message.len});
    ipc_link_end(one.gateway);
}

/* Nothing more comes until it is acknowledged. */
static void until_window_is_full(uint64_t id)
{
    until(side_answer(&one, id) != NULL &&
          side_answer(&one, id)->message.len + STORED_PART_BYTES > PROTO_RESULT_WINDOW_BYTES);
}

static int64_t revision_in(uint64_t id)
{
    CLEANUP(freep) char *error = NULL;
    struct snapshot_file f;
    struct snapshot_status status;

    cr_assert_eq(side_answer(&one, id)->outcome, OUT_OK);
    cr_assert_eq(snapshot_file_of(buf_bytes(&side_answer(&one, id)->message), &f, &error), 0, "%s",
                 error);
    cr_assert_eq(snapshot_file_verify_hash(&f, &error), 0, "%s", error);
    cr_assert_eq(snapshot_file_status(&f, &status, &error), 0, "%s", error);
    cr_assert_eq(status.revision_count, (uint64_t)status.revision - 1, "one version a revision");
    return status.revision;
}

Test(stored_snapshot, an_export_is_of_when_it_was_asked_and_waits_for_acks)
{
    uint64_t id, other;

    side_put_many(&one, 4000, 1000); /* 4 MB: four windows */
    id = ask_snapshot();
    until_window_is_full(id);
    side_settle();
    cr_assert_leq(side_answer(&one, id)->message.len, PROTO_RESULT_WINDOW_BYTES);
    side_put_many(&one, 100, 1000);
    other = ask_snapshot();
    while (!side_answered(&one, id) || !side_answered(&one, other)) {
        if (!side_answered(&one, id))
            ack(id);
        if (side_answer(&one, other) != NULL && !side_answered(&one, other))
            ack(other);
        loop_run_once(loop, 1000);
    }
    cr_assert_eq(revision_in(id), 4001);
    cr_assert_eq(revision_in(other), 4101);
    cr_assert_eq(one.s.export_count, 0);
}

Test(stored_snapshot, an_export_ends_with_whoever_asked_for_it)
{
    uint64_t first, second;

    side_put_many(&one, 2000, 1000);
    first = ask_snapshot();
    second = ask_snapshot();
    ipc_link_send(one.gateway, PROTO_CANCEL, first, BYTES_EMPTY);
    until(one.s.export_count == 1);
    until_window_is_full(second);
    ipc_link_stop(TAKE(one.gateway), 0);
    one.gateway_up = false;
    until(one.s.export_count == 0);
}

Test(stored_snapshot, a_stop_in_the_middle_of_an_export)
{
    uint64_t id;

    side_put_many(&one, 2000, 1000);
    id = ask_snapshot();
    until(side_answer(&one, id) != NULL);
    ask_snapshot(); /* this one is being measured */
    until(one.s.export_count == 2);
    side_stored_down(&one);
}

Test(stored_snapshot, too_many_exports_are_refused)
{
    uint64_t last = 0;

    side_put_many(&one, 2000, 1000); /* more than a window, so none ends by itself */
    for (int i = 0; i < 17; i++)
        last = ask_snapshot();
    side_expect_outcome(&one, last, OUT_TOO_MANY_REQUESTS);
}
