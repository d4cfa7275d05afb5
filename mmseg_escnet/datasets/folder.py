"""Custom data: a folder of images, a folder of label maps and a file of names."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Sequence

from .. import compat  # noqa: F401  before mmseg

# isort: split

from mmengine import fileio
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ..class_files import read_classes
from ..errors import ESCNetError
from ..image_files import IMAGE_SUFFIXES
from ..vocabulary import Vocabulary
from .checked import CheckedDatasetMixin


class _AnyImageSuffix(BaseSegDataset):
    """``BaseSegDataset`` whose images may have different suffixes."""

    def load_data_list(self) -> list[dict]:
        image_dir = self.data_prefix['img_path']
        label_dir = self.data_prefix.get('seg_map_path')
        by_stem: dict[str, str] = {}
        for name in sorted(self._files('image', image_dir, self.img_suffix)):
            stem = osp.splitext(name)[0]
            if stem in by_stem:
                raise ESCNetError(
                    f'{by_stem[stem]} and {name} in {self._path(image_dir)} share the label map '
                    f'{stem}{self.seg_map_suffix}: rename one of them.'
                )
            by_stem[stem] = name
        stems = list(by_stem)
        if self.ann_file:
            lines = fileio.get_text(self.ann_file, backend_args=self.backend_args).splitlines()
            stems = [line.strip() for line in lines if line.strip()]
        data_list = []
        for stem in stems:
            info = dict(
                img_path=osp.join(image_dir, by_stem.get(stem, stem)),
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
            )
            if label_dir is not None:
                info['seg_map_path'] = osp.join(label_dir, stem + self.seg_map_suffix)
            data_list.append(info)
        return data_list


@DATASETS.register_module()
class FolderDataset(CheckedDatasetMixin, _AnyImageSuffix):
    """Images, label maps of the same names, and the names of the classes (ours).

    ::

        data/mine/
            names.txt            dog
            images/train/a.jpg   cat | kitten
            labels/train/a.png   ...

    Line i of the names, from 0, is id i in the label maps: grey PNGs of 8 or 16 bits, or palette
    PNGs; never colours. Pixels of ``ignore_index`` (255) have no class. The names, with synonyms
    between bars, are the words for training and evaluation. Phrases that replace a name
    (``boat: a small boat``) are in ``metainfo['phrases']``, by name.

    Args:
        names: The file of names, below ``data_root`` (see :func:`.class_files.read_classes`), or a
            list of names.
        metainfo: As in ``BaseSegDataset``; ``classes`` selects some of the names.
        img_suffix: One or several suffixes of images, case-insensitive.
        kwargs: Other arguments of ``BaseSegDataset``. ``ann_file`` lists images without suffix;
            use ``ignore_index=65535`` if 255 is a class.

    Raises:
        ESCNetError: If a folder or the file of names is missing or invalid.
    """

    any_case = True
    prepare_hint = (
        'see docs/own_data.md for the layout of images, label maps and names, or correct data_root '
        'or data_prefix'
    )

    def __init__(
        self,
        *,
        names: str | os.PathLike | Sequence[str],
        metainfo: dict | None = None,
        img_suffix: str | Sequence[str] = IMAGE_SUFFIXES,
        **kwargs,
    ) -> None:
        phrases = {}
        if isinstance(names, (str, os.PathLike)):
            phrases = read_classes(osp.join(kwargs.get('data_root') or '', names))
            names = list(phrases)
        self.vocabulary = Vocabulary.create(names, phrases=phrases)
        metainfo = self.vocabulary.dataset_meta | dict(phrases=phrases) | (metainfo or {})
        suffixes = [img_suffix] if isinstance(img_suffix, str) else img_suffix
        lower = tuple(sorted(map(str.lower, suffixes)))
        super().__init__(metainfo=metainfo, img_suffix=lower, **kwargs)

    @property
    def file_classes(self) -> Sequence[str]:
        return self.vocabulary.names

    @property
    def file_palette(self) -> Sequence[Sequence[int]]:
        return self.vocabulary.dataset_meta['palette']
