"""Label maps in MATLAB files, read without executing, or trusting, anything in them.

SciPy's reader takes the whole process down on some damaged files (a wrong type number in a tag,
scipy#25349) and unpacks compressed data without a limit. A label map is the simplest content such
a file can have, a matrix of real numbers, so that is all that is read here.

Format: MathWorks, MAT-File Level 5. A file is a header of 128 bytes and elements, each a tag of
type and size, its data, and padding to 8 bytes. A matrix is an element that holds others: flags,
dimensions, name, numbers. A compressed element holds one matrix.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from ..errors import ESCNetError

MAX_BYTES = 64 * 2**20  # a map of 8 million pixels in double precision

_HEADER = 128
_VERSION = 0x0100
_MATRIX, _COMPRESSED = 14, 15
_NUMBER_TYPES = {
    1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 9: 'f8', 12: 'i8', 13: 'u8'
}  # fmt: skip
_CLASSES = {
    1: 'cell array', 2: 'struct', 3: 'object', 4: 'text', 5: 'sparse matrix', 16: 'function',
    17: 'object',
}  # fmt: skip
_NUMERIC_CLASSES = range(6, 16)
_COMPLEX = 0x08


class _DamagedError(Exception):
    """Why a file cannot be read."""


def read_mat_ids(content: bytes, variable: str, file: str) -> np.ndarray:
    """Read a matrix of ids from a MATLAB file.

    Args:
        content: The bytes of the file, as MATLAB writes them by default (since version 5; with or
            without compression).
        variable: Name of the matrix.
        file: Name of the file, for messages.

    Returns:
        Ids, (height, width), uint16.

    Raises:
        ESCNetError: If the file is no such MATLAB file, is damaged, or has no such variable, or
            if that is anything but a matrix of whole numbers from 0 to 65535.
    """
    try:
        order = _byte_order(content)
        found = []
        for matrix in _matrices(content, order):
            kind, is_complex, shape, name, numbers = _parse(matrix, order)
            found.append(name)
            if name == variable:
                break
        else:
            names = ', '.join(map(repr, found)) or 'nothing'
            raise ESCNetError(
                f'MATLAB file {file} has no variable {variable!r} but {names}: it is from another '
                'data set.'
            )
        if kind not in _NUMERIC_CLASSES or is_complex:
            what = 'complex matrix' if is_complex else _CLASSES.get(kind, f'thing of class {kind}')
            raise ESCNetError(
                f'Variable {variable!r} of MATLAB file {file} is a {what} and no matrix of real '
                'numbers: the file is from another data set, or somebody changed it.'
            )
        values = _numbers(numbers, shape, order)
    except (_DamagedError, struct.error, zlib.error) as error:
        raise ESCNetError(
            f'MATLAB file {file} cannot be read ({error}): it is damaged or incomplete, so unpack '
            'or download it again.'
        ) from error
    with np.errstate(invalid='ignore'):
        ids = values.astype(np.uint16)
    if not np.array_equal(ids, values):
        raise ESCNetError(
            f'Variable {variable!r} of MATLAB file {file} holds numbers that are no ids from 0 to '
            '65535: the file is from another data set.'
        )
    return ids


def _byte_order(content: bytes) -> str:
    if content.startswith(b'MATLAB 7.3') or content.startswith(b'\x89HDF'):
        raise _DamagedError('it is an HDF5 file of MATLAB 7.3, not one of version 5')
    order = {b'IM': '<', b'MI': '>'}.get(content[126:128])
    if order is None or struct.unpack_from(f'{order}H', content, 124)[0] != _VERSION:
        raise _DamagedError('it has no header of a MATLAB 5 file')
    return order


def _elements(content: bytes, start: int, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and data of the elements that lie one after the other."""
    while start < len(content):
        kind, size = struct.unpack_from(f'{order}II', content, start)
        if kind >> 16:  # a small element: size and type in four bytes, data in the next four
            kind, size, start = kind & 0xFFFF, kind >> 16, start + 4
            if size > 4:
                raise _DamagedError('an element has a wrong size')
            following = start + 4
        else:
            start += 8
            following = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if following > len(content):
            raise _DamagedError('its end is missing')
        yield kind, content[start : start + size]
        start = following


def _matrices(content: bytes, order: str) -> Iterator[bytes]:
    """The data of each matrix, unpacked."""
    for kind, data in _elements(content, _HEADER, order):
        if kind == _COMPRESSED:
            unpacked = _unpack(data)
            kind, size = struct.unpack_from(f'{order}II', unpacked, 0)
            data = unpacked[8 : 8 + size]
            if len(data) < size:
                raise _DamagedError('its end is missing')
        if kind != _MATRIX:
            raise _DamagedError(f'an element has type {kind}')
        yield data


def _unpack(data: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    unpacked = decompressor.decompress(data, MAX_BYTES)
    if not decompressor.eof:
        full = len(unpacked) >= MAX_BYTES
        raise _DamagedError(
            f'it unpacks to more than {MAX_BYTES >> 20} MiB' if full else 'its end is missing'
        )
    return unpacked


def _parse(matrix: bytes, order: str) -> tuple[int, bool, tuple[int, ...], str, tuple[int, bytes]]:
    """Class, whether it is complex, dimensions, name, and the element of the numbers."""
    elements = _elements(matrix, 0, order)
    parts = [part for _, part in zip(range(4), elements, strict=False)]
    if len(parts) < 3:
        raise _DamagedError('a matrix has no name')
    (_, flags), (_, dimensions), (_, name) = parts[:3]
    (word,) = struct.unpack_from(f'{order}I', flags, 0)
    shape = struct.unpack(f'{order}{len(dimensions) // 4}i', dimensions)
    numbers = parts[3] if len(parts) == 4 else (0, b'')
    is_complex = bool(word >> 8 & _COMPLEX)
    return word & 0xFF, is_complex, shape, name.decode('latin-1'), numbers


def _numbers(element: tuple[int, bytes], shape: tuple[int, ...], order: str) -> np.ndarray:
    kind, data = element
    if kind not in _NUMBER_TYPES:
        raise _DamagedError(f'its numbers have type {kind}')
    if len(shape) != 2 or min(shape) < 1:
        raise _DamagedError(f'a map must be (height, width), not {shape}')
    dtype = np.dtype(order + _NUMBER_TYPES[kind])
    if len(data) != shape[0] * shape[1] * dtype.itemsize:
        raise _DamagedError('it has more or fewer numbers than pixels')
    return np.frombuffer(data, dtype).reshape(shape, order='F')
