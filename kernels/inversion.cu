// Iron and myelin from QSM and R1 in one pass over memory: conversion between fields, inversion of the linear model,
// reference, modulation. gpuvox/qmri.py says what the thirteen coefficients are.

#include "common.cuh"

namespace {

struct Tissue {
    double iron, myelin;
    bool is_background;
};

DEVICE Tissue invert(float qsm, float r1, const double* c) {
    Tissue out = {0.0, 0.0, true};
    const double x = qsm;
    double y = r1;
    if (!(y > 0.0) || !(fabs(x) < 1e300) || !(y < 1e300)) return out;  // not positive, or not finite
    y = y < c[0] ? c[1] * y + c[2] : c[3] * y + c[4];
    out.iron = c[5] * x + c[6] * y + c[7];
    out.myelin = c[8] * x + c[9] * y + c[10];
    out.is_background = false;
    return out;
}

}  // namespace

// out (2, n) or, with content, (4, n): concentrations of iron and myelin less the reference c[11], c[12], contents.
KERNEL inversion_maps(const float* qsm, const float* r1, const float* jacobian, int content, int64 n, const double* c,
                      float* out) {
    for (int64 v = grid_thread(); v < n; v += grid_threads()) {
        const Tissue tissue = invert(qsm[v], r1[v], c);
        const double iron = tissue.is_background ? 0.0 : tissue.iron - c[11];
        const double myelin = tissue.is_background ? 0.0 : tissue.myelin - c[12];
        out[v] = (float)iron;
        out[n + v] = (float)myelin;
        if (content) {
            const double j = tissue.is_background ? 0.0 : (double)jacobian[v];
            out[2 * n + v] = (float)(iron * j);
            out[3 * n + v] = (float)(myelin * j);
        }
    }
}

// sums (3, blocks): of iron, of myelin, and number of voxels of the mask, by block. Dynamic shared memory: three doubles
// a thread.
KERNEL inversion_sums(const float* qsm, const float* r1, const unsigned char* mask, int64 n, const double* c,
                      double* sums) {
    DYNAMIC_SHARED(memory);
    double* shared = (double*)memory;
    double sum[3] = {0.0, 0.0, 0.0};
    for (int64 v = grid_thread(); v < n; v += grid_threads()) {
        if (!mask[v]) continue;
        const Tissue tissue = invert(qsm[v], r1[v], c);
        if (tissue.is_background) continue;
        sum[0] += tissue.iron;
        sum[1] += tissue.myelin;
        sum[2] += 1.0;
    }
    for (int i = 0; i < 3; ++i) shared[3 * threadIdx.x + i] = sum[i];
    barrier();
    for (int i = threadIdx.x; i < 3; i += blockDim.x) {
        double total = 0.0;
        for (int j = 0; j < (int)blockDim.x; ++j) total += shared[3 * j + i];
        sums[i * gridDim.x + blockIdx.x] = total;
    }
    barrier();
}
