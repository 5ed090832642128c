"""Faults planted in the kernels, to see that the emulator notices them: each a change of the source, of the compiler's
options, or of the PTX, that must apply.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpuvox import cuda
from tests.ptx.compilers import Module, compiled
from tests.ptx.parser import Functions


class DoesNotApply(Exception):
    """The text that a fault replaces is not there, or more than once."""


@dataclass(frozen=True)
class Fault:
    """A change to a family of kernels; `run` of `runs.RUNS` must notice it, by what it says or computes.

    `old` becomes `new` in the source, or in the PTX of `kernel` if that is named; `options` are added to the
    compiler's.
    """

    name: str
    family: str
    run: str
    notice: str
    old: str = ""
    new: str = ""
    kernel: str = ""
    options: tuple[str, ...] = ()

    def module(self) -> Module:
        """The family with the fault."""
        if self.options:
            return with_options(self.family, self.options)
        if not self.kernel:
            return compiled(self.family, source=once(cuda.source(self.family), self.old, self.new))
        module = compiled(self.family)
        before, kernel, after = parts(module, self.kernel)
        return replace(module, ptx=before + once(kernel, self.old, self.new) + after)


def with_options(family: str, options: tuple[str, ...]) -> Module:
    """A family compiled with other options, in place of those that begin like the first of them."""
    given = tuple(option for option in cuda.compile_options() if not option.startswith(options[0][:5]))
    return compiled(family, options=(*given, *options))


def once(text: str, old: str, new: str) -> str:
    """The text with one replacement."""
    if text.count(old) != 1:
        raise DoesNotApply(f"{old!r} is there {text.count(old)} times")
    return text.replace(old, new)


def parts(module: Module, kernel: str) -> tuple[str, str, str]:
    """The PTX before a kernel, its own, and after it."""
    start = module.ptx.index(f".entry {module.names[kernel]}(")
    end = module.ptx.index("\n}", start)
    return module.ptx[:start], module.ptx[start:end], module.ptx[end:]


def barriers(module: Module, kernel: str) -> list[tuple[int, str]]:
    """(line of the PTX, place in the source) of every barrier of a kernel."""
    function = Functions(module.ptx)[module.names[kernel]]
    found = [one for one in function.statements if one.opcode == "bar.sync"]
    return [(one.line, next(place for place in one.place if "common.cuh" not in place)) for one in found]


def without_line(module: Module, line: int) -> Module:
    """The PTX without a barrier."""
    lines = module.ptx.split("\n")
    if "bar.sync" not in lines[line - 1]:
        raise DoesNotApply(f"line {line} is {lines[line - 1]!r}")
    lines[line - 1] = ""
    return replace(module, ptx="\n".join(lines))


RUN_OF = {
    "tfce_peaks<6, false>": "TFCE, C 6",
    "tfce_peaks<6, true>": "TFCE, C 6",
    "tfce_peaks<26, false>": "TFCE, C 26",
    "tfce_grow<double>": "TFCE, exact",
    "cluster_measure<0>": "clusters",
    "cluster_measure<1>": "clusters",
    "cluster_measure<2>": "clusters",
    "glm_maps<false>": "t and F",
    "maps_extremes<float>": "sums of float32",
    "maps_ties_everywhere": "ties",
    "inversion_sums": "reference of iron and myelin",
}
"""Kernels whose barriers are removed one by one, and the run that must notice."""

LAST_IS_HARMLESS = {
    "tfce_peaks": "until the first barrier of the next map only one thread touches what the map used",
    "tfce_grow": "until the first barrier of the next map a thread touches only its own share of `other`",
    "cluster_measure": "the first barrier of the next map comes before any write to what is still being read",
    "glm_maps": "the barriers of the next tile come before any write to what is still being read",
    "inversion_sums": "nothing follows",
}
"""Kernels whose last barrier nothing needs, and why."""

FAULTS = (
    Fault("sums are contracted", "glm", "t and F", "may contract", options=("-fmad=true",)),
    Fault("divisions are approximate", "glm", "t and F", "does not know", options=("-prec-div=false",)),
    Fault(
        "one voxel too many", "inversion", "iron and myelin", "access outside of global memory",
        "v < n; v += grid_threads()) {\n        const Tissue", "v <= n; v += grid_threads()) {\n        const Tissue",
    ),
    Fault(
        "a sum is not an atomic operation", "cluster", "clusters", "race in global memory",
        "add(size + run->root, run->size);", "size[run->root] += run->size;",
    ),
    Fault(
        "shared memory ends too early", "maps", "sums of float64", "access outside of shared memory",
        "T* low = high + blockDim.x;", "T* low = high + blockDim.x + 1;",
    ),
    Fault(
        "a barrier that not all threads reach", "inversion", "reference of iron and myelin", "barrier",
        "    barrier();\n    for (int i =", "    if (threadIdx.x < 7) barrier();\n    for (int i =",
    ),
    Fault(
        "a loop without end", "smooth", "smoothed", "on and on",
        "for (int k = 1; k <= reach; ++k)", "for (int k = 1; k <= reach; k += k > 0 ? 0 : 1)",
    ),
    Fault(
        "a count of a list is not an atomic operation", "maps", "the scale of z", "race in global memory",
        "add(list.count, 1);", "(*list.count)++;",
    ),
    Fault(
        "tables of maps overlap", "tfce", "the scale of z", "race in global memory",
        "thresholds + item * (cap + 1);", "thresholds + item * cap;",
    ),
    Fault(
        "one value of z too many", "normal_scores", "the scale of z", "access outside of global memory",
        "item < n; item += grid_threads()) {\n        const int k",
        "item <= n; item += grid_threads()) {\n        const int k",
    ),
    Fault(
        "the voxel beside the one that is meant", "correlation", "other models", "differs",
        "y[i * y_stride + column], p);", "y[i * y_stride + (column + 1) % width], p);",
    ),
    Fault(
        "rows of one shuffle too many", "regression", "other models", "access outside of global memory",
        "b <= n_maps; b += grid_threads()", "b <= n_maps + 1; b += grid_threads()",
    ),
    Fault(
        "threads share the room for their factors", "missing", "other models", "race in global memory",
        "double* factor = scratch + grid_thread();", "double* factor = scratch;",
    ),
    Fault(
        "threads share the room for their fits", "variance_groups", "other models", "race in global memory",
        "places + b * n, scratch + grid_thread(), grid_threads());", "places + b * n, scratch, grid_threads());",
    ),
    Fault(
        "threads share the room for their factors of voxelwise EVs", "voxelwise", "other models",
        "race in global memory", "shuffles + b * n, model, scratch + grid_thread(), step)",
        "shuffles + b * n, model, scratch, step)",
    ),
    Fault(
        "threads share the room for what comes to each node", "shuffle", "shuffles", "race in global memory",
        "int* come = scratch + grid_thread();", "int* come = scratch;",
    ),
    Fault(
        "a predicate is turned round in the PTX", "maps", "sums of float32", "access outside",
        "@%p1 bra", "@!%p1 bra", kernel="maps_count_below<float, false>",
    ),
)  # fmt: skip
