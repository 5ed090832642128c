"""nilearn's permutation tests by gpuvox: `non_parametric_inference` and `permuted_ols` with the same arguments.

``from gpuvox.nilearn import non_parametric_inference`` in place of ``from nilearn.glm.second_level import …`` is the
only change to a script. The values returned are those of nilearn 0.14: −log10 of p-values that are corrected for the
family-wise error, alone or in a dict. docs/nilearn.md describes where numbers differ, and why.

Nothing of nilearn is imported. Its maskers, first level models and images are used through their methods.
"""

from __future__ import annotations

import copy
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from scipy.ndimage import gaussian_filter1d

from gpuvox import files, participants, pvalues
from gpuvox.analysis import Inputs, Options, make_model, prepare
from gpuvox.application.arrays import as_cohort, real_array
from gpuvox.application.contrasts import weights
from gpuvox.application.maskers import grid_of_masker, is_masker, rows_of_masker
from gpuvox.application.progress import open_progress
from gpuvox.cluster import cluster_maps
from gpuvox.errors import DesignError, InputError, SettingError
from gpuvox.executors import Finished, run
from gpuvox.files.placement import placed
from gpuvox.files.volumes import volumes
from gpuvox.grid import Grid
from gpuvox.names import Names
from gpuvox.partitioning import is_estimable, orthonormal_basis
from gpuvox.permtest import PermutationTest
from gpuvox.plain import composed
from gpuvox.reporter import Progress
from gpuvox.scratch import Data
from gpuvox.statistics import Batch, Edge, Setting, Statistic, StatisticInfo, Statistics
from gpuvox.statistics.base import SUM_TIE
from gpuvox.statistics.batch import ThresholdEdge
from gpuvox.tables.reading import typed
from gpuvox.tfce import Tfce
from gpuvox.types import AnyArray, Float64, Ints, MapBatch

__all__ = ["non_parametric_inference", "permuted_ols"]

FACES = 6
"""Neighbours of a voxel in nilearn's clusters and TFCE."""
STEPS = 100
"""Steps of TFCE up to the largest statistic."""
UNDER_STEP = 1 - 1e-6
"""nilearn's voxels at the height of a step belong to it; gpuvox's are above it."""
NAMES = {"vox": "t", "clustere": "size", "clusterm": "mass", "tfce": "tfce"}
"""What nilearn calls the statistics."""


# -- statistics -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _FaceExtent(Statistic):
    """Voxels of a cluster whose voxels share faces."""

    threshold: float
    info: ClassVar = StatisticInfo("clustere", "cluster extent")

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The cluster-forming threshold."""
        return (ThresholdEdge(self.threshold),)

    def evaluate(self, batch: Batch) -> MapBatch:
        """See `Statistic.evaluate`."""
        return cluster_maps(batch.maps, batch.grid, self.threshold, FACES, batch.device)[0]


@dataclass(frozen=True)
class _ExcessMass(_FaceExtent):
    """Sum of what the statistic exceeds the threshold by, over the voxels of such a cluster."""

    info: ClassVar = StatisticInfo("clusterm", "cluster mass")

    def evaluate(self, batch: Batch) -> MapBatch:
        """See `Statistic.evaluate`."""
        extent, mass = cluster_maps(batch.maps, batch.grid, self.threshold, FACES, batch.device)
        return mass - self.threshold * extent

    def least_tie(self, values: AnyArray) -> AnyArray:
        """See `Statistic.least_tie`; a difference of sums carries more of their rounding than they do."""
        return values * (1 - 10 * SUM_TIE)


@dataclass(frozen=True)
class _Choice(Statistics):
    """nilearn's statistics: t, and clusters at a threshold of t."""

    threshold: float | None = None

    @property
    def settings(self) -> tuple[Setting, ...]:
        """See `Statistics.settings`."""
        own = () if self.threshold is None else (_FaceExtent(self.threshold), _ExcessMass(self.threshold))
        return (*super().settings, *own)


# -- one regressor --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Wanted:
    """What is computed of each regressor."""

    n_perm: int
    two_sided: bool
    tfce: bool
    threshold: float | None
    seed: int
    threads: int | None
    progress: Progress


@dataclass(frozen=True, eq=False)
class _Tested:
    """What was found of a regressor: by nilearn's names, signed values (V,), −log10 p (V,) and null maxima."""

    values: dict[str, Float64]
    log_p: dict[str, Float64]
    null: dict[str, Float64]


def _test(inputs: Inputs, wanted: _Wanted, is_flipped: bool) -> _Tested:
    """Test the only contrast of some inputs."""
    options = Options(n_permutations=max(wanted.n_perm, 0) + 1, seed=wanted.seed, flip=is_flipped)
    analysis = prepare(inputs, options)
    prepared = analysis.tests[0]
    model = make_model(analysis, prepared)
    signs = 2 if wanted.two_sided else 1
    threshold = tfce = None
    if wanted.threshold is not None:
        threshold = float(stats.t.isf(wanted.threshold / signs, model.df))
    if wanted.tfce:
        t = model.exact_map(prepared.shuffler.shuffles(0, 1)[0])
        peak = float(np.abs(t).max() if wanted.two_sided else t.max())
        tfce = Tfce(connectivity=FACES, delta=peak / STEPS * UNDER_STEP if peak > 0 else None)
    choice = _Choice(tfce=tfce, threshold=threshold)
    test = PermutationTest(model, inputs.grid, prepared.shuffler, choice, signs)
    title, total = prepared.test.label or prepared.test.number, prepared.shuffler.n
    stop = (0, 1) if wanted.n_perm < 1 else None
    finished = run(
        test, threads=wanted.threads, progress=lambda done: wanted.progress(title, done, total), share=stop
    )
    return _tested(finished, wanted.two_sided, wanted.n_perm > 0)


def _tested(finished: Finished, two_sided: bool, has_null: bool) -> _Tested:
    """p of each statistic by the maxima over voxels and, of a two-sided test, over both signs."""
    found = _Tested({}, {}, {})
    for name, statistic in finished.observed.statistics.items():
        signed = finished.observed.observed[name][0]
        magnitude = np.abs(signed) if two_sided else statistic.of_sign(signed, 0)
        shown = signed if two_sided or not statistic.disjoint else magnitude
        key = NAMES[name]
        found.values[key] = np.asarray(statistic.in_units(shown, 0), dtype=np.float64)
        if not has_null:
            continue
        maxima = finished.tally.maxima[name]
        null = maxima.max(axis=0) if two_sided else maxima[0]
        above = len(null) - pvalues.count_below(null, statistic.least_tie(magnitude))
        found.log_p[key] = 0.0 - np.log10(above / len(null))
        found.null[key] = np.sort(np.asarray(statistic.in_units(null[1:], 0), dtype=np.float64))
    return found


# -- permuted_ols ---------------------------------------------------------------------------------------------------


def permuted_ols(  # noqa: PLR0913 - the arguments are nilearn's
    tested_vars: ArrayLike,
    target_vars: ArrayLike,
    confounding_vars: ArrayLike | None = None,
    model_intercept: bool = True,
    n_perm: int = 10000,
    two_sided_test: bool = True,
    random_state: Any = None,
    n_jobs: int = 1,
    verbose: int = 0,
    masker: Any = None,
    tfce: bool = False,
    threshold: float | None = None,
    output_type: str = "dict",
) -> dict[str, Float64] | tuple[Float64, Float64, Float64]:
    """Test regressors by permutation, each adjusted for confounds: `nilearn.mass_univariate.permuted_ols`.

    Parameters
    ----------
    tested_vars : (n,) or (n, k) array_like
        Regressors, each tested on its own. A constant is tested by flips of signs, all else by permutation (Freedman
        and Lane).
    target_vars : (n, V) array_like
        Data.
    confounding_vars : (n, q) array_like, optional
        Regressors that are adjusted for.
    model_intercept : bool
        Add a constant to the confounds, unless a constant is tested, or is a combination of the confounds already.
    n_perm : int
        Permutations besides the unpermuted data; with no more than that, all distinct ones are done, once each. 0 for
        statistics alone.
    two_sided_test : bool
        Test the absolute value of t.
    random_state : int or RandomState, optional
    n_jobs : int
        Threads; −1 for one per processor.
    verbose : int
        Above 0, a progress bar.
    masker : nilearn masker, optional
        Fitted; it is needed for TFCE and clusters, to know where the columns of the data are.
    tfce : bool
    threshold : float, optional
        Cluster-forming threshold, as p.
    output_type : {"dict", "legacy"}

    Returns
    -------
    dict of str to array
        ``t``, ``logp_max_t`` (k, V) and ``h0_max_t`` (k, permutations); likewise ``tfce``, ``size`` and ``mass``.
        ``"legacy"``: −log10 p, t and the null maxima of t.

    Raises
    ------
    InputError
        The arguments do not fit each other; one sentence.
    """
    tested = _columns(tested_vars, "tested_vars")
    if masker is None and (tfce or threshold is not None):
        raise SettingError(
            "a masker is needed for TFCE and clusters, to know where the voxels are", option="masker"
        )
    target = real_array(target_vars, "target_vars")
    if target.ndim != 2:
        raise InputError(f"target_vars have shape {target.shape}; (samples, voxels) is expected")
    columns = None
    grid = Grid(np.ones((target.shape[1], 1, 1), dtype=bool))
    if masker is not None:
        grid, columns = grid_of_masker(masker, target.shape[1])
        target = target[:, columns]
    data, grid, _ = as_cohort(target, grid, what="target_vars")
    confounds = None if confounding_vars is None else _columns(confounding_vars, "confounding_vars")
    with _wanted(n_perm, two_sided_test, random_state, n_jobs, verbose, tfce, threshold) as wanted:
        models = _regressors(tested, confounds, model_intercept, data, grid)
        found = [_test(inputs, wanted, is_flipped) for inputs, is_flipped in models]
    return _returned(found, columns, output_type, has_more=tfce or threshold is not None)


def _columns(values: ArrayLike, what: str) -> Float64:
    """(n, k) Regressors."""
    array = real_array(values, what).astype(np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or not np.isfinite(array).all():
        raise InputError(
            f"{what} have shape {array.shape} or values that are not finite; (samples, k) is expected"
        )
    return array


def _is_constant(values: Float64) -> bool:
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max(initial=0.0))


def _regressors(
    tested: Float64, confounds: Float64 | None, model_intercept: bool, data: Data, grid: Grid
) -> Iterator[tuple[Inputs, bool]]:
    """The model of each regressor, and whether it is tested by flips of signs."""
    n, k = tested.shape
    if k > 1 and any(_is_constant(column) for column in tested.T):
        raise InputError("a constant among tested_vars is tested by flips of signs, and must be tested alone")
    others = np.zeros((n, 0)) if confounds is None else confounds
    if not n == len(others) == data.shape[0]:
        raise InputError(
            f"there are {n} rows in tested_vars, {len(others)} in confounding_vars and {data.shape[0]} in target_vars"
        )
    for i in range(k):
        regressor, is_flipped = tested[:, i : i + 1], _is_constant(tested[:, i])
        beside = others
        if is_flipped:
            beside = others[:, [not _is_constant(column) for column in others.T]]
            if beside.shape[1] < others.shape[1]:
                files.notice("a constant is tested; the constant among the confounds is left out")
        elif model_intercept:
            beside = with_intercept(others)
        design = np.hstack([regressor, beside])
        contrast = np.eye(1, design.shape[1])
        labels = Names(contrasts=(f"regressor {i + 1}" if k > 1 else "",))
        # One set of permutations for all regressors, so that their null distributions are of one length.
        alike = tested if k > 1 else None
        inputs = Inputs(data, grid, design, contrast, np.zeros((0, 1)), effective_design=alike, names=labels)
        yield inputs, is_flipped


def with_intercept(design: Float64) -> Float64:
    """A design with a constant, unless that is a combination of its columns already."""
    ones = np.ones((len(design), 1))
    basis = orthonormal_basis(design)
    outside = ones - basis @ (basis.T @ ones)
    return np.hstack([design, ones]) if np.linalg.norm(outside) > 1e-8 * np.sqrt(len(ones)) else design


@contextmanager
def _wanted(
    n_perm: int, two_sided: bool, random_state: Any, n_jobs: int, verbose: int, tfce: bool, threshold: float | None
) -> Iterator[_Wanted]:
    """The settings that all regressors share; progress bars are closed at the end."""
    if threshold is not None and not 0 < threshold < 1:
        raise SettingError(f"threshold is {threshold}; a p-value between 0 and 1 is expected")
    if not n_jobs:
        raise SettingError("n_jobs is 0; a number of threads, or -1 for one per processor, is expected")
    processors = os.cpu_count() or 1
    threads = n_jobs if n_jobs > 0 else max(processors + 1 + n_jobs, 1)  # joblib's convention
    with open_progress(verbose > 0) as progress:
        yield _Wanted(
            int(n_perm), bool(two_sided), bool(tfce), threshold, _seed(random_state), int(threads), progress
        )


def _seed(random_state: Any) -> int:
    if random_state is None:
        return secrets.randbits(32)
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    if hasattr(random_state, "randint"):
        return int(random_state.randint(2**31 - 1))
    raise SettingError(f"random_state is {random_state!r}; a whole number or a RandomState is expected")


def _returned(
    found: Sequence[_Tested], columns: Ints | None, output_type: str, *, has_more: bool
) -> dict[str, Float64] | tuple[Float64, Float64, Float64]:
    """nilearn's values, in the order of the columns of the data."""
    order = slice(None) if columns is None else np.argsort(columns)
    out: dict[str, Float64] = {}
    for key in found[0].values:
        out[key] = np.stack([each.values[key][order] for each in found])
        if found[0].null:
            out[f"logp_max_{key}"] = np.stack([each.log_p[key][order] for each in found])
            out[f"h0_max_{key}"] = np.stack([each.null[key] for each in found])
    if "size" in out:
        out["size"] = np.abs(out["size"]).astype(int)
        out["mass"] = np.abs(out["mass"])
    if output_type not in ("dict", "legacy"):
        raise SettingError(f"output_type is {output_type!r}; 'dict' or 'legacy' is expected")
    if output_type == "legacy" and not has_more:
        nothing = np.zeros(0)
        return out.get("logp_max_t", nothing), out["t"], out.get("h0_max_t", nothing)
    return out


# -- non_parametric_inference ---------------------------------------------------------------------------------------


def non_parametric_inference(  # noqa: PLR0913 - the arguments are nilearn's
    second_level_input: Any,
    confounds: Any = None,
    design_matrix: Any = None,
    second_level_contrast: Any = None,
    first_level_contrast: Any = None,
    mask: Any = None,
    smoothing_fwhm: float | None = None,
    model_intercept: bool = True,
    n_perm: int = 10000,
    two_sided_test: bool = False,
    random_state: Any = None,
    n_jobs: int = 1,
    verbose: int = 0,
    threshold: float | None = None,
    tfce: bool = False,
) -> Any:
    """Test a contrast of images by permutation: `nilearn.glm.second_level.non_parametric_inference`.

    Parameters
    ----------
    second_level_input : list of paths or images, 4D image, Series, DataFrame, or list of first level models
        A DataFrame has the columns ``subject_label``, ``map_name`` and ``effects_map_path``; it is sorted by subject.
    confounds : None
        Confounds are columns of the design matrix. nilearn ignores what is given here; gpuvox refuses it.
    design_matrix : DataFrame or path
        A row for each image. If its index names participants and the images do too, they must agree.
    second_level_contrast : str or (p,) array_like, optional
        In the names of the columns: ``"MS - HC"``. It may be left out if there is one column. Whatever its weights, the
        whole design is fitted: a contrast of several weights is tested as what it says.
    first_level_contrast : optional
        The ``map_name`` of a DataFrame, or what the first level models compute.
    mask : path, image, masker or array, optional
        By default every voxel that varies.
    smoothing_fwhm : float, optional
        In millimetres.
    model_intercept : bool
        Add a constant to the design, unless that is a combination of its columns, or what is tested.
    n_perm, two_sided_test, random_state, n_jobs, verbose
        See `permuted_ols`.
    threshold : float, optional
        Cluster-forming threshold, as p.
    tfce : bool

    Returns
    -------
    nibabel image
        −log10 of the corrected p of t; with TFCE or a threshold a dict of such images: ``t``, ``logp_max_t``, ``tfce``,
        ``logp_max_tfce``, ``size``, ``logp_max_size``, ``mass``, ``logp_max_mass``.

    Raises
    ------
    InputError
        The arguments do not fit each other; one sentence.
    """
    if confounds is not None:
        raise SettingError("confounds are columns of design_matrix; the argument confounds would have no effect")
    design = _design(design_matrix)
    images, labels = _images(second_level_input, first_level_contrast)
    _check_order(design, images, labels)
    if isinstance(mask, os.PathLike | str) or not is_masker(mask):
        data, grid, _ = as_cohort(images, mask)
        if smoothing_fwhm:
            data = _smoothed(images, grid, smoothing_fwhm)
    else:
        data, grid, _ = rows_of_masker(images, _with_smoothing(mask, smoothing_fwhm))
        data, grid, _ = as_cohort(data, grid)
    if data.shape[0] != len(design):
        raise InputError(f"the design matrix has {len(design)} rows; there are {data.shape[0]} images")
    inputs, is_flipped = _contrast_inputs(design, second_level_contrast, model_intercept, data, grid)
    with _wanted(n_perm, two_sided_test, random_state, n_jobs, verbose, tfce, threshold) as wanted:
        maps = _returned([_test(inputs, wanted, is_flipped)], None, "dict", has_more=True)
    return _pictures(maps, grid, only_p=not tfce and threshold is None and n_perm > 0)


def _pictures(maps: Any, grid: Grid, *, only_p: bool) -> Any:
    """Maps as images."""
    images = {key: files.make_image(values[0], grid) for key, values in maps.items() if not key.startswith("h0_")}
    return images["logp_max_t"] if only_p else images


def _design(design_matrix: Any) -> pd.DataFrame:
    if isinstance(design_matrix, str | os.PathLike):
        table = typed(files.read_table(design_matrix, long=True))
        return table.set_index(next(iter(table))) if table.iloc[:, 0].dtype == object else table
    if not isinstance(design_matrix, pd.DataFrame):
        raise SettingError(
            f"design_matrix is {type(design_matrix).__name__}; a DataFrame with a column for each regressor, or the "
            "name of a table, is expected",
            option="design_matrix",
        )
    return design_matrix


def _contrast_inputs(
    design: pd.DataFrame, contrast: Any, model_intercept: bool, data: Data, grid: Grid
) -> tuple[Inputs, bool]:
    """The model of a contrast, and whether it is tested by flips of signs."""
    names = tuple(composed(str(name)) for name in design.columns)
    matrix = _columns(design, "the columns of the design matrix")
    if contrast is None:
        if len(names) > 1:
            raise SettingError("second_level_contrast is needed, because the design matrix has several columns")
        contrast = names[0]
    contrast = composed(contrast) if isinstance(contrast, str) else contrast
    title = contrast if isinstance(contrast, str) else "second_level_contrast"
    row = weights(contrast, names, title)
    if not row.any():
        raise DesignError("all weights of second_level_contrast are 0")
    regressor = matrix @ row
    is_flipped = _is_constant(regressor)
    adds_constant = model_intercept and not is_flipped
    beside = np.ones((len(matrix), int(adds_constant)))
    if not is_estimable(np.hstack([matrix, beside]), np.pad(row, (0, beside.shape[1]))[None]):
        and_constant = ", and the constant of model_intercept=True," if adds_constant else ""
        raise DesignError(
            f"the contrast {title!r} cannot be estimated: the columns of the design matrix{and_constant} are collinear"
        )
    full = with_intercept(matrix) if adds_constant else matrix
    row = np.pad(row, (0, full.shape[1] - matrix.shape[1]))
    return Inputs(data, grid, full, row[None], np.zeros((0, 1)), names=Names(contrasts=(title,))), is_flipped


# -- images ---------------------------------------------------------------------------------------------------------


def _images(source: Any, first_level_contrast: Any) -> tuple[Any, tuple[str, ...]]:
    """Images as `as_cohort` takes them, and the participants of each if they are named."""
    if isinstance(source, pd.DataFrame):
        return _of_table(source, first_level_contrast)
    if isinstance(source, pd.Series):
        source = source.tolist()
    if isinstance(source, list | tuple) and source and hasattr(source[0], "compute_contrast"):
        if first_level_contrast is None:
            raise SettingError("first_level_contrast is needed with first level models")
        maps = [each.compute_contrast(first_level_contrast, output_type="effect_size") for each in source]
        labels = tuple(str(getattr(each, "subject_label", "")) for each in source)
        return maps, labels if all(labels) else ()
    if hasattr(source, "mesh") or (isinstance(source, list | tuple) and source and hasattr(source[0], "mesh")):
        raise InputError("second_level_input is of surfaces; only volumes can be tested")
    return source, ()


def _of_table(table: pd.DataFrame, first_level_contrast: Any) -> tuple[list[str], tuple[str, ...]]:
    needed = ("subject_label", "map_name", "effects_map_path")
    missing = [name for name in needed if name not in table]
    if missing:
        raise InputError(f"second_level_input has no column {missing[0]!r}; {', '.join(needed)} are expected")
    chosen = table[table["map_name"] == first_level_contrast].sort_values("subject_label", kind="stable")
    if chosen.empty:
        there = ", ".join(map(repr, dict.fromkeys(table["map_name"])))
        raise InputError(f"no map_name is {first_level_contrast!r}; there are {there}")
    return [os.fspath(path) for path in chosen["effects_map_path"]], tuple(map(str, chosen["subject_label"]))


def _check_order(design: pd.DataFrame, images: Any, labels: tuple[str, ...]) -> None:
    """Compare the participants of the design matrix and of the images, as far as both name them."""
    _, names, _ = participants.values_and_names(design)
    rows = participants.Rows(names, "design_matrix") if names else None
    if labels:
        participants.compare(rows, participants.Rows(labels, "second_level_input", "volume"), files.notice)
    elif (paths := participants.files_of(images)) is not None:
        participants.compare(rows, participants.of_images(paths, rows), files.notice)


def _with_smoothing(masker: Any, fwhm: float | None) -> Any:
    """A masker that smooths: a copy, because the user's own stays as it is."""
    if not fwhm:
        return masker
    if not hasattr(masker, "smoothing_fwhm"):
        raise SettingError("the masker has no smoothing_fwhm; smooth the images, or give a mask image")
    masker = copy.copy(masker)
    masker.smoothing_fwhm = fwhm
    return masker


def _smoothed(images: Any, grid: Grid, fwhm: float) -> AnyArray:
    """(n, V) Images convolved with a Gaussian; values that are not finite count as 0, and nothing is masked before."""
    affine = np.eye(4) if grid.affine is None else grid.affine
    sigma = fwhm / np.sqrt(8 * np.log(2)) / np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    rows = []
    for volume in _volumes(images, grid):
        smooth = np.nan_to_num(volume, nan=0.0, posinf=0.0, neginf=0.0)
        for axis in range(3):
            smooth = gaussian_filter1d(smooth, sigma[axis], axis=axis)
        rows.append(grid.to_vector(smooth).astype(np.float32))
    return np.stack(rows)


def _volumes(images: Any, grid: Grid) -> Iterator[Float64]:
    """(nx, ny, nz) The values of images in the order of the grid, outside the mask too."""
    if files.are_names(images):
        for name in files.image_names(images):
            for values in volumes(placed(files.read_header(name), grid)):
                yield values.reshape(grid.shape, order="F").astype(np.float64)
        return
    for image in images if isinstance(images, list | tuple) else [images]:
        array: Float64 = np.asarray(image.dataobj if hasattr(image, "dataobj") else image, dtype=np.float64)
        yield from (array[..., i] for i in range(array.shape[3])) if array.ndim == 4 else (array,)
