"""A Dask cluster of processes on this machine that nobody else can use.

Scheduler and workers listen on loopback, where every user of the machine can connect. They therefore use TLS only, with
a certificate that is made for the run and never leaves the memory of its processes, and accept connections from its
holders only. There is no HTTP server, whose pages would be open to everyone.
"""

from __future__ import annotations

import logging
from typing import Any

from distributed import Nanny, Scheduler, Security, SpecCluster, Worker

ADDRESS = "127.0.0.1"


class _Private:
    """A Dask server without its HTTP server, which no setting turns off."""

    def start_http_server(self, *args: Any, **settings: Any) -> None:
        """Start no HTTP server."""


class PrivateScheduler(_Private, Scheduler):
    """A scheduler that can be reached by its own protocol only."""


class PrivateWorker(_Private, Worker):
    """A worker that can be reached by its own protocol only."""


def start(n_workers: int, threads: int, **settings: Any) -> Any:
    """Start a cluster on this machine.

    Parameters
    ----------
    n_workers : int
        Number of worker processes.
    threads : int
        Threads of each.
    **settings
        Passed to Dask's `Nanny`.

    Returns
    -------
    distributed.SpecCluster
    """
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
