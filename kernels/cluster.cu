// Clusters of the voxels at or beyond a threshold, both signs in one pass: gpuvox/cluster.py. A block takes a map at a
// time: a union-find forest over the voxels that are in, hooked by compare-and-swap, larger number under smaller.
// Sums are of whole numbers (units of 2^-24, in two words), so that their order does not matter.

#include "common.cuh"

namespace {

const double UNITS = 16777216.0;          // of the sums, 2^24
const double LARGEST = 274877906944.0;    // 2^38: what is added is cut off there
const int64 LOW = ((int64)1 << 31) - 1;

enum What { MAXIMA, MAPS, NORMALISED };

DEVICE int find_root(int* parent, int i) {
    for (;;) {
        const int up = load(parent + i);
        if (up == i) return i;
        const int next = load(parent + up);
        if (next == up) return up;
        store(parent + i, next);  // shorter; whoever else writes here writes another ancestor
        i = next;
    }
}

DEVICE void unite(int* parent, int a, int b) {
    join_trees(
        a, b, [=](int i) { return find_root(parent, i); },
        [=](int root, int below) { return swap(parent + root, root, below) == root; });
}

DEVICE int64 in_units(double value) {
    if (value > LARGEST) value = LARGEST;
    return (int64)rint(value * UNITS);
}

DEVICE double from_units(int64 high, int64 low) { return ((double)high * 2147483648.0 + (double)low) / UNITS; }

// A thread's sums for the root of the voxels it saw last, added up when the root changes.
struct Run {
    int root, size;
    int64 high, low;
};

DEVICE void close(Run* run, int* size, int64* high, int64* low) {
    if (!run->size) return;
    add(size + run->root, run->size);
    add(high + run->root, run->high);
    add(low + run->root, run->low);
    run->size = 0;
    run->high = run->low = 0;
}

}  // namespace

// stat (n_maps, n_voxels); index: positions in the box; back (n_back): offsets of the neighbours before a voxel.
// WHAT: MAXIMA: largest extent and mass of each sign, extent (2, n_maps), mass (2, n_maps), zero at the start;
// MAPS: extent and mass of every voxel's cluster, (n_maps, n_voxels), negative for the negative sign, 0 outside;
// NORMALISED: mass receives extent / mean of `local` (2, n_voxels) over the cluster instead, 0 where that is 0.
// Scratch of each block: at (box) filled with -1; active, parent, size, high, low (n_voxels).
template <int WHAT>
KERNEL_FOR(512, 2)
cluster_measure(const float* stat, int n_maps, int n_voxels, float threshold, const int* index, int box, const int* back,
                int n_back, const double* local, int* all_at, int* all_active, int* all_parent, int* all_size,
                int64* all_high, int64* all_low, int64* extent, double* mass) {
    SHARED(int, n_active, 1);
    const int thread = threadIdx.x, threads = blockDim.x;
    const int64 slot = blockIdx.x;
    int* at = all_at + slot * box;
    int* active = all_active + slot * n_voxels;
    int* parent = all_parent + slot * n_voxels;
    int* size = all_size + slot * n_voxels;
    int64* high = all_high + slot * n_voxels;
    int64* low = all_low + slot * n_voxels;
    for (int64 b = blockIdx.x; b < n_maps; b += gridDim.x) {
        const float* t = stat + b * n_voxels;
        if (thread == 0) n_active[0] = 0;
        barrier();
        for (int v = thread; v < n_voxels; v += threads) {
            const bool in = fabsf(t[v]) >= threshold;
            if (in) {
                const int i = add(n_active, 1);
                active[i] = v;
                parent[i] = i;
                size[i] = 0;
                high[i] = low[i] = 0;
                at[index[v]] = i;
            } else if (WHAT != MAXIMA) {
                if (WHAT == MAPS) extent[b * n_voxels + v] = 0;
                mass[b * n_voxels + v] = 0.0;
            }
        }
        barrier();
        const int n = n_active[0];
        for (int i = thread; i < n; i += threads) {
            const int v = active[i], p = index[v];
            for (int k = 0; k < n_back; ++k) {
                const int j = at[p + back[k]];
                if (j >= 0 && (t[active[j]] > 0) == (t[v] > 0)) unite(parent, i, j);
            }
        }
        barrier();
        Run run = {-1, 0, 0, 0};
        for (int i = thread; i < n; i += threads) {
            const int v = active[i], root = find_root(parent, i);
            if (root != run.root) close(&run, size, high, low);
            run.root = root;
            const double weight = WHAT == NORMALISED ? local[t[v] > 0 ? v : n_voxels + v] : fabs((double)t[v]);
            const int64 units = in_units(weight);
            ++run.size;
            run.high += units >> 31;
            run.low += units & LOW;
        }
        close(&run, size, high, low);
        barrier();
        int64 largest[2] = {0, 0};
        double heaviest[2] = {0.0, 0.0};
        for (int i = thread; i < n; i += threads) {
            const int v = active[i], root = find_root(parent, i), row = t[v] > 0 ? 0 : 1;
            const double sum = from_units(high[root], low[root]);
            if (WHAT == MAXIMA) {
                if (size[root] > largest[row]) largest[row] = size[root];
                if (sum > heaviest[row]) heaviest[row] = sum;
            } else if (WHAT == MAPS) {
                extent[b * n_voxels + v] = row ? -size[root] : size[root];
                mass[b * n_voxels + v] = row ? -sum : sum;
            } else {
                const double mean = sum / size[root];
                const double value = mean > 0.0 ? size[root] / mean : 0.0;
                mass[b * n_voxels + v] = row && value > 0.0 ? -value : value;  // 0 has no sign, as on the CPU
            }
            at[index[v]] = -1;
        }
        // Bits of positive doubles compare as the numbers do.
        for (int row = 0; WHAT == MAXIMA && row < 2; ++row) {
            if (largest[row]) raise(extent + row * n_maps + b, largest[row]);
            if (heaviest[row] > 0.0) raise((int64*)mass + row * n_maps + b, double_bits(heaviest[row]));
        }
        barrier();
    }
}
