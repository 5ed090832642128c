"""Contrasts in the names of the columns of a design: ``MS - HC``, ``(RRMS + SPMS)/2 - HC``, ``slope: age``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpuvox.errors import DesignError
from gpuvox.files import Matrix
from gpuvox.types import Float64

EXAMPLE = "such as 'MS - HC', 'age' or '(RRMS + SPMS)/2 - HC'"


def is_file_name(text: str) -> bool:
    """Whether a text names a file of contrasts, rather than a contrast."""
    return os.path.exists(text) or os.path.splitext(text)[1].lower() in (".con", ".mat", ".txt", ".csv", ".tsv")


def are_texts(contrasts: Any) -> bool:
    """Whether contrasts are expressions rather than numbers or a file: a list of str, or a dict by name."""
    if isinstance(contrasts, Mapping):
        return True
    is_list = isinstance(contrasts, list | tuple)
    return is_list and bool(contrasts) and all(isinstance(each, str) for each in contrasts)


def read_contrasts(contrasts: Mapping[str, Any] | Sequence[str], names: Sequence[str]) -> Matrix:
    """Contrasts as a matrix, with their names.

    Parameters
    ----------
    contrasts : sequence of str, or dict
        Expressions; a name may stand before a colon and a blank. Or by name, expressions or weights of all columns.
    names : sequence of str
        Columns of the design.

    Raises
    ------
    DesignError
        The design has no names, or a contrast cannot be read; the message names the contrast.
    """
    if not names:
        raise DesignError(
            "the contrasts are given as text, but the columns of the design have no names; give a DataFrame, or a "
            "table with a header"
        )
    named = dict(contrasts) if isinstance(contrasts, Mapping) else dict(_named(text, names) for text in contrasts)
    if len(named) < len(contrasts):
        raise DesignError("two contrasts have the same name; put a name and a colon before one of them")
    rows = [weights(each, names, name) for name, each in named.items()]
    return Matrix(np.array(rows), tuple(map(str, named)), tuple(names))


def _named(text: str, names: Sequence[str]) -> tuple[str, str]:
    """The name before a colon and a blank, and the expression; the expression itself if there is no name."""
    name, colon, rest = text.partition(": ")
    is_name = colon and "`" not in name and text not in names
    return (name.strip(), rest.strip()) if is_name else (text, text)


def weights(contrast: Any, names: Sequence[str], title: str) -> Float64:
    """(p,) The weights of a contrast.

    Parameters
    ----------
    contrast : str or (p,) array_like
        A sum of columns with numbers as factors; a name that is not a word stands in backticks, unless it is all.
    names : sequence of str
        Columns of the design.
    title : str
        For messages.

    Raises
    ------
    DesignError
        It is no such sum, or has another length.
    """
    if isinstance(contrast, str):
        return _expression(contrast, names, title)
    values = np.asarray(contrast, dtype=np.float64)
    if values.shape != (len(names),):
        raise DesignError(f"the contrast {title!r} has shape {values.shape}; the design has {len(names)} columns")
    return values


def _expression(text: str, names: Sequence[str], title: str) -> Float64:
    from formulaic.errors import FormulaSyntaxError
    from formulaic.utils.constraints import LinearConstraints

    if text in names:
        return np.array([float(name == text) for name in names])
    try:
        constraints = LinearConstraints.from_spec(text, variable_names=list(names))
    except KeyError as error:
        raise DesignError(
            f"the contrast {title!r} has {error.args[0]!r}, which is no column of the design; there are "
            f"{', '.join(names)}"
        ) from None
    except (FormulaSyntaxError, RuntimeError, ZeroDivisionError):
        raise DesignError(
            f"the contrast {title!r} cannot be read; a sum of columns is expected, {EXAMPLE}"
        ) from None
    matrix = np.asarray(constraints.constraint_matrix, dtype=np.float64)
    if matrix.shape != (1, len(names)) or np.any(constraints.constraint_values):
        raise DesignError(
            f"the contrast {title!r} is not a single sum of columns that is compared with 0, {EXAMPLE}"
        )
    return matrix[0]
