/*
 * HTTP client: one connection to one address, HTTP/2 with prior knowledge (many concurrent calls)
 * or HTTP/1.1 (one at a time, later ones wait; keep-alive). No reconnecting and no balancing: who
 * wants another connection makes one.
 *
 * Calls made before the connection is up wait for it. Every call ends with on_closed, exactly once,
 * and is gone when that returns. No function here calls back before it returns; requests made in
 * one turn leave with one writev at its end.
 *
 * Everything is for the loop thread.
 */
#ifndef CONCLAVE_HTTP_HTTP_CLIENT_H
#define CONCLAVE_HTTP_HTTP_CLIENT_H

#include <stdbool.h>
#include "lib/http/http.h"

struct loop;
struct sockaddr;
struct http_client;
struct http_call;
struct tls_context;

struct http_client_handler {
    /* The connection is up. May be NULL. */
    void (*on_connected)(void *user, struct http_client *client);
    /* The connection is over (refused, lost, GOAWAY and drained): every call has had its on_closed.
     * error: negative errno, 0 for an orderly end. The client must still be freed, also from in
     * here. */
    void (*on_disconnected)(void *user, struct http_client *client, int error);
};

struct http_client_options {
    enum http_version version; /* HTTP_VERSION_2 or HTTP_VERSION_1_1 */
    uint64_t connect_ms_max;   /* 0: 5000 */
    size_t header_bytes_max;   /* per answer; 0: 65536 */
    uint32_t window_bytes; /* HTTP/2 receive window of stream and connection; 0: 1 MiB and 16 MiB */
    /* HTTP/2: while calls are open, a PING after so long without a byte from the server; the
     * connection is lost when nothing came back for keepalive_timeout_ms more. 0: no pings. */
    uint64_t keepalive_ms, keepalive_timeout_ms;
    const char *authority;   /* NULL: made of the address; copied */
    struct tls_context *tls; /* NULL: plain; borrowed for the connection's life */
    const char *tls_name; /* what the server's certificate must be valid for; NULL: the address */
};

/* Numeric address ("127.0.0.1", "::1") or "unix:PATH" (port ignored): names are resolved elsewhere,
 * off the loop. NULL with errno set: bad address or no descriptor. A refused connection is reported
 * by on_disconnected. */
struct http_client *http_client_connect(struct loop *loop, const char *host, uint16_t port,
                                        const struct http_client_options *options,
                                        const struct http_client_handler *handler, void *user);
/* Closes at once; on_closed is called for each open call before this returns. */
void http_client_free(struct http_client *client);
bool http_client_connected(const struct http_client *client);
/* Calls open or waiting; and how many the peer allows at once (SETTINGS), 1 for HTTP/1.1. */
size_t http_client_call_count(const struct http_client *client);
uint32_t http_client_streams_max(const struct http_client *client);
/* Why the TLS handshake failed, after on_disconnected with -EPROTO; "" otherwise. */
const char *http_client_tls_error(const struct http_client *client);

struct http_call_handler {
    void (*on_headers)(void *user, struct http_call *call,
                       int status); /* not for 1xx; may be NULL */
    void (*on_data)(void *user, struct http_call *call, struct bytes data); /* may be NULL */
    void (*on_trailers)(void *user, struct http_call *call);                /* may be NULL */
    /* 0: complete answer. -ECANCELED: cancelled here. -ETIMEDOUT: the deadline. -ECONNRESET: stream
     * reset (http_call_reset_code) or connection lost. -EPROTO: malformed answer. */
    void (*on_closed)(void *user, struct http_call *call, int error);
};

struct http_call_args {
    struct bytes method;
    struct bytes path;
    const struct http_header *headers;
    size_t header_count;
    bool headers_static; /* names, values, method and path outlive the connection: nothing is copied
                          */
    const struct bytes *body; /* copied before return */
    size_t body_count;
    bool body_open;       /* more follows with http_call_data, until http_call_end (HTTP/2 only) */
    uint64_t deadline_ms; /* 0: none */
    const struct http_call_handler *handler; /* borrowed until on_closed */
    void *user;
};

/* NULL with errno: the connection is over (ENOTCONN), or ENOBUFS: stream ids used up. */
struct http_call *http_call_start(struct http_client *client, const struct http_call_args *args);
void http_call_data(struct http_call *call, struct bytes data);
void http_call_end(struct http_call *call);
/* on_closed follows from the loop with -ECANCELED. */
void http_call_cancel(struct http_call *call);
int http_call_status(const struct http_call *call); /* 0 before on_headers */
struct bytes http_call_header(const struct http_call *call, const char *name);
struct bytes http_call_trailer(const struct http_call *call, const char *name);
uint32_t http_call_reset_code(const struct http_call *call);

#endif
