// Models with voxelwise explanatory variables, as in gpuvox/voxelwise_evs.py, operation by operation: a thread has a voxel.

#include "common.cuh"

namespace {

const double DEPENDENT = 1e-7, TINY = 1e-12, ZERO = 1e-10, ALONE = 1e-10, FLOOR = 1e-14, NO_LIMIT = -1e300;
constexpr double ORTHOGONAL = 1e-13;
static_assert((double)(float)ORTHOGONAL < ORTHOGONAL, "float32 numbers below it are those that its rounding is not below");

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

// Whether data are one number in all rows that the removed columns, and `leverage` more, do not fit alone; rows where
// `gone` is not 0 do not count.
DEVICE bool constant(const double* data, const double* gone, const double* columns, int n_removed, double leverage, int n,
                     int64 stride) {
    int first = -1;
    for (int i = 0; i < n; ++i) {
        double fitted = leverage;
        for (int a = 0; a < n_removed; ++a) {
            const double value = columns[((int64)a * n + i) * stride];
            fitted += value * value;
        }
        if (fitted < 1 - ALONE && !(gone && gone[i * stride] != 0.0)) {
            if (first >= 0 && data[i * stride] != data[first * stride]) return false;
            first = i;
        }
    }
    return true;
}

}  // namespace

// Orthonormal bases and unit residuals of the voxels first ... first + width - 1. data (n, data_stride);
// design (n, p); evs (m, n, data_stride); position (p): the voxelwise EV in a column, or -1; mixing (p, k); size (k):
// bounds of the columns' norms. n_removed: columns taken out of the data. demean: 1 the columns, 2 the data.
// outside: number among the evs of what takes a subject out where it is not 0, or -1; keep: their data remain.
// columns (k, n, width), and if outside >= 0 one plane more, 1 for subjects who are left out; y (n, width);
// stands (k, width): 1 where a column is not a combination of earlier ones; norms (width). want_rounded: columns and y in
// float32 too.
KERNEL voxelwise_prepare(const float* data, int64 data_stride, int64 first, int width, const double* design, int p,
                         const float* evs, const int* position, const double* mixing, const double* size, int n, int k,
                         int n_removed, int demean, int outside, int keep, int want_rounded, double* columns, double* y,
                         int* stands, double* norms, float* rounded_columns, float* rounded_y) {
    const int64 stride = width;
    for (int64 v = grid_thread(); v < width; v += grid_threads()) {
        double* residual = y + v;
        double* gone = columns + (int64)k * n * stride + v;
        const float* mask = evs + (int64)(outside < 0 ? 0 : outside) * n * data_stride + first + v;
        for (int i = 0; i < n; ++i) {
            const float here = data[i * data_stride + first + v];
            const int out = outside >= 0 && mask[i * data_stride] != 0.0f;
            if (outside >= 0) gone[i * stride] = out;
            residual[i * stride] = out && !keep ? 0.0 : (double)here;
        }
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
            if (demean & 1) remove_mean(column, n, stride);
            if (outside >= 0)
                for (int i = 0; i < n; ++i)
                    if (gone[i * stride] != 0.0) column[i * stride] = 0.0;
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
        if (demean & 2) remove_mean(residual, n, stride);
        const bool same = constant(residual, outside < 0 ? (double*)0 : gone, columns + v, n_removed,
                                   demean & 2 ? 1.0 / n : 0.0, n, stride);
        for (int a = 0; a < n_removed; ++a) project_out(residual, columns + (int64)a * n * stride + v, n, stride);
        const double norm = normalise(residual, n, stride, before, ZERO);
        norms[v] = same ? 0.0 : norm;
        if (!want_rounded) continue;
        const int rows = (k + (outside >= 0)) * n;
        for (int i = 0; i < rows; ++i) rounded_columns[i * stride + v] = (float)columns[i * stride + v];
        for (int i = 0; i < n; ++i) rounded_y[i * stride + v] = (float)residual[i * stride];
    }
}

namespace {

struct Fit {
    double statistic, sse, df;
};

DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }
DEVICE double fused(double a, double b, double c) { return fma(a, b, c); }

DEVICE bool orthogonal(float product) { return fabsf(product) <= (float)ORTHOGONAL; }
DEVICE bool orthogonal(double product) { return fabs(product) < ORTHOGONAL; }

// Statistic of one shuffle at one voxel from products in T; NaN where the SSE is under `limit`, floored if not.
template <class T>
DEVICE Fit fit(const T* columns, const T* y, const int* stands, int64 stride, const int* shuffle, int has_signs, int n,
               int k, int first_column, int n_nuisance, int spent, int n_out, int is_f, double limit) {
    double effect = 0.0;
    int df = n - spent, numerator = 0;
    T lost = 0;
    if (n_out) {
        const T* gone = columns + (int64)k * n * stride;
        for (int i = 0; i < n; ++i) {
            const T value = y[i * stride];
            const T share = gone[(has_signs ? row_of(shuffle[i]) : shuffle[i]) * stride] * value;
            lost = fused(share, value, lost);
            df -= gone[i * stride] != 0;
        }
    }
    double left = 1.0 - (double)lost;
    for (int a = first_column; a < k; ++a) {
        const T* column = columns + (int64)a * n * stride;
        T product = 0;
        for (int i = 0; i < n; ++i) {
            const T value = y[i * stride];
            const int s = shuffle[i];
            if (has_signs && s < 0)
                product -= column[~s * stride] * value;
            else
                product = fused(column[s * stride], value, product);
        }
        if (orthogonal(product)) product = 0;
        const double p = product;
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

// Statistic maps out (n_maps, out_stride) of the voxels of a slab, columns out_first ... of it. Maps in float32 are made
// from float32 products, and from float64 ones where those cancel. variance (like out) if want_variance.
template <class Real>
KERNEL voxelwise_maps(const double* columns, const double* y, const int* stands, const double* norms,
                      const float* rounded_columns, const float* rounded_y, int width, const int* shuffles, int n_maps,
                      int has_signs, int n, int k, int first_column, int n_nuisance, int spent, int n_out, int is_f,
                      double limit, int64 out_stride, int64 out_first, Real* out, int want_variance, Real* variance) {
    for (int64 item = grid_thread(); item < (int64)n_maps * width; item += grid_threads()) {
        const int64 b = item / width, v = item % width;
        const int* shuffle = shuffles + b * n;
        Fit found;
        found.statistic = nan("");
        if (sizeof(Real) == sizeof(float))
            found = fit(rounded_columns + v, rounded_y + v, stands + v, width, shuffle, has_signs, n, k, first_column,
                        n_nuisance, spent, n_out, is_f, limit);
        if (found.statistic != found.statistic)
            found = fit(columns + v, y + v, stands + v, width, shuffle, has_signs, n, k, first_column, n_nuisance, spent,
                        n_out, is_f, NO_LIMIT);
        const int64 place = b * out_stride + out_first + v;
        out[place] = norms[v] > 0.0 ? (Real)found.statistic : (Real)0;
        if (want_variance)
            variance[place] = (Real)(found.sse * norms[v] * norms[v] / (found.df < 1.0 ? 1.0 : found.df));
    }
}

// The same in float64 for a list of pairs of map and voxel (maps.cu); those whose voxel is not of the slab are left out.
KERNEL voxelwise_exact(const double* columns, const double* y, const int* stands, const double* norms, int width,
                       int first, const int* count, int capacity, const int* item_map, const int* item_voxel,
                       const int* shuffles, int has_signs, int n, int k, int first_column, int n_nuisance, int spent,
                       int n_out, int is_f, double* statistic) {
    const int n_items = *count < capacity ? *count : capacity;
    for (int64 item = grid_thread(); item < n_items; item += grid_threads()) {
        const int64 v = item_voxel[item] - first;
        if (v < 0 || v >= width) continue;
        const Fit found = fit(columns + v, y + v, stands + v, width, shuffles + (int64)item_map[item] * n, has_signs, n,
                              k, first_column, n_nuisance, spent, n_out, is_f, NO_LIMIT);
        statistic[item] = norms[v] > 0.0 ? found.statistic : 0.0;
    }
}

namespace {

const double VANISHES = 1e-9;

// Columns of a model whose nuisance is not shuffled: `lead` columns and those from n_nuisance on move; the first n_kept
// columns stay in place.
struct Moving {
    int n, k, lead, n_nuisance, n_kept, spent, is_f;
};

DEVICE int moving_column(const Moving& model, int c) { return c < model.lead ? c : model.n_nuisance + c - model.lead; }

// Sum of a column's shuffled entries with those of another one.
DEVICE double moved_product(const double* column, const double* other, int64 stride, const int* shuffle, int n) {
    double product = 0.0;
    for (int i = 0; i < n; ++i) {
        const double value = column[row_of(shuffle[i]) * stride] * other[i * stride];
        product += shuffle[i] < 0 ? -value : value;
    }
    return product;
}

// Statistic of one shuffle at one voxel; scratch: 2 m + m (m + 1) / 2 numbers of m moving columns, `step` apart.
DEVICE double refit(const double* columns, const double* y, const int* stands, int64 stride, const int* shuffle,
                    const Moving& model, double* scratch, int64 step) {
    const int m = model.lead + model.k - model.n_nuisance, n = model.n;
    double *shares = scratch, *kept = scratch + m * step, *factor = scratch + 2 * m * step;
    double df = n - model.spent;
    int rank = 0;
    for (int a = 0; a < model.k; ++a) {
        df -= stands[a * stride];
        if (a >= model.n_nuisance) rank += stands[a * stride];
    }
    if (df < 1 || rank == 0) return 0.0;
    for (int c = 0; c < m; ++c) {
        const int at = moving_column(model, c);
        shares[c * step] = moved_product(columns + (int64)at * n * stride, y, stride, shuffle, n);
        for (int d = 0; d <= c; ++d) factor[(c * (c + 1) / 2 + d) * step] = c == d ? (double)stands[at * stride] : 0.0;
    }
    for (int a = 0; a < model.n_kept; ++a) {
        for (int c = 0; c < m; ++c)
            kept[c * step] = moved_product(columns + (int64)moving_column(model, c) * n * stride,
                                           columns + (int64)a * n * stride, stride, shuffle, n);
        for (int c = 0; c < m; ++c)
            for (int d = 0; d <= c; ++d) factor[(c * (c + 1) / 2 + d) * step] -= kept[c * step] * kept[d * step];
    }
    double left = 1.0, effect = 0.0;
    for (int c = 0; c < m; ++c) {
        double* row = factor + c * (c + 1) / 2 * step;
        double share = shares[c * step];
        for (int d = 0; d < c; ++d) {
            const double* before = factor + d * (d + 1) / 2 * step;
            double value = row[d * step];
            for (int e = 0; e < d; ++e) value -= row[e * step] * before[e * step];
            row[d * step] = before[d * step] > 0.0 ? value / before[d * step] : 0.0;
            share -= row[d * step] * shares[d * step];
        }
        double pivot = row[c * step];
        for (int d = 0; d < c; ++d) pivot -= row[d * step] * row[d * step];
        row[c * step] = pivot > VANISHES ? sqrt(pivot) : 0.0;
        share = pivot > VANISHES ? share / row[c * step] : 0.0;
        if (fabs(share) < ORTHOGONAL) share = 0.0;
        shares[c * step] = share;
        left -= share * share;
        if (c >= model.lead) effect = model.is_f ? effect + share * share : share;
    }
    if (left < FLOOR) left = FLOOR;
    return model.is_f ? effect / rank * (df / left) : effect * sqrt(df / left);
}

}  // namespace

// Maps out (n_maps, out_stride) where nuisance stays in place, or is not fitted; columns out_first ... as in
// voxelwise_maps. scratch: see refit, for every thread.
template <class Real>
KERNEL voxelwise_refit(const double* columns, const double* y, const int* stands, const double* norms, int width,
                       const int* shuffles, int n_maps, int n, int k, int lead, int n_nuisance, int n_kept, int spent,
                       int is_f, int64 out_stride, int64 out_first, double* scratch, Real* out) {
    const Moving model = {n, k, lead, n_nuisance, n_kept, spent, is_f};
    const int64 step = grid_threads();
    for (int64 item = grid_thread(); item < (int64)n_maps * width; item += step) {
        const int64 b = item / width, v = item % width;
        double found = 0.0;
        if (norms[v] > 0.0)
            found = refit(columns + v, y + v, stands + v, width, shuffles + b * n, model, scratch + grid_thread(), step);
        out[b * out_stride + out_first + v] = (Real)found;
    }
}

// The same in float64 for a list of pairs of map and voxel (maps.cu); those whose voxel is not of the slab are left out.
KERNEL voxelwise_refit_exact(const double* columns, const double* y, const int* stands, const double* norms, int width,
                             int first, const int* count, int capacity, const int* item_map, const int* item_voxel,
                             const int* shuffles, int n, int k, int lead, int n_nuisance, int n_kept, int spent, int is_f,
                             double* scratch, double* statistic) {
    const int n_items = *count < capacity ? *count : capacity;
    const Moving model = {n, k, lead, n_nuisance, n_kept, spent, is_f};
    const int64 step = grid_threads();
    for (int64 item = grid_thread(); item < n_items; item += step) {
        const int64 v = item_voxel[item] - first;
        if (v < 0 || v >= width) continue;
        statistic[item] = 0.0;
        if (norms[v] > 0.0)
            statistic[item] = refit(columns + v, y + v, stands + v, width, shuffles + (int64)item_map[item] * n, model,
                                    scratch + grid_thread(), step);
    }
}

// whole[b] = 1 for shuffles that leave every row in its place, or flip the signs of all or none.
KERNEL voxelwise_equivalent(const int* shuffles, int n, int n_maps, int* whole) {
    for (int64 b = grid_thread(); b < n_maps; b += grid_threads()) {
        const int* shuffle = shuffles + b * n;
        bool same = true;
        for (int i = 0; i < n; ++i) same = same && shuffle[i] == (shuffle[0] < 0 ? ~i : i);
        whole[b] = same;
    }
}

// z equivalents of F maps f (n_maps, n_voxels), as glm_f_to_z, with a table for each kind of voxel: its first interval,
// and rows begin[k] ... begin[k + 1] - 1 of the cubics.
KERNEL voxelwise_f_to_z(const float* f, int64 n, int n_voxels, int bits, const int* kind, const int* first,
                        const int* begin, const double* cubics, float* z) {
    const int rest = 32 - bits;
    const double scale = (double)(1 << rest);
    for (int64 i = grid_thread(); i < n; i += grid_threads()) {
        const int table = kind[i % n_voxels], count = begin[table + 1] - begin[table];
        const int number = float_bits(f[i]);
        int k = (number >> rest) - first[table];
        z[i] = 0.0f;
        if (count > 0 && number > 0 && k >= 0) {
            double d = (double)(number & ((1 << rest) - 1)) / scale;
            if (k >= count) {
                k = count - 1;
                d = 1.0;
            }
            const double* c = cubics + 4 * (int64)(begin[table] + k);
            const double value = ((c[0] * d + c[1]) * d + c[2]) * d + c[3];
            z[i] = (float)(value > 0.0 ? value : 0.0);
        }
    }
}
