"""Reads and checks the files, arrays and images that a description names.

Small files and headers come first (`prepare_run`), images later (`read_images`), so that everything that can be wrong
is found as early as possible. All front doors read a source in the same way; messages refer to it by the name of its
file, or else by its role (the design).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gpuvox import design_checks, files, participants
from gpuvox.analysis import Analysis, Inputs, PreparedTest, prepare
from gpuvox.application.arrays import as_cohort, as_grid
from gpuvox.application.command import MOST_PERMUTATIONS, ImageSource, MatrixSource, RunDescription
from gpuvox.application.contrasts import are_texts, read_contrasts
from gpuvox.application.cost import check_memory
from gpuvox.application.settings import matrix_of, need_places
from gpuvox.block_tree import shuffler_of
from gpuvox.device import Device
from gpuvox.errors import DesignError, FileError, InputError, UsageError
from gpuvox.exclusion import split
from gpuvox.files import ImageHeader, Matrix
from gpuvox.grid import Grid
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.names import Names, by_name
from gpuvox.participants import Rows
from gpuvox.plain import format_count, several
from gpuvox.prepared import allowed_by_blocks
from gpuvox.reporter import Reporter
from gpuvox.scratch import Data, count_constant, pieces
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.types import AnyArray, Float64, Ints
from gpuvox.volume_checks import volume_warnings

NAMES = {
    "design": "the design", "contrasts": "the matrix of contrasts", "f_tests": "the matrix of F tests",
    "blocks": "the exchangeability blocks", "effective_design": "the effective design",
}  # fmt: skip
"""How messages refer to matrices that are not files."""


# -- matrices -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SourceMatrix:
    """A matrix and its source.

    Attributes
    ----------
    matrix : files.Matrix
    origin : str
        Its file or role, for messages.
    rows : Rows or None
        Participants of its rows.
    is_file : bool
    """

    matrix: Matrix
    origin: str
    rows: Rows | None = None
    is_file: bool = False

    @property
    def values(self) -> Float64:
        """The values of the matrix."""
        return self.matrix.values

    def error(self, text: str) -> InputError:
        """An error about this matrix; `text` follows its name."""
        sentence = f"{self.origin} {text}"
        return FileError(sentence, file=self.origin) if self.is_file else DesignError(sentence)


def read_source(source: MatrixSource, kind: str) -> SourceMatrix:
    """Read a matrix.

    Parameters
    ----------
    source : MatrixSource
    kind : str
        One of `NAMES`.

    Raises
    ------
    FileError
        As for `participants.read_matrix`.
    InputError
        The values are not numbers, not finite, or not two-dimensional.
    """
    if isinstance(source, str | os.PathLike):
        matrix, origin = participants.read_matrix(source), os.fspath(source)
        return SourceMatrix(matrix, origin, participants.rows_of(matrix, origin, source), True)
    matrix, origin = matrix_of(source, NAMES[kind], rows=kind in ("contrasts", "f_tests")), NAMES[kind]
    if kind in ("blocks", "effective_design") and matrix.values.ndim == 1:
        matrix = replace(matrix, values=matrix.values[:, None])
    if matrix.values.ndim != 2:
        raise DesignError(f"{origin} has shape {matrix.values.shape}; a matrix is expected")
    rows = None if kind in ("contrasts", "f_tests") else participants.rows_of(matrix, origin, source)
    return SourceMatrix(matrix, origin, rows)


@dataclass(frozen=True, eq=False)
class Matrices:
    """Design, contrasts, F tests and blocks of a run."""

    design: Float64
    contrasts: Float64
    f_tests: Float64
    blocks: Ints | None
    effective_design: Float64 | None
    names: Names
    rows: tuple[Rows | None, ...]


def read_matrices(description: RunDescription, n: int) -> Matrices:
    """Read the matrices of a description, and check that they fit each other and n volumes.

    Raises
    ------
    FileError, DesignError
        A matrix cannot be read or does not fit; the message names it.
    """
    in_data = f"in {_data_name(description)}"
    if description.design is None:
        if not description.one_sample:
            raise UsageError(
                "a design (-d) and t contrasts (-t) are needed, both of them, or neither for a one-sample test (-1)"
            )
        design = SourceMatrix(Matrix(np.ones((n, 1))), NAMES["design"])
    else:
        design = read_source(description.design, "design")
    contrasts = _read_contrasts(description, design, n)
    f_tests = SourceMatrix(Matrix(np.zeros((0, len(contrasts.values)))), NAMES["f_tests"])
    if description.f_tests is not None:
        f_tests = _matched(
            read_source(description.f_tests, "f_tests"), contrasts.matrix.row_names, contrasts.origin
        )
        _check_size(f_tests, "column", len(contrasts.values), "t contrast", f"in {contrasts.origin}")
    _check_size(design, "row", n, "volume", in_data)
    _check_size(contrasts, "column", design.values.shape[1], "column", f"(EVs) in {design.origin}")
    effective = None
    if description.effective_design is not None:
        effective = read_source(description.effective_design, "effective_design")
        _check_size(effective, "row", n, "volume", in_data)
    blocks, of_blocks = _read_blocks(description, n)
    names = Names(design.matrix.column_names, contrasts.matrix.row_names, f_tests.matrix.row_names)
    rows = (design.rows, None if effective is None else effective.rows, of_blocks)
    return Matrices(
        design.values, contrasts.values, f_tests.values, blocks, None if effective is None else effective.values,
        names, rows,
    )  # fmt: skip


def _read_contrasts(description: RunDescription, design: SourceMatrix, n: int) -> SourceMatrix:
    if description.contrasts is None:
        if description.design is not None:
            raise DesignError("t contrasts are needed with a design (-t)", option="-t")
        return SourceMatrix(Matrix(np.ones((1, 1))), NAMES["contrasts"])
    if are_texts(description.contrasts):
        matrix = read_contrasts(description.contrasts, design.matrix.column_names)
        return SourceMatrix(matrix, NAMES["contrasts"])
    contrasts = read_source(description.contrasts, "contrasts")
    if (
        len(design.values) != n
        and len(contrasts.values) == n
        and design.values.shape[1] == contrasts.values.shape[1]
    ):
        raise design.error(
            f"(-d) has {len(design.values)} rows, and {contrasts.origin} (-t) one for each of the {n} volumes: design "
            "and contrasts have been exchanged"
        )
    return _matched(contrasts, design.matrix.column_names, design.origin)


def _matched(source: SourceMatrix, names: Sequence[str], other: str) -> SourceMatrix:
    """A matrix with its columns in the order of the names in another; see `names.by_name`."""
    matrix = source.matrix
    values = by_name(matrix.values, matrix.column_names, names, source.origin, other)
    return replace(source, matrix=replace(matrix, values=values, column_names=tuple(names) or matrix.column_names))


def _check_size(source: SourceMatrix, what: str, expected: int, noun: str, where: str) -> None:
    """Check the number of rows or columns of a matrix."""
    size = source.values.shape[what == "column"]
    if size != expected:
        has = "have" if source.origin == NAMES["blocks"] else "has"
        are = "is" if expected == 1 else "are"
        raise source.error(f"{has} {several(size, what)}; there {are} {several(expected, noun)} {where}")


def _read_blocks(description: RunDescription, n: int) -> tuple[Ints | None, Rows | None]:
    if description.blocks is None:
        return None, None
    source = read_source(description.blocks, "blocks")
    blocks = source.values if source.is_file or len(source.values) == n else source.values.reshape(-1, 1)
    if source.is_file and blocks.shape[1] != 1:
        raise source.error(f"has {blocks.shape[1]} columns; exchangeability blocks are a single column of numbers")
    _check_size(replace(source, matrix=Matrix(blocks)), "row", n, "volume", f"in {_data_name(description)}")
    blocks = blocks[:, 0] if blocks.shape[1] == 1 else blocks
    if blocks.ndim == 1 and (blocks > n).any():
        raise source.error(
            f"{'holds' if source.is_file else 'hold'} block {blocks.max():g}; the blocks of {n} volumes are numbered "
            "1, 2, 3 … without gaps"
        )
    try:
        shuffler_of(np.zeros((n, 1)), Permutations(1, 0, blocks, description.options.whole_blocks))
    except InputError as error:
        raise (FileError(f"{source.origin}: {error}") if source.is_file else DesignError(str(error))) from None
    return blocks.astype(np.int64), source.rows


class PermutationFiles(dict[str, AnyArray]):
    """The imported permutations of each test, read from their file on first access.

    Parameters
    ----------
    root : str
        Root of the files that ``-P`` wrote, with or without ``--film``, or that PALM did.
    n_contrasts : int
        Number of t contrasts.
    possible : Shuffler
        All that the exchangeability blocks allow.
    """

    def __init__(self, root: str, n_contrasts: int, possible: Shuffler) -> None:
        super().__init__()
        self.root, self.n_contrasts, self.possible = root, n_contrasts, possible

    def __missing__(self, test: str) -> AnyArray:
        name = permutation_file(self.root, test, self.n_contrasts)
        table = files.read_permutations(name)
        try:
            ImportedShuffler(table, self.possible.n_rows, self.possible)
        except InputError as error:
            raise FileError(f"{name}: {error}", file=name) from None
        self[test] = table
        return table


def permutation_file(root: str, test: str, n_contrasts: int) -> str:
    """The file that ``-P`` wrote for a test, with or without ``--film``; or PALM, which counts F tests after t."""
    names = [f"{root}{gap}perm_{test}.txt" for gap in ("_", "")]
    number = int(test[5:]) + (n_contrasts if test.startswith("f") else 0)
    name = next((name for name in names if os.path.exists(name)), files.find_permidx(root, number))
    if name is None:
        raise FileError(
            f"no permutations for {test}: neither {names[0]} nor {names[1]} nor {root}_c{number}_permidx.csv exists"
        )
    return name


# -- the run, before its images are read ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A description with its tests, checked as far as small files and headers allow.

    Attributes
    ----------
    description : RunDescription
    analysis : Analysis
        Without images until `read_images`, except for data from memory.
    evs : dict of int to ImageSource
        Voxelwise EVs by column of the design of `analysis`.
    warnings : tuple of str
    header : ImageHeader or None
        Header whose geometry the outputs use; None if the data come from memory.
    is_read : bool
        Whether the images have been read.
    """

    description: RunDescription
    analysis: Analysis
    evs: Mapping[int, ImageSource]
    warnings: tuple[str, ...] = ()
    header: ImageHeader | None = None
    is_read: bool = False

    @property
    def images_are_files(self) -> bool:
        """Whether all images are read from named files."""
        mask = self.description.mask
        sources = [self.description.data, *self.evs.values(), *([] if mask is None else [mask])]
        return all(files.are_names(source) for source in sources)


def prepare_run(description: RunDescription, device: Device | None = None) -> PreparedRun:
    """Read and check everything except image files, and prepare the tests.

    Parameters
    ----------
    description : RunDescription
    device : Device, optional
        The device on which permutations will run.

    Raises
    ------
    FileError, DesignError, InputError
        The message is one sentence that names the file or test.
    """
    data, grid = _data_from_memory(description)
    n = files.count_volumes(description.data) if data is None else data.shape[0]
    matrices = read_matrices(description, n)
    _check_voxelwise(description, n, matrices.design.shape[1])
    voxelwise_columns = [column for column, _ in description.voxelwise]
    columns = split(matrices.design, matrices.contrasts, voxelwise_columns)
    evs = {columns.number[column]: source for column, source in description.voxelwise}
    warnings = tuple(_check_order(description, matrices.rows))
    unread = np.zeros((n, 0), dtype=np.float32)
    inputs = Inputs(
        unread if data is None else data, grid, columns.design, columns.contrasts, matrices.f_tests,
        matrices.blocks, dict.fromkeys(evs, unread), matrices.effective_design,
        matrices.names.of_columns(columns.kept),
    )  # fmt: skip
    options = replace(description.options, device=device)
    if description.permutations:
        possible = allowed_by_blocks(inputs, options)
        options = replace(
            options, permutations=PermutationFiles(description.permutations, len(columns.contrasts), possible)
        )
    return PreparedRun(description, prepare(inputs, options), evs, warnings)


def _data_from_memory(description: RunDescription) -> tuple[Data | None, Grid]:
    """Data that are not files, and their grid; None for files."""
    data, options = description.data, description.options
    if files.are_names(data):
        return None, Grid(np.zeros((1, 1, 1), dtype=bool))
    values, grid, _ = as_cohort(data, description.mask, options.scratch, missing=options.missing_voxels)
    if description.mask is None and not hasattr(data, "dataobj") and np.ndim(data) == 2:
        need_places(options, values.shape)
    return values, grid


def _check_voxelwise(description: RunDescription, n: int, n_columns: int) -> None:
    """Check columns and numbers of volumes of voxelwise EVs from their headers."""
    for column, source in description.voxelwise:
        if column > n_columns:
            raise DesignError(
                f"--vxl {column}: the columns of the design are numbered from 1 to {n_columns} (from 0 to "
                f"{n_columns - 1} for voxelwise= from Python)",
                option="--vxl",
            )
        if files.are_names(source):
            size = files.count_volumes(source)
            if size != n:
                raise FileError(
                    f"{_source_name(source, 'the voxelwise EV')} has {size} volumes; there are {n} in "
                    f"{_data_name(description)}"
                )


def _check_order(description: RunDescription, rows: Sequence[Rows | None]) -> list[str]:
    """Compare the participants of design and images, as far as both are known; returns warnings.

    Raises
    ------
    FileError
        The participants differ; the message states the first row.
    """
    warnings: list[str] = []
    known = next((each for each in rows if each is not None), None)
    sources = {"the data": description.data if description.origin is None else description.origin}
    sources |= {f"the voxelwise EV of column {column}": source for column, source in description.voxelwise}
    images = {title: participants.files_of(source) for title, source in sources.items()}
    of_images = (participants.of_images(names, known) for names in images.values() if names is not None)
    participants.compare_all([*rows, *of_images], warnings.append)
    for title, names in images.items():
        twice = "" if names is None else participants.repeated(files.image_names(names))
        if twice:
            warnings.append(
                f"{twice} appears twice among the images of {title}; each row of the design needs its own volume"
            )
    return warnings


def check_permutation_counts(tests: Sequence[PreparedTest]) -> None:
    """Refuse tests with more permutations than can be run.

    Raises
    ------
    UsageError
    """
    for prepared in tests:
        shuffler = prepared.shuffler
        if shuffler.n > MOST_PERMUTATIONS:
            which = "all there are" if shuffler.exhaustive else "as asked for"
            raise UsageError(
                f"{prepared.test.title} would take {format_count(shuffler.n)} {shuffler.kind}, {which}; at most "
                f"{MOST_PERMUTATIONS:,} are possible: choose a smaller number, other than 0",
                option="-n",
            )


# -- images ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class SharedImages:
    """The images that were read last, for the next run of the same command if it reads the same.

    Attributes
    ----------
    sources : tuple
        Data, mask and so on, as a description names them.
    header : ImageHeader or None
    data, grid, evs
        See `Inputs`.
    """

    sources: tuple[Any, ...] = ()
    header: ImageHeader | None = None
    data: Data | None = None
    grid: Grid | None = None
    evs: Mapping[int, Data] = field(default_factory=dict)

    def of(self, run: PreparedRun) -> PreparedRun | None:
        """The run with its images, if they are those that were read last."""
        if self.data is None or self.grid is None or self.sources != _sources(run):
            return None
        return replace(
            run,
            analysis=run.analysis.with_data(self.data, self.grid, self.evs),
            header=self.header,
            is_read=True,
        )

    def keep(self, run: PreparedRun) -> None:
        """Remember the images of a run that has been read from files."""
        if run.images_are_files:
            inputs = run.analysis.inputs
            self.sources, self.header = _sources(run), run.header
            self.data, self.grid, self.evs = inputs.data, inputs.grid, inputs.evs


def _sources(run: PreparedRun) -> tuple[Any, ...]:
    """What determines the arrays that a run reads."""
    description = run.description
    names = [files.image_names(source) for source in (description.data, *run.evs.values())]
    options = description.options
    how = description.keep_constant, options.scratch, options.missing_voxels
    return (names, list(run.evs), description.mask, *how)


def read_images(run: PreparedRun, reporter: Reporter, shared: SharedImages | None = None) -> PreparedRun:
    """Read the mask, the data and the voxelwise EVs, and report warnings about them.

    Parameters
    ----------
    run : PreparedRun
    reporter : Reporter
    shared : SharedImages, optional
        The images of the run before this one, and afterwards those of this one.

    Raises
    ------
    FileError, InputError
        An image cannot be read, is on another grid, or does not fit in memory.
    """
    if run.is_read:
        return run
    for warning in [*run.warnings, *_design_warnings(run), *_stand_in_warnings(run)]:
        reporter.warn(warning)
    known = shared.of(run) if shared is not None and run.images_are_files else None
    run = known or _read(run, reporter)
    for warning in _data_warnings(run.description, run.analysis):
        reporter.warn(warning)
    if shared is not None:
        shared.keep(run)
    return run


def _read(run: PreparedRun, reporter: Reporter) -> PreparedRun:
    description, analysis = run.description, run.analysis
    reporter.say("Loading Data: ")
    header, data, grid = None, analysis.inputs.data, analysis.inputs.grid
    scratch, n = description.options.scratch, len(analysis.inputs.design)
    if files.are_names(description.data):
        grid, header = read_grid(description, reporter)
        check_memory(n, grid.n_voxels, len(run.evs), scratch)
        data = _read_data(description.data, grid, scratch, reporter, description.options.missing_voxels)
    evs = {}
    for (number, _), (column, source) in zip(description.voxelwise, run.evs.items()):
        reporter.say(f"Loading voxelwise ev: {_source_name(source, 'from memory')} for EV {number}")
        evs[column] = _read_ev(source, number, grid, n, scratch, reporter)
        if column < 0:
            reporter.say(_describe_exclusion(evs[column]))
    reporter.say("Data loaded")
    return replace(run, analysis=analysis.with_data(data, grid, evs), header=header, is_read=True)


def read_grid(description: RunDescription, reporter: Reporter) -> tuple[Grid, ImageHeader]:
    """The voxels to analyse, and the header whose geometry the outputs use, for data in files."""
    first = files.read_header(files.image_names(description.data)[0])
    everywhere = first.grid(np.ones(first.shape[:3], dtype=bool))
    if description.mask is None:
        if description.keep_constant:
            return everywhere, first
        title = f"reading {_data_name(description)} for a mask"
        return files.automatic_mask(description.data, progress=_task(title, reporter)), first
    if isinstance(description.mask, str | os.PathLike):
        return _read_mask(description, description.mask), files.read_header(description.mask)
    return as_grid(description.mask, everywhere, os.fspath(first.path)), first


def _read_mask(description: RunDescription, name: files.Name) -> Grid:
    """Read the mask after checking its header against that of the data."""
    headers = [files.read_header(name) for name in files.image_names(description.data)]
    mask = files.read_header(name)
    for header in headers:
        files.placed_like(header, mask)
    return files.read_mask(name, headers[0])


def count_voxels(run: PreparedRun) -> int:
    """Number of voxels of the mask; without a mask, that of the images as an upper bound."""
    description = run.description
    if not run.images_are_files:
        return run.analysis.inputs.grid.n_voxels
    if description.mask is not None:
        return _read_mask(description, description.mask).n_voxels
    return math.prod(files.read_header(files.image_names(description.data)[0]).shape[:3])


def _read_data(source: ImageSource, grid: Grid, scratch: str, reporter: Reporter, missing: bool = False) -> Data:
    progress = _task(f"reading {_source_name(source, 'the images')}", reporter)
    if scratch:
        return files.read_tiles(source, grid, scratch, progress=progress)
    return files.read_cohort(source, grid, progress=progress, missing=missing)


def _read_ev(source: ImageSource, number: int, grid: Grid, n: int, scratch: str, reporter: Reporter) -> Data:
    """A voxelwise EV with n values per voxel; files are reoriented if necessary."""
    if files.are_names(source):
        return _read_data(source, grid, scratch, reporter)
    title = f"the values of the voxelwise EV of column {number} (counted from 1)"
    values = as_cohort(source, grid, scratch, title)[0]
    if values.shape[0] != n:
        raise DesignError(
            f"the voxelwise EV of column {number} (counted from 1) has {values.shape[0]} volumes; the data have {n}"
        )
    return values


def _task(title: str, reporter: Reporter) -> files.Progress:
    """Progress of reading one image."""
    return lambda done, total: reporter.progress(title, done, total)


# -- names and warnings ---------------------------------------------------------------------------------------------


def _source_name(source: ImageSource, otherwise: str) -> str:
    """How messages refer to an image: by its name, if it has a single one."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else otherwise


def _data_name(description: RunDescription) -> str:
    return _source_name(description.data, "the data")


def _design_warnings(run: PreparedRun) -> list[str]:
    """Warnings about the design; see `design_checks`."""
    inputs, options, design = run.analysis.inputs, run.analysis.options, run.description.design
    findings = design_checks.check_design(
        inputs.design,
        demean=options.demean,
        flip=options.flip or options.permute_and_flip,
        voxelwise=tuple(run.evs),
    )
    origin = _source_name(design, NAMES["design"])
    return [design_checks.describe_finding(each, inputs.names.evs, origin) for each in findings]


def _stand_in_warnings(run: PreparedRun) -> Iterator[str]:
    """Warnings about tests of voxelwise EVs whose values in the design leave no rows to permute."""
    inputs, options = run.analysis.inputs, run.analysis.options
    if inputs.effective_design is not None or options.flip or options.permute_and_flip or options.permutations:
        return
    for prepared in run.analysis.tests:
        tested = [c for c in run.evs if c >= 0 and prepared.test.contrast[:, c].any()]
        if tested and (prepared.shuffler.flips or prepared.shuffler.n_distinct == 1):
            instead = "signs are flipped" if prepared.shuffler.flips else "there is nothing to permute"
            yield (
                f"{prepared.test.title}: {instead}, because rows are interchangeable if the design is equal in what is "
                f"tested, whatever the voxelwise EV (as in FSL), and column {tested[0] + 1} of the design has the same "
                "value in all rows: fill it with different numbers, such as the mean of each image of the EV"
            )


def _data_warnings(description: RunDescription, analysis: Analysis) -> list[str]:
    """Warnings about the data: constant or identical volumes, constant voxels, means that are not modelled."""
    inputs, options = analysis.inputs, analysis.options
    n = inputs.data.shape[0]
    warnings = list(volume_warnings(inputs.data, _volume_titles(description.data, n)))
    if description.mask is not None or description.keep_constant:
        constant = count_constant(inputs.data)
        if constant:
            warnings.append(
                f"{constant} of the {inputs.grid.n_voxels} voxels of the mask do not vary over the {n} volumes; "
                "their statistic is 0"
            )
    if options.missing_voxels:
        return warnings
    findings = design_checks.check_data_mean(
        inputs.data, inputs.design, demean=options.demean, voxelwise=tuple(inputs.evs)
    )
    return warnings + [design_checks.describe_finding(each, inputs.names.evs) for each in findings]


def _volume_titles(data: ImageSource, n: int) -> list[str]:
    """How messages refer to the volumes: by their files, or by the participants in a sidecar."""
    numbers = [f"volume {i}" for i in range(1, n + 1)]
    if not files.are_names(data):
        return numbers
    paths = files.image_names(data)
    names = [path.name for path in paths] if len(paths) == n else files.sidecar(paths[0]).get("Subjects")
    if not isinstance(names, list) or len(names) != n:
        return numbers
    return [f"{number} ({name})" for number, name in zip(numbers, names)]


def _describe_exclusion(mask: Data) -> str:
    """The number of voxels at which participants are excluded, and of participants."""
    counts = np.concatenate([np.count_nonzero(values, axis=0) for _, values in pieces(mask)])[: mask.shape[1]]
    most = counts.max(initial=0)
    n_voxels = np.count_nonzero(counts)
    return f"Participants are excluded at {n_voxels} of {len(counts)} voxels, at most {most} at one voxel"
