"""Install the wheel and the sdist of a folder, each in a fresh environment, run commands, and tests against the wheel.

Every extra of the wheel must resolve too, which downloads what pip has to read, and installs nothing.

``python tools/check_package.py DIST FOLDER [PYTHON ...]``: with these interpreters, by default the one that runs this.
With ``--quick``, a few of the reference runs stand for all tests.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = [
    f"tests/test_{name}.py"
    for name in (
        "reference", "shuffle", "permtest", "tfce", "cluster", "statistics", "design", "names", "participants",
        "textfiles", "arrays", "errors", "formula", "hypotheses", "front_door", "image_sets", "findings", "completion",
    )
]  # fmt: skip
"""Of the engine, of reading and of both front doors; they need nothing of a checkout but the folder tests."""
QUICK = ["-k", "exhaustive_runs_need or printed_lines or bash_completes or counts_are_exact"]
"""Whole exhaustive runs against FSL's files, what is printed, the completion script, and counts of permutations."""
COMMANDS = {
    "gpuvox info": "",
    "gpuvox randomise -i maps -m gm -d design.csv -t contrasts.csv -n 100 -x -T -o fsl": "fsl_tfce_corrp_tstat1.nii.gz",
    "gpuvox voxelwise participants.tsv --images vbm/{participant_id}.nii.gz --mask gm --out results -n 100"
    " --model group+age --test MS-HC": "results/report.html",
    "gpuvox report fsl": "fsl_report.html",
}
"""What is run on the small files of ``tools/doctest_files.py``, and a file that it writes."""


def install(package: Path, folder: Path, python: str) -> Path:
    """A fresh environment with a package in it; returns its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
    own = folder / "venv" / "bin" / "python"
    subprocess.run([own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package], check=True)
    code = "import gpuvox; print(gpuvox.__version__, gpuvox.__file__)"
    version, origin = subprocess.run(
        [own, "-c", code], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.split()
    if not Path(origin).is_relative_to(folder / "venv"):
        raise SystemExit(f"{package.name}: gpuvox is imported from {origin}, not from its installation")
    print(f"{package.name}: version {version} is installed on {python}", flush=True)
    return own


def run_commands(own: Path, folder: Path) -> None:
    """Run every command on small files, in a folder without the source."""
    study = folder / "study"
    study.mkdir()
    shutil.copy(ROOT / "tools" / "doctest_files.py", folder)
    code = "from pathlib import Path; study = Path('study').resolve(); import doctest_files as d; d.write_files(study)"
    subprocess.run([own, "-c", code], cwd=folder, check=True)
    for command, written in COMMANDS.items():
        program, *words = command.split()
        subprocess.run([own.parent / program, *words], cwd=study, check=True, stdout=subprocess.DEVNULL)
        if not (study / written).exists():
            raise SystemExit(f"{command} has written no {written}")


def resolve_extras(own: Path, wheel: Path) -> None:
    """Have pip choose what it would install for each extra; CUDA's packages are made for Linux and Windows alone."""
    code = "from importlib.metadata import metadata; print(*metadata('gpuvox').get_all('Provides-Extra'))"
    named = subprocess.run([own, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    extras = [extra for extra in named if sys.platform != "darwin" or not extra.startswith("cuda")]
    for extra in extras:
        words = ["install", "--quiet", "--disable-pip-version-check", "--dry-run", f"{wheel}[{extra}]"]
        if subprocess.run([own, "-m", "pip", *words], stdout=subprocess.DEVNULL, check=False).returncode:
            raise SystemExit(f"{wheel.name}: nothing that can be installed meets the extra {extra}")
    print(f"{wheel.name}: the extras {', '.join(extras)} resolve", flush=True)


def run_tests(own: Path, folder: Path, chosen: Sequence[str]) -> None:
    """Run tests against what is installed."""
    subprocess.run([own, "-m", "pip", "install", "--quiet", "pytest", "hypothesis"], check=True)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([own, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, *chosen], cwd=folder, check=True)


def main() -> None:
    """Check every package with every interpreter."""
    chosen = QUICK if "--quick" in sys.argv else ["-m", "not long"]
    dist, place, *pythons = (word for word in sys.argv[1:] if word != "--quick")
    sdists, wheels = ([*Path(dist).glob(f"*{suffix}")] for suffix in (".tar.gz", ".whl"))
    if len(sdists) != 1 or len(wheels) != 1:
        raise SystemExit(f"{dist} holds {len(wheels)} wheels and {len(sdists)} sdists; expected one of each")
    for number, python in enumerate(pythons or [sys.executable]):
        for package in (*sdists, *wheels):
            folder = Path(place).resolve() / f"{number}{package.suffix}"
            own = install(package.resolve(), folder, python)
            run_commands(own, folder)
            if package.suffix == ".whl":
                resolve_extras(own, package.resolve())
                run_tests(own, folder, chosen)
            print(f"{package.name}: passes on {python}", flush=True)


if __name__ == "__main__":
    main()
