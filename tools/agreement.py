"""Make the picture of docs/validation.md: ``python tools/agreement.py docs/pictures/agreement.png``.

Every map of the reference runs of FSL that exists on both sides, except where gpuvox differs deliberately.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tests.test_reference import CASES, DIFFERENT, NAMES, run_case  # noqa: E402

KINDS = {"tstat": "t", "fstat": "F", "tfce_corrp": "1 − p, TFCE", "cluster._corrp": "1 − p, clusters"}
"""Patterns of names of files, and what the maps hold."""


def pairs() -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """FSL's values and ours, of all cases, by kind."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {kind: [] for kind in KINDS.values()}
    for case in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            run_case(case, Path(folder))
            for theirs in sorted((CASES / case).glob("fsl_*.nii.gz")):
                ours = Path(folder) / theirs.name
                kind = next(
                    (title for pattern, title in KINDS.items() if re.match(f"fsl_{pattern}", theirs.name)), None
                )
                skipped = any(part in theirs.name for part in DIFFERENT.get(case, ())) or case == "ter_braak"
                if kind and ours.exists() and not skipped:
                    found[kind].append((nib.load(theirs).get_fdata().ravel(), nib.load(ours).get_fdata().ravel()))
    return found


def main(out: str) -> None:
    """Scatter plots of all values."""
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
    for axis, (kind, maps) in zip(axes, pairs().items()):
        theirs, ours = (np.concatenate(side) for side in zip(*maps))
        kept = (theirs != 0) | (ours != 0)
        limits = np.percentile(theirs[kept], [0.05, 99.95]) if kind in ("t", "F") else np.array([0.0, 1.0])
        axis.plot(limits, limits, color="0.8", zorder=0)
        axis.plot(theirs[kept], ours[kept], ".", markersize=2, alpha=0.4, rasterized=True)
        axis.set(xlim=limits, ylim=limits, aspect="equal", xlabel="FSL randomise 2.9", ylabel="gpuvox")
        axis.set_title(f"{kind}: {kept.sum():,} values of {len(maps)} maps", fontsize=9)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1])
