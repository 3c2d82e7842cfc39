/*
 * What must hold whatever happens: Raft's safety properties (Raft thesis figure 3.2), and what
 * clients were promised.
 *   - election safety: one leader per term; one vote per member and term, over restarts too;
 *   - leader append-only: while a member leads, its log only grows;
 *   - log matching: an (index, term) names one entry with one predecessor, everywhere, always;
 *   - leader completeness: a new leader has everything that was committed;
 *   - committed entries never change; equal applied index, equal chain hash; every member executes
 *     the agreed entries in order, each once, and every result is what the model says;
 *   - an acknowledged operation is committed; a refused one never is;
 *   - leases: sim_lease_check.c;
 *   - no answer shows less than what anyone had seen before the question was asked (that, with
 *     results equal to those of one sequential model, is linearizability).
 */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "lib/proto/outcome.h"
#include "lib/util/xmalloc.h"
#include "tests/sim/sim_sm.h"

struct known_entry {
    uint64_t hash;
    raft_term prev_term;
    struct raft_entry *entry;
};

static uint64_t entry_key(raft_term term, raft_index index)
{
    return term << 32 | index;
}

static uint64_t entry_hash(const struct raft_entry *e)
{
    uint64_t h = 1469598103934665603u ^ e->type;

    for (uint32_t i = 0; i < e->len; i++)
        h = (h ^ e->data[i]) * 1099511628211u;
    return h ^ e->term << 20 ^ e->index;
}

/* Entries that enter a member's log, or that its disk gives back; prev: term before the first. */
void check_entries(struct sim *s, struct sim_node *n, struct raft_entry **entries, size_t count,
                   raft_term prev)
{
    for (size_t i = 0; i < count; i++) {
        struct raft_entry *e = entries[i];
        struct known_entry *k = hmap_get(&s->entries, entry_key(e->term, e->index));
        uint64_t hash = entry_hash(e);

        if (k == NULL) {
            k = xmalloc(sizeof(*k));
            *k = (struct known_entry){hash, prev, raft_entry_ref(e)};
            hmap_put(&s->entries, entry_key(e->term, e->index), k);
        }
        CHECK(s, k->hash == hash && k->prev_term == prev,
              "log matching: node %" PRIu64 " has another entry %" PRIu64 " of term %" PRIu64
              " (predecessor of term %" PRIu64 ", was %" PRIu64 ")",
              n->id, e->index, e->term, prev, k->prev_term);
        prev = e->term;
    }
}

void check_message(struct sim *s, const struct raft_msg *m)
{
    raft_id *had;

    if (m->type != RAFT_MSG_VOTE_RESP || m->reject)
        return;
    had = hmap_get(&s->votes, m->term << 8 | m->from);
    if (had == NULL) {
        had = xmalloc(sizeof(*had));
        *had = m->to;
        hmap_put(&s->votes, m->term << 8 | m->from, had);
    }
    CHECK(s, *had == m->to,
          "node %" PRIu64 " votes for %" PRIu64 " and for %" PRIu64 " in term %" PRIu64, m->from,
          *had, m->to, m->term);
}

static void agree_on(struct sim *s, struct sim_node *n, raft_index index, raft_term term,
                     raft_term now)
{
    struct known_entry *k;
    struct proto_payload p;
    struct sim_op *op;

    if (index <= s->log_last) {
        CHECK(s, s->log[index].term == term,
              "committed entry %" PRIu64 " changed: term %" PRIu64 " here (node %" PRIu64
              "), was %" PRIu64,
              index, term, n->id, s->log[index].term);
        return;
    }
    CHECK(s, index == s->log_last + 1, "node %" PRIu64 " committed %" PRIu64 ", agreed is %" PRIu64,
          n->id, index, s->log_last);
    if (index >= s->log_cap) {
        s->log_cap = s->log_cap * 2 + 1024;
        s->log = xreallocarray(s->log, s->log_cap, sizeof(*s->log));
    }
    k = hmap_get(&s->entries, entry_key(term, index));
    CHECK(s, k != NULL, "committed entry %" PRIu64 " of term %" PRIu64 " was never written", index,
          term);
    s->log[index] = (struct committed){
        .term = term, .commit_term = now, .hash = k->hash, .revision = s->model.revision};
    s->log_last = index;
    s->model.now = s->now;
    if (k->entry->len == 0)
        return;
    CHECK(s, proto_payload_decode(raft_entry_bytes(k->entry), &p) == 0, "payload");
    if (lease_is_own(p.kind)) {
        check_lease_entry(s, term, &p);
        s->log[index].revision = s->model.revision;
        TRACE(s, "agreed %" PRIu64 " term %" PRIu64 " own %" PRIu64 " kind %d", index, term,
              p.request_id, p.kind);
        return;
    }
    op = op_get(s, p.request_id);
    CHECK(s, op != NULL, "entry %" PRIu64 " is of no operation", index);
    CHECK(s, op->committed == 0,
          "operation %" PRIu64 " is in the log twice: %" PRIu64 " and %" PRIu64, op->id,
          op->committed, index);
    CHECK(s, op->state != OP_REFUSED, "operation %" PRIu64 " was refused and is committed", op->id);
    op->committed = index;
    model_apply(&s->model, op, &op->expected);
    s->log[index].revision = s->model.revision;
    TRACE(s, "agreed %" PRIu64 " term %" PRIu64 " op %" PRIu64 " %s key %u -> revision %" PRId64,
          index, term, op->id, op_name(op->kind), op->key, op->expected.revision);
}

static void check_leader(struct sim *s, struct sim_node *n, const struct raft_status *st)
{
    raft_id *had;
    raft_term term = 0;
    raft_index last;

    if (st->state != RAFT_LEADER) {
        n->led_term = 0;
        return;
    }
    if (n->led_term == st->term) {
        CHECK(s, st->last_index >= n->led_last, "leader %" PRIu64 " shortened its log", n->id);
        CHECK(s, st->conflicts == n->seen_conflicts, "leader %" PRIu64 " replaced entries", n->id);
        n->led_last = st->last_index;
        return;
    }
    s->elections++;
    had = hmap_get(&s->leaders, st->term);
    if (had == NULL) {
        had = xmalloc(sizeof(*had));
        *had = n->id;
        hmap_put(&s->leaders, st->term, had);
    }
    CHECK(s, *had == n->id, "two leaders in term %" PRIu64 ": %" PRIu64 " and %" PRIu64, st->term,
          *had, n->id);
    TRACE(s, "node %" PRIu64 " leads term %" PRIu64 ", last %" PRIu64 " commit %" PRIu64, n->id,
          st->term, st->last_index, st->commit_index);
    /* What was committed in older terms. (A leader that is deposed already, its votes having been
     * on the way for long, need not know what newer ones committed.) */
    last = s->log_last;
    while (last > 0 && s->log[last].commit_term >= st->term)
        last--;
    CHECK(s,
          st->last_index >= last &&
              (last + 1 < st->first_index || (raft_log_term(n->raft, last, &term) == 0 &&
                                              (last == 0 || term == s->log[last].term))),
          "leader %" PRIu64 " of term %" PRIu64 " lacks committed entry %" PRIu64, n->id, st->term,
          last);
    n->led_term = st->term;
    n->led_last = st->last_index;
    n->seen_conflicts = st->conflicts;
}

void check_started(struct sim *s, struct sim_node *n)
{
    n->led_term = 0;
    n->seen_commit = 0;
    n->seen_conflicts = 0;
}

void check_node(struct sim *s, struct sim_node *n)
{
    struct raft_status st;

    if (n->raft == NULL)
        return;
    raft_get_status(n->raft, &st);
    CHECK(s, st.commit_index <= st.last_index, "commit beyond the log");
    CHECK(s, st.applied_index <= st.commit_index, "applied beyond commit");
    CHECK(s, st.malformed == 0, "node %" PRIu64 " was sent nonsense", n->id);
    if (st.commit_index > n->seen_commit) {
        for (raft_index i = MAX(n->seen_commit + 1, st.first_index); i <= st.commit_index; i++) {
            raft_term term = 0;

            CHECK(s, raft_log_term(n->raft, i, &term) == 0, "no term of committed %" PRIu64, i);
            agree_on(s, n, i, term, st.term);
        }
        if (st.commit_index + 1 == st.first_index) { /* a snapshot */
            raft_term term = 0;

            CHECK(s, raft_log_term(n->raft, st.commit_index, &term) == 0, "snapshot's term");
            CHECK(s, st.commit_index <= s->log_last && s->log[st.commit_index].term == term,
                  "node %" PRIu64 ": snapshot of what was never agreed", n->id);
        }
        n->seen_commit = st.commit_index;
    }
    check_leader(s, n, &st);
}

static bool view_equal(const struct kv_view *a, const struct kv_view *b)
{
    if (a->found != b->found)
        return false;
    return !a->found || (a->value == b->value && a->create_revision == b->create_revision &&
                         a->mod_revision == b->mod_revision && a->version == b->version &&
                         a->lease == b->lease);
}

static bool result_equal(const struct sim_op *op, const struct op_result *a,
                         const struct op_result *b)
{
    if (a->outcome != b->outcome)
        return false;
    if (a->outcome != OUT_OK || op->kind == OP_CONF || op->kind == OP_AUTH)
        return true;
    return a->revision == b->revision && a->ttl == b->ttl && a->succeeded == b->succeeded && a->deleted == b->deleted &&
           view_equal(&a->view, &b->view);
}

void check_applied(struct sim *s, struct sim_node *n, const struct raft_entry *e, int outcome,
                   const struct op_result *result)
{
    struct proto_payload p;
    struct sim_op *op;

    CHECK(s,
          e->index <= s->log_last && s->log[e->index].term == e->term &&
              s->log[e->index].hash == entry_hash(e),
          "node %" PRIu64 " executed %" PRIu64 ", which is not the agreed entry", n->id, e->index);
    CHECK(s, sm_revision(n->sm) == s->log[e->index].revision,
          "node %" PRIu64 ": entry %" PRIu64 " led to revision %" PRId64 ", right is %" PRId64, n->id,
          e->index, sm_revision(n->sm), s->log[e->index].revision);
    if (e->len == 0)
        return;
    CHECK(s, proto_payload_decode(raft_entry_bytes(e), &p) == 0, "payload");
    if (lease_is_own(p.kind))
        return;
    op = op_get(s, p.request_id);
    CHECK(s, result_equal(op, result, &op->expected),
          "node %" PRIu64 ": entry %" PRIu64 " (%s) gave outcome %s revision %" PRId64
          " deleted %" PRId64 ", the model says %s %" PRId64 " %" PRId64,
          n->id, e->index, op_name(op->kind), outcome_name(result->outcome), result->revision,
          result->deleted, outcome_name(op->expected.outcome), op->expected.revision,
          op->expected.deleted);
}

void check_chain(struct sim *s, struct sim_node *n, raft_index index, uint64_t chain_hash)
{
    struct committed *c;

    if (index == 0)
        return;
    CHECK(s, index <= s->log_last, "node %" PRIu64 ": state at %" PRIu64 " is ahead of all", n->id,
          index);
    c = &s->log[index];
    if (!c->has_chain) {
        c->has_chain = true;
        c->chain_hash = chain_hash;
    }
    CHECK(s, c->chain_hash == chain_hash, "node %" PRIu64 ": another state at index %" PRIu64,
          n->id, index);
}

void check_answer(struct sim *s, const struct sim_op *op, const struct op_result *result)
{
    if (op->kind == OP_CONF || op->kind == OP_RENEW || op->kind == OP_AUTH)
        return;
    if (op->kind == OP_GET) {
        struct kv_view v = model_get(&s->model, op->key, result->revision);

        CHECK(s, result->revision <= s->model.revision, "read of the future");
        CHECK(s, view_equal(&v, &result->view),
              "read op %" PRIu64 " of key %u at revision %" PRId64 " shows %" PRIu64 "@%" PRId64
              ", right is %" PRIu64 "@%" PRId64,
              op->id, op->key, result->revision, result->view.value, result->view.mod_revision,
              v.value, v.mod_revision);
    } else {
        CHECK(s, op->committed != 0, "operation %" PRIu64 " is acknowledged, not committed",
              op->id);
        CHECK(s, result_equal(op, result, &op->expected),
              "operation %" PRIu64 " (%s) was answered otherwise than executed", op->id,
              op_name(op->kind));
    }
    if (result->outcome == OUT_OK)
        CHECK(s, result->revision >= op->min_revision,
              "stale: op %" PRIu64 " (%s at node %" PRIu64 ") shows revision %" PRId64 ", %" PRId64
              " had been seen before it was asked",
              op->id, op_name(op->kind), op->origin, result->revision, op->min_revision);
}

/* After the calm: everybody who belongs is there, equal, and complete. */
void check_end(struct sim *s)
{
    size_t members = 0;

    for (raft_id id = 1; s->options.trace && id <= SIM_NODES; id++) {
        struct raft_status st;

        if (s->nodes[id].state != NODE_UP)
            continue;
        raft_get_status(s->nodes[id].raft, &st);
        sim_trace(s,
                  "node %" PRIu64 ": %s term %" PRIu64 " vote %" PRIu64 " last %" PRIu64
                  " stored %" PRIu64 " commit %" PRIu64 " applied %" PRIu64 " conf at %" PRIu64
                  " pending %" PRIu64 " voter %d",
                  id, raft_state_name(st.state), st.term, st.vote, st.last_index, st.stored_index,
                  st.commit_index, st.applied_index, st.conf_index, st.pending_conf_index,
                  st.is_voter);
    }
    CHECK(s, sim_leader(s) != 0, "no leader after %d s of calm",
          (int)((s->end - s->chaos_end) / SECOND));
    for (raft_id id = 1; id <= SIM_NODES; id++) {
        struct sim_node *n = &s->nodes[id];
        struct sm_state st;

        if (!raft_conf_has_voter(&s->model.conf, id) && !raft_conf_has_learner(&s->model.conf, id))
            continue;
        members++;
        CHECK(s, n->state == NODE_UP && n->sm != NULL, "member %" PRIu64 " is not up", id);
        sm_get_state(n->sm, &st);
        CHECK(s, memcmp(raft_get_conf(n->raft), &s->model.conf, sizeof(s->model.conf)) == 0,
              "member %" PRIu64 " has another configuration at the end", id);
        CHECK(s, st.applied == s->log_last, "member %" PRIu64 " is at %" PRIu64 " of %" PRIu64, id,
              st.applied, s->log_last);
        for (uint32_t k = 0; k < SIM_KEYS; k++) {
            struct kv_view want = model_get(&s->model, k, s->model.revision);
            struct op_result got;

            sm_read(n->sm, k, &got);
            CHECK(s, got.revision == s->model.revision && view_equal(&got.view, &want),
                  "member %" PRIu64 ": key %u differs at the end", id, k);
        }
    }
    CHECK(s, members > 0, "no members");
    check_leases_end(s);
    CHECK(s, s->done_count > 0, "nothing was done");
}

static void free_map(struct hmap *m)
{
    size_t pos = 0;
    uint64_t key;
    void *value;

    while (hmap_next(m, &pos, &key, &value))
        free(value);
    hmap_fini(m);
}

void check_fini(struct sim *s)
{
    size_t pos = 0;
    uint64_t key;
    void *value;

    while (hmap_next(&s->entries, &pos, &key, &value))
        raft_entry_unref(((struct known_entry *)value)->entry);
    free_map(&s->entries);
    free_map(&s->leaders);
    free_map(&s->votes);
    check_lease_fini(s);
    free(s->log);
    model_fini(&s->model);
}
