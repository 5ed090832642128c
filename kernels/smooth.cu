// Gaussian smoothing of maps in the padded box of the mask, one axis at a time, as in gpuvox/smooth.py: each pass adds
// pairs of neighbours by growing distance in float32, so that the bits are the same. What lies outside is 0. Blocks
// along y are for maps.

#include "common.cuh"

// Maps (n_maps, n_voxels) into boxes (n_maps, box), which are zero elsewhere.
KERNEL smooth_fill(const float* maps, const int* index, int64 n_voxels, int64 n_maps, int64 box, float* boxes) {
    for (int64 b = blockIdx.y; b < n_maps; b += gridDim.y)
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads())
            boxes[b * box + index[v]] = maps[b * n_voxels + v];
}

// One pass along an axis whose positions lie `step` apart and number `length`; weights (half_width + 1).
KERNEL smooth_pass(const float* in, int64 n_maps, int64 box, int step, int length, const float* weights, int half_width,
                   float* out) {
    for (int64 b = blockIdx.y; b < n_maps; b += gridDim.y)
        for (int64 p = grid_thread(); p < box; p += grid_threads()) {
            const int before = (int)p / step % length, after = length - 1 - before;
            const int farthest = before > after ? before : after;
            const int reach = half_width < farthest ? half_width : farthest;
            const float* here = in + b * box + p;
            float sum = 0.0f;
            sum += weights[0] * 0.5f * (*here + *here);
            for (int k = 1; k <= reach; ++k) {
                const float low = k <= before ? here[-(int64)k * step] : 0.0f;
                const float high = k <= after ? here[(int64)k * step] : 0.0f;
                sum += weights[k] * (low + high);
            }
            out[b * box + p] = sum;
        }
}

// Back to maps, divided by the smoothed mask, norm (n_voxels).
KERNEL smooth_gather(const float* boxes, const int* index, int64 n_voxels, int64 n_maps, int64 box, const float* norm,
                     float* maps) {
    for (int64 b = blockIdx.y; b < n_maps; b += gridDim.y)
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads())
            maps[b * n_voxels + v] = boxes[b * box + index[v]] / norm[v];
}
