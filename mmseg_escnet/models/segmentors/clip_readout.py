"""CLIP alone: what there is to compare with, and to use, before anything is trained."""

from __future__ import annotations

from typing import Literal

from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor

from ...errors import ESCNetError
from .open_vocab_segmentor import OpenVocabSegmentor, correlate


@MODELS.register_module()
class CLIPReadout(OpenVocabSegmentor):
    """CLIP without ESC blocks: its logits are the correlation C_0 times its logit scale.

    What the first ESC block reads, from the same backbone, text encoder and words, by the same
    protocol. Published figures of such read-outs are a check of all that lies between a file of
    weights and an mIoU (docs/evaluation.md). How the last block of CLIP is read out is said by
    ``backbone.readout``.

    Args:
        **kwargs: As for :class:`.OpenVocabSegmentor`.

    Raises:
        ESCNetError: If a setting is not usable.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        if self.test_cfg.get('shortlist'):
            raise ESCNetError(
                'test_cfg.shortlist drops classes before the ESC blocks, which CLIPReadout does '
                'not have: set it to None.'
            )

    def init_weights(self) -> None:
        """Load CLIP's weights: see :meth:`.OpenCLIPBackbone.load_pretrained`."""
        self.backbone.load_pretrained()

    def logits(
        self, images: Tensor, text: Tensor, *, class_chunk: int | Literal['auto', 'all'] = 'auto'
    ) -> Tensor:
        """Logits (B, N, h, w): see :meth:`.OpenVocabSegmentor.logits`."""
        correlation = correlate(self._clip_features(images).image, text)
        return correlation * self.backbone.logit_scale

    def loss(self, inputs: Tensor, data_samples: SampleList) -> dict[str, Tensor]:
        """There is none.

        Raises:
            ESCNetError: Always.
        """
        raise ESCNetError('CLIPReadout has nothing to train: take a config of ESC-Net.')
