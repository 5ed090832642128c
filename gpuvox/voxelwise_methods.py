"""Regression methods whose nuisance is not shuffled, for models with voxelwise explanatory variables.

The design differs from voxel to voxel; X and Z are those of Beckmann's partition at each, so that X is orthogonal to Z,
and the methods of `regression_methods` are two:

* Draper and Stoneman's, which is then Dekker's: Z stays in place, Y is fitted to [PX Z];
* Kennedy's, which is then Still and White's: residuals of Z are fitted to PX alone, with the degrees of freedom of the
  whole model.

(Freedman and Lane's, Manly's and ter Braak's shuffle the whole model; they are `voxelwise_evs.VoxelwiseGlm`. Huh and
Jhun's rotates the data of each voxel in a way of its own, so that no shuffle could be the same for all voxels.)

With x̃ and N orthonormal bases of X and Z, y the unit residuals of Z, G = Nᵀ(P x̃), and L Lᵀ = I − GᵀG the products of
what the shuffled columns have outside of Z:

    L u = (P x̃)ᵀ y       SSE = 1 − Σ u²       t = u √(df / SSE)       F = (Σ u² / r) / (SSE / df)

Kennedy's method has no G. A mean that was removed is nuisance too: if signs are flipped, it stays with the others by
Draper and Stoneman's method, and is shuffled with x̃ by Kennedy's. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gpuvox.device import Outcomes, blocks_for
from gpuvox.errors import InputError
from gpuvox.glm import Nuisance
from gpuvox.reductions import DeviceItems, upload_items
from gpuvox.regression_methods import Method, TerBraak
from gpuvox.scratch import Data, pieces_with
from gpuvox.signed_rows import on_device
from gpuvox.types import AnyArray, DeviceArray, Float64, Ints, MapBatch, ShuffleBatch, Shuffles
from gpuvox.voxelwise_evs import THREADS, VoxelwiseGlm, VoxelwiseOnDevice
from gpuvox.voxelwise_loops import refit_maps

__all__ = ["VoxelwiseRefit", "voxelwise_model"]


def voxelwise_model(
    data: Data, design: Float64, contrast: Float64, evs: Mapping[int, Data], method: Method, **options: Any
) -> VoxelwiseGlm | TerBraak:
    """t or F of a model with voxelwise explanatory variables by one of the regression methods.

    Parameters
    ----------
    data : (n, V) float32
    design : (n, p) float64
        Design whose columns `evs` replaces.
    contrast : (rows, p) float64
    evs : dict of int to (n, V) float32
    method : Method
    options
        `demean`, `is_f`, `device` and `keeps_mean` of `VoxelwiseGlm`.

    Raises
    ------
    DesignError
        See `VoxelwiseGlm`.
    InputError
        Huh and Jhun's method.
    """
    if method is Method.HUH_JHUN:
        raise InputError(
            "Huh and Jhun's method rotates the data by the nuisance, which voxelwise regressors make another one at "
            "each voxel: no shuffle could be the same for all voxels; use another method"
        )
    given = data, design, contrast, evs
    if method in (Method.DRAPER_STONEMAN, Method.DEKKER, Method.KENNEDY, Method.STILL_WHITE):
        return VoxelwiseRefit(*given, stays=method in (Method.DRAPER_STONEMAN, Method.DEKKER), **options)
    if method is Method.TER_BRAAK:
        fits = (VoxelwiseGlm(*given, how, **options) for how in (Nuisance.FREEDMAN_LANE, Nuisance.TER_BRAAK))
        return TerBraak(*fits)
    return VoxelwiseGlm(*given, Nuisance.NONE if method is Method.MANLY else Nuisance.FREEDMAN_LANE, **options)


@dataclass(frozen=True, eq=False)
class VoxelwiseRefit(VoxelwiseGlm):
    """Statistic maps of a model with voxelwise EVs whose nuisance is not shuffled.

    Parameters
    ----------
    stays : bool
        The nuisance stays in place in every shuffle (Draper and Stoneman); otherwise it is not fitted (Kennedy).
    """

    stays: bool = True

    @property
    def _moving(self) -> tuple[int, int]:
        """Number of first columns that are shuffled, the mean, and of those that stay."""
        return (0, self._n_nuisance) if self.stays else (int(self._has_intercept), 0)

    def statistic_maps(self, shuffles: ShuffleBatch, outcomes: Outcomes | None = None) -> MapBatch:
        """(B, V) float32 statistic maps, see `glm.Glm.statistic_maps`."""
        del outcomes
        if self.device is not None:
            return self._on_device.all_maps(shuffles, np.float32)
        return self._refitted(shuffles, np.arange(self.n_voxels), np.float32)

    def exact_map(self, shuffle: Shuffles) -> Float64:
        """(V,) Statistic map of one shuffle in float64, on the host."""
        if self.device is not None:
            first: Float64 = self.device.download(self._on_device.all_maps(shuffle[None], np.float64))[0]
            return first
        return self._exact_of_one(shuffle[None], np.arange(self.n_voxels))

    def _exact_of_one(self, shuffle: Shuffles, voxels: Ints) -> Float64:
        """See `VoxelwiseGlm._exact_of_one`."""
        first: Float64 = self._refitted(shuffle, voxels, np.float64)[0]
        return first

    def _refitted(self, shuffles: Shuffles, voxels: Ints, kind: type) -> AnyArray:
        """(B, len(voxels)) Maps at some voxels."""
        out: AnyArray = np.empty((len(shuffles), len(voxels)), dtype=kind)
        held = np.ascontiguousarray(shuffles, dtype=np.int32)
        static, position, mixing, size, _ = self._arguments
        for (place, values, column), (_, evs, _) in zip(
            pieces_with(self.data, voxels), pieces_with(self._evs, voxels)
        ):
            maps = np.empty((len(shuffles), len(column)))
            refit_maps(
                values, static, self._split(evs), position, mixing, size, self._n_nuisance, self._demeaned, self.is_f,
                self._spent, *self._moving, held, column, maps,
            )  # fmt: skip
            out[:, place] = maps
        return out

    @cached_property
    def _on_device(self) -> _OnDevice:
        return _OnDevice(self, self._own_device)


class _OnDevice(VoxelwiseOnDevice):
    """Maps of a `VoxelwiseRefit` on a device, a slab of voxels at a time."""

    glm: VoxelwiseRefit
    rounds = False

    def _scratch(self, blocks: int) -> DeviceArray:
        """What every thread needs for the products of the columns that move."""
        lead, _ = self.glm._moving
        m = lead + self.k - self.glm._n_nuisance
        return self.device.empty(blocks * THREADS * (2 * m + m * (m + 1) // 2), np.float64)

    def _numbers(self) -> tuple[np.int32, ...]:
        """Arguments of kernels: n, k, columns that move, nuisance, columns that stay, df of the mean, F."""
        glm = self.glm
        lead, n_kept = glm._moving
        numbers = self.n, self.k, lead, glm._n_nuisance, n_kept, glm._spent, glm.is_f
        return tuple(np.int32(number) for number in numbers)

    def _blocks(self, n_items: int) -> int:
        return min(blocks_for(n_items, THREADS, self.device), 8 * self.device.n_processors)

    def all_maps(self, shuffles: ShuffleBatch, kind: type) -> DeviceArray:
        """(B, V) Statistic maps, on the device."""
        glm, device = self.glm, self.device
        out, held = device.empty((len(shuffles), glm.n_voxels), kind), on_device(shuffles, device)
        for start, width, exact, _ in self.slabs():
            blocks = self._blocks(len(shuffles) * width)
            device.launch(
                f"voxelwise_refit<{'double' if kind is np.float64 else 'float'}>", blocks, THREADS, *exact,
                np.int32(width), held.array, np.int32(len(shuffles)), *self._numbers(), np.int64(glm.n_voxels),
                np.int64(start), self._scratch(blocks), out,
            )  # fmt: skip
        return out

    def exact(self, shuffles: Shuffles, number: AnyArray, voxels: AnyArray) -> Float64:
        """Statistic in float64 for pairs of a shuffle and a voxel; on the host."""
        if not len(number):
            return np.zeros(0)
        return self.device.download(self.exact_on(shuffles, upload_items(self.device, number, voxels)))

    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> DeviceArray:
        """(room,) The same for a list on the device, where they stay."""
        device, statistic = self.device, self.device.empty(items.room, np.float64)
        held, blocks = on_device(shuffles, device), self._blocks(items.room)
        for start, width, exact, _ in self._slabs_for(items):
            device.launch(
                "voxelwise_refit_exact", blocks, THREADS, *exact, np.int32(width), np.int32(start), *items.arguments,
                held.array, *self._numbers(), self._scratch(blocks), statistic,
            )  # fmt: skip
        return statistic
