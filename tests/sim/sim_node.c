/*
 * One member: what raftd and stored do around the cores. The disk and the state machine take their
 * time, so readies are taken while others are being written; the process, the host or the state
 * machine alone may die between any two steps.
 */
#include "tests/sim/sim.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "lib/proto/outcome.h"
#include "lib/util/xmalloc.h"
#include "raftd/peer/peer_msg.h"
#include "raftd/wal/wal.h"
#include "tests/sim/sim_sm.h"
#include "tests/unit/wal_disk.h"

#define VEC_ADD(vec, count, cap)                                                                   \
    (*__extension__({                                                                              \
        if ((count) == (cap)) {                                                                    \
            (cap) = (cap)*2 + 16;                                                                  \
            (vec) = xreallocarray((vec), (cap), sizeof(*(vec)));                                   \
        }                                                                                          \
        &(vec)[(count)++];                                                                         \
    }))

static struct wal_options wal_options_of(struct sim_node *n)
{
    return (struct wal_options){.io = wal_disk_io(n->disk),
                                .wal_dir = "wal",
                                .snap_dir = "snap",
                                .segment_bytes = 16 << 10,
                                .salt = (uint32_t)n->id * 77 + 1};
}

static void conf_encode(const struct raft_conf *c, struct buf *b)
{
    wire_put_u32(b, c->voter_count);
    for (uint32_t i = 0; i < c->voter_count; i++)
        wire_put_u64(b, c->voters[i]);
    wire_put_u32(b, c->learner_count);
    for (uint32_t i = 0; i < c->learner_count; i++)
        wire_put_u64(b, c->learners[i]);
}

/* ---- the log ---- */
static int storage_term(void *user, raft_index index, raft_term *ret_term)
{
    struct sim_node *n = user;

    return wal_entry_term(n->wal, index, ret_term);
}

/* The term before the first entry is known only if a marker is there: else the first entry serves
 * as the one before. */
static raft_index log_first(const struct sim_node *n, raft_term *ret_before)
{
    raft_index first = wal_info(n->wal)->first_index;

    *ret_before = 0;
    if (first > 1 && wal_entry_term(n->wal, first - 1, ret_before) != 0) {
        int r = wal_entry_term(n->wal, first, ret_before);

        assert(r == 0);
        first++;
    }
    return first;
}

static size_t read_wal(struct sim_node *n, raft_index lo, raft_index hi, size_t max_bytes,
                       struct raft_entry **ret, size_t max_count, int *ret_error)
{
    struct wal_entries got = WAL_ENTRIES_INIT;
    size_t count = 0;

    *ret_error = wal_read_entries(n->wal, lo, hi, max_bytes, &got);
    if (*ret_error == 0)
        for (; count < got.count && count < max_count; count++)
            ret[count] = raft_entry_new(got.entries[count].index, got.entries[count].term,
                                        (enum raft_entry_type)got.entries[count].type,
                                        got.entries[count].data);
    wal_entries_fini(&got);
    return count;
}

static int storage_entries(void *user, raft_id peer, raft_index lo, raft_index hi, size_t max_bytes,
                           size_t max_count, struct raft_entry **ret, size_t *ret_count)
{
    struct sim_node *n = user;
    int err;

    *ret_count = read_wal(n, lo, hi, max_bytes, ret, max_count, &err);
    if (err == -ENOENT)
        return -ENODATA;
    return err != 0 ? -EAGAIN : 0;
}

static void wal_entries_of(struct raft_entry **entries, size_t count, struct wal_entry *ret)
{
    for (size_t i = 0; i < count; i++)
        ret[i] = (struct wal_entry){.index = entries[i]->index,
                                    .term = entries[i]->term,
                                    .type = entries[i]->type,
                                    .data = raft_entry_bytes(entries[i])};
}

void node_create(struct sim *s, raft_id id, size_t bootstrap_count)
{
    struct sim_node *n = &s->nodes[id];
    struct wal_options o;
    struct wal_metadata meta = {.cluster_id = SIM_CLUSTER, .member_id = id};
    struct wal_hard_state hs = {.term = 1, .commit = bootstrap_count};
    struct wal_entry entries[SIM_NODES];
    struct buf data[SIM_NODES];
    struct wal_batch first = {
        .entries = entries, .entry_count = bootstrap_count, .hard_state = &hs};
    struct wal_error err;
    int r;

    assert(n->state == NODE_ABSENT);
    n->id = id;
    n->state = NODE_DOWN;
    n->disk = wal_disk_new();
    n->store = sm_store_new();
    n->tick_us = sim_between(s, 85, 118) * MS;
    n->clock_ppm = (int64_t)prng_below(&s->prng, 401) - 200;
    for (size_t i = 0; i < bootstrap_count; i++) {
        /* the first operations are the members, the same for everybody */
        data[i] = BUF_INIT;
        op_payload(op_get(s, i + 1), &data[i]);
        entries[i] = (struct wal_entry){
            .index = i + 1, .term = 1, .type = RAFT_ENTRY_CONF, .data = buf_bytes(&data[i])};
    }
    o = wal_options_of(n);
    r = wal_create(&o, &meta, bootstrap_count != 0 ? &first : NULL, &n->wal, &err);
    CHECK(s, r == 0, "wal_create: %s", err.text);
    wal_close(n->wal);
    n->wal = NULL;
    for (size_t i = 0; i < bootstrap_count; i++)
        buf_fini(&data[i]);
}

static void load_tail(struct sim *s, struct sim_node *n, struct raft_restore *a,
                      struct raft_entry ***ret)
{
    const struct wal_info *info = wal_info(n->wal);
    raft_index from = MAX(a->first_index, MIN(info->hard_state.commit, info->last_index) + 1);
    uint64_t more = prng_below(&s->prng, 60);
    struct raft_entry **tail;
    size_t count = 0;

    from -= MIN(from - a->first_index, more);
    a->last_index = info->last_index;
    tail = xcalloc((size_t)(info->last_index + 2 - from), sizeof(struct raft_entry *));
    while (from + count <= info->last_index) {
        int err;
        size_t got = read_wal(n, from + count, info->last_index, 1 << 20, tail + count,
                              (size_t)(info->last_index + 1 - from - count), &err);

        CHECK(s, err == 0 && got > 0, "node %" PRIu64 ": log cannot be read: %s", n->id,
              wal_read_error(n->wal));
        count += got;
    }
    a->tail = tail;
    a->tail_count = count;
    *ret = tail;
}

static void start_raft(struct sim *s, struct sim_node *n)
{
    const struct wal_info *info = wal_info(n->wal);
    struct raft_config config = {.id = n->id,
                                 .seed = prng_next(&s->prng),
                                 .no_pre_vote = s->no_pre_vote,
                                 .append_bytes_max = s->append_bytes,
                                 .inflight_max = s->inflight,
                                 .inflight_bytes_max = 4000,
                                 .uncommitted_bytes_max = 20000,
                                 .committed_bytes_max = 2000,
                                 .window_bytes = 3000,
                                 .storage = {n, storage_term, storage_entries}};
    struct raft_restore a = {
        .hard_state = {info->hard_state.term, info->hard_state.vote, info->hard_state.commit}};
    struct raft_entry **tail = NULL;
    struct sm_state st;
    int r;

    sm_get_state(n->sm, &st);
    sm_get_conf(n->sm, &a.conf);
    a.first_index = log_first(n, &a.before_term);
    load_tail(s, n, &a, &tail);
    CHECK(s, st.applied + 1 >= a.first_index,
          "node %" PRIu64 ": state machine at %" PRIu64 ", log begins at %" PRIu64, n->id,
          st.applied, a.first_index);
    a.applied_index = MIN(st.applied, MIN(info->hard_state.commit, info->last_index));
    a.applied_index = MAX(a.applied_index, a.first_index - 1);
    n->raft = raft_new(&config);
    r = raft_restore(n->raft, &a);
    CHECK(s, r == 0,
          "node %" PRIu64 ": restore refused: log %" PRIu64 " (before: term %" PRIu64
          ") to %" PRIu64 ", tail %zu, term %" PRIu64 " commit %" PRIu64 ", applied %" PRIu64,
          n->id, a.first_index, a.before_term, a.last_index, a.tail_count, a.hard_state.term,
          a.hard_state.commit, a.applied_index);
    if (st.applied > a.applied_index)
        raft_jump(n->raft, st.applied, st.term, &a.conf);
    for (size_t i = 0; i < a.tail_count; i++)
        raft_entry_unref(tail[i]);
    free(tail);
}

/* What the disk gives back after a crash was written once. */
static void check_disk(struct sim *s, struct sim_node *n)
{
    const struct wal_info *info = wal_info(n->wal);
    raft_term prev = 0;
    raft_index from = log_first(n, &prev);
    size_t want = (size_t)(info->last_index + 1 - from), count = 0;
    struct raft_entry **entries = xcalloc(want + 1, sizeof(struct raft_entry *));
    int err = 0;

    while (count < want) {
        size_t got = read_wal(n, from + count, info->last_index, 1 << 20, entries + count,
                              want - count, &err);

        CHECK(s, err == 0 && got > 0, "node %" PRIu64 ": log cannot be read", n->id);
        count += got;
    }
    check_entries(s, n, entries, count, prev);
    for (size_t i = 0; i < count; i++)
        raft_entry_unref(entries[i]);
    free(entries);
}

void node_start(struct sim *s, struct sim_node *n)
{
    struct wal_options o = wal_options_of(n);
    struct wal_metadata meta = {.cluster_id = SIM_CLUSTER, .member_id = n->id};
    struct wal_error err;
    struct sm_state st;
    int r;

    assert(n->state == NODE_DOWN);
    n->life++;
    n->sm_life++;
    r = wal_open(&o, &meta, &n->wal, &err);
    CHECK(s, r == 0, "node %" PRIu64 ": wal_open: %s", n->id, err.text);
    n->sm = sm_open(s, n->store, n->id);
    lease_opened(s, n);
    n->state = NODE_UP;
    n->paused_until = 0;
    sm_get_state(n->sm, &st);
    check_chain(s, n, st.applied, st.chain_hash);
    start_raft(s, n);
    TRACE(s,
          "node %" PRIu64 " starts: log %" PRIu64 "..%" PRIu64 " term %" PRIu64 " commit %" PRIu64
          ", state at %" PRIu64,
          n->id, wal_info(n->wal)->first_index, wal_info(n->wal)->last_index,
          wal_info(n->wal)->hard_state.term, wal_info(n->wal)->hard_state.commit, st.applied);
    check_started(s, n);
    check_disk(s, n);
    sim_post(s, sim_between(s, 1, n->tick_us), EV_TICK, n->id);
    sim_post(s, 50 * MS, EV_BACKGROUND, n->id);
    node_pump(s, n);
}

/* ---- dying ---- */
static void drop_apply_queue(struct sim_node *n)
{
    for (size_t i = 0; i < n->apply_count; i++)
        raft_entry_unref(n->apply[i]);
    n->apply_count = 0;
    n->apply_due = false;
}

static void write_item_fini(struct write_item *w)
{
    raft_ready_fini(&w->ready);
    sm_store_free(w->staged);
    w->staged = NULL;
}

static int wal_write(struct sim *s, struct sim_node *n, struct write_item *w, bool sync);

static void drop_memory(struct sim_node *n)
{
    raft_free(n->raft);
    n->raft = NULL;
    lease_gone(n);
    sm_close(n->sm);
    n->sm = NULL;
    wal_close(n->wal);
    n->wal = NULL;
    for (size_t i = 0; i < n->write_count; i++)
        write_item_fini(&n->writes[i]);
    n->write_count = n->writing = 0;
    n->disk_busy = n->activating = false;
    drop_apply_queue(n);
    sm_store_free(n->staged);
    n->staged = NULL;
    n->transfer_count = 0;
    n->read_count = 0;
}

void node_crash(struct sim *s, struct sim_node *n, bool host)
{
    assert(n->state == NODE_UP);
    s->crashes++;
    TRACE(s, "node %" PRIu64 " %s", n->id, host ? "loses power" : "is killed");
    /* what was at the disk may have been written in part */
    if (sim_chance(s, 600))
        for (size_t i = 0; i < n->writing; i++)
            if (n->writes[i].ready.has_snapshot || wal_write(s, n, &n->writes[i], false) != 0 ||
                sim_chance(s, 200))
                break;
    drop_memory(n);
    if (host)
        wal_disk_crash(n->disk, &s->prng);
    else
        wal_disk_fail_at(n->disk, 0, 0);
    sm_store_crash(n->store, host, &s->prng);
    n->state = NODE_DOWN;
    n->life++;
    sim_post(s,
             sim_chance(s, 300) ? sim_between(s, MS, 60 * MS) : sim_between(s, 60 * MS, 4 * SECOND),
             EV_RESTART, n->id);
}

void node_sm_crash(struct sim *s, struct sim_node *n)
{
    if (n->sm == NULL || n->activating)
        return;
    TRACE(s, "node %" PRIu64 ": state machine is killed", n->id);
    lease_gone(n);
    sm_close(n->sm);
    n->sm = NULL;
    n->sm_life++;
    sm_store_crash(n->store, false, &s->prng);
    raft_deliver_pause(n->raft);
    drop_apply_queue(n);
    n->read_count = 0;
    sim_post(s, sim_between(s, 20 * MS, SECOND), EV_SM_RESTART, n->id)->a = n->sm_life;
}

static void sm_restart(struct sim *s, struct sim_node *n)
{
    struct sm_state st;
    raft_index again = prng_below(&s->prng, 4), from;
    int r;

    n->sm = sm_open(s, n->store, n->id);
    lease_opened(s, n);
    sm_get_state(n->sm, &st);
    TRACE(s, "node %" PRIu64 ": state machine is back at %" PRIu64, n->id, st.applied);
    check_chain(s, n, st.applied, st.chain_hash);
    if (n->activating)
        return; /* the received state takes its place */
    /* some of what it has is sent again: it must not mind */
    from = st.applied - MIN(st.applied, again);
    r = raft_deliver_resume(n->raft, from);
    if (r == -ENODATA)
        r = raft_deliver_resume(n->raft, st.applied);
    CHECK(s, r == 0, "node %" PRIu64 ": state machine at %" PRIu64 " cannot go on", n->id,
          st.applied);
}

void node_free(struct sim_node *n)
{
    if (n->state == NODE_UP)
        drop_memory(n);
    if (n->disk != NULL)
        wal_disk_free(n->disk);
    sm_store_free(n->store);
    free(n->writes);
    free(n->apply);
    free(n->reads);
}

/* ---- messages ---- */
static void send_frame(struct sim *s, struct sim_node *n, raft_id to, enum peer_type type,
                       void (*encode)(struct buf *b, const void *m), const void *m, bool once)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    struct peer_header h = {
        .cluster_id = SIM_CLUSTER, .from = n->id, .to = to, .generation = n->life};
    size_t start;

    peer_header_encode(&b, &h);
    start = peer_frame_begin(&b, type);
    encode(&b, m);
    peer_frame_end(&b, start);
    sim_send(s, n->id, to, buf_bytes(&b), once);
}

static void encode_raft(struct buf *b, const void *m)
{
    peer_raft_msg_encode(b, m);
}

static void encode_bytes(struct buf *b, const void *m)
{
    buf_append_bytes(b, *(const struct bytes *)m);
}

static void encode_failed(struct buf *b, const void *m)
{
    peer_propose_failed_encode(b, m);
}

static void send_raft(struct sim *s, struct sim_node *n, const struct raft_msg *m, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        check_message(s, &m[i]);
        if (m[i].type >= RAFT_MSG_VOTE && m[i].type <= RAFT_MSG_TIMEOUT_NOW)
            TRACE(s, "node %" PRIu64 " -> %" PRIu64 ": %s term %" PRIu64 "%s", n->id, m[i].to,
                  raft_msg_type_name(m[i].type), m[i].term, m[i].reject ? ", no" : "");
        if (s->churn && m[i].type == RAFT_MSG_VOTE_RESP && !m[i].reject && sim_chance(s, 120)) {
            /* a voter that dies when its vote is on the way */
            struct event *e = sim_post(s, sim_between(s, 0, 3 * MS), EV_SPLIT, 0);

            e->a = n->id;
            e->b = 2;
        }
        if (m[i].to <= SIM_NODES)
            send_frame(s, n, m[i].to, PEER_RAFT, encode_raft, &m[i], false);
    }
}

/* ---- the disk ---- */
static int wal_write(struct sim *s, struct sim_node *n, struct write_item *w, bool sync)
{
    CLEANUP(buf_fini) struct buf conf = BUF_INIT;
    const struct raft_ready *rd = &w->ready;
    struct wal_entry *entries = xcalloc(rd->entry_count + 1, sizeof(*entries));
    struct wal_hard_state hs = {rd->hard_state.term, rd->hard_state.vote, rd->hard_state.commit};
    struct wal_snapshot snap;
    struct wal_batch batch = {.entries = entries, .entry_count = rd->entry_count};
    const struct raft_snapshot *marker = w->kind == WRITE_MARKER ? &w->marker : rd->snapshot;
    int r;

    if (marker != NULL) {
        conf_encode(&marker->conf, &conf);
        snap = (struct wal_snapshot){marker->index, marker->term, buf_bytes(&conf)};
        batch.snapshot = &snap;
    }
    wal_entries_of(rd->entries, rd->entry_count, entries);
    if (rd->has_hard_state)
        batch.hard_state = &hs;
    r = wal_append(n->wal, &batch, sync);
    TRACE(s, "node %" PRIu64 " writes %zu entries%s%s%s: %d", n->id, rd->entry_count,
          marker != NULL ? ", marker" : "", rd->has_hard_state ? ", state" : "",
          sync ? ", syncs" : "", r);
    free(entries);
    return r;
}

static void activate(struct sim *s, struct sim_node *n, struct write_item *w)
{
    struct sm_state st;

    if (w->staged == NULL)
        return; /* a jump: the state is there */
    w->activated = true;
    lease_gone(n);
    sm_close(n->sm);
    sm_store_free(n->store);
    n->store = TAKE(w->staged);
    n->sm = sm_open(s, n->store, n->id);
    lease_opened(s, n);
    n->sm_life++;
    sm_get_state(n->sm, &st);
    CHECK(s, st.applied == w->ready.snapshot->index, "activated another snapshot");
    check_chain(s, n, st.applied, st.chain_hash);
    s->snapshots_installed++;
}

/* Half of the work, then power fails: the caller's loop tells by the false result. */
static bool write_item(struct sim *s, struct sim_node *n, struct write_item *w, bool sync)
{
    if (w->kind == WRITE_READY && w->ready.has_snapshot) {
        activate(s, n, w);
        if (sim_chance(s, 100) && !s->calm)
            return false; /* between activation and marker */
    }
    if (w->kind == WRITE_READY && !raft_ready_has_write(&w->ready))
        return true;
    return wal_write(s, n, w, sync) == 0;
}

static void disk_start(struct sim *s, struct sim_node *n)
{
    uint64_t us;

    if (n->disk_busy || n->write_count == 0)
        return;
    n->disk_busy = true;
    n->writing = n->write_count;
    us = sim_between(s, 50, 3 * MS);
    if (n->slow_until > s->now)
        us += sim_between(s, 10 * MS, 1500 * MS);
    sim_post(s, us, EV_DISK, n->id);
}

static void disk_done(struct sim *s, struct sim_node *n)
{
    size_t count = n->writing;
    uint64_t seq = 0;
    bool sync = false;

    /* one group: only the last write syncs, and only if one of them has to */
    for (size_t i = 0; i < count; i++)
        sync |= n->writes[i].kind == WRITE_READY && n->writes[i].ready.must_sync;
    for (size_t i = 0; i < count; i++)
        if (!write_item(s, n, &n->writes[i], sync && i + 1 == count)) {
            n->writing = 0;
            node_crash(s, n, true);
            return;
        }
    /* The last one may have had nothing to write: then sync by an empty marker of state. */
    if (sync && !(n->writes[count - 1].kind == WRITE_MARKER ||
                  raft_ready_has_write(&n->writes[count - 1].ready))) {
        struct wal_hard_state hs = wal_info(n->wal)->hard_state;
        struct wal_batch b = {.hard_state = &hs};

        if (wal_append(n->wal, &b, true) != 0) {
            n->writing = 0;
            node_crash(s, n, true);
            return;
        }
    }
    for (size_t i = 0; i < count; i++) {
        struct write_item *w = &n->writes[i];

        if (w->kind == WRITE_MARKER) {
            raft_compact(n->raft, w->trim);
            if (wal_trim(n->wal, w->trim) != 0) {
                n->writing = 0;
                node_crash(s, n, true);
                return;
            }
            continue;
        }
        seq = w->ready.seq;
        raft_persisted(n->raft, seq);
        send_raft(s, n, w->ready.messages_after, w->ready.message_after_count);
        if (w->activated) {
            n->activating = false;
            if (n->sm != NULL)
                CHECK(s, raft_deliver_resume(n->raft, w->ready.snapshot->index) == 0,
                      "node %" PRIu64 ": no delivery after its snapshot", n->id);
        }
    }
    for (size_t i = 0; i < count; i++)
        write_item_fini(&n->writes[i]);
    n->write_count -= count;
    memmove(n->writes, n->writes + count, n->write_count * sizeof(*n->writes));
    n->writing = 0;
    n->disk_busy = false;
}

/* ---- executing ---- */
static void answer_reads(struct sim *s, struct sim_node *n)
{
    struct sm_state st;
    size_t kept = 0;

    if (n->sm == NULL || n->read_count == 0)
        return;
    sm_get_state(n->sm, &st);
    for (size_t i = 0; i < n->read_count; i++) {
        struct sim_op *op = op_get(s, n->reads[i].op);
        struct op_result result;

        if (n->reads[i].index == 0 || n->reads[i].index > st.applied) {
            n->reads[kept++] = n->reads[i];
            continue;
        }
        sm_read(n->sm, op->key, &result);
        op_answer(s, op, &result);
    }
    n->read_count = kept;
}

static void report_conf(struct sim *s, struct sim_node *n, const struct raft_entry *e,
                        const struct sim_op *op, int outcome)
{
    static const enum raft_conf_op ops[] = {
        [PROTO_CONF_ADD_VOTER] = RAFT_CONF_ADD_VOTER,
        [PROTO_CONF_ADD_LEARNER] = RAFT_CONF_ADD_LEARNER,
        [PROTO_CONF_PROMOTE] = RAFT_CONF_PROMOTE,
        [PROTO_CONF_REMOVE] = RAFT_CONF_REMOVE,
        [PROTO_CONF_UPDATE] = RAFT_CONF_NONE,
    };
    struct raft_conf_change change = {.op = outcome == OUT_OK ? ops[op->conf_op] : RAFT_CONF_NONE,
                                      .id = op->conf_member};

    (void)raft_apply_conf_change(n->raft, e->index, &change);
}

static void apply_some(struct sim *s, struct sim_node *n)
{
    size_t count = 1 + prng_below(&s->prng, n->apply_count);
    struct sm_state st;

    sm_begin(n->sm);
    for (size_t i = 0; i < count; i++) {
        struct raft_entry *e = n->apply[i];
        struct proto_payload p = {0};
        struct sim_op *op = NULL;
        struct op_result result = {0};
        bool ignored = false;
        int outcome;

        if (e->len != 0)
            CHECK(s, proto_payload_decode(raft_entry_bytes(e), &p) == 0, "payload");
        op = !lease_is_own(p.kind) ? op_get(s, p.request_id) : NULL;
        outcome = sm_apply(n->sm, e, op, &result, &ignored);
        if (ignored)
            continue;
        check_applied(s, n, e, outcome, &result);
        if (p.kind == PROTO_KIND_LEASE_GRANT && outcome == OUT_OK &&
            lease_keeper_is_active(&n->leases.keeper))
            check_lease_counted(s, lease_table_find(sm_leases(n->sm), op->lease));
        if (e->type == RAFT_ENTRY_CONF)
            report_conf(s, n, e, op, outcome);
        if (op != NULL && p.origin_member == n->id && p.origin_generation == n->life)
            op_answer(s, op, &result);
    }
    sm_end(n->sm);
    for (size_t i = 0; i < count; i++)
        raft_entry_unref(n->apply[i]);
    n->apply_count -= count;
    memmove(n->apply, n->apply + count, n->apply_count * sizeof(struct raft_entry *));
    sm_get_state(n->sm, &st);
    check_chain(s, n, st.applied, st.chain_hash);
    raft_applied(n->raft, st.applied);
    n->leases.due = true;
}

static void apply_schedule(struct sim *s, struct sim_node *n)
{
    if (n->apply_due || n->apply_count == 0 || n->sm == NULL)
        return;
    n->apply_due = true;
    sim_post(s, sim_between(s, 20, 2 * MS), EV_APPLY, n->id)->a = n->sm_life;
}

/* Sync the state machine now and then, and let go of the log below. */
static void background(struct sim *s, struct sim_node *n)
{
    struct raft_status rs;
    struct sm_state st;
    raft_term term = 0;

    sim_post(s, sim_between(s, 20 * MS, 150 * MS), EV_BACKGROUND, n->id);
    if (n->sm == NULL || n->activating)
        return;
    sm_background(n->sm, &s->prng, s->calm);
    sm_get_state(n->sm, &st);
    raft_get_status(n->raft, &rs);
    if (st.durable < st.applied || st.applied < rs.first_index + s->log_keep ||
        rs.applied_index != st.applied || wal_info(n->wal)->snapshot.index >= st.applied)
        return;
    if (raft_log_term(n->raft, st.applied, &term) != 0 || st.applied > rs.stored_index)
        return;
    for (size_t i = 0; i < n->write_count; i++)
        if (n->writes[i].kind == WRITE_MARKER || n->writes[i].ready.has_snapshot)
            return;
    VEC_ADD(n->writes, n->write_count, n->write_cap) =
        (struct write_item){.kind = WRITE_MARKER,
                            .marker = {st.applied, term, {0}},
                            .trim = st.applied + 1 - prng_below(&s->prng, s->log_keep)};
    sm_get_conf(n->sm, &n->writes[n->write_count - 1].marker.conf);
    disk_start(s, n);
}

/* ---- snapshots to followers ---- */
static void send_snapshot(struct sim *s, struct sim_node *n, raft_id peer)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    CLEANUP(buf_fini) struct buf data = BUF_INIT;
    struct raft_conf conf;
    struct sm_state st;
    struct event *e;
    uint64_t id = ++s->seq;

    if (n->sm == NULL || n->activating || n->transfer_count == SIM_NODES || peer > SIM_NODES) {
        raft_report_snapshot(n->raft, peer, 0);
        return;
    }
    sm_snapshot(n->sm, &data, &st);
    if (st.applied == 0) {
        raft_report_snapshot(n->raft, peer, 0);
        return;
    }
    sm_get_conf(n->sm, &conf);
    n->transfers[n->transfer_count++] = (struct transfer){id, peer};
    TRACE(s, "node %" PRIu64 " sends node %" PRIu64 " a snapshot of %" PRIu64, n->id, peer,
          st.applied);
    sim_post(s, 5 * SECOND, EV_SNAP_TIMEOUT, n->id)->a = id;
    if (!sim_connected(s, n->id, peer) || sim_chance(s, s->loss_pm))
        return;
    wire_put_u64(&b, raft_get_term(n->raft));
    wire_put_u64(&b, st.applied);
    wire_put_u64(&b, st.term);
    wire_put_u32(&b, conf.voter_count);
    wire_put_u32(&b, conf.learner_count);
    for (uint32_t i = 0; i < conf.voter_count; i++)
        wire_put_u64(&b, conf.voters[i]);
    for (uint32_t i = 0; i < conf.learner_count; i++)
        wire_put_u64(&b, conf.learners[i]);
    buf_append_bytes(&b, buf_bytes(&data));
    e = sim_post(s, sim_between(s, 10 * MS, 800 * MS), EV_SNAP_DATA, peer);
    e->life = 0; /* whatever life the receiver is in */
    e->from = n->id;
    e->a = id;
    e->b = n->life;
    e->len = b.len;
    e->data = xmemdup(b.data, b.len);
}

static void transfer_end(struct sim_node *n, uint64_t id, raft_index index)
{
    for (size_t i = 0; i < n->transfer_count; i++) {
        if (n->transfers[i].id != id)
            continue;
        raft_report_snapshot(n->raft, n->transfers[i].peer, index);
        n->transfers[i] = n->transfers[--n->transfer_count];
        return;
    }
}

static void snapshot_arrives(struct sim *s, struct sim_node *n, const struct event *e)
{
    struct wire_reader r = wire_reader(bytes_of(e->data, e->len));
    struct raft_snapshot snap = {0};
    struct raft_msg m = {
        .type = RAFT_MSG_SNAPSHOT, .from = e->from, .to = n->id, .snapshot = &snap};
    struct event *end;

    m.term = wire_get_u64(&r);
    snap.index = wire_get_u64(&r);
    snap.term = wire_get_u64(&r);
    snap.conf.voter_count = wire_get_u32(&r);
    snap.conf.learner_count = wire_get_u32(&r);
    for (uint32_t i = 0; i < snap.conf.voter_count; i++)
        snap.conf.voters[i] = wire_get_u64(&r);
    for (uint32_t i = 0; i < snap.conf.learner_count; i++)
        snap.conf.learners[i] = wire_get_u64(&r);
    if (n->activating || n->staged != NULL)
        return;
    n->staged = sm_store_restore(s, wire_rest(&r));
    CHECK(s, n->staged != NULL, "a whole snapshot was refused");
    n->staged_index = snap.index;
    TRACE(s, "node %" PRIu64 " has staged snapshot %" PRIu64, n->id, snap.index);
    raft_step(n->raft, &m);
    end = sim_post(s, sim_between(s, MS, 20 * MS), EV_SNAP_END, e->from);
    end->life = e->b;
    end->a = e->a;
    end->b = snap.index;
}

/* ---- the turn ---- */
static void take_reads(struct sim *s, struct sim_node *n, const struct raft_ready *rd)
{
    for (size_t i = 0; i < rd->read_state_count; i++) {
        const struct raft_read_state *rs = &rd->read_states[i];

        if (lease_barrier(n, rs))
            continue;
        for (size_t k = 0; k < n->read_count; k++) {
            if (n->reads[k].read_id != rs->id)
                continue;
            if (rs->outcome == OUT_OK) {
                n->reads[k].index = rs->index;
            } else {
                op_refuse(s, op_get(s, n->reads[k].op), outcome_name(rs->outcome));
                n->reads[k] = n->reads[--n->read_count];
            }
            break;
        }
    }
}

static void turn(struct sim *s, struct sim_node *n)
{
    struct write_item *w = &VEC_ADD(n->writes, n->write_count, n->write_cap);
    struct raft_ready *rd = &w->ready;

    *w = (struct write_item){.kind = WRITE_READY};
    raft_take_ready(n->raft, rd);
    if (rd->entry_count > 0) {
        raft_term prev = 0;

        CHECK(s, raft_log_term(n->raft, rd->entries[0]->index - 1, &prev) == 0,
              "node %" PRIu64 ": entry %" PRIu64 " has no predecessor", n->id,
              rd->entries[0]->index);
        check_entries(s, n, rd->entries, rd->entry_count, prev);
    }
    if (rd->has_snapshot && n->staged != NULL && n->staged_index == rd->snapshot->index) {
        w->staged = TAKE(n->staged);
        n->activating = true;
        raft_deliver_pause(n->raft);
        drop_apply_queue(n); /* what it replaces */
    }
    sm_store_free(n->staged); /* not needed after all */
    n->staged = NULL;
    send_raft(s, n, rd->messages_now, rd->message_now_count);
    for (size_t i = 0; i < rd->committed_count; i++)
        VEC_ADD(n->apply, n->apply_count, n->apply_cap) = raft_entry_ref(rd->committed[i]);
    take_reads(s, n, rd);
    for (size_t i = 0; i < rd->snapshot_peer_count; i++)
        send_snapshot(s, n, rd->snapshot_peers[i]);
}

void node_pump(struct sim *s, struct sim_node *n)
{
    int turns = 0;

    do {
        if (n->leases.due)
            lease_turn(s, n);
        while (n->state == NODE_UP && n->raft != NULL && raft_has_ready(n->raft)) {
            check_node(s, n);
            turn(s, n);
            CHECK(s, turns++ < 1000, "node %" PRIu64 ": readies without end", n->id);
        }
    } while (n->state == NODE_UP && n->leases.due);
    if (n->state != NODE_UP)
        return;
    check_node(s, n);
    disk_start(s, n);
    apply_schedule(s, n);
    answer_reads(s, n);
}

/* ---- inputs ---- */
static void refuse_proposal(struct sim *s, struct sim_node *n, const struct proto_payload *p,
                            int out)
{
    struct peer_propose_failed f = {
        .generation = p->origin_generation, .request_id = p->request_id, .outcome = (uint16_t)out};

    if (p->origin_member == n->id)
        op_refuse(s, op_get(s, p->request_id), outcome_name(out));
    else
        send_frame(s, n, p->origin_member, PEER_PROPOSE_FAILED, encode_failed, &f, true);
}

static void propose(struct sim *s, struct sim_node *n, struct bytes data, bool may_forward)
{
    struct raft_proposed at;
    struct proto_payload p;
    enum raft_entry_type type;
    int out;

    CHECK(s, proto_payload_decode(data, &p) == 0, "payload");
    type = p.kind == PROTO_KIND_CONF_CHANGE ? RAFT_ENTRY_CONF : RAFT_ENTRY_NORMAL;
    out = raft_propose(n->raft, type, data, &at);
    if (out == 0)
        return;
    if (out == OUT_NOT_LEADER && may_forward && at.leader <= SIM_NODES) {
        send_frame(s, n, at.leader, PEER_PROPOSE, encode_bytes, &data, true);
        return;
    }
    refuse_proposal(s, n, &p, out);
}

void node_submit(struct sim *s, struct sim_node *n, struct sim_op *op)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    if (n->state != NODE_UP)
        return; /* nobody there: the client waits in vain */
    if (n->paused_until > s->now) {
        /* a stopped process finds it on its socket when it goes on */
        sim_post(s, 1, EV_SUBMIT, n->id)->a = op->id;
        return;
    }
    if (op->kind == OP_RENEW) {
        lease_submit(s, n, op);
    } else if (op->kind == OP_GET) {
        if (n->sm == NULL) {
            op_refuse(s, op, "no state machine");
            return;
        }
        VEC_ADD(n->reads, n->read_count, n->read_cap) =
            (struct waiting_read){.op = op->id, .read_id = op->id};
        raft_read_index(n->raft, op->id);
    } else {
        auth_vouch(s, n, op);
        op_payload(op, &b);
        propose(s, n, buf_bytes(&b), op->kind != OP_CONF);
    }
    node_pump(s, n);
}

static void receive(struct sim *s, struct sim_node *n, const struct event *e)
{
    struct wire_reader r = wire_reader(bytes_of(e->data, e->len));
    struct peer_header h;
    struct peer_frame f;
    struct peer_propose_failed failed;
    struct raft_msg m;

    CHECK(s, peer_header_decode(&r, &h) == 0 && peer_frame_read(&r, &f) == 0, "frame");
    CHECK(s, wire_reader_done(&r) == 0, "frame's end");
    switch (f.type) {
    case PEER_RAFT:
        CHECK(s, peer_raft_msg_decode(f.body, &h, &m) == 0, "message");
        raft_step(n->raft, &m);
        raft_msg_fini(&m);
        return;
    case PEER_PROPOSE:
        propose(s, n, f.body, false);
        return;
    case PEER_PROPOSE_FAILED:
        CHECK(s, peer_propose_failed_decode(f.body, &failed) == 0, "refusal");
        if (failed.generation == n->life)
            op_refuse(s, op_get(s, failed.request_id), outcome_name(failed.outcome));
        return;
    default:
        sim_fail(s, "frame type");
    }
}

void node_event(struct sim *s, struct sim_node *n, const struct event *e)
{
    if (e->type == EV_RESTART) {
        if (n->state == NODE_DOWN)
            node_start(s, n);
        return;
    }
    if (n->state != NODE_UP || (e->life != 0 && e->life != n->life))
        return;
    switch (e->type) {
    case EV_TICK:
        raft_tick(n->raft);
        lease_tick(s, n);
        sim_post(s, n->tick_us, EV_TICK, n->id);
        break;
    case EV_MESSAGE:
        receive(s, n, e);
        break;
    case EV_DISK:
        disk_done(s, n);
        break;
    case EV_APPLY:
        if (e->a != n->sm_life)
            break;
        n->apply_due = false;
        if (n->sm != NULL && !n->activating && n->apply_count > 0)
            apply_some(s, n);
        break;
    case EV_BACKGROUND:
        background(s, n);
        break;
    case EV_OWN:
        lease_propose_own(s, n, e);
        break;
    case EV_SUBMIT:
        node_submit(s, n, op_get(s, e->a));
        return;
    case EV_SM_RESTART:
        if (e->a == n->sm_life && n->sm == NULL)
            sm_restart(s, n);
        break;
    case EV_SNAP_DATA:
        snapshot_arrives(s, n, e);
        break;
    case EV_SNAP_END:
        transfer_end(n, e->a, e->b);
        break;
    case EV_SNAP_TIMEOUT:
        transfer_end(n, e->a, 0);
        break;
    default:
        sim_fail(s, "event %d at a node", e->type);
    }
    node_pump(s, n);
}
