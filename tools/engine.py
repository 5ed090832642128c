"""Print the files of the engine, which are the core in .importlinter, for ``coverage report --include``."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def engine_files() -> list[str]:
    """Patterns of files, relative to the root."""
    layers = ConfigParser()
    layers.read(ROOT / ".importlinter", encoding="utf-8")
    paths = [name.replace(".", "/") for name in layers["importlinter:contract:core"]["source_modules"].split()]
    return [f"{path}/*" if (ROOT / path).is_dir() else f"{path}.py" for path in paths]


if __name__ == "__main__":
    print(",".join(engine_files()))
