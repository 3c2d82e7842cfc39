/*
 * JSON Web Tokens (RFC 7515, 7518, 7519) as etcd issues and takes them: claims username, revision
 * (of auth, when it was issued) and exp.
 *
 * The algorithm is a setting, never the token's choice: a token whose header names another one
 * ("none", or HS256 with the public key as secret) is refused before its signature is looked at.
 * libjwt of Debian 12 has neither PS256 nor EdDSA, so the signatures are OpenSSL's directly.
 *
 * A struct auth_jwt does not change after auth_jwt_new but for its references: any thread may sign
 * and verify.
 */
#ifndef CONCLAVE_STORED_AUTH_JWT_H
#define CONCLAVE_STORED_AUTH_JWT_H

#include <stdbool.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

struct auth_jwt;

struct auth_jwt_claims {
    struct bytes username; /* from verify: into the buf given */
    uint64_t revision;
    uint64_t expires_s; /* seconds since 1970; 0: never */
};

/* options: what follows "jwt," in the setting auth-token: pub-key=FILE, priv-key=FILE,
 * sign-method=RS256 (.. 512, PS, ES, HS, EdDSA), ttl=10m. Reads the files. NULL with *ret_error
 * (free()). */
struct auth_jwt *auth_jwt_new(const char *options, char **ret_error);
/* Counted on the loop thread; NULL is fine. */
struct auth_jwt *auth_jwt_ref(struct auth_jwt *j);
void auth_jwt_unref(struct auth_jwt *j);

bool auth_jwt_can_sign(const struct auth_jwt *j); /* false: only a public key was given */
uint64_t auth_jwt_ttl_s(const struct auth_jwt *j);
/* Appends the token. False: it cannot. */
bool auth_jwt_sign(const struct auth_jwt *j, const struct auth_jwt_claims *claims,
                   struct buf *token);
/* False: not ours, damaged, or expired at now_s. username is appended to `text`. */
bool auth_jwt_verify(const struct auth_jwt *j, struct bytes token, uint64_t now_s, struct buf *text,
                     struct auth_jwt_claims *ret_claims);

#endif
