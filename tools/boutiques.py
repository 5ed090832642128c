"""Write the Boutiques descriptor of ``gpuvox-randomise`` from its parser: ``python tools/boutiques.py FILE``."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from gpuvox.cli.completion import command_parser

ROOT = Path(__file__).resolve().parents[1]
FILES = {"-i", "-m", "-d", "-t", "-f", "-e"}
"""Options whose values are files that exist."""


def make_input(action: argparse.Action) -> dict[str, Any]:
    """An option as an input of a descriptor."""
    flag = max(action.option_strings, key=len)
    name = re.sub(r"\W+", "_", action.dest) if re.match(r"[A-Za-z]", action.dest) else f"option_{flag.strip('-')}"
    made: dict[str, Any] = {
        "id": name, "name": flag, "description": re.sub(r"\s+", " ", action.help or "").replace("%%", "%"),
        "value-key": f"[{name.upper()}]", "command-line-flag": flag, "optional": flag not in ("-i", "-o"),
    }  # fmt: skip
    if flag.startswith("--") and action.nargs != 0:
        made["command-line-flag-separator"] = "="
    if action.nargs == 0:
        return made | {"type": "Flag"}
    if action.choices:
        return made | {"type": "String", "value-choices": [str(choice) for choice in action.choices]}
    if flag in FILES:
        return made | {"type": "File"}
    return made | {"type": "Number" if is_number(action) else "String"}


def is_number(action: argparse.Action) -> bool:
    """Whether every value of an option is a number."""
    return getattr(action.type, "__name__", "") in (
        "positive", "not_negative", "number", "count", "at_least_one", "integer", "connectivity", "int", "float",
        "threads",
    )  # fmt: skip


def released_version() -> str:
    """The version that CITATION.cff names."""
    text = (ROOT / "CITATION.cff").read_text()
    match = re.search(r"^version: (\S+)$", text, re.MULTILINE)
    assert match
    return match[1]


def make_descriptor() -> dict[str, Any]:
    """The descriptor, with every option that the help shows."""
    parser = command_parser("randomise")
    options = [
        action
        for action in parser._actions
        if action.option_strings and action.help != argparse.SUPPRESS and action.dest not in ("help", "version")
    ]
    inputs = [make_input(action) for action in options]
    return {
        "name": "gpuvox randomise",
        "description": "Permutation tests on the general linear model, with the options and files of FSL randomise.",
        "tool-version": released_version(),
        "schema-version": "0.5",
        "author": "The gpuvox developers",
        "url": "https://github.com/gpuvox/gpuvox",
        "command-line": "gpuvox-randomise " + " ".join(item["value-key"] for item in inputs),
        "inputs": inputs,
        "output-files": [
            {"id": "record", "name": "Record of the run", "path-template": "[ROOT]_randomise.json", "optional": True},
            {
                "id": "corrected", "name": "Corrected 1 - p", "path-template": "[ROOT]_*corrp*.nii.gz", "list": True,
                "optional": True,
            },
            {
                "id": "statistics", "name": "Statistics", "path-template": "[ROOT]_*stat*.nii.gz", "list": True,
                "optional": True,
            },
        ],
        "tags": {"domain": ["neuroinformatics", "mri"]},
    }  # fmt: skip


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(make_descriptor(), indent=2, ensure_ascii=False) + "\n")
