"""FSL's own files: every one of the reference cases, repeated with FSL's permutations through the command."""

from __future__ import annotations

import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from gpuvox.cli import main_randomise

CASES = Path(__file__).parent / "data" / "fsl"
NAMES = sorted(p.name for p in CASES.iterdir() if p.is_dir())
NULL_TOLERANCE = 1e-3
MAP_TOLERANCE = 1e-4


def run_case(case: str, out: Path, *, repeat: bool = True, extra: tuple[str, ...] = ()) -> list[str]:
    """Run the case's command with inputs from the case's folder and outputs in another."""
    folder = CASES / case
    argv = shlex.split((folder / "command.txt").read_text())[1:]
    for i, token in enumerate(argv):
        if (folder / token).exists():
            argv[i] = str(folder / token)
        elif token.startswith("--vxf="):
            argv[i] = "--vxf=" + str(folder / token[6:])
    argv[argv.index("-o") + 1] = str(out / "fsl")
    if repeat:
        argv += ["--permutations", str(folder / "fsl")]
    argv += ["--quiet", *extra]
    assert main_randomise(argv) == 0
    return argv


@pytest.fixture(scope="session")
def outputs(tmp_path_factory):
    """Run each case once, with FSL's permutations."""
    done: dict[str, Path] = {}

    def get(case: str) -> Path:
        if case not in done:
            done[case] = tmp_path_factory.mktemp(case)
            run_case(case, done[case], repeat=case != "how_many")
        return done[case]

    return get


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


def images(case: str) -> list[str]:
    return sorted(p.name for p in (CASES / case).glob("fsl*.nii.gz"))


def is_p(name: str) -> bool:
    return "_corrp_" in name or "_p_" in name or name.startswith("fslpstat")


STATISTICS = [
    (case, name) for case in NAMES for name in images(case) if not is_p(name) and not name.startswith("fslzstat")
]
P_MAPS = [(case, name) for case in NAMES for name in images(case) if is_p(name)]
NULLS = [(case, p.name) for case in NAMES for p in sorted((CASES / case).glob("fsl*.txt")) if "perm" not in p.name]


@pytest.mark.parametrize("case", [c for c in NAMES if c != "how_many"])
def test_every_file_is_written_and_one_json(case, outputs):
    theirs = {p.name for p in (CASES / case).glob("fsl*")}
    ours = {p.name for p in outputs(case).iterdir()}
    assert ours == theirs | {"fsl_randomise.json"}


@pytest.mark.parametrize(("case", "name"), STATISTICS)
def test_statistics(case, name, outputs):
    theirs, ours = read(CASES / case / name), read(outputs(case) / name)
    assert ours.shape == theirs.shape
    if case == "ter_braak":
        # FSL's map is rounding noise of zero.
        assert np.abs(theirs).max() < 1e-12
        assert not ours.any()
        return
    rough = NULL_TOLERANCE if "tfce" in name else MAP_TOLERANCE
    assert np.abs(ours - theirs).max() <= rough * np.abs(theirs).max()


@pytest.mark.parametrize(("case", "name"), NULLS)
def test_null_distributions(case, name, outputs):
    theirs, ours = np.loadtxt(CASES / case / name), np.loadtxt(outputs(case) / name)
    if "clustere_" in name:
        np.testing.assert_array_equal(ours, theirs)
    else:
        np.testing.assert_allclose(ours, theirs, rtol=NULL_TOLERANCE, atol=1e-6 * theirs.max())


def ties(case: str, name: str, outputs, test: str) -> np.ndarray | None:
    """Where an observed value is within 1e-5 of the map's maximum of a null maximum; None if not known."""
    if "_corrp_" not in name:
        return None
    kind = name.split("_")[1]
    raw = outputs(case) / (f"fsl_{test}.nii.gz" if kind == "vox" else f"fsl_{kind}_{test}.nii.gz")
    null = CASES / case / f"fsl_{kind}_corrp_{test}.txt"
    if not raw.exists() or not null.exists():
        return None
    observed, maxima = read(raw), np.sort(np.loadtxt(null))
    at = np.clip(np.searchsorted(maxima, observed), 1, len(maxima) - 1)
    gap = np.minimum(np.abs(observed - maxima[at]), np.abs(observed - maxima[at - 1]))
    return gap <= 1e-5 * np.abs(observed).max()


@pytest.mark.parametrize(("case", "name"), P_MAPS)
def test_p_maps(case, name, outputs):
    theirs, ours = read(CASES / case / name), read(outputs(case) / name)
    if "_clustere_p_" in name or "_clusterm_p_" in name:
        # FSL writes zeros; ours is the share of permutations whose cluster value is smaller.
        assert not theirs.any()
        assert ours.max() <= 1
        return
    stat = next(n for n in images(case) if n.startswith(("fsl_tstat", "fsl_fstat", "fsltstat")))
    n_voxels = int((read(CASES / case / stat) != 0).sum()) if case != "ter_braak" else ours.size
    test = name.removesuffix(".nii.gz").split("_")[-1]
    test = test.replace("fslpstat", "tstat")
    n_shuffles = _n_shuffles(case, test)
    different = np.abs(ours - theirs) > 0.5 / n_shuffles
    known = ties(case, name, outputs, test)
    if known is not None:
        assert not (different & ~known).any()
    assert different.sum() <= 0.005 * n_voxels
    assert np.abs(ours - theirs).max() <= 2.0 / n_shuffles + 1e-6


def _n_shuffles(case: str, test: str) -> int:
    found = [p for p in (CASES / case).glob("fsl*perm_*.txt") if test[-5:] in p.name]
    return len(found[0].read_text().splitlines())


def test_film_z_is_the_quantile_of_the_uncorrected_value(outputs):
    for i in (1, 2):
        theirs, ours = (read(f / f"fslzstat{i}.nii.gz") for f in (CASES / "film_names", outputs("film_names")))
        different = np.abs(ours - theirs) > 1e-5
        assert different.sum() <= 0.005 * (theirs != 0).sum()


def test_permutation_files_are_repeated(outputs):
    for case in ("two_group_ancova", "one_sample_random", "f_test"):
        for theirs in (CASES / case).glob("fsl_perm_*.txt"):
            assert (outputs(case) / theirs.name).read_bytes() == theirs.read_bytes()


EXHAUSTIVE = [name for name in NAMES if name.endswith("exhaustive")] + [
    "paired_exchangeability",
    "whole_block",
]


@pytest.mark.parametrize("case", EXHAUSTIVE)
def test_exhaustive_runs_need_no_permutation_file(case, tmp_path):
    """All distinct permutations, in FSL's order."""
    run_case(case, tmp_path, repeat=False)
    for theirs in (CASES / case).glob("fsl_perm_*.txt"):
        # Which of several equal rows goes where is the program's own choice.
        if case not in ("group_exhaustive", "whole_block"):
            assert (tmp_path / theirs.name).read_bytes() == theirs.read_bytes()
    for theirs in (CASES / case).glob("fsl_*_corrp_*.txt"):
        ours = np.loadtxt(tmp_path / theirs.name)
        np.testing.assert_allclose(ours, np.loadtxt(theirs), rtol=NULL_TOLERANCE)


def test_number_of_permutations(capsys):
    folder = CASES / "how_many"
    argv = shlex.split((folder / "command.txt").read_text())[1:]
    argv = [str(folder / a) if (folder / a).exists() else a for a in argv]
    assert main_randomise(argv) == 0
    assert "2.01802e+06 permutations required for exhaustive test of t-test 1" in capsys.readouterr().out


@pytest.mark.parametrize("case", [c for c in NAMES if c not in ("how_many",)])
def test_printed_lines(case, tmp_path, capsys):
    """The counts and critical values that FSL prints are printed too."""
    folder = CASES / case
    argv = run_case(case, tmp_path)
    capsys.readouterr()
    argv = [a for a in argv if a != "--quiet"]
    if case in EXHAUSTIVE:
        del argv[argv.index("--permutations") : argv.index("--permutations") + 2]
        assert main_randomise(argv) == 0
        ours = capsys.readouterr().out
        for line in (folder / "stdout.txt").read_text().splitlines():
            if "required" in line or line.startswith("Doing"):
                assert line.strip() in ours
