/* Coupled Poisson draws; the plain definition is samsvae.ops.negative_binomial.poisson_coupled. */
#include "random.h"

/* A stream of random numbers, and exponential ones from it. */
static inline uint64_t next_bits(uint64_t *state) {
    return mixed(*state += INCREMENT);
}

static inline float exponential(uint64_t *state) {
    return -log_of((float)(((next_bits(state) >> 11) + 1) * 0x1p-53));
}

/* How many of n are left, each kept with probability `share`. */
static inline float kept(float n, float share, uint64_t *state) {
    if (n * (1.0f - share) * 10.0f + 10.0f > n) { /* many go, or few there are: try each */
        uint32_t limit = (uint32_t)(share * 4294967040.0f); /* of 2^32; the largest float below */
        float left = 0.0f;
        for (float i = n; i > 0.0f; i -= 2.0f) {
            uint64_t bits = next_bits(state);
            left += (uint32_t)bits < limit;
            if (i > 1.0f) left += (uint32_t)(bits >> 32) < limit;
        }
        return left;
    }
    /* Few go: each lives for an exponential time, and must outlive -log(share). */
    float end = -log_of(share);
    for (float t = 0.0f; n > 0.0f; n -= 1.0f)
        if ((t += exponential(state) / n) >= end) break;
    return n;
}

/* Poisson(rate): how many uniform numbers can be multiplied before their product is below
 * exp(-rate), taken in parts that do not underflow. */
static inline float arrivals(float rate, uint64_t *state) {
    float n = 0.0f;
    for (; rate > 0.0f; rate -= 60.0f) {
        double product = 1.0, end = exp_of(-fminf(rate, 60.0f));
        while ((product *= ((next_bits(state) >> 11) + 1) * 0x1p-53) > end) n += 1.0f;
    }
    return n;
}

/* Counts, `row gene`, drawn from Poisson(new_rate) given that `counts` were drawn from Poisson(rate):
 * thinned where the rate falls, added to where it rises. Each row has a stream of its own, so that
 * the numbers do not depend on who draws which. */
void poisson_coupled(const float *restrict counts, const float *restrict rate,
                     const float *restrict new_rate, float *restrict out, long seed, long rows,
                     long genes, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < rows; row++) {
        uint64_t state = (uint64_t)seed + (uint64_t)row * 0xd1342543de82ef95u;
        state = next_bits(&state);
        for (long i = row * genes; i < (row + 1) * genes; i++) {
            if (new_rate[i] < rate[i]) out[i] = kept(counts[i], new_rate[i] / rate[i], &state);
            else out[i] = counts[i] + arrivals(new_rate[i] - rate[i], &state);
        }
    }
}
