"""Read TFRecord files of ``tf.train.Example`` without TensorFlow.

The framing and the message types are a page of stable specification. The packages that read them bring a protobuf
runtime along and skip the checksums, which are what tells a damaged file from a good one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnunet_crossmod.errors import CrossmodError

__all__ = ["crc32c", "read_examples"]

Feature: TypeAlias = bytes | int | float | list[bytes] | list[int] | list[float]

_LANES = 8192
_CRC_POLYNOMIAL = 0x82F63B78


class _BrokenError(Exception):
    pass


def read_examples(path: Path) -> list[dict[str, Feature]]:
    """Read every record of a file, with its checksums.

    Args:
        path: a TFRecord file, not compressed, whose records are ``tf.train.Example`` messages.

    Returns:
        One dictionary a record: the value of each feature, a list where it does not hold exactly one.

    Raises:
        CrossmodError: no such file, truncated, a wrong checksum, or records of another kind.
    """
    try:
        content = memoryview(path.read_bytes())
        return [_example(record) for record in _records(content)]
    except (OSError, _BrokenError, UnicodeDecodeError) as error:
        raise CrossmodError(f"{path} cannot be read ({error}): copy or download it again") from error


def crc32c(data: bytes | memoryview) -> int:
    """The Castagnoli checksum of some bytes.

    The bytes are cut into lanes that are summed side by side, and the lanes' sums are joined in pairs: a checksum of
    what follows leading zeros does not depend on them, and appending n zero bytes is a linear map of 32 bits.
    """
    table = _byte_table()
    if len(data) < 4 * _LANES:
        state = 0xFFFFFFFF
        plain = table.tolist()
        for byte in bytes(data):
            state = plain[(state ^ byte) & 0xFF] ^ (state >> 8)
        return state ^ 0xFFFFFFFF
    length = -(-len(data) // _LANES)
    lanes: NDArray[np.uint8] = np.zeros(length * _LANES, dtype=np.uint8)
    start = lanes.size - len(data)
    lanes[start:] = np.frombuffer(data, dtype=np.uint8)
    lanes[start : start + 4] ^= 0xFF
    columns = np.ascontiguousarray(lanes.reshape(_LANES, length).T).astype(np.uint32)
    states: NDArray[np.uint32] = np.zeros(_LANES, dtype=np.uint32)
    # What one more lane of zero bytes does to each of the 32 bits of a sum.
    shift: NDArray[np.uint32] = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for column in columns:
        states = table[(states ^ column) & 0xFF] ^ (states >> 8)
        shift = table[shift & 0xFF] ^ (shift >> 8)
    while states.size > 1:
        states = _apply(shift, states[0::2]) ^ states[1::2]
        shift = _apply(shift, shift)
    return int(states[0]) ^ 0xFFFFFFFF


def _apply(shift: NDArray[np.uint32], states: NDArray[np.uint32]) -> NDArray[np.uint32]:
    bits = (states[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    return np.asarray(np.bitwise_xor.reduce(bits * shift, axis=1), dtype=np.uint32)


@cache
def _byte_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_CRC_POLYNOMIAL), table >> 1)
    return table.astype(np.uint32)


def _records(content: memoryview) -> Iterator[memoryview]:
    position = 0
    while position < len(content):
        (length,) = struct.unpack("<Q", _checked(content, position, 8))
        yield _checked(content, position + 12, length)
        position += 16 + length


def _checked(content: memoryview, start: int, length: int) -> memoryview:
    """Bytes that their masked checksum follows."""
    if start + length + 4 > len(content):
        raise _BrokenError(f"truncated: {len(content)} of {start + length + 4} bytes or more")
    data = content[start : start + length]
    (masked,) = struct.unpack("<I", content[start + length : start + length + 4])
    checksum = crc32c(data)
    if masked != (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF:
        raise _BrokenError(f"wrong checksum at byte {start}")
    return data


def _example(record: memoryview) -> dict[str, Feature]:
    return dict(_entry(entry) for features in _messages(record, 1) for entry in _messages(features, 1))


def _entry(entry: memoryview) -> tuple[str, Feature]:
    names, values = list(_messages(entry, 1)), list(_messages(entry, 2))
    features: list[Feature] = [item for value in values for item in _feature(value)]
    return bytes(names[-1]).decode() if names else "", features[0] if len(features) == 1 else features  # type: ignore[return-value]


def _feature(value: memoryview) -> Iterator[bytes | float | int]:
    for kind, _, listed in _fields(value):
        if not isinstance(listed, memoryview):
            raise _BrokenError("no tf.train.Example")
        for number, wire, item in _fields(listed):
            if number != 1:
                continue
            if isinstance(item, int):
                yield item
            elif kind == 1:
                yield bytes(item)
            elif kind == 2 and len(item) % 4 == 0:
                yield from struct.unpack(f"<{len(item) // 4}f", item)
            elif kind == 3 and wire == 2:
                position = 0
                while position < len(item):
                    integer, position = _varint(item, position)
                    yield integer
            else:
                raise _BrokenError("no tf.train.Example")


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, _, value in _fields(data):
        if number == wanted:
            if not isinstance(value, memoryview):
                raise _BrokenError("no tf.train.Example")
            yield value


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """Field number, wire type and value of each field of a protobuf message."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, wire, value
            continue
        if wire == 2:
            length, position = _varint(data, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise _BrokenError("no tf.train.Example")
        if position + length > len(data):
            raise _BrokenError("a field longer than its record")
        yield number, wire, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for count in range(10):
        if position + count >= len(data):
            break
        byte = data[position + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position + count + 1
    raise _BrokenError("an integer without end")
