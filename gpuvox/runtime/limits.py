"""Resources that this process may use: memory, processors, threads.

A job of a scheduler, or a container, is a control group with limits of its own; the limits of the groups above it apply
too. `/proc/self/cgroup` names the group. Version 2 has one tree, version 1 one per resource; in a container the path
may be that of the host, while the group itself is at the top of the tree.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
TREE = Path("/sys/fs/cgroup")
LEAST_CAP = 16
"""Number of threads that can be requested on any machine; see `most_threads`."""


def available_bytes() -> int | None:
    """Memory available to this process, including swap; None if the system does not report it."""
    try:
        lines = dict(line.split(":") for line in (PROC / "meminfo").read_text().splitlines())
        free = sum(int(lines[name].split()[0]) << 10 for name in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError):
        return None
    return max(0, min([free, *_left_of_groups(), *_left_of_address_space()]))


def _left_of_groups() -> Iterator[int]:
    """Bytes available in each group; page cache counts as available, as the system reclaims it when needed."""
    for folder in _groups("memory"):
        for limit, usage, kept in (
            ("memory.max", "memory.current", ("inactive_file", "active_file")),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
        ):
            most, used = _number(folder / limit), _number(folder / usage)
            if most is not None and used is not None:
                yield most - max(0, used - sum(_statistic(folder / "memory.stat", name) for name in kept))


def _left_of_address_space() -> Iterator[int]:
    """Bytes remaining under ``ulimit -v`` and ``ulimit -d``."""
    try:
        import resource

        words = [int(word) for word in (PROC / "self" / "statm").read_text().split()]
    except (ImportError, OSError, ValueError):
        return
    page = os.sysconf("SC_PAGESIZE")
    for kind, pages in ((resource.RLIMIT_AS, words[0]), (resource.RLIMIT_DATA, words[5])):
        most = resource.getrlimit(kind)[0]
        if most != resource.RLIM_INFINITY:
            yield most - pages * page


def default_threads() -> int:
    """Number of processors available to this process: those it is bound to, limited by its group's share of time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(math.ceil(share) for share in _shares_of_time())]))


def most_threads() -> int:
    """Largest number of threads that are ever started; more would take memory without a benefit."""
    return max(LEAST_CAP, 4 * (os.cpu_count() or 1))


def threads_for(asked: int | None) -> int:
    """Number of threads to start for a requested number; None and 0 request all processors."""
    return min(asked or default_threads(), most_threads())


def _shares_of_time() -> Iterator[float]:
    """Number of processors that each group may use."""
    for folder in _groups("cpu"):
        try:
            quota, period = (folder / "cpu.max").read_text().split()[:2]
        except (OSError, ValueError):
            quota, period = (str(_number(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
        try:
            if int(quota) > 0 and int(period) > 0:
                yield int(quota) / int(period)
        except ValueError:
            continue  # "max", or no such files


def _groups(resource: str) -> Iterator[Path]:
    """Folders of the control groups of this process, from its own to the top, of both versions."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines or ["0::/"]:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and resource not in controllers.split(","):
            continue
        names = [""] if number == "0" else [controllers, resource]
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for name in dict.fromkeys(names):
            for depth in range(len(parts), -1, -1):
                yield TREE.joinpath(name, *parts[:depth])


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _statistic(path: Path, name: str) -> int:
    try:
        statistics = dict(line.split()[:2] for line in path.read_text().splitlines())
        return int(statistics.get(name, 0))
    except (OSError, ValueError):
        return 0
