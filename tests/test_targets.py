"""Names of outputs: what cannot be written is found before any work; names that are not UTF-8, and large images."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from conftest import overriding, save

from gpuvox.analysis import Inputs, Options, list_tests
from gpuvox.application.outputs import OutputOptions, expected_names
from gpuvox.cli import main, main_randomise
from gpuvox.errors import FileError
from gpuvox.files.targets import check_root_name, check_targets
from gpuvox.grid import Grid
from gpuvox.statistics import Statistics
from gpuvox.study.pipeline.stages import Stage, check_names
from gpuvox.tfce import Tfce

BASE = "-i data -m mask -d design.mat -t design.con -n 5 --seed 1".split()


@pytest.fixture
def never_read(monkeypatch):
    """The data are not read: what is wrong is found before."""

    def read(*_args, **_more):
        raise AssertionError("data were read")

    monkeypatch.setattr("gpuvox.files.read_cohort", read)


@pytest.mark.parametrize(
    "extra", [["-x"], ["-x", "-N"], ["-x", "-P"], ["-c", "2"], ["-T", "--twopass"], ["--permout", "-x"]]
)
def test_names_too_long_are_found_before_anything_is_read(extra, study, capsys, never_read):
    before = set(os.listdir(study))
    assert main_randomise([*BASE, "-o", "x" * 240, *extra]) == 2
    out, err = capsys.readouterr()
    assert "too long" in err
    assert err.count("\n") == 1
    assert "Loading Data" not in out
    assert set(os.listdir(study)) == before


def test_only_names_that_will_be_written_count(study):
    root = "x" * (255 - len("_vox_corrp_tstat1.nii.gz"))
    assert main_randomise([*BASE, "-o", root, "-x", "--quiet"]) == 0
    assert main_randomise([*BASE, "-o", root, "-x", "-R", "-N", "--quiet"]) == 0
    assert main_randomise([*BASE, "-o", root, "-T", "--quiet"]) == 2  # a letter more


@pytest.mark.parametrize("name", ["out_tstat2.nii.gz", "out_vox_corrp_tstat1.nii.gz", "out_randomise.json"])
def test_folders_in_the_way_of_outputs(name, study, capsys, never_read):
    (study / name).mkdir()
    assert main_randomise([*BASE, "-o", "out", "-x"]) == 2
    assert f"the output {name} cannot be written: there is a folder" in capsys.readouterr().err


def test_a_checkpoint_whose_lock_has_no_name(study, capsys, never_read):
    assert main_randomise([*BASE, "-o", "out", "-x", "--checkpoint", "c" * 251]) == 2
    assert "too long" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        "-x -T -c 2 -C 2 -R -N -P --uncorrp --glm_output",
        "-x -f design.fts -F 3 -N -R",
        "-x -T -c 1 --twopass -P -N",
        "-x -T -P -N --film -f design.fts",
        "-T",
        "-x --permout",
        "",
    ],
)
def test_the_names_that_are_checked_are_those_that_are_written(options, study, monkeypatch):
    checked = []

    def note(root, endings=("",), *, maps=()):
        checked.extend([f"{root}{ending}" for ending in endings] + [f"{root}{stem}.nii.gz" for stem in maps])

    monkeypatch.setattr("gpuvox.application.execute.check_targets", note)
    assert main_randomise([*BASE, "-o", "out", "--quiet", *options.split()]) == 0
    written = {path.name for path in study.glob("out*")}
    longest = max(written, key=len)
    assert any(len(name) >= len(longest) for name in checked)
    families = {name for name in written if "perm0000" not in name and "norm_" not in name and "pe" not in name}
    families -= {name for name in written if "cope" in name}
    assert families <= set(checked)
    assert len(set(checked) - written) <= (2 if "--film" in options else 1)


def test_names_follow_the_options():
    data = np.zeros((6, 4), np.float32)
    inputs = Inputs(data, Grid(np.ones((4, 1, 1), bool)), np.ones((6, 1)), np.ones((1, 1)), np.zeros((0, 1)))
    options = Options(statistics=Statistics(tfce=Tfce(), voxel=False))
    tests = list_tests(inputs, options)
    assert expected_names(tests, options, OutputOptions(uncorrected=False)) == (
        ["_tstat1", "_tfce_corrp_tstat1"],
        ["_randomise.json"],
    )
    maps, texts = expected_names(tests, options, OutputOptions(raw=True, nulls=True, permutations=True))
    assert "_tfce_tstat1" in maps
    assert "_tfce_p_tstat1" in maps
    assert "_tfce_corrp_tstat1.txt" in texts
    assert "_perm_tstat1.txt" in texts
    maps, _ = expected_names(tests, replace(options, n_permutations=123456), OutputOptions(), permuted=True)
    assert "_tfce_perm123456_tstat1" in maps


def test_targets(tmp_path, monkeypatch):
    check_targets(tmp_path / "out", (".tsv",), maps=("_map",))
    with pytest.raises(FileError, match="no folder"):
        check_targets(tmp_path / "none" / "out")
    with pytest.raises(FileError, match="zero byte"):
        check_targets(f"{tmp_path}/o\0ut")
    with pytest.raises(FileError, match="too long"):
        check_targets(tmp_path / ("é" * 126), (".tsv",))  # 252 bytes in 126 letters, and 4
    (tmp_path / "out_map.img").mkdir()
    monkeypatch.setenv("FSLOUTPUTTYPE", "NIFTI_PAIR")
    with pytest.raises(FileError, match=r"out_map\.img"):
        check_targets(tmp_path / "out", (), maps=("_map",))
    for root in ("folder/", ".", "a/.."):
        with pytest.raises(FileError, match="beginning of file names"):
            check_root_name(root, "--out", "example")
    check_root_name("folder/name", "--out", "example")


LONG = "y" * 250
COMMANDS = {
    "design": f"design --table p.tsv --out {LONG}",
    "design image": f"design --table p.tsv --out ok --select img={LONG}",
    "groups": f"groups --table p.tsv --group g --order a,b --variables v --out {LONG}",
    "regression": f"models regression --table p.tsv --outcome v --block b=w --out {LONG}",
    "correlation": f"models correlation --table p.tsv --x v --y w --out {LONG}",
    "longitudinal": f"longitudinal --table p.tsv --subject w --visit g --visits a,b --out {LONG}",
    "rois": f"rois --table p.tsv --labels mask --map m=data --out {LONG}.tsv.tsv",
    "clusters": f"clusters --corrected mask --out {LONG}",
    "palm": f"palm -i data -m mask -d design.mat -t design.con -o {LONG}",
    "folder palm": "palm -i data -m mask -d design.mat -t design.con -o ./",
    "folder design": "design --table p.tsv --out ./",
    "folder groups": "groups --table p.tsv --group g --variables v --out ./",
    "folder clusters": "clusters --corrected mask --out ./",
    "folder longitudinal": "longitudinal --table p.tsv --visit g --out ./",
    "folder models": "models correlation --table p.tsv --x v --y w --out ./",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_checks_its_names_first(name, study, capsys, monkeypatch):
    rows = [f"s{i}\t{'ab'[i % 2]}\t{i}\t{i // 2}\tone.nii.gz" for i in range(10)]
    (study / "p.tsv").write_text("participant_id\tg\tv\tw\timg\n" + "\n".join(rows) + "\n")
    save(study / "one.nii.gz", np.ones((3, 3, 3)))
    before = set(os.listdir(study))
    assert main(COMMANDS[name].split()) == 2
    err = capsys.readouterr().err
    assert ("too long" if LONG in COMMANDS[name] else "beginning of file names") in err, err
    assert set(os.listdir(study)) == before


def test_a_study_checks_its_names():
    check_names([Stage("a", {}, ("design.mat", "models/short/regression*"), print)])
    with pytest.raises(FileError, match="shorter"):
        check_names([Stage("a", {}, (f"models/{'z' * 240}/regression*",), print)])


def test_names_that_are_not_utf8(study):
    """The record can be read, and names the very files."""
    odd = os.fsdecode(b"d\xe9t\xe9")
    try:
        os.rename("data.nii.gz", f"{odd}.nii.gz")
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    line = f"-i {odd} -o {odd}_out -m mask -d design.mat -t design.con -n 5 --seed 1 -x -N -P".split()
    assert main_randomise(line) == 0
    record = json.loads((study / f"{odd}_out_randomise.json").read_text())
    assert f"{odd}.nii.gz" in record["inputs"]
    assert record["command"][2] == odd
    assert (study / f"{odd}_out_vox_corrp_tstat1.nii.gz").exists()


def test_images_too_large_for_nifti_1(study):
    data = np.random.default_rng(1).normal(size=(33000, 2, 1, 10)).astype("f4")
    nib.save(nib.Nifti2Image(data, np.diag([2.0, 3, 4, 1])), "large.nii")
    assert main_randomise("-i large -o out -d design.mat -t design.con -x -n 3 --seed 1 --quiet".split()) == 0
    image = nib.load("out_tstat1.nii.gz")
    assert isinstance(image, nib.Nifti2Image)
    assert image.shape == (33000, 2, 1)
    np.testing.assert_array_equal(image.affine, np.diag([2.0, 3, 4, 1]))
    nib.save(nib.Nifti1Image(data[:300], np.diag([2.0, 3, 4, 1])), "small.nii")
    assert main_randomise("-i small -o small -d design.mat -t design.con -x -n 3 --seed 1 --quiet".split()) == 0
    part = nib.load("small_tstat1.nii.gz")
    assert not isinstance(part, nib.Nifti2Image)
    np.testing.assert_array_equal(part.get_fdata(), image.get_fdata()[:300])


def test_a_root_with_a_slash_names_files_as_fsl_does(study, capsys):
    (study / "results").mkdir()
    assert main_randomise([*BASE, "-o", "results/", "-x"]) == 0
    assert (study / "results" / "_tstat1.nii.gz").exists()
    assert "results/_tstat1" in capsys.readouterr().err


def test_a_root_with_the_suffix_of_an_image_names_files_as_fsl_does(study, capsys):
    assert main_randomise(overriding(BASE, ["-o", "out.nii.gz", "-x", "-n", "20", "--quiet"])) == 0
    assert (study / "out.nii.gz_tstat1.nii.gz").exists()
    assert capsys.readouterr().err == (
        "Warning: the output root out.nii.gz ends in .nii.gz: the files are called out.nii.gz_tstat1 and so on; the "
        "usual root is out\n"
    )
    assert main_randomise(overriding(BASE, ["-o", "out.v2", "-x", "-n", "20", "--quiet"])) == 0
    assert capsys.readouterr().err == ""
