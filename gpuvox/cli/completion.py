"""Completion of commands and options by the shell."""

from __future__ import annotations

import argparse
from importlib import import_module

import shtab

from gpuvox.cli.arguments import Parser
from gpuvox.errors import UsageError

SHELLS = ("bash", "zsh", "tcsh")


def command_parser(command: str) -> Parser:
    """The parser of a command."""
    parser: Parser = import_module(f"gpuvox.cli.{command}").build_parser()
    return parser


def summary(parser: argparse.ArgumentParser) -> str:
    """What a command does, without the version."""
    return (parser.description or "").split(" (gpuvox")[0]


def whole_parser(commands: tuple[str, ...]) -> argparse.ArgumentParser:
    """A parser of ``gpuvox`` and its commands."""
    parser = argparse.ArgumentParser("gpuvox", description="Voxelwise permutation inference for neuroimaging.")
    parser.add_argument("--version", action="store_true", help="show the version")
    parser.add_argument("--completion", choices=SHELLS, help="print the completion script of a shell")
    choices = parser.add_subparsers(dest="command")
    for command in commands:
        own = command_parser(command)
        choices.choices[command] = own
        choices._choices_actions.append(argparse.Action([], command, help=summary(own)))
    return parser


def complete_files(parser: argparse.ArgumentParser) -> None:
    """Complete values that are free text by the names of files."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                complete_files(sub)
        elif action.nargs != 0 and action.choices is None and action.type is None:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def script(shell: str, commands: tuple[str, ...]) -> str:
    """The completion script of a shell.

    Raises
    ------
    UsageError
        The shell is not one of `SHELLS`.
    """
    if shell not in SHELLS:
        raise UsageError(f"--completion is {shell or 'missing its value'}; expected bash, zsh or tcsh")
    parser = whole_parser(commands)
    complete_files(parser)
    text = shtab.complete(parser, shell)
    if shell == "bash":
        randomise = command_parser("randomise")
        randomise.prog = "gpuvox-randomise"
        complete_files(randomise)
        text += "\n" + shtab.complete(randomise, shell)
    return text
