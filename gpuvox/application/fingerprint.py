"""The identity of a run: the content of its files, its options and the software.

A fingerprint is a `checkpoint.Run`. Nothing that does not change results belongs in it: threads, batches, file names,
the choice of outputs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np

from gpuvox import files, private
from gpuvox.analysis import Inputs, Options
from gpuvox.application.command import ImageSource
from gpuvox.application.inputs import PreparedRun, permutation_file
from gpuvox.checkpoint import Run, RunIdentity
from gpuvox.errors import UsageError
from gpuvox.files import hash_file
from gpuvox.jit import software
from gpuvox.scratch import Data, Tiles
from gpuvox.types import AnyArray

NOT_IN_FINGERPRINT = ("threads", "device", "workers", "permutations", "scratch")
"""Fields of `Options` that do not change results, or that are compared as files."""

NAMES = {
    "n_permutations": "-n", "seed": "--seed", "flip": "-1 or --ise", "permute_and_flip": "--ee with --ise",
    "repeats": "--cmcp", "distinct_rows": "--cmcx", "demean": "-D", "nuisance": "-U",
    "whole_blocks": "--permuteBlocks", "detect_null": "--detectNull", "f_only": "--fonly", "only_test": "--skipTo",
    "variance_mm": "-v", "statistics.voxel": "-x", "statistics.tfce": "-T", "statistics.tfce.H": "--tfce_H",
    "statistics.tfce.E": "--tfce_E", "statistics.tfce.connectivity": "--tfce_C", "statistics.tfce.delta": "--tfce_D",
    "statistics.tfce.exact": "--tfce-exact", "statistics.tfce.rule": "Tfce.rule", "statistics.extent": "-c",
    "statistics.mass": "-C",
    "statistics.uncorrected": "--uncorrp", "statistics.two_pass": "--twopass", "f_statistics.extent": "-F",
    "f_statistics.mass": "-S", "statistics.two_sided": "--two-sided", "joint_steps": "--across-tests",
    "tail": "--tail", "tail.method": "--tail",
    "missing_voxels": "--missing voxelwise", "variance_groups": "--variance-groups",
}  # fmt: skip
"""Options of the command, by the field that they set; a field that only Python sets has the name of the setting."""

Hashes = dict[str, list[list[str]]]
"""Option → name and SHA-256 of each of its files."""


def fingerprint(hashes: Hashes, options: Options, more: Mapping[str, Any] | None = None) -> Run:
    """The fingerprint of a run.

    Parameters
    ----------
    hashes : dict
        See `Hashes`.
    options : Options
    more : dict, optional
        Further options that change results, by name.
    """
    run = {
        "software": software(),
        "files": hashes,
        "options": _named(options) | dict(more or {}),
    }
    # As it will be read again: lists instead of tuples.
    return json.loads(json.dumps(run, allow_nan=False, default=lambda value: value.item()))


def _named(options: Options) -> dict[str, Any]:
    """Value of each option that changes results."""
    flat: dict[str, Any] = {}
    for field in fields(options):
        if field.name not in NOT_IN_FINGERPRINT:
            flat |= _flat(field.name, getattr(options, field.name))
    named = {}
    for name, value in flat.items():
        t = name.removeprefix("f_")
        if name in NAMES or t not in NAMES:
            named[NAMES.get(name, name)] = value
        elif flat.get(t) != value:  # for F, not t
            named[f"{NAMES[t]} of F tests"] = value
    if not (options.statistics.is_portable and options.f_statistics.is_portable):
        named["--device"] = "cpu" if options.device is None else "cuda"
    return named


def _flat(name: str, value: Any) -> dict[str, Any]:
    if is_dataclass(value):
        flat = {name: True} if name.endswith("tfce") else {}
        for field in fields(value):
            flat |= _flat(f"{name}.{field.name}", getattr(value, field.name))
        return flat
    if name.endswith("tfce"):
        return {name: False}
    return {name: value.value if isinstance(value, Enum) else value}


def hash_inputs(inputs: Inputs, options: Options) -> Hashes:
    """Names and SHA-256 of the arrays of an analysis."""
    return {name: [[name, _hash(array)]] for name, array in _arrays(inputs, options).items()}


def _arrays(inputs: Inputs, options: Options) -> dict[str, Data | AnyArray | Sequence[float]]:
    arrays: dict[str, Data | AnyArray | Sequence[float] | None] = {
        "data": inputs.data, "mask": inputs.grid.mask, "voxel size": inputs.grid.voxel_size,
        "design": inputs.design, "contrasts": inputs.contrasts, "f_tests": inputs.f_tests,
        "blocks": inputs.blocks, "effective_design": inputs.effective_design,
    }  # fmt: skip
    arrays |= {f"voxelwise {column}": ev for column, ev in inputs.evs.items()}
    arrays |= {f"permutations {name}": table for name, table in (options.permutations or {}).items()}
    return {name: array for name, array in arrays.items() if array is not None}


def hash_sources(run: PreparedRun) -> Hashes:
    """Names and SHA-256 of the sources of a run, by option: of files, or of other sources as arrays.

    Parameters
    ----------
    run : PreparedRun
        With its images, unless all of them are files.

    Raises
    ------
    FileError
        A file cannot be read.
    """
    description = run.description
    hashes: Hashes = {
        "-i": _hash_images([description.data], run, "data", "mask", "voxel size"),
        "--vxf": _hash_images(list(run.evs.values()), run, *(f"voxelwise {column}" for column in run.evs)),
        "-m": [] if description.mask is None else _hash_images([description.mask], run, "mask"),
    }
    for option, name in MATRICES.items():
        source = getattr(description, name)
        if source is not None:
            is_file = isinstance(source, str | os.PathLike)
            hashes[option] = _hash_files([source]) if is_file else _hash_arrays(run, name)
    permutations = run.analysis.options.permutations
    if description.permutations:
        tests = [prepared.test.name for prepared in run.analysis.tests]
        n_contrasts = len(run.analysis.inputs.contrasts)
        hashes["--permutations"] = _hash_files(
            [permutation_file(description.permutations, test, n_contrasts) for test in tests]
        )
    elif permutations is not None:
        hashes["--permutations"] = _hash_arrays(run, *(f"permutations {name}" for name in permutations))
    return hashes


MATRICES = {
    "-d": "design", "-t": "contrasts", "-f": "f_tests", "-e": "blocks", "--effective_design": "effective_design",
}  # fmt: skip
"""Options of the command, by the field of a description."""


def _hash_images(sources: Sequence[ImageSource], run: PreparedRun, *names: str) -> list[list[str]]:
    """Hashes of images that are files; if one of them is not, hashes of the arrays."""
    if not all(files.are_names(source) for source in sources):
        return _hash_arrays(run, *names)
    return _hash_files(
        [path for source in sources for name in files.image_names(source) for path in files.image_files(name)]
    )


def _hash_files(paths: Sequence[files.Name]) -> list[list[str]]:
    return [[os.fspath(path), hash_file(path)] for path in paths]


def _hash_arrays(run: PreparedRun, *names: str) -> list[list[str]]:
    arrays = _arrays(run.analysis.inputs, run.analysis.options)
    return [[name, _hash(arrays[name])] for name in names if name in arrays]


def identify(run: PreparedRun, hashes: Hashes) -> RunIdentity:
    """The identity of a run, for its checkpoint.

    Raises
    ------
    UsageError
        The run is a shard but has no permutations.
    """
    description = run.description
    counts = run.analysis.permutation_counts()
    if description.shard and not counts:
        raise UsageError("--shard: nothing is permuted without -x, -T, -c, -C, -F or -S", option="--shard")
    more = {
        "--norcmask": description.keep_constant,
        "--vxl": tuple(column for column, _ in description.voxelwise),
    }
    named: Hashes = {
        option: [[private.brief(name, description.folder), digest] for name, digest in each]
        for option, each in hashes.items()
    }
    return RunIdentity(
        fingerprint(named, run.analysis.options, more), counts,
        tuple(private.relative_to_current_folder(description.line[1:])), description.shard,
    )  # fmt: skip


def _hash(array: Data | AnyArray | Sequence[float]) -> str:
    if isinstance(array, Tiles):
        # Row by row, as in a contiguous array.
        digest = hashlib.sha256(f"{np.dtype(np.float32).str} {array.shape}".encode())
        for row in range(array.shape[0]):
            digest.update(np.ascontiguousarray(array.block(slice(row, row + 1), slice(None))).data)
        return digest.hexdigest()
    values = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{values.dtype.str} {values.shape}".encode())
    digest.update(values.data)
    return digest.hexdigest()
