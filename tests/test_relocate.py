"""Tables that are written name the same files as those that they were made from, wherever they lie."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import save

from gpuvox.cli import main, main_randomise
from gpuvox.tables.relocate import relocated

IDS = [f"sub-{i:02d}" for i in range(1, 11)]


@pytest.fixture
def cohort(study):
    """The images of the study one by one; `raw/p.tsv` names them in several ways, `raw/v.tsv` as visits."""
    data = nib.load("data.nii.gz").get_fdata()
    (study / "raw").mkdir()
    (study / "maps").mkdir()
    (study / "results").mkdir()
    for i, name in enumerate(IDS):
        save(Path(f"maps/{name}_fa.nii.gz"), data[..., i])
        save(Path(f"raw/{name}.nii.gz"), data[..., i])
    table = pd.DataFrame({
        "participant_id": IDS,
        "group": ["MS"] * 5 + ["HC"] * 5,
        "phase": ["a/b", "a"] * 5,
        "fa": [f"../maps/{name}_fa" for name in IDS],
        "beside": [f"{name}.nii.gz" for name in IDS],
        "bare": IDS,
        "whole": [str(study / f"maps/{name}_fa.nii.gz") for name in IDS],
    })  # fmt: skip
    table.to_csv("raw/p.tsv", sep="\t", index=False)
    rows = [(IDS[i // 2], f"ses-{i % 2 + 1}", f"../maps/{name}_fa.nii.gz") for i, name in enumerate(IDS)]
    pd.DataFrame(rows, columns=["participant_id", "session", "fa"]).to_csv("raw/v.tsv", sep="\t", index=False)
    return table


def tstat(root):
    return nib.load(f"{root}_tstat1.nii.gz").get_fdata()


def permuted(images, root, design, *more):
    line = f"-o {root} -m mask -d {design}.mat -t {design}.con -x -n 5 --seed 1 --quiet"
    assert main_randomise([*line.split(), "-i", images, *more]) == 0
    return tstat(root)


def test_participants_of_a_design_name_the_same_images(cohort):
    line = "design --table raw/p.tsv --group group --order MS,HC --quiet --select bare=stack --out"
    assert main([*line.split(), "results/des"]) == 0
    listed = pd.read_csv("results/des_participants.tsv", sep="\t")
    unchanged = ["participant_id", "group", "phase", "whole"]
    pd.testing.assert_frame_equal(listed[unchanged], cohort[unchanged])
    assert listed["beside"][0] == "../raw/sub-01.nii.gz"
    expected = permuted("raw/p.tsv:fa", "first", "results/des")
    for column in ("fa", "beside", "bare", "whole"):
        found = permuted(f"results/des_participants.tsv:{column}", column, "results/des")
        np.testing.assert_array_equal(found, expected)
    # In the folder of the first table nothing changes.
    assert main([*line.split(), "raw/des"]) == 0
    pd.testing.assert_frame_equal(pd.read_csv("raw/des_participants.tsv", sep="\t"), cohort)


def test_visits_name_the_same_images(cohort):
    for maps in ([], ["--map", "fa=fa"]):
        line = "longitudinal --table raw/v.tsv --visit session --out results/long --quiet"
        assert main([*line.split(), *maps]) == 0
        blocks = ("-e", "results/long_visit.grp")
        expected = permuted("data", "first", "results/long_visit", *blocks)
        found = permuted("results/long_visits.tsv:fa", "second", "results/long_visit", *blocks)
        np.testing.assert_array_equal(found, expected)
        change = pd.read_csv("results/long_change.tsv", sep="\t")
        assert "fa" not in change if maps else Path("results", change["fa"][0]).exists()


def test_paths_of_a_folder_behind_a_link(cohort, tmp_path):
    """`..` is above the folder itself, not above the link to it."""
    (tmp_path / "far" / "away").mkdir(parents=True)
    os.symlink(tmp_path / "far" / "away", "link")
    moved = relocated(cohort, "raw/p.tsv", "link/p.tsv")
    assert moved["fa"][0] == "../../maps/sub-01_fa"
    assert Path("link", moved["beside"][0]).is_file()
    assert cohort["fa"][0] == "../maps/sub-01_fa"  # a table that is given stays


def test_cells_without_a_file_move_with_their_column(cohort):
    cells = ["../maps/sub-01_fa", "n/a", "../maps/not_yet.nii.gz", np.nan]
    table = pd.DataFrame({"participant_id": IDS[:4], "fa": cells, "date": "01/02/2024", "n": [1.0, 2, 3, 4]})
    moved = relocated(table, "raw/p.tsv", "p.tsv")
    assert moved["fa"].fillna("").tolist() == ["maps/sub-01_fa", "n/a", "maps/not_yet.nii.gz", ""]
    pd.testing.assert_frame_equal(moved.drop(columns="fa"), table.drop(columns="fa"))
