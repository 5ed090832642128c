"""What a shuffle is: a signed row number for each place of the model.

Permutations, sign flips and both have this one form. Row i of the shuffled model is row s[i] of the model where
s[i] ≥ 0, and −1 times row ``~s[i]`` where s[i] < 0 (``~s`` is −s − 1, so that row 0 has a negative too). In files rows
count from 1, and a sign is that of the number, as in PALM's files of permutations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuvox.device import Device
from gpuvox.types import DeviceArray, Float64, Int32, Shuffles

_SIGN_BIT = np.int32(31)


def rows_of(shuffles: Shuffles) -> Int32:
    """Number of the row that comes to each place, whatever its sign."""
    rows: Int32 = shuffles ^ (shuffles >> _SIGN_BIT)
    return rows


def signs_of(shuffles: Shuffles) -> NDArray[np.int8]:
    """1, or -1 where the sign of a row is flipped."""
    return np.where(shuffles < 0, np.int8(-1), np.int8(1))


def from_signs(signs: ArrayLike) -> Int32:
    """Shuffles (B, n) that leave all rows in place and multiply them by these signs ±1."""
    signs = np.asarray(signs)
    rows = np.arange(signs.shape[-1], dtype=np.int32)
    return np.where(signs < 0, ~rows, rows)


def from_one(table: ArrayLike) -> Int32:
    """Shuffles from signed row numbers that count from 1."""
    numbers = np.asarray(table).astype(np.int32)
    return numbers - (numbers > 0).astype(np.int32)


def to_one(shuffles: Shuffles) -> Int32:
    """Signed row numbers that count from 1."""
    numbers: Int32 = shuffles + (shuffles >= 0).astype(np.int32)
    return numbers


def shuffled(basis: Float64, shuffles: Shuffles) -> Float64:
    """Rows ``(P b)ᵀ`` of each shuffle and basis vector: (B, k, n)."""
    moved = np.ascontiguousarray(basis[rows_of(shuffles)].transpose(0, 2, 1))
    return moved * signs_of(shuffles)[:, None, :] if (shuffles < 0).any() else moved


@dataclass(frozen=True, eq=False)
class DeviceShuffles:
    """Shuffles on a device.

    Attributes
    ----------
    array : (B, n) int32
    device : Device
    has_signs : bool
        False only if no sign is flipped.
    """

    array: DeviceArray
    device: Device
    has_signs: bool = True

    def __len__(self) -> int:
        return len(self.array)

    def on_host(self, start: int = 0, stop: int | None = None) -> Shuffles:
        """Shuffles start … stop − 1 as an array of the host."""
        rows = self.device.rows(self.array, start, len(self) if stop is None else stop)
        return self.device.download(rows)


def on_device(shuffles: Shuffles | DeviceShuffles, device: Device) -> DeviceShuffles:
    """Shuffles on a device; those of the host are sent there."""
    if isinstance(shuffles, DeviceShuffles):
        return shuffles
    return DeviceShuffles(device.upload(shuffles.astype(np.int32)), device, bool((shuffles < 0).any()))
