"""The files of a run: data, masks, designs, contrasts and blocks, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import numpy as np

from gpuvox import files, participants
from gpuvox.application.cost import check_memory
from gpuvox.application.palm.description import PalmDescription, is_table
from gpuvox.errors import FileError, UsageError
from gpuvox.files.images import mask_of
from gpuvox.files.rounding import Rounding
from gpuvox.grid import Grid
from gpuvox.reporter import Reporter
from gpuvox.types import AnyArray, Bools, Float32, Float64, Ints

ReadTable = Callable[[str], files.Matrix]
"""Reads an input that is a table, which may be large, once."""
MOST_DECIMALS = 6
"""Decimals of a table up to which its numbers are made whole."""
MOST_WHOLE = 2.0**24
"""Whole numbers below this are exact in float32."""


@dataclass(frozen=True, eq=False)
class Modality:
    """The data of one input.

    Attributes
    ----------
    data : (n, V) float32
    grid : Grid
        Of a table, its columns in a row.
    header : ImageHeader or None
        Whose geometry images take; None for tables.
    name : str
        The file.
    missing : (n, V) or (n, 1) bool, optional
        Which data are missing.
    unit : float
        What the data are multiples of. No statistic depends on it.
    """

    data: Float32
    grid: Grid
    header: files.ImageHeader | None
    name: str
    missing: Bools | None = None
    unit: float = 1.0

    @cached_property
    def with_gaps(self) -> Float32:
        """(n, V) The data, NaN where they are missing; the same array for all tests."""
        data = np.array(self.data)
        if self.missing is not None:
            data[np.broadcast_to(self.missing, data.shape)] = np.nan
        return data

    def only(self, chosen: Ints) -> Modality:
        """The same with some of the observations."""
        missing = None if self.missing is None else self.missing[chosen]
        return replace(self, data=self.data[chosen], missing=missing)


@dataclass(frozen=True, eq=False)
class Design:
    """A design with its contrasts.

    Attributes
    ----------
    matrix : (n, p) float64
    contrasts : (k, p) float64
        t contrasts.
    f_contrasts : (f, k) bool
        Which of them each F contrast stacks.
    name : str
        The file.
    missing : (n,) bool
        Rows with a regressor that is missing.
    """

    matrix: Float64
    contrasts: Float64
    f_contrasts: Bools
    name: str
    missing: Bools


@dataclass(frozen=True, eq=False)
class PalmInputs:
    """Everything that is read.

    Attributes
    ----------
    modalities : tuple of Modality
    designs : tuple of Design
    blocks : (n,) or (n, levels) int64, optional
    groups : (n,) int64, optional
        Variance groups.
    regressors : dict of (str, int) to (n, V) float32
        Values of regressors for each voxel, by their file and the number of the modality.
    """

    modalities: tuple[Modality, ...]
    designs: tuple[Design, ...]
    blocks: Ints | None = None
    groups: Ints | None = None
    regressors: Mapping[tuple[str, int], Float32] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of observations."""
        return len(self.designs[0].matrix)

    def only(self, chosen: Ints) -> PalmInputs:
        """The same with some of the observations, by their numbers from 0."""
        return PalmInputs(
            tuple(modality.only(chosen) for modality in self.modalities),
            tuple(
                replace(design, matrix=design.matrix[chosen], missing=design.missing[chosen])
                for design in self.designs
            ),
            None if self.blocks is None else self.blocks[chosen],
            None if self.groups is None else self.groups[chosen],
            {key: values[chosen] for key, values in self.regressors.items()},
        )


def read_inputs(description: PalmDescription, reporter: Reporter) -> PalmInputs:
    """Read all files of a run, small ones first.

    Raises
    ------
    FileError, DesignError, UsageError
        A file cannot be read, or does not fit the others; the sentence names it.
    """
    _check_counts(description)
    _check_regressors(description)
    chosen = _subjects(description)
    read_table = cache(files.read_numbers)
    n = _count_observations(description, read_table)
    designs = tuple(_read_design(description, number, n) for number in range(max(len(description.designs), 1)))
    _check_participants(description, read_table)
    ways = description.exchangeability
    blocks = _read_integers(ways.blocks, n, "exchangeability blocks")
    if blocks is not None and blocks.shape[1] == 1:
        blocks = blocks[:, 0]
        _check_one_level(blocks, ways.blocks)
    groups = None
    if ways.groups not in ("", "auto"):
        groups = _one_column(_read_integers(ways.groups, n, "variance groups"), ways.groups)
    modalities = tuple(
        _read_modality(description, number, read_table, reporter) for number in range(len(description.inputs))
    )
    inputs = PalmInputs(modalities, designs, blocks, groups, _read_regressors(description, modalities, read_table))
    if chosen is None:
        return inputs
    if chosen.max(initial=-1) >= n:
        raise FileError(
            f"{description.subjects}: there is no observation {chosen.max() + 1} among {n}",
            file=description.subjects,
        )
    return inputs.only(chosen)


def _check_counts(description: PalmDescription) -> None:
    n_inputs, n_designs = len(description.inputs), len(description.designs)
    if len(description.masks) not in (0, 1, n_inputs):
        raise UsageError(
            f"{len(description.masks)} masks are given with -m and {n_inputs} inputs with -i; "
            "one mask for all or one for each is expected", option="-m",
        )  # fmt: skip
    if len(description.contrasts) != n_designs:
        raise UsageError(
            f"{len(description.contrasts)} files of t contrasts are given with -t and {n_designs} designs with -d; "
            "one for each design is expected", option="-t",
        )  # fmt: skip
    if len(description.f_contrasts) > n_designs:
        raise UsageError(
            f"{len(description.f_contrasts)} files of F contrasts are given with -f and {n_designs} designs with -d; "
            "at most one for each design is expected", option="-f",
        )  # fmt: skip
    if description.design_per_input and n_designs != n_inputs:
        raise UsageError(
            f"-designperinput: {n_designs} designs are given with -d and {n_inputs} inputs with -i; "
            "one for each input is expected", option="-designperinput",
        )  # fmt: skip
    tables = [name for name in description.inputs if is_table(name)]
    if tables and len(tables) < n_inputs:
        other = next(name for name in description.inputs if name not in tables)
        raise UsageError(
            f"-i: {tables[0]} is a table and {other} an image; inputs of one kind are expected", option="-i"
        )
    space = description.spatial
    if tables and (space.threshold is not None or (space.tfce and space.dimensions != 1)):
        option = "-T" if space.tfce else "-C"
        raise UsageError(
            f"{option}: {tables[0]} is a table, whose columns have no neighbours; -T -tfce1D takes them for a series",
            option=option,
        )
    if tables and description.masks:
        raise UsageError(f"-m: {tables[0]} is a table, of which all columns are analysed", option="-m")
    for name in (*description.inputs, *description.masks):
        if name.lower().endswith((".mgh", ".mgz", ".gii", ".dpv", ".dpx", ".dpf", ".srf")) or ".dscalar" in name:
            raise UsageError(f"{name} is a surface, or data of one; NIfTI images and tables (.csv) are analysed")


def _count_observations(description: PalmDescription, read_table: ReadTable) -> int:
    """The number of observations of the first input; the others are compared with it."""
    counts = [_observations(description, name, read_table) for name in description.inputs]
    for name, count in zip(description.inputs, counts):
        if count != counts[0]:
            raise FileError(
                f"{name} has {count} observations and {description.inputs[0]} {counts[0]}; the shufflings apply to all "
                "inputs, which must have as many", file=name,
            )  # fmt: skip
    return counts[0]


def _observations(description: PalmDescription, name: str, read_table: ReadTable) -> int:
    if is_table(name):
        return read_table(name).values.shape[1 if description.transpose else 0]
    return files.count_volumes(name)


def _read_design(description: PalmDescription, number: int, n: int) -> Design:
    if not description.designs:
        return Design(np.ones((n, 1)), np.ones((1, 1)), np.zeros((0, 1), bool), "the mean", np.zeros(n, bool))
    name = description.designs[number]
    matrix = _fitting(files.read_numbers(name).values, n, name, description)
    p = matrix.shape[1]
    contrasts = files.read_numbers(description.contrasts[number]).values
    p = max(p, *(regressor.column for regressor in description.regressors if regressor.design == number + 1), p)
    if contrasts.shape[1] not in (matrix.shape[1], p):
        raise FileError(
            f"{description.contrasts[number]} has {contrasts.shape[1]} columns and {name} {matrix.shape[1]}; "
            "a weight for each regressor is expected", file=description.contrasts[number],
        )  # fmt: skip
    f_rows = np.zeros((0, len(contrasts)), bool)
    if number < len(description.f_contrasts):
        f_name = description.f_contrasts[number]
        f_rows = files.read_numbers(f_name).values != 0
        if f_rows.shape[1] != len(contrasts):
            raise FileError(
                f"{f_name} has {f_rows.shape[1]} columns; a column for each of the {len(contrasts)} t contrasts of "
                f"{description.contrasts[number]} is expected", file=f_name,
            )  # fmt: skip
        if not f_rows.any(axis=1).all():
            empty = int(np.argmin(f_rows.any(axis=1))) + 1
            raise FileError(f"{f_name}: row {empty} stacks no t contrast", file=f_name)
    missing = np.zeros(n, bool)
    if number < len(description.missing_designs):
        flags = _read_integers(
            description.missing_designs[number], n, "what is missing is 1, what is there 0, and both"
        )
        missing = (flags != 0).any(axis=1) if flags is not None else missing
    return Design(matrix, contrasts, f_rows, name, missing)


def _fitting(values: AnyArray, n: int, name: str, description: PalmDescription) -> AnyArray:
    if len(values) != n:
        raise FileError(f"{name} has {len(values)} rows; {description.inputs[0]} has {n} observations", file=name)
    return values


def _read_integers(name: str, n: int, what: str) -> Ints | None:
    """Whole numbers for each observation, (n, columns)."""
    if not name:
        return None
    values = files.read_numbers(name).values
    if values.shape[0] != n:
        raise FileError(
            f"{name} has {len(values)} rows; a row for each of the {n} observations is expected", file=name
        )
    if not (values == np.round(values)).all():
        row, column = np.argwhere(values != np.round(values))[0]
        raise FileError(
            f"{name}: {values[row, column]:g} in row {row + 1}, column {column + 1}, is not a whole number; {what} are "
            "numbered", file=name,
        )  # fmt: skip
    return values.astype(np.int64)


def _check_one_level(blocks: Ints, name: str) -> None:
    """Refuse a block 0, whose rows FSL's randomise leaves in place, and negative blocks, which only trees have."""
    wrong = np.flatnonzero(blocks < 1)
    if len(wrong):
        raise FileError(
            f"{name}: exchangeability block {blocks[wrong[0]]} in row {wrong[0] + 1}; the blocks of a single column "
            "are numbered from 1", file=name,
        )  # fmt: skip


def _one_column(values: Ints | None, name: str) -> Ints | None:
    if values is not None and values.shape[1] != 1:
        raise FileError(
            f"{name} has {values.shape[1]} columns; one number for each observation is expected", file=name
        )
    return None if values is None else values[:, 0]


def _subjects(description: PalmDescription) -> Ints | None:
    """The observations that are analysed, from 0; None for all."""
    if not description.subjects:
        return None
    values = files.read_numbers(description.subjects).values.ravel()
    if not ((values == np.round(values)) & (values >= 1)).all() or len(set(values)) < len(values):
        raise FileError(
            f"{description.subjects}: different whole numbers from 1 are expected, the observations to analyse",
            file=description.subjects,
        )
    return values.astype(np.int64) - 1


def _with_names(name: str) -> files.Matrix:
    """A matrix, with the names of its rows if the file, or the JSON file beside a VEST matrix, has any."""
    matrix = files.read_numbers(name)
    is_vest = not matrix.row_names and not matrix.column_names and name.endswith((".mat", ".grp"))
    return participants.read_matrix(name) if is_vest else matrix


def _check_participants(description: PalmDescription, read_table: ReadTable) -> None:
    """Compare the participants of designs, blocks and images, as far as files name them.

    Raises
    ------
    FileError
        The participants differ; the sentence names the first row.
    """
    ways = description.exchangeability
    named = [name for name in (*description.designs, ways.blocks, ways.groups) if name not in ("", "auto")]
    rows = [participants.of_matrix(_with_names(name), name) for name in named]
    known = next((each for each in rows if each is not None), None)
    images = [name for name in description.inputs if not is_table(name)]
    tables = [
        participants.of_matrix(read_table(name), name)
        for name in description.inputs
        if is_table(name) and not description.transpose
    ]
    participants.compare_all([*rows, *tables, *(participants.of_images(name, known) for name in images)])


# ---------------------------------------------------------------------------------------------------------- the data


def _read_modality(
    description: PalmDescription, number: int, read_table: ReadTable, reporter: Reporter
) -> Modality:
    name = description.inputs[number]
    indicator = description.missing[number] if number < len(description.missing) else ""
    if is_table(name):
        return _of_table(description, name, read_table(name).values, indicator, reporter)
    header = files.read_header(name)
    mask = None
    if description.masks:
        mask_name = description.masks[min(number, len(description.masks) - 1)]
        mask = files.read_mask_on(mask_name, header).mask
        if description.reverse_masks:
            mask = mask_of(~mask, mask_name)
    grid = header.grid(np.ones(header.shape[:3], dtype=bool) if mask is None else mask)
    check_memory(header.shape[3], grid.n_voxels, 0, "")
    data = _read_volumes(name, header, grid, reporter)
    missing = _read_missing(indicator, header, grid, header.shape[3], reporter)
    return _in_mask(Modality(data, grid, header, name, missing), mask is not None, reporter)


def _of_table(
    description: PalmDescription, name: str, values: Float64, indicator: str, reporter: Reporter
) -> Modality:
    data, unit = _held(np.ascontiguousarray(values.T if description.transpose else values), name)
    if (np.ptp(data, axis=0) == 0).any():
        column = int(np.argmin(np.ptp(data, axis=0))) + 1
        reporter.warn(f"{name}: column {column} is constant; its statistic is 0 and its p 1")
    grid = Grid(np.ones((data.shape[1], 1, 1), dtype=bool))
    missing = _read_missing(indicator, None, grid, len(data), reporter)
    if missing is not None and description.transpose and missing.shape == data.shape[::-1]:
        missing = missing.T
    return Modality(data, grid, None, name, missing, unit)


def _held(values: Float64, name: str) -> tuple[Float32, float]:
    """A table (n, V) as float32, and the unit of these numbers: decimals become whole numbers, so that ties remain."""
    for unit in 10.0 ** np.arange(MOST_DECIMALS + 1):
        with np.errstate(over="ignore"):
            whole = np.round(values * unit)
        if np.abs(whole).max(initial=0.0) < MOST_WHOLE and (whole / unit == values).all():
            return whole.astype(np.float32), 1 / unit
    with np.errstate(over="ignore"):
        data = values.astype(np.float32)
    rounding = Rounding(data.shape[1])
    for exact, held in zip(values, data):
        rounding.add(exact, held)
    _tell_rounding(rounding, name)
    return data, 1.0


def _tell_rounding(rounding: Rounding, name: str) -> None:
    sentence = rounding.sentence(name)
    if sentence:
        files.notice(sentence)


def _read_volumes(name: str, header: files.ImageHeader, grid: Grid, reporter: Reporter) -> Float32:
    """(n, V) The volumes of an image in a mask, whatever their values."""
    n = files.read_header(name).shape[3]
    data = np.empty((n, grid.n_voxels), dtype=np.float32)
    rounding = Rounding(grid.n_voxels)
    for i, volume in enumerate(files.read_volumes_like(name, header, grid.index, rounding)):
        data[i] = volume
        reporter.progress(f"reading {name}", i + 1, n)
    _tell_rounding(rounding, name)
    return data


def _read_missing(
    name: str, header: files.ImageHeader | None, grid: Grid, n: int, reporter: Reporter
) -> Bools | None:
    """(n, V) or (n, 1) What an indicator says is missing: where it is not 0; None without one."""
    if not name:
        return None
    if is_table(name) or header is None:
        values: AnyArray = files.read_numbers(name).values
    else:
        values = _read_volumes(name, header, grid, reporter)
    if values.shape[0] != n or values.shape[1] not in (1, grid.n_voxels):
        raise FileError(
            f"{name} has {values.shape[0]} observations of {values.shape[1]} values; {n} are expected, of one value or "
            f"of {grid.n_voxels}", file=name,
        )  # fmt: skip
    missing: Bools = values != 0
    return missing


def _in_mask(modality: Modality, is_given: bool, reporter: Reporter) -> Modality:
    """The voxels whose data are finite and not constant, as far as they are there."""
    data, name, missing = modality.data, modality.name, modality.missing
    if missing is None:
        finite, low, high = np.isfinite(data).all(axis=0), data.min(axis=0), data.max(axis=0)
    else:
        finite = (np.isfinite(data) | missing).all(axis=0)
        low, high = np.where(missing, np.inf, data).min(axis=0), np.where(missing, -np.inf, data).max(axis=0)
    kept = finite & (low < high)
    if not kept.any():
        raise FileError(f"{name}: no voxel of the mask is finite and varies between observations", file=name)
    if kept.all():
        return modality
    if is_given:
        unknown = int(np.count_nonzero(~finite))
        reporter.warn(
            f"{name}: {np.count_nonzero(~kept)} of {len(kept)} voxels of the mask are left out: {unknown} are not "
            f"finite in every observation, and {np.count_nonzero(~kept) - unknown} are constant"
        )
    grid = modality.grid
    grid = replace(grid, mask=grid.to_volume(kept))
    if missing is not None and missing.shape[1] > 1:
        missing = np.ascontiguousarray(missing[:, kept])
    return replace(modality, data=np.ascontiguousarray(data[:, kept]), grid=grid, missing=missing)


def _check_regressors(description: PalmDescription) -> None:
    """Regressors of designs that there are, one for each column, and a method that can shuffle them."""
    if description.regressors and description.statistic.regression == "Huh-Jhun":
        raise UsageError(
            "-evperdat and -rmethod Huh-Jhun exclude each other: the method rotates the data by the nuisance, which is "
            "another one at each voxel, so that no shuffling could be the same for all; take another method",
            option="-rmethod",
        )
    n_designs, given = max(len(description.designs), 1), set()
    for regressor in description.regressors:
        place = regressor.design, regressor.column
        if regressor.design > n_designs:
            raise UsageError(
                f"-evperdat: {regressor.file} is for design {regressor.design}, and {n_designs} are given with -d",
                option="-evperdat",
            )
        if place in given:
            raise UsageError(
                f"-evperdat: column {regressor.column} of design {regressor.design} is given twice; one file is "
                "expected",
                option="-evperdat",
            )
        given.add(place)


def _read_regressors(
    description: PalmDescription, modalities: tuple[Modality, ...], read_table: ReadTable
) -> dict[tuple[str, int], Float32]:
    """The values of regressors in every modality that their designs are for."""
    return {
        (regressor.file, number): _read_regressor(regressor.file, modality, read_table, description.transpose)
        for regressor in description.regressors
        for number, modality in enumerate(modalities)
        if not description.design_per_input or number == regressor.design - 1
    }


def _read_regressor(name: str, modality: Modality, read_table: ReadTable, transpose: bool) -> Float32:
    """(n, V) The values of a regressor for each voxel of a modality; tables may have a column for each observation.

    Raises
    ------
    FileError
        The file is on another grid, has another number of observations, or is not finite in the mask.
    """
    if modality.header is None:
        table = read_table(name).values
        values = np.ascontiguousarray(table.T if transpose else table, dtype=np.float32)
    else:
        values = files.read_cohort(name, modality.grid)
    if values.shape != modality.data.shape:
        raise FileError(
            f"{name} has {values.shape[0]} observations of {values.shape[1]} values; {modality.data.shape[0]} of "
            f"{modality.data.shape[1]} are expected", file=name,
        )  # fmt: skip
    return values
