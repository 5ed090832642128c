// z of t and F by tables of cubics: gpuvox/normal_scores.py. A table has an interval for every 1 / 64 of a power of two,
// found from the bits of the number; cubics (tables, n_intervals, 4), highest power first; first: the leading bits of the
// lower end of the first interval, as a float64 number. kind (n_kinds): which table a voxel has; one for all if
// n_kinds is 1; -1: z is 0.

#include "common.cuh"

namespace {

const int PER_OCTAVE = 6;

DEVICE double double_of(int64 number) {
    union { int64 i; double d; } bits;
    bits.i = number;
    return bits.d;
}

DEVICE float not_a_number() {
    union { int i; float f; } bits;
    bits.i = 0x7fc00000;
    return bits.f;
}

// z of a float64 number; float32 numbers have the same bits of the mantissa, followed by zeros.
DEVICE double score_of(double value, const double* cubics, int n_intervals, int is_f, int first) {
    const int rest = 52 - PER_OCTAVE;
    const double scale = 1.0 / (double)((int64)1 << rest);
    const int64 number = double_bits(value), size = number & 0x7fffffffffffffffLL;
    int64 at = (size >> rest) - first;
    double d = (double)(size & (((int64)1 << rest) - 1)) * scale;
    if (at >= n_intervals) {
        at = n_intervals - 1;
        d = 1.0;
    }
    double z;
    if (at < 0 || (is_f && number < 0)) {
        const double start = double_of((int64)first << rest);
        z = is_f ? cubics[3] : cubics[3] * (fabs(value) / start);
    } else {
        const double* c = cubics + 4 * at;
        z = ((c[0] * d + c[1]) * d + c[2]) * d + c[3];
    }
    return is_f || number >= 0 ? z : -z;
}

}  // namespace

// maps (n / n_voxels, n_voxels): t or F, replaced by z; F below least (tables) becomes NaN where that is above 0.
KERNEL normal_scores_maps(float* maps, int64 n, int n_voxels, const int* kind, int n_kinds, const double* cubics,
                          int n_intervals, int is_f, int first, const float* least) {
    for (int64 item = grid_thread(); item < n; item += grid_threads()) {
        const int k = kind[n_kinds == 1 ? 0 : (int)(item % n_voxels)];
        const float value = maps[item];
        if (k < 0) {
            maps[item] = 0.0f;
        } else if (value != value || (is_f && value < least[k])) {
            maps[item] = not_a_number();
        } else {
            maps[item] = (float)score_of((double)value, cubics + (int64)k * 4 * n_intervals, n_intervals, is_f, first);
        }
    }
}

// The same for float64 values of a list of voxels (maps.cu).
KERNEL normal_scores_items(const int* count, int capacity, const int* item_voxel, const int* kind, int n_kinds,
                           const double* cubics, int n_intervals, int is_f, int first, double* values) {
    const int n_items = *count < capacity ? *count : capacity;
    for (int64 i = grid_thread(); i < n_items; i += grid_threads()) {
        const int k = kind[n_kinds == 1 ? 0 : item_voxel[i]];
        const double value = values[i];
        if (k < 0) {
            values[i] = 0.0;
        } else if (value == value) {
            values[i] = score_of(value, cubics + (int64)k * 4 * n_intervals, n_intervals, is_f, first);
        }
    }
}

// maps (n) replaced by their sizes.
KERNEL normal_scores_sizes(int64 n, float* maps) {
    for (int64 i = grid_thread(); i < n; i += grid_threads()) maps[i] = fabsf(maps[i]);
}

// The same for float64 values of a list of voxels.
KERNEL normal_scores_item_sizes(const int* count, int capacity, double* values) {
    const int n_items = *count < capacity ? *count : capacity;
    for (int64 i = grid_thread(); i < n_items; i += grid_threads()) values[i] = fabs(values[i]);
}
