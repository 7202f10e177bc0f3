/* Rows of a sparse matrix (CSR), written out; the plain definition is samsvae.data.rows. */
#include "elementary.h"

#include <string.h>

/* out, `row column` in float32: the rows `which`. One function for every type of the values and of
 * their columns, since a screen keeps its counts in the smallest that holds them. */
#define ROWS(NAME, VALUE, INDEX)                                                                  \
    void NAME(const VALUE *values, const INDEX *indices, const INDEX *starts,                     \
              const int64_t *which, float *out, long rows, long columns, long threads) {          \
        _Pragma("omp parallel for num_threads(threads)") for (long row = 0; row < rows; row++) {  \
            float *to = out + row * columns;                                                      \
            memset(to, 0, sizeof(float) * columns);                                               \
            for (INDEX i = starts[which[row]]; i < starts[which[row] + 1]; i++)                   \
                to[indices[i]] += (float)values[i];                                               \
        }                                                                                         \
    }

ROWS(rows_uint8_int32, uint8_t, int32_t)
ROWS(rows_uint16_int32, uint16_t, int32_t)
ROWS(rows_uint32_int32, uint32_t, int32_t)
ROWS(rows_float32_int32, float, int32_t)
ROWS(rows_uint8_int64, uint8_t, int64_t)
ROWS(rows_uint16_int64, uint16_t, int64_t)
ROWS(rows_uint32_int64, uint32_t, int64_t)
ROWS(rows_float32_int64, float, int64_t)
