#include <criterion/criterion.h>
#include <errno.h>
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "tests/unit/raft_net.h"

TestSuite(raft_conf, .timeout = 60);

Test(raft_conf, changes)
{
    static const struct {
        enum raft_conf_op op;
        raft_id id;
        int expect;
        uint32_t voters, learners;
    } rows[] = {
        /* from voters 1 2 3, learner 4 */
        {RAFT_CONF_NONE, 9, 0, 3, 1},
        {RAFT_CONF_ADD_VOTER, 5, 0, 4, 1},
        {RAFT_CONF_ADD_VOTER, 2, OUT_MEMBER_EXIST, 3, 1},
        {RAFT_CONF_ADD_VOTER, 4, OUT_MEMBER_EXIST, 3, 1},
        {RAFT_CONF_ADD_VOTER, 0, OUT_MALFORMED, 3, 1},
        {RAFT_CONF_ADD_LEARNER, 5, 0, 3, 2},
        {RAFT_CONF_ADD_LEARNER, 1, OUT_MEMBER_EXIST, 3, 1},
        {RAFT_CONF_PROMOTE, 4, 0, 4, 0},
        {RAFT_CONF_PROMOTE, 1, OUT_MEMBER_NOT_LEARNER, 3, 1},
        {RAFT_CONF_PROMOTE, 7, OUT_MEMBER_NOT_FOUND, 3, 1},
        {RAFT_CONF_REMOVE, 2, 0, 2, 1},
        {RAFT_CONF_REMOVE, 4, 0, 3, 0},
        {RAFT_CONF_REMOVE, 8, OUT_MEMBER_NOT_FOUND, 3, 1},
        {(enum raft_conf_op)77, 1, OUT_MALFORMED, 3, 1},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct raft_conf c = {0};
        struct raft_conf_change change = {.op = rows[i].op, .id = rows[i].id};

        cr_assert_eq(raft_conf_add_voter(&c, 3), 0);
        cr_assert_eq(raft_conf_add_voter(&c, 1), 0);
        cr_assert_eq(raft_conf_add_voter(&c, 2), 0);
        cr_assert_eq(raft_conf_add_learner(&c, 4), 0);
        cr_assert_eq(raft_conf_add_learner(&c, 4), -EEXIST);
        cr_assert_eq(raft_conf_apply(&c, &change), rows[i].expect, "row %zu", i);
        cr_assert_eq(c.voter_count, rows[i].voters, "row %zu", i);
        cr_assert_eq(c.learner_count, rows[i].learners, "row %zu", i);
        for (uint32_t k = 1; k < c.voter_count; k++)
            cr_assert_lt(c.voters[k - 1], c.voters[k]);
    }
}

Test(raft_conf, limits)
{
    struct raft_conf c = {0};
    struct raft_conf_change change = {.op = RAFT_CONF_ADD_LEARNER, .id = 1000};

    for (raft_id id = 1; id <= RAFT_MEMBERS_MAX; id++)
        cr_assert_eq(raft_conf_add_voter(&c, id), 0);
    cr_assert_eq(raft_conf_add_voter(&c, 1000), -ENOSPC);
    cr_assert_eq(raft_conf_apply(&c, &change), OUT_TOO_MANY_LEARNERS);
    c = (struct raft_conf){0};
    raft_conf_add_voter(&c, 7);
    change = (struct raft_conf_change){.op = RAFT_CONF_REMOVE, .id = 7};
    cr_assert_eq(raft_conf_apply(&c, &change), OUT_MEMBER_NOT_ENOUGH_STARTED);
    cr_assert_eq(c.voter_count, 1);
}

Test(raft_conf, grow_and_shrink)
{
    struct net *n = net_new(1);

    net_elect(n, 1);
    net_add_blank(n, 2);
    cr_assert_eq(net_propose_conf(n, 1, RAFT_CONF_ADD_LEARNER, 2), 0);
    net_tick(n, 3);
    cr_assert_eq(n->nodes[2].applied, n->nodes[1].applied);
    cr_assert_eq(net_propose_conf(n, 1, RAFT_CONF_PROMOTE, 2), 0);
    cr_assert_eq(raft_get_conf(net_raft(n, 2))->voter_count, 2);
    net_add_blank(n, 3);
    cr_assert_eq(net_propose_conf(n, 1, RAFT_CONF_ADD_VOTER, 3), 0);
    net_tick(n, 3);
    cr_assert_eq(n->nodes[3].applied, n->nodes[1].applied);
    cr_assert_eq(raft_get_conf(net_raft(n, 3))->voter_count, 3);
    /* the leader itself goes */
    cr_assert_eq(net_propose_conf(n, 1, RAFT_CONF_REMOVE, 1), 0);
    cr_assert_eq(raft_get_state(net_raft(n, 1)), RAFT_FOLLOWER);
    cr_assert_eq(raft_get_conf(net_raft(n, 2))->voter_count, 2, "they heard of it");
    net_tick(n, 60);
    cr_assert(net_leader(n) == 2 || net_leader(n) == 3);
    raft_campaign(net_raft(n, 1));
    net_run(n);
    cr_assert_eq(raft_get_state(net_raft(n, 1)), RAFT_FOLLOWER, "it is nobody now");
    cr_assert_eq(net_propose(n, net_leader(n), "x"), 0);
    net_check_logs(n);
    net_free(n);
}

Test(raft_conf, one_at_a_time)
{
    struct net *n = net_new(3);
    struct raft *r = net_raft(n, 1);

    cr_assert_eq(raft_conf_change_allowed(r), OUT_NO_LEADER);
    n->nodes[2].hold_disk = n->nodes[3].hold_disk = true;
    raft_campaign(r);
    net_run(n);
    net_write_held(n, 2, 99);
    net_run(n);
    cr_assert_eq(raft_get_state(r), RAFT_LEADER);
    cr_assert_eq(raft_conf_change_allowed(r), OUT_UNHEALTHY, "nothing of this term is committed");
    cr_assert_eq(net_propose_conf(n, 1, RAFT_CONF_REMOVE, 3), OUT_UNHEALTHY);
    net_write_held(n, 2, 99);
    net_run(n);
    cr_assert_eq(raft_conf_change_allowed(net_raft(n, 2)), OUT_NOT_LEADER);
    cr_assert_eq(net_propose_conf(n, 1, RAFT_CONF_ADD_LEARNER, 7), 0);
    cr_assert_eq(net_propose_conf(n, 1, RAFT_CONF_ADD_LEARNER, 8), OUT_UNHEALTHY, "one is pending");
    net_write_held(n, 2, 99);
    net_run(n);
    cr_assert(raft_conf_has_learner(raft_get_conf(r), 7));
    cr_assert_eq(raft_conf_change_allowed(r), 0);
    net_free(n);
}

/* A new leader does not know whether the change in its log is committed: it waits. */
Test(raft_conf, pending_over_a_change_of_leader)
{
    struct net *n = net_new(3);

    net_elect(n, 1);
    n->cut[1][3] = n->cut[3][1] = true;
    n->nodes[2].hold_disk = true;
    cr_assert_eq(net_propose_conf(n, 1, RAFT_CONF_ADD_LEARNER, 7), 0);
    net_write_held(n, 2, 99);
    n->queue_count = 0; /* 2 has it on disk, 1 never hears of it */
    n->nodes[2].hold_disk = false;
    net_crash(n, 1);
    net_tick(n, 60);
    cr_assert_eq(net_leader(n), 2);
    cr_assert(raft_conf_has_learner(raft_get_conf(net_raft(n, 2)), 7), "committed with its term");
    cr_assert(raft_conf_has_learner(raft_get_conf(net_raft(n, 3)), 7));
    net_free(n);
}

/* With a committed change it has not applied, a member does not campaign. */
Test(raft_conf, no_campaign_with_an_old_configuration)
{
    struct net *n = net_new(3);
    struct node *nd = &n->nodes[2];

    net_elect(n, 1);
    raft_deliver_pause(nd->raft);
    cr_assert_eq(net_propose_conf(n, 1, RAFT_CONF_ADD_LEARNER, 7), 0);
    cr_assert_eq(net_commit(n, 2), 2);
    raft_campaign(nd->raft);
    net_run(n);
    cr_assert_eq(raft_get_state(nd->raft), RAFT_FOLLOWER);
    cr_assert_eq(raft_deliver_resume(nd->raft, RAFT_GO_ON), 0);
    net_run(n);
    raft_campaign(nd->raft);
    cr_assert_eq(raft_get_state(nd->raft), RAFT_PRE_CANDIDATE);
    net_free(n);
}

/* Two configuration entries in a log: the first must be committed, whatever the disk says. */
Test(raft_conf, restore_knows_the_former_change_is_committed)
{
    struct net *n = net_new(3);
    struct node *nd = &n->nodes[1];
    struct raft_conf_change change = {.op = RAFT_CONF_ADD_VOTER, .id = 4};
    struct raft_status s;

    net_crash(n, 1);
    nd->log[1] = raft_entry_new(1, 1, RAFT_ENTRY_CONF, bytes_of(&change, sizeof(change)));
    change.id = 5;
    nd->log[2] = raft_entry_new(2, 1, RAFT_ENTRY_CONF, bytes_of(&change, sizeof(change)));
    nd->last = 2;
    nd->hs.commit = 0;
    net_restart(n, 1);
    raft_get_status(nd->raft, &s);
    cr_assert_eq(s.commit_index, 1);
    raft_campaign(nd->raft);
    cr_assert_eq(raft_get_state(nd->raft), RAFT_FOLLOWER);
    net_run(n);
    cr_assert_eq(raft_get_conf(nd->raft)->voter_count, 4);
    net_free(n);
}

Test(raft_conf, removing_a_silent_voter_commits_what_waited)
{
    struct net *n = net_new(4);

    net_elect(n, 1);
    net_crash(n, 4);
    cr_assert_eq(net_propose_conf(n, 1, RAFT_CONF_REMOVE, 4), 0);
    cr_assert_eq(raft_get_conf(net_raft(n, 1))->voter_count, 3);
    net_crash(n, 3);
    cr_assert_eq(net_propose(n, 1, "x"), 0);
    cr_assert_eq(net_commit(n, 1), 3, "two of three");
    net_free(n);
}

Test(raft_conf, repeated_reports_are_ignored)
{
    struct net *n = net_new(3);
    struct raft_conf_change change = {.op = RAFT_CONF_REMOVE, .id = 3};

    net_elect(n, 1);
    cr_assert_eq(net_propose_conf(n, 1, RAFT_CONF_ADD_LEARNER, 7), 0);
    cr_assert_eq(raft_apply_conf_change(net_raft(n, 1), 2, &change), 0);
    cr_assert_eq(raft_apply_conf_change(net_raft(n, 1), 1, &change), 0);
    cr_assert_eq(raft_get_conf(net_raft(n, 1))->voter_count, 3);
    net_free(n);
}
