"""Run the shuffles of permutation tests on the workers of a Dask cluster.

This process, the client, evaluates shuffle 0 and keeps the tally, as if it worked alone; workers run ranges of the
other shuffles and send back their block results. A worker makes a test once, from what the client fixed: the model,
the steps and tables of TFCE, the observed maps. It opens the images itself if it finds files of the same content under
the same names, and receives the masked data once if it does not. Before it runs a range it repeats the first two
shuffles and compares every map with the client's, bit for bit, so that a worker that computes other bits is found
before it counts.

What a worker keeps hangs on objects that Dask holds for the client: it goes when the client lets go of them, also by
dying. Images that it opened stay a minute longer, because Dask also drops copies of such an object while no task waits
for it, as between two tests. A range whose result is lost is run again; the tally refuses to count a shuffle twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import shutil
import signal
import tempfile
import time
import traceback
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from threading import Lock, Timer, current_thread, main_thread
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from gpuvox.cuda import resolve
from gpuvox.device import Device
from gpuvox.errors import ClusterError, DeviceError, FileError, ScratchError
from gpuvox.files import hash_file, read_cohort, read_tiles
from gpuvox.grid import Grid
from gpuvox.jit import software
from gpuvox.permtest import ObservedTest
from gpuvox.scratch import Data, block
from gpuvox.tally import BlockResult, Tally

PER_THREAD = 8
"""Ranges for each thread, or each GPU, about, so that all end at nearly the same time and who joins late finds work."""
MOST_RANGES = 3000
"""Ranges of a test, so that the scheduler has little to do."""
BATCHES = 4
"""Batches of a range on a CPU, at most: some tenths of a second to minutes, while Dask takes milliseconds."""
WAVES = 6
"""Maps for each processor of a GPU in a range, if there are enough."""
ATTEMPTS = 5
"""Times in a row that the workers may be lost before they have finished a single range."""
SMALL_INTEGERS = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32)
"""What counts and sums are sent in."""
KEPT = 60.0
"""Seconds for which a worker keeps the images that it opened last after nobody has used them any more."""
PAUSE = 0.5
"""Seconds between two looks for workers."""

SETTINGS = {
    "distributed.scheduler.active-memory-manager.start": False,  # which drops copies of data that are needed again
    "distributed.worker.profile.enabled": False,  # whose history of an hour takes more memory than small analyses
}
"""Of Dask, for workers of our own."""

SAFE_PATH = "PYTHONSAFEPATH"
"""Environment variable: Python then imports nothing from the current folder."""

ENCRYPTED = ("tls", "wss", "inproc")
"""Protocols of Dask's that others cannot listen to or take part in."""

Say = Callable[[str], None]


class UnreadableData(Exception):
    """A worker does not find the images."""


@dataclass(frozen=True)
class Images:
    """The images of an analysis, for workers that have the same files.

    Attributes
    ----------
    data : tuple of str
        Absolute names.
    evs : dict of int to tuple of str
        The same of voxelwise EVs, by column from 0.
    hashes : tuple of (str, str)
        Absolute name and SHA-256 of every file.
    """

    data: tuple[str, ...]
    evs: Mapping[int, tuple[str, ...]]
    hashes: tuple[tuple[str, str], ...]


# ------------------------------------------------------------------------------------------------ on the workers


@dataclass(frozen=True, eq=False)
class _Arrays:
    """Masked data and voxelwise EVs, (n, V) each."""

    data: Data
    evs: Mapping[int, Data]


@dataclass(frozen=True, eq=False)
class _Source:
    """Where a worker has the data from: files, or what came with this."""

    images: Images | None = None
    arrays: _Arrays | None = None


@dataclass(frozen=True, eq=False)
class _Model:
    """A model without its data and its device: its class and its other arguments."""

    kind: type
    arguments: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class _Job:
    """One pass of a test.

    Attributes
    ----------
    observed : ObservedTest
        With a `_Model` for its model.
    device : str
        As `cuda.resolve` takes it.
    probe : str
        Hash of the first shuffles' maps.
    software : dict
        What computed them.
    """

    observed: ObservedTest
    device: str
    probe: str
    software: Mapping[str, str]


# What a worker has made lives as long as the object that Dask keeps of the client's, and no longer.
_arrays: weakref.WeakKeyDictionary[_Source, _Arrays] = weakref.WeakKeyDictionary()
_tests: weakref.WeakKeyDictionary[_Job, ObservedTest] = weakref.WeakKeyDictionary()
_opened: weakref.WeakValueDictionary[tuple[Any, ...], _Arrays] = weakref.WeakValueDictionary()
_one_at_a_time = Lock()


class _Kept:
    """The arrays that were used last, until some time has gone by."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._arrays: _Arrays | None = None
        self._timer: Timer | None = None

    def keep(self, arrays: _Arrays) -> None:
        """Keep these for the time that is set from now on, and no others."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
            self._arrays = arrays
            self._timer = Timer(KEPT, self.drop)
            self._timer.daemon = True
            self._timer.start()

    def drop(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._arrays = None


_kept = _Kept()


def run_range(job: _Job, source: _Source, start: int, stop: int) -> BlockResult | Exception:
    """Shuffles ``start … stop − 1`` of a test, on a worker; in as few bytes as hold the result.

    What goes wrong is returned: Dask sends tracebacks with what is raised, and a client that cannot read one waits
    for ever.
    """
    try:
        with _libraries().limit(limits=1):
            with _one_at_a_time:
                observed = _tests.get(job) or _make(job, source)
                arrays = _data(job, source)
            step, result = observed.batch, None
            for first in range(start, stop, step):
                part = observed.run(first, min(first + step, stop))
                result = result.followed_by(part) if result else part
        if source.images:
            _kept.keep(arrays)
        return _packed(result or BlockResult(start, stop))
    except Exception as error:
        return _portable(error)


@cache
def _libraries() -> ThreadpoolController:
    """Libraries with threads of their own; looking for them takes longer than a range may."""
    return ThreadpoolController()


def _portable(error: Exception) -> Exception:
    """An error without its frames, which hold the data; where it arose is noted."""
    error.add_note("".join(traceback.format_exception(error)).rstrip())
    error.__traceback__ = error.__context__ = error.__cause__ = None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return ClusterError(f"a worker failed with {type(error).__name__}: {error}")
    return error


def _make(job: _Job, source: _Source) -> ObservedTest:
    """A test as the client has it, on the device of this process."""
    _check_software(job.software)
    device = resolve(job.device)
    test, enhancer = job.observed.test, job.observed.enhancer
    sketch: Any = test.model
    model = _with_data(sketch, _data(job, source), device)
    observed = replace(
        job.observed, test=replace(test, model=model), enhancer=enhancer.on(device) if enhancer else None
    )
    if _probe(observed) != job.probe:
        raise ClusterError(
            f"a worker on {os.uname().nodename} computes other bits than the client: its processor, device or "
            "libraries differ; the workers and the client of a run must be alike"
        )
    _tests[job] = observed
    if device is not None:
        weakref.finalize(job, _forget, device)
    return observed


def _data(job: _Job, source: _Source) -> _Arrays:
    """The arrays of a source, which are made when they are first asked for."""
    if source not in _arrays:
        test = job.observed.test
        sketch: Any = test.model
        scratch = sketch.arguments.get("scratch", "")
        _arrays[source] = source.arrays or _open(source.images, test.grid, scratch)
    return _arrays[source]


def _check_software(wanted: Mapping[str, str]) -> None:
    mine = software()
    for name, version in wanted.items():
        if mine[name] != version:
            raise ClusterError(
                f"a worker on {os.uname().nodename} has {name} {mine[name]}, and the client {version}: the bits could "
                "differ; install the same"
            )


def _in_memory(arrays: _Arrays) -> _Arrays:
    """What can be sent: tiles may be in a file that only this process has."""
    everything = slice(None), slice(None)
    return _Arrays(block(arrays.data, *everything), {c: block(ev, *everything) for c, ev in arrays.evs.items()})


def _open(images: Images | None, grid: Grid, scratch: str) -> _Arrays:
    """Open the images, into a file in the folder `scratch` if there is one; those that are still open are taken.

    Raises
    ------
    UnreadableData
        They are not there, or are others.
    """
    if images is None:
        raise UnreadableData("no files are named")
    mask = hashlib.sha256(np.packbits(grid.mask).data).digest()
    key = images.data, tuple(images.evs.items()), images.hashes, scratch, grid.mask.shape, mask
    arrays = _opened.get(key)
    if arrays is None:
        _kept.drop()  # not two at a time
        arrays = _opened[key] = _read(images, grid, scratch)
    return arrays


def _read(images: Images, grid: Grid, scratch: str) -> _Arrays:
    try:
        for name, digest in images.hashes:
            if hash_file(name) != digest:
                raise UnreadableData(f"{name} has another content")
        read: Any = partial(read_tiles, folder=scratch) if scratch else read_cohort
        evs = {column: read(names, grid) for column, names in images.evs.items()}
        return _Arrays(read(images.data, grid), evs)
    except ScratchError as error:
        raise ClusterError(f"on the worker's machine, {os.uname().nodename}, {error}") from None
    except (FileError, OSError) as error:
        raise UnreadableData(str(error)) from None


def _without_data(model: Any) -> _Model:
    given = {f.name: getattr(model, f.name) for f in fields(model) if f.init}
    return _Model(type(model), {name: v for name, v in given.items() if name not in ("data", "evs", "device")})


def _with_data(model: Any, arrays: _Arrays, device: Device | None) -> Any:
    evs = {"evs": arrays.evs} if arrays.evs else {}
    return model.kind(data=arrays.data, device=device, **evs, **model.arguments)


def _probe(observed: ObservedTest) -> str:
    """Hash of all maps and results of the first shuffles."""
    digest = hashlib.sha256()

    def add(_: int, maps: Mapping[str, NDArray]) -> None:
        for kind in sorted(maps):
            digest.update(np.ascontiguousarray(maps[kind]).data)

    result = observed.run(0, min(2, observed.n), add)
    for group in (result.maxima, result.below, result.total, result.nonzero):
        add(0, group)
    return digest.hexdigest()


def _forget(device: Device) -> None:
    with device.lock:
        device.forget()


def _packed(result: BlockResult) -> BlockResult:
    """The same with counts and integer sums in the smallest integers that hold them."""

    def smallest(values: NDArray) -> NDArray:
        if not np.issubdtype(values.dtype, np.integer):
            return values
        low, high = values.min(initial=0), values.max(initial=0)
        fits = (t for t in SMALL_INTEGERS if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
        return values.astype(next(fits, np.int64))

    return _converted(result, smallest)


def _unpacked(result: BlockResult) -> BlockResult:
    return _converted(result, lambda v: v.astype(np.int64) if np.issubdtype(v.dtype, np.integer) else v)


def _converted(result: BlockResult, convert: Callable[[NDArray], NDArray]) -> BlockResult:
    sums = (result.below, result.total, result.nonzero)
    return BlockResult(
        result.start,
        result.stop,
        result.maxima,
        *({kind: convert(v) for kind, v in maps.items()} for maps in sums),
    )


@dataclass(frozen=True)
class _Hand:
    """What a worker says of itself: threads, processors of its GPU (0 without one), device, versions."""

    threads: int
    processors: int
    device: str
    software: Mapping[str, str]


def introduce(device: str, dask_worker: Any = None) -> _Hand | Exception:
    """Asked of every worker before it gets work; Dask fills in the worker."""
    try:
        found = resolve(device)
    except Exception as error:
        return _portable(error)
    processors, title = (0, "cpu") if found is None else (found.n_processors, found.title)
    return _Hand(dask_worker.state.nthreads, processors, title, software())


# ------------------------------------------------------------------------------------------------ on the client


@dataclass(eq=False)
class DaskWorkers:
    """The workers of a Dask client; an `executors.Workers`.

    Parameters
    ----------
    client : distributed.Client
    device : str
        Device of each worker: ``auto`` is its GPU if it has one.
    images : Images, optional
        What workers may read themselves.
    warn : callable, optional
        Receives one sentence, for instance where there are no workers for a while.
    """

    client: Any
    device: str = "auto"
    images: Images | None = None
    warn: Say = logging.getLogger(__name__).warning
    _address: str = field(default="its address", init=False)
    _hands: dict[str, _Hand] = field(default_factory=dict, init=False)
    _held: tuple[Any, _Arrays] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.client.scheduler is not None:
            self._address = self.client.scheduler.address

    @property
    def description(self) -> str:
        """How many workers there were, and what they are."""
        kinds = sorted({hand.device for hand in self._hands.values()})
        threads = sum(hand.threads for hand in self._hands.values())
        return (
            f"Dask: {len(self._hands)} workers with {threads} threads in all, on {', '.join(kinds) or 'nothing'}"
        )

    def results(self, observed: ObservedTest, tally: Tally) -> Generator[BlockResult, None, None]:
        """The results that a tally lacks, in any order; each is added to it before the next is asked for.

        Raises
        ------
        ClusterError
            The connection to the scheduler is lost, or the workers are killed time and again, or do not compute
            the same bits.
        LevelOverflow, ValueError, DeviceError
            What `ObservedTest.run` raises on a worker.
        """
        job = self._job(observed)
        model: Any = observed.test.model
        arrays = _Arrays(model.data, getattr(model, "evs", {}))
        in_vain, reason = 0, ""
        while not tally.is_complete:
            done = tally.n_done
            reason = (yield from self._attempt(job, arrays, observed, tally)) or reason
            in_vain = 0 if tally.n_done > done else in_vain + 1
            time.sleep(PAUSE * in_vain)  # workers that were lost may be starting again
            if in_vain == ATTEMPTS:
                raise ClusterError(
                    f"the workers were lost {ATTEMPTS} times before any of them had finished a range of shuffles "
                    f"({reason}); do they have enough memory?"
                )

    def release(self) -> None:
        """Let workers forget the data."""
        self._held = None

    def _job(self, observed: ObservedTest) -> _Job:
        test, enhancer, device = observed.test, observed.enhancer, self.device
        tfce = test.statistics.tfce
        if tfce is not None and tfce.exact and tfce.H % 1:
            device = "cpu"  # pow() of a GPU is not the client's in the last bit
        sketch: Any = _without_data(test.model)
        light = replace(
            observed, test=replace(test, model=sketch), enhancer=enhancer.on(None) if enhancer else None
        )
        return _Job(light, device, _probe(observed), software())

    def _attempt(
        self, job: _Job, arrays: _Arrays, observed: ObservedTest, tally: Tally
    ) -> Generator[BlockResult, None, str]:
        """Results until all are there or some are lost; why they are, in that case."""
        from distributed import as_completed

        hands = self._gather_hands(job.device)
        pending: set[Any] = set()
        lost = ""
        try:
            inputs = [self._sent(job), self._source(arrays)]
            parts = list(ranges(tally, observed.batch, hands))
            pending.update(
                self.client.map(
                    run_range, *([each] * len(parts) for each in inputs), *zip(*parts), pure=False, retries=0
                )
            )
            for future in as_completed(list(pending)):
                pending.discard(future)
                result = self._result(future)
                future.release()  # not by __del__, in which Python would lose a signal
                if isinstance(result, BlockResult):
                    yield _unpacked(result)
                else:
                    lost = result
        except (OSError, CancelledError) as error:
            lost = str(error) or type(error).__name__
        finally:
            with suppress(Exception):
                self.client.cancel(list(pending), force=True)
        return lost

    def _result(self, future: Any) -> BlockResult | str:
        """A result, or why it is lost."""
        if future.status == "error":
            return self._why(future.exception())
        if future.status != "finished":
            return "they went away"
        result = future.result()
        return result if isinstance(result, BlockResult) else self._why(result)

    def _why(self, error: BaseException) -> str:
        """Why a result is lost, where the range can be run again; raises all else."""
        from distributed.scheduler import KilledWorker

        if isinstance(error, KilledWorker):
            return "they were killed"
        if isinstance(error, UnreadableData):
            self.images, self._held = None, None
            return str(error)
        if isinstance(error, ImportError):
            raise ClusterError(f"a worker cannot load gpuvox: {error}")
        raise error

    # -- what workers are given ----------------------------------------------------------------------------------

    def _sent(self, thing: Any) -> Any:
        """A future of something that every worker has; `OSError` if there is none that takes it."""
        try:
            return self.client.scatter(thing, broadcast=True, hash=False)
        except ValueError as error:  # all are paused, or have just gone
            raise OSError(f"no worker takes the data: {error}") from None

    def _source(self, arrays: _Arrays) -> Any:
        """A future of the data, sent once for all tests of an analysis."""
        if self._held is not None:
            future, held = self._held
            same = held.data is arrays.data and all(held.evs.get(k) is v for k, v in arrays.evs.items())
            if same and len(held.evs) == len(arrays.evs) and future.status == "finished":
                return future
        source = _Source(images=self.images) if self.images else _Source(arrays=_in_memory(arrays))
        future = self._sent(source)
        self._held = future, arrays
        return future

    # -- who they are ----------------------------------------------------------------------------------------------

    def _gather_hands(self, device: str) -> dict[str, _Hand]:
        """Every worker there is; waits for the first."""
        is_told, in_vain, hands = False, 0, dict[str, _Hand]()
        while not hands:
            if self._n_workers():
                hands = self._introduced(device)
                in_vain += not hands
                if in_vain == ATTEMPTS:
                    raise ClusterError(
                        f"the workers at {self._address} were lost {ATTEMPTS} times before any of them answered; do "
                        "they have enough memory?"
                    )
                continue
            if not is_told and self.client.status == "running":
                self.warn(f"there are no workers at {self._address}; waiting for some")
                is_told = True
            time.sleep(PAUSE)
        self._hands |= hands
        return hands

    def _n_workers(self) -> int:
        """Number of workers now; raises `ClusterError` once the connection is lost for good."""
        try:
            return len(self.client.nthreads())
        except (OSError, AttributeError, CancelledError, RuntimeError, ValueError):
            # While it tries to connect again, a client fails in several ways.
            if self.client.status == "closed":
                raise ClusterError(f"the connection to the Dask scheduler at {self._address} is lost") from None
            return 0

    def _introduced(self, device: str) -> dict[str, _Hand]:
        """Workers that answer, with what they say; `ClusterError` if one cannot be used."""
        try:
            answers = self.client.run(introduce, device, on_error="return")
        except (OSError, CancelledError):
            return {}
        hands = {}
        for address, answer in answers.items():
            if isinstance(answer, DeviceError | ValueError):
                raise answer
            if isinstance(answer, OSError):
                continue  # it went away meanwhile
            if isinstance(answer, BaseException):
                raise ClusterError(f"the worker at {address} cannot load gpuvox: {answer}")
            mine = software()
            for name, version in answer.software.items():
                if version != mine[name]:
                    raise ClusterError(
                        f"the worker at {address} has {name} {version}, and the client {mine[name]}: the bits could "
                        "differ; install the same"
                    )
            hands[address] = answer
        return hands


def ranges(tally: Tally, batch: int, hands: Mapping[str, _Hand]) -> Iterator[tuple[int, int]]:
    """Ranges of the shuffles that are left, of a size that suits the workers."""
    # The threads of a worker with a GPU take turns with it.
    threads = sum(1 if hand.processors else hand.threads for hand in hands.values())
    processors = max(hand.processors for hand in hands.values())
    left = list(tally.left())
    n_left = sum(stop - start for start, stop in left)
    size = min(WAVES * processors or BATCHES * batch, -(-n_left // (PER_THREAD * threads)))
    if processors and size > processors:
        size -= size % processors
    size = max(size, -(-n_left // MOST_RANGES), 1)
    for first, last in left:
        for start in range(first, last, size):
            yield start, min(start + size, last)


# ------------------------------------------------------------------------------------------------ finding a cluster


@dataclass(frozen=True)
class Cluster:
    """Which cluster a command asks for; only one of the three is set.

    Attributes
    ----------
    address : str
        Of a scheduler.
    file : str
        File in which a scheduler wrote its address.
    n_workers : int
        Processes of a cluster on this machine.
    threads : int
        Threads of these processes in all.
    tls : dict of str to str
        Option (``--tls-ca-file``, ``--tls-cert``, ``--tls-key``) → file, in PEM: whom to trust, and who we are.
    """

    address: str = ""
    file: str = ""
    n_workers: int = 0
    threads: int = 1
    tls: Mapping[str, str] = field(default_factory=dict)


def check_installed() -> None:
    """Make sure that Dask is there (`ClusterError`)."""
    if find_spec("distributed") is None:
        raise ClusterError("Dask is not installed; install gpuvox[cluster]")


def check_client(client: Any) -> None:
    """Make sure that it is a Dask client that waits for its results (`TypeError`)."""
    check_installed()
    from distributed import Client

    if not isinstance(client, Client):
        raise TypeError(f"client is a {type(client).__name__}; a dask.distributed.Client is expected")
    if client.asynchronous:
        raise TypeError("the Dask client is asynchronous; use gpuvox.randomise in a thread: asyncio.to_thread")


@dataclass(frozen=True)
class Crew:
    """Workers of a cluster: processes, and their threads in all."""

    processes: int
    threads: int


def find_crew(cluster: Cluster) -> Crew:
    """The workers that a run would have now.

    Raises
    ------
    ClusterError, FileError
        As of `open_client`.
    """
    if cluster.n_workers:
        check_installed()
        return Crew(cluster.n_workers, cluster.n_workers * max(1, cluster.threads // cluster.n_workers))
    with open_client(cluster) as client:
        threads = client.nthreads()
        return Crew(len(threads), sum(threads.values()))


def _silent(text: str) -> None:
    del text


@contextmanager
def open_client(cluster: Cluster, warn: Say = _silent) -> Iterator[Any]:
    """A Dask client, closed at the end, with the cluster if it is one of our own; errors of `_opened_client`."""
    with (
        _private_folder() if cluster.n_workers else nullcontext("") as folder,
        _opened_client(cluster, folder, warn) as client,
    ):
        yield client


@contextmanager
def _private_folder() -> Iterator[str]:
    """A new folder for processes of our own, which import nothing from the current folder: it may be somebody's data.

    Dask would share a folder of a fixed name in the temporary one, and its workers import from there.
    """
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    folder = tempfile.mkdtemp(prefix="gpuvox-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


@contextmanager
def _opened_client(cluster: Cluster, folder: str, warn: Say) -> Iterator[Any]:
    """A Dask client, closed at the end, with the cluster if it is one of our own.

    `warn` receives one sentence if the connection is not encrypted.

    Raises
    ------
    ClusterError
        Dask is not installed, no scheduler answers, or processes cannot be started.
    FileError
        There is no such scheduler file, or no such file of a certificate or a key.
    """
    check_installed()
    import dask
    from distributed import Client

    # Dask logs tracebacks where a worker dies; what matters to the user is said by us.
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)
    _check_tls(cluster)
    where = cluster.address or cluster.file
    came: list[int] = []
    try:
        if cluster.n_workers:
            with dask.config.set(SETTINGS | {"temporary-directory": folder}), _interrupts_later() as came:
                local = _start_workers(cluster, folder)
            client = Client(local)
        elif cluster.address:
            local, client = None, Client(_address(cluster), security=_security(cluster.tls))
        else:
            local, client = None, Client(scheduler_file=cluster.file, security=_security(cluster.tls))
    except Exception as error:  # of many kinds, assertions among them, where an address or a file makes no sense
        raise ClusterError(
            f"no Dask scheduler answers at {where or 'this machine'}: {_first_line(error)}"
        ) from None
    try:
        if came:
            raise KeyboardInterrupt
        _tell_if_open(client, warn)
        yield client
    finally:
        with suppress(Exception):
            client.close()
        if local is not None:
            with suppress(Exception):
                local.close()


def _start_workers(cluster: Cluster, folder: str) -> Any:
    """Processes on this machine that nobody else can talk to."""
    from gpuvox.distributed import loopback

    return loopback.start(cluster.n_workers, max(1, cluster.threads // cluster.n_workers), local_directory=folder)


def _check_tls(cluster: Cluster) -> None:
    """What can be said of a cluster before anything is connected."""
    address = cluster.address
    if cluster.n_workers and find_spec("cryptography") is None:
        raise ClusterError(
            "--workers needs the package cryptography, so that nobody else can use the workers; install gpuvox[cluster]"
        )
    if cluster.file:
        address = _scheduler_in(cluster.file)
    for option, path in cluster.tls.items():
        try:
            open(path, "rb").close()
        except OSError as error:
            raise FileError(f"{option}: {path} cannot be read: {error.strerror}") from None
    if cluster.tls and "://" in address and not _is_private(address):
        raise ClusterError(
            f"the scheduler at {address} does not encrypt, as {next(iter(cluster.tls))} asks: tls:// expected"
        )


def _address(cluster: Cluster) -> str:
    """The scheduler's address; without a protocol in it, the encrypted one is meant where there is a certificate."""
    return f"tls://{cluster.address}" if cluster.tls and "://" not in cluster.address else cluster.address


def _security(tls: Mapping[str, str]) -> Any:
    """What Dask needs to connect by TLS; None, which is its own configuration, without certificates."""
    from distributed import Security

    names = {"--tls-ca-file": "tls_ca_file", "--tls-cert": "tls_client_cert", "--tls-key": "tls_client_key"}
    return Security(require_encryption=True, **{names[k]: v for k, v in tls.items()}) if tls else None


def _is_private(address: str) -> bool:
    return address.partition("://")[0] in ENCRYPTED


def _tell_if_open(client: Any, warn: Say) -> None:
    """Say so where others on the network could read, or take part."""
    address = client.scheduler.address
    if not _is_private(address):
        warn(
            f"the connection to the Dask scheduler at {address} is not encrypted: whoever can reach it can run "
            "programs in your name; see --tls-ca-file, --tls-cert and --tls-key"
        )


def _scheduler_in(path: str) -> str:
    """The address in the file that a scheduler wrote."""
    try:
        address = json.loads(Path(path).read_text(encoding="utf-8"))["address"]
    except FileNotFoundError:
        raise FileError(f"--scheduler-file: there is no file {path}") from None
    except (OSError, ValueError, KeyError, TypeError):
        address = None
    if not (isinstance(address, str) and "://" in address):
        raise FileError(f"{path} is no file that a Dask scheduler wrote; it has no address")
    return address


@contextmanager
def _interrupts_later() -> Iterator[list[int]]:
    """Ctrl-C waits, and is in the list afterwards.

    Processes that are started here have the signal blocked for good, and leave it to this one, which stops them in
    good order.
    """
    came: list[int] = []
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield came
        return
    resource_tracker.ensure_running()  # it would unblock the signal when it is first needed
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield came
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, before)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def absolute(names: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Names as another process on the same file system has them."""
    return tuple(os.path.abspath(name) for name in names)
