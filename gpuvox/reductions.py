"""Reductions of batches of maps (B, V): extremes, voxels that tie, counts and sums.

The CPU has compiled loops, a device that holds the maps has ``kernels/maps.cu``. Results are on the host unless the
docstring says otherwise. Counts and sums do not depend on the order of the maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from gpuvox.device import Device, blocks_for, blocks_over
from gpuvox.heights import LINEAR
from gpuvox.jit import inner, loop
from gpuvox.types import AnyArray, Bools, DeviceArray, Float32, Float64, Int32, Ints, MapBatch

TIE = 1e-4
"""Relative difference within which float32 statistics are compared again in float64."""
STEP_TIE = 1e-5
"""The same for steps of TFCE, of which there are so many that the bound must be tighter."""
COUNTED = 512
"""Voxels whose counts are made at a time."""
STRETCH = 128
"""Voxels that are tested together."""
THREADS = 256
ROOM = 1 << 20
"""Items that a list on the device holds if there is enough memory; otherwise those of one map."""

MOST_ITEMS = 2**31 - 1
"""The most items that a kernel can count."""


C_NAMES = {"float32": "float", "float64": "double", "int64": "long long"}


@dataclass(frozen=True, eq=False)
class Items:
    """Voxels in a batch of maps, with their values.

    Attributes
    ----------
    map, voxel : (m,) int arrays
    value : (m,) float32
    """

    map: Int32
    voxel: Int32
    value: Float32

    def __len__(self) -> int:
        return len(self.map)


def extremes(maps: MapBatch, device: Device | None = None) -> AnyArray:
    """(2, B) Largest value of each map and of its negative."""
    n_maps, n_voxels = maps.shape
    if not n_voxels or not n_maps:
        return np.zeros((2, n_maps), dtype=maps.dtype)
    if device is None:
        largest: AnyArray = np.stack([maps.max(axis=1), -maps.min(axis=1)])
    else:
        out = device.empty((2, n_maps), maps.dtype)
        device.launch(
            f"maps_extremes<{C_NAMES[maps.dtype.name]}>", min(n_maps, 4 * device.n_processors), THREADS,
            maps, np.int32(n_maps), np.int64(n_voxels), out, shared=2 * 8 * THREADS,
        )  # fmt: skip
        largest = device.download(out)
    largest += largest.dtype.type(0)  # no negative zeros
    return largest


def ties_everywhere(maps: MapBatch, observed: Float32, device: Device | None = None) -> Bools:
    """(B,) Whether a map is within rounding of the observed one (V,), or of its negative, at every voxel."""
    n_maps, n_voxels = maps.shape
    if device is None:
        return np.array([_ties_everywhere(values, observed) for values in maps], dtype=bool)
    out = device.empty(n_maps, np.int32)
    device.launch(
        "maps_ties_everywhere", min(n_maps, 4 * device.n_processors), THREADS,
        maps, np.int32(n_maps), np.int64(n_voxels), device.keep(observed), out,
    )  # fmt: skip
    return device.download(out).astype(bool)


def close_to_maximum(
    maps: MapBatch, first: int, sign: int, maxima: Float32, device: Device | None = None
) -> Items:
    """Voxels within rounding of the maximum of the maps times `sign`.

    Parameters
    ----------
    maps : (B, V) float32
    first : int
        Maps before it are skipped, as are those with a maximum of 0.
    sign : {1, -1}
    maxima : (B,) float32
    """
    if device is None:
        chosen = [b for b in range(first, len(maps)) if maxima[b] != 0]
        return _gather(maps, chosen, lambda b: _close_to_maximum(maps[b], np.float32(sign), maxima[b]))
    return _download(
        device, list_items(device, maps, first, "maps_list_close", np.float32(sign), device.upload(maxima))
    )


def near_ties(maps: MapBatch, first: int, observed: Float32, device: Device | None = None) -> Items:
    """Voxels within rounding of the observed value (V,), from map `first` on, unless both are 0."""
    if device is None:
        return _gather(maps, range(first, len(maps)), lambda b: _near_ties(maps[b], observed))
    return _download(device, list_items(device, maps, first, "maps_list_ties", device.keep(observed)))


def near_threshold(maps: MapBatch, first: int, threshold: float, device: Device | None = None) -> Items:
    """Voxels whose value is within rounding of a threshold, or of its negative, from map `first` on."""
    if device is None:
        return _gather(maps, range(first, len(maps)), lambda b: _near_threshold(maps[b], np.float32(threshold)))
    return _download(device, list_items(device, maps, first, "maps_list_threshold", np.float32(threshold)))


def near_steps(maps: MapBatch, first: int, per_unit: tuple[float, float], device: Device | None = None) -> Items:
    """Voxels whose value is within rounding of a whole number of steps, from map `first` on.

    Parameters
    ----------
    maps : (B, V) float32
    first : int
    per_unit : (float, float)
        Steps in a unit of the map and of its negative; 0: a sign without.
    """
    up, down = map(np.float32, per_unit)
    if device is None:
        return _gather(maps, range(first, len(maps)), lambda b: _near_steps(maps[b], up, down))
    return _download(device, list_items(device, maps, first, "maps_list_steps", up, down))


def put(maps: MapBatch, items: Items, values: Float64, device: Device | None = None) -> None:
    """Replace values of maps (B, V) float32, in place."""
    if device is None:
        maps[items.map, items.voxel] = values
    elif len(items):
        lists = [device.upload(each) for each in (items.map, items.voxel, values.astype(np.float64))]
        put_on_device(device, maps, len(items), *lists)


def put_on_device(
    device: Device, maps: MapBatch, n: int, number: DeviceArray, voxel: DeviceArray, values: DeviceArray
) -> None:
    """The same for n items on the device: numbers of maps, voxels, float64 values."""
    device.launch(
        "maps_put", blocks_for(n, THREADS, device), THREADS,
        number, voxel, values, np.int32(n), np.int64(maps.shape[1]), maps,
    )  # fmt: skip


def _gather(maps: Float32, chosen: Iterable[int], find: Callable[[int], Ints]) -> Items:
    voxels = {b: find(b) for b in chosen}
    number = np.repeat(np.array(list(voxels), dtype=np.int32), [len(v) for v in voxels.values()])
    voxel = np.concatenate([*voxels.values(), np.zeros(0, dtype=np.int64)]).astype(np.int32)
    return Items(number, voxel, maps[number, voxel])


def list_items(
    device: Device, maps: MapBatch, first: int, kernel: str, *arguments: DeviceArray | np.generic
) -> Iterator[tuple[int, DeviceArray, DeviceArray, DeviceArray]]:
    """Lists made by a kernel, in ranges of maps if they are long: length, numbers of maps, voxels, values."""
    n_maps, n_voxels = maps.shape
    room = max(min(ROOM, device.free_bytes() // 128), n_voxels)
    # The kernel counts in 32 bits, also what there is no room for.
    step = max(1, MOST_ITEMS // max(n_voxels, 1))
    waiting = [(start, min(start + step, n_maps)) for start in range(first, n_maps, step)]
    while waiting:
        start, stop = waiting.pop()
        count = device.full(1, 0, np.int32)
        number, voxel = device.empty(room, np.int32), device.empty(room, np.int32)
        value = device.empty(room, np.float32)
        device.launch(
            kernel, blocks_over(stop - start, n_voxels, THREADS, device), THREADS,
            maps, np.int32(start), np.int32(stop), np.int64(n_voxels), *arguments, np.int32(room), count,
            number, voxel, value,
        )  # fmt: skip
        n = int(device.download(count)[0])
        if n > room:
            middle = (start + stop) // 2
            waiting += [(start, middle), (middle, stop)]
        elif n:
            yield n, number, voxel, value


def _download(device: Device, lists: Iterator[tuple[int, DeviceArray, DeviceArray, DeviceArray]]) -> Items:
    parts = [[device.download(values)[:n] for values in arrays] for n, *arrays in lists]
    if not parts:
        none = np.zeros(0, dtype=np.int32)
        return Items(none, none, np.zeros(0, dtype=np.float32))
    return Items(*(np.concatenate(values) for values in zip(*parts)))


def count_below(maps: MapBatch, observed: AnyArray, disjoint: bool, device: Device | None = None) -> Ints:
    """(2, V) Maps below the observed value, and negated maps below its negative.

    Parameters
    ----------
    maps : (B, V) array
    observed : (1, V) array
    disjoint : bool
        The two signs are separate statistics, each 0 where the other is not (TFCE, clusters).
    """
    if device is None:
        return _count_below(maps, observed[0], disjoint)
    n_maps, n_voxels = maps.shape
    below = device.empty((2, n_voxels), np.int64)
    kernel = f"maps_count_below<{C_NAMES[maps.dtype.name]}, {'true' if disjoint else 'false'}>"
    device.launch(
        kernel, blocks_for(n_voxels, THREADS, device), THREADS,
        maps, np.int32(n_maps), np.int64(n_voxels), device.keep(observed), below,
    )  # fmt: skip
    return device.download(below)


def sum_up(maps: MapBatch, shift: int, quantum: float, device: Device | None = None) -> tuple[AnyArray, Ints]:
    """Sums over the maps of their positive and negative parts, and the numbers of maps that are not 0.

    Parameters
    ----------
    maps : (B, V) int64 or float64
    shift : int
        Integers lose so many bits before they are added; scores beyond `LINEAR` count as that.
    quantum : float
        Floats are rounded to multiples of it: their sums are then exact, in any order.

    Returns
    -------
    total : (2, V) int64 or float64
    nonzero : (2, V) int64
    """
    n_maps, n_voxels = maps.shape
    if device is None:
        positive, negative = np.maximum(maps, 0), np.maximum(-maps, 0)
        if maps.dtype == np.int64:
            positive, negative = (np.minimum(values, LINEAR) >> shift for values in (positive, negative))
        else:
            positive, negative = (np.rint(values / quantum) * quantum for values in (positive, negative))
        total = np.stack([positive.sum(axis=0), negative.sum(axis=0)])
        return total, np.stack([(maps > 0).sum(axis=0), (maps < 0).sum(axis=0)])
    sums, nonzero = device.empty((2, n_voxels), maps.dtype), device.empty((2, n_voxels), np.int64)
    device.launch(
        f"maps_sum_up<{C_NAMES[maps.dtype.name]}>", blocks_for(n_voxels, THREADS, device), THREADS,
        maps, np.int32(n_maps), np.int64(n_voxels), np.int32(shift), np.float64(quantum), sums, nonzero,
    )  # fmt: skip
    return device.download(sums), device.download(nonzero)


def normalise(
    maps: MapBatch, scales: tuple[float, float], local_mean: Float64, device: Device | None = None
) -> MapBatch:
    """Values in FSL's units, divided by their local means.

    Parameters
    ----------
    maps : (B, V) int64 or float64
        Positive for the map, negative for its negative.
    scales : (float, float)
        What a unit of the map, and of its negative, is worth.
    local_mean : (2, V) float64

    Returns
    -------
    (B, V) float64, where the maps are
        0 where the local mean is 0.
    """
    n_maps, n_voxels = maps.shape
    if device is None:
        out = np.zeros(maps.shape)
        for sign, scale, mean in zip((1, -1), scales, local_mean):
            value = np.maximum(sign * maps, 0)
            value = (np.minimum(value, LINEAR) if value.dtype == np.int64 else value).astype(np.float64) * scale
            out += sign * np.divide(value, mean, out=np.zeros_like(out), where=mean > 0)
        return out
    there = device.empty(maps.shape, np.float64)
    device.launch(
        f"maps_normalise<{C_NAMES[maps.dtype.name]}>", blocks_over(n_maps, n_voxels, THREADS, device), THREADS,
        maps, np.int32(n_maps), np.int64(n_voxels), *map(np.float64, scales), device.keep(local_mean), there,
    )  # fmt: skip
    return there


@loop
def _close_to_maximum(values: AnyArray, sign: np.float32, maximum: np.float32) -> Ints:
    """Voxels within rounding of the maximum."""
    bound = maximum - np.float32(TIE) * max(maximum, np.float32(1))
    count = 0
    for v in range(len(values)):
        count += sign * values[v] >= bound
    out = np.empty(count, np.int64)
    count = 0
    for v in range(len(values)):
        if sign * values[v] >= bound:
            out[count] = v
            count += 1
    return out


@loop
def _near_ties(values: AnyArray, observed: AnyArray) -> Ints:
    """Voxels whose value is within rounding of the observed one, unless both are 0."""
    out = np.empty(len(values), np.int64)
    count = 0
    for v in range(len(values)):
        scale = max(abs(observed[v]), np.float32(1))
        if abs(values[v] - observed[v]) <= np.float32(TIE) * scale and (values[v] != 0 or observed[v] != 0):
            out[count] = v
            count += 1
    return out[:count]


@loop
def _near_threshold(values: AnyArray, threshold: np.float32) -> Ints:
    """Voxels within rounding of the threshold, or of its negative; stretches without any are skipped quickly."""
    bound = np.float32(TIE) * max(threshold, np.float32(1))
    out = np.empty(len(values), np.int64)
    n = 0
    for start in range(0, len(values), STRETCH):
        part = values[start : start + STRETCH]
        n_near = 0
        for i in range(len(part)):
            n_near += abs(abs(part[i]) - threshold) <= bound
        if n_near:
            for i in range(len(part)):
                if abs(abs(part[i]) - threshold) <= bound:
                    out[n] = start + i
                    n += 1
    return out[:n].copy()


@inner
def _is_near_step(value: np.float32, up: np.float32, down: np.float32) -> bool:
    per_step = down if value < 0 else up
    height = abs(value) * per_step
    nearest = np.rint(height)
    near = abs(height - nearest) <= np.float32(STEP_TIE) * (height + per_step)
    is_step: bool = near & (nearest >= np.float32(1))
    return is_step


@loop
def _near_steps(values: AnyArray, up: np.float32, down: np.float32) -> Ints:
    """Voxels within rounding of a whole number of steps; stretches without any are skipped quickly."""
    out = np.empty(len(values), np.int64)
    n = 0
    for start in range(0, len(values), STRETCH):
        part = values[start : start + STRETCH]
        n_near = 0
        for i in range(len(part)):
            n_near += _is_near_step(part[i], up, down)
        if n_near:
            for i in range(len(part)):
                if _is_near_step(part[i], up, down):
                    out[n] = start + i
                    n += 1
    return out[:n].copy()


@loop
def _ties_everywhere(values: AnyArray, observed: AnyArray) -> bool:
    """See `ties_everywhere`; mostly decided at the first voxel."""
    same, opposite = True, True
    for v in range(len(values)):
        bound = np.float32(TIE) * max(abs(observed[v]), np.float32(1))
        same &= abs(values[v] - observed[v]) <= bound
        opposite &= abs(values[v] + observed[v]) <= bound
        if not (same or opposite):
            return False
    return True


@loop
def _count_below(values: AnyArray, observed: AnyArray, disjoint: bool) -> Ints:
    """See `count_below`; some voxels of all maps at a time, whose counts stay in the cache."""
    zero = values.dtype.type(0)
    n_voxels = values.shape[1]
    below = np.zeros((2, n_voxels), np.int64)
    for first in range(0, n_voxels, COUNTED):
        voxels = range(first, min(first + COUNTED, n_voxels))
        for b in range(values.shape[0]):
            if disjoint:
                for v in voxels:
                    value, target = values[b, v], observed[v]
                    below[0, v] += max(value, zero) < max(target, zero)
                    below[1, v] += max(-value, zero) < max(-target, zero)
            else:
                for v in voxels:
                    below[0, v] += values[b, v] < observed[v]
                    below[1, v] += values[b, v] > observed[v]
    return below
