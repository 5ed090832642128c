"""The precision that data lose by conversion to float32."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuvox.types import AnyArray

SHARE = 0.01
"""Rounding error that triggers a warning, as a share of a voxel's SD over subjects."""


def may_round(dtype: DTypeLike) -> bool:
    """Whether conversion to float32 can change values of a type."""
    kind = np.dtype(dtype)
    return kind.itemsize > 2 and kind.kind != "b" and not (kind.kind == "f" and kind.itemsize == 4)


class Rounding:
    """Compares, volume by volume, original values with their float32 values; threads may share it.

    Parameters
    ----------
    n_voxels : int
    """

    def __init__(self, n_voxels: int) -> None:
        self._lock = threading.Lock()
        self._n = 0
        self._first = np.zeros(0)
        self._sum, self._squares, self._error = np.zeros((3, n_voxels))

    def add(self, values: AnyArray, held: NDArray[np.float32]) -> None:
        """Take note of one volume: (V,) as given, and as float32."""
        exact = values.astype(np.float64)
        with self._lock, np.errstate(all="ignore"):
            if not self._n:
                self._first = exact
            self._n += 1
            off = exact - self._first
            self._sum += off
            self._squares += off * off
            np.maximum(self._error, np.abs(exact - held), out=self._error)

    def count(self) -> int:
        """Number of voxels whose rounding error exceeds `SHARE` of the SD; non-finite values are not counted."""
        if self._n < 2:
            return 0
        with np.errstate(all="ignore"):
            variance = (self._squares - self._sum**2 / self._n) / (self._n - 1)
            lost = (variance > 0) & (self._error > SHARE * np.sqrt(variance))
        return int(np.count_nonzero(lost))

    def sentence(self, what: str) -> str:
        """The warning about the data called `what`; empty if there is none."""
        count = self.count()
        if not count:
            return ""
        return (
            f"{what}: data are held as float32, and in {count} of {len(self._error)} voxels that changes values by "
            "more than a hundredth of their SD across participants (values far from zero beside their differences): "
            "subtract a number from all volumes that leaves them near zero"
        )
