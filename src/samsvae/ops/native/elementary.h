/* What the C files share: elementary functions that the compiler runs in vectors, and threads.
 *
 * Compiled with -ffast-math, but for NaN: what is not a number anywhere in the input must give what
 * is none, as the plain definitions do. Comparisons and bits hide it, sums and products do not.
 * Linked without -ffast-math.
 */
#include <math.h>
#include <stdint.h>

#ifdef _OPENMP
int omp_get_thread_num(void); /* its header may be missing */
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

/* Loops that threads share lie in functions of their own: OpenMP would lose the clones. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define EVERY_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EVERY_CPU
#endif

/* exp(x), to 2e-7, for x <= 88; 0 far below: 2^n times a polynomial (Cephes). */
static inline float exp_of(float x) {
    x = x < -87.0f ? -87.0f : x; /* fmaxf would take NaN for -87 */
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

/* Whole numbers that are ordered as floats are, and back: the largest of floats that may be NaN is
 * not found in vectors, that of whole numbers is. NaN comes last. */
static inline int32_t order_of(float x) {
    union { float f; int32_t i; } bits = {x};
    return bits.i ^ ((bits.i >> 31) & 0x7fffffff);
}

static inline float at_order(int32_t order) {
    union { int32_t i; float f; } bits = {order ^ ((order >> 31) & 0x7fffffff)};
    return bits.f;
}

/* 0, but NaN of NaN: added to what was found from bits. */
static inline float nothing_of(float x) {
    return x == x ? 0.0f : x;
}

/* log(u) of a positive normal number; NaN is the caller's to see to. */
static inline float log_of(float u) {
    union { float f; int32_t i; } bits = {u};
    int32_t e = (bits.i - 0x3f3504f3) >> 23; /* the exponent, after division by sqrt(1/2) */
    bits.i -= e << 23;
    return log_of_parts(bits.f - 1.0f, (float)e);
}

/* log(1 + r) for r > -1, with its digits for small r; NaN is the caller's to see to. */
static inline float log_1p(float r) {
    union { float f; int32_t i; } bits = {1.0f + r};
    int32_t e = (bits.i - 0x3f3504f3) >> 23;
    bits.i -= e << 23;
    return log_of_parts(e == 0 ? r : bits.f - 1.0f, (float)e);
}
