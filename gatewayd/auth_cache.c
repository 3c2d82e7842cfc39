#include "gatewayd/auth_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "gatewayd/backend.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/util/buf.h"
#include "lib/util/hmap.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum {
    ENTRIES_MAX = 20000, /* above it the one unused for longest goes */
    CLAIM_BYTES_MAX = 16 << 10,
};

struct entry {
    struct backend_call call; /* under way while there is no answer */
    struct auth_cache *cache;
    struct list node; /* in by_use, or in asking */
    uint64_t hash;
    struct buf claim;         /* encoded */
    struct auth_stamp *stamp; /* NULL: asked for */
    uint64_t good_until_ns;
    struct list waiters;
};

struct auth_cache {
    struct loop *loop;
    struct backend *backend;
    struct hmap by_hash;
    struct list by_use; /* with a stamp; the one unused for longest first */
    struct list asking;
    struct buf scratch;
};

struct auth_stamp *auth_stamp_ref(struct auth_stamp *s)
{
    s->refs++;
    return s;
}

void auth_stamp_unref(struct auth_stamp *s)
{
    if (s != NULL && --s->refs == 0)
        free(s);
}

static struct auth_stamp *stamp_new(struct bytes data)
{
    struct auth_stamp *s = xmalloc(sizeof(*s) + data.len);

    s->refs = 1;
    s->len = data.len;
    if (data.len > 0)
        memcpy(s->data, data.data, data.len);
    return s;
}

struct auth_cache *auth_cache_new(struct loop *loop, struct backend *backend)
{
    struct auth_cache *c = xcalloc(1, sizeof(*c));

    c->loop = loop;
    c->backend = backend;
    c->by_hash = HMAP_INIT;
    list_init(&c->by_use);
    list_init(&c->asking);
    return c;
}

static void entry_free(struct entry *e)
{
    assert(list_empty(&e->waiters));
    backend_cancel(e->cache->backend, &e->call);
    if (hmap_get(&e->cache->by_hash, e->hash) == e)
        hmap_remove(&e->cache->by_hash, e->hash);
    list_remove(&e->node);
    auth_stamp_unref(e->stamp);
    if (e->claim.len > 0)
        explicit_bzero(e->claim.data, e->claim.len); /* tokens are secrets */
    buf_fini(&e->claim);
    free(e);
}

static void free_list(struct list *l)
{
    while (!list_empty(l))
        entry_free(LIST_ENTRY(l->next, struct entry, node));
}

void auth_cache_clear(struct auth_cache *c)
{
    /* an answer that is under way was made after the change that we hear of now */
    free_list(&c->by_use);
}

void auth_cache_free(struct auth_cache *c)
{
    if (c == NULL)
        return;
    free_list(&c->by_use);
    free_list(&c->asking);
    hmap_fini(&c->by_hash);
    buf_fini(&c->scratch);
    free(c);
}

static void answer(struct entry *e, int outcome)
{
    struct list waiters;

    list_init(&waiters);
    while (!list_empty(&e->waiters))
        list_push_back(&waiters, list_pop_front(&e->waiters));
    /* a waiter may ask for the next thing, or cancel another: look at the list anew each time */
    if (e->stamp != NULL)
        auth_stamp_ref(e->stamp);
    struct auth_stamp *stamp = e->stamp;

    if (stamp == NULL)
        entry_free(e);
    while (!list_empty(&waiters)) {
        struct auth_waiter *w = LIST_ENTRY(list_pop_front(&waiters), struct auth_waiter, node);

        w->done(w, outcome, stamp != NULL ? auth_stamp_ref(stamp) : NULL);
    }
    auth_stamp_unref(stamp);
}

static void on_identity(struct backend_call *call, int outcome, struct bytes part,
                        uint64_t total_bytes)
{
    struct entry *e = CONTAINER_OF(call, struct entry, call);
    struct auth_cache *c = e->cache;
    struct proto_auth_identity identity;

    if (outcome == OUT_OK &&
        (part.len != total_bytes || proto_auth_identity_decode(part, &identity) != 0)) {
        backend_cancel(c->backend, call);
        outcome = OUT_INTERNAL;
    }
    if (outcome == OUT_OK) {
        e->stamp = stamp_new(identity.stamp);
        e->good_until_ns = loop_now_ns(c->loop) + (uint64_t)identity.valid_ms * 1000000;
        list_remove(&e->node);
        list_push_back(&c->by_use, &e->node);
    }
    answer(e, outcome);
}

/* FNV-1a is good enough to find an entry; the claim itself is compared. */
static uint64_t hash_of(struct bytes claim)
{
    uint64_t h = 14695981039346656037u;

    for (size_t i = 0; i < claim.len; i++)
        h = (h ^ claim.data[i]) * 1099511628211u;
    return h;
}

static void make_room(struct auth_cache *c)
{
    if (c->by_hash.count >= ENTRIES_MAX && !list_empty(&c->by_use))
        entry_free(LIST_ENTRY(c->by_use.next, struct entry, node));
}

static void ask(struct auth_cache *c, uint64_t hash, struct auth_waiter *w)
{
    struct entry *e = xcalloc(1, sizeof(*e));

    make_room(c);
    e->cache = c;
    e->hash = hash;
    list_init(&e->waiters);
    list_push_back(&e->waiters, &w->node);
    list_push_back(&c->asking, &e->node);
    buf_append_bytes(&e->claim, buf_bytes(&c->scratch));
    e->call.done = on_identity;
    e->call.body = buf_bytes(&e->claim);
    hmap_put(&c->by_hash, hash, e);
    backend_read(c->backend, &e->call, PROTO_READ_AUTH_IDENTITY, false);
}

struct auth_stamp *auth_cache_find(struct auth_cache *c, const struct proto_auth_claim *claim,
                                   struct auth_waiter *w)
{
    struct entry *e;
    uint64_t hash;

    list_init(&w->node);
    if (claim->value.len > CLAIM_BYTES_MAX) {
        w->done(w, OUT_INVALID_AUTH_TOKEN, NULL);
        return NULL;
    }
    buf_clear(&c->scratch);
    proto_auth_claim_encode(&c->scratch, claim);
    hash = hash_of(buf_bytes(&c->scratch));
    e = hmap_get(&c->by_hash, hash);
    if (e != NULL && !bytes_eq(buf_bytes(&e->claim), buf_bytes(&c->scratch))) {
        /* two tokens with one hash: the one under way is not disturbed */
        if (e->stamp == NULL) {
            w->done(w, OUT_TOO_MANY_REQUESTS, NULL);
            return NULL;
        }
        entry_free(e);
        e = NULL;
    }
    if (e != NULL && e->stamp == NULL) {
        list_push_back(&e->waiters, &w->node);
        return NULL;
    }
    if (e != NULL && e->good_until_ns <= loop_now_ns(c->loop)) {
        entry_free(e);
        e = NULL;
    }
    if (e == NULL) {
        ask(c, hash, w);
        return NULL;
    }
    list_remove(&e->node);
    list_push_back(&c->by_use, &e->node);
    return auth_stamp_ref(e->stamp);
}

void auth_cache_cancel(struct auth_waiter *w)
{
    if (w->node.next != NULL && !list_empty(&w->node))
        list_remove(&w->node);
}
