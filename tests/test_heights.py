"""Thresholds of TFCE far beyond any table, and scores of any size."""

from __future__ import annotations

import numpy as np
import pytest

from gpuvox.heights import LINEAR, add_to_scores, ladder, score_values


def summed(step, n):
    """0, δ, 2δ … as FSL sums them."""
    terms = np.full(n, step, dtype=np.float32)
    terms[0] = 0
    return np.add.accumulate(terms, dtype=np.float32)


@pytest.mark.parametrize("step", [0.1, 0.25, 0.0123456, 3.7, 1e-4, 0.3125, 1 / 3])
def test_the_ladder_has_the_thresholds_that_float32_sums_have(step):
    step, first, n = np.float32(step), 700, 1 << 20
    heights = summed(step, n)
    rungs = ladder(step, heights[first])
    parts = [a + d * np.arange(min(c, n)) for a, d, c in zip(rungs.start, rungs.rise, rungs.count)]
    found = np.concatenate(parts)[: n - first]
    np.testing.assert_array_equal(found, heights[first:])
    t = np.concatenate([heights[first::5001], np.nextafter(heights[first::5003], np.float32(np.inf))])
    for power in (0.0, 1.0, 1.5, 2.0, 3.0):
        sums = np.concatenate([[0], np.cumsum((heights[first:].astype(np.float64) / float(step)) ** power)])
        expected = sums[np.searchsorted(heights[first:], t)]
        np.testing.assert_allclose(rungs.sums(t, power), expected, rtol=1e-9)


def test_the_ladder_goes_on_where_float32_sums_stop():
    """FSL never ends there."""
    heights = summed(np.float32(0.1), 1 << 26)
    assert heights[-1] == heights[-2]
    rungs = ladder(np.float32(0.1), heights[1000])
    sums = rungs.sums(np.array([heights[-1], 2 * heights[-1], 1e9, 1e30], np.float32), 2.0)
    assert np.isfinite(sums).all()
    assert (np.diff(sums) > 0).all()


def test_scores_of_any_size_keep_their_order_and_value():
    more = np.array([0.0, 5, 2.0**53, 1e18, 8e18, 9e18, 1e19, 2e19, 1e25, 1e60, 1e300])
    score = add_to_scores(np.full(len(more), 7), more)
    assert score.dtype == np.int64
    assert score[0] == 7
    assert score[1] == 12
    assert (np.diff(score) > 0).all()
    assert (score > LINEAR).sum() == 6  # LINEAR is 8.6e18
    np.testing.assert_allclose(score_values(score), 7 + more, rtol=1e-13)
    np.testing.assert_array_equal(score_values(-score), -score_values(score))
    np.testing.assert_array_equal(score_values(np.array([1.5, -2])), [1.5, -2])
    assert add_to_scores(np.array([0]), np.array([np.inf]))[0] > score[-1]
