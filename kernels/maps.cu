// What a permutation test does with maps, (n_maps, n_voxels) each: extremes, ties with the observed map, counts, sums.
// The twins are in gpuvox/reductions.py.

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
        for (int left = blockDim.x, half; left > 1; left = half) {
            half = (left + 1) / 2;
            const int i = threadIdx.x, other = i + half;
            if (other < left) {
                if (high[other] > high[i]) high[i] = high[other];
                if (low[other] < low[i]) low[i] = low[other];
            }
            barrier();
        }
        if (threadIdx.x == 0) {
            out[b] = high[0];
            out[n_maps + b] = -low[0];
        }
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

struct List {
    int *count, capacity, *map, *voxel;
    float* value;
};

DEVICE void list_item(List list, int b, int64 v, float value) {
    const int i = add(list.count, 1);
    if (i >= list.capacity) return;
    list.map[i] = b;
    list.voxel[i] = (int)v;
    list.value[i] = value;
}

DEVICE int length_of(const int* count, int capacity) { return *count < capacity ? *count : capacity; }

}  // namespace

// NaN in maps where marks[b] is not 0; the whole map where whole[b] is not 0.
KERNEL maps_list_unsettled(const float* maps, int first_map, int n_maps, int64 n_voxels, const int* marks,
                           const int* whole, int* count, int capacity, int* item_map, int* item_voxel,
                           float* item_value) {
    const List list = {count, capacity, item_map, item_voxel, item_value};
    for (int b = first_map + blockIdx.y; b < n_maps; b += gridDim.y) {
        if (!marks[b] && !whole[b]) continue;
        const float* map = maps + b * n_voxels;
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads())
            if (map[v] != map[v] || whole[b]) list_item(list, b, v, map[v]);
    }
}

// Within rounding of the maximum of the map (rows & 1), or of the maximum of its negative (rows & 2); maxima (2, n_all).
// A maximum of 0 is left out.
KERNEL maps_list_close(const float* maps, int first_map, int n_maps, int64 n_voxels, int n_all, int rows,
                       const float* maxima, int* count, int capacity, int* item_map, int* item_voxel,
                       float* item_value) {
    const List list = {count, capacity, item_map, item_voxel, item_value};
    for (int b = first_map + blockIdx.y; b < n_maps; b += gridDim.y) {
        const float* map = maps + b * n_voxels;
        const float high = maxima[b], low = maxima[n_all + b];
        const bool up = rows & 1 && high != 0.0f, down = rows & 2 && low != 0.0f;
        const float least_up = high - TIE * at_least_one(high), least_down = low - TIE * at_least_one(low);
        if (!up && !down) continue;
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads()) {
            const float value = map[v];
            if ((up && value >= least_up) || (down && -value >= least_down)) list_item(list, b, v, value);
        }
    }
}

// Within rounding of the observed value; voxels that are 0 in both are left out.
KERNEL maps_list_ties(const float* maps, int first_map, int n_maps, int64 n_voxels, const float* observed, int* count,
                      int capacity, int* item_map, int* item_voxel, float* item_value) {
    const List list = {count, capacity, item_map, item_voxel, item_value};
    for (int b = first_map + blockIdx.y; b < n_maps; b += gridDim.y) {
        const float* map = maps + b * n_voxels;
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads())
            if (is_near(map[v], observed[v]) && (map[v] != 0.0f || observed[v] != 0.0f))
                list_item(list, b, v, map[v]);
    }
}

// Within rounding of a threshold, or of its negative.
KERNEL maps_list_threshold(const float* maps, int first_map, int n_maps, int64 n_voxels, float threshold, int* count,
                           int capacity, int* item_map, int* item_voxel, float* item_value) {
    const List list = {count, capacity, item_map, item_voxel, item_value};
    for (int b = first_map + blockIdx.y; b < n_maps; b += gridDim.y) {
        const float* map = maps + b * n_voxels;
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads())
            if (is_near(fabsf(map[v]), threshold)) list_item(list, b, v, map[v]);
    }
}

namespace {

DEVICE bool is_near_step(float value, float up, float down) {
    const float per_step = value < 0.0f ? down : up, height = fabsf(value) * per_step, nearest = rintf(height);
    return nearest >= 1.0f && fabsf(height - nearest) <= STEP_TIE * (height + per_step);
}

}  // namespace

// Within rounding of a whole number of steps; up, down: steps in a unit of the map and of its negative, 0 for none.
KERNEL maps_list_steps(const float* maps, int first_map, int n_maps, int64 n_voxels, float up, float down, int* count,
                       int capacity, int* item_map, int* item_voxel, float* item_value) {
    const List list = {count, capacity, item_map, item_voxel, item_value};
    for (int b = first_map + blockIdx.y; b < n_maps; b += gridDim.y) {
        const float* map = maps + b * n_voxels;
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads())
            if (is_near_step(map[v], up, down)) list_item(list, b, v, map[v]);
    }
}

// The same for `cap` steps up to the maximum of the map, and of its negative if there are two signs; maxima (2, n_all).
KERNEL maps_list_own_steps(const float* maps, int first_map, int n_maps, int64 n_voxels, int n_all, int signs, float cap,
                           const float* maxima, int* count, int capacity, int* item_map, int* item_voxel,
                           float* item_value) {
    const List list = {count, capacity, item_map, item_voxel, item_value};
    for (int b = first_map + blockIdx.y; b < n_maps; b += gridDim.y) {
        const float* map = maps + b * n_voxels;
        const float high = maxima[b], low = signs == 2 ? maxima[n_all + b] : 0.0f;
        const float up = high > 0.0f ? cap / high : 0.0f, down = low > 0.0f ? cap / low : 0.0f;
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads())
            if (is_near_step(map[v], up, down)) list_item(list, b, v, map[v]);
    }
}

// What is done with the items of a list that have been computed in float64.

// maps[item] = value, rounded once.
KERNEL maps_put(const int* count, int capacity, const int* item_map, const int* item_voxel, const double* value,
                int64 n_voxels, float* maps) {
    for (int64 i = grid_thread(); i < length_of(count, capacity); i += grid_threads())
        maps[item_map[i] * n_voxels + item_voxel[i]] = (float)value[i];
}

// best (2, n_maps): the maxima `top` as ordered integers; where listed values decide, the lowest integer. Those are the
// maps from `first` on whose maximum is not 0, and not the negatives if there is one sign.
KERNEL maps_start_maxima(const float* top, int first, int n_maps, int signs, int* best) {
    for (int64 i = grid_thread(); i < 2 * (int64)n_maps; i += grid_threads()) {
        const bool decided = i < (int64)signs * n_maps && i % n_maps >= first && top[i] != 0.0f;
        best[i] = decided ? -2147483647 - 1 : ordered(top[i]);
    }
}

// Raises the maxima of the maps, and of their negatives if there are two signs, to the values of the list, rounded once.
KERNEL maps_raise_maxima(const int* count, int capacity, const int* item_map, const int* item_voxel,
                         const double* value, int n_maps, int signs, int* best) {
    (void)item_voxel;
    for (int64 i = grid_thread(); i < length_of(count, capacity); i += grid_threads()) {
        const float rounded = (float)value[i];
        raise(best + item_map[i], ordered(rounded));
        if (signs == 2) raise(best + n_maps + item_map[i], ordered(-rounded));
    }
}

// below (2, n_voxels) of maps_count_below, where it took the float32 value of an item for its float64 one.
KERNEL maps_settle_below(const int* count, int capacity, const int* item_map, const int* item_voxel,
                         const float* counted, const double* value, const float* observed, int64 n_voxels,
                         int64* below) {
    (void)item_map;
    for (int64 i = grid_thread(); i < length_of(count, capacity); i += grid_threads()) {
        const int v = item_voxel[i];
        const float right = (float)value[i], wrong = counted[i], target = observed[v];
        const int64 up = (int64)(right < target) - (wrong < target), down = (int64)(right > target) - (wrong > target);
        if (up) add(below + v, up);
        if (down) add(below + n_voxels + v, down);
    }
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

namespace {

// What a value is worth: of integer scores, those beyond LINEAR are logarithms, see gpuvox/heights.py.
DEVICE double worth(double value) { return value; }
DEVICE double worth(int64 score) {
    if (score <= LINEAR) return (double)score;
    union { int64 i; double d; } bits;
    bits.i = ((score - LINEAR) << 3) + double_bits((double)LINEAR);
    return bits.d;
}

// What users see of a value, see gpuvox/gathering.py.
struct Shown {
    int disjoint, sizes;
    double scale_up, scale_down;
};

template <class T> DEVICE double shown(T value, const Shown& how) {
    if (value >= 0) return worth(value) * how.scale_up;
    if (how.sizes) return worth((T)-value) * how.scale_down;
    return how.disjoint ? 0.0 : -(worth((T)-value) * how.scale_up);
}

}  // namespace

// sums (3, n_voxels): of s * quanta, s^2 * quanta and s^3 * quanta, each rounded, where s is the value cut to the limit,
// times per_limit.
template <class T>
KERNEL maps_power_sums(const T* maps, int n_maps, int64 n_voxels, int disjoint, int sizes, double scale_up,
                       double scale_down, double limit, double per_limit, double quanta, int64* sums) {
    const Shown how = {disjoint, sizes, scale_up, scale_down};
    for (int64 v = grid_thread(); v < n_voxels; v += grid_threads()) {
        int64 first = 0, second = 0, third = 0;
        for (int b = 0; b < n_maps; ++b) {
            double value = shown(maps[b * n_voxels + v], how);
            value = value > limit ? limit : value < -limit ? -limit : value;
            const double s = value * per_limit;
            double power = s * quanta;
            first += (int64)rint(power);
            power *= s;
            second += (int64)rint(power);
            power *= s;
            third += (int64)rint(power);
        }
        sums[v] = first;
        sums[n_voxels + v] = second;
        sums[2 * n_voxels + v] = third;
    }
}

// first (r, n_voxels): numbers of the first maps, which are numbered from `start`, whose value is at least `least`; `none`
// where there are no more. Number 0 does not count.
template <class T>
KERNEL maps_first_reached(const T* maps, int n_maps, int64 n_voxels, int disjoint, int sizes, double scale_up,
                          double scale_down, const double* least, int start, int none, int r, int* first) {
    const Shown how = {disjoint, sizes, scale_up, scale_down};
    for (int64 v = grid_thread(); v < n_voxels; v += grid_threads()) {
        int count = 0;
        for (int b = start ? 0 : 1; b < n_maps && count < r; ++b)
            if (shown(maps[b * n_voxels + v], how) >= least[v]) first[n_voxels * count++ + v] = start + b;
        for (; count < r; ++count) first[n_voxels * count + v] = none;
    }
}

// out (n_maps, n_chosen): the values at some voxels.
template <class T>
KERNEL maps_take(const T* maps, int n_maps, int64 n_voxels, const int* voxels, int n_chosen, T* out) {
    for (int64 b = blockIdx.y; b < n_maps; b += gridDim.y)
        for (int64 i = grid_thread(); i < n_chosen; i += grid_threads())
            out[b * n_chosen + i] = maps[b * n_voxels + voxels[i]];
}
