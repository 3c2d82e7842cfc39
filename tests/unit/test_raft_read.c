#include <criterion/criterion.h>
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "tests/unit/raft_net.h"

TestSuite(raft_read, .timeout = 60);

static void expect(struct net *n, raft_id id, size_t count, uint64_t read, int outcome,
                   raft_index index)
{
    struct node *nd = &n->nodes[id];

    cr_assert_eq(nd->read_count, count);
    if (count == 0)
        return;
    cr_assert_eq(nd->reads[count - 1].id, read);
    cr_assert_eq(nd->reads[count - 1].outcome, outcome, "%s",
                 outcome_name(nd->reads[count - 1].outcome));
    cr_assert_eq(nd->reads[count - 1].index, index);
}

Test(raft_read, leader_and_followers)
{
    struct net *n = net_new(3);

    raft_read_index(net_raft(n, 1), 5);
    net_run(n);
    expect(n, 1, 1, 5, OUT_NO_LEADER, 0);
    net_elect(n, 1);
    net_propose(n, 1, "x");
    for (raft_id id = 1; id <= 3; id++) {
        n->nodes[id].read_count = 0;
        raft_read_index(net_raft(n, id), 100 + id);
        net_run(n);
        expect(n, id, 1, 100 + id, OUT_OK, 2);
    }
    net_free(n);
}

Test(raft_read, sole_voter_answers_at_once)
{
    struct net *n = net_new_conf(2, 1, NULL);

    net_elect(n, 1);
    net_isolate(n, 1, true);
    raft_read_index(net_raft(n, 1), 7);
    net_run(n);
    expect(n, 1, 1, 7, OUT_OK, 1);
    net_free(n);
}

Test(raft_read, many_share_one_round)
{
    struct net *n = net_new(3);
    size_t before;

    net_elect(n, 1);
    before = n->nodes[1].sent[RAFT_MSG_HEARTBEAT];
    for (uint64_t id = 1; id <= 20; id++)
        raft_read_index(net_raft(n, 1), id);
    for (uint64_t id = 1; id <= 20; id++)
        raft_read_index(net_raft(n, 2), id);
    net_run(n);
    cr_assert_leq(n->nodes[1].sent[RAFT_MSG_HEARTBEAT] - before, 4);
    cr_assert_eq(n->nodes[2].sent[RAFT_MSG_READ_INDEX], 1);
    cr_assert_eq(n->nodes[1].read_count, 20);
    cr_assert_eq(n->nodes[2].read_count, 20);
    net_free(n);
}

/* The point of it: a leader that was replaced without noticing must not answer. */
Test(raft_read, partitioned_old_leader)
{
    struct net *n = net_new(3);

    net_elect(n, 1);
    net_isolate(n, 1, true);
    net_tick_one(n, 2, 12);
    net_tick_one(n, 3, 25);
    if (net_leader(n) == 1)
        net_tick_one(n, 2, 25);
    cr_assert_neq(net_leader(n), 1);
    net_propose(n, net_leader(n), "new");
    cr_assert_eq(raft_get_state(net_raft(n, 1)), RAFT_LEADER, "it still believes");
    raft_read_index(net_raft(n, 1), 9);
    net_run(n);
    expect(n, 1, 0, 0, 0, 0);
    /* answers from before the question do not count either */
    net_tick_one(n, 1, 25);
    expect(n, 1, 1, 9, OUT_LEADER_CHANGED, 0);
    net_free(n);
}

Test(raft_read, old_answers_do_not_count)
{
    struct net *n = net_new(3);
    struct raft_msg m = {.type = RAFT_MSG_HEARTBEAT_RESP, .from = 2, .to = 1};

    net_elect(n, 1);
    raft_read_index(net_raft(n, 1), 1);
    net_run(n);
    expect(n, 1, 1, 1, OUT_OK, 1);
    net_isolate(n, 1, true);
    raft_read_index(net_raft(n, 1), 2);
    net_run(n);
    m.term = raft_get_term(net_raft(n, 1));
    for (m.context = 0; m.context <= 1; m.context++) {
        cr_assert_eq(net_inject(n, m), 0);
        net_run(n);
        expect(n, 1, 1, 1, OUT_OK, 1);
    }
    m.context = 3;
    cr_assert_eq(net_inject(n, m), OUT_MALFORMED, "a round that never was");
    m.context = 2;
    cr_assert_eq(net_inject(n, m), 0);
    net_run(n);
    expect(n, 1, 2, 2, OUT_OK, 1);
    net_free(n);
}

Test(raft_read, new_leader_waits_for_its_own_entry)
{
    struct net *n = net_new(3);

    n->nodes[2].hold_disk = n->nodes[3].hold_disk = true;
    raft_campaign(net_raft(n, 1));
    net_run(n);
    net_write_held(n, 2, 99);
    net_run(n);
    cr_assert_eq(raft_get_state(net_raft(n, 1)), RAFT_LEADER);
    raft_read_index(net_raft(n, 1), 1);
    net_run(n);
    expect(n, 1, 0, 0, 0, 0);
    net_write_held(n, 2, 99);
    net_run(n);
    expect(n, 1, 1, 1, OUT_OK, 1);
    net_free(n);
}

static enum raft_msg_type lose;
static bool lose_one(const struct raft_msg *m)
{
    if (m->type != lose)
        return false;
    lose = 0;
    return true;
}

Test(raft_read, lost_messages_are_asked_again)
{
    static const enum raft_msg_type rows[] = {RAFT_MSG_READ_INDEX, RAFT_MSG_READ_INDEX_RESP,
                                              RAFT_MSG_HEARTBEAT, RAFT_MSG_HEARTBEAT_RESP};

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct net *n = net_new(2);

        net_elect(n, 1);
        n->drop = lose_one;
        lose = rows[i];
        raft_read_index(net_raft(n, 2), 4);
        net_run(n);
        expect(n, 2, 0, 0, 0, 0);
        net_tick(n, 2);
        expect(n, 2, 1, 4, OUT_OK, 1);
        net_free(n);
    }
}

Test(raft_read, a_follower_that_loses_its_leader_answers)
{
    struct net *n = net_new(3);

    net_elect(n, 1);
    net_isolate(n, 2, true);
    raft_read_index(net_raft(n, 2), 3);
    net_run(n);
    expect(n, 2, 0, 0, 0, 0);
    net_tick_one(n, 2, 25);
    expect(n, 2, 1, 3, OUT_LEADER_CHANGED, 0);
    net_free(n);
}

/* An answer meant for this member's former life is not taken for one of this life. */
Test(raft_read, ids_do_not_survive_a_restart)
{
    struct net *n = net_new(3);
    struct raft_msg m = {.type = RAFT_MSG_READ_INDEX_RESP, .from = 1, .to = 2, .log_index = 1};

    net_elect(n, 1);
    net_crash(n, 2);
    net_restart(n, 2);
    net_tick(n, 2);
    net_isolate(n, 2, true);
    raft_read_index(net_raft(n, 2), 1);
    net_run(n);
    m.term = raft_get_term(net_raft(n, 1));
    for (m.context = 0; m.context < 100; m.context++)
        cr_assert_eq(net_inject(n, m), 0);
    net_run(n);
    expect(n, 2, 0, 0, 0, 0);
    net_free(n);
}
