#include "stored/lease/lease_table.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/proto/outcome.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

enum op { OP_GRANT = 1, OP_REMOVE, OP_DEADLINE, OP_CLOCK, OP_KEEPER };
enum { KEY_SLOTS_MIN = 4 };
static const int64_t TTL_MAX = 9000000000; /* etcd lessor: MaxLeaseTTL */

struct lease_key {
    uint32_t hash, len;
    uint8_t data[];
};

/* ---- sets of keys: open addressing, at most three quarters full ---- */

static uint32_t hash_key(struct bytes key)
{
    return (uint32_t)XXH3_64bits(key.data, key.len);
}

static bool is_key(const struct lease_key *k, uint32_t hash, struct bytes key)
{
    return k->hash == hash && k->len == key.len && memcmp(k->data, key.data, key.len) == 0;
}

static size_t key_slot(const struct lease_keys *k, uint32_t hash, struct bytes key)
{
    size_t i = hash & k->mask;

    while (k->slots[i] != NULL && !is_key(k->slots[i], hash, key))
        i = (i + 1) & k->mask;
    return i;
}

static void keys_grow(struct lease_keys *k)
{
    size_t cap = k->slots == NULL ? KEY_SLOTS_MIN : (k->mask + 1) * 2;
    struct lease_keys grown = {.slots = xcalloc(cap, sizeof(struct lease_key *)), .mask = cap - 1};

    for (size_t i = 0; k->slots != NULL && i <= k->mask; i++) {
        struct lease_key *key = k->slots[i];

        if (key != NULL)
            grown.slots[key_slot(&grown, key->hash, bytes_of(key->data, key->len))] = key;
    }
    grown.count = k->count;
    free(k->slots);
    *k = grown;
}

static void keys_add(struct lease_keys *k, struct bytes key)
{
    uint32_t hash = hash_key(key);
    struct lease_key *copy;
    size_t i;

    if (k->slots == NULL || (k->count + 1) * 4 > (k->mask + 1) * 3)
        keys_grow(k);
    i = key_slot(k, hash, key);
    if (k->slots[i] != NULL)
        return;
    copy = xmalloc(sizeof(*copy) + key.len);
    copy->hash = hash;
    copy->len = (uint32_t)key.len;
    memcpy(copy->data, key.data, key.len);
    k->slots[i] = copy;
    k->count++;
}

static void keys_remove(struct lease_keys *k, struct bytes key)
{
    size_t i, j;

    if (k->slots == NULL)
        return;
    i = key_slot(k, hash_key(key), key);
    if (k->slots[i] == NULL)
        return;
    free(k->slots[i]);
    k->slots[i] = NULL;
    k->count--;
    /* no gap may cut a later key off from the slot its search starts at */
    for (j = (i + 1) & k->mask; k->slots[j] != NULL; j = (j + 1) & k->mask) {
        size_t home = k->slots[j]->hash & k->mask;

        if (((j - home) & k->mask) < ((j - i) & k->mask))
            continue;
        k->slots[i] = k->slots[j];
        k->slots[j] = NULL;
        i = j;
    }
}

void lease_keys_fini(struct lease_keys *k)
{
    for (size_t i = 0; k->slots != NULL && i <= k->mask; i++)
        free(k->slots[i]);
    free(k->slots);
    *k = (struct lease_keys){0};
}

static int cmp_keys(const void *a, const void *b)
{
    return bytes_cmp(*(const struct bytes *)a, *(const struct bytes *)b);
}

struct bytes *lease_keys_sorted(const struct lease_keys *k)
{
    struct bytes *list = xcalloc(k->count + 1, sizeof(*list));
    size_t n = 0;

    for (size_t i = 0; k->slots != NULL && i <= k->mask; i++)
        if (k->slots[i] != NULL)
            list[n++] = bytes_of(k->slots[i]->data, k->slots[i]->len);
    assert(n == k->count);
    qsort(list, n, sizeof(*list), cmp_keys);
    return list;
}

void lease_keys_each(const struct lease_keys *k, bool (*visit)(void *visitor, struct bytes key),
                     void *visitor)
{
    for (size_t i = 0; k->slots != NULL && i <= k->mask; i++)
        if (k->slots[i] != NULL &&
            !visit(visitor, bytes_of(k->slots[i]->data, k->slots[i]->len)))
            return;
}

/* ---- the table ---- */

void lease_table_init(struct lease_table *t)
{
    *t = (struct lease_table){.by_id = HMAP_INIT};
}

static void lease_free(struct lease *l)
{
    lease_keys_fini(&l->keys);
    free(l);
}

void lease_table_fini(struct lease_table *t)
{
    size_t pos = 0;
    uint64_t id;
    void *l;

    while (hmap_next(&t->by_id, &pos, &id, &l))
        lease_free(l);
    hmap_fini(&t->by_id);
    buf_fini(&t->ops);
    lease_table_init(t);
}

static struct lease *add(struct lease_table *t, int64_t id, int64_t ttl, uint64_t number,
                         uint64_t deadline_ms)
{
    struct lease *l = xcalloc(1, sizeof(*l));

    l->id = id;
    l->ttl = ttl;
    l->number = number;
    l->deadline_ms = deadline_ms;
    list_init(&l->local.node);
    hmap_put(&t->by_id, (uint64_t)id, l);
    return l;
}

int lease_table_grant(struct lease_table *t, int64_t id, int64_t ttl, int64_t ttl_min,
                      struct lease **ret)
{
    struct lease *l;

    if (id == 0)
        return OUT_LEASE_NOT_FOUND;
    if (ttl > TTL_MAX)
        return OUT_LEASE_TTL_TOO_LARGE;
    if (lease_table_find(t, id) != NULL)
        return OUT_LEASE_EXIST;
    ttl_min = ttl_min < 1 ? 1 : ttl_min > TTL_MAX ? TTL_MAX : ttl_min;
    l = add(t, id, ttl < ttl_min ? ttl_min : ttl, ++t->granted, 0);
    wire_put_u8(&t->ops, OP_GRANT);
    wire_put_i64(&t->ops, id);
    wire_put_i64(&t->ops, l->ttl);
    t->change_count++;
    if (t->observer != NULL && t->observer->granted != NULL)
        t->observer->granted(t->observer_user, l);
    *ret = l;
    return OUT_OK;
}

void lease_table_remove(struct lease_table *t, struct lease *l, struct lease_keys *ret_keys)
{
    assert(lease_table_find(t, l->id) == l);
    wire_put_u8(&t->ops, OP_REMOVE);
    wire_put_i64(&t->ops, l->id);
    t->change_count++;
    if (t->observer != NULL && t->observer->removed != NULL)
        t->observer->removed(t->observer_user, l);
    hmap_remove(&t->by_id, (uint64_t)l->id);
    *ret_keys = l->keys;
    l->keys = (struct lease_keys){0};
    lease_free(l);
}

void lease_table_set_keeper(struct lease_table *t, uint64_t term, uint64_t id)
{
    t->keeper_term = term;
    t->keeper_id = id;
    wire_put_u8(&t->ops, OP_KEEPER);
    wire_put_u64(&t->ops, term);
    wire_put_u64(&t->ops, id);
    t->change_count++;
}

void lease_table_set_clock(struct lease_table *t, uint64_t now_ms)
{
    if (now_ms <= t->clock_ms)
        return;
    t->clock_ms = now_ms;
    wire_put_u8(&t->ops, OP_CLOCK);
    wire_put_u64(&t->ops, now_ms);
}

void lease_table_set_deadline(struct lease_table *t, struct lease *l, uint64_t deadline_ms)
{
    l->deadline_ms = deadline_ms;
    wire_put_u8(&t->ops, OP_DEADLINE);
    wire_put_i64(&t->ops, l->id);
    wire_put_u64(&t->ops, deadline_ms);
    t->change_count++;
    if (t->observer != NULL && t->observer->deadline_set != NULL)
        t->observer->deadline_set(t->observer_user, l);
}

void lease_table_attach(struct lease_table *t, int64_t id, struct bytes key)
{
    struct lease *l = lease_table_find(t, id);

    if (l != NULL)
        keys_add(&l->keys, key);
}

void lease_table_detach(struct lease_table *t, int64_t id, struct bytes key)
{
    struct lease *l = lease_table_find(t, id);

    if (l != NULL)
        keys_remove(&l->keys, key);
}

/* ---- on disk ---- */

static int cmp_leases(const void *a, const void *b)
{
    int64_t x = (*(struct lease *const *)a)->id, y = (*(struct lease *const *)b)->id;

    return x < y ? -1 : x > y;
}

struct lease **lease_table_sorted(const struct lease_table *t)
{
    struct lease **list = xcalloc(t->by_id.count + 1, sizeof(*list));
    size_t pos = 0, n = 0;
    uint64_t id;
    void *l;

    while (hmap_next(&t->by_id, &pos, &id, &l))
        list[n++] = l;
    qsort(list, n, sizeof(struct lease *), cmp_leases);
    return list;
}

void lease_table_encode(const struct lease_table *t, struct buf *b)
{
    struct lease **list = lease_table_sorted(t);

    wire_put_u64(b, t->clock_ms);
    wire_put_u64(b, t->granted);
    wire_put_u64(b, t->keeper_term);
    wire_put_u64(b, t->keeper_id);
    for (size_t i = 0; i < t->by_id.count; i++) {
        wire_put_i64(b, list[i]->id);
        wire_put_i64(b, list[i]->ttl);
        wire_put_u64(b, list[i]->number);
        wire_put_u64(b, list[i]->deadline_ms);
    }
    free(list);
}

static bool is_sane(const struct lease_table *t, int64_t id, int64_t ttl)
{
    return id != 0 && ttl > 0 && ttl <= TTL_MAX && lease_table_find(t, id) == NULL;
}

int lease_table_decode(struct lease_table *t, struct bytes data)
{
    struct wire_reader r = wire_reader(data);

    assert(t->observer == NULL);
    lease_table_fini(t);
    if (data.len == 0)
        return 0;
    t->clock_ms = wire_get_u64(&r);
    t->granted = wire_get_u64(&r);
    t->keeper_term = wire_get_u64(&r);
    t->keeper_id = wire_get_u64(&r);
    while (r.pos < r.end && !r.bad) {
        int64_t id = wire_get_i64(&r), ttl = wire_get_i64(&r);
        uint64_t number = wire_get_u64(&r), deadline_ms = wire_get_u64(&r);

        if (r.bad || !is_sane(t, id, ttl) || number > t->granted)
            return -EBADMSG;
        add(t, id, ttl, number, deadline_ms);
    }
    return wire_reader_done(&r);
}

static int replay_one(struct lease_table *t, struct wire_reader *r)
{
    enum op op = (enum op)wire_get_u8(r);
    struct lease *l;
    int64_t id, ttl;

    switch (op) {
    case OP_GRANT:
        id = wire_get_i64(r);
        ttl = wire_get_i64(r);
        if (r->bad || !is_sane(t, id, ttl))
            return -EBADMSG;
        add(t, id, ttl, ++t->granted, 0);
        return 0;
    case OP_REMOVE:
        l = lease_table_find(t, wire_get_i64(r));
        if (l == NULL)
            return -EBADMSG;
        hmap_remove(&t->by_id, (uint64_t)l->id);
        lease_free(l);
        return 0;
    case OP_DEADLINE:
        l = lease_table_find(t, wire_get_i64(r));
        if (l == NULL)
            return -EBADMSG;
        l->deadline_ms = wire_get_u64(r);
        return 0;
    case OP_CLOCK:
        t->clock_ms = wire_get_u64(r);
        return 0;
    case OP_KEEPER:
        t->keeper_term = wire_get_u64(r);
        t->keeper_id = wire_get_u64(r);
        return 0;
    }
    return -EBADMSG;
}

int lease_table_replay(struct lease_table *t, struct bytes ops)
{
    struct wire_reader r = wire_reader(ops);
    int result = 0;

    assert(t->observer == NULL);
    while (r.pos < r.end && result == 0)
        result = replay_one(t, &r);
    return result == 0 && r.bad ? -EBADMSG : result;
}
