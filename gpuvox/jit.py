"""How loops are compiled, whether compiled loops are cached, and the versions that determine the bits of results."""

from __future__ import annotations

import multiprocessing
import os
import platform
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from gpuvox import __version__
from gpuvox.errors import CacheWarning
from gpuvox.runtime import caches
from gpuvox.runtime.elsewhere import ignoring_local_file

F = TypeVar("F", bound=Callable[..., Any])

SETTINGS = ".numba_config.yaml"
"""File in the current folder from which numba would read settings."""

with ignoring_local_file(SETTINGS):
    import numba
    from numba import types
    from numba.core.caching import UserProvidedCacheLocator, UserWideCacheLocator
    from numba.core.compiler import Compiler

__all__ = [
    "WHY_NOT_KEPT",
    "cgutils",
    "checked",
    "inner",
    "intrinsic",
    "is_cached",
    "loop",
    "part",
    "small",
    "software",
    "types",
]

_config: Any = numba.config
cgutils: Any = numba.core.cgutils
_user_wide: Any = UserWideCacheLocator
_user_provided: Any = UserProvidedCacheLocator
_config._config_fname = os.devnull  # it would be read again whenever a loop is compiled

PACKAGES = ("numpy", "scipy", "numba")
"""Packages that compute. How an image is read does not change any bit."""


def _numba_folders() -> list[tuple[Path, Path | None]]:
    """Candidate folders for numba's cache of this package, in order, each with the folder of sources it lies beside."""
    locators: list[Any] = [_user_wide(_numba_folders, __file__)]
    if _config.CACHE_DIR:
        locators.insert(0, _user_provided(_numba_folders, __file__))
    folders: list[tuple[Path, Path | None]] = [(Path(each.get_cache_path()), None) for each in locators]
    here = Path(__file__).parent
    return [*folders[:-1], (here / "__pycache__", here), folders[-1]]


def _why_not_kept() -> str:
    """The reason why compiled loops are neither saved nor loaded; empty if they are."""
    advice = "set NUMBA_CACHE_DIR to a folder of your own"
    for folder, beside in _numba_folders():
        if caches.make(folder):
            reason = caches.why_untrusted(folder, beside or "")
            return f"compiled loops are not kept because {reason}; {advice}" if reason else ""
    return f"compiled loops are not kept because there is no folder that can be written; {advice}"


WHY_NOT_KEPT = _why_not_kept()
"""The reason why every run compiles the loops again; empty if they are cached."""


def _warn(text: str) -> None:
    if multiprocessing.parent_process() is None:  # otherwise the client warns
        warnings.warn(CacheWarning(text), stacklevel=3)


if WHY_NOT_KEPT:
    _warn(WHY_NOT_KEPT)
if _config.DISABLE_JIT:
    _config.DISABLE_JIT = 0  # here and not around our functions, for numba compiles its own in the same way
    _warn("NUMBA_DISABLE_JIT is ignored: gpuvox's loops are correct only when they are compiled")


LOOPS = (
    "ascent",
    "block_tree",
    "cluster",
    "correlation",
    "descent",
    "f_to_z",
    "glm_loops",
    "levels",
    "missing_loops",
    "normal_scores",
    "own_steps",
    "products",
    "qmri",
    "reductions",
    "regression_methods",
    "shuffle",
    "smooth",
    "tfce",
    "variance_groups_loops",
    "vectors",
    "voxelwise_loops",
    "z_tables",
)
"""Modules with compiled loops. They call each other's: what is kept of one is good for these versions of all."""


def _stamp() -> tuple[tuple[str, float, int], ...]:
    """Name, time of change and size of every module with compiled loops."""
    states = [(name, (Path(__file__).parent / f"{name}.py").stat()) for name in LOOPS]
    return tuple((name, state.st_mtime, state.st_size) for name, state in states)


_STAMP = _stamp()


def _njit(**options: Any) -> Callable[[F], F]:
    """numba's, with a cache if it can be trusted."""
    njit: Any = numba.njit
    decorator: Callable[[F], Any] = njit(cache=not WHY_NOT_KEPT, **options)

    def compiled(function: F) -> F:
        loop = decorator(function)
        if not WHY_NOT_KEPT and function.__module__.startswith("gpuvox."):
            # numba looks at the module of a loop alone, and would keep an old version of what it calls elsewhere.
            loop._cache._cache_file._source_stamp = _STAMP
        result: F = loop
        return result

    return compiled


intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.extending.intrinsic
"""For functions that write instructions of the compiler; called without the compiler's context."""


loop = _njit(nogil=True, error_model="numpy")
"""For loops that Python calls. Division by zero gives infinity or NaN, as everywhere in numpy."""


_compiler: Any = Compiler


class _LittleOptimised(_compiler):  # type: ignore[misc]
    """numba's compiler, but loops are not turned into vectors until they are optimised again in what calls them."""

    def compile_extra(self, func: Callable[..., Any]) -> Any:
        before = _config.OPT, _config.LOOP_VECTORIZE, _config.SLP_VECTORIZE
        _config.OPT, _config.LOOP_VECTORIZE, _config.SLP_VECTORIZE = type(_config.OPT)(1), 0, 0
        try:  # nobody else compiles: numba has a lock for that
            return super().compile_extra(func)
        finally:
            _config.OPT, _config.LOOP_VECTORIZE, _config.SLP_VECTORIZE = before


inner = _njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")
"""For loops that only other compiled loops call: without Python entry points they compile faster."""

part = _njit(
    nogil=True,
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
    error_model="numpy",
    pipeline_class=_LittleOptimised,
)
"""Like `inner`, for what is not made of vectors, or of explicit ones (`vectors`)."""

checked = _njit(nogil=True)
"""For loops that Python calls, in which division by zero is an error."""

small = _njit(nogil=True, pipeline_class=_LittleOptimised)
"""Like `checked`, for loops over the rows of a design: to compile them takes longer than to run them."""


def software() -> dict[str, str]:
    """Versions of everything that the bits of a result may depend on."""
    return {
        "gpuvox": __version__,
        **{name: version(name) for name in PACKAGES},
        "machine": platform.machine(),
    }


def is_cached() -> bool:
    """Whether the loops have been compiled before; the very first run takes longer."""
    probe: Any = _probe
    return not WHY_NOT_KEPT and any(Path(str(probe.stats.cache_path)).glob("products.statistic_maps*.nbi"))


@_njit()
def _probe() -> None:
    """Never called; tells where the cache is."""
