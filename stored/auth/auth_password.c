#include "stored/auth/auth_password.h"

#include <crypt.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include "lib/proto/outcome.h"
#include "lib/util/xmalloc.h"

void auth_secret_fini(struct buf *secret)
{
    if (secret->data != NULL)
        explicit_bzero(secret->data, secret->cap);
    buf_fini(secret);
}

static char *to_string(struct bytes password)
{
    return xstrndup(password.len > 0 ? (const char *)password.data : "", password.len);
}

static void wipe(void *data, size_t len)
{
    explicit_bzero(data, len);
    free(data);
}

/* `setting` is a salt with its parameters, or a hash. */
static bool run(struct bytes password, const char *setting, char ret_hash[CRYPT_OUTPUT_SIZE])
{
    struct crypt_data *data = xcalloc(1, sizeof(*data));
    char *text = to_string(password);
    const char *hash = crypt_rn(text, setting, data, (int)sizeof(*data));
    bool done = hash != NULL && hash[0] != '*';

    if (done)
        memcpy(ret_hash, hash, strlen(hash) + 1);
    wipe(text, password.len);
    wipe(data, sizeof(*data));
    return done;
}

int auth_password_hash(struct bytes password, unsigned int cost, struct buf *ret_hash)
{
    char setting[CRYPT_GENSALT_OUTPUT_SIZE], hash[CRYPT_OUTPUT_SIZE];

    if (password.len > AUTH_PASSWORD_BYTES_MAX)
        return OUT_PASSWORD_TOO_LONG;
    if (password.len > 0 && memchr(password.data, 0, password.len) != NULL)
        return OUT_INVALID_AUTH_MGMT;
    if (crypt_gensalt_rn("$2b$", cost, NULL, 0, setting, (int)sizeof(setting)) == NULL ||
        !run(password, setting, hash))
        return OUT_INTERNAL;
    buf_append(ret_hash, hash, strlen(hash));
    return OUT_OK;
}

bool auth_password_matches(struct bytes password, struct bytes hash)
{
    char setting[CRYPT_OUTPUT_SIZE], result[CRYPT_OUTPUT_SIZE];

    if (hash.len == 0 || hash.len >= sizeof(setting) || memchr(hash.data, 0, hash.len) != NULL ||
        (password.len > 0 && memchr(password.data, 0, password.len) != NULL))
        return false;
    memcpy(setting, hash.data, hash.len);
    setting[hash.len] = '\0';
    return run(password, setting, result) && strlen(result) == hash.len &&
           CRYPTO_memcmp(result, setting, hash.len) == 0;
}
