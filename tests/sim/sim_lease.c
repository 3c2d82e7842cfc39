/*
 * What stored does about leases around its keeper, written down a second time for the simulator
 * (stored_leases.c and stored_lease_calls.c need links and a loop): takes over with a term, asks a
 * barrier for renewals, proposes what the keeper wants. The keeper, the lease clock and the table
 * are the real ones, on a clock that runs a little too fast or too slow.
 *
 * ROLE takes its time: the member may believe for a while that it leads. Its entries reach raftd in
 * their order, late, and also when stored has died meanwhile.
 */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <string.h>
#include "lib/proto/outcome.h"
#include "lib/util/sim_bug.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"
#include "tests/sim/sim_sm.h"

#define BARRIER_FRESH (1 * SECOND) /* an answer after that says too much */
#define KEEPER_AGAIN  (1 * SECOND)
#define ROLE_PM       600 /* of the turns look at the role */

/* Ids of barriers are apart from those of reads, which are operations. */
static const uint64_t BARRIER_BASE = (uint64_t)1 << 40;

static uint64_t clock_ms(void *user)
{
    const struct node_leases *ls = user;
    int64_t now = (int64_t)ls->sim->now;

    /* members were started at different times */
    return (uint64_t)(now + now / 1000 * ls->node->clock_ppm / 1000) / MS + ls->node->id * 100000;
}

void lease_opened(struct sim *s, struct sim_node *n)
{
    struct node_leases *ls = &n->leases;
    uint64_t own_at = ls->own_at;

    *ls = (struct node_leases){
        .sim = s, .node = n, .open = true, .keeper_id = ++s->keeper_ids, .own_at = own_at};
    lease_keeper_init(&ls->keeper, clock_ms, ls);
}

void lease_gone(struct sim_node *n)
{
    if (!n->leases.open)
        return;
    n->leases.open = n->leases.due = false;
    n->leases.call_count = 0;
    n->leases.barrier_id = 0;
    lease_keeper_fini(&n->leases.keeper);
}

/* ---- entries ---- */
static void propose(struct sim *s, struct sim_node *n, enum proto_kind kind, struct bytes body)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    struct node_leases *ls = &n->leases;
    struct event *e;
    uint64_t arrives;

    if (s->own_count == s->own_cap) {
        s->own_cap = s->own_cap * 2 + 256;
        s->own = xreallocarray(s->own, s->own_cap, sizeof(*s->own));
    }
    s->own[s->own_count++] = s->now;
    proto_payload_encode(
        &b, &(struct proto_payload){.kind = kind, .request_id = s->own_count, .body = body});
    arrives = s->now + sim_between(s, 20, 2 * MS);
    ls->own_at = MAX(ls->own_at, arrives); /* in their order: the keeper relies on it */
    e = sim_post(s, ls->own_at - s->now, EV_OWN, n->id);
    e->a = ls->term;
    e->data = xmemdup(b.data, b.len);
    e->len = b.len;
}

void lease_propose_own(struct sim *s, struct sim_node *n, const struct event *e)
{
    struct raft_proposed at;

    if (raft_get_state(n->raft) != RAFT_LEADER || raft_get_term(n->raft) != e->a)
        return;
    if (raft_propose(n->raft, RAFT_ENTRY_NORMAL, bytes_of(e->data, e->len), &at) != 0)
        check_lease_gap(s, s->now, s->now + LEASE_ASK_AGAIN_MS * MS); /* it is asked again */
}

static void propose_clock(struct sim *s, struct sim_node *n, struct bytes deadlines)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;

    proto_lease_clock_encode(
        &body, &(struct proto_lease_clock){.keeper = n->leases.keeper_id,
                                           .now_ms = lease_keeper_now(&n->leases.keeper),
                                           .granted = sm_leases(n->sm)->granted,
                                           .deadlines = deadlines});
    propose(s, n, PROTO_KIND_LEASE_CLOCK, buf_bytes(&body));
}

static void propose_ends(struct sim *s, struct sim_node *n)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;

    for (;;) {
        buf_clear(&body);
        wire_put_u64(&body, n->leases.keeper_id);
        wire_put_u64(&body, sm_leases(n->sm)->granted);
        if (lease_keeper_take_due(&n->leases.keeper, &body) == 0)
            return;
        propose(s, n, PROTO_KIND_LEASE_EXPIRE, buf_bytes(&body));
    }
}

/* ---- role ---- */
static void step_down(struct sim *s, struct sim_node *n)
{
    struct node_leases *ls = &n->leases;

    lease_keeper_stop(&ls->keeper);
    for (size_t i = 0; i < ls->call_count; i++)
        op_refuse(s, op_get(s, ls->calls[i]), "leader changed");
    ls->call_count = 0;
    ls->barrier_id = 0;
    ls->keeper_id = ++s->keeper_ids;
    ls->keeper_asked = 0;
}

static void look_at_role(struct sim *s, struct sim_node *n)
{
    struct node_leases *ls = &n->leases;
    bool leads = raft_get_state(n->raft) == RAFT_LEADER;
    raft_term term = raft_get_term(n->raft);

    if (leads == ls->leads && term == ls->term)
        return;
    if (ls->news_term != term && sim_chance(s, 300))
        ls->deaf_until = s->now + sim_between(s, 10 * MS, 3 * SECOND);
    ls->news_term = term;
    if (s->now < ls->deaf_until)
        return;
    step_down(s, n);
    ls->leads = leads;
    ls->term = term;
}

static void try_keep(struct sim *s, struct sim_node *n)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;
    struct node_leases *ls = &n->leases;
    struct lease_table *t = sm_leases(n->sm);

    if (t->keeper_term == ls->term && t->keeper_id == ls->keeper_id) {
        lease_keeper_start(&ls->keeper, t, lease_clock_at_least(&ls->clock, clock_ms(ls)));
        TRACE(s, "node %" PRIu64 " keeps %zu leases in term %" PRIu64, n->id, lease_table_count(t),
              ls->term);
        return;
    }
    if (ls->keeper_asked != 0 && s->now < ls->keeper_asked + KEEPER_AGAIN)
        return;
    ls->keeper_asked = s->now;
    proto_u64_encode(&body, &(struct proto_u64){.value = ls->keeper_id});
    propose(s, n, PROTO_KIND_LEASE_KEEPER, buf_bytes(&body));
}

/* ---- renewals ---- */
void lease_submit(struct sim *s, struct sim_node *n, struct sim_op *op)
{
    struct node_leases *ls = &n->leases;

    if (!ls->open || !ls->leads || ls->call_count == ARRAY_LEN(ls->calls)) {
        op_refuse(s, op, "does not keep leases");
        return;
    }
    ls->calls[ls->call_count++] = op->id;
    ls->parked = false;
    ls->due = true;
}

/* False: it has to wait. */
static bool renew(struct sim *s, struct sim_node *n, struct sim_op *op, struct buf *clears)
{
    struct node_leases *ls = &n->leases;
    struct lease *l = lease_table_find(sm_leases(n->sm), op->lease);

    if (op->state != OP_PENDING)
        return true;
    switch (lease_keeper_renew(&ls->keeper, l)) {
    case LEASE_RENEWED:
        check_lease_renewed(s, l, ls->barrier_asked);
        op_answer(s, op, &(struct op_result){.ttl = l->ttl});
        return true;
    case LEASE_GONE:
        op_answer(s, op, &(struct op_result){0});
        return true;
    case LEASE_MUST_CLEAR:
        lease_keeper_clear(&ls->keeper, l);
        check_lease_counted(s, l);
        wire_put_i64(clears, l->id);
        wire_put_u64(clears, 0);
        return false;
    case LEASE_WAIT:
        break;
    }
    return false;
}

static void answer_calls(struct sim *s, struct sim_node *n)
{
    CLEANUP(buf_fini) struct buf clears = BUF_INIT;
    struct node_leases *ls = &n->leases;
    size_t kept = 0;

    for (size_t i = 0; i < ls->call_count; i++)
        if (i >= ls->asked_count || !renew(s, n, op_get(s, ls->calls[i]), &clears))
            ls->calls[kept++] = ls->calls[i];
    ls->call_count = kept;
    ls->barrier_id = 0;
    ls->parked = true;
    ls->seen_changes = sm_leases(n->sm)->change_count;
    if (clears.len > 0)
        propose_clock(s, n, buf_bytes(&clears));
}

bool lease_barrier(struct sim_node *n, const struct raft_read_state *rs)
{
    struct node_leases *ls = &n->leases;

    if (rs->id < BARRIER_BASE)
        return false;
    if (rs->id != ls->barrier_id)
        return true;
    if (rs->outcome != OUT_OK || raft_get_state(n->raft) != RAFT_LEADER ||
        raft_get_term(n->raft) != ls->barrier_term) {
        ls->barrier_id = 0; /* asked anew on the next tick */
        ls->parked = true;
    } else {
        ls->barrier_known = true;
        ls->barrier_index = rs->index;
        ls->due = true;
    }
    return true;
}

static void serve_barrier(struct sim *s, struct sim_node *n)
{
    struct node_leases *ls = &n->leases;
    struct sm_state st;

    if (ls->barrier_id == 0 || !ls->barrier_known)
        return;
    sm_get_state(n->sm, &st);
    if (st.applied < ls->barrier_index)
        return;
    if (s->now - ls->barrier_asked >= BARRIER_FRESH)
        ls->barrier_id = 0;
    else
        answer_calls(s, n);
}

static void ask_barrier(struct sim *s, struct sim_node *n)
{
    struct node_leases *ls = &n->leases;

    if (ls->barrier_id != 0 || ls->call_count == 0 ||
        (ls->parked && ls->seen_changes == sm_leases(n->sm)->change_count))
        return;
    ls->barrier_asked = s->now;
    ls->asked_count = ls->call_count;
    if (SIM_BUG(LEASE_NO_BARRIER)) {
        answer_calls(s, n);
        return;
    }
    ls->barrier_id = BARRIER_BASE + ++s->barrier_ids;
    ls->barrier_term = ls->term;
    ls->barrier_known = false;
    raft_read_index(n->raft, ls->barrier_id);
}

/* ---- turns ---- */
static bool is_able(const struct sim_node *n)
{
    const struct sim *s = n->leases.sim;

    /* at the end everybody has to come to the same index */
    return n->leases.open && s->leases && s->now + 2 * SECOND < s->end && n->sm != NULL &&
           n->raft != NULL && !n->activating;
}

/* Calls that wait for an entry are looked at again when something was executed, and on the tick. */
void lease_turn(struct sim *s, struct sim_node *n)
{
    struct node_leases *ls = &n->leases;

    ls->due = false;
    if (!is_able(n))
        return;
    lease_clock_note(&ls->clock, sm_leases(n->sm), clock_ms(ls));
    if (sim_chance(s, ROLE_PM))
        look_at_role(s, n);
    if (!ls->leads)
        return;
    if (!lease_keeper_is_active(&ls->keeper))
        try_keep(s, n);
    if (!lease_keeper_is_active(&ls->keeper))
        return;
    serve_barrier(s, n);
    ask_barrier(s, n);
    propose_ends(s, n);
}

void lease_tick(struct sim *s, struct sim_node *n)
{
    CLEANUP(buf_fini) struct buf deadlines = BUF_INIT;
    struct node_leases *ls = &n->leases;

    if (!is_able(n))
        return;
    if (lease_keeper_is_active(&ls->keeper))
        while (lease_table_count(sm_leases(n->sm)) > 0 &&
               lease_keeper_take_clock(&ls->keeper, &deadlines)) {
            propose_clock(s, n, buf_bytes(&deadlines));
            buf_clear(&deadlines);
        }
    ls->parked = false;
    ls->due = true;
}
