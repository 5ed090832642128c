"""What a reading of the kernels predicted for an H100, to stand beside what is measured. Nothing here was measured.

Microseconds per permutation, both signs, for 235,000 voxels, 146 participants and four rows of the shuffled model.
"""

from __future__ import annotations

VOXELS, SUBJECTS, ROWS = 235_000, 146, 4

PREDICTED: dict[str, dict[int, float]] = {
    "t maps": {6: 8.5, 26: 8.5},
    "ties": {6: 3.0, 26: 3.0},
    "TFCE": {6: 10.0, 26: 22.0},
}
"""By stage of `breakdown` and connectivity."""

PHASES = (
    "levels", "peaks", "numbers of peaks", "labels", "edges", "edges sorted", "sweep: scores above",
    "sweep: unions", "sweep: voxels", "sweep: scores", "results",
)  # fmt: skip
"""Phases of tfce_peaks, in the order of END_OF_PHASE in its source."""

INSTRUCTIONS: dict[str, dict[int, float]] = {
    "levels": {6: 0.54, 26: 0.54}, "peaks": {6: 1.93, 26: 2.72}, "labels": {6: 0.75, 26: 0.53},
    "edges": {6: 0.10, 26: 0.14}, "edges sorted": {6: 0.03, 26: 0.03},
}  # fmt: skip
"""Millions of warp instructions a map, of an emulator, at a smoothness of 3.5 voxels; the sweep takes 0.4 to 0.6."""


def predicted_us(stage: str, connectivity: int, n_voxels: int, n: int, rows: int) -> float | None:
    """Predicted microseconds per permutation of a stage, in proportion to the size; None if nothing was predicted."""
    if stage not in PREDICTED:
        return None
    share = n_voxels / VOXELS
    if stage == "t maps":
        share *= n * rows / (SUBJECTS * ROWS)
    return PREDICTED[stage][connectivity] * share
