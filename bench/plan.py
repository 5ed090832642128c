"""What ``--plan`` says against what runs take: time and memory of several commands.

python -m bench.plan [--folder /tmp]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.out_of_core import make_cohort, measure

COHORTS = {"4 mm, n 40": (4.0, 40), "2 mm, n 40": (2.0, 40), "2 mm, n 300": (2.0, 300)}
RUNS = {
    "-T": ["-T", "-n", "1000"],
    "-x": ["-x", "-n", "2000"],
    "-T -x -c --uncorrp": ["-T", "-x", "-c", "2.3", "--uncorrp", "-n", "400"],
    "-T --scratch": ["-T", "-n", "1000", "--scratch", "."],
    "-T --twopass -U 0": ["-T", "--twopass", "-U", "0", "-n", "200"],
}
PLAN = re.compile(r"memory: about ([\d,]+) MiB.*?time: about ([\d,.]+) (s|min|h)")


def planned(command: list[str], folder: Path) -> tuple[float, float]:
    """MiB and seconds that the plan says."""
    said = subprocess.run([*command, "--plan"], cwd=folder, check=True, capture_output=True, text=True).stdout
    found = PLAN.search(said)
    if not found:
        raise SystemExit(said)
    return float(found[1].replace(",", "")), float(found[2]) * {"s": 1, "min": 60, "h": 3600}[found[3]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    options = parser.parse_args()
    print(
        "| cohort | run | MiB planned | MiB found | | s planned | s found | |\n|---|---|---|---|---|---|---|---|"
    )
    for title, (mm, n) in COHORTS.items():
        folder = Path(tempfile.mkdtemp(dir=options.folder, prefix="plan-"))
        try:
            make_cohort(folder, mm, n)
            for name, words in RUNS.items():
                command = [
                    sys.executable, "-m", "gpuvox", "randomise", "-i", "data", "-m", "mask", "-o", "out", "-d",
                    "design.mat", "-t", "design.con", "--seed", "1", "--quiet", *words,
                ]  # fmt: skip
                planned(command, folder)  # once for what has to be compiled
                memory, seconds = planned(command, folder)
                found = measure(command, folder)
                peak = found["RssAnon" if "--scratch" in words else "VmHWM"]
                print(
                    f"| {title} | {name} | {memory:.0f} | {peak:.0f} | {memory / peak - 1:+.0%} | {seconds:.0f} | "
                    f"{found['seconds']:.1f} | {seconds / found['seconds'] - 1:+.0%} |",
                    flush=True,
                )
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
