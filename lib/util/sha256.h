/*
 * SHA-256 (FIPS 180-4) and its HMAC (RFC 2104), at once or in pieces. Any thread. Nothing fails: a
 * libcrypto without SHA-256 ends the process. Who includes this links $(CRYPTO_LIBS).
 */
#ifndef CONCLAVE_UTIL_SHA256_H
#define CONCLAVE_UTIL_SHA256_H

#include <stdint.h>
#include "lib/util/bytes.h"

enum { SHA256_BYTES = 32 };

void sha256_of(struct bytes data, uint8_t ret[SHA256_BYTES]);
void sha256_hmac(struct bytes key, struct bytes data, uint8_t ret[SHA256_BYTES]);

/* In pieces: sha256_end once, and nothing after it but sha256_free. */
struct sha256;
struct sha256 *sha256_new(void);
void sha256_free(struct sha256 *s); /* NULL is fine */
void sha256_add(struct sha256 *s, struct bytes data);
void sha256_end(struct sha256 *s, uint8_t ret[SHA256_BYTES]);

#endif
