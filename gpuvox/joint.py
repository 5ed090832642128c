"""One null distribution for several tests: family-wise error over voxels and tests together.

Permutation i of all tests is the same permutation, and the joint null distribution holds for each the largest value of
any test (Westfall and Young 1993, Resampling-Based Multiple Testing; for images Winkler et al. 2016, Hum Brain Mapp
37:1486). Values of different tests are compared as they are, so they must have one scale: the same statistic with the
same degrees of freedom. TFCE as FSL has it, a sum over steps, is multiplied by the step first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from gpuvox.pvalues import corrected, one_minus
from gpuvox.results import TestResult
from gpuvox.types import Float32, Float64


class JointNull:
    """Null distributions of the maximum over several tests, by statistic.

    Attributes
    ----------
    maxima : dict of (N,) float64
        The largest value of any test in each permutation, the unpermuted data first.
    """

    def __init__(self, results: Iterable[TestResult] = ()) -> None:
        self.maxima: dict[str, Float64] = {}
        for result in results:
            self.add(result)

    def add(self, result: TestResult) -> None:
        """Add a test.

        Raises
        ------
        ValueError
            Its number of permutations is another than that of the tests before it.
        """
        for name, null in result.nulls.items():
            values = np.asarray(null, dtype=np.float64) * result.weights[name]
            before = self.maxima.get(name, values)
            if len(before) != len(values):
                raise ValueError(
                    f"{result.test.name} has {len(values)} permutations, and other tests {len(before)}"
                )
            self.maxima[name] = np.maximum(before, values)

    def corrected(self, result: TestResult) -> dict[str, Float32]:
        """1 − p (V,) of one of the tests by statistic, corrected over all of them."""
        return self._corrected(result)[0]

    def added_to(self, result: TestResult) -> TestResult:
        """One of the tests with these values among its maps, as ``vox_acrossp`` and so on."""
        found, fitted = self._corrected(result)
        return replace(
            result,
            maps={**result.maps, **{f"{name}_acrossp": values for name, values in found.items()}},
            approximated={**result.approximated, **{f"{name}_acrossp": p for name, p in fitted.items()}},
        )

    def _corrected(self, result: TestResult) -> tuple[dict[str, Float32], dict[str, Float64]]:
        """1 − p (V,) of every statistic, and p (V,) of those whose p are approximated."""
        found: dict[str, Float32] = {}
        fitted: dict[str, Float64] = {}
        for name, ties in result.least_ties.items():
            values, maxima = ties * result.weights[name], self.maxima[name]
            found[name] = corrected(maxima, values)
            if result.tail is not None and result.is_approximate(name):
                fitted[name] = result.tail.corrected(maxima, values, found[name])
                found[name] = one_minus(fitted[name])
        return found, fitted
