"""The runs of randomise that a voxelwise analysis consists of: which tests each of them makes, and its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpuvox.application.voxelwise.description import ClusterThreshold, VoxelwiseDescription
from gpuvox.cohort.exchangeability import Exchangeability
from gpuvox.cohort.hypotheses import Hypothesis
from gpuvox.cohort.model import Model
from gpuvox.errors import DesignError
from gpuvox.grid import Grid
from gpuvox.names import Names
from gpuvox.plain import listed, several
from gpuvox.prepared import Inputs, Options, list_tests, make_shuffler
from gpuvox.types import Float64


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


def make_runs(
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
        for run in _runs_of_set(chosen, model, options, description.thresholds):
            full = f"{name}_{run.name}" if name else run.name
            found.append(replace(run, name=full, fdr=description.fdr, images=name))
    return tuple(found)


def _runs_of_set(
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


def check_common_scale(hypotheses: Sequence[Hypothesis], flips: bool) -> None:
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


def inputs_of(run: Run, model: Model, exchangeability: Exchangeability) -> Inputs:
    """The inputs of a run, without data."""
    return Inputs(
        np.zeros((0, 0), dtype=np.float32), Grid(np.zeros((1, 1, 1), dtype=bool)), model.matrix, run.contrasts,
        run.f_tests, exchangeability.blocks, effective_design=run.labels, names=run.names,
    )  # fmt: skip


def check_run_moves(run: Run, model: Model, exchangeability: Exchangeability) -> None:
    """Raise `DesignError` for a test whose effect no permutation changes."""
    inputs = inputs_of(run, model, exchangeability)
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
