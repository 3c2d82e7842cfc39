/*
 * Latencies, log-linear: 64 steps per power of two, so a percentile is at most 1.6 % off. A plain
 * struct that processes can send each other and add up.
 */
#ifndef CONCLAVE_BENCH_HISTOGRAM_H
#define CONCLAVE_BENCH_HISTOGRAM_H

#include <stdint.h>

enum {
    HISTOGRAM_STEP_BITS = 6,
    HISTOGRAM_STEPS = 1 << HISTOGRAM_STEP_BITS,
    HISTOGRAM_SLOTS = (40 - HISTOGRAM_STEP_BITS) * HISTOGRAM_STEPS, /* up to 2^39 ns, 9 minutes */
};

struct histogram {
    uint64_t count;
    uint64_t sum_ns;
    uint64_t max_ns;
    uint64_t slots[HISTOGRAM_SLOTS];
};

void histogram_add(struct histogram *h, uint64_t ns);
void histogram_merge(struct histogram *h, const struct histogram *from);
/* The latency that `share` (0..1) of all stay at or below; 0 when empty. */
uint64_t histogram_quantile(const struct histogram *h, double share);

#endif
