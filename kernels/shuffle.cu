// Shuffles of the rows of a design, as gpuvox/shuffle.py and block_tree.py make them, bit for bit: a thread makes one, as
// a function of the key and of its number alone. 32-bit words are in 64 bits, where products of two of them fit.

#include "common.cuh"

namespace {

const uint64 LOW_WORD = 0xffffffffull;
const uint64 FACTOR_0 = 0xd2511f53ull, FACTOR_1 = 0xcd9e8d57ull, STEP_0 = 0x9e3779b9ull, STEP_1 = 0xbb67ae85ull;
const uint64 ROUND_BIT = 2, DRAW = 3;  // what a random number is for

// How permutations get their rank among the labellings.
const int UNRANKED = 0, IN_ORDER = 1, KEYED = 2;

struct Random {
    uint64 word[4];
};

// Philox4x32-10 of the counter (number, block, use).
DEVICE Random philox(uint64 key, uint64 number, uint64 block, uint64 use) {
    uint64 k0 = key & LOW_WORD, k1 = key >> 32;
    Random c = {{number & LOW_WORD, number >> 32, block, use}};
    for (int round = 0; round < 10; ++round) {
        const uint64 a = FACTOR_0 * c.word[0], b = FACTOR_1 * c.word[2];
        c = {{(b >> 32) ^ c.word[1] ^ k0, b & LOW_WORD, (a >> 32) ^ c.word[3] ^ k1, a & LOW_WORD}};
        k0 = (k0 + STEP_0) & LOW_WORD;
        k1 = (k1 + STEP_1) & LOW_WORD;
    }
    return c;
}

// The random word of a slot; words come four at a time.
struct Draws {
    uint64 key, number;
    int64 block;
    Random held;
};

DEVICE uint64 word_of(Draws* draws, int slot) {
    if (slot / 4 != draws->block) {
        draws->block = slot / 4;
        draws->held = philox(draws->key, draws->number, (uint64)draws->block, DRAW);
    }
    const int place = slot % 4;
    const Random& r = draws->held;
    return place == 0 ? r.word[0] : place == 1 ? r.word[1] : place == 2 ? r.word[2] : r.word[3];
}

// Swap-or-not shuffle of 1 ... n_distinct - 1; pivots: the numbers of its rounds.
DEVICE uint64 rank_of(uint64 number, int how, uint64 key, uint64 n_distinct, const uint64* pivots, int n_pivots) {
    if (how != KEYED) return number;
    const uint64 size = n_distinct - 1;
    uint64 x = number - 1;
    for (int r = 0; r < n_pivots; ++r) {
        const uint64 partner = (pivots[r] + (size - x)) % size;
        if (philox(key, x > partner ? x : partner, (uint64)r, ROUND_BIT).word[0] & 1) x = partner;
    }
    return x + 1;
}

// Slots of class c in random order, Fisher-Yates; what threads hold is `step` apart.
DEVICE void shuffle_class(Draws* draws, int c, const int* classes, int64 step, int* pool, int* unplaced) {
    const int first = classes[c], last = classes[c + 1];
    unplaced[c * step] = last - first;
    for (int k = first; k < last; ++k) pool[k * step] = k;
    for (int k = last - 1; k > first; --k) {
        const int other = first + (int)((word_of(draws, k) * (uint64)(k - first + 1)) >> 32);
        const int held = pool[k * step];
        pool[k * step] = pool[other * step];
        pool[other * step] = held;
    }
}

// The arrangement number `digit` of the `count` ones of the classes first ... last - 1, in lexicographic order.
DEVICE void unrank(uint64 digit, uint64 count, int first, int last, const int* classes, int64 step, int* unplaced,
                   const int* pool, int* source) {
    for (int slot = classes[first]; slot < classes[last]; ++slot) {
        const uint64 remaining = (uint64)(classes[last] - slot);
        for (int c = first; c < last; ++c) {
            const uint64 n = (uint64)unplaced[c * step];
            const uint64 share = count / remaining * n + count % remaining * n / remaining;
            if (digit < share) {
                source[slot * step] = pool[(classes[c + 1] - (int)n) * step];
                unplaced[c * step] = (int)n - 1;
                count = share;
                break;
            }
            digit -= share;
        }
    }
}

}  // namespace

// out (n_maps, n_rows): permutations number `start` ... The units that move, each of unit_rows rows, are in slots, sorted
// by stratum and then by class: members (n_slots, unit_rows); stratum s has the classes strata[s] ... strata[s + 1] - 1,
// class c the slots classes[c] ... classes[c + 1] - 1; radix: number of arrangements of each stratum. Of a rank, what is
// left after division by n_signs is that of the permutation.
// Scratch of each thread of the grid, one after the other: pool and source (n_slots), unplaced (n_classes).
KERNEL shuffle_permutations(uint64 key, uint64 start, int n_maps, int n_rows, const int* members, int n_slots,
                            int unit_rows, const int* strata, int n_strata, const int* classes, int n_classes,
                            const uint64* radix, int how, uint64 n_distinct, const uint64* pivots, int n_pivots,
                            uint64 n_signs, int* scratch, int* out) {
    const int64 step = grid_threads();
    int* pool = scratch + grid_thread();
    int* source = pool + n_slots * step;
    int* unplaced = source + n_slots * step;
    for (int64 b = grid_thread(); b < n_maps; b += step) {
        const uint64 number = start + (uint64)b;
        int* row = out + b * n_rows;
        for (int i = 0; i < n_rows; ++i) row[i] = i;
        if (number == 0) continue;
        Draws draws = {key, number, -1, {{0, 0, 0, 0}}};
        for (int c = 0; c < n_classes; ++c) shuffle_class(&draws, c, classes, step, pool, unplaced);
        // Which class comes to each slot: the digit of the stratum.
        uint64 rank = how == UNRANKED ? 0 : rank_of(number, how, key, n_distinct, pivots, n_pivots) / n_signs;
        for (int s = 0; s < n_strata; ++s) {
            unrank(rank % radix[s], radix[s], strata[s], strata[s + 1], classes, step, unplaced, pool, source);
            rank /= radix[s];
        }
        for (int slot = 0; slot < n_slots; ++slot)
            for (int k = 0; k < unit_rows; ++k)
                row[members[slot * unit_rows + k]] = members[source[slot * step] * unit_rows + k];
    }
}

// The same for a tree of blocks (gpuvox/block_tree.py), level by level from the root: the children of node k are numbers
// first[k] ... first[k + 1] - 1; row: -1 for blocks; trades: whether the children trade places; counts, arrangements
// (n_nodes): labellings of a node, and arrangements of its children; members: the children of each node by class; node k
// has the classes class_start[k] ... class_start[k + 1] - 1; unpermuted: the rank of the labelling that is there.
// Scratch of each thread of the grid: rank (n_nodes) in `ranks`; what comes to each node, pool, chosen (n_nodes) and
// unplaced (n_classes) in `scratch`.
KERNEL shuffle_tree(uint64 key, uint64 start, int n_maps, int n_rows, int n_nodes, const int* first, const int* row,
                    const int* trades, const uint64* counts, const uint64* arrangements, const int* members,
                    const int* class_start, const int* classes, uint64 unpermuted, int how, uint64 n_distinct,
                    const uint64* pivots, int n_pivots, uint64 n_signs, uint64* ranks, int* scratch, int* out) {
    const int64 step = grid_threads();
    uint64* rank = ranks + grid_thread();
    int* come = scratch + grid_thread();
    int* pool = come + n_nodes * step;
    int* chosen = pool + n_nodes * step;
    int* unplaced = chosen + n_nodes * step;
    for (int64 b = grid_thread(); b < n_maps; b += step) {
        const uint64 number = start + (uint64)b;
        int* moved = out + b * n_rows;
        for (int i = 0; i < n_rows; ++i) moved[i] = i;
        if (number == 0) continue;
        Draws draws = {key, number, -1, {{0, 0, 0, 0}}};
        uint64 whole = 0;
        if (how != UNRANKED)
            whole = (rank_of(number, how, key, n_distinct, pivots, n_pivots) / n_signs + unpermuted) % counts[0];
        rank[0] = whole;
        come[0] = 0;
        for (int place = 0; place < n_nodes; ++place) {
            const int s = come[place * step];
            uint64 left = rank[place * step];
            if (row[place] >= 0) {
                moved[row[place]] = row[s];
                continue;
            }
            if (trades[place]) {
                for (int c = class_start[s]; c < class_start[s + 1]; ++c)
                    shuffle_class(&draws, c, classes, step, pool, unplaced);
                unrank(left % arrangements[s], arrangements[s], class_start[s], class_start[s + 1], classes, step,
                       unplaced, pool, chosen);
                left /= arrangements[s];
            }
            for (int k = 0; k < first[place + 1] - first[place]; ++k) {
                const int child = trades[place] ? members[chosen[(first[s] + k) * step]] : first[s] + k;
                come[(first[place] + k) * step] = child;
                rank[(first[place] + k) * step] = left % counts[child];
                left /= counts[child];
            }
        }
    }
}

// Flips signs of shuffles out (n_maps, n_rows), one for each unit, from the random word first_word on where there are no
// ranks; in_place: the rows of `out` are put in their places first. unit_of_row (n_rows): -1 where a sign never changes.
KERNEL shuffle_signs(uint64 key, uint64 start, int n_maps, int n_rows, const int* unit_of_row, int n_units,
                     int first_word, int how, uint64 n_distinct, const uint64* pivots, int n_pivots, int in_place,
                     int* out) {
    for (int64 b = grid_thread(); b < n_maps; b += grid_threads()) {
        const uint64 number = start + (uint64)b;
        int* row = out + b * n_rows;
        Draws draws = {key, number, -1, {{0, 0, 0, 0}}};
        const uint64 rank =
            number == 0 || how == UNRANKED ? 0 : rank_of(number, how, key, n_distinct, pivots, n_pivots);
        for (int i = 0; i < n_rows; ++i) {
            const int unit = unit_of_row[i], now = in_place ? i : row[i];
            uint64 bits = 0;
            if (number && unit >= 0)
                bits = how == UNRANKED ? word_of(&draws, first_word + unit) : rank >> (n_units - 1 - unit);
            row[i] = bits & 1 ? ~now : now;
        }
    }
}
