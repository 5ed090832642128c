"""What makes two runs one run: the content of their files, their options, the software.

A fingerprint is a `checkpoint.Run`. Nothing that leaves the bits alone belongs in it: threads, batches, names of files,
which maps are written.
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

from gpuvox.analysis import Inputs, Options
from gpuvox.checkpoint import Run
from gpuvox.files import hash_file
from gpuvox.jit import software
from gpuvox.scratch import Tiles

NO_MATTER = ("threads", "device", "workers", "permutations", "scratch")
"""Fields of `Options` that change no bit, or that are compared as files."""

NAMES = {
    "n_permutations": "-n", "seed": "--seed", "flip": "-1", "demean": "-D", "nuisance": "-U",
    "whole_blocks": "--permuteBlocks", "detect_null": "--detectNull", "f_only": "--fonly", "only_test": "--skipTo",
    "variance_mm": "-v", "statistics.voxel": "-x", "statistics.tfce": "-T", "statistics.tfce.H": "--tfce_H",
    "statistics.tfce.E": "--tfce_E", "statistics.tfce.connectivity": "--tfce_C", "statistics.tfce.delta": "--tfce_D",
    "statistics.tfce.exact": "--tfce-exact", "statistics.extent": "-c", "statistics.mass": "-C",
    "statistics.uncorrected": "--uncorrp", "statistics.two_pass": "--twopass", "f_statistics.extent": "-F",
    "f_statistics.mass": "-S",
}  # fmt: skip
"""Options of the command by the fields they set."""

Hashes = dict[str, list[list[str]]]
"""Option → name and SHA-256 of each of its files."""


def fingerprint(hashes: Hashes, options: Options, more: Mapping[str, Any] | None = None) -> Run:
    """What makes a run this run.

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
    # As it will be read again: lists for tuples.
    return json.loads(json.dumps(run, allow_nan=False, default=lambda value: value.item()))


def _named(options: Options) -> dict[str, Any]:
    """Value of each option that changes results."""
    flat: dict[str, Any] = {}
    for field in fields(options):
        if field.name not in NO_MATTER:
            flat |= _flat(field.name, getattr(options, field.name))
    named = {}
    for name, value in flat.items():
        t = name.removeprefix("f_")
        if name in NAMES or t not in NAMES:
            named[NAMES.get(name, name)] = value
        elif flat.get(t) != value:  # asked of F, and not of t
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


def hash_files(named: Mapping[str, Sequence[str | os.PathLike[str]]]) -> Hashes:
    """Names and SHA-256 of the files of each option."""
    return {option: [[os.fspath(path), hash_file(path)] for path in paths] for option, paths in named.items()}


def hash_inputs(inputs: Inputs, options: Options) -> Hashes:
    """The same of arrays, for a run from Python."""
    arrays: dict[str, Any] = {
        "data": inputs.data, "mask": inputs.grid.mask, "voxel size": inputs.grid.voxel_size,
        "design": inputs.design, "contrasts": inputs.contrasts, "f_tests": inputs.f_tests,
        "blocks": inputs.blocks, "effective_design": inputs.effective_design,
    }  # fmt: skip
    arrays |= {f"voxelwise {column}": ev for column, ev in inputs.evs.items()}
    arrays |= {f"permutations {name}": table for name, table in (options.permutations or {}).items()}
    return {name: [[name, _hash(array)]] for name, array in arrays.items() if array is not None}


def _hash(array: Any) -> str:
    if isinstance(array, Tiles):
        # Row by row, as an array in memory lies.
        digest = hashlib.sha256(f"{np.dtype(np.float32).str} {array.shape}".encode())
        for row in range(array.shape[0]):
            digest.update(np.ascontiguousarray(array.block(slice(row, row + 1), slice(None))).data)
        return digest.hexdigest()
    values = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{values.dtype.str} {values.shape}".encode())
    digest.update(values.data)
    return digest.hexdigest()
