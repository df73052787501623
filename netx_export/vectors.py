"""Compiled loops' inner steps (numba intrinsics) in LLVM's vector types: what the loop vectoriser does not find.

Short loops over rows of numbers that lie side by side, on arrays that could overlap, summed in registers.  Used by
:mod:`netx_export.kernels` on integers, by :mod:`qpsnn_lava.events` on float32 and by :mod:`qpsnn_lava.ranks` on float64.
"""

from __future__ import annotations

from collections.abc import Callable
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
LANES = 8  # float64 numbers at a time: one register of AVX-512, two of AVX2
PANEL = 4  # rows that are exchanged together
PLACES = 1 << 16  # the longest row of find_largest


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


def _copy_row(context: Any, source: Any, start: Any, width: Any, out: Any, at: Any) -> Any:
    """``out[at + k] = source[start + k]`` for k in 0..width-1, float64 of float32 or float64, of arrays without gaps."""
    assert source.layout == out.layout == "C"
    signature = types.void(source, start, width, out, at)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(signature.args[0].dtype)
        source, start, width, out, at = _data(context, builder, signature, args)

        def wide(value: Any, type_: Any) -> Any:
            return value if kind == DOUBLE else builder.fpext(value, type_)

        lanes = ir.Constant(WORD, LANES)
        with cgutils.for_range(builder, builder.udiv(width, lanes), intp=WORD) as part:
            k = builder.mul(part.index, lanes)
            value = _load_vector(builder, source, builder.add(start, k), LANES, kind)
            _store_vector(builder, wide(value, ir.VectorType(DOUBLE, LANES)), out, builder.add(at, k), LANES, DOUBLE)
        left = builder.urem(width, lanes)
        first = builder.sub(width, left)
        with cgutils.for_range(builder, left, intp=WORD) as one:
            k = builder.add(first, one.index)
            value = wide(builder.load(builder.gep(source, [builder.add(start, k)])), DOUBLE)
            builder.store(value, builder.gep(out, [builder.add(at, k)]))
        return context.get_dummy_value()

    return signature, code


def _find_largest(context: Any, room: Any, row: Any, free: Any, width: Any) -> Any:
    """A k of the largest ``|room[row + k]| * room[free + k]`` for k in 0..width-1, float64.

    Largest but for a relative 2**-36: the last 16 bits are taken for the place.  The width is a multiple of BLOCK, at most PLACES.
    """
    signature = types.int64(room, row, free, width)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room, row, free, width = _data(context, builder, signature, args)
        whole = ir.VectorType(WORD, LANES)
        size = ir.Constant(whole, [ir.Constant(WORD, (1 << 63) - PLACES)] * LANES)  # without the sign and the last bits

        def key(k: Any) -> Any:
            value = _load_vector(builder, room, builder.add(row, k), LANES, DOUBLE)
            weighted = builder.fmul(value, _load_vector(builder, room, builder.add(free, k), LANES, DOUBLE))
            weighted = builder.bitcast(weighted, whole)
            return builder.bitcast(builder.or_(builder.and_(weighted, size), _places(builder, k)), value.type)

        word = builder.bitcast(_largest_in_blocks(builder, width, key), WORD)
        return builder.and_(word, ir.Constant(WORD, PLACES - 1))

    return signature, code


def _scale_row(context: Any, room: Any, row: Any, factor: Any, place: Any, width: Any, x: Any, free: Any) -> Any:
    """``x[k] = row[k] *= factor`` for k in 0..width-1, but row[place] = factor and x[place] = 1 + factor; free[place] = 0.

    Float64; row, x and free begin at these places of the room.  The width is a multiple of BLOCK.  Returns the largest |x[k]|.
    """
    signature = types.float64(room, row, factor, place, width, x, free)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room, row, factor, place, width, x, free = _data(context, builder, signature, args)
        vector = ir.VectorType(DOUBLE, LANES)
        factors = _splat(builder, factor, LANES)
        more = builder.fadd(factors, ir.Constant(vector, [ir.Constant(DOUBLE, 1.0)] * LANES))

        def scaled(k: Any) -> Any:
            in_row, in_x, in_free = (builder.add(start, k) for start in (row, x, free))
            value = builder.fmul(_load_vector(builder, room, in_row, LANES, DOUBLE), factors)
            there = _is_place(builder, k, place)
            _store_vector(builder, builder.select(there, factors, value), room, in_row, LANES, DOUBLE)
            value = builder.select(there, more, value)
            _store_vector(builder, value, room, in_x, LANES, DOUBLE)
            still = _load_vector(builder, room, in_free, LANES, DOUBLE)
            _store_vector(builder, builder.select(there, ir.Constant(vector, None), still), room, in_free, LANES, DOUBLE)
            return _size(builder, value)

        return _largest_in_blocks(builder, width, scaled)

    return signature, code


def _make_step(context: Any, room: Any, row: Any, place: Any, width: Any, step: Any) -> Any:
    """``step[k] = row[k]`` for k in 0..width-1, but 1 more in step[place], float64; returns the largest size in step.

    Row and step begin at these places of the room; the width is a multiple of BLOCK.
    """
    signature = types.float64(room, row, place, width, step)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room, row, place, width, step = _data(context, builder, signature, args)
        one = ir.Constant(ir.VectorType(DOUBLE, LANES), [ir.Constant(DOUBLE, 1.0)] * LANES)

        def made(k: Any) -> Any:
            value = _load_vector(builder, room, builder.add(row, k), LANES, DOUBLE)
            value = builder.select(_is_place(builder, k, place), builder.fadd(value, one), value)
            _store_vector(builder, value, room, builder.add(step, k), LANES, DOUBLE)
            return _size(builder, value)

        return _largest_in_blocks(builder, width, made)

    return signature, code


def _subtract_one(context: Any, room: Any, a: Any, width: Any, factors: Any, row: Any) -> Any:
    """``a[i * width + k] -= factors[i] * row[k]`` for i in 0..PANEL-1 and k in 0..width-1, float64.

    a, factors and row begin at these places of the room; the width is a multiple of BLOCK.
    """
    signature = types.void(room, a, width, factors, row)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room, a, width, factors, row = _data(context, builder, signature, args)
        numbers = [ir.Constant(WORD, i) for i in range(PANEL)]
        splats = [_splat(builder, builder.load(builder.gep(room, [builder.add(factors, i)])), LANES) for i in numbers]

        def block(places: list[Any]) -> None:
            for k in places:
                term = _load_vector(builder, room, builder.add(row, k), LANES, DOUBLE)
                for i, factor in zip(numbers, splats, strict=True):
                    at = builder.add(builder.add(a, builder.mul(i, width)), k)
                    value = _load_vector(builder, room, at, LANES, DOUBLE)
                    value = builder.fsub(value, builder.fmul(factor, term, flags=FUSED), flags=FUSED)
                    _store_vector(builder, value, room, at, LANES, DOUBLE)

        _in_blocks(builder, width, block)
        return context.get_dummy_value()

    return signature, code


def _subtract_panel(
    context: Any, room: Any, a: Any, count: Any, width: Any, columns: Any, steps: Any, out: Any, sums: Any
) -> Any:
    """``out[i * width + k] = a[i * width + k] - sum over m of a[i * width + columns[m]] * steps[m * width + k]``, float64

    for i in 0..count-1, k in 0..width-1 and m in 0..PANEL-1; adds the squares of out to the LANES ``sums``.  All begin at these places
    of the room.  The width is a multiple of BLOCK; where it is at most two of them, out may begin at rows before a, else they are apart.
    """
    signature = types.void(room, a, count, width, columns, steps, out, sums)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room, a, count, width, columns, steps, out, sums = _data(context, builder, signature, args)
        own = [builder.add(a, builder.extract_value(columns, m)) for m in range(PANEL)]
        starts = [builder.add(steps, builder.mul(width, ir.Constant(WORD, m))) for m in range(PANEL)]
        zero = ir.Constant(ir.VectorType(DOUBLE, LANES), None)
        squares = [cgutils.alloca_once(builder, zero.type) for _ in range(2 * BLOCK // LANES)]
        builder.store(_load_vector(builder, room, sums, LANES, DOUBLE), squares[0])
        for total in squares[1:]:
            builder.store(zero, total)

        def block(places: list[Any]) -> None:
            terms = [[_load_vector(builder, room, builder.add(m, k), LANES, DOUBLE) for m in starts] for k in places]
            with cgutils.for_range(builder, count, intp=WORD) as each:
                row = builder.mul(each.index, width)
                factors = [_splat(builder, builder.load(builder.gep(room, [builder.add(m, row)])), LANES) for m in own]
                for k, own_terms, total in zip(places, terms, squares, strict=False):
                    place = builder.add(row, k)
                    value = _load_vector(builder, room, builder.add(a, place), LANES, DOUBLE)
                    for factor, term in zip(factors, own_terms, strict=True):
                        value = builder.fsub(value, builder.fmul(factor, term, flags=FUSED), flags=FUSED)
                    _store_vector(builder, value, room, builder.add(out, place), LANES, DOUBLE)
                    square = builder.fmul(value, value, flags=FUSED)
                    builder.store(builder.fadd(builder.load(total), square, flags=FUSED), total)

        _in_blocks(builder, width, block)
        whole = builder.load(squares[0])
        for total in squares[1:]:
            whole = builder.fadd(whole, builder.load(total))
        _store_vector(builder, whole, room, sums, LANES, DOUBLE)
        return context.get_dummy_value()

    return signature, code


def _take_column(context: Any, room: Any, start: Any, width: Any, out: Any) -> Any:
    """``room[out + i] = room[start + i * width]`` for i in 0..PANEL-1, float64; returns the largest size."""
    signature = types.float64(room, start, width, out)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room, start, width, out = _data(context, builder, signature, args)
        sizes = []
        for i in range(PANEL):
            number = ir.Constant(WORD, i)
            value = builder.load(builder.gep(room, [builder.add(start, builder.mul(number, width))]))
            builder.store(value, builder.gep(room, [builder.add(out, number)]))
            bits = builder.and_(builder.bitcast(value, WORD), ir.Constant(WORD, (1 << 63) - 1))
            sizes.append(builder.bitcast(bits, DOUBLE))
        while len(sizes) > 1:
            sizes = [_larger(builder, x, y) for x, y in zip(sizes[::2], sizes[1::2], strict=True)]
        return sizes[0]

    return signature, code


def _fetch(context: Any, values: Any, start: Any, count: Any) -> Any:
    """Tells the processor that ``values[start : start + count]`` will be read soon."""
    signature = types.void(values, start, count)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, start, count = _data(context, builder, signature, args)
        bytes_ = ir.IntType(8).as_pointer()
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [bytes_, flag, flag, flag])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        line = ir.Constant(WORD, 64 // (signature.args[0].dtype.bitwidth // 8))
        lines = builder.udiv(builder.add(count, builder.sub(line, ir.Constant(WORD, 1))), line)
        with cgutils.for_range(builder, lines, intp=WORD) as each:
            at = builder.gep(values, [builder.add(start, builder.mul(each.index, line))])
            builder.call(prefetch, [builder.bitcast(at, bytes_), flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return signature, code


def _sum_squares(context: Any, room: Any, a: Any, height: Any, width: Any, of_rows: Any, of_columns: Any) -> Any:
    """Sum of ``of_rows[i] * of_columns[k] * a[i * width + k]**2``, float64; all three begin at these places of the room.

    The width is a multiple of BLOCK.
    """
    signature = types.float64(room, a, height, width, of_rows, of_columns)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room, a, height, width, of_rows, of_columns = _data(context, builder, signature, args)
        zero = ir.Constant(ir.VectorType(DOUBLE, LANES), None)
        whole = cgutils.alloca_once(builder, zero.type)
        sums = [cgutils.alloca_once(builder, zero.type) for _ in range(2 * BLOCK // LANES)]
        builder.store(zero, whole)

        def block(places: list[Any]) -> None:
            for total in sums:
                builder.store(zero, total)
            with cgutils.for_range(builder, height, intp=WORD) as each:
                row = builder.add(a, builder.mul(each.index, width))
                weight = _splat(builder, builder.load(builder.gep(room, [builder.add(of_rows, each.index)])), LANES)
                for k, total in zip(places, sums, strict=False):
                    value = _load_vector(builder, room, builder.add(row, k), LANES, DOUBLE)
                    term = builder.fmul(builder.fmul(value, value), weight, flags=FUSED)
                    builder.store(builder.fadd(builder.load(total), term, flags=FUSED), total)
            for k, total in zip(places, sums, strict=False):
                term = builder.fmul(
                    builder.load(total), _load_vector(builder, room, builder.add(of_columns, k), LANES, DOUBLE)
                )
                builder.store(builder.fadd(builder.load(whole), term), whole)

        _in_blocks(builder, width, block)
        numbers = [builder.extract_element(builder.load(whole), ir.Constant(ir.IntType(32), i)) for i in range(LANES)]
        while len(numbers) > 1:
            numbers = [builder.fadd(x, y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
        return numbers[0]

    return signature, code


def _in_blocks(builder: Any, width: Any, block: Callable[[list[Any]], None]) -> None:
    """Code of ``block`` for the places of the vectors of a row: two BLOCKs at a time, then one that is left."""
    two = ir.Constant(WORD, 2 * BLOCK)
    with cgutils.for_range(builder, builder.udiv(width, two), intp=WORD) as loop:
        start = builder.mul(loop.index, two)
        block([builder.add(start, ir.Constant(WORD, i)) for i in range(0, 2 * BLOCK, LANES)])
    left = builder.urem(width, two)
    with builder.if_then(builder.icmp_unsigned("!=", left, ir.Constant(WORD, 0))):
        start = builder.sub(width, left)
        block([builder.add(start, ir.Constant(WORD, i)) for i in range(0, BLOCK, LANES)])


def _largest_in_blocks(builder: Any, width: Any, vector_at: Callable[[Any], Any]) -> Any:
    """The largest number, at least 0, of the vectors that ``vector_at`` gives for the places of a row."""
    zero = ir.Constant(ir.VectorType(DOUBLE, LANES), None)
    best = [cgutils.alloca_once_value(builder, zero) for _ in range(2 * BLOCK // LANES)]

    def block(places: list[Any]) -> None:
        for k, most in zip(places, best[: len(places)], strict=True):
            builder.store(_larger(builder, vector_at(k), builder.load(most)), most)

    for most in best:
        builder.store(zero, most)
    _in_blocks(builder, width, block)
    return _largest_of(builder, [builder.load(most) for most in best])


def _places(builder: Any, k: Any) -> Any:
    """k, k + 1, ... of a vector."""
    lanes = ir.Constant(ir.VectorType(WORD, LANES), [ir.Constant(WORD, i) for i in range(LANES)])
    return builder.add(_splat(builder, k, LANES), lanes)


def _is_place(builder: Any, k: Any, place: Any) -> Any:
    return builder.icmp_unsigned("==", _places(builder, k), _splat(builder, place, LANES))


def _size(builder: Any, vector: Any) -> Any:
    """The numbers without their signs."""
    whole = ir.VectorType(WORD, LANES)
    sign = ir.Constant(whole, [ir.Constant(WORD, (1 << 63) - 1)] * LANES)
    return builder.bitcast(builder.and_(builder.bitcast(vector, whole), sign), vector.type)


def _larger(builder: Any, x: Any, y: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


def _largest_of(builder: Any, vectors: list[Any]) -> Any:
    """The largest number of all vectors."""
    while len(vectors) > 1:
        vectors = [_larger(builder, x, y) for x, y in zip(vectors[::2], vectors[1::2], strict=True)]
    (most,) = vectors
    half = LANES // 2
    while half:  # the upper half onto the lower one
        upper = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [(i + half) % LANES for i in range(LANES)])
        most = _larger(builder, most, builder.shuffle_vector(most, ir.Constant(most.type, ir.Undefined), upper))
        half //= 2
    return builder.extract_element(most, ir.Constant(ir.IntType(32), 0))


copy_row: Any = intrinsic(_copy_row)
fetch: Any = intrinsic(_fetch)
find_largest: Any = intrinsic(_find_largest)
take_column: Any = intrinsic(_take_column)
scale_row: Any = intrinsic(_scale_row)
subtract_one: Any = intrinsic(_subtract_one)
make_step: Any = intrinsic(_make_step)
subtract_panel: Any = intrinsic(_subtract_panel)
sum_squares: Any = intrinsic(_sum_squares)
