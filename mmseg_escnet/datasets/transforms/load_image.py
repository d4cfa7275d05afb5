"""Load images, with a clear error for a file that cannot be read."""

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmseg.registry import TRANSFORMS

from ...errors import ESCNetError
from ...files import decode_image

_BACKENDS = ('cv2', 'pillow')  # the default of mmcv, and ours: all formats are read by Pillow
_COLOR_TYPES = ('color', 'color_ignore_orientation')


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """``LoadImageFromFile`` that names an unreadable file and refuses truncated images.

    Whatever the format (grey, palette, RGBA, 16 bits, CMYK, rotated by its EXIF tag), ``img`` is
    (height, width, 3) uint8 in BGR order, as :func:`.files.decode_image` reads it: inference reads
    its images likewise. Keys and other arguments are those of
    ``mmcv.transforms.LoadImageFromFile``.

    Args:
        color_type: 'color'; 'color_ignore_orientation' does not apply the EXIF orientation, for
            labels that were drawn on the image as it is stored.
        imdecode_backend: 'pillow'. 'cv2', the default of mmcv, is accepted and means the same.

    Raises:
        ESCNetError: If one of these has another value.
    """

    def __init__(
        self, *, color_type: str = 'color', imdecode_backend: str = 'pillow', **kwargs
    ) -> None:
        super().__init__(color_type=color_type, imdecode_backend=imdecode_backend, **kwargs)
        for argument, allowed in (('color_type', _COLOR_TYPES), ('imdecode_backend', _BACKENDS)):
            if (value := getattr(self, argument)) not in allowed:
                raise ESCNetError(
                    f'LoadImage has {argument}={value!r}: choose {" or ".join(map(repr, allowed))},'
                    ' or another transform, such as LoadImageFromFile of mmcv.'
                )

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
        return decode_image(content, f'Image {path}', upright=is_upright(self))


def is_upright(loader: LoadImageFromFile) -> bool:
    """Whether a transform that loads images applies the EXIF orientation."""
    return not loader.color_type.endswith('ignore_orientation')
