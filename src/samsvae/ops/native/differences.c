/* Sums over rows; the plain definition is samsvae.ops.differences. */
#include "elementary.h"

/* Columns that are summed together; rows that are summed in single precision. */
enum { COLUMNS = 256, ROWS = 32 };

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
        for (long row = 0; row < rows; row += ROWS) {
            long first = row * columns + c;
            add_rows(values + first, origin + first, total + c, square + c,
                     rows - row < ROWS ? rows - row : ROWS,
                     columns - c < COLUMNS ? columns - c : COLUMNS, columns);
        }
}
