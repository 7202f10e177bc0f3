/* Small loops over arrays; the plain definitions are in samsvae.ops.arrays (dense rows:
 * samsvae.data.source). */
#include "elementary.h"

#include <string.h>

/* Columns that stay in the cache; rows that are summed in single precision; rows of the second
 * array of distances that stay in the cache; rows of the first that each of them meets at once. */
enum { COLUMNS = 256, SINGLE_ROWS = 32, CACHED_ROWS = 64, PAIRED_ROWS = 4 };

/* Sums over rows. */

EVERY_CPU static void add_rows(const float *restrict values, const float *restrict origin,
                               double *restrict total, double *restrict square, long rows,
                               long columns, long stride) {
    float sum[COLUMNS] = {0}, sum_of_squares[COLUMNS] = {0};
    for (long row = 0; row < rows; row++)
        for (long i = 0; i < columns; i++) {
            float d = values[row * stride + i] - origin[row * stride + i];
            sum[i] += d;
            sum_of_squares[i] += d * d;
        }
    for (long i = 0; i < columns; i++) {
        total[i] += sum[i];
        square[i] += sum_of_squares[i];
    }
}

/* The sums of values - origin, `row column`, and of its squares, over the rows: `column`, given as
 * 0. */
void difference_sums(const float *values, const float *origin, double *total, double *square,
                     long rows, long columns, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long c = 0; c < columns; c += COLUMNS)
        for (long row = 0; row < rows; row += SINGLE_ROWS) {
            long first = row * columns + c;
            add_rows(values + first, origin + first, total + c, square + c,
                     rows - row < SINGLE_ROWS ? rows - row : SINGLE_ROWS,
                     columns - c < COLUMNS ? columns - c : COLUMNS, columns);
        }
}

EVERY_CPU static void add_products(const float *restrict values, const float *restrict other,
                                   double *restrict total, double *restrict square,
                                   double *restrict product, long rows, long columns,
                                   long stride) {
    float sum[COLUMNS] = {0}, sum_of_squares[COLUMNS] = {0}, sum_of_products[COLUMNS] = {0};
    for (long row = 0; row < rows; row++)
        for (long i = 0; i < columns; i++) {
            float value = values[row * stride + i];
            sum[i] += value;
            sum_of_squares[i] += value * value;
            sum_of_products[i] += value * other[row * stride + i];
        }
    for (long i = 0; i < columns; i++) {
        total[i] += sum[i];
        square[i] += sum_of_squares[i];
        product[i] += sum_of_products[i];
    }
}

/* The sums of values, `row column`, of their squares, and of their products with others, over the
 * rows: `column`, given as 0. */
void product_sums(const float *values, const float *other, double *total, double *square,
                  double *product, long rows, long columns, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long c = 0; c < columns; c += COLUMNS)
        for (long row = 0; row < rows; row += SINGLE_ROWS) {
            long first = row * columns + c;
            add_products(values + first, other + first, total + c, square + c, product + c,
                         rows - row < SINGLE_ROWS ? rows - row : SINGLE_ROWS,
                         columns - c < COLUMNS ? columns - c : COLUMNS, columns);
        }
}

/* Distances between rows. */

/* Add to distances, `PAIRED_ROWS row`, what some columns make of them. */
EVERY_CPU static void add_columns(const double *a, const double *b, double *distance, long rows,
                                  long columns, long stride, long step) {
    for (long row = 0; row < rows; row++) {
        const double *restrict other = b + row * stride;
        double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (long i = 0; i < columns; i++) {
            s0 += fabs(a[i] - other[i]);
            s1 += fabs(a[i + stride] - other[i]);
            s2 += fabs(a[i + 2 * stride] - other[i]);
            s3 += fabs(a[i + 3 * stride] - other[i]);
        }
        distance[row] += s0;
        distance[row + step] += s1;
        distance[row + 2 * step] += s2;
        distance[row + 3 * step] += s3;
    }
}

/* sum over columns of |a - b|, `row row`, of a multiple of four rows of a; given as 0. */
void manhattan(const double *a, const double *b, double *distance, long rows_a, long rows_b,
               long columns, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long first = 0; first < rows_b; first += CACHED_ROWS)
        for (long c = 0; c < columns; c += COLUMNS)
            for (long row = 0; row < rows_a; row += PAIRED_ROWS)
                add_columns(a + row * columns + c, b + first * columns + c,
                            distance + row * rows_b + first,
                            rows_b - first < CACHED_ROWS ? rows_b - first : CACHED_ROWS,
                            columns - c < COLUMNS ? columns - c : COLUMNS, columns, rows_b);
}

/* Rows of a sparse matrix (CSR). */

/* out, `row column` in float32: the rows `which`. One function for every type of the values and of
 * their columns, since a screen keeps its counts in the smallest that holds them. */
#define DENSE_ROWS(NAME, VALUE, INDEX)                                                                  \
    void NAME(const VALUE *values, const INDEX *indices, const INDEX *starts,                     \
              const int64_t *which, float *out, long rows, long columns, long threads) {          \
        _Pragma("omp parallel for num_threads(threads)") for (long row = 0; row < rows; row++) {  \
            float *to = out + row * columns;                                                      \
            memset(to, 0, sizeof(float) * columns);                                               \
            for (INDEX i = starts[which[row]]; i < starts[which[row] + 1]; i++)                   \
                to[indices[i]] += (float)values[i];                                               \
        }                                                                                         \
    }

DENSE_ROWS(rows_uint8_int32, uint8_t, int32_t)
DENSE_ROWS(rows_uint16_int32, uint16_t, int32_t)
DENSE_ROWS(rows_uint32_int32, uint32_t, int32_t)
DENSE_ROWS(rows_float32_int32, float, int32_t)
DENSE_ROWS(rows_uint8_int64, uint8_t, int64_t)
DENSE_ROWS(rows_uint16_int64, uint16_t, int64_t)
DENSE_ROWS(rows_uint32_int64, uint32_t, int64_t)
DENSE_ROWS(rows_float32_int64, float, int64_t)

/* The input of the encoder. */

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
