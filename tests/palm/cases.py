"""PALM's cases: command, inputs, the permutations PALM used, what it wrote; and the naive answer to each."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import stats

from tests.palm import naive

FOLDER = Path(__file__).parents[1] / "data" / "palm"
TAKE_A_VALUE = {
    "-i", "-m", "-o", "-d", "-t", "-f", "-n", "-seed", "-C", "-Cstat", "-eb", "-vg", "-rmethod", "-pmethodr",
    "-tfce_H", "-tfce_E", "-tfce_C", "-tfce_dh", "-imiss",
}  # fmt: skip
TAKE_UP_TO_TWO = {"-accel", "-evperdat", "-fdr"}


@dataclass(frozen=True, eq=False)
class Contrast:
    """A test: its design and its contrasts (s, k); a t test has one row, an F test may too."""

    design: int
    number: int
    weights: np.ndarray
    is_t: bool


@dataclass(frozen=True)
class Command:
    """PALM's options, each with its values in the order of the command."""

    options: dict[str, list[list[str]]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Command:
        words = shlex.split(text)[1:]
        options: dict[str, list[list[str]]] = {}
        while words:
            option = words.pop(0)
            values: list[str] = []
            most = 1 if option in TAKE_A_VALUE else 2 if option in TAKE_UP_TO_TWO else 0
            while words and len(values) < most and not words[0].startswith("-"):
                values.append(words.pop(0))
            options.setdefault(option, []).append(values)
        return cls(options)

    def __contains__(self, option: str) -> bool:
        return option in self.options

    def all(self, option: str) -> list[str]:
        return [values[0] for values in self.options.get(option, [])]

    def one(self, option: str, default: str = "") -> str:
        return self.all(option)[0] if self.all(option) else default


def table(path: Path) -> np.ndarray:
    return np.loadtxt(path, delimiter=",", ndmin=2)


class Result(NamedTuple):
    """Everything of one test and modality: per unit ("vox", "tfce", ...) the observed values and the null (N, V)."""

    statistic: naive.Statistic
    second: np.ndarray
    nulls: dict[str, np.ndarray]
    shown: dict[str, np.ndarray]


class Case:
    """One folder of the reference."""

    def __init__(self, name: str) -> None:
        self.folder = FOLDER / name
        self.command = Command.parse((self.folder / "command.txt").read_text())
        self.is_table = self.command.one("-i").endswith(".csv")
        self.unit = "dat" if self.is_table else "vox"

    # ------------------------------------------------------------------------------------------------------- inputs

    @functools.cached_property
    def modalities(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Data (n, V) and mask of each input; constant voxels and voxels with NaN leave the mask."""
        masks = self.command.all("-m")
        inputs = []
        for number, name in enumerate(self.command.all("-i")):
            if self.is_table:
                Y = table(self.folder / name)
                inputs.append((Y, np.ones((Y.shape[1], 1, 1), bool)))
                continue
            image = np.asanyarray(nib.load(self.folder / name).dataobj).astype(float)
            mask = np.asanyarray(nib.load(self.folder / masks[min(number, len(masks) - 1)]).dataobj) != 0
            mask = mask & np.isfinite(image).all(axis=-1) & (np.ptp(image, axis=-1) > 0)
            inputs.append((image[mask].T, mask))
        return inputs

    @functools.cached_property
    def designs(self) -> list[np.ndarray]:
        return [table(self.folder / name) for name in self.command.all("-d")]

    @functools.cached_property
    def tests(self) -> list[Contrast]:
        tests = []
        f_files = self.command.all("-f")
        for design, name in enumerate(self.command.all("-t")):
            weights = table(self.folder / name)
            if "-fonly" not in self.command:
                tests += [Contrast(design, i + 1, row[None], True) for i, row in enumerate(weights)]
            if design < len(f_files):
                rows = table(self.folder / f_files[design]) != 0
                first = 1 if "-fonly" in self.command else len(weights) + 1
                tests += [Contrast(design, first + i, weights[row], False) for i, row in enumerate(rows)]
        return tests

    def suffix(self, test: Contrast) -> str:
        text = f"_d{test.design + 1}" if len(self.designs) > 1 else ""
        return text + (f"_c{test.number}" if any(other.number > 1 for other in self.tests) else "")

    def permutations(self, test: Contrast) -> np.ndarray:
        """The signed indices (N, n) that PALM used."""
        for suffix in (self.suffix(test), f"_c{test.number}", f"_d{test.design + 1}", ""):
            path = self.folder / f"palm{suffix}_permidx.csv"
            if path.exists():
                return table(path).astype(int)
        raise FileNotFoundError(test)

    # -------------------------------------------------------------------------------------------------- computation

    def pairs(self) -> Iterator[tuple[int, Contrast]]:
        for modality in range(len(self.modalities)):
            for test in self.tests:
                if "-designperinput" not in self.command or modality == test.design:
                    yield modality, test

    @functools.cached_property
    def variance_groups(self) -> np.ndarray | None:
        given = self.command.one("-vg")
        if not given:
            return None
        if given != "auto":
            return table(self.folder / given)[:, 0].astype(int)
        group = np.concatenate([self.permutations(test) for test in self.tests])
        return orbits(np.abs(group) - 1)

    def statistic(self, p: np.ndarray, Y: np.ndarray, M: np.ndarray, test: Contrast) -> naive.Statistic:
        method = self.command.one("-rmethod", "Freedman-Lane")
        model = naive.partition(M, test.weights, self.command.one("-pmethodr", "Beckmann"))
        groups = self.variance_groups
        if "-pearson" in self.command:
            return naive.correlation(p, Y, model, test.is_t)
        if groups is not None and len(set(groups)) > 1:
            return naive.v_or_g(p, Y, model, groups, test.is_t)
        df = len(M) - np.linalg.matrix_rank(np.hstack(model))
        return naive.t_or_f(p, Y, model, method, df, test.is_t)

    def statistics(self, p: np.ndarray, modality: int, test: Contrast) -> naive.Statistic:
        """The statistic in each voxel for one permutation, with voxelwise columns of the design where there are any."""
        Y, M = self.modalities[modality][0], self.designs[test.design]
        if "-demean" in self.command:
            Y, M = Y - Y.mean(axis=0), M - M.mean(axis=0)
            constant = ~M.any(axis=0)
            M, test = M[:, ~constant], replace(test, weights=test.weights[:, ~constant])
            model = naive.partition(M, test.weights)
            return naive.t_or_f(p, Y, model, "Freedman-Lane", len(M) - np.linalg.matrix_rank(M), test.is_t)
        if "-evperdat" in self.command:
            return self._voxelwise(p, Y, modality, test)
        if "-mcar" in self.command:
            rows = table(self.folder / self.command.one("-imiss"))[:, 0] == 0
            Y, M = Y[rows], M[rows]
            if np.linalg.matrix_rank(np.hstack([M, np.ones((len(M), 1))])) > np.linalg.matrix_rank(M):
                M = np.hstack([M, np.ones((len(M), 1))])
                test = replace(test, weights=np.hstack([test.weights, np.zeros((len(test.weights), 1))]))
            return self.statistic(np.arange(1, len(M) + 1), Y, M, test)
        return self.statistic(p, Y, M, test)

    def _voxelwise(self, p, Y, modality, test) -> naive.Statistic:
        models = self._voxelwise_models(modality, self.tests.index(test))
        return naive.voxelwise_t_or_f(p, Y, models, test.is_t)

    @functools.cache  # noqa: B019 - a case lives as long as its test
    def _voxelwise_models(self, modality: int, number: int) -> naive.Model:
        test = self.tests[number]
        M = self.designs[test.design]
        name, column = self.command.options["-evperdat"][0]
        values = np.asanyarray(nib.load(self.folder / name).dataobj)[self.modalities[modality][1]]
        added = int(column) - M.shape[1]
        wide = np.hstack([M, np.zeros((len(M), max(0, added)))])
        weights = np.hstack([test.weights, np.zeros((len(test.weights), max(0, added)))])
        models = []
        for voxel in values:
            wide[:, int(column) - 1] = voxel
            models.append(naive.partition(wide.copy(), weights))
        return naive.Model(*(np.array(parts) for parts in zip(*models, strict=True)))

    def spatial(self, z: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        command, maps = self.command, {}
        if "-T" in command:
            flat = "-tfce2D" in command
            options = {
                "H": float(command.one("-tfce_H", "2")),
                "E": float(command.one("-tfce_E", "1" if flat else "0.5")),
                "connectivity": int(command.one("-tfce_C", "26" if flat else "6")),
            }
            step = command.one("-tfce_dh")
            maps["tfce"] = naive.tfce(z, mask, step=float(step) if step else None, **options)
        if "-C" in command:
            mass = command.one("-Cstat") == "mass"
            unit = "clusterm" if mass else "clustere"
            maps[unit] = naive.clusters(z, mask, float(command.one("-C")), mass)
        return maps

    @functools.cached_property
    def results(self) -> dict[tuple[int, int], Result]:
        """By the number of the modality and of the test."""
        return {
            (modality, self.tests.index(test)): self._result(modality, test) for modality, test in self.pairs()
        }

    def _result(self, modality: int, test: Contrast) -> Result:
        mask = self.modalities[modality][1]
        nulls: dict[str, list[np.ndarray]] = {}
        permutations = self.permutations(test)
        if "-mcar" in self.command:
            permutations = permutations[:1]
        done = []
        for p in permutations:
            statistic = self.statistics(p, modality, test)
            z = np.abs(statistic.z) if "-twotail" in self.command else statistic.z
            for unit, values in {self.unit: z, **self.spatial(z, mask)}.items():
                nulls.setdefault(unit, []).append(values)
            done.append(statistic)
        arrays = {unit: np.array(rows) for unit, rows in nulls.items()}
        shown = {unit: rows[0] for unit, rows in arrays.items()}
        shown[self.unit] = done[0].z if self.shows_z else done[0].raw
        second = done[min(1, len(done) - 1)]
        return Result(done[0], second.z if self.shows_z else second.raw, arrays, shown)

    @property
    def shows_z(self) -> bool:
        """With a correction over contrasts of t and F, the maps are saved as z."""
        return "-corrcon" in self.command and len({test.is_t for test in self.tests}) > 1

    # ------------------------------------------------------------------------------------------------------ outputs

    def statistic_name(self, test: Contrast) -> str:
        if "-pearson" in self.command or self.command.one("-accel") == "noperm":
            name = "rstat" if test.is_t else "rsqstat"
        elif self.variance_groups is not None and len(set(self.variance_groups)) > 1:
            name = "vstat" if test.is_t else "gstat"
        else:
            name = "tstat" if test.is_t else "fstat"
        return ("z" if self.shows_z else "") + name


# Kinds of output: how closely ours must agree.
STATISTIC, P, APPROXIMATE = "statistic", "p", "approximate"


class Output(NamedTuple):
    values: np.ndarray
    kind: str
    mask: np.ndarray | None = None


class Outputs:
    """The files of a case by their names, computed naively."""

    def __init__(self, case: Case) -> None:
        self.case, self.command = case, case.command
        self.files: dict[str, Output] = {}
        self.uncorrected: dict[tuple[int, int, str], np.ndarray] = {}
        self.accelerated = self.command.options.get("-accel", [[""]])[0]
        if self.accelerated[0] == "noperm":
            for modality, test in case.pairs():
                self._without_permutations(modality, case.tests.index(test))
        else:
            for (modality, number), result in case.results.items():
                self._of_test(modality, number, result)
        self._false_discovery()
        self._over_tests()

    # -------------------------------------------------------------------------------------------------------- names

    def name(self, unit: str, modality: int, number: int, p: str = "", last: str = "") -> str:
        case = self.case
        test = case.tests[number]
        text = f"palm_{unit}_{case.statistic_name(test)}" + (f"_{p}" if p else "")
        text += f"_m{modality + 1}" if len(case.modalities) > 1 else ""
        return text + case.suffix(test) + last

    def add(self, name: str, values: np.ndarray, kind: str, modality: int | None = None) -> None:
        if modality is None or self.case.is_table:
            self.files[f"{name}.csv"] = Output(values, kind)
        else:
            self.files[f"{name}.nii.gz"] = Output(values, kind, self.case.modalities[modality][1])

    def add_p(self, name: str, p: np.ndarray, kind: str, modality: int) -> None:
        if "-save1-p" in self.command:
            p = 1 - p
        elif "-logp" in self.command:
            p = -np.log10(p)
        self.add(name, p, kind, modality)

    # ------------------------------------------------------------------------------------------------ a test by itself

    def _of_test(self, modality: int, number: int, result: Result) -> None:
        case = self.case
        for unit, null in result.nulls.items():
            self.add(self.name(unit, modality, number), result.shown[unit], STATISTIC, modality)
            self.add(self.name(unit, modality, number, "max"), null.max(axis=1), STATISTIC)
            kind, p = self._uncorrected(null)
            if not unit.startswith("cluster"):
                self.uncorrected[modality, number, unit] = p
                self.add_p(self.name(unit, modality, number, "uncp"), p, kind, modality)
            self.add_p(
                self.name(unit, modality, number, "fwep"), *self._corrected(null.max(axis=1), null[0]), modality
            )
        self.add(self.name(case.unit, modality, number, last="_perm000002"), result.second, STATISTIC, modality)
        z = result.statistic.z
        parametric = 2 * stats.norm.sf(np.abs(z)) if "-twotail" in self.command else stats.norm.sf(z)
        self.add_p(self.name(case.unit, modality, number, "uncparap"), parametric, STATISTIC, modality)
        if self._rate:
            rate = self._rate(stats.norm.sf(z))
            self.add_p(self.name(case.unit, modality, number, "fdrparap"), rate, STATISTIC, modality)
        base = self.name(case.unit, modality, number)
        df = result.statistic.df
        self.add(f"{base}_dof", df, STATISTIC, modality)
        self.files[f"{base}_dof.txt"] = Output(np.array([0, df[0]]), STATISTIC)
        self.files[f"{base}_meandof.txt"] = Output(np.array([0, df.mean()]), STATISTIC)

    def _without_permutations(self, modality: int, number: int) -> None:
        case, test = self.case, self.case.tests[number]
        model = naive.partition(case.designs[test.design], test.weights)
        Y = case.modalities[modality][0]
        values, p = naive.without_permutations(Y, model, test.is_t, "-twotail" in self.command)
        self.add(self.name("vox", modality, number), values, STATISTIC, modality)
        self.add_p(self.name("vox", modality, number, "uncp"), p, APPROXIMATE, modality)
        self.uncorrected[modality, number, "vox"] = p

    def _uncorrected(self, null: np.ndarray) -> tuple[str, np.ndarray]:
        method = self.accelerated[0]
        if method == "gamma":
            return APPROXIMATE, naive.gamma_tail(null, null[0])
        if method == "negbin":
            return P, naive.negative_binomial(null, null[0], int(([*self.accelerated, "2"])[1]))
        p = naive.at_least(null, null[0])
        if method == "tail":
            columns = [
                naive.pareto_tail(null[:, v], null[0, [v]], p[[v]]) if p[v] < 0.10 else p[[v]]
                for v in range(len(p))
            ]
            return APPROXIMATE, np.concatenate(columns)
        return P, p

    def _corrected(self, maxima: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, str]:
        method = self.accelerated[0]
        if method == "gamma":
            return naive.gamma_tail(maxima[:, None], observed), APPROXIMATE
        p = naive.at_least(maxima[:, None], observed)
        if method == "tail":
            return naive.pareto_tail(maxima, observed, p), APPROXIMATE
        return p, P

    # ------------------------------------------------------------------------------------------------- over the tests

    @property
    def _rate(self):
        values = self.command.options.get("-fdr")
        if values is None:
            return None
        return naive.bh if values[0][:1] == ["BH"] else naive.bky

    def families(self, over_tests: bool, over_modalities: bool) -> Iterator[list[tuple[int, int]]]:
        groups: dict[tuple, list[tuple[int, int]]] = {}
        for modality, test in self.case.pairs():
            number = self.case.tests.index(test)
            place = number if "-designperinput" not in self.command else 0
            key = (None if over_modalities else modality, None if over_tests else place)
            groups.setdefault(key, []).append((modality, number))
        yield from groups.values()

    def corrections(self) -> Iterator[tuple[str, bool, bool]]:
        if "-corrcon" in self.command:
            yield "c", True, False
        if "-corrmod" in self.command:
            yield "m", False, True
        if "-corrcon" in self.command and "-corrmod" in self.command:
            yield "mc", True, True

    def _over_tests(self) -> None:
        for prefix, tests, modalities in self.corrections():
            results = self.case.results
            for family in self.families(tests, modalities):
                for unit in results[family[0]].nulls:
                    maxima = np.max([results[pair].nulls[unit].max(axis=1) for pair in family], axis=0)
                    for pair in family:
                        name = self.name(unit, *pair, f"{prefix}fwep")
                        self.add_p(name, *self._corrected(maxima, results[pair].nulls[unit][0]), pair[0])

    def _false_discovery(self) -> None:
        if self._rate is None:
            return
        for prefix, tests, modalities in [("", False, False), *self.corrections()]:
            for family in self.families(tests, modalities):
                for unit in {unit for _, _, unit in self.uncorrected}:
                    pooled = np.concatenate([self.uncorrected[(*pair, unit)] for pair in family])
                    parts = np.split(
                        self._rate(pooled),
                        np.cumsum([len(self.uncorrected[(*pair, unit)]) for pair in family])[:-1],
                    )
                    kind = APPROXIMATE if self.accelerated[0] in ("tail", "gamma", "noperm") else P
                    for pair, rate in zip(family, parts, strict=True):
                        self.add_p(self.name(unit, *pair, f"{prefix}fdrp"), rate, kind, pair[0])


def orbits(group: np.ndarray) -> np.ndarray:
    """A label per position: positions that a permutation exchanges share it."""
    labels = np.arange(group.shape[1])
    for p in group:
        for i, j in enumerate(p):
            labels[labels == labels[j]] = labels[i]
    return np.unique(labels, return_inverse=True)[1]


def written(path: Path, mask: np.ndarray | None) -> np.ndarray:
    """What a file of PALM holds: a table, or an image inside of a mask."""
    if mask is None:
        return np.loadtxt(path, delimiter=",").ravel()
    return np.asanyarray(nib.load(path).dataobj).reshape(mask.shape)[mask]
