"""Several devices of this machine that share the permutations of a test.

Each device has the model once, and threads that feed it. Ranges of permutations are handed out on demand: a device
gets its next range when it needs one, and the ranges follow the speed that each device has shown. They become smaller
towards the end, so that all devices finish at about the same time. Permutation i depends only on the seed and i, so the
bits do not depend on which device computed it; every device shows on the first permutations that it computes the bits
of the device that evaluated the unpermuted data.

A device that fails or does not have enough memory is left out with a warning, and the others take over its ranges.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Condition, Lock
from time import perf_counter
from typing import TypeVar

from gpuvox.device import Device, OutOfDeviceMemory
from gpuvox.errors import DeviceError, WrongBitsError
from gpuvox.permtest import ObservedTest, PermutationTest, Watcher, hash_first_maps
from gpuvox.runtime.pool import Pool
from gpuvox.statistics import StatisticModel
from gpuvox.tally import BlockResult, Tally

T = TypeVar("T")
_log = logging.getLogger(__name__)

DEVICE_THREADS = 2
"""Threads that feed a device: one prepares permutations while those of the other are computed."""
FIRST_PART = 4
"""The first ranges of a device are this part of a batch, until its speed is known."""

FAILURES = (OutOfDeviceMemory, DeviceError)
"""Errors because of which a device is left out."""


@dataclass(eq=False)
class Member:
    """A device at work on a test.

    Attributes
    ----------
    device : Device
    observed : ObservedTest or None
        The test on this device, once it is there.
    batch : int
        Permutations worth holding at a time.
    done : int
        Permutations that it has run.
    seconds : float
        Time that these took, from when the device was ready.
    has_failed : bool
    """

    device: Device
    observed: ObservedTest | None = None
    batch: int = 1
    done: int = 0
    seconds: float = 0.0
    has_failed: bool = False

    def __post_init__(self) -> None:
        self.lock = Lock()
        self._began = 0.0

    def begin(self, observed: ObservedTest) -> None:
        """The test is on the device."""
        self.observed, self.batch, self._began = observed, observed.batch, perf_counter()

    def add(self, n: int) -> None:
        """Some permutations have been run."""
        self.done += n
        self.seconds = perf_counter() - self._began

    @property
    def rate(self) -> float | None:
        """Permutations per second; None if none have been run."""
        return self.done / max(self.seconds, 1e-9) if self.done else None


class Ranges:
    """The permutations that a tally lacks, handed out in ranges; thread-safe.

    Parameters
    ----------
    tally : Tally
    members : sequence of Member
    """

    def __init__(self, tally: Tally, members: Sequence[Member]) -> None:
        self._spans = deque(tally.missing())
        self._members = members
        self._changed = Condition()
        self._n_out = 0
        self._is_closed = False

    def take(self, member: Member) -> tuple[int, int] | None:
        """The next range for a device; None if nothing is left, or the device has failed.

        While others still run their ranges, this waits: one of them may fail and return its range.
        """
        with self._changed:
            while True:
                if self._is_closed or member.has_failed:
                    return None
                if self._spans:
                    break
                if not self._n_out:
                    return None
                self._changed.wait()
            size = self._size(member)
            start, stop = self._spans.popleft()
            middle = min(start + size, stop)
            if middle < stop:
                self._spans.appendleft((middle, stop))
            self._n_out += 1
            return start, middle

    def _size(self, member: Member) -> int:
        """Permutations of the next range: the device's share of the rest, divided among its threads."""
        members = [each for each in self._members if not each.has_failed]
        known = [each.rate for each in members if each.rate is not None]
        usual = sum(known) / len(known) if known else 1.0
        part = (usual if member.rate is None else member.rate) / sum(
            usual if each.rate is None else each.rate for each in members
        )
        remaining = sum(stop - start for start, stop in self._spans)
        # No smaller than a part of a batch, or launching costs more than computing; no larger than a batch.
        size = max(-(-int(remaining * part) // DEVICE_THREADS), int(member.batch * part) // FIRST_PART)
        most = member.batch if member.rate is not None else member.batch // FIRST_PART
        size = max(1, min(size, most))
        waves = member.device.n_processors
        return size - size % waves if size > waves else size

    def finish(self, member: Member, part: tuple[int, int]) -> None:
        """A range has been run."""
        with self._changed:
            member.add(part[1] - part[0])
            self._n_out -= 1
            self._changed.notify_all()

    def give_back(self, part: tuple[int, int]) -> None:
        """A range has not been run; another device is to run it."""
        with self._changed:
            self._spans.appendleft(part)
            self._n_out -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class DeviceTeam:
    """Several devices, as an `executors.Workers`.

    Parameters
    ----------
    devices : sequence of Device
        Two or more. The first one evaluates the unpermuted data.
    warn : callable, optional
        Receives a warning, one sentence, when a device is left out.
    """

    takes_callbacks = True

    def __init__(self, devices: Sequence[Device], warn: Callable[[str], None] = _log.warning) -> None:
        self.devices = list(devices)
        self.members: list[Member] = []
        self._warn = warn
        self._titles = [f"{device.name} ({device.title})" for device in devices]
        self._all = list(devices)
        self._model: StatisticModel | None = None
        self._twins: dict[int, StatisticModel] = {}
        self._lock = Lock()

    @property
    def description(self) -> str:
        """The devices, in words, and which of them were left out."""
        return ", ".join(
            title if device in self.devices else f"{title}, left out"
            for device, title in zip(self._all, self._titles)
        )

    def observe(self, test: PermutationTest) -> ObservedTest:
        """Evaluate the unpermuted data on the first device that can do so."""
        return self._on_first(lambda device: replace(test, model=self._twin(test.model, device)).observe())

    def second_pass(self, observed: ObservedTest, tally: Tally) -> ObservedTest:
        """The second pass of the two-pass scheme, on the first device that can evaluate its unpermuted data."""
        return self._on_first(lambda device: self._moved(observed, device).second_pass(tally))

    def _on_first(self, work: Callable[[Device], T]) -> T:
        while True:
            device = self.devices[0]
            try:
                return work(device)
            except FAILURES as error:
                self._leave_out(device, error)

    def results(
        self, observed: ObservedTest, tally: Tally, callback: Watcher | None = None
    ) -> Generator[BlockResult, None, None]:
        """The results that a tally lacks, in any order; the caller adds each to the tally before it asks for the next.

        Raises
        ------
        DeviceError, OutOfDeviceMemory
            The error of the last device, when all have failed; or devices compute different bits.
        """
        first_maps = self._on_first(lambda device: hash_first_maps(self._moved(observed, device)))
        members = self.members = [Member(device) for device in self.devices]
        ranges = Ranges(tally, members)
        queue: SimpleQueue[BlockResult | BaseException | Member] = SimpleQueue()
        errors: dict[Device, BaseException] = {}

        def feed(member: Member) -> None:
            try:
                self._make_ready(member, observed, first_maps)
                while part := ranges.take(member):
                    try:
                        queue.put(member.observed.run(*part, callback))  # type: ignore[union-attr]
                    except BaseException:
                        member.has_failed = True
                        ranges.give_back(part)
                        raise
                    ranges.finish(member, part)
            except BaseException as error:
                member.has_failed = True
                if isinstance(error, FAILURES) and not isinstance(error, WrongBitsError):
                    errors.setdefault(member.device, error)
                else:
                    queue.put(error)
            finally:
                queue.put(member)

        feeders = [member for _ in range(DEVICE_THREADS) for member in members]
        with Pool(len(feeders)) as pool:
            for member in feeders:
                pool.submit(feed, member)
            try:
                for result in _until_all_ended(queue, len(feeders)):
                    yield result
                    self._leave_out_failed(errors)
            finally:
                ranges.close()
        self._leave_out_failed(errors)

    def _make_ready(self, member: Member, observed: ObservedTest, first_maps: str) -> None:
        """Put the test on a device, and compare the bits of its first permutations."""
        with member.lock:
            if member.observed is not None or member.has_failed:
                return
            here = self._moved(observed, member.device)
            if here is not observed and hash_first_maps(here) != first_maps:
                raise WrongBitsError(
                    f"{member.device.name} ({member.device.title}) computes other bits than {self._titles[0]}; "
                    "gpuvox info tests each device"
                )
            member.begin(here)

    def _moved(self, observed: ObservedTest, device: Device) -> ObservedTest:
        """The test on a device."""
        model = self._twin(observed.test.model, device)
        return observed if model is observed.test.model else observed.with_model(model, device)

    def _twin(self, model: StatisticModel, device: Device) -> StatisticModel:
        """The model on a device; made once for each model and device."""
        with self._lock:
            if model not in (self._model, *self._twins.values()):
                self._model = model
                self._twins = {id(model.device): model}
            if id(device) not in self._twins:
                self._twins[id(device)] = model.on(device)
            return self._twins[id(device)]

    def _leave_out_failed(self, errors: dict[Device, BaseException]) -> None:
        for device, error in list(errors.items()):
            if device in self.devices:
                self._leave_out(device, error)

    def _leave_out(self, device: Device, error: BaseException) -> None:
        """Go on without a device; raises its error if it is the last."""
        with self._lock:
            if device not in self.devices:
                return
            if len(self.devices) == 1 or isinstance(error, WrongBitsError):
                raise error
            self.devices.remove(device)
        _let_go(self._twins.get(id(device)), device, with_shared=True)
        reason = "it does not have enough memory" if isinstance(error, OutOfDeviceMemory) else str(error)
        self._warn(f"{device.name} ({device.title}) is left out: {reason}; the other devices run its permutations")

    def finish(self) -> None:
        """Release what the last test has on the devices."""
        for device in self._all:
            _let_go(self._twins.get(id(device)), device)
        self._model, self._twins = None, {}


def _let_go(model: StatisticModel | None, device: Device, with_shared: bool = False) -> None:
    """Release a model, and what a device has kept; a device that has failed may not even answer that."""
    with suppress(*FAILURES), device.lock:
        if model is not None:
            model.release()
        if with_shared:
            device.drop_shared()
        device.forget()


def _until_all_ended(
    queue: SimpleQueue[BlockResult | BaseException | Member], n: int
) -> Generator[BlockResult, None, None]:
    """Results until n threads have ended; raises what ended one of them, unless its device is left out for it."""
    while n:
        item = queue.get()
        if isinstance(item, BlockResult):
            yield item
        elif isinstance(item, Member):
            n -= 1
        else:
            raise item
