"""A check, and what differs between two results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvox.device import Device


@dataclass(frozen=True)
class Check:
    """A function of the device (None: the CPU) that must give the same on both.

    Attributes
    ----------
    name : str
    results : callable
        Device → arrays on the host, in dicts and lists.
    tolerance : float
        Relative; 0: bit for bit.
    seconds : float
        What it may take.
    """

    name: str
    results: Callable[[Device | None], Any]
    tolerance: float = 0.0
    seconds: float = 4.0


def differences(expected: Any, found: Any, tolerance: float = 0.0, where: str = "") -> Iterator[str]:
    """What differs, in words."""
    if isinstance(expected, dict):
        if expected.keys() != found.keys():
            yield f"{where}: {sorted(found)} instead of {sorted(expected)}"
            return
        for key, value in expected.items():
            yield from differences(value, found[key], tolerance, f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        if len(expected) != len(found):
            yield f"{where}: {len(found)} instead of {len(expected)}"
        for i, (a, b) in enumerate(zip(expected, found)):
            yield from differences(a, b, tolerance, f"{where}/{i}")
    else:
        yield from array_differences(np.asarray(expected), np.asarray(found), tolerance, where)


def array_differences(a: NDArray, b: NDArray, tolerance: float, where: str) -> Iterator[str]:
    """What differs between two arrays: any bit, or more than a relative tolerance."""
    if a.shape != b.shape or a.dtype != b.dtype:
        yield f"{where}: {b.dtype}{b.shape} instead of {a.dtype}{a.shape}"
        return
    if not np.issubdtype(a.dtype, np.number):
        wrong = np.atleast_1d(a != b)
    elif tolerance:
        wrong = np.atleast_1d(~np.isclose(b, a, rtol=tolerance, atol=0, equal_nan=True))
    else:
        bits = f"u{a.dtype.itemsize}"
        wrong = np.ascontiguousarray(a).reshape(-1).view(bits) != np.ascontiguousarray(b).reshape(-1).view(bits)
    if np.issubdtype(a.dtype, np.floating):
        wrong &= ~np.atleast_1d(np.isnan(a) & np.isnan(b)).reshape(wrong.shape)  # which NaN it is means nothing
    if wrong.any():
        i = int(np.argmax(wrong))
        x, y = np.ravel(a)[i], np.ravel(b)[i]
        yield f"{where}: {int(wrong.sum())} of {wrong.size} differ, first {y!r} instead of {x!r}"
