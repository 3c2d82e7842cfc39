/*
 * What of auth needs a worker or a clock: passwords, JWTs, the life of simple tokens, the key that
 * identities are signed by, and telling gatewayd when identities are to be asked for again.
 */
#ifndef CONCLAVE_STORED_STORED_AUTH_H
#define CONCLAVE_STORED_STORED_AUTH_H

#include <stdbool.h>
#include <stdint.h>
#include "lib/proto/messages.h"
#include "lib/util/bytes.h"

struct stored;
struct stored_gateway;

/* By the setting auth-token. 0 or -EINVAL, logged. */
int stored_auth_init(struct stored *s);
void stored_auth_fini(struct stored *s);
uint64_t stored_auth_token_ttl_ms(const struct stored *s);

/* The token's entry may not have been executed here yet. */
bool stored_auth_needs_barrier(struct stored *s, const struct proto_read *m);
/* AUTH_IDENTITY, AUTH_LOGIN, AUTH_HASH. 0 or an outcome: s->scratch is the answer; -EINPROGRESS: a
 * worker is at it. */
int stored_auth_read(struct stored_gateway *gw, uint64_t id, enum proto_read_kind kind,
                     struct bytes body);

void stored_auth_before_apply(struct stored *s);
void stored_auth_tell(struct stored *s); /* AUTH_CHANGED, when the last one is not true any more */
void stored_auth_gateway_up(struct stored_gateway *gw);
void stored_auth_role(struct stored *s); /* after every change of role and every turn */

#endif
