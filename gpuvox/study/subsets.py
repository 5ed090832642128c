"""Whom a condition leaves out of a table: those for whom it is false, and those who lack a value that it compares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gpuvox.study.tables import select


@dataclass(frozen=True)
class LeftOut:
    """Whom a condition leaves out.

    Attributes
    ----------
    condition : str
    n : int
        Rows of the table.
    false, unknown : int
        Rows for which it is false, and for which it cannot be decided: a value that it compares is missing.
    """

    condition: str = ""
    n: int = 0
    false: int = 0
    unknown: int = 0

    def lines(self) -> list[str]:
        """A sentence, if it leaves out anybody."""
        out = self.false + self.unknown
        if not out:
            return []
        reasons = f": false in {self.false}, a value is missing in {self.unknown}" if self.unknown else ""
        return [f"the condition {self.condition!r} leaves out {out} of {self.n}{reasons}"]

    def record(self) -> dict[str, int]:
        """The same for a JSON file."""
        return {"false": self.false, "value_missing": self.unknown}


def left_out(table: pd.DataFrame, condition: str) -> LeftOut:
    """Count them; `FileError` as of `tables.select`."""
    if not condition.strip():
        return LeftOut(condition, len(table))
    # On a line of its own: a condition may end in a comment.
    false = select(table, f"not (\n{condition}\n)")
    undecided = ~(select(table, condition) | false)
    return LeftOut(condition, len(table), int(np.count_nonzero(false)), int(np.count_nonzero(undecided)))
