"""Map ranges of permutations over threads, a device or distributed workers, and fold the results."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from threadpoolctl import threadpool_limits

from gpuvox.device import Device, OutOfDeviceMemory
from gpuvox.errors import DeviceError, InputError
from gpuvox.gathering import Gatherer
from gpuvox.permtest import LevelOverflow, ObservedTest, PermutationTest, Watcher
from gpuvox.runtime import signals
from gpuvox.runtime.limits import threads_for
from gpuvox.runtime.pool import Pool
from gpuvox.tally import BlockResult, Tally
from gpuvox.team import DEVICE_THREADS
from gpuvox.types import Bools, PermutationsDone

Share = tuple[int, int]
"""Range of permutations, start and stop."""
Watch = Callable[[ObservedTest], Watcher | None]
"""Makes the callback of a test whose unpermuted maps are known."""


class TallyStore(Protocol):
    """Stores the tallies of a permutation test, so that another process can resume from them."""

    @property
    def level_cap(self) -> int:
        """Number of TFCE steps with which the stored tallies were computed; 0 if there are none."""

    def tally(self, observed: ObservedTest, fresh: Tally) -> Tally:
        """The tally of this pass: the stored one, or `fresh`, which is stored from now on."""

    def added(self) -> None:
        """Called after each result that was added."""


class Workers(Protocol):
    """Others that run permutations: processes (`distributed.DaskWorkers`) or several devices (`team.DeviceTeam`)."""

    @property
    def takes_callbacks(self) -> bool:
        """Whether callbacks receive the maps of permutations that run there; a `Gatherer` does in any case."""

    @property
    def devices(self) -> Sequence[Device]:
        """Devices of this process that take part."""

    @property
    def description(self) -> str:
        """Who takes part, in words."""

    def observe(self, test: PermutationTest) -> ObservedTest:
        """Evaluate the unpermuted data."""

    def results(
        self, observed: ObservedTest, tally: Tally, callback: Watcher | None = None
    ) -> Generator[BlockResult, None, None]:
        """The results that a tally lacks, in any order; each is added to it before the next is asked for."""

    def second_pass(self, observed: ObservedTest, tally: Tally) -> ObservedTest:
        """The second pass of the two-pass scheme."""

    def finish(self) -> None:
        """Release what belongs to the last test alone."""


@dataclass(frozen=True, eq=False)
class Finished:
    """A complete run: the observed maps with the tally of each pass.

    Attributes
    ----------
    observed : ObservedTest
    tally : Tally
    second, second_tally : ObservedTest and Tally, or None
        The second pass of the two-pass scheme.
    """

    observed: ObservedTest
    tally: Tally
    second: ObservedTest | None = None
    second_tally: Tally | None = None


def run(
    test: PermutationTest,
    *,
    threads: int | None = None,
    progress: PermutationsDone | None = None,
    callback: Watcher | None = None,
    store: TallyStore | None = None,
    share: Share | None = None,
    workers: Workers | None = None,
    watch: Watch | None = None,
) -> Finished:
    """Run a permutation test.

    Parameters
    ----------
    test : PermutationTest
    threads : int, optional
        Number of threads; fewer if they cannot be started, all processors by default. The result does not depend on
        it. Ignored on a device.
    progress : callable, optional
        Called with the number of permutations done so far.
    callback : callable or Gatherer, optional
        Called with the maps of each permutation, in any order; see `ObservedTest.run`. To a `Gatherer` is added what it
        finds of each.
    store : TallyStore, optional
        Stores the tallies, and supplies stored ones.
    share : (start, stop), optional
        Run only these permutations; the tally is then incomplete. Not with the two-pass scheme.
    workers : Workers, optional
        Workers that run the permutations instead of threads of this process.
    watch : callable, optional
        Makes the callback from the test that is run, in place of `callback`; called anew if a run starts again.

    Returns
    -------
    Finished

    Raises
    ------
    DeviceError
        The device does not have enough memory for a single map.
    InputError
        The two-pass scheme is used with a share, or a callback with workers that do not send maps back.
    """
    _check_callback(workers, callback)
    if share and test.statistics.normalised:
        raise InputError("the two-pass scheme cannot be run in shares: its second pass needs all of the first")
    make: Watch = watch or (lambda _: callback)
    with _running(test, workers):
        return _run(test, _threads(test, threads), progress, make, store, share, workers)


def show(
    observed: ObservedTest,
    callback: Watcher,
    done: Bools | None = None,
    *,
    threads: int | None = None,
    progress: PermutationsDone | None = None,
    share: Share | None = None,
    workers: Workers | None = None,
) -> None:
    """Make permutations of a test for their maps alone.

    Parameters
    ----------
    observed : ObservedTest
    callback : callable or Gatherer
        See `run`.
    done : (N,) bool, optional
        Permutations to leave out.
    threads, progress, share, workers
        See `run`.

    Raises
    ------
    DeviceError, InputError
        See `run`.
    """
    _check_callback(workers, callback)
    tally = Tally(observed.n, *(share or ()))
    if done is not None:
        tally.done[:] = done
    if not tally.is_complete:
        with _running(observed.test, workers):
            _fold(observed, tally, _threads(observed.test, threads), progress, callback, None, workers)


def _check_callback(workers: Workers | None, callback: Watcher | None) -> None:
    is_taken = callback is None or isinstance(callback, Gatherer)
    if workers and not is_taken and not workers.takes_callbacks:
        raise InputError("a callback cannot be used with workers, which do not send maps back")


def _threads(test: PermutationTest, threads: int | None) -> int:
    return DEVICE_THREADS if test.device else threads_for(threads)


@contextmanager
def _running(test: PermutationTest, workers: Workers | None) -> Iterator[None]:
    """Lets go of the device or of the workers at the end."""
    device = test.device
    # We start the threads; those of a linear algebra library would only compete with them.
    try:
        with threadpool_limits(1):
            yield
    except OutOfDeviceMemory as error:
        raise DeviceError(
            f"the device does not have enough memory even for one map at a time ({error}); use --device cpu"
        ) from None
    finally:
        if workers:
            workers.finish()
        elif device:
            test.model.release()
            device.forget()


def _run(
    test: PermutationTest,
    threads: int,
    progress: PermutationsDone | None,
    watch: Watch,
    store: TallyStore | None,
    share: Share | None,
    workers: Workers | None,
) -> Finished:
    if store and store.level_cap:
        test = replace(test, level_cap=store.level_cap)
    while True:
        try:
            observed = workers.observe(test) if workers else test.observe()
            callback = watch(observed)
            _check_callback(workers, callback)
            tally = fold(observed, threads, progress, callback, store, share, workers)
            break
        except LevelOverflow as overflow:
            test = test.with_cap(overflow.needed)
        if test.device:
            gc.collect()  # the exception's frames hold arrays of the device
            test.device.release()
    if not test.statistics.normalised:
        return Finished(observed, tally)
    second = workers.second_pass(observed, tally) if workers else observed.second_pass(tally)
    return Finished(observed, tally, second, fold(second, threads, progress, store=store, workers=workers))


def ranges(observed: ObservedTest, threads: int, tally: Tally) -> Iterator[tuple[int, int]]:
    """Ranges of the remaining permutations, sized to fit memory and to keep every thread busy to the end."""
    step = observed.batch
    if observed.device is None:
        step = max(1, min(step, -(-(tally.stop - tally.start) // (4 * threads))))
    for first, last in tally.missing():
        for start in range(first, last, step):
            yield start, min(start + step, last)


def fold(
    observed: ObservedTest,
    threads: int,
    progress: PermutationsDone | None = None,
    callback: Watcher | None = None,
    store: TallyStore | None = None,
    share: Share | None = None,
    workers: Workers | None = None,
) -> Tally:
    """Run every range of permutations that the stored tally lacks, and add up the results."""
    tally = Tally(observed.n, *(share or ()))
    if store:
        tally = store.tally(observed, tally)
    _fold(observed, tally, threads, progress, callback, store, workers)
    return tally


def _fold(
    observed: ObservedTest,
    tally: Tally,
    threads: int,
    progress: PermutationsDone | None,
    callback: Watcher | None,
    store: TallyStore | None,
    workers: Workers | None,
) -> None:
    """Run what a tally lacks, and add it."""
    results = (
        workers.results(observed, tally, callback) if workers else _results(observed, threads, tally, callback)
    )
    with closing(results):
        for result in results:
            tally.add(result)
            if isinstance(callback, Gatherer):
                for numbers, found in result.gathered:
                    callback.add(numbers, found)
            if store:
                store.added()
            signals.check()
            if progress:
                progress(tally.n_done)


def _results(
    observed: ObservedTest, threads: int, tally: Tally, callback: Watcher | None
) -> Generator[BlockResult, None, None]:
    """Results of all permutations that the tally lacks, in any order."""
    parts = ranges(observed, threads, tally)
    if threads == 1:
        for start, stop in parts:
            yield observed.run(start, stop, callback)
        return
    with Pool(threads) as pool:
        pending = {pool.submit(observed.run, *part, callback) for part in islice(parts, threads + 1)}
        try:
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
                    pending |= {pool.submit(observed.run, *part, callback) for part in islice(parts, 1)}
        finally:
            for future in pending:
                future.cancel()
