"""Atomic writes, checked images, and lossless label maps.

Shapes: H x W pixels.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import uuid
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from .errors import ESCNetError

SIXTEEN_BIT_MODES = ('I', 'I;16', 'I;16L', 'I;16B', 'I;16N')  # of Pillow
_PNG_BITS = 24  # the byte of a PNG with its bits per sample
_NOTE = 'mmseg_escnet'  # the key of our text in a PNG
_CHUNK = 1 << 20
# of Pillow, whose others start programs (EPS), match any bytes (TGA) or are not for photographs;
# an older Pillow lacks AVIF, and HEIF is a plugin
_FORMATS = ['AVIF', 'BMP', 'GIF', 'HEIF', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM', 'TIFF', 'WEBP']
_JPEG_START, _JPEG_END = b'\xff\xd8\xff', b'\xd9'
# none of the bytes in a scan: stuffed ones (FF 00) and restart marks (FF D0 to FF D7)
_JPEG_MARK = re.compile(rb'\xff+([\xc0-\xcf\xd8-\xfe])')


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
    """Whether a file is a truncated JPEG, of which decoders may fill the rest with grey.

    That is one without an end mark. Segments are followed, so marks inside them (of thumbnails)
    and behind the first end mark (of what phones append) do not count.
    """
    if not content.startswith(_JPEG_START):
        return False
    place = 2
    while mark := _JPEG_MARK.search(content, place):
        if mark[1] == _JPEG_END:
            return False
        length = content[mark.end() : mark.end() + 2] if mark[1] != _JPEG_START[1:2] else b''
        place = mark.end() + int.from_bytes(length, 'big')
    return True


def is_corrupt_png(content: bytes) -> bool:
    """Whether a PNG's pixels have another checksum: decoders do not compare that of the last."""
    place = 8 if content.startswith(b'\x89PNG') else len(content)
    while (kind := content[place + 4 : place + 8]) not in (b'', b'IEND'):
        end = place + 8 + int.from_bytes(content[place : place + 4], 'big')
        checksum = zlib.crc32(content[place + 4 : end]).to_bytes(4, 'big')
        if kind == b'IDAT' and checksum != content[end : end + 4]:
            return True
        place = end + 4
    return False


def decode_image(
    content: bytes,
    where: str,
    *,
    upright: bool = True,
    check_size: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Decode an image with Pillow, but refuse truncated ones.

    Args:
        content: The bytes of the file; of an animation, the first frame is read.
        where: Its name in messages: 'Image a.jpg'.
        upright: Apply the EXIF orientation.
        check_size: Called with height and width before anything is decoded.

    Returns:
        (H, W, 3) uint8 in BGR order, see :func:`to_bgr`.

    Raises:
        ESCNetError: If it is empty, damaged, truncated, too large or not an image.
    """
    if not content:
        raise undecodable(where, 'it is empty')
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=formats)
    except Image.DecompressionBombError as error:
        raise ESCNetError(
            f'{where} has over {2 * Image.MAX_IMAGE_PIXELS} pixels, the limit of Pillow: cut it '
            'into smaller images.'
        ) from error
    except Exception as error:  # every format has exceptions of its own
        why = 'it is damaged or not an image of a supported format'
        raise undecodable(where, why) from error
    with image:
        if check_size is not None:
            check_size(image.height, image.width)
        if is_cut_short(content):
            raise undecodable(where, 'its end is missing')
        if is_corrupt_png(content):
            raise undecodable(where, 'its checksum differs')
        return to_bgr(image, where, upright=upright)


def to_bgr(image: Image.Image, where: str, *, upright: bool = True) -> np.ndarray:
    """The pixels of an image in any mode.

    Transparency is dropped: transparent pixels keep the colour that the file has for them. Of 16
    bits the upper 8 remain.

    Args:
        image: The image.
        where: Its name in messages: 'Image a.jpg'.
        upright: Apply the EXIF orientation.

    Returns:
        (H, W, 3) uint8 in BGR order.

    Raises:
        ESCNetError: If it cannot be decoded, or its pixels have no 8 or 16 bits.
    """
    try:
        if upright and _is_rotated(image):
            image = ImageOps.exif_transpose(image)
        if image.mode in SIXTEEN_BIT_MODES:
            grey = np.array(image)
            if grey.min() < 0 or grey.max() > 65535:
                raise ESCNetError(
                    f'{where} has values from {grey.min()} to {grey.max()}: convert it to 8 or 16 '
                    'bits first.'
                )
            image = Image.fromarray((grey >> 8).astype(np.uint8))
        elif image.mode == 'F':
            raise ESCNetError(f'{where} has floating point pixels: convert it to 8 bits first.')
        elif image.mode in ('LA', 'PA', 'La') or 'transparency' in image.info:
            image = image.convert('RGBA')  # keeps the colours of transparent pixels
        if image.mode != 'RGB':
            image = image.convert('RGB')
        pixels = image.tobytes('raw', 'BGR')
    except ESCNetError:
        raise
    except Exception as error:  # every format has exceptions of its own
        raise undecodable(where, str(error)) from error
    return np.frombuffer(pixels, np.uint8).reshape(image.height, image.width, 3).copy()


def _is_rotated(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # damaged EXIF data do not damage the picture
        return False


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
        if is_corrupt_png(content):
            raise ValueError('its checksum differs')
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            file_format, mode, ids = image.format, image.mode, np.array(image)
            num_channels, compression = len(image.getbands()), image.info.get('compression')
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ESCNetError(
            f'Label map {file} cannot be decoded ({error or type(error).__name__}): the file is '
            'damaged or incomplete, so create or download it again.'
        ) from error
    if file_format in ('JPEG', 'JPEG2000', 'MPO', 'WEBP') or compression == 'jpeg':
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
            'so convert its colours to ids first, with `mmseg-escnet convert colours`.'
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
    return decode_label_map(read_label_file(path), str(path))


def read_label_file(path: str | os.PathLike) -> bytes:
    """The content of a label map.

    Raises:
        ESCNetError: If it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ESCNetError(
            f'Label map {path} cannot be read ({error.strerror or error}): check the path and its '
            'permissions.'
        ) from error


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
