"""Exchangeability: which shuffles of the rows of a design are distinct, how many, and the i-th of them.

A shuffle permutes rows, flips their signs, or does both (`signed_rows`). Permutations that produce the same sequence of
effective regressor values are one *labelling*, and a run contains no labelling twice. Shuffle i is a pure function of
(seed, i), so it does not matter who computes it, or in what order:

* Labellings are ranked: lexicographically within a block (or over whole blocks), and as the digits of a
  number across blocks, the first block being the fastest digit. Flips count in binary, the last row being
  the last bit; with both, each labelling comes with all flips before the next one. Rank 0 is the unpermuted design.
  An exhaustive run takes all ranks in order.
* Otherwise permutation i has rank π(i), where π is a keyed bijection of the ranks that fixes 0: the swap-or-not
  shuffle of V. T. Hoang, B. Morris and P. Rogaway (CRYPTO 2012, LNCS 7417:1-13).
* Beyond 2^63 labellings every shuffle is drawn independently; the probability of a repeat among N is below N²/2^64.
  They are drawn independently too where repeats are allowed, and then the unpermuted one may come again.

Which of several rows with equal effective regressor goes where matters only to the nuisance regressors, which a
Freedman-Lane permutation moves too. Those rows are put in random order (the same in every exhaustive run), so
that each permutation of the rows is equally likely. In the order of the file, often that of a covariate such as age,
they would leave permuted nuisance regressors close to the original ones, and the size of the test would depend on
the design: simulated with 40 covariates, sorted within two groups of 8, 1000 data sets each,
the rate of false positives at level 5 % was 0.4 to 15 % (80 % of designs: 1 to 9 %), against 2 to 6 %
(80 % of designs: 4 to 5 %).

All random numbers come from Philox4x32-10, a function of a key and a counter (J. K. Salmon, M. A. Moraes,
R. O. Dror and D. E. Shaw, SC 2011): the key is the seed, the counter says what the number is for. A GPU
(``kernels/shuffle.cu``) makes the same shuffles, a thread each, so that none are sent to it.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import comb, prod

import numpy as np
from numpy.typing import ArrayLike

from gpuvox.device import Device, blocks_for
from gpuvox.errors import DesignError, InputError
from gpuvox.jit import small
from gpuvox.signed_rows import DeviceShuffles
from gpuvox.types import AnyArray, DeviceArray, Float64, Int32, Ints, Words

EQUAL = 1e-10
"""Effective regressors that differ by less than this share of the largest are equal."""
RANK_LIMIT = 2**63
"""Shuffles are ranked in 64-bit integers up to this number of distinct ones."""


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
        Permute blocks as wholes instead of rows within each block; signs of a block are flipped together.
    flip : bool
        Flip signs instead of permuting rows.
    permute_and_flip : bool
        Flip signs and permute rows, whatever `flip` says.
    within_blocks : bool
        With `whole_blocks`, permute rows within blocks too.
    repeats : bool
        Draw every shuffle independently, so that the same one may come again, even the unpermuted one. A run of
        all there are has each once in any case.
    distinct_rows : bool
        Treat all rows as different, even those with equal effective regressors.
    """

    number: int = 5000
    seed: int = 0
    blocks: ArrayLike | None = None
    whole_blocks: bool = False
    flip: bool = False
    permute_and_flip: bool = False
    within_blocks: bool = False
    repeats: bool = False
    distinct_rows: bool = False


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


def check_whole_blocks(sizes: Sequence[int]) -> None:
    """Raise `InputError` unless all exchangeability blocks have as many rows as the first."""
    odd = next((b for b, size in enumerate(sizes) if size != sizes[0]), None)
    if odd is not None:
        raise InputError(
            f"exchangeability block {odd + 1} has {sizes[odd]} rows and block 1 has {sizes[0]}; "
            "blocks that are permuted as wholes must be of equal size",
            option="--permuteBlocks",
        )


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
        As of `_Layout`.
    radix : (S,) uint64
        Arrangements of each stratum.
    """

    members: Int32
    strata: Int32
    classes: Int32
    radix: Words


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
    check_whole_blocks([len(r) for r in rows])
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
    """The distinct shuffles of one contrast, and those of a run.

    Parameters
    ----------
    labels : (n,) or (n, r) array
        Effective regressors: rows equal in them are interchangeable. Kept as the numbers that
        `effective_labels` gives them.
    options : Permutations
        `within_blocks` needs a `block_tree.TreeShuffler`.
    scale : float or (r,) array
        See `effective_labels`.

    Raises
    ------
    InputError
        Labels, blocks, number or seed are invalid; the message says which.

    Examples
    --------
    Two groups of five have 10! / (5! 5!) distinct permutations:

    >>> shuffler = gpuvox.Shuffler(np.repeat([1, -1], 5), gpuvox.Permutations(number=0))
    >>> shuffler.n
    252

    Within two blocks there are fewer:

    >>> blocks = gpuvox.Permutations(0, blocks=np.tile([1, 1, 1, 2, 2], 2))
    >>> gpuvox.Shuffler(np.repeat([1, -1], 5), blocks).n
    120
    """

    labels: AnyArray
    options: Permutations = field(default_factory=Permutations)
    scale: ArrayLike = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", effective_labels(self.labels, self.scale))
        if self.options.distinct_rows:
            object.__setattr__(self, "labels", np.arange(len(self.labels)))
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
    def permutes(self) -> bool:
        """Whether rows are permuted."""
        return bool(self.options.permute_and_flip or not self.options.flip)

    @property
    def flips(self) -> bool:
        """Whether signs are flipped."""
        return bool(self.options.permute_and_flip or self.options.flip)

    @property
    def kind(self) -> str:
        """What shuffles are, in the plural; see `kind_of`."""
        return kind_of(self.permutes, self.flips)

    @property
    def in_random_order(self) -> bool:
        """Whether shuffles come in random order, as drawn ones do, and not in that of their ranks."""
        return not self.exhaustive

    @cached_property
    def n_orders(self) -> int:
        """Number of distinct permutations, exact however large; 1 where rows are not permuted."""
        return self._count_orders() if self.permutes else 1

    def _count_orders(self) -> int:
        return prod(self._layout.counts)

    @cached_property
    def n_signs(self) -> int:
        """Number of distinct sign flips; 1 where signs are not flipped."""
        return int(2 ** len(self.flip_units)) if self.flips else 1

    @cached_property
    def n_distinct(self) -> int:
        """Number of distinct shuffles."""
        return self.n_orders * self.n_signs

    @property
    def exhaustive(self) -> bool:
        """Whether the run contains every distinct shuffle."""
        return not 0 < self.options.number < self.n_distinct

    @property
    def n(self) -> int:
        """Number of shuffles of this run."""
        return self.n_distinct if self.exhaustive else int(self.options.number)

    def shuffles(self, start: int, stop: int) -> Int32:
        """Shuffles start … stop − 1 of the run; number 0 leaves everything in place.

        Parameters
        ----------
        start, stop : int
            0 ≤ start ≤ stop ≤ n.

        Returns
        -------
        (stop − start, n_rows) int32
            See `signed_rows`.

        Raises
        ------
        ValueError
            Not a range of this run; or an exhaustive run of more than 2^63 shuffles.
        """
        key = self._key_of(start, stop)
        indices = np.arange(start, stop, dtype=np.uint64)
        draws = _draws(key, indices, self._first_sign_word + len(self.flip_units) * self.flips)
        ranks = self._ranks(indices, key)
        out = np.tile(np.arange(self.n_rows, dtype=np.int32), (len(draws), 1))
        if self.permutes:
            self._permute(draws, None if ranks is None else ranks // np.uint64(self.n_signs), out)
        if self.flips:
            self._flip(draws, ranks, out)
        out[indices == 0] = np.arange(self.n_rows)
        return out

    def on_device(self, start: int, stop: int, device: Device) -> DeviceShuffles:
        """The same, made on a device."""
        key = self._key_of(start, stop)
        out = device.empty((stop - start, self.n_rows), np.int32)
        if stop > start:
            which = (key, np.uint64(start), np.int32(stop - start), np.int32(self.n_rows))
            if self.permutes:
                self._permute_on(device, which, out)
            if self.flips:
                self._flip_on(device, which, out)
        return DeviceShuffles(out, device, self.flips)

    def _permute_on(self, device: Device, which: tuple[np.generic, ...], out: DeviceArray) -> None:
        tables, (n_maps, _) = self._tables, out.shape
        blocks = blocks_for(n_maps, THREADS, device)
        sizes = [len(table) for table in (tables.members, tables.strata, tables.classes)]
        scratch = device.empty(blocks * THREADS * (2 * sizes[0] + sizes[2]), np.int32)
        device.launch(
            "shuffle_permutations", blocks, THREADS, *which, device.keep(tables.members), np.int32(sizes[0]),
            np.int32(tables.members.shape[1]), device.keep(tables.strata), np.int32(sizes[1] - 1),
            device.keep(tables.classes), np.int32(sizes[2] - 1), device.keep(tables.radix), *self._how(device),
            self._divisor, scratch, out,
        )  # fmt: skip

    def _flip_on(self, device: Device, which: tuple[np.generic, ...], out: DeviceArray) -> None:
        device.launch(
            "shuffle_signs", blocks_for(len(out), THREADS, device), THREADS, *which,
            device.keep(self._flip_unit_of_row), np.int32(len(self.flip_units)), np.int32(self._first_sign_word),
            *self._how(device), np.int32(not self.permutes), out,
        )  # fmt: skip

    @property
    def _divisor(self) -> np.uint64:
        """What the rank of a shuffle is divided by for that of its permutation."""
        return np.uint64(self.n_signs if self._is_ranked else 1)

    def _how(self, device: Device) -> tuple[DeviceArray | np.generic, ...]:
        """What kernels take for the ranks of the shuffles."""
        how = (1 if self.exhaustive else 2) if self._is_ranked else 0
        n_ranks = self.n_distinct if self._is_ranked else 0
        return np.int32(how), np.uint64(n_ranks), device.keep(self._rounds), np.int32(len(self._rounds))

    @cached_property
    def _rounds(self) -> Words:
        """Pivots of the bijection from numbers to ranks; empty if there is none."""
        if self._is_ranked and not self.exhaustive:
            return _pivots(np.uint64(self.options.seed), np.uint64(self.n_distinct))
        return np.zeros(0, dtype=np.uint64)

    @cached_property
    def _tables(self) -> _DeviceTables:
        layout = self._ranked_layout
        members = np.ascontiguousarray(layout.members, np.int32)
        radix = np.array(layout.counts, dtype=np.uint64)
        return _DeviceTables(members, layout.strata.astype(np.int32), layout.classes.astype(np.int32), radix)

    def _key_of(self, start: int, stop: int) -> np.uint64:
        """The key of the random numbers of a range of shuffles, if it is one."""
        check_range(start, stop, self.n)
        if self.n > RANK_LIMIT:
            raise InputError(
                f"there are {self.n} permutations, too many for a run of them all; ask for a number of permutations",
                option="-n",
            )
        # Exhaustive runs are the same for every seed.
        return np.uint64(0 if self.exhaustive else self.options.seed)

    def _ranks(self, indices: Words, key: np.uint64) -> Words | None:
        """Ranks of the shuffles; None if they are drawn independently."""
        if not self._is_ranked:
            return None
        return indices if self.exhaustive else _bijection(key, indices, np.uint64(self.n_distinct))

    def _flip(self, draws: Words, ranks: Words | None, out: Int32) -> None:
        """Flip the signs of rows in place."""
        n_units = len(self.flip_units)
        if ranks is None:
            bits = draws[:, self._first_sign_word : self._first_sign_word + n_units]
        else:
            bits = ranks[:, None] >> np.arange(n_units, dtype=np.uint64)[::-1]
        flipping = np.flatnonzero(self._flip_unit_of_row >= 0)
        is_flipped = (bits & _ONE).astype(bool)[:, self._flip_unit_of_row[flipping]]
        out[:, flipping] = np.where(is_flipped, ~out[:, flipping], out[:, flipping])

    def _permute(self, draws: Words, ranks: Words | None, out: Int32) -> None:
        """Permute rows in place."""
        layout = self._ranked_layout
        if ranks is None:
            ranks = np.zeros(len(draws), dtype=np.uint64)
        radix = np.array(layout.counts, dtype=np.uint64)
        _permute_rows(draws, ranks, radix, layout.strata, layout.classes, layout.members, out)

    @property
    def _first_sign_word(self) -> int:
        """Random words of one shuffle that its permutation takes; those of its signs follow."""
        return self._words_of_order if self.permutes else 0

    @property
    def _words_of_order(self) -> int:
        return len(self._layout.members)

    @cached_property
    def flip_units(self) -> list[Ints]:
        """Rows that change their sign together."""
        return [rows for units in self._strata for rows in units]

    @cached_property
    def _flip_unit_of_row(self) -> Int32:
        """(n_rows,) Number of the unit that each row changes its sign with; -1 if it never does."""
        units = np.full(self.n_rows, -1, dtype=np.int32)
        for number, rows in enumerate(self.flip_units):
            units[rows] = number
        return units

    @property
    def levels(self) -> list[tuple[Ints, Ints]]:
        """What holds each row, from the coarsest level to the row itself: a number, and its place in what holds it.

        Those that may trade places all have place 0.
        """
        rows = np.arange(self.n_rows)
        stratum, unit, place = ~rows, ~rows, np.zeros_like(rows)
        for number, units in enumerate(self._strata):
            stratum[units] = number
            unit[units] = units[:, :1]
            place[units] = np.arange(units.shape[1])
        return [(stratum, stratum), (unit, np.zeros_like(rows)), (rows, place)]

    @cached_property
    def _strata(self) -> list[Ints]:
        return _strata(self.n_rows, self.options)

    @cached_property
    def _layout(self) -> _Layout:
        return _layout(self._strata, self.labels)

    @property
    def _is_ranked(self) -> bool:
        """Whether shuffles have ranks: they are few enough, and none is to come twice."""
        return self.n_distinct <= RANK_LIMIT and (self.exhaustive or not self.options.repeats)

    @cached_property
    def _ranked_layout(self) -> _Layout:
        # Without ranks, as if all rows of a block were equal: the random order of equals is then the permutation.
        return self._layout if self._is_ranked else self._layout.merged()

    @cached_property
    def invariant(self) -> Float64:
        """(n_rows, k) Orthonormal basis of the vectors that no shuffle changes."""
        still = np.flatnonzero(self._flip_unit_of_row < 0)
        moving = [] if self.flips else [_orbits(units, self.n_rows) for units in self._strata]
        return np.hstack([np.eye(self.n_rows)[:, still], *moving])


def kind_of(permutes: bool, flips: bool) -> str:
    """What shuffles are, in the plural: permutations, sign-flips, or permutations with sign-flips."""
    return " with ".join(["permutations"] * permutes + ["sign-flips"] * flips)


def check_range(start: int, stop: int, n: int) -> None:
    """Raise `ValueError` unless start … stop − 1 are among n shuffles."""
    if not 0 <= start <= stop <= n:
        raise ValueError(f"permutations {start} to {stop} are asked for; this run has 0 to {n}")


# Compiled kernels. numba turns uint64 with a plain integer into float64: constants are uint64 throughout.
_ONE, _WORD, _LOW = np.uint64(1), np.uint64(32), np.uint64(0xFFFFFFFF)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
# What a random number is for.
_ROUND_KEY, _ROUND_BIT, _DRAW = np.uint64(1), np.uint64(2), np.uint64(3)

THREADS = 32  # of a block on a device: few, so that all processors take part


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
def _permute_rows(
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
