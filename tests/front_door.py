"""A small BIDS-like cohort in a folder, for tests of ``gpuvox voxelwise`` against ``gpuvox randomise`` by hand."""

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.testing import assert_array_equal

from gpuvox.cli.main import main
from gpuvox.files import write_vest

SHAPE = (8, 7, 6)
AFFINE = np.diag([2.0, 2, 2, 1])
AFFINE[:3, 3] = [-8, -7, -6]


class Cohort:
    """A small BIDS-like folder: a table whose rows are in no order, an image for each, and a mask."""

    def __init__(self, folder, table, seed=0):
        rng = np.random.default_rng(seed)
        self.folder, self.table = folder, table.iloc[rng.permutation(len(table))].reset_index(drop=True)
        self.values = rng.normal(size=(len(table), *SHAPE)).astype(np.float32) + 3
        (folder / "maps").mkdir()
        mask = np.zeros(SHAPE)
        mask[1:7, 1:6, 1:5] = 1
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), AFFINE), folder / "mask.nii.gz")

    def write(self, sep="\t"):
        """The images, and the table in its order."""
        self.names = [
            "_".join([row.participant_id, *([row.session] if "session" in self.table else []), "gm"])
            for row in self.table.itertuples()
        ]
        for name, values in zip(self.names, self.values):
            nib.save(nib.Nifti1Image(values, AFFINE), self.folder / "maps" / f"{name}.nii.gz")
        self.table.to_csv(self.folder / "participants.tsv", sep=sep, index=False, na_rep="n/a")

    def by_hand(self, design, contrasts, *options, f_tests=None, blocks=None, rows=None):
        """``gpuvox randomise`` on a 4D image and matrices that are written here."""
        rows = range(len(self.table)) if rows is None else rows
        stack = np.moveaxis(self.values[list(rows)], 0, -1)
        root = self.folder / "hand"
        nib.save(nib.Nifti1Image(stack, AFFINE), f"{root}.nii.gz")
        words = ["randomise", "-i", str(root), "-o", str(root), "-m", str(self.folder / "mask"), "--quiet"]
        if design is not None:
            write_vest(f"{root}.mat", design)
            write_vest(f"{root}.con", np.atleast_2d(contrasts), "con")
            words += ["-d", f"{root}.mat", "-t", f"{root}.con"]
        if f_tests is not None:
            write_vest(f"{root}.fts", np.atleast_2d(f_tests), "fts")
            words += ["-f", f"{root}.fts", "--fonly"]
        if blocks is not None:
            write_vest(f"{root}.grp", blocks, "grp")
            words += ["-e", f"{root}.grp"]
        assert main([*words, *options, "-n", "60", "--seed", "7"]) == 0
        return root

    def voxelwise(self, *words, images="maps/{participant_id}_gm.nii.gz", out="out"):
        images = str(self.folder / images) if "{" in images or "." in images else images
        return main(
            ["voxelwise", "--no-report", str(self.folder / "participants.tsv"), "--images", images, "--mask",
             str(self.folder / "mask"), "--out", str(self.folder / out), "-n", "60", "--seed", "7", "--quiet", *words]
        )  # fmt: skip


def read(path):
    return nib.load(f"{path}.nii.gz").get_fdata(dtype=np.float32)


def exceeding(log_p, n=60):
    """p of a map of −log10 p, as a number of permutations: exact."""
    return np.round(10.0 ** -log_p.astype(np.float64) * n).astype(int)


def exceeding_by_hand(path, n=60):
    """The same of a map of 1 − p."""
    return np.round((1 - read(path).astype(np.float64)) * n).astype(int)


def same(out, label, root, test, kinds=("tfce",)):
    """The maps of a test are those that randomise wrote, to the bit; p as −log10."""
    stat = "F" if test.startswith("f") else "t"
    assert_array_equal(read(out / f"contrast-{label}_stat-{stat}_statmap"), read(f"{root}_{test}"))
    names = {"tfce": "tfceFWE", "vox": "voxFWE", "clustere": "clusterSizeFWE", "clusterm": "clusterMassFWE"}
    for kind in kinds:
        mine = read(out / f"contrast-{label}_stat-logp_desc-{names[kind]}_statmap")
        assert mine.max() > 0
        assert_array_equal(exceeding(mine), exceeding_by_hand(f"{root}_{kind}_corrp_{test}"))


def people(n=16, **columns):
    ids = [f"sub-{i:02d}" for i in range(1, n + 1)]
    return pd.DataFrame({"participant_id": ids, **columns})


def centred(values):
    values = np.asarray(values, dtype=float)
    return values - values.mean()


def dummy(column, level):
    return (column == level).to_numpy(dtype=float)


def make_two_groups(folder):
    """Two groups of 8 with covariates and two sites; MS is larger in the middle."""
    rng = np.random.default_rng(1)
    table = people(
        group=np.repeat(["HC", "MS"], 8), age=rng.integers(25, 60, 16), sex=rng.choice(["F", "M"], 16),
        tiv=rng.normal(1500, 100, 16).round(1), site=np.resize(["a", "b"], 16),
    )  # fmt: skip
    cohort = Cohort(folder, table)
    cohort.values[(cohort.table["group"] == "MS").to_numpy(), 2:5, 2:5, 2:4] += 1.5
    cohort.write()
    return cohort
