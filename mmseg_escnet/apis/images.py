"""Images from wherever people have them: files, folders, globs, bytes, Pillow, NumPy.

Every one is read as the data sets read theirs, and its size is looked at before it is decoded.

Shapes: H x W pixels.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
from mmcv.transforms import LoadImageFromFile
from PIL import Image, ImageOps

from ..errors import ESCNetError
from ..files import SIXTEEN_BIT_MODES, decode_image, undecodable

MAX_PIXELS = 80_000_000
_BYTES_PER_PIXEL = 8  # the most that a file may have: four channels of 16 bits
_HEADER_BYTES = 16 << 20


class ImageReader:
    """Reads images as a config's pipeline does.

    Args:
        loader: The pipeline's transform that loads images.
        max_pixels: Larger images are refused before they are decoded. Pillow's own limit
            (``PIL.Image.MAX_IMAGE_PIXELS``, of which it allows the double) holds besides.
    """

    def __init__(self, loader: LoadImageFromFile, *, max_pixels: int = MAX_PIXELS) -> None:
        self.loader = loader
        self.max_pixels = max_pixels

    def read(self, image: object, where: str) -> np.ndarray:
        """Read one image.

        Args:
            image: A path; the bytes of a file; a Pillow image; or an array (H, W, 3) in RGB,
                (H, W, 4) in RGBA or (H, W) in grey, of uint8 or uint16. Rotation by an EXIF tag is
                applied; of the transparent parts the colour is taken.
            where: What it is called in messages: 'Image a.jpg'.

        Returns:
            (H, W, 3) uint8 in BGR order, as the pipelines of OpenMMLab have it.

        Raises:
            ESCNetError: If it cannot be read, is damaged, too large or no image.
        """
        if isinstance(image, np.ndarray):
            pixels = self._from_array(image, where)
        elif isinstance(image, Image.Image):
            pixels = self._from_pillow(image, where)
        elif isinstance(image, (bytes, bytearray, memoryview)):
            pixels = self.decode(bytes(image), where)
        elif isinstance(image, (str, os.PathLike)):
            pixels = self.decode(self.read_file(image, where), where)
        else:
            raise ESCNetError(
                f'{where} is a {type(image).__name__}: give a path, the bytes of a file, a Pillow '
                'image or a NumPy array in RGB order.'
            )
        return np.ascontiguousarray(pixels)

    def read_file(self, path: str | os.PathLike, where: str) -> bytes:
        """The bytes of an image file.

        Raises:
            ESCNetError: If it cannot be read, or is larger than any image that would be taken.
        """
        try:
            if os.path.isfile(path):
                self._check_bytes(os.path.getsize(path), where)
            elif os.path.exists(path):
                raise ESCNetError(
                    f'{where} is not a regular file: give a file, or a folder by itself.'
                )
            return Path(path).read_bytes()
        except (OSError, ValueError) as error:
            if isinstance(error, ESCNetError):
                raise
            raise ESCNetError(
                f'{where} cannot be read ({getattr(error, "strerror", None) or error}): check the '
                'path and its permissions.'
            ) from error

    def decode(self, content: bytes, where: str) -> np.ndarray:
        """Decode the bytes of an image file, see :meth:`read`."""
        if not content:
            raise undecodable(where, 'it is empty')
        self._check_bytes(len(content), where)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(content)) as header:
                    width, height = header.size
        except Image.DecompressionBombError as error:
            raise self._too_large(
                where, f'more than {2 * Image.MAX_IMAGE_PIXELS} pixels'
            ) from error
        except Exception as error:  # every format has exceptions of its own
            raise undecodable(where, 'it is damaged or not an image') from error
        self._check_size(height, width, where)
        return decode_image(
            content,
            where,
            color_type=self.loader.color_type,
            backend=self.loader.imdecode_backend,
        )

    def _from_pillow(self, image: Image.Image, where: str) -> np.ndarray:
        self._check_size(image.height, image.width, where)
        try:
            image = ImageOps.exif_transpose(image)
            if image.mode in SIXTEEN_BIT_MODES:
                return self._from_array(np.array(image).clip(0, 65535).astype(np.uint16), where)
            if image.mode == 'F':
                raise ESCNetError(f'{where} has floating point pixels: convert it to 8 bits first.')
            if image.mode in ('LA', 'PA', 'La') or 'transparency' in image.info:
                image = image.convert('RGBA')  # the colours below what is transparent
            return np.array(image.convert('RGB'))[..., ::-1]
        except (OSError, SyntaxError, ValueError) as error:
            if isinstance(error, ESCNetError):
                raise
            raise undecodable(where, str(error)) from error

    def _from_array(self, image: np.ndarray, where: str) -> np.ndarray:
        shape, kind = image.shape, image.dtype
        channels = shape[2] if image.ndim == 3 else 1
        if image.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in shape:
            raise ESCNetError(
                f'{where} is an array of shape {shape}: give (height, width, 3) in RGB order, '
                '(height, width, 4) with transparency, or (height, width) in grey.'
            )
        if kind not in (np.uint8, np.uint16):
            raise ESCNetError(
                f'{where} is an array of {kind}: give uint8 from 0 to 255, or uint16.'
            )
        self._check_size(*shape[:2], where)
        if kind == np.uint16:
            image = (image >> 8).astype(np.uint8)  # as OpenCV does
        image = image.reshape(*shape[:2], channels)
        return np.repeat(image, 3, axis=2) if channels == 1 else image[..., 2::-1]

    def _check_size(self, height: int, width: int, where: str) -> None:
        if height * width > self.max_pixels:
            raise self._too_large(where, f'{width}x{height} pixels')

    def _check_bytes(self, size: int, where: str) -> None:
        if size > self.max_pixels * _BYTES_PER_PIXEL + _HEADER_BYTES:
            raise self._too_large(where, f'{size} bytes')

    def _too_large(self, where: str, size: str) -> ESCNetError:
        return ESCNetError(
            f'{where} has {size}, and images of up to {self.max_pixels} pixels are taken: make it '
            'smaller, or raise max_pixels.'
        )
