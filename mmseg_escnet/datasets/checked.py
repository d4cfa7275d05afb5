"""Start-up checks that MMSegmentation's data sets lack."""

from __future__ import annotations

import logging
import os.path as osp
from collections.abc import Mapping, Sequence

from mmengine import fileio
from mmengine.logging import print_log

from ..errors import ESCNetError, first_few


class CheckedDatasetMixin:
    """Put before a ``BaseSegDataset``: a missing or incomplete data set is one clear error.

    ``BaseSegDataset`` raises a traceback for a missing folder, loads an empty folder as a data set
    of length zero, and fails in the middle of training for a missing label map. Here these raise an
    :class:`ESCNetError` before training starts, which says how to prepare the data.

    It also supports large label sets: classes left out of ``metainfo['classes']`` map to the data
    set's own ``ignore_index`` (MMSegmentation always uses 255, which may be a class), and each data
    info has ``num_classes`` and ``ignore_index``, so that :class:`LoadLabelMap` can check the ids
    in the files.

    Attributes:
        prepare_hint: How to prepare the data, completing '... does not exist: ' (``'run
            `mmseg-escnet convert ...` '``).
        any_case: Whether suffixes of files are case-insensitive.
        official_counts: Published number of images of each split, by the name of its ``ann_file``
            without suffix, or else of its image folder; for ``tools/check_dataset.py``.
    """

    prepare_hint: str = 'see data/README.md for how data sets are prepared'
    any_case: bool = False
    official_counts: Mapping[str, int] | None = None

    @property
    def file_classes(self) -> Sequence[str] | None:
        """Classes in the order of the ids in the label files; None if unknown."""
        return self.METAINFO.get('classes')

    @property
    def file_palette(self) -> Sequence[Sequence[int]] | None:
        """Colours of :attr:`file_classes`; None if unknown."""
        return self.METAINFO.get('palette')

    def get_label_map(self, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """Map from ids in the files to ids of ``new_classes``.

        Args:
            new_classes: Class names, or None for all.

        Returns:
            File id -> class id, ``ignore_index`` for classes left out; None if nothing changes.

        Raises:
            ESCNetError: If a name is not among the classes of the label files.
        """
        old_classes = self.file_classes
        if new_classes is None or old_classes is None or list(new_classes) == list(old_classes):
            return None
        unknown = [name for name in new_classes if name not in old_classes]
        if unknown:
            raise ESCNetError(
                f'{type(self).__name__} has no labels for {first_few(map(repr, unknown), 3)}: '
                "metainfo['classes'] selects and reorders classes of the label files, while other "
                'words belong in the vocabulary of the model.'
            )
        position = {name: index for index, name in enumerate(new_classes)}
        return {i: position.get(name, self.ignore_index) for i, name in enumerate(old_classes)}

    def _update_palette(self) -> list:
        """Reorder the colours together with ``metainfo['classes']``."""
        palette = self._metainfo.get('palette')
        if self.label_map is None or not palette or list(palette) != list(self.file_palette or ()):
            return super()._update_palette()
        color = dict(zip(self.file_classes, palette, strict=True))
        return [color[name] for name in self._metainfo['classes']]

    def _join_prefix(self) -> None:
        # None means none, as for an override: data_prefix.seg_map_path=None
        self.data_prefix = {
            name: folder for name, folder in self.data_prefix.items() if folder is not None
        }
        super()._join_prefix()

    def load_data_list(self) -> list[dict]:
        """Check folders and files, then list them as the parent class does.

        Raises:
            ESCNetError: If a folder or ``ann_file`` is missing, there are no images or labels, or
                an image has no label map.
        """
        self._check_ignore_index()
        image_dir = self.data_prefix.get('img_path')
        label_dir = self.data_prefix.get('seg_map_path')
        self._check_folder('image', image_dir)
        if label_dir is not None:
            self._check_folder('label', label_dir)
        list_file = f'The list of images {self._path(self.ann_file or "")} (ann_file)'
        if self.ann_file and not fileio.exists(self.ann_file, backend_args=self.backend_args):
            raise self._error(f'{list_file} does not exist')
        listed = bool(self.ann_file) and not osp.isdir(self.ann_file)
        images = self._files('image', image_dir, self.img_suffix)
        data_list = super().load_data_list()
        if not data_list:
            raise self._error(f'{list_file} is empty')
        if listed:
            wanted = {osp.relpath(info['img_path'], image_dir) for info in data_list}
            if missing := wanted - images:
                raise self._error(
                    f'{len(missing)} of {len(wanted)} images listed in '
                    f'{self._path(self.ann_file)} are not in {self._path(image_dir)} '
                    f'({first_few(sorted(missing), 3)})'
                )
        if label_dir is not None:
            self._check_labels(data_list, images, label_dir, listed)

        classes = self._metainfo.get('classes')
        for info in data_list:
            info['ignore_index'] = self.ignore_index
            if classes is not None:
                info['num_classes'] = len(classes)
        return data_list

    def _error(self, what: str) -> ESCNetError:
        return ESCNetError(f'{what}: {self.prepare_hint}.')

    def _check_ignore_index(self) -> None:
        classes = self.file_classes or self._metainfo.get('classes') or ()
        first_id = 1 if self.reduce_zero_label else 0
        if first_id <= self.ignore_index < len(classes) + first_id:
            raise ESCNetError(
                f'{type(self).__name__} has ignore_index={self.ignore_index}, which is the id of '
                f'its class {classes[self.ignore_index - first_id]!r}: use 65535 and label maps of '
                '16 bits.'
            )

    def _check_labels(
        self, data_list: list[dict], images: set[str], label_dir: str, listed: bool
    ) -> None:
        labels = self._files('label', label_dir, self.seg_map_suffix)
        expected = {osp.relpath(info['seg_map_path'], label_dir) for info in data_list}
        if missing := expected - labels:
            raise self._error(
                f'{len(missing)} of {len(expected)} images have no label map in '
                f'{self._path(label_dir)} ({first_few(sorted(missing), 3)})'
            )
        if not listed and (surplus := labels - expected):
            print_log(
                f'{len(surplus)} of {len(labels)} label maps in {self._path(label_dir)} have no '
                f'image in {self._path(self.data_prefix["img_path"])} and are not used '
                f'({first_few(sorted(surplus), 3)}); {len(images)} images were found.',
                logger='current',
                level=logging.WARNING,
            )

    def _check_folder(self, kind: str, folder: str | None) -> None:
        if folder is None:
            raise ESCNetError(
                f'{type(self).__name__} has no {kind} directory: give data_prefix=dict(img_path=...'
                ', seg_map_path=...).'
            )
        if not fileio.isdir(folder, backend_args=self.backend_args):
            raise self._error(f'The {kind} directory {self._path(folder)} does not exist')

    def _files(self, kind: str, folder: str, suffix: str | Sequence[str]) -> set[str]:
        files = fileio.list_dir_or_file(
            dir_path=folder, list_dir=False, recursive=True, backend_args=self.backend_args
        )
        accepted = (suffix,) if isinstance(suffix, str) else tuple(suffix)
        found = {
            name for name in files if (name.lower() if self.any_case else name).endswith(accepted)
        }
        if not found:
            suffixes = ', *'.join(accepted)
            raise self._error(
                f'The {kind} directory {self._path(folder)} contains no file *{suffixes}'
            )
        return found

    def _path(self, path: str) -> str:
        """A local path in full, since a relative one may be misleading."""
        return path if self.backend_args else osp.abspath(path)
