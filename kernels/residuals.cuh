// Residuals of a voxel in float64, as gpuvox/glm_loops.py has them, operation by operation.
#pragma once

namespace {

const double ZERO_RESIDUAL = 1e-10, ORTHOGONAL = 1e-13, SSE_FLOOR = 1e-14;

// The data y[i * y_stride] of a voxel, residualised on the columns of removed (n, n_removed), into left[i * step]; returns
// their norm, 0 where only rounding was left.
DEVICE double residualise(const float* y, int64 y_stride, int n, const double* removed, int n_removed, double* left,
                          int64 step) {
    double raw = 0.0;
    for (int i = 0; i < n; ++i) {
        const double value = (double)y[i * y_stride];
        left[i * step] = value;
        raw += value * value;
    }
    for (int a = 0; a < n_removed; ++a) {
        double coefficient = 0.0;
        for (int i = 0; i < n; ++i) coefficient += removed[i * n_removed + a] * left[i * step];
        for (int i = 0; i < n; ++i) left[i * step] -= removed[i * n_removed + a] * coefficient;
    }
    double norm = 0.0;
    for (int i = 0; i < n; ++i) norm += left[i * step] * left[i * step];
    norm = sqrt(norm);
    return norm <= ZERO_RESIDUAL * sqrt(raw) ? 0.0 : norm;
}

}  // namespace
