"""Voxelwise explanatory variables, voxel by voxel against the oracle."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

from gpuvox.design import DesignError, partition
from gpuvox.glm import Glm, Nuisance
from gpuvox.grid import Grid
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.smooth import MaskedGaussian
from gpuvox.voxelwise import VoxelwiseGlm

N, V = 14, 70


def study(seed=0):
    rng = np.random.default_rng(seed)
    group = np.arange(N) < N // 2
    M = np.c_[group, ~group, rng.normal(size=N)].astype(float)
    ev = rng.normal(size=(N, V)).astype(np.float32)
    Y = (rng.normal(size=(N, V)) + 2 + ev).astype(np.float32)
    return Y, M, ev


@pytest.mark.parametrize("mode", list(Nuisance))
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("C", [[[1, -1, 0]], [[0, 0, 1]], [[1, -1, 0], [0, 0, 1]]])
@pytest.mark.parametrize("demean", [False, True])
def test_against_the_oracle(mode, flip, C, demean):
    Y, M, ev = study()
    C = np.array(C, float)
    shuffler = Shuffler(M @ C.T, Permutations(7, 3, flip=flip))
    shuffles = shuffler.shuffles(0, 7)
    model = VoxelwiseGlm(Y, M, C, {2: ev}, mode, demean, len(C) > 1)
    given = shuffles if flip else shuffles + 1
    theirs = oracle.voxelwise_maps(Y, M, C, given, {2: ev}, mode=int(mode), demean=demean)
    ours = model.maps(shuffles)
    first = 1 if mode == Nuisance.TER_BRAAK else 0
    assert (np.abs(ours - theirs)[first:] <= 1e-4 * np.maximum(1, np.abs(theirs[first:]))).all()
    exact = np.array([model.exact(s[None], np.zeros(V, dtype=int), np.arange(V)) for s in shuffles])
    assert (np.abs(exact - theirs)[first:] <= 1e-9 * np.maximum(1, np.abs(theirs[first:]))).all()


def test_an_ev_that_is_constant_at_a_voxel_does_not_count_there():
    Y, M, ev = study()
    ev[:, 5] = 1.0
    C = np.array([[1.0, -1, 0]])
    shuffles = Shuffler(M @ C.T, Permutations(5, 3)).shuffles(0, 5)
    ours = VoxelwiseGlm(Y, M, C, {2: ev}).maps(shuffles)
    theirs = oracle.statistic_maps(Y[:, [5]], M[:, :2], C[:, :2], shuffles + 1)
    np.testing.assert_allclose(ours[:, [5]], theirs, rtol=1e-4, atol=1e-4)
    tested = VoxelwiseGlm(Y, M, np.array([[0, 0, 1.0]]), {2: ev}).maps(shuffles)
    assert not tested[:, 5].any()


def test_variance_smoothing():
    rng = np.random.default_rng(1)
    mask = rng.random((6, 5, 4)) < 0.8
    grid = Grid(mask, (2.0, 2.0, 3.0))
    M = np.c_[np.ones(N), rng.normal(size=N)]
    Y = rng.normal(size=(N, grid.n_voxels)).astype(np.float32)
    ev = np.repeat(rng.normal(size=(N, 1)), grid.n_voxels, axis=1).astype(np.float32)
    C = np.array([[0, 1.0]])
    shuffles = Shuffler(rng.normal(size=(N, 1)), Permutations(4, 1)).shuffles(0, 4)
    ours = VoxelwiseGlm(Y, M, C, {1: ev}, smoother=MaskedGaussian(grid, 3.0)).maps(shuffles)
    M[:, 1] = ev[:, 0]
    theirs = oracle.statistic_maps(
        Y, M, C, shuffles + 1, smooth=lambda v: oracle.smooth_variance(v, mask, 3.0, grid.voxel_size)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", list(Nuisance))
def test_variance_smoothing_where_the_ev_varies(mode):
    """Each voxel its own model; the oracle's variances are smoothed as a map."""
    rng = np.random.default_rng(2)
    grid = Grid(rng.random((5, 4, 4)) < 0.8, (2.0, 2.0, 3.0))
    M = np.c_[np.ones(N), rng.normal(size=(N, 2))]
    ev = rng.normal(size=(N, grid.n_voxels)).astype(np.float32)
    Y = (rng.normal(size=ev.shape) * np.geomspace(1, 9, grid.n_voxels) + ev).astype(np.float32)
    C = np.array([[0, 1.0, 0]])
    shuffles = Shuffler(M[:, 1:2], Permutations(4, 1)).shuffles(1, 4)
    ours = VoxelwiseGlm(Y, M, C, {2: ev}, mode, smoother=MaskedGaussian(grid, 3.0)).maps(shuffles)
    t = oracle.voxelwise_maps(Y, M, C, shuffles + 1, {2: ev}, mode=int(mode))
    unit = oracle.voxelwise_maps(
        Y, M, C, shuffles + 1, {2: ev}, mode=int(mode), smooth=lambda v: np.ones_like(v)
    )  # t · standard error
    variance = (unit / t) ** 2
    smoothed = np.array([oracle.smooth_variance(v, grid.mask, 3.0, grid.voxel_size) for v in variance])
    np.testing.assert_allclose(ours, t * np.sqrt(variance / smoothed), rtol=1e-4, atol=1e-4)


def test_f_where_the_rank_drops():
    """An EV that repeats a column of the design, or is constant, at a voxel takes its degree of freedom along."""
    Y, M, ev = study()
    ev[:, 5], ev[:, 6] = 2.0, M[:, 0]
    C = np.array([[1.0, -1, 0], [0, 0, 1]])
    shuffles = Shuffler(M @ C.T, Permutations(5, 3)).shuffles(0, 5)
    model = VoxelwiseGlm(Y, M, C, {2: ev}, is_f=True)
    assert model.f_dfs == (2, N - 3)
    theirs = oracle.statistic_maps(Y[:, 5:7], M[:, :2], C[:1, :2], shuffles + 1, is_f=True)
    ours = model.maps(shuffles)
    assert close(ours[:, 5:7], theirs).all()
    assert not close(
        ours[:, :5], oracle.statistic_maps(Y[:, :5], M[:, :2], C[:1, :2], shuffles + 1, is_f=True)
    ).all()


def close(ours, theirs):
    return np.abs(ours - theirs) <= 1e-4 * np.maximum(1, np.abs(theirs))


@pytest.mark.parametrize("ratio", [100, 10_000])
@pytest.mark.parametrize("mode", [Nuisance.KENNEDY, Nuisance.FREEDMAN_LANE, Nuisance.NONE])
def test_large_means(ratio, mode):
    Y, M, ev = study(2)
    Y, ev = Y + np.float32(ratio), ev + np.float32(ratio)
    C = np.array([[0, 0, 1.0]])
    shuffles = Shuffler(M @ C.T, Permutations(7, 3)).shuffles(0, 7)
    ours = VoxelwiseGlm(Y, M, C, {2: ev}, mode).maps(shuffles)
    # The groups span the constant; the oracle inverts MᵀM, which wants the EV without its mean.
    centred = {2: ev.astype(float) - ratio}
    assert close(ours, oracle.voxelwise_maps(Y, M, C, shuffles + 1, centred, mode=int(mode))).all()


def test_constant_voxels_are_zero_in_every_shuffle():
    Y, M, ev = study()
    Y[:, 1], Y[:, 66] = 0, 1000.1
    C = np.array([[1.0, -1, 0]])
    maps = VoxelwiseGlm(Y, M, C, {2: ev}).maps(Shuffler(M @ C.T, Permutations(20, 3)).shuffles(0, 20))
    assert not maps[:, [1, 66]].any()
    assert maps[:, 2:66].all()


def test_an_ev_that_is_the_same_everywhere_is_a_column():
    Y, M, _ = study()
    M[:, 2] = M[:, 2].astype(np.float32)
    C = np.array([[1.0, -1, 0]])
    shuffler = Shuffler(M @ C.T, Permutations(20, 3))
    shuffles = shuffler.shuffles(0, 20)
    plain = Glm(Y, partition(M, C), shuffler.invariant).maps(shuffles)
    assert close(
        VoxelwiseGlm(Y, M, C, {2: np.repeat(M[:, 2:], V, 1).astype(np.float32)}).maps(shuffles), plain
    ).all()


@pytest.mark.parametrize("C", [[[1, -1, 0]], [[1, -1, 0], [0, 0, 1]]])
def test_bits_do_not_depend_on_the_batch(C):
    Y, M, ev = study()
    Y[:, ::9] += (1e3 * M[:, :1]).astype(np.float32)  # fits so good that some shuffles are computed again
    C = np.array(C, float)
    shuffler = Shuffler(M @ C.T, Permutations(23, 3))
    model = VoxelwiseGlm(Y, M, C, {2: ev}, is_f=len(C) > 1)
    whole = model.maps(shuffler.shuffles(0, 23))
    for start, stop in ((0, 1), (1, 2), (5, 18), (22, 23)):
        np.testing.assert_array_equal(model.maps(shuffler.shuffles(start, stop)), whole[start:stop])


def test_all_signs_flipped_leave_f_as_it_is():
    """To the bit: the tie counts."""
    Y, M, ev = study()
    model = VoxelwiseGlm(Y, M, np.array([[1.0, -1, 0], [0, 0, 1]]), {2: ev}, is_f=True)
    maps = model.maps(np.array([[1], [-1]], np.int8) * np.ones(N, np.int8))
    np.testing.assert_array_equal(maps[1], maps[0])


def test_refusals():
    Y, M, ev = study()
    with pytest.raises(DesignError, match="columns 1 to 3"):
        VoxelwiseGlm(Y, M, np.array([[1.0, -1, 0]]), {3: ev})
    with pytest.raises(DesignError, match="shape of the data"):
        VoxelwiseGlm(Y, M, np.array([[1.0, -1, 0]]), {2: ev[:, :-1]})
    with pytest.raises(DesignError, match="degrees of freedom"):
        VoxelwiseGlm(Y[:2], M[:2], np.array([[0, 0, 1.0]]), {2: ev[:2]})


@pytest.mark.parametrize("seed", range(20))
def test_a_perfect_fit_is_a_number(seed):
    """Rounding makes the residual of a perfect fit negative at times."""
    rng = np.random.default_rng(seed)
    n, n_voxels = 6, 40
    data = rng.integers(0, 2, (n, n_voxels)).astype(np.float32)
    design = np.c_[np.ones(n), np.arange(n) % 2, rng.normal(size=n)]
    evs = {2: rng.integers(0, 2, data.shape).astype(np.float32)}
    model = VoxelwiseGlm(data, design, np.array([[0, 1.0, 0]]), evs)
    shuffles = np.array([rng.permutation(n) for _ in range(20)], dtype=np.int32)
    assert np.isfinite(model.maps(shuffles)).all()
    assert np.isfinite(model.exact_map(np.arange(n, dtype=np.int32))).all()


@pytest.mark.parametrize("demean", [False, True])
@pytest.mark.parametrize("C", [[[1, -1, 0]], [[1, 1, 0]], [[0, 0, 1]], [[1, 0, 0], [0, 0, 1]]])
@pytest.mark.parametrize("flip", [False, True])
def test_constant_voxels_are_zero_in_every_model_and_change_no_other(C, flip, demean):
    Y, M, ev = study()
    usual = Y.copy()
    Y[:, 3], Y[:, 60], Y[:, 64] = 1.0, -7.5, 0.1
    C = np.array(C, float)
    shuffles = Shuffler(M[:, 2:], Permutations(9, 3, flip=flip)).shuffles(0, 9)
    model = VoxelwiseGlm(Y, M, C, {2: ev}, demean=demean, is_f=len(C) > 1)
    maps = model.maps(shuffles)
    assert not maps[:, [3, 60, 64]].any()
    assert not model.exact(shuffles, np.arange(9), np.resize([3, 60, 64], 9)).any()
    others = np.setdiff1d(np.arange(V), [3, 60, 64])
    expected = VoxelwiseGlm(usual, M, C, {2: ev}, demean=demean, is_f=len(C) > 1).maps(shuffles)
    np.testing.assert_array_equal(maps[:, others], expected[:, others])


def test_subjects_left_out_at_a_voxel_make_it_no_less_constant():
    """A one-sample test; a voxelwise EV takes subject 4 out at voxel 1, and nobody elsewhere."""
    rng = np.random.default_rng(0)
    Y, ev = rng.normal(size=(N, 3)).astype(np.float32), np.zeros((N, 3), np.float32)
    Y[:, 1:], Y[4, 1:], ev[4, 1] = 2.0, 9.0, 1.0
    shuffles = Shuffler(np.ones((N, 1)), Permutations(30, 3, flip=True)).shuffles(0, 30)
    maps = VoxelwiseGlm(Y, np.ones((N, 2)), np.array([[1.0, 0]]), {1: ev}).maps(shuffles)
    assert not maps[:, 1].any()
    assert maps[:, 2].all()
    assert np.isfinite(maps).all()


def test_perfect_fits_are_finite_and_the_largest():
    Y, M, ev = study()
    Y[:, 2] = M[:, 0]
    Y[:, 5] = ev[:, 5]
    for C, at in (([[1.0, -1, 0]], 2), ([[0, 0, 1.0]], 5), ([[1.0, -1, 0], [0, 0, 1]], 2)):
        for smoother in (None, MaskedGaussian(Grid(np.ones((V, 1, 1), bool)), 1.0)) if len(C) == 1 else (None,):
            shuffles = Shuffler(rng_labels(), Permutations(40, 3)).shuffles(0, 40)
            model = VoxelwiseGlm(Y, M, np.array(C), {2: ev}, is_f=len(C) > 1, smoother=smoother)
            maps = model.maps(shuffles)
            assert np.isfinite(maps).all()
            if smoother is None:
                assert maps[0].argmax() == at
                assert maps[0, at] > 1e6


def rng_labels():
    return np.random.default_rng(9).normal(size=(N, 1))
