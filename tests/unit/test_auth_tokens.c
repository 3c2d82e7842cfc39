/* Passwords and JWTs: what is made is taken, and what was changed in any way is not. */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "lib/proto/outcome.h"
#include "lib/util/buf.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "stored/auth/auth_jwt.h"
#include "stored/auth/auth_password.h"

#define B(s) BYTES_LIT(s)

Test(auth_password, fits_itself_only)
{
    CLEANUP(buf_fini) struct buf hash = BUF_INIT;
    CLEANUP(buf_fini) struct buf other = BUF_INIT;
    CLEANUP(buf_fini) struct buf empty = BUF_INIT;

    cr_assert_eq(auth_password_hash(B("secret"), AUTH_COST_MIN, &hash), OUT_OK);
    cr_assert_eq(auth_password_hash(B("secret"), AUTH_COST_MIN, &other), OUT_OK);
    cr_assert_eq(auth_password_hash(BYTES_EMPTY, AUTH_COST_MIN, &empty), OUT_OK);
    cr_expect_eq(memcmp(hash.data, "$2b$04$", 7), 0);
    cr_expect_not(bytes_eq(buf_bytes(&hash), buf_bytes(&other)), "salted");
    cr_expect(auth_password_matches(B("secret"), buf_bytes(&hash)));
    cr_expect(auth_password_matches(BYTES_EMPTY, buf_bytes(&empty)));
    for (const char *const *wrong = (const char *const[]){"", "Secret", "secret ", "secre", NULL};
         *wrong != NULL; wrong++)
        cr_expect_not(auth_password_matches(bytes_str(*wrong), buf_bytes(&hash)), "%s", *wrong);
    cr_expect_not(auth_password_matches(B("secret\0x"), buf_bytes(&hash)));
    cr_expect_not(auth_password_matches(B("secret"), BYTES_EMPTY), "no hash fits nobody");
    cr_expect_not(auth_password_matches(B("secret"), B("secret")));
    cr_expect_not(auth_password_matches(B("secret"), B("*0")));
    hash.data[hash.len - 1] ^= 1;
    cr_expect_not(auth_password_matches(B("secret"), buf_bytes(&hash)));
}

Test(auth_password, go_s_hashes_are_taken)
{
    /* made by golang.org/x/crypto/bcrypt's form: the same bytes under another prefix */
    CLEANUP(buf_fini) struct buf hash = BUF_INIT;

    cr_assert_eq(auth_password_hash(B("secret"), AUTH_COST_MIN, &hash), OUT_OK);
    hash.data[2] = 'a';
    cr_expect(auth_password_matches(B("secret"), buf_bytes(&hash)));
}

Test(auth_password, what_bcrypt_would_not_look_at_is_refused)
{
    CLEANUP(buf_fini) struct buf hash = BUF_INIT;
    char long_one[AUTH_PASSWORD_BYTES_MAX + 1];

    memset(long_one, 'x', sizeof(long_one));
    cr_expect_eq(auth_password_hash(bytes_of(long_one, sizeof(long_one)), AUTH_COST_MIN, &hash),
                 OUT_PASSWORD_TOO_LONG);
    cr_expect_eq(auth_password_hash(B("a\0b"), AUTH_COST_MIN, &hash), OUT_INVALID_AUTH_MGMT);
    cr_expect_eq(hash.len, 0);
    cr_expect_eq(auth_password_hash(bytes_of(long_one, AUTH_PASSWORD_BYTES_MAX), AUTH_COST_MIN,
                                    &hash),
                 OUT_OK);
}

/* ---- JWT ---- */

static char directory[] = "/tmp/test_auth_tokens.XXXXXX";

static char *path_of(const char *name)
{
    return xasprintf("%s/%s", directory, name);
}

static void write_key(const char *name, EVP_PKEY *key, bool is_private)
{
    CLEANUP(freep) char *path = path_of(name);
    FILE *f = fopen(path, "w");

    cr_assert_not_null(f);
    if (is_private)
        cr_assert_eq(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL), 1);
    else
        cr_assert_eq(PEM_write_PUBKEY(f, key), 1);
    fclose(f);
}

static void make_keys(void)
{
    EVP_PKEY *rsa = EVP_RSA_gen(2048), *ec256 = EVP_EC_gen("P-256"), *ec384 = EVP_EC_gen("P-384"),
             *ec521 = EVP_EC_gen("P-521"), *ed = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"),
             *other = EVP_RSA_gen(2048);
    CLEANUP(freep) char *secret = NULL;
    FILE *f;

    cr_assert_not_null(mkdtemp(directory));
    write_key("rsa.key", rsa, true);
    write_key("rsa.pub", rsa, false);
    write_key("other.key", other, true);
    write_key("ec256.key", ec256, true);
    write_key("ec256.pub", ec256, false);
    write_key("ec384.key", ec384, true);
    write_key("ec521.key", ec521, true);
    write_key("ed.key", ed, true);
    secret = path_of("secret");
    f = fopen(secret, "w");
    cr_assert_not_null(f);
    fputs("a secret shared by all members", f);
    fclose(f);
    EVP_PKEY_free(rsa);
    EVP_PKEY_free(other);
    EVP_PKEY_free(ec256);
    EVP_PKEY_free(ec384);
    EVP_PKEY_free(ec521);
    EVP_PKEY_free(ed);
}

/* "priv-key=rsa.key" gets its directory. */
static struct auth_jwt *open_jwt(const char *method, const char *private_key,
                                 const char *public_key)
{
    CLEANUP(freep) char *error = NULL;
    CLEANUP(freep) char *options =
        xasprintf("sign-method=%s%s%s/%s%s%s/%s,ttl=10m", method,
                  private_key != NULL ? ",priv-key=" : "", private_key != NULL ? directory : "",
                  private_key != NULL ? private_key : "", public_key != NULL ? ",pub-key=" : "",
                  public_key != NULL ? directory : "", public_key != NULL ? public_key : "");
    CLEANUP(buf_fini) struct buf clean = BUF_INIT;
    struct auth_jwt *j;

    /* an absent one leaves a lone slash behind */
    for (const char *p = options; *p != '\0'; p++)
        if (!(*p == '/' && (p[1] == ',' || p[1] == '\0')))
            buf_append_u8(&clean, (uint8_t)*p);
    buf_append_u8(&clean, 0);
    j = auth_jwt_new((char *)clean.data, &error);
    cr_assert_not_null(j, "%s: %s", (char *)clean.data, error);
    return j;
}

static struct buf token_of(const struct auth_jwt *j, const char *user, uint64_t expires_s)
{
    struct buf token = BUF_INIT;

    cr_assert(auth_jwt_sign(j,
                            &(struct auth_jwt_claims){.username = bytes_str(user),
                                                      .revision = 12,
                                                      .expires_s = expires_s},
                            &token));
    return token;
}

static bool is_taken(const struct auth_jwt *j, struct bytes token, uint64_t now_s)
{
    CLEANUP(buf_fini) struct buf text = BUF_INIT;
    struct auth_jwt_claims claims;

    return auth_jwt_verify(j, token, now_s, &text, &claims);
}

static const struct {
    const char *method, *key;
} methods[] = {
    {"RS256", "rsa.key"},   {"RS384", "rsa.key"},   {"RS512", "rsa.key"}, {"PS256", "rsa.key"},
    {"PS384", "rsa.key"},   {"PS512", "rsa.key"},   {"HS256", "secret"},  {"HS384", "secret"},
    {"HS512", "secret"},    {"ES256", "ec256.key"}, {"EdDSA", "ed.key"},  {"ES384", "ec384.key"},
    {"ES512", "ec521.key"},
};

Test(auth_jwt, what_is_signed_is_taken_until_it_expires)
{
    make_keys();
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        struct auth_jwt *j = open_jwt(methods[i].method, methods[i].key, NULL);
        CLEANUP(buf_fini) struct buf token = token_of(j, "alice", 1000);
        CLEANUP(buf_fini) struct buf text = BUF_INIT;
        struct auth_jwt_claims claims;

        cr_assert(auth_jwt_verify(j, buf_bytes(&token), 999, &text, &claims), "%s",
                  methods[i].method);
        cr_expect(bytes_eq(claims.username, B("alice")) && claims.revision == 12 &&
                  claims.expires_s == 1000);
        cr_expect_not(is_taken(j, buf_bytes(&token), 1000), "expired");
        cr_expect_eq(auth_jwt_ttl_s(j), 600);
        auth_jwt_unref(j);
    }
}

Test(auth_jwt, what_was_changed_is_not_taken)
{
    make_keys();
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        struct auth_jwt *j = open_jwt(methods[i].method, methods[i].key, NULL);
        CLEANUP(buf_fini) struct buf token = token_of(j, "alice", 1000);

        for (size_t at = 0; at < token.len; at += 1 + token.len / 60) {
            uint8_t was = token.data[at];

            token.data[at] = was == 'A' ? 'B' : 'A';
            cr_expect_not(is_taken(j, buf_bytes(&token), 1), "%s, byte %zu", methods[i].method, at);
            token.data[at] = was;
        }
        for (size_t len = 0; len < token.len; len += 1 + token.len / 40)
            cr_expect_not(is_taken(j, bytes_of(token.data, len), 1), "%s cut at %zu",
                          methods[i].method, len);
        buf_append(&token, ".e30", 4);
        cr_expect_not(is_taken(j, buf_bytes(&token), 1));
        auth_jwt_unref(j);
    }
}

Test(auth_jwt, the_algorithm_is_not_the_token_s_choice)
{
    struct auth_jwt *rs, *ps, *other, *hs, *public_only;

    make_keys();
    rs = open_jwt("RS256", "rsa.key", "rsa.pub");
    ps = open_jwt("PS256", "rsa.key", NULL);
    other = open_jwt("RS256", "other.key", NULL);
    public_only = open_jwt("RS256", NULL, "rsa.pub");
    {
        CLEANUP(buf_fini) struct buf token = token_of(rs, "alice", 1000);
        CLEANUP(buf_fini) struct buf foreign = token_of(other, "alice", 1000);
        CLEANUP(buf_fini) struct buf none = BUF_INIT;
        CLEANUP(buf_fini) struct buf unsigned_one = BUF_INIT;
        const uint8_t *first = memchr(token.data, '.', token.len);

        cr_expect(is_taken(rs, buf_bytes(&token), 1));
        cr_expect(is_taken(public_only, buf_bytes(&token), 1));
        cr_expect_not(auth_jwt_can_sign(public_only));
        cr_expect_not(is_taken(ps, buf_bytes(&token), 1), "another padding");
        cr_expect_not(is_taken(rs, buf_bytes(&foreign), 1), "another key");
        /* {"alg":"none","typ":"JWT"} with the claims of a good one */
        buf_appendf(&none, "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0");
        buf_append(&none, first, token.len - (size_t)(first - token.data));
        cr_expect_not(is_taken(rs, buf_bytes(&none), 1));
        buf_append(&unsigned_one, none.data,
                   (size_t)((uint8_t *)memrchr(none.data, '.', none.len) - none.data) + 1);
        cr_expect_not(is_taken(rs, buf_bytes(&unsigned_one), 1));
    }
    {
        /* HS256 with the public key's file as secret: the classic way to forge one */
        CLEANUP(buf_fini) struct buf forged = BUF_INIT;

        hs = open_jwt("HS256", "rsa.pub", NULL);
        forged = token_of(hs, "root", 1000);
        cr_expect(is_taken(hs, buf_bytes(&forged), 1));
        cr_expect_not(is_taken(rs, buf_bytes(&forged), 1));
        cr_expect_not(is_taken(public_only, buf_bytes(&forged), 1));
        auth_jwt_unref(hs);
    }
    auth_jwt_unref(rs);
    auth_jwt_unref(ps);
    auth_jwt_unref(other);
    auth_jwt_unref(public_only);
}

Test(auth_jwt, settings_that_cannot_work_are_refused)
{
    static const char *const wrong[] = {
        "",
        "sign-method=RS256",
        "sign-method=none",
        "sign-method=",
        "priv-key=@/rsa.key",
        "sign-method=RS256,priv-key=@/missing",
        "sign-method=RS256,priv-key=@/secret",
        "sign-method=RS256,priv-key=@/rsa.pub",
        "sign-method=RS256,priv-key=@/ec256.key",
        "sign-method=ES256,priv-key=@/ec384.key",
        "sign-method=ES256,pub-key=@/rsa.pub",
        "sign-method=HS256,pub-key=@/secret",
        "sign-method=RS256,priv-key=@/rsa.key,ttl=never",
        "sign-method=RS256,priv-key=@/rsa.key,ttl=0s",
        "sign-method=RS256,priv-key=@/rsa.key,colour=blue",
        "sign-method=RS256,sign-method=PS256,priv-key=@/rsa.key",
        "sign-method=RS256,priv-key",
    };

    make_keys();
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        CLEANUP(buf_fini) struct buf options = BUF_INIT;
        CLEANUP(freep) char *error = NULL;

        for (const char *p = wrong[i]; *p != '\0'; p++) {
            if (*p == '@')
                buf_append_bytes(&options, bytes_str(directory));
            else
                buf_append_u8(&options, (uint8_t)*p);
        }
        buf_append_u8(&options, 0);
        cr_expect_null(auth_jwt_new((char *)options.data, &error), "%s", wrong[i]);
        cr_expect_not_null(error, "%s", wrong[i]);
    }
}
