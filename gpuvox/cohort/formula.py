"""Wilkinson formulas of the columns of a table.

The grammar is that of R and of `formulaic`, which parses it: ``group + age``, ``group * age`` (main effects and
interaction), ``group:age``, ``poly(age, 2)``, ``bs(age, df=4)``, ``log(tiv)``, ``C(site)`` (numbers as categories),
``C(group, Treatment('HC'))`` (a reference level), ``- 1`` (no intercept). A formula is the user's input, so nothing of
it is run but the functions of `FUNCTIONS` on columns and numbers: every factor is read as a syntax tree first, and
whatever else it holds is refused.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from gpuvox.cohort.table import Cohort
from gpuvox.errors import DesignError
from gpuvox.plain import composed

FUNCTIONS = (
    "I", "center", "scale", "standardize", "log", "log2", "log10", "exp", "sqrt", "poly", "bs", "cr", "cs", "cc",
)  # fmt: skip
"""What may be called in a formula, on columns of numbers."""
OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
LARGEST_EXPONENT = 10


def columns_of_formula(formula: str, cohort: Cohort) -> list[str]:
    """The columns of a table that a formula uses, in their order there.

    Raises
    ------
    DesignError
        It is no formula, or calls something else than `FUNCTIONS`.
    FileError
        The table has no such column.
    """
    terms, _ = parse(formula, cohort)
    return list(dict.fromkeys(name for term in terms for factor in term for name in factor.columns))


@dataclass(frozen=True)
class Factor:
    """A factor of a term: a column, or an expression of columns.

    Attributes
    ----------
    text : str
        As in the formula.
    columns : tuple of str
    category : bool
        Its values are categories.
    reference : str
        Level that ``Treatment`` names; empty if none.
    """

    text: str
    columns: tuple[str, ...]
    category: bool = False
    reference: str = ""

    @property
    def name(self) -> str:
        """What it is called: its column, where it is one."""
        return self.columns[0] if self.category or self.text == self.columns[0] else self.text

    @property
    def linear(self) -> bool:
        """Whether it changes with its column by the same amount everywhere."""
        inner = re.sub(r"^(?:center|scale|standardize|I)\((.*)\)$", r"\1", self.text)
        return not self.category and inner.strip() == self.columns[0]


def parse(formula: str, cohort: Cohort) -> tuple[list[tuple[Factor, ...]], bool]:
    """The terms of a formula without the intercept, and whether there is one; errors as of `columns_of_formula`."""
    from formulaic import Formula, SimpleFormula
    from formulaic.errors import FormulaicError

    formula = composed(formula)
    _check_text(formula)
    try:
        parsed = Formula(formula)
    except (FormulaicError, SyntaxError, RecursionError) as error:
        raise no_formula(formula, _reason(error)) from None
    if not isinstance(parsed, SimpleFormula):
        raise no_formula(formula, "it has one part, without ~ or |: the images are what is modelled")
    terms: list[tuple[Factor, ...]] = []
    intercept = False
    for term in parsed:
        if [factor.expr for factor in term.factors] == ["1"]:
            intercept = True
        else:
            terms.append(tuple(_read_factor(factor.expr, formula, cohort) for factor in term.factors))
    if not terms and not intercept:
        raise no_formula(formula, "it has no term")
    return terms, intercept


def _check_text(formula: str) -> None:
    """What would have another meaning than it seems to have, or none."""
    wrong = re.search(r"~|\||\{|\}|\[|\]|;|\\|\n", formula)
    if wrong:
        what = (
            "the images are what is modelled" if wrong[0] in "~|" else "only columns, functions and + - * : / ( )"
        )
        raise no_formula(formula, f"{wrong[0]!r} has no place in it; {what}")
    depth = 0
    for i, letter in enumerate(formula):
        depth += (letter == "(") - (letter == ")")
        if letter == "^" or formula[i : i + 2] == "**":
            before = formula[:i].rstrip()
            if not depth and not before.endswith(")"):
                raise no_formula(
                    formula,
                    "a power of a column is poly(age, 2) or I(age ** 2); between terms it means interactions",
                )


def _reason(error: Exception) -> str:
    """What formulaic says, without the marks with which it paints."""
    text = getattr(error, "msg", None) or re.sub(r"⧛.*?⧚", "", str(error))
    return text.splitlines()[0].strip() if text.strip() else "its parentheses are nested too deep"


def no_formula(formula: str, reason: str) -> DesignError:
    """The error of a formula that cannot be read."""
    return DesignError(f"the model {formula!r} cannot be read: {reason}", option="--model")


def _read_factor(text: str, formula: str, cohort: Cohort) -> Factor:
    """A factor, once everything in it is known to be a column, a number or a function of `FUNCTIONS`."""
    if text in cohort.text.columns:
        return Factor(text, (text,), not cohort.is_number(text))
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        if not re.search(r"[`()]", text):
            cohort.require([text])
        if "`" in text:
            raise no_formula(
                formula, f"{text}: a function takes columns whose names are words; rename that column"
            ) from None
        raise no_formula(formula, f"{text} is neither a column nor a function of one") from None
    if isinstance(tree, ast.Name):
        cohort.require([text])
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "C":
        return _read_category(tree, text, formula, cohort)
    columns = tuple(dict.fromkeys(_columns_in(tree, text, formula, cohort)))
    if not columns:
        raise no_formula(formula, f"{text} has no column in it")
    return Factor(text, columns)


def _read_category(tree: ast.Call, text: str, formula: str, cohort: Cohort) -> Factor:
    """``C(column)`` or ``C(column, Treatment('level'))``."""
    if not tree.args or not isinstance(tree.args[0], ast.Name) or len(tree.args) + len(tree.keywords) > 2:
        raise no_formula(formula, f"{text}: C(column) or C(column, Treatment('level')) is expected")
    column = tree.args[0].id
    cohort.require([column])
    coding = [*tree.args[1:], *(keyword.value for keyword in tree.keywords)]
    reference = ""
    if coding:
        call = coding[0]
        if not (
            isinstance(call, ast.Call)
            and ast.unparse(call.func) in ("Treatment", "contr.treatment")
            and len(call.args) + len(call.keywords) == 1
            and isinstance(value := [*call.args, *(keyword.value for keyword in call.keywords)][0], ast.Constant)
        ):
            raise no_formula(
                formula, f"{text}: of codings only Treatment('level') is known, since tests are named by levels"
            )
        reference = str(value.value)
    return Factor(text, (column,), True, reference)


def _columns_in(node: ast.AST, text: str, formula: str, cohort: Cohort) -> Iterable[str]:
    """The columns of an expression; `DesignError` for anything that is no column, number or known function."""
    if isinstance(node, ast.Name):
        for name in cohort.text.columns:
            if name != node.id == unicodedata.normalize("NFKC", name):
                raise no_formula(
                    formula, f"{text}: a function takes columns whose names are words; rename {name} in the table"
                )
        cohort.require([node.id])
        if not cohort.is_number(node.id):
            raise no_formula(formula, f"{node.id} in {text} is text; numbers are expected there")
        yield node.id
    elif isinstance(node, ast.BinOp) and isinstance(node.op, OPERATORS):
        if isinstance(node.op, ast.Pow) and not _is_small(node.right):
            raise no_formula(formula, f"{text}: exponents are numbers up to {LARGEST_EXPONENT}")
        yield from _columns_in(node.left, text, formula, cohort)
        yield from _columns_in(node.right, text, formula, cohort)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        yield from _columns_in(node.operand, text, formula, cohort)
    elif isinstance(node, ast.Call):
        yield from _columns_in_call(node, text, formula, cohort)
    elif not (isinstance(node, ast.Constant) and isinstance(node.value, int | float)):
        raise no_formula(formula, f"{ast.unparse(node)} in {text} is neither a column, a number nor a function")


def _columns_in_call(node: ast.Call, text: str, formula: str, cohort: Cohort) -> Iterable[str]:
    name = ast.unparse(node.func)
    if name not in FUNCTIONS:
        raise no_formula(formula, f"{name}() is not known; there are {', '.join((*FUNCTIONS, 'C'))}")
    if not node.args:
        raise no_formula(formula, f"{name}() needs a column")
    yield from _columns_in(node.args[0], text, formula, cohort)
    for given in [*node.args[1:], *(keyword.value for keyword in node.keywords)]:
        values = given.elts if isinstance(given, ast.List | ast.Tuple) else [given]
        values = [each.operand if isinstance(each, ast.UnaryOp) else each for each in values]
        if not all(isinstance(each, ast.Constant) for each in values):
            raise no_formula(formula, f"{text}: what follows the column in {name}() must be a number or a word")


def _is_small(node: ast.AST) -> bool:
    node = node.operand if isinstance(node, ast.UnaryOp) else node
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and abs(node.value) <= LARGEST_EXPONENT
    )
