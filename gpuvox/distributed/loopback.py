"""A Dask cluster of processes on this machine that none but their own can talk to.

Scheduler and workers listen on loopback, where every user of the machine can connect; so they speak TLS alone, with a
certificate that is made for the run and never leaves the memory of its processes, and take connections from its holders
only. There is no HTTP server, whose pages would be open to all.
"""

from __future__ import annotations

import logging
from typing import Any

from distributed import Nanny, Scheduler, Security, SpecCluster, Worker

ADDRESS = "127.0.0.1"


class _Private:
    """A server of Dask's without its HTTP server, which cannot be configured away."""

    def start_http_server(self, *args: Any, **settings: Any) -> None:
        """Start none."""


class PrivateScheduler(_Private, Scheduler):
    """A scheduler that is reached by its own protocol alone."""


class PrivateWorker(_Private, Worker):
    """A worker that is reached by its own protocol alone."""


def start(n_workers: int, threads: int, **settings: Any) -> Any:
    """Start a cluster: `n_workers` processes of so many threads each; `settings` are those of Dask's `Nanny`."""
    security = Security.temporary()
    shared = {"host": ADDRESS, "protocol": "tls://", "security": security, "dashboard": False}
    workers = {
        "nthreads": threads, "memory_limit": 0, "silence_logs": logging.CRITICAL, "worker_class": PrivateWorker,
    }  # fmt: skip
    return SpecCluster(
        workers={i: {"cls": Nanny, "options": shared | workers | settings} for i in range(n_workers)},
        scheduler={"cls": PrivateScheduler, "options": shared | {"port": 0}},
        security=security,
        silence_logs=logging.CRITICAL,
    )
