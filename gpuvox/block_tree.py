"""Multi-level exchangeability blocks: which rows may trade places when blocks contain blocks.

Blocks are a table of integers, a row an observation, from the coarsest level (one number for all) to the finest (the
observations). They form a tree, and the sign of a number says what happens to the blocks or observations directly below
it (Winkler et al. 2015, NeuroImage 123:253):

* positive: they trade places as wholes, each with its own inner order; they must be alike in shape;
* negative: they stay in place, and the rule of each applies inside it.

So with b the block and i the observation, the rows ``-1 b i`` permute observations within blocks, ``1 -b i`` permute
blocks as wholes, and ``1 b i`` do both.

Labellings are counted and ranked on the tree. Two subtrees are in one *class* if a permutation inside them makes their
effective regressors equal: an observation's class is its regressor, a negative block's the sequence of its children's
classes, a positive block's the multiset of them. The labellings of a positive block are the arrangements of the classes
of its children, times the labellings of each child; those of a negative block are the product alone. A rank is
written in these factors as a number in mixed radix. Given a labelling, which of several children of one class goes
where is drawn uniformly, so that every permutation of the tree is equally likely.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuvox.device import Device, blocks_for
from gpuvox.errors import InputError
from gpuvox.jit import checked
from gpuvox.shuffle import (
    THREADS,
    Permutations,
    Shuffler,
    check_blocks,
    check_whole_blocks,
    multinomial,
    shuffle_class,
    unrank,
)
from gpuvox.types import DeviceArray, Float64, Int32, Ints, Words


@dataclass(eq=False)
class Node:
    """A block, or an observation.

    Attributes
    ----------
    name : tuple of int
        The numbers that lead to it, without their signs.
    trades : bool
        Its children trade places as wholes.
    children : list of Node
        None for an observation.
    row : int
        Row of the observation; -1 for a block.
    """

    name: tuple[int, ...]
    trades: bool = False
    children: list[Node] = field(default_factory=list)
    row: int = -1

    @cached_property
    def shape(self) -> tuple[object, ...]:
        """Equal for subtrees whose observations correspond one to one."""
        return (self.trades, *(child.shape for child in self.children)) if self.children else ()

    @cached_property
    def rows(self) -> list[int]:
        """The observations, in the order of the tree."""
        return [self.row] if not self.children else [row for child in self.children for row in child.rows]

    @cached_property
    def orbits(self) -> list[list[int]]:
        """Rows that can reach each other's places."""
        if not self.children:
            return [[self.row]]
        parts = [child.orbits for child in self.children]
        if not self.trades:
            return [orbit for part in parts for orbit in part]
        return [[row for orbit in same for row in orbit] for same in zip(*parts)]

    @cached_property
    def flip_units(self) -> list[list[int]]:
        """Rows that change sign together: what trades places as a whole, and blocks whose observations are fixed."""
        if not self.children or (not self.trades and all(not child.children for child in self.children)):
            return [self.rows]
        if self.trades:
            return [child.rows for child in self.children]
        return [unit for child in self.children for unit in child.flip_units]


def build_tree(blocks: ArrayLike, n_rows: int) -> Node:
    """The tree of multi-level exchangeability blocks.

    Parameters
    ----------
    blocks : (n, levels) array of int
        At least two columns; the first one holds a single number, the last one tells the observations apart.

    Raises
    ------
    InputError
        Not a row an observation; not integers other than 0; more than one number in the first column; a block
        with both signs; two equal rows; children that trade places and differ in shape.
    """
    values = np.asarray(blocks, dtype=np.float64)
    if values.ndim != 2 or len(values) != n_rows or values.shape[1] < 2:
        raise _refused(f"have shape {values.shape}; expected {n_rows} rows and at least two columns")
    if not (np.isfinite(values).all() and (values == np.round(values)).all() and values.all()):
        row, column = np.argwhere(~np.isfinite(values) | (values != np.round(values)) | (values == 0))[0]
        raise _refused(
            f"have {values[row, column]:g} in row {row + 1}, column {column + 1}; expected integers, not 0"
        )
    table = values.astype(np.int64)
    if len(np.unique(table[:, 0])) > 1:
        raise _refused("have several numbers in the first column; expected one, which stands for all observations")
    root = _grow(table, np.arange(n_rows), ())
    _check_shapes(root)
    return root


def _refused(reason: str) -> InputError:
    return InputError(f"the multi-level exchangeability blocks {reason}", option="-eb")


def _grow(table: Ints, rows: Ints, name: tuple[int, ...]) -> Node:
    level = len(name)
    number = int(table[rows[0], level])
    mine = (*name, abs(number))
    if level == table.shape[1] - 1:
        if len(rows) > 1:
            raise _refused(f"are the same in rows {rows[0] + 1} and {rows[1] + 1}; the last column must differ")
        return Node(mine, row=int(rows[0]))
    opposite = rows[table[rows, level] != number]
    if len(opposite):
        raise _refused(f"have both signs for block {_called(mine)}, in rows {rows[0] + 1} and {opposite[0] + 1}")
    below = np.abs(table[rows, level + 1])
    order = list(dict.fromkeys(below.tolist()))
    children = [_grow(table, rows[below == child], mine) for child in order]
    # Blocks of one shape correspond by their order, so a fixed order of shapes makes equal subtrees comparable.
    children.sort(key=lambda child: repr(child.shape))
    return Node(mine, number > 0, children)


def _called(name: Sequence[int]) -> str:
    return "-".join(map(str, name))


def _check_shapes(node: Node) -> None:
    for child in node.children:
        if node.trades and child.shape != node.children[0].shape:
            raise _refused(
                f"let block {_called(child.name)}, of {len(child.rows)} observations, trade places with block "
                f"{_called(node.children[0].name)}, of {len(node.children[0].rows)}, which differs from it in shape"
            )
        _check_shapes(child)


@dataclass(frozen=True, eq=False)
class _Ranked:
    """The tree as arrays, level by level: the children of a node are neighbours, and come after it.

    Attributes
    ----------
    first : (nodes + 1,) int64
        Number of the first child of each node.
    row : (nodes,) int64
        -1 for blocks.
    trades : (nodes,) bool
    counts : list of int
        Labellings of each node's class.
    arrangements : list of int
        Arrangements of the classes of a node's children; 1 if they do not trade places.
    members : (nodes,) int64
        Children of each node, sorted by class.
    class_start : (nodes + 1,) int64
        The classes of node s are numbers class_start[s] … class_start[s+1] − 1.
    classes : (classes + 1,) int64
        Class c has places classes[c] … classes[c+1] − 1 of `members`.
    unpermuted : int
        Rank of the labelling that is there.
    """

    first: Ints
    row: Ints
    trades: NDArray[np.bool_]
    counts: list[int]
    arrangements: list[int]
    members: Ints
    class_start: Ints
    classes: Ints
    unpermuted: int


class _Classes:
    """Numbers of classes of subtrees."""

    def __init__(self, labels: Ints) -> None:
        self.labels = labels
        self.numbers: dict[Hashable, int] = {}
        self.of: dict[int, int] = {}

    def number(self, node: Node) -> int:
        children = [self.number(child) for child in node.children]
        key: Hashable = (node.trades, *(sorted(children) if node.trades else children))
        if not node.children:
            key = int(self.labels[node.row])
        self.of[id(node)] = self.numbers.setdefault((bool(node.children), key), len(self.numbers))
        return self.of[id(node)]


def _ranked(root: Node, labels: Ints) -> _Ranked:
    classes = _Classes(labels)
    classes.number(root)
    nodes, first = [root], []
    for node in nodes:
        first.append(len(nodes))
        nodes += node.children
    first.append(len(nodes))
    kinds = [[classes.of[id(child)] for child in node.children] for node in nodes]
    counts, arrangements, unpermuted = _count(nodes, first, kinds)
    return _Ranked(
        np.array(first),
        np.array([node.row for node in nodes]),
        np.array([node.trades for node in nodes]),
        counts,
        arrangements,
        *_sort_children(nodes, first, kinds),
        unpermuted,
    )


def _count(nodes: list[Node], first: list[int], kinds: list[list[int]]) -> tuple[list[int], list[int], int]:
    """Labellings and arrangements of each node, and the rank of the labelling that is there."""
    counts, arrangements, ranks = [1] * len(nodes), [1] * len(nodes), [0] * len(nodes)
    for number in reversed(range(len(nodes))):
        below = range(first[number], first[number + 1])
        if nodes[number].trades:
            arrangements[number] = multinomial(list(Counter(kinds[number]).values()))
        counts[number] = arrangements[number] * prod(counts[child] for child in below)
        rank = 0
        for child in reversed(below):
            rank = rank * counts[child] + ranks[child]
        ranks[number] = rank * arrangements[number] + (_arrangement(kinds[number]) if nodes[number].trades else 0)
    return counts, arrangements, ranks[0]


def _sort_children(nodes: list[Node], first: list[int], kinds: list[list[int]]) -> tuple[Ints, Ints, Ints]:
    """Children of each node sorted by class, the first class of each node, and the bounds of the classes."""
    members, class_start, bounds = [0], [0], [1]
    for number in range(len(nodes)):
        mine = kinds[number]
        members += [first[number] + place for place in sorted(range(len(mine)), key=mine.__getitem__)]
        for _, size in sorted(Counter(mine).items()):
            bounds.append(bounds[-1] + size)
        class_start.append(len(bounds) - 1)
    return np.array(members), np.array(class_start), np.array(bounds)


def _arrangement(kinds: Sequence[int]) -> int:
    """Rank of a sequence among its distinct arrangements, in lexicographic order."""
    remaining = Counter(kinds)
    count, rank = multinomial(list(remaining.values())), 0
    for place, kind in enumerate(kinds):
        for lower in sorted(remaining):
            share = count * remaining[lower] // (len(kinds) - place)
            if lower == kind:
                count = share
                break
            rank += share
        remaining[kind] -= 1
        remaining += Counter()
    return rank


def is_multi_level(blocks: ArrayLike | None) -> bool:
    """Whether exchangeability blocks have a column for each of several levels."""
    return blocks is not None and np.ndim(blocks) == 2 and np.shape(blocks)[1] > 1


def shuffler_of(labels: ArrayLike, options: Permutations, scale: ArrayLike = 0.0) -> Shuffler:
    """The shuffles that the blocks allow: a `TreeShuffler` for multi-level blocks, else a `Shuffler`.

    Raises
    ------
    InputError
        See `Shuffler`; and blocks of one level that are to be shuffled both as wholes and within, of which one is 0.
    """
    labels = np.asarray(labels)
    both = options.blocks is not None and options.whole_blocks and options.within_blocks
    if both and not is_multi_level(options.blocks):
        return TreeShuffler(labels, _as_tree(options, len(labels)), scale)
    kind = TreeShuffler if is_multi_level(options.blocks) else Shuffler
    return kind(labels, options, scale)


def _as_tree(options: Permutations, n_rows: int) -> Permutations:
    """Blocks of one level that trade places, and whose rows do, as a tree."""
    blocks = check_blocks(np.asarray(options.blocks), n_rows)
    if not blocks.all():
        raise InputError(
            f"row {int(np.argmin(blocks)) + 1} is in exchangeability block 0, whose rows never move; this cannot be "
            "combined with blocks that are permuted both as wholes and within"
        )
    check_whole_blocks(np.bincount(blocks)[1:].tolist())
    tree = np.column_stack([np.ones(n_rows, np.int64), blocks, np.arange(1, n_rows + 1)])
    return replace(options, blocks=tree, whole_blocks=False, within_blocks=False)


@dataclass(frozen=True)
class _TreeTables:
    """The tree as a device takes it, in the types of its kernel; see `_Ranked`."""

    first: Int32
    row: Int32
    trades: Int32
    counts: Words
    arrangements: Words
    members: Int32
    class_start: Int32
    classes: Int32


@dataclass(frozen=True, eq=False)
class TreeShuffler(Shuffler):
    """The distinct shuffles of one contrast under multi-level exchangeability blocks, and those of a run.

    Parameters
    ----------
    labels, options, scale
        As of `Shuffler`, but that `options.blocks` has two columns or more; see `build_tree`.

    Raises
    ------
    InputError
        Labels, blocks, number or seed are invalid; the message says which.
    """

    @cached_property
    def tree(self) -> Node:
        """All observations."""
        if self.options.whole_blocks or self.options.within_blocks:
            raise InputError(
                "multi-level exchangeability blocks say by their signs which of them are permuted as wholes",
                option="--permuteBlocks",
            )
        return build_tree(np.asarray(self.options.blocks), self.n_rows)

    @property
    def levels(self) -> list[tuple[Ints, Ints]]:
        """See `Shuffler.levels`."""
        found, nodes = [], [self.tree]
        while nodes[0].children:
            held = [
                (place * (not node.trades), child) for node in nodes for place, child in enumerate(node.children)
            ]
            numbers, places = np.empty((2, self.n_rows), dtype=np.int64)
            for number, (place, child) in enumerate(held):
                numbers[child.rows], places[child.rows] = number, place
            found.append((numbers, places))
            nodes = [child for _, child in held]
        return found

    def _count_orders(self) -> int:
        return self._ranked.counts[0]

    @cached_property
    def invariant(self) -> Float64:
        """(n_rows, k) Orthonormal basis of the vectors that no shuffle changes."""
        orbits = [] if self.flips else self.tree.orbits
        vectors = np.zeros((self.n_rows, len(orbits)))
        for column, rows in enumerate(orbits):
            vectors[rows, column] = 1 / np.sqrt(len(rows))
        return vectors

    @cached_property
    def _ranked(self) -> _Ranked:
        return _ranked(self.tree, self.labels)

    @cached_property
    def _drawn(self) -> _Ranked:
        """The tree that permutations are made from: that of the ranks, or one of equal rows.

        Without ranks the random order of equals is the permutation.
        """
        return self._ranked if self._is_ranked else _ranked(self.tree, np.zeros_like(self.labels))

    @property
    def _words_of_order(self) -> int:
        return len(self._ranked.row)

    @cached_property
    def flip_units(self) -> list[Ints]:
        """Rows that change their sign together."""
        return [np.array(unit) for unit in self.tree.flip_units]

    def _permute(self, draws: Words, ranks: Words | None, out: Int32) -> None:
        drawn = self._drawn
        if ranks is None:
            ranks = np.zeros(len(draws), dtype=np.uint64)
        else:
            ranks = (ranks + np.uint64(drawn.unpermuted)) % np.uint64(drawn.counts[0])
        counts, arrangements = (np.array(n, dtype=np.uint64) for n in (drawn.counts, drawn.arrangements))
        shape = drawn.first, drawn.row, drawn.trades
        _permute_tree(
            draws, ranks, counts, arrangements, *shape, drawn.members, drawn.class_start, drawn.classes, out
        )

    def _permute_on(self, device: Device, which: tuple[np.generic, ...], out: DeviceArray) -> None:
        tables = self._tree_tables
        blocks, n_nodes = blocks_for(len(out), THREADS, device), len(tables.row)
        threads = blocks * THREADS
        device.launch(
            "shuffle_tree", blocks, THREADS, *which, np.int32(n_nodes),
            *(device.keep(getattr(tables, table.name)) for table in fields(tables)), np.uint64(self._drawn.unpermuted),
            *self._how(device), self._divisor, device.empty(threads * n_nodes, np.uint64),
            device.empty(threads * (3 * n_nodes + len(tables.classes)), np.int32), out,
        )  # fmt: skip

    @cached_property
    def _tree_tables(self) -> _TreeTables:
        drawn = self._drawn
        return _TreeTables(
            drawn.first.astype(np.int32),
            drawn.row.astype(np.int32),
            drawn.trades.astype(np.int32),
            np.array(drawn.counts, dtype=np.uint64),
            np.array(drawn.arrangements, dtype=np.uint64),
            drawn.members.astype(np.int32),
            drawn.class_start.astype(np.int32),
            drawn.classes.astype(np.int32),
        )


@checked
def _permute_tree(  # noqa: PLR0913
    draws: Words,
    ranks: Words,
    counts: Words,
    arrangements: Words,
    first: Ints,
    row: Ints,
    trades: NDArray[np.bool_],
    members: Ints,
    class_start: Ints,
    classes: Ints,
    out: Int32,
) -> None:
    """Write the permutation of each rank, from the root to the observations: what comes to each place of the tree."""
    n_nodes = len(row)
    source, rank = np.zeros(n_nodes, dtype=np.int64), np.zeros(n_nodes, dtype=np.uint64)
    pool, chosen = np.empty(n_nodes, dtype=np.int64), np.empty(n_nodes, dtype=np.int64)
    unplaced = np.empty(len(classes), dtype=np.int64)
    for i in range(len(out)):
        rank[0] = ranks[i]
        for place in range(n_nodes):
            s, remaining = source[place], rank[place]
            if row[place] >= 0:
                out[i, row[place]] = row[s]
                continue
            n_children = first[place + 1] - first[place]
            if trades[place]:
                digit, remaining = remaining % arrangements[s], remaining // arrangements[s]
                for c in range(class_start[s], class_start[s + 1]):
                    unplaced[c] = classes[c + 1] - classes[c]
                    shuffle_class(draws[i], classes[c], classes[c + 1], pool)
                unrank(digit, arrangements[s], class_start[s], class_start[s + 1], classes, unplaced, pool, chosen)
            for k in range(n_children):
                child = members[chosen[first[s] + k]] if trades[place] else first[s] + k
                source[first[place] + k] = child
                rank[first[place] + k] = remaining % counts[child]
                remaining = remaining // counts[child]
