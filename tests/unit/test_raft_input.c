/* Nonsense from outside: refused, counted, and nothing changes. */
#include <criterion/criterion.h>
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/prng.h"
#include "lib/util/xmalloc.h"
#include "tests/unit/raft_net.h"

TestSuite(raft_input, .timeout = 60);

Test(raft_input, malformed)
{
    static const uint64_t huge = UINT64_C(1) << 62;
    struct raft_conf good = {.voter_count = 1, .voters = {1}};
    struct raft_snapshot no_voters = {.index = 5, .term = 1};
    struct raft_snapshot no_index = {.term = 1, .conf = good};
    struct raft_snapshot future = {.index = 5, .term = 99, .conf = good};
    struct raft_snapshot bad_conf = {
        .index = 5, .term = 1, .conf = {.voter_count = 1u << 31, .voters = {1}}};
    struct raft_entry *e[2] = {raft_entry_new(1, 2, RAFT_ENTRY_NORMAL, BYTES_EMPTY),
                               raft_entry_new(3, 2, RAFT_ENTRY_NORMAL, BYTES_EMPTY)};
    struct raft_entry *down[2] = {raft_entry_new(1, 2, RAFT_ENTRY_NORMAL, BYTES_EMPTY),
                                  raft_entry_new(2, 1, RAFT_ENTRY_NORMAL, BYTES_EMPTY)};
    struct raft_entry *later[1] = {raft_entry_new(1, 9, RAFT_ENTRY_NORMAL, BYTES_EMPTY)};
    struct raft_entry *type[1] = {raft_entry_new(1, 2, (enum raft_entry_type)7, BYTES_EMPTY)};
    struct raft_msg rows[] = {
        {.type = 0, .from = 2},
        {.type = (enum raft_msg_type)99, .from = 2},
        {.type = RAFT_MSG_HEARTBEAT, .from = 0},
        {.type = RAFT_MSG_HEARTBEAT, .from = 1},
        {.type = RAFT_MSG_HEARTBEAT, .from = 2, .to = 3},
        {.type = RAFT_MSG_HEARTBEAT, .from = 2, .term = huge},
        {.type = RAFT_MSG_HEARTBEAT, .from = 2, .commit = huge},
        {.type = RAFT_MSG_APPEND, .from = 2, .log_index = huge, .log_term = 1},
        {.type = RAFT_MSG_APPEND, .from = 2, .log_index = 1},
        {.type = RAFT_MSG_APPEND, .from = 2, .log_term = 1},
        {.type = RAFT_MSG_APPEND, .from = 2, .log_index = 1, .log_term = 9},
        {.type = RAFT_MSG_APPEND, .from = 2, .entries = e, .entry_count = 2},
        {.type = RAFT_MSG_APPEND, .from = 2, .entries = down, .entry_count = 2},
        {.type = RAFT_MSG_APPEND, .from = 2, .entries = later, .entry_count = 1},
        {.type = RAFT_MSG_APPEND, .from = 2, .entries = type, .entry_count = 1},
        {.type = RAFT_MSG_HEARTBEAT, .from = 2, .entries = e, .entry_count = 1},
        {.type = RAFT_MSG_HEARTBEAT, .from = 2, .snapshot = &no_voters},
        {.type = RAFT_MSG_SNAPSHOT, .from = 2},
        {.type = RAFT_MSG_SNAPSHOT, .from = 2, .snapshot = &no_voters},
        {.type = RAFT_MSG_SNAPSHOT, .from = 2, .snapshot = &no_index},
        {.type = RAFT_MSG_SNAPSHOT, .from = 2, .snapshot = &future},
        {.type = RAFT_MSG_SNAPSHOT, .from = 2, .snapshot = &bad_conf},
        {.type = RAFT_MSG_VOTE, .from = 2, .log_index = 1},
        {.type = RAFT_MSG_VOTE, .from = 2, .log_index = 1, .log_term = 5},
        {.type = RAFT_MSG_APPEND_RESP, .from = 2, .hint_index = huge, .reject = true},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct net *n = net_new(3);
        struct raft_status s;

        net_run(n);
        if (rows[i].to == 0)
            rows[i].to = 1;
        if (rows[i].term == 0)
            rows[i].term = 5;
        cr_assert_eq(raft_step(net_raft(n, 1), &rows[i]), OUT_MALFORMED, "row %zu", i);
        raft_get_status(net_raft(n, 1), &s);
        cr_assert_eq(s.malformed, 1, "row %zu", i);
        cr_assert_eq(s.term, 1, "row %zu", i);
        cr_assert_not(raft_has_ready(net_raft(n, 1)), "row %zu", i);
        rows[i].term = 0; /* no term at all */
        cr_assert_eq(raft_step(net_raft(n, 1), &rows[i]), OUT_MALFORMED, "row %zu", i);
        net_free(n);
    }
    for (int i = 0; i < 2; i++) {
        raft_entry_unref(e[i]);
        raft_entry_unref(down[i]);
    }
    raft_entry_unref(later[0]);
    raft_entry_unref(type[0]);
}

Test(raft_input, liars_do_no_harm_to_a_leader)
{
    struct net *n = net_new(3);
    struct raft_entry *e[1] = {raft_entry_new(1, 1, RAFT_ENTRY_NORMAL, BYTES_LIT("lie"))};
    struct raft_msg rows[] = {
        {.type = RAFT_MSG_APPEND, .from = 2}, /* a second leader of its term */
        {.type = RAFT_MSG_HEARTBEAT, .from = 2},
        {.type = RAFT_MSG_APPEND_RESP, .from = 2, .log_index = 1000}, /* more than there is */
        {.type = RAFT_MSG_HEARTBEAT_RESP, .from = 2, .context = 77},
    };
    struct raft_msg conflict = {
        .type = RAFT_MSG_APPEND, .from = 1, .to = 2, .entries = e, .entry_count = 1};
    struct raft_msg stranger = {.type = RAFT_MSG_APPEND_RESP, .from = 66, .to = 1, .log_index = 1};
    struct raft_status s;

    net_elect(n, 1);
    net_propose(n, 1, "x");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        rows[i].to = 1;
        rows[i].term = raft_get_term(net_raft(n, 1));
        cr_assert_eq(raft_step(net_raft(n, 1), &rows[i]), OUT_MALFORMED, "row %zu", i);
        cr_assert_eq(raft_get_state(net_raft(n, 1)), RAFT_LEADER);
    }
    stranger.term = conflict.term = raft_get_term(net_raft(n, 1));
    cr_assert_eq(raft_step(net_raft(n, 1), &stranger), 0);
    raft_get_status(net_raft(n, 1), &s);
    cr_assert_eq(s.unknown_sender, 1);
    /* against what is committed */
    cr_assert_eq(raft_step(net_raft(n, 2), &conflict), 0);
    net_run(n);
    cr_assert_eq(n->nodes[2].log[1]->term, raft_get_term(net_raft(n, 1)));
    raft_entry_unref(e[0]);
    net_free(n);
}

static void random_msg(struct prng *p, struct raft_msg *m, struct raft_entry **e,
                       struct raft_snapshot *s)
{
    static const uint64_t numbers[] = {0, 1, 2, 3, 4, 5, 7, 100, UINT64_C(1) << 61, UINT64_MAX};

#define PICK() numbers[prng_below(p, prng_below(p, 4) != 0 ? 7 : ARRAY_LEN(numbers))]
    *m = (struct raft_msg){.type = (enum raft_msg_type)prng_below(p, RAFT_MSG_TYPE_MAX + 2),
                           .from = prng_below(p, 5),
                           .to = 1,
                           .term = PICK(),
                           .log_index = PICK(),
                           .log_term = PICK(),
                           .commit = PICK(),
                           .hint_index = PICK(),
                           .hint_term = PICK(),
                           .context = PICK(),
                           .reject = prng_below(p, 2) != 0,
                           .transfer = prng_below(p, 4) == 0};
    if (m->type == RAFT_MSG_APPEND) {
        raft_term term = m->log_term;

        m->entries = e;
        m->entry_count = prng_below(p, 4);
        for (size_t i = 0; i < m->entry_count; i++) {
            term += prng_below(p, 2);
            e[i] =
                raft_entry_new(m->log_index + 1 + i, MAX(term, 1), RAFT_ENTRY_NORMAL, BYTES_EMPTY);
        }
    }
    if (m->type == RAFT_MSG_SNAPSHOT) {
        *s = (struct raft_snapshot){.index = PICK(), .term = PICK()};
        s->conf.voter_count = 3;
        for (raft_id i = 0; i < 3; i++)
            s->conf.voters[i] = i + 1;
        m->snapshot = s;
    }
#undef PICK
}

/* Whatever comes, no assertion fails. (Liars can of course destroy a cluster; not a process.) */
Test(raft_input, random_messages)
{
    for (uint64_t seed = 1; seed <= 400; seed++) {
        struct net *n = net_new(3);
        struct prng p;

        prng_init(&p, seed);
        if (seed % 2 == 0)
            net_elect(n, 1);
        net_isolate(n, 1, true);
        for (int i = 0; i < 300; i++) {
            struct raft_entry *e[4];
            struct raft_snapshot s;
            struct raft_msg m;

            random_msg(&p, &m, e, &s);
            raft_step(net_raft(n, 1), &m);
            for (size_t k = 0; k < m.entry_count; k++)
                raft_entry_unref(e[k]);
            if (prng_below(&p, 8) == 0) {
                struct raft_proposed pr;

                raft_propose(net_raft(n, 1), RAFT_ENTRY_NORMAL, BYTES_LIT("x"), &pr);
                raft_read_index(net_raft(n, 1), (uint64_t)i + 1);
            }
            if (prng_below(&p, 4) == 0)
                raft_tick(net_raft(n, 1));
            if (prng_below(&p, 3) == 0) {
                struct raft_ready rd = {0};

                raft_take_ready(net_raft(n, 1), &rd);
                raft_persisted(net_raft(n, 1), rd.seq);
                raft_ready_fini(&rd);
            }
        }
        net_free(n);
    }
}
