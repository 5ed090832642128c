"""`make demo`: a small seeded cohort, the command on it, the clusters it finds, and a picture.

python tools/demo.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.image import AxesImage
from scipy.ndimage import gaussian_filter

from gpuvox import files
from gpuvox.cli import main_randomise
from gpuvox.cluster import label
from gpuvox.grid import Grid

SHAPE, MM, N_PATIENTS, N_CONTROLS = (40, 48, 40), 2.0, 24, 16


def make_study(folder: Path) -> Grid:
    """40 subjects with age and sex; patients are higher in a ball and lower in another."""
    rng = np.random.default_rng(2026)
    x, y, z = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * MM for n in SHAPE], indexing="ij")
    affine = np.diag([MM, MM, MM, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * MM for n in SHAPE]
    grid = Grid((x / 36) ** 2 + (y / 44) ** 2 + (z / 36) ** 2 < 1, (MM, MM, MM), affine)
    n = N_PATIENTS + N_CONTROLS
    patient = np.arange(n) < N_PATIENTS
    age, sex = rng.normal(40, 12, n).round(1), rng.integers(0, 2, n)
    up = (x - 14) ** 2 + (y + 10) ** 2 + (z - 4) ** 2 < 9**2
    down = (x + 14) ** 2 + (y - 12) ** 2 + (z + 6) ** 2 < 7**2
    anatomy = make_anatomy(x, y, z)
    data = np.empty((n, grid.n_voxels), np.float32)
    for i in range(n):
        noise = gaussian_filter(rng.normal(size=SHAPE), 1.5)
        image = anatomy + noise / noise.std() + 1.2 * patient[i] * (1.0 * up - down) + 0.02 * (age[i] - 40)
        data[i] = grid.to_vector(image)
    files.write_map(folder / "cohort", data, grid)
    files.write_map(folder / "mask", np.ones(grid.n_voxels), grid)
    design = np.column_stack([patient, ~patient, age - age.mean(), sex - sex.mean()])
    files.write_vest(folder / "design.mat", design, "mat")
    files.write_vest(folder / "design.con", [[1, -1, 0, 0], [-1, 1, 0, 0]], "con")
    return grid


def make_anatomy(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """What all subjects share: a bright core, a darker rim, two dark ventricles."""
    core = (x / 28) ** 2 + (y / 35) ** 2 + (z / 28) ** 2 < 1
    ventricles = ((np.abs(x) - 6) / 4) ** 2 + (y / 16) ** 2 + ((z - 4) / 6) ** 2 < 1
    return gaussian_filter(20 + 8.0 * core - 14.0 * ventricles, 1)


def print_clusters(grid: Grid, corrected: np.ndarray, t: np.ndarray, title: str) -> None:
    """Table of the clusters with corrected p < .05."""
    labels, n = label(corrected, grid, 0.95)
    say(f"{title}: {n} cluster{'' if n == 1 else 's'} at p < .05, corrected")
    if n:
        say("   voxels   mm³    peak t   smallest p   peak x, y, z (mm)")
    positions = np.column_stack(np.unravel_index(grid.index, grid.shape, order="F"))
    for number in range(1, n + 1):
        voxels = np.flatnonzero(labels == number)
        peak = voxels[np.argmax(t[voxels])]
        where = grid.affine[:3, :3] @ positions[peak] + grid.affine[:3, 3]
        place = ", ".join(f"{w:.0f}" for w in where)
        p = 1 - corrected[voxels].max()
        say(f"   {len(voxels):6d}  {len(voxels) * MM**3:6.0f}  {t[peak]:7.2f}   {p:10.4f}   {place}")


def draw(grid: Grid, mean: np.ndarray, maps: list[np.ndarray], stats: list[np.ndarray], path: Path) -> None:
    """Three slices through the highest t of either direction's clusters, corrected map over mean image."""
    fig, axes = plt.subplots(2, 3, figsize=(9, 6.8), layout="constrained", sharex="col", sharey="col")
    fig.suptitle(f"{N_PATIENTS} patients, {N_CONTROLS} controls: TFCE, corrected p < .05")
    below = grid.to_volume(mean, np.nan)
    for row, title in enumerate(("patients > controls", "patients < controls")):
        volume = grid.to_volume(maps[row])
        peak = np.argmax(np.where(maps[row] >= 0.95, stats[row], -np.inf))
        at = np.unravel_index(grid.index[peak], grid.shape, order="F")
        for axis, name in enumerate("xyz"):
            over = draw_slice(axes[row, axis], below, volume, axis, at[axis], grid)
            millimetres = grid.affine[axis, axis] * at[axis] + grid.affine[axis, 3]
            axes[row, axis].set_title(f"{title}, {name} = {millimetres:.0f} mm", fontsize=9)
    fig.colorbar(over, ax=axes, label="1 − p, family-wise error corrected", shrink=0.7)
    fig.savefig(path, dpi=130)


def draw_slice(
    ax: plt.Axes, below: np.ndarray, volume: np.ndarray, axis: int, index: int, grid: Grid
) -> AxesImage:
    """One slice in millimetres; the grey scale is the same in all."""
    across, up = (a for a in range(3) if a != axis)
    centres = [
        (grid.affine[a, 3], grid.affine[a, 3] + grid.affine[a, a] * (grid.shape[a] - 1)) for a in (across, up)
    ]
    extent = [end for low, high in centres for end in (low - MM / 2, high + MM / 2)]
    shared = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
    grey = {"cmap": "gray", "vmin": np.nanmin(below), "vmax": np.nanmax(below)}
    ax.imshow(np.take(below, index, axis).T, **grey, **shared)
    shown = np.take(volume, index, axis).T
    ax.set_xlabel(f"{'xyz'[across]} (mm)", fontsize=8)
    ax.set_ylabel(f"{'xyz'[up]} (mm)", fontsize=8)
    ax.tick_params(labelsize=7, labelbottom=True)
    return ax.imshow(np.where(shown >= 0.95, shown, np.nan), cmap="autumn", vmin=0.95, vmax=1, **shared)


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(folder: Path) -> int:
    """Make, run, tell, draw."""
    folder.mkdir(parents=True, exist_ok=True)
    grid = make_study(folder)
    say(f"{N_PATIENTS} patients and {N_CONTROLS} controls, {grid.n_voxels} voxels, written to {folder}/")
    command = f"-i {folder}/cohort -o {folder}/out -m {folder}/mask -d {folder}/design.mat -t {folder}/design.con"
    arguments = [*command.split(), "-T", "-n", "1000", "--seed", "1"]
    say("gpuvox randomise " + " ".join(arguments))
    status = main_randomise(arguments)
    if status:
        return status
    read = lambda name: files.read_map(folder / name, grid)  # noqa: E731
    maps, stats = ([read(f"out_{kind}{i}") for i in (1, 2)] for kind in ("tfce_corrp_tstat", "tstat"))
    for corrected, t, title in zip(maps, stats, ("patients > controls", "patients < controls")):
        print_clusters(grid, corrected, t, title)
    mean = files.read_cohort(folder / "cohort", grid).mean(axis=0)
    draw(grid, mean, maps, stats, folder / "corrected.png")
    say(f"corrected maps: {folder}/out_tfce_corrp_tstat1.nii.gz, …; picture: {folder}/corrected.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo")))
