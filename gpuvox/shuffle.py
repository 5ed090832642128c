"""Exchangeability: which permutations of the rows of a design are distinct, how many, and the i-th of them.

Permutations here include sign flips of the rows. Permutations of the rows that produce the same sequence of effective
regressor values are one *labelling*, and a run contains no labelling twice. Permutation i is a pure function of
(seed, i), so it does not matter who computes it, or in what order:

* Labellings are ranked: lexicographically within a block (or over whole blocks), and as the digits of a
  number across blocks, the first block being the fastest digit. Flips count in binary, the last row being
  the last bit. Rank 0 is the unpermuted design. An exhaustive run takes all ranks in order.
* Otherwise permutation i has rank π(i), where π is a keyed bijection of the ranks that fixes 0: the swap-or-not
  shuffle of V. T. Hoang, B. Morris and P. Rogaway (CRYPTO 2012, LNCS 7417:1-13).
* Beyond 2^63 labellings every permutation is drawn independently; the probability of a repeat among N is below N²/2^64.

Which of several rows with equal effective regressor goes where matters only to the nuisance regressors, which a
Freedman-Lane permutation moves too. Those rows are put in random order (the same in every exhaustive run), so
that each permutation of the rows is equally likely. In the order of the file, often that of a covariate such as age,
they would leave permuted nuisance regressors close to the original ones, and the size of the test would depend on
the design: simulated with 40 covariates, sorted within two groups of 8, 1000 data sets each,
the rate of false positives at level 5 % was 0.4 to 15 % (80 % of designs: 1 to 9 %), against 2 to 6 %
(80 % of designs: 4 to 5 %).

All random numbers come from Philox4x32-10, a function of a key and a counter (J. K. Salmon, M. A. Moraes,
R. O. Dror and D. E. Shaw, SC 2011): the key is the seed, the counter says what the number is for. A GPU
(``kernels/shuffle.cu``) makes the same permutations, a thread each, so that none are sent to it.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import comb, prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuvox.device import Device, blocks_for
from gpuvox.errors import DesignError, InputError
from gpuvox.jit import small
from gpuvox.types import AnyArray, DeviceArray, Float64, Int32, Ints, Shuffles, Words

EQUAL = 1e-10
"""Effective regressors that differ by less than this share of the largest are equal."""
RANK_LIMIT = 2**63
"""Permutations are ranked in 64-bit integers up to this number of labellings."""


@dataclass(frozen=True, eq=False)
class Permutations:
    """Options of a permutation run.

    Parameters
    ----------
    number : int
        Number of permutations, including the unpermuted one; 0, or more than exist: all of them.
    seed : int
        0 ≤ seed < 2^64.
    blocks : (n,) or (n, levels) array of int, optional
        Exchangeability block of each row, numbered from 1; rows in block 0 never move. Two columns or more
        are multi-level blocks, see `gpuvox.block_tree`.
    whole_blocks : bool
        Permute blocks as wholes instead of rows within each block.
    flip : bool
        Flip signs instead of permuting rows.
    """

    number: int = 5000
    seed: int = 0
    blocks: ArrayLike | None = None
    whole_blocks: bool = False
    flip: bool = False


def effective_labels(regressors: ArrayLike, scale: ArrayLike = 0.0) -> Ints:
    """Number the different rows of a regressor, by their first appearance.

    Parameters
    ----------
    regressors : (n,) or (n, r) array
        Effective regressors. In each column, sorted values are split where a gap exceeds 1e-10 of its largest
        absolute entry.
    scale : float or (r,) array
        Magnitude of the numbers that each was computed from, where that exceeds its own: a constant that was
        demeaned is nothing but rounding error.

    Returns
    -------
    (n,) int64
        Rows with the same number are interchangeable; row 0 has number 0.

    Raises
    ------
    InputError
        No rows, more than two dimensions, or an entry that is not finite.
    """
    X = np.asarray(regressors, dtype=np.float64)
    X = X[:, None] if X.ndim == 1 else X
    if X.ndim != 2 or not len(X):
        raise ValueError(f"effective regressors have shape {X.shape}; expected rows and columns")
    if not np.isfinite(X).all():
        raise DesignError("the effective regressors have an entry that is not finite")
    tolerance = EQUAL * np.maximum(scale, np.abs(X).max(axis=0, initial=0.0))
    codes = np.zeros((len(X), X.shape[1] + 1), dtype=np.int64)
    for column, values in enumerate(X.T):
        order = np.argsort(values, kind="stable")
        codes[order[1:], column] = np.cumsum(np.diff(values[order]) > tolerance[column])
    return _by_first_appearance(map(tuple, codes.tolist()))


def _by_first_appearance(things: Iterable[Hashable]) -> Ints:
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(thing, len(seen)) for thing in things], dtype=np.int64)


def check_blocks(blocks: ArrayLike, n_rows: int) -> Ints:
    """Exchangeability blocks as integers.

    Raises
    ------
    InputError
        Not one number a row; not integers; negative; or numbers left out between 1 and the largest.
    """
    values = np.asarray(blocks, dtype=np.float64)
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.shape != (n_rows,):
        raise InputError(
            f"the exchangeability blocks have shape {values.shape}; expected {n_rows} numbers", option="-e"
        )
    if not (np.isfinite(values).all() and (values == np.round(values)).all()):
        raise InputError(
            "an exchangeability block is not an integer; blocks are numbered from 1 (0: fixed)", option="-e"
        )
    if (values < 0).any():
        raise InputError(
            f"exchangeability block {values.min():.0f} is negative; blocks are numbered from 1", option="-e"
        )
    numbers = np.unique(values[values > 0]).astype(np.int64)
    missing = np.flatnonzero(numbers != np.arange(1, len(numbers) + 1))
    if len(missing):
        raise InputError(
            f"no row is in exchangeability block {missing[0] + 1}, though {numbers[-1]} exists", option="-e"
        )
    return values.astype(np.int64)


@dataclass(frozen=True, eq=False)
class DeviceShuffles:
    """Permutations on a device.

    Attributes
    ----------
    array : (B, n) int32
        In the form of `Shuffler.shuffles`.
    flips : bool
        Whether they are sign flips.
    device : Device
    """

    array: DeviceArray
    flips: bool
    device: Device

    def __len__(self) -> int:
        return len(self.array)

    @property
    def arguments(self) -> tuple[DeviceArray, np.int32]:
        """What kernels take: the permutations, and whether they are sign flips."""
        return self.array, np.int32(self.flips)

    def on_host(self, start: int = 0, stop: int | None = None) -> Shuffles:
        """Permutations start … stop − 1 as an array of the host."""
        rows = self.device.rows(self.array, start, len(self) if stop is None else stop)
        return self.device.download(rows).astype(np.int8 if self.flips else np.int32)


def on_device(shuffles: Shuffles | DeviceShuffles, device: Device) -> DeviceShuffles:
    """Permutations on a device; those of the host are sent there."""
    if isinstance(shuffles, DeviceShuffles):
        return shuffles
    flips = bool(np.issubdtype(shuffles.dtype, np.int8))
    return DeviceShuffles(device.upload(shuffles.astype(np.int32)), flips, device)


@dataclass(frozen=True, eq=False)
class _Layout:
    """Slots: the units that move, be they rows or whole blocks, in the order in which labellings are ranked.

    Slots are sorted by stratum (units trade places only within one), then by class (of equal units).

    Attributes
    ----------
    members : (m, size) int64
        Rows of the unit in each slot.
    strata : (S + 1,) int64
        The classes of stratum s are numbers strata[s] … strata[s+1] − 1.
    classes : (C + 1,) int64
        The slots of class c are numbers classes[c] … classes[c+1] − 1.
    """

    members: Ints
    strata: Ints
    classes: Ints

    @cached_property
    def counts(self) -> list[int]:
        """Number of distinct arrangements of each stratum: multinomial coefficients."""
        sizes = np.diff(self.classes).tolist()
        return [multinomial(sizes[a:b]) for a, b in zip(self.strata[:-1], self.strata[1:])]

    def merged(self) -> _Layout:
        """The units of a stratum all in one class."""
        bounds = self.classes[self.strata]
        return _Layout(self.members, np.arange(len(bounds)), bounds)


@dataclass(frozen=True, eq=False)
class _DeviceTables:
    """What a device needs to make permutations, in the types of its kernels; sent once, by identity.

    Attributes
    ----------
    members, strata, classes : int32
        As of `_Layout`; without meaning for sign flips.
    radix : (S,) uint64
        Arrangements of each stratum.
    pivots : (rounds,) uint64
        Of the bijection from numbers to ranks; empty if there is none.
    unit_of_row : (n,) int32
        For sign flips.
    """

    members: Int32
    strata: Int32
    classes: Int32
    radix: Words
    pivots: Words
    unit_of_row: Int32


def multinomial(sizes: Sequence[int]) -> int:
    """Number of distinct arrangements of classes of these sizes."""
    totals = np.cumsum(sizes, dtype=np.int64).tolist()
    return prod(comb(total, size) for total, size in zip(totals, sizes))


def _strata(n_rows: int, options: Permutations) -> list[Ints]:
    """Rows of the units that trade places: (units, rows of a unit) per stratum."""
    if options.blocks is None:
        if options.whole_blocks:
            raise InputError(
                "blocks are to be permuted as wholes, but there are no exchangeability blocks",
                option="--permuteBlocks",
            )
        return [np.arange(n_rows)[:, None]]
    blocks = check_blocks(options.blocks, n_rows)
    rows = [np.flatnonzero(blocks == b) for b in range(1, int(blocks.max()) + 1)]
    if not options.whole_blocks:
        return [r[:, None] for r in rows]
    sizes = [len(r) for r in rows]
    if len(set(sizes)) > 1:
        odd = next(b for b, size in enumerate(sizes) if size != sizes[0])
        raise InputError(
            f"exchangeability block {odd + 1} has {sizes[odd]} rows and block 1 has {sizes[0]}; "
            "blocks that are permuted as wholes must be of equal size",
            option="--permuteBlocks",
        )
    return [np.array(rows)] if rows else []


def _layout(strata: list[Ints], labels: Ints) -> _Layout:
    members, class_sizes, n_classes = [np.zeros((0, 1), dtype=np.int64)], [], []
    for units in strata:
        unit_labels = _by_first_appearance(map(tuple, labels[units].tolist()))
        members.append(units[np.argsort(unit_labels, kind="stable")])
        sizes = np.bincount(unit_labels)
        class_sizes += sizes.tolist()
        n_classes.append(len(sizes))
    bounds = [np.concatenate([[0], np.cumsum(s, dtype=np.int64)]) for s in (n_classes, class_sizes)]
    return _Layout(np.concatenate(members[1:] or members), *bounds)


def _orbits(units: Ints, n_rows: int) -> Float64:
    """Orthonormal vectors, constant over the rows that come at the same place of a unit: (n_rows, size)."""
    vectors = np.zeros((n_rows, units.shape[1]))
    for k, rows in enumerate(units.T):
        vectors[rows, k] = 1 / np.sqrt(len(rows))
    return vectors


@dataclass(frozen=True, eq=False)
class Shuffler:
    """The distinct permutations of one contrast, and those of a run.

    Parameters
    ----------
    labels : (n,) or (n, r) array
        Effective regressors: rows equal in them are interchangeable. Kept as the numbers that
        `effective_labels` gives them.
    options : Permutations
    scale : float or (r,) array
        See `effective_labels`.

    Raises
    ------
    InputError
        Labels, blocks, number or seed are invalid; the message says which.
    """

    labels: AnyArray
    options: Permutations = field(default_factory=Permutations)
    scale: ArrayLike = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", effective_labels(self.labels, self.scale))
        number, seed = operator.index(self.options.number), operator.index(self.options.seed)
        if number < 0:
            raise InputError(
                f"{number} permutations are asked for; expected a positive number, or 0 for all", option="-n"
            )
        if not 0 <= seed < 2**64:
            raise InputError(f"the seed is {seed}; expected an integer from 0 to 2^64 - 1", option="--seed")
        _ = self.n  # raises errors in the blocks now

    @property
    def n_rows(self) -> int:
        """Number of rows of the design."""
        return len(self.labels)

    @property
    def flips(self) -> bool:
        """Whether permutations are sign flips."""
        return bool(self.options.flip)

    @cached_property
    def n_distinct(self) -> int:
        """Number of distinct permutations, exact however large."""
        return 2 ** len(self._layout.members) if self.flips else prod(self._layout.counts)

    @property
    def exhaustive(self) -> bool:
        """Whether the run contains every distinct permutation."""
        return not 0 < self.options.number < self.n_distinct

    @property
    def n(self) -> int:
        """Number of permutations of this run."""
        return self.n_distinct if self.exhaustive else int(self.options.number)

    def shuffles(self, start: int, stop: int) -> AnyArray:
        """Permutations start … stop − 1 of the run; permutation 0 leaves everything in place.

        Parameters
        ----------
        start, stop : int
            0 ≤ start ≤ stop ≤ n.

        Returns
        -------
        (stop − start, n_rows) int32 or int8
            Permutations p, from 0: row i of the permuted design is row p[i] of the design. Or signs ±1.

        Raises
        ------
        ValueError
            Not a range of this run; or an exhaustive run of more than 2^63 shuffles.
        """
        key = self._key_of(start, stop)
        indices = np.arange(start, stop, dtype=np.uint64)
        draws = _draws(key, indices, self._n_draws)
        make = self._signs if self.flips else self._permutations
        out = make(draws, self._ranks(indices, key))
        out[indices == 0] = 1 if self.flips else np.arange(self.n_rows)
        return out

    def on_device(self, start: int, stop: int, device: Device) -> DeviceShuffles:
        """The same, made on a device."""
        key = self._key_of(start, stop)
        out = device.empty((stop - start, self.n_rows), np.int32)
        if stop > start:
            made = self._signs_on if self.flips else self._permutations_on
            made(device, (key, np.uint64(start), np.int32(stop - start), np.int32(self.n_rows)), out)
        return DeviceShuffles(out, self.flips, device)

    def _permutations_on(self, device: Device, which: tuple[np.generic, ...], out: DeviceArray) -> None:
        tables, (n_maps, _) = self._tables, out.shape
        blocks = blocks_for(n_maps, _THREADS, device)
        sizes = [len(table) for table in (tables.members, tables.strata, tables.classes)]
        scratch = device.empty(blocks * _THREADS * (2 * sizes[0] + sizes[2]), np.int32)
        device.launch(
            "shuffle_permutations", blocks, _THREADS, *which, device.keep(tables.members), np.int32(sizes[0]),
            np.int32(tables.members.shape[1]), device.keep(tables.strata), np.int32(sizes[1] - 1),
            device.keep(tables.classes), np.int32(sizes[2] - 1), device.keep(tables.radix), *self._how(device),
            scratch, out,
        )  # fmt: skip

    def _signs_on(self, device: Device, which: tuple[np.generic, ...], out: DeviceArray) -> None:
        device.launch(
            "shuffle_signs", blocks_for(len(out), _THREADS, device), _THREADS, *which,
            device.keep(self._tables.unit_of_row), np.int32(self._n_draws), *self._how(device), out,
        )  # fmt: skip

    def _how(self, device: Device) -> tuple[DeviceArray | np.generic, ...]:
        """What kernels take for the ranks of the permutations."""
        pivots = self._tables.pivots
        how = (1 if self.exhaustive else 2) if self._is_ranked else 0
        n_ranks = self.n_distinct if self._is_ranked else 0
        return np.int32(how), np.uint64(n_ranks), device.keep(pivots), np.int32(len(pivots))

    @cached_property
    def _tables(self) -> _DeviceTables:
        pivots = words = np.zeros(0, dtype=np.uint64)
        if self._is_ranked and not self.exhaustive:
            pivots = _pivots(np.uint64(self.options.seed), np.uint64(self.n_distinct))
        units = self._unit_of_row.astype(np.int32)
        if self.flips:
            return _DeviceTables(units, units, units, words, pivots, units)
        layout = self._ranked_layout
        radix = np.array(layout.counts, dtype=np.uint64)
        members = np.ascontiguousarray(layout.members, np.int32)
        return _DeviceTables(
            members, layout.strata.astype(np.int32), layout.classes.astype(np.int32), radix, pivots, units
        )

    def _key_of(self, start: int, stop: int) -> np.uint64:
        """The key of the random numbers of a range of permutations, if it is one."""
        _check_range(start, stop, self.n)
        if self.n > RANK_LIMIT:
            raise InputError(
                f"there are {self.n} permutations, too many for a run of them all; ask for a number of permutations",
                option="-n",
            )
        # Exhaustive runs are the same for every seed.
        return np.uint64(0 if self.exhaustive else self.options.seed)

    def _ranks(self, indices: Words, key: np.uint64) -> Words | None:
        """Ranks of the permutations; None if there are too many to rank."""
        if not self._is_ranked:
            return None
        return indices if self.exhaustive else _bijection(key, indices, np.uint64(self.n_distinct))

    def _signs(self, draws: Words, ranks: Words | None) -> NDArray[np.int8]:
        if ranks is None:
            bits = draws[:, : self._n_draws]
        else:
            bits = ranks[:, None] >> np.arange(self._n_draws, dtype=np.uint64)[::-1]
        signs = np.ones((len(draws), self.n_rows), dtype=np.int8)
        flipping = self._unit_of_row >= 0
        signs[:, flipping] = np.where(bits & _ONE, -1, 1)[:, self._unit_of_row[flipping]]
        return signs

    def _permutations(self, draws: Words, ranks: Words | None) -> Int32:
        layout = self._ranked_layout
        if ranks is None:
            ranks = np.zeros(len(draws), dtype=np.uint64)
        radix = np.array(layout.counts, dtype=np.uint64)
        out = np.tile(np.arange(self.n_rows, dtype=np.int32), (len(draws), 1))
        _permute(draws, ranks, radix, layout.strata, layout.classes, layout.members, out)
        return out

    @property
    def _n_draws(self) -> int:
        """Random words that one permutation takes; of sign flips, the number of units."""
        return len(self._layout.members)

    @cached_property
    def _unit_of_row(self) -> Ints:
        """(n_rows,) Number of the unit that each row changes its sign with; -1 if it never does."""
        units = np.full(self.n_rows, -1)
        for number, rows in enumerate(self._layout.members):
            units[rows] = number
        return units

    @cached_property
    def _strata(self) -> list[Ints]:
        return _strata(self.n_rows, self.options)

    @cached_property
    def _layout(self) -> _Layout:
        # Sign flips are ranked by the order of the rows, whatever their regressors.
        return _layout(self._strata, np.arange(self.n_rows) if self.flips else self.labels)

    @property
    def _is_ranked(self) -> bool:
        """Whether the permutations are few enough to be ranked."""
        return self.n_distinct <= RANK_LIMIT

    @cached_property
    def _ranked_layout(self) -> _Layout:
        # Without ranks, as if all rows of a block were equal: the random order of equals is then the permutation.
        return self._layout if self._is_ranked else self._layout.merged()

    @cached_property
    def invariant(self) -> Float64:
        """(n_rows, k) Orthonormal basis of the vectors that no permutation changes."""
        still = np.setdiff1d(np.arange(self.n_rows), self._layout.members)
        moving = [] if self.flips else [_orbits(units, self.n_rows) for units in self._strata]
        return np.hstack([np.eye(self.n_rows)[:, still], *moving])


class ImportedShuffler:
    """Permutations from elsewhere, such as those that FSL writes with ``-P``.

    Parameters
    ----------
    array : (N, n) array
        One permutation per row: row numbers from 1, or signs ±1. The first leaves everything in place.
    n_rows : int, optional
        Number of rows of the design.

    Attributes
    ----------
    n_rows, flips, n_distinct, n, exhaustive
        As in `Shuffler`. How many distinct permutations exist is not known: `n_distinct` is `n`,
        and `exhaustive` is False.

    Raises
    ------
    InputError
        Not a table, wrong number of columns, a row that is no permutation (or not all ±1), or a first row
        that moves something; with the number of the row.
    """

    exhaustive = False

    def __init__(self, array: ArrayLike, n_rows: int | None = None) -> None:
        table = np.asarray(array, dtype=np.float64)
        if table.ndim != 2 or not table.size:
            raise InputError(f"imported permutations have shape {table.shape}; expected a row a permutation")
        self.n, self.n_rows = self.n_distinct, _ = table.shape
        if n_rows is not None and self.n_rows != n_rows:
            raise InputError(f"imported permutations have {self.n_rows} columns; the design has {n_rows} rows")
        self.flips = bool((table == -1).any() or (self.n_rows > 1 and (table[0] == 1).all()))
        self._table = _import_signs(table) if self.flips else _import_permutations(table)
        self._table.setflags(write=False)

    def shuffles(self, start: int, stop: int) -> AnyArray:
        """Permutations start … stop − 1, in the form of `Shuffler.shuffles`."""
        _check_range(start, stop, self.n)
        return self._table[start:stop].copy()

    def on_device(self, start: int, stop: int, device: Device) -> DeviceShuffles:
        """The same on a device."""
        return on_device(self.shuffles(start, stop), device)

    @cached_property
    def invariant(self) -> Float64:
        """(n_rows, k) Orthonormal basis of the vectors that no permutation changes."""
        if self.flips:
            return np.eye(self.n_rows)[:, (self._table > 0).all(axis=0)]
        orbit = np.arange(self.n_rows)
        for p in self._table:
            # Rows that trade places take the smallest number among them.
            while (orbit != orbit[p]).any():
                low = np.minimum(orbit, orbit[p])
                low[p] = np.minimum(low[p], orbit)
                orbit = low
        return np.hstack([_orbits(np.flatnonzero(orbit == o)[:, None], self.n_rows) for o in np.unique(orbit)])


def _check_range(start: int, stop: int, n: int) -> None:
    if not 0 <= start <= stop <= n:
        raise ValueError(f"permutations {start} to {stop} are asked for; this run has 0 to {n}")


def _import_permutations(table: Float64) -> Int32:
    in_place = np.arange(1, table.shape[1] + 1)
    wrong = np.flatnonzero((np.sort(table, axis=1) != in_place).any(axis=1))
    if len(wrong):
        raise InputError(
            f"row {wrong[0] + 1} of the imported permutations is not a permutation of 1 to {table.shape[1]}"
        )
    if (table[0] != in_place).any():
        raise InputError("row 1 of the imported permutations must leave every row in its place")
    return (table - 1).astype(np.int32)


def _import_signs(table: Float64) -> NDArray[np.int8]:
    wrong = np.flatnonzero((np.abs(table) != 1).any(axis=1))
    if len(wrong):
        raise InputError(f"row {wrong[0] + 1} of the imported sign flips has an entry that is not 1 or -1")
    if (table[0] != 1).any():
        raise InputError("row 1 of the imported sign flips must be 1 throughout")
    return table.astype(np.int8)


# Compiled kernels. numba turns uint64 with a plain integer into float64: constants are uint64 throughout.
_ONE, _WORD, _LOW = np.uint64(1), np.uint64(32), np.uint64(0xFFFFFFFF)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
# What a random number is for.
_ROUND_KEY, _ROUND_BIT, _DRAW = np.uint64(1), np.uint64(2), np.uint64(3)

_THREADS = 32  # of a block on a device: few, so that all processors take part


@small
def _philox(
    key: np.uint64, number: np.uint64, block: np.uint64, use: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Philox4x32-10 of the counter (number, block, use): four words of 32 bits, in uint64."""
    k0, k1 = key & _LOW, key >> _WORD
    c0, c1, c2, c3 = number & _LOW, number >> _WORD, block, use
    for _ in range(10):
        a, b = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (b >> _WORD) ^ c1 ^ k0, b & _LOW, (a >> _WORD) ^ c3 ^ k1, a & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@small
def _pivots(key: np.uint64, n: np.uint64) -> Words:
    """A number below n − 1 for each round of the swap-or-not shuffle."""
    bits = 0
    while n >> np.uint64(bits):
        bits += 1
    pivots = np.empty(8 * bits + 32, dtype=np.uint64)
    for r in range(len(pivots)):
        words = _philox(key, np.uint64(r), np.uint64(0), _ROUND_KEY)
        pivots[r] = (words[0] | (words[1] << _WORD)) % (n - _ONE)
    return pivots


@small
def _bijection(key: np.uint64, indices: Words, n: np.uint64) -> Words:
    """Swap-or-not shuffle of 1 … n − 1, keyed; 0 stays 0. n ≤ 2^63."""
    size, pivots = n - _ONE, _pivots(key, n)
    rounds = len(pivots)
    out = indices.copy()
    for i in range(len(out)):
        if not out[i]:
            continue
        x = out[i] - _ONE
        for r in range(rounds):
            partner = (pivots[r] + (size - x)) % size
            words = _philox(key, max(x, partner), np.uint64(r), _ROUND_BIT)
            if words[0] & _ONE:
                x = partner
        out[i] = x + _ONE
    return out


@small
def _draws(key: np.uint64, indices: Words, m: int) -> Words:
    """Random 32-bit words of each permutation: (shuffles, m rounded up to a multiple of four)."""
    blocks = (m + 3) // 4
    out = np.empty((len(indices), 4 * blocks), dtype=np.uint64)
    for i in range(len(indices)):
        for b in range(blocks):
            words = _philox(key, indices[i], np.uint64(b), _DRAW)
            for j in range(4):
                out[i, 4 * b + j] = words[j]
    return out


@small
def _permute(
    draws: Words, ranks: Words, radix: Words, strata: Ints, classes: Ints, members: Ints, out: Int32
) -> None:
    """Write the permutation of each rank: a labelling, then rows of each class in the drawn order.

    out (permutations, n_rows) starts with every row in its place; slots that do not move are not touched.
    """
    m, n_classes = len(members), len(classes) - 1
    sources, pool = np.empty(m, dtype=np.int64), np.empty(m, dtype=np.int64)
    unplaced = np.empty(n_classes, dtype=np.int64)
    for i in range(len(out)):
        rank = ranks[i]
        for c in range(n_classes):
            unplaced[c] = classes[c + 1] - classes[c]
            shuffle_class(draws[i], classes[c], classes[c + 1], pool)
        for s in range(len(radix)):
            digit, rank = rank % radix[s], rank // radix[s]
            unrank(digit, radix[s], strata[s], strata[s + 1], classes, unplaced, pool, sources)
        for slot in range(m):
            for k in range(members.shape[1]):
                out[i, members[slot, k]] = members[sources[slot], k]


@small
def shuffle_class(words: Words, first: int, last: int, pool: Ints) -> None:
    """Slots first … last − 1 in random order: Fisher-Yates, each draw biased by less than last / 2^32."""
    for k in range(first, last):
        pool[k] = k
    for k in range(last - 1, first, -1):
        other = first + np.int64((words[k] * np.uint64(k - first + 1)) >> _WORD)
        pool[k], pool[other] = pool[other], pool[k]


@small
def unrank(
    rank: np.uint64,
    count: np.uint64,
    first: int,
    last: int,
    classes: Ints,
    unplaced: Ints,
    pool: Ints,
    sources: Ints,
) -> None:
    """The rank-th of the `count` arrangements of the classes first … last − 1, in lexicographic order."""
    for slot in range(classes[first], classes[last]):
        remaining = np.uint64(classes[last] - slot)
        for c in range(first, last):
            # Arrangements that go on with class c: count · unplaced / remaining, without overflow.
            n = np.uint64(unplaced[c])
            share = count // remaining * n + count % remaining * n // remaining
            if rank < share:
                sources[slot] = pool[classes[c + 1] - unplaced[c]]
                unplaced[c] -= 1
                count = share
                break
            rank -= share
