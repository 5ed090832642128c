"""r and R², held against the definition in every shuffle (palm/naive.py) and against PALM's files."""

from __future__ import annotations

import numpy as np
import pytest

from gpuvox.correlation import CorrelationScale, correlation
from gpuvox.errors import DesignError
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.signed_rows import to_one
from tests.cuda_on_cpu.shim import CXX, ShimDevice
from tests.palm import cases, naive
from tests.test_regression_methods import CONTRASTS, N, V, assert_palm_wrote, data, design

needs_compiler = pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")


def all_exact(model, shuffles):
    number, voxel = (index.ravel() for index in np.indices((len(shuffles), model.n_voxels)))
    return model.from_maps(model.exact(shuffles, number, voxel)).reshape(len(shuffles), -1)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("demean", [False, True])
@pytest.mark.parametrize("name", CONTRASTS)
def test_every_shuffle_equals_the_definition(name, demean, flip):
    contrast, is_f = CONTRASTS[name]
    rng = np.random.default_rng(4)
    M, Y = design(rng), 50 + 5 * data(rng)
    if demean:  # one group and the mean: the other group is what is left
        M, contrast = M[:, [0, 2, 3]], np.array(contrast)[:, [0, 2, 3]]
    shuffler = Shuffler(M, Permutations(9, 1, flip=flip))
    shuffles = shuffler.shuffles(0, 9)
    model = correlation(Y, M, contrast, shuffler.invariant, is_f=is_f, demean=demean)
    centre = (lambda A: A - A.mean(axis=0)) if demean else (lambda A: A)
    split = naive.partition(centre(M), np.asarray(contrast, float))
    theirs = [naive.correlation(p, centre(Y.astype(float)), split, not is_f).raw for p in to_one(shuffles)]
    np.testing.assert_allclose(model.from_maps(model.statistic_maps(shuffles)), theirs, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(
        all_exact(model, shuffles), theirs, rtol=1e-8, atol=1e-8
    )  # the definition takes a root of a difference


@pytest.mark.parametrize("name", ["t of groups", "F"])
def test_z_is_that_of_the_definition(name):
    contrast, is_f = CONTRASTS[name]
    rng = np.random.default_rng(9)
    M, Y = design(rng), data(rng)
    Y[:, 4] = M[:, 0] + 2 * M[:, 3] + 1e-4 * Y[:, 4]  # nearly perfect
    shuffler = Shuffler(M, Permutations(30, 1))
    shuffles = shuffler.shuffles(0, 30)
    model = CorrelationScale(correlation(Y, M, contrast, shuffler.invariant, is_f=is_f))
    split = naive.partition(M, np.asarray(contrast, float))
    theirs = np.array([naive.correlation(p, Y.astype(float), split, not is_f).z for p in to_one(shuffles)])
    number, voxel = (index.ravel() for index in np.indices(theirs.shape))
    np.testing.assert_allclose(model.exact(shuffles, number, voxel).reshape(30, -1), theirs, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(model.statistic_maps(shuffles), theirs, rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("flip", [False, True])
def test_a_device_gives_the_same_bits(flip):
    device = ShimDevice()
    for contrast, is_f in CONTRASTS.values():
        rng = np.random.default_rng(2)
        M, Y = design(rng), data(rng)
        Y[:, 2], Y[:, 3] = 7, M[:, 0] * 3 + M[:, 2] + M[:, 3]  # constant; a perfect fit
        shuffler = Shuffler(M, Permutations(70, 4, flip=flip))
        model = correlation(Y, M, contrast, shuffler.invariant, is_f=is_f)
        twin, shuffles = model.on(device), shuffler.shuffles(0, 70)
        maps = model.statistic_maps(shuffles)
        np.testing.assert_array_equal(device.download(twin.statistic_maps(shuffles)), maps)
        number, voxel = np.arange(60), np.arange(60) % V
        np.testing.assert_array_equal(twin.exact(shuffles, number, voxel), model.exact(shuffles, number, voxel))
        scaled = CorrelationScale(model)
        np.testing.assert_array_equal(
            device.download(scaled.on(device).statistic_maps(shuffles)), scaled.statistic_maps(shuffles)
        )
        assert not maps[:, 2].any()
        assert np.abs(model.from_maps(maps[0, 3])) > 0.1


def test_a_design_without_a_constant_is_refused():
    x = np.random.default_rng(1).normal(size=(N, 2))
    with pytest.raises(DesignError, match="no combination of the nuisance variables is constant"):
        correlation(data(np.random.default_rng(0)), x, [1, 0], np.zeros((N, 0)))


def test_the_files_that_palm_wrote():
    case = cases.Case("pearson_r_r2")
    Y, _ = case.modalities[0]
    for contrast in case.tests:
        shuffler = ImportedShuffler(case.permutations(contrast))
        model = correlation(
            Y.astype(np.float32), case.designs[0], contrast.weights, shuffler.invariant, is_f=not contrast.is_t
        )
        assert_palm_wrote(case, 0, contrast, all_exact(model, shuffler.shuffles(0, shuffler.n)))
