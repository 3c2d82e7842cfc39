/*
 * Certificates for tests, made on the spot: each is a pair of files <dir>/<name>.pem and .key,
 * signed by the authority of that name (whose own files are of the same form).
 */
#ifndef CONCLAVE_TESTS_TLS_CERTS_H
#define CONCLAVE_TESTS_TLS_CERTS_H

#include <stdbool.h>
#include <stddef.h>

struct tls_cert_args {
    const char *dir;
    const char *name;
    const char *issuer; /* NULL: signs itself, as an authority */
    const char *cn;     /* NULL: none */
    const char *san;    /* "IP:127.0.0.1,DNS:localhost"; NULL: none */
    const char *usage;  /* "serverAuth"; NULL: both */
    long serial;
    bool expired;
};
void tls_cert_make(const struct tls_cert_args *args);
/* <dir>/<name>.crl with these serial numbers; pem or DER. */
void tls_crl_make(const char *dir, const char *name, const char *issuer, const long *serials,
                  size_t count, bool pem);
char *tls_test_dir(void); /* a fresh one; free() */
void tls_test_dir_remove(const char *dir); /* with all that is in it; NULL is fine */
/* Two texts joined, in memory that stays until the process ends. */
const char *tls_path(const char *dir, const char *file);
/* By rename, as tools that renew certificates do it. */
void tls_file_replace(const char *path, const char *from);
void tls_file_write(const char *path, const char *text);

#endif
