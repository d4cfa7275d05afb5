"""Images from files, bytes, Pillow and NumPy, read as a config's pipeline reads its own.

The size of every image is checked before it is decoded.

Shapes: H x W pixels.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
from mmcv.transforms import Compose, LoadAnnotations, LoadImageFromFile
from mmengine.config import Config
from mmseg.registry import TRANSFORMS
from PIL import Image

from ..config import pipeline_steps
from ..datasets.transforms import LoadLabelMap
from ..datasets.transforms.load_image import is_upright
from ..errors import ESCNetError
from ..files import decode_image, to_bgr

MAX_PIXELS = 80_000_000
_BYTES_PER_PIXEL = 8  # the most that a file may have: four channels of 16 bits
_HEADER_BYTES = 16 << 20


def build_pipeline(cfg: Config) -> tuple[LoadImageFromFile, Compose]:
    """Build the pipeline of :func:`.config.pipeline_steps`.

    Returns:
        The transform that loads images; the others, without those that load labels. They take
        ``img``, ``img_shape`` and ``ori_shape``.

    Raises:
        ESCNetError: If there is no such pipeline, or it does not begin with loading an image file.
    """
    transforms = [TRANSFORMS.build(step) for step in pipeline_steps(cfg)]
    loaders = [step for step in transforms if isinstance(step, LoadImageFromFile)]
    if len(loaders) != 1 or transforms[0] is not loaders[0]:
        raise ESCNetError(
            'The test pipeline of the config does not begin with LoadImage: make it the first '
            'step, once.'
        )
    labels = LoadLabelMap, LoadAnnotations
    return loaders[0], Compose([step for step in transforms[1:] if not isinstance(step, labels)])


class ImageReader:
    """Reads images as a config's pipeline does.

    Args:
        loader: The pipeline's transform that loads images, which says whether the EXIF
            orientation is applied.
        max_pixels: Larger images are refused before they are decoded. Pillow's own limit (twice
            ``PIL.Image.MAX_IMAGE_PIXELS``) applies as well.
    """

    def __init__(self, loader: LoadImageFromFile, *, max_pixels: int = MAX_PIXELS) -> None:
        self.upright = is_upright(loader)
        self.max_pixels = max_pixels

    def read(self, image: object, where: str) -> np.ndarray:
        """Read one image.

        Args:
            image: A path; the bytes of a file; a Pillow image; or an array (H, W, 3) in RGB,
                (H, W, 4) in RGBA or (H, W) in grey, of uint8 or uint16. Transparency is dropped.
            where: Name of the image in messages: 'Image a.jpg'.

        Returns:
            (H, W, 3) uint8 in BGR order, as in the pipelines of OpenMMLab.

        Raises:
            ESCNetError: If it cannot be read, is damaged, too large or not an image.
        """
        if isinstance(image, np.ndarray):
            pixels = self._from_array(image, where)
        elif isinstance(image, Image.Image):
            pixels = self._from_pillow(image, where)
        elif isinstance(image, (bytes, bytearray, memoryview)):
            pixels = self._decode(bytes(image), where)
        elif isinstance(image, (str, os.PathLike)):
            pixels = self._decode(self._read_file(image, where), where)
        else:
            raise ESCNetError(
                f'{where} is a {type(image).__name__}: give a path, the bytes of a file, a Pillow '
                'image or a NumPy array in RGB order.'
            )
        return np.ascontiguousarray(pixels)

    def _read_file(self, path: str | os.PathLike, where: str) -> bytes:
        if os.path.isfile(path):
            self._check_bytes(os.path.getsize(path), where)
        elif os.path.exists(path):
            raise ESCNetError(f'{where} is not a regular file: give a file, or a single folder.')
        try:
            return Path(path).read_bytes()
        except (OSError, ValueError) as error:
            raise ESCNetError(
                f'{where} cannot be read ({getattr(error, "strerror", None) or error}): check the '
                'path and its permissions.'
            ) from error

    def _decode(self, content: bytes, where: str) -> np.ndarray:
        self._check_bytes(len(content), where)
        return decode_image(
            content,
            where,
            upright=self.upright,
            check_size=partial(self._check_size, where=where),
        )

    def _from_pillow(self, image: Image.Image, where: str) -> np.ndarray:
        self._check_size(image.height, image.width, where)
        return to_bgr(image, where, upright=self.upright)

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
            f'{where} has {size}, and images of up to {self.max_pixels} pixels are accepted: make '
            'it smaller, or raise max_pixels.'
        )
