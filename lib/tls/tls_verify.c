/*
 * Whether the peer's certificate will do: signed by an authority (OpenSSL's part), not on the
 * revocation list, and one of those that are allowed.
 *
 * The list is used as etcd uses its own: the file is the operator's word, so neither its signature
 * nor its age is asked for, and a serial number on it is refused whoever issued it. That can only
 * refuse too much, and an outdated list goes on working.
 */
#include "lib/tls/tls_internal.h"

#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/xmalloc.h"

/* The last one counts, as in Go. */
char *tls_common_name(X509 *cert)
{
    X509_NAME *subject = X509_get_subject_name(cert);
    char *name = NULL;
    unsigned char *text;
    int at = -1, next, len;

    while ((next = X509_NAME_get_index_by_NID(subject, NID_commonName, at)) >= 0)
        at = next;
    if (at < 0)
        return NULL;
    len = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    if (len < 0)
        return NULL;
    /* a name with a zero byte in it would be one name here and another there */
    if (len > 0 && strlen((const char *)text) == (size_t)len)
        name = xstrdup((const char *)text);
    OPENSSL_free(text);
    return name;
}

static bool valid_for(X509 *cert, const char *name)
{
    return X509_check_ip_asc(cert, name, 0) == 1 ||
           X509_check_host(cert, name, 0, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, NULL) == 1;
}

static bool is_revoked(const struct tls_context *ctx, X509 *cert)
{
    for (int i = 0; i < sk_X509_CRL_num(ctx->crls); i++) {
        X509_REVOKED *entry;

        if (X509_CRL_get0_by_serial(sk_X509_CRL_value(ctx->crls, i), &entry,
                                    X509_get_serialNumber(cert)) == 1)
            return true;
    }
    return false;
}

static bool is_allowed(const struct tls_context *ctx, X509 *cert)
{
    bool by_cn = *ctx->allowed_cn != '\0';
    CLEANUP(freep) char *copy = xstrdup(by_cn ? ctx->allowed_cn : ctx->allowed_hostname);
    CLEANUP(freep) char *cn = by_cn ? tls_common_name(cert) : NULL;
    char *rest = copy, *name;

    if (*copy == '\0')
        return true;
    while ((name = strsep(&rest, ",")) != NULL) {
        if (*name == '\0')
            continue;
        if (by_cn ? cn != NULL && strcmp(cn, name) == 0 : valid_for(cert, name))
            return true;
    }
    return false;
}

static int reject(X509_STORE_CTX *store, int code, const char *why)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls_stream *s = SSL_get_app_data(ssl);

    X509_STORE_CTX_set_error(store, code);
    free(s->error);
    s->error = xstrdup(why);
    return 0;
}

int tls_verify_peer(X509_STORE_CTX *store, void *arg)
{
    const struct tls_context *ctx = arg;
    STACK_OF(X509) *sent = X509_STORE_CTX_get0_untrusted(store);
    X509 *leaf = X509_STORE_CTX_get0_cert(store);

    if (ctx->role == TLS_CLIENT && ctx->skip_verify)
        return 1;
    if (X509_verify_cert(store) != 1)
        return 0;
    for (int i = 0; i < sk_X509_num(sent); i++) {
        if (is_revoked(ctx, sk_X509_value(sent, i)))
            return reject(store, X509_V_ERR_CERT_REVOKED, "certificate is revoked");
    }
    if (is_revoked(ctx, leaf))
        return reject(store, X509_V_ERR_CERT_REVOKED, "certificate is revoked");
    if (!is_allowed(ctx, leaf))
        return reject(store, X509_V_ERR_CERT_REJECTED, "client certificate authentication failed");
    return 1;
}
