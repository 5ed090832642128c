"""The description of a study, ``study.json``, read key by key, so that an error can name the key."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from gpuvox.errors import FileError, InputError
from gpuvox.files import MOST_SETTINGS, image_files, read_bytes, split_suffix
from gpuvox.study.ledger import Ledger
from gpuvox.study.report.own import way_out

Kind = TypeVar("Kind", str, int, float, list, dict)
EXPECTED = {
    str: "text", int: "a whole number", float: "a number", list: "a list in square brackets",
    dict: "an object in braces",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Contents:
    """An object of ``study.json``, with its position.

    Attributes
    ----------
    values : dict
    folder : Path
        Folder to which paths are relative.
    where : str
        The object's key, as in ``tests[2]``; empty for the whole file.
    origin : str
        Name of the file.
    within : Path, optional
        Folder that must contain every file, after resolving links; `folder` by default.
    own : Ledger, optional
        Ledger of a study that the user ran here, whose files may be read wherever they are.
    """

    values: Mapping[str, Any]
    folder: Path
    where: str = ""
    origin: str = "study.json"
    within: Path | None = None
    own: Ledger | None = None

    def key(self, name: str) -> str:
        """Full name of a key, as in ``tests[2].null``."""
        return f"{self.where}.{name}" if self.where else name

    def error(self, name: str, message: str) -> FileError:
        """An error about a key."""
        return FileError(f"{self.origin}: {self.key(name)} {message}")

    def get(self, name: str, default: Kind) -> Kind:
        """Value of an optional key, of the type of the default."""
        value = self.values.get(name)
        return default if value is None else self._checked(name, value, type(default))

    def need(self, name: str, kind: type[Kind]) -> Kind:
        """Value of a required key, which must not be empty."""
        value = self.values.get(name)
        if value is None or value == "":
            raise self.error(name, f"is missing; expected {EXPECTED[kind]}")
        return self._checked(name, value, kind)

    def _checked(self, name: str, value: Any, kind: type[Kind]) -> Kind:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(name, f"is {json.dumps(value, ensure_ascii=False)}; expected {EXPECTED[kind]}")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(name, f"is {value}; expected a finite number")
        return value

    def number(self, name: str) -> float | None:
        """A number, or None if the key is missing."""
        return None if self.values.get(name) is None else self.need(name, float)

    def texts(self, name: str) -> list[str]:
        """A list of texts, empty if the key is missing."""
        texts = self.get(name, [])
        for value in texts:
            self._checked(name, value, str)
        return texts

    def part(self, name: str) -> Contents:
        """An object within this one, empty if the key is missing."""
        return replace(self, values=self.get(name, {}), where=self.key(name))

    def parts(self, name: str) -> list[Contents]:
        """A list of objects, empty if the key is missing."""
        parts = []
        for number, value in enumerate(self.get(name, [])):
            where = f"{name}[{number}]"
            parts.append(replace(self, values=self._checked(where, value, dict), where=self.key(where)))
        return parts

    def file(self, name: str) -> Path | None:
        """Path of a file, which must exist; None if the key is missing or empty."""
        filename = self.get(name, "")
        return self.located(name, filename) if filename else None

    def located(self, name: str, filename: str) -> Path:
        """Path of a file that a key names.

        Raises
        ------
        FileError
            The file does not exist, or is outside the folder from which the study may be read, also through a link.
        """
        path = self.folder / filename
        self._check_within(name, filename, path)
        if not path.is_file():
            raise self.error(name, f"names {filename}, and there is no file {path}")
        if split_suffix(path)[1]:
            for each in image_files(path):
                self._check_within(name, filename, each)
        return path

    def _check_within(self, name: str, filename: str, path: Path) -> None:
        within, real = self.within or self.folder, Path(os.path.realpath(path))
        if real.is_relative_to(os.path.realpath(within)) or (self.own is not None and self.own.knows(real)):
            return
        advice = way_out(self.folder / self.origin, real)
        raise self.error(name, f"names {filename}, which is outside {within}; {advice}")

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Add the key to errors about a file that it names."""
        try:
            yield
        except InputError as error:
            raise self.error(name, f"cannot be shown: {error}") from None


KEYS: dict[str, tuple[str, ...]] = {
    "": (
        "title", "created", "gpuvox", "command", "device", "seed", "versions", "config", "cohort", "design", "checks",
        "mask", "underlay", "labels", "names", "level", "extent", "tests", "rois", "regions", "groups", "csf",
        "coefficients", "models", "voxelwise", "units",
        "zscores", "methods", "stages", "files",
    ),
    "config": ("path", "text"),
    "cohort": ("table", "group", "order", "covariates", "subset", "reference", "n", "of", "left_out"),
    "design": ("matrix", "contrasts", "columns"),
    "checks": ("what", "kind"),
    "tests": (
        "name", "map", "title", "unit", "contrast", "kind", "method", "permutations", "df", "smallest_p",
        "smallest_possible_p", "critical", "observed_maximum",
        "statistic", "corrected", "null", "clusters", "cluster_image", "subjects", "sentence",
    ),
    "voxelwise": ("model", "exchangeability"),
    "units": ("iron", "myelin"),
    "regions": ("labels", "labels_of", "jacobian", "lesions", "erosion", "head_size", "merge"),
    "groups": ("title", "table", "pairs", "demographics", "order", "json"),
    "coefficients": ("table", "json"),
    "csf": ("comparison", "sensitivity", "json"),
    "models": ("title", "kind", "table", "coefficients", "data", "diagnostics", "ladder", "trial", "json"),
    "zscores": ("table", "title"),
    "stages": ("name", "seconds"),
}  # fmt: skip
"""Known keys of the whole file and of its parts."""
LISTS = ("checks", "tests", "groups", "models", "stages")
"""Parts that are lists."""


def check_keys(source: Contents) -> None:
    """Raise `FileError` for an unknown key, which may be misspelt and would otherwise be ignored silently."""
    for name, known in KEYS.items():
        parts = source.parts(name) if name in LISTS else [source.part(name) if name else source]
        for part in parts:
            for key in part.values:
                if key not in known:
                    near = difflib.get_close_matches(key, known, 1)
                    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
                    raise part.error(key, f"is unknown; {hint}")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file.

    Raises
    ------
    FileError
        The file cannot be read, or is not JSON.
    """
    content = read_bytes(path, MOST_SETTINGS)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deeply
        raise FileError(f"{path} is not JSON: {error}", file=path) from None


def read_contents(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read ``study.json``.

    Raises
    ------
    FileError
        The file cannot be read, or is not a JSON object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise FileError(f"{path} is not a JSON object; expected what gpuvox study writes as study.json")
    return content
