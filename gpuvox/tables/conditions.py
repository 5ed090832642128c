"""Conditions on the rows of a table of participants.

A condition is a comparison of columns with numbers or text, ``age <= 50 and phenotype == 'RRMS'``: ``and``, ``or``,
``not``, ``in ('a', 'b')``, parentheses, arithmetic. It is parsed, not executed. A comparison with a missing value is
neither true nor false, so such a participant belongs neither to a subset nor to its complement.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox.errors import FileError
from gpuvox.tables.columns import require
from gpuvox.tables.levels import alike, is_declared, whose
from gpuvox.types import AnyArray

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]
COMPARISONS: dict[type, Callable[[AnyArray, AnyArray], AnyArray]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
ARITHMETIC: dict[type, Callable[[AnyArray, AnyArray], AnyArray]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
LOGIC: dict[type, str] = {ast.And: "and", ast.BitAnd: "and", ast.Or: "or", ast.BitOr: "or"}


def select(table: pd.DataFrame, condition: str) -> Bool:
    """Rows for which a condition is true.

    Parameters
    ----------
    table : DataFrame
        See `typed`.
    condition : str
        See the docstring of this module; empty selects all. Names may contain dots; unusual names are put in
        `` `backticks` ``.

    Returns
    -------
    (n,) bool

    Raises
    ------
    FileError
        The condition is not valid for these columns.
    """
    if not condition.strip():
        return np.ones(len(table), dtype=bool)
    try:
        return _Condition(table, condition).rows()
    except FileError as error:
        raise FileError(f"the condition {condition!r}: {error}") from None


def evaluate(table: pd.DataFrame, expression: str) -> Float64:
    """Values of an arithmetic expression of columns, ``thalamus.qsm - csf.qsm``; parsed, not executed.

    Parameters
    ----------
    table : DataFrame
        See `typed`.
    expression : str
        Numbers, names of columns (see `select`), ``+ - * /`` and parentheses.

    Returns
    -------
    (n,) float64
        NaN where a value is missing.

    Raises
    ------
    FileError
        The expression is not valid for these columns, or a value is infinite, as by a division by 0.
    """
    try:
        values = _Condition(table, expression).number()
        rows = np.flatnonzero(np.isinf(values))
        if len(rows):
            raise FileError(f"the value of {whose(table, int(rows[0]))} is infinite")
    except FileError as error:
        raise FileError(f"the expression {expression!r}: {error}") from None
    return values


class _Condition:
    """A condition, evaluated in three-valued logic: a truth value is a pair of masks, true and false."""

    def __init__(self, table: pd.DataFrame, text: str) -> None:
        self.table = table
        self.quoted: dict[str, str] = {}
        self.spelled: set[Any] = set()
        self.text = re.sub(r"`([^`]*)`", self._quote, text.strip())

    def _quote(self, match: re.Match[str]) -> str:
        name = f"quoted_{len(self.quoted)}_"
        self.quoted[name] = match[1]
        return name

    def rows(self) -> Bool:
        try:
            tree = ast.parse(self.text, mode="eval").body
            self.spelled = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            return self._truth(tree)[0]
        except FileError:
            raise
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise FileError("not of the form age <= 50 and group == 'MS'") from None

    def number(self) -> Float64:
        """The values of an arithmetic expression."""
        try:
            return self._number(ast.parse(self.text, mode="eval").body)
        except FileError:
            raise
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise FileError("not of the form thalamus.qsm - csf.qsm") from None

    def _truth(self, node: ast.AST) -> tuple[Bool, Bool]:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            yes, no = self._truth(node.operand)
            return no, yes
        if isinstance(node, ast.BoolOp):
            return self._joined(LOGIC[type(node.op)], [self._truth(value) for value in node.values])
        if isinstance(node, ast.BinOp) and type(node.op) in LOGIC:
            return self._joined(LOGIC[type(node.op)], [self._truth(node.left), self._truth(node.right)])
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            return self._joined("and", [self._compared(*each) for each in zip(sides, node.ops, sides[1:])])
        raise FileError(f"{ast.unparse(node)} is not a comparison")

    @staticmethod
    def _joined(kind: str, parts: Sequence[tuple[Bool, Bool]]) -> tuple[Bool, Bool]:
        yes, no = np.array([part[0] for part in parts]), np.array([part[1] for part in parts])
        every, some = np.logical_and.reduce, np.logical_or.reduce
        return (every(yes), some(no)) if kind == "and" else (some(yes), every(no))

    def _compared(self, left_operand: ast.AST, how: ast.cmpop, right_operand: ast.AST) -> tuple[Bool, Bool]:
        if isinstance(how, ast.In | ast.NotIn):
            if not isinstance(right_operand, ast.Tuple | ast.List | ast.Set):
                raise FileError(f"in needs a list such as ('a', 'b'), not {ast.unparse(right_operand)}")
            if not right_operand.elts:
                raise FileError("in needs a list that is not empty")
            yes, no = self._joined(
                "or", [self._compared(left_operand, ast.Eq(), value) for value in right_operand.elts]
            )
            return (yes, no) if isinstance(how, ast.In) else (no, yes)
        if type(how) not in COMPARISONS:
            raise FileError("expected ==, !=, <, <=, >, >= or in")
        a, b = self._value(left_operand), self._value(right_operand)
        if (a.dtype == object) != (b.dtype == object):
            text = left_operand if a.dtype == object else right_operand
            raise FileError(f"{ast.unparse(text)} is text but is compared with a number")
        known = ~(pd.isna(a) | pd.isna(b))
        if isinstance(how, ast.Eq | ast.NotEq) and a.dtype == object:
            self._check_spelling(left_operand, a[known], right_operand, b[known])
        answer = np.zeros(len(known), dtype=bool)
        answer[known] = COMPARISONS[type(how)](a[known], b[known]).astype(bool)
        return answer, known & ~answer

    def _check_spelling(self, left_operand: ast.AST, a: AnyArray, right_operand: ast.AST, b: AnyArray) -> None:
        """Raise `FileError` if text in the condition differs from a value only in case or blanks."""
        for asked, node, values in ((left_operand, right_operand, b), (right_operand, left_operand, a)):
            if (
                not isinstance(asked, ast.Constant)
                or not isinstance(asked.value, str)
                or isinstance(node, ast.Constant)
            ):
                continue
            name = self._name(node)
            if is_declared(self.table, name):
                continue
            for value in dict.fromkeys(values.tolist()):
                if value not in self.spelled and alike(value) == alike(asked.value):
                    raise FileError(
                        f"{name} is {value!r} in a row, which differs from {asked.value!r} only in case or blanks"
                    )

    def _name(self, node: ast.AST) -> str:
        name = ast.unparse(node)
        return self.quoted.get(name, name)

    def _value(self, node: ast.AST) -> AnyArray:
        n = len(self.table)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return np.full(n, node.value, dtype=object)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return np.full(n, _as_float(node.value))
        if isinstance(node, ast.Name | ast.Attribute):
            name = self._name(node)
            require(self.table, [name], "")
            column = self.table[name]
            numeric = pd.api.types.is_numeric_dtype(column)
            return column.to_numpy(dtype=np.float64 if numeric else object)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._number(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            with np.errstate(all="ignore"):
                value: AnyArray = ARITHMETIC[type(node.op)](self._number(node.left), self._number(node.right))
                return value
        raise FileError(f"{ast.unparse(node)} is neither a column, a number nor text in quotes")

    def _number(self, node: ast.AST) -> Float64:
        value = self._value(node)
        if value.dtype == object:
            raise FileError(f"{ast.unparse(node)} is text; a number is needed")
        return value


def _as_float(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FileError("a number in it is too large")
    return number


@dataclass(frozen=True)
class LeftOut:
    """Rows excluded by a condition.

    Attributes
    ----------
    condition : str
    n : int
        Rows of the table.
    false, unknown : int
        Rows for which it is false, and for which it is undecided because a compared value is missing.
    """

    condition: str = ""
    n: int = 0
    false: int = 0
    unknown: int = 0

    def lines(self) -> list[str]:
        """A sentence if rows are excluded, otherwise none."""
        out = self.false + self.unknown
        if not out:
            return []
        reasons = f": false for {self.false}, missing values in {self.unknown}" if self.unknown else ""
        return [f"the condition {self.condition!r} excludes {out} of {self.n} rows{reasons}"]

    def record(self) -> dict[str, int]:
        """The numbers, for a JSON file."""
        return {"false": self.false, "value_missing": self.unknown}


def left_out(table: pd.DataFrame, condition: str) -> LeftOut:
    """Count the excluded rows; errors as for `select`."""
    if not condition.strip():
        return LeftOut(condition, len(table))
    # On a separate line, because a condition may end with a comment.
    false = select(table, f"not (\n{condition}\n)")
    undecided = ~(select(table, condition) | false)
    return LeftOut(condition, len(table), int(np.count_nonzero(false)), int(np.count_nonzero(undecided)))
