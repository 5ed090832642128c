"""Calls of device functions, inlined: a machine of warps in lock step then needs no stack of calls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from tests.ptx.parser import Function, PtxError, Statement


def inlined(function: Function, others: Mapping[str, Function]) -> Function:
    """The same function without calls, which keep their count as one instruction, and returns as another."""
    statements: list[Statement] = []
    registers = dict(function.registers)
    for number, one in enumerate(function.statements):
        if one.opcode in ("st.param", "ld.param") or one.opcode.split(".")[0] != "call":
            statements.append(argument(one, registers))
            continue
        name, results, arguments = parts_of(one, others)
        called = inlined(others[name], others)
        prefix = f"call{number}_"
        registers |= {f"%{prefix}{register[1:]}": kind for register, kind in called.registers.items()}
        bound = dict(zip((*called.results, *called.parameters), (*results, *arguments)))
        statements.append(replace(one, opcode="nop", operands=()))
        statements += body_of(called, prefix, bound)
    return replace(function, statements=statements, registers=registers)


def argument(one: Statement, registers: dict[str, str]) -> Statement:
    """Arguments and results of calls are registers here: ``st.param.f64 [%param0_3+0], %fd1`` is a ``mov.f64``."""
    name = parameter_of(one)
    return moved(one, name) if name in registers else one


def parameter_of(one: Statement) -> str:
    """The parameter of a function, or of a call, that an instruction reads or writes; empty if it does not."""
    if not one.opcode.startswith(("ld.param", "st.param")):
        return ""
    return one.operands[1 if one.opcode.startswith("ld") else 0].strip("[]").removesuffix("+0")


def moved(one: Statement, register: str) -> Statement:
    """The same with a register in place of the parameter."""
    family, *rest = one.opcode.split(".")
    operands = (one.operands[0], register) if family == "ld" else (register, one.operands[1])
    return replace(one, opcode=f"mov.{rest[-1]}", operands=operands)


def parts_of(call: Statement, others: Mapping[str, Function]) -> tuple[str, list[str], list[str]]:
    """(name, results, arguments) of ``call.uni (results), name, (arguments)``."""
    text = ", ".join(call.operands)
    match = re.fullmatch(r"(?:\(([^)]*)\), )?(\w+)(?:, \(([^)]*)\))?", text)
    if not match or match[2] not in others or call.predicate:
        raise PtxError(f"line {call.line}: unknown call: {call.opcode} {text}")
    split = [[part.strip() for part in (match[group] or "").split(",") if part.strip()] for group in (1, 3)]
    return match[2], split[0], split[1]


def body_of(called: Function, prefix: str, bound: dict[str, str]) -> list[Statement]:
    """Statements of a function with names of its own, and parameters bound to registers of the caller."""

    def own(text: str) -> str:
        text = re.sub(r"%(?=\w+)", f"%{prefix}", text)
        return re.sub(r"\$L", f"${prefix}L", text)

    out = []
    for one in called.statements:
        if one.opcode.split(".")[0] == "ret":
            out.append(replace(one, opcode="bra.uni", operands=(f"${prefix}end",), predicate=own(one.predicate)))
            continue
        name = parameter_of(one)
        here = replace(one, operands=tuple(map(own, one.operands)), predicate=own(one.predicate))
        out.append(moved(here, bound[name]) if name else here)
    return [*out, Statement("", (f"${prefix}end",), line=called.statements[-1].line)]
