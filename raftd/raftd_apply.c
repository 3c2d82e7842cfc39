/*
 * Feeding stored. Committed entries go out in index order as COMMITTED frames, while the link has
 * credit; the cursor is the core's, and it begins anew at stored's applied index with every link.
 * What stored reports executed moves the core: a configuration entry changes members and core at
 * the moment it is executed, not when it is delivered.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "lib/log/log.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"
#include "raftd/raftd.h"

/* ---- delivery ---- */

static void pending_free(struct raftd_conf_pending *p)
{
    list_remove(&p->node);
    free((void *)(uintptr_t)p->data.data);
    free(p);
}

void raftd_apply_forget(struct raftd *r)
{
    while (!list_empty(&r->conf_pending))
        pending_free(LIST_ENTRY(r->conf_pending.next, struct raftd_conf_pending, node));
}

static void note_conf(struct raftd *r, const struct raft_entry *e, struct bytes body)
{
    struct raftd_conf_pending *p = xcalloc(1, sizeof(*p));

    p->index = e->index;
    p->data = bytes_of(xmemdup(body.data, body.len), body.len);
    list_push_back(&r->conf_pending, &p->node);
}

static void note_entry(struct raftd *r, const struct raft_entry *e)
{
    struct proto_payload payload;

    if (e->term > r->delivered_term) {
        r->delivered_term = e->term;
        raftd_proposals_term_committed(r, e->term);
    }
    if (e->len == 0)
        return; /* a new leader's first */
    if (proto_payload_decode(raft_entry_bytes(e), &payload) != 0) {
        r->counters.nonsense++;
        payload = (struct proto_payload){0};
    }
    if (e->type == RAFT_ENTRY_CONF)
        note_conf(r, e, payload.body);
    if (payload.kind == PROTO_KIND_CLUSTER_VERSION)
        r->cluster_version_seen = true;
    if (payload.origin_member == r->member_id && payload.origin_generation != 0)
        raftd_proposals_on_committed(r, &payload);
}

void raftd_apply_feed(struct raftd *r, struct raft_entry *const *entries, size_t count)
{
    struct buf *b = NULL;

    for (size_t i = 0; i < count; i++) {
        const struct raft_entry *e = entries[i];
        struct proto_entry out = {.index = e->index,
                                  .term = e->term,
                                  .type = (enum proto_entry_type)e->type,
                                  .data = raft_entry_bytes(e)};

        if (b == NULL)
            b = ipc_link_begin(r->stored, PROTO_COMMITTED, 0);
        if (b == NULL)
            return; /* the link broke: its successor begins at its own cursor */
        /* a frame is cut by what was appended to it; buf is the whole batch's */
        proto_entry_encode(b, &out);
        note_entry(r, e);
        r->sent_index = e->index;
        r->frame_bytes += e->len;
        if (r->frame_bytes >= RAFTD_FRAME_BYTES || i + 1 == count) {
            ipc_link_end(r->stored);
            r->frame_bytes = 0;
            b = NULL;
        }
    }
    if (!ipc_link_writable(r->stored))
        raft_deliver_pause(r->raft);
}

/* ---- a link to stored comes up ---- */

static void load_members(struct raftd *r)
{
    if (raftd_members_load(&r->members, buf_bytes(&r->hello_conf)) != 0) {
        log_error("stored sent a malformed member list");
        return;
    }
    r->members_index = r->hello.applied_index;
    raftd_peers_sync(r);
}

/* stored has executed what the core does not count as executed: it activated a snapshot whose
 * marker was not written, or it was told of entries by a process before this one. */
static int catch_up_core(struct raftd *r)
{
    struct raft_conf conf;
    raft_term term;
    uint64_t index = r->hello.applied_index;

    if (index <= r->status.commit_index && raft_log_term(r->raft, index, &term) == 0 &&
        term != r->hello.applied_term) {
        log_error("stored executed entry %" PRIu64 " of term %" PRIu64
                  ", the log has it in term %" PRIu64,
                  index, r->hello.applied_term, term);
        return -EBADMSG;
    }
    load_members(r);
    raftd_members_conf(&r->members, &conf);
    raft_jump(r->raft, index, r->hello.applied_term, &conf);
    return 0;
}

int raftd_apply_resume(struct raftd *r)
{
    uint64_t index = r->hello.applied_index;
    int e = 0;

    raftd_apply_forget(r);
    r->applied_index = index;
    r->durable_index = r->hello.durable_index;
    r->chain_hash = r->hello.chain_hash;
    r->sent_index = index;
    r->frame_bytes = 0;
    raft_get_status(r->raft, &r->status);
    if (index > r->status.applied_index)
        e = catch_up_core(r);
    else if (index > r->members_index)
        load_members(r);
    if (e == 0)
        e = raft_deliver_resume(r->raft, index);
    raft_get_status(r->raft, &r->status);
    if (e == 0 && index != 0)
        raftd_hash_note(r);
    return e;
}

/* ---- stored reports ---- */

static void execute_conf(struct raftd *r, const struct raftd_conf_pending *p)
{
    struct raft_conf_change change = {.op = RAFT_CONF_NONE};
    struct proto_conf_change c;
    int out = 0;

    if (p->index > r->members_index) {
        out = proto_conf_change_decode(p->data, &c) != 0 ? OUT_MALFORMED
                                                         : raftd_members_apply(&r->members, &c);
        r->members_index = p->index;
        if (out == 0) {
            change.op = raftd_members_conf_op(c.op);
            change.id = c.member.id;
            log_info("membership change %d of member %016" PRIx64 " executed at index %" PRIu64,
                     (int)c.op, c.member.id, p->index);
        } else {
            log_warn("membership change at index %" PRIu64 " has no effect: %s", p->index,
                     outcome_name(out));
        }
    }
    out = raft_apply_conf_change(r->raft, p->index, &change);
    if (out != 0)
        log_error("the core refuses the membership change at index %" PRIu64 ": %s", p->index,
                  outcome_name(out));
}

/* It goes on for a moment, so that the others hear of what it has. */
static void check_removed(struct raftd *r)
{
    if (raftd_is_removed(r) && r->removed_at_ms == 0) {
        log_error("this member was removed from the cluster");
        r->removed_at_ms = raftd_now_ms(r);
    }
}

void raftd_apply_on_applied(struct raftd *r, const struct proto_applied *a)
{
    bool conf_changed = false;

    if (a->applied_index < r->applied_index || a->applied_index > r->sent_index ||
        a->durable_index > a->applied_index) {
        r->counters.nonsense++;
        log_warn("stored reports applied index %" PRIu64 " and durable index %" PRIu64
                 " between %" PRIu64 " and %" PRIu64,
                 a->applied_index, a->durable_index, r->applied_index, r->sent_index);
        return;
    }
    r->durable_index = a->durable_index;
    if (a->applied_index == r->applied_index)
        return;
    r->applied_index = a->applied_index;
    r->chain_hash = a->chain_hash;
    while (!list_empty(&r->conf_pending)) {
        struct raftd_conf_pending *p =
            LIST_ENTRY(r->conf_pending.next, struct raftd_conf_pending, node);

        if (p->index > a->applied_index)
            break;
        execute_conf(r, p);
        pending_free(p);
        conf_changed = true;
    }
    raft_applied(r->raft, a->applied_index);
    raftd_hash_note(r);
    if (conf_changed) {
        raftd_peers_sync(r);
        check_removed(r);
        raftd_proposals_flush(r);
    }
    raftd_arm(r);
}

void raftd_apply_on_members(struct raftd *r, struct bytes body)
{
    if (raftd_members_update(&r->members, body) != 0) {
        r->counters.nonsense++;
        return;
    }
    raftd_publish(r);
}
