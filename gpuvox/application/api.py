"""`gpuvox.randomise`: the Python function, for files, images or arrays."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from numpy.typing import ArrayLike

from gpuvox import files, participants
from gpuvox.analysis import Inputs, Options, TestResult, analyse
from gpuvox.application.command import RunDescription
from gpuvox.application.contrasts import is_file_name
from gpuvox.application.earlier import remove_earlier
from gpuvox.application.execute import prepare_to_run, session
from gpuvox.application.fingerprint import hash_inputs, hash_sources, identify
from gpuvox.application.inputs import PreparedRun, SharedImages, read_images
from gpuvox.application.maskers import in_order_of_grid, is_masker, rows_of_masker
from gpuvox.application.outputs import OutputOptions, Writer, expected_names
from gpuvox.application.progress import open_progress
from gpuvox.application.provenance import describe_processor, run_record, software_record
from gpuvox.application.result import NoSuchMapError, Result, Tested
from gpuvox.application.settings import check_device, check_names, check_voxelwise, make_options
from gpuvox.distributed.launch import check_client
from gpuvox.errors import DesignError, SettingError
from gpuvox.files import locks
from gpuvox.files.targets import check_targets
from gpuvox.findings.values import HeldImages
from gpuvox.grid import Grid
from gpuvox.plain import several
from gpuvox.reporter import Progress, Reporter
from gpuvox.scratch import check_folder
from gpuvox.types import AnyArray, Float32, Ints


class Maps(dict[Any, Float32]):
    """Maps by FSL's names; a pair of a test and a kind finds a map too: ``maps["MS - HC", "tfceFWE"]``, −log10 p.

    Parameters
    ----------
    by_kind : callable
        Called with test and kind; see `Result.map`.
    maps : dict of (V,) float32
    """

    def __init__(self, by_kind: Callable[[str, str], Float32], maps: Mapping[str, Float32]) -> None:
        super().__init__(maps)
        self._by_kind = by_kind

    def __missing__(self, key: Any) -> Float32:
        if isinstance(key, tuple) and len(key) == 2:
            return self._by_kind(*key)
        raise NoSuchMapError(f"there is no map {key!r}; there are {', '.join(self)}")

    def get(self, key: Any, default: Any = None) -> Any:
        """A map, or `default` if there is none."""
        try:
            return self[key]
        except NoSuchMapError:
            return default

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None


@dataclass(frozen=True, eq=False, repr=False)
class Randomised(Result):
    """The outcome of `randomise`; printed, it says what was tested and what was found.

    Attributes
    ----------
    tests : tuple of TestResult
        In FSL's order: F, then t.
    inputs : Inputs
    options : Options
        Including the seed that was used.
    header : ImageHeader or None
        Of the images, if they were files.
    device : str
        The device on which the permutations ran.
    read : tuple of str
        Images that were read.
    columns : (V,) int or None
        Where the mask was a masker: its column of each voxel of `grid`. `maps` are in the order of the masker then, so
        that its `inverse_transform` makes images of them; what `tests` hold is in the order of `grid`.
    maps : dict of (V,) float32
        By FSL's names: ``tstat1``, ``vox_corrp_tstat1``, ``tfce_corrp_tstat1`` … (corrected and uncorrected
        maps are 1 − p). And by test and kind, as of `voxelwise`: ``maps["MS - HC", "t"]``,
        ``maps["MS - HC", "tfceFWE"]`` (−log10 p), by the name of a contrast or FSL's name of the test.
    nulls : dict of (N,) arrays
        Null distributions: ``vox_tstat1``, ``tfce_tstat1`` …
    df : dict
        Degrees of freedom by test.
    """

    tests: tuple[TestResult, ...]
    inputs: Inputs
    options: Options
    header: files.ImageHeader | None = None
    device: str = "cpu"
    read: tuple[str, ...] = ()
    columns: Ints | None = None

    @property
    def grid(self) -> Grid:
        """Mask and voxel size."""
        return self.inputs.grid

    @cached_property
    def maps(self) -> Maps:
        """All maps, with one value per voxel of the mask."""
        named = {
            (r.test.name if name == "stat" else f"{name}_{r.test.name}"): self.in_columns(values)
            for r in self.tests
            for name, values in r.maps.items()
        }
        return Maps(self.map, named)

    @cached_property
    def tested(self) -> tuple[Tested, ...]:
        """The tests with their maps and findings."""
        return tuple(Tested.of(each, self.grid) for each in self.tests)

    @property
    def headline(self) -> str:
        """What was analysed, in a line."""
        n, p = self.inputs.design.shape
        return (
            f"randomise: {several(n, 'volume')}, {several(self.grid.n_voxels, 'voxel')}, design of "
            f"{several(p, 'column')}, seed {self.options.seed}"
        )

    @property
    def nulls(self) -> dict[str, AnyArray]:
        """All null distributions."""
        return {f"{kind}_{r.test.name}": null for r in self.tests for kind, null in r.nulls.items()}

    @property
    def df(self) -> dict[str, int | tuple[int, int]]:
        """Degrees of freedom: a number for t, a pair for F."""
        return {r.test.name: r.f_dfs or r.df for r in self.tests}

    def __getitem__(self, name: str) -> Float32:
        return self.maps[name]

    def volume(self, name: str) -> Float32:
        """(nx, ny, nz) A map as an array, 0 outside the mask."""
        return self.grid.to_volume(self.in_grid(self.maps[name]))

    def image(self, name: str, kind: str = "") -> Any:
        """A map as a nibabel image, 0 outside the mask: by FSL's name, or by a test and a kind."""
        return files.make_image(self.in_grid(self.maps[(name, kind) if kind else name]), self.grid)

    def _held_images(self) -> dict[str, HeldImages]:
        return {"": HeldImages(self.inputs.data, self.grid)}

    def save(self, root: str | os.PathLike[str], outputs: OutputOptions | None = None) -> None:
        """Write the files that ``gpuvox randomise -o root`` writes.

        In ``<root>_randomise.json`` the inputs are the arrays that were analysed.

        Raises
        ------
        FileError
            A file cannot be written.
        """
        outputs = outputs or OutputOptions()
        maps, texts = expected_names([result.test for result in self.tests], self.options, outputs)
        check_targets(root, texts, maps=maps)
        with locks.output(root, warnings.warn):
            self._save(os.fspath(root), outputs)

    def _save(self, root: str, outputs: OutputOptions) -> None:
        writer = Writer(root, self.grid, self.header, outputs)
        for result in self.tests:
            writer.result(result)
        if outputs.contrasts:
            writer.estimates(self.inputs, self.options.demean)
        hashes = hash_inputs(self.inputs, self.options)
        run = run_record(self.inputs, self.options, self.tests, hashes, self.device)
        record = {"software": software_record(), **run, "maps": writer.written, "files": writer.files}
        removed = remove_earlier(root, record, self.read)
        if removed:
            files.notice(f"removed what an earlier run of other inputs had left: {', '.join(removed)}")
        files.write_json(f"{root}_randomise.json", record)


def randomise(
    data: Any,
    design: ArrayLike | None = None,
    contrasts: Any = None,
    *,
    mask: Any = None,
    f_tests: ArrayLike | None = None,
    blocks: ArrayLike | None = None,
    voxelwise: Mapping[int, Any] | None = None,
    effective_design: ArrayLike | None = None,
    **settings: Any,
) -> Randomised:
    """Permutation inference on a general linear model at every voxel: FSL randomise from Python.

    Parameters
    ----------
    data : path, nibabel image, array, or list of paths or of 3D images
        4D image with one volume per participant, or one image per participant; an array is (nx, ny, nz, n), or (n, V),
        without `mask` for what does not depend on neighbours, with a `Grid` or a masker as mask for everything.
    design : (n, p) array_like, DataFrame or path
        Design matrix; a column of ones (a one-sample test, by sign flips) if it is left out.
    contrasts : (k, p) array_like, path, str, list of str or dict
        t contrasts, one per row; or in the names of the columns of a design that has them: ``"MS - HC"``,
        ``["MS - HC", "age"]``, or by name ``{"atrophy": "HC - MS"}``.
    mask : path, nibabel image, (nx, ny, nz) array, Grid or masker, optional
        Voxels above 0.5; by default every voxel that varies across participants. Without an affine it takes
        voxel size and affine from the data. With a masker (nilearn's ``NiftiMasker``, or what works like it) the data
        are what its ``transform`` returned, or images that it is applied to.
    f_tests : (f, k) array_like or path, optional
        Each row marks the contrasts that are combined to an F test.
    blocks : (n,) array_like or path, or (n, levels) array_like, optional
        Exchangeability blocks, from 1. With two columns or more, multi-level blocks, whose signs say what trades
        places; see `gpuvox.block_tree`.
    voxelwise : dict of int to path, image or array, optional
        Voxelwise explanatory variables by column of the design, from 0. Under −N, as of ``--vxl``: what takes a
        subject out of a voxel where it is not 0; N is the number of columns of the design + 1, or that of the first
        of n columns that stand there for it.
    effective_design : (n, any) array_like or path, optional
        Rows that are equal in it are interchangeable, whatever the contrast.
    **settings
        ``tfce`` (True, or a `Tfce` with its H, E, connectivity, exact, and delta: FSL's step unless it is a number
        or ``"robust"``), ``voxel`` (default True),
        ``cluster_extent``, ``cluster_mass`` (thresholds for t), ``f_cluster_extent``, ``f_cluster_mass``,
        ``uncorrected``, ``two_pass``, ``two_sided``; and any field of `analysis.Options`: ``n_permutations``, ``seed``,
        ``flip``, ``permute_and_flip``, ``demean``, ``nuisance``, ``whole_blocks``, ``within_blocks`` (with the former:
        blocks as wholes and rows within them), ``repeats`` (of drawn permutations), ``distinct_rows`` (none are
        interchangeable), ``missing_voxels`` (data may be NaN: a subject is left out at that voxel, and z is tested),
        ``variance_groups`` (a number for each row, or ``"auto"``: groups whose variances may differ; z of v and G is
        tested, in which thresholds of clusters are, too),
        ``detect_null``, ``f_only``, ``joint_steps``,
        ``variance_mm``, ``permutations``, ``threads``, ``scratch`` (folder for data and residuals that are too large
        for memory; arrays stay where they are); ``device`` (``"auto"``, ``"cpu"``, ``"cuda"`` for all GPUs, or
        ``"cuda:0,2"`` for some);
        ``checkpoint`` (a file with the progress of the run, removed at the end) and ``resume`` (True: resume from it);
        ``client`` (a `distributed.Client`: its workers run the permutations, each on the ``device`` it has);
        ``progress`` (True for progress bars, or a function of task, done and total).

    Returns
    -------
    Randomised

    Raises
    ------
    InputError
        As the command; a `SettingError`, which is a `TypeError` too, for an unknown setting, or one of another type.

    Examples
    --------
    From files, as the command:

    >>> result = gpuvox.randomise("maps.nii.gz", "design.csv", "contrasts.csv", mask="gm.nii.gz", tfce=True, seed=1)
    >>> result.df
    {'tstat1': 9}
    >>> result.image("tstat1", "tfceFWE").shape  # −log10 p
    (6, 5, 4)

    With a design in memory, and contrasts in the names of its columns:

    >>> design = pd.read_csv("design.csv")
    >>> result = gpuvox.randomise("maps.nii.gz", design, ["HC - MS", "age"], tfce=True, n_permutations=500, seed=1)
    >>> bool(result.maps["HC - MS", "tfceFWE"].max() > 1.3)
    True
    """
    columns, origin = None, None
    if is_masker(mask):
        origin = participants.files_of(data)
        data, mask, columns = rows_of_masker(data, mask)
        voxelwise = in_order_of_grid(voxelwise, columns)
    if isinstance(contrasts, str) and hasattr(design, "columns") and not is_file_name(contrasts):
        contrasts = [contrasts]
    sources = {
        "mask": mask, "design": design, "contrasts": contrasts, "f_tests": f_tests, "blocks": blocks,
        "effective_design": effective_design,
    }  # fmt: skip
    with open_progress(settings.pop("progress", False)) as progress:
        description = replace(describe_arguments(data, sources, voxelwise, settings), origin=origin)
        return replace(run_described(description, progress=progress), columns=columns)


def run_described(
    description: RunDescription, shared: SharedImages | None = None, progress: Progress | None = None
) -> Randomised:
    """Run a description without writing anything; images that another run has left in `shared` are not read again."""
    silent = Reporter.silent()
    reporter = Reporter(silent.say, files.notice, progress or silent.progress)
    run = prepare_to_run(description)
    if not run.analysis.tests:
        raise DesignError(f"there is no test {description.options.only_test}")
    if not run.images_are_files:
        run = read_images(run, reporter)  # they are in memory, and identified by their values
    needs_hashes = description.checkpoint or (description.has_workers and run.images_are_files)
    hashes = hash_sources(run) if needs_hashes else {}
    identity = identify(run, hashes) if description.checkpoint else None
    with session(run, hashes, identity, reporter, shared) as (run, checkpoint):
        store = checkpoint.store if checkpoint else None
        results = tuple(analyse(run.analysis, progress=reporter.progress, open_store=store))
        if checkpoint:
            checkpoint.remove()
    for text in (text for result in results for text in result.warnings):
        warnings.warn(text, stacklevel=3)
    options = run.analysis.options
    return Randomised(
        results, run.analysis.inputs, replace(options, workers=None), run.header, describe_processor(options),
        _files_read(run),
    )  # fmt: skip


def describe_arguments(
    data: Any, sources: Mapping[str, Any], voxelwise: Mapping[int, Any] | None, settings: dict[str, Any]
) -> RunDescription:
    """Description of the run from the arguments of `randomise`."""
    check_names(settings)
    settings["scratch"] = check_folder(settings.get("scratch") or "")
    checkpoint, resume = settings.pop("checkpoint", None), settings.pop("resume", False)
    if resume and checkpoint is None:
        raise SettingError("resume needs the name of a checkpoint", option="resume")
    client, device = settings.pop("client", None), settings.pop("device", "auto")
    if client is not None:
        check_client(client)
    one_sample = sources["design"] is None
    options = make_options(settings, one_sample=one_sample)
    return RunDescription(
        data,
        **sources,
        one_sample=one_sample,
        voxelwise=check_voxelwise(voxelwise),
        device=check_device("device", device),
        checkpoint="" if checkpoint is None else os.fspath(checkpoint),
        resume=bool(resume),
        client=client,
        options=options,
    ).with_seed(options.seed if "seed" in settings else None)


def _files_read(run: PreparedRun) -> tuple[str, ...]:
    """Images that were read; `remove_earlier` never removes them."""
    sources = (run.description.data, run.description.mask, *run.evs.values())
    return tuple(
        os.fspath(path)
        for source in sources
        if files.are_names(source)
        for name in files.image_names(source)
        for path in files.image_files(name)
    )
