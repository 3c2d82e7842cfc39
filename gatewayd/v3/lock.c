/*
 * Lock service (etcd v3lock.proto): the steps of etcd's concurrency.Mutex, on behalf of the client.
 * The same lease locking twice holds it at once, and is told the same key.
 */
#include <errno.h>

#include "gatewayd/grpc.h"
#include "gatewayd/v3/contest.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/wire/pb.h"

enum { TXN_SUCCESS = 2, TXN_FAILURE = 3, OP_RANGE = 1, OP_PUT = 2 };

static void reply_locked(struct contest *c)
{
    CLEANUP(buf_fini) struct buf reply = BUF_INIT;

    c->rev = 0; /* it is the client's now */
    pb_put_message(&reply, 1, buf_bytes(&c->header));
    pb_put_bytes(&reply, 2, buf_bytes(&c->key));
    grpc_reply(c->call, buf_bytes(&reply));
}

/* The lease may have ended while it waited, and the key with it. */
static void on_own_key(struct contest *c)
{
    struct bytes header, kv;
    struct contest_kv own;

    if (contest_decode_range(buf_bytes(&c->answer), &header, &kv) != 0) {
        contest_fail(c, OUT_INTERNAL);
        return;
    }
    if (kv.data == NULL || contest_decode_kv(kv, &own) != 0 || own.create_revision != c->rev) {
        c->rev = 0;
        contest_fail_text(c, "mutex: session is expired");
        return;
    }
    buf_clear(&c->header);
    buf_append_bytes(&c->header, header);
    reply_locked(c);
}

static void on_turn(struct contest *c)
{
    buf_clear(&c->body);
    contest_put_range(&c->body, buf_bytes(&c->key));
    contest_read(c, on_own_key);
}

static void on_entered(struct contest *c)
{
    struct contest_txn_answer txn;
    struct contest_kv owner, own;
    struct bytes header, kv = {0};
    int r = contest_decode_txn(buf_bytes(&c->answer), &txn);

    if (r == 0 && txn.range_count != (txn.succeeded ? 1 : 2))
        r = -EBADMSG;
    if (r == 0 && !txn.succeeded) {
        r = contest_decode_range(txn.ranges[0], &header, &kv);
        if (r == 0)
            r = contest_decode_kv(kv, &own);
    }
    if (r == 0)
        r = contest_decode_range(txn.ranges[txn.range_count - 1], &header, &kv);
    if (r == 0)
        r = contest_decode_kv(kv, &owner); /* the own key is there, so there is one */
    if (r != 0) {
        contest_fail(c, OUT_INTERNAL);
        return;
    }
    c->rev = txn.succeeded ? contest_header_revision(txn.header) : own.create_revision;
    buf_append_bytes(&c->header, txn.header);
    if (owner.create_revision == c->rev)
        reply_locked(c);
    else
        contest_wait_turn(c, on_turn);
}

static void enter(struct contest *c)
{
    CLEANUP(buf_fini) struct buf put = BUF_INIT;
    CLEANUP(buf_fini) struct buf get = BUF_INIT;
    CLEANUP(buf_fini) struct buf owner = BUF_INIT;

    contest_put_put(&put, buf_bytes(&c->key), BYTES_EMPTY, c->lease);
    contest_put_range(&get, buf_bytes(&c->key));
    contest_put_top(&owner, buf_bytes(&c->prefix), false, 0);
    buf_clear(&c->body);
    contest_put_compare(&c->body, buf_bytes(&c->key), 0);
    contest_put_op(&c->body, &(struct contest_op){TXN_SUCCESS, OP_PUT, buf_bytes(&put)});
    contest_put_op(&c->body, &(struct contest_op){TXN_SUCCESS, OP_RANGE, buf_bytes(&owner)});
    contest_put_op(&c->body, &(struct contest_op){TXN_FAILURE, OP_RANGE, buf_bytes(&get)});
    contest_put_op(&c->body, &(struct contest_op){TXN_FAILURE, OP_RANGE, buf_bytes(&owner)});
    contest_propose(c, PROTO_KIND_TXN, on_entered);
}

static void lock(struct grpc_call *call)
{
    struct pb_reader r = pb_reader(call->message);
    struct bytes name = BYTES_EMPTY;
    struct contest *c;
    int64_t lease = 0;
    struct pb_field f;

    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.type == PB_LENGTH)
            name = f.bytes;
        else if (f.number == 2 && f.type == PB_VARINT)
            lease = (int64_t)f.value;
    }
    if (r.bad) {
        grpc_fail_outcome(call, OUT_MALFORMED);
        return;
    }
    c = contest_new(call, name);
    c->lease = lease;
    contest_lease(c, enter);
}

static void on_unlocked(struct contest *c)
{
    CLEANUP(buf_fini) struct buf reply = BUF_INIT;
    struct bytes header, none;

    if (contest_decode_range(buf_bytes(&c->answer), &header, &none) != 0) {
        contest_fail(c, OUT_INTERNAL);
        return;
    }
    pb_put_message(&reply, 1, header);
    grpc_reply(c->call, buf_bytes(&reply));
}

/* UnlockRequest and DeleteRangeRequest both have the key as field 1; nothing else may come along. */
static void unlock(struct grpc_call *call)
{
    struct pb_reader r = pb_reader(call->message);
    struct bytes key = BYTES_EMPTY;
    struct contest *c;
    struct pb_field f;

    while (pb_next(&r, &f))
        if (f.number == 1 && f.type == PB_LENGTH)
            key = f.bytes;
    if (r.bad) {
        grpc_fail_outcome(call, OUT_MALFORMED);
        return;
    }
    c = contest_new(call, BYTES_EMPTY);
    pb_put_bytes(&c->body, 1, key);
    contest_propose(c, PROTO_KIND_DELETE_RANGE, on_unlocked);
}

struct grpc_method grpc_lock_methods[] = {
    {.service = "v3lockpb.Lock", .name = "Lock", .type = GRPC_UNARY, .handler = lock},
    {.service = "v3lockpb.Lock", .name = "Unlock", .type = GRPC_UNARY, .handler = unlock},
    {.name = NULL},
};
