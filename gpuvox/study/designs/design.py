"""A design matrix with its contrasts, and how it grows term by term."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from gpuvox import files, participants
from gpuvox.design_checks import check_design, describe_finding
from gpuvox.errors import DesignError, FileError
from gpuvox.names import Names
from gpuvox.participants import Rows
from gpuvox.partitioning import partition

Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Weights = dict[str, float]


@dataclass(frozen=True, eq=False)
class Design:
    """A design matrix, its contrasts, and what is exchangeable.

    Attributes
    ----------
    matrix : (n, p) float64
    names : tuple of str
        Of the EVs.
    contrasts : (k, p) float64
        t contrasts.
    contrast_names : tuple of str
    f_tests : (f, k) float64
        Rows of 0 and 1: the t contrasts that are stacked.
    f_names : tuple of str
    blocks : (n,) int, optional
        Exchangeability blocks, from 1.
    whole_blocks : bool
        Blocks are permuted as wholes, instead of the rows within each.
    flip : bool
        Signs are flipped: a test of one sample.

    Raises
    ------
    DesignError
        A contrast cannot be estimated, or no degrees of freedom are left.
    """

    matrix: Float64
    names: tuple[str, ...]
    contrasts: Float64
    contrast_names: tuple[str, ...]
    f_tests: Float64
    f_names: tuple[str, ...] = ()
    blocks: Ints | None = None
    whole_blocks: bool = False
    flip: bool = False

    def __post_init__(self) -> None:
        tests = [(name, row[None], False) for name, row in zip(self.contrast_names, self.contrasts)]
        tests += [(name, self.contrasts[row != 0], True) for name, row in zip(self.f_names, self.f_tests)]
        for name, contrast, is_f in tests:
            try:
                partition(self.matrix, contrast, is_f=is_f)
            except DesignError as error:
                evs = ", ".join(self.names[:12]) + (" …" if len(self.names) > 12 else "")
                raise DesignError(f"contrast {name!r} on the EVs {evs}: {error}") from None

    def write(self, root: str | os.PathLike[str], who: Rows | None = None) -> None:
        """Write ``root.mat`` and ``root.con``; ``root.fts`` and ``root.grp`` where there are F tests and blocks.

        ``root_design.json`` names EVs and contrasts, and whose the rows are.
        """
        files.write_vest(f"{root}.mat", self.matrix)
        files.write_vest(f"{root}.con", self.contrasts, "con", names=self.contrast_names)
        if len(self.f_tests):
            files.write_vest(f"{root}.fts", self.f_tests, "fts")
        if self.blocks is not None:
            files.write_vest(f"{root}.grp", self.blocks, "grp")
        ids, visits = (who.ids, who.visits) if who else ((), ())
        names = Names(self.names, self.contrast_names, self.f_names)
        participants.write_design_sidecar(root, names, ids, visits)

    def command(self, data: str, root: str, out: str) -> str:
        """The command that runs the tests of a design that was written to `root`, with TFCE."""
        words = ["gpuvox", "randomise", "-i", data, "-o", out, "-d", f"{root}.mat", "-t", f"{root}.con"]
        words += ["-f", f"{root}.fts"] if len(self.f_tests) else []
        words += ["-e", f"{root}.grp"] if self.blocks is not None else []
        words += ["--permuteBlocks"] if self.whole_blocks else []
        words += ["-1"] if self.flip else []
        return shlex.join([*words, "-T"])

    def describe(self) -> list[str]:
        """EVs, contrasts, F tests and exchangeability, a line each."""
        n = sum(name.startswith(SUBJECT) for name in self.names)
        evs = ([f"1 to {n} a subject each"] if n else []) + _numbered(self.names[n:], n + 1)
        lines = [f"EVs: {', '.join(evs)}", f"t contrasts: {', '.join(_numbered(self.contrast_names))}"]
        if self.f_names:
            stacked = [
                f"{name} (t contrasts {', '.join(str(i + 1) for i in np.flatnonzero(row))})"
                for name, row in zip(self.f_names, self.f_tests)
            ]
            lines.append(f"F tests: {', '.join(_numbered(stacked))}")
        return [*lines, f"exchangeable: {self._exchangeable()}"]

    def concerns(self) -> list[str]:
        """What is odd about it, in sentences; see `gpuvox.design_checks`."""
        return [describe_finding(each, self.names) for each in check_design(self.matrix, flip=self.flip)]

    def _exchangeable(self) -> str:
        if self.blocks is None:
            return "the signs of the rows (errors symmetric around 0)" if self.flip else "the rows"
        if self.flip:
            return "the signs of subjects, of all their visits at once (errors symmetric around 0)"
        if self.whole_blocks:
            return "subjects, with all their visits"
        alike = " (errors of one variance, and equally correlated)" if np.bincount(self.blocks).max() > 2 else ""
        return f"the visits of each subject{alike}"


SUBJECT = "subject "
"""How the names of the EVs of subjects begin."""


def _numbered(names: Sequence[str], start: int = 1) -> list[str]:
    return [f"{i} {name}" for i, name in enumerate(names, start)]


@dataclass(frozen=True, eq=False)
class Terms:
    """A design as it grows: EVs by name, contrasts by the EVs that they weigh, F tests by their contrasts."""

    evs: dict[str, Float64] = field(default_factory=dict)
    contrasts: dict[str, Weights] = field(default_factory=dict)
    f_tests: dict[str, list[str]] = field(default_factory=dict)

    def add(self, evs: Mapping[str, Float64]) -> None:
        """More EVs; `FileError` if a name is there already."""
        for name, values in evs.items():
            if name in self.evs:
                raise FileError(f"two EVs would be called {name!r}: a group, a visit and a covariate share a name")
            self.evs[name] = values

    def both(self, plus: str, minus: str, weights: Weights) -> None:
        """A contrast and its negative."""
        self.contrasts[plus] = weights
        self.contrasts[minus] = {name: -weight for name, weight in weights.items()}

    def pairs(self, levels: Sequence[str], ev: Callable[[str], Weights], label: str = "") -> None:
        """Every level against every other."""
        for a, b in combinations(levels, 2):
            self.both(f"{label}{a} > {b}", f"{label}{a} < {b}", difference(ev(a), ev(b)))

    def jointly(self, name: str, contrasts: Sequence[str]) -> None:
        """An F test of contrasts, where there are several."""
        if len(contrasts) > 1:
            self.f_tests[name] = list(contrasts)

    def design(self, blocks: Ints | None = None, whole_blocks: bool = False, flip: bool = False) -> Design:
        """What it has become."""
        names, titles = tuple(self.evs), tuple(self.contrasts)
        contrasts = [[weights.get(name, 0.0) for name in names] for weights in self.contrasts.values()]
        f_tests = [[float(title in chosen) for title in titles] for chosen in self.f_tests.values()]
        return Design(
            np.column_stack(list(self.evs.values())) + 0.0, names,  # no -0 in the file
            np.array(contrasts), titles,
            np.array(f_tests).reshape(-1, len(titles)), tuple(self.f_tests), blocks, whole_blocks, flip,
        )  # fmt: skip


def difference(a: Weights, b: Weights) -> Weights:
    """One contrast less another."""
    return {name: a.get(name, 0.0) - b.get(name, 0.0) for name in (*a, *b)}
