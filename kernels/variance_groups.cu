// z of v and G, of models with variance groups, as in gpuvox/variance_groups.py, operation by operation: a thread has a
// voxel.

#include "common.cuh"
#include "residuals.cuh"
#include "z_tables.cuh"

namespace {

const double LEAST_SHARE = 1e-8;
const int TOGETHER = 2;  // columns whose products, or rows whose residuals, are in registers at a time

// The model, with its rows sorted by variance group: rows (n, m), the columns that shuffles move, the effect last;
// ends, sizes, rests, shares (n_groups): rows up to the last of each group, its rows, the sum of the diagonal of the
// residual-forming matrix over them and its reciprocal; grams (n_groups, triangle of n_columns): products of all columns.
struct Model {
    const double *rows, *sizes, *rests, *shares, *grams;
    const int* ends;
    int n, m, n_groups, n_columns, rank, is_f;
    double numerator;
};

struct Found {
    double statistic, df, z;
};

DEVICE double larger(double a, double b) { return a > b ? a : b; }

// Value of the data that comes to a row of the model: `place` is its number, or that of a value whose sign is flipped.
DEVICE double value_at(const double* y, int64 stride, int place) {
    return place < 0 ? -y[~place * stride] : y[place * stride];
}

// Products of the columns with the data, into fits (m), words `step` apart.
DEVICE void multiply(const Model& model, const double* y, int64 stride, const int* places, double* fits, int64 step) {
    for (int first = 0; first < model.m; first += TOGETHER) {
        double sum[TOGETHER] = {0.0, 0.0};
#pragma unroll 1
        for (int j = 0; j < model.n; ++j) {
            const double value = value_at(y, stride, places[j]);
#pragma unroll
            for (int r = 0; r < TOGETHER; ++r)
                if (first + r < model.m) sum[r] = fma(model.rows[j * model.m + first + r], value, sum[r]);
        }
#pragma unroll
        for (int r = 0; r < TOGETHER; ++r)
            if (first + r < model.m) fits[(first + r) * step] = sum[r];
    }
}

// Sum of the squared residuals of rows first ... last - 1.
DEVICE double squared_residuals(const Model& model, const double* y, int64 stride, const int* places, int first, int last,
                                const double* fits, int64 step) {
    double sum = 0.0;
    for (int begin = first; begin < last; begin += TOGETHER) {
        double rest[TOGETHER];
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i)
            rest[i] = begin + i < last ? value_at(y, stride, places[begin + i]) : 0.0;
#pragma unroll 1
        for (int r = 0; r < model.m; ++r) {
            const double fit = fits[r * step];
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i)
                if (begin + i < last) rest[i] = fma(-model.rows[(begin + i) * model.m + r], fit, rest[i]);
        }
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i)
            if (begin + i < last) sum = fma(rest[i], rest[i], sum);
    }
    return sum;
}

// Squared residuals of the groups -> their weights, in place; returns B.
DEVICE double weigh(const Model& model, double* weights, int64 step) {
    double total = 0.0, whole = 0.0, spread = 0.0;
#pragma unroll 1
    for (int g = 0; g < model.n_groups; ++g) {
        whole += model.rests[g];
        total += weights[g * step];
    }
    const double least = LEAST_SHARE / whole * larger(total, SSE_FLOOR);
    total = 0.0;
#pragma unroll 1
    for (int g = 0; g < model.n_groups; ++g) {
        weights[g * step] = 1.0 / larger(weights[g * step] * model.shares[g], least);
        total += model.sizes[g] * weights[g * step];
    }
    total = 1.0 / total;
#pragma unroll 1
    for (int g = 0; g < model.n_groups; ++g) {
        const double lacking = 1.0 - model.sizes[g] * weights[g * step] * total;
        spread += lacking * lacking * model.shares[g];
    }
    return spread;
}

// The factors of the weighted sum of the products of columns, L D L', row by row, with D on the diagonal of L; inverse
// (n_columns): 1/D.
DEVICE void factorise(const Model& model, const double* weights, double* factor, double* inverse, int64 step) {
    const int size = model.n_columns * (model.n_columns + 1) / 2;
    for (int k = 0; k < size; ++k) {
        double sum = 0.0;
#pragma unroll 1
        for (int g = 0; g < model.n_groups; ++g) sum = fma(model.grams[g * size + k], weights[g * step], sum);
        factor[k * step] = sum;
    }
    for (int row = 0; row < model.n_columns; ++row) {
        double* mine = factor + row * (row + 1) / 2 * step;
        for (int column = 1; column < row; ++column) {
            const double* other = factor + column * (column + 1) / 2 * step;
            double sum = mine[column * step];
#pragma unroll 1
            for (int k = 0; k < column; ++k) sum = fma(-mine[k * step], other[k * step], sum);
            mine[column * step] = sum;
        }
        double pivot = mine[row * step];
#pragma unroll 1
        for (int k = 0; k < row; ++k) {
            const double value = mine[k * step] * inverse[k * step];
            pivot = fma(-mine[k * step], value, pivot);
            mine[k * step] = value;
        }
        mine[row * step] = pivot;
        inverse[row * step] = 1.0 / pivot;
    }
}

// v or G from the coefficients of the effect.
DEVICE double combine(const Model& model, const double* effect, const double* factor, int64 step, double spread) {
    const int s = model.rank, k = model.n_columns, first = k - s;
    if (!model.is_f) return effect[0] * sqrt(factor[(k * (k + 1) / 2 - 1) * step]);
    double sum = 0.0;
    for (int c = 0; c < s; ++c) {
        double product = effect[c * step];
        for (int a = c + 1; a < s; ++a)
            product = fma(factor[((first + a) * (first + a + 1) / 2 + first + c) * step], effect[a * step], product);
        sum = fma(product * product, factor[((first + c) * (first + c + 1) / 2 + first + c) * step], sum);
    }
    const double slope = 2.0 * (s - 1) / (s * (s + 2.0));
    return sum / (s * (1.0 + slope * spread));
}

// One shuffle at one voxel. scratch: (m + n_groups + n_columns + triangle of n_columns) doubles, `step` apart.
DEVICE Found fit(const Model& model, const Table& table, const double* y, int64 stride, double unit, const int* places,
                 double* scratch, int64 step) {
    double *fits = scratch, *weights = fits + model.m * step, *inverse = weights + model.n_groups * step;
    double* factor = inverse + model.n_columns * step;
    multiply(model, y, stride, places, fits, step);
#pragma unroll 1
    for (int g = 0; g < model.n_groups; ++g)
        weights[g * step] =
            squared_residuals(model, y, stride, places, g ? model.ends[g - 1] : 0, model.ends[g], fits, step);
    double* effect = fits + (model.m - model.rank) * step;
    for (int r = 0; r < model.rank; ++r)
        if (fabs(effect[r * step]) < ORTHOGONAL) effect[r * step] = 0.0;
    const double spread = weigh(model, weights, step);
    factorise(model, weights, factor, inverse, step);
    Found found;
    found.statistic = combine(model, effect, factor, step, spread);
    found.df = model.n_groups > 1 ? model.numerator / spread : model.numerator;
    found.z = tabulated(table, fabs(found.statistic), found.df);
    if (!model.is_f) found.z *= found.statistic;
    if (unit == 0.0) found.z = 0.0;
    return found;
}

}  // namespace

// places (n_maps, n): the place to which each row of the model comes, rows sorted by group; ~place if its sign is flipped.
// sorted (n): the number of each row among the sorted ones; shuffles (n_maps, n): see gpuvox/signed_rows.py.
KERNEL variance_groups_places(const int* shuffles, int n_maps, int n, const int* sorted, int* places) {
    for (int64 item = grid_thread(); item < (int64)n_maps * n; item += grid_threads()) {
        const int i = (int)(item % n);
        places[item - i + sorted[row_of(shuffles[item])]] = shuffles[item] < 0 ? ~i : i;
    }
}

// Unit residuals y (n, width) of the voxels of a slab, data (n, data_stride), and units (width): 0 where there are none.
// removed (n, n_removed): what the data are residualised on; norms (width): 0 where the data do not count.
KERNEL variance_groups_prepare(const float* data, int64 data_stride, int width, const double* norms, const double* removed,
                               int n_removed, int n, double* y, double* units) {
    for (int64 v = grid_thread(); v < width; v += grid_threads()) {
        const double norm = residualise(data + v, data_stride, n, removed, n_removed, y + v, width);
        const double unit = norm > 0.0 && norms[v] > 0.0 ? 1.0 / norm : 0.0;
        for (int i = 0; i < n; ++i) y[(int64)i * width + v] *= unit;
        units[v] = unit;
    }
}

// Maps (n_maps, out_stride) of z, columns out_first ... of them, for the voxels of a slab; or, if `exact`, raw (3, n_maps,
// out_stride): the statistic, its degrees of freedom, and z.
KERNEL_FOR(128, 2)
variance_groups_maps(const double* y, const double* units, int width, const int* places, int n_maps,
                            const double* rows, const int* ends, const double* sizes, const double* rests,
                            const double* shares, const double* grams, int n, int m, int n_groups, int n_columns, int rank,
                            int is_f, double numerator, const double* polynomials, int first_x, int first_df, int n_x,
                            int n_df, double least, double* scratch, int exact, int64 out_stride, int64 out_first,
                            float* maps, double* raw) {
    const Model model = {rows, sizes, rests, shares, grams, ends, n, m, n_groups, n_columns, rank, is_f, numerator};
    const Table table = {polynomials, first_x, first_df, n_x, n_df, least};
    for (int64 item = grid_thread(); item < (int64)n_maps * width; item += grid_threads()) {
        const int64 b = item / width, v = item % width, place = b * out_stride + out_first + v;
        const Found found =
            fit(model, table, y + v, width, units[v], places + b * n, scratch + grid_thread(), grid_threads());
        if (exact) {
            raw[place] = found.statistic;
            raw[place + n_maps * out_stride] = found.df;
            raw[place + 2 * n_maps * out_stride] = found.z;
        } else {
            maps[place] = (float)found.z;
        }
    }
}

// z in float64 for a list of pairs of map and voxel (maps.cu); those whose voxel is not of the slab are left out.
KERNEL_FOR(128, 2)
variance_groups_exact(const double* y, const double* units, int width, int first, const int* count, int capacity,
                             const int* item_map, const int* item_voxel, const int* places, const double* rows,
                             const int* ends, const double* sizes, const double* rests, const double* shares,
                             const double* grams, int n, int m, int n_groups, int n_columns, int rank, int is_f,
                             double numerator, const double* polynomials, int first_x, int first_df, int n_x, int n_df,
                             double least, double* scratch, double* z) {
    const Model model = {rows, sizes, rests, shares, grams, ends, n, m, n_groups, n_columns, rank, is_f, numerator};
    const Table table = {polynomials, first_x, first_df, n_x, n_df, least};
    const int n_items = *count < capacity ? *count : capacity;
    for (int64 item = grid_thread(); item < n_items; item += grid_threads()) {
        const int64 v = item_voxel[item] - first;
        if (v < 0 || v >= width) continue;
        z[item] = fit(model, table, y + v, width, units[v], places + (int64)item_map[item] * n, scratch + grid_thread(),
                      grid_threads()).z;
    }
}
