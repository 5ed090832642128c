"""Helpers for intrinsics that are written as LLVM vectors.

A vector here is a number of lanes of one type, without regard to a processor: the compiler turns the same operations
into AVX-512, AVX2, SSE2 or NEON, and splits vectors that are wider than the registers. Integer operations have the same
bits everywhere, and so have float operations, which are done in the order that is written.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gpuvox.jit import intrinsic, types

__all__ = [
    "I16",
    "I32",
    "I64",
    "flags",
    "fma",
    "load",
    "multiply_add",
    "pointer",
    "prefetch",
    "splat",
    "spread",
    "store",
    "trailing_zeros",
]

I16, I32, I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)


def splat(kind: ir.VectorType, value: float) -> ir.Constant:
    """A constant in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def spread(builder: Any, value: Any, lanes: int) -> Any:
    """A value in every lane."""
    vector = builder.insert_element(
        ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined), value, ir.Constant(I32, 0)
    )
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c of vectors of float32 or float64, rounded once."""
    bits = 64 if isinstance(a.type.element, ir.DoubleType) else 32
    name = f"llvm.fma.v{a.type.count}f{bits}"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(a.type, [a.type] * 3), name)
    return builder.call(function, [a, b, c])


def flags(builder: Any, word: Any) -> Any:
    """The bits of an integer as lanes."""
    return builder.bitcast(word, ir.VectorType(ir.IntType(1), word.type.width))


def pointer(context: Any, builder: Any, array_type: Any, value: Any) -> Any:
    """Where the elements of an array begin."""
    return context.make_array(array_type)(context, builder, value).data


def load(builder: Any, kind: ir.VectorType, start: Any, index: Any, align: int) -> Any:
    """Elements of an array, from `index` on."""
    place = builder.gep(start, [index])
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=align)


def store(builder: Any, value: Any, start: Any, index: Any, align: int) -> None:
    """Elements of an array, from `index` on."""
    place = builder.gep(start, [index])
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=align)


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, b, c), generate


@intrinsic
def trailing_zeros(typing: Any, word: Any) -> Any:
    """Number of the lowest bit of a word that is set; 64 if none is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@intrinsic
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Ask for an element of a contiguous array, by its flat index, before it is used; any index does no harm."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
        function = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(
            builder.module, kind, "llvm.prefetch.p0"
        )
        place = builder.gep(pointer(context, builder, signature.args[0], arguments[0]), [arguments[1]])
        read, locality, data = (ir.Constant(I32, number) for number in (0, 2, 1))
        builder.call(function, [builder.bitcast(place, byte), read, locality, data])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate
