"""Entry points: choose the subcommand, and turn errors into one sentence and an exit status."""

from __future__ import annotations

import difflib
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TextIO

from gpuvox import __version__, private
from gpuvox.cli.console import print_error, warn
from gpuvox.cli.streams import attach, detach, spell_out
from gpuvox.errors import CacheWarning, InputError, InputWarning
from gpuvox.runtime.signals import signals_as_exceptions

COMMANDS = (
    "randomise", "voxelwise", "palm", "merge", "design", "longitudinal", "info",
    "study", "ironmyelin", "rois", "volumes", "clusters", "groups", "models", "report", "phantom",
)  # fmt: skip

RECORD_PATHS = "--record-paths"

USAGE = """usage: gpuvox COMMAND ...

Voxelwise permutation inference for neuroimaging.

analysis:
  voxelwise     permutation tests from a table of participants and a formula: images in, maps and findings out
  randomise     permutation tests on the general linear model, with the options and files of FSL randomise
  palm          permutation inference with the options and files of PALM
  merge         combine the shards of a randomise run into its maps
  design        make design and contrast files for randomise from a table of participants
  longitudinal  the same for repeated visits: change scores, and repeated measures with exchangeability blocks

a study of groups, of a covariate or of pairs:
  study         run a whole study, from maps to a report; its steps are the commands below
  ironmyelin    compute iron and myelin maps of a cohort from QSM and R1
  rois          measure volume, mean, median and SD of maps in regions of interest
  volumes       read the volumes that FreeSurfer and FSL measured
  clusters      list the clusters of a corrected map, and extract a value of each for every participant
  groups        describe groups, and compare them by analysis of covariance
  models        fit clinical models: regression in blocks, correlations, mixed models, sample sizes
  report        write the report of a study as one HTML file
  phantom       make a synthetic cohort with known ground truth

installation:
  info          show versions and devices, and test whether the GPU works

  gpuvox COMMAND --help      show the options of a command
  gpuvox COMMAND --record-paths …
                             record file names as given, not relative to the results
  gpuvox --version           show the version
  gpuvox --completion SHELL  print a script for bash, zsh or tcsh that completes commands and options

exit status: 0 success; 1 an internal error of gpuvox, an output pipe that was closed, or (gpuvox info) a GPU that does
not work; 2 an error in the input; 130 interrupted by Ctrl-C; 128 + N ended by signal N
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``gpuvox``.

    Returns
    -------
    int
        Exit status: 0 for success; 1 for an internal error, an output pipe that was closed, and (``gpuvox info``) a GPU
        that does not work; 2 for an error in the input; 130 after Ctrl-C; 128 plus its number after another signal.
    """
    attach()
    spell_out()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        return guarded("", lambda: _print(sys.stderr, USAGE) or 2)
    if arguments[0] == "help" and len(arguments) > 1:
        arguments = [*arguments[1:], "--help"]
    if arguments[0] in ("-h", "--help", "help"):
        return guarded("", lambda: _print(sys.stdout, USAGE))
    if arguments[0] in ("--version", "-V"):
        return guarded("", lambda: _print(sys.stdout, f"gpuvox {__version__}\n"))
    command, *rest = arguments
    if command == "--completion":
        return guarded("", lambda: _print(sys.stdout, _completion("".join(rest[:1]))))
    if command not in COMMANDS:
        print_error(f"gpuvox: {_unknown_command(command)}")
        return 2
    return _run(command, lambda arguments: import_module(f"gpuvox.cli.{command}").run(arguments), rest)


def _completion(shell: str) -> str:
    from gpuvox.cli.completion import script

    return script(shell, COMMANDS)


def _print(stream: TextIO, text: str) -> int:
    """Print our own text; returns exit status 0."""
    stream.write(text)
    stream.flush()  # here, where a closed pipe is handled, rather than when Python exits
    return 0


def _run(command: str, work: Callable[[list[str]], int], arguments: Sequence[str]) -> int:
    """Run a command without ``--record-paths``, which every command accepts, but as it says."""
    with private.names_as_given(RECORD_PATHS in arguments):
        return guarded(command, lambda: work([word for word in arguments if word != RECORD_PATHS]))


def _unknown_command(command: str) -> str:
    if command.startswith("-"):
        return (
            f"{command} must follow a command, as in gpuvox randomise {command}; gpuvox --help lists the commands"
        )
    close = difflib.get_close_matches(command, COMMANDS, 1, 0.6)
    meant = f" (did you mean {close[0]}?)" if close else ""
    return f"there is no command {command!r}{meant}; the commands are {', '.join(COMMANDS)}"


def main_randomise(argv: Sequence[str] | None = None) -> int:
    """``gpuvox-randomise``, the drop-in for ``randomise``."""
    from gpuvox.cli import randomise

    attach()
    spell_out()
    return _run("randomise", randomise.run, sys.argv[1:] if argv is None else argv)


def guarded(command: str, work: Callable[[], int]) -> int:
    """Run a command; an error in its input becomes one sentence on stderr.

    Parameters
    ----------
    command : str
        Name of the command, for messages.
    work : callable
        Returns the exit status.

    Returns
    -------
    int
        Exit status; see `main`.
    """
    name = f"gpuvox {command}".rstrip()
    try:
        with signals_as_exceptions(), _warnings_printed():
            return work()
    except InputError as error:
        print_error(f"{name}: {error}")
        return 2
    except MemoryError as error:
        print_error(f"{name}: not enough memory: {error}")
        return 2
    except BrokenPipeError:
        detach()
        return 1
    except OSError as error:
        print_error(f"{name}: {error}")
        return 2
    except KeyboardInterrupt:
        print_error(f"\n{name}: interrupted")
        return 130
    except Exception:
        _report_fault(name)
        return 1


def _report_fault(name: str) -> None:
    """Print the traceback of an internal error, and ask to report it."""
    print_error(traceback.format_exc().rstrip())
    print_error(
        f"{name}: this is an error in gpuvox {__version__}, not in your input; please report it with the lines above "
        f"and the command: {shlex.join(sys.argv)}"
    )


@contextmanager
def _warnings_printed() -> Iterator[None]:
    """Print warnings on stderr; ours (`InputWarning`, `CacheWarning`) as one line, once."""
    printed: set[str] = set()
    with warnings.catch_warnings():

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, InputWarning | CacheWarning):
                print_error(warnings.formatwarning(message, category, *where[:2]).rstrip())
            elif str(message) not in printed:
                printed.add(str(message))
                warn(str(message))

        warnings.showwarning = show
        yield
