"""Slabs that are sent while others are computed, on a device that copies as late as it may."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest

from gpuvox import streaming
from gpuvox.application import cost, plan
from gpuvox.cli import main_randomise
from gpuvox.scratch import as_tiles, copy_block
from gpuvox.streaming import Slabs
from tests.cuda_on_cpu.shim import ShimDevice

ROWS, VOXELS, WIDTH = 10, 1000, 300


@pytest.fixture(params=["array", "tiles"])
def data(request):
    values = np.random.default_rng(1).normal(size=(ROWS, VOXELS)).astype(np.float32)
    return as_tiles(values, "") if request.param == "tiles" else values


@pytest.fixture(autouse=True)
def _small_staging_buffers(monkeypatch):
    monkeypatch.setattr(streaming, "STAGED_BYTES", 4 * WIDTH * 3)


def gathered(device, slabs):
    """What a kernel reads of every slab, in one sweep."""
    out = np.full((ROWS, VOXELS), np.nan, np.float32)
    for start, slab in slabs.sweep():
        device.note_launch("kernel", [slab])
        part = out[:, start : start + WIDTH]
        part[...] = device.download(slab)[:, : part.shape[1]]
    return out


def whole(data):
    out = np.empty((ROWS, VOXELS), np.float32)
    copy_block(data, slice(0, ROWS), slice(0, VOXELS), out)
    return out


def test_every_sweep_sees_all_data(data):
    device = ShimDevice()
    slabs = Slabs(device, ROWS, VOXELS, WIDTH, partial(copy_block, data))
    per_slab, sent = 4, []
    for _ in range(4):
        device.operations.clear()
        np.testing.assert_array_equal(gathered(device, slabs), whole(data))
        kinds = [kind for kind, _ in device.operations if kind != "finish"]
        sent.append(kinds.count("send") / per_slab)
    assert sent == [4, 2, 2, 2]  # two of four slabs stay from one sweep to the next
    # The copy of the next slab begins before anything waits for the kernel of this one.
    assert kinds == [
        "wait",
        "launch",
        "wait",
        "launch",
        *["send"] * 4,
        "wait",
        "launch",
        *["send"] * 4,
        "wait",
        "launch",
    ]


def test_the_last_slab_is_zero_beyond_the_data(data):
    device = ShimDevice()
    slabs = Slabs(device, ROWS, VOXELS, WIDTH, partial(copy_block, data))
    last = [device.download(slab) for _, slab in slabs.sweep()][-1]
    assert not last[:, VOXELS % WIDTH :].any()


def test_one_slab_is_sent_once(data):
    device = ShimDevice()
    slabs = Slabs(device, ROWS, VOXELS, VOXELS, partial(copy_block, data))
    for _ in range(2):
        (part,) = [device.download(slab) for _, slab in slabs.sweep()]
        np.testing.assert_array_equal(part, whole(data))
    assert [kind for kind, _ in device.operations].count("send") == ROWS
    assert device.used == 4 * ROWS * VOXELS


def test_a_sweep_that_is_abandoned_leaves_nothing_on_its_way(data):
    device = ShimDevice()
    slabs = Slabs(device, ROWS, VOXELS, WIDTH, partial(copy_block, data))
    sweep = slabs.sweep()
    for _ in range(2):
        _, slab = next(sweep)
        device.note_launch("kernel", [slab])
    sweep.close()
    assert not device._sent
    np.testing.assert_array_equal(gathered(device, slabs), whole(data))


def test_the_rate_is_measured():
    device = ShimDevice()
    assert 1e6 < streaming.measure_rate(device, 50) < 1e13
    assert device.used == 0


def test_the_plan_knows_of_data_that_are_sent(study, monkeypatch, capsys):
    """The slabs of the plan are those of the run, and sending takes time unless computing takes longer."""
    command = [*"-i data -o out -d design.mat -t design.con -n 40 --seed 1 -x --device cuda".split()]
    said = {}
    for limit in (1 << 30, 40_000):
        device = ShimDevice(limit=limit)
        monkeypatch.setattr(plan, "resolve_all", lambda name, device=device: (device,))
        assert main_randomise([*command, "--plan"]) == 0
        said[limit] = capsys.readouterr().out
    assert "slabs" not in said[1 << 30]
    assert re.search(
        r"data on the device: 0\.00 GiB do not fit; they are sent in \d slabs for every \d+ permutations",
        said[40_000],
    )


def test_sending_costs_what_computing_does_not_hide():
    sending = cost.Sending(n_bytes=10**9, n_slabs=5, batch=100, rate=1e9)
    assert sending.each == pytest.approx(0.006)  # two slabs of five stay


@pytest.mark.parametrize("fault", ["kernels do not wait", "the host does not wait", "copies do not wait"])
def test_a_missing_wait_is_seen(data, fault, monkeypatch):
    """The stand-in catches each of the three mistakes that `Slabs` must not make."""
    device = ShimDevice()
    nothing = {"wait_for": lambda event: None, "finish": lambda event: None, "mark": lambda: ("kernels", 0)}
    name = {"kernels do not wait": "wait_for", "the host does not wait": "finish", "copies do not wait": "mark"}[
        fault
    ]
    monkeypatch.setattr(device, name, nothing[name])
    slabs = Slabs(device, ROWS, VOXELS, WIDTH, partial(copy_block, data))
    if name == "mark":
        with pytest.raises(AssertionError, match="may still use"):
            gathered(device, slabs)
    else:
        assert not np.array_equal(gathered(device, slabs), whole(data))
