"""Opening images and reading their size, as the data set will load them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image

from ..errors import ESCNetError
from ..files import decode_image

_UPRIGHT = (None, 1, 2, 3, 4)  # EXIF orientations that keep height and width


@contextmanager
def open_image(path: Path, what: str = 'Image') -> Iterator[Image.Image]:
    """Open an image with Pillow, to read its header or decode it in the block.

    Raises:
        ESCNetError: If it cannot be read.
    """
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ESCNetError):
            raise
        raise ESCNetError(
            f'{what} {path} cannot be read ({error or type(error).__name__}): it is damaged or '
            'incomplete, so unpack or download it again.'
        ) from error


def image_size(path: Path) -> tuple[int, int]:
    """Size (height, width) of an image as it is loaded: rotated by its EXIF orientation.

    Read from the header, except for a rotated image, which is decoded.

    Raises:
        ESCNetError: If it cannot be read.
    """
    with open_image(path) as image:
        size = image.height, image.width
        rotated = size[0] != size[1] and _orientation(image) not in _UPRIGHT
    return decode_image(path.read_bytes(), f'Image {path}').shape[:2] if rotated else size


def _orientation(image: Image.Image) -> int | None:
    if image.format == 'PNG' and 'exif' not in image.info:
        return None  # Pillow would decode the whole image to look behind it
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises anything on damaged EXIF data
        return 0  # let the decoder tell
