/*
 * Versions and cipher suites by the names etcd's settings use, which are Go's, which are the IANA's
 * but for two. OpenSSL is asked by the suites' numbers, which all agree on. The suites of TLS 1.3
 * are accepted in a list and change nothing: they cannot be chosen in Go either.
 */
#include "lib/tls/tls_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/xmalloc.h"

static const struct {
    const char *name;
    uint16_t number;
} suites[] = {
    {"TLS_RSA_WITH_RC4_128_SHA", 0x0005},
    {"TLS_RSA_WITH_3DES_EDE_CBC_SHA", 0x000a},
    {"TLS_RSA_WITH_AES_128_CBC_SHA", 0x002f},
    {"TLS_RSA_WITH_AES_256_CBC_SHA", 0x0035},
    {"TLS_RSA_WITH_AES_128_CBC_SHA256", 0x003c},
    {"TLS_RSA_WITH_AES_128_GCM_SHA256", 0x009c},
    {"TLS_RSA_WITH_AES_256_GCM_SHA384", 0x009d},
    {"TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", 0xc007},
    {"TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", 0xc009},
    {"TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", 0xc00a},
    {"TLS_ECDHE_RSA_WITH_RC4_128_SHA", 0xc011},
    {"TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", 0xc012},
    {"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", 0xc013},
    {"TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", 0xc014},
    {"TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", 0xc023},
    {"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", 0xc027},
    {"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", 0xc02f},
    {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", 0xc02b},
    {"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", 0xc030},
    {"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", 0xc02c},
    {"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", 0xcca8},
    {"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", 0xcca9},
    {"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", 0xcca8},
    {"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", 0xcca9},
    {"TLS_AES_128_GCM_SHA256", 0x1301},
    {"TLS_AES_256_GCM_SHA384", 0x1302},
    {"TLS_CHACHA20_POLY1305_SHA256", 0x1303},
};

static bool find_suite(const char *name, uint16_t *ret)
{
    for (size_t i = 0; i < ARRAY_LEN(suites); i++) {
        if (strcmp(suites[i].name, name) == 0) {
            *ret = suites[i].number;
            return true;
        }
    }
    return false;
}

static const char *openssl_name(STACK_OF(SSL_CIPHER) * known, uint16_t number)
{
    for (int i = 0; i < sk_SSL_CIPHER_num(known); i++) {
        const SSL_CIPHER *c = sk_SSL_CIPHER_value(known, i);

        if (SSL_CIPHER_get_protocol_id(c) == number)
            return SSL_CIPHER_get_name(c);
    }
    return NULL;
}

/* Goes through the list; `known` NULL: names are only checked. */
static int walk(STACK_OF(SSL_CIPHER) * known, const char *go_names, struct buf *ret_list,
                char **ret_error)
{
    CLEANUP(freep) char *copy = xstrdup(go_names);
    char *rest = copy, *name;

    while ((name = strsep(&rest, ",")) != NULL) {
        const char *own;
        uint16_t number;

        if (*name == '\0')
            continue;
        if (!find_suite(name, &number)) {
            *ret_error = xasprintf("unexpected TLS cipher suite \"%s\"", name);
            return -EINVAL;
        }
        own = known != NULL && number >> 8 != 0x13 ? openssl_name(known, number) : NULL;
        if (own != NULL)
            buf_appendf(ret_list, "%s%s", ret_list->len > 0 ? ":" : "", own);
    }
    return 0;
}

int tls_set_suites(SSL_CTX *ssl, const char *go_names, char **ret_error)
{
    CLEANUP(buf_fini) struct buf list = BUF_INIT;
    int r;

    if (*go_names == '\0')
        return 0;
    /* what this OpenSSL has at its security level, weak ones only where they were asked for */
    if (SSL_CTX_set_cipher_list(ssl, "ALL") != 1)
        return -EIO;
    r = walk(SSL_CTX_get_ciphers(ssl), go_names, &list, ret_error);
    if (r < 0)
        return r;
    if (list.len == 0) {
        *ret_error = xasprintf("none of the TLS cipher suites %s can be used for TLS 1.2", go_names);
        return -EINVAL;
    }
    buf_append_u8(&list, '\0');
    if (SSL_CTX_set_cipher_list(ssl, (const char *)list.data) != 1) {
        *ret_error = xasprintf("TLS cipher suites %s were refused", go_names);
        return -EINVAL;
    }
    return 0;
}

static int version_number(const char *text, int def, int *ret, char **ret_error)
{
    if (*text == '\0')
        *ret = def;
    else if (strcmp(text, "TLS1.2") == 0)
        *ret = TLS1_2_VERSION;
    else if (strcmp(text, "TLS1.3") == 0)
        *ret = TLS1_3_VERSION;
    else {
        *ret_error = xasprintf("unexpected TLS version \"%s\" (must be one of: TLS1.2, TLS1.3)", text);
        return -EINVAL;
    }
    return 0;
}

int tls_set_versions(SSL_CTX *ssl, const char *min, const char *max, char **ret_error)
{
    int from, to;

    if (version_number(min, TLS1_2_VERSION, &from, ret_error) < 0 ||
        version_number(max, TLS1_3_VERSION, &to, ret_error) < 0)
        return -EINVAL;
    if (SSL_CTX_set_min_proto_version(ssl, from) != 1 ||
        SSL_CTX_set_max_proto_version(ssl, to) != 1) {
        *ret_error = xasprintf("TLS versions %s to %s cannot be had", min, max);
        return -EINVAL;
    }
    return 0;
}

int tls_check_suites(const char *cipher_suites, const char *min_version, const char *max_version,
                     char **ret_error)
{
    CLEANUP(buf_fini) struct buf none = BUF_INIT;
    int from, to;

    if (walk(NULL, cipher_suites, &none, ret_error) < 0 ||
        version_number(min_version, TLS1_2_VERSION, &from, ret_error) < 0 ||
        version_number(max_version, TLS1_3_VERSION, &to, ret_error) < 0)
        return -EINVAL;
    if (from > to) {
        *ret_error = xasprintf("min version (%s) is greater than max version (%s)", min_version,
                               max_version);
        return -EINVAL;
    }
    if (from == TLS1_3_VERSION && *cipher_suites != '\0') {
        *ret_error = xstrdup("cipher suites cannot be configured when only TLS1.3 is enabled");
        return -EINVAL;
    }
    return 0;
}
