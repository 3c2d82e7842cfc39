/*
 * Between the files of lib/ipc: the batch codec (ipc_batch.c), the wall around nng (ipc_wall.c) and
 * the state of a link (ipc_link.c).
 */
#ifndef CONCLAVE_IPC_IPC_INTERNAL_H
#define CONCLAVE_IPC_IPC_INTERNAL_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

/* ---- batch ---- */

enum {
    IPC_BATCH_MAGIC = 0x42434c43, /* "CLCB" */
    IPC_BATCH_VERSION = 1,
    IPC_TYPE_HELLO = 1,
    /* A batch is closed when it is longer than this, so that a receiver starts before a sender is
     * done and no message can be longer than this and one more frame. */
    IPC_BATCH_SPLIT_BYTES = 1 << 20,
};

enum ipc_batch_flag {
    IPC_BATCH_REPORT = 1, /* tell at once what you have consumed: the sender is closing */
    IPC_BATCH_SECRET = 2, /* a password is in it: wipe it once it is delivered */
};

/* On the wire as it is, little-endian. Frames follow without padding. */
struct ipc_batch_header {
    uint32_t magic;
    uint16_t version;
    uint16_t flags;
    uint64_t epoch;    /* the sender's for this connection; never 0 */
    uint64_t echo;     /* the receiver's as the sender knows it; 0: not yet */
    uint64_t consumed; /* bytes of the receiver's frames, headers included, handled so far */
    uint32_t frame_count;
    uint32_t credit_bytes; /* what the sender may have unconsumed at the receiver */
};
static_assert(sizeof(struct ipc_batch_header) == 40, "wire layout");

struct ipc_frame_header {
    uint32_t body_len;
    uint16_t type;
    uint16_t reserved; /* 0 */
    uint64_t id;
};
static_assert(sizeof(struct ipc_frame_header) == 16, "wire layout");

/* Checks a whole batch: header, every frame's bounds, their number, types, no byte left over.
 * 0 or -EBADMSG. */
int ipc_batch_check(struct bytes batch, struct ipc_batch_header *ret);
bool ipc_batch_is_secret(struct bytes batch); /* unchecked */

/* Steps through the frames of a checked batch. */
struct ipc_batch_reader {
    const uint8_t *pos;
    uint32_t left;
};
struct ipc_frame;
struct ipc_batch_reader ipc_batch_reader(struct bytes batch);
bool ipc_batch_next(struct ipc_batch_reader *r, struct ipc_frame *ret);

/* ---- wall ---- */

struct ipc_wall;
struct nng_msg;

struct ipc_msg {
    struct nng_msg *msg;
    struct bytes data;
    uint32_t pipe; /* the connection it came over */
};
enum { IPC_WALL_QUEUE = 64 }; /* messages taken from nng and not from us; then nng waits */

/* `on_news` is called on an nng thread when messages arrived after there were none, and when a
 * connection came or went. 0 or negative errno. */
int ipc_wall_open(const char *url, bool listen, void (*on_news)(void *user), void *user,
                  struct ipc_wall **ret_wall);
void ipc_wall_close(struct ipc_wall *w); /* NULL is fine; on_news is not called any more. The
                                            lock of the wall is held in on_news: wake, no more */

/* Takes up to `max` messages. Below max, nothing was left; at max, come back: what stayed is no news. */
size_t ipc_wall_recv(struct ipc_wall *w, struct ipc_msg *ret, size_t max);
/* Blocks until there is a message, or a connection came or went, or for that long. */
void ipc_wall_wait(struct ipc_wall *w, uint64_t timeout_ms);
void ipc_wall_msg_free(struct nng_msg *msg);
/* A message of len bytes and where they go. */
struct nng_msg *ipc_wall_msg_new(size_t len, uint8_t **ret_data);
struct nng_msg *ipc_wall_secret_new(size_t len, uint8_t **ret_data);
int ipc_wall_send(struct ipc_wall *w, struct nng_msg *msg); /* 0: taken; -EAGAIN; other errors */
/* Messages made or received, and neither freed nor sent, in the whole process: for tests, as leaks
 * of what nng allocates are not looked for (tests/lsan.supp). Any thread. */
size_t ipc_wall_messages_held(void);
int ipc_wall_send_fd(const struct ipc_wall *w); /* readable while a message can be sent */

/* Connections, by id. pair0 has one at a time, but news of an end and of the next start may come in
 * either order. */
bool ipc_wall_take_pipe_news(struct ipc_wall *w);  /* did one come or go since the last call? */
uint32_t ipc_wall_newest_pipe(struct ipc_wall *w); /* 0: none */
bool ipc_wall_pipe_known(struct ipc_wall *w, uint32_t pipe);
void ipc_wall_forget_before(struct ipc_wall *w, uint32_t pipe); /* those are dead */
void ipc_wall_drop_pipe(struct ipc_wall *w, uint32_t pipe);
void ipc_wall_set_redial(struct ipc_wall *w, uint32_t after_ms); /* dialing side; else nothing */
/* A new dialer or listener in place of the old one, which is not trusted any more. Does not wait. */
void ipc_wall_renew(struct ipc_wall *w);

#endif
