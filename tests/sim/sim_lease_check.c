/*
 * When leases may end, and must (ARCHITECTURE.md "Lease").
 *   - never early: not before TTL seconds have gone by since the grant was agreed on, and since the
 *     keeper of any renewal that was answered began to make sure that it leads;
 *   - late by no more than the time without a keeper since the last renewal, and a little: what is
 *     left of a TTL survives leaders, crashes and snapshots;
 *   - every lease ends once, with exactly what hangs on it, in one revision: the model says which
 *     entries count, and what revision each must lead to on every member (sim_check.c).
 *
 * Time without a keeper is measured by what is agreed on: a keeper tells the clock once a second,
 * so a longer time between two proposals of agreed entries, a new keeper between them, or a long
 * way to agreement is a gap. A TTL runs from when the keeper hears of the grant, and also from a
 * renewal that made the table forget a deadline and then was not answered.
 */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

#define EARLY (6 * MS) /* clocks run differently fast: a lease of 9 s, and some roundings */
#define QUIET                                                                                      \
    (1300 * MS)         /* between the keeper's entries while it has leases: a second and a tick */
#define SLOW (300 * MS) /* from a proposal until it is agreed on */
/* QUIET before it is a gap; then the time until a deadline is stated, and ticks. */
#define LATE (QUIET + 700 * MS)

void check_lease_gap(struct sim *s, uint64_t from, uint64_t to)
{
    if (s->gap_count > 0 && from <= s->gaps[s->gap_count - 1].to) {
        s->gaps[s->gap_count - 1].from = MIN(s->gaps[s->gap_count - 1].from, from);
        s->gaps[s->gap_count - 1].to = MAX(s->gaps[s->gap_count - 1].to, to);
        return;
    }
    if (s->gap_count == s->gap_cap) {
        s->gap_cap = s->gap_cap * 2 + 64;
        s->gaps = xreallocarray(s->gaps, s->gap_cap, sizeof(*s->gaps));
    }
    s->gaps[s->gap_count].from = from;
    s->gaps[s->gap_count++].to = to;
}

static uint64_t overlap(uint64_t a_from, uint64_t a_to, uint64_t b_from, uint64_t b_to)
{
    uint64_t from = MAX(a_from, b_from), to = MIN(a_to, b_to);

    return to > from ? to - from : 0;
}

static uint64_t gaps_within(const struct sim *s, uint64_t from, uint64_t to)
{
    uint64_t sum = 0;

    from -= MIN(from, (uint64_t)SECOND); /* a renewal that had not been stated yet */
    for (size_t i = 0; i < s->gap_count; i++)
        sum += overlap(s->gaps[i].from, s->gaps[i].to, from, to);
    return sum;
}

static void keeper_speaks(struct sim *s, uint64_t proposed)
{
    if (s->keeper_changed || proposed > s->keeper_said + QUIET)
        check_lease_gap(s, s->keeper_said, proposed);
    if (s->now > proposed + SLOW)
        check_lease_gap(s, proposed, s->now);
    s->keeper_said = proposed;
    s->keeper_changed = false;
}

static void expire(struct sim *s, int64_t id, uint64_t granted, uint64_t proposed)
{
    struct model_lease *l = &s->model.leases[id];
    uint64_t gaps;

    if (!l->exists || l->number > granted)
        return;
    CHECK(s, s->now + EARLY >= l->promised,
          "early: lease %" PRId64 " (the %" PRIu64 ".) ended %" PRIu64 " ms too soon", id,
          l->number, (l->promised - s->now) / MS);
    gaps = gaps_within(s, l->from, proposed);
    CHECK(s, proposed <= l->due + gaps + LATE,
          "late: lease %" PRId64 " (the %" PRIu64 ".) of %" PRId64 " s ends %" PRIu64
          " ms late, %" PRIu64 " ms were without a keeper",
          id, l->number, l->ttl, (proposed - l->due) / MS, gaps / MS);
    l->exists = false;
    model_delete_leased(&s->model, id);
    if (l->number >= s->lease_end_count) {
        size_t count = (size_t)l->number + 64;

        s->lease_ends = xreallocarray(s->lease_ends, count, sizeof(*s->lease_ends));
        memset(s->lease_ends + s->lease_end_count, 0,
               (count - s->lease_end_count) * sizeof(*s->lease_ends));
        s->lease_end_count = count;
    }
    s->lease_ends[l->number] = s->now;
    s->expired_count++;
}

void check_lease_entry(struct sim *s, raft_term term, const struct proto_payload *p)
{
    struct wire_reader r = wire_reader(p->body);
    uint64_t proposed, keeper = wire_get_u64(&r), granted;

    CHECK(s, p->request_id >= 1 && p->request_id <= s->own_count, "an entry nobody proposed");
    proposed = s->own[p->request_id - 1];
    if (p->kind == PROTO_KIND_LEASE_KEEPER) {
        s->model.keeper_term = term;
        s->model.keeper_id = keeper;
        s->keeper_changed = true;
        return;
    }
    if (term != s->model.keeper_term || keeper != s->model.keeper_id)
        return;
    keeper_speaks(s, proposed);
    if (p->kind != PROTO_KIND_LEASE_EXPIRE)
        return;
    granted = wire_get_u64(&r);
    while (r.pos < r.end)
        expire(s, wire_get_i64(&r), granted, proposed);
    CHECK(s, !r.bad, "an entry that ends leases");
}

void check_lease_counted(struct sim *s, const struct lease *l)
{
    struct model_lease *m = &s->model.leases[l->id];

    if (!m->exists || m->number != l->number)
        return;
    m->from = MAX(m->from, s->now);
    m->due = MAX(m->due, s->now + (uint64_t)l->ttl * SECOND);
}

void check_lease_renewed(struct sim *s, const struct lease *l, uint64_t asked)
{
    struct model_lease *m = &s->model.leases[l->id];
    uint64_t ttl = (uint64_t)l->ttl * SECOND;

    s->renewed_count++;
    check_lease_counted(s, l);
    if (m->exists && m->number == l->number) {
        m->promised = MAX(m->promised, asked + ttl);
        return;
    }
    if (l->number < s->lease_end_count && s->lease_ends[l->number] != 0)
        CHECK(s, s->lease_ends[l->number] + EARLY >= asked + ttl,
              "early: lease %" PRId64 " (the %" PRIu64 ".) had ended %" PRIu64
              " ms before a renewal of it was answered",
              l->id, l->number, (s->now - s->lease_ends[l->number]) / MS);
}

void check_leases_end(struct sim *s)
{
    uint64_t gap = s->now > s->keeper_said + QUIET ? s->now - s->keeper_said : 0;

    for (int64_t id = 1; id <= SIM_TENANTS; id++) {
        const struct model_lease *l = &s->model.leases[id];

        CHECK(s, !l->exists || s->now <= l->due + gaps_within(s, l->from, s->now) + gap + LATE,
              "late: lease %" PRId64 " is still there %" PRIu64 " ms after its end", id,
              (s->now - l->due) / MS);
    }
}

void check_lease_fini(struct sim *s)
{
    free(s->own);
    free(s->gaps);
    free(s->lease_ends);
}
