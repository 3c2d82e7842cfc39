/*
 * One connection. OpenSSL never sees the socket: a BIO of our own hands it what one recv brought and
 * gathers what it makes, which then leaves with one send, however many records it is. Both buffers
 * belong to the context and are empty between calls, so a connection that keeps up holds only what
 * OpenSSL itself keeps: a record in each direction, which tls_stream_rest gives back. (With
 * SSL_MODE_RELEASE_BUFFERS OpenSSL would do so after every record, and wipe all 17 KB each time.)
 *
 * A recv is bounded so that its plaintext fits the caller's buffer: then everything complete has been
 * decrypted when a read returns, a part of a record waits inside OpenSSL, and level-triggered
 * notification of the socket is all the notification there has to be.
 */
#include "lib/tls/tls_internal.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum {
    RECORD_OVERHEAD_MAX = 1024, /* RFC 5246 section 6.2.3 allows 2048 of which ours use 50 */
    HANDSHAKE_OUT_MAX = 256 * 1024, /* our flight, with a long chain and many authorities' names */
};

/* ---- the BIO ---- */

static int bio_read(BIO *bio, char *data, size_t len, size_t *ret_len)
{
    struct tls_stream *s = BIO_get_data(bio);
    struct tls_context *ctx = s->ctx;
    size_t n = MIN(len, ctx->in_len - ctx->in_at);

    BIO_clear_retry_flags(bio);
    *ret_len = n;
    if (n == 0) {
        if (!s->eof)
            BIO_set_retry_read(bio);
        return 0;
    }
    memcpy(data, ctx->in + ctx->in_at, n);
    ctx->in_at += n;
    return 1;
}

static int bio_write(BIO *bio, const char *data, size_t len, size_t *ret_len)
{
    struct tls_stream *s = BIO_get_data(bio);

    BIO_clear_retry_flags(bio);
    buf_append(&s->ctx->out, data, len);
    *ret_len = len;
    return 1;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    const struct tls_stream *s = BIO_get_data(bio);

    switch (command) {
    case BIO_CTRL_FLUSH:
        return 1;
    case BIO_CTRL_EOF:
        return s->eof;
    default:
        return 0;
    }
}

static int bio_create(BIO *bio)
{
    BIO_set_init(bio, 1);
    return 1;
}

BIO_METHOD *tls_bio_method_new(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "conclave");

    if (m == NULL)
        PANIC("OpenSSL cannot make a BIO method");
    BIO_meth_set_read_ex(m, bio_read);
    BIO_meth_set_write_ex(m, bio_write);
    BIO_meth_set_ctrl(m, bio_ctrl);
    BIO_meth_set_create(m, bio_create);
    return m;
}

/* ---- the socket ---- */

static ssize_t socket_recv(int fd, void *data, size_t len)
{
    ssize_t n;

    do
        n = recv(fd, data, len, 0);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t socket_send(int fd, const void *data, size_t len)
{
    ssize_t n;

    do
        n = send(fd, data, len, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
    return n;
}

/* Brings the next input to where the BIO takes it. 0 also at the end of input. */
static int fill(struct tls_stream *s, size_t len)
{
    struct tls_context *ctx = s->ctx;
    ssize_t n;

    ctx->in_at = ctx->in_len = 0;
    if (s->early.len > 0) {
        memcpy(ctx->in, s->early.data, s->early.len);
        ctx->in_len = s->early.len;
        buf_fini(&s->early);
        return 0;
    }
    if (s->eof)
        return 0;
    n = socket_recv(s->fd, ctx->in, MIN(len, sizeof(ctx->in)));
    if (n < 0)
        return (int)n;
    ctx->in_len = (size_t)n;
    s->eof = n == 0;
    return 0;
}

/* Sends what OpenSSL made, behind what was left over. */
static int send_out(struct tls_stream *s)
{
    struct buf *out = &s->ctx->out;
    bool behind = tls_stream_pending(s) > 0;
    ssize_t n = 0;

    if (behind)
        buf_append(&s->pending, out->data, out->len);
    else if (out->len > 0)
        n = socket_send(s->fd, out->data, out->len);
    if (n >= 0 && !behind && (size_t)n < out->len)
        buf_append(&s->pending, out->data + n, out->len - (size_t)n);
    buf_clear(out);
    buf_trim(out, 256 * 1024);
    if (n < 0)
        return (int)n;
    return behind ? tls_stream_flush(s) : 0;
}

size_t tls_stream_pending(const struct tls_stream *s)
{
    return s->pending.len - s->pending_at;
}

int tls_stream_flush(struct tls_stream *s)
{
    size_t len = tls_stream_pending(s);
    ssize_t n;

    if (len == 0)
        return 0;
    n = socket_send(s->fd, s->pending.data + s->pending_at, len);
    if (n < 0)
        return (int)n;
    s->pending_at += (size_t)n;
    if ((size_t)n == len) {
        buf_fini(&s->pending);
        s->pending_at = 0;
    } else if (s->pending_at > s->pending.len / 2) {
        buf_consume(&s->pending, s->pending_at);
        s->pending_at = 0;
    }
    return 0;
}

/* ---- life ---- */

static bool is_address(const char *text)
{
    unsigned char address[sizeof(struct in6_addr)];

    return inet_pton(AF_INET, text, address) == 1 || inet_pton(AF_INET6, text, address) == 1;
}

/* Go checks names and addresses of the certificate's extension only, never the common name. */
static void expect_name(SSL *ssl, const char *name)
{
    if (is_address(name)) {
        X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name);
        return;
    }
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    SSL_set1_host(ssl, name);
    SSL_set_tlsext_host_name(ssl, name);
}

static void offer_protocol(SSL *ssl, const char *alpn)
{
    unsigned char list[32];
    size_t len = strlen(alpn);

    assert(len < sizeof(list));
    list[0] = (unsigned char)len;
    memcpy(list + 1, alpn, len);
    SSL_set_alpn_protos(ssl, list, (unsigned int)len + 1);
}

struct tls_stream *tls_stream_new(struct tls_context *ctx, int fd, const char *server_name,
                                  const char *alpn)
{
    struct tls_stream *s = xcalloc(1, sizeof(*s));
    BIO *bio;

    tls_context_refresh(ctx);
    s->ctx = ctx;
    s->fd = fd;
    s->ssl = SSL_new(ctx->ssl);
    bio = BIO_new(ctx->bio_method);
    if (s->ssl == NULL || bio == NULL)
        PANIC("OpenSSL is out of memory");
    BIO_set_data(bio, s);
    SSL_set_bio(s->ssl, bio, bio);
    SSL_set_app_data(s->ssl, s);
    if (ctx->role == TLS_SERVER) {
        SSL_set_accept_state(s->ssl);
    } else {
        SSL_set_connect_state(s->ssl);
        if (server_name != NULL)
            expect_name(s->ssl, server_name);
        if (alpn != NULL)
            offer_protocol(s->ssl, alpn);
    }
    return s;
}

void tls_stream_free(struct tls_stream *s)
{
    if (s == NULL)
        return;
    SSL_free(s->ssl);
    buf_fini(&s->pending);
    buf_fini(&s->early);
    free(s->peer_cn);
    free(s->alpn);
    free(s->error);
    free(s);
}

/* ---- errors ---- */

static void note_error(struct tls_stream *s)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
    long verdict = SSL_get_verify_result(s->ssl);

    if (s->error != NULL)
        return; /* tls_verify.c said why */
    if (verdict != X509_V_OK)
        s->error = xasprintf("certificate verify failed: %s", X509_verify_cert_error_string(verdict));
    else if (reason != NULL)
        s->error = xstrdup(reason);
    else
        s->error = xstrdup(s->eof ? "EOF" : "TLS protocol error");
}

/* What a call of OpenSSL that returned n means: -EAGAIN, 0 for an orderly end, or what broke. */
static int outcome(struct tls_stream *s, int n)
{
    switch (SSL_get_error(s->ssl, n)) {
    case SSL_ERROR_WANT_READ:
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    case SSL_ERROR_SYSCALL:
        s->broken = true;
        note_error(s);
        return s->eof ? -ECONNRESET : -EPROTO;
    default:
        s->broken = true;
        note_error(s);
        ERR_clear_error();
        return s->eof ? -ECONNRESET : -EPROTO;
    }
}

/* ---- handshake ---- */

static void on_established(struct tls_stream *s)
{
    X509 *cert = SSL_get0_peer_certificate(s->ssl);
    struct tls_context *ctx = s->ctx;
    const unsigned char *alpn;
    unsigned int len;

    s->established = true;
    if (cert != NULL && !ctx->skip_verify)
        s->peer_cn = tls_common_name(cert);
    SSL_get0_alpn_selected(s->ssl, &alpn, &len);
    if (len > 0)
        s->alpn = xstrndup((const char *)alpn, len);
    /* what came behind the handshake is for the first read */
    buf_append(&s->early, ctx->in + ctx->in_at, ctx->in_len - ctx->in_at);
    ctx->in_at = ctx->in_len = 0;
}

int tls_stream_handshake(struct tls_stream *s)
{
    int n, r, e;

    if (s->established)
        return 0;
    if (s->broken)
        return -EPROTO;
    if (tls_stream_pending(s) > HANDSHAKE_OUT_MAX)
        return -EPROTO;
    r = fill(s, TLS_RECV_BYTES);
    if (r == -EAGAIN)
        s->ctx->in_len = 0;
    else if (r < 0)
        return r;
    ERR_clear_error();
    n = SSL_do_handshake(s->ssl);
    r = n == 1 ? 0 : outcome(s, n);
    if (r == 0 && n != 1)
        r = -ECONNRESET;
    if (r == 0)
        on_established(s);
    e = send_out(s);
    return r != 0 && r != -EAGAIN ? r : e < 0 ? e : r;
}

bool tls_stream_established(const struct tls_stream *s)
{
    return s->established;
}

/* ---- data ---- */

ssize_t tls_stream_read(struct tls_stream *s, void *data, size_t size)
{
    size_t total = 0;
    int r, e;

    assert(size >= TLS_READ_BYTES_MIN);
    if (s->broken)
        return -EPROTO;
    if (!s->established) {
        r = tls_stream_handshake(s);
        if (r < 0)
            return r;
    }
    if (s->ended)
        return 0;
    s->rested = false;
    r = fill(s, size - TLS_RECORD_BYTES - RECORD_OVERHEAD_MAX);
    if (r < 0)
        return r;
    ERR_clear_error();
    do {
        size_t n = 0;

        assert(total < size);
        r = SSL_read_ex(s->ssl, (uint8_t *)data + total, size - total, &n) == 1 ? 1 : outcome(s, 0);
        total += n;
    } while (r == 1);
    assert(r != -EAGAIN || s->ctx->in_at == s->ctx->in_len);
    if (s->ctx->out.len > 0) { /* an alert, a key update */
        e = send_out(s);
        if (e < 0 && r == -EAGAIN)
            r = e;
    }
    if (r == 0)
        s->ended = true;
    if (r == 0 || r == -EAGAIN)
        return total > 0 ? (ssize_t)total : r; /* an end behind data is told next time */
    return r;
}

static int encrypt(struct tls_stream *s, const void *data, size_t len)
{
    size_t n;

    if (len == 0)
        return 0;
    if (SSL_write_ex(s->ssl, data, len, &n) != 1) {
        s->broken = true;
        note_error(s);
        ERR_clear_error();
        return -EPROTO;
    }
    assert(n == len); /* the BIO takes everything */
    return 0;
}

/* Small pieces share a record; a large one is encrypted where it lies. */
ssize_t tls_stream_writev(struct tls_stream *s, const struct iovec *iov, int count)
{
    uint8_t *gather = s->ctx->gather;
    size_t have = 0, total = 0;
    int r = 0;

    if (s->broken || !s->established)
        return s->broken ? -EPIPE : -EAGAIN;
    if (tls_stream_pending(s) > 0) {
        r = tls_stream_flush(s);
        if (r < 0)
            return r;
        if (tls_stream_pending(s) > 0)
            return -EAGAIN;
    }
    s->rested = false;
    ERR_clear_error();
    for (int i = 0; i < count && r == 0; i++) {
        const uint8_t *data = iov[i].iov_base;
        size_t left = iov[i].iov_len;

        total += left;
        while (left > 0 && r == 0) {
            size_t n = MIN(left, TLS_RECORD_BYTES - have);

            if (have == 0 && left >= TLS_RECORD_BYTES) {
                n = left - left % TLS_RECORD_BYTES;
                r = encrypt(s, data, n);
            } else {
                memcpy(gather + have, data, n);
                have += n;
                if (have == TLS_RECORD_BYTES) {
                    r = encrypt(s, gather, have);
                    have = 0;
                }
            }
            data += n;
            left -= n;
        }
    }
    if (r == 0)
        r = encrypt(s, gather, have);
    if (r == 0)
        r = send_out(s);
    else
        buf_clear(&s->ctx->out);
    return r < 0 ? r : (ssize_t)total;
}

void tls_stream_rest(struct tls_stream *s)
{
    if (s->established && !s->rested)
        s->rested = SSL_free_buffers(s->ssl) == 1; /* not with a part of a record in it */
}

void tls_stream_shutdown(struct tls_stream *s)
{
    if (s->broken || s->shut || !s->established)
        return;
    s->shut = true;
    ERR_clear_error();
    (void)SSL_shutdown(s->ssl);
    ERR_clear_error();
    (void)send_out(s);
}

/* ---- what is known of the peer ---- */

const char *tls_stream_alpn(const struct tls_stream *s)
{
    return s->alpn;
}

const char *tls_stream_peer_cn(const struct tls_stream *s)
{
    return s->peer_cn;
}

const char *tls_stream_error(const struct tls_stream *s)
{
    return s->error != NULL ? s->error : "";
}

void tls_stream_peer_names(const struct tls_stream *s,
                           void (*visit)(void *user, const char *name, bool is_address), void *user)
{
    X509 *cert = SSL_get0_peer_certificate(s->ssl);
    GENERAL_NAMES *names =
        cert != NULL ? X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL) : NULL;

    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        char text[INET6_ADDRSTRLEN];
        int len;

        if (name->type == GEN_DNS) {
            CLEANUP(freep)
            char *dns = xstrndup((const char *)ASN1_STRING_get0_data(name->d.dNSName),
                                 (size_t)ASN1_STRING_length(name->d.dNSName));

            if (strlen(dns) == (size_t)ASN1_STRING_length(name->d.dNSName))
                visit(user, dns, false);
        } else if (name->type == GEN_IPADD) {
            len = ASN1_STRING_length(name->d.iPAddress);
            if ((len == 4 || len == 16) &&
                inet_ntop(len == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(name->d.iPAddress),
                          text, sizeof(text)) != NULL)
                visit(user, text, true);
        }
    }
    GENERAL_NAMES_free(names);
}
