"""Atomic writes, checked images, and lossless label maps.

Shapes: H x W pixels.
"""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .errors import ESCNetError

SIXTEEN_BIT_MODES = ('I', 'I;16', 'I;16L', 'I;16B', 'I;16N')  # of Pillow
_PNG_BITS = 24  # the byte of a PNG with its bits per sample
_NOTE = 'mmseg_escnet'  # the key of our text in a PNG
_CHUNK = 1 << 20
_JPEG_START, _JPEG_SCAN, _JPEG_END = b'\xff\xd8\xff', b'\xff\xda', b'\xff\xd9'


def write_file(path: str | os.PathLike, content: bytes, *, sync: bool = False) -> None:
    """Write a file atomically, even if the process is killed; folders are created.

    Args:
        path: The file, replaced if it exists.
        content: Its content.
        sync: Wait until it is on disk, so that it is also atomic if the power fails.

    Raises:
        ESCNetError: If it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f'.{uuid.uuid4().hex}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, 'wb') as file:
                file.write(content)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ESCNetError(
            f'{path} cannot be written ({error.strerror or error}): check the folder, its '
            'permissions and the free space on the disk.'
        ) from error


def check_suffix(path: str | os.PathLike, suffixes: Sequence[str]) -> None:
    """Check the suffix of a file to be written.

    Raises:
        ESCNetError: If it is none of the given ones, case-insensitive.
    """
    if Path(path).suffix.lower() not in suffixes:
        raise ESCNetError(f'{path} must end in {" or ".join(suffixes)}.')


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def is_cut_short(content: bytes) -> bool:
    """Whether a file is a truncated JPEG, which OpenCV before 5.0 silently fills with grey.

    That is one whose last scan is not followed by an end mark.
    """
    if not content.startswith(_JPEG_START):
        return False
    return content.find(_JPEG_END, max(content.rfind(_JPEG_SCAN), 0)) < 0


def decode_image(
    content: bytes, where: str, *, color_type: str = 'color', backend: str | None = None
) -> np.ndarray:
    """Decode an image with mmcv, but refuse truncated ones.

    Args:
        content: The bytes of the file.
        where: Its name in messages: 'Image a.jpg'.
        color_type: ``flag`` of ``mmcv.imfrombytes``.
        backend: ``backend`` of ``mmcv.imfrombytes``.

    Returns:
        (H, W, 3) uint8 in BGR order, with ``color_type='color'``.

    Raises:
        ESCNetError: If it is empty, damaged, truncated or not an image.
    """
    import mmcv  # slow to import, and not needed by converters

    why, cause = 'it is damaged, or not an image of a supported format', None
    if not content:
        why = 'it is empty'
    elif is_cut_short(content):
        why = 'its end is missing'
    else:
        try:
            image = mmcv.imfrombytes(content, flag=color_type, backend=backend)
        except Exception as error:  # every backend has its own exceptions
            why, cause = str(error), error
        else:
            if image is not None:
                return image
    raise undecodable(where, why) from cause


def undecodable(where: str, why: str) -> ESCNetError:
    """The error for an image that cannot be decoded."""
    return ESCNetError(
        f'{where} cannot be decoded ({why}): check that it opens in another program; if not, '
        'replace or remove it.'
    )


def decode_label_map(content: bytes, file: str) -> np.ndarray:
    """Decode a single-channel label map; of a palette image, the indices.

    Args:
        content: The bytes of the file: a grey PNG of 8 or 16 bits, or a palette PNG (or
            another lossless format of one channel that Pillow reads).
        file: Name of the file, for messages.

    Returns:
        Ids, (height, width), uint8, or uint16 if the file has 16 bits.

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
            'damaged or incomplete, so create or download it again.'
        ) from error
    if file_format in ('JPEG', 'MPO', 'WEBP'):
        raise ESCNetError(
            f'Label map {file} is a {file_format} file, whose lossy compression changes ids: '
            'save label maps as PNG.'
        )
    if mode in SIXTEEN_BIT_MODES:
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
    if mode == 'L' and file_format == 'PNG' and content[_PNG_BITS] < 8:
        # decoders scale them to 0..255: id 1 of 4 bits would silently become 17
        raise ESCNetError(
            f'Label map {file} is a grey PNG of {content[_PNG_BITS]} bits, which decoders scale to '
            '0..255: save it with 8 bits.'
        )
    return ids


def read_label_map(path: str | os.PathLike) -> np.ndarray:
    """Like :func:`decode_label_map`, for a local file."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ESCNetError(
            f'Label map {path} cannot be read ({error.strerror or error}): check the path and its '
            'permissions.'
        ) from error
    return decode_label_map(content, str(path))


def encode_label_map(ids: np.ndarray, note: str | None = None) -> bytes:
    """Encode ids as a grey PNG of 8 or 16 bits.

    Args:
        ids: (H, W), uint8 or uint16.
        note: A text for :func:`read_note`.

    Raises:
        TypeError: If the array has another type: a cast could wrap ids around.
    """
    if ids.dtype not in (np.uint8, np.uint16) or ids.ndim != 2:
        raise TypeError(f'label maps are 2-D uint8 or uint16, not {ids.ndim}-D {ids.dtype}')
    return encode_png(Image.fromarray(np.ascontiguousarray(ids)), note)


def encode_scores(scores: np.ndarray, note: str | None = None) -> bytes:
    """Encode probabilities (H, W) as a grey PNG of 16 bits: 65535 is 1."""
    return encode_label_map((scores * 65535).round().astype(np.uint16), note)


def encode_png(image: Image.Image, note: str | None = None) -> bytes:
    """Encode an image as PNG, with a text for :func:`read_note`."""
    info = PngInfo()
    if note is not None:
        info.add_text(_NOTE, note)
    buffer = io.BytesIO()
    image.save(buffer, 'PNG', pnginfo=info)
    return buffer.getvalue()


def read_note(path: str | os.PathLike) -> str | None:
    """The note in a PNG, read without decoding it; None if the file is missing or has none."""
    try:
        with Image.open(path) as image:
            return image.info.get(_NOTE)
    except (OSError, SyntaxError, ValueError):
        return None


def png_header(path: str | os.PathLike) -> tuple[int, int, int] | None:
    """Size of a PNG label map, read without decoding it.

    Returns:
        (height, width, bits per sample); None if it is missing or not a PNG of one channel.
    """
    try:
        with Image.open(path) as image:
            if image.format != 'PNG' or image.mode not in ('L', 'P', *SIXTEEN_BIT_MODES):
                return None
            bits = 16 if image.mode in SIXTEEN_BIT_MODES else 8
            return image.height, image.width, bits
    except (OSError, SyntaxError, ValueError):
        return None
