"""Names of images: FSL's rules, patterns, lists, columns of tables, and the file types for output."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpuvox.errors import FileError
from gpuvox.files.contents import text_lines
from gpuvox.files.missing import EXPECTED, expand, explain_missing
from gpuvox.files.tables import read_table
from gpuvox.files.text import Name
from gpuvox.plain import composed

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".hdr.gz", ".hdr", ".img.gz", ".img")
# Values of FSLOUTPUTTYPE: the suffix of the file with the header, and of the one with the data.
FILE_TYPES = {
    "NIFTI": (".nii", ".nii"),
    "NIFTI_GZ": (".nii.gz", ".nii.gz"),
    "NIFTI_PAIR": (".hdr", ".img"),
    "NIFTI_PAIR_GZ": (".hdr.gz", ".img.gz"),
}


def find_image(name: Name) -> Path:
    """The image of a given name, with or without extension, as in FSL.

    Parameters
    ----------
    name : path
        `data`, `data.nii`, `data.nii.gz`, `data.hdr` or `data.img` (either of them gzipped). A file with exactly this
        name takes precedence; otherwise every extension is tried with the name's stem.

    Returns
    -------
    Path
        The file with the header: the image, or the `.hdr` of a pair.

    Raises
    ------
    FileError
        There is no such image, there are several of that name, or a pair lacks one of its files.
    """
    stem, suffix = split_suffix(name)
    if suffix and os.path.isfile(name):
        return _header_file(stem, suffix)
    suffixes = [s for s in IMAGE_SUFFIXES if os.path.isfile(stem + s) and not s.startswith(".img")]
    if not suffixes:
        looked_for = ", ".join(IMAGE_SUFFIXES[:4])
        there = explain_missing(os.fspath(name), stem, IMAGE_SUFFIXES)
        raise FileError(there or f"there is no image {name}: looked for {stem} with {looked_for}")
    if len(suffixes) > 1:
        raise FileError(f"the image name {name} is ambiguous: there are {_listed(stem + s for s in suffixes)}")
    return _header_file(stem, suffixes[0])


def split_suffix(name: Name) -> tuple[str, str]:
    """A name without its image extension, and the extension ("" if there is none)."""
    text = os.fspath(name)
    suffix = next((s for s in IMAGE_SUFFIXES if text.endswith(s)), "")
    return text.removesuffix(suffix), suffix


def image_files(name: Name) -> tuple[Path, ...]:
    """The files of an image: one, or the `.hdr` and the `.img` of a pair; errors of `find_image`."""
    path = find_image(name)
    stem, suffix = split_suffix(path)
    return (path, Path(stem + suffix.replace("hdr", "img"))) if "hdr" in suffix else (path,)


def image_names(names: Name | Sequence[Name]) -> list[Path]:
    """The images that a name, a pattern, a file of names, a column of a table or a list of names refers to.

    Parameters
    ----------
    names : path or sequence of paths
        One image; a pattern with `*`, `**` (folders of any depth), `?` or `[`, whose matches are sorted by name, as
        in a shell; a `.txt` file with one name on each line, relative to the folder of that file (empty lines and
        lines that start with `#` are skipped); `participants.tsv:column`, a column of a table (TSV or CSV) with names
        relative to the table's folder; or a list of images, whose order is kept.

    Returns
    -------
    list of Path
        As for `find_image`.

    Raises
    ------
    FileError
        Nothing matches, the list is empty, or any error of `find_image`.
    """
    if not isinstance(names, str | os.PathLike):
        paths = [find_image(name) for name in names]
        if not paths:
            raise FileError("the list of images is empty; at least one is expected")
        return paths
    text = os.fspath(names)
    if text.endswith(".txt"):
        return _listed_images(Path(text))
    table, colon, column = text.rpartition(":")
    if colon and table.endswith((".tsv", ".csv")):
        path = Path(table)
        return [
            _image_of_row(path, column, i, name)
            for i, name in enumerate(read_table(path, [column], long=True)[composed(column)], 1)
        ]
    if text.endswith((".tsv", ".csv")):
        raise FileError(
            f"{text} is a table; {text}:COLUMN is expected, where COLUMN holds the names of the images"
        )
    if glob.has_magic(text) and not _is_there(text):
        return _matching_images(text)
    return [find_image(text)]


def are_names(data: Any) -> bool:
    """Whether data are given as the name of a file, or as a list of names."""
    if isinstance(data, list | tuple):
        return bool(data) and all(isinstance(each, str | os.PathLike) for each in data)
    return isinstance(data, str | os.PathLike)


def output_type() -> str:
    """The file type for images: the environment variable FSLOUTPUTTYPE, or NIFTI_GZ if it is not set.

    Raises
    ------
    FileError
        The value is not a supported type.
    """
    value = os.environ.get("FSLOUTPUTTYPE") or "NIFTI_GZ"
    if value not in FILE_TYPES:
        raise FileError(f"FSLOUTPUTTYPE is {value}; it must be one of {', '.join(FILE_TYPES)}")
    return value


def _is_there(name: str) -> bool:
    """Whether an image has exactly this name, with or without extension, so that brackets are not a pattern."""
    return any(os.path.lexists(path) for path in (name, *(split_suffix(name)[0] + s for s in IMAGE_SUFFIXES)))


def _header_file(stem: str, suffix: str) -> Path:
    if suffix.startswith(".nii"):
        return Path(stem + suffix)
    header, data = (stem + suffix.replace(old, new) for old, new in (("img", "hdr"), ("hdr", "img")))
    for missing, other in ((header, data), (data, header)):
        if not os.path.isfile(missing):
            raise FileError(f"the image {other} is half of a pair: {missing} is missing")
    return Path(header)


def _image_of_row(path: Path, column: str, row: int, name: str) -> Path:
    try:
        return find_image(path.parent / name.strip())
    except FileError as error:
        raise FileError(f"{path}, column {column!r} of row {row}: {error}") from None


def _listed_images(path: Path) -> list[Path]:
    lines = [line.strip() for line in text_lines(path)]
    names = [path.parent / line for line in lines if line and not line.startswith("#")]
    if not names:
        raise FileError(f"{path} names no image; one name per line is expected")
    return [find_image(name) for name in names]


def _matching_images(pattern: str) -> list[Path]:
    others: list[str] = []
    for tried in (pattern, f"{pattern}.*"):
        every = list(expand(tried))
        matches = [match for match in every if split_suffix(match)[1]]
        if matches:
            return list(dict.fromkeys(find_image(match) for match in matches))  # both files of a pair match
        others += every
    hint = f"; {others[0]} does, which is not in a supported format: {EXPECTED}" if others else ""
    raise FileError(f"no image matches {pattern}{hint}")


def _listed(names: Iterator[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}"
