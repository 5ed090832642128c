"""Whole tests of data that give enormous statistics, or none: lesions and scores in small groups, constant voxels."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import oracle
import pytest
from conftest import save, vest

from gpuvox.analysis import Inputs, Options, analyse, prepare
from gpuvox.cli import main_randomise
from gpuvox.executors import run
from gpuvox.glm import Glm
from gpuvox.grid import Grid
from gpuvox.heights import LINEAR
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.smooth import MaskedGaussian
from gpuvox.statistics import Statistics
from gpuvox.tfce import Tfce
from tests.cuda_on_cpu.shim import CXX, ShimDevice
from tests.selection import few

SHAPE = (5, 4, 3)
ALONE = 31
"""A voxel that one permutation separates perfectly, so that its t is 2e7 there."""


def lesions(n=10, device=None, seed=0, separated=False, smoother=None, **wanted):
    """0/1 maps of two groups of five; ALONE is 1 in half of all; it and the next in all patients if `separated`."""
    rng = np.random.default_rng(seed)
    group = np.repeat([1.0, 0.0], n // 2)
    Y = (rng.random((n, 60)) < 0.4).astype(np.float32)
    Y[:, ALONE] = group if separated else np.roll(group, 2)
    if separated:
        Y[:, ALONE + 1] = group
    grid = Grid(np.ones(SHAPE, bool))
    shuffler = Shuffler(group[:, None], Permutations(0))
    model = Glm(
        Y, partition(np.c_[group, 1 - group], [1, -1]), shuffler.invariant, device=device, smoother=smoother
    )
    wanted = {"tfce": Tfce(), "uncorrected": True} | wanted
    return PermutationTest(model, grid, shuffler, Statistics(**wanted), signs=2), Y


def same(one, other):
    for name in ("maxima", "below", "total", "nonzero"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.keys() == theirs.keys()
        for kind in mine:
            np.testing.assert_array_equal(mine[kind], theirs[kind], err_msg=f"{name} {kind}")


def test_permutations_that_separate_the_groups_finish_and_count_right():
    """Each of the 252 permutations by the naive sum, but for the voxels that are far above all steps."""
    test, _ = lesions(extent=2.0, mass=2.0)
    finished = run(test, threads=1)
    tally, observed = finished.tally, finished.observed
    assert observed.test.level_cap <= 4096
    deltas = observed.statistics["tfce"].enhancer.deltas
    maps = test.model.statistic_maps(test.shuffler.shuffles(0, tally.n)).astype(np.float64)
    huge = np.abs(maps) > 1e6
    assert 2 <= huge.any(axis=1).sum() < 100
    scores = np.zeros((2, *maps.shape))
    for b, t in enumerate(maps):
        for row, sign in enumerate((1, -1)):
            # A voxel above all others adds to no other one but by its presence.
            lowered = np.minimum(sign * t, 1.01 * np.abs(maps[~huge]).max())
            scores[row, b] = oracle.tfce(lowered, test.grid.mask, np.float32(deltas[row]))
            scores[row, b, sign * t > 1e6] = np.inf
    for row, sign in enumerate((1, -1)):
        ours = observed.statistics["tfce"].in_units(tally.maxima["tfce"][row], row)
        assert np.isfinite(ours).all()
        enormous = (sign * maps > 1e6).any(axis=1)
        assert (ours[enormous] > 1e15).all()
        np.testing.assert_allclose(ours[~enormous], scores[row, ~enormous].max(axis=1), rtol=1e-4)
        target = scores[row, 0]
        tied = np.abs(scores[row] - target) <= 1e-4 * np.maximum(target, 1)
        certain = (scores[row] < target) & ~tied
        np.testing.assert_array_equal(tally.below["tfce"][row], certain.sum(axis=0))
        p = np.searchsorted(np.sort(tally.maxima["tfce"][row]), np.maximum(sign * observed.observed["tfce"][0], 0))
        expected = (scores[row].max(axis=1)[None] < (1 - 1e-5) * target[:, None]).sum(axis=1)
        np.testing.assert_array_equal(p, expected)
    assert tally.maxima["clusterm"].max() > 1e6
    assert np.isfinite(tally.maxima["clusterm"]).all()


def test_enormous_observed_values_keep_their_order():
    """A step that is given, and a voxel of the unshuffled map that is 2e7: the largest of all maxima, but for ties."""
    test, _ = lesions(separated=True, tfce=Tfce(delta=0.1))
    finished = run(test, threads=1)
    score, null = finished.observed.observed["tfce"][0, ALONE], finished.tally.maxima["tfce"][0]
    assert score > LINEAR
    assert score == score.__class__(null[0])
    worth = finished.observed.statistics["tfce"].in_units(null, 0)
    level = finished.observed.statistic[ALONE] / 0.1
    assert worth[0] == pytest.approx(
        2**0.5 * 0.1**2 * float(level) ** 3 / 3, rel=0.5
    )  # the sums in float32 take longer steps
    np.testing.assert_array_equal(np.argsort(null, kind="stable"), np.argsort(worth, kind="stable"))
    assert len(np.unique(worth[null > LINEAR])) >= 2
    assert finished.tally.below["tfce"][0, ALONE] == (finished.tally.n - 1)


def test_the_cap_is_bounded_and_starts_nothing_again():
    test, _ = lesions(tfce=Tfce(delta=0.1))
    finished = run(test, threads=1)
    assert finished.observed.test.level_cap == 512
    higher = run(replace(test, level_cap=2048), threads=1)
    for row in range(2):
        ours, theirs = (
            f.observed.statistics["tfce"].in_units(f.tally.maxima["tfce"][row], row) for f in (finished, higher)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_array_equal(finished.tally.below["tfce"], higher.tally.below["tfce"])


@pytest.mark.parametrize("two_pass", [False, True])
@pytest.mark.parametrize(
    "tfce", few([Tfce(), Tfce(exact=True), Tfce(delta=0.05), Tfce(connectivity=26, delta="robust")], 2)
)
def test_the_bits_do_not_depend_on_threads_or_device(tfce, two_pass):
    one = run(lesions(tfce=tfce, two_pass=two_pass, extent=2.0)[0], threads=1)
    others = [run(lesions(tfce=tfce, two_pass=two_pass, extent=2.0)[0], threads=3)]
    if CXX is not None:
        others.append(run(lesions(tfce=tfce, two_pass=two_pass, extent=2.0, device=ShimDevice())[0]))
    for other in others:
        same(one.tally, other.tally)
        if two_pass:
            same(one.second_tally, other.second_tally)
    values = [*one.tally.maxima.values(), *(one.second_tally.maxima.values() if two_pass else ())]
    assert all(np.isfinite(v).all() and (v >= 0).all() for v in values)


def test_local_means_of_the_exact_integral_beside_enormous_values():
    """Low voxels keep the digits of their sums, and shuffles in which t is 0 do not count, rounding or not."""
    test, Y = lesions(tfce=Tfce(exact=True), two_pass=True, separated=True)
    done = run(test, threads=1)
    group = np.repeat([1.0, 0.0], 5)
    shuffles = test.shuffler.shuffles(0, test.shuffler.n) + 1
    t = oracle.statistic_maps(Y, np.c_[group, 1 - group], np.array([[1.0, -1]]), shuffles)
    t[(np.abs(t) < 1e-9) | (np.ptp(Y, axis=0) == 0)] = 0
    t = np.clip(t, -(8**0.5) * 1e7, 8**0.5 * 1e7)
    values = np.maximum(done.observed.statistics["tfce"].enhancer.enhance(t.astype(np.float32)), 0)
    _, samples, mean = oracle.local_mean(values, floor=True)
    np.testing.assert_array_equal(done.tally.nonzero["tfce"][0], samples)
    np.testing.assert_allclose(done.second.local_means["tfce"][0], mean, rtol=1e-4)
    assert mean.max() > 1e9 * mean.min() > 0


def test_variance_smoothing_of_perfect_fits_is_finite():
    grid = Grid(np.ones(SHAPE, bool))
    finished = run(lesions(smoother=MaskedGaussian(grid, 1.0), extent=2.0, mass=2.0)[0], threads=1)
    assert all(np.isfinite(v).all() for v in finished.tally.maxima.values())
    assert finished.tally.maxima["vox"].max() < 1e3


# -- the command ----------------------------------------------------------------------------------------------------


def volumes(rng, n=12):
    data = rng.normal(size=(8, 7, 6, n)) + 0.2
    data[2:5, 2:5, 1:4] += 1.0
    return data.astype(np.float32)


@pytest.mark.parametrize("value", [1.0, -3.7])
@pytest.mark.parametrize("options", [[], ["-v", "4"], ["--uncorrp", "-c", "2.0", "-C", "2.0", "--twopass"]])
def test_a_constant_voxel_changes_nothing_in_a_one_sample_test(value, options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    import nibabel as nib

    data = volumes(np.random.default_rng(0))
    save(tmp_path / "mask.nii.gz", np.ones(data.shape[:3]))
    for name, there in (("zero", 0.0), ("constant", value)):
        data[7, 6, 5] = there
        save(tmp_path / f"{name}.nii.gz", data)
        command = ["-i", name, "-o", f"o_{name}", "-m", "mask", "-1", "-n", "100", "-T", "-x", "-N", "--seed", "1"]
        assert main_randomise([*command, "--quiet", *options]) == 0
    assert "1 of the 336 voxels of the mask do not vary" in capsys.readouterr().err
    written = sorted(p.name[7:] for p in tmp_path.glob("o_zero_*") if p.suffix != ".json")
    assert len(written) >= 5
    for name in written:
        paths = [tmp_path / f"{root}_{name}" for root in ("o_zero", "o_constant")]
        if name.endswith(".txt"):
            assert paths[0].read_text() == paths[1].read_text(), name
        else:
            one, other = (np.asarray(nib.load(path).dataobj) for path in paths)
            np.testing.assert_array_equal(one, other, err_msg=name)
            if "stat1" in name and "norm" not in name:
                assert other[7, 6, 5] == 0 or "_p_" in name


def two_group_lesions(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.random((10, 9, 6, 20)) < 0.2
    data[2:5, 2:5, 2:5, :10] |= rng.random((3, 3, 3, 10)) < 0.65
    data[8, 7, 5] = np.arange(20) < 10
    save(tmp_path / "lesions.nii.gz", data)
    save(tmp_path / "mask.nii.gz", np.ones(data.shape[:3]))
    group = np.arange(20) < 10
    vest(tmp_path / "d.mat", np.c_[group, ~group])
    vest(tmp_path / "d.con", [[1, -1]])
    return [
        "-i",
        "lesions",
        "-m",
        "mask",
        "-d",
        "d.mat",
        "-t",
        "d.con",
        "-n",
        "200",
        "-T",
        "--seed",
        "1",
        "--quiet",
    ]


def test_a_voxel_that_makes_the_step_too_coarse_is_told_with_the_way_out(tmp_path, monkeypatch, capsys):
    import nibabel as nib

    monkeypatch.chdir(tmp_path)
    command = two_group_lesions(tmp_path)
    found, said, records = {}, {}, {}
    for name, more in {"fsl": [], "robust": ["--tfce_D", "robust"], "exact": ["--tfce-exact"]}.items():
        assert main_randomise([*command, "-o", name, *more]) == 0
        p = np.asarray(nib.load(f"{name}_tfce_corrp_tstat1.nii.gz").dataobj)
        found[name], said[name] = int((p[2:5, 2:5, 2:5] > 0.95).sum()), capsys.readouterr().err
        records[name] = json.loads((tmp_path / f"{name}_randomise.json").read_text())
    t = np.asarray(nib.load("fsl_tstat1.nii.gz").dataobj)
    lost = int(((t > 0.5) & (t <= t.max() / 100)).sum())
    assert found["fsl"] == 0
    assert found["robust"] > 3
    assert found["exact"] > 3
    for words in (f"{t.max():.6g}", "voxel (8, 7, 5)", f"0 in {lost} voxels", "--tfce_D robust", "--tfce-exact"):
        assert words in said["fsl"]
    assert "step" not in said["robust"] + said["exact"]
    (test,) = records["robust"]["tests"]
    assert test["tfce_step"] == 0.5
    assert records["robust"]["statistics"]["t"]["tfce"]["delta"] == "robust"
    assert records["fsl"]["tests"][0]["tfce_step"] == pytest.approx(t.max() / 100)
    assert "tfce_step" not in records["exact"]["tests"][0]


def test_an_ordinary_map_has_no_warning_and_one_step_by_both_rules():
    rng = np.random.default_rng(2)
    data = volumes(rng)
    flat = np.ascontiguousarray(data.reshape(-1, 12, order="F").T)
    for design, contrasts, f_tests in (
        (np.ones((12, 1)), [[1.0]], np.zeros((0, 1))),
        (np.c_[np.ones(12), rng.normal(size=12)], [[1.0, 0], [0, 1]], [[1, 1]]),
    ):
        inputs = Inputs(
            flat, Grid(np.ones(data.shape[:3], bool)), design, np.array(contrasts), np.asarray(f_tests, float)
        )
        steps = []
        for delta in (None, "robust"):
            wanted = Statistics(tfce=Tfce(delta=delta))
            results = list(analyse(prepare(inputs, Options(wanted, wanted, n_permutations=20, seed=1, threads=1))))
            assert not any("coarse" in w or "step of TFCE" in w for r in results for w in r.warnings)
            steps.append([r.records["tfce_step"] for r in results])
        assert steps[0] == steps[1]
        assert all(step > 0 for step in steps[0])


def test_the_warning_is_pythons_too():
    import gpuvox

    rng = np.random.default_rng(0)
    group = np.repeat([1.0, 0.0], 6)
    data = rng.normal(size=(5, 4, 3, 12)).astype(np.float32)
    data[4, 3, 2] = group
    given = {"mask": np.ones((5, 4, 3)), "n_permutations": 20, "seed": 1, "device": "cpu"}
    design = np.c_[group, 1 - group]
    with pytest.warns(UserWarning, match=r"at voxel \(4, 3, 2\), and the step of TFCE"):
        fsl = gpuvox.randomise(data, design, [[1, -1]], tfce=True, **given)
    robust = gpuvox.randomise(data, design, [[1, -1]], tfce=Tfce(delta="robust"), **given)
    assert np.count_nonzero(fsl["tfce_tstat1"]) == 1
    assert np.count_nonzero(robust["tfce_tstat1"]) > 10


def test_shards_and_checkpoints_of_lesions_merge_to_the_whole_run(tmp_path, monkeypatch, capsys):
    from gpuvox.cli import main

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    save(tmp_path / "lesions.nii.gz", rng.random((6, 6, 5, 12)) < 0.4)
    save(tmp_path / "mask.nii.gz", np.ones((6, 6, 5)))
    group = np.arange(12) < 6
    vest(tmp_path / "d.mat", np.c_[group, ~group])
    vest(tmp_path / "d.con", [[1, -1], [-1, 1]])
    command = ["-i", "lesions", "-m", "mask", "-d", "d.mat", "-t", "d.con", "-n", "600", "-T", "-N", "--seed", "1"]
    assert main_randomise([*command, "-o", "whole", "--uncorrp", "--quiet"]) == 0
    null = np.loadtxt("whole_tfce_corrp_tstat1.txt")
    assert null.max() > 1e15 > np.median(null)
    for i in (1, 2, 3):
        assert main_randomise([*command, "-o", "parts", "--uncorrp", "--quiet", "--shard", f"{i}/3"]) == 0
    assert main(["merge", *(f"parts_shard{i}of3.tally" for i in (1, 2, 3)), "--quiet"]) == 0
    for path in sorted(tmp_path.glob("whole_*.txt")):
        assert path.read_text() == (tmp_path / path.name.replace("whole", "parts")).read_text()
