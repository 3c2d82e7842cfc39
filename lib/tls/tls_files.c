/*
 * What the files hold. They are read whole and first, so that a file is open only as long as it
 * takes, and an error names the file.
 */
#include "lib/tls/tls_internal.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "lib/util/xmalloc.h"

enum { FILE_BYTES_MAX = 16 << 20 }; /* the largest revocation lists have a few megabytes */

static void bio_freep(BIO **bio)
{
    BIO_free(*bio);
}

static void cert_freep(X509 **cert)
{
    X509_free(*cert);
}

static void key_freep(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
}

/* No prompt for a passphrase: a key that has one cannot be used. */
static int no_passphrase(char *to, int size, int writing, void *user)
{
    return 0;
}

static int open_failed(const char *path, int error, char **ret_error)
{
    CLEANUP(freep) char *why = xstrdup(strerror(error));

    if (why[0] >= 'A' && why[0] <= 'Z')
        why[0] = (char)(why[0] - 'A' + 'a');
    *ret_error = xasprintf("open %s: %s", path, why);
    return -error;
}

static int read_file(const char *path, struct buf *ret, char **ret_error)
{
    FILE *f = fopen(path, "re");
    size_t n;

    if (f == NULL)
        return open_failed(path, errno, ret_error);
    do {
        n = fread(buf_reserve(ret, 16384), 1, 16384, f);
        ret->len += n;
    } while (n > 0 && ret->len <= FILE_BYTES_MAX);
    if (ferror(f) != 0) {
        int error = errno != 0 ? errno : EIO;

        fclose(f);
        return open_failed(path, error, ret_error);
    }
    fclose(f);
    if (ret->len > FILE_BYTES_MAX) {
        *ret_error = xasprintf("%s: larger than %d bytes", path, FILE_BYTES_MAX);
        return -EFBIG;
    }
    return 0;
}

static int open_bio(const char *path, struct buf *data, BIO **ret, char **ret_error)
{
    int r = read_file(path, data, ret_error);

    if (r < 0)
        return r;
    *ret = BIO_new_mem_buf(data->len > 0 ? (const void *)data->data : "", (int)data->len);
    return *ret != NULL ? 0 : -ENOMEM;
}

/* Key material does not stay behind in freed memory. */
static void secret_fini(struct buf *b)
{
    if (b->data != NULL)
        OPENSSL_cleanse(b->data, b->cap);
    buf_fini(b);
}

static int refuse(char **ret_error, const char *path, const char *why)
{
    ERR_clear_error();
    *ret_error = xasprintf("%s: %s", path, why);
    return -EINVAL;
}

static int load_cert(SSL_CTX *ssl, const char *path, char **ret_error)
{
    CLEANUP(buf_fini) struct buf data = BUF_INIT;
    CLEANUP(bio_freep) BIO *bio = NULL;
    CLEANUP(cert_freep) X509 *cert = NULL;
    X509 *next;
    int r = open_bio(path, &data, &bio, ret_error);

    if (r < 0)
        return r;
    cert = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
    if (cert == NULL)
        return refuse(ret_error, path, "tls: failed to find any PEM data in certificate input");
    if (SSL_CTX_use_certificate(ssl, cert) != 1)
        return refuse(ret_error, path, ERR_reason_error_string(ERR_peek_last_error()));
    while ((next = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL)) != NULL) {
        if (SSL_CTX_add0_chain_cert(ssl, next) != 1) {
            X509_free(next);
            return refuse(ret_error, path, "its chain cannot be used");
        }
    }
    ERR_clear_error();
    return 0;
}

int tls_load_key_pair(SSL_CTX *ssl, const char *cert_file, const char *key_file, char **ret_error)
{
    CLEANUP(secret_fini) struct buf data = BUF_INIT;
    CLEANUP(bio_freep) BIO *bio = NULL;
    CLEANUP(key_freep) EVP_PKEY *key = NULL;
    int r = load_cert(ssl, cert_file, ret_error);

    if (r == 0)
        r = open_bio(key_file, &data, &bio, ret_error);
    if (r < 0)
        return r;
    key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
    if (key == NULL)
        return refuse(ret_error, key_file, "tls: failed to find any PEM data in key input");
    if (SSL_CTX_use_PrivateKey(ssl, key) != 1 || SSL_CTX_check_private_key(ssl) != 1)
        return refuse(ret_error, key_file, "tls: private key does not match public key");
    return 0;
}

int tls_load_authorities(SSL_CTX *ssl, const char *ca_file, bool server, char **ret_error)
{
    CLEANUP(buf_fini) struct buf data = BUF_INIT;
    CLEANUP(bio_freep) BIO *bio = NULL;
    X509_STORE *store = SSL_CTX_get_cert_store(ssl);
    X509 *cert;
    size_t count = 0;
    int r = open_bio(ca_file, &data, &bio, ret_error);

    if (r < 0)
        return r;
    while ((cert = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL)) != NULL) {
        bool ok = X509_STORE_add_cert(store, cert) == 1 &&
                  (!server || SSL_CTX_add_client_CA(ssl, cert) == 1);

        X509_free(cert);
        if (!ok)
            return refuse(ret_error, ca_file, "one of its certificates cannot be used");
        count++;
    }
    /* the end of the file, or something that only looked like a certificate? */
    if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
        return refuse(ret_error, ca_file, "one of its certificates is malformed");
    if (count == 0)
        return refuse(ret_error, ca_file, "there is no certificate in it");
    ERR_clear_error();
    return 0;
}

void tls_free_crls(STACK_OF(X509_CRL) * crls)
{
    sk_X509_CRL_pop_free(crls, X509_CRL_free);
}

int tls_load_crls(const char *crl_file, STACK_OF(X509_CRL) * *ret, char **ret_error)
{
    CLEANUP(buf_fini) struct buf data = BUF_INIT;
    CLEANUP(bio_freep) BIO *bio = NULL;
    STACK_OF(X509_CRL) * crls;
    X509_CRL *crl;
    int r = open_bio(crl_file, &data, &bio, ret_error);

    if (r < 0)
        return r;
    crls = sk_X509_CRL_new_null();
    while ((crl = PEM_read_bio_X509_CRL(bio, NULL, no_passphrase, NULL)) != NULL)
        sk_X509_CRL_push(crls, crl);
    if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
        tls_free_crls(crls);
        return refuse(ret_error, crl_file, "malformed revocation list");
    }
    if (sk_X509_CRL_num(crls) == 0) {
        const unsigned char *at = data.data;

        crl = d2i_X509_CRL(NULL, &at, (long)data.len);
        if (crl == NULL) {
            tls_free_crls(crls);
            return refuse(ret_error, crl_file, "there is no revocation list in it");
        }
        sk_X509_CRL_push(crls, crl);
    }
    ERR_clear_error();
    *ret = crls;
    return 0;
}
