"""The engine of another commit and the present one on the CPU, by turns in one session: milliseconds a permutation.

    python -m bench.cpu_ab COMMIT [--subjects 40 146] [--fwhm 2 3.5 6] [--connectivity 6 26] [--turns 12]

Two groups and two covariates, 234,852 voxels, one core. A permutation is one t map and the TFCE maxima of both signs.
The times are processor times, so that other processes on the machine disturb them less; each of the two takes its turn,
and ratios of minima and of medians are shown. The maxima of both must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
COUNTED = 8  # permutations whose maxima are compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--subjects", type=int, nargs="+", default=[40, 146])
    parser.add_argument("--fwhm", type=float, nargs="+", default=[2.0, 3.5, 6.0], help="smoothness in voxels")
    parser.add_argument("--connectivity", type=int, nargs="+", default=[6, 26])
    parser.add_argument("--turns", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(other), options.commit], check=True)
        try:
            children = [_Child(other, folder), _Child(ROOT, folder)]
            print("| n | FWHM | C | part | old, ms | new, ms | ratio of minima | of medians |\n|" + "---|" * 8)
            for n in options.subjects:
                for fwhm in options.fwhm:
                    for connectivity in options.connectivity:
                        _compare(children, {"n": n, "fwhm": fwhm, "connectivity": connectivity}, options.turns)
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)


class _Child:
    """A process that times the engine of a checkout."""

    def __init__(self, checkout: Path, folder: str) -> None:
        words = [sys.executable, "-P", str(Path(__file__).resolve()), "--child"]
        paths = {"PYTHONPATH": str(checkout), "NUMBA_CACHE_DIR": f"{folder}/cache-{checkout.name}"}
        self.process = subprocess.Popen(
            words, cwd=checkout, env=os.environ | paths, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, question: dict[str, object]) -> dict[str, object]:
        """The answer to a question."""
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def _compare(children: list[_Child], question: dict[str, object], turns: int) -> None:
    first = [child.ask(question)["maxima"] for child in children]
    if first[0] != first[1]:
        raise SystemExit(f"the maxima differ: {question}")
    answers = [[child.ask(question) for child in children] for _ in range(turns)]
    for part in ("t map", "TFCE", "permutation"):
        old, new = (np.array([pair[k][part] for pair in answers]) for k in range(2))
        where = f"| {question['n']} | {question['fwhm']:g} | {question['connectivity']} | {part} "
        ratios = f"{old.min() / new.min():.2f} | {np.median(old) / np.median(new):.2f}"
        print(f"{where}| {old.min():.2f} | {new.min():.2f} | {ratios} |", flush=True)


def _answer() -> None:
    """Time what each line asks for."""
    engines: dict[str, _Engine] = {}
    for line in sys.stdin:
        if line not in engines:
            engines = {line: _Engine(**json.loads(line))}
        print(json.dumps(engines[line].times()), flush=True)


class _Engine:
    def __init__(self, n: int, fwhm: float, connectivity: int) -> None:
        from bench.cohort import brain_grid, cohort
        from gpuvox.glm import Glm
        from gpuvox.partitioning import partition
        from gpuvox.permtest import PermutationTest
        from gpuvox.shuffle import Permutations, Shuffler
        from gpuvox.statistics import Statistics
        from gpuvox.tfce import Tfce

        study = cohort(brain_grid(2.0), n, fwhm)
        self.shuffler = Shuffler((study.design @ study.contrast)[:, None], Permutations(1000, 1))
        self.model = Glm(study.data, partition(study.design, study.contrast), self.shuffler.invariant)
        choice = Statistics(voxel=False, tfce=Tfce(connectivity=connectivity))
        self.observed = PermutationTest(self.model, study.grid, self.shuffler, choice, signs=2).observe()
        (name,) = self.observed.statistics
        self.maxima = self.observed.run(1, 1 + COUNTED).maxima[name].tolist()

    def times(self) -> dict[str, object]:
        """Milliseconds a permutation, in batches as a run has them."""
        batch = self.observed.batch
        shuffles = self.shuffler.shuffles(1, 1 + batch)
        map_ms = self._ms(lambda: self.model.statistic_maps(shuffles)) / batch
        whole_ms = self._ms(lambda: self.observed.run(1, 1 + batch)) / batch
        return {"t map": map_ms, "permutation": whole_ms, "TFCE": whole_ms - map_ms, "maxima": self.maxima}

    def _ms(self, action) -> float:
        start = time.process_time()
        action()
        return 1e3 * (time.process_time() - start)


if __name__ == "__main__":
    _answer() if sys.argv[1:] == ["--child"] else main()
