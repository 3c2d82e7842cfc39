/* SHA-256 by libcrypto. Its struct sha256 is nothing but libcrypto's context. */
#include "lib/util/sha256.h"

#include <assert.h>
#include <limits.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include "lib/util/macros.h"

static EVP_MD_CTX *context(struct sha256 *s)
{
    return (EVP_MD_CTX *)s;
}

/* libcrypto wants a pointer, even to nothing. */
static const uint8_t *pointer(struct bytes data)
{
    return data.len != 0 ? data.data : (const uint8_t *)"";
}

void sha256_of(struct bytes data, uint8_t ret[SHA256_BYTES])
{
    if (EVP_Digest(pointer(data), data.len, ret, NULL, EVP_sha256(), NULL) != 1)
        PANIC("SHA-256 failed");
}

void sha256_hmac(struct bytes key, struct bytes data, uint8_t ret[SHA256_BYTES])
{
    assert(key.len <= INT_MAX);
    if (HMAC(EVP_sha256(), pointer(key), (int)key.len, pointer(data), data.len, ret, NULL) == NULL)
        PANIC("HMAC failed");
}

struct sha256 *sha256_new(void)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();

    if (ctx == NULL || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1)
        PANIC("SHA-256 is not available");
    return (struct sha256 *)ctx;
}

void sha256_free(struct sha256 *s)
{
    EVP_MD_CTX_free(context(s));
}

void sha256_add(struct sha256 *s, struct bytes data)
{
    if (EVP_DigestUpdate(context(s), pointer(data), data.len) != 1)
        PANIC("SHA-256 failed");
}

void sha256_end(struct sha256 *s, uint8_t ret[SHA256_BYTES])
{
    if (EVP_DigestFinal_ex(context(s), ret, NULL) != 1)
        PANIC("SHA-256 failed");
}
