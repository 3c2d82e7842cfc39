/*
 * bcrypt ($2b$, libcrypt): the hash of a new password, and whether one fits a hash. Slow by
 * intention (cost 10: some 50 ms), so only for workers. What is needed in between is wiped.
 */
#ifndef CONCLAVE_STORED_AUTH_PASSWORD_H
#define CONCLAVE_STORED_AUTH_PASSWORD_H

#include <stdbool.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

enum {
    AUTH_PASSWORD_BYTES_MAX = 72, /* what bcrypt looks at */
    AUTH_COST_MIN = 4,
    AUTH_COST_MAX = 31,
    AUTH_COST_DEFAULT = 10,
};

/* OUT_OK; OUT_PASSWORD_TOO_LONG; OUT_INVALID_AUTH_MGMT: it has a zero byte, where bcrypt would
 * stop; OUT_INTERNAL. Any thread. */
int auth_password_hash(struct bytes password, unsigned int cost, struct buf *ret_hash);
/* Hashes of Go's bcrypt ($2a$) are fine. Any thread. */
bool auth_password_matches(struct bytes password, struct bytes hash);
/* Zeroes and releases. */
void auth_secret_fini(struct buf *secret);

#endif
