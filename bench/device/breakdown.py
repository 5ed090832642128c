"""Where the time of one batch goes."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from bench.device.floors import measured, wall_ms, work_of_t_maps
from bench.device.lab import Lab
from bench.device.model import predicted_us, stage_of
from bench.device.studies import levelled, make_test
from gpuvox.device import Device
from gpuvox.statistics import Statistics
from gpuvox.tfce import Tfce

OTHER_CALLS = {"upload": "uploads", "put": "uploads", "empty": "allocations", "fill": "fills"}
"""Stages of what is not in `model.STAGES`."""


class Tracer:
    """Times each call of a device alone: the device is idle before it, and done after it.

    Attributes
    ----------
    spent : dict
        Kernel, or method of the device → [calls, milliseconds, bytes].
    """

    METHODS = ("launch", "download", "download_all", "upload", "put", "fill", "empty")

    def __init__(self, machine: Any, device: Device) -> None:
        self.machine, self.device, self.inside = machine, device, False
        self.spent: dict[str, list[float]] = {}

    def __enter__(self) -> Tracer:
        for method in self.METHODS:
            setattr(self.device, method, self._traced(method, getattr(self.device, method)))
        return self

    def __exit__(self, *_: object) -> None:
        for method in self.METHODS:
            delattr(self.device, method)

    def _traced(self, method: str, real: Callable) -> Callable:
        def call(*arguments: Any, **more: Any) -> Any:
            if self.inside:  # an upload allocates
                return real(*arguments, **more)
            self.inside = True
            try:
                self.machine.synchronise()
                start = perf_counter()
                result = real(*arguments, **more)
                self.machine.synchronise()
                ms = 1e3 * (perf_counter() - start)
            finally:
                self.inside = False
            entry = self.spent.setdefault(arguments[0] if method == "launch" else method, [0, 0.0, 0])
            moved = result if method.startswith("download") else arguments[0]
            entry[0] += 1
            entry[1] += ms
            if method in ("download", "download_all", "upload", "put"):
                entry[2] += sum(map(size_of, moved)) if method == "download_all" else size_of(moved)
            return result

        return call


def size_of(array: Any) -> int:
    """Bytes of an array."""
    return int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize


def break_down(lab: Lab, connectivity: int, mm: float, voxel: bool = False) -> None:
    """Where the time of one batch goes, beside what was predicted."""
    test = make_test(
        lab,
        lab.device,
        mm,
        lab.sizes.n,
        lab.sizes.permutations,
        Statistics(voxel, Tfce(connectivity=connectivity)),
    )
    batch = min(test.observe().batch, test.shuffler.n - 1)
    part = 1, 1 + batch
    observed = levelled(test, lambda observed: observed.run(*part))
    untraced = measured(lab, lambda: observed.run(*part))
    stages: dict[str, float] = {}
    with Tracer(lab.machine, lab.device) as tracer:
        traced = wall_ms(lab, lambda: observed.run(*part))
    for call, (_, ms, _) in tracer.spent.items():
        stage = stage_of(call) or OTHER_CALLS.get(call, "other kernels")
        stages[stage] = stages.get(stage, 0.0) + ms
    stages["the rest, on the host"] = max(traced - sum(stages.values()), 0.0)
    n_voxels, rows = lab.grid(mm).n_voxels, work_of_t_maps(test.model, batch)["rows_per_shuffle"]
    name = (
        f"one batch of {batch}, {mm:g} mm, n {lab.sizes.n}, C {connectivity}{', voxelwise too' if voxel else ''}"
    )
    lab.report.breakdowns.append({
        "name": name, "maps": batch, "ms": untraced,
        "stages_us_per_map": {stage: 1e3 * ms / batch for stage, ms in stages.items()},
        "predicted_us_per_map_on_an_h100": {
            stage: predicted_us(stage, connectivity, n_voxels, lab.sizes.n, rows) for stage in stages
        },
        "ms_one_call_at_a_time": traced, "stages_ms": stages,
        "calls": {k: {"calls": c, "ms": ms, "bytes": b} for k, (c, ms, b) in tracer.spent.items()},
    })  # fmt: skip
    test.model.release()
