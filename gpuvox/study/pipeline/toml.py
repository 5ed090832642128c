"""TOML converted to dataclasses, key by key; errors state the key and its line."""

from __future__ import annotations

import difflib
import glob
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from gpuvox.errors import FileError
from gpuvox.plain import composed


class Derived(dict[str, str]):
    """``[derived]``: name of a variable → arithmetic expression of others."""


def _names(value: Mapping[str, Any]) -> str:
    wrong = [name for name in value if not re.fullmatch(r"[A-Za-z0-9_-]+", name)]
    return f"names of letters, digits, _ and - (not {wrong[0]!r})" if wrong else ""


def error_at(
    path: Path, lines: Mapping[tuple[str | int, ...], int], where: tuple[str | int, ...], message: str
) -> FileError:
    """The message with line and key; a key without a line gets that of its section."""
    place, name = where, _spelled(where)
    while place and place not in lines:
        place = place[:-1]
    line = f", line {lines[place]}" if place else ""
    return FileError(f"{path}{line}: {name + ': ' if name else ''}{message}")


class Reader:
    """Converts the content of a file to dataclasses whose fields may have a ``check`` in their metadata."""

    def __init__(self, path: Path, lines: Mapping[tuple[str | int, ...], int]) -> None:
        self.path, self.lines = path, lines

    def error(self, where: tuple[str | int, ...], message: str) -> FileError:
        """An error in the file, with its line and key."""
        return error_at(self.path, self.lines, where, message)

    def section(
        self, kind: type, content: Any, where: tuple[str | int, ...], preset: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Values of the fields of a dataclass."""
        if not isinstance(content, dict):
            raise self.error(where, f"expected a section [{_spelled(where)}], not {content!r}")
        hints = typing.get_type_hints(kind)
        known: dict[str, Field] = {f.name: f for f in fields(kind) if f.name not in (preset or {})}
        for name in content:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                what = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
                raise self.error((*where, name), f"this key is unknown; {what}")
        for name, each in known.items():
            if name not in content and each.default is MISSING and each.default_factory is MISSING:
                raise self.error(where, f"the {'key' if where else 'section'} {name!r} is missing")
        return {
            name: self.value(hints[name], value, (*where, name), known[name]) for name, value in content.items()
        }

    def value(self, kind: Any, value: Any, where: tuple[str | int, ...], of: Field | None = None) -> Any:
        """A value converted to its type and checked."""
        converted = self._typed(kind, value, where)
        if kind is str and of and of.metadata.get("is_file"):
            converted = self._named(value)
        expected = of.metadata["check"](converted) if of and "check" in of.metadata else ""
        if expected:
            raise self.error(where, f"is {value!r}; expected {expected}")
        return converted

    def _typed(self, kind: Any, value: Any, where: tuple[str | int, ...]) -> Any:
        if isinstance(kind, types.UnionType):
            kinds = [each for each in typing.get_args(kind) if each is not type(None)]
            kind = kinds[-1] if isinstance(value, list) else kinds[0]
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if kind is Derived:
            return Derived(self._flat(value, where))
        if is_dataclass(kind) and isinstance(kind, type):
            return kind(**self.section(kind, value, where))
        if origin is dict:
            self._expect(isinstance(value, dict), "a table of names", value, where)
            if message := _names(value):
                raise self.error(where, f"expected {message}")
            return {name: self._typed(arguments[1], each, (*where, name)) for name, each in value.items()}
        if origin is tuple:
            inner = arguments[0]
            tables = is_dataclass(inner)
            expected = f"a list, [[{_spelled(where)}]]" if tables else 'a list such as ["a", "b"]'
            self._expect(isinstance(value, list), expected, value, where)
            items = tuple(self._typed(inner, each, (*where, i)) for i, each in enumerate(value))
            twice = _twice(items)
            self._expect(not twice, f"each once (not {twice[0]!r} twice)" if twice else "", value, where)
            return items
        named = {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false"}
        right = isinstance(value, (int, float) if kind is float else kind) and (
            kind is bool or not isinstance(value, bool)
        )
        self._expect(right and value == value, named[kind], value, where)
        try:
            return composed(value) if kind is str else kind(value)
        except OverflowError:
            raise self.error(where, f"has {len(str(value))} digits; expected {named[kind]}") from None

    def _named(self, text: str) -> str:
        """Text that names a file, spelled as the file is, or else a column, with composed accents."""
        path = self.path.parent / os.path.expanduser(text)
        is_there = path.exists() or any(path.parent.glob(f"{glob.escape(path.name)}.*"))
        return text if text.isascii() or is_there else composed(text)

    def _flat(self, value: Any, where: tuple[str | int, ...], name: str = "") -> Iterator[tuple[str, str]]:
        """Names with dots, in quotes or not, and their expressions."""
        self._expect(isinstance(value, dict), "names with expressions", value, where)
        for part, each in value.items():
            full = f"{name}.{part}" if name else part
            if isinstance(each, dict):
                yield from self._flat(each, (*where, part), full)
                continue
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*", full):
                raise self.error((*where, part), "expected a name of letters, digits, _ and dots")
            self._expect(isinstance(each, str), 'an expression in quotes, such as "a - b"', each, (*where, part))
            yield full, composed(each)

    def _expect(self, right: bool, expected: str, value: Any, where: tuple[str | int, ...]) -> None:
        if not right:
            raise self.error(where, f"is {value!r}; expected {expected}")


def _twice(values: Sequence[Any]) -> list[Any]:
    """The first value that occurs twice, if there is one."""
    seen = set()
    for value in values:
        if isinstance(value, str | int | float):
            if value in seen:
                return [value]
            seen.add(value)
    return []


def _spelled(where: tuple[str | int, ...]) -> str:
    """``regression[2].title``: tables of a list are counted from 1."""
    text = ""
    for part in where:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def key_lines(text: str) -> dict[tuple[str | int, ...], int]:
    """Line of every section and key of a TOML text; keys of inline tables have the line of the enclosing key."""
    lines_of: dict[tuple[str | int, ...], int] = {}
    counts: dict[tuple[str | int, ...], int] = {}
    section: tuple[str | int, ...] = ()
    depth, quotes = 0, ""
    for number, line in enumerate(re.split(r"\r\n|\n", text), 1):
        if not depth and not quotes:
            header, is_list, key = _header_or_key(line.strip())
            if header:
                section = _located(_parts(header), counts)
                if is_list:
                    counts[section] = counts.get(section, -1) + 1
                    lines_of.setdefault(section, number)
                    section = (*section, counts[section])
                lines_of.setdefault(section, number)
                continue
            if key:
                lines_of.setdefault((*section, *_parts(key)), number)
        depth, quotes = _open_ends(line, depth, quotes)
    return lines_of


def _header_or_key(line: str) -> tuple[str, bool, str]:
    """``[section]``, whether it belongs to a list, and the key before ``=``; empty if there is none."""
    if line.startswith("["):
        header, closed, _ = line.lstrip("[").partition("]")
        return (header.strip() if closed else ""), line.startswith("[["), ""
    key, is_set, _ = line.partition("=")
    return "", False, (key.strip() if is_set and re.fullmatch(r"[A-Za-z0-9_.\"' -]+", key.strip()) else "")


def _located(section: tuple[str | int, ...], counts: Mapping[tuple[str | int, ...], int]) -> tuple[str | int, ...]:
    """``[a.b]`` below ``[[a]]`` belongs to the last a."""
    if section[:1] in counts and len(section) > 1:
        return (*section[:1], counts[section[:1]], *section[1:])
    return section


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.\"']+", dotted))


def _open_ends(line: str, depth: int, quotes: str) -> tuple[int, str]:
    """Brackets, and the multi-line text, that are open at the end of a line."""
    position = 0
    while position < len(line):
        if quotes:
            position, quotes = _within_text(line, position, quotes)
        elif (mark := line[position : position + 3]) in ('"""', "'''"):
            position, quotes = position + 3, mark
        elif line[position] in "\"'":
            position, quotes = position + 1, line[position]
        elif line[position] == "#":
            break
        else:
            depth = max(depth + (line[position] in "[{") - (line[position] in "]}"), 0)
            position += 1
    return depth, quotes if len(quotes) == 3 else ""


def _within_text(line: str, position: int, quotes: str) -> tuple[int, str]:
    """Position after an open string, and the quotes that are still open there."""
    while position < len(line):
        if line[position] == "\\" and quotes[0] == '"':
            position += 2
        elif line.startswith(quotes, position):
            return position + len(quotes), ""
        else:
            position += 1
    return position, quotes
