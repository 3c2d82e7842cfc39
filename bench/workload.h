/*
 * What the load consists of: etcd v3 requests as finished gRPC messages. A message is made once as
 * a template; per request only the digits of the key change, in place.
 */
#ifndef CONCLAVE_BENCH_WORKLOAD_H
#define CONCLAVE_BENCH_WORKLOAD_H

#include <stdbool.h>
#include "lib/util/buf.h"
#include "lib/util/prng.h"

enum workload_kind {
    WORKLOAD_PUT,     /* to a random key of the key space */
    WORKLOAD_PUT_ONE, /* always to one key */
    WORKLOAD_GET,     /* linearizable, a random key */
    WORKLOAD_GET_SERIALIZABLE,
    WORKLOAD_RANGE,           /* range_limit keys from a random one */
    WORKLOAD_COUNT,           /* count of the whole prefix */
    WORKLOAD_TXN,             /* if the key exists then put it, else put it too */
    WORKLOAD_MIXED,           /* gets and puts by read_percent */
    WORKLOAD_LEASE_GRANT,     /* the server chooses the id */
    WORKLOAD_LEASE_KEEPALIVE, /* on streams: keepalive.h; no message here */
    WORKLOAD_WATCH_FANOUT,    /* puts of a watched key: watch_fanout.h */
    WORKLOAD_WATCH_IDLE,      /* only the watchers */
    WORKLOAD_FILL,            /* all keys once, in order, 100 puts per transaction */
    WORKLOAD_KINDS,
};

struct workload_options {
    enum workload_kind kind;
    uint64_t key_space;
    uint64_t key_offset; /* of sequential numbering, for several processes */
    uint64_t range_limit;
    size_t value_bytes;
    unsigned int read_percent;
    uint64_t lease_ttl_s;
    uint64_t seed;
};

enum { WORKLOAD_KEY_OFFSETS_MAX = 100 };

/* One message and where its key digits are. */
struct workload_message {
    struct buf bytes; /* with gRPC's five byte prefix */
    size_t key_at[WORKLOAD_KEY_OFFSETS_MAX];
    size_t key_count;
    const char *path;
};

struct workload {
    struct workload_options options;
    struct workload_message messages[2]; /* the second for WORKLOAD_MIXED's puts */
    struct prng prng;
    uint64_t next; /* WORKLOAD_FILL */
};

void workload_init(struct workload *w, const struct workload_options *options);
void workload_fini(struct workload *w);
/* The next request: valid until the next call. *ret_path is a literal. */
struct bytes workload_next(struct workload *w, const char **ret_path);
/* Requests that WORKLOAD_FILL takes. */
uint64_t workload_fill_requests(const struct workload_options *options);
const char *workload_name(enum workload_kind kind);
bool workload_parse(const char *name, enum workload_kind *ret);

#endif
