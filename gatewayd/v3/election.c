/*
 * Election service (etcd v3election.proto): the steps of etcd's concurrency.Election, on behalf of
 * the client. Whoever's key was created first leads; its value is what it proclaims.
 */
#include <errno.h>

#include "gatewayd/grpc.h"
#include "gatewayd/v3/contest.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/wire/pb.h"

enum { TXN_SUCCESS = 2, TXN_FAILURE = 3, OP_RANGE = 1, OP_PUT = 2, OP_DELETE = 3 };
enum { EVENT_TYPE = 1, EVENT_KV = 2, EVENT_DELETE = 1 };

static const char not_leader[] = "election: not leader";
static const char no_leader[] = "election: no leader";
static const char no_leader_key[] = "\"leader\" field must be provided";
static const char observe_ended[] = "election: observe closed early";

/* LeaderKey */
struct leader_key {
    bool is_set;
    struct bytes name, key;
    int64_t rev, lease;
};

/* Every request of the service: 1 is the name or the LeaderKey, then lease and value. */
struct request {
    struct bytes first, value;
    bool has_first;
    int64_t lease;
};

static int decode_request(struct bytes message, uint32_t value_field, struct request *ret)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;

    *ret = (struct request){.first = BYTES_EMPTY, .value = BYTES_EMPTY};
    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.type == PB_LENGTH) {
            ret->first = f.bytes;
            ret->has_first = true;
        } else if (f.number == value_field && f.type == PB_LENGTH) {
            ret->value = f.bytes;
        } else if (f.number == 2 && f.type == PB_VARINT) {
            ret->lease = (int64_t)f.value;
        }
    }
    return r.bad ? OUT_MALFORMED : OUT_OK;
}

static int decode_leader_key(const struct request *request, struct leader_key *ret)
{
    struct pb_reader r = pb_reader(request->first);
    struct pb_field f;

    *ret = (struct leader_key){.is_set = request->has_first, .name = BYTES_EMPTY, .key = BYTES_EMPTY};
    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.type == PB_LENGTH)
            ret->name = f.bytes;
        else if (f.number == 2 && f.type == PB_LENGTH)
            ret->key = f.bytes;
        else if (f.number == 3 && f.type == PB_VARINT)
            ret->rev = (int64_t)f.value;
        else if (f.number == 4 && f.type == PB_VARINT)
            ret->lease = (int64_t)f.value;
    }
    return r.bad ? OUT_MALFORMED : OUT_OK;
}

/* A txn that does one thing if the key is still the one of this revision. */
static void put_if_own(struct contest *c, struct bytes key, int64_t rev,
                       const struct contest_op *op)
{
    buf_clear(&c->body);
    contest_put_compare(&c->body, key, rev);
    contest_put_op(&c->body, op);
}

static void put_proclaim(struct contest *c, struct bytes key, int64_t rev)
{
    CLEANUP(buf_fini) struct buf put = BUF_INIT;

    contest_put_put(&put, key, buf_bytes(&c->value), c->lease);
    put_if_own(c, key, rev, &(struct contest_op){TXN_SUCCESS, OP_PUT, buf_bytes(&put)});
}

/* ---- Campaign ---- */

static void reply_leads(struct contest *c)
{
    CLEANUP(buf_fini) struct buf leader = BUF_INIT;
    CLEANUP(buf_fini) struct buf reply = BUF_INIT;

    pb_put_bytes(&leader, 1, bytes_of(c->prefix.data, c->prefix.len - 1));
    pb_put_bytes(&leader, 2, buf_bytes(&c->key));
    pb_put_i64(&leader, 3, c->rev);
    pb_put_i64(&leader, 4, c->lease);
    c->rev = 0; /* the client's to resign now */
    pb_put_message(&reply, 1, buf_bytes(&c->header));
    pb_put_message(&reply, 2, buf_bytes(&leader));
    grpc_reply(c->call, buf_bytes(&reply));
}

/* Who won with a lease that ended meanwhile leads nothing. */
static void on_own_key(struct contest *c)
{
    struct bytes header, kv;
    struct contest_kv own;

    if (contest_decode_range(buf_bytes(&c->answer), &header, &kv) != 0) {
        contest_fail(c, OUT_INTERNAL);
    } else if (kv.data == NULL || contest_decode_kv(kv, &own) != 0 ||
               own.create_revision != c->rev) {
        c->rev = 0;
        contest_fail_text(c, not_leader);
    } else {
        reply_leads(c);
    }
}

static void on_turn(struct contest *c)
{
    buf_clear(&c->body);
    contest_put_range(&c->body, buf_bytes(&c->key));
    contest_read(c, on_own_key);
}

static void on_value_changed(struct contest *c)
{
    struct contest_txn_answer txn;

    if (contest_decode_txn(buf_bytes(&c->answer), &txn) != 0)
        contest_fail(c, OUT_INTERNAL);
    else if (!txn.succeeded)
        contest_fail_text(c, not_leader);
    else
        contest_wait_turn(c, on_turn);
}

static void on_entered(struct contest *c)
{
    struct contest_txn_answer txn;
    struct contest_kv own = {0};
    struct bytes header, kv;
    int r = contest_decode_txn(buf_bytes(&c->answer), &txn);

    if (r == 0 && !txn.succeeded) {
        r = txn.range_count == 1 ? contest_decode_range(txn.ranges[0], &header, &kv) : -EBADMSG;
        if (r == 0)
            r = contest_decode_kv(kv, &own);
    }
    if (r != 0) {
        contest_fail(c, OUT_INTERNAL);
        return;
    }
    buf_append_bytes(&c->header, txn.header);
    c->rev = txn.succeeded ? contest_header_revision(txn.header) : own.create_revision;
    if (txn.succeeded || bytes_eq(own.value, buf_bytes(&c->value))) {
        contest_wait_turn(c, on_turn);
        return;
    }
    put_proclaim(c, buf_bytes(&c->key), c->rev);
    contest_propose(c, PROTO_KIND_TXN, on_value_changed);
}

static void enter(struct contest *c)
{
    CLEANUP(buf_fini) struct buf put = BUF_INIT;
    CLEANUP(buf_fini) struct buf get = BUF_INIT;

    contest_put_put(&put, buf_bytes(&c->key), buf_bytes(&c->value), c->lease);
    contest_put_range(&get, buf_bytes(&c->key));
    put_if_own(c, buf_bytes(&c->key), 0,
               &(struct contest_op){TXN_SUCCESS, OP_PUT, buf_bytes(&put)});
    contest_put_op(&c->body, &(struct contest_op){TXN_FAILURE, OP_RANGE, buf_bytes(&get)});
    contest_propose(c, PROTO_KIND_TXN, on_entered);
}

static void campaign(struct grpc_call *call)
{
    struct request request;
    struct contest *c;
    int outcome = decode_request(call->message, 3, &request);

    if (outcome != OUT_OK) {
        grpc_fail_outcome(call, outcome);
        return;
    }
    c = contest_new(call, request.first);
    c->lease = request.lease;
    buf_append_bytes(&c->value, request.value);
    contest_lease(c, enter);
}

/* ---- Proclaim, Resign ---- */

static void reply_header(struct contest *c, struct bytes header)
{
    CLEANUP(buf_fini) struct buf reply = BUF_INIT;

    pb_put_message(&reply, 1, header);
    grpc_reply(c->call, buf_bytes(&reply));
}

static void on_proclaimed(struct contest *c)
{
    struct contest_txn_answer txn;

    if (contest_decode_txn(buf_bytes(&c->answer), &txn) != 0)
        contest_fail(c, OUT_INTERNAL);
    else if (!txn.succeeded)
        contest_fail_text(c, not_leader);
    else
        reply_header(c, txn.header);
}

static void proclaim_with_lease(struct contest *c)
{
    struct request request;
    struct leader_key leader;

    if (decode_request(c->call->message, 2, &request) != OUT_OK ||
        decode_leader_key(&request, &leader) != OUT_OK) {
        contest_fail(c, OUT_INTERNAL);
        return;
    }
    put_proclaim(c, leader.key, leader.rev);
    contest_propose(c, PROTO_KIND_TXN, on_proclaimed);
}

/* Common to both: a contest without a key of its own. NULL: the call has been answered. */
static struct contest *resume(struct grpc_call *call, struct request *ret_request,
                              struct leader_key *ret_leader)
{
    int outcome = decode_request(call->message, 2, ret_request);

    if (outcome == OUT_OK)
        outcome = decode_leader_key(ret_request, ret_leader);
    if (outcome != OUT_OK) {
        grpc_fail_outcome(call, outcome);
        return NULL;
    }
    if (!ret_leader->is_set) {
        grpc_fail(call, GRPC_UNKNOWN, no_leader_key);
        return NULL;
    }
    return contest_new(call, ret_leader->name);
}

static void proclaim(struct grpc_call *call)
{
    struct request request;
    struct leader_key leader;
    struct contest *c = resume(call, &request, &leader);

    if (c == NULL)
        return;
    c->lease = leader.lease;
    buf_append_bytes(&c->value, request.value);
    contest_lease(c, proclaim_with_lease);
}

static void on_resigned(struct contest *c)
{
    struct contest_txn_answer txn;

    if (contest_decode_txn(buf_bytes(&c->answer), &txn) != 0)
        contest_fail(c, OUT_INTERNAL);
    else
        reply_header(c, txn.header); /* also when somebody else leads by now */
}

static void resign(struct grpc_call *call)
{
    CLEANUP(buf_fini) struct buf delete = BUF_INIT;
    struct request request;
    struct leader_key leader;
    struct contest *c = resume(call, &request, &leader);

    if (c == NULL)
        return;
    pb_put_bytes(&delete, 1, leader.key);
    put_if_own(c, leader.key, leader.rev,
               &(struct contest_op){TXN_SUCCESS, OP_DELETE, buf_bytes(&delete)});
    contest_propose(c, PROTO_KIND_TXN, on_resigned);
}

/* ---- Leader, Observe ---- */

static void put_leader_response(struct buf *b, struct bytes header, struct bytes kv)
{
    pb_put_message(b, 1, header);
    pb_put_message(b, 2, kv);
}

static void on_leader(struct contest *c)
{
    CLEANUP(buf_fini) struct buf reply = BUF_INIT;
    struct bytes header, kv;

    if (contest_decode_range(buf_bytes(&c->answer), &header, &kv) != 0) {
        contest_fail(c, OUT_INTERNAL);
    } else if (kv.data == NULL) {
        contest_fail_text(c, no_leader);
    } else {
        put_leader_response(&reply, header, kv);
        grpc_reply(c->call, buf_bytes(&reply));
    }
}

static struct contest *ask_leader(struct grpc_call *call, void (*next)(struct contest *c))
{
    struct request request;
    struct contest *c;
    int outcome = decode_request(call->message, 0, &request);

    if (outcome != OUT_OK) {
        grpc_fail_outcome(call, outcome);
        return NULL;
    }
    c = contest_new(call, request.first);
    contest_put_top(&c->body, buf_bytes(&c->prefix), false, 0);
    contest_read(c, next);
    return c;
}

static void leader(struct grpc_call *call)
{
    ask_leader(call, on_leader);
}

static void observe_again(struct contest *c);

static void observe_lost(struct contest *c, int outcome)
{
    contest_fail_text(c, observe_ended);
}

/* The revision of the own copy of the header, which came with the answer that began this round. */
static void send_leader(struct contest *c, int64_t revision, struct bytes kv)
{
    CLEANUP(buf_fini) struct buf header = BUF_INIT;
    CLEANUP(buf_fini) struct buf message = BUF_INIT;
    struct pb_reader r = pb_reader(buf_bytes(&c->header));
    struct pb_field f;

    while (pb_next(&r, &f))
        pb_put_u64(&header, f.number, f.number == 3 ? (uint64_t)revision : f.value);
    put_leader_response(&message, buf_bytes(&header), kv);
    grpc_stream_send(c->call, buf_bytes(&message));
}

static int decode_event(struct bytes event, bool *ret_is_delete, struct bytes *ret_kv)
{
    struct pb_reader r = pb_reader(event);
    struct pb_field f;

    *ret_is_delete = false;
    *ret_kv = BYTES_EMPTY;
    while (pb_next(&r, &f)) {
        if (f.number == EVENT_TYPE && f.type == PB_VARINT)
            *ret_is_delete = f.value == EVENT_DELETE;
        else if (f.number == EVENT_KV && f.type == PB_LENGTH)
            *ret_kv = f.bytes;
    }
    return r.bad ? -1 : 0;
}

static void on_leader_events(struct contest *c, int64_t revision, struct bytes events)
{
    struct pb_reader r = pb_reader(events);
    struct pb_field f;

    while (pb_next(&r, &f)) {
        struct bytes kv;
        bool is_delete;

        if (decode_event(f.bytes, &is_delete, &kv) != 0)
            continue;
        if (is_delete) {
            contest_watch_end(c);
            observe_again(c);
            return;
        }
        send_leader(c, revision, kv);
    }
}

static void follow(struct contest *c, struct bytes kv, int64_t revision)
{
    struct contest_kv leading;

    if (contest_decode_kv(kv, &leading) != 0) {
        contest_fail(c, OUT_INTERNAL);
        return;
    }
    send_leader(c, revision, kv);
    contest_watch(c, leading.key, BYTES_EMPTY, revision + 1, 0, on_leader_events);
}

static void on_first_events(struct contest *c, int64_t revision, struct bytes events)
{
    struct pb_reader r = pb_reader(events);
    struct contest_kv first;
    struct pb_field f;

    while (pb_next(&r, &f)) {
        struct bytes kv;
        bool is_delete;

        if (decode_event(f.bytes, &is_delete, &kv) != 0 || is_delete ||
            contest_decode_kv(kv, &first) != 0)
            continue;
        follow(c, kv, first.mod_revision);
        return;
    }
}

static void on_observed(struct contest *c)
{
    struct bytes header, kv;
    int64_t revision;

    if (contest_decode_range(buf_bytes(&c->answer), &header, &kv) != 0) {
        contest_fail(c, OUT_INTERNAL);
        return;
    }
    buf_clear(&c->header);
    buf_append_bytes(&c->header, header);
    revision = contest_header_revision(header);
    if (kv.data != NULL) {
        follow(c, kv, revision);
        return;
    }
    buf_clear(&c->key); /* the end of the prefix */
    buf_append_bytes(&c->key, buf_bytes(&c->prefix));
    c->key.data[c->key.len - 1]++;
    contest_watch(c, buf_bytes(&c->prefix), buf_bytes(&c->key), revision + 1, 0, on_first_events);
}

static void observe_again(struct contest *c)
{
    buf_clear(&c->body);
    contest_put_top(&c->body, buf_bytes(&c->prefix), false, 0);
    contest_read(c, on_observed);
}

static void observe(struct grpc_call *call)
{
    struct contest *c = ask_leader(call, on_observed);

    if (c != NULL && !call->ended)
        c->on_watch_lost = observe_lost;
}

struct grpc_method grpc_election_methods[] = {
    {.service = "v3electionpb.Election", .name = "Campaign", .type = GRPC_UNARY,
     .handler = campaign},
    {.service = "v3electionpb.Election", .name = "Proclaim", .type = GRPC_UNARY,
     .handler = proclaim},
    {.service = "v3electionpb.Election", .name = "Leader", .type = GRPC_UNARY, .handler = leader},
    {.service = "v3electionpb.Election", .name = "Observe", .type = GRPC_SERVER_STREAM,
     .handler = observe},
    {.service = "v3electionpb.Election", .name = "Resign", .type = GRPC_UNARY, .handler = resign},
    {.name = NULL},
};
