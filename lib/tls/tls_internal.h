/*
 * For the files of this folder: tls_context.c (set-up, reload), tls_files.c (PEM and CRL files),
 * tls_verify.c (rules for the peer's certificate), tls_suites.c (names), tls_stream.c.
 */
#ifndef CONCLAVE_TLS_TLS_INTERNAL_H
#define CONCLAVE_TLS_TLS_INTERNAL_H

#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/stat.h>
#include "lib/tls/tls.h"
#include "lib/util/buf.h"

enum {
    TLS_RECORD_BYTES = 16 * 1024,
    TLS_RECV_BYTES = 48 * 1024, /* one recv */
    TLS_FILES = 4,              /* certificate, key, authorities, revocation list */
};

enum tls_file { TLS_FILE_CERT, TLS_FILE_KEY, TLS_FILE_CA, TLS_FILE_CRL };

/* Which version of a file was loaded. */
struct tls_stamp {
    bool there;
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec mtime, ctime;
};

struct tls_context {
    enum tls_role role;
    char *files[TLS_FILES]; /* "" where there is none */
    char *allowed_cn, *allowed_hostname, *cipher_suites, *min_version, *max_version;
    bool require_cert, skip_verify, http;
    void (*on_reload)(void *user, const char *error);
    void *user;

    SSL_CTX *ssl;
    STACK_OF(X509_CRL) * crls; /* NULL: none */
    struct tls_stamp stamps[TLS_FILES];
    bool unsettled; /* a file was younger than its time stamp can tell apart */
    bool failed;    /* the last load; the one before is in use */
    uint64_t loaded_ms; /* monotonic; when it was last tried */

    BIO_METHOD *bio_method;
    /* Between one call into OpenSSL and its end, for whichever stream it is. */
    struct buf out;
    size_t in_len, in_at;
    uint8_t in[TLS_RECV_BYTES];
    uint8_t gather[TLS_RECORD_BYTES];
};

struct tls_stream {
    struct tls_context *ctx;
    SSL *ssl;
    int fd;
    bool established, eof, broken;
    bool ended;         /* the peer's close_notify has come */
    bool shut;          /* ours is made */
    bool rested;        /* OpenSSL's buffers are freed */
    struct buf pending; /* encrypted, not taken by the socket, from pending_at */
    size_t pending_at;
    struct buf early; /* encrypted, came along with the end of the handshake */
    char *peer_cn;
    char *alpn;
    char *error;
};

/* tls_context.c */
void tls_context_refresh(struct tls_context *ctx);

/* tls_files.c. All: 0, or negative errno with *ret_error. */
int tls_load_key_pair(SSL_CTX *ssl, const char *cert_file, const char *key_file, char **ret_error);
int tls_load_authorities(SSL_CTX *ssl, const char *ca_file, bool server, char **ret_error);
int tls_load_crls(const char *crl_file, STACK_OF(X509_CRL) * *ret, char **ret_error);
void tls_free_crls(STACK_OF(X509_CRL) * crls);

/* tls_verify.c: SSL_CTX_set_cert_verify_callback; arg is the context. */
int tls_verify_peer(X509_STORE_CTX *store, void *arg);
char *tls_common_name(X509 *cert); /* NULL: none, or none that is a text. free() */

/* tls_suites.c */
int tls_set_suites(SSL_CTX *ssl, const char *go_names, char **ret_error);
int tls_set_versions(SSL_CTX *ssl, const char *min, const char *max, char **ret_error);

/* tls_stream.c */
BIO_METHOD *tls_bio_method_new(void);

#endif
