"""Gaussian smoothing within a mask, for pseudo-t statistics with a smoothed variance.

A map f on the mask m becomes (g * mf) / (g * m): nothing leaks in from outside the mask, and a constant
stays what it is. The kernel g is that of FSL's ``randomise -v``: separable, of standard deviation
σ / voxel size along each axis, cut off beyond 2·int(σ_vox − 0.001) + 3 voxels from its centre.

Variance smoothing: T. E. Nichols and A. P. Holmes, Human Brain Mapping 15:1-25 (2002).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gpuvox.device import Device, blocks_over
from gpuvox.errors import InputError
from gpuvox.grid import Grid
from gpuvox.jit import checked
from gpuvox.types import DeviceArray, Float32, Float64, Ints

HALF = np.float32(0.5)


def half_width(sigma_voxels: float) -> int:
    """Number of voxels on either side of the centre of the truncated kernel."""
    return 2 * int(sigma_voxels - 0.001) + 3


def gaussian_weights(sigma_voxels: float, longest: int | None = None) -> Float64:
    """Half of a truncated Gaussian kernel.

    Parameters
    ----------
    sigma_voxels : float
        Standard deviation in voxels.
    longest : int, optional
        No distance beyond it is of interest.

    Returns
    -------
    (h + 1,) float64
        Weights at the distances 0, 1, … h = `half_width` (or `longest`); the 2h + 1 of the whole kernel sum to 1.
    """
    width = half_width(sigma_voxels)
    distance = np.arange((width if longest is None else min(width, longest)) + 1)
    weights: Float64 = np.exp(-0.5 * (distance / sigma_voxels) ** 2)
    weights /= 2 * weights.sum() - weights[0]
    return weights


class MaskedGaussian:
    """Gaussian smoothing of maps within a mask; a call is thread-safe and releases the GIL.

    Parameters
    ----------
    grid : Grid
        Mask and voxel size.
    sigma_mm : float
        Standard deviation in millimetres.

    Raises
    ------
    InputError
        `sigma_mm` or a voxel size is not a positive number.
    """

    def __init__(self, grid: Grid, sigma_mm: float) -> None:
        if not (np.isfinite(sigma_mm) and sigma_mm > 0):
            raise InputError(f"the standard deviation of smoothing is {sigma_mm} mm; it must be positive")
        if not all(np.isfinite(size) and size > 0 for size in grid.voxel_size):
            raise InputError(f"the voxel size is {grid.voxel_size} mm; smoothing needs positive sizes")
        self.grid = grid
        self.sigma_mm = float(sigma_mm)
        self._exact_weights = tuple(
            gaussian_weights(sigma_mm / size, longest) for size, longest in zip(grid.voxel_size, grid.padded.shape)
        )
        self._weights = tuple(w.astype(np.float32) for w in self._exact_weights)
        self._rows = _rows(grid, [len(w) - 1 for w in self._weights])
        ones = np.ones((1, grid.n_voxels), dtype=np.float32)
        self._norm = self._smooth(ones, ones[0])[0]

    def __call__(self, maps: ArrayLike) -> Float32:
        """Smooth one map, or several.

        Parameters
        ----------
        maps : (V,) or (B, V) array
            Converted to float32.

        Returns
        -------
        float32
            The smoothed maps, a new array of the same shape; float32 arithmetic, relative error under 1e-6
            for maps of one sign.

        Raises
        ------
        ValueError
            The maps do not have a value for each voxel of the mask.
        """
        values = np.ascontiguousarray(maps, dtype=np.float32)
        if values.ndim not in (1, 2) or values.shape[-1] != self.grid.n_voxels:
            raise ValueError(f"maps of shape {values.shape} do not fit a mask of {self.grid.n_voxels} voxels")
        return self._smooth(np.atleast_2d(values), self._norm).reshape(values.shape)

    def on_device(self, maps: DeviceArray, device: Device) -> DeviceArray:
        """Smooth maps (B, V) float32 that are on a device, to the same bits (``kernels/smooth.cu``)."""
        padded = self.grid.padded
        n_maps, n_voxels = maps.shape
        out = device.empty(maps.shape, np.float32)
        index, norm = device.keep(padded.index), device.keep(self._norm)
        at_a_time = int(np.clip(int(0.8 * device.free_bytes()) // (8 * padded.size), 1, max(n_maps, 1)))
        for start in range(0, n_maps, at_a_time):
            part = device.rows(maps, start, min(start + at_a_time, n_maps))
            count = np.int64(n_voxels), np.int64(part.shape[0]), np.int64(padded.size)
            one = device.full((part.shape[0], padded.size), 0, np.float32)
            other = device.empty((part.shape[0], padded.size), np.float32)
            blocks = blocks_over(part.shape[0], padded.size, 256, device)
            device.launch("smooth_fill", blocks, 256, part, index, *count, one)
            step = 1
            for weights, length in zip(self._weights, padded.shape):
                device.launch(
                    "smooth_pass", blocks, 256, one, *count[1:], np.int32(step), np.int32(length),
                    device.keep(weights), np.int32(len(weights) - 1), other,
                )  # fmt: skip
                one, other = other, one
                step *= length
            target = device.rows(out, start, start + part.shape[0])
            device.launch("smooth_gather", blocks, 256, one, index, *count, norm, target)
            del one, other  # there is no room for the next ones beside them
        return out

    def exact(self, maps: ArrayLike) -> Float64:
        """Smooth with sums in float64, with scipy: for the map that everything else is measured against.

        Images are rounded to float32 between the passes along the axes. FSL's must be too: in the reference
        case whether the maximum exceeds the last step of TFCE hangs on it.

        Parameters
        ----------
        maps : (V,) or (B, V) array

        Returns
        -------
        float64, a new array of the same shape
        """
        values = np.asarray(maps, dtype=np.float64)
        norm = self._correlate(np.ones(self.grid.n_voxels))
        smoothed = [(self._correlate(f) / norm).astype(np.float32) for f in np.atleast_2d(values)]
        return np.stack(smoothed).astype(np.float64).reshape(values.shape)

    def _correlate(self, values: Float64) -> Float64:
        from scipy.ndimage import correlate1d  # takes a tenth of the time that a command takes to start

        volume = self.grid.to_volume(values.astype(np.float32))
        for axis, half in enumerate(self._exact_weights):
            kernel = np.concatenate([half[:0:-1], half])
            volume = correlate1d(volume, kernel, axis=axis, mode="constant")  # sums in float64
        return self.grid.to_vector(volume).astype(np.float64)

    def _smooth(self, maps: Float32, norm: Float32) -> Float32:
        rows, out = self._rows, np.empty_like(maps)
        # One row more than the box has: it stays zero, and stands for every row outside.
        px, n_rows = self.grid.padded.shape[0], rows.steps[2]
        along_x, along_y = np.zeros((2, n_rows + 1, px), dtype=np.float32)
        wx, wy, wz = self._weights
        _smooth_maps(maps, norm, rows.first, rows.x, rows.spans, rows.steps, wx, wy, wz, along_x, along_y, out)
        return out


@dataclass(frozen=True, eq=False)
class _Rows:
    """What each pass has to compute, by row (z, y) of the padded box; everything else is zero or never read.

    Attributes
    ----------
    first : (pz·py + 1,) int64
        The voxels of row j are numbers first[j] … first[j+1] − 1 of the vector.
    x : (V,) int64
        Position of each voxel along its row.
    spans : (3, pz·py, 2) int64
        For the x, y and z pass: start and stop along x of what is wanted of the row; start ≥ stop if nothing.
    steps : (3,) int64
        From a row to its neighbour along y (1) and along z (py), and number of rows (pz·py).
    """

    first: Ints
    x: Ints
    spans: Ints
    steps: Ints


def _rows(grid: Grid, widths: list[int]) -> _Rows:
    px, py, pz = grid.padded.shape
    row, x = np.divmod(grid.padded.index.astype(np.int64), px)
    first = np.searchsorted(row, np.arange(pz * py + 1)).astype(np.int64)
    filled = first[:-1] < first[1:]
    start, stop = np.full(pz * py, px, dtype=np.int64), np.zeros(pz * py, dtype=np.int64)
    start[filled], stop[filled] = x[first[:-1][filled]], x[first[1:][filled] - 1] + 1
    z_pass = np.stack([start, stop], axis=-1).reshape(pz, py, 2)
    y_pass = _read_by(z_pass, widths[2], 0, px)
    x_pass = _read_by(y_pass, widths[1], 1, px)
    x_pass[~filled.reshape(pz, py)] = 0
    spans = np.stack([x_pass, y_pass, z_pass]).reshape(3, -1, 2)
    return _Rows(first, x, spans, np.array([1, py, pz * py]))


def _read_by(spans: Ints, width: int, axis: int, px: int) -> Ints:
    """Spans of the rows that a pass along `axis` reads, given the spans that it computes."""
    from scipy.ndimage import maximum_filter1d, minimum_filter1d

    size = 2 * width + 1
    start = minimum_filter1d(spans[..., 0], size, axis=axis, mode="constant", cval=px)
    stop = maximum_filter1d(spans[..., 1], size, axis=axis, mode="constant", cval=0)
    return np.stack([start, stop], axis=-1)


@checked
def _smooth_maps(  # noqa: PLR0913
    maps: Float32,
    norm: Float32,
    first: Ints,
    x: Ints,
    spans: Ints,
    steps: Ints,
    wx: Float32,
    wy: Float32,
    wz: Float32,
    along_x: Float32,
    along_y: Float32,
    out: Float32,
) -> None:
    along_z = along_x  # the next map's x pass writes over all that the z pass wrote
    for b in range(maps.shape[0]):
        _pass_x(maps[b], first, x, spans[0], wx, along_x)
        _pass_rows(along_x, spans[1], wy, steps[0], steps[1] // steps[0], along_y)
        _pass_rows(along_y, spans[2], wz, steps[1], steps[2] // steps[1], along_z)
        for j in range(steps[2]):
            for v in range(first[j], first[j + 1]):
                out[b, v] = along_z[j, x[v]] / norm[v]


@checked
def _add(acc: Float32, values: Float32, a: int, b: int, weight: np.float32) -> None:
    """Accumulate two stretches of `values`, starting at a and at b: the neighbours at one distance."""
    # Unsigned indices cannot be negative, which spares numba's wrap-around and lets the loop vectorise.
    first, second = np.uint64(a), np.uint64(b)
    for i in range(np.uint64(acc.shape[0])):
        acc[i] += weight * (values[first + i] + values[second + i])


@checked
def _pass_x(values: Float32, first: Ints, x: Ints, spans: Ints, weights: Float32, out: Float32) -> None:
    h = weights.shape[0] - 1
    row = np.zeros(out.shape[1] + 2 * h, dtype=np.float32)
    for j in range(spans.shape[0]):
        start, stop = spans[j, 0], spans[j, 1]
        if start >= stop:
            continue
        for v in range(first[j], first[j + 1]):
            row[x[v] + h] = values[v]
        acc = out[j, start:stop]
        acc[:] = 0
        centre = start + h
        _add(acc, row, centre, centre, weights[0] * HALF)
        for k in range(1, h + 1):
            _add(acc, row, centre - k, centre + k, weights[k])
        for v in range(first[j], first[j + 1]):
            row[x[v] + h] = 0


@checked
def _pass_rows(rows: Float32, spans: Ints, weights: Float32, step: int, length: int, out: Float32) -> None:
    """Smooth along y (step 1) or z (step py): an axis of `length` rows that lie `step` rows apart."""
    flat, px, outside = rows.reshape(-1), rows.shape[1], rows.shape[0] - 1
    for j in range(spans.shape[0]):
        start, stop = spans[j, 0], spans[j, 1]
        if start >= stop:
            continue
        acc = out[j, start:stop]
        acc[:] = 0
        _add(acc, flat, j * px + start, j * px + start, weights[0] * HALF)
        before = (j // step) % length
        after = length - 1 - before
        for k in range(1, min(weights.shape[0], max(before, after) + 1)):
            a = j - k * step if k <= before else outside
            b = j + k * step if k <= after else outside
            _add(acc, flat, a * px + start, b * px + start, weights[k])
