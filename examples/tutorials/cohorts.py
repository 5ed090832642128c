"""The simulated cohorts of the tutorials: real anatomy, small images, effects whose place is known.

The anatomy is the MNI template that nilearn brings along, at 4 mm, so that every tutorial runs in seconds and needs no
network. Values are simulated from a fixed seed. Each function returns the folder that it has filled.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
from nilearn.image import resample_to_img
from scipy.ndimage import gaussian_filter, maximum_filter

MM = int(os.environ.get("TUTORIAL_MM", 4))
"""Voxel size in mm."""
TEMPLATE = load_mni152_template(resolution=MM)
"""T1 without skull; all images lie on its grid."""
AFFINE = TEMPLATE.affine


def shell(command: str, folder: Path) -> None:
    """Run a command in a folder, as a terminal would, and print what it prints."""
    words = shlex.split(command)
    program = [sys.executable, "-m", "gpuvox"] if words[0] == "gpuvox" else words[:1]
    done = subprocess.run([*program, *words[1:]], cwd=folder, capture_output=True, text=True, check=False)
    print("\n".join(line for line in (done.stdout + done.stderr).splitlines() if "compil" not in line))
    if done.returncode:
        raise SystemExit(f"{command} ended with status {done.returncode}")


def picture(path: Path) -> None:
    """Show a picture that a command has written."""
    pixels = plt.imread(path)
    height, width = pixels.shape[:2]
    figure = plt.figure(figsize=(width / 200, height / 200), dpi=200)
    figure.figimage(pixels)


def new_folder() -> Path:
    """A temporary folder that is removed when Python ends."""
    folder = Path(tempfile.mkdtemp(prefix="gpuvox-tutorial-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def anatomy(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Grey and white matter of the template; writes anatomy.nii.gz and the mask gm.nii.gz."""
    tissues = (
        resample_to_img(load(resolution=MM), TEMPLATE, force_resample=True, copy_header=True)
        for load in (load_mni152_gm_template, load_mni152_wm_template)
    )
    grey, white = (np.clip(image.get_fdata(), 0, 1) for image in tissues)
    save(folder / "anatomy.nii.gz", TEMPLATE.get_fdata())
    save(folder / "gm.nii.gz", grey > 0.3)
    return grey, white


def save(path: Path, values: np.ndarray) -> None:
    """Write an image on the grid of the template."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values.astype(np.float32), AFFINE)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def ball(shape: tuple[int, ...], *centres: tuple[float, float, float], radius: float) -> np.ndarray:
    """Smooth balls around places in mm, 1 in their middle."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    mm = voxels @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    return sum(np.exp(-0.5 * (np.linalg.norm(mm - centre, axis=-1) / radius) ** 2) for centre in centres)


def noise(shape: tuple[int, ...], rng: np.random.Generator, fwhm: float = 8) -> np.ndarray:
    """Smooth noise of unit variance, with its width at half maximum in mm."""
    values = gaussian_filter(rng.standard_normal(shape), fwhm / 2.355 / MM)
    return values / values.std()


def people(n: int, rng: np.random.Generator, groups: tuple[str, ...] = ("HC", "MS")) -> pd.DataFrame:
    """A table of participants, half of them in each group."""
    return pd.DataFrame({
        "participant_id": [f"sub-{number:02d}" for number in range(1, n + 1)],
        "group": np.resize(groups, n),
        "age": rng.integers(24, 62, n),
        "sex": rng.choice(["F", "M"], n),
    })  # fmt: skip


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table as TSV."""
    table.round(3).to_csv(path, sep="\t", index=False, na_rep="n/a")


THALAMI = ((-12, -18, 8), (12, -18, 8))
HIPPOCAMPI = ((-28, -20, -16), (28, -20, -16))


def vbm(n: int = 40) -> Path:
    """Grey matter of two groups: the patients have less of it in the thalami, everybody less with age."""
    folder, rng = new_folder(), np.random.default_rng(1)
    grey, _ = anatomy(folder)
    table = people(n, rng)
    table["tiv"] = rng.normal(1500, 120, n) + 120 * (table.sex == "M")
    loss, ageing = ball(grey.shape, *THALAMI, radius=9), ball(grey.shape, *HIPPOCAMPI, radius=11)
    for row in table.itertuples():
        value = grey * (row.tiv / 1500) + 0.07 * noise(grey.shape, rng) * grey
        value -= grey * (0.12 * (row.group == "MS") * loss + 0.004 * (row.age - 24) * ageing)
        save(folder / "vbm" / f"{row.participant_id}_probseg.nii.gz", value)
    write(table, folder / "participants.tsv")
    return folder


def tbss(n: int = 36) -> Path:
    """FA on a skeleton, as one 4D image with its participants beside it; lower in the corpus callosum of patients."""
    folder, rng = new_folder(), np.random.default_rng(2)
    _, white = anatomy(folder)
    smooth = gaussian_filter(white, 0.7)
    skeleton = (smooth > 0.55) & (smooth >= np.sort([maximum_filter(smooth, size) for size in
                                                     ((3, 1, 1), (1, 3, 1), (1, 1, 3))], axis=0)[0])  # fmt: skip
    table, damage = people(n, rng), ball(white.shape, (0, -26, 24), (0, 18, 18), radius=12)
    stack = [
        skeleton
        * (0.5 + 0.05 * noise(white.shape, rng, 6) - 0.06 * (row.group == "MS") * damage - 0.001 * row.age)
        for row in table.itertuples()
    ]
    save(folder / "all_FA_skeletonised.nii.gz", np.stack(stack, axis=-1))
    save(folder / "mean_FA_skeleton_mask.nii.gz", skeleton)
    write(table[["participant_id"]], folder / "all_FA_skeletonised.tsv")
    write(table, folder / "participants.tsv")
    return folder


def sessions(n: int = 20) -> Path:
    """Cerebral blood flow before and after a drug, which raises it in the insula of those who took it."""
    folder, rng = new_folder(), np.random.default_rng(3)
    grey, _ = anatomy(folder)
    effect = ball(grey.shape, (-38, 6, 2), (38, 6, 2), radius=9)
    table = people(n, rng, ("placebo", "drug"))
    rows = []
    for row in table.itertuples():
        own = 55 + 6 * noise(grey.shape, rng, 12) + rng.normal(0, 4)
        for session in ("pre", "post"):
            value = own + 3 * noise(grey.shape, rng) + 8 * effect * (row.group == "drug") * (session == "post")
            save(folder / "cbf" / f"{row.participant_id}_{session}_cbf.nii.gz", grey * value)
            rows.append({**row._asdict(), "session": session})
    write(pd.DataFrame(rows).drop(columns="Index"), folder / "sessions.tsv")
    return folder


def visits(n: int = 24) -> Path:
    """Grey matter at up to four yearly visits: patients lose it faster in the thalami. Some miss a visit."""
    folder, rng = new_folder(), np.random.default_rng(4)
    grey, _ = anatomy(folder)
    loss, rows = ball(grey.shape, *THALAMI, radius=9), []
    for row in people(n, rng).itertuples():
        own, rate = grey + 0.08 * noise(grey.shape, rng) * grey, 0.035 * (row.group == "MS") + rng.normal(0, 0.008)
        for number in range(4):
            if number and rng.random() < 0.12:
                continue
            years = number + (rng.normal(0, 0.08) if number else 0)
            value = own - grey * loss * rate * years + 0.03 * noise(grey.shape, rng) * grey
            save(folder / "gm" / f"{row.participant_id}_ses-{number + 1}_gm.nii.gz", value)
            rows.append({**row._asdict(), "session": f"ses-{number + 1}", "years": years})
    write(pd.DataFrame(rows).drop(columns="Index"), folder / "sessions.tsv")
    return folder


def lesions(n: int = 60) -> Path:
    """Maps of lesions and a score that falls if the left insula is damaged; some participants have no score."""
    folder, rng = new_folder(), np.random.default_rng(5)
    grey, white = anatomy(folder)
    territory = np.argwhere((ball(grey.shape, (-40, -12, 16), radius=26) > 0.5) & (grey + white > 0.5))
    critical = ball(grey.shape, (-38, 4, 4), radius=8) > 0.5
    table = people(n, rng, ("stroke",)).drop(columns="group")
    scores, count = [], np.zeros(grey.shape)
    for row in table.itertuples():
        place = territory[rng.integers(len(territory))] @ AFFINE[:3, :3].T + AFFINE[:3, 3] + rng.normal(0, 3, 3)
        damaged = (ball(grey.shape, tuple(place), radius=rng.uniform(8, 16)) > 0.5) & (grey + white > 0.4)
        save(folder / "lesions" / f"{row.participant_id}_lesion.nii.gz", damaged)
        count += damaged
        scores.append(30 - 14 * damaged[critical].mean() - 0.05 * row.age + rng.normal(0, 2))
    table["score"] = scores
    table.loc[[7, 31], "score"] = np.nan
    write(table, folder / "participants.tsv")
    save(folder / "damaged_in_5.nii.gz", count >= 5)
    return folder
