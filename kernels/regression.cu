// Rows of permutation methods other than Freedman and Lane's; the algebra and the notation are those of
// gpuvox/regression_methods.py, and so are the bits.

#include "common.cuh"

namespace {

const double LOST = 1e-10, KEPT = 1e-10;

// column -= its projection on one other; entries of the column are m apart, of the other `apart`.
DEVICE void project_out(double* column, int m, const double* other, int apart, int n) {
    double coefficient = 0.0;
    for (int i = 0; i < n; ++i) coefficient += other[(int64)i * apart] * column[(int64)i * m];
    for (int i = 0; i < n; ++i) column[(int64)i * m] -= other[(int64)i * apart] * coefficient;
}

}  // namespace

// Orthonormal rows of a model some of whose nuisance stays in place: out (n_maps + 1, n, m), the unpermuted ones first.
// columns (n, m): effect (rank), then nuisance that moves along; kept (n, n_kept) orthonormal. A column that lies in
// the span of those before it becomes 0. identity (n): a shuffle that moves nothing.
KERNEL regression_rows(const double* columns, const double* kept, const int* shuffles, const int* identity, int n,
                       int n_maps, int m, int n_kept, int rank, double* out) {
    for (int64 b = grid_thread(); b <= n_maps; b += grid_threads()) {
        const int* shuffle = b ? shuffles + (b - 1) * n : identity;
        double* mine = out + b * n * m;
        for (int step = 0; step < m; ++step) {
            const int c = (rank + step) % m;
            double* column = mine + c;
            for (int i = 0; i < n; ++i) column[(int64)i * m] = signed_row(columns + c, shuffle[i], m);
            for (int twice = 0; twice < 2; ++twice) {
                for (int a = 0; a < n_kept; ++a) project_out(column, m, kept + a, n_kept, n);
                for (int before = 0; before < step; ++before)
                    project_out(column, m, mine + (rank + before) % m, m, n);
            }
            double norm = 0.0;
            for (int i = 0; i < n; ++i) norm += column[(int64)i * m] * column[(int64)i * m];
            norm = sqrt(norm);
            const double scale = norm > LOST ? 1.0 / norm : 0.0;
            for (int i = 0; i < n; ++i) column[(int64)i * m] *= scale;
        }
    }
}

// whole[b] = 1 for shuffles whose rows span what the unpermuted ones do. rows: of regression_rows; n_rest = m - rank.
KERNEL regression_equivalent(const double* rows, int n, int n_maps, int rank, int n_rest, int* whole) {
    const int m = rank + n_rest;
    for (int64 b = grid_thread(); b < n_maps; b += grid_threads()) {
        const double* mine = rows + (b + 1) * n * m;
        double kept[2] = {0.0, 0.0};
        for (int a = 0; a < m; ++a)
            for (int c = a < rank ? 0 : rank; c < (a < rank ? rank : m); ++c) {
                double product = 0.0;
                for (int i = 0; i < n; ++i) product += mine[(int64)i * m + a] * rows[(int64)i * m + c];
                kept[a >= rank] += product * product;
            }
        whole[b] = kept[0] > rank - KEPT && kept[1] > n_rest - KEPT;
    }
}

// still[b] = 1 for shuffles that leave every row in its place.
KERNEL regression_moves_nothing(const int* shuffles, int n, int n_maps, int* still) {
    for (int64 b = grid_thread(); b < n_maps; b += grid_threads()) {
        int in_place = 1;
        for (int i = 0; i < n; ++i) in_place &= shuffles[b * n + i] == i;
        still[b] = in_place;
    }
}
