"""Linear models over shuffles, held against the textbook: every shuffle's data refitted in full (oracle.py)."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import ndtri_exp

from gpuvox.errors import DesignError
from gpuvox.f_to_z import f_to_z, f_to_z_exact
from gpuvox.glm import Glm, Nuisance
from gpuvox.grid import Grid
from gpuvox.partitioning import partition
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.signed_rows import to_one
from gpuvox.smooth import MaskedGaussian
from gpuvox.voxelwise_evs import VoxelwiseGlm

FEW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def close(ours, theirs, tolerance=1e-4):
    """Within float32 by default; `exact` is held to 1e-9."""
    return np.abs(ours - theirs) <= tolerance * np.maximum(1, np.abs(theirs))


DESIGNS = {
    "two groups, covariate": lambda rng, n: (two_groups(rng, n), [[1, -1, 0]]),
    "dummy coding, rank deficient": lambda rng, n: (
        np.c_[np.ones(n), two_groups(rng, n)],
        [[0, 1, -1, 0]],
    ),
    "covariate of interest": lambda rng, n: (np.c_[np.ones(n), rng.normal(size=(n, 2))], [[0, 1, 0]]),
    "no nuisance": lambda rng, n: (rng.normal(size=(n, 1)), [[1]]),
    "F of three groups": lambda rng, n: (three_groups(rng, n), [[1, -1, 0, 0], [0, 1, -1, 0]]),
    "F, dependent rows": lambda rng, n: (
        three_groups(rng, n),
        [[1, -1, 0, 0], [0, 1, -1, 0], [1, 0, -1, 0]],
    ),
    "slopes": lambda rng, n: (slopes(rng, n), [[0, 0, 1, -1]]),
}


def two_groups(rng, n):
    group = np.arange(n) < n // 2
    return np.c_[group, ~group, rng.normal(size=n)].astype(float)


def three_groups(rng, n):
    return np.c_[np.eye(3)[np.arange(n) % 3], rng.normal(size=n)]


def slopes(rng, n):
    group, x = np.arange(n) < n // 2, rng.normal(size=n)
    return np.c_[group, ~group, x * group, x * ~group].astype(float)


@pytest.mark.parametrize("mode", list(Nuisance))
@pytest.mark.parametrize("name", DESIGNS)
@FEW
@given(
    seed=st.integers(0, 10**6), n=st.integers(9, 24), flip=st.booleans(), both=st.booleans(), demean=st.booleans()
)
def test_maps_equal_full_refits(name, mode, seed, n, flip, both, demean):
    rng = np.random.default_rng(seed)
    M, C = DESIGNS[name](rng, n)
    M, C = np.asarray(M, float), np.asarray(C, float)
    is_f = len(C) > 1
    shuffler = Shuffler(M @ C.T, Permutations(6, seed, flip=flip, permute_and_flip=both))
    try:
        model = partition(M, C, demean=demean, is_f=is_f)
    except DesignError:
        assert demean
        return
    Y = rng.normal(size=(n, 7)).astype(np.float32) + 3
    shuffles = shuffler.shuffles(0, shuffler.n)
    glm = Glm(Y, model, shuffler.invariant, mode)
    theirs = oracle.statistic_maps(Y, M, C, to_one(shuffles), mode=int(mode), demean=demean, is_f=is_f)
    if mode == Nuisance.TER_BRAAK:
        assert not glm.statistic_maps(shuffles)[0].any()
        shuffles, theirs = shuffles[1:], theirs[1:]
    ours = glm.statistic_maps(shuffles)
    assert close(ours, theirs).all()
    for shuffle, row in zip(shuffles, theirs):
        assert close(glm.exact(shuffle[None], np.zeros(7, dtype=int), np.arange(7)), row, 1e-9).all()


def any_design(rng, n, rows):
    """Design of any rank, columns in units of their own, and an estimable contrast of dependent rows."""
    rank, columns = rng.integers(2, n - 3), rng.integers(2, 9)
    M = (
        rng.integers(-2, 3, (n, rank))
        @ rng.integers(-2, 3, (rank, columns))
        * 10.0 ** rng.integers(-3, 4, columns)
    )
    C = rng.integers(-1, 2, (rows, n)) @ M
    return M, np.vstack([C, C[:1] - C[1:2]]) if rows > 2 else C


def has_test(M, C, demean):
    """No row of the contrast is zero or outside the row space, and degrees of freedom are left."""
    M = M - M.mean(axis=0) if demean else M
    size = np.abs(C).max(axis=1, keepdims=True)
    if not size.all():
        return False
    rank, beside = (np.linalg.matrix_rank(A, tol=1e-9) for A in (M, np.vstack([M, C / size])))
    return rank == beside and len(M) - rank - demean > 0


@pytest.mark.parametrize("mode", list(Nuisance))
@FEW
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(9, 20),
    rows=st.integers(1, 3),
    blocks=st.integers(1, 3),
    flip=st.booleans(),
    demean=st.booleans(),
)
def test_designs_of_any_rank(mode, seed, n, rows, blocks, flip, demean):
    rng = np.random.default_rng(seed)
    M, C = any_design(rng, n, rows)
    unit = np.abs(M).max(axis=0) + (M == 0).all(axis=0)
    if not has_test(M / unit, C / unit, demean):
        with pytest.raises(DesignError):
            partition(M, C, demean=demean, is_f=rows > 1)
        return
    model = partition(M, C, demean=demean, is_f=rows > 1)
    block = None if blocks == 1 else np.sort(np.arange(n) % blocks) + 1
    shuffler = Shuffler(M @ C.T, Permutations(6, seed, block, flip=flip))
    shuffles = shuffler.shuffles(0, shuffler.n)[1 if mode == Nuisance.TER_BRAAK else 0 :]
    Y = rng.normal(size=(n, 5)).astype(np.float32)
    glm = Glm(Y, model, shuffler.invariant, mode)
    # The textbook's own rank decisions want columns of like size.
    M, C = M / unit, C / unit
    theirs = oracle.statistic_maps(Y, M, C, to_one(shuffles), mode=int(mode), demean=demean, is_f=rows > 1)
    fair = np.abs(theirs) < 1e3
    assert close(glm.statistic_maps(shuffles), theirs)[fair].all()
    for shuffle, row in zip(shuffles, theirs):
        assert close(glm.exact(shuffle[None], np.zeros(5, dtype=int), np.arange(5)), row, 1e-9)[
            np.abs(row) < 1e3
        ].all()


@pytest.mark.parametrize("noise", [0, 1e-13])
def test_columns_that_are_collinear_to_rounding_count_once(noise):
    rng = np.random.default_rng(8)
    M, Y = two_groups(rng, 16), rng.normal(size=(16, 20)).astype(np.float32)
    twice = np.c_[M, M[:, 2] * 3 + noise * rng.normal(size=16)]
    shuffles = Shuffler(M[:, :1], Permutations(20, 1)).shuffles(0, 20)
    none = np.empty((16, 0))
    plain, double = (partition(A, [1, -1, 0, 0][: A.shape[1]]) for A in (M, twice))
    assert plain.df == double.df
    ours, theirs = (Glm(Y, model, none).statistic_maps(shuffles) for model in (double, plain))
    assert close(ours, theirs, 1e-6).all()


def test_variance_smoothing():
    rng = np.random.default_rng(1)
    grid = Grid(rng.random((6, 5, 4)) < 0.8, (2.0, 2.0, 3.0))
    M, C = two_groups(rng, 14), np.array([[1.0, -1, 0]])
    Y = (rng.normal(size=(14, grid.n_voxels)) * np.geomspace(1, 30, grid.n_voxels)).astype(np.float32)
    shuffler = Shuffler(M @ C.T, Permutations(9, 1))
    shuffles = shuffler.shuffles(0, 9)
    ours = Glm(Y, partition(M, C), shuffler.invariant, smoother=MaskedGaussian(grid, 3.0)).statistic_maps(shuffles)
    theirs = oracle.statistic_maps(
        Y, M, C, shuffles + 1, smooth=lambda v: oracle.smooth_variance(v, grid.mask, 3.0, grid.voxel_size)
    )
    assert close(ours, theirs).all()


@FEW
@given(seed=st.integers(0, 10**6))
def test_blocks_whose_invariants_are_skipped(seed):
    """Paired design: subject means are nuisance that no within-pair exchange moves."""
    rng = np.random.default_rng(seed)
    pairs = 7
    M = np.c_[np.tile([1.0, -1.0], pairs), np.repeat(np.eye(pairs), 2, axis=0)]
    C = np.zeros((1, pairs + 1))
    C[0, 0] = 1
    blocks = np.repeat(np.arange(pairs) + 1, 2)
    shuffler = Shuffler(M @ C.T, Permutations(40, seed, blocks))
    Y = (rng.normal(size=(2 * pairs, 9)) + 5 * np.repeat(rng.normal(size=(pairs, 1)), 2, axis=0)).astype(
        np.float32
    )
    glm = Glm(Y, partition(M, C), shuffler.invariant)
    assert glm._moving.shape[1] == 0
    shuffles = shuffler.shuffles(0, 40)
    assert close(glm.statistic_maps(shuffles), oracle.statistic_maps(Y, M, C, shuffles + 1)).all()


@pytest.mark.parametrize("ratio", [100, 1000, 10_000])
def test_large_means(ratio):
    rng = np.random.default_rng(ratio)
    Y = (rng.normal(size=(10, 40)) + ratio).astype(np.float32)
    M, C = np.ones((10, 1)), np.ones((1, 1))
    shuffler = Shuffler(M, Permutations(0, 0, flip=True))
    shuffles = np.concatenate([shuffler.shuffles(0, 20), shuffler.shuffles(shuffler.n - 20, shuffler.n)])
    glm = Glm(Y, partition(M, C), shuffler.invariant)
    theirs = oracle.statistic_maps(Y, M, C, to_one(shuffles))
    assert np.abs(theirs).max() > ratio
    assert close(glm.statistic_maps(shuffles), theirs, 1e-5).all()
    M = np.c_[np.arange(10) < 5, np.arange(10) >= 5, rng.normal(size=10)].astype(float)
    C = np.array([[1.0, -1, 0]])
    shuffler = Shuffler(M @ C.T, Permutations(30, 1))
    for mode in (Nuisance.FREEDMAN_LANE, Nuisance.NONE):
        glm = Glm(Y, partition(M, C), shuffler.invariant, mode)
        shuffles = shuffler.shuffles(0, 30)
        theirs = oracle.statistic_maps(Y, M, C, shuffles + 1, mode=int(mode))
        assert close(glm.statistic_maps(shuffles), theirs, 1e-5).all()


def test_constant_voxels_are_zero_in_every_shuffle():
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(12, 5)).astype(np.float32)
    Y[:, 1], Y[:, 3] = 0, 1000.1
    M = two_groups(rng, 12)
    shuffler = Shuffler(M @ [[1], [-1], [0]], Permutations(50, 1))
    maps = Glm(Y, partition(M, [1, -1, 0]), shuffler.invariant).statistic_maps(shuffler.shuffles(0, 50))
    assert not maps[:, [1, 3]].any()
    assert maps[:, [0, 2, 4]].all()


@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_units_of_design_and_data_do_not_matter(factor):
    rng = np.random.default_rng(3)
    Y, M = rng.normal(size=(14, 30)).astype(np.float32), two_groups(rng, 14)
    shuffler = Shuffler(M @ [[1], [-1], [0]], Permutations(20, 1))
    shuffles = shuffler.shuffles(0, 20)
    plain = Glm(Y, partition(M, [1, -1, 0]), shuffler.invariant).statistic_maps(shuffles)
    M2 = M * [1, 1, factor]
    model = Glm((Y * factor).astype(np.float32), partition(M2, [1, -1, 0]), shuffler.invariant)
    scaled = model.statistic_maps(shuffles)
    assert close(scaled, plain, 1e-5).all()


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("C", [[[1, -1, 0]], [[1, -1, 0], [0, 0, 1]]])
def test_bits_do_not_depend_on_the_batch(C, flip, smooth):
    rng = np.random.default_rng(4)
    C = np.array(C, float)
    M, grid = two_groups(rng, 20), Grid(np.ones((10, 10, 7), bool))
    Y = rng.normal(size=(20, 700)).astype(np.float32)
    Y[:, ::50] += (1e3 * M[:, :1]).astype(np.float32)  # fits so good that some shuffles are computed again
    shuffler = Shuffler(M @ C.T, Permutations(37, 1, flip=flip))
    smoother = MaskedGaussian(grid, 1.5) if smooth and len(C) == 1 else None
    glm = Glm(Y, partition(M, C, is_f=len(C) > 1), shuffler.invariant, smoother=smoother)
    whole = glm.statistic_maps(shuffler.shuffles(0, 37))
    for start, stop in ((0, 1), (1, 2), (5, 18), (36, 37)):
        np.testing.assert_array_equal(glm.statistic_maps(shuffler.shuffles(start, stop)), whole[start:stop])


@pytest.mark.parametrize(("df1", "df2"), [(1, 5), (2, 12), (3, 142), (7, 1000)])
def test_f_to_z(df1, df2):
    F = np.r_[0, np.geomspace(1e-3, 1e8, 4000)].astype(np.float32)
    exact = f_to_z_exact(F, df1, df2)
    scipy = oracle.F_to_z(F.astype(float), df1, df2)
    known = scipy < 35
    np.testing.assert_allclose(exact[known], scipy[known], rtol=1e-9, atol=1e-9)
    assert (np.diff(exact[exact > 0]) > 0).all()
    assert np.isfinite(exact).all()
    np.testing.assert_allclose(f_to_z(F, df1, df2), np.maximum(exact, 0), rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("df2", [6, 40, 300])
def test_z_of_an_f_beyond_the_smallest_float(df2):
    """With two numerator degrees of freedom the tail is a power: P = (1 + 2F / df2)^(−df2 / 2)."""
    F = np.geomspace(1, 1e12, 200)
    z = -ndtri_exp(-df2 / 2 * np.log1p(2 * F / df2))
    np.testing.assert_allclose(f_to_z_exact(F, 2, df2), z, rtol=1e-6)
    assert z.max() > 8


# -- voxels without variation, and fits without residuals ------------------------------------------------------------

CONSTANT_MODELS = {
    "one sample": lambda rng, n: (np.ones((n, 1)), [[1]]),
    "one sample, covariate": lambda rng, n: (np.c_[np.ones(n), rng.normal(size=n)], [[1, 0]]),
    "one sample, F": lambda rng, n: (np.c_[np.ones(n), rng.normal(size=n)], [[1, 0], [0, 1]]),
    "means of two groups": lambda rng, n: (two_groups(rng, n)[:, :2], [[1, 0]]),
    "mean of both groups": lambda rng, n: (two_groups(rng, n)[:, :2], [[0.5, 0.5]]),
    "groups, F": lambda rng, n: (two_groups(rng, n)[:, :2], [[1, 0], [0, 1]]),
    "covariate without intercept": lambda rng, n: (rng.normal(size=(n, 1)), [[1]]),
}


@pytest.mark.parametrize("name", CONSTANT_MODELS)
@pytest.mark.parametrize("mode", [Nuisance.FREEDMAN_LANE, Nuisance.KENNEDY, Nuisance.NONE])
@pytest.mark.parametrize("flip", [False, True])
def test_constant_voxels_are_zero_in_every_shuffle_and_change_no_other(name, mode, flip):
    rng = np.random.default_rng(5)
    n = 12
    M, C = (np.asarray(values, float) for values in CONSTANT_MODELS[name](rng, n))
    Y = (rng.normal(size=(n, 40)) + 1).astype(np.float32)
    Z = Y.copy()
    Z[:, [0, 7, 8, 39]] = np.float32([1, -1, 0.1, 3e4])
    shuffles = Shuffler(rng.normal(size=(n, 1)), Permutations(30, 1, flip=flip)).shuffles(0, 30)
    grid = Grid(np.ones((5, 4, 2), bool))
    for smoother in (None, MaskedGaussian(grid, 1.0)) if len(C) == 1 else (None,):
        models = []
        for data in (Y, Z, np.where(np.arange(40) == 8, 0, Z).astype(np.float32)):
            models.append(Glm(data, partition(M, C, is_f=len(C) > 1), np.zeros((n, 0)), mode, smoother))
        usual, maps, zero = (model.statistic_maps(shuffles) for model in models)
        assert not maps[:, [0, 7, 8, 39]].any()
        assert (maps.any(axis=0) == ~np.isin(np.arange(40), [0, 7, 8, 39])).all()
        np.testing.assert_array_equal(maps, zero)  # as if it were 0 in everybody
        assert not models[1].exact_map(shuffles[3])[[0, 7, 8, 39]].any()
        others = np.setdiff1d(np.arange(40), [0, 7, 8, 39])
        if smoother is None:
            np.testing.assert_array_equal(maps[:, others], usual[:, others])
            found = models[1].exact(shuffles, np.arange(30) % 30, np.resize([0, 7, 8, 39], 30))
            assert not found.any()
        assert maps[:, others].any()
    # One subject that differs in the last place is enough to vary.
    Z[3, 0] = np.nextafter(Z[3, 0], np.float32(2))
    varies = Glm(Z, partition(M, C, is_f=len(C) > 1), np.zeros((n, 0)), mode)
    assert varies.statistic_maps(shuffles)[:, 0].any()


def test_a_subject_that_the_nuisance_leaves_out_makes_no_voxel_vary():
    n = 10
    alone = (np.arange(n) == 4).astype(float)
    Y = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    Y[:, 1], Y[4, 1] = 2.0, 7.0
    shuffler = Shuffler(np.ones((n, 1)), Permutations(20, 1, flip=True))
    model = Glm(Y, partition(np.c_[np.ones(n), alone], [1, 0]), shuffler.invariant)
    maps = model.statistic_maps(shuffler.shuffles(0, 20))
    assert list(maps.any(axis=0)) == [True, False, True]


def test_a_voxel_that_separates_the_groups_is_a_large_effect_and_finite():
    n = 12
    group = np.repeat([1.0, 0.0], 6)
    Y = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    Y[:, 2] = group
    for C, is_f in (([1, -1], False), ([[1, -1]], True)):
        shuffler = Shuffler(group[:, None], Permutations(0))
        maps = Glm(Y, partition(np.c_[group, 1 - group], C, is_f=is_f), shuffler.invariant).statistic_maps(
            shuffler.shuffles(0, shuffler.n)
        )
        assert np.isfinite(maps).all()
        assert maps[0, 2] == maps[:, 2].max() > 1e7
        assert (maps[:, 2] == maps[0, 2]).sum() == (2 if is_f else 1)
        z = f_to_z(np.abs(maps), 1, n - 2)
        assert np.isfinite(z).all()
        assert z[0, 2] == z[:, 2].max()
        assert (np.diff(z[:, 2][np.argsort(np.abs(maps[:, 2]))]) >= 0).all()


SATURATED = {
    "demeaned groups": ([[1, -1]], lambda g: np.c_[g, 1 - g], True),
    "F over all columns": ([[1, 1], [1, -2]], lambda g: np.c_[g, 1 - g], False),
    "a weight that is not 1": ([[0.33333333]], lambda g: (g - 0.3)[:, None], False),
}


@pytest.mark.parametrize("name", SATURATED)
def test_nuisance_that_is_the_rounding_of_zero_is_none(name):
    """Contrasts that take up all of the model: the fit without nuisance, written out as least squares."""
    C, make, demean = SATURATED[name]
    rng = np.random.default_rng(3)
    n = 11
    M = make((np.arange(n) < 5).astype(float))
    C = np.array(C, float)
    Y = rng.normal(size=(n, 6)).astype(np.float32)
    shuffles = Shuffler(M @ C.T, Permutations(8, 2)).shuffles(0, 8)
    model = partition(M, C, demean=demean, is_f=len(C) > 1)
    assert model.rank_nuisance == 0
    X, data = (a - a.mean(axis=0) if demean else a for a in (M, Y.astype(float)))
    rank = np.linalg.matrix_rank(X)
    assert model.df == n - rank - demean
    expected = []
    for p in shuffles:
        fit = X[p] @ np.linalg.pinv(X[p]) @ data
        left = ((data - fit) ** 2).sum(axis=0) / (n - rank - demean)
        if len(C) > 1:
            expected.append((fit**2).sum(axis=0) / rank / left)
        else:
            sign = np.sign(C[0] @ np.linalg.pinv(X[p]) @ data)
            expected.append(sign * np.sqrt((fit**2).sum(axis=0) / left))
    for ours in (
        Glm(Y, model, np.zeros((n, 0))).statistic_maps(shuffles),
        VoxelwiseGlm(Y, M, C, {0: np.repeat(M[:, :1], 6, axis=1).astype(np.float32)}, demean=demean, is_f=len(C) > 1)
        .statistic_maps(shuffles),
    ):  # fmt: skip
        np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-5)
