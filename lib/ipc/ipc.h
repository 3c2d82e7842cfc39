/*
 * A link between two daemons of one member: one nng pair socket over ipc://, carrying batches of
 * frames (ARCHITECTURE.md "Links"). nng_* types stay in this folder.
 *
 * - Frames queued during a loop turn leave as one nng message in LOOP_PHASE_FLUSH, as soon as the
 *   previous send has completed; while one is in flight, frames gather for the next.
 * - On every (re)connection both sides first send HELLO. A batch carries the epoch of the
 *   connection it was queued for and is dropped by a receiver that has not seen that epoch's
 *   HELLO: nothing queued for a dead peer reaches its successor.
 * - on_down tells that everything in flight has an unknown outcome; frames queued while down are
 *   discarded (ipc_link_send says so). After on_down comes on_up with the peer's new HELLO.
 * - Credits: a sender may have at most `credit_bytes` unconsumed at the receiver. The link still
 *   accepts frames past that (an answer must always be sendable) but ipc_link_writable turns false:
 *   whoever takes in new work asks it first, and on_writable tells when to go on.
 * - A malformed batch or frame is counted and dropped together with the connection; never fatal.
 *
 * Threads: loop thread only; nng's threads stay inside.
 */
#ifndef CONCLAVE_IPC_IPC_H
#define CONCLAVE_IPC_IPC_H

#include <stdbool.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

struct ipc_link;
struct loop;

enum {
    IPC_FRAME_BYTES_MAX = 64 << 20,   /* one frame's body */
    IPC_CREDIT_BYTES_DEFAULT = 8 << 20,
    IPC_TYPE_RESERVED = 16,           /* frame types below are the link's own (HELLO, CREDIT) */
};

struct ipc_frame {
    uint16_t type;      /* enum proto_type, >= IPC_TYPE_RESERVED */
    uint64_t id;        /* correlation id, meaning by type */
    struct bytes body;  /* borrowed until the callback returns */
};

struct ipc_link_ops {
    /* Append this side's HELLO body (lib/proto proto_hello); called at each connection. */
    void (*fill_hello)(void *user, struct buf *body);
    /* Check the peer's HELLO. 0 accepts; else the connection is refused and retried later. */
    int (*on_hello)(void *user, struct bytes body);
    void (*on_up)(void *user);   /* both HELLOs done: frames may be sent */
    void (*on_down)(void *user);
    void (*on_frame)(void *user, const struct ipc_frame *frame);
    void (*on_writable)(void *user); /* may be NULL */
};

struct ipc_link_args {
    struct loop *loop;
    const char *name; /* for logs and metrics; copied */
    const char *url;  /* "ipc:///run/conclave/x/raftd.stored"; copied; path at most 107 bytes */
    bool listen;      /* one side listens, the other dials and redials with back-off 5..100 ms */
    size_t credit_bytes; /* 0: IPC_CREDIT_BYTES_DEFAULT */
    const struct ipc_link_ops *ops; /* borrowed for the link's life */
    void *user;
};

struct ipc_link_stats {
    uint64_t frames_sent, frames_received;
    uint64_t batches_sent, batches_received;
    uint64_t bytes_sent, bytes_received;
    uint64_t connects, malformed, stale_batches;
};

/* 0, or negative errno: -EADDRINUSE, -ENAMETOOLONG, -EACCES... */
int ipc_link_start(const struct ipc_link_args *args, struct ipc_link **ret_link);
/* Flushes what is queued if the peer takes it within drain_ms, closes, frees. NULL is fine.
 * No callback runs after it returns. Not to be called from a callback of this link. */
void ipc_link_stop(struct ipc_link *link, uint64_t drain_ms);

bool ipc_link_is_up(const struct ipc_link *link);
bool ipc_link_writable(const struct ipc_link *link); /* up, and credit left */

/* Frames whose bodies (`bytes` of them) this side took but has not worked off count as unconsumed:
 * the sender's credit stays used until a later call says less. */
void ipc_link_set_held(struct ipc_link *link, uint64_t bytes);

/*
 * Queue a frame. With begin/end the body is written straight into the batch: append to the
 * returned buf only, queue nothing else on the link in between. Returns NULL / false when down.
 */
struct buf *ipc_link_begin(struct ipc_link *link, uint16_t type, uint64_t id);
void ipc_link_end(struct ipc_link *link);
/* Between begin and end, before the secret is appended, which is the last thing to be. The batch
 * leaves with the frame's end, and nothing of it stays in memory of either side. */
void ipc_link_set_secret(struct ipc_link *link);
bool ipc_link_send(struct ipc_link *link, uint16_t type, uint64_t id, struct bytes body);

/* Sends now what is queued instead of at the end of the turn. */
void ipc_link_flush(struct ipc_link *link);
void ipc_link_get_stats(const struct ipc_link *link, struct ipc_link_stats *ret);

#endif
