#include "tests/unit/tls_certs.h"

#include <assert.h>
#include <ftw.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "lib/util/xmalloc.h"

enum { DAY_S = 24 * 3600 };

char *tls_test_dir(void)
{
    char *dir = xstrdup("/tmp/conclave-tls-XXXXXX");

    assert(mkdtemp(dir) != NULL);
    return dir;
}

const char *tls_path(const char *dir, const char *file)
{
    static char *all[2048];
    static size_t count;

    assert(count < ARRAY_LEN(all));
    all[count] = xasprintf("%s/%s", dir, file);
    return all[count++];
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk)
{
    return remove(path);
}

void tls_test_dir_remove(const char *dir)
{
    if (dir != NULL)
        nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static char *file_of(const char *dir, const char *name, const char *suffix)
{
    return xasprintf("%s/%s.%s", dir, name, suffix);
}

static void *load(const char *dir, const char *name, const char *suffix, bool key)
{
    CLEANUP(freep) char *path = file_of(dir, name, suffix);
    FILE *f = fopen(path, "r");
    void *found;

    assert(f != NULL);
    found = key ? (void *)PEM_read_PrivateKey(f, NULL, NULL, NULL)
                : (void *)PEM_read_X509(f, NULL, NULL, NULL);
    assert(found != NULL);
    fclose(f);
    return found;
}

static void save(const char *dir, const char *name, const char *suffix, X509 *cert, EVP_PKEY *key,
                 X509_CRL *crl, bool der)
{
    CLEANUP(freep) char *path = file_of(dir, name, suffix);
    CLEANUP(freep) char *fresh = xasprintf("%s.fresh", path);
    FILE *f = fopen(fresh, "w");
    int ok = 0;

    assert(f != NULL);
    if (cert != NULL)
        ok = PEM_write_X509(f, cert);
    else if (key != NULL)
        ok = PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
    else
        ok = der ? i2d_X509_CRL_fp(f, crl) : PEM_write_X509_CRL(f, crl);
    assert(ok == 1);
    fclose(f);
    assert(rename(fresh, path) == 0);
}

static void extend(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509_EXTENSION *ext;

    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert(ext != NULL);
    assert(X509_add_ext(cert, ext, -1) == 1);
    X509_EXTENSION_free(ext);
}

void tls_cert_make(const struct tls_cert_args *a)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    EVP_PKEY *issuer_key = a->issuer != NULL ? load(a->dir, a->issuer, "key", true) : key;
    X509 *cert = X509_new();
    X509 *issuer = a->issuer != NULL ? load(a->dir, a->issuer, "pem", false) : cert;

    assert(key != NULL && cert != NULL);
    X509_set_version(cert, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), a->serial != 0 ? a->serial : random() + 1000);
    X509_gmtime_adj(X509_getm_notBefore(cert), -2 * DAY_S);
    X509_gmtime_adj(X509_getm_notAfter(cert), a->expired ? -DAY_S : DAY_S);
    if (a->cn != NULL)
        X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_UTF8,
                                   (const unsigned char *)a->cn, -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(issuer));
    X509_set_pubkey(cert, key);
    extend(cert, issuer, NID_basic_constraints,
           a->issuer == NULL ? "critical,CA:TRUE" : "critical,CA:FALSE");
    if (a->issuer != NULL)
        extend(cert, issuer, NID_ext_key_usage,
               a->usage != NULL ? a->usage : "serverAuth,clientAuth");
    if (a->san != NULL)
        extend(cert, issuer, NID_subject_alt_name, a->san);
    assert(X509_sign(cert, issuer_key, EVP_sha256()) > 0);
    save(a->dir, a->name, "key", NULL, key, NULL, false);
    save(a->dir, a->name, "pem", cert, NULL, NULL, false);
    if (a->issuer != NULL) {
        X509_free(issuer);
        EVP_PKEY_free(issuer_key);
    }
    X509_free(cert);
    EVP_PKEY_free(key);
}

void tls_crl_make(const char *dir, const char *name, const char *issuer_name, const long *serials,
                  size_t count, bool pem)
{
    X509 *issuer = load(dir, issuer_name, "pem", false);
    EVP_PKEY *key = load(dir, issuer_name, "key", true);
    X509_CRL *crl = X509_CRL_new();
    ASN1_TIME *now = X509_gmtime_adj(NULL, -DAY_S);

    X509_CRL_set_version(crl, 1);
    X509_CRL_set_issuer_name(crl, X509_get_subject_name(issuer));
    X509_CRL_set1_lastUpdate(crl, now);
    X509_CRL_set1_nextUpdate(crl, now); /* outdated: that is no reason to let anybody in or out */
    for (size_t i = 0; i < count; i++) {
        X509_REVOKED *entry = X509_REVOKED_new();
        ASN1_INTEGER *serial = ASN1_INTEGER_new();

        ASN1_INTEGER_set(serial, serials[i]);
        X509_REVOKED_set_serialNumber(entry, serial);
        X509_REVOKED_set_revocationDate(entry, now);
        X509_CRL_add0_revoked(crl, entry);
        ASN1_INTEGER_free(serial);
    }
    X509_CRL_sort(crl);
    assert(X509_CRL_sign(crl, key, EVP_sha256()) > 0);
    save(dir, name, "crl", NULL, NULL, crl, !pem);
    ASN1_TIME_free(now);
    X509_CRL_free(crl);
    EVP_PKEY_free(key);
    X509_free(issuer);
}

void tls_file_write(const char *path, const char *text)
{
    CLEANUP(freep) char *fresh = xasprintf("%s.fresh", path);
    FILE *f = fopen(fresh, "w");

    assert(f != NULL);
    assert(fputs(text, f) >= 0);
    fclose(f);
    assert(rename(fresh, path) == 0);
}

void tls_file_replace(const char *path, const char *from)
{
    CLEANUP(freep) char *text = NULL;
    size_t len = 0;
    FILE *f = fopen(from, "r");

    assert(f != NULL);
    assert(getdelim(&text, &len, '\0', f) > 0);
    fclose(f);
    tls_file_write(path, text);
}
