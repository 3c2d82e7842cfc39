/* stored: renewals, as leader and through the leader. */
#include "tests/unit/stored_side.h"


#include "lib/util/macros.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"

TestSuite(stored_leases, .init = side_setup, .fini = side_teardown, .timeout = 60);

/* ---- leases ---- */

enum { LEASE = 77, LEASE_TTL = 60 };

static bool has_proposed(struct side *d, enum proto_kind kind, struct proto_propose_own *ret)
{
    return d->own.len > 0 && proto_propose_own_decode(buf_bytes(&d->own), ret) == 0 &&
           ret->kind == kind;
}

static void grant_lease(struct side *d)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    proto_lease_grant_encode(
        &b, &(struct proto_lease_grant){.id = LEASE, .ttl = LEASE_TTL, .ttl_min = 2});
    side_expect_outcome(d, side_commit(d, PROTO_KIND_LEASE_GRANT, MEMBER, GENERATION, buf_bytes(&b)), OUT_OK);
}

static uint64_t renew(struct side *d)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    uint64_t id = d->next_id++;

    wire_put_i64(&b, LEASE);
    side_read(d, id, PROTO_READ_LEASE_KEEP_ALIVE, false, buf_bytes(&b));
    return id;
}

/* One answer {length, LeaseKeepAliveResponse}: TTL is field 3. */
static int64_t renewed_ttl(struct side *d, uint64_t id)
{
    struct wire_reader answer;
    struct pb_reader r;
    struct pb_field f;
    int64_t ttl = 0;

    side_expect_outcome(d, id, OUT_OK);
    answer = wire_reader(buf_bytes(&side_answer(d, id)->message));
    r = pb_reader(wire_get_bytes(&answer));
    cr_assert_eq(wire_reader_done(&answer), 0);
    while (pb_next(&r, &f))
        if (f.number == 3)
            ttl = (int64_t)f.value;
    cr_assert(!r.bad);
    return ttl;
}

static void answer_lease_barrier(struct side *d, uint64_t term)
{
    struct buf *b = ipc_link_begin(d->raftd, PROTO_BARRIER_INDEX, d->barrier_id);

    proto_barrier_index_encode(
        b, &(struct proto_barrier_index){
               .outcome = OUT_OK, .index = d->next_index - 1, .term = term});
    ipc_link_end(d->raftd);
}

/* It leads, there is a lease, and its LEASE_KEEPER is committed. */
static void become_keeper(struct side *d)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;
    struct proto_propose_own m;

    side_send_role(d, 0, false);
    grant_lease(d);
    until(has_proposed(d, PROTO_KIND_LEASE_KEEPER, &m));
    cr_assert_eq(m.term, TERM);
    buf_append_bytes(&body, m.body);
    side_commit(d, PROTO_KIND_LEASE_KEEPER, MEMBER, 0, buf_bytes(&body));
    side_apply_all(d);
}

Test(stored_leases, a_renewal_is_answered_only_while_it_leads_for_sure)
{
    unsigned int asked;
    uint64_t id;

    become_keeper(&one);
    asked = one.barrier_count;
    id = renew(&one);
    until(one.barrier_count > asked);
    side_settle();
    cr_assert(!side_answered(&one, id), "before the barrier");
    asked = one.barrier_count;
    answer_lease_barrier(&one, 0); /* it does not lead any more, says raftd */
    until(one.barrier_count > asked);
    cr_assert(!side_answered(&one, id), "a barrier of no term of its own");
    asked = one.barrier_count;
    answer_lease_barrier(&one, TERM + 1);
    until(one.barrier_count > asked);
    cr_assert(!side_answered(&one, id), "a barrier of another term");
    answer_lease_barrier(&one, TERM);
    cr_assert_eq(renewed_ttl(&one, id), LEASE_TTL);
}

static void follow(struct side *d)
{
    struct buf *b = ipc_link_begin(d->raftd, PROTO_ROLE, 2);

    proto_raft_status_encode(b, &(struct proto_raft_status){.cluster_id = CLUSTER,
                                                            .member_id = MEMBER,
                                                            .leader_id = MEMBER + 1,
                                                            .term = TERM + 1});
    ipc_link_end(d->raftd);
}

static void answer_forward(struct side *d, int outcome, int64_t ttl)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;
    struct buf *b = ipc_link_begin(d->raftd, PROTO_FORWARD_RESULT, d->forward_id);

    wire_put_u64(&body, d->next_index - 1);
    wire_put_i64(&body, ttl);
    wire_put_i64(&body, ttl);
    proto_forward_result_encode(
        b, &(struct proto_forward_result){
               .outcome = (uint16_t)outcome,
               .body = outcome == OUT_OK ? buf_bytes(&body) : BYTES_EMPTY});
    ipc_link_end(d->raftd);
}

Test(stored_leases, a_renewal_goes_to_whoever_leads)
{
    uint64_t id;

    become_keeper(&one);
    id = renew(&one); /* its barrier is never answered: another member leads by now */
    until(one.barrier_count > 0);
    follow(&one);
    until(one.forward_count == 1);
    answer_forward(&one, OUT_NOT_LEADER, 0);
    until(one.forward_count == 2);
    cr_assert(!side_answered(&one, id));
    answer_forward(&one, OUT_OK, LEASE_TTL);
    cr_assert_eq(renewed_ttl(&one, id), LEASE_TTL);
    id = renew(&one);
    until(one.forward_count == 3);
    answer_forward(&one, OUT_OK, 0);
    cr_assert_eq(renewed_ttl(&one, id), 0, "there is no such lease");
}
