"""Partition of a design for a contrast, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from gpuvox.analysis import Inputs, Options, list_tests, make_shuffler
from gpuvox.errors import DesignError
from gpuvox.grid import Grid
from gpuvox.partitioning import demean_columns, invariant_part, null_rows, partition

GROUPS = np.c_[np.repeat([1.0, 0], 5), np.repeat([0, 1.0], 5), np.linspace(-1, 1, 10) ** 2]


def test_partition_spans_the_design_and_is_orthonormal():
    model = partition(GROUPS, [1, -1, 0])
    both = np.hstack([model.effect, model.nuisance])
    np.testing.assert_allclose(both.T @ both, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(both @ (both.T @ GROUPS), GROUPS, atol=1e-12)
    assert (model.df, model.rank_effect, model.rank_nuisance) == (7, 1, 2)
    assert model.effect[0, 0] > 0 > partition(GROUPS, [-1, 1, 0]).effect[0, 0]


def test_degrees_of_freedom_with_demeaning_and_dependent_columns():
    assert partition(GROUPS, [1, -1, 0], demean=True).df == 10 - 2 - 1
    deficient = np.c_[np.ones(10), GROUPS]
    assert partition(deficient, [0, 1, -1, 0]).df == 7


@pytest.mark.parametrize("scale", [1e6, 1e-6])
def test_rank_is_found_whatever_the_units(scale):
    assert partition(GROUPS * [1, 1, scale], [1, -1, 0]).rank_nuisance == 2


@pytest.mark.parametrize(
    ("design", "contrast", "words"),
    [
        (GROUPS, [0, 0, 0], "zero"),
        (GROUPS, [1, -1], "2 columns; the design has 3"),
        (np.c_[np.ones(10), GROUPS], [0, 1, 0, 0], "not estimable"),
        (np.eye(3), [1, -1, 0], "no residual degrees of freedom"),
        (GROUPS, [np.nan, 1, 0], "finite"),
    ],
)
def test_refusals(design, contrast, words):
    with pytest.raises(DesignError, match=words):
        partition(design, contrast)


def test_mean_contrast_is_not_estimable_once_demeaned():
    with pytest.raises(DesignError, match="demeaned"):
        partition(GROUPS[:, :2], [1, 1], demean=True)


def test_null_rows_are_those_the_effect_does_not_touch():
    design = np.c_[[1.0, 1, -1, -1, 0, 0], np.ones(6)]
    np.testing.assert_array_equal(null_rows(design, [1, 0]), [0, 0, 0, 0, 1, 1])


def test_invariant_part_is_found():
    model = partition(GROUPS, [1, -1, 0])
    constant = np.full((10, 1), 10**-0.5)
    fixed, moving = invariant_part(model.nuisance, constant)
    np.testing.assert_allclose(np.abs(fixed.T @ constant), 1)
    assert moving.shape == (10, 1)
    np.testing.assert_allclose(moving.T @ constant, 0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e9, 1e13])
@pytest.mark.parametrize("weight", [1e-12, 1.0, 1e6])
def test_units_of_covariates_and_contrasts_do_not_matter(scale, weight):
    rng = np.random.default_rng(2)
    x = rng.normal(size=12) + 3
    M, C = np.c_[np.ones(12), x], np.array([[0.0, 1], [1, -1]])
    expected = partition(M, C[0])
    model = partition(np.c_[np.ones(12), x * scale], C[0] * weight)
    assert (model.df, model.rank_nuisance) == (10, 1)
    np.testing.assert_allclose(model.effect, expected.effect, atol=1e-9)
    both = partition(np.c_[np.ones(12), x * scale], C * [1, scale] * [[weight], [1]], is_f=True)
    assert (both.rank_effect, both.df) == (2, 10)


@pytest.mark.parametrize("constant", [0.1, 0.3, 70.1, 1e10 / 3])
def test_a_constant_that_is_demeaned_is_nothing(constant):
    x = np.random.default_rng(0).normal(size=11)
    M = np.c_[np.full(11, constant), x]
    assert (demean_columns(M)[:, 0] == 0).all()
    assert partition(M, [0, 1], demean=True).df == 9
    with pytest.raises(DesignError, match="not estimable"):
        partition(M, [1, 0], demean=True)


@pytest.mark.parametrize("contrast", [[0, 1, 0], [1, -1, 0]])
def test_a_nuisance_in_small_units_changes_no_shuffle(contrast):
    """A date in milliseconds is 1e12 times as large as an indicator."""
    rng = np.random.default_rng(3)
    days = rng.integers(0, 2000, 12)
    effect = rng.normal(0.4, 0.02, 12) if contrast[0] == 0 else np.repeat([0.0, 1], 6)
    first = np.ones(12) if contrast[0] == 0 else 1 - effect
    counts = set()
    for date in (days, (20000.0 + days) * 86_400_000):
        M = np.c_[first, effect, date]
        given = Inputs(np.zeros((12, 1), np.float32), Grid(np.ones((1, 1, 1), bool)), M, np.array([contrast], float),
                       np.zeros((0, 1)))  # fmt: skip
        (test,) = list_tests(given, Options())
        shuffler = make_shuffler(given, Options(n_permutations=100), test)
        counts.add((shuffler.flips, shuffler.n_distinct))
    assert len(counts) == 1
    assert not shuffler.flips
    assert shuffler.n_distinct > 900
