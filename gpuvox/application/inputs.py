"""Files, or arrays from Python, to the inputs of an analysis; what can be wrong with them is found here."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvox import design_checks, files, participants
from gpuvox.analysis import (
    Inputs,
    Options,
    Progress,
    Test,
    list_tests,
    make_shuffler,
)
from gpuvox.application.arrays import as_cohort
from gpuvox.application.command import MOST_SHUFFLES, Command
from gpuvox.application.cost import check_memory
from gpuvox.application.fingerprint import Hashes, hash_files
from gpuvox.application.settings import (
    check_fit,
    check_voxelwise,
    named_matrix,
    need_places,
)
from gpuvox.errors import DesignError, FileError
from gpuvox.exclusion import Columns, split
from gpuvox.grid import Grid
from gpuvox.names import Names, by_name
from gpuvox.participants import Rows, of_matrix
from gpuvox.partitioning import partition
from gpuvox.plain import in_short
from gpuvox.scratch import Data, count_constant, pieces
from gpuvox.shuffle import ImportedShuffler, Permutations, Shuffler, check_blocks
from gpuvox.volume_checks import volume_warnings

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Matrices:
    """Design, contrasts, F tests and blocks of a command."""

    design: NDArray[np.float64]
    contrasts: NDArray[np.float64]
    f_tests: NDArray[np.float64]
    blocks: NDArray[np.int64] | None = None
    effective_design: NDArray[np.float64] | None = None
    names: Names = field(default_factory=Names)
    rows: tuple[Rows | None, ...] = ()


def read_matrices(command: Command, n: int) -> Matrices:
    """Read and check the matrices of a command for n volumes.

    Raises
    ------
    FileError
        A matrix that cannot be read or does not fit the others; the message names the file.
    """
    if command.one_sample and not command.design:
        M, C = files.Matrix(np.ones((n, 1))), files.Matrix(np.ones((1, 1)))
    else:
        if not (command.design and command.contrasts):
            raise FileError(
                "a design (-d) and t contrasts (-t) are needed, both of them, or neither for a one-sample test (-1)"
            )
        M, C = participants.read_matrix(command.design), participants.read_matrix(command.contrasts)
        _check_exchanged(command, M, C, n)
        C = matched(C, M.column_names, command.contrasts, command.design)
    F = files.Matrix(np.zeros((0, len(C.values))))
    if command.f_tests:
        F = matched(participants.read_matrix(command.f_tests), C.row_names, command.f_tests, command.contrasts)
        _fits(command.f_tests, "columns", F.values.shape[1], len(C.values), f"t contrasts in {command.contrasts}")
    _fits(command.design, "rows", len(M.values), n, f"volumes in {command.data}")
    _fits(command.contrasts, "columns", C.values.shape[1], M.values.shape[1], f"columns (EVs) in {command.design}")
    effective = _read_effective(command, n)
    names = Names(M.column_names, C.row_names, F.row_names)
    blocks, of_blocks = _read_blocks(command, n)
    rows = (of_matrix(M, command.design), None if effective is None else effective[1], of_blocks)
    return Matrices(M.values, C.values, F.values, blocks, None if effective is None else effective[0], names, rows)


def matched(matrix: files.Matrix, names: Sequence[str], origin: str, other: str) -> files.Matrix:
    """A matrix with its columns in the order of the names in another; see `names.by_name`."""
    values = by_name(matrix.values, matrix.column_names, names, origin, other)
    return replace(matrix, values=values, column_names=tuple(names) or matrix.column_names)


def _read_effective(command: Command, n: int) -> tuple[NDArray[np.float64], Rows | None] | None:
    name = command.effective_design
    if not name:
        return None
    effective = participants.read_matrix(name)
    _fits(name, "rows", len(effective.values), n, f"volumes in {command.data}")
    return effective.values, of_matrix(effective, name)


def _check_exchanged(command: Command, M: files.Matrix, C: files.Matrix, n: int) -> None:
    """The two files given the wrong way round are told so."""
    if len(M.values) != n and len(C.values) == n and M.values.shape[1] == C.values.shape[1]:
        raise FileError(
            f"{command.design} (-d) has {len(M.values)} rows, and {command.contrasts} (-t) one for each of the {n} "
            "volumes: design and contrasts have been exchanged"
        )


def _fits(name: str, what: str, found: int, expected: int, of: str) -> None:
    if found != expected:
        raise FileError(f"{name} has {found} {what}; there are {expected} {of}")


def _read_blocks(command: Command, n: int) -> tuple[NDArray[np.int64] | None, Rows | None]:
    if not command.blocks:
        return None, None
    matrix = participants.read_matrix(command.blocks)
    blocks = matrix.values
    if blocks.shape[1] != 1:
        raise FileError(
            f"{command.blocks} has {blocks.shape[1]} columns; exchangeability blocks are a single column of numbers"
        )
    _fits(command.blocks, "rows", len(blocks), n, f"volumes in {command.data}")
    if (blocks > n).any():
        raise FileError(
            f"{command.blocks} holds block {blocks.max():g}; the blocks of {n} volumes are numbered 1, 2, 3 … "
            "without gaps"
        )
    try:
        Shuffler(np.zeros((n, 1)), Permutations(1, 0, blocks[:, 0], command.options.whole_blocks))
    except ValueError as error:
        raise FileError(f"{command.blocks}: {error}") from None
    return blocks[:, 0].astype(np.int64), of_matrix(matrix, command.blocks)


def _check_order(command: Command, rows: Sequence[Rows | None]) -> list[str]:
    """Make sure that design and images are of the same participants in the same order, as far as both tell.

    Returns
    -------
    list of str
        Warnings.

    Raises
    ------
    FileError
        With the first row that differs.
    """
    notes: list[str] = []
    known = next((each for each in rows if each is not None), None)
    images = (command.data, *command.voxelwise_files)
    participants.compare_all([*rows, *(participants.of_images(name, known) for name in images)], notes.append)
    for name in images:
        twice = participants.repeated(files.image_names(name))
        if twice:
            option = "-i" if name == command.data else "--vxf"
            notes.append(
                f"{twice} is there twice among the images of {option}; each row of the design is a volume of its own"
            )
    return notes


def _read_permutations(command: Command, tests: Sequence[Test], n: int) -> dict[str, NDArray] | None:
    if not command.permutations:
        return None
    found = {}
    for test in tests:
        name = _permutation_file(command, test)
        found[test.name] = files.read_permutations(name)
        try:
            ImportedShuffler(found[test.name], n)
        except ValueError as error:
            raise FileError(f"{name}: {error}") from None
    return found


def _permutation_file(command: Command, test: Test) -> str:
    """File that ``-P``, with or without ``--film``, wrote for a test."""
    names = [f"{command.permutations}{gap}perm_{test.name}.txt" for gap in ("_", "")]
    name = next((name for name in names if os.path.exists(name)), None)
    if name is None:
        raise FileError(f"no permutations for {test.name}: neither {names[0]} nor {names[1]} exists")
    return name


def read_grid(command: Command, progress: Progress | None = None) -> Grid:
    """The mask, or the voxels that vary."""
    if command.mask:
        return _read_mask(command)
    if command.keep_constant:
        header = files.read_header(files.image_names(command.data)[0])
        return header.grid(np.ones(header.shape[:3], dtype=bool))
    return files.automatic_mask(command.data, progress=_told(f"reading {command.data} for a mask", progress))


def _read_mask(command: Command) -> Grid:
    """The mask, once its header is known to fit those of the data."""
    headers = [files.read_header(name) for name in files.image_names(command.data)]
    mask = files.read_header(command.mask)
    for header in headers:
        files.placed_like(header, mask)
    return files.read_mask(command.mask, headers[0])


def _voxelwise(command: Command, n: int) -> None:
    """Check the options of voxelwise EVs, but for the columns."""
    columns, names = command.voxelwise_columns, command.voxelwise_files
    if len(columns) != len(names):
        raise FileError(f"--vxl names {len(columns)} columns and --vxf {len(names)} files")
    for name in names:
        _fits(name, "volumes", files.count_volumes(name), n, f"in {command.data}")


def n_volumes(command: Command) -> int:
    """Number of volumes of the data, from headers."""
    return files.count_volumes(command.data)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A command checked as far as its small files and the headers of its images go; `inputs` has no data yet."""

    inputs: Inputs
    options: Options
    shufflers: tuple[tuple[Test, Any], ...]
    voxelwise: Mapping[int, str]
    notes: tuple[str, ...] = ()


def prepare(command: Command) -> Prepared:
    """Read and check everything but the images' data.

    Raises
    ------
    FileError, DesignError, ValueError
        One sentence that says what is wrong, and in which file or test.
    """
    n = n_volumes(command)
    matrices = read_matrices(command, n)
    _voxelwise(command, n)
    columns = split(matrices.design, matrices.contrasts, command.voxelwise_columns)
    evs = {columns.number[c]: name for c, name in zip(command.voxelwise_columns, command.voxelwise_files)}
    notes = _check_order(command, matrices.rows)
    empty = np.zeros((0, 0), dtype=np.float32)
    inputs = Inputs(
        empty, Grid(np.zeros((1, 1, 1), dtype=bool)), columns.design, columns.contrasts, matrices.f_tests,
        matrices.blocks, {}, matrices.effective_design, matrices.names.of_columns(columns.kept),
    )  # fmt: skip
    tests = list_tests(inputs, command.options)
    options = replace(command.options, permutations=_read_permutations(command, tests, n))
    for test in tests:
        _check_model(inputs, options, test, voxelwise=bool(evs))
    return Prepared(
        inputs, options, tuple((t, make_shuffler(inputs, options, t)) for t in tests), evs, tuple(notes)
    )


def read_inputs(
    command: Command, say: Say, warn: Say, prepared: Prepared | None = None, progress: Progress | None = None
) -> tuple[Inputs, Options]:
    """Everything a command names, checked, small files before large ones."""
    prepared = prepared or prepare(command)
    check_permutation_counts(prepared.shufflers)
    n = len(prepared.inputs.design)
    for note in prepared.notes:
        warn(note)
    for said in warnings_about_design(
        prepared.inputs, prepared.options, tuple(prepared.voxelwise), command.design
    ):
        warn(said)
    say("Loading Data: ")
    grid = read_grid(command, progress)
    check_memory(n, grid.n_voxels, len(prepared.voxelwise), command.options.scratch)
    data = _read_data(command, command.data, grid, progress)
    maps = {}
    for given, (column, name) in zip(command.voxelwise_columns, prepared.voxelwise.items()):
        say(f"Loading voxelwise ev: {name} for EV {given}")
        maps[column] = _read_data(command, name, grid, progress)
        if column < 0:
            say(_about_exclusion(maps[column]))
    say("Data loaded")
    for sentence in volume_warnings(data, _titles(command.data, n)):
        warn(sentence)
    constant = count_constant(data) if command.mask or command.keep_constant else 0
    if constant:
        warn(
            f"{constant} of the {grid.n_voxels} voxels of the mask do not vary over the {n} volumes; "
            "their statistic is 0"
        )
    inputs = replace(prepared.inputs, data=data, grid=grid, evs=maps)
    for said in warnings_about_data(inputs, prepared.options):
        warn(said)
    return inputs, prepared.options


def warnings_about_design(inputs: Inputs, options: Options, voxelwise: tuple[int, ...], origin: str) -> list[str]:
    """What is odd about a design, in sentences; see `design_checks`."""
    found = design_checks.check_design(
        inputs.design, demean=options.demean, flip=options.flip, voxelwise=voxelwise
    )
    return [design_checks.describe_finding(each, inputs.names.evs, origin or "the design") for each in found]


def warnings_about_data(inputs: Inputs, options: Options) -> list[str]:
    """The same of the data with it."""
    evs = tuple(inputs.evs)
    found = design_checks.check_data_mean(inputs.data, inputs.design, demean=options.demean, voxelwise=evs)
    return [design_checks.describe_finding(each, inputs.names.evs) for each in found]


def _about_exclusion(mask: Data) -> str:
    """At how many voxels, and how many, subjects are left out."""
    counts = np.concatenate([np.count_nonzero(values, axis=0) for _, values in pieces(mask)])[: mask.shape[1]]
    most = counts.max(initial=0)
    return f"It leaves out subjects at {np.count_nonzero(counts)} of {len(counts)} voxels, at most {most} of them"


def _read_data(command: Command, name: str, grid: Grid, progress: Progress | None = None) -> Data:
    scratch, told = command.options.scratch, _told(f"reading {name}", progress)
    if scratch:
        return files.read_tiles(name, grid, scratch, progress=told)
    return files.read_cohort(name, grid, progress=told)


def _told(title: str, progress: Progress | None) -> files.Progress | None:
    """Progress of one reading."""
    return None if progress is None else lambda done, total: progress(title, done, total)


def _check_model(inputs: Inputs, options: Options, test: Test, *, voxelwise: bool) -> None:
    """Placeholders of voxelwise EVs say nothing of rank: then only the contrast is checked."""
    try:
        partition(inputs.design, test.contrast, demean=options.demean, is_f=test.is_f, check=not voxelwise)
    except DesignError as error:
        raise DesignError(f"{test.title}: {error}") from None


def check_permutation_counts(shufflers: Sequence[tuple[Test, Any]]) -> None:
    """No test may need more shuffles than can be run."""
    for test, shuffler in shufflers:
        if shuffler.n > MOST_SHUFFLES:
            kind = "sign-flips" if shuffler.flips else "permutations"
            which = "all there are" if shuffler.exhaustive else "as asked for"
            raise ValueError(
                f"{test.title} would take {in_short(shuffler.n)} {kind}, {which}; at most {MOST_SHUFFLES:,} are "
                "done: ask for a smaller number, other than 0"
            )


def count_voxels(command: Command) -> int:
    """Voxels of the mask; without one, of the images: at most so many."""
    if command.mask:
        return _read_mask(command).n_voxels
    return math.prod(files.read_header(files.image_names(command.data)[0]).shape[:3])


def hash_sources(command: Command, prepared: Prepared) -> Hashes:
    """Every input file with its SHA-256, by option."""
    images: dict[str, Sequence[str | os.PathLike[str]]] = {
        "-i": files.image_names(command.data),
        "--vxf": command.voxelwise_files,
        "-m": [command.mask] if command.mask else [],
    }
    named: dict[str, list[str | os.PathLike[str]]] = {
        option: [path for name in names for path in files.image_files(name)] for option, names in images.items()
    }
    small = {
        "-d": command.design, "-t": command.contrasts, "-f": command.f_tests, "-e": command.blocks,
        "--effective_design": command.effective_design,
    }  # fmt: skip
    named |= {option: [name] for option, name in small.items() if name}
    if command.permutations:
        named["--permutations"] = [_permutation_file(command, test) for test, _ in prepared.shufflers]
    return hash_files(named)


def _without_exclusions(
    M: NDArray[np.float64], C: NDArray[np.float64], voxelwise: Mapping[int, Any]
) -> tuple[Columns, dict[int, Any]]:
    """Design and contrasts without columns that leave subjects out, and voxelwise EVs by the columns that remain."""
    given = [column + 1 if column >= 0 else column for column in voxelwise]
    columns = split(M, C, given)
    named = {columns.number[column]: image for column, image in zip(given, voxelwise.values())}
    return columns, named


def _effective(effective: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    effective = effective[:, None] if effective.ndim == 1 else effective
    if effective.ndim != 2 or len(effective) != n:
        raise DesignError(f"the effective design has shape {effective.shape}; the data have {n} volumes")
    return effective


def read_given(
    options: Options, data: Any, mask: Any, design: Any, matrices: Mapping[str, Any], voxelwise: Any
) -> tuple[Inputs, files.ImageHeader | None]:
    """Data and matrices given to `randomise`, checked, and the header of the data's file."""
    values, grid, header = as_cohort(data, mask, options.scratch)
    n = values.shape[0]
    if mask is None and header is None and not hasattr(data, "dataobj") and np.ndim(data) == 2:
        need_places(options, values.shape)
    for sentence in volume_warnings(values, _titles(data, n)):
        files.notice(sentence)
    if matrices["contrasts"] is None and design is not None:
        raise DesignError("t contrasts are needed with a design")
    named, rows = _given_matrices(n, {"design": design, **matrices})
    D, T, F_tests = named["design"], named["contrasts"], named["f_tests"]
    M, C, F = D.values, T.values, F_tests.values
    check_fit(M, C, F, n)
    images = check_voxelwise(voxelwise, M.shape[1])
    _check_given_order(rows, data, images)
    columns, images = _without_exclusions(M, C, images)
    evs = {column: _as_ev(image, column, grid, n, options.scratch) for column, image in images.items()}
    blocks = check_blocks(named["blocks"].values.reshape(-1), n) if "blocks" in named else None
    effective = _effective(named["effective_design"].values, n) if "effective_design" in named else None
    names = Names(D.column_names, T.row_names, F_tests.row_names).of_columns(columns.kept)
    return Inputs(values, grid, columns.design, columns.contrasts, F, blocks, evs, effective, names), header


GIVEN = {
    "design": "the values of the design", "contrasts": "the contrasts", "f_tests": "the F tests",
    "blocks": "the blocks", "effective_design": "the values of the effective design",
}  # fmt: skip
"""What matrices given from Python are called."""


def _given_matrices(n: int, given: Mapping[str, Any]) -> tuple[dict[str, files.Matrix], list[Rows | None]]:
    """Matrices of `randomise`, columns in the order of their names; whose the rows of some of them are."""
    named = {
        name: named_matrix(given[name], title, rows=name in ("contrasts", "f_tests"))
        for name, title in GIVEN.items()
        if given[name] is not None
    }
    named.setdefault("design", files.Matrix(np.ones((n, 1))))
    T = named.setdefault("contrasts", files.Matrix(np.ones((1, 1))))
    T = named["contrasts"] = matched(
        T, named["design"].column_names, "the table of contrasts", "the table of the design"
    )
    F = named.setdefault("f_tests", files.Matrix(np.zeros((0, len(T.values)))))
    named["f_tests"] = matched(F, T.row_names, "the table of F tests", "the table of contrasts")
    of = {"design": "the design", "blocks": "the blocks", "effective_design": "the effective design"}
    return named, [participants.rows_of(named[name], of[name], given[name]) for name in of if name in named]


def _titles(data: Any, n: int) -> list[str]:
    """What the volumes of the data are called: by the files, or by the participants that a sidecar names."""
    numbers = [f"volume {i}" for i in range(1, n + 1)]
    if not files.are_names(data):
        return numbers
    paths = files.image_names(data)
    names = [path.name for path in paths] if len(paths) == n else files.sidecar(paths[0]).get("Subjects")
    if not isinstance(names, list) or len(names) != n:
        return numbers
    return [f"{number} ({name})" for number, name in zip(numbers, names)]


def _as_ev(image: Any, column: int, grid: Grid, n: int, scratch: str) -> Data:
    """A voxelwise EV: n values a voxel."""
    if files.are_names(image):  # reoriented where need be
        values = files.read_tiles(image, grid, scratch) if scratch else files.read_cohort(image, grid)
    else:
        values = as_cohort(image, grid, scratch, f"the values of the voxelwise EV of column {column}")[0]
    if values.shape[0] != n:
        raise DesignError(f"the voxelwise EV of column {column} has {values.shape[0]} volumes; the data have {n}")
    return values


def _check_given_order(rows: Sequence[Rows | None], data: Any, voxelwise: Mapping[int, Any]) -> None:
    """Like `_check_order`, where the images are files."""
    known = next((each for each in rows if each is not None), None)
    given = [name for name in map(participants.files_of, (data, *voxelwise.values())) if name is not None]
    participants.compare_all([*rows, *(participants.of_images(name, known) for name in given)], files.notice)
    for name in given:
        if twice := participants.repeated(files.image_names(name)):
            files.notice(f"{twice} is there twice in a list of images")
