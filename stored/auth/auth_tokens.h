/*
 * Simple tokens: who is known by which, and since when nobody has used it. Entries hand them out,
 * so every member knows every token; but they are no state: they are in no checkpoint, no snapshot
 * and no hash, each member lets them expire by its own clock, and they end with the process (as in
 * etcd: clients log in again).
 *
 * A token is letters, a dot and the index of its entry. The table, like the log, has the SHA-256 of
 * the letters only: who reads either cannot log in with it.
 */
#ifndef CONCLAVE_STORED_AUTH_TOKENS_H
#define CONCLAVE_STORED_AUTH_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"
#include "lib/util/hmap.h"
#include "lib/util/list.h"
#include "lib/util/sha256.h"

enum {
    AUTH_TOKEN_DIGEST_BYTES = SHA256_BYTES,
    AUTH_TOKENS_MAX = 100000, /* above it the one unused for longest goes */
};

struct auth_tokens {
    struct hmap by_digest; /* its first 8 bytes -> struct auth_token */
    struct list by_use;    /* the one unused for longest first */
    uint64_t ttl_ms;
    uint64_t now_ms; /* monotonic; kept up by the owner */
};

void auth_tokens_init(struct auth_tokens *t, uint64_t ttl_ms);
void auth_tokens_fini(struct auth_tokens *t);
void auth_tokens_clear(struct auth_tokens *t);
void auth_tokens_set_clock(struct auth_tokens *t, uint64_t now_ms); /* drops what is too old */

/* A digest that is there already is replaced. */
void auth_tokens_add(struct auth_tokens *t, const uint8_t digest[AUTH_TOKEN_DIGEST_BYTES],
                     uint64_t index, struct bytes user);
void auth_tokens_drop_user(struct auth_tokens *t, struct bytes user);
/* Whose token it is, and counts as a use. *ret_user: borrowed until the next change. */
bool auth_tokens_find(struct auth_tokens *t, struct bytes token, struct bytes *ret_user);
/* The entry's index in a token; false: it does not look like one. */
bool auth_token_index(struct bytes token, uint64_t *ret_index);

#endif
