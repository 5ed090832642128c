"""What the client and its workers send each other.

A test is sent without its data and its device: `make_recipe` takes a model apart and `rebuild_model` puts it together
on a worker. `permtest.hash_first_maps` is how both sides see that they compute the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from gpuvox.device import Device
from gpuvox.errors import DistributedError
from gpuvox.gathering import Gatherer
from gpuvox.glm import DeviceModel
from gpuvox.permtest import ObservedTest
from gpuvox.scratch import Data, block
from gpuvox.tally import BlockResult
from gpuvox.types import AnyArray

SMALL_INTEGERS = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32)
"""Types in which counts and sums are sent; the smallest that fits is chosen."""


class UnreadableData(Exception):
    """A worker does not find the images; the client then sends it the data."""


@dataclass(frozen=True)
class Images:
    """The image files of an analysis, for workers that can read the same files.

    Attributes
    ----------
    data : tuple of str
        Absolute names of the data's images.
    evs : dict of int to tuple of str
        Column of the design, from 0 → absolute names of the images of its voxelwise EV.
    hashes : tuple of (str, str)
        Absolute name and SHA-256 of every file.
    """

    data: tuple[str, ...]
    evs: Mapping[int, tuple[str, ...]]
    hashes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Arrays:
    """Masked data, and voxelwise EVs by column; (n, V) each."""

    data: Data
    evs: Mapping[int, Data]


@dataclass(frozen=True, eq=False)
class DataSource:
    """Where a worker gets the data: from image files, or from the arrays sent along."""

    images: Images | None = None
    arrays: Arrays | None = None


@dataclass(frozen=True, eq=False)
class ModelRecipe:
    """A model without its data and its device: its class, and the other arguments of its constructor."""

    kind: type
    arguments: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Job:
    """A test as it is sent to workers.

    Attributes
    ----------
    observed : ObservedTest
        Its model is a `ModelRecipe`.
    device : str
        Name of the devices that workers use; see `cuda.resolve_all`.
    first_maps : str
        Hash of the maps of the first permutations, as the client computed them; see `permtest.hash_first_maps`.
    software : dict of str to str
        Package → version, on the client.
    devices : dict of str to str
        Address of a worker → name of the devices that it uses, for workers that share those of their machine.
    gatherer : Gatherer, optional
        Finds something of every permutation, which is sent back with its results; emptied.
    """

    observed: ObservedTest
    device: str
    first_maps: str
    software: Mapping[str, str]
    devices: Mapping[str, str] = field(default_factory=dict)
    gatherer: Gatherer | None = None


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker reports about itself.

    Attributes
    ----------
    threads : int
    processors : int
        Number of multiprocessors of its GPUs; 0 without a GPU.
    device : str
        Titles of its devices.
    software : dict of str to str
        Package → version.
    host : str
        Name of its machine.
    devices : tuple of (str, str, int)
        Name, place in the machine and number of multiprocessors of every GPU that it may use.
    """

    threads: int
    processors: int
    device: str
    software: Mapping[str, str]
    host: str = ""
    devices: tuple[tuple[str, str, int], ...] = ()


def in_memory(arrays: Arrays) -> Arrays:
    """The same arrays in memory, ready to be sent: tiles may be in a file that only this process can read."""
    everything = slice(None), slice(None)
    return Arrays(block(arrays.data, *everything), {c: block(ev, *everything) for c, ev in arrays.evs.items()})


def make_recipe(model: Any) -> ModelRecipe:
    """Take a model apart: everything but its data, its voxelwise EVs and its device; also one within another."""
    left_out = ("data", "evs", "device")
    arguments = {f.name: getattr(model, f.name) for f in fields(model) if f.init and f.name not in left_out}
    within = {name: make_recipe(value) for name, value in arguments.items() if isinstance(value, DeviceModel)}
    return ModelRecipe(type(model), arguments | within)


def rebuild_model(recipe: ModelRecipe, arrays: Arrays, device: Device | None) -> Any:
    """Make a model on this machine's device (None: the CPU)."""
    within = {
        name: rebuild_model(value, arrays, device)
        for name, value in recipe.arguments.items()
        if isinstance(value, ModelRecipe)
    }
    if within:
        return recipe.kind(**{**recipe.arguments, **within})
    evs = {"evs": arrays.evs} if arrays.evs else {}
    return recipe.kind(data=arrays.data, device=device, **evs, **recipe.arguments)


def check_software(worker: str, installed: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Make sure that a worker has the same versions of the packages that compute as the client has.

    Parameters
    ----------
    worker : str
        The worker, as the error calls it.
    installed, expected : dict of str to str
        Package → version, on the worker and on the client.

    Raises
    ------
    DistributedError
        A version differs.
    """
    for name, version in expected.items():
        if installed.get(name) != version:
            raise DistributedError(
                f"{worker} has {name} {installed.get(name)}, and the client {version}: the bits could differ; install "
                "the same"
            )


def pack(result: BlockResult) -> BlockResult:
    """The same result with counts and integer sums in the smallest type that holds them."""

    def smallest(values: AnyArray) -> AnyArray:
        if not np.issubdtype(values.dtype, np.integer):
            return values
        low, high = values.min(initial=0), values.max(initial=0)
        fits = (t for t in SMALL_INTEGERS if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
        return values.astype(next(fits, np.int64))

    return _converted(result, smallest)


def unpack(result: BlockResult) -> BlockResult:
    """The same result with all integers as int64."""
    return _converted(result, lambda v: v.astype(np.int64) if np.issubdtype(v.dtype, np.integer) else v)


def _converted(result: BlockResult, convert: Callable[[AnyArray], AnyArray]) -> BlockResult:
    below, total, nonzero = (
        {kind: convert(v) for kind, v in maps.items()} for maps in (result.below, result.total, result.nonzero)
    )
    gathered = [(numbers, {kind: convert(v) for kind, v in found.items()}) for numbers, found in result.gathered]
    return BlockResult(result.start, result.stop, result.maxima, below, total, nonzero, gathered)


def absolute(names: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Absolute file names, which other processes on the same file system can open."""
    return tuple(os.path.abspath(name) for name in names)
