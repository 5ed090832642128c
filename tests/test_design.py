"""Partition of a design for a contrast, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from gpuvox.design import DesignError, invariant_part, null_rows, partition

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
