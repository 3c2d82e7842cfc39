/*
 * The clock, the network, and the nemesis that breaks things on purpose. A run is: some seconds of
 * chaos, whose kind and strength the seed draws; then calm (everything healed, everybody up), in
 * which the cluster must recover by itself; then the last checks.
 */
#include "tests/sim/sim.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/xmalloc.h"
#include "tests/sim/sim_sm.h"
#include "tests/unit/wal_disk.h"

void sim_fail(struct sim *s, const char *fmt, ...)
{
    va_list ap;
    int n = snprintf(s->why, sizeof(s->why), "%" PRIu64 ".%06" PRIu64 " s: ", s->now / SECOND,
                     s->now % SECOND);

    va_start(ap, fmt);
    vsnprintf(s->why + n, sizeof(s->why) - (size_t)n, fmt, ap);
    va_end(ap);
    longjmp(s->failed, 1);
}

void sim_trace(struct sim *s, const char *fmt, ...)
{
    va_list ap;

    printf("%4" PRIu64 ".%06" PRIu64 " ", s->now / SECOND, s->now % SECOND);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

bool sim_chance(struct sim *s, uint32_t per_mille)
{
    return prng_below(&s->prng, 1000) < per_mille;
}

uint64_t sim_between(struct sim *s, uint64_t lo, uint64_t hi)
{
    return lo + prng_below(&s->prng, hi - lo + 1);
}

/* ---- the queue of events ---- */
static bool earlier(const struct event *a, const struct event *b)
{
    return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

static void heap_push(struct sim *s, struct event *e)
{
    size_t i = s->heap_count++;

    if (s->heap_count > s->heap_cap) {
        s->heap_cap = s->heap_cap * 2 + 256;
        s->heap = xreallocarray(s->heap, s->heap_cap, sizeof(struct event *));
    }
    while (i > 0 && earlier(e, s->heap[(i - 1) / 2])) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = e;
}

static struct event *heap_pop(struct sim *s)
{
    struct event *top = s->heap[0], *last = s->heap[--s->heap_count];
    size_t i = 0;

    for (;;) {
        size_t c = 2 * i + 1;

        if (c >= s->heap_count)
            break;
        if (c + 1 < s->heap_count && earlier(s->heap[c + 1], s->heap[c]))
            c++;
        if (!earlier(s->heap[c], last))
            break;
        s->heap[i] = s->heap[c];
        i = c;
    }
    s->heap[i] = last;
    return top;
}

struct event *sim_post(struct sim *s, uint64_t after_us, enum event_type type, raft_id node)
{
    struct event *e = xcalloc(1, sizeof(*e));

    *e = (struct event){.at = s->now + after_us,
                        .seq = ++s->seq,
                        .type = type,
                        .node = node,
                        .life = s->nodes[node].life};
    heap_push(s, e);
    return e;
}

static void event_free(struct event *e)
{
    free(e->data);
    free(e);
}

/* ---- the network ---- */
bool sim_connected(const struct sim *s, raft_id from, raft_id to)
{
    return !s->cut[from][to];
}

static void send_copy(struct sim *s, raft_id from, raft_id to, struct bytes data)
{
    uint64_t delay = sim_between(s, 50, 1500);
    struct event *e;

    if (sim_chance(s, 100))
        delay += sim_between(s, 0, s->delay_max_us);
    e = sim_post(s, delay, EV_MESSAGE, to);
    e->life = 0;
    e->from = from;
    e->data = xmemdup(data.data, data.len);
    e->len = data.len;
}

void sim_send(struct sim *s, raft_id from, raft_id to, struct bytes data, bool once)
{
    if (!sim_connected(s, from, to) || sim_chance(s, s->loss_pm))
        return;
    send_copy(s, from, to, data);
    if (!once && sim_chance(s, s->dup_pm))
        send_copy(s, from, to, data);
}

/* ---- the nemesis ---- */
enum nemesis {
    N_PARTITION,
    N_ISOLATE,
    N_ONE_WAY,
    N_HEAL,
    N_KILL,
    N_POWER,
    N_POWER_ALL,
    N_TORN,
    N_PAUSE,
    N_SM_KILL,
    N_SLOW_DISK,
    N_TRANSFER,
    N_STEP_DOWN,
    N_CONF,
    N_COUNT
};
static_assert(N_COUNT <= 16, "sim.weights");

raft_id sim_leader(const struct sim *s)
{
    raft_id best = 0;
    raft_term term = 0;

    for (raft_id id = 1; id <= SIM_NODES; id++) {
        const struct sim_node *n = &s->nodes[id];

        if (n->state == NODE_UP && raft_get_state(n->raft) == RAFT_LEADER &&
            raft_get_term(n->raft) > term) {
            best = id;
            term = raft_get_term(n->raft);
        }
    }
    return best;
}

static void heal(struct sim *s)
{
    memset(s->cut, 0, sizeof(s->cut));
}

static void partition(struct sim *s)
{
    bool side[SIM_NODES + 1];

    for (raft_id id = 1; id <= SIM_NODES; id++)
        side[id] = sim_chance(s, 500);
    for (raft_id a = 1; a <= SIM_NODES; a++)
        for (raft_id b = 1; b <= SIM_NODES; b++)
            if (side[a] != side[b])
                s->cut[a][b] = true;
}

static struct sim_node *pick_up(struct sim *s)
{
    struct sim_node *up[SIM_NODES];
    size_t n = 0;

    for (raft_id id = 1; id <= SIM_NODES; id++)
        if (s->nodes[id].state == NODE_UP)
            up[n++] = &s->nodes[id];
    if (n == 0)
        return NULL;
    if (sim_leader(s) != 0 && sim_chance(s, s->churn ? 850 : 400))
        return &s->nodes[sim_leader(s)];
    return up[prng_below(&s->prng, n)];
}

static void isolate(struct sim *s, raft_id id, bool in, bool out)
{
    for (raft_id o = 1; o <= SIM_NODES; o++) {
        if (o == id)
            continue;
        if (in)
            s->cut[o][id] = true;
        if (out)
            s->cut[id][o] = true;
    }
}

/* A membership change through the leader; joins start their member, which knows nothing yet. */
static void change_members(struct sim *s, struct sim_node *leader)
{
    const struct raft_conf *c = raft_get_conf(leader->raft);
    uint64_t draw = prng_below(&s->prng, 10);
    struct sim_op *op;
    enum proto_conf_op what;
    raft_id id;

    if (leader->paused_until > s->now)
        return;
    if (c->learner_count > 0 && draw < 5) {
        what = PROTO_CONF_PROMOTE;
        id = c->learners[prng_below(&s->prng, c->learner_count)];
    } else if (c->voter_count >= 3 && (draw < 7 || c->voter_count >= 5)) {
        what = PROTO_CONF_REMOVE;
        id = sim_chance(s, 400) ? leader->id : c->voters[prng_below(&s->prng, c->voter_count)];
    } else if (s->next_node <= SIM_NODES) {
        what = sim_chance(s, 500) ? PROTO_CONF_ADD_LEARNER : PROTO_CONF_ADD_VOTER;
        id = s->next_node++;
        node_create(s, id, 0);
        node_start(s, &s->nodes[id]);
    } else {
        return;
    }
    op = op_new(s, OP_CONF);
    op->conf_op = what;
    op->conf_member = id;
    op->origin = leader->id;
    op->origin_life = leader->life;
    s->conf_count++;
    TRACE(s, "nemesis: conf op %d of %" PRIu64 " through leader %" PRIu64, what, id, leader->id);
    node_submit(s, leader, op);
}

/* The leader and those who do not vote yet, away from all others. */
static void split(struct sim *s, raft_id leader)
{
    const struct raft_conf *c = &s->model.conf;

    TRACE(s, "nemesis: split at leader %" PRIu64, leader);
    for (raft_id a = 1; a <= SIM_NODES; a++)
        for (raft_id b = 1; b <= SIM_NODES; b++) {
            bool side_a = a == leader || !raft_conf_has_voter(c, a);
            bool side_b = b == leader || !raft_conf_has_voter(c, b);

            if (side_a != side_b)
                s->cut[a][b] = true;
        }
}

/* A leader that has only just become one. */
static void strike(struct sim *s, raft_id id)
{
    struct sim_node *n = &s->nodes[id];

    TRACE(s, "nemesis: strikes new leader %" PRIu64, id);
    if (sim_chance(s, 800))
        heal(s); /* those struck before come back with what only they have */
    if (sim_chance(s, 800))
        isolate(s, id, sim_chance(s, 800), true);
    else if (n->state == NODE_UP)
        node_crash(s, n, sim_chance(s, 500));
}

static void nemesis_act(struct sim *s, enum nemesis what)
{
    struct sim_node *n = pick_up(s);
    raft_id leader = sim_leader(s);

    if (n == NULL)
        return;
    switch (what) {
    case N_PARTITION:
        TRACE(s, "nemesis: partition");
        partition(s);
        break;
    case N_ISOLATE:
        TRACE(s, "nemesis: isolate %" PRIu64, n->id);
        isolate(s, n->id, true, true);
        break;
    case N_ONE_WAY:
        TRACE(s, "nemesis: one-way cut of %" PRIu64, n->id);
        isolate(s, n->id, sim_chance(s, 500), true);
        if (sim_chance(s, 500))
            isolate(s, n->id, true, false);
        break;
    case N_HEAL:
        TRACE(s, "nemesis: heal");
        heal(s);
        break;
    case N_KILL:
        node_crash(s, n, false);
        break;
    case N_POWER:
        node_crash(s, n, true);
        break;
    case N_POWER_ALL:
        for (raft_id id = 1; id <= SIM_NODES; id++)
            if (s->nodes[id].state == NODE_UP)
                node_crash(s, &s->nodes[id], true);
        break;
    case N_TORN:
        /* power fails within one of the next calls that change the disk */
        wal_disk_fail_at(n->disk, 1 + prng_below(&s->prng, 6), EIO);
        break;
    case N_PAUSE:
        n->paused_until = s->now + sim_between(s, 50 * MS, 4 * SECOND);
        TRACE(s, "nemesis: pause %" PRIu64 " until %" PRIu64 " ms", n->id, n->paused_until / MS);
        break;
    case N_SM_KILL:
        node_sm_crash(s, n);
        break;
    case N_SLOW_DISK:
        TRACE(s, "nemesis: slow disk at %" PRIu64, n->id);
        n->slow_until = s->now + sim_between(s, SECOND, 6 * SECOND);
        break;
    case N_TRANSFER:
        if (leader != 0 && leader != n->id && s->nodes[leader].paused_until <= s->now) {
            TRACE(s, "nemesis: transfer %" PRIu64 " -> %" PRIu64, leader, n->id);
            raft_transfer_leader(s->nodes[leader].raft, n->id);
            node_pump(s, &s->nodes[leader]);
        }
        break;
    case N_STEP_DOWN:
        if (leader != 0 && s->nodes[leader].paused_until <= s->now) {
            raft_step_down(s->nodes[leader].raft);
            node_pump(s, &s->nodes[leader]);
        }
        break;
    case N_CONF:
        if (leader != 0) {
            change_members(s, &s->nodes[leader]);
            if (sim_chance(s, 500) && sim_leader(s) == leader)
                change_members(s, &s->nodes[leader]);
            if (sim_chance(s, s->split_pm))
                sim_post(s, sim_between(s, 0, 12 * MS), EV_SPLIT, 0)->a = leader;
        }
        break;
    case N_COUNT:
        break;
    }
}

static void nemesis(struct sim *s)
{
    uint32_t total = 0, draw;
    int what = 0;

    if (s->calm)
        return;
    sim_post(s, sim_between(s, 1, (uint64_t)s->nemesis_ms * 2 * MS), EV_NEMESIS, 0);
    for (int i = 0; i < N_COUNT; i++)
        total += s->weights[i];
    draw = (uint32_t)prng_below(&s->prng, total);
    while (draw >= s->weights[what])
        draw -= s->weights[what++];
    nemesis_act(s, (enum nemesis)what);
}

static void calm_down(struct sim *s)
{
    TRACE(s, "calm");
    s->calm = true;
    s->loss_pm = s->dup_pm = 0;
    s->delay_max_us = 5 * MS;
    heal(s);
    for (raft_id id = 1; id <= SIM_NODES; id++) {
        struct sim_node *n = &s->nodes[id];

        n->slow_until = 0;
        n->paused_until = 0;
        if (n->disk != NULL)
            wal_disk_fail_at(n->disk, 0, 0);
        if (n->state == NODE_DOWN)
            node_start(s, n);
    }
}

/* ---- the run ---- */
static void draw_character(struct sim *s)
{
    static const uint32_t usual[N_COUNT] = {
        [N_PARTITION] = 8, [N_ISOLATE] = 8,   [N_ONE_WAY] = 6,   [N_HEAL] = 30,  [N_KILL] = 8,
        [N_POWER] = 8,     [N_POWER_ALL] = 2, [N_TORN] = 6,      [N_PAUSE] = 10, [N_SM_KILL] = 6,
        [N_SLOW_DISK] = 4, [N_TRANSFER] = 5,  [N_STEP_DOWN] = 2, [N_CONF] = 8,
    };

    s->loss_pm = (uint32_t)(sim_chance(s, 400) ? 0 : prng_below(&s->prng, 150));
    s->dup_pm = (uint32_t)(sim_chance(s, 400) ? 0 : prng_below(&s->prng, 150));
    s->delay_max_us = (uint32_t)(sim_chance(s, 500) ? 5 * MS : sim_between(s, 5 * MS, 2 * SECOND));
    s->nemesis_ms = (uint32_t)sim_between(s, 150, 2500);
    s->log_keep = (uint32_t)sim_between(s, 3, sim_chance(s, 500) ? 12 : 120);
    s->think_ms = (uint32_t)sim_between(s, 5, 120);
    for (int i = 0; i < N_COUNT; i++)
        s->weights[i] = usual[i];
    /* some runs have a favourite, some do without one kind of trouble */
    for (int i = 0; i < 2; i++)
        if (sim_chance(s, 500))
            s->weights[prng_below(&s->prng, N_COUNT)] *= 8;
    if (sim_chance(s, 300))
        s->weights[prng_below(&s->prng, N_COUNT)] = 0;
    if (sim_chance(s, 400))
        s->weights[N_CONF] = 0;
    s->append_bytes = sim_chance(s, 300) ? 1 : 600;
    s->inflight = sim_chance(s, 300) ? 1 : 8;
    s->split_pm = 300;
    s->no_pre_vote = sim_chance(s, 350);
    s->churn = sim_chance(s, 200);
    s->members = !s->churn && sim_chance(s, 250);
    if (s->options.kind != SIM_ANY) {
        s->churn = s->options.kind == SIM_CHURN;
        s->members = s->options.kind == SIM_MEMBERS;
    }
    s->leases = s->options.kind == SIM_LEASES ||
                (s->options.kind == SIM_ANY && sim_chance(s, 400));
    /* not both: the rules about leases' keys are left to the unit tests */
    s->auth = s->options.kind == SIM_AUTH ||
              (s->options.kind == SIM_ANY && !s->leases && sim_chance(s, 250));
    if (s->options.kind == SIM_LEASES) {
        /* leaders change, and hold for long enough that leases end in time */
        memset(s->weights, 0, sizeof(s->weights));
        s->weights[N_ISOLATE] = s->weights[N_ONE_WAY] = 10;
        s->weights[N_HEAL] = 20;
        s->weights[N_KILL] = s->weights[N_SM_KILL] = 10;
        s->weights[N_PAUSE] = 30;
        s->weights[N_POWER] = s->weights[N_SLOW_DISK] = 5;
        s->weights[N_TRANSFER] = 15;
        s->nemesis_ms = (uint32_t)sim_between(s, 500, 2500);
    }
    if (s->members) {
        for (int i = 0; i < N_COUNT; i++)
            s->weights[i] = usual[i] / 2;
        s->weights[N_CONF] = 60;
        s->weights[N_TRANSFER] = 10;
        s->nemesis_ms = (uint32_t)sim_between(s, 400, 1500);
        s->split_pm = 700;
    }
    if (s->churn) {
        /* leaders come and go with what only they have */
        memset(s->weights, 0, sizeof(s->weights));
        s->weights[N_ISOLATE] = 20;
        s->weights[N_ONE_WAY] = 10;
        s->weights[N_HEAL] = 20;
        s->weights[N_KILL] = s->weights[N_POWER] = s->weights[N_PAUSE] = 10;
        s->nemesis_ms = (uint32_t)sim_between(s, 300, 4000);
        s->think_ms = (uint32_t)sim_between(s, 3, 30);
        if (sim_chance(s, 700))
            s->append_bytes = s->inflight = 1; /* an older entry arrives without the newer ones */
    }
    s->weights[N_HEAL] = MAX(s->weights[N_HEAL], 10);
    s->chaos_end = sim_between(s, 8, 22) * SECOND;
    s->end = s->chaos_end + 12 * SECOND;
}

static void bootstrap(struct sim *s)
{
    static const size_t sizes[] = {1, 2, 3, 3, 3, 3, 5, 5};
    size_t count = s->churn     ? (sim_chance(s, 600) ? 3 : 5)
                   : s->members ? 3
                                : sizes[prng_below(&s->prng, ARRAY_LEN(sizes))];

    for (raft_id id = 1; id <= count; id++) {
        struct sim_op *op = op_new(s, OP_CONF);

        op->conf_op = PROTO_CONF_ADD_VOTER;
        op->conf_member = id;
    }
    s->next_node = count + 1;
    for (raft_id id = 1; id <= count; id++)
        node_create(s, id, count);
    for (raft_id id = 1; id <= count; id++)
        node_start(s, &s->nodes[id]);
}

static void dispatch(struct sim *s, struct event *e)
{
    struct sim_node *n = &s->nodes[e->node];

    if (e->node != 0 && n->state == NODE_UP && n->paused_until > s->now && e->type != EV_RESTART) {
        /* a stopped process: everything waits */
        e->at = n->paused_until;
        heap_push(s, e);
        return;
    }
    switch (e->type) {
    case EV_MESSAGE:
        if (sim_connected(s, e->from, e->node)) /* a cut takes what is on the way, too */
            node_event(s, n, e);
        break;
    case EV_CLIENT:
        if (s->now >= s->end - 4 * SECOND)
            break;
        if (e->a < SIM_CLIENTS)
            client_next(s, (int)e->a);
        else if (e->a == SIM_CLIENTS + SIM_TENANTS)
            admin_next(s);
        else
            tenant_next(s, (size_t)e->a - SIM_CLIENTS);
        break;
    case EV_SWAP:
        if (s->now < s->end - 4 * SECOND)
            tenant_swap(s, (size_t)e->a);
        break;
    case EV_OP_TIMEOUT:
        op_timeout(s, e->a);
        break;
    case EV_NEMESIS:
        nemesis(s);
        break;
    case EV_SPLIT:
        n = &s->nodes[e->a];
        if (!s->calm && e->b == 0)
            split(s, e->a);
        else if (!s->calm && e->b == 1)
            strike(s, e->a);
        else if (!s->calm && n->state == NODE_UP)
            node_crash(s, n, sim_chance(s, 500));
        break;
    default:
        node_event(s, n, e);
        break;
    }
    event_free(e);
}

/* Elections end by chance: without pre-vote, a member that missed the removal of the one it asks
 * and the one it does not ask can outbid each other for a while. So calm lasts until a leader has
 * had time to bring everybody up to date, within reason. */
#define SETTLE         (8 * SECOND)
#define LEADERLESS_MAX (60 * SECOND)

static void run(struct sim *s)
{
    uint64_t elections;

    draw_character(s);
    bootstrap(s);
    clients_start(s);
    if (s->leases)
        tenants_start(s);
    if (s->auth)
        admin_start(s);
    sim_post(s, 2 * SECOND, EV_NEMESIS, 0);
    while (s->heap_count > 0) {
        struct event *e = heap_pop(s);

        s->now = e->at;
        if (!s->calm && s->now >= s->chaos_end)
            calm_down(s);
        if (s->now >= s->end || (s->options.stop_at != 0 && s->now >= s->options.stop_at)) {
            event_free(e);
            break;
        }
        if (s->calm && sim_leader(s) == 0 && s->end < s->now + SETTLE &&
            s->now < s->chaos_end + LEADERLESS_MAX)
            s->end = s->now + SETTLE;
        elections = s->elections;
        dispatch(s, e);
        s->steps++;
        if (s->churn && s->elections != elections && sim_chance(s, 750) && sim_leader(s) != 0) {
            e = sim_post(s, sim_chance(s, 350) ? 0 : sim_between(s, 0, 12 * MS), EV_SPLIT, 0);
            e->a = sim_leader(s);
            e->b = 1;
        }
    }
    if (s->options.stop_at == 0)
        check_end(s);
}

int sim_run(uint64_t seed, const struct sim_options *options, struct sim **ret)
{
    struct sim *s = xcalloc(1, sizeof(*s));

    s->seed = seed;
    s->options = *options;
    prng_init(&s->prng, seed);
    model_init(&s->model);
    *ret = s;
    if (setjmp(s->failed) != 0)
        return 1;
    run(s);
    return 0;
}

void sim_free(struct sim *s)
{
    for (size_t i = 0; i < s->heap_count; i++)
        event_free(s->heap[i]);
    free(s->heap);
    for (raft_id id = 1; id <= SIM_NODES; id++)
        node_free(&s->nodes[id]);
    check_fini(s);
    free(s->ops);
    free(s);
}
