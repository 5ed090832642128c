"""Explanations for an image that cannot be found under its name."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence

EXPECTED = "NIfTI images end in .nii.gz, .nii, or .hdr and .img"


def explain_missing(name: str, stem: str, suffixes: Sequence[str]) -> str:
    """A sentence on why an image is not found; empty if nothing like it exists.

    Parameters
    ----------
    name : str
        The image as it was requested.
    stem : str
        The same without its image extension.
    suffixes : sequence of str
        Image extensions.
    """
    for path in (name, *(stem + suffix for suffix in suffixes)):
        if os.path.islink(path) and not os.path.exists(path):
            return f"{path} is a link to {os.readlink(path)}, which does not exist"
        if os.path.isdir(path):
            return f"{path} is a folder; the name of an image, or a pattern such as {path}/*.nii.gz, is expected"
        if os.path.exists(path) and not os.path.isfile(path):
            return f"{path} is neither a file nor a folder; an image is expected"
    if os.path.isfile(name):
        return f"{name} is not in a supported format: {EXPECTED}"
    folder = os.path.dirname(stem) or "."
    if not os.path.isdir(folder):
        return _no_folder(name, folder)
    try:
        return _alike(name, folder, os.path.basename(stem), os.path.basename(name), suffixes)
    except OSError as error:
        return f"the image {name} cannot be searched for: the folder {folder} cannot be read ({error.strerror})"


def _no_folder(name: str, folder: str) -> str:
    """The first folder of the path that does not exist."""
    parent = os.path.dirname(folder)
    while parent and not os.path.isdir(parent):
        folder, parent = parent, os.path.dirname(parent)
    kind = f"{folder} is not a folder" if os.path.exists(folder) else f"there is no folder {folder}"
    return f"there is no image {name}: {kind}"


def _alike(name: str, folder: str, stem: str, base: str, suffixes: Sequence[str]) -> str:
    """A file whose name differs in capitals, in blanks at its ends, or in the way it is packed."""
    present = sorted(os.listdir(folder))
    spellings = {text.strip().casefold() for text in (base, *(stem.strip() + suffix for suffix in suffixes))}
    for other in present:
        if other.strip().casefold() in spellings:
            blank = "" if other == other.strip() and name == name.strip() else " (including a blank at the end)"
            return f"there is no image {name!r}, but {other!r} in {folder}: give the name in this spelling{blank}"
    packed = tuple(f"{stem}{suffix}." for suffix in ("", ".nii"))
    for other in present:
        if stem and other.startswith(packed) and not other.endswith((".json", ".txt", ".tsv", ".csv")):
            return f"there is no image {name}, but {other} in {folder}, which is not in a supported format: {EXPECTED}"
    return ""


def expand(pattern: str) -> Iterator[str]:
    """Files that match a pattern, sorted by name; ``**`` matches folders of any depth.

    If a folder has exactly the name that stands in the pattern, brackets included, its name is not a pattern.
    """
    done, rest = "", pattern
    prefix = ""
    for part in pattern.split(os.sep)[:-1]:
        literal = done + part + os.sep
        if not os.path.isdir(literal):
            break
        done, prefix, rest = literal, prefix + glob.escape(part) + os.sep, pattern[len(literal) :]
    yield from sorted(glob.glob(prefix + rest, recursive=True))
