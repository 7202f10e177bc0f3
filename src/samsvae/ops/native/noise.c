/* Random numbers by their place alone: the i-th of a seed is the same whoever draws it. */
#include "random.h"

enum { BLOCK = 1024 };

static inline uint64_t bits_at(uint64_t seed, long i) {
    return mixed(seed + ((uint64_t)i + 1) * INCREMENT);
}

/* Strictly between 0 and 1, for the places [first, last). */
EVERY_CPU static void uniform_block(float *restrict out, uint64_t seed, long first, long last) {
    for (long i = first; i < last; i++)
        out[i] = ((float)(bits_at(seed, i) >> 41) + 0.5f) * 0x1p-23f;
}

/* Standard normal, two by two (Box and Muller): radius from one half of the bits; of the other, two
 * name the quadrant of the angle, the rest where in it (sine and cosine by Cephes' polynomials). */
EVERY_CPU static void normal_block(float *restrict out, float *restrict other, uint64_t seed,
                                   long first, long last) {
    for (long i = first; i < last; i++) {
        uint64_t bits = bits_at(seed, i);
        float radius = sqrtf(-2.0f * log_of(((float)(uint32_t)(bits >> 32) + 0.5f) * 0x1p-32f));
        int32_t quadrant = (int32_t)(bits >> 30) & 3, place = (int32_t)bits & 0x3fffffff;
        float x = ((float)place * 0x1p-30f - 0.5f) * 1.57079633f, z = x * x;
        float sine = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * x + x;
        float cosine = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z +
                        4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
        float a = quadrant & 1 ? sine : cosine, b = quadrant & 1 ? cosine : sine;
        out[i] = quadrant == 1 || quadrant == 2 ? -radius * a : radius * a;
        other[i] = quadrant & 2 ? -radius * b : radius * b;
    }
}

void uniform_noise(float *out, long seed, long n, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long first = 0; first < n; first += BLOCK)
        uniform_block(out, (uint64_t)seed, first, first + BLOCK < n ? first + BLOCK : n);
}

/* Of an even number of places. */
void normal_noise(float *out, long seed, long n, long threads) {
    long half = n / 2;
#pragma omp parallel for num_threads(threads)
    for (long first = 0; first < half; first += BLOCK)
        normal_block(out, out + half, (uint64_t)seed, first,
                     first + BLOCK < half ? first + BLOCK : half);
}
