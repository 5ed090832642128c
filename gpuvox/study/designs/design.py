"""A design matrix with its contrasts, and the terms it is built from."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from gpuvox import files, participants
from gpuvox.design_checks import check_design, describe_finding
from gpuvox.errors import DesignError, FileError
from gpuvox.names import Names
from gpuvox.participants import Rows
from gpuvox.partitioning import partition
from gpuvox.types import Float64, Ints

Weights = dict[str, float]


@dataclass(frozen=True, eq=False)
class Design:
    """A design matrix, its contrasts, and its exchangeability.

    Attributes
    ----------
    matrix : (n, p) float64
    names : tuple of str
        Names of the EVs.
    contrasts : (k, p) float64
        t contrasts.
    contrast_names : tuple of str
    f_tests : (f, k) float64
        Rows of 0 and 1: the t contrasts that are combined.
    f_names : tuple of str
    blocks : (n,) int, optional
        Exchangeability blocks, from 1.
    whole_blocks : bool
        Permute whole blocks instead of the rows within them.
    flip : bool
        Flip signs (one-sample test).

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
        """Write ``root.mat`` and ``root.con``, and ``root.fts`` and ``root.grp`` if there are F tests and blocks.

        ``root_design.json`` lists the names of EVs and contrasts, and the participants of the rows; these are in the
        header of ``root.mat`` and ``root.grp`` too, so that a copy of either keeps them.
        """
        ids, visits = (who.ids, who.visits) if who else ((), ())
        files.write_vest(f"{root}.mat", self.matrix, names=ids)
        files.write_vest(f"{root}.con", self.contrasts, "con", names=self.contrast_names)
        if len(self.f_tests):
            files.write_vest(f"{root}.fts", self.f_tests, "fts")
        if self.blocks is not None:
            files.write_vest(f"{root}.grp", self.blocks, "grp", names=ids)
        names = Names(self.names, self.contrast_names, self.f_names)
        participants.write_design_sidecar(root, names, ids, visits)

    def command(self, data: str, root: str, out: str) -> str:
        """The command that tests a design written to `root`, with TFCE."""
        words = ["gpuvox", "randomise", "-i", data, "-o", out, "-d", f"{root}.mat", "-t", f"{root}.con"]
        words += ["-f", f"{root}.fts"] if len(self.f_tests) else []
        words += ["-e", f"{root}.grp"] if self.blocks is not None else []
        words += ["--permuteBlocks"] if self.whole_blocks else []
        words += ["-1"] if self.flip else []
        return shlex.join([*words, "-T"])

    def describe(self) -> list[str]:
        """EVs, contrasts, F tests and exchangeability, one line each."""
        n = sum(name.startswith(SUBJECT) for name in self.names)
        evs = ([f"1 to {n} one per participant"] if n else []) + _numbered(self.names[n:], n + 1)
        lines = [f"EVs: {', '.join(evs)}", f"t contrasts: {', '.join(_numbered(self.contrast_names))}"]
        if self.f_names:
            stacked = [
                f"{name} (t contrasts {', '.join(str(i + 1) for i in np.flatnonzero(row))})"
                for name, row in zip(self.f_names, self.f_tests)
            ]
            lines.append(f"F tests: {', '.join(_numbered(stacked))}")
        return [*lines, f"permuted: {self._permuted()}"]

    def concerns(self) -> list[str]:
        """Warnings about the design, as sentences; see `gpuvox.design_checks`."""
        return [describe_finding(each, self.names) for each in check_design(self.matrix, flip=self.flip)]

    def _permuted(self) -> str:
        if self.blocks is None:
            return "the signs of the rows (assumes errors symmetric around 0)" if self.flip else "the rows"
        if self.flip:
            return "the signs of participants, for all their visits at once (assumes errors symmetric around 0)"
        if self.whole_blocks:
            return "participants, with all their visits"
        assumed = (
            " (assumes errors of equal variance and equal correlation)"
            if np.bincount(self.blocks).max() > 2
            else ""
        )
        return f"the visits of each participant{assumed}"


SUBJECT = "subject "
"""Prefix of the names of the EVs of participants."""


def _numbered(names: Sequence[str], start: int = 1) -> list[str]:
    return [f"{i} {name}" for i, name in enumerate(names, start)]


@dataclass(frozen=True, eq=False)
class Terms:
    """A design under construction: EVs by name, contrasts as weights of EVs, F tests as lists of contrasts."""

    evs: dict[str, Float64] = field(default_factory=dict)
    contrasts: dict[str, Weights] = field(default_factory=dict)
    f_tests: dict[str, list[str]] = field(default_factory=dict)

    def add(self, evs: Mapping[str, Float64]) -> None:
        """Add EVs; raise `FileError` if a name exists already."""
        for name, values in evs.items():
            if name in self.evs:
                raise FileError(
                    f"two EVs would have the name {name!r}, because groups, visits or covariates share it"
                )
            self.evs[name] = values

    def both(self, plus: str, minus: str, weights: Weights) -> None:
        """Add a contrast and its negative."""
        self.contrasts[plus] = weights
        self.contrasts[minus] = {name: -weight for name, weight in weights.items()}

    def pairs(self, levels: Sequence[str], ev: Callable[[str], Weights], label: str = "") -> None:
        """Add the comparison of every two levels, in both directions."""
        for a, b in combinations(levels, 2):
            self.both(f"{label}{a} > {b}", f"{label}{a} < {b}", difference(ev(a), ev(b)))

    def jointly(self, name: str, contrasts: Sequence[str]) -> None:
        """Add an F test of contrasts, if there are several."""
        if len(contrasts) > 1:
            self.f_tests[name] = list(contrasts)

    def design(self, blocks: Ints | None = None, whole_blocks: bool = False, flip: bool = False) -> Design:
        """The finished design."""
        names, titles = tuple(self.evs), tuple(self.contrasts)
        contrasts = [[weights.get(name, 0.0) for name in names] for weights in self.contrasts.values()]
        f_tests = [[float(title in chosen) for title in titles] for chosen in self.f_tests.values()]
        return Design(
            np.column_stack(list(self.evs.values())) + 0.0, names,  # no -0 in the file
            np.array(contrasts), titles,
            np.array(f_tests).reshape(-1, len(titles)), tuple(self.f_tests), blocks, whole_blocks, flip,
        )  # fmt: skip


def difference(a: Weights, b: Weights) -> Weights:
    """One contrast minus another."""
    return {name: a.get(name, 0.0) - b.get(name, 0.0) for name in (*a, *b)}
