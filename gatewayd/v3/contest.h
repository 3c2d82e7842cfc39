/*
 * Who of several comes first: the common part of the Lock and Election services (etcd
 * client/v3/concurrency). Everyone who wants it puts a key of its own below a prefix, bound to a
 * lease; the key created first holds it. A contest is one gRPC call's part in that: its steps are
 * requests of an ordinary client of this member, made one after the other, and a watcher that
 * waits until those before it are gone.
 *
 * It ends with its call. If the own key was put and the call ends without the prize (the client
 * left, a step failed), the key is taken back in the background.
 *
 * Failures are told as etcd does: its services are clients themselves, so every error reaches the
 * caller as Unknown with the usual text.
 */
#ifndef CONCLAVE_GATEWAYD_V3_CONTEST_H
#define CONCLAVE_GATEWAYD_V3_CONTEST_H

#include <stdbool.h>
#include <stdint.h>
#include "gatewayd/grpc.h"
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

struct gatewayd;
struct watcher;
struct watches_stream;

struct contest {
    struct grpc_call *call;
    void *user; /* the service's; freed with the contest (free) */
    struct buf prefix, key, value;
    int64_t lease;
    int64_t rev;       /* create revision of the own key; 0: not put */
    struct buf header; /* ResponseHeader of the step that counts for the answer */
    /* own */
    struct buf body, answer;
    bool proposes;
    void (*next)(struct contest *c); /* the step's answer is complete: in `answer` */
    void (*then)(struct contest *c); /* what waits for contest_lease or contest_wait_turn */
    struct watches_stream *stream;
    struct watcher *watcher;
    void (*on_events)(struct contest *c, int64_t revision, struct bytes events);
    void (*on_watch_lost)(struct contest *c, int outcome);
};

/* call->state belongs to it from here on. name "x": the prefix is "x/". */
struct contest *contest_new(struct grpc_call *call, struct bytes name);
/* With c->lease 0: grants one of 60 seconds. Then the key is prefix and lease in hex. */
void contest_lease(struct contest *c, void (*then)(struct contest *c));
/* Waits until no key below the prefix is older than c->rev. */
void contest_wait_turn(struct contest *c, void (*then)(struct contest *c));
void contest_fail(struct contest *c, int outcome);
void contest_fail_text(struct contest *c, const char *text);

/* One step: c->body is the request; `next` when the answer is there. */
void contest_propose(struct contest *c, enum proto_kind kind, void (*next)(struct contest *c));
void contest_read(struct contest *c, void (*next)(struct contest *c));
/* Watches key (or, range_end not empty, all up to it) after a revision; one watcher at a time. */
void contest_watch(struct contest *c, struct bytes key, struct bytes range_end,
                   int64_t start_revision, uint8_t flags,
                   void (*on_events)(struct contest *c, int64_t revision, struct bytes events));
void contest_watch_end(struct contest *c);

/* ---- requests, appended to c->body; and what answers say ---- */
void contest_put_compare(struct buf *b, struct bytes key, int64_t create_revision);
struct contest_op {
    uint32_t field; /* TxnRequest: 2 success, 3 failure */
    uint32_t type;  /* RequestOp: 1 range, 2 put, 3 delete_range */
    struct bytes request;
};
void contest_put_op(struct buf *b, const struct contest_op *op);
void contest_put_put(struct buf *b, struct bytes key, struct bytes value, int64_t lease);
void contest_put_range(struct buf *b, struct bytes key);
/* The first or last created below the prefix; max_create_revision 0: of all. */
void contest_put_top(struct buf *b, struct bytes prefix, bool last, int64_t max_create_revision);

struct contest_txn_answer {
    struct bytes header;
    bool succeeded;
    struct bytes ranges[2]; /* RangeResponse of the first two responses that are one */
    size_t range_count;
};
int contest_decode_txn(struct bytes answer, struct contest_txn_answer *ret);
/* Of a RangeResponse: its header, and its first KeyValue (data NULL: none). */
int contest_decode_range(struct bytes answer, struct bytes *ret_header, struct bytes *ret_kv);
struct contest_kv {
    struct bytes key, value;
    int64_t create_revision, mod_revision;
};
int contest_decode_kv(struct bytes kv, struct contest_kv *ret);
int64_t contest_header_revision(struct bytes header);

/* At the daemon's end: keys that were to be taken back stay until their leases end. */
void contests_abandon(struct gatewayd *gw);

#endif
