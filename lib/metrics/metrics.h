/*
 * Prometheus text exposition (version 0.0.4): what a daemon says about itself. Each daemon writes its own families; gatewayd puts the texts one after the
 * other, so a family belongs to one daemon alone.
 */
#ifndef CONCLAVE_METRICS_METRICS_H
#define CONCLAVE_METRICS_METRICS_H

#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"

/* HELP and TYPE; samples follow. type: "counter", "gauge", "histogram", "summary". */
void metrics_family(struct buf *b, const char *name, const char *type, const char *help);
/* A family of one sample without labels. */
void metrics_u64(struct buf *b, const char *name, const char *type, const char *help, uint64_t v);
void metrics_seconds(struct buf *b, const char *name, const char *type, const char *help,
                     double seconds);
/* One sample. labels: `a="x",b="y"`, or "" for none. */
void metrics_sample(struct buf *b, const char *name, const char *labels, uint64_t v);

/* The caller sets the upper bounds: bounds_ns (ascending, borrowed), or without it first_ns * 2^i,
 * as prometheus.ExponentialBuckets(first, 2, n) has them. The rest begins as 0. */
enum { METRICS_BUCKETS_MAX = 20 };
struct metrics_histogram {
    const uint64_t *bounds_ns; /* or NULL */
    uint64_t first_ns;
    size_t buckets;
    uint64_t count, sum_ns;
    uint64_t bucket[METRICS_BUCKETS_MAX + 1]; /* not cumulative; the last one is +Inf */
};
void metrics_histogram_add(struct metrics_histogram *h, uint64_t ns);
/* The samples of one histogram, bounds and sum in seconds; call metrics_family before. */
void metrics_histogram_samples(struct buf *b, const char *name, const char *labels,
                               const struct metrics_histogram *h);

/* The process families of Prometheus clients, for `daemon`: with etcd's plain names when daemon is
 * "", else as conclave_<daemon>_... */
void metrics_process(struct buf *b, const char *daemon);

#endif
