"""Checks of whole analyses, and of runs with little memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cohort import cohort, smooth_noise
from bench.device.checks.compare import Check
from bench.device.lab import Lab, n_threads
from bench.device.studies import in_bytes, make_test
from gpuvox.device import Device, OutOfDeviceMemory
from gpuvox.glm import Nuisance
from gpuvox.permtest import LevelOverflow, ObservedTest, PermutationTest
from gpuvox.statistics import Statistics
from gpuvox.tally import Tally
from gpuvox.tfce import Tfce

EVERYTHING = Statistics(True, Tfce(), 2.3, 2.3, True, True)


def whole_checks(lab: Lab) -> Iterator[Check]:
    """Whole analyses: every map and every null distribution."""
    if not lab.has_executors:
        lab.report.skipped.append("whole analyses: threadpoolctl is missing")
        return
    from gpuvox.tail_runs import Tail

    simple = Statistics(True, Tfce(connectivity=26))
    palm = Statistics(True, Tfce(rule="palm"), uncorrected=True)
    cases: dict[str, dict] = {
        "everything, F and t": {"statistics": EVERYTHING, "f_statistics": replace(EVERYTHING, two_pass=False)},
        "sign flips": {"statistics": EVERYTHING, "flip": True},
        "variance smoothing": {"statistics": EVERYTHING, "variance_mm": 8.0},
        "voxelwise EV": {"statistics": EVERYTHING, "f_statistics": simple, "evs": True},
        "exact TFCE": {"statistics": Statistics(True, Tfce(exact=True), uncorrected=True, two_pass=True)},
        "blocks": {"statistics": simple, "f_statistics": simple, "blocks": True},
        "demeaned": {"statistics": simple, "demean": True},
        "Kennedy": {"statistics": simple, "nuisance": Nuisance.KENNEDY},
        "ter Braak": {"statistics": simple, "nuisance": Nuisance.TER_BRAAK},
        "repeated subjects": {"statistics": EVERYTHING, "repeated": True},
        "permuted maps": {"statistics": replace(EVERYTHING, two_pass=False), "keep": True},
        "permutations and sign flips": {"statistics": simple, "permute_and_flip": True},
        "multi-level blocks": {"statistics": simple, "f_statistics": simple, "blocks": True, "tree": True},
        "missing data": {"statistics": simple, "f_statistics": simple, "missing_voxels": True},
        "variance groups": {"statistics": simple, "f_statistics": simple, "variance_groups": (1, 2, 3) * 8},
        "variance groups of blocks": {"statistics": simple, "blocks": True, "variance_groups": "auto"},
        "TFCE by PALM's rule": {"statistics": palm, "f_statistics": palm},
        "gamma approximation": {"statistics": palm, "tail": Tail("gamma")},
        "Pareto tails": {"statistics": palm, "tail": Tail("pareto")},
    }
    for name, options in cases.items():
        yield Check(f"whole analysis: {name}", partial(analysed, lab, options), seconds=10)


def analysed(lab: Lab, given: dict, device: Device | None) -> dict:
    """All that an analysis gives."""
    from gpuvox.analysis import Inputs, Options, analyse, prepare

    options = dict(given)
    grid, n = lab.grid(lab.sizes.coarse_mm), 24
    study = cohort(grid, n, effect=1.0)
    data = data_of(study.data, options.pop("repeated", False), options.get("missing_voxels", False))
    contrasts = np.stack([study.contrast, -study.contrast, [0.0, 0, 1, 0]])
    f_tests = np.array([[1.0, 0, 1]]) if options.get("f_statistics") else np.zeros((0, 3))
    blocks = np.repeat(np.arange(1, n // 4 + 1), 4) if options.pop("blocks", False) else None
    if blocks is not None:
        study = replace(
            study, design=np.roll(study.design, 2, axis=0)[np.argsort(np.arange(n) % 4, kind="stable")]
        )
    if options.pop("tree", False):
        blocks = np.column_stack([np.full(n, -1), blocks, np.arange(1, n + 1)])
    evs = {2: smooth_noise(grid, n, 2.0, 3)} if options.pop("evs", False) else {}
    kept: dict[str, Any] = {}
    keep = (lambda test, i, maps: kept.update({f"{test} {i}": maps})) if options.pop("keep", False) else None
    inputs = Inputs(data, grid, study.design, contrasts, f_tests, blocks, evs)
    settings = Options(n_permutations=lab.sizes.checked, seed=3, device=device, **options)
    results = {
        r.test.name: {"maps": r.maps, "nulls": r.nulls} for r in analyse(prepare(inputs, settings), on_maps=keep)
    }
    return results | {"permuted": dict(sorted(kept.items()))}


def data_of(noise: NDArray[np.float32], repeated: bool, missing: bool) -> NDArray[np.float32]:
    """Noise that is constant at some voxels; its second half may repeat the first, and values may be missing."""
    data, n = noise.copy(), len(noise)
    if repeated:
        data[n // 2 :] = data[: n // 2]
    data[:, ::9] = 1
    if missing:
        data[np.random.default_rng(7).random(data.shape) < 0.1] = np.nan
    return data


def engine(test: PermutationTest, step: int) -> dict:
    """Everything that a test's passes add up."""
    while True:
        try:
            observed = test.observe()
            tallies = [folded(observed, step)]
            break
        except LevelOverflow as overflow:
            test = test.with_cap(overflow.needed)
    passes = [observed]
    if test.statistics.normalised:
        passes.append(observed.second_pass(tallies[0]))
        tallies.append(folded(passes[1], step))
    if test.device is not None:
        test.model.release()
        test.device.forget()
    names = ("maxima", "below", "total", "nonzero")
    return {
        "observed": [each.observed for each in passes],
        "tallies": [{name: getattr(tally, name) for name in names} for tally in tallies],
    }


def folded(observed: ObservedTest, step: int) -> Tally:
    """The engine without its executors: ranges of `step` shuffles, on all threads where there is no device."""
    tally = Tally(observed.n)
    parts = [(start, min(start + step, observed.n)) for start in range(0, observed.n, step)]
    with ThreadPoolExecutor(2 if observed.device else n_threads()) as pool:
        for result in pool.map(lambda part: observed.run(*part), parts):
            tally.add(result)
    return tally


def memory_checks(lab: Lab) -> Iterator[Check]:
    """Little memory, and none at all for a moment."""
    sizes = lab.sizes
    usual = sizes.mm, sizes.n, sizes.capped, EVERYTHING
    fine = sizes.fine_mm, sizes.fine_n, max(sizes.capped // 8, 2), Statistics(True, Tfce())

    def on_cpu(*settings: Any) -> dict:
        return engine(make_test(lab, None, *settings), 4)

    def limited(settings: tuple, limit: int | None, device: Device | None) -> dict:
        if device is None:
            return lab.once(on_cpu, *settings)
        return engine(make_test(lab, lab.machine.capped(limit), *settings), sizes.capped)

    def failing(settings: tuple, share: float, device: Device | None) -> dict:
        if device is None:
            return lab.once(on_cpu, *settings)
        make = partial(make_test, lab, device, *settings)
        with no_memory_at(device, 0) as count:
            engine(make(), sizes.capped)
        with no_memory_at(device, 1 + int(share * count[0])):
            return engine(make(), sizes.capped)

    for limit in (None, *sizes.limits):
        name = f"memory: {in_bytes(limit)}, {sizes.mm:g} mm, n {sizes.n}, everything, two passes"
        yield Check(name, partial(limited, usual, limit), seconds=25)
    for share in (0.0, 0.2, 0.5, 0.6, 0.95):
        name = f"memory: an allocation fails, after {share:.0%} of them"
        yield Check(name, partial(failing, usual, share), seconds=15)
    for limit in sizes.limits[:2]:
        name = f"memory: {in_bytes(limit)}, {sizes.fine_mm:g} mm, n {sizes.fine_n}"
        yield Check(name, partial(limited, fine, limit), seconds=30)


@contextmanager
def no_memory_at(device: Device, at: int) -> Iterator[list[int]]:
    """The at-th allocation fails (0: none); yields the number of allocations, counted on."""
    real, count = device.empty, [0]

    def empty(shape: int | tuple[int, ...], dtype: Any) -> Any:
        count[0] += 1
        if count[0] == at:
            raise OutOfDeviceMemory("no memory, on purpose")
        return real(shape, dtype)

    device.empty = empty  # type: ignore[method-assign]
    try:
        yield count
    finally:
        del device.empty  # type: ignore[method-assign]
    if count[0] < at:
        raise AssertionError(f"there were only {count[0]} allocations, not {at}")
