// z of t and F where data of some subjects are missing at some voxels, as in gpuvox/missing.py, operation by operation.
//
// Subjects with data: present (n, n_sets) 0 or 1; of_voxel: the set of each voxel. A factor is L of the shuffled columns
// (n, k), the effect last, row by row, and the residual degrees of freedom; numbers of factors are `stride` apart.
// unknown (n): rows of the model that are not known, and drop the subject to whom a shuffle brings them.

#include "common.cuh"
#include "z_tables.cuh"

namespace {

const double ORTHOGONAL = 1e-13, SSE_FLOOR = 1e-14, VANISHES = 1e-9;

struct Found {
    double statistic, df, z;
};

DEVICE int64 row_start(int a) { return (int64)a * (a + 1) / 2; }

// The factor of one shuffle for the subjects of a set, into out.
DEVICE void factorise(const int* present, int n_sets, const double* columns, int n, int k, int rank, const int* shuffle,
                      const int* unknown, double* out, int64 stride) {
    for (int a = 0; a < k; ++a)
        for (int c = 0; c <= a; ++c) {
            double total = 0.0;
            for (int i = 0; i < n; ++i)
                if (present[(int64)i * n_sets] && !unknown[row_of(shuffle[i])]) {
                    const double* row = columns + (int64)row_of(shuffle[i]) * k;
                    total += row[a] * row[c];
                }
            out[(row_start(a) + c) * stride] = total;
        }
    int n_columns = 0, n_effects = 0, n_rows = 0;
    for (int i = 0; i < n; ++i) n_rows += present[(int64)i * n_sets] && !unknown[row_of(shuffle[i])];
    for (int j = 0; j < k; ++j) {
        double* row = out + row_start(j) * stride;
        const double whole = row[j * stride];
        double pivot = whole;
        for (int m = 0; m < j; ++m) pivot -= row[m * stride] * row[m * stride];
        const bool stands = pivot > VANISHES * whole;
        const double root = stands ? sqrt(pivot) : 0.0;
        row[j * stride] = root;
        n_columns += stands;
        n_effects += stands && j >= k - rank;
        for (int i = j + 1; i < k; ++i) {
            double* below = out + row_start(i) * stride;
            double value = below[j * stride];
            for (int m = 0; m < j; ++m) value -= below[m * stride] * row[m * stride];
            below[j * stride] = stands ? value / root : 0.0;
        }
    }
    const int df = n_rows - n_columns;
    out[row_start(k) * stride] = df > 0 && n_effects == rank ? (double)df : 0.0;
}

// values = L^-1 values, `step` apart; 0 where a column does not count.
DEVICE void solve(const double* factor, int64 stride, int k, double* values, int64 step) {
    for (int a = 0; a < k; ++a) {
        const double* row = factor + row_start(a) * stride;
        for (int c = 0; c < a; ++c) values[a * step] -= row[c * stride] * values[c * step];
        const double pivot = row[a * stride], scale = pivot > 0.0 ? 1.0 / pivot : 0.0;
        values[a * step] *= scale;
    }
}

// What the factor is, and the model of which it is one.
struct Model {
    const double* columns;
    const int* unknown;
    int n, k, fixed, rank, is_f;
};

// The statistic of one shuffle at one voxel, from unit residuals y.
DEVICE Found find(const Model& model, const Table& table, const int* present, int n_sets, const double* y, int64 y_stride,
                  double unit, const int* shuffle, const double* factor, int64 stride, double* shares, int64 step) {
    const int n = model.n, k = model.k;
    Found found = {0.0, factor[row_start(k) * stride], 0.0};
    if (!(found.df > 0.0) || !(unit > 0.0)) return found;
    for (int a = 0; a < k; ++a) {
        double product = 0.0;
        if (a >= model.fixed)
            for (int i = 0; i < n; ++i)
                if (present[(int64)i * n_sets]) {
                    const bool known = !model.unknown[row_of(shuffle[i])];
                    product += (known ? signed_row(model.columns + a, shuffle[i], k) : 0.0) * y[i * y_stride];
                }
        shares[a * step] = product;
    }
    double left = 1.0, effect = 0.0;
    for (int i = 0; i < n; ++i)
        if (present[(int64)i * n_sets] && model.unknown[row_of(shuffle[i])]) left -= y[i * y_stride] * y[i * y_stride];
    solve(factor, stride, k, shares, step);
    for (int a = 0; a < k; ++a) {
        double share = shares[a * step];
        left -= share * share;
        if (a >= k - model.rank) {
            if (fabs(share) < ORTHOGONAL) share = 0.0;
            effect = model.is_f ? effect + share * share : share;
        }
    }
    if (left < SSE_FLOOR) left = SSE_FLOOR;
    found.statistic = model.is_f ? effect / model.rank * (found.df / left) : effect * sqrt(found.df / left);
    const double z = tabulated(table, fabs(found.statistic), found.df);
    found.z = model.is_f ? z : z * found.statistic;
    return found;
}

}  // namespace

// Unit residuals (n, n_voxels) and 1 / norm of all voxels, 0 where norms are; unpermuted (.., n_sets): factors.
KERNEL missing_prepare(const float* data, int64 n_voxels, const int* present, int n_sets, const int* of_voxel,
                       const double* norms, const double* columns, int n, int k, int n_nuisance, const double* unpermuted,
                       double* residuals, double* units, double* scratch) {
    const int64 step = grid_threads();
    double* fit = scratch + grid_thread();
    for (int64 v = grid_thread(); v < n_voxels; v += step) {
        const int* here = present + of_voxel[v];
        const double* factor = unpermuted + of_voxel[v];
        double* y = residuals + v;
        double norm = 0.0;
        for (int i = 0; i < n; ++i) y[i * n_voxels] = (double)data[i * n_voxels + v];
        for (int twice = 0; twice < 2; ++twice) {
            for (int a = 0; a < n_nuisance; ++a) {
                double sum = 0.0;
                for (int i = 0; i < n; ++i)
                    if (here[(int64)i * n_sets]) sum += columns[(int64)i * k + a] * y[i * n_voxels];
                fit[a * step] = sum;
            }
            solve(factor, n_sets, n_nuisance, fit, step);
            for (int a = n_nuisance - 1; a >= 0; --a) {
                for (int c = a + 1; c < n_nuisance; ++c)
                    fit[a * step] -= factor[(row_start(c) + a) * n_sets] * fit[c * step];
                const double pivot = factor[(row_start(a) + a) * n_sets], scale = pivot > 0.0 ? 1.0 / pivot : 0.0;
                fit[a * step] *= scale;
            }
            for (int a = 0; a < n_nuisance; ++a)
                for (int i = 0; i < n; ++i)
                    if (here[(int64)i * n_sets]) y[i * n_voxels] -= columns[(int64)i * k + a] * fit[a * step];
        }
        for (int i = 0; i < n; ++i)
            if (here[(int64)i * n_sets]) norm += y[i * n_voxels] * y[i * n_voxels];
        norm = sqrt(norm);
        const double unit = norms[v] > 0.0 && norm > 0.0 ? 1.0 / norm : 0.0;
        for (int i = 0; i < n; ++i) y[i * n_voxels] = here[(int64)i * n_sets] ? y[i * n_voxels] * unit : 0.0;
        units[v] = unit;
    }
}

// Factors (.., n_here * n_maps) of sets first ... first + n_here - 1 for all shuffles, the shuffles of a set together.
KERNEL missing_factors(const int* present, int n_sets, int first, int n_here, const double* columns, int n, int k,
                       int rank, const int* shuffles, const int* unknown, int n_maps, double* factors) {
    const int64 items = (int64)n_here * n_maps;
    for (int64 item = grid_thread(); item < items; item += grid_threads())
        factorise(present + first + item / n_maps, n_sets, columns, n, k, rank, shuffles + item % n_maps * n,
                  unknown, factors + item, items);
}

// z (n_maps, n_voxels) at the voxels order[start] ... order[start + width - 1], which have those sets. scratch: k doubles
// for every thread.
KERNEL missing_maps(const double* residuals, const double* units, int64 n_voxels, const int* present, int n_sets,
                    const int* of_voxel, int first, int n_here, const int* order, int64 start, int width,
                    const double* columns, int n, int k, const int* shuffles, int n_maps, const double* factors,
                    const int* unknown, int fixed, int rank, int is_f, int first_x, int first_df, int n_x, int n_df,
                    double least, const double* polynomials, double* scratch, float* out) {
    const Model model = {columns, unknown, n, k, fixed, rank, is_f};
    const Table table = {polynomials, first_x, first_df, n_x, n_df, least};
    const int64 stride = (int64)n_here * n_maps, step = grid_threads();
    for (int64 item = grid_thread(); item < (int64)n_maps * width; item += step) {
        const int64 b = item / width, v = order[start + item % width];
        const int set = of_voxel[v];
        const Found found = find(model, table, present + set, n_sets, residuals + v, n_voxels, units[v], shuffles + b * n,
                                 factors + (int64)(set - first) * n_maps + b, stride, scratch + grid_thread(), step);
        out[b * n_voxels + v] = (float)found.z;
    }
}

// Statistic, degrees of freedom and z in float64 for a list of pairs of map and voxel (maps.cu). scratch: a factor and k
// doubles for every thread.
KERNEL missing_exact(const double* residuals, const double* units, int64 n_voxels, const int* present, int n_sets,
                     const int* of_voxel, const int* count, int capacity, const int* item_map, const int* item_voxel,
                     const double* columns, int n, int k, const int* shuffles, const int* unknown, int fixed, int rank,
                     int is_f, int first_x, int first_df, int n_x, int n_df, double least, const double* polynomials, double* scratch,
                     double* statistic, double* df, double* z) {
    const int n_items = *count < capacity ? *count : capacity;
    const Model model = {columns, unknown, n, k, fixed, rank, is_f};
    const Table table = {polynomials, first_x, first_df, n_x, n_df, least};
    const int64 step = grid_threads();
    double* factor = scratch + grid_thread();
    double* shares = factor + (row_start(k) + 1) * step;
    for (int64 item = grid_thread(); item < n_items; item += step) {
        const int64 v = item_voxel[item];
        const int* here = present + of_voxel[v];
        const int* shuffle = shuffles + (int64)item_map[item] * n;
        Found found = {0.0, 0.0, 0.0};
        if (units[v] > 0.0) {
            factorise(here, n_sets, columns, n, k, rank, shuffle, unknown, factor, step);
            found = find(model, table, here, n_sets, residuals + v, n_voxels, units[v], shuffle, factor, step, shares, step);
        }
        statistic[item] = found.statistic;
        df[item] = found.df;
        z[item] = found.z;
    }
}
