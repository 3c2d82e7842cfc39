#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "tests/unit/raft_net.h"

static int storage_term(void *user, raft_index index, raft_term *ret)
{
    struct node *nd = user;

    if (index + 1 == nd->first) {
        *ret = nd->before_term;
        return 0;
    }
    if (index < nd->first || index > nd->last)
        return -ENOENT;
    *ret = nd->log[index]->term;
    return 0;
}

static int storage_entries(void *user, raft_id peer, raft_index lo, raft_index hi, size_t max_bytes,
                           size_t max_count, struct raft_entry **ret, size_t *ret_count)
{
    struct node *nd = user;
    size_t n = 0;

    if (nd->fetch_again)
        return -EAGAIN;
    if (lo < nd->first)
        return -ENODATA;
    for (raft_index i = lo; i <= hi && n < max_count; i++)
        ret[n++] = raft_entry_ref(nd->log[i]);
    *ret_count = n;
    return 0;
}

static void node_start(struct node *nd)
{
    struct raft_restore a;

    nd->config.id = nd->id;
    nd->config.seed = nd->id * 1000 + nd->config.seed + 1;
    nd->config.storage =
        (struct raft_storage){.user = nd, .term = storage_term, .entries = storage_entries};
    nd->raft = raft_new(&nd->config);
    nd->down = false;
    a = (struct raft_restore){.hard_state = nd->hs,
                              .conf = nd->conf,
                              .applied_index = nd->applied,
                              .first_index = nd->first,
                              .before_term = nd->before_term,
                              .last_index = nd->last};
    if (nd->last >= nd->first) {
        a.tail = &nd->log[nd->first];
        a.tail_count = nd->last + 1 - nd->first;
    }
    cr_assert_eq(raft_restore(nd->raft, &a), 0);
}

struct net *net_new_conf(size_t count, size_t voters, const struct raft_config *config)
{
    struct net *n = xcalloc(1, sizeof(*n));

    n->count = count;
    n->auto_snapshot = true;
    for (raft_id id = 1; id <= count; id++) {
        struct node *nd = &n->nodes[id];

        nd->id = id;
        if (config != NULL)
            nd->config = *config;
        nd->first = 1;
        for (raft_id v = 1; v <= count; v++) {
            if (v <= voters)
                raft_conf_add_voter(&nd->conf, v);
            else
                raft_conf_add_learner(&nd->conf, v);
        }
        nd->hs.term = 1;
        n->initial_conf = nd->conf;
        node_start(nd);
    }
    return n;
}

struct net *net_new(size_t voters)
{
    return net_new_conf(voters, voters, NULL);
}

static void node_drop_memory(struct node *nd)
{
    raft_free(nd->raft);
    nd->raft = NULL;
    for (size_t i = 0; i < nd->held_count; i++)
        raft_ready_fini(&nd->held[i]);
    nd->held_count = 0;
}

void net_free(struct net *n)
{
    for (raft_id id = 1; id <= NET_NODES; id++) {
        struct node *nd = &n->nodes[id];

        node_drop_memory(nd);
        for (raft_index i = nd->first; i <= nd->last; i++)
            raft_entry_unref(nd->log[i]);
    }
    for (size_t i = 0; i < n->queue_count; i++)
        raft_msg_fini(&n->queue[i]);
    free(n->queue);
    free(n);
}

struct raft *net_raft(struct net *n, raft_id id)
{
    return n->nodes[id].raft;
}

static void send_one(struct net *n, const struct raft_msg *m)
{
    struct raft_msg copy = *m;

    cr_assert_neq(m->to, 0);
    n->nodes[m->from].sent[m->type]++;
    if (m->to > NET_NODES || n->cut[m->from][m->to] || n->nodes[m->to].down ||
        n->nodes[m->to].raft == NULL || (n->drop != NULL && n->drop(m)))
        return;
    copy.entries = NULL;
    if (m->entry_count > 0) {
        copy.entries = xcalloc(m->entry_count, sizeof(struct raft_entry *));
        for (size_t i = 0; i < m->entry_count; i++)
            copy.entries[i] = raft_entry_ref(m->entries[i]);
    }
    if (m->snapshot != NULL)
        copy.snapshot = xmemdup(m->snapshot, sizeof(*m->snapshot));
    if (n->queue_count == n->queue_cap) {
        n->queue_cap = n->queue_cap * 2 + 64;
        n->queue = xreallocarray(n->queue, n->queue_cap, sizeof(*n->queue));
    }
    n->queue[n->queue_count++] = copy;
}

static void apply_entry(struct net *n, struct node *nd, const struct raft_entry *e)
{
    cr_assert_eq(e->index, nd->applied + 1, "executed in order, once");
    if (e->type == RAFT_ENTRY_CONF) {
        struct raft_conf_change change;

        cr_assert_eq(e->len, sizeof(change));
        memcpy(&change, e->data, sizeof(change));
        if (raft_apply_conf_change(nd->raft, e->index, &change) == 0)
            raft_conf_apply(&nd->conf, &change);
    }
    nd->applied = e->index;
    nd->state_hash = nd->state_hash * 1099511628211u + e->term * 31 + e->index + e->len;
    raft_applied(nd->raft, e->index);
}

static void act(struct net *n, struct node *nd, struct raft_ready *rd)
{
    for (size_t i = 0; i < rd->message_now_count; i++)
        send_one(n, &rd->messages_now[i]);
    for (size_t i = 0; i < rd->snapshot_peer_count; i++) {
        nd->snapshots_wanted++;
        nd->snapshot_peer = rd->snapshot_peers[i];
        if (n->auto_snapshot) {
            struct raft_snapshot s = {.index = nd->applied, .conf = nd->conf};
            struct raft_msg m = {.type = RAFT_MSG_SNAPSHOT,
                                 .from = nd->id,
                                 .to = rd->snapshot_peers[i],
                                 .term = raft_get_term(nd->raft),
                                 .snapshot = &s};

            cr_assert_eq(raft_log_term(nd->raft, s.index, &s.term), 0);
            send_one(n, &m);
            raft_report_snapshot(nd->raft, rd->snapshot_peers[i], s.index);
        }
    }
    for (size_t i = 0; i < rd->read_state_count; i++) {
        cr_assert_lt(nd->read_count, NET_READS);
        nd->reads[nd->read_count++] = rd->read_states[i];
    }
    nd->aborted_count += rd->aborted_count;
    for (size_t i = 0; i < rd->committed_count; i++)
        apply_entry(n, nd, rd->committed[i]);
}

static void write_ready(struct net *n, struct node *nd, struct raft_ready *rd)
{
    if (rd->has_snapshot) {
        for (raft_index i = nd->first; i <= nd->last; i++)
            raft_entry_unref(nd->log[i]);
        nd->first = rd->snapshot->index + 1;
        nd->last = rd->snapshot->index;
        nd->before_term = rd->snapshot->term;
        nd->applied = rd->snapshot->index;
        nd->conf = rd->snapshot->conf;
        nd->snapshot_count++;
    }
    if (rd->entry_count > 0) {
        cr_assert_leq(rd->entries[0]->index, nd->last + 1, "no gap on disk");
        for (raft_index i = rd->entries[0]->index; i <= nd->last; i++)
            raft_entry_unref(nd->log[i]);
        nd->last = rd->entries[0]->index - 1;
        for (size_t i = 0; i < rd->entry_count; i++)
            nd->log[++nd->last] = raft_entry_ref(rd->entries[i]);
    }
    if (rd->has_hard_state)
        nd->hs = rd->hard_state;
    raft_persisted(nd->raft, rd->seq);
    for (size_t i = 0; i < rd->message_after_count; i++)
        send_one(n, &rd->messages_after[i]);
    raft_ready_fini(rd);
}

void net_write_held(struct net *n, raft_id id, size_t count)
{
    struct node *nd = &n->nodes[id];

    count = MIN(count, nd->held_count);
    for (size_t i = 0; i < count; i++)
        write_ready(n, nd, &nd->held[i]);
    nd->held_count -= count;
    memmove(nd->held, nd->held + count, nd->held_count * sizeof(nd->held[0]));
}

static bool pump(struct net *n, struct node *nd)
{
    struct raft_ready rd = {0};

    if (nd->raft == NULL || nd->down || !raft_has_ready(nd->raft))
        return false;
    raft_take_ready(nd->raft, &rd);
    act(n, nd, &rd);
    if (nd->hold_disk || nd->held_count > 0) {
        cr_assert_lt(nd->held_count, NET_HELD);
        nd->held[nd->held_count++] = rd;
    } else {
        write_ready(n, nd, &rd);
    }
    return true;
}

void net_run(struct net *n)
{
    bool busy = true;
    size_t turns = 0;

    while (busy) {
        cr_assert_lt(turns++, 100000, "messages without end");
        busy = false;
        for (raft_id id = 1; id <= NET_NODES; id++)
            busy |= pump(n, &n->nodes[id]);
        if (n->queue_count > 0) {
            struct raft_msg m = n->queue[0];

            n->queue_count--;
            memmove(n->queue, n->queue + 1, n->queue_count * sizeof(m));
            if (!n->nodes[m.to].down && n->nodes[m.to].raft != NULL)
                cr_assert_eq(raft_step(n->nodes[m.to].raft, &m), 0, "no member makes nonsense");
            raft_msg_fini(&m);
            busy = true;
        }
    }
}

void net_tick_one(struct net *n, raft_id id, size_t ticks)
{
    for (size_t i = 0; i < ticks; i++) {
        raft_tick(n->nodes[id].raft);
        net_run(n);
    }
}

void net_tick(struct net *n, size_t ticks)
{
    for (size_t i = 0; i < ticks; i++) {
        for (raft_id id = 1; id <= NET_NODES; id++)
            if (n->nodes[id].raft != NULL && !n->nodes[id].down)
                raft_tick(n->nodes[id].raft);
        net_run(n);
    }
}

raft_id net_leader(struct net *n)
{
    raft_id leader = 0;
    raft_term term = 0;

    for (raft_id id = 1; id <= NET_NODES; id++) {
        struct raft *r = n->nodes[id].raft;

        if (r != NULL && !n->nodes[id].down && raft_get_state(r) == RAFT_LEADER &&
            raft_get_term(r) > term) {
            term = raft_get_term(r);
            leader = id;
        }
    }
    return leader;
}

void net_elect(struct net *n, raft_id id)
{
    for (int i = 0; i < 50 && raft_get_state(n->nodes[id].raft) != RAFT_LEADER; i++) {
        if (i > 0)
            net_tick(n, 1);
        raft_campaign(n->nodes[id].raft);
        net_run(n);
    }
    cr_assert_eq(raft_get_state(n->nodes[id].raft), RAFT_LEADER);
}

int net_propose(struct net *n, raft_id id, const char *text)
{
    struct raft_proposed p;
    int r = raft_propose(n->nodes[id].raft, RAFT_ENTRY_NORMAL, bytes_str(text), &p);

    net_run(n);
    return r;
}

int net_propose_conf(struct net *n, raft_id id, enum raft_conf_op op, raft_id member)
{
    struct raft_conf_change change;
    struct raft_proposed p;
    int r;

    memset(&change, 0, sizeof(change));
    change.op = op;
    change.id = member;
    r = raft_propose(n->nodes[id].raft, RAFT_ENTRY_CONF, bytes_of(&change, sizeof(change)), &p);
    net_run(n);
    return r;
}

void net_isolate(struct net *n, raft_id id, bool cut)
{
    for (raft_id o = 1; o <= NET_NODES; o++)
        if (o != id)
            n->cut[id][o] = n->cut[o][id] = cut;
}

void net_heal(struct net *n)
{
    memset(n->cut, 0, sizeof(n->cut));
}

void net_crash(struct net *n, raft_id id)
{
    struct node *nd = &n->nodes[id];
    size_t kept = 0;

    node_drop_memory(nd);
    nd->down = true;
    for (size_t i = 0; i < n->queue_count; i++) {
        if (n->queue[i].to == id)
            raft_msg_fini(&n->queue[i]);
        else
            n->queue[kept++] = n->queue[i];
    }
    n->queue_count = kept;
}

void net_restart(struct net *n, raft_id id)
{
    node_start(&n->nodes[id]);
}

void net_add_blank(struct net *n, raft_id id)
{
    n->nodes[id].id = id;
    n->nodes[id].first = 1;
    n->nodes[id].conf = n->initial_conf; /* what the log begins with */
    node_start(&n->nodes[id]);
    n->count++;
}

void net_compact(struct net *n, raft_id id, raft_index keep_from)
{
    struct node *nd = &n->nodes[id];

    raft_compact(nd->raft, keep_from);
    while (nd->first < keep_from) {
        nd->before_term = nd->log[nd->first]->term;
        raft_entry_unref(nd->log[nd->first]);
        nd->log[nd->first++] = NULL;
    }
}

int net_inject(struct net *n, struct raft_msg m)
{
    return raft_step(n->nodes[m.to].raft, &m);
}

raft_index net_commit(struct net *n, raft_id id)
{
    struct raft_status s;

    raft_get_status(n->nodes[id].raft, &s);
    return s.commit_index;
}

void net_check_logs(struct net *n)
{
    for (raft_id a = 1; a <= NET_NODES; a++) {
        for (raft_id b = a + 1; b <= NET_NODES; b++) {
            struct node *x = &n->nodes[a], *y = &n->nodes[b];

            if (x->first == 0 || y->first == 0)
                continue; /* not in use */

            for (raft_index i = MAX(x->first, y->first); i <= MIN(x->applied, y->applied); i++) {
                if (i > x->last || i > y->last)
                    break;
                cr_assert_eq(x->log[i]->term, y->log[i]->term);
                cr_assert(bytes_eq(raft_entry_bytes(x->log[i]), raft_entry_bytes(y->log[i])));
            }
            if (x->applied == y->applied && x->snapshot_count + y->snapshot_count == 0)
                cr_assert_eq(x->state_hash, y->state_hash);
        }
    }
}
