/* stored: executing, reads, its life. */
#include "tests/unit/stored_side.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

TestSuite(stored, .init = side_setup, .fini = side_teardown, .timeout = 60);

/* ---- applying ---- */

Test(stored, a_put_is_answered_to_the_gatewayd_that_waits)
{
    uint64_t id = side_put(&one, "k", "v");

    side_expect_outcome(&one, id, OUT_OK);
    cr_assert_gt(side_answer(&one, id)->message.len, 0);
    side_apply_all(&one);
    side_expect_value(&one, side_get(&one, "k", false), "v");
    side_expect_value(&one, side_get(&one, "absent", false), NULL);
}

Test(stored, answers_go_nowhere_else)
{
    static const struct {
        uint64_t member, generation;
    } rows[] = {
        {MEMBER + 1, GENERATION}, /* another member's client */
        {MEMBER, GENERATION + 1}, /* a gatewayd that is gone */
        {MEMBER, 0},              /* nobody waits */
    };
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    side_put_request(&b, "k", BYTES_LIT("v"));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        side_commit(&one, PROTO_KIND_PUT, rows[i].member, rows[i].generation, buf_bytes(&b));
    side_apply_all(&one);
    side_settle();
    cr_assert_eq(one.answer_count, 0);
    side_expect_value(&one, side_get(&one, "k", false), "v");
}

Test(stored, a_refused_request_says_why)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    side_put_request(&b, "", BYTES_LIT("v"));
    side_expect_outcome(&one, side_commit(&one, PROTO_KIND_PUT, MEMBER, GENERATION, buf_bytes(&b)),
                   OUT_EMPTY_KEY);
    side_expect_outcome(&one,
                   side_commit(&one, PROTO_KIND_PUT, MEMBER, GENERATION, BYTES_LIT("\x0a\xff\xff\xff")),
                   OUT_MALFORMED);
    side_apply_all(&one); /* both count as executed, on every member */
    cr_assert_eq(one.applied.applied_index, 2);
}

Test(stored, entries_it_has_are_ignored_and_a_gap_is_refused)
{
    side_apply_all(&one);
    side_put(&one, "a", "1");
    side_put(&one, "b", "1");
    side_apply_all(&one);
    one.next_index = 1; /* again */
    side_put(&one, "a", "2");
    one.next_index = 5; /* 3 and 4 are missing */
    side_put(&one, "b", "2");
    side_settle();
    cr_assert_eq(one.applied.applied_index, 2);
    side_expect_value(&one, side_get(&one, "a", false), "1");
    side_expect_value(&one, side_get(&one, "b", false), "1");
    cr_assert_null(one.fatal);
    /* the next link starts over, from what is applied */
    side_raftd_stop(&one);
    side_raftd_start(&one);
    until(one.raftd_up);
    cr_assert_eq(one.hello.applied_index, 2);
    side_put(&one, "b", "3");
    side_apply_all(&one);
    side_expect_value(&one, side_get(&one, "b", false), "3");
}

Test(stored, garbage_from_the_links_is_dropped)
{
    ipc_link_send(one.raftd, PROTO_COMMITTED, 0, BYTES_LIT("\x01\x02\x03"));
    ipc_link_send(one.raftd, PROTO_ROLE, 0, BYTES_LIT("\x01"));
    ipc_link_send(one.raftd, PROTO_BARRIER_INDEX, 0, BYTES_LIT("\x01"));
    ipc_link_send(one.raftd, PROTO_BARRIER_INDEX, 99, BYTES_LIT("\0\0\0\0\0\0\0\0\0\0"));
    ipc_link_send(one.raftd, PROTO_SNAP_RECEIVE, 0, BYTES_LIT("\x01"));
    ipc_link_send(one.raftd, PROTO_SNAP_CHUNK, 0, BYTES_LIT("\x01"));
    ipc_link_send(one.raftd, PROTO_SNAP_ACTIVATE, 5, BYTES_EMPTY);
    ipc_link_send(one.raftd, 999, 0, BYTES_LIT("\x01"));
    ipc_link_send(one.gateway, PROTO_READ, 1, BYTES_LIT("\x01"));
    ipc_link_send(one.gateway, PROTO_CANCEL, 12345, BYTES_EMPTY);
    ipc_link_send(one.gateway, PROTO_READ_ACK, 1, BYTES_LIT("x"));
    ipc_link_send(one.gateway, 999, 1, BYTES_LIT("x"));
    side_settle();
    side_expect_outcome(&one, 1, OUT_MALFORMED);
    cr_assert_eq(one.done, OUT_INTERNAL);
    cr_assert_null(one.fatal);
    side_expect_value(&one, side_get(&one, "k", false), NULL);
}

/* ---- reads ---- */

Test(stored, linearizable_reads_of_a_turn_share_a_barrier_and_wait_for_it)
{
    uint64_t a, b, c;

    side_put(&one, "k", "old");
    side_apply_all(&one);
    a = side_get(&one, "k", true);
    b = side_get(&one, "k", true);
    c = side_get(&one, "k", true);
    until(one.barrier_count == 1);
    side_settle();
    cr_assert_eq(one.barrier_count, 1);
    cr_assert_eq(one.answer_count, 1); /* the put's */
    side_answer_barrier(&one, one.barrier_id, OUT_OK, 2);
    side_settle();
    cr_assert_eq(one.answer_count, 1); /* 2 is not applied yet */
    side_put(&one, "k", "new");
    side_expect_value(&one, a, "new");
    side_expect_value(&one, b, "new");
    side_expect_value(&one, c, "new");
}

Test(stored, a_read_after_the_barrier_was_asked_needs_another)
{
    uint64_t a = side_get(&one, "k", true), b, first;

    until(one.barrier_count == 1);
    first = one.barrier_id;
    b = side_get(&one, "k", true);
    until(one.barrier_count == 2);
    side_answer_barrier(&one, first, OUT_OK, 0);
    side_expect_value(&one, a, NULL);
    side_settle();
    cr_assert_null(side_answer(&one, b));
    side_answer_barrier(&one, one.barrier_id, OUT_OK, 0);
    side_expect_value(&one, b, NULL);
}

Test(stored, a_barrier_that_fails_fails_its_reads)
{
    static const int outcomes[] = {OUT_LEADER_CHANGED, OUT_TIMEOUT};

    for (size_t i = 0; i < ARRAY_LEN(outcomes); i++) {
        uint64_t id = side_get(&one, "k", true);

        until(one.barrier_count == i + 1);
        side_answer_barrier(&one, one.barrier_id, outcomes[i], 0);
        side_expect_outcome(&one, id, outcomes[i]);
    }
}

Test(stored, without_a_leader_reads_wait_for_one)
{
    uint64_t id = side_get(&one, "k", true);

    until(one.barrier_count == 1);
    side_answer_barrier(&one, one.barrier_id, OUT_NO_LEADER, 0);
    until(one.barrier_count == 2);
    cr_assert_null(side_answer(&one, id));
    side_answer_barrier(&one, one.barrier_id, OUT_OK, 0);
    side_expect_value(&one, id, NULL);
}

Test(stored, local_reads_need_the_grant_and_the_commit_index_it_came_with)
{
    uint64_t id;

    side_put(&one, "k", "v");
    side_apply_all(&one);
    side_send_role(&one, 2, true); /* 2 was acknowledged to someone; not applied here yet */
    until(one.role_ack_count == 1);
    id = side_get(&one, "k", true);
    until(one.barrier_count == 1);
    side_answer_barrier(&one, one.barrier_id, OUT_OK, 2);
    side_put(&one, "k", "w");
    side_expect_value(&one, id, "w");
    side_expect_value(&one, side_get(&one, "k", true), "w"); /* now without */
    cr_assert_eq(one.barrier_count, 1);
    side_send_role(&one, 2, false); /* taken back */
    until(one.role_ack_count == 2);
    id = side_get(&one, "k", true);
    until(one.barrier_count == 2);
    side_answer_barrier(&one, one.barrier_id, OUT_OK, 2);
    side_expect_value(&one, id, "w");
}

Test(stored, a_lost_raftd_ends_the_grant_and_barriers_are_asked_again)
{
    uint64_t a, b;
    uint64_t asked;

    side_send_role(&one, 0, true);
    until(one.role_ack_count == 1);
    side_raftd_stop(&one);
    until(!one.s.raftd_up);
    a = side_get(&one, "k", true);
    side_settle();
    cr_assert_null(side_answer(&one, a));
    side_expect_value(&one, side_get(&one, "k", false), NULL); /* serializable ones go on */
    side_raftd_start(&one);
    until(one.barrier_count == 1);
    asked = one.barrier_id;
    side_raftd_stop(&one);
    until(!one.s.raftd_up);
    b = side_get(&one, "k", true);
    side_raftd_start(&one);
    until(one.barrier_count == 2);
    cr_assert_neq(one.barrier_id, asked);
    side_answer_barrier(&one, asked, OUT_OK, 0); /* an answer to a lost question is none */
    side_settle();
    cr_assert_null(side_answer(&one, a));
    side_answer_barrier(&one, one.barrier_id, OUT_OK, 0);
    side_expect_value(&one, a, NULL);
    side_expect_value(&one, b, NULL);
}

Test(stored, a_cancelled_read_is_not_answered)
{
    uint64_t a = side_get(&one, "k", true), b = side_get(&one, "k", true);

    until(one.barrier_count == 1);
    ipc_link_send(one.gateway, PROTO_CANCEL, a, BYTES_EMPTY);
    side_settle();
    side_answer_barrier(&one, one.barrier_id, OUT_OK, 0);
    side_expect_value(&one, b, NULL);
    cr_assert_null(side_answer(&one, a));
}

Test(stored, a_gatewayd_that_leaves_takes_its_reads_along)
{
    side_get(&one, "k", true);
    until(one.barrier_count == 1);
    ipc_link_stop(TAKE(one.gateway), 0);
    one.gateway_up = false;
    until(one.s.gateways[0].generation == 0);
    cr_assert_eq(one.s.gateways[0].reads.count, 0);
    side_answer_barrier(&one, one.barrier_id, OUT_OK, 0);
    side_settle();
    one.gateway = side_link_start(&one, "stored.gw0", false, &side_gateway_ops);
    until(one.gateway_up);
    side_expect_value(&one, side_get(&one, "k", false), NULL);
    cr_assert_eq(one.answer_count, 1);
}

Test(stored, a_large_answer_comes_in_parts_and_waits_for_acks)
{
    uint64_t id, small, count;
    struct answer *a;

    side_put_many(&one, 3000, 1000); /* 3 MB: three windows */
    id = side_get_all(&one);
    until(side_answer(&one, id) != NULL &&
          side_answer(&one, id)->message.len + STORED_PART_BYTES > PROTO_RESULT_WINDOW_BYTES);
    side_settle();
    a = side_answer(&one, id);
    cr_assert_leq(a->message.len, PROTO_RESULT_WINDOW_BYTES);
    cr_assert_gt(a->total_bytes, 3000 * 1000);
    cr_assert_gt(a->parts, 10);
    /* neither applies nor other reads wait for it */
    side_put(&one, "many/00000000", "changed");
    side_apply_all(&one);
    small = side_get(&one, "many/00000000", false);
    side_expect_value(&one, small, "changed");
    while (!side_answered(&one, id)) {
        struct buf *b = ipc_link_begin(one.gateway, PROTO_READ_ACK, id);

        proto_u64_encode(b, &(struct proto_u64){side_answer(&one, id)->message.len});
        ipc_link_end(one.gateway);
        loop_run_once(loop, 1000);
    }
    cr_assert_eq(side_first_value(&one, id, &count).len, 1000); /* as of when it was asked */
    cr_assert_eq(count, 3000);
}

Test(stored, status_says_what_there_is)
{
    struct proto_store_status status;
    uint64_t id;

    side_put_many(&one, 10, 10);
    id = one.next_id++;
    side_read(&one, id, PROTO_READ_STATUS, false, BYTES_EMPTY);
    side_expect_outcome(&one, id, OUT_OK);
    cr_assert_eq(proto_store_status_decode(buf_bytes(&side_answer(&one, id)->message), &status), 0);
    cr_assert_eq(status.revision, 11);
    cr_assert_eq(status.applied_index, 10);
    cr_assert_eq(status.key_count, 10);
    cr_assert_eq(status.put_total, 10);
    cr_assert_eq(status.quota_bytes, 2147483648U);
    cr_assert_eq(status.chain_hash, one.applied.chain_hash);
}

/* ---- life ---- */

Test(stored, ready_means_caught_up_with_the_first_role)
{
    side_settle();
    cr_assert(!one.ready);
    side_send_role(&one, 2, false);
    side_put(&one, "a", "1");
    side_apply_all(&one);
    side_settle();
    cr_assert(!one.ready);
    side_put(&one, "a", "2");
    until(one.ready);
}

Test(stored, members_are_told_on_up_and_on_change)
{
    CLEANUP(buf_fini) struct buf change = BUF_INIT;
    CLEANUP(buf_fini) struct buf payload = BUF_INIT;
    CLEANUP(buf_fini) struct buf entry = BUF_INIT;
    struct wire_reader r;
    struct proto_member member;

    until(one.members_count == 1);
    cr_assert_eq(one.members.len, 0);
    proto_conf_change_encode(
        &change, &(struct proto_conf_change){
                     .op = PROTO_CONF_ADD_VOTER,
                     .member = {.id = MEMBER, .peer_urls = BYTES_LIT("http://localhost:2380")}});
    proto_payload_encode(&payload, &(struct proto_payload){.kind = PROTO_KIND_CONF_CHANGE,
                                                           .body = buf_bytes(&change)});
    proto_entry_encode(&entry, &(struct proto_entry){.index = one.next_index++,
                                                     .term = 1,
                                                     .type = PROTO_ENTRY_CONF,
                                                     .data = buf_bytes(&payload)});
    cr_assert(ipc_link_send(one.raftd, PROTO_COMMITTED, 0, buf_bytes(&entry)));
    until(one.members_count == 2);
    r = wire_reader(buf_bytes(&one.members));
    cr_assert_eq(proto_member_read(&r, &member), 0);
    cr_assert_eq(member.id, MEMBER);
    cr_assert_eq(r.pos, r.end);
}

Test(stored, a_stop_and_start_resumes_from_the_applied_index)
{
    uint64_t chain_hash;

    side_put_many(&one, 500, 100);
    chain_hash = one.applied.chain_hash;
    side_stored_down(&one);
    {
        CLEANUP(freep) char *path = xasprintf("%s/member/db/checkpoint", one.conf.data_dir);

        cr_assert_eq(access(path, F_OK), 0);
    }
    side_stored_up(&one);
    until(one.raftd_up && one.gateway_up && one.hello_count == 2);
    cr_assert_eq(one.hello.applied_index, 500);
    cr_assert_eq(one.hello.durable_index, 500);
    cr_assert_eq(one.hello.chain_hash, chain_hash);
    cr_assert_eq(one.hello.cluster_id, CLUSTER);
    cr_assert_eq(one.hello.member_id, MEMBER);
    side_put(&one, "k", "v");
    side_apply_all(&one);
    side_expect_value(
        &one, side_get(&one, "many/00000499", false),
        "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv"
        "vvvvvvvvvvvv");
    side_expect_value(&one, side_get(&one, "k", false), "v");
}

static void copy_file(const char *from, const char *to)
{
    CLEANUP(closep) int in = open(from, O_RDONLY | O_CLOEXEC);
    CLEANUP(closep) int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    static char block[1 << 16];
    ssize_t n;

    cr_assert(in >= 0 && out >= 0, "%s", from);
    while ((n = read(in, block, sizeof(block))) > 0)
        cr_assert_eq(write(out, block, (size_t)n), n);
    cr_assert_eq(n, 0);
}

/* What a kill at this moment would leave of `from`: its files as they are (nng, which Criterion
 * uses too, does not survive a fork, so no process is killed here). */
static void copy_as_if_killed(struct side *from, struct side *to)
{
    CLEANUP(freep) char *member = xasprintf("%s/member", to->conf.data_dir);
    CLEANUP(freep) char *db = xasprintf("%s/db", member);
    CLEANUP(freep) char *id_from = xasprintf("%s/db.id", from->s.dir.path);
    CLEANUP(freep) char *id_to = xasprintf("%s/db.id", member);
    DIR *dir = opendir(from->s.dir.db);
    const struct dirent *entry;

    mkdir(to->conf.data_dir, 0700);
    mkdir(member, 0700);
    mkdir(db, 0700);
    copy_file(id_from, id_to);
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        CLEANUP(freep) char *a = xasprintf("%s/%s", from->s.dir.db, entry->d_name);
        CLEANUP(freep) char *b = xasprintf("%s/%s", db, entry->d_name);

        copy_file(a, b);
    }
    closedir(dir);
}

Test(stored, a_kill_loses_nothing_that_was_written)
{
    struct engine_leveldb_stats stats;

    side_init(&two);
    side_put_many(&one, 300, 100);
    do {
        loop_run_once(loop, 10);
        engine_leveldb_get_stats(one.s.engine, &stats);
    } while (stats.queued_bytes > 0);
    copy_as_if_killed(&one, &two);
    side_up(&two);
    cr_assert_eq(two.hello.applied_index, 300);
    cr_assert_eq(two.hello.chain_hash, one.applied.chain_hash);
    side_put(&two, "k", "v");
    side_apply_all(&two);
    side_expect_value(&two, side_get(&two, "k", false), "v");
}

Test(stored, a_kill_before_the_write_is_made_up_by_raftd)
{
    uint64_t id, count;

    side_init(&two);
    side_put_many(&one, 300, 100);
    copy_as_if_killed(&one, &two);
    side_up(&two);
    cr_assert_leq(two.hello.applied_index, 300);
    for (uint64_t i = two.hello.applied_index; i < 300; i++) {
        CLEANUP(buf_fini) struct buf b = BUF_INIT;
        char key[32], value[100];

        memset(value, 'v', sizeof(value));
        snprintf(key, sizeof(key), "many/%08u", (unsigned int)i);
        side_put_request(&b, key, bytes_of(value, sizeof(value)));
        side_commit(&two, PROTO_KIND_PUT, MEMBER + 1, 1, buf_bytes(&b));
    }
    side_apply_all(&two);
    until(two.applied.applied_index == 300 || two.hello.applied_index == 300);
    id = side_get_all(&two);
    side_first_value(&two, id, &count);
    cr_assert_eq(count, 300);
    cr_assert_eq(two.s.cluster_id, CLUSTER);
}

Test(stored, a_raftd_of_another_member_is_refused)
{
    static const struct {
        uint64_t cluster, member;
    } rows[] = {{CLUSTER, MEMBER + 1}, {CLUSTER + 1, MEMBER}, {0, 0}};

    side_put(&one, "k", "v");
    side_apply_all(&one);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        side_raftd_stop(&one);
        until(!one.s.raftd_up);
        one.cluster_id = rows[i].cluster;
        one.member_id = rows[i].member;
        side_raftd_start(&one);
        for (int turn = 0; turn < 20; turn++)
            loop_run_once(loop, 10);
        cr_assert(!one.s.raftd_up);
    }
    side_raftd_stop(&one);
    one.cluster_id = CLUSTER;
    one.member_id = MEMBER;
    side_raftd_start(&one);
    until(one.s.raftd_up);
    cr_assert_null(one.fatal);
}

Test(stored, a_second_process_waits_for_the_lock)
{
    struct stored_dir other;

    cr_assert_eq(stored_dir_open(&other, one.conf.data_dir), 0);
    cr_assert_eq(stored_dir_lock(&other), -EWOULDBLOCK);
    side_stored_down(&one);
    cr_assert_eq(stored_dir_lock(&other), 0);
    stored_dir_close(&other);
}
