"""The command: FSL's grammar, what it writes, and one clear sentence for everything that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import SHAPE, save, vest

from gpuvox import __version__
from gpuvox.cli import main, main_randomise
from gpuvox.cli.progress import Progress

BASE = "-i data -o out -m mask -d design.mat -t design.con -n 20 --seed 1 --quiet".split()


def run(*extra: str, base=BASE) -> int:
    return main_randomise([*base, *extra])


def value(name: str) -> np.ndarray:
    return nib.load(name).get_fdata()


def written(folder: Path, prefix: str = "out") -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob(f"{prefix}*") if not p.name.endswith(".json")}


# -- what is wrong --------------------------------------------------------------------------------------------------


def spoil_data(folder, **change):
    image = nib.load(folder / "data.nii.gz")
    data = image.get_fdata()
    for (i, j, k, s), number in change["at"].items():
        data[i, j, k, s] = number
    save(folder / "data.nii.gz", data)


def other_affine(folder):
    affine = np.diag([2.0, 2, 2, 1])
    affine[0, 3] = 40
    save(folder / "mask.nii.gz", np.ones(SHAPE), affine)


BAD = {
    "missing data": (lambda f: (f / "data.nii.gz").unlink(), [], ["data"]),
    "unreadable data": (lambda f: (f / "data.nii.gz").write_bytes(b"no image"), [], ["data.nii.gz"]),
    "truncated data": (
        lambda f: (f / "data.nii.gz").write_bytes((f / "data.nii.gz").read_bytes()[:3000]),
        [],
        ["data.nii.gz"],
    ),
    "not 4D": (lambda f: save(f / "data.nii.gz", np.ones(SHAPE)), [], ["data.nii.gz", "4D"]),
    "mask of another shape": (
        lambda f: save(f / "mask.nii.gz", np.ones((4, 4, 4))),
        [],
        ["mask.nii.gz", "7", "4"],
    ),
    "mask elsewhere": (other_affine, [], ["mask", "40"]),
    "empty mask": (lambda f: save(f / "mask.nii.gz", np.zeros(SHAPE)), [], ["mask.nii.gz", "empty"]),
    "design rows": (lambda f: vest(f / "design.mat", np.eye(9, 3)), [], ["design.mat", "9 rows", "10 volumes"]),
    "contrast columns": (
        lambda f: vest(f / "design.con", [[1, -1]], ("NumWaves", "NumContrasts")),
        [],
        ["design.con", "2 columns", "3"],
    ),
    "F columns": (
        lambda f: vest(f / "design.fts", [[1, 1]], ("NumWaves", "NumContrasts")),
        ["-f", "design.fts"],
        ["design.fts", "2 columns", "3"],
    ),
    "ragged design": (
        lambda f: (f / "design.mat").write_text("/NumWaves 2\n/NumPoints 2\n/Matrix\n1 2\n3\n"),
        [],
        ["design.mat", "line 5"],
    ),
    "letters in the design": (
        lambda f: (f / "design.mat").write_text("/NumWaves 2\n/NumPoints 1\n/Matrix\n1 x\n"),
        [],
        ["design.mat", "x"],
    ),
    "letters in a CSV": (lambda f: (f / "d.csv").write_text("a,b\n1,two\n"), ["-d", "d.csv"], ["d.csv", "two"]),
    "NaN in the mask": (
        lambda f: spoil_data(f, at={(2, 2, 2, 3): np.nan, (3, 2, 2, 5): np.inf}),
        [],
        ["2 of the", "volume 4"],
    ),
    "no degrees of freedom": (
        lambda f: (
            vest(f / "design.mat", np.c_[np.eye(10)[:, :2], np.eye(10)[:, 2:]])
            or vest(f / "design.con", [[1, -1, *[0] * 8]])
        ),
        [],
        ["degrees of freedom"],
    ),
    "contrast of zeros": (lambda f: vest(f / "design.con", [[0, 0, 0]]), [], ["t-test 1", "zero"]),
    "not estimable": (
        lambda f: (
            vest(f / "design.mat", np.c_[np.ones(10), np.arange(10) < 5, np.arange(10) >= 5])
            or vest(f / "design.con", [[0, 1, 0]])
        ),
        [],
        ["t-test 1", "estimable"],
    ),
    "unequal blocks": (
        lambda f: vest(f / "design.grp", np.array([[1, 1, 1, 2, 2, 2, 2, 3, 3, 3]]).T),
        ["-e", "design.grp", "--permuteBlocks"],
        ["equal size"],
    ),
    "gap in the blocks": (
        lambda f: vest(f / "design.grp", np.array([[1] * 5 + [3] * 5]).T),
        ["-e", "design.grp"],
        ["block 2"],
    ),
    "half a block": (
        lambda f: vest(f / "design.grp", np.array([[1] * 5 + [1.5] * 5]).T),
        ["-e", "design.grp"],
        ["design.grp", "integer"],
    ),
    "whole blocks without blocks": (lambda f: None, ["--permuteBlocks"], ["blocks"]),
    "no output folder": (lambda f: None, ["-o", "nowhere/out"], ["nowhere"]),
    "negative number": (lambda f: None, ["-n", "-5"], ["-5", "negative"]),
    "threshold of zero": (lambda f: None, ["-c", "0"], ["-c", "positive"]),
    "negative threshold": (lambda f: None, ["-C", "-2.3"], ["-C", "positive"]),
    "threshold of letters": (lambda f: None, ["-F", "abc"], ["-F", "number"]),
    "unknown option": (lambda f: None, ["--tfce_h=2"], ["--tfce_h", "--tfce_H"]),
    "option without value": (lambda f: None, ["-v"], ["-v"]),
    "a stray word": (lambda f: None, ["stray"], ["stray"]),
    "CUDA": (lambda f: None, ["--device", "cuda"], ["cuda", "cpu"]),
    "another device": (lambda f: None, ["--device", "tpu"], ["tpu", "cuda"]),
    "multi": (lambda f: None, ["--multi"], ["--multi"]),
    "permutations missing": (lambda f: None, ["-x", "--permutations", "none"], ["none_perm_tstat1.txt"]),
    "voxelwise files": (lambda f: None, ["--vxl=3", "--vxf=a,b"], ["--vxl", "--vxf"]),
    "voxelwise column": (lambda f: None, ["--vxl=4", "--vxf=data"], ["--vxl", "1 to 3"]),
    "fonly without F": (lambda f: None, ["--fonly"], ["--fonly", "-f"]),
    "seed": (lambda f: None, ["--seed", "99999999999999999999999"], ["seed"]),
    "first test": (lambda f: None, ["--skipTo=4"], ["4", "3"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, study, capsys):
    prepare, extra, words = BAD[name]
    prepare(study)
    before = set(os.listdir(study))
    assert run("-T", *extra) == 2
    message = capsys.readouterr().err
    assert message.startswith("gpuvox randomise: ")
    assert message.count("\n") == 1
    assert "Traceback" not in message
    for word in words:
        assert word in message, message
    assert set(os.listdir(study)) == before


def test_imported_permutations_must_fit(study, capsys):
    for text, word in (("1 2 3\n2 1 3\n", "3"), ("2 1 3 4 5 6 7 8 9 10\n", "place")):
        for i in (1, 2, 3):
            (study / f"mine_perm_tstat{i}.txt").write_text(text)
        assert run("-x", "--permutations", "mine") == 2
        assert word in capsys.readouterr().err


def test_more_permutations_than_can_be_run(study, capsys):
    n = 70
    save(study / "data.nii.gz", np.random.default_rng(0).normal(size=(*SHAPE, n)))
    vest(study / "design.mat", np.c_[np.ones(n), np.random.default_rng(1).normal(size=n)])
    vest(study / "design.con", [[0, 1]])
    assert main_randomise("-i data -o out -m mask -d design.mat -t design.con -x -n 0".split()) == 2
    assert "permutations" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing(study):
    code = (
        "import resource,sys; resource.setrlimit(resource.RLIMIT_FSIZE,(200,200));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from gpuvox.cli import main_randomise; sys.exit(main_randomise(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *BASE, "-T"],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_DISABLE_CACHING": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert "out_tstat1.nii.gz" in done.stderr
    assert not list(study.glob("out*"))


def test_few_permutations_are_warned_of(study, capsys):
    assert run("-x", "-e", "design.grp", "--permuteBlocks", base=[b if b != "20" else "0" for b in BASE]) in (0, 2)
    vest(study / "design.mat", np.c_[np.r_[1, np.zeros(9)], np.ones(10)])
    vest(study / "design.con", [[1, 0]])
    capsys.readouterr()
    assert run("-x", "-n", "0") == 0
    assert "no p-value can be under 0.1" in capsys.readouterr().err


def test_constant_voxels_are_counted_and_zero(study, capsys):
    image = nib.load(study / "data.nii.gz")
    data = image.get_fdata()
    data[3, 3, 3] = 7
    save(study / "data.nii.gz", data)
    assert run("-x", base=[b for b in BASE if b != "--quiet"]) == 0
    said = capsys.readouterr().err
    assert "1 of the" in said
    assert "do not vary" in said
    assert value("out_tstat1.nii.gz")[3, 3, 3] == 0


# -- what is right --------------------------------------------------------------------------------------------------


def test_every_option_of_fsl_is_taken(study):
    options = (
        "-T -x -c 2 -C 2 -F 3 -S 3 -f design.fts -R --uncorrp -P -N --glm_output --norcmask --debug -V "
        "--tfce_H=2 --tfce_E 0.5 --tfce_C=18 --tfce_D=0.2 -U 1 -e design.grp --detectNull -D"
    ).split()
    vest(study / "design.con", [[1, -1, 0], [-1, 1, 0], [0, 0, 1]])
    assert run(*options) == 0
    for stem in ("tfce_corrp_tstat1", "clusterm_p_fstat1", "clustere_tstat2", "glm_sigmasqr", "vox_p_tstat3"):
        assert (study / f"out_{stem}.nii.gz").exists()


def test_option_value_with_and_without_equals_sign(study):
    assert run("-T", "--tfce_C=26", "--tfce_E=1") == 0
    first = written(study)
    assert run("-T", "--tfce_C", "26", "--tfce_E", "1") == 0
    assert written(study) == first
    assert run("--T2") == 0
    assert written(study) == first


def test_a_seed_repeats_a_run_bit_for_bit_whatever_the_threads(study):
    assert run("-T", "-x", "-N", "-P", "--uncorrp", "--threads", "1") == 0
    first = written(study)
    for path in study.glob("out*"):
        path.unlink()
    assert run("-T", "-x", "-N", "-P", "--uncorrp", "--threads", "2") == 0
    assert written(study) == first


def test_a_drawn_seed_is_recorded(study):
    base = [b for b in BASE if b not in ("--seed", "1")]
    assert run("-x", "-N", base=base) == 0
    first = written(study)
    seed = json.loads((study / "out_randomise.json").read_text())["seed"]
    assert run("-x", "-N", "--seed", str(seed), base=base) == 0
    assert written(study) == first


def test_own_permutations_are_repeated(study):
    assert run("-T", "-x", "-N", "-P") == 0
    first = written(study)
    assert run("-T", "-x", "-N", "-P", "--seed", "2", "--permutations", "out") == 0
    assert written(study) == first


def test_a_contrast_and_its_negative_are_as_if_run_alone(study):
    assert run("-T", "-x", "-N") == 0
    both = written(study)
    vest(study / "design.con", [[-1, 1, 0]])
    assert run("-T", "-x", "-N", "-o", "alone") == 0
    for name, content in written(study, "alone").items():
        twin = name.replace("alone", "out").replace("tstat1", "tstat2")
        if name.endswith(".txt"):
            assert both[twin] == content
        else:
            np.testing.assert_array_equal(value(name), value(twin))


def test_the_record_says_what_was_done(study):
    assert run("-T", "-f", "design.fts") == 0
    record = json.loads((study / "out_randomise.json").read_text())
    assert record["software"]["gpuvox"] == __version__
    assert record["seed"] == 1
    assert record["device"] == "cpu"
    assert record["command"][1:] == [*BASE, "-T", "-f", "design.fts"]
    assert all(len(entry["sha256"]) == 64 for entry in record["inputs"].values())
    assert len(record["inputs"]) == 5
    about = record["maps"]["out_tfce_corrp_tstat1.nii.gz"]
    assert about["scale"] == "1-p"
    assert about["correction"] == "family-wise error"
    assert about["permutations"] == 20
    assert about["smallest_p"] == 0.05
    assert about["contrast"] == [[1.0, -1.0, 0.0]]
    assert "tail" in about
    header = nib.load(study / "out_tfce_corrp_tstat1.nii.gz").header
    assert b"1-p" in bytes(header["descrip"])
    assert nib.load(study / "out_tstat1.nii.gz").header.get_intent()[:2] == ("t test", (7.0,))


def test_geometry_is_that_of_the_input(study):
    assert run() == 0
    ours, theirs = nib.load("out_tstat1.nii.gz"), nib.load("data.nii.gz")
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    assert ours.header.get_zooms()[:3] == theirs.header.get_zooms()[:3]
    assert ours.shape == SHAPE


@pytest.mark.parametrize(("kind", "suffix"), [("NIFTI", ".nii"), ("NIFTI_GZ", ".nii.gz"), ("NIFTI_PAIR", ".hdr")])
def test_fsloutputtype(kind, suffix, study, monkeypatch):
    monkeypatch.setenv("FSLOUTPUTTYPE", kind)
    assert run() == 0
    assert (study / f"out_tstat1{suffix}").exists()


def test_fsloutputtype_unknown(study, monkeypatch, capsys):
    monkeypatch.setenv("FSLOUTPUTTYPE", "MINC")
    assert run() == 2
    assert "MINC" in capsys.readouterr().err


def test_one_sample_by_default_design(study):
    assert main_randomise("-i data -o one -m mask -1 -x -n 50 --quiet --seed 1".split()) == 0
    record = json.loads((study / "one_randomise.json").read_text())
    assert record["tests"][0]["method"] == "sign-flips"
    assert value("one_tstat1.nii.gz").max() > 10


def test_no_inference_writes_the_raw_statistic_and_warns(study, capsys):
    assert run() == 0
    assert "raw statistic" in capsys.readouterr().err
    assert sorted(written(study)) == [f"out_tstat{i}.nii.gz" for i in (1, 2, 3)]


def test_permuted_maps(study):
    assert run("-T", "-x", "--permout", "--skipTo=3", "-n", "4") == 0
    names = sorted(p.name for p in study.glob("out_*perm*"))
    expected = [f"out_{k}_perm{i:05d}_tstat3.nii.gz" for k in ("tfce", "vox") for i in range(1, 5)]
    assert names == expected
    np.testing.assert_array_equal(value("out_vox_perm00001_tstat3.nii.gz"), value("out_tstat3.nii.gz"))


def test_csv_design_and_names_without_extension(study):
    matrix = np.loadtxt(study / "design.mat", skiprows=4)
    rows = "\n".join(",".join(map(str, row)) for row in matrix)
    (study / "design.csv").write_text(f"a,b,age\n{rows}\n")
    assert run("-x") == 0
    first = written(study)
    assert run("-x", "-d", "design.csv") == 0
    assert written(study) == first


def test_other_ways_to_run(study):
    for extra in (
        ["-T", "--tfce-exact"],
        ["-T", "-x", "-v", "3"],
        ["-T", "-c", "1.5", "--twopass"],
        ["-T", "-e", "design.grp"],
        ["-x", "--vxl=3", "--vxf=data"],
        ["-x", "-f", "design.fts", "--fonly"],
        ["-x", "--effective_design", "design.mat"],
        ["-T", "--film", "-x"],
    ):
        assert run(*extra, "-o", "way") == 0, extra


def test_counting_and_scheduling(study, capsys):
    assert run("-q") == 0
    assert "252 permutations required for exhaustive test of t-test 1" in capsys.readouterr().out
    assert run("-Q", "-T") == 0
    assert capsys.readouterr().out == "20 3 out 100\n"
    assert run("-Q", "-x") == 0
    assert capsys.readouterr().out == "20 3 out 300\n"
    assert not list(study.glob("out*"))


def test_the_plan_reads_headers_only(study, capsys):
    assert run("--plan", "-T") == 0
    out = capsys.readouterr().out
    for words in ("10 volumes", "degrees of freedom 7", "252 distinct", "smallest p 0.05", "MiB", "nuisance 2"):
        assert words in out
    assert not list(study.glob("out*"))


def test_quiet_is_quiet_and_talk_is_fsls(study, capsys):
    assert run("-T") == 0
    assert capsys.readouterr().out == ""
    assert run("-T", base=[b for b in BASE if b != "--quiet"]) == 0
    out = capsys.readouterr().out
    for line in (
        "randomise options:",
        "Loading Data",
        "Doing 20 random permutations",
        "Critical Value for: out_tfce_",
    ):
        assert line in out


def test_entry_points(study, capsys):
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert main(["nothing"]) == 2
    assert main([]) == 2
    assert main(["randomise", "--help"]) == 0
    assert "--tfce_H" in capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, "-m", "gpuvox", "randomise", *BASE, "--tfce_h=1"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from gpuvox.cli import main; main(['randomise', '--help']);"
        "import gpuvox; heavy = {'numba', 'nibabel', 'scipy', 'pandas', 'numpy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_progress_is_a_line_at_intervals_where_there_is_no_terminal(capsys):
    progress = Progress(interval=0.0)
    progress("t-test 1", 5, 10)
    progress("t-test 1", 10, 10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("t-test 1: 5 of 10 permutations")
    slow = Progress(interval=1e9)
    slow("t-test 1", 5, 10)
    assert capsys.readouterr().err == ""
