/*
 * Maintenance.Snapshot (etcd rpc.proto): the database file of this member in messages of 32 KiB,
 * then one with its SHA-256. stored makes the file and the hash; here it is cut into messages. A
 * client that reads slowly holds one window of it here and one in stored.
 */
#include "gatewayd/v3/snapshot.h"

#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/wire/pb.h"

enum {
    CHUNK_BYTES = 32 << 10, /* etcd v3rpc/maintenance.go snapshotSendBufferSize */
    HASH_BYTES = 32,
    RESPONSE_REMAINING = 2,
    RESPONSE_BLOB = 3,
};

/* One message with its prefix. */
static void put_chunk(struct buf *b, struct bytes blob, uint64_t remaining_bytes)
{
    size_t len = pb_size_u64(RESPONSE_REMAINING, remaining_bytes) +
                 pb_size_bytes(RESPONSE_BLOB, blob.len);

    grpc_put_prefix(buf_reserve(b, GRPC_PREFIX_BYTES), len);
    b->len += GRPC_PREFIX_BYTES;
    pb_put_u64(b, RESPONSE_REMAINING, remaining_bytes);
    pb_put_bytes(b, RESPONSE_BLOB, blob);
}

/* What is left of the file after `at` bytes of file and hash. */
static uint64_t remaining(uint64_t total_bytes, uint64_t at)
{
    uint64_t file_bytes = total_bytes - HASH_BYTES;

    return file_bytes - MIN(at, file_bytes);
}

static void on_part(struct backend_call *backend, int outcome, struct bytes part,
                    uint64_t total_bytes)
{
    struct grpc_call *call = CONTAINER_OF(backend, struct grpc_call, backend);
    CLEANUP(buf_fini) struct buf messages = BUF_INIT;
    uint64_t at = backend->received_bytes - part.len;
    size_t count = 0;

    if (outcome == OUT_OK && total_bytes <= HASH_BYTES)
        outcome = OUT_INTERNAL;
    if (outcome != OUT_OK) {
        grpc_fail_outcome(call, outcome);
        return;
    }
    for (; part.len > 0; count++) {
        /* the hash is a message of its own, wherever stored ends its parts */
        uint64_t left = remaining(total_bytes, at);
        size_t len = (size_t)MIN(part.len, left > 0 ? MIN(left, CHUNK_BYTES) : HASH_BYTES);

        put_chunk(&messages, bytes_of(part.data, len), remaining(total_bytes, at + len));
        part = bytes_of(part.data + len, part.len - len);
        at += len;
    }
    if (count > 0)
        grpc_stream_write(call, buf_bytes(&messages), count);
    if (at == total_bytes)
        grpc_stream_end(call, GRPC_OK, "");
    else if (grpc_stream_queued(call) == 0)
        backend_consumed(call->gw->backend, &call->backend);
}

void grpc_snapshot(struct grpc_call *call)
{
    call->backend.done = on_part;
    call->backend.deadline_ns = call->deadline_ns;
    call->backend.patient = true; /* as long as the client waits, as etcd */
    backend_read(call->gw->backend, &call->backend, PROTO_READ_SNAPSHOT, false);
}
