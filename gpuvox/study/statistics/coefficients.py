"""How conclusions about iron and myelin depend on the coefficients of the tissue model.

Relative to CSF, QSM and R1 are linear in iron and myelin. Maps under other coefficients are therefore linear
combinations of the maps under those used, and so are means over regions: nothing is inverted again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gpuvox.errors import InputError
from gpuvox.qmri import TissueModel
from gpuvox.study.statistics.ancova import LEVEL
from gpuvox.study.statistics.csf import Comparison
from gpuvox.types import Float64

DRAWS = 500
"""Sets of coefficients that are drawn."""
MEANS = re.compile(r"(?P<place>.+)\.(?P<kind>iron|myelin)")
COLUMNS = {
    "variable": "variable compared",
    "d": "Cohen's d of the groups given the covariates, with the model's coefficients",
    "p": "its p, not corrected",
    "d_low": "2.5th percentile of d over drawn coefficients",
    "d_high": "97.5th percentile of d over drawn coefficients",
    "same_sign": "share of the draws in which d has the sign of that with the model's coefficients",
    "significant": "share of the draws in which p < .05",
    "decided": "share of the draws with the conclusion of the model's coefficients: p < .05 with the same sign, or not",
}
"""Columns of the table of `dependence`, with descriptions."""


def drawn_models(model: TissueModel, error: float, draws: int = DRAWS, seed: int = 0) -> Float64:
    """Coefficients with independent normal errors.

    Parameters
    ----------
    model : TissueModel
    error : float
        Standard error of each coefficient, as a share of it.
    draws, seed : int

    Returns
    -------
    (draws, 2, 2) float64
        Rows QSM and R1, columns iron and myelin. Draws in which the determinant has the other sign, so that iron and
        myelin cannot be told apart in between, are drawn again.

    Raises
    ------
    InputError
        The error is not between 0 and 0.5.
    """
    if not 0 < error <= 0.5:
        raise InputError(
            f"the coefficients have a relative standard error of {error}; expected above 0 and at most 0.5"
        )
    rng, used = np.random.default_rng(seed), _matrix(model)
    sign, kept = np.sign(np.linalg.det(used)), np.zeros((0, 2, 2))
    while len(kept) < draws:
        more = used * (1 + error * rng.standard_normal((draws, 2, 2)))
        kept = np.concatenate([kept, more[np.sign(np.linalg.det(more)) == sign]])
    return kept[:draws]


def _matrix(model: TissueModel) -> Float64:
    return np.array([model.qsm[:2], model.r1[:2]], dtype=np.float64)


def dependence(
    comparison: Comparison, variables: Sequence[str], model: TissueModel, models: Float64
) -> pd.DataFrame:
    """The difference of two groups under drawn coefficients.

    Parameters
    ----------
    comparison : Comparison
    variables : sequence of str
        Those that are means of iron or myelin, with the other in the table too, are compared.
    model : TissueModel
        That of the maps.
    models : (draws, 2, 2) float64
        See `drawn_models`.

    Returns
    -------
    DataFrame
        One row per variable; `COLUMNS` describes the columns.
    """
    # (Fe, My) under other coefficients: M' (Fe', My') = M (Fe, My)
    changes = np.linalg.solve(models, np.broadcast_to(_matrix(model), models.shape))
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


def concerns(rows: pd.DataFrame, error: float) -> list[str]:
    """A warning about the variables whose conclusion changes in more than a tenth of the draws."""
    weak = rows[rows["decided"] < 0.9]
    if not len(weak):
        return []
    names = ", ".join(f"{row['variable']} ({100 * row['decided']:.0f} %)" for row in weak.to_dict("records"))
    return [
        f"with coefficients that have a standard error of {100 * error:g} %, fewer than 90 % of the draws lead to the "
        f"same conclusion about {names}"
    ]


def record_of(error: float, draws: int, model: Mapping[str, Any]) -> dict[str, Any]:
    """The record for the JSON file beside the table."""
    return {
        "relative_standard_error": error,
        "draws": draws,
        "model": dict(model),
        "columns": {"dependence": COLUMNS},
    }
