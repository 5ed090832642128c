"""Estimates of the whole design, ``--glm_output``, against least squares of one voxel at a time."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from gpuvox.estimates import parameter_estimates
from gpuvox.grid import Grid
from gpuvox.prepared import Inputs

V = 3


def inputs(design, contrasts, lesions=None):
    """Noise at three voxels, two of which lack participants if there are lesions."""
    data = np.random.default_rng(7).normal(size=(len(design), V)).astype(np.float32)
    evs = {} if lesions is None else {-design.shape[1] - 1: lesions.astype(np.float32)}
    grid = Grid(np.ones((V, 1, 1), dtype=bool))
    return Inputs(data, grid, design, np.atleast_2d(contrasts).astype(float), np.zeros((0, 1)), evs=evs)


def lesioned(n):
    out = np.zeros((n, V))
    out[0, 1], out[[2, 5], 2] = 1, 1
    return out


@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("n", [10, 13, 17])
@pytest.mark.parametrize("constant", [0.1, 0.3, 3.3, 1e10 / 3])
def test_a_constant_that_is_demeaned_is_no_parameter(constant, n, excluded):
    x = np.random.default_rng(n).normal(size=n)
    lesions = lesioned(n) if excluded else None
    both = parameter_estimates(inputs(np.c_[x, np.full(n, constant)], [1, 0], lesions), demean=True)
    alone = parameter_estimates(inputs(x[:, None], [1], lesions), demean=True)
    assert not both["pe"][1].any()
    assert_allclose(both["pe"][0], alone["pe"][0], rtol=1e-10)
    for name in ("cope", "varcope", "sigmasqr"):
        assert_allclose(both[name], alone[name], rtol=1e-10)


@pytest.mark.parametrize("excluded", [False, True])
def test_estimates_do_not_depend_on_the_units_of_covariates(excluded):
    """Cubes of volumes in litres and in mm³, beside a constant, and independent of it only if scaled."""
    rng = np.random.default_rng(3)
    litres, lesions = rng.normal(1.5, 0.12, 14), lesioned(14) if excluded else None
    group = np.arange(14) % 2
    of_litres, of_mm3 = (
        parameter_estimates(inputs(np.c_[np.ones(14), group, size**3], [0, 1, 0], lesions), demean=False)
        for size in (litres, litres * 1e6)
    )
    for name in ("cope", "varcope", "sigmasqr"):
        assert_allclose(of_mm3[name], of_litres[name], rtol=1e-7)
    assert_allclose(of_mm3["pe"][2] * 1e18, of_litres["pe"][2], rtol=1e-7)
