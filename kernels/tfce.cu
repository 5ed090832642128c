// Threshold-free cluster enhancement in integers. The method, the tables and the units are those of gpuvox/tfce.py.
//
// tfce_peaks: a block takes a map at a time, both signs in one pass. Every voxel points at its greatest neighbour of
// the same sign, by (level, position); the pointers end at peaks, and the peak is the voxel's label. Components of
// {level >= k} are components of the graph of peaks with, for each pair of neighbours, an edge between their labels
// at the lower of their levels. Only saddles have edges: voxels whose greater neighbours are in several pieces of the
// cube around them (gpuvox/tfce.py says why that is enough). Peaks carry, in a union-find forest, the score that their
// component has gathered: `gathered` of a root is its total, of any other node the difference to its parent's, so that
// growth of a component is booked once, at its root.
//
// Levels fall from the highest, each in three steps with a barrier after each:
//   a  edges of the level: the root with the larger number is hooked under the other one, and its size logged;
//   b  what was hooked becomes relative to its final root, to which it adds its size; voxels of the level are
//      counted at the root of their label;
//   c  roots gather S[size] * w[level]; nodes whose parent was hooked at this level are re-pointed to its root, so
//      that between levels every path has length one at most.
// No path may be shortened in a and b: differences are relative to the recorded parent.
// Hooking by number alone cannot form a cycle. A peak born at this level may be hooked before it is counted, which
// is why voxels are counted through the forest.
//
// tfce_grow: a tree of components, voxel by voxel in falling order, by one thread of a block: for the exact integral
// and for more levels than int16 codes hold. Independent of tfce_peaks.

#include "common.cuh"

// Launch bounds of tfce_peaks; gpuvox/tuning replaces them where others are faster.
#ifndef PEAKS_THREADS
#define PEAKS_THREADS 512
#define PEAKS_RESIDENT (C == 6 && !FULL ? 3 : 2)
#endif

namespace {

const uint32 ROOT = 0x80000000u;
const uint32 NEGATIVE = 0x40000000u;
const uint32 SIZE = 0x3fffffffu;

const int TOGETHER = 3;  // pointers that a thread follows at once

const float LARGEST_FLOAT = 3.402823466e38f;

// Outcomes of a map, in `status`.
const int DONE = 0, TOO_MANY_LEVELS = -1;  // > 0: number of edges, more than there is room for

DEVICE int magnitude(int code) { return code < 0 ? -code : code; }

// Number of thresholds under `size`: a guess by division, then the table decides.
DEVICE int level_of(float size, const float* thresholds, float per_step, int cap) {
    const float guess = size * per_step;
    int level = guess < (float)cap ? (int)guess : cap;
    while (level <= cap && thresholds[level] < size) ++level;
    while (level > 0 && !(thresholds[level - 1] < size)) --level;
    return level;
}

DEVICE int find(const uint32* word, int node) {
    uint32 w = load(word + node);
    while (!(w & ROOT)) {
        node = (int)w;
        w = load(word + node);
    }
    return node;
}

// Positions after which the items of each level start, highest level first, from their counts; counts[0] is unused.
DEVICE void start_of_levels(int* counts, int cap) {
    int total = 0;
    for (int k = cap; k >= 1; --k) {
        const int n = counts[k];
        counts[k] = total;
        total += n;
    }
}

// Where a voxel of code `own` points: its greatest neighbour, or itself. *greater: cells of the cube of 3 x 3 x 3 around
// it that are greater than it, neighbours or what may connect them; a cell is bit x + 3 y + 9 z.
template <int C> DEVICE int greatest_neighbour(const short* code, int p, int own, int px, int pxy, uint32* greater) {
    // Axes along which neighbours may differ, and what connects them.
    const int NEAR = C == 6 ? 1 : C == 18 ? 2 : 3, PATH = C == 6 ? 2 : 3;
    // With s = -1 for negative codes, x ^ s maps a code c of that sign to -c - 1, and 0 and the other sign below.
    const int s = own >> 31, level = own ^ s;
    int best = p, highest = -1;
    uint32 cells = 0;
#pragma unroll
    for (int dz = -1; dz <= 1; ++dz)
#pragma unroll
        for (int dy = -1; dy <= 1; ++dy)
#pragma unroll
            for (int dx = -1; dx <= 1; ++dx) {
                const int moved = (dx != 0) + (dy != 0) + (dz != 0);
                const bool before = dz < 0 || (dz == 0 && (dy < 0 || (dy == 0 && dx < 0)));
                if (moved == 0 && highest <= level) {
                    highest = level;
                    best = p;
                }
                if (moved == 0 || moved > PATH) continue;
                const int q = p + dx + dy * px + dz * pxy;
                const int other = code[q] ^ s;
                if (before ? other > level : other >= level) cells |= 1u << (dx + 3 * dy + 9 * dz + 13);
                if (moved <= NEAR && other >= highest) {
                    highest = other;
                    best = q;
                }
            }
    *greater = cells;
    return best;
}

// Whether the neighbours among the greater cells of a cube may be in several pieces. If not, they are in one component
// without the voxel, and it has no edges. A flood of a fixed number of rounds: what it has not reached counts as another
// piece, which costs time and is never wrong.
template <int C> DEVICE bool in_pieces(uint32 cells) {
    const uint32 FACES = 1u << 4 | 1u << 10 | 1u << 12 | 1u << 14 | 1u << 16 | 1u << 22;
    const uint32 CORNERS = 1u << 0 | 1u << 2 | 1u << 6 | 1u << 8 | 1u << 18 | 1u << 20 | 1u << 24 | 1u << 26;
    const uint32 NEAR = C == 6 ? FACES : C == 18 ? ~CORNERS : ~0u;
    // Where a step up or down in x or y does not leave the row or the plane.
    const uint32 X0 = 0x6db6db6u, X2 = 0x36db6dbu, Y0 = 0x7e3f1f8u, Y2 = 0x0fc7e3fu;
    uint32 reached = cells & FACES ? cells & FACES : cells & NEAR;
    reached &= 0u - reached;
#pragma unroll
    for (int round = 0; round < (C == 26 ? 3 : 4); ++round) {
        const uint32 x = (reached << 1 & X0) | (reached >> 1 & X2), along = C == 26 ? reached | x : reached;
        const uint32 y = (along << 3 & Y0) | (along >> 3 & Y2), across = C == 26 ? along | y : reached;
        reached = (reached | x | y | across | across << 9 | across >> 9) & cells;
    }
    return (cells & NEAR & ~reached) != 0;
}

// f(label) for the labels of greater neighbours that differ from the voxel's own; most repetitions are left out.
template <int C, class F>
DEVICE void other_labels(const short* code, const int* up, int p, int level, int sign, int px, int pxy, F f) {
    const int own = up[p];
    int last = own, before_last = own;
    auto look = [&](int q, int least) {
        if (sign * code[q] < least) return;
        const int label = up[q];
        if (label == own || label == last || label == before_last) return;
        before_last = last;
        last = label;
        f(~label);
    };
    neighbours_before<C>(px, pxy, [&](int offset) { look(p + offset, level + 1); });
    neighbours_after<C>(px, pxy, [&](int offset) { look(p + offset, level); });
}

// Total of a node at a moment when paths have length one at most.
DEVICE int64 total_of(const uint32* word, const int64* gathered, int node) {
    const uint32 w = word[node];
    return w & ROOT ? gathered[node] : gathered[node] + gathered[w];
}

// One edge of step a; returns the node that was hooked, or -1, and its word before.
DEVICE int hook(uint32* word, int a, int b, uint32* before) {
    return join_trees(
        a, b, [=](int node) { return find(word, node); },
        [=](int root, int below) {
            const uint32 w = load(word + root);
            if (!(w & ROOT) || swap(word + root, w, (uint32)below) != w) return false;
            *before = w;
            return true;
        });
}

}  // namespace

// stat (n_maps, n_voxels); index (n_voxels): positions in the padded box of `box` positions; thresholds, weights
// (2, cap + 1): weights[sign, k] = w_k; sizes (n_voxels + 1): S; per_step (2): 1 / delta, 0 for a blank sign. Where
// rows_of_tables is 2 and not 0, every map has thresholds and per_step of its own.
// Scratch of each block: code (box) zero at the start, up (box), order, word, gathered, dead, above (n_voxels),
// raw and edge (edge_capacity), counts (3, cap + 1); dead has 2 * n_voxels. above and maps are for FULL alone.
// maxima (2, n_maps) in scores; status (n_maps); maps (n_maps, n_voxels), negative for the negative sign.
// Dynamic shared memory: counts if cap_shared, then n_shared (gathered, word).
template <int C, bool FULL>
KERNEL_FOR(PEAKS_THREADS, PEAKS_RESIDENT)
tfce_peaks(const float* stat, int n_maps, int n_voxels, const int* index, int box, int px, int pxy,
           const float* all_thresholds, const float* all_per_step, int rows_of_tables, const int64* weights,
           const int64* sizes, int cap, int edge_capacity, int cap_shared, int n_shared, short* all_code, int* all_up, int* all_order,
           uint32* all_word, int64* all_gathered, int* all_dead, int* all_raw, int* all_edge, int* all_counts,
           int64* all_above, int64* maxima, int* status, int64* maps) {
    DYNAMIC_SHARED(memory);
    SHARED(int, n_peaks, 1);
    SHARED(int, n_edges, 1);
    SHARED(int, n_saddles, 1);
    SHARED(int, n_dead, 1);
    SHARED(int, highest, 1);
    SHARED(int64, best, 2);
    const int thread = threadIdx.x, threads = blockDim.x;
    const int64 slot = blockIdx.x;
    short* code = all_code + slot * box;
    int* up = all_up + slot * box;
    int* order = all_order + slot * n_voxels;
    int* dead = all_dead + slot * 2 * n_voxels;
    int* counts = cap_shared ? (int*)(memory + n_shared) + n_shared : all_counts + slot * 3 * (cap + 1);
    // Counts by level, of voxels, edges and peaks. As pointers the latter two would take registers that are needed.
    const int edges_of = cap + 1, peaks_of = 2 * (cap + 1);

    for (int b = blockIdx.x; b < n_maps; b += gridDim.x) {
        const float* t = stat + (int64)b * n_voxels;
        const float* thresholds = all_thresholds + (int64)b * rows_of_tables * (cap + 1);
        const float* per_step = all_per_step + (int64)b * rows_of_tables;
        for (int i = thread; i < 3 * (cap + 1); i += threads) counts[i] = 0;
        if (thread == 0) {
            n_peaks[0] = n_edges[0] = n_saddles[0] = n_dead[0] = highest[0] = 0;
            best[0] = best[1] = 0;
        }
        barrier();
        START_OF_PHASES;

        // Levels.
        for (int v = thread; v < n_voxels; v += threads) {
            const float value = t[v];
            const int row = value > 0 ? 0 : 1;
            int level = 0;
            if (value != 0) level = level_of(row ? -value : value, thresholds + row * (cap + 1), per_step[row], cap);
            if (level > cap || value != value) {
                store(highest, cap + 1);
                level = 0;
            }
            code[index[v]] = (short)(row ? -level : level);
            if (level) add(counts + level, 1);
        }
        barrier();
        END_OF_PHASE(0);
        const bool too_many = load(highest) > cap;
        if (too_many && thread == 0) {
            status[b] = TOO_MANY_LEVELS;
            maxima[b] = maxima[n_maps + b] = 0;
        }
        if (too_many) {
            barrier();
            continue;
        }

        // Where each voxel points, and the peaks.
        for (int v = thread; v < n_voxels; v += threads) {
            const int p = index[v], c = code[p];
            if (!c) continue;
            uint32 greater = 0;
            const int to = greatest_neighbour<C>(code, p, c, px, pxy, &greater);
            up[p] = to;
            // The list is free until the sweep: peaks from its start, saddles from its end.
            if (to == p) {
                dead[add(n_peaks, 1)] = p;
                add(counts + peaks_of + magnitude(c), 1);
                raise(highest, magnitude(c));
            } else if (in_pieces<C>(greater)) {
                dead[2 * n_voxels - 1 - add(n_saddles, 1)] = p;
            }
        }
        barrier();
        END_OF_PHASE(1);
        const int peaks = n_peaks[0], top = highest[0];
        for (int i = thread; i < 2; i += threads) start_of_levels(i ? counts + peaks_of : counts, cap);
        uint32* word = peaks <= n_shared ? (uint32*)(memory + n_shared) : all_word + slot * n_voxels;
        int64* gathered = peaks <= n_shared ? (int64*)memory : all_gathered + slot * n_voxels;
        barrier();

        // Peaks are numbered by falling level: those born so far are always the first ones.
        for (int i = thread; i < peaks; i += threads) {
            const int p = dead[i], c = code[p];
            const int number = add(counts + peaks_of + magnitude(c), 1);
            up[p] = ~number;
            word[number] = c < 0 ? ROOT | NEGATIVE : ROOT;
            gathered[number] = 0;
        }
        barrier();
        END_OF_PHASE(2);

        // Labels: whatever is found on the way is further up, so it does not matter who has been here before, nor how long
        // ago. A thread follows the pointers of several voxels at once, for each step waits for memory.
        for (int first = thread; first < n_voxels; first += TOGETHER * threads) {
            int place[TOGETHER], x[TOGETHER];
            bool moving = false;
#pragma unroll
            for (int j = 0; j < TOGETHER; ++j) {
                const int v = first + j * threads;
                place[j] = v < n_voxels ? index[v] : -1;
                if (place[j] >= 0 && !code[place[j]]) place[j] = -1;
                x[j] = place[j];
                moving = moving || x[j] >= 0;
            }
            while (moving) {
                moving = false;
#pragma unroll
                for (int j = 0; j < TOGETHER; ++j) {
                    if (x[j] >= 0) x[j] = glance(up + x[j]);
                    moving = moving || x[j] >= 0;
                }
            }
#pragma unroll
            for (int j = 0; j < TOGETHER; ++j) {
                if (place[j] < 0) continue;
                store(up + place[j], x[j]);
                order[add(counts + magnitude(code[place[j]]), 1)] = FULL ? first + j * threads : ~x[j];
            }
        }
        barrier();
        END_OF_PHASE(3);

        // Edges, sorted by level.
        int* raw = all_raw + slot * 2 * edge_capacity;
        int* edge = all_edge + slot * 2 * edge_capacity;
        const int saddles = n_saddles[0];
        for (int i = thread; i < saddles; i += threads) {
            const int p = dead[2 * n_voxels - 1 - i], c = code[p];
            const int level = magnitude(c);
            other_labels<C>(code, up, p, level, c < 0 ? -1 : 1, px, pxy, [&](int label) {
                const int i = add(n_edges, 1);
                if (i < edge_capacity) {
                    raw[2 * i] = p;
                    raw[2 * i + 1] = label;
                    add(counts + edges_of + level, 1);
                }
            });
        }
        barrier();
        END_OF_PHASE(4);
        const int edges = n_edges[0];
        if (edges > edge_capacity) {
            if (thread == 0) {
                status[b] = edges;
                maxima[b] = maxima[n_maps + b] = 0;
            }
            barrier();
            continue;
        }
        if (thread == 0) start_of_levels(counts + edges_of, cap);
        barrier();
        for (int i = thread; i < edges; i += threads) {
            const int p = raw[2 * i];
            const int place = add(counts + edges_of + magnitude(code[p]), 1);
            edge[2 * place] = ~up[p];
            edge[2 * place + 1] = raw[2 * i + 1];
        }
        barrier();
        END_OF_PHASE(5);

        // The sweep. The items of level k now end at its count, and start where those of level k + 1 end.
        int voxel = 0, edge_at = 0;
        for (int k = top; k >= 1; --k) {
            const int voxel_end = counts[k], edge_end = counts[edges_of + k], born = counts[peaks_of + k];
            if (FULL) {
                int64* above = all_above + slot * n_voxels;
                for (int i = voxel + thread; i < voxel_end; i += threads) {
                    const int v = order[i];
                    above[v] = total_of(word, gathered, ~up[index[v]]);
                }
                barrier();
                END_OF_PHASE(6);
            }
            for (int i = edge_at + thread; i < edge_end; i += threads) {
                uint32 before = 0;
                const int node = hook(word, edge[2 * i], edge[2 * i + 1], &before);
                if (node < 0) continue;
                const int d = add(n_dead, 1);
                dead[2 * d] = node;
                dead[2 * d + 1] = (int)(before & SIZE);
            }
            barrier();
            END_OF_PHASE(7);
            const int hooked = n_dead[0];
            for (int i = thread; i < hooked; i += threads) {
                const int node = dead[2 * i], root = find(word, node);
                gathered[node] -= gathered[root];
                store(word + node, (uint32)root);
                add(word + root, (uint32)dead[2 * i + 1]);
            }
            int root = -1;
            uint32 run = 0;
            for (int i = voxel + thread; i < voxel_end; i += threads) {
                const int r = find(word, FULL ? ~up[index[order[i]]] : order[i]);
                if (r != root) {
                    if (run) add(word + root, run);
                    root = r;
                    run = 0;
                }
                ++run;
            }
            if (run) add(word + root, run);
            barrier();
            END_OF_PHASE(8);
            if (thread == 0) n_dead[0] = 0;
            for (int i = thread; i < born; i += threads) {
                const uint32 w = word[i];
                if (w & ROOT) {
                    gathered[i] += sizes[w & SIZE] * weights[(w & NEGATIVE ? cap + 1 : 0) + k];
                } else {
                    const uint32 parent = word[w];
                    if (!(parent & ROOT)) {
                        gathered[i] += gathered[w];
                        word[i] = parent;
                    }
                }
            }
            barrier();
            END_OF_PHASE(9);
            voxel = voxel_end;
            edge_at = edge_end;
        }

        // Results.
        int64 best_up = 0, best_down = 0;
        for (int i = thread; i < peaks; i += threads) {
            const uint32 w = word[i];
            const int root = w & ROOT ? i : (int)w;
            const int64 score = total_of(word, gathered, i);
            if (word[root] & NEGATIVE) {
                if (score > best_down) best_down = score;
            } else if (score > best_up) {
                best_up = score;
            }
        }
        if (best_up) raise(best, best_up);
        if (best_down) raise(best + 1, best_down);
        if (FULL) {
            const int64* above = all_above + slot * n_voxels;
            for (int v = thread; v < n_voxels; v += threads) {
                const int p = index[v], c = code[p];
                int64 score = 0;
                if (c) score = total_of(word, gathered, ~up[p]) - above[v];
                maps[(int64)b * n_voxels + v] = c < 0 ? -score : score;
            }
        }
        barrier();
        END_OF_PHASE(10);
        if (thread == 0) {
            status[b] = DONE;
            maxima[b] = best[0];
            maxima[n_maps + b] = best[1];
        }
        barrier();
    }
}

namespace {

DEVICE float float_of(int number) {
    union { int i; float f; } bits;
    bits.i = number;
    return bits.f;
}

// x^p for x > 0 by series of a fixed number of terms, so that any device gets the same bits: gpuvox/own_steps.py.
DEVICE double raised(double x, double p) {
    const double LN2 = 0.69314718055994530942;
    union { double d; int64 i; } bits;
    bits.d = x;
    int64 exponent = (bits.i >> 52) - 1022;
    bits.i = (bits.i & 0xfffffffffffffLL) | (int64)1022 << 52;
    double m = bits.d;  // from 1/2 to 1
    if (m < 0.70710678118654752440) {
        m = 2.0 * m;
        exponent -= 1;
    }
    const double s = (m - 1.0) / (m + 1.0), square = s * s;
    double sum = 0.0;
    for (int k = 27; k >= 1; k -= 2) sum = sum * square + 1.0 / (double)k;
    const double y = p * ((double)exponent * LN2 + 2.0 * (s * sum));
    const double whole = rint(y / LN2), rest = y - whole * LN2;
    double power = 1.0;
    for (int k = 18; k >= 1; --k) power = 1.0 + power * (rest / (double)k);
    bits.i = ((int64)whole + 1023) << 52;
    return power * bits.d;
}

}  // namespace

// For steps of a hundredth of each map's own maximum, from peaks (2, n_maps), the maxima of the maps and of their
// negatives: thresholds (n_maps, 2, cap + 1), of which the last is infinite, so that a level is the number of k with
// cap * t >= k * maximum; per_step (n_maps, 2); scale (2, n_maps): what a score is multiplied by. A sign that is not
// wanted, or has no positive value, is blank.
KERNEL tfce_own_tables(const float* peaks, int n_maps, int signs, int cap, double power, double unit, float* thresholds,
                       float* per_step, double* scale) {
    const float endless = float_of(0x7f800000);
    for (int64 item = grid_thread(); item < 2 * (int64)n_maps; item += grid_threads()) {
        const int b = (int)(item >> 1), row = (int)(item & 1);
        const float peak = row < signs ? peaks[(int64)row * n_maps + b] : 0.0f;
        const bool stands = peak > 0.0f && peak <= LARGEST_FLOAT;
        float* table = thresholds + item * (cap + 1);
        for (int k = 1; k <= cap; ++k) {
            const double least = (double)k * (double)peak;
            float below = stands ? (float)(least / (double)cap) : endless;
            while (stands && (double)cap * (double)below >= least) below = float_of(float_bits(below) - 1);
            while (stands && (double)cap * (double)float_of(float_bits(below) + 1) < least)
                below = float_of(float_bits(below) + 1);
            table[k - 1] = below;
        }
        table[cap] = endless;
        per_step[item] = stands ? (float)cap / peak : 0.0f;
        scale[(int64)row * n_maps + b] = stands ? raised((double)peak / (double)cap, power) * unit : 0.0;
    }
}

// values = scores * scale of the map and sign.
KERNEL tfce_own_values(const int64* scores, int n_maps, int64 n_voxels, const double* scale, double* values) {
    for (int64 b = blockIdx.y; b < n_maps; b += gridDim.y)
        for (int64 v = grid_thread(); v < n_voxels; v += grid_threads()) {
            const int64 score = scores[b * n_voxels + v];
            values[b * n_voxels + v] = (double)score * scale[score < 0 ? n_maps + b : b];
        }
}

namespace {

// x^power by multiplication where the power is whole, so that any device gets the same bits.
DEVICE double power_of(double x, double power) {
    const int whole = (int)power;
    if ((double)whole != power || whole > 64) return pow(x, power);
    double out = x;
    for (int i = 1; i < whole; ++i) out *= x;
    return out;
}

// Stable sort of n keys by one byte, largest first. count (256, threads); a thread has a contiguous share.
DEVICE void sort_by_byte(const int* key, const int* from, int* to, int n, int shift, int* count, int* total) {
    const int thread = threadIdx.x, threads = blockDim.x;
    const int share = (n + threads - 1) / threads;
    const int first = thread * share < n ? thread * share : n, last = first + share < n ? first + share : n;
    for (int d = 0; d < 256; ++d) count[d * threads + thread] = 0;
    for (int i = first; i < last; ++i) ++count[(255 - ((key[from[i]] >> shift) & 255)) * threads + thread];
    barrier();
    for (int d = thread; d < 256; d += threads) {
        total[d] = 0;
        for (int j = 0; j < threads; ++j) total[d] += count[d * threads + j];
    }
    barrier();
    if (thread == 0) {
        int sum = 0;
        for (int d = 0; d < 256; ++d) {
            const int c = total[d];
            total[d] = sum;
            sum += c;
        }
    }
    barrier();
    for (int d = thread; d < 256; d += threads) {
        int sum = total[d];
        for (int j = 0; j < threads; ++j) {
            const int c = count[d * threads + j];
            count[d * threads + j] = sum;
            sum += c;
        }
    }
    barrier();
    for (int i = first; i < last; ++i)
        to[count[(255 - ((key[from[i]] >> shift) & 255)) * threads + thread]++] = from[i];
    barrier();
}

}  // namespace

// The same scores (Score = int64) or the exact integral (double) of one sign, added to maps (n_maps, n_voxels) that
// are zero before. worth: C[k] by level, unused where exact; sizes: S; power = H + 1 where exact, else 0.
// Scratch of each block: at (box) filled with -1, key, order, other, parent, size, score, worth_of (n_voxels), count
// (256 * threads).
template <class Score>
KERNEL_FOR(128, 8)
tfce_grow(const float* stat, int n_maps, int n_voxels, const int* index, int box, const int* offsets, int n_offsets,
          const float* thresholds, const Score* worth, const Score* sizes, float per_step, int cap, double power,
          int sign, int* all_at, int* all_key, int* all_order, int* all_other, int* all_parent, int* all_size,
          Score* all_score, Score* all_worth, int* all_count, int* status, Score* maps) {
    SHARED(int, total_count, 256);
    SHARED(int, n_kept, 1);
    const int thread = threadIdx.x, threads = blockDim.x;
    const int64 slot = blockIdx.x;
    int* at = all_at + slot * box;
    int* key = all_key + slot * n_voxels;
    int* order = all_order + slot * n_voxels;
    int* other = all_other + slot * n_voxels;
    int* parent = all_parent + slot * n_voxels;
    int* size = all_size + slot * n_voxels;
    Score* score = all_score + slot * n_voxels;
    Score* worth_of = all_worth + slot * n_voxels;
    int* count = all_count + slot * 256 * threads;

    for (int64 b = blockIdx.x; b < n_maps; b += gridDim.x) {
        const float* t = stat + b * n_voxels;
        // Voxels of positive weight in their order; the key is the height's bits, which sort as the heights do.
        for (int v = thread; v < n_voxels; v += threads) {
            const float height = sign * t[v];
            bool wanted = height > 0;
            if (wanted && power == 0) {
                const int level = level_of(height, thresholds, per_step, cap);
                if (level > cap) store(status + b, TOO_MANY_LEVELS);
                wanted = level > 0 && level <= cap;
            }
            if (t[v] != t[v] || fabsf(t[v]) > LARGEST_FLOAT) store(status + b, TOO_MANY_LEVELS);
            key[v] = wanted ? float_bits(height) : 0;
        }
        if (thread == 0) n_kept[0] = 0;
        for (int v = thread; v < n_voxels; v += threads) other[v] = v;
        barrier();
        for (int v = thread; v < n_voxels; v += threads)
            if (key[v]) add(n_kept, 1);
        for (int shift = 0; shift < 32; shift += 8)
            sort_by_byte(key, shift & 8 ? order : other, shift & 8 ? other : order, n_voxels, shift, count, total_count);
        // After four passes the result is in `other`.
        const int n = n_kept[0];
        int* root = order;  // it is not needed any more
        for (int i = thread; i < n; i += threads) {
            const int v = other[i];
            parent[i] = root[i] = i;
            size[i] = 1;
            const float height = sign * t[v];
            worth_of[i] = power > 0 ? (Score)(power_of((double)height, power) / power)
                                 : worth[level_of(height, thresholds, per_step, cap)];
        }
        barrier();
        // The tree of components, as in _grow of gpuvox/tfce.py: a voxel stands for its component at its height.
        for (int i = 0; thread == 0 && i < n; ++i) {
            const int p = index[other[i]];
            at[p] = i;
            for (int o = 0; o < n_offsets; ++o) {
                int r = at[p + offsets[o]];
                if (r < 0) continue;
                while (root[r] != r) r = root[r] = root[root[r]];
                if (r == i) continue;
                parent[r] = root[r] = i;
                size[i] += size[r];
            }
        }
        for (int i = n - 1; thread == 0 && i >= 0; --i) {
            const int j = parent[i];
            score[i] = j == i ? sizes[size[i]] * worth_of[i]
                              : score[j] + sizes[size[i]] * (worth_of[i] - worth_of[j]);
        }
        barrier();
        for (int i = thread; i < n; i += threads) {
            const int v = other[i];
            maps[b * n_voxels + v] = sign < 0 ? -score[i] : score[i];
            at[index[v]] = -1;
        }
        barrier();
    }
}
