// Runs tfce_peaks and tfce_grow on seeded random maps and compares with sums over flood-filled levels: exit status 1
// where they differ. Arguments: seed, number of trials, number of the planted fault (0 for none). The text of the
// kernels, which may look at `planted`, stands before this one.
#include "drive.hpp"

namespace {

const int LEVELS = 14;

struct Tables {
    std::vector<float> thresholds, per_step;
    std::vector<int64> weights, worth, sizes;  // w, their sums, S

    explicit Tables(int n_voxels) {
        const float delta[2] = {0.25f, 0.4f};
        for (int row = 0; row < 2; ++row) {
            float height = 0.0f;
            int64 sum = 0;
            for (int k = 0; k <= LEVELS; ++k) {
                thresholds.push_back(height += delta[row]);
                const int64 w = k ? (int64)k * k + 3 * row : 0;
                weights.push_back(w);
                worth.push_back(sum += w);
            }
            per_step.push_back(1 / delta[row]);
        }
        for (int64 n = 0; n <= n_voxels; ++n) sizes.push_back(n * n + 5 * n);
    }

    int level(float value) const {
        const int row = value > 0 ? 0 : 1;
        int level = 0;
        while (level <= LEVELS && thresholds[row * (LEVELS + 1) + level] < std::fabs(value)) ++level;
        return value != value ? LEVELS + 1 : level;
    }
};

struct Truth {
    bool too_many = false;
    std::vector<int64> map;
    int64 maxima[2] = {0, 0};
};

Truth brute_force(const Box& box, const Tables& tables, const float* t, int connectivity) {
    Truth out;
    out.map.assign(box.n(), 0);
    for (int v = 0; v < box.n(); ++v) out.too_many |= tables.level(t[v]) > LEVELS;
    std::vector<char> inside(box.n());
    for (int row = 0; row < 2; ++row)
        for (int k = 1; k <= LEVELS; ++k) {
            for (int v = 0; v < box.n(); ++v) inside[v] = (t[v] > 0) == (row == 0) && tables.level(t[v]) >= k;
            box.components(inside, connectivity, [&](const std::vector<int>& members) {
                const int64 gain = tables.sizes[members.size()] * tables.weights[row * (LEVELS + 1) + k];
                for (int v : members) out.map[v] += row ? -gain : gain;
            });
        }
    for (int64 score : out.map) {
        if (score > out.maxima[0]) out.maxima[0] = score;
        if (-score > out.maxima[1]) out.maxima[1] = -score;
    }
    return out;
}

struct Case {
    const Box& box;
    const Tables& tables;
    const std::vector<float>& stat;
    const std::vector<Truth>& truth;
    int n_maps, blocks, threads, trial;
};

// Returns the most edges a map has where the room was too small, else 0.
template <int C, bool FULL> int peaks(Case c, int room, bool cap_shared, int n_shared) {
    const std::size_t slots = c.blocks, n = c.box.n(), words = slots * n, n_counts = 3 * (LEVELS + 1);
    std::vector<short> code(slots * c.box.size, 0);
    auto up = poisoned<int>(slots * c.box.size), order = poisoned<int>(words), dead = poisoned<int>(2 * words);
    auto raw = poisoned<int>(slots * 2 * room), edge = poisoned<int>(slots * 2 * room);
    auto counts = poisoned<int>(slots * n_counts), status = poisoned<int>(c.n_maps);
    auto word = poisoned<uint32>(words);
    auto gathered = poisoned<int64>(words), above = poisoned<int64>(FULL ? words : 1);
    auto maxima = poisoned<int64>(2 * c.n_maps), maps = poisoned<int64>(FULL ? c.n_maps * n : 1);
    const std::size_t shared = 12 * n_shared + (cap_shared ? 4 * n_counts : 0);
    run_kernel(tfce_peaks<C, FULL>, c.blocks, c.threads, shared, c.stat.data(), c.n_maps, (int)n, c.box.index.data(),
               c.box.size, c.box.px, c.box.pxy, c.tables.thresholds.data(), c.tables.per_step.data(),
               0, c.tables.weights.data(), c.tables.sizes.data(), LEVELS, room, (int)cap_shared, n_shared, code.data(),
               up.data(), order.data(), word.data(), gathered.data(), dead.data(), raw.data(), edge.data(),
               counts.data(), above.data(), maxima.data(), status.data(), maps.data());
    int needed = 0;
    for (int b = 0; b < c.n_maps; ++b) {
        const Truth& truth = c.truth[b];
        expect((status[b] == TOO_MANY_LEVELS) == truth.too_many, "levels too many", c.trial);
        if (status[b] > needed) needed = status[b];
        if (status[b] != DONE) continue;
        for (int row = 0; row < 2; ++row)
            expect(maxima[row * c.n_maps + b] == truth.maxima[row], "maximum", c.trial);
        for (std::size_t v = 0; FULL && v < n; ++v) expect(maps[b * n + v] == truth.map[v], "map", c.trial);
    }
    expect(!needed || needed > room, "edges reported", c.trial);
    return needed;
}

template <int C, bool FULL> void peaks_until_done(Case c, int room, bool cap_shared, int n_shared) {
    const int needed = peaks<C, FULL>(c, room, cap_shared, n_shared);
    if (needed) expect(!peaks<C, FULL>(c, needed, cap_shared, n_shared), "edges after there was room", c.trial);
}

void grow(Case c, int connectivity) {
    const std::size_t slots = c.blocks, n = c.box.n(), words = slots * n;
    const std::vector<int> offsets = c.box.offsets(connectivity);
    std::vector<int64> maps(c.n_maps * n, 0);
    std::vector<int> status(c.n_maps, 0), at(slots * c.box.size, -1);
    for (int row = 0; row < 2; ++row) {
        auto key = poisoned<int>(words), order = poisoned<int>(words), other = poisoned<int>(words);
        auto parent = poisoned<int>(words), size = poisoned<int>(words), count = poisoned<int>(slots * 256 * c.threads);
        auto total = poisoned<int64>(words), above = poisoned<int64>(words);
        run_kernel(tfce_grow<int64>, c.blocks, c.threads, 0, c.stat.data(), c.n_maps, (int)n, c.box.index.data(),
                   c.box.size, offsets.data(), (int)offsets.size(), c.tables.thresholds.data() + row * (LEVELS + 1),
                   c.tables.worth.data() + row * (LEVELS + 1), c.tables.sizes.data(), c.tables.per_step[row], LEVELS,
                   0.0, row ? -1 : 1, at.data(), key.data(), order.data(), other.data(), parent.data(), size.data(),
                   total.data(), above.data(), count.data(), status.data(), maps.data());
    }
    for (int b = 0; b < c.n_maps; ++b) {
        expect((status[b] != 0) == c.truth[b].too_many, "levels too many, grown", c.trial);
        for (std::size_t v = 0; !c.truth[b].too_many && v < n; ++v)
            expect(maps[b * n + v] == c.truth[b].map[v], "map, grown", c.trial);
    }
}

}  // namespace

int main(int, char** arguments) {
    Random random(std::atoi(arguments[1]));
    const int trials = std::atoi(arguments[2]);
    planted = std::atoi(arguments[3]);
    for (int trial = 0; trial < trials; ++trial) {
        const Box box(random);
        const Tables tables(box.n());
        const int n_maps = 2 + below(random, 5), blocks = 1 + below(random, 2), threads = 1 + (trial + 1) % 4;
        std::vector<float> stat = random_maps(random, n_maps, box.n());
        // Some maps that are too high, in many voxels and by not being numbers.
        for (int b = 0; b < n_maps; ++b)
            for (int v = 0; trial % 3 == 0 && b % 2 && v < box.n(); v += 2)
                stat[b * box.n() + v] = b == 1 ? 1e9f : std::nanf("");
        const int connectivity = trial % 2 ? 26 : 6;
        std::vector<Truth> truth;
        for (int b = 0; b < n_maps; ++b)
            truth.push_back(brute_force(box, tables, stat.data() + b * box.n(), connectivity));
        const Case c = {box, tables, stat, truth, n_maps, blocks, threads, trial};
        const int room = below(random, 3) ? 26 * box.n() : 1, n_shared = 2 * below(random, 3) * below(random, 8);
        const bool cap_shared = below(random, 2);
        if (connectivity == 26)
            peaks_until_done<26, false>(c, room, cap_shared, n_shared);
        else
            peaks_until_done<6, true>(c, room, cap_shared, n_shared);
        if (trial % 4 < 2) grow(c, connectivity);
    }
    std::puts("right");
}
