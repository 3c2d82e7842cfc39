#include <criterion/criterion.h>
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "tests/unit/raft_net.h"

TestSuite(raft_election, .timeout = 60);

Test(raft_election, majorities)
{
    static const struct {
        size_t voters, down;
        bool wins;
    } rows[] = {
        {1, 0, true},  {2, 0, true}, {2, 1, false}, {3, 0, true}, {3, 1, true},
        {3, 2, false}, {5, 2, true}, {5, 3, false}, {7, 3, true}, {7, 4, false},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct net *n = net_new(rows[i].voters);

        for (size_t d = 0; d < rows[i].down; d++)
            net_crash(n, rows[i].voters - d);
        raft_campaign(net_raft(n, 1));
        net_run(n);
        cr_assert_eq(raft_get_state(net_raft(n, 1)) == RAFT_LEADER, rows[i].wins, "row %zu", i);
        if (rows[i].wins)
            cr_assert_eq(net_commit(n, 1), 1, "the empty entry, row %zu", i);
        else
            cr_assert_eq(raft_get_term(net_raft(n, 1)), 1, "a pre-vote raises no term");
        net_free(n);
    }
}

Test(raft_election, the_clock_elects_exactly_one)
{
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct raft_config config = {.seed = seed * 7919};
        struct net *n = net_new_conf(5, 5, &config);
        size_t leaders = 0;

        net_tick(n, 60);
        for (raft_id id = 1; id <= 5; id++)
            leaders += raft_get_state(net_raft(n, id)) == RAFT_LEADER;
        cr_assert_eq(leaders, 1, "seed %lu", (unsigned long)seed);
        for (raft_id id = 1; id <= 5; id++)
            cr_assert_eq(raft_leader(net_raft(n, id)), net_leader(n));
        net_free(n);
    }
}

/* The more complete log wins, whoever asks first. */
Test(raft_election, up_to_date)
{
    static const struct {
        raft_term my_term, its_term;
        raft_index my_index, its_index;
        bool granted;
    } rows[] = {
        {1, 1, 1, 1, true}, {1, 1, 2, 1, false}, {1, 1, 1, 2, true},  {2, 1, 1, 9, false},
        {1, 2, 9, 1, true}, {2, 2, 3, 3, true},  {3, 2, 1, 1, false},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        for (int pre = 0; pre < 2; pre++) {
            struct net *n = net_new(3);
            struct raft_ready rd = {0};
            struct raft_msg m = {.type = RAFT_MSG_APPEND, .from = 3, .to = 1, .term = 3};
            struct raft_entry *e[16];
            bool granted;

            for (raft_index k = 1; k <= rows[i].my_index; k++)
                e[k - 1] = raft_entry_new(k, rows[i].my_term, RAFT_ENTRY_NORMAL, BYTES_EMPTY);
            m.entries = e;
            m.entry_count = rows[i].my_index;
            cr_assert_eq(net_inject(n, m), 0);
            for (size_t k = 0; k < m.entry_count; k++)
                raft_entry_unref(e[k]);
            net_run(n);
            raft_report_unreachable(net_raft(n, 1), 3); /* no effect on a follower */
            for (int t = 0; t < 10; t++)
                raft_tick(net_raft(n, 1)); /* the leader went silent */
            m = (struct raft_msg){.type = pre ? RAFT_MSG_PRE_VOTE : RAFT_MSG_VOTE,
                                  .from = 2,
                                  .to = 1,
                                  .term = 4,
                                  .log_index = rows[i].its_index,
                                  .log_term = rows[i].its_term};
            cr_assert_eq(net_inject(n, m), 0);
            raft_take_ready(net_raft(n, 1), &rd);
            if (pre || !rows[i].granted) {
                cr_assert_eq(rd.message_now_count, 1, "row %zu", i);
                granted = !rd.messages_now[0].reject;
            } else {
                cr_assert_eq(rd.message_now_count, 0);
                cr_assert_eq(rd.message_after_count, 1);
                granted = !rd.messages_after[0].reject;
                cr_assert(rd.must_sync, "a vote is durable before it is told");
                cr_assert_eq(rd.hard_state.vote, 2);
            }
            cr_assert_eq(granted, rows[i].granted, "row %zu", i);
            cr_assert_eq(raft_get_term(net_raft(n, 1)), pre ? 3 : 4);
            raft_ready_fini(&rd);
            net_free(n);
        }
    }
}

Test(raft_election, one_vote_per_term_also_after_a_restart)
{
    struct net *n = net_new(3);
    struct raft_msg m = {.type = RAFT_MSG_VOTE, .to = 1, .term = 5};
    struct raft_ready rd = {0};

    net_crash(n, 2);
    net_crash(n, 3);
    m.from = 2;
    cr_assert_eq(net_inject(n, m), 0);
    net_run(n);
    cr_assert_eq(n->nodes[1].hs.vote, 2);
    net_crash(n, 1);
    net_restart(n, 1);
    m.from = 3;
    cr_assert_eq(net_inject(n, m), 0);
    raft_take_ready(net_raft(n, 1), &rd);
    cr_assert_eq(rd.message_now_count, 1);
    cr_assert(rd.messages_now[0].reject);
    raft_ready_fini(&rd);
    m.from = 2; /* the same one may ask again */
    cr_assert_eq(net_inject(n, m), 0);
    raft_take_ready(net_raft(n, 1), &rd);
    cr_assert_eq(rd.message_after_count, 1);
    cr_assert_not(rd.messages_after[0].reject);
    raft_ready_fini(&rd);
    net_free(n);
}

/* Neither a candidate nor a voter says anything binding before its disk has it. */
Test(raft_election, votes_wait_for_the_disk)
{
    struct net *n = net_new(3);

    n->nodes[1].hold_disk = true;
    raft_campaign(net_raft(n, 1));
    net_run(n);
    cr_assert_eq(raft_get_state(net_raft(n, 1)), RAFT_CANDIDATE);
    cr_assert_eq(n->nodes[1].sent[RAFT_MSG_PRE_VOTE], 2);
    cr_assert_eq(n->nodes[1].sent[RAFT_MSG_VOTE], 0);
    n->nodes[2].hold_disk = n->nodes[3].hold_disk = true;
    net_write_held(n, 1, 99);
    net_run(n);
    cr_assert_eq(n->nodes[1].sent[RAFT_MSG_VOTE], 2);
    cr_assert_eq(n->nodes[2].sent[RAFT_MSG_VOTE_RESP], 0);
    cr_assert_eq(raft_get_state(net_raft(n, 1)), RAFT_CANDIDATE);
    net_write_held(n, 2, 99);
    net_write_held(n, 1, 99);
    net_run(n);
    cr_assert_eq(raft_get_state(net_raft(n, 1)), RAFT_LEADER);
    net_free(n);
}

Test(raft_election, sole_voter_needs_its_disk)
{
    struct net *n = net_new(1);

    n->nodes[1].hold_disk = true;
    raft_campaign(net_raft(n, 1));
    net_run(n);
    cr_assert_eq(raft_get_state(net_raft(n, 1)), RAFT_CANDIDATE);
    net_write_held(n, 1, 99);
    net_run(n);
    cr_assert_eq(raft_get_state(net_raft(n, 1)), RAFT_LEADER);
    cr_assert_eq(net_commit(n, 1), 0, "the empty entry is not durable");
    net_write_held(n, 1, 99);
    net_run(n);
    cr_assert_eq(net_commit(n, 1), 1);
    net_free(n);
}

Test(raft_election, pre_vote_keeps_the_term_of_the_cut_off)
{
    struct net *n = net_new(3);
    raft_term term;

    net_elect(n, 1);
    term = raft_get_term(net_raft(n, 1));
    net_isolate(n, 3, true);
    net_tick(n, 200);
    cr_assert_eq(raft_get_term(net_raft(n, 3)), term);
    net_heal(n);
    net_tick(n, 5);
    cr_assert_eq(net_leader(n), 1);
    cr_assert_eq(raft_get_term(net_raft(n, 1)), term, "nobody was disturbed");
    cr_assert_eq(raft_leader(net_raft(n, 3)), 1);
    net_free(n);
}

Test(raft_election, without_pre_vote_stickiness_still_protects_the_leader)
{
    struct raft_config config = {.no_pre_vote = true};
    struct net *n = net_new_conf(3, 3, &config);
    struct raft_msg m = {
        .type = RAFT_MSG_VOTE, .from = 3, .to = 2, .term = 50, .log_index = 9, .log_term = 9};

    net_elect(n, 1);
    cr_assert_eq(net_inject(n, m), 0);
    net_run(n);
    cr_assert_lt(raft_get_term(net_raft(n, 2)), 50, "it hears a leader");
    for (int i = 0; i < 10; i++)
        raft_tick(net_raft(n, 2)); /* now it does not */
    cr_assert_eq(net_inject(n, m), 0);
    cr_assert_eq(raft_get_term(net_raft(n, 2)), 50);
    net_free(n);
}

Test(raft_election, check_quorum_deposes_a_lonely_leader)
{
    struct net *n = net_new(3);

    net_elect(n, 1);
    net_isolate(n, 1, true);
    net_tick_one(n, 1, 9);
    cr_assert_eq(raft_get_state(net_raft(n, 1)), RAFT_LEADER);
    net_tick_one(n, 1, 11);
    cr_assert_neq(raft_get_state(net_raft(n, 1)), RAFT_LEADER);
    cr_assert_eq(raft_leader(net_raft(n, 1)), 0);
    net_free(n);
}

/* It hears them but they do not hear it: no followers, no leader. */
Test(raft_election, one_way_cut)
{
    struct net *n = net_new(3);

    net_elect(n, 1);
    n->cut[1][2] = n->cut[1][3] = true;
    net_tick(n, 60);
    cr_assert(net_leader(n) == 2 || net_leader(n) == 3);
    cr_assert_neq(raft_get_state(net_raft(n, 1)), RAFT_LEADER);
    net_heal(n);
    net_tick(n, 60);
    cr_assert_neq(net_leader(n), 0);
    cr_assert_eq(raft_leader(net_raft(n, 1)), net_leader(n));
    net_free(n);
}

Test(raft_election, transfer)
{
    static const struct {
        raft_id to;
        int outcome;
    } rows[] = {
        {2, 0},
        {3, 0},
        {1, 0},
        {4, OUT_BAD_LEADER_TRANSFEREE},
        {9, OUT_BAD_LEADER_TRANSFEREE},
        {0, OUT_BAD_LEADER_TRANSFEREE},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct net *n = net_new_conf(4, 3, NULL); /* 4 learns */

        net_elect(n, 1);
        cr_assert_eq(raft_transfer_leader(net_raft(n, 2), 3), OUT_NOT_LEADER);
        cr_assert_eq(raft_transfer_leader(net_raft(n, 1), rows[i].to), rows[i].outcome);
        net_run(n);
        cr_assert_eq(net_leader(n), rows[i].outcome == 0 ? rows[i].to : 1, "row %zu", i);
        net_free(n);
    }
}

Test(raft_election, transfer_waits_for_the_log_and_gives_up)
{
    struct net *n = net_new(3);
    struct raft_proposed p;

    net_elect(n, 1);
    net_isolate(n, 3, true);
    cr_assert_eq(net_propose(n, 1, "x"), 0);
    cr_assert_eq(raft_transfer_leader(net_raft(n, 1), 3), 0);
    net_run(n);
    cr_assert_eq(raft_transferee(net_raft(n, 1)), 3);
    cr_assert_eq(raft_propose(net_raft(n, 1), RAFT_ENTRY_NORMAL, BYTES_LIT("y"), &p),
                 OUT_LEADER_CHANGED, "no proposals while it is handed over");
    net_tick(n, 10);
    cr_assert_eq(raft_transferee(net_raft(n, 1)), 0);
    cr_assert_eq(net_propose(n, 1, "z"), 0);
    cr_assert_eq(raft_transfer_leader(net_raft(n, 1), 3), 0);
    net_heal(n);
    net_tick(n, 3);
    cr_assert_eq(net_leader(n), 3);
    net_check_logs(n);
    net_free(n);
}

Test(raft_election, step_down_hands_over)
{
    struct net *n = net_new(3);

    net_elect(n, 1);
    raft_step_down(net_raft(n, 2)); /* no effect */
    raft_step_down(net_raft(n, 1));
    cr_assert_eq(raft_get_state(net_raft(n, 1)), RAFT_FOLLOWER);
    net_run(n);
    cr_assert_neq(net_leader(n), 1);
    cr_assert_neq(net_leader(n), 0);
    net_free(n);
}

Test(raft_election, timeout_now_only_from_the_leader)
{
    struct net *n = net_new(3);
    struct raft_msg m = {.type = RAFT_MSG_TIMEOUT_NOW, .from = 3, .to = 2};
    raft_term term;

    net_elect(n, 1);
    term = m.term = raft_get_term(net_raft(n, 1));
    cr_assert_eq(net_inject(n, m), 0);
    net_run(n);
    cr_assert_eq(raft_get_term(net_raft(n, 2)), term);
    cr_assert_eq(net_leader(n), 1);
    net_free(n);
}

Test(raft_election, learners_neither_campaign_nor_count)
{
    struct net *n = net_new_conf(4, 3, NULL);

    net_elect(n, 1);
    raft_campaign(net_raft(n, 4));
    net_run(n);
    cr_assert_eq(net_leader(n), 1);
    net_isolate(n, 2, true);
    net_isolate(n, 3, true);
    net_isolate(n, 1, false);
    n->cut[1][2] = n->cut[2][1] = n->cut[1][3] = n->cut[3][1] = true;
    cr_assert_eq(net_propose(n, 1, "x"), 0);
    cr_assert_eq(net_commit(n, 1), 1, "a learner's copy does not count");
    net_tick(n, 20);
    cr_assert_neq(raft_get_state(net_raft(n, 1)), RAFT_LEADER);
    net_tick(n, 20);
    cr_assert_eq(raft_leader(net_raft(n, 4)), 0, "it does not believe in a silent leader");
    net_free(n);
}

/* 1 has what 2 and 3 lack. Their campaigns, however frequent, do not keep it from campaigning. */
Test(raft_election, a_newer_term_alone_does_not_restart_the_wait)
{
    struct raft_config config = {.no_pre_vote = true};
    struct net *n = net_new_conf(3, 3, &config);
    struct raft_entry *e[1] = {raft_entry_new(1, 2, RAFT_ENTRY_NORMAL, BYTES_EMPTY)};
    struct raft_msg m = {
        .type = RAFT_MSG_APPEND, .from = 3, .to = 1, .term = 2, .entries = e, .entry_count = 1};
    int ticks = 0;

    cr_assert_eq(net_inject(n, m), 0);
    raft_entry_unref(e[0]);
    net_run(n);
    m = (struct raft_msg){.type = RAFT_MSG_VOTE, .from = 2, .to = 1, .term = 3};
    for (; raft_get_state(net_raft(n, 1)) == RAFT_FOLLOWER; ticks++) {
        cr_assert_lt(ticks, 25, "it never campaigns");
        raft_tick(net_raft(n, 1));
        m.term = MAX(m.term, raft_get_term(net_raft(n, 1))) + 1;
        if (raft_get_state(net_raft(n, 1)) == RAFT_FOLLOWER)
            cr_assert_eq(net_inject(n, m), 0);
    }
    net_free(n);
}
