"""A run of ``gpuvox palm``: read, test, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from gpuvox.application.announcements import describe_device
from gpuvox.application.palm.contrasts import (
    Contrast,
    PalmTest,
    corrections,
    families,
    list_contrasts,
    list_tests,
)
from gpuvox.application.palm.description import PalmDescription
from gpuvox.application.palm.inputs import PalmInputs, read_inputs
from gpuvox.application.palm.outputs import APPROXIMATIONS, Writer
from gpuvox.application.palm.record import RECORD, write_record
from gpuvox.application.palm.run import Machine, check_tests, run_test, test_without_shufflings
from gpuvox.application.palm.shufflings import shufflers, with_groups
from gpuvox.application.palm.writing import names_of, write_estimates, write_family, write_permuted, write_test
from gpuvox.cuda import resolve_all
from gpuvox.device import sharing_data
from gpuvox.errors import InputError
from gpuvox.files import locks
from gpuvox.files.targets import check_root_name, check_targets
from gpuvox.movement import extent, movement
from gpuvox.plain import format_count
from gpuvox.prepared import AnyShuffler
from gpuvox.reporter import Reporter
from gpuvox.results import FEWEST_PERMUTATIONS
from gpuvox.signed_rows import to_one

MOST_SHUFFLINGS = 10**8
"""Null distributions are held in memory, and more would take months."""
CONFIGURATION = "_palmconfig.txt"


def execute(description: PalmDescription, reporter: Reporter) -> tuple[str, ...]:
    """Execute a run.

    Parameters
    ----------
    description : PalmDescription
    reporter : Reporter

    Returns
    -------
    tuple of str
        The files that were written.

    Raises
    ------
    InputError
        One sentence that says what is wrong; nothing is written then.
    """
    check_root_name(description.prefix, "-o", "palm")
    check_targets(description.prefix, (CONFIGURATION, RECORD))
    inputs = with_groups(description, read_inputs(description, reporter))
    contrasts = list_contrasts(description, inputs)
    if not contrasts:
        raise InputError("there is no contrast to test: -fonly needs F contrasts (-f)")
    mixed = len({contrast.is_t for contrast in contrasts}) > 1 and description.acceleration != "noperm"
    if description.over_contrasts and mixed:  # t and F have z in common
        description = replace(description, statistic=replace(description.statistic, z=True))
    tests = list_tests(description, contrasts)
    sets = {} if description.acceleration == "noperm" else shufflers(description, inputs, contrasts)
    for contrast, shuffler in sets.items():
        _announce(contrast, shuffler, reporter)
    _announce_approximation(description, sets, reporter)
    check_tests(description, inputs, tests, sets)
    writer = Writer(description, inputs.modalities)
    check_targets("", list(names_of(description, writer, tests)))
    machine = Machine(resolve_all(description.device), description.threads, reporter)
    for device in machine.devices:
        reporter.say(f"Device: {describe_device(device)}")
    with locks.output(description.prefix, reporter.warn):
        _run_and_write(writer, inputs, tests, sets, machine)
    reporter.say(f"Finished; the names of all files begin with {description.prefix}_")
    return tuple(writer.files)


def _run_and_write(
    writer: Writer,
    inputs: PalmInputs,
    tests: Sequence[PalmTest],
    sets: Mapping[Contrast, AnyShuffler],
    machine: Machine,
) -> None:
    description = writer.description
    _write_shufflings(description, writer, sets)
    tested = {}
    for _, of_modality in groupby(tests, lambda test: test.modality):
        with sharing_data(machine.devices):
            for test in of_modality:
                if test.contrast in sets:
                    shuffler = sets[test.contrast]
                    tested[test], tester = run_test(description, inputs, test, shuffler, machine)
                    if description.saved.permutations:
                        write_permuted(description, writer, tested[test], tester, shuffler)
                else:
                    tested[test] = test_without_shufflings(description, inputs, test)
                write_test(description, writer, tested[test])
    for correction in corrections(description):
        for family in families(description, tests, correction):
            write_family(description, writer, [tested[test] for test in family], correction)
    if description.saved.glm:
        write_estimates(description, inputs, writer, tests)
    writer.text(f"{description.prefix}{CONFIGURATION}", "\n".join(description.configuration) + "\n")
    write_record(description, writer.files, machine.reporter)


def _announce(contrast: Contrast, shuffler: AnyShuffler, reporter: Reporter) -> None:
    """Say what may move, and how often; `InputError` if that takes for ever."""
    if shuffler.n > MOST_SHUFFLINGS:
        raise InputError(
            f"{contrast.title} has {format_count(shuffler.n)} shufflings, too many for a run of them all; "
            "ask for a number of them with -n", option="-n",
        )  # fmt: skip
    reporter.say(f"{contrast.title}: {movement(shuffler)}; {extent(shuffler)}")
    if shuffler.n_distinct == 1:
        reporter.warn(
            f"{contrast.title}: no shuffling changes it, so that every p is 1; whether a mean is above 0 is tested by "
            "sign flips (-ise)"
        )
    elif shuffler.n < FEWEST_PERMUTATIONS:
        reporter.warn(
            f"{contrast.title}: with {shuffler.n} {shuffler.kind}, no p that is counted can be below "
            f"{1 / shuffler.n:.3g}"
        )


def _announce_approximation(
    description: PalmDescription, sets: Mapping[Contrast, AnyShuffler], reporter: Reporter
) -> None:
    """Say what headers say of p, and of which contrasts p are counted all the same."""
    if not description.acceleration:
        return
    ordered = [contrast for contrast, shuffler in sets.items() if not shuffler.in_random_order]
    counted = ordered if description.acceleration == "negbin" else []
    if len(counted) < max(len(sets), 1):
        reporter.say(f"p in headers of images: {APPROXIMATIONS[description.acceleration]}")
    for contrast in counted:
        reporter.say(
            f"{contrast.title}: its shufflings come in an order, not at random, so all of them are made, and p are "
            "counted, not approximated"
        )


def _write_shufflings(description: PalmDescription, writer: Writer, sets: Mapping[Contrast, AnyShuffler]) -> None:
    """Write the sets of shufflings, and the masks."""
    if description.saved.mask:
        for number in range(len(writer.modalities)):
            writer.mask(number)
    if description.saved.permutations:
        for contrast, shuffler in sets.items():
            writer.shufflings(contrast, to_one(shuffler.shuffles(0, shuffler.n)))
