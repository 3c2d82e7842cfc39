/*
 * A keyspace over the engine in memory, and short words for requests: what tests of the keyspace
 * share. Answers are read with protobuf-c, so our own encoder is checked by somebody else's code.
 */
#ifndef CONCLAVE_TESTS_KV_HARNESS_H
#define CONCLAVE_TESTS_KV_HARNESS_H

#include <stdbool.h>
#include <stdint.h>
#include "lib/proto/etcd/rpc.pb-c.h"
#include "lib/proto/kv_check.h"
#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/util/buf.h"
#include "stored/kv/kv.h"

struct engine_mem;

struct harness {
    struct engine_mem *engine;
    struct kv *kv;
    uint64_t index;
    uint64_t term;
    uint64_t cache_bytes;
    struct buf answer, checkpoint;
    bool in_turn; /* the test holds the turn open */
    /* of what is applied; zero: a daemon of the member itself asks, which may do anything */
    uint64_t origin_generation;
    struct bytes identity;
};

extern const struct kv_header harness_header;

void harness_init(struct harness *h, bool manual);
void harness_fini(struct harness *h);
/* Opens a keyspace on the engine as it is; the index goes on from what is applied. 0 or errno. */
int harness_open(struct harness *h);
void harness_close(struct harness *h);

/* One entry in its own turn (or in the open one). Outcome; the answer is in h->answer. */
int harness_apply(struct harness *h, enum proto_kind kind, struct bytes body);
int harness_apply_at(struct harness *h, uint64_t index, enum proto_kind kind, struct bytes body);

/* Request bodies. */
struct buf put_body(const struct kv_put_request *m);
struct buf range_body(const struct kv_range_request *m);
struct buf delete_body(const struct kv_delete_request *m);
struct buf compact_body(int64_t revision, bool physical);
struct buf txn_body(const struct kv_txn_request *m);

int harness_put(struct harness *h, const char *key, const char *value);
int harness_delete(struct harness *h, const char *key, const char *end);
int harness_compact(struct harness *h, int64_t revision);
int harness_txn(struct harness *h, const struct kv_txn_request *m);
/* Answered at once or in slices of `slice` bytes; both forms must agree when slice is 0. */
int harness_range(struct harness *h, const struct kv_range_request *m, size_t slice);

Etcdserverpb__RangeResponse *harness_range_answer(struct harness *h);
Etcdserverpb__PutResponse *harness_put_answer(struct harness *h);
Etcdserverpb__DeleteRangeResponse *harness_delete_answer(struct harness *h);
Etcdserverpb__TxnResponse *harness_txn_answer(struct harness *h);

/* Runs compaction to its end (manual engines: writes and syncs on the way). */
void harness_finish_compaction(struct harness *h);
uint32_t harness_hash(struct harness *h, int64_t revision);
/* Checkpoint of now, into h->checkpoint. */
void harness_checkpoint(struct harness *h);

#define KEY(s) bytes_str(s)

#endif
