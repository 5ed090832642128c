"""The parser of every command: types of arguments, and errors in one sentence."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from typing import Any, NoReturn, cast

from gpuvox import __version__
from gpuvox.cli.console import warn
from gpuvox.errors import UsageError
from gpuvox.plain import composed
from gpuvox.runtime.limits import most_threads

NAMES_OF_FILES = {"FILE", "IMAGE", "DIR", "ROOT", "OUT"}
"""Metavars of the options that name files; a second, different file is refused."""


class _Once(argparse._StoreAction):
    """Store the value of an option; a second one that differs is refused for files, and causes a warning elsewhere."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Called by argparse each time that the option occurs."""
        before = parser.values.get(self.dest)
        # An empty value resets the option, as scripts may do on purpose.
        if option_string and not _is_empty(before) and not _is_empty(values) and before != values:
            message = f"{option_string} is given more than once, as {_shown(before)} and as {_shown(values)}"
            if self.metavar in NAMES_OF_FILES or self.dest in parser.once:
                raise UsageError(f"{message}; one is expected", option=option_string)
            warn(f"{message}; the last one is used")
        parser.values[self.dest] = values
        super().__call__(parser, namespace, values, option_string)


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", (), ("",))


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(str(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations of options, whose errors are one sentence and whose epilog keeps its lines.

    Attributes
    ----------
    once : set of str
        Destinations of options of which a second value is refused, besides those in `NAMES_OF_FILES`.
    values : dict
        Destination → the value that was read last.
    """

    def __init__(self, **settings: Any) -> None:
        if settings.get("epilog"):
            settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, exit_on_error=False, **settings)
        self.once: set[str] = set()
        self.values: dict[str, Any] = {}
        for name in (None, "store"):
            self.register("action", name, _Once)
        self._positionals.title = "arguments"
        if settings.get("add_help", True):
            self._actions[0].help = "show this help and exit"
            version = f"gpuvox {__version__}"
            self.add_argument("--version", action="version", version=version, help="show the version and exit")

    @property
    def names(self) -> list[str]:
        """Every option, as it is written; those of subcommands too."""
        names: list[str] = []
        for action in self._actions:
            names += action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                names += [name for parser in action.choices.values() for name in cast(Parser, parser).names]
        return names

    def unknown(self, token: str) -> UsageError:
        """The error for an argument that nothing takes."""
        name = token.split("=")[0]
        if not name.startswith("-"):
            return UsageError(f"{name!r} is neither an option nor the value of one; see {self.prog} --help")
        close = difflib.get_close_matches(name, self.names, 1, 0.6)
        hint = f"; the closest is {close[0]}" if close else ""
        return UsageError(f"unknown option {name}{hint}; see {self.prog} --help", option=name)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all arguments; `UsageError` for one that is unknown."""
        options, rest = self.parse_known_args(args, namespace)
        if rest:
            raise self.unknown(rest[0])
        return options

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments that are known; `UsageError` for a value that is missing or wrong."""
        try:
            return super().parse_known_args(args, namespace)
        except argparse.ArgumentError as error:
            message, name = self._explained(error), error.argument_name or ""
        option = name if name.startswith("-") else ""
        raise UsageError(f"{message}; see {self.prog} --help", option=option)

    def _explained(self, error: argparse.ArgumentError) -> str:
        """An error of argparse, in our words."""
        if error.message == "expected one argument":
            return f"the value of {error.argument_name} is missing"
        if match := re.fullmatch(r"invalid choice: (.+) \(choose from (.*)\)", error.message):
            *others, last = match[2].replace("'", "").split(", ")
            if (error.argument_name or "").startswith("-"):
                return f"{error.argument_name} is {match[1]}; expected {', '.join(others)} or {last}"
            return f"{match[1]} is none of {', '.join(others)} and {last}"
        return str(error)

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError`; called by argparse."""
        message = re.sub("the following arguments are required: (.*)", r"\1 is missing", message)
        raise UsageError(f"{message}; see {self.prog} --help")


def positive(text: str) -> float:
    """A finite number above 0."""
    value = number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def tfce_step(text: str) -> float | str:
    """A finite number above 0, or ``robust``."""
    return text if text == "robust" else positive(text)


def not_negative(text: str) -> float:
    """A finite number of at least 0."""
    value = number(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def count(text: str) -> int:
    """An integer of at least 0."""
    value = integer(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def at_least_one(text: str) -> int:
    """An integer of at least 1."""
    value = integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def integer(text: str) -> int:
    """An integer, also as nipype and fslpy write it: ``26.00``."""
    if not re.fullmatch(r"[+-]?\d+(\.0*)?", text.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer")
    return int(text.split(".")[0])


def connectivity(text: str) -> int:
    """The number of neighbours of a voxel: 6, 18 or 26; as in FSL, numbers between these are rounded down."""
    value = integer(text)
    if value < 6:
        raise argparse.ArgumentTypeError(f"{text} is not a connectivity; it must be 6, 18 or 26")
    return max(known for known in (6, 18, 26) if known <= value)


def pair(text: str) -> tuple[str, str]:
    """``NAME=VALUE``."""
    name, _, value = (part.strip() for part in text.partition("="))
    if not (name and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def names(text: str) -> tuple[str, ...]:
    """``A,B,C``, with composed accents; empty names are ignored."""
    return tuple(name.strip() for name in composed(text).split(",") if name.strip())


def some_names(text: str) -> tuple[str, ...]:
    """``A,B,C``, at least one."""
    columns = names(text)
    if not columns:
        raise argparse.ArgumentTypeError(f"{text!r} names no column")
    return columns


def threads(text: str) -> int:
    """A number of threads from 1 to the most that this machine can use."""
    asked, most = at_least_one(text), most_threads()
    if asked > most:
        warn(f"--threads {text}: {most} are used, the maximum on this machine; the results do not depend on it")
    return min(asked, most)
