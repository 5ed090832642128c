"""``--plan``: a description of a run, with its cost."""

from __future__ import annotations

import gzip
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace

from gpuvox import files
from gpuvox.analysis import Analysis, PreparedTest, TestGroup
from gpuvox.application.announcements import describe_device
from gpuvox.application.command import RunDescription
from gpuvox.application.cost import Cost, cost_of_test, data_bytes, on_cluster
from gpuvox.application.inputs import PreparedRun, check_permutation_counts, prepare_run, read_grid
from gpuvox.checkpoint import read_to_resume
from gpuvox.cuda import resolve_all
from gpuvox.device import Device
from gpuvox.distributed.launch import (
    ClusterSize,
    find_size,
)
from gpuvox.errors import FileError
from gpuvox.movement import extent, movement
from gpuvox.reporter import Reporter
from gpuvox.runtime.limits import threads_for
from gpuvox.scratch import block, check_folder
from gpuvox.tally import share

SKETCH = 8
"""Volumes that the plan reads."""


def plan(description: RunDescription) -> str:
    """Describe a run and estimate its cost, from headers, matrices, mask, the first volumes and a short measurement.

    Parameters
    ----------
    description : RunDescription
        With data in files.

    Raises
    ------
    InputError
        Anything that the run itself would refuse.
    """
    started = time.process_time()  # loads what a run loads
    run = prepare_run(description)
    check_permutation_counts(run.analysis.tests)
    check_folder(description.options.scratch)
    if description.checkpoint:
        files.check_output_root(description.checkpoint)
    if description.resume:
        read_to_resume(description.tally_file)
    cluster = find_size(description.cluster) if description.cluster else None
    named = description.device if isinstance(description.device, str) and not cluster else "cpu"
    devices = resolve_all(named)
    analysis, seconds = _sketch(run)
    threads = threads_for(description.options.threads)
    if cluster:
        threads = min(threads, max(1, cluster.threads // max(cluster.processes, 1)))
    analysis = analysis.run_with(device=devices[0] if devices else None, threads=threads)
    # Further devices are assumed to be as fast as the first.
    costs = [
        (n, replace(cost, each=cost.each / max(1, len(devices)))) for n, cost in _costs(description, analysis)
    ]
    if cluster:
        costs = [(n, on_cluster(cost, threads, cluster)) for n, cost in costs]
    seconds += started + _seconds_of_files(description, analysis)
    seconds += sum(cost.setup + _n_done(description, n) * cost.each for n, cost in costs)
    grid = analysis.inputs.grid
    lines = [
        f"data: {description.data}, {len(analysis.inputs.design)} volumes of {' × '.join(map(str, grid.shape))} voxels",
        f"voxels: {grid.n_voxels}"
        + ("" if description.mask is not None else f" vary over the first {SKETCH} volumes (no mask given)"),
        *_device_lines(devices, threads, cluster),
        *_sending_lines([cost for _, cost in costs]),
        *(_test_line(description, prepared) for prepared in analysis.tests),
        *_shard_lines(description),
        f"{_memory_text(description, analysis, [cost for _, cost in costs], cluster)}; time: about "
        f"{_duration(seconds)}, as measured here in a second",
    ]
    return "\n".join(lines)


def _shard_lines(description: RunDescription) -> list[str]:
    if not description.shard:
        return []
    return [f"shard {description.shard[0]} of {description.shard[1]}: that part of the permutations, and its cost"]


def _n_done(description: RunDescription, n: int) -> int:
    """Number of permutations that this run does, of n."""
    if not description.shard:
        return n
    start, stop = share(n, *description.shard)
    return stop - start


def _device_lines(devices: Sequence[Device], threads: int, cluster: ClusterSize | None) -> list[str]:
    if cluster:
        return [
            f"cluster: {cluster.processes} workers with {cluster.threads} threads in total, assumed to be as fast as "
            "one here; starting them takes additional time"
        ]
    if not devices:
        return [f"device: cpu, {threads} threads"]
    return [f"device: {describe_device(device)}" for device in devices]


def _sending_lines(costs: Sequence[Cost]) -> list[str]:
    """A line if data do not stay on the device."""
    sent = [cost.sending for cost in costs if cost.sending]
    if not sent:
        return []
    most = max(sent, key=lambda each: each.n_bytes)
    return [
        f"data on the device: {most.n_bytes / 2**30:.2f} GiB do not fit; they are sent in {most.n_slabs} slabs for "
        f"every {most.batch} permutations while others are computed ({most.rate / 1e9:.1f} GB/s measured here)"
    ]


def _memory_text(
    description: RunDescription, analysis: Analysis, costs: Sequence[Cost], cluster: ClusterSize | None
) -> str:
    if not costs:
        return "memory: little"
    text = f"memory: about {max(cost.memory for cost in costs) / 2**20:,.0f} MiB"
    if cluster:
        text += " in each worker, and as much here"
    if description.options.scratch:
        inputs = analysis.inputs
        size = data_bytes(len(inputs.design), inputs.grid.n_voxels, len(inputs.evs)) / 2**30
        text += f", and {size:,.2f} GiB in {description.options.scratch}"
    return text


def _sketch(run: PreparedRun) -> tuple[Analysis, float]:
    """The analysis with only its first volumes, and the seconds to read all of them."""
    description, silent = run.description, Reporter.silent()
    start, n = time.perf_counter(), len(run.analysis.inputs.design)
    if description.mask is not None or description.keep_constant:
        grid, _ = read_grid(description, silent)
        volumes, passes = files.first_volumes(description.data, SKETCH, grid.index), 1
    else:
        volumes, passes = files.first_volumes(description.data, SKETCH), 2  # once more, to find the mask
        varies = (volumes != volumes[0]).any(axis=0)
        if not varies.any():
            raise FileError(f"no voxel of {description.data} varies over the first {len(volumes)} volumes")
        header = files.read_header(files.image_names(description.data)[0])
        grid, volumes = header.grid(varies.reshape(header.shape[:3], order="F")), volumes[:, varies]
    reading = (time.perf_counter() - start) / len(volumes) * n * (passes + len(run.evs))
    inputs = replace(run.analysis.inputs, data=volumes, grid=grid, evs=dict.fromkeys(run.evs, volumes))
    return replace(run.analysis, inputs=inputs), reading


def _seconds_of_files(description: RunDescription, analysis: Analysis) -> float:
    """Seconds to hash the inputs and write the maps, from small samples of both."""
    sample, start = bytes(1 << 23), time.perf_counter()
    hashlib.sha256(sample)
    hashed, start = time.perf_counter() - start, time.perf_counter()
    volume = analysis.inputs.grid.to_volume(block(analysis.inputs.data, slice(0, 1), slice(None))[0])
    gzip.compress(volume.tobytes(order="F"), files.GZIP_LEVEL)
    written = time.perf_counter() - start
    paths = [path for name in files.image_names(description.data) for path in files.image_files(name)]
    each = [analysis.statistics_for(prepared) for prepared in analysis.tests]
    n_maps = sum(1 + len(w.kinds) * (1 + w.uncorrected + description.outputs.raw) for w in each)
    n_maps += 2 * len(analysis.inputs.contrasts) if description.outputs.contrasts else 0
    return hashed * sum(os.path.getsize(path) for path in paths) / len(sample) + written * n_maps


def _test_line(description: RunDescription, prepared: PreparedTest) -> str:
    design, shuffler = prepared.design, prepared.shuffler
    return (
        f"{prepared.test.title}: {description.options.nuisance.name.lower()}, rank of effect {design.rank_effect}, of "
        f"nuisance {design.rank_nuisance}, degrees of freedom {design.df}; "
        f"{movement(shuffler)}; {extent(shuffler)}, smallest p {1 / shuffler.n:.3g}"
    )


def _costs(description: RunDescription, analysis: Analysis) -> list[tuple[int, Cost]]:
    """Permutations and cost of each group of tests that share their maps."""
    return [
        (group[0].shuffler.n, cost_of_test(analysis, group[0], _signs(analysis, group), description.shard))
        for group in analysis.groups(joined=not description.permuted_maps)
        if analysis.statistics_for(group[0]).kinds
    ]


def _signs(analysis: Analysis, group: TestGroup) -> int:
    return 2 if analysis.statistics_for(group[0]).two_sided else len(group)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
