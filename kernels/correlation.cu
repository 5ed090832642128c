// Semipartial correlations; the algebra and the notation are those of gpuvox/correlation.py, and so are the bits.

#include "common.cuh"
#include "residuals.cuh"

namespace {

const double SMALL = 1e-12;
const int ROWS = 64;  // of a tile of glm_rows

}  // namespace

// r / sqrt(1 - r^2), or R^2 / (1 - R^2) if is_square, of shuffles at voxels first ... first + width - 1. rows: of
// glm_rows, m of each shuffle: effect (rank), nuisance (n_explained), the constant if has_mean; y (n, y_stride) unit
// residuals; explained (n_explained, out_stride). Where float32 cancels: NaN, counted in marks (n_maps).
KERNEL correlation_maps(const float* rows, int row_stride, const float* y, int64 y_stride, const float* explained, int n,
                        int n_maps, int m, int rank, int n_explained, int has_mean, int is_square, float limit,
                        int64 first, int width, int64 out_stride, float* out, int* marks) {
    const int64 items = (int64)n_maps * width;
    const int group = m <= ROWS ? ROWS / m : 1, span = (m + ROWS - 1) / ROWS * ROWS;
    for (int64 item = grid_thread(); item < items; item += grid_threads()) {
        const int b = (int)(item / width);
        const int64 column = item % width, voxel = first + column;
        const float* row = rows + b / group * span + b % group * m;
        float effect = 0.0f, squares = 0.0f, total = 1.0f;
        for (int r = 0; r < m; ++r) {
            float p = 0.0f;
            for (int i = 0; i < n; ++i) p = fmaf(row[(int64)i * row_stride + r], y[i * y_stride + column], p);
            if (r < rank) {
                effect = p;
                squares += p * p;
            } else if (r < rank + n_explained) {
                const float c = explained[(r - rank) * out_stride + voxel];
                total += c * c;
                total += 2.0f * c * p;
            } else if (has_mean) {
                total -= p * p;
            }
        }
        const float left = total - squares;
        float value = nanf("");
        if (left >= limit * total)
            value = is_square ? squares / left : effect / sqrtf(left);
        else
            add(marks + b, 1);
        out[b * out_stride + voxel] = value;
    }
}

// The same in float64 from the data, for a list of pairs of map and voxel, see glm_exact. columns (n, m) float64: the
// unpermuted rows. removed (n, n_removed): what the data are residualised on. scratch: n doubles for every thread.
KERNEL_FOR(128, 2)
correlation_exact(const float* data, int64 data_stride, const double* norms, const int* count, int capacity,
                  const int* item_map, const int* item_column, const double* removed, int n_removed,
                  const double* columns, const int* shuffles, int n, int rank, int n_explained, int has_mean,
                  int is_square, double* scratch, double* statistic) {
    const int n_items = *count < capacity ? *count : capacity, m = rank + n_explained + has_mean;
    const int64 step = grid_threads();
    double* left = scratch + grid_thread();
    for (int64 item = grid_thread(); item < n_items; item += step) {
        const float* y = data + item_column[item];
        const int* shuffle = shuffles + (int64)item_map[item] * n;
        double norm = residualise(y, data_stride, n, removed, n_removed, left, step);
        if (!(norms[item_column[item]] > 0.0)) norm = 0.0;
        const double unit = norm > 0.0 ? 1.0 / norm : 0.0;
        double effect = 0.0, squares = 0.0, total = 1.0;
        for (int r = 0; r < m; ++r) {
            double product = 0.0, c = 0.0;
            for (int i = 0; i < n; ++i) product += signed_row(columns + r, shuffle[i], m) * left[i * step];
            product *= unit;
            if (fabs(product) < SMALL) product = 0.0;
            if (r < rank) {
                effect = product;
                squares += product * product;
            } else if (r < rank + n_explained) {
                for (int i = 0; i < n; ++i) c += columns[i * m + r] * (double)y[i * data_stride];
                c *= unit;
                total += c * c;
                total += 2.0 * c * product;
            } else {
                total -= product * product;
            }
        }
        if (total < SMALL) total = SMALL;
        double rest = total - squares;
        if (rest < SSE_FLOOR * total) rest = SSE_FLOOR * total;
        statistic[item] = is_square ? squares / rest : effect / sqrt(rest);
    }
}
