"""The two inner loops of the event simulator as LLVM vector code: find the non-zero entries of a row, add weight rows.

numba's loops over arrays keep their sums in memory, and have no way to turn a comparison of 64 bytes into 64 bits. Here
the code is emitted as vectors of LLVM, which it cuts to the width of whatever processor it compiles for, so that this
is as portable as the loops: sums of up to 256 neurons stay in registers while the rows of all events pass by (1.5 times
the speed of the best loop), and a row is searched 64 entries at a time (4 times).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils as untyped_cgutils
from numba.core import types
from numba.extending import intrinsic


def _intrinsic(typed: Callable[..., Any]) -> Callable[..., Any]:
    """``numba.extending.intrinsic``: the function takes numba's types and gives back what emits the code."""
    extension: Any = intrinsic
    emitted: Callable[..., Any] = extension(typed)
    return emitted


#: Entries that :func:`find` reads at once; it may read so many beyond the end of what it is asked for, less one.
REACH = 64
#: :func:`find` may write so many entries beyond those that it counts.
SLACK = 8
#: Widths in which rows are added, widest first; the width of a layer is a multiple of the last.
TILES = (256, 128, 64, 48, 32, 16)

cgutils: Any = untyped_cgutils
_I16, _I32, _I64 = (ir.IntType(width) for width in (16, 32, 64))


def _tables() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    positions = np.zeros((256, 8), np.int32)
    for byte, row in enumerate(bits):
        found = np.flatnonzero(row)
        positions[byte, : len(found)] = found
    return positions, bits.sum(1, dtype=np.uint8)


#: Positions of the ones in each byte, and how many they are.
POSITIONS, COUNTS = _tables()


def _pointer(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """To the data of an array, as bytes or whatever its type is."""
    return context.make_array(kind)(context, builder, value).data


def _const(value: int) -> Any:
    return ir.Constant(_I64, value)


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    """A vector with ``value`` in each lane."""
    vector = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


def _load(builder: Any, pointer: Any, element: Any, lanes: int) -> Any:
    """A vector from anywhere."""
    vector = ir.VectorType(element, lanes)
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=element.width // 8)


def _store(builder: Any, vector: Any, pointer: Any) -> None:
    place = builder.bitcast(pointer, vector.type.as_pointer())
    builder.store(vector, place, align=vector.type.element.width // 8)


def _nonzero(builder: Any, pointer: Any, kind: Any) -> Any:
    """64 bits: which of the 64 entries from ``pointer`` on, into an array of that kind, are not zero."""
    entries = _load(builder, pointer, ir.IntType(kind.dtype.bitwidth), REACH)
    return builder.bitcast(builder.icmp_unsigned("!=", entries, ir.Constant(entries.type, [0] * REACH)), _I64)


@_intrinsic
def find(
    typing: Any,
    row: Any,
    start: Any,
    length: Any,
    flip: Any,
    first: Any,
    positions: Any,
    counts: Any,
    index: Any,
    found: Any,
) -> Any:
    """Append to ``index`` at ``found`` which of ``row[start : start + length]`` are not zero; return the new ``found``.

    The first entry has number ``first``. ``flip`` 0 takes the entries that are not zero, -1 those that are.
    ``positions`` and ``counts`` are :data:`POSITIONS` and :data:`COUNTS`. No bounds are checked: ``row`` is read up to
    :data:`REACH` - 1 entries too far, ``index`` (int32) is written up to :data:`SLACK` too far.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        _, start, length, flip, first, _, _, _, found = values
        place, positions, counts, index = (
            _pointer(context, builder, signature.args[i], values[i]) for i in (0, 5, 6, 7)
        )
        total = cgutils.alloca_once_value(builder, found)

        def append(bits: Any, byte: int | Any, base: Any) -> None:
            """Look up eight bits, write eight positions, count those that are meant."""
            at = builder.load(total)
            key = builder.and_(builder.lshr(bits, byte), _const(255))
            entries = _load(builder, builder.gep(positions, [builder.shl(key, _const(3))]), _I32, 8)
            number = builder.trunc(builder.add(base, byte), _I32)
            _store(builder, builder.add(entries, _splat(builder, number, 8)), builder.gep(index, [at]))
            count = builder.zext(builder.load(builder.gep(counts, [key])), _I64)
            builder.store(builder.add(at, count), total)

        with cgutils.for_range_slice(builder, _const(0), length, _const(REACH)) as (k, _):
            rest = builder.sub(length, k)
            bits = builder.xor(_nonzero(builder, builder.gep(place, [builder.add(start, k)]), row), flip)
            base = builder.add(first, k)
            with builder.if_else(builder.icmp_signed(">=", rest, _const(REACH))) as (whole, tail):
                with whole, builder.if_then(builder.icmp_unsigned("!=", bits, _const(0))):
                    for byte in range(0, REACH, 8):
                        append(bits, _const(byte), base)
                with tail:
                    kept = builder.and_(bits, builder.sub(builder.shl(_const(1), rest), _const(1)))
                    with cgutils.for_range_slice(builder, _const(0), rest, _const(8)) as (byte, _):
                        append(kept, byte, base)
        return builder.load(total)

    one = types.int64
    return one(row, one, one, one, one, positions, counts, index, one), generate


@_intrinsic
def count(typing: Any, row: Any, start: Any, length: Any) -> Any:
    """How many of ``row[start : start + length]`` are not zero; ``length`` is a multiple of :data:`REACH`."""

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        place = _pointer(context, builder, signature.args[0], values[0])
        total = cgutils.alloca_once_value(builder, _const(0))
        with cgutils.for_range_slice(builder, _const(0), values[2], _const(REACH)) as (k, _):
            bits = _nonzero(builder, builder.gep(place, [builder.add(values[1], k)]), row)
            builder.store(builder.add(builder.load(total), builder.ctpop(bits)), total)
        return builder.load(total)

    return types.int64(row, types.int64, types.int64), generate


@_intrinsic
def bits(typing: Any, row: Any, start: Any, length: Any) -> Any:
    """Which of ``row[start : start + length]`` are not zero, lowest bit first; ``length`` is at most 63."""

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        place = builder.gep(_pointer(context, builder, signature.args[0], values[0]), [values[1]])
        kept = builder.sub(builder.shl(_const(1), values[2]), _const(1))
        return builder.and_(_nonzero(builder, place, row), kept)

    return types.int64(row, types.int64, types.int64), generate


@_intrinsic
def copy(typing: Any, target: Any, at: Any, source: Any, length: Any) -> Any:
    """``target[at : at + length] = source[:length]``, both bytes, without the slices."""

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        target, source = (_pointer(context, builder, signature.args[i], values[i]) for i in (0, 2))
        cgutils.memcpy(builder, builder.gep(target, [values[1]]), source, values[3])
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64), generate


def _registers(builder: Any, element: Any, lanes: int, width: int) -> list[Any]:
    zero = ir.Constant(ir.VectorType(element, lanes), [0] * lanes)
    return [cgutils.alloca_once_value(builder, zero) for _ in range(width // lanes)]


def _adder(width: int) -> Callable[..., None]:
    """:func:`add_rows` for that many neurons."""
    lanes = 16 if width % 32 else 32

    @_intrinsic
    def add(
        typing: Any,
        weight: Any,
        column: Any,
        stride: Any,
        index: Any,
        low: Any,
        high: Any,
        sums: Any,
        at: Any,
        sign: Any,
    ) -> Any:
        narrow = weight.dtype.bitwidth

        def generate(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
            _, column, stride, _, low, high, _, at, sign = values
            rows, numbers, out = (_pointer(context, builder, signature.args[i], values[i]) for i in (0, 3, 6))
            totals = _registers(builder, _I16, lanes, width)
            with cgutils.for_range_slice(builder, low, high, _const(1)) as (k, _):
                which = builder.zext(builder.load(builder.gep(numbers, [k])), _I64)
                source = builder.gep(rows, [builder.add(builder.mul(which, stride), column)])
                for i, total in enumerate(totals):
                    row = _load(builder, builder.gep(source, [_const(i * lanes)]), ir.IntType(narrow), lanes)
                    row = row if narrow == 16 else builder.sext(row, ir.VectorType(_I16, lanes))
                    builder.store(builder.add(builder.load(total), row), total)
            factor = _splat(builder, builder.trunc(sign, _I32), lanes)
            target = builder.gep(out, [at])
            for i, total in enumerate(totals):
                place = builder.gep(target, [_const(i * lanes)])
                wide = builder.mul(builder.sext(builder.load(total), factor.type), factor)
                _store(builder, builder.add(_load(builder, place, _I32, lanes), wide), place)
            return context.get_dummy_value()

        one = types.int64
        return types.void(weight, one, one, index, one, one, sums, one, one), generate

    return add


def _graded_adder(width: int) -> Callable[..., None]:
    """:func:`add_graded_rows` for that many neurons."""
    lanes = min(16, width)

    @_intrinsic
    def add(
        typing: Any,
        weight: Any,
        column: Any,
        stride: Any,
        index: Any,
        low: Any,
        high: Any,
        messages: Any,
        first: Any,
        sums: Any,
        at: Any,
    ) -> Any:
        signed, narrow = messages.dtype.signed, weight.dtype.bitwidth

        def generate(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
            _, column, stride, _, low, high, _, first, _, at = values
            rows, numbers, payload, out = (
                _pointer(context, builder, signature.args[i], values[i]) for i in (0, 3, 6, 8)
            )
            totals = _registers(builder, _I32, lanes, width)
            with cgutils.for_range_slice(builder, low, high, _const(1)) as (k, _):
                which = builder.zext(builder.load(builder.gep(numbers, [k])), _I64)
                message = builder.load(builder.gep(payload, [builder.add(first, which)]))
                if message.type != _I32:
                    message = builder.sext(message, _I32) if signed else builder.zext(message, _I32)
                factor = _splat(builder, message, lanes)
                source = builder.gep(rows, [builder.add(builder.mul(which, stride), column)])
                for i, total in enumerate(totals):
                    row = _load(builder, builder.gep(source, [_const(i * lanes)]), ir.IntType(narrow), lanes)
                    product = builder.mul(builder.sext(row, factor.type), factor)
                    builder.store(builder.add(builder.load(total), product), total)
            target = builder.gep(out, [at])
            for i, total in enumerate(totals):
                place = builder.gep(target, [_const(i * lanes)])
                wide = builder.load(total)
                _store(builder, builder.add(_load(builder, place, _I32, lanes), wide), place)
            return context.get_dummy_value()

        one = types.int64
        return types.void(weight, one, one, index, one, one, messages, one, sums, one), generate

    return add


#: ``add_N(weight, column, stride, index, low, high, sums, at, sign)``: ``sums[at : at + N]`` (int32) grows by ``sign``
#: times the sum of rows ``index[low:high]`` of ``weight`` (int8 or int16, ``stride`` entries each) from ``column`` on.
#: Sums of these rows have to fit 16 bits.
add_256, add_128, add_64, add_48, add_32, add_16 = (_adder(width) for width in TILES)

#: ``add_graded_N(weight, column, stride, index, low, high, messages, first, sums, at)``: the same in 32 bits, row i
#: times ``messages[first + i]``.
(add_graded_256, add_graded_128, add_graded_64, add_graded_48, add_graded_32, add_graded_16) = (
    _graded_adder(width) for width in TILES
)
