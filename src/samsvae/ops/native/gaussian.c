/* Draws of a Gaussian and their weight; the plain definition is samsvae.ops.draws. */
#include "elementary.h"

EVERY_CPU static float draw_of_row(const float *restrict loc, const float *restrict scale,
                                   const float *restrict noise, float *restrict value, long n,
                                   float inverse, long closed_form) {
    float ratio = 0.0f;
    for (long i = 0; i < n; i++) {
        value[i] = loc[i] + scale[i] * noise[i];
        float a = loc[i] * inverse, b = scale[i] * inverse, v = value[i] * inverse;
        float square = closed_form ? 1.0f - a * a - b * b : noise[i] * noise[i] - v * v;
        ratio += 0.5f * square + log_of(b) + nothing_of(b);
    }
    return ratio;
}

EVERY_CPU static void gradient_of_row(const float *restrict loc, const float *restrict scale,
                                      const float *restrict noise, const float *restrict to_value,
                                      float to_ratio, float *restrict to_loc,
                                      float *restrict to_scale, long n, float inverse,
                                      long closed_form) {
    float paid = to_ratio * inverse * inverse;
    for (long i = 0; i < n; i++) {
        float value = loc[i] + scale[i] * noise[i];
        float through = to_value[i] - (closed_form ? 0.0f : paid * value);
        to_loc[i] = through - (closed_form ? paid * loc[i] : 0.0f);
        to_scale[i] = through * noise[i] + to_ratio / scale[i] - (closed_form ? paid * scale[i] : 0.0f);
    }
}

/* value = loc + scale noise, `row n`, and its log p - log q against N(0, prior^2), or minus the KL
 * divergence with closed_form, summed over each row. Rows of loc and scale may lie
 * further apart than n. */
void gaussian_draw(const float *loc, const float *scale, const float *noise, float *value,
                   float *ratio, double prior, long closed_form, long rows, long n,
                   long loc_stride, long scale_stride, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < rows; row++)
        ratio[row] = draw_of_row(loc + row * loc_stride, scale + row * scale_stride, noise + row * n,
                                 value + row * n, n, (float)(1.0 / prior), closed_form);
}

void gaussian_gradient(const float *loc, const float *scale, const float *noise,
                       const float *to_value, const float *to_ratio, float *to_loc,
                       float *to_scale, double prior, long closed_form, long rows, long n,
                       long loc_stride, long scale_stride, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < rows; row++)
        gradient_of_row(loc + row * loc_stride, scale + row * scale_stride, noise + row * n,
                        to_value + row * n, to_ratio[row], to_loc + row * n, to_scale + row * n, n,
                        (float)(1.0 / prior), closed_form);
}
