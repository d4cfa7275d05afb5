"""Loading label maps of any width, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmseg.registry import TRANSFORMS

from ...errors import ESCNetError, first_few
from ...files import decode_label_map

_DEFAULT_IGNORE_INDEX = 255


def to_class_ids(
    file_ids: Iterable[int],
    ignore_index: int,
    reduce_zero_label: bool = False,
    label_map: Mapping[int, int] | None = None,
) -> np.ndarray:
    """Class ids for ids in label files.

    Args:
        file_ids: Ids in the files.
        ignore_index: Id of pixels without a class, before and after.
        reduce_zero_label: Whether 0 means no class and 1 is the first class.
        label_map: Class index in the files -> class id; None if they are the same.

    Returns:
        A class id or ``ignore_index`` for each id, int64; not checked against the classes.
    """
    first, label_map = int(reduce_zero_label), label_map or {}
    targets = (
        ignore_index if i == ignore_index or i < first else label_map.get(i - first, i - first)
        for i in file_ids
    )
    return np.fromiter(targets, np.int64)


@TRANSFORMS.register_module()
class LoadLabelMap(BaseTransform):
    """MMSegmentation's ``LoadAnnotations`` without the cast to uint8, and with checks.

    MMSegmentation casts label maps to uint8, which silently turns id 300 into 44. This transform
    reads 8-bit, 16-bit and palette images unchanged. Ids are stored as uint8 or, if the file or
    ``ignore_index`` needs it, as uint16: the two integer types that all later transforms preserve
    (including OpenCV's resize); ``PackSegInputs`` converts to int64.

    Required keys: ``seg_map_path``; ``reduce_zero_label``, ``label_map``, ``num_classes``,
    ``ignore_index`` and ``ori_shape`` are optional. Without ``seg_map_path`` (inference) the
    transform does nothing. Added keys: ``gt_seg_map`` (height, width), and its name in
    ``seg_fields``.

    Args:
        ignore_index: Id of pixels without a class, in the file and afterwards. By default that of
            the data set, or 255.
        backend_args: Arguments of the MMEngine file backend.
    """

    def __init__(
        self, *, ignore_index: int | None = None, backend_args: dict | None = None
    ) -> None:
        if ignore_index is not None and not 0 <= ignore_index <= 65535:
            raise ESCNetError(
                f'LoadLabelMap got ignore_index={ignore_index}, which no label file can hold: '
                'use 255, or 65535 for more than 255 classes.'
            )
        self.ignore_index = ignore_index
        self.backend_args = backend_args.copy() if backend_args else None

    def transform(self, results: dict) -> dict:
        """Load ``results['seg_map_path']``.

        Args:
            results: Data info, see the class.

        Returns:
            ``results`` with ``gt_seg_map``, (height, width), uint8 or uint16.

        Raises:
            ESCNetError: If the file cannot be read or is not a label map, if its size differs from
                its image's, or if it contains an id that is neither a class nor ``ignore_index``.
        """
        path = results.get('seg_map_path')
        if path is None:
            return results
        ids = self.read(path)
        self._check_size(ids, path, results)
        results['gt_seg_map'] = self._to_class_ids(ids, path, results)
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results

    def read(self, path: str) -> np.ndarray:
        """The ids in a file, unchanged: (height, width), uint8 or uint16.

        Raises:
            ESCNetError: If the file cannot be read or is not a label map.
        """
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except OSError as error:
            raise ESCNetError(
                f'Label map {path} cannot be read ({error.strerror or error}): check the path, or '
                'run the converter of the data set again.'
            ) from error
        return decode_label_map(content, path)

    @staticmethod
    def _check_size(ids: np.ndarray, path: str, results: dict) -> None:
        # ori_shape, not img_shape: in testing the image is resized before labels are loaded.
        expected = results.get('ori_shape')
        if expected is None or ids.shape == tuple(expected[:2]):
            return
        height, width = expected[:2]
        why = (
            'the image may have been rotated by its EXIF tag after the label was drawn'
            if ids.shape == (width, height)
            else 'they may belong to different versions of the image'
        )
        raise ESCNetError(
            f'Label map {path} is {ids.shape[1]}x{ids.shape[0]} pixels but its image '
            f'{results.get("img_path", "")} is {width}x{height} ({why}): make both the same size.'
        )

    def _to_class_ids(self, ids: np.ndarray, path: str, results: dict) -> np.ndarray:
        ignore_index = self._resolve_ignore_index(results)
        first = 1 if results.get('reduce_zero_label') else 0
        label_map, num_classes = results.get('label_map'), results.get('num_classes')
        # Few ids occur in one file: map those, then the pixels by one table look-up.
        present = np.flatnonzero(np.bincount(ids.ravel(), minlength=1))
        targets = to_class_ids(present.tolist(), ignore_index, bool(first), label_map)
        if num_classes is not None:
            outside = present[(targets >= num_classes) & (targets != ignore_index)]
            if len(outside):
                last = len(label_map or range(num_classes)) - 1 + first
                raise ESCNetError(
                    f'Label map {path} holds id {first_few(outside)}, but the data set has '
                    f'classes {first} to {last} and ignores {ignore_index}: check '
                    'reduce_zero_label and ignore_index, or run the converter of the data set '
                    'again.'
                )
        narrow = ids.dtype == np.uint8 and max(ignore_index, targets.max()) <= 255
        dtype = np.uint8 if narrow else np.uint16
        if np.array_equal(present, targets):
            return ids.astype(dtype, copy=False)
        table = np.zeros(int(present[-1]) + 1, dtype)
        table[present] = targets
        return table[ids]

    def _resolve_ignore_index(self, results: dict) -> int:
        of_dataset = results.get('ignore_index')
        if self.ignore_index is None:
            return _DEFAULT_IGNORE_INDEX if of_dataset is None else of_dataset
        if of_dataset is not None and of_dataset != self.ignore_index:
            raise ESCNetError(
                f'LoadLabelMap has ignore_index={self.ignore_index} but the data set of '
                f'{results["seg_map_path"]} has {of_dataset}: set both to the same id.'
            )
        return self.ignore_index

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(ignore_index={self.ignore_index}, '
            f'backend_args={self.backend_args})'
        )
