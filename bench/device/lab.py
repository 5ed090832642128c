"""What every part has at hand: sizes, time, the report, and where results go."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cohort import brain_grid, smooth_noise
from gpuvox.cuda import FAMILY
from gpuvox.device import Device
from gpuvox.grid import Grid

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = str(Path(__file__).resolve().parent)
"""What Python runs in the processes of its own that a part starts."""

GB = 1 << 30

MOST_KEPT = GB // 2
"""Bytes of data that the steps of a session share."""

FWHMS = (0.0, 2.0, 3.5, 6.0)
"""Smoothness of the maps, in voxels."""


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes
    ----------
    seconds : float
        Time for the whole script.
    mm, fine_mm, coarse_mm : float
        Voxel sizes of the brain: the usual one, the fine one, and that of whole analyses and of models.
    masks : int
        Random small masks for TFCE.
    maps : int
        Maps of a check on the brain of `mm`.
    subjects : tuple of int
        For the timing of t maps.
    n, fine_n : int
        Subjects of everything else, and of checks on the fine brain.
    checked, capped : int
        Permutations of whole tests that are checked, on the coarse brain and on the usual one.
    permutations, fine_permutations, cpu_permutations : int
        Permutations that are timed; the last per thread.
    batch : int
        Maps that are timed at a time.
    limits : tuple of int
        Limits of memory in bytes, largest first.
    copied : int
        Bytes of the copy that measures bandwidth.
    repeats : int
        Of a timing.
    """

    seconds: float = 480.0
    mm: float = 2.0
    fine_mm: float = 1.0
    coarse_mm: float = 6.0
    masks: int = 900
    maps: int = 6
    subjects: tuple[int, ...] = (40, 146, 1000)
    n: int = 146
    fine_n: int = 40
    checked: int = 1000
    capped: int = 160
    permutations: int = 10_000
    fine_permutations: int = 1024
    cpu_permutations: int = 24
    batch: int = 512
    limits: tuple[int, ...] = (4 * GB, GB, GB // 4)
    copied: int = 4 * GB
    repeats: int = 7


FULL = Sizes()

SMALL = Sizes(
    seconds=120.0, mm=10.0, fine_mm=8.0, coarse_mm=16.0, masks=12, maps=2, subjects=(20,), n=20, fine_n=12, checked=24,
    capped=8, permutations=64, fine_permutations=16, cpu_permutations=2, batch=8, limits=(64 << 20, 32 << 20),
    copied=1 << 24, repeats=2,
)  # fmt: skip

TINY = replace(
    SMALL, mm=18.0, fine_mm=16.0, coarse_mm=24.0, checked=8, capped=4, permutations=12, fine_permutations=4,
    cpu_permutations=1, batch=3, limits=(1 << 24, 1 << 21),
)  # fmt: skip
"""For compiling, and for the script's own tests."""


@dataclass
class Report:
    """Everything that goes to the JSON file."""

    facts: dict = field(default_factory=dict)
    checks: list[dict] = field(default_factory=list)
    sanitizer: list[dict] = field(default_factory=list)
    timings: list[dict] = field(default_factory=list)
    breakdowns: list[dict] = field(default_factory=list)
    phases: list[dict] = field(default_factory=list)
    tuning: list[dict] = field(default_factory=list)
    steps: list[dict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    errors: list[dict] = field(default_factory=list)

    @property
    def unchecked_kernels(self) -> list[str]:
        """Kernels that no check launched."""
        return sorted(set(FAMILY).difference(*(check.get("kernels", ()) for check in self.checks)))

    @property
    def failed(self) -> list[str]:
        """Names of what failed."""
        names = [c["name"] for c in (*self.checks, *self.sanitizer) if c["verdict"] == "failed"]
        names += [step["name"] for step in self.steps if step["outcome"] != "done"]
        return names + [error["name"] for error in self.errors]

    def include(self, other: Report) -> None:
        """Add what another process found."""
        self.facts |= other.facts
        for key, values in other.__dict__.items():
            if key != "facts":
                getattr(self, key).extend(values)

    def as_json(self) -> str:
        """For `Report(**json.loads(text))`."""
        return json.dumps(self.__dict__, indent=1, default=plain) + "\n"


@dataclass
class Lab:
    """What every part has at hand.

    Attributes
    ----------
    machine : Cuda
        The GPU; the tests have another in its place.
    sizes : Sizes
    report : Report
    out : Path or None
        Folder for the JSON file, and for that of the tuning.
    file : Path or None
        In the process of a step: the file for its report, in place of one in `out`.
    before : Report
        In the process of a step: what the steps before it found.
    options : list of str
        Of the command line of further processes.
    shared : Path or None
        Folder of a session for data that several steps need.
    has_executors : bool
        `gpuvox.executors` and `gpuvox.analysis` can be imported.
    has_command : bool
        The command can be run.
    started : float
        When, by `perf_counter`.
    until : float
        Share of the time after which the part that runs now is to end.
    """

    machine: Any
    sizes: Sizes
    report: Report = field(default_factory=Report)
    out: Path | None = None
    file: Path | None = None
    before: Report = field(default_factory=Report)
    options: list[str] = field(default_factory=list)
    shared: Path | None = None
    has_executors: bool = find_spec("threadpoolctl") is not None
    has_command: bool = all(find_spec(name) for name in ("threadpoolctl", "nibabel", "pandas"))
    started: float = field(default_factory=perf_counter)
    until: float = 1.0
    _made: dict = field(default_factory=dict)
    _written: Path | None = None

    @property
    def device(self) -> Device:
        """The device."""
        return self.machine.device

    def once(self, make: Callable, *arguments: Any) -> Any:
        """What `make` makes, made once."""
        key = (make.__name__, *arguments)
        if key not in self._made:
            self._made[key] = make(*arguments)
        return self._made[key]

    def grid(self, mm: float) -> Grid:
        """The brain."""
        return self.once(brain_grid, mm)

    def data(self, mm: float, n: int, fwhm: float = 3.5) -> NDArray[np.float32]:
        """(n, V) smooth noise."""

        def noise(mm: float, n: int, fwhm: float) -> NDArray[np.float32]:
            kept = self.shared / f"noise-{mm:g}-{n}-{fwhm:g}.npy" if self.shared else None
            if kept and kept.exists():
                return np.load(kept)
            made = smooth_noise(self.grid(mm), n, fwhm, 1)
            if kept and made.nbytes <= MOST_KEPT:
                np.save(kept.with_suffix(".part.npy"), made)
                kept.with_suffix(".part.npy").replace(kept)
            return made

        return self.once(noise, mm, n, fwhm)

    def left(self) -> float:
        """Seconds that this part may still take."""
        return self.until * self.sizes.seconds - (perf_counter() - self.started)

    def allows(self, name: str, seconds: float) -> bool:
        """Whether there is time; what is left out is named."""
        if seconds <= self.left():
            return True
        self.report.left_out.append(name)
        return False

    def guarded(self, name: str, work: Callable[[], None], seconds: float = 5.0) -> None:
        """Do something if there is time; what goes wrong is noted, and the script goes on."""
        if not self.allows(name, seconds):
            return
        say(f"   {name}")
        try:
            work()
        except Exception as error:
            self.report.errors.append({"name": name, "error": describe(error)})
            say(f"FAILED {name}: {type(error).__name__}: {error}")
        gc.collect()  # what failed may hold arrays
        self.device.forget()
        self.write()

    def write(self) -> None:
        """Everything so far, as JSON."""
        if self.file is not None:
            # All of it or nothing: this process may be stopped at any time.
            self.file.with_suffix(".part").write_text(self.report.as_json())
            self.file.with_suffix(".part").replace(self.file)
        if self.file is not None or self.out is None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        device = re.sub(r"[^a-z0-9]+", "-", str(self.report.facts.get("device", "device")).lower()).strip("-")
        everything = self.report.__dict__ | {
            "failed": self.report.failed,
            "unchecked_kernels": self.report.unchecked_kernels,
            "seconds": perf_counter() - self.started,
        }
        path = self.out / f"{device}-{datetime.now(UTC):%Y-%m-%d}.json"
        if self._written not in (None, path):
            self._written.unlink(missing_ok=True)  # from before the name of the device was known
        self._written = path
        path.write_text(json.dumps(everything, indent=1, default=plain) + "\n")


def plain(value: Any) -> Any:
    """Numpy's numbers for JSON."""
    return value.item() if isinstance(value, np.generic) else str(value)


def say(text: str) -> None:
    """A line, at once."""
    print(text, flush=True)


def without_paths(text: str) -> str:
    """Text with no folders of this machine in it."""
    return re.sub(r"(?<![\w.])(?:/[\w.+@-]+)+/", "", text)


def describe(error: Exception) -> str:
    """The last lines of a traceback."""
    return without_paths("".join(traceback.format_exception(error)))[-2000:]


def first_line(*command: str) -> str:
    """What a command prints first; empty if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=ROOT)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().split("\n")[0] if done.returncode == 0 else ""


def n_threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host(device: Device | None, values: Any) -> NDArray:
    """Values on the host."""
    return values if device is None or isinstance(values, np.ndarray) else device.download(values)


def there(device: Device | None, values: NDArray) -> Any:
    """Values where the device has them."""
    return values if device is None else device.upload(values)
