"""The voxel grid: mask, voxel size, affine, and the map between images and vectors of voxels.

A vector of voxels always lists the voxels of the mask in the order of a NIfTI file, x fastest, so that a
slab of a file is a contiguous range of the vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from gpuvox.errors import InputError
from gpuvox.types import AnyArray, Bools, Float64, Int32, Ints

CONNECTIVITIES = (6, 18, 26)


def neighbour_steps(connectivity: int) -> Ints:
    """Steps to the neighbours of a voxel.

    Parameters
    ----------
    connectivity : {6, 18, 26}
        Voxels that share a face; a face or an edge; a face, an edge or a corner.

    Returns
    -------
    (connectivity, 3) int64
        (dx, dy, dz), ordered by dz, then dy, then dx: the order of the voxels in a file. The second half is
        the first half reversed with opposite sign.

    Raises
    ------
    ValueError
        Any other connectivity.
    """
    if connectivity not in CONNECTIVITIES:
        raise ValueError(f"connectivity is {connectivity}; it must be 6, 18 or 26")
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    steps = [
        (dx, dy, dz)
        for dz in (-1, 0, 1)
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if 0 < abs(dx) + abs(dy) + abs(dz) <= reach
    ]
    return np.array(steps, dtype=np.int64)


def inside(values: ArrayLike) -> Bools:
    """Voxels of a mask: where its values, scaled as its header says, are above 0.5 (FSL's rule).

    Negative values, the ringing of an interpolation and NaN are outside, infinity is inside.
    """
    return np.asarray(values) > 0.5


@dataclass(frozen=True, eq=False)
class Padded:
    """The bounding box of the mask with one voxel of border, so that neighbours are constant offsets.

    Attributes
    ----------
    shape : (int, int, int)
        Size of the box along x, y, z, border included.
    index : (V,) int32
        Position of each voxel of the mask in the box, flattened with x fastest; ascending.
    """

    shape: tuple[int, int, int]
    index: Int32

    @property
    def size(self) -> int:
        """Number of positions in the box."""
        return int(np.prod(self.shape))

    def offsets(self, connectivity: int) -> Int32:
        """Offsets of the neighbours in the flattened box, ascending; see `neighbour_steps`."""
        strides = np.array([1, self.shape[0], self.shape[0] * self.shape[1]], dtype=np.int64)
        return (neighbour_steps(connectivity) @ strides).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Grid:
    """A mask on a regular grid.

    Parameters
    ----------
    mask : (nx, ny, nz) bool
        Voxels of the analysis.
    voxel_size : (3,) float
        Millimetres along x, y, z.
    affine : (4, 4) float, optional
        Voxel to world; only carried along.

    Examples
    --------
    >>> grid = gpuvox.Grid(np.array([[[True, False], [True, True]]]), voxel_size=(2, 2, 2))
    >>> grid.n_voxels, grid.shape
    (3, (1, 2, 2))
    >>> grid.to_vector(np.arange(4.0).reshape(1, 2, 2))  # x fastest
    array([0., 2., 3.])
    """

    mask: Bools
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    affine: Float64 | None = None

    def __post_init__(self) -> None:
        if self.mask.ndim != 3:
            raise InputError(f"a mask has three dimensions; this one has shape {self.mask.shape}")
        object.__setattr__(self, "mask", np.asarray(self.mask, dtype=bool))

    @cached_property
    def index(self) -> Ints:
        """(V,) Position of each voxel of the mask in the image flattened with x fastest; ascending."""
        return np.flatnonzero(self.mask.ravel(order="F"))

    @property
    def n_voxels(self) -> int:
        """Number of voxels in the mask, V."""
        return len(self.index)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Size of the image along x, y, z."""
        nx, ny, nz = self.mask.shape
        return nx, ny, nz

    def to_vector(self, volume: ArrayLike) -> AnyArray:
        """(nx, ny, nz) or (nx, ny, nz, n) image → (V,) or (n, V)."""
        volume = np.asarray(volume)
        if volume.shape[:3] != self.shape:
            raise InputError(f"an image of shape {volume.shape} is not on the grid {self.shape} of the mask")
        flat = volume.reshape((-1, *volume.shape[3:]), order="F")[self.index]
        return np.ascontiguousarray(flat.T) if volume.ndim == 4 else flat

    def to_volume(self, values: ArrayLike, fill: float = 0) -> AnyArray:
        """(V,) or (n, V) values → (nx, ny, nz) or (nx, ny, nz, n) image, `fill` outside the mask."""
        values = np.asarray(values)
        flat = np.full((self.mask.size, *values.shape[:-1]), fill, dtype=values.dtype)
        flat[self.index] = values.T
        return flat.reshape((*self.shape, *values.shape[:-1]), order="F")

    def position(self, voxel: int) -> tuple[int, int, int]:
        """(x, y, z), from 0, of a voxel of the mask, given by its place in a vector."""
        x, y, z = (int(i) for i in np.unravel_index(self.index[voxel], self.shape, order="F"))
        return x, y, z

    @cached_property
    def padded(self) -> Padded:
        """The mask's bounding box with a border of one voxel."""
        if not self.n_voxels:
            return Padded((2, 2, 2), np.zeros(0, dtype=np.int32))
        low = [int(np.flatnonzero(self.mask.any(axis=a))[0]) for a in ((1, 2), (0, 2), (0, 1))]
        high = [int(np.flatnonzero(self.mask.any(axis=a))[-1]) for a in ((1, 2), (0, 2), (0, 1))]
        px, py, pz = (h - lo + 3 for lo, h in zip(low, high))
        if px * py * pz >= 2**31:
            raise InputError(f"the mask's bounding box has {px * py * pz} voxels; at most 2^31 - 1 are handled")
        x, y, z = np.unravel_index(self.index, self.shape, order="F")
        index = (x - low[0] + 1) + px * ((y - low[1] + 1) + py * (z - low[2] + 1))
        return Padded((px, py, pz), index.astype(np.int32))
