"""How conclusions about iron and myelin depend on the coefficients of the tissue model.

Relative to CSF, contrasts are linear in iron and myelin. Maps under other coefficients are therefore linear
combinations of the maps under those used, and so are means over regions: nothing is inverted again. This is exact for
two contrasts; of more, it is the combination of what the model explains, without the residuals of its fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gpuvox.errors import InputError
from gpuvox.study.statistics.ancova import LEVEL
from gpuvox.study.statistics.csf import Comparison
from gpuvox.tissue_models import LinearModel
from gpuvox.types import Float64

DRAWS = 500
"""Sets of coefficients that are drawn."""
MEANS = re.compile(r"(?P<place>.+)\.(?P<kind>iron|myelin)")
COLUMNS = {
    "variable": "variable compared, not transformed",
    "d": "Cohen's d of the groups given the covariates, with the model's coefficients",
    "p": "its p, not corrected",
    "d_low": "2.5th percentile of d over drawn coefficients",
    "d_high": "97.5th percentile of d over drawn coefficients",
    "same_sign": "share of the draws in which d has the sign of that with the model's coefficients",
    "significant": "share of the draws in which p < .05",
    "decided": "share of the draws with the conclusion of the model's coefficients: p < .05 with the same sign, or not",
}
"""Columns of the table of `dependence`, with descriptions."""


def error_roots(model: LinearModel, share: float) -> Float64:
    """Roots of the covariances of coefficients: R_j with V_j = R_j R_jᵀ.

    Parameters
    ----------
    model : LinearModel
    share : float
        Standard error of each coefficient as a share of it, where the model has no standard errors of its own.

    Returns
    -------
    (k, 2, 2) float64

    Raises
    ------
    InputError
        The error is not between 0 and 0.5.
    """
    if model.has_errors:
        roots = []
        for each in model.contrasts:
            r = each.error_correlation
            roots.append([[each.iron_error, 0], [r * each.myelin_error, np.sqrt(1 - r**2) * each.myelin_error]])
        return np.array(roots, dtype=np.float64)
    if not 0 < share <= 0.5:
        raise InputError(
            f"the coefficients have a relative standard error of {share}; expected above 0 and at most 0.5"
        )
    return share * np.stack([np.diag(row) for row in model.design])


def drawn_models(model: LinearModel, roots: Float64, draws: int = DRAWS, seed: int = 0) -> Float64:
    """Coefficients with normal errors.

    Parameters
    ----------
    model : LinearModel
    roots : (k, 2, 2) float64
        See `error_roots`.
    draws, seed : int

    Returns
    -------
    (draws, k, 2) float64
        A row for each contrast, columns iron and myelin. Draws on the other side of a model that cannot tell iron from
        myelin (for two contrasts, those whose determinant has the other sign) are drawn again.
    """
    rng, used = np.random.default_rng(seed), model.design
    weighted = (used / model.sds[:, None] ** 2).T
    sign, kept = np.sign(np.linalg.det(weighted @ used)), np.zeros((0, *used.shape))
    while len(kept) < draws:
        more = used + np.einsum("kij,nkj->nki", roots, rng.standard_normal((draws, *used.shape)))
        kept = np.concatenate([kept, more[np.sign(np.linalg.det(weighted @ more)) == sign]])
    return kept[:draws]


def _changes(model: LinearModel, models: Float64) -> Float64:
    """(draws, 2, 2) What turns iron and myelin into those of other coefficients: G' A."""
    return np.asarray(model.gains(models) @ model.design)


def dependence(
    comparison: Comparison, variables: Sequence[str], model: LinearModel, models: Float64
) -> pd.DataFrame:
    """The difference of two groups under drawn coefficients.

    Parameters
    ----------
    comparison : Comparison
    variables : sequence of str
        Those that are means of iron or myelin, with the other in the table too, are compared.
    model : LinearModel
        That of the maps.
    models : (draws, k, 2) float64
        See `drawn_models`.

    Returns
    -------
    DataFrame
        One row per variable; `COLUMNS` describes the columns.
    """
    changes = _changes(model, models)
    rows: list[dict[str, Any]] = []
    for name in variables:
        match = MEANS.fullmatch(name)
        pair = [f"{match['place']}.{kind}" for kind in ("iron", "myelin")] if match else []
        if not pair or not set(pair) <= set(comparison.table.columns):
            continue
        values = comparison.table[pair].to_numpy(dtype=np.float64)
        weights = np.asarray(changes[:, pair.index(name)], dtype=np.float64)
        rows.append({"variable": name} | _compared(comparison, values, weights, pair.index(name)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _compared(comparison: Comparison, values: Float64, weights: Float64, own: int) -> dict[str, float]:
    """t is that of a linear combination of two outcomes, from their differences and residual covariance."""
    fits = comparison.of({"iron": values[:, 0], "myelin": values[:, 1]})
    if fits["p"].isna().any():
        return {}
    df = float(fits["df_residual"].iloc[0])
    differences = fits["difference"].to_numpy(dtype=np.float64)
    residuals = np.column_stack([comparison.residuals(column) for column in values.T])
    residuals = residuals[np.isfinite(residuals).all(axis=1)]
    covariance = residuals.T @ residuals / df
    unit = float(fits["difference_se"].iloc[0]) / np.sqrt(covariance[0, 0])
    t = (weights @ differences) / (unit * np.sqrt(np.einsum("ij,jk,ik->i", weights, covariance, weights)))
    d, p = 2 * t / np.sqrt(df), 2 * stats.t.sf(np.abs(t), df)
    used, p_used = float(fits["d"].iloc[own]), float(fits["p"].iloc[own])
    same, low = np.sign(d) == np.sign(used), p < LEVEL
    decided = low & same if p_used < LEVEL else ~low
    return {
        "d": used, "p": p_used, "d_low": float(np.quantile(d, 0.025)), "d_high": float(np.quantile(d, 0.975)),
        "same_sign": float(same.mean()), "significant": float(low.mean()), "decided": float(decided.mean()),
    }  # fmt: skip


def concerns(rows: pd.DataFrame, errors: str) -> list[str]:
    """A warning about the variables whose conclusion changes in more than a tenth of the draws.

    Parameters
    ----------
    rows : DataFrame
        See `dependence`.
    errors : str
        What the errors are: ``a standard error of 10 %``.
    """
    weak = rows[rows["decided"] < 0.9]
    if not len(weak):
        return []
    names = ", ".join(f"{row['variable']} ({100 * row['decided']:.0f} %)" for row in weak.to_dict("records"))
    return [
        f"with coefficients that have {errors}, fewer than 90 % of the draws lead to the same conclusion about {names}"
    ]


def described_errors(model: LinearModel, share: float) -> tuple[str, float | None]:
    """What the errors of the coefficients are, and their share of each if that is assumed."""
    if model.has_errors:
        return "the standard errors of their model", None
    return f"a standard error of {100 * share:g} %", share


def record_of(share: float | None, draws: int, model: Mapping[str, Any]) -> dict[str, Any]:
    """The record for the JSON file beside the table; `share` is None if the model has errors of its own."""
    return {
        "relative_standard_error": share,
        "draws": draws,
        "model": dict(model),
        "columns": {"dependence": COLUMNS},
    }
