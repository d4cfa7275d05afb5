"""The toy world as a data set."""

from .. import compat  # noqa: F401  before mmseg

# isort: split
from collections.abc import Sequence

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ..datasets.checked import CheckedDatasetMixin
from ..vocabulary import palette_of
from .vocabulary import vocabulary_of


@DATASETS.register_module()
class ToyWorldDataset(CheckedDatasetMixin, BaseSegDataset):
    """Scenes of coloured shapes on textured ground, from ``tools/toyworld/make_scenes.py``.

    Args:
        vocabulary: Names of the ids in the label files: ``'seen'`` (42 names with masks in
            training; for ``annotations/train``), ``'all'`` (72; for ``annotations/val``) or
            ``'large'`` (174, with synonyms; the first 72 are those of 'all', the others never
            occur).
        metainfo: As in ``BaseSegDataset``; ``classes`` selects from the vocabulary.
        img_suffix: As in ``BaseSegDataset``.
        kwargs: Other arguments of ``BaseSegDataset``.
    """

    def __init__(
        self,
        *,
        vocabulary: str = 'all',
        metainfo: dict | None = None,
        img_suffix: str = '.png',
        **kwargs,
    ) -> None:
        self.vocabulary = vocabulary
        names = vocabulary_of(vocabulary)
        metainfo = dict(dict(classes=names, palette=palette_of(names)), **(metainfo or {}))
        super().__init__(metainfo=metainfo, img_suffix=img_suffix, **kwargs)

    @property
    def prepare_hint(self) -> str:
        return f'run `python tools/toyworld/make_scenes.py --out {self.data_root}`'

    @property
    def file_classes(self) -> Sequence[str]:
        return vocabulary_of(self.vocabulary)

    @property
    def file_palette(self) -> Sequence[Sequence[int]]:
        return palette_of(self.file_classes)
