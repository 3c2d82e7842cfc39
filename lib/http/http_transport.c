/*
 * The plain transport: a connected stream socket as it is. TLS brings a second table with the same
 * shape, so nothing above it knows.
 */
#include "lib/http/http_internal.h"

#include <errno.h>
#include <unistd.h>

static ssize_t plain_read(struct http_transport *t, void *data, size_t len)
{
    ssize_t n;

    do
        n = recv(t->fd, data, len, 0);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t plain_writev(struct http_transport *t, const struct iovec *iov, int count)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count};
    ssize_t n;

    do
        n = sendmsg(t->fd, &msg, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static void plain_shutdown(struct http_transport *t)
{
    shutdown(t->fd, SHUT_WR);
}

static void plain_close(struct http_transport *t)
{
    if (t->fd >= 0)
        close(t->fd);
    t->fd = -1;
}

static const char *plain_none(const struct http_transport *t)
{
    return NULL;
}

static const char *plain_error(const struct http_transport *t)
{
    return "";
}

static const struct http_transport_ops plain_ops = {
    .read = plain_read,
    .writev = plain_writev,
    .shutdown = plain_shutdown,
    .close = plain_close,
    .alpn = plain_none,
    .peer_cn = plain_none,
    .error = plain_error,
    .scheme = "http",
};

void http_transport_init_plain(struct http_transport *t, int fd)
{
    *t = (struct http_transport){.ops = &plain_ops, .fd = fd};
}
