/*
 * auto-tls: a key and a certificate it signs itself, for encryption without any proof of who is
 * there. ECDSA over P-256, since a handshake with it costs a tenth of one with RSA.
 */
#include "lib/tls/tls_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "lib/util/xmalloc.h"

enum { DAYS_PER_YEAR = 365, SERIAL_BITS = 127 };

static bool still_good(const char *cert_path, const char *key_path)
{
    SSL_CTX *ssl = SSL_CTX_new(TLS_server_method());
    CLEANUP(freep) char *error = NULL;
    bool good = false;

    if (ssl != NULL && tls_load_key_pair(ssl, cert_path, key_path, &error) == 0)
        good = X509_cmp_current_time(X509_get0_notAfter(SSL_CTX_get0_certificate(ssl))) > 0;
    SSL_CTX_free(ssl);
    return good;
}

static bool add_extension(X509 *cert, int nid, const char *value)
{
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    bool ok = ext != NULL && X509_add_ext(cert, ext, -1) == 1;

    X509_EXTENSION_free(ext);
    return ok;
}

static bool is_address(const char *text)
{
    unsigned char address[16];

    return inet_pton(AF_INET, text, address) == 1 || inet_pton(AF_INET6, text, address) == 1;
}

/* Host names come from our own settings, where a comma cannot be part of one. */
static bool add_names(X509 *cert, const char *hosts)
{
    CLEANUP(freep) char *copy = xstrdup(hosts);
    CLEANUP(buf_fini) struct buf list = BUF_INIT;
    char *rest = copy, *host;

    while ((host = strsep(&rest, ",")) != NULL) {
        if (*host != '\0' && strchr(host, ':') == NULL)
            buf_appendf(&list, "%s%s:%s", list.len > 0 ? "," : "", is_address(host) ? "IP" : "DNS",
                        host);
        else if (*host != '\0' && is_address(host))
            buf_appendf(&list, "%sIP:%s", list.len > 0 ? "," : "", host);
    }
    if (list.len == 0)
        return true;
    buf_append_u8(&list, '\0');
    return add_extension(cert, NID_subject_alt_name, (const char *)list.data);
}

static bool set_serial(X509 *cert)
{
    BIGNUM *n = BN_new();
    bool ok = n != NULL && BN_rand(n, SERIAL_BITS, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
              BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert)) != NULL;

    BN_free(n);
    return ok;
}

static X509 *make_cert(EVP_PKEY *key, const char *hosts, unsigned int years)
{
    X509 *cert = X509_new();
    X509_NAME *name;

    if (cert == NULL)
        return NULL;
    name = X509_get_subject_name(cert);
    if (X509_set_version(cert, X509_VERSION_3) == 1 && set_serial(cert) &&
        X509_gmtime_adj(X509_getm_notBefore(cert), 0) != NULL &&
        X509_time_adj_ex(X509_getm_notAfter(cert), (int)years * DAYS_PER_YEAR, 0, NULL) != NULL &&
        X509_NAME_add_entry_by_txt(name, "O", MBSTRING_ASC, (const unsigned char *)"etcd", -1, -1,
                                   0) == 1 &&
        X509_set_issuer_name(cert, name) == 1 && X509_set_pubkey(cert, key) == 1 &&
        add_extension(cert, NID_basic_constraints, "critical,CA:FALSE") &&
        add_extension(cert, NID_key_usage, "critical,digitalSignature,keyEncipherment") &&
        add_extension(cert, NID_ext_key_usage, "serverAuth,clientAuth") && add_names(cert, hosts) &&
        X509_sign(cert, key, EVP_sha256()) > 0)
        return cert;
    X509_free(cert);
    return NULL;
}

/* To a name of its own first: a half-written file is never found under the real one. */
static int write_pem(const char *path, mode_t mode, X509 *cert, EVP_PKEY *key)
{
    CLEANUP(freep) char *fresh = xasprintf("%s.new", path);
    int fd, ok, error;
    FILE *f;

    unlink(fresh);
    fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return -errno;
    f = fdopen(fd, "w");
    if (f == NULL) {
        close(fd);
        return -ENOMEM;
    }
    ok = cert != NULL ? PEM_write_X509(f, cert)
                      : PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
    error = ok == 1 && fflush(f) == 0 ? 0 : EIO;
    if (fclose(f) != 0)
        error = EIO;
    if (error == 0 && rename(fresh, path) != 0)
        error = errno;
    if (error != 0)
        unlink(fresh);
    return -error;
}

static int make_directories(const char *dir)
{
    CLEANUP(freep) char *path = xstrdup(dir);

    for (char *p = path + 1; *p != '\0'; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return -errno;
        *p = '/';
    }
    return mkdir(path, 0700) != 0 && errno != EEXIST ? -errno : 0;
}

int tls_make_self_signed(const char *dir, const char *hosts, unsigned int years, char **ret_error)
{
    CLEANUP(freep) char *cert_path = xasprintf("%s/cert.pem", dir);
    CLEANUP(freep) char *key_path = xasprintf("%s/key.pem", dir);
    EVP_PKEY *key;
    X509 *cert;
    int r = -EIO;

    if (years == 0) {
        *ret_error = xstrdup("selfSignedCertValidity is invalid,it should be greater than 0");
        return -EINVAL;
    }
    if (still_good(cert_path, key_path))
        return 0;
    key = EVP_EC_gen("P-256");
    cert = key != NULL ? make_cert(key, hosts, years) : NULL;
    if (cert != NULL)
        r = make_directories(dir);
    if (cert != NULL && r == 0)
        r = write_pem(key_path, 0600, NULL, key);
    if (cert != NULL && r == 0)
        r = write_pem(cert_path, 0644, cert, NULL);
    X509_free(cert);
    EVP_PKEY_free(key);
    ERR_clear_error();
    if (r < 0)
        *ret_error = xasprintf("cannot make a certificate in %s: %s", dir, strerror(-r));
    return r;
}
