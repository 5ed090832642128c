"""A voxelwise analysis: its rows, images, model and tests."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from keyword import iskeyword
from typing import Any

import numpy as np

from gpuvox.analysis import variance_groups_of
from gpuvox.application.voxelwise.description import VoxelwiseDescription
from gpuvox.application.voxelwise.runs import Run, check_common_scale, check_run_moves, inputs_of, make_runs
from gpuvox.cohort.exchangeability import Columns, Exchangeability, find_blocks, in_order_of_visits
from gpuvox.cohort.formula import columns_of_formula
from gpuvox.cohort.hypotheses import Hypothesis, read_hypotheses
from gpuvox.cohort.images import CohortImages, find_images
from gpuvox.cohort.in_memory import is_in_memory, join_in_memory
from gpuvox.cohort.longitudinal import Longitudinal, summarise
from gpuvox.cohort.model import Model, build_model
from gpuvox.cohort.table import ID, Cohort, Excluded, as_cohort, complete, new_column
from gpuvox.errors import DesignError, FileError
from gpuvox.movement import extent
from gpuvox.partitioning import orthonormal_basis
from gpuvox.plain import listed, several
from gpuvox.prepared import Inputs, Options, joint_labels, list_tests, make_shuffler
from gpuvox.reporter import Reporter
from gpuvox.tables.conditions import select
from gpuvox.types import Ints
from gpuvox.variance_groups import AUTOMATIC, check_groups


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
        return inputs_of(run, self.model, self.exchangeability)

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
        found += self.dropped.lines(self.total, of_subjects=self.longitudinal is not None)
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
            fewest, most = sizes.min(), sizes.max()
            rows = f"{fewest} to {most} rows" if fewest < most else f"{fewest} rows each"
            found += [
                f"variances: {several(len(sizes), 'group')} of {rows}; what is tested "
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
    rows = [rows[place] for place in in_order_of_visits(description.columns, cohort.at(rows))]
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
    runs = make_runs(hypotheses, model, exchangeability, description, _variance_groups(description, cohort))
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
        groups = variance_groups_of(inputs_of(run, model, exchangeability), run.options)
        check_groups(orthonormal_basis(model.matrix), groups)


def check_moves(modelled: ModelledRows) -> None:
    """Raise `DesignError` for a test whose effect no permutation changes."""
    for run in modelled.runs:
        check_run_moves(run, modelled.model, modelled.exchangeability)


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


def _across_tests(analysis: VoxelwiseAnalysis) -> VoxelwiseAnalysis:
    """The analysis with the same permutations for all tests.

    Raises
    ------
    DesignError
        The tests have no common scale, or cannot have the same permutations.
    """
    run = analysis.runs[0]
    check_common_scale(analysis.hypotheses, all(each.options.flip for each in analysis.runs))
    if run.options.detect_null:
        raise DesignError(
            "--detectNull keeps other rows in place in each test, and --across-tests needs the same permutations of "
            "all tests; leave one of the two options out",
            option="--across-tests",
        )
    inputs = analysis.inputs(run)
    labels = joint_labels(inputs, list_tests(inputs, run.options))
    return replace(analysis, runs=tuple(replace(each, labels=labels) for each in analysis.runs))
