"""Linear models over shuffles, held against the textbook: every shuffle's data refitted in full (oracle.py)."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuvox.design import DesignError, partition
from gpuvox.glm import Glm, Nuisance, f_to_z, f_to_z_exact
from gpuvox.shuffle import Permutations, Shuffler

FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def as_fsl(shuffles):
    return shuffles if shuffles.dtype == np.int8 else shuffles + 1


def close(ours, theirs, tolerance=2e-4):
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
@given(seed=st.integers(0, 10**6), n=st.integers(9, 24), flip=st.booleans(), demean=st.booleans())
def test_maps_equal_full_refits(name, mode, seed, n, flip, demean):
    rng = np.random.default_rng(seed)
    M, C = DESIGNS[name](rng, n)
    M, C = np.asarray(M, float), np.asarray(C, float)
    is_f = len(C) > 1
    shuffler = Shuffler(M @ C.T, Permutations(6, seed, flip=flip))
    try:
        model = partition(M, C, demean=demean, is_f=is_f)
    except DesignError:
        assert demean
        return
    Y = rng.normal(size=(n, 7)).astype(np.float32) + 3
    shuffles = shuffler.shuffles(0, shuffler.n)
    glm = Glm(Y, model, shuffler.invariant, mode)
    theirs = oracle.statistic_maps(Y, M, C, as_fsl(shuffles), mode=int(mode), demean=demean, is_f=is_f)
    if mode == Nuisance.TER_BRAAK:
        assert not glm.maps(shuffles)[0].any()
        shuffles, theirs = shuffles[1:], theirs[1:]
    ours = glm.maps(shuffles)
    # A shuffle that leaves next to no residual of the effect or of the data amplifies rounding.
    fair = np.abs(theirs) < 1e4
    assert close(ours, theirs)[fair].all()
    for shuffle, row in zip(shuffles, theirs):
        exact = glm.exact(shuffle, np.arange(7))
        assert close(exact, row, 1e-6)[np.abs(row) < 1e4].all()


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
    assert close(glm.maps(shuffles), oracle.statistic_maps(Y, M, C, shuffles + 1)).all()


@pytest.mark.parametrize("ratio", [100, 1000, 10_000])
def test_large_means(ratio):
    rng = np.random.default_rng(ratio)
    Y = (rng.normal(size=(10, 40)) + ratio).astype(np.float32)
    M, C = np.ones((10, 1)), np.ones((1, 1))
    shuffler = Shuffler(M, Permutations(0, 0, flip=True))
    shuffles = np.concatenate([shuffler.shuffles(0, 20), shuffler.shuffles(shuffler.n - 20, shuffler.n)])
    glm = Glm(Y, partition(M, C), shuffler.invariant)
    theirs = oracle.statistic_maps(Y, M, C, shuffles)
    assert close(glm.maps(shuffles), theirs, 1e-3 if ratio > 1000 else 2e-4).all()
    M = np.c_[np.arange(10) < 5, np.arange(10) >= 5, rng.normal(size=10)].astype(float)
    C = np.array([[1.0, -1, 0]])
    shuffler = Shuffler(M @ C.T, Permutations(30, 1))
    for mode in (Nuisance.FREEDMAN_LANE, Nuisance.NONE):
        glm = Glm(Y, partition(M, C), shuffler.invariant, mode)
        shuffles = shuffler.shuffles(0, 30)
        theirs = oracle.statistic_maps(Y, M, C, shuffles + 1, mode=int(mode))
        assert close(glm.maps(shuffles), theirs).all()


def test_constant_voxels_are_zero_in_every_shuffle():
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(12, 5)).astype(np.float32)
    Y[:, 1], Y[:, 3] = 0, 1000.1
    M = two_groups(rng, 12)
    shuffler = Shuffler(M @ [[1], [-1], [0]], Permutations(50, 1))
    maps = Glm(Y, partition(M, [1, -1, 0]), shuffler.invariant).maps(shuffler.shuffles(0, 50))
    assert not maps[:, [1, 3]].any()
    assert maps[:, [0, 2, 4]].all()


@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_units_of_design_and_data_do_not_matter(factor):
    rng = np.random.default_rng(3)
    Y, M = rng.normal(size=(14, 30)).astype(np.float32), two_groups(rng, 14)
    shuffler = Shuffler(M @ [[1], [-1], [0]], Permutations(20, 1))
    shuffles = shuffler.shuffles(0, 20)
    plain = Glm(Y, partition(M, [1, -1, 0]), shuffler.invariant).maps(shuffles)
    M2 = M * [1, 1, factor]
    scaled = Glm((Y * factor).astype(np.float32), partition(M2, [1, -1, 0]), shuffler.invariant).maps(shuffles)
    assert close(scaled, plain, 1e-5).all()


def test_bits_do_not_depend_on_the_batch():
    rng = np.random.default_rng(4)
    Y, M = rng.normal(size=(20, 700)).astype(np.float32), two_groups(rng, 20)
    shuffler = Shuffler(M @ [[1], [-1], [0]], Permutations(37, 1))
    glm = Glm(Y, partition(M, [1, -1, 0]), shuffler.invariant)
    whole = glm.maps(shuffler.shuffles(0, 37))
    for start, stop in ((0, 1), (1, 2), (5, 18), (36, 37)):
        np.testing.assert_array_equal(glm.maps(shuffler.shuffles(start, stop)), whole[start:stop])


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
