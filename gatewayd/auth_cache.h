/*
 * Identities by token: asks stored once for each and keeps the answer for as long as stored said,
 * or until auth changes. Whoever asks for the same token meanwhile waits for the same answer. What
 * was refused is not kept.
 */
#ifndef CONCLAVE_GATEWAYD_AUTH_CACHE_H
#define CONCLAVE_GATEWAYD_AUTH_CACHE_H

#include <stdbool.h>
#include "lib/proto/messages.h"
#include "lib/util/bytes.h"
#include "lib/util/list.h"

struct auth_cache;
struct backend;
struct loop;

/* An identity as stored vouched for it; shared by those who act under it. */
struct auth_stamp {
    unsigned int refs;
    size_t len; /* 0: auth is off */
    uint8_t data[];
};
struct auth_stamp *auth_stamp_ref(struct auth_stamp *s);
void auth_stamp_unref(struct auth_stamp *s); /* NULL is fine */

/* Somebody who waits for an answer; embedded and zeroed by its owner. */
struct auth_waiter {
    struct list node;
    /* stamp: a reference for the waiter, with OUT_OK only */
    void (*done)(struct auth_waiter *w, int outcome, struct auth_stamp *stamp);
};

struct auth_cache *auth_cache_new(struct loop *loop, struct backend *backend);
void auth_cache_free(struct auth_cache *c); /* nobody waits; NULL is fine */

/* A reference, when the answer is known. NULL: w->done comes, at once or later. */
struct auth_stamp *auth_cache_find(struct auth_cache *c, const struct proto_auth_claim *claim,
                                   struct auth_waiter *w);
void auth_cache_cancel(struct auth_waiter *w); /* done does not come; harmless when it came */
void auth_cache_clear(struct auth_cache *c);   /* auth changed */

#endif
