/*
 * A small seeded generator (xoshiro256**) for jitter, election timeouts and the simulator. Same
 * seed, same sequence, on every machine. Not for secrets.
 */
#ifndef CONCLAVE_UTIL_PRNG_H
#define CONCLAVE_UTIL_PRNG_H

#include <stdint.h>

struct prng {
    uint64_t s[4];
};

void prng_init(struct prng *p, uint64_t seed);
uint64_t prng_next(struct prng *p);
/* Uniform in [0, bound); bound > 0. */
uint64_t prng_below(struct prng *p, uint64_t bound);

#endif
