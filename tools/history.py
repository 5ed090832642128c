"""Benchmarks of releases: keep what a run of pytest-benchmark measured, and show all that were kept.

python tools/history.py build/benchmark.json bench/history/0.2.0.json [REMARK]

Times are processor time. Those of different machines are compared by what `tfce` 0.1.0 takes on each, in the same run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HISTORY = ROOT / "bench" / "history"
SHOWN = {
    "test_permutation_both_signs[2.0-40-6]": ("whole permutation, both contrasts, C 6", "ms_per_permutation"),
    "test_permutation_both_signs[2.0-40-26]": ("whole permutation, both contrasts, C 26", "ms_per_permutation"),
    "test_permutation_both_signs[2.0-146-6]": ("whole permutation, 146 participants, C 6", "ms_per_permutation"),
    "test_t_maps[2.0-40]": ("t map, 40 participants", "ms_per_map"),
    "test_tfce_0_1_0_one_sign[2.0-3.5-6]": ("`tfce` 0.1.0: largest TFCE of a map, one sign, C 6", ""),
}
"""Of the benchmarks: what they are called on the page, and the entry of `extra_info` that is per map or permutation."""
BESIDE = "test_tfce_0_1_0_one_sign[2.0-3.5-6]"
"""What the others are divided by in the plot."""
BY_CONNECTIVITY = {
    "TFCE maximum, one sign": ("test_gpuvox[maximum, one sign-2.0-3.5-{}]", 1),
    "TFCE maxima, both signs": ("test_gpuvox[maximum, both signs-2.0-3.5-{}]", 2),
    "TFCE maps, both signs": ("test_gpuvox[map, both signs-2.0-3.5-{}]", 0),
    "whole permutation, both contrasts": ("test_permutation_both_signs[2.0-40-{}]", 0),
}
"""Rows of the table beside `tfce`: our benchmark, and how often `tfce` runs for the same; 0: it has nothing alike."""


def keep(source: Path, target: Path, remark: str = "") -> None:
    """Write what a run measured: every benchmark, without the machine's name or the single rounds."""
    run = json.loads(source.read_text())
    machine = run["machine_info"]
    kept = {
        "version": target.stem,
        "date": run["datetime"][:10],
        "commit": (run.get("commit_info") or {}).get("id", "")[:10],
        "processor": machine["cpu"].get("brand_raw", machine.get("processor", "")),
        "processors": machine["cpu"].get("count"),
        "python": machine["python_version"],
        "remark": remark,
        "benchmarks": {
            each["name"]: {
                "min_ms": round(1e3 * each["stats"]["min"], 4),
                "median_ms": round(1e3 * each["stats"]["median"], 4),
                "rounds": each["stats"]["rounds"],
                **{name: round(value, 4) for name, value in each["extra_info"].items()},
            }
            for each in run["benchmarks"]
        },
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(kept, indent=1) + "\n")


def milliseconds(entry: dict[str, Any], extra: str) -> float:
    """Of a map or permutation if the benchmark has that, otherwise of a call."""
    return float(entry[extra] if extra in entry else entry["min_ms"])


def read() -> list[dict[str, Any]]:
    """The kept runs, by date."""
    return sorted((json.loads(path.read_text()) for path in HISTORY.glob("*.json")), key=lambda run: run["date"])


def page(folder: Path) -> str:
    """A table of the kept runs, and a plot that is written into the folder."""
    runs = read()
    if not runs:
        return "No release has been measured yet.\n"
    plot(runs, folder / "history.png")
    lines = ["| | " + " | ".join(run["version"] for run in runs) + " |", "|---|" + "---|" * len(runs)]
    for name, (title, extra) in SHOWN.items():
        cells = [
            f"{milliseconds(run['benchmarks'][name], extra):.1f} ms" if name in run["benchmarks"] else ""
            for run in runs
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    for title, of in (("date", "date"), ("commit", "commit"), ("processor", "processor"), ("remark", "remark")):
        lines.append(f"| {title} | {' | '.join(str(run[of]) for run in runs)} |")
    return (
        "![Each benchmark by release, as a share of the time of tfce](history.png)\n\n" + "\n".join(lines) + "\n"
    )


def fastest(entry: dict[str, Any]) -> float:
    """Milliseconds of one map or permutation in the fastest round; `ms_per_map` of TFCE is of the median round."""
    if "ms_per_permutation" in entry:
        return float(entry["ms_per_permutation"])
    return float(entry["min_ms"]) / round(entry["median_ms"] / entry["ms_per_map"])


def beside() -> str:
    """The latest run beside `tfce` in the same run, as a table."""
    run = read()[-1]
    lines = [f"| {run['version']} | gpuvox, C 6 / C 26 | `tfce` 0.1.0, C 6 / C 26 | ratio |", "|---|---|---|---|"]
    for title, (name, times) in BY_CONNECTIVITY.items():
        ours = [fastest(run["benchmarks"][name.format(c)]) for c in (6, 26)]
        theirs = [
            times * fastest(run["benchmarks"][f"test_tfce_0_1_0_one_sign[2.0-3.5-{c}]"]) for c in (6, 26) if times
        ]
        cells = [f"{ours[0]:.1f} / {ours[1]:.1f} ms"]
        cells.append(" / ".join(f"{each:.0f}" for each in theirs) + (" ms" if theirs else ""))
        cells.append(" / ".join(f"{their / our:.0f}" for our, their in zip(ours, theirs)))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Time of each benchmark by release, in per cent of what `tfce` 0.1.0 took in the same run; logarithmic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.add_subplot()
    for name, (title, extra) in SHOWN.items():
        points = [
            (i, 100 * milliseconds(run["benchmarks"][name], extra) / milliseconds(run["benchmarks"][BESIDE], ""))
            for i, run in enumerate(runs)
            if name in run["benchmarks"] and name != BESIDE
        ]
        if points:
            axis.plot(*zip(*points), marker="o", label=title)
    axis.set(yscale="log", ylabel="% of the time of tfce 0.1.0", xticks=range(len(runs)))
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g} %")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.margins(y=0.15)
    axis.set_xlim(-0.5, len(runs) - 0.5)
    axis.set_xticklabels([run["version"] for run in runs])
    axis.grid(axis="y", which="both", alpha=0.3)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
