"""What is predicted for an H100, to stand beside what is measured. Nothing here was measured.

Microseconds per permutation, both signs, for 235,000 voxels, 146 participants and four rows of the shuffled model, from
what an emulator counted of the compiled kernels (`results/counts.json`). Each kernel issues its instructions, or moves
its sectors, at the rate that a reading of the first kernels and of their occupancy led to expect; rates stay as they
are while counts change. Latencies that a change hides, such as those of loads that are issued earlier, do not show.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

COUNTS = Path(__file__).parents[1] / "results" / "counts.json"
VOXELS, SUBJECTS, ROWS, BATCH = 235_000, 146, 4, 1584

INSTRUCTIONS_PER_US: dict[str, float] = {
    "glm_maps<false>": 7.01e6 / 8.5,
    "tfce_peaks<6, false>": 4.6e6 / 10.0,
    "tfce_peaks<26, false>": 8.0e6 / 22.0,
}
"""Warp instructions of the kernels as they were read, and the microseconds that were predicted for them.

Of the 0.9 million that an H100 issues in a microsecond, these are 0.92, 0.51 and 0.40; blocks of the last two fill
1,536 and 1,024 of the 2,048 threads of a multiprocessor.
"""
CACHED, STREAMED = 5.5e6 / 32, 2.3e6 / 32
"""Sectors of 32 bytes per microsecond, from the second-level cache and from memory."""
SECTORS_PER_US = {"glm_exact": CACHED, "maps_list_steps": STREAMED}
"""Of the other kernels whose work is in proportion to the voxels; that of all others does not depend on them."""
LAUNCH_US, DOWNLOAD_US = 5.0, 30.0
"""Of each launch, and of the one download, of a batch."""
FIXED_S = 0.1
"""Of a run, once the context and the kernels are there: sending and residualising the data, and the observed maps."""

STAGES = {
    "shuffle_": "shuffles", "glm_": "t maps", "maps_ties_everywhere": "ties", "maps_list": "ties", "maps_put": "ties",
    "tfce_": "TFCE", "download": "downloads",
}  # fmt: skip
"""Stage of a kernel by the beginning of its name."""

PHASES = (
    "levels", "peaks", "numbers of peaks", "labels", "edges", "edges sorted", "sweep: scores above",
    "sweep: unions", "sweep: voxels", "sweep: scores", "results",
)  # fmt: skip
"""Phases of tfce_peaks, in the order of END_OF_PHASE in its source."""


@cache
def counts() -> dict[str, Any]:
    """The table of counts of the present kernels."""
    table: dict[str, Any] = json.loads(COUNTS.read_text())
    return table


def times(table: Mapping[str, Any], connectivity: int) -> dict[str, float]:
    """Microseconds of each kernel per permutation, from a table of counts.

    Counts of `TFCE, C 6` at 10 mm, in proportion to the voxels where the work is, and of the largest TFCE of a map at
    2 mm, whose clusters and peaks are those of a real brain.
    """
    coarse, brain = table["10 mm"], table["2 mm"]
    share, found = VOXELS / coarse["voxels"], {"download": DOWNLOAD_US / BATCH}
    for kernel, entry in coarse["TFCE, C 6"].items():
        if not kernel.startswith("tfce_"):
            of_voxels = kernel in INSTRUCTIONS_PER_US or kernel in SECTORS_PER_US
            found[kernel] = LAUNCH_US / BATCH + alone(kernel, entry) * (share if of_voxels else 1.0)
    for kernel, entry in brain[f"largest TFCE of a map, C {connectivity}"].items():
        found[kernel] = LAUNCH_US / BATCH + alone(kernel, entry) * VOXELS / brain["voxels"]
    return found


def alone(kernel: str, entry: Mapping[str, Any]) -> float:
    """Microseconds of what was counted: of instructions where they are the limit, otherwise of sectors."""
    if kernel in INSTRUCTIONS_PER_US:
        return float(entry["warp_instructions"]) / INSTRUCTIONS_PER_US[kernel]
    return float(entry.get("sectors", 0)) / SECTORS_PER_US.get(kernel, STREAMED)


def stage_of(call: str) -> str:
    """Stage of a kernel, or of another call; an empty string if it belongs to none."""
    return next((stage for start, stage in STAGES.items() if call.startswith(start)), "")


def stage_times(table: Mapping[str, Any], connectivity: int) -> dict[str, float]:
    """Microseconds of each stage per permutation."""
    stages: dict[str, float] = {}
    for call, us in times(table, connectivity).items():
        stages[stage_of(call)] = stages.get(stage_of(call), 0.0) + us
    return stages


def predicted_us(stage: str, connectivity: int, n_voxels: int, n: int, rows: int) -> float | None:
    """Predicted microseconds per permutation of a stage, in proportion to the size; None if nothing was predicted."""
    us = stage_times(counts(), connectivity).get(stage)
    if us is None:
        return None
    share = n_voxels / VOXELS if stage in ("t maps", "ties", "TFCE") else 1.0
    if stage == "t maps":
        share *= n * rows / (SUBJECTS * ROWS)
    return us * share


def instructions_by_phase(connectivity: int) -> dict[str, float]:
    """Millions of warp instructions of each phase of tfce_peaks in the largest TFCE of a map, by the emulator."""
    (entry,) = counts()["2 mm"][f"largest TFCE of a map, C {connectivity}"].values()
    found: dict[str, float] = {}
    for phase, part in _named(entry["phases"]):
        found[phase] = found.get(phase, 0.0) + part["warp_instructions"] / 1e6
    return found


def _named(phases: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What begins after a barrier belongs to the phase after the one that ended there, until another one ends."""
    number = 0
    for title, part in phases.items():
        ended = re.search(r"END_OF_PHASE\((\d+)\)", title)
        if ended:
            # Without scores of all voxels the sweep begins with unions, to which it returns after each level's scores.
            number = {5: 7, 9: 7}.get(int(ended[1]), int(ended[1]) + 1)
        yield PHASES[min(number, len(PHASES) - 1)], part
