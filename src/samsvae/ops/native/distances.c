/* Distances between rows; the plain definition is samsvae.ops.distances. */
#include "elementary.h"

/* Rows of a that are held against a row of b at once; rows and columns of b that stay in the cache. */
enum { TOGETHER = 4, ROWS = 64, COLUMNS = 256 };

/* Add to distances, `TOGETHER row`, what some columns make of them. */
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
    for (long first = 0; first < rows_b; first += ROWS)
        for (long c = 0; c < columns; c += COLUMNS)
            for (long row = 0; row < rows_a; row += TOGETHER)
                add_columns(a + row * columns + c, b + first * columns + c,
                            distance + row * rows_b + first,
                            rows_b - first < ROWS ? rows_b - first : ROWS,
                            columns - c < COLUMNS ? columns - c : COLUMNS, columns, rows_b);
}
