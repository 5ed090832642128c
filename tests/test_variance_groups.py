"""v and G with variance groups against the naive formulas, PALM's files, Welch's t, and on a device."""

from __future__ import annotations

import json
from functools import cache
from itertools import permutations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

import gpuvox
from gpuvox.cli import main
from gpuvox.errors import DesignError, FileError, InputError
from gpuvox.executors import run
from gpuvox.findings.methods import paragraphs
from gpuvox.findings.runs import read_run
from gpuvox.findings.tested import ClusterOptions
from gpuvox.glm import Glm
from gpuvox.grid import Grid
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.scratch import as_tiles
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.signed_rows import from_one, rows_of
from gpuvox.statistics import Statistics
from gpuvox.tfce import Tfce
from gpuvox.variance_groups import VarianceGroupsGlm, group_labels, groups_of_orbits
from gpuvox.z_tables import tabulated_all, z_of_f, z_of_t, z_table
from tests.cuda_on_cpu.shim import CXX, ShimDevice
from tests.palm import cases, naive

N, V = 20, 70
GROUPS = np.array([0, 1, 2, 1, 2] * 4)
T_CONTRAST, F_CONTRAST = np.array([[1.0, -1, 0]]), np.array([[1.0, -1, 0], [0, 0, 1]])
needs_compiler = pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")


@cache
def study(seed=0):
    rng = np.random.default_rng(seed)
    group = np.arange(N) < 12
    M = np.c_[group, ~group, rng.normal(size=N)].astype(float)
    Y = rng.normal(size=(N, V)) * np.array([1, 2, 4])[GROUPS][:, None] + 10
    return Y.astype(np.float32), M


def shuffles_of(kind, n_shuffles, rng):
    """Signed row numbers from 1, as PALM writes them, and those from 0 of the model."""
    rows = np.array([rng.permutation(N) if kind != "flips" else np.arange(N) for _ in range(n_shuffles)])
    signs = rng.choice([-1, 1], rows.shape) if kind != "permutations" else np.ones_like(rows)
    rows[0], signs[0] = np.arange(N), 1
    numbers = signs * (rows + 1)
    return numbers, from_one(numbers)


def model_of(Y, M, C, groups, *, is_f=False, flips=False, **options):
    constant = np.zeros((len(M), 0)) if flips else np.full((len(M), 1), len(M) ** -0.5)
    return VarianceGroupsGlm(Y, partition(M, C, is_f=is_f), constant, groups, **options)


# -- against the formulas -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["permutations", "flips", "both"])
@pytest.mark.parametrize(
    ("C", "is_f", "palm_dof"),
    [(T_CONTRAST, False, False), (T_CONTRAST, False, True), (T_CONTRAST, True, False), (F_CONTRAST, True, False)],
)
def test_statistic_and_degrees_of_freedom_are_those_of_the_formulas(kind, C, is_f, palm_dof):
    Y, M = study()
    model = model_of(Y, M, C, GROUPS, is_f=is_f, flips=kind != "permutations", palm_dof=palm_dof)
    theirs, ours = shuffles_of(kind, 3, np.random.default_rng(5))
    maps = model.statistic_maps(ours)
    for p, shuffle, z in zip(theirs, ours, maps):
        naively = naive.v_or_g(p, Y.astype(float), naive.partition(M, C), GROUPS, not is_f, palm_dof)
        raw = model.raw_maps(shuffle)
        np.testing.assert_allclose(raw.statistic, naively.raw, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(raw.df, naively.df, rtol=1e-12)
        np.testing.assert_allclose(raw.z, naively.z, rtol=1e-8, atol=1e-8)
        np.testing.assert_array_equal(z, raw.z.astype(np.float32))
        least, most = model.degrees
        assert (least * (1 - 1e-12) <= raw.df).all()
        assert (raw.df <= most * (1 + 1e-12)).all()


@pytest.mark.parametrize("size", [2, 3])
def test_up_to_half_as_many_groups_as_rows(size):
    Y, M = study()
    groups, p = np.arange(N) // size, np.random.default_rng(0).permutation(N)
    for C, is_f in ((T_CONTRAST, False), (F_CONTRAST, True)):
        naively = naive.v_or_g(p + 1, Y.astype(float), naive.partition(M, C), groups, not is_f, third=False)
        raw = model_of(Y, M, C, groups, is_f=is_f).raw_maps(p.astype(np.int32))
        np.testing.assert_allclose(raw.statistic, naively.raw, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(raw.df, naively.df, rtol=1e-9)
        np.testing.assert_allclose(raw.z, naively.z, atol=3e-8)


def test_two_samples_are_those_of_welch():
    """Exactly: the unpermuted v, its degrees of freedom and its p, and so in every permutation of a small study."""
    rng = np.random.default_rng(1)
    is_first = np.arange(7) < 3
    Y = (rng.normal(size=(7, 5)) * np.where(is_first, 3, 1)[:, None]).astype(np.float32)
    M = np.c_[is_first, ~is_first].astype(float)
    model = model_of(Y, M, [[1, -1]], is_first)
    for p in [*permutations(range(7))][::131]:
        labels = is_first[list(p)]
        welch = stats.ttest_ind(Y[labels].astype(float), Y[~labels].astype(float), equal_var=False)
        raw = model.raw_maps(np.array(p, dtype=np.int32))
        np.testing.assert_allclose(raw.statistic, welch.statistic, rtol=1e-10)
        np.testing.assert_allclose(raw.df, welch.df, rtol=1e-10)
        np.testing.assert_allclose(2 * stats.norm.sf(np.abs(raw.z)), welch.pvalue, rtol=1e-6)


def test_several_samples_are_those_of_welch():
    """Welch 1951: the means of groups whose variances differ, as statsmodels and textbooks have it."""
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1, 2], [4, 6, 10])
    y = rng.normal(size=(20, 1)) * np.array([1, 2, 3])[labels][:, None]
    model = model_of(y.astype(np.float32), np.eye(3)[labels], [[1, -1, 0], [0, 1, -1]], labels, is_f=True)
    raw = model.raw_maps(np.arange(20, dtype=np.int32))
    samples = [y.astype(np.float32).astype(float)[labels == k, 0] for k in range(3)]
    n, mean, variance = (np.array([f(s) for s in samples]) for f in (len, np.mean, lambda s: np.var(s, ddof=1)))
    w = n / variance
    spread = ((1 - w / w.sum()) ** 2 / (n - 1)).sum()
    f = (w * (mean - (w * mean).sum() / w.sum()) ** 2).sum() / 2 / (1 + 2 / 8 * spread)
    np.testing.assert_allclose(raw.statistic, f, rtol=1e-6)
    np.testing.assert_allclose(raw.df, 8 / (3 * spread), rtol=1e-6)


def test_groups_of_equal_variance_and_one_group_are_near_t():
    """One group has t itself, and its degrees of freedom."""
    Y, M = study()
    design = partition(M, T_CONTRAST)
    shuffler = Shuffler(M @ T_CONTRAST.T, Permutations(5, 1))
    one = VarianceGroupsGlm(Y, design, shuffler.invariant, np.zeros(N))
    plain = Glm(Y, design, shuffler.invariant)
    for shuffle in shuffler.shuffles(0, 5):
        raw = one.raw_maps(shuffle)
        np.testing.assert_allclose(raw.statistic, plain.exact_map(shuffle), rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(raw.df, float(design.df))
        np.testing.assert_allclose(raw.z, z_of_t(raw.statistic, float(design.df)), rtol=1e-8)
    f = VarianceGroupsGlm(Y, partition(M, F_CONTRAST, is_f=True), shuffler.invariant, np.ones(N))
    expected = Glm(Y, f.model, shuffler.invariant).exact_map(shuffle)
    np.testing.assert_allclose(f.raw_maps(shuffle).statistic, expected, rtol=1e-10)


def test_demeaned_data_have_the_mean_as_a_nuisance_variable():
    Y, M = study()
    C = np.array([[0, 1.0]])
    demeaned = VarianceGroupsGlm(Y, partition(M[:, 1:], C, demean=True), np.full((N, 1), N**-0.5), GROUPS)
    explicit = model_of(Y, np.c_[M[:, 1:], np.ones(N)], [[0, 1.0, 0]], GROUPS)
    p = np.random.default_rng(0).permutation(N).astype(np.int32)
    for mine, theirs in zip(demeaned.raw_maps(p), explicit.raw_maps(p)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9)


# -- what PALM computed ---------------------------------------------------------------------------------------------


PALM_CASES = ["vg_file_v", "vg_file_g", "vg_auto_within", "vg_repeated_measures", "eb_multilevel_vg_auto"]


def written(case, name):
    path = case.folder / name
    if path.suffix == ".csv":
        return np.loadtxt(path)
    return np.asanyarray(cases.nib.load(path).dataobj).reshape(case.modalities[0][1].shape)[case.modalities[0][1]]


@pytest.mark.parametrize("name", PALM_CASES)
def test_palm(name):
    """The statistic, its degrees of freedom, the second permutation, and the maxima of z of all permutations."""
    case = cases.Case(name)
    Y = np.ascontiguousarray(case.modalities[0][0], dtype=np.float32)
    for test in case.tests:
        permuted = case.permutations(test)
        shuffles = from_one(permuted)
        orbit_groups = groups_of_orbits(invariant_of(shuffles))
        given = case.command.one("-vg")
        groups = orbit_groups if given == "auto" else cases.table(case.folder / given)[:, 0]
        design = partition(case.designs[test.design], test.weights, is_f=not test.is_t)
        model = VarianceGroupsGlm(Y, design, np.zeros((len(Y), 0)), groups, palm_dof=True)
        base, ending = f"palm_vox_{case.statistic_name(test)}", case.suffix(test)
        first, second = (model.raw_maps(shuffle) for shuffle in shuffles[:2])
        for mine, file in (
            (first.statistic, f"{base}{ending}.nii.gz"),
            (first.df, f"{base}{ending}_dof.nii.gz"),
            (second.statistic, f"{base}{ending}_perm000002.nii.gz"),
            (model.statistic_maps(shuffles).max(axis=1), f"{base}_max{ending}.csv"),
        ):
            np.testing.assert_allclose(mine, written(case, file), rtol=1e-5, err_msg=file)


def invariant_of(shuffles):
    return ImportedShuffler(rows_of(shuffles) + 1).invariant


# -- from v and G to z ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("least", "most"), [(0.05, 0.5), (0.5, 8), (8, 1000)])
def test_z_of_t_is_that_of_scipy_down_to_the_smallest_p(least, most):
    rng = np.random.default_rng(0)
    df = np.exp(rng.uniform(np.log(least), np.log(most), 4000))
    p = np.exp(rng.uniform(np.log(1e-16), np.log(0.4999), len(df)))
    t = stats.t.isf(p, df)
    t, df, p = (values[np.isfinite(t) & (t < 2.0**42)] for values in (t, df, p))
    z = tabulated_all(z_table(0, least, most), t, df) * t
    np.testing.assert_allclose(z, -special.ndtri(stats.t.sf(t, df)), rtol=1e-8)
    np.testing.assert_allclose(z, z_of_t(t, df), rtol=1e-8)
    np.testing.assert_array_equal(tabulated_all(z_table(0, least, most), 0 * t, df) * 0, 0)


@pytest.mark.parametrize(("rank", "least", "most"), [(1, 0.5, 2), (2, 4, 12), (5, 100, 300)])
def test_z_of_f_is_that_of_scipy_from_either_tail(rank, least, most):
    rng = np.random.default_rng(rank)
    df = rng.uniform(least, most, 4000)
    p = np.exp(rng.uniform(np.log(1e-16), np.log(0.5), len(df)))
    is_lower = rng.random(len(df)) < 0.5
    f = np.where(is_lower, stats.f.ppf(p, rank, df), stats.f.isf(p, rank, df))
    f, df, is_lower = (values[(f > 2.0**-40) & (f < 2.0**84)] for values in (f, df, is_lower))
    z = tabulated_all(z_table(rank, least, most), f, df)
    lower, upper = special.ndtri(stats.f.cdf(f, rank, df)), -special.ndtri(stats.f.sf(f, rank, df))
    np.testing.assert_allclose(z, np.where(is_lower, lower, upper), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(z, z_of_f(f, rank, df), rtol=1e-8, atol=1e-8)


def test_z_rises_with_t_to_the_largest():
    t = np.geomspace(1e-9, 1e15, 20000)
    z = tabulated_all(z_table(0, 3, 4), t, np.full(t.shape, 3.7)) * t
    assert (np.diff(z[t < 2.0**42]) > 0).all()
    assert np.isfinite(z).all()


# -- data that are not as expected ----------------------------------------------------------------------------------


def test_a_group_without_residuals_is_refused():
    Y, M = study()
    with pytest.raises(DesignError, match="the variance group of row 4 alone has no variance to be estimated"):
        model_of(Y, np.c_[M, np.arange(N) == 3], [[1.0, -1, 0, 0]], np.where(np.arange(N) == 3, 7, 1))
    alone = np.c_[M, np.eye(N)[:, 4:6]]
    with pytest.raises(DesignError, match="of rows 5, 6 has no variance"):
        model_of(Y, alone, [[1.0, -1, 0, 0, 0]], np.isin(np.arange(N), [4, 5]))


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (np.zeros(N - 1), "expected 20 numbers"),
        (np.full(N, 0.5), "not an integer"),
        (np.full(N, np.nan), "integer"),
    ],
)
def test_groups_that_are_none_are_refused(groups, says):
    with pytest.raises(InputError, match=says):
        group_labels(groups, N)


def test_constant_data_have_no_statistic_and_perfect_fits_are_finite_and_the_largest():
    Y, M = study()
    Y = Y.copy()
    Y[:, 3], Y[:, 40] = 0.0, 7.5
    Y[:, 5] = M[:, 0]  # fitted perfectly
    Y[:12, 8] = 2.0  # no variance in a sample
    for C, is_f in ((T_CONTRAST, False), (F_CONTRAST, True)):
        model = model_of(Y, M, C, M[:, 0], is_f=is_f)
        shuffles = np.array([np.arange(N), *(np.random.default_rng(k).permutation(N) for k in range(9))], np.int32)
        maps = model.statistic_maps(shuffles)
        assert np.isfinite(maps).all()
        assert not maps[:, [3, 40]].any()
        assert maps[0].argmax() == 5
        assert all(np.isfinite(model.raw_maps(shuffle)).all() for shuffle in shuffles)
    raw = model_of(Y, M[:, :2], T_CONTRAST[:, :2], M[:, 0]).raw_maps(np.arange(N, dtype=np.int32))
    y = Y[12:, 8].astype(float)
    np.testing.assert_allclose(raw.statistic[8], (2 - y.mean()) / np.sqrt(y.var(ddof=1) / 8), rtol=1e-6)
    np.testing.assert_allclose(raw.df[8], 7, rtol=1e-6)


def test_automatic_groups_are_what_permutations_exchange():
    blocks = np.array([1, 1, 1, 2, 2, 2])
    labels = np.arange(6.0)
    within = Shuffler(labels, Permutations(blocks=blocks)).invariant
    whole = Shuffler(labels, Permutations(blocks=blocks, whole_blocks=True)).invariant
    free = Shuffler(labels, Permutations()).invariant
    flips = Shuffler(labels, Permutations(flip=True)).invariant
    assert groups_of_orbits(within).tolist() == [0, 0, 0, 1, 1, 1]
    assert groups_of_orbits(whole).tolist() == [0, 1, 2, 0, 1, 2]
    assert groups_of_orbits(free).tolist() == groups_of_orbits(flips).tolist() == [0] * 6


# -- on a device, and in a run --------------------------------------------------------------------------------------


def assert_same_bits(model, device, shuffles, rng):
    there = model.on(device)
    maps = model.statistic_maps(shuffles)
    np.testing.assert_array_equal(maps, device.download(there.statistic_maps(shuffles)))
    for shuffle in shuffles[:3]:
        for mine, theirs in zip(model.raw_maps(shuffle), there.raw_maps(shuffle)):
            np.testing.assert_array_equal(mine, theirs)
    number, voxels = rng.integers(0, len(shuffles), 40), rng.integers(0, V, 40)
    exact = model.exact(shuffles, number, voxels)
    np.testing.assert_array_equal(exact, there.exact(shuffles, number, voxels))
    np.testing.assert_array_equal(exact.astype(np.float32), maps[number, voxels])
    return there


@needs_compiler
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("C", "is_f"), [(T_CONTRAST, False), (F_CONTRAST, True)])
def test_a_device_has_the_same_bits(C, is_f, threads):
    Y, M = study()
    Y, rng = Y.copy(), np.random.default_rng(4)
    Y[:, 3], Y[:, 5] = 1.0, M[:, 0]
    for groups in (GROUPS, np.arange(N) // 2):
        model = model_of(Y, M, C, groups, is_f=is_f)
        for kind in ("permutations", "both"):
            assert_same_bits(model, ShimDevice(max_threads=threads), shuffles_of(kind, 5, rng)[1], rng)
    table = model._table.polynomials.nbytes
    small = assert_same_bits(model, ShimDevice(limit=table + 60_000), shuffles_of("both", 5, rng)[1], rng)
    assert small._on_device._slabs.width < V


def test_bits_depend_neither_on_the_batch_nor_on_where_the_data_are(tmp_path):
    Y, M = study()
    shuffles = shuffles_of("both", 9, np.random.default_rng(4))[1]
    model = model_of(Y, M, T_CONTRAST, GROUPS)
    whole = model.statistic_maps(shuffles)
    np.testing.assert_array_equal(whole[4:7], model.statistic_maps(shuffles[4:7]))
    tiles = model_of(as_tiles(Y, str(tmp_path)), M, T_CONTRAST, GROUPS)
    assert tiles.streamed
    np.testing.assert_array_equal(whole, tiles.statistic_maps(shuffles))
    np.testing.assert_array_equal(model.exact_map(shuffles[2]), tiles.exact_map(shuffles[2]))


@needs_compiler
def test_a_run_with_every_statistic():
    Y, M = study()
    grid = Grid(np.ones((V, 1, 1), bool))
    shuffler = Shuffler(M @ T_CONTRAST.T, Permutations(40, 3))
    model = VarianceGroupsGlm(Y, partition(M, T_CONTRAST), shuffler.invariant, GROUPS)
    statistics = Statistics(True, Tfce(), uncorrected=True)
    results = [
        run(PermutationTest(each, grid, shuffler, statistics, 2), threads=1).tally
        for each in (model, model.on(ShimDevice()))
    ]
    z = model.statistic_maps(shuffler.shuffles(0, 40))
    observed = model.exact_map(np.arange(N, dtype=np.int32)).astype(np.float32)
    for tally in results:
        np.testing.assert_array_equal(tally.maxima["vox"], [z.max(axis=1), -z.min(axis=1)])
        np.testing.assert_array_equal(tally.below["vox"][0], (z < observed).sum(axis=0))
    for name, values in results[0].maxima.items():
        np.testing.assert_array_equal(values, results[1].maxima[name])


# -- what users call ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort():
    """A table of two groups whose variances differ, and data."""
    rng = np.random.default_rng(8)
    group = np.array(["HC", "MS"])[(np.arange(N) % 4 == 0).astype(int)]
    Y = (rng.normal(size=(N, V)) * np.where(group == "MS", 4, 1)[:, None] + 3 * (group == "MS")[:, None]).astype(
        "f4"
    )
    table = pd.DataFrame({"participant_id": [f"sub-{i:02d}" for i in range(N)], "group": group})
    return table.assign(age=rng.normal(50, 9, N)), Y


def test_voxelwise_with_variance_groups(cohort):
    table, Y = cohort
    result = gpuvox.voxelwise(
        Y, table, "group", ["MS - HC", "group"], variance_groups="group", voxel=True, tfce=False, n_permutations=200,
        seed=1,
    )  # fmt: skip
    is_ms, maps = (table["group"] == "MS").to_numpy(), result.maps
    welch = stats.ttest_ind(Y[is_ms].astype(float), Y[~is_ms].astype(float), equal_var=False)
    np.testing.assert_allclose(maps["MS - HC", "t"], welch.statistic, rtol=1e-5)
    np.testing.assert_allclose(maps["MS - HC", "dof"], welch.df, rtol=1e-5)
    np.testing.assert_allclose(maps["MS - HC", "z"], z_of_t(welch.statistic, welch.df), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(maps["group", "F"], welch.statistic**2, rtol=1e-5)
    effect = Y[is_ms].astype(float).mean(axis=0) - Y[~is_ms].astype(float).mean(axis=0)
    np.testing.assert_allclose(maps["MS - HC", "effect"], effect, rtol=1e-4, atol=1e-5)
    se = np.sqrt(Y[is_ms].astype(float).var(axis=0, ddof=1) / 5 + Y[~is_ms].astype(float).var(axis=0, ddof=1) / 15)
    np.testing.assert_allclose(maps["MS - HC", "se"], se, rtol=1e-4)
    of_t = result.runs[0][1].tests[0]
    np.testing.assert_allclose(of_t.nulls["vox"][0], maps["MS - HC", "z"].max(), rtol=1e-6)
    assert of_t.records["variance_groups"] == 2
    assert "df by voxel" in str(result)
    assert "variances: 2 groups of 5 to 15 rows" in "\n".join(result.analysis.lines())


def test_groups_from_python_and_automatic_ones(cohort):
    table, Y = cohort
    is_ms = (table["group"] == "MS").to_numpy()
    M, C = np.c_[is_ms, ~is_ms].astype(float), [[1.0, -1]]
    settings = {"n_permutations": 20, "seed": 1}
    result = gpuvox.randomise(Y, M, C, variance_groups=is_ms.astype(int), **settings)
    welch = stats.ttest_ind(Y[is_ms].astype(float), Y[~is_ms].astype(float), equal_var=False)
    np.testing.assert_allclose(result.maps["tstat1", "t"], welch.statistic, rtol=1e-5)
    blocks = np.arange(N) // 10 + 1
    automatic, given = (
        gpuvox.randomise(Y, M, C, blocks=blocks, variance_groups=each, **settings) for each in ("auto", blocks)
    )
    np.testing.assert_array_equal(automatic.maps["tstat1", "t"], given.maps["tstat1", "t"])
    alone = gpuvox.randomise(Y, M, C, variance_groups="auto", **settings)
    np.testing.assert_allclose(
        alone.maps["tstat1", "t"], gpuvox.randomise(Y, M, C, **settings).maps["tstat1", "t"], rtol=1e-5
    )


def test_what_variance_groups_cannot_be(cohort):
    table, Y = cohort
    some = {"voxel": True, "tfce": False, "n_permutations": 5}
    with pytest.raises(FileError, match="no column 'site'"):
        gpuvox.voxelwise(Y, table, "group", "MS - HC", variance_groups="site", **some)
    with pytest.raises(DesignError, match="of row 1 alone has no variance to be estimated"):
        gpuvox.voxelwise(
            Y, table.assign(one=["a"] + ["b"] * (N - 1)), "group + one", "MS - HC", variance_groups="one", **some
        )
    with pytest.raises(DesignError, match="there are 20 variance groups of 20 rows"):
        gpuvox.voxelwise(Y, table, "group", "MS - HC", variance_groups="participant_id", **some)
    with pytest.raises(InputError, match="'some'; a number for each row, or 'auto', is expected"):
        gpuvox.randomise(Y, np.ones((N, 1)), [[1.0]], variance_groups="some")
    with pytest.raises(InputError, match="expected 20 numbers"):
        gpuvox.randomise(Y, np.ones((N, 1)), [[1.0]], variance_groups=[1, 2])
    with pytest.raises(DesignError, match="variance groups cannot be combined with data that are missing"):
        gpuvox.voxelwise(Y, table, "group", "MS - HC", variance_groups="group", missing="voxelwise", **some)


def test_the_command_writes_v_and_z(cohort, tmp_path, capsys):
    table, Y = cohort
    table.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    for name, row in zip(table["participant_id"], Y):
        nib.save(nib.Nifti1Image(row.reshape(7, 5, 2), np.eye(4)), tmp_path / f"{name}.nii")
    out = tmp_path / "out"
    command = [
        "voxelwise", f"{tmp_path}/participants.tsv", "--images", f"{tmp_path}/{{participant_id}}.nii", "--model",
        "group + age", "--test", "MS - HC", "--test", "group", "-n", "20", "--seed", "2", "--variance-groups", "group",
        "--cluster-z", "1.5", "--voxel", "--out", str(out), "--no-report",
    ]  # fmt: skip
    main(command)
    assert "v or G by their degrees of freedom" in capsys.readouterr().out
    record = json.loads((out / "voxelwise.json").read_text())
    assert record["variance_groups"] == [5, 15]
    text = " ".join(paragraphs(read_run(out), ClusterOptions()))
    assert "“MS - HC” is a one-sided v test, which tests whether the mean of MS is larger" in text
    assert "“group” is a G test, which" in text
    assert "those of neighbouring voxels with z > 1.5." in text
    about = json.loads((out / "contrast-MSMinusHC_stat-se_statmap.json").read_text())
    assert about["Computation"] == "|contrast estimate| / |statistic|"
    for kind, test in (("t", "MSMinusHC"), ("F", "group")):
        names = [f"contrast-{test}_stat-{each}_statmap.nii.gz" for each in (kind, "z", "dof")]
        statistic, z, df = (np.asanyarray(nib.load(out / name).dataobj).astype(float) for name in names)
        expected = z_of_t(statistic, df) if kind == "t" else z_of_f(statistic, 1, df)
        np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
        assert nib.load(out / names[0]).header.get_intent()[0] == "none"
        about = json.loads((out / names[0].replace("nii.gz", "json")).read_text())
        assert about["DegreesOfFreedom"] == "those of the voxel, stat-dof"
    main([*command, "--plan"])


# -- false positives ------------------------------------------------------------------------------------------------


def rates_of_t_and_v(larger_in_the_small_group, data_sets, seed, two_sided, n_permutations=400):
    """Shares of data sets, each a voxel, with p ≤ .05: of t and of v, from their permutation distributions."""
    rng = np.random.default_rng(seed)
    is_small = np.arange(40) < 10
    variance = np.where(is_small == larger_in_the_small_group, 4.0, 1.0)
    Y = (rng.normal(size=(40, data_sets)) * np.sqrt(variance)[:, None]).astype(np.float32)
    M, C = np.c_[is_small, ~is_small].astype(float), np.array([[1.0, -1]])
    shuffler = Shuffler(M @ C.T, Permutations(n_permutations, seed))
    grid = Grid(np.ones((data_sets, 1, 1), bool))
    statistics, rates = Statistics(uncorrected=True, two_sided=two_sided), []
    for model in (
        Glm(Y, partition(M, C), shuffler.invariant),
        VarianceGroupsGlm(Y, partition(M, C), shuffler.invariant, is_small),
    ):
        done = run(PermutationTest(model, grid, shuffler, statistics, 1 + two_sided), threads=1)
        rates.append((1 - done.tally.below["vox"][0] / shuffler.n <= 0.05 + 1e-9).mean())
    return rates


@pytest.mark.parametrize("larger_in_the_small_group", [True, False])
def test_v_keeps_the_level_where_t_does_not(larger_in_the_small_group):
    """30 and 10 observations, a ratio of variances of 4: t rejects too often or too rarely, v as often as it says."""
    t, v = rates_of_t_and_v(larger_in_the_small_group, 2000, 0, two_sided=True)
    low, high = stats.binom.ppf([0.005, 0.995], 2000, 0.05) / 2000
    assert t > 0.13 if larger_in_the_small_group else t < 0.02
    assert low <= v <= high


@pytest.mark.long
@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("larger_in_the_small_group", [True, False])
def test_v_keeps_the_level_in_many_data_sets(larger_in_the_small_group, two_sided):
    """Data sets of a seed share their permutations, so that there must be many seeds.

    One-sided tests are less accurate: where the group with the larger variance has the larger mean by chance, the data
    as a whole are skewed, and so are their permutations, to the other side.
    """
    rates = np.array([rates_of_t_and_v(larger_in_the_small_group, 1000, seed, two_sided) for seed in range(100)])
    t, v = rates.mean(axis=0)
    print(
        f"\nlarger in the {'small' if larger_in_the_small_group else 'large'} group, {1 + two_sided}-sided: {t} {v}"
    )
    assert t > 0.1 if larger_in_the_small_group else t < 0.02
    assert abs(v - 0.05) < (0.004 if two_sided else 0.018)
