/*
 * The ready loop. All input of a loop turn is put into the core first; then, once, readies are
 * taken and carried out: messages that may leave at once, the write handed to the log's thread,
 * committed entries to stored. When the thread reports a write durable, the core is told and what
 * had to wait for it leaves.
 *
 * A ready that carries a snapshot holds back the writes behind it until stored has activated the
 * snapshot: only then may the log forget what came before. A crash in between finds stored ahead
 * of the log, which raft_jump mends (raftd_apply.c).
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "lib/log/log.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"
#include "raftd/raftd.h"

void raftd_arm(struct raftd *r)
{
    if (r->raft != NULL && !r->stopping)
        loop_hook_arm(r->work);
}

static struct raftd_slot *slot_at(struct raftd *r, size_t i)
{
    return &r->slots[(r->slot_head + i) % RAFTD_READIES_MAX];
}

/* ---- writing ---- */

static void fill_snapshot(struct raftd *r, const struct raft_snapshot *s, struct buf *conf,
                          struct wal_snapshot *ret)
{
    raftd_members_encode(&r->members, conf);
    *ret = (struct wal_snapshot){.index = s->index, .term = s->term, .conf = buf_bytes(conf)};
}

static void submit(struct raftd *r, struct raftd_slot *slot)
{
    const struct raft_ready *rd = &slot->rd;
    CLEANUP(buf_fini) struct buf conf = BUF_INIT;
    struct wal_snapshot snapshot;
    struct wal_hard_state hs = {.term = rd->hard_state.term,
                                .vote = rd->hard_state.vote,
                                .commit = rd->hard_state.commit};
    struct wal_batch batch = {.entry_count = rd->entry_count,
                              .hard_state = rd->has_hard_state ? &hs : NULL};

    slot->submitted = true;
    if (!raft_ready_has_write(rd)) {
        slot->wal_seq = r->wal_submitted;
        return;
    }
    if (rd->entry_count > r->wal_batch_cap) {
        r->wal_batch_cap = MAX(rd->entry_count, (size_t)256);
        r->wal_batch = xreallocarray(r->wal_batch, r->wal_batch_cap, sizeof(*r->wal_batch));
    }
    for (size_t i = 0; i < rd->entry_count; i++) {
        const struct raft_entry *e = rd->entries[i];

        r->wal_batch[i] = (struct wal_entry){
            .index = e->index, .term = e->term, .type = e->type, .data = raft_entry_bytes(e)};
    }
    batch.entries = r->wal_batch;
    if (rd->has_snapshot) {
        fill_snapshot(r, rd->snapshot, &conf, &snapshot);
        batch.snapshot = &snapshot;
        r->marker_index = snapshot.index;
    }
    slot->wal_seq = wal_thread_submit(r->wal_thread, &batch, rd->must_sync);
    r->wal_submitted = slot->wal_seq;
}

/* Writes are handed over in the order of the readies, up to one that waits for its snapshot. */
static void submit_slots(struct raftd *r)
{
    for (size_t i = 0; i < r->slot_count; i++) {
        struct raftd_slot *slot = slot_at(r, i);

        if (slot->submitted)
            continue;
        if (slot->rd.has_snapshot && r->applied_index < slot->rd.snapshot->index) {
            raftd_snap_activate(r, slot->rd.snapshot);
            return;
        }
        submit(r, slot);
    }
}

/* They are handed over in order, so the newest one tells. */
bool raftd_write_waits(struct raftd *r)
{
    return r->slot_count != 0 && !slot_at(r, r->slot_count - 1)->submitted;
}

void raftd_snapshot_activated(struct raftd *r, uint64_t index)
{
    assert(r->applied_index >= index);
    submit_slots(r);
    raftd_arm(r);
}

/* ---- carrying out ---- */

static void act_on(struct raftd *r, const struct raft_ready *rd)
{
    for (size_t i = 0; i < rd->message_now_count; i++)
        raftd_send_raft_msg(r, &rd->messages_now[i]);
    for (size_t i = 0; i < rd->snapshot_peer_count; i++)
        raftd_snap_send(r, rd->snapshot_peers[i]);
    raftd_apply_feed(r, rd->committed, rd->committed_count);
    for (size_t i = 0; i < rd->aborted_count; i++)
        raftd_proposals_on_aborted(r, rd->aborted[i]);
    for (size_t i = 0; i < rd->read_state_count; i++)
        raftd_reads_on_state(r, &rd->read_states[i]);
}

static void on_soft_changed(struct raftd *r)
{
    raft_id leader = raft_leader(r->raft);

    raftd_snap_leader_changed(r);
    if (leader == r->known_leader)
        return;
    if (leader != 0) {
        log_info("leader of term %llu is member %016llx%s",
                 (unsigned long long)raft_get_term(r->raft), (unsigned long long)leader,
                 leader == r->member_id ? ", this one" : "");
        r->leader_changes++;
    } else {
        log_info("no leader at term %llu", (unsigned long long)raft_get_term(r->raft));
    }
    r->known_leader = leader;
}

static void finish_slots(struct raftd *r)
{
    while (r->slot_count != 0) {
        struct raftd_slot *slot = slot_at(r, 0);

        if (!slot->submitted || slot->wal_seq > r->wal_durable)
            return;
        raft_persisted(r->raft, slot->rd.seq);
        for (size_t i = 0; i < slot->rd.message_after_count; i++)
            raftd_send_raft_msg(r, &slot->rd.messages_after[i]);
        raft_ready_clear(&slot->rd);
        r->slot_head = (r->slot_head + 1) % RAFTD_READIES_MAX;
        r->slot_count--;
    }
}

void raftd_work(void *user)
{
    struct raftd *r = user;
    bool soft = false, leader_known = false;

    if (r->raft == NULL || r->stopping)
        return;
    raftd_reads_flush(r);
    finish_slots(r);
    if (r->stored_up && raft_get_state(r->raft) == RAFT_FOLLOWER) {
        raft_get_status(r->raft, &r->status);
        if (r->status.sole_voter)
            raft_campaign(r->raft); /* nobody to wait for */
    }
    while (raft_has_ready(r->raft) && r->slot_count < RAFTD_READIES_MAX) {
        struct raftd_slot *slot = slot_at(r, r->slot_count);

        slot->submitted = false;
        raft_take_ready(r->raft, &slot->rd);
        r->slot_count++;
        soft = soft || slot->rd.soft_changed;
        act_on(r, &slot->rd);
        submit_slots(r);
        finish_slots(r); /* a ready without a write is done when those before it are */
    }
    if (!raft_has_ready(r->raft))
        raftd_snap_settle(r);
    if (soft) {
        leader_known = raft_leader(r->raft) != 0;
        on_soft_changed(r);
    }
    raft_get_status(r->raft, &r->status);
    raftd_status_push(r);
    if (leader_known) {
        raftd_proposals_flush(r);
        raftd_reads_retry(r, true);
        raftd_publish(r);
    }
}

void raftd_on_wal_done(void *user, uint64_t sequence)
{
    struct raftd *r = user;

    r->wal_durable = sequence;
    raftd_arm(r);
}

/* ---- the older part of the log ---- */

static int storage_term(void *user, raft_index index, raft_term *ret_term)
{
    struct raftd *r = user;
    uint64_t term;
    int e = wal_entry_term(r->wal, index, &term);

    if (e == 0)
        *ret_term = term;
    return e;
}

/* Read on the loop: bounded, and nearly always from the page cache, because it was written not
 * long ago or is read in sequence. */
static int storage_entries(void *user, raft_id peer, raft_index lo, raft_index hi,
                           size_t max_bytes, size_t max_count, struct raft_entry **ret_entries,
                           size_t *ret_count)
{
    struct raftd *r = user;
    struct wal_entries chunk = WAL_ENTRIES_INIT;
    size_t n;
    int e;

    hi = MIN(hi, lo + max_count - 1);
    e = wal_read_entries(r->wal, lo, hi, MIN(max_bytes, (size_t)1 << 20), &chunk);
    if (e != 0) {
        if (e == -EBADMSG)
            daemon_fatal(r->d, "the log is damaged: %s", wal_read_error(r->wal));
        wal_entries_fini(&chunk);
        r->fetch_retry = e != -ENOENT; /* the next tick asks again */
        return e == -ENOENT ? -ENODATA : -EAGAIN;
    }
    n = MIN(chunk.count, max_count);
    for (size_t i = 0; i < n; i++) {
        const struct wal_entry *w = &chunk.entries[i];

        ret_entries[i] =
            raft_entry_new(w->index, w->term, (enum raft_entry_type)w->type, w->data);
    }
    wal_entries_fini(&chunk);
    *ret_count = n;
    return 0;
}

const struct raft_storage raftd_storage_ops = {.term = storage_term, .entries = storage_entries};
