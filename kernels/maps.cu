// What a permutation test does with maps, (n_maps, n_voxels) each: extremes, ties with the observed map, counts, sums.
// The twins are in gpuvox/maps.py.

#include "common.cuh"

namespace {

const float TIE = 1e-4f, STEP_TIE = 1e-5f;

DEVICE float at_least_one(float x) { return x > 1.0f ? x : 1.0f; }

DEVICE bool is_near(float value, float observed) {
    return fabsf(value - observed) <= TIE * at_least_one(fabsf(observed));
}

}  // namespace

// out (2, n_maps): largest value of each map and of its negative. A block a map; dynamic shared memory: 2 values a
// thread.
template <class T> KERNEL maps_extremes(const T* maps, int n_maps, int64 n_voxels, T* out) {
    DYNAMIC_SHARED(memory);
    T* high = (T*)memory;
    T* low = high + blockDim.x;
    for (int64 b = blockIdx.x; b < n_maps; b += gridDim.x) {
        const T* map = maps + b * n_voxels;
        T largest = map[0], smallest = map[0];
        for (int64 v = threadIdx.x; v < n_voxels; v += blockDim.x) {
            if (map[v] > largest) largest = map[v];
            if (map[v] < smallest) smallest = map[v];
        }
        high[threadIdx.x] = largest;
        low[threadIdx.x] = smallest;
        barrier();
        if (threadIdx.x == 0) {
            for (int i = 1; i < (int)blockDim.x; ++i) {
                if (high[i] > largest) largest = high[i];
                if (low[i] < smallest) smallest = low[i];
            }
            out[b] = largest;
            out[n_maps + b] = -smallest;
        }
        barrier();
    }
}

// ties[b] = 1 where the map is within rounding of the observed one, or of its negative, at every voxel. A block a map.
KERNEL maps_ties_everywhere(const float* maps, int n_maps, int64 n_voxels, const float* observed, int* ties) {
    SHARED(int, differs, 2);
    const int64 stretch = 8 * (int64)blockDim.x;
    for (int64 b = blockIdx.x; b < n_maps; b += gridDim.x) {
        const float* map = maps + b * n_voxels;
        for (int i = threadIdx.x; i < 2; i += blockDim.x) differs[i] = 0;
        barrier();
        bool both = false;
        for (int64 start = 0; start < n_voxels && !both; start += stretch) {
            const int64 stop = start + stretch < n_voxels ? start + stretch : n_voxels;
            for (int64 v = start + threadIdx.x; v < stop; v += blockDim.x) {
                if (!is_near(map[v], observed[v])) store(differs, 1);
                if (!(fabsf(map[v] + observed[v]) <= TIE * at_least_one(fabsf(observed[v])))) store(differs + 1, 1);
            }
            barrier();
            both = load(differs) && load(differs + 1);
            barrier();
        }
        if (threadIdx.x == 0) ties[b] = !(differs[0] && differs[1]);
        barrier();
    }
}

// Lists of pairs (map, voxel) with the value there; *count goes on counting beyond the capacity. Blocks along y are for
// maps; those before first_map are left out.

namespace {

DEVICE void list_item(int b, int64 v, float value, int capacity, int* count, int* item_map, int* item_voxel,
                      float* item_value) {
    const int i = add(count, 1);
    if (i >= capacity) return;
    item_map[i] = b;
    item_voxel[i] = (int)v;
    item_value[i] = value;
}

}  // namespace

// NaN, or the whole map where whole[b].
KERNEL maps_list_unsettled(const float* maps, int first_map, int n_maps, int64 n_voxels, const int* whole,
                               int capacity, int* count, int* item_map, int* item_voxel, float* item_value) {
    for (int b = first_map + blockIdx.y; b < n_maps; b += gridDim.y) {
        const float* map = maps + b * n_voxels;
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads())
            if (map[v] != map[v] || whole[b])
                list_item(b, v, map[v], capacity, count, item_map, item_voxel, item_value);
    }
}

// Within rounding of the maximum of sign * map; maxima (n_maps), maps with a maximum of 0 are left out.
KERNEL maps_list_close(const float* maps, int first_map, int n_maps, int64 n_voxels, float sign, const float* maxima,
                           int capacity, int* count, int* item_map, int* item_voxel, float* item_value) {
    for (int b = first_map + blockIdx.y; b < n_maps; b += gridDim.y) {
        const float* map = maps + b * n_voxels;
        const float bound = maxima[b] - TIE * at_least_one(maxima[b]);
        if (maxima[b] == 0.0f) continue;
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads())
            if (sign * map[v] >= bound)
                list_item(b, v, map[v], capacity, count, item_map, item_voxel, item_value);
    }
}

// Within rounding of the observed value; voxels that are 0 in both are left out.
KERNEL maps_list_ties(const float* maps, int first_map, int n_maps, int64 n_voxels, const float* observed,
                          int capacity, int* count, int* item_map, int* item_voxel, float* item_value) {
    for (int b = first_map + blockIdx.y; b < n_maps; b += gridDim.y) {
        const float* map = maps + b * n_voxels;
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads())
            if (is_near(map[v], observed[v]) && (map[v] != 0.0f || observed[v] != 0.0f))
                list_item(b, v, map[v], capacity, count, item_map, item_voxel, item_value);
    }
}

// Within rounding of a threshold, or of its negative.
KERNEL maps_list_threshold(const float* maps, int first_map, int n_maps, int64 n_voxels, float threshold,
                           int capacity, int* count, int* item_map, int* item_voxel, float* item_value) {
    for (int b = first_map + blockIdx.y; b < n_maps; b += gridDim.y) {
        const float* map = maps + b * n_voxels;
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads())
            if (is_near(fabsf(map[v]), threshold))
                list_item(b, v, map[v], capacity, count, item_map, item_voxel, item_value);
    }
}

// Within rounding of a whole number of steps; up, down: steps in a unit of the map and of its negative, 0 for none.
KERNEL maps_list_steps(const float* maps, int first_map, int n_maps, int64 n_voxels, float up, float down,
                       int capacity, int* count, int* item_map, int* item_voxel, float* item_value) {
    for (int b = first_map + blockIdx.y; b < n_maps; b += gridDim.y) {
        const float* map = maps + b * n_voxels;
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads()) {
            const float per_step = map[v] < 0.0f ? down : up, height = fabsf(map[v]) * per_step;
            const float nearest = rintf(height);
            if (nearest >= 1.0f && fabsf(height - nearest) <= STEP_TIE * (height + per_step))
                list_item(b, v, map[v], capacity, count, item_map, item_voxel, item_value);
        }
    }
}

// maps[item] = value, rounded once.
KERNEL maps_put(const int* item_map, const int* item_voxel, const double* value, int n_items, int64 n_voxels,
                    float* maps) {
    for (int64 i = grid_thread(); i < n_items; i += grid_threads())
        maps[item_map[i] * n_voxels + item_voxel[i]] = (float)value[i];
}

// below (2, n_voxels): maps below the observed value, and negated maps below its negative. DISJOINT: the signs are
// separate statistics, each 0 where the other is not.
template <class T, bool DISJOINT>
KERNEL maps_count_below(const T* maps, int n_maps, int64 n_voxels, const T* observed, int64* below) {
    for (int64 v = grid_thread(); v < n_voxels; v += grid_threads()) {
        T target = observed[v], negated = -target;
        if (DISJOINT && target < 0) target = 0;
        if (DISJOINT && negated < 0) negated = 0;
        int64 up = 0, down = 0;
        for (int b = 0; b < n_maps; ++b) {
            T value = maps[b * n_voxels + v], other = -value;
            if (DISJOINT && value < 0) value = 0;
            if (DISJOINT && other < 0) other = 0;
            up += value < target;
            down += other < negated;
        }
        below[v] = up;
        below[n_voxels + v] = down;
    }
}

namespace {

// Scores up to here are integers, larger ones logarithmic: LINEAR of gpuvox/heights.py.
const int64 LINEAR = 0x7800000000000000LL;

DEVICE int64 linear(int64 value) { return value < LINEAR ? value : LINEAR; }
DEVICE double linear(double value) { return value; }

// What is added: integer scores without their last bits, or multiples of a quantum, so that the order does not matter.
DEVICE int64 share(int64 value, int shift, double) { return linear(value) >> shift; }
DEVICE double share(double value, int, double quantum) { return rint(value / quantum) * quantum; }

}  // namespace

// total, nonzero (2, n_voxels): sums of the positive parts of the maps and of their negatives; how many are not 0.
template <class T>
KERNEL maps_sum_up(const T* maps, int n_maps, int64 n_voxels, int shift, double quantum, T* total, int64* nonzero) {
    for (int64 v = grid_thread(); v < n_voxels; v += grid_threads()) {
        T up = 0, down = 0;
        int64 n_up = 0, n_down = 0;
        for (int b = 0; b < n_maps; ++b) {
            const T value = maps[b * n_voxels + v];
            if (value > 0) {
                up += share(value, shift, quantum);
                ++n_up;
            } else if (value < 0) {
                down += share((T)-value, shift, quantum);
                ++n_down;
            }
        }
        total[v] = up;
        total[n_voxels + v] = down;
        nonzero[v] = n_up;
        nonzero[n_voxels + v] = n_down;
    }
}

// out = score * scale / local mean, with the scale and the local mean (2, n_voxels) of the score's sign.
template <class T>
KERNEL maps_normalise(const T* maps, int n_maps, int64 n_voxels, double scale_up, double scale_down,
                          const double* local, double* out) {
    for (int b = blockIdx.y; b < n_maps; b += gridDim.y)
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads()) {
            const T value = maps[b * n_voxels + v];
            double normalised = 0.0;
            if (value > 0 && local[v] > 0.0) normalised = (double)linear(value) * scale_up / local[v];
            if (value < 0 && local[n_voxels + v] > 0.0)
                normalised = -((double)linear((T)-value) * scale_down / local[n_voxels + v]);
            out[b * n_voxels + v] = normalised;
        }
}
