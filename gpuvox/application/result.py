"""What a run found, for Python: maps by test and kind, findings, text, and a card for notebooks.

`gpuvox.randomise` and `gpuvox.voxelwise` return results that have all of this in common.
"""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuvox import files
from gpuvox.analysis import TestResult
from gpuvox.application.arrays import one_map
from gpuvox.application.findings import Finding, find, log_p, p_values
from gpuvox.errors import InputError, SettingError
from gpuvox.findings.map_names import OF_VOXELS, map_entities, title
from gpuvox.findings.runs import by_precedence
from gpuvox.grid import Grid
from gpuvox.plain import escaped, several
from gpuvox.pvalues import FALSE_DISCOVERY_RATES
from gpuvox.reporter import Reporter
from gpuvox.types import AnyArray, Float32, Float64, Ints

if TYPE_CHECKING:
    import pandas as pd

    from gpuvox.findings.atlas import Atlas
    from gpuvox.findings.tested import ClusterOptions, TestedMaps
    from gpuvox.findings.values import HeldImages

CORRECTED = ("FWE", "FWEacross", "FDR")
"""How the names of corrections of p-values end; ``Unc`` is none."""
EFFECTS = {
    "effect": "estimate", "se": "se", "partialetasq": "partialetasq",
    **{f"{size}{ours}": f"{size}{column}" for size in ("d", "partialr")
       for ours, column in (("", ""), ("CI95lower", "_low"), ("CI95upper", "_high"))},
}  # fmt: skip
"""Maps of effects, and what they are called in tables of clusters."""
STYLES = {
    "card": "border:1px solid #8886;border-radius:6px;padding:.6em .9em;display:inline-block;max-width:100%;"
    "overflow-x:auto;font-size:14px;line-height:1.45",
    "table": "border-collapse:collapse;margin:.4em 0 0;font-size:inherit",
    "cell": "text-align:left;vertical-align:top;padding:.25em .9em .25em 0",
}
"""Inline, because a notebook keeps no style sheet of its own; colours are those of the notebook."""


class NoSuchMapError(SettingError, KeyError):
    """A test or a map that a result does not have."""

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, eq=False)
class TestMaps:
    """The maps of one test.

    Attributes
    ----------
    values : dict of str to (V,) float32
        By kind: ``t`` or ``F``; ``tfce``, ``clusterSize``, ``clusterMass`` (unpermuted values); and −log10 p:
        ``tfceFWE``, ``voxFWE``, ``tfceUnc``, ``tfceFDR`` …
    p : dict of str to (V,) float64
        The p-values themselves, by the same kinds.
    """

    values: Mapping[str, Float32]
    p: Mapping[str, Float64]

    @classmethod
    def of(cls, result: TestResult, *, fdr: str = "") -> TestMaps:
        """The maps of a test; with `fdr`, uncorrected p-values of voxels also give false discovery rates.

        `fdr` is one of `pvalues.FALSE_DISCOVERY_RATES`.
        """
        values: dict[str, Float32] = {}
        p: dict[str, Float64] = {}
        for name, each in result.maps.items():
            test = result.test.name
            entities = map_entities(test if name == "stat" else f"{name}_{test}", test)
            if entities is None:
                continue
            stat, desc = entities
            if stat == "logp":
                fitted = result.approximated.get(name)
                p[desc] = p_values(each, result.shuffler.n) if fitted is None else fitted
            else:
                values[stat] = each
        if fdr:
            rate = FALSE_DISCOVERY_RATES[fdr]
            p |= {OF_VOXELS[desc]: rate(each) for desc, each in p.items() if desc in OF_VOXELS}
        return cls(values | {desc: log_p(each) for desc, each in p.items()}, p)

    @property
    def corrected(self) -> dict[str, Float64]:
        """p-values that are corrected, by correction."""
        return {desc: each for desc, each in self.p.items() if desc.endswith(CORRECTED)}


@dataclass(frozen=True, eq=False)
class Tested:
    """One test of a result.

    Attributes
    ----------
    name : str
        What the user calls it, or FSL's name.
    result : TestResult
    maps : dict of str to (V,) float32
        See `TestMaps`; and the effects, where there are some.
    p : dict of str to (V,) float64
    finding : Finding
    meaning : str
        A sentence; empty if it is unknown.
    """

    name: str
    result: TestResult
    maps: Mapping[str, Float32]
    p: Mapping[str, Float64]
    finding: Finding
    meaning: str = ""

    @property
    def statistic(self) -> str:
        """``t`` or ``F``."""
        return "F" if self.result.test.is_f else "t"

    @property
    def df(self) -> str:
        """Degrees of freedom, for reading."""
        if "dof" in self.maps:  # data are missing at some voxels, or groups differ in variance
            return "by voxel"
        return ", ".join(map(str, self.result.f_dfs or (self.result.df,)))

    @classmethod
    def of(cls, result: TestResult, grid: Grid) -> Tested:
        """A test about which nothing is known but its result."""
        maps, statistic = TestMaps.of(result), "F" if result.test.is_f else "t"
        name = result.test.label or result.test.name
        finding = find(name, statistic, maps.values[statistic], maps.corrected, grid, two_sided=result.two_sided)
        return cls(name, result, maps.values, maps.p, finding)


class Result(ABC):
    """What `gpuvox.randomise` and `gpuvox.voxelwise` return; printed, it says what was tested and what was found."""

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """Mask and voxel size."""

    @property
    @abstractmethod
    def tested(self) -> Sequence[Tested]:
        """The tests with their maps and findings, in the order in which they were given."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """What was analysed, in a line."""

    columns: Ints | None
    """The column of the data of each voxel of the grid, where they are in an order of their own."""

    def in_columns(self, values: Float32) -> Float32:
        """(V,) values in the order of the columns of the data, from the order of the grid."""
        return values if self.columns is None else values[np.argsort(self.columns)]

    def in_grid(self, values: Float32) -> Float32:
        """(V,) values in the order of the grid, from the order of the columns of the data."""
        return values if self.columns is None else values[self.columns]

    def test(self, name: str) -> Tested:
        """A test by its name, or by FSL's.

        Raises
        ------
        SettingError
            There is none of that name, or there are several; the message lists those that there are.
        """
        named = [each for each in self.tested if each.name == name]
        named = named or [each for each in self.tested if each.result.test.name == name]
        if len(named) == 1:
            return named[0]
        if named:
            ways = ", ".join(f"{each.result.test.name} ({each.name})" for each in named)
            raise NoSuchMapError(f"{len(named)} tests are called {name!r}: {ways}")
        there = ", ".join(repr(each.name) for each in self.tested)
        raise NoSuchMapError(f"there is no test {name!r}; there are {there}")

    def map(self, test: str, kind: str) -> Float32:
        """(V,) A map of a test by its kind, see `TestMaps`, in the order of the columns of the data.

        Raises
        ------
        SettingError
            There is no such test or map; the message lists those that there are.
        """
        maps = self.test(test).maps
        if kind not in maps:
            raise NoSuchMapError(f"the test {test!r} has no map {kind!r}; it has {', '.join(maps)}")
        return self.in_columns(maps[kind])

    def image(self, test: str, kind: str) -> Any:
        """A map of a test as a nibabel image, 0 outside the mask; see `map`."""
        return files.make_image(self.in_grid(self.map(test, kind)), self.grid)

    def correction(self, test: str, chosen: str = "") -> str:
        """The correction of p-values that is shown of a test: that of TFCE, of clusters, or the first there is.

        Raises
        ------
        SettingError
            The test has no such p-values.
        """
        there = [desc for desc in self.test(test).p if desc.endswith(CORRECTED)]
        if chosen and chosen not in there:
            raise NoSuchMapError(
                f"the test {test!r} has no p-values {chosen!r}; it has {', '.join(there) or 'none'}"
            )
        return chosen or next(iter(by_precedence(there)), "")

    def clusters(
        self,
        test: str,
        *,
        atlas: str | os.PathLike[str] | None = None,
        names: str | os.PathLike[str] | None = None,
        correction: str = "",
        **options: Any,
    ) -> pd.DataFrame:
        """The clusters of a test: extent, corrected p, peaks with their effects, and regions of an atlas.

        Parameters
        ----------
        test : str
        atlas : path, optional
            A label image on any grid, or an FSL atlas in XML.
        names : path, optional
            Names of its labels.
        correction : str
            ``"tfceFWE"``, ``"voxFWE"``, ``"clusterSizeFWE"`` …; see `correction`.
        **options
            ``p`` (0.05), ``extent`` (smallest cluster, in voxels), ``connectivity`` (26), ``subpeaks`` (3),
            ``distance`` (of peaks, 8 mm).

        Returns
        -------
        DataFrame
            A row for each peak; see `findings.clusters.to_table`.

        Raises
        ------
        InputError
            The test has no p-values, it is unknown where the voxels are, or the atlas cannot be read.
        """
        self._need_places()
        of_atlas = atlas_on(self.grid, atlas, names)
        return self._maps(test, correction).clusters(cluster_options(options), of_atlas)[1]

    def plot(self, test: str, *, correction: str = "", p: float = 0.05, underlay: Any = None) -> Any:
        """Slices through all clusters of a test: the statistic, opaque where the corrected p is below a level.

        Parameters
        ----------
        test : str
        correction : str
            See `clusters`.
        p : float
            The level.
        underlay : path or nibabel image, optional
            Anatomy, on the grid of the analysis.

        Returns
        -------
        matplotlib.figure.Figure
            ``figure.savefig("slices.png")`` writes it; notebooks show it.
        """
        from gpuvox.findings.pictures import slices_of

        self._need_places()
        tested, maps = self.test(test), self._maps(test, correction)
        anatomy = None if underlay is None else _underlay(underlay, self.grid)
        return slices_of(maps, tested.name, tested.statistic, p, anatomy)

    def report(self, out: str | os.PathLike[str] = "report.html", **options: Any) -> Path:
        """Write the report of the run: a page, and in a folder of its name tables and figures.

        Parameters
        ----------
        out : path
            The page.
        **options
            ``underlay``, ``atlas``, ``names``, ``correction``, and those of `clusters`; see ``gpuvox report --help``.

        Returns
        -------
        Path
            The page.
        """
        from gpuvox.findings.report import execute, options_of

        self._need_places()
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "run"
            self.save(root)
            options = {"data": self._held_images(), **options}
            return execute(root, out, options_of(**options), replace(Reporter.silent(), warn=files.notice))

    @abstractmethod
    def _held_images(self) -> dict[str, HeldImages]:
        """The data that were analysed, by set of images."""

    @abstractmethod
    def save(self, root: str | os.PathLike[str]) -> None:
        """Write the files of the command."""

    def _need_places(self) -> None:
        if self.grid.shape[1:] == (1, 1):
            raise InputError("it is not known where the voxels of this result are; give a mask to the analysis")

    def _maps(self, test: str, correction: str) -> TestedMaps:
        """The maps of a test, for its clusters and pictures."""
        from gpuvox.findings.tested import TestedMaps, are_shares

        tested, desc = self.test(test), self.correction(test, correction)
        if not desc:
            raise InputError(f"the test {test!r} has no corrected p-values, so that it has no clusters")
        effects = {EFFECTS[name]: values for name, values in tested.maps.items() if name in EFFECTS}
        n = tested.result.shuffler.n
        n = n if are_shares(tested.p[desc], n) else 0  # not false discovery rates, and approximations
        return TestedMaps(
            self.grid, tested.maps[tested.statistic], tested.p[desc], n, effects, tested.result.two_sided
        )

    def _lines(self) -> Iterator[str]:
        yield self.headline
        for each in self.tested:
            first, *rest = each.finding.lines()
            yield f"{each.name}{f': {each.meaning}' if each.meaning else ''}"
            yield f"  {first.removeprefix(f'{each.name}: ')}, df {each.df}"
            yield from rest

    def __repr__(self) -> str:
        return escaped("\n".join(self._lines()))

    def _repr_html_(self) -> str:
        """A card for notebooks."""
        cell = f'style="{STYLES["cell"]}"'
        heads = "".join(f"<th {cell}>{head}</th>" for head in ("Test", "Largest statistic", "What survives"))
        rows = "".join(
            f"<tr>{''.join(f'<td {cell}>{text}</td>' for text in _row(each))}</tr>" for each in self.tested
        )
        return (
            f'<div style="{STYLES["card"]}"><div>{_html(self.headline)}</div>'
            f'<table style="{STYLES["table"]}"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        )


def atlas_on(grid: Grid, atlas: files.Name | None, names: files.Name | None) -> Atlas | None:
    """An atlas on a grid, if one is given, with an `InputWarning` if it was resampled."""
    from gpuvox.findings.atlas import read_atlas

    if atlas is None:
        return None
    read = read_atlas(atlas, grid, names)
    if read.note:
        files.notice(read.note)
    return read


def cluster_options(options: Mapping[str, Any]) -> ClusterOptions:
    """`ClusterOptions` from arguments; `SettingError` for one that does not exist."""
    from gpuvox.findings.tested import ClusterOptions

    known = [each.name for each in fields(ClusterOptions)]
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        raise SettingError(f"unknown option {unknown!r}; there are {', '.join(known)}")
    return ClusterOptions(**options)


def _underlay(underlay: Any, grid: Grid) -> AnyArray:
    """(nx, ny, nz) Values of an image on a grid."""
    whole = replace(grid, mask=np.ones(grid.shape, dtype=bool))
    return whole.to_volume(one_map(underlay, whole, "the underlay"))


def _row(tested: Tested) -> tuple[str, str, str]:
    """The cells of a test in the card."""
    finding = tested.finding
    meaning = f"<br><small>{_html(tested.meaning)}</small>" if tested.meaning else ""
    largest = _html(f"{tested.statistic} {finding.largest}")
    survivals = [
        _html(f"{title(desc)}: {each.sentence(desc, tested.statistic)}")
        for desc, each in finding.survivals.items()
    ]
    effect = f"<br><small>{_html(str(finding.effect))}</small>" if finding.effect else ""
    return (
        f"<b>{_html(tested.name)}</b>{meaning}",
        f"{largest}<br><small>df {tested.df}, {several(tested.result.shuffler.n, 'permutation')}</small>{effect}",
        "<br>".join(survivals) or "no p-values were computed",
    )


def _html(text: str) -> str:
    return escape(escaped(text))
