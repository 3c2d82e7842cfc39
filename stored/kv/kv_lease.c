/*
 * Entries about leases, and which key hangs on which (etcd server/lease). A lease that ends takes
 * its keys with it in one revision, in key order; an entry that ends many leases makes one
 * revision for each that had keys.
 */
#include "stored/kv/kv_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/util/sim_bug.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"

enum { LEASE_COST = 64 /* bytes the quota counts: etcd server/storage/quota.go */ };

struct lease_table *kv_leases(struct kv *kv)
{
    return &kv->leases;
}

bool kv_lease_exists(const struct kv *kv, int64_t lease)
{
    return lease_table_find(&kv->leases, lease) != NULL;
}

void kv_lease_attach_all(struct kv *kv)
{
    struct kv_index_iter it;
    const struct kv_entry *e;

    if (lease_table_count(&kv->leases) == 0 || !kv->lease_seen)
        return;
    for (kv_index_first(&kv->index, &it); (e = kv_index_iter_get(&it)) != NULL;
         kv_index_iter_next(&it))
        if (kv_entry_is_live(e) && e->lease != 0)
            lease_table_attach(&kv->leases, e->lease, kv_entry_key(e));
}

int kv_apply_lease_grant(struct kv *kv, struct bytes body, const struct kv_header *header,
                         struct buf *message)
{
    struct proto_lease_grant m;
    struct lease *l = NULL;
    int outcome;

    if (proto_lease_grant_decode(body, &m) != 0)
        return OUT_MALFORMED;
    outcome = kv_check_alarms(kv, LEASE_COST);
    if (outcome == OUT_OK)
        outcome = lease_table_grant(&kv->leases, m.id, m.ttl, m.ttl_min, &l);
    if (outcome == OUT_OK)
        kv->lease_granted_total++;
    if (outcome != OUT_OK || message == NULL)
        return outcome;
    kv_put_header(message, header, kv->revision);
    pb_put_i64(message, 2, l->id);
    pb_put_i64(message, 3, l->ttl);
    return OUT_OK;
}

/* Deletes what hung on it; w->sub says how much that was. */
static int end_lease(struct kv *kv, struct kv_writer *w, struct lease *l)
{
    struct lease_keys keys;
    struct bytes *sorted;
    int r = OUT_OK;

    lease_table_remove(&kv->leases, l, &keys);
    sorted = lease_keys_sorted(&keys);
    for (size_t i = SIM_BUG(LEASE_KEY_LEFT) ? 1 : 0; i < keys.count && r == OUT_OK; i++)
        r = kv_write_delete(kv, w, &(struct kv_delete_request){.key = sorted[i]}, NULL, NULL);
    free(sorted);
    lease_keys_fini(&keys);
    return r;
}

static int decode_revoke(struct bytes body, int64_t *ret_id)
{
    struct pb_reader r = pb_reader(body);
    struct pb_field f;

    *ret_id = 0;
    while (pb_next(&r, &f))
        if (f.number == 1 && f.type == PB_VARINT)
            *ret_id = (int64_t)f.value;
    return r.bad ? OUT_MALFORMED : OUT_OK;
}

int kv_apply_lease_revoke(struct kv *kv, struct kv_writer *w, struct bytes body,
                          const struct kv_header *header, struct buf *message)
{
    struct lease *l;
    int64_t id;
    int outcome = decode_revoke(body, &id);

    if (outcome == OUT_OK)
        outcome = kv_check_alarms(kv, 0);
    if (outcome != OUT_OK)
        return outcome;
    l = lease_table_find(&kv->leases, id);
    if (l == NULL)
        return OUT_LEASE_NOT_FOUND;
    kv->lease_revoked_total++;
    outcome = end_lease(kv, w, l);
    if (outcome == OUT_OK && message != NULL)
        kv_put_header(message, header, w->sub > 0 ? w->main : w->main - 1);
    return outcome;
}

int kv_apply_lease_keeper(struct kv *kv, uint64_t term, struct bytes body)
{
    struct proto_u64 keeper;

    if (proto_u64_decode(body, &keeper) != 0 || keeper.value == 0)
        return OUT_MALFORMED;
    lease_table_set_keeper(&kv->leases, term, keeper.value);
    return OUT_OK;
}

/* Said by the one that decides, and not by a predecessor whose entry came late. */
static bool is_of_keeper(const struct kv *kv, uint64_t term, uint64_t keeper)
{
    return term == kv->leases.keeper_term && keeper == kv->leases.keeper_id;
}

int kv_apply_lease_clock(struct kv *kv, uint64_t term, struct bytes body)
{
    struct proto_lease_clock m;
    struct wire_reader r;

    if (proto_lease_clock_decode(body, &m) != 0)
        return OUT_MALFORMED;
    if (!is_of_keeper(kv, term, m.keeper))
        return OUT_NOT_LEADER;
    lease_table_set_clock(&kv->leases, m.now_ms);
    r = wire_reader(m.deadlines);
    while (r.pos < r.end) {
        struct lease *l = lease_table_find_as_of(&kv->leases, wire_get_i64(&r), m.granted);
        uint64_t deadline_ms = wire_get_u64(&r);

        if (l != NULL)
            lease_table_set_deadline(&kv->leases, l, deadline_ms);
    }
    return OUT_OK;
}

int kv_apply_lease_expire(struct kv *kv, struct kv_writer *w, uint64_t term, struct bytes body)
{
    struct wire_reader r = wire_reader(body);
    uint64_t keeper = wire_get_u64(&r), granted = wire_get_u64(&r);
    int outcome = OUT_OK;

    if (r.bad || (size_t)(r.end - r.pos) % sizeof(int64_t) != 0)
        return OUT_MALFORMED;
    if (!is_of_keeper(kv, term, keeper))
        return OUT_NOT_LEADER;
    while (r.pos < r.end && outcome == OUT_OK) {
        struct lease *l = lease_table_find_as_of(&kv->leases, wire_get_i64(&r), granted);

        if (l == NULL)
            continue; /* revoked meanwhile */
        kv->lease_expired_total++;
        outcome = end_lease(kv, w, l);
        if (w->sub > 0)
            kv->revision = w->main;
        *w = (struct kv_writer){.main = kv->revision + 1};
    }
    return outcome;
}
