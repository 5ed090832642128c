"""The application: files and options in, randomise's files out; and the same from Python.

This is the only place where files and arithmetic meet. Everything that can be wrong with the input is found
before anything is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from gpuvox import files, private
from gpuvox.analysis import (
    Inputs,
    OpenStore,
    Options,
    Progress,
    Test,
    analyse,
    run_shard,
    shuffle_counts,
)
from gpuvox.application.announcements import (
    announce_critical,
    announce_part,
    announce_run,
    announce_shuffles,
    describe,
)
from gpuvox.application.command import Command, checkpoint_name
from gpuvox.application.earlier import remove_earlier
from gpuvox.application.fingerprint import Hashes, fingerprint
from gpuvox.application.inputs import (
    Prepared,
    check_permutation_counts,
    count_voxels,
    hash_sources,
    prepare,
    read_inputs,
)
from gpuvox.application.outputs import Writer, expected_names
from gpuvox.application.plan import guess_seconds
from gpuvox.application.provenance import provenance
from gpuvox.checkpoint import ENDINGS, Checkpoint, RunIdentity, Tallies, differences
from gpuvox.cuda import resolve
from gpuvox.distributed.client import DaskWorkers
from gpuvox.distributed.launch import (
    check_installed,
    open_client,
)
from gpuvox.distributed.messages import Images, absolute
from gpuvox.errors import FileError
from gpuvox.files import locks
from gpuvox.files.targets import check_targets
from gpuvox.runtime.limits import threads_for
from gpuvox.scratch import check_folder

Say = Callable[[str], None]

LONG_RUN = 300.0
"""Seconds a run must be expected to take for a checkpoint that was not asked for."""


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
                inputs, options, checkpoint.store, command.shard, progress, announce_part(command.shard, say)
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
    check_permutation_counts(prepared.shufflers)
    _check_names(command, prepared)
    prepared = replace(prepared, options=replace(prepared.options, device=device))
    hashes = hash_sources(command, prepared)
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
    return (
        not command.permuted_maps and guess_seconds(command, prepared, count_voxels(command)) / threads > LONG_RUN
    )


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


def count_permutations(command: Command, say: Say) -> None:
    """``-q``: how many distinct permutations each test has."""
    for test, shuffler in prepare(command).shufflers:
        announce_shuffles(shuffler, test, say)


def schedule(command: Command) -> str:
    """``-Q``: permutations, contrasts, root and permutations a job, for a scheduler of ``randomise``."""
    shufflers = prepare(command).shufflers
    check_permutation_counts(shufflers)
    chunk = 100 if command.options.statistics.tfce or command.options.f_statistics.tfce else 300
    return f"{max((shuffler.n for _, shuffler in shufflers), default=0)} {len(shufflers)} {command.root} {chunk}"
