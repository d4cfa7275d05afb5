"""Label maps as files: decoded without changing an id, encoded without losing one."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

from ..errors import ESCNetError

_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_PNG_END = b'IEND\xaeB`\x82'
_PNG_GREY, _PNG_PALETTE = 0, 3
_SIXTEEN_BIT_MODES = ('I', 'I;16', 'I;16L', 'I;16B', 'I;16N')


def decode_label_map(content: bytes, file: str) -> np.ndarray:
    """Decode a single-channel label map.

    A palette image gives its indices, never its colours.

    Args:
        content: The bytes of the file: a grey PNG of 8 or 16 bits, or a palette PNG (or
            another lossless format of one channel that Pillow reads).
        file: Name of the file, for messages.

    Returns:
        Ids, (height, width), uint8, or uint16 where the file has 16 bits.

    Raises:
        ESCNetError: If the file cannot be decoded or is not a map of ids.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            file_format, mode, ids = image.format, image.mode, np.array(image)
            num_channels = len(image.getbands())
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ESCNetError(
            f'Label map {file} cannot be decoded ({error or type(error).__name__}): the file is '
            'damaged or incomplete, so make or download it again.'
        ) from error
    if file_format in ('JPEG', 'MPO', 'WEBP'):
        raise ESCNetError(
            f'Label map {file} is a {file_format} file, whose lossy compression changes ids: '
            'save label maps as PNG.'
        )
    if mode in _SIXTEEN_BIT_MODES:
        if ids.min() < 0 or ids.max() > 65535:
            raise ESCNetError(
                f'Label map {file} holds ids from {ids.min()} to {ids.max()}: ids must fit '
                '16 bits, 0 to 65535.'
            )
        return ids.astype(np.uint16)
    if mode not in ('L', 'P'):
        raise ESCNetError(
            f'Label map {file} has {num_channels} channel(s) of Pillow mode '
            f'{mode!r}: a label map must have one channel of 8 or 16 bits holding class ids, '
            'so convert its colours to ids first.'
        )
    if mode == 'L' and content.startswith(_PNG_SIGNATURE) and content[24] < 8:
        # Decoders stretch such greys to 0..255: id 1 of 4 bits would silently become 17.
        raise ESCNetError(
            f'Label map {file} is a grey PNG of {content[24]} bits, which decoders stretch to '
            '0..255: save it with 8 bits.'
        )
    return ids


def encode_label_map(ids: np.ndarray) -> bytes:
    """Encode ids as a grey PNG of 8 or 16 bits, as the array's type says.

    Args:
        ids: (height, width), uint8 or uint16.

    Raises:
        TypeError: If the array is of another type: a cast here could wrap ids around.
    """
    if ids.dtype not in (np.uint8, np.uint16) or ids.ndim != 2:
        raise TypeError(f'label maps are 2-D uint8 or uint16, not {ids.ndim}-D {ids.dtype}')
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(ids)).save(buffer, 'PNG')
    return buffer.getvalue()


def png_header(path) -> tuple[int, int, int] | None:
    """Read a PNG's size without decoding it.

    Args:
        path: The file.

    Returns:
        (height, width, bits per sample), or None if the file is missing, is no one-channel PNG
        or has lost its end.
    """
    try:
        with open(path, 'rb') as file:
            head = file.read(26)
            file.seek(0, 2)
            if file.tell() < 45:
                return None
            file.seek(-len(_PNG_END), 2)
            tail = file.read()
    except OSError:
        return None
    if not head.startswith(_PNG_SIGNATURE) or tail != _PNG_END:
        return None
    width, height, bits, color_type = struct.unpack('>IIBB', head[16:26])
    if color_type not in (_PNG_GREY, _PNG_PALETTE):
        return None
    return height, width, bits
