"""A run of ``gpuvox palm``: read, test, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpuvox.application.palm.contrasts import Contrast, corrections, families, list_contrasts, list_tests
from gpuvox.application.palm.description import PalmDescription
from gpuvox.application.palm.inputs import read_inputs
from gpuvox.application.palm.outputs import Writer
from gpuvox.application.palm.run import Machine, run_test
from gpuvox.application.palm.shufflings import shufflers, with_groups
from gpuvox.application.palm.writing import names_of, write_estimates, write_family, write_permuted, write_test
from gpuvox.cuda import resolve_all
from gpuvox.errors import InputError
from gpuvox.files import locks, write_text
from gpuvox.files.targets import check_root_name, check_targets
from gpuvox.plain import format_count
from gpuvox.prepared import AnyShuffler
from gpuvox.reporter import Reporter
from gpuvox.signed_rows import to_one

MOST_SHUFFLINGS = 10**8
"""Null distributions are held in memory, and more would take months."""
FEWEST_SHUFFLINGS = 20
"""With fewer, no p can be below 0.05."""
CONFIGURATION = "_palmconfig.txt"


def execute(description: PalmDescription, reporter: Reporter) -> None:
    """Execute a run.

    Parameters
    ----------
    description : PalmDescription
    reporter : Reporter

    Raises
    ------
    InputError
        One sentence that says what is wrong; nothing is written then.
    """
    check_root_name(description.prefix, "-o", "palm")
    check_targets(description.prefix, (CONFIGURATION,))
    inputs = with_groups(description, read_inputs(description, reporter))
    contrasts = list_contrasts(description, inputs)
    if not contrasts:
        raise InputError("there is no contrast to test: -fonly needs F contrasts (-f)")
    if description.over_contrasts and len({contrast.is_t for contrast in contrasts}) > 1:
        description = replace(
            description, statistic=replace(description.statistic, z=True)
        )  # one scale for t and F
    tests = list_tests(description, contrasts)
    sets = shufflers(description, inputs, contrasts)
    for contrast in contrasts:
        _announce(contrast, sets[contrast], reporter)
    writer = Writer(description, inputs.modalities)
    names = list(names_of(description, writer, tests))
    check_targets("", names)
    machine = Machine(resolve_all(description.device), description.threads, reporter)
    with locks.output(description.prefix, reporter.warn):
        _write_shufflings(description, writer, contrasts, sets)
        tested = {}
        for test in tests:
            shuffler = sets[test.contrast]
            tested[test], tester = run_test(description, inputs, test, shuffler, machine)
            write_test(description, writer, tested[test])
            if description.saved.permutations:
                write_permuted(description, writer, tested[test], tester, shuffler)
        for correction in corrections(description):
            for family in families(description, tests, correction):
                write_family(description, writer, [tested[test] for test in family], correction)
        if description.saved.glm:
            write_estimates(description, inputs, writer, tests)
        write_text(f"{description.prefix}{CONFIGURATION}", "\n".join(description.configuration) + "\n")
    reporter.say(f"Finished; the names of all files begin with {description.prefix}_")


def _announce(contrast: Contrast, shuffler: AnyShuffler, reporter: Reporter) -> None:
    """Say what may move, and how often; `InputError` if that takes for ever."""
    if shuffler.n > MOST_SHUFFLINGS:
        raise InputError(
            f"{contrast.title} has {format_count(shuffler.n)} shufflings, too many for a run of them all; "
            "ask for a number of them with -n", option="-n",
        )  # fmt: skip
    reporter.say(
        f"{contrast.title}: {shuffler.movement}; {format_count(shuffler.n_distinct)} {shuffler.kind} are possible, "
        f"{shuffler.n} are made"
    )
    if shuffler.n == 1:
        reporter.warn(
            f"{contrast.title}: no shuffling changes it, so that every p is 1; whether a mean is above 0 is tested by "
            "sign flips (-ise)"
        )
    elif shuffler.n < FEWEST_SHUFFLINGS:
        reporter.warn(
            f"{contrast.title}: with {shuffler.n} {shuffler.kind}, no p can be below {1 / shuffler.n:.3g}"
        )


# ------------------------------------------------------------------------------------------------------------ writing


def _write_shufflings(
    description: PalmDescription, writer: Writer, contrasts: Sequence[Contrast], sets: dict[Contrast, AnyShuffler]
) -> None:
    """Write the sets of shufflings, and the masks."""
    if description.saved.mask:
        for number in range(len(writer.modalities)):
            writer.mask(number)
    if description.saved.permutations:
        for contrast in contrasts:
            shuffler = sets[contrast]
            writer.shufflings(contrast, to_one(shuffler.shuffles(0, shuffler.n)))
