/*
 * KV.RangeStream (etcd 3.7): a range in chunks, so that neither side holds it whole. Each chunk is a
 * range of its own at the revision of the first; the next is asked for when the client has taken
 * the last. Header, more and count come with the last chunk.
 */
#include "gatewayd/v3/range_stream.h"

#include <stdlib.h>
#include "gatewayd/gatewayd.h"
#include "lib/proto/kv_check.h"
#include "lib/proto/outcome.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"

enum {
    FIRST_CHUNK_KEYS = 10,
    CHUNK_KEYS_MAX = 1 << 20,
    /* fields of RangeRequest, RangeResponse, ResponseHeader, KeyValue (etcd rpc.proto, kv.proto) */
    REQUEST_KEY = 1,
    REQUEST_RANGE_END = 2,
    REQUEST_LIMIT = 3,
    REQUEST_REVISION = 4,
    REQUEST_SORT_ORDER = 5,
    REQUEST_SERIALIZABLE = 7,
    REQUEST_KEYS_ONLY = 8,
    REQUEST_COUNT_ONLY = 9,
    RESPONSE_HEADER = 1,
    RESPONSE_KVS = 2,
    RESPONSE_MORE = 3,
    RESPONSE_COUNT = 4,
    HEADER_REVISION = 3,
    KV_KEY = 1,
    STREAM_RANGE_RESPONSE = 1,
};

struct range_stream {
    struct kv_range_request request; /* borrows from call->message */
    struct buf key;      /* where the next chunk begins */
    struct buf body;     /* of the request under way */
    struct buf response; /* its answer so far */
    int64_t revision;    /* 0: no chunk yet */
    int64_t count;       /* of the whole range */
    int64_t sent;        /* keys */
    int64_t chunk_keys;
    bool waiting;        /* for the client to take what was sent */
};

static void free_state(struct grpc_call *call)
{
    struct range_stream *s = call->state;

    buf_fini(&s->key);
    buf_fini(&s->body);
    buf_fini(&s->response);
    free(s);
}

static void on_part(struct backend_call *backend, int outcome, struct bytes part,
                    uint64_t total_bytes);

static void ask(struct grpc_call *call)
{
    struct range_stream *s = call->state;
    int64_t limit = s->chunk_keys;

    if (s->request.limit > 0)
        limit = MIN(limit, s->request.limit - s->sent);
    buf_clear(&s->body);
    pb_put_bytes(&s->body, REQUEST_KEY, buf_bytes(&s->key));
    pb_put_bytes(&s->body, REQUEST_RANGE_END, s->request.range_end);
    pb_put_i64(&s->body, REQUEST_LIMIT, limit);
    pb_put_i64(&s->body, REQUEST_REVISION, s->revision != 0 ? s->revision : s->request.revision);
    pb_put_i64(&s->body, REQUEST_SORT_ORDER, s->request.sort_order);
    pb_put_bool(&s->body, REQUEST_SERIALIZABLE, s->request.serializable);
    pb_put_bool(&s->body, REQUEST_KEYS_ONLY, s->request.keys_only);
    pb_put_bool(&s->body, REQUEST_COUNT_ONLY, s->request.count_only);
    buf_clear(&s->response);
    call->backend.done = on_part;
    call->backend.body = buf_bytes(&s->body);
    call->backend.deadline_ns = call->deadline_ns;
    backend_read(call->gw->backend, &call->backend, PROTO_READ_RANGE,
                 s->revision == 0 && !s->request.serializable);
}

struct chunk {
    struct bytes header, last_key;
    int64_t keys, revision, count;
    bool more;
};

/* Copies the keys of a response to `out`; tells about the rest. */
static void read_chunk(struct bytes response, struct chunk *c, struct buf *out)
{
    struct pb_reader r = pb_reader(response), inner;
    struct pb_field f, g;

    *c = (struct chunk){0};
    while (pb_next(&r, &f)) {
        switch (f.number) {
        case RESPONSE_HEADER:
            c->header = f.bytes;
            inner = pb_reader(f.bytes);
            while (pb_next(&inner, &g))
                c->revision = g.number == HEADER_REVISION ? (int64_t)g.value : c->revision;
            break;
        case RESPONSE_KVS:
            pb_put_message(out, RESPONSE_KVS, f.bytes);
            c->keys++;
            inner = pb_reader(f.bytes);
            while (pb_next(&inner, &g))
                c->last_key = g.number == KV_KEY ? g.bytes : c->last_key;
            break;
        case RESPONSE_MORE:
            c->more = f.value != 0;
            break;
        case RESPONSE_COUNT:
            c->count = (int64_t)f.value;
            break;
        }
    }
}

static void adapt(struct range_stream *s, size_t chunk_bytes, size_t bytes_max)
{
    if (chunk_bytes > bytes_max)
        s->chunk_keys = MAX(s->chunk_keys / 2, (int64_t)1);
    else if (chunk_bytes < bytes_max / 2)
        s->chunk_keys = MIN(s->chunk_keys * 2, (int64_t)CHUNK_KEYS_MAX);
}

static void send_chunk(struct grpc_call *call)
{
    struct range_stream *s = call->state;
    CLEANUP(buf_fini) struct buf inner = BUF_INIT, message = BUF_INIT;
    struct chunk c;
    bool last;

    read_chunk(buf_bytes(&s->response), &c, &inner);
    if (s->revision == 0) {
        s->count = c.count;
        s->revision = s->request.revision > 0 ? s->request.revision : c.revision;
    }
    s->sent += c.keys;
    last = !c.more || c.keys == 0 || (s->request.limit > 0 && s->sent >= s->request.limit);
    if (last) {
        pb_put_message(&inner, RESPONSE_HEADER, c.header);
        pb_put_bool(&inner, RESPONSE_MORE, c.more);
        pb_put_i64(&inner, RESPONSE_COUNT, s->count);
    } else {
        buf_clear(&s->key);
        buf_append_bytes(&s->key, c.last_key);
        buf_append_u8(&s->key, 0);
        adapt(s, inner.len, call->gw->conf->max_request_bytes);
    }
    pb_put_message(&message, STREAM_RANGE_RESPONSE, buf_bytes(&inner));
    grpc_stream_send(call, buf_bytes(&message));
    if (last)
        grpc_stream_end(call, GRPC_OK, "");
    else if (grpc_stream_queued(call) == 0)
        ask(call);
    else
        s->waiting = true;
}

static void on_part(struct backend_call *backend, int outcome, struct bytes part,
                    uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);
    struct range_stream *s = call->state;

    if (outcome != OUT_OK) {
        grpc_fail_outcome(call, outcome);
        return;
    }
    buf_append_bytes(&s->response, part);
    if (s->response.len == total_bytes)
        send_chunk(call);
    else
        backend_consumed(call->gw->backend, backend);
}

void range_stream_on_drained(struct grpc_call *call)
{
    struct range_stream *s = call->state;

    if (s == NULL || !s->waiting)
        return;
    s->waiting = false;
    ask(call);
}

void range_stream(struct grpc_call *call)
{
    struct kv_range_request request;
    struct range_stream *s;
    int outcome = kv_decode_range(call->message, &request);

    if (outcome == OUT_OK)
        outcome = kv_check_range(&request);
    if (outcome == OUT_OK && !request.serializable && backend_status(call->gw->backend)->is_learner)
        outcome = OUT_NOT_SUPPORTED_FOR_LEARNER;
    if (outcome != OUT_OK) {
        grpc_fail_outcome(call, outcome);
        return;
    }
    if (request.sort_order != KV_SORT_NONE &&
        !(request.sort_order == KV_SORT_ASCEND && request.sort_target == KV_BY_KEY)) {
        grpc_fail(call, GRPC_UNIMPLEMENTED, "RangeStream does not support custom sort orders");
        return;
    }
    if (request.min_mod_revision != 0 || request.max_mod_revision != 0 ||
        request.min_create_revision != 0 || request.max_create_revision != 0) {
        grpc_fail(call, GRPC_UNIMPLEMENTED, "RangeStream does not support revision filters");
        return;
    }
    s = xcalloc(1, sizeof(*s));
    s->request = request;
    s->chunk_keys = FIRST_CHUNK_KEYS;
    buf_append_bytes(&s->key, request.key);
    call->state = s;
    call->free_state = free_state;
    ask(call);
}
