"""The voxelwise tests of a study: of every two groups, or in words as ``gpuvox voxelwise`` takes them.

Both are runs of randomise that every map gets. Where groups are compared as they are, there is one, whose design is
that of ``gpuvox design``. Where the configuration names a model, tests, or what is exchangeable, they are those of
``gpuvox voxelwise``: t tests, tests of means by flips of signs, and F tests, each in a run of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import pandas as pd

from gpuvox.analysis import Options
from gpuvox.application.command import RunDescription
from gpuvox.application.voxelwise.analysis import ModelledRows, check_moves, model_rows, with_pairs
from gpuvox.application.voxelwise.description import VoxelwiseDescription
from gpuvox.application.voxelwise.runs import Run
from gpuvox.cohort.exchangeability import Columns
from gpuvox.cohort.formula import columns_of_formula
from gpuvox.cohort.table import Cohort, complete
from gpuvox.errors import DesignError
from gpuvox.study.designs.cross_sectional import group_design
from gpuvox.study.designs.design import Design
from gpuvox.study.pipeline.config import Groups, Voxelwise
from gpuvox.tables.columns import as_name

SIGNS = ((">", "gt"), ("<", "lt"))
WORDS = {"-": " minus ", "+": " plus ", ">": " gt ", "<": " lt ", "*": " times "}
"""What becomes of signs in names of files."""


@dataclass(frozen=True)
class Tested:
    """A test of a run.

    Attributes
    ----------
    fsl : str
        As randomise numbers it: ``tstat1``, ``fstat1``.
    name : str
        In names of files and of variables: ``MS_gt_HC``.
    title : str
        ``MS > HC``.
    sentence : str
        What it means; empty for comparisons of two groups.
    is_mean : bool
        Whether a mean is compared with 0, or with a constant.
    """

    fsl: str
    name: str
    title: str
    sentence: str = ""
    is_mean: bool = False

    @property
    def is_f(self) -> bool:
        """Whether it is an F test."""
        return self.fsl.startswith("f")


@dataclass(frozen=True, eq=False)
class RunOfTests:
    """A run of randomise that every map gets.

    Attributes
    ----------
    name : str
        Of its files; empty if it is the only one.
    design : Design
    tests : tuple of Tested
    f_only : bool
    """

    name: str
    design: Design
    tests: tuple[Tested, ...]
    f_only: bool = False

    def of(self, root: str) -> str:
        """The root of the names of its files."""
        return f"{root}_{self.name}" if self.name else root

    @property
    def is_mean(self) -> bool:
        """Whether it tests means."""
        return self.tests[0].is_mean

    def options(self, options: Options) -> Options:
        """Options of randomise with those of the design."""
        return replace(
            options, flip=self.design.flip, f_only=self.f_only, f_statistics=options.statistics,
            whole_blocks=self.design.whole_blocks,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """What is tested in every voxel.

    Attributes
    ----------
    runs : tuple of RunOfTests
    formula : str
        The model; empty for groups as they are.
    exchangeability : str
        A sentence; empty if all rows are permuted.
    warnings : tuple of str
    """

    runs: tuple[RunOfTests, ...]
    formula: str = ""
    exchangeability: str = ""
    warnings: tuple[str, ...] = field(default=())

    @property
    def design(self) -> Design:
        """The design with the contrasts of all runs, for the report."""
        if len(self.runs) == 1:
            return self.runs[0].design
        designs = [run.design for run in self.runs]
        return Design(
            designs[0].matrix, designs[0].names, np.vstack([each.contrasts for each in designs]),
            tuple(name for each in designs for name in each.contrast_names), np.zeros((0, 0)),
        )  # fmt: skip


def compare_groups(columns: pd.DataFrame, groups: Groups) -> Hypotheses:
    """Every two groups in both directions, and with three groups or more an F test of all.

    Parameters
    ----------
    columns : DataFrame
        See `tables.typed`.
    groups : Groups

    Raises
    ------
    FileError, DesignError
        As of `group_design`.
    """
    design = group_design(columns, groups.column, groups.order, groups.covariates)
    pairs = [
        (f"{as_name(a)}_{how}_{as_name(b)}", f"{a} {sign} {b}")
        for a, b in combinations(groups.order, 2)
        for sign, how in SIGNS
    ]
    tests = [Tested(f"tstat{i}", name, title) for i, (name, title) in enumerate(pairs, start=1)]
    if len(design.f_tests):
        sentence = f"whether {', '.join(groups.order[:-1])} and {groups.order[-1]} differ in any way"
        tests.append(Tested("fstat1", as_name(groups.column), f"{groups.column} (F)", sentence))
    return Hypotheses((RunOfTests("", design, tuple(tests)),))


def test_words(cohort: Cohort, groups: Groups, section: Voxelwise) -> Hypotheses:
    """Tests in words.

    Parameters
    ----------
    cohort : Cohort
    groups : Groups
        Their column and the covariates are the model where there is none.
    section : Voxelwise

    Raises
    ------
    FileError, DesignError
        As of ``gpuvox voxelwise``.
    """
    described = VoxelwiseDescription(
        cohort.text, "", section.model or _formula(groups, cohort), section.tests or _pairs(groups),
        columns=Columns(section.paired, section.within, section.blocks, section.whole),
        run=RunDescription("", ""),
    )  # fmt: skip
    formula = with_pairs(described, cohort)
    needed = [*(columns_of_formula(formula, cohort) if formula else []), *described.columns.names]
    complete(cohort, cohort.missing(needed), "refuse")
    modelled = model_rows(described, formula, cohort)
    check_moves(modelled)
    names = [file_name(each.name) for each in modelled.hypotheses]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DesignError(
            f"two tests would have files called {twice!r}; put a name and a colon before one of them",
            option="--test",
        )
    several = len(modelled.runs) > 1
    exchanged = modelled.exchangeability.exchanged([run.options.flip for run in modelled.runs])
    return Hypotheses(
        tuple(_run(run, modelled, several) for run in modelled.runs), modelled.model.formula,
        exchanged if described.columns.names else "",
        (*modelled.model.warnings, *modelled.exchangeability.warnings),
    )  # fmt: skip


def _run(run: Run, modelled: ModelledRows, several: bool) -> RunOfTests:
    """A run of ``gpuvox voxelwise`` as a run of the study."""
    blocks = modelled.exchangeability
    design = Design(
        modelled.model.matrix, tuple(modelled.model.names), run.contrasts, run.names.contrasts, run.f_tests,
        run.names.f_tests, blocks.blocks, run.options.whole_blocks, run.options.flip,
    )  # fmt: skip
    tests = tuple(
        Tested(fsl, file_name(each.name), each.own_name, each.sentence, each.is_mean) for fsl, each in run.tests
    )
    return RunOfTests(run.name if several else "", design, tests, run.options.f_only)


def file_name(title: str) -> str:
    """The title of a test in names of files: ``MS_minus_HC``."""
    return as_name(re.sub(r"[-+<>*]", lambda match: WORDS[match[0]], title))


def _formula(groups: Groups, cohort: Cohort) -> str:
    """The groups, if they are compared, and the covariates."""
    names = [*([groups.column] if len(groups.order) > 1 else []), *groups.covariates]
    quoted = {name: name if name.isidentifier() else f"`{name}`" for name in names}
    if len(groups.order) > 1 and cohort.is_number(groups.column):
        quoted[groups.column] = f"C({quoted[groups.column]})"
    return " + ".join(quoted.values())


def _pairs(groups: Groups) -> tuple[str, ...]:
    """Every two groups in both directions, and with three groups or more an F test of all."""
    levels = {name: f"`{groups.column}`['{name}']" for name in groups.order}
    tests = [
        each
        for a, b in combinations(groups.order, 2)
        for each in (f"{a} > {b}: {levels[a]} - {levels[b]}", f"{a} < {b}: {levels[b]} - {levels[a]}")
    ]
    return (*tests, *([f"`{groups.column}`"] if len(groups.order) > 2 else []))
