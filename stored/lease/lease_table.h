/*
 * The leases: which exist, their TTLs, and the keys attached to each. Replicated state: changed by
 * entries only, equal on every member (etcd rpc.proto Lease).
 *
 * Time is replicated as the lease clock, a count of milliseconds that the leader's stored moves on
 * by LEASE_CLOCK entries while there are leases. A deadline is a reading of that clock; 0 says
 * that it is not known, and whoever becomes leader then assumes that the lease was renewed just
 * now. An id may be granted again once it is free; `number` tells the leases apart, for entries
 * that were proposed when the id still meant the one before. What runs between the entries, and who decides that a lease is over, is lease_keeper.
 *
 * Every change is also appended to `ops`, which the keyspace writes into the batch record of its
 * turn; attachments are not, they follow from the keys' own records (lease_table_attach when a
 * store is opened).
 */
#ifndef CONCLAVE_STORED_LEASE_TABLE_H
#define CONCLAVE_STORED_LEASE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"
#include "lib/util/hmap.h"
#include "lib/util/list.h"
#include "lib/util/sim_bug.h"

struct lease_key;
/* A set of keys; no order. */
struct lease_keys {
    struct lease_key **slots; /* NULL while empty */
    size_t mask, count;
};

/* What the leader's keeper knows of a lease; nobody else looks at it. */
struct lease_local {
    struct list node; /* in one of the keeper's lists */
    uint64_t due_ms;  /* of the lease clock */
    uint64_t renewed_ms;
    uint64_t asked_ms; /* when something was last proposed for it */
    size_t heap_pos;   /* from 1; 0: not in the heap */
    uint8_t state;
};

struct lease {
    int64_t id;
    int64_t ttl;          /* granted, seconds */
    uint64_t number;      /* the how many-th lease ever granted */
    uint64_t deadline_ms; /* 0: not known */
    struct lease_keys keys;
    struct lease_local local;
};

/* Told of changes that entries make; NULL members are skipped. */
struct lease_observer {
    void (*granted)(void *user, struct lease *l);
    void (*deadline_set)(void *user, struct lease *l);
    void (*removed)(void *user, struct lease *l); /* before it is freed */
};

struct lease_table {
    struct hmap by_id;
    uint64_t clock_ms;
    uint64_t granted; /* leases ever */
    uint64_t keeper_term, keeper_id; /* whose expiries and deadlines count */
    struct buf ops;
    uint64_t change_count; /* rises with everything an observer could be told of */
    const struct lease_observer *observer;
    void *observer_user;
};

void lease_table_init(struct lease_table *t);
void lease_table_fini(struct lease_table *t); /* and may be used again, empty */

static inline struct lease *lease_table_find(const struct lease_table *t, int64_t id)
{
    return id == 0 ? NULL : hmap_get(&t->by_id, (uint64_t)id);
}
/* As an entry means it that was proposed when `granted` leases had been granted. */
static inline struct lease *lease_table_find_as_of(const struct lease_table *t, int64_t id,
                                                   uint64_t granted)
{
    struct lease *l = lease_table_find(t, id);

    return l != NULL && (l->number <= granted || SIM_BUG(LEASE_REGRANTED)) ? l : NULL;
}
static inline size_t lease_table_count(const struct lease_table *t)
{
    return t->by_id.count;
}

/* OUT_OK with the new lease, OUT_LEASE_NOT_FOUND (id 0), OUT_LEASE_TTL_TOO_LARGE,
 * OUT_LEASE_EXIST: etcd's order. */
int lease_table_grant(struct lease_table *t, int64_t id, int64_t ttl, int64_t ttl_min,
                      struct lease **ret);
/* Takes its keys, which the caller deletes from the keyspace and frees (lease_keys_fini). */
void lease_table_remove(struct lease_table *t, struct lease *l, struct lease_keys *ret_keys);
void lease_table_set_keeper(struct lease_table *t, uint64_t term, uint64_t id);
void lease_table_set_clock(struct lease_table *t, uint64_t now_ms); /* never back */
void lease_table_set_deadline(struct lease_table *t, struct lease *l, uint64_t deadline_ms);

/* Leases that do not exist are ignored. */
void lease_table_attach(struct lease_table *t, int64_t id, struct bytes key);
void lease_table_detach(struct lease_table *t, int64_t id, struct bytes key);

/* The whole table in order of ids, and back (replaces; -EBADMSG). */
void lease_table_encode(const struct lease_table *t, struct buf *b);
int lease_table_decode(struct lease_table *t, struct bytes data);
/* What `ops` said of one turn. -EBADMSG when it does not fit the table. */
int lease_table_replay(struct lease_table *t, struct bytes ops);

/* Every lease, in order of ids; free(). */
struct lease **lease_table_sorted(const struct lease_table *t);

/* The keys in ascending order, borrowed from the set; free() the array. */
struct bytes *lease_keys_sorted(const struct lease_keys *k);
/* Each key, in no order, until visit returns false. */
void lease_keys_each(const struct lease_keys *k, bool (*visit)(void *visitor, struct bytes key),
                     void *visitor);
void lease_keys_fini(struct lease_keys *k);

#endif
