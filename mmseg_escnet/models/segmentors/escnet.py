"""The ESC-Net segmentor.

Shapes: B images, N classes, H x W pixels, h x w patch grid, D CLIP joint width.
"""

from __future__ import annotations

from typing import Literal

import torch
from mmseg.registry import MODELS
from torch import Tensor
from torch.profiler import record_function

from ...errors import ESCNetError
from ...vocabulary import Vocabulary
from ..backbones import DenseFeatures
from ..necks.esc_neck import ESCFeatures
from ..text_encoders.open_clip_text import OpenCLIPTextEncoder
from .open_vocab_segmentor import OpenVocabSegmentor, correlate
from .shortlist import HOPELESS, Shortlist

_OF_VERSION_0_1 = '.fusion.window_attention.'  # occurs in the keys of its checkpoints


@MODELS.register_module()
class ESCNet(OpenVocabSegmentor):
    """ESC-Net: open-vocabulary semantic segmentation (Lee et al., CVPR 2025, arXiv 2411.14723).

    ::

        images ------> backbone (CLIP image tower) --> F_v, skips
        vocabulary --> text_encoder (CLIP text tower) --> F_l
        C_0 = cosine(F_v, F_l)
        C_0, F_v, F_l --> neck: T x [PPG -> SAM block -> VLF] --> E_T
        E_T, skips --> decode_head --> logits (B, N, 4h, 4w) --bilinear--> (B, N, H, W)

    Args:
        neck: Config of the ESC blocks.
        decode_head: Config of the decoder and loss.
        class_chunk: Number of classes that pass through the network at a time, which bounds memory;
            'auto' chooses what fits a CPU's cache or a GPU's free memory. Results do not depend on
            it.
        **kwargs: See :class:`.OpenVocabSegmentor`: ``backbone``, ``text_encoder``, ``test_cfg``.

    Raises:
        ESCNetError: If an argument is invalid.
    """

    def __init__(
        self,
        *,
        neck: dict,
        decode_head: dict,
        class_chunk: int | Literal['auto'] = 'auto',
        **kwargs,
    ) -> None:
        if class_chunk != 'auto' and not (isinstance(class_chunk, int) and class_chunk >= 1):
            raise ESCNetError(
                f"ESCNet: class_chunk={class_chunk!r} must be 'auto' or an integer of at least 1."
            )
        super().__init__(**kwargs)
        self._check_synonyms(self.text_encoder)
        self.neck = MODELS.build(neck, default_args=dict(image_dims=self.backbone.embed_dims))
        self.decode_head = MODELS.build(
            decode_head,
            default_args=dict(in_channels=self.neck.embed_dims, skip_dims=self.backbone.skip_dims),
        )
        self.align_corners = self.decode_head.align_corners
        self.class_chunk = class_chunk

    def set_vocabulary(self, *args, **kwargs) -> None:
        """See :meth:`.OpenVocabSegmentor.set_vocabulary`; the decode head follows."""
        super().set_vocabulary(*args, **kwargs)
        self.decode_head.num_classes = self.decode_head.out_channels = self.num_classes

    def embed(self, vocabulary: Vocabulary, encoder: OpenCLIPTextEncoder | None = None) -> Tensor:
        """See :meth:`.OpenVocabSegmentor.embed`.

        Raises:
            ESCNetError: For ``synonyms='max'``, because every class passes the blocks once.
        """
        self._check_synonyms(encoder or self.text_encoder)
        return super().embed(vocabulary, encoder)

    @staticmethod
    def _check_synonyms(encoder: OpenCLIPTextEncoder) -> None:
        if encoder.synonyms == 'max':
            raise ESCNetError(
                "synonyms='max' is defined for CLIP alone, because every class passes the blocks "
                "of ESC-Net once: use 'mean' or 'first'."
            )

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        if any(key.startswith(prefix) and _OF_VERSION_0_1 in key for key in state_dict):
            raise ESCNetError(
                'The checkpoint was made by mmseg_escnet 0.1, whose vision-language fusion and '
                'decoder differ: use it with that version, or train again with this one.'
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def logits(
        self, images: Tensor, text: Tensor, *, class_chunk: int | Literal['auto', 'all'] = 'auto'
    ) -> Tensor:
        """See :meth:`.OpenVocabSegmentor.logits`.

        Args:
            images: (B, 3, H, W) RGB, normalised.
            text: F_l (N, D), unit norm: :meth:`embed`.
            class_chunk: Classes at a time; 'auto' for the model's own setting, 'all' for no chunks.

        Returns:
            (B, N, 4h, 4w).
        """
        return self._decode(self.extract_feat(images, text, class_chunk=class_chunk))

    def extract_feat(self, inputs: Tensor, text: Tensor | None = None, **options) -> ESCFeatures:
        """From images to the input of the decode head.

        Args:
            inputs: (B, 3, H, W) RGB, normalised.
            text: F_l (N, D); by default of the current vocabulary.
            options: Of the neck: ``keep_blocks=True`` to look inside, ``class_chunk``.
        """
        text = self.text_features() if text is None else text
        features = self._clip_features(inputs)
        return self._refine(features, correlate(features.image, text), text, **options)

    def _refine(
        self,
        features: DenseFeatures,
        correlation: Tensor,
        text: Tensor,
        *,
        class_chunk: int | Literal['auto', 'all'] = 'auto',
        **options,
    ) -> ESCFeatures:
        return self.neck(
            features,
            correlation,
            text,
            self.backbone.logit_scale,
            class_chunk=self.class_chunk if class_chunk == 'auto' else class_chunk,
            **options,
        )

    def _decode(self, features: ESCFeatures) -> Tensor:
        with record_function('escnet/decoder'):
            return self.decode_head(features)

    def _logits_in_test(self, images: Tensor, text: Tensor) -> Tensor:
        shortlist = self.test_cfg.get('shortlist')
        return self._logits_of_shortlist(images, text) if shortlist else self.logits(images, text)

    def _logits_of_shortlist(self, images: Tensor, text: Tensor) -> Tensor:
        """Logits (B, N, 4h, 4w) of the shortlisted classes, HOPELESS for the others."""
        shortlist = Shortlist.create(self.test_cfg.shortlist)
        features = self._clip_features(images)
        correlation = correlate(features.image, text)
        logits = None
        for index in range(len(images)):
            one = slice(index, index + 1)
            chosen = shortlist.choose(correlation[index], self.backbone.logit_scale)
            of_image = DenseFeatures(
                image=features.image[one], skips=tuple(skip[one] for skip in features.skips)
            )
            refined = self._refine(
                of_image,
                correlation[one, chosen.ids],
                text[chosen.ids],
                counts=chosen.counts,
                vocabulary=text,
            )
            found = self._decode(refined.first(chosen.num_kept))
            if logits is None:
                size = (*correlation.shape[:2], *found.shape[-2:])
                logits = found.new_full(size, HOPELESS, dtype=torch.float32)
            logits[index, chosen.ids[: chosen.num_kept]] = found[0].float()
        return logits
