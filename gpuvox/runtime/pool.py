"""A pool of threads that makes do with as many as can be started, or with the calling thread alone.

`concurrent.futures.ThreadPoolExecutor` raises an exception if the system allows fewer threads (``ulimit -u``, the limit
of a job's control group).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, TypeVar

from gpuvox.runtime.limits import most_threads

T = TypeVar("T")


class Pool:
    """A pool of threads, used in a ``with`` statement; at its end everything submitted is done or cancelled.

    Parameters
    ----------
    threads : int
        At most `limits.most_threads` are started.

    Attributes
    ----------
    threads : int
        Number of threads that could be started; if 0, `submit` does the work itself.
    """

    def __init__(self, threads: int) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        for _ in range(min(threads, most_threads())):
            thread = Thread(target=self._work)
            try:
                thread.start()
            except RuntimeError:
                break
            self._threads.append(thread)

    @property
    def threads(self) -> int:
        """Number of threads that could be started."""
        return len(self._threads)

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run a function in the pool; the future receives its result or its exception."""
        future: Future[T] = Future()
        if self._threads:
            self._queue.put((future, function, arguments))
        else:
            _run(future, function, arguments)
        return future

    def map(self, function: Callable[..., T], *arguments: Iterable[Any]) -> Iterator[T]:
        """Results of a function, in order; all calls are submitted at once."""
        futures = [self.submit(function, *each) for each in zip(*arguments)]

        def results() -> Iterator[T]:
            try:
                for future in futures:
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()

        return results()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for _thread in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            work = self._queue.get()
            if work is None:
                return
            _run(*work)
            del work  # its result may be large


def _run(future: Future[Any], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function(*arguments))
    except BaseException as error:
        future.set_exception(error)
