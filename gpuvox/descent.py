"""From pointers and edges to scores: the sweep of TFCE on the CPU (`tfce` has the theory, `ascent` the step before).

`ascend` gives every voxel a label and lists edges between labels. Here labels become peaks, edges are sorted by level,
and the components of falling levels are swept once, with one number for each peak and no look at the map.

**Trunk and branches.** Most voxels need not be sorted at all. Of either sign, call the highest peak G, and the
component that it is in, at each level, the *trunk*. The edges alone, in a first pass of unions over a few thousand
peaks, say at which level J(q) each peak q joins the trunk (0: never). A voxel of level a at the peak q is then in the
trunk at the levels 1 … min(a, J(q)), so that a histogram of min(a, J) gives the size n_k of the trunk at every level k,
and with it what the trunk is worth down from any level,

    T(J) = Σ_{k≤J} S[n_k]·w_k

A voxel with a ≤ J(q) has the score T(a). One with a > J(q) was in a *branch* before: only such voxels, about a third,
are sorted, and swept through the unions among branches. When a branch ends at level J, each of its peaks has gathered
A = Σ_{k>J} S[n_k]·w_k (total − S[n]·C[J], with n the voxels of the branch), and its score is A + T(J); a voxel of the
branch has that less what its peak had gathered above the voxel's level. Every sum of integers is exact.

**Counts.** For uncorrected p-values a score is only compared with the observed one: it is counted where it is made, and
no map is written.
"""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np
from numpy.typing import NDArray

from gpuvox.ascent import CENTRE, LEAST_ROW, WORD, ascend, make_group
from gpuvox.grid import Grid, neighbour_steps
from gpuvox.jit import checked, part
from gpuvox.levels import Levels, quantise
from gpuvox.types import Bools, Float32, Int32, Ints

__all__ = ["Kept", "Layout", "Scratch", "enhance_maps", "keep", "layout_of", "scratch_for"]

_SPARE = 2 * WORD  # positions after the box, which the last word reads

Layout = namedtuple("Layout", "runs blocks steps")
Layout.__doc__ = """Where the voxels of a grid lie in a padded box, whose rows are `ascent.LEAST_ROW` long at least.

runs (n, 3): first position, first voxel, number of voxels of a contiguous row; blocks (m,): positions at which words of
64 begin that hold all voxels; steps (27,): offset to each cell of the cube.
"""
Forest = namedtuple("Forest", "root ring size total offset")
Forest.__doc__ = """Components of peaks: the root of each peak, the ring of the peaks of a component; at the root, the
number of voxels and what they have gathered; at each peak, what it gathered beyond its root."""

ByLevel = namedtuple("ByLevel", "start count")
ByLevel.__doc__ = """Things sorted by signed level, which is counted from −cap on.

count: how many of a level; start: where those of a level begin, and, when all are in their places, where they end.
"""

Scratch = namedtuple(
    "Scratch",
    "code label order head_up final outside above joined joins forest voxels edges trunk worth scores group",
)
Scratch.__doc__ = """Work space, once per call.

In the box: code, label. By head or voxel: order, head_up, final, outside (voxels of branches), above, joined (J). By
peak: joins (J). By signed level: trunk (4, …), four histograms to be added up; worth, T of either sign. scores: of a
run. group: of `ascend`.
"""

Kept = namedtuple("Kept", "maxima maps ties nearer")
Kept.__doc__ = """What is kept of the scores.

maxima (2, B); maps (B, V), or without rows; ties (V,): observed scores, or without any; nearer (V,) int32: how many
maps lie below the tie, or above a negative one.
"""


def _box(grid: Grid) -> tuple[int, int, int]:
    """Shape of the padded box."""
    px, py, pz = grid.padded.shape
    return max(px, LEAST_ROW), py, pz


def layout_of(grid: Grid) -> Layout:
    """Runs and words of a grid."""
    px, py, _ = _box(grid)
    row, x = np.divmod(grid.padded.index.astype(np.int64), grid.padded.shape[0])
    index = row * px + x
    runs = np.flatnonzero(np.diff(index, prepend=-2) != 1)
    blocks, covered = [], -1
    while (at := int(np.searchsorted(index, covered, side="right"))) < len(index):
        blocks.append(int(index[at]))
        covered = blocks[-1] + WORD - 1
    return Layout(
        np.stack([index[runs], runs, np.diff(runs, append=len(index))], axis=1),
        np.array(blocks, dtype=np.int64),
        steps_of_the_cube() @ np.array([1, px, px * py], dtype=np.int64),
    )


def steps_of_the_cube() -> Ints:
    """(27, 3) The steps of `neighbour_steps(26)` with the voxel itself in the middle."""
    return np.insert(neighbour_steps(26), CENTRE, 0, axis=0)


def keep(maxima: Ints, maps: Ints, ties: Ints | None = None, nearer: Int32 | None = None) -> Kept:
    """What is to be kept of the scores, see `Kept`; by default nothing is counted."""
    nothing = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32)
    return Kept(maxima, maps, nothing[0] if ties is None else ties, nothing[1] if nearer is None else nearer)


def scratch_for(grid: Grid, cap: int) -> Scratch:
    """Work space for maps on a grid, with up to `cap` levels."""
    n, size, levels = grid.n_voxels + 1, math.prod(_box(grid)) + _SPARE, 2 * cap + 1

    def words(length: int) -> Int32:
        return np.empty(length, dtype=np.int32)

    def longs(length: int) -> Ints:
        return np.empty(length, dtype=np.int64)

    # Voxels of level 0 have labels of no meaning, which are looked up like all others: `label`, `final` and `joined`
    # always hold numbers that are in range.
    code, label = np.zeros(size, dtype=np.int16), np.zeros(size, dtype=np.int32)
    final, joined = np.zeros(n, dtype=np.int32), np.zeros(n, dtype=np.int16)
    forest = Forest(words(n), words(n), words(n), longs(n), longs(n))
    voxels, edges = (ByLevel(words(levels), words(levels)) for _ in range(2))
    trunk = np.empty((4, levels), dtype=np.int32)
    return Scratch(
        code, label, words(n), words(n), final, words(n), longs(n), joined, words(n), forest, voxels, edges, trunk,
        longs(levels), longs(_box(grid)[0]), make_group(),
    )  # fmt: skip


_u = np.uintp  # unsigned indices: numba then leaves out the test for negative ones
_i16 = np.int16
_i32 = np.int32


@checked
def enhance_maps(
    stat: Float32,
    layout: Layout,
    levels: Levels,
    scratch: Scratch,
    cells: tuple[int, ...],
    kept: Kept,
    high: Bools,
) -> None:
    """Fill what is `kept` of the scores. Maps (B, V) with too many levels are left out, and noted in `high`.

    cells: see `ascent.neighbour_cells`.
    """
    whole = len(kept.maps) > 0 or len(kept.ties) > 0
    code, label, final = scratch.code, scratch.label, scratch.final
    saddles = np.empty((2, 1 << 14), np.int32)
    ends, edges, ends_level = np.empty(1024, np.int64), np.empty(1024, np.int64), np.empty(1024, np.int32)
    for b in range(len(stat)):
        if quantise(stat[b], layout.runs, levels, code):
            high[b] = True
            continue
        n_heads, n_saddles, saddles = ascend(
            layout.blocks, layout.steps, cells, scratch.group, code, label, scratch.head_up, saddles
        )
        peaks = _label_peaks(n_heads, label, code, scratch.head_up, scratch.order, final, scratch.above)
        if n_saddles > len(ends):
            room = 2 * n_saddles
            ends, edges, ends_level = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int32)
        n_edges = _edges(saddles[:, :n_saddles], code, label, final, scratch.edges.count, ends, ends_level)
        _sort_edges(n_edges, ends, ends_level, scratch.edges, edges)
        above = scratch.above if whole else scratch.above[:0]
        _sweep_of_branches(peaks, layout.runs, levels, edges, scratch, above, kept.maxima[:, b])
        if whole:
            _write(layout.runs, scratch, b, kept)


# -- peaks and edges ------------------------------------------------------------------------------------------------


@part
def _label_peaks(
    n_heads: np.int64,
    label: Int32,
    code: NDArray[np.int16],
    head_up: Int32,
    number: Int32,
    final: Int32,
    level: Ints,
) -> tuple[np.int64, int, np.int64]:
    """Final label of each provisional one: the number of its peak; and the level of each peak.

    Peaks of the map are numbered from 0 up, those of its negative from n_heads − 1 down. Returns n_heads, how many
    peaks the map has, and the first of its negative.
    """
    for h in range(n_heads):
        final[h] = label[_u(head_up[h])]
    for h in range(n_heads - 1, -1, -1):  # most chains lead to later heads
        final[_u(h)] = final[_u(final[_u(h)])]
    n_up, first_down = 0, n_heads
    for h in range(n_heads):
        peak = _u(h)
        while _u(final[peak]) != peak:
            peak = _u(final[peak])
        final[_u(h)] = peak
        if peak == _u(h):
            height = np.int64(code[_u(head_up[h])])
            first_down -= int(height < 0)
            number[h] = n_up if height > 0 else first_down
            n_up += int(height > 0)
            level[_u(number[h])] = abs(height)
    for h in range(n_heads):
        final[h] = number[_u(final[h])]
    return n_heads, n_up, first_down


@part
def _edges(
    saddles: Int32, code: NDArray[np.int16], label: Int32, final: Int32, count: Int32, ends: Ints, level: Int32
) -> np.intp:
    """Edges between the labels of saddles and of what lies beside them, but for those within one label."""
    cap = _i32(len(count) >> 1)
    count[:] = 0
    n = _u(0)
    for i in range(saddles.shape[1]):
        p = _u(saddles[0, i])
        one, other = final[_u(label[p])], final[_u(label[_u(saddles[1, i])])]
        c = cap + _i32(code[p])
        # Without a branch: what joins a label to itself is overwritten.
        ends[n] = (np.int64(one) << 32) | other
        level[n] = c
        new = int(one != other)
        n += _u(new)
        count[_u(c)] += new
    return np.intp(n)


@part
def _sort_edges(n: np.intp, ends: Ints, level: Int32, by_level: ByLevel, edges: Ints) -> None:
    """Edges by signed level."""
    start = by_level.start
    _begin(by_level)
    for i in range(n):
        at = _u(level[i])
        edges[_u(start[at])] = ends[i]
        start[at] += 1


@part
def _begin(by_level: ByLevel) -> None:
    """Where the things of each level begin."""
    total = 0
    for k in range(len(by_level.start)):
        by_level.start[k] = total
        total += by_level.count[k]


# -- the sweep ------------------------------------------------------------------------------------------------------


@part
def _start_peaks(n: np.int64, forest: Forest) -> None:
    """Every peak by itself, without a voxel."""
    for peak in range(n):
        forest.root[peak] = peak
        forest.ring[peak] = peak
        forest.size[peak] = 0
        forest.total[peak] = 0
        forest.offset[peak] = 0


@part
def _sweep(
    levels: Levels,
    edges: Ints,
    order: Int32,
    by_level: ByLevel,
    edge_by_level: ByLevel,
    forest: Forest,
    above: Ints,
) -> None:
    """Both signs from the highest level down: unions, then the voxels. above: see `_gathered`; may be empty."""
    cap = levels.cap
    for row in range(2):
        for k in range(cap, 0, -1):
            c = cap - k if row else cap + k
            worth = levels.weights[row, k]
            if edge_by_level.count[c]:
                stop = edge_by_level.start[c]
                _unite(edges[stop - edge_by_level.count[c] : stop], worth, levels.sizes, forest)
            if by_level.count[c]:
                stop = by_level.start[c]
                start = stop - by_level.count[c]
                if len(above):
                    _gathered(order[start:stop], worth, levels.sizes, forest, above[start:stop])
                _add_voxels(order[start:stop], worth, levels.gain, forest)


@part
def _add_voxels(labels: Int32, worth: int, gain: Ints, forest: Forest) -> None:
    root, size, total = forest.root, forest.size, forest.total
    for label in labels:
        r = _u(root[_u(label)])
        n = _u(size[r])
        size[r] = n + _u(1)
        total[r] += gain[n] * worth


@part
def _gathered(labels: Int32, worth: int, sizes: Ints, forest: Forest, above: Ints) -> None:
    """What each voxel's label gathered above this level; true at any moment of the level."""
    for i in range(len(labels)):
        label = _u(labels[i])
        r = _u(forest.root[label])
        above[i] = forest.total[r] + forest.offset[label] - sizes[_u(forest.size[r])] * worth


@part
def _unite(edges: Ints, worth: int, sizes: Ints, forest: Forest) -> None:
    """Join components; the members of the smaller one, a ring, learn their new root and offset."""
    root, ring, size, total, offset = forest
    for edge in edges:
        a, b = root[_u(edge >> 32)], root[_u(edge & 0xFFFFFFFF)]
        if a == b:
            continue
        if size[a] < size[b]:
            a, b = b, a
        n = size[a] + size[b]
        total[a] += (sizes[n] - sizes[size[a]]) * worth
        difference = total[b] + (sizes[n] - sizes[size[b]]) * worth - total[a]
        size[a] = n
        member = b
        while True:
            root[member] = a
            offset[member] += difference
            member = ring[member]
            if member == b:
                break
        ring[a], ring[b] = ring[b], ring[a]


# -- trunk and branches ---------------------------------------------------------------------------------------------


@part
def _sweep_of_branches(
    peaks: tuple[np.int64, int, np.int64],
    runs: Ints,
    levels: Levels,
    edges: Ints,
    scratch: Scratch,
    above: Ints,
    maxima: Ints,
) -> None:
    """Maxima (2,), and the score of each peak in `forest.offset`; above: see `_sweep`.

    peaks: the result of `_label_peaks`, which left the levels of the peaks in `scratch.above`.
    """
    n_peaks, n_up, first_down = peaks
    forest, joins = scratch.forest, scratch.joins
    _start_peaks(n_peaks, forest)
    for peak in range(n_peaks):
        joins[peak] = 0
    for row in range(2):
        first, last = (first_down, n_peaks) if row else (0, n_up)
        _join_trunk(row, _highest(first, last, scratch.above), edges, scratch.edges, forest, joins)
    _sort_branches(runs, n_peaks, scratch)
    _start_peaks(n_peaks, forest)
    _sweep(levels, edges, scratch.order, scratch.voxels, scratch.edges, forest, above)
    for row in range(2):
        first, last = (first_down, n_peaks) if row else (0, n_up)
        _value_trunk(row, scratch.trunk, levels.sizes, levels.weights[row], scratch.worth)
        maxima[row] = _value_peaks(
            row, first, last, forest, joins, levels.sizes, levels.weights[row], scratch.worth
        )


@part
def _highest(first: np.int64 | int, last: np.int64 | int, level: Ints) -> int:
    """The highest peak among some, the first of equal ones; −1 if there are none."""
    top, highest = -1, 0
    for peak in range(first, last):
        if level[peak] > highest:
            top, highest = peak, level[peak]
    return top


@part
def _join_trunk(row: int, top: int, edges: Ints, by_level: ByLevel, forest: Forest, joins: Int32) -> None:
    """The level at which each peak of a sign joins the trunk. Keeps the edges that join branches with each other."""
    if top < 0:
        return
    start, count = by_level.start, by_level.count
    cap = len(count) >> 1
    joins[top] = cap
    for k in range(cap, 0, -1):
        c = cap - k if row else cap + k
        if count[c]:
            first = start[c] - count[c]
            n = _join(edges[first : start[c]], top, k, forest, joins)
            start[c] = first + n
            count[c] = n


@part
def _join(edges: Ints, top: int, level: int, forest: Forest, joins: Int32) -> int:
    """Join components at a level; `size` counts unions. Edges between branches go to the front, and are counted."""
    root, ring, size = forest.root, forest.ring, forest.size
    n = 0
    for edge in edges:
        a, b = root[_u(edge >> 32)], root[_u(edge & 0xFFFFFFFF)]
        if a == b:
            continue
        ends_branch = a == top or b == top
        if b == top or (a != top and size[a] < size[b]):
            a, b = b, a
        if ends_branch:
            a = top
        else:
            edges[n] = edge
            n += 1
            size[a] += size[b] + 1
        member = b
        while True:
            root[member] = a
            if ends_branch:
                joins[member] = level
            member = ring[member]
            if member == b:
                break
        ring[a], ring[b] = ring[b], ring[a]
    return n


@part
def _sort_branches(runs: Ints, n_heads: np.int64, scratch: Scratch) -> None:
    """The histograms of the trunk; and labels of the voxels of branches by signed level."""
    code, label, final, joined = scratch.code, scratch.label, scratch.final, scratch.joined
    start, count = scratch.voxels
    cap = len(count) >> 1
    for h in range(n_heads):
        joined[h] = _i16(scratch.joins[_u(final[h])])
    branches = scratch.outside[: _list_branches(runs, code, label, joined, scratch.trunk, scratch.outside)]
    count[:] = 0
    for p in branches:
        count[_u(cap + code[_u(p)])] += 1
    _begin(scratch.voxels)
    for p in branches:
        at = _u(cap + code[_u(p)])
        place = start[at]
        scratch.order[_u(place)] = final[_u(label[_u(p)])]
        start[at] = place + 1


@part
def _list_branches(
    runs: Ints,
    code: NDArray[np.int16],
    label: Int32,
    joined: NDArray[np.int16],
    trunk: Int32,
    outside: Int32,
) -> np.intp:
    """Voxels of branches, in `outside`; and how many are in the trunk from a level down, in `trunk`. No jumps."""
    cap = trunk.shape[1] >> 1
    trunk[:] = 0
    n_outside = _u(0)
    for j in range(len(runs)):
        p, _, n = runs[j]
        codes, labels = code[p : p + n], label[p : p + n]
        for i in range(n):
            c = _i32(codes[i])
            sign = c >> _i32(31)
            level = (c ^ sign) - sign
            level_of_join = _i32(joined[_u(labels[i])])
            outside[n_outside] = p + i
            n_outside += _u(level > level_of_join)
            level = min(level, level_of_join)
            trunk[i & 3, _u(cap + ((level ^ sign) - sign))] += 1  # in turn, so that none waits for the last one
    return np.intp(n_outside)


@part
def _value_trunk(row: int, trunk: Int32, sizes: Ints, weights: Ints, worth: Ints) -> None:
    """What the trunk of a sign is worth down from each level, T; `worth` is by signed level."""
    cap = len(worth) >> 1
    step = -1 if row else 1
    size = 0
    for k in range(cap, 0, -1):
        c = cap + step * k
        size += trunk[0, c] + trunk[1, c] + trunk[2, c] + trunk[3, c]
        worth[c] = sizes[size] * (weights[k] - weights[k - 1])
    worth[cap] = 0
    for k in range(1, cap + 1):
        c = cap + step * k
        worth[c] += worth[c - step]


@part
def _value_peaks(
    row: int,
    first: np.int64 | int,
    last: np.int64 | int,
    forest: Forest,
    joins: Int32,
    sizes: Ints,
    weights: Ints,
    worth: Ints,
) -> int:
    """Scores of some peaks, into `offset`: what each gathered in its branch, and the trunk from there. The largest."""
    cap = len(worth) >> 1
    best = 0
    for peak in range(first, last):
        root, level = forest.root[peak], joins[peak]
        gathered = forest.offset[peak] + forest.total[root] - sizes[forest.size[root]] * weights[level]
        score = gathered + worth[cap - level if row else cap + level]
        forest.offset[peak] = score
        best = max(best, score)
    return best


# -- all scores -----------------------------------------------------------------------------------------------------


@part
def _write(runs: Ints, scratch: Scratch, b: int, kept: Kept) -> None:
    """Scores of the voxels of map b: into a map or, if there are none, counted."""
    start, count = scratch.voxels
    for k in range(len(start)):
        start[k] -= count[k]
    for j in range(len(runs)):
        p, v, n = runs[j]
        if len(kept.maps):
            _score_run(p, n, scratch, kept.maps[b, v : v + n])
        else:
            _score_run(p, n, scratch, scratch.scores[:n])
            _count_run(scratch.scores[:n], kept.ties[v : v + n], kept.nearer[v : v + n])


@part
def _score_run(p: int, n: int, scratch: Scratch, out: Ints) -> None:
    """Scores of n voxels from position p on, from the scores of the peaks in `forest.offset`.

    The sort of the voxels of branches is repeated to find the place of each.
    """
    start, totals, above, worth = scratch.voxels.start, scratch.forest.offset, scratch.above, scratch.worth
    cap = _i32(len(worth) >> 1)
    codes, labels = scratch.code[p : p + n], scratch.label[p : p + n]
    for i in range(n):
        c = _i32(codes[i])
        sign = c >> _i32(31)
        label = _u(labels[i])
        score = worth[_u(cap + c)]
        if (c ^ sign) - sign > _i32(scratch.joined[label]):
            place = start[_u(cap + c)]
            start[_u(cap + c)] = place + 1
            score = totals[_u(scratch.final[label])] - above[_u(place)]
        out[i] = (score ^ np.int64(sign)) - np.int64(sign)


@part
def _count_run(scores: Ints, ties: Ints, nearer: Int32) -> None:
    """Count the scores that lie below the tie, of its sign."""
    for i in range(len(scores)):
        up = (ties[i] > 0) & (scores[i] < ties[i])
        down = (ties[i] < 0) & (scores[i] > ties[i])
        nearer[i] += _i32(up | down)
