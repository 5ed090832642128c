"""``gpuvox voxelwise``: prepare the analysis, run its runs of randomise, write the results, and report them."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpuvox.analysis import TestResult
from gpuvox.application.across import AcrossTests
from gpuvox.application.command import RunDescription
from gpuvox.application.execute import OnResult, prepare_to_run, write_merged
from gpuvox.application.execute import execute as execute_run
from gpuvox.application.findings import Finding
from gpuvox.application.inputs import SharedImages, read_grid
from gpuvox.application.outputs import Writer
from gpuvox.application.plan import plan as plan_run
from gpuvox.application.voxelwise.analysis import VoxelwiseAnalysis, check_one_mask, prepare_analysis
from gpuvox.application.voxelwise.description import VoxelwiseDescription
from gpuvox.application.voxelwise.folder import ResultFolder
from gpuvox.application.voxelwise.runs import Run
from gpuvox.checkpoint import Tallies, read_to_resume
from gpuvox.checkpoint import merge as merge_tallies
from gpuvox.errors import FileError
from gpuvox.plain import listed
from gpuvox.reporter import Reporter


@dataclass(frozen=True)
class Output:
    """Where results are written.

    Attributes
    ----------
    folder : str
    fsl_names : bool
        Maps are there under FSL's names, too.
    line : tuple of str
        The words of the command, for the record.
    shard_line : tuple of str
        Those of the shards that are merged.
    """

    folder: str
    fsl_names: bool = False
    line: tuple[str, ...] = ()
    shard_line: tuple[str, ...] = ()


def execute(
    description: VoxelwiseDescription, output: Output, reporter: Reporter, seed: int | None = None
) -> list[Finding]:
    """Run a voxelwise analysis, or a shard of its permutations, which writes tallies only.

    Parameters
    ----------
    description : VoxelwiseDescription
    output : Output
    reporter : Reporter
        Receives what is analysed and what was found, warnings, and progress.
    seed : int, optional
        By default that of the run that is resumed, or one that is drawn.

    Returns
    -------
    list of Finding
        For each test; nothing for a shard.

    Raises
    ------
    InputError
        One sentence that says what is wrong; nothing is written then, but for the progress that ``--resume`` takes up.
    """
    analysis, folder = _prepare(description, output, reporter)
    if description.run.shard:
        folder.write_design(analysis, keep=True)
        runs = _describe_all(description.run, output, analysis, folder)
        _execute_all(runs, seed, _once(reporter), None)
        tallies = os.path.join(folder.path, "randomise", "*.tally")
        part, parts = description.run.shard
        reporter.say(
            f"Shard {part} of {parts} is in {folder.path}; gpuvox merge {tallies} makes the maps of all shards."
        )
        return []

    def run_all(runs: Sequence[RunDescription], on_result: OnResult | None) -> None:
        _execute_all(runs, seed, _once(reporter), on_result)

    return _write_results(description, output, analysis, folder, reporter, run_all)


def merge(
    description: VoxelwiseDescription, output: Output, reporter: Reporter, parts: Mapping[str, Tallies]
) -> list[Finding]:
    """``gpuvox merge``: write the results of an analysis from the tallies of its shards.

    Parameters
    ----------
    description : VoxelwiseDescription
        That of the shards.
    output : Output
    reporter : Reporter
    parts : dict of Tallies
        By file, of all runs of randomise and all shards.

    Raises
    ------
    InputError
        Tallies are missing or of another analysis; inputs or software have changed since; errors as of `execute`.
    """
    analysis, folder = _prepare(description, output, reporter)
    merged = [merge_tallies(_parts_of(run, analysis, parts)) for run in analysis.runs]

    def run_all(runs: Sequence[RunDescription], on_result: OnResult | None) -> None:
        once, shared = _once(reporter), SharedImages()
        for run, tallies in zip(runs, merged):
            write_merged(run.with_seed(tallies.seed), tallies, once, shared, on_result)

    return _write_results(description, output, analysis, folder, reporter, run_all)


SHARD = re.compile(r"(.+)_shard\d+of\d+\.tally")
"""Files of shards: the name of the run, and which part it is."""


def _parts_of(run: Run, analysis: VoxelwiseAnalysis, parts: Mapping[str, Tallies]) -> dict[str, Tallies]:
    """The tallies of a run, by the names of their files."""
    found, known = {}, [each.name for each in analysis.runs]
    for name, tallies in parts.items():
        match = SHARD.fullmatch(os.path.basename(name))
        if match is None or match[1] not in known:
            raise FileError(
                f"{name} cannot be told to be of {' or '.join(known)} of this analysis; gpuvox voxelwise calls files "
                f"of shards {known[0]}_shard1of2.tally and so on",
                file=name,
            )
        if match[1] == run.name:
            found[name] = tallies
    if not found:
        raise FileError(f"there are no tallies of {run.name}, one of the {len(known)} runs of this analysis")
    return found


def _prepare(
    description: VoxelwiseDescription, output: Output, reporter: Reporter
) -> tuple[VoxelwiseAnalysis, ResultFolder]:
    """The analysis, checked as far as possible, and the folder of its results."""
    folder = ResultFolder(output.folder)
    analysis = prepare_analysis(description, reporter)
    _announce(analysis, reporter)
    _check_images(description.run, analysis)
    folder.prepare(analysis, _names_read(description))
    return analysis, folder


def _announce(analysis: VoxelwiseAnalysis, reporter: Reporter) -> None:
    """Say what is analysed, and warn of tests without p-values: thresholds are given of the other statistic alone."""
    for line in analysis.lines():
        reporter.say(line)
    first = next(iter(analysis.sets))
    for run in (each for each in analysis.runs if each.images == first):
        options, kind = run.options, "F" if run.options.f_only else "t"
        if not (options.f_statistics if options.f_only else options.statistics).kinds:
            names = listed([repr(each.own_name) for each in run.hypotheses])
            given, other = ("-c and -C", "-F, -S") if options.f_only else ("-F and -S", "-c, -C")
            reporter.warn(f"{names}: no p-values, since {given} do not test {kind}; {other}, -x or -T would")


def _describe_all(
    described: RunDescription, output: Output, analysis: VoxelwiseAnalysis, folder: ResultFolder
) -> list[RunDescription]:
    """The runs of randomise; images that are made for them are written once for all."""
    described = replace(described, line=output.line, shard_line=output.shard_line)
    data = {name: folder.data(analysis, name) for name in analysis.sources}
    return [_describe(described, analysis, run, folder, data) for run in analysis.runs]


def _execute_all(
    runs: Sequence[RunDescription], seed: int | None, reporter: Reporter, on_result: OnResult | None
) -> None:
    seed, shared = _seed(runs) if seed is None else seed, SharedImages()
    for run in runs:
        resume = run.resume and os.path.exists(run.tally_file)
        described = replace(run.with_seed(seed), resume=resume, checkpoint_option="--resume")
        if run.resume:  # progress is saved from the first time
            described = replace(described, checkpoint=run.tally_file)
        execute_run(described, reporter, shared, on_result)


def _write_results(
    description: VoxelwiseDescription,
    output: Output,
    analysis: VoxelwiseAnalysis,
    folder: ResultFolder,
    reporter: Reporter,
    run_all: Callable[[Sequence[RunDescription], OnResult | None], None],
) -> list[Finding]:
    """Run, or merge, all runs of randomise; write the results, and say what they are."""
    with folder.writing(reporter.warn):
        folder.write_design(analysis)
        across, writers = AcrossTests(), dict[str, Writer]()

        def keep(result: TestResult, writer: Writer) -> None:
            writers[writer.root] = writer
            if analysis.across_tests:
                across.keep(result, writer)

        run_all(_describe_all(description.run, output, analysis, folder), keep)
        across.write()
        for root, writer in writers.items():
            folder.keep_approximated(root, writer.grid, writer.approximated)
        estimates = description.run.outputs.estimates
        found = folder.finish(analysis, fsl_names=output.fsl_names, line=output.line, estimates=estimates)
    reporter.say("")
    for finding in found:
        for line in finding.lines():
            reporter.say(line)
    reporter.say(f"Results are in {folder.path}.")
    return found


def plan(description: VoxelwiseDescription, reporter: Reporter) -> None:
    """Say what would be run, with estimates of time and memory; nothing is written."""
    analysis = prepare_analysis(description, reporter)
    _announce(analysis, reporter)
    with tempfile.TemporaryDirectory() as temporary:
        folder = ResultFolder(Path(temporary) / "plan")
        folder.prepare(analysis, [])
        folder.write_design(analysis)
        described = replace(description.run, resume=False)
        for run in _describe_all(described, Output(temporary), analysis, folder):
            for line in plan_run(run).splitlines():
                if not line.startswith("data: "):  # a temporary name
                    reporter.say(line)


def _check_images(described: RunDescription, analysis: VoxelwiseAnalysis) -> None:
    """Find what is wrong with images, mask, device or workers before anything is written."""
    check_one_mask(analysis, described.mask)
    for images in analysis.sources.values():
        paths = images.names(sorted(images.paths) if images.combined else analysis.rows)
        data = paths[0] if images.stacked else paths
        sources = replace(
            described, root="", data=data, one_sample=True, options=replace(described.options, flip=True)
        )
        prepare_to_run(sources)
        if described.mask is not None:
            read_grid(sources, Reporter.silent())


def _names_read(description: VoxelwiseDescription) -> list[str]:
    """Files besides the images that the results must not replace."""
    table = description.table
    return [os.fspath(table)] if isinstance(table, str | os.PathLike) else []


def _describe(
    described: RunDescription,
    analysis: VoxelwiseAnalysis,
    run: Run,
    folder: ResultFolder,
    data: Mapping[str, str],
) -> RunDescription:
    """A run of randomise whose files are in the folder."""
    root = folder.root(run)
    outputs = replace(
        described.outputs,
        uncorrected=described.outputs.uncorrected or bool(run.fdr),
        contrasts=not len(run.f_tests),
    )
    return replace(
        described,
        data=data[run.images],
        voxelwise=tuple((column + 1, data[name]) for column, name in analysis.model.voxelwise.items()),
        outputs=outputs,
        root=root,
        effective_design=f"{root}_effective.mat" if run.labels is not None else None,
        design=f"{root}.mat",
        contrasts=f"{root}.con",
        f_tests=f"{root}.fts" if len(run.f_tests) else None,
        blocks=folder.blocks(analysis, run),
        options=run.options,
    )


def _seed(runs: Sequence[RunDescription]) -> int:
    """The seed of what is resumed, or one that is drawn."""
    for run in runs:
        if run.resume and os.path.exists(run.tally_file):
            return read_to_resume(run.tally_file).seed
    return secrets.randbits(32)


def _once(reporter: Reporter) -> Reporter:
    """A reporter for the runs: it prints no lines, and each warning once."""
    said: set[str] = set()

    def warn(text: str) -> None:
        if text not in said:
            said.add(text)
            reporter.warn(text)

    return replace(reporter, say=Reporter.silent().say, warn=warn)
