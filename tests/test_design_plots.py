"""The picture of a design: its correlations are Pearson's, and constant columns have none."""

import numpy as np
from numpy.testing import assert_allclose

from gpuvox.findings.design_plots import correlations, design_picture


def test_correlations_of_columns():
    rng = np.random.default_rng(0)
    group = np.repeat([1.0, 0], 8)
    matrix = np.column_stack([group, 1 - group, rng.normal(1500, 90, 16), np.full(16, 0.1)])
    r = correlations(matrix)
    assert_allclose(r[:3, :3], np.corrcoef(matrix[:, :3].T), atol=1e-12)
    assert np.isnan(r[3]).all()
    assert np.isnan(r[:, 3]).all()


def test_the_picture_is_a_file_whatever_the_columns():
    rng = np.random.default_rng(0)
    for p in (1, 3, 14, 70):
        names = [f"group[<{i}>] & $x_{i}$" for i in range(p)]
        picture = design_picture(rng.normal(size=(90, p)), names, "90 rows")
        assert picture.png.startswith(b"\x89PNG")
        assert picture.svg.startswith(b"<?xml")
    again = design_picture(rng.normal(size=(9, 2)) * 0 + np.eye(9)[:, :2], ["a", "b"], "9 rows")
    assert "the largest is -0.12, of a and b" in again.picture.alt
