/* Input of the encoder; the plain definition is samsvae.ops.standardised. */
#include "elementary.h"

EVERY_CPU static void row(const float *restrict x, const float *restrict center,
                          const float *restrict scale, float *restrict out, long genes,
                          long log1p) {
    for (long g = 0; g < genes; g++) {
        float value = log1p ? log_1p(x[g]) + nothing_of(x[g]) : x[g];
        out[g] = (value - center[g]) / scale[g];
    }
}

/* out = (log1p(values) - center) / scale, `cell gene`; of the values as they are without log1p. */
void standardised(const float *values, const float *center, const float *scale, float *out,
                  long cells, long genes, long log1p, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long cell = 0; cell < cells; cell++)
        row(values + cell * genes, center, scale, out + cell * genes, genes, log1p);
}
