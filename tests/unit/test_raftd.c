/* raftd processes as a member sees them: through its links. Nothing acknowledged is lost, nothing
 * is executed twice or in another order, whatever is killed. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "tests/unit/raftd_cluster.h"

TestSuite(raftd, .timeout = 120);

static void start_all(struct cluster *c)
{
    for (int i = 0; i < c->count; i++)
        node_start(&c->nodes[i]);
    WAIT(c, cluster_leader(c) != NULL);
    for (int i = 0; i < c->count; i++)
        WAIT(c, c->nodes[i].gateway_up && c->nodes[i].stored_up);
}

/* Proposes `count` puts through n, a few hundred in flight; all must be executed. */
static void put_many(struct node *n, int count)
{
    struct cluster *c = n->c;
    uint64_t first = c->last_request + 1, settled = first;

    for (int i = 0; i < count; i++) {
        node_propose(n, PROTO_KIND_PUT, BYTES_LIT("some value that is put"));
        WAIT(c, c->last_request - settled < 300 || (request_settled(c, settled) && settled++));
    }
    for (uint64_t id = first; id <= c->last_request; id++) {
        WAIT(c, request_settled(c, id));
        cr_assert_eq(c->done[id], 1, "request %lu failed: %s", (unsigned long)id,
                     outcome_name(c->failed[id]));
    }
}

Test(raftd, single_member)
{
    struct cluster *c = cluster_new(1, NULL);
    struct node *n = &c->nodes[0];

    start_all(c);
    cr_expect_eq(n->role.state, PROTO_RAFT_LEADER);
    put_many(n, 1000);
    WAIT(c, n->role.local_reads);
    node_barrier(n);
    WAIT(c, n->barrier_done == n->barrier_sent);
    cr_expect_eq(n->barrier.outcome, OUT_OK);
    cr_expect_geq(n->barrier.index, 1000);
    WAIT(c, n->state.members.count == 1 && strcmp(n->state.members.list[0].name, "n0") == 0);

    node_kill(n, SIGKILL);
    WAIT(c, !n->stored_up && !n->gateway_up);
    node_start(n);
    WAIT(c, cluster_leader(c) == n && n->gateway_up);
    put_many(n, 100);

    node_kill(n, SIGTERM);
    cr_expect(WIFEXITED(n->exit_status) && WEXITSTATUS(n->exit_status) == 0);
    cluster_free(c);
}

/* A stored that lost what it had not synced gets it again, up to all of it. */
Test(raftd, stored_falls_back)
{
    struct cluster *c = cluster_new(1, NULL);
    struct node *n = &c->nodes[0];
    uint64_t last;

    start_all(c);
    put_many(n, 500);
    last = n->state.applied;
    node_stored_stop(n);
    raftd_members_fini(&n->state.members);
    n->state = (struct fake_state){0};
    n->delivered = 0;
    node_stored_start(n);
    WAIT(c, n->state.applied >= last);
    cr_expect_geq(n->delivered, last);
    put_many(n, 100);

    /* and while raftd is restarted, too */
    node_kill(n, SIGKILL);
    WAIT(c, !n->stored_up && !n->gateway_up); /* what it sent before is executed */
    last = n->state.applied;
    raftd_members_fini(&n->state.members);
    n->state = (struct fake_state){0};
    node_start(n);
    WAIT(c, n->state.applied >= last && cluster_leader(c) == n && n->gateway_up);
    put_many(n, 100);
    cluster_free(c);
}

Test(raftd, three_members)
{
    struct cluster *c = cluster_new(3, NULL);
    struct node *leader, *old;

    start_all(c);
    for (int i = 0; i < 3; i++)
        put_many(&c->nodes[i], 300);
    for (int i = 0; i < 3; i++) {
        node_barrier(&c->nodes[i]);
        WAIT(c, c->nodes[i].barrier_done == c->nodes[i].barrier_sent);
        cr_expect_eq(c->nodes[i].barrier.outcome, OUT_OK);
        cr_expect_geq(c->nodes[i].barrier.index, 900);
        cr_expect_not(c->nodes[i].role.local_reads);
    }
    WAIT(c, cluster_converged(c));

    old = cluster_leader(c);
    node_kill(old, SIGKILL);
    WAIT(c, (leader = cluster_leader(c)) != NULL && leader != old);
    put_many(leader, 300);
    node_start(old);
    WAIT(c, old->stored_up && old->gateway_up && cluster_converged(c));
    put_many(old, 100);
    WAIT(c, cluster_converged(c));
    cluster_free(c);
}

/* Whatever was acknowledged before the kill is executed by those that stay. */
Test(raftd, leader_killed_under_load)
{
    struct cluster *c = cluster_new(3, NULL);
    uint64_t first;

    start_all(c);
    for (int round = 0; round < 3; round++) {
        struct node *leader = cluster_leader(c), *other, *now;

        cr_assert_not_null(leader);
        other = &c->nodes[(leader->i + 1) % 3];
        first = c->last_request + 1;
        for (int i = 0; i < 500; i++) {
            node_propose(other, PROTO_KIND_PUT, BYTES_LIT("x"));
            node_propose(leader, PROTO_KIND_PUT, BYTES_LIT("y"));
        }
        WAIT(c, request_settled(c, first + 100));
        node_kill(leader, SIGKILL);
        WAIT(c, (now = cluster_leader(c)) != NULL && now != leader);
        /* those of the killed one's gatewayd end with their link */
        for (uint64_t id = first; id <= c->last_request; id += 2)
            WAIT(c, request_settled(c, id));
        put_many(other, 50);
        node_start(leader);
        WAIT(c, leader->stored_up && leader->gateway_up && cluster_converged(c));
        WAIT(c, cluster_leader(c) != NULL);
    }
    cluster_free(c);
}

Test(raftd, paused_leader)
{
    struct cluster *c = cluster_new(3, NULL);
    struct node *old, *leader;

    start_all(c);
    put_many(&c->nodes[0], 100);
    old = cluster_leader(c);
    node_kill(old, SIGSTOP);
    WAIT(c, ({
             bool found = false;
             for (int i = 0; i < 3; i++)
                 found = found || (i != old->i && c->nodes[i].role.state == PROTO_RAFT_LEADER);
             found;
         }));
    leader = &c->nodes[(old->i + 1) % 3];
    put_many(leader, 100);
    node_kill(old, SIGCONT);
    /* asked at once, it must not answer with the index it knew when it was leader */
    node_barrier(old);
    WAIT(c, old->barrier_done == old->barrier_sent);
    cr_expect(old->barrier.outcome != OUT_OK || old->barrier.index >= 200);
    WAIT(c, cluster_converged(c));
    cluster_free(c);
}

Test(raftd, no_quorum_is_told)
{
    struct cluster *c = cluster_new(3, "election-timeout=100\n");
    struct node *n = &c->nodes[0];
    uint64_t id;

    start_all(c);
    node_kill(&c->nodes[1], SIGKILL);
    node_kill(&c->nodes[2], SIGKILL);
    id = node_propose(n, PROTO_KIND_PUT, BYTES_LIT("x"));
    node_barrier(n);
    WAIT(c, request_settled(c, id));
    cr_expect_eq(c->done[id], 0);
    cr_expect(c->failed[id] == OUT_TIMEOUT || c->failed[id] == OUT_TIMEOUT_LEADER_FAIL ||
                  c->failed[id] == OUT_NOT_PROPOSED, "%s", outcome_name(c->failed[id]));
    WAIT(c, n->barrier_done == n->barrier_sent);
    cr_expect_eq(n->barrier.outcome, OUT_TIMEOUT);
    /* and the cluster goes on when they are back */
    node_start(&c->nodes[1]);
    WAIT(c, cluster_leader(c) != NULL && c->nodes[1].gateway_up);
    put_many(n, 10);
    cluster_free(c);
}

static void fall_behind(struct cluster *c, struct node **ret_behind)
{
    struct node *leader, *behind;

    start_all(c);
    put_many(&c->nodes[0], 100);
    leader = cluster_leader(c);
    behind = &c->nodes[(leader->i + 1) % 3];
    node_kill(behind, SIGKILL);
    WAIT(c, !behind->stored_up);
    /* more than snapshot-catchup-entries; and fewer in all than raftd lets its stored be behind, for
     * it may not have heard yet what stored has when the next request comes */
    for (int i = 0; i < 8; i++)
        put_many(leader, 500);
    *ret_behind = behind;
}

Test(raftd, snapshot)
{
    struct cluster *c = cluster_new(3, "snapshot-count=200\nsnapshot-catchup-entries=1000\n");
    struct node *behind;

    fall_behind(c, &behind);
    node_start(behind);
    WAIT(c, behind->snapshots_activated == 1);
    WAIT(c, cluster_converged(c) && behind->gateway_up);
    put_many(behind, 200);
    WAIT(c, cluster_converged(c));
    cr_expect_eq(behind->snapshots_activated, 1);

    /* the marker is in the log: a restart needs no second one */
    node_kill(behind, SIGKILL);
    WAIT(c, !behind->stored_up);
    node_start(behind);
    WAIT(c, behind->stored_up && behind->gateway_up && cluster_leader(c) != NULL);
    put_many(behind, 100);
    WAIT(c, cluster_converged(c));
    cr_expect_eq(behind->snapshots_activated, 1);
    cluster_free(c);
}

static uint64_t newest_marker(const struct node *n)
{
    CLEANUP(freep) char *path = xasprintf("%s/data/member/snap", n->dir);
    DIR *dir = opendir(path);
    const struct dirent *entry;
    unsigned long term, index, newest = 0;

    cr_assert_not_null(dir, "%s", path);
    while ((entry = readdir(dir)) != NULL)
        if (sscanf(entry->d_name, "%16lx-%16lx.snap", &term, &index) == 2)
            newest = MAX(newest, index);
    closedir(dir);
    return newest;
}

/* The log is shortened while writes are always under way: nobody has to pause for it. */
Test(raftd, log_trimmed_under_load)
{
    struct cluster *c = cluster_new(1, "snapshot-count=100\nsnapshot-catchup-entries=100\n");
    struct node *n = &c->nodes[0];
    uint64_t settled = 1, seen = 0;
    int markers = 0;

    start_all(c);
    while (markers < 5) {
        uint64_t marker = newest_marker(n);

        markers += marker != seen;
        seen = marker;
        for (int i = 0; i < 100; i++) {
            node_propose(n, PROTO_KIND_PUT, BYTES_LIT("some value that is put"));
            WAIT(c, c->last_request - settled < 600 || (request_settled(c, settled) && settled++));
        }
        cr_assert_lt(c->last_request, (uint64_t)REQUESTS_MAX - 1000, "only %d markers", markers);
    }
    cluster_free(c);
}

/* Killed between stored's activation and the log's marker: stored is ahead of the log. */
Test(raftd, killed_while_activating)
{
    struct cluster *c = cluster_new(3, "snapshot-count=200\nsnapshot-catchup-entries=1000\n");
    struct node *behind;

    fall_behind(c, &behind);
    behind->break_at_activate = true;
    node_start(behind);
    WAIT(c, behind->snapshots_activated == 1);
    node_kill(behind, SIGKILL);
    WAIT(c, !behind->stored_up);
    behind->break_at_activate = false;
    node_start(behind);
    WAIT(c, behind->stored_up && behind->gateway_up && cluster_converged(c));
    WAIT(c, cluster_leader(c) != NULL);
    put_many(behind, 100);
    WAIT(c, cluster_converged(c));
    node_kill(behind, SIGKILL);
    WAIT(c, !behind->stored_up);
    node_start(behind);
    WAIT(c, behind->stored_up && cluster_converged(c));
    cluster_free(c);
}

/* The same with a log that is longer than the snapshot reaches: what a former leader could not
 * commit must not pass for what was executed. */
Test(raftd, killed_while_activating_over_another_tail)
{
    struct cluster *c = cluster_new(3, "election-timeout=1000\n"); /* a slow disk moves no leader */
    struct node *behind, *trims, *keeps;
    uint64_t until;

    start_all(c);
    put_many(&c->nodes[0], 100);
    WAIT(c, cluster_converged(c));
    behind = cluster_leader(c);
    trims = &c->nodes[(behind->i + 1) % 3];
    keeps = &c->nodes[(behind->i + 2) % 3];
    node_kill(trims, SIGKILL);
    node_kill(keeps, SIGKILL);
    for (int i = 0; i < 3000; i++)
        node_propose(behind, PROTO_KIND_PUT, BYTES_LIT("an entry nobody else has"));
    until = loop_clock_ns() + 150000000;
    WAIT(c, loop_clock_ns() >= until);
    node_kill(behind, SIGKILL);
    WAIT(c, !behind->stored_up);

    /* the leader has to send its state, while the other one could send entries */
    strcpy(trims->extra_conf, "snapshot-count=50\nsnapshot-catchup-entries=50\n");
    node_start(trims);
    node_start(keeps);
    WAIT(c, (cluster_leader(c) == trims || cluster_leader(c) == keeps) && trims->gateway_up);
    while (cluster_leader(c) != trims) {
        node_kill(keeps, SIGKILL);
        WAIT(c, !keeps->stored_up);
        until = loop_clock_ns() + 300000000;
        WAIT(c, loop_clock_ns() >= until);
        node_start(keeps);
        WAIT(c, cluster_leader(c) == trims || cluster_leader(c) == keeps);
    }
    put_many(trims, 1000);
    while (newest_marker(trims) <= 1000)
        put_many(trims, 10);
    WAIT(c, cluster_converged(c));
    behind->break_at_activate = true;
    node_start(behind);
    WAIT(c, behind->snapshots_activated == 1);
    node_kill(behind, SIGKILL);
    node_kill(trims, SIGKILL);
    WAIT(c, !behind->stored_up && !trims->stored_up);

    behind->break_at_activate = false;
    node_start(behind);
    WAIT(c, behind->stored_up);
    WAIT(c, behind->gateway_up);
    WAIT(c, keeps->gateway_up);
    WAIT(c, cluster_leader(c) == keeps || cluster_leader(c) == behind);
    put_many(keeps, 10);
    WAIT(c, behind->state.applied == keeps->state.applied);
    cluster_free(c);
}

static int try_conf_change(struct node *n, enum proto_conf_op op, uint64_t id, const char *url)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    struct proto_conf_change change = {.op = op,
                                       .member = {.id = id, .peer_urls = bytes_str(url)}};
    uint64_t request;

    proto_conf_change_encode(&b, &change);
    request = node_propose(n, PROTO_KIND_CONF_CHANGE, buf_bytes(&b));
    WAIT(n->c, request_settled(n->c, request));
    return n->c->failed[request];
}

static void conf_change(struct node *n, enum proto_conf_op op, uint64_t id, const char *url,
                        int expected)
{
    int out;

    /* the leader hears of a learner's progress a little later than the learner */
    while ((out = try_conf_change(n, op, id, url)) == OUT_LEARNER_NOT_READY)
        ;
    cr_assert_eq(out, expected, "%s", outcome_name(out));
}

/* One member becomes two: reads need barriers before the change is in the log, and the new member
 * learns who it is from the old one. */
Test(raftd, grow_and_shrink)
{
    struct cluster *c = cluster_new(1, "strict-reconfig-check=false\n");
    struct node *a = &c->nodes[0], *b = &c->nodes[1];
    CLEANUP(freep) char *both = xasprintf("n0=%s,n1=%s", a->peer_url, b->peer_url);
    uint64_t request;

    start_all(c);
    put_many(a, 100);
    WAIT(c, a->role.local_reads);
    conf_change(a, PROTO_CONF_ADD_LEARNER, a->member_id, b->peer_url, OUT_MEMBER_EXIST);
    conf_change(a, PROTO_CONF_ADD_LEARNER, 77, a->peer_url, OUT_PEER_URL_EXIST);
    conf_change(a, PROTO_CONF_REMOVE, 77, "", OUT_MEMBER_NOT_FOUND);
    conf_change(a, PROTO_CONF_REMOVE, a->member_id, "", OUT_MEMBER_NOT_ENOUGH_STARTED);
    WAIT(c, a->role.local_reads);

    /* not acknowledged: nothing is appended */
    a->hold_role_ack = true;
    {
        CLEANUP(buf_fini) struct buf body = BUF_INIT;
        struct proto_conf_change change = {
            .op = PROTO_CONF_ADD_LEARNER,
            .member = {.id = 4711, .peer_urls = bytes_str(b->peer_url)}};

        proto_conf_change_encode(&body, &change);
        request = node_propose(a, PROTO_KIND_CONF_CHANGE, buf_bytes(&body));
    }
    WAIT(c, !a->role.local_reads);
    node_barrier(a);
    WAIT(c, a->barrier_done == a->barrier_sent);
    cr_expect_eq(a->state.members.count, 1);
    cr_expect_not(request_settled(c, request));
    a->hold_role_ack = false;
    ipc_link_send(a->stored, PROTO_ROLE_ACK, a->role_id, BYTES_EMPTY);
    WAIT(c, c->done[request] == 1);

    node_start_existing(b, both);
    WAIT(c, b->stored_up && b->gateway_up && cluster_converged(c));
    cr_expect_eq(b->member_id, 4711);
    WAIT(c, b->role.is_learner && b->role.leader_id == a->member_id);
    put_many(b, 50); /* forwarded */
    conf_change(a, PROTO_CONF_PROMOTE, 4711, "", 0);
    WAIT(c, cluster_converged(c) && !b->role.is_learner);
    WAIT(c, !a->role.local_reads);
    put_many(b, 50);

    /* a restarted one knows its peers from its keyspace */
    node_kill(b, SIGKILL);
    WAIT(c, !b->stored_up);
    node_start_existing(b, both);
    WAIT(c, b->stored_up && b->gateway_up && cluster_leader(c) != NULL && cluster_converged(c));
    put_many(b, 50);

    conf_change(cluster_leader(c), PROTO_CONF_REMOVE, 4711, "", 0);
    WAIT(c, node_exited(b));
    WAIT(c, a->role.state == PROTO_RAFT_LEADER && a->role.local_reads);
    put_many(a, 50);
    cluster_free(c);
}

/* A published member that lost its data must not come back as a blank voter. */
Test(raftd, already_bootstrapped)
{
    struct cluster *c = cluster_new(3, NULL);
    struct node *n = &c->nodes[2];
    CLEANUP(freep) char *command = xasprintf("rm -rf %s/data", n->dir);

    start_all(c);
    WAIT(c, cluster_converged(c) && c->nodes[0].state.members.count == 3 &&
                c->nodes[0].state.members.list[0].name[0] != '\0' &&
                c->nodes[0].state.members.list[1].name[0] != '\0' &&
                c->nodes[0].state.members.list[2].name[0] != '\0');
    node_kill(n, SIGKILL);
    cr_assert_eq(system(command), 0);
    WAIT(c, cluster_leader(c) != NULL);
    node_start(n);
    WAIT(c, node_exited(n));
    cr_expect(WIFEXITED(n->exit_status) && WEXITSTATUS(n->exit_status) == 1);
    cluster_free(c);
}

Test(raftd, refuses_a_foreign_keyspace)
{
    struct cluster *c = cluster_new(1, NULL);
    struct node *n = &c->nodes[0];
    CLEANUP(freep) char *command = xasprintf("rm -rf %s/data", n->dir);

    start_all(c);
    put_many(n, 10);
    node_kill(n, SIGKILL);
    cr_assert_eq(system(command), 0); /* the log is gone, the keyspace is not */
    node_start(n);
    WAIT(c, node_exited(n));
    cr_expect(WIFEXITED(n->exit_status) && WEXITSTATUS(n->exit_status) == 1);
    cluster_free(c);
}

/* The one that was paused finds in its sockets that it is to stand, and may take over while a request
 * is on its way; what is executed after that comes after it. */
static void put_until_done(struct node *n)
{
    struct cluster *c = n->c;
    uint64_t id;

    do {
        id = node_propose(n, PROTO_KIND_PUT, BYTES_LIT("some value that is put"));
        WAIT(c, request_settled(c, id));
    } while (c->done[id] == 0);
}

Test(raftd, leadership_is_moved)
{
    struct cluster *c = cluster_new(3, NULL);
    struct node *leader, *other;
    int out;

    start_all(c);
    put_many(&c->nodes[0], 10);
    leader = cluster_leader(c);
    other = &c->nodes[(leader->i + 1) % 3];
    cr_expect_eq(node_move_leader(other, other->member_id), OUT_NOT_LEADER);
    cr_expect_eq(node_move_leader(leader, 77), OUT_BAD_LEADER_TRANSFEREE);
    cr_expect_eq(node_move_leader(leader, leader->member_id), OUT_OK);
    out = node_move_leader(leader, other->member_id);
    cr_assert_eq(out, OUT_OK, "%s", outcome_name(out));
    WAIT(c, cluster_leader(c) == other);
    put_many(leader, 10);

    /* one that does not answer: given up, and the old one still leads */
    node_kill(leader, SIGSTOP);
    out = node_move_leader(other, leader->member_id);
    cr_expect_eq(out, OUT_LEADER_TRANSFER_TIMEOUT, "%s", outcome_name(out));
    node_kill(leader, SIGCONT);
    WAIT(c, cluster_leader(c) != NULL);
    put_until_done(other);
    put_many(other, 10);
    cluster_free(c);
}

/* Who was away when it was removed is told so, and does not start again. */
Test(raftd, removed_while_away)
{
    struct cluster *c = cluster_new(3, "strict-reconfig-check=false\n");
    struct node *leader, *away;

    start_all(c);
    put_many(&c->nodes[0], 10);
    leader = cluster_leader(c);
    away = &c->nodes[(leader->i + 1) % 3];
    node_kill(away, SIGKILL);
    WAIT(c, !away->stored_up);
    conf_change(leader, PROTO_CONF_REMOVE, away->member_id, "", 0);
    conf_change(leader, PROTO_CONF_REMOVE, away->member_id, "", OUT_MEMBER_NOT_FOUND);
    put_many(leader, 10);
    node_start(away);
    WAIT(c, node_exited(away));
    cr_expect(WIFEXITED(away->exit_status) && WEXITSTATUS(away->exit_status) == 1);
    put_many(leader, 10);
    cluster_free(c);
}

static uint64_t alarm_member(const struct cluster *c)
{
    struct pb_reader r = pb_reader(bytes_of(c->alarm_body, c->alarm_len));
    struct pb_field f;
    uint64_t id = 0;

    while (pb_next(&r, &f))
        if (f.number == 2)
            id = f.value;
    return id;
}

Test(raftd, a_keyspace_that_differs_raises_the_alarm)
{
    struct cluster *c = cluster_new(3, "corrupt-check-time=300ms\n");
    struct node *leader, *odd;

    start_all(c);
    put_many(&c->nodes[0], 10);
    leader = cluster_leader(c);
    odd = &c->nodes[(leader->i + 1) % 3];
    cr_expect_eq(c->alarm_count, 0);
    odd->state.hash ^= 1;
    put_many(leader, 1);
    WAIT(c, c->alarm_count > 0);
    cr_expect_eq(alarm_member(c), odd->member_id);
    cluster_free(c);
}

Test(raftd, a_member_that_differs_at_the_start_does_not_start)
{
    struct cluster *c = cluster_new(3, "experimental-initial-corrupt-check=true\n");
    struct node *leader, *odd;

    start_all(c);
    put_many(&c->nodes[0], 10);
    leader = cluster_leader(c);
    odd = &c->nodes[(leader->i + 1) % 3];
    node_kill(odd, SIGKILL);
    WAIT(c, !odd->stored_up);
    odd->state.hash ^= 1;
    node_start(odd);
    WAIT(c, odd->stored_up);
    put_many(leader, 1);
    WAIT(c, node_exited(odd));
    put_many(leader, 1);
    cluster_free(c);
}
