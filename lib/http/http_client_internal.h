/*
 * For the client's files: http_client.c (connection, calls, deadlines) and one file per protocol
 * behind struct http_client_proto. As on the server's side, a connection ends only at the top of
 * its own stack; before that it is marked.
 */
#ifndef CONCLAVE_HTTP_HTTP_CLIENT_INTERNAL_H
#define CONCLAVE_HTTP_HTTP_CLIENT_INTERNAL_H

#include "lib/http/http_client.h"
#include "lib/http/http_internal.h"

enum {
    HTTP_CALL_ARENA_BYTES = 1024,
    HTTP_CALL_FIELDS = 12,
    HTTP_CALL_POOL_MAX = 256,
};

struct http_call {
    struct list link; /* client->calls, client->over, or the pool */
    struct http_client *client;
    const struct http_call_handler *handler;
    void *user;
    uint64_t deadline_ms;
    int32_t stream_id;
    int status;
    int error; /* what on_closed will say; 0 until known */
    uint32_t reset_code;
    bool open; /* more body may follow */
    bool deferred;
    bool started;     /* HTTP/1.1: written */
    bool answer_over; /* the answer is complete */
    bool head;
    bool headers_told;
    bool headers_too_large;
    struct http_chunk_queue chunks;
    size_t queued;
    struct http_field *fields; /* headers, then trailers */
    size_t field_count;
    size_t field_cap;
    size_t trailer_start; /* index of the first trailer */
    size_t header_bytes;
    struct buf text; /* HTTP/1.1: the request's head, then where fields point */
    void *overflow;
    size_t arena_used;
    struct http_field inline_fields[HTTP_CALL_FIELDS];
    _Alignas(16) uint8_t arena[HTTP_CALL_ARENA_BYTES];
};

struct http_client_proto {
    void (*start)(struct http_client *client);
    void (*call)(struct http_call *call,
                 const struct http_call_args *args); /* call->error on failure */
    void (*data)(struct http_call *call);            /* pieces were queued, or !open now */
    void (*cancel)(struct http_call *call);
    int (*input)(struct http_client *client, const uint8_t *data, size_t len);
    void (*eof)(struct http_client *client);
    int (*produce)(struct http_client *client);
    void (*ping)(struct http_client *client); /* NULL: it cannot */
    uint32_t (*streams_max)(const struct http_client *client);
    void (*release)(struct http_call *call);
    void (*fini)(struct http_client *client);
};
extern const struct http_client_proto h1_client_proto;
extern const struct http_client_proto h2_client_proto;

struct http_client {
    struct loop *loop;
    const struct http_client_handler *handler;
    void *user;
    const struct http_client_proto *proto;
    void *proto_state;
    struct http_transport transport;
    struct loop_io *io;
    unsigned int io_events;
    struct loop_hook *flush;
    struct loop_timer *timer;
    uint64_t timer_ms; /* when it fires; 0: not armed */
    uint64_t connect_deadline_ms;
    uint64_t keepalive_ms, keepalive_timeout_ms; /* 0: no pings */
    uint64_t heard_ms, pinged_ms;                /* pinged_ms 0: not since it was heard */
    struct http_scratch scratch;
    struct http_out out;
    struct http_chunk_queue spent;
    struct list calls;
    size_t call_count;
    struct list over; /* calls whose on_closed is due from the flush hook */
    struct list pool;
    size_t pool_count;
    size_t header_bytes_max;
    uint32_t window_bytes;
    uint64_t bytes_out;
    char *authority;
    char *tls_error; /* NULL: none */
    int error;
    bool socket_up;
    bool connected;     /* and, with TLS, its handshake is over */
    bool ending;        /* takes no more calls */
    bool down;          /* to be ended at the next safe place */
    bool told;          /* on_disconnected was called */
    unsigned int depth; /* callbacks on the stack */
};

/* Marks the connection as over. */
void http_client_down(struct http_client *client, int error);
void http_client_dirty(struct http_client *client);
/* on_closed, and the call is gone. */
void http_call_over(struct http_call *call, int error);
/* The same, later, from the flush hook. */
void http_call_over_later(struct http_call *call, int error);
void *http_call_alloc(struct http_call *call, size_t len);
struct http_field *http_call_add_field(struct http_call *call);
void http_call_on_headers(struct http_call *call, int status);
void http_call_on_data(struct http_call *call, const uint8_t *data, size_t len);
void http_call_on_trailers(struct http_call *call);

#endif
