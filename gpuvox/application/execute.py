"""The application: files and options in, randomise's files out; and the same from Python.

This is the only place where files and arithmetic meet. Everything that can be wrong with the input is found
before anything is written.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import platform
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuvox import __version__, design_checks, files, participants, private
from gpuvox.analysis import (
    Inputs,
    OpenStore,
    Options,
    Progress,
    Test,
    TestResult,
    analyse,
    list_tests,
    make_shuffler,
    negative_of,
    run_shard,
    shuffle_counts,
)
from gpuvox.application.arrays import as_cohort
from gpuvox.application.cost import Cost, check_memory, cost_of_test, data_bytes, on_cluster
from gpuvox.application.earlier import remove_earlier
from gpuvox.application.fingerprint import Hashes, fingerprint, hash_files, hash_inputs
from gpuvox.application.outputs import Wanted, Writer, expected_names
from gpuvox.application.settings import (
    check_fit,
    check_names,
    check_voxelwise,
    make_options,
    named_matrix,
    need_places,
)
from gpuvox.checkpoint import ENDINGS, Checkpoint, RunIdentity, Tallies, differences, read_to_resume
from gpuvox.cuda import resolve
from gpuvox.device import Device
from gpuvox.distributed.client import DaskWorkers
from gpuvox.distributed.launch import (
    ClusterSize,
    DaskCluster,
    check_client,
    check_installed,
    find_size,
    open_client,
)
from gpuvox.distributed.messages import Images, absolute
from gpuvox.errors import DesignError, FileError
from gpuvox.exclusion import Columns, split
from gpuvox.files import locks
from gpuvox.files.targets import check_targets
from gpuvox.grid import Grid
from gpuvox.info import versions
from gpuvox.names import Names, by_name
from gpuvox.participants import Rows, of_matrix
from gpuvox.partitioning import PartitionedDesign, partition
from gpuvox.runtime.limits import threads_for
from gpuvox.scratch import Data, block, check_folder, count_constant, pieces
from gpuvox.shuffle import ImportedShuffler, Permutations, Shuffler, check_blocks
from gpuvox.statistics import Statistics
from gpuvox.tally import share
from gpuvox.volume_checks import volume_warnings

Say = Callable[[str], None]

MOST_SHUFFLES = 10**8
"""A run's null distributions are held in memory, and more would take months."""
LONG_RUN = 300.0
"""Seconds a run must be expected to take for a checkpoint that was not asked for."""


@dataclass(frozen=True)
class Command:
    """A ``gpuvox randomise`` command, its options parsed.

    File names are as given; empty for none. `options` holds what the analysis is to do, `wanted` which
    files it writes.
    """

    data: str
    root: str
    mask: str = ""
    design: str = ""
    contrasts: str = ""
    f_tests: str = ""
    blocks: str = ""
    effective_design: str = ""
    one_sample: bool = False
    keep_constant: bool = False
    permutations: str = ""
    voxelwise_columns: tuple[int, ...] = ()
    voxelwise_files: tuple[str, ...] = ()
    permuted_maps: bool = False
    device: str = "auto"
    checkpoint: str = ""
    resume: bool = False
    shard: tuple[int, int] | None = None
    cluster: DaskCluster | None = None
    options: Options = field(default_factory=Options)
    wanted: Wanted = field(default_factory=Wanted)
    line: tuple[str, ...] = ()
    shard_line: tuple[str, ...] = ()


# ---------------------------------------------------------------------------------------------------- reading


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


def _read_grid(command: Command, progress: Progress | None = None) -> Grid:
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
    _check_numbers(prepared.shufflers)
    n = len(prepared.inputs.design)
    for note in prepared.notes:
        warn(note)
    for said in _said_of_design(prepared.inputs, prepared.options, tuple(prepared.voxelwise), command.design):
        warn(said)
    say("Loading Data: ")
    grid = _read_grid(command, progress)
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
    for said in _said_of_data(inputs, prepared.options):
        warn(said)
    return inputs, prepared.options


def _said_of_design(inputs: Inputs, options: Options, voxelwise: tuple[int, ...], origin: str) -> list[str]:
    """What is odd about a design, in sentences; see `design_checks`."""
    found = design_checks.check_design(
        inputs.design, demean=options.demean, flip=options.flip, voxelwise=voxelwise
    )
    return [design_checks.describe_finding(each, inputs.names.evs, origin or "the design") for each in found]


def _said_of_data(inputs: Inputs, options: Options) -> list[str]:
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


def _check_numbers(shufflers: Sequence[tuple[Test, Any]]) -> None:
    """No test may need more shuffles than can be run."""
    for test, shuffler in shufflers:
        if shuffler.n > MOST_SHUFFLES:
            kind = "sign-flips" if shuffler.flips else "permutations"
            which = "all there are" if shuffler.exhaustive else "as asked for"
            raise ValueError(
                f"{test.title} would take {_in_short(shuffler.n)} {kind}, {which}; at most {MOST_SHUFFLES:,} are "
                "done: ask for a smaller number, other than 0"
            )


def _in_short(number: int) -> str:
    """A count as C's %g prints it, however large."""
    return f"{number:g}" if number < 10**300 else f"{Decimal(number):.5e}"


# ---------------------------------------------------------------------------------------------------- running


@dataclass(frozen=True)
class Reporting:
    """Who is told what: lines that FSL prints, warnings, progress."""

    say: Say
    warn: Say
    progress: Progress | None = None


def execute(command: Command, say: Say, warn: Say, progress: Progress | None = None) -> None:
    """Run a command: read, analyse, write.

    Parameters
    ----------
    command : Command
    say : callable
        Receives the lines that FSL prints.
    warn : callable
        Receives warnings.
    progress : callable, optional
        See `analysis.Progress`.

    Raises
    ------
    FileError, DesignError, DeviceError, ValueError
        One sentence that says what is wrong.
    """
    prepared, hashes, about = _ready(command)
    if not prepared.shufflers:
        warn(f"--skipTo={command.options.only_test}: there is no such test; nothing is written")
        say("Finished, exiting.")
        return
    with (
        _root(command, warn),
        _workers(command, prepared.voxelwise, hashes, warn) as workers,
        _checkpoint(command, prepared, about, warn) as checkpoint,
    ):
        if checkpoint and command.resume:
            say(f"Resuming from {checkpoint.path}: {checkpoint.resumed} permutations already done")
        inputs, options = read_inputs(command, say, warn, prepared, progress)
        options = replace(options, workers=workers)
        if options.device is not None:
            say(f"Device: {describe(options.device)}")
        if checkpoint and command.shard:
            run_shard(
                inputs, options, checkpoint.store, command.shard, progress, _announced_part(command.shard, say)
            )
            checkpoint.write()
            say(
                f"Shard {command.shard[0]} of {command.shard[1]} is in {checkpoint.path}; "
                "gpuvox merge makes the maps of all shards."
            )
        else:
            open_store = checkpoint.store if checkpoint else None
            _run_and_write(command, inputs, options, hashes, Reporting(say, warn, progress), open_store)
            if checkpoint:
                checkpoint.remove()
    say("Finished, exiting.")


def _root(command: Command, warn: Say) -> Any:
    """The output root to ourselves in a ``with`` statement; a shard writes only its tally, which has its own lock."""
    return nullcontext() if command.shard else locks.output(command.root, warn)


@contextmanager
def _workers(
    command: Command, voxelwise: Mapping[int, str], hashes: Hashes, warn: Say
) -> Iterator[DaskWorkers | None]:
    """The workers of a command's cluster; None if it wants none."""
    if command.cluster is None:
        yield None
        return
    with open_client(command.cluster, warn) as client:
        evs = {column: absolute(files.image_names(name)) for column, name in voxelwise.items()}
        named = [(os.path.abspath(name), digest) for option in ("-i", "--vxf") for name, digest in hashes[option]]
        images = Images(absolute(files.image_names(command.data)), evs, tuple(named))
        yield DaskWorkers(client, command.device, images, warn)


def _checkpoint(command: Command, prepared: Prepared, about: RunIdentity, warn: Say) -> Any:
    """The checkpoint of a command in a ``with`` statement; None if it needs none."""
    if command.checkpoint or command.resume or command.shard or _is_long(command, prepared):
        return Checkpoint(checkpoint_name(command), about, command.resume, warn)
    return _nothing_kept(command, warn)


@contextmanager
def _nothing_kept(command: Command, warn: Say) -> Iterator[None]:
    """Who stops a run that keeps nothing is told how the next one can be resumed."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if not command.permuted_maps:  # cannot be resumed
            warn("nothing of this run was kept; with --checkpoint FILE, a run can be resumed where it was stopped")
        raise


def _run_and_write(
    command: Command,
    inputs: Inputs,
    options: Options,
    hashes: Hashes,
    reporting: Reporting,
    open_store: OpenStore | None,
) -> None:
    """Run every test and write its files."""
    header = files.read_header(command.mask or files.image_names(command.data)[0])
    writer = Writer(command.root, inputs.grid, header, command.wanted)
    if not (options.statistics.kinds or options.f_statistics.kinds):
        reporting.warn("no inference was asked for (-x, -T, -c, -C, -F, -S): only the raw statistic is written")
    on_maps = writer.permuted if command.permuted_maps else None
    results = []
    announced: set[str] = set()

    def begin(test: Test, shuffler: Any) -> None:
        if options.wanted(test).kinds:
            announce_run(shuffler, test, reporting.say)
            announced.add(test.name)

    for result in analyse(
        inputs, options, progress=reporting.progress, on_maps=on_maps, open_store=open_store, begin=begin
    ):
        if result.nulls and result.test.name not in announced:  # it shares the maps of its negative
            announce_run(result.shuffler, result.test, reporting.say)
        announce_critical(result, writer, reporting.say)
        for warning in result.warnings:
            reporting.warn(warning)
        writer.result(result)
        results.append(replace(result, maps={}))
    if command.wanted.estimates or command.wanted.film:
        writer.estimates(inputs, options.demean)
    record = provenance(command, inputs, options, results, writer, hashes)
    removed = remove_earlier(command.root, record, [name for named in hashes.values() for name, _ in named])
    if removed:
        reporting.warn(f"removed what an earlier run of other inputs had left: {', '.join(removed)}")
    files.write_json(f"{command.root}_randomise.json", record)


# ----------------------------------------------------------------------------------- checkpoints, shards, merging


def checkpoint_name(command: Command) -> str:
    """The file of tallies of a command: what ``--checkpoint`` says, or a name beside the output."""
    if command.checkpoint:
        return command.checkpoint
    part = f"shard{command.shard[0]}of{command.shard[1]}" if command.shard else "checkpoint"
    return f"{command.root}_{part}.tally"


def kept_seed(command: Command) -> int:
    """Seed of the run that a command goes on from; a `FileError` if there is none, or it cannot be read."""
    return read_to_resume(checkpoint_name(command)).seed


def _ready(command: Command) -> tuple[Prepared, Hashes, RunIdentity]:
    """A command with all but its data read and checked, the hashes of its files, and which run it is."""
    if command.cluster:
        check_installed()
    # Workers have devices of their own; what is left here is one map a test.
    device = None if command.cluster else resolve(command.device)
    files.check_output_root(command.root)
    files.output_type()
    check_folder(command.options.scratch)
    prepared = prepare(command)
    _check_numbers(prepared.shufflers)
    _check_names(command, prepared)
    prepared = replace(prepared, options=replace(prepared.options, device=device))
    hashes = _hashes(command, prepared)
    return prepared, hashes, _about(command, prepared, hashes)


def _check_names(command: Command, prepared: Prepared) -> None:
    """No name of an output may turn out to be impossible after hours of permutations."""
    maps, texts = expected_names(
        [test for test, _ in prepared.shufflers], prepared.options, command.wanted, permuted=command.permuted_maps
    )
    if not command.shard:
        check_targets(command.root, texts, maps=maps)
    if command.checkpoint or command.shard or _is_long(command, prepared):
        check_targets(checkpoint_name(command), ENDINGS)


def _about(command: Command, prepared: Prepared, hashes: Hashes) -> RunIdentity:
    """Which run this is."""
    options = prepared.options
    more = {"--norcmask": command.keep_constant, "--vxl": command.voxelwise_columns}
    counts = shuffle_counts(prepared.shufflers, options)
    if command.shard and not counts:
        raise ValueError("--shard: nothing is permuted without -x, -T, -c, -C, -F or -S")
    folder = os.path.dirname(command.root)
    named: Hashes = {
        option: [[private.brief(name, folder), digest] for name, digest in each] for option, each in hashes.items()
    }
    return RunIdentity(
        fingerprint(named, options, more), counts, tuple(private.here(command.line[1:])), command.shard
    )


def _is_long(command: Command, prepared: Prepared) -> bool:
    """Whether a checkpoint is worth its while though none was asked for: by the guess for the CPU."""
    threads = threads_for(command.options.threads)
    return not command.permuted_maps and _guess(command, prepared, _count_voxels(command)) / threads > LONG_RUN


def write_merged(command: Command, merged: Tallies, say: Say, warn: Say, progress: Progress | None = None) -> None:
    """``gpuvox merge``: write what the whole run would have written, from the tallies of its shards.

    Parameters
    ----------
    command : Command
        That of the shards.
    merged : Tallies
        All of them, see `checkpoint.merge`. What they lack is run: a shard whose TFCE had fewer steps than another
        turned out to need.
    say, warn, progress
        As of `execute`.

    Raises
    ------
    FileError, DesignError, DeviceError, ValueError
        Inputs or software that have changed since; errors of `execute`.
    """
    prepared, hashes, about = _ready(command)
    difference = differences(merged.identity.run, about.run, ("the shards", "this run"))
    if difference:
        raise FileError(f"the shards cannot be merged here: {difference}")
    again = sum(merged.identity.shuffles.values()) - merged.n_done
    if again:
        warn(
            f"{again} shuffles are run again: their shards were prepared for fewer steps of TFCE than others needed"
        )
    with _root(command, warn):
        inputs, options = read_inputs(command, say, warn, prepared, progress)
        _run_and_write(command, inputs, options, hashes, Reporting(say, warn, progress), merged.store)
    say("Finished, exiting.")


def describe(device: Device) -> str:
    """A device in a line: what it is, its memory, and the precision of the arithmetic."""
    return f"{device.title} ({device.name}); float32, and float64 where float32 is not enough"


def announce_shuffles(shuffler: Any, test: Test, say: Say) -> None:
    """The lines that tell how many permutations there are."""
    if getattr(shuffler, "exhaustive", False) or shuffler.n_distinct != shuffler.n:
        if shuffler.flips and not test.is_f:
            say("One-sample design detected; sign-flipping instead of permuting.")
        kind = "sign-flips" if shuffler.flips else "permutations"
        say(f"{_in_short(shuffler.n_distinct)} {kind} required for exhaustive test of {test.number}")


def announce_run(shuffler: Any, test: Test, say: Say) -> None:
    """What FSL prints before the permutations of a test; the line before names the test."""
    announce_shuffles(shuffler, test, say)
    if isinstance(shuffler, ImportedShuffler):
        say(f"Doing {shuffler.n} permutations of {test.title}, as imported")
    elif shuffler.exhaustive:
        say(f"Doing all {shuffler.n} unique permutations")
    else:
        say(f"Doing {shuffler.n} random permutations")


def _announced_part(shard: tuple[int, int], say: Say) -> Callable[[Test, Any], None]:
    def begin(test: Test, shuffler: Any) -> None:
        start, stop = share(shuffler.n, *shard)
        say(f"Doing {stop - start} of the {shuffler.n} permutations of {test.title}")

    return begin


def announce_critical(result: TestResult, writer: Writer, say: Say) -> None:
    """What FSL prints after them: the critical values."""
    for kind in result.nulls:
        name = writer.name(result.test.name if writer.wanted.film else f"{kind}_{result.test.name}")
        say(f"Critical Value for: {name} is: {result.critical(kind):g}")


def count_permutations(command: Command, say: Say) -> None:
    """``-q``: how many distinct permutations each test has."""
    for test, shuffler in prepare(command).shufflers:
        announce_shuffles(shuffler, test, say)


def schedule(command: Command) -> str:
    """``-Q``: permutations, contrasts, root and permutations a job, for a scheduler of ``randomise``."""
    shufflers = prepare(command).shufflers
    _check_numbers(shufflers)
    chunk = 100 if command.options.statistics.tfce or command.options.f_statistics.tfce else 300
    return f"{max((shuffler.n for _, shuffler in shufflers), default=0)} {len(shufflers)} {command.root} {chunk}"


# ----------------------------------------------------------------------------------------------------- the plan


def plan(command: Command) -> str:
    """``--plan``: what a run would be, from headers, matrices, mask and the first volumes, and a second of work."""
    started = time.process_time()  # loading what a run loads, too
    prepared = prepare(command)
    _check_numbers(prepared.shufflers)
    check_folder(command.options.scratch)
    if command.checkpoint:
        files.check_output_root(command.checkpoint)
    if command.resume:
        read_to_resume(checkpoint_name(command))
    crew = find_size(command.cluster) if command.cluster else None
    device = None if crew else resolve(command.device)
    inputs, seconds = _sketch(command, prepared)
    threads = threads_for(command.options.threads)
    if crew:
        threads = min(threads, max(1, crew.threads // max(crew.processes, 1)))
    lines = [
        f"data: {command.data}, {len(inputs.design)} volumes of {' × '.join(map(str, inputs.grid.shape))} voxels",
        f"voxels: {inputs.grid.n_voxels}"
        + ("" if command.mask else f" vary over the first {SKETCH} volumes (no mask given)"),
        _about_device(device, threads, crew),
        *(_about_shuffles(command, inputs, test, shuffler) for test, shuffler in prepared.shufflers),
        *_about_shard(command),
    ]
    options = replace(prepared.options, device=device, threads=threads)
    costs = _costs(command, replace(prepared, options=options), inputs)
    if crew:
        costs = [(shuffler, on_cluster(cost, threads, crew)) for shuffler, cost in costs]
    seconds += started + _seconds_of_files(command, inputs, prepared.shufflers)
    seconds += sum(cost.setup + _n_done(command, shuffler.n) * cost.each for shuffler, cost in costs)
    lines.append(
        f"{_about_memory(command, inputs, [cost for _, cost in costs], crew)}; time: about {_duration(seconds)}, as "
        "measured here in a second"
    )
    return "\n".join(lines)


def _about_shard(command: Command) -> list[str]:
    if not command.shard:
        return []
    return [f"shard {command.shard[0]} of {command.shard[1]}: that part of the permutations, and its cost"]


def _n_done(command: Command, n: int) -> int:
    """Shuffles that this run does of n."""
    if not command.shard:
        return n
    start, stop = share(n, *command.shard)
    return stop - start


def _about_device(device: Device | None, threads: int, crew: ClusterSize | None) -> str:
    if crew:
        return (
            f"cluster: {crew.processes} workers with {crew.threads} threads in all, each taken to be as fast as one "
            "here; starting them comes on top"
        )
    return f"device: cpu, {threads} threads" if device is None else f"device: {describe(device)}"


def _about_memory(command: Command, inputs: Inputs, costs: Sequence[Cost], crew: ClusterSize | None) -> str:
    if not costs:
        return "memory: little"
    held = f"memory: about {max(cost.memory for cost in costs) / 2**20:,.0f} MiB"
    if crew:
        held += " in each worker, and as much here"
    if command.options.scratch:
        size = data_bytes(len(inputs.design), inputs.grid.n_voxels, len(inputs.evs)) / 2**30
        held += f", and {size:,.2f} GiB in {command.options.scratch}"
    return held


SKETCH = 8
"""Volumes that the plan reads."""


def _sketch(command: Command, prepared: Prepared) -> tuple[Inputs, float]:
    """Inputs of a run with its first volumes alone, and the seconds that reading all of them will take."""
    start, n = time.perf_counter(), len(prepared.inputs.design)
    if command.mask or command.keep_constant:
        grid = _read_grid(command)
        volumes, passes = files.first_volumes(command.data, SKETCH, grid.index), 1
    else:
        volumes, passes = files.first_volumes(command.data, SKETCH), 2  # once more, to find the mask
        varies = (volumes != volumes[0]).any(axis=0)
        if not varies.any():
            raise FileError(f"no voxel of {command.data} varies over the first {len(volumes)} volumes")
        header = files.read_header(files.image_names(command.data)[0])
        grid, volumes = header.grid(varies.reshape(header.shape[:3], order="F")), volumes[:, varies]
    reading = (time.perf_counter() - start) / len(volumes) * n * (passes + len(prepared.voxelwise))
    evs = dict.fromkeys(prepared.voxelwise, volumes)
    return replace(prepared.inputs, data=volumes, grid=grid, evs=evs), reading


def _seconds_of_files(command: Command, inputs: Inputs, shufflers: Sequence[tuple[Test, Any]]) -> float:
    """Seconds that hashing what is read and writing the maps will take, from a little of both."""
    sample, start = bytes(1 << 23), time.perf_counter()
    hashlib.sha256(sample)
    hashed, start = time.perf_counter() - start, time.perf_counter()
    volume = inputs.grid.to_volume(block(inputs.data, slice(0, 1), slice(None))[0])
    gzip.compress(volume.tobytes(order="F"), files.GZIP_LEVEL)
    written = time.perf_counter() - start
    paths = [path for name in files.image_names(command.data) for path in files.image_files(name)]
    each = [command.options.wanted(test) for test, _ in shufflers]
    n_maps = sum(1 + len(w.kinds) * (1 + w.uncorrected + command.wanted.raw) for w in each)
    return hashed * sum(os.path.getsize(path) for path in paths) / len(sample) + written * n_maps


def _about_shuffles(command: Command, inputs: Inputs, test: Test, shuffler: Any) -> str:
    model = _model_of(command, inputs, test)
    return (
        f"{test.title}: {command.options.nuisance.name.lower()}, rank of effect {model.rank_effect}, of "
        f"nuisance {model.rank_nuisance}, degrees of freedom {model.df}; "
        f"{_counted(shuffler.n_distinct)} distinct {'sign-flips' if shuffler.flips else 'permutations'}, "
        f"{'all' if shuffler.exhaustive else shuffler.n} of them done, smallest p {1 / shuffler.n:.3g}"
    )


def _costs(command: Command, prepared: Prepared, inputs: Inputs) -> list[tuple[Any, Cost]]:
    """Shuffler and cost of each test; one that shares the maps of its negative costs nothing."""
    tests, options = [test for test, _ in prepared.shufflers], prepared.options
    shared: set[int] = set()
    costs = []
    for i, (test, shuffler) in enumerate(prepared.shufflers):
        wanted = options.wanted(test)
        partner = None if command.permuted_maps else negative_of(tests, i, options)
        if partner is not None:
            shared.add(partner)
        if i not in shared and wanted.kinds:
            signs = 1 if partner is None else 2
            costs.append(
                (shuffler, cost_of_test(inputs, options, test, shuffler, signs, len(inputs.design), command.shard))
            )
    return costs


def _count_voxels(command: Command) -> int:
    """Voxels of the mask; without one, of the images: at most so many."""
    if command.mask:
        return _read_mask(command).n_voxels
    return math.prod(files.read_header(files.image_names(command.data)[0]).shape[:3])


def _model_of(command: Command, inputs: Inputs, test: Test) -> PartitionedDesign:
    return partition(
        inputs.design, test.contrast, demean=command.options.demean, is_f=test.is_f,
        check=not command.voxelwise_columns,
    )  # fmt: skip


def _guess(command: Command, prepared: Prepared, n_voxels: int) -> float:
    """Seconds that all permutations of all tests take on one core; measuring takes longer than many runs."""
    n, seconds = len(prepared.inputs.design), 0.0
    for test, shuffler in prepared.shufflers:
        wanted = command.options.wanted(test)
        rank = _model_of(command, prepared.inputs, test).rank_nuisance
        seconds += shuffler.n * _seconds_per_shuffle(n, n_voxels, rank, wanted)
    return seconds


def _seconds_per_shuffle(n: int, n_voxels: int, rank_nuisance: int, wanted: Statistics) -> float:
    """Rough cost on one core of 2020: products at 12 G fused operations a second, enhancement by the voxel."""
    cost = n * (1 + rank_nuisance) * n_voxels / 12e9
    if wanted.tfce is not None:
        cost += n_voxels * (3e-8 if wanted.tfce.connectivity == 6 else 6e-8)
    if wanted.extent is not None or wanted.mass is not None:
        cost += n_voxels * 4e-9
    return cost * (2 if wanted.two_pass or wanted.uncorrected else 1)


def _counted(number: int) -> str:
    return f"{number:,}" if number < 10**15 else _in_short(number)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# ---------------------------------------------------------------------------------------------------- provenance


def provenance(
    command: Command,
    inputs: Inputs,
    options: Options,
    results: Sequence[TestResult],
    writer: Writer,
    hashes: Hashes,
) -> dict[str, Any]:
    """What ``<root>_randomise.json`` says."""
    found = {
        "software": _software(),
        "command": list(command.line),
        **({"command_of_shards": list(command.shard_line)} if command.shard_line else {}),
        **_about_run(inputs, options, results, hashes, _where(options)),
        "maps": writer.written,
        "files": writer.files,
    }
    return private.record(found, os.path.dirname(command.root))


def _software() -> dict[str, str]:
    return {"gpuvox": __version__, "python": platform.python_version(), **versions()}


def _about_run(
    inputs: Inputs, options: Options, results: Sequence[TestResult], hashes: Hashes, device: str
) -> dict[str, Any]:
    return {
        "device": device,
        "threads": threads_for(options.threads),
        "seed": options.seed,
        "inputs": {name: {"sha256": digest} for named in hashes.values() for name, digest in named},
        "volumes": inputs.data.shape[0],
        "voxels": inputs.grid.n_voxels,
        "design": inputs.design,
        "contrasts": inputs.contrasts,
        "f_tests": inputs.f_tests,
        "names": asdict(inputs.names),
        "nuisance": options.nuisance.name.lower(),
        "demeaned": options.demean,
        "variance_smoothing_mm": options.variance_mm,
        "statistics": {"t": asdict(options.statistics), "F": asdict(options.f_statistics)},
        "tests": [_about_test(result) for result in results],
    }


def _where(options: Options) -> str:
    """What the shuffles were run on."""
    if isinstance(options.workers, DaskWorkers):
        return options.workers.description
    return "cpu" if options.device is None else f"{options.device.name} ({options.device.title})"


def _hashes(command: Command, prepared: Prepared) -> Hashes:
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


def _about_test(result: TestResult) -> dict[str, Any]:
    shuffler = result.shuffler
    return {
        "name": result.test.name,
        "contrast_name": result.test.label,
        "contrast": result.test.contrast,
        "degrees_of_freedom": result.f_dfs or result.df,
        "method": "sign-flips" if shuffler.flips else "permutations",
        "permutations": shuffler.n if result.nulls else 0,
        "distinct": str(shuffler.n_distinct) if shuffler.n_distinct < 10**4000 else _in_short(shuffler.n_distinct),
        "exhaustive": bool(shuffler.exhaustive),
        "smallest_possible_p": 1 / shuffler.n,
        **({"tfce_step": result.tfce_step} if result.tfce_step else {}),
        "critical_values": {kind: result.critical(kind) for kind in result.nulls},
        "seconds": round(result.seconds, 3),
        "warnings": list(result.warnings),
    }


# ------------------------------------------------------------------------------------------------------ from Python


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
        about = _about_run(self.inputs, self.options, self.tests, hashes, self.device)
        record = {"software": _software(), **about, "maps": writer.written, "files": writer.files}
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
    inputs, header = _given(options, data, mask, design, matrices, voxelwise)
    named = dict(zip(inputs.evs, (voxelwise or {}).values()))
    workers = None if client is None else _workers_of(client, device, data, named)
    shufflers = _shufflers(inputs, options)
    origin = os.fspath(design) if isinstance(design, str | os.PathLike) else ""
    for said in [*_said_of_design(inputs, options, tuple(inputs.evs), origin), *_said_of_data(inputs, options)]:
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
    return Randomised(results, inputs, options, header, _where(replace(options, workers=workers)), read)


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


def _shufflers(inputs: Inputs, options: Options) -> list[tuple[Test, Any]]:
    """Every test with its shuffles, checked."""
    shufflers = [(test, make_shuffler(inputs, options, test)) for test in list_tests(inputs, options)]
    if not shufflers:
        raise DesignError(f"there is no test {options.only_test}")
    _check_numbers(shufflers)
    return shufflers


def _given(
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


def draw_seed() -> int:
    """A seed for a run that was given none; it is recorded."""
    return secrets.randbits(32)
