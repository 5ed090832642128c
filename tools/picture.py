"""Make the picture of the README and of the start page: ``python tools/picture.py docs/pictures/result.jpg``.

It is what the first tutorial finds, at 2 mm.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TUTORIAL_MM"] = "2"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "tutorials"))

from cohorts import shell, vbm
from PIL import Image

WIDTH = 1440
"""Pixels: about twice the width at which it is shown."""


def main(out: str) -> None:
    """Run the analysis, and shrink its picture."""
    folder = vbm()
    shell(
        "gpuvox voxelwise participants.tsv --images 'vbm/{participant_id}_probseg.nii.gz' --mask gm --out results"
        " --model 'group + age + sex + tiv' --test 'HC - MS' --test 'MS - HC' --underlay anatomy --seed 1",
        folder,
    )
    with Image.open(folder / "results/report/HCMinusMS_and_MSMinusHC_mosaic.png") as picture:
        height = round(picture.height * WIDTH / picture.width)
        small = picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    small.save(out, quality=88, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
