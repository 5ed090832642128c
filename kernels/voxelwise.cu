// Models with voxelwise explanatory variables, as in gpuvox/voxelwise.py, operation by operation: a thread has a voxel.

#include "common.cuh"

namespace {

const double DEPENDENT = 1e-7, TINY = 1e-12, ZERO = 1e-10, ALONE = 1e-10, FLOOR = 1e-14, NO_LIMIT = -1e300;

DEVICE double norm_of(const double* block, int n, int64 stride) {
    double norm = 0.0;
    for (int i = 0; i < n; ++i) norm += block[i * stride] * block[i * stride];
    return sqrt(norm);
}

DEVICE void remove_mean(double* block, int n, int64 stride) {
    double mean = 0.0;
    for (int i = 0; i < n; ++i) mean += block[i * stride];
    for (int i = 0; i < n; ++i) block[i * stride] -= mean / n;
}

DEVICE void project_out(double* block, const double* direction, int n, int64 stride) {
    double dot = 0.0;
    for (int i = 0; i < n; ++i) dot += direction[i * stride] * block[i * stride];
    for (int i = 0; i < n; ++i) block[i * stride] -= direction[i * stride] * dot;
}

// Unit norm, or 0 where no more than `tolerance` of the norm `before` is left; returns the norm.
DEVICE double normalise(double* block, int n, int64 stride, double before, double tolerance) {
    double norm = norm_of(block, n, stride);
    if (norm <= tolerance * before) norm = 0.0;
    for (int i = 0; i < n; ++i) block[i * stride] = norm > 0.0 ? block[i * stride] / norm : 0.0;
    return norm;
}

// Whether data are one number in all rows that the removed columns, and `leverage` more, do not fit alone.
DEVICE bool constant(const double* data, const double* columns, int n_removed, double leverage, int n, int64 stride) {
    int first = -1;
    for (int i = 0; i < n; ++i) {
        double fitted = leverage;
        for (int a = 0; a < n_removed; ++a) {
            const double value = columns[((int64)a * n + i) * stride];
            fitted += value * value;
        }
        if (fitted < 1 - ALONE) {
            if (first >= 0 && data[i * stride] != data[first * stride]) return false;
            first = i;
        }
    }
    return true;
}

}  // namespace

// Orthonormal bases and unit residuals of the voxels first ... first + width - 1. data (n, data_stride);
// design (n, p); evs (m, n, data_stride); position (p): the voxelwise EV in a column, or -1; mixing (p, k); size (k):
// bounds of the columns' norms. n_removed: columns taken out of the data.
// columns (k, n, width), y (n, width), stands (k, width): 1 where a column is not a combination of earlier ones;
// norms (width).
KERNEL voxelwise_prepare(const float* data, int64 data_stride, int64 first, int width, const double* design, int p,
                         const float* evs, const int* position, const double* mixing, const double* size, int n, int k,
                         int n_removed, int demean, double* columns, double* y, int* stands, double* norms) {
    const int64 stride = width;
    for (int64 v = grid_thread(); v < width; v += grid_threads()) {
        double* residual = y + v;
        for (int i = 0; i < n; ++i) residual[i * stride] = (double)data[i * data_stride + first + v];
        for (int a = 0; a < k; ++a) {
            double* column = columns + (int64)a * n * stride + v;
            for (int i = 0; i < n; ++i) column[i * stride] = 0.0;
            for (int c = 0; c < p; ++c) {
                const double weight = mixing[c * k + a];
                if (weight == 0.0) continue;
                const float* ev = evs + ((int64)position[c] * n) * data_stride + first + v;
                for (int i = 0; i < n; ++i)
                    column[i * stride] +=
                        weight * (position[c] < 0 ? design[i * p + c] : (double)ev[i * data_stride]);
            }
            if (demean) remove_mean(column, n, stride);
        }
        for (int a = 0; a < k; ++a) {
            double* column = columns + (int64)a * n * stride + v;
            double before = norm_of(column, n, stride);
            const double least = size[a] * TINY / DEPENDENT;
            if (before < least) before = least;
            for (int repeat = 0; repeat < 2; ++repeat)
                for (int b = 0; b < a; ++b) project_out(column, columns + (int64)b * n * stride + v, n, stride);
            stands[a * stride + v] = normalise(column, n, stride, before, DEPENDENT) > 0.0;
        }
        const double before = norm_of(residual, n, stride);
        if (demean) remove_mean(residual, n, stride);
        const bool same = constant(residual, columns + v, n_removed, demean ? 1.0 / n : 0.0, n, stride);
        for (int a = 0; a < n_removed; ++a) project_out(residual, columns + (int64)a * n * stride + v, n, stride);
        const double norm = normalise(residual, n, stride, before, ZERO);
        norms[v] = same ? 0.0 : norm;
    }
}

namespace {

struct Fit {
    double statistic, sse, df;
};

// Statistic of one shuffle at one voxel from products in T; NaN where the SSE is under `limit`, floored if not.
template <class T>
DEVICE Fit fit(const double* columns, const double* y, const int* stands, int64 stride, const int* shuffle, int flip,
               int n, int k, int first_column, int n_nuisance, int demean, int is_f, double limit) {
    double left = 1.0, effect = 0.0, df = n - demean;
    int numerator = 0;
    for (int a = first_column; a < k; ++a) {
        const double* column = columns + (int64)a * n * stride;
        T product = 0;
        for (int i = 0; i < n; ++i) {
            const T value = (T)y[i * stride];
            const int s = shuffle[i];
            if (flip && s < 0)
                product -= (T)column[i * stride] * value;
            else if (sizeof(T) == 4)
                product = (T)fmaf((float)column[(flip ? i : s) * stride], (float)value, (float)product);
            else
                product = (T)fma((double)column[(flip ? i : s) * stride], (double)value, (double)product);
        }
        const double p = (double)product;
        left -= p * p;
        df -= stands[a * stride];
        if (a >= n_nuisance) {
            numerator += stands[a * stride];
            effect = is_f ? effect + p * p : p;
        }
    }
    Fit out;
    out.sse = left < FLOOR ? FLOOR : left;
    out.df = df;
    if (df < 1 || numerator == 0)
        out.statistic = 0.0;
    else if (left < limit)
        out.statistic = nan("");
    else
        out.statistic = is_f ? effect / numerator * (df / out.sse) : effect * sqrt(df / out.sse);
    return out;
}

}  // namespace

// Statistic maps out (n_maps, out_stride) of the voxels of a slab, columns out_first ... of it; float32 products, and
// float64 ones where those cancel or everywhere if `exact`. variance (like out) if want_variance.
template <class Real>
KERNEL voxelwise_maps(const double* columns, const double* y, const int* stands, const double* norms, int width,
                      const int* shuffles, int n_maps, int flip, int n, int k, int first_column, int n_nuisance,
                      int demean, int is_f, double limit, int exact, int64 out_stride, int64 out_first, Real* out,
                      int want_variance, Real* variance) {
    for (int64 item = grid_thread(); item < (int64)n_maps * width; item += grid_threads()) {
        const int64 b = item / width, v = item % width;
        const int* shuffle = shuffles + b * n;
        Fit found;
        found.statistic = nan("");
        if (!exact)
            found = fit<float>(columns + v, y + v, stands + v, width, shuffle, flip, n, k, first_column, n_nuisance,
                               demean, is_f, limit);
        if (found.statistic != found.statistic)
            found = fit<double>(columns + v, y + v, stands + v, width, shuffle, flip, n, k, first_column, n_nuisance,
                                demean, is_f, NO_LIMIT);
        const int64 place = b * out_stride + out_first + v;
        out[place] = norms[v] > 0.0 ? (Real)found.statistic : (Real)0;
        if (want_variance)
            variance[place] = (Real)(found.sse * norms[v] * norms[v] / (found.df < 1.0 ? 1.0 : found.df));
    }
}

// The same in float64 for listed pairs of map and voxel of the slab.
KERNEL voxelwise_exact(const double* columns, const double* y, const int* stands, const double* norms, int width,
                       const int* item_map, const int* item_column, int n_items, const int* shuffles, int flip, int n,
                       int k, int first_column, int n_nuisance, int demean, int is_f, double* statistic) {
    for (int64 item = grid_thread(); item < n_items; item += grid_threads()) {
        const int64 v = item_column[item];
        const Fit found = fit<double>(columns + v, y + v, stands + v, width, shuffles + (int64)item_map[item] * n, flip,
                                      n, k, first_column, n_nuisance, demean, is_f, NO_LIMIT);
        statistic[item] = norms[v] > 0.0 ? found.statistic : 0.0;
    }
}
