"""The only place that checks for a GPU, and the interface through which the engine uses one.

A `Device` holds arrays and runs kernels on them: `cuda.CudaDevice` through CuPy and, in the tests, a device that runs
the same kernels on the CPU. Where a function takes a `device`, None means the CPU with its compiled loops. On a device
the results are arrays of the device, unless the function says otherwise.
"""

from __future__ import annotations

import math
import os
import re
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from threading import RLock
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from gpuvox.errors import DeviceError, InputError
from gpuvox.tuning import Tuning
from gpuvox.types import AnyArray, DeviceArray

MEMORY_VARIABLE = "GPUVOX_DEVICE_MEMORY"
"""Environment variable that limits how much of a device's memory is used: bytes, or a number with K, M or G."""

Event: TypeAlias = Any
"""A moment in the work of a device; see `Device.send` and `Device.mark`."""

KEPT = 64
"""Uploads that `Device.keep` remembers."""

C_NAMES = {"float32": "float", "float64": "double", "int64": "long long"}
"""What kernels call the types that values of statistics have."""


class OutOfDeviceMemory(MemoryError):
    """The device does not have enough memory for an array."""


class Again(Exception):
    """A batch must be computed again: something turned out to be larger than there was room for.

    Attributes
    ----------
    step_by_step : bool
        Then with a look at every outcome before what depends on it is computed.
    """

    def __init__(self, step_by_step: bool = False) -> None:
        super().__init__("the batch must be computed again")
        self.step_by_step = step_by_step


class _SharedData:
    """Copies on a device of data of the host, each for as long as these data exist."""

    def __init__(self) -> None:
        self._copies: dict[tuple[int, ...], tuple[list[weakref.ref[Any]], DeviceArray]] = {}

    def add(self, data: Sequence[Any], copy: DeviceArray) -> None:
        """Keep the copy of some arrays of the host."""
        key = tuple(map(id, data))
        self._copies[key] = [weakref.ref(each, lambda _: self._copies.pop(key, None)) for each in data], copy

    def find(self, data: Sequence[Any]) -> DeviceArray | None:
        """The copy, if there is one."""
        _, copy = self._copies.get(tuple(map(id, data)), ([], None))
        return copy

    def drop(self, but: Sequence[Any] = ()) -> None:
        """Let go of all copies but one."""
        for key in list(self._copies):
            if key != tuple(map(id, but)):
                self._copies.pop(key, None)


class Device(ABC):
    """A device with its memory and its kernels.

    Calls from one thread are executed in order. Threads that share a device hold its `lock` while they use it.

    Attributes
    ----------
    name : str
        ``cuda:0`` and the like.
    title : str
        A description for users.
    bus_id : str
        Its place in the machine, the same for every process; names may differ between processes.
    n_processors : int
        Number of multiprocessors: at least so many blocks run at the same time.
    shared_bytes : int
        Largest amount of shared memory that a block may request.
    tuning : Tuning
        How kernels are launched on it.
    cache_bytes : int
        Size of the cache that all multiprocessors share.
    maps_to_a_list : dict
        Kernel that lists voxels → number of maps for whose voxels there was room; learned by `reductions.listed`.
    """

    name: str
    title: str
    bus_id: str
    n_processors: int
    shared_bytes: int
    cache_bytes: int

    def __init__(self) -> None:
        self.lock = RLock()
        self.tuning = Tuning()
        self.maps_to_a_list: dict[str, int] = {}
        self._kept: OrderedDict[int, tuple[AnyArray, DeviceArray]] = OrderedDict()
        self._shared_data: list[_SharedData] = []

    @abstractmethod
    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """An uninitialised array on the device.

        Raises
        ------
        OutOfDeviceMemory
        """

    @abstractmethod
    def fill(self, array: DeviceArray, value: int) -> None:
        """Set every element: to 0, or integers to -1."""

    @abstractmethod
    def upload(self, array: AnyArray) -> DeviceArray:
        """Copy to the device."""

    @abstractmethod
    def put(self, array: DeviceArray, values: AnyArray) -> None:
        """Copy values from the host into an array of the device, of the same shape and type."""

    @abstractmethod
    def download(self, array: DeviceArray) -> AnyArray:
        """Copy from the device, once everything that was launched before has finished."""

    @abstractmethod
    def download_all(self, arrays: Sequence[DeviceArray]) -> list[AnyArray]:
        """Several arrays, packed on the device and copied at once."""

    @abstractmethod
    def rows(self, array: DeviceArray, start: int, stop: int) -> DeviceArray:
        """Rows ``start … stop − 1`` of an array, as a view."""

    @abstractmethod
    def launch(
        self,
        kernel: str,
        blocks: int | tuple[int, int],
        threads: int,
        *arguments: DeviceArray | np.generic,
        shared: int = 0,
    ) -> None:
        """Start a kernel.

        Parameters
        ----------
        kernel : str
            Its name with its template arguments, as in `cuda.KERNELS`.
        blocks, threads : int
            Number of blocks (along x, or x and y), and of threads per block.
        arguments
            Arrays of the device, and numpy scalars of exactly the C type.
        shared : int
            Bytes of dynamic shared memory.
        """

    @abstractmethod
    def page_locked(self, shape: tuple[int, ...], dtype: DTypeLike) -> AnyArray:
        """An array of the host for `send`, in memory that the system does not move."""

    @abstractmethod
    def send(self, array: DeviceArray, values: AnyArray, after: Event | None) -> Event:
        """Begin to copy page-locked values into an array of the device, of the same shape and type, beside its kernels.

        Parameters
        ----------
        array : DeviceArray
        values : array
            From `page_locked`; they must not change before `finish` has returned for the event.
        after : Event, optional
            The copy waits for this: the last use of the array.

        Returns
        -------
        Event
            When the copy is complete; kernels that need it are launched after `wait_for`.
        """

    @abstractmethod
    def mark(self) -> Event:
        """When all that has been launched so far has finished."""

    @abstractmethod
    def wait_for(self, event: Event) -> None:
        """Let everything that is launched from now on wait for an event; the host does not wait."""

    @abstractmethod
    def finish(self, event: Event) -> None:
        """Wait for an event on the host."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Memory available to new arrays, within the limit."""

    @abstractmethod
    def release(self) -> None:
        """Release memory that is cached for later use."""

    def full(self, shape: int | tuple[int, ...], value: int, dtype: DTypeLike) -> DeviceArray:
        """An array on the device, filled with one value."""
        array = self.empty(shape, dtype)
        self.fill(array, value)
        return array

    def keep(self, array: AnyArray) -> DeviceArray:
        """Copy an array that will not change to the device; the copy is kept and returned by later calls.

        A reference to the array is kept too, so that its identity is not reused.
        """
        key = id(array)
        if key not in self._kept:
            self._kept[key] = array, self._upload_to_keep(array)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key][1]

    def put_row(self, array: DeviceArray, row: int, values: AnyArray) -> None:
        """Copy values from the host into one row of a two-dimensional array, as numbers of its type."""
        self.put(self.rows(array, row, row + 1), values[None].astype(array.dtype))

    def _upload_to_keep(self, array: AnyArray) -> DeviceArray:
        return self.upload(array)

    def forget(self) -> None:
        """Release what `keep` has kept, and memory that is cached for later use; not what tests share."""
        self._kept.clear()
        self.maps_to_a_list.clear()
        self.release()

    # -- data that several tests share

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Context of an analysis: data that one of its tests has sent are there for the others, until its end."""
        mine = _SharedData()
        with self.lock:
            self._shared_data.append(mine)
        try:
            yield
        finally:
            with self.lock:
                self._shared_data = [each for each in self._shared_data if each is not mine]
                mine.drop()
                with suppress(DeviceError, OutOfDeviceMemory):  # a device that has failed may not even answer this
                    self.forget()

    def shared(self, data: Sequence[Any], send: Callable[[], DeviceArray]) -> DeviceArray:
        """The copy of arrays of the host that will not change, made by `send` unless another test has it.

        The copy is kept while `sharing` is open and the arrays exist.
        """
        for each in self._shared_data:
            found = each.find(data)
            if found is not None:
                return found
        copy = send()
        if self._shared_data:
            self._shared_data[-1].add(data, copy)
        return copy

    def drop_shared(self, but: Sequence[Any] = ()) -> None:
        """Let go of all shared copies but one, which are then sent again if another test needs them."""
        for each in self._shared_data:
            each.drop(but)

    def width_for(self, data: Sequence[Any], whole: int, width: Callable[[int], int]) -> int:
        """Voxels of a slab, by the memory that there is: `width` says how many for so many bytes.

        What `shared` has of these data counts as free, since it will be used; if not all voxels fit, what it has of
        others is dropped, and if that is not enough, everything.
        """
        found = width(self._free_for(data))
        if found < whole:
            self.drop_shared(data)
            found = width(self._free_for(data))
        if found < whole:
            self.drop_shared()
        return found

    def _free_for(self, data: Sequence[Any]) -> int:
        copies = [each.find(data) for each in self._shared_data]
        return self.free_bytes() + sum(
            math.prod(copy.shape) * copy.dtype.itemsize for copy in copies if copy is not None
        )


@contextmanager
def sharing_data(devices: Iterable[Device]) -> Iterator[None]:
    """`Device.sharing` of several devices."""
    with ExitStack() as stack:
        for device in devices:
            stack.enter_context(device.sharing())
        yield


T = TypeVar("T")
U = TypeVar("U")


class Promise(Generic[T]):
    """What a device is computing, as it will be on the host; see `Outcomes`."""

    def __init__(self) -> None:
        self._value: list[T] = []
        self._then: list[Callable[[T], None]] = []

    def then(self, make: Callable[[T], U]) -> Promise[U]:
        """The promise of what `make` makes of the value."""
        promise = Promise[U]()
        if self._value:
            promise.keep(make(self._value[0]))
        else:
            self._then.append(lambda value: promise.keep(make(value)))
        return promise

    def keep(self, value: T) -> None:
        """Set the value."""
        self._value[:] = [value]
        for continuation in self._then:
            continuation(value)

    @property
    def value(self) -> T:
        """The value, after `Outcomes.collect`."""
        return self._value[0]


@dataclass(frozen=True, eq=False)
class _Pending:
    arrays: tuple[DeviceArray, ...]
    finish: Callable[..., Any]
    promise: Promise[Any]


@dataclass(eq=False)
class Outcomes:
    """What the host wants to know of a batch: downloaded in one copy when all of it has been launched.

    Attributes
    ----------
    device : Device or None
        None is the CPU, where everything is known at once.
    step_by_step : bool
        Look at each outcome at once, and wait for it.
    """

    device: Device | None
    step_by_step: bool = False
    _pending: list[_Pending] = field(default_factory=list)

    def known(self, value: T) -> Promise[T]:
        """The promise of a value that is on the host."""
        promise = Promise[T]()
        promise.keep(value)
        return promise

    def promise(self, finish: Callable[..., T], *arrays: DeviceArray) -> Promise[T]:
        """The promise of what `finish` makes of arrays once they are on the host; on the CPU they are.

        `finish` may raise `Again`. It is called in the order of the promises.
        """
        if self.device is None:
            return self.known(finish(*arrays))
        promise = Promise[T]()
        self._pending.append(_Pending(arrays, finish, promise))
        if self.step_by_step:
            self.collect()
        return promise

    def collect(self) -> None:
        """Download everything, and keep every promise.

        Raises
        ------
        Again
        """
        pending, self._pending = self._pending, []
        if self.device is None or not pending:
            return
        values = iter(self.device.download_all([array for each in pending for array in each.arrays]))
        for each in pending:
            each.promise.keep(each.finish(*(next(values) for _ in each.arrays)))


def settled(device: Device | None, work: Callable[[Outcomes], T]) -> T:
    """The result of some work and of its outcomes, done again as often as its outcomes demand."""
    outcomes = Outcomes(device)
    while True:
        try:
            result = work(outcomes)
            outcomes.collect()
            return result
        except Again as again:
            outcomes = Outcomes(device, again.step_by_step)


def why_unavailable() -> str | None:
    """The reason why no GPU can be used, in one sentence; None if one can be used."""
    if find_spec("cupy") is None:
        return (
            "CuPy is not installed; install gpuvox[cuda13] or gpuvox[cuda12], whichever the driver supports, "
            "or use --device cpu"
        )
    try:
        import cupy

        n = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:
        # A broken driver or library may raise anything; in any case there is no usable device.
        return f"no CUDA device answers ({type(error).__name__}: {error}); use --device cpu"
    return None if n else "no CUDA device answers; use --device cpu"


def memory_limit() -> int | None:
    """Bytes that `MEMORY_VARIABLE` allows; None if it is not set."""
    text = os.environ.get(MEMORY_VARIABLE, "").strip()
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", text, re.IGNORECASE)
    if not match or not float(match[1]):
        raise InputError(f"{MEMORY_VARIABLE} is {text!r}; expected a size such as 4G or 800M")
    return int(float(match[1]) * 1024 ** " KMG".index(match[2].upper() or " "))


def blocks_for(items: int, threads: int, device: Device) -> int:
    """Number of blocks for a loop over independent items: enough to fill the device, but no more than have work."""
    return int(np.clip(-(-items // threads), 1, 16 * device.n_processors))


def slots_for(n_maps: int, resident: int, bytes_each: int, device: Device) -> int:
    """Number of maps processed at the same time: limited by resident blocks and by memory for scratch arrays."""
    affordable = int(0.9 * device.free_bytes()) // bytes_each
    return max(1, min(n_maps, resident * device.n_processors, affordable))


def blocks_over(n_maps: int, items: int, threads: int, device: Device) -> tuple[int, int]:
    """Number of blocks along x (items of a map) and along y (maps)."""
    most = -(-16 * device.n_processors // max(n_maps, 1))
    return int(np.clip(-(-items // threads), 1, most)), int(np.clip(n_maps, 1, 65535))
