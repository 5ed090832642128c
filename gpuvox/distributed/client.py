"""The client's side: it keeps the tally of a test while Dask workers run its permutations."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from gpuvox.device import Device
from gpuvox.distributed.messages import (
    Arrays,
    DataSource,
    Images,
    Job,
    UnreadableData,
    WorkerInfo,
    check_software,
    in_memory,
    make_recipe,
    unpack,
)
from gpuvox.distributed.worker import describe_worker, run_range
from gpuvox.errors import DistributedError, InputError
from gpuvox.gathering import Gatherer
from gpuvox.jit import software
from gpuvox.permtest import ObservedTest, PermutationTest, Watcher, hash_first_maps
from gpuvox.tally import BlockResult, Tally

RANGES_PER_THREAD = 8
"""Ranges per thread or GPU, about: all finish at nearly the same time, and workers that join late find work."""
MAX_RANGES = 3000
"""Ranges of a test at most, which keeps the load of the scheduler low."""
BATCHES = 4
"""Batches per range on a CPU at most: tenths of a second to minutes of work, where Dask's overhead is milliseconds."""
WAVES = 6
"""Maps per multiprocessor of a GPU in a range, if there are enough permutations."""
ATTEMPTS = 5
"""How often in a row all workers may be lost without finishing a single range."""
POLL_SECONDS = 0.5
"""Seconds between two attempts to find workers."""


@dataclass(eq=False)
class DaskWorkers:
    """The workers of a Dask client, as an `executors.Workers`.

    Parameters
    ----------
    client : distributed.Client
    device : str
        Device of each worker; ``auto`` is its GPU if it has one.
    images : Images, optional
        Image files that workers may read themselves.
    warn : callable, optional
        Receives a warning, one sentence, for instance that there are no workers yet.
    """

    client: Any
    device: str = "auto"
    images: Images | None = None
    warn: Callable[[str], None] = logging.getLogger(__name__).warning
    _address: str = field(default="its address", init=False)
    _workers: dict[str, WorkerInfo] = field(default_factory=dict, init=False)
    _held: tuple[Any, Arrays] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.client.scheduler is not None:
            self._address = self.client.scheduler.address

    takes_callbacks = False
    devices: ClassVar[Sequence[Device]] = ()

    @property
    def description(self) -> str:
        """Number of workers that took part, their threads and devices, in words."""
        kinds = sorted({worker.device for worker in self._workers.values()})
        threads = sum(worker.threads for worker in self._workers.values())
        return f"Dask: {len(self._workers)} workers with {threads} threads in total, on {', '.join(kinds) or 'nothing'}"

    def observe(self, test: PermutationTest) -> ObservedTest:
        """Evaluate the unpermuted data, in this process."""
        return test.observe()

    def second_pass(self, observed: ObservedTest, tally: Tally) -> ObservedTest:
        """The second pass of the two-pass scheme; its unpermuted data are evaluated in this process."""
        return observed.second_pass(tally)

    def finish(self) -> None:
        """Nothing: what belongs to a test is released by Dask, and the data are for the next test too."""

    def results(
        self, observed: ObservedTest, tally: Tally, callback: Watcher | None = None
    ) -> Generator[BlockResult, None, None]:
        """The results that a tally lacks, in any order; the caller adds each to the tally before it asks for the next.

        Raises
        ------
        DistributedError
            The connection to the scheduler is lost, all workers are killed repeatedly, or a worker does not compute
            the client's bits.
        LevelOverflow, DeviceError
            Raised by `ObservedTest.run` on a worker.
        """
        job = self._job(observed, callback.emptied() if isinstance(callback, Gatherer) else None)
        model: Any = observed.test.model
        arrays = Arrays(model.data, getattr(model, "evs", {}))
        in_vain, reason = 0, ""
        while not tally.is_complete:
            done = tally.n_done
            reason = (yield from self._attempt(job, arrays, observed, tally)) or reason
            in_vain = 0 if tally.n_done > done else in_vain + 1
            time.sleep(POLL_SECONDS * in_vain)  # workers that were lost may be restarting
            if in_vain == ATTEMPTS:
                raise DistributedError(
                    f"the workers were lost {ATTEMPTS} times before any of them had finished a range of permutations "
                    f"({reason}); do they have enough memory?"
                )

    def release(self) -> None:
        """Let the workers drop the data."""
        self._held = None

    def _job(self, observed: ObservedTest, gatherer: Gatherer | None) -> Job:
        device = self.device if observed.test.statistics.is_portable else "cpu"
        recipe: Any = make_recipe(observed.test.model)
        without_data = observed.with_model(recipe, None)
        return Job(without_data, device, hash_first_maps(observed), software(), gatherer=gatherer)

    def _attempt(
        self, job: Job, arrays: Arrays, observed: ObservedTest, tally: Tally
    ) -> Generator[BlockResult, None, str]:
        """Yield results until all have come or some are lost; return why they were lost (empty if none were)."""
        from distributed import as_completed

        workers, names = share_devices(self._collect_workers(job.device))
        job = replace(job, devices=names)
        pending: set[Any] = set()
        lost = ""
        try:
            inputs = [self._send(job), self._source(arrays)]
            parts = list(ranges(tally, observed.batch, workers))
            pending.update(
                self.client.map(
                    run_range, *([each] * len(parts) for each in inputs), *zip(*parts), pure=False, retries=0
                )
            )
            for future in as_completed(list(pending)):
                pending.discard(future)
                result = self._result(future)
                future.release()  # explicitly: in __del__, Python would lose a signal
                if isinstance(result, BlockResult):
                    yield unpack(result)
                else:
                    lost = result
        except (OSError, CancelledError) as error:
            lost = str(error) or type(error).__name__
        finally:
            with suppress(Exception):
                self.client.cancel(list(pending), force=True)
        return lost

    def _result(self, future: Any) -> BlockResult | str:
        """The result of a range, or why it was lost."""
        if future.status == "error":
            return self._reason(future.exception())
        if future.status != "finished":
            return "they went away"
        result = future.result()
        return result if isinstance(result, BlockResult) else self._reason(result)

    def _reason(self, error: BaseException) -> str:
        """Why a result was lost, if the range can be run again; any other error is raised."""
        from distributed.scheduler import KilledWorker

        if isinstance(error, KilledWorker):
            return "they were killed"
        if isinstance(error, UnreadableData):
            self.images, self._held = None, None
            return str(error)
        if isinstance(error, ImportError):
            raise DistributedError(f"a worker cannot load gpuvox: {error}")
        raise error

    def _send(self, thing: Any) -> Any:
        """Send an object to every worker; returns its future, or raises `OSError` if no worker accepts it."""
        try:
            return self.client.scatter(thing, broadcast=True, hash=False)
        except ValueError as error:  # Dask's, when all workers are paused or have just left
            raise OSError(f"no worker takes the data: {error}") from None

    def _source(self, arrays: Arrays) -> Any:
        """The future of the data, which are sent once for all tests of an analysis."""
        if self._held is not None:
            future, held = self._held
            same = held.data is arrays.data and all(held.evs.get(k) is v for k, v in arrays.evs.items())
            if same and len(held.evs) == len(arrays.evs) and future.status == "finished":
                return future
        source = DataSource(images=self.images) if self.images else DataSource(arrays=in_memory(arrays))
        future = self._send(source)
        self._held = future, arrays
        return future

    def _collect_workers(self, device: str) -> dict[str, WorkerInfo]:
        """Every worker that there is now; waits for the first."""
        has_warned, in_vain, workers = False, 0, dict[str, WorkerInfo]()
        while not workers:
            if self._n_workers():
                workers = self._ask_workers(device)
                in_vain += not workers
                if in_vain == ATTEMPTS:
                    raise DistributedError(
                        f"the workers at {self._address} were lost {ATTEMPTS} times before any of them answered; do "
                        "they have enough memory?"
                    )
                continue
            if not has_warned and self.client.status == "running":
                self.warn(f"there are no workers at {self._address}; waiting")
                has_warned = True
            time.sleep(POLL_SECONDS)
        self._workers |= workers
        return workers

    def _n_workers(self) -> int:
        """Number of workers now; `DistributedError` once the connection is lost for good."""
        try:
            return len(self.client.nthreads())
        except (OSError, AttributeError, CancelledError, RuntimeError, ValueError):
            # A client that is reconnecting fails in several ways.
            if self.client.status == "closed":
                raise DistributedError(
                    f"the connection to the Dask scheduler at {self._address} is lost"
                ) from None
            return 0

    def _ask_workers(self, device: str) -> dict[str, WorkerInfo]:
        """Ask every worker to describe itself; `InputError` if one of them cannot be used."""
        try:
            answers = self.client.run(describe_worker, device, on_error="return")
        except (OSError, CancelledError):
            return {}
        workers = {}
        for address, answer in answers.items():
            if isinstance(answer, InputError):
                raise answer
            if isinstance(answer, OSError):
                continue  # it left meanwhile
            if isinstance(answer, BaseException):
                raise DistributedError(f"the worker at {address} cannot load gpuvox: {answer}")
            check_software(f"the worker at {address}", answer.software, software())
            workers[address] = answer
        return workers


def share_devices(workers: Mapping[str, WorkerInfo]) -> tuple[dict[str, WorkerInfo], dict[str, str]]:
    """Share the GPUs of each machine among its workers: each GPU to one of them, or several workers to one GPU.

    Returns
    -------
    workers : dict of WorkerInfo
        With the multiprocessors of the GPUs that each has.
    names : dict of str
        Address of a worker → name of its GPUs, see `cuda.resolve_all`; only for machines with more than one.
    """
    shared, names = dict(workers), dict[str, str]()
    for host in {info.host for info in workers.values()}:
        crew = {address: info for address, info in sorted(workers.items()) if info.host == host and info.devices}
        if len({place for info in crew.values() for _, place, _ in info.devices}) < 2:
            continue
        for address, places in _places_of(crew).items():
            mine = [each for each in crew[address].devices if each[1] in places]
            names[address] = "cuda:" + ",".join(name.removeprefix("cuda:") for name, _, _ in mine)
            shared[address] = replace(crew[address], processors=sum(n for _, _, n in mine))
    return shared, names


def _places_of(crew: Mapping[str, WorkerInfo]) -> dict[str, list[str]]:
    """Address of each worker of a machine → places of its GPUs, `Device.bus_id`."""
    visible = {address: [place for _, place, _ in info.devices] for address, info in crew.items()}
    chosen: dict[str, list[str]] = {address: [] for address in crew}
    for place in sorted({place for places in visible.values() for place in places}):
        seeing = [address for address in crew if place in visible[address]]
        chosen[min(seeing, key=lambda address: len(chosen[address]))].append(place)
    for address in crew:
        if not chosen[address]:  # there are more workers than GPUs
            in_use = [place for places in chosen.values() for place in places]
            chosen[address].append(min(visible[address], key=in_use.count))
    return chosen


def ranges(tally: Tally, batch: int, workers: Mapping[str, WorkerInfo]) -> Iterator[tuple[int, int]]:
    """Split the permutations that remain into ranges, of a size that suits the workers."""
    # The threads of a worker with a GPU take turns on it.
    threads = sum(1 if worker.processors else worker.threads for worker in workers.values())
    processors = max(worker.processors for worker in workers.values())
    remaining = list(tally.missing())
    n_remaining = sum(stop - start for start, stop in remaining)
    size = min(WAVES * processors or BATCHES * batch, -(-n_remaining // (RANGES_PER_THREAD * threads)))
    if processors and size > processors:
        size -= size % processors
    size = max(size, -(-n_remaining // MAX_RANGES), 1)
    for first, last in remaining:
        for start in range(first, last, size):
            yield start, min(start + size, last)
