/*
 * TLS 1.2 and 1.3 by OpenSSL, whose types stay in this folder.
 *
 * A tls_context is what one side of a listener or of outgoing connections is set up with: files,
 * rules for the peer's certificate, versions and suites. Its files are looked at again when a
 * connection begins (tls_stream_new): when one of them has changed, all are loaded anew, and a set
 * that does not load leaves the old one in use. Connections under way keep what they began with.
 *
 * A tls_stream is one connection over a connected, non-blocking socket that the caller owns. It
 * has no thread and no timer: the caller watches the descriptor and calls. Encrypted bytes that
 * the socket does not take are kept by the stream (tls_stream_pending); the caller asks for
 * LOOP_WRITE while there are any and then calls tls_stream_flush. Decrypted bytes are never kept:
 * a read that returned less than asked for has left nothing behind but in the socket.
 *
 * Threads: a context and its streams belong to one thread.
 */
#ifndef CONCLAVE_TLS_TLS_H
#define CONCLAVE_TLS_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct iovec;
struct tls_context;
struct tls_stream;

enum tls_role { TLS_SERVER, TLS_CLIENT };

enum {
    /* tls_stream_read wants a buffer of at least this size: two records */
    TLS_READ_BYTES_MIN = 40 * 1024,
};

struct tls_args {
    enum tls_role role;
    /* PEM. Own certificate (with its chain) and key; a client may have none. */
    const char *cert_file;
    const char *key_file;
    /* Certificates to trust, NULL or "": a server asks for no certificate; a client trusts the
     * system's authorities. A server with a CA file requires a certificate, as etcd does. */
    const char *ca_file;
    /* Server: a certificate is required also without a CA file; the system's authorities count. */
    bool require_cert;
    /* Revocation list, PEM or DER: a certificate whose serial number it has is refused. */
    const char *crl_file;
    /* Comma lists: one of them must be the peer's common name, or its certificate valid for. At
     * most one of the two is given. */
    const char *allowed_cn;
    const char *allowed_hostname;
    const char *cipher_suites; /* comma list, Go's names; for TLS 1.2; "": OpenSSL's choice */
    const char *min_version;   /* "TLS1.2", "TLS1.3"; "": TLS1.2 */
    const char *max_version;   /* "": highest */
    bool skip_verify;          /* client: any server will do (self-signed peers) */
    bool http;                 /* server: choose h2 or http/1.1 by ALPN */
    /* Told when files were loaded again (error NULL) or could not be (once per change). NULL: not
     * wanted. */
    void (*on_reload)(void *user, const char *error);
    void *user;
};

/* Strings are copied. 0, or negative errno with *ret_error (free()): one line in Go's words where
 * it has some. */
int tls_context_new(const struct tls_args *args, struct tls_context **ret, char **ret_error);
void tls_context_free(struct tls_context *ctx); /* its streams are gone; NULL is fine */
/* Versions and suite names alone, as tls_context_new would refuse them. 0, or -EINVAL. */
int tls_check_suites(const char *cipher_suites, const char *min_version, const char *max_version,
                     char **ret_error);

/* client: `server_name` is what the certificate must be valid for, a name or a literal address;
 * `alpn` is what to offer, "h2" or "http/1.1", NULL: nothing. Server: both NULL. */
struct tls_stream *tls_stream_new(struct tls_context *ctx, int fd, const char *server_name,
                                  const char *alpn);
void tls_stream_free(struct tls_stream *s); /* fd stays open; NULL is fine */

/* 0: established. -EAGAIN: needs more input (or LOOP_WRITE while pending). Else over:
 * -ECONNRESET, or -EPROTO with tls_stream_error. */
int tls_stream_handshake(struct tls_stream *s);
bool tls_stream_established(const struct tls_stream *s);
/* One recv. 0: end of input. -EAGAIN: nothing yet. Handshakes first where that is due. */
ssize_t tls_stream_read(struct tls_stream *s, void *data, size_t size);
/* Encrypts everything and sends it with one call; returns the bytes given. -EAGAIN: nothing was
 * taken, because earlier bytes are still pending. */
ssize_t tls_stream_writev(struct tls_stream *s, const struct iovec *iov, int count);
size_t tls_stream_pending(const struct tls_stream *s);
int tls_stream_flush(struct tls_stream *s); /* 0: also when some is left */
/* Gives memory back that the next read or write takes again: for streams with nothing to do. */
void tls_stream_rest(struct tls_stream *s);
/* Says that no more will be written. What is pending is tried once. */
void tls_stream_shutdown(struct tls_stream *s);

/* Of an established stream; borrowed from it. */
const char *tls_stream_alpn(const struct tls_stream *s);    /* NULL: none negotiated */
const char *tls_stream_peer_cn(const struct tls_stream *s); /* of a verified certificate; or NULL */
const char *tls_stream_error(const struct tls_stream *s);   /* why it failed; "" */

/* Names and addresses of the peer's certificate, for rules that need a name lookup. Calls visit
 * once for each; is_address: textual IP. */
void tls_stream_peer_names(const struct tls_stream *s,
                           void (*visit)(void *user, const char *name, bool is_address),
                           void *user);

/*
 * A certificate signed by its own key (ECDSA) for these comma-separated host names and addresses,
 * written as cert.pem and key.pem (0600) into dir, which is made. Files that are there and still
 * valid are kept. Blocks. Negative errno with *ret_error.
 */
int tls_make_self_signed(const char *dir, const char *hosts, unsigned int years,
                         char **ret_error);

#endif
