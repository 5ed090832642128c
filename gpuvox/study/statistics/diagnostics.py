"""Diagnostics of a linear model: its residuals, and participants with large influence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from gpuvox.study.statistics.ancova import check_assumptions
from gpuvox.types import Float64

DIAGNOSTICS = {
    "model": "the model, with all blocks",
    "n": "participants analysed",
    "breusch_pagan": "Lagrange multiplier of Breusch and Pagan's test of constant variance, studentised (Koenker 1981)",
    "breusch_pagan_df": "its degrees of freedom",
    "breusch_pagan_p": "its p: small values contradict a constant variance; robust errors (hc3) do not need it",
    "lilliefors_d": "distance of the residuals from a normal distribution (Kolmogorov-Smirnov, Lilliefors)",
    "lilliefors_p": "p of that distance",
    "skewness": "skewness of the residuals",
    "cook_largest": "largest Cook's distance",
    "cook_participant": "participant with the largest Cook's distance",
    "cook_large": "participants with a Cook's distance above 4/n",
    "outlier_largest": "externally studentised residual of largest magnitude",
    "outlier_participant": "its participant",
    "outlier_p": "p of that residual by t, times n (Bonferroni)",
}
"""Columns of the table of diagnostics, with descriptions."""


@dataclass(frozen=True, eq=False)
class Influence:
    """Values of each participant in a model.

    Attributes
    ----------
    studentised : (n,) float64
        Externally studentised residuals.
    cook, leverage : (n,) float64
    """

    studentised: Float64
    cook: Float64
    leverage: Float64


def _influence(residuals: Float64, design: Float64, df: float) -> Influence:
    """Leverages h, Cook's distances e²h / (p s² (1 − h)²), and residuals e / (s₋ᵢ √(1 − h)), where s₋ᵢ is the residual
    SD without the participant.
    """
    Q = np.linalg.qr(design)[0]
    h = (Q**2).sum(axis=1)
    squares = residuals @ residuals
    with np.errstate(all="ignore"):
        cook = residuals**2 * h / (design.shape[1] * squares / df * (1 - h) ** 2)
        without = (squares - residuals**2 / (1 - h)) / (df - 1)
        return Influence(residuals / np.sqrt(without * (1 - h)), cook, h)


def diagnose(y: Float64, X: Float64, participants: list[str]) -> tuple[dict[str, Any], Influence]:
    """Tests of the residuals of a least-squares model, and the influence of each participant.

    Parameters
    ----------
    y : (n,) float64
    X : (n, p) float64
        Predictors without intercept.
    participants : list of str

    Returns
    -------
    row : dict
        `DIAGNOSTICS` describes the keys, except ``model``.
    influence : Influence
    """
    import statsmodels.api as sm
    from statsmodels.stats.diagnostic import het_breuschpagan

    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    design = np.column_stack([np.ones(len(y)), scaled])
    fit = sm.OLS(y, design).fit()
    influence = _influence(np.asarray(fit.resid), design, float(fit.df_resid))
    multiplier, p, *_ = het_breuschpagan(fit.resid, design)
    checks = check_assumptions(y, np.zeros(len(y)), fit.resid)
    n, df = len(y), fit.df_resid - 1
    known = np.where(np.isfinite(influence.studentised), np.abs(influence.studentised), 0)
    cook = np.where(np.isfinite(influence.cook), influence.cook, 0)
    outlier, top = int(known.argmax()), int(cook.argmax())
    row = {
        "n": n, "breusch_pagan": float(multiplier), "breusch_pagan_df": X.shape[1], "breusch_pagan_p": float(p),
        "lilliefors_d": checks.lilliefors_d, "lilliefors_p": checks.lilliefors_p, "skewness": checks.skewness,
        "cook_largest": float(cook[top]), "cook_participant": participants[top],
        "cook_large": int((cook > 4 / n).sum()), "outlier_largest": float(influence.studentised[outlier]),
        "outlier_participant": participants[outlier],
        "outlier_p": min(1.0, n * 2 * float(stats.t.sf(known[outlier], df))) if df > 0 else float("nan"),
    }  # fmt: skip
    return row, influence
