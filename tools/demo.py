"""`make demo`: a synthetic cohort with known ground truth, the whole study on it, and its findings beside the truth.

In the end, one map of the study is analysed by itself, with `gpuvox voxelwise` and `gpuvox report`.

python tools/demo.py FOLDER
"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import pandas as pd

from gpuvox import files
from gpuvox.cli import main as gpuvox
from gpuvox.study.statistics.ancova import ancova
from gpuvox.tables.reading import read_participants

PARTS = (
    "caudate",
    "putamen",
    "pallidum",
    "thalamus_pulvinar",
    "thalamus_medial",
    "thalamus_lateral",
    "thalamus_anterior",
)
KINDS = {"volume": "mL", "iron": "mg/kg", "myelin": "fraction"}


def say(text: str = "") -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def run(*arguments: str) -> None:
    """A command of gpuvox; its failure ends the demo."""
    say("$ gpuvox " + shlex.join(arguments))
    status = gpuvox(list(arguments))
    if status:
        sys.exit(status)


def true_differences(cohort: Path) -> pd.DataFrame:
    """The same analysis of covariance on what the phantom was made of."""
    truth = pd.read_csv(cohort / "truth" / "parts.tsv", sep="\t")
    wide = truth.pivot(index="participant_id", columns="part", values=list(KINDS))
    wide.columns = [f"{part}.{kind}" for kind, part in wide.columns]
    people = read_participants(cohort / "participants.tsv").set_index("participant_id")
    table = people[["group", "age", "sex"]].join(wide)
    return ancova(table, list(wide.columns), "group", order=("MS", "HC"), covariates=("age", "sex"))


def compare(cohort: Path) -> None:
    """Adjusted differences between the groups as found in the maps, and the truth."""
    folder = cohort / "results" / "groups"
    tables = [folder / f"{name}.tsv" for name in ("deep_gray_matter_structures", "nuclei_of_the_thalamus")]
    found = pd.concat([pd.read_csv(path, sep="\t", na_values="n/a") for path in tables]).set_index("variable")
    truth = true_differences(cohort).set_index("variable")
    say("Differences MS - HC of region means, adjusted for age and sex: found, 95 % interval, and the truth")
    say(f"  {'':18s}" + "".join(f"{f'{kind} ({unit})':^38s}" for kind, unit in KINDS.items()))
    for part in PARTS:
        cells = []
        for kind in KINDS:
            row, digits = found.loc[f"{part}.{kind}"], {"volume": 2, "iron": 0, "myelin": 3}[kind]
            numbers = (
                *row[["difference", "difference_low", "difference_high"]],
                truth.loc[f"{part}.{kind}", "difference"],
            )
            estimate, low, high, true = (f"{value:+.{digits}f}" for value in numbers)
            cells.append(f"{f'{estimate} [{low}, {high}]':>25s}  {true:>7s}    ")
        say(f"  {part:18s}" + "".join(cells))


def analyse(cohort: Path) -> None:
    """One map of the study in the command for any voxelwise analysis, and its report."""
    out, template = cohort / "voxelwise", cohort / "template"
    run(
        "voxelwise", str(cohort / "participants.tsv"), "--images", str(cohort / "results" / "maps" / "iron"),
        "--mask", str(template / "deepgray"), "--model", "group + age + sex", "--test", "iron loss: HC - MS",
        "--test", "iron gain: MS - HC", "-n", "1000", "--seed", "1", "--out", str(out),
    )  # fmt: skip
    run("report", str(out), "--atlas", str(template / "labels"), "--names", str(template / "labels.tsv"))


def main(folder: Path) -> int:
    """Make, run, compare, and analyse one map by itself."""
    cohort = folder / "cohort"
    begin = time.perf_counter()
    if (cohort / "study.toml").exists():
        say(f"{cohort} is there already; what is done is not done again")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        run("phantom", str(cohort), "--seed", "0")
    run("study", str(cohort / "study.toml"))
    say()
    compare(cohort)
    say()
    analyse(cohort)
    say()
    count = files.count_volumes(cohort / "results" / "maps" / "iron")
    say(f"{count} participants, {time.perf_counter() - begin:.0f} s. Open {cohort / 'results' / 'report.html'}")
    say(f"and {cohort / 'voxelwise' / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo")))
