"""Names of the labels of an image, in the formats of common atlases.

A table with the columns ``index`` and ``name`` (BIDS ``_dseg.tsv``), a FreeSurfer look-up table, an ITK-SNAP label
description, an FSL atlas in XML, or a plain list with a number and a name on each line. The format is recognised by the
content of the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from gpuvox import files
from gpuvox.errors import FileError

AS_FREESURFER = {
    4: "left_lateral-ventricle", 10: "left_thalamus", 11: "left_caudate", 12: "left_putamen", 13: "left_pallidum",
    14: "third-ventricle", 15: "fourth-ventricle", 16: "brainstem", 17: "left_hippocampus", 18: "left_amygdala",
    26: "left_accumbens", 28: "left_ventral-dc", 43: "right_lateral-ventricle", 49: "right_thalamus",
    50: "right_caudate", 51: "right_putamen", 52: "right_pallidum", 53: "right_hippocampus", 54: "right_amygdala",
    58: "right_accumbens", 60: "right_ventral-dc",
}  # fmt: skip
"""Subcortical labels of FreeSurfer's aseg, which FSL FIRST shares."""

Pairs = list[tuple[str, str]]

ITK_SNAP = re.compile(r'(\d+)\s+\d+\s+\d+\s+\d+\s+[\d.]+\s+[01]\s+[01]\s+"(.*)"')
"""IDX, R, G, B, A, visible in slices, visible as a mesh, "LABEL"."""
FREESURFER = re.compile(r"(\d+)\s+(\S+)((?:\s+\d+){3,4})")
"""Number, name without blanks, R, G, B, A."""
PLAIN = re.compile(r"(\d+)[\s,;:]+(\S.*)")
"""Number and name."""


@dataclass(frozen=True)
class Region:
    """The structure and side of a label.

    Attributes
    ----------
    structure : str
        In lower case, with words joined by underscores.
    side : {"left", "right", "none"}
    name : str
        As written in the file.
    """

    structure: str
    side: str
    name: str = field(default="", compare=False)

    @classmethod
    def named(cls, name: str) -> Region:
        """Split a name into structure and side: ``Left-Caudate``, ``L_Thal``, ``caudate_left``, ``ctx-lh-insula`` …"""
        words = re.split(r"[\s_.-]+", name.strip())
        side, rest = "none", words
        for place in (0, len(words) - 1, 1):
            if len(words) > 1 and place < len(words):
                side_of = {
                    "left": "left",
                    "l": "left",
                    "lh": "left",
                    "right": "right",
                    "r": "right",
                    "rh": "right",
                }
                side = side_of.get(words[place].lower(), "none")
                if side != "none":
                    rest = words[:place] + words[place + 1 :]
                    break
        return cls("_".join(rest).lower(), side, name.strip())

    @property
    def title(self) -> str:
        """The name as written in the file."""
        return self.name or (self.structure if self.side == "none" else f"{self.side}_{self.structure}")


def read_regions(path: str | os.PathLike[str] | None) -> dict[int, Region]:
    """Names of the labels.

    Parameters
    ----------
    path : path, optional
        In one of the formats of this module; `AS_FREESURFER` by default.

    Raises
    ------
    FileError
        The format is unknown; an index is not a whole number, or occurs twice; a name is empty.
    """
    if path is None:
        return {number: Region.named(name) for number, name in AS_FREESURFER.items()}
    regions: dict[int, Region] = {}
    for number, name in _pairs(path):
        index = _index(path, number)
        if index in regions:
            raise FileError(f"{path} has the index {number} twice")
        if not name.strip():
            raise FileError(f"{path} has no name for the index {number}")
        regions[index] = Region.named(name)
    regions.pop(0, None)
    return regions


def _index(path: str | os.PathLike[str], number: str) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,18}(\.0*)?\s*", number):
        raise FileError(f"{path} has the index {number!r}; expected a whole number")
    return int(number.strip().partition(".")[0])


def _pairs(path: str | os.PathLike[str]) -> Pairs:
    """Index and name of every label, as text."""
    text = _text(path)
    if text.lstrip().startswith("<"):
        return _of_xml(path, text)
    lines = text.splitlines()
    header = [name.strip().strip('"') for name in re.split(r"[\t,]", lines[0])] if lines else []
    if "index" in header:
        table = files.read_table(path, ["index", "name"])
        return list(zip(table["index"], table["name"]))
    rows = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    forms: tuple[Callable[[Sequence[str]], Pairs], ...] = (_of_itk_snap, _of_freesurfer, _of_list)
    pairs: Pairs = next((parsed for form in forms if (parsed := form(rows))), [])
    if not pairs:
        raise FileError(
            f"{path} is not a table of labels: expected columns index and name, a FreeSurfer look-up table, an "
            "ITK-SNAP label description, an FSL atlas in XML, or lines with a number and a name"
        )
    return pairs


def _of_itk_snap(rows: Sequence[str]) -> Pairs:
    return _all(ITK_SNAP.fullmatch(row) for row in rows)


def _of_freesurfer(rows: Sequence[str]) -> Pairs:
    """Empty if a name is a number: that would be a colour in another kind of table."""
    matches = [FREESURFER.fullmatch(row) for row in rows]
    if any(match is None or match[2].isdigit() or max(map(int, match[3].split())) > 255 for match in matches):
        return []
    return _all(matches)


def _of_list(rows: Sequence[str]) -> Pairs:
    """Empty if a name contains further numbers, whose meaning would be unknown."""
    pairs = _all(PLAIN.fullmatch(row) for row in rows)
    names = [name.strip("\"'") for _, name in pairs]
    if any(re.search(r"(^|[\s,;])[\d.]+($|[\s,;])", name) for name in names):
        return []
    return [(number, name) for (number, _), name in zip(pairs, names)]


def _all(matches: Iterable[re.Match[str] | None]) -> Pairs:
    """Number and name of every row; empty if one is in another format."""
    listed = list(matches)
    return [(match[1], match[2]) for match in listed if match] if all(listed) else []


def _of_xml(path: str | os.PathLike[str], text: str) -> Pairs:
    """An FSL atlas: the summary image of a probabilistic atlas contains index + 1, that of a label atlas the index."""
    root = _parsed(path, text)
    labels = root.findall("./data/label")
    if not labels:
        raise FileError(f"{path} has no label; expected an FSL atlas in XML")
    shift = 1 if _kind(path, root) == "probabilistic" else 0
    pairs = []
    for label in labels:
        index = _index(path, label.get("index", ""))
        pairs.append((str(index + shift), "".join(label.itertext())))
    return pairs


def _parsed(path: str | os.PathLike[str], text: str) -> ElementTree.Element:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise FileError(f"{path} declares entities, which an FSL atlas does not have")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise FileError(f"{path} is not XML: {error}") from None


def _kind(path: str | os.PathLike[str], root: ElementTree.Element) -> str:
    kind = (root.findtext("./header/type") or "").strip().casefold()
    if kind not in ("label", "probabilistic"):
        raise FileError(f"{path} is an atlas of type {kind!r}; expected Label or Probabilistic")
    return kind


def atlas_images(path: str | os.PathLike[str]) -> list[str]:
    """Names of the label images of an FSL atlas in XML: summary images, or those of a label atlas.

    Raises
    ------
    FileError
        The file cannot be read, is not an FSL atlas, or names no image.
    """
    root = _parsed(path, _text(path))
    tags = ("summaryimagefile",) if _kind(path, root) == "probabilistic" else ("summaryimagefile", "imagefile")
    names = [(each.text or "").strip() for tag in tags for each in root.findall(f"./header/images/{tag}")]
    if not any(names):
        raise FileError(f"{path} names no image of labels; expected an FSL atlas in XML")
    return list(dict.fromkeys(filter(None, names)))


def _text(path: str | os.PathLike[str]) -> str:
    try:
        return files.read_bytes(path).decode("utf-8-sig")
    except UnicodeError as error:
        raise FileError(f"{path} cannot be read: {error}") from None


def alike(regions: Mapping[int, Region], there: Iterable[int]) -> dict[str, list[int]]:
    """Labels of an image whose names differ only in case or punctuation, and which are therefore one structure."""
    numbers_of: dict[Region, list[int]] = {}
    for number in sorted(set(there) & set(regions)):
        numbers_of.setdefault(regions[number], []).append(number)
    different = {
        region: numbers for region, numbers in numbers_of.items() if len({regions[n].name for n in numbers}) > 1
    }
    return {f"{region.structure} ({region.side})": numbers for region, numbers in different.items()}
