"""How loops are compiled, and whether they have been."""

from __future__ import annotations

from pathlib import Path

from numba import njit

loop = njit(cache=True, nogil=True, error_model="numpy")
"""For loops that Python calls. Division by zero gives infinity or NaN, as everywhere in numpy."""

inner = njit(  # type: ignore[call-overload]
    cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy"
)
"""For loops that only other compiled loops call: without entry points from Python they compile faster."""


def is_cached() -> bool:
    """Whether a run has compiled the loops before; the first one ever takes some seconds longer."""
    return any(Path(str(_probe.stats.cache_path)).glob("glm._statistic_maps*.nbi"))


@njit(cache=True)
def _probe():
    """Never called: it knows where the cache is."""
