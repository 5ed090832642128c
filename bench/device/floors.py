"""The least time that a job can take at the measured ceilings."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from bench.device.lab import Lab, say
from bench.device.table import line_of
from gpuvox.glm import Glm


def measured(lab: Lab, work: Callable[[], Any]) -> dict:
    """Milliseconds between events: median and range of the repeats, after a warm-up."""
    work()
    return spread([lab.machine.timed(work) for _ in range(lab.sizes.repeats)])


def spread(times: list[float]) -> dict:
    """Median and range of milliseconds."""
    return {"ms": float(np.median(times)), "fastest_ms": min(times), "slowest_ms": max(times), "all_ms": times}


def wall_ms(lab: Lab, work: Callable[[], Any]) -> float:
    """Wall time of something that ends with the device."""
    lab.machine.synchronise()
    start = perf_counter()
    work()
    lab.machine.synchronise()
    return 1e3 * (perf_counter() - start)


def note(lab: Lab, name: str, maps: int, time: dict, work: dict, **more: Any) -> None:
    """A timing with its floor."""
    ceiling = lab.report.facts.get("ceilings") or lab.before.facts.get("ceilings")
    row = {"name": name, "maps": maps, **time, "us_per_map": 1e3 * time["ms"] / maps, **work, **more}
    if ceiling and work:
        computed = work["operations"] / ceiling["float32_operations"]["per_s"]
        for name, moved in (("floor_ms", work["bytes"]), ("method_floor_ms", work.get("method_bytes"))):
            if moved is not None:
                row[name] = 1e3 * max(moved / ceiling["copy_bytes"]["per_s"], computed)
        row["times_the_floor"] = time["ms"] / row["floor_ms"]
    lab.report.timings.append(row)
    say(line_of(row))


def work_of_t_maps(model: Glm, n_maps: int) -> dict:
    """Residuals read once, maps written once; a multiply-add for every subject, voxel and row."""
    n, n_voxels = model.data.shape
    rows = model.model.rank_effect + model._moving.shape[1]
    return {
        "bytes": 4 * n * n_voxels + 4 * n_maps * n_voxels,
        "operations": 2 * n * n_voxels * rows * n_maps,
        "rows_per_shuffle": rows,
    }


def work_of_maps(n_maps: int, n_voxels: int, written: int = 0) -> dict:
    """Maps read once; `written` bytes of every voxel's result. What happens in between is not counted."""
    return {"bytes": n_maps * n_voxels * (4 + written), "operations": 0}


def work_of_tfce(n_maps: int, n_voxels: int, full: bool = False) -> dict:
    """Like `work_of_maps`, and the bytes of this method: its arrays written once and read once, edges left out.

    Map and index 4 bytes each, read; levels 2, pointers 4, order 4, written and read; at all voxels scores above the
    voxel 8, written and read, and the index, pointers and levels again, and the scores 8, written.
    """
    each = 8 + 2 * (2 + 4 + 4) + (16 + 4 + 4 + 2 + 8 if full else 0)
    return work_of_maps(n_maps, n_voxels, 8 if full else 0) | {"method_bytes": each * n_maps * n_voxels}


def add_work(*parts: dict) -> dict:
    """Bytes and operations of several steps."""
    total = {key: sum(part[key] for part in parts) for key in ("bytes", "operations")}
    return total | {"method_bytes": sum(part.get("method_bytes", part["bytes"]) for part in parts)}
