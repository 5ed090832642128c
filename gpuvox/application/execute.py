"""A run of randomise: read, run, write.

This is the only place where files and arithmetic meet. Everything that can be wrong with the input is found before
anything is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

from gpuvox import files
from gpuvox.analysis import Analysis, OpenStore, PreparedTest, TestResult, analyse, run_shard
from gpuvox.application.announcements import (
    announce_count,
    announce_critical,
    announce_run,
    announcer_of_part,
    describe_device,
)
from gpuvox.application.command import RunDescription
from gpuvox.application.cost import guess_seconds
from gpuvox.application.earlier import remove_earlier
from gpuvox.application.fingerprint import Hashes, hash_sources, identify
from gpuvox.application.inputs import (
    PreparedRun,
    SharedImages,
    check_permutation_counts,
    count_voxels,
    prepare_run,
    read_images,
)
from gpuvox.application.outputs import Writer, expected_names
from gpuvox.application.provenance import provenance
from gpuvox.checkpoint import ENDINGS, Checkpoint, RunIdentity, Tallies, differences
from gpuvox.cuda import resolve_all
from gpuvox.device import Device
from gpuvox.distributed.client import DaskWorkers
from gpuvox.distributed.launch import check_installed, open_client
from gpuvox.distributed.messages import Images, absolute
from gpuvox.errors import FileError, SettingError
from gpuvox.executors import Workers
from gpuvox.files import locks
from gpuvox.files.targets import check_targets
from gpuvox.reporter import Reporter
from gpuvox.runtime.limits import threads_for
from gpuvox.scratch import check_folder
from gpuvox.team import DeviceTeam

LONG_RUN = 300.0
"""Expected duration in seconds above which a run has a checkpoint by default."""


OnResult = Callable[[TestResult, Writer], None]
"""Called with each test when its files have been written, and with what writes them."""


def execute(
    description: RunDescription,
    reporter: Reporter,
    shared: SharedImages | None = None,
    on_result: OnResult | None = None,
) -> int:
    """Execute a run that has an output root: read, analyse, write.

    Parameters
    ----------
    description : RunDescription
    reporter : Reporter
        `say` receives the lines that FSL prints.
    shared : SharedImages, optional
        Images that several runs of one command share, which are read once.
    on_result : callable, optional
        See `OnResult`.

    Returns
    -------
    int
        Permutations that were already done in the checkpoint from which the run was resumed; 0 without one.

    Raises
    ------
    InputError
        One sentence that says what is wrong.
    """
    run = prepare_to_run(description)
    if not run.analysis.tests:
        reporter.warn(f"--skipTo={description.options.only_test}: there is no such test; nothing is written")
        reporter.say("Finished, exiting.")
        return 0
    hashes = hash_sources(run)
    identity = identify(run, hashes)
    with (
        _output_lock(description, reporter),
        session(run, hashes, identity, reporter, shared) as (run, checkpoint),
    ):
        if checkpoint and description.shard:
            begin = announcer_of_part(description.shard, reporter.say)
            run_shard(run.analysis, checkpoint.store, description.shard, reporter.progress, begin)
            checkpoint.write()
            reporter.say(
                f"Shard {description.shard[0]} of {description.shard[1]} is in {checkpoint.path}; "
                "gpuvox merge makes the maps of all shards."
            )
        else:
            _run_and_write(run, hashes, reporter, checkpoint.store if checkpoint else None, on_result)
            if checkpoint:
                checkpoint.remove()
    reporter.say("Finished, exiting.")
    return checkpoint.resumed if checkpoint and description.resume else 0


def write_merged(
    description: RunDescription,
    merged: Tallies,
    reporter: Reporter,
    shared: SharedImages | None = None,
    on_result: OnResult | None = None,
) -> None:
    """``gpuvox merge``: write the files of the whole run from the tallies of its shards.

    Parameters
    ----------
    description : RunDescription
        The description of the shards.
    merged : Tallies
        All tallies, see `checkpoint.merge`. Missing permutations are run: a shard whose TFCE had fewer steps than
        another one needs is repeated.
    reporter : Reporter
    shared, on_result
        See `execute`.

    Raises
    ------
    InputError
        Inputs or software have changed since; errors as for `execute`.
    """
    run = prepare_to_run(description)
    hashes = hash_sources(run)
    difference = differences(merged.identity.run, identify(run, hashes).run, ("the shards", "this run"))
    if difference:
        raise FileError(f"the shards cannot be merged here: {difference}")
    again = sum(merged.identity.shuffles.values()) - merged.n_done
    if again:
        reporter.warn(
            f"{again} permutations are run again: their shards were prepared for fewer steps of TFCE than others needed"
        )
    with _output_lock(description, reporter):
        _run_and_write(read_images(run, reporter, shared), hashes, reporter, merged.store, on_result)
    reporter.say("Finished, exiting.")


def count_permutations(description: RunDescription, reporter: Reporter) -> None:
    """``-q``: print the number of distinct permutations of each test."""
    for prepared in prepare_run(description).analysis.tests:
        announce_count(prepared, reporter.say)


def schedule(description: RunDescription) -> str:
    """``-Q``: permutations, contrasts, root and permutations per job, for a scheduler."""
    tests, options = prepare_run(description).analysis.tests, description.options
    check_permutation_counts(tests)
    chunk = 100 if options.statistics.tfce or options.f_statistics.tfce else 300
    most = max((prepared.shuffler.n for prepared in tests), default=0)
    return f"{most} {len(tests)} {description.root} {chunk}"


# -- a run and what it needs ----------------------------------------------------------------------------------------


def prepare_to_run(description: RunDescription) -> PreparedRun:
    """Check everything that can be checked before images are read and anything is written.

    Raises
    ------
    InputError
        One sentence that says what is wrong.
    """
    if description.cluster:
        check_installed()
    devices = _find_devices(description)
    if description.root:
        files.check_output_root(description.root)
        files.output_type()
    check_folder(description.options.scratch)
    run = prepare_run(description, devices[0] if devices else None)
    check_permutation_counts(run.analysis.tests)
    if description.root:
        _check_names(run)
    return run


def _find_devices(description: RunDescription) -> tuple[Device, ...]:
    """The devices of this process; none with Dask workers, which use their own devices."""
    device = description.device
    if description.has_workers:
        if not isinstance(device, str):
            raise SettingError(
                "with a client, device is a name that each worker understands: auto, cpu, cuda, cuda:i or cuda:i,j"
            )
        return ()
    if isinstance(device, str):
        return resolve_all(device)
    return () if device is None else (device,) if isinstance(device, Device) else device


def _check_names(run: PreparedRun) -> None:
    """Check the names of all outputs, so that none fails after hours of permutations."""
    description, analysis = run.description, run.analysis
    tests = [prepared.test for prepared in analysis.tests]
    maps, texts = expected_names(tests, analysis.options, description.outputs, permuted=description.permuted_maps)
    if not description.shard:
        check_targets(description.root, texts, maps=maps)
    if _keeps_tallies(run):
        check_targets(description.tally_file, ENDINGS)


def _keeps_tallies(run: PreparedRun) -> bool:
    """Whether a checkpoint is requested, or worthwhile according to the estimate for the CPU."""
    description = run.description
    if description.checkpoint or description.resume or description.shard:
        return True
    if not description.root or description.permuted_maps:
        return False
    threads = threads_for(description.options.threads)
    return guess_seconds(run.analysis, count_voxels(run)) / threads > LONG_RUN


@contextmanager
def session(
    run: PreparedRun,
    hashes: Hashes,
    identity: RunIdentity | None,
    reporter: Reporter,
    shared: SharedImages | None = None,
) -> Iterator[tuple[PreparedRun, Checkpoint | None]]:
    """Open the workers, the checkpoint and the images of a run, in the order in which each can fail.

    Parameters
    ----------
    run : PreparedRun
    hashes : dict
        See `hash_sources`; empty if neither a checkpoint nor workers need them.
    identity : RunIdentity or None
        None if there is no checkpoint.
    reporter : Reporter
    shared : SharedImages, optional
        See `read_images`.

    Yields
    ------
    run : PreparedRun
        The run with its images.
    checkpoint : Checkpoint or None
    """
    with _open_workers(run, hashes, reporter) as workers, _open_checkpoint(run, identity, reporter) as checkpoint:
        if checkpoint and run.description.resume:
            reporter.say(f"Resuming from {checkpoint.path}: {checkpoint.resumed} permutations already done")
        run = read_images(run, reporter, shared)
        for each in _find_devices(run.description):
            reporter.say(f"Device: {describe_device(each)}")
        device = run.analysis.options.device
        yield replace(run, analysis=run.analysis.run_with(device=device, workers=workers)), checkpoint


def _output_lock(description: RunDescription, reporter: Reporter) -> AbstractContextManager[object]:
    """Lock the output root; a shard writes only its tally, which has its own lock."""
    return nullcontext() if description.shard else locks.output(description.root, reporter.warn)


@contextmanager
def _open_workers(run: PreparedRun, hashes: Hashes, reporter: Reporter) -> Iterator[Workers | None]:
    """The workers of a run, or its devices if there are several; None for threads and a single device."""
    description = run.description
    if not description.has_workers:
        devices = _find_devices(description)
        yield DeviceTeam(devices, reporter.warn) if len(devices) > 1 else None
        return
    assert isinstance(description.device, str)
    with (
        nullcontext(description.client)
        if description.cluster is None
        else open_client(description.cluster, reporter.warn) as client
    ):
        workers = DaskWorkers(client, description.device, _files_of_images(run, hashes), reporter.warn)
        yield workers
        workers.release()


def _files_of_images(run: PreparedRun, hashes: Hashes) -> Images | None:
    """Image files that workers may read themselves; None if some images are in memory."""
    data = run.description.data
    if not all(files.are_names(source) for source in (data, *run.evs.values())):
        return None
    evs = {column: absolute(files.image_names(source)) for column, source in run.evs.items()}
    named = [(os.path.abspath(name), digest) for option in ("-i", "--vxf") for name, digest in hashes[option]]
    return Images(absolute(files.image_names(data)), evs, tuple(named))


def _open_checkpoint(
    run: PreparedRun, identity: RunIdentity | None, reporter: Reporter
) -> AbstractContextManager[Checkpoint | None]:
    """Context with the checkpoint of a run; None if it has none."""
    description = run.description
    if identity and _keeps_tallies(run):
        return Checkpoint(description.tally_file, identity, description.resume, reporter.warn)
    return _without_checkpoint(description, reporter)


@contextmanager
def _without_checkpoint(description: RunDescription, reporter: Reporter) -> Iterator[None]:
    """If a run without a checkpoint is interrupted, warn that a checkpoint would have allowed to resume it."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if description.root and not description.permuted_maps:  # these cannot be resumed
            reporter.warn(
                f"no progress of this run was saved; with {description.checkpoint_option}, an interrupted run can be "
                "resumed"
            )
        raise


# -- writing --------------------------------------------------------------------------------------------------------


def _run_and_write(
    run: PreparedRun,
    hashes: Hashes,
    reporter: Reporter,
    open_store: OpenStore | None,
    on_result: OnResult | None = None,
) -> None:
    """Run every test and write its files."""
    description, analysis = run.description, run.analysis
    writer = Writer(description.root, analysis.inputs.grid, run.header, description.outputs)
    if not (analysis.options.statistics.kinds or analysis.options.f_statistics.kinds):
        reporter.warn("no inference was asked for (-x, -T, -c, -C, -F, -S): only the raw statistic is written")
    by_name = {prepared.test.name: prepared for prepared in analysis.tests}
    results, announced = [], set[str]()

    def begin(prepared: PreparedTest) -> None:
        if analysis.statistics_for(prepared).kinds:
            announce_run(prepared, reporter.say)
            announced.add(prepared.test.name)

    on_maps = writer.permuted if description.permuted_maps else None
    for result in analyse(
        analysis, progress=reporter.progress, on_maps=on_maps, open_store=open_store, begin=begin
    ):
        if result.nulls and result.test.name not in announced:  # it shares the maps of its negative
            announce_run(by_name[result.test.name], reporter.say)
        announce_critical(result, writer, reporter.say)
        for warning in result.warnings:
            reporter.warn(warning)
        writer.result(result)
        if on_result:
            on_result(result, writer)
        results.append(replace(result, maps={}, least_ties={}, approximated={}))
    outputs = description.outputs
    if outputs.estimates or outputs.film or outputs.contrasts:
        writer.estimates(analysis.inputs, analysis.options.demean)
    _write_record(
        description, analysis, provenance(description, analysis, results, writer, hashes), hashes, reporter
    )


def _write_record(
    description: RunDescription, analysis: Analysis, record: dict[str, object], hashes: Hashes, reporter: Reporter
) -> None:
    """Remove the files of an earlier run with other inputs, and write the JSON record."""
    read = [name for named in hashes.values() for name, _ in named]
    removed = remove_earlier(description.root, record, read)
    if removed:
        reporter.warn(f"removed what an earlier run of other inputs had left: {', '.join(removed)}")
    files.write_json(f"{description.root}_randomise.json", record)
