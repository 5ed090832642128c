// What the drivers share: seeded random maps, boxes and the components of a level by flood fill.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

using Random = std::mt19937;

static inline int below(Random& random, int n) { return (int)(random() % (uint32_t)n); }

// A mask with holes in its padded box, as gpuvox/grid.py lays it out.
struct Box {
    int px, pxy, size;
    std::vector<int> index, voxel;  // position of a voxel; voxel at a position, or -1

    explicit Box(Random& random) {
        const int nx = 1 + below(random, 5), ny = 1 + below(random, 4), nz = 1 + below(random, 4);
        const int kept = 5 + below(random, 6);  // tenths
        px = nx + 2;
        pxy = px * (ny + 2);
        size = pxy * (nz + 2);
        voxel.assign(size, -1);
        for (int z = 1; z <= nz; ++z)
            for (int y = 1; y <= ny; ++y)
                for (int x = 1; x <= nx; ++x)
                    if (index.empty() || below(random, 10) < kept) {
                        voxel[x + y * px + z * pxy] = (int)index.size();
                        index.push_back(x + y * px + z * pxy);
                    }
    }

    int n() const { return (int)index.size(); }

    std::vector<int> offsets(int connectivity) const {
        const int reach = connectivity == 6 ? 1 : connectivity == 18 ? 2 : 3;
        std::vector<int> out;
        for (int dz = -1; dz <= 1; ++dz)
            for (int dy = -1; dy <= 1; ++dy)
                for (int dx = -1; dx <= 1; ++dx) {
                    const int moved = (dx != 0) + (dy != 0) + (dz != 0);
                    if (moved && moved <= reach) out.push_back(dx + dy * px + dz * pxy);
                }
        return out;
    }

    // Calls f(voxels) for each component of {v: inside[v]}.
    template <class F> void components(const std::vector<char>& inside, int connectivity, F f) const {
        std::vector<char> seen(n(), 0);
        const std::vector<int> steps = offsets(connectivity);
        for (int first = 0; first < n(); ++first) {
            if (!inside[first] || seen[first]) continue;
            std::vector<int> members = {first};
            seen[first] = 1;
            for (std::size_t i = 0; i < members.size(); ++i)
                for (int step : steps) {
                    const int v = voxel[index[members[i]] + step];
                    if (v < 0 || !inside[v] || seen[v]) continue;
                    seen[v] = 1;
                    members.push_back(v);
                }
            f(members);
        }
    }
};

// Multiples of 1/4 up to 3: continuous enough, or with ties, plateaus, one sign or one value.
static inline std::vector<float> random_maps(Random& random, int n_maps, int n_voxels) {
    std::vector<float> maps;
    for (int b = 0; b < n_maps; ++b) {
        const int kind = below(random, 6);
        float value = 0.0f;
        for (int v = 0; v < n_voxels; ++v) {
            if (kind != 4 || v == 0) value = (below(random, 25) - 12) * 0.25f;
            if (kind == 1) value = (float)(below(random, 5) - 2);
            if (kind == 2 && v % 3) value = maps.back();
            if (kind == 3 && value < 0) value = -value;
            if (kind == 5) value = -(2.0f + below(random, 2));
            maps.push_back(value);
        }
    }
    return maps;
}

// Scratch of exactly n items that holds nothing of use.
template <class T> std::vector<T> poisoned(std::size_t n) {
    std::vector<T> out(n);
    std::memset((void*)out.data(), 0xAB, n * sizeof(T));
    return out;
}

template <class... A>
void run_kernel(void (*kernel)(A...), unsigned blocks, unsigned threads, std::size_t shared,
                typename Same<A>::type... arguments) {
    const unsigned shape[3] = {blocks, 1, threads};
    void* pointers[] = {(void*)&arguments...};
    cuda_on_cpu::launch(kernel, shape, shared, pointers);
}

static inline void expect(bool right, const char* what, int number) {
    if (right) return;
    std::printf("wrong: %s, trial %d\n", what, number);
    std::fflush(stdout);
    std::_Exit(1);
}
