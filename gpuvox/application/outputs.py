"""A finished test → the files that randomise writes for it, under FSL's names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuvox import __version__
from gpuvox.analysis import Inputs, Options, Test, TestResult
from gpuvox.estimates import parameter_estimates
from gpuvox.files import ImageHeader, Label, write_column, write_map, write_permutations
from gpuvox.findings.map_names import OF_MISSING
from gpuvox.grid import Grid
from gpuvox.signed_rows import signs_of, to_one
from gpuvox.statistics import StatisticInfo
from gpuvox.tally import ByStatistic
from gpuvox.types import AnyArray, Float64


@dataclass(frozen=True)
class OutputOptions:
    """Files beyond the statistics and the corrected maps."""

    raw: bool = False
    nulls: bool = False
    permutations: bool = False
    estimates: bool = False
    film: bool = False
    uncorrected: bool = True
    contrasts: bool = False
    """Of the estimates, those of contrasts and their variances (all, with `estimates`)."""


@dataclass(eq=False)
class Writer:
    """Writes the maps of an analysis, and keeps a record of each file.

    Attributes
    ----------
    root : str
        Output root: ``<root>_tstat1`` and so on.
    grid : Grid
    header : ImageHeader, optional
        Header of the input, whose geometry the outputs use.
    outputs : OutputOptions
    written : dict
        File name without folder → record of its content (scale, correction, contrast and so on).
    texts : list of str
        Names of text files that were written.
    approximated : dict of (V,) float64
        Approximate p of maps of 1 − p, by the names of the maps without the root.
    """

    root: str
    grid: Grid
    header: ImageHeader | None
    outputs: OutputOptions
    written: dict[str, dict] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    approximated: dict[str, Float64] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """Names of all files that were written, including the data files of pairs."""
        pairs = [name.replace(".hdr", ".img") for name in self.written if name.endswith((".hdr", ".hdr.gz"))]
        return sorted([*self.written, *pairs, *self.texts])

    def name(self, stem: str) -> str:
        """File name of a statistic: ``<root>_<stem>``; ``--film`` has no underscore."""
        return f"{self.root}{'' if self.outputs.film else '_'}{stem}"

    def image(self, stem: str, values: AnyArray, record: dict, label: Label | None = None) -> None:
        """Write a map and store its record."""
        path = write_map(self.name(stem), values, self.grid, self.header, label=label or _label(record))
        self.written[path.name] = record

    def result(self, result: TestResult) -> None:
        """Write all requested files of one test."""
        for stem, values, record, label in self._images(result):
            self.image(stem, values, record, label)
        self._keep_approximated(result)
        if self.outputs.nulls:
            for stem, null in self._nulls(result):
                write_column(self._text(stem), null)
        if self.outputs.permutations and result.nulls:
            shuffles = result.shuffler.shuffles(0, result.shuffler.n)
            rows = to_one(shuffles) if result.shuffler.permutes else signs_of(shuffles)
            write_permutations(self._text(f"perm_{result.test.name}"), rows)

    def _text(self, stem: str) -> str:
        """The name of a text file, which is added to `texts`."""
        path = self.name(stem) + ".txt"
        self.texts.append(os.path.basename(path))
        return path

    def _images(self, result: TestResult) -> Iterator[tuple[str, AnyArray, dict, Label | None]]:
        test = result.test.name
        yield test, result.maps["stat"], self._record(result, _letter(result.test)), _intent(result)
        for part in (part for part in OF_MISSING if part in result.maps):
            yield f"{part}_{test}", result.maps[part], self._record(result, part), None
        infos = _by_precedence(result)
        for info in infos:
            yield from self._images_of(info, result)
        for means in (info.local_means for info in infos if info.local_means):
            for part in ("sum", "samp", "post"):
                record = self._record(result, f"{means}_{part}")
                yield f"_{means}_{test}{part}", result.maps[f"{means}_{part}"], record, None

    def _images_of(
        self, info: StatisticInfo, result: TestResult
    ) -> Iterator[tuple[str, AnyArray, dict, Label | None]]:
        """The corrected values of one statistic, the uncorrected ones, and its own map."""
        name, maps = info.name, result.maps
        label = _letter(result.test) if info.is_image else name
        record = self._record(result, label, f"{name}_corrp", "family-wise error")
        yield self._corrected_stem(info, result.test), maps[f"{name}_corrp"], record, None
        yield from self._across(info, result)
        if f"{name}_p" in maps:
            record = self._record(result, label, f"{name}_p", "none")
            if self.outputs.film and info.is_image:
                yield _film_stem("z", result.test), *_z_of(maps[f"{name}_p"], record)
            elif self.outputs.uncorrected:
                yield f"{name}_p_{result.test.name}", maps[f"{name}_p"], record, None
        if self.outputs.raw and name in maps:
            yield f"{name}_{result.test.name}", maps[name], self._record(result, name), None

    def across(self, result: TestResult) -> None:
        """Write the p-values of a test that are corrected over several tests, see `joint`."""
        for info in result.statistics:
            for stem, values, record, label in self._across(info, result):
                self.image(stem, values, record, label)
        self._keep_approximated(result)

    def _keep_approximated(self, result: TestResult) -> None:
        self.approximated |= approximated_by_file(result)

    def _across(
        self, info: StatisticInfo, result: TestResult
    ) -> Iterator[tuple[str, AnyArray, dict, Label | None]]:
        key = f"{info.name}_acrossp"
        if key in result.maps:
            label = _letter(result.test) if info.is_image else info.name
            record = self._record(result, label, key, "family-wise error over all tests")
            yield f"{key}_{result.test.name}", result.maps[key], record, None

    def _nulls(self, result: TestResult) -> Iterator[tuple[str, AnyArray]]:
        for info in _by_precedence(result):
            yield self._corrected_stem(info, result.test), result.nulls[info.name]

    def _corrected_stem(self, info: StatisticInfo, test: Test) -> str:
        return _film_stem("p", test) if self.outputs.film else f"{info.name}_corrp_{test.name}"

    def _record(
        self, result: TestResult, statistic: str, values: str = "", correction: str | None = None
    ) -> dict[str, Any]:
        """The record of a map; `values` is the name of a map of 1 − p in the result."""
        shuffler = result.shuffler
        record: dict = {
            "test": result.test.name,
            "contrast_name": result.test.label,
            "contrast": result.test.contrast.tolist(),
            "statistic": statistic,
            "tail": _tail(result),
        }
        if correction is None:
            groups = {name: result.records[name] for name in ("variance_groups",) if name in result.records}
            return record | {"scale": "statistic", "degrees_of_freedom": result.f_dfs or result.df} | groups
        record |= {"scale": "1-p", "correction": correction, "permutations": shuffler.n}
        if result.tail is not None and result.is_approximate(values.split("_")[0]):
            record["approximation"] = result.tail.title
        else:
            record["smallest_possible_p"] = 1 / shuffler.n
        return record | {"smallest_p": _smallest_p(result, values)}

    def estimates(self, inputs: Inputs, demean: bool) -> None:
        """Write the parameter estimates of the whole design (``--glm_output``, ``--film``)."""
        maps = parameter_estimates(inputs, demean)
        everything = self.outputs.estimates or self.outputs.film
        for name in maps if everything else ("cope", "varcope"):
            values = maps[name]
            record = {"scale": "estimate", "statistic": name}
            if not self.outputs.film:
                self.image(f"glm_{name}", values if name != "sigmasqr" else values[0], record)
            elif name != "sigmasqr":
                for i, volume in enumerate(values, 1):
                    self.image(f"{name}{i}", volume, record)

    def permuted(self, test: str, index: int, maps: ByStatistic) -> None:
        """Write the maps of one permutation (``--permout``)."""
        for name, values in maps.items():
            record = {"scale": "statistic", "statistic": name, "test": test, "permutation": index + 1}
            self.image(f"{name}_perm{index + 1:05d}_{test}", values, record)


def expected_names(
    tests: Iterable[Test], options: Options, outputs: OutputOptions, *, permuted: bool = False
) -> tuple[list[str], list[str]]:
    """Suffixes, after the output root, of the names of the files that a run will write.

    Parameters
    ----------
    tests : iterable of Test
    options : Options
    outputs : OutputOptions
    permuted : bool
        Whether the maps of every permutation are written (``--permout``).

    Returns
    -------
    maps : list of str
        Suffixes of images without extension; only one for the maps of permutations, and for parameters with ``--film``.
    texts : list of str
        Suffixes of other files.
    """
    gap = "" if outputs.film else "_"
    maps, texts = [], ["_randomise.json"]
    for test in tests:
        statistics = options.statistics_for(test)
        infos = statistics.infos
        parts = OF_MISSING if options.missing_voxels else ("z", "dof") if options.variance_groups else ()
        maps += [f"{gap}{part}_{test.name}" for part in parts]
        maps += [gap + stem for stem in (test.name, *(_map_names(test, infos, outputs) if infos else ()))]
        if permuted:
            last = f"perm{max(options.n_permutations, 1):05d}_{test.name}"
            maps += [f"{gap}{name}_{last}" for name in statistics.kinds]
        maps += [f"{gap}_{info.local_means}_{test.name}samp" for info in infos if info.local_means]
        if outputs.permutations and infos:
            texts.append(f"{gap}perm_{test.name}.txt")
        if outputs.nulls and outputs.film and infos:
            texts.append(f"{_film_stem('p', test)}.txt")
        elif outputs.nulls:
            texts += [f"{gap}{info.name}_corrp_{test.name}.txt" for info in infos]
    if outputs.estimates and not outputs.film:
        maps += ["_glm_pe", "_glm_cope", "_glm_varcope", "_glm_sigmasqr"]
    elif outputs.contrasts and not outputs.film:
        maps += ["_glm_cope", "_glm_varcope"]
    return maps, texts


def _map_names(test: Test, infos: Iterable[StatisticInfo], outputs: OutputOptions) -> list[str]:
    names = []
    for info in infos:
        names += [] if outputs.film else [f"{info.name}_corrp_{test.name}"]
        is_z = outputs.film and info.is_image
        names += [f"{info.name}_p_{test.name}"] if outputs.uncorrected and not is_z else []
        names += [f"{info.name}_{test.name}"] if outputs.raw and not info.is_image else []
    return names + [_film_stem(part, test) for part in "pz" if outputs.film]


def _by_precedence(result: TestResult) -> list[StatisticInfo]:
    """The statistics of a test; with ``--film``, a later one overwrites the corrected values of those before."""
    return sorted(result.statistics, key=lambda info: info.precedence)


def _film_stem(part: str, test: Test) -> str:
    """``pstat1``, ``zfstat2``: names that ``--film`` gives."""
    return f"{part}{'f' if test.is_f else ''}stat{test.name[5:]}"


def _tail(result: TestResult) -> str:
    if result.test.is_f:
        return "large values of F"
    return "two-sided, large sizes of either sign" if result.two_sided else "one-sided, large values"


def _letter(test: Test) -> str:
    return "F" if test.is_f else "t"


def _z_of(values: AnyArray, record: dict) -> tuple[AnyArray, dict, Label]:
    """z of a map of uncorrected 1 − p; 0 where that is 0 or 1."""
    from scipy.special import ndtri

    p = values.astype(np.float64)
    inside = (p > 0) & (p < 1)
    z = np.where(inside, ndtri(np.where(inside, p, 0.5)), 0.0)
    record = record | {"scale": "z"}
    return z, record, _label(record, "z score")


def approximated_by_file(result: TestResult) -> dict[str, Float64]:
    """Approximate p (V,) of a test, by the names of the maps of 1 − p without the root: ``vox_corrp_tstat1``."""
    return {f"{name}_{result.test.name}": p for name, p in result.approximated.items()}


def _smallest_p(result: TestResult, name: str) -> float:
    """Smallest p of a map of 1 − p; stored in float32, it is a multiple of 1/N, unless it was approximated."""
    n = result.shuffler.n
    if name in result.approximated:
        return float(result.approximated[name].min())
    return round((1 - float(result.maps[name].max())) * n) / n


def _intent(result: TestResult) -> Label:
    """The NIfTI intent of the statistic, with its degrees of freedom, unless they differ between voxels."""
    text = f"gpuvox {__version__} {result.test.name}"
    if "dof" in result.maps:
        return Label.cut(text)
    if result.f_dfs is not None:
        return Label.cut(text, "f test", tuple(float(df) for df in result.f_dfs))
    return Label.cut(text, "t test", (float(result.df),))


def _label(record: dict, intent: str = "none") -> Label:
    return Label.cut(f"gpuvox {__version__} {_describe(record)}", intent)


def _describe(record: dict) -> str:
    """One line for a header."""
    about = "approximate" if "approximation" in record else ""
    parts = [record.get("test", ""), str(record["statistic"]), about, record["scale"]]
    if "correction" in record:
        parts += [f"correction {record['correction']}", f"N={record['permutations']}"]
    return " ".join(part for part in parts if part)
