"""Drivers that run kernels under a sanitizer, and faults planted in the kernels, to see that the drivers notice.

All faults of a family are compiled at once, each behind a switch: ``planted`` is the number of the one that is on.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpuvox.cuda import kernel_directory
from tests.cuda_on_cpu.shim import HERE, compiled

THREAD = ("-O1", "-fsanitize=thread")
ADDRESS = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FLAGS = ("-std=c++20", "-ffp-contract=off", "-pthread", "-g", "-w")
EXIT_CODES = {0: "right", 1: "wrong result", 66: "sanitizer"}
SANITIZER_OPTIONS = {
    "TSAN_OPTIONS": "halt_on_error=1 exitcode=66",
    "ASAN_OPTIONS": "exitcode=66 detect_leaks=0",
    "UBSAN_OPTIONS": "exitcode=66 print_stacktrace=1",
}

OPERATIONS = "load|store|add|swap|raise"
PLAIN = """
// Between a look and what follows from it: seldom faults become frequent ones.
static inline void let_others_run() { std::this_thread::sleep_for(std::chrono::microseconds(20)); }

template <int N, class T> static inline T maybe_load(const T* p) {
    if (planted != N) return load(p);
    const T seen = *p;
    let_others_run();
    return seen;
}
template <int N, class T> static inline void maybe_store(T* p, typename Same<T>::type value) {
    if (planted == N) *p = value; else store(p, value);
}
template <int N, class T> static inline T maybe_add(T* p, typename Same<T>::type value) {
    if (planted != N) return add(p, value);
    const T seen = *p;
    let_others_run();
    *p = seen + value;
    return seen;
}
template <int N, class T>
static inline T maybe_swap(T* p, typename Same<T>::type expected, typename Same<T>::type value) {
    if (planted != N) return swap(p, expected, value);
    const T seen = *p;
    let_others_run();
    if (seen == expected) *p = value;
    return seen;
}
template <int N, class T> static inline T maybe_raise(T* p, typename Same<T>::type value) {
    if (planted != N) return raise(p, value);
    const T seen = *p;
    let_others_run();
    if (seen < value) *p = value;
    return seen;
}
"""


@dataclass(frozen=True)
class Fault:
    """A change to a kernel's text; in `new`, @ stands for its number. `name` says what is wrong then."""

    name: str
    old: str
    new: str


BY_HAND = {
    "tfce": (
        Fault(
            "hooking without order of the numbers",
            "if (a < b) {\n            const int c = a;",
            # Two threads can then hook each other's root.
            "if (planted == @) let_others_run();\n        if (planted != @ && a < b) {\n"
            "            const int c = a;",
        ),
        Fault(
            "path halving in find",
            "        node = (int)w;\n        w = load(word + node);",
            "        const uint32 next = ::load(word + (int)w);\n"
            "        if (planted == @ && !(next & ROOT)) ::store((uint32*)word + node, next);\n"
            "        node = (int)w;\n        w = load(word + node);",
        ),
        Fault(
            "gathered not made relative",
            "gathered[node] -= gathered[root];",
            "if (planted != @) gathered[node] -= gathered[root];",
        ),
        Fault(
            "gathered not made relative to the new root",
            "gathered[i] += gathered[w];",
            "if (planted != @) gathered[i] += gathered[w];",
        ),
        Fault("paths not shortened between levels", "word[i] = parent;", "if (planted != @) word[i] = parent;"),
        Fault(
            "size of what was hooked forgotten",
            "add(word + root, (uint32)dead[2 * i + 1]);",
            "if (planted != @) add(word + root, (uint32)dead[2 * i + 1]);",
        ),
        Fault(
            "sign ignored where voxels point",
            "const int other = code[q] ^ s;",
            "const int other = planted == @ ? magnitude(code[q]) : code[q] ^ s;",
        ),
        Fault(
            "sign ignored where labels meet",
            "if (sign * code[q] < least) return;",
            "if ((planted == @ ? magnitude(code[q]) : sign * code[q]) < least) return;",
        ),
        Fault(
            "voxels point both ways along a tie",
            "if (moved == 0 && highest <= level) {",
            "if (moved == 0 && (planted == @ ? highest < level : highest <= level)) {",
        ),
        Fault(
            "ties with later voxels join nothing",
            "[&](int offset) { look(p + offset, level); }",
            "[&](int offset) { look(p + offset, level + (planted == @)); }",
        ),
        Fault(
            "the flood of a cube goes on in the next row",
            "(reached << 1 & X0)",
            "(reached << 1 & (planted == @ ? ~0u : X0))",
        ),
        Fault(
            "the flood starts at every neighbour",
            "reached &= 0u - reached;",
            "if (planted != @) reached &= 0u - reached;",
        ),
        Fault(
            "ties with earlier voxels are greater in a cube",
            "if (before ? other > level : other >= level) cells |=",
            "if (before && planted != @ ? other > level : other >= level) cells |=",
        ),
        Fault(
            "sign of a peak forgotten",
            "word[number] = c < 0 ? ROOT | NEGATIVE : ROOT;",
            "word[number] = c < 0 && planted != @ ? ROOT | NEGATIVE : ROOT;",
        ),
        Fault(
            "a threshold counts where it is met",
            "!(thresholds[level - 1] < size)",
            "!(planted == @ ? thresholds[level - 1] <= size : thresholds[level - 1] < size)",
        ),
        Fault(
            "overflow of edges unnoticed",
            "if (edges > edge_capacity) {",
            "if (edges > edge_capacity && planted != @) {",
        ),
    ),
    "cluster": (
        Fault(
            "hooking without a check",
            "return swap(parent + root, root, below) == root; });",
            "if (planted == @) let_others_run();\n"
            "        return swap(parent + root, root, below) == root || planted == @; });",
        ),
        Fault(
            "sign ignored",
            "(t[active[j]] > 0) == (t[v] > 0)",
            "(planted == @ || (t[active[j]] > 0) == (t[v] > 0))",
        ),
        Fault("scratch left dirty", "at[index[v]] = -1;", "if (planted != @) at[index[v]] = -1;"),
        Fault(
            "threshold left out",
            "fabsf(t[v]) >= threshold",
            "(planted == @ ? fabsf(t[v]) > threshold : fabsf(t[v]) >= threshold)",
        ),
        Fault(
            "high words of the sums lost",
            "add(high + run->root, run->high);",
            "if (planted != @) add(high + run->root, run->high);",
        ),
        Fault(
            "a run not closed",
            "close(&run, size, high, low);\n        barrier();",
            "if (planted != @) close(&run, size, high, low);\n        barrier();",
        ),
    ),
}

HARMLESS = {
    "tfce": {
        "no barrier 17": "from barrier 16 to the first one of the next map only thread 0 touches what the map used",
        "no barrier 26": "until the next map's first barrier a thread touches only its own share of `other`",
    },
    "cluster": {
        "no barrier 5": "the next map's first barrier comes before any write to what is still being read",
    },
}
"""Faults that change nothing, and why."""


def shipped(family: str) -> str:
    """Text of a family as it is shipped."""
    return (kernel_directory() / f"{family}.cu").read_text()


def with_joining(text: str) -> str:
    """A family with a copy of `join_trees` of common.cuh in its text, so that faults can be planted in that too."""
    header = (kernel_directory() / "common.cuh").read_text()
    start = header.index("template <class Find, class Hook> DEVICE int join_trees")
    function = header[start : header.index("\n}\n", start) + 3]
    place = text.index("namespace {\n") + len("namespace {\n")
    return (text[:place] + function + text[place:]).replace("join_trees(", "join_here(")


def with_faults(family: str) -> tuple[str, list[str]]:
    """Text with every fault behind its switch, and the names of the faults, the first of which is number 1.

    Besides those written by hand: every barrier left out, every operation on a shared word made a plain one.
    """
    text, names = shipped(family), []
    if family == "tfce":
        text = with_joining(text)
    seen: Counter[str] = Counter()

    def number(name: str) -> str:
        names.append(name)
        return str(len(names))

    for fault in BY_HAND[family]:
        assert text.count(fault.old) == 1, f"{fault.name}: to be found once, not {text.count(fault.old)} times"
        text = text.replace(fault.old, fault.new.replace("@", number(fault.name)))

    def plain(match: re.Match, line: str) -> str:
        return f"maybe_{match[1]}<{number(repeated(f'plain {match[1]}: {line}'))}>("

    def repeated(name: str) -> str:
        seen[name] += 1
        return f"{name} [{seen[name]}]" if seen[name] > 1 else name

    out = []
    for line in text.splitlines():
        code, _, comment = line.partition("//")
        shown = re.sub(r"if \(planted != \d+\) ", "", code.strip())
        code = re.sub(rf"(?<![\w.:])({OPERATIONS})\(", lambda m, shown=shown: plain(m, shown), code)
        if re.search(r"\bbarrier\(\);", code):
            seen["barrier"] += 1
            left_out = number(f"no barrier {seen['barrier']}")
            code = code.replace("barrier();", f"if (planted != {left_out}) barrier();")
        out.append(f"{code}//{comment}" if comment else code)
    text = "\n".join(out).replace('#include "common.cuh"', f'#include "common.cuh"\n#include <chrono>\n{PLAIN}')
    return text, names


def driver(family: str, text: str, flags: tuple[str, ...]) -> Path:
    """The program drive_<family>.cpp with this text of the kernels."""
    program = (HERE / f"drive_{family}.cpp").read_text()
    return compiled(f"static int planted = 0;\n{text}\n{program}", f"drive_{family}", "", (*FLAGS, *flags))


def drive(program: Path, seed: int, trials: int, fault: int = 0, timeout: float = 100) -> tuple[str, str]:
    """(what came of it, what was printed): ``right``, ``wrong result``, ``sanitizer``, ``no end`` or ``crash``."""
    return supervised([*prefix(fault > 0), program, seed, trials, fault], timeout)


def prefix(in_background: bool = False) -> list[str]:
    """What programs are started through."""
    # ThreadSanitizer does not start where addresses are too random. Faults may spin, which others should not feel.
    fixed = ["setarch", "-R"] if shutil.which("setarch") and probe("setarch", "-R", "true") else []
    return [*fixed, *(["nice", "-n", "19"] if in_background and shutil.which("nice") else [])]


@cache
def probe(*command: str) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(command, capture_output=True).returncode == 0


@cache
def why_no_sanitizer(flags: tuple[str, ...]) -> str:
    """Why programs with these flags cannot be made or do not start; empty if they do."""
    try:
        program = compiled("int main() { return 0; }", "probe", "", (*FLAGS, *flags))
    except RuntimeError as error:
        return str(error)
    outcome, printed = supervised([*prefix(), program], 20)
    return "" if outcome == "right" else f"{outcome}: {printed}"


def supervised(command: list, timeout: float, **variables: str) -> tuple[str, str]:
    """(what came of a program, what it printed)."""
    environment = {**os.environ, **SANITIZER_OPTIONS, **variables}
    try:
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=timeout, env=environment
        )
    except subprocess.TimeoutExpired:
        return "no end", ""
    return EXIT_CODES.get(done.returncode, "crash"), done.stdout + done.stderr
