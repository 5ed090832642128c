"""What is odd about a design is told, with its columns by number and name; nothing is told of what is usual."""

import shlex
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import gpuvox
from gpuvox import files
from gpuvox.cli.main import main
from gpuvox.design_checks import WORDS, DesignFinding, check_data_mean, check_design, describe_finding
from gpuvox.errors import InputWarning
from gpuvox.study.designs.cross_sectional import group_design
from gpuvox.tables.reading import typed

CASES = Path(__file__).parent / "data" / "fsl"
N = 20
RNG = np.random.default_rng(4)
AGE = RNG.uniform(20, 70, N)
TIV = RNG.normal(1500, 100, N)
GROUP = (np.arange(N) < N // 2).astype(float)
ONES = np.ones(N)


def kinds(*columns, **options):
    return [(each.kind, each.columns) for each in check_design(np.column_stack(columns), **options)]


@pytest.mark.parametrize("case", sorted(path.parent.name for path in CASES.glob("*/design.mat")))
def test_means_are_told_where_fsl_tells_them(case):
    words = shlex.split((CASES / case / "command.txt").read_text())
    name = CASES / case / words[words.index("-d") + 1]
    said = CASES / case / "stderr.txt"
    told = said.read_text() if said.exists() else ""
    found = [each.kind for each in check_design(files.read_matrix(name), demean="-D" in words, flip="-1" in words)]
    assert ("zero_mean" in found) == ("All design columns have zero mean" in told)
    assert ("demeaned" in found) == ("at least one design column has non-zero mean" in told)


def test_the_cases_of_means_are_there():
    told = [path.parent.name for path in CASES.glob("*/stderr.txt")]
    assert {"demean_missing", "demean_warnings"} <= set(told)


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        ((ONES,), {}),
        ((ONES, AGE), {}),
        ((GROUP, 1 - GROUP, AGE), {}),
        ((GROUP, 1 - GROUP, AGE - AGE.mean(), TIV * 1e6), {}),
        ((ONES, AGE, AGE**2, AGE**3), {}),
        ((ONES, 2000 + np.arange(N) % 5, AGE), {}),
        ((ONES, GROUP, 1 - GROUP), {}),  # of lower rank by intent
        ((AGE - AGE.mean(), TIV - TIV.mean()), {"demean": True}),
        ((AGE - AGE.mean(),), {"flip": True}),
        ((ONES, np.zeros(N)), {"voxelwise": [1]}),
        ((ONES, AGE, 2 * AGE + 1), {}),  # exactly dependent: contrasts are checked for it
    ],
)
def test_nothing_is_told_of_usual_designs(columns, options):
    assert kinds(*columns, **options) == []


def rounded(values, digits):
    return np.array([float(f"{value:.{digits}g}") for value in values])


@pytest.mark.parametrize("digits", [5, 6, 8])
def test_columns_that_are_collinear_up_to_the_rounding_of_a_text(digits):
    thirds, sixths = rounded(AGE / 3, digits), rounded(AGE * 2 / 3, digits)
    assert kinds(ONES, GROUP, thirds, sixths) == [("collinear", (2, 3))]
    assert kinds(GROUP, 1 - GROUP, thirds, sixths) == [("collinear", (2, 3))]
    assert ("collinear", (1, 2)) in kinds(GROUP, thirds, sixths, demean=True)
    total = rounded(AGE + TIV, digits)
    assert kinds(ONES, GROUP, rounded(AGE, digits), rounded(TIV, digits), total) == [("collinear", (2, 3, 4))]
    assert kinds(ONES, thirds, sixths * 1e6) == [("collinear", (1, 2))]
    assert kinds(ONES, AGE, AGE + 0.5 * RNG.normal(size=N)) == []


def test_columns_that_do_nothing_or_concern_one_row():
    one, but_one = np.zeros(N), np.full(N, 3.0)
    one[4], but_one[7] = 1, 5
    assert kinds(ONES, np.zeros(N)) == [("empty", (1,))]
    assert kinds(ONES, AGE, 2 * ONES) == [("constants", (0, 2))]
    assert kinds(ONES, AGE, demean=True) == [("demeaned", (0, 1)), ("constant_demeaned", (0,))]
    assert kinds(AGE - AGE.mean(), demean=True, flip=True) == [("flipped", (0,))]
    found = check_design(np.column_stack([ONES, one, but_one]))
    assert found == [DesignFinding("one_row", (1, 2), (4, 7))]
    assert "columns 2 (s5) (except in row 5) and 3 (except in row 8) are constant" in describe_finding(
        found[0], ["mean", "s5"], "d.mat"
    )


def test_means_that_nobody_models():
    rng = np.random.default_rng(0)
    data = (10 + rng.normal(size=(N, 50))).astype(np.float32)
    slope = (AGE - AGE.mean())[:, None]
    assert [each.kind for each in check_data_mean(data, slope)] == ["unmodelled_mean"]
    assert [each.kind for each in check_data_mean(data, AGE[:, None])] == ["unmodelled_mean"]
    assert check_data_mean(data, slope)[0].value == pytest.approx(10, rel=0.2)
    for design in (np.column_stack([ONES, AGE]), np.column_stack([GROUP, 1 - GROUP]), 2 * ONES[:, None]):
        assert check_data_mean(data, design) == []
    assert check_data_mean(data, slope, demean=True) == []
    assert check_data_mean(data - 10, slope) == []
    assert check_data_mean(data - data.mean(axis=0), AGE[:, None]) == []
    assert check_data_mean(data, np.column_stack([ONES, AGE]), voxelwise=[0])[0].columns == (0, 1)


def test_every_finding_has_words():
    for kind in WORDS:
        for columns in ((0,), (0, 1), tuple(range(12))):
            text = describe_finding(DesignFinding(kind, columns, columns, 1e-4), ["age", ""], "d.csv")
            assert "1 (age)" in text
            assert "\n" not in text


# -- the command, Python, designs and the study ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    data = 100 + rng.normal(size=(3, 3, 2, N)).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.eye(4)), "d.nii")
    centred = AGE - AGE.mean()
    pd.DataFrame({"age": centred}).to_csv("age.csv", index=False)
    pd.DataFrame({"one": ONES, "a": rounded(AGE / 3, 6), "b": rounded(AGE * 2 / 3, 6)}).to_csv(
        "near.csv", index=False
    )
    files.write_vest("age.con", [[1]], "con")
    files.write_vest("near.con", [[1, 0, 0]], "con")
    return data


def told(capsys, *words):
    assert main(["randomise", "-i", "d", "-o", "o", *words, "-n", "2", "-x", "--seed", "1", "--quiet"]) == 0
    return capsys.readouterr().err


def test_the_command_tells_them(folder, capsys):
    error = told(capsys, "-d", "age.csv", "-t", "age.con")
    assert "age.csv: all design columns have zero mean (column 1 (age)) - consider using the -D option" in error
    assert "the data are far from zero" in error
    assert "neither design column 1 (age) nor -D" in error
    assert "mean" not in told(capsys, "-d", "age.csv", "-t", "age.con", "-D")
    assert "near.csv: columns 2 (a) and 3 (b) are collinear" in told(capsys, "-d", "near.csv", "-t", "near.con")
    assert "mean" not in told(capsys, "-1")


def test_python_tells_them(folder):
    options = {"n_permutations": 2, "seed": 1, "device": "cpu"}
    mask = np.ones(folder.shape[:3], dtype=bool)
    with pytest.warns(UserWarning, match="all design columns have zero mean") as caught:
        gpuvox.randomise(folder, (AGE - AGE.mean())[:, None], [[1]], mask=mask, **options)
    assert any("the data are far from zero" in str(each.message) for each in caught)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        gpuvox.randomise(folder, np.column_stack([ONES, AGE]), [[0, 1]], mask=mask, **options)


def test_designs_from_tables_tell_them_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame(
        {
            "participant_id": [f"s{i}" for i in range(N)],
            "group": np.where(GROUP > 0, "MS", "HC"),
            "onset": rounded(AGE / 3, 6),
            "duration": rounded(AGE * 2 / 3, 6),
        }
    )
    table.loc[3, "group"] = "CIS"
    files.write_table("p.tsv", table)
    assert main("design --table p.tsv --group group --covariates onset,duration --out o".split()) == 0
    out = capsys.readouterr().out
    assert "columns 4 (onset) and 5 (duration) are collinear to within about the rounding" in out
    assert "column 1 (CIS) (except in row 4) is constant" in out
    assert out.strip().startswith("20 of the 20 rows")
    usual = group_design(typed(table.astype(str)).query("group != 'CIS'"), "group", covariates=["onset"])
    assert usual.concerns() == []
