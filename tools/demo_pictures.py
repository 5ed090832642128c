"""Make the pictures of the pages on reports and studies from what `make demo` has written.

python tools/demo_pictures.py demo docs/pictures

Reports are photographed by Chromium: of each, the parts that a picture shows, on a page that is just large enough.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from PIL import Image, ImageChops

WIDTH = 1100
"""Pixels of the page in the browser."""


@dataclass(frozen=True)
class Part:
    """What a picture shows of a report: all that matches ``hidden`` is left out, and it is cut off at ``height``."""

    report: str
    hidden: str
    height: int


ALONE = "header, nav, section:not(#{0})"
PARTS = {
    "report_findings.jpg": Part(
        "voxelwise/report.html", ".byline, button, section:not(#findings):not(#maps)", 855
    ),
    "report_clusters.jpg": Part(
        "voxelwise/report.html",
        f"{ALONE.format('clusters')}, button, .cluster, #clusters > figure:not(.cluster) ~ *, #clusters .note",
        1250,
    ),
    "study_findings.jpg": Part("results/report.html", ".byline, section:not(#findings)", 962),
    "study_models.jpg": Part(
        "results/report.html",
        f"{ALONE.format('models')}, button, #models > :not(.plots), #models .plots ~ .plots",
        900,
    ),
}


def photograph(report: Path, part: Part) -> Image.Image:
    """The part of a report as the browser shows it, without the white below."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        sys.exit("Chromium is needed to photograph reports")
    page = re.sub(r"<meta[^>]*Content-Security-Policy[^>]*>", "", report.read_text(encoding="utf-8"))
    layout = "body { display: block !important }" if "nav" in part.hidden else ""  # no column for the contents
    page = page.replace(
        "</head>", f"<style>{part.hidden} {{ display: none !important }} {layout}</style></head>", 1
    )
    with tempfile.TemporaryDirectory() as name:
        source, picture = Path(name, "page.html"), Path(name, "page.png")
        source.write_text(page, encoding="utf-8")
        subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             f"--window-size={WIDTH},{part.height}", f"--screenshot={picture}", source.as_uri()],
            check=True, capture_output=True,
        )  # fmt: skip
        pixels = Image.open(picture).convert("RGB")
    _, _, _, bottom = ImageChops.difference(pixels, Image.new("RGB", pixels.size, "white")).getbbox()
    return pixels.crop((0, 0, WIDTH, min(bottom + 20, part.height)))


def measured_and_computed(cohort: Path) -> plt.Figure:
    """QSM and R1 of the first participant, and the iron and myelin that follow from them, in one axial slice."""
    first = next(line.split("\t")[0] for line in (cohort / "participants.tsv").read_text().splitlines()[1:])
    mask = np.asanyarray(nib.load(cohort / "template/deepgray.nii.gz").dataobj) > 0.5
    height = int(mask.sum((0, 1)).argmax())
    shown = {
        "QSM (ppm)": nib.load(cohort / first / "qsm.nii").dataobj[..., height],
        "R1 at 3 T (1/s)": nib.load(cohort / first / "r1.nii").dataobj[..., height],
        "iron (mg/kg)": nib.load(cohort / "results/maps/iron.nii.gz").dataobj[..., height, 0],
        "myelin (fraction)": nib.load(cohort / "results/maps/myelin.nii.gz").dataobj[..., height, 0],
    }
    figure, axes = plt.subplots(1, 4, figsize=(11, 3.4), layout="constrained")
    for axis, (title, values) in zip(axes, shown.items(), strict=True):
        tissue = values[mask[..., height]]
        picture = axis.imshow(np.rot90(values), cmap="gray", vmin=np.percentile(tissue, 1), vmax=tissue.max())
        axis.set(title=title, xticks=[], yticks=[])
        figure.colorbar(picture, ax=axis, orientation="horizontal", shrink=0.8)
    return figure


def main(demo: str, out: str) -> None:
    """Write every picture."""
    cohort, folder = Path(demo) / "cohort", Path(out)
    for name, part in PARTS.items():
        photograph(cohort / part.report, part).save(folder / name, quality=85, optimize=True)
    measured_and_computed(cohort).savefig(folder / "iron_and_myelin.png", dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
