"""`gpuvox.voxelwise`: the same from Python."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gpuvox import files
from gpuvox.application.api import Randomised, describe_arguments, run_described
from gpuvox.application.command import RunDescription
from gpuvox.application.effects import Effects, make_effects
from gpuvox.application.findings import Finding, find
from gpuvox.application.inputs import SharedImages
from gpuvox.application.maskers import in_order_of_grid, is_masker, rows_of_masker
from gpuvox.application.outputs import OutputOptions, approximated_by_file
from gpuvox.application.progress import open_progress
from gpuvox.application.result import Result, Tested, TestMaps
from gpuvox.application.settings import checked
from gpuvox.application.voxelwise.analysis import VoxelwiseAnalysis, check_one_mask, prepare_analysis
from gpuvox.application.voxelwise.combined import combine_in_memory, image_of_rows
from gpuvox.application.voxelwise.description import VoxelwiseDescription
from gpuvox.application.voxelwise.folder import ResultFolder
from gpuvox.application.voxelwise.runs import Run
from gpuvox.cohort.exchangeability import Columns
from gpuvox.cohort.in_memory import select_in_memory
from gpuvox.cohort.longitudinal import SUMMARIES, Longitudinal
from gpuvox.errors import SettingError
from gpuvox.estimates import parameter_estimates
from gpuvox.findings.values import HeldImages
from gpuvox.grid import Grid
from gpuvox.joint import JointNull
from gpuvox.plain import listed, several
from gpuvox.prepared import Options
from gpuvox.pvalues import FALSE_DISCOVERY_RATES
from gpuvox.reporter import Reporter
from gpuvox.statistics import Statistics
from gpuvox.types import Float32, Ints

OF_SHUFFLES = ("flip", "permute_and_flip", "repeats", "distinct_rows")
"""Settings that say how permutations are drawn."""
STATISTICS = ("tfce", "voxel", "cluster_extent", "cluster_mass", "f_cluster_extent", "f_cluster_mass")


@dataclass(frozen=True, eq=False, repr=False)
class VoxelwiseResult(Result):
    """The outcome of `voxelwise`; printed, it says what was analysed and what was found.

    Attributes
    ----------
    analysis : VoxelwiseAnalysis
        Rows, model, tests, exchangeability.
    findings : tuple of Finding
        For each test: the largest statistic with its effect, and what survives.
    runs : tuple of (Run, Randomised)
    effects : dict of str to Effects
        By test: estimate, standard error, effect size and its confidence limits.
    columns : (V,) int or None
        Where the mask was a masker: its column of each voxel of `grid`. `maps` are in the order of the masker then, so
        that its `inverse_transform` makes images of them.
    """

    analysis: VoxelwiseAnalysis
    findings: tuple[Finding, ...]
    runs: tuple[tuple[Run, Randomised], ...]
    effects: Mapping[str, Effects]
    columns: Ints | None = None

    @property
    def grid(self) -> Grid:
        """Mask and voxel size."""
        return self.runs[0][1].grid

    @cached_property
    def tested(self) -> tuple[Tested, ...]:
        """The tests with their maps and findings, in the order in which they were given."""
        findings = dict(zip(self.analysis.hypotheses, self.findings))
        by_name = {}
        for run, result in self.runs:
            for (_, hypothesis), each in zip(run.tests, result.tests):
                maps = TestMaps.of(each, fdr=run.fdr)
                effects = {stat + desc: map for (stat, desc), map in self.effects[hypothesis.name].maps.items()}
                by_name[hypothesis.name] = Tested(
                    hypothesis.name,
                    each,
                    {**maps.values, **effects},
                    maps.p,
                    findings[hypothesis],
                    hypothesis.sentence,
                )
        return tuple(by_name[each.name] for each in self.analysis.hypotheses)

    @property
    def headline(self) -> str:
        """What was analysed, in a line."""
        rows, model, dropped = len(self.analysis.cohort), self.analysis.model, self.analysis.dropped.who
        without = f" (without {listed(dropped)})" if dropped else ""
        return (
            f"voxelwise: {several(rows, 'row')}{without}, {several(self.grid.n_voxels, 'voxel')}, model "
            f"{model.formula} ({model.df} degrees of freedom), seed {self.runs[0][1].options.seed}"
        )

    @property
    def maps(self) -> dict[tuple[str, str], Float32]:
        """Every map by test and kind: ``result.maps["MS - HC", "t"]``, ``["MS - HC", "tfceFWE"]`` (−log10 p).

        Effects are ``effect``, ``se``, and ``d``, ``dCI95lower``, ``dCI95upper`` (or ``partialr``, and so on);
        ``partialetasq`` of F tests.
        """
        return {
            (each.name, kind): self.in_columns(values)
            for each in self.tested
            for kind, values in each.maps.items()
        }

    def _held_images(self) -> dict[str, HeldImages]:
        return {run.images: HeldImages(result.inputs.data, result.grid) for run, result in self.runs}

    def save(self, folder: str | os.PathLike[str], *, fsl_names: bool = False) -> None:
        """Write the folder that ``gpuvox voxelwise --out folder`` writes.

        Raises
        ------
        FileError
            A file cannot be written.
        """
        target = ResultFolder(folder)
        target.prepare(self.analysis, [])
        with target.writing(files.notice):
            target.write_design(self.analysis)
            for run, result in self.runs:
                contrasts = not len(run.f_tests)
                result.save(target.root(run), OutputOptions(contrasts=contrasts))
                for test in result.tests:
                    target.keep_approximated(target.root(run), result.grid, approximated_by_file(test))
            target.finish(self.analysis, fsl_names=fsl_names, line=())


def voxelwise(
    images: Any,
    table: str | os.PathLike[str] | pd.DataFrame,
    model: str = "",
    tests: str | Sequence[str] = (),
    *,
    mask: Any = None,
    subset: str = "",
    missing: str = "refuse",
    exchangeability: Mapping[str, str | Sequence[str]] | None = None,
    **settings: Any,
) -> VoxelwiseResult:
    """Test hypotheses about images by permutation, from a table of participants and a formula.

    Parameters
    ----------
    images : str, list, nibabel image, array or DataFrame
        A template such as ``"maps/{participant_id}_*.nii.gz"`` whose ``{column}`` are cells of the table, a column of
        the table with a path for each row, or a 4D image beside which a table or a JSON file names its volumes. Or a
        list with a path, a nibabel image or a 3D array for each row of the table (None where there is no image); a 4D
        nibabel image or (nx, ny, nz, n) array; or an (n, V) array, for which see the mask. Images in memory belong to
        the rows of the table in their order, unless they have ids: a DataFrame (n, V) is joined by its index, and
        nibabel images by the names of the files from which they were loaded. Or several sets of images, each of which
        is tested: a dict of any of these by name.
    table : path or DataFrame
        Participants, with the column ``participant_id``; a row for each image.
    model : str
        A formula, as ``"group + age + sex"``; one sample if it is empty.
    tests : str or sequence of str
        As ``"MS - HC"``, ``"age"``, ``"age[MS] - age[HC]"``, ``"group"`` (F); the mean of one sample by default.
    mask : path, nibabel image, array, Grid or nilearn masker, optional
        Every voxel that varies, if it is left out. For (n, V) images, a `gpuvox.Grid` whose voxels the columns are, in
        its order, or the fitted nilearn masker that extracted them; without either, where the voxels lie is unknown,
        and only the voxelwise test (``voxel=True, tfce=False``) is possible.
    subset : str
        A condition for the rows that count: ``"group != 'PD' and age >= 18"``.
    missing : str
        What is done with rows that lack an image or a value: ``"refuse"`` or ``"drop"``. ``"voxelwise"``: such rows are
        refused, but images may be NaN at some voxels, which their row then lacks there. What is tested is z.
    exchangeability : dict, optional
        Columns under ``paired``, ``within``, ``whole`` and ``blocks``; see ``gpuvox voxelwise --help``.
    **settings
        ``across_tests=True``: also p-values for the family-wise error over all tests and sets of images.
        ``variance_groups="group"``: the columns whose values may differ in variance, or ``"auto"``; v and G are tested,
        as z.
        ``fdr=True`` or ``"bh"``: also p-values of voxels for the false discovery rate; ``"bky"``: by the adaptive
        procedure of Benjamini, Krieger and Yekutieli.
        ``voxelwise_covariates``: a dict of covariates with an image for each row, by the names that they have in the
        model, each given as `images` are. ``longitudinal={"subject": "participant_id", "visit": "session"}``: one image
        for each subject, made of those of its rows; their change or, with ``"summary": "mean"``, their mean; with
        ``"years": "time"`` the slope per year; ``"visits"`` are those that count, in temporal order. And the settings
        of `gpuvox.randomise`: TFCE is the default; ``voxel`` and cluster statistics are made when they are set.

    Returns
    -------
    VoxelwiseResult

    Raises
    ------
    InputError
        One sentence that says what is wrong.

    Examples
    --------
    >>> result = gpuvox.voxelwise(
    ...     "vbm/{participant_id}.nii.gz", "participants.tsv", "group + age", "HC - MS", mask="gm.nii.gz", seed=1
    ... )
    >>> result.maps["HC - MS", "t"].shape
    (120,)
    >>> [each.meaning for each in result.tested]
    ['the mean of HC is larger than the mean of MS; adjusted for age']
    """
    columns = None
    if is_masker(mask):
        images, mask, columns = _unmasked(images, mask)
        settings["voxelwise_covariates"] = in_order_of_grid(settings.get("voxelwise_covariates"), columns)
    settings.setdefault("tfce", not any(settings.get(name) for name in STATISTICS))
    settings.setdefault("voxel", False)
    fdr, across_tests = _fdr(settings.pop("fdr", False)), bool(settings.pop("across_tests", False))
    groups = settings.pop("variance_groups", None) or ()
    settings["uncorrected"] = settings.get("uncorrected", False) or bool(fdr)
    settings.setdefault("seed", secrets.randbits(32))
    options = Options(
        statistics=Statistics(two_sided=bool(settings.get("two_sided", False))),
        n_permutations=settings.get("n_permutations", 5000),
        seed=settings["seed"],
        detect_null=bool(settings.get("detect_null", False)),
    )
    options = replace(options, **_of_shuffles(settings))
    description = VoxelwiseDescription(
        table=table,
        images=_as_names(images),
        model=model or "",
        tests=(tests,) if isinstance(tests, str) else tuple(tests or ()),
        subset=subset,
        missing=missing,
        columns=_columns(exchangeability or {}),
        variance_groups=(groups,) if isinstance(groups, str) else tuple(map(str, groups)),
        longitudinal=_longitudinal(settings.pop("longitudinal", None)),
        covariates=_as_names(settings.pop("voxelwise_covariates", None) or {}),
        fdr=fdr,
        across_tests=across_tests,
        run=RunDescription("", options=options),
    )
    analysis = prepare_analysis(description, replace(Reporter.silent(), warn=files.notice))
    check_one_mask(analysis, mask)
    shared = SharedImages()
    with tempfile.TemporaryDirectory() as temporary, open_progress(settings.pop("progress", False)) as progress:
        data = {name: _data(analysis, name, temporary) for name in analysis.sources}
        described = [(run, _describe(analysis, run, data, mask, settings)) for run in analysis.runs]
        runs = tuple((run, run_described(each, shared, progress)) for run, each in described)
    if analysis.across_tests:
        runs = _across_tests(runs)
    effects = {name: each for run, result in runs for name, each in _effects(analysis, run, result).items()}
    findings = {each.name: each for run, result in runs for each in _findings(run, result, effects)}
    of_tests = tuple(findings[each.name] for each in analysis.hypotheses)
    return VoxelwiseResult(analysis, of_tests, runs, effects, columns)


def _of_shuffles(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of the shuffles, which are taken out: the tests decide whether there are more."""
    chosen = checked({name: settings.pop(name) for name in OF_SHUFFLES if name in settings})
    return chosen | {"flip": chosen.get("flip", False) or chosen.get("permute_and_flip", False)}


def _columns(given: Mapping[str, str | Sequence[str]]) -> Columns:
    """What may be exchanged."""
    unknown = next((key for key in given if key not in ("paired", "within", "blocks", "whole")), None)
    if unknown is not None:
        raise SettingError(f"exchangeability has {unknown!r}; it takes paired, within, blocks and whole")
    named = {key: (value,) if isinstance(value, str) else tuple(map(str, value)) for key, value in given.items()}
    several_columns = next((key for key in ("paired", "whole") if len(named.get(key, ())) > 1), None)
    if several_columns is not None:
        raise SettingError(
            f"exchangeability has {several_columns}={given[several_columns]!r}; it takes one column"
        )
    return Columns(
        paired=next(iter(named.get("paired", ())), ""),
        within=named.get("within", ()),
        blocks=named.get("blocks", ()),
        whole=next(iter(named.get("whole", ())), ""),
    )


def _longitudinal(given: Any) -> Longitudinal | None:
    """How visits are summarised."""
    if given is None:
        return None
    known = [each.name for each in fields(Longitudinal)]
    if not isinstance(given, Mapping) or not set(given) <= set(known) or not {"subject", "visit"} <= set(given):
        raise SettingError(f"longitudinal is {given!r}; a dict is expected that takes {', '.join(known)}")
    visits = given.get("visits") or ()
    visits = tuple(visits.split(",") if isinstance(visits, str) else map(str, visits))
    texts = {name: str(value) for name, value in given.items() if name != "visits"}
    how = Longitudinal(**texts, visits=visits)
    if how.summary not in SUMMARIES:
        raise SettingError(f"the summary of longitudinal is {how.summary!r}; {' or '.join(SUMMARIES)} is expected")
    return how


def _describe(
    analysis: VoxelwiseAnalysis, run: Run, data: Mapping[str, Any], mask: Any, settings: Mapping[str, Any]
) -> RunDescription:
    """Description of one run of randomise."""
    names, options = run.names, run.options
    design = pd.DataFrame(analysis.model.matrix, columns=names.evs, index=pd.Index(analysis.cohort.ids))
    sources = {
        "mask": mask,
        "design": design,
        "contrasts": pd.DataFrame(run.contrasts, columns=names.evs, index=names.contrasts),
        "blocks": analysis.exchangeability.blocks,
        "effective_design": run.labels,
    }
    if len(run.f_tests):
        sources["f_tests"] = pd.DataFrame(run.f_tests, columns=names.contrasts, index=names.f_tests)
    of_run = {
        name: getattr(options, name)
        for name in ("whole_blocks", "f_only", "joint_steps", "missing_voxels", "variance_groups", *OF_SHUFFLES)
    }
    of_run |= settings
    evs = {column: data[name] for column, name in analysis.model.voxelwise.items()}
    return describe_arguments(data[run.images], sources, evs, of_run)


def _fdr(value: Any) -> str:
    """The procedure that is asked for: empty for none."""
    if isinstance(value, str) and value in FALSE_DISCOVERY_RATES:
        return value
    if isinstance(value, bool):
        return "bh" if value else ""
    raise SettingError(f"fdr is {value!r}; True, False, 'bh' or 'bky' is expected", option="fdr")


def _unmasked(images: Any, masker: Any) -> tuple[Any, Grid, Ints]:
    """The output of a masker in the order of a grid, the grid, and the masker's column of each of its voxels."""
    if isinstance(images, pd.DataFrame):
        rows, grid, columns = rows_of_masker(images.to_numpy(), masker)
        return pd.DataFrame(rows, index=images.index), grid, columns
    if not isinstance(images, np.ndarray):
        raise SettingError(
            "a nilearn masker as mask belongs to the (n, V) array that its transform returned", option="mask"
        )
    return rows_of_masker(images, masker)


def _data(analysis: VoxelwiseAnalysis, name: str, temporary: str) -> Any:
    """The images of a set, in the order of the rows; some volumes of a 4D image are copied into a temporary folder."""
    images = analysis.sources[name]
    if images.in_memory:
        return combine_in_memory(images, analysis) if images.combined else select_in_memory(images, analysis.rows)
    if images.combined or images.stacked:
        return image_of_rows(analysis, name, Path(temporary) / f"{name}_images")
    return images.names(analysis.rows)


def _as_names(images: Any) -> Any:
    """Paths as text, also those of several sets."""
    if isinstance(images, Mapping):
        return {name: _as_names(each) for name, each in images.items()}
    return os.fspath(images) if isinstance(images, os.PathLike) else images


def _across_tests(runs: Sequence[tuple[Run, Randomised]]) -> tuple[tuple[Run, Randomised], ...]:
    """The runs with p-values that are corrected over all of their tests."""
    null = JointNull(each for _, result in runs for each in result.tests)
    return tuple((run, replace(result, tests=tuple(map(null.added_to, result.tests)))) for run, result in runs)


def _effects(analysis: VoxelwiseAnalysis, run: Run, result: Randomised) -> dict[str, Effects]:
    """The effects of the tests of a run, by name."""
    estimates = None if len(run.f_tests) else parameter_estimates(result.inputs, result.options.demean)
    found = {}
    for i, (test, hypothesis) in enumerate(run.tests):
        of_test = None
        if estimates is not None:
            of_test = (estimates["cope"][i].astype(np.float32), estimates["varcope"][i].astype(np.float32))
        maps = result.tests[i].maps
        found[hypothesis.name] = make_effects(
            hypothesis, analysis.group_sizes(hypothesis), len(analysis.cohort), maps["stat"], of_test,
            result.df[test], maps.get("dof"),
        )  # fmt: skip
    return found


def _findings(run: Run, result: Randomised, effects: Mapping[str, Effects]) -> list[Finding]:
    found = []
    for (_, hypothesis), each in zip(run.tests, result.tests):
        kind, corrected = "F" if hypothesis.is_f else "t", TestMaps.of(each, fdr=run.fdr).corrected
        stat = each.maps["stat"]
        effect, two_sided = effects[hypothesis.name], each.two_sided
        found.append(find(hypothesis.name, kind, stat, corrected, result.grid, effect, two_sided=two_sided))
    return found
