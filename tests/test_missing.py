"""Missing data by voxel, held against a full refit of every voxel and shuffle."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import gpuvox
from gpuvox.cli import main
from gpuvox.errors import DesignError, InputError
from gpuvox.findings.values import adjusted_values, value_table
from gpuvox.grid import Grid
from gpuvox.missing import MissingGlm, patterns
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.signed_rows import rows_of, signs_of
from gpuvox.statistics import Statistics
from tests.cuda_on_cpu.shim import CXX, ShimDevice
from tests.palm import cases, naive
from tests.palm.cases import written

needs_compiler = pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")
N, V = 16, 24


def design(rng, n=N):
    group = np.arange(n) % 2
    return np.c_[group, 1 - group, rng.normal(size=(n, 2)) + group[:, None]]


def with_holes(rng, share=0.3, n=N, voxels=V):
    """Data, and where they are missing: at random; voxel 0 complete, 1 without one group, 2 with two subjects."""
    Y = (rng.normal(size=(n, voxels)) + 3).astype(np.float32)
    Y[rng.random((n, voxels)) < share] = np.nan
    Y[:, 0] = rng.normal(size=n)
    Y[::2, 1], Y[2:, 2] = np.nan, np.nan
    Y[:, 3], Y[4:8, 3] = 5, np.nan
    return Y


CONTRASTS = {
    "t of groups": ([[1, -1, 0, 0]], False),
    "t of a covariate": ([[0, 0, 1, 0]], False),
    "F": ([[1, -1, 0, 0], [0, 0, 0, 1]], True),
}


def refit(y, M, C, shuffle, demean, is_f, unknown=None):
    """Statistic, degrees of freedom and z of one voxel: the model is shuffled, rows without datum are dropped."""
    unknown = np.zeros(len(y), bool) if unknown is None else unknown
    here = ~np.isnan(y) & ~unknown
    stay = ~unknown[rows_of(shuffle)[here]]  # a row of the model that is not known drops the subject it comes to
    y, C = y[here].astype(float), np.asarray(C, float)
    if demean:
        M, C = np.c_[M, np.ones(len(M))], np.c_[C, np.zeros(len(C))]
    moved = (signs_of(shuffle)[:, None] * M[rows_of(shuffle)])[here][stay]
    M = M[here]
    null = np.linalg.svd(C)[2][len(C) :].T  # combinations of parameters that the contrast leaves free
    rank = np.linalg.matrix_rank
    if any(len(A) == rank(A) or rank(A) - rank(A @ null) < rank(C) for A in (M, moved)) or np.ptp(y) == 0:
        return 0.0, 0.0, 0.0
    y = (y - M @ null @ np.linalg.pinv(M @ null) @ y)[stay]
    b = np.linalg.pinv(moved) @ y
    df = len(y) - rank(moved)
    variance = np.sum((y - moved @ b) ** 2) / df
    covariance = C @ np.linalg.pinv(moved.T @ moved) @ C.T
    if is_f:
        f = (C @ b) @ np.linalg.inv(covariance) @ (C @ b) / len(C) / variance
        return f, df, naive.f_to_z(f, len(C), df)
    t = (C @ b)[0] / np.sqrt(variance * covariance[0, 0])
    return t, df, naive.t_to_z(t, df)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", CONTRASTS)
def test_every_voxel_and_shuffle_equals_a_full_refit(name, flip):
    C, is_f = CONTRASTS[name]
    for seed, demean in ((1, False), (2, True)):
        rng = np.random.default_rng(seed)
        M, Y = design(rng), with_holes(rng)
        if demean:
            M, C = M[:, 1:], np.asarray(C, float)[:, 1:]
        shuffler = Shuffler(M, Permutations(6, seed, flip=flip))
        model = MissingGlm(Y, partition(M, C, demean=demean, is_f=is_f), shuffler.invariant)
        shuffles = shuffler.shuffles(0, 6)
        theirs = np.array([[refit(y, M, C, s, demean, is_f) for y in Y.T] for s in shuffles])
        for shuffle, expected in zip(shuffles, theirs):
            raw = model.raw_maps(shuffle)
            left = model.estimable & (np.arange(V) != 3)  # a constant one
            np.testing.assert_array_equal(raw.df[left], expected[left, 1])
            np.testing.assert_allclose(raw.statistic, expected[:, 0], rtol=1e-8, atol=1e-9)
            np.testing.assert_allclose(raw.z, expected[:, 2], rtol=1e-6, atol=1e-6)
        maps = model.statistic_maps(shuffles)
        np.testing.assert_allclose(maps, theirs[:, :, 2], rtol=1e-5, atol=1e-6)
        number, voxel = np.arange(50) % 6, np.arange(50) % V
        np.testing.assert_array_equal(model.exact(shuffles, number, voxel).astype(np.float32), maps[number, voxel])
        np.testing.assert_array_equal(model.n_present, (~np.isnan(Y)).sum(axis=0))
        np.testing.assert_array_equal(model.dfs[left], theirs[0, left, 1])
        assert model.n_left_out == np.count_nonzero(~model.estimable) >= 1 + (not is_f and name == "t of groups")


@needs_compiler
@pytest.mark.parametrize("name", ["t of groups", "F"])
def test_rows_of_the_model_that_are_not_known_drop_the_subject_they_come_to(name):
    C, is_f = CONTRASTS[name]
    rng = np.random.default_rng(7)
    M, Y, unknown = design(rng), with_holes(rng, 0.2), np.isin(np.arange(N), (3, 8))
    shuffler = Shuffler(M, Permutations(9, 5))
    shuffles, maps = shuffler.shuffles(0, 9), []
    theirs = np.array([[refit(y, M, C, s, False, is_f, unknown)[2] for y in Y.T] for s in shuffles])
    for standing in (M, np.where(unknown[:, None], 0.3, M)):  # what stands in such rows takes no part
        model = MissingGlm(Y, partition(standing, C, is_f=is_f), shuffler.invariant, unknown=unknown)
        maps.append(model.statistic_maps(shuffles))
        np.testing.assert_allclose(maps[-1], theirs, rtol=1e-5, atol=1e-6)
    device = ShimDevice()
    np.testing.assert_array_equal(device.download(model.on(device).statistic_maps(shuffles)), maps[-1])


def test_complete_data_have_the_z_of_the_general_linear_model():
    rng = np.random.default_rng(3)
    M, Y = design(rng), rng.normal(size=(N, V)).astype(np.float32)
    shuffler = Shuffler(M, Permutations(6, 1))
    model = MissingGlm(Y, partition(M, [1, -1, 0, 0]), shuffler.invariant)
    assert len(model.patterns.present) == 1
    split = naive.partition(M, np.array([[1.0, -1, 0, 0]]))
    for shuffle in shuffler.shuffles(0, 6):
        theirs = naive.t_or_f(shuffle + 1, Y.astype(float), split, "Freedman-Lane", N - 4, True)
        np.testing.assert_allclose(model.exact_map(shuffle), theirs.z, rtol=1e-7, atol=1e-8)


def test_patterns_are_the_distinct_sets_of_subjects():
    present = np.random.default_rng(1).random((11, 300)) < 0.8
    found = patterns(present)
    np.testing.assert_array_equal(found.present[found.of_voxel].T, present)
    assert len(np.unique(found.present, axis=0)) == len(found.present)
    for p, (first, last) in enumerate(zip(found.starts, found.starts[1:])):
        assert (found.of_voxel[found.order[first:last]] == p).all()
        assert last > first


@needs_compiler
@pytest.mark.parametrize("flip", [False, True])
def test_a_device_gives_the_same_bits(flip):
    for C, is_f in CONTRASTS.values():
        rng = np.random.default_rng(4)
        M, Y = design(rng), with_holes(rng)
        shuffler = Shuffler(M, Permutations(33, 4, flip=flip))
        model, shuffles = MissingGlm(Y, partition(M, C, is_f=is_f), shuffler.invariant), shuffler.shuffles(0, 33)
        device = ShimDevice()
        twin, maps = model.on(device), model.statistic_maps(shuffles)
        np.testing.assert_array_equal(device.download(twin.statistic_maps(shuffles)), maps)
        number, voxel = np.arange(60) % 33, np.arange(60) % V
        np.testing.assert_array_equal(twin.exact(shuffles, number, voxel), model.exact(shuffles, number, voxel))
        np.testing.assert_array_equal(twin.exact_map(shuffles[3]), model.exact_map(shuffles[3]))
        device.limit = device.used + 60_000  # not for all sets of subjects at a time
        np.testing.assert_array_equal(device.download(twin.statistic_maps(shuffles)), maps)
        assert device.launched.count("missing_maps") > 2


def test_data_that_are_too_few_everywhere_are_refused():
    Y = np.full((N, 5), np.nan, dtype=np.float32)
    Y[:3] = 1
    with pytest.raises(DesignError, match="at no voxel are there enough data"):
        MissingGlm(Y, partition(design(np.random.default_rng(0)), [1, -1, 0, 0]), np.zeros((N, 0)))


def test_the_unpermuted_map_of_palm():
    case = cases.Case("missing_mcar")
    Y, mask = case.modalities[0]
    Y = np.where(cases.table(case.folder / "imiss.csv") != 0, np.nan, Y).astype(np.float32)
    for contrast in case.tests:
        M = np.c_[case.designs[0], np.ones(len(Y))]  # PALM adds an intercept
        model = MissingGlm(Y, partition(M, np.c_[contrast.weights, 0]), np.full((len(Y), 1), len(Y) ** -0.5))
        path = case.folder / f"palm_vox_tstat{case.suffix(contrast)}.nii.gz"
        theirs = written(path, mask)
        raw = model.raw_maps(np.arange(len(Y), dtype=np.int32))
        np.testing.assert_allclose(raw.statistic, theirs, rtol=1e-5)
        assert model.df == np.loadtxt(path.with_name(path.name.replace(".nii.gz", "_dof.txt")))[1]


# -- calibration ----------------------------------------------------------------------------------------------------


def rejections(missing, n_sets, seed, n=20, voxels=30, skewed=False):
    """How many of some data sets without effect have a corrected p of 5 % or less."""
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(n_sets):
        group = np.arange(n) < n // 2
        M = np.c_[group, ~group, rng.normal(size=n)].astype(float)
        noise = rng.exponential(size=(n, voxels)) if skewed else rng.normal(size=(n, voxels))
        Y = (noise + rng.normal(size=(n, 1))).astype(np.float32)
        Y[missing(rng, group, (n, voxels))] = np.nan
        shuffler = Shuffler(M @ [1, -1, 0], Permutations(100, int(rng.integers(2**60))))
        model = MissingGlm(Y, partition(M, [1, -1, 0]), shuffler.invariant)
        grid = Grid(np.ones((voxels, 1, 1), bool))
        observed = PermutationTest(model, grid, shuffler, Statistics(voxel=True), signs=1).observe()
        maxima = observed.run(0, shuffler.n).maxima["vox"][0]
        found += np.mean(maxima >= maxima[0] - 1e-6) <= 0.05
    return found


def at_random(rng, group, shape):
    """30 % of all data."""
    return rng.random(shape) < 0.3


def by_group(rng, group, shape):
    """40 % of the data of one group, of whole subjects in part of the volume."""
    return np.repeat(rng.random((shape[0], 3)) < 0.4 * group[:, None], shape[1] // 3, axis=1)


@pytest.mark.parametrize("missing", [at_random, by_group])
def test_the_rate_of_false_positives(missing):
    found = rejections(missing, 40, seed=1)
    assert stats.binom.cdf(found, 40, 0.05) > 1e-4
    assert stats.binom.sf(found - 1, 40, 0.05) > 1e-4


@pytest.mark.long
@pytest.mark.parametrize(
    ("missing", "skewed", "most"),
    [(at_random, False, 72), (at_random, True, 72), (by_group, False, 72), (by_group, True, 95)],
)
def test_the_rate_of_false_positives_of_many_data_sets(missing, skewed, most):
    """5 % of 1000, 3 to 7.2 % being three standard errors away.

    Where one group has fewer data, t of skewed noise is skewed, and shuffles, whose groups have equal shares of the
    data, have less of that: 7.4 % of 1000 were found for exponential noise.
    """
    assert 30 <= rejections(missing, 1000, seed=2, skewed=skewed) <= most


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort():
    """A table of two groups, and data with holes."""
    rng = np.random.default_rng(8)
    Y, group = with_holes(rng), np.array(["HC", "MS"])[np.arange(N) % 2]
    Y[:, 5:9] += 2 * (group == "MS")[:, None]
    table = pd.DataFrame({"participant_id": [f"sub-{i:02d}" for i in range(N)], "group": group})
    return table.assign(age=rng.normal(50, 9, N)), Y


def test_voxelwise_with_missing_data(cohort):
    table, Y = cohort
    with pytest.warns(UserWarning, match="at 2 of 24 voxels too few data are left"):
        result = gpuvox.voxelwise(
            Y, table, "group + age", ["MS - HC", "group"], missing="voxelwise", voxel=True, tfce=False,
            n_permutations=200, seed=1,
        )  # fmt: skip
    M = np.c_[np.ones(N), table["group"] == "MS", table["age"] - table["age"].mean()].astype(float)
    identity, maps = np.arange(N, dtype=np.int32), result.maps
    for name, kind, C in (("MS - HC", "t", [[0, 1, 0]]), ("group", "F", [[0, 1, 0]])):
        theirs = np.array([refit(y, M, C, identity, False, kind == "F") for y in Y.T])
        np.testing.assert_allclose(maps[name, kind], theirs[:, 0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(maps[name, "z"], theirs[:, 2], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(maps[name, "n"], (~np.isnan(Y)).sum(axis=0))
        varies = np.arange(V) != 3
        np.testing.assert_array_equal(maps[name, "dof"][varies], theirs[varies, 1])
    _, found = result.runs[0]
    shuffles = Shuffler(M[:, 1], Permutations(200, 1)).shuffles(0, 200)
    null = np.array([[refit(y, M, [[0, 1, 0]], s, False, False)[2] for y in Y.T] for s in shuffles[:30]]).max(
        axis=1
    )
    np.testing.assert_allclose(found.tests[0].nulls["vox"][:30], null, rtol=1e-5)
    here = ~np.isnan(Y[:, 5])
    b = np.linalg.pinv(M[here]) @ Y[here, 5]
    assert maps["MS - HC", "effect"][5] == pytest.approx(b[1], rel=1e-5)
    assert maps["MS - HC", "se"][5] == pytest.approx(b[1] / maps["MS - HC", "t"][5], rel=1e-4)
    assert not maps["MS - HC", "effect"][maps["MS - HC", "dof"] == 0].any()
    t, df = maps["MS - HC", "t"][5], maps["MS - HC", "dof"][5]
    assert maps["MS - HC", "partialr"][5] == pytest.approx(t / np.sqrt(t * t + df), rel=1e-5)


def test_what_missing_data_cannot_be_combined_with(cohort):
    table, Y = cohort
    with pytest.raises(InputError, match="not finite"):
        gpuvox.voxelwise(Y, table, "group", "MS - HC", voxel=True, tfce=False)
    with pytest.raises(DesignError, match="expected refuse, drop or voxelwise"):
        gpuvox.voxelwise(Y, table, "group", "MS - HC", missing="impute", voxel=True, tfce=False)
    with pytest.raises(DesignError, match="cannot be combined with variance smoothing"):
        gpuvox.voxelwise(
            Y, table, "group", "MS - HC", missing="voxelwise", voxel=True, tfce=False, variance_mm=3,
            mask=Grid(np.ones((V, 1, 1), bool)),
        )  # fmt: skip
    with pytest.raises(DesignError, match="cannot be combined with --voxelwise-covariate"):
        gpuvox.voxelwise(
            Y,
            table,
            "group",
            "MS - HC",
            missing="voxelwise",
            voxel=True,
            tfce=False,
            voxelwise_covariates={"gm": Y},
        )


def test_the_command_writes_what_it_tested_and_where_data_were(cohort, tmp_path, capsys):
    table, Y = cohort
    table.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    for name, row in zip(table["participant_id"], Y):
        nib.save(nib.Nifti1Image(row.reshape(4, 3, 2), np.eye(4)), tmp_path / f"{name}.nii")
    out = tmp_path / "out"
    main(
        ["voxelwise", f"{tmp_path}/participants.tsv", "--images", f"{tmp_path}/{{participant_id}}.nii", "--model",
         "group", "--test", "MS - HC", "-n", "50", "--seed", "2", "--missing", "voxelwise", "--cluster-z", "1.5",
         "--out", str(out), "--norcmask", "--no-report"]
    )  # fmt: skip
    said = capsys.readouterr()
    assert "a row leaves the model at voxels where its image is NaN" in said.out
    assert "too few data are left" in said.out + said.err

    def held(stat):
        return np.asanyarray(nib.load(out / f"contrast-MSMinusHC_stat-{stat}_statmap.nii.gz").dataobj).ravel()

    np.testing.assert_array_equal(held("n"), (~np.isnan(Y)).sum(axis=0))
    model = MissingGlm(Y, partition(np.c_[np.ones(N), table["group"] == "MS"], [0, 1]), np.full((N, 1), N**-0.5))
    raw = model.raw_maps(np.arange(N, dtype=np.int32))
    np.testing.assert_allclose(held("t"), raw.statistic, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(held("z"), raw.z, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(held("dof"), model.dfs)
    image = out / "contrast-MSMinusHC_stat-t_statmap"
    assert nib.load(f"{image}.nii.gz").header.get_intent()[0] == "none"
    assert (
        json.loads((out / f"{image.name}.json").read_text())["DegreesOfFreedom"] == "those of the voxel, stat-dof"
    )
    record = json.loads((out / "voxelwise.json").read_text())
    assert record["missing"] == "voxelwise"
    assert record["runs"][0]["statistics"]["t"]["extent"] == pytest.approx(
        1.5
    )  # of z, whatever the degrees of freedom


def test_values_of_clusters_are_those_of_participants_with_data():
    data = np.array([[1, 2, np.nan], [np.nan, np.nan, 5], [3, 4, 4], [5, 6, 6]])
    table = value_table(data, np.array([1, 1, 2], dtype=np.int32), 2, ["a", "b", "c", "d"])
    np.testing.assert_array_equal(table["mean"], [1.5, np.nan, 3.5, 5.5, np.nan, 5, 4, 6])
    assert np.isfinite(table["eigenvariate"]).all()
    weights, design = np.array([[1.0, -1]]), np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    shown = adjusted_values(table["mean"].to_numpy()[:4], design, ["A", "B"], weights)
    assert {name: list(values) for name, values in shown.values.items()} == {"A": [1.5], "B": [3.5, 5.5]}
    assert adjusted_values(np.array([np.nan, np.nan, 1, 2]), design, ["A", "B"], weights) is None
