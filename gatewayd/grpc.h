/*
 * gRPC over HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md), server side: finds the method, takes messages out
 * of their frames, and turns what a handler says into headers, messages and trailers.
 *
 * A call belongs to its HTTP request and dies with it (grpc_on_closed): a handler that waits for a
 * backend_call keeps nothing else. A unary call ends with exactly one of grpc_reply, grpc_fail,
 * grpc_fail_outcome, or the client's leaving.
 *
 * A stream in both directions (GRPC_BIDI_STREAM): `handler` once at its start, without a message,
 * then `on_message` for each, and `on_half_closed` when the client has sent its last one; none of
 * them after the call has ended. It answers with grpc_stream_send or grpc_stream_write whenever it
 * likes and ends with grpc_stream_end, grpc_fail or grpc_fail_outcome. What ends every stream is
 * done here: the client's deadline, a lost leader when the client requires one ("hasleader"), and
 * the daemon's stop.
 *
 * A stream to the client (GRPC_SERVER_STREAM) begins like a unary call, with the message, and
 * answers like a stream in both directions.
 */
#ifndef CONCLAVE_GATEWAYD_GRPC_H
#define CONCLAVE_GATEWAYD_GRPC_H

#include <stdbool.h>
#include <stdint.h>
#include "gatewayd/auth_cache.h"
#include "gatewayd/backend.h"
#include "gatewayd/grpc_auth.h"
#include "gatewayd/grpc_status.h"
#include "lib/http/http_server.h"
#include "lib/metrics/metrics.h"
#include "lib/util/buf.h"
#include "lib/util/list.h"

struct gatewayd;
struct grpc_call;
struct grpc_service;
struct loop_timer;
struct shared_bytes;

enum grpc_type { GRPC_UNARY, GRPC_SERVER_STREAM, GRPC_BIDI_STREAM };

/* What one method has seen; names as grpc-prometheus has them. */
struct grpc_method_stats {
    uint64_t started;
    uint64_t handled[GRPC_CODE_COUNT];
    uint64_t messages_received, messages_sent;
    struct metrics_histogram handling;
};

struct grpc_method {
    const char *service; /* "etcdserverpb.KV" */
    const char *name;    /* "Range" */
    enum grpc_type type;
    bool secret;         /* its request has a password: see http_req_set_secret */
    bool learner;        /* a learner may answer it; else OUT_NOT_SUPPORTED_FOR_LEARNER.
                            Range decides by itself */
    void (*handler)(struct grpc_call *call); /* NULL: not offered, UNIMPLEMENTED */
    /* GRPC_BIDI_STREAM only; all but on_message may be NULL */
    void (*on_message)(struct grpc_call *call, struct bytes message); /* borrowed for the call */
    void (*on_half_closed)(struct grpc_call *call);
    void (*on_drained)(struct grpc_call *call); /* nothing of what was sent is waiting any more */
    /* What grpc_forward_read asked for was not answered in time; NULL: OUT_TIMEOUT is. */
    void (*on_late)(struct grpc_call *call);
    enum grpc_auth auth; /* from the table in grpc_auth.c */
    struct grpc_method_stats stats;
};

/*
 * How what a call answers reaches its client. gRPC over HTTP/2 is the built-in one; another protocol
 * in front of the same methods (json_gateway.c) brings its own. Messages come framed as gRPC frames
 * them, in pieces cut anywhere; the pieces are borrowed for the call.
 */
struct grpc_writer {
    void (*reply)(struct grpc_call *call, struct bytes message); /* the whole of a unary answer */
    void (*begin)(struct grpc_call *call);                       /* an answer in pieces follows */
    void (*data)(struct grpc_call *call, const struct bytes *pieces, size_t piece_count);
    /* The same of a part of shared bytes, without a copy; NULL: `data` does it. */
    void (*data_shared)(struct grpc_call *call, struct shared_bytes *shared, size_t off,
                        size_t len);
    /* The end, with or without a begin. After a message that was cut, code is not GRPC_OK. */
    void (*end)(struct grpc_call *call, enum grpc_code code, const char *text);
    void (*closed)(struct grpc_call *call); /* the call dies; may be NULL */
    /* The HTTP header a piece of metadata comes in, besides "authorization": this before its name.
     * NULL: the name is the header's. */
    const char *metadata_prefix;
};

struct grpc_call {
    struct backend_call backend; /* the one most handlers need */
    struct gatewayd *gw;
    struct grpc_method *method;
    struct http_req *req;
    const struct grpc_writer *writer;
    void *writer_state;       /* the writer's own */
    struct bytes message;     /* the request; valid as long as the call */
    uint64_t started_ns;
    uint64_t deadline_ns;     /* the client's grpc-timeout on the loop clock; 0: none */
    bool streaming;           /* the answer began, more parts come */
    bool ended;               /* status decided and counted */
    bool requires_leader;
    /* grpc_auth.c */
    bool auth_again;
    bool behind_gateway; /* begun by another protocol */
    const struct bytes *authorization; /* which says this instead of the header; NULL: the header */
    struct auth_stamp *stamp; /* what backend.identity points into */
    struct auth_waiter auth_waiter;
    void (*auth_resolved)(struct grpc_call *call, int outcome);
    int auth_outcome;          /* of a stream: of the message at hand */
    bool auth_waiting, auth_half_closed;
    struct buf auth_queue;     /* messages that came meanwhile */
    struct buf retired_stamps; /* that a backend call under way may point into */
    struct list stream_node;  /* of a stream, in grpc_service.streams */
    struct buf partial;       /* of a stream: the beginning of a message */
    struct loop_timer *deadline_timer; /* of a stream, and of what else waits */
    struct {
        enum proto_kind kind;
        uint8_t cost[8];
    } quota;                  /* quota.c's own */
    void *state;              /* a handler's own; freed by free_state when the call dies */
    void (*free_state)(struct grpc_call *call);
};

/* The method table: one array per service, terminated by an entry without name. */
extern struct grpc_method grpc_kv_methods[], grpc_watch_methods[], grpc_lease_methods[],
    grpc_cluster_methods[], grpc_maintenance_methods[], grpc_auth_methods[], grpc_lock_methods[],
    grpc_election_methods[], grpc_health_methods[];

struct grpc_service *grpc_service_new(struct gatewayd *gw);
void grpc_service_free(struct grpc_service *s);
/* All methods, for metrics: calls visit once per method. */
void grpc_each_method(const struct grpc_service *s,
                      void (*visit)(void *user, const struct grpc_method *m), void *user);
uint64_t grpc_bytes_received(const struct grpc_service *s);
uint64_t grpc_bytes_sent(const struct grpc_service *s);

/* Entry points from the HTTP handler. */
bool grpc_is_request(const struct http_req *req); /* content-type application/grpc... */
size_t grpc_body_limit(const struct gatewayd *gw);
/* Starts a stream (then the body is streamed) or leaves the request to be buffered. */
enum http_body_mode grpc_on_headers(struct grpc_service *s, struct http_req *req);
void grpc_on_data(struct grpc_service *s, struct http_req *req, struct bytes data);
void grpc_on_end(struct grpc_service *s, struct http_req *req);
void grpc_on_request(struct grpc_service *s, struct http_req *req);
void grpc_on_too_large(struct grpc_service *s, struct http_req *req);
void grpc_on_drained(struct grpc_service *s, struct http_req *req);
void grpc_on_closed(struct grpc_service *s, struct http_req *req);

/*
 * Entry points for another protocol: find the method by its path ("/service/method"; NULL: none),
 * begin the call, which makes it the request's user, and run it. Unary and server streams: message
 * is the request, valid as long as the call. Bidirectional: message is empty, requests follow one by
 * one, then the end. The call may have ended when these return (call->ended); grpc_on_drained
 * and grpc_on_closed are for it as for any other.
 */
struct grpc_method *grpc_find_method(struct grpc_service *s, struct bytes path);
struct grpc_call *grpc_call_begin(struct grpc_service *s, struct http_req *req,
                                  struct grpc_method *method, const struct grpc_writer *writer,
                                  void *writer_state);
void grpc_call_run(struct grpc_call *call, struct bytes message);
void grpc_call_message(struct grpc_call *call, struct bytes message);
void grpc_call_half_close(struct grpc_call *call);

/* From the daemon: a leader was found or lost; it is asked to stop. */
void grpc_on_leader_change(struct grpc_service *s);
void grpc_end_streams(struct grpc_service *s);

/* A message to the client of a stream, in pieces; or messages that have their prefixes already. */
enum { GRPC_PREFIX_BYTES = 5 };
void grpc_put_prefix(uint8_t prefix[GRPC_PREFIX_BYTES], size_t message_len);
void grpc_stream_send(struct grpc_call *call, struct bytes message);
void grpc_stream_write(struct grpc_call *call, struct bytes framed, size_t message_count);
/* Goes on with a message that grpc_stream_write has begun: a part of shared bytes. */
void grpc_stream_write_shared(struct grpc_call *call, struct shared_bytes *shared, size_t off,
                              size_t len);
/* What was sent and has not left yet. */
size_t grpc_stream_queued(const struct grpc_call *call);
void grpc_stream_end(struct grpc_call *call, enum grpc_code code, const char *text);

/*
 * For a handler that waits for more than an answer to a backend_call: the client's deadline ends the
 * call also then. A server stream that waits ends as those in both directions do.
 */
void grpc_call_waits(struct grpc_call *call);

/* A piece of the caller's metadata, name in lower case; data NULL: absent. */
struct bytes grpc_call_metadata(const struct grpc_call *call, const char *name);

/* How a call ends. */
void grpc_reply(struct grpc_call *call, struct bytes message);
void grpc_fail(struct grpc_call *call, enum grpc_code code, const char *text);
void grpc_fail_outcome(struct grpc_call *call, int outcome);

/* Ask raftd or stored and pass the answer on as the reply. */
void grpc_forward_proposal(struct grpc_call *call, enum proto_kind kind);
/* With a body of the handler's own; it lives as long as the call. */
void grpc_forward_proposal_of(struct grpc_call *call, enum proto_kind kind, struct bytes body);
void grpc_forward_read(struct grpc_call *call, enum proto_read_kind kind, bool linearizable);

#endif
