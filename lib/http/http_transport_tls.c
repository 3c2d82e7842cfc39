/*
 * The TLS transport: lib/tls behind the table.
 */
#include "lib/http/http_internal.h"

#include <assert.h>
#include <unistd.h>
#include "lib/tls/tls.h"

static_assert((int)HTTP_READ_BYTES >= (int)TLS_READ_BYTES_MIN, "a read of TLS needs room for two records");

static int on_handshake(struct http_transport *t)
{
    return tls_stream_handshake(t->tls);
}

static ssize_t on_read(struct http_transport *t, void *data, size_t len)
{
    return tls_stream_read(t->tls, data, len);
}

static ssize_t on_writev(struct http_transport *t, const struct iovec *iov, int count)
{
    return tls_stream_writev(t->tls, iov, count);
}

static size_t on_pending(const struct http_transport *t)
{
    return tls_stream_pending(t->tls);
}

static int on_flush(struct http_transport *t)
{
    return tls_stream_flush(t->tls);
}

static void on_rest(struct http_transport *t)
{
    tls_stream_rest(t->tls);
}

static void on_shutdown(struct http_transport *t)
{
    tls_stream_shutdown(t->tls);
    shutdown(t->fd, SHUT_WR);
}

static void on_close(struct http_transport *t)
{
    if (t->fd < 0)
        return;
    tls_stream_shutdown(t->tls);
    tls_stream_free(t->tls);
    t->tls = NULL;
    close(t->fd);
    t->fd = -1;
}

static const char *on_alpn(const struct http_transport *t)
{
    return tls_stream_alpn(t->tls);
}

static const char *on_peer_cn(const struct http_transport *t)
{
    return tls_stream_peer_cn(t->tls);
}

static const char *on_error(const struct http_transport *t)
{
    return t->tls != NULL ? tls_stream_error(t->tls) : "";
}

static const struct http_transport_ops tls_ops = {
    .handshake = on_handshake,
    .read = on_read,
    .writev = on_writev,
    .pending = on_pending,
    .flush = on_flush,
    .rest = on_rest,
    .shutdown = on_shutdown,
    .close = on_close,
    .alpn = on_alpn,
    .peer_cn = on_peer_cn,
    .error = on_error,
    .scheme = "https",
};

void http_transport_init_tls(struct http_transport *t, int fd, struct tls_context *tls,
                             const char *name, const char *alpn)
{
    *t = (struct http_transport){
        .ops = &tls_ops, .fd = fd, .tls = tls_stream_new(tls, fd, name, alpn)};
}
