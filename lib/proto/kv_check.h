/*
 * The KV requests of etcd's rpc.proto as plain structs, their decoders, and the checks that need
 * no state. gatewayd refuses with them before it proposes; stored runs them again, because what is
 * executed must not depend on who sent it.
 *
 * The decoders allocate nothing (txn: from an arena) and borrow every `bytes` from the input.
 * Unknown fields are skipped, the last of a repeated scalar wins, as protobuf says.
 * Results: OUT_OK, OUT_MALFORMED or, from the checks, etcd's refusal in etcd's order
 * (api/v3rpc key.go).
 */
#ifndef CONCLAVE_PROTO_KV_CHECK_H
#define CONCLAVE_PROTO_KV_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/bytes.h"

struct arena;

enum {
    KV_TXN_OPS_MAX = 128,   /* etcd's default of max-txn-ops */
    KV_TXN_DEPTH_MAX = 512, /* nesting the decoder follows; deeper is OUT_TOO_MANY_OPS */
};

enum kv_sort_order { KV_SORT_NONE, KV_SORT_ASCEND, KV_SORT_DESCEND };
enum kv_sort_target { KV_BY_KEY, KV_BY_VERSION, KV_BY_CREATE, KV_BY_MOD, KV_BY_VALUE };

struct kv_range_request {
    struct bytes key, range_end;
    int64_t limit, revision;
    int32_t sort_order, sort_target; /* enum kv_sort_*; unchecked until kv_check_range */
    bool serializable, keys_only, count_only;
    int64_t min_mod_revision, max_mod_revision, min_create_revision, max_create_revision;
};

struct kv_put_request {
    struct bytes key, value;
    int64_t lease;
    bool prev_kv, ignore_value, ignore_lease;
};

struct kv_delete_request {
    struct bytes key, range_end;
    bool prev_kv;
};

struct kv_compact_request {
    int64_t revision;
    bool physical;
};

enum kv_compare_result { KV_EQUAL, KV_GREATER, KV_LESS, KV_NOT_EQUAL };
enum kv_compare_target {
    KV_TARGET_VERSION,
    KV_TARGET_CREATE,
    KV_TARGET_MOD,
    KV_TARGET_VALUE,
    KV_TARGET_LEASE,
};

struct kv_compare {
    int32_t result, target; /* enum kv_compare_*, or what the client made up */
    struct bytes key, range_end;
    int32_t union_target;   /* which member of the oneof is set; -1: none */
    int64_t number;
    struct bytes value;
};

enum kv_op_type { KV_OP_NONE, KV_OP_RANGE, KV_OP_PUT, KV_OP_DELETE, KV_OP_TXN };

struct kv_txn_request;
struct kv_op {
    enum kv_op_type type;
    union {
        struct kv_range_request range;
        struct kv_put_request put;
        struct kv_delete_request delete_range;
        struct kv_txn_request *txn;
    };
};

struct kv_txn_request {
    struct kv_compare *compares;
    struct kv_op *success, *failure;
    size_t compare_count, success_count, failure_count;
    bool succeeded; /* for the executor: the branch it takes */
};

int kv_decode_range(struct bytes message, struct kv_range_request *ret);
int kv_decode_put(struct bytes message, struct kv_put_request *ret);
int kv_decode_delete(struct bytes message, struct kv_delete_request *ret);
int kv_decode_compact(struct bytes message, struct kv_compact_request *ret);
/* The arena owns the lists of *ret. */
int kv_decode_txn(struct bytes message, struct arena *arena, struct kv_txn_request *ret);

int kv_check_range(const struct kv_range_request *m);
int kv_check_put(const struct kv_put_request *m);
int kv_check_delete(const struct kv_delete_request *m);
/* ops_max: max-txn-ops; SIZE_MAX for no limit (stored: the limit is gatewayd's setting). */
int kv_check_txn(const struct kv_txn_request *m, size_t ops_max);

/* Only ranges in both branches of the top level; an empty one too. Such a txn is a read. */
bool kv_txn_is_read_only(const struct kv_txn_request *m);
/* Read-only, and every range is serializable: no barrier is needed. */
bool kv_txn_is_serializable(const struct kv_txn_request *m);

/* Bytes the quota check counts for it (etcd server/storage/quota.go): 0 when it stores nothing. */
uint64_t kv_put_cost(const struct kv_put_request *m);
uint64_t kv_txn_cost(const struct kv_txn_request *m); /* the larger of the two branches */

#endif
