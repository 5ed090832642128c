// Runs cluster_measure on seeded random maps and compares with flood fill; see drive_tfce.cpp.
#include "drive.hpp"

namespace {

struct Truth {
    std::vector<int64> extent;
    std::vector<double> mass, normalised;
    int64 largest[2] = {0, 0};
    double heaviest[2] = {0.0, 0.0};
};

Truth flood_fill(const Box& box, const float* t, float threshold, const std::vector<double>& local, int connectivity) {
    Truth out;
    out.extent.assign(box.n(), 0);
    out.mass.assign(box.n(), 0.0);
    out.normalised.assign(box.n(), 0.0);
    std::vector<char> inside(box.n());
    for (int row = 0; row < 2; ++row) {
        const int sign = row ? -1 : 1;
        for (int v = 0; v < box.n(); ++v) inside[v] = sign * t[v] >= threshold;
        box.components(inside, connectivity, [&](const std::vector<int>& members) {
            const int64 extent = (int64)members.size();
            double mass = 0.0, weight = 0.0;  // multiples of 1/4: exact
            for (int v : members) {
                mass += std::fabs(t[v]);
                weight += local[row * box.n() + v];
            }
            for (int v : members) {
                out.extent[v] = sign * extent;
                out.mass[v] = sign * mass;
                out.normalised[v] = weight > 0 ? sign * (extent / (weight / extent)) : 0.0;
            }
            if (extent > out.largest[row]) out.largest[row] = extent;
            if (mass > out.heaviest[row]) out.heaviest[row] = mass;
        });
    }
    return out;
}

struct Result {
    std::vector<int64> extent;
    std::vector<double> mass;
};

template <int WHAT>
Result measure(const Box& box, const std::vector<float>& stat, float threshold, const std::vector<double>& local,
               int connectivity, int n_maps, int blocks, int threads) {
    const std::size_t n = box.n(), words = blocks * n, items = WHAT == MAXIMA ? 2 * n_maps : n_maps * n;
    std::vector<int> back = box.offsets(connectivity);
    back.resize(back.size() / 2);
    std::vector<int> at(blocks * box.size, -1);
    auto active = poisoned<int>(words), parent = poisoned<int>(words), size = poisoned<int>(words);
    auto high = poisoned<int64>(words), low = poisoned<int64>(words);
    Result out = {poisoned<int64>(items), poisoned<double>(items)};
    if (WHAT == MAXIMA) {
        out.extent.assign(items, 0);
        out.mass.assign(items, 0.0);
    }
    run_kernel(cluster_measure<WHAT>, blocks, threads, 0, stat.data(), n_maps, (int)n, threshold, box.index.data(),
               box.size, back.data(), (int)back.size(), local.data(), at.data(), active.data(), parent.data(),
               size.data(), high.data(), low.data(), out.extent.data(), out.mass.data());
    for (int position : at) expect(position == -1, "scratch not left clean", n_maps);
    return out;
}

}  // namespace

int main(int, char** arguments) {
    Random random(std::atoi(arguments[1]));
    const int trials = std::atoi(arguments[2]);
    planted = std::atoi(arguments[3]);
    for (int trial = 0; trial < trials; ++trial) {
        const Box box(random);
        const int n_maps = 2 + below(random, 5), blocks = 1 + below(random, 2), threads = 1 + (trial + 1) % 4;
        std::vector<float> stat = random_maps(random, n_maps, box.n());
        const int connectivity = trial % 3 == 0 ? 6 : trial % 3 == 1 ? 18 : 26;
        const float scale = trial % 2 ? 1.0f : 4096.0f;  // the larger masses need both words
        for (float& value : stat) value *= scale;
        const float threshold = scale * (0.25f + 0.5f * below(random, 3));
        std::vector<double> local;
        for (int v = 0; v < 2 * box.n(); ++v) local.push_back(below(random, 4) * 0.5);
        const Result top = measure<MAXIMA>(box, stat, threshold, local, connectivity, n_maps, blocks, threads);
        const Result maps = measure<MAPS>(box, stat, threshold, local, connectivity, n_maps, blocks, threads);
        const Result over = measure<NORMALISED>(box, stat, threshold, local, connectivity, n_maps, blocks, threads);
        for (int b = 0; b < n_maps; ++b) {
            const Truth truth = flood_fill(box, stat.data() + b * box.n(), threshold, local, connectivity);
            for (int row = 0; row < 2; ++row) {
                expect(top.extent[row * n_maps + b] == truth.largest[row], "largest extent", trial);
                expect(top.mass[row * n_maps + b] == truth.heaviest[row], "largest mass", trial);
            }
            for (int v = 0; v < box.n(); ++v) {
                expect(maps.extent[b * box.n() + v] == truth.extent[v], "extent", trial);
                expect(maps.mass[b * box.n() + v] == truth.mass[v], "mass", trial);
                expect(over.mass[b * box.n() + v] == truth.normalised[v], "normalised extent", trial);
            }
        }
    }
    std::puts("right");
}
