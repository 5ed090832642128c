"""The shufflings of each contrast: drawn, or read from the files of another run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from gpuvox import files
from gpuvox.application.palm.contrasts import Contrast, columns_of
from gpuvox.application.palm.description import PalmDescription
from gpuvox.application.palm.inputs import PalmInputs
from gpuvox.application.palm.models import named, regression_test
from gpuvox.block_tree import is_multi_level, shuffler_of
from gpuvox.errors import FileError, InputError, UsageError
from gpuvox.files.permutations import find_permidx
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.prepared import AnyShuffler
from gpuvox.regression_methods import Method
from gpuvox.shuffle import Permutations, Shuffler, effective_labels
from gpuvox.types import Float64, Ints
from gpuvox.variance_groups import groups_of_orbits

SAME_ROTATION = 1e-7
"""Entries of the rotations of two nuisances that differ by less are those of one."""


def are_shared(description: PalmDescription, contrasts: Sequence[Contrast]) -> bool:
    """Whether all contrasts and designs have the same shufflings."""
    return description.over_contrasts or description.exchangeability.together or len(contrasts) == 1


def shufflers(
    description: PalmDescription, inputs: PalmInputs, contrasts: Sequence[Contrast]
) -> dict[Contrast, AnyShuffler]:
    """The shufflings of each contrast.

    With a design for each input, contrasts of the same number have the same shufflings if modalities are corrected
    together, as have all contrasts if these are.

    Raises
    ------
    InputError
        Blocks do not allow what is asked for, or are malformed; a file of shufflings is missing or does not fit.
    """
    shared = are_shared(description, contrasts)
    by_number = description.design_per_input and description.over_modalities
    together: dict[object, list[Contrast]] = {}
    for contrast in contrasts:
        key = 0 if shared else contrast.number if by_number else contrast
        together.setdefault(key, []).append(contrast)
    if description.statistic.regression == Method.HUH_JHUN.value and (description.over_contrasts or by_number):
        for same in together.values():
            _check_same_nuisance(description, inputs, same)
    if description.exchangeability.permutations:
        given: dict[Contrast, AnyShuffler] = {}
        read = cache(_read)
        for same in together.values():
            is_known = inputs.blocks is not None or description.acceleration == "negbin"
            possible = _draw(description, inputs, same) if is_known else None
            given |= {contrast: read(*_file_of(description, inputs, contrast), possible) for contrast in same}
            _check_same(description, same, [given[contrast] for contrast in same])
        return given
    found: dict[Contrast, AnyShuffler] = {}
    for same in together.values():
        found |= dict.fromkeys(same, _draw(description, inputs, same))
    return found


def _file_of(description: PalmDescription, inputs: PalmInputs, contrast: Contrast) -> tuple[str, int]:
    """The file of the shufflings of a contrast, which several contrasts may have, and the rows that they shuffle."""
    prefix, n = description.exchangeability.permutations, inputs.n
    if description.statistic.regression == Method.HUH_JHUN.value:
        n = regression_test(description, inputs, contrast).n_rows
    name = find_permidx(prefix, contrast.number, contrast.design + 1)
    if name is None:
        raise FileError(
            f"--permutations: there is no {prefix}{contrast.suffix}_permidx.csv, and no {prefix}_permidx.csv; "
            "-saveperms writes them"
        )
    return name, n


def _read(name: str, n: int, possible: Shuffler | None) -> AnyShuffler:
    try:
        return ImportedShuffler(files.read_permutations(name), n, possible)
    except FileError:
        raise
    except InputError as error:
        raise FileError(f"{name}: {error}", file=name) from None


def _check_same(description: PalmDescription, contrasts: Sequence[Contrast], sets: Sequence[AnyShuffler]) -> None:
    """Tests that are corrected together need the same shuffle in each place of their sets."""
    first = sets[0].shuffles(0, sets[0].n)
    for contrast, other in zip(contrasts[1:], sets[1:]):
        if other.n != len(first) or not np.array_equal(other.shuffles(0, other.n), first):
            raise FileError(
                f"the shufflings of {contrast.title} in {description.exchangeability.permutations}… differ from those "
                f"of {contrasts[0].title}; contrasts that are corrected together need the same ones"
            )


def _check_same_nuisance(description: PalmDescription, inputs: PalmInputs, contrasts: Sequence[Contrast]) -> None:
    """Tests of Huh and Jhun that are corrected together need the same nuisance.

    Shuffles act on residuals that are rotated by a matrix of the nuisance. Of different nuisance, they are shuffled
    residuals of different kinds: statistics of one shuffle then do not depend on each other as those of the data do,
    and the null distribution of their maximum is not that of the tests.
    """
    first, *others = contrasts

    def rotation_of(contrast: Contrast) -> Float64:
        return named(contrast, lambda: regression_test(description, inputs, contrast)).rotation

    rotation = rotation_of(first)
    for contrast in others:
        other = rotation_of(contrast)
        if other.shape != rotation.shape or not np.allclose(other, rotation, rtol=0, atol=SAME_ROTATION):
            raise UsageError(
                f"-rmethod Huh-Jhun: {contrast.title} has other nuisance than {first.title}, so that each shuffles "
                "other residuals, and there is no null distribution of both; omit "
                f"{'-corrcon' if description.over_contrasts else '-corrmod'}, or take another method",
                option="-rmethod",
            )


def _draw(description: PalmDescription, inputs: PalmInputs, contrasts: Sequence[Contrast]) -> Shuffler:
    options = _options(description, inputs)
    if description.statistic.regression == Method.HUH_JHUN.value:
        tests = [regression_test(description, inputs, contrast) for contrast in contrasts]
        if len({test.n_rows for test in tests}) > 1:
            raise UsageError(
                "-rmethod Huh-Jhun: contrasts with nuisance of different rank cannot have the same shufflings, as "
                "-corrcon and -syncperms need", option="-rmethod",
            )  # fmt: skip
        return shuffler_of(np.hstack([test.regressors for test in tests]), tests[0].exchangeable(options))
    return shuffler_of(_labels(inputs, contrasts), options)


def _options(description: PalmDescription, inputs: PalmInputs) -> Permutations:
    ways = description.exchangeability
    one_level = not is_multi_level(inputs.blocks)
    return Permutations(
        ways.number,
        ways.seed,
        _renumbered(inputs.blocks) if one_level and inputs.blocks is not None else inputs.blocks,
        whole_blocks=ways.whole and one_level,
        flip=ways.flip and not ways.permute,
        permute_and_flip=ways.flip and ways.permute,
        within_blocks=ways.within and ways.whole and one_level,
        repeats=ways.repeats,
        distinct_rows=ways.all_differ or bool(description.regressors),
    )


def _renumbered(blocks: Ints) -> Ints:
    """Numbers of blocks without gaps: files may have any, and blocks may be left out as a whole."""
    numbers = np.unique(blocks[blocks > 0])
    return np.where(blocks > 0, np.searchsorted(numbers, blocks) + 1, blocks)


def _labels(inputs: PalmInputs, contrasts: Sequence[Contrast]) -> Float64:
    """(n, columns) Rows equal in it are interchangeable: in the columns that have a weight in any of the contrasts.

    Each row is numbered among the rows of one contrast first, because columns of several designs differ in scale. Rows
    with a missing regressor are interchangeable among themselves alone, whatever stands there.
    """
    labels: list[Ints] = []
    for contrast in contrasts:
        design = inputs.designs[contrast.design]
        own = [c for c in columns_of(contrast) if c < design.matrix.shape[1]]
        columns = np.where(design.missing[:, None], 0.0, design.matrix[:, own])
        labels.append(effective_labels(np.column_stack([columns, design.missing])))
    return np.column_stack(labels).astype(np.float64)


def with_groups(description: PalmDescription, inputs: PalmInputs) -> PalmInputs:
    """The inputs with the variance groups, if any are asked for, and without the observations of small ones.

    Automatic groups are the observations that permutations can exchange, as the blocks have it, whether these
    permutations are made or signs are flipped.
    """
    ways = description.exchangeability
    if not ways.groups:
        return inputs
    if ways.groups == "auto":
        permuted = replace(_options(description, inputs), flip=False, permute_and_flip=False)
        inputs = replace(inputs, groups=groups_of_orbits(shuffler_of(np.zeros(inputs.n), permuted).invariant))
    assert inputs.groups is not None
    _, number, sizes = np.unique(inputs.groups, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(sizes[number] >= ways.least_group)
    if not len(kept):
        raise UsageError(
            f"-removevgbysize {ways.least_group}: no variance group has as many observations; the largest has "
            f"{sizes.max()}", option="-removevgbysize",
        )  # fmt: skip
    return inputs if len(kept) == inputs.n else inputs.only(kept)
