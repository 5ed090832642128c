"""Terms of a model: variables and interactions in blocks, and the models of a family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gpuvox.errors import DesignError, FileError, OptionError, UsageError
from gpuvox.study.statistics.sources import Source, check_named_once, find_columns
from gpuvox.tables.columns import indicators, require
from gpuvox.tables.reading import label

EACH = "{each}"
"""Stands for an item of ``each`` in the names of outcomes and predictors."""


@dataclass(frozen=True)
class Model:
    """One model of a family.

    Attributes
    ----------
    name : str
    outcome : str
    blocks : dict of str to list of str
        Terms of each block, in order of entry: variables, and interactions ``a:b``.
    """

    name: str
    outcome: str
    blocks: Mapping[str, Sequence[str]]

    @property
    def variables(self) -> list[str]:
        """Variables of all terms, each once."""
        return list(dict.fromkeys(v for terms in self.blocks.values() for term in terms for v in parts_of(term)))


def parts_of(term: str) -> list[str]:
    """The variables of a term."""
    return term.split(":")


def plan(
    table: pd.DataFrame,
    outcomes: Sequence[str],
    blocks: Mapping[str, Sequence[str]],
    each: Sequence[str],
    source: Source,
) -> list[Model]:
    """The models of a family.

    Parameters
    ----------
    table : DataFrame
    outcomes : sequence of str
        Variables; several are a family.
    blocks : dict of str to sequence of str
        Variables, patterns and interactions.
    each : sequence of str
        Variables (or patterns), each the last block of a model of its own; or, if ``{each}`` occurs in outcomes or
        blocks, words that replace it.
    source : Source
        For messages.

    Raises
    ------
    InputError
        There are no predictors; a variable is missing, is named twice, or is both outcome and predictor.
    """
    named = [*outcomes, *(term for terms in blocks.values() for term in terms)]
    if not (each or blocks):
        raise UsageError("a regression needs predictors: --block NAME=COLUMNS, or --each COLUMNS")
    if any(EACH in name for name in named):
        if not each:
            raise OptionError("--each", f"is missing; {EACH} stands for its items")
        words = list(dict.fromkeys(each))
        return [_one(table, *_filled(word, outcome, blocks), [], source, (word, outcomes)) for word in words
                for outcome in outcomes]  # fmt: skip
    last = find_columns(table, each, "each", source) or [""]
    return [
        _one(table, outcome, blocks, [name] if name else [], source, (name, outcomes))
        for outcome in outcomes
        for name in last
    ]


def _filled(word: str, outcome: str, blocks: Mapping[str, Sequence[str]]) -> tuple[str, dict[str, list[str]]]:
    return outcome.replace(EACH, word), {
        name: [term.replace(EACH, word) for term in terms] for name, terms in blocks.items()
    }


def _one(
    table: pd.DataFrame,
    outcome: str,
    blocks: Mapping[str, Sequence[str]],
    last: Sequence[str],
    source: Source,
    of: tuple[str, Sequence[str]],
) -> Model:
    """A model; `of` are its word or last block, and all outcomes, by which it is named."""
    require(table, [outcome], source.origin)
    place: dict[str, str] = {outcome: "the outcome"}
    entered: dict[str, list[str]] = {}
    for name, patterns in blocks.items():
        entered[name] = terms_of(table, patterns, f"block {name}", source)
        _take(entered[name], place, f"--block {name}")
    for name in last:
        if name in blocks:
            raise OptionError(f"--block {name}", "--each makes a block of this name; choose another")
        _take([name], place, "--each")
        entered[name] = [name]
    word, outcomes = of
    label = word or outcome
    if len(outcomes) > 1:
        label = outcome if word in outcome else f"{outcome}: {word}"
    return Model(label, outcome, entered)


def _take(terms: Sequence[str], place: dict[str, str], block: str) -> None:
    """Raise `OptionError` if a term has a place already; interactions need their variables before them."""
    for term in terms:
        if term in place:
            raise OptionError(block, f"{term} is already {place[term]}")
        place[term] = f"a predictor of {block}"
        parts = parts_of(term)
        for part in parts if len(parts) > 1 else ():
            if part not in place or place[part] == "the outcome":
                raise OptionError(block, f"the interaction {term} needs {part} as a predictor before it")


def terms_of(table: pd.DataFrame, patterns: Sequence[str], option: str, source: Source) -> list[str]:
    """Variables that patterns name, and interactions as they are, in order."""
    terms: list[str] = []
    check_named_once(patterns, option)
    for pattern in patterns:
        if ":" not in pattern or pattern in table.columns:
            terms += [name for name in find_columns(table, [pattern], option, source) if name not in terms]
            continue
        parts = [part.strip() for part in pattern.split(":")]
        if len(set(parts)) < len(parts):
            raise OptionError(f"--{option}", f"the interaction {pattern} has one variable twice")
        for part in parts:
            if part not in table.columns:
                raise OptionError(f"--{option}", f"the interaction {pattern}: there is no variable {part!r}")
        terms.append(":".join(parts))
    return terms


def columns_of_terms(rows: pd.DataFrame, terms: Sequence[str], origin: str) -> pd.DataFrame:
    """Columns of a design. An interaction is the product of its variables' columns, of which numbers with more than two
    values are centred first, so that the other coefficients are effects at their means.

    Raises
    ------
    FileError
        A value is missing, or text is not categorical.
    """
    frames = []
    for term in terms:
        parts = [indicators(rows, [part], origin) for part in parts_of(term)]
        if len(parts) == 1:
            frames.append(parts[0])
            continue
        product = pd.DataFrame({"": np.ones(len(rows))}, index=rows.index)
        for part in parts:
            centred = part.apply(lambda column: column - column.mean() if column.nunique() > 2 else column)
            product = pd.DataFrame(
                {f"{a}:{b}" if a else str(b): product[a] * centred[b] for a in product for b in centred},
                index=rows.index,
            )
        frames.append(product)
    if not frames:
        raise DesignError("a block has no predictor")
    return pd.concat(frames, axis=1)


def binary(rows: pd.DataFrame, name: str, origin: str, event: str = "") -> tuple[np.ndarray, str]:
    """An outcome with two values as 0 and 1, and the value that is 1: `event`, or the second in order if it is empty.

    Raises
    ------
    FileError
        The outcome has not two values, or none is the event.
    """
    column = rows[name]
    values = sorted(set(column.dropna().tolist()))
    if len(values) != 2:
        raise FileError(f"{origin}: {name} has {len(values)} values; a logistic model needs an outcome with two")
    names = [label(value) for value in values]
    if names[0] == names[1]:  # they differ in the last of their digits
        names = [str(value) for value in values]
    if event and event not in names:
        raise FileError(f"{origin}: no {name} is {event!r}, the event; there are {' and '.join(names)}")
    which = names.index(event) if event else 1
    return (column == values[which]).to_numpy(dtype=np.float64), names[which]
