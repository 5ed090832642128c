"""FSL's own files: every one of the reference cases, repeated with FSL's permutations through the command.

Where gpuvox differs on purpose (the table of departures in ``docs/validation.md``), what it gives instead is tested at
the end, and all other files of such a case are compared like any.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import oracle
import pytest
from naive import naive_tfce

from gpuvox.cli import main_randomise

CASES = Path(__file__).parent / "data" / "fsl"
COUNTED = ("how_many", "how_many_effective")
"""Cases that count permutations and write nothing."""
REFUSED = {
    "nan_inside": ("data.nii.gz", "not finite in 1 of the 272 voxels", "volume 4"),
    "other_affine_mask": ("mask.nii.gz", "have different affines"),
    "zero_contrast": ("t-test 1", "the contrast is zero"),
}
"""Cases that FSL runs, and the words of our refusal."""
PENDING: tuple[str, ...] = ()
"""Cases that are not right yet; empty when they all are."""
NAMES = sorted(p.name for p in CASES.iterdir() if p.is_dir() and p.name not in (*COUNTED, *REFUSED, *PENDING))
DIFFERENT = {
    "binary_uncorrp": ("_vox_p_",),
    "edge_shell": ("_tfce_",),
    "one_sample_constant": ("_tstat", "_corrp_"),
    "one_sample_constant_negative": ("_tstat", "_corrp_"),
    "vxl_demean": ("_tstat", "_corrp_"),
}
"""Parts of the names of files that hold something else than FSL's."""
NULL_TOLERANCE = 1e-3
MAP_TOLERANCE = 1e-4


def run_case(
    case: str, out: Path, *, repeat: bool = True, extra: tuple[str, ...] = (), quiet: bool = True, status: int = 0
) -> list[str]:
    """Run the case's command with inputs from the case's folder and outputs in another."""
    folder = CASES / case
    argv = shlex.split((folder / "command.txt").read_text())[1:]
    for i, token in enumerate(argv):
        option, _, names = token.rpartition("=")
        if (folder / token).exists():
            argv[i] = str(folder / token)
        elif option in ("--vxf", "--effective_design"):
            argv[i] = f"{option}=" + ",".join(str(folder / name) for name in names.split(","))
    argv[argv.index("-o") + 1] = str(out / "fsl")
    if repeat:
        argv += ["--permutations", str(folder / "fsl")]
    argv += [*(["--quiet"] if quiet else []), *extra]
    assert main_randomise(argv) == status
    return argv


def compared(case: str, pattern: str) -> list[str]:
    """Files of a case that are to be FSL's."""
    found = sorted(p.name for p in (CASES / case).glob(pattern))
    return [name for name in found if not any(part in name for part in DIFFERENT.get(case, ()))]


@pytest.fixture(scope="session")
def outputs(tmp_path_factory):
    """Run each case once, with FSL's permutations."""
    done: dict[str, Path] = {}

    def get(case: str) -> Path:
        if case not in done:
            done[case] = tmp_path_factory.mktemp(case)
            run_case(case, done[case])
        return done[case]

    return get


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=np.float64)


def images(case: str) -> list[str]:
    return compared(case, "fsl*.nii.gz")


def is_p(name: str) -> bool:
    return "_corrp_" in name or "_p_" in name or name.startswith(("fslpstat", "fslpfstat"))


STATISTICS = [
    (case, name)
    for case in NAMES
    for name in images(case)
    if not is_p(name) and not name.startswith(("fslzstat", "fslzfstat"))
]
P_MAPS = [(case, name) for case in NAMES for name in images(case) if is_p(name)]
NULLS = [(case, name) for case in NAMES for name in compared(case, "fsl*.txt") if "perm" not in name]


@pytest.mark.parametrize("case", NAMES)
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
    if any(part in name for part in ("_clustere_p_", "_clusterm_p_", "_clustern_p_")):
        # FSL writes zeros; ours is the share of permutations whose cluster value is smaller.
        assert not theirs.any()
        assert ours.max() <= 1
        return
    n_voxels = _n_voxels(case)
    test = name.removesuffix(".nii.gz").split("_")[-1].replace("fslpstat", "tstat").replace("fslpfstat", "fstat")
    n_shuffles = _n_shuffles(case, test)
    different = np.abs(ours - theirs) > 0.5 / n_shuffles
    known = ties(case, name, outputs, test)
    if known is not None:
        assert not (different & ~known).any()
    assert different.sum() <= 0.005 * n_voxels
    assert np.abs(ours - theirs).max() <= 2.0 / n_shuffles + 1e-6


def _n_voxels(case: str) -> int:
    """Voxels in which FSL's statistic is not 0; all of them where it is rounding noise."""
    if case == "ter_braak":
        return int(read(CASES / case / "mask.nii.gz").sum())
    statistic = next(
        p for p in sorted(CASES.glob(f"{case}/fsl*stat*")) if p.name.startswith(("fsl_t", "fsl_f", "fslt"))
    )
    return int((read(statistic) != 0).sum())


def _n_shuffles(case: str, test: str) -> int:
    found = next(p for p in (CASES / case).glob(f"fsl*perm_{test}.txt"))
    return len(found.read_text().splitlines())


@pytest.mark.parametrize(("case", "name"), [("film_names", "zstat"), ("film_f", "zstat"), ("film_f", "zfstat")])
def test_film_z_is_the_quantile_of_the_uncorrected_value(case, name, outputs):
    for i in (1, 2):
        theirs, ours = (read(f / f"fsl{name}{i}.nii.gz") for f in (CASES / case, outputs(case)))
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


@pytest.mark.parametrize("case", COUNTED)
def test_number_of_permutations(case, tmp_path, capsys):
    run_case(case, tmp_path, repeat=False)
    said = capsys.readouterr().out.splitlines()
    theirs = [line for line in (CASES / case / "stdout.txt").read_text().splitlines() if "required" in line]
    assert [line for line in said if "required" in line] == theirs
    assert theirs


@pytest.mark.parametrize("case", NAMES)
def test_printed_counts(case, outputs, capsys):
    """Of distinct permutations or flips, and of those that are done."""
    argv = [a for a in run_case(case, outputs(case), repeat=False, extra=("-q",)) if a != "--quiet"]
    assert argv
    said = capsys.readouterr().out
    for line in (CASES / case / "stdout.txt").read_text().splitlines():
        if "required" in line:
            assert line.strip() in said


@pytest.mark.parametrize("case", EXHAUSTIVE)
def test_printed_lines(case, tmp_path, capsys):
    run_case(case, tmp_path, repeat=False, quiet=False)
    said = capsys.readouterr().out
    for line in (CASES / case / "stdout.txt").read_text().splitlines():
        if "required" in line or line.startswith("Doing"):
            assert line.strip() in said


@pytest.mark.parametrize(
    "case", [c for c in NAMES if list((CASES / c).glob("fsl*_perm_*.txt")) and c not in DIFFERENT]
)
def test_critical_values(case, outputs):
    """The values that FSL prints are those of the record."""
    record = json.loads((outputs(case) / "fsl_randomise.json").read_text())
    ours = {f"{kind}_{t['name']}": v for t in record["tests"] for kind, v in t["critical_values"].items()}
    said = re.findall(r"Critical Value for: fsl_?(\S+) is: (\S+)", (CASES / case / "stdout.txt").read_text())
    assert said
    for name, value in said:
        assert ours[name] == pytest.approx(float(value), rel=NULL_TOLERANCE)


# -- where gpuvox differs on purpose --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path, capsys):
    run_case(case, tmp_path, status=2)
    said = capsys.readouterr().err
    assert all(word in said for word in REFUSED[case])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("test", ["tstat1", "tstat2"])
def test_tfce_reaches_the_edge_of_the_image(test, outputs):
    """FSL leaves out the outermost shell; the step is a hundredth of the whole map's maximum for both."""
    statistic = read(CASES / "edge_shell" / f"fsl_{test}.nii.gz")
    theirs, ours = (read(f / f"fsl_tfce_{test}.nii.gz") for f in (CASES / "edge_shell", outputs("edge_shell")))
    core = np.zeros(statistic.shape, dtype=bool)
    core[1:-1, 1:-1, 1:-1] = True
    delta = statistic.max() / 100
    for found, expected in ((ours, statistic), (theirs, np.where(core, statistic, 0))):
        enhanced = naive_tfce(expected, delta)
        np.testing.assert_allclose(found, enhanced, rtol=NULL_TOLERANCE, atol=1e-4 * enhanced.max())


@pytest.mark.parametrize("test", ["tstat1", "tstat2"])
def test_uncorrected_p_counts_ties_as_ties(test, outputs):
    """FSL compares t values of 0/1 data that are equal but for rounding."""
    case = oracle.load_case(CASES / "binary_uncorrp")
    maps = oracle.case_maps(case, test, case.shuffles(test))
    maps = np.clip(maps, -1e6, 1e6)  # perfect separation: rounding over rounding
    below = (maps < maps[0] - 1e-6 * np.maximum(np.abs(maps[0]), 1)).mean(axis=0)
    varies = np.ptp(case.data, axis=0) > 0
    ours = oracle.flat(read(outputs("binary_uncorrp") / f"fsl_vox_p_{test}.nii.gz"), case.mask)
    np.testing.assert_allclose(ours[varies], below[varies], atol=1e-6)
    theirs = case.image("vox_p", test)
    assert (np.abs(theirs - below)[varies] > 0.1).any()


@pytest.mark.parametrize("test", ["tstat1", "tstat2"])
def test_demeaning_is_of_voxelwise_evs_too(test, outputs):
    case = oracle.load_case(CASES / "vxl_demean")
    expected = oracle.case_maps(case, test, case.shuffles(test))
    ours = oracle.flat(read(outputs("vxl_demean") / f"fsl_{test}.nii.gz"), case.mask)
    np.testing.assert_allclose(ours, expected[0], atol=MAP_TOLERANCE * np.abs(expected).max())
    null = np.loadtxt(outputs("vxl_demean") / f"fsl_vox_corrp_{test}.txt")
    np.testing.assert_allclose(null, expected.max(axis=1), rtol=NULL_TOLERANCE)


@pytest.mark.parametrize("case", ["one_sample_constant", "one_sample_constant_negative"])
def test_a_constant_voxel_is_zero_and_the_others_are_as_without_it(case, outputs):
    """In FSL its t is rounding over rounding, ±1e16, and if that is positive TFCE is 0 everywhere else."""
    found = oracle.load_case(CASES / case)
    still = np.ptp(found.data, axis=0) == 0  # one voxel is 0 in all
    constant = still & (found.data[0] != 0)
    assert (constant.sum(), still.sum()) == (1, 2)
    theirs, ours = (oracle.flat(read(f / "fsl_tstat1.nii.gz"), found.mask) for f in (CASES / case, outputs(case)))
    assert np.abs(theirs[constant]) > 1e10
    assert ours[constant] == 0
    np.testing.assert_allclose(ours[~constant], theirs[~constant], atol=MAP_TOLERANCE * np.abs(ours).max())
    shuffles = found.shuffles("tstat1")
    maps = np.where(still, 0, oracle.case_maps(found, "tstat1", shuffles))
    enhanced = oracle.case_tfce(found, "tstat1", maps)
    for kind, values in (("vox", maps), ("tfce", enhanced)):
        null = np.loadtxt(outputs(case) / f"fsl_{kind}_corrp_tstat1.txt")
        np.testing.assert_allclose(null, values.max(axis=1), rtol=NULL_TOLERANCE)
        p = oracle.flat(read(outputs(case) / f"fsl_{kind}_corrp_tstat1.nii.gz"), found.mask)
        expected = oracle.corrected(values[0], values.max(axis=1))
        assert np.abs(p - expected).max() <= 1.01 / len(shuffles)
        assert (np.abs(p - expected) > 1e-6).sum() <= 2
    tfce = oracle.flat(read(outputs(case) / "fsl_tfce_tstat1.nii.gz"), found.mask)
    np.testing.assert_allclose(tfce, enhanced[0], rtol=NULL_TOLERANCE, atol=1e-6 * tfce.max())
    if case == "one_sample_constant_negative":
        np.testing.assert_allclose(
            tfce, found.image("tfce", "tstat1"), rtol=NULL_TOLERANCE, atol=1e-3 * tfce.max()
        )
    else:
        assert found.image("tfce", "tstat1")[~constant].max() == 0 < tfce[~constant].max()


def test_flipped_mask_is_told(tmp_path, capsys):
    run_case("flipped_mask", tmp_path)
    said = capsys.readouterr().err
    assert "data.nii.gz has the voxels of the mask along exchanged or reversed axes; reoriented exactly" in said
    grid = nib.load(CASES / "flipped_mask" / "mask.nii.gz").affine
    np.testing.assert_array_equal(nib.load(tmp_path / "fsl_tstat1.nii.gz").affine, grid)


def test_nothing_is_pending():
    assert not PENDING
