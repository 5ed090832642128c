"""Install the wheel and the sdist of a folder, each in a fresh environment, and run tests against what was installed.

``python tools/check_package.py DIST FOLDER [PYTHON ...]``: with these interpreters, by default the one that runs this.
With ``--quick``, a few of the reference runs stand for all of them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ["tests/test_reference.py", "tests/test_shuffle.py", "tests/test_completion.py"]
"""Agreement with FSL through the command and its files; they need nothing of a checkout but the folder tests."""
QUICK = ["-k", "exhaustive_runs_need or printed_lines or bash_completes or counts_are_exact"]
"""Whole exhaustive runs against FSL's files, what is printed, the completion script, and counts of permutations."""


def check(package: Path, folder: Path, python: str, chosen: Sequence[str]) -> None:
    """Raise CalledProcessError unless a package installs and its tests pass."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
    own = folder / "venv" / "bin" / "python"
    pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, package, "pytest", "hypothesis"], check=True)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    code = "import gpuvox; print(gpuvox.__version__, gpuvox.__file__)"
    version, origin = subprocess.run(
        [own, "-c", code], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.split()
    if not Path(origin).is_relative_to(folder / "venv"):
        raise SystemExit(f"{package.name}: gpuvox is imported from {origin}, not from its installation")
    subprocess.run([folder / "venv" / "bin" / "gpuvox", "info"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([own, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, *chosen], cwd=folder, check=True)
    print(f"{package.name}: version {version} installs and passes on {python}")


def main() -> None:
    """Check every package with every interpreter."""
    chosen = QUICK if "--quick" in sys.argv else ["-m", "not long"]
    dist, folder, *pythons = (word for word in sys.argv[1:] if word != "--quick")
    packages = sorted(path for path in Path(dist).iterdir() if path.name.endswith((".whl", ".tar.gz")))
    if len(packages) != 2:
        raise SystemExit(f"{dist} holds {len(packages)} packages; expected a wheel and an sdist")
    for python in pythons or [sys.executable]:
        for number, package in enumerate(packages):
            check(package.resolve(), Path(folder).resolve() / str(number), python, chosen)


if __name__ == "__main__":
    main()
