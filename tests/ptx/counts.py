"""What the kernels cost, counted by the emulator: a table that shows the price of a change without a GPU.

    python -m tests.ptx.counts

writes `bench/results/counts.json`; `tests/test_ptx.py` compares the kernels with it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.cohort import brain_grid, smooth_noise, smooth_t_maps
from bench.device import model
from bench.device.checks.primitives import gathered
from gpuvox.analysis import Inputs, Options, analyse, make_model, prepare
from gpuvox.correlation import CorrelationScale, correlation
from gpuvox.cuda import FAMILY, kernel_directory
from gpuvox.normal_scores import Magnitude, ZScale
from gpuvox.permtest import PermutationTest
from gpuvox.prepared import Analysis, PreparedTest
from gpuvox.qmri import FieldConversion, Inversion, TissueModel
from gpuvox.regression_methods import Method, RegressionTest
from gpuvox.statistics import Statistics
from gpuvox.tfce import CODE_LEVELS, Enhancer, Tfce
from gpuvox.voxelwise_methods import voxelwise_model
from tests.ptx.compilers import nvrtc_version
from tests.ptx.device import PtxDevice
from tests.ptx.runtime import COUNTS

TABLE = Path(__file__).parents[2] / "bench" / "results" / "counts.json"
COMMAND = "python -m tests.ptx.counts"

COARSE_MM, BRAIN_MM = 10.0, 2.0
"""Voxel sizes: of the counts that the tests compare, and of those of a real brain."""
PERMUTATIONS = 16
"""A tile of `glm_maps`, with four rows each."""
TOLERANCE = 0.1
"""How far a kernel may be from the table before that has to be written again."""
LEVELS = 80
"""TFCE steps of the maps that are counted alone."""
LEAST = 100
"""Differences of no more instructions a permutation do not count."""
PATTERNS = 12
"""Sets of participants whose data are missing, where some are."""


@dataclass(frozen=True)
class Study:
    """`n` participants; t if there is one effect, otherwise F.

    `options` are those of `prepared.Options`; with `in_tree`, rows are exchangeable within blocks that are so too.
    """

    n: int = 20
    effects: int = 1
    has_evs: bool = False
    in_tree: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def prepared(self, mm: float, device: PtxDevice, statistics: Statistics, number: int) -> Analysis:
        """A design with two more covariates and a mean, and images of noise; some values are missing if any may be."""
        rng, grid, n, effects = np.random.default_rng(1), brain_grid(mm), self.n, self.effects
        design = np.c_[rng.normal(size=(n, effects + 2)), np.ones(n)]
        contrasts, f_tests = np.eye(effects, design.shape[1]), np.ones((int(effects > 1), effects))
        data = smooth_noise(grid, n, 7.0 / mm, seed=2)
        evs = {effects: smooth_noise(grid, n, 7.0 / mm, seed=3)} if self.has_evs else {}
        if self.options.get("missing_voxels"):
            data[(rng.random((n, PATTERNS)) < 0.1)[:, np.arange(grid.n_voxels) % PATTERNS]] = np.nan
        blocks = np.column_stack([-np.ones(n), np.arange(n) // 4 + 1, np.arange(n) + 1]).astype(int)
        inputs = Inputs(data, grid, design, contrasts, f_tests, blocks if self.in_tree else None, evs)
        return prepare(
            inputs,
            Options(
                statistics, statistics, number, seed=4, threads=1, device=device, f_only=effects > 1,
                **self.options,
            ),
        )  # fmt: skip


@dataclass(frozen=True)
class Permuting:
    """The permutations of a test, without what is done once: counts are for one permutation.

    `model` makes the model; with `signs`, the statistic and its negative have maxima.
    """

    statistics: Statistics
    study: Study = Study(n=146)
    model: Callable[[Analysis, PreparedTest], Any] = make_model
    signs: int = 2

    def counted(self, mm: float) -> dict[str, np.ndarray]:
        """Counts of each kernel, by phase."""
        device = PtxDevice()
        prepared = self.study.prepared(mm, device, self.statistics, 1 + PERMUTATIONS)
        first, signs = prepared.tests[0], 1 if self.study.effects > 1 else self.signs
        model = self.model(prepared, first)
        test = PermutationTest(model, prepared.inputs.grid, first.shuffler, self.statistics, signs).observe()
        test.run(1, 3)  # residuals are sent and room is made when they are first needed
        device.counts.clear()
        test.run(1, 1 + PERMUTATIONS)
        return {kernel: counts / PERMUTATIONS for kernel, counts in device.counts.items()}


@dataclass(frozen=True)
class Call:
    """A function of the device, counted whole; on the brain of `BRAIN_MM` too if `at_full_size`."""

    function: Callable[[float, PtxDevice], None]
    at_full_size: bool = False

    def counted(self, mm: float) -> dict[str, np.ndarray]:
        """Counts of each kernel, by phase."""
        device = PtxDevice()
        self.function(mm, device)
        return device.counts


def two_tailed(prepared: Analysis, test: PreparedTest) -> Magnitude:
    """The size of z of t."""
    return Magnitude(ZScale(make_model(prepared, test)))


def correlated(prepared: Analysis, test: PreparedTest) -> CorrelationScale:
    """z of r."""
    inputs, invariant = prepared.inputs, test.shuffler.invariant
    return CorrelationScale(
        correlation(inputs.data, inputs.design, test.test.contrast, invariant, device=prepared.options.device)
    )


def by_method(method: Method, prepared: Analysis, test: PreparedTest) -> ZScale:
    """z of t by a permutation method other than Freedman and Lane's."""
    inputs = prepared.inputs
    made = RegressionTest(inputs.design, test.test.contrast, method)
    return ZScale(made.model(inputs.data, test.shuffler.invariant, device=prepared.options.device))


def with_evs(prepared: Analysis, test: PreparedTest) -> ZScale:
    """z of t by Dekker's method, of a model with voxelwise EVs."""
    inputs = prepared.inputs
    given = inputs.data, inputs.design, test.test.contrast, inputs.evs
    return ZScale(voxelwise_model(*given, Method.DEKKER, device=prepared.options.device))


def map_with_evs(mm: float, device: PtxDevice) -> None:
    """A map of that in float64."""
    prepared = Study(has_evs=True).prepared(mm, device, Statistics(), 5)
    with_evs(prepared, prepared.tests[0]).exact_map(np.arange(20, dtype=np.int32))


def whole(exact: bool, has_evs: bool, mm: float, device: PtxDevice) -> None:
    """An F test with everything, from the first map to the second pass."""
    tfce = Tfce(connectivity=18, exact=exact)
    statistics = Statistics(True, tfce, 1.5, 1.5, uncorrected=True, two_pass=True)
    list(analyse(Study(effects=2, has_evs=has_evs).prepared(mm, device, statistics, 5)))


def largest(options: Mapping[str, Any], mm: float, device: PtxDevice) -> None:
    """A test of the largest statistic alone, from the first map on."""
    list(analyse(Study(options=options).prepared(mm, device, Statistics(), 5)))


def grown(exact: bool, mm: float, device: PtxDevice) -> None:
    """TFCE of one map voxel by voxel: exact, or beyond the levels that int16 holds."""
    grid = brain_grid(mm)
    maps = smooth_t_maps(grid, 1, 7.0 / mm)
    make = Enhancer(grid, Tfce(exact=exact), (0.05, 0.05), CODE_LEVELS + 1, device)
    make.enhance(device.upload(maps))


def enhanced(connectivity: int, full: bool, mm: float, device: PtxDevice) -> None:
    """TFCE of one map: its maximum, or every voxel."""
    grid = brain_grid(mm)
    maps = smooth_t_maps(grid, 1, 7.0 / mm)
    steps = tuple(float(np.float32(peak / LEVELS)) for peak in (maps.max(), -maps.min()))
    make, maps = Enhancer(grid, Tfce(connectivity=connectivity), steps, 2 * LEVELS, device), device.upload(maps)
    (make.enhance if full else make.maxima)(maps)


def approximated(mm: float, device: PtxDevice) -> None:
    """What approximations of p-values gather of a batch, of maps of every type."""
    values = 20 * np.random.default_rng(6).normal(size=(PERMUTATIONS, brain_grid(mm).n_voxels))
    for kind in ("float32", "float64", "int64"):
        gathered(device.upload(values.astype(kind)), device)


def inverted(mm: float, device: PtxDevice) -> None:
    """Iron and myelin of one participant."""
    rng, n_voxels = np.random.default_rng(5), brain_grid(mm).n_voxels
    qsm, r1 = (device.upload(rng.random(n_voxels).astype(np.float32)) for _ in range(2))
    mask = device.upload((rng.random(n_voxels) < 0.1).astype(np.uint8))
    make = Inversion(TissueModel.default(), FieldConversion(3, 7, "curve"))
    mean, _ = make.means(qsm, r1, mask, device)
    make.invert(qsm, r1, tuple(mean), qsm, device)


SCORED = Statistics(tfce=Tfce(rule="palm"), uncorrected=True)
WITH_HOLES, WITH_GROUPS = {"missing_voxels": True}, {"variance_groups": (1, 2) * 10}

WORKLOADS: dict[str, Permuting | Call] = {
    "TFCE, C 6": Permuting(Statistics(voxel=False, tfce=Tfce(connectivity=6))),
    "TFCE, C 26, and voxelwise": Permuting(Statistics(tfce=Tfce(connectivity=26))),
    "TFCE, C 26, uncorrected": Permuting(Statistics(tfce=Tfce(connectivity=26), uncorrected=True), Study()),
    "F, clusters": Permuting(Statistics(extent=2.3, mass=2.3), Study(40, effects=3)),
    "voxelwise EV": Permuting(Statistics(), Study(has_evs=True)),
    "smoothed variance": Permuting(Statistics(), Study(options={"variance_mm": 5.0})),
    "sign flips": Permuting(Statistics(), Study(options={"flip": True})),
    "multi-level blocks, permutations and sign flips": Permuting(
        Statistics(), Study(in_tree=True, options={"permute_and_flip": True})
    ),
    "size of z, TFCE by PALM's rule, uncorrected": Permuting(SCORED, Study(), two_tailed, signs=1),
    "correlation": Permuting(Statistics(), Study(), correlated),
    "Dekker's method": Permuting(Statistics(), Study(), partial(by_method, Method.DEKKER)),
    "ter Braak's method": Permuting(Statistics(), Study(), partial(by_method, Method.TER_BRAAK)),
    "Dekker's method, voxelwise EV": Permuting(Statistics(), Study(has_evs=True), with_evs),
    "missing data": Permuting(Statistics(), Study(options=WITH_HOLES)),
    "variance groups": Permuting(Statistics(), Study(options=WITH_GROUPS)),
    "whole F test": Call(partial(whole, False, False)),
    "whole F test, exact TFCE, voxelwise EV": Call(partial(whole, True, True)),
    "map in float64, Dekker's method, voxelwise EV": Call(map_with_evs),
    "whole test, missing data": Call(partial(largest, WITH_HOLES)),
    "whole test, variance groups": Call(partial(largest, WITH_GROUPS)),
    **{
        f"largest TFCE of a map, C {c}": Call(partial(enhanced, c, False), at_full_size=c != 18)
        for c in (6, 18, 26)
    },
    "TFCE of every voxel of a map, C 6": Call(partial(enhanced, 6, True)),
    "exact TFCE of a map": Call(partial(grown, True)),
    "TFCE of a map with more levels than int16 holds": Call(partial(grown, False)),
    "iron and myelin of a participant": Call(inverted),
    "what approximations of p-values gather of a batch": Call(approximated),
}
"""What is counted."""


def measured(full: bool, progress: Callable[[str], None] = lambda text: None) -> dict:
    """The table: counts at the coarse size, and, if `full`, at that of a real brain too."""
    sizes = [COARSE_MM, *([BRAIN_MM] if full else [])]
    table: dict = {"compiler": f"NVRTC {nvrtc_version()}"}
    for mm in sizes:
        entries = table.setdefault(f"{mm:g} mm", {"voxels": brain_grid(mm).n_voxels})
        for name, workload in WORKLOADS.items():
            if mm == COARSE_MM or getattr(workload, "at_full_size", False):
                progress(f"{mm:g} mm: {name}")
                device = PtxDevice()
                entries[name] = {
                    kernel: entry(device.kernel(kernel).phases, counts)
                    for kernel, counts in sorted(workload.counted(mm).items())
                }
    return table


def entry(phases: tuple[str, ...], counts: np.ndarray) -> dict:
    """Numbers of a kernel, and of its phases if it has barriers."""
    out = numbers(counts.sum(axis=0))
    if len(phases) > 1:
        parts = {f"{i} {title(phase)}": numbers(row) for i, (phase, row) in enumerate(zip(phases, counts))}
        out["phases"] = {name: part for name, part in parts.items() if part}
    return out


def numbers(row: np.ndarray) -> dict:
    """What is kept of the counts of a kernel or a phase."""
    count = dict(zip(COUNTS, row.tolist()))
    lanes = 32 * count["warp_instructions"]
    kept = {
        "warp_instructions": round(count["warp_instructions"]),
        "simt_efficiency": round(count["thread_instructions"] / max(lanes, 1), 2),
        "float64_operations": round(count["float64"]),
        "sectors": round(count["sectors"]),
        "atomics": round(count["atomics"]),
        "barriers": round(count["barriers"]),
    }
    return {name: number for name, number in kept.items() if number}


def title(phase: str) -> str:
    """What the source says after the barrier with which a phase begins: a comment, or the first statement."""
    for place in phase.split(" in ") if phase else ():
        name, line = place.split(":")
        for text in (kernel_directory() / name).read_text().splitlines()[int(line) :]:
            words = text.strip().removeprefix("//").strip()
            if text.startswith("}"):
                break  # the end of the function, or of one that is inlined
            if words not in ("", "}", "barrier();") and words.count("(") >= words.count(")"):
                return re.split(r"[.:;{]", words)[0].strip()[:60]
    return "end" if phase else "start"


def written(table: dict) -> str:
    """The table as JSON, with a line for each kernel or phase."""
    text = json.dumps(table, indent=1)
    return re.sub(
        r"\{[^{}]*\}", lambda match: " ".join(match[0].split()).replace("{ ", "{").replace(" }", "}"), text
    )


def changes(table: dict, now: dict) -> Iterator[str]:
    """How kernels differ from the table by more than `TOLERANCE`, in words."""
    size = f"{COARSE_MM:g} mm"
    for name in WORKLOADS:
        before, after = table[size].get(name, {}), now[size][name]
        for kernel in sorted({*before, *after}):
            for what in ("warp_instructions", "sectors", "float64_operations"):
                old, new = (side.get(kernel, {}).get(what, 0) for side in (before, after))
                if abs(new - old) > TOLERANCE * old + LEAST:
                    yield f"{name}: {kernel}: {what} {old} -> {new}"


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=f"Count what the kernels cost, and write {TABLE.name}."
    )
    parser.add_argument(
        "--coarse", action="store_true", help=f"leave the counts of a brain of {BRAIN_MM:g} mm as they are"
    )
    before = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    now = measured(not parser.parse_args().coarse, print)
    entries = now[f"{COARSE_MM:g} mm"]
    missing = set(FAMILY) - {kernel for name in WORKLOADS for kernel in entries[name]}
    if missing:
        parser.error(f"no workload launches {', '.join(sorted(missing))}")
    TABLE.write_text(written(before | now) + "\n")
    for line in changes(before, now) if before else ():
        print(line)
    for connectivity in (6, 26):
        us = sum(model.times(before | now, connectivity).values())
        print(f"predicted for an H100, C {connectivity}: {us:.1f} us a permutation (bench/OPTIMISATION.md)")


if __name__ == "__main__":
    main()
