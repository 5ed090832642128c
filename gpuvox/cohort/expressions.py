"""Expressions of tests: sums of means and slopes with weights, in the names of levels and covariates of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from gpuvox.cohort.model import Model
from gpuvox.errors import DesignError
from gpuvox.plain import listed

MEAN = ("mean", "intercept", "Intercept")
"""What the mean over everything is called."""
NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")


@dataclass(frozen=True)
class Item:
    """A mean or a slope: at these levels, by these covariates."""

    levels: tuple[tuple[str, str], ...] = ()
    covariates: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ":".join([*self.covariates, *self.factors, *(level for _, level in self.levels)]) or "mean"


Combination = dict[Item, float]


def words_of(model: Model) -> set[str]:
    """What stands for itself in a test: variables, levels and the mean."""
    return {*model.variables, *(level for f in model.factors.values() for level in f.levels), *MEAN}


def refuse(text: str, reason: str) -> NoReturn:
    """Raise `DesignError`: a test cannot be read."""
    raise DesignError(f"the test {text!r}: {reason}", option="--test")


def joined(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


class Parser:
    """``(RRMS + SPMS)/2 - HC``: sums of items with weights, by recursive descent."""

    def __init__(self, text: str, model: Model) -> None:
        self.text, self.model = text, model
        self.words = sorted(words_of(model), key=len, reverse=True)
        self.place = 0
        self.depth = 0

    def combination(self) -> Combination:
        """Item → weight; none is 0."""
        value = self._sum()
        self._skip()
        if self.place < len(self.text):
            self._wrong()
        if not isinstance(value, dict):
            there = self._there_are()
            refuse(
                self.text,
                f"it names neither a level nor a covariate: {there}; numbers are levels of factors alone, of C(site)",
            )
        found = {item: weight for item, weight in value.items() if weight}
        if not found:
            refuse(self.text, "it is 0 for whatever data")
        return found

    def _sum(self) -> Combination | float:
        self.depth += 1
        if self.depth > 50:
            refuse(self.text, "its parentheses are nested too deep")
        value = self._product()
        while (sign := self._take("+-")) is not None:
            value = self._added(value, self._product(), -1.0 if sign == "-" else 1.0)
        self.depth -= 1
        return value

    def _product(self) -> Combination | float:
        value = self._signed()
        while (sign := self._take("*/")) is not None:
            other = self._signed(by_number=sign == "/" or isinstance(value, dict))
            if isinstance(value, dict) and isinstance(other, dict):
                refuse(self.text, "a weight is a number; two levels together are a cell, as in MS:post")
            if sign == "/":
                if isinstance(other, dict) or not other:
                    refuse(self.text, "what stands after / is a number other than 0")
                other = 1 / other
            value = self._times(value, other)
        return value

    def _signed(self, by_number: bool = False) -> Combination | float:
        """An item with its signs; `by_number` after ``HC*`` and ``/``, where a number is no level of that name."""
        sign = 1.0
        while (taken := self._take("+-")) is not None:
            sign *= -1.0 if taken == "-" else 1.0
        if self._take("(") is not None:
            value = self._sum()
            if self._take(")") is None:
                refuse(self.text, "a parenthesis is not closed")
        else:
            value = self._item(by_number)
        return self._times(value, sign)

    @staticmethod
    def _times(a: Combination | float, b: Combination | float) -> Combination | float:
        if isinstance(a, dict):
            assert not isinstance(b, dict)
            return {item: weight * b for item, weight in a.items()}
        return {item: weight * a for item, weight in b.items()} if isinstance(b, dict) else a * b

    def _added(self, a: Combination | float, b: Combination | float, sign: float) -> Combination | float:
        if isinstance(a, dict) and isinstance(b, dict):
            return {item: a.get(item, 0.0) + sign * b.get(item, 0.0) for item in {**a, **b}}
        if isinstance(a, dict) or isinstance(b, dict):
            refuse(self.text, "a number stands by itself; numbers are weights, as in 2*HC")
        return a + sign * b

    def _item(self, by_number: bool) -> Combination | float:
        """A number, or levels, factors and covariates with colons between them."""
        self._skip()
        number = NUMBER.match(self.text, self.place)
        word = None if by_number and number else self._word()
        if word is None:
            if number is None:
                self._wrong()
            self.place = number.end()
            return float(number[0])
        levels: dict[str, str] = {}
        covariates: list[str] = []
        factors: list[str] = []
        while True:
            self._part(word, levels, covariates, factors)
            if self._take(":") is None:
                break
            word = self._word() or self._wrong()
        return {Item(tuple(sorted(levels.items())), tuple(covariates), tuple(factors)): 1.0}

    def _part(self, word: str, levels: dict[str, str], covariates: list[str], factors: list[str]) -> None:
        variable = self.model.variables.get(word)
        owners = [name for name, factor in self.model.factors.items() if word in factor.levels]
        if self._take("[") is not None:
            inside = self._levels_inside()
            if variable is None:
                refuse(self.text, f"{word} is no column of the model")
            if variable.is_factor:
                if len(inside) != 1 or inside[0] not in variable.levels:
                    refuse(self.text, f"{word} has the levels {listed(variable.levels)}")
                self._put(levels, word, inside[0])
            else:
                covariates.append(word)
                for level in inside:
                    self._put(levels, self._owner(level), level)
        elif variable is not None and not owners:
            (factors if variable.is_factor else covariates).append(word)
        elif owners:
            self._put(levels, self._owner(word), word)

    def _levels_inside(self) -> list[str]:
        inside = []
        while True:
            inside.append(self._word() or self._wrong())
            if self._take("]") is not None:
                return inside
            if self._take(",:") is None:
                self._wrong()

    def _owner(self, level: str) -> str:
        owners = [name for name, factor in self.model.factors.items() if level in factor.levels]
        if not owners:
            refuse(self.text, f"{level} is no level of a factor of the model; {self._there_are()}")
        if len(owners) > 1:
            refuse(self.text, f"{level} is a level of {joined(owners)}: write {owners[0]}[{level}]")
        return owners[0]

    def _put(self, levels: dict[str, str], factor: str, level: str) -> None:
        if factor in levels:
            refuse(self.text, f"a cell has one level of {factor}, not two")
        levels[factor] = level

    def _word(self) -> str | None:
        """The longest name of the model here, or what stands in quotation marks; None if there is neither."""
        self._skip()
        rest = self.text[self.place :]
        quoted = re.match(r"([`'\"])(.+?)\1", rest)
        if quoted:
            self.place += quoted.end()
            if quoted[2] not in self.words:
                refuse(self.text, f"there is no {quoted[2]!r} in the model; {self._there_are()}")
            return quoted[2]
        for word in self.words:
            after = rest[len(word) : len(word) + 1]
            if rest.startswith(word) and not (word[-1:].isalnum() and (after.isalnum() or after == "_")):
                if NUMBER.fullmatch(word) and self._is_weight(len(word)):
                    continue
                self._check_cell(word)
                self.place += len(word)
                return word
        return None

    def _check_cell(self, word: str) -> None:
        """Refuse a level ``MS:post`` where MS and post are in the model, too, so that their cell may be meant."""
        parts = [part.strip() for part in word.split(":")]
        if len(parts) > 1 and all(part in self.words for part in parts):
            cell = ":".join(f"`{part}`" for part in parts)
            refuse(self.text, f"{word} may be one name or several: write `{word}` or {cell}")

    def _is_weight(self, length: int) -> bool:
        """Whether the number here is a weight although a level has its name: ``2*HC``, ``1/2*HC``, ``1.5*HC``."""
        number = NUMBER.match(self.text, self.place)
        after = self.text[self.place + length :]
        longer = number is not None and len(number[0]) > length
        return longer or re.match(rf"\s*(\*|/\s*({NUMBER.pattern})\s*\*)", after) is not None

    def _take(self, letters: str) -> str | None:
        self._skip()
        letter = self.text[self.place : self.place + 1]
        if letter and letter in letters:
            self.place += 1
            return letter
        return None

    def _skip(self) -> None:
        while self.text[self.place : self.place + 1].isspace():
            self.place += 1

    def _wrong(self) -> NoReturn:
        rest = self.text[self.place :].strip()
        match = re.match(r"[\w.]+|.", rest)
        if not match:
            refuse(self.text, "it ends where a level or a covariate is expected")
        refuse(self.text, f"{match[0]!r} is not known here; {self._there_are()}")

    def _there_are(self) -> str:
        each = [f"{name} ({listed(factor.levels, 8)})" for name, factor in self.model.factors.items()]
        return f"the model has {listed([*each, *self.model.covariates]) or 'a mean and no column of the table'}"
