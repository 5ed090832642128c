"""How kernels are launched on each kind of GPU, as far as that is a matter of speed alone.

Results never depend on it: kernels are correct for any number of threads. The defaults are those of the sources. What
`bench/device` measured to be faster on an architecture is in ``<architecture>.toml`` beside this file (``sm_90.toml``):

    ["tfce_peaks<6, false>"]
    threads = 768      # per block
    resident = 2       # blocks that a multiprocessor holds
    shared = 0.5       # part of its share of the shared memory that a block uses

    [batch]
    waves = 4          # permutations of a batch, in whole waves of blocks
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched.

    Attributes
    ----------
    threads : int
        Of a block.
    resident : int
        Blocks that a multiprocessor holds; as many maps are processed at the same time.
    shared : float
        Part of a resident block's share of the shared memory that it uses, for kernels with dynamic shared memory.
    """

    threads: int
    resident: int
    shared: float = 1.0


DEFAULTS: Mapping[str, Launch] = {
    **{
        f"tfce_peaks<{connectivity}, {full}>": Launch(512, 3 if (connectivity, full) == (6, "false") else 2)
        for connectivity, full in product((6, 18, 26), ("false", "true"))
    },
    "glm_exact": Launch(128, 4),
}
"""Kernels whose launch can be tuned; the numbers are also those of the sources."""

FIXED_THREADS = ("glm_exact",)
"""Kernels whose source fixes the threads of a block."""

WAVES = 2
"""Waves of blocks in a batch."""


@dataclass(frozen=True)
class Tuning:
    """How kernels are launched on a device.

    Attributes
    ----------
    kernels : dict of Launch
        Kernels that differ from `DEFAULTS`.
    waves : int
        Waves of blocks in a batch of permutations, if there is memory for them.
    """

    kernels: Mapping[str, Launch] = field(default_factory=dict)
    waves: int = WAVES

    def of(self, kernel: str) -> Launch:
        """How a kernel is launched."""
        return self.kernels.get(kernel, DEFAULTS[kernel])

    def defines(self, kernel: str) -> tuple[str, ...]:
        """Options of the compiler that a kernel needs for its launch: its bounds."""
        if kernel not in self.kernels or kernel in FIXED_THREADS:
            return ()
        launch = self.kernels[kernel]
        return (f"-DPEAKS_THREADS={launch.threads}", f"-DPEAKS_RESIDENT={launch.resident}")

    def as_toml(self) -> str:
        """The text of the file for an architecture."""
        lines = []
        for kernel, launch in self.kernels.items():
            lines += [
                f'["{kernel}"]',
                *(f"{each.name} = {getattr(launch, each.name)}" for each in fields(launch)),
                "",
            ]
        if self.waves != WAVES:
            lines += ["[batch]", f"waves = {self.waves}", ""]
        return "\n".join(lines)


@cache
def load(architecture: str, folder: Path = FOLDER) -> Tuning:
    """The tuning of an architecture, such as ``sm_90``; the defaults if there is no file for it.

    Raises
    ------
    ValueError
        The file names an unknown kernel or setting, or a value is out of range.
    """
    path = folder / f"{architecture}.toml"
    if not path.exists():
        return Tuning()
    return from_table(tomllib.loads(path.read_text(encoding="utf-8")), path.name)


def from_table(table: Mapping[str, Any], name: str) -> Tuning:
    """The tuning that a TOML file describes; errors as for `load`."""
    kernels, waves = dict[str, Launch](), WAVES
    for key, values in table.items():
        if key == "batch" and set(values) == {"waves"} and values["waves"] in range(1, 65):
            waves = values["waves"]
        elif key in DEFAULTS and set(values) <= {each.name for each in fields(Launch)}:
            kernels[key] = _checked(key, replace(DEFAULTS[key], **values), name)
        else:
            raise ValueError(f"{name}: [{key}] with {', '.join(values)} is not a setting of a kernel")
    return Tuning(kernels, waves)


def _checked(kernel: str, launch: Launch, name: str) -> Launch:
    threads_are_right = (
        launch.threads == DEFAULTS[kernel].threads
        if kernel in FIXED_THREADS
        else launch.threads in range(32, 1025, 32)
    )
    if not (threads_are_right and launch.resident in range(1, 33) and 0 <= launch.shared <= 1):
        raise ValueError(f"{name}: [{kernel}] cannot be launched as {launch}")
    return launch
