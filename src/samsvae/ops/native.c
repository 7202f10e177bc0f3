/* Fast forms of what the package does element by element, in float32, for any CPU.
 *
 * The plain definition is samsvae.ops.negative_binomial, which the tests hold this against. Each
 * function does some rows (or genes) in the calling thread; native.py compiles the file at first use
 * and splits the work among threads. Compiled with -ffast-math (no NaN or infinity may be asked about
 * here), linked without it.
 */
#include <math.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define EVERY_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EVERY_CPU
#endif

/* Counts below TABLE are looked up, gene by gene, larger ones take Stirling's series. */
enum { TABLE = 16 };

/* exp(x) for x <= 0, to 2e-7: 2^n times a polynomial (Cephes). Inlined, it runs in vectors. */
static inline float exp_below_0(float x) {
    x = fmaxf(x, -87.0f);
    float n = rintf(x * 1.44269504f), f = x - n * 0.693147181f;
    float p = 1.98756915e-4f;
    p = p * f + 1.39819995e-3f;
    p = p * f + 8.33345191e-3f;
    p = p * f + 4.16657959e-2f;
    p = p * f + 1.66666655e-1f;
    p = p * f + 5.00000012e-1f;
    union { int32_t i; float f; } power = {((int32_t)n + 127) << 23};
    return (p * f * f + f + 1.0f) * power.f;
}

/* log((1 + f) 2^e) for 1 + f between sqrt(1/2) and sqrt(2) (Cephes). */
static inline float log_of_parts(float f, float e) {
    float p = 7.03768363e-2f;
    p = p * f - 1.15146103e-1f;
    p = p * f + 1.16769987e-1f;
    p = p * f - 1.24201408e-1f;
    p = p * f + 1.42493228e-1f;
    p = p * f - 1.66680577e-1f;
    p = p * f + 2.00007148e-1f;
    p = p * f - 2.49999940e-1f;
    p = p * f + 3.33333312e-1f;
    return f * f * (f * p - 0.5f) + f + e * 0.693147181f;
}

/* log(u) of a positive normal number. */
static inline float log_of(float u) {
    union { float f; int32_t i; } bits = {u};
    int32_t e = (bits.i - 0x3f3504f3) >> 23; /* the exponent, after division by sqrt(1/2) */
    bits.i -= e << 23;
    return log_of_parts(bits.f - 1.0f, (float)e);
}

/* log(1 + r) for r >= 0, with its digits for small r. */
static inline float log_1p(float r) {
    union { float f; int32_t i; } bits = {1.0f + r};
    int32_t e = (bits.i - 0x3f3504f3) >> 23;
    bits.i -= e << 23;
    return log_of_parts(e == 0 ? r : bits.f - 1.0f, (float)e);
}

/* log Gamma(a) and its derivative, up to terms without a, for a >= TABLE. */
static double log_gamma(double a) {
    double i = 1.0 / a, s = i * i;
    return (a - 0.5) * log(a) - a + i * (1.0 / 12 - s * (1.0 / 360 - s * (1.0 / 1260 - s / 1680)));
}

static double digamma(double a) {
    double i = 1.0 / a, s = i * i;
    return log(a) - 0.5 * i - s * (1.0 / 12 - s * (1.0 / 120 - s / 252));
}

/* Tables of the genes [first, last), `gene TABLE+1`:
 * value[x] = log Gamma(x + theta) - log Gamma(theta) - log Gamma(x + 1),
 * slope[x] = digamma(x + theta) - digamma(theta). */
void nb_tables(const float *restrict theta, float *restrict value, float *restrict slope,
               long first, long last) {
    for (long g = first; g < last; g++) {
        double v = 0.0, s = 0.0, t = theta[g];
        for (long x = 0; x <= TABLE; x++) {
            value[g * (TABLE + 1) + x] = (float)v;
            slope[g * (TABLE + 1) + x] = (float)s;
            v += log((t + x) / (x + 1.0));
            s += 1.0 / (t + x);
        }
    }
}

/* What lies beyond the tables, for x > TABLE. */
static double value_beyond(double x, double theta) {
    return log_gamma(x + theta) - log_gamma(TABLE + theta) - log_gamma(x + 1.0) + log_gamma(TABLE + 1.0);
}

static double slope_beyond(double x, double theta) {
    return digamma(x + theta) - digamma(TABLE + theta);
}

/* out[cell] = sum over genes of value(x), for the cells [first, last). */
EVERY_CPU void nb_constant(const float *restrict counts, const float *restrict theta,
                           const float *restrict value, float *restrict out, long genes, long first,
                           long last) {
    for (long cell = first; cell < last; cell++) {
        const float *x = counts + cell * genes;
        float total = 0.0f, most = 0.0f;
        for (int g = 0; g < genes; g++) {
            total += value[g * (TABLE + 1) + (int)fminf(x[g], TABLE)];
            most = fmaxf(most, x[g]);
        }
        double beyond = 0.0;
        for (long g = 0; g < genes && most > TABLE; g++)
            if (x[g] > TABLE) beyond += value_beyond(x[g], theta[g]);
        out[cell] = (float)(total + beyond);
    }
}

/* to_theta[gene] += sum over the cells [first, last) of weight * theta * slope(x). */
EVERY_CPU void nb_constant_backward(const float *restrict counts, const float *restrict theta,
                                    const float *restrict slope, const float *restrict weight,
                                    float *restrict to_theta, long genes, long first, long last) {
    for (long cell = first; cell < last; cell++) {
        const float *x = counts + cell * genes;
        float w = weight[cell], most = 0.0f;
        for (int g = 0; g < genes; g++) {
            to_theta[g] += w * theta[g] * slope[g * (TABLE + 1) + (int)fminf(x[g], TABLE)];
            most = fmaxf(most, x[g]);
        }
        for (long g = 0; g < genes && most > TABLE; g++)
            if (x[g] > TABLE) to_theta[g] += (float)(w * theta[g] * slope_beyond(x[g], theta[g]));
    }
}

/* For the rows [first, last) of logits, `row category` (row = particle * cells + cell; bias is added
 * to them; the categories beyond the genes are never observed):
 *   out[row] = sum_g x log(mu / (mu + theta)) - theta log(1 + mu / theta),  mu = l share + 1e-4,
 * and top, the largest logit, and scale, 1 / sum exp(logit - top). `work` holds one row. */
EVERY_CPU void nb_forward(const float *restrict logits, const float *restrict bias,
                          const float *restrict counts, const float *restrict library,
                          const float *restrict theta, const float *restrict log_theta,
                          float *restrict out, float *restrict tops, float *restrict scales,
                          float *restrict work, long cells, long genes, long categories, long first,
                          long last) {
    for (long row = first; row < last; row++) {
        const float *a = logits + row * categories;
        const float *x = counts + (row % cells) * genes;
        float top = -3e38f, sum = 0.0f, total = 0.0f;
        for (long g = 0; g < categories; g++) {
            work[g] = a[g] + bias[g];
            top = fmaxf(top, work[g]);
        }
        for (long g = 0; g < categories; g++) {
            work[g] = exp_below_0(work[g] - top);
            sum += work[g];
        }
        float size = library[row % cells] / sum;
        for (long g = 0; g < genes; g++) {
            float mu = size * work[g] + 1e-4f;
            total += x[g] * (log_of(mu) - log_theta[g]) - (x[g] + theta[g]) * log_1p(mu / theta[g]);
        }
        out[row] = total;
        tops[row] = top;
        scales[row] = 1.0f / sum;
    }
}

/* weight[row] d out[row] / d logits, written over the logits; and added to to_bias and to_theta, d out
 * / d bias and d out / d log theta. With h_g = theta (x - mu) / (mu + theta) l share_g / mu the
 * gradient to the logits is h - share sum(h). `work` holds two rows. */
EVERY_CPU void nb_backward(float *restrict logits, const float *restrict bias,
                           const float *restrict counts, const float *restrict library,
                           const float *restrict theta, const float *restrict weight,
                           const float *restrict tops, const float *restrict scales,
                           float *restrict to_bias, float *restrict to_theta, float *restrict work,
                           long cells, long genes, long categories, long first, long last) {
    float *restrict share = work, *restrict h = work + categories;
    for (long row = first; row < last; row++) {
        float *a = logits + row * categories;
        const float *x = counts + (row % cells) * genes;
        float top = tops[row], scale = scales[row], size = library[row % cells], w = weight[row];
        float sum = 0.0f;
        for (long g = 0; g < genes; g++) {
            share[g] = scale * exp_below_0(a[g] + bias[g] - top);
            float part = size * share[g], mu = part + 1e-4f;
            float d = theta[g] * (x[g] - mu) / (mu + theta[g]);
            h[g] = d * part / mu;
            sum += h[g];
            to_theta[g] -= w * (d + theta[g] * log_1p(mu / theta[g]));
        }
        for (long g = genes; g < categories; g++) {
            share[g] = scale * exp_below_0(a[g] + bias[g] - top);
            h[g] = 0.0f;
        }
        for (long g = 0; g < categories; g++) {
            a[g] = w * (h[g] - share[g] * sum);
            to_bias[g] += a[g];
        }
    }
}

/* A stream of random numbers (splitmix64), and exponential ones from it. */
static inline uint64_t next_bits(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
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
        double product = 1.0, end = exp_below_0(-fminf(rate, 60.0f));
        while ((product *= ((next_bits(state) >> 11) + 1) * 0x1p-53) > end) n += 1.0f;
    }
    return n;
}

/* Counts of the rows [first, last), `row gene`, drawn from Poisson(new_rate) given that `counts` were
 * drawn from Poisson(rate): thinned where the rate falls, added to where it rises. Each row has a
 * stream of its own, so that the numbers do not depend on who draws which. */
void poisson_coupled(const float *restrict counts, const float *restrict rate,
                     const float *restrict new_rate, float *restrict out, long seed, long genes,
                     long first, long last) {
    for (long row = first; row < last; row++) {
        uint64_t state = (uint64_t)seed + (uint64_t)row * 0xd1342543de82ef95u;
        state = next_bits(&state);
        for (long i = row * genes; i < (row + 1) * genes; i++) {
            if (new_rate[i] < rate[i]) out[i] = kept(counts[i], new_rate[i] / rate[i], &state);
            else out[i] = counts[i] + arrivals(new_rate[i] - rate[i], &state);
        }
    }
}
