"""The options that say how permutations are drawn: --ise, --ee, --cmcp and --cmcx, of both commands and from Python."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import overriding

import gpuvox
from gpuvox import files
from gpuvox.application import execute
from gpuvox.cli import main_randomise
from gpuvox.errors import InputError, SettingError
from gpuvox.findings.methods import paragraphs
from gpuvox.findings.runs import read_run
from gpuvox.findings.tested import ClusterOptions
from tests.cuda_on_cpu.shim import CXX, ShimDevice
from tests.front_door import Cohort, centred, dummy, make_two_groups, people, read, same

BASE = "-i data -o out -m mask -d design.mat -t design.con -n 60 --seed 1 --device cpu -x --uncorrp -N -P".split()


def run(*extra: str) -> int:
    return main_randomise(overriding(BASE, extra))


def image(name: str) -> np.ndarray:
    return nib.load(f"{name}.nii.gz").get_fdata()


def of_test(root: str = "out") -> dict:
    return json.loads(Path(f"{root}_randomise.json").read_text())["tests"][0]


def refitted(table: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """(N, V) t of the model whose rows are shuffled as a file of signed row numbers says, by full refits."""
    data, mask = image("data"), image("mask") > 0
    Y, M = data[mask].T, np.loadtxt("design.mat", skiprows=4)
    C = contrast[:, None]
    D = np.linalg.inv(M.T @ M)
    Z = M - M @ D @ C @ np.linalg.inv(C.T @ D @ C) @ C.T  # spans the nuisance
    Z = np.linalg.svd(Z)[0][:, : M.shape[1] - 1]
    residuals = Y - Z @ (Z.T @ Y)
    found = []
    for row in table:
        X = np.sign(row)[:, None] * M[np.abs(row) - 1]
        b, rss, *_ = np.linalg.lstsq(X, residuals, rcond=None)
        found.append((contrast @ b) / np.sqrt(rss / (len(X) - 3) * (C.T @ D @ C).item()))
    return np.array(found)


@pytest.mark.parametrize(
    ("options", "kind", "distinct", "sentence"),
    [
        ("--ee --ise", "permutations with sign-flips", 252 * 2**10, "all rows may trade places; the sign of each row"),
        ("--ise", "sign-flips", 2**10, "the sign of each row may change by itself"),
        ("--cmcp", "permutations", 252, "all rows may trade places"),
        ("--ee --ise --cmcp --cmcx", "permutations with sign-flips", 3628800 * 2**10, "all rows may trade"),
    ],
)  # fmt: skip
def test_the_command_does_what_it_says(options, kind, distinct, sentence, study, capsys):
    """p are those of full refits with the shuffles that are written; lines and record say what was drawn."""
    assert run(*options.split()) == 0
    said = capsys.readouterr().out
    repeats = ", of which 60 drawn with repeats are used" if "--cmcp" in options else ", of which 60 are used"
    assert f"Exchangeability: {sentence}" in said
    assert f"; {distinct:,} distinct {kind.replace('sign-flips', 'sign flips')}{repeats}" in said
    assert "One-sample" not in said
    about = of_test()
    assert (about["method"], about["distinct"], about["permutations"]) == (kind, str(distinct), 60)
    assert about["exchangeability"].startswith(sentence)
    assert about["repeats"] == ("--cmcp" in options)
    assert not about["exhaustive"]

    table = files.read_permutations("out_perm_tstat1.txt")
    if kind == "sign-flips":
        table = table * np.arange(1, 11)
    assert (table[0] == np.arange(1, 11)).all()
    assert len(np.unique(np.abs(table), axis=0)) > 1 or kind == "sign-flips"
    assert (table < 0).any() == ("sign-flips" in kind)
    null, inside = refitted(table, np.array([1.0, -1, 0])), image("mask") > 0
    reached = null.max(axis=1)[:, None] >= null[0] - 1e-4
    np.testing.assert_allclose(image("out_vox_corrp_tstat1")[inside], 1 - reached.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(
        image("out_vox_p_tstat1")[inside], 1 - (null >= null[0] - 1e-4).mean(axis=0), atol=1 / 60 + 1e-6
    )
    assert run("-o", "again", "--permutations", "out", "--quiet") == 0
    assert image("again_vox_corrp_tstat1").tobytes() == image("out_vox_corrp_tstat1").tobytes()


def test_one_sample_and_what_stands_for_the_same(study):
    """-1 --ee with a design is --ise --ee; --ise with it is -1; --ee alone changes nothing."""
    for first, second in (("-1 --ee", "--ise --ee"), ("-1", "--ise"), ("--ee", "")):
        maps = []
        for words in (first, second):
            assert run(*words.split(), "--quiet") == 0
            maps.append((image("out_vox_corrp_tstat1").tobytes(), of_test()["method"]))
        assert maps[0] == maps[1]


def test_all_there_are_come_once_even_with_repeats(study, capsys):
    assert run("--cmcp", "-n", "0", "--skipTo=1") == 0
    assert "252 distinct permutations, of which all are used" in capsys.readouterr().out
    assert (of_test()["repeats"], of_test()["exhaustive"]) == (False, True)


def test_python_has_the_same_settings(study):
    assert run("--ee", "--ise", "--cmcp", "--quiet") == 0
    settings = {"n_permutations": 60, "seed": 1, "uncorrected": True, "mask": "mask"}
    both = {"permute_and_flip": True, "repeats": True}
    result = gpuvox.randomise("data", "design.mat", "design.con", **settings, **both)
    inside = image("mask") > 0
    assert (result.volume("vox_corrp_tstat1")[inside] == image("out_vox_corrp_tstat1")[inside]).all()
    with pytest.raises(SettingError, match="repeats says which permutations are drawn"):
        gpuvox.randomise(
            "data", "design.mat", "design.con", **settings, repeats=True, permutations={"tstat1": [[1, 2]]}
        )


@pytest.mark.parametrize("option", ["--ise", "--ee", "--cmcp", "--cmcx"])
def test_given_permutations_are_not_drawn(option, study, capsys):
    assert run(option, "--permutations", "out") == 2
    assert f"{option} says which permutations are drawn" in capsys.readouterr().err


def test_given_permutations_keep_the_blocks_that_are_given(study, capsys):
    files.write_vest("halves.grp", 1 + np.arange(10)[:, None] % 2)
    blocks = ["-e", "halves.grp", "--quiet", "-n", "20", "--skipTo=1"]
    assert run(*blocks) == 0
    assert run(*blocks, "-o", "again", "--permutations", "out") == 0
    assert image("again_vox_corrp_tstat1").tobytes() == image("out_vox_corrp_tstat1").tobytes()
    numbers = files.read_permutations("out_perm_tstat1.txt")
    numbers[4, [0, 1]] = numbers[4, [1, 0]]
    files.write_permutations("broken_perm_tstat1.txt", numbers)
    assert run("-o", "free", "--quiet", "-n", "20", "--skipTo=1", "--permutations", "broken") == 0
    assert run(*blocks, "-o", "refused", "--permutations", "broken") == 2
    said = "row 5 of the imported permutations breaks the exchangeability blocks"
    assert f"broken_perm_tstat1.txt: {said}" in capsys.readouterr().err
    assert not list(Path().glob("refused*"))
    with pytest.raises(InputError, match=said):
        gpuvox.randomise(
            "data", "design.mat", "design.con", mask="mask", blocks="halves.grp", only_test=1,
            permutations={"tstat1": numbers},
        )  # fmt: skip


@pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")
def test_a_device_writes_the_same_maps(study, monkeypatch):
    words = ["--ee", "--ise", "--cmcp", "--cmcx", "-e", "design.grp", "--quiet", "-n", "40"]
    assert run(*words) == 0
    monkeypatch.setattr(execute, "resolve_all", lambda name: (ShimDevice(),))
    assert run(*words, "-o", "device") == 0
    for path in Path().glob("out_*.nii.gz"):
        assert (
            image(str(path).removesuffix(".nii.gz")).tobytes()
            == image(str(path).removesuffix(".nii.gz").replace("out_", "device_")).tobytes()
        )
    for path in Path().glob("out_*.txt"):
        assert path.read_bytes() == Path(str(path).replace("out_", "device_")).read_bytes()


# -- gpuvox voxelwise -----------------------------------------------------------------------------------------------


BOTH = ["--model", "group + age", "--test", "MS - HC", "--test", "MS", "--voxel", "-N", "--ee", "--ise"]


def test_voxelwise_has_them(tmp_path):
    """The maps of randomise on a design by hand; record and methods say what was done."""
    cohort = make_two_groups(tmp_path)
    t = cohort.table
    design = np.c_[dummy(t.group, "HC"), dummy(t.group, "MS"), centred(t.age)]
    root = cohort.by_hand(design, [[-1, 1, 0]], "-x", "--ee", "--ise", "--cmcp")
    assert cohort.voxelwise(*BOTH, "--cmcp") == 0
    out = tmp_path / "out"
    same(out, "MSMinusHC", root, "tstat1", ("vox",))
    record = json.loads((out / "voxelwise.json").read_text())
    moves = "all 16 rows are permuted freely, and the signs of all 16 rows are flipped freely"
    assert record["exchangeability"] == moves
    assert [each["run"] for each in record["runs"]] == ["t", "mean"]
    assert {each["tests"][0]["method"] for each in record["runs"]} == {"permutations with sign-flips"}
    found = read_run(out)
    assert all(test.nulls for test in found.tests)
    text = " ".join(paragraphs(found, ClusterOptions()))
    assert (
        "60 permutations of the residuals of the nuisance model (Freedman–Lane [@freedman1983]) with flips of their "
        f"signs, drawn with repeats. A{moves[1:]}."
    ) in text

    table = t[["participant_id", "group", "age"]]
    settings = {"mask": str(tmp_path / "mask"), "n_permutations": 60, "seed": 7, "voxel": True, "tfce": False}
    result = gpuvox.voxelwise(
        str(tmp_path / "maps" / "{participant_id}_gm.nii.gz"), table, "group + age", ["MS - HC", "MS"],
        permute_and_flip=True, repeats=True, **settings,
    )  # fmt: skip
    assert result.analysis.exchanged == moves
    mine = read(out / "contrast-MSMinusHC_stat-logp_desc-voxFWE_statmap")
    assert (result.grid.to_volume(result.maps["MS - HC", "voxFWE"]) == mine).all()


def test_flips_of_means_and_differences_can_be_corrected_together(tmp_path, capsys):
    """Once signs are flipped for both; before, one has flips and the other permutations."""
    cohort = make_two_groups(tmp_path)
    assert cohort.voxelwise(*BOTH[:-2], "--across-tests") == 2
    assert "tested by sign flips" in capsys.readouterr().err
    assert cohort.voxelwise(*BOTH[:-2], "--ise", "--across-tests") == 0
    record = json.loads((tmp_path / "out" / "voxelwise.json").read_text())
    assert record["exchangeability"] == "the signs of all 16 rows are flipped freely"
    nulls = [np.loadtxt(tmp_path / "out" / "randomise" / f"{run}_vox_corrp_tstat1.txt") for run in ("t", "mean")]
    assert len(nulls[0]) == len(nulls[1]) == 60


def test_signs_of_rows_that_belong_together(tmp_path, capsys):
    one = people(10, group=np.resize(["HC", "MS"], 10))
    cohort = Cohort(tmp_path, pd.concat([one.assign(session=s) for s in ("pre", "post")]))
    cohort.table = cohort.table.sort_values(["session", "participant_id"]).reset_index(drop=True)
    cohort.write()
    images = "maps/{participant_id}_{session}_gm.nii.gz"
    paired = ["--model", "session", "--paired", "participant_id", "--test", "post - pre", "--voxel"]
    assert cohort.voxelwise(*paired, "--ise", images=images) == 2
    assert "--ise flips the sign of each row by itself" in capsys.readouterr().err
    whole = ["--model", "group", "--whole", "participant_id", "--test", "MS - HC", "--voxel", "--ee", "--ise"]
    assert cohort.voxelwise(*whole, images=images) == 0
    record = json.loads((tmp_path / "out" / "voxelwise.json").read_text())
    assert record["exchangeability"].endswith(
        ", and the signs of the 10 blocks of participant_id are flipped, each with its 2 rows"
    )
    assert record["runs"][0]["tests"][0]["distinct"] == str(252 * 2**10)
