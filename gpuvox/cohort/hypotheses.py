"""Tests by words: what is compared, in the names of the table, as weights of the columns of a model.

========================================  ==========================================================================
``MS - HC``                               difference of two levels of a factor
``RRMS + SPMS - 2*HC``                    any weights that sum to 0; ``(RRMS + SPMS)/2 - HC`` has means on both sides
``MS:post - MS:pre - HC:post + HC:pre``   cells of two factors
``group[MS] - group[HC]``                 the same as ``MS - HC``, where two factors have a level of that name
``age``                                   the slope of a covariate
``age[MS] - age[HC]``                     a difference of slopes
``group``, ``group:sex``, ``group:age``   F tests: any difference between levels, any interaction
``poly(age, 2)``                          an F test of all columns of a term
``mean``, ``MS``                          whether a mean differs from 0
``atrophy: HC - MS``                      any of them with a name
========================================  ==========================================================================

Means of levels are **adjusted means**, those of R's ``emmeans`` and of SPM's balanced contrasts: the model's mean for a
level, averaged over all combinations of the levels of the other factors with equal weights (whatever the number of
rows in each), and with every covariate at its mean over the rows. A slope is the change of the model's mean for a
change of the covariate by 1, averaged over levels in the same way. All weights follow from rows that the model has at
such places (`Model.expected`), so they do not depend on how factors are coded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from gpuvox.cohort.expressions import Combination, Item, Parser, joined, refuse, words_of
from gpuvox.cohort.model import COLLINEAR, Model, Term
from gpuvox.errors import DesignError
from gpuvox.partitioning import is_estimable, orthonormal_basis
from gpuvox.plain import composed, listed

Float64 = NDArray[np.float64]

ZERO = 1e-9
"""Weights below this share of the largest are rounding error."""
CATEGORY = re.compile(r"(?<![\w.])C\(\s*(\w+)\s*(?:,[^()]*(?:\([^()]*\))?\s*)?\)")
"""``C(site)`` or ``C(group, Treatment('HC'))``, as in a formula: the factor is called by its column."""


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A test of a model.

    Attributes
    ----------
    name : str
        What the user calls it; otherwise its text.
    text : str
        What is tested, as it was given.
    weights : (rows, p) float64
        One row for a t test; the rows of an F test.
    is_f : bool
    is_mean : bool
        A mean is compared with 0, so that signs are flipped and rows are not permuted.
    sentence : str
        What it means.
    groups : tuple of dict of str to str
        Factor → level, of the one mean that is tested or of the two that are compared with the weights 1 and −1;
        nothing for other tests.
    adjusted_for : tuple of str
        Variables of the model in which the test has no part.
    images : str
        Which of several sets of images are tested; empty if there is one. The name of the test begins with it.
    """

    name: str
    text: str
    weights: Float64
    is_f: bool
    is_mean: bool
    sentence: str
    groups: tuple[Mapping[str, str], ...] = ()
    adjusted_for: tuple[str, ...] = ()
    images: str = ""

    @property
    def own_name(self) -> str:
        """Its name without that of the images."""
        return self.name.removeprefix(f"{self.images}: ") if self.images else self.name

    def of_images(self, images: str) -> Hypothesis:
        """The same test of one of several sets of images."""
        return replace(self, name=f"{images}: {self.name}", images=images) if images else self

    def rows(self, names: Sequence[str]) -> list[str]:
        """Its weights by column, a line for each row: ``-1 group[HC] + 1 group[MS]``."""
        return [_weighted(row, names) for row in self.weights]


def _weighted(row: Float64, names: Sequence[str]) -> str:
    parts = [f"{abs(value):.6g} {name}" for value, name in zip(row, names) if value]
    signs = ["-" if value < 0 else "+" for value in row if value]
    first = f"{'-' if signs[0] == '-' else ''}{parts[0]}"
    return " ".join([first, *(f"{sign} {part}" for sign, part in zip(signs[1:], parts[1:]))])


@dataclass(frozen=True)
class _Verbs:
    """How sentences say what a t test compares."""

    larger: str = "is larger than"
    above: str = "is above 0"
    below: str = "is below 0"
    rise: str = "rise"
    fall: str = "fall"


ONE_SIDED = _Verbs()
TWO_SIDED = _Verbs("differs from", "differs from 0", "differs from 0", "rise or fall", "rise or fall")


def read_hypotheses(texts: Sequence[str], model: Model, two_sided: bool = False) -> list[Hypothesis]:
    """The tests of a run.

    Parameters
    ----------
    texts : sequence of str
        See the head of this module; none for the mean of one sample.
    model : Model
    two_sided : bool
        t tests have no direction.

    Raises
    ------
    DesignError
        A test cannot be read or estimated, or two have one name.
    """
    if not texts:
        if model.variables:
            raise DesignError(f"no test is given; such as --test {_example(model)!r}", option="--test")
        texts = ["mean"]
    found = [read_hypothesis(text, model, two_sided) for text in texts]
    twice = next((name for name, count in Counter(each.name for each in found).items() if count > 1), None)
    if twice is not None:
        raise DesignError(
            f"two tests are called {twice!r}; put a name and a colon before one of them", option="--test"
        )
    return found


def _example(model: Model) -> str:
    for factor in model.factors.values():
        return f"{factor.levels[1]} - {factor.levels[0]}"
    return next(iter(model.covariates))


def read_hypothesis(text: str, model: Model, two_sided: bool = False) -> Hypothesis:
    """One test; see `read_hypotheses`."""
    verbs = TWO_SIDED if two_sided else ONE_SIDED
    name, words = _named(CATEGORY.sub(r"\1", " ".join(composed(text).split())), model)
    if not words:
        refuse(text, "it is empty")
    sign = -1.0 if words.startswith("-") else 1.0
    term = next((term for term in model.terms if _same(term.name, words.removeprefix("-"))), None)
    if term is not None and _is_function(term, model) and (sign > 0 or len(term.columns) == 1):
        return _of_columns(name, words, term.columns, model, sign, verbs)
    combination = Parser(words, model).combination()
    if len(combination) == 1:
        item, weight = next(iter(combination.items()))
        if item.factors:
            return _omnibus(name, words, item, weight, model)
        if len(item.covariates) == 1 and not model.variables[item.covariates[0]].linear:
            return _curve(name, words, item, weight, model, verbs)
    return _contrast(name, words, combination, model, verbs)


def _is_function(term: Term, model: Model) -> bool:
    """Whether a term has a function of numbers in it, so that only its columns together can be tested.

    They can where no other term holds it: the columns of a main effect change their meaning beside an interaction.
    """
    of_functions = not all(part in model.variables for part in term.name.split(":"))
    return of_functions and not any(set(term.variables) < set(other.variables) for other in model.terms)


def _same(a: str, b: str) -> bool:
    return "".join(a.split()) == "".join(b.split())


def _named(text: str, model: Model) -> tuple[str, str]:
    """The name before a colon, and the rest; a colon without a blank after it may be an interaction.

    A colon in a level or a column of the model, such as the level ``MS:a``, does not end a name.
    """
    match = re.match(r"([^:'\"`\[]+?)\s*:(\s*)(.+)", text, re.DOTALL)
    if match is None or any(_same(text, term.name) for term in model.terms):
        return text, text
    if _is_inside_word(text, text.index(":"), model):
        return text, text
    known = words_of(model)
    known |= {part for term in model.terms for part in term.name.split(":")}
    first = match[1].strip()
    if match[2] or (first not in known and not re.search(r"[-+*/()]", first)):
        return first, match[3].strip()
    return text, text


def _is_inside_word(text: str, place: int, model: Model) -> bool:
    """Whether a word of the model stands around this place of a text."""
    found = (
        match.span()
        for word in words_of(model)
        for match in re.finditer(rf"(?<![\w.]){re.escape(word)}(?![\w.])", text)
    )
    return any(start <= place < end for start, end in found)


# -- weights --------------------------------------------------------------------------------------------------------


def _contrast(name: str, words: str, combination: Combination, model: Model, verbs: _Verbs) -> Hypothesis:
    """A t test of means, or of slopes."""
    if any(item.factors for item in combination):
        factor = next(item.factors[0] for item in combination if item.factors)
        refuse(
            words,
            f"{factor} is a factor; its levels are compared by their names: {listed(_levels(model, factor))}",
        )
    slopes = [bool(item.covariates) for item in combination]
    if any(slopes) and not all(slopes):
        refuse(words, "a slope and a mean cannot be added up")
    for item in combination:
        _check_linear(words, item, model)
    total, largest = sum(combination.values()), max(abs(weight) for weight in combination.values())
    is_mean = not slopes[0] and abs(total) > ZERO * largest
    if is_mean and any(weight < 0 for weight in combination.values()) and len(combination) > 1:
        refuse(
            words,
            f"its weights sum to {total:g}; those of a comparison sum to 0, as in {_balanced(combination)!r}",
        )
    weights = sum(weight * _row(item, model) for item, weight in combination.items())
    sentence = _of_means(combination, is_mean, verbs) if not slopes[0] else _of_slopes(combination, verbs)
    used = {part for item in combination for part in (*dict(item.levels), *item.covariates)}
    hypothesis = _checked(name, words, np.atleast_2d(weights), used, model, is_mean=is_mean, sentence=sentence)
    return hypothesis if slopes[0] else replace(hypothesis, groups=_groups(combination, is_mean, model))


def _groups(combination: Combination, is_mean: bool, model: Model) -> tuple[Mapping[str, str], ...]:
    """The mean of one sample or group, or the two groups that are compared."""
    levels = tuple(dict(item.levels) for item in combination)
    same_factors = len({frozenset(each) for each in levels}) == 1
    if not same_factors or sorted(combination.values()) not in ([1.0], [-1.0], [-1.0, 1.0]):
        return ()
    return levels if all(levels) or (is_mean and not model.factors) else ()


def _row(item: Item, model: Model) -> Float64:
    """(p,) The mean at its levels or, for covariates, how it changes with them: a difference of rows of the model."""
    levels = dict(item.levels)
    total = np.zeros(len(model.names))
    for steps in product((0.0, 1.0), repeat=len(item.covariates)):
        sign = (-1.0) ** (len(steps) - sum(steps))
        total += sign * model.expected(levels, dict(zip(item.covariates, steps)))
    return total


def _check_linear(words: str, item: Item, model: Model) -> None:
    curved = next((name for name in item.covariates if not model.variables[name].linear), None)
    if curved is not None:
        terms = [term.name for term in model.terms if curved in term.variables]
        refuse(words, f"{curved} has no single slope in this model, which has {listed(terms)}; test {terms[-1]!r}")


def _balanced(combination: Combination) -> str:
    plus = [str(item) for item, weight in combination.items() if weight > 0]
    minus = [str(item) for item, weight in combination.items() if weight < 0]
    left, right = (side[0] if len(side) == 1 else f"({' + '.join(side)})/{len(side)}" for side in (plus, minus))
    return f"{left} - {right}"


def _omnibus(name: str, words: str, item: Item, weight: float, model: Model) -> Hypothesis:
    """An F test of any difference between the levels of factors, in their means or in slopes."""
    if item.levels or weight != 1:
        refuse(words, "an F test is of a term of the model: factors, or factors and a covariate, by their names")
    _check_linear(words, item, model)
    sets = [[(name, level) for level in _levels(model, name)] for name in item.factors]
    rows = []
    for others in product(*(each[1:] for each in sets)):
        row = np.zeros(len(model.names))
        for chosen in product((0, 1), repeat=len(sets)):
            at = tuple(each[0] if first == 0 else other for each, other, first in zip(sets, others, chosen))
            row += (-1.0) ** (len(chosen) - sum(chosen)) * _row(Item(at, item.covariates), model)
        rows.append(row)
    what = f"the slope of {' by '.join(item.covariates)}" if item.covariates else "the mean"
    if len(item.factors) == 1:
        levels = _levels(model, item.factors[0])
        sentence = f"{what} differs between any of {joined(levels)}"
    else:
        sentence = f"{what} depends on the combination of {joined(item.factors)}: any interaction"
    used = {*item.factors, *item.covariates}
    return _checked(name, words, np.array(rows), used, model, is_f=True, sentence=sentence)


def _curve(name: str, words: str, item: Item, weight: float, model: Model, verbs: _Verbs) -> Hypothesis:
    """An F test of all columns of a covariate that has several."""
    covariate = item.covariates[0]
    terms = [term for term in model.terms if covariate in term.variables]
    alone = all(term.variables == (covariate,) for term in terms)
    if item.levels or not alone:
        refuse(words, f"{covariate} is in {listed([t.name for t in terms])}: name the term to be tested")
    columns = model.columns_of(covariate)
    if len(columns) == 1:
        return _of_columns(name, f"{'-' if weight < 0 else ''}{terms[0].name}", columns, model, weight, verbs)
    if weight != 1:
        refuse(words, f"{covariate} has several columns, and an F test of them has no weight")
    return _of_columns(name, words, columns, model)


def _of_columns(
    name: str, words: str, columns: Sequence[int], model: Model, weight: float = 1.0, verbs: _Verbs = ONE_SIDED
) -> Hypothesis:
    """An F test (of one column, a t test) that some columns have no part in the data."""
    weights = weight * _comparisons(columns, model)
    if len(columns) == 1:
        sentence = f"the values {verbs.rise if weight > 0 else verbs.fall} with {words.removeprefix('-')}"
    else:
        sentence = f"the values depend on {words} in any way that the model has for it"
    tested = [set(term.variables) for term in model.terms if {*term.columns} & {*columns}]
    beside = [term for term in model.terms if not {*term.columns} & {*columns} and set(term.variables) in tested]
    used = set().union(*tested).difference(*(term.variables for term in beside))
    return _checked(name, words, weights, used, model, is_f=len(columns) > 1, sentence=sentence)


def _comparisons(columns: Sequence[int], model: Model) -> Float64:
    """(k, p) What columns have in the data that the terms within theirs have not.

    One row for each, but where a combination of them is the constant or a main effect, as the sum of all columns of a
    natural spline is: that combination is left out, for the model has it anyhow.
    """
    rows = np.eye(len(model.names))[list(columns)]
    used = {part for term in model.terms if {*term.columns} & {*columns} for part in term.variables}
    within = [column for term in model.terms if set(term.variables) < used for column in term.columns]
    held = orthonormal_basis(np.column_stack([np.ones(len(model.matrix)), model.matrix[:, within]]))
    found: list[Float64] = []
    for _, combination in model.dependencies:
        part = model.matrix[:, columns] @ combination[list(columns)]
        if np.abs(part - held @ (held.T @ part)).max() > COLLINEAR * max(1.0, np.abs(part).max()):
            return rows
        found.append(combination[list(columns)])
    return _complement(np.array(found)) @ rows if found else rows


def _complement(given: Float64) -> Float64:
    """(k, m) Rows that are orthogonal to all of the rows given, each with a 1 and weights of the first columns."""
    first: list[int] = []
    rows = []
    for column in range(given.shape[1]):
        row = np.zeros(given.shape[1])
        row[column] = 1
        solution = np.linalg.lstsq(given[:, first], given[:, column], rcond=None)[0] if first else np.zeros(0)
        rest = given[:, column] - given[:, first] @ solution
        if np.linalg.norm(rest) > COLLINEAR * np.linalg.norm(given):
            first.append(column)
        else:
            row[first] = -solution
            rows.append(row)
    return np.array(rows).reshape(-1, given.shape[1])


def _checked(
    name: str,
    words: str,
    weights: Float64,
    used: Collection[str],
    model: Model,
    *,
    sentence: str,
    is_f: bool = False,
    is_mean: bool = False,
) -> Hypothesis:
    """The hypothesis about the variables `used`, if the model can estimate it."""
    largest = np.abs(weights).max(axis=1, keepdims=True)
    if (largest < ZERO).any():
        refuse(words, "the model has no such difference: it is 0 for whatever data")
    weights = np.where(np.abs(weights) < ZERO * largest, 0.0, weights)
    weights = _rounded(weights)
    if not is_estimable(model.matrix, weights):
        refuse(words, f"it cannot be estimated, since {_why(weights, model)}")
    if is_f and orthonormal_basis(weights.T).shape[1] < len(weights):
        refuse(words, "some of its comparisons follow from others")
    others = [variable for variable in model.variables if variable not in used]
    sentence += _beside(others, used, model)
    return Hypothesis(name, words, weights, is_f, is_mean, sentence, adjusted_for=tuple(others))


def _beside(others: Sequence[str], used: Collection[str], model: Model) -> str:
    """What a sentence says of variables that are not tested: where those of interactions are held, and the rest."""
    terms = [{*term.variables} for term in model.terms]
    held = [name for name in others if any(name in term and term & {*used} for term in terms)]
    over = [name for name in held if model.variables[name].is_factor]
    at = [name for name in held if name not in over]
    places = [f"averaged over {joined(over)}"] if over else []
    places += [f"at the mean of {joined(at)}"] if at else []
    rest = [name for name in others if name not in held]
    adjusted = f"; adjusted for {joined(rest)}" if rest else ""
    return f"{', ' if places else ''}{' and '.join(places)}{adjusted}"


def _rounded(weights: Float64) -> Float64:
    """Weights without rounding error of their averages: 0.33333333333333337 and 0.3333333333333333 are one number."""
    nearest = np.round(weights * 720720) / 720720
    return np.where(np.abs(weights - nearest) < ZERO, nearest, weights)


def _why(weights: Float64, model: Model) -> str:
    """Which columns are collinear that the test would have to tell apart."""
    for columns, combination in model.dependencies:
        if np.abs(weights @ combination).max() > ZERO * np.abs(weights).max() * np.abs(combination).max():
            return f"{model.describe_dependency(columns)}"
    return "the model does not hold it"


def _levels(model: Model, factor: str) -> tuple[str, ...]:
    return model.variables[factor].levels


def _of_means(combination: Mapping[Item, float], is_mean: bool, verbs: _Verbs) -> str:
    if is_mean:
        return _above_or_below(combination, verbs)
    return f"{_sum(combination, 1)} {verbs.larger} {_sum(combination, -1)}"


def _of_slopes(combination: Mapping[Item, float], verbs: _Verbs) -> str:
    if len(combination) == 1:
        item, weight = next(iter(combination.items()))
        direction = verbs.rise if weight > 0 else verbs.fall
        where = f" in {' and '.join(level for _, level in item.levels)}" if item.levels else ""
        return f"the values {direction} with {' times '.join(item.covariates)}{where}"
    if min(combination.values()) > 0 or max(combination.values()) < 0:
        return _above_or_below(combination, verbs)
    return f"{_sum(combination, 1)} {verbs.larger} {_sum(combination, -1)}"


def _above_or_below(combination: Mapping[Item, float], verbs: _Verbs) -> str:
    """A sentence about weights of one sign."""
    if min(combination.values()) > 0:
        return f"{_sum(combination, 1)} {verbs.above}"
    return f"{_sum(combination, -1)} {verbs.below}"


def _sum(combination: Mapping[Item, float], sign: int) -> str:
    """One side of a comparison: ``the mean of MS``, ``2 times the mean of HC``."""
    parts = []
    for item, weight in combination.items():
        if weight * sign > 0:
            times = "" if abs(weight) == 1 else f"{abs(weight):g} times "
            parts.append(times + _title(item))
    return " plus ".join(parts) or "0"


def _title(item: Item) -> str:
    where = " and ".join(level for _, level in item.levels)
    if item.covariates:
        return f"the slope of {' by '.join(item.covariates)}" + (f" in {where}" if where else "")
    return f"the mean of {where}" if where else "the mean"
