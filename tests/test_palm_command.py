"""``gpuvox palm``, the command: PALM's cases with the shufflings that PALM used, and its grammar.

| part | establishes |
|---|---|
| cases | every file that PALM wrote is written, with its values: statistics to 1e-5, p to the ties that PALM loses |
| files | tables and images have PALM's form |
| grammar | options, optional values, configurations; unknown and unsupported ones are refused |
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import stats

import gpuvox
from gpuvox import errors, files
from gpuvox.application.palm import execute
from gpuvox.application.palm.description import Regressor
from gpuvox.application.palm.record import OURS
from gpuvox.block_tree import shuffler_of
from gpuvox.cli import main
from gpuvox.cli.palm import describe
from gpuvox.cli.palm_options import NOTED, OPTIONS, REFUSED, read_words
from gpuvox.shuffle import Permutations
from gpuvox.signed_rows import to_one
from tests.cuda_on_cpu.shim import CXX, ShimDevice
from tests.palm import cases, naive

NAMES = sorted(path.name for path in cases.FOLDER.iterdir() if path.is_dir())
SHORT = ("corrcon_t_f", "csv_table", "fdr_bky_save1p", "eb_multilevel", "accel_noperm")
"""The cases that run with the other tests; between them they have every kind of file."""
LOSE_TIES = {"cmcx", "cmcp", "vg_repeated_measures", "t_exhaustive", "ise", "eb_within"}
"""PALM compares rounded numbers exactly, so that its p are up to 2/N too small."""
APPROXIMATE = {"accel_gamma", "accel_gamma_tfce", "accel_negbin", "accel_tail", "accel_tail_twotail"}
DIFFERENT = {
    "csv_table": "fdrparap",
}
"""Files that hold a defect of PALM's, by a part of their names; see docs/palm.md."""


def run_case(name: str, folder: Path, *more: str) -> None:
    """Run the command of a case in another folder, with PALM's shufflings if they are there."""
    source = cases.FOLDER / name
    words = shlex.split((source / "command.txt").read_text())[1:]
    words[words.index("-o") + 1] = str(folder / "palm")
    words = [str(source / word) if (source / word).is_file() else word for word in words]
    saved = ["--permutations", str(source / "palm")] if list(source.glob("*_permidx.csv")) else []
    vg = ["--palm-dof"] if "-vg" in words or "-demean" in words else []
    assert main(["palm", *words, *saved, *vg, "-quiet", "--device", "cpu", *more]) == 0


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in NAMES]
)
def test_case(name, tmp_path):
    run_case(name, tmp_path)
    case = cases.Case(name)
    compared = 0
    for path in sorted(case.folder.glob("palm_*")):
        if path.name.endswith("permidx.csv") and "-saveperms" not in case.command:
            continue
        assert (tmp_path / path.name).exists(), path.name
        if name in DIFFERENT and DIFFERENT[name] in path.name:
            continue
        compare(case, path, tmp_path / path.name)
        compared += 1
    assert compared >= 2


def compare(case: cases.Case, theirs: Path, ours: Path) -> None:
    name = case.folder.name
    inside = mask_of(case, theirs)
    expected, found = cases.written(theirs, inside), cases.written(ours, inside)
    decimals = 6e-5 if theirs.suffix == ".csv" and "_max" not in theirs.name else 0
    kind = theirs.name.split(".")[0].split("_")[3] if theirs.name.count("_") > 2 else ""
    if theirs.name.endswith("permidx.csv"):
        np.testing.assert_array_equal(found, expected, err_msg=theirs.name)
    elif not kind.endswith("p") or "parap" in kind:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=max(decimals, 1e-6), err_msg=theirs.name)
    elif name in APPROXIMATE or "noperm" in name:
        assert np.mean(np.abs(found - expected) <= 2e-3) >= 0.99, theirs.name
    else:
        lost = 2.001 / len(case.permutations(case.tests[0])) if name in LOSE_TIES else 0
        np.testing.assert_allclose(found, expected, rtol=0, atol=lost + max(decimals, 1e-9), err_msg=theirs.name)


def mask_of(case: cases.Case, path: Path) -> np.ndarray | None:
    if not path.name.endswith(".nii.gz"):
        return None
    number = next(
        (int(part[1:]) for part in path.name.removesuffix(".nii.gz").split("_") if part in ("m1", "m2")), 1
    )
    return case.modalities[number - 1][1]


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run of a table with two contrasts, an F, and everything that can be saved; its folder."""
    folder = tmp_path_factory.mktemp("palm")
    rng = np.random.default_rng(3)
    group = np.repeat([0, 1], 6)
    data = rng.normal(size=(12, 6))
    data[:, 2] += 3 * group
    np.savetxt(folder / "data.csv", data, delimiter=",", fmt="%.6f")
    np.savetxt(folder / "other.csv", data[:, :4] ** 2, delimiter=",", fmt="%.6f")
    np.savetxt(folder / "design.csv", np.c_[1 - group, group, rng.normal(size=12)], delimiter=",", fmt="%.6f")
    (folder / "con.csv").write_text("-1,1,0\n0,0,1\n")
    (folder / "fcon.csv").write_text("1,1\n")
    return folder


def palm(folder: Path, line: str) -> int:
    words = [str(folder / word) if word.endswith(".csv") else word for word in shlex.split(line)]
    return main(["palm", "-o", str(folder / "o"), "--device", "cpu", *words])


RUN = "-i data.csv -d design.csv -t con.csv -n 60 -quiet"


def test_a_configuration_repeats_the_run(small, capsys):
    assert palm(small, f"{RUN} -f fcon.csv -corrcon -savemax -saveperms -seed twist") == 0
    first = {path.name: path.read_bytes() for path in small.glob("o_*")}
    assert main(["palm", str(small / "o_palmconfig.txt")]) == 0
    assert {path.name: path.read_bytes() for path in small.glob("o_*")} == first
    assert "o_dat_zfstat_cfwep_c3.csv" in first
    assert first["o_dat_zfstat_c3_perm000001.csv"] == first["o_dat_zfstat_c3.csv"]
    assert capsys.readouterr().err == ""


def test_shufflings_that_were_saved_are_those_that_were_used(small):
    assert palm(small, f"{RUN} -savemax -saveperms") == 0
    maxima = np.loadtxt(small / "o_dat_tstat_max_c1.csv")
    assert palm(small, f"{RUN} -savemax --permutations {small / 'o'} -seed 7") == 0
    np.testing.assert_array_equal(np.loadtxt(small / "o_dat_tstat_max_c1.csv"), maxima)


def test_given_shufflings_keep_the_blocks_that_are_given(small, capsys):
    """The first that breaks them is named: blocks that trade places as wholes do not keep rows within them."""
    (small / "eb.csv").write_text("".join(f"{1 + row // 3}\n" for row in range(12)))
    assert palm(small, f"{RUN} -eb eb.csv -whole -saveperms -seed 3") == 0
    assert palm(small, f"{RUN} -eb eb.csv -whole --permutations {small / 'o'}") == 0
    capsys.readouterr()
    assert palm(small, f"{RUN} -eb eb.csv -within --permutations {small / 'o'}") == 2
    said = capsys.readouterr().err
    assert "o_c1_permidx.csv: row 2 of the imported permutations breaks the exchangeability blocks" in said


def test_tests_that_are_corrected_together_need_the_same_shufflings(small, capsys):
    assert palm(small, f"{RUN} -saveperms") == 0
    capsys.readouterr()
    assert palm(small, f"{RUN} -corrcon --permutations {small / 'o'}") == 2
    assert "contrast 2 of design 1" in capsys.readouterr().err


def test_the_scales_of_p(small):
    """1 − p and −log10 p of the same p."""
    scales = {}
    for option in ("", "-save1-p", "-logp"):
        assert palm(small, f"{RUN} {option}") == 0
        scales[option] = np.loadtxt(small / "o_dat_tstat_uncp_c1.csv", delimiter=",")
    np.testing.assert_allclose(scales["-save1-p"], 1 - scales[""], atol=1e-4)
    np.testing.assert_allclose(scales["-logp"], -np.log10(scales[""]), atol=2e-3)
    assert scales[""][2] == scales[""].min()


def test_given_shufflings_in_an_order_are_counted(small, capsys):
    """All flips, in order: -accel negbin would stop before it came to those that flip the first row."""
    flips = shuffler_of(np.ones(12), Permutations(0, flip=True)).shuffles(0, 4096)
    files.write_permidx(small / "all_permidx.csv", to_one(flips))
    assert palm(small, f"{RUN.replace('-n 60', '-n 0')} -ise") == 0
    counted = (small / "o_dat_tstat_uncp_c1.csv").read_text()
    capsys.readouterr()
    assert palm(small, f"{RUN.replace(' -quiet', '')} --permutations {small / 'all'} -accel negbin -ise") == 0
    assert (small / "o_dat_tstat_uncp_c1.csv").read_text() == counted
    said = capsys.readouterr().out
    assert (
        "contrast 1 of design 1: signs change as in the given file; 4,096 sign flips, all of which are used"
        in said
    )
    assert (
        "contrast 1 of design 1: its shufflings come in an order, not at random, so all of them are made" in said
    )
    assert "approximate p" not in said


def test_decimals_of_a_table_tie_as_whole_numbers_do(small):
    """Data with one decimal are not exact in float32, and sums that are equal would differ."""
    whole = np.random.default_rng(0).integers(-9, 10, (8, 12))
    np.savetxt(small / "sides.csv", np.repeat([1, -1], 4), fmt="%d")
    (small / "one.csv").write_text("1\n")
    rows = np.array(list(itertools.combinations(range(8), 4)))
    sums = np.stack([whole[row].sum(axis=0) for row in rows])
    size = np.abs(2 * sums - whole.sum(axis=0))  # of the difference of the sides, on which |t| depends alone
    expected = np.mean(size >= size[0], axis=0)
    for decimals, form in ((0, "%d"), (1, "%.1f"), (3, "%.3f")):
        np.savetxt(small / "tied.csv", whole / 10**decimals, delimiter=",", fmt=form)
        assert palm(small, "-i tied.csv -d sides.csv -t one.csv -n 0 -demean -twotail -quiet -saveglm") == 0
        np.testing.assert_allclose(np.loadtxt(small / "o_dat_tstat_uncp.csv", delimiter=","), expected, atol=6e-5)
        differences = (whole[:4].mean(axis=0) - whole[4:].mean(axis=0)) / 2 / 10**decimals
        np.testing.assert_allclose(np.loadtxt(small / "o_dat_cope.csv", delimiter=","), differences, atol=6e-5)


def test_data_that_float32_does_not_hold_are_told_of(small, capsys):
    values = np.random.default_rng(0).normal(size=(12, 6)) + 1e7
    np.savetxt(small / "far.csv", values, delimiter=",", fmt="%.9f")
    assert palm(small, RUN.replace("data.csv", "far.csv")) == 0
    said = capsys.readouterr().err
    assert "far.csv: data are held as float32, and in 6 of 6 voxels that changes values" in said
    image = nib.Nifti1Image(values.T.reshape(6, 1, 1, 12), np.eye(4))
    nib.save(image, small / "far.nii.gz")
    assert palm(small, RUN.replace("data.csv", str(small / "far.nii.gz"))) == 0
    assert "data are held as float32, and in 6 of 6 voxels" in capsys.readouterr().err


def test_parameter_estimates_are_those_of_least_squares(small):
    assert palm(small, f"{RUN} -saveglm") == 0
    read = {name: np.loadtxt(small / f"{name}.csv", delimiter=",") for name in ("data", "design", "con")}
    b, residual, *_ = np.linalg.lstsq(read["design"], read["data"], rcond=None)
    sigma = residual / 9
    scale = np.diag(read["con"] @ np.linalg.inv(read["design"].T @ read["design"]) @ read["con"].T)
    for number, (weights, unit) in enumerate(zip(read["con"], scale, strict=True), 1):
        found = [
            np.loadtxt(small / f"o_dat_{kind}_c{number}.csv", delimiter=",")
            for kind in ("cope", "varcope", "cohen")
        ]
        np.testing.assert_allclose(found, [weights @ b, unit * sigma, weights @ b / np.sqrt(sigma)], atol=6e-5)


def test_modalities_of_different_sizes_are_corrected_together(small):
    assert palm(small, "-i data.csv -i other.csv -d design.csv -t con.csv -n 60 -quiet -corrmod -savemax") == 0
    null = np.max([np.loadtxt(small / f"o_dat_tstat_max_m{m}_c1.csv") for m in (1, 2)], axis=0)
    for modality, size in ((1, 6), (2, 4)):
        p = np.loadtxt(small / f"o_dat_tstat_mfwep_m{modality}_c1.csv", delimiter=",")
        largest = np.loadtxt(small / f"o_dat_tstat_max_m{modality}_c1.csv")[0]
        assert len(p) == size
        assert p.min() == pytest.approx(np.mean(null >= largest - 1e-6), abs=6e-5)


def test_data_that_are_missing_leave_the_model(small):
    """t of each column is that of the observations that are there; degrees of freedom are those of each column."""
    missing = np.zeros((12, 6), dtype=int)
    missing[3, 1] = missing[7, 1] = missing[0, 4] = 1
    np.savetxt(small / "imiss.csv", missing, delimiter=",", fmt="%d")
    assert palm(small, f"{RUN} -imiss imiss.csv -mcar -savedof") == 0
    data, design, con = (np.loadtxt(small / f"{name}.csv", delimiter=",") for name in ("data", "design", "con"))
    expected = []
    for column, gone in zip(data.T, missing.T, strict=True):
        M, y = design[gone == 0], column[gone == 0]
        b, residual, *_ = np.linalg.lstsq(M, y, rcond=None)
        variance = residual[0] / (len(y) - 3) * (con[0] @ np.linalg.inv(M.T @ M) @ con[0])
        expected.append([con[0] @ b / np.sqrt(variance), len(y) - 3])
    found = [np.loadtxt(small / f"o_dat_{name}.csv", delimiter=",") for name in ("tstat_c1", "tstat_c1_dof")]
    np.testing.assert_allclose(found, np.transpose(expected), atol=6e-5)


def test_an_f_that_cannot_be_tested_for_want_of_data_is_not_in_the_middle(small):
    """Its parametric p is 1, as that of an F of 0."""
    missing = np.zeros((12, 6), dtype=int)
    missing[:11, 2] = 1
    np.savetxt(small / "imiss.csv", missing, delimiter=",", fmt="%d")
    (small / "both.csv").write_text("1,1\n")
    assert palm(small, f"{RUN} -f both.csv -imiss imiss.csv -mcar -saveparametric") == 0
    assert np.loadtxt(small / "o_dat_fstat_c3.csv", delimiter=",")[2] == 0
    assert np.loadtxt(small / "o_dat_fstat_uncparap_c3.csv", delimiter=",")[2] == 1


def test_automatic_variance_groups_are_what_shufflings_leave_apart(small):
    """v of observations shuffled within two blocks is Welch's t; one block is one group, and v is t."""
    np.savetxt(small / "eb.csv", np.repeat([1, 2], 6), fmt="%d")
    np.savetxt(small / "groups.csv", np.c_[np.repeat([1, 0], 6), np.repeat([0, 1], 6)], delimiter=",", fmt="%d")
    (small / "difference.csv").write_text("-1,1\n")
    line = "-i data.csv -d groups.csv -t difference.csv -n 1 -quiet -savedof"
    assert palm(small, f"{line} -eb eb.csv -vg auto") == 0
    data = np.loadtxt(small / "data.csv", delimiter=",")
    welch = stats.ttest_ind(data[6:], data[:6], equal_var=False)
    np.testing.assert_allclose(np.loadtxt(small / "o_dat_vstat.csv", delimiter=","), welch.statistic, atol=6e-5)
    np.testing.assert_allclose(np.loadtxt(small / "o_dat_vstat_dof.csv", delimiter=","), welch.df, atol=6e-5)
    assert palm(small, f"{line} -vg auto") == 0
    student = stats.ttest_ind(data[6:], data[:6])
    np.testing.assert_allclose(np.loadtxt(small / "o_dat_tstat.csv", delimiter=","), student.statistic, atol=6e-5)


def test_some_observations_and_tables_on_their_side(small):
    """-subjidx, -removevgbysize and -transposedata analyse what they say."""
    np.savetxt(small / "most.csv", np.arange(2, 13), fmt="%d")
    np.savetxt(small / "vg.csv", [9, *[1] * 11], fmt="%d")
    data = np.loadtxt(small / "data.csv", delimiter=",")
    np.savetxt(small / "turned.csv", data.T, delimiter=",", fmt="%.6f")
    maps = []
    for line in (
        RUN,
        f"{RUN} -subjidx most.csv",
        f"{RUN} -vg vg.csv -removevgbysize 2",
        RUN.replace("data", "turned"),
    ):
        more = " -transposedata" if "turned" in line else ""
        assert palm(small, line + more) == 0
        maps.append(np.loadtxt(small / "o_dat_tstat_c1.csv", delimiter=","))
    np.testing.assert_array_equal(maps[1], maps[2])
    np.testing.assert_array_equal(maps[0], maps[3])
    assert (maps[0] != maps[1]).all()


def test_a_block_that_is_left_out_as_a_whole(small, capsys):
    """The other blocks are shuffled as if they had been numbered without it, and as if numbers had no gaps."""
    np.savetxt(small / "eb.csv", np.repeat([1, 2, 3], 4), fmt="%d")
    np.savetxt(small / "gaps.csv", np.repeat([4, 20, 21], 4), fmt="%d")
    np.savetxt(small / "vg.csv", np.repeat([1, 2, 1], [4, 3, 5]), fmt="%d")
    np.savetxt(small / "outer.csv", np.r_[1:5, 9:13], fmt="%d")
    np.savetxt(small / "seven.csv", np.r_[1:5, 8:13], fmt="%d")
    for name, rows in (("part", np.r_[0:4, 8:12]), ("partdesign", np.r_[0:4, 8:12])):
        source = "data" if name == "part" else "design"
        lines = (small / f"{source}.csv").read_text().splitlines()
        (small / f"{name}.csv").write_text("\n".join(lines[i] for i in rows) + "\n")
    np.savetxt(small / "parteb.csv", np.repeat([1, 2], 4), fmt="%d")
    maps = {}
    for name, line in {
        "part": "-i part.csv -d partdesign.csv -t con.csv -n 60 -quiet -eb parteb.csv",
        "subjidx": f"{RUN} -eb eb.csv -subjidx outer.csv",
        "gaps": f"{RUN} -eb gaps.csv -subjidx outer.csv",
        "whole": f"{RUN} -eb eb.csv -whole -subjidx outer.csv",
    }.items():
        assert palm(small, line) == 0
        maps[name] = [np.loadtxt(small / f"o_dat_tstat_uncp_c{c}.csv", delimiter=",") for c in (1, 2)]
    np.testing.assert_array_equal(maps["part"], maps["subjidx"])
    np.testing.assert_array_equal(maps["part"], maps["gaps"])
    assert not np.array_equal(maps["part"], maps["whole"])
    assert palm(small, f"{RUN} -eb eb.csv -vg vg.csv -removevgbysize 4") == 0
    capsys.readouterr()
    assert palm(small, f"{RUN} -eb eb.csv -whole -subjidx seven.csv") == 2
    assert "equal size" in capsys.readouterr().err


def test_blocks_of_one_column_are_numbered_from_1(small, capsys):
    """A site that is numbered 0 is not left in place in silence, as a block 0 of randomise is."""
    before = set(small.iterdir()) | {small / "eb.csv"}
    for first in (0, -1):
        np.savetxt(small / "eb.csv", np.repeat([2, first], [5, 7]), fmt="%d")
        assert palm(small, f"{RUN} -eb eb.csv") == 2
        assert f"eb.csv: exchangeability block {first} in row 6; the blocks" in capsys.readouterr().err
    assert set(small.iterdir()) == before


def test_missing_regressors_are_interchangeable_among_themselves_alone(small, capsys):
    """Whatever stands in their place: rows of one group, of another, and those that are not known."""
    group = np.r_[0, 0, 0, 0, 1, 1, 1, 1.0]
    gone = np.r_[0, 0, 0, 1, 0, 0, 1, 0]
    np.savetxt(small / "eight.csv", np.loadtxt(small / "data.csv", delimiter=",")[:8], delimiter=",")
    np.savetxt(small / "dmiss.csv", gone, fmt="%d")
    np.savetxt(small / "imiss.csv", np.zeros(8), fmt="%d")
    (small / "one.csv").write_text("1\n")
    found = []
    for placeholder in (0, 1, 55):
        np.savetxt(small / "x.csv", np.where(gone, placeholder, group), fmt="%d")
        line = "-i eight.csv -d x.csv -t one.csv -n 0 -imiss imiss.csv -dmiss dmiss.csv -mcar"
        assert palm(small, line) == 0
        assert "560 distinct permutations, of which all are used" in capsys.readouterr().out  # 8! / (3! 3! 2!)
        found.append(np.loadtxt(small / "o_dat_tstat_uncp.csv", delimiter=","))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def refitted(p, y, M, C, method, df):
    """t of one shuffling of one column of data, by a full refit."""
    model = naive.partition(M, C[None])
    return naive.t_or_f(p, y[:, None], model, method, df, True).raw[0]


@pytest.mark.parametrize(
    "method", ["Freedman-Lane", "Draper-Stoneman", "Dekker", "Manly", "terBraak", "Still-White"]
)
def test_a_regressor_that_is_appended_to_the_design(method, small):
    """The column after the last: t of shufflings by full refits, each column of data with a regressor of its own."""
    rng = np.random.default_rng(8)
    data, design = (np.loadtxt(small / f"{name}.csv", delimiter=",") for name in ("data", "design"))
    ev = (rng.normal(size=data.shape) + data / 2).astype(np.float32)
    ev[:, 4] = 0.0  # not a regressor there
    np.savetxt(small / "ev.csv", ev, delimiter=",")
    con = np.array([[0, 0, 0, 1], [-1, 1, 0, 0]])
    np.savetxt(small / "four.csv", con, delimiter=",", fmt="%d")
    line = "-i data.csv -d design.csv -t four.csv -n 9 -quiet -saveperms -savedof"
    assert palm(small, f"{line} -evperdat ev.csv 4 -rmethod {method}") == 0
    for number, C in enumerate(con, 1):
        shufflings = np.loadtxt(small / f"o_c{number}_permidx.csv", delimiter=",", dtype=int)
        for row in (0, 1, 5):
            found = np.loadtxt(small / f"o_dat_tstat_c{number}_perm{row + 1:06d}.csv", delimiter=",")
            for v in range(6):
                M = np.c_[design, ev[:, v]] if v != 4 else design
                expected = 0 if v == 4 and number == 1 else refitted(
                    shufflings[row], data[:, v], M, C[: M.shape[1]], method, 12 - M.shape[1]
                )  # fmt: skip
                assert found[v] == pytest.approx(expected, abs=6e-5)
    df = [np.loadtxt(small / f"o_dat_tstat_c{number}_dof.csv", delimiter=",") for number in (1, 2)]
    np.testing.assert_array_equal(df, [[8, 8, 8, 8, 0, 8], [8, 8, 8, 8, 9, 8]])
    np.testing.assert_allclose(np.loadtxt(small / "o_dat_tstat_c2_meandof.txt"), [0, 49 / 6])


def test_regressors_are_read_once_and_belong_to_their_designs(small, capsys, monkeypatch):
    rng = np.random.default_rng(9)
    for name, columns in (("ev", 6), ("ev2", 6)):
        np.savetxt(small / f"{name}.csv", rng.normal(size=(12, columns)), delimiter=",")
    read = []
    original = files.read_numbers
    monkeypatch.setattr(files, "read_numbers", lambda name: read.append(Path(name).name) or original(name))
    line = f"{RUN} -evperdat ev.csv 4 -evperdat ev2.csv 5 -saveglm -savedof"
    (small / "o_dat_tstat_c1_dof.txt").unlink(missing_ok=True)
    assert palm(small, line) == 0
    assert read.count("ev.csv") == read.count("ev2.csv") == 1
    assert np.loadtxt(small / "o_dat_tstat_c1_dof.txt")[1] == 12 - 5
    for more, words in (
        ("-evperdat ev.csv 5", ["column 5 is not the next one after the 3 of"]),
        ("-evperdat ev.csv 2 2", ["is for design 2, and 1 are given"]),
        ("-evperdat ev.csv 2 -evperdat ev2.csv 2", ["column 2 of design 1 is given twice"]),
        ("-evperdat ev.csv 4 -rmethod Huh-Jhun", ["no shuffling could be the same for all"]),
        ("-evperdat ev.csv 4 -pmethodr Guttman", ["exclude each other"]),
        ("-evperdat con.csv 4", ["con.csv has 2 observations of 3 values; 12 of 6 are expected"]),
    ):
        assert palm(small, f"{RUN} {more}") == 2
        said = capsys.readouterr().err
        assert all(word in said for word in words), said
    np.savetxt(small / "group.csv", np.ones((12, 6)), delimiter=",")  # the mean, which the groups span
    (small / "last.csv").write_text("0,0,0,1\n")
    assert palm(small, f"{RUN.replace('con.csv', 'last.csv')} -evperdat group.csv 4") == 2
    assert "contrast 1 of design 1: the contrast is not estimable at any voxel" in capsys.readouterr().err


def test_huh_and_jhun_correct_over_contrasts_of_the_same_nuisance_alone(small, capsys):
    (small / "both.csv").write_text("-1,1,0\n1,-1,0\n")
    line = "-i data.csv -d design.csv -n 60 -quiet -rmethod Huh-Jhun"
    assert palm(small, f"{line} -t both.csv -corrcon") == 0
    assert palm(small, f"{line} -t con.csv -syncperms") == 0
    capsys.readouterr()
    assert palm(small, f"{line} -t con.csv -corrcon") == 2
    said = capsys.readouterr().err
    assert "contrast 2 of design 1 has other nuisance than contrast 1 of design 1" in said
    assert "omit -corrcon" in said


@pytest.mark.long
@pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")
@pytest.mark.parametrize(
    "name", ["corrcon_t_f", "vg_file_g", "pearson_r_r2", "eb_whole_ise", "ee_ise", "evperdat", "missing_mcar",
             "cluster_mass", "rmethod_dekker", "twotail_fdr_bh_logp", "accel_gamma_tfce"]
)  # fmt: skip
def test_a_device_writes_the_same_files(name, tmp_path, monkeypatch):
    for folder in ("cpu", "device"):
        (tmp_path / folder).mkdir()
        if folder == "device":
            monkeypatch.setattr(execute, "resolve_all", lambda name: (ShimDevice(),))
        run_case(name, tmp_path / folder)
    for path in (tmp_path / "cpu").iterdir():
        if not path.name.endswith("_palmconfig.txt"):
            assert path.read_bytes() == (tmp_path / "device" / path.name).read_bytes(), path.name


def test_files_of_another_model_are_removed(small, tmp_path, monkeypatch, capsys):
    """Those of a run of the same model stay, whatever else it wrote; so do files that no run of ours has listed."""
    monkeypatch.chdir(tmp_path)

    def run(options):
        words = [str(small / word) if word.endswith(".csv") else word for word in options.split()]
        assert main(["palm", "-o", "p", "--device", "cpu", *words]) == 0
        said = capsys.readouterr().err
        return {path.name for path in Path().iterdir()}, said

    Path("p_dat_mine.csv").write_text("another's")
    same = "-i data.csv -d design.csv -t con.csv -f fcon.csv -n 20 -quiet"
    first, _ = run(f"{same} -savedof -saveperms")
    listed = json.loads(Path("p_palm.json").read_text())["files"]
    assert {*listed, "p_palm.json", "p_dat_mine.csv"} == first
    assert [name for name in listed if not OURS.fullmatch(name[1:])] == ["p_palmconfig.txt"]
    second, said = run(f"{same} -savemax")
    assert first < second
    assert "removed" not in said
    third, said = run(f"{same} -rmethod Dekker")
    assert second - third == second - first
    assert f"options had left: {', '.join(sorted(second - first))}\n" in said
    assert third < second


# -- grammar --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-twotial", ["unknown option -twotial", "the closest is -twotail"]),
        ("-CORRCON", ["-corrcon"]),
        ("-npc Fisher", ["-npc", "nonparametric combination", "not there yet"]),
        ("-inputmv", ["multivariate"]),
        ("-s lh.srf", ["surfaces"]),
        ("-save1-p -logp", ["-save1-p and -logp"]),
        ("-whole", ["-whole needs -eb"]),
        ("-tfce_H 3", ["-tfce_H needs -T"]),
        ("-rmethod Freedman", ["-rmethod is Freedman", "Freedman-Lane", "Huh-Jhun"]),
        ("-accel lowrank", ["-accel is lowrank", "noperm"]),
        ("-accel noperm -T", ["-accel noperm", "omit -T"]),
        ("-accel noperm -saveparametric", ["-accel noperm", "omit -saveparametric"]),
        ("-accel noperm -zstat", ["-accel noperm", "omit -zstat"]),
        ("-imiss other.csv -mcar -demean --palm-dof", ["-imiss and --palm-dof"]),
        ("-imiss other.csv", ["-imiss needs -mcar"]),
        ("-n -5", ["-5 is negative"]),
        ("-n", ["the value of -n is missing"]),
        ("-n 10 -n 20", ["-n is given twice", "10", "20"]),
        ("-C 1.5 -quiet", ["table"]),
        ("-m mask.nii", ["-m", "table"]),
        ("-d other.csv", ["2 designs"]),
        ("-f design.csv", ["3 columns", "2 t contrasts"]),
        ("--permutations none", ["none_c1_permidx.csv", "-saveperms"]),
        ("stray", ["'stray' is neither an option"]),
    ],
)
def test_what_is_wrong_is_said(line, words, small, capsys):
    before = sorted(small.iterdir())
    given = RUN.replace("-n 60 ", "") if line.split()[0] == "-n" else RUN
    assert palm(small, f"{given} {line}") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(word in said for word in words), said
    assert sorted(small.iterdir()) == before


@pytest.mark.parametrize(
    ("line", "group", "name", "value"),
    [
        ("-fdr", "", "false_discovery", "BKY"),
        ("-accel negbin -T", "", "exceedances", 2),
        ("-accel negbin 5", "", "exceedances", 5),
        ("-fdr BH -T", "", "false_discovery", "BH"),
        ("-C 3.1 -Cstat mass", "spatial", "mass", True),
        ("-T -tfce2d", "spatial", "dimensions", 2),
        ("-Tuni", "spatial", "tfce", True),
        ("-ise", "exchangeability", "permute", False),
        ("-ee -ise", "exchangeability", "permute", True),
        ("-rmethod terbraak", "statistic", "regression", "terBraak"),
        ("-noniiclass -logp", "saved", "scale", "-log10 p"),
        ("-evperdat ev.nii 3", "", "regressors", (Regressor("ev.nii", 3, 1),)),
        ("--threads=1", "", "threads", 1),
    ],
)
def test_options_and_their_values(line, group, name, value):
    described = describe(read_words(shlex.split(f"-i data -d design -t con {line}")))
    assert getattr(getattr(described, group) if group else described, name) == value


def test_options_that_do_nothing_are_noted(small, capsys):
    assert palm(small, f"{RUN.removesuffix(' -quiet')} -noniiclass -noranktest -precision single") == 0
    said = capsys.readouterr().out
    assert [f"{option} is ignored" in said for option in ("-noniiclass", "-noranktest", "-precision")] == [
        True
    ] * 3


def test_from_python(small, monkeypatch):
    """The same files, whose names are returned; warnings and errors are Python's."""
    monkeypatch.chdir(small)
    line = "-i data.csv -d design.csv -t con.csv -o py -n 60 -savemax --device cpu"
    assert palm(small, f"{RUN} -savemax") == 0
    written = gpuvox.palm(line)
    assert {f"{name}" for name in written} == {path.name for path in small.glob("py_*")}
    for name in written:
        if not name.endswith(("_palmconfig.txt", "_palm.json")):
            assert Path(name).read_bytes() == Path(f"o{name[2:]}").read_bytes(), name
    with pytest.warns(errors.InputWarning, match="no p that is counted can be below"):
        gpuvox.palm(line.replace("60", "5"))
    with pytest.raises(errors.UsageError, match="the closest is -twotail"):
        gpuvox.palm(f"{line} -twotial")


def test_without_a_design_the_mean_is_tested_by_sign_flips(small, capsys):
    assert palm(small, "-i data.csv -n 0 -ise") == 0
    assert "4,096 distinct sign flips, of which all are used" in capsys.readouterr().out
    p = np.loadtxt(small / "o_dat_tstat_uncp.csv", delimiter=",")
    np.testing.assert_allclose(p * 4096, np.round(p * 4096), atol=0.3)


def test_every_option_is_in_the_documentation():
    text = (Path(__file__).parents[1] / "docs" / "palm.md").read_text()
    names = {*OPTIONS, *NOTED, *REFUSED} - {"--device", "--threads"}
    written = re.findall(r"`(--?[\w-]+…?)", text)
    missing = {
        name for name in names
        if name not in written and not any(each.endswith("…") and name.startswith(each[:-1]) for each in written)
    }  # fmt: skip
    assert not missing
