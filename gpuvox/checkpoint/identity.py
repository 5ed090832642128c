"""Which run it is: what must be the same for two runs to be one, and how they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Run = dict[str, Any]
"""What makes two runs one run: ``software`` (name → version), ``files`` (option → list of [name, SHA-256]),
``options`` (option → value)."""


@dataclass(frozen=True)
class RunIdentity:
    """What a file of tallies belongs to.

    Attributes
    ----------
    run : dict
        See `Run`.
    shuffles : dict of int
        Shuffles of the whole run by test.
    command : tuple of str
        The arguments that the run was started with; empty from Python.
    shard : (int, int) or None
        Shard i of n, from 1.
    """

    run: Run
    shuffles: dict[str, int]
    command: tuple[str, ...] = ()
    shard: tuple[int, int] | None = None


def differences(one: Run, other: Run, names: tuple[str, str]) -> str:
    """What differs between two runs, in words; empty if they are one.

    Parameters
    ----------
    one, other : dict
        See `Run`.
    names : (str, str)
        What the two are called.
    """
    found = []
    for software, (a, b) in _unequal(one["software"], other["software"]):
        found.append(f"{software} is {_said(a)} in {names[0]}, {_said(b)} in {names[1]}")
    for option, (a, b) in _unequal(one["files"], other["files"]):
        found += _file_differences(option, a or [], b or [], names)
    for option, (a, b) in _unequal(one["options"], other["options"]):
        found.append(f"{option} is {_said(a)} in {names[0]}, {_said(b)} in {names[1]}")
    return "; ".join(found)


def _unequal(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for key in [*one, *(key for key in other if key not in one)]:
        if one.get(key) != other.get(key):
            yield key, (one.get(key), other.get(key))


def _file_differences(
    option: str, one: Sequence[Sequence[str]], other: Sequence[Sequence[str]], names: tuple[str, str]
) -> Iterator[str]:
    """Files are told apart by their content, not by their names."""
    if len(one) != len(other):
        yield f"{option} has {len(one) or 'no'} file{'s' * (len(one) != 1)} in {names[0]}, {len(other)} in {names[1]}"
        return
    for (mine, a), (theirs, b) in zip(one, other):
        if a != b:
            name = mine if mine == theirs else f"{mine} and {theirs}"
            yield f"the content of {name} ({option}) is not the same in {names[0]} and in {names[1]}"


def _said(value: Any) -> str:
    if value is None:
        return "not set"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
