"""Values adjusted for covariates: residuals, and z-scores of a reference group."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox.errors import DesignError
from gpuvox.types import Float64


def residuals_given(values: Float64, X: Float64) -> Float64:
    """(n,) Residuals of the regression of values on the columns of X, none of which is 0 throughout."""
    scaled = X / np.abs(X).max(axis=0)
    return values - scaled @ np.linalg.lstsq(scaled, values, rcond=None)[0]


def adjusted(values: NDArray, covariates: NDArray, reference: NDArray[np.bool_]) -> Float64:
    """Values as z-scores of the residuals of a reference group.

    The values are regressed on the covariates, with an intercept, in the reference group alone; the residuals of all
    participants are divided by the SD of the reference group's residuals (degrees of freedom: its size minus the number
    of coefficients).

    Parameters
    ----------
    values : (n,) array
        NaN if missing; these get NaN.
    covariates : (n, k) array
    reference : (n,) bool

    Raises
    ------
    DesignError
        The reference group is too small for the number of coefficients, the covariates are collinear in it, or they
        explain all of the values there.
    """
    X = np.column_stack([np.ones(len(values)), np.asarray(covariates, dtype=np.float64)])
    y = np.asarray(values, dtype=np.float64)
    reference = reference & np.isfinite(y)
    inside = X[reference]
    df = len(inside) - X.shape[1]
    if df < 1:
        count = f"{len(inside)} participant{'' if len(inside) == 1 else 's'}"
        raise DesignError(f"the reference group has {count}, too few for {X.shape[1]} coefficients")
    scale = np.abs(inside).max(axis=0)
    if np.linalg.matrix_rank(inside / np.where(scale > 0, scale, 1)) < X.shape[1]:
        raise DesignError(
            "the covariates are collinear in the reference group: one is constant, or a combination of others"
        )
    coefficients = np.linalg.lstsq(inside, y[reference], rcond=None)[0]
    residuals = y - X @ coefficients
    size = np.linalg.norm(residuals[reference])
    if size <= 1e-10 * np.linalg.norm(y[reference]):
        raise DesignError("the covariates explain all of its variance in the reference group")
    return residuals / (size / np.sqrt(df))


def z_scores(
    table: pd.DataFrame, covariates: NDArray, reference: NDArray[np.bool_]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """z-scores of every column; see `adjusted`.

    Parameters
    ----------
    table : (n, m) DataFrame
    covariates : (n, k) array
    reference : (n,) bool

    Returns
    -------
    scores : DataFrame
        The columns that have z-scores.
    failures : dict of str to str
        Other columns → why they have none.
    """
    scores: dict[str, Float64] = {}
    failures: dict[str, str] = {}
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name]):
            failures[name] = "it is text; expected numbers"
            continue
        try:
            scores[name] = adjusted(table[name].to_numpy(), covariates, reference)
        except DesignError as error:
            failures[name] = error.message
    return pd.DataFrame(scores, index=table.index), failures
