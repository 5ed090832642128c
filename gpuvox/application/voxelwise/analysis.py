"""A voxelwise analysis: its rows, images, model and tests, and the runs of randomise that it consists of."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from keyword import iskeyword
from typing import Any, Literal

import numpy as np
from scipy import stats

from gpuvox.analysis import variance_groups_of
from gpuvox.application.command import RunDescription
from gpuvox.cohort.exchangeability import Columns, Exchangeability, find_blocks
from gpuvox.cohort.formula import Model, build_model, columns_of_formula
from gpuvox.cohort.hypotheses import Hypothesis, read_hypotheses
from gpuvox.cohort.images import CohortImages, find_images
from gpuvox.cohort.in_memory import is_in_memory, join_in_memory
from gpuvox.cohort.longitudinal import Longitudinal, summarise
from gpuvox.cohort.table import ID, Cohort, Excluded, as_cohort, complete, listed, new_column
from gpuvox.errors import DesignError, FileError
from gpuvox.grid import Grid
from gpuvox.movement import extent
from gpuvox.names import Names
from gpuvox.partitioning import orthonormal_basis
from gpuvox.plain import several
from gpuvox.prepared import Inputs, Options, joint_labels, list_tests, make_shuffler
from gpuvox.reporter import Reporter
from gpuvox.tables.conditions import select
from gpuvox.types import Float64, Ints
from gpuvox.variance_groups import AUTOMATIC, check_groups


@dataclass(frozen=True)
class ClusterThreshold:
    """A cluster-forming threshold for t and F, as a t, a z or an (uncorrected, one-sided) p."""

    value: float
    scale: Literal["z", "p"]
    mass: bool = False

    @property
    def z(self) -> float:
        """The z that it is."""
        return self.value if self.scale == "z" else float(stats.norm.isf(self.value))

    def of(self, df: int, df_effect: int = 0) -> float:
        """The t or, with the degrees of freedom of an effect, the F that it is."""
        p = self.value if self.scale == "p" else float(stats.norm.sf(self.value))
        return float(stats.f.isf(p, df_effect, df) if df_effect else stats.t.isf(p, df))


@dataclass(frozen=True)
class VoxelwiseDescription:
    """The description of a voxelwise analysis, as a front door fills it.

    Attributes
    ----------
    table : path or DataFrame
        Participants, a row for each image.
    images : str, sequence of paths, or images in memory
        A template, a column of the table, or a 4D image; see `cohort.images`. Or a path for each row of the table; or
        see `cohort.in_memory`. Or several of them: a dict of them by name.
    covariates : dict of str to images
        Voxelwise covariates by the name that they have in the model: the same as `images` for each.
    longitudinal : Longitudinal, optional
        How the rows of a subject are summarised in one image; None if rows are analysed as they are.
    model : str
        A formula; see `cohort.formula`. Empty for one sample.
    tests : tuple of str
        See `cohort.hypotheses`.
    subset : str
        Rows that count, as a condition; see `tables.conditions`.
    missing : str
        What is done with rows that lack an image or a value: ``refuse`` or ``drop``; with ``voxelwise`` they are
        refused, too, but images may be NaN at voxels where a row has no data.
    columns : Columns
        What may be exchanged.
    variance_groups : tuple of str
        Columns whose values, or combinations of values, may differ in variance; or ``auto`` alone, for the groups of
        rows that permutations can exchange.
    fdr : str
        By which of `pvalues.FALSE_DISCOVERY_RATES` p-values of voxels are corrected, too; empty: by none.
    across_tests : bool
        Whether p-values are corrected over all tests and sets of images, too.
    thresholds : tuple of ClusterThreshold
        Cluster-forming thresholds whose t depends on the degrees of freedom.
    run : RunDescription
        All that a run of randomise is told besides: mask, statistics, permutations, device.
    """

    table: Any
    images: Any
    model: str = ""
    tests: tuple[str, ...] = ()
    subset: str = ""
    missing: str = "refuse"
    columns: Columns = field(default_factory=Columns)
    variance_groups: tuple[str, ...] = ()
    covariates: Mapping[str, Any] = field(default_factory=dict)
    longitudinal: Longitudinal | None = None
    fdr: str = ""
    across_tests: bool = False
    thresholds: tuple[ClusterThreshold, ...] = ()
    run: RunDescription = field(default_factory=lambda: RunDescription("", ""))


@dataclass(frozen=True, eq=False)
class Run:
    """Tests that one run of randomise makes: t tests, F tests, or tests of means by flips of signs.

    Attributes
    ----------
    name : str
        Of its files: ``t``, ``f``, ``mean``; with several sets of images ``ic00_t``.
    hypotheses : tuple of Hypothesis
    contrasts : (k, p) float64
    f_tests : (f, k) float64
        No rows but in a run of F tests.
    names : Names
    options : Options
    fdr : str
        See `VoxelwiseDescription`.
    images : str
        The set of images that is tested; empty if there is one.
    labels : (n, tests) float64 or None
        Rows that are equal in it are interchangeable in all tests of the analysis, which are corrected together.
    """

    name: str
    hypotheses: tuple[Hypothesis, ...]
    contrasts: Float64
    f_tests: Float64
    names: Names
    options: Options
    fdr: str = ""
    images: str = ""
    labels: Float64 | None = None

    @property
    def tests(self) -> list[tuple[str, Hypothesis]]:
        """FSL's name of each test, and what it is."""
        kind = "fstat" if len(self.f_tests) else "tstat"
        return [(f"{kind}{i}", each) for i, each in enumerate(self.hypotheses, start=1)]


@dataclass(frozen=True, eq=False)
class VoxelwiseAnalysis:
    """A voxelwise analysis whose small files have been read and checked.

    Attributes
    ----------
    cohort : Cohort
        The rows that are analysed, in the order of the design.
    sets : dict of str to CohortImages
        By name, the images of all rows of the table; one set is without a name.
    rows : tuple of int
        The row of the table (after `subset`) of each.
    total : int
        Rows that fit `subset`, before any were dropped.
    of_table : int
        Rows of the table.
    subset : str
        The condition by which rows were selected; empty if none.
    dropped : Excluded
    model : Model
    hypotheses : tuple of Hypothesis
        The tests of each set of images.
    exchangeability : Exchangeability
    runs : tuple of Run
    across_tests : bool
        p-values are corrected over all tests, too.
    covariates : dict of str to CohortImages
        By name, the images of voxelwise covariates.
    longitudinal : Longitudinal or None
        How images of several visits are summarised; the rows are then subjects.
    """

    cohort: Cohort
    sets: Mapping[str, CohortImages]
    rows: tuple[int, ...]
    total: int
    dropped: Excluded
    model: Model
    hypotheses: tuple[Hypothesis, ...]
    exchangeability: Exchangeability
    runs: tuple[Run, ...]
    across_tests: bool = False
    covariates: Mapping[str, CohortImages] = field(default_factory=dict)
    longitudinal: Longitudinal | None = None
    of_table: int = 0
    subset: str = ""

    @property
    def sources(self) -> dict[str, CohortImages]:
        """Everything that is read: the sets of images, and voxelwise covariates."""
        return {**self.sets, **self.covariates}

    @property
    def exchanged(self) -> str:
        """What is permuted, or whose signs are flipped, in words."""
        options = [run.options for run in self.runs]
        return self.exchangeability.exchanged([each.flip for each in options], options[0].permute_and_flip)

    @property
    def images(self) -> CohortImages:
        """The first set of images."""
        return next(iter(self.sets.values()))

    def inputs(self, run: Run) -> Inputs:
        """The inputs of a run, without data."""
        return _inputs(run, self.model, self.exchangeability)

    def group_sizes(self, hypothesis: Hypothesis) -> tuple[int, ...]:
        """Rows of the sample that is tested or of the two groups that are compared.

        Empty for other tests, and if participants have several rows: differences within participants have no Cohen's d
        of two groups. Empty where data may be missing at some voxels, as the sizes then differ, and with variance
        groups, which have no common standard deviation.
        """
        if self.missing_voxels or self.variance_groups is not None or self.cohort.text[ID].duplicated().any():
            return ()
        sizes = []
        for levels in hypothesis.groups:
            inside = np.ones(len(self.cohort), dtype=bool)
            for factor, level in levels.items():
                inside &= np.array([value == level for value in self.cohort.categories(factor)[0]])
            sizes.append(int(inside.sum()))
        return tuple(sizes) if all(sizes) else ()

    @property
    def missing_voxels(self) -> bool:
        """Whether data may be missing at some voxels."""
        return self.runs[0].options.missing_voxels

    @cached_property
    def variance_groups(self) -> Ints | None:
        """(n,) The variance group of each row, from 0; None if all have the same variance."""
        run = self.runs[0]
        return variance_groups_of(self.inputs(run), run.options) if run.options.variance_groups else None

    def lines(self) -> list[str]:
        """The lines that report the analysis before it is run."""
        found = [f"{several(len(self.cohort), 'row')} of {self.of_table} of {self.cohort.origin} are analysed"]
        if self.longitudinal is not None:
            subjects = several(len(self.cohort), "subject")
            found = [
                f"{subjects} of the {several(self.of_table, 'row')} of {self.cohort.origin} are analysed, of each "
                f"{self.longitudinal.title}; values of the model are those of its first visit"
            ]
        if self.subset:
            found += [f"{several(self.total, 'row')} of {self.of_table} selected: {self.subset}"]
        found += self.dropped.lines(self.total)
        found += [f"model: {self.model.formula}, {several(len(self.model.names), 'column')}"]
        found += [f"  {note}" for note in self.model.notes]
        if len(self.sets) > 1:
            found += [f"images: {listed(list(self.sets))}; each is tested"]
        first = next(iter(self.sets))
        for run in (run for run in self.runs if run.images == first):
            sides = "two-sided" if run.options.statistics.two_sided else "one-sided"
            for hypothesis, counted in zip(run.hypotheses, self.permutations(run)):
                degrees = f"{several(len(hypothesis.weights), 'degree')} of freedom"
                kind = f"F, {degrees}" if hypothesis.is_f else f"t, {sides}"
                found += [f"test {hypothesis.own_name!r} ({kind}): {hypothesis.sentence}"]
                found += [f"  {row}" for row in hypothesis.rows(self.model.names)]
                found += [f"  {counted}"]
        found += [f"exchangeability: {self.exchanged}"]
        if self.missing_voxels:
            found += [
                "missing data: a row leaves the model at voxels where its image is NaN; what is tested is z, the "
                "normal score of t or F by the degrees of freedom of the voxel"
            ]
        if self.variance_groups is not None:
            sizes = np.bincount(self.variance_groups)
            found += [
                f"variances: {several(len(sizes), 'group')} of {sizes.min()} to {sizes.max()} rows; what is tested "
                "is z, the normal score of v or G by their degrees of freedom at the voxel"
            ]
        if self.across_tests:
            found += [
                f"p-values are corrected over {several(len(self.hypotheses), 'test')}, too, which have the same "
                "permutations"
            ]
        return found

    def permutations(self, run: Run) -> list[str]:
        """How many permutations each test of a run has, and how many of them are done."""
        inputs, options = self.inputs(run), run.options
        found = []
        for test in list_tests(inputs, options):
            shuffler = make_shuffler(inputs, options, test)
            found.append(extent(shuffler))
        return found


def prepare_analysis(description: VoxelwiseDescription, reporter: Reporter) -> VoxelwiseAnalysis:
    """Read and check everything but the voxels of the images.

    Raises
    ------
    FileError, DesignError
        One sentence that says what is wrong.
    """
    _check_missing(description)
    whole = as_cohort(description.table)
    cohort, sets, covariates = _joined(whole, description, reporter)
    formula = with_pairs(description, cohort)
    needed = [*(columns_of_formula(formula, cohort) if formula else []), *description.columns.names]
    if description.variance_groups != (AUTOMATIC,):
        cohort.require(description.variance_groups)
        needed += description.variance_groups
    lacking, total, earlier = _lacking_images({**sets, **covariates}), len(cohort), Excluded()
    if description.longitudinal is not None:
        kept, earlier = complete(cohort, lacking, description.missing)
        subjects = summarise(description.longitudinal, cohort, kept, needed)
        cohort, lacking = subjects.cohort, {number: [why] for number, why in subjects.missing.items()}
        sets, covariates = (
            {name: replace(images, weights=subjects.weights) for name, images in each.items()}
            for each in (sets, covariates)
        )
    for row, names in cohort.missing(needed).items():
        lacking.setdefault(row, []).extend(f"no {name}" for name in names)
    kept, dropped = complete(cohort, lacking, description.missing)
    rows = next(iter(sets.values())).ordered(kept)
    analysed, dropped = cohort.at(rows), earlier.joined(dropped)
    modelled = model_rows(description, formula, analysed, list(sets))
    for warning in (*modelled.model.warnings, *modelled.exchangeability.warnings):
        reporter.warn(warning)
    analysis = VoxelwiseAnalysis(
        analysed, sets, tuple(rows), total, dropped, modelled.model, modelled.hypotheses, modelled.exchangeability,
        modelled.runs, description.across_tests, covariates, description.longitudinal, len(whole), description.subset,
    )  # fmt: skip
    if description.across_tests:
        analysis = _across_tests(analysis)
    check_moves(modelled)
    return analysis


@dataclass(frozen=True, eq=False)
class ModelledRows:
    """What is tested of the rows of a table, and how.

    Attributes
    ----------
    model : Model
    hypotheses : tuple of Hypothesis
    exchangeability : Exchangeability
    runs : tuple of Run
    """

    model: Model
    hypotheses: tuple[Hypothesis, ...]
    exchangeability: Exchangeability
    runs: tuple[Run, ...]


def model_rows(
    description: VoxelwiseDescription, formula: str, cohort: Cohort, sets: Sequence[str] = ("",)
) -> ModelledRows:
    """The model and the tests of rows none of which lacks a value.

    Parameters
    ----------
    description : VoxelwiseDescription
        Its tests, columns and options count; its images and table do not.
    formula : str
        See `with_pairs`.
    cohort : Cohort
    sets : sequence of str
        Names of the sets of images.

    Raises
    ------
    FileError, DesignError
        One sentence that says what is wrong.
    """
    _check_independent(cohort, description.columns)
    exchangeability = find_blocks(description.columns, cohort)
    model = build_model(formula or "1", cohort)
    _check_df(model)
    tests = read_hypotheses(description.tests, model, description.run.options.statistics.two_sided)
    if description.longitudinal is not None:
        what = f"; each image is {description.longitudinal.title}"
        tests = [replace(each, sentence=each.sentence + what) for each in tests]
    hypotheses = tuple(each.of_images(name) for name in sets for each in tests)
    _check_signs(hypotheses, description.run.options, cohort, exchangeability)
    _check_level(hypotheses, model)
    runs = _runs(hypotheses, model, exchangeability, description, _variance_groups(description, cohort))
    _check_variance_groups(runs[0], model, exchangeability)
    return ModelledRows(model, hypotheses, exchangeability, runs)


def _variance_groups(description: VoxelwiseDescription, cohort: Cohort) -> tuple[int, ...] | str:
    """The variance group of each row, from 0."""
    names = description.variance_groups
    if not names or names == (AUTOMATIC,):
        return AUTOMATIC if names else ()
    keys = list(zip(*(cohort.categories(name)[0] for name in names)))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return tuple(numbers[key] for key in keys)


def _check_variance_groups(run: Run, model: Model, exchangeability: Exchangeability) -> None:
    """Raise `DesignError` for a variance group whose rows the model fits exactly."""
    if run.options.variance_groups:
        groups = variance_groups_of(_inputs(run, model, exchangeability), run.options)
        check_groups(orthonormal_basis(model.matrix), groups)


def check_moves(modelled: ModelledRows) -> None:
    """Raise `DesignError` for a test whose effect no permutation changes."""
    for run in modelled.runs:
        _check_moves(run, modelled.model, modelled.exchangeability)


def _check_missing(description: VoxelwiseDescription) -> None:
    """Raise `DesignError` for a way of handling missing data that there is not, or that does not fit the rest."""
    if description.missing not in ("refuse", "drop", "voxelwise"):
        raise DesignError(
            f"missing is {description.missing!r}; expected refuse, drop or voxelwise", option="--missing"
        )
    if description.missing != "voxelwise":
        return
    unfit = {
        "--voxelwise-covariate": bool(description.covariates),
        "--longitudinal": description.longitudinal is not None,
    }
    for option, is_given in unfit.items():
        if is_given:
            raise DesignError(
                f"--missing voxelwise cannot be combined with {option}: expected images without NaN, or no {option}",
                option="--missing",
            )


def _check_df(model: Model) -> None:
    if model.df < 1:
        raise DesignError(
            f"the model has as many independent columns as there are rows ({len(model.matrix)}), so no "
            "degrees of freedom are left",
            option="--model",
        )


def _joined(
    whole: Cohort, description: VoxelwiseDescription, reporter: Reporter
) -> tuple[Cohort, dict[str, CohortImages], dict[str, CohortImages]]:
    """The selected rows of the table; the images of each set, and those of each voxelwise covariate."""
    rows, images = _selected(whole, description.subset), description.images
    sets = images if isinstance(images, Mapping) else {"": images}
    if not sets:
        raise FileError("there are no images", option="--images")
    for name in sets:
        _check_set(name, sets)
    for name, source in description.covariates.items():
        _check_covariate(name, source, whole, sets)
    text, joined = whole, {}
    for name, source in {**sets, **description.covariates}.items():
        if is_in_memory(source):
            joined[name] = join_in_memory(source, whole, reporter).at(rows)
            continue
        text, column = _with_images(text, source, name)
        joined[name] = find_images(column, text.at(rows), reporter)
    cohort = replace(text.at(rows), voxelwise=tuple(description.covariates))
    return cohort, {name: joined[name] for name in sets}, {name: joined[name] for name in description.covariates}


def _check_covariate(name: str, source: Any, whole: Cohort, sets: Mapping[str, Any]) -> None:
    """Raise `FileError` for a voxelwise covariate whose name stands for something else."""
    option = "--voxelwise-covariate"
    if not name.isidentifier() or iskeyword(name):
        raise FileError(
            f"{name!r} cannot name a voxelwise covariate; a word is expected, such as gm", option=option
        )
    taken = "a set of images" if name in sets else f"a column of {whole.origin}" * (name in whole.text.columns)
    if taken and not (isinstance(source, str) and source == name):
        raise FileError(
            f"the voxelwise covariate {name} has the name of {taken}; call it otherwise", option=option
        )


def _check_level(hypotheses: Sequence[Hypothesis], model: Model) -> None:
    """Raise `DesignError` for the mean of a model with voxelwise covariates, which are not centred."""
    mean = next((each for each in hypotheses if each.is_mean), None)
    if mean is not None and model.voxelwise:
        names = listed(list(model.voxelwise.values()))
        raise DesignError(
            f"the test {mean.text!r} tests a mean, which would be that where the voxelwise covariate {names} is 0; "
            "test differences or slopes",
            option="--test",
        )


def _check_set(name: str, sources: Mapping[str, Any]) -> None:
    if (name or len(sources) > 1) and not re.fullmatch(r"[A-Za-z0-9]+", name):
        raise FileError(
            f"{name!r} cannot name a set of images, since it becomes part of file names; letters and digits are "
            "expected",
            option="--images",
        )


def check_one_mask(analysis: VoxelwiseAnalysis, mask: Any) -> None:
    """Raise `DesignError` for several sets of images without a mask, whose voxels would differ."""
    if mask is None and len(analysis.sets) > 1:
        raise DesignError(
            "several sets of images need a mask, so that all are tested at the same voxels", option="--mask"
        )


def _lacking_images(sets: Mapping[str, CohortImages]) -> dict[int, list[str]]:
    """Rows that lack an image, and why."""
    lacking: dict[int, list[str]] = {}
    for name, images in sets.items():
        for row, why in images.missing.items():
            lacking.setdefault(row, []).append(f"{name}: {why}" if name else why)
    return lacking


def _with_images(cohort: Cohort, images: str | Sequence[Any], name: str = "") -> tuple[Cohort, str]:
    """The table, with a column of paths if a list of them is given; and what names the images."""
    if isinstance(images, str):
        return cohort, images
    if len(images) != len(cohort):
        raise FileError(
            f"there are {several(len(images), 'image')}, and {several(len(cohort), 'row')} in {cohort.origin}; a list "
            "of images has one for each row"
        )
    column = new_column(cohort.text, name or "image")
    text = cohort.text.assign(**{column: ["n/a" if each is None else os.path.abspath(each) for each in images]})
    text.attrs = dict(cohort.text.attrs)
    return replace(cohort, text=text), column


def _selected(cohort: Cohort, condition: str) -> list[int]:
    """Rows that fit a condition."""
    if not condition:
        return list(range(len(cohort)))
    rows: list[int] = np.flatnonzero(select(cohort.table, condition)).tolist()
    if not rows:
        raise FileError(f"no row of {cohort.origin} fits --subset {condition!r}", option="--subset")
    return rows


def with_pairs(description: VoxelwiseDescription, cohort: Cohort) -> str:
    """The formula, with a mean for each subject of paired tests."""
    formula, paired = description.model.strip(), description.columns.paired
    if not paired:
        return formula
    if description.longitudinal is not None:
        raise DesignError(
            f"--longitudinal makes one image of each {description.longitudinal.subject}, so --paired {paired} has no "
            "rows to permute; one of the two is expected",
            option="--paired",
        )
    cohort.require([paired])
    if formula and paired in columns_of_formula(formula, cohort):
        return formula
    if not formula:
        raise DesignError(
            f"--paired {paired} needs a model of what differs within {paired}, such as --model session",
            option="--model",
        )
    name = paired if paired.isidentifier() else f"`{paired}`"
    return f"{formula} + {f'C({name})' if cohort.is_number(paired) else name}"


def _check_independent(cohort: Cohort, columns: Columns) -> None:
    """Raise `DesignError` if participants have several rows and nothing defines their exchangeability."""
    twice = cohort.text[ID].duplicated()
    if twice.any() and not columns.names:
        first = cohort.ids[int(np.flatnonzero(twice.to_numpy())[0])]
        raise DesignError(
            f"{first} has several rows, which are not independent: use --paired or --whole participant_id, "
            "or select one row of each participant with --subset",
            option="--paired",
        )


def _check_signs(
    hypotheses: Sequence[Hypothesis], options: Options, cohort: Cohort, exchangeability: Exchangeability
) -> None:
    """The signs of rows are flipped one by one, unless they belong to a block that is exchanged as a whole."""
    if exchangeability.whole or not cohort.text[ID].duplicated().any():
        return
    mean = next((each for each in hypotheses if each.is_mean), None)
    if options.flip:
        raise DesignError(
            f"--ise flips the sign of each row by itself, and the rows of a participant are not independent; flip "
            f"their signs together with --whole {ID}, or omit --ise",
            option="--ise",
        )
    if mean is not None:
        raise DesignError(
            f"the test {mean.text!r} tests a mean, for which the rows of a participant are not independent; select one "
            f"row of each with --subset, or flip their signs together with --whole {ID}",
            option="--test",
        )


# -- runs -----------------------------------------------------------------------------------------------------------


def _runs(
    hypotheses: Sequence[Hypothesis],
    model: Model,
    exchangeability: Exchangeability,
    description: VoxelwiseDescription,
    variance_groups: tuple[int, ...] | str,
) -> tuple[Run, ...]:
    """The tests of each set of images by how they are made."""
    options = replace(
        description.run.options,
        whole_blocks=exchangeability.whole and not exchangeability.multi_level,
        joint_steps=description.across_tests,
        missing_voxels=description.missing == "voxelwise",
        variance_groups=variance_groups,
    )
    if description.fdr:
        of_t, of_f = (replace(each, uncorrected=True) for each in (options.statistics, options.f_statistics))
        options = replace(options, statistics=of_t, f_statistics=of_f)
    found = []
    for name in dict.fromkeys(each.images for each in hypotheses):
        chosen = [each for each in hypotheses if each.images == name]
        for run in _runs_of(chosen, model, options, description.thresholds):
            full = f"{name}_{run.name}" if name else run.name
            found.append(replace(run, name=full, fdr=description.fdr, images=name))
    return tuple(found)


def _runs_of(
    hypotheses: Sequence[Hypothesis], model: Model, options: Options, thresholds: Sequence[ClusterThreshold]
) -> list[Run]:
    """The runs of one set; F tests of different numerators apart if the threshold of clusters depends on it."""
    differences = [each for each in hypotheses if not each.is_f and not each.is_mean]
    of_mean = [each for each in hypotheses if each.is_mean]
    found = []
    if differences:
        found.append(_t_run("t", differences, model, _with_thresholds(options, thresholds, model.df)))
    if of_mean:
        flipped = replace(_with_thresholds(options, thresholds, model.df), flip=True)
        found.append(_t_run("mean", of_mean, model, flipped))
    f_tests = [each for each in hypotheses if each.is_f]
    sizes = sorted({len(each.weights) for each in f_tests}) if thresholds else [0]
    for size in sizes if f_tests else []:
        chosen = [each for each in f_tests if not size or len(each.weights) == size]
        with_f = replace(options, f_only=True)
        name = "f" if len(sizes) == 1 else f"f{size}"
        found.append(_f_run(name, chosen, model, _with_thresholds(with_f, thresholds, model.df, size)))
    return found


def _across_tests(analysis: VoxelwiseAnalysis) -> VoxelwiseAnalysis:
    """The analysis with the same permutations for all tests.

    Raises
    ------
    DesignError
        The tests have no common scale, or cannot have the same permutations.
    """
    run = analysis.runs[0]
    _check_common_scale(analysis.hypotheses, all(each.options.flip for each in analysis.runs))
    if run.options.detect_null:
        raise DesignError(
            "--detectNull keeps other rows in place in each test, and --across-tests needs the same permutations of "
            "all tests; leave one of the two options out",
            option="--across-tests",
        )
    inputs = analysis.inputs(run)
    labels = joint_labels(inputs, list_tests(inputs, run.options))
    return replace(analysis, runs=tuple(replace(each, labels=labels) for each in analysis.runs))


def _check_common_scale(hypotheses: Sequence[Hypothesis], flips: bool) -> None:
    """Raise `DesignError` unless all tests can have the same permutations; `flips`: signs are flipped for all."""
    first = hypotheses[0]
    for other in hypotheses:
        reason = ""
        if first.is_f != other.is_f:
            t, f = (first, other) if other.is_f else (other, first)
            reason = f"{t.text!r} is a t test and {f.text!r} an F test, which have no common scale"
        elif len(first.weights) != len(other.weights):
            reason = (
                f"{first.text!r} has {several(len(first.weights), 'degree')} of freedom and {other.text!r} "
                f"{len(other.weights)}, so their F have no common scale"
            )
        elif first.is_mean != other.is_mean and not flips:
            mean, difference = (first, other) if first.is_mean else (other, first)
            reason = (
                f"{mean.text!r} is tested by sign flips and {difference.text!r} by permutations, so they cannot have "
                "the same"
            )
        if reason:
            raise DesignError(
                f"--across-tests cannot correct over these tests: {reason}; test them in separate runs",
                option="--across-tests",
            )


def _t_run(name: str, hypotheses: Sequence[Hypothesis], model: Model, options: Options) -> Run:
    contrasts = np.vstack([each.weights for each in hypotheses])
    names = Names(model.names, tuple(each.name for each in hypotheses))
    return Run(name, tuple(hypotheses), contrasts, np.zeros((0, len(contrasts))), names, options)


def _f_run(name: str, hypotheses: Sequence[Hypothesis], model: Model, options: Options) -> Run:
    contrasts = np.vstack([each.weights for each in hypotheses])
    f_tests = np.zeros((len(hypotheses), len(contrasts)))
    start, of_rows = 0, []
    for i, each in enumerate(hypotheses):
        f_tests[i, start : start + len(each.weights)] = 1
        start += len(each.weights)
        of_rows += [f"{each.name} ({k})" for k in range(1, len(each.weights) + 1)]
    names = Names(model.names, tuple(of_rows), tuple(each.name for each in hypotheses))
    return Run(name, tuple(hypotheses), contrasts, f_tests, names, options)


def _with_thresholds(
    options: Options, thresholds: Sequence[ClusterThreshold], df: int, df_effect: int = 0
) -> Options:
    """Options with thresholds of clusters as t, or as F of a numerator."""
    which = "f_statistics" if df_effect else "statistics"
    statistics = getattr(options, which)
    for threshold in thresholds:
        kind = "mass" if threshold.mass else "extent"
        is_z = options.missing_voxels or options.variance_groups
        value = threshold.z if is_z else threshold.of(df, df_effect)
        statistics = replace(statistics, **{kind: value})
    return replace(options, **{which: statistics})


def _inputs(run: Run, model: Model, exchangeability: Exchangeability) -> Inputs:
    """The inputs of a run, without data."""
    return Inputs(
        np.zeros((0, 0), dtype=np.float32), Grid(np.zeros((1, 1, 1), dtype=bool)), model.matrix, run.contrasts,
        run.f_tests, exchangeability.blocks, effective_design=run.labels, names=run.names,
    )  # fmt: skip


def _check_moves(run: Run, model: Model, exchangeability: Exchangeability) -> None:
    """Raise `DesignError` for a test whose effect no permutation changes."""
    inputs = _inputs(run, model, exchangeability)
    stuck = [
        hypothesis.text
        for test, hypothesis in zip(list_tests(inputs, run.options), run.hypotheses)
        if make_shuffler(inputs, run.options, test).n_distinct < 2
    ]
    if stuck:
        exchanged = exchangeability.exchanged([run.options.flip], run.options.permute_and_flip)
        raise DesignError(
            f"the test {listed([repr(text) for text in stuck])} cannot be made by permutation: {exchanged}, and the "
            "effect is the same in all rows or blocks that are permuted",
            option="--test",
        )
