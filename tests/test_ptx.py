"""The kernels as NVIDIA's compilers emit them, run by an emulator of PTX, against the CPU's own loops.

`tests/test_kernels.py` runs the sources; here it is what the compiler makes of them: every kernel with the block sizes
that are shipped, in several orders of its warps, equal to the CPU bit for bit. The emulator notices faults that are
planted in the kernels, and it counts what they cost (`tests/ptx/counts.py`).
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from functools import cache

import numpy as np
import pytest

from bench.device.checks.compare import differences
from bench.device.checks.runs import whole_checks
from bench.device.lab import TINY, Lab
from gpuvox.analysis import analyse, prepare
from gpuvox.cuda import FAMILY, KERNELS
from tests.cuda_on_cpu.shim import CXX
from tests.ptx import compilers, counts, faults
from tests.ptx.device import Modules, PtxDevice
from tests.ptx.instructions import table
from tests.ptx.parser import PtxError, bits_of
from tests.ptx.runs import RUNS
from tests.ptx.runtime import COUNTS, EmulationError, Settings, launch
from tests.ptx.translator import Translated
from tests.selection import few
from tests.test_device import assert_same, study

pytestmark = [
    pytest.mark.skipif(CXX is None, reason="no C++ compiler to build the emulator"),
    pytest.mark.skipif(compilers.nvrtc() is None, reason="the package nvidia-cuda-nvrtc is not installed"),
]

SEEDS = (1, 2, 3)
"""Orders in which warps run."""
STUDIES = (6, 10, 11)
"""Analyses that launch the kernels that no run launches."""
LATER = {
    "tfce_peaks<6, true>",
    "tfce_peaks<26, false>",
    "tfce_grow<double>",
    "cluster_measure<1>",
    "cluster_measure<2>",
}
"""Kernels whose barriers are removed in `make test`; those of others in `make test-all` alone."""
SHAPE = (9, 9, 9)
"""Of their images: more voxels than a block has threads."""


# -- every kernel against the CPU -----------------------------------------------------------------------------------


@cache
def expected(name):
    """What the CPU computes."""
    return RUNS[name].results(None)


@cache
def run_on(name: str, device_settings: Settings) -> frozenset[str]:
    """A run on the emulator, which must agree with the CPU; the kernels that it launched."""
    device = PtxDevice(device_settings, n_processors=1)
    assert_close(name, RUNS[name].results(device))
    return frozenset(device.launched)


def assert_close(name: str, results: list[np.ndarray]) -> None:
    """The same bits, or within the tolerance of the run."""
    for ours, theirs in zip(results, expected(name), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=RUNS[name].tolerance, atol=0, strict=True)


@cache
def analysed_on(number: int, device_settings: Settings) -> frozenset[str]:
    """A whole analysis through the host's code, likewise."""
    inputs, options = study(number, SHAPE)
    options = dataclasses.replace(options, n_permutations=8)
    device = PtxDevice(device_settings)
    ours = list(analyse(prepare(inputs, dataclasses.replace(options, device=device))))
    assert_same(list(analyse(prepare(inputs, options))), ours)
    return frozenset(device.launched)


@pytest.mark.parametrize("seed", few(SEEDS, 1))
@pytest.mark.parametrize("name", RUNS)
def test_compiled_kernels_give_the_bits_of_the_cpu(name, seed):
    run_on(name, Settings(seed))


@pytest.mark.parametrize("seed", few(SEEDS, 1))
@pytest.mark.parametrize("number", STUDIES)
def test_whole_analyses_give_the_bits_of_the_cpu(number, seed):
    analysed_on(number, Settings(seed))


LAB = Lab(None, dataclasses.replace(TINY, coarse_mm=14.0))
"""Of whole analyses with every option, on a brain that has more voxels than a block has threads."""


@pytest.mark.long
@pytest.mark.parametrize("check", list(whole_checks(LAB)), ids=lambda check: check.name)
def test_analyses_of_the_session_on_a_gpu_give_the_bits_of_the_cpu(check):
    """Whole analyses with missing data, variance groups, blocks of several levels, TFCE by PALM's rule, tails …"""
    assert not [*differences(check.results(None), check.results(PtxDevice(Settings(SEEDS[0]))))]


@pytest.mark.long
@pytest.mark.parametrize("number", sorted({*range(24)} - {*STUDIES}))
def test_every_option_gives_the_bits_of_the_cpu(number):
    analysed_on(number, Settings(number + 1, find_races=True))


def test_every_kernel_is_among_them():
    runs = [run_on(name, Settings(SEEDS[0])) for name in RUNS]
    analyses = [analysed_on(number, Settings(SEEDS[0])) for number in STUDIES]
    assert frozenset().union(*runs, *analyses) == set(FAMILY)


@pytest.mark.parametrize("name", few(RUNS, 8, 2))
def test_nothing_races(name):
    """No two threads of a block touch one word between two barriers, unless both do so by helpers of common.cuh."""
    run_on(name, Settings(SEEDS[0], find_races=True))


OTHERS = {"sm_75": {"architecture": 75}, "sm_120": {"architecture": 120}, "nvcc": {"compiler": "nvcc"}}


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("other", OTHERS)
def test_other_architectures_and_nvcc_give_the_bits_of_the_cpu(name, other):
    if other == "nvcc" and not compilers.nvcc_version():
        pytest.skip("nvcc is not on the PATH")
    device = PtxDevice(Settings(SEEDS[0], find_races=True), Modules(**OTHERS[other]), n_processors=1)
    assert_close(name, RUNS[name].results(device))


# -- planted faults -------------------------------------------------------------------------------------------------


def noticed(name: str, family: str, module: compilers.Module, seed: int = SEEDS[0]) -> str:
    """What is wrong when a run has other kernels of a family: a message, ``differs``, or nothing."""
    device = PtxDevice(
        Settings(seed, find_races=True, most_instructions=10**7), Modules({family: module}), n_processors=1
    )
    try:
        ours = RUNS[name].results(device)
    except (EmulationError, PtxError) as error:
        return str(error)
    same = [np.allclose(a, b, rtol=RUNS[name].tolerance, atol=0) for a, b in zip(ours, expected(name))]
    return "" if all(same) else "differs"


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.name)
def test_faults_are_noticed(fault):
    assert fault.notice in noticed(fault.run, fault.family, fault.module())


@pytest.mark.parametrize("family", few(sorted({*KERNELS} - {"shuffle"}), 0))
def test_contraction_is_noticed(family):
    """Products and sums that a compiler may join: in every family that has any."""
    module = faults.with_options(family, ("-fmad=true",))
    with pytest.raises(PtxError, match="may contract"):
        [Translated(module.ptx)[name] for name in module.names.values()]


def test_every_kernel_with_barriers_loses_them_one_by_one():
    """In `test_every_barrier_is_needed`; of a template, one of its kernels is enough."""
    texts = {kernel: faults.parts(compilers.compiled(family), kernel)[1] for kernel, family in FAMILY.items()}
    with_barriers = {kernel.split("<")[0] for kernel, text in texts.items() if "bar.sync" in text}
    assert with_barriers == {kernel.split("<")[0] for kernel in faults.RUN_OF}


@pytest.mark.parametrize(
    "kernel", [pytest.param(k, marks=pytest.mark.long if k in LATER else ()) for k in faults.RUN_OF]
)
def test_every_barrier_is_needed(kernel):
    """Without any one of them the emulator finds a race or a wrong result; but for those that are listed, and why."""
    family = FAMILY[kernel]
    module = compilers.compiled(family)
    *needed, last = faults.barriers(module, kernel)
    if kernel.split("<")[0] not in faults.LAST_IS_HARMLESS:
        needed.append(last)
    else:
        assert not noticed(faults.RUN_OF[kernel], family, faults.without_line(module, last[0]))
    for line, place in needed:
        assert noticed(faults.RUN_OF[kernel], family, faults.without_line(module, line)), place


def test_a_fault_that_does_not_apply_is_an_error():
    with pytest.raises(faults.DoesNotApply):
        dataclasses.replace(faults.FAULTS[2], old="no such line").module()


# -- what kernels cost ----------------------------------------------------------------------------------------------


def test_kernels_cost_what_the_table_says():
    """By 10 %, up or down; otherwise the table is written again, so that the price is seen in the review."""
    table = json.loads(counts.TABLE.read_text())
    version = f"NVRTC {compilers.nvrtc_version()}"
    if table["compiler"] != version:
        pytest.skip(f"the table is of {table['compiler']}, and {version} is installed")
    changes = list(counts.changes(table, counts.measured(full=False)))
    assert not changes, "\n".join([*changes, f"if that is meant, run `{counts.COMMAND}` and commit the table"])


def test_the_table_is_of_the_compiler_that_is_installed_for_the_tests():
    """So that it is compared wherever the tests have their packages from pyproject.toml."""
    project = tomllib.loads((counts.TABLE.parents[2] / "pyproject.toml").read_text())
    (pinned,) = (line for line in project["project"]["optional-dependencies"]["dev"] if "nvrtc" in line)
    version = json.loads(counts.TABLE.read_text())["compiler"].split()[1]
    assert pinned.startswith(f"nvidia-cuda-nvrtc=={version};"), f"run `{counts.COMMAND}` with the pinned version"


def test_every_kernel_is_in_the_table():
    workloads = json.loads(counts.TABLE.read_text())[f"{counts.COARSE_MM:g} mm"]
    assert {kernel for name in counts.WORKLOADS for kernel in workloads[name]} == set(FAMILY)


def test_a_kernel_that_costs_more_is_noticed():
    entry = {"warp_instructions": 1000, "sectors": 5000, "float64_operations": 0}
    size, name = f"{counts.COARSE_MM:g} mm", "TFCE, C 6"

    def table(**changed):
        return {size: {workload: {} for workload in counts.WORKLOADS} | {name: {"kernel": entry | changed}}}

    assert not [*counts.changes(table(), table(sectors=5500, warp_instructions=900))]
    assert [*counts.changes(table(), table(sectors=5800))] == [f"{name}: kernel: sectors 5000 -> 5800"]
    assert [*counts.changes(table(), table(warp_instructions=700))]
    assert [*counts.changes(table(), table(float64_operations=500))]


# -- the emulator itself --------------------------------------------------------------------------------------------

PTX = """.version 8.0
.target sm_90
.visible .entry test(
    .param .u64 test_param_0,
    .param .u64 test_param_1
)
{{
    .reg .pred %p<9>;
    .reg .b32 %r<9>;
    .reg .b64 %rd<9>;
    {declarations}
    .shared .align 4 .b8 room[64];

    ld.param.u64 %rd1, [test_param_0];
    ld.param.u64 %rd2, [test_param_1];
    mov.u32 %r1, %tid.x;
    {body}
    ret;
}}
"""


def run_ptx(body: str, threads: int, *arrays: np.ndarray, declarations: str = "", **settings) -> np.ndarray:
    """Run the body of a kernel whose parameters are two arrays; its counts."""
    kernel = Translated(PTX.format(body=body, declarations=declarations))["test"]
    held = sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays)
    arguments = [a.ctypes.data for a in arrays]
    return launch(kernel, (1, 1), threads, arguments, np.array(held, np.uint64), settings=Settings(**settings))


def dtype_of(kind: str) -> np.dtype:
    """Numpy's type for one of PTX."""
    return np.dtype("u4" if kind == "pred" else {"s": "i", "f": "f"}.get(kind[0], "u") + str(bits_of(kind) // 8))


def computed(opcode: str, *operands: np.ndarray) -> np.ndarray:
    """What an instruction of the table makes of operands, one to a thread."""
    form = table()[opcode]
    n = len(operands[0])
    packed = np.zeros((len(operands), n), np.uint64)
    for row, values, kind in zip(packed, operands, form.sources):
        bytes_of_values = np.asarray(values).astype(dtype_of(kind)).view(np.uint8).reshape(n, -1)
        row.view(np.uint8).reshape(n, 8)[:, : bytes_of_values.shape[1]] = bytes_of_values
    names = ["%o", "%a", "%b", "%c"][: 1 + len(operands)]
    kinds = ["pred" if t == "pred" else f"b{max(bits_of(t), 16)}" for t in (form.result, *form.sources)]
    declarations = [f".reg .{kind} {name};" for kind, name in zip(kinds, names)]
    lines = ["mul.wide.u32 %rd3, %r1, 8;", "add.s64 %rd4, %rd1, %rd3;", "add.s64 %rd5, %rd2, %rd3;"]
    for i, (name, t) in enumerate(zip(names[1:], form.sources)):
        size = max(bits_of(t), 16)
        lines.append(
            f"ld.global.u{size if t != 'pred' else 32} {name if t != 'pred' else '%r2'}, [%rd4+{8 * n * i}];"
        )
        lines += [f"setp.ne.s32 {name}, %r2, 0;"] if t == "pred" else []
    lines.append(f"{opcode} {', '.join(names)};")
    lines += ["selp.b32 %r3, 1, 0, %o;", "st.global.u32 [%rd5], %r3;"] if form.result == "pred" else []
    lines += [f"st.global.{kinds[0]} [%rd5], %o;"] if form.result != "pred" else []
    out = np.zeros(n, np.uint64)
    run_ptx("\n".join(lines), n, packed, out, declarations="\n".join(declarations))
    dtype = dtype_of(form.result)
    return out.view(np.uint8).reshape(n, 8)[:, : dtype.itemsize].copy().view(dtype)[:, 0]


I32 = np.array([0, 1, -1, 7, -7, 2**31 - 1, -(2**31), 12345], np.int32)
J32 = np.array([3, -1, 2, -3, 3, 2, 5, -1000], np.int32)
F32 = np.array([0.0, -0.0, 1.5, -2.5, 3e9, -3e9, 1e-40, np.nan, np.inf, 0.1], np.float32)
G32 = np.array([-0.0, 0.0, 2.5, -2.5, 1e-3, np.nan, 7.0, 1.0, 1.0, 0.3], np.float32)
SUBNORMAL = np.float32(1e-40)
TRUTHS = {
    "add.s32": lambda: (I32 + J32, I32, J32),
    "mul.lo.s32": lambda: (I32 * J32, I32, J32),
    "mul.wide.s32": lambda: (I32.astype(np.int64) * J32, I32, J32),
    "mul.hi.u32": lambda: ([0xFFFFFFFE, 0], [2**32 - 1, 5], [2**32 - 1, 6]),
    "div.s32": lambda: (np.trunc(I32 / J32.astype(float)).astype(np.int64).astype(np.int32), I32, J32),
    "rem.s32": lambda: (np.fmod(I32.astype(np.int64), J32).astype(np.int32), I32, J32),
    "shl.b32": lambda: ([2, 0, 0], [1, 1, 1], [1, 32, 200]),
    "shr.s32": lambda: ([-1, -1, 1], [-8, -8, 4], [3, 99, 2]),
    "shr.u32": lambda: ([1, 0], [8, 8], [3, 32]),
    "min.s64": lambda: ([-5], [-5], [2**40]),
    "selp.b32": lambda: ([1, 20], [1, 2], [10, 20], [1, 0]),
    "cvt.s64.s32": lambda: (I32, I32),
    "cvt.u16.u8": lambda: ([200], [200]),
    "cvt.s32.s8": lambda: ([-56], [200 - 256]),
    "cvt.rzi.s32.f32": lambda: ([0, 0, 1, -2, 2**31 - 1, -(2**31), 0, 0, 2**31 - 1, 0], F32),
    "cvt.rni.s32.f32": lambda: ([2, -2, 4], [1.5, -2.5, 3.5]),
    "cvt.rn.f32.f64": lambda: (np.float32([0.1, 1e-40]), [0.1, 1e-40]),
    "cvt.rn.ftz.f32.f64": lambda: (np.float32([0.1, 0]), [0.1, 1e-40]),
    "cvt.ftz.f64.f32": lambda: ([0, 1.5], [SUBNORMAL, 1.5]),
    "cvt.rni.f64.f64": lambda: ([2, -2], [2.5, -1.5]),
    "add.rn.f32": lambda: (F32 + G32, F32, G32),
    "add.rn.ftz.f32": lambda: ([0, 1], [SUBNORMAL, 1], [SUBNORMAL, SUBNORMAL]),
    "mul.rn.ftz.f32": lambda: ([0, -0.0], [1e-30, -1e-30], [1e-10, 1e-10]),
    "fma.rn.f32": lambda: ([np.float32(2.0**-46)], [1 + 2.0**-23], [1 + 2.0**-23], [-(1 + 2.0**-22)]),
    "div.rn.f64": lambda: ([1 / 3], [1], [3]),
    "sqrt.rn.f64": lambda: ([2**0.5], [2]),
    "min.f32": lambda: (np.fmin(F32, G32)[2:], F32[2:], G32[2:]),
    "max.f32": lambda: (np.fmax(F32, G32)[2:], F32[2:], G32[2:]),
    "setp.lt.f32": lambda: (F32 < G32, F32, G32),
    "setp.geu.f32": lambda: (~(F32 < G32), F32, G32),
    "setp.ne.f32": lambda: ((F32 != G32) & ~np.isnan(F32 + G32), F32, G32),
    "setp.neu.f32": lambda: (F32 != G32, F32, G32),
    "setp.nan.f32": lambda: (np.isnan(F32) | np.isnan(G32), F32, G32),
    "setp.gt.ftz.f32": lambda: ([0, 1], [SUBNORMAL, 1], [0, 0]),
    "setp.lt.u32": lambda: ([1, 0], [1, 2**32 - 1], [2, 2]),
    "high.b64": lambda: ([5], [5 << 32 | 7]),
    "pack.b64": lambda: ([5 << 32 | 7], [7], [5]),
}


@pytest.mark.parametrize("opcode", TRUTHS)
def test_instructions_compute_what_numpy_does(opcode):
    with np.errstate(all="ignore"):
        truth, *operands = TRUTHS[opcode]()
        result = computed(opcode, *map(np.asarray, operands))
        expected = np.asarray(truth).astype(result.dtype)
    np.testing.assert_array_equal(result, expected)
    if result.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(result), np.signbit(expected))


PARTING = """
    setp.lt.u32 %p1, %r1, 8;
    @%p1 bra $few;
    add.s32 %r2, %r1, 1;
    add.s32 %r2, %r2, 1;
    add.s32 %r2, %r2, 1;
    bra $on;
$few:
    add.s32 %r2, %r1, 1;
$on:
    add.s32 %r2, %r2, 1;
"""


def test_lanes_that_part_meet_again():
    nothing = np.zeros(1, np.int64)
    count = dict(zip(COUNTS, run_ptx(PARTING, 32, nothing, nothing).sum(axis=0)))
    # Two loads of parameters, mov, setp, bra; three and a branch, or one; one and ret together.
    assert count["warp_instructions"] == 5 + 4 + 1 + 2
    assert count["thread_instructions"] == 32 * 5 + 24 * 4 + 8 + 32 * 2
    # A warp whose lanes all go one way does not run the other.
    assert run_ptx(PARTING, 8, nothing, nothing).sum(axis=0)[0] == 5 + 1 + 2


@pytest.mark.parametrize(("stride", "sectors"), [(4, 4), (8, 8), (32, 32), (0, 1)])
def test_sectors_are_32_bytes(stride, sectors):
    room = np.zeros(2048, np.uint8)
    room = room[-room.ctypes.data % 32 :][:1024].view(np.int32)
    body = f"mul.wide.u32 %rd3, %r1, {stride};\nadd.s64 %rd4, %rd1, %rd3;\nld.global.u32 %r2, [%rd4];"
    count = dict(zip(COUNTS, run_ptx(body, 32, room, room).sum(axis=0)))
    assert (count["sectors"], count["requests"]) == (sectors, 1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("st.global.u32 [%rd1+8], %r1;", "access outside of global memory"),
        ("st.global.u32 [%rd1+2], %r1;", "misaligned access of global memory"),
        ("st.shared.u32 [room+64], %r1;", "access outside of shared memory"),
        ("st.shared.u32 [room], %r1;", "race in shared memory"),
        ("setp.lt.u32 %p1, %r1, 8;\n@%p1 bra $b;\nbar.sync 0;\n$b:", "some threads of a warp"),
        ("setp.lt.u32 %p1, %r1, 32;\n@%p1 bra $b;\nbar.sync 0;\n$b:", "threads have left the kernel"),
        ("$b:\nbra $b;", "the kernel runs on and on"),
        ("div.u32 %r2, %r1, 0;", "division of an integer by 0"),
    ],
)
def test_what_no_kernel_may_do_is_refused_with_its_line(body, message):
    room = np.zeros(1, np.int64)
    with pytest.raises(EmulationError, match=rf"line \d+ of the PTX: {message}"):
        run_ptx(body, 64, room, room, find_races=True, most_instructions=10**5)


def test_unknown_instructions_are_refused_with_their_line():
    for line in (
        "shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;",
        "ld.global.cg.u32 %r2, [%rd1];",
        "atom.inc.u32 %r2, [%rd1], 1;",
    ):
        with pytest.raises(PtxError, match=r"line 17.*does not know"):
            run_ptx(line, 1)
    with pytest.raises(PtxError, match=r"line 17.*may contract"):
        run_ptx("add.f32 %r2, %r1, %r1;", 1)
