"""Types of arrays that many modules share, each defined once.

Shapes stand in docstrings: V is the number of voxels of the mask, n of rows (volumes), B of maps in a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AnyArray",
    "Bools",
    "DeviceArray",
    "Float32",
    "Float64",
    "Floats",
    "Int32",
    "Ints",
    "MapBatch",
    "PermutationsDone",
    "Shuffles",
    "Words",
]

Float32: TypeAlias = NDArray[np.float32]
Float64: TypeAlias = NDArray[np.float64]
Floats: TypeAlias = NDArray[np.floating[Any]]
"""float32 or float64."""
Int32: TypeAlias = NDArray[np.int32]
Ints: TypeAlias = NDArray[np.int64]
Words: TypeAlias = NDArray[np.uint64]
Bools: TypeAlias = NDArray[np.bool_]
AnyArray: TypeAlias = NDArray[Any]
"""An array of numpy of any type of number."""
Shuffles: TypeAlias = NDArray[Any]
"""(n,) or (B, n) int32: the row that comes to each place, and its sign; see `signed_rows`."""

PermutationsDone: TypeAlias = Callable[[int], None]
"""Called with the number of permutations that are done."""


class DeviceArray(Protocol):
    """An array that a `Device` holds. Only the device looks inside it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its elements."""
        ...

    def __len__(self) -> int: ...


MapBatch: TypeAlias = Any
"""(B, V) maps where the model is: an `AnyArray` on the CPU, a `DeviceArray` on a device.

Which of the two, the code knows from its `device`, and mypy cannot: a union would need a cast in every branch.
"""

ShuffleBatch: TypeAlias = Any
"""(B, n) shuffles where the model is: `Shuffles` on the CPU, `signed_rows.DeviceShuffles` or `Shuffles` on a device."""
