"""Data larger than the memory of a device: slabs of voxels that are sent while the one before is computed.

There are two slabs on the device and two staging buffers in page-locked memory of the host. While the kernels of one
slab run, the host fills a staging buffer with the next rows, and a second stream copies them into the other slab.
Sweeps alternate in direction, so that the two slabs with which one sweep ends are those with which the next begins: of
K slabs, each sweep but the first sends K − 2.

What keeps this correct: kernels wait until the slab has arrived; a copy into a slab waits for the kernels that last
read it; and the host waits for the copy from a staging buffer before it fills the buffer again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np

from gpuvox.device import Device, Event
from gpuvox.types import DeviceArray, Float32

STAGED_BYTES = 16 << 20
"""Bytes of a staging buffer, of which there are two."""

MEASURED_BYTES = 64 << 20
"""Bytes at most of the transfer by which `measure_rate` measures."""

Fill = Callable[[slice, slice, Float32], None]
"""Called with rows and voxels of the data, and with the array to which that rectangle is copied."""


def measure_rate(device: Device, rows: int) -> float:
    """Bytes per second at which slabs of data arrive, with what the host does to prepare them."""
    width = max(
        1, min(MEASURED_BYTES, device.free_bytes()) // (4 * rows * 4)
    )  # of four slabs, two there at a time
    data = np.zeros((rows, 4 * width), dtype=np.float32)

    def fill(part: slice, voxels: slice, out: Float32) -> None:
        out[...] = data[part, voxels]

    slabs = Slabs(device, rows, data.shape[1], width, fill)
    start = perf_counter()
    for _ in slabs.sweep():
        pass
    return data.nbytes / max(perf_counter() - start, 1e-9)


def send_whole(device: Device, rows: int, n_voxels: int, fill: Fill) -> DeviceArray:
    """(rows, V) float32 All of the data, which must be some, as one slab that stays; see `Slabs`."""
    ((_, values),) = Slabs(device, rows, n_voxels, n_voxels, fill).sweep()
    return values


class Slabs:
    """Columns of (rows, V) float32 data of the host, on a device a slab of voxels at a time.

    Parameters
    ----------
    device : Device
    rows, n_voxels : int
        Shape of the data.
    width : int
        Voxels of a slab; memory for two slabs is taken on the device.
    fill : callable
        Copies a rectangle of the data, see `Fill`.

    Raises
    ------
    OutOfDeviceMemory
    """

    def __init__(self, device: Device, rows: int, n_voxels: int, width: int, fill: Fill) -> None:
        self.device, self.rows, self.n_voxels, self.width, self._fill = device, rows, n_voxels, width, fill
        self._starts = range(0, n_voxels, width)
        n_buffers = min(2, len(self._starts))
        self._slabs = [device.empty((rows, width), np.float32) for _ in range(n_buffers)]
        self._rows_at_a_time = max(1, min(rows, STAGED_BYTES // (4 * width)))
        self._staging = [device.page_locked((self._rows_at_a_time, width), np.float32) for _ in range(2)]
        self._held: list[int | None] = [None] * n_buffers  # which slab each buffer has
        self._arrived: list[Event | None] = [None] * n_buffers
        self._read: list[Event | None] = [None] * n_buffers  # all kernels that use a buffer
        self._copied: list[Event | None] = [None, None]  # out of each staging buffer
        self._turn = 0

    def sweep(self) -> Iterator[tuple[int, DeviceArray]]:
        """First voxel of each slab, and the slab (rows, width), 0 beyond the last voxel.

        The kernels that read a slab must be launched before the next is asked for.
        """
        order = list(range(len(self._starts)))
        if order and order[-1] in self._held:
            order.reverse()
        try:
            for place, slab in enumerate(order):
                self._send(slab)  # unless it was sent while the one before was computed
                buffer = slab % 2
                self.device.wait_for(self._arrived[buffer])
                yield self._starts[slab], self._slabs[buffer]
                self._read[buffer] = self.device.mark()
                if place + 1 < len(order):
                    self._send(order[place + 1])
        finally:
            # Whoever gets this memory next must not find a copy on its way into it or out of it.
            for event in (*self._arrived, *self._copied):
                if event is not None:
                    self.device.finish(event)

    def _send(self, slab: int) -> None:
        """Begin to send a slab into its buffer, unless it is there."""
        buffer = slab % 2
        if self._held[buffer] == slab:
            return
        self._held[buffer] = None
        start = self._starts[slab]
        voxels = slice(start, min(start + self.width, self.n_voxels))
        for first in range(0, self.rows, self._rows_at_a_time):
            rows = slice(first, min(first + self._rows_at_a_time, self.rows))
            self._turn = 1 - self._turn
            if self._copied[self._turn] is not None:
                self.device.finish(self._copied[self._turn])
            staged = self._staging[self._turn][: rows.stop - first]
            self._fill(rows, voxels, staged[:, : voxels.stop - start])
            staged[:, voxels.stop - start :] = 0
            target = self.device.rows(self._slabs[buffer], first, rows.stop)
            self._copied[self._turn] = self.device.send(target, staged, self._read[buffer])
        self._arrived[buffer] = self._copied[self._turn]
        self._held[buffer] = slab


T = TypeVar("T")


class PreparedSlabs(Generic[T]):
    """What a model makes of its data on a device, a slab of voxels at a time.

    What was made of the last slab is kept, so that it is made only once if one slab is enough. Then the data are those
    that the tests of an analysis share, see `device.Device.shared`; several slabs are sent while the slab before is
    computed.

    Parameters
    ----------
    device : Device
    data : sequence of arrays
        What is sent, as `Device.shared` knows it.
    rows, n_voxels, width, fill
        See `Slabs`.
    """

    def __init__(
        self, device: Device, data: Sequence[Any], rows: int, n_voxels: int, width: int, fill: Fill
    ) -> None:
        self.device, self.rows, self.n_voxels, self.width = device, rows, n_voxels, width
        self._data, self._fill = data, fill
        self._slabs: Slabs | None = None
        self._made: tuple[tuple[int, int], T] | None = None

    def sweep(self, prepare: Callable[[int, int, DeviceArray], T]) -> Iterator[T]:
        """What `prepare` makes of each slab, from its first voxel, their number, and the slab (rows, width)."""
        if 0 < self.n_voxels <= self.width:
            if self._made is None:
                values = self.device.shared(self._data, self._send)
                self._made = (0, self.n_voxels), prepare(0, self.n_voxels, values)
            yield self._made[1]
            return
        if self._slabs is None:
            self._slabs = Slabs(self.device, self.rows, self.n_voxels, self.width, self._fill)
        for start, values in self._slabs.sweep():
            place = start, min(self.width, self.n_voxels - start)
            if self._made is None or self._made[0] != place:
                self._made = None  # its memory is needed
                self._made = place, prepare(*place, values)
            yield self._made[1]

    def _send(self) -> DeviceArray:
        return send_whole(self.device, self.rows, self.n_voxels, self._fill)
