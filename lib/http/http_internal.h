/*
 * For the files of this folder. Layers, from the socket up:
 *
 *   http_transport   bytes of one connected socket, plain or TLS
 *   http_conn        one connection of the server: input, detection, output, deadlines
 *   h1_conn, h2_conn one protocol each, behind struct http_proto
 *   http_req         the exchange, with what both protocols share
 *   http_server      listeners, the list of connections, the flush hook, drain
 *
 * A connection is destroyed only at the top of its own stack: at the end of its input callback, of
 * its turn in the flush hook, or of its check in the tick. Everything else marks it doomed. So a
 * handler that answers any request from anywhere never pulls the ground from under a parser.
 */
#ifndef CONCLAVE_HTTP_HTTP_INTERNAL_H
#define CONCLAVE_HTTP_HTTP_INTERNAL_H

#include <sys/socket.h>
#include <sys/uio.h>
#include "lib/http/http_server.h"
#include "lib/loop/loop.h"
#include "lib/util/buf.h"
#include "lib/util/list.h"

struct http_conn;
struct shared_bytes;

/* Frames and names */
#define HTTP_PREFACE     "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define HTTP_PREFACE_LEN (sizeof(HTTP_PREFACE) - 1)

enum {
    HTTP_READ_BYTES = 64 * 1024, /* one read(2) */
    HTTP_READS_PER_TURN = 4,     /* then others get their turn */
    HTTP_ACCEPTS_PER_TURN = 64,
    HTTP_HANDSHAKE_TURN_NS = 2000000, /* for TLS handshakes; one step takes up to 1 ms */
    HTTP_REST_MS = 1000, /* nothing came for so long: buffers are given back */
    HTTP_WRITE_ROUND_BYTES = 128 * 1024, /* made before a writev */
    HTTP_WRITE_TURN_BYTES = 512 * 1024,  /* per connection and turn */
    HTTP_COPY_BYTES_MAX = 4096, /* a smaller piece is copied rather than given its own iovec */
    HTTP_SEGMENTS_MAX = 64,
    HTTP_REQ_ARENA_BYTES = 1024,
    HTTP_REQ_FIELDS = 16,
    HTTP_REQ_POOL_MAX = 4096,
    HTTP_REQ_BODY_KEEP_BYTES = 4096,
    HTTP_HEADER_OVERHEAD = 32, /* RFC 9113 section 6.5.2, SETTINGS_MAX_HEADER_LIST_SIZE */
    HTTP_LINGER_MS = 2000,     /* a client may still be writing when we close */
    HTTP_LINGER_BYTES_MAX = 4 * 1024 * 1024,
};

/* http_transport.c: a connected socket. All return negative errno; -EAGAIN means later. */
struct http_transport {
    const struct http_transport_ops *ops;
    int fd;
    struct tls_stream *tls; /* of the TLS table */
};
struct http_transport_ops {
    /* What has to happen before anything else; 0: done. May leave pending bytes. NULL: nothing. */
    int (*handshake)(struct http_transport *t);
    ssize_t (*read)(struct http_transport *t, void *data, size_t len); /* 0: end of input */
    ssize_t (*writev)(struct http_transport *t, const struct iovec *iov, int count);
    /* Bytes that writev took and the kernel did not, and another try at them; NULL: never any. */
    size_t (*pending)(const struct http_transport *t);
    int (*flush)(struct http_transport *t);
    void (*rest)(struct http_transport *t); /* nothing to do for a while; NULL: no need to know */
    void (*shutdown)(struct http_transport *t); /* no more output */
    void (*close)(struct http_transport *t);    /* closes fd */
    /* What was negotiated, "h2" or "http/1.1"; NULL: look at the first bytes. */
    const char *(*alpn)(const struct http_transport *t);
    const char *(*peer_cn)(const struct http_transport *t); /* NULL: none */
    const char *(*error)(const struct http_transport *t);   /* why the handshake failed; "" */
    const char *scheme;
};
void http_transport_init_plain(struct http_transport *t, int fd);
/* http_transport_tls.c. Server: name and alpn NULL (lib/tls/tls.h). */
void http_transport_init_tls(struct http_transport *t, int fd, struct tls_context *tls,
                             const char *name, const char *alpn);
static inline size_t http_transport_pending(const struct http_transport *t)
{
    return t->ops->pending != NULL ? t->ops->pending(t) : 0;
}

/*
 * http_out.c: bytes on their way to one transport. During a round, segments point into `scratch`
 * (shared by all connections, offsets because it may move) or at memory that stays until the round
 * ends; what the kernel does not take is moved to the connection's own buffer.
 */
struct http_seg {
    const uint8_t *data; /* NULL: at `off` in scratch */
    size_t off;
    size_t len;
};
struct http_scratch {
    struct buf buf;
    struct http_seg segs[HTTP_SEGMENTS_MAX];
    size_t seg_count;
    size_t len; /* of all segments */
};
struct http_out {
    struct buf buf; /* not taken by the kernel yet, from off */
    size_t off;
};
void http_scratch_clear(struct http_scratch *s);
uint8_t *http_scratch_reserve(struct http_scratch *s, size_t len);
void http_scratch_commit(struct http_scratch *s, size_t len);
void http_scratch_copy(struct http_scratch *s, const void *data, size_t len);
/* Borrowed until http_out_write. */
void http_scratch_ref(struct http_scratch *s, const void *data, size_t len);
bool http_scratch_full(const struct http_scratch *s);
static inline size_t http_out_pending(const struct http_out *o)
{
    return o->buf.len - o->off;
}
void http_out_fini(struct http_out *o);
/* Writes the own buffer, then the scratch if not NULL; keeps what is left over. Adds to *written.
 * 0, or negative errno (never -EAGAIN: then http_out_pending is not 0). */
int http_out_write(struct http_out *o, struct http_transport *t, struct http_scratch *s,
                   uint64_t *written);

/* A piece of answer body. */
struct http_chunk {
    struct http_chunk *next;
    uint8_t *data;
    size_t len;
    size_t off;
    bool heap; /* freed on its own; else in a request's arena */
    struct shared_bytes *shared; /* where data is, when it is not behind this; one reference */
};

struct http_chunk_queue {
    struct http_chunk *head;
    struct http_chunk *tail;
};
void http_chunk_push(struct http_chunk_queue *q, struct http_chunk *c);
struct http_chunk *http_chunk_pop(struct http_chunk_queue *q);
void http_chunk_queue_free(struct http_chunk_queue *q);
struct http_chunk *http_chunk_new(const struct bytes *pieces, size_t count, size_t len);
/* Of a part of the shared bytes; takes a reference of its own. */
struct http_chunk *http_chunk_new_shared(struct shared_bytes *shared, size_t off, size_t len);
size_t http_pieces_len(const struct bytes *pieces, size_t count);
void http_pieces_copy(uint8_t *to, const struct bytes *pieces, size_t count);

/* One header field; refs belong to the protocol (nghttp2_rcbuf), NULL for HTTP/1.1. */
struct http_field {
    struct bytes name;
    struct bytes value;
    void *name_ref;
    void *value_ref;
};

struct http_req {
    struct list link;       /* in conn->reqs, or in the pool */
    struct list drain_link; /* HTTP/2: on_drained is due */
    struct http_conn *conn;
    void *user;
    struct bytes method;
    struct bytes path;
    struct bytes authority;
    struct http_field *fields; /* inline_fields until they do not fit */
    size_t field_count;
    size_t field_cap;
    size_t header_bytes;
    struct buf text; /* HTTP/1.1: where fields point */
    struct buf body;
    size_t body_bytes_max;
    void *pseudo_refs[3]; /* HTTP/2: of method, path, authority */
    uint64_t start_ms;
    uint64_t body_left; /* HTTP/2: what content-length still promises; UINT64_MAX: nothing */
    int32_t stream_id;
    enum http_body_mode mode : 8;
    enum http_version version : 8;
    bool seen : 1; /* on_headers was called: on_closed is owed */
    bool headers_too_large : 1;
    bool malformed : 1;   /* HTTP/2: not HTTP; its stream is reset */
    bool scheme_seen : 1; /* HTTP/2 */
    bool body_complete : 1;
    bool discard : 1; /* the rest of the body is of no interest */
    bool secret : 1;  /* http_req_set_secret */
    bool answered : 1;
    bool answered_here : 1; /* by this library: what the handler answers later is ignored */
    bool ended : 1;         /* the answer is complete as far as the handler is concerned */
    bool head : 1;
    bool drain_due : 1; /* data was queued since the last on_drained */
    bool deferred : 1;  /* HTTP/2: the stream waits for http_respond_data */
    bool chunked : 1;   /* HTTP/1.1 answer */
    bool rst_sent : 1;
    struct http_chunk_queue chunks;
    size_t queued;
    struct http_header *trailers; /* in the arena */
    size_t trailer_count;
    void *overflow; /* arena beyond the inline part: singly linked blocks */
    size_t arena_used;
    struct http_field inline_fields[HTTP_REQ_FIELDS];
    _Alignas(16) uint8_t arena[HTTP_REQ_ARENA_BYTES];
};

/* One protocol of a server connection. */
struct http_proto {
    int (*start)(struct http_conn *conn);
    /* All bytes are consumed. Negative: the connection cannot go on (what is queued for output is
     * still tried). */
    int (*input)(struct http_conn *conn, const uint8_t *data, size_t len);
    /* Makes output until the scratch is full or nothing is left. *more: there is still some. */
    int (*produce)(struct http_conn *conn, struct http_scratch *s, bool *more);
    /* After output was taken: on_drained, next pipelined request. Negative as for input. */
    int (*flushed)(struct http_conn *conn);
    void (*eof)(struct http_conn *conn); /* the peer ended its side */
    void (*tick)(struct http_conn *conn, uint64_t now_ms);
    void (*drain)(struct http_conn *conn);
    void (*fini)(struct http_conn *conn);
    void (*respond)(struct http_req *req, const struct http_response *response);
    void (*begin)(struct http_req *req, int status, const struct http_header *headers,
                  size_t header_count);
    void (*upgrade)(struct http_req *req, struct bytes protocol, const struct http_header *headers,
                    size_t header_count); /* NULL: not here */
    void (*data)(struct http_req *req, const struct bytes *pieces, size_t count, size_t len);
    /* The same without a copy; NULL: there is only the copy. */
    void (*data_shared)(struct http_req *req, struct shared_bytes *shared, size_t off, size_t len);
    void (*end)(struct http_req *req, const struct http_header *trailers, size_t count);
    void (*reset)(struct http_req *req, enum http_reset code);
    void (*proceed)(struct http_req *req); /* 100 Continue */
    void (*release)(struct http_req *req); /* drops field refs */
};
extern const struct http_proto h1_proto;
extern const struct http_proto h2_proto;

struct http_conn {
    struct list link;       /* server->conns */
    struct list dirty_link; /* server->dirty */
    struct http_server *server;
    uint64_t id;
    struct http_transport transport;
    struct loop_io *io;
    unsigned int io_events;
    unsigned int tag;
    bool established; /* the transport's handshake is over */
    const struct http_proto *proto; /* NULL until detected */
    void *proto_state;
    struct list reqs;
    size_t req_count;
    struct buf in; /* detection; HTTP/1.1: input that waits for the answer before it */
    struct http_out out;
    size_t queued;                 /* bytes in the chunk queues of all its requests */
    struct http_chunk_queue spent; /* chunks that segments of this round point at */
    uint64_t deadline_ms;          /* 0: none; what for depends on the state */
    uint64_t read_ms;              /* when input last came */
    uint64_t linger_bytes;
    bool doomed : 1;    /* to be destroyed at the next safe place */
    bool finish : 1;    /* close when the output has left */
    bool lingering : 1; /* output shut down; reading until the peer closes too */
    bool read_closed : 1;
    bool read_paused : 1; /* by the protocol */
    bool draining : 1;
    bool in_callback : 1;
    char peer[64];
};

struct http_listener {
    struct list link;
    struct http_server *server;
    struct loop_io *io;
    int fd;
    struct tls_context *tls; /* NULL: plain */
    unsigned int tag;
    bool paused; /* out of descriptors: until the next tick */
};

struct http_server {
    struct loop *loop;
    const struct http_handler *handler;
    void *user;
    struct http_limits limits;
    struct http_counters counters;
    struct list listeners;
    struct list conns;
    struct list dirty;
    struct loop_hook *flush;
    struct loop_timer *tick;
    struct http_scratch scratch;
    uint8_t *read_buf;
    struct list req_pool;
    size_t req_pool_count;
    char date[40]; /* HTTP/1.1 Date, of date_s */
    int64_t date_s;
    bool draining;
    uint64_t drain_deadline_ms;
    bool read_secret;               /* what was just read has some of a secret body */
    uint64_t handshake_turn;        /* loop turn that handshake_ns belongs to */
    uint64_t handshake_ns;          /* spent on handshakes in it */
    void (*drain_done)(void *user);
    void *drain_user;
};

/* http_server.c */
const char *http_server_date(struct http_server *server);
void http_server_conn_gone(struct http_server *server);
void http_server_tick_start(struct http_server *server);

/* http_conn.c */
int http_conn_new(struct http_server *server, int fd, const struct sockaddr *addr,
                  struct tls_context *tls, unsigned int tag);
void http_conn_dirty(struct http_conn *conn);
void http_conn_doom(struct http_conn *conn);
/* Close once the output has left. */
void http_conn_finish(struct http_conn *conn);
void http_conn_flush(struct http_conn *conn);                 /* from the flush hook; may destroy */
void http_conn_tick(struct http_conn *conn, uint64_t now_ms); /* may destroy */
void http_conn_drain(struct http_conn *conn);
void http_conn_destroy(struct http_conn *conn);
void http_conn_update_io(struct http_conn *conn);

/* http_req.c: what the protocols call */
struct http_req *http_req_new(struct http_conn *conn, enum http_version version);
void *http_req_alloc(struct http_req *req, size_t len);
struct http_field *http_req_add_field(struct http_req *req); /* zeroed */
/* Headers are complete. has_body: more may come. */
void http_req_on_headers(struct http_req *req, bool has_body, uint64_t content_length_or_max);
void http_req_on_data(struct http_req *req, const uint8_t *data, size_t len);
void http_req_on_end(struct http_req *req);
void http_req_on_drained(struct http_req *req);
/* on_closed if owed; then the request is gone. */
void http_req_close(struct http_req *req);
void http_req_pool_free(struct http_server *server);
/* An answer of this library's own, instead of the handler's. */
void http_req_refuse(struct http_req *req, int status);
/* "content-length" and the like: fields the library writes. */
bool http_header_is_ours(struct bytes name);
bool http_header_name_valid(struct bytes name);
struct http_header *http_req_copy_headers(struct http_req *req, const struct http_header *headers,
                                          size_t count);

#endif
