"""Kinds of arguments of the commands, and how their errors read."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from typing import Any, NoReturn, cast

from gpuvox import __version__
from gpuvox.cli.console import warn
from gpuvox.errors import UsageError
from gpuvox.runtime.limits import most_threads

NAMES_OF_FILES = {"FILE", "IMAGE", "DIR", "ROOT", "OUT"}
"""Metavars of the options that name files; which of two is meant is not for us to choose."""


class _Once(argparse._StoreAction):
    """Keeps the value of an option. Another value after it is refused where it names files, and told elsewhere."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Called by argparse for each time that the option is given."""
        before = parser.given.get(self.dest)
        # An empty value takes back what came before it, as scripts may do on purpose.
        if option_string and not _is_empty(before) and not _is_empty(values) and before != values:
            told = f"{option_string} is given more than once, as {_shown(before)} and as {_shown(values)}"
            if self.metavar in NAMES_OF_FILES or self.dest in parser.once:
                raise UsageError(f"{told}; one is expected")
            warn(f"{told}; the last one counts")
        parser.given[self.dest] = values
        super().__call__(parser, namespace, values, option_string)


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", (), ("",))


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(str(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _no_choice(match: re.Match[str]) -> str:
    """What argparse says of an option, or a subcommand, that has a value which is none of its choices."""
    name, value, choices = match.groups()
    *others, last = choices.replace("'", "").split(", ")
    if name.startswith("-"):
        return f"{name} is {value}; {', '.join(others)} or {last} expected"
    return f"{value} is none of {', '.join(others)} and {last}"


class Parser(argparse.ArgumentParser):
    """Options are written out, errors become one sentence, an epilog keeps its lines, and files are named once.

    Attributes
    ----------
    once : set of str
        Destinations of options of which a second value is refused, beside those in `NAMES_OF_FILES`.
    given : dict
        Destination → the value that has been read last.
    """

    def __init__(self, **settings: Any) -> None:
        if settings.get("epilog"):
            settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)
        self.once: set[str] = set()
        self.given: dict[str, Any] = {}
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
        found: list[str] = []
        for action in self._actions:
            found += action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                found += [name for parser in action.choices.values() for name in cast(Parser, parser).names]
        return found

    def unknown(self, token: str) -> str:
        """What is said of an argument that nothing takes."""
        name = token.split("=")[0]
        if not name.startswith("-"):
            return f"{name!r} is not an option, nor the value of one"
        close = difflib.get_close_matches(name, self.names, 1, 0.6)
        return f"unknown option {name}" + (f"; the closest is {close[0]}" if close else "")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all arguments; `UsageError` for one that is unknown."""
        options, rest = self.parse_known_args(args, namespace)
        if rest:
            raise UsageError(f"{self.unknown(rest[0])}; see {self.prog} --help")
        return options

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError`."""
        message = re.sub(r"argument (\S+): expected one argument", r"the value of \1 is missing", message)
        message = re.sub(r"argument (\S+): invalid choice: (.+) \(choose from (.*)\)", _no_choice, message)
        message = re.sub(r"the following arguments are required: (.*)", r"\1 is missing", message)
        raise UsageError(
            f"{message[0].lower() if message[1:2].islower() else message[0]}{message[1:]}; see {self.prog} --help"
        )


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
    """The neighbours of a voxel: 6, 18 or 26; numbers between are taken down to one of these, as FSL takes them."""
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
    """``A,B,C``; empty names do not count."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def some_names(text: str) -> tuple[str, ...]:
    """``A,B,C``, at least one."""
    found = names(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names no column")
    return found


def threads(text: str) -> int:
    """A number of threads: at least 1, and at most what can be of use."""
    asked, most = at_least_one(text), most_threads()
    if asked > most:
        warn(f"--threads {text}: {most} are used, the most on this machine; results do not depend on it")
    return min(asked, most)
