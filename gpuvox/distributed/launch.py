"""Connect to a Dask scheduler, or start Dask workers on this machine."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

from gpuvox.errors import DistributedError, FileError, SettingError
from gpuvox.reporter import Reporter

SETTINGS = {
    "distributed.scheduler.active-memory-manager.start": False,  # it would drop copies of data that are needed again
    "distributed.worker.profile.enabled": False,  # its history of an hour takes more memory than small analyses
}
"""Settings of Dask for the workers that we start."""

SAFE_PATH = "PYTHONSAFEPATH"
"""Environment variable; when it is set, Python imports nothing from the current folder."""

ENCRYPTED = ("tls", "wss", "inproc")
"""Protocols of Dask that others can neither read nor join."""


@dataclass(frozen=True)
class DaskCluster:
    """The Dask cluster that a command asks for; exactly one of `address`, `file` and `n_workers` is set.

    Attributes
    ----------
    address : str
        Address of a scheduler.
    file : str
        File in which a scheduler wrote its address.
    n_workers : int
        Number of processes to start on this machine.
    threads : int
        Threads of these processes in all.
    tls : dict of str to str
        Option (``--tls-ca-file``, ``--tls-cert``, ``--tls-key``) → PEM file: the certificates to trust, the client's
        certificate and its private key.
    """

    address: str = ""
    file: str = ""
    n_workers: int = 0
    threads: int = 1
    tls: Mapping[str, str] = field(default_factory=dict)


def check_installed() -> None:
    """Make sure that Dask is installed (`DistributedError`)."""
    if find_spec("distributed") is None:
        raise DistributedError("Dask is not installed; install gpuvox[distributed]")


def check_client(client: Any) -> None:
    """Make sure that this is a synchronous Dask client (`SettingError`)."""
    check_installed()
    from distributed import Client

    if not isinstance(client, Client):
        raise SettingError(f"client is a {type(client).__name__}; a dask.distributed.Client is expected")
    if client.asynchronous:
        raise SettingError("the Dask client is asynchronous; use gpuvox.randomise in a thread: asyncio.to_thread")


@dataclass(frozen=True)
class ClusterSize:
    """Size of a Dask cluster: number of worker processes, and of their threads in all."""

    processes: int
    threads: int


def find_size(cluster: DaskCluster) -> ClusterSize:
    """The size that a cluster has now.

    Raises
    ------
    DistributedError, FileError
        See `open_client`.
    """
    if cluster.n_workers:
        check_installed()
        return ClusterSize(cluster.n_workers, cluster.n_workers * max(1, cluster.threads // cluster.n_workers))
    with open_client(cluster) as client:
        threads = client.nthreads()
        return ClusterSize(len(threads), sum(threads.values()))


_ignore = Reporter.silent().warn


@contextmanager
def open_client(cluster: DaskCluster, warn: Callable[[str], None] = _ignore) -> Iterator[Any]:
    """A Dask client, closed at the end; workers that were started for it are stopped.

    Parameters
    ----------
    cluster : DaskCluster
    warn : callable
        Receives a warning, one sentence, if the connection is not encrypted.

    Raises
    ------
    DistributedError
        Dask is not installed, no scheduler answers, or processes cannot be started.
    FileError
        The scheduler file, or the file of a certificate or a key, cannot be read.
    """
    with (
        _private_folder() if cluster.n_workers else nullcontext("") as folder,
        _connected(cluster, folder, warn) as client,
    ):
        yield client


@contextmanager
def _private_folder() -> Iterator[str]:
    """A new folder for the workers that we start, which import nothing from the current folder.

    By default, Dask's workers use, and import from, a folder with a fixed name in the system's temporary folder.
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
def _connected(cluster: DaskCluster, folder: str, warn: Callable[[str], None]) -> Iterator[Any]:
    """A Dask client whose workers, if we start them, have `folder` to themselves; see `open_client`."""
    check_installed()
    import dask
    from distributed import Client

    _silence_dask()
    _check_tls(cluster)
    where = cluster.address or cluster.file
    interrupts: list[int] = []
    try:
        if cluster.n_workers:
            with dask.config.set(SETTINGS | {"temporary-directory": folder}), _deferred_interrupts() as interrupts:
                local = _start_workers(cluster, folder)
            client = Client(local)
        elif cluster.address:
            local, client = None, Client(_address(cluster), security=_security(cluster.tls))
        else:
            local, client = None, Client(scheduler_file=cluster.file, security=_security(cluster.tls))
    except Exception as error:  # many types, assertions among them, for a malformed address or file
        raise DistributedError(
            f"no Dask scheduler answers at {where or 'this machine'}: {_first_line(error)}"
        ) from None
    try:
        if interrupts:
            raise KeyboardInterrupt
        _warn_if_unencrypted(client, warn)
        yield client
    finally:
        with suppress(Exception):
            client.close()
        if local is not None:
            with suppress(Exception):
                local.close()


def _silence_dask() -> None:
    """Turn off Dask's logs, which show a traceback whenever a worker dies; we report what matters to the user."""
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _start_workers(cluster: DaskCluster, folder: str) -> Any:
    """Start worker processes on this machine with which nobody else can communicate."""
    from gpuvox.distributed import loopback

    return loopback.start(cluster.n_workers, max(1, cluster.threads // cluster.n_workers), local_directory=folder)


def _check_tls(cluster: DaskCluster) -> None:
    """Check the encryption that is asked for, before anything is connected."""
    address = cluster.address
    if cluster.n_workers and find_spec("cryptography") is None:
        raise DistributedError(
            "--workers needs the package cryptography, so that nobody else can use the workers; install "
            "gpuvox[distributed]",
            option="--workers",
        )
    if cluster.file:
        address = _read_scheduler_file(cluster.file)
    for option, path in cluster.tls.items():
        try:
            open(path, "rb").close()
        except OSError as error:
            raise FileError(
                f"{option}: {path} cannot be read: {error.strerror}", option=option, file=path
            ) from None
    if cluster.tls and "://" in address and not _is_encrypted(address):
        raise DistributedError(
            f"the scheduler at {address} does not encrypt, as {next(iter(cluster.tls))} requires: expected tls://"
        )


def _address(cluster: DaskCluster) -> str:
    """The scheduler's address; with certificates and no protocol given, the encrypted protocol is added."""
    return f"tls://{cluster.address}" if cluster.tls and "://" not in cluster.address else cluster.address


def _security(tls: Mapping[str, str]) -> Any:
    """Dask's settings for TLS; None, which stands for Dask's own configuration, without certificates."""
    from distributed import Security

    names = {"--tls-ca-file": "tls_ca_file", "--tls-cert": "tls_client_cert", "--tls-key": "tls_client_key"}
    return Security(require_encryption=True, **{names[k]: v for k, v in tls.items()}) if tls else None


def _is_encrypted(address: str) -> bool:
    return address.partition("://")[0] in ENCRYPTED


def _warn_if_unencrypted(client: Any, warn: Callable[[str], None]) -> None:
    """Warn if others on the network could read the connection or take part in it."""
    address = client.scheduler.address
    if not _is_encrypted(address):
        warn(
            f"the connection to the Dask scheduler at {address} is not encrypted: anyone who can reach it can run "
            "programs in your name; see --tls-ca-file, --tls-cert and --tls-key"
        )


def _read_scheduler_file(path: str) -> str:
    """The address in a file that a Dask scheduler wrote."""
    try:
        address = json.loads(Path(path).read_text(encoding="utf-8"))["address"]
    except FileNotFoundError:
        raise FileError(
            f"--scheduler-file: there is no file {path}", option="--scheduler-file", file=path
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        address = None
    if not (isinstance(address, str) and "://" in address):
        raise FileError(f"{path} was not written by a Dask scheduler: it contains no address", file=path)
    return address


@contextmanager
def _deferred_interrupts() -> Iterator[list[int]]:
    """Defer Ctrl-C; interrupts that came meanwhile are in the list afterwards.

    Processes that are started inside inherit the blocked signal, so that only this process receives it, and stops them
    in order.
    """
    came: list[int] = []
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield came
        return
    resource_tracker.ensure_running()  # otherwise it would unblock the signal when it is first needed
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield came
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, before)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
