"""Where each voxel of a map of levels points, 64 voxels at a time: the first step of TFCE on the CPU (`tfce`).

The levels of a map lie in a padded box, x fastest. A comparison of 64 voxels with their neighbours at one step gives a
word of 64 bits, so that the 26 comparisons of a cube are 26 words; what connects the greater neighbours of a voxel to
each other is then found by AND and OR of words, for 512 voxels at once (eight words, a *group*). A flood of a fixed
number of rounds over the cube starts at the neighbour that the voxel points at; greater neighbours that it does not
reach make the voxel a saddle, and each of them, or one of each piece, is listed as an edge.

Pointers lead to a lower position where that is possible: then the label of the target is known, and a vector of labels
is a blend of the vectors one plane and one row before it, and of a run along x. A voxel whose first greater face lies
ahead still points back if the edge of the cube beside that face, in a plane or row before, is greater too. All others
are *heads*: they open a label, and remember the voxel ahead that they point at (a peak: itself).

The words and vectors are written as LLVM vectors, without regard to a processor: the compiler turns the same operations
into AVX-512, AVX2, SSE2 or NEON. Integer operations have the same bits everywhere.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from gpuvox.jit import intrinsic, part, types
from gpuvox.types import Int32, Ints, Words
from gpuvox.vectors import I16, I32, I64, flags, load, pointer, splat, spread, store, trailing_zeros

WORD = 64
"""Voxels of a word."""
GROUP = 8
"""Words that are handled at a time."""
LANES = 16
"""Labels that are handled at a time."""
LEAST_ROW = LANES + 2
"""A row of the box is at least so long: the labels of a vector then depend on earlier vectors alone."""

CENTRE = 13
FACES = (4, 10, 12, 14, 16, 22)
"""Of the cube of 27, numbered x + 3·y + 9·z: those before the voxel first."""


def _steps(bit: int) -> tuple[int, int, int]:
    return bit % 3 - 1, bit // 3 % 3 - 1, bit // 9 - 1


def _edge_between(a: int, b: int) -> int:
    """The cell that two faces have in common as a neighbour, other than the centre."""
    x, y, z = (s + t for s, t in zip(_steps(a), _steps(b)))
    return (x + 1) + 3 * (y + 1) + 9 * (z + 1)


LINKS = [(a, b, _edge_between(a, b)) for i, a in enumerate(FACES) for b in FACES[i + 1 :] if a + b != 2 * CENTRE]
"""Pairs of faces, and the edge of the cube that connects them."""

COMPARED = {
    6: [*FACES, *dict.fromkeys(edge for _, _, edge in LINKS)],
    18: [b for b in range(27) if b != CENTRE],
    26: [b for b in range(27) if b != CENTRE],
}
"""Cells that matter, by connectivity."""

MOVES = {6: 1, 18: 2, 26: 3}
"""Axes along which neighbours may differ, by connectivity."""


def _are_neighbours(one: int, other: int, connectivity: int) -> bool:
    """Whether two cells of the cube are neighbours of each other."""
    moved = [abs(s - t) for s, t in zip(_steps(one), _steps(other))]
    return max(moved) == 1 and sum(moved) <= MOVES[connectivity]


NEIGHBOURS = {c: [bit for bit in range(27) if _are_neighbours(CENTRE, bit, c)] for c in MOVES}
"""Cells that are neighbours of the centre, by connectivity."""

ROUNDS = {6: 3, 18: 4, 26: 3}
"""Of the flood: more find a few saddles less."""

_words = ir.VectorType(I64, GROUP)
_levels = ir.VectorType(I16, WORD)
_labels = ir.VectorType(I32, LANES)


# -- comparisons ----------------------------------------------------------------------------------------------------


@intrinsic
def _compare(typing: Any, code: Any, place: Any, steps: Any, cells: Any, greater: Any, number: Any) -> Any:
    """Words of one place in a group: which voxels are not 0, and which neighbours are further from zero.

    ``greater[b, number]``: code[place + i + steps[b]] above code[place + i], 64 of them; b = 13: not 0. x ^ s with s
    the sign (0 or −1) maps negative codes c to −c − 1, and the other sign below all of them. Ties go to the higher
    position.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codes, offsets, words = (pointer(context, builder, signature.args[k], arguments[k]) for k in (0, 2, 4))
        place, number = arguments[1], arguments[5]

        def put(bit: int, flags: Any) -> None:
            at = builder.add(number, ir.Constant(I64, bit * GROUP))
            store(builder, builder.bitcast(flags, I64), words, at, 8)

        own = load(builder, _levels, codes, place, 2)
        sign = builder.ashr(own, splat(_levels, 15))
        put(CENTRE, builder.icmp_signed("!=", own, splat(_levels, 0)))
        own = builder.xor(own, sign)
        for bit in COMPARED[len(cells)]:
            step = builder.load(builder.gep(offsets, [ir.Constant(I64, bit)]))
            other = load(builder, _levels, codes, builder.add(place, step), 2)
            other = builder.xor(other, sign)
            put(bit, builder.icmp_signed(">" if bit < CENTRE else ">=", other, own))
        return context.get_dummy_value()

    return types.void(code, types.intp, steps, cells, greater, types.intp), generate


# -- floods ---------------------------------------------------------------------------------------------------------


@intrinsic
def _flood(typing: Any, cells: Any, greater: Any, first: Any, rest: Any) -> Any:
    """From the words `greater` of a group: `first`, which cell a voxel points at; `rest`, what is not reached.

    Of each piece that is not reached at least one cell is in `rest`. Row 13 of `first`: voxels that point at a cell
    other than a face; of `rest`: saddles.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = [pointer(context, builder, signature.args[k], arguments[k]) for k in range(1, 4)]

        def read(bit: int) -> Any:
            return load(builder, _words, pointers[0], ir.Constant(I64, bit * GROUP), 8)

        def put(row: int, bit: int, value: Any) -> None:
            store(builder, value, pointers[row], ir.Constant(I64, bit * GROUP), 8)

        circuit = _Circuit(builder, read, len(cells))
        circuit.start()
        for bit in circuit.neighbours:
            put(1, bit, circuit.reached[bit])
        put(1, CENTRE, circuit.elsewhere)
        circuit.run()
        for bit, value in circuit.unreached_pieces().items():
            put(2, bit, value)
        return context.get_dummy_value()

    return types.void(cells, greater, first, rest), generate


class _Circuit:
    """AND, OR and NOT of the words of a group."""

    def __init__(self, builder: Any, load: Any, connectivity: int) -> None:
        self.builder, self.connectivity = builder, connectivity
        self.zero = splat(_words, 0)
        inside = load(CENTRE)
        self.word = {bit: load(bit) for bit in COMPARED[connectivity]}
        path = FACES if connectivity == 6 else COMPARED[connectivity]
        self.path = {bit: builder.and_(inside, self.word[bit]) for bit in path}
        self.neighbours = [bit for bit in path if bit in NEIGHBOURS[connectivity]]
        self.reached: dict[int, Any] = dict.fromkeys(path, self.zero)
        self.elsewhere: Any = self.zero

    def _and_not(self, a: Any, b: Any) -> Any:
        return self.builder.and_(a, self.builder.not_(b))

    def _any(self, *values: Any) -> Any:
        return reduce(self.builder.or_, values)

    def _all(self, *values: Any) -> Any:
        return reduce(self.builder.and_, values)

    def start(self) -> None:
        """The first greater face of each voxel, or, if there is none, its first greater neighbour."""
        before = self.zero
        for bit in FACES:
            self.reached[bit] = self._and_not(self.path[bit], before)
            before = self._any(before, self.path[bit])
        faces = before
        for bit in self.neighbours:
            if bit not in FACES:
                self.reached[bit] = self._and_not(self.path[bit], before)
                before = self._any(before, self.path[bit])
        self.elsewhere = self._and_not(before, faces)

    def run(self) -> None:
        """All rounds."""
        links = []
        if self.connectivity == 6:
            links = [(a, b, self._all(self.word[edge], self.path[a], self.path[b])) for a, b, edge in LINKS]
        for _ in range(ROUNDS[self.connectivity]):
            if self.connectivity == 6:
                for a, b, link in links:
                    both = self._all(link, self._any(self.reached[a], self.reached[b]))
                    self.reached[a] = self._any(self.reached[a], both)
                    self.reached[b] = self._any(self.reached[b], both)
            elif self.connectivity == 18:
                self._spread_to_faces()
            else:
                self._spread_along_every_axis()

    def _spread_to_faces(self) -> None:
        """One step along one axis, in place."""
        for bit in self.path:
            near = [self.reached[other] for other in self.path if _are_neighbours(bit, other, 6)]
            self.reached[bit] = self._any(self.reached[bit], self._all(self.path[bit], self._any(*near)))

    def _spread_along_every_axis(self) -> None:
        """One step along each axis in turn: to all 26."""
        cube = {bit: self.reached.get(bit, self.zero) for bit in range(27)}
        for stride in (1, 3, 9):
            new = {}
            for bit in range(27):
                at = bit // stride % 3
                near = [cube[bit + k * stride] for k in (-1, 0, 1) if 0 <= at + k <= 2]
                new[bit] = self._any(*near)
            cube = new
        for bit in self.path:
            self.reached[bit] = self._all(self.path[bit], cube[bit])

    def unreached_pieces(self) -> dict[int, Any]:
        """Greater neighbours that the flood has not reached, without those beside a lower one of their kind.

        Under 13, whether there are any.
        """
        rest = {bit: self._and_not(self.path[bit], self.reached[bit]) for bit in self.neighbours}
        thin = {}
        for bit, value in rest.items():
            lower = [
                rest[other] for other in rest if other < bit and _are_neighbours(bit, other, self.connectivity)
            ]
            thin[bit] = self._and_not(value, self._any(*lower)) if lower else value
        thin[CENTRE] = self._any(*rest.values())
        return thin


# -- labels ---------------------------------------------------------------------------------------------------------


@intrinsic
def _label_word(  # noqa: PLR0913
    typing: Any,
    label: Any,
    place: Any,
    steps: Any,
    n_heads: Any,
    head: Any,
    run: Any,
    above: Any,
    over: Any,
    beside: Any,
    under: Any,
) -> Any:
    """Labels of the 64 voxels of a word that begins at `place`; returns the number of heads so far.

    The words say which voxels are heads, and get the next labels from `n_heads` on; which have the label of the voxel
    before; that of the voxel one plane before (`above`); those of the cells 5, 7 and 11 of the cube. All others
    have that of the voxel one row before.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        labels = pointer(context, builder, signature.args[0], arguments[0])
        strides = pointer(context, builder, signature.args[2], arguments[2])
        px, pxy = (builder.load(builder.gep(strides, [ir.Constant(I64, bit)])) for bit in (16, 22))
        write = _LabelWriter(builder, labels, px, pxy)
        place, n_heads, words = arguments[1], arguments[3], arguments[4:]
        last = builder.load(builder.gep(labels, [builder.sub(place, ir.Constant(I64, 1))]))
        for first in range(0, WORD, LANES):
            parts = [builder.trunc(builder.lshr(word, ir.Constant(I64, first)), I16) for word in words]
            last = write.part(builder.add(place, ir.Constant(I64, first)), n_heads, parts, last)
            n_heads = builder.add(n_heads, builder.zext(builder.ctpop(parts[0]), I64))
        return n_heads

    word = types.uint64
    return types.intp(label, types.intp, steps, types.intp, word, word, word, word, word, word), generate


class _LabelWriter:
    """The labels of 16 voxels at a time."""

    def __init__(self, builder: Any, labels: Any, px: Any, pxy: Any) -> None:
        self.builder, self.labels, self.px, self.pxy = builder, labels, px, pxy

    def part(self, place: Any, n_heads: Any, words: list[Any], last: Any) -> Any:
        """Write the labels from `place` on, `last` being the one before them; returns the last of them."""
        builder = self.builder
        head, run, above, over, beside, under = words
        one = ir.Constant(I64, 1)
        back_y, back_z = builder.neg(self.px), builder.neg(self.pxy)
        value = self._at(place, back_y)
        for word, steps in (
            (above, (back_z,)),
            (over, (one, back_z)),
            (beside, (self.px, back_z)),
            (under, (one, back_y)),
        ):
            value = builder.select(flags(builder, word), self._at(place, *steps), value)
        value = builder.select(flags(builder, head), self._numbers(head, n_heads), value)
        value = self._along_runs(value, run, last)
        store(builder, value, self.labels, place, 4)
        return builder.extract_element(value, ir.Constant(I32, LANES - 1))

    def _at(self, place: Any, *steps: Any) -> Any:
        return load(self.builder, _labels, self.labels, reduce(self.builder.add, steps, place), 4)

    def _numbers(self, head: Any, n_heads: Any) -> Any:
        """In each lane, `n_heads` and the number of heads before it."""
        builder = self.builder
        pair = ir.Constant(ir.VectorType(I64, 2), ir.Undefined)
        ones = ir.Constant(I64, 0x0101010101010101)
        for number in range(2):
            byte = builder.lshr(builder.zext(head, I64), ir.Constant(I64, 8 * number))
            byte = builder.and_(byte, ir.Constant(I64, 0xFF))
            # Bit i of the byte becomes byte i, 0 or 1; the product adds up all bytes below each.
            bits = builder.and_(builder.mul(byte, ones), ir.Constant(I64, 0x8040201008040201))
            bits = builder.lshr(builder.add(bits, ir.Constant(I64, 0x7F7F7F7F7F7F7F7F)), ir.Constant(I64, 7))
            before = builder.shl(builder.mul(builder.and_(bits, ones), ones), ir.Constant(I64, 8))
            if number:
                low = builder.zext(builder.ctpop(builder.and_(head, ir.Constant(I16, 0xFF))), I64)
                before = builder.add(before, builder.mul(low, ones))
            pair = builder.insert_element(pair, before, ir.Constant(I32, number))
        counts = builder.zext(builder.bitcast(pair, ir.VectorType(ir.IntType(8), LANES)), _labels)
        return builder.add(counts, spread(builder, builder.trunc(n_heads, I32), LANES))

    def _along_runs(self, value: Any, run: Any, last: Any) -> Any:
        """Each lane of a run gets what the lane before the run has: by steps of 1, 2, 4 and 8 lanes."""
        builder = self.builder
        inside = builder.and_(run, ir.Constant(I16, 0xFFFE))
        step = 1
        while step < LANES:
            lanes = [max(lane - step, 0) for lane in range(LANES)]
            moved = builder.shuffle_vector(value, value, ir.Constant(_labels, lanes))
            value = builder.select(flags(builder, inside), moved, value)
            inside = builder.and_(inside, builder.shl(inside, ir.Constant(I16, step)))
            step *= 2
        # The run that comes in from the left: the lowest bits that are set.
        from_left = builder.and_(run, builder.not_(builder.add(run, ir.Constant(I16, 1))))
        return builder.select(flags(builder, from_left), spread(builder, last, LANES), value)


_BEYOND_FACES = np.array([b for b in NEIGHBOURS[26] if b not in FACES])

_MOST_EDGES = 26 * GROUP * WORD  # of a group

_u = np.uintp
_u64 = np.uint64


class Group(NamedTuple):
    """Work space of a group.

    greater, first, rest: (27, 8), a word for each cell and place, see `_compare` and `_flood`.
    """

    greater: Words
    first: Words
    rest: Words


def make_group() -> Group:
    """Work space of a group."""
    greater, first, rest = (np.zeros((27, GROUP), dtype=np.uint64) for _ in range(3))
    return Group(greater, first, rest)


def neighbour_cells(connectivity: int) -> tuple[int, ...]:
    """Cells that are neighbours of the centre.

    A tuple, whose length the compiler knows: it makes code for each connectivity when that is first used.
    """
    return tuple(NEIGHBOURS[connectivity])


@part
def ascend(
    blocks: Ints,
    steps: Ints,
    cells: tuple[int, ...],
    group: Group,
    code: NDArray[np.int16],
    label: Int32,
    head_up: Int32,
    ends: Int32,
) -> tuple[np.int64, np.intp, Int32]:
    """Point every voxel at a greater one, give provisional labels, and list the edges of saddles.

    blocks (m,): positions at which words begin, ascending; steps (27,): offsets of the cells of the cube; cells: see
    `neighbour_cells`; ends (2, any): receives the positions of a saddle and of a neighbour in another piece. Returns
    the numbers of heads and edges, and `ends`, larger if need be.
    """
    n_heads, n_edges = np.int64(0), _u(0)
    for j in range(0, len(blocks), GROUP):
        m = min(len(blocks) - j, GROUP)
        if np.intp(n_edges) + _MOST_EDGES > ends.shape[1]:
            ends = _grown(ends)
        for g in range(m):
            _compare(code, blocks[j + g], steps, cells, group.greater, g)
        _flood(cells, group.greater, group.first, group.rest)
        for g in range(m):
            n_heads = _label(blocks[j + g], g, steps, cells, group, label, head_up, n_heads)
            if group.rest[CENTRE, g]:
                n_edges = _list_edges(blocks[j + g], g, cells, steps, group.rest, ends, n_edges)
    return n_heads, np.intp(n_edges), ends


@part
def _grown(ends: Int32) -> Int32:
    new = np.empty((2, 2 * ends.shape[1] + _MOST_EDGES), ends.dtype)
    for i in range(ends.shape[1]):
        new[0, i] = ends[0, i]
        new[1, i] = ends[1, i]
    return new


@part
def _label(
    place: int,
    g: int,
    steps: Ints,
    cells: tuple[int, ...],
    group: Group,
    label: Int32,
    head_up: Int32,
    n_heads: np.int64,
) -> np.int64:
    """Labels of the 64 voxels of a word, and where its heads point. Returns the number of heads so far."""
    greater, first = group.greater, group.first
    z, y, x = first[4, g], first[10, g], first[12, g]
    ahead_x, ahead_y, ahead_z = first[14, g], first[16, g], first[22, g]
    # The edge of the cube beside the face ahead, one plane or row before.
    over = ahead_x & greater[5, g]
    under = ahead_x & ~over & greater[11, g]
    beside = ahead_y & greater[7, g]
    head = greater[CENTRE, g] & ~(z | y | x | over | under | beside)
    n = _u(n_heads)
    n_heads = _label_word(label, place, steps, n_heads, head, x, z, over, beside, under)
    px, pxy = steps[16], steps[22]
    word = head
    while word:
        bit = trailing_zeros(word)
        word &= word - _u64(1)
        ahead = np.int64((ahead_x >> bit) & _u64(1))
        ahead += np.int64((ahead_y >> bit) & _u64(1)) * px + np.int64((ahead_z >> bit) & _u64(1)) * pxy
        head_up[n] = place + np.int64(bit) + ahead
        n += _u(1)
    if len(cells) > len(FACES):
        elsewhere = head & first[CENTRE, g]
        if elsewhere:
            _point_elsewhere(place, g, steps, first, elsewhere, label, head_up)
    return n_heads


@part
def _point_elsewhere(
    place: int, g: int, steps: Ints, first: Words, heads: np.uint64, label: Int32, head_up: Int32
) -> None:
    """Heads of a word that point at an edge or a corner of the cube."""
    for cell in _BEYOND_FACES:
        word = first[cell, g] & heads
        while word:
            p = place + np.int64(trailing_zeros(word))
            word &= word - _u64(1)
            head_up[_u(label[_u(p)])] = p + steps[cell]


@part
def _list_edges(
    place: int, g: int, cells: tuple[int, ...], steps: Ints, rest: Words, ends: Int32, n_edges: np.uintp
) -> np.uintp:
    """An edge from each saddle of a word to a voxel of each piece that its flood has not reached."""
    for cell in cells:
        word = rest[cell, g]
        while word:
            p = place + np.int64(trailing_zeros(word))
            word &= word - _u64(1)
            ends[0, n_edges] = p
            ends[1, n_edges] = p + steps[cell]
            n_edges += _u(1)
    return n_edges
