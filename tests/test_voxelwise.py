"""Voxelwise explanatory variables, voxel by voxel against the oracle."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

from gpuvox.design import DesignError
from gpuvox.glm import Nuisance
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
    assert (np.abs(ours - theirs)[first:] <= 2e-4 * np.maximum(1, np.abs(theirs[first:]))).all()
    exact = np.array([model.exact(s, np.arange(V)) for s in shuffles])
    assert (np.abs(exact - theirs)[first:] <= 1e-6 * np.maximum(1, np.abs(theirs[first:]))).all()


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
    np.testing.assert_allclose(ours, theirs, rtol=3e-4, atol=3e-4)


def test_refusals():
    Y, M, ev = study()
    with pytest.raises(DesignError, match="columns 1 to 3"):
        VoxelwiseGlm(Y, M, np.array([[1.0, -1, 0]]), {3: ev})
    with pytest.raises(DesignError, match="shape of the data"):
        VoxelwiseGlm(Y, M, np.array([[1.0, -1, 0]]), {2: ev[:, :-1]})
    with pytest.raises(DesignError, match="degrees of freedom"):
        VoxelwiseGlm(Y[:2], M[:2], np.array([[0, 0, 1.0]]), {2: ev[:2]})
