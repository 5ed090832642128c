// t and F maps of many shuffles; the algebra and the notation are those of gpuvox/glm.py, and so are the bits: float32
// products are summed over subjects in index order with fused multiply-add, everything else is rounded operation by
// operation.

#include "common.cuh"
#include "residuals.cuh"

namespace {

const int ROWS = 64, COLUMNS = 128, DEPTH = 8;  // tile of a block: products of ROWS rows with COLUMNS voxels
const int EACH = 8, THREAD_TILES = (ROWS / EACH) * (COLUMNS / EACH);  // a thread has EACH x EACH of them
const int ROW_FOURS = DEPTH * ROWS / 4, Y_FOURS = DEPTH * COLUMNS / 4;

struct alignas(16) Four {
    float at[4];
};

const double NOT_KEPT = 1e-10;

// Sum of the squared products of orthonormal columns (n, k) with the same columns, shuffled: k if their span is kept.
DEVICE double span_kept(const double* columns, const int* shuffle, int n, int k) {
    double kept = 0.0;
    for (int a = 0; a < k; ++a)
        for (int c = 0; c < k; ++c) {
            double product = 0.0;
            for (int i = 0; i < n; ++i) {
                const double moved = signed_row(columns + a, shuffle[i], k);
                product += moved * columns[i * k + c];
            }
            kept += product * product;
        }
    return kept;
}

// What a tile is made of: rows `row` ... of rows (n, row_stride), of which n_rows count, and voxels `column` ... of
// y (n, y_stride).
struct Factors {
    const float* rows;
    int row_stride, row, n_rows;
    const float* y;
    int64 y_stride, column;
    int n;
};

// Items i of the tiles that begin at a subject; 0 beyond what there is.
DEVICE Four row_four(const Factors& f, int subject, int i) {
    const int k = subject + i / (ROWS / 4), r = f.row + 4 * (i % (ROWS / 4));
    const Four none = {{0.0f, 0.0f, 0.0f, 0.0f}};
    return k < f.n && r < f.n_rows ? *(const Four*)(f.rows + (int64)k * f.row_stride + r) : none;
}

DEVICE Four y_four(const Factors& f, int subject, int i) {
    const int k = subject + i / (COLUMNS / 4);
    const int64 c = f.column + 4 * (i % (COLUMNS / 4));
    const Four none = {{0.0f, 0.0f, 0.0f, 0.0f}};
    return k < f.n && c < f.y_stride ? *(const Four*)(f.y + k * f.y_stride + c) : none;
}

// sum += products of one subject. A thread's columns are four of each half of the tile, so that neighbours read
// neighbouring words.
DEVICE void add_products(const Four* row_tile, const Four* y_tile, int k, int my_row, int my_column,
                         float sum[EACH][EACH]) {
    const Four row[2] = {row_tile[k * (ROWS / 4) + 2 * my_row], row_tile[k * (ROWS / 4) + 2 * my_row + 1]};
    const Four v[2] = {y_tile[k * (COLUMNS / 4) + my_column], y_tile[k * (COLUMNS / 4) + COLUMNS / 8 + my_column]};
#pragma unroll
    for (int r = 0; r < EACH; ++r)
#pragma unroll
        for (int c = 0; c < EACH; ++c) sum[r][c] = fmaf(row[r / 4].at[r % 4], v[c / 4].at[c % 4], sum[r][c]);
}

// Products of the tile, summed over subjects in index order, into products (ROWS, COLUMNS). A block of THREAD_TILES
// threads or more fetches the next part of the factors into registers while it multiplies.
DEVICE void tile_of_products(const Factors& factors, Four* row_tile, Four* y_tile, Four* products) {
    const int thread = threadIdx.x, threads = blockDim.x;
    const bool ahead = threads >= THREAD_TILES;
    for (int first = 0; first < THREAD_TILES; first += threads) {
        const int mine = first + thread;
        const int my_row = mine / (COLUMNS / EACH), my_column = mine % (COLUMNS / EACH);
        float sum[EACH][EACH];
#pragma unroll
        for (int r = 0; r < EACH; ++r)
#pragma unroll
            for (int c = 0; c < EACH; ++c) sum[r][c] = 0.0f;
        Four next_row[ROW_FOURS / THREAD_TILES], next_y[Y_FOURS / THREAD_TILES];
        for (int subject = ahead ? -DEPTH : 0; subject < factors.n; subject += DEPTH) {
            if (subject >= 0) {
                if (ahead) {
#pragma unroll
                    for (int j = 0; j < ROW_FOURS / THREAD_TILES; ++j)
                        if (thread + j * threads < ROW_FOURS) row_tile[thread + j * threads] = next_row[j];
#pragma unroll
                    for (int j = 0; j < Y_FOURS / THREAD_TILES; ++j)
                        if (thread + j * threads < Y_FOURS) y_tile[thread + j * threads] = next_y[j];
                } else {
                    for (int i = thread; i < ROW_FOURS; i += threads) row_tile[i] = row_four(factors, subject, i);
                    for (int i = thread; i < Y_FOURS; i += threads) y_tile[i] = y_four(factors, subject, i);
                }
                barrier();
            }
            if (ahead && subject + DEPTH < factors.n) {
#pragma unroll
                for (int j = 0; j < ROW_FOURS / THREAD_TILES; ++j)
                    next_row[j] = row_four(factors, subject + DEPTH, thread + j * threads);
#pragma unroll
                for (int j = 0; j < Y_FOURS / THREAD_TILES; ++j)
                    next_y[j] = y_four(factors, subject + DEPTH, thread + j * threads);
            }
            if (subject < 0) continue;
            if (mine < THREAD_TILES) {
                if (factors.n - subject >= DEPTH) {
#pragma unroll
                    for (int k = 0; k < DEPTH; ++k) add_products(row_tile, y_tile, k, my_row, my_column, sum);
                } else {
                    for (int k = 0; k < factors.n - subject; ++k)
                        add_products(row_tile, y_tile, k, my_row, my_column, sum);
                }
            }
            barrier();
        }
        if (mine < THREAD_TILES) {
#pragma unroll
            for (int r = 0; r < EACH; ++r)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float* s = sum[r] + 4 * half;
                    const Four value = {{s[0], s[1], s[2], s[3]}};
                    products[(EACH * my_row + r) * (COLUMNS / 4) + half * (COLUMNS / 8) + my_column] = value;
                }
        }
    }
    barrier();
}

}  // namespace

// Shuffled basis, as the products want it: rows (n, row_stride) float32, in whole tiles of ROWS
// columns. A tile holds as many shuffles as fit, per_shuffle columns each; a shuffle with more takes several.
// basis (n, per_shuffle) float64; shuffles (n_maps, n): see gpuvox/signed_rows.py.
KERNEL glm_rows(const double* basis, const int* shuffles, int n, int n_maps, int per_shuffle, int row_stride, float* rows) {
    const int64 items = (int64)n * row_stride;
    const int group = per_shuffle <= ROWS ? ROWS / per_shuffle : 1;
    const int span = (per_shuffle + ROWS - 1) / ROWS * ROWS;
    for (int64 item = grid_thread(); item < items; item += grid_threads()) {
        const int i = (int)(item / row_stride), column = (int)(item % row_stride);
        const int in_group = column % span;
        const int b = column / span * group + in_group / per_shuffle, r = in_group % per_shuffle;
        float value = 0.0f;
        if (in_group < group * per_shuffle && b < n_maps) {
            const int s = shuffles[(int64)b * n + i];
            value = (float)signed_row(basis + r, s, per_shuffle);
        }
        rows[item] = value;
    }
}

// whole[b] = 1 for shuffles under which any data have the unpermuted statistic, up to the sign of t: they leave the
// span of the effect as it is, and that of the nuisance that moves. effect (n, rank), moving (n, n_moving): orthonormal.
KERNEL glm_equivalent(const double* effect, const double* moving, const int* shuffles, int n, int n_maps, int rank,
                      int n_moving, int* whole) {
    for (int64 b = grid_thread(); b < n_maps; b += grid_threads()) {
        const int* shuffle = shuffles + b * n;
        const double kept = span_kept(effect, shuffle, n, rank);
        whole[b] = kept > rank - NOT_KEPT && span_kept(moving, shuffle, n, n_moving) > n_moving - NOT_KEPT;
    }
}

// Statistic maps. Block (x, y): the x-th group of shuffles at the y-th tile of voxels. y (n, y_stride) unit residuals
// of the voxels of a slab, y_stride a multiple of 4; out (n_maps, out_stride), of which columns out_first ... are
// written. A voxel whose SSE is under `limit` becomes NaN and is counted in marks (n_maps). scale: df for t, df / rank
// for F. sse (like out) is written if want_sse.
template <bool F>
KERNEL_FOR(128, 4)
glm_maps(const float* rows, int row_stride, const float* y, int64 y_stride, int n, int n_maps, int per_shuffle, int rank,
         float scale, float limit, int n_voxels, float* out, int64 out_stride, int64 out_first, int want_sse, float* sse,
         int* marks) {
    SHARED(Four, row_tile, ROW_FOURS);
    SHARED(Four, y_tile, Y_FOURS);
    SHARED(Four, products, ROWS* COLUMNS / 4);
    SHARED(float, carried_sse, COLUMNS);
    SHARED(float, carried_effect, COLUMNS);
    const int thread = threadIdx.x, threads = blockDim.x;
    const int group = per_shuffle <= ROWS ? ROWS / per_shuffle : 1;  // shuffles of a block
    const int span = (per_shuffle + ROWS - 1) / ROWS * ROWS;  // columns of `rows` that they take
    const int first_map = (int)blockIdx.x * group;
    const int maps = n_maps - first_map < group ? n_maps - first_map : group;
    const int64 column = (int64)blockIdx.y * COLUMNS;
    for (int chunk = 0; chunk < per_shuffle; chunk += ROWS) {  // more than one where a shuffle has more rows than a tile
        const Factors factors = {rows, row_stride, (int)blockIdx.x * span + chunk, row_stride, y, y_stride, column, n};
        tile_of_products(factors, row_tile, y_tile, products);
        const int chunk_rows = per_shuffle - chunk < ROWS ? per_shuffle - chunk : ROWS;
        const bool last = chunk + chunk_rows == per_shuffle;
        for (int item = thread; item < maps * COLUMNS; item += threads) {
            const int b = item / COLUMNS, j = item % COLUMNS;
            const float* product = products[0].at + b * per_shuffle * COLUMNS + j;
            float left = chunk ? carried_sse[j] : 1.0f, effect = chunk ? carried_effect[j] : 0.0f;
            for (int r = 0; r < chunk_rows; ++r) {
                const float p = product[r * COLUMNS];
                left -= p * p;
                if (F) {
                    if (chunk + r < rank) effect += p * p;
                } else if (chunk + r == 0) {
                    effect = p;
                }
            }
            if (!last) {
                carried_sse[j] = left;
                carried_effect[j] = effect;
                continue;
            }
            if (column + j >= n_voxels) continue;
            float statistic = F ? effect * scale / left : effect * sqrtf(scale / left);
            if (left < limit) {
                statistic = nanf("");
                add(marks + first_map + b, 1);
            }
            const int64 place = (first_map + b) * out_stride + out_first + column + j;
            out[place] = statistic;
            if (want_sse) sse[place] = left;
        }
        barrier();
    }
}

// Unit residuals (n, width) float32 of data (n, n_voxels), 0 where there is no residual and beyond the last voxel, and
// norms (n_voxels). counts (n): rows in which the data of a voxel must differ, or it has no residual. scratch: n doubles
// for every thread of the grid.
KERNEL glm_residuals(const float* data, int64 n_voxels, int64 width, const double* removed, int n_removed,
                     const int* counts, int n, double* scratch, float* residuals, double* norms) {
    const int64 step = grid_threads();
    double* left = scratch + grid_thread();
    for (int64 voxel = grid_thread(); voxel < width; voxel += step) {
        if (voxel >= n_voxels) {
            for (int i = 0; i < n; ++i) residuals[i * width + voxel] = 0.0f;
            continue;
        }
        const float* y = data + voxel;
        double norm = residualise(y, n_voxels, n, removed, n_removed, left, step);
        int last = -1;
        bool differs = false;
        for (int i = 0; i < n; ++i) {
            if (!counts[i]) continue;
            if (last >= 0 && y[i * n_voxels] != y[last * n_voxels]) differs = true;
            last = i;
        }
        if (!differs) norm = 0.0;
        norms[voxel] = norm;
        const double unit = norm > 0.0 ? 1.0 / norm : 0.0;
        for (int i = 0; i < n; ++i) residuals[i * width + voxel] = (float)(left[i * step] * unit);
    }
}

// Statistic and SSE in float64 from the data, for a list of pairs of map and voxel (maps.cu): data (n, data_stride), and
// the norms of their residuals, 0 for none, at column item_column[i]. removed (n, n_removed): what the data are
// residualised on; basis, shuffles as for glm_rows. scratch: n doubles for every thread of the grid.
KERNEL_FOR(128, 2)
glm_exact(const float* data, int64 data_stride, const double* norms, const int* count, int capacity,
          const int* item_map, const int* item_column, const double* removed, int n_removed, const double* basis,
          const int* shuffles, int n, int per_shuffle, int has_signs, int rank, int is_f, double df, double* scratch,
          double* statistic, double* sse_out) {
    const int n_items = *count < capacity ? *count : capacity;
    const int64 step = grid_threads();
    double* left = scratch + grid_thread();
    for (int64 item = grid_thread(); item < n_items; item += step) {
        const int* shuffle = shuffles + (int64)item_map[item] * n;
        double norm = residualise(data + item_column[item], data_stride, n, removed, n_removed, left, step);
        if (!(norms[item_column[item]] > 0.0)) norm = 0.0;
        const double unit = norm > 0.0 ? 1.0 / norm : 0.0;
        double effect = 0.0;
        for (int r = 0; r < per_shuffle; ++r) {
            double product = 0.0;
            for (int i = 0; i < n; ++i) {
                const int s = shuffle[i];
                const double w = has_signs ? signed_row(basis + r, s, per_shuffle) : basis[s * per_shuffle + r];
                product += w * left[i * step];
            }
            for (int i = 0; i < n; ++i) {
                const int s = shuffle[i];
                const double w = has_signs ? signed_row(basis + r, s, per_shuffle) : basis[s * per_shuffle + r];
                left[i * step] -= w * product;
            }
            double share = product * unit;
            if (fabs(share) < ORTHOGONAL) share = 0.0;
            if (r < rank) effect = is_f ? effect + share * share : share;
        }
        double sse = 0.0;
        for (int i = 0; i < n; ++i) {
            const double residual = left[i * step] * unit;
            sse += residual * residual;
        }
        if (norm == 0.0) sse = 1.0;
        if (sse < SSE_FLOOR) sse = SSE_FLOOR;
        sse_out[item] = sse;
        statistic[item] = is_f ? effect / rank * (df / sse) : effect * sqrt(df / sse);
    }
}

// variance[b, v] = SSE of the data, not of unit residuals (their degrees of freedom cancel in what follows).
KERNEL glm_variance(const float* sse, const double* norms, int64 n_voxels, int64 n_maps, float* variance) {
    for (int64 b = blockIdx.y; b < n_maps; b += gridDim.y)
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads())
            variance[b * n_voxels + v] = (float)((double)sse[b * n_voxels + v] * (norms[v] * norms[v]));
}

// t * sqrt(variance / smoothed variance), in place.
KERNEL glm_smooth_variance(float* t, const float* variance, const float* smoothed, int64 n) {
    for (int64 item = grid_thread(); item < n; item += grid_threads()) {
        const float ratio = smoothed[item] > 0.0f ? variance[item] / smoothed[item] : 0.0f;
        t[item] *= sqrtf(ratio);
    }
}

// z of an F: a cubic for every interval of F whose float32 numbers share their first `bits` bits; 0 under the first
// interval, where z would be negative. cubics (n_intervals, 4), highest power first.
KERNEL glm_f_to_z(const float* f, int64 n, int first, int n_intervals, int bits, const double* cubics, float* z) {
    const int rest = 32 - bits;
    for (int64 item = grid_thread(); item < n; item += grid_threads()) {
        float value = 0.0f;
        if (f[item] > 0.0f) {
            const int number = float_bits(f[item]);
            int interval = (number >> rest) - first;
            double d = (double)(number & ((1 << rest) - 1)) / (double)(1 << rest);
            if (interval >= n_intervals) {
                interval = n_intervals - 1;
                d = 1.0;
            }
            if (interval >= 0) {
                const double* c = cubics + 4 * (int64)interval;
                const double out = ((c[0] * d + c[1]) * d + c[2]) * d + c[3];
                value = out > 0.0 ? (float)out : 0.0f;
            }
        }
        z[item] = value;
    }
}
