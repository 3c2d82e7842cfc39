/*
 * HTTP server: HTTP/1.1 and HTTP/2 on one port, told apart by the first bytes of a connection
 * (RFC 9113 section 3.4: prior knowledge).
 *
 * An exchange. on_headers says how the body is to arrive. Buffered: on_request once, when the body
 * is complete. Streamed: on_data for each piece, then on_end. The handler answers from within one
 * of these callbacks or any time later: http_respond for an answer in one piece, or
 * http_respond_begin, _data, _end. on_closed comes exactly once for every request that on_headers
 * has seen: when the answer was handed out completely and the request has been read, or when the
 * peer reset the stream or went away, answered or not. The request is valid until on_closed
 * returns; whoever answers asynchronously keeps the pointer in its own object and that object in
 * the request's user slot, and drops the pointer in on_closed.
 *
 * No function here calls back before it returns, except where said; callbacks come from the loop
 * (input handlers, timers, the flush hook). Answers are collected and leave with one writev per
 * connection at the end of the turn (LOOP_PHASE_FLUSH).
 *
 * Once an answer is complete (http_respond, _end, a reset), what still arrives of the request's
 * body is discarded, and on_request, on_data and on_end come no more.
 *
 * Everything is for the loop thread.
 */
#ifndef CONCLAVE_HTTP_HTTP_SERVER_H
#define CONCLAVE_HTTP_HTTP_SERVER_H

#include <stdbool.h>
#include "lib/http/http.h"

struct loop;
struct http_server;
struct http_req;
struct shared_bytes;
struct tls_context;

enum http_body_mode {
    HTTP_BODY_BUFFER,
    HTTP_BODY_STREAM,
};

struct http_handler {
    /*
     * Method, path, authority and headers are there. *body_bytes_max is the limit for a buffered
     * body, preset from the limits; may be changed here.
     */
    enum http_body_mode (*on_headers)(void *user, struct http_req *req, size_t *body_bytes_max);
    /* Buffered: the body is complete; http_req_body is valid until on_closed. */
    void (*on_request)(void *user, struct http_req *req);
    /* Buffered: the body exceeds the limit (or announces to). http_req_body is what arrived so far,
     * possibly nothing. Answer it; NULL: 413 is answered. Instead of on_request. */
    void (*on_too_large)(void *user, struct http_req *req);
    /* Streamed: a piece of the body, valid during the call; the end of the body. */
    void (*on_data)(void *user, struct http_req *req, struct bytes data);
    void (*on_end)(void *user, struct http_req *req);
    /* Everything given to http_respond_data has left the queue of this stream. May call
     * http_respond_data or _end. May be NULL. */
    void (*on_drained)(void *user, struct http_req *req);
    /* The request is over; see above. */
    void (*on_closed)(void *user, struct http_req *req);
    /* A TLS handshake failed, for the log. May be NULL. */
    void (*on_rejected)(void *user, const char *peer, const char *why);
};

/* Bytes and counts are refused above, times are milliseconds; 0 means no limit where said. */
struct http_limits {
    size_t connections_max;  /* more are closed on accept: 20000 */
    uint32_t streams_max;    /* concurrent per HTTP/2 connection: 4294967295, as etcd */
    size_t requests_max;     /* open at once, all connections; then 503 / REFUSED_STREAM: 200000 */
    size_t header_bytes_max; /* name + value + 32 each, per request: 65536 */
    size_t body_bytes_max;   /* preset of on_headers: 2 MiB */
    size_t buffered_bytes_max; /* request bodies of all connections: 256 MiB; then 503 /
                                  REFUSED_STREAM */
    size_t output_bytes_max;   /* per connection, made but not taken by the kernel; then its input
                                  waits: 256 KiB */
    size_t queued_bytes_max; /* per connection, answers not yet sent; then REFUSED_STREAM: 64 MiB */
    uint64_t header_ms_max;  /* from the first byte to the complete headers, and accept to first
                                byte: 10 s */
    uint64_t body_ms_max;    /* from the headers to the end of a buffered body, 0: none: 60 s */
    uint64_t idle_ms_max;    /* HTTP/1.1 between requests, 0: none: 120 s */
    uint32_t resets_per_s_max; /* streams reset by the client, bucket of ten seconds' worth: 100 */
    uint64_t ping_ms_min;      /* etcd --grpc-keepalive-min-time: 5 s */
    unsigned int ping_strikes_max; /* tolerated, then GOAWAY too_many_pings: 2 */
    uint64_t keepalive_ms;         /* etcd --grpc-keepalive-interval, 0: none: 2 h */
    uint64_t keepalive_timeout_ms; /* etcd --grpc-keepalive-timeout: 20 s */
};

extern const struct http_limits http_limits_default;

struct http_counters {
    uint64_t connections; /* open now */
    uint64_t connections_total;
    uint64_t connections_refused;
    uint64_t requests_total;
    uint64_t requests; /* open now */
    uint64_t resets_received;
    uint64_t resets_sent;
    uint64_t protocol_errors; /* malformed input that ended a connection or a request */
    uint64_t timeouts;        /* connections ended by a deadline */
    uint64_t handshakes;      /* TLS, completed */
    uint64_t handshake_errors;
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t buffered_bytes; /* request bodies held now */
};

/* handler is borrowed for the server's life and called with user; limits are copied. */
struct http_server *http_server_new(struct loop *loop, const struct http_handler *handler,
                                    void *user, const struct http_limits *limits);
/* Ends everything at once; on_closed is called for each open request before this returns. */
void http_server_free(struct http_server *server);

/* Adopts a listening stream socket (made non-blocking). 0, or a negative errno and fd stays with
 * the caller. */
int http_server_listen(struct http_server *server, int fd);
/* The same with TLS on every connection; HTTP/2 or HTTP/1.1 is agreed on by ALPN, else by the first
 * bytes. tls is borrowed for the server's life. */
int http_server_listen_tls(struct http_server *server, int fd, struct tls_context *tls);
/* Also marks what comes in there for the handler: http_req_tag. tls NULL: plain. */
int http_server_listen_tagged(struct http_server *server, int fd, struct tls_context *tls,
                              unsigned int tag);
/* Adopts a connected stream socket as if accepted. Ownership as above. */
int http_server_adopt(struct http_server *server, int fd);
/* NULL: plain. */
int http_server_adopt_tls(struct http_server *server, int fd, struct tls_context *tls);

/*
 * Stops accepting (listening descriptors are closed here, not shut down: another process may hold
 * them), sends GOAWAY, answers what is open. done is called from the loop when the last connection
 * has ended, at the latest after deadline_ms, when the rest was cut off.
 */
void http_server_drain(struct http_server *server, uint64_t deadline_ms, void (*done)(void *user),
                       void *user);

const struct http_counters *http_server_counters(const struct http_server *server);
void http_server_set_limits(struct http_server *server,
                            const struct http_limits *limits); /* for new connections */

/* The request. Everything returned is borrowed until on_closed returns. */
void http_req_set_user(struct http_req *req, void *user); /* NULL at first */
void *http_req_user(const struct http_req *req);
enum http_version http_req_version(const struct http_req *req);
struct bytes http_req_method(const struct http_req *req);
struct bytes http_req_path(const struct http_req *req);      /* with query */
struct bytes http_req_authority(const struct http_req *req); /* :authority or Host; may be empty */
struct bytes http_req_scheme(const struct http_req *req);    /* "http" or "https" by transport */
/* First value of a header; data == NULL: absent. name in lower case. */
struct bytes http_req_header(const struct http_req *req, const char *name);
size_t http_req_header_count(const struct http_req *req);
struct http_header http_req_header_at(const struct http_req *req, size_t i);
struct bytes http_req_body(const struct http_req *req);
/* From on_headers: a password is in the body. No copy is left when the request is gone. */
void http_req_set_secret(struct http_req *req);
const char *http_req_peer(const struct http_req *req); /* "127.0.0.1:1234", "[::1]:1234", "unix" */
uint64_t http_req_conn_id(const struct http_req *req); /* unique in the process's life, from 1 */
/* Common name of the client's verified certificate; NULL: none, or no TLS. */
const char *http_req_peer_cn(const struct http_req *req);
struct http_server *http_req_server(const struct http_req *req);
unsigned int http_req_tag(const struct http_req *req); /* of its listener; 0: none */
bool http_req_answered(
    const struct http_req *req); /* http_respond or _begin was called, or reset */

/*
 * An answer in one piece. Header arrays, body pieces and trailers are copied before it returns.
 * HTTP/2: HEADERS, DATA, and HEADERS with the trailers, coalesced. No body and no trailers: HEADERS
 * end the stream, which for gRPC with grpc-status among the headers is the "Trailers-Only" form. To
 * HEAD, the body counts for content-length only.
 */
struct http_response {
    int status; /* 200..599 */
    const struct http_header *headers;
    size_t header_count;
    const struct bytes *body; /* the pieces follow each other */
    size_t body_count;
    const struct http_header *trailers;
    size_t trailer_count;
};
void http_respond(struct http_req *req, const struct http_response *response);

/* The same with a text body: for errors of HTTP/1.1 endpoints. content_type NULL: text/plain;
 * charset=utf-8. */
void http_respond_text(struct http_req *req, int status, const char *content_type,
                       struct bytes body);

/* An answer in pieces. HTTP/1.1: chunked. begin once, data any number of times, end once. */
void http_respond_begin(struct http_req *req, int status, const struct http_header *headers,
                        size_t header_count);
void http_respond_data(struct http_req *req, const struct bytes *pieces, size_t piece_count);
/* A part of shared bytes; kept by reference as long as they wait. */
void http_respond_shared(struct http_req *req, struct shared_bytes *shared, size_t off, size_t len);
void http_respond_end(struct http_req *req, const struct http_header *trailers,
                      size_t trailer_count);
/*
 * "101 Switching Protocols" to `protocol`, which the client asked for: HTTP/1.1 only, and only from
 * within on_headers, which then returns HTTP_BODY_STREAM. From here on bytes go as they are: what
 * comes to on_data, what is sent from http_respond_data. http_respond_end closes the connection;
 * when the client does, on_closed comes and no on_end.
 */
void http_respond_upgrade(struct http_req *req, struct bytes protocol,
                          const struct http_header *headers, size_t header_count);
/* Bytes given to http_respond_data that wait for the client's window or socket. */
size_t http_req_queued(const struct http_req *req);

/* Ends the exchange without (the rest of) an answer; on_closed follows. */
void http_req_reset(struct http_req *req, enum http_reset code);

#endif
