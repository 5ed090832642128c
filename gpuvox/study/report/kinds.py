"""What the statistic of a voxelwise test is: t, which has a direction, or F, which has none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuvox import files
from gpuvox.study.report.contents import Contents, read_json

KINDS = ("t", "F")
INTENTS = {3: "t", 4: "F"}
"""NIfTI's codes of intent of a t and an F statistic."""


def kind_of(test: Contents) -> str:
    """The kind of statistic of a test, from its records; t if none of them states it.

    Consulted, in this order: `kind` of the test, the intent of its image, the record of ``gpuvox randomise`` beside the
    image, and `df` (an F statistic has two). The name of the image is ignored.

    Parameters
    ----------
    test : Contents
        An entry of ``tests``.

    Raises
    ------
    FileError
        `kind` is neither t nor F, or two sources contradict each other.
    """
    stated = test.get("kind", "")
    if stated and stated not in KINDS:
        raise test.error("kind", f"is {json.dumps(stated, ensure_ascii=False)}; expected {' or '.join(KINDS)}")
    name = test.need("statistic", str)
    path = test.located("statistic", name)
    kind_by_source = {
        "kind": stated,
        f"the header of {name}": _intent(test, path),
        "the record beside it": _record(test, path),
        "df": _by_df(test.values.get("df")),
    }
    said = {source: kind for source, kind in kind_by_source.items() if kind}
    (first, kind), *others = said.items() or [("", "t")]
    for source, other in others:
        if other != kind:
            raise test.error(
                "statistic", f"is {kind} by {first}, and {other} by {source}; expected the same of both"
            )
    return kind


def _intent(test: Contents, path: Path) -> str:
    """What the header says; an Analyze image has no intent."""
    with test.reading("statistic"):
        nifti = files.read_header(path).nifti
    return INTENTS.get(int(nifti["intent_code"]), "") if "intent_code" in nifti else ""


def _record(test: Contents, path: Path) -> str:
    """Kind of statistic according to ``<root>_randomise.json`` beside an image; empty if it does not list the image."""
    for record in sorted(path.parent.glob("*_randomise.json")):
        if not path.name.startswith(record.name.removesuffix("randomise.json")):
            continue
        test.located("statistic", str(record.absolute()))
        with test.reading("statistic"):
            about = read_json(record)
        kind = _listed(about, path.name)
        if kind:
            return kind
    return ""


def _listed(about: Any, name: str) -> str:
    maps = about.get("maps") if isinstance(about, Mapping) else None
    entry = maps.get(name) if isinstance(maps, Mapping) else None
    kind = entry.get("statistic") if isinstance(entry, Mapping) and entry.get("scale") == "statistic" else None
    return kind if kind in KINDS else ""


def _by_df(df: Any) -> str:
    return "F" if isinstance(df, list) and len(df) == 2 else ""
