"""`gpuvox.randomise`: the same from Python."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuvox import files
from gpuvox.analysis import (
    Inputs,
    Options,
    Test,
    TestResult,
    analyse,
    list_tests,
    make_shuffler,
    shuffle_counts,
)
from gpuvox.application.command import draw_seed
from gpuvox.application.earlier import remove_earlier
from gpuvox.application.fingerprint import fingerprint, hash_inputs
from gpuvox.application.inputs import (
    check_permutation_counts,
    read_given,
    warnings_about_data,
    warnings_about_design,
)
from gpuvox.application.outputs import Wanted, Writer, expected_names
from gpuvox.application.provenance import run_record, software_record, where_run
from gpuvox.application.settings import (
    check_names,
    make_options,
)
from gpuvox.checkpoint import Checkpoint, RunIdentity, read_to_resume
from gpuvox.distributed.client import DaskWorkers
from gpuvox.distributed.launch import (
    check_client,
)
from gpuvox.distributed.messages import Images, absolute
from gpuvox.errors import DesignError
from gpuvox.files import locks
from gpuvox.files.targets import check_targets
from gpuvox.grid import Grid
from gpuvox.scratch import check_folder


@dataclass(frozen=True, eq=False)
class Randomised:
    """The outcome of `randomise`.

    Attributes
    ----------
    tests : tuple of TestResult
        In FSL's order: F, then t.
    inputs : Inputs
    options : Options
        With the seed that was used.
    header : ImageHeader or None
        Of the images, if they were files.
    device : str
        What the shuffles were run on.
    read : tuple of str
        Images that were read.
    maps : dict of (V,) float32
        By FSL's names: ``tstat1``, ``vox_corrp_tstat1``, ``tfce_corrp_tstat1`` … (corrected and uncorrected
        maps are 1 − p).
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

    @property
    def grid(self) -> Grid:
        """Mask and voxel size."""
        return self.inputs.grid

    @property
    def maps(self) -> dict[str, NDArray[np.float32]]:
        """Every map, a value a voxel of the mask."""
        return {
            (r.test.name if name == "stat" else f"{name}_{r.test.name}"): values
            for r in self.tests
            for name, values in r.maps.items()
        }

    @property
    def nulls(self) -> dict[str, NDArray]:
        """Every null distribution."""
        return {f"{kind}_{r.test.name}": null for r in self.tests for kind, null in r.nulls.items()}

    @property
    def df(self) -> dict[str, int | tuple[int, int]]:
        """Degrees of freedom: a number for t, a pair for F."""
        return {r.test.name: r.f_dfs or r.df for r in self.tests}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self.maps[name]

    def volume(self, name: str) -> NDArray[np.float32]:
        """(nx, ny, nz) A map as an array, 0 outside the mask."""
        return self.grid.to_volume(self.maps[name])

    def image(self, name: str) -> Any:
        """A map as a nibabel image."""
        return files.make_image(self.maps[name], self.grid)

    def save(self, root: str | os.PathLike[str], wanted: Wanted | None = None) -> None:
        """Write the files that ``gpuvox randomise -o root`` writes.

        In ``<root>_randomise.json`` the inputs are the arrays that were analysed.

        Raises
        ------
        FileError
            A file cannot be written.
        """
        wanted = wanted or Wanted()
        maps, texts = expected_names([result.test for result in self.tests], self.options, wanted)
        check_targets(root, texts, maps=maps)
        with locks.output(root, warnings.warn):
            self._save(os.fspath(root), wanted)

    def _save(self, root: str, wanted: Wanted) -> None:
        writer = Writer(root, self.grid, self.header, wanted)
        for result in self.tests:
            writer.result(result)
        hashes = hash_inputs(self.inputs, self.options)
        about = run_record(self.inputs, self.options, self.tests, hashes, self.device)
        record = {"software": software_record(), **about, "maps": writer.written, "files": writer.files}
        removed = remove_earlier(root, record, self.read)
        if removed:
            files.notice(f"removed what an earlier run of other inputs had left: {', '.join(removed)}")
        files.write_json(f"{root}_randomise.json", record)


def randomise(
    data: Any,
    design: ArrayLike | None = None,
    contrasts: ArrayLike | None = None,
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
        4D image, one volume a subject, or an image of each subject; an array is (nx, ny, nz, n), or (n, V): without
        `mask` for what does not depend on neighbours, with a `Grid` as mask for everything.
    design : (n, p) array_like, DataFrame or path
        Design matrix; a column of ones (a one-sample test, by sign flips) if it is left out.
    contrasts : (k, p) array_like or path
        t contrasts, one a row.
    mask : path, nibabel image, (nx, ny, nz) array or Grid, optional
        Voxels above 0.5; by default every voxel that varies over subjects. Without an affine of its own it takes
        voxel size and affine from the data.
    f_tests : (f, k) array_like or path, optional
        Rows say which contrasts are stacked to an F test.
    blocks : (n,) array_like or path, optional
        Exchangeability blocks.
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
        ``uncorrected``, ``two_pass``; and any field of `analysis.Options`: ``n_permutations``, ``seed``,
        ``flip``, ``demean``, ``nuisance``, ``whole_blocks``, ``detect_null``, ``f_only``, ``variance_mm``,
        ``permutations``, ``threads``, ``scratch`` (folder for data and residuals that are too large for memory;
        arrays stay where they are); ``device`` (``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:i"``);
        ``checkpoint`` (a file that keeps what is done, removed at the end) and ``resume`` (True: go on from it);
        ``client`` (a `distributed.Client`: its workers run the shuffles, each on the ``device`` it has).

    Returns
    -------
    Randomised

    Raises
    ------
    FileError, DesignError, DeviceError, ValueError
        As the command; `TypeError` for an unknown setting, or one of another type.

    Examples
    --------
    >>> result = gpuvox.randomise("maps.nii.gz", "design.mat", "design.con", mask="gm.nii.gz", tfce=True)
    >>> result.image("tfce_corrp_tstat1")
    """
    check_names(settings)
    settings["scratch"] = check_folder(settings.get("scratch") or "")
    name, resume = settings.pop("checkpoint", None), settings.pop("resume", False)
    if resume and name is None:
        raise ValueError("resume needs the name of a checkpoint")
    if resume:
        settings.setdefault("seed", read_to_resume(name).seed)
    client, device = settings.pop("client", None), settings.pop("device", "auto")
    settings |= {"device": device if client is None else "cpu", "seed": settings.get("seed", draw_seed())}
    options = make_options(settings, one_sample=design is None)
    matrices = {"contrasts": contrasts, "f_tests": f_tests, "blocks": blocks, "effective_design": effective_design}
    inputs, header = read_given(options, data, mask, design, matrices, voxelwise)
    named = dict(zip(inputs.evs, (voxelwise or {}).values()))
    workers = None if client is None else _workers_of(client, device, data, named)
    shufflers = _shufflers(inputs, options)
    origin = os.fspath(design) if isinstance(design, str | os.PathLike) else ""
    for said in [
        *warnings_about_design(inputs, options, tuple(inputs.evs), origin),
        *warnings_about_data(inputs, options),
    ]:
        files.notice(said)
    about = None
    if name is not None:
        about = RunIdentity(fingerprint(hash_inputs(inputs, options), options), shuffle_counts(shufflers, options))
    with Checkpoint(name, about, resume, warnings.warn) if name and about else nullcontext() as checkpoint:
        open_store = checkpoint.store if checkpoint else None
        results = tuple(analyse(inputs, replace(options, workers=workers), open_store=open_store))
        if checkpoint:
            checkpoint.remove()
    for text in (text for result in results for text in result.warnings):
        warnings.warn(text, stacklevel=2)
    if workers:
        workers.release()
    images = [name for name in (data, mask, *(voxelwise or {}).values()) if files.are_names(name)]
    read = tuple(
        os.fspath(path) for name in images for each in files.image_names(name) for path in files.image_files(each)
    )
    return Randomised(results, inputs, options, header, where_run(replace(options, workers=workers)), read)


def _shufflers(inputs: Inputs, options: Options) -> list[tuple[Test, Any]]:
    """Every test with its shuffles, checked."""
    shufflers = [(test, make_shuffler(inputs, options, test)) for test in list_tests(inputs, options)]
    if not shufflers:
        raise DesignError(f"there is no test {options.only_test}")
    check_permutation_counts(shufflers)
    return shufflers


def _workers_of(client: Any, device: Any, data: Any, voxelwise: Mapping[int, Any]) -> DaskWorkers:
    """Workers that may read the images themselves, where all of them are files."""
    if not isinstance(device, str):
        raise TypeError("with a client, device is a name that each worker understands: auto, cpu, cuda or cuda:i")
    check_client(client)
    images = None
    given: dict[int | None, Any] = {None: data} | dict(voxelwise)
    if all(files.are_names(name) for name in given.values()):
        names = {column: files.image_names(name) for column, name in given.items()}
        paths = [path for listed in names.values() for name in listed for path in files.image_files(name)]
        hashes = tuple((os.path.abspath(path), files.hash_file(path)) for path in paths)
        evs = {column: absolute(listed) for column, listed in names.items() if column is not None}
        images = Images(absolute(names[None]), evs, hashes)
    return DaskWorkers(client, device, images, warnings.warn)
