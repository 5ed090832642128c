"""Run the commands that pages show, and compare what they print with what the pages say they print.

python tools/check_examples.py docs/*.md

In a block that begins with ```console, a line after `$ ` is a command, which goes on while lines end in a backslash,
and in lines after `> `. The lines below it are what it prints, on both streams; a `…` stands for anything, also for
several lines. The commands of a page run in order, in a temporary folder with the files of `tools/doctest_files.py` and
the tests of this checkout.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def examples(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a page, and what it is said to print."""
    for block in re.findall(r"^ *```console\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, printed = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*\n(?:> [^\n]*\n)*)(.*)", part, re.DOTALL).groups()  # type: ignore[union-attr]  # fmt: skip
            yield re.sub("^> ", "", command.strip(), flags=re.MULTILINE), printed


def lines(text: str) -> str:
    """Without blanks at the ends of lines, and without the line that the first run on a machine prints."""
    kept = [line.rstrip() for line in text.splitlines() if not line.startswith("First run: compiling")]
    return "\n".join(kept).strip()


def matches(said: str, printed: str) -> bool:
    """Whether what was printed is what the page says."""
    pattern = ".*".join(re.escape(part) for part in lines(said).split("…"))
    return re.fullmatch(pattern, lines(printed), re.DOTALL) is not None


def faults(page: Path) -> list[str]:
    """A paragraph for each command of a page that prints something else."""
    sys.path.insert(0, str(ROOT))
    from tools.doctest_files import write_files  # which makes a folder of its own the current one

    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder)
        (folder / "tests").symlink_to(ROOT / "tests")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "COLUMNS": "120"}
        for command, said in examples(page.read_text(encoding="utf-8")):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=folder,
                env=environment,
                text=True,
                stdout=-1,
                stderr=subprocess.STDOUT,
            )
            if not matches(said, done.stdout):
                found.append(f"{page}: {command}\nsays\n{lines(said)}\nbut printed\n{lines(done.stdout)}\n")
    return found


def main() -> None:
    """Print the faults of the pages; status 1 if there are any."""
    pages = [ROOT / name for name in sys.argv[1:]]
    count = sum(len(list(examples(page.read_text(encoding="utf-8")))) for page in pages)
    found = [fault for page in pages for fault in faults(page)]
    print(*found, sep="\n")
    print(f"{count} commands, {len(found)} faults")
    sys.exit(bool(found) or not count)


if __name__ == "__main__":
    main()
