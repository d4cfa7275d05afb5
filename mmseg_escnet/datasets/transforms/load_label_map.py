"""Loading label maps of any width, checked."""

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmseg.registry import TRANSFORMS

from ...errors import ESCNetError, first_few
from ...files import decode_label_map

_DEFAULT_IGNORE_INDEX = 255


@TRANSFORMS.register_module()
class LoadLabelMap(BaseTransform):
    """MMSegmentation's ``LoadAnnotations`` without the cast to uint8, and with checks.

    MMSegmentation casts label maps to uint8, so that id 300 becomes 44 and nobody is told. This
    transform reads 8 and 16 bits and palette images as they are. Ids are stored as uint8 or, if
    the file or the ignore index is wider, as uint16: the two integer types that every later
    transform (OpenCV's resize among them) keeps exactly; ``PackSegInputs`` makes them int64.

    Required keys: ``seg_map_path``; ``reduce_zero_label``, ``label_map``, ``num_classes``,
    ``ignore_index`` and ``ori_shape`` are used where present. Without ``seg_map_path`` (a picture
    to segment, not to score) the transform does nothing. Added keys: ``gt_seg_map`` (height,
    width), and its name in ``seg_fields``.

    Args:
        ignore_index: Id of pixels without a class, in the file and afterwards. By default the
            data set's own, and 255 if it does not tell.
        backend_args: Arguments of the MMEngine file back end.
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
            ESCNetError: If the file cannot be read or is no map of ids, if its size is not the
                image's, or if it holds an id that is neither a class nor ``ignore_index``.
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
        """The ids of a file as they are, (height, width), uint8 or uint16.

        Raises:
            ESCNetError: If the file cannot be read or is no map of ids.
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
            'the image may have been turned by its EXIF tag after the label was drawn'
            if ids.shape == (width, height)
            else 'they may belong to different versions of the picture'
        )
        raise ESCNetError(
            f'Label map {path} is {ids.shape[1]}x{ids.shape[0]} pixels but its image '
            f'{results.get("img_path", "")} is {width}x{height} ({why}): make both the same size.'
        )

    def _to_class_ids(self, ids: np.ndarray, path: str, results: dict) -> np.ndarray:
        ignore_index = self._resolve_ignore_index(results)
        shift = 1 if results.get('reduce_zero_label') else 0
        label_map = results.get('label_map') or {}
        num_classes = results.get('num_classes')

        # Few ids occur in one file: map those, then the pixels by one table look-up.
        present = np.flatnonzero(np.bincount(ids.ravel(), minlength=1))
        targets = np.empty(len(present), np.int64)
        for i, file_id in enumerate(present.tolist()):
            if file_id == ignore_index or file_id < shift:
                targets[i] = ignore_index
            else:
                targets[i] = label_map.get(file_id - shift, file_id - shift)
        if num_classes is not None:
            outside = present[(targets >= num_classes) & (targets != ignore_index)]
            if len(outside):
                self._raise_outside(outside, path, results, ignore_index)
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

    @staticmethod
    def _raise_outside(outside: np.ndarray, path: str, results: dict, ignore_index: int) -> None:
        shift = 1 if results.get('reduce_zero_label') else 0
        num_file_ids = len(results.get('label_map') or range(results['num_classes']))
        raise ESCNetError(
            f'Label map {path} holds id {first_few(outside)}, but the data set has classes {shift} '
            f'to {num_file_ids - 1 + shift} and ignores {ignore_index}: check reduce_zero_label '
            'and ignore_index, or run the converter of the data set again.'
        )

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(ignore_index={self.ignore_index}, '
            f'backend_args={self.backend_args})'
        )
