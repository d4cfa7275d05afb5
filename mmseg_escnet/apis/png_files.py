"""Results as PNG files, each with a note by which one can tell what it was made of.

Shapes: H x W pixels.
"""

from __future__ import annotations

import io
import os
import struct

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

_KEY = 'mmseg_escnet'
_SIGNATURE, _END = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'
_CHECKSUM_BYTES = 4


def encode_labels(labels: np.ndarray, note: str | None = None) -> bytes:
    """A label map (H, W), uint8 or uint16, as grey PNG of 8 or 16 bits."""
    return _encode(Image.fromarray(np.ascontiguousarray(labels)), note)


def encode_scores(scores: np.ndarray, note: str | None = None) -> bytes:
    """Probabilities (H, W) as grey PNG of 16 bits: 65535 is 1."""
    return _encode(Image.fromarray((scores * 65535).round().astype(np.uint16)), note)


def encode_picture(picture: Image.Image, note: str | None = None) -> bytes:
    """A picture as PNG."""
    return _encode(picture, note)


def _encode(image: Image.Image, note: str | None) -> bytes:
    info = PngInfo()
    if note is not None:
        info.add_text(_KEY, note)
    buffer = io.BytesIO()
    image.save(buffer, 'PNG', pnginfo=info)
    return buffer.getvalue()


def read_note(path: str | os.PathLike) -> str | None:
    """Read the note of a PNG without decoding it.

    Returns:
        The note; None if the file is missing, is not whole, or has none.
    """
    try:
        with open(path, 'rb') as file:
            if file.read(len(_SIGNATURE)) != _SIGNATURE:
                return None
            file.seek(-len(_END), os.SEEK_END)
            if file.read() != _END:
                return None
            file.seek(len(_SIGNATURE))
            while len(head := file.read(8)) == 8:
                length, kind = struct.unpack('>I4s', head)
                if kind == b'IDAT':  # notes stand before the pixels
                    return None
                if kind == b'tEXt':
                    key, _, text = file.read(length).partition(b'\0')
                    if key.decode('latin-1') == _KEY:
                        return text.decode('latin-1')
                    length = 0
                file.seek(length + _CHECKSUM_BYTES, os.SEEK_CUR)
    except OSError:
        pass
    return None
