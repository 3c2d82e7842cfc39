#include "stored/auth/auth_jwt.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "lib/conf/conf.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "stored/auth/auth_password.h"

enum {
    KEY_FILE_BYTES_MAX = 64 << 10,
    TOKEN_BYTES_MAX = 16 << 10,
    SIGNATURE_BYTES_MAX = 2048,
    TTL_S_DEFAULT = 300,
};

enum family { FAMILY_HMAC, FAMILY_RSA, FAMILY_PSS, FAMILY_EC, FAMILY_ED };

struct algorithm {
    const char *name;
    enum family family;
    const EVP_MD *(*digest)(void);
    int curve_bits; /* FAMILY_EC */
};

static const struct algorithm algorithms[] = {
    {"RS256", FAMILY_RSA, EVP_sha256, 0},  {"RS384", FAMILY_RSA, EVP_sha384, 0},
    {"RS512", FAMILY_RSA, EVP_sha512, 0},  {"PS256", FAMILY_PSS, EVP_sha256, 0},
    {"PS384", FAMILY_PSS, EVP_sha384, 0},  {"PS512", FAMILY_PSS, EVP_sha512, 0},
    {"ES256", FAMILY_EC, EVP_sha256, 256}, {"ES384", FAMILY_EC, EVP_sha384, 384},
    {"ES512", FAMILY_EC, EVP_sha512, 521}, {"HS256", FAMILY_HMAC, EVP_sha256, 0},
    {"HS384", FAMILY_HMAC, EVP_sha384, 0}, {"HS512", FAMILY_HMAC, EVP_sha512, 0},
    {"EdDSA", FAMILY_ED, NULL, 0},
};

struct auth_jwt {
    const struct algorithm *algorithm;
    EVP_PKEY *private_key; /* NULL: verifies only */
    EVP_PKEY *public_key;  /* or the private one */
    struct buf secret;     /* FAMILY_HMAC */
    uint64_t ttl_s;
    unsigned int refs;
};

/* ---- base64url without padding, strict ---- */

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void base64_put(struct buf *b, struct bytes data)
{
    uint32_t bits = 0;
    unsigned int have = 0;

    for (size_t i = 0; i < data.len; i++) {
        bits = bits << 8 | data.data[i];
        have += 8;
        while (have >= 6) {
            have -= 6;
            buf_append_u8(b, (uint8_t)alphabet[bits >> have & 63]);
        }
    }
    if (have > 0)
        buf_append_u8(b, (uint8_t)alphabet[bits << (6 - have) & 63]);
}

static bool base64_get(struct bytes text, struct buf *b)
{
    uint32_t bits = 0;
    unsigned int have = 0;

    if (text.len % 4 == 1)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        const char *at = text.data[i] == 0 ? NULL : strchr(alphabet, text.data[i]);

        if (at == NULL)
            return false;
        bits = bits << 6 | (uint32_t)(at - alphabet);
        have += 6;
        if (have >= 8) {
            have -= 8;
            buf_append_u8(b, (uint8_t)(bits >> have));
        }
    }
    return (bits & ((1u << have) - 1)) == 0;
}

/* ---- settings ---- */

static bool read_file(const char *path, struct buf *ret)
{
    CLEANUP(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return false;
    do {
        n = read(fd, buf_reserve(ret, 4096), 4096);
        if (n > 0)
            ret->len += (size_t)n;
    } while ((n > 0 && ret->len <= KEY_FILE_BYTES_MAX) || (n < 0 && errno == EINTR));
    if (n == 0)
        return true;
    if (n > 0)
        errno = EFBIG;
    return false;
}

/* PEM: a private key, or (any kind of) public one, also of a certificate. */
static EVP_PKEY *parse_key(struct bytes pem, bool is_private)
{
    BIO *bio = BIO_new_mem_buf(pem.data, (int)pem.len);
    EVP_PKEY *key = NULL;
    X509 *cert;

    if (bio == NULL)
        return NULL;
    if (is_private) {
        key = PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *)(uintptr_t) "");
    } else {
        key = PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL);
        if (key == NULL && BIO_reset(bio) == 1 &&
            (cert = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL) {
            key = X509_get_pubkey(cert);
            X509_free(cert);
        }
    }
    BIO_free(bio);
    return key;
}

static bool key_fits(const struct algorithm *algorithm, EVP_PKEY *key)
{
    int id = EVP_PKEY_base_id(key);

    switch (algorithm->family) {
    case FAMILY_RSA:
    case FAMILY_PSS:
        return id == EVP_PKEY_RSA;
    case FAMILY_EC:
        return id == EVP_PKEY_EC && EVP_PKEY_bits(key) == algorithm->curve_bits;
    case FAMILY_ED:
        return id == EVP_PKEY_ED25519;
    case FAMILY_HMAC:
        break;
    }
    return false;
}

static bool load_key(struct auth_jwt *j, const char *path, bool is_private, char **ret_error)
{
    struct buf file = BUF_INIT;
    EVP_PKEY *key = NULL;

    if (!read_file(path, &file)) {
        *ret_error = xasprintf("cannot read the JWT key %s: %s", path, strerror(errno));
    } else if (j->algorithm->family == FAMILY_HMAC) {
        if (is_private) { /* the file is the secret; etcd does not look at the other one */
            buf_append_bytes(&j->secret, buf_bytes(&file));
            if (file.len == 0)
                *ret_error = xasprintf("the JWT key %s is empty", path);
        }
    } else {
        key = parse_key(buf_bytes(&file), is_private);
        if (key == NULL || !key_fits(j->algorithm, key)) {
            *ret_error = xasprintf("the JWT key %s is not a %s key for %s in PEM form", path,
                                   is_private ? "private" : "public", j->algorithm->name);
            EVP_PKEY_free(key);
        } else if (is_private) {
            j->private_key = key;
        } else {
            j->public_key = key;
        }
    }
    auth_secret_fini(&file);
    return *ret_error == NULL;
}

struct options {
    char *sign_method, *public_path, *private_path, *ttl;
};

static void options_fini(struct options *o)
{
    free(o->sign_method);
    free(o->public_path);
    free(o->private_path);
    free(o->ttl);
}

static bool parse_options(const char *text, struct options *ret, char **ret_error)
{
    while (*text != '\0') {
        size_t len = strcspn(text, ",");
        const char *equals = memchr(text, '=', len);
        size_t name_len = equals != NULL ? (size_t)(equals - text) : len;
        struct bytes name = bytes_of(text, name_len);
        char **value = NULL;

        if (bytes_eq(name, BYTES_LIT("sign-method")))
            value = &ret->sign_method;
        else if (bytes_eq(name, BYTES_LIT("pub-key")))
            value = &ret->public_path;
        else if (bytes_eq(name, BYTES_LIT("priv-key")))
            value = &ret->private_path;
        else if (bytes_eq(name, BYTES_LIT("ttl")))
            value = &ret->ttl;
        if (value == NULL || equals == NULL || *value != NULL) {
            *ret_error = xasprintf("invalid JWT option \"%.*s\"", (int)len, text);
            return false;
        }
        *value = xstrndup(equals + 1, len - name_len - 1);
        text += len + (text[len] == ',');
    }
    return true;
}

static bool apply_options(struct auth_jwt *j, const struct options *o, char **ret_error)
{
    uint64_t ttl_ns = (uint64_t)TTL_S_DEFAULT * 1000000000;

    for (size_t i = 0; o->sign_method != NULL && i < ARRAY_LEN(algorithms); i++)
        if (strcmp(algorithms[i].name, o->sign_method) == 0)
            j->algorithm = &algorithms[i];
    if (j->algorithm == NULL) {
        *ret_error = xasprintf("the JWT sign-method \"%s\" is none of RS256, RS384, RS512, PS256, "
                               "PS384, PS512, ES256, ES384, ES512, HS256, HS384, HS512, EdDSA",
                               o->sign_method != NULL ? o->sign_method : "");
        return false;
    }
    if (o->ttl != NULL && (conf_parse_duration(o->ttl, &ttl_ns) != 0 || ttl_ns < 1000000000)) {
        *ret_error = xasprintf("the JWT ttl \"%s\" is not a duration of at least a second", o->ttl);
        return false;
    }
    j->ttl_s = ttl_ns / 1000000000;
    if ((o->private_path != NULL && !load_key(j, o->private_path, true, ret_error)) ||
        (o->public_path != NULL && !load_key(j, o->public_path, false, ret_error)))
        return false;
    if (j->private_key == NULL && j->public_key == NULL && j->secret.len == 0) {
        *ret_error =
            xasprintf("JWT with %s needs %s", j->algorithm->name,
                      j->algorithm->family == FAMILY_HMAC ? "priv-key=FILE"
                                                          : "priv-key=FILE or pub-key=FILE");
        return false;
    }
    return true;
}

struct auth_jwt *auth_jwt_new(const char *text, char **ret_error)
{
    struct auth_jwt *j = xcalloc(1, sizeof(*j));
    CLEANUP(options_fini) struct options options = {0};

    j->refs = 1;
    *ret_error = NULL;
    if (parse_options(text, &options, ret_error) && apply_options(j, &options, ret_error))
        return j;
    auth_jwt_unref(j);
    return NULL;
}

struct auth_jwt *auth_jwt_ref(struct auth_jwt *j)
{
    if (j != NULL)
        j->refs++;
    return j;
}

void auth_jwt_unref(struct auth_jwt *j)
{
    if (j == NULL || --j->refs > 0)
        return;
    EVP_PKEY_free(j->private_key);
    EVP_PKEY_free(j->public_key);
    auth_secret_fini(&j->secret);
    free(j);
}

bool auth_jwt_can_sign(const struct auth_jwt *j)
{
    return j->private_key != NULL || j->secret.len > 0;
}

uint64_t auth_jwt_ttl_s(const struct auth_jwt *j)
{
    return j->ttl_s;
}

/* ---- signatures ---- */

static const EVP_MD *digest_of(const struct auth_jwt *j)
{
    return j->algorithm->digest != NULL ? j->algorithm->digest() : NULL;
}

static bool set_padding(const struct auth_jwt *j, EVP_PKEY_CTX *ctx)
{
    if (j->algorithm->family != FAMILY_PSS)
        return true;
    return EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PSS_PADDING) == 1 &&
           EVP_PKEY_CTX_set_rsa_pss_saltlen(ctx, RSA_PSS_SALTLEN_DIGEST) == 1;
}

static size_t coordinate_bytes(const struct auth_jwt *j)
{
    return ((size_t)j->algorithm->curve_bits + 7) / 8;
}

/* JWS has an ECDSA signature as two numbers of fixed size (RFC 7518 section 3.4), OpenSSL as DER.
 */
static bool ec_from_der(const struct auth_jwt *j, uint8_t *signature, size_t *len)
{
    const uint8_t *p = signature;
    ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &p, (long)*len);
    int size = (int)coordinate_bytes(j);
    bool done = sig != NULL && BN_bn2binpad(ECDSA_SIG_get0_r(sig), signature, size) == size &&
                BN_bn2binpad(ECDSA_SIG_get0_s(sig), signature + size, size) == size;

    ECDSA_SIG_free(sig);
    *len = (size_t)size * 2;
    return done;
}

static int ec_to_der(const struct auth_jwt *j, struct bytes signature, uint8_t **ret_der)
{
    size_t size = coordinate_bytes(j);
    BIGNUM *r, *s;
    ECDSA_SIG *sig;
    int len;

    if (signature.len != size * 2)
        return -1;
    sig = ECDSA_SIG_new();
    r = BN_bin2bn(signature.data, (int)size, NULL);
    s = BN_bin2bn(signature.data + size, (int)size, NULL);
    if (sig == NULL || r == NULL || s == NULL || ECDSA_SIG_set0(sig, r, s) != 1) {
        BN_free(r);
        BN_free(s);
        ECDSA_SIG_free(sig);
        return -1;
    }
    len = i2d_ECDSA_SIG(sig, ret_der);
    ECDSA_SIG_free(sig);
    return len;
}

static bool hmac(const struct auth_jwt *j, struct bytes text, uint8_t *ret, size_t *ret_len)
{
    unsigned int len = 0;

    if (HMAC(digest_of(j), j->secret.data, (int)j->secret.len, text.data, text.len, ret, &len) ==
        NULL)
        return false;
    *ret_len = len;
    return true;
}

static bool sign(const struct auth_jwt *j, struct bytes text, uint8_t *ret, size_t *ret_len)
{
    EVP_MD_CTX *ctx;
    EVP_PKEY_CTX *key_ctx = NULL;
    bool done;

    if (j->algorithm->family == FAMILY_HMAC)
        return hmac(j, text, ret, ret_len);
    ctx = EVP_MD_CTX_new();
    *ret_len = SIGNATURE_BYTES_MAX;
    done = ctx != NULL &&
           EVP_DigestSignInit(ctx, &key_ctx, digest_of(j), NULL, j->private_key) == 1 &&
           set_padding(j, key_ctx) && EVP_DigestSign(ctx, ret, ret_len, text.data, text.len) == 1;
    EVP_MD_CTX_free(ctx);
    return done && (j->algorithm->family != FAMILY_EC || ec_from_der(j, ret, ret_len));
}

static bool verify_with_key(const struct auth_jwt *j, struct bytes text, struct bytes signature)
{
    EVP_PKEY *key = j->public_key != NULL ? j->public_key : j->private_key;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    EVP_PKEY_CTX *key_ctx = NULL;
    bool done;

    done = ctx != NULL && EVP_DigestVerifyInit(ctx, &key_ctx, digest_of(j), NULL, key) == 1 &&
           set_padding(j, key_ctx) &&
           EVP_DigestVerify(ctx, signature.data, signature.len, text.data, text.len) == 1;
    EVP_MD_CTX_free(ctx);
    return done;
}

static bool verify(const struct auth_jwt *j, struct bytes text, struct bytes signature)
{
    uint8_t mac[EVP_MAX_MD_SIZE];
    uint8_t *der = NULL;
    size_t mac_len;
    int der_len;
    bool done;

    if (j->algorithm->family == FAMILY_HMAC)
        return hmac(j, text, mac, &mac_len) && mac_len == signature.len &&
               CRYPTO_memcmp(mac, signature.data, mac_len) == 0;
    if (j->algorithm->family != FAMILY_EC)
        return verify_with_key(j, text, signature);
    der_len = ec_to_der(j, signature, &der);
    done = der_len > 0 && verify_with_key(j, text, bytes_of(der, (size_t)der_len));
    OPENSSL_free(der);
    return done;
}

/* ---- tokens ---- */

static bool put_json(struct buf *token, json_t *object)
{
    char *text = object != NULL ? json_dumps(object, JSON_COMPACT) : NULL;

    json_decref(object);
    if (text == NULL)
        return false;
    base64_put(token, bytes_str(text));
    free(text);
    return true;
}

bool auth_jwt_sign(const struct auth_jwt *j, const struct auth_jwt_claims *claims,
                   struct buf *token)
{
    uint8_t signature[SIGNATURE_BYTES_MAX];
    size_t at = token->len, len = 0;

    if (!auth_jwt_can_sign(j) ||
        !put_json(token, json_pack("{s:s,s:s}", "alg", j->algorithm->name, "typ", "JWT")))
        return false;
    buf_append_u8(token, '.');
    if (!put_json(token, json_pack("{s:I,s:I,s:s%}", "exp", (json_int_t)claims->expires_s,
                                   "revision", (json_int_t)claims->revision, "username",
                                   (const char *)claims->username.data, claims->username.len)) ||
        !sign(j, bytes_of(token->data + at, token->len - at), signature, &len))
        return false;
    buf_append_u8(token, '.');
    base64_put(token, bytes_of(signature, len));
    return true;
}

static json_t *parse_part(struct bytes text)
{
    CLEANUP(buf_fini) struct buf json = BUF_INIT;

    if (!base64_get(text, &json))
        return NULL;
    return json_loadb((const char *)json.data, json.len, JSON_REJECT_DUPLICATES, NULL);
}

static bool header_fits(const struct auth_jwt *j, struct bytes text)
{
    json_t *header = parse_part(text);
    const char *name = json_string_value(json_object_get(header, "alg"));
    bool fits = name != NULL && strcmp(name, j->algorithm->name) == 0 &&
                json_object_get(header, "crit") == NULL;

    json_decref(header);
    return fits;
}

/* A number that is one of ours: whole, not negative. */
static bool get_number(const json_t *claims, const char *name, uint64_t *ret)
{
    const json_t *value = json_object_get(claims, name);
    double number = json_number_value(value);

    if (!json_is_number(value) || !(number >= 0 && number < 9007199254740992.0))
        return false;
    *ret = json_is_integer(value) ? (uint64_t)json_integer_value(value) : (uint64_t)number;
    return true;
}

static bool read_claims(const json_t *claims, uint64_t now_s, struct buf *text,
                        struct auth_jwt_claims *ret)
{
    const json_t *username = json_object_get(claims, "username");
    uint64_t not_before_s = 0;
    size_t at = text->len;

    *ret = (struct auth_jwt_claims){0};
    if (!json_is_string(username) || json_string_length(username) == 0 ||
        !get_number(claims, "revision", &ret->revision))
        return false;
    if (json_object_get(claims, "exp") != NULL &&
        (!get_number(claims, "exp", &ret->expires_s) || ret->expires_s <= now_s))
        return false;
    if (json_object_get(claims, "nbf") != NULL &&
        (!get_number(claims, "nbf", &not_before_s) || not_before_s > now_s))
        return false;
    buf_append(text, json_string_value(username), json_string_length(username));
    ret->username = bytes_of(text->data + at, text->len - at);
    return true;
}

bool auth_jwt_verify(const struct auth_jwt *j, struct bytes token, uint64_t now_s, struct buf *text,
                     struct auth_jwt_claims *ret_claims)
{
    CLEANUP(buf_fini) struct buf signature = BUF_INIT;
    const uint8_t *end = token.data + token.len, *first, *second;
    json_t *claims;
    bool valid;

    if (token.len == 0 || token.len > TOKEN_BYTES_MAX)
        return false;
    first = memchr(token.data, '.', token.len);
    second = first != NULL ? memchr(first + 1, '.', (size_t)(end - first - 1)) : NULL;
    if (second == NULL || !header_fits(j, bytes_of(token.data, (size_t)(first - token.data))) ||
        !base64_get(bytes_of(second + 1, (size_t)(end - second - 1)), &signature) ||
        signature.len == 0 || signature.len > SIGNATURE_BYTES_MAX ||
        !verify(j, bytes_of(token.data, (size_t)(second - token.data)), buf_bytes(&signature)))
        return false;
    claims = parse_part(bytes_of(first + 1, (size_t)(second - first - 1)));
    valid = claims != NULL && read_claims(claims, now_s, text, ret_claims);
    json_decref(claims);
    return valid;
}
