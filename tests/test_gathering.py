"""What approximations of p-values gather is gathered where the maps are: a device has the bits of the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_device import batch_study

from gpuvox.device import Outcomes, OutOfDeviceMemory
from gpuvox.gathering import Shown, first_reached, power_sums, values_at
from gpuvox.heights import LINEAR, score_values
from gpuvox.missing import MissingGlm
from gpuvox.permtest import PermutationTest
from gpuvox.statistics import Statistics
from gpuvox.tail_runs import FirstReached, NullsAt, PowerSums, Tail, run_approximated, run_negative_binomial
from gpuvox.team import DeviceTeam
from gpuvox.tfce import Tfce
from gpuvox.variance_groups import VarianceGroupsGlm
from tests.cuda_on_cpu.shim import CXX, ShimDevice

pytestmark = pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")


def values_of(kind: str) -> np.ndarray:
    """(9, 300) Values of both signs, some of them 0 or far above the others; of scores, some are logarithms."""
    rng = np.random.default_rng(4)
    values = rng.normal(size=(9, 300)) * 100
    values[:, ::7] = 0
    values[3, ::11] *= 1e9
    if kind != "int64":
        return values.astype(kind)
    scores = values.astype(np.int64)
    scores[5, ::13] = LINEAR + rng.integers(-3, 1 << 40, scores[5, ::13].shape)
    scores[6, ::13] = -scores[5, ::13]
    return scores


@pytest.mark.parametrize("kind", ["float32", "float64", "int64"])
@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("sizes", [False, True])
def test_kernels_gather_what_users_see(kind, disjoint, sizes):
    values, device, scales = values_of(kind), ShimDevice(max_threads=3), (0.37, 1.9)

    def seen(given):
        whole = score_values(given) if kind == "int64" else given.astype(np.float64)
        up, down = np.maximum(whole, 0) * scales[0], np.maximum(-whole, 0) * scales[1]
        if disjoint:
            return np.maximum(up, down) if sizes else up
        return np.maximum(up, down) if sizes else whole * scales[0]

    shown, numbers = Shown(seen, disjoint, sizes, scales), range(20, 29)
    least = np.quantile(seen(values), 0.6, axis=0)
    voxels = np.arange(299, -1, -3, dtype=np.int32)
    for here in (numbers, range(9)):
        found = []
        for where in (None, device):
            outcomes, maps = Outcomes(where), values if where is None else device.upload(values)
            promised = (
                power_sums(maps, shown, 2.0**20, 2.0**40, outcomes),
                first_reached(maps, shown, least, here, 99, 3, outcomes),
                values_at(maps, shown, voxels, outcomes),
            )
            outcomes.collect()
            found.append([promise.value for promise in promised])
        for cpu, gpu in zip(*found):
            np.testing.assert_array_equal(cpu, gpu, strict=True)
    sums, first, some = found[0]
    share = np.clip(seen(values), -(2.0**20), 2.0**20) / 2.0**20
    for power, row in enumerate(sums, 1):
        np.testing.assert_allclose(row, (share**power * 2.0**40).sum(axis=0), rtol=1e-9, atol=10)
    for v in range(300):
        numbers_of_v = 1 + np.flatnonzero(seen(values)[1:, v] >= least[v])
        np.testing.assert_array_equal(first[:, v], [*numbers_of_v, 99, 99, 99][:3])
    np.testing.assert_array_equal(some, seen(values)[:, voxels])


def study(kind: str, device: ShimDevice | None) -> PermutationTest:
    """A small test of one sign, or two-sided, on the CPU or a device."""
    two_sided = kind == "two-sided"
    palm = kind not in ("t", "two-sided", "exact")
    tfce = Tfce(rule="palm") if palm else Tfce(exact=kind == "exact")
    test = batch_study("free", Statistics(True, tfce, uncorrected=True, two_sided=two_sided))
    plain = replace(test.model, device=device)
    data, parts, invariant = plain.data, plain.model, plain.invariant
    model = {
        "variance groups": lambda: VarianceGroupsGlm(data, parts, invariant, np.arange(24) // 12, device=device),
        "missing data": lambda: MissingGlm(
            np.where(data == 2, np.float32(np.nan), data), parts, invariant, device
        ),
    }.get(kind, lambda: plain)()
    return replace(test, model=model, signs=2 if two_sided else 1, joint_peak=0.0 if two_sided else None)


@pytest.mark.parametrize("kind", ["t", "two-sided", "exact", "variance groups", "missing data"])
def test_approximations_have_the_bits_of_the_cpu_and_no_map_leaves_the_device(kind):
    here, there = study(kind, None), study(kind, ShimDevice(limit=16 << 20))
    for method in ("gamma", "pareto"):
        expected = run_approximated(here, Tail(method), threads=1, room=8 * 97 * 100).uncorrected
        found = run_approximated(there, Tail(method), room=8 * 97 * 100).uncorrected
        for name, (p, fitted) in expected.items():
            np.testing.assert_array_equal(found[name].p, p, err_msg=f"{method} {name}")
            np.testing.assert_array_equal(found[name].fitted, fitted)
    expected, found = run_negative_binomial(here, 3, threads=1), run_negative_binomial(there, 3)
    assert expected[2] == found[2]
    for name, p in expected[1].items():
        np.testing.assert_array_equal(found[1][name], p, err_msg=name)


@pytest.mark.parametrize(
    "statistics", [Statistics(), Statistics(True, Tfce(), uncorrected=True)], ids=["t", "all"]
)
def test_gathering_takes_one_copy_a_batch(statistics):
    test = batch_study("free", statistics)
    device, observed = test.device, test.observe()
    names = [name for name, each in observed.statistics.items() if each.info.has_tail]
    some = {name: np.arange(0, 200, 3) for name in names}
    for gatherer in (PowerSums(observed), FirstReached(observed, 2), NullsAt(97, some)):
        observed.run(0, 33, gatherer)  # what does not change is sent once
        device.transfers.clear()
        result = observed.run(33, 65, gatherer)
        assert device.transfers == ["download"]
        ((numbers, found),) = result.gathered
        assert numbers == range(33, 65)
        assert list(found) == names


def test_a_team_and_memory_that_runs_out_gather_every_permutation_once():
    """A range that is cut into halves is gathered in two parts."""
    expected = run_approximated(study("t", None), Tail("gamma"), threads=1).uncorrected

    class Short(ShimDevice):
        """Has too little memory for some launches."""

        n_sums = 0

        def launch(self, kernel, *arguments, **settings):
            if kernel.startswith("maps_power_sums"):
                self.n_sums += 1
                if self.n_sums in (2, 5):
                    raise OutOfDeviceMemory("no room")
            super().launch(kernel, *arguments, **settings)

    one, devices = Short(limit=16 << 20), (Short(limit=16 << 20, name="a"), ShimDevice(limit=16 << 20, name="b"))
    for device, workers in ((one, None), (devices[0], DeviceTeam(devices))):
        found = run_approximated(study("t", device), Tail("gamma"), workers=workers).uncorrected
        for name, (p, _) in expected.items():
            np.testing.assert_array_equal(found[name].p, p, err_msg=name)
