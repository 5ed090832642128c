"""The identity of a run: what must agree for two files to belong to the same run, and how two runs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Run = dict[str, Any]
"""What must agree: ``software`` (name → version), ``files`` (option → list of [name, SHA-256]), ``options`` (option →
value)."""


@dataclass(frozen=True)
class RunIdentity:
    """The run that a file of tallies belongs to.

    Attributes
    ----------
    run : dict
        See `Run`.
    shuffles : dict of int
        Permutations of the whole run, by test.
    command : tuple of str
        Command-line arguments of the run; empty if it was started from Python.
    shard : (int, int) or None
        Shard i of n, counted from 1; None for a run without shards.
    """

    run: Run
    shuffles: dict[str, int]
    command: tuple[str, ...] = ()
    shard: tuple[int, int] | None = None


def differences(one: Run, other: Run, names: tuple[str, str]) -> str:
    """How two runs differ, in words; empty if they agree.

    Parameters
    ----------
    one, other : dict
        See `Run`.
    names : (str, str)
        What the two are called in the sentence.
    """
    sentences = []
    for software, (a, b) in _unequal(one["software"], other["software"]):
        sentences.append(f"{software} is {_in_words(a)} in {names[0]}, {_in_words(b)} in {names[1]}")
    for option, (a, b) in _unequal(one["files"], other["files"]):
        sentences += _file_differences(option, a or [], b or [], names)
    for option, (a, b) in _unequal(one["options"], other["options"]):
        sentences.append(f"{option} is {_in_words(a)} in {names[0]}, {_in_words(b)} in {names[1]}")
    return "; ".join(sentences)


def _unequal(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for key in [*one, *(key for key in other if key not in one)]:
        if one.get(key) != other.get(key):
            yield key, (one.get(key), other.get(key))


def _file_differences(
    option: str, one: Sequence[Sequence[str]], other: Sequence[Sequence[str]], names: tuple[str, str]
) -> Iterator[str]:
    """Files are compared by content, not by name."""
    if len(one) != len(other):
        yield f"{option} has {len(one) or 'no'} file{'s' * (len(one) != 1)} in {names[0]}, {len(other)} in {names[1]}"
        return
    for (mine, a), (theirs, b) in zip(one, other):
        if a != b:
            name = mine if mine == theirs else f"{mine} and {theirs}"
            yield f"the content of {name} ({option}) differs between {names[0]} and {names[1]}"


def _in_words(value: Any) -> str:
    if value is None:
        return "not set"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
