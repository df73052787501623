"""Compiled loops' inner steps (numba intrinsics) in LLVM's vector types: what the loop vectoriser does not find.

Short loops over rows of numbers that lie side by side, on arrays that could overlap, summed in registers.  Used by
:mod:`netx_export.kernels` on integers and by :mod:`qpsnn_lava.events` on float32; :mod:`qpsnn_lava.lanes` is built of the same parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np import arrayobj

BLOCK = 16  # rows are whole blocks of so many numbers
VECTOR_BITS = 256
WORD = ir.IntType(64)


def sum_rows(blocks: int, graded: bool = False) -> Any:
    """``out[at + i] (+)= sum over e in first..last of weights[rows[e] * width + column + i]`` for i in 0 .. 16 * blocks - 1,

    each term times values[e] where graded.  The sums stay in registers of the weights' type, an integer's or (not graded) float32.
    """

    def typing(context: Any, weights: Any, rows: Any, values: Any, first: Any, last: Any, width: Any, column: Any, out: Any, at: Any,
               add: Any) -> Any:  # fmt: skip
        signature = types.void(weights, rows, values, first, last, width, column, out, at, add)

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            weights, rows, values, first, last, width, column, out, at, add = data_of(context, builder, signature, args)
            kind, out_kind = signature.args[0].dtype, signature.args[7].dtype
            element, out_element = context.get_value_type(kind), context.get_value_type(out_kind)
            lanes = VECTOR_BITS // kind.bitwidth
            vector, out_vector = ir.VectorType(element, lanes), ir.VectorType(out_element, lanes)
            plus = builder.fadd if isinstance(element, ir.FloatType) else builder.add
            sums = [cgutils.alloca_once(builder, vector) for _ in range(blocks * BLOCK // lanes)]
            for total in sums:
                builder.store(ir.Constant(vector, None), total)
            with cgutils.for_range(builder, last, start=first, intp=WORD) as loop:
                row = builder.sext(builder.load(builder.gep(rows, [loop.index])), WORD)
                start = builder.add(builder.mul(row, width), column)
                factor = None
                if graded:
                    value = builder.load(builder.gep(values, [loop.index]))
                    if value.type.width != element.width:
                        value = (builder.trunc if value.type.width > element.width else builder.sext)(value, element)
                    factor = splat(builder, value, lanes)
                for i, total in enumerate(sums):
                    term = load_vector(builder, weights, builder.add(start, ir.Constant(WORD, i * lanes)), lanes, element)
                    term = term if factor is None else builder.mul(term, factor)
                    builder.store(plus(builder.load(total), term), total)
            for i, total in enumerate(sums):
                place = builder.add(at, ir.Constant(WORD, i * lanes))
                value = builder.load(total)
                if out_kind.bitwidth > kind.bitwidth:
                    value = builder.sext(value, out_vector)
                with builder.if_else(add) as (then, otherwise):
                    with then:
                        before = load_vector(builder, out, place, lanes, out_element)
                        store_vector(builder, plus(before, value), out, place, lanes, out_element)
                    with otherwise:
                        store_vector(builder, value, out, place, lanes, out_element)
            return context.get_dummy_value()

        return signature, code

    return intrinsic(typing)


def data_of(context: Any, builder: Any, signature: Any, args: Any) -> list[Any]:
    """The arguments, arrays as the address of their first value."""
    return [
        arrayobj.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    ]


def _address(builder: Any, array: Any, index: Any, lanes: int, element: Any) -> Any:
    return builder.bitcast(builder.gep(array, [index]), ir.VectorType(element, lanes).as_pointer())


def load_vector(builder: Any, array: Any, index: Any, lanes: int, element: Any) -> Any:
    """``lanes`` numbers of type ``element`` from array[index] on."""
    return builder.load(_address(builder, array, index, lanes, element), align=_bytes(element))


def store_vector(builder: Any, value: Any, array: Any, index: Any, lanes: int, element: Any) -> None:
    """Writes ``lanes`` numbers of type ``element`` to array[index:]."""
    builder.store(value, _address(builder, array, index, lanes, element), align=_bytes(element))


def _bytes(element: Any) -> int:
    if isinstance(element, ir.DoubleType):
        return 8
    return 4 if isinstance(element, ir.FloatType) else int(element.width) // 8


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """The number in every lane of a vector."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), lanes), None))


def add_row(blocks: int) -> Any:
    """``sums[rows[e] * width + column + i] += row[at + i]`` for e in first..last and i in 0 .. 16 * blocks - 1, float32."""

    def typing(context: Any, row: Any, at: Any, rows: Any, first: Any, last: Any, width: Any, column: Any, sums: Any) -> Any:
        signature = types.void(row, at, rows, first, last, width, column, sums)

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            row, at, rows, first, last, width, column, sums = data_of(context, builder, signature, args)
            element, lanes = ir.FloatType(), VECTOR_BITS // 32
            steps = [ir.Constant(WORD, i * lanes) for i in range(blocks * BLOCK // lanes)]
            terms = [load_vector(builder, row, builder.add(at, step), lanes, element) for step in steps]
            with cgutils.for_range(builder, last, start=first, intp=WORD) as loop:
                index = builder.sext(builder.load(builder.gep(rows, [loop.index])), WORD)
                start = builder.add(builder.mul(index, width), column)
                for step, term in zip(steps, terms, strict=True):
                    place = builder.add(start, step)
                    total = builder.fadd(load_vector(builder, sums, place, lanes, element), term)
                    store_vector(builder, total, sums, place, lanes, element)
            return context.get_dummy_value()

        return signature, code

    return intrinsic(typing)


def _copy_eight(context: Any, source: Any, start: Any, plus: Any, out: Any, at: Any) -> Any:
    """``out[at + i] = source[start + i] + plus`` for i in 0..7, int32."""
    signature = types.void(source, start, plus, out, at)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, start, plus, out, at = data_of(context, builder, signature, args)
        element = ir.IntType(32)
        value = load_vector(builder, source, start, 8, element)
        value = builder.add(value, splat(builder, builder.trunc(plus, element), 8))
        store_vector(builder, value, out, at, 8, element)
        return context.get_dummy_value()

    return signature, code


copy8: Any = intrinsic(_copy_eight)


def _append_ones(context: Any, ones: Any, start: Any, first: Any, table: Any, out: Any, at: Any) -> Any:
    """Writes ``first + i`` to out[at:] for each i in 0..7 with ones[start + i] != 0, lowest first; returns how many.

    Eight numbers are written in any case.  ``table`` is ONES.
    """
    signature = types.int64(ones, start, first, table, out, at)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        ones, start, first, table, out, at = data_of(context, builder, signature, args)
        element = ir.IntType(32)
        mask = _not_zero(builder, load_vector(builder, ones, start, 8, context.get_value_type(signature.args[0].dtype)))
        row = builder.mul(builder.zext(mask, WORD), ir.Constant(WORD, 8))
        value = builder.add(load_vector(builder, table, row, 8, element), splat(builder, builder.trunc(first, element), 8))
        store_vector(builder, value, out, at, 8, element)
        return builder.zext(builder.ctpop(mask), WORD)

    return signature, code


def _count_ones(context: Any, values: Any, start: Any) -> Any:
    """How many of the eight float32 values[start : start + 8] are 1; -2**40 where one is neither 0 nor 1."""
    signature = types.int64(values, start)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, start = data_of(context, builder, signature, args)
        element = ir.FloatType()
        eight = load_vector(builder, values, start, 8, element)
        one = ir.Constant(eight.type, [ir.Constant(element, 1.0)] * 8)
        ones = builder.bitcast(builder.fcmp_ordered("==", eight, one), ir.IntType(8))
        spikes = builder.icmp_unsigned("==", ones, _not_zero(builder, eight))
        return builder.select(spikes, builder.zext(builder.ctpop(ones), WORD), ir.Constant(WORD, -(1 << 40)))

    return signature, code


def _not_zero(builder: Any, eight: Any) -> Any:
    """The mask of eight numbers that are not zero, the first in the lowest bit."""
    zero = ir.Constant(eight.type, None)
    float_ = isinstance(eight.type.element, ir.FloatType)
    found = builder.fcmp_unordered("!=", eight, zero) if float_ else builder.icmp_unsigned("!=", eight, zero)
    return builder.bitcast(found, ir.IntType(8))


count8: Any = intrinsic(_count_ones)
append8: Any = intrinsic(_append_ones)

# ONES[mask * 8:]: the positions of the ones of a mask of 8 bits, lowest first, then zeros.
ONES = np.array([([i for i in range(8) if mask >> i & 1] + [0] * 8)[:8] for mask in range(256)], dtype=np.int32).reshape(-1)
