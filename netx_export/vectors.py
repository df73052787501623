"""Compiled loops' inner steps (numba intrinsics) in LLVM's vector types: what the loop vectoriser does not find.

Short loops over rows of numbers that lie side by side, on arrays that could overlap, summed in registers.  Used by
:mod:`netx_export.kernels` on integers, by :mod:`qpsnn_lava.events` on float32 and by :mod:`qpsnn_lava.ranks` on float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np import arrayobj

BLOCK = 16  # rows are whole blocks of so many numbers
VECTOR_BITS = 256
WORD = ir.IntType(64)
DOUBLE = ir.DoubleType()
LANES = VECTOR_BITS // 64
PLACES = 1 << 16  # the longest row of reduce_row


def sum_rows(blocks: int, graded: bool = False) -> Any:
    """``out[at + i] (+)= sum over e in first..last of weights[rows[e] * width + column + i]`` for i in 0 .. 16 * blocks - 1,

    each term times values[e] where graded.  The sums stay in registers of the weights' type, an integer's or (not graded) float32.
    """

    def typing(context: Any, weights: Any, rows: Any, values: Any, first: Any, last: Any, width: Any, column: Any, out: Any, at: Any,
               add: Any) -> Any:  # fmt: skip
        signature = types.void(weights, rows, values, first, last, width, column, out, at, add)

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            weights, rows, values, first, last, width, column, out, at, add = _data(context, builder, signature, args)
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
                    factor = _splat(builder, value, lanes)
                for i, total in enumerate(sums):
                    term = _load_vector(builder, weights, builder.add(start, ir.Constant(WORD, i * lanes)), lanes, element)
                    term = term if factor is None else builder.mul(term, factor)
                    builder.store(plus(builder.load(total), term), total)
            for i, total in enumerate(sums):
                place = builder.add(at, ir.Constant(WORD, i * lanes))
                value = builder.load(total)
                if out_kind.bitwidth > kind.bitwidth:
                    value = builder.sext(value, out_vector)
                with builder.if_else(add) as (then, otherwise):
                    with then:
                        before = _load_vector(builder, out, place, lanes, out_element)
                        _store_vector(builder, plus(before, value), out, place, lanes, out_element)
                    with otherwise:
                        _store_vector(builder, value, out, place, lanes, out_element)
            return context.get_dummy_value()

        return signature, code

    return intrinsic(typing)


def _data(context: Any, builder: Any, signature: Any, args: Any) -> list[Any]:
    """The arguments, arrays as the address of their first value."""
    return [
        arrayobj.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    ]


def _address(builder: Any, array: Any, index: Any, lanes: int, element: Any) -> Any:
    return builder.bitcast(builder.gep(array, [index]), ir.VectorType(element, lanes).as_pointer())


def _load_vector(builder: Any, array: Any, index: Any, lanes: int, element: Any) -> Any:
    return builder.load(_address(builder, array, index, lanes, element), align=_bytes(element))


def _store_vector(builder: Any, value: Any, array: Any, index: Any, lanes: int, element: Any) -> None:
    builder.store(value, _address(builder, array, index, lanes, element), align=_bytes(element))


def _bytes(element: Any) -> int:
    if isinstance(element, ir.DoubleType):
        return 8
    return 4 if isinstance(element, ir.FloatType) else int(element.width) // 8


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), lanes), None))


def add_row(blocks: int) -> Any:
    """``sums[rows[e] * width + column + i] += row[at + i]`` for e in first..last and i in 0 .. 16 * blocks - 1, float32."""

    def typing(context: Any, row: Any, at: Any, rows: Any, first: Any, last: Any, width: Any, column: Any, sums: Any) -> Any:
        signature = types.void(row, at, rows, first, last, width, column, sums)

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            row, at, rows, first, last, width, column, sums = _data(context, builder, signature, args)
            element, lanes = ir.FloatType(), VECTOR_BITS // 32
            steps = [ir.Constant(WORD, i * lanes) for i in range(blocks * BLOCK // lanes)]
            terms = [_load_vector(builder, row, builder.add(at, step), lanes, element) for step in steps]
            with cgutils.for_range(builder, last, start=first, intp=WORD) as loop:
                index = builder.sext(builder.load(builder.gep(rows, [loop.index])), WORD)
                start = builder.add(builder.mul(index, width), column)
                for step, term in zip(steps, terms, strict=True):
                    place = builder.add(start, step)
                    total = builder.fadd(_load_vector(builder, sums, place, lanes, element), term)
                    _store_vector(builder, total, sums, place, lanes, element)
            return context.get_dummy_value()

        return signature, code

    return intrinsic(typing)


def _copy_eight(context: Any, source: Any, start: Any, plus: Any, out: Any, at: Any) -> Any:
    """``out[at + i] = source[start + i] + plus`` for i in 0..7, int32."""
    signature = types.void(source, start, plus, out, at)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, start, plus, out, at = _data(context, builder, signature, args)
        element = ir.IntType(32)
        value = _load_vector(builder, source, start, 8, element)
        value = builder.add(value, _splat(builder, builder.trunc(plus, element), 8))
        _store_vector(builder, value, out, at, 8, element)
        return context.get_dummy_value()

    return signature, code


copy8: Any = intrinsic(_copy_eight)


def _append_ones(context: Any, ones: Any, start: Any, first: Any, table: Any, out: Any, at: Any) -> Any:
    """Writes ``first + i`` to out[at:] for each i in 0..7 with ones[start + i] != 0, lowest first; returns how many.

    Eight numbers are written in any case.  ``table`` is ONES.
    """
    signature = types.int64(ones, start, first, table, out, at)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        ones, start, first, table, out, at = _data(context, builder, signature, args)
        element = ir.IntType(32)
        mask = _not_zero(builder, _load_vector(builder, ones, start, 8, context.get_value_type(signature.args[0].dtype)))
        row = builder.mul(builder.zext(mask, WORD), ir.Constant(WORD, 8))
        value = builder.add(_load_vector(builder, table, row, 8, element), _splat(builder, builder.trunc(first, element), 8))
        _store_vector(builder, value, out, at, 8, element)
        return builder.zext(builder.ctpop(mask), WORD)

    return signature, code


def _count_ones(context: Any, values: Any, start: Any) -> Any:
    """How many of the eight float32 values[start : start + 8] are 1; -2**40 where one is neither 0 nor 1."""
    signature = types.int64(values, start)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, start = _data(context, builder, signature, args)
        element = ir.FloatType()
        eight = _load_vector(builder, values, start, 8, element)
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


FUSED = ("contract",)  # one rounding of x - a * b where the machine has it


def _subtract_two(context: Any, a: Any, height: Any, width: Any, first: Any, x: Any, second: Any, y: Any) -> Any:
    """``a[i * width + k] -= first[i] * x[k] + second[i] * y[k]`` for i in 0..height-1, k in 0..width-1, float64.

    The width is a multiple of BLOCK.
    """
    signature = types.void(a, height, width, first, x, second, y)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, height, width, first, x, second, y = _data(context, builder, signature, args)
        with _blocks(builder, width) as places:
            rows = [[_load_vector(builder, row, k, LANES, DOUBLE) for k in places] for row in (x, y)]
            with cgutils.for_range(builder, height, intp=WORD) as each:
                start = builder.mul(each.index, width)
                factors = [_splat(builder, builder.load(builder.gep(f, [each.index])), LANES) for f in (first, second)]
                for k, *terms in zip(places, *rows, strict=True):
                    at = builder.add(start, k)
                    value = _load_vector(builder, a, at, LANES, DOUBLE)
                    for factor, term in zip(factors, terms, strict=True):
                        value = builder.fsub(value, builder.fmul(factor, term, flags=FUSED), flags=FUSED)
                    _store_vector(builder, value, a, at, LANES, DOUBLE)
        return context.get_dummy_value()

    return signature, code


def _reduce_row(context: Any, a: Any, start: Any, factor: Any, x: Any, free: Any, width: Any, out: Any) -> Any:
    """``out[k] = a[start + k] - factor * x[k]`` for k in 0..width-1, float64; returns a k of the largest ``|out[k]| * free[k]``.

    Largest but for a relative 2**-36: the last 16 bits are taken for the place.  The width is a multiple of BLOCK, at most PLACES.
    """
    signature = types.int64(a, start, factor, x, free, width, out)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, start, factor, x, free, width, out = _data(context, builder, signature, args)
        whole = ir.VectorType(WORD, LANES)
        size = ir.Constant(whole, [ir.Constant(WORD, (1 << 63) - PLACES)] * LANES)  # without the sign and the last bits
        lane = ir.Constant(whole, [ir.Constant(WORD, i) for i in range(LANES)])
        factors = _splat(builder, factor, LANES)
        best = [
            cgutils.alloca_once_value(builder, ir.Constant(ir.VectorType(DOUBLE, LANES), None)) for _ in range(BLOCK // LANES)
        ]
        with _blocks(builder, width) as places:
            for k, most in zip(places, best, strict=True):
                term = builder.fmul(factors, _load_vector(builder, x, k, LANES, DOUBLE), flags=FUSED)
                value = builder.fsub(_load_vector(builder, a, builder.add(start, k), LANES, DOUBLE), term, flags=FUSED)
                _store_vector(builder, value, out, k, LANES, DOUBLE)
                weighted = builder.bitcast(builder.fmul(value, _load_vector(builder, free, k, LANES, DOUBLE)), whole)
                place = builder.add(_splat(builder, k, LANES), lane)
                key = builder.bitcast(builder.or_(builder.and_(weighted, size), place), value.type)
                builder.store(_larger(builder, key, builder.load(most)), most)
        word = builder.bitcast(_largest_of(builder, [builder.load(most) for most in best]), WORD)
        return builder.and_(word, ir.Constant(WORD, PLACES - 1))

    return signature, code


def _scale_row(context: Any, row: Any, factor: Any, place: Any, width: Any, x: Any, a: Any, start: Any) -> Any:
    """``x[k] = a[start + k] = row[k] * factor`` for k in 0..width-1, but x[place] = 1 + factor and a[start + place] = factor.

    Float64; the width is a multiple of BLOCK.  Returns the largest |x[k]|.
    """
    signature = types.float64(row, factor, place, width, x, a, start)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, factor, place, width, x, a, start = _data(context, builder, signature, args)
        vector, whole = ir.VectorType(DOUBLE, LANES), ir.VectorType(WORD, LANES)
        lane = ir.Constant(whole, [ir.Constant(WORD, i) for i in range(LANES)])
        sign = ir.Constant(whole, [ir.Constant(WORD, (1 << 63) - 1)] * LANES)
        factors, wanted = _splat(builder, factor, LANES), _splat(builder, place, LANES)
        more = builder.fadd(factors, ir.Constant(vector, [ir.Constant(DOUBLE, 1.0)] * LANES))
        best = [cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(BLOCK // LANES)]
        with _blocks(builder, width) as places:
            for k, most in zip(places, best, strict=True):
                value = builder.fmul(_load_vector(builder, row, k, LANES, DOUBLE), factors)
                there = builder.icmp_unsigned("==", builder.add(_splat(builder, k, LANES), lane), wanted)
                _store_vector(builder, builder.select(there, factors, value), a, builder.add(start, k), LANES, DOUBLE)
                value = builder.select(there, more, value)
                _store_vector(builder, value, x, k, LANES, DOUBLE)
                size = builder.bitcast(builder.and_(builder.bitcast(value, whole), sign), vector)
                builder.store(_larger(builder, size, builder.load(most)), most)
        return _largest_of(builder, [builder.load(most) for most in best])

    return signature, code


@contextmanager
def _blocks(builder: Any, width: Any) -> Iterator[list[Any]]:
    """A loop over blocks of a row: the places of the block's vectors."""
    with cgutils.for_range(builder, builder.udiv(width, ir.Constant(WORD, BLOCK)), intp=WORD) as block:
        start = builder.mul(block.index, ir.Constant(WORD, BLOCK))
        yield [builder.add(start, ir.Constant(WORD, i)) for i in range(0, BLOCK, LANES)]


def _larger(builder: Any, x: Any, y: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


def _largest_of(builder: Any, vectors: list[Any]) -> Any:
    """The largest number of all vectors."""
    while len(vectors) > 1:
        vectors = [_larger(builder, x, y) for x, y in zip(vectors[::2], vectors[1::2], strict=True)]
    (most,) = vectors
    numbers = [builder.extract_element(most, ir.Constant(ir.IntType(32), i)) for i in range(LANES)]
    while len(numbers) > 1:
        numbers = [_larger(builder, x, y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
    return numbers[0]


subtract_two: Any = intrinsic(_subtract_two)
reduce_row: Any = intrinsic(_reduce_row)
scale_row: Any = intrinsic(_scale_row)
