/*
 * An identity that stored vouches for, as bytes: name and auth revision, signed (HMAC-SHA-256, cut
 * to 128 bits) by a key that only stored processes know (it is replicated by an entry that gatewayd
 * cannot propose). gatewayd carries it and cannot make one.
 *
 * Verified stamps are remembered, so that a busy caller costs a comparison of bytes.
 */
#ifndef CONCLAVE_STORED_AUTH_STAMP_H
#define CONCLAVE_STORED_AUTH_STAMP_H

#include <stdbool.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"
#include "stored/auth/auth_check.h"
#include "stored/auth/auth_store.h"

enum { AUTH_STAMPS_KNOWN = 256, AUTH_STAMP_MAC_BYTES = 16 };

struct auth_stamps {
    struct buf known[AUTH_STAMPS_KNOWN]; /* verified, by hash */
    uint8_t key[AUTH_KEY_BYTES];         /* they were verified with */
};

void auth_stamps_fini(struct auth_stamps *s);

/* The store has a key. */
void auth_stamp_encode(struct buf *b, const struct auth_store *a, const struct auth_identity *who);
/* False: not made by us. who->name is borrowed from the stamp. An empty stamp is nobody. */
bool auth_stamp_verify(struct auth_stamps *s, const struct auth_store *a, struct bytes stamp,
                       struct auth_identity *ret_who);

#endif
