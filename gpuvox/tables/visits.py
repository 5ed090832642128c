"""The temporal order of visits."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpuvox.errors import FileError


def order_visits(present: Sequence[str], requested: Sequence[str], column: str, origin: str) -> tuple[str, ...]:
    """Visits in temporal order: as given, or by the number in names that are otherwise identical."""
    for name in requested:
        if name not in present:
            raise FileError(f"{origin}: no {column} is {name}; the visits are {', '.join(present)}")
    names = tuple(dict.fromkeys(requested or present))
    if len(names) < 2:
        raise FileError(f"{origin}: the only {column} is {names[0]}; two visits are needed")
    if requested:
        return names
    parts = [re.fullmatch(r"(\D*)(\d+(?:\.(\d+))?)(\D*)", name) for name in names]
    numbers = {name: float(part[2]) for name, part in zip(names, parts) if part}
    # Whether 1.10 comes after 1.9 is ambiguous.
    decimals = {len(part[3]) for part in parts if part and part[3]}
    alike = len({(part[1], part[4]) for part in parts if part}) == 1 and len(numbers) == len(names)
    if not alike or len(decimals) > 1 or len(set(numbers.values())) < len(names):
        raise FileError(
            f"{origin}: the order of {column} {', '.join(names)} is unknown; use --visits to define it"
        )
    return tuple(sorted(names, key=numbers.__getitem__))
