"""Load images, with a clear error for a file that cannot be read."""

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmseg.registry import TRANSFORMS

from ...errors import ESCNetError
from ...files import decode_image


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """``LoadImageFromFile`` that names an unreadable file and refuses truncated images.

    Whatever the format (grey, palette, RGBA, 16 bits, CMYK, rotated by its EXIF tag), ``img`` is
    (height, width, 3) uint8 in BGR order; alpha is dropped. Arguments and keys are those of
    ``mmcv.transforms.LoadImageFromFile``.
    """

    def transform(self, results: dict) -> dict | None:
        """Load ``results['img_path']``.

        Args:
            results: Data info with ``img_path``.

        Returns:
            ``results`` with ``img`` (height, width, 3), ``img_shape`` and ``ori_shape`` (height,
            width); None if the file is unreadable and ``ignore_empty`` is set.

        Raises:
            ESCNetError: If the file is missing, damaged, truncated or not an image.
        """
        path = results['img_path']
        try:
            image = self._decode(path)
        except ESCNetError:
            if self.ignore_empty:
                return None
            raise
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _decode(self, path: str) -> np.ndarray:
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except OSError as error:
            raise ESCNetError(
                f'Image {path} cannot be read ({error.strerror or error}): check the path and '
                'its permissions.'
            ) from error
        return decode_image(
            content,
            f'Image {path}',
            color_type=self.color_type,
            backend=self.imdecode_backend,
        )
