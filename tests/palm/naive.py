"""What PALM computes, one permutation after another, from the published formulas.

A permutation is a row of signed, 1-based indices: row i of the permuted model is ``sign(p[i])`` times row
``abs(p[i])`` of the model. Everything is float64 and slow.

References
----------
Winkler et al. 2014, NeuroImage 92:381 (regression and permutation methods, v and G).
Winkler et al. 2016, NeuroImage 141:502 (approximations); 2016, Hum Brain Mapp 37:1486 (correction over tests).
Kazi-Aoual et al. 1995, Comput Stat Data Anal 20:643 (moments of the permutation distribution).
Benjamini, Krieger and Yekutieli 2006, Biometrika 93:491.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage, special, stats


class Model(NamedTuple):
    """Effects of interest X and nuisance Z, n rows each."""

    X: np.ndarray
    Z: np.ndarray


class Statistic(NamedTuple):
    """Per voxel: the statistic, its normal score, and its error degrees of freedom."""

    raw: np.ndarray
    z: np.ndarray
    df: np.ndarray


# ------------------------------------------------------------------------------------------------------- the model


def partition(M: np.ndarray, C: np.ndarray, method: str = "Beckmann") -> Model:
    """Split a design (n, k) for contrasts (s, k)."""
    if method == "Guttman":
        used = C.any(axis=0)
        return Model(M[:, used], M[:, ~used])
    D = np.linalg.pinv(M.T @ M)
    K = C.T
    X = M @ D @ K @ np.linalg.inv(K.T @ D @ K)
    return Model(X, M @ D @ null_space(K, D))


def null_space(K: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Columns B with Kᵀ D B = 0, so that M D B spans what is orthogonal to X."""
    _, values, rows = np.linalg.svd((D @ K).T)
    return rows[np.sum(values > 1e-10) :].T


def moved(p: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.sign(p)[:, None] * rows[np.abs(p) - 1]


def residuals(M: np.ndarray, Y: np.ndarray) -> np.ndarray:
    return Y - M @ (np.linalg.pinv(M) @ Y) if M.size else Y.copy()


def permuted(p: np.ndarray, Y: np.ndarray, model: Model, method: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Data, effects and nuisance to fit for one permutation (Winkler et al. 2014, table 2)."""
    X, Z = model
    if method == "Freedman-Lane" or (method == "terBraak" and np.array_equal(p, np.arange(1, len(p) + 1))):
        return residuals(Z, Y), moved(p, X), moved(p, Z)
    if method == "terBraak":
        return residuals(np.hstack([X, Z]), Y), moved(p, X), moved(p, Z)
    if method == "Draper-Stoneman":
        return Y, moved(p, X), Z
    if method == "Dekker":
        return Y, moved(p, residuals(Z, X)), Z
    if method == "Manly":
        return Y, moved(p, X), moved(p, Z)
    if method == "Still-White":
        return residuals(Z, Y), moved(p, X), Z[:, :0]
    raise NotImplementedError(method)


# ---------------------------------------------------------------------------------------------------- normal scores


def score(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The normal score with these tail probabilities, from the nearer tail."""
    return np.where(upper < 0.5, stats.norm.isf(upper), stats.norm.ppf(lower))


def t_to_z(t: np.ndarray, df) -> np.ndarray:
    return np.sign(t) * stats.norm.isf(stats.t.sf(np.abs(t), df))


def f_to_z(f: np.ndarray, df1, df2) -> np.ndarray:
    return score(stats.f.cdf(f, df1, df2), stats.f.sf(f, df1, df2))


# ------------------------------------------------------------------------------------------------------- statistics


def t_or_f(p: np.ndarray, Y: np.ndarray, model: Model, method: str, df: int, is_t: bool) -> Statistic:
    """t, or F divided by the rank of the contrasts."""
    data, X, Z = permuted(p, Y, model, method)
    M = np.hstack([X, Z])
    s = X.shape[1]
    b = np.linalg.pinv(M) @ data
    variance = np.sum((data - M @ b) ** 2, axis=0) / df
    covariance = np.linalg.pinv(M.T @ M)[:s, :s]
    dfs = np.full(Y.shape[1], float(df))
    if is_t:
        t = b[0] / np.sqrt(variance * covariance[0, 0])
        return Statistic(t, t_to_z(t, df), dfs)
    f = np.einsum("iv,ij,jv->v", b[:s], np.linalg.inv(covariance), b[:s]) / s / variance
    return Statistic(f, f_to_z(f, s, df), dfs)


def voxelwise_t_or_f(p: np.ndarray, Y: np.ndarray, models: Model, is_t: bool) -> Statistic:
    """The same with a model of its own in each voxel, X (V, n, s) and Z (V, n, r), by Freedman and Lane's method.

    To permute the rows of the model is to permute the residuals the other way.
    """
    X, Z = models
    rows = Y.T[:, :, None]
    rest = (rows - Z @ (np.linalg.pinv(Z) @ rows))[..., 0]
    data = np.empty_like(rest)
    data[:, np.abs(p) - 1] = np.sign(p) * rest
    M = np.concatenate([X, Z], axis=2)
    s = X.shape[2]
    b = (np.linalg.pinv(M) @ data[..., None])[..., 0]
    df = M.shape[1] - np.linalg.matrix_rank(M)
    variance = np.sum((data - (M @ b[..., None])[..., 0]) ** 2, axis=1) / df
    covariance = np.linalg.pinv(np.swapaxes(M, 1, 2) @ M)[:, :s, :s]
    if is_t:
        t = b[:, 0] / np.sqrt(variance * covariance[:, 0, 0])
        return Statistic(t, t_to_z(t, df), df.astype(float))
    f = np.einsum("vi,vij,vj->v", b[:, :s], np.linalg.inv(covariance), b[:, :s]) / s / variance
    return Statistic(f, f_to_z(f, s, df), df.astype(float))


def correlation(p: np.ndarray, Y: np.ndarray, model: Model, is_t: bool) -> Statistic:
    """The semipartial correlation r, or R²; its z is atanh r, or the normal quantile of R²."""
    X, Z = model
    back = np.empty(len(p), dtype=int)
    back[np.abs(p) - 1] = np.arange(len(p))
    fitted = Y - residuals(Z, Y)
    data = np.sign(p)[back][:, None] * residuals(Z, Y)[back] + fitted
    whole = np.hstack([X, Z])
    extra = np.sum(residuals(Z, data) ** 2, axis=0) - np.sum(residuals(whole, data) ** 2, axis=0)
    total = np.sum((data - data.mean(axis=0)) ** 2, axis=0)
    share = extra / total
    none = np.full(Y.shape[1], np.nan)
    if is_t:
        r = np.sign((np.linalg.pinv(whole) @ data)[0]) * np.sqrt(share)
        return Statistic(r, np.arctanh(r), none)
    return Statistic(share, stats.norm.ppf(share), none)


def v_or_g(
    p: np.ndarray, Y: np.ndarray, model: Model, groups: np.ndarray, is_t: bool, third: bool = True
) -> Statistic:
    """Aspin-Welch v, or G (Winkler et al. 2014, equations 5 and 7).

    third : PALM's degrees of freedom of v, a third of the right ones.
    """
    data, X, Z = permuted(p, Y, model, "Freedman-Lane")
    M = np.hstack([X, Z])
    s = X.shape[1]
    hat = M @ np.linalg.pinv(M)
    rho = 1 - np.diag(hat)
    b = np.linalg.pinv(M) @ data
    squares = (data - M @ b) ** 2
    labels = groups[np.abs(p) - 1]
    weights = np.empty_like(data)
    terms = []
    for label in np.unique(labels):
        rows = labels == label
        w = rho[rows].sum() / squares[rows].sum(axis=0)
        weights[rows] = w
        terms.append((rho[rows].sum(), rows.sum(), w))
    B = sum((1 - count * w / weights.sum(axis=0)) ** 2 / total for total, count, w in terms)
    keep = independent(M, s)
    M, b = M[:, keep], np.linalg.pinv(M[:, keep]) @ data
    inner = np.linalg.inv(np.einsum("ni,nv,nj->vij", M, weights, M))[:, :s, :s]
    if is_t:
        v = b[0] / np.sqrt(inner[:, 0, 0])
        df = 1 / (3 * B) if third else 1 / B
        return Statistic(v, t_to_z(v, df), df)
    g = np.einsum("iv,vij,jv->v", b[:s], np.linalg.inv(inner), b[:s])
    g /= s * (1 + 2 * (s - 1) / (s * (s + 2)) * B)
    df = s * (s + 2) / (3 * B)
    return Statistic(g, f_to_z(g, s, df), df)


def independent(M: np.ndarray, first: int) -> list[int]:
    """Columns that raise the rank, the first ones among them."""
    keep: list[int] = list(range(first))
    for column in range(first, M.shape[1]):
        if np.linalg.matrix_rank(M[:, [*keep, column]]) > len(keep):
            keep.append(column)
    return keep


# ----------------------------------------------------------------------------------------------------------- space


def neighbours(connectivity: int) -> np.ndarray:
    return ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])


def tfce(
    z: np.ndarray,
    mask: np.ndarray,
    H: float = 2.0,
    E: float = 0.5,
    connectivity: int = 6,
    step: float | None = None,
) -> np.ndarray:
    """TFCE, in a hundred steps up to the map's own maximum or in steps of a given height."""
    volume = np.full(mask.shape, -np.inf)
    volume[mask] = z
    total = np.zeros(mask.shape)
    top = z.max()
    if top <= 0:
        return total[mask]
    height = step or top / 100
    heights = np.arange(1, 101) * height if step is None else np.arange(height, top + height * 1e-9, height)
    if step is None:
        heights[-1] = top
    for h in heights:
        labels, count = ndimage.label(volume >= h, neighbours(connectivity))
        extents = np.bincount(labels.ravel(), minlength=count + 1).astype(float)
        extents[0] = 0
        total += extents[labels] ** E * h**H
    return total[mask] * height


def clusters(z: np.ndarray, mask: np.ndarray, threshold: float, mass: bool = False) -> np.ndarray:
    """Extent in voxels, or sum of z, of each voxel's cluster of 26 neighbours above a threshold."""
    volume = np.zeros(mask.shape)
    volume[mask] = z
    labels, count = ndimage.label((volume > threshold) & mask, neighbours(26))
    sums = np.bincount(labels.ravel(), volume.ravel() if mass else None, minlength=count + 1).astype(float)
    sums[0] = 0
    return sums[labels][mask]


# --------------------------------------------------------------------------------------------------------- p-values


def at_least(null: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The share of the null (N, 1) or (N, V) that is as large; what is equal but for rounding counts as equal."""
    slack = 1e-9 * np.maximum(np.abs(observed), 1e-300)
    return np.mean(null >= observed - slack, axis=0)


def bh(p: np.ndarray) -> np.ndarray:
    return stats.false_discovery_control(p, method="bh")


def bky(p: np.ndarray) -> np.ndarray:
    """The multiple-stage procedure of Benjamini, Krieger and Yekutieli 2006, definition 7, as adjusted p."""
    order = np.argsort(p)
    s, m = p[order], len(p)
    place = np.arange(1, m + 1)
    q = np.empty(m)
    for i in place:
        tail = s[i - 1 :]
        q[i - 1] = np.min(tail * (m + 1 - i) / (place[i - 1 :] - i * tail).clip(1e-300))
    q = np.minimum(np.maximum.accumulate(q), 1)
    out = np.empty(m)
    out[order] = q
    return out


# --------------------------------------------------------------------------------------------------- approximations


def anderson_darling(u: np.ndarray) -> float:
    """A² of sorted values of a distribution function."""
    n = len(u)
    i = np.arange(1, n + 1)
    with np.errstate(divide="ignore"):
        return -n - np.mean((2 * i - 1) * (np.log(u) + np.log1p(-u[::-1])))


def pareto_tail(null: np.ndarray, observed: np.ndarray, p: np.ndarray, critical: float = 0.830) -> np.ndarray:
    """p of observed values from a generalised Pareto law fitted by moments to the tail of one null distribution.

    The threshold is the lowest of the quantiles 0.751, 0.761, … 0.971 above which the law fits.
    """
    x = np.sort(null)
    n = len(x)
    for level in 0.751 + 0.01 * np.arange(23):
        below = int(np.floor(level * n + 1e-9))
        threshold = (x[below - 1] + x[below]) / 2
        y = x[below:] - threshold
        m, s2 = y.mean(), y.var(ddof=1)
        if not s2 > 0:
            continue
        a, k = m * (m * m / s2 + 1) / 2, (m * m / s2 - 1) / 2

        def survival(v, a=a, k=k):
            if abs(k) < 1e-12:
                return np.exp(-v / a)
            return np.maximum(1 - k * v / a, 0) ** (1 / k)

        if anderson_darling(1 - survival(y)) <= critical:
            out = p.copy()
            above = (p < 0.10) & (observed > threshold)
            out[above] = (n - below) / n * survival(observed[above] - threshold)
            return out
    return p


def pearson_iii(observed: np.ndarray, mean, variance, skewness) -> np.ndarray:
    """The upper tail of a shifted gamma law with these moments; the normal law where it is not skewed."""
    mean, variance, skewness = np.broadcast_arrays(mean, variance, skewness)
    z = (observed - mean) / np.sqrt(variance)
    shape = 4 / np.maximum(skewness**2, 1e-300)
    scaled = shape + z * np.sqrt(shape) * np.sign(skewness)
    upper = special.gammaincc(shape, np.maximum(scaled, 0))
    lower = special.gammainc(shape, np.maximum(scaled, 0))
    return np.where(np.abs(skewness) < 1e-3, stats.norm.sf(z), np.where(skewness > 0, upper, lower))


def gamma_tail(null: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """p from the mean, variance and adjusted skewness of the null (a row a permutation)."""
    n = len(null)
    mean, variance = null.mean(axis=0), null.var(axis=0, ddof=1)
    skewness = stats.skew(null, axis=0, bias=False) if n > 2 else 0.0
    return pearson_iii(observed, mean, variance, skewness)


def negative_binomial(null: np.ndarray, observed: np.ndarray, r: int) -> np.ndarray:
    """p = r / j if the r-th value as large came at the j-th permutation after the identity, else (count + 1) / N."""
    slack = 1e-9 * np.maximum(np.abs(observed), 1e-300)
    hits = np.cumsum(null[1:] >= observed - slack, axis=0)
    came = hits >= r
    when = came.argmax(axis=0) + 1
    return np.where(came.any(axis=0), r / when, (hits[-1] + 1) / len(null))


def invariants(A: np.ndarray) -> dict[str, np.ndarray]:
    """The sums of Kazi-Aoual et al. 1995 of a symmetric matrix (n, n), or of several (V, n, n)."""
    d = np.einsum("...ii->...i", A)
    A2 = A @ A
    return {
        "T": d.sum(-1),
        "T2": np.einsum("...ii->...", A2),
        "T3": np.einsum("...ij,...ji->...", A2, A),
        "S2": (d**2).sum(-1),
        "S3": (d**3).sum(-1),
        "U": (A**3).sum((-1, -2)),
        "R": (d * np.einsum("...ii->...i", A2)).sum(-1),
        "B": np.einsum("...i,...ij,...j->...", d, A, d),
    }


def permutation_moments(n: int, A: np.ndarray, W: np.ndarray):
    """Mean, variance and skewness of trace(A W_π) over all permutations π of the rows and columns of W.

    A and W are symmetric, with rows that sum to 0 (Kazi-Aoual et al. 1995).
    """
    a, w = invariants(A), invariants(W)
    T, T2, T3, S2, S3, U, R, B = (a[k] for k in ("T", "T2", "T3", "S2", "S3", "U", "R", "B"))
    t, t2, t3, s2, s3, u, r, b = (w[k] for k in ("T", "T2", "T3", "S2", "S3", "U", "R", "B"))
    mean = T * t / (n - 1)
    variance = 2 * ((n - 1) * T2 - T**2) * ((n - 1) * t2 - t**2) / ((n - 1) ** 2 * (n + 1) * (n - 2))
    variance = variance + (n * (n + 1) * S2 - (n - 1) * (T**2 + 2 * T2)) * (
        n * (n + 1) * s2 - (n - 1) * (t**2 + 2 * t2)
    ) / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
    third = (
        n**2 * (n + 1) * (n**2 + 15 * n - 4) * S3 * s3
        + 4 * (n**4 - 8 * n**3 + 19 * n**2 - 4 * n - 16) * U * u
        + 24 * (n**2 - n - 4) * (U * b + B * u)
        + 6 * (n**4 - 8 * n**3 + 21 * n**2 - 6 * n - 24) * B * b
        + 12 * (n**4 - n**3 - 8 * n**2 + 36 * n - 48) * R * r
        + 12 * (n**3 - 2 * n**2 + 9 * n - 12) * (T * S2 * r + R * t * s2)
        + 3 * (n**4 - 4 * n**3 - 2 * n**2 + 9 * n - 12) * T * S2 * t * s2
        + 24 * ((n**3 - 3 * n**2 - 2 * n + 8) * (R * u + U * r) + (n**3 - 2 * n**2 - 3 * n + 12) * (R * b + B * r))
        + 12 * (n**2 - n + 4) * (T * S2 * u + U * t * s2)
        + 6 * (2 * n**3 - 7 * n**2 - 3 * n + 12) * (T * S2 * b + B * t * s2)
        - 2 * n * (n - 1) * (n**2 - n + 4) * ((2 * U + 3 * B) * s3 + (2 * u + 3 * b) * S3)
        - 3 * n * (n - 1) ** 2 * (n + 4) * ((T * S2 + 4 * R) * s3 + (t * s2 + 4 * r) * S3)
        + 2 * n * (n - 1) * (n - 2) * ((T**3 + 6 * T * T2 + 8 * T3) * s3 + (t**3 + 6 * t * t2 + 8 * t3) * S3)
        + T**3 * ((n**3 - 9 * n**2 + 23 * n - 14) * t**3 + 6 * (n - 4) * t * t2 + 8 * t3)
        + 6 * T * T2 * ((n - 4) * t**3 + (n**3 - 9 * n**2 + 24 * n - 14) * t * t2 + 4 * (n - 3) * t3)
        + 8 * T3 * (t**3 + 3 * (n - 3) * t * t2 + (n**3 - 9 * n**2 + 26 * n - 22) * t3)
        - 16 * (T**3 * u + U * t**3)
        - 6 * (T * T2 * u + U * t * t2) * (2 * n**2 - 10 * n + 16)
        - 8 * (T3 * u + U * t3) * (3 * n**2 - 15 * n + 16)
        - (T**3 * b + B * t**3) * (6 * n**2 - 30 * n + 24)
        - 6 * (T * T2 * b + B * t * t2) * (4 * n**2 - 20 * n + 24)
        - 8 * (T3 * b + B * t3) * (3 * n**2 - 15 * n + 24)
        - (n - 2)
        * (
            24 * (T**3 * r + R * t**3)
            + 6 * (T * T2 * r + R * t * t2) * (2 * n**2 - 10 * n + 24)
            + 8 * (T3 * r + R * t3) * (3 * n**2 - 15 * n + 24)
            + (3 * n**2 - 15 * n + 6) * (T**3 * t * s2 + T * S2 * t**3)
            + 6 * (T * T2 * t * s2 + T * S2 * t * t2) * (n**2 - 5 * n + 6)
            + 48 * (T3 * t * s2 + T * S2 * t3)
        )
    ) / (n * (n - 1) * (n - 2) * (n - 3) * (n - 4) * (n - 5))
    skewness = (third - 3 * mean * variance - mean**3) / variance**1.5
    return mean, variance, skewness


def without_permutations(
    Y: np.ndarray, model: Model, is_t: bool, two_tailed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The partial r or R², and its p from the moments of its permutation distribution."""
    X, Z = model
    RX, RY = residuals(Z, X), residuals(Z, Y)
    A = RX @ np.linalg.pinv(RX)
    w = RY / np.sqrt(np.sum(RY**2, axis=0))
    share = np.einsum("iv,ij,jv->v", w, A, w)
    p = pearson_iii(share, *permutation_moments(len(Y), A, np.einsum("iv,jv->vij", w, w)))
    if not is_t or two_tailed:
        return share, p
    r = np.sign((np.linalg.pinv(RX) @ w)[0]) * np.sqrt(share)
    return r, np.where(r > 0, p / 2, 1 - p / 2)
