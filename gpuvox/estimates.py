"""Ordinary least squares of the whole design: the parameter estimates that ``--glm_output`` writes."""

from __future__ import annotations

import numpy as np

from gpuvox.exclusion import fit, with_columns
from gpuvox.partitioning import demean_columns, pseudoinverses
from gpuvox.prepared import Inputs
from gpuvox.scratch import block
from gpuvox.types import AnyArray, Float64


def parameter_estimates(inputs: Inputs, demean: bool) -> dict[str, Float64]:
    """Ordinary least squares of the whole design (``--glm_output``).

    Returns
    -------
    dict
        ``pe`` (p, V), ``cope`` (k, V), ``varcope`` (k, V), ``sigmasqr`` (1, V): estimates of the parameters,
        contrasts of them, their variances, and the residual variance with n − rank degrees of freedom. Data that are
        NaN are missing: their rows are left out at that voxel.
    """
    n, V = inputs.data.shape
    C, masks = inputs.contrasts, [column for column in inputs.evs if column < 0]
    p, k = inputs.design.shape[1] + n * len(masks), len(C)
    step = 256 if masks else 4096
    out = {"pe": np.zeros((p, V)), "cope": np.zeros((k, V)), "varcope": np.zeros((k, V))}
    out["sigmasqr"] = np.zeros((1, V))
    for start in range(0, V, step):
        part = slice(start, min(start + step, V))
        Y = block(inputs.data, slice(None), part).astype(np.float64)
        M = np.repeat(inputs.design[None], Y.shape[1] if inputs.evs else 1, axis=0)
        evs = {column: block(ev, slice(None), part) for column, ev in inputs.evs.items()}
        for column, ev in evs.items():
            if column >= 0:
                M[:, :, column] = ev.T
        missing = np.isnan(Y)
        if missing.any():
            whole = np.broadcast_to(M, (Y.shape[1], *M.shape[1:]))
            pinv, pe, _, sigma = fit(np.where(missing, 0.0, Y), whole, missing, demean)
            out["pe"][:, part] = pe
        elif masks:
            gone = np.logical_or.reduce([evs[column] != 0 for column in masks])
            pinv, pe, residual, sigma = fit(Y, M, gone, demean)
            out["pe"][:, part] = with_columns(pe, residual, {column: evs[column] for column in masks})
        else:
            pinv, pe, sigma = _fit_all(Y, M, demean)
            out["pe"][:, part] = pe
        scale = np.einsum("kp,vpn,vqn,kq->kv", C, pinv, pinv, C, optimize=True)
        out["cope"][:, part] = C @ pe
        out["varcope"][:, part], out["sigmasqr"][:, part] = scale * sigma, sigma
    return out


def _fit_all(Y: Float64, M: Float64, demean: bool) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Pseudoinverse, estimates and residual variance; M is (V, n, p), or (1, n, p) if all voxels share it."""
    n, p = M.shape[1:]
    if demean:
        Y, M = demean_columns(Y), demean_columns(M)
    pinv, rank = pseudoinverses(M)
    pe = np.einsum("vpn,nv->pv", np.broadcast_to(pinv, (Y.shape[1], p, n)), Y)
    residual = Y - np.einsum("vnp,pv->nv", np.broadcast_to(M, (Y.shape[1], n, p)), pe)
    df = n - rank
    return pinv, pe, np.divide((residual**2).sum(axis=0), df, out=np.zeros(Y.shape[1]), where=df > 0)
