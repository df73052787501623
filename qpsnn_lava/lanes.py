"""The steps of :mod:`qpsnn_lava.ranks` (numba intrinsics): eight matrices side by side, one in each lane of a vector of float64.

``room`` is an array of float64, and its vector ``at`` is room[at * LANES : (at + 1) * LANES].  TILE columns of the matrices are a block:
``a[i, k]`` of a block that begins at vector ``a`` is vector ``a + i * TILE + k``, and the next block begins ``height * TILE`` after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

from netx_export.vectors import WORD, data_of, load_vector, splat, store_vector

DOUBLE = ir.DoubleType()
LANES = 8  # float64 numbers at a time: one register of AVX-512, two of AVX2
ABREAST = ir.VectorType(DOUBLE, LANES)
TILE = 4  # columns side by side, and rows of them that are multiplied at a time
FUSED = ("contract",)  # one rounding of x + a * b where the machine has it


def _spread(
    context: Any, maps: Any, starts: Any, add: Any, count: Any, room: Any, at: Any, step: Any, half: Any, scale: Any
) -> Any:
    """Lane l of vector ``at + k % 4 * step + k // 4 * half`` becomes maps[starts[l] + add + k], times lane l of vector ``scale``,

    for k in 0..count-1, of which there are whole eights, and l in 0..7.  The maps are float32 or float64.
    """
    assert maps.layout == "C"
    signature = types.void(maps, starts, add, count, room, at, step, half, scale)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(signature.args[0].dtype)
        maps, starts, add, count, room, at, step, half, scale = data_of(context, builder, signature, args)
        factor = _load(builder, room, scale)
        begin = [builder.add(add, builder.load(builder.gep(starts, [ir.Constant(WORD, lane)]))) for lane in range(LANES)]
        steps = [builder.mul(step, ir.Constant(WORD, k)) for k in range(LANES // 2)]
        with cgutils.for_range_slice(builder, ir.Constant(WORD, 0), count, ir.Constant(WORD, LANES)) as (first, _):
            rows = [load_vector(builder, maps, builder.add(one, first), LANES, kind) for one in begin]
            if kind != DOUBLE:
                rows = [builder.fpext(row, ABREAST) for row in rows]
            far = 1
            while far < LANES:  # transposes 8 x 8 numbers, bit by bit of their places
                for i in range(LANES):
                    if not i & far:
                        rows[i], rows[i | far] = _exchanged(builder, rows[i], rows[i | far], far)
                far *= 2
            place = builder.add(at, builder.mul(half, builder.udiv(first, ir.Constant(WORD, LANES // 2))))
            for k, row in enumerate(rows):
                if k == LANES // 2:
                    place = builder.add(place, half)
                _store(builder, builder.fmul(row, factor), room, builder.add(place, steps[k % (LANES // 2)]))
        return context.get_dummy_value()

    return signature, code


def _square(context: Any, maps: Any, start: Any, count: Any) -> Any:
    """Sum of the squares of ``count`` float32 or float64 numbers of maps from ``start`` on, of float32 added up in float32."""
    assert maps.layout == "C"
    signature = types.float64(maps, start, count)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(signature.args[0].dtype)
        maps, start, count = data_of(context, builder, signature, args)
        lanes = LANES * (1 if kind == DOUBLE else 2)
        vector = ir.VectorType(kind, lanes)
        step = ir.Constant(WORD, TILE * lanes)
        sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(TILE)]
        rest = cgutils.alloca_once_value(builder, ir.Constant(kind, 0.0))
        whole = builder.sub(count, builder.urem(count, step))
        with cgutils.for_range_slice(builder, ir.Constant(WORD, 0), whole, step) as (i, _):
            for number, total in enumerate(sums):
                value = load_vector(builder, maps, builder.add(start, _plus(builder, i, number * lanes)), lanes, kind)
                builder.store(_fused(builder, builder.load(total), value, value), total)
        with cgutils.for_range_slice(builder, whole, count, ir.Constant(WORD, 1)) as (i, _):
            one = builder.load(builder.gep(maps, [builder.add(start, i)]))
            builder.store(_fused(builder, builder.load(rest), one, one), rest)
        total = _total(builder, sums)
        numbers = [builder.extract_element(total, ir.Constant(ir.IntType(32), i)) for i in range(lanes)]
        whole = builder.fadd(_tree(numbers, builder.fadd), builder.load(rest))
        return whole if kind == DOUBLE else builder.fpext(whole, DOUBLE)

    return signature, code


def _rotate(context: Any, room: Any, a: Any, rows: Any, first: Any, tangent: Any) -> Any:
    """Turns the eight rows rows[first : first + 8] of block a among each other, in three rounds of four pairs.

    ``x, y = x + t y, y - t x`` of each pair, with the same t.
    """
    signature = types.void(room, a, rows, first, tangent)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room, a, rows, first, tangent = data_of(context, builder, signature, args)
        turn = splat(builder, tangent, LANES)
        back = builder.fneg(turn)
        own = [builder.load(builder.gep(rows, [_plus(builder, first, i)])) for i in range(LANES)]
        own = [builder.add(a, builder.mul(row, ir.Constant(WORD, TILE))) for row in own]
        for k in range(TILE):
            places = [_plus(builder, row, k) for row in own]
            values = [_load(builder, room, place) for place in places]
            for far in (1, 2, 4):
                for i in range(LANES):
                    if not i & far:
                        x, y = values[i], values[i | far]
                        values[i], values[i | far] = _fused(builder, x, turn, y), _fused(builder, y, back, x)
            for place, value in zip(places, values, strict=True):
                _store(builder, value, room, place)
        return context.get_dummy_value()

    return signature, code


def _find_row(context: Any, room: Any, column: Any, order: Any, first: Any, last: Any, least: Any) -> Any:
    """The place in ``order``, first..last-1, of the row whose value in a block's column suits all lanes best as a pivot, of eight rows.

    Its smallest share in the largest size of its lane is the largest, by the logarithms of :func:`_bits`; a lane with no size above
    ``least`` (a vector) has no say.
    """
    signature = types.int64(room, column, order, first, last, least)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room, column, order, first, last, least = data_of(context, builder, signature, args)
        return _best(builder, room, order, first, last, least, lambda at: _load(builder, room, builder.add(column, at)))

    return signature, code


def _best(builder: Any, room: Any, order: Any, first: Any, last: Any, least: Any, value_at: Callable[[Any], Any]) -> Any:
    """:func:`find_row` of the values that ``value_at`` gives for the first vector of a row."""
    end = _plus(builder, last, -1)
    sizes = []
    for i in range(LANES):
        place = _plus(builder, first, i)
        place = builder.select(builder.icmp_signed("<", place, end), place, end)
        row = builder.load(builder.gep(order, [place]))
        sizes.append(_bits(builder, value_at(builder.mul(row, ir.Constant(WORD, TILE)))))
    largest = _tree(sizes, lambda x, y: _larger(builder, x, y))
    heard = builder.icmp_signed(">", largest, _bits(builder, _load(builder, room, least)))
    shares = [builder.select(heard, builder.sub(size, largest), ir.Constant(size.type, None)) for size in sizes]
    far = 1
    while far < LANES:  # in the end, lane i is the smallest of row i
        shares = [_smaller(builder, *_exchanged(builder, x, y, far)) for x, y in zip(shares[::2], shares[1::2], strict=True)]
        far *= 2
    worst = most = shares[0]
    for far in (4, 2, 1):
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [i ^ far for i in range(LANES)])
        most = _larger(builder, most, builder.shuffle_vector(most, ir.Constant(most.type, ir.Undefined), lanes))
    best = builder.bitcast(builder.icmp_signed("==", worst, most), ir.IntType(LANES))
    lane = builder.cttz(builder.or_(best, ir.Constant(best.type, 1 << (LANES - 1))), ir.Constant(ir.IntType(1), 1))
    found = builder.add(first, builder.zext(lane, WORD))
    return builder.select(builder.icmp_signed("<", found, end), found, end)


def _pivot(context: Any, room: Any, a: Any, height: Any, number: Any, order: Any, step: Any, free: Any, bounds: Any,
           sums: Any) -> Any:  # fmt: skip
    """Exchanges column ``number`` of block a with row order[step]: each value x of it becomes ``-x / p`` and p, that of the row, ``1 / p``;

    then each other column gets the new one times its value of that row, which itself becomes 0 before.

    Where ``|p|`` is not above the vector ``sums``, the new column is the row's unit vector, and the squares of the old one's values
    in free rows are added to ``sums + 1``.  ``free + i`` is 1 where row i has not been exchanged; where it is now, ``sums + 2`` grows
    by 1.  Bounds go with it: ``bounds + 2 k`` of the norm of column k of the block, and ``bounds + 2 k + 1`` of its errors, in units
    of the last place; what is added to these, and what they mean for other columns, is added to ``sums + 3``.

    Returns where :func:`find_row` would find the next column's row, from ``step + 1`` on, as long as there is one in the block: known
    early, it need not wait for all rows.
    """
    signature = types.int64(room, a, height, number, order, step, free, bounds, sums)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room, a, height, number, order, step, free, bounds, sums = data_of(context, builder, signature, args)
        row = builder.load(builder.gep(order, [step]))
        outer, count, error = (_plus(builder, sums, i) for i in (1, 2, 3))
        zero, none, tile = ir.Constant(ABREAST, None), ir.Constant(WORD, 0), ir.Constant(WORD, TILE)
        numbers = [builder.and_(_plus(builder, number, i), ir.Constant(WORD, TILE - 1)) for i in range(TILE)]
        columns = [builder.add(a, k) for k in numbers]
        at_row = builder.mul(row, tile)
        places = [builder.add(column, at_row) for column in columns]
        value, *terms = (_load(builder, room, place) for place in places)
        taken = builder.fcmp_ordered(">", _size(builder, value), _load(builder, room, sums))
        every = builder.icmp_unsigned("==", builder.bitcast(taken, ir.IntType(LANES)), ir.Constant(ir.IntType(LANES), -1))
        with builder.if_then(builder.not_(every)):
            left = [cgutils.alloca_once_value(builder, zero) for _ in range(TILE)]
            with cgutils.for_range_slice(builder, none, height, tile) as (i, _):
                for j, total in enumerate(left):
                    at = _plus(builder, i, j)
                    x = _load(builder, room, builder.add(columns[0], builder.mul(at, tile)))
                    still = builder.fmul(x, _load(builder, room, builder.add(free, at)))
                    builder.store(_fused(builder, builder.load(total), still, still), total)
            rest = builder.select(taken, zero, _total(builder, left))
            _store(builder, builder.fadd(_load(builder, room, outer), rest), room, outer)
        inverse = builder.select(taken, builder.fdiv(_all(1.0), value), zero)
        factor = builder.fneg(inverse)
        found = cgutils.alloca_once_value(builder, none)
        with builder.if_then(builder.icmp_unsigned("<", number, ir.Constant(WORD, TILE - 1))):

            def next_value(at: Any) -> Any:
                new = builder.fmul(_load(builder, room, builder.add(columns[0], at)), factor)
                return _fused(builder, _load(builder, room, builder.add(columns[1], at)), new, terms[0])

            builder.store(_best(builder, room, order, _plus(builder, step, 1), height, sums, next_value), found)
        for place in places:
            _store(builder, zero, room, place)
        made = [cgutils.alloca_once_value(builder, zero) for _ in range(TILE)]
        with cgutils.for_range_slice(builder, none, height, tile) as (i, _):
            for j, total in enumerate(made):
                own, *others = (builder.add(column, builder.mul(_plus(builder, i, j), tile)) for column in columns)
                new = builder.fmul(_load(builder, room, own), factor)
                builder.store(_fused(builder, builder.load(total), new, new), total)
                _store(builder, new, room, own)
                for place, term in zip(others, terms, strict=True):
                    _store(builder, _fused(builder, _load(builder, room, place), new, term), room, place)
        pivot = builder.select(taken, inverse, _all(1.0))
        for place, term in zip(places, [_all(1.0), *terms], strict=True):
            _store(builder, builder.fmul(pivot, term), room, place)
        _store(builder, builder.select(taken, zero, _all(1.0)), room, builder.add(free, row))
        _store(builder, builder.fadd(_load(builder, room, count), builder.select(taken, _all(1.0), zero)), room, count)
        norm = _root(builder, _fused(builder, _total(builder, made), pivot, pivot))
        wrong = builder.fadd(norm, norm)
        whole = builder.fadd(_load(builder, room, error), wrong)
        own, *others = (builder.add(bounds, builder.mul(k, ir.Constant(WORD, 2))) for k in numbers)
        _store(builder, norm, room, own)
        _store(builder, wrong, room, _plus(builder, own, 1))
        for place, term in zip(others, terms, strict=True):
            size = _size(builder, term)
            bound = _fused(builder, _load(builder, room, place), size, norm)
            _store(builder, bound, room, place)
            rounding, after = builder.fadd(bound, bound), _plus(builder, place, 1)
            _store(builder, builder.fadd(_load(builder, room, after), rounding), room, after)
            whole = _fused(builder, builder.fadd(whole, rounding), size, wrong)
        _store(builder, whole, room, error)
        return builder.load(found)

    return signature, code


def _take_rows(
    context: Any, room: Any, a: Any, order: Any, first: Any, last: Any, out: Any, own: Any, of: Any, error: Any
) -> Any:
    """Takes the rows order[first : last] out of block a: they become 0, and what they were is in the vectors

    ``out + m * TILE + k``.  Bounds go with it, as those of :func:`pivot`: ``own`` those of the block, ``of`` those of the columns that
    these rows will be multiplied by.  They hold after :func:`multiply`.
    """
    signature = types.void(room, a, order, first, last, out, own, of, error)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room, a, order, first, last, out, own, of, error = data_of(context, builder, signature, args)
        zero, tile = ir.Constant(ABREAST, None), ir.Constant(WORD, TILE)
        terms = splat(builder, builder.sitofp(_plus(builder, builder.sub(last, first), 1), DOUBLE), LANES)
        large, wrong = ([cgutils.alloca_once_value(builder, zero) for _ in range(TILE)] for _ in range(2))
        with cgutils.for_range(builder, builder.sub(last, first), intp=WORD) as m:
            row = builder.load(builder.gep(order, [builder.add(first, m.index)]))
            place, to = builder.add(a, builder.mul(row, tile)), builder.add(out, builder.mul(m.index, tile))
            bound = builder.add(of, builder.mul(m.index, ir.Constant(WORD, 2)))
            norm, errors = _load(builder, room, bound), _load(builder, room, _plus(builder, bound, 1))
            for k in range(TILE):
                at = _plus(builder, place, k)
                value = _load(builder, room, at)
                _store(builder, zero, room, at)
                _store(builder, value, room, _plus(builder, to, k))
                size = _size(builder, value)
                builder.store(_fused(builder, builder.load(large[k]), size, norm), large[k])
                builder.store(_fused(builder, builder.load(wrong[k]), size, errors), wrong[k])
        whole = _load(builder, room, error)
        for k in range(TILE):
            bound = _plus(builder, own, 2 * k)
            more = builder.fadd(_load(builder, room, bound), builder.load(large[k]))
            _store(builder, more, room, bound)
            rounding = builder.fmul(terms, more)
            bound = _plus(builder, bound, 1)
            _store(builder, builder.fadd(_load(builder, room, bound), rounding), room, bound)
            whole = builder.fadd(whole, builder.fadd(rounding, builder.load(wrong[k])))
        _store(builder, whole, room, error)
        return context.get_dummy_value()

    return signature, code


def _multiply(context: Any, room: Any, a: Any, blocks: Any, height: Any, w: Any, terms: Any, x: Any) -> Any:
    """``a[i, k] += sum over m of w[i, m] * x[m, k]`` for the columns k of ``blocks`` blocks from a on and m of ``terms`` blocks from w on.

    x[m, k] of block b is vector ``x + (b * terms * TILE + m) * TILE + k``.  The height is a multiple of TILE.
    """
    signature = types.void(room, a, blocks, height, w, terms, x)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room, a, blocks, height, w, terms, x = data_of(context, builder, signature, args)
        none, tile = ir.Constant(WORD, 0), ir.Constant(WORD, TILE)
        size, step = builder.mul(height, tile), builder.mul(terms, ir.Constant(WORD, TILE * TILE))
        sums = [[cgutils.alloca_once(builder, ABREAST) for _ in range(TILE)] for _ in range(TILE)]
        with (
            cgutils.for_range_slice(builder, none, size, ir.Constant(WORD, TILE * TILE)) as (i, _),
            cgutils.for_range(builder, blocks, intp=WORD) as block,
        ):
            own = builder.add(builder.add(a, i), builder.mul(block.index, size))
            for j, row in enumerate(sums):
                for k, total in enumerate(row):
                    builder.store(_load(builder, room, _plus(builder, own, j * TILE + k)), total)
            from_x = builder.add(x, builder.mul(block.index, step))
            with cgutils.for_range(builder, terms, intp=WORD) as part:
                at = builder.add(from_x, builder.mul(part.index, ir.Constant(WORD, TILE * TILE)))
                from_w = builder.add(builder.add(w, i), builder.mul(part.index, size))
                for m in range(TILE):
                    right = [_load(builder, room, _plus(builder, at, m * TILE + k)) for k in range(TILE)]
                    for j, row in enumerate(sums):
                        left = _load(builder, room, _plus(builder, from_w, j * TILE + m))
                        for value, total in zip(right, row, strict=True):
                            builder.store(_fused(builder, builder.load(total), left, value), total)
            for j, row in enumerate(sums):
                for k, total in enumerate(row):
                    _store(builder, builder.load(total), room, _plus(builder, own, j * TILE + k))
        return context.get_dummy_value()

    return signature, code


def _measure(context: Any, room: Any, a: Any, height: Any, free: Any, totals: Any, bounds: Any, norms: Any) -> Any:
    """Adds the squares of a block's values in rows that are not ``free`` to vector ``totals``, those in others to the next.

    ``free`` is a vector for every row, of 1 where it is free and 0 where it is not.  With ``norms``, vector ``bounds + 2 k`` becomes that
    of column k.
    """
    signature = types.void(room, a, height, free, totals, bounds, norms)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room, a, height, free, totals, bounds, norms = data_of(context, builder, signature, args)
        sums = [[cgutils.alloca_once_value(builder, ir.Constant(ABREAST, None)) for _ in range(TILE)] for _ in range(2)]
        with cgutils.for_range(builder, height, intp=WORD) as i:
            place = builder.add(a, builder.mul(i.index, ir.Constant(WORD, TILE)))
            here = _load(builder, room, builder.add(free, i.index))
            for k, both in enumerate(zip(*sums, strict=True)):
                value = _load(builder, room, _plus(builder, place, k))
                for weight, total in zip((builder.fsub(_all(1.0), here), here), both, strict=True):
                    builder.store(_fused(builder, builder.load(total), builder.fmul(value, weight), value), total)
        for number, own in enumerate(sums):
            place = _plus(builder, totals, number)
            _store(builder, builder.fadd(_load(builder, room, place), _total(builder, own)), room, place)
        with builder.if_then(norms):
            for k, both in enumerate(zip(*sums, strict=True)):
                _store(builder, _root(builder, _total(builder, list(both))), room, _plus(builder, bounds, 2 * k))
        return context.get_dummy_value()

    return signature, code


def _fetch(context: Any, values: Any, start: Any, count: Any) -> Any:
    """Tells the processor that ``values[start : start + count]`` will be read soon."""
    signature = types.void(values, start, count)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, start, count = data_of(context, builder, signature, args)
        bytes_ = ir.IntType(8).as_pointer()
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [bytes_, flag, flag, flag])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        line = ir.Constant(WORD, 64 // (signature.args[0].dtype.bitwidth // 8))
        lines = builder.udiv(builder.add(count, builder.sub(line, ir.Constant(WORD, 1))), line)
        with cgutils.for_range(builder, lines, intp=WORD) as each:
            at = builder.gep(values, [builder.add(start, builder.mul(each.index, line))])
            builder.call(prefetch, [builder.bitcast(at, bytes_), flag(0), flag(2), flag(1)])
        return context.get_dummy_value()

    return signature, code


def _load(builder: Any, room: Any, at: Any) -> Any:
    return load_vector(builder, room, builder.mul(at, ir.Constant(WORD, LANES)), LANES, DOUBLE)


def _store(builder: Any, value: Any, room: Any, at: Any) -> None:
    store_vector(builder, value, room, builder.mul(at, ir.Constant(WORD, LANES)), LANES, DOUBLE)


def _plus(builder: Any, place: Any, number: int) -> Any:
    return builder.add(place, ir.Constant(WORD, number))


def _all(number: float) -> Any:
    return ir.Constant(ABREAST, [ir.Constant(DOUBLE, number)] * LANES)


def _fused(builder: Any, total: Any, x: Any, y: Any) -> Any:
    """``total + x * y``."""
    return builder.fadd(total, builder.fmul(x, y, flags=FUSED), flags=FUSED)


def _exchanged(builder: Any, x: Any, y: Any, far: int) -> list[Any]:
    """x and y, each 2 x 2 block of theirs, of the lanes i and ``i + far`` where i lacks the bit ``far``, transposed."""
    low = [i - far + LANES if i & far else i for i in range(LANES)]
    high = [i + LANES if i & far else i + far for i in range(LANES)]
    return [builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), LANES), order)) for order in (low, high)]


def _tree(values: list[Any], join: Callable[[Any, Any], Any]) -> Any:
    """All values, a power of two of them, joined pair by pair."""
    while len(values) > 1:
        values = [join(x, y) for x, y in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def _total(builder: Any, sums: list[Any]) -> Any:
    return _tree([builder.load(one) for one in sums], builder.fadd)


def _root(builder: Any, vector: Any) -> Any:
    kind = ir.FunctionType(ABREAST, [ABREAST])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{LANES}f64"), [vector])


def _size(builder: Any, vector: Any) -> Any:
    """The numbers without their signs."""
    return builder.bitcast(_bits(builder, vector), ABREAST)


def _bits(builder: Any, vector: Any) -> Any:
    """The numbers' sizes as integers: these are in the same order, and a logarithm of the sizes, roughly."""
    whole = ir.VectorType(WORD, LANES)
    sign = ir.Constant(whole, [ir.Constant(WORD, (1 << 63) - 1)] * LANES)
    return builder.and_(builder.bitcast(vector, whole), sign)


def _larger(builder: Any, x: Any, y: Any) -> Any:
    return builder.select(builder.icmp_signed(">", x, y), x, y)


def _smaller(builder: Any, x: Any, y: Any) -> Any:
    return builder.select(builder.icmp_signed("<", x, y), x, y)


spread: Any = intrinsic(_spread)
square: Any = intrinsic(_square)
rotate: Any = intrinsic(_rotate)
find_row: Any = intrinsic(_find_row)
pivot: Any = intrinsic(_pivot)
take_rows: Any = intrinsic(_take_rows)
multiply: Any = intrinsic(_multiply)
measure: Any = intrinsic(_measure)
fetch: Any = intrinsic(_fetch)
