"""Open-vocabulary segmentation with CLIP, independent of the network.

Shapes: B images, N classes, P phrases, H x W pixels, h x w patch grid, D CLIP joint width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import OptSampleList, SampleList
from torch import Tensor
from torch.profiler import record_function

from ...errors import ESCNetError
from ...vocabulary import Vocabulary
from ..backbones import DenseFeatures
from ..finite import check_scores, check_weights
from ..sparse_rows import to_dense
from ..text_encoders.open_clip_text import OpenCLIPTextEncoder
from ..text_encoders.text_cache import TextCache
from ..weights import check_fit
from .scores import Scores, write_result
from .windows import check_test_cfg, window_inference, window_options


class OpenVocabSegmentor(EncoderDecoder):
    """CLIP's two towers, the words, and the inference protocol; subclasses add the network.

    The words are an argument: :meth:`embed` encodes a vocabulary as F_l; :meth:`logits` and
    :meth:`scores` depend only on images and F_l. MMSegmentation's runner passes only images, so
    :meth:`set_vocabulary` stores the words of the current data set, which
    ``VocabularyHook`` passes on; ``num_classes``, ``out_channels``, ``dataset_meta`` and palette
    follow.

    Args:
        backbone: Config of the CLIP model.
        text_encoder: Config of the text encoder.
        data_preprocessor: Config of MMSegmentation's SegDataPreProcessor.
        train_cfg: Unused; part of MMSegmentation's interface.
        test_cfg: Inference settings: see :func:`.windows.check_test_cfg`.
        pretrained: Must be None; MMSegmentation's ``init_model`` passes it.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ESCNetError: If an argument is invalid.
    """

    align_corners = False

    def __init__(
        self,
        *,
        backbone: dict,
        text_encoder: dict,
        data_preprocessor: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        pretrained: None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if pretrained is not None:
            raise ESCNetError(
                f'{type(self).__name__} does not accept pretrained={pretrained!r}: set '
                'model.backbone.pretrained (CLIP) and model.neck.sam_pretrained (SAM).'
            )
        if isinstance(data_preprocessor, dict):  # like all parts, found without a default scope
            data_preprocessor = MODELS.build(data_preprocessor)
        # skip EncoderDecoder's constructor, which builds the neck before CLIP's widths are known
        super(EncoderDecoder, self).__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        self.text_encoder = MODELS.build(text_encoder)
        self.neck = self.decode_head = None  # part of EncoderDecoder's interface
        self.train_cfg = train_cfg
        self.test_cfg = ConfigDict(dict(mode='whole'), **(test_cfg or {}))
        check_test_cfg(self.test_cfg)
        self._vocabulary: Vocabulary | None = None
        self._text_cache = TextCache()

    # -- vocabulary ------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> Vocabulary:
        """The current vocabulary.

        Raises:
            ESCNetError: If none has been set.
        """
        if self._vocabulary is None:
            raise ESCNetError(
                'The model has no vocabulary yet: call '
                "model.set_vocabulary(['taxi', 'wet road', ...]) first."
            )
        return self._vocabulary

    def set_vocabulary(
        self,
        names: Sequence[str] | Vocabulary,
        palette: Sequence[Sequence[int]] | None = None,
        phrases: Mapping[str, Sequence[str] | None] | None = None,
    ) -> None:
        """Change the vocabulary.

        Args:
            names: N class names, optionally with synonyms; class i of the results is names[i].
            palette: N colours (R, G, B); by default derived from the names.
            phrases: Name -> phrases to encode instead of the name, or None.

        Raises:
            ESCNetError: If the names are not distinct, non-empty strings, one exceeds CLIP's
                context, or two are encoded as one text. The current vocabulary is kept then.
        """
        if not isinstance(names, Vocabulary):
            names = Vocabulary.create(names, palette, phrases)
        self.text_encoder.check(names, self.backbone.clip.context_length)
        self._vocabulary = names
        self.num_classes = self.out_channels = len(names)

    @property
    def dataset_meta(self) -> dict | None:
        """The vocabulary as MMSegmentation's meta information; setting it sets the vocabulary."""
        return None if self._vocabulary is None else self._vocabulary.dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        self.set_vocabulary(meta['classes'], meta.get('palette'), meta.get('phrases'))

    def embed(self, vocabulary: Vocabulary, encoder: OpenCLIPTextEncoder | None = None) -> Tensor:
        """F_l (N, D) of a vocabulary, unit norm; (P, D) of its P phrases for ``synonyms='max'``.

        In training always computed, with a gradient; otherwise only for phrases that are not cached
        (see :class:`.TextCache`).

        Args:
            vocabulary: N class names.
            encoder: To use other templates or synonyms than the model's own.
        """
        encoder, clip = encoder or self.text_encoder, self.backbone.clip
        # in full precision even under autocast: once per vocabulary, and every pixel depends on it
        full_precision = torch.autocast(self.backbone.logit_scale.device.type, enabled=False)
        with record_function('escnet/text'), full_precision:
            if torch.is_grad_enabled() and any(p.requires_grad for p in clip.text.parameters()):
                return encoder(clip, vocabulary)
            return self._text_cache.text_features(encoder, clip, vocabulary)

    def text_features(self) -> Tensor:
        """F_l (N, D) of the current vocabulary."""
        return self.embed(self.vocabulary)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        # called however a checkpoint is loaded, even where a mismatch would only be a warning
        own = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        check_fit(self, own, source='The checkpoint', prefix=prefix)
        own = to_dense(own, source='The checkpoint')
        check_weights(own, source='The checkpoint')
        state_dict.update(own)  # a copy made for loading
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    # -- network ----------------------------------------------------------------------------------

    @abstractmethod
    def logits(
        self, images: Tensor, text: Tensor, *, class_chunk: int | Literal['auto', 'all'] = 'auto'
    ) -> Tensor:
        """The network: images and words in, logits out.

        Args:
            images: (B, 3, H, W) RGB, normalised.
            text: F_l (N, D), unit norm: :meth:`embed`.
            class_chunk: Classes at a time, where the network processes them one by one; 'all' for
                no chunks. The logits do not depend on it.

        Returns:
            (B, N, height, width), of any size.
        """

    def scores(
        self,
        images: Tensor,
        text: Tensor,
        metas: Sequence[dict],
        class_of_phrase: Tensor | None = None,
    ) -> list[Scores]:
        """Scores of images with the protocol of ``test_cfg``, in little memory.

        Args:
            images: (B, 3, H, W) RGB, normalised.
            text: F_l (N, D), unit norm: :meth:`embed`.
            metas: Padding, flip and original size of each of the B images.
            class_of_phrase: If classes have several rows of ``text``:
                :meth:`.OpenCLIPTextEncoder.class_of_phrase`.

        Returns:
            Lazily computed scores at the original size: probabilities in 'windows' mode, otherwise
            logits.
        """
        return [
            of_image.at_original_size(meta, align_corners=self.align_corners)
            for of_image, meta in zip(
                self._view_scores(images, text, class_of_phrase), metas, strict=True
            )
        ]

    def _clip_features(self, images: Tensor) -> DenseFeatures:
        with record_function('escnet/clip'):
            return self.backbone(images)

    def _forward(self, inputs: Tensor, data_samples: OptSampleList = None) -> Tensor:
        """Logits of images (B, 3, H, W) for the current vocabulary."""
        return self.logits(inputs, self.text_features())

    def _logits_for_test(self, images: Tensor, text: Tensor) -> Tensor:
        """Logits with the settings of ``test_cfg``."""
        dtype = self.test_cfg.get('autocast')
        context = nullcontext()
        if dtype is not None:
            context = torch.autocast(images.device.type, dtype=getattr(torch, dtype))
        with context:
            logits = self._logits_in_test(images, text)
            check_scores(logits)
        return logits

    def _logits_in_test(self, images: Tensor, text: Tensor) -> Tensor:
        return self.logits(images, text)

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits (B, N, H, W) of images (B, 3, H, W)."""
        return F.interpolate(
            self._forward(inputs),
            inputs.shape[-2:],
            mode='bilinear',
            align_corners=self.align_corners,
        )

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Scores (B, N, H, W) of images (B, 3, H, W): probabilities in 'windows' mode, or logits.

        Part of MMSegmentation's interface, without a gradient. It stores all scores, 1.4 GB for 847
        classes and 640 x 640 pixels; :meth:`predict` and :meth:`scores` do not.
        """
        return torch.stack([of_image.all() for of_image in self._current_scores(inputs)])

    def test_step(self, data: dict) -> SampleList:
        """As in MMEngine, but images of several sizes in a batch are segmented one by one.

        Args:
            data: ``inputs``, B images (3, H, W) of any sizes, and B ``data_samples``.

        Returns:
            See :meth:`postprocess_result`.
        """
        if len({image.shape for image in data['inputs']}) < 2:
            return super().test_step(data)
        images = zip(data['inputs'], data['data_samples'], strict=True)
        return [
            self.test_step(dict(inputs=[image], data_samples=[sample]))[0]
            for image, sample in images
        ]

    def val_step(self, data: dict) -> SampleList:
        """As :meth:`test_step`."""
        return self.test_step(data)

    def predict(self, inputs: Tensor, data_samples: OptSampleList = None) -> SampleList:
        """Predict label maps at the original size of the images.

        Args:
            inputs: (B, 3, H, W) RGB, normalised.
            data_samples: B samples with the padding, flip and original size of their images.

        Returns:
            See :meth:`postprocess_result`.
        """
        return self._label(self._current_scores(inputs), data_samples)

    def postprocess_result(
        self, seg_logits: Tensor, data_samples: OptSampleList = None
    ) -> SampleList:
        """Resize scores to the original images and choose the best class of every pixel.

        Unlike in MMSegmentation, a vocabulary of one word is not a binary problem.

        Args:
            seg_logits: Scores (B, N, H, W) at the size of the network's input.
            data_samples: B samples with the padding, flip and original size of their images.

        Returns:
            The samples with ``pred_sem_seg`` (1, H0, W0), int64, whose metainfo has
            ``num_classes``; with ``test_cfg.keep_scores`` also ``seg_logits`` (N, H0, W0).
        """
        return self._label([Scores.from_maps(s.float()) for s in seg_logits], data_samples)

    def _current_scores(self, images: Tensor) -> list[Scores]:
        """As :meth:`_view_scores`, for the current vocabulary."""
        classes = self.text_encoder.class_of_phrase(self.vocabulary)
        return self._view_scores(images, self.text_features(), classes)

    @torch.no_grad()
    def _view_scores(
        self, images: Tensor, text: Tensor, class_of_phrase: Tensor | None
    ) -> list[Scores]:
        """Lazily computed scores of B images at the size of the network's input."""
        return window_inference(
            images,
            lambda views: self._logits_for_test(views, text),
            **window_options(self.test_cfg, images),
            align_corners=self.align_corners,
            class_of_phrase=class_of_phrase,
        )

    def _label(self, scores: list[Scores], data_samples: OptSampleList) -> SampleList:
        if data_samples is None:
            data_samples = [SegDataSample() for _ in scores]
        keep_scores = self.test_cfg.get('keep_scores', False)
        for of_image, sample in zip(scores, data_samples, strict=True):
            restored = of_image.at_original_size(sample.metainfo, align_corners=self.align_corners)
            write_result(sample, restored, keep_scores=keep_scores)
        return data_samples


def correlate(image_features: Tensor, text: Tensor) -> Tensor:
    """The correlation C_0: cosines of image and text features (paper, section 3.1).

    Args:
        image_features: Dense CLIP features F_v (B, D, h, w).
        text: F_l (N, D), unit norm.

    Returns:
        (B, N, h, w), in the precision of the text.
    """
    # times a logit scale of 100, half-precision rounding would move pixels across PPG's threshold
    with torch.autocast(image_features.device.type, enabled=False):
        image = F.normalize(image_features.to(text.dtype), dim=1)
        return torch.einsum('bdhw,nd->bnhw', image, text)
