#include <criterion/criterion.h>
#include <errno.h>
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "tests/unit/raft_net.h"

TestSuite(raft_replicate, .timeout = 60);

static struct raft_status status(struct net *n, raft_id id)
{
    struct raft_status s;

    raft_get_status(net_raft(n, id), &s);
    return s;
}

Test(raft_replicate, commit_needs_a_majority_of_disks)
{
    struct net *n = net_new(3);

    net_elect(n, 1);
    for (raft_id id = 1; id <= 3; id++)
        n->nodes[id].hold_disk = true;
    cr_assert_eq(net_propose(n, 1, "a"), 0);
    cr_assert_eq(status(n, 2).last_index, 2, "it travels while the leader's disk writes");
    cr_assert_eq(net_commit(n, 1), 1);
    cr_assert_eq(n->nodes[2].sent[RAFT_MSG_APPEND_RESP], 1,
                 "the new leader's entry; nothing for its commit");
    cr_assert_eq(n->nodes[1].sent[RAFT_MSG_COMMIT], 2, "one each");
    net_write_held(n, 2, 99);
    net_run(n);
    cr_assert_eq(net_commit(n, 1), 1, "one of three");
    net_write_held(n, 3, 99);
    net_run(n);
    cr_assert_eq(net_commit(n, 1), 2, "two of three, without the leader");
    cr_assert_eq(n->nodes[1].applied, 1, "not executed here before it is durable here");
    net_write_held(n, 1, 99);
    net_run(n);
    cr_assert_eq(n->nodes[1].applied, 2);
    net_free(n);
}

Test(raft_replicate, heartbeats_do_not_wait_for_the_disk)
{
    struct net *n = net_new(3);
    size_t before;

    net_elect(n, 1);
    n->nodes[1].hold_disk = n->nodes[2].hold_disk = true;
    cr_assert_eq(net_propose(n, 1, "a"), 0);
    before = n->nodes[2].sent[RAFT_MSG_HEARTBEAT_RESP];
    net_tick_one(n, 1, 5);
    cr_assert_eq(n->nodes[2].sent[RAFT_MSG_HEARTBEAT_RESP], before + 5);
    cr_assert_eq(net_leader(n), 1);
    net_free(n);
}

Test(raft_replicate, crash_before_the_disk_loses_only_what_was_not_promised)
{
    struct net *n = net_new(3);

    net_elect(n, 1);
    n->nodes[2].hold_disk = true;
    cr_assert_eq(net_propose(n, 1, "a"), 0);
    cr_assert_eq(net_commit(n, 1), 2, "1 and 3 have it");
    net_crash(n, 2);
    n->nodes[2].hold_disk = false;
    net_restart(n, 2);
    cr_assert_eq(status(n, 2).last_index, 1);
    net_crash(n, 1);
    raft_campaign(net_raft(n, 2));
    net_run(n);
    net_tick(n, 1);
    cr_assert_neq(net_leader(n), 2, "it lacks a committed entry");
    net_elect(n, 3);
    cr_assert_eq(n->nodes[2].applied, 3);
    net_check_logs(n);
    net_free(n);
}

/* The six logs of Raft thesis figure 3.6: each follower ends up with the leader's. */
Test(raft_replicate, conflicting_tails)
{
    static const char *const leader = "111445566";
    static const char *const rows[] = {
        "11144556",    "1114", "1114455666", "111445566677", "1114444",
        "11122233333", "",     "1",          "777777777777",
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct net *n = net_new(3);
        struct node *l = &n->nodes[1], *f = &n->nodes[2];

        for (int who = 0; who < 2; who++) {
            struct node *nd = who == 0 ? l : f;
            const char *terms = who == 0 ? leader : rows[i];

            net_crash(n, nd->id);
            nd->hs = (struct raft_hard_state){.term = 7};
            for (; terms[nd->last] != '\0'; nd->last++)
                nd->log[nd->last + 1] =
                    raft_entry_new(nd->last + 1, (raft_term)(terms[nd->last] - '0'),
                                   RAFT_ENTRY_NORMAL, bytes_of(&terms[nd->last], 1));
            net_restart(n, nd->id);
        }
        n->nodes[3].hs.term = 7;
        /* 1 becomes leader of term 8 with the vote of 3 alone */
        n->cut[1][2] = n->cut[2][1] = true;
        net_elect(n, 1);
        net_heal(n);
        net_tick(n, 3);
        cr_assert_eq(status(n, 2).last_index, 10, "row %zu", i);
        for (raft_index k = 1; k <= 10; k++)
            cr_assert_eq(f->log[k]->term, l->log[k]->term, "row %zu", i);
        cr_assert_eq(f->applied, 10);
        net_check_logs(n);
        net_free(n);
    }
}

/* Going back over a long diverged tail takes a round per term, not per entry. */
Test(raft_replicate, backtracking_is_fast)
{
    struct net *n = net_new(3);
    struct node *f = &n->nodes[2];
    size_t before;

    net_crash(n, 2);
    for (raft_index i = 1; i <= 1000; i++)
        f->log[i] = raft_entry_new(i, 2 + i / 500, RAFT_ENTRY_NORMAL, BYTES_EMPTY);
    f->last = 1000;
    f->hs = (struct raft_hard_state){.term = 4};
    n->nodes[1].hs.term = n->nodes[3].hs.term = 5;
    net_crash(n, 1);
    net_crash(n, 3);
    net_restart(n, 1);
    net_restart(n, 3);
    net_elect(n, 1);
    for (int i = 0; i < 1200; i++)
        net_propose(n, 1, "x");
    net_restart(n, 2);
    before = n->nodes[1].sent[RAFT_MSG_APPEND];
    net_tick(n, 4);
    cr_assert_eq(f->applied, net_commit(n, 1));
    cr_assert_lt(n->nodes[1].sent[RAFT_MSG_APPEND] - before, 20);
    net_check_logs(n);
    net_free(n);
}

/* Raft thesis figure 3.7: an old term's entry on a majority is not committed by counting. */
Test(raft_replicate, figure_8)
{
    struct net *n = net_new(5);

    net_elect(n, 1); /* term 2, entry 1 everywhere */
    net_isolate(n, 1, true);
    n->cut[1][2] = n->cut[2][1] = false;
    cr_assert_eq(net_propose(n, 1, "old"), 0); /* entry 2 of term 2 on 1 and 2 */
    cr_assert_eq(net_commit(n, 1), 1);
    net_isolate(n, 1, true);
    net_isolate(n, 2, true);
    net_tick(n, 25); /* 3, 4 or 5 leads term 3+ */
    cr_assert_geq(net_leader(n), 3);
    net_crash(n, 5);
    net_heal(n);
    net_crash(n, 3);
    net_crash(n, 4);
    net_restart(n, 5);
    net_tick(n, 60); /* 1, 2 and 5 are a majority */
    cr_assert_neq(net_leader(n), 0);
    net_restart(n, 3);
    net_restart(n, 4);
    net_tick(n, 60);
    net_check_logs(n);
    net_free(n);
}

/* A leader of term 3 whose entry 1 of term 2 is on all three, its own entry 2 on itself alone. */
Test(raft_replicate, no_commit_by_counting_old_terms)
{
    struct raft_msg resp = {.type = RAFT_MSG_APPEND_RESP, .from = 2, .to = 1, .log_index = 1};
    struct net *n = net_new(3);
    struct node *nd = &n->nodes[1];

    net_crash(n, 1);
    net_crash(n, 2);
    net_crash(n, 3);
    nd->log[1] = raft_entry_new(1, 2, RAFT_ENTRY_NORMAL, BYTES_LIT("old"));
    nd->last = 1;
    nd->hs = (struct raft_hard_state){.term = 2};
    net_restart(n, 1);
    raft_campaign(net_raft(n, 1));
    net_run(n);
    cr_assert_eq(
        net_inject(
            n, (struct raft_msg){.type = RAFT_MSG_PRE_VOTE_RESP, .from = 2, .to = 1, .term = 3}),
        0);
    net_run(n);
    cr_assert_eq(
        net_inject(n, (struct raft_msg){.type = RAFT_MSG_VOTE_RESP, .from = 2, .to = 1, .term = 3}),
        0);
    net_run(n);
    cr_assert_eq(raft_get_state(net_raft(n, 1)), RAFT_LEADER);
    resp.term = 3;
    for (raft_id from = 2; from <= 3; from++) {
        resp.from = from;
        resp.log_index = 1;
        cr_assert_eq(net_inject(n, resp), 0);
        net_run(n);
        cr_assert_eq(net_commit(n, 1), 0, "three copies of an old term's entry prove nothing");
    }
    resp.log_index = 2;
    cr_assert_eq(net_inject(n, resp), 0);
    cr_assert_eq(net_commit(n, 1), 2, "an entry of its own term carries them all");
    net_free(n);
}

/* A write that is overtaken by a truncation does not count when it becomes durable. */
Test(raft_replicate, truncation_of_what_is_being_written)
{
    struct net *n = net_new(3);
    struct raft_entry *e[4];
    struct raft_msg m = {
        .type = RAFT_MSG_APPEND, .from = 3, .to = 1, .term = 2, .entries = e, .entry_count = 4};

    n->nodes[1].hold_disk = true;
    for (raft_index i = 0; i < 4; i++)
        e[i] = raft_entry_new(i + 1, 2, RAFT_ENTRY_NORMAL, BYTES_LIT("t2"));
    cr_assert_eq(net_inject(n, m), 0);
    net_run(n);
    m.from = 2;
    m.term = 3;
    m.log_index = 2;
    m.log_term = 2;
    m.entry_count = 1;
    raft_entry_unref(e[0]);
    e[0] = raft_entry_new(3, 3, RAFT_ENTRY_NORMAL, BYTES_LIT("t3"));
    cr_assert_eq(net_inject(n, m), 0);
    net_run(n);
    cr_assert_eq(n->nodes[1].held_count, 2);
    cr_assert_eq(n->nodes[1].aborted_count, 2);
    net_write_held(n, 1, 1);
    cr_assert_eq(status(n, 1).stored_index, 2, "of the four only the first two still stand");
    net_write_held(n, 1, 1);
    cr_assert_eq(status(n, 1).stored_index, 3);
    cr_assert_eq(n->nodes[1].log[3]->term, 3);
    cr_assert_eq(n->nodes[1].last, 3);
    for (int i = 0; i < 4; i++)
        raft_entry_unref(e[i]);
    net_free(n);
}

static size_t drop_left;
static bool drop_some_appends(const struct raft_msg *m)
{
    if (m->type != RAFT_MSG_APPEND || m->entry_count == 0 || drop_left == 0)
        return false;
    drop_left--;
    return true;
}

Test(raft_replicate, lost_appends_are_sent_again)
{
    struct net *n = net_new(3);

    net_elect(n, 1);
    n->drop = drop_some_appends;
    for (size_t loss = 1; loss < 12; loss++) {
        drop_left = loss;
        for (int i = 0; i < 6; i++)
            net_propose(n, 1, "x");
        drop_left = 0;
        net_tick(n, 4);
        cr_assert_eq(net_commit(n, 1), status(n, 1).last_index, "loss %zu", loss);
        cr_assert_eq(n->nodes[2].applied, n->nodes[1].applied);
        cr_assert_eq(n->nodes[3].applied, n->nodes[1].applied);
    }
    net_check_logs(n);
    net_free(n);
}

Test(raft_replicate, flow_control)
{
    struct raft_config config = {.inflight_max = 4, .append_bytes_max = 8};
    struct net *n = net_new_conf(3, 3, &config);
    struct raft_progress p;

    net_elect(n, 1);
    n->nodes[2].hold_disk = true;
    for (int i = 0; i < 20; i++)
        net_propose(n, 1, "12345678");
    cr_assert(raft_get_progress(net_raft(n, 1), 2, &p));
    cr_assert_eq(p.state, RAFT_REPLICATE);
    cr_assert_eq(p.inflight_count, 4);
    cr_assert_eq(p.inflight_bytes, 32);
    cr_assert_eq(p.next_index, p.match_index + 5);
    cr_assert_eq(net_commit(n, 1), 21, "the other one is not slowed down");
    n->nodes[2].hold_disk = false;
    net_write_held(n, 2, 99);
    net_run(n);
    cr_assert(raft_get_progress(net_raft(n, 1), 2, &p));
    cr_assert_eq(p.match_index, 21);
    cr_assert_eq(p.inflight_count, 0);
    cr_assert_not(raft_get_progress(net_raft(n, 2), 1, &p), "only a leader knows");
    cr_assert_not(raft_get_progress(net_raft(n, 1), 9, &p));
    net_free(n);
}

Test(raft_replicate, proposals_of_a_turn_travel_together)
{
    struct net *n = net_new(3);
    struct raft_proposed p;
    size_t before;

    net_elect(n, 1);
    before = n->nodes[1].sent[RAFT_MSG_APPEND];
    for (int i = 0; i < 50; i++)
        cr_assert_eq(raft_propose(net_raft(n, 1), RAFT_ENTRY_NORMAL, BYTES_LIT("x"), &p), 0);
    cr_assert_eq(p.index, 51);
    net_run(n);
    cr_assert_leq(n->nodes[1].sent[RAFT_MSG_APPEND] - before, 4, "entries and the commit index");
    cr_assert_eq(n->nodes[3].applied, 51);
    net_free(n);
}

Test(raft_replicate, proposal_outcomes)
{
    struct raft_config config = {.uncommitted_bytes_max = 10};
    struct net *n = net_new_conf(3, 3, &config);
    struct raft_proposed p;
    struct raft *r;

    cr_assert_eq(raft_propose(net_raft(n, 1), 0, BYTES_LIT("x"), &p), OUT_NO_LEADER);
    net_elect(n, 1);
    cr_assert_eq(raft_propose(net_raft(n, 2), 0, BYTES_LIT("x"), &p), OUT_NOT_LEADER);
    cr_assert_eq(p.leader, 1);
    r = net_raft(n, 1);
    n->nodes[2].hold_disk = n->nodes[3].hold_disk = true;
    cr_assert_eq(raft_propose(r, 0, BYTES_LIT("0123456789abcdef"), &p), 0, "one always goes");
    cr_assert_eq(p.term, raft_get_term(r));
    cr_assert_eq(raft_propose(r, 0, BYTES_LIT("x"), &p), OUT_TOO_MANY_REQUESTS);
    cr_assert_eq(p.leader, 1);
    net_run(n);
    n->nodes[2].hold_disk = n->nodes[3].hold_disk = false;
    net_write_held(n, 2, 99);
    net_write_held(n, 3, 99);
    net_run(n);
    cr_assert_eq(raft_propose(r, 0, BYTES_LIT("x"), &p), 0);
    cr_assert_eq(raft_propose(r, 0, bytes_of("x", (size_t)RAFT_ENTRY_BYTES_MAX + 1), &p),
                 OUT_REQUEST_TOO_LARGE);
    net_free(n);
}

Test(raft_replicate, window_is_bounded_and_storage_serves_the_rest)
{
    struct raft_config config = {.window_bytes = 400, .append_bytes_max = 100};
    struct net *n = net_new_conf(3, 3, &config);

    net_elect(n, 1);
    net_crash(n, 3);
    for (int i = 0; i < 100; i++)
        net_propose(n, 1, "0123456789");
    cr_assert_leq(status(n, 1).window_bytes, 400);
    cr_assert_lt(status(n, 1).entries_in_memory, 20);
    n->nodes[1].fetch_again = true;
    net_restart(n, 3);
    net_tick(n, 4);
    cr_assert_lt(status(n, 3).last_index, 101);
    n->nodes[1].fetch_again = false;
    raft_entries_fetched(net_raft(n, 1), 3);
    net_run(n);
    cr_assert_eq(n->nodes[3].applied, 101);
    cr_assert_eq(n->nodes[1].snapshots_wanted, 0);
    net_check_logs(n);
    net_free(n);
}

Test(raft_replicate, snapshot_for_one_that_is_too_far_behind)
{
    struct net *n = net_new(3);
    struct raft_progress p;

    n->auto_snapshot = false;
    net_elect(n, 1);
    net_crash(n, 3);
    for (int i = 0; i < 50; i++)
        net_propose(n, 1, "x");
    net_compact(n, 1, 40);
    net_restart(n, 3);
    net_tick(n, 4);
    cr_assert_eq(n->nodes[1].snapshots_wanted, 1);
    cr_assert_eq(n->nodes[1].snapshot_peer, 3);
    cr_assert(raft_get_progress(net_raft(n, 1), 3, &p));
    cr_assert_eq(p.state, RAFT_SNAPSHOT);
    net_tick(n, 10);
    cr_assert_eq(n->nodes[1].snapshots_wanted, 1, "one at a time");
    raft_report_snapshot(net_raft(n, 1), 3, 0); /* failed */
    net_tick(n, 4);
    cr_assert_eq(n->nodes[1].snapshots_wanted, 2, "asked again");
    n->auto_snapshot = true;
    raft_report_snapshot(net_raft(n, 1), 3, 0);
    net_tick(n, 4);
    cr_assert_eq(n->nodes[3].snapshot_count, 1);
    cr_assert_eq(n->nodes[3].applied, n->nodes[1].applied);
    cr_assert(raft_get_progress(net_raft(n, 1), 3, &p));
    cr_assert_eq(p.state, RAFT_REPLICATE);
    net_propose(n, 1, "after");
    cr_assert_eq(n->nodes[3].applied, 52);
    net_check_logs(n);
    /* and it survives a restart */
    net_crash(n, 3);
    net_restart(n, 3);
    net_propose(n, 1, "again");
    net_tick(n, 2);
    cr_assert_eq(n->nodes[3].applied, 53);
    net_free(n);
}

/* Its data directory was lost, and it starts anew under its id: by the log, or by a snapshot. */
Test(raft_replicate, one_that_forgot_everything)
{
    for (int compacted = 0; compacted < 2; compacted++) {
        struct net *n = net_new(3);
        struct node *nd = &n->nodes[3];

        net_elect(n, 1);
        for (int i = 0; i < 30; i++)
            net_propose(n, 1, "x");
        net_tick(n, 2);
        cr_assert_eq(nd->applied, n->nodes[1].applied);
        net_crash(n, 3);
        for (raft_index i = nd->first; i <= nd->last; i++) {
            raft_entry_unref(nd->log[i]);
            nd->log[i] = NULL;
        }
        nd->first = 1;
        nd->last = nd->applied = nd->state_hash = nd->before_term = 0;
        nd->hs = (struct raft_hard_state){0};
        nd->conf = n->initial_conf;
        if (compacted)
            net_compact(n, 1, 20);
        net_restart(n, 3);
        net_tick(n, 6);
        net_propose(n, 1, "after");
        net_tick(n, 6);
        cr_assert_eq(net_leader(n), 1);
        cr_assert_eq(nd->applied, n->nodes[1].applied);
        cr_assert_eq(nd->snapshot_count, (size_t)compacted);
        net_check_logs(n);
        net_free(n);
    }
}

Test(raft_replicate, snapshot_answers_only_when_durable)
{
    struct net *n = net_new(3);
    struct raft_snapshot s = {.index = 50, .term = 2};
    struct raft_msg m = {.type = RAFT_MSG_SNAPSHOT, .from = 1, .to = 3, .term = 2, .snapshot = &s};

    s.conf = n->nodes[1].conf;
    n->nodes[3].hold_disk = true;
    cr_assert_eq(net_inject(n, m), 0);
    net_run(n);
    cr_assert_eq(n->nodes[3].sent[RAFT_MSG_APPEND_RESP], 0);
    raft_campaign(net_raft(n, 3));
    cr_assert_eq(raft_get_state(net_raft(n, 3)), RAFT_FOLLOWER, "its state is being replaced");
    net_write_held(n, 3, 99);
    cr_assert_eq(n->nodes[3].sent[RAFT_MSG_APPEND_RESP], 1);
    cr_assert_eq(status(n, 3).stored_index, 50);
    s.index = 40; /* an old one */
    cr_assert_eq(net_inject(n, m), 0);
    net_run(n);
    cr_assert_eq(status(n, 3).last_index, 50);
    cr_assert_eq(n->nodes[3].held_count, 1);
    cr_assert_not(n->nodes[3].held[0].has_snapshot);
    net_free(n);
}

Test(raft_replicate, jump)
{
    static const struct {
        raft_index log_last, commit, to;
        raft_term to_term;
        bool replaces;
    } rows[] = {
        {0, 0, 10, 2, true}, {5, 3, 10, 2, true}, {5, 3, 4, 1, false},
        {5, 3, 4, 2, true},  {5, 5, 5, 1, false},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct net *n = net_new(3);
        struct node *nd = &n->nodes[2];

        net_crash(n, 2);
        for (raft_index k = 1; k <= rows[i].log_last; k++)
            nd->log[k] = raft_entry_new(k, 1, RAFT_ENTRY_NORMAL, BYTES_EMPTY);
        nd->last = rows[i].log_last;
        nd->hs.commit = rows[i].commit;
        net_restart(n, 2);
        raft_jump(net_raft(n, 2), rows[i].to, rows[i].to_term, &nd->conf);
        nd->applied = rows[i].to;
        net_run(n);
        cr_assert_eq(nd->snapshot_count == 1, rows[i].replaces, "row %zu", i);
        cr_assert_eq(status(n, 2).commit_index, rows[i].to);
        cr_assert_eq(status(n, 2).applied_index, rows[i].to);
        cr_assert_eq(status(n, 2).last_index, rows[i].replaces ? rows[i].to : rows[i].log_last);
        net_free(n);
    }
}

Test(raft_replicate, delivery_pauses_and_goes_back)
{
    struct net *n = net_new(1);
    struct node *nd = &n->nodes[1];

    net_elect(n, 1);
    raft_deliver_pause(nd->raft);
    for (int i = 0; i < 10; i++)
        net_propose(n, 1, "x");
    cr_assert_eq(nd->applied, 1);
    cr_assert_eq(raft_deliver_resume(nd->raft, RAFT_GO_ON), 0);
    net_run(n);
    cr_assert_eq(nd->applied, 11);
    raft_deliver_pause(nd->raft);
    nd->applied = 4; /* a state machine that lost its tail */
    cr_assert_eq(raft_deliver_resume(nd->raft, 4), 0);
    net_run(n);
    cr_assert_eq(nd->applied, 11);
    net_compact(n, 1, 8);
    raft_deliver_pause(nd->raft);
    cr_assert_eq(raft_deliver_resume(nd->raft, 6), -ENODATA);
    cr_assert_eq(raft_deliver_resume(nd->raft, 12), -ERANGE);
    cr_assert_eq(raft_deliver_resume(nd->raft, 7), 0);
    nd->applied = 7;
    net_run(n);
    cr_assert_eq(nd->applied, 11);
    net_free(n);
}

Test(raft_replicate, restore_refuses_contradictions)
{
    struct raft_entry *e[3];
    static const struct {
        struct raft_restore a;
        int first_entry, count, expect;
    } rows[] = {
        {{.first_index = 1}, 0, 0, 0},
        {{.first_index = 1, .hard_state.term = 2, .last_index = 3}, 0, 3, 0},
        {{.first_index = 1, .hard_state.term = 2, .hard_state.commit = 9, .last_index = 3},
         0,
         3,
         0},
        {{.first_index = 1, .hard_state.term = 1, .last_index = 3}, 0, 3, -EBADMSG},
        {{.first_index = 0}, 0, 0, -EBADMSG},
        {{.first_index = 2}, 0, 0, -EBADMSG},
        {{.first_index = 1, .before_term = 1}, 0, 0, -EBADMSG},
        {{.first_index = 1, .applied_index = 1}, 0, 0, -EBADMSG},
        {{.first_index = 5,
          .before_term = 1,
          .applied_index = 3,
          .last_index = 4,
          .hard_state = {.term = 1, .commit = 4}},
         0,
         0,
         -EBADMSG},
        {{.first_index = 5,
          .before_term = 1,
          .applied_index = 4,
          .last_index = 4,
          .hard_state = {.term = 1, .commit = 4}},
         0,
         0,
         0},
        {{.first_index = 1, .hard_state.term = 2, .last_index = 3}, 1, 2, -EBADMSG}, /* 1 unseen */
        {{.first_index = 1, .hard_state.term = 2, .last_index = 4}, 0, 3, -EBADMSG},
        {{.first_index = 1, .hard_state.term = 2, .last_index = 3}, 0, 0, -EBADMSG},
        {{.first_index = 1,
          .hard_state.term = 2,
          .last_index = 3,
          .conf = {.voter_count = 2, .voters = {2, 1}}},
         0,
         3,
         -EBADMSG},
        {{.first_index = 1,
          .hard_state.term = 2,
          .last_index = 3,
          .conf = {.voter_count = 1, .voters = {1}, .learner_count = 1, .learners = {1}}},
         0,
         3,
         -EBADMSG},
    };

    for (raft_index i = 0; i < 3; i++)
        e[i] = raft_entry_new(i + 1, i == 2 ? 2 : 1, RAFT_ENTRY_NORMAL, BYTES_EMPTY);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct raft_config config = {.id = 1};
        struct raft *r = raft_new(&config);
        struct raft_restore a = rows[i].a;

        a.tail = &e[rows[i].first_entry];
        a.tail_count = (size_t)rows[i].count;
        cr_assert_eq(raft_restore(r, &a), rows[i].expect, "row %zu", i);
        raft_free(r);
    }
    for (int i = 0; i < 3; i++)
        raft_entry_unref(e[i]);
}
