"""Write the manual page of every command, from the parsers that print its help: ``python tools/man.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from argparse_manpage.manpage import Manpage

from gpuvox.cli.completion import command_parser, summary, whole_parser
from gpuvox.cli.main import COMMANDS


def write_pages(folder: Path) -> list[Path]:
    """Write gpuvox.1 and gpuvox-COMMAND.1; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    parsers = {"gpuvox": whole_parser(COMMANDS), **{f"gpuvox-{name}": command_parser(name) for name in COMMANDS}}
    pages = []
    for name, parser in parsers.items():
        parser.prog = name
        parser.man_short_description = summary(parser).rstrip(".")
        pages.append(folder / f"{name}.1")
        pages[-1].write_text(str(Manpage(parser)))
    return pages


if __name__ == "__main__":
    for page in write_pages(Path(sys.argv[1])):
        print(page)
