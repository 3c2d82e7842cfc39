/*
 * Proposals of this member's clients, from the frame to the log.
 *
 *   QUEUED --leader known--> SENT --committed--> forgotten (stored answers the gatewayd)
 *      |                      |--refused by the leader, or lost--> answered here
 *      '--request timeout-----'--> answered here
 *
 * The leader appends; any other member forwards the payload as it is to the leader's raftd, and
 * the answer still comes from the own stored, because the payload names its origin. So all this
 * file keeps is enough to answer what stored will not: a record per proposal in a hash table and
 * in a list by age. A QUEUED one has certainly not entered a log, so it may be refused; a SENT one
 * ends as unknown. It is known to be lost, as far as that can be known, when an entry of a newer
 * term is committed here before it.
 *
 * A membership change goes the same way but enters the log only when stored has acknowledged that
 * reads need barriers again (ARCHITECTURE.md decision 2).
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "lib/log/log.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "raftd/raftd.h"
#include "raftd/raftd_reconfig.h"

enum { BUCKETS_MIN = 1024, RECORDS_PER_SLAB = 256 };

enum record_state { RECORD_FREE, RECORD_QUEUED, RECORD_SENT };

struct record {
    struct list age;     /* p->queued or p->sent by state; oldest first */
    struct record *next; /* in the bucket, or in the free list */
    uint64_t generation, request_id;
    uint64_t deadline_ms;
    uint64_t term; /* SENT: in which it was handed over */
    uint32_t gateway;
    uint8_t state;
    bool is_conf;
    struct bytes payload; /* QUEUED: owned */
};

struct slab {
    struct slab *next;
    struct record records[RECORDS_PER_SLAB];
};

/* A membership change of another member's client that waits here for stored's acknowledgement. */
struct foreign_conf {
    struct list node;
    uint64_t from, deadline_ms;
    struct bytes payload; /* owned */
};

struct raftd_proposals {
    struct record **buckets;
    size_t mask, count;
    struct record *free;
    struct slab *slabs;
    struct list queued, sent, foreign;
    size_t queued_count, queued_bytes, foreign_count;
};

struct raftd_proposals *raftd_proposals_new(struct raftd *r)
{
    struct raftd_proposals *p = xcalloc(1, sizeof(*p));

    p->mask = BUCKETS_MIN - 1;
    p->buckets = xcalloc(p->mask + 1, sizeof(*p->buckets));
    list_init(&p->queued);
    list_init(&p->sent);
    list_init(&p->foreign);
    return p;
}

static void free_payload(struct bytes *v)
{
    free((void *)(uintptr_t)v->data);
    *v = BYTES_EMPTY;
}

static void foreign_free(struct raftd_proposals *p, struct foreign_conf *f)
{
    list_remove(&f->node);
    p->foreign_count--;
    free_payload(&f->payload);
    free(f);
}

void raftd_proposals_free(struct raftd_proposals *p)
{
    if (p == NULL)
        return;
    LIST_FOREACH (it, &p->queued)
        free_payload(&LIST_ENTRY(it, struct record, age)->payload);
    while (!list_empty(&p->foreign))
        foreign_free(p, LIST_ENTRY(p->foreign.next, struct foreign_conf, node));
    while (p->slabs != NULL) {
        struct slab *next = p->slabs->next;

        free(p->slabs);
        p->slabs = next;
    }
    free(p->buckets);
    free(p);
}

/* ---- records ---- */

static size_t hash_of(uint64_t generation, uint64_t request_id)
{
    uint64_t h = (request_id ^ (generation << 32)) * 0x9e3779b97f4a7c15u;

    return (size_t)(h >> 20);
}

static void grow_buckets(struct raftd_proposals *p)
{
    size_t mask = p->mask * 2 + 1;
    struct record **buckets = xcalloc(mask + 1, sizeof(*buckets));

    for (size_t i = 0; i <= p->mask; i++) {
        struct record *rec = p->buckets[i];

        while (rec != NULL) {
            struct record *next = rec->next;
            size_t at = hash_of(rec->generation, rec->request_id) & mask;

            rec->next = buckets[at];
            buckets[at] = rec;
            rec = next;
        }
    }
    free(p->buckets);
    p->buckets = buckets;
    p->mask = mask;
}

static struct record *record_new(struct raftd_proposals *p, uint64_t generation,
                                 uint64_t request_id)
{
    struct record *rec;
    size_t at;

    if (p->free == NULL) {
        struct slab *slab = xcalloc(1, sizeof(*slab));

        slab->next = p->slabs;
        p->slabs = slab;
        for (size_t i = 0; i < RECORDS_PER_SLAB; i++) {
            slab->records[i].next = p->free;
            p->free = &slab->records[i];
        }
    }
    if (p->count > p->mask)
        grow_buckets(p);
    rec = p->free;
    p->free = rec->next;
    at = hash_of(generation, request_id) & p->mask;
    *rec = (struct record){
        .generation = generation, .request_id = request_id, .next = p->buckets[at]};
    list_init(&rec->age);
    p->buckets[at] = rec;
    p->count++;
    return rec;
}

static struct record *record_find(const struct raftd_proposals *p, uint64_t generation,
                                  uint64_t request_id)
{
    struct record *rec = p->buckets[hash_of(generation, request_id) & p->mask];

    while (rec != NULL && (rec->generation != generation || rec->request_id != request_id))
        rec = rec->next;
    return rec;
}

static void record_free(struct raftd_proposals *p, struct record *rec)
{
    struct record **link = &p->buckets[hash_of(rec->generation, rec->request_id) & p->mask];

    while (*link != rec)
        link = &(*link)->next;
    *link = rec->next;
    list_remove(&rec->age);
    if (rec->state == RECORD_QUEUED) {
        p->queued_count--;
        p->queued_bytes -= rec->payload.len;
        free_payload(&rec->payload);
    }
    rec->state = RECORD_FREE;
    rec->next = p->free;
    p->free = rec;
    p->count--;
}

static void answer(struct raftd *r, struct record *rec, int outcome)
{
    struct raftd_gateway *g = &r->gateways[rec->gateway];

    r->counters.proposals_failed++;
    if (g->generation == rec->generation)
        raftd_reply_outcome(g, PROTO_PROPOSE_FAILED, rec->request_id, outcome);
    record_free(r->proposals, rec);
}

/* ---- into the log, or on to the leader ---- */

enum handed { HANDED_WAIT = -1, HANDED_OK = 0 /* else an outcome: refused for good */ };

static bool forward(struct raftd *r, uint64_t leader, struct bytes payload)
{
    struct buf *b = peers_begin(r->peers, leader, PEER_LANE_MAIN, PEER_PROPOSE);

    if (b == NULL)
        return false;
    buf_append_bytes(b, payload);
    peers_end(r->peers);
    return true;
}

static int check_conf(struct raftd *r, struct bytes payload)
{
    struct proto_payload decoded;
    struct proto_conf_change change;

    if (proto_payload_decode(payload, &decoded) != 0 ||
        proto_conf_change_decode(decoded.body, &change) != 0)
        return OUT_MALFORMED;
    return raftd_reconfig_check(r, &change);
}

static int append_conf(struct raftd *r, struct bytes payload)
{
    struct raft_proposed place;
    int out = raft_conf_change_allowed(r->raft);

    if (out == OUT_UNHEALTHY || out == OUT_LEADER_CHANGED)
        return HANDED_WAIT; /* one is under way: expires if it does not end */
    if (out == 0)
        out = check_conf(r, payload);
    if (out != 0)
        return out;
    if (!raftd_local_reads_withdrawn(r))
        return HANDED_WAIT;
    return raft_propose(r->raft, RAFT_ENTRY_CONF, payload, &place);
}

static int hand_over(struct raftd *r, struct bytes payload, bool is_conf)
{
    struct raft_proposed place;
    raft_id leader;
    int out;

    if (r->raft == NULL)
        return HANDED_WAIT;
    leader = raft_leader(r->raft);
    if (leader == 0)
        return HANDED_WAIT;
    if (leader != r->member_id)
        return forward(r, leader, payload) ? HANDED_OK : HANDED_WAIT;
    if (is_conf)
        return append_conf(r, payload);
    out = raft_propose(r->raft, RAFT_ENTRY_NORMAL, payload, &place);
    if (out == OUT_NO_LEADER || out == OUT_NOT_LEADER || out == OUT_LEADER_CHANGED)
        return HANDED_WAIT;
    return out;
}

static void mark_sent(struct raftd *r, struct record *rec)
{
    rec->state = RECORD_SENT;
    rec->term = raft_get_term(r->raft);
    list_remove(&rec->age);
    list_push_back(&r->proposals->sent, &rec->age);
}

/* What only a member's own raftd and stored may say. A gatewayd that was taken over must not set the
 * key that identities are signed by, nor end other clients' leases. */
static bool is_internal(enum proto_kind kind)
{
    switch (kind) {
    case PROTO_KIND_MEMBER_ATTR:
    case PROTO_KIND_CLUSTER_VERSION:
    case PROTO_KIND_LEASE_KEEPER:
    case PROTO_KIND_LEASE_CLOCK:
    case PROTO_KIND_LEASE_EXPIRE:
    case PROTO_KIND_AUTH_KEY:
        return true;
    default:
        return false;
    }
}

/* Before anything is done for it. 0, or why not. */
static int admit(struct raftd *r, const struct raftd_gateway *g, uint64_t request_id,
                 struct bytes payload, struct proto_payload *ret)
{
    struct raftd_proposals *p = r->proposals;

    if (proto_payload_decode(payload, ret) != 0 || ret->origin_member != r->member_id ||
        ret->origin_generation != g->generation || g->generation == 0 ||
        ret->request_id != request_id || is_internal(ret->kind))
        return OUT_MALFORMED;
    if (ret->body.len > r->conf->max_request_bytes + RAFTD_REQUEST_OVERHEAD)
        return OUT_REQUEST_TOO_LARGE;
    if (r->status.commit_index > r->applied_index + RAFTD_APPLY_GAP_MAX ||
        p->count >= RAFTD_PENDING_MAX)
        return OUT_TOO_MANY_REQUESTS;
    if (record_find(p, ret->origin_generation, request_id) != NULL)
        return OUT_MALFORMED; /* the id is in use */
    return 0;
}

void raftd_propose(struct raftd_gateway *g, uint64_t request_id, struct bytes payload)
{
    struct raftd *r = g->r;
    struct raftd_proposals *p = r->proposals;
    struct proto_payload decoded;
    struct record *rec;
    bool is_conf;
    int out;

    out = admit(r, g, request_id, payload, &decoded);
    if (out != 0) {
        r->counters.proposals_failed++;
        raftd_reply_outcome(g, PROTO_PROPOSE_FAILED, request_id, out);
        return;
    }
    is_conf = decoded.kind == PROTO_KIND_CONF_CHANGE;
    rec = record_new(p, decoded.origin_generation, request_id);
    rec->gateway = g->index;
    rec->is_conf = is_conf;
    rec->deadline_ms = raftd_now_ms(r) + r->request_timeout_ms;
    /* behind those that wait already, so that a client's order is kept */
    out = p->queued_count != 0 ? (int)HANDED_WAIT : hand_over(r, payload, is_conf);
    if (out == HANDED_OK) {
        mark_sent(r, rec);
        raftd_arm(r);
    } else if (out != HANDED_WAIT) {
        answer(r, rec, out);
    } else if (p->queued_count >= RAFTD_QUEUED_MAX ||
               p->queued_bytes + payload.len > RAFTD_QUEUED_BYTES_MAX) {
        answer(r, rec, OUT_TOO_MANY_REQUESTS);
    } else {
        rec->state = RECORD_QUEUED;
        rec->payload = bytes_of(xmemdup(payload.data, payload.len), payload.len);
        p->queued_count++;
        p->queued_bytes += payload.len;
        list_push_back(&p->queued, &rec->age);
        raftd_arm(r);
    }
}

int raftd_propose_own(struct raftd *r, enum proto_kind kind, struct bytes body)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    struct proto_payload payload = {.kind = kind, .origin_member = r->member_id, .body = body};
    int out;

    proto_payload_encode(&b, &payload);
    out = hand_over(r, buf_bytes(&b), false);
    raftd_arm(r);
    return out == HANDED_WAIT ? OUT_NO_LEADER : out;
}

/* ---- from other members ---- */

static void refuse_forwarded(struct raftd *r, uint64_t to, const struct proto_payload *payload,
                             int outcome)
{
    struct peer_propose_failed m = {.generation = payload->origin_generation,
                                    .request_id = payload->request_id,
                                    .outcome = (uint16_t)outcome};
    struct buf *b = peers_begin(r->peers, to, PEER_LANE_MAIN, PEER_PROPOSE_FAILED);

    if (b == NULL)
        return; /* it times out there */
    peer_propose_failed_encode(b, &m);
    peers_end(r->peers);
}

static int take_forwarded(struct raftd *r, uint64_t from, struct bytes payload, bool is_conf)
{
    struct raftd_proposals *p = r->proposals;
    struct raft_proposed place;
    struct foreign_conf *f;
    int out;

    if (r->raft == NULL || raft_get_state(r->raft) != RAFT_LEADER)
        return OUT_NO_LEADER; /* never passed on a second time */
    if (r->status.commit_index > r->applied_index + RAFTD_APPLY_GAP_MAX)
        return OUT_TOO_MANY_REQUESTS;
    if (!is_conf)
        return raft_propose(r->raft, RAFT_ENTRY_NORMAL, payload, &place);
    out = append_conf(r, payload);
    if (out != HANDED_WAIT)
        return out;
    if (p->foreign_count >= RAFT_MEMBERS_MAX)
        return OUT_TOO_MANY_REQUESTS;
    f = xcalloc(1, sizeof(*f));
    f->from = from;
    f->deadline_ms = raftd_now_ms(r) + r->request_timeout_ms;
    f->payload = bytes_of(xmemdup(payload.data, payload.len), payload.len);
    list_push_back(&p->foreign, &f->node);
    p->foreign_count++;
    return 0;
}

void raftd_proposals_on_forwarded(struct raftd *r, uint64_t from, struct bytes payload)
{
    struct proto_payload decoded;
    int out;

    if (proto_payload_decode(payload, &decoded) != 0 || decoded.origin_member != from ||
        decoded.body.len > r->conf->max_request_bytes + RAFTD_REQUEST_OVERHEAD) {
        r->counters.nonsense++;
        return;
    }
    out = take_forwarded(r, from, payload, decoded.kind == PROTO_KIND_CONF_CHANGE);
    if (out == 0)
        raftd_arm(r);
    else if (decoded.origin_generation != 0)
        refuse_forwarded(r, from, &decoded, out);
}

void raftd_proposals_on_refused(struct raftd *r, const struct peer_propose_failed *m)
{
    struct record *rec = record_find(r->proposals, m->generation, m->request_id);
    int out = m->outcome;

    if (rec == NULL || rec->state != RECORD_SENT)
        return;
    if (out == OUT_NO_LEADER || out == OUT_NOT_LEADER)
        out = OUT_LEADER_CHANGED; /* it was the leader when we forwarded */
    answer(r, rec, out < OUT_COUNT && out > 0 ? out : OUT_INTERNAL);
}

/* ---- what becomes of them ---- */

void raftd_proposals_on_committed(struct raftd *r, const struct proto_payload *payload)
{
    struct record *rec =
        record_find(r->proposals, payload->origin_generation, payload->request_id);

    if (rec != NULL)
        record_free(r->proposals, rec); /* stored answers */
}

void raftd_proposals_on_aborted(struct raftd *r, const struct raft_entry *e)
{
    struct proto_payload payload;
    struct record *rec;

    if (proto_payload_decode(raft_entry_bytes(e), &payload) != 0 ||
        payload.origin_member != r->member_id)
        return;
    rec = record_find(r->proposals, payload.origin_generation, payload.request_id);
    if (rec != NULL && rec->state == RECORD_SENT)
        answer(r, rec, OUT_TIMEOUT_LEADER_FAIL);
}

void raftd_proposals_term_committed(struct raftd *r, uint64_t term)
{
    struct list *sent = &r->proposals->sent;

    while (!list_empty(sent)) {
        struct record *rec = LIST_ENTRY(sent->next, struct record, age);

        if (rec->term >= term)
            break;
        answer(r, rec, OUT_TIMEOUT_LEADER_FAIL);
    }
}

static void flush_foreign(struct raftd *r)
{
    struct raftd_proposals *p = r->proposals;

    while (!list_empty(&p->foreign)) {
        struct foreign_conf *f = LIST_ENTRY(p->foreign.next, struct foreign_conf, node);
        struct proto_payload payload;
        int out = OUT_NO_LEADER;

        if (raftd_is_leader(r))
            out = append_conf(r, f->payload);
        if (out == HANDED_WAIT && raftd_now_ms(r) < f->deadline_ms)
            return;
        if (out == HANDED_WAIT)
            out = OUT_TIMEOUT;
        if (out != 0 && proto_payload_decode(f->payload, &payload) == 0)
            refuse_forwarded(r, f->from, &payload, out);
        foreign_free(p, f);
        raftd_arm(r);
    }
}

void raftd_proposals_flush(struct raftd *r)
{
    struct raftd_proposals *p = r->proposals;

    flush_foreign(r);
    while (!list_empty(&p->queued)) {
        struct record *rec = LIST_ENTRY(p->queued.next, struct record, age);
        int out = hand_over(r, rec->payload, rec->is_conf);

        if (out == HANDED_WAIT)
            return;
        if (out != HANDED_OK) {
            answer(r, rec, out);
            continue;
        }
        p->queued_count--;
        p->queued_bytes -= rec->payload.len;
        free_payload(&rec->payload);
        mark_sent(r, rec);
        raftd_arm(r);
    }
}

/* Those that were not handed over wait for a leader, or, changes of the members, for each other. */
static int outcome_of_late(const struct record *rec)
{
    return rec->state == RECORD_QUEUED && !rec->is_conf ? OUT_NOT_PROPOSED : OUT_TIMEOUT;
}

static void expire(struct raftd *r, struct list *list)
{
    uint64_t now = raftd_now_ms(r);

    /* SENT ones that were queued before are out of order by less than a timeout: they go when
     * those before them do, at most one timeout late */
    while (!list_empty(list)) {
        struct record *rec = LIST_ENTRY(list->next, struct record, age);

        if (rec->deadline_ms > now)
            return;
        answer(r, rec, outcome_of_late(rec));
    }
}

void raftd_proposals_expire(struct raftd *r)
{
    raftd_proposals_flush(r);
    expire(r, &r->proposals->queued);
    expire(r, &r->proposals->sent);
}

void raftd_proposals_gateway_down(struct raftd *r, const struct raftd_gateway *g)
{
    struct list *lists[] = {&r->proposals->queued, &r->proposals->sent};

    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        LIST_FOREACH_SAFE (it, tmp, lists[i]) {
            struct record *rec = LIST_ENTRY(it, struct record, age);

            if (rec->gateway == g->index)
                record_free(r->proposals, rec);
        }
    }
}

size_t raftd_proposals_pending(const struct raftd *r)
{
    return r->proposals->count;
}

bool raftd_proposals_conf_waiting(const struct raftd *r)
{
    const struct list *queued = &r->proposals->queued;

    if (r->proposals->foreign_count != 0)
        return true;
    LIST_FOREACH (it, (struct list *)(uintptr_t)queued) {
        if (LIST_ENTRY(it, struct record, age)->is_conf)
            return true;
    }
    return false;
}
