"""Reductions of batches of maps (B, V): extremes, voxels that tie, counts and sums.

The CPU has compiled loops, a device that holds the maps has ``kernels/maps.cu``. Results are on the host unless the
docstring says otherwise. Counts and sums do not depend on the order of the maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from gpuvox.device import C_NAMES, Again, Device, Outcomes, Promise, blocks_for, blocks_over, settled
from gpuvox.heights import LINEAR
from gpuvox.jit import inner, loop
from gpuvox.types import AnyArray, Bools, DeviceArray, Float32, Float64, Int32, Ints, MapBatch, Shuffles

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


def shuffle_by_shuffle(
    shuffles: Shuffles, number: AnyArray, voxels: AnyArray, values: Callable[[Shuffles, Ints], Float64]
) -> Float64:
    """(m,) Values for pairs of a shuffle and a voxel, from a function of one shuffle (1, n) and its voxels."""
    out = np.empty(len(number))
    for b in np.unique(number):
        chosen = number == b
        out[chosen] = values(shuffles[b : b + 1], voxels[chosen].astype(np.int64))
    return out


def extremes(maps: MapBatch, device: Device | None = None) -> AnyArray:
    """(2, B) Largest value of each map and of its negative."""
    return settled(device, lambda outcomes: promised_extremes(maps, outcomes)).value


def promised_extremes(maps: MapBatch, outcomes: Outcomes) -> Promise[AnyArray]:
    """The same, where the outcomes are those of a device that has the maps."""
    if outcomes.device is not None and maps.shape[0] and maps.shape[1]:
        return outcomes.promise(_without_negative_zeros, extremes_on(outcomes.device, maps))
    n_maps, n_voxels = maps.shape
    if not n_voxels or not n_maps:
        return outcomes.known(np.zeros((2, n_maps), dtype=maps.dtype))
    return outcomes.known(_without_negative_zeros(np.stack([maps.max(axis=1), -maps.min(axis=1)])))


def _without_negative_zeros(values: AnyArray) -> AnyArray:
    values += values.dtype.type(0)
    return values


def extremes_on(device: Device, maps: DeviceArray) -> DeviceArray:
    """(2, B) The same, which stay on the device; a zero may have a sign."""
    n_maps, n_voxels = maps.shape
    out = device.empty((2, n_maps), maps.dtype)
    device.launch(
        f"maps_extremes<{C_NAMES[maps.dtype.name]}>", min(n_maps, 4 * device.n_processors), THREADS,
        maps, np.int32(n_maps), np.int64(n_voxels), out, shared=2 * 8 * THREADS,
    )  # fmt: skip
    return out


def ties_everywhere(maps: Float32, observed: Float32) -> Bools:
    """(B,) Whether a map is within rounding of the observed one (V,), or of its negative, at every voxel."""
    return np.array([_ties_everywhere(values, observed) for values in maps], dtype=bool)


def ties_on(device: Device, maps: DeviceArray, observed: Float32) -> DeviceArray:
    """(B,) int32 The same on a device, where they stay: 1 or 0."""
    n_maps, n_voxels = maps.shape
    out = device.empty(n_maps, np.int32)
    device.launch(
        "maps_ties_everywhere", min(n_maps, 4 * device.n_processors), THREADS,
        maps, np.int32(n_maps), np.int64(n_voxels), device.keep(observed), out,
    )  # fmt: skip
    return out


def close_to_maximum(maps: Float32, first: int, sign: int, maxima: Float32) -> Items:
    """Voxels within rounding of the maximum of the maps times `sign`.

    Parameters
    ----------
    maps : (B, V) float32
    first : int
        Maps before it are skipped, as are those with a maximum of 0.
    sign : {1, -1}
    maxima : (B,) float32
    """
    chosen = [b for b in range(first, len(maps)) if maxima[b] != 0]
    return _gather(maps, chosen, lambda b: _close_to_maximum(maps[b], np.float32(sign), maxima[b]))


def near_ties(maps: Float32, first: int, observed: Float32) -> Items:
    """Voxels within rounding of the observed value (V,), from map `first` on, unless both are 0."""
    return _gather(maps, range(first, len(maps)), lambda b: _near_ties(maps[b], observed))


def near_threshold(maps: Float32, first: int, threshold: float) -> Items:
    """Voxels whose value is within rounding of a threshold, or of its negative, from map `first` on."""
    return _gather(maps, range(first, len(maps)), lambda b: _near_threshold(maps[b], np.float32(threshold)))


def near_steps(maps: Float32, first: int, per_unit: tuple[float, float]) -> Items:
    """Voxels whose value is within rounding of a whole number of steps, from map `first` on.

    Parameters
    ----------
    maps : (B, V) float32
    first : int
    per_unit : (float, float)
        Steps in a unit of the map and of its negative; 0: a sign without.
    """
    up, down = map(np.float32, per_unit)
    return _gather(maps, range(first, len(maps)), lambda b: _near_steps(maps[b], up, down))


def near_own_steps(maps: Float32, first: int, n_steps: int, signs: int) -> Items:
    """Voxels within rounding of a whole number of steps, of which there are `n_steps` up to the map's own maximum.

    With two signs there are as many up to the maximum of the negative.
    """
    maxima = extremes(maps)
    maxima[signs:] = 0
    per_unit = np.divide(np.float32(n_steps), maxima, out=np.zeros_like(maxima), where=maxima > 0)
    return _gather(maps, range(first, len(maps)), lambda b: _near_steps(maps[b], *per_unit[:, b]))


def _gather(maps: Float32, chosen: Iterable[int], find: Callable[[int], Ints]) -> Items:
    voxels = {b: find(b) for b in chosen}
    number = np.repeat(np.array(list(voxels), dtype=np.int32), [len(v) for v in voxels.values()])
    voxel = np.concatenate([*voxels.values(), np.zeros(0, dtype=np.int64)]).astype(np.int32)
    return Items(number, voxel, maps[number, voxel])


# -- lists that stay on a device ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Search:
    """What to list of the voxels of maps on a device: a kernel, and those of its arguments that not all have."""

    kernel: str
    arguments: tuple[DeviceArray | np.generic, ...]


def steps_search(per_unit: tuple[float, float]) -> Search:
    """See `near_steps`."""
    return Search("maps_list_steps", tuple(map(np.float32, per_unit)))


def own_steps_search(maxima: DeviceArray, n_steps: int, signs: int) -> Search:
    """See `near_own_steps`; maxima (2, B) of the maps and of their negatives."""
    numbers = np.int32(maxima.shape[1]), np.int32(signs), np.float32(n_steps)
    return Search("maps_list_own_steps", (*numbers, maxima))


def threshold_search(threshold: float) -> Search:
    """See `near_threshold`."""
    return Search("maps_list_threshold", (np.float32(threshold),))


def ties_search(device: Device, observed: Float32) -> Search:
    """See `near_ties`."""
    return Search("maps_list_ties", (device.keep(observed),))


def close_search(maxima: DeviceArray, rows: int) -> Search:
    """See `close_to_maximum`; maxima (2, B) of the maps and of their negatives; rows: 1, 2, or 3 for both signs."""
    return Search("maps_list_close", (np.int32(maxima.shape[1]), np.int32(rows), maxima))


def unsettled_search(marks: DeviceArray, whole: DeviceArray) -> Search:
    """NaN, in maps (B,) where marks is not 0, and all voxels of maps where `whole` is not 0."""
    return Search("maps_list_unsettled", (marks, whole))


@dataclass(frozen=True, eq=False)
class DeviceItems:
    """Voxels in a batch of maps, listed on a device; how many, the host does not know yet.

    Attributes
    ----------
    count : (1,) int32
        Number of items, more than `room` if there was too little.
    map, voxel : (room,) int32
    value : (room,) float32
    """

    count: DeviceArray
    map: DeviceArray
    voxel: DeviceArray
    value: DeviceArray

    @property
    def room(self) -> int:
        """Number of items for which there is room."""
        return len(self.map)

    @property
    def arguments(self) -> tuple[DeviceArray | np.generic, ...]:
        """What kernels take of a list: its length, its room, the maps and the voxels."""
        return self.count, np.int32(self.room), self.map, self.voxel


def upload_items(device: Device, number: AnyArray, voxel: AnyArray) -> DeviceItems:
    """A list from the host, without values."""
    count = device.upload(np.array([len(number)], np.int32))
    lists = [device.upload(each.astype(np.int32)) for each in (number, voxel)]
    return DeviceItems(count, lists[0], lists[1], device.empty(1, np.float32))


def listed(maps: DeviceArray, first: int, search: Search, outcomes: Outcomes) -> Iterator[DeviceItems]:
    """Lists of what is looked for in maps from `first` on: one, or one for each range of maps where they were long.

    Every list must be used before the next is asked for. If one was too long for the memory there is, the outcome is
    `Again`, with shorter ranges.
    """
    device, (n_maps, n_voxels) = _of(outcomes), maps.shape
    room = max(min(ROOM, device.free_bytes() // 128), n_voxels)
    # The kernel counts in 32 bits, also what there is no room for.
    step = max(1, min(device.maps_to_a_list.get(search.kernel, n_maps), MOST_ITEMS // max(n_voxels, 1)))
    starts = range(first, n_maps, step)
    if not starts or not n_voxels:
        return
    counts = device.full(len(starts), 0, np.int32)
    for i, start in enumerate(starts):
        stop = min(start + step, n_maps)
        number, voxel, value = (device.empty(room, kind) for kind in (np.int32, np.int32, np.float32))
        items = DeviceItems(device.rows(counts, i, i + 1), number, voxel, value)
        device.launch(
            search.kernel, blocks_over(stop - start, n_voxels, THREADS, device), THREADS,
            maps, np.int32(start), np.int32(stop), np.int64(n_voxels), *search.arguments, *items.arguments, value,
        )  # fmt: skip
        yield items

    def check(counted: AnyArray) -> None:
        longest = int(counted.max())
        if longest > room:
            device.maps_to_a_list[search.kernel] = max(1, step * room // (2 * longest))
            raise Again

    outcomes.promise(check, counts)


def _of(outcomes: Outcomes) -> Device:
    if outcomes.device is None:
        raise ValueError("there is no device")
    return outcomes.device


def put_on(device: Device, maps: DeviceArray, items: DeviceItems, values: DeviceArray) -> None:
    """Replace listed values of maps (B, V) float32 by float64 ones, rounded once."""
    device.launch(
        "maps_put", blocks_for(items.room, THREADS, device), THREADS,
        *items.arguments, values, np.int64(maps.shape[1]), maps,
    )  # fmt: skip


def exact_maxima_on(
    maps: DeviceArray, first: int, signs: int, exact: Callable[[DeviceItems], DeviceArray], outcomes: Outcomes
) -> Promise[Float32]:
    """The extremes of maps on a device, of which those from `first` on are decided by float64 values.

    Parameters
    ----------
    maps : (B, V) float32
    first : int
    signs : {1, 2}
        2: the maxima of the negatives too.
    exact : callable
        Float64 values of listed voxels.
    outcomes : Outcomes

    Returns
    -------
    promise of (2, B) float32
    """
    device, n_maps = _of(outcomes), maps.shape[0]
    top = extremes_on(device, maps)
    best = device.empty((2, n_maps), np.int32)
    numbers = np.int32(n_maps), np.int32(signs)
    device.launch(
        "maps_start_maxima", blocks_for(2 * n_maps, THREADS, device), THREADS, top, np.int32(first), *numbers, best
    )
    for items in listed(maps, first, close_search(top, 3 if signs == 2 else 1), outcomes):
        device.launch(
            "maps_raise_maxima", blocks_for(items.room, THREADS, device), THREADS,
            *items.arguments, exact(items), *numbers, best,
        )  # fmt: skip
    return outcomes.promise(_unordered, best)


def _unordered(bits: Int32) -> Float32:
    """float32 numbers, from integers that are ordered as they are (`ordered` of ``kernels/common.cuh``)."""
    negative = (np.uint32(0x80000000) - bits.view(np.uint32)).astype(np.uint32)
    values: Float32 = np.where(bits < 0, negative, bits.view(np.uint32)).view(np.float32)
    return values


# -- counts and sums ------------------------------------------------------------------------------------------------


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
    return device.download(count_below_on(device, maps, observed, disjoint))


def count_below_on(device: Device, maps: DeviceArray, observed: AnyArray, disjoint: bool) -> DeviceArray:
    """(2, V) int64 The same, which stay on the device."""
    n_maps, n_voxels = maps.shape
    below = device.empty((2, n_voxels), np.int64)
    kernel = f"maps_count_below<{C_NAMES[maps.dtype.name]}, {'true' if disjoint else 'false'}>"
    device.launch(
        kernel, blocks_for(n_voxels, THREADS, device), THREADS,
        maps, np.int32(n_maps), np.int64(n_voxels), device.keep(observed), below,
    )  # fmt: skip
    return below


def settle_below_on(
    below: DeviceArray,
    maps: DeviceArray,
    first: int,
    observed: Float32,
    exact: Callable[[DeviceItems], DeviceArray],
    outcomes: Outcomes,
) -> None:
    """Correct counts (2, V) of float32 maps below observed values (V,), where only float64 tells the two apart."""
    device = _of(outcomes)
    for items in listed(maps, first, ties_search(device, observed), outcomes):
        device.launch(
            "maps_settle_below", blocks_for(items.room, THREADS, device), THREADS,
            *items.arguments, items.value, exact(items), device.keep(observed), np.int64(maps.shape[1]), below,
        )  # fmt: skip


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
    return settled(device, lambda outcomes: promised_sums(maps, shift, quantum, outcomes)).value


def promised_sums(
    maps: MapBatch, shift: int, quantum: float, outcomes: Outcomes
) -> Promise[tuple[AnyArray, Ints]]:
    """The same, where the outcomes are those of a device that has the maps."""
    (n_maps, n_voxels), device = maps.shape, outcomes.device
    if device is None:
        positive, negative = np.maximum(maps, 0), np.maximum(-maps, 0)
        if maps.dtype == np.int64:
            positive, negative = (np.minimum(values, LINEAR) >> shift for values in (positive, negative))
        else:
            positive, negative = (np.rint(values / quantum) * quantum for values in (positive, negative))
        total = np.stack([positive.sum(axis=0), negative.sum(axis=0)])
        return outcomes.known((total, np.stack([(maps > 0).sum(axis=0), (maps < 0).sum(axis=0)])))
    sums, nonzero = device.empty((2, n_voxels), maps.dtype), device.empty((2, n_voxels), np.int64)
    device.launch(
        f"maps_sum_up<{C_NAMES[maps.dtype.name]}>", blocks_for(n_voxels, THREADS, device), THREADS,
        maps, np.int32(n_maps), np.int64(n_voxels), np.int32(shift), np.float64(quantum), sums, nonzero,
    )  # fmt: skip
    return outcomes.promise(lambda *both: both, sums, nonzero)


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
    """Voxels within rounding of the maximum; stretches without any are skipped quickly."""
    bound = maximum - np.float32(TIE) * max(maximum, np.float32(1))
    out = np.empty(len(values), np.int64)
    n = 0
    for start in range(0, len(values), STRETCH):
        part = values[start : start + STRETCH]
        n_near = 0
        for i in range(len(part)):
            n_near += sign * part[i] >= bound
        if n_near:
            for i in range(len(part)):
                if sign * part[i] >= bound:
                    out[n] = start + i
                    n += 1
    return out[:n].copy()


@inner
def _is_tie(value: np.float32, observed: np.float32) -> bool:
    near = abs(value - observed) <= np.float32(TIE) * max(abs(observed), np.float32(1))
    is_tie: bool = near & ((value != 0) | (observed != 0))
    return is_tie


@loop
def _near_ties(values: AnyArray, observed: AnyArray) -> Ints:
    """Voxels whose value is within rounding of the observed one, unless both are 0."""
    out = np.empty(len(values), np.int64)
    n = 0
    for start in range(0, len(values), STRETCH):
        part, target = values[start : start + STRETCH], observed[start : start + STRETCH]
        n_near = 0
        for i in range(len(part)):
            n_near += _is_tie(part[i], target[i])
        if n_near:
            for i in range(len(part)):
                if _is_tie(part[i], target[i]):
                    out[n] = start + i
                    n += 1
    return out[:n].copy()


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
    n_maps, n_voxels = values.shape
    below = np.empty((2, n_voxels), np.int64)
    less, more = np.empty(COUNTED, np.int32), np.empty(COUNTED, np.int32)
    for first in range(0, n_voxels, COUNTED):
        width = min(COUNTED, n_voxels - first)
        target = observed[first : first + width]
        less[:] = 0
        more[:] = 0
        for b in range(n_maps):
            part = values[b, first : first + width]
            for i in range(width):
                less[i] += np.int32(part[i] < target[i])
                more[i] += np.int32(part[i] > target[i])
        for i in range(width):
            # What is 0 in its sign is below nothing; what is of the other sign is below all else.
            below[0, first + i] = 0 if disjoint and target[i] <= 0 else less[i]
            below[1, first + i] = 0 if disjoint and target[i] >= 0 else more[i]
    return below
