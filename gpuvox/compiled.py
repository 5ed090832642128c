"""How loops are compiled, whether they have been, and the software that decides about bits."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

from numba import njit

from gpuvox import __version__

PACKAGES = ("numpy", "scipy", "numba")
"""What computes; how an image is read changes no bit."""

loop = njit(cache=True, nogil=True, error_model="numpy")
"""For loops that Python calls. Division by zero gives infinity or NaN, as everywhere in numpy."""

inner = njit(  # type: ignore[call-overload]
    cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy"
)
"""For loops that only other compiled loops call: without entry points from Python they compile faster."""


def software() -> dict[str, str]:
    """Versions of all that the bits of a result may depend on."""
    return {
        "gpuvox": __version__,
        **{name: version(name) for name in PACKAGES},
        "machine": platform.machine(),
    }


def is_cached() -> bool:
    """Whether a run has compiled the loops before; the first one ever takes some seconds longer."""
    return any(Path(str(_probe.stats.cache_path)).glob("glm._statistic_maps*.nbi"))


@njit(cache=True)
def _probe():
    """Never called: it knows where the cache is."""
