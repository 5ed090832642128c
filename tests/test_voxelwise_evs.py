"""Voxelwise explanatory variables, voxel by voxel against the oracle."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

import gpuvox
from gpuvox.errors import DesignError
from gpuvox.executors import run
from gpuvox.glm import Glm, Nuisance
from gpuvox.grid import Grid
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.regression_methods import Method
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.signed_rows import from_signs, to_one
from gpuvox.smooth import MaskedGaussian
from gpuvox.statistics import Statistics
from gpuvox.voxelwise_evs import VoxelwiseGlm, slab_width
from gpuvox.voxelwise_methods import voxelwise_model
from tests.cuda_on_cpu.shim import CXX, ShimDevice

N, V = 14, 70
needs_compiler = pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")


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
    given = to_one(shuffles)
    theirs = oracle.voxelwise_maps(Y, M, C, given, {2: ev}, mode=int(mode), demean=demean)
    ours = model.statistic_maps(shuffles)
    first = 1 if mode == Nuisance.TER_BRAAK else 0
    assert (np.abs(ours - theirs)[first:] <= 1e-4 * np.maximum(1, np.abs(theirs[first:]))).all()
    exact = np.array([model.exact(s[None], np.zeros(V, dtype=int), np.arange(V)) for s in shuffles])
    assert (np.abs(exact - theirs)[first:] <= 1e-9 * np.maximum(1, np.abs(theirs[first:]))).all()


def test_an_ev_that_is_constant_at_a_voxel_does_not_count_there():
    Y, M, ev = study()
    ev[:, 5] = 1.0
    C = np.array([[1.0, -1, 0]])
    shuffles = Shuffler(M @ C.T, Permutations(5, 3)).shuffles(0, 5)
    ours = VoxelwiseGlm(Y, M, C, {2: ev}).statistic_maps(shuffles)
    theirs = oracle.statistic_maps(Y[:, [5]], M[:, :2], C[:, :2], shuffles + 1)
    np.testing.assert_allclose(ours[:, [5]], theirs, rtol=1e-4, atol=1e-4)
    tested = VoxelwiseGlm(Y, M, np.array([[0, 0, 1.0]]), {2: ev}).statistic_maps(shuffles)
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
    ours = VoxelwiseGlm(Y, M, C, {1: ev}, smoother=MaskedGaussian(grid, 3.0)).statistic_maps(shuffles)
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
    ours = VoxelwiseGlm(Y, M, C, {2: ev}, mode, smoother=MaskedGaussian(grid, 3.0)).statistic_maps(shuffles)
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
    ours = model.statistic_maps(shuffles)
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
    ours = VoxelwiseGlm(Y, M, C, {2: ev}, mode).statistic_maps(shuffles)
    # The groups span the constant; the oracle inverts MᵀM, which wants the EV without its mean.
    centred = {2: ev.astype(float) - ratio}
    assert close(ours, oracle.voxelwise_maps(Y, M, C, shuffles + 1, centred, mode=int(mode))).all()


def test_constant_voxels_are_zero_in_every_shuffle():
    Y, M, ev = study()
    Y[:, 1], Y[:, 66] = 0, 1000.1
    C = np.array([[1.0, -1, 0]])
    maps = VoxelwiseGlm(Y, M, C, {2: ev}).statistic_maps(Shuffler(M @ C.T, Permutations(20, 3)).shuffles(0, 20))
    assert not maps[:, [1, 66]].any()
    assert maps[:, 2:66].all()


def test_an_ev_that_is_the_same_everywhere_is_a_column():
    Y, M, _ = study()
    M[:, 2] = M[:, 2].astype(np.float32)
    C = np.array([[1.0, -1, 0]])
    shuffler = Shuffler(M @ C.T, Permutations(20, 3))
    shuffles = shuffler.shuffles(0, 20)
    plain = Glm(Y, partition(M, C), shuffler.invariant).statistic_maps(shuffles)
    assert close(
        VoxelwiseGlm(Y, M, C, {2: np.repeat(M[:, 2:], V, 1).astype(np.float32)}).statistic_maps(shuffles), plain
    ).all()


@pytest.mark.parametrize("C", [[[1, -1, 0]], [[1, -1, 0], [0, 0, 1]]])
def test_bits_do_not_depend_on_the_batch(C):
    Y, M, ev = study()
    Y[:, ::9] += (1e3 * M[:, :1]).astype(np.float32)  # fits so good that some shuffles are computed again
    C = np.array(C, float)
    shuffler = Shuffler(M @ C.T, Permutations(23, 3))
    model = VoxelwiseGlm(Y, M, C, {2: ev}, is_f=len(C) > 1)
    whole = model.statistic_maps(shuffler.shuffles(0, 23))
    for start, stop in ((0, 1), (1, 2), (5, 18), (22, 23)):
        np.testing.assert_array_equal(model.statistic_maps(shuffler.shuffles(start, stop)), whole[start:stop])


def test_all_signs_flipped_leave_f_as_it_is():
    """To the bit: the tie counts."""
    Y, M, ev = study()
    model = VoxelwiseGlm(Y, M, np.array([[1.0, -1, 0], [0, 0, 1]]), {2: ev}, is_f=True)
    maps = model.statistic_maps(from_signs(np.array([[1], [-1]]) * np.ones(N)))
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
    assert np.isfinite(model.statistic_maps(shuffles)).all()
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
    maps = model.statistic_maps(shuffles)
    assert not maps[:, [3, 60, 64]].any()
    assert not model.exact(shuffles, np.arange(9), np.resize([3, 60, 64], 9)).any()
    others = np.setdiff1d(np.arange(V), [3, 60, 64])
    expected = VoxelwiseGlm(usual, M, C, {2: ev}, demean=demean, is_f=len(C) > 1).statistic_maps(shuffles)
    np.testing.assert_array_equal(maps[:, others], expected[:, others])


def test_subjects_left_out_at_a_voxel_make_it_no_less_constant():
    """A one-sample test; a voxelwise EV takes subject 4 out at voxel 1, and nobody elsewhere."""
    rng = np.random.default_rng(0)
    Y, ev = rng.normal(size=(N, 3)).astype(np.float32), np.zeros((N, 3), np.float32)
    Y[:, 1:], Y[4, 1:], ev[4, 1] = 2.0, 9.0, 1.0
    shuffles = Shuffler(np.ones((N, 1)), Permutations(30, 3, flip=True)).shuffles(0, 30)
    maps = VoxelwiseGlm(Y, np.ones((N, 2)), np.array([[1.0, 0]]), {1: ev}).statistic_maps(shuffles)
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
            maps = model.statistic_maps(shuffles)
            assert np.isfinite(maps).all()
            if smoother is None:
                assert maps[0].argmax() == at
                assert maps[0, at] > 1e6


def rng_labels():
    return np.random.default_rng(9).normal(size=(N, 1))


# -- subjects who are left out at some voxels ------------------------------------------------------------------------


def lesions(seed=0, share=0.15):
    """Values of any size and sign where a subject is to be left out; nobody, and nearly everybody, at some voxels."""
    rng = np.random.default_rng(seed + 100)
    values = np.where(rng.random((N, V)) < share, rng.normal(size=(N, V)) * 3, 0)
    values[:, 3], values[: N - 4, 7], values[:, 9] = 0, 1, 1
    return values.astype(np.float32)


def dense(M, C):
    """The design and contrasts with the columns of --vxl=-4, whatever they hold."""
    return np.hstack([M, np.full((N, N), 7.0)]), np.hstack([C, np.zeros((len(C), N))])


@pytest.mark.parametrize("mode", list(Nuisance))
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("C", [[[1, -1, 0]], [[0, 0, 1]], [[1, -1, 0], [0, 0, 1]]])
@pytest.mark.parametrize("demean", [False, True])
def test_subjects_left_out_against_full_refits(mode, flip, C, demean):
    """The oracle has a column for each subject, and permutes the whole rows of each voxel."""
    Y, M, ev = study()
    Y += 20
    C, out = np.array(C, float), lesions()
    shuffles = Shuffler(M @ C.T, Permutations(7, 3, flip=flip)).shuffles(0, 7)
    model = VoxelwiseGlm(Y, M, C, {2: ev, -4: out}, mode, demean, len(C) > 1)
    given, lost = to_one(shuffles), {-4: out}
    if demean and flip and mode != Nuisance.KENNEDY:
        # The mean of those who remain is a column, whose signs are flipped as those of the others.
        Y = Y - Y.mean(axis=0, dtype=float) if mode == Nuisance.NONE else Y
        M, C, lost, demean = np.c_[M, np.ones(N)], np.c_[C, np.zeros(len(C))], {-5: out}, False
    theirs = oracle.voxelwise_maps(Y, *dense(M, C), given, {2: ev} | lost, mode=int(mode), demean=demean)
    first = 1 if mode == Nuisance.TER_BRAAK else 0
    # A residual of rounding is 0 in ours; where a permuted fit is perfect, t is rounding over rounding.
    sensible = np.isfinite(theirs) & (np.abs(theirs) < 1e6)
    sensible[:, [7, 9]] = False
    assert sensible.mean() > 0.9
    for ours, tolerance in (
        (model.statistic_maps(shuffles), 2e-4),
        (np.array([model.exact(s[None], np.zeros(V, dtype=int), np.arange(V)) for s in shuffles]), 1e-8),
    ):
        wrong = np.abs(ours - theirs) > tolerance * np.maximum(1, np.abs(theirs))
        assert not (wrong & sensible)[first:].any()
        assert not ours[:, 9].any()


def test_leaving_out_is_a_fit_without_the_subject():
    Y, M, _ = study()
    out = np.zeros((N, V), dtype=np.float32)
    out[2], out[11] = 5, -1e-3
    C = np.array([[1.0, -1, 0]])
    model = VoxelwiseGlm(Y, M, C, {-4: out})
    stay = ~np.isin(np.arange(N), (2, 11))
    ours = model.exact_map(np.arange(N, dtype=np.int32))
    theirs = oracle.statistic_maps(Y[stay], M[stay], C, np.arange(1, N - 1)[None])[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert model.df == N - 2 - 3


def test_demeaning_is_over_those_who_remain():
    """As an intercept is, permuted or not."""
    Y, M, ev = study()
    Y, out = Y + 1000, lesions()
    C = np.array([[0, 1.0]])
    shuffles = Shuffler(M[:, :1], Permutations(6, 3)).shuffles(0, 6)
    demeaned = VoxelwiseGlm(Y, M[:, [2, 0]], C, {0: ev, -3: out}, demean=True)
    with_mean = VoxelwiseGlm(Y, np.c_[M[:, [2, 0]], np.ones(N)], np.array([[0, 1.0, 0]]), {0: ev, -4: out})
    assert close(demeaned.statistic_maps(shuffles), with_mean.statistic_maps(shuffles)).all()
    np.testing.assert_array_equal(demeaned.dfs[1], with_mean.dfs[1])


def test_several_masks_leave_out_whom_either_does():
    Y, M, ev = study()
    one, other = lesions(1), lesions(2)
    C = np.array([[1.0, -1, 0]])
    both = ((one != 0) | (other != 0)).astype(np.float32)
    shuffles = Shuffler(M @ C.T, Permutations(6, 3)).shuffles(0, 6)
    expected = VoxelwiseGlm(Y, M, C, {2: ev, -4: both}).statistic_maps(shuffles)
    ours = VoxelwiseGlm(Y, M, C, {2: ev, -4: one, -18: other}).statistic_maps(shuffles)
    np.testing.assert_array_equal(ours, expected)


def test_subjects_left_out_from_a_scratch_file(tmp_path):
    Y, M, ev = study()
    C, out = np.array([[1.0, -1, 0], [0, 0, 1]]), lesions()
    shuffles = Shuffler(M @ C.T, Permutations(6, 3)).shuffles(0, 6)
    models = [
        VoxelwiseGlm(Y, M, C, {2: ev, -4: out}, is_f=True, demean=True, scratch=folder)
        for folder in ("", str(tmp_path))
    ]
    maps = [model.statistic_maps(shuffles) for model in models]
    np.testing.assert_array_equal(*maps)
    np.testing.assert_array_equal(models[0].to_z(maps[0]), models[1].to_z(maps[1]))


@pytest.mark.parametrize("mode", [Nuisance.FREEDMAN_LANE, Nuisance.KENNEDY])
def test_z_of_f_has_the_degrees_of_freedom_of_each_voxel(mode):
    Y, M, ev = study()
    C, out = np.array([[1.0, -1, 0], [0, 0, 1]]), lesions()
    ev[:, 5] = 1  # the rank of the effect drops, too
    model = VoxelwiseGlm(Y, M, C, {2: ev, -4: out}, mode, is_f=True)
    f = model.statistic_maps(Shuffler(M @ C.T, Permutations(6, 3)).shuffles(0, 6))
    expected = np.zeros(f.shape)
    for v in range(V):
        left = out[:, v] == 0
        if not left.any():
            continue
        nuisance = oracle.partition(np.c_[M[:, :2], ev[:, v]][left], C)[1]
        rank = np.linalg.matrix_rank(np.c_[M[:, :2], ev[:, v]][left])
        effect = rank - nuisance.shape[1]
        df = left.sum() - rank if mode == Nuisance.FREEDMAN_LANE else N - effect
        if df > 0 and effect > 0:
            expected[:, v] = np.maximum(oracle.F_to_z(f[:, v].astype(float), effect, df), 0)
    sensible = f < 1e8
    np.testing.assert_allclose(model.to_z(f)[sensible], expected[sensible], rtol=1e-5, atol=1e-5)
    assert len(np.unique(np.stack(model.dfs), axis=1).T) > 5 - 3 * (mode == Nuisance.KENNEDY)


def test_constant_data_are_zero_without_an_intercept_too():
    """Also where only those who are left out vary."""
    Y, _, _ = study()
    out = np.zeros((N, V), dtype=np.float32)
    out[:3, 8] = 1
    Y[:, 1], Y[3:, 8] = 1000.1, 7
    flips = Shuffler(np.ones(N), Permutations(20, 3, flip=True)).shuffles(0, 20)
    maps = VoxelwiseGlm(Y, np.ones((N, 1)), np.ones((1, 1)), {-2: out}).statistic_maps(flips)
    assert not maps[:, [1, 8]].any()
    assert maps[:, 2:8].all()


@pytest.mark.parametrize("is_f", [False, True])
@pytest.mark.parametrize("device", [None, "kernels"])
def test_ties_of_whole_numbers_are_ties(is_f, device):
    """Sums of two groups, compared in integers at every labelling; one subject more is left out."""
    if device and CXX is None:
        pytest.skip("no C++ compiler to run the kernels on the CPU")
    rng = np.random.default_rng(0)
    n, voxels = 9, 40
    group, Y = np.repeat([1.0, 0.0, 0.0], [4, 4, 1]), rng.integers(0, 3, (n, voxels)).astype(np.float32)
    out = np.zeros((n, voxels), dtype=np.float32)
    out[8] = 1
    shuffler = Shuffler(group[:, None], Permutations(0, 0, np.repeat([1, 0], [8, 1])))
    M, C = np.c_[group, 1 - group], np.array([[1.0, -1]])
    model = VoxelwiseGlm(Y, M, C, {-3: out}, is_f=is_f, device=ShimDevice() if device else None)
    wanted = Statistics(uncorrected=True)
    done = run(PermutationTest(model, Grid(np.ones((voxels, 1, 1), bool)), shuffler, wanted), threads=1)
    sums = np.array([group[p] @ Y for p in shuffler.shuffles(0, 70)]).astype(int) * 2 - Y[:8].sum(axis=0).astype(
        int
    )
    assert (sums[0] == 0).any()
    order = np.abs(sums) if is_f else sums
    np.testing.assert_array_equal(done.tally.below["vox"][0], (order < order[0]).sum(axis=0))


@needs_compiler
@pytest.mark.parametrize("method", [Method.FREEDMAN_LANE, Method.TER_BRAAK, Method.MANLY])
@pytest.mark.parametrize("excludes", [False, True])
def test_columns_are_rounded_beforehand_to_the_bits_of_rounding_them_one_by_one(method, excludes):
    """On a device, in one slab and in several; voxel 5 is a perfect fit, whose products in float32 cancel."""
    Y, M, ev = study(4)
    Y[:, 5] = ev[:, 5]
    evs = {2: ev, -4: lesions(4)} if excludes else {2: ev}
    shuffles = Shuffler(rng_labels(), Permutations(20, 3, permute_and_flip=True)).shuffles(0, 20)
    model = voxelwise_model(Y, M, np.array([[0, 0, 1.0]]), evs, method)
    number, voxels = np.arange(40) % 20, np.arange(40) % V
    for limit in (1 << 30, 100_000):
        device = ShimDevice(limit=limit)
        placed = model.on(device)
        maps = device.download(placed.statistic_maps(shuffles))
        np.testing.assert_array_equal(maps, model.statistic_maps(shuffles))
        np.testing.assert_array_equal(
            placed.exact(shuffles, number, voxels), model.exact(shuffles, number, voxels)
        )
        assert (device.launched.count("voxelwise_prepare") > 4) == (limit == 100_000)


@needs_compiler
@pytest.mark.parametrize("method", [Method.FREEDMAN_LANE, Method.DEKKER])
@pytest.mark.parametrize("excludes", [False, True])
def test_the_size_of_slabs_counts_every_array_of_the_bases(method, excludes):
    """With a mask of subjects that are left out, 4 bytes a voxel more."""
    Y, M, ev = study(4)
    evs = {2: ev, -4: lesions(4)} if excludes else {2: ev}
    made = voxelwise_model(Y, M, np.array([[0, 0, 1.0]]), evs, method, device=ShimDevice())._on_device
    (bases,) = made.slabs()
    arrays = (*bases.exact, *bases.rounded) if made.rounds else bases.exact
    taken = sum(int(np.prod(array.shape)) * array.dtype.itemsize for array in arrays) + 2 * 4 * made.rows * V
    assert made.rounds == (method is Method.FREEDMAN_LANE)
    for n_bytes, fits in ((taken + 4 * V * excludes, True), (taken - 1, False)):
        width = slab_width(4 * n_bytes, N, made.rows, made.planes, V, rounds=made.rounds)
        assert (width == V) == fits


def test_subjects_left_out_everywhere_are_named_as_what_takes_the_degrees_of_freedom():
    Y, M, _ = study()
    out = np.ones((N, V), dtype=np.float32)
    for stay, rank in ((0, 0), (2, 2)):
        out[:stay] = 0
        said = f"14 volumes, of which no more than {stay} are left in at any voxel, a design of rank {rank}"
        with pytest.raises(DesignError, match=said):
            VoxelwiseGlm(Y, M, np.array([[0.0, 0, 1]]), {-4: out})


@pytest.mark.parametrize("voxelwise", [{3: 0}, {-5: 1}], ids=["an EV", "excluded subjects"])
@pytest.mark.parametrize("demean", [False, True])
def test_a_contrast_that_no_voxel_can_estimate_is_refused(voxelwise, demean):
    """As without voxelwise EVs: either group's mean is not told from the constant."""
    Y, M, ev = study()
    M = np.c_[np.ones(N), M]
    images = {column: (ev > 1.5) if is_mask else ev for column, is_mask in voxelwise.items()}
    settings = {"voxelwise": images, "demean": demean, "n_permutations": 5, "seed": 1, "device": "cpu"}
    with pytest.raises(DesignError, match=r"t-test 1: .*not estimable"):
        gpuvox.randomise(Y, M, [[0, 1, 0, 0]], **settings)
    with pytest.raises(DesignError, match=r"f-test 1: .*not estimable"):
        gpuvox.randomise(Y, M, [[0, 1, -1, 0], [0, 1, 0, 0]], f_tests=[[1, 1]], **settings)


def test_voxels_where_the_contrast_is_not_estimable_are_counted():
    Y, M, ev = study()
    ev[:, [5, 9]] = 1.0
    ev[:, 11] = M[:, 0]
    with pytest.warns(UserWarning, match="not estimable at 3 of 70 voxels"):
        found = gpuvox.randomise(Y, M, [[0, 0, 1]], voxelwise={2: ev}, n_permutations=30, seed=1, device="cpu")
    np.testing.assert_array_equal(np.flatnonzero(found.maps["tstat1"] == 0), [5, 9, 11])
