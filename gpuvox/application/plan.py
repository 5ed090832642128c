"""``--plan``: what a run would be, in words."""

from __future__ import annotations

import gzip
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gpuvox import files
from gpuvox.analysis import (
    Inputs,
    Test,
    negative_of,
)
from gpuvox.application.announcements import describe
from gpuvox.application.command import Command, checkpoint_name
from gpuvox.application.cost import Cost, cost_of_test, data_bytes, on_cluster
from gpuvox.application.inputs import Prepared, check_permutation_counts, prepare, read_grid
from gpuvox.checkpoint import read_to_resume
from gpuvox.cuda import resolve
from gpuvox.device import Device
from gpuvox.distributed.launch import (
    ClusterSize,
    find_size,
)
from gpuvox.errors import FileError
from gpuvox.partitioning import PartitionedDesign, partition
from gpuvox.plain import in_short
from gpuvox.runtime.limits import threads_for
from gpuvox.scratch import block, check_folder
from gpuvox.statistics import Statistics
from gpuvox.tally import share


def plan(command: Command) -> str:
    """``--plan``: what a run would be, from headers, matrices, mask and the first volumes, and a second of work."""
    started = time.process_time()  # loading what a run loads, too
    prepared = prepare(command)
    check_permutation_counts(prepared.shufflers)
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
        grid = read_grid(command)
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


def _model_of(command: Command, inputs: Inputs, test: Test) -> PartitionedDesign:
    return partition(
        inputs.design, test.contrast, demean=command.options.demean, is_f=test.is_f,
        check=not command.voxelwise_columns,
    )  # fmt: skip


def guess_seconds(command: Command, prepared: Prepared, n_voxels: int) -> float:
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
    return f"{number:,}" if number < 10**15 else in_short(number)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
