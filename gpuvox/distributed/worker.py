"""The worker's side: it makes a test once, checks its bits against the client's, and runs ranges of permutations."""

from __future__ import annotations

import hashlib
import os
import pickle
import traceback
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from threading import Lock, Timer
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from gpuvox.cuda import resolve_all
from gpuvox.device import Device
from gpuvox.distributed.messages import (
    Arrays,
    DataSource,
    Images,
    Job,
    UnreadableData,
    WorkerInfo,
    check_software,
    pack,
    rebuild_model,
)
from gpuvox.errors import DistributedError, FileError, ScratchError
from gpuvox.files import hash_file, read_cohort, read_tiles
from gpuvox.gathering import Gatherer
from gpuvox.grid import Grid
from gpuvox.jit import software
from gpuvox.permtest import ObservedTest, hash_first_maps
from gpuvox.tally import BlockResult, Tally
from gpuvox.team import DeviceTeam

KEEP_OPEN_SECONDS = 60.0
"""Seconds for which a worker keeps the images that it used last in memory."""

# A worker's arrays and tests live as long as the client's objects that Dask keeps there, and no longer.
_arrays: weakref.WeakKeyDictionary[DataSource, Arrays] = weakref.WeakKeyDictionary()
_tests: weakref.WeakKeyDictionary[Job, tuple[ObservedTest, DeviceTeam | None]] = weakref.WeakKeyDictionary()
_opened: weakref.WeakValueDictionary[tuple[Any, ...], Arrays] = weakref.WeakValueDictionary()
_sharing: weakref.WeakKeyDictionary[DataSource, set[Device]] = weakref.WeakKeyDictionary()
_one_at_a_time = Lock()


class _RecentArrays:
    """The arrays that were used last; dropped after `KEEP_OPEN_SECONDS`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._arrays: Arrays | None = None
        self._timer: Timer | None = None

    def keep(self, arrays: Arrays) -> None:
        """Keep these arrays, and no others, from now on for `KEEP_OPEN_SECONDS`."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
            self._arrays = arrays
            self._timer = Timer(KEEP_OPEN_SECONDS, self.drop)
            self._timer.daemon = True
            self._timer.start()

    def drop(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._arrays = None


_recent = _RecentArrays()


def run_range(job: Job, source: DataSource, start: int, stop: int) -> BlockResult | Exception:
    """Run permutations ``start … stop − 1`` of a test on this worker; the result is packed for sending.

    Exceptions are returned rather than raised: Dask sends a traceback with what is raised, and a client that cannot
    unpickle it waits for ever.
    """
    try:
        with _libraries().limit(limits=1):
            with _one_at_a_time:
                observed, team = _tests.get(job) or _make(job, source)
                arrays = _data(job, source)
            result = None
            for part in _parts(observed, team, start, stop, job.gatherer):
                result = result.followed_by(part) if result else part
        if source.images:
            _recent.keep(arrays)
        return pack(result or BlockResult(start, stop))
    except Exception as error:
        return _portable(error)


def _parts(
    observed: ObservedTest, team: DeviceTeam | None, start: int, stop: int, gatherer: Gatherer | None
) -> Iterator[BlockResult]:
    """Results of a range, in order."""
    if team:
        parts = team.results(observed, Tally(observed.n, start, stop), gatherer)
        yield from sorted(parts, key=lambda part: part.start)
        return
    step = observed.batch
    for first in range(start, stop, step):
        yield observed.run(first, min(first + step, stop), gatherer)


@cache
def _libraries() -> ThreadpoolController:
    """The libraries with thread pools of their own; cached, since searching for them can take longer than a range."""
    return ThreadpoolController()


def _portable(error: Exception) -> Exception:
    """The error without its frames, which hold the data; the traceback is added as a note."""
    error.add_note("".join(traceback.format_exception(error)).rstrip())
    error.__traceback__ = error.__context__ = error.__cause__ = None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return DistributedError(f"a worker failed with {type(error).__name__}: {error}")
    return error


def _make(job: Job, source: DataSource) -> tuple[ObservedTest, DeviceTeam | None]:
    """Make the client's test on the devices of this process, and check that it computes the same bits."""
    check_software(f"a worker on {os.uname().nodename}", software(), job.software)
    devices = resolve_all(job.devices.get(_address(), job.device))
    device = devices[0] if devices else None
    _share_data(source, devices)
    recipe: Any = job.observed.test.model
    model = rebuild_model(recipe, _data(job, source), device)
    observed = job.observed.with_model(model, device)
    if hash_first_maps(observed) != job.first_maps:
        raise DistributedError(
            f"a worker on {os.uname().nodename} computes other bits than the client: its processor, device or "
            "libraries differ; the workers and the client of a run must be alike"
        )
    team = DeviceTeam(devices) if len(devices) > 1 else None
    _tests[job] = observed, team
    if device is not None:
        weakref.finalize(job, team.finish if team else partial(_forget_arrays, device))
    return observed, team


def _share_data(source: DataSource, devices: Iterable[Device]) -> None:
    """Let all tests of a source use what the first of them sends to the devices, for as long as the source exists."""
    shared = _sharing.setdefault(source, set())
    for device in set(devices) - shared:
        shared.add(device)
        context = ExitStack()
        context.enter_context(device.sharing())
        weakref.finalize(source, context.close)


def _address() -> str:
    """Address of this worker; empty outside a worker."""
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:
        return ""


def _data(job: Job, source: DataSource) -> Arrays:
    """The arrays of a source; read when they are first needed."""
    if source not in _arrays:
        test = job.observed.test
        recipe: Any = test.model
        scratch = recipe.arguments.get("scratch", "")
        _arrays[source] = source.arrays or _open(source.images, test.grid, scratch)
    return _arrays[source]


def _open(images: Images | None, grid: Grid, scratch: str) -> Arrays:
    """Read the images, unless they are still open; into a file in the folder `scratch` if one is named.

    Raises
    ------
    UnreadableData
        The files do not exist here, or have other contents than the client's.
    """
    if images is None:
        raise UnreadableData("the data are not in image files")
    mask = hashlib.sha256(np.packbits(grid.mask).data).digest()
    key = images.data, tuple(images.evs.items()), images.hashes, scratch, grid.mask.shape, mask
    arrays = _opened.get(key)
    if arrays is None:
        _recent.drop()  # so that two data sets are never in memory together
        arrays = _opened[key] = _read(images, grid, scratch)
    return arrays


def _read(images: Images, grid: Grid, scratch: str) -> Arrays:
    try:
        for name, digest in images.hashes:
            if hash_file(name) != digest:
                raise UnreadableData(f"{name} has different content here")
        read: Any = partial(read_tiles, folder=scratch) if scratch else read_cohort
        evs = {column: read(names, grid) for column, names in images.evs.items()}
        return Arrays(read(images.data, grid), evs)
    except ScratchError as error:
        raise DistributedError(f"on the worker's machine, {os.uname().nodename}, {error}") from None
    except (FileError, OSError) as error:
        raise UnreadableData(str(error)) from None


def _forget_arrays(device: Device) -> None:
    with device.lock:
        device.forget()


def describe_worker(device: str, dask_worker: Any = None) -> WorkerInfo | Exception:
    """Describe this worker, before it gets work.

    Parameters
    ----------
    device : str
        Name of the devices that workers are to use; see `cuda.resolve_all`.
    dask_worker : distributed.Worker
        Filled in by Dask.

    Returns
    -------
    WorkerInfo or Exception
        The exception if the device cannot be used; see `run_range`.
    """
    try:
        devices = resolve_all(device)
        if device == "auto" and devices:  # it works; workers of one machine share all that there are
            devices = resolve_all("cuda")
    except Exception as error:
        return _portable(error)
    about = tuple((each.name, each.bus_id, each.n_processors) for each in devices)
    title = devices[0].title if devices else "cpu"
    processors = devices[0].n_processors if devices else 0
    return WorkerInfo(dask_worker.state.nthreads, processors, title, software(), os.uname().nodename, about)
