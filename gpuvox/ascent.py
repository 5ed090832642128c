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

from gpuvox.jit import inner, intrinsic, types
from gpuvox.types import Int32, Ints, Words

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

_i64, _i32, _i16 = ir.IntType(64), ir.IntType(32), ir.IntType(16)
_words = ir.VectorType(_i64, GROUP)
_levels = ir.VectorType(_i16, WORD)
_labels = ir.VectorType(_i32, LANES)
_flags = ir.VectorType(ir.IntType(1), LANES)


def _splat(kind: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _pointer(context: Any, builder: Any, array_type: Any, value: Any) -> Any:
    return context.make_array(array_type)(context, builder, value).data


def _load(builder: Any, kind: ir.VectorType, pointer: Any, index: Any, align: int) -> Any:
    place = builder.gep(pointer, [index])
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=align)


def _store(builder: Any, value: Any, pointer: Any, index: Any, align: int) -> None:
    place = builder.gep(pointer, [index])
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=align)


# -- comparisons ----------------------------------------------------------------------------------------------------


def _compare(connectivity: int) -> Any:
    """Words of one place in a group: which voxels are not 0, and which neighbours are further from zero."""
    cells = COMPARED[connectivity]

    @intrinsic
    def compare(typing: Any, code: Any, place: Any, steps: Any, greater: Any, number: Any) -> Any:
        """``greater[b, number]``: code[place + i + steps[b]] above code[place + i], 64 of them; b = 13: not 0.

        x ^ s with s the sign (0 or −1) maps negative codes c to −c − 1, and the other sign below all of them. Ties go
        to the higher position.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            codes, offsets, words = (
                _pointer(context, builder, signature.args[k], arguments[k]) for k in (0, 2, 3)
            )
            place, number = arguments[1], arguments[4]

            def put(bit: int, flags: Any) -> None:
                at = builder.add(number, ir.Constant(_i64, bit * GROUP))
                _store(builder, builder.bitcast(flags, _i64), words, at, 8)

            own = _load(builder, _levels, codes, place, 2)
            sign = builder.ashr(own, _splat(_levels, 15))
            put(CENTRE, builder.icmp_signed("!=", own, _splat(_levels, 0)))
            own = builder.xor(own, sign)
            for bit in cells:
                step = builder.load(builder.gep(offsets, [ir.Constant(_i64, bit)]))
                other = _load(builder, _levels, codes, builder.add(place, step), 2)
                other = builder.xor(other, sign)
                put(bit, builder.icmp_signed(">" if bit < CENTRE else ">=", other, own))
            return context.get_dummy_value()

        return types.void(code, place, steps, greater, number), generate

    return compare


# -- floods ---------------------------------------------------------------------------------------------------------


def _flood(connectivity: int) -> Any:
    """The flood of a group."""

    @intrinsic
    def flood(typing: Any, greater: Any, first: Any, rest: Any) -> Any:
        """From the words `greater` of a group: `first`, which cell a voxel points at; `rest`, what is not reached.

        Of each piece that is not reached at least one cell is in `rest`. Row 13 of `first`: voxels that point at a cell
        other than a face; of `rest`: saddles.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointers = [_pointer(context, builder, signature.args[k], arguments[k]) for k in range(3)]

            def load(bit: int) -> Any:
                return _load(builder, _words, pointers[0], ir.Constant(_i64, bit * GROUP), 8)

            def put(row: int, bit: int, value: Any) -> None:
                _store(builder, value, pointers[row], ir.Constant(_i64, bit * GROUP), 8)

            circuit = _Circuit(builder, load, connectivity)
            circuit.start()
            for bit in circuit.neighbours:
                put(1, bit, circuit.reached[bit])
            put(1, CENTRE, circuit.elsewhere)
            circuit.run()
            for bit, value in circuit.unreached_pieces().items():
                put(2, bit, value)
            return context.get_dummy_value()

        return types.void(greater, first, rest), generate

    return flood


class _Circuit:
    """AND, OR and NOT of the words of a group."""

    def __init__(self, builder: Any, load: Any, connectivity: int) -> None:
        self.builder, self.connectivity = builder, connectivity
        self.zero = _splat(_words, 0)
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
def _blend(typing: Any, label: Any, place: Any, steps: Any, masks: Any, out: Any) -> Any:
    """Labels of 16 voxels from those one row and one plane before, and where they point if they are heads.

    masks (8,) uint16: the voxels that point along −z; at the cells 5, 7 and 11 of the cube; along x, y and z.
    out (2, 16) int32: labels; positions.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        labels, strides, words, result = (
            _pointer(context, builder, signature.args[k], arguments[k]) for k in (0, 2, 3, 4)
        )
        place = arguments[1]
        px, pxy = (builder.load(builder.gep(strides, [ir.Constant(_i64, bit)])) for bit in (16, 22))

        def flags(number: int) -> Any:
            word = builder.load(builder.gep(words, [ir.Constant(_i64, number)]))
            return builder.bitcast(word, _flags)

        def before(*steps: Any) -> Any:
            at = place
            for step in steps:
                at = builder.add(at, step)
            return _load(builder, _labels, labels, at, 4)

        one = ir.Constant(_i64, 1)
        back_y, back_z = builder.neg(px), builder.neg(pxy)
        value = before(back_y)
        value = builder.select(flags(0), before(back_z), value)
        value = builder.select(flags(1), before(one, back_z), value)
        value = builder.select(flags(2), before(px, back_z), value)
        value = builder.select(flags(3), before(one, back_y), value)
        _store(builder, value, result, ir.Constant(_i64, 0), 4)
        ahead = _splat(_labels, 0)
        for number, step in ((4, one), (5, px), (6, pxy)):
            many = _spread(builder, builder.trunc(step, _i32))
            ahead = builder.select(flags(number), many, ahead)
        here = _spread(builder, builder.trunc(place, _i32))
        here = builder.add(here, ir.Constant(_labels, list(range(LANES))))
        _store(builder, builder.add(here, ahead), result, ir.Constant(_i64, LANES), 4)
        return context.get_dummy_value()

    return types.void(label, place, steps, masks, out), generate


def _spread(builder: Any, value: Any) -> Any:
    """A number in every lane."""
    vector = builder.insert_element(ir.Constant(_labels, ir.Undefined), value, ir.Constant(_i32, 0))
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_i32, LANES), [0] * LANES))


@intrinsic
def trailing_zeros(typing: Any, word: Any) -> Any:
    """Number of the lowest bit of a word that is set; 64 if none is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


_compare_6, _compare_18, _compare_26 = _compare(6), _compare(18), _compare(26)
_flood_6, _flood_18, _flood_26 = _flood(6), _flood(18), _flood(26)

_BEYOND_FACES = np.array([b for b in NEIGHBOURS[26] if b not in FACES])
_CELLS_6, _CELLS_26 = np.array(NEIGHBOURS[6]), np.array(NEIGHBOURS[26])

_MOST_EDGES = 26 * GROUP * WORD  # of a group

_u = np.uintp
_u64 = np.uint64


class Group(NamedTuple):
    """Work space of a group.

    greater, first, rest: (27, 8), a word for each cell and place, see `_compare` and `_flood`; masks (8,) and vectors
    (2, 16): see `_blend`.
    """

    greater: Words
    first: Words
    rest: Words
    masks: NDArray[np.uint16]
    vectors: Int32


def make_group() -> Group:
    """Work space of a group."""
    greater, first, rest = (np.zeros((27, GROUP), dtype=np.uint64) for _ in range(3))
    return Group(greater, first, rest, np.zeros(8, dtype=np.uint16), np.zeros((2, LANES), dtype=np.int32))


@inner
def ascend(
    blocks: Ints,
    steps: Ints,
    connectivity: int,
    group: Group,
    code: NDArray[np.int16],
    label: Int32,
    head_up: Int32,
    ends: Int32,
) -> tuple[np.intp, np.intp, Int32]:
    """Point every voxel at a greater one, give provisional labels, and list the edges of saddles.

    blocks (m,): positions at which words begin, ascending; steps (27,): offsets of the cells of the cube;
    ends (2, any): receives the positions of a saddle and of a neighbour in another piece. Returns the numbers of heads
    and edges, and `ends`, larger if need be.
    """
    n_heads, n_edges = _u(0), _u(0)
    cells = _CELLS_6 if connectivity == 6 else _CELLS_26
    for j in range(0, len(blocks), GROUP):
        m = min(len(blocks) - j, GROUP)
        if np.intp(n_edges) + _MOST_EDGES > ends.shape[1]:
            ends = _grown(ends)
        if connectivity == 6:
            for g in range(m):
                _compare_6(code, blocks[j + g], steps, group.greater, g)
            _flood_6(group.greater, group.first, group.rest)
        elif connectivity == 18:
            for g in range(m):
                _compare_18(code, blocks[j + g], steps, group.greater, g)
            _flood_18(group.greater, group.first, group.rest)
        else:
            for g in range(m):
                _compare_26(code, blocks[j + g], steps, group.greater, g)
            _flood_26(group.greater, group.first, group.rest)
        for g in range(m):
            n_heads = _label(blocks[j + g], g, steps, group, label, head_up, n_heads)
            if group.rest[CENTRE, g]:
                n_edges = _list_edges(blocks[j + g], g, cells, steps, group.rest, ends, n_edges)
    return np.intp(n_heads), np.intp(n_edges), ends


@inner
def _grown(ends: Int32) -> Int32:
    new = np.empty((2, 2 * ends.shape[1] + _MOST_EDGES), ends.dtype)
    for i in range(ends.shape[1]):
        new[0, i] = ends[0, i]
        new[1, i] = ends[1, i]
    return new


@inner
def _label(
    place: int, g: int, steps: Ints, group: Group, label: Int32, head_up: Int32, n_heads: np.uintp
) -> np.uintp:
    """Labels of the 64 voxels of a word, and where its heads point. Returns the number of heads so far."""
    greater, first, masks, vectors = group.greater, group.first, group.masks, group.vectors
    z, y, x = first[4, g], first[10, g], first[12, g]
    ahead_x, ahead_y, ahead_z = first[14, g], first[16, g], first[22, g]
    # The edge of the cube beside the face ahead, one plane or row before.
    over = ahead_x & greater[5, g]
    under = ahead_x & ~over & greater[11, g]
    beside = ahead_y & greater[7, g]
    head = greater[CENTRE, g] & ~(z | y | x | over | under | beside)
    elsewhere = head & first[CENTRE, g]
    for q in range(0, WORD, LANES):
        shift = _u64(q)
        masks[0] = np.uint16(z >> shift)
        masks[1] = np.uint16(over >> shift)
        masks[2] = np.uint16(beside >> shift)
        masks[3] = np.uint16(under >> shift)
        masks[4] = np.uint16(ahead_x >> shift)
        masks[5] = np.uint16(ahead_y >> shift)
        masks[6] = np.uint16(ahead_z >> shift)
        at = place + q
        _blend(label, at, steps, masks, vectors)
        run, new = x >> shift, head >> shift
        last = label[_u(at - 1)]
        # No branch: neither heads nor runs can be predicted.
        for i in range(_u(LANES)):
            bit = _u64(i)
            is_new = (new >> bit) & _u64(1)
            value = np.int32(n_heads) if is_new else vectors[0, i]
            value = last if (run >> bit) & _u64(1) else value
            label[_u(at) + i] = value
            last = value
            head_up[n_heads] = vectors[1, i]
            n_heads += _u(is_new)
    if elsewhere:
        for cell in _BEYOND_FACES:
            word = first[cell, g] & elsewhere
            while word:
                p = place + np.int64(trailing_zeros(word))
                word &= word - _u64(1)
                head_up[_u(label[_u(p)])] = p + steps[cell]
    return n_heads


@inner
def _list_edges(
    place: int, g: int, cells: Ints, steps: Ints, rest: Words, ends: Int32, n_edges: np.uintp
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
