/*
 * Leases while this member leads: its stored proposes LEASE_KEEPER with a number of its own, also
 * while there are no leases, so that the first one finds a keeper. Once that entry is executed, every
 * entry of a keeper before it has been executed or never will count, and this one takes over: it
 * proposes what is over and what the table is to know of deadlines (lease_keeper.h). Questions about
 * leases are in stored_lease_calls.c.
 */
#include "stored/stored_leases.h"

#include <inttypes.h>
#include <stdlib.h>

#include "lib/ipc/ipc.h"
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"
#include "stored/lease/lease_table.h"

enum {
    TICK_MS = 50,
    KEEPER_AGAIN_MS = 1000,
    ELECTION_TIMEOUT_MS_DEFAULT = 1000,
};

/* Odd: numbers of processes with neighbouring generations lie far apart. */
static const uint64_t ID_SPREAD = 0x9e3779b97f4a7c15;

static uint64_t now_ms(const struct stored *s)
{
    return loop_now_ms(s->loop);
}

uint64_t stored_leases_clock_ms(void *user)
{
    (void)user;
    return loop_clock_ns() / 1000000;
}

uint64_t stored_leases_election_ms(const struct stored *s)
{
    return s->role.election_timeout_ms != 0 ? s->role.election_timeout_ms
                                            : ELECTION_TIMEOUT_MS_DEFAULT;
}

bool stored_leases_has_leader(const struct stored *s)
{
    return s->raftd_up && s->have_role && s->role.leader_id != 0;
}

/* ---- proposals ---- */

static void propose(struct stored *s, enum proto_kind kind, struct bytes body)
{
    struct buf *b = ipc_link_begin(s->raftd, PROTO_PROPOSE_OWN, 0);

    if (b == NULL)
        return;
    proto_propose_own_encode(
        b, &(struct proto_propose_own){.term = s->leases->term, .kind = kind, .body = body});
    ipc_link_end(s->raftd);
}

void stored_leases_propose_clock(struct stored *s, struct bytes deadlines)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT;

    proto_lease_clock_encode(&body, &(struct proto_lease_clock){
                                        .keeper = s->leases->keeper_id,
                                        .now_ms = lease_keeper_now(&s->leases->keeper),
                                        .granted = kv_leases(s->kv)->granted,
                                        .deadlines = deadlines});
    propose(s, PROTO_KIND_LEASE_CLOCK, buf_bytes(&body));
}

static void propose_expiries(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    for (;;) {
        buf_clear(&ls->scratch);
        wire_put_u64(&ls->scratch, ls->keeper_id);
        wire_put_u64(&ls->scratch, kv_leases(s->kv)->granted);
        if (lease_keeper_take_due(&ls->keeper, &ls->scratch) == 0)
            return;
        propose(s, PROTO_KIND_LEASE_EXPIRE, buf_bytes(&ls->scratch));
    }
}

static void propose_deadlines(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    buf_clear(&ls->scratch);
    while (lease_table_count(kv_leases(s->kv)) > 0 &&
           lease_keeper_take_clock(&ls->keeper, &ls->scratch)) {
        stored_leases_propose_clock(s, buf_bytes(&ls->scratch));
        buf_clear(&ls->scratch);
    }
}

void stored_leases_list(struct stored *s, struct buf *message)
{
    struct kv_header header = stored_header(s);
    struct lease_table *t = kv_leases(s->kv);
    struct lease **list = lease_keeper_is_active(&s->leases->keeper)
                              ? lease_keeper_sorted(&s->leases->keeper)
                              : lease_table_sorted(t);
    struct kv_state state;

    kv_get_state(s->kv, &state);
    kv_put_header(message, &header, state.revision);
    for (size_t i = 0; i < lease_table_count(t); i++) {
        uint64_t id = (uint64_t)list[i]->id;

        pb_put_tag(message, 2, PB_LENGTH);
        pb_put_varint(message, pb_size_u64(1, id));
        pb_put_u64(message, 1, id);
    }
    free(list);
}

/* ---- role ---- */

static void step_down(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    lease_keeper_stop(&ls->keeper);
    lease_calls_step_down(s);
    ls->keeper_id++;
    ls->keeper_asked_ms = 0;
}

void stored_leases_role(struct stored *s)
{
    struct stored_leases *ls = s->leases;
    bool up = s->raftd_up && s->have_role;
    bool leads = up && s->role.state == PROTO_RAFT_LEADER;
    uint64_t term = up ? s->role.term : 0;

    if (leads == ls->leads && term == ls->term)
        return;
    step_down(s);
    ls->leads = leads;
    ls->term = term;
    loop_hook_arm(s->work_hook);
}

void stored_leases_state_gone(struct stored *s)
{
    if (s->leases == NULL)
        return;
    step_down(s);
    lease_calls_state_gone(s);
}

/* It leads, and something has to be done about leases every now and then. */
static bool is_busy(const struct stored *s)
{
    const struct stored_leases *ls = s->leases;

    return ls->leads && (!lease_keeper_is_active(&ls->keeper) || lease_calls_are_waiting(s) ||
                         lease_table_count(kv_leases(s->kv)) > 0);
}

static void try_keep(struct stored *s)
{
    struct stored_leases *ls = s->leases;
    struct lease_table *t = kv_leases(s->kv);
    uint64_t now = now_ms(s);

    if (t->keeper_term == ls->term && t->keeper_id == ls->keeper_id) {
        lease_keeper_start(&ls->keeper, t,
                           lease_clock_at_least(&ls->clock, stored_leases_clock_ms(NULL)));
        log_info("deciding about %zu leases in term %" PRIu64, lease_table_count(t), ls->term);
        return;
    }
    if (ls->keeper_asked_ms != 0 && now < ls->keeper_asked_ms + KEEPER_AGAIN_MS)
        return;
    ls->keeper_asked_ms = now;
    buf_clear(&ls->scratch);
    proto_u64_encode(&ls->scratch, &(struct proto_u64){.value = ls->keeper_id});
    propose(s, PROTO_KIND_LEASE_KEEPER, buf_bytes(&ls->scratch));
}

static void keep(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    if (!lease_keeper_is_active(&ls->keeper))
        try_keep(s);
    if (!lease_keeper_is_active(&ls->keeper))
        return;
    lease_calls_keep(s);
    propose_expiries(s);
}

void stored_leases_start_ticks(struct stored *s)
{
    if (!loop_timer_active(s->leases->timer))
        loop_timer_start(s->leases->timer, TICK_MS, TICK_MS);
}

void stored_leases_work(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    /* not the loop's time: that may be from before an entry of this turn was proposed */
    lease_clock_note(&ls->clock, kv_leases(s->kv), stored_leases_clock_ms(NULL));
    if (ls->leads)
        keep(s);
    else if (stored_leases_has_leader(s))
        lease_calls_forward(s);
    lease_calls_answered(s);
    if (is_busy(s))
        stored_leases_start_ticks(s);
}

static void on_tick(void *user)
{
    struct stored *s = user;
    struct stored_leases *ls = s->leases;

    if (s->kv == NULL || s->failed)
        return;
    lease_calls_tick(s);
    if (lease_keeper_is_active(&ls->keeper))
        propose_deadlines(s);
    if (ls->call_count == 0 && !is_busy(s))
        loop_timer_stop(ls->timer);
    loop_hook_arm(s->work_hook);
}

void stored_leases_get_stats(const struct stored *s, struct stored_lease_stats *ret)
{
    *ret = s->leases->stats;
}

void stored_leases_init(struct stored *s)
{
    struct stored_leases *ls = xcalloc(1, sizeof(*ls));

    s->leases = ls;
    lease_keeper_init(&ls->keeper, stored_leases_clock_ms, NULL);
    lease_calls_init(s);
    ls->keeper_id = s->args.generation * ID_SPREAD;
    ls->last_forward_id = s->args.generation * ID_SPREAD; /* an answer for a process before is none */
    ls->timer = loop_timer_new(s->loop, "leases", on_tick, s);
}

void stored_leases_fini(struct stored *s)
{
    struct stored_leases *ls = s->leases;

    if (ls == NULL)
        return;
    lease_calls_fini(s);
    lease_keeper_fini(&ls->keeper);
    loop_timer_free(ls->timer);
    buf_fini(&ls->scratch);
    free(TAKE(s->leases));
}
