"""Restricted maximum likelihood (REML) of a linear mixed model with one grouping factor, y = X β + Z b + e.

The variances of the random effects are relative to that of the residuals and are given by their Cholesky factor θ;
fixed effects and residual variance are profiled out (Bates, Mächler, Bolker & Walker 2015, J Stat Softw 67(1), section
3).
θ is unconstrained, so estimates at the limits of variances (0) and correlations (±1) are found as any others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from gpuvox.errors import DesignError
from gpuvox.plain import several
from gpuvox.types import Float64

AT_LIMIT = 1e-4
"""A Cholesky factor below it is 0, as lme4's ``isSingular`` has it."""
FIRST_GUESSES = (0.1, 1.0, 10.0)
"""Ratios of the SD of a random effect to that of the residuals from which the search may begin."""
SEARCHES = 8


@dataclass(frozen=True, eq=False)
class RestrictedFit:
    """Estimates of a mixed model.

    Attributes
    ----------
    effects : (p,) ndarray
        Fixed effects.
    covariance : (p, p) ndarray
        Of the fixed effects, given the variances.
    random : (q, q) ndarray
        Covariance of the random effects.
    residual : float
        Variance of the residuals.
    likelihood : float
        Logarithm of the restricted likelihood, as lme4 and statsmodels have it.
    at_limit : bool
        The covariance of the random effects is singular: a variance is 0, or effects are perfectly correlated.
    converged : bool
    """

    effects: Float64
    covariance: Float64
    random: Float64
    residual: float
    likelihood: float
    at_limit: bool
    converged: bool


def restricted_fit(y: ArrayLike, X: ArrayLike, Z: ArrayLike, who: Sequence[object]) -> RestrictedFit:
    """Estimates that maximise the restricted likelihood.

    Parameters
    ----------
    y : (n,) array_like
    X : (n, p) array_like
        Fixed effects, of full column rank.
    Z : (n, q) array_like
        Random effects of each participant, independent of each other over all rows.
    who : (n,) sequence
        The participant of each row.

    Raises
    ------
    DesignError
        The rows of each participant are too few to tell the residuals from the random effects, or the model fits the
        data exactly.
    """
    outcome, fixed, random = (np.asarray(each, dtype=np.float64) for each in (y, X, Z))
    sums = _Sums.of(outcome, fixed, random, np.asarray(who))
    found, converged = _minimise(sums)
    theta = _at_limits(found, sums.q)
    solution = sums.solve(theta)
    factor = sums.back @ _lower(theta, sums.q)
    smallest = float(np.abs(np.diag(_lower(theta, sums.q))).min())
    residual = solution.squares / sums.df
    return RestrictedFit(
        solution.effects, solution.covariance * residual, factor @ factor.T * residual, residual,
        -0.5 * (solution.deviance + sums.constant), smallest < AT_LIMIT, converged,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Solution:
    """Profiled estimates given θ: fixed effects, their covariance over that of residuals, Σ of squares, −2 log L."""

    effects: Float64
    covariance: Float64
    squares: float
    deviance: float


@dataclass(frozen=True, eq=False)
class _Sums:
    """What the likelihood needs of the data. Within participants, rows are split into what Z can fit and the rest.

    Attributes
    ----------
    fitted : (m, q, p + 1) ndarray
        Coordinates of X and y in an orthonormal basis of each participant's Z.
    triangle : (m, q, q) ndarray
        Coordinates of Z in it.
    rest : (p + 1, p + 1) ndarray
        Products of what is orthogonal to Z.
    basis : (p, p) ndarray
        X is orthonormal columns times it.
    back : (q, q) ndarray
        From the random effects of the scaled columns to those of Z.
    df, constant : int, float
        n − p, and the part of −2 log L that does not depend on θ.
    """

    fitted: Float64
    triangle: Float64
    rest: Float64
    basis: Float64
    back: Float64
    df: int
    constant: float

    @property
    def q(self) -> int:
        return self.triangle.shape[1]

    @classmethod
    def of(cls, y: Float64, X: Float64, Z: Float64, who: np.ndarray) -> _Sums:
        n, p, q = len(y), X.shape[1], Z.shape[1]
        # Columns of Z orthogonal over all rows and of mean square 1, so that θ has the same scale for each.
        scaled, upper = np.linalg.qr(Z)
        scaled, upper = scaled * np.sqrt(n), upper / np.sqrt(n)
        orthonormal, basis = np.linalg.qr(X)
        A = np.column_stack([orthonormal, y])
        _, codes = np.unique(who, return_inverse=True)
        m = int(codes.max()) + 1
        fitted, triangle, rest = np.zeros((m, q, p + 1)), np.zeros((m, q, q)), np.zeros((p + 1, p + 1))
        spare = n
        for i in range(m):
            rows = codes == i
            Q = _range_of(scaled[rows])
            k = Q.shape[1]
            fitted[i, :k], triangle[i, :k] = Q.T @ A[rows], Q.T @ scaled[rows]
            left = A[rows] - Q @ fitted[i, :k]
            rest += left.T @ left
            spare -= k
        if spare < 1:
            raise DesignError(
                f"no participant has more than {several(q, 'visit')}, too few to tell random effects from residuals"
            )
        total = float(y @ y)
        if float(np.sum((y - orthonormal @ (orthonormal.T @ y)) ** 2)) <= 1e-20 * total:
            raise DesignError("groups, times and covariates explain all of its values exactly, without residuals")
        if _unexplained(rest) <= 1e-20 * total:
            raise DesignError("the random effects fit each participant's values exactly, without residuals")
        determinant = 2 * np.log(np.abs(np.diag(basis))).sum()
        constant = (n - p) * (1 + np.log(2 * np.pi / (n - p))) + determinant
        return cls(fitted, triangle, rest, basis, np.linalg.inv(upper), n - p, float(constant))

    def solve(self, theta: Float64) -> _Solution:
        """The estimates of the fixed effects given θ, by generalised least squares."""
        p, q = len(self.basis), self.q
        spread = self.triangle @ _lower(theta, q)
        within = np.linalg.cholesky(np.eye(q) + spread @ spread.transpose(0, 2, 1))
        whitened = np.linalg.solve(within, self.fitted).reshape(-1, p + 1)
        factor = np.linalg.cholesky(self.rest + whitened.T @ whitened)
        inverse = np.linalg.inv(factor[:p, :p].T)
        back = np.linalg.solve(self.basis, inverse)
        logarithms = np.log(np.diagonal(within, axis1=1, axis2=2)).sum() + np.log(np.diag(factor)[:p]).sum()
        squares = float(factor[p, p] ** 2)
        deviance = float(2 * logarithms + self.df * np.log(squares))
        effects = np.asarray(back @ factor[p, :p], dtype=np.float64)
        return _Solution(effects, back @ back.T, squares, deviance)


def _unexplained(products: Float64) -> float:
    """The sum of squares of the last variable that the others do not explain, from all products."""
    X, y = products[:-1, :-1], products[:-1, -1]
    return float(products[-1, -1] - y @ np.linalg.pinv(X, rcond=1e-12, hermitian=True) @ y)


def _range_of(Z: Float64) -> Float64:
    """Orthonormal columns that span those of Z."""
    U, singular, _ = np.linalg.svd(Z, full_matrices=False)
    return U[:, singular > 1e-9 * singular[0]]


def _lower(theta: Float64, q: int) -> Float64:
    factor = np.zeros((q, q))
    factor[np.tril_indices(q)] = theta
    return factor


def _minimise(sums: _Sums) -> tuple[Float64, bool]:
    """θ of the largest likelihood, and whether a search that begins there ends there."""

    def deviance(theta: Float64) -> float:
        return sums.solve(theta).deviance

    rows, columns = np.tril_indices(sums.q)
    starts = []
    for spreads in product(FIRST_GUESSES, repeat=sums.q):
        starts.append(np.where(rows == columns, np.array(spreads)[rows], 0.0))
    best = min(starts, key=deviance)
    value = deviance(best)
    options = {"xatol": 1e-7, "fatol": 1e-11, "maxiter": 300 * len(best)}
    for _ in range(SEARCHES):
        found = optimize.minimize(deviance, best, method="Nelder-Mead", options=options)
        gained, best, value = value - found.fun, found.x, float(found.fun)
        # Not `success`: where θ is large, rounding alone may be more than the tolerances.
        if gained < 1e-8:
            return best, True
    return best, False


def _at_limits(theta: Float64, q: int) -> Float64:
    """θ with variances and Cholesky factors that are 0 but for the precision of the search as 0."""
    factor = _lower(theta, q)
    np.fill_diagonal(factor, np.where(np.abs(np.diag(factor)) < AT_LIMIT, 0.0, np.diag(factor)))
    factor[np.linalg.norm(factor, axis=1) < AT_LIMIT] = 0.0
    return factor[np.tril_indices(q)]
