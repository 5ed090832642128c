"""``gpuvox palm``: PALM's inference, with PALM's options and names of files."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any, TypeVar

from gpuvox import __version__
from gpuvox.application.palm.description import (
    ACCELERATIONS,
    PARTITIONS,
    REGRESSIONS,
    Exchangeability,
    PalmDescription,
    Regressor,
    Saved,
    Spatial,
    Statistic,
)
from gpuvox.cli import arguments, palm_options
from gpuvox.cli.arguments import Parser
from gpuvox.cli.console import say, terminal
from gpuvox.cli.palm_options import Words, read_words
from gpuvox.errors import FileError, InputWarning, UsageError
from gpuvox.reporter import Reporter

Value = TypeVar("Value")
LARGEST_SEED = 2**32
"""Below it are the seeds that ``-seed twist`` draws."""


def build_parser() -> Parser:
    """See `palm_options.build_parser`."""
    return palm_options.build_parser()


def run(argv: list[str]) -> int:
    """Run the command; returns the exit status."""
    if not argv or argv[0] in ("--help", "-help", "-h", "-?"):
        build_parser().print_help(sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv == ["--version"]:
        say(f"gpuvox {__version__}")
        return 0
    words = _read(argv)
    description = describe(words)
    quiet = "-quiet" in words

    from gpuvox.application.palm.execute import execute
    from gpuvox.cli.randomise import open_device

    with terminal(lines=not quiet, bar=not quiet, unit="shufflings") as reporter:
        for note in words.notes:
            reporter.say(note)
        open_device(description.device, quiet, description.spatial.connectivity or 6)
        execute(description, reporter)
    return 0


def palm(command: str | Sequence[str]) -> tuple[str, ...]:
    """``gpuvox.palm``: a run of PALM from Python.

    Parameters
    ----------
    command : str or sequence of str
        The options, as the command has them: ``"-i data.nii -m mask.nii -d design.csv -t con.csv -T"``. A string is
        split as a shell does.

    Returns
    -------
    tuple of str
        The files that were written.

    Raises
    ------
    InputError
        One sentence that says what is wrong; nothing is written then.
    """
    from gpuvox.application.palm.execute import execute

    words = _read(shlex.split(command) if isinstance(command, str) else command)

    def warn(text: str) -> None:
        warnings.warn(text, InputWarning, stacklevel=4)

    return execute(describe(words), replace(Reporter.silent(), warn=warn))


def _read(argv: Sequence[str]) -> Words:
    """The words of a command, with the seed that is used."""
    words = read_words(expanded(argv))
    words.given["-seed"] = [[str(_seed(words.one("-seed", "0")))]]
    return words


def expanded(argv: Sequence[str]) -> list[str]:
    """The words of a command; a first word that is no option names a configuration file, whose words come first.

    Raises
    ------
    FileError
        The configuration cannot be read, or its quotation marks are not closed.
    """
    if not argv or argv[0].startswith("-"):
        return list(argv)
    if not os.path.isfile(argv[0]):
        raise FileError(
            f"{argv[0]} is neither an option nor a configuration file; see gpuvox palm --help", file=argv[0]
        )
    from gpuvox.files.contents import text_lines

    words: list[str] = []
    for number, line in enumerate(text_lines(argv[0]), 1):
        try:
            words += shlex.split(line, comments=True)
        except ValueError:
            raise FileError(f"{argv[0]}, line {number}: a quotation mark is not closed", file=argv[0]) from None
    return [*words, *argv[1:]]


def describe(words: Words) -> PalmDescription:
    """Options → what the run is asked for.

    Raises
    ------
    UsageError
        An option is missing, has a wrong value, or contradicts another.
    """
    if "-i" not in words:
        raise UsageError("-i is missing: the data", option="-i")
    _check_pairs(words)
    method, *more = words.given.get("-accel", [[""]])[0]
    _check_acceleration(words, method.lower())
    return PalmDescription(
        inputs=words.all("-i"),
        prefix=words.one("-o", "palm"),
        masks=words.all("-m"),
        designs=words.all("-d"),
        contrasts=words.all("-t"),
        f_contrasts=words.all("-f"),
        design_per_input="-designperinput" in words,
        regressors=tuple(_regressor(values) for values in words.given.get("-evperdat", [])),
        missing=words.all("-imiss"),
        missing_designs=words.all("-dmiss"),
        over_contrasts="-corrcon" in words,
        over_modalities="-corrmod" in words,
        false_discovery=_false_discovery(words),
        acceleration=_choice("-accel", method, ACCELERATIONS),
        exceedances=_number("-accel", more[0], arguments.at_least_one) if method == "negbin" and more else 2,
        subjects=words.one("-subjidx"),
        transpose="-transposedata" in words,
        reverse_masks="-reversemasks" in words,
        exchangeability=_exchangeability(words),
        statistic=_statistic(words),
        spatial=_spatial(words),
        saved=_saved(words),
        device=words.one("--device", "auto"),
        threads=_value(words, "--threads", arguments.threads, None),
        configuration=tuple(_configuration(words)),
    )


def _configuration(words: Words) -> Iterator[str]:
    """The options, one a line, with the seed that is used."""
    given = {**words.given, "-o": [[words.one("-o", "palm")]]}
    for name, times in given.items():
        for values in times:
            yield shlex.join([name, *values])


def _check_pairs(words: Words) -> None:
    """Options of which only one can be given."""
    exclusive = [("-save1-p", "-logp"), ("-tonly", "-fonly"), ("-tfce1D", "-tfce2D")]
    models = ("-vg", "-pearson", "-evperdat", "-imiss")
    exclusive += [("-imiss", "-saveglm"), ("-pearson", "-saveparametric")]
    exclusive += [("-evperdat", "--palm-dof"), ("-imiss", "--palm-dof")]
    exclusive += list(combinations(models, 2)) + list(product(models, ("-rmethod", "-pmethodr")))
    exclusive.remove(("-evperdat", "-rmethod"))
    defaults = {"-rmethod": REGRESSIONS[0], "-pmethodr": PARTITIONS[0]}
    given = {name for name in words.given if _plain(words.one(name)) != _plain(defaults.get(name, "none"))}
    for one, other in exclusive:
        if one in given and other in given:
            raise UsageError(f"{one} and {other} exclude each other; one is expected", option=other)
    if "--palm-dof" in words and not ("-vg" in words or "-demean" in words):
        raise UsageError(
            "--palm-dof needs -vg or -demean, whose degrees of freedom PALM has otherwise", option="--palm-dof"
        )
    for option, needed in (
        ("-within", "-eb"), ("-whole", "-eb"), ("-Cstat", "-C"), ("-tfce1D", "-T"), ("-tfce2D", "-T"),
        ("-tfce_H", "-T"), ("-tfce_E", "-T"), ("-tfce_C", "-T"), ("-tfce_dh", "-T"),
        ("-removevgbysize", "-vg"), ("-mcar", "-imiss"), ("-dmiss", "-imiss"),
    ):  # fmt: skip
        if option in words and needed not in words:
            raise UsageError(f"{option} needs {needed}", option=option)


def _check_acceleration(words: Words, method: str) -> None:
    if method == "negbin" and "-nouncorrected" in words:
        raise UsageError("-accel negbin approximates uncorrected p alone; omit -nouncorrected", option="-accel")
    if method == "noperm":
        others = (
            "-T",
            "-C",
            "-vg",
            "-pearson",
            "-evperdat",
            "-imiss",
            "-rmethod",
            "-ise",
            "-eb",
            "--permutations",
            "-saveparametric",
            "-zstat",
        )
        other = next((option for option in others if option in words), "")
        if other or "-d" not in words:
            raise UsageError(
                f"-accel noperm knows the moments of t and F over all permutations of all rows alone; omit "
                f"{other or 'it, or give a design with -d'}", option="-accel",
            )  # fmt: skip
    if "-imiss" in words and "-mcar" not in words:
        raise UsageError(
            "-imiss needs -mcar: what is missing is left out; tests of missingness itself are not there yet",
            option="-imiss",
        )


def _regressor(values: Sequence[str]) -> Regressor:
    numbers = [_number("-evperdat", value, arguments.at_least_one) for value in values[1:]]
    return Regressor(values[0], *numbers)


def _false_discovery(words: Words) -> str:
    if "-fdr" not in words:
        return ""
    return _choice("-fdr", words.one("-fdr", "BKY"), ("BH", "BKY"))


def _exchangeability(words: Words) -> Exchangeability:
    flip = "-ise" in words or "-d" not in words  # a mean cannot be tested by permutations
    return Exchangeability(
        blocks=words.one("-eb"),
        within="-within" in words,
        whole="-whole" in words,
        permute="-ee" in words or not flip,
        flip=flip,
        number=_value(words, "-n", arguments.count, 10_000),
        seed=_seed(words.one("-seed", "0")),
        repeats="-cmcp" in words,
        all_differ="-cmcx" in words,
        together="-syncperms" in words,
        permutations=words.one("--permutations"),
        groups=words.one("-vg"),
        least_group=_value(words, "-removevgbysize", arguments.at_least_one, 1),
    )


def _seed(text: str) -> int:
    return secrets.randbelow(LARGEST_SEED) if text == "twist" else _number("-seed", text, arguments.count)


def _statistic(words: Words) -> Statistic:
    return Statistic(
        regression=_choice("-rmethod", words.one("-rmethod", REGRESSIONS[0]), REGRESSIONS),
        partition=_choice("-pmethodr", words.one("-pmethodr", PARTITIONS[0]), PARTITIONS),
        pearson="-pearson" in words,
        demean="-demean" in words,
        two_tailed="-twotail" in words,
        z="-zstat" in words,
        t_only="-tonly" in words,
        f_only="-fonly" in words,
        palm_dof="--palm-dof" in words,
    )


def _spatial(words: Words) -> Spatial:
    return Spatial(
        tfce="-T" in words,
        dimensions=1 if "-tfce1D" in words else 2 if "-tfce2D" in words else 3,
        H=_value(words, "-tfce_H", arguments.not_negative, None),
        E=_value(words, "-tfce_E", arguments.not_negative, None),
        connectivity=_value(words, "-tfce_C", arguments.connectivity, None),
        step=_value(words, "-tfce_dh", arguments.not_negative, None) or None,  # 0 is PALM's default
        threshold=_value(words, "-C", arguments.positive, None),
        mass=_choice("-Cstat", words.one("-Cstat", "extent"), ("extent", "mass")) == "mass",
    )


def _saved(words: Words) -> Saved:
    return Saved(
        uncorrected="-nouncorrected" not in words,
        parametric="-saveparametric" in words,
        dof="-savedof" in words,
        glm="-saveglm" in words,
        maxima="-savemax" in words,
        permutations="-saveperms" in words,
        mask="-savemask" in words,
        scale="1-p" if "-save1-p" in words else "-log10 p" if "-logp" in words else "p",
        all_numbers="-verbosefilenames" in words,
        first_contrast=1 + _value(words, "-conskipcount", arguments.count, 0),
    )


def _value(words: Words, option: str, kind: Callable[[str], Value], otherwise: Any) -> Any:
    return _number(option, words.one(option), kind) if option in words else otherwise


def _number(option: str, text: str, kind: Callable[[str], Value]) -> Value:
    try:
        return kind(text)
    except arguments.argparse.ArgumentTypeError as error:
        raise UsageError(f"{option}: {error}; see gpuvox palm --help", option=option) from None


def _choice(option: str, text: str, choices: Sequence[str]) -> str:
    """One of several words, whatever the case of its letters and its dashes."""
    plain = {_plain(choice): choice for choice in choices}
    if _plain(text) not in plain:
        *others, last = [choice for choice in choices if choice]
        raise UsageError(f"{option} is {text}; expected {', '.join(others)} or {last}", option=option)
    return plain[_plain(text)]


def _plain(text: str) -> str:
    return text.lower().replace("-", "")
