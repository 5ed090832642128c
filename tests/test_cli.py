"""The command: FSL's grammar, what it writes, and one clear sentence for everything that is wrong."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import SHAPE, overriding, save, vest
from oracle import read_vest

import gpuvox
from gpuvox import __version__
from gpuvox.application import execute
from gpuvox.cli import main, main_randomise
from gpuvox.cli.console import ProgressBar
from gpuvox.cli.main import COMMANDS
from gpuvox.cli.randomise import describe_run, parse
from gpuvox.cli.streams import spell_out
from gpuvox.reporter import Reporter
from tests.selection import few

BASE = "-i data -o out -m mask -d design.mat -t design.con -n 20 --seed 1 --quiet".split()


def run(*extra: str, base=BASE) -> int:
    return main_randomise(overriding(base, extra))


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
        ["mask.nii.gz", "7 × 6 × 5", "4 × 4 × 4"],
    ),
    "mask elsewhere": (other_affine, [], ["mask.nii.gz", "data.nii.gz", "[2 0 0 0; 0", "[2 0 0 40; 0"]),
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
        ["design.grp", "equal size"],
    ),
    "gap in the blocks": (
        lambda f: vest(f / "design.grp", np.array([[1] * 5 + [3] * 5]).T),
        ["-e", "design.grp"],
        ["design.grp", "block 2"],
    ),
    "half a block": (
        lambda f: vest(f / "design.grp", np.array([[1] * 5 + [1.5] * 5]).T),
        ["-e", "design.grp"],
        ["design.grp", "integer"],
    ),
    "whole blocks without blocks": (lambda f: None, ["--permuteBlocks"], ["--permuteBlocks", "-e"]),
    "no output folder": (lambda f: None, ["-o", "nowhere/out"], ["nowhere"]),
    "negative number": (lambda f: None, ["-n", "-5"], ["-5", "negative"]),
    "half a permutation": (lambda f: None, ["-n", "2.5"], ["-n", "'2.5' is not an integer"]),
    "half a seed": (lambda f: None, ["--seed=0.5"], ["--seed", "'0.5' is not an integer"]),
    "half a neighbour": (lambda f: None, ["-T", "--tfce_C=6.5"], ["--tfce_C", "'6.5' is not an integer"]),
    "too few neighbours": (lambda f: None, ["-T", "--tfce_C=5"], ["--tfce_C", "6, 18 or 26"]),
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
    "missing design": (lambda f: (f / "design.mat").unlink(), [], ["design.mat"]),
    "missing mask": (lambda f: None, ["-m", "brain"], ["brain"]),
    "a folder for a design": (lambda f: (f / "d").mkdir(), ["-d", "d"], ["d cannot be read"]),
    "ragged CSV": (lambda f: (f / "d.csv").write_text("a,b,c\n1,2\n"), ["-d", "d.csv"], ["d.csv", "line 2"]),
    "effective design": (lambda f: None, ["--effective_design", "design.con"], ["design.con", "3 rows"]),
    "negative block": (
        lambda f: vest(f / "design.grp", -np.ones((10, 1))),
        ["-e", "design.grp"],
        ["design.grp", "negative"],
    ),
    "absurd block": (
        lambda f: vest(f / "design.grp", np.full((10, 1), 1e300)),
        ["-e", "design.grp"],
        ["design.grp", "1e+300"],
    ),
    "F of nothing": (lambda f: vest(f / "design.fts", [[0, 0, 0]]), ["-f", "design.fts"], ["F test 1"]),
    "voxelwise volumes": (
        lambda f: save(f / "ev.nii.gz", np.ones((*SHAPE, 9))),
        ["--vxl=3", "--vxf=ev"],
        ["ev", "9 volumes", "10"],
    ),
    "voxelwise contrast of zeros": (
        lambda f: vest(f / "design.con", [[1, -1, 0], [0, 0, 0]]),
        ["--vxl=3", "--vxf=data"],
        ["t-test 2", "zero"],
    ),
    "voxelwise columns alone": (lambda f: None, ["--vxl=3"], ["--vxl", "--vxf"]),
    "contrasts without a design": (lambda f: None, ["-1", "-d", ""], ["-t", "-d"]),
    "no folder": (lambda f: None, ["-o", "data.nii.gz/out"], ["data.nii.gz"]),
    "a folder that takes no files": (lambda f: None, ["-o", "/proc/out"], ["/proc"]),
    "minus one permutation": (lambda f: None, ["-n", "-1"], ["-n", "-1 is negative"]),
    "infinite threshold": (lambda f: None, ["-S", "inf"], ["-S", "finite"]),
    "threads": (lambda f: None, ["--threads", "0"], ["--threads", "0"]),
    "negative seed": (lambda f: None, ["--seed", "-5"], ["--seed", "negative"]),
    "connectivity": (lambda f: None, ["--tfce_C=4"], ["--tfce_C", "26"]),
    "seed": (lambda f: None, ["--seed", "99999999999999999999999"], ["seed"]),
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


FILES = (
    *("-i", "-o", "-m", "-d", "-t", "-f", "-e", "--effective_design", "--vxl", "--vxf", "--permutations"),
    *("--checkpoint", "--scratch", "--scheduler-file", "--tls-ca-file"),
)


@pytest.mark.parametrize("option", FILES)
def test_a_file_that_is_given_twice_is_refused(option, study, capsys):
    line = [*BASE, "-x", option, "1", option, "2"]
    before = set(os.listdir(study))
    assert main_randomise(line) == 2
    said = capsys.readouterr().err
    first = BASE[BASE.index(option) + 1] if option in BASE else "1"
    second = "1" if option in BASE else "2"
    assert (
        said
        == f"gpuvox randomise: {option} is given more than once, as {first} and as {second}; one is expected\n"
    )
    assert set(os.listdir(study)) == before


def test_of_other_options_the_last_counts_and_it_is_said(study, capsys):
    assert main_randomise([*BASE, "-x", "-i", "data", "-n", "25", "-c", "2", "-c=2.0"]) == 0
    assert (
        capsys.readouterr().err == "Warning: -n is given more than once, as 20 and as 25; the last one is used\n"
    )
    record = json.loads((study / "out_randomise.json").read_text())
    assert {test["permutations"] for test in record["tests"]} == {25}


def test_an_empty_value_takes_back_the_one_before_it(study, capsys):
    assert main_randomise([*BASE, "-x", "-f", "none.fts", "-f", "", "-m", "", "-m", "mask"]) == 0
    assert capsys.readouterr().err == ""
    record = json.loads((study / "out_randomise.json").read_text())
    assert {name for name in record["inputs"] if "mask" in name} == {"mask.nii.gz"}


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("clusters --corrected a --corrected b --out o", "--corrected"),
        ("design --table a --out o --out p", "--out"),
        ("longitudinal --table a --table b --visit v --out o", "--table"),
        ("groups --table a --rois b --rois c --group g --out o", "--rois"),
        ("models regression --table a --table b", "--table"),
        ("ironmyelin --qsm a --qsm b --out o", "--qsm"),
        ("ironmyelin --out o --out p", "--out"),
        ("rois --labels a --labels b", "--labels"),
        ("merge a --out b --out c", "--out"),
        ("report a --within b --within c", "--within"),
    ],
)
def test_other_commands_refuse_a_second_file_too(line, option, capsys):
    command, *words = line.split()
    values = [words[i + 1] for i, word in enumerate(words) if word == option]
    assert main([command, *words]) == 2
    told = f"{option} is given more than once, as {values[0]} and as {values[1]}; one is expected\n"
    assert capsys.readouterr().err == f"gpuvox {command}: {told}"


def test_options_that_repeat_are_not_repeated_by_accident(study, capsys):
    """Subcommands warn too, and what may be repeated is no mistake."""
    assert main("models samplesize --r 0.3 --r 0.5 --power 0.8 --power 0.80".split()) == 0
    said = capsys.readouterr()
    assert said.out.startswith("26 participants for a correlation of 0.5")
    assert said.err == "Warning: --r is given more than once, as 0.3 and as 0.5; the last one is used\n"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("1 2 3\n2 1 3\n", "10 rows"),
        ("2 1 3 4 5 6 7 8 9 10\n", "row 1"),
        ("-1 1 1 1 1 1 1 1 1 1\n", "row 1"),
        ("1 2 3 4 5 6 7 8 9 10\n1 1 3 4 5 6 7 8 9 10\n", "line 2"),
        ("", "empty"),
    ],
)
def test_imported_permutations_must_fit(text, word, study, capsys):
    for i in (1, 2, 3):
        (study / f"mine_perm_tstat{i}.txt").write_text(text)
    assert run("-x", "--permutations", "mine") == 2
    message = capsys.readouterr().err
    assert word in message
    assert "mine_perm_tstat1.txt" in message
    assert not list(study.glob("out*"))


def test_matrices_are_checked_before_data_are_read(study, capsys):
    vest(study / "design.mat", np.c_[np.ones(10), np.arange(10) < 5, np.arange(10) >= 5])
    vest(study / "design.con", [[0, 1, 0]])
    (study / "data.nii.gz").write_bytes((study / "data.nii.gz").read_bytes()[:3000])
    assert run("-x") == 2
    assert "estimable" in capsys.readouterr().err


def test_a_voxelwise_ev_makes_its_placeholder_irrelevant(study):
    matrix = np.loadtxt("design.mat", skiprows=4)
    matrix[:, 2] = 1  # the sum of the first two
    vest(study / "design.mat", matrix)
    save(study / "ev.nii.gz", np.random.default_rng(3).normal(size=(*SHAPE, 10)))
    assert run("-x") == 2
    assert run("-x", "--vxl=3", "--vxf=ev") == 0


def covariate_alone(folder, n):
    rng = np.random.default_rng(n)
    save(folder / "data.nii.gz", rng.normal(size=(*SHAPE, n)))
    vest(folder / "design.mat", np.c_[np.ones(n), rng.permutation(n)])
    vest(folder / "design.con", [[0, 1]])


@pytest.mark.parametrize("number", ["0", "100000001", "999999999999999999999999"])
@pytest.mark.parametrize("way", ["-x", "--plan", "-Q"])
def test_more_permutations_than_can_be_run(number, way, study, capsys):
    covariate_alone(study, 70)
    assert main_randomise(f"-i data -o out -m mask -d design.mat -t design.con -n {number} {way}".split()) == 2
    out, err = capsys.readouterr()
    assert "at most 100,000,000" in err
    assert "1.19786e+100" in err or number != "0"
    assert "Loading Data" not in out


@pytest.mark.parametrize(("n", "count"), [(200, "7.88658e+374"), (2000, "3.31628e+5735")])
def test_counts_beyond_floating_point(n, count, study, capsys):
    covariate_alone(study, n)
    assert run("-x", base=[b for b in BASE if b != "--quiet"]) == 0
    assert f"{count} permutations required" in capsys.readouterr().out
    record = json.loads((study / "out_randomise.json").read_text())
    assert record["tests"][0]["distinct"] == (str(math.factorial(n)) if n == 200 else count)
    assert run("-q") == 0
    assert f"{count} permutations required for exhaustive test of t-test 1" in capsys.readouterr().out
    assert run("--plan") == 0
    assert f"{count} distinct permutations" in capsys.readouterr().out


def test_output_that_nobody_takes_is_no_traceback(study):
    command = [sys.executable, "-m", "gpuvox", "randomise", *BASE, "-q"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""


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
    data = nib.load(study / "data.nii.gz").get_fdata()
    data[3, 3, 3] = 7
    save(study / "data.nii.gz", data)
    assert run("-x", "-T") == 0
    assert capsys.readouterr().err.startswith("Warning: 1 of the 120 voxels of the mask do not vary")
    assert value("out_tstat1.nii.gz")[3, 3, 3] == 0
    assert run("-x", "-m", "", "-o", "auto") == 0
    assert run("-x", "-m", "", "--norcmask", "-o", "all") == 0
    voxels = [json.loads((study / f"{root}_randomise.json").read_text())["voxels"] for root in ("auto", "all")]
    assert voxels == [209, 210]
    np.testing.assert_array_equal(value("auto_tstat1.nii.gz"), value("all_tstat1.nii.gz"))


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
    inputs = json.loads((study / "out_randomise.json").read_text())["inputs"]
    assert {f"out_perm_tstat{i}.txt" for i in (1, 2, 3)} <= set(inputs)


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
    assert about["smallest_possible_p"] == 0.05
    corrected = nib.load("out_tfce_corrp_tstat1.nii.gz").get_fdata()
    assert about["smallest_p"] == pytest.approx(1 - corrected.max(), abs=1e-6)
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


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("NIFTI", ".nii"), ("NIFTI_GZ", ".nii.gz"), ("NIFTI_PAIR", ".img"), ("NIFTI_PAIR_GZ", ".hdr.gz")],
)
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


def test_permuted_maps_are_of_the_contrast_and_in_its_units(study):
    """Neither integer scores nor clusters of the opposite contrast: those of -R, map by map."""
    assert run("-T", "-c", "1", "-C", "1", "-F", "1", "-f", "design.fts", "-R", "--permout", "-n", "3") == 0
    for test in ("tstat1", "tstat2", "fstat1"):
        for kind in ("tfce", "clustere", "clusterm")[: 2 if test == "fstat1" else 3]:
            raw = value(f"out_{kind}_{test}.nii.gz")
            np.testing.assert_array_equal(value(f"out_{kind}_perm00001_{test}.nii.gz"), raw)
            assert raw.max() > 0
            assert all(value(f"out_{kind}_perm0000{i}_{test}.nii.gz").min() >= 0 for i in (2, 3))


def test_csv_design_and_names_without_extension(study):
    matrix = np.loadtxt(study / "design.mat", skiprows=4)
    rows = "\n".join(",".join(map(str, row)) for row in matrix)
    (study / "design.csv").write_text(f"a,b,age\n{rows}\n")
    assert run("-x") == 0
    first = written(study)
    assert run("-x", "-d", "design.csv") == 0
    assert written(study) == first


def test_variance_smoothing_is_for_t_only(study):
    assert run("-x", "-f", "design.fts") == 0
    assert run("-x", "-f", "design.fts", "-v", "3", "-o", "v") == 0
    assert not np.array_equal(value("v_tstat1.nii.gz"), value("out_tstat1.nii.gz"))
    assert written(study, "v_fstat1") == {
        name.replace("out", "v"): content for name, content in written(study, "out_fstat1").items()
    }


def test_exact_tfce_is_near_that_of_steps(study):
    assert run("-T", "-R") == 0
    assert run("--tfce-exact", "-R", "-o", "exact") == 0
    steps, exact = value("out_tfce_tstat1.nii.gz").ravel(), value("exact_tfce_tstat1.nii.gz").ravel()
    assert np.corrcoef(steps, exact)[0, 1] > 0.999
    assert not np.array_equal(steps, exact)


def test_two_passes_write_the_normalised_maps(study):
    assert run("-T", "-c", "1.5", "--twopass") == 0
    names = written(study)
    for stem in ("clustern_corrp", "tfcen_corrp", "clustere_corrp", "tfce_corrp"):
        assert f"out_{stem}_tstat1.nii.gz" in names
    for part in ("sum", "samp", "post"):
        assert f"out__tfcenorm_tstat1{part}.nii.gz" in names
        assert f"out__clusternorm_tstat1{part}.nii.gz" in names


def test_t2_wins_over_all_but_the_step(study, capsys):
    assert run("--T2", "--tfce_D=0.25") == 0
    first = written(study)
    assert capsys.readouterr().err == ""
    for line in ("-T --T2 --tfce_H=3 --tfce_C=6 --tfce_D=0.25", "--tfce_E=0.7 --tfce_D=0.25 --T2"):
        assert run(*line.split()) == 0
        assert written(study) == first
        assert "--T2 is TFCE with H=2, E=1, C=26" in capsys.readouterr().err
    assert run("-T", "--tfce_H=2", "--tfce_E=1", "--tfce_C=26", "--tfce_D=0.25") == 0
    assert written(study) == first


def test_f_only_and_skipping(study):
    assert run("-x", "-f", "design.fts", "--fonly") == 0
    assert sorted(written(study)) == ["out_fstat1.nii.gz", "out_vox_corrp_fstat1.nii.gz"]
    assert run("-f", "design.fts", "--skipTo=3", "-o", "late") == 0
    assert sorted(written(study, "late")) == ["late_tstat2.nii.gz"]
    assert run("-f", "design.fts", "--skipTo=1", "-o", "first") == 0
    assert sorted(written(study, "first")) == ["first_fstat1.nii.gz"]


def test_skipping_beyond_the_last_test_writes_nothing(study, capsys):
    assert run("-x", "-f", "design.fts", "--skipTo=5") == 0
    assert not list(study.glob("out*"))
    assert "--skipTo=5: there is no such test" in capsys.readouterr().err
    for extra in ("-q", "-Q", "--plan"):
        assert run("-x", "--skipTo=5", extra) == 0


def test_demeaning_is_an_intercept(study):
    covariate_alone(study, 12)
    assert run("-x", "-N") == 0
    first = value("out_tstat1.nii.gz")
    nulls = np.loadtxt("out_vox_corrp_tstat1.txt")
    vest(study / "design.mat", np.loadtxt("design.mat", skiprows=4)[:, 1:])
    vest(study / "design.con", [[1]])
    assert run("-x", "-N", "-D") == 0
    np.testing.assert_allclose(value("out_tstat1.nii.gz"), first, rtol=1e-5)
    np.testing.assert_allclose(np.loadtxt("out_vox_corrp_tstat1.txt"), nulls, rtol=1e-5)
    assert json.loads((study / "out_randomise.json").read_text())["tests"][0]["degrees_of_freedom"] == 10


def test_effective_design_and_null_rows_decide_what_is_distinct(study, capsys):
    effect = [3, 1, -1, -3, 0, 0, 0, 0, 0, 0]
    vest(study / "design.mat", np.c_[np.ones(10), effect])
    vest(study / "design.con", [[0, 1]])
    vest(study / "other.mat", np.c_[np.ones(10), np.arange(10) < 5])
    for extra, count in (([], 5040), (["--detectNull"], 24), (["--effective_design", "other.mat"], 252)):
        assert run("-q", *extra) == 0
        assert f"{count} permutations required" in capsys.readouterr().out
    vest(study / "other.mat", np.repeat([[1], [2]], 5, axis=0))  # as many columns as one likes
    assert run("-q", "--effective_design=other.mat") == 0
    assert "252 permutations required" in capsys.readouterr().out
    vest(study / "other.mat", np.ones((10, 3)))  # all rows equal: one non-zero weight, so signs are flipped
    assert run("-q", "--effective_design=other.mat") == 0
    assert "1024 sign-flips required" in capsys.readouterr().out
    assert run("-x", "-P", "--detectNull", "-n", "0") == 0
    rows = np.loadtxt("out_perm_tstat1.txt")
    assert len(rows) == 24
    assert (rows[:, 4:] == np.arange(5, 11)).all()


def test_a_mask_up_to_the_edge_of_the_grid(study):
    """The edge is no different from any other place: air around the image changes nothing."""
    save(study / "mask.nii.gz", np.ones(SHAPE))
    assert run("-T", "-x", "-c", "0.5", "-R") == 0
    around = ((2, 2), (2, 2), (2, 2))
    save(study / "data.nii.gz", np.pad(nib.load("data.nii.gz").get_fdata(), (*around, (0, 0))))
    save(study / "mask.nii.gz", np.pad(np.ones(SHAPE), around))
    assert run("-T", "-x", "-c", "0.5", "-R", "-o", "air") == 0
    assert (value("out_tfce_tstat1.nii.gz")[0] > 0).any()
    for stem in ("tstat1", "tfce_tstat1", "tfce_corrp_tstat1", "clustere_tstat3", "vox_corrp_tstat2"):
        np.testing.assert_array_equal(np.pad(value(f"out_{stem}.nii.gz"), around), value(f"air_{stem}.nii.gz"))


def test_film_and_voxelwise_evs(study):
    ev = np.random.default_rng(3).normal(size=(*SHAPE, 10))
    save(study / "ev.nii.gz", ev)
    assert run("-x", "--vxl=3", "--vxf=ev") == 0
    placeholder = np.loadtxt("design.mat", skiprows=4)
    placeholder[:, 2] = ev[3, 3, 3].round(5)
    # At one voxel, the voxelwise design is that voxel's own.
    (study / "one.csv").write_text("a,b,c\n" + "\n".join(",".join(map(str, row)) for row in placeholder))
    assert run("-x", "-d", "one.csv", "-o", "one") == 0
    ours, theirs = value("out_tstat3.nii.gz")[3, 3, 3], value("one_tstat3.nii.gz")[3, 3, 3]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert len(json.loads((study / "out_randomise.json").read_text())["inputs"]) == 5
    assert run("-x", "--film", "-o", "film") == 0
    assert {"filmtstat1.nii.gz", "filmpstat1.nii.gz", "filmzstat1.nii.gz", "filmpe1.nii.gz"} <= set(
        written(study, "film")
    )


def test_existing_outputs_are_replaced(study):
    assert run("-x") == 0
    first = written(study)
    for path in study.glob("out*"):
        path.write_bytes(b"old")
    assert run("-x") == 0
    assert written(study) == first


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


def test_scripts_of_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {
        "gpuvox": "gpuvox.cli:main",
        "gpuvox-randomise": "gpuvox.cli:main_randomise",
        "gpuvox-randomise_parallel": "gpuvox.cli:main_randomise",
    }


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from gpuvox.cli import main; main(['randomise', '--help']);"
        "import gpuvox; heavy = {'numba', 'nibabel', 'scipy', 'pandas', 'numpy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_progress_is_a_line_at_intervals_where_there_is_no_terminal(capsys):
    progress = ProgressBar(interval=0.0)
    progress("t-test 1", 5, 10)
    progress("t-test 1", 10, 10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("t-test 1: 5 of 10 permutations")
    slow = ProgressBar(interval=1e9)
    slow("t-test 1", 5, 10)
    assert capsys.readouterr().err == ""


def test_images_of_a_list_that_come_twice_are_told(study, capsys):
    """A line copied and not changed: it is done, with a word."""
    data = nib.load("data.nii.gz")
    for i in range(10):
        nib.save(nib.Nifti1Image(np.asarray(data.dataobj)[..., i], data.affine, data.header), f"one{i}.nii.gz")
    Path("list.txt").write_text("".join(f"one{i % 9}\n" for i in range(10)))
    line = "-o out -m mask -d design.mat -t design.con -x -n 20 --seed 1 --quiet -i"
    assert main_randomise([*line.split(), "list.txt"]) == 0
    assert "one0.nii.gz appears twice" in capsys.readouterr().err
    assert main_randomise([*line.split(), "one?"]) == 0
    assert "twice" not in capsys.readouterr().err


def test_tables_of_images_are_explained(study, capsys):
    Path("p.tsv").write_text("participant_id\tfa\na\tdata\nb\tnone\n")
    line = "-o out -m mask -d design.mat -t design.con -x -n 20 --seed 1 -i"
    assert main_randomise([*line.split(), "p.tsv"]) == 2
    assert "p.tsv:COLUMN is expected" in capsys.readouterr().err
    assert main_randomise([*line.split(), "p.tsv:fa"]) == 2
    assert "p.tsv, column 'fa' of row 2: there is no image none" in capsys.readouterr().err


# -- what clients and users write ---------------------------------------------------------------------------------


def test_whole_floats_are_integers(study):
    """As nipype and fslpy write them."""
    assert run("-T", "--tfce_C=26", "-P", "-o", "a", "-U", "1", "-n", "20", "--seed=1") == 0
    assert run("-T", "--tfce_C=26.00", "-P", "-o", "b", "-U", "1.", "-n", "20.0", "--seed=+1.000") == 0
    for name in ("a_tfce_corrp_tstat1.nii.gz", "a_perm_tstat1.txt"):
        assert Path(name).read_bytes() == Path("b" + name[1:]).read_bytes()


@pytest.mark.parametrize(("given", "taken"), [(30, 26), (25, 18), (17, 6)])
def test_connectivity_between_the_known_ones(study, given, taken):
    assert run("-T", "-R", f"--tfce_C={given}", "-o", "a") == run("-T", "-R", f"--tfce_C={taken}", "-o", "b") == 0
    np.testing.assert_array_equal(value("a_tfce_tstat1.nii.gz"), value("b_tfce_tstat1.nii.gz"))


def test_a_mask_with_other_values_is_told_once(study, capsys):
    mask = np.full(SHAPE, -1e-3)
    mask[1:4, 1:4, 1:3] = 1
    save("mask.nii.gz", mask)
    assert run("-x") == 0
    assert np.count_nonzero(value("out_tstat1.nii.gz")) == 18
    said = capsys.readouterr().err
    assert said.count("values other than 0 and 1 (-0.001 to 1)") == 1
    assert said.startswith("Warning: the mask ")


# -- options of other programs --------------------------------------------------------------------------------------

NAMED_IN_PALM = (
    "twotail fdr logp save1-p corrcon corrmod npc npcmod npccon concordant mv inputmv cca pls eb within whole "
    "vg rmethod pmethodr pearson demean evperdat saveglm designperinput accel imiss dmiss mcar noniiclass "
    "saveperms savemax zstat tfce2D tfce1D tfce_dh Cstat"
).split()


@pytest.mark.parametrize("name", NAMED_IN_PALM)
def test_options_of_palm_are_told_from_values(name, study, capsys):
    """-twotail is not -t with the file wotail; --fdr is not --vxf."""
    for dashes in ("-", "--"):
        assert main_randomise(["-x", f"{dashes}{name}", *BASE]) == 2
        message = capsys.readouterr().err
        assert f"{dashes}{name} is an option of PALM; " in message
        assert message.count("\n") == 1
    assert not list(study.glob("out*"))


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("-twotail", ["--two-sided", "both directions"]),
        ("-ise", ["two dashes here: --ise"]),
        ("-cmcp", ["two dashes here: --cmcp"]),
        ("-eb", ["-e FILE"]),
        ("-tfce2D", ["--T2"]),
        ("-logp", ["1-p"]),
        ("-tdesign.con", ["-tdesign.con", "-t", "blank"]),
        ("-odir/out", ["-o", "blank"]),
        ("-seed", ["two dashes", "--seed"]),
        ("-tfce_H=2", ["two dashes", "--tfce_H"]),
        ("--n_perm=100", ["-n N"]),
        ("--n-jobs", ["--threads"]),
        ("--two_sided_test", ["--two-sided"]),
        ("--gpu", ["--device cuda"]),
        ("--tfce_h=2", ["--tfce_H"]),
    ],
)
def test_options_that_are_not_there_name_what_is(token, words, study, capsys):
    assert run("-x", token) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message, message


def test_numbers_may_touch_their_option(study):
    assert run("-n5", "-c2.3", "-x") == 0
    assert json.loads((study / "out_randomise.json").read_text())["tests"][0]["permutations"] == 5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("randomize -i data", ["did you mean randomise?"]),
        ("-i data", ["must follow a command", "gpuvox randomise -i"]),
        ("rois --tabel p.tsv", ["unknown option --tabel", "--table", "gpuvox rois --help"]),
        ("models regression --outcom edss", ["--outcom", "--outcome"]),
        ("design table.tsv", ["'table.tsv' is neither an option"]),
        ("info all", ["gpuvox info"]),
    ],
)
def test_commands_that_are_not_there(line, words, study, capsys):
    assert main(line.split()) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message, message


# -- output ---------------------------------------------------------------------------------------------------------


def ascii_run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "gpuvox", *arguments],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"} | environment,
    )


@pytest.mark.parametrize("extra", few([["-x"], ["-d", "d\u00e9.mat"], ["--plan"], ["-q"], ["-m", "other"]], 2))
def test_output_in_ascii(extra, study):
    (study / "d\u00e9.nii.gz").write_bytes((study / "data.nii.gz").read_bytes())
    save(study / "other.nii.gz", np.ones((3, 4, 5)))  # 7 \u00d7 6 \u00d7 5 voxels are expected
    done = ascii_run("randomise", *overriding([b for b in BASE if b != "--quiet"], ["-i", "d\u00e9", *extra]))
    assert done.returncode == (2 if extra[0] in ("-d", "-m") else 0), done.stderr
    assert b"Traceback" not in done.stderr
    assert b"codec" not in done.stderr
    assert (b"3 x 4 x 5" in done.stderr) is (extra == ["-m", "other"])
    assert (b"7 x 6 x 5" in done.stdout) is (extra == ["--plan"])
    assert b"d\\xe9" in done.stdout + done.stderr


def test_signs_are_spelled_where_they_cannot_be_written(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)  # closed
    spell_out()
    stream.write("2 \u00d7 3 \u2026 \u2212p \u00e9 \udce9 \u4e2d")
    stream.flush()
    assert stream.buffer.getvalue() == rb"2 x 3 ... -p \xe9 \udce9 \u4e2d"


def test_permutations_are_announced_when_they_begin(study):
    events = []
    command = describe_run(parse([*BASE, "-x"]), [])
    execute.execute(command, Reporter(events.append, events.append, lambda test, done, total: events.append(test)))
    doing = [i for i, event in enumerate(events) if event.startswith("Doing 20 random permutations")]
    assert len(doing) == 3
    assert doing[0] < events.index("t-test 1 and t-test 2")
    assert doing[2] < events.index("t-test 3")
    assert events[doing[0] - 1] == "252 permutations required for exhaustive test of t-test 1"
    critical = [i for i, event in enumerate(events) if event.startswith("Critical Value")]
    assert doing[0] < critical[0] < doing[1] < critical[1] < doing[2] < critical[2]
    reading = [event for event in events if event == "reading data"]
    assert len(reading) == 10


def test_reading_is_counted_in_volumes(capsys):
    progress = ProgressBar(interval=0.0)
    progress("reading data", 5, 10)
    assert capsys.readouterr().err.startswith("reading data: 5 of 10 volumes")


@pytest.mark.parametrize("extra", [[], ["--checkpoint", "kept.tally"]])
def test_an_interrupted_run_says_how_to_go_on(extra, study, capsys, monkeypatch):
    def interrupted(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr("gpuvox.application.execute.analyse", interrupted)
    assert run("-x", *extra) == 130
    message = capsys.readouterr().err
    assert ("--checkpoint FILE" in message) is not bool(extra)
    assert message.endswith("interrupted\n")


@pytest.mark.parametrize(
    "environment", few([{"TERM": "dumb"}, {"COLUMNS": "x", "TERM": ""}, {"COLUMNS": "20"}, {"NO_COLOR": "1"}], 2)
)
def test_odd_terminals(environment, study):
    for arguments in (["--help"], ["randomise", "--help"], ["models", "regression", "--help"]):
        done = ascii_run(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        assert done.stderr == b""
        assert b"\x1b" not in done.stdout
    done = ascii_run("randomise", *[b for b in BASE if b != "--quiet"], "-x", **environment)
    assert done.returncode == 0
    assert b"\x1b" not in done.stdout + done.stderr


def lesions(study, n=10):
    mask = (np.random.default_rng(4).random((*SHAPE, n)) < 0.1) * -2.5
    save(study / "lesions.nii.gz", mask)
    return mask


def test_subjects_left_out_at_some_voxels(study, capsys):
    """With the columns that setup_masks appends, without them, in the midst of others, and from Python."""
    mask = lesions(study)
    design, contrasts = read_vest(study / "design.mat"), read_vest(study / "design.con")
    extra = "-x -T -N -R --glm_output -f design.fts".split()
    assert run(*extra, "--vxl=-4", "--vxf=lesions", "-o", "short") == 0
    vest(study / "design.mat", np.hstack([design, np.eye(10)]))
    vest(
        study / "design.con", np.hstack([contrasts, np.zeros((len(contrasts), 10))]), ("NumWaves", "NumContrasts")
    )
    line = [*extra, "--vxl=-4", "--vxf=lesions", "-o", "long"]
    assert main_randomise(overriding([a for a in BASE if a != "--quiet"], line)) == 0
    said = capsys.readouterr().out
    inside = value("mask.nii.gz") > 0
    counts = np.count_nonzero(mask[inside], axis=1)
    assert "Loading voxelwise ev: lesions for EV -4" in said
    assert (
        f"Participants are excluded at {np.count_nonzero(counts)} of {len(counts)} voxels, at most {counts.max()}"
        in said
    )
    vest(study / "design.mat", np.hstack([design[:, :2], np.eye(10), design[:, 2:]]))
    zeros = np.zeros((len(contrasts), 10))
    vest(
        study / "design.con", np.hstack([contrasts[:, :2], zeros, contrasts[:, 2:]]), ("NumWaves", "NumContrasts")
    )
    assert run(*extra, "--vxl=-3", "--vxf=lesions", "-o", "midst") == 0
    for name in (
        "tstat1",
        "fstat1",
        "tfce_corrp_tstat3",
        "tfce_fstat1",
        "glm_cope",
        "glm_varcope",
        "glm_sigmasqr",
    ):
        for other in ("long", "midst"):
            np.testing.assert_array_equal(
                value(f"short_{name}.nii.gz"), value(f"{other}_{name}.nii.gz"), err_msg=name
            )
    estimates = value("short_glm_pe.nii.gz")
    assert estimates.shape[3] == 13
    np.testing.assert_array_equal(np.roll(value("midst_glm_pe.nii.gz")[..., 2:], -10, 3), estimates[..., 2:])
    result = gpuvox.randomise(
        "data",
        design,
        contrasts,
        mask="mask",
        voxelwise={-4: "lesions"},
        n_permutations=20,
        seed=1,
        f_tests=[[1, 0, 1]],
    )
    np.testing.assert_array_equal(result.volume("vox_corrp_tstat1"), value("short_vox_corrp_tstat1.nii.gz"))


def test_estimates_where_subjects_are_left_out(study):
    """Each voxel by itself, with a column for each subject who is left out there."""
    mask = lesions(study)
    for extra in ([], ["-D"]):
        if extra:
            covariate_alone(study, 10)
        assert run("--glm_output", f"--vxl=-{4 - len(extra)}", "--vxf=lesions", *extra) == 0
        M, C = read_vest(study / "design.mat"), read_vest(study / "design.con")
        found = {name: value(f"out_glm_{name}.nii.gz") for name in ("pe", "cope", "varcope", "sigmasqr")}
        data = value("data.nii.gz")
        for voxel in map(tuple, np.argwhere(value("mask.nii.gz") > 0)[::7]):
            gone = np.flatnonzero(mask[voxel])
            whole = np.hstack([M, *([np.ones((10, 1))] if extra else []), np.diag(mask[voxel])[:, gone]])
            inverse = np.linalg.pinv(whole)
            b, df = inverse @ data[voxel], 10 - np.linalg.matrix_rank(whole) + len(extra)
            sigma = ((data[voxel] - whole @ b) ** 2).sum() / df
            spread = (C @ inverse[: M.shape[1]]) ** 2
            p = M.shape[1]
            estimable = slice(len(extra), p)  # a demeaned column of ones is none
            np.testing.assert_allclose(found["pe"][voxel][estimable], b[estimable], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found["pe"][voxel][p:][gone], b[len(b) - len(gone) :], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(np.atleast_1d(found["cope"][voxel]), C @ b[:p], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(
                np.atleast_1d(found["varcope"][voxel]), spread.sum(axis=1) * sigma, rtol=1e-4, atol=1e-6
            )
            np.testing.assert_allclose(found["sigmasqr"][voxel], sigma, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("-5", "lacks some of 5 to 14"),
        ("-3", "lacks some of 3 to 12"),
        ("0", "from 1 to 3"),
        ("4", "from 1 to 3"),
        ("-4,-4", "different"),
    ],
)
def test_columns_of_voxelwise_evs_that_do_not_exist(study, capsys, columns, words):
    lesions(study)
    files = ",".join(["lesions"] * (columns.count(",") + 1))
    assert run("-x", f"--vxl={columns}", f"--vxf={files}") == 2
    assert words in capsys.readouterr().err


def test_a_contrast_of_who_is_left_out_is_refused(study, capsys):
    lesions(study)
    vest(study / "design.mat", np.hstack([read_vest(study / "design.mat"), np.eye(10)]))
    vest(study / "design.con", [[1, -1, *[0] * 10, 1]], ("NumWaves", "NumContrasts"))
    assert run("-x", "--vxl", "-4", "--vxf", "lesions") == 2
    assert "t contrast 1 is not 0 in column 13" in capsys.readouterr().err


def test_no_degrees_of_freedom_left_is_told(study, capsys):
    mask = np.zeros((*SHAPE, 10))
    mask[2, 2, 2, :8] = 1
    save(study / "lesions.nii.gz", mask)
    assert run("-x", "--vxl=-4", "--vxf=lesions") == 0
    assert "no degrees of freedom are left at 1 of" in capsys.readouterr().err
    assert value("out_tstat1.nii.gz")[2, 2, 2] == 0


# -- mistakes of a first use ----------------------------------------------------------------------------------------

MISTAKES = {
    "no design": ("-i data -o out -t design.con", ["the design (-d) is missing", "design.con"]),
    "no contrasts": ("-i data -o out -d design.mat", ["t contrasts (-t)", "design.mat", "missing"]),
    "neither": ("-i data -o out", ["-d", "-t", "-1"]),
    "no data": ("-o out -d design.mat -t design.con", ["-i is missing"]),
    "no root": ("-i data -d design.mat -t design.con", ["-o is missing"]),
    "exchanged": (
        "-i data -o out -d design.con -t design.mat",
        ["design.con (-d)", "design.mat (-t)", "exchanged"],
    ),
    "a folder": ("-i . -o out -d design.mat -t design.con", ["folder"]),
    "3D data": ("-i mask -o out -d design.mat -t design.con", ["mask.nii.gz", "one volume"]),
    "an open pattern": ("-i data mask.nii.gz -o out", ["mask.nii.gz", "quotation marks"]),
    "no value": ("-i data -o out -d design.mat -t design.con -c -x", ["the value of -c is missing"]),
    "a value too many": ("-i data -o out -d design.mat -t design.con -T 2", ["'2'"]),
    "F as t": ("-i data -o out -d design.mat -t design.fts -f design.con", ["design.con"]),
    "blocks of the design": (
        "-i data -o out -d design.mat -t design.con -e design.mat",
        ["design.mat", "single column"],
    ),
    "an image as a design": ("-i data -o out -d data.nii.gz -t design.con", ["data.nii.gz", "text"]),
    "a design as an image": ("-i design.mat -o out -d design.mat -t design.con", ["design.mat"]),
    "no such folder": ("-i data -o none/out -d design.mat -t design.con", ["there is no folder none"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_of_a_first_use(name, study, capsys):
    line, words = MISTAKES[name]
    before = set(os.listdir(study))
    assert main_randomise([*line.split(), "-x", "-n", "5"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("gpuvox randomise: ")
    assert err.count("\n") == 1
    assert "Loading Data" not in out
    for word in words:
        assert word in err, err
    assert set(os.listdir(study)) == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("report", ["RUN is missing"]),
        ("phantom", ["folder"]),
        ("study", ["CONFIG.toml is missing", "--example"]),
        ("merge", ["TALLY"]),
        ("merge data.nii.gz", ["data.nii.gz", "--shard"]),
        ("models", ["regression, correlation, mixed or samplesize"]),
        ("models samplesize", ["--table", "--r", "--d"]),
        ("design --table", ["the value of --table is missing"]),
        ("design --out d", ["--table is missing"]),
        ("rois --table p.tsv --labels mask --map m=mask", ["--out is missing"]),
        ("clusters --corrected mask", ["--out is missing"]),
        ("groups --table p.tsv", ["--out is missing"]),
        ("longitudinal --table p.tsv --out l", ["--visit is missing"]),
        ("ironmyelin --table p.tsv", ["--out is missing"]),
    ],
)
def test_what_is_missing_is_named(line, words, study, capsys):
    assert main(line.split()) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for word in words:
        assert word in err, err


# -- help -----------------------------------------------------------------------------------------------------------

EVERY = [[name] for name in COMMANDS] + [["models", kind] for kind in ("regression", "correlation", "samplesize")]


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_every_command_has_help_and_a_version(command, capsys):
    for option, word in (("--help", f"usage: gpuvox {' '.join(command)}"), ("--version", f"gpuvox {__version__}")):
        try:
            status = main([*command, option])
        except SystemExit as end:  # as argparse ends
            status = end.code
        out, err = capsys.readouterr()
        assert (status or 0, err) == (0, "")
        assert out.startswith(word)
        assert "left_caudate.volume" not in out
        assert max(map(len, out.replace(__version__, "1.0.0").splitlines())) <= 120


def test_help_in_other_words(capsys):
    assert main(["help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert main(["help", "randomise"]) == 0
    assert "--tfce_H" in capsys.readouterr().out
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", text)
