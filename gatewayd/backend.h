/*
 * The daemons behind gatewayd: links to raftd and stored, and every request that is under way.
 *
 * A request is a backend_call embedded in its caller's object. It ends exactly once, by `done`
 * (with an outcome or the last bytes of the answer) or by backend_cancel. What happens when a
 * daemon dies (ARCHITECTURE.md "Failure"):
 * - a proposal that was sent has an unknown outcome: it ends with OUT_TIMEOUT_CONN_LOST;
 * - a proposal not sent yet, and any read of which no byte arrived, waits for the daemon to come
 *   back and is sent then: reads change nothing, so sending twice is safe;
 * - a read in the middle of its answer ends with OUT_TIMEOUT_CONN_LOST.
 * A call that is not over after the request timeout (etcd: 5 s + 2 x election timeout) or its own
 * shorter deadline ends with OUT_TIMEOUT.
 *
 * Loop thread only.
 */
#ifndef CONCLAVE_GATEWAYD_BACKEND_H
#define CONCLAVE_GATEWAYD_BACKEND_H

#include <stdbool.h>
#include <stdint.h>
#include "lib/proto/messages.h"
#include "lib/util/bytes.h"
#include "lib/util/list.h"

struct backend;
struct backend_call;
struct buf;
struct loop;

/*
 * Part of an answer, or its end. `outcome` 0: `part` is the next piece of a response message of
 * total_bytes; the call is over (and may be reused) when the pieces add up. Another outcome: over.
 * May start new calls; must not cancel others.
 */
typedef void (*backend_done)(struct backend_call *call, int outcome, struct bytes part,
                             uint64_t total_bytes);

enum backend_call_type { BACKEND_PROPOSE, BACKEND_READ, BACKEND_RAFT_STATUS, BACKEND_RAFT_METRICS, BACKEND_RAFT_CALL };

struct backend_call {
    /* the caller's, set before the call starts */
    backend_done done;
    struct bytes body;       /* borrowed until the call is over */
    struct bytes identity;   /* the caller's stamp (grpc_auth.h), borrowed likewise; empty: none */
    uint64_t deadline_ns;    /* loop clock; 0: the request timeout alone */
    bool patient;            /* no request timeout: the deadline alone, or none */
    /* the backend's */
    struct list node;        /* in backend.calls while under way */
    enum backend_call_type type;
    uint8_t kind;            /* proto_kind or proto_read_kind */
    bool linearizable;
    bool sent;
    uint64_t member;         /* of a raft call */
    uint64_t id;
    uint64_t expires_ns;
    uint64_t received_bytes; /* of the answer */
    uint64_t acked_bytes;
};

struct backend_watch_ops {
    void (*up)(void *user);   /* stored is there: whatever was told to another one is forgotten */
    void (*down)(void *user);
    void (*message)(void *user, uint16_t type, uint64_t id, struct bytes body);
};

struct backend_args {
    struct loop *loop;
    const char *run_dir;
    uint32_t gateway_index;
    uint64_t generation;
    uint64_t request_timeout_ms; /* until an answer begins; 0: etcd's, by raftd's election timeout */
    size_t inflight_bytes_max; /* bodies under way; beyond it OUT_TOO_MANY_REQUESTS */
    void (*on_change)(void *user); /* links or raft status changed; may be NULL */
    void (*on_auth_changed)(void *user); /* identities handed out are not good any more; may be NULL */
    /* The conversation with stored about watches (lib/proto/watch.h), which is no call; may be NULL */
    const struct backend_watch_ops *watch_ops;
    void *user;
};

/* 0 or negative errno. The links connect in the background. */
int backend_new(const struct backend_args *args, struct backend **ret);
void backend_free(struct backend *b); /* no call may be under way; NULL is fine */

/* All may call done before they return, never with OUT_OK. */
void backend_propose(struct backend *b, struct backend_call *call, enum proto_kind kind);
void backend_read(struct backend *b, struct backend_call *call, enum proto_read_kind kind,
                  bool linearizable);
void backend_raft_status(struct backend *b, struct backend_call *call);
void backend_raft_metrics(struct backend *b, struct backend_call *call);
/* Ends with done(call, OUT_OK, empty, 0) or an outcome. */
void backend_raft_call(struct backend *b, struct backend_call *call, enum proto_raft_op op,
                       uint64_t member);
/* The caller lost interest; done is not called any more. Harmless when the call is over. */
void backend_cancel(struct backend *b, struct backend_call *call);
/* The caller consumed the answer up to call->received_bytes: lets stored send more. */
void backend_consumed(struct backend *b, struct backend_call *call);

/* A message to stored: append the body to what begin returns, then end. NULL: the link is down. */
struct buf *backend_stored_begin(struct backend *b, uint16_t type, uint64_t id);
void backend_stored_end(struct backend *b);

bool backend_call_active(const struct backend_call *call);
bool backend_ready(const struct backend *b); /* both links are up and the member id is known */
size_t backend_call_count(const struct backend *b);

/* stored said so, over the link that is up. */
bool backend_auth_is_off(const struct backend *b);

/* The newest status raftd told; zeros before the first. */
const struct proto_raft_status *backend_status(const struct backend *b);
/* What stored said last of the room there is; no limit before that. */
const struct proto_space *backend_space(const struct backend *b);

#endif
