"""A finished test → the files that randomise writes for it, under FSL's names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from gpuvox import __version__
from gpuvox.analysis import Inputs, Options, Test, TestResult
from gpuvox.estimates import parameter_estimates
from gpuvox.files import ImageHeader, Label, write_column, write_map, write_permutations
from gpuvox.grid import Grid
from gpuvox.tally import Maps

CORRECTED = ("vox", "clustere", "clusterm", "clustern", "tfce", "tfcen")
"""In the order in which ``--film`` lets one overwrite the other."""
NORMALISED = ("clusternorm", "tfcenorm")


@dataclass(frozen=True)
class Wanted:
    """Files beyond the statistics and the corrected maps."""

    raw: bool = False
    nulls: bool = False
    permutations: bool = False
    estimates: bool = False
    film: bool = False
    uncorrected: bool = True


@dataclass(eq=False)
class Writer:
    """Writes the maps of an analysis, and keeps account of what each file is.

    Attributes
    ----------
    root : str
        Output root, ``<root>_tstat1`` …
    grid : Grid
    header : ImageHeader, optional
        Header of the input, whose geometry the outputs take over.
    wanted : Wanted
    written : dict
        File name without folder → what it holds (scale, correction, contrast …).
    texts : list of str
        Names of text files that were written.
    """

    root: str
    grid: Grid
    header: ImageHeader | None
    wanted: Wanted
    written: dict[str, dict] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        """Names of all files that were written, those of data of pairs included."""
        pairs = [name.replace(".hdr", ".img") for name in self.written if name.endswith((".hdr", ".hdr.gz"))]
        return sorted([*self.written, *pairs, *self.texts])

    def name(self, stem: str) -> str:
        """File name of a statistic: ``<root>_<stem>``; ``--film`` has no underscore."""
        return f"{self.root}{'' if self.wanted.film else '_'}{stem}"

    def image(self, stem: str, values: NDArray, about: dict, label: Label | None = None) -> None:
        """Write one map and note what it is."""
        path = write_map(self.name(stem), values, self.grid, self.header, label=label or _label(about))
        self.written[path.name] = about

    def result(self, result: TestResult) -> None:
        """Write everything that was wanted of one test."""
        for stem, values, about, label in self._images(result):
            self.image(stem, values, about, label)
        if self.wanted.nulls:
            for stem, null in self._nulls(result):
                write_column(self._text(stem), null)
        if self.wanted.permutations and result.nulls:
            shuffles = result.shuffler.shuffles(0, result.shuffler.n)
            rows = shuffles if result.shuffler.flips else shuffles + 1
            write_permutations(self._text(f"perm_{result.test.name}"), rows)

    def _text(self, stem: str) -> str:
        """A text file that is about to be written."""
        path = self.name(stem) + ".txt"
        self.texts.append(os.path.basename(path))
        return path

    def _images(self, result: TestResult) -> Iterator[tuple[str, NDArray, dict, Label | None]]:
        test, film = result.test.name, self.wanted.film
        yield test, result.maps["stat"], self._about(result, "stat"), _intent(result)
        for kind in CORRECTED:
            if f"{kind}_corrp" in result.maps:
                stem = self._pstat(result) if film else f"{kind}_corrp_{test}"
                yield stem, result.maps[f"{kind}_corrp"], self._about(result, kind, "family-wise error"), None
            if f"{kind}_p" in result.maps:
                if film and kind == "vox":
                    yield self._zstat(result), *self._z(result)
                elif self.wanted.uncorrected:
                    yield f"{kind}_p_{test}", result.maps[f"{kind}_p"], self._about(result, kind, "none"), None
            if self.wanted.raw and kind in result.maps:
                yield f"{kind}_{test}", result.maps[kind], self._about(result, kind), None
        for kind in NORMALISED:
            for part in ("sum", "samp", "post"):
                if f"{kind}_{part}" in result.maps:
                    about = self._about(result, f"{kind}_{part}")
                    yield f"_{kind}_{test}{part}", result.maps[f"{kind}_{part}"], about, None

    def _nulls(self, result: TestResult) -> Iterator[tuple[str, NDArray]]:
        for kind in CORRECTED:
            if kind in result.nulls:
                stem = self._pstat(result) if self.wanted.film else f"{kind}_corrp_{result.test.name}"
                yield stem, result.nulls[kind]

    def _pstat(self, result: TestResult) -> str:
        return ("pfstat" if result.test.is_f else "pstat") + result.test.name[5:]

    def _zstat(self, result: TestResult) -> str:
        return ("zfstat" if result.test.is_f else "zstat") + result.test.name[5:]

    def _z(self, result: TestResult) -> tuple[NDArray, dict, Label]:
        """z of the uncorrected voxelwise value; 0 where that is 0 or 1."""
        p = result.maps["vox_p"].astype(np.float64)
        inside = (p > 0) & (p < 1)
        z = np.where(inside, ndtri(np.where(inside, p, 0.5)), 0.0)
        about = self._about(result, "vox", "none") | {"scale": "z"}
        return z, about, _label(about, "z score")

    def _about(self, result: TestResult, statistic: str, correction: str | None = None) -> dict:
        about: dict = {
            "test": result.test.name,
            "contrast_name": result.test.label,
            "contrast": result.test.contrast.tolist(),
            "statistic": ("F" if result.test.is_f else "t") if statistic in ("stat", "vox") else statistic,
            "tail": "one-sided, large values" if not result.test.is_f else "large values of F",
        }
        if correction is None:
            return about | {"scale": "statistic", "degrees_of_freedom": result.f_dfs or result.df}
        return about | {
            "scale": "1-p",
            "correction": correction,
            "permutations": result.shuffler.n,
            "smallest_possible_p": 1 / result.shuffler.n,
            "smallest_p": _smallest_p(result, f"{statistic}_{'p' if correction == 'none' else 'corrp'}"),
        }

    def estimates(self, inputs: Inputs, demean: bool) -> None:
        """Write the parameter estimates of the whole design (``--glm_output``, ``--film``)."""
        maps = parameter_estimates(inputs, demean)
        for name, values in maps.items():
            about = {"scale": "estimate", "statistic": name}
            if not self.wanted.film:
                self.image(f"glm_{name}", values if name != "sigmasqr" else values[0], about)
            elif name != "sigmasqr":
                for i, volume in enumerate(values, 1):
                    self.image(f"{name}{i}", volume, about)

    def permuted(self, test: str, index: int, maps: Maps) -> None:
        """Write the maps of one shuffle (``--permout``)."""
        for kind, values in maps.items():
            stem = f"{kind}_perm{index + 1:05d}_{test}"
            self.image(
                stem, values, {"scale": "statistic", "statistic": kind, "test": test, "permutation": index + 1}
            )


def expected_names(
    tests: Iterable[Test], options: Options, wanted: Wanted, *, permuted: bool = False
) -> tuple[list[str], list[str]]:
    """What follows the output root in the names of the files that a run will write.

    Parameters
    ----------
    tests : iterable of Test
    options : Options
    wanted : Wanted
    permuted : bool
        Whether the maps of every shuffle are written (``--permout``).

    Returns
    -------
    maps : list of str
        Of images, without their extension; of the maps of shuffles and of parameters with ``--film``, one each.
    texts : list of str
        Of other files.
    """
    gap = "" if wanted.film else "_"
    maps, texts = [], ["_randomise.json"]
    for test in tests:
        statistics = options.wanted(test)
        kinds = (*statistics.kinds, *statistics.normalised)
        maps += [gap + stem for stem in (test.name, *(_map_names(test, kinds, wanted) if kinds else ()))]
        if permuted:
            maps += [
                f"{gap}{kind}_perm{max(options.n_permutations, 1):05d}_{test.name}" for kind in statistics.kinds
            ]
        maps += [f"{gap}_{kind[:-1]}norm_{test.name}samp" for kind in statistics.normalised]
        if wanted.permutations and kinds:
            texts.append(f"{gap}perm_{test.name}.txt")
        if wanted.nulls:
            texts += [f"{gap}{kind}_corrp_{test.name}.txt" for kind in kinds if not wanted.film]
            texts += [f"p{'f' if test.is_f else ''}stat{test.name[5:]}.txt"] if wanted.film and kinds else []
    if wanted.estimates and not wanted.film:
        maps += ["_glm_pe", "_glm_cope", "_glm_varcope", "_glm_sigmasqr"]
    return maps, texts


def _map_names(test: Test, kinds: Iterable[str], wanted: Wanted) -> list[str]:
    names = []
    for kind in kinds:
        names += [] if wanted.film else [f"{kind}_corrp_{test.name}"]
        names += [f"{kind}_p_{test.name}"] if wanted.uncorrected and not (wanted.film and kind == "vox") else []
        names += [f"{kind}_{test.name}"] if wanted.raw and kind != "vox" else []
    letter = "f" if test.is_f else ""
    return names + [f"{part}{letter}stat{test.name[5:]}" for part in "pz" if wanted.film]


def _smallest_p(result: TestResult, name: str) -> float:
    """Smallest p of a map of 1 − p; stored in float32, it is a multiple of 1/N."""
    n = result.shuffler.n
    return round((1 - float(result.maps[name].max())) * n) / n


def _intent(result: TestResult) -> Label:
    """The statistic's own intent, with its degrees of freedom."""
    text = f"gpuvox {__version__} {result.test.name}"
    if result.f_dfs is not None:
        return Label(text, "f test", tuple(float(df) for df in result.f_dfs))
    return Label(text, "t test", (float(result.df),))


def _label(about: dict, intent: str = "none") -> Label:
    text = f"gpuvox {__version__} {_describe(about)}".encode()[:79]
    return Label(text.decode(errors="ignore"), intent)


def _describe(about: dict) -> str:
    """One line for a header."""
    parts = [about.get("test", ""), str(about["statistic"]), about["scale"]]
    if "correction" in about:
        parts += [f"correction {about['correction']}", f"N={about['permutations']}"]
    return " ".join(part for part in parts if part)
