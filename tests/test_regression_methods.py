"""Regression and permutation methods, held against refits of every shuffle (palm/naive.py) and against PALM's files."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from gpuvox.errors import DesignError, InputError
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.partitioning import orthonormal_basis
from gpuvox.reductions import upload_items
from gpuvox.regression_methods import Method, Partitioning, RegressionTest, residual_rotation
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.signed_rows import to_one
from gpuvox.voxelwise_evs import VoxelwiseGlm
from gpuvox.voxelwise_methods import voxelwise_model
from tests.cuda_on_cpu.shim import CXX, ShimDevice
from tests.palm import cases, naive
from tests.palm.cases import written
from tests.selection import few

needs_compiler = pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")
N, V = 14, 9
ALONE = (Method.KENNEDY, Method.STILL_WHITE)
"""Methods that fit no nuisance, but for a mean that was removed."""
NAIVE = [method for method in Method if method not in (Method.HUH_JHUN, Method.KENNEDY)]


def design(rng, n=N):
    """Two groups, a covariate that differs between them, and another one."""
    group = np.arange(n) % 2
    return np.c_[group, 1 - group, rng.normal(size=(n, 2)) + group[:, None]]


def data(rng, n=N):
    return (rng.normal(size=(n, V)) + 3).astype(np.float32)


CONTRASTS = {
    "t of groups": ([[1, -1, 0, 0]], False),
    "t of a covariate": ([[0, 0, 1, 0]], False),
    "F": ([[1, -1, 0, 0], [0, 0, 0, 1]], True),
}


def refit(test, p, Y):
    """The statistic of one shuffle, fitted in full with the whole design and the contrast."""
    M, C = np.asarray(test.design, float), np.atleast_2d(np.asarray(test.contrast, float))
    if test.demean:
        M, Y = M - M.mean(axis=0), Y - Y.mean(axis=0)
    used = C.any(axis=0)
    if test.partitioning is Partitioning.GUTTMAN:
        X, Z, C = M[:, used], M[:, ~used], C[:, used]
    else:
        X, Z = naive.partition(M, C)
        C = np.eye(X.shape[1])
    has_mean = test.demean and test.count_mean and test.method is not Method.HUH_JHUN
    if has_mean:
        Z = np.c_[Z, np.ones(len(Z))]
    if test.method is Method.KENNEDY:
        rows, moved, still = naive.residuals(Z, Y), naive.moved(p, naive.residuals(Z, X)), Z[:, :0]
    elif test.method is Method.HUH_JHUN:
        Q = test.rotation
        rows, moved, still = Q.T @ Y, naive.moved(p, Q.T @ X), np.zeros((Q.shape[1], 0))
    else:
        whole = naive.Model(X, Z)
        rows, moved, still = naive.permuted(p, Y, whole, test.method.value)
    if has_mean and test.method in ALONE:
        still = naive.moved(p, np.ones((len(Z), 1)))
    A = np.hstack([moved, still])
    C = np.hstack([C, np.zeros((len(C), still.shape[1]))])
    b = np.linalg.pinv(A) @ rows
    variance = ((rows - A @ b) ** 2).sum(axis=0) / test.df
    covariance = C @ np.linalg.pinv(A.T @ A) @ C.T
    effect = C @ b
    if not test.is_f:
        return effect[0] / np.sqrt(variance * covariance[0, 0])
    return np.einsum("iv,ij,jv->v", effect, np.linalg.inv(covariance), effect) / len(C) / variance


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("partitioning", list(Partitioning))
@pytest.mark.parametrize("method", list(Method))
def test_every_method_equals_a_refit_of_every_shuffle(method, partitioning, flip):
    for seed, (contrast, is_f) in enumerate(CONTRASTS.values()):
        rng = np.random.default_rng(seed)
        M, Y = design(rng), data(rng)
        test = RegressionTest(M, contrast, method, partitioning, is_f)
        shuffler = Shuffler(test.regressors, Permutations(7, seed, flip=flip))
        model = test.model(Y, shuffler.invariant)
        shuffles = shuffler.shuffles(0, 7)
        theirs = np.array([refit(test, p, Y.astype(float)) for p in to_one(shuffles)])
        tolerance = 1e-5 if method is Method.HUH_JHUN else 1e-9
        np.testing.assert_allclose(model.statistic_maps(shuffles), theirs, rtol=2e-4, atol=2e-5)
        number, voxel = (index.ravel() for index in np.indices(theirs.shape))
        exact = model.exact(shuffles, number, voxel).reshape(theirs.shape)
        np.testing.assert_allclose(exact, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("flip", [False, True])
def test_methods_whose_nuisance_moves_differ_from_those_whose_nuisance_stays(flip):
    """Maps of different methods are different ones, unpermuted they are all the same; Kennedy's too."""
    rng = np.random.default_rng(5)
    M, Y = design(rng), data(rng)
    maps = {}
    for method in Method:
        test = RegressionTest(M, [[1, -1, 0, 0]], method, Partitioning.GUTTMAN)
        shuffler = Shuffler(test.regressors, Permutations(3, 1, flip=flip))
        maps[method] = test.model(Y, shuffler.invariant).statistic_maps(shuffler.shuffles(0, 3))
    first = maps[Method.FREEDMAN_LANE][0]
    for method in Method:
        if method is not Method.STILL_WHITE:  # Guttman's X is not orthogonal to the nuisance
            np.testing.assert_allclose(maps[method][0], first, rtol=1e-4)
    pairs = [(a, b) for a in Method for b in Method if a.value < b.value]
    for a, b in pairs:
        assert np.abs(maps[a][1:] - maps[b][1:]).max() > 1e-3, (a, b)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("count_mean", [True, False])
def test_demeaned(flip, count_mean):
    rng = np.random.default_rng(3)
    M, Y = np.c_[np.ones(N), design(rng)[:, 1:]], data(rng)
    for method in Method:
        test = RegressionTest(M, [[0, 1, 0, 0]], method, demean=True, count_mean=count_mean)
        assert test.df == N - 3 - count_mean
        shuffler = Shuffler(test.regressors, Permutations(5, 1, flip=flip))
        shuffles = shuffler.shuffles(0, 5)
        theirs = np.array([refit(test, p, Y.astype(float) - Y.mean(axis=0)) for p in to_one(shuffles)])
        ours = test.model(Y, shuffler.invariant).statistic_maps(shuffles)
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5, err_msg=str(method))


def test_a_mean_that_is_removed_is_flipped_as_an_intercept_is():
    rng = np.random.default_rng(4)
    x, Y = rng.normal(size=(N, 2)), data(rng)
    tests = RegressionTest(x, [1, 0], demean=True), RegressionTest(np.c_[x, np.ones(N)], [1, 0, 0])
    shuffler = Shuffler(x, Permutations(9, 1, permute_and_flip=True))
    ours, theirs = (test.model(Y, shuffler.invariant).statistic_maps(shuffler.shuffles(0, 9)) for test in tests)
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


def error_rate(method, partitioning, n_nuisance, sets=20):
    """Share of data sets of 12 without an effect that sign flips of a demeaned model call significant at 5 %."""
    called = []
    for seed in range(sets):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(12, n_nuisance))
        x = rng.normal(size=(12, 1)) + 1 + z[:, :1].sum(axis=1, keepdims=True)
        Y = (rng.normal(size=(12, 500)) + 2 + z.sum(axis=1, keepdims=True)).astype(np.float32)
        test = RegressionTest(np.hstack([x, z]), [1] + [0] * n_nuisance, method, partitioning, demean=True)
        shuffler = Shuffler(test.regressors, Permutations(100, seed, flip=True))
        maps = test.model(Y, shuffler.invariant).statistic_maps(shuffler.shuffles(0, 100))
        called.append(np.mean(naive.at_least(maps, maps[0]) <= 0.05))
    return np.mean(called)


@pytest.mark.parametrize("method", [m for m in Method if m is not Method.TER_BRAAK])
def test_sign_flips_of_a_demeaned_model_keep_the_error_rate(method):
    """10,000 data sets: without nuisance, of every method but ter Braak's; with it, of those that keep it."""
    assert abs(error_rate(method, Partitioning.GUTTMAN, 0) - 0.05) < 0.0065
    if method not in (*ALONE, Method.MANLY):
        assert abs(error_rate(method, Partitioning.BECKMANN, 2) - 0.05) < 0.0065


@needs_compiler
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("method", [Method.DEKKER, Method.TER_BRAAK, Method.STILL_WHITE, Method.HUH_JHUN])
def test_a_device_gives_the_same_bits(method, flip):
    device = ShimDevice()
    for contrast, is_f in CONTRASTS.values():
        rng = np.random.default_rng(2)
        M, Y = design(rng), data(rng)
        Y[:, 2] = 7
        test = RegressionTest(M, contrast, method, Partitioning.GUTTMAN, is_f)
        shuffler = Shuffler(test.regressors, Permutations(70, 4, permute_and_flip=flip))
        model = test.model(Y, shuffler.invariant)
        twin, shuffles = model.on(device), shuffler.shuffles(0, 70)
        ours = device.download(twin.statistic_maps(shuffler.on_device(0, 70, device)))
        np.testing.assert_array_equal(ours, model.statistic_maps(shuffles))
        number, voxel = np.arange(60), np.arange(60) % V
        np.testing.assert_array_equal(twin.exact(shuffles, number, voxel), model.exact(shuffles, number, voxel))
        np.testing.assert_array_equal(twin.exact_map(shuffles[3]), model.exact_map(shuffles[3]))
        assert not model.statistic_maps(shuffles)[:, 2].any()


@needs_compiler
@pytest.mark.parametrize("method", [Method.DRAPER_STONEMAN, Method.TER_BRAAK])
def test_shuffles_that_leave_the_model_as_it_is_tie_exactly(method):
    """The same labelling, another order of equal rows: the bits of the unpermuted map, on either device."""
    rng = np.random.default_rng(6)
    group = np.arange(N) < 6
    M, Y = np.c_[group, ~group].astype(float), data(rng)
    same = np.r_[np.arange(6)[::-1], np.arange(6, N)].astype(np.int32)
    shuffles = np.array([np.arange(N), same, np.roll(np.arange(N), 3)], dtype=np.int32)
    test = RegressionTest(M, [1, -1], method)
    model = test.model(Y, np.full((N, 1), N**-0.5))
    device = ShimDevice()
    for maps in (model.statistic_maps(shuffles), device.download(model.on(device).statistic_maps(shuffles))):
        assert (maps[0] == model.exact_map(shuffles[0]).astype(np.float32)).all()
        assert (maps[1] == maps[0]).all() == (method is Method.DRAPER_STONEMAN)
        assert (maps[2] != maps[0]).any()


def test_huh_and_jhun_rotate_residuals():
    rng = np.random.default_rng(1)
    for Z in (rng.normal(size=(9, 3)), np.eye(9)[:, [0, 4]], np.ones((9, 1)), np.zeros((9, 0))):
        basis = orthonormal_basis(Z)
        Q = residual_rotation(basis)
        np.testing.assert_allclose(Q.T @ Q, np.eye(9 - basis.shape[1]), atol=1e-12)
        np.testing.assert_allclose(Q @ Q.T, np.eye(9) - basis @ basis.T, atol=1e-12)
        # Another basis of the same space has the same Q.
        turned = basis @ np.linalg.qr(rng.normal(size=(basis.shape[1],) * 2))[0]
        np.testing.assert_allclose(residual_rotation(turned), Q, atol=1e-10)


def test_huh_and_jhun_keep_no_blocks():
    test = RegressionTest(design(np.random.default_rng(0)), [1, -1, 0, 0], Method.HUH_JHUN)
    assert test.n_rows == N - 3
    assert test.exchangeable(Permutations(5)).number == 5
    with pytest.raises(InputError, match="exchangeability blocks cannot be kept"):
        test.exchangeable(Permutations(5, blocks=np.ones(N)))


def test_a_contrast_that_cannot_be_estimated_is_refused():
    with pytest.raises(DesignError, match="not estimable"):
        RegressionTest(np.ones((6, 2)), [1, -1], Method.DEKKER)


# -- regressors with values for each voxel --------------------------------------------------------------------------


def voxelwise(seed=4):
    """Data, a design with an intercept whose last column differs from voxel to voxel, and that column."""
    rng = np.random.default_rng(seed)
    M = np.c_[np.ones(N), rng.normal(size=(N, 3))]
    ev = (rng.normal(size=(N, V)) + M[:, 1:2]).astype(np.float32)
    return (data(rng) + ev).astype(np.float32), M, ev


VOXELWISE = {"nuisance": ([[0, 1, 0, 0]], False), "effect": ([[0, 0, 0, 1]], False),
             "F": ([[0, 1, 0, 0], [0, 0, 0, 2]], True)}  # fmt: skip


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("demean", [False, True])
@pytest.mark.parametrize("method", [method for method in Method if method is not Method.HUH_JHUN])
def test_voxelwise_columns_equal_a_refit_of_every_voxel_and_shuffle(method, demean, flip):
    Y, M, ev = voxelwise()
    first = int(demean)  # a column of ones is lost with the mean
    for contrast, is_f in VOXELWISE.values():
        C = np.array(contrast, float)[:, first:]
        shuffler = Shuffler(ev[:, :1], Permutations(6, 1, flip=flip))
        shuffles = shuffler.shuffles(0, 6)
        theirs = np.empty((6, V))
        for v in range(V):
            M[:, 3] = ev[:, v]
            test = RegressionTest(M[:, first:], C, method, is_f=is_f, demean=demean)
            theirs[:, v] = [refit(test, p, Y[:, [v]].astype(float))[0] for p in to_one(shuffles)]
        model = voxelwise_model(
            Y, M[:, first:], C, {3 - first: ev}, method, demean=demean, is_f=is_f, keeps_mean=flip
        )
        assert (np.asarray(model.dfs[1]) == N - 4).all()
        np.testing.assert_allclose(all_exact(model, shuffles), theirs, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(model.statistic_maps(shuffles), theirs, rtol=2e-4, atol=2e-5)


@needs_compiler
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("method", [Method.DEKKER, Method.KENNEDY, Method.TER_BRAAK])
def test_a_device_gives_the_same_bits_of_voxelwise_columns(method, flip):
    device = ShimDevice()
    Y, M, ev = voxelwise()
    Y[:, 2], ev[:, 5] = 7, 1
    for contrast, is_f in VOXELWISE.values():
        shuffler = Shuffler(ev[:, :1], Permutations(30, 4, permute_and_flip=flip))
        model = voxelwise_model(
            Y, M[:, 1:], np.array(contrast)[:, 1:], {2: ev}, method, demean=True, is_f=is_f, keeps_mean=flip
        )
        twin, shuffles = model.on(device), shuffler.shuffles(0, 30)
        maps = model.statistic_maps(shuffles)
        np.testing.assert_array_equal(
            device.download(twin.statistic_maps(shuffler.on_device(0, 30, device))), maps
        )
        number, voxel = np.arange(60) % 30, np.arange(60) % V
        np.testing.assert_array_equal(twin.exact(shuffles, number, voxel), model.exact(shuffles, number, voxel))
        np.testing.assert_array_equal(twin.exact_map(shuffles[3]), model.exact_map(shuffles[3]))
        assert not maps[:, 2].any()
        assert maps[:, 5].any() == (contrast != VOXELWISE["effect"][0])


@needs_compiler
def test_voxelwise_columns_are_sent_slab_by_slab_where_memory_is_short_but_not_for_nothing():
    """A list of ties that is empty needs no data."""
    device = ShimDevice()
    Y, M, ev = voxelwise()
    model = voxelwise_model(Y, M, np.array([[0, 1, 0, 0]]), {3: ev}, Method.DEKKER)
    twin = model.on(device)
    shuffles = Shuffler(ev[:, :1], Permutations(8, 4)).shuffles(0, 8)
    twin._on_device._slabs.width = 4
    np.testing.assert_array_equal(device.download(twin.statistic_maps(shuffles)), model.statistic_maps(shuffles))
    number = np.arange(12) % 8
    np.testing.assert_array_equal(twin.exact(shuffles, number, number), model.exact(shuffles, number, number))
    assert "send" in device.transfers
    device.transfers.clear()
    none = np.zeros(0, np.int32)
    assert len(twin.exact_on(shuffles, upload_items(device, none, none))) == 0
    assert "send" not in device.transfers


def test_huh_and_jhun_have_no_shuffles_of_voxelwise_columns():
    Y, M, ev = voxelwise()
    with pytest.raises(InputError, match="another one at each voxel"):
        voxelwise_model(Y, M, np.array([[0, 1, 0, 0]]), {3: ev}, Method.HUH_JHUN)


@pytest.mark.parametrize("method", [Method.FREEDMAN_LANE, Method.DRAPER_STONEMAN, Method.KENNEDY])
def test_sign_flips_of_voxelwise_columns_without_their_mean_keep_the_error_rate(method):
    """10,000 data sets, each with a regressor of its own."""
    called = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        Y, ev = (rng.normal(size=(12, 500)).astype(np.float32) + offset for offset in (2, 1))
        shuffler = Shuffler(np.arange(12), Permutations(100, seed, flip=True))
        model = voxelwise_model(
            Y, np.zeros((12, 1)), np.ones((1, 1)), {0: ev}, method, demean=True, keeps_mean=True
        )
        maps = model.statistic_maps(shuffler.shuffles(0, 100))
        called.append(np.mean(naive.at_least(maps, maps[0]) <= 0.05))
    assert abs(np.mean(called) - 0.05) < 0.0065


def assert_palm_wrote(case, modality, contrast, maps):
    """The observed map, the second, uncorrected and corrected p of a statistic, from its maps (N, V) in float64."""
    mask = case.modalities[modality][1]
    last = (f"_m{modality + 1}" if len(case.modalities) > 1 else "") + case.suffix(contrast)
    p = {"": maps[0], "_uncp": naive.at_least(maps, maps[0])}
    p["_fwep"] = naive.at_least(maps.max(axis=1)[:, None], maps[0])
    name = f"palm_vox_{case.statistic_name(contrast)}"
    for part, values in p.items():
        path = case.folder / f"{name}{part}{last}.nii.gz"
        np.testing.assert_allclose(values, written(path, mask), rtol=1e-5, atol=1e-8, err_msg=path.name)
    path = case.folder / f"{name}{last}_perm000002.nii.gz"
    np.testing.assert_allclose(maps[1], written(path, mask), rtol=1e-5, atol=1e-8, err_msg=path.name)


def all_exact(model, shuffles):
    number, voxel = (index.ravel() for index in np.indices((len(shuffles), model.n_voxels)))
    return model.exact(shuffles, number, voxel).reshape(len(shuffles), -1)


@pytest.mark.parametrize(
    "name",
    few([
        "rmethod_dekker", "rmethod_draper_stoneman", "rmethod_draper_stoneman_guttman", "rmethod_manly",
        "rmethod_still_white", "rmethod_ter_braak", "demean", "design_per_input", "f_contrasts",
    ], 3, 2),
)  # fmt: skip
def test_the_files_that_palm_wrote(name):
    case = cases.Case(name)
    how = Partitioning(case.command.one("-pmethodr", "Beckmann"))
    method = Method(case.command.one("-rmethod", "Freedman-Lane"))
    for modality, contrast in case.pairs():
        M, C, demean = case.designs[contrast.design], contrast.weights, "-demean" in case.command
        varies = np.ptp(M, axis=0) > 0
        test = RegressionTest(
            M[:, varies] if demean else M,
            C[:, varies] if demean else C,
            method,
            how,
            not contrast.is_t,
            demean,
            False,
        )
        shuffler = ImportedShuffler(case.permutations(contrast), test.n_rows)
        shuffles = shuffler.shuffles(0, shuffler.n)
        model = test.model(case.modalities[modality][0].astype(np.float32), shuffler.invariant)
        maps = all_exact(model, shuffles)
        assert_palm_wrote(case, modality, contrast, maps)
        np.testing.assert_allclose(model.statistic_maps(shuffles), maps, rtol=1e-3, atol=1e-4)


@pytest.mark.long  # test_palm_command has them too
def test_voxelwise_columns_as_palm_has_them():
    case = cases.Case("evperdat")
    Y, mask = case.modalities[0]
    name, column = case.command.options["-evperdat"][0]
    ev = np.asanyarray(nib.load(case.folder / name).dataobj)[mask].T.astype(np.float32)
    for contrast in case.tests:
        shuffler = ImportedShuffler(case.permutations(contrast))
        model = VoxelwiseGlm(
            Y.astype(np.float32), case.designs[0], contrast.weights, {int(column) - 1: ev}, is_f=not contrast.is_t
        )
        assert_palm_wrote(case, 0, contrast, all_exact(model, shuffler.shuffles(0, shuffler.n)))
