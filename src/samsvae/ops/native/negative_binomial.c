/* The negative binomial log density of counts and its gradient, in float32.
 *
 * The plain definition is samsvae.ops.negative_binomial, which the tests hold this against.
 */
#include "elementary.h"

/* Counts up to TABLE are looked up, gene by gene: up to FEW without asking which they are, the others
 * one by one, CHUNK genes at a time. Larger counts take Stirling's series. */
enum { TABLE = 16, FEW = 4, CHUNK = 128 };
#define LESS 0.9999998f

/* s(a) = log Gamma(a) - [(a - 1/2) log a - a + log(2 pi)/2] and its derivative, for a >= TABLE. */
static double stirling_error(double a) {
    double i = 1.0 / a, s = i * i;
    return i * (1.0 / 12 - s * (1.0 / 360 - s * (1.0 / 1260 - s / 1680)));
}

static double stirling_slope(double a) {
    double s = 1.0 / (a * a);
    return -s * (1.0 / 12 - s * (1.0 / 120 - s / 252));
}

/* What lies beyond the tables, for x > TABLE. */
static double value_beyond(double x, double theta) {
    return 0.5 * log((TABLE + theta) / (x + theta) * (TABLE / x)) + stirling_error(x + theta) -
           stirling_error(TABLE + theta) - stirling_error(x) + stirling_error(TABLE);
}

static double slope_beyond(double x, double theta) {
    return theta * (0.5 / (TABLE + theta) - 0.5 / (x + theta) + stirling_slope(x + theta) -
                    stirling_slope(TABLE + theta));
}

/* Tables, `TABLE gene`, of v(x), the log density with x itself as mean, and its slope in log theta.
 * v(k + 1) - v(k) = k log(1 + 1/k) + u log(1 - 1/u), u = theta + k + 1: no term grows with theta.
 * Row k holds v(k + 1) - v(k) for k < FEW, and v(k + 1) - v(FEW) beyond. */
EVERY_CPU void nb_tables(const float *restrict theta, float *restrict values,
                         float *restrict slopes, long genes) {
    for (long k = 0; k < TABLE; k++) {
        float of_count = k > 0 ? (float)(k * log1p(1.0 / k)) : 0.0f;
        for (long g = 0; g < genes; g++) {
            float below = theta[g] + (float)k, u = below + 1.0f;
            float log_ratio = below < 1.0f ? log_of(below / u) : log_1p(-1.0f / u);
            values[k * genes + g] = of_count + u * log_ratio + nothing_of(u);
            slopes[k * genes + g] = theta[g] * (log_ratio + 1.0f / below);
        }
    }
    for (long i = (FEW + 1) * genes; i < TABLE * genes; i++) {
        values[i] += values[i - genes];
        slopes[i] += slopes[i - genes];
    }
}

/* One cell's sum of v(x); its gradient, times weight, is added to to_theta. */
EVERY_CPU static float constant_of_cell(const float *restrict x, const float *restrict theta,
                                        const float *restrict values, const float *restrict slopes,
                                        float weight, float *restrict to_theta, long genes) {
    float total = 0.0f, sum = 0.0f;
    double beyond = 0.0;
    for (long first = 0; first < genes; first += CHUNK) {
        long last = first + CHUNK < genes ? first + CHUNK : genes;
        int32_t most = 0;
        for (long g = first; g < last; g++) {
            float value = 0.0f, slope = 0.0f;
            for (int k = 0; k < FEW; k++) {
                float reached = x[g] > (float)k ? 1.0f : 0.0f;
                value += reached * values[k * genes + g];
                slope += reached * slopes[k * genes + g];
            }
            total += value;
            to_theta[g] += weight * slope;
            int32_t order = order_of(x[g]);
            most = order > most ? order : most;
            sum += x[g];
        }
        for (long g = first; g < last && most > order_of(FEW); g++) {
            if (x[g] <= FEW) continue;
            long i = ((int)fminf(x[g], TABLE) - 1) * genes + g;
            total += values[i];
            to_theta[g] += weight * slopes[i];
            if (x[g] <= TABLE) continue;
            beyond += value_beyond(x[g], theta[g]);
            to_theta[g] += (float)(weight * slope_beyond(x[g], theta[g]));
        }
    }
    if (sum == sum) return (float)(total + beyond);
    for (long g = 0; g < genes; g++) to_theta[g] += nothing_of(x[g]);
    return sum;
}

/* What does not depend on the mean: out[cell] = sum over genes of v(x). Its gradient, times the
 * cell's weight, is added to to_theta, of which each thread has a row. */
void nb_constant(const float *counts, const float *theta, const float *values, const float *slopes,
                 const float *weight, float *out, float *to_theta, long cells, long genes,
                 long threads) {
#pragma omp parallel for num_threads(threads)
    for (long cell = 0; cell < cells; cell++)
        out[cell] = constant_of_cell(counts + cell * genes, theta, values, slopes, weight[cell],
                                     to_theta + THREAD * genes, genes);
}

/* What all rows share: `inverse` is 1 / theta; the categories beyond the genes are never observed. */
typedef struct {
    const float *bias, *theta, *inverse;
    long genes, categories;
} Shared;

/* share[category] = exp(logits + bias - top) for the largest of them, top; returns their sum. */
static inline float exponentials(const float *restrict logits, const float *restrict bias,
                                 float *restrict share, long categories) {
    float sum = 0.0f;
    int32_t most = order_of(-3e38f);
    for (long g = 0; g < categories; g++) {
        share[g] = logits[g] + bias[g];
        int32_t order = order_of(share[g]);
        most = order > most ? order : most;
    }
    float top = at_order(most);
    for (long g = 0; g < categories; g++) {
        share[g] = exp_of(share[g] - top);
        sum += share[g];
    }
    return sum;
}

/* Half the deviance of x from mu: x log(1 + r) + theta log(1 + w), without terms of the size of x that
 * would cancel; r = theta (x - mu) / (mu (x + theta)), w = (mu - x) / (x + theta). A ratio near -1
 * belongs to a term that is 0 or negligible, and must only stay finite: LESS is just below 1. */
static inline float half_deviance(float x, float mu, float theta, float inverse, float *log_w) {
    float r = LESS * (x - mu) / (mu * (1.0f + x * inverse));
    *log_w = log_1p(-r * (mu * inverse));
    return x * log_1p(r) + theta * *log_w;
}

/* Minus the sum over genes of half the deviance, for mu = size share + 1e-4. */
EVERY_CPU static float row_value(Shared all, const float *restrict logits,
                                 const float *restrict x, float library, float *restrict share) {
    const float *restrict theta = all.theta, *restrict inverse = all.inverse;
    float total = 0.0f, size = library / exponentials(logits, all.bias, share, all.categories);
    for (long g = 0; g < all.genes; g++) {
        float mu = size * share[g] + 1e-4f, log_w;
        total -= half_deviance(x[g], mu, theta[g], inverse[g], &log_w);
    }
    return total + nothing_of(size);
}

/* The same, and its gradient times weight: written over the logits, added to to_bias and to_theta
 * (that of log theta). With h = theta (x - mu) / (mu + theta) l share / mu the gradient to the logits
 * is h - share sum(h). */
EVERY_CPU static float row_gradient(Shared all, float *restrict logits, const float *restrict x,
                                    float library, float weight, float *restrict to_bias,
                                    float *restrict to_theta, float *restrict share,
                                    float *restrict h) {
    const float *restrict theta = all.theta, *restrict inverse = all.inverse;
    float sum = exponentials(logits, all.bias, share, all.categories), size = library / sum;
    float total = 0.0f, sum_h = 0.0f;
    for (long g = 0; g < all.genes; g++) {
        float part = size * share[g], mu = part + 1e-4f, log_w;
        float d = (x[g] - mu) / (mu * (1.0f + mu * inverse[g]));
        total -= half_deviance(x[g], mu, theta[g], inverse[g], &log_w);
        h[g] = d * part;
        sum_h += h[g];
        to_theta[g] -= weight * (d * mu + theta[g] * log_w);
    }
    for (long g = all.genes; g < all.categories; g++) h[g] = 0.0f;
    for (long g = 0; g < all.categories; g++) {
        logits[g] = weight * (h[g] - share[g] * (sum_h / sum));
        to_bias[g] += logits[g];
    }
    return total + nothing_of(size);
}

/* For some rows of logits, `row category`, the first of them `first`: row = particle * cells + cell.
 * Where there is a weight (`row`), gradients are taken too. Each thread has a row of to_bias and of
 * to_theta, and two of `work`. */
void nb_rows(float *logits, const float *bias, const float *counts, const float *library,
             const float *theta, const float *inverse, const float *weight, float *out,
             float *to_bias, float *to_theta, float *work, long first, long rows, long cells,
             long genes, long categories, long threads) {
    Shared all = {bias, theta, inverse, genes, categories};
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < rows; row++) {
        long cell = (first + row) % cells, t = THREAD;
        float *a = logits + row * categories, *share = work + 2 * t * categories;
        const float *x = counts + cell * genes;
        if (weight)
            out[row] = row_gradient(all, a, x, library[cell], weight[row], to_bias + t * categories,
                                    to_theta + t * genes, share, share + categories);
        else
            out[row] = row_value(all, a, x, library[cell], share);
    }
}

EVERY_CPU static void row_mean(float *restrict logits, const float *restrict bias, float size,
                               float least, float *restrict share, long categories) {
    float scale = size / exponentials(logits, bias, share, categories);
    for (long g = 0; g < categories; g++) logits[g] = scale * share[g] + least;
}

/* size share + least, written over some rows of logits, `row category`. Each thread has a row of
 * `work`. */
void nb_means(float *logits, const float *bias, const float *size, float *work, double least,
              long rows, long categories, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < rows; row++)
        row_mean(logits + row * categories, bias, size[row], (float)least,
                 work + THREAD * categories, categories);
}
