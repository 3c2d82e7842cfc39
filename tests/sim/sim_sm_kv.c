/*
 * The state machine over the real keyspace: stored's apply, reads, checkpoints, compaction and
 * snapshots on the engine in memory, which loses what a real one would lose.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "lib/proto/etcd/rpc.pb-c.h"
#include "lib/proto/kv_check.h"
#include "lib/proto/outcome.h"
#include "lib/util/sim_bug.h"
#include "lib/util/xmalloc.h"
#include "stored/engine/engine_mem.h"
#include "stored/kv/kv.h"
#include "stored/kv/kv_auth.h"
#include "stored/kv/kv_engine.h"
#include "stored/kv/store_members.h"
#include "tests/sim/sim_sm.h"

struct sm_store {
    struct engine_mem *engine;
    struct buf checkpoint; /* the file in place */
};

struct sm {
    struct sim *sim;
    struct sm_store *store;
    struct kv *kv;
    struct kv_header header;
    struct kv_checkpoint *making;
    struct buf made;
    bool made_whole;
    uint64_t made_index, trim_index;
};

struct sm_store *sm_store_new(void)
{
    struct sm_store *st = xcalloc(1, sizeof(*st));

    st->engine = engine_mem_new(true);
    return st;
}

void sm_store_free(struct sm_store *st)
{
    if (st == NULL)
        return;
    engine_mem_free(st->engine);
    buf_fini(&st->checkpoint);
    free(st);
}

void sm_store_crash(struct sm_store *st, bool host, struct prng *prng)
{
    size_t count = engine_mem_unsynced(st->engine);
    bool *survives;
    bool holes;
    size_t kept;

    if (!host) {
        engine_mem_kill(st->engine);
        return;
    }
    survives = xcalloc(count + 1, sizeof(*survives));
    kept = prng_below(prng, count + 1);
    holes = prng_below(prng, 3) == 0;
    for (size_t i = 0; i < count; i++)
        survives[i] = holes ? prng_below(prng, 2) != 0 : i < kept;
    engine_mem_crash(st->engine, survives);
    free(survives);
}

struct sm *sm_open(struct sim *s, struct sm_store *st, raft_id member)
{
    CLEANUP(freep) char *error = NULL;
    CLEANUP(freep) char *warning = NULL;
    struct sm *sm = xcalloc(1, sizeof(*sm));
    struct kv_args args = {.engine = engine_mem_kv(st->engine),
                           .cache_bytes = 2000,
                           .checkpoint = buf_bytes(&st->checkpoint)};
    int r;

    sm->sim = s;
    sm->store = st;
    sm->header = (struct kv_header){.cluster_id = SIM_CLUSTER, .member_id = member, .raft_term = 1};
    engine_mem_sync(st->engine); /* as the engine on disk does when it is opened */
    r = kv_open(&args, &sm->kv, &error, &warning);
    CHECK(s, r == 0, "node %" PRIu64 ": kv_open: %s", member, error != NULL ? error : strerror(-r));
    CHECK(s, warning == NULL, "node %" PRIu64 ": kv_open: %s", member, warning);
    return sm;
}

void sm_close(struct sm *sm)
{
    if (sm == NULL)
        return;
    kv_checkpoint_free(sm->making);
    buf_fini(&sm->made);
    kv_free(sm->kv);
    free(sm);
}

void sm_get_state(struct sm *sm, struct sm_state *ret)
{
    struct kv_state st;

    kv_get_state(sm->kv, &st);
    *ret = (struct sm_state){.applied = st.applied_index,
                             .durable = kv_durable_index(sm->kv),
                             .term = st.applied_term,
                             .chain_hash = st.chain_hash};
}

struct lease_table *sm_leases(struct sm *sm)
{
    return kv_leases(sm->kv);
}

size_t sm_stamp(struct sm *sm, struct bytes user, uint8_t *out, size_t max, uint64_t *ret_revision)
{
    CLEANUP(buf_fini) struct buf stamp = BUF_INIT;
    uint64_t revision = kv_auth_store(sm->kv)->revision;

    if (kv_auth_make_stamp(sm->kv, &(struct auth_identity){user, revision}, &stamp) != OUT_OK)
        return 0;
    CHECK(sm->sim, stamp.len <= max, "a stamp of %zu bytes", stamp.len);
    memcpy(out, stamp.data, stamp.len);
    *ret_revision = revision;
    return stamp.len;
}

int64_t sm_revision(struct sm *sm)
{
    struct kv_state st;

    kv_get_state(sm->kv, &st);
    return st.revision;
}

void sm_get_conf(struct sm *sm, struct raft_conf *ret)
{
    const struct store_members *m = kv_members(sm->kv);

    *ret = (struct raft_conf){0};
    for (size_t i = 0; i < m->count; i++) {
        int r = 0;

        if (m->list[i].removed)
            continue;
        r = m->list[i].is_learner ? raft_conf_add_learner(ret, m->list[i].id)
                                  : raft_conf_add_voter(ret, m->list[i].id);
        CHECK(sm->sim, r == 0, "members table");
    }
}

void sm_begin(struct sm *sm)
{
    kv_begin_turn(sm->kv);
}

void sm_end(struct sm *sm)
{
    kv_end_turn(sm->kv);
}

/* ---- answers ---- */
static void view_of(const Mvccpb__KeyValue *kv, struct kv_view *ret)
{
    *ret = (struct kv_view){.found = true,
                            .create_revision = kv->create_revision,
                            .mod_revision = kv->mod_revision,
                            .version = kv->version,
                            .lease = kv->lease};
    if (kv->value.len >= sizeof(ret->value))
        memcpy(&ret->value, kv->value.data, sizeof(ret->value));
}

static bool parse_range(const struct buf *b, struct op_result *ret)
{
    Etcdserverpb__RangeResponse *m = etcdserverpb__range_response__unpack(NULL, b->len, b->data);

    if (m == NULL)
        return false;
    ret->revision = m->header->revision;
    if (m->n_kvs > 0)
        view_of(m->kvs[0], &ret->view);
    etcdserverpb__range_response__free_unpacked(m, NULL);
    return true;
}

static bool parse_txn(const struct buf *b, struct op_result *ret)
{
    Etcdserverpb__TxnResponse *m = etcdserverpb__txn_response__unpack(NULL, b->len, b->data);

    if (m == NULL)
        return false;
    ret->revision = m->header->revision;
    ret->succeeded = m->succeeded;
    if (m->n_responses == 1 &&
        m->responses[0]->response_case == ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE &&
        m->responses[0]->response_range->n_kvs > 0)
        view_of(m->responses[0]->response_range->kvs[0], &ret->view);
    etcdserverpb__txn_response__free_unpacked(m, NULL);
    return true;
}

static bool parse_answer(const struct sim_op *op, const struct buf *b, struct op_result *ret)
{
    Etcdserverpb__PutResponse *put;
    Etcdserverpb__DeleteRangeResponse *del;
    Etcdserverpb__CompactionResponse *compact;
    Etcdserverpb__LeaseGrantResponse *grant;
    Etcdserverpb__LeaseRevokeResponse *revoke;

    switch (op->kind) {
    case OP_PUT:
        put = etcdserverpb__put_response__unpack(NULL, b->len, b->data);
        if (put == NULL)
            return false;
        ret->revision = put->header->revision;
        etcdserverpb__put_response__free_unpacked(put, NULL);
        return true;
    case OP_DELETE:
    case OP_DELETE_ALL:
        del = etcdserverpb__delete_range_response__unpack(NULL, b->len, b->data);
        if (del == NULL)
            return false;
        ret->revision = del->header->revision;
        ret->deleted = del->deleted;
        etcdserverpb__delete_range_response__free_unpacked(del, NULL);
        return true;
    case OP_COMPACT:
        compact = etcdserverpb__compaction_response__unpack(NULL, b->len, b->data);
        if (compact == NULL)
            return false;
        ret->revision = compact->header->revision;
        etcdserverpb__compaction_response__free_unpacked(compact, NULL);
        return true;
    case OP_TXN:
        return parse_txn(b, ret);
    case OP_GRANT:
        grant = etcdserverpb__lease_grant_response__unpack(NULL, b->len, b->data);
        if (grant == NULL)
            return false;
        ret->revision = grant->header->revision;
        ret->ttl = grant->ttl;
        etcdserverpb__lease_grant_response__free_unpacked(grant, NULL);
        return true;
    case OP_REVOKE:
        revoke = etcdserverpb__lease_revoke_response__unpack(NULL, b->len, b->data);
        if (revoke == NULL)
            return false;
        ret->revision = revoke->header->revision;
        etcdserverpb__lease_revoke_response__free_unpacked(revoke, NULL);
        return true;
    case OP_CONF:
    case OP_GET:
    case OP_RENEW:
    case OP_AUTH:
        return true;
    }
    return false;
}

int sm_apply(struct sm *sm, const struct raft_entry *e, const struct sim_op *op,
             struct op_result *result, bool *ret_ignored)
{
    CLEANUP(buf_fini) struct buf message = BUF_INIT;
    struct kv_answer answer = {.header = &sm->header, .message = &message};
    struct proto_entry entry = {.index = e->index,
                                .term = e->term,
                                .type = (enum proto_entry_type)e->type,
                                .data = raft_entry_bytes(e)};
    struct kv_state st;
    int r;

    kv_get_state(sm->kv, &st);
    *ret_ignored = e->index <= st.applied_index && !SIM_BUG(APPLY_TWICE);
    *result = (struct op_result){0};
    r = kv_apply(sm->kv, &entry, op != NULL ? &answer : NULL);
    CHECK(sm->sim, r >= 0, "node %" PRIu64 ": entry %" PRIu64 " cannot be executed: %s",
          sm->header.member_id, e->index, strerror(-r));
    result->outcome = r;
    if (!*ret_ignored && op != NULL && r == OUT_OK)
        CHECK(sm->sim, parse_answer(op, &message, result), "answer of entry %" PRIu64, e->index);
    return r;
}

static int read_in_slices(struct sm *sm, const struct kv_range_request *m, struct buf *message)
{
    struct kv_range *range;
    int r = kv_range_new(sm->kv, m, &sm->header, &range);

    if (r != 0)
        return r;
    while ((r = kv_range_step(range, 64, message)) == 1)
        ;
    kv_range_free(range);
    return r;
}

void sm_read(struct sm *sm, uint32_t key, struct op_result *result)
{
    CLEANUP(buf_fini) struct buf message = BUF_INIT;
    char name[16];
    struct kv_range_request m = {0};
    int r;

    snprintf(name, sizeof(name), "key%02u", key);
    m.key = bytes_str(name);
    *result = (struct op_result){0};
    r = (key & 1) != 0 ? -E2BIG : kv_range_now(sm->kv, &m, &sm->header, 1 << 20, &message);
    if (r == -E2BIG)
        r = read_in_slices(sm, &m, &message);
    CHECK(sm->sim, r == 0, "read of key %u: %d", key, r);
    CHECK(sm->sim, parse_range(&message, result), "answer of a read");
}

/* ---- behind ---- */
static void checkpoint_some(struct sm *sm, struct prng *prng)
{
    if (sm->making == NULL && !sm->made_whole && prng_below(prng, 8) == 0) {
        sm->making = kv_checkpoint_new(sm->kv);
        sm->made_index = kv_checkpoint_index(sm->making);
        buf_clear(&sm->made);
    }
    if (sm->making != NULL) {
        int r = kv_checkpoint_step(sm->making, 200, &sm->made);

        CHECK(sm->sim, r >= 0, "checkpoint");
        if (r == 0) {
            kv_checkpoint_free(sm->making);
            sm->making = NULL;
            sm->made_whole = true;
        }
    }
    if (sm->made_whole && kv_durable_index(sm->kv) >= sm->made_index) {
        buf_fini(&sm->store->checkpoint);
        sm->store->checkpoint = sm->made;
        sm->made = BUF_INIT;
        sm->made_whole = false;
        sm->trim_index = sm->made_index;
    }
    if (sm->trim_index != 0 && kv_trim_batches(sm->kv, sm->trim_index, 20) == 0)
        sm->trim_index = 0;
}

static void write_and_sync(struct sm *sm, size_t count, bool sync)
{
    kv_on_written(sm->kv, engine_mem_write(sm->store->engine, count));
    if (sync)
        kv_on_durable(sm->kv, engine_mem_sync(sm->store->engine));
}

void sm_background(struct sm *sm, struct prng *prng, bool all)
{
    if (kv_compact_pending(sm->kv))
        CHECK(sm->sim, kv_compact_step(sm->kv, 1 + prng_below(prng, 5)) >= 0, "compaction step");
    checkpoint_some(sm, prng);
    write_and_sync(sm, all ? SIZE_MAX : prng_below(prng, 8), all || prng_below(prng, 4) == 0);
}

void sm_snapshot(struct sm *sm, struct buf *out, struct sm_state *ret)
{
    struct kv_snapshot_meta meta;
    struct kv_snapshot *snap = kv_snapshot_new(sm->kv, &meta);
    int r;

    if (!kv_snapshot_ready(snap))
        write_and_sync(sm, SIZE_MAX, false);
    CHECK(sm->sim, kv_snapshot_ready(snap), "snapshot is not ready though all is written");
    while ((r = kv_snapshot_step(snap, 500, out)) == 1)
        ;
    CHECK(sm->sim, r == 0, "snapshot: %d", r);
    kv_snapshot_free(snap);
    *ret =
        (struct sm_state){.applied = meta.index, .term = meta.term, .chain_hash = meta.chain_hash};
}

struct sm_store *sm_store_restore(struct sim *s, struct bytes data)
{
    struct sm_store *st = sm_store_new();
    struct kv_restore *restore = kv_restore_new(engine_mem_kv(st->engine));
    struct kv_snapshot_meta meta;
    int r = 0;

    while (r == 0 && data.len > 0) {
        size_t n = MIN(data.len, (size_t)777);

        r = kv_restore_feed(restore, bytes_of(data.data, n));
        data = bytes_of(data.data + n, data.len - n);
        engine_mem_write(st->engine, SIZE_MAX);
    }
    if (r == 0)
        r = kv_restore_finish(restore, &meta);
    engine_mem_write(st->engine, SIZE_MAX);
    engine_mem_sync(st->engine);
    kv_restore_free(restore);
    if (r != 0) {
        sm_store_free(st);
        return NULL;
    }
    engine_mem_kill(st->engine); /* opened by another process */
    return st;
}
