"""Voxelwise permutation inference for neuroimaging, with the options, files and results of FSL randomise.

``gpuvox.voxelwise`` runs an analysis from a table of participants, images and a formula, ``gpuvox.randomise`` one
from a design and contrasts, ``gpuvox.palm`` one with the options of PALM; ``gpuvox.clusters`` and ``gpuvox.report``
show what a finished run found, ``gpuvox.study`` is a whole study, and ``gpuvox.nilearn`` has nilearn's permutation
tests by name. ``gpuvox.PermutationTest`` is the engine beneath, arrays only.
Names are imported when they are first used, so that ``import gpuvox`` costs nothing.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Glm": "glm",
    "Grid": "grid",
    "PermutationTest": "permtest",
    "Permutations": "shuffle",
    "Shuffler": "shuffle",
    "Statistics": "permtest",
    "Tfce": "tfce",
    "clusters": "front_door",
    "palm": "cli.palm",
    "partition": "partitioning",
    "randomise": "application.api",
    "report": "front_door",
    "run": "executors",
    "voxelwise": "application.voxelwise.api",
}

_MODULES = ("nilearn", "study")

__all__ = ["__version__", *_HOMES, *_MODULES]


def _version() -> str:
    """Version of the installation; of a copy that was never installed it is not known."""
    from importlib import metadata

    try:
        return metadata.version("gpuvox")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        globals()[name] = _version()
        return globals()[name]
    if name in _MODULES:
        return import_module(f"gpuvox.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'gpuvox' has no attribute {name!r}")
    return getattr(import_module(f"gpuvox.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
