"""What the site holds besides the pages of docs/: pages and pictures made by code, and links that leave it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gpuvox.cli.completion import command_parser, summary
from gpuvox.cli.main import COMMANDS
from tools import diagrams, history

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
REPOSITORY = "https://github.com/gpuvox/gpuvox"
TUTORIALS = (
    "vbm", "tbss", "paired", "longitudinal", "lesions", "iron_myelin", "gpus_and_slurm", "how_p_values_are_made",
)  # fmt: skip
"""In the order in which they are read."""


class ReadingOrder:
    """Sort key of tutorials for sphinx-gallery, which hashes its representation."""

    def __init__(self, folder: str = "") -> None:
        self.folder = folder

    def __call__(self, name: str) -> int:
        """The place of a tutorial."""
        return TUTORIALS.index(Path(name).stem)

    def __repr__(self) -> str:
        return "<ReadingOrder>"


reading_order = f"{__name__}.ReadingOrder"


def relink(app: Any, page: str, source: list[str]) -> None:
    """Point links to tutorials at their pages, and links that leave docs/ at the repository."""
    del app
    folder = (DOCS / page).parent

    def target(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        if re.match(r"[a-z]+:", path):
            return match[0]
        place = (folder / path).resolve()
        if place.parent == ROOT / "examples" / "tutorials" and place.suffix == ".py":
            return f"]({Path(*['..'] * page.count('/'))}/tutorials/{place.stem}.rst{anchor})"
        if place.is_relative_to(DOCS) or not place.is_relative_to(ROOT):
            return match[0]
        kind = "tree" if place.is_dir() else "blob"
        return f"]({REPOSITORY}/{kind}/main/{place.relative_to(ROOT)}{anchor})"

    source[0] = re.sub(r"\]\(([^)#\s]+)(#[^)\s]*)?\)", target, source[0])


def write_pages(folder: Path) -> None:
    """Draw the pictures, and write the pages that are made from the code, where they have changed."""
    folder.mkdir(exist_ok=True)
    diagrams.write(folder)
    pages = {
        "history.inc": history.page(folder),
        "beside.inc": history.beside(),
        "commands.md": commands(),
        "changelog.md": of_the_root("CHANGELOG.md"),
        "contributing.md": of_the_root("CONTRIBUTING.md", "RELEASING.md", "CODE_OF_CONDUCT.md", "SECURITY.md"),
    }
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def commands() -> str:
    """The help of every command."""
    parts = ["# Commands\n\nWhat `gpuvox COMMAND --help` prints. `make man` writes the same as manual pages.\n"]
    for name in COMMANDS:
        parser = command_parser(name)
        text = re.sub(r"\(gpuvox [^)]*\)", "", parser.format_help()).rstrip()
        parts.append(f"## {name}\n\n{summary(parser).rstrip('.')}.\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def of_the_root(*names: str) -> str:
    """Files of the repository's root as one page, with their links as seen from it."""
    texts = ((ROOT / name).read_text(encoding="utf-8") for name in names)
    return re.sub(r"\]\((?![a-z]+:|#)", "](../../", "\n\n".join(texts))
